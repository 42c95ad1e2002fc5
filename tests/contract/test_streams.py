"""ReadableStream, WritableStream, Reader and Writer as objects: what api.md says of them."""

from __future__ import annotations

import csv
import gc
import io
import pickle
import socket
import threading
from pathlib import Path

import pytest
from peers import WAIT, Call, pattern, until_all_arrived

import tcpsock

MORE = 20_000_000  # bytes: no loopback connection's buffers hold that


# The objects


def test_streams_and_futures_are_the_same_objects_at_every_access(pair) -> None:
    sock, _ = pair()
    for name in ("readable", "writable", "opened", "closed"):
        assert getattr(sock, name) is getattr(sock, name)


def test_streams_gives_a_reader_and_a_writer(pair) -> None:
    sock, peer = pair()
    reader, writer = sock.streams()
    assert isinstance(reader, tcpsock.Reader)
    assert isinstance(writer, tcpsock.Writer)
    assert isinstance(sock.readable, tcpsock.ReadableStream)
    assert isinstance(sock.writable, tcpsock.WritableStream)
    writer.write(b"out")
    assert peer.read_exactly(3) == b"out"
    peer.send(b"in")
    assert reader.read_exactly(2, timeout=WAIT) == b"in"


def test_R6_reader_and_writer_release_their_locks_as_context_managers(pair) -> None:
    sock, peer = pair()
    with sock.readable.get_reader() as reader, sock.writable.get_writer() as writer:
        writer.write(b"x")
        assert sock.readable.locked
        assert sock.writable.locked
    assert not sock.readable.locked
    assert not sock.writable.locked
    with pytest.raises(tcpsock.StreamLocked):
        reader.read()
    with pytest.raises(ZeroDivisionError), sock.readable.get_reader():
        raise ZeroDivisionError
    assert not sock.readable.locked
    assert not sock.closed.done()
    assert peer.read_exactly(1) == b"x"


def test_R6_a_reader_may_be_closed_or_released_inside_its_block(pair) -> None:
    sock, _ = pair()
    with sock.readable.get_reader() as reader, sock.writable.get_writer() as writer:
        reader.release_lock()
        writer.close()
    assert not sock.readable.locked
    assert not sock.writable.locked


def test_R6_release_and_reacquire_between_calls(pair) -> None:
    sock, peer = pair()
    peer.send(b"a line\nand more")
    with sock.readable.get_reader() as reader:
        assert reader.readline(timeout=WAIT) == b"a line\n"
    with sock.readable.get_reader() as reader:
        assert reader.read_exactly(3, timeout=WAIT) == b"and"
    with sock.readable.get_reader() as reader:
        assert reader.read_exactly(5, timeout=WAIT) == b" more"


def test_R6_release_lock_of_a_writer_in_a_blocked_write_is_StreamBusy(pair, background) -> None:
    sock, peer = pair()
    writer = sock.writable.get_writer()
    write = background(writer.write, pattern(MORE), timeout=WAIT).blocked()
    with pytest.raises(tcpsock.StreamBusy):
        writer.release_lock()
    assert sock.writable.locked
    assert peer.read_exactly(MORE) == pattern(MORE)
    write.result()
    writer.release_lock()
    assert not sock.writable.locked


def test_R6_a_reader_dropped_with_a_cycle_gives_its_lock_back(pair) -> None:
    sock, peer = pair()

    class Holder:
        pass

    holder = Holder()
    holder.reader = sock.readable.get_reader()  # type: ignore[attr-defined]  # made here
    holder.self = holder  # type: ignore[attr-defined]  # the cycle
    del holder
    gc.collect()
    assert not sock.readable.locked
    peer.send(b"x")
    assert sock.readable.get_reader().read(timeout=WAIT) == b"x"


def test_E6_a_reader_alone_keeps_the_socket_alive(pair) -> None:
    """Streams, readers and writers count as references (pair holds one too: see E6's own tests)."""
    sock, peer = pair()
    reader = sock.readable.get_reader()
    del sock
    gc.collect()
    peer.send(b"alive")
    assert reader.read_exactly(5, timeout=WAIT) == b"alive"


# Iteration


def test_R2_iteration_gives_chunks_up_to_EOF(pair, background) -> None:
    sock, peer = pair()
    sending = background(lambda: (peer.send(pattern(2_000_000)), peer.end()))
    chunks = list(sock.readable)
    assert b"".join(chunks) == pattern(2_000_000)
    assert all(type(chunk) is bytes and chunk for chunk in chunks)
    sending.result()
    assert not sock.readable.locked


