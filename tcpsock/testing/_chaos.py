"""A proxy that does to the bytes between a client and a server what networks and attackers do.

It follows a script and never a clock: the same script gives the same bytes at the same places. Each
direction is a pipeline of generators, from the socket that is read through each step in turn to the
socket that is written. Without steps it is a faithful pipe: half-closes and resets go through too.

Each connection has two threads, one a direction, so that a stalled direction holds up nothing else.
They never block in a socket but in a poll that also watches the link's flag: so a reset can be sent
while the other thread waits, and not a FIN before it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import random
import select
import socket
import termios
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from . import _server
from ._steps import ResetNow, Stream, Waiting

__all__ = [
    "ChaosProxy",
    "Cuts",
    "DelayFin",
    "Dribble",
    "DropCloseNotify",
    "Fin",
    "Flip",
    "Inject",
    "SwallowFin",
]


class Step(Protocol):
    """One thing that a proxy does to one direction."""

    def apply(self, stream: Stream, link: Waiting) -> Iterator[bytes]: ...


class ChaosProxy:
    """A proxy on a free loopback port, in front of `target`; a context manager.

    Each connection to it becomes one to the target, and goes through the steps from their
    beginning. Offsets count the bytes of one direction as they come out of the step before. What
    comes before a half-close or a reset is delivered before it, however slowly it is read.

    Args:
        target: ``host:port`` of the server, for instance ``Server.address``.
        to_client: steps for what the server sends, in order.
        to_server: steps for what the client sends, in order.
    """

    def __init__(
        self, target: str, *, to_client: Sequence[Step] = (), to_server: Sequence[Step] = ()
    ) -> None:
        for step in (*to_client, *to_server):
            if not hasattr(step, "apply"):
                raise TypeError(f"not a step of a proxy: {step!r}")
        host, _, port = target.rpartition(":")
        self._target = host.strip("[]"), int(port)
        self._to_client = tuple(to_client)
        self._to_server = tuple(to_server)
        self._lock = threading.Lock()
        self._links: set[_Link] = set()  # guarded by _lock
        self._closing = False  # guarded by _lock
        self._server = _server.serve(self._relay)

    @property
    def address(self) -> str:
        """``host:port`` of the proxy, as connect() takes it."""
        return self._server.address

    @property
    def errors(self) -> list[BaseException]:
        """What went wrong in the proxy itself: the target refused, a step raised."""
        return self._server.errors

    def __repr__(self) -> str:
        return f"<ChaosProxy {self.address} to {self._target[0]}:{self._target[1]}>"

    def __enter__(self) -> ChaosProxy:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def wait(self, timeout: float = 10.0) -> None:
        """Wait until every connection made so far has ended: then `errors` is complete.

        Raises:
            TimeoutError: one still went on after `timeout` seconds.
        """
        self._server.wait(timeout)

    def close(self) -> None:
        """Stop listening and close every connection, also a stalled one. Idempotent."""
        with self._lock:
            self._closing = True
            for link in self._links:
                link.end()
        self._server.close()

    def _relay(self, client: socket.socket) -> None:
        with _Link(client) as link:
            with self._lock:
                self._links.add(link)
                closing = self._closing
            try:
                if not closing:
                    link.run(self._target, to_client=self._to_client, to_server=self._to_server)
            finally:
                with self._lock:
                    self._links.remove(link)


class _Over(Exception):
    """The link has ended under a wait."""


class _Swallowed(Exception):
    """This direction ends here, and its sink isn't told."""


class _Gone(Exception):
    """The sink takes nothing any more."""


