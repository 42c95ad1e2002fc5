"""P3 and P15: how many sockets are open, and when a place is free again."""

from __future__ import annotations

import concurrent.futures
import copy
import dataclasses
import gc
import logging
import os
import pickle
import socket
import ssl
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from peers import WAIT, Call, Listener, Peer, ca_data, only, until

import tcpsock
from tcpsock import EgressPolicy, PolicyViolation, _socket, _threads
from tcpsock._connection import handover, life
from tcpsock._policy.counting import Counter, Full, Place, take

from .network import Dials, QuietListener, Zone

LONG = bool(os.environ.get("TCPSOCK_LONG"))


def limited(limit: int, **fields: Any) -> EgressPolicy:
    return EgressPolicy(max_open_sockets=limit, **fields)


class Sockets:
    """Connections to one listener, ended after the test."""

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.peers: list[Peer] = []
        self.made: list[tcpsock.Socket] = []

    def __call__(self, policy: EgressPolicy, **options: Any) -> tcpsock.Socket:
        sock = tcpsock.connect(
            self.listener.address, policy=policy, **{"close_timeout": 0, **options}
        )
        self.made.append(sock)
        self.peers.append(self.listener.accept())
        sock.opened.result(WAIT)
        return sock

    def end(self) -> None:
        for sock in self.made:
            sock.abort()
        for sock in self.made:
            sock.closed.exception(WAIT)
        for peer in self.peers:
            peer.close()


@pytest.fixture
def sockets(listener: QuietListener) -> Iterator[Sockets]:
    sockets = Sockets(listener)
    yield sockets
    sockets.end()


def is_full(policy: EgressPolicy) -> bool:
    """Whether connect() raises at the call; if not, the place is given back at once."""
    try:
        sock = tcpsock.connect("127.0.0.1:9", policy=policy)
    except PolicyViolation as error:
        assert error.code == "policy-limit"
        return True
    sock.abort()
    sock.closed.exception(WAIT)
    return False


def test_P3_one_more_raises_at_the_call_and_says_how_many_are_open(
    sockets: Sockets, zone: Zone, dials: Dials, records: list[logging.LogRecord]
) -> None:
    policy = limited(6)
    for _ in range(6):
        sockets(policy)
    del dials.made[:]
    with pytest.raises(PolicyViolation) as full:
        tcpsock.connect("db.example:80", policy=policy)
    error: Any = full.value
    assert str(error) == "db.example:80: 6 sockets are open and max_open_sockets is 6"
    assert (error.code, error.phase, error.address) == ("policy-limit", "policy", "db.example:80")
    assert not error.decision and error.decision.code == "policy-limit"
    assert zone.asked == dials.made == []
    (record,) = records
    assert vars(record)["tcpsock"] == {
        "event": "policy",
        "address": "db.example:80",
        "peer": None,
        "code": "policy-limit",
        "scope": None,
    }
    assert record.levelname == "WARNING"


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        (0, "0 sockets are open and max_open_sockets is 0"),
        (1, "1 socket is open and max_open_sockets is 1"),
    ],
)
def test_P3_small_limits(sockets: Sockets, limit: int, said: str) -> None:
    policy = limited(limit)
    for _ in range(limit):
        sockets(policy)
    with pytest.raises(PolicyViolation, match=said):
        tcpsock.connect("db.example:80", policy=policy)


def test_P3_workers_says_it_in_the_same_words() -> None:
    with pytest.raises(PolicyViolation, match="max_open_sockets is 0"):
        tcpsock.connect("db.example:80", policy=EgressPolicy.workers(max_open_sockets=0))


def test_P5_the_limit_comes_before_host_and_port() -> None:
    with pytest.raises(PolicyViolation) as full:
        tcpsock.connect("0x7f.1:25", policy=EgressPolicy.public_internet(max_open_sockets=0))
    assert full.value.code == "policy-limit"


def test_P15_mistakes_take_no_place() -> None:
    policy = limited(1)
    for wrong in ({"timeout": -1}, {"secure_transport": "ON"}, {"high_water_mark": 0}):
        options: Any = wrong
        with pytest.raises(ValueError):
            tcpsock.connect("db.example:80", policy=policy, **options)
    with pytest.raises(tcpsock.InvalidAddress):
        tcpsock.connect("db.example", policy=policy)
    assert not is_full(policy)


