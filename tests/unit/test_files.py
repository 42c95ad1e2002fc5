"""Readers and writers as files: what they hold comes back to the stream, however they end."""

from __future__ import annotations

import array
import gc
import io
import pickle
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peers import WAIT

import tcpsock
from tcpsock._files import bytes_of, write_all

Pair = tuple[tcpsock.Socket, socket.socket]
ADOPTED = 1.0  # seconds; read() itself says with timeout=0 where nothing may be waited for


class Pairs:
    """Adopted sockets, each with its peer; `timeout` is the default of their reads."""

    def __init__(self) -> None:
        self._made: list[Pair] = []

    def __call__(self, *arrived: bytes, timeout: float | None = None, end: bool = False) -> Pair:
        mine, peer = socket.socketpair()
        peer.settimeout(WAIT)
        for piece in arrived:
            peer.sendall(piece)
        if end:
            peer.shutdown(socket.SHUT_WR)
        sock = tcpsock.adopt(mine, timeout=timeout, allow_half_open=True)
        sock.opened.result(WAIT)
        self._made.append((sock, peer))
        return sock, peer

    def close(self) -> None:
        for sock, peer in self._made:
            peer.close()
            sock.close().exception(WAIT)  # an aborted one has failed


@pytest.fixture
def pairs() -> Iterator[Pairs]:
    pairs = Pairs()
    yield pairs
    pairs.close()


def rest(sock: tcpsock.Socket, peer: socket.socket) -> bytes:
    """All that is left in the stream."""
    peer.shutdown(socket.SHUT_WR)
    with sock.readable.get_reader() as reader:
        return reader.read_all(timeout=WAIT)


# bytes_of ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "content"),
    [
        (b"abc", b"abc"),
        (bytearray(b"abc"), b"abc"),
        (memoryview(b"abcdef")[1:3], b"bc"),
        (array.array("H", [0x0101, 0x0202]), b"\x01\x01\x02\x02"),
        (memoryview(b"abcdef").cast("B", (2, 3)), b"abcdef"),
        (memoryview(b"abc").cast("c"), b"abc"),
        (array.array("d"), b""),
        (b"", b""),
    ],
)
def test_W1_anything_that_has_bytes_is_seen_as_bytes(data: Any, content: bytes) -> None:
    view = bytes_of(data, "data")
    assert (view.format, view.ndim, view.itemsize) == ("B", 1, 1)
    assert view == content


def test_W1_it_is_a_view_and_no_copy() -> None:
    buffer = array.array("H", [0])
    with bytes_of(buffer, "data") as view:
        view[0] = view[1] = 1
    assert buffer[0] == 0x0101


def test_W1_what_has_no_bytes_is_a_TypeError_that_names_it() -> None:
    with pytest.raises(TypeError, match=r"^data must be bytes-like, not str: \.encode\(\) it$"):
        bytes_of("text", "data")  # type: ignore[arg-type]  # what users do
    with pytest.raises(TypeError, match=r"^each chunk must be bytes-like, not int$"):
        bytes_of(5, "each chunk")  # type: ignore[arg-type]


def test_W1_bytes_that_are_not_in_one_piece_are_a_ValueError() -> None:
    with pytest.raises(ValueError, match=r"^data must be C-contiguous$"):
        bytes_of(memoryview(b"abcdef")[::2], "data")


# write_all --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("at_once", "calls"), [(1, 5), (2, 3), (100, 1), (None, 1)])
def test_write_all_goes_on_where_a_file_takes_a_part(at_once: int | None, calls: int) -> None:
    class File:
        def __init__(self) -> None:
            self.taken: list[bytes] = []

        def write(self, chunk: memoryview) -> int | None:
            self.taken.append(bytes(chunk[:at_once]))
            return None if at_once is None else len(self.taken[-1])

    file = File()
    write_all(file, b"abcde")  # type: ignore[arg-type]  # as much of a file as it needs
    assert b"".join(file.taken) == b"abcde"
    assert len(file.taken) == calls


# Reading ----------------------------------------------------------------------------------------

