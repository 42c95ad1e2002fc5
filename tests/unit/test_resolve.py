"""Look-ups: late, in threads of their own, and easily left behind."""

from __future__ import annotations

import errno
import gc
import socket
import threading
import time
import weakref
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tcpsock import _threads
from tcpsock._dialing.resolve import Candidate, Lookup, interleave, literal

V4_A = Candidate(socket.AF_INET, ("192.0.2.1", 80))
V4_B = Candidate(socket.AF_INET, ("192.0.2.2", 80))
V4_C = Candidate(socket.AF_INET, ("192.0.2.3", 80))
V6_A = Candidate(socket.AF_INET6, ("2001:db8::1", 80, 0, 0))
V6_B = Candidate(socket.AF_INET6, ("2001:db8::2", 80, 0, 0))

WAIT = 30  # seconds that no test takes, unless it fails


def answer(*candidates: Candidate) -> list[tuple[object, ...]]:
    """What getaddrinfo returns for these."""
    return [(each.family, socket.SOCK_STREAM, 6, "", each.sockaddr) for each in candidates]


def look_up(hostname: str = "db.example", port: int = 80) -> Lookup:
    """A look-up that has been waited for."""
    done = threading.Event()
    lookup = Lookup(hostname, port, done.set)
    assert done.wait(WAIT)
    assert lookup.done
    return lookup


def collected(ref: Callable[[], object]) -> bool:
    """Whether it goes away, once the look-up's thread has left its last lines."""
    begun = time.monotonic()
    while ref() is not None and time.monotonic() - begun < WAIT:
        gc.collect()
        time.sleep(0.001)
    return ref() is None


# Candidates -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("candidate", "address"),
    [
        (V4_A, "192.0.2.1:80"),
        (V6_A, "[2001:db8::1]:80"),
        (Candidate(socket.AF_INET6, ("fe80::1", 80, 0, 2)), "[fe80::1%2]:80"),
    ],
)
def test_O4_an_address_as_it_is_reported(candidate: Candidate, address: str) -> None:
    assert candidate.address == address


@pytest.mark.parametrize(
    ("hostname", "expected"),
    [
        ("192.0.2.1", V4_A),
        ("2001:db8::1", V6_A),
        ("2001:DB8:0::1", V6_A),
        ("::ffff:192.0.2.1", Candidate(socket.AF_INET6, ("::ffff:192.0.2.1", 80, 0, 0))),
        ("fe80::1%3", Candidate(socket.AF_INET6, ("fe80::1", 80, 0, 3))),
        ("\uff11\uff19\uff12.0.2.1", V4_A),
    ],
)
def test_O5_an_ip_address_needs_no_look_up(
    hostname: str, expected: Candidate, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("looked up")

    monkeypatch.setattr(socket, "getaddrinfo", forbidden)
    assert literal(hostname, 80) == (expected,)


@pytest.mark.parametrize("hostname", ["db.example", "localhost", "127.1", "bücher.example"])
def test_O5_a_name_does(hostname: str) -> None:
    assert literal(hostname, 80) is None


def test_A2_the_scope_of_an_address_is_kept() -> None:
    index, name = socket.if_nameindex()[0]
    assert literal(f"fe80::1%{name}", 80) == (
        Candidate(socket.AF_INET6, ("fe80::1", 80, 0, index)),
    )
    for scope in ("nosuchinterface", "99999999999999"):
        with pytest.raises(OSError):
            literal(f"fe80::1%{scope}", 80)


# Order ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], []),
        ([V4_A], [V4_A]),
        ([V4_A, V4_B, V6_A, V6_B], [V4_A, V6_A, V4_B, V6_B]),
        ([V6_A, V6_B, V4_A, V4_B], [V6_A, V4_A, V6_B, V4_B]),
        ([V6_A, V4_A, V4_B, V4_C], [V6_A, V4_A, V4_B, V4_C]),
        ([V4_A, V4_B, V4_C, V6_A], [V4_A, V6_A, V4_B, V4_C]),
        ([V4_A, V4_A, V6_A, V4_A, V6_A], [V4_A, V6_A]),
    ],
)
def test_O5_families_take_turns(given: list[Candidate], expected: list[Candidate]) -> None:
    assert interleave(given) == expected


