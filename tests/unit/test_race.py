"""Happy Eyeballs, mostly in a world with its own clock, where waiting takes no time."""

from __future__ import annotations

import errno
import os
import socket
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tcpsock import _deadline
from tcpsock._connection import opening
from tcpsock._connection.opening import Dialling, TlsStart
from tcpsock._deadline import Deadline
from tcpsock._dialing import race as race_module
from tcpsock._dialing import resolve as resolve_module
from tcpsock._dialing.race import AllFailed, Stopped, TimedOut, Won, race
from tcpsock._dialing.resolve import Candidate
from tcpsock._errors import ConnectError, ConnectTimeout, ResolveError
from tcpsock._info import Attempt, SocketInfo
from tcpsock._options import SocketOptions, TlsOptions
from tcpsock._wire import platform

NEVER = float("inf")
DELAY = 0.25  # RFC 8305 section 5
WAKER_FD = 3
NAME = "db.example"
LONG = bool(os.environ.get("TCPSOCK_LONG"))


def v4(last: int) -> Candidate:
    return Candidate(socket.AF_INET, (f"192.0.2.{last}", 80))


def v6(last: int) -> Candidate:
    return Candidate(socket.AF_INET6, (f"2001:db8::{last}", 80, 0, 0))


# A world with its own clock ---------------------------------------------------------------------


class FakeSocket:
    def __init__(self, world: World, family: int, kind: int) -> None:
        assert kind == socket.SOCK_STREAM
        if world.no_more_sockets:
            raise OSError(errno.EMFILE, "Too many open files")
        self.world, self.family = world, family
        self.fd = 100 + len(world.sockets)
        self.closed = False
        self.blocking = True
        self.ready_at = NEVER
        self.status = 0
        self.sockaddr: tuple[object, ...] = ()
        world.sockets.append(self)
        world.most_open = max(world.most_open, sum(not sock.closed for sock in world.sockets))

    def setblocking(self, flag: bool) -> None:
        self.blocking = flag

    def setsockopt(self, level: int, option: int, value: int) -> None:
        assert not self.closed

    def connect_ex(self, sockaddr: tuple[object, ...]) -> int:
        assert not self.blocking
        self.sockaddr = sockaddr
        address = Candidate(self.family, sockaddr).address  # type: ignore[arg-type]
        self.world.started.append((address, round(self.world.now, 3)))
        after, self.status = self.world.fates.get(address, (NEVER, 0))
        if after == 0 and self.status:
            return self.status
        self.ready_at = self.world.now + after
        return errno.EINPROGRESS

    def getsockopt(self, level: int, option: int) -> int:
        assert (level, option) == (socket.SOL_SOCKET, socket.SO_ERROR)
        assert self.world.now >= self.ready_at
        return self.status

    def getpeername(self) -> tuple[object, ...]:
        return self.sockaddr

    def getsockname(self) -> tuple[object, ...]:
        return ("198.51.100.1", 50_000)

    def fileno(self) -> int:
        return -1 if self.closed else self.fd

    def close(self) -> None:
        self.closed = True