TIMEOUTS = [None, ADOPTED]  # without and with a log of what was gathered


@pytest.mark.parametrize("timeout", TIMEOUTS)
@pytest.mark.parametrize("buffering", [1, 7, 65536])
def test_R3_closing_a_file_puts_back_what_it_has_not_given_out(
    pairs: Pairs, timeout: float | None, buffering: int
) -> None:
    sock, peer = pairs(b"one\ntwo\nthree", b"four", timeout=timeout)
    reader = sock.readable.get_reader()
    with reader.as_file(buffering=buffering) as file:
        assert file.readline() == b"one\n"
        assert file.read(2) == b"tw"
        assert file.tell() == 6
        with pytest.raises(tcpsock.StreamLocked):
            reader.read()
    assert not sock.readable.locked  # the lock was released
    assert rest(sock, peer) == b"o\nthreefour"


def test_R3_a_file_that_gave_everything_out_puts_nothing_back(pairs: Pairs) -> None:
    sock, _ = pairs(b"all", end=True)
    with sock.readable.get_reader().as_file() as file:
        assert file.read() == b"all"
        assert file.read() == b""
        assert file.readline() == b""
    with sock.readable.get_reader() as reader:
        assert reader.read() == b""


def test_R3_what_was_peeked_at_is_put_back(pairs: Pairs) -> None:
    sock, peer = pairs(b"seen", timeout=ADOPTED)
    with sock.readable.get_reader().as_file() as file:
        assert file.peek() == b"seen"
    assert rest(sock, peer) == b"seen"


@pytest.mark.parametrize(
    "operation",
    [
        lambda file: file.read(100),
        lambda file: file.read(),
        lambda file: file.readline(),
        lambda file: file.readinto(bytearray(100)),
        lambda file: file.readlines(),
    ],
    ids=["read", "read-all", "readline", "readinto", "readlines"],
)
@pytest.mark.parametrize("before", [0, 1, 5])
@pytest.mark.parametrize("buffering", [1, 4, 65536])
def test_R4_a_timeout_loses_nothing_of_what_an_operation_had_gathered(
    pairs: Pairs, operation: Callable[[io.BufferedReader], object], before: int, buffering: int
) -> None:
    sock, peer = pairs(b"given", b"gathered", timeout=0)
    reader = sock.readable.get_reader()
    reader.peek(13, timeout=WAIT)
    file = reader.as_file(buffering=buffering)
    assert file.read(before) == b"given"[:before]
    with pytest.raises(tcpsock.ReadTimeout):
        operation(file)
    file.close()
    assert rest(sock, peer) == b"givengathered"[before:]


@pytest.mark.parametrize("name", ["read", "read1", "readline"])
def test_R4_a_file_that_timed_out_refuses_to_read_on_and_still_loses_nothing(
    pairs: Pairs, name: str
) -> None:
    sock, peer = pairs(b"gathered", timeout=0)
    reader = sock.readable.get_reader()
    reader.peek(8, timeout=WAIT)
    file = reader.as_file()
    with pytest.raises(tcpsock.ReadTimeout):
        file.read(100)
    with pytest.raises(OSError, match="an earlier read of this file timed out"):
        getattr(file, name)(100)
    file.close()
    assert rest(sock, peer) == b"gathered"


@pytest.mark.parametrize("line", [b"one\n", b"a longer line\n"])
def test_R4_lines_before_a_timeout_have_been_given_out(pairs: Pairs, line: bytes) -> None:
    sock, peer = pairs(line, line, b"half a li", timeout=0)
    reader = sock.readable.get_reader()
    reader.peek(2 * len(line) + 9, timeout=WAIT)
    file = reader.as_file(buffering=8)
    got = [file.readline(), file.readline()]
    with pytest.raises(tcpsock.ReadTimeout):
        file.readline()
    assert got == [line, line]
    assert sock.readable.locked  # the file is still open
    file.close()
    assert rest(sock, peer) == b"half a li"


