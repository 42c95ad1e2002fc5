"""The other side of every measurement: a server process of the bench's own, on the loopback.

One process serves plain TCP and TLS 1.3, each on a port that the kernel picked and that the
process reports on its stdout. It lives as long as its stdin is open: however the parent ends, the
kernel closes the pipe then, and the server is gone too.

The threads are there before the first connection, each of them in accept(): starting one for each
connection would cost more than a connection does, and hide the client's own price.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from types import TracebackType

from . import _certificate
from ._protocol import BLOCK, DONE, ECHO, REQUEST, SEND, TAKE, Target

__all__ = ["Server", "ServerError"]

_HOST = "127.0.0.1"
_THREADS = 16  # a port: connections that are served at once; others wait in the backlog
_BACKLOG = 1024
_SECONDS_TO_END = 2.0  # it takes milliseconds; after that it is killed


class ServerError(Exception):
    """The server process did not start."""


class Server:
    """The server process, seen from its parent: a context manager.

    Attributes:
        plain: where to find the plain server.
        tls: where to find the TLS server, whose certificate is for "127.0.0.1" and "localhost".
    """

    plain: Target
    tls: Target
    _process: subprocess.Popen[bytes]

    def __enter__(self) -> Server:
        """Starts the process and waits until it listens. Raises ServerError where it fails."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # a Ctrl-C on the terminal is for the parent alone
        )
        try:
            self._read_ports()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end()

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    def _read_ports(self) -> None:
        process = self._process
        assert process.stdout is not None and process.stderr is not None
        report = process.stdout.readline()
        if not report:
            complaint = process.stderr.read().decode(errors="replace").strip()
            reason = complaint.splitlines()[-1] if complaint else "no reason given"
            raise ServerError(f"the server process did not start: {reason}")
        ports = json.loads(report)
        self.plain = Target(_HOST, ports["plain"], tls=False)
        self.tls = Target(_HOST, ports["tls"], tls=True)

    def _end(self) -> None:
        process = self._process
        try:
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()
            process.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            pass
        finally:
            process.kill()  # does nothing to a process that has ended and was waited for
            process.wait()


def _main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    plain = _listen(None)
    tls = _listen(_context())
    print(json.dumps({"plain": plain, "tls": tls}), flush=True)
    sys.stdin.buffer.read()
    # Without the interpreter's own end: a thread may be anywhere, and nothing is left to save.
    os._exit(0)


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "server.pem")
        with open(path, "w", encoding="ascii") as file:
            file.write(_certificate.CERTIFICATE + _certificate.KEY)
        context.load_cert_chain(path)
    return context


def _listen(context: ssl.SSLContext | None) -> int:
    """Serves on a port of its own, in the background; returns the port."""
    listener = socket.create_server((_HOST, 0), backlog=_BACKLOG)
    for _ in range(_THREADS):
        threading.Thread(target=_accept, args=(listener, context), daemon=True).start()
    port = listener.getsockname()[1]
    assert isinstance(port, int)
    return port


def _accept(listener: socket.socket, context: ssl.SSLContext | None) -> None:
    buffer = memoryview(bytearray(4 * BLOCK))
    while True:
        # A client that hangs up in the middle, or in the handshake, is nothing to talk about.
        with contextlib.suppress(OSError):
            connection, _ = listener.accept()
            with connection:
                if context is None:
                    _serve(connection, buffer)
                    continue
                with context.wrap_socket(connection, server_side=True) as wrapped:
                    _serve(wrapped, buffer)
                    wrapped.unwrap().close()


def _serve(connection: socket.socket, buffer: memoryview) -> None:
    """Does what the client asks for, until it hangs up."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while True:
        request = b""
        while len(request) < REQUEST.size:
            got = connection.recv(REQUEST.size - len(request))
            if not got:
                return
            request += got
        kind, left = REQUEST.unpack(request)
        if kind == ECHO:
            while left:
                size = connection.recv_into(buffer)
                if not size:
                    return
                connection.sendall(buffer[:size])
                left -= size
        elif kind == SEND:
            while left:
                size = min(left, len(buffer))
                connection.sendall(buffer[:size])
                left -= size
        elif kind == TAKE:
            while left:
                size = connection.recv_into(buffer, min(left, len(buffer)))
                if not size:
                    return
                left -= size
            connection.sendall(DONE)


if __name__ == "__main__":
    _main()