_CANDIDATES = st.lists(
    st.builds(lambda last: Candidate(socket.AF_INET, (f"192.0.2.{last}", 80)), st.integers(1, 5))
    | st.builds(
        lambda last: Candidate(socket.AF_INET6, (f"2001:db8::{last}", 80, 0, 0)), st.integers(1, 5)
    ),
    max_size=40,
)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(_CANDIDATES)
def test_O5_any_order_of_answers_is_interleaved(given: list[Candidate]) -> None:
    """RFC 8305 section 4: nobody lost, nobody twice, each family in its order, taking turns."""
    order = interleave(given)
    assert order[:1] == given[:1]
    assert len(order) == len(set(order)) and set(order) == set(given)
    for family in (socket.AF_INET, socket.AF_INET6):
        assert [each for each in order if each.family == family] == [
            each for each in dict.fromkeys(given) if each.family == family
        ]
    families = [each.family for each in order]
    for n in range(1, len(families)):
        if families[n] == families[n - 1]:  # only when the other family is used up
            assert set(families[n:]) == {families[n]}


# Look-ups ---------------------------------------------------------------------------------------


def test_O5_a_look_up_of_localhost() -> None:
    """With the system's own resolver."""
    assert ("127.0.0.1", 80) in [candidate.sockaddr for candidate in look_up("localhost").result()]


def test_O5_a_look_up_gives_what_the_resolver_said_in_its_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def getaddrinfo(*args: object, **kwargs: object) -> list[tuple[object, ...]]:
        asked.append((args, kwargs))
        return answer(V6_A, V4_B, V4_A)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    assert look_up().result() == [V6_A, V4_B, V4_A]
    assert asked == [(("db.example", 80), {"type": socket.SOCK_STREAM})]


def test_O5_what_is_no_IP_address_is_left_out_of_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(socket.AF_UNIX, socket.SOCK_STREAM, 0, "", "/run/db"), *answer(V6_A, V6_A, V4_A)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    assert look_up().result() == [V6_A, V6_A, V4_A]


def test_A2_the_resolver_is_asked_for_a_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def getaddrinfo(host: str, *_: object, **__: object) -> list[tuple[object, ...]]:
        asked.append(host)
        return answer(V4_A)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    look_up("bücher.example.")
    assert asked == ["xn--bcher-kva.example."]


def test_T22_getaddrinfo_is_found_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever replaces `socket.getaddrinfo` after our import is asked."""
    for expected in (V4_A, V6_A):
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, e=expected, **__: answer(e))
        assert look_up().result() == [expected]


@pytest.mark.parametrize(
    "raised",
    [
        socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
        UnicodeError("label too long"),
        RuntimeError("a resolver of the user's"),
        SystemExit(1),
    ],
    ids=lambda raised: type(raised).__name__,
)
def test_O4_what_the_resolver_raises_is_the_result(
    raised: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def getaddrinfo(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    lookup = look_up()
    assert raised.__traceback__ is None
    with pytest.raises(type(raised)) as caught:
        lookup.result()
    assert caught.value is raised


@pytest.mark.parametrize("answers", [[], [(getattr(socket, "AF_UNIX", 1), 1, 0, "", "/tmp/x")]])
def test_O4_an_answer_without_an_ip_address_is_a_failure(
    answers: list[tuple[object, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answers)
    with pytest.raises(socket.gaierror, match="no IP address"):
        look_up().result()


class _Hanging:
    """A resolver that doesn't answer before it is told to; `raises` is an error to answer with."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.raises: BaseException | None = None
        self.asked = threading.Semaphore(0)
        self.left = threading.Semaphore(0)
        self._answer = threading.Event()
        monkeypatch.setattr(socket, "getaddrinfo", self)

    def __call__(self, *_: object, **__: object) -> list[tuple[object, ...]]:
        self.asked.release()
        assert self._answer.wait(WAIT)
        self.left.release()
        if self.raises is not None:
            raise self.raises
        return answer(V4_A)

    def answer(self, lookups: int) -> None:
        self._answer.set()
        for _ in range(lookups):
            assert self.left.acquire(timeout=WAIT)


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> _Hanging:
    return _Hanging(monkeypatch)


