"""A server for tests: a handler is called with each connection, in a thread of its own.

The handler gets an ordinary blocking socket (under TLS an ``ssl.SSLSocket``) and may do with it
what any program would. What the server adds is the care around it: exceptions are collected, the
end of a connection is a clean one unless the handler made it otherwise, and close() leaves no
thread and no descriptor behind, however stuck a handler is.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from types import TracebackType

from . import _certificates

__all__ = ["Handler", "Server", "half_close", "reset", "serve", "truncate", "upgrade"]

Handler = Callable[[socket.socket], object]

GRACE = 0.2  # seconds for handlers to end by themselves, once their reading has been ended
PATIENCE = 5.0  # seconds until close() gives a handler up


class _Accepted(socket.socket):
    """An accepted socket that knows which TLS socket took its descriptor over."""

    successor: socket.socket | None = None


def serve(
    handler: Handler,
    *,
    tls: bool | ssl.SSLContext = False,
    starttls: Handler | None = None,
    host: str = "127.0.0.1",
) -> Server:
    """Start a server on a free port that calls ``handler(sock)`` for each connection.

    `sock` is blocking. It is used by one thread only if it is a TLS socket: two threads on one
    ``ssl.SSLSocket`` are undefined behaviour. When the handler returns, it is closed as a good peer
    closes: close_notify under TLS, then FIN; what arrived unread is dropped so that no reset
    overtakes the last bytes. A handler that wants another end makes it first: ``sock.close()``,
    reset(), truncate(), half_close(). A socket that it has detach()ed is its own.

    Args:
        handler: called in a new thread each time; what it raises goes to ``Server.errors``.
        tls: True: a certificate by authority() for localhost, 127.0.0.1 and ::1 (needs
            ``tcpsock[test]``); or a server's context, as from server_context(). The handshake is
            done before the handler is called; one that fails goes to ``Server.errors``.
        starttls: what is said in clear before the handshake: a Script, or a function as `handler`
            is one. `tls` is True then, unless it is a context. It leaves the upgrade to the server,
            and must not have read past what it answers: a byte that waits is taken for TLS and
            fails the handshake. If it closes or resets the connection, that was all.
        host: a local address to listen on.

    Raises:
        ImportError: ``tls=True``, and trustme isn't installed.
        OSError: nothing can listen on `host`.
    """
    if tls is True or (starttls is not None and not tls):
        tls = _certificates.server_context()
    return Server(handler, context=tls or None, starttls=starttls, host=host)


class Server:
    """What serve() returns; a context manager that closes it."""

    host: str
    """The host given to serve()."""
    port: int
    """The free port that it listens on."""
    address: str
    """``host:port``, as connect() takes it (IPv6 in brackets)."""
    errors: list[BaseException]
    """What handlers and TLS handshakes raised, in order; not the ``OSError`` of a handler that
    close() cut off. A RuntimeError stands for a handler that wouldn't end."""

    def __init__(
        self,
        handler: Handler,
        *,
        context: ssl.SSLContext | None,
        starttls: Handler | None,
        host: str,
    ) -> None:
        self._handler = handler
        self._context = context
        self._starttls = starttls
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family, backlog=128)
        self._listener.setblocking(False)
        self._bell, self._bell_rope = socket.socketpair()  # shut by close(), seen by the acceptor
        self.host = host
        self.port = self._listener.getsockname()[1]
        self.address = f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"
        self.errors = []
        self._lock = threading.Lock()
        self._closing = False  # guarded by _lock
        self._calls: list[_Call] = []  # those that run, and some that did; guarded by _lock
        self._acceptor = threading.Thread(
            target=self._accept, name=f"tcpsock.testing {self.address}", daemon=True
        )
        self._acceptor.start()

    @property
    def ca_data(self) -> str:
        """PEM of authority(), which vouches for ``tls=True`` and upgrade(); for TlsOptions.

        Raises:
            ImportError: trustme isn't installed.
        """
        return _certificates.authority().ca_data

    def __repr__(self) -> str:
        state = "closed" if self._closing else f"{len(self._running())} running"
        return f"<Server {self.address} {state}, {len(self.errors)} errors>"

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def wait(self, timeout: float = 10.0) -> None:
        """Wait until every connection made so far has been handled: then `errors` is complete.

        Raises:
            TimeoutError: a handler was still running after `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        while (calls := self._running()) or self._is_called():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self!r} after {timeout} s")
            if calls:
                calls[0].join(0.02)
            else:
                time.sleep(0.001)  # until the acceptor has seen it

    def close(self) -> None:
        """Stop listening and end the handlers. Doing it again is no error.

        A handler that reads gets the bytes that have arrived and then EOF; one that has not ended
        a moment later has its connection shut in both directions. After 5 s a handler that is
        stuck elsewhere is given up, and `errors` says so.
        """
        with self._lock:
            if self._closing:
                return
            self._closing = True
        self._bell_rope.shutdown(socket.SHUT_RDWR)  # close() alone is not heard if we were forked
        self._acceptor.join()
        self._bell_rope.close()
        self._bell.close()
        self._listener.close()
        begun = time.monotonic()
        while (calls := self._running()) and time.monotonic() - begun < PATIENCE:
            gently = time.monotonic() - begun < GRACE
            for call in calls:  # again and again: half_close() may have hidden the connection
                call.cut(socket.SHUT_RD if gently else socket.SHUT_RDWR)
            calls[0].join(0.02)
        for call in calls:
            self.errors.append(RuntimeError(f"{call.name} did not end in {PATIENCE} s"))

    def _running(self) -> list[_Call]:
        """The running handlers, but for one that asks itself."""
        current = threading.current_thread()
        with self._lock:
            self._calls = [call for call in self._calls if call.is_alive()]
            return [call for call in self._calls if call is not current]

    def _is_called(self) -> bool:
        """True if a connection waits to be accepted."""
        with self._lock:
            return not self._closing and bool(_poll(self._listener, select.POLLIN, 0))

    def _accept(self) -> None:
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        poll.register(self._bell, select.POLLIN)
        while self._bell.fileno() not in dict(poll.poll()):
            try:
                with self._lock:  # wait() sees a connection either waiting or with its thread
                    self._call(_Accepted(fileno=self._listener.accept()[0].detach()))
            except BlockingIOError:
                pass  # the client has gone already
            except (OSError, RuntimeError):  # no descriptor or no thread left; it may get better
                time.sleep(0.01)

    def _call(self, accepted: _Accepted) -> None:
        """Start the handler. Requires holding the lock."""
        accepted.setblocking(True)
        call = _Call(self, accepted)
        try:
            call.start()
        except RuntimeError:
            accepted.close()
            raise
        self._calls = [call for call in self._calls if call.is_alive()] + [call]

    def _handle(self, accepted: _Accepted) -> None:
        if self._starttls is not None:
            self._starttls(accepted)
            if accepted.fileno() == -1 and accepted.successor is None:
                return  # the answer to the client's wish was the end
        self._handler(upgrade(accepted, self._context) if self._context else accepted)


class _Call(threading.Thread):
    """One call of the handler, and how to cut it off."""

    def __init__(self, server: Server, accepted: _Accepted) -> None:
        super().__init__(name=f"tcpsock.testing handler {server.address}", daemon=True)
        self._server = server
        self._accepted = accepted
        self._descriptor = accepted.fileno()
        self._inode = os.fstat(self._descriptor).st_ino
        self._was_cut = False

    def run(self) -> None:
        try:
            self._server._handle(self._accepted)
        except BaseException as error:  # SystemExit too: a test wants to know
            if not (self._was_cut and isinstance(error, OSError)):
                self._server.errors.append(error)
        finally:
            _finish(self._accepted.successor or self._accepted)

    def cut(self, how: int) -> None:
        """Shut the connection, whatever socket object the handler has it in.

        That is why it goes by the descriptor. Its number may belong to something else by now, so
        the inode of a private copy tells whose it is.
        """
        try:
            copy = os.dup(self._descriptor)
        except OSError:
            return  # closed already
        if os.fstat(copy).st_ino != self._inode:
            os.close(copy)
            return
        with socket.socket(fileno=copy) as connection:
            self._was_cut = True  # before: what the handler raises now is not its own failure
            with contextlib.suppress(OSError):
                connection.shutdown(how)


def upgrade(
    sock: socket.socket,
    context: ssl.SSLContext | None = None,
    *,
    suppress_ragged_eofs: bool = True,
) -> ssl.SSLSocket:
    """Do the server's side of StartTLS on a handler's socket; `sock` is detached.

    Args:
        sock: the handler's plain socket. The TLS socket need not be closed: the server does it.
        context: a server's context; None: server_context().
        suppress_ragged_eofs: False: an EOF without close_notify is an ``ssl.SSLEOFError``.

    Raises:
        ssl.SSLError, OSError: the handshake failed; the connection is closed.
        ImportError: no context was given, and trustme isn't installed.
    """
    context = context or _certificates.server_context()
    secured = context.wrap_socket(
        sock,
        server_side=True,
        do_handshake_on_connect=False,  # True would quietly do none with a client that is gone
        suppress_ragged_eofs=suppress_ragged_eofs,
    )
    if isinstance(sock, _Accepted):
        sock.successor = secured
    try:
        secured.do_handshake()
    except OSError:
        _finish(secured)
        raise
    return secured


def half_close(sock: socket.socket) -> bytes:
    """End the sending side, under TLS with a close_notify; reading goes on.

    Returns what TLS had decrypted but nobody had read (b"" without TLS): it comes before what
    recv() gives from now on.
    """
    waiting = b""
    if isinstance(sock, ssl.SSLSocket):
        while sock.pending():
            waiting += sock.recv(sock.pending())
        _send_close_notify(sock)
    socket.socket.shutdown(sock, socket.SHUT_WR)
    return waiting


def truncate(sock: socket.socket) -> None:
    """End the sending side of a TLS connection by FIN alone, without its close_notify."""
    # SSLSocket.shutdown() would drop the TLS object, and later bytes would go out in clear text.
    socket.socket.shutdown(sock, socket.SHUT_WR)


def reset(sock: socket.socket) -> None:
    """Close with a TCP reset at once. Bytes that the peer's kernel hasn't taken are lost."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def _send_close_notify(sock: ssl.SSLSocket) -> None:
    """Send close_notify without reading a byte of the peer's.

    unwrap() would go on to read the peer's close_notify, and lose the data that it finds instead.
    So it gets a socketpair to talk to for that moment, and what it wrote there is sent after it.
    """
    timeout = sock.gettimeout()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        real = os.dup(sock.fileno())
        try:
            sock.settimeout(0)
            os.dup2(ours.fileno(), sock.fileno(), inheritable=False)
            with contextlib.suppress(ssl.SSLWantReadError):
                sock.unwrap()
        finally:
            os.dup2(real, sock.fileno(), inheritable=False)
            os.close(real)
            sock.settimeout(timeout)
        theirs.setblocking(False)
        with contextlib.suppress(BlockingIOError):  # it was sent before
            socket.socket.sendall(sock, theirs.recv(4096))


def _finish(sock: socket.socket) -> None:
    """Close as a good peer does, without waiting for the other one."""
    if sock.fileno() == -1:
        return
    try:
        sock.settimeout(0)
        if isinstance(sock, ssl.SSLSocket):
            _say_goodbye(sock)
        socket.socket.shutdown(sock, socket.SHUT_WR)
        for _ in range(1000):  # close() with unread bytes would be a reset
            if not socket.socket.recv(sock, 65536):
                break
    except OSError:
        pass  # nothing more to be done for this connection
    finally:
        sock.close()


def _say_goodbye(sock: ssl.SSLSocket) -> None:
    """Send close_notify, waiting for room but not for the answer."""
    while True:
        try:
            sock.unwrap()
        except ssl.SSLWantWriteError:
            _poll(sock, select.POLLOUT, None)
        except (OSError, ValueError):
            return  # sent (SSLWantReadError is the good answer), or cannot be
        else:
            return


def _poll(sock: socket.socket, events: int, milliseconds: int | None) -> list[tuple[int, int]]:
    poll = select.poll()
    poll.register(sock, events)
    return poll.poll(milliseconds)
