"""Writing, rules W1 to W5, clause by clause, over every transport."""

from __future__ import annotations

import ctypes
import os
import resource
import select
import socket
import threading
from array import array
from typing import Any

import pytest
from peers import (
    WAIT,
    Interrupted,
    ca_data,
    interrupt_when_blocked,
    open_descriptors,
    pattern,
    until,
)

import tcpsock
from tcpsock.testing import server_context

MORE = 20_000_000  # bytes: no loopback connection's buffers hold that


# W1: what a write takes, and when it returns


@pytest.mark.parametrize(
    "data",
    [
        b"\x00",
        bytearray(b"bytearray"),
        memoryview(b"..view..")[2:6],
        memoryview(bytes(24)).cast("B", (2, 3, 4)),
        array("d", [1.0, -0.5]),
        array("H", range(1000)),
        (ctypes.c_int * 3)(1, 2, 3),
        memoryview(b"12345678").cast("q"),
    ],
    ids=["one byte", "bytearray", "view", "3-d", "doubles", "shorts", "ctypes", "long long"],
)
def test_W1_any_bytes_like_object_of_any_format(pair, data) -> None:
    sock, peer = pair()
    writer = sock.writable.get_writer()
    expected = memoryview(data).tobytes()
    assert writer.write(data) is None
    assert peer.read_exactly(len(expected)) == expected
    assert sock.stats.bytes_sent == len(expected)


def test_W1_an_empty_write_is_a_no_op(pair) -> None:
    sock, peer = pair()
    writer = sock.writable.get_writer()
    for empty in (b"", bytearray(), memoryview(b""), array("d")):
        writer.write(empty)
    writer.writelines([])
    writer.writelines([b"", b""])
    writer.write(b"x")
    writer.close()
    assert peer.read_all() == b"x"


def test_W1_a_str_is_a_TypeError_that_says_encode(pair) -> None:
    sock, peer = pair()
    writer = sock.writable.get_writer()
    for call in (lambda: writer.write("text"), lambda: writer.writelines(["text"])):
        with pytest.raises(TypeError, match=r"\.encode\("):
            call()
    writer.write(b"fine")
    writer.close()
    assert peer.read_all() == b"fine"


@pytest.mark.parametrize("bad", [None, 5, [1, 2], object], ids=repr)
def test_W1_what_is_not_bytes_like_is_a_TypeError_and_harms_nothing(pair, bad) -> None:
    sock, peer = pair()
    writer = sock.writable.get_writer()
    with pytest.raises(TypeError):
        writer.write(bad)
    writer.write(b"fine")
    assert peer.read_exactly(4) == b"fine"


def test_W1_a_view_with_gaps_is_refused_and_harms_nothing(pair) -> None:
    sock, peer = pair()
    writer = sock.writable.get_writer()
    with pytest.raises((TypeError, ValueError, BufferError)) as caught:
        writer.write(memoryview(b"0123456789")[::2])
    assert not isinstance(caught.value, OSError)
    writer.write(b"fine")
    assert peer.read_exactly(4) == b"fine"


def test_W1_a_write_returns_when_the_kernel_has_every_byte(pair) -> None:
    """The caller's buffer is the caller's again: what it does to it then, nobody sees."""
    sock, peer = pair()
    writer = sock.writable.get_writer()
    buffer = bytearray(pattern(5000))
    writer.write(buffer)
    buffer[:] = bytes(5000)
    buffer += b"may be resized too"
    assert peer.read_exactly(5000) == pattern(5000)


def test_W1_a_large_write_blocks_until_the_peer_reads_and_arrives_whole(pair, background) -> None:
    sock, peer = pair()
    write = background(sock.writable.get_writer().write, pattern(MORE), timeout=WAIT).blocked()
    assert peer.read_exactly(MORE) == pattern(MORE)
    assert write.result() is None
    assert sock.stats.bytes_sent == MORE


def test_W1_write_before_opened_waits_for_it(listener, background) -> None:
    sock = tcpsock.connect(
        listener.address, secure_transport="on", tls=tcpsock.TlsOptions(ca_data=ca_data())
    )
    write = background(sock.writable.get_writer().write, b"early", timeout=WAIT)
    peer = listener.accept()
    write.blocked()
    peer.start_tls(server_context())
    assert peer.read_exactly(5) == b"early"
    write.result()
    sock.abort()
    assert sock.closed.exception(WAIT)
    peer.close()