def test_R2_a_reader_is_iterable_too_and_keeps_its_lock(pair) -> None:
    sock, peer = pair()
    reader = sock.readable.get_reader()
    peer.send(b"abc")
    peer.end()
    assert b"".join(reader) == b"abc"
    assert sock.readable.locked


def test_R9_iteration_raises_what_ended_the_stream_and_returns_the_lock(pair) -> None:
    """An exception is an end of the iteration too, also while its traceback is being looked at."""
    sock, peer = pair()
    peer.send(b"some")
    peer.reset()
    got = []
    try:
        for chunk in sock.readable:
            got.append(chunk)
    except tcpsock.ConnectionLost:
        assert not sock.readable.locked
        assert sock.readable.get_reader()
    else:
        pytest.fail("a reset looked like EOF")
    assert b"".join(got) == b"some"


def test_E4_close_under_an_iteration_is_SocketClosed(pair, background) -> None:
    sock, peer = pair(close_timeout=0)
    iteration = background(lambda: list(sock.readable)).blocked()
    sock.close()
    error = iteration.error()
    assert isinstance(error, tcpsock.SocketClosed)
    assert not isinstance(error, tcpsock.SocketAborted)
    assert peer.read_to_the_end()[0] == b""


def test_R4_iteration_has_the_default_timeout_and_loses_nothing(pair) -> None:
    sock, peer = pair(timeout=0.05)
    chunks = iter(sock.readable)
    with pytest.raises(tcpsock.ReadTimeout):
        next(chunks)
    del chunks
    gc.collect()
    peer.send(b"later")
    assert sock.readable.get_reader().read_exactly(5, timeout=WAIT) == b"later"


# peek()


def test_peek_gives_exactly_n_and_consumes_nothing(pair, background) -> None:
    sock, peer = pair()
    reader = sock.readable.get_reader()
    peek = background(reader.peek, 5, timeout=WAIT).blocked()
    for part in (b"ab", b"c", b"defg"):
        peer.send(part)
    assert peek.result() == b"abcde"
    assert reader.peek(timeout=0) == b"a"
    assert reader.peek(2, timeout=0) == b"ab"
    until_all_arrived(sock, 7)
    assert reader.peek(7, timeout=0) == b"abcdefg"
    assert reader.read(timeout=0) == b"abcdefg"


def test_peek_gives_fewer_only_at_EOF(pair) -> None:
    sock, peer = pair(allow_half_open=True)
    reader = sock.readable.get_reader()
    peer.send(b"abc")
    with pytest.raises(tcpsock.ReadTimeout):
        reader.peek(4, timeout=0.05)
    peer.end()
    assert reader.peek(4, timeout=WAIT) == b"abc"
    assert not reader.closed.done()  # EOF was not delivered: three bytes are still to come
    assert reader.read_all(timeout=WAIT) == b"abc"
    assert reader.peek(4, timeout=WAIT) == b""


def test_R9_peek_past_what_came_before_a_reset_is_ConnectionLost(pair) -> None:
    sock, peer = pair()
    reader = sock.readable.get_reader()
    peer.send(b"abc")
    peer.reset()
    sock.closed.exception(WAIT)
    assert reader.peek(3, timeout=WAIT) == b"abc"
    with pytest.raises(tcpsock.ConnectionLost):
        reader.peek(4, timeout=WAIT)
    assert reader.read(timeout=WAIT) == b"abc"


# pipe_to()


def test_pipe_to_a_file_moves_all_and_flushes_and_leaves_it_open(
    pair, background, tmp_path
) -> None:
    sock, peer = pair()
    sending = background(lambda: (peer.send(pattern(3_000_000)), peer.end()))
    path: Path = tmp_path / "copy"
    with path.open("wb") as file:
        assert sock.readable.pipe_to(file) == 3_000_000
        assert not file.closed
        assert path.read_bytes() == pattern(3_000_000)
    assert not sock.readable.locked
    sending.result()


