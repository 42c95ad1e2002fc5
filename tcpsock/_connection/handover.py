"""Giving the wire away: to the connection that TLS begins on, or to the caller as a bare socket.

Both are asked for by a caller and done by the connection's thread, which leaves the wire at a point
where nothing is half received; until then nothing else may begin on it.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import NoReturn

from .._deadline import Deadline
from .._errors import Phase as ErrorPhase
from .._errors import ReadTimeout, SocketUpgraded, StreamBusy, fresh
from .life import GRACE, Connection
from .opening import plaintext_injected
from .state import Ending, Inbound, Outbound, Phase

__all__ = ["check_idle", "check_usable", "detach", "upgrade"]


def check_usable(connection: Connection, phase: ErrorPhase) -> None:
    """Raise what a socket that was closed, or failed, is refused with. Requires the lock."""
    state = connection.state
    if state.refusal is not None:
        raise fresh(state.refusal) from state.refusal
    if connection.sending.outbound is not Outbound.OPEN or connection.receiving.cancelled:
        raise state.closed_error(phase, "one side of the socket is closed")
    if connection.receiving.inbound is Inbound.EOF and state.failure is None:
        raise state.closed_error(phase, "the peer has closed the connection")
    failure = state.failure or state.lost
    if failure is not None:
        raise fresh(failure) from failure


def check_idle(connection: Connection, phase: ErrorPhase, what: str) -> None:
    """StreamBusy while somebody reads or writes. Requires the lock."""
    receiving, sending = connection.receiving, connection.sending
    if receiving.reading is not None or sending.turn is not None or sending.waiting:
        raise StreamBusy(
            f"{connection.state.address}: a read or write is in progress in another thread; {what}"
            " when it is done",
            phase=phase,
            address=connection.state.address,
        )


def upgrade(connection: Connection, successor: Connection, check: Callable[[], None]) -> None:
    """Give the wire to another connection, as soon as there is one (rules S1, S2, S4).

    Args:
        successor: not started: this connection's thread goes on with it.
        check: raises what S1 says; called with the lock held, and then nothing has changed.

    Raises:
        PlaintextInjected: bytes were read ahead and not taken; the connection is reset.
    """
    state = connection.state
    try:
        with state.lock:
            check()
            if connection.receiving.read_ahead:
                injected = plaintext_injected(state.address)
                state.fail(injected, Ending.CUT)
                connection.receiving.discard()
                raise fresh(injected) from injected
            refusal = SocketUpgraded(
                f"{state.address}: start_tls() was called on this socket; use the one that it"
                " returned",
                phase="tls",
                address=state.address,
            )
            try:
                _promise(connection, successor, refusal)
            except BaseException:  # a signal handler's: it must not stay half done
                _promise(connection, successor, refusal)
                raise
    finally:
        state.settlements.run()


def _promise(connection: Connection, successor: Connection, refusal: SocketUpgraded) -> None:
    """The wire is the successor's, as soon as there is one. Requires the lock."""
    successor.predecessor = connection
    connection.successor = successor
    connection.state.ending = Ending.UPGRADED
    connection.refuse(refusal)
    connection.state.wake_all()


def detach(connection: Connection, timeout: float | None) -> socket.socket:
    """Hand out the bare socket, in blocking mode; this connection is then done.

    Raises: what the connection is refused with, or failed with; StreamBusy for a read or write in
        progress, a half-close that waits for room, or bytes that were read ahead; ReadTimeout.
    """
    state = connection.state
    deadline = Deadline(timeout)
    with state.lock:
        while state.phase is Phase.OPENING:
            _check_detachable(connection)
            if not state.callers_turn.wait(deadline.remaining()):
                raise _detach_timed_out(connection, timeout)
        try:
            while state.phase is not Phase.ENDED:
                if state.ending is not Ending.DETACHED:  # not yet asked, or asked in vain
                    _check_detachable(connection)
                    state.ending = Ending.DETACHED
                    state.wake_all()
                # The thread is on its way out of a poll; but it may be in a user's callback.
                remaining = deadline.remaining()
                remaining = None if remaining is None else max(remaining, GRACE)
                if not state.callers_turn.wait(remaining) and not state.leaving:
                    raise _detach_timed_out(connection, timeout)
        except BaseException:
            if state.ending is Ending.DETACHED and not state.leaving:
                state.ending = Ending.NONE
            raise
        sock, connection.detached = connection.detached, None
    state.settlements.run()
    if sock is None:  # it ended before it could be asked for
        _raise_ended(connection)
    sock.settimeout(None)
    return sock


def _raise_ended(connection: Connection) -> NoReturn:
    state = connection.state
    error = state.refusal or state.failure
    if error is not None:
        raise fresh(error) from error
    raise state.closed_error("close", "the peer has closed the connection")


def _check_detachable(connection: Connection) -> None:
    """Requires the lock."""
    state = connection.state
    if state.refusal is not None:
        raise fresh(state.refusal) from state.refusal
    failure = state.failure or state.lost
    if failure is not None:
        raise fresh(failure) from failure
    if state.ending is not Ending.NONE:
        raise state.closed_error("close")
    check_idle(connection, "close", "detach()")
    if connection.sending.outbound is Outbound.CLOSING:
        raise StreamBusy(
            f"{state.address}: the half-close is not done yet; detach() when Writer.closed is",
            phase="close",
            address=state.address,
        )
    read_ahead = connection.receiving.read_ahead
    if read_ahead or (state.wire is not None and state.wire.holds_bytes):
        raise StreamBusy(
            f"{state.address}: {read_ahead} bytes have been read ahead; read"
            " them first, or detach() before asking for a reader",
            phase="close",
            address=state.address,
        )


def _detach_timed_out(connection: Connection, timeout: float | None) -> ReadTimeout:
    return ReadTimeout(
        f"{connection.state.address}: detach timed out after {timeout:g} s; nothing has changed",
        address=connection.state.address,
    )
