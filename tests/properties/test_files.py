"""A reader's file reads as one over bytes does, and pipe_to() moves all there is, once."""

from __future__ import annotations

import contextlib
import io
import pickle
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from peers import WAIT

import tcpsock

for_all = settings.get_profile("properties")

CONTENTS = st.lists(st.sampled_from([b"a", b"\n", b"bc\n", b"0123456789", b"\r\n", b"x" * 3000]))
BUFFERINGS = st.sampled_from([1, 5, 64, 65_536])


@contextlib.contextmanager
def arrived(
    pieces: list[bytes], *, end: bool = True, **options: Any
) -> Iterator[tuple[tcpsock.Socket, socket.socket]]:
    """An adopted socket, whose peer has sent these and, if so wanted, nothing more."""
    mine, peer = socket.socketpair()
    with peer:
        for piece in pieces:
            peer.sendall(piece)
        if end:
            peer.shutdown(socket.SHUT_WR)
        sock = tcpsock.adopt(mine, allow_half_open=True, **options)
        sock.opened.result(WAIT)
        try:
            yield sock, peer
        finally:
            sock.abort()
    sock.closed.exception(WAIT)


def rest(sock: tcpsock.Socket) -> bytes:
    """All that is left in the stream."""
    with sock.readable.get_reader() as reader:
        return reader.read_all(timeout=WAIT)


# Files ------------------------------------------------------------------------------------------

SIZES = st.sampled_from([-1, None]) | st.integers(0, 30) | st.just(5000)
BUFFERS = st.integers(0, 30) | st.just(5000)
CALLS = st.one_of(
    st.tuples(st.sampled_from(["read", "readline", "readlines"]), SIZES),
    st.tuples(st.sampled_from(["readinto", "readinto1", "read1"]), BUFFERS),
    st.tuples(st.sampled_from(["next", "peek", "iterate"]), st.just(0)),
)
PARTS = ("read1", "readinto1", "peek")  # which may give less than there is


def call(file: Any, name: str, n: int | None) -> Any:
    if name == "next":
        return next(file, None)
    if name == "iterate":
        return list(file)
    if name in ("readinto", "readinto1"):
        buffer = bytearray(n or 0)
        return bytes(buffer[: getattr(file, name)(buffer)])
    return getattr(file, name)(n)


def call_of_bytes(model: io.BytesIO, name: str, n: int | None) -> Any:
    """The same of a BytesIO, which gives all there is at once."""
    if name == "peek":
        return model.getvalue()[model.tell() :]
    if name == "readlines":  # BytesIO's own counts its hint otherwise
        return io.IOBase.readlines(model, n)
    return call(model, name.removesuffix("1"), n)


@for_all
@given(
    content=CONTENTS,
    calls=st.lists(CALLS, max_size=8),
    buffering=BUFFERINGS,
    timeout=st.sampled_from([None, WAIT]),
    mark=st.sampled_from([1, 1000, 1 << 20]),
)
def test_R3_a_file_reads_as_one_over_bytes(
    content: list[bytes],
    calls: list[tuple[str, int | None]],
    buffering: int,
    timeout: float | None,
    mark: int,
) -> None:
    """Any calls of a buffered file up to EOF; what it hasn't given out is in the stream again."""
    model = io.BytesIO(b"".join(content))
    with arrived(content, timeout=timeout, high_water_mark=mark) as (sock, _):
        file = sock.readable.get_reader().as_file(buffering=buffering)
        for name, n in calls:
            before = model.tell()
            expected = call_of_bytes(model, name, n)
            got = call(file, name, n)
            if name in PARTS:
                assert expected.startswith(got)
                assert got or not expected or n == 0
                model.seek(before + (0 if name == "peek" else len(got)))
            else:
                assert got == expected
            assert file.tell() == model.tell()
        file.close()
        assert rest(sock) == model.read()


@for_all
@given(
    content=CONTENTS,
    lines_before=st.integers(0, 12),
    calls=st.lists(CALLS, min_size=1, max_size=6),
    buffering=BUFFERINGS,
)
@example(content=[b"a\n", b"b"], lines_before=0, calls=[("readlines", -1)], buffering=5)
@example(content=[b"abcd"], lines_before=0, calls=[("readline", 2), ("next", 0)], buffering=5)
@example(
    content=[b"a\n"], lines_before=0, calls=[("read", 1), ("next", 0), ("next", 0)], buffering=5
)
def test_R4_a_file_that_times_out_has_lost_nothing(
    content: list[bytes], lines_before: int, calls: list[tuple[str, int | None]], buffering: int
) -> None:
    """Whatever it had gathered by then: what it gave out, and what comes back, is all there was.

    (The examples: readlines() kept the whole lines that it had in hand; what was given out came
    back a second time, after half a line, and after a read that had left lines in the buffer.)
    """
    everything = b"".join(content)
    with arrived(content, end=False, timeout=0) as (sock, peer):
        reader = sock.readable.get_reader()
        if everything:
            reader.peek(len(everything), timeout=WAIT)
        file = reader.as_file(buffering=buffering)
        del reader
        given = b""
        with contextlib.suppress(tcpsock.ReadTimeout):
            for _ in range(lines_before):
                given += next(file)
            for name, n in calls:
                if name == "iterate":
                    continue  # its lines have been given out, to a list that is dropped
                got = call(file, name, n)
                given += b"".join(got) if name == "readlines" else got if name != "peek" else b""
        file.close()
        peer.shutdown(socket.SHUT_WR)
        assert given + rest(sock) == everything