@pytest.mark.parametrize("close", [True, False])
def test_pipe_to_another_socket_and_its_half_close(pair, background, close) -> None:
    source, source_peer = pair()
    dest, dest_peer = pair()
    size = 3_000_000
    sending = background(lambda: (source_peer.send(pattern(size)), source_peer.end()))
    piping = background(source.readable.pipe_to, dest.writable, close=close)
    assert dest_peer.read_exactly(size) == pattern(size)
    assert piping.result() == size
    sending.result()
    assert not dest.writable.locked
    if close:
        assert dest_peer.read() == b""
    else:
        dest.writable.get_writer().write(b"not closed")
        assert dest_peer.read_exactly(10) == b"not closed"
    dest_peer.send(b"reading goes on")
    assert dest.readable.get_reader().read_exactly(15, timeout=WAIT) == b"reading goes on"


def test_pipe_to_locks_both_ends_while_it_runs(pair, background) -> None:
    source, source_peer = pair()
    dest, dest_peer = pair()
    piping = background(source.readable.pipe_to, dest.writable)
    source_peer.send(b"first")
    assert dest_peer.read_exactly(5) == b"first"
    piping.blocked()
    assert source.readable.locked
    assert dest.writable.locked
    for get in (source.readable.get_reader, dest.writable.get_writer):
        with pytest.raises(tcpsock.StreamLocked):
            get()
    source_peer.end()
    assert piping.result() == 5
    assert not source.readable.locked
    assert not dest.writable.locked


def test_pipe_to_a_locked_stream_is_StreamLocked_and_takes_nothing(pair) -> None:
    source, source_peer = pair()
    dest, _ = pair()
    source_peer.send(b"kept")
    writer = dest.writable.get_writer()
    with pytest.raises(tcpsock.StreamLocked):
        source.readable.pipe_to(dest.writable)
    assert not source.readable.locked
    reader = source.readable.get_reader()
    with pytest.raises(tcpsock.StreamLocked):
        source.readable.pipe_to(io.BytesIO())
    assert reader.read_exactly(4, timeout=WAIT) == b"kept"
    writer.release_lock()


def test_pipe_to_raises_the_sources_failure_and_does_not_end_the_destination_as_if_complete(
    pair, background
) -> None:
    source, source_peer = pair()
    dest, dest_peer = pair()
    piping = background(source.readable.pipe_to, dest.writable)
    source_peer.send(b"half")
    source_peer.reset()
    assert isinstance(piping.error(), tcpsock.ConnectionLost)
    assert dest_peer.read_exactly(4) == b"half"
    assert not source.readable.locked
    assert not dest.writable.locked
    dest.writable.get_writer().write(b"+")
    assert dest_peer.read_exactly(1) == b"+"


def test_pipe_to_raises_the_destinations_failure(pair, background) -> None:
    source, source_peer = pair()
    dest, dest_peer = pair()
    dest_peer.reset()
    assert isinstance(dest.closed.exception(WAIT), tcpsock.ConnectionLost)
    source_peer.send(b"nowhere to go")
    with pytest.raises(tcpsock.ConnectionLost):
        source.readable.pipe_to(dest.writable)
    assert not source.readable.locked
    assert not source.closed.done()


def test_pipe_to_a_file_that_raises(pair) -> None:
    sock, peer = pair()

    class Full(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, data: object) -> int:
            raise OSError(28, "No space left on device")

    peer.send(b"data")
    with pytest.raises(OSError, match="No space left"):
        sock.readable.pipe_to(Full())
    assert not sock.readable.locked
    assert not sock.closed.done()


def test_pipe_to_a_raw_file_that_takes_a_part_at_a_time(pair, background) -> None:
    """A raw file may take less than it is given: nothing is left out."""
    sock, peer = pair()
    taken = bytearray()

    class Slow(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, data: memoryview) -> int:
            part = bytes(data[:1000])
            taken.extend(part)
            return len(part)

    sending = background(lambda: (peer.send(pattern(100_000)), peer.end()))
    assert sock.readable.pipe_to(Slow()) == 100_000
    assert taken == pattern(100_000)
    sending.result()


def test_pipe_to_what_is_no_destination_is_a_TypeError(pair) -> None:
    sock, _ = pair(timeout=0.5)
    for bad in (None, 5, "file", sock):
        with pytest.raises(TypeError):
            sock.readable.pipe_to(bad)
    assert not sock.readable.locked


