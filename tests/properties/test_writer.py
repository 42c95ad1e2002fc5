"""Whatever has bytes, in whatever way it is written: the peer receives exactly these, in order."""

from __future__ import annotations

import array
import ctypes
import io
import math
import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant
from peers import WAIT, Call, pattern

import tcpsock
from tcpsock import SocketClosed, StreamLocked

from .machines import NotedMachine, step

ROOM = 60_000  # bytes that the peer leaves unread at most: so many fit, so no write has to wait


# What has bytes ---------------------------------------------------------------------------------


class _Point(ctypes.Structure):
    _fields_ = [("x", ctypes.c_uint8), ("y", ctypes.c_double)]


def _ctypes_array(item: type[Any]) -> Callable[[bytes], Any]:
    def make(content: bytes) -> Any:
        size = ctypes.sizeof(item)
        return (item * (len(content) // size)).from_buffer_copy(content)

    return make


def _array(code: str) -> Callable[[bytes], Any]:
    def make(content: bytes) -> Any:
        made = array.array(code)
        made.frombytes(content[: len(content) // made.itemsize * made.itemsize])
        return made

    return make


def _table(code: str, *shape: int) -> Callable[[bytes], Any]:
    """Rows of that shape, as many as there are bytes for."""

    def make(content: bytes) -> Any:
        row = math.prod(shape) * struct.calcsize(code)
        rows = len(content) // row
        if rows == 0:
            return b""  # a memoryview can't be cast to no rows
        return memoryview(content[: rows * row]).cast(code, (rows, *shape))

    return make


KINDS: dict[str, Callable[[bytes], Any]] = {
    "bytes": bytes,
    "bytearray": bytearray,
    "a slice": lambda content: memoryview(b"<<" + content + b">")[2:-1],
    "a slice of a bytearray": lambda content: memoryview(bytearray(content + b">>"))[:-2],
    "chars": lambda content: memoryview(content).cast("c"),
    "a BytesIO": lambda content: io.BytesIO(content).getbuffer(),
    "a PickleBuffer": pickle.PickleBuffer,
    "2 x 3": _table("B", 2, 3),
    "3 shorts": _table("H", 3),
    "1 x 1 x 2 doubles": _table("d", 1, 1, 2),
    "c_char": _ctypes_array(ctypes.c_char),
    "c_int32": _ctypes_array(ctypes.c_int32),
    "big-endian c_uint16": _ctypes_array(ctypes.c_uint16.__ctype_be__),
    "structures": _ctypes_array(_Point),
    "arrays of c_int16": _ctypes_array(ctypes.c_int16 * 3),
    **{f"array({code!r})": _array(code) for code in array.typecodes if code not in "uw"},
}


@dataclass(frozen=True)
class Piece:
    """Some bytes, and as what they come; a number is so many of an endless sequence."""

    kind: str
    content: bytes | int

    def make(self, offset: int) -> Any:
        content = self.content
        return KINDS[self.kind](pattern(content, offset) if isinstance(content, int) else content)


CONTENTS = st.binary(max_size=20) | st.integers(1, 3000) | st.sampled_from([16_384, 16_385, 40_000])
PIECES = st.builds(Piece, st.sampled_from(sorted(KINDS)), CONTENTS)
NO_BYTES = st.sampled_from(["text", "", None, 5, 0, [1, 2], {"a": 1}, object()])


def _scattered(content: bytes, stride: int) -> memoryview:
    return memoryview(content)[::stride]


SCATTERED = st.builds(_scattered, st.binary(min_size=9, max_size=50), st.sampled_from([2, 3, -1]))


class WriterMachine(NotedMachine):
    """Every way to write, and what must have arrived."""

    def __init__(self, connect: Any) -> None:
        super().__init__()
        self.connect = connect
        self.connected = False

    @step(
        by=initialize,
        transport=st.sampled_from(["plain", "tls12", "tls13"]),
        default=st.sampled_from([None, WAIT]),
    )
    def open(self, transport: str, default: float | None) -> None:
        self.sock, self.peer = self.connect(transport, allow_half_open=True, timeout=default)
        self.connected = True
        self.written = 0  # bytes so far
        self.unread = b""  # what the peer must still receive
        self.inbound = b""  # what the peer has sent
        self.writer: tcpsock.Writer | None = None
        self.ended = False  # by close()

    def _locked(self) -> tcpsock.Writer:
        if self.writer is None:
            self.writer = self.sock.writable.get_writer()
        return self.writer

    def _make(self, pieces: list[Piece]) -> list[Any]:
        """The pieces, which then count as written; the peer reads until there is room for them."""
        made, contents = [], b""
        for piece in pieces:
            made.append(piece.make(self.written + len(contents)))
            contents += memoryview(made[-1]).tobytes()
        if not self.ended:
            self.written += len(contents)
            if len(self.unread) + len(contents) > ROOM:
                self._peer_reads(len(self.unread))
            self.unread += contents
        return made

    # -- Writing --------------------------------------------------------------------------------

    def _write(self, write: Callable[[], object]) -> None:
        if self.ended:
            with pytest.raises(SocketClosed):
                write()
        else:
            write()

    @step(piece=PIECES, timeout=st.sampled_from([..., None, WAIT]))
    def write(self, piece: Piece, timeout: Any) -> None:
        [data] = self._make([piece])
        self._write(lambda: self._locked().write(data, timeout=timeout))

    @step(pieces=st.lists(PIECES, max_size=4), way=st.sampled_from([list, tuple, iter]))
    def write_lines(self, pieces: list[Piece], way: Callable[[Any], Any]) -> None:
        chunks = way(self._make(pieces))
        self._write(lambda: self._locked().writelines(chunks))

    @step(
        when=lambda self: not self.ended,
        pieces=st.lists(PIECES | st.just("flush"), max_size=5),
        buffering=st.sampled_from([1, 7, 1000, 65_536]),
        ending=st.sampled_from(["close", "with", "drop"]),
    )
    def write_to_a_file(self, pieces: list[Piece | str], buffering: int, ending: str) -> None:
        writer = self._locked()
        file = writer.as_file(buffering=buffering)
        with pytest.raises(StreamLocked):
            writer.write(b"past the file")
        self.writer = None
        del writer
        for piece in pieces:
            if piece == "flush" or len(self.unread) > ROOM // 4:  # what the peer reads must be out
                file.flush()
                assert self.sock.stats.bytes_sent == self.written
            if isinstance(piece, Piece):
                file.writelines(self._make([piece]))
        if ending == "with":
            with file:
                pass
        elif ending == "close":
            file.close()
        del file
        assert not self.sock.writable.locked

    @step(
        when=lambda self: not self.ended,
        size=st.integers(100_000, 1_000_000),
        kind=st.sampled_from(["bytes", "c_int32"]),
    )
    def write_much(self, size: int, kind: str) -> None:
        """More than the kernel takes: the write waits for the peer, many times."""
        data = Piece(kind, size).make(self.written)
        content = memoryview(data).tobytes()
        expected, self.unread = self.unread + content, b""
        self.written += len(content)
        reading = Call(self.peer.read_exactly, len(expected))
        self._locked().write(data, timeout=WAIT)
        assert reading.result() == expected

    @step(
        when=lambda self: not self.ended,
        sizes=st.lists(st.integers(1, 100_000), min_size=2, max_size=4),
    )
    def write_at_once(self, sizes: list[int]) -> None:
        """From several threads: each goes out whole, in some order (rule W2)."""
        writer = self._locked()
        contents = [bytes([65 + number]) * size for number, size in enumerate(sizes)]
        self.written += sum(sizes)
        before, self.unread = self.unread, b""
        writing = [Call(writer.write, content, timeout=WAIT) for content in contents]
        assert self.peer.read_exactly(len(before)) == before
        received = self.peer.read_exactly(sum(sizes))
        for call in writing:
            call.result()
        while contents:
            content = next(each for each in contents if received.startswith(each[:1]))
            contents.remove(content)
            assert received.startswith(content)
            received = received[len(content) :]

    # -- What is refused: nothing of it is sent ---------------------------------------------------

    @step(data=SCATTERED | NO_BYTES, before=st.lists(PIECES, max_size=2), lines=st.booleans())
    def write_what_is_none(self, data: Any, before: list[Piece], lines: bool) -> None:
        wrong = ValueError if isinstance(data, memoryview) else TypeError
        says = "C-contiguous" if wrong is ValueError else "must be bytes-like, not"
        writer = self._locked()
        with pytest.raises(wrong, match=says) as caught:
            if lines:
                writer.writelines([*(piece.make(0) for piece in before), data])
            else:
                writer.write(data)
        assert type(caught.value) is wrong
        if isinstance(data, str):
            assert ".encode()" in str(caught.value)
        del writer, caught

    # -- Locks, and the end ---------------------------------------------------------------------

    @step(how=st.sampled_from(["lock", "release", "release", "drop"]))
    def lock_or_release(self, how: str) -> None:
        writer = self._locked()
        assert self.sock.writable.locked
        with pytest.raises(StreamLocked):
            self.sock.writable.get_writer()
        if how == "lock":
            return
        if how == "release":
            pending = not writer.closed.done()
            writer.release_lock()
            assert pending is not self.ended
            assert isinstance(writer.closed.exception(WAIT), StreamLocked) is pending
            error = Call(writer.write, b"x", timeout=WAIT).error()
            assert isinstance(error, StreamLocked)
        self.writer = None
        del writer
        assert not self.sock.writable.locked

    @step(when=lambda self: len(self.steps) > 10, by_writer=st.booleans())
    def close(self, by_writer: bool) -> None:
        writer = self._locked()
        (writer if by_writer else self.sock.writable).close()
        assert writer.closed.result(WAIT) is None
        self.ended = True

    # -- The peer -------------------------------------------------------------------------------

    @step(size=st.integers(1, 60_000))
    def peer_reads(self, size: int) -> None:
        self._peer_reads(min(size, len(self.unread)))

    def _peer_reads(self, size: int) -> None:
        assert self.peer.read_exactly(size) == self.unread[:size]
        self.unread = self.unread[size:]

    @step(when=lambda self: len(self.inbound) < 10_000, size=st.integers(1, 5000))
    def peer_sends(self, size: int) -> None:
        """Nobody reads it before the end: a half-close must not lose it (rule W3)."""
        data = pattern(size, len(self.inbound))
        self.peer.send(data)
        self.inbound += data

    @invariant()
    def the_counter_tells_the_truth(self) -> None:
        assert self.sock.stats.bytes_sent == self.written

    def check_at_end(self) -> None:
        if not self.connected:
            return
        self.sock.writable.close()
        assert self.peer.read_all() == self.unread
        self.peer.end()
        with self.sock.readable.get_reader() as reader:
            assert reader.read_all(timeout=WAIT) == self.inbound
        assert self.sock.closed.result(WAIT) is None

    def clean_up(self) -> None:
        if self.connected:
            self.writer = None
            self.sock.abort()
            self.peer.close()
            self.sock.closed.exception(WAIT)


def test_W1_to_W3_the_peer_receives_what_was_written(connect: Any, run_machine: Any) -> None:
    """Any bytes-like object, any way to write it, over plain TCP, TLS 1.2 and TLS 1.3."""

    def machine() -> WriterMachine:
        return WriterMachine(connect)

    run_machine(machine, examples=0.5)