def test_O5_forty_look_ups_that_hang_hold_up_nobody(
    hanging: _Hanging, monkeypatch: pytest.MonkeyPatch
) -> None:
    hung = [Lookup(f"hang{n}.example", 80, lambda: None) for n in range(40)]
    for _ in hung:
        assert hanging.asked.acquire(timeout=WAIT)
    assert literal("192.0.2.1", 80) == (V4_A,)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answer(V4_B))
    assert look_up().result() == [V4_B]
    assert not any(lookup.done for lookup in hung)
    for lookup in hung:
        lookup.abandon()
    hanging.answer(40)


def test_O5_an_abandoned_look_up_calls_nobody_and_keeps_nobody(hanging: _Hanging) -> None:
    class Connection:
        def on_done(self) -> None:
            called.append(self)

    called: list[Connection] = []
    connection = Connection()
    lookup = Lookup("hang.example", 80, connection.on_done)
    assert hanging.asked.acquire(timeout=WAIT)

    lookup.abandon()
    lookup.abandon()  # again and again is fine
    gone = weakref.ref(connection)
    del connection
    assert collected(gone)
    hanging.answer(1)
    assert called == []


@pytest.mark.parametrize(
    "raises",
    [None, socket.gaierror(socket.EAI_AGAIN, "try again"), SystemExit(1)],
    ids=["an answer", "an error", "SystemExit"],
)
def test_O5_what_comes_after_an_abandoned_look_up_does_no_harm(
    hanging: _Hanging, raises: BaseException | None
) -> None:
    """The thread that brings it lives on, and does the next work."""
    hanging.raises = raises
    workers: list[threading.Thread] = []
    called: list[None] = []
    lookup = Lookup("hang.example", 80, lambda: called.append(None))
    assert hanging.asked.acquire(timeout=WAIT)
    workers += [each for each in threading.enumerate() if "hang.example" in each.name]
    assert len(workers) == 1
    lookup.abandon()
    hanging.answer(1)
    begun = time.monotonic()
    while workers[0].name != "tcpsock idle" and time.monotonic() - begun < WAIT:
        time.sleep(0.001)  # nothing tells when a thread is idle
    assert called == [] and lookup.done

    next_work = threading.Event()
    names: list[str] = []
    _threads.start(lambda: (names.append(threading.current_thread().name), next_work.set()), "next")
    assert next_work.wait(WAIT)
    assert names == ["next"] and workers[0].is_alive()


def test_O5_the_look_up_of_a_connection_that_is_gone_is_collected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answer(V4_A))
    lookup = look_up()
    gone = weakref.ref(lookup)
    del lookup
    assert collected(gone)


def test_O5_a_look_up_that_is_done_keeps_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    class Connection:
        done = threading.Event()

        def on_done(self) -> None:
            self.done.set()

    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answer(V4_A))
    connection = Connection()
    lookup = Lookup("db.example", 80, connection.on_done)
    assert Connection.done.wait(WAIT)
    gone = weakref.ref(connection)
    del connection
    assert collected(gone)
    assert lookup.result() == [V4_A]


def test_O5_abandon_waits_for_a_call_that_has_begun(hanging: _Hanging) -> None:
    """When it has returned, the descriptor that on_done writes to may be closed."""
    begun, go_on, over = threading.Event(), threading.Event(), threading.Event()

    def on_done() -> None:
        begun.set()
        assert go_on.wait(WAIT)
        over.set()

    lookup = Lookup("hang.example", 80, on_done)
    hanging.answer(1)
    assert begun.wait(WAIT)

    abandoned = threading.Event()
    seen: list[bool] = []

    def abandon() -> None:
        lookup.abandon()
        seen.append(over.is_set())
        abandoned.set()

    threading.Thread(target=abandon, daemon=True).start()
    go_on.set()
    assert abandoned.wait(WAIT)
    assert seen == [True]


def test_T10_no_thread_is_a_failure_of_the_look_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(run: Callable[[], None], name: str) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(_threads, "start", start)
    lookup = look_up()
    with pytest.raises(OSError, match="can't create new thread") as caught:
        lookup.result()
    assert caught.value.errno == errno.EAGAIN


def test_L6_the_thread_says_what_it_looks_up(monkeypatch: pytest.MonkeyPatch) -> None:
    names = []

    def getaddrinfo(*_: object, **__: object) -> list[tuple[object, ...]]:
        names.append(threading.current_thread().name)
        return answer(V4_A)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    look_up("db.example", 5432)
    assert names == ["tcpsock db.example:5432 look-up"]
