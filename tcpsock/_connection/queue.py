"""The bytes between the network and whoever reads: no sockets, no threads, no limits of its own."""

from __future__ import annotations

__all__ = ["ByteQueue"]


class ByteQueue:
    """Bytes in the order in which they arrived. Whoever calls holds the connection's lock.

    One bytearray: appending, and deleting at the front, move no bytes; and what a read gathers
    simply stays here until it is complete, so a read that gives up has nothing to put back.
    """

    __slots__ = ("_bytes",)

    def __init__(self) -> None:
        self._bytes = bytearray()

    def __len__(self) -> int:
        return len(self._bytes)

    def append(self, received: memoryview | bytes) -> None:
        """Add what was received, at the end."""
        self._bytes += received

    def put_back(self, unread: bytes) -> None:
        """Return what was taken and not used, to the front."""
        self._bytes[:0] = unread

    def take(self, n: int) -> bytes:
        """The first n bytes, or all if there are fewer."""
        if n >= len(self._bytes):
            taken = bytes(self._bytes)
            self._bytes = bytearray()
            return taken
        with memoryview(self._bytes) as view:
            taken = bytes(view[:n])
        del self._bytes[:n]
        return taken

    def take_into(self, view: memoryview) -> int:
        """The first bytes, as many as fit into the view; returns how many."""
        n = min(len(view), len(self._bytes))
        with memoryview(self._bytes) as mine:
            view[:n] = mine[:n]
        del self._bytes[:n]
        return n

    def peek(self, n: int) -> bytes:
        """The first n bytes, or all if there are fewer, which stay."""
        return bytes(self._bytes[:n])

    def find(self, separator: bytes, start: int, end: int) -> int:
        """Where a separator begins that lies between start and end; -1 if there is none."""
        return self._bytes.find(separator, start, end)

    def clear(self) -> None:
        """Throw everything away."""
        self._bytes = bytearray()