STEPS = st.one_of(
    st.tuples(st.just("read"), st.integers(0, 30)),
    st.tuples(st.just("read1"), st.integers(1, 30)),
    st.tuples(st.just("readinto"), st.integers(1, 30)),
    st.tuples(st.just("readline"), st.just(-1) | st.integers(0, 10)),
    st.tuples(st.just("peek"), st.just(1)),
)


@settings(max_examples=80, derandomize=True, database=None, deadline=None)
@given(
    content=st.lists(st.sampled_from([b"a", b"\n", b"bc\n", b"0123456789"]), max_size=12),
    steps=st.lists(STEPS, max_size=8),
    buffering=st.sampled_from([1, 5, 65536]),
    timeout=st.sampled_from([0, None]),
)
def test_R3_R4_what_was_given_out_and_what_comes_back_are_all_there_was(
    content: list[bytes], steps: list[tuple[str, int]], buffering: int, timeout: float | None
) -> None:
    """Any reads, with and without a timeout at the end of what there is."""
    everything = b"".join(content)
    pairs = Pairs()
    sock, peer = pairs(*content, timeout=timeout, end=timeout is None)
    if everything:
        with sock.readable.get_reader() as reader:
            reader.peek(len(everything), timeout=WAIT)
    file = sock.readable.get_reader().as_file(buffering=buffering)
    given = b""
    try:
        for name, n in steps:
            if name == "readinto":
                buffer = bytearray(n)
                given += buffer[: file.readinto(buffer)]
            elif name == "peek":
                file.peek()
            else:
                given += getattr(file, name)(n)
            assert file.tell() == len(given)
    except tcpsock.ReadTimeout:
        pass
    file.close()
    assert given + rest(sock, peer) == everything
    pairs.close()


def test_R9_what_ended_the_stream_comes_through_the_file(pairs: Pairs) -> None:
    sock, _ = pairs(b"some")
    file = sock.readable.get_reader().as_file()
    assert file.read(4) == b"some"
    sock.abort("enough")
    with pytest.raises(tcpsock.SocketAborted, match="enough"):
        file.read(1)
    file.close()


def test_text_and_its_end_leave_the_rest_in_the_stream(pairs: Pairs) -> None:
    sock, _ = pairs("zwölf\r\nBoxkämpfer\r\n".encode(), end=True)
    file = sock.readable.get_reader().as_file()
    text = io.TextIOWrapper(file, encoding="utf-8", newline="")
    assert text.readline() == "zwölf\r\n"
    assert list(text) == ["Boxkämpfer\r\n"]
    assert text.detach() is file
    assert not file.closed
    file.close()
    assert not sock.readable.locked


def test_closing_the_text_layer_closes_the_file(pairs: Pairs) -> None:
    sock, _ = pairs(b"line\n")
    text = io.TextIOWrapper(sock.readable.get_reader().as_file())
    assert text.readline() == "line\n"
    text.close()
    assert not sock.readable.locked


@pytest.mark.parametrize("timeout", TIMEOUTS)
@pytest.mark.parametrize("protocol", [0, 2, pickle.HIGHEST_PROTOCOL])
def test_R3_pickles_take_their_own_bytes_and_no_more(
    pairs: Pairs, timeout: float | None, protocol: int
) -> None:
    objects = [{"a": [1, 2.5]}, "text", b"x" * 70_000]
    pickles = b"".join(pickle.dumps(each, protocol) for each in objects)
    sock, peer = pairs(pickles + b"rest", timeout=timeout)
    with sock.readable.get_reader().as_file() as file:
        assert [pickle.load(file) for _ in objects] == objects
    assert rest(sock, peer) == b"rest"


# Writing ----------------------------------------------------------------------------------------


def test_a_file_writes_what_was_buffered_at_flush_and_close_and_never_half_closes(
    pairs: Pairs,
) -> None:
    sock, peer = pairs()
    writer = sock.writable.get_writer()
    with writer.as_file(buffering=100) as file:
        file.write(b"small")
        assert sock.stats.bytes_sent == 0
        with pytest.raises(tcpsock.StreamLocked):
            writer.write(b"past the file")
        file.flush()
        assert peer.recv(100) == b"small"
        file.write(array.array("H", [0x0101]))
    assert peer.recv(100) == b"\x01\x01"
    assert not sock.writable.locked
    with sock.writable.get_writer() as again:
        again.write(b"goes on")
    assert peer.recv(100) == b"goes on"


