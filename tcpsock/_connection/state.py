"""What the threads of one connection share: its lock, its states, and how they may change.

Threads: the connection's own (life.py), at most one caller that reads, callers that write, one of
them at a time, and anybody who calls close() or abort(). Finalizers come in any of them, and at any
line: garbage may be collected wherever something is allocated, and a user's `__del__` may well
close a socket. It must not wait for the very thread that it interrupts: the locks are re-entrant.

Locks, in the order in which they may be taken:
    1. `State.lock`: everything in State, Receiving and Sending. Held for a few lines, never while
       waiting, receiving or sending; no user code runs and no future settles under it. That of a
       connection comes before that of the one that start_tls() made of it.
    2. `TlsWire._tls_lock`: the TLS object.
    3. the swap lock of close_notify.py: one a process.

Two things are owned rather than locked, since they take time: the receive side
(`Receiving.owner`) and the turn to send (`Sending.turn`). Both are fields under `lock`.
"""

from __future__ import annotations

import enum
import threading

from .._deadline import Deadline
from .._errors import Phase as ErrorPhase
from .._errors import SocketAborted, SocketClosed, SocketError, StreamBusy, bare, fresh, printable
from .._futures import Settlements, born_running
from .._info import SocketInfo
from .._wire.platform import Waker
from .._wire.wire import Wire

__all__ = ["Ending", "Inbound", "Outbound", "Owner", "Phase", "State"]


class Phase(enum.Enum):
    """How far a connection is."""

    OPENING = "opening"
    OPEN = "open"
    ENDED = "ended"  # the descriptor is given back, or somebody else's


class Inbound(enum.Enum):
    """What becomes of bytes from the peer."""

    WATCHED = "left in the kernel: nobody has asked for them yet (rule R0)"
    READING = "read ahead"
    DISCARDED = "read and thrown away, after cancel() or close()"
    DRAINING = "taken in past the mark, down to the last: the connection is lost"
    EOF = "there will be no more"


class Outbound(enum.Enum):
    """What becomes of bytes to the peer."""

    OPEN = "sent"
    CLOSING = "FIN follows as soon as the write in progress is done"
    SHUT = "FIN is out"


class Ending(enum.Enum):
    """Who or what brings the connection to its end. Nothing follows another but these:

    NONE to any; CLOSING to CUT or FAILED; UPGRADED to FAILED, if there was no wire to give away;
    DETACHED back to NONE, if detach() is taken back before the thread has let go.
    """

    NONE = "nothing"
    CLOSING = "close(): flush, FIN, drain, within the close timeout"
    CUT = "the descriptor goes at once, with a reset"
    FAILED = "the connection broke: nothing to flush, nothing to come"
    UPGRADED = "start_tls(): the wire goes to the next connection"
    DETACHED = "detach(): the socket goes to the caller"


class Owner(enum.Enum):
    """Who may receive."""

    NOBODY = enum.auto()
    THREAD = enum.auto()
    CALLER = enum.auto()