def test_W1_timeout_0_writes_what_the_kernel_has_room_for_now(pair) -> None:
    sock, peer = pair()
    sock.writable.get_writer().write(b"now", timeout=0)
    assert peer.read_exactly(3) == b"now"


# W2: each write goes out whole


def test_W2_writes_of_several_threads_never_interleave(pair, background) -> None:
    sock, peer = pair(peer_buffers=16_384)
    writer = sock.writable.get_writer()
    size, rounds, threads = 40_000, 15, 6
    start = threading.Barrier(threads)

    def write(letter: int) -> None:
        start.wait(WAIT)
        for round in range(rounds):
            line = bytes([letter]) * size
            if round % 2:
                writer.write(line, timeout=WAIT)
            else:
                writer.writelines([line[:1], b"", line[1:20_000], bytearray(line[20_000:])])

    writing = [background(write, ord("a") + n) for n in range(threads)]
    seen = []
    for _ in range(threads * rounds):
        line = peer.read_exactly(size)
        assert line.count(line[:1]) == size
        seen.append(line[0])
    for call in writing:
        call.result()
    assert sorted(seen) == sorted([ord("a") + n for n in range(threads)] * rounds)


def test_W2_writelines_takes_any_iterable_as_one_write(pair) -> None:
    sock, peer = pair()
    writer = sock.writable.get_writer()
    writer.writelines(pattern(100, n) for n in range(500))
    writer.writelines((bytearray(b"a"), memoryview(b"b"), array("B", b"c")))
    writer.writelines([b"."] * 3000)  # more than the kernel takes in one call
    expected = b"".join(pattern(100, n) for n in range(500)) + b"abc" + b"." * 3000
    assert peer.read_exactly(len(expected)) == expected


def test_W2_writelines_with_a_bad_chunk_sends_nothing(pair) -> None:
    sock, peer = pair()
    writer = sock.writable.get_writer()

    def chunks() -> Any:
        yield b"part"
        raise LookupError("no more")

    with pytest.raises(TypeError):
        writer.writelines([b"part", None])
    with pytest.raises(LookupError):
        writer.writelines(chunks())
    writer.write(b"whole")
    writer.close()
    assert peer.read_all() == b"whole"


def test_W2_the_wait_for_the_turn_counts_and_breaks_nothing(pair, background) -> None:
    """A write that times out before its turn has sent nothing; the one in progress goes on."""
    sock, peer = pair()
    writer = sock.writable.get_writer()
    first = background(writer.write, pattern(MORE), timeout=WAIT).blocked()
    for timeout in (0, 0.05):
        with pytest.raises(tcpsock.WriteTimeout) as caught:
            writer.write(b"second", timeout=timeout)
        assert isinstance(caught.value, TimeoutError)
        assert caught.value.bytes_written == 0
        assert (caught.value.phase, caught.value.code) == ("write", "write-timeout")
    assert not first.done()
    assert not sock.closed.done()
    assert peer.read_exactly(MORE) == pattern(MORE)
    first.result()
    writer.write(b"third")
    writer.close()
    assert peer.read_all() == b"third"


def test_W2_the_wait_for_opened_counts_and_breaks_nothing(listener) -> None:
    sock = tcpsock.connect(
        listener.address, secure_transport="on", tls=tcpsock.TlsOptions(ca_data=ca_data())
    )
    peer = listener.accept()
    writer = sock.writable.get_writer()
    for timeout in (0, 0.05):
        with pytest.raises(tcpsock.WriteTimeout) as caught:
            writer.write(b"lost", timeout=timeout)
        assert caught.value.bytes_written == 0
    peer.start_tls(server_context())
    sock.opened.result(WAIT)
    writer.write(b"found")
    writer.close()
    assert peer.read_all() == b"found"
    peer.end()
    assert sock.readable.get_reader().read(timeout=WAIT) == b""
    assert sock.closed.result(WAIT) is None
    peer.close()


def test_W2_many_waiting_writes_all_get_their_turn(pair, background) -> None:
    sock, peer = pair()
    writer = sock.writable.get_writer()
    first = background(writer.write, pattern(MORE), timeout=WAIT).blocked()
    others = [background(writer.write, bytes([n]) * 1000, timeout=WAIT) for n in range(8)]
    for call in others:
        call.blocked()
    assert peer.read_exactly(MORE) == pattern(MORE)
    rest = peer.read_exactly(8000)
    blocks = [rest[n : n + 1000] for n in range(0, 8000, 1000)]
    assert sorted(blocks) == [bytes([n]) * 1000 for n in range(8)]
    for call in [first, *others]:
        call.result()


