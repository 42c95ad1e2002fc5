"""Both directions at once, and the ends of a connection: who ends first, and under what load."""

from __future__ import annotations

import random
import threading
from typing import Any

import pytest
from peers import WAIT, Peer, open_descriptors, pattern, until

import tcpsock

MORE = 20_000_000  # bytes: no loopback connection's buffers hold that
MiB = 1 << 20


# Duplex


def exchange_1_MiB(pair: Any, background: Any, seed: int) -> None:
    """A reader and a writer thread on each side, chunks of 1 to 50,000 bytes, both ways whole."""
    rng = random.Random(seed)
    mark = rng.choice([1000, 100_003, MiB])
    sock, peer = pair(high_water_mark=mark, allow_half_open=True)
    reader, writer = sock.streams()
    there, back = pattern(MiB, rng.randrange(MiB)), pattern(MiB, rng.randrange(MiB))

    def cut(data: bytes, seed: int) -> list[bytes]:
        chunks, at, sizes = [], 0, random.Random(seed)
        while at < len(data):
            step = sizes.choice([1, 13, 1000, 16_384, 50_000])
            chunks.append(data[at : at + step])
            at += step
        return chunks

    def write() -> None:
        for chunk in cut(there, seed):
            writer.write(chunk, timeout=WAIT)
        writer.close()

    def peer_writes() -> None:
        for chunk in cut(back, seed + 100):
            peer.send(chunk)
        peer.end()

    def read() -> bytes:
        sizes, parts = random.Random(seed), bytearray()
        while part := reader.read(sizes.choice([1, 500, 70_000]), timeout=WAIT):
            parts += part
        return bytes(parts)

    writing, answering = background(write), background(peer_writes)
    reading, peer_reading = background(read), background(peer.read_all)
    assert peer_reading.result() == there
    assert reading.result() == back
    writing.result()
    answering.result()
    assert sock.closed.result(WAIT) is None
    assert (sock.stats.bytes_sent, sock.stats.bytes_received) == (MiB, MiB)


@pytest.mark.parametrize("seed", range(3))
def test_R3_W1_duplex_of_1_MiB_in_random_chunks(pair, background, seed) -> None:
    exchange_1_MiB(pair, background, seed)


@pytest.mark.parametrize("seed", range(2))
def test_R3_W1_duplex_of_1_MiB_over_a_network_that_cuts(cut_pair, background, seed) -> None:
    exchange_1_MiB(cut_pair, background, seed)


@pytest.mark.parametrize("mark", [1000, 1 << 20])
def test_W3_half_close_with_data_inbound_over_a_network_that_cuts(
    cut_pair, background, mark
) -> None:
    size = 1_000_000
    sock, peer = cut_pair(high_water_mark=mark)
    reader, writer = sock.streams()
    streaming = background(lambda: (peer.send(pattern(size)), peer.read_all(), peer.end()))
    assert reader.read_exactly(10_000, timeout=WAIT) == pattern(10_000)
    writer.write(b"enough")
    writer.close()
    assert reader.read_all(timeout=WAIT) == pattern(size - 10_000, 10_000)
    assert streaming.result()[1] == b"enough"
    assert sock.closed.result(WAIT) is None


def test_R5_ping_pong_with_a_reader_and_a_writer_thread(pair, background) -> None:
    sock, peer = pair()
    reader, writer = sock.streams()
    rounds = 300
    pong = threading.Semaphore(1)

    def write() -> None:
        for n in range(rounds):
            assert pong.acquire(timeout=WAIT)
            writer.write(pattern(64, n), timeout=WAIT)

    def echo() -> None:
        for _ in range(rounds):
            peer.send(peer.read_exactly(64))

    writing, echoing = background(write), background(echo)
    for n in range(rounds):
        assert reader.read_exactly(64, timeout=WAIT) == pattern(64, n)
        pong.release()
    writing.result()
    echoing.result()


# A clogged pair: both buffers full