def test_pipe_to_ones_own_writable_is_an_echo_server(pair, background) -> None:
    sock, peer = pair(allow_half_open=True)
    echo = background(sock.readable.pipe_to, sock.writable)
    for n in range(5):
        peer.send(pattern(10_000, n))
        assert peer.read_exactly(10_000) == pattern(10_000, n)
    peer.end()
    assert echo.result() == 50_000
    assert peer.read_all() == b""
    assert sock.closed.result(WAIT) is None


def test_pipe_both_ways_is_a_proxy(pair, background) -> None:
    left, left_peer = pair()
    right, right_peer = pair()
    there = background(left.readable.pipe_to, right.writable)
    back = background(right.readable.pipe_to, left.writable)
    left_peer.send(b"request")
    left_peer.end()
    assert right_peer.read_all() == b"request"
    right_peer.send(pattern(1_000_000))
    right_peer.end()
    # allow_half_open is off: the peer's FIN ended our side of `left` before the answer came.
    errors = [there.error(), back.error()]
    assert errors[0] is None
    assert errors[1] is None or isinstance(errors[1], tcpsock.ConnectionLost)


def test_pipe_both_ways_with_half_open_loses_nothing(pair, background) -> None:
    left, left_peer = pair(allow_half_open=True)
    right, right_peer = pair(allow_half_open=True)
    there = background(left.readable.pipe_to, right.writable)
    back = background(right.readable.pipe_to, left.writable)
    left_peer.send(b"request")
    left_peer.end()
    assert right_peer.read_all() == b"request"
    answering = background(lambda: (right_peer.send(pattern(1_000_000)), right_peer.end()))
    assert left_peer.read_all() == pattern(1_000_000)
    answering.result()
    assert (there.result(), back.result()) == (7, 1_000_000)
    assert left.closed.result(WAIT) is None
    assert right.closed.result(WAIT) is None


# as_file() of a reader


def test_as_file_serves_csv_over_a_text_layer(pair) -> None:
    sock, peer = pair()
    peer.send("name,city\r\nZoë,Århus\r\n".encode())
    peer.end()
    with sock.readable.get_reader().as_file() as file:
        assert isinstance(file, io.BufferedReader)
        rows = list(csv.DictReader(io.TextIOWrapper(file, "utf-8", newline="")))
    assert rows == [{"name": "Zoë", "city": "Århus"}]


def test_as_file_serves_pickle_and_readline_and_small_reads(pair) -> None:
    sock, peer = pair()
    value = {"numbers": list(range(10_000)), "text": "x" * 50_000}
    peer.send(pickle.dumps(value) + b"first line\nsecond line\nab")
    peer.end()
    with sock.readable.get_reader().as_file(buffering=1000) as file:
        assert pickle.load(file) == value
        assert file.readline() == b"first line\n"
        assert next(file) == b"second line\n"
        assert [file.read(1), file.read(1), file.read(1)] == [b"a", b"b", b""]


def test_as_file_holds_the_lock_until_closed(pair) -> None:
    sock, _ = pair()
    file = sock.readable.get_reader().as_file()
    gc.collect()
    assert sock.readable.locked
    with pytest.raises(tcpsock.StreamLocked):
        sock.readable.get_reader()
    file.close()
    assert not sock.readable.locked
    file.close()


def test_R6_a_file_that_is_dropped_gives_the_lock_back_and_loses_nothing(pair) -> None:
    sock, peer = pair()
    source, sink = sock.readable.get_reader().as_file(), sock.writable.get_writer().as_file()
    peer.send(b"abcdef")
    assert source.read(2) == b"ab"
    sink.write(b"flushed")
    del source, sink
    gc.collect()
    assert not sock.readable.locked
    assert not sock.writable.locked
    assert sock.readable.get_reader().read_exactly(4, timeout=WAIT) == b"cdef"
    assert peer.read_exactly(7) == b"flushed"


def test_R3_as_file_puts_unread_bytes_back_at_close(pair) -> None:
    sock, peer = pair()
    peer.send(b"header\n" + pattern(20_000))
    with sock.readable.get_reader():
        until_all_arrived(sock, 20_007)
    with sock.readable.get_reader().as_file() as file:
        assert file.readline() == b"header\n"
    with sock.readable.get_reader() as reader:
        assert reader.read_exactly(20_000, timeout=0) == pattern(20_000)
    peer.send(b"tail")
    assert sock.readable.get_reader().read_exactly(4, timeout=WAIT) == b"tail"


