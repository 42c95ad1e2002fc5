"""ByteQueue is a run of bytes: whatever is done to it, plain bytes would give the same."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tcpsock._connection.queue import ByteQueue

PIECES = st.binary(max_size=40) | st.sampled_from([b"\r\n", b"a" * 5000])
COUNTS = st.integers(0, 60) | st.just(1 << 20)


class LikeBytes(RuleBasedStateMachine):
    """Every step on a queue, and on the bytes that it should hold."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = ByteQueue()
        self.model = b""

    @rule(piece=PIECES, view=st.booleans())
    def append(self, piece: bytes, view: bool) -> None:
        if view:
            buffer = bytearray(piece)
            self.queue.append(memoryview(buffer))
            buffer[:] = bytes(len(buffer))  # the receive buffer is used again
        else:
            self.queue.append(piece)
        self.model += piece

    @rule(piece=PIECES)
    def put_back(self, piece: bytes) -> None:
        self.queue.put_back(piece)
        self.model = piece + self.model

    @rule(n=COUNTS)
    def take(self, n: int) -> None:
        taken = self.queue.take(n)
        assert type(taken) is bytes
        assert taken == self.model[:n]
        self.model = self.model[n:]

    @rule(n=COUNTS)
    def take_into(self, n: int) -> None:
        buffer = bytearray(b"\xff" * n)
        got = self.queue.take_into(memoryview(buffer))
        assert got == min(n, len(self.model))
        assert buffer == self.model[:got] + b"\xff" * (n - got)
        self.model = self.model[got:]

    @rule(n=COUNTS)
    def peek(self, n: int) -> None:
        seen = self.queue.peek(n)
        assert type(seen) is bytes
        assert seen == self.model[:n]

    @rule(separator=st.sampled_from([b"\n", b"\r\n", b"aa", b"\x00"]), start=COUNTS, length=COUNTS)
    def find(self, separator: bytes, start: int, length: int) -> None:
        end = start + length
        assert self.queue.find(separator, start, end) == self.model.find(separator, start, end)

    @rule()
    def clear(self) -> None:
        self.queue.clear()
        self.model = b""

    @invariant()
    def holds_the_same(self) -> None:
        assert len(self.queue) == len(self.model)
        assert self.queue.content == self.model


TestLikeBytes = LikeBytes.TestCase
TestLikeBytes.settings = settings(
    max_examples=60, stateful_step_count=30, derandomize=True, database=None, deadline=None
)


@pytest.mark.parametrize("n", [3, 6, 100])
def test_what_was_taken_and_what_is_left_do_not_share_memory(n: int) -> None:
    queue = ByteQueue()
    queue.append(b"abcdef")
    taken = queue.take(n)
    queue.put_back(b"xyz")
    queue.append(b"more")
    assert taken == b"abcdef"[:n]


def test_a_view_of_what_it_held_does_not_stop_a_cleared_queue() -> None:
    """A bytearray that is looked at can't be resized: clear() and take() of all make a new one."""
    queue = ByteQueue()
    queue.append(b"abc")
    with memoryview(queue.content):
        queue.clear()
        queue.append(b"def")
    with memoryview(queue.content):
        assert queue.take(3) == b"def"
        queue.append(b"ghi")
    assert queue.take(9) == b"ghi"
