"""The life of a connection, as its own thread lives it: open, serve, end.

Read `Connection.live` first, then `_serve`, which decides what comes next, then `_end`. Everything
that takes time happens in this thread, except what a caller does for itself: receiving while it is
blocked in a read (receiving.py), and sending (sending.py). It is the only one that gives the
descriptor back. It knows a `Connection`, never the public objects: when those are gone, the
connection is told so by `drop`, and ends.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
import warnings
import weakref
from typing import Final

from .. import _threads
from .._errors import (
    ConnectError,
    SocketError,
    SocketForked,
    bare,
)
from .._futures import settle, settle_in_forked_child
from .._info import SocketStats
from .._wire.platform import POLLERR, POLLHUP, POLLIN, POLLOUT, POLLRDHUP, Waker, at_fork
from .._wire.wire import HANGUP, WOKEN, Wire, end_socket
from .opening import Opener, Stopped, Upgrading
from .receiving import Receiving
from .sending import Sending
from .state import Ending, Inbound, Outbound, Owner, Phase, State

__all__ = ["Connection"]

GRACE: Final = 0.05  # seconds that the receive side stays with a caller that has just read


class Connection:
    """One connection.

    Args:
        opener: opens it, in the connection's thread.
        address: HOST:PORT for messages.
        half_open: `allow_half_open`.
        close_timeout: seconds for the graceful end, or None.
        mark: `high_water_mark` in bytes.
    """

    def __init__(
        self,
        opener: Opener,
        address: str | None,
        *,
        half_open: bool,
        close_timeout: float | None,
        mark: int,
    ) -> None:
        self._opener: Opener | None = opener  # the thread's alone, once it has started
        self._half_open = half_open
        self._close_timeout = close_timeout
        self.state = State(address)
        self.receiving = Receiving(self.state, mark)
        self.sending = Sending(self.state, self._write_blocked)
        # What start_tls() made, and until when: each is one reference, set once under the lock of
        # the upgraded one, and read without. Who still reads an old predecessor wakes nobody.
        self.predecessor: Connection | None = None  # until it has handed its wire to this one
        self.successor: Connection | None = None
        self.detached: socket.socket | None = None  # on its way to detach()
        self._warned = False  # without a lock: at worst two threads warn
        self._made_at = time.monotonic()
        with _known_lock:
            _known.add(self)

    def start(self) -> None:
        """Let the connection live, in a thread of its own."""
        try:
            _threads.start(self._live_on, f"tcpsock {self.state.address}")
        except RuntimeError as error:  # the interpreter is ending, or there are no more threads
            address = self.state.address
            failure = ConnectError(f"{address}: no thread to connect in: {error}", address=address)
            failure.__cause__ = bare(error)
            with self.state.lock:
                self.state.fail(failure)
            self._end()

    # -- What callers ask for -------------------------------------------------------------------

    def close(self) -> None:
        """Flush, FIN, drain, by the close timeout (rule E4). Returns at once; never raises."""
        woken = False
        try:
            with self.state.lock:
                if not self._is_ours_to_end():
                    return
                self._close()
            self._wake_predecessor()
            woken = self.sending.try_half_close()  # first, or the thread wakes up to nothing
        finally:
            if not woken:
                with self.state.lock:
                    self.state.wake_all()
        self.state.settlements.run()

    def _close(self) -> None:
        """Requires the lock."""
        state = self.state
        state.count_as_lost()
        self.refuse(state.closed_error("close"))
        self.receiving.discard()
        self.sending.close(state.closed_error("write"))
        state.begin_closing(self._close_timeout)

    def abort(self, reason: object = None) -> None:
        """End at once, with a reset; after close(), end the wait (rule W5)."""
        state = self.state
        with state.lock:
            if not self._is_ours_to_end():
                return
            state.count_as_lost()
            if state.ending is Ending.NONE and state.failure is None:
                aborted = state.aborted_error(reason)
                if state.phase is not Phase.ENDED:
                    state.outcome = bare(aborted)
                self.refuse(aborted)
            self.receiving.discard()
            state.cut()
        self._wake_predecessor()
        state.settlements.run()

    def _is_ours_to_end(self) -> bool:
        """False once the wire is somebody else's. A detach() that waits is taken back.

        Requires the lock.
        """
        state = self.state
        if self.successor is not None or (state.ending is Ending.DETACHED and state.leaving):
            return False
        if state.ending is Ending.DETACHED:
            state.ending = Ending.NONE
            state.callers_turn.notify_all()
        return True

    def _wake_predecessor(self) -> None:
        """End its opening: what it opens was to be this connection's wire."""
        predecessor = self.predecessor
        if predecessor is not None:
            with predecessor.state.lock:
                predecessor.state.wake_all()

    def refuse(self, error: SocketError) -> None:
        """Let every use raise this, unless something broke or ended it before (O3).

        Requires the lock.
        """
        state = self.state
        if state.refusal is None and state.failure is None:
            self.receiving.lease.settle(error)
            self.sending.lease.settle(error)
            state.refusal = error

    def close_writing(self) -> None:
        """Half-close: FIN after the write in progress (rule W3)."""
        state = self.state
        with state.lock:
            if state.refusal is None and state.failure is None:
                self.sending.close(
                    state.closed_error("write", "the writable side was closed by close()")
                )
        self.sending.try_half_close()

    def cancel_reading(self) -> None:
        """Give the inbound data up (rule R7)."""
        self.receiving.cancel()

    def drop(self) -> None:
        """The last public object is gone (rule E6). For finalizers: it never waits for the lock.

        Nothing is missed by that. Whoever calls a method has a public object, so only the
        connection's thread can hold the lock now; `dropped` is stored before the lock is tried, and
        it looks there after it has released the lock, before each wait.
        """
        state = self.state
        if state.phase is Phase.ENDED or state.ending is not Ending.NONE:
            return
        unclosed = state.phase is Phase.OPEN  # asked before its thread can end it
        state.dropped = True
        if state.lock.acquire(blocking=False):
            try:
                state.wake_all()
            finally:
                state.lock.release()
        if unclosed or state.phase is Phase.OPEN:  # or it opened just now
            self._warn_unclosed()

    def _warn_unclosed(self) -> None:
        if not self._warned:
            self._warned = True
            what = f"unclosed tcpsock.Socket {self.state.address}"
            warnings.warn(what, ResourceWarning, stacklevel=3, source=self)

    def _write_blocked(self) -> None:
        """A write waits for the peer: read meanwhile. Requires the lock."""
        self.receiving.begin_reading()
        if self.receiving.owner is Owner.NOBODY:
            self.state.thread_turn.notify()

    # -- What callers may know ------------------------------------------------------------------

    @property
    def peer_has_ended(self) -> bool:
        """Whether the peer's FIN, or close_notify, was seen."""
        return self.receiving.inbound is Inbound.EOF

    def stats(self) -> SocketStats:
        """The counters, as they are just now."""
        now = time.monotonic()
        with self.state.lock:
            return SocketStats(
                bytes_received=self.receiving.received,
                bytes_sent=self.sending.sent,
                bytes_buffered=len(self.receiving.queue),
                age=now - self._made_at,
                idle=max(0.0, now - max(self.receiving.last_at, self.sending.last_at)),
            )

    def tls_session(self) -> ssl.SSLSession | None:
        """The session to resume, if there is one.

        Asked of OpenSSL when somebody wants it, never at the end of each connection for whoever may
        ask later: in CPython before 3.12.8 and 3.13.1 each look leaks some kilobytes (gh-116810).
        """
        with self.state.lock:
            wire = self.state.wire or self.state.ended
            return None if wire is None else wire.session

    def discard(self) -> None:
        """This connection was made for start_tls(), which then was not allowed."""
        with self.state.lock:
            self.state.phase, self.state.ending = Phase.ENDED, Ending.CUT

    # -- The thread's story ---------------------------------------------------------------------

    def _live_on(self) -> None:
        """The thread's work: this connection, and those that start_tls() makes of it."""
        connection: Connection | None = self
        while connection is not None:
            connection = connection.live()

    def live(self) -> Connection | None:
        """Open, serve, end. Returns the connection to go on with, after start_tls()."""
        try:
            if self._open():
                self._serve()
        except BaseException as error:  # a fault of ours must not leave anybody waiting
            failure = ConnectError(f"{self.state.address}: internal error: {error!r}")
            failure.__cause__ = bare(error)
            with self.state.lock:
                self.state.fail(failure)
        return self._end()

    def _open(self) -> bool:
        """Come to a wire. False if there is nothing to serve."""
        state = self.state
        opener = self._opener
        assert opener is not None
        try:
            with state.lock:
                state.waker = waker = state.waker or Waker()
                if self._is_over():  # said before there was a waker to say it with
                    waker.set()
            self._opener = None
            wire, info = opener.open(waker, self._is_over)
        except Stopped as stopped:
            for sock in stopped.args:
                end_socket(sock, reset=self._latest().state.ending is Ending.CUT)
            return False
        except SocketError as error:
            self._fail_opening(error)
            return False
        except OSError as error:
            failure = ConnectError(
                f"{state.address}: no descriptor to connect with: {error}",
                address=state.address,
                errno=error.errno,
            )
            failure.__cause__ = error
            self._fail_opening(failure)
            return False
        with state.lock:
            state.wire, state.info = wire, info
            if self._is_over():
                return False
            state.phase = Phase.OPEN
        settle(state.opened, info)
        with state.lock:
            state.callers_turn.notify_all()
        if state.dropped:
            with contextlib.suppress(ResourceWarning):  # there is nobody to raise it to
                self._warn_unclosed()
        return True

    def _is_over(self) -> bool:
        """Whether the opening is of no use any more; after start_tls() its successor says so.

        Asked under the lock, since whoever ends it wakes first and says so then (see State).
        """
        state = self._latest().state
        with state.lock:
            return state.ending in (Ending.CLOSING, Ending.CUT)

    def _latest(self) -> Connection:
        """This connection, or what start_tls() has made of it."""
        connection = self
        while connection.successor is not None:
            connection = connection.successor
        return connection

    def _fail_opening(self, error: SocketError) -> None:
        """It, and whatever start_tls() was to make of it, fails with this (rules O3, S4)."""
        state = self.state
        with state.lock:
            if state.ending is Ending.UPGRADED:
                state.failure = state.outcome = bare(error)
                state.ending = Ending.FAILED
                state.wake_all()
            else:
                state.fail(error)

    def _serve(self) -> None:
        """Read ahead, notice hang-ups, close what is to be closed, until the end is decided."""
        state, receiving, sending = self.state, self.receiving, self.sending
        wire = state.wire
        assert wire is not None
        while True:
            with state.lock:
                if self._decide():
                    state.leaving = True
                    return
                fin_is_due = sending.fin_is_due
                if not fin_is_due:
                    if self._stand_back():
                        continue
                    events = self._choose_events(wire)
                    watching = receiving.inbound is Inbound.WATCHED
                    receiving.owner = Owner.THREAD
            if fin_is_due:
                sending.try_half_close()
                continue
            # Read without the lock from here: whoever changes any of it sets the waker afterwards.
            if state.dropped and state.ending is Ending.NONE:
                found = 0  # a finalizer said so that could not take the lock to wake us
            elif events & POLLIN and (
                receiving.inbound is Inbound.DRAINING or (wire.maybe_more and not watching)
            ):
                found = POLLIN
            else:
                closing = state.ending is Ending.CLOSING
                found = wire.wait_to_receive(events, state.closing if closing else None)
            if found & WOKEN:
                state.clear_waker()
            if found & POLLOUT:
                sending.flush_tail(wire)
            if found & ~WOKEN and events & POLLIN and not watching:
                receiving.receive_ahead(wire)
                continue
            # After our own FIN a missing peer tells nothing; the kernel's error does.
            reset = bool(found & POLLERR) or (bool(found & POLLHUP) and wire.was_reset())
            ended = bool(found & POLLIN) and wire.at_eof()  # only asked for without POLLRDHUP
            with state.lock:
                receiving.owner = Owner.NOBODY
                if found & HANGUP or ended:
                    receiving.note_hangup(found, reset)
                elif found & POLLIN:
                    receiving.unread = True

    def _decide(self) -> bool:
        """Move on to the next state, where it is time to. True: there is nothing left to serve.

        Requires the lock.
        """
        state, receiving, sending = self.state, self.receiving, self.sending
        if state.dropped and state.ending is Ending.NONE:
            self._close()
        if state.ending is Ending.CLOSING and not sending.fin_is_due and state.closing.expired():
            state.cut()
        if state.ending is Ending.DETACHED and receiving.queue:
            state.ending = Ending.NONE  # bytes came in at the last moment: detach() says so
            state.callers_turn.notify_all()
        if state.ending not in (Ending.NONE, Ending.CLOSING):
            return True
        if state.lost is not None:
            receiving.drain()
            if receiving.inbound is not Inbound.DRAINING:
                state.fail(state.lost)
                return True
        if receiving.inbound is Inbound.EOF:
            if not self._half_open and sending.outbound is Outbound.OPEN:
                sending.close(sending.peer_closed_error())
            return sending.outbound is Outbound.SHUT
        if receiving.cancelled and sending.outbound is Outbound.SHUT:
            state.begin_closing(self._close_timeout)  # nothing is left to do (rule R7)
        return False

    def _stand_back(self) -> bool:
        """Wait while the receive side is a caller's, or may soon be again. True if it waited.

        Requires the lock.
        """
        state, receiving = self.state, self.receiving
        if receiving.owner is Owner.CALLER or (receiving.wanted and not state.thread_needed):
            receiving.thread_waits = True
            if receiving.wanted:
                state.callers_turn.notify_all()
            state.thread_turn.wait(state.closing.remaining())
            receiving.thread_waits = False
            return True
        if (
            receiving.inbound is Inbound.READING
            and state.ending is Ending.NONE
            and not self.sending.blocked
            and not state.thread_needed
        ):
            grace = receiving.left_at + GRACE - time.monotonic()
            if grace > 0:
                state.thread_turn.wait(grace)
                return True
        return False

    def _choose_events(self, wire: Wire) -> int:
        """What the thread's next poll is for. Requires the lock."""
        receiving = self.receiving
        receiving.stalled = (
            receiving.inbound is Inbound.READING and len(receiving.queue) >= receiving.mark
        )
        if receiving.inbound is Inbound.EOF:
            events = 0 if receiving.hangup_known else POLLERR  # a reset may still come
        elif receiving.stalled and receiving.peer_done:
            events = 0 if receiving.hangup_known else POLLERR
        elif receiving.stalled:
            events = POLLRDHUP or POLLERR
        elif receiving.inbound is Inbound.WATCHED:
            events = POLLRDHUP or (POLLERR if receiving.unread else POLLIN)
        else:
            events = wire.receive_events
        return events | POLLOUT if self.state.tail else events

    def _end(self) -> Connection | None:
        """Give the wire back, or on, and settle every future. Returns the one to go on with."""
        state, receiving, sending = self.state, self.receiving, self.sending
        if self._opener is not None:
            self._opener.give_up()
            self._opener = None
        with state.lock:
            state.leaving = True
            receiving.thread_waits = True
            while receiving.owner is Owner.CALLER or sending.turn is not None:
                state.thread_turn.wait()  # they have been woken, and leave in any case
            wire, waker, successor = state.wire, state.waker, self.successor
            handed_on = wire is not None and state.ending is Ending.UPGRADED
            if handed_on:
                assert successor is not None
                successor.take_over(self, bool(receiving.queue))
            elif wire is not None and state.ending is Ending.DETACHED:
                self.detached = wire.release()
                self.refuse(state.closed_error("close", "the socket was handed out by detach()"))
            elif wire is not None and state.ending is Ending.CUT:
                wire.reset()
                state.ended = wire
            elif wire is not None:
                wire.close()
                state.ended = wire
            state.wire = state.waker = None
            state.phase = Phase.ENDED
            if waker is not None and not handed_on:
                waker.close()
            over = state.failure or state.refusal
            if successor is not None and state.failure is None:
                over = successor.state.refusal  # that one was closed while this was opening
            if state.failure is not None:
                receiving.lease.settle(state.failure)
                sending.lease.settle(state.failure)
            state.callers_turn.notify_all()
        state.settlements.run()
        if not state.opened.done():
            settle(state.opened, error=over)
        settle(state.closed, error=state.outcome)
        if successor is None:
            return None
        successor.predecessor = None
        if handed_on:
            return successor
        if state.failure is not None:
            successor._fail_opening(state.failure)
        return successor._end()

    def take_over(self, predecessor: Connection, plaintext_read: bool) -> None:
        """Receive the wire of the connection that this one upgrades. Requires the other's lock."""
        upgrading = predecessor.state
        opener = self._opener
        assert upgrading.wire is not None and upgrading.info is not None
        assert isinstance(opener, Upgrading)
        opener.take_over(upgrading.wire, upgrading.info, plaintext_read=plaintext_read)
        self.state.waker = upgrading.waker

    # -- Fork -----------------------------------------------------------------------------------

    def forked(self) -> None:
        """In a child: this connection is the parent's (rule E8). Nothing here may block."""
        state = self.state
        state.replace_locks()
        error = SocketForked(
            f"{state.address}: this socket belongs to the parent process; connect() anew in this"
            " one",
            phase="close",
            address=state.address,
        )
        state.refusal, state.failure, state.phase = error, None, Phase.ENDED
        state.ending = Ending.CUT  # greenlets live on in a child: what they come back to is over
        self.receiving.reading = None
        self.receiving.owner = Owner.NOBODY
        self.receiving.queue.clear()
        self.sending.turn = None
        futures = (
            state.opened,
            state.closed,
            self.receiving.lease.closed,
            self.sending.lease.closed,
        )
        for future in futures:
            if future is not None:
                settle_in_forked_child(future, error)
        waker, state.wire, state.ended, state.waker = state.waker, None, None, None
        if waker is not None:
            waker.close()


# Every connection that somebody still knows, for a forked child to give up. The lock guards the
# set, and is held across fork; no other lock is taken under it.
_known_lock = threading.RLock()
_known: weakref.WeakSet[Connection] = weakref.WeakSet()


def _in_child() -> None:
    for connection in list(_known):
        connection.forked()
    _known.clear()
    _known_lock.release()


at_fork(before=_known_lock.acquire, in_parent=_known_lock.release, in_child=_in_child)