class State:
    """The part of a connection that all of its threads see.

    Attributes, each guarded by `lock`:
        thread_turn: what the connection's thread waits on when it isn't in a poll.
        callers_turn: what callers wait on: for the opening, for the receive side, for their turn.
        phase, ending: see the enums.
        refusal: what every use raises from now on (closed, aborted, upgraded, detached, forked).
        failure: what broke the connection; reads raise it after what had arrived, writes at once.
        tail: the half-close has begun, and the kernel had no room for all of it.
        lost: what a send failed with; it becomes the failure once all that had arrived is taken in.
        outcome: what `closed` fails with; None if it resolves.
        closing: by when close() must be done.
        leaving: the thread has decided to give the wire away, and how: no way back.
        dropped: nobody refers to the public objects any more. Set without the lock, by finalizers.
        wire: from `opened` until the end; ended: the same from then on, if nobody else has it.
        info: what is known since `opened`.
        waker: wakes a thread in a poll; the connection's own, from its thread's first step to last.
        settlements: futures that are due when the lock is released.
    """

    def __init__(self, address: str | None) -> None:
        self.address = address
        self.lock = threading.RLock()
        self.thread_turn = threading.Condition(self.lock)
        self.callers_turn = threading.Condition(self.lock)
        self.phase = Phase.OPENING
        self.ending = Ending.NONE
        self.refusal: SocketError | None = None
        self.failure: SocketError | None = None
        self.tail = False
        self.lost: SocketError | None = None
        self.outcome: SocketError | None = None
        self.closing = Deadline(None)
        self.leaving = False
        self.dropped = False
        self.wire: Wire | None = None
        self.waker: Waker | None = None
        self.info: SocketInfo | None = None
        self.ended: Wire | None = None
        self.opened = born_running()
        self.closed = born_running()
        self.settlements = Settlements()

    def replace_locks(self) -> None:
        """Fresh locks in a forked child: another thread may have held the old ones (rule E8)."""
        self.lock = threading.RLock()
        self.thread_turn = threading.Condition(self.lock)
        self.callers_turn = threading.Condition(self.lock)
        self.settlements = Settlements()

    @property
    def interrupted(self) -> bool:
        """Whether this thread holds the lock already: a finalizer asks whom it interrupts."""
        try:
            self.callers_turn.notify(0)
        except RuntimeError:  # "cannot notify on un-acquired lock"
            return False
        return True

    def wake_all(self) -> None:
        """Have everybody look at the state again, wherever they wait. Requires the lock."""
        self.thread_turn.notify()
        self.callers_turn.notify_all()
        if self.waker is not None:
            self.waker.set()

    @property
    def thread_needed(self) -> bool:
        """Whether the thread must have the receive side now. Requires the lock."""
        return self.tail or self.lost is not None

    def clear_waker(self) -> None:
        """Take the wake-up back, for the owner of the receive side. Takes the lock.

        One that announces the end stays: a blocked write may not have seen it yet.
        """
        with self.lock:
            if self.ending in (Ending.NONE, Ending.CLOSING) and self.waker is not None:
                self.waker.clear()

    # -- Transitions. Each requires the lock. ---------------------------------------------------
    # Each wakes everybody first, who then wait for the lock, and changes `ending` last: what an
    # exception out of a signal handler cuts off in between has not happened, and can be done again.

    def fail(self, error: SocketError, ending: Ending = Ending.FAILED) -> None:
        """The connection is broken. No news while it is being ended anyway."""
        bare(error)  # what is kept must not keep the frames of whoever met it (trap T26)
        if self.ending is Ending.NONE and self.phase is not Phase.ENDED:
            self.wake_all()
            self.failure = self.outcome = error
            self.ending = ending
        elif self.ending is Ending.CLOSING:
            self.wake_all()
            self.ending = ending

    def count_as_lost(self) -> None:
        """After a failed send, don't wait for what the kernel may still hold."""
        if self.lost is not None:
            self.fail(self.lost)

    def begin_closing(self, seconds: float | None) -> None:
        """Start the graceful end, unless something else has ended the connection already.

        It wakes nobody: who asks for it does, once there is no more to be done before (see close).
        """
        if self.ending is Ending.NONE and self.phase is not Phase.ENDED:
            self.ending = Ending.CLOSING
            self.closing = Deadline(seconds)

    def cut(self) -> None:
        """Give the descriptor back at once, with a reset."""
        if self.ending in (Ending.NONE, Ending.CLOSING) and self.phase is not Phase.ENDED:
            self.wake_all()
            self.ending = Ending.CUT

    def check(self) -> None:
        """Raise what every use of a socket that is no more is refused with. Requires the lock."""
        if self.refusal is not None:
            raise fresh(self.refusal) from self.refusal
        if self.ending is Ending.DETACHED:
            raise StreamBusy(
                f"{self.address}: the socket is being handed out by detach()",
                phase="close",
                address=self.address,
            )

    # -- What calls are refused with ------------------------------------------------------------

    def closed_error(self, phase: ErrorPhase, what: str = "the socket is closed") -> SocketClosed:
        """The refusal of a socket, stream or side that was closed here."""
        return SocketClosed(
            f"{self.address}: {what}",
            phase=phase,
            address=self.address,
        )

    def aborted_error(self, reason: object) -> SocketAborted:
        """The refusal of a socket that was aborted."""
        said = reason if isinstance(reason, str) else repr(reason)
        why = "" if reason is None else f": {printable(said)}"
        return SocketAborted(
            f"{self.address}: the connection was aborted{why}",
            phase="close",
            address=self.address,
            reason=reason,
        )