class _Link:
    """One client's connection and the one to the server, each non-blocking."""

    def __init__(self, client: socket.socket) -> None:
        self._sockets = [client]  # and the server's, once it is connected
        client.setblocking(False)
        self._over = False
        self._resetting = False
        self._errors: list[BaseException] = []
        self._finished: set[socket.socket] = set()  # we have sent our FIN on these
        self._flag, self._halyard = socket.socketpair()  # readable once the link is over

    def __enter__(self) -> _Link:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for sock in self._sockets:
            if self._resetting:
                _server.reset(sock)
            else:
                sock.close()
        self._flag.close()
        self._halyard.close()

    def run(
        self, target: tuple[str, int], *, to_client: Sequence[Step], to_server: Sequence[Step]
    ) -> None:
        """Connect and relay until both directions have ended; raise what went wrong in it."""
        try:
            self._connect(target)
        except _Over:
            return
        except OSError:
            self._resetting = True
            raise
        client, server = self._sockets
        for sock in self._sockets:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # a piece, a segment
        answers = threading.Thread(
            target=self._pump,
            args=(server, client, to_client),
            name=threading.current_thread().name,
            daemon=True,
        )
        answers.start()
        self._pump(client, server, to_server)
        answers.join()
        if self._errors:
            raise self._errors[0]

    def end(self) -> None:
        """End every wait of this link; it is closed as soon as both directions have left."""
        self._over = True
        self._halyard.shutdown(socket.SHUT_RDWR)

    def wait(self, event: threading.Event) -> None:
        while not event.wait(0.01):
            if self._over:
                raise _Over

    def _connect(self, target: tuple[str, int]) -> None:
        """Try the target's addresses; one that is silent is waited for until the link's end."""
        error = 0
        for family, kind, _, _, address in socket.getaddrinfo(*target, type=socket.SOCK_STREAM):
            with contextlib.ExitStack() as unwinding:
                server = unwinding.enter_context(socket.socket(family, kind))
                server.setblocking(False)
                error = server.connect_ex(address)
                if error == errno.EINPROGRESS:
                    self._poll(server, select.POLLOUT)
                    error = server.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if error in (0, errno.ECONNRESET, errno.EPIPE):  # or it has hung up since
                    self._sockets.append(server)
                    unwinding.pop_all()
                    return
        raise OSError(error, os.strerror(error))

    def _pump(self, source: socket.socket, sink: socket.socket, steps: Sequence[Step]) -> None:
        try:
            pieces = self._read(source, sink)
            for step in steps:
                pieces = step.apply(Stream(pieces), self)
            for piece in pieces:
                self._write(sink, piece)
            self._finish(sink)
            for _ in self._read(source):
                pass  # a Fin came before the source's own
        except (_Swallowed, _Over):
            pass
        except ResetNow:
            self._deliver(sink)
            self._reset()
        except _Gone:
            self._resetting = True  # the other direction comes to it, behind what the sink said
        except BaseException as error:
            self._errors.append(error)
            self._reset()

    def _reset(self) -> None:
        self._resetting = True
        self.end()

    def _read(self, source: socket.socket, sink: socket.socket | None = None) -> Iterator[bytes]:
        """Give what comes until EOF; `sink` is watched meanwhile."""
        while True:
            try:
                piece = source.recv(65536)
                if not piece:
                    self._check_eof(source)
                    return
            except BlockingIOError:
                self._poll(source, select.POLLIN, sink)
            except OSError as error:
                raise ResetNow from error
            else:
                yield piece

    def _check_eof(self, source: socket.socket) -> None:
        """Raise OSError if this EOF is a reset whose error the other thread's send() has taken."""
        if source not in self._finished:  # else both sides are done, and the kernel forgot it
            source.getpeername()

    def _write(self, sink: socket.socket, piece: bytes) -> None:
        rest = memoryview(piece)
        while rest:
            try:
                rest = rest[sink.send(rest) :]
            except BlockingIOError:
                self._poll(sink, select.POLLOUT)
            except OSError as error:
                raise _Gone from error

    def _finish(self, sink: socket.socket) -> None:
        self._finished.add(sink)
        try:
            sink.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise _Gone from error

    def _poll(self, sock: socket.socket, events: int, watched: socket.socket | None = None) -> None:
        poll = select.poll()
        poll.register(sock, events)
        poll.register(self._flag, select.POLLIN)
        if watched is not None:
            poll.register(watched, 0)  # POLLHUP and POLLERR: it has been reset
        ready = {descriptor for descriptor, _ in poll.poll()}
        if self._over:
            raise _Over
        if watched is not None and ready == {watched.fileno()}:
            raise _Gone

    def _deliver(self, sink: socket.socket) -> None:
        """Wait until the peer's kernel has every byte: a reset would destroy the others."""
        with contextlib.suppress(OSError):
            while any(fcntl.ioctl(sink, termios.TIOCOUTQ, bytes(4))) and not self._over:
                sink.getpeername()  # raises OSError if the peer has gone
                time.sleep(0.001)  # nothing else tells when the acknowledgement comes


