"""The send side: one write at a time, whole, by its deadline; then the half-close.

A caller sends for itself. It takes the turn first, also while the connection is still opening, and
keeps it until its bytes are with the kernel; others wait. The half-close needs the turn too: who
asks for it tries, and whoever gives the turn up tries again, so FIN goes out in place or right
behind the write in progress, and no thread has to wait for it.
"""

from __future__ import annotations

import concurrent.futures
import time
from collections.abc import Callable
from typing import Any

from .. import _deadline
from .._deadline import Deadline
from .._errors import (
    ConnectionLost,
    SocketError,
    WriteTimeout,
    bare,
    fresh,
)
from .._wire.platform import POLLOUT
from .._wire.wire import TIMED_OUT, WOKEN, Wire
from .lease import Lease
from .state import Ending, Outbound, Phase, State

__all__ = ["Sending"]

# Names of their own for what each write asks: before Python 3.12 an enum is slow to give members.
_OPEN, _CLOSING, _NOT_ENDING = Phase.OPEN, Outbound.CLOSING, Ending.NONE


class _HalfClose:
    """Whose turn it is while FIN goes out: one object for each attempt."""


class Sending:
    """What a connection sends.

    Attributes, each guarded by the state's lock:
        outbound: see the enum.
        refusal: what later writes raise, once the write side is closed.
        turn: who is sending: an object of that write's, or of that half-close's, own.
        waiting: how many writes wait for their turn.
        blocked: the write in progress waits for the peer to take more.
        lease: the stream's lock.
        sent: bytes so far, also of the write in progress; last_at: when the last write ended.
    """

    def __init__(self, state: State, on_blocked: Callable[[], None]) -> None:
        self._state = state
        self._on_blocked = on_blocked  # called with the lock held
        self.outbound = Outbound.OPEN
        self.refusal: SocketError | None = None
        self.turn: object | None = None
        self.waiting = 0
        self.blocked = False
        self.lease = Lease(state, "write")
        self.sent = 0
        self.last_at = _deadline.clock()

    # -- The stream's lock ----------------------------------------------------------------------

    def acquire(self, holder: object, closed: concurrent.futures.Future[Any]) -> None:
        """Take the stream's lock."""
        state = self._state
        with state.lock:
            self.lease.take(holder, closed)
            if state.failure is not None:  # who comes too late learns at once how it ended (R10)
                self.lease.settle(state.failure)
            elif self.outbound is Outbound.SHUT:
                self.lease.settle(None)
        state.settlements.run()

    def release(self, holder: object) -> None:
        """Give the stream's lock back; StreamBusy while a write is in progress."""
        with self._state.lock:
            busy = self.waiting > 0 or not isinstance(self.turn, (_HalfClose, type(None)))
            self.lease.give_back(holder, busy=busy)
        self._state.settlements.run()

    # -- Writing --------------------------------------------------------------------------------

    def write(self, writer: object, data: bytes | memoryview, timeout: float | None) -> None:
        """Send all of it (rules W1, W2, W4).

        Args:
            writer: who asks; it must hold the stream's lock.
            data: bytes, or a view of single bytes.
            timeout: seconds for the whole call, or None.
        """
        state = self._state
        deadline = None if timeout is None else Deadline(timeout)
        mine = object()  # whose turn it is
        sent = 0
        begun = False
        try:
            with state.lock:
                self._check(writer)
                if self.turn is not None:
                    self._wait_for_turn(writer, deadline, timeout)
                self.turn = mine
                if state.phase is not _OPEN:
                    self._wait_for_opening(deadline, timeout)
                wire = state.wire
            if not data:
                return
            assert wire is not None
            begun = True
            rest = data
            while True:
                took = wire.send(rest)
                if took is not None:
                    sent += took
                    self.sent += took  # only who has the turn writes it
                    if sent == len(data):
                        return
                    rest = memoryview(data)[sent:]
                elif not self._wait_for_room(wire, deadline):
                    raise self._timed_out(sent, wire.in_flight(rest), len(data), timeout)
        except SocketError as error:
            if begun:
                stored = self._broken(error)
                raise fresh(stored) from stored
            raise
        except BaseException as error:
            if begun:  # nobody can know how much of it went out (rule W4)
                with state.lock:
                    state.fail(state.aborted_error(error), Ending.CUT)
            raise
        finally:
            try:
                self._give_turn_up(mine, sent)
            except BaseException:  # a signal handler's: the turn must not stay taken
                self._give_turn_up(mine, sent)
                raise

    def _check(self, writer: object) -> None:
        """Whether this writer may write. Requires the lock."""
        state = self._state
        if state.refusal is not None or state.ending is not _NOT_ENDING:
            state.check()
        self.lease.check(writer)
        error = state.failure or state.lost or self.refusal
        if error is not None:
            raise fresh(error) from error

    def _wait_for_turn(
        self, writer: object, deadline: Deadline | None, timeout: float | None
    ) -> None:
        """Until nobody else is sending. Requires the lock."""
        state = self._state
        self.waiting += 1
        try:
            while self.turn is not None:
                remaining = None if deadline is None else deadline.remaining()
                if not state.callers_turn.wait(remaining) and self.turn is not None:
                    raise self._waited_too_long(timeout, "for another write to end")
                self._check(writer)
        finally:
            self.waiting -= 1

    def _wait_for_opening(self, deadline: Deadline | None, timeout: float | None) -> None:
        """Until the connection is open, or never will be. Requires the lock, and the turn."""
        state = self._state
        while state.phase is Phase.OPENING:
            remaining = None if deadline is None else deadline.remaining()
            if not state.callers_turn.wait(remaining) and state.phase is Phase.OPENING:
                raise self._waited_too_long(timeout, "for the connection to open")
            error = state.refusal or state.failure
            if error is not None:
                raise fresh(error) from error

    def _wait_for_room(self, wire: Wire, deadline: Deadline | None) -> bool:
        """Until the kernel may take more; False if there is no more time."""
        state = self._state
        if not self.blocked:
            with state.lock:
                self.blocked = True
                self._on_blocked()  # somebody must read meanwhile, or both sides may wait (R1)
        heed_waker = True
        while True:
            found = wire.wait_to_send(wire.send_events, deadline, heed_waker=heed_waker)
            with state.lock:
                if state.ending not in (Ending.NONE, Ending.CLOSING):
                    error = state.refusal or state.failure or state.lost
                    assert error is not None
                    raise fresh(error) from error
            if found & ~WOKEN:
                return True
            if found == TIMED_OUT and (deadline is None or not deadline.expired()):
                if not wire.send_events & POLLOUT:
                    return True  # what it waits for may have been received by whoever reads
                heed_waker = True  # that was the short wait below
            elif found == TIMED_OUT:
                return False
            else:
                heed_waker = False  # the wake-up is for the receiver, which will take it back

    def _give_turn_up(self, mine: object, sent: int) -> None:
        state = self._state
        with state.lock:
            if self.turn is not mine:
                return
            self.turn = None
            self.blocked = False
            if sent:
                self.last_at = time.monotonic()
            closing = self.outbound is _CLOSING
            if self.waiting:
                state.callers_turn.notify_all()
            if state.ending is not _NOT_ENDING:
                state.thread_turn.notify()
        if closing:
            self.try_half_close()

    # -- Closing --------------------------------------------------------------------------------

    def close(self, refusal: SocketError) -> None:
        """Ask for the half-close; later writes raise `refusal`. Requires the lock."""
        if self.outbound is Outbound.OPEN:
            self.outbound = Outbound.CLOSING
            self.refusal = refusal
            if self.waiting:
                self._state.callers_turn.notify_all()

    @property
    def fin_is_due(self) -> bool:
        """Whether the half-close has been asked for and can begin. Requires the lock."""
        return self.outbound is Outbound.CLOSING and self.turn is None and not self._state.tail

    def try_half_close(self) -> bool:
        """Send FIN if it is due and nobody is sending. Never waits; takes the lock.

        Returns: whether it tried, and so has woken everybody.
        """
        state = self._state
        mine = _HalfClose()
        try:
            with state.lock:
                if (
                    not self.fin_is_due
                    or state.phase is not Phase.OPEN
                    or state.ending not in (Ending.NONE, Ending.CLOSING)
                ):
                    return False
                wire = state.wire
                assert wire is not None
                self.turn = mine
            try:
                done = wire.half_close()
            except BaseException as error:  # a signal handler's: half of it may be done
                with state.lock:
                    state.fail(state.aborted_error(error), Ending.CUT)
                raise
            with state.lock:
                state.tail = not done
                if done:
                    self._shut()
        finally:
            try:
                self._end_half_close(mine)
            except BaseException:  # a signal handler's: the turn must not stay taken
                self._end_half_close(mine)
                raise
        state.settlements.run()
        return True

    def _end_half_close(self, mine: _HalfClose) -> None:
        with self._state.lock:
            if self.turn is mine:
                self.turn = None
                self._state.wake_all()

    def flush_tail(self, wire: Wire) -> None:
        """Send the rest of a half-close, for the connection's thread; takes the lock."""
        if self._state.tail and wire.half_close():
            with self._state.lock:
                self._shut()
            self._state.settlements.run()

    def _shut(self) -> None:
        """FIN is out. Requires the lock."""
        self._state.tail = False
        self.outbound = Outbound.SHUT
        if self._state.ending is Ending.NONE:
            self.lease.settle(None)

    # -- Errors ---------------------------------------------------------------------------------

    def _broken(self, error: SocketError) -> SocketError:
        """A write that had begun ended with an error; returns the stored one that tells why."""
        state = self._state
        bare(error)
        with state.lock:
            if isinstance(error, WriteTimeout):
                state.fail(error, Ending.CUT)
                return error
            earlier = state.refusal or state.failure or state.lost
            if earlier is not None:
                return earlier
            state.lost = error  # what had arrived is still to be read, and then this (rule R9)
            state.wake_all()
            return error

    def _timed_out(self, sent: int, in_flight: int, of: int, timeout: float | None) -> WriteTimeout:
        taken = sent + in_flight
        return WriteTimeout(
            f"{self._state.address}: write timed out after {timeout:g} s: the peer does not read,"
            f" and the kernel took {taken} of {of} bytes; the connection is reset",
            address=self._state.address,
            bytes_written=taken,
        )

    def _waited_too_long(self, timeout: float | None, what: str) -> WriteTimeout:
        return WriteTimeout(
            f"{self._state.address}: write timed out after {timeout:g} s of waiting {what};"
            " nothing was sent, and the connection is as it was",
            address=self._state.address,
        )

    def peer_closed_error(self) -> ConnectionLost:
        """What writes raise after the peer's FIN has closed the write side (rule E1)."""
        return ConnectionLost(
            f"{self._state.address}: the peer has closed the connection (write); to go on writing"
            " after its end: allow_half_open=True",
            phase="write",
            address=self._state.address,
        )