def test_pickles_and_text_go_out_through_a_file(pairs: Pairs) -> None:
    sock, peer = pairs()
    with sock.writable.get_writer().as_file() as file:
        pickle.dump({"a": 1}, file)
        text = io.TextIOWrapper(file, encoding="utf-8", newline="\r\n")
        text.write("zwölf\n")
        text.close()
    with peer.makefile("rb") as theirs:
        assert pickle.load(theirs) == {"a": 1}
        assert theirs.readline() == "zwölf\r\n".encode()


def test_W5_closing_a_file_that_cannot_be_flushed_raises_and_gives_the_lock_back(
    pairs: Pairs,
) -> None:
    sock, _ = pairs()
    writer = sock.writable.get_writer()
    file = writer.as_file()
    file.write(b"never sent")
    sock.abort()
    with pytest.raises(tcpsock.SocketAborted):
        file.close()
    assert file.closed
    with pytest.raises(tcpsock.SocketAborted):  # not StreamLocked: no file is in the way
        writer.write(b"x")


# Dropping ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", TIMEOUTS)
def test_R6_a_dropped_file_puts_back_and_releases(pairs: Pairs, timeout: float | None) -> None:
    sock, peer = pairs(b"given, and not", timeout=timeout)
    file = sock.readable.get_reader().as_file()
    assert file.read(7) == b"given, "
    del file
    gc.collect()
    assert not sock.readable.locked
    assert rest(sock, peer) == b"and not"


def test_R6_a_dropped_file_is_flushed_and_releases(pairs: Pairs) -> None:
    sock, peer = pairs()
    file = sock.writable.get_writer().as_file()
    file.write(b"buffered")
    del file
    gc.collect()
    assert peer.recv(100) == b"buffered"
    assert not sock.writable.locked


def test_a_dropped_file_that_cannot_be_flushed_is_silent(pairs: Pairs) -> None:
    sock, _ = pairs()
    file = sock.writable.get_writer().as_file()
    file.write(b"never sent")
    sock.abort()
    del file
    gc.collect()  # an error in a finalizer would fail this test


@pytest.mark.parametrize("side", ["read", "write"])
def test_T8_a_file_dropped_while_its_own_thread_holds_the_lock_warns_and_does_not_wait_for_itself(
    pairs: Pairs, side: str
) -> None:
    sock, _ = pairs()
    if side == "read":
        files: list[Any] = [sock.readable.get_reader().as_file()]
    else:
        files = [sock.writable.get_writer().as_file()]
    lock = files[0].raw.connection.state.lock
    with lock, pytest.warns(ResourceWarning, match="dropped unclosed"):
        files.clear()
        gc.collect()


def test_T8_a_file_dropped_while_another_thread_holds_the_lock_for_a_moment_is_closed(
    pairs: Pairs,
) -> None:
    sock, peer = pairs()
    file = sock.writable.get_writer().as_file()
    file.write(b"buffered")
    lock = file.raw.connection.state.lock
    held, release = threading.Event(), threading.Event()

    def hold_it() -> None:
        with lock:
            held.set()
            release.wait(WAIT)

    releasing = threading.Thread(target=hold_it)
    releasing.start()
    held.wait(WAIT)
    threading.Timer(0.01, release.set).start()
    del file
    gc.collect()
    releasing.join(WAIT)
    assert peer.recv(100) == b"buffered"


@pytest.mark.parametrize("side", ["read", "write"])
def test_a_file_whose_raw_part_was_detached_is_dropped_in_silence(pairs: Pairs, side: str) -> None:
    sock, _ = pairs()
    if side == "read":
        file: Any = sock.readable.get_reader().as_file()
    else:
        file = sock.writable.get_writer().as_file()
    raw = file.detach()
    del file
    gc.collect()
    raw.close()
