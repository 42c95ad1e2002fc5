"""Scripted peers: a handler for serve() that is written as a list of steps."""

from __future__ import annotations

import re
import select
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass

from . import _server

__all__ = [
    "Dialogue",
    "Drain",
    "Echo",
    "Expect",
    "ExpectEof",
    "HalfClose",
    "Script",
    "Send",
    "TruncateTls",
    "Upgrade",
]

LIMIT = 65536  # bytes that an Expect with a pattern reads at most


class Dialogue:
    """A connection in the hands of a script; what a step is called with."""

    sock: socket.socket
    """The connection, an ``ssl.SSLSocket`` after upgrade()."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._waiting = b""  # decrypted before a half-close, not read yet

    def receive(self, size: int = 65536) -> bytes:
        """Return at least one byte and at most `size`; b"" at EOF."""
        if self._waiting:
            piece, self._waiting = self._waiting[:size], self._waiting[size:]
            return piece
        try:
            return self.sock.recv(size)
        except ssl.SSLZeroReturnError:  # EOF after a half-close of ours
            return b""

    def upgrade(self, context: ssl.SSLContext | None = None) -> None:
        """Do the server's side of StartTLS; `sock` is the TLS socket then."""
        self.sock = _server.upgrade(self.sock, context)

    def half_close(self) -> None:
        """End the sending side, under TLS with a close_notify; receive() goes on."""
        self._waiting += _server.half_close(self.sock)

    def reset(self) -> None:
        """Close with a TCP reset at once."""
        _server.reset(self.sock)

    def wait(self, event: threading.Event) -> None:
        """Wait until `event` is set. The script ends if the connection does first."""
        poll = select.poll()
        poll.register(self.sock, 0)  # POLLHUP and POLLERR always count
        while not event.wait(0.01):
            if poll.poll(0):
                raise _HungUp


Step = Callable[[Dialogue], object]


class _HungUp(Exception):
    """The connection ended during a stall."""


class Script:
    """A handler for serve() that carries out its steps, one after the other.

    When they are done, the server ends the connection as for any handler. A step that fails ends
    the script; its exception is in ``Server.errors``.

    Args:
        steps: Send, Expect and their like, or any function of one argument, the Dialogue.
    """

    def __init__(self, *steps: Step) -> None:
        for step in steps:
            if not callable(step):
                raise TypeError(f"not a step of a script: {step!r}")
        self._steps = steps

    def __repr__(self) -> str:
        return f"Script({', '.join(map(repr, self._steps))})"

    def __call__(self, sock: socket.socket) -> None:
        dialogue = Dialogue(sock)
        try:
            for step in self._steps:
                step(dialogue)
        except _HungUp:
            pass


@dataclass(frozen=True)
class Send:
    """Send `data`."""

    data: bytes

    def __call__(self, dialogue: Dialogue) -> None:
        dialogue.sock.sendall(self.data)


@dataclass(frozen=True)
class Expect:
    """Read exactly `data`, or up to where a compiled pattern first matches all that was read.

    Raises:
        AssertionError: something else came, or EOF. It is said at the first byte that differs.
    """

    data: bytes | re.Pattern[bytes]

    def __call__(self, dialogue: Dialogue) -> None:
        got = b""
        while not self._satisfied(got):
            missing = len(self.data) - len(got) if isinstance(self.data, bytes) else 1
            piece = dialogue.receive(missing)
            got += piece
            if not piece:
                raise AssertionError(f"{self}: got {got!r} and then EOF")
            if not self._possible(got):
                raise AssertionError(f"{self}: got {got!r}")

    def _satisfied(self, got: bytes) -> bool:
        if isinstance(self.data, bytes):
            return got == self.data
        return self.data.fullmatch(got) is not None

    def _possible(self, got: bytes) -> bool:
        return self.data.startswith(got) if isinstance(self.data, bytes) else len(got) < LIMIT


@dataclass(frozen=True)
class ExpectEof:
    """Read the peer's EOF.

    Raises:
        AssertionError: a byte came instead.
    """

    def __call__(self, dialogue: Dialogue) -> None:
        if piece := dialogue.receive():
            raise AssertionError(f"{self}: got {piece!r}")


@dataclass(frozen=True)
class Echo:
    """Send back what comes, until the peer's EOF."""

    def __call__(self, dialogue: Dialogue) -> None:
        while piece := dialogue.receive():
            dialogue.sock.sendall(piece)


@dataclass(frozen=True)
class Drain:
    """Read and drop what comes, until the peer's EOF."""

    def __call__(self, dialogue: Dialogue) -> None:
        while dialogue.receive():
            pass


@dataclass(frozen=True)
class Upgrade:
    """Do the server's side of a TLS handshake (StartTLS), with `context` or server_context()."""

    context: ssl.SSLContext | None = None

    def __call__(self, dialogue: Dialogue) -> None:
        dialogue.upgrade(self.context)


@dataclass(frozen=True)
class HalfClose:
    """End the sending side (under TLS with close_notify); the script may go on reading."""

    def __call__(self, dialogue: Dialogue) -> None:
        dialogue.half_close()


@dataclass(frozen=True)
class TruncateTls:
    """End the sending side by FIN alone, without close_notify."""

    def __call__(self, dialogue: Dialogue) -> None:
        _server.truncate(dialogue.sock)
