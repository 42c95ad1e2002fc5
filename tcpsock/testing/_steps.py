"""What the steps of scripts and of proxies are made of, and the two steps that both know.

A step of a Script is anything that can be called with the Dialogue. A step of a ChaosProxy has
``apply(stream, link)``: it takes one direction's bytes in and gives them out again, changed, parted
or held up. Both forms meet here, so that ``Stall`` and ``Reset`` are one word each.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Peer", "Reset", "ResetNow", "Stall", "Stream", "Waiting"]


class Waiting(Protocol):
    """Something to wait in, that ends the wait when its connection ends."""

    def wait(self, event: threading.Event) -> None: ...


class Peer(Waiting, Protocol):
    """The side of a Dialogue that Stall and Reset see."""

    def reset(self) -> None: ...


class ResetNow(Exception):
    """Raised in a proxy's steps: both sides are to be reset, behind the bytes already given out."""


class Stream:
    """One direction's bytes, as they come in pieces; iterating it gives them."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._front = memoryview(b"")  # what first() cut off
        self.ended = False
        """True once the end has been seen."""

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._front:
            piece, self._front = bytes(self._front), memoryview(b"")
            return piece
        try:
            return next(self._pieces)
        except StopIteration:
            self.ended = True
            raise

    def first(self, size: int) -> Iterator[bytes]:
        """Give the next `size` bytes, each piece at once and never larger than what is wanted."""
        while size > 0:
            if not self._front:
                piece = next(self, None)
                if piece is None:
                    return
                self._front = memoryview(piece)
            head, self._front = bytes(self._front[:size]), self._front[size:]
            size -= len(head)
            yield head


@dataclass(frozen=True)
class Stall:
    """Do nothing more until `event` is set (or the connection ends).

    Args:
        at: a proxy's: the number of bytes that pass before it. A script stalls where it stands.
    """

    event: threading.Event
    at: int = 0

    def __call__(self, dialogue: Waiting) -> None:
        dialogue.wait(self.event)

    def apply(self, stream: Stream, link: Waiting) -> Iterator[bytes]:
        yield from stream.first(self.at)
        if not stream.ended:
            link.wait(self.event)
        yield from stream


@dataclass(frozen=True)
class Reset:
    """Reset the connection (TCP RST); in a proxy both of its connections.

    Args:
        after: a proxy's: the number of bytes that are delivered before it. A script resets where
            it stands, and what it sent but the peer's kernel has not taken is lost.
    """

    after: int = 0

    def __call__(self, dialogue: Peer) -> None:
        dialogue.reset()

    def apply(self, stream: Stream, link: Waiting) -> Iterator[bytes]:
        yield from stream.first(self.after)
        if not stream.ended:
            raise ResetNow