# W3: Writer.close()


def test_W3_close_sends_all_then_ends_our_side_and_reading_goes_on(pair) -> None:
    """Over TLS the peer sees close_notify: a missing one would be an error in its read."""
    sock, peer = pair()
    reader, writer = sock.streams()
    writer.write(pattern(300_000)[:100_000])
    writer.close()
    assert peer.read_all() == pattern(100_000)
    peer.send(pattern(200_000))
    peer.end()
    assert reader.read_all(timeout=WAIT) == pattern(200_000)
    assert sock.closed.result(WAIT) is None


def test_W3_after_the_close_notify_comes_the_FIN(tls_pair) -> None:
    sock, peer = tls_pair()
    sock.writable.get_writer().close()
    assert peer.read() == b""
    assert peer.sock.recv(1) == b""


def test_W3_close_returns_at_once_and_the_FIN_follows_the_write_in_progress(
    pair, background
) -> None:
    sock, peer = pair()
    writer = sock.writable.get_writer()
    write = background(writer.write, pattern(MORE), timeout=WAIT).blocked()
    writer.close()
    assert not write.done()
    with pytest.raises(tcpsock.SocketClosed):
        writer.write(b"later", timeout=0)
    assert peer.read_all() == pattern(MORE)
    assert write.result() is None
    assert writer.closed.result(WAIT) is None
    assert not sock.closed.done()


def test_W3_a_write_that_waits_for_its_turn_at_close_is_refused(pair, background) -> None:
    """After close() no write begins: the one in progress ends the stream."""
    sock, peer = pair()
    writer = sock.writable.get_writer()
    first = background(writer.write, pattern(MORE), timeout=WAIT).blocked()
    second = background(writer.write, b"second", timeout=WAIT).blocked()
    writer.close()
    assert peer.read_all() == pattern(MORE)
    first.result()
    assert isinstance(second.error(), tcpsock.SocketClosed)


def test_W3_later_writes_are_SocketClosed_and_closing_again_is_a_no_op(pair) -> None:
    sock, peer = pair()
    reader, writer = sock.streams()
    writer.close()
    writer.close()
    sock.writable.close()
    for call in (
        lambda: writer.write(b"x"),
        lambda: writer.writelines([b"x"]),
    ):
        for _ in range(2):
            with pytest.raises(tcpsock.SocketClosed) as caught:
                call()
            assert not isinstance(caught.value, tcpsock.SocketAborted)
    assert peer.read_all() == b""
    peer.send(b"still read")
    assert reader.read_exactly(10, timeout=WAIT) == b"still read"
    writer.close()


def test_W3_reading_goes_on_while_a_read_is_blocked_at_the_close(pair, background) -> None:
    sock, peer = pair()
    reader, writer = sock.streams()
    read = background(reader.read_all, timeout=WAIT).blocked()
    writer.close()
    assert peer.read() == b""
    peer.send(pattern(1_000_000))
    peer.end()
    assert read.result() == pattern(1_000_000)


def test_W3_close_with_no_descriptor_left_in_the_process(pair) -> None:
    """The half-close of TLS needs no descriptor that it hasn't got, and loses nothing then."""
    sock, peer = pair()
    reader, writer = sock.streams()
    sent = peer.fill(pattern(3_000_000))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    hoard: list[int] = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (open_descriptors() + 32, hard))
        with pytest.raises(OSError, match="Too many open files"):
            while True:
                hoard.append(os.open(os.devnull, os.O_RDONLY))
        writer.write(b"last")
        writer.close()
        assert peer.read_all() == b"last"
        writer.closed.result(WAIT)
    finally:
        for descriptor in hoard:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert reader.read_exactly(sent, timeout=WAIT) == pattern(sent)


def test_W3_close_before_opened_takes_effect_when_it_has_opened(listener) -> None:
    sock = tcpsock.connect(
        listener.address, secure_transport="on", tls=tcpsock.TlsOptions(ca_data=ca_data())
    )
    reader, writer = sock.streams()
    writer.close()
    peer = listener.accept()
    peer.start_tls(server_context())
    assert peer.read() == b""
    peer.send(b"answer to nothing")
    peer.end()
    assert reader.read_all(timeout=WAIT) == b"answer to nothing"
    assert sock.closed.result(WAIT) is None
    peer.close()


# W4: a write that did not end well


