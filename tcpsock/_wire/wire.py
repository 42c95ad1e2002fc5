"""Bytes to and from the kernel: one non-blocking socket, plain or TLS, behind the same few calls.

Nothing here waits with a lock held, and nothing but `wait_*` waits at all. What the kernel or TLS
reports becomes one of our errors here, with the peer's name and the phase.

One thread at a time receives, and one at a time sends (`_connection` sees to both), but the two
may be different threads. OpenSSL forbids that on one TLS object, so each call into it is made
under a lock; each is short, since the socket never blocks.
"""

from __future__ import annotations

import errno
import socket
import ssl
import struct
import threading
from typing import Final

from .._deadline import Deadline
from .._errors import ConnectionLost, Phase, SocketError, TlsError, TlsTruncated, bare
from .close_notify import close_notify_record, prepare
from .descriptors import ours
from .platform import POLLERR, POLLHUP, POLLIN, POLLOUT, POLLRDHUP, Waker, poller

__all__ = ["HANGUP", "TIMED_OUT", "WOKEN", "TlsWire", "Wire", "end_socket"]

TIMED_OUT: Final = 0  # what wait_*() found, besides poll()'s own events
WOKEN: Final = 1 << 20
HANGUP: Final = POLLERR | POLLHUP | POLLRDHUP

_FLOWING: Final = 1 << 15  # bytes: who sends so much at once mostly has sent more meanwhile
_SHORT_WAIT: Final = 10  # milliseconds, see wait_to_send()
_BUFFER: Final = 1 << 18  # bytes that one recv() of a TLS wire can give

# Buffers to decrypt into, for whoever receives just now: a fresh one each time costs two thirds of
# the throughput. list.append and list.pop are atomic.
_buffers: list[memoryview] = []
_SPARE_BUFFERS: Final = 8