def test_R4_readlines_that_times_out_gives_back_its_lines_too() -> None:
    """The first example from above, in slow motion."""
    with arrived([b"one\ntwo\nhalf"], end=False, timeout=0) as (sock, peer):
        reader = sock.readable.get_reader()
        reader.peek(12, timeout=WAIT)
        file = reader.as_file()
        assert file.readline() == b"one\n"
        with pytest.raises(tcpsock.ReadTimeout):
            file.readlines()
        file.close()
        peer.shutdown(socket.SHUT_WR)
        assert rest(sock) == b"two\nhalf"


@for_all
@given(
    objects=st.lists(st.integers() | st.text() | st.binary(max_size=500) | st.lists(st.none())),
    protocol=st.integers(0, pickle.HIGHEST_PROTOCOL),
    loaded=st.integers(0, 5),
    buffering=BUFFERINGS,
    timeout=st.sampled_from([None, WAIT]),
)
def test_R3_pickles_take_their_own_bytes(
    objects: list[Any], protocol: int, loaded: int, buffering: int, timeout: float | None
) -> None:
    pickles = [pickle.dumps(each, protocol) for each in objects]
    with arrived(pickles, timeout=timeout) as (sock, _):
        with sock.readable.get_reader().as_file(buffering=buffering) as file:
            assert [pickle.load(file) for _ in objects[:loaded]] == objects[:loaded]
        assert rest(sock) == b"".join(pickles[loaded:])


@for_all
@given(
    text=st.text(st.sampled_from("a\r\n\u20ac\U0001f600\u2028"), max_size=60),
    newline=st.sampled_from([None, "", "\n", "\r", "\r\n"]),
    buffering=BUFFERINGS,
)
def test_R3_text_comes_as_from_a_file_of_bytes(
    text: str, newline: str | None, buffering: int
) -> None:
    content = text.encode()
    with arrived([content]) as (sock, _):
        file = sock.readable.get_reader().as_file(buffering=buffering)
        with io.TextIOWrapper(file, encoding="utf-8", newline=newline) as lines:
            model = io.TextIOWrapper(io.BytesIO(content), encoding="utf-8", newline=newline)
            assert list(lines) == list(model)
        assert not sock.readable.locked


# pipe_to() --------------------------------------------------------------------------------------


class Disk(io.RawIOBase):
    """Takes `at_once` bytes a write, and no more than `room` in all."""

    def __init__(self, at_once: int, room: int) -> None:
        self.taken = bytearray()
        self.flushed = 0
        self._at_once, self._room = at_once, room

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        part = bytes(data)[: self._at_once]
        if len(self.taken) + len(part) > self._room:
            raise OSError(28, "No space left on device")
        self.taken += part
        return len(part)

    def flush(self) -> None:
        self.flushed += 1


@for_all
@given(
    content=CONTENTS,
    read_before=st.integers(0, 20),
    at_once=st.sampled_from([1 << 20, 100, 7]),
    room=st.none() | st.integers(0, 10_000),
    mark=st.sampled_from([1, 1000, 1 << 20]),
)
def test_R3_pipe_to_a_file_moves_all_or_puts_back_what_could_not_be_written(
    content: list[bytes], read_before: int, at_once: int, room: int | None, mark: int
) -> None:
    everything = b"".join(content)
    with arrived(content, high_water_mark=mark) as (sock, _):
        if everything and read_before:
            with sock.readable.get_reader() as reader:
                everything = everything[len(reader.read(read_before, timeout=WAIT)) :]
        disk = Disk(at_once, len(everything) if room is None else room)
        try:
            moved = sock.readable.pipe_to(disk)
        except OSError as error:
            assert error.errno == 28
            assert everything.startswith(disk.taken)
            again = rest(sock)
            assert everything.endswith(again)
            # A chunk comes back whole, also where the file had taken some of it.
            assert len(disk.taken) + len(again) >= len(everything)
            if at_once == 1 << 20:
                assert disk.taken + again == everything
        else:
            assert disk.taken == everything
            assert moved == len(everything)
            assert disk.flushed
            assert not disk.closed
            assert rest(sock) == b""


@for_all
@given(
    content=CONTENTS,
    before=st.binary(max_size=10),
    close=st.booleans(),
    mark=st.sampled_from([1, 1000, 1 << 20]),
)
def test_R3_pipe_to_a_stream_moves_all_and_half_closes_if_wanted(
    content: list[bytes], before: bytes, close: bool, mark: int
) -> None:
    everything = b"".join(content)
    with (
        arrived(content, high_water_mark=mark) as (sock, _),
        arrived([], end=False) as (other, receiver),
    ):
        receiver.settimeout(WAIT)
        with other.writable.get_writer() as writer:
            writer.write(before)
        assert sock.readable.pipe_to(other.writable, close=close) == len(everything)
        assert not other.writable.locked
        if not close:
            with other.writable.get_writer() as writer:
                writer.write(b"after")
                writer.close()
            everything += b"after"
        with receiver.makefile("rb") as received:
            assert received.read() == before + everything
