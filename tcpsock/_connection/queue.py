"""The bytes between the network and whoever reads: no sockets, no threads, no limits of its own."""

from __future__ import annotations

__all__ = ["ByteQueue"]


class ByteQueue:
    """Bytes in the order in which they arrived. Whoever calls holds the connection's lock.

    One bytearray: appending, and deleting at the front, move no bytes; and what a read gathers
    simply stays here until it is complete, so a read that gives up has nothing to put back.

    Attributes:
        content: the bytes themselves, to be looked at.
    """

    __slots__ = ("content",)

    def __init__(self) -> None:
        self.content = bytearray()

    def __len__(self) -> int:
        return len(self.content)

    def append(self, received: memoryview | bytes) -> None:
        """Add what was received, at the end."""
        self.content += received

    def put_back(self, unread: bytes) -> None:
        """Return what was taken and not used, to the front."""
        self.content[:0] = unread

    def take(self, n: int) -> bytes:
        """The first n bytes, or all if there are fewer."""
        if n >= len(self.content):
            taken = bytes(self.content)
            self.content = bytearray()
            return taken
        with memoryview(self.content) as view:
            taken = bytes(view[:n])
        del self.content[:n]
        return taken

    def take_into(self, view: memoryview) -> int:
        """The first bytes, as many as fit into the view; returns how many."""
        n = min(len(view), len(self.content))
        with memoryview(self.content) as mine:
            view[:n] = mine[:n]
        del self.content[:n]
        return n

    def peek(self, n: int) -> bytes:
        """The first n bytes, or all if there are fewer, which stay."""
        return bytes(self.content[:n])

    def find(self, separator: bytes, start: int, end: int) -> int:
        """Where a separator begins that lies between start and end; -1 if there is none."""
        return self.content.find(separator, start, end)

    def clear(self) -> None:
        """Throw everything away."""
        self.content = bytearray()