_TLS_SLICE: Final = 1 << 16  # of a large write: bounds how long the TLS lock is held


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
            nothing about how it went.
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
        does, it may be told not to heed it for a while: _SHORT_WAIT at most.
        """
        if events != self._send_events:
            self._send_poller.modify(self._fd, events)
            self._send_events = events
        milliseconds = None if deadline is None else deadline.poll_ms()
        if not heed_waker:
            self._send_poller.unregister(self._waker_fd)
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
        self._socket.close()

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


class TlsWire(Wire):
    """A TLS connection, over a non-blocking `ssl.SSLSocket`.

    Args:
        allow_truncation: EOF without close_notify is an ordinary EOF (rule R8).
    """

    def __init__(
        self, sock: ssl.SSLSocket, waker: Waker, address: str | None, *, allow_truncation: bool
    ) -> None:
        super().__init__(sock, waker, address)
        self._tls = sock
        # Guards every call into the TLS object. Taken after a connection's own lock or without
        # it, before the swap lock of close_notify.py. Re-entrant for finalizers, as that one.
        self._tls_lock = threading.RLock()
        self._in_records = False  # in the middle of a batch
        self._allow_truncation = allow_truncation
        self._rescued = bytearray()  # decrypted before the half-close; first to be received
        self._tail: bytes | None = None  # of the close_notify record: what is still to be sent
        self._ended = False  # TLS object finished in both directions
        self._broken = False  # a reset was seen that TLS will not tell of
        self._held_back: SocketError | None = None  # came behind bytes that go first
        self._peek_poller = poller()
        self._peek_poller.register(self._fd, POLLIN)
        prepare()

    def handshake(self) -> bool:
        """One step; False for "wait for `receive_events`". Raises what `ssl` raises."""
        try:
            with self._tls_lock:
                self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self.receive_events = POLLIN
            return False
        except ssl.SSLWantWriteError:
            self.receive_events = POLLOUT
            return False
        self.receive_events = POLLIN
        self.maybe_more = True
        return True

    @property
    def session(self) -> ssl.SSLSession | None:
        with self._tls_lock:
            session = self._tls.session
            version = self._tls.version()
        if session is None or not (session.has_ticket or (session.id and version != "TLSv1.3")):
            return None
        return session

    def recv(self, size: int) -> bytes | None:
        try:
            buffer = _buffers.pop()
        except IndexError:
            buffer = memoryview(bytearray(_BUFFER))
        received = self.recv_into(buffer[:size])
        chunk = None if received is None else buffer[:received].tobytes()
        if len(_buffers) < _SPARE_BUFFERS:
            _buffers.append(buffer)
        return chunk

    def recv_into(self, view: memoryview) -> int | None:
        with self._tls_lock:
            if self._rescued:
                taken = min(len(view), len(self._rescued))
                view[:taken] = self._rescued[:taken]
                del self._rescued[:taken]
                self.maybe_more = True
                return taken
            if self._held_back is not None:
                raise self._held_back
            if self._ended:
                return 0
            self._in_records = True
            try:
                return self._recv_records(view)
            finally:
                self._in_records = False

    def _recv_records(self, view: memoryview) -> int | None:
        """As many records as have arrived and fit. Requires the TLS lock."""
        filled, room = 0, len(view)
        if self.fin_sent and any(seen & POLLERR for _, seen in self._peek_poller.poll(0)):
            self._broken = True  # from here on getpeername() can't tell a reset from an end
        try:
            while True:
                try:
                    received = self._tls.recv_into(view[filled:] if filled else view)
                except ssl.SSLWantReadError:
                    self.maybe_more = False
                    self.receive_events = POLLIN
                    return filled or None
                except ssl.SSLWantWriteError:
                    self.maybe_more = False
                    self.receive_events = POLLIN | POLLOUT
                    return filled or None
                except OSError as error:
                    failure = self._receive_failure(error)
                    self.maybe_more = True
                    if failure is None:
                        self._ended = True
                        return filled
                    if not filled:
                        raise failure from bare(error)
                    failure.__cause__ = bare(error)
                    self._held_back = failure
                    return filled
                filled += received
                # One that left room has emptied its record, and OpenSSL reads no further ahead.
                if received == 0 or filled == room:
                    self._ended = received == 0
                    self.maybe_more = True
                    return filled
                if not self._peek_poller.poll(0):
                    self.maybe_more = False
                    return filled
        except SocketError:
            raise
        except BaseException:  # a signal handler's, or a greenlet's: what was decrypted stays
            self._rescued[:0] = view[:filled]
            self.maybe_more = True
            raise

    def _receive_failure(self, error: OSError) -> SocketError | None:
        """What an error of the TLS object means; None for a clean EOF."""
        if isinstance(error, ssl.SSLZeroReturnError):
            return None
        if is_tls_eof(error):
            # A peer that is gone for good answers the alert about its early end with a reset.
            if not self._fin_came_first() and (self._broken or self.was_reset()):
                return self.lost("read")
            if self._allow_truncation:
                return None
            return TlsTruncated(
                f"{self.address}: the peer hung up without TLS's close_notify, so the end of its"
                " data may be truncated; if this server always does so and its protocol marks the"
                " end of each message itself: TlsOptions(allow_truncation=True)",
                phase="read",
                address=self.address,
                errno=error.errno,
            )
        return tls_failure(self.address, "read", error)

    def send(self, data: bytes | memoryview) -> int | None:
        with self._tls_lock:
            try:
                return self._tls.send(memoryview(data)[:_TLS_SLICE])
            except ssl.SSLWantReadError:
                self.send_events = POLLIN
                return None
            except ssl.SSLWantWriteError:
                self.send_events = POLLOUT
                return None
            except OSError as error:
                if is_tls_eof(error):
                    raise self.lost("write", error) from bare(error)
                raise tls_failure(self.address, "write", error) from bare(error)

    def in_flight(self, data: bytes | memoryview) -> int:
        return min(len(data), _TLS_SLICE)

    def half_close(self) -> bool:
        with self._tls_lock:
            if self._in_records:
                return False  # a finalizer has come into a batch: what we rescue would overtake it
            if self._tail is None:
                try:
                    while waiting := self._tls.pending():
                        self._rescued += self._tls.recv(waiting)
                except OSError:
                    pass  # broken: the next receive tells
                try:
                    self._tail = close_notify_record(self._tls)
                except BlockingIOError:
                    return False
                self.maybe_more = True
                self.waker.set()  # a poll() that overlapped the swap waits for the wrong file
            while self._tail:
                try:
                    sent = socket.socket.send(self._tls, self._tail)
                except BlockingIOError:
                    return False
                except OSError:
                    self._broken = True
                    break
                self._tail = self._tail[sent:]
            self._broken = self._broken or self.was_reset()
            return super().half_close()

    def release(self) -> socket.socket:
        super().release()
        self._tls.suppress_ragged_eofs = self._allow_truncation  # type: ignore[attr-defined]
        return self._tls

    @property
    def holds_bytes(self) -> bool:
        return bool(self._rescued)


def end_socket(sock: socket.socket, *, reset: bool) -> None:
    """Give a socket's descriptor back, and let a reset tell the peer of it if so wanted."""
    if reset:
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except OSError:
            pass  # not TCP, or gone already
    sock.close()


def is_tls_eof(error: OSError) -> bool:
    """Whether TLS met the end of the stream where there should have been more (trap T4)."""
    return isinstance(error, ssl.SSLEOFError) or (
        isinstance(error, ssl.SSLError) and error.reason == "UNEXPECTED_EOF_WHILE_READING"
    )


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


def tls_failure(address: str | None, phase: Phase, error: OSError) -> SocketError:
    """What an error of the TLS object means when it is none of the ordinary ones."""
    if not isinstance(error, ssl.SSLError):
        return connection_lost(address, phase, error)
    reason = error.reason or str(error)
    return TlsError(
        f"{address}: TLS failed: {reason.replace('_', ' ').lower()} ({phase})",
        phase=phase,
        address=address,
        errno=error.errno,
        library=error.library or "",
        reason=error.reason or "",
    )