def test_W4_a_WriteTimeout_breaks_the_connection_and_counts_what_the_kernel_took(pair) -> None:
    sock, peer = pair()
    reader, writer = sock.streams()
    with pytest.raises(tcpsock.WriteTimeout) as caught:
        writer.write(pattern(MORE), timeout=0.3)
    taken = caught.value.bytes_written
    assert 0 < taken < MORE
    assert isinstance(sock.closed.exception(WAIT), tcpsock.WriteTimeout)
    for call in (lambda: writer.write(b"x"), lambda: reader.read(timeout=WAIT)):
        with pytest.raises(tcpsock.WriteTimeout) as later:
            call()
        assert later.value.bytes_written == taken
    got, how = peer.read_to_the_end()
    assert how == "reset"
    assert got == pattern(len(got))
    assert len(got) <= taken


def test_W4_bytes_written_counts_this_write_alone(pair, background) -> None:
    sock, peer = pair(peer_buffers=16_384)
    writer = sock.writable.get_writer()
    writer.write(pattern(5000))
    assert peer.read_exactly(5000) == pattern(5000)
    taking = background(peer.read_exactly, 1_000_000)  # and then the peer stops reading
    with pytest.raises(tcpsock.WriteTimeout) as caught:
        writer.write(pattern(MORE), timeout=0.6)
    assert taking.result() == pattern(1_000_000)
    assert 1_000_000 <= caught.value.bytes_written < MORE
    sent, taken = sock.stats.bytes_sent, 5000 + caught.value.bytes_written
    assert sent <= taken if pair.tls else sent == taken  # over TLS an upper bound


@pytest.mark.direct("the proxy makes room in the kernel that the test has filled")
def test_W4_a_WriteTimeout_after_the_turn_came_breaks_also_at_0_bytes(plain_pair) -> None:
    def stuff(raw: socket.socket) -> None:
        raw.setblocking(False)
        refused = 0
        while refused < 20:  # in a row: the kernel goes on making room for a while
            try:
                raw.send(pattern(65_536))
                refused = 0
            except BlockingIOError:
                refused += 1
                select.select([], [], [], 0.01)

    sock, _ = plain_pair(raw=stuff, peer_buffers=16_384)
    writer = sock.writable.get_writer()
    with pytest.raises(tcpsock.WriteTimeout) as caught:
        writer.write(b"x", timeout=0.05)
    assert caught.value.bytes_written == 0
    assert isinstance(sock.closed.exception(WAIT), tcpsock.WriteTimeout)


def test_W4_the_default_timeout_holds_for_writes_too(pair) -> None:
    sock, _ = pair(timeout=0.2)
    with pytest.raises(tcpsock.WriteTimeout):
        sock.writable.get_writer().write(pattern(MORE))
    assert isinstance(sock.closed.exception(WAIT), tcpsock.WriteTimeout)


def test_W4_a_WriteTimeout_wakes_a_blocked_read_and_a_waiting_write(pair, background) -> None:
    sock, _ = pair()
    reader, writer = sock.streams()
    read = background(reader.read, timeout=WAIT).blocked()
    first = background(writer.write, pattern(MORE), timeout=0.5)
    second = background(writer.write, b"second", timeout=WAIT)
    errors = [first.error(), second.error(), read.error()]
    # The second may have been first: then it was sent, and the first one's wait broke the rest.
    assert isinstance(errors[0], tcpsock.WriteTimeout)
    assert errors[1] is None or isinstance(errors[1], tcpsock.WriteTimeout)
    assert isinstance(errors[2], tcpsock.WriteTimeout)


def test_W4_an_exception_out_of_a_write_that_has_begun_aborts(pair, interruptible) -> None:
    sock, peer = pair()
    writer = sock.writable.get_writer()
    interrupting = interrupt_when_blocked(threading.main_thread())
    with pytest.raises(Interrupted) as caught:
        writer.write(pattern(MORE), timeout=WAIT)
    interrupting.result()
    failure = sock.closed.exception(WAIT)
    assert isinstance(failure, tcpsock.SocketAborted)
    assert failure.reason is caught.value
    got, how = peer.read_to_the_end()
    assert how == "reset"
    assert got == pattern(len(got))


def test_W4_an_exception_before_the_turn_came_breaks_nothing(
    pair, interruptible, background
) -> None:
    sock, peer = pair()
    writer = sock.writable.get_writer()
    first = background(writer.write, pattern(MORE), timeout=WAIT).blocked()
    interrupting = interrupt_when_blocked(threading.main_thread())
    with pytest.raises(Interrupted):
        writer.write(b"second", timeout=WAIT)
    interrupting.result()
    assert peer.read_exactly(MORE) == pattern(MORE)
    first.result()
    writer.write(b"third")
    writer.close()
    assert peer.read_all() == b"third"