def clog(pair: Any, background: Any, **options: Any) -> tuple[tcpsock.Socket, Peer, Any, int]:
    """A pair in which our write is blocked and the peer can send no more (read ahead is full)."""
    sock, peer = pair(high_water_mark=100_003, **options)
    write = background(sock.writable.get_writer().write, pattern(MORE), timeout=None).blocked()
    sent = peer.fill(pattern(MORE))
    assert sent < MORE
    return sock, peer, write, sent


def test_W1_a_clogged_write_blocks_until_the_peer_reads(pair, background) -> None:
    sock, peer, write, sent = clog(pair, background)
    assert not write.done()
    rest = background(peer.send, pattern(MORE - sent, sent))
    assert peer.read_exactly(MORE) == pattern(MORE)
    write.result()
    assert sock.readable.get_reader().read_exactly(MORE, timeout=WAIT) == pattern(MORE)
    rest.result()


@pytest.mark.direct("the proxy takes in what a peer that is gone does not")
def test_R9_a_peers_reset_releases_a_clogged_write(pair, background) -> None:
    sock, peer, write, _ = clog(pair, background)
    peer.close()  # with unread data: a reset
    assert isinstance(write.error(), tcpsock.ConnectionLost)
    assert isinstance(sock.closed.exception(WAIT), tcpsock.ConnectionLost)


def test_E4_own_close_lets_a_clogged_write_finish_when_the_peer_reads(pair, background) -> None:
    sock, peer, write, _ = clog(pair, background, close_timeout=WAIT)
    closed = sock.close()
    assert closed is sock.closed
    assert not write.done()
    assert peer.read_all() == pattern(MORE)
    assert write.result() is None
    peer.end()
    assert closed.result(WAIT) is None


def test_E4_own_close_cuts_a_clogged_write_off_after_close_timeout(pair, background) -> None:
    """The write raises SocketClosed in its own thread; `closed` never fails after close()."""
    sock, peer, write, _ = clog(pair, background, close_timeout=0.2)
    sock.close()
    error = write.error()
    assert isinstance(error, tcpsock.SocketClosed)
    assert not isinstance(error, tcpsock.SocketAborted)
    assert sock.closed.result(WAIT) is None
    got, how = peer.read_to_the_end()
    assert how == "reset"
    assert got == pattern(len(got))


def test_W5_abort_wakes_a_clogged_write(pair, background) -> None:
    sock, peer, write, _ = clog(pair, background)
    sock.abort()
    assert isinstance(write.error(), tcpsock.SocketAborted)
    assert isinstance(sock.closed.exception(WAIT), tcpsock.SocketAborted)
    assert peer.read_to_the_end()[1] == "reset"


# Half-close


def test_W3_half_close_by_us_then_the_answer_then_the_end(pair) -> None:
    sock, peer = pair()
    reader, writer = sock.streams()
    writer.write(b"request")
    writer.close()
    assert peer.read_all() == b"request"
    assert not sock.closed.done()
    peer.send(pattern(500_000))
    peer.end()
    assert reader.read_all(timeout=WAIT) == pattern(500_000)
    assert reader.read(timeout=WAIT) == b""
    assert reader.read(timeout=WAIT) == b""
    assert sock.closed.result(WAIT) is None


def test_E2_half_close_by_the_peer_then_our_answer_then_the_end(pair) -> None:
    sock, peer = pair(allow_half_open=True)
    reader, writer = sock.streams()
    peer.send(b"request")
    peer.end()
    assert reader.read_all(timeout=WAIT) == b"request"
    assert reader.read(timeout=WAIT) == b""
    assert not sock.closed.done()
    for n in range(10):
        writer.write(pattern(50_000, n), timeout=WAIT)
        assert peer.read_exactly(50_000) == pattern(50_000, n)
    assert not writer.closed.done()
    writer.close()
    assert peer.read_all() == b""
    assert sock.closed.result(WAIT) is None


