"""The other end of a connection, in a test's own hands, and the waits that need no guessed time.

A peer's TLS runs over memory BIOs rather than in an ssl.SSLSocket, because tests do what that
cannot: read in one thread and write in another, send close_notify without reading, and put bytes
of their own on the wire between or inside the records.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import random
import select
import signal
import socket
import ssl
import struct
import sys
import termios
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import tcpsock
from tcpsock.testing import authority, server_context

__all__ = [
    "HOST",
    "WAIT",
    "Call",
    "Interrupted",
    "Listener",
    "Peer",
    "ca_data",
    "interrupt_when_blocked",
    "only",
    "open_descriptors",
    "pattern",
    "until",
    "until_all_arrived",
]

HOST = "127.0.0.1"  # an IP literal: no name is looked up
WAIT = 20.0  # seconds after which something that must happen is taken for lost

_BLOCK = random.Random(5).randbytes(1_000_003)  # a prime: no buffer size divides it


def pattern(size: int, start: int = 0) -> bytes:
    """`size` bytes of an endless sequence from `start` on: a lost or doubled byte shows."""
    start %= len(_BLOCK)
    return (_BLOCK * ((start + size) // len(_BLOCK) + 1))[start : start + size]


def until(condition: Callable[[], object], what: str) -> None:
    """Wait for something that no event tells of. Fails after WAIT seconds."""
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline, f"still not so after {WAIT} s: {what}"
        time.sleep(0.002)


def until_all_arrived(sock: tcpsock.Socket, size: int) -> None:
    """Wait until `size` bytes have been read ahead, so that `timeout=0` must find them."""
    until(lambda: sock.stats.bytes_buffered >= size, f"{size} bytes are read ahead")


def open_descriptors() -> int:
    """How many descriptors this process has open (the one that looks is not counted)."""
    return len(os.listdir("/proc/self/fd")) - 1


# Certificates


def ca_data() -> str:
    """The root that the tests' clients trust, as TlsOptions(ca_data=) takes it."""
    return authority().ca_data


@functools.cache
def only(version: ssl.TLSVersion) -> ssl.SSLContext:
    """A server's context that speaks one TLS version alone."""
    return server_context(minimum=version, maximum=version)


# The peer


class Peer:
    """One accepted connection: a blocking socket, with TLS over it when start_tls() was called.

    One thread may read while another sends. `sock` is the socket itself, for what is not here.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(WAIT)
        self.sock = sock
        self.tls: ssl.SSLObject | None = None
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls_lock = threading.Lock()  # every call into self.tls and its two BIOs
        self._send_lock = threading.Lock()  # bytes go out in the order in which TLS made them
        self._unsent = b""  # what fill() has made and the kernel did not take
        self._decrypted = b""  # what notify() had to take out of the TLS object

    def start_tls(self, context: ssl.SSLContext, early: bytes = b"") -> None:
        """The server's handshake. `early` are bytes of it that were read already."""
        self._incoming.write(early)
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
                self._receive()
            except ssl.SSLError:
                with contextlib.suppress(ConnectionError):  # the client may be gone
                    self._flush()  # the alert
                raise
            else:
                return self._flush()

    def send(self, data: bytes) -> None:
        """Send all of it."""
        for start in range(0, len(data), 1 << 16):
            with self._send_lock:
                self._send_out(self.records(data[start : start + (1 << 16)]))

    def records(self, *chunks: bytes) -> bytes:
        """What stands for these chunks on the wire, each in records of its own; not sent."""
        if self.tls is None:
            return b"".join(chunks)
        with self._tls_lock:
            for chunk in chunks:
                self.tls.write(chunk)
            return self._outgoing.read()

    def send_raw(self, data: bytes) -> None:
        """Put bytes on the wire as they are, under TLS if there is TLS."""
        with self._send_lock:
            self._send_out(data)

    def fill(self, data: bytes) -> int:
        """Send as much of `data` as goes until the kernel is full and stays full.

        Returns how much was begun to be sent: the rest is the caller's to send. A record that the
        kernel took in part is finished by the next send().
        """
        given = 0
        full = select.poll()
        full.register(self.sock, select.POLLOUT)
        with self._send_lock:
            while given < len(data) or self._unsent:
                if not self._unsent:
                    chunk = data[given : given + (1 << 14)]
                    self._unsent = self.records(chunk)
                    given += len(chunk)
                try:
                    sent = os.write(self.sock.fileno(), self._unsent)  # never waits
                    self._unsent = self._unsent[sent:]
                except BlockingIOError:
                    if not full.poll(100):  # acknowledgements may still make room: look twice
                        break
        return given

    def read(self, size: int = 1 << 16) -> bytes:
        """What is there, at most `size`; b"" at the end of the peer's stream.

        TLS that ends without close_notify is an ssl.SSLError, a reset ConnectionResetError.
        """
        if self.tls is None:
            return self.sock.recv(size)
        while True:
            with self._tls_lock:
                if self._decrypted:
                    data, self._decrypted = self._decrypted[:size], self._decrypted[size:]
                    return data
                try:
                    return self.tls.read(size)
                except ssl.SSLZeroReturnError:
                    return b""
                except ssl.SSLWantReadError:
                    pass
            self._receive()

    def read_exactly(self, size: int) -> bytes:
        """`size` bytes."""
        parts = bytearray()
        while len(parts) < size:
            part = self.read(min(size - len(parts), 1 << 20))
            assert part, f"EOF after {len(parts)} of {size} bytes"
            parts += part
        return bytes(parts)

    def read_all(self) -> bytes:
        """All up to a clean end."""
        parts = bytearray()
        while part := self.read():
            parts += part
        return bytes(parts)

    def read_to_the_end(self) -> tuple[bytes, str]:
        """All that comes, and how it ended: "eof", "reset" or "truncated" (TLS alone)."""
        parts = bytearray()
        try:
            while part := self.read():
                parts += part
        except ssl.SSLError:
            return bytes(parts), "truncated"
        except ConnectionError:
            return bytes(parts), "reset"
        return bytes(parts), "eof"

    def end(self) -> None:
        """Half-close: close_notify if there is TLS, then FIN. Reading goes on."""
        self.notify()
        self.sock.shutdown(socket.SHUT_WR)

    def notify(self) -> None:
        """Send close_notify alone (nothing without TLS)."""
        if self.tls is None:
            return
        with self._send_lock:
            with self._tls_lock:
                # unwrap() reads after it has written. It is to find nothing, and lose nothing.
                while self.tls.pending():
                    self._decrypted += self.tls.read()
                waiting = self._incoming.read()
                try:
                    self.tls.unwrap()
                except ssl.SSLError:
                    pass
                self._incoming.write(waiting)
                record = self._outgoing.read()
            self._send_out(record)

    def cut(self) -> None:
        """FIN, and no close_notify before it."""
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Reset the connection, after everything that was sent has arrived."""
        self.until_acknowledged()
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def until_acknowledged(self) -> None:
        """Wait until all that was sent is in the other side's kernel."""
        until(lambda: self._queued() == 0, "everything sent is acknowledged")

    def close(self) -> None:
        """Close the socket, as it is."""
        self.sock.close()

    def _queued(self) -> int:
        answer = fcntl.ioctl(self.sock.fileno(), termios.TIOCOUTQ, bytes(4))
        return int.from_bytes(answer, sys.byteorder)

    def _flush(self) -> None:
        self.sock.sendall(self._outgoing.read())

    def _send_out(self, data: bytes) -> None:
        unsent, self._unsent = self._unsent, b""
        self.sock.sendall(unsent)
        self.sock.sendall(data)

    def _receive(self) -> None:
        data = self.sock.recv(1 << 16)
        with self._tls_lock:
            if data:
                self._incoming.write(data)
            else:
                self._incoming.write_eof()


