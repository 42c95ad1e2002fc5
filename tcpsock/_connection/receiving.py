"""The receive side: who owns it, what has been read ahead, and how it changes hands.

One owner at a time receives: nobody, the connection's thread, or a caller that is blocked in a
read. A caller that finds the queue empty receives for itself, so its bytes cross no thread; the
thread reads ahead when nobody is reading.

The hand-over:
- Thread to caller: the caller adds itself to `wanted`, sets the waker, and waits on
  `callers_turn`. The thread comes out of its poll, gives up, and stands back while `wanted`.
- Caller to thread: on leaving, the caller stamps `left_at` and, if the thread waits for it, wakes
  the thread, which then lets a grace pass before it takes over: who reads once mostly reads again.
  No grace is given where somebody needs the thread now (`Connection._stand_back`).
- Nothing is lost or reordered, because only the owner receives, and it puts what it received into
  the queue, or gives it to its caller, in the same critical section in which it gives up.
- Only the owner clears the waker.
- While a send has failed, or the half-close waits for room (`State.thread_needed`), the thread
  alone receives: it has more to do in its poll than a caller would.
"""

from __future__ import annotations

import concurrent.futures
import enum
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

from .. import _deadline
from .._deadline import Deadline
from .._errors import (
    IncompleteRead,
    LimitExceeded,
    ReadTimeout,
    SocketError,
    StreamBusy,
    TlsTruncated,
    fresh,
)
from .._wire.platform import POLLERR, POLLHUP
from .._wire.wire import TIMED_OUT, WOKEN, Wire
from .lease import Lease
from .queue import ByteQueue
from .state import Ending, Inbound, Owner, Phase, State

__all__ = ["Receiving"]

CHUNK: Final = 1 << 18  # bytes to receive at once: larger ones gain nothing
_USUAL: Final = 1 << 16  # bytes to receive at first: a larger buffer costs more than a small answer
_HANDOVER: Final = 0.05  # seconds that a read with less time left still waits for the thread

# Names of their own for what each read asks: before Python 3.12 an enum is slow to give members.
_OPEN, _NOBODY, _CALLER, _EOF = Phase.OPEN, Owner.NOBODY, Owner.CALLER, Inbound.EOF
_NOT_ENDING = Ending.NONE

_Into = TypeVar("_Into", int, memoryview)
_Got = TypeVar("_Got", bytes, int)
_Bytes = TypeVar("_Bytes", bytes, memoryview)
_Result = TypeVar("_Result", bytes, int)


class _Call:
    """A read in progress: a token, and what it has received and not yet passed on.

    An exception may come out of any line (a signal handler's, a greenlet's); the last step of the
    read then finds here what must go back to the front (rule R4).
    """

    __slots__ = ("got",)

    def __init__(self) -> None:
        self.got: bytes | memoryview | _Waited | None = None


class _Waited(enum.Enum):
    """What a read waited for in vain."""

    LOOK = "the state has changed, or the connection has failed"
    OVER = "the deadline is over"