def test_E3_both_ended_cleanly_in_whichever_order(pair, first) -> None:
    sock, peer = pair(allow_half_open=True)
    reader, writer = sock.streams()
    for side in (first, "peer" if first == "socket" else "socket"):
        if side == "socket":
            writer.write(b"ours")
            writer.close()
            assert peer.read_all() == b"ours"
        else:
            peer.send(b"theirs")
            peer.end()
            assert reader.read_all(timeout=WAIT) == b"theirs"
    assert sock.closed.result(WAIT) is None
    assert reader.closed.result(WAIT) is None
    assert writer.closed.result(WAIT) is None


def test_E3_both_end_at_the_same_moment(pair, background) -> None:
    start = threading.Barrier(2)

    def end(peer: Peer) -> None:
        start.wait(WAIT)
        peer.send(b"bye")
        peer.end()

    for _ in range(10):
        sock, peer = pair(allow_half_open=True)
        reader, writer = sock.streams()
        ending = background(end, peer)
        start.wait(WAIT)
        writer.write(b"bye")
        writer.close()
        assert reader.read_all(timeout=WAIT) == b"bye"
        ending.result()
        assert peer.read_all() == b"bye"
        assert sock.closed.result(WAIT) is None


def test_E3_the_peer_ends_as_soon_as_it_sees_our_end(pair, background) -> None:
    """Both FINs are out when the last read returns: a clean EOF, not a reset (T19)."""
    for _ in range(25):
        sock, peer = pair()
        reader, writer = sock.streams()
        answering = background(lambda peer=peer: (peer.read_all(), peer.end()))
        reading = background(reader.read, timeout=WAIT)
        writer.close()
        assert reading.result() == b""
        answering.result()
        assert sock.closed.result(WAIT) is None


def test_E3_write_then_close_delivers_all_then_EOF_whoever_ends_first(
    pair, background, first
) -> None:
    sock, peer = pair(allow_half_open=True)
    reader, writer = sock.streams()
    size = 2_000_000
    if first == "socket":
        writing = background(lambda: (writer.write(pattern(size), timeout=WAIT), writer.close()))
        assert peer.read_all() == pattern(size)
    else:
        writing = background(lambda: (peer.send(pattern(size)), peer.end()))
        assert reader.read_all(timeout=WAIT) == pattern(size)
    writing.result()


@pytest.mark.parametrize("mark", [1000, 100_003, 1 << 20, 1 << 23])
@pytest.mark.parametrize("reading", [True, False], ids=["read blocked", "nobody reads"])
def test_W3_half_close_with_5_MB_inbound_waiting_loses_no_byte(
    pair, background, mark, reading
) -> None:
    """Over TLS the obvious half-close reads the wire, and throws away what it finds there."""
    size = 5_000_000
    sock, peer = pair(high_water_mark=mark)
    reader, writer = sock.streams()
    sent = peer.fill(pattern(size))
    rest = background(lambda: (peer.send(pattern(size - sent, sent)), peer.read(), peer.end()))
    if reading:
        read = background(reader.read_all, timeout=WAIT)
    writer.write(b"")
    writer.close()
    if not reading:
        read = background(reader.read_all, timeout=WAIT)
    assert read.result() == pattern(size)
    rest.result()
    assert reader.read(timeout=WAIT) == b""
    assert sock.closed.result(WAIT) is None


def test_W3_half_close_in_the_middle_of_a_duplex(pair, background) -> None:
    """Our side ends at a random moment while the peer streams 3 MB and we read."""
    size = 3_000_000
    for seed in range(3):
        rng = random.Random(seed)
        sock, peer = pair(high_water_mark=rng.choice([10_007, 300_000]))
        reader, writer = sock.streams()
        end_at = rng.randrange(size)
        streaming = background(lambda peer=peer: (peer.send(pattern(size)), peer.end()))
        got = bytearray()
        ended = False
        while part := reader.read(rng.choice([1000, 100_000]), timeout=WAIT):
            got += part
            if len(got) >= end_at and not ended:
                writer.write(b"done")
                writer.close()
                ended = True
        assert got == pattern(size)
        streaming.result()
        assert peer.read_all() == b"done"
        assert sock.closed.result(WAIT) is None