# When it is free again


@pytest.mark.parametrize("end", ["close", "abort", "peer", "reset", "with", "drop"])
def test_P15_free_when_closed_has_settled(sockets: Sockets, end: str) -> None:
    policy = limited(1)
    sock: Any = sockets(policy)
    assert is_full(policy)
    closed = sock.closed
    if end == "close":
        sock.close()
    elif end == "abort":
        sock.abort()
    elif end == "peer":
        sockets.peers[-1].end()
    elif end == "reset":
        sockets.peers[-1].reset()
        reader = sock.readable.get_reader()
        with pytest.raises(tcpsock.ConnectionLost):
            reader.read(timeout=WAIT)
        del reader
    elif end == "with":
        with sock:
            pass
    else:
        sockets.made.clear()
        with pytest.warns(ResourceWarning):
            del sock
            gc.collect()
    closed.exception(WAIT)
    assert not is_full(policy)


@pytest.mark.parametrize("wait", ["result", "callback", "wait"])
def test_P15_free_before_a_waiter_on_closed_wakes(listener: QuietListener, wait: str) -> None:
    """A pool that waits for one to close can connect at once, every time."""
    policy = limited(1)
    for _ in range(300 if LONG else 30):
        sock = tcpsock.connect(listener.address, policy=policy, close_timeout=0)
        sock.opened.result(WAIT)
        listener.accept().close()
        if wait == "result":
            sock.close().result(WAIT)
            assert not is_full(policy)
        elif wait == "wait":
            concurrent.futures.wait([sock.close()], WAIT)
            assert not is_full(policy)
        else:
            full: list[bool] = []
            done = threading.Event()

            def ask(_: object, full: Any = full, done: threading.Event = done) -> None:
                call = Call(is_full, policy)
                full.append(call.result())
                done.set()

            sock.closed.add_done_callback(ask)
            sock.close()
            assert done.wait(WAIT) and full == [False]


def test_P15_a_failed_connect_gives_it_back(zone: Zone) -> None:
    """As soon as `opened` has failed, which is when somebody may try again."""
    policy = limited(1, deny_ports=[22])
    zone["db.example"] = ["192.0.2.1"]
    for address in ("db.example:80", "unknown.example:80", "127.0.0.1:22", "0x7f.1:80") * 10:
        sock = tcpsock.connect(address, policy=policy)
        assert sock.opened.exception(WAIT) is not None
    assert not is_full(policy)


def test_P15_free_as_soon_as_opened_has_failed(zone: Zone) -> None:
    """A callback of `opened` runs before `closed` is settled."""
    answer, seen = threading.Event(), []
    zone["slow.example"] = lambda: answer.wait(WAIT) and []  # type: ignore[return-value]
    policy = limited(1)
    sock = tcpsock.connect("slow.example:80", policy=policy)
    sock.opened.add_done_callback(
        lambda _: seen.append((sock.closed.done(), Call(is_full, policy).result()))
    )
    answer.set()
    sock.closed.exception(WAIT)
    assert seen == [(False, False)]


def test_P15_a_handshake_that_fails_gives_it_back(sockets: Sockets) -> None:
    policy = limited(1)
    for _ in range(5):
        sock = tcpsock.connect(
            sockets.listener.address, policy=policy, secure_transport="on", close_timeout=0
        )
        peer = sockets.listener.accept()
        peer.send(b"220 no TLS here\r\n")
        assert isinstance(sock.opened.exception(WAIT), tcpsock.TlsError)
        peer.close()
    assert not is_full(policy)


def test_P15_closed_before_it_opens_gives_it_back(zone: Zone) -> None:
    answer = threading.Event()
    zone["slow.example"] = lambda: answer.wait(WAIT) and []  # type: ignore[return-value]
    policy = limited(1)
    sock = tcpsock.connect("slow.example:80", policy=policy)
    assert is_full(policy)
    sock.close().result(WAIT)
    assert not is_full(policy)
    answer.set()