def test_as_file_raises_OSError_after_a_timeout_and_the_socket_lives(pair) -> None:
    sock, peer = pair(timeout=0.05)
    reader = sock.readable.get_reader()
    file = reader.as_file()
    with pytest.raises(tcpsock.ReadTimeout):
        file.read(4)
    peer.send(b"late")
    with pytest.raises(OSError) as caught:
        file.read(4)
    assert not isinstance(caught.value, tcpsock.ReadTimeout)
    file.close()
    assert not sock.closed.done()
    assert sock.readable.get_reader().read_exactly(4, timeout=WAIT) == b"late"


def test_R4_a_part_that_a_timed_out_file_had_gathered_is_put_back(pair) -> None:
    sock, peer = pair(timeout=0.1)
    file = sock.readable.get_reader().as_file()
    peer.send(b"half")
    with pytest.raises(tcpsock.ReadTimeout):
        file.read(10)
    file.close()
    peer.send(b" and half")
    assert sock.readable.get_reader().read_exactly(13, timeout=1) == b"half and half"


def test_R8_R9_as_file_raises_what_ended_the_stream(pair) -> None:
    sock, peer = pair()
    peer.send(b"line\npart")
    peer.reset()
    with sock.readable.get_reader().as_file() as file:
        assert file.readline() == b"line\n"
        with pytest.raises(tcpsock.ConnectionLost):
            file.read()


def test_as_file_closed_after_the_socket_does_no_harm(pair) -> None:
    sock, peer = pair(close_timeout=0)
    reader, writer = sock.streams()
    source, sink = reader.as_file(), writer.as_file()
    peer.send(b"x")
    assert source.read(1) == b"x"
    sock.close()
    with pytest.raises(tcpsock.SocketClosed):
        source.read(1)
    source.close()
    sink.close()  # with nothing in it
    assert sock.closed.result(WAIT) is None


# as_file() of a writer


def test_as_file_of_a_writer_flushes_at_close_and_never_half_closes(pair) -> None:
    sock, peer = pair()
    with sock.writable.get_writer().as_file(buffering=1000) as file:
        assert isinstance(file, io.BufferedWriter)
        assert sock.writable.locked
        pickle.dump(list(range(100_000)), file)
        file.write(b"tail")
    assert not sock.writable.locked
    expected = pickle.dumps(list(range(100_000))) + b"tail"
    assert peer.read_exactly(len(expected)) == expected
    sock.writable.get_writer().write(b"goes on")
    assert peer.read_exactly(7) == b"goes on"


def test_as_file_of_a_writer_buffers_until_flush(pair) -> None:
    sock, peer = pair()
    file = sock.writable.get_writer().as_file()
    file.write(b"small")
    assert sock.stats.bytes_sent == 0
    file.flush()
    assert peer.read_exactly(5) == b"small"
    text = io.TextIOWrapper(file, "utf-8", newline="\r\n", write_through=True)
    print("Zoë", file=text)
    text.flush()
    assert peer.read_exactly(6) == "Zoë\r\n".encode()
    text.close()
    assert not sock.writable.locked


def test_as_file_large_writes_arrive_whole(pair, background) -> None:
    sock, peer = pair()

    def write() -> None:
        with sock.writable.get_writer().as_file() as file:
            assert file.write(pattern(MORE)) == MORE

    writing = background(write)
    assert peer.read_exactly(MORE) == pattern(MORE)
    writing.result()


def test_as_file_of_both_sides_is_what_makefile_users_do(pair) -> None:
    sock, peer = pair()
    reader, writer = sock.streams()
    with reader.as_file() as source, writer.as_file() as sink:
        for n in range(20):
            sink.write(b"line %d\n" % n)
            sink.flush()
            line = peer.read_exactly(len(b"line %d\n" % n))
            peer.send(line.upper())
            assert source.readline() == b"LINE %d\n" % n


# Closing by a stream


def test_W3_writable_close_is_a_half_close(pair) -> None:
    sock, peer = pair()
    sock.writable.close()
    assert peer.read() == b""
    peer.send(b"still")
    assert sock.readable.get_reader().read_exactly(5, timeout=WAIT) == b"still"
    assert not sock.closed.done()


def test_a_readable_stream_serves_as_a_WSGI_response_body(pair, background) -> None:
    """A server iterates over it and calls close() at the end: the socket is closed then."""
    sock, peer = pair()
    sending = background(lambda: (peer.send(pattern(500_000)), peer.end()))
    body = sock.readable
    assert b"".join(body) == pattern(500_000)
    body.close()
    assert sock.closed.result(WAIT) is None
    sending.result()