class FakePoller:
    """Sleeps by putting the clock forward."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.fds: dict[int, int] = {}

    def register(self, fd: int, events: int) -> None:
        assert fd not in self.fds
        self.fds[fd] = events

    def unregister(self, fd: int) -> None:
        del self.fds[fd]

    def _ready(self, fd: int) -> float:
        if fd == WAKER_FD:
            return self.world.waker.set_at
        return next(sock.ready_at for sock in self.world.sockets if sock.fd == fd)

    def poll(self, milliseconds: int | None = None) -> list[tuple[int, int]]:
        world = self.world
        world.polls += 1
        assert world.polls < 10_000, "spinning"
        limit = NEVER if milliseconds is None else world.now + milliseconds / 1000
        while world.happens_by(wake := min([limit, *(self._ready(fd) for fd in self.fds)])):
            pass  # what happened may have woken us earlier
        assert wake < NEVER, "sleeping for ever"
        world.now = max(world.now, wake)
        return [(fd, wanted) for fd, wanted in self.fds.items() if self._ready(fd) <= world.now]


class FakeWaker:
    def __init__(self, world: World) -> None:
        self.world = world
        self.set_at = NEVER
        self.cleared = 0

    def fileno(self) -> int:
        return WAKER_FD

    def set(self) -> None:
        self.set_at = min(self.set_at, self.world.now)

    def clear(self) -> None:
        self.set_at = NEVER
        self.cleared += 1


class World:
    """Hosts with fates, names that are looked up, and what became of those who dialled them.

    `race()` races; `dial()` does what connect() does, from the name to the winner.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.fates: dict[str, tuple[float, int]] = {}  # without one: a black hole
        self.sockets: list[FakeSocket] = []
        self.most_open = 0  # at any time
        self.started: list[tuple[str, float]] = []  # address, when
        self.waker = FakeWaker(self)
        self.polls = 0
        self.no_more_sockets = False
        self.agenda: list[tuple[float, Callable[[], object]]] = []  # when, what happens then
        self.called_off = False
        self.left_for_tls: list[float | None] = []  # seconds, at the start of each handshake
        fake = types.SimpleNamespace(**vars(socket))
        fake.socket = lambda family, kind: FakeSocket(self, family, kind)
        monkeypatch.setattr(race_module, "socket", fake)
        monkeypatch.setattr(_deadline, "clock", lambda: self.now)
        monkeypatch.setattr(platform, "poller", lambda: FakePoller(self))
        monkeypatch.setattr(opening, "poller", lambda: FakePoller(self))
        monkeypatch.setattr(opening, "time", types.SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(opening, "Wire", lambda sock, waker, address: sock)
        monkeypatch.setattr(opening, "secure", self._secure)
        self._monkeypatch = monkeypatch

    def at(self, seconds: float, do: Callable[[], object]) -> None:
        """Let something happen so many seconds from now."""
        self.agenda.append((self.now + seconds, do))

    def happens_by(self, moment: float) -> bool:
        """Let the next thing on the agenda happen, if that is by then; whether there was one."""
        if not self.agenda or min(when for when, _ in self.agenda) > moment:
            return False
        first = min(self.agenda, key=lambda entry: entry[0])
        self.agenda.remove(first)
        when, do = first
        self.now = max(self.now, when)
        do()
        return True

    def resolves(self, answer: list[Candidate] | BaseException, after: float = 0.0) -> None:
        """What every look-up is answered, so many seconds after it was begun."""

        def getaddrinfo(host: str, port: int, **_: object) -> list[Any]:
            assert (host, port) == (NAME, 80)
            if isinstance(answer, BaseException):
                raise answer
            return [(each.family, socket.SOCK_STREAM, 6, "", each.sockaddr) for each in answer]

        self._monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        # The look-up's thread does all of its work in the moment of the answer.
        self._monkeypatch.setattr(
            resolve_module,
            "_threads",
            types.SimpleNamespace(start=lambda run, _: self.at(after, run)),
        )

    def call_off(self) -> None:
        """As close() does it."""
        self.called_off = True
        self.waker.set()

    def dial(
        self, host: str = NAME, *, seconds: float | None = 30.0, tls: bool = False
    ) -> tuple[Any, SocketInfo]:
        """From the name to the winner, or to the end of its TLS handshake."""
        start = TlsStart(TlsOptions(), host, None) if tls else None
        dialling = Dialling(host, 80, SocketOptions(connect_timeout=seconds), start)
        return dialling.open(self.waker, lambda: self.called_off)  # type: ignore[arg-type]

    def _secure(
        self,
        sock: Any,
        tls: object,
        address: object,
        info: SocketInfo,
        waker: object,
        stop: object,
        deadline: Deadline,
    ) -> tuple[Any, SocketInfo]:
        self.left_for_tls.append(deadline.remaining())
        return sock, info

    def passed(self) -> float:
        """Seconds since the world began."""
        return round(self.now - 1000.0, 3)

    def answers(self, candidate: Candidate, after: float) -> None:
        self.fates[candidate.address] = (after, 0)

    def fails(self, candidate: Candidate, error: int, after: float = 0.0) -> None:
        self.fates[candidate.address] = (after, error)

    def race(
        self,
        *candidates: Candidate,
        seconds: float | None = None,
        stop: Callable[[], bool] = lambda: True,
        prepare: Callable[[socket.socket], None] = lambda sock: None,
    ) -> Won:
        return race(
            candidates,
            deadline=Deadline(seconds),
            waker=self.waker,  # type: ignore[arg-type]
            stop=stop,
            prepare=prepare,
        )

    def begun(self) -> list[float]:
        """When each attempt was started, in seconds since the race began."""
        return [round(at - 1000.0, 3) for _, at in self.started]

    def assert_all_closed_but(self, *open_ones: object) -> None:
        assert [sock for sock in self.sockets if not sock.closed] == list(open_ones)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def told(attempts: tuple[Attempt, ...]) -> list[tuple[str, float, int | None]]:
    return [
        (each.address, round(each.seconds, 3), each.error.errno if each.error else None)
        for each in attempts
    ]


def test_O5_one_address_that_answers(world: World) -> None:
    world.answers(v4(1), after=0.1)
    sock, attempts = world.race(v4(1), seconds=30)
    assert told(attempts) == [("192.0.2.1:80", 0.1, None)]
    world.assert_all_closed_but(sock)
    assert sock.blocking is False  # type: ignore[attr-defined]


def test_O5_attempts_start_250_ms_apart(world: World) -> None:
    """Black holes hold nobody up for longer than that."""
    world.answers(v4(3), after=0.1)
    sock, attempts = world.race(v4(1), v6(2), v4(3), v6(4), seconds=30)
    assert world.begun() == [0.0, DELAY, 2 * DELAY]
    assert told(attempts) == [
        ("192.0.2.1:80", 0.6, errno.ECANCELED),
        ("[2001:db8::2]:80", 0.35, errno.ECANCELED),
        ("192.0.2.3:80", 0.1, None),
    ]
    assert "192.0.2.3:80 answered first" in str(attempts[0].error)
    world.assert_all_closed_but(sock)


def test_O5_a_refusal_starts_the_next_at_once(world: World) -> None:
    world.fails(v4(1), errno.ECONNREFUSED, after=0.01)
    world.answers(v4(2), after=0.1)
    _, attempts = world.race(v4(1), v4(2), seconds=30)
    assert world.begun() == [0.0, 0.01]
    assert told(attempts) == [
        ("192.0.2.1:80", 0.01, errno.ECONNREFUSED),
        ("192.0.2.2:80", 0.1, None),
    ]
    assert isinstance(attempts[0].error, ConnectionRefusedError)
    assert attempts[0].error.strerror == os.strerror(errno.ECONNREFUSED)


def test_O5_an_address_without_a_route_costs_no_time(world: World) -> None:
    """As every IPv6 address is on a machine that has none."""
    for unreachable in (v6(1), v6(2)):
        world.fails(unreachable, errno.ENETUNREACH)
    world.answers(v4(3), after=0.1)
    sock, attempts = world.race(v6(1), v6(2), v4(3), seconds=30)
    assert world.begun() == [0.0, 0.0, 0.0]
    assert told(attempts)[:2] == [
        ("[2001:db8::1]:80", 0.0, errno.ENETUNREACH),
        ("[2001:db8::2]:80", 0.0, errno.ENETUNREACH),
    ]
    world.assert_all_closed_but(sock)


def test_O5_a_failure_at_once_starts_the_next_while_others_are_under_way(world: World) -> None:
    world.fails(v6(2), errno.ENETUNREACH)
    world.answers(v4(3), after=0.1)
    _, attempts = world.race(v4(1), v6(2), v4(3), seconds=30)
    assert world.begun() == [0.0, 0.25, 0.25]
    assert attempts[2].error is None


def test_O5_a_slow_attempt_lives_on_while_others_run(world: World) -> None:
    world.answers(v4(1), after=0.9)
    sock, attempts = world.race(v4(1), v4(2), v4(3), seconds=30)
    assert told(attempts) == [
        ("192.0.2.1:80", 0.9, None),
        ("192.0.2.2:80", 0.65, errno.ECANCELED),
        ("192.0.2.3:80", 0.4, errno.ECANCELED),
    ]
    world.assert_all_closed_but(sock)


def test_O5_a_late_winner_after_all_others_failed(world: World) -> None:
    world.answers(v4(1), after=20)
    world.fails(v4(2), errno.ECONNREFUSED, after=0.01)
    world.fails(v4(3), errno.EHOSTUNREACH, after=3)
    sock, attempts = world.race(v4(1), v4(2), v4(3), seconds=30)
    assert world.begun() == [0.0, 0.25, 0.26]
    assert [each.error is None for each in attempts] == [True, False, False]
    world.assert_all_closed_but(sock)


def test_O5_a_failure_starts_the_next_and_the_pace_counts_from_there(world: World) -> None:
    """The first is slow; the second is refused at 0.3: the third starts then, the fourth 0.25
    later."""
    world.fails(v4(2), errno.ECONNREFUSED, after=0.05)
    world.answers(v4(4), after=0.01)
    world.race(v4(1), v4(2), v4(3), v4(4), seconds=30)
    assert world.begun() == [0.0, 0.25, 0.3, 0.55]


def test_O5_the_first_to_start_wins_a_tie(world: World) -> None:
    world.answers(v4(1), after=0.35)
    world.answers(v4(2), after=0.1)
    sock, attempts = world.race(v4(1), v4(2), seconds=30)
    assert [each.error is None for each in attempts] == [True, False]
    world.assert_all_closed_but(sock)


def test_O5_nobody_answers_by_the_deadline(world: World) -> None:
    world.fails(v4(1), errno.ECONNREFUSED, after=0.1)
    with pytest.raises(TimedOut) as caught:
        world.race(v4(1), v4(2), v4(3), v4(4), v4(5), seconds=0.75)
    # The fourth would start at 0.6 (the pace counts from 0.1), the fifth would be too late.
    assert world.begun() == [0.0, 0.1, 0.35, 0.6]
    assert round(world.now - 1000, 3) == 0.75
    attempts = caught.value.attempts
    assert told(attempts) == [
        ("192.0.2.1:80", 0.1, errno.ECONNREFUSED),
        ("192.0.2.2:80", 0.65, errno.ETIMEDOUT),
        ("192.0.2.3:80", 0.4, errno.ETIMEDOUT),
        ("192.0.2.4:80", 0.15, errno.ETIMEDOUT),
    ]
    assert all(isinstance(each.error, TimeoutError) for each in attempts[1:])
    world.assert_all_closed_but()


def test_O5_a_deadline_that_is_over_dials_nobody(world: World) -> None:
    """The look-up may have taken all of the time."""
    deadline = Deadline(1.0)
    world.now += 1.0
    with pytest.raises(TimedOut) as caught:
        race(
            [v4(1)],
            deadline=deadline,
            waker=world.waker,  # type: ignore[arg-type]
            stop=lambda: False,
            prepare=lambda sock: None,
        )
    assert (caught.value.attempts, world.sockets) == ((), [])


def test_O5_without_a_deadline_it_waits_for_the_last(world: World) -> None:
    world.answers(v4(1), after=10_000)
    _, attempts = world.race(v4(1))
    assert told(attempts) == [("192.0.2.1:80", 10_000, None)]


def test_O4_when_all_fail_every_attempt_is_told(world: World) -> None:
    world.fails(v6(1), errno.ENETUNREACH)
    world.fails(v4(2), errno.ECONNREFUSED, after=0.02)
    world.fails(v4(3), errno.ETIMEDOUT, after=5)
    with pytest.raises(AllFailed) as caught:
        world.race(v6(1), v4(2), v4(3), seconds=30)
    assert told(caught.value.attempts) == [
        ("[2001:db8::1]:80", 0.0, errno.ENETUNREACH),
        ("192.0.2.2:80", 0.02, errno.ECONNREFUSED),
        ("192.0.2.3:80", 5.0, errno.ETIMEDOUT),
    ]
    world.assert_all_closed_but()


def test_O4_no_address_at_all_fails_without_an_attempt(world: World) -> None:
    with pytest.raises(AllFailed) as caught:
        world.race(seconds=30)
    assert caught.value.attempts == ()


def test_O5_forty_black_holes_and_one_that_answers(world: World) -> None:
    world.answers(v4(41), after=0.1)
    sock, attempts = world.race(*map(v4, range(1, 42)))
    assert [address for address, _ in world.started] == [v4(n).address for n in range(1, 42)]
    assert world.begun() == [round(n * DELAY, 3) for n in range(41)]
    assert [each.error is None for each in attempts] == [False] * 40 + [True]
    assert round(attempts[0].seconds, 3) == 10.1
    world.assert_all_closed_but(sock)
    assert world.polls <= 42  # no spinning
    assert world.most_open == 41


def test_O5_the_deadline_bounds_forty_black_holes(world: World) -> None:
    """No attempt begins after it, none outlives it, and only those begun hold a descriptor."""
    forty = [each(n) for n in range(1, 21) for each in (v6, v4)]
    with pytest.raises(TimedOut) as caught:
        world.race(*forty, seconds=3.125)
    assert world.passed() == 3.125
    begun = [round(n * DELAY, 3) for n in range(13)]  # the last one at 3.0
    assert world.begun() == begun
    assert told(caught.value.attempts) == [
        (candidate.address, round(3.125 - at, 3), errno.ETIMEDOUT)
        for candidate, at in zip(forty, begun, strict=False)
    ]
    assert world.most_open == 13
    world.assert_all_closed_but()


def test_O5_forty_addresses_that_refuse(world: World) -> None:
    for last in range(1, 41):
        world.fails(v4(last), errno.ECONNREFUSED, after=0.001)
    with pytest.raises(AllFailed) as caught:
        world.race(*map(v4, range(1, 41)), seconds=30)
    assert len(caught.value.attempts) == 40
    assert round(world.now - 1000, 3) == 0.04
    assert world.most_open == 1  # a failed one is closed before the next begins
    world.assert_all_closed_but()


def test_E4_stop_ends_the_race_at_once_and_closes_everything(world: World) -> None:
    world.waker.set_at = 1000.6
    with pytest.raises(Stopped):
        world.race(v4(1), v4(2), v4(3), v4(4), seconds=30)
    assert world.begun() == [0.0, 0.25, 0.5]
    assert round(world.now - 1000, 3) == 0.6
    world.assert_all_closed_but()


def test_E4_stop_comes_before_an_answer_of_the_same_moment(world: World) -> None:
    world.waker.set_at = 1000.1
    world.answers(v4(1), after=0.1)
    with pytest.raises(Stopped):
        world.race(v4(1), seconds=30)
    world.assert_all_closed_but()


def test_O5_a_wake_up_that_means_nothing_changes_nothing(world: World) -> None:
    asked = []

    def stop() -> bool:
        asked.append(world.waker.cleared)
        return False

    world.waker.set_at = 1000.05
    world.answers(v4(2), after=0.1)
    _, attempts = world.race(v4(1), v4(2), seconds=30, stop=stop)
    assert asked == [1]  # cleared before the question
    # poll() counts in whole milliseconds, rounded up
    assert world.begun() == pytest.approx([0.0, 0.25], abs=0.0015)
    assert attempts[1].error is None


def test_O5_what_prepare_raises_is_that_attempts_error(world: World) -> None:
    def prepare(sock: socket.socket) -> None:
        assert sock.blocking is False  # type: ignore[attr-defined]
        if sock.family == socket.AF_INET6:
            raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")

    world.answers(v4(2), after=0.1)
    sock, attempts = world.race(v6(1), v4(2), seconds=30, prepare=prepare)
    assert told(attempts) == [
        ("[2001:db8::1]:80", 0.0, errno.EADDRNOTAVAIL),
        ("192.0.2.2:80", 0.1, None),
    ]
    world.assert_all_closed_but(sock)


def test_O3_no_socket_is_left_when_prepare_breaks_down(world: World) -> None:
    def prepare(sock: socket.socket) -> None:
        if len(world.sockets) == 3:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        world.race(v4(1), v4(2), v4(3), v4(4), seconds=30, prepare=prepare)
    assert len(world.sockets) == 3
    world.assert_all_closed_but()


def test_O4_no_descriptor_left_is_the_attempts_error(world: World) -> None:
    world.no_more_sockets = True
    with pytest.raises(AllFailed) as caught:
        world.race(v4(1), v4(2), seconds=30)
    assert [each.error.errno for each in caught.value.attempts if each.error] == [errno.EMFILE] * 2


def test_O3_errors_hold_no_frames(world: World) -> None:
    """A kept traceback would keep the socket's and the caller's variables (T26)."""
    world.fails(v6(1), errno.ENETUNREACH)
    world.fails(v4(2), errno.ECONNREFUSED, after=0.01)
    with pytest.raises(TimedOut) as caught:
        world.race(v6(1), v4(2), v4(3), seconds=1)
    for attempt in caught.value.attempts:
        assert attempt.error is not None
        assert attempt.error.__traceback__ is None
        assert attempt.error.__context__ is None


# Every schedule --------------------------------------------------------------------------------


class Fate(NamedTuple):
    """What becomes of an attempt, in eighths of a second: all sums of them are exact."""

    after: int | None
    status: int = 0


HOLE = Fate(None)
REFUSED = errno.ECONNREFUSED


def schedule(
    fates: list[Fate], limit: int
) -> tuple[list[int], dict[int, tuple[int, int | None]], int]:
    """What RFC 8305 section 5 wants, tick by tick: a tick is an eighth of a second.

    Returns: when each attempt starts; when each ends, and with which error (None: it wins); when
    the race ends.
    """
    starts: list[int] = []
    ends: dict[int, tuple[int, int | None]] = {}

    def end_the_rest(now: int, error: int) -> None:
        for n in range(len(starts)):
            ends.setdefault(n, (now, error))

    for now in range(limit + 1):
        next_is_due = not starts or now == starts[-1] + 2  # 250 ms
        while True:
            for n, start in enumerate(starts):
                after, error = fates[n]
                if n in ends or after is None or start + after != now:
                    continue
                ends[n] = now, error or None
                if not error:
                    end_the_rest(now, errno.ECANCELED)
                    return starts, ends, now
                next_is_due = True
            under_way = len(starts) - len(ends)
            if len(starts) == len(fates) or now == limit or (under_way and not next_is_due):
                break
            starts.append(now)
            next_is_due = False
        if len(ends) == len(fates):
            return starts, ends, now
    end_the_rest(limit, errno.ETIMEDOUT)
    return starts, ends, limit


_AFTER = st.integers(0, 12)
_ERRORS = st.sampled_from([REFUSED, errno.EHOSTUNREACH])
_FATES = st.just(HOLE) | st.builds(Fate, _AFTER, st.just(0)) | st.builds(Fate, _AFTER, _ERRORS)


@settings(derandomize=True, deadline=None, max_examples=5000 if LONG else 300)
@given(fates=st.lists(_FATES, min_size=1, max_size=9), limit=st.integers(1, 32))
@example(fates=[HOLE, Fate(0, REFUSED), Fate(1, REFUSED), Fate(1, REFUSED), Fate(0)], limit=9)
@example(fates=[Fate(3, REFUSED), Fate(1, REFUSED), HOLE, Fate(2)], limit=32)
@example(fates=[Fate(4, REFUSED), Fate(2, REFUSED), Fate(2), Fate(1)], limit=4)
def test_O5_every_schedule_is_that_of_RFC_8305_section_5(fates: list[Fate], limit: int) -> None:
    """Starts, ends, errors, the winner, the end, and what is open then."""
    candidates = [v4(n + 1) if n % 2 else v6(n + 1) for n in range(len(fates))]
    starts, ends, end = schedule(fates, limit)
    with pytest.MonkeyPatch.context() as monkeypatch:
        world = World(monkeypatch)
        for candidate, fate in zip(candidates, fates, strict=True):
            if fate.after is not None:
                world.fates[candidate.address] = (fate.after / 8, fate.status)
        winner = None
        try:
            winner, attempts = world.race(*candidates, seconds=limit / 8)
        except (TimedOut, AllFailed) as failed:
            attempts = failed.attempts
            assert isinstance(failed, TimedOut) == (
                len(starts) < len(fates) or (end, errno.ETIMEDOUT) in ends.values()
            )
        assert world.now == 1000 + end / 8
        assert world.started == [
            (candidate.address, 1000 + start / 8)
            for candidate, start in zip(candidates, starts, strict=False)
        ]
        assert told(attempts) == [
            (candidates[n].address, (ends[n][0] - start) / 8, ends[n][1])
            for n, start in enumerate(starts)
        ]
        assert (winner is None) == (None not in [error for _, error in ends.values()])
        world.assert_all_closed_but(*[winner] * (winner is not None))


# From the name to the winner --------------------------------------------------------------------


def test_O5_O4_all_of_it_in_one_story(world: World) -> None:
    """A slow look-up, IPv6 without a route, a refusal, a black hole, a winner; all is told."""
    world.resolves([v6(1), v6(2), v4(1), v4(2), v4(3)], after=2.0)
    world.fails(v6(1), errno.ENETUNREACH)
    world.fails(v4(1), errno.ECONNREFUSED, after=0.1)
    world.fails(v6(2), errno.ENETUNREACH)
    world.answers(v4(3), after=0.05)
    sock, info = world.dial()
    assert [address for address, _ in world.started] == [
        each.address for each in (v6(1), v4(1), v6(2), v4(2), v4(3))
    ]
    assert world.begun() == [2.0, 2.0, 2.1, 2.1, 2.35]
    assert told(info.attempts) == [
        ("[2001:db8::1]:80", 0.0, errno.ENETUNREACH),
        ("192.0.2.1:80", 0.1, errno.ECONNREFUSED),
        ("[2001:db8::2]:80", 0.0, errno.ENETUNREACH),
        ("192.0.2.2:80", 0.3, errno.ECANCELED),
        ("192.0.2.3:80", 0.05, None),
    ]
    assert info.remote_address == "192.0.2.3:80" and info.hostname == NAME
    assert info.timings.resolve == 2.0
    assert info.timings.connect == pytest.approx(0.4)
    assert info.timings.tls is None
    world.assert_all_closed_but(sock)


@pytest.mark.parametrize("how", ["black holes", "no route", "refused"])
def test_O5_a_broken_IPv6_costs_one_delay_at_most(world: World, how: str) -> None:
    """RFC 8305 section 4: the second attempt is of the other family, however many there are."""
    sixes = [v6(n) for n in range(1, 21)]
    for six in sixes:
        if how == "no route":
            world.fails(six, errno.ENETUNREACH)
        elif how == "refused":
            world.fails(six, errno.ECONNREFUSED, after=0.02)
    world.answers(v4(1), after=0.05)
    world.resolves([*sixes, *map(v4, range(1, 21))])
    _, info = world.dial()
    assert info.remote_address == "192.0.2.1:80"
    assert world.passed() == {"black holes": 0.3, "no route": 0.05, "refused": 0.07}[how]
    assert len(info.attempts) == 2


@pytest.mark.parametrize("family", [v4, v6])
def test_O5_a_name_with_one_family_alone(world: World, family: Callable[[int], Candidate]) -> None:
    world.answers(family(3), after=0.01)
    world.resolves([family(1), family(2), family(3)])
    _, info = world.dial()
    assert [each.address for each in info.attempts] == [family(n).address for n in (1, 2, 3)]
    assert world.begun() == [0.0, 0.25, 0.5]


def test_O5_an_address_that_is_told_twice_is_dialled_once(world: World) -> None:
    for each in (v4(1), v6(1)):
        world.fails(each, errno.ECONNREFUSED, after=0.01)
    world.resolves([v4(1), v4(1), v6(1), v4(1), v6(1)])
    with pytest.raises(ConnectError) as failed:
        world.dial()
    assert [each.address for each in failed.value.attempts] == ["192.0.2.1:80", "[2001:db8::1]:80"]
    assert str(failed.value) == (
        "db.example:80: no connection (connect; tried 2 addresses: 192.0.2.1:80 connection refused,"
        " [2001:db8::1]:80 connection refused)"
    )


def test_O5_a_look_up_that_hangs_ends_with_the_deadline(world: World) -> None:
    world.resolves([v4(1)], after=NEVER)
    with pytest.raises(ConnectTimeout) as late:
        world.dial(seconds=30)
    assert world.passed() == 30.0
    assert (late.value.phase, late.value.attempts) == ("resolve", ())
    assert str(late.value) == (
        "db.example:80: no answer in 30 s (resolve; the look-up of the name)"
    )
    assert world.sockets == []


@pytest.mark.parametrize(
    "answer",
    [
        [v4(1)],
        socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"),
        SystemExit("a resolver of the user's own"),
    ],
    ids=["addresses", "an error", "SystemExit"],
)
def test_O5_an_answer_after_the_deadline_comes_to_nobody(
    world: World, answer: list[Candidate] | BaseException
) -> None:
    world.resolves(answer, after=30.5)
    with pytest.raises(ConnectTimeout, match="resolve"):
        world.dial(seconds=30)
    assert world.passed() == 30.0
    assert world.happens_by(NEVER)  # the answer
    assert world.passed() == 30.5
    assert world.waker.set_at == NEVER and world.sockets == []


@pytest.mark.parametrize("tls", [False, True])
def test_O5_one_deadline_over_the_look_up_and_all_attempts(world: World, tls: bool) -> None:
    """DNS takes 29.25 of the 30 seconds: three attempts begin, and all end at 30."""
    world.resolves([*map(v4, range(1, 41))], after=29.25)
    with pytest.raises(ConnectTimeout) as late:
        world.dial(seconds=30, tls=tls)
    assert world.passed() == 30.0
    assert world.begun() == [29.25, 29.5, 29.75]
    assert told(late.value.attempts) == [
        ("192.0.2.1:80", 0.75, errno.ETIMEDOUT),
        ("192.0.2.2:80", 0.5, errno.ETIMEDOUT),
        ("192.0.2.3:80", 0.25, errno.ETIMEDOUT),
    ]
    assert late.value.phase == "connect"
    assert str(late.value) == (
        "db.example:80: no answer in 30 s (connect; tried 3 addresses: 192.0.2.1:80 no answer in"
        " time, 192.0.2.2:80 no answer in time, 192.0.2.3:80 no answer in time)"
    )
    assert world.most_open == 3
    world.assert_all_closed_but()


def test_O5_the_handshake_gets_what_is_left_of_the_deadline(world: World) -> None:
    world.resolves([v6(1), v4(1)], after=20)
    world.answers(v4(1), after=4)
    world.dial(seconds=30, tls=True)
    assert world.left_for_tls == [pytest.approx(5.75)]


def test_O5_an_address_that_is_no_name_begins_at_once(world: World) -> None:
    world.resolves(AssertionError("looked up"))
    world.answers(v4(1), after=0.1)
    _, info = world.dial("192.0.2.1")
    assert world.begun() == [0.0] and world.agenda == []
    assert info.timings.resolve is None and info.timings.connect == pytest.approx(0.1)


@pytest.mark.parametrize("answer", [[v4(1)], socket.gaierror(socket.EAI_AGAIN, "try again")])
def test_O4_an_answer_that_is_too_late_by_nothing_was_too_late_in_the_look_up(
    world: World, answer: list[Candidate] | BaseException
) -> None:
    """The time went there, and there was none to dial in."""
    world.resolves(answer, after=30)
    with pytest.raises(ConnectError) as late:
        world.dial(seconds=30)
    assert late.value.phase == "resolve" and late.value.attempts == ()
    assert "0 addresses" not in str(late.value)


def test_O4_a_failed_look_up_is_told_when_it_fails(world: World) -> None:
    world.resolves(socket.gaierror(socket.EAI_AGAIN, "try again"), after=5)
    with pytest.raises(ResolveError, match="try again"):
        world.dial(seconds=30)
    assert world.passed() == 5.0


@pytest.mark.parametrize("at", [0.0, 0.9, 1.0, 1.1, 1.25, 1.3, 2.9])
def test_E4_called_off_at_any_time_it_ends_at_once(world: World, at: float) -> None:
    """In the look-up (one second long), in the moment of its answer, before and after attempts."""
    world.at(at, world.call_off)
    world.resolves([v6(1), v4(1), v6(2), v4(2)], after=1.0)
    world.fails(v6(2), errno.ECONNREFUSED, after=0.1)
    world.answers(v4(2), after=2.0)
    with pytest.raises(Stopped) as stopped:
        world.dial()
    assert stopped.value.args == ()
    assert world.passed() == at
    world.assert_all_closed_but()


# Real sockets on loopback -----------------------------------------------------------------------


@pytest.fixture
def waker() -> Iterator[platform.Waker]:
    waker = platform.Waker()
    yield waker
    waker.close()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


@pytest.fixture
def refusing() -> Iterator[Candidate]:
    """A port that is taken and does not listen."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield Candidate(socket.AF_INET, sock.getsockname())


def test_O5_a_real_refusal_and_a_real_answer(
    waker: platform.Waker, listener: socket.socket, refusing: Candidate
) -> None:
    answering = Candidate(socket.AF_INET, listener.getsockname())
    prepared: list[socket.socket] = []
    sock, attempts = race(
        [refusing, answering],
        deadline=Deadline(30),
        waker=waker,
        stop=lambda: False,
        prepare=prepared.append,
    )
    with sock:
        assert sock.getpeername() == answering.sockaddr
        assert sock.gettimeout() == 0.0
        assert [each.fileno() for each in prepared] == [-1, sock.fileno()]
        assert [each.address for each in attempts] == [refusing.address, answering.address]
        assert isinstance(attempts[0].error, ConnectionRefusedError)
        assert attempts[1].error is None
        assert all(each.seconds >= 0 for each in attempts)
        peer, _ = listener.accept()
        with peer:
            peer.sendall(b"hello")
            sock.setblocking(True)
            assert sock.recv(5) == b"hello"


def test_O5_real_refusals_alone(waker: platform.Waker, refusing: Candidate) -> None:
    with pytest.raises(AllFailed) as caught:
        race(
            [refusing],
            deadline=Deadline(30),
            waker=waker,
            stop=lambda: False,
            prepare=lambda sock: None,
        )
    (attempt,) = caught.value.attempts
    assert isinstance(attempt.error, ConnectionRefusedError)


def test_E4_a_real_waker_stops_the_race(
    waker: platform.Waker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The black hole is a socket whose connect() we leave out, the rest is real."""
    sleeping, stopped = threading.Event(), threading.Event()

    class BlackHole(socket.socket):
        def connect_ex(self, address: object, /) -> int:
            super().bind(("127.0.0.1", 0))
            super().listen()  # polls neither writable nor failed
            return errno.EINPROGRESS

    def stop() -> bool:
        return stopped.is_set()

    def close() -> None:
        assert sleeping.wait(30)
        stopped.set()
        waker.set()

    monkeypatch.setattr(socket, "socket", BlackHole)
    opened: list[socket.socket] = []

    def prepare(sock: socket.socket) -> None:
        opened.append(sock)
        sleeping.set()

    closer = threading.Thread(target=close)
    closer.start()
    with pytest.raises(Stopped):
        race([v4(1)], deadline=Deadline(None), waker=waker, stop=stop, prepare=prepare)
    closer.join()
    assert [sock.fileno() for sock in opened] == [-1]