def test_E1_the_peers_FIN_closes_our_write_side_and_data_stays_readable(pair) -> None:
    sock, peer = pair()
    reader, writer = sock.streams()
    peer.send(b"last words")
    peer.end()
    assert sock.closed.result(WAIT) is None
    assert peer.read_all() == b""
    for _ in range(3):
        with pytest.raises(tcpsock.ConnectionLost):
            writer.write(b"too late", timeout=WAIT)
    assert reader.read_all(timeout=WAIT) == b"last words"


def test_E1_a_write_in_progress_is_let_finish_after_the_peers_FIN(pair, background) -> None:
    sock, peer = pair()
    reader, writer = sock.streams()
    write = background(writer.write, pattern(MORE), timeout=WAIT).blocked()
    peer.end()
    assert reader.read(timeout=WAIT) == b""
    assert not write.done()
    assert peer.read_all() == pattern(MORE)
    assert write.result() is None
    assert sock.closed.result(WAIT) is None


def test_E1_a_FIN_behind_a_full_queue_is_seen_when_there_is_room_again(pair) -> None:
    sock, peer = pair(high_water_mark=1000)
    reader = sock.readable.get_reader()
    peer.send(pattern(50_000))
    peer.end()
    until(lambda: sock.stats.bytes_buffered == 1000, "read ahead up to the mark")
    assert not sock.closed.done()
    assert reader.read_exactly(49_500, timeout=WAIT) == pattern(49_500)
    assert sock.closed.result(WAIT) is None
    assert reader.read_all(timeout=WAIT) == pattern(500, 49_500)


def test_E1_a_reset_behind_a_full_queue_is_seen_at_once(pair) -> None:
    sock, peer = pair(high_water_mark=1000)
    sock.readable.get_reader()
    peer.send(pattern(50_000))
    until(lambda: sock.stats.bytes_buffered == 1000, "read ahead up to the mark")
    peer.reset()
    assert isinstance(sock.closed.exception(WAIT), tcpsock.ConnectionLost)


def test_E1_close_drops_what_was_readable_after_the_peers_end(pair) -> None:
    sock, peer = pair()
    reader = sock.readable.get_reader()
    peer.send(b"last words")
    peer.end()
    assert sock.closed.result(WAIT) is None
    assert reader.read_exactly(4, timeout=WAIT) == b"last"
    sock.close()
    with pytest.raises(tcpsock.SocketClosed):
        reader.read(timeout=WAIT)
    assert sock.closed.result(WAIT) is None


def test_E3_a_reset_after_the_peers_EOF_fails_a_half_open_connection(pair) -> None:
    """Also while nobody writes: `closed` tells a pool that the connection is dead."""
    sock, peer = pair(allow_half_open=True)
    reader, writer = sock.streams()
    peer.end()
    assert reader.read(timeout=WAIT) == b""
    peer.reset()
    assert isinstance(sock.closed.exception(WAIT), tcpsock.ConnectionLost)
    with pytest.raises(tcpsock.ConnectionLost):
        writer.write(b"x")


def test_E1_close_notify_without_a_FIN_is_seen_once_reading_has_begun(tls_pair) -> None:
    sock, peer = tls_pair()
    reader, writer = sock.streams()
    peer.send(b"that is all")
    peer.notify()
    assert sock.closed.result(WAIT) is None
    assert reader.read_all(timeout=WAIT) == b"that is all"
    with pytest.raises(tcpsock.ConnectionLost):
        writer.write(b"x")


def test_R2_close_notify_without_a_FIN_wakes_a_blocked_read(tls_pair, background) -> None:
    sock, peer = tls_pair(allow_half_open=True)
    reader, writer = sock.streams()
    read = background(reader.read_all, timeout=WAIT).blocked()
    peer.notify()
    assert read.result() == b""
    writer.write(b"the other direction")
    assert peer.read_exactly(19) == b"the other direction"


# close()