@dataclass(frozen=True)
class Dribble:
    """Pass at most `n` bytes at a time on.

    Args:
        until: the number of bytes after which they pass as they come; None: never.
    """

    n: int = 1
    until: int | None = None

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ValueError(f"n must be 1 or more: {self.n}")

    def apply(self, stream: Stream, link: Waiting) -> Iterator[bytes]:
        for piece in stream if self.until is None else stream.first(self.until):
            for start in range(0, len(piece), self.n):
                yield piece[start : start + self.n]
        yield from stream


@dataclass(frozen=True)
class Cuts:
    """Cut the bytes at places that depend on `seed` alone: from 1 byte to 16 KiB apart."""

    seed: int

    def apply(self, stream: Stream, link: Waiting) -> Iterator[bytes]:
        dice = random.Random(self.seed)
        while not stream.ended:
            # Small and large pieces alike, whatever is large: each power of two has its turn.
            yield from stream.first(dice.randint(1, 1 << dice.randint(0, 14)))


@dataclass(frozen=True)
class Fin:
    """Pass `after` bytes on, then FIN; what the source goes on to send is dropped."""

    after: int

    def apply(self, stream: Stream, link: Waiting) -> Iterator[bytes]:
        yield from stream.first(self.after)


@dataclass(frozen=True)
class DelayFin:
    """Hold the source's FIN back until `event` is set."""

    event: threading.Event

    def apply(self, stream: Stream, link: Waiting) -> Iterator[bytes]:
        yield from stream
        link.wait(self.event)


@dataclass(frozen=True)
class SwallowFin:
    """Never pass the source's half-close on; it ends with the connection, when both sides have."""

    def apply(self, stream: Stream, link: Waiting) -> Iterator[bytes]:
        yield from stream
        raise _Swallowed


@dataclass(frozen=True)
class Flip:
    """Flip the bits of `mask` in the byte at `offset` (0 is the first)."""

    offset: int
    mask: int = 0x01

    def apply(self, stream: Stream, link: Waiting) -> Iterator[bytes]:
        yield from stream.first(self.offset)
        for byte in stream.first(1):
            yield bytes([byte[0] ^ self.mask])
        yield from stream


@dataclass(frozen=True)
class Inject:
    """Insert `data` behind the first `at` bytes: at once, and in one segment with the last of them.

    ``Inject(b"evil", at=len(b"220 go ahead\\r\\n"))`` is what an attacker does to StartTLS; a
    Dribble or Cuts behind it parts the two.
    """

    data: bytes
    at: int = 0

    def apply(self, stream: Stream, link: Waiting) -> Iterator[bytes]:
        missing = self.at
        if missing == 0:
            yield self.data
        for piece in stream.first(self.at):
            missing -= len(piece)
            yield piece if missing else piece + self.data
        yield from stream


@dataclass(frozen=True)
class DropCloseNotify:
    """Drop the TLS alert in front of the source's FIN, so that the FIN is a truncation.

    TLS 1.3 hides what a record is: an application's message of two bytes looks like an alert, and
    so is held back until more comes or dropped at the end.

    Args:
        at: the number of bytes in clear text before TLS begins (StartTLS).
    """

    at: int = 0

    def apply(self, stream: Stream, link: Waiting) -> Iterator[bytes]:
        yield from stream.first(self.at)
        held = b""
        while record := self._record(stream):
            if held:
                yield held
            held = record if self._maybe_alert(record) else b""
            if not held:
                yield record

    def _record(self, stream: Stream) -> bytes:
        header = b"".join(stream.first(5))  # type, version, length
        return header + b"".join(stream.first(int.from_bytes(header[3:], "big")))

    def _maybe_alert(self, record: bytes) -> bool:
        # 21 is an alert's type; TLS 1.3 sends it as type 23: level, reason, type and a 16-byte tag.
        return record[0] == 21 or (record[0] == 23 and len(record) == 5 + 19)