class Listener:
    """A listening loopback socket whose connections the test accepts itself."""

    def __init__(self, buffers: int | None = None) -> None:
        """`buffers`: bytes of the peers' kernel buffers, both ways (None: as the kernel likes)."""
        self.sock = socket.socket()
        if buffers is not None:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffers)
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffers)
        self.sock.bind((HOST, 0))
        self.sock.listen(128)
        self.sock.settimeout(WAIT)
        self.port: int = self.sock.getsockname()[1]
        self.address = f"{HOST}:{self.port}"

    def accept(self) -> Peer:
        """The next connection. Fails after WAIT seconds."""
        return Peer(self.sock.accept()[0])

    def close(self) -> None:
        """Stop listening."""
        self.sock.close()


# Threads that do one thing


class Call:
    """A call in a thread of its own: what it gave, and whether it waits."""

    def __init__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self._future: Future[Any] = Future()

        def run() -> None:
            try:
                self._future.set_result(function(*args, **kwargs))
            except BaseException as error:  # told by result()
                self._future.set_exception(error.with_traceback(None))

        self.thread = threading.Thread(target=run, name=f"test {function!r}", daemon=True)
        self.thread.start()

    def result(self) -> Any:
        """What the call returned; raises what it raised, or TimeoutError after WAIT seconds."""
        try:
            return self._future.result(WAIT)
        finally:
            self.join()

    def error(self) -> BaseException | None:
        """What the call raised."""
        try:
            return self._future.exception(WAIT)
        finally:
            self.join()

    def done(self) -> bool:
        """Whether it has returned or raised."""
        return self._future.done()

    def blocked(self, *, or_done: bool = False) -> Call:
        """Wait until the call waits in tcpsock. Fails if it comes to its end instead."""
        until(lambda: self.done() or _asleep_in_tcpsock(self.thread), "the call waits")
        assert or_done or not self.done(), f"the call did not wait: {self._future!r}"
        return self

    def join(self) -> None:
        """Wait for the thread itself."""
        self.thread.join(WAIT)
        assert not self.thread.is_alive(), f"{self.thread.name} hangs"


_PACKAGE = str(Path(tcpsock.__file__).parent)


def _asleep_in_tcpsock(thread: threading.Thread) -> bool:
    """Whether a thread stays at one place inside a call into tcpsock, for 40 ms and more.

    Nothing public tells that a call waits. The same instruction of the same frame in twenty looks,
    while this thread does not hold the interpreter, does.
    """
    place = None
    for _ in range(20):
        frame = top = sys._current_frames().get(thread.ident or 0)
        while frame is not None and not frame.f_code.co_filename.startswith(_PACKAGE):
            frame = frame.f_back
        if frame is None or top is None or (place and place != (id(top), top.f_lasti)):
            return False
        place = (id(top), top.f_lasti)
        time.sleep(0.002)
    return True


class Interrupted(BaseException):
    """What a signal handler of a test raises."""


def interrupt_when_blocked(
    thread: threading.Thread, ready: Callable[[], object] = lambda: True
) -> Call:
    """From a thread of its own: Interrupted in `thread` (the main one) once it waits in tcpsock."""

    def interrupt() -> None:
        until(ready, "ready for the interruption")
        until(lambda: _asleep_in_tcpsock(thread), "the main thread waits")
        signal.pthread_kill(thread.ident or 0, signal.SIGUSR1)

    return Call(interrupt)