def test_E4_write_then_close_delivers_all_then_EOF(pair, first) -> None:
    """No byte of ours is lost, though the peer sends what nobody will read."""
    sock, peer = pair(close_timeout=WAIT)
    writer = sock.writable.get_writer()
    if first == "peer":
        peer.send(pattern(300_000))  # unread at our close: a bare close() would reset
    writer.write(pattern(100_000))
    sock.close()
    if first == "socket":
        peer.send(pattern(300_000))
    assert peer.read_all() == pattern(100_000)
    peer.end()
    assert sock.closed.result(WAIT) is None


@pytest.mark.parametrize(
    "call",
    [
        lambda reader: reader.read(timeout=None),
        lambda reader: reader.read_exactly(10, timeout=None),
        lambda reader: reader.read_until(b"\n", timeout=None),
        lambda reader: reader.readinto(bytearray(9), timeout=None),
        lambda reader: reader.peek(5, timeout=None),
        lambda reader: reader.read_all(timeout=None),
        lambda reader: next(iter(reader)),
    ],
    ids=["read", "read_exactly", "read_until", "readinto", "peek", "read_all", "iteration"],
)
def test_E4_close_wakes_a_blocked_read(pair, background, call) -> None:
    sock, _ = pair(close_timeout=0)
    reader = sock.readable.get_reader()
    read = background(call, reader).blocked()
    sock.close()
    error = read.error()
    assert isinstance(error, tcpsock.SocketClosed)
    assert not isinstance(error, tcpsock.SocketAborted)
    assert sock.closed.result(WAIT) is None


def test_E4_close_wakes_a_write_that_waits_for_its_turn(pair, background) -> None:
    sock, peer = pair(close_timeout=WAIT)
    writer = sock.writable.get_writer()
    first = background(writer.write, pattern(MORE), timeout=WAIT).blocked()
    second = background(writer.write, b"second", timeout=WAIT).blocked()
    sock.close()
    assert isinstance(second.error(), tcpsock.SocketClosed)
    assert peer.read_all() == pattern(MORE)
    first.result()


def test_E4_close_drops_what_was_received(pair) -> None:
    sock, peer = pair(close_timeout=WAIT)
    reader = sock.readable.get_reader()
    peer.send(b"received, not read")
    until(lambda: sock.stats.bytes_buffered == 18, "read ahead")
    sock.close()
    assert sock.stats.bytes_buffered == 0
    for call in (reader.read, reader.peek, reader.read_all):
        with pytest.raises(tcpsock.SocketClosed):
            call()
    peer.end()
    assert sock.closed.result(WAIT) is None


def test_E4_use_after_own_close_is_SocketClosed_also_when_repeated(pair) -> None:
    sock, peer = pair()
    reader, writer = sock.streams()
    for _ in range(3):
        assert sock.close() is sock.closed
    for _ in range(2):
        for call in (
            lambda: reader.read(),
            lambda: reader.read_exactly(1),
            lambda: reader.readinto(bytearray(1)),
            lambda: writer.write(b"x"),
        ):
            with pytest.raises(tcpsock.SocketClosed):
                call()
    assert peer.read() == b""
    peer.end()
    assert sock.closed.result(WAIT) is None
    sock.close()


@pytest.mark.parametrize("held", [False, True], ids=["free", "locked"])
def test_E4_get_reader_and_get_writer_after_close_are_SocketClosed(pair, held) -> None:
    """Also while the old reader and writer are held: that nobody can use them is no news then."""
    sock, _ = pair(close_timeout=0)
    streams = sock.streams() if held else None
    sock.close()
    for get in (
        sock.readable.get_reader,
        sock.writable.get_writer,
        sock.streams,
        lambda: next(iter(sock.readable)),
    ):
        with pytest.raises(tcpsock.SocketClosed):
            get()
    assert bool(streams) == held