class Receiving:
    """What a connection receives.

    Attributes, each guarded by the state's lock:
        queue: received and not yet read.
        inbound: see the enum.
        mark: `high_water_mark`: how many bytes may be read ahead.
        owner: who may receive.
        wanted: how many callers wait for the thread to give up.
        reading: the read in progress.
        thread_waits: the thread waits for the caller that owns the receive side.
        stalled: the thread waits for room in the queue.
        unread: bytes lie in the kernel that nobody has asked for, and hide a FIN behind them; known
            only where there is no POLLRDHUP.
        peer_done: the peer's FIN is behind what the queue has no room for.
        hangup_known: both sides have hung up: a poll would end at once, again and again.
        cancelled: the inbound data was given up by cancel(): reads give EOF.
        held_by_file: tells how many bytes an open as_file() has taken and not given to its user
            yet; it doesn't wait. None: there is no such file.
        left_at: when a caller last gave up the receive side, as time.monotonic() counts.
        lease: the stream's lock.
        received: bytes so far; last_at: when the last ones came.
    """

    def __init__(self, state: State, mark: int) -> None:
        self._state = state
        self.mark = mark
        self.queue = ByteQueue()
        self.inbound = Inbound.WATCHED
        self.owner = _NOBODY
        self.wanted = 0
        self.reading: _Call | None = None
        self.thread_waits = False
        self.stalled = False
        self.unread = False
        self.peer_done = False
        self.hangup_known = False
        self.cancelled = False
        self.held_by_file: Callable[[], int] | None = None
        self.left_at = 0.0
        self.lease = Lease(state, "read")
        self.received = 0
        self._likely = _USUAL  # how many bytes the next receive may bring; the owner's alone
        self._last_size = 0  # the owner's too
        self.last_at = _deadline.clock()

    # -- The stream's lock ----------------------------------------------------------------------

    def acquire(self, holder: object, closed: concurrent.futures.Future[Any]) -> None:
        """Take the stream's lock; reading ahead begins (rule R0)."""
        state = self._state
        with state.lock:
            self.lease.take(holder, closed)
            if self.cancelled:  # who comes too late learns at once how it ended (R10)
                self.lease.settle(None)
            elif state.failure is not None:
                self.lease.settle(state.failure)
            self.begin_reading()
        state.settlements.run()

    @property
    def read_ahead(self) -> int:
        """How many bytes were received and not read by anybody. Requires the lock."""
        held = 0 if self.held_by_file is None else self.held_by_file()
        return len(self.queue) + held

    def release(self, holder: object) -> None:
        """Give the stream's lock back; StreamBusy while a read is in progress."""
        with self._state.lock:
            self.lease.give_back(holder, busy=self.reading is not None)
        self._state.settlements.run()

    def begin_reading(self) -> None:
        """Read ahead from now on. Requires the lock."""
        if self.inbound is Inbound.WATCHED:
            self.inbound = Inbound.READING
            if self.owner is Owner.THREAD:  # it polls for a hang-up only: poll for bytes
                assert self._state.waker is not None
                self._state.waker.set()

    def cancel(self) -> None:
        """Throw away what came and what comes; the write side goes on (rule R7)."""
        state = self._state
        with state.lock:
            self.queue.clear()
            state.count_as_lost()
            if state.refusal is None and state.failure is None and not self.cancelled:
                self.cancelled = True
                if self.inbound is not _EOF:
                    self.inbound = Inbound.DISCARDED
                self.lease.settle(None)
                state.wake_all()
        state.settlements.run()

    def discard(self) -> None:
        """The same for close(), which also drops what was read ahead. Requires the lock."""
        self.queue.clear()
        if self.inbound is not _EOF:
            self.inbound = Inbound.DISCARDED

    def drain(self) -> None:
        """Take in what the kernel still holds: the connection is lost. Requires the lock."""
        if self.inbound in (Inbound.WATCHED, Inbound.READING):
            self.inbound = Inbound.DRAINING

    # -- Read calls -----------------------------------------------------------------------------

    def read(self, reader: object, max_bytes: int, timeout: float | None) -> bytes:
        """What is there, at least one byte, at most max_bytes; b"" at EOF (rule R2)."""

        def take() -> bytes | None:
            if self.queue.content:
                return self.queue.take(max_bytes)
            return b"" if self._at_end() else None

        def receive(wire: Wire, deadline: Deadline | None) -> bytes | _Waited:
            return self._receive(wire.recv, self._ask_for(max_bytes), deadline)

        def give(received: bytes) -> bytes | None:
            if len(received) <= max_bytes:
                return received
            self.queue.append(received)
            return None

        return self._call(reader, timeout, take, receive, give)

    def readinto(self, reader: object, view: memoryview, timeout: float | None) -> int:
        """Fill the start of the caller's own buffer; 0 at EOF (rule R2)."""

        def take() -> int | None:
            if self.queue.content:
                return self.queue.take_into(view)
            return 0 if self._at_end() else None

        def receive(wire: Wire, deadline: Deadline | None) -> memoryview | _Waited:
            got = self._receive(wire.recv_into, view, deadline)
            return got if isinstance(got, _Waited) else view[:got]

        return self._call(reader, timeout, take, receive, len)

    def gather(
        self,
        reader: object,
        timeout: float | None,
        complete: Callable[[ByteQueue, bool], bytes | None],
        reach: int,
    ) -> bytes:
        """Receive into the queue until a read call has what it asked for.

        Args:
            reader: who asks; it must hold the stream's lock.
            timeout: seconds for the whole call, or None.
            complete: called under the lock with the queue and whether EOF follows it; takes its
                bytes out and returns them, or None for "more, please" (never at EOF), or raises.
                Until then the bytes stay in the queue: a call that gives up has lost nothing (R4).
            reach: how many bytes the call may need, and so the queue may hold for it.
        """

        def take() -> bytes | None:
            result = complete(self.queue, self.cancelled or self.inbound is _EOF)
            if result is None:
                self._at_end()
            return result

        def receive(wire: Wire, deadline: Deadline | None) -> bytes | _Waited:
            room = max(1, max(self.mark, reach) - len(self.queue))  # a hint, without the lock
            return self._receive(wire.recv, min(room, self._ask_for(CHUNK)), deadline)

        return self._call(reader, timeout, take, receive, self.queue.append)

    def _call(
        self,
        reader: object,
        timeout: float | None,
        take: Callable[[], _Result | None],
        receive: Callable[[Wire, Deadline | None], _Bytes | _Waited],
        give: Callable[[_Bytes], _Result | None],
    ) -> _Result:
        """One read call, from its beginning to its end.

        Args:
            take: its result from what is in the queue, or at EOF; None if there is none yet. Called
                with the lock.
            receive: waits and receives, as the owner; without the lock.
            give: its result from what was just received, the queue being empty; None to go on.
                Called with the lock.
        """
        state = self._state
        deadline = None if timeout is None else Deadline(timeout)
        call = _Call()
        try:
            while True:
                with state.lock:
                    if self.reading is not call:
                        self._begin(reader, call)
                    if state.refusal is not None:  # the queue was dropped: that is no EOF
                        raise fresh(state.refusal) from state.refusal
                    result = take()
                    if result is not None:
                        if not result and not self.queue.content and self._at_end():
                            self.deliver_eof()
                        return result
                    owned = self._own(deadline, timeout)
                if not owned:
                    continue
                wire = state.wire
                assert wire is not None
                call.got = got = receive(wire, deadline)
                with state.lock:
                    self._give_up()
                    if isinstance(got, _Waited):
                        pass
                    elif not got:
                        self._note_eof()
                    elif self._count(len(got)):
                        call.got = None
                        result = give(got)
                        if result is not None:
                            self.reading = None
                            return result
                if got is _Waited.OVER:
                    raise self._timed_out(timeout)
        finally:
            if self.reading is call:
                try:
                    self._finish(call)
                except BaseException:  # a signal handler's: the read must not stay in progress
                    self._finish(call)
                    raise

    def put_back(self, unread: bytes) -> None:
        """Return what was read and not used; the next read gives it first (rule R3)."""
        with self._state.lock:
            if self._state.refusal is None and not self.cancelled:
                self.queue.put_back(unread)

    # -- Steps of a read call. Each requires the lock unless it says otherwise. -----------------

    def _begin(self, reader: object, call: _Call) -> None:
        """Begin a read: the caller holds the stream's lock, and nobody else is reading."""
        state = self._state
        if state.refusal is not None or state.ending is not _NOT_ENDING:
            state.check()
        self.lease.check(reader)
        if self.reading is not None:
            raise StreamBusy(
                f"{state.address}: another thread is blocked in a read on this stream",
                phase="read",
                address=state.address,
            )
        self.reading = call

    def _at_end(self) -> bool:
        """Whether reads give EOF now that the queue is empty; raises if they give an error."""
        state = self._state
        if self.cancelled or self.inbound is _EOF:
            return True  # for ever, also if something breaks later (rule R2)
        if state.failure is not None:
            raise fresh(state.failure) from state.failure
        return False

    def _own(self, deadline: Deadline | None, timeout: float | None) -> bool:
        """Become the owner of the receive side; False if it's worth looking again first."""
        state = self._state
        if state.phase is _OPEN and self.owner is _NOBODY and not state.thread_needed:
            self.owner = _CALLER
            return True
        remaining = None if deadline is None else deadline.remaining()
        if state.phase is Phase.OPENING:
            if remaining == 0:
                raise self._timed_out(timeout)
            state.callers_turn.wait(remaining)
            return False
        # The thread has it and is on its way out of a poll. That takes no time worth counting,
        # so that "timeout=0" still sees what the kernel has; but it may be in a user's callback.
        if remaining is not None and remaining < _HANDOVER:
            remaining = _HANDOVER
        self.wanted += 1
        try:
            assert state.waker is not None
            state.waker.set()
            if not state.callers_turn.wait(remaining) and deadline is not None:
                raise self._timed_out(timeout)
        finally:
            self.wanted -= 1
        return False

    def _give_up(self) -> None:
        """Leave the receive side to whoever wants it."""
        self.owner = _NOBODY
        self.left_at = time.monotonic()
        if self.thread_waits:
            self._state.thread_turn.notify()

    def _count(self, got: int) -> bool:
        """Note that bytes were received; False if nobody is to have them any more."""
        self.received += got
        self._last_size = got
        self.last_at = self.left_at
        return self._state.refusal is None and not self.cancelled

    def _note_eof(self) -> None:
        """The peer has ended; but after a failed send that is no clean end (rule R9)."""
        state = self._state
        if state.lost is not None:
            state.fail(state.lost)
        elif self.inbound is not _EOF:
            self.inbound = _EOF
            self.hangup_known = False
            state.thread_turn.notify()

    def deliver_eof(self) -> None:
        """Whoever reads now knows that there is no more (rule R10). Requires the lock."""
        self.lease.settle(None)

    def _finish(self, call: _Call) -> None:
        """The last step of a read. Takes the lock; doing it twice is doing it once."""
        state = self._state
        with state.lock:
            if self.reading is call:
                if self.owner is _CALLER:  # an exception came out of the wait, or out of a receive
                    if isinstance(call.got, (bytes, memoryview)) and self._count(len(call.got)):
                        self.queue.append(call.got)
                    call.got = None
                    self._give_up()
                self.reading = None
            if self.thread_waits:  # it stood back, but the queue had all that was wanted
                state.thread_turn.notify()
            # Let the thread read on once half of the queue is free, or all that is left has room.
            if self.stalled and (self.peer_done or len(self.queue) <= self.mark // 2):
                self.stalled = False
                if state.waker is not None:
                    state.waker.set()
        if state.settlements:
            state.settlements.run()

    # -- For the owner, without the lock --------------------------------------------------------

    def _ask_for(self, max_bytes: int) -> int:
        """How many bytes to receive: what is likely there. A small read may as well fill the queue.

        The likely size doubles while receives fill it, and is halved when they are small.
        """
        if self._last_size == self._likely:
            self._likely = min(CHUNK, 2 * self._likely)
        elif self._last_size < self._likely // 4:
            self._likely = max(_USUAL, self._likely // 2)
        return min(self._likely, max(max_bytes, self.mark))

    def _receive(
        self, receive: Callable[[_Into], _Got | None], into: _Into, deadline: Deadline | None
    ) -> _Got | _Waited:
        """Wait for bytes and receive them, as the owner, by one of the wire's calls.

        A failure is told by the state.
        """
        state = self._state
        wire = state.wire
        assert wire is not None
        try:
            while True:
                if not wire.maybe_more:
                    found = wire.wait_to_receive(wire.receive_events, deadline)
                    if found & WOKEN:
                        state.clear_waker()
                        return _Waited.LOOK
                    if found == TIMED_OUT:
                        return _Waited.OVER
                got = receive(into)
                if got is not None:
                    return got
        except SocketError as error:
            with state.lock:
                state.fail(error)
            return _Waited.LOOK

    def receive_ahead(self, wire: Wire) -> None:
        """One receive of the connection's thread, as the owner; it gives up in the end."""
        state = self._state
        room = CHUNK  # a hint, without the lock: others take bytes out, only the owner adds any
        if self.inbound is Inbound.READING:
            room = min(CHUNK, max(1, self.mark - len(self.queue)))
        try:
            got = wire.recv(min(room, self._ask_for(CHUNK)))
        except SocketError as error:
            with state.lock:
                self.owner = _NOBODY
                if state.ending is Ending.CLOSING and isinstance(error, TlsTruncated):
                    self._note_eof()  # we have said goodbye: how the peer does is its own affair
                else:
                    state.fail(error)
            return
        with state.lock:
            self.owner = _NOBODY
            if got:
                self.received += len(got)
                self._last_size = len(got)
                self.last_at = time.monotonic()
                if self.inbound in (Inbound.READING, Inbound.DRAINING):
                    self.queue.append(got)
            elif got is not None:
                self._note_eof()
            elif state.lost is not None and self.inbound is Inbound.DRAINING:  # that was all
                state.fail(state.lost)
            if self.reading is not None:
                state.callers_turn.notify_all()

    def note_hangup(self, found: int, reset: bool) -> None:
        """The thread's poll has told that the peer hung up. Requires the lock.

        Args:
            found: poll()'s events.
            reset: whether the wire was seen to be reset.
        """
        if self.inbound is Inbound.WATCHED:
            self.inbound = Inbound.READING  # find out how (rule R0)
        elif reset and self.inbound is _EOF:
            assert self._state.wire is not None
            self._state.fail(self._state.wire.lost("read"))
        elif reset:
            self.drain()
        else:
            self.peer_done = True
            self.hangup_known = bool(found & (POLLERR | POLLHUP))

    # -- Errors ---------------------------------------------------------------------------------

    def _timed_out(self, timeout: float | None) -> ReadTimeout:
        address = self._state.address
        doing = "connecting" if self._state.phase is Phase.OPENING else "waiting for the peer"
        return ReadTimeout(
            f"{address}: read timed out after {timeout:g} s of {doing}; nothing is lost, the next"
            " read gives what comes",
            phase="read",
            address=address,
        )

    def incomplete(self, partial: bytes, expected: int | None, what: str) -> IncompleteRead:
        """The error of a read that met EOF too early; `partial` has been taken out.

        Requires the lock.
        """
        self.deliver_eof()
        address = self._state.address
        return IncompleteRead(
            f"{address}: the peer ended after {len(partial)} bytes, before {what} (read)",
            phase="read",
            address=address,
            partial=partial,
            expected=expected,
        )

    def beyond_limit(self, limit: int, what: str) -> LimitExceeded:
        """The error of a read that found no end within its limit; nothing was taken out."""
        address = self._state.address
        return LimitExceeded(
            f"{address}: {what} within limit={limit} bytes (read); nothing was consumed",
            phase="read",
            address=address,
        )
