"""What a dialogue is made of: steps that somebody else carries out, and two ways to fail.

A dialogue is a generator. It yields steps, is sent what each of them read, and returns when the
server has given the go-ahead. It asks for no byte beyond what it needs: the one behind the go-ahead
must stay where start_tls() finds it (CVE-2011-0411).
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import NoReturn, TypeAlias, TypeVar

__all__ = [
    "Dialogue",
    "NotSpoken",
    "ReadExactly",
    "ReadTo",
    "ReadWaiting",
    "Refused",
    "Send",
    "Step",
    "not_spoken",
    "read_line",
    "send_line",
]


@dataclass(frozen=True)
class Send:
    """Send these bytes."""

    content: bytes


@dataclass(frozen=True)
class ReadTo:
    """Read up to a separator, and the separator itself."""

    separator: bytes


@dataclass(frozen=True)
class ReadExactly:
    """Read so many bytes."""

    size: int


@dataclass(frozen=True)
class ReadWaiting:
    """Read some of what has come already, for an error's message; maybe nothing."""


Step: TypeAlias = "Send | ReadTo | ReadExactly | ReadWaiting"

Result = TypeVar("Result")
Dialogue: TypeAlias = Generator[Step, bytes, Result]


class Refused(Exception):
    """The server does not agree to start TLS.

    Args:
        reply: what it said.
        why: what that means, where its own words don't tell.
    """

    def __init__(self, reply: bytes, why: str = "") -> None:
        super().__init__(reply, why)
        self.reply = reply
        self.why = why


class NotSpoken(Exception):
    """What came is not of this protocol.

    Args:
        reply: what came.
        expected: what should have come.
    """

    def __init__(self, reply: bytes, expected: str) -> None:
        super().__init__(reply, expected)
        self.reply = reply
        self.expected = expected


def send_line(line: str) -> Dialogue[None]:
    """Send a command."""
    yield Send(line.encode("ascii") + b"\r\n")


def read_line() -> Dialogue[bytes]:
    """One line, without its end (CRLF, or LF alone as some servers have it)."""
    line = yield ReadTo(b"\n")
    return line[:-2] if line.endswith(b"\r\n") else line[:-1]


def not_spoken(start: bytes, expected: str) -> Dialogue[NoReturn]:
    """Fail with NotSpoken, and show what came behind the few bytes that were not understood."""
    raise NotSpoken(start + (yield ReadWaiting()), expected)