def test_P15_no_thread_to_connect_in_gives_it_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    policy = limited(1)
    with monkeypatch.context() as patched:
        patched.setattr(_threads, "start", start)
        sock = tcpsock.connect("127.0.0.1:9", policy=policy)
        assert isinstance(sock.opened.exception(WAIT), tcpsock.ConnectError)
    assert not is_full(policy)


def test_P15_an_error_while_it_is_made_gives_it_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def connection(*_: object, **__: object) -> None:
        raise MemoryError

    policy = limited(1)
    with monkeypatch.context() as patched:
        patched.setattr(_socket, "Connection", connection)
        with pytest.raises(MemoryError):
            tcpsock.connect("127.0.0.1:9", policy=policy)
    assert not is_full(policy)


@pytest.mark.parametrize("line", ["__enter__", "follow"])
def test_P15_ctrl_c_in_connect_takes_no_place(monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    """Wherever it comes: nobody holds the place then."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    policy = limited(1)
    with monkeypatch.context() as patched:
        patched.setattr(Place, line, interrupted)
        try:
            tcpsock.connect("127.0.0.1:9", policy=policy)
        except KeyboardInterrupt:
            pass
    assert not is_full(policy)


# start_tls(), detach(), adopt()


def upgrading(sockets: Sockets, policy: EgressPolicy) -> tcpsock.Socket:
    return sockets(policy, secure_transport="starttls", tls=tcpsock.TlsOptions(ca_data=ca_data()))


def test_P15_start_tls_keeps_the_place(sockets: Sockets) -> None:
    """One connection, one place, until the new socket's `closed`."""
    policy = limited(2)
    sock = upgrading(sockets, policy)
    upgraded = sock.start_tls()
    sockets.peers[-1].start_tls(only(ssl.TLSVersion.TLSv1_3))
    upgraded.opened.result(WAIT)
    sock.closed.result(WAIT)
    other = sockets(policy)
    assert is_full(policy)
    sock.close()
    sock.abort()
    assert is_full(policy)
    upgraded.abort()
    upgraded.closed.exception(WAIT)
    assert not is_full(policy)
    other.close().result(WAIT)


def test_P15_start_tls_that_fails_gives_it_back(sockets: Sockets) -> None:
    policy = limited(1)
    sock = upgrading(sockets, policy)
    upgraded = sock.start_tls()
    sockets.peers[-1].send(b"no TLS here\r\n")
    assert isinstance(upgraded.opened.exception(WAIT), tcpsock.SocketError)
    assert not is_full(policy)


def test_P15_start_tls_before_a_connection_that_fails(zone: Zone) -> None:
    answer = threading.Event()
    zone["slow.example"] = lambda: answer.wait(WAIT) and []  # type: ignore[return-value]
    policy = limited(1)
    sock = tcpsock.connect("slow.example:80", policy=policy, secure_transport="starttls")
    upgraded = sock.start_tls()
    assert is_full(policy)
    answer.set()
    upgraded.closed.exception(WAIT)
    assert not is_full(policy)


def test_P15_start_tls_that_is_not_allowed_changes_nothing(sockets: Sockets) -> None:
    policy = limited(1)
    sock = upgrading(sockets, policy)
    upgraded = sock.start_tls()
    for _ in range(3):
        with pytest.raises(tcpsock.SocketUpgraded):
            sock.start_tls()
    sock.closed.result(WAIT)
    assert is_full(policy)  # the upgraded one is open
    upgraded.abort()
    upgraded.closed.exception(WAIT)
    assert not is_full(policy)
    plain = sockets(policy)
    with pytest.raises(tcpsock.StartTlsError):
        plain.start_tls()
    assert is_full(policy)
    plain.abort()
    plain.closed.exception(WAIT)
    assert not is_full(policy)


def test_P15_ctrl_c_in_start_tls_changes_nothing(
    sockets: Sockets, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = limited(1)
    sock = upgrading(sockets, policy)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(handover, "plaintext_injected", interrupted)
        reader = sock.readable.get_reader()
        sockets.peers[-1].send(b"x")
        assert reader.peek(timeout=WAIT) == b"x"
        with pytest.raises(KeyboardInterrupt):
            sock.start_tls()
    gc.collect()
    assert is_full(policy)
    sock.abort()
    sock.closed.exception(WAIT)
    assert not is_full(policy)


def test_P15_injected_plaintext_gives_it_back(sockets: Sockets) -> None:
    policy = limited(1)
    sock = upgrading(sockets, policy)
    reader = sock.readable.get_reader()
    sockets.peers[-1].send(b"220 go\r\nevil\r\n")
    reader.readline(timeout=WAIT)
    until(lambda: sock.stats.bytes_buffered == 6, "the rest is read ahead")
    with pytest.raises(tcpsock.PlaintextInjected):
        sock.start_tls()
    sock.closed.exception(WAIT)
    assert not is_full(policy)
    with pytest.raises(tcpsock.PlaintextInjected):
        sock.start_tls()
    assert not is_full(policy)


def test_P15_detach_gives_it_back(sockets: Sockets) -> None:
    policy = limited(1)
    for _ in range(50 if LONG else 10):
        sock = sockets(policy)
        real = sock.detach()
        assert not is_full(policy)  # though the real one is open
        real.close()


def test_P15_detach_gives_it_back_before_it_returns(
    sockets: Sockets, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`closed` resolves a moment later, in the connection's thread."""
    policy = limited(1)
    sock = sockets(policy)
    asked = threading.Event()

    def settle(future: object, value: object = None, error: BaseException | None = None) -> None:
        if future is sock.closed:
            assert asked.wait(WAIT)
        original(future, value, error)  # type: ignore[arg-type]

    original = life.settle
    monkeypatch.setattr(life, "settle", settle)
    real = sock.detach()
    try:
        real.close()
        assert not sock.closed.done()
        with pytest.MonkeyPatch.context() as undone:
            undone.setattr(life, "settle", original)
            assert not is_full(policy)
    finally:
        asked.set()
    sock.closed.result(WAIT)


def test_P15_detach_that_is_refused_keeps_it(sockets: Sockets) -> None:
    policy = limited(1)
    sock = sockets(policy)
    sockets.peers[-1].send(b"x")
    assert sock.readable.get_reader().peek(timeout=WAIT) == b"x"
    with pytest.raises(tcpsock.StreamBusy):
        sock.detach()
    assert is_full(policy)


def test_P15_adopt_counts_and_judges_nothing() -> None:
    policy = EgressPolicy.public_internet(max_open_sockets=1, deny_hosts=["me.example"])
    ours, theirs = socket.socketpair()
    with theirs:
        adopted = tcpsock.adopt(ours, hostname="me.example", policy=policy, close_timeout=0)
        adopted.opened.result(WAIT)
        assert is_full(policy)
        more, rest = socket.socketpair()
        with more, rest:
            with pytest.raises(PolicyViolation, match="adopted socket: 1 socket is open"):
                tcpsock.adopt(more, policy=policy)
            more.send(b"still mine")
            assert rest.recv(100) == b"still mine"
        adopted.close().result(WAIT)
    assert not is_full(policy)


# What counts together


def test_P15_counted_by_object_and_not_by_equality(sockets: Sockets) -> None:
    policy = limited(1)
    sockets(policy)
    for other in (limited(1), dataclasses.replace(policy), pickle.loads(pickle.dumps(policy))):
        assert other == policy and not is_full(other)
    assert is_full(policy) and is_full(copy.copy(policy)) and is_full(copy.deepcopy(policy))
    options = tcpsock.SocketOptions(policy=policy)
    with pytest.raises(PolicyViolation):
        tcpsock.connect("db.example:80", copy.deepcopy(options))


def test_P15_a_and_b_counts_in_both(sockets: Sockets) -> None:
    one, two = limited(1), limited(2)
    both = one & two
    sock = sockets(both)
    assert is_full(one) and is_full(both) and not is_full(two)
    other = sockets(two)
    assert is_full(two)
    sock.close().result(WAIT)
    assert not is_full(one) and not is_full(two) and not is_full(both)
    sockets(two)
    assert is_full(both)  # two is full: in one nothing was taken by that
    assert not is_full(one)
    other.close().result(WAIT)


def test_P15_taking_a_place_is_atomic() -> None:
    """However many threads want one, there are never more open than the limit, and none is lost."""
    limit, threads, rounds = 3, 8, (400 if LONG else 40)
    policy = limited(limit) & limited(limit + 1)
    lock, barrier = threading.Lock(), threading.Barrier(threads)
    open_now, most, made, full = 0, 0, 0, 0

    def hammer() -> None:
        nonlocal open_now, most, made, full
        barrier.wait(WAIT)
        for _ in range(rounds):
            ours, theirs = socket.socketpair()
            with theirs:
                try:
                    sock = tcpsock.adopt(ours, policy=policy, close_timeout=0)
                except PolicyViolation:
                    with lock:
                        full += 1
                    ours.close()
                    continue
                with lock:
                    made += 1
                    open_now += 1
                    most = max(most, open_now)
                with lock:
                    open_now -= 1
                sock.close().result(WAIT)

    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        calls = [Call(hammer) for _ in range(threads)]
        for call in calls:
            call.result()
    finally:
        sys.setswitchinterval(switch)
    assert made + full == threads * rounds and made >= limit
    assert 1 <= most <= limit
    assert "(0 open)" in repr(policy)


def test_P15_nobody_sees_a_place_that_is_half_taken() -> None:
    """Two that come at once for the last place: one gets it, and not neither."""

    class Slow(Counter):
        def check(self) -> None:
            if not checking.is_set():  # the first to come
                checking.set()
                assert go_on.wait(WAIT)
            super().check()

    checking, go_on = threading.Event(), threading.Event()
    counter = Slow(1)
    first = Call(take, [counter])
    assert checking.wait(WAIT)
    second = Call(take, [counter]).blocked()
    go_on.set()
    assert isinstance(second.error(), Full)
    place = first.result()
    assert len(counter) == 1 and not place.free


def test_L5_repr_tells_how_many_are_open(sockets: Sockets) -> None:
    policy = limited(5)
    first, _ = sockets(policy), sockets(policy)
    assert repr(policy) == "<EgressPolicy max_open_sockets=5 (2 open)>"
    first.close().result(WAIT)
    assert repr(policy) == "<EgressPolicy max_open_sockets=5 (1 open)>"


def test_E6_a_counted_socket_can_be_collected(sockets: Sockets) -> None:
    """The count holds neither the socket nor what hangs on its futures' callbacks."""
    policy = limited(3)
    sock: Any = sockets(policy)
    sockets.made.clear()
    there = weakref.ref(sock)
    closed = sock.closed
    with pytest.warns(ResourceWarning):
        del sock
        gc.collect()
    assert there() is None
    closed.result(WAIT)
    future = weakref.ref(closed)
    del closed
    until(lambda: gc.collect() or future() is None, "the future is collected")


FORK = """
import os, sys, threading
import tcpsock
from tcpsock import EgressPolicy, PolicyViolation
from tcpsock._policy.counting import Counter, take
from tcpsock.testing import serve

policy = EgressPolicy(max_open_sockets=2)
both = policy & EgressPolicy(max_open_sockets=9)

def count():
    held = []
    try:
        while len(held) < 50:
            held.append(tcpsock.connect(server.address, policy=both, close_timeout=0))
            held[-1].opened.result(20)
    except PolicyViolation as error:
        assert error.code == "policy-limit", error
    for sock in held:
        sock.close().result(20)
    return len(held)

with serve(lambda sock: sock.recv(1)) as server:
    inherited = [tcpsock.connect(server.address, policy=both, close_timeout=0) for _ in range(2)]
    for sock in inherited:
        sock.opened.result(20)
    assert count() == 0
    half_made = Counter(1)
    kept = take([half_made])  # by another thread, say, whose connection has no futures yet
    pid = os.fork()
    if pid == 0:
        take([half_made])
        first = count()
        for sock in inherited:
            sock.close()
        second = count()
        os._exit(0 if (first, second) == (2, 2) else 10 * first + second)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status == 0, status
    assert count() == 0
    for sock in inherited:
        sock.close().result(20)
    assert count() == 2
print("counted")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_P15_a_forked_child_starts_at_zero() -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-c", FORK],
        capture_output=True,
        text=True,
        timeout=50,
        cwd=root,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "counted\n", "")
