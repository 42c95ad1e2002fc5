"""ByteQueue is a run of bytes: whatever is done to it, plain bytes would give the same."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import invariant

from tcpsock._connection.queue import ByteQueue

from .machines import NotedMachine, step

PIECES = st.binary(max_size=40) | st.sampled_from([b"\r\n", b"\n", b"a" * 5000])
COUNTS = st.integers(0, 60) | st.sampled_from([4999, 5000, 5001, 20_000])
SEPARATORS = st.sampled_from([b"\n", b"\r\n", b"aa", b"\x00"])


class QueueMachine(NotedMachine):
    """Every step on a queue, and on the bytes that it should hold."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = ByteQueue()
        self.model = b""
        self.taken: list[tuple[bytes, bytes]] = []  # what was given, and what it should go on being

    def _keep(self, given: bytes, expected: bytes) -> None:
        assert type(given) is bytes
        assert given == expected
        self.taken.append((given, bytes(bytearray(expected))))  # one of its own

    @step(piece=PIECES, by_view=st.booleans())
    def append(self, piece: bytes, by_view: bool) -> None:
        if by_view:
            buffer = bytearray(piece)
            self.queue.append(memoryview(buffer))
            buffer[:] = bytes(len(buffer))  # the receive buffer is used again
        else:
            self.queue.append(piece)
        self.model += piece

    @step(piece=PIECES)
    def put_back(self, piece: bytes) -> None:
        self.queue.put_back(piece)
        self.model = piece + self.model

    @step(n=COUNTS)
    def take_and_put_back(self, n: int) -> None:
        """What a file does that is closed at once."""
        self.queue.put_back(self.queue.take(n))

    @step(n=COUNTS)
    def take(self, n: int) -> None:
        self._keep(self.queue.take(n), self.model[:n])
        self.model = self.model[n:]

    @step(n=COUNTS)
    def take_into(self, n: int) -> None:
        buffer = bytearray(b"\xff" * n)
        got = self.queue.take_into(memoryview(buffer))
        assert got == min(n, len(self.model))
        assert buffer == self.model[:got] + b"\xff" * (n - got)
        self.model = self.model[got:]

    @step(n=COUNTS)
    def peek(self, n: int) -> None:
        self._keep(self.queue.peek(n), self.model[:n])

    @step(separator=SEPARATORS, start=COUNTS, length=COUNTS)
    def find(self, separator: bytes, start: int, length: int) -> None:
        end = start + length
        assert self.queue.find(separator, start, end) == self.model.find(separator, start, end)

    @step(pieces=st.lists(PIECES, max_size=5), separator=SEPARATORS)
    def append_and_find(self, pieces: list[bytes], separator: bytes) -> None:
        """As read_until() does it, which looks at no byte twice."""
        searched = 0
        for piece in pieces:
            self.queue.append(piece)
            self.model += piece
            found = self.queue.find(separator, searched, 1 << 20)
            assert found == self.model.find(separator)
            if found >= 0:
                break
            searched = max(0, len(self.queue) - len(separator) + 1)

    @step(when=lambda self: len(self.model) > 5000)
    def clear(self) -> None:
        self.queue.clear()
        self.model = b""

    @invariant()
    def holds_the_same(self) -> None:
        assert len(self.queue) == len(self.model)
        assert self.queue.content == self.model

    @invariant()
    def what_was_given_stays_as_it_was(self) -> None:
        assert all(given == expected for given, expected in self.taken)


def test_R3_a_queue_is_a_run_of_bytes(run_machine: Any) -> None:
    """Any mix of its methods."""
    run_machine(QueueMachine)
