"""What the two sides of a measurement say to each other.

On a connection the client asks for one thing after the other, each with a request of nine bytes:
a kind and an amount of bytes. The server does that, and waits for the next request or for EOF.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import NoReturn

__all__ = ["BLOCK", "DONE", "ECHO", "MESSAGE", "REQUEST", "SEND", "TAKE", "Target", "hung_up"]

ECHO = b"E"  # the server sends back `amount` bytes, each as it comes
SEND = b"S"  # the server sends `amount` bytes, as fast as it can
TAKE = b"T"  # the server takes `amount` bytes, then answers DONE
DONE = b"."

REQUEST = struct.Struct("!cQ")  # kind, amount

MESSAGE = bytes(64)  # of one ping-pong
BLOCK = 256 * 1024  # bytes asked for, or sent, in one call: where a raw socket is at its best


@dataclass(frozen=True, slots=True)
class Target:
    """One of the servers to measure against."""

    host: str
    port: int
    tls: bool


def hung_up() -> NoReturn:
    """Ends a measurement in which the server did less than it was asked for."""
    raise EOFError("the server hung up in the middle")
