"""What is put into tcpsock for a test, so that a Schedule sees its threads come by.

The lock and the Conditions of a connection, its wire's calls, `select.poll`, and the start of its
threads. They do what they always do, and tell the Schedule where a thread is; there it may be
stopped.
"""

from __future__ import annotations

import functools
import itertools
import select
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tcpsock import _threads
from tcpsock._connection import life
from tcpsock._connection.state import State
from tcpsock._wire.tls import TlsWire
from tcpsock._wire.wire import Wire

if TYPE_CHECKING:
    from schedule import Schedule

__all__ = ["install"]

WIRE_CALLS = (
    "wait_to_receive",
    "wait_to_send",
    "recv",
    "recv_into",
    "send",
    "half_close",
    "at_eof",
    "was_reset",
    "plaintext_waiting",
    "handshake",
    "reset",
    "close",
    "release",
)

_real_poll = select.poll


def install(schedule: Schedule, replace: Callable[[Any, str, Any], None]) -> None:
    """Put them in: `replace` sets an attribute."""
    start_thread = _threads.start

    def start(run: Callable[[], None], name: str) -> None:
        start_thread(schedule.as_party(name, run), name)

    def traced(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def call(*args: Any, **options: Any) -> Any:
            with schedule.step(name):
                return method(*args, **options)

        return call

    replace(_threads, "start", start)
    replace(select, "poll", functools.partial(TracedPoll, schedule))
    replace(life, "State", functools.partial(TracedState, schedule))
    replace(life, "GRACE", 0.001)  # lest everybody waits for 50 ms after each read
    for kind, name in itertools.product((Wire, TlsWire), WIRE_CALLS):
        if name in vars(kind):
            replace(kind, name, traced(name, vars(kind)[name]))


class TracedLock:
    """A connection's lock. The last three methods are those that a Condition asks for."""

    def __init__(self, schedule: Schedule, lock: Any) -> None:
        self._schedule, self._lock = schedule, lock
        self._times = 0  # that it is held by whoever holds it
        self._is_owned = lock._is_owned

    def acquire(self, blocking: bool = True) -> bool:
        self._schedule.point("before lock")
        with self._schedule.waiting(self._is_held):
            taken: bool = self._lock.acquire(blocking)
        if taken:
            self._times += 1
            self._schedule.enter()
        return taken

    def release(self) -> None:
        self._times -= 1
        self._lock.release()
        self._schedule.leave("after lock")

    def _is_held(self) -> bool:
        return self._times > 0

    __enter__ = acquire

    def __exit__(self, *_: object) -> None:
        self.release()

    def _release_save(self) -> tuple[Any, int, int]:
        times, self._times = self._times, 0
        return self._lock._release_save(), times, self._schedule.swap_inside(0)

    def _acquire_restore(self, saved: tuple[Any, int, int]) -> None:
        self._schedule.awake()
        self._schedule.point("woken")
        with self._schedule.waiting(self._is_held):
            self._lock._acquire_restore(saved[0])
        self._times = saved[1]
        self._schedule.swap_inside(saved[2])


class TracedTurn(threading.Condition):
    """A Condition that knows who waits and was not notified."""

    def __init__(self, schedule: Schedule, lock: Any) -> None:
        super().__init__(lock)
        self._schedule = schedule
        self._sleepers: list[object] = []

    def wait(self, timeout: float | None = None) -> bool:
        if timeout is not None:
            return super().wait(timeout)  # a grace: it will go on by itself
        me = object()
        self._sleepers.append(me)
        with self._schedule.waiting(lambda: me in self._sleepers):
            return super().wait()

    def notify(self, n: int = 1) -> None:
        super().notify(n)
        if n:  # State.interrupted notifies nobody
            del self._sleepers[:n]  # they were the first to come
            self._schedule.note_change()


class TracedState(State):
    """A state with a traced lock. Who is woken may look at some of it without that lock, so there
    is a point behind each waking too."""

    def __init__(self, schedule: Schedule, address: str | None) -> None:
        super().__init__(address)
        self._schedule = schedule
        self.lock = TracedLock(schedule, self.lock)  # type: ignore[assignment]
        self.thread_turn = TracedTurn(schedule, self.lock)
        self.callers_turn = TracedTurn(schedule, self.lock)

    def wake_all(self) -> None:
        super().wake_all()
        self._schedule.point("waking, with the lock", even_inside=True)


class TracedPoll:
    """A select.poll() that others may ask whether it will find something."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._poll = _real_poll()
        self._events: dict[int, int] = {}
        self._left_out: dict[int, int] = {}
        self._is_short = False

    def register(self, fd: int, events: int) -> None:
        self._poll.register(fd, events)
        self._events[fd] = events
        self._left_out.pop(fd, None)

    modify = register

    def unregister(self, fd: int) -> None:
        self._poll.unregister(fd)
        self._left_out[fd] = self._events.pop(fd)

    def poll(self, milliseconds: int | None = None) -> list[tuple[int, int]]:
        if milliseconds == 0:
            return self._poll.poll(0)
        self._is_short = milliseconds is not None and milliseconds < 100
        with self._schedule.step("poll"), self._schedule.waiting(self._nothing_came):
            return self._poll.poll(milliseconds)

    def _nothing_came(self) -> bool:
        """Whether a poll would find nothing. A short one leaves the waker out, for the receiver to
        take its wake-up back: if nobody is stopped, one that stays means that the end has come.
        """
        events = list(self._events.items())
        if self._is_short and self._schedule.stopped_at is None:
            events += self._left_out.items()
        look = _real_poll()
        for fd, wanted in events:
            look.register(fd, wanted)
        return not look.poll(0)
