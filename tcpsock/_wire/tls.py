"""TLS behind the calls of a plain wire, made safe for a thread that reads and one that writes.

OpenSSL forbids two threads in one TLS object: runs hang, crash the interpreter, or see an end that
wasn't. So each call into it is made under a lock; each is short, since the socket never blocks, and
nobody waits with the lock held.
"""

from __future__ import annotations

import re
import socket
import ssl
import threading
from collections import OrderedDict
from typing import Final

from .._errors import Phase, SocketError, TlsError, TlsTruncated, bare, fresh
from .close_notify import close_notify_record, prepare
from .platform import POLLERR, POLLIN, POLLOUT, Waker, poller
from .wire import Wire, connection_lost

__all__ = ["TlsWire", "is_tls_eof", "tls_failure", "verified_name"]

_BUFFER: Final = 1 << 18  # bytes that one recv() of a TLS wire can give

# Buffers to decrypt into, for whoever receives just now: a fresh one each time costs two thirds of
# the throughput. list.append and list.pop are atomic, with or without a GIL. (Two threads at once
# may keep one more than is meant.)
_buffers: list[memoryview] = []
_SPARE_BUFFERS: Final = 8

_TLS_SLICE: Final = 1 << 16  # of a large write: bounds how long the TLS lock is held


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
        # All that follows changes under that lock.
        self._in_records = False  # in the middle of a batch
        self._allow_truncation = allow_truncation
        self._rescued = bytearray()  # decrypted before the half-close; first to be received
        self._tail: bytes | None = None  # of the close_notify record: what is still to be sent
        self._ended = False  # TLS object finished in both directions
        self._broken = False  # a reset was seen that TLS will not tell of
        self._held_back: SocketError | None = None  # came behind bytes that go first
        # What broke the TLS object. Of each call after that OpenSSL only says that it met an EOF.
        self._fatal: SocketError | None = None
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
            try:
                session = self._tls.session
            except ValueError:  # some 64 KB, a huge ticket or certificate: Python can't copy it
                return None
            version = self._tls.version()
        if session is None or not (session.has_ticket or (session.id and version != "TLSv1.3")):
            return None
        _remember_name(session, self._tls.server_hostname)
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
            if self._fatal is not None:
                return fresh(self._fatal)
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
        return self._noted(tls_failure(self.address, "read", error))

    def send(self, data: bytes | memoryview) -> int | None:
        with self._tls_lock:
            try:
                # Not send(): gevent's says 0 for "not now", and the standard one, once the TLS
                # object is gone, sends in clear.
                return self._tls.write(memoryview(data)[:_TLS_SLICE])
            except ssl.SSLWantReadError:
                self.send_events = POLLIN
                return None
            except ssl.SSLWantWriteError:
                self.send_events = POLLOUT
                return None
            except OSError as error:
                if not is_tls_eof(error):
                    raise self._noted(tls_failure(self.address, "write", error)) from bare(error)
                if self._fatal is not None:
                    raise fresh(self._fatal) from bare(self._fatal)
                raise self.lost("write") from bare(error)

    def _noted(self, failure: SocketError) -> SocketError:
        """The same; one of TLS is kept for the other direction to tell. Requires the TLS lock."""
        if isinstance(failure, TlsError) and self._fatal is None:
            self._fatal = failure
        return failure

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


# For which name each session was verified, by its id: OpenSSL asks for neither name nor chain when
# it resumes one. The newest are kept; one that is forgotten costs a full handshake.
_names: OrderedDict[bytes, str | None] = OrderedDict()
_MOST_NAMES: Final = 4096
_names_lock = threading.RLock()


def _remember_name(session: ssl.SSLSession, name: str | None) -> None:
    with _names_lock:
        _names[session.id] = name
        if len(_names) > _MOST_NAMES:
            _names.popitem(last=False)


def verified_name(session: ssl.SSLSession) -> str | None:
    """The server name of the connection that a session comes from; None if it is not known."""
    with _names_lock:
        return _names.get(session.id)


def is_tls_eof(error: OSError) -> bool:
    """Whether TLS met the end of the stream where there should have been more (trap T4)."""
    return isinstance(error, ssl.SSLEOFError) or (
        isinstance(error, ssl.SSLError) and error.reason == "UNEXPECTED_EOF_WHILE_READING"
    )


# OpenSSL names an alert of the peer's after the version that brought it in. For some, and for a
# malformed record or two ("internal error"), Python has no name, but a text with its own source.
_ALERT = re.compile(r"(?:sslv3|tlsv1|tlsv13) (?:alert )?(.+)")
_SOURCE = re.compile(r"^\[[^]]*\] | \(_ssl\.c:[0-9]+\)$")


def tls_failure(address: str | None, phase: Phase, error: OSError) -> SocketError:
    """What an error of the TLS object means when it is none of the ordinary ones."""
    if not isinstance(error, ssl.SSLError):
        return connection_lost(address, phase, error)
    said = (error.reason or _SOURCE.sub("", error.strerror or str(error))).replace("_", " ").lower()
    alert = _ALERT.fullmatch(said)
    what = f"the peer ended it by the alert {alert[1]!r}" if alert else said
    return TlsError(
        f"{address}: TLS failed: {what} ({phase})",
        phase=phase,
        address=address,
        errno=error.errno,
        library=error.library or "",
        reason=error.reason or "",
    )