def test_E4_close_drains_what_the_peer_still_sends(pair, background) -> None:
    """A peer in the middle of 8 MB gets to its end: no reset destroys what we sent it."""
    sock, peer = pair(close_timeout=WAIT, high_water_mark=1000)
    reader, writer = sock.streams()
    streaming = background(lambda: (peer.send(pattern(8_000_000)), peer.end()))
    assert reader.read_exactly(5000, timeout=WAIT) == pattern(5000)
    writer.write(b"thanks, enough")
    sock.close()
    streaming.result()
    assert peer.read_all() == b"thanks, enough"
    assert sock.closed.result(WAIT) is None


def test_E4_a_peer_that_does_not_hang_up_is_reset_after_close_timeout(pair) -> None:
    sock, peer = pair(close_timeout=0.1)
    sock.close()
    assert sock.closed.result(WAIT) is None
    assert peer.read() == b""
    with pytest.raises(OSError):
        while True:
            peer.sock.sendall(pattern(100_000))


def test_E4_a_peer_that_resets_during_the_close_is_no_failure(pair) -> None:
    sock, peer = pair(close_timeout=WAIT)
    sock.close()
    assert peer.read() == b""
    peer.reset()
    assert sock.closed.result(WAIT) is None


def test_E4_close_from_eight_threads_at_once(pair, background) -> None:
    sock, peer = pair(close_timeout=WAIT)
    reader, writer = sock.streams()
    read = background(reader.read, timeout=WAIT).blocked()
    writer.write(b"all of it")
    start = threading.Barrier(8)
    closing = [background(lambda: (start.wait(WAIT), sock.close())[1]) for _ in range(8)]
    assert {id(call.result()) for call in closing} == {id(sock.closed)}
    assert isinstance(read.error(), tcpsock.SocketClosed)
    assert peer.read_all() == b"all of it"
    peer.end()
    assert sock.closed.result(WAIT) is None


@pytest.mark.direct("a read gives what one segment brought", transport="plain")
def test_E4_close_in_the_reading_thread_and_in_callbacks_does_not_deadlock(
    pair, background
) -> None:
    sock, peer = pair(close_timeout=0)
    settled = threading.Event()
    sock.closed.add_done_callback(lambda _: (sock.close(), settled.set()))
    reader = sock.readable.get_reader()

    def read_and_close() -> object:
        assert reader.read(timeout=WAIT) == b"go"
        return sock.close().result(WAIT)

    reading = background(read_and_close)
    peer.send(b"go")
    assert reading.result() is None
    assert settled.wait(WAIT)


def test_W5_E4_abort_during_a_close_that_waits(pair, background) -> None:
    sock, peer = pair(close_timeout=None)
    write = background(sock.writable.get_writer().write, pattern(MORE), timeout=None).blocked()
    sock.close()
    assert not sock.closed.done()
    sock.abort()
    assert isinstance(write.error(), tcpsock.SocketClosed)
    assert sock.closed.result(WAIT) is None
    got, how = peer.read_to_the_end()
    assert how == "reset"
    assert got == pattern(len(got))


def test_E5_leaving_the_block_closes_and_waits_for_closed(pair, background, first) -> None:
    sock, peer = pair(close_timeout=WAIT)
    if first == "peer":
        peer.end()
    with sock:
        sock.writable  # noqa: B018  # touching it is all
        hanging_up = background(lambda: (peer.read_all(), first == "socket" and peer.end()))
    assert sock.closed.done()
    assert sock.closed.result(0) is None
    hanging_up.result()


@pytest.mark.direct("it counts descriptors, and the proxy has its own")
def test_E4_many_connections_leave_no_descriptor(pair) -> None:
    counts = []
    for n in range(20):
        sock, peer = pair(close_timeout=WAIT)
        reader, writer = sock.streams()
        writer.write(b"x")
        if n % 2:
            peer.end()
            assert reader.read(timeout=WAIT) == b""
        sock.close()
        peer.read_all()
        if not n % 2:
            peer.end()
        assert sock.closed.result(WAIT) is None
        peer.close()
        counts.append(open_descriptors())
    assert counts[-1] == counts[0]
