"""Bytes to and from the kernel: one non-blocking socket behind a few calls, for TLS the same ones.

Nothing but `wait_*` waits. What the kernel reports becomes one of our errors here, with the peer's
name and the phase. One thread at a time receives, and one at a time sends (`_connection` sees to
both), but the two may be different threads. For TLS see tls.py.
"""

from __future__ import annotations

import errno
import socket
import ssl
import struct
from typing import Final

from .._deadline import Deadline
from .._errors import ConnectionLost, Phase, bare
from .descriptors import ours
from .platform import POLLERR, POLLHUP, POLLIN, POLLOUT, POLLRDHUP, Waker, poller

__all__ = ["HANGUP", "TIMED_OUT", "WOKEN", "Wire", "connection_lost", "end_socket"]

TIMED_OUT: Final = 0  # what wait_*() found, besides poll()'s own events
WOKEN: Final = 1 << 20
HANGUP: Final = POLLERR | POLLHUP | POLLRDHUP

_FLOWING: Final = 1 << 15  # bytes: who sends so much at once mostly has sent more meanwhile
_SHORT_WAIT: Final = 10  # milliseconds, see wait_to_send()


class Wire:
    """A plain connection.

    Attributes:
        address: HOST:PORT for messages.
        waker: wakes whoever waits here, sender and receiver alike.
        maybe_more: the last receive was a large one, or filled its buffer: the next is tried before
            a poll.
        receive_events: what to poll for before the next receive: TLS may have to send first.
        send_events: the same before a send is tried again.
        fin_sent: our side has ended, or is about to: that there is no peer any more then tells
            nothing about how it went. Stored before the system call whose effect others see.

    maybe_more and receive_events are the receiver's, send_events the sender's; these change with
    `State.lock`. (TLS writes them under its own lock. Its half-close, which isn't the receiver's,
    sets maybe_more, and then the waker.)
    """

    def __init__(self, sock: socket.socket, waker: Waker, address: str | None) -> None:
        self.address = address
        self.waker = waker
        self.maybe_more = False
        self.receive_events = POLLIN
        self.send_events = POLLOUT
        self.fin_sent = False
        ours.add(sock)
        self._socket = sock
        self._fd = sock.fileno()
        self._waker_fd = waker.fileno()
        self._receive_poller, self._send_poller = poller(), poller()
        self._receive_poller.register(self._waker_fd, POLLIN)
        self._send_poller.register(self._waker_fd, POLLIN)
        self._send_poller.register(self._fd, POLLOUT)
        self._receive_events, self._send_events = 0, POLLOUT

    # -- Waiting ------------------------------------------------------------------------------

    def wait_to_receive(self, events: int, deadline: Deadline | None) -> int:
        """Wait for `events` on the socket, or for the waker; for the receiving thread.

        Returns: the events, with WOKEN among them if the waker is set; TIMED_OUT if there are none.
        Events 0 leaves the socket out of it: a hang-up that is known would end each wait at once.
        """
        if events != self._receive_events:
            if events == 0:
                self._receive_poller.unregister(self._fd)
            elif self._receive_events == 0:
                self._receive_poller.register(self._fd, events)
            else:
                self._receive_poller.modify(self._fd, events)
            self._receive_events = events
        found = 0
        milliseconds = None if deadline is None else deadline.poll_ms()
        for fd, seen in self._receive_poller.poll(milliseconds):
            found |= WOKEN if fd == self._waker_fd else seen
        return found

    def wait_to_send(self, events: int, deadline: Deadline | None, *, heed_waker: bool) -> int:
        """The same for the sending thread.

        It cannot clear the waker, which is the receiver's. So that it doesn't spin until that one
        does, it may be told not to heed it for a while: _SHORT_WAIT at most. The same when TLS is
        to receive before it can send: the receiver may take what is waited for here.
        """
        if events != self._send_events:
            self._send_poller.modify(self._fd, events)
            self._send_events = events
        milliseconds = None if deadline is None else deadline.poll_ms()
        if not heed_waker:
            self._send_poller.unregister(self._waker_fd)
        if not heed_waker or not events & POLLOUT:
            milliseconds = min(_SHORT_WAIT, _SHORT_WAIT if milliseconds is None else milliseconds)
        try:
            found = 0
            for fd, seen in self._send_poller.poll(milliseconds):
                found |= WOKEN if fd == self._waker_fd else seen
            return found
        finally:
            if not heed_waker:
                self._send_poller.register(self._waker_fd, POLLIN)

    # -- Receiving ----------------------------------------------------------------------------

    def recv(self, size: int) -> bytes | None:
        """Receive what is there, at most `size` bytes.

        Returns: the bytes, none at EOF; None for "not now": wait for `receive_events`.
        Raises: ConnectionLost, TlsTruncated, TlsError; each is final.
        """
        try:
            received = self._socket.recv(size)
        except BlockingIOError:
            self.maybe_more = False
            return None
        except OSError as error:
            raise self.lost("read", error) from bare(error)
        if not received and self.was_reset() and not self._fin_came_first():
            raise self.lost("read")
        self.maybe_more = len(received) == size or len(received) >= _FLOWING
        return received

    def recv_into(self, view: memoryview) -> int | None:
        """The same into a buffer, and as much as it holds; returns how many bytes."""
        try:
            received = self._socket.recv_into(view)
        except BlockingIOError:
            self.maybe_more = False
            return None
        except OSError as error:
            raise self.lost("read", error) from bare(error)
        if received == 0 and self.was_reset() and not self._fin_came_first():
            raise self.lost("read")
        self.maybe_more = received == len(view) or received >= _FLOWING
        return received

    def _fin_came_first(self) -> bool:
        """Whether the peer had ended in order before it reset the connection.

        The kernel then says EPIPE, and ECONNRESET where no end came before. Asking takes the error
        back; the connection is no less broken without it.
        """
        error = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        return error == errno.EPIPE

    def at_eof(self) -> bool:
        """Whether the peer has ended and nothing that it sent before is unread (rule R0)."""
        try:
            return not socket.socket.recv(self._socket, 1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True  # reset; whoever receives is told so

    def plaintext_waiting(self) -> bool:
        """Whether bytes have arrived that nobody received (rule S5)."""
        try:
            return bool(self._socket.recv(1, socket.MSG_PEEK))
        except OSError:
            return False  # nothing there, or the connection is broken: the handshake will tell

    def was_reset(self) -> bool:
        """Whether the connection is gone although both sides were still open.

        A thread that sends takes the kernel's pending error, and the one that receives then sees
        an ordinary end (trap T19); but a connection with one end still open has a peer.
        """
        try:
            # The class's own method: SSLSocket's asks the TLS object first.
            socket.socket.getpeername(self._socket)
        except OSError as error:
            # Asked last: our own FIN, which another thread may just send, is announced before.
            return error.errno in (errno.ENOTCONN, errno.EINVAL) and not self.fin_sent
        return False

    # -- Sending ------------------------------------------------------------------------------

    def send(self, data: bytes | memoryview) -> int | None:
        """Send from the start of it.

        Returns: how many bytes the kernel took; None for "not now": wait for `send_events`, and
            call again with the same bytes.
        Raises: ConnectionLost, TlsError; each is final for sending.
        """
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return None
        except OSError as error:
            raise self.lost("write", error) from bare(error)

    def in_flight(self, data: bytes | memoryview) -> int:
        """How many of the bytes that send() couldn't take may be with the kernel all the same."""
        return 0

    def half_close(self) -> bool:
        """End our side: FIN, over TLS close_notify first. Receiving goes on.

        Returns: False if the kernel has no room yet; call again when the socket is writable.
        """
        self.fin_sent = True
        try:
            socket.socket.shutdown(self._socket, socket.SHUT_WR)
        except OSError:
            pass  # gone already; the receiving side tells how
        return True

    # -- The end ------------------------------------------------------------------------------

    def close(self) -> None:
        """Give the descriptor back; the kernel goes on delivering what it took."""
        end_socket(self._socket, reset=False)

    def reset(self) -> None:
        """Give the descriptor back and tell the peer so with a reset."""
        end_socket(self._socket, reset=True)

    def release(self) -> socket.socket:
        """The bare socket, for whoever takes over. This wire must not be used again."""
        ours.discard(self._socket)
        return self._socket

    @property
    def session(self) -> ssl.SSLSession | None:
        """The TLS session to resume, once there is one that can be."""
        return None

    @property
    def holds_bytes(self) -> bool:
        """Whether received bytes are kept here, in no kernel and no TLS object."""
        return False

    def lost(self, phase: Phase, error: OSError | None = None) -> ConnectionLost:
        """The error for a connection that broke: `error` is what the system said, if anything."""
        return connection_lost(self.address, phase, error)


def end_socket(sock: socket.socket, *, reset: bool) -> None:
    """Give a socket's descriptor back, and let a reset tell the peer of it if so wanted."""
    if reset:
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except OSError:
            pass  # not TCP, or gone already
    fd = sock.detach()  # its close() would drop the TLS object, and with it the session
    if fd >= 0:
        socket.close(fd)


def connection_lost(address: str | None, phase: Phase, error: OSError | None) -> ConnectionLost:
    """The connection broke; `error` is what the system said, if it said anything."""
    number = errno.ECONNRESET if error is None else error.errno
    if number in (None, errno.ECONNRESET, errno.ENOTCONN):
        what = "connection reset by the peer"
    elif number == errno.EPIPE:
        what = "connection reset: the peer takes no more (broken pipe)"
    else:
        what = f"connection lost: {error.strerror if error else number}"
    return ConnectionLost(
        f"{address}: {what} ({phase})",
        phase=phase,
        address=address,
        errno=number,
    )