@pytest.mark.direct("a read gives what one segment brought", transport="plain")
def test_a_WSGI_response_that_ends_early_closes_the_socket(pair) -> None:
    sock, peer = pair(close_timeout=0)
    peer.send(b"first")
    body = sock.readable
    assert next(iter(body)) == b"first"
    body.close()
    assert sock.closed.result(WAIT) is None
    with pytest.raises(tcpsock.SocketClosed):
        body.get_reader()


def test_R7_readable_cancel_ends_an_iteration(pair, background) -> None:
    sock, peer = pair()
    iteration = background(lambda: list(sock.readable)).blocked()
    sock.readable.cancel()
    assert iteration.result() == []
    sock.writable.get_writer().write(b"on")
    assert peer.read_exactly(2) == b"on"


def test_R7_cancel_and_close_and_abort_are_idempotent_and_legal_in_every_state(pair) -> None:
    sock, peer = pair(close_timeout=0)
    reader, writer = sock.streams()
    for _ in range(2):
        reader.cancel()
        sock.readable.cancel()
        writer.close()
        sock.writable.close()
        sock.readable.close()
        sock.close()
        sock.abort()
        sock.writable.abort()
    assert sock.closed.result(WAIT) is None
    assert peer.read_to_the_end()[0] == b""


# Numbers and names


def test_L4_stats_count_the_applications_bytes(pair) -> None:
    sock, peer = pair()
    reader, writer = sock.streams()
    writer.write(pattern(3000))
    assert peer.read_exactly(3000) == pattern(3000)
    peer.send(pattern(5000))
    until_all_arrived(sock, 5000)
    assert reader.read_exactly(2000, timeout=0) == pattern(2000)
    stats = sock.stats
    assert (stats.bytes_sent, stats.bytes_received, stats.bytes_buffered) == (3000, 5000, 3000)
    assert stats.age >= 0
    assert stats.idle >= 0
    peer.end()
    assert len(reader.read_all(timeout=WAIT)) == 3000
    stats = sock.stats
    assert (stats.bytes_sent, stats.bytes_received, stats.bytes_buffered) == (3000, 5000, 0)


def test_L5_repr_tells_and_never_blocks(pair, background) -> None:
    sock, _ = pair()
    reader, writer = sock.streams()
    read = background(reader.read, timeout=WAIT).blocked()
    for thing in (sock, sock.readable, sock.writable, reader, writer):
        assert type(thing).__name__ in repr(thing)
    assert "open" in repr(sock)
    sock.abort()
    assert isinstance(read.error(), tcpsock.SocketAborted)
    sock.closed.exception(WAIT)
    assert "open" not in repr(sock)
    repr(reader), repr(writer)


def test_a_stream_object_is_no_file_and_has_no_length(pair) -> None:
    sock, _ = pair()
    for name in ("recv", "send", "sendall", "makefile", "fileno"):
        assert not hasattr(sock, name)
    for kind in (tcpsock.Socket, tcpsock.Reader, tcpsock.Writer):
        with pytest.raises(TypeError):
            kind()


def test_two_threads_of_readers_hand_the_lock_over(pair) -> None:
    """Readers in turn, each with a lock of its own for one line: no byte is lost between them."""
    sock, peer = pair()
    lines: list[bytes] = []
    turn = threading.Lock()

    def take(count: int) -> None:
        for _ in range(count):
            with turn, sock.readable.get_reader() as reader:
                lines.append(reader.readline(timeout=WAIT))

    takers = [Call(take, 50) for _ in range(4)]
    for n in range(200):
        peer.send(b"%d\n" % n)
    for taker in takers:
        taker.result()
    assert lines == [b"%d\n" % n for n in range(200)]


def test_a_unix_socket_or_socketpair_can_be_adopted(background) -> None:
    ours, theirs = socket.socketpair()
    with theirs, tcpsock.adopt(ours) as sock:
        reader, writer = sock.streams()
        writer.write(b"over")
        assert theirs.recv(10) == b"over"
        theirs.sendall(b"back")
        assert reader.read_exactly(4, timeout=WAIT) == b"back"
        theirs.shutdown(socket.SHUT_RDWR)