def test_W4_a_write_to_a_peer_that_has_reset_goes_on_failing(pair) -> None:
    sock, peer = pair()
    writer = sock.writable.get_writer()
    peer.reset()
    with pytest.raises(tcpsock.ConnectionLost) as caught:
        while True:
            writer.write(b"x", timeout=WAIT)
    assert caught.value.errno is not None
    for _ in range(3):
        with pytest.raises(tcpsock.ConnectionLost):
            writer.write(b"x", timeout=WAIT)
    assert isinstance(sock.closed.exception(WAIT), tcpsock.ConnectionLost)


def test_W2_a_reset_wakes_the_writes_that_wait_for_their_turn_too(pair, background) -> None:
    sock, peer = pair()
    writer = sock.writable.get_writer()
    first = background(writer.write, pattern(MORE), timeout=WAIT).blocked()
    second = background(writer.write, b"second", timeout=WAIT).blocked()
    peer.reset()
    for call in (first, second):
        assert isinstance(call.error(), tcpsock.ConnectionLost)


# W5: abort()


@pytest.mark.parametrize("by", ["socket", "writable", "writer"])
def test_W5_abort_resets_and_sends_no_more(pair, background, by) -> None:
    sock, peer = pair()
    reader, writer = sock.streams()
    read = background(reader.read, timeout=WAIT).blocked()
    write = background(writer.write, pattern(MORE), timeout=WAIT).blocked()
    reason = object()
    {"socket": sock, "writable": sock.writable, "writer": writer}[by].abort(reason)
    for error in (read.error(), write.error(), sock.closed.exception(WAIT)):
        assert isinstance(error, tcpsock.SocketAborted)
        assert error.reason is reason
    got, how = peer.read_to_the_end()
    assert how == "reset"
    assert got == pattern(len(got))
    for call in (lambda: reader.read(), lambda: writer.write(b"x")):
        with pytest.raises(tcpsock.SocketAborted) as caught:
            call()
        assert caught.value.reason is reason
    sock.abort("again: a no-op")


def test_W5_abort_of_an_idle_connection_is_a_reset(pair) -> None:
    sock, peer = pair()
    sock.abort()
    with pytest.raises(ConnectionResetError):
        peer.sock.recv(1)
    assert isinstance(sock.closed.exception(WAIT), tcpsock.SocketAborted)


@pytest.mark.parametrize("by", ["socket", "writable"])
def test_W5_abort_after_close_only_ends_the_wait(pair, by) -> None:
    """The peer never hangs up, close_timeout is long: `closed` resolves at the abort."""
    sock, peer = pair(close_timeout=None)
    sock.close()
    assert peer.read() == b""
    assert not sock.closed.done()
    {"socket": sock, "writable": sock.writable}[by].abort("not heard")
    assert sock.closed.result(WAIT) is None


def test_W5_abort_after_the_writers_close_aborts(pair) -> None:
    """Only our side was ended: the connection lives, and its reading is cut off."""
    sock, peer = pair()
    reader, writer = sock.streams()
    writer.close()
    assert peer.read() == b""
    writer.abort()
    assert isinstance(sock.closed.exception(WAIT), tcpsock.SocketAborted)
    with pytest.raises(tcpsock.SocketAborted):
        reader.read(timeout=WAIT)


@pytest.mark.direct("it counts descriptors, and the proxy has its own")
def test_W5_abort_leaves_no_descriptor(pair) -> None:
    before = open_descriptors()
    sock, peer = pair()
    sock.abort()
    sock.closed.exception(WAIT)
    peer.close()
    until(lambda: open_descriptors() <= before + 1, "only the listener is left")  # pair's own


def test_W5_abort_before_opened_ends_the_attempt(listener) -> None:
    sock = tcpsock.connect(
        listener.address, secure_transport="on", tls=tcpsock.TlsOptions(ca_data=ca_data())
    )
    peer = listener.accept()
    reader = sock.readable.get_reader()
    sock.abort("changed my mind")
    for future in (sock.opened, sock.closed):
        error = future.exception(WAIT)
        assert isinstance(error, tcpsock.SocketAborted)
        assert error.reason == "changed my mind"
    with pytest.raises(tcpsock.SocketAborted):
        reader.read(timeout=WAIT)
    peer.close()
