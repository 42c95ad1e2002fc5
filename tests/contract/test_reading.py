"""Reading, rules R0 to R10, clause by clause, over every transport."""

from __future__ import annotations

import gc
import random
import socket
import struct
import threading
from array import array
from collections.abc import Callable
from concurrent.futures import Future
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
    until_all_arrived,
)

import tcpsock
from tcpsock.testing import server_context

MARKS = [1, 1000, 65_536, 100_003, 1 << 20]  # two of them are no multiple of a TLS record


# R0: who asks first


@pytest.mark.parametrize("read", ["data", "nothing"])
def test_R0_nothing_is_read_before_somebody_asks_for_a_reader(pair, read) -> None:
    sock, peer = pair()
    if read == "data":
        peer.send(pattern(50_000))
    peer.until_acknowledged()
    assert (sock.stats.bytes_buffered, sock.stats.bytes_received) == (0, 0)
    raw = sock.detach(timeout=WAIT)
    with raw:
        peer.send(b"end")
        expected = (pattern(50_000) if read == "data" else b"") + b"end"
        raw.settimeout(WAIT)
        got = bytearray()
        while len(got) < len(expected):
            got += raw.recv(65_536)
        assert got == expected


def test_R0_a_hang_up_is_seen_before_anybody_reads(pair) -> None:
    """The peer's FIN ends the connection (E1), and what came before it is there to be read."""
    sock, peer = pair()
    peer.send(b"last words")
    peer.end()
    assert sock.closed.result(WAIT) is None
    assert sock.readable.get_reader().read_all(timeout=WAIT) == b"last words"


def test_R0_a_reset_is_seen_before_anybody_reads(pair) -> None:
    sock, peer = pair()
    peer.send(b"last words")
    peer.reset()
    assert isinstance(sock.closed.exception(WAIT), tcpsock.ConnectionLost)


def test_R0_get_reader_begins_reading_ahead(pair) -> None:
    sock, peer = pair()
    reader = sock.readable.get_reader()
    peer.send(pattern(10_000))
    until_all_arrived(sock, 10_000)
    assert reader.read_exactly(10_000, timeout=0) == pattern(10_000)


def test_R0_a_write_that_waits_for_the_peer_begins_reading_ahead(pair, background) -> None:
    """The peer sends more than the kernel holds before it takes anything: nobody is stuck."""
    sock, peer = pair(receive_buffer=16_384, peer_buffers=16_384)
    write = background(sock.writable.get_writer().write, pattern(4_000_000), timeout=WAIT)
    peer.send(pattern(800_000))  # below the mark, far above the buffers
    assert peer.read_exactly(4_000_000) == pattern(4_000_000)
    write.result()
    assert sock.readable.get_reader().read_exactly(800_000, timeout=WAIT) == pattern(800_000)


# R1: bounded read-ahead


@pytest.mark.direct("the proxy reads ahead too")
@pytest.mark.parametrize("mark", MARKS)
def test_R1_read_ahead_stops_at_the_mark_and_goes_on_when_there_is_room(
    pair, background, mark
) -> None:
    sock, peer = pair(high_water_mark=mark, receive_buffer=16_384, peer_buffers=16_384)
    reader = sock.readable.get_reader()
    size = 2_500_000
    sent = peer.fill(pattern(size))
    assert sock.stats.bytes_buffered <= mark
    # Two kernel buffers (the kernel doubles what is asked for), records in flight on both sides.
    assert sent <= mark + 200_000
    rest = background(peer.send, pattern(size - sent, sent))
    got = bytearray()
    while len(got) < size:
        step = reader.read(50_000, timeout=WAIT)
        assert step, "EOF"
        got += step
    assert got == pattern(size)
    rest.result()


@pytest.mark.parametrize("mark", [1, 1000, 100_003])
def test_R1_read_ahead_goes_on_while_nobody_reads_when_there_is_room_again(
    pair, background, mark
) -> None:
    sock, peer = pair(high_water_mark=mark)
    reader = sock.readable.get_reader()
    sending = background(peer.send, pattern(10 * mark + 50_000))
    at = 0
    for _ in range(3):
        until_all_arrived(sock, mark)
        assert reader.read_exactly(mark, timeout=0) == pattern(mark, at)
        at += mark
    until_all_arrived(sock, mark)
    rest = 10 * mark + 50_000 - at
    assert reader.read_exactly(rest, timeout=WAIT) == pattern(rest, at)
    sending.result()


@pytest.mark.parametrize("mark", [1, 1000, 100_003])
def test_R1_what_is_read_ahead_reaches_the_mark(pair, mark) -> None:
    """A mark is used in full, down to one byte, also where TLS decrypts more than it has room."""
    sock, peer = pair(high_water_mark=mark)
    reader = sock.readable.get_reader()
    peer.send(pattern(mark + 20_000))
    until_all_arrived(sock, mark)
    assert sock.stats.bytes_buffered == mark
    assert reader.read_exactly(mark + 20_000, timeout=WAIT) == pattern(mark + 20_000)


def test_R1_a_large_write_does_not_stop_reading(pair, background) -> None:
    """An echo server with small buffers that never reads before it has written: no deadlock."""
    sock, peer = pair(receive_buffer=16_384, peer_buffers=16_384)
    reader, writer = sock.streams()
    size = 900_000

    def echo() -> None:
        left = size
        while left:
            data = peer.read()
            peer.send(data)
            left -= len(data)

    echoing = background(echo)
    writer.write(pattern(size), timeout=WAIT)
    assert reader.read_exactly(size, timeout=WAIT) == pattern(size)
    echoing.result()


def test_R1_a_mark_of_one_byte_carries_a_dialogue(pair) -> None:
    sock, peer = pair(high_water_mark=1)
    reader, writer = sock.streams()
    for round in range(20):
        writer.write(pattern(100, round))
        assert peer.read_exactly(100) == pattern(100, round)
        peer.send(pattern(150, round))
        assert reader.read_exactly(150, timeout=WAIT) == pattern(150, round)


# R2: read()


def test_R2_one_byte(pair) -> None:
    sock, peer = pair()
    reader = sock.readable.get_reader()
    peer.send(b"\x00")
    assert reader.read(timeout=WAIT) == b"\x00"


def test_R2_read_gives_what_is_there_and_never_waits_for_more(pair) -> None:
    sock, peer = pair()
    reader = sock.readable.get_reader()
    peer.send(b"three")
    until_all_arrived(sock, 5)
    assert reader.read(1000, timeout=0) == b"three"


def test_R2_read_gives_all_that_has_arrived_over_many_records(pair) -> None:
    sock, peer = pair()
    reader = sock.readable.get_reader()
    peer.send(pattern(100_000))
    until_all_arrived(sock, 100_000)
    assert reader.read(timeout=0) == pattern(100_000)


@pytest.mark.direct("a read gives what one segment brought")
def test_R2_a_blocked_read_gives_several_records_that_came_at_once(pair, background) -> None:
    sock, peer = pair()
    read = background(sock.readable.get_reader().read, timeout=WAIT).blocked()
    peer.send_raw(peer.records(b"one ", b"two ", b"three"))
    assert read.result() == b"one two three"


@pytest.mark.direct("a read gives what one segment brought", transport="plain")
@pytest.mark.parametrize("waits", [False, True])
def test_R2_max_bytes_bounds_a_read(pair, background, waits) -> None:
    sock, peer = pair()
    reader = sock.readable.get_reader()
    if waits:
        read = background(reader.read, 4, timeout=WAIT).blocked()
        peer.send(b"0123456789")
        assert read.result() == b"0123"
    else:
        peer.send(b"0123456789")
        until_all_arrived(sock, 10)
        assert reader.read(4, timeout=0) == b"0123"
    assert reader.read_exactly(6, timeout=WAIT) == b"456789"


@pytest.mark.parametrize("bad", [0, -1, -(1 << 70)])
def test_R2_max_bytes_below_one_is_a_ValueError(pair, bad) -> None:
    sock, peer = pair()
    reader = sock.readable.get_reader()
    peer.send(b"kept")
    with pytest.raises(ValueError, match="max_bytes") as caught:
        reader.read(bad, timeout=WAIT)
    assert not isinstance(caught.value, OSError)
    assert reader.read_exactly(4, timeout=WAIT) == b"kept"


@pytest.mark.parametrize("bad", [1.5, "1", b"1", [1]])
def test_R2_max_bytes_that_is_no_integer_is_a_TypeError(pair, bad) -> None:
    sock, _ = pair()
    with pytest.raises(TypeError, match="max_bytes"):
        sock.readable.get_reader().read(bad, timeout=WAIT)


def test_R2_EOF_is_given_again_and_again_by_every_call(pair) -> None:
    sock, peer = pair(allow_half_open=True)
    reader = sock.readable.get_reader()
    peer.end()
    for _ in range(2):
        assert reader.read(timeout=WAIT) == b""
        assert reader.read(1, timeout=0) == b""
        assert reader.readinto(bytearray(3), timeout=0) == 0
        assert reader.readline(timeout=0) == b""
        assert reader.read_all(timeout=0) == b""
        assert reader.peek(3, timeout=0) == b""
        assert list(reader) == []
    reader.release_lock()
    assert list(sock.readable) == []
    assert sock.readable.get_reader().read(timeout=0) == b""


def test_R2_EOF_wakes_a_blocked_read(pair, background) -> None:
    sock, peer = pair()
    read = background(sock.readable.get_reader().read, timeout=WAIT).blocked()
    peer.end()
    assert read.result() == b""


@pytest.mark.direct("a read gives what one segment brought", transport="plain")
@pytest.mark.parametrize("waits", [False, True])
def test_R2_readinto_fills_any_writable_buffer(pair, background, waits) -> None:
    sock, peer = pair()
    reader = sock.readable.get_reader()
    numbers = array("d", [1.5, -2.25])
    frame = bytearray(b"......")
    for buffer, data, after in (
        (frame, b"ab", b"ab...."),
        (memoryview(frame)[2:5], b"cde", b"cde"),
        (numbers, struct.pack("dd", 4.0, 8.0), struct.pack("dd", 4.0, 8.0)),
    ):
        if waits:
            read = background(reader.readinto, buffer, timeout=WAIT).blocked()
            peer.send_raw(peer.records(data))
            assert read.result() == len(data)
        else:
            peer.send(data)
            until_all_arrived(sock, len(data))
            assert reader.readinto(buffer, timeout=0) == len(data)
        assert bytes(memoryview(buffer)) == after
    assert frame == b"abcde."
    assert numbers.tolist() == [4.0, 8.0]


def test_R2_readinto_large_buffers_from_the_wire(pair, background) -> None:
    sock, peer = pair()
    reader = sock.readable.get_reader()
    size = 3_000_000
    sending = background(peer.send, pattern(size))
    buffer = bytearray(size)
    filled = 0
    while filled < size:
        count = reader.readinto(memoryview(buffer)[filled : filled + 300_000], timeout=WAIT)
        assert 0 < count <= 300_000
        filled += count
    assert buffer == pattern(size)
    sending.result()


def test_R2_readinto_refuses_an_empty_and_a_read_only_buffer(pair) -> None:
    sock, peer = pair()
    reader = sock.readable.get_reader()
    peer.send(b"kept")
    until_all_arrived(sock, 4)
    with pytest.raises(ValueError, match="buffer"):
        reader.readinto(bytearray(), timeout=0)
    for bad in (b"read-only", "text", None, 5):
        with pytest.raises(TypeError):
            reader.readinto(bad, timeout=0)
    assert reader.read(timeout=0) == b"kept"


# R3: order and bytes, whatever the mix


def _read_in_any_way(sock: Any, rng: random.Random, expected: bytes) -> bytes:
    """Read up to EOF by calls chosen at random, each checked against what is expected there."""
    reader = sock.readable.get_reader()
    at = 0
    while True:
        n = rng.choice([1, 2, 7, 100, 5000, 70_000])
        rest = expected[at:]
        way = rng.randrange(9)
        if way == 0:
            got = reader.read(n, timeout=WAIT)
        elif way == 1:
            buffer = bytearray(n)
            got = bytes(buffer[: reader.readinto(buffer, timeout=WAIT)])
        elif way == 2:
            try:
                got = reader.read_exactly(n, timeout=WAIT)
                assert len(got) == n
            except tcpsock.IncompleteRead as error:
                assert error.expected == n
                got = error.partial
                assert got == rest
        elif way == 3:
            separator = rng.choice([b"\n", b"\r\n", b"ab", b"\x00\x01"])
            end = rest.find(separator) + len(separator)
            try:
                got = reader.read_until(separator, limit=n, timeout=WAIT)
                assert len(got) == end <= n
            except tcpsock.LimitExceeded:
                assert len(separator) > end or end > n
                assert len(rest) >= n
                got = b""
            except tcpsock.IncompleteRead as error:
                assert separator not in rest
                got = error.partial
                assert got == rest
        elif way == 4:
            end = rest.find(b"\n") + 1 or len(rest)
            try:
                got = reader.readline(limit=100_000, timeout=WAIT)
                assert len(got) == end
            except tcpsock.LimitExceeded:
                assert end > 100_000
                got = b""
        elif way == 5:
            assert reader.peek(n, timeout=WAIT) == rest[:n]
            got = b""
        elif way == 6:
            got = next(iter(reader), b"")
        elif way == 7:
            reader.release_lock()
            if rng.random() < 0.5:
                reader = sock.readable.get_reader()
                continue
            got = next(iter(sock.readable), b"")
            gc.collect()  # the dropped iterator gives the lock back
            reader = sock.readable.get_reader()
        else:
            with reader.as_file(buffering=rng.choice([16, 4096])) as file:
                got = file.read(n)
                assert len(got) == min(n, len(rest))
            reader = sock.readable.get_reader()
        assert got == rest[: len(got)], f"wrong bytes at {at}, way {way}"
        at += len(got)
        if at == len(expected) and reader.read(timeout=WAIT) == b"":
            return expected


@pytest.mark.parametrize("mark", [1000, 100_003])
@pytest.mark.parametrize("seed", range(3))
def test_R3_order_and_bytes_are_exact_for_any_mix_of_calls(pair, background, mark, seed) -> None:
    rng = random.Random(seed)
    sock, peer = pair(high_water_mark=mark, allow_half_open=True)
    size = 1_000_000 if mark > 1000 else 150_000
    data = bytes(pattern(size, seed))

    def send() -> None:
        chunks = random.Random(seed)
        at = 0
        while at < size:
            step = chunks.choice([1, 10, 3000, 16_384, 50_000])
            peer.send(data[at : at + step])
            at += step
        peer.end()

    sending = background(send)
    _read_in_any_way(sock, rng, data)
    sending.result()


def test_R3_the_same_over_a_network_that_cuts(cut_pair, background) -> None:
    sock, peer = cut_pair(high_water_mark=100_003, allow_half_open=True)
    sending = background(lambda: (peer.send(pattern(300_000)), peer.end()))
    _read_in_any_way(sock, random.Random(4), pattern(300_000))
    sending.result()


# R4: nothing is lost by a call that fails


TIMED_OUT: list[tuple[str, Callable[[Any, float], object]]] = [
    ("read_exactly", lambda reader, timeout: reader.read_exactly(10, timeout=timeout)),
    ("read_until", lambda reader, timeout: reader.read_until(b"\n", timeout=timeout)),
    ("readline", lambda reader, timeout: reader.readline(timeout=timeout)),
    ("read_all", lambda reader, timeout: reader.read_all(timeout=timeout)),
    ("peek", lambda reader, timeout: reader.peek(10, timeout=timeout)),
]


@pytest.mark.parametrize("call", [c for _, c in TIMED_OUT], ids=[n for n, _ in TIMED_OUT])
def test_R4_a_timeout_consumes_nothing(pair, call) -> None:
    sock, peer = pair()
    reader = sock.readable.get_reader()
    peer.send(b"half")
    until_all_arrived(sock, 4)
    for timeout in (0, 0.05):
        with pytest.raises(tcpsock.ReadTimeout) as caught:
            call(reader, timeout)
        assert isinstance(caught.value, TimeoutError)
        assert (caught.value.phase, caught.value.code) == ("read", "read-timeout")
    peer.send(b" and half")
    assert reader.read_exactly(13, timeout=WAIT) == b"half and half"
    assert not sock.closed.done()


@pytest.mark.parametrize("call", [c for _, c in TIMED_OUT], ids=[n for n, _ in TIMED_OUT])
def test_R4_what_arrives_during_a_call_that_times_out_is_kept(pair, background, call) -> None:
    """The first byte comes while the call waits: gathered by the caller, not read ahead."""
    sock, peer = pair()
    reader = sock.readable.get_reader()
    waiting = background(call, reader, 0.2).blocked(or_done=True)
    peer.send(b"half")
    assert isinstance(waiting.error(), tcpsock.ReadTimeout)
    assert reader.read_exactly(4, timeout=WAIT) == b"half"


def test_R4_read_and_readinto_that_time_out_leave_the_socket_as_it_was(pair) -> None:
    sock, peer = pair()
    reader = sock.readable.get_reader()
    buffer = bytearray(b"old")
    for timeout in (0, 0.02):
        with pytest.raises(tcpsock.ReadTimeout):
            reader.read(timeout=timeout)
        with pytest.raises(tcpsock.ReadTimeout):
            reader.readinto(buffer, timeout=timeout)
    assert buffer == b"old"
    peer.send(b"new")
    assert reader.read_exactly(3, timeout=WAIT) == b"new"


@pytest.mark.direct("acknowledged means here: in our kernel")
def test_R4_what_a_timed_out_read_until_gathered_goes_back_also_past_the_mark(
    pair, background
) -> None:
    sock, peer = pair(high_water_mark=1000)
    reader = sock.readable.get_reader()
    data = pattern(60_000).replace(b"|", b"/")
    peer.send(data)
    peer.until_acknowledged()
    with pytest.raises(tcpsock.ReadTimeout):
        reader.read_until(b"|", limit=200_000, timeout=0.3)
    assert sock.stats.bytes_buffered == 60_000
    assert reader.peek(60_000, timeout=0) == data
    assert reader.read_exactly(30_000, timeout=0) == data[:30_000]
    peer.send(b"|")
    assert reader.read_until(b"|", limit=200_000, timeout=WAIT) == data[30_000:] + b"|"


@pytest.mark.parametrize("mark", [1, 1000, 100_003])
def test_R4_a_waiting_read_may_ask_for_more_than_the_mark(pair, background, mark) -> None:
    sock, peer = pair(high_water_mark=mark)
    reader = sock.readable.get_reader()
    size = 400_000
    body = pattern(size).replace(b"\n", b"_")
    sending = background(lambda: [peer.send(body[:-1] + b"\n") for _ in range(4)])
    assert reader.peek(size, timeout=WAIT) == body[:-1] + b"\n"
    assert reader.read_exactly(size, timeout=WAIT) == body[:-1] + b"\n"
    assert reader.read_until(b"\n", limit=size, timeout=WAIT) == body[:-1] + b"\n"
    assert reader.readline(limit=size, timeout=WAIT) == body[:-1] + b"\n"
    assert reader.read_exactly(size, timeout=WAIT) == body[:-1] + b"\n"
    sending.result()


def test_R4_a_waiting_read_buffers_no_more_than_it_asked_for(pair, background) -> None:
    """read_exactly(n) past the mark is no leave to take in what comes after its n bytes."""
    sock, peer = pair(high_water_mark=1000, receive_buffer=16_384, peer_buffers=16_384)
    reader = sock.readable.get_reader()
    sent = peer.fill(pattern(3_000_000))
    rest = background(peer.send, pattern(3_000_000 - sent, sent))
    assert reader.read_exactly(400_000, timeout=WAIT) == pattern(400_000)
    assert sock.stats.bytes_buffered <= 1000
    assert reader.read_exactly(2_600_000, timeout=WAIT) == pattern(2_600_000, 400_000)
    rest.result()


@pytest.mark.parametrize("separator", [b"\n", b"\r\n", b"--boundary--"])
def test_R4_limit_counts_the_separator(pair, separator) -> None:
    sock, peer = pair()
    reader = sock.readable.get_reader()
    line = b"12345" + separator
    peer.send(line + line + b"rest")
    until_all_arrived(sock, 2 * len(line) + 4)
    for limit in (1, 4, 5, len(line) - 1):
        with pytest.raises(tcpsock.LimitExceeded) as caught:
            reader.read_until(separator, limit=limit, timeout=0)
        assert isinstance(caught.value, ValueError)
    assert reader.read_until(separator, limit=len(line), timeout=0) == line
    assert reader.read_until(separator, limit=len(line) + 1, timeout=0) == line
    assert reader.read(timeout=0) == b"rest"


def test_R4_a_limit_is_exceeded_as_soon_as_it_is_and_nothing_is_consumed(pair) -> None:
    """With `limit` bytes there and no separator, no later byte can help: nobody waits for it."""
    sock, peer = pair()
    reader = sock.readable.get_reader()
    peer.send(b"0123456789")
    until_all_arrived(sock, 10)
    with pytest.raises(tcpsock.LimitExceeded):
        reader.read_until(b"\r\n", limit=10, timeout=None)
    with pytest.raises(tcpsock.LimitExceeded):
        reader.readline(limit=10, timeout=None)
    with pytest.raises(tcpsock.LimitExceeded):
        reader.read_all(limit=9, timeout=None)
    peer.send(b"\r\n")
    assert reader.read_until(b"\r\n", limit=12, timeout=WAIT) == b"0123456789\r\n"
    assert not sock.closed.done()


def test_R4_a_limit_that_is_exceeded_by_a_waiting_call_consumes_nothing(pair, background) -> None:
    sock, peer = pair(high_water_mark=100)
    reader = sock.readable.get_reader()
    data = pattern(5000).replace(b"\n", b"_")
    reading = background(reader.readline, limit=3000, timeout=WAIT).blocked()
    peer.send(data)
    assert isinstance(reading.error(), tcpsock.LimitExceeded)
    assert reader.read_exactly(5000, timeout=WAIT) == data


def test_R4_read_all_takes_up_to_its_limit(pair) -> None:
    sock, peer = pair(allow_half_open=True)
    reader = sock.readable.get_reader()
    peer.send(pattern(5000))
    peer.end()
    for limit in (1, 4999):
        with pytest.raises(tcpsock.LimitExceeded):
            reader.read_all(limit=limit, timeout=WAIT)
    assert reader.read_all(limit=5000, timeout=WAIT) == pattern(5000)
    assert reader.read_all(limit=5000, timeout=WAIT) == b""


def test_R4_read_all_without_a_limit_goes_past_the_mark(pair, background) -> None:
    sock, peer = pair(high_water_mark=1000)
    sending = background(lambda: (peer.send(pattern(2_000_000)), peer.end()))
    assert sock.readable.get_reader().read_all(timeout=WAIT) == pattern(2_000_000)
    sending.result()


def test_R4_IncompleteRead_hands_the_rest_over(pair) -> None:
    sock, peer = pair()
    reader = sock.readable.get_reader()
    peer.send(b"seven b")
    peer.end()
    with pytest.raises(tcpsock.IncompleteRead) as caught:
        reader.read_exactly(8, timeout=WAIT)
    assert isinstance(caught.value, EOFError)
    assert (caught.value.partial, caught.value.expected) == (b"seven b", 8)
    with pytest.raises(tcpsock.IncompleteRead) as caught:
        reader.read_exactly(1, timeout=WAIT)
    assert (caught.value.partial, caught.value.expected) == (b"", 1)
    assert reader.read(timeout=0) == b""


def test_R4_read_until_at_EOF_is_an_IncompleteRead_without_expectation(pair) -> None:
    sock, peer = pair()
    reader = sock.readable.get_reader()
    peer.send(b"one|two")
    peer.end()
    assert reader.read_until(b"|", timeout=WAIT) == b"one|"
    for rest in (b"two", b""):
        with pytest.raises(tcpsock.IncompleteRead) as caught:
            reader.read_until(b"|", timeout=WAIT)
        assert (caught.value.partial, caught.value.expected) == (rest, None)


def test_R4_readline_gives_the_unterminated_last_line_as_a_file_does(pair) -> None:
    sock, peer = pair()
    reader = sock.readable.get_reader()
    peer.send(b"one\ntwo\r\n\nlast")
    peer.end()
    lines = [reader.readline(timeout=WAIT) for _ in range(6)]
    assert lines == [b"one\n", b"two\r\n", b"\n", b"last", b"", b""]


def test_R4_a_separator_that_comes_in_pieces_is_found(pair, background) -> None:
    sock, peer = pair()
    reader = sock.readable.get_reader()
    reading = background(reader.read_until, b"<end>", timeout=WAIT)
    for part in (b"a<<e", b"n", b"<en", b"d", b">tail"):
        peer.send_raw(peer.records(part))
        peer.until_acknowledged()
    assert reading.result() == b"a<<en<end>"
    assert reader.read_exactly(4, timeout=WAIT) == b"tail"


def test_R4_timeout_0_is_now_or_ReadTimeout(pair) -> None:
    sock, peer = pair()
    reader = sock.readable.get_reader()
    for call in (
        lambda: reader.read(timeout=0),
        lambda: reader.readinto(bytearray(1), timeout=0),
        lambda: reader.read_exactly(1, timeout=0),
        lambda: reader.read_until(b"\n", timeout=0),
        lambda: reader.readline(timeout=0),
        lambda: reader.read_all(timeout=0),
        lambda: reader.peek(timeout=0),
    ):
        with pytest.raises(tcpsock.ReadTimeout):
            call()
    peer.send(b"ab\ncd")
    until_all_arrived(sock, 5)
    assert reader.peek(2, timeout=0) == b"ab"
    assert reader.readline(timeout=0) == b"ab\n"
    assert reader.read_exactly(1, timeout=0) == b"c"
    assert reader.read(timeout=0) == b"d"


@pytest.mark.direct("acknowledged means here: in our kernel")
def test_R4_timeout_0_finds_what_has_arrived_right_after_another_read(pair) -> None:
    """What is in the kernel is there, whoever would have been the one to read it ahead."""
    sock, peer = pair()
    reader = sock.readable.get_reader()
    for n in range(20):
        peer.send(b"%03d" % n)
        assert reader.read(timeout=WAIT) == b"%03d" % n
        peer.send(b"more")
        peer.until_acknowledged()
        if n % 2:
            assert reader.read(timeout=0) == b"more"
        else:
            assert reader.read_exactly(4, timeout=0) == b"more"


def test_R4_a_read_that_times_out_before_opened_breaks_nothing(listener) -> None:
    sock = tcpsock.connect(
        listener.address, secure_transport="on", tls=tcpsock.TlsOptions(ca_data=ca_data())
    )
    peer = listener.accept()
    reader = sock.readable.get_reader()
    for timeout in (0, 0.05):
        with pytest.raises(tcpsock.ReadTimeout):
            reader.read_exactly(5, timeout=timeout)
    peer.start_tls(server_context())
    peer.send(b"hello")
    assert reader.read_exactly(5, timeout=WAIT) == b"hello"
    sock.abort()
    assert sock.closed.exception(WAIT)
    peer.close()


@pytest.mark.direct("a read gives what one segment brought", transport="plain")
@pytest.mark.parametrize("n", [1 << 45, 1 << 70])
def test_R4_a_number_is_no_allocation(pair, background, n) -> None:
    """Who asks for more than any memory holds gets what there is."""
    sock, peer = pair(high_water_mark=n, allow_half_open=True)
    reader = sock.readable.get_reader()
    read = background(reader.read, n, timeout=WAIT).blocked()
    peer.send(b"abc")
    assert read.result() == b"abc"
    peer.send(b"def")
    for call in (
        lambda: reader.peek(n, timeout=0.02),
        lambda: reader.read_exactly(n, timeout=0.02),
        lambda: reader.read_until(b"\n", limit=n, timeout=0.02),
        lambda: reader.read_all(limit=n, timeout=0.02),
    ):
        with pytest.raises(tcpsock.ReadTimeout):
            call()
    peer.end()
    assert reader.peek(n, timeout=WAIT) == b"def"
    with pytest.raises(tcpsock.IncompleteRead) as caught:
        reader.read_exactly(n, timeout=WAIT)
    assert (caught.value.partial, caught.value.expected) == (b"def", n)


def test_R4_a_timeout_is_for_the_whole_call_however_many_reads_it_takes(pair, background) -> None:
    """A peer that sends a byte now and then does not keep a call alive past its timeout."""
    sock, peer = pair()
    reader = sock.readable.get_reader()
    enough = threading.Event()

    def dribble() -> None:
        while not enough.wait(0.02):
            peer.send(b".")

    dribbling = background(dribble)
    try:
        with pytest.raises(tcpsock.ReadTimeout):
            reader.read_until(b"\n", timeout=0.3)
        with pytest.raises(tcpsock.ReadTimeout):
            reader.read_exactly(60_000, timeout=0.3)
    finally:
        enough.set()
    dribbling.result()
    assert set(reader.read(timeout=WAIT)) == {ord(".")}


@pytest.mark.direct("a read gives what one segment brought", transport="plain")
def test_R4_the_default_timeout_holds_where_none_is_given(pair, background) -> None:
    sock, peer = pair(timeout=0.1)
    reader = sock.readable.get_reader()
    with pytest.raises(tcpsock.ReadTimeout):
        reader.read()
    with pytest.raises(tcpsock.ReadTimeout):
        reader.read_exactly(3)
    patient = background(reader.read, timeout=None).blocked()
    with pytest.raises(tcpsock.StreamBusy):  # still waiting, long after the default
        threading.Event().wait(0.3)
        reader.read(timeout=0)
    peer.send(b"there")
    assert patient.result() == b"there"


@pytest.mark.parametrize("bad", [-1, -0.001, float("nan"), True, "1", b"1"])
def test_R4_a_bad_timeout_is_a_mistake_of_the_caller(pair, bad) -> None:
    sock, peer = pair()
    reader, writer = sock.streams()
    peer.send(b"kept")
    for call in (
        lambda: reader.read(timeout=bad),
        lambda: reader.read_exactly(1, timeout=bad),
        lambda: reader.peek(timeout=bad),
        lambda: writer.write(b"x", timeout=bad),
    ):
        with pytest.raises((TypeError, ValueError), match="timeout") as caught:
            call()
        assert not isinstance(caught.value, OSError)
    assert reader.read_exactly(4, timeout=WAIT) == b"kept"


def test_R4_bad_arguments_are_mistakes_of_the_caller(pair) -> None:
    sock, peer = pair()
    reader = sock.readable.get_reader()
    peer.send(b"kept")
    for call, kind in (
        (lambda: reader.read_exactly(-1), ValueError),
        (lambda: reader.read_exactly(1.0), TypeError),
        (lambda: reader.read_until(b""), ValueError),
        (lambda: reader.read_until("\n"), TypeError),
        (lambda: reader.read_until(b"\n", limit=0), ValueError),
        (lambda: reader.read_until(b"\n", limit="9"), TypeError),
        (lambda: reader.readline(limit=-1), ValueError),
        (lambda: reader.read_all(limit=-1), ValueError),
        (lambda: reader.peek(-1), ValueError),
        (lambda: reader.peek("1"), TypeError),
    ):
        with pytest.raises(kind) as caught:
            call()
        assert not isinstance(caught.value, OSError)
    assert reader.read_exactly(0) == b""
    assert reader.read_exactly(4, timeout=WAIT) == b"kept"


@pytest.mark.parametrize(
    "call",
    [
        lambda reader: reader.read_exactly(10, timeout=WAIT),
        lambda reader: reader.read_until(b"\n", timeout=WAIT),
        lambda reader: reader.read_all(timeout=WAIT),
        lambda reader: reader.peek(10, timeout=WAIT),
    ],
    ids=["read_exactly", "read_until", "read_all", "peek"],
)
def test_R4_an_exception_in_a_blocked_read_loses_nothing(pair, interruptible, call) -> None:
    sock, peer = pair()
    reader = sock.readable.get_reader()
    peer.send(b"half")
    interrupting = interrupt_when_blocked(
        threading.main_thread(), ready=lambda: sock.stats.bytes_received == 4
    )
    with pytest.raises(Interrupted):
        call(reader)
    interrupting.result()
    assert reader.read_exactly(4, timeout=WAIT) == b"half"
    peer.send(b"more")
    assert reader.read_exactly(4, timeout=WAIT) == b"more"
    assert not sock.closed.done()


def test_R4_a_read_that_was_interrupted_leaves_the_read_ahead_working(pair, interruptible) -> None:
    """The caller who leaves by an exception gives the receive side back: EOF is seen (E1)."""
    sock, peer = pair()
    reader = sock.readable.get_reader()
    interrupting = interrupt_when_blocked(threading.main_thread())
    with pytest.raises(Interrupted):
        reader.read(timeout=WAIT)
    interrupting.result()
    peer.send(b"bye")
    peer.end()
    assert sock.closed.result(WAIT) is None
    assert reader.read_all(timeout=0) == b"bye"


# R5: one read at a time


@pytest.mark.direct("a read gives what one segment brought", transport="plain")
def test_R5_of_two_reads_at_once_one_is_StreamBusy_and_the_other_goes_on(pair, background) -> None:
    sock, peer = pair()
    reader = sock.readable.get_reader()
    two = [background(reader.read, timeout=WAIT) for _ in range(2)]
    until(lambda: any(call.done() for call in two), "one of two reads is refused")
    refused, waiting = two if two[0].done() else two[::-1]
    error = refused.error()
    assert isinstance(error, tcpsock.StreamBusy)
    assert isinstance(error, RuntimeError)
    waiting.blocked()
    for call in (
        lambda: reader.read(),
        lambda: reader.read_exactly(1),
        lambda: reader.readline(),
        lambda: reader.peek(),
        lambda: reader.readinto(bytearray(1)),
        lambda: reader.read_all(),
        lambda: next(iter(reader)),
    ):
        with pytest.raises(tcpsock.StreamBusy):
            call()
    peer.send(b"for the first")
    assert waiting.result() == b"for the first"


@pytest.mark.direct("a read gives what one segment brought", transport="plain")
def test_R5_reading_in_one_thread_and_writing_in_another_is_normal(pair, background) -> None:
    sock, peer = pair()
    reader, writer = sock.streams()
    read = background(reader.read, timeout=WAIT).blocked()
    for n in range(50):
        writer.write(pattern(1000, n), timeout=WAIT)
        assert peer.read_exactly(1000) == pattern(1000, n)
    peer.send(b"answer")
    assert read.result() == b"answer"


# R6: locks


def test_R6_a_second_reader_or_writer_is_StreamLocked(pair) -> None:
    sock, _ = pair()
    reader, writer = sock.streams()
    assert sock.readable.locked
    assert sock.writable.locked
    for get in (sock.readable.get_reader, sock.writable.get_writer, sock.streams):
        with pytest.raises(tcpsock.StreamLocked) as caught:
            get()
        assert isinstance(caught.value, RuntimeError)
    reader.release_lock()
    writer.release_lock()
    assert not sock.readable.locked
    assert not sock.writable.locked
    sock.streams()


def test_R6_streams_takes_both_locks_or_none(pair) -> None:
    sock, _ = pair()
    writer = sock.writable.get_writer()
    with pytest.raises(tcpsock.StreamLocked):
        sock.streams()
    assert not sock.readable.locked
    writer.release_lock()
    assert sock.streams()


def test_R6_use_after_release_lock_is_StreamLocked(pair) -> None:
    sock, peer = pair()
    reader, writer = sock.streams()
    reader.release_lock()
    writer.release_lock()
    peer.send(b"kept")
    for call in (
        lambda: reader.read(),
        lambda: reader.readinto(bytearray(1)),
        lambda: reader.read_exactly(1),
        lambda: reader.read_until(b"\n"),
        lambda: reader.readline(),
        lambda: reader.read_all(),
        lambda: reader.peek(),
        lambda: next(iter(reader)),
        lambda: reader.as_file(),
        lambda: reader.cancel(),
        lambda: writer.write(b"x"),
        lambda: writer.writelines([b"x"]),
        lambda: writer.as_file(),
        lambda: writer.close(),
        lambda: writer.abort(),
    ):
        with pytest.raises(tcpsock.StreamLocked):
            call()
    assert sock.readable.get_reader().read_exactly(4, timeout=WAIT) == b"kept"
    assert not sock.closed.done()


@pytest.mark.direct("a read gives what one segment brought", transport="plain")
def test_R6_release_lock_under_a_blocked_read_is_StreamBusy_and_it_stays_locked(
    pair, background
) -> None:
    sock, peer = pair()
    reader = sock.readable.get_reader()
    read = background(reader.read, timeout=WAIT).blocked()
    with pytest.raises(tcpsock.StreamBusy):
        reader.release_lock()
    assert sock.readable.locked
    peer.send(b"here")
    assert read.result() == b"here"
    reader.release_lock()
    assert not sock.readable.locked


def test_R6_a_dropped_reader_or_writer_gives_its_lock_back(pair) -> None:
    sock, peer = pair()
    reader, writer = sock.streams()
    peer.send(b"abc")
    assert reader.read_exactly(1, timeout=WAIT) == b"a"
    del reader, writer
    gc.collect()
    assert not sock.readable.locked
    assert not sock.writable.locked
    reader, writer = sock.streams()
    assert reader.read_exactly(2, timeout=WAIT) == b"bc"
    writer.write(b"on")
    assert peer.read_exactly(2) == b"on"


@pytest.mark.direct("a read gives what one segment brought", transport="plain")
def test_R6_iteration_takes_the_lock_at_the_first_next_and_returns_it_at_the_end(pair) -> None:
    sock, peer = pair(allow_half_open=True)
    chunks = iter(sock.readable)
    assert not sock.readable.locked
    peer.send(b"one")
    assert next(chunks) == b"one"
    assert sock.readable.locked
    with pytest.raises(tcpsock.StreamLocked):
        sock.readable.get_reader()
    peer.end()
    assert list(chunks) == []
    assert not sock.readable.locked
    assert list(chunks) == []


@pytest.mark.direct("a read gives what one segment brought", transport="plain")
def test_R6_an_iterator_that_is_dropped_returns_the_lock_and_loses_nothing(pair) -> None:
    sock, peer = pair()
    peer.send(b"one")
    for chunk in sock.readable:
        assert chunk == b"one"
        break
    del chunk
    gc.collect()
    assert not sock.readable.locked
    peer.send(b"two")
    assert sock.readable.get_reader().read_exactly(3, timeout=WAIT) == b"two"


def test_R6_iteration_while_a_reader_holds_the_lock_is_StreamLocked(pair) -> None:
    sock, _ = pair()
    with sock.readable.get_reader(), pytest.raises(tcpsock.StreamLocked):
        next(iter(sock.readable))
    assert not sock.readable.locked


def test_R6_readers_of_a_socket_that_failed_are_given_and_raise_the_failure(pair) -> None:
    sock, peer = pair()
    peer.reset()
    assert isinstance(sock.closed.exception(WAIT), tcpsock.ConnectionLost)
    reader, writer = sock.streams()
    for call in (reader.read, reader.readline, lambda: writer.write(b"x")):
        with pytest.raises(tcpsock.ConnectionLost):
            call()


@pytest.mark.parametrize("end", ["close", "abort"])
def test_R6_readers_of_a_socket_that_was_closed_or_aborted_are_refused(pair, end) -> None:
    sock, _ = pair()
    getattr(sock, end)()
    kind = tcpsock.SocketAborted if end == "abort" else tcpsock.SocketClosed
    for get in (sock.readable.get_reader, sock.writable.get_writer, sock.streams):
        with pytest.raises(kind):
            get()
    with pytest.raises(kind):
        next(iter(sock.readable))


def test_R6_a_streams_own_cancel_acts_also_while_it_is_locked(pair, background) -> None:
    sock, peer = pair()
    reader, writer = sock.streams()
    read = background(reader.read, timeout=WAIT).blocked()
    sock.readable.cancel()
    assert read.result() == b""
    writer.write(b"goes on")
    assert peer.read_exactly(7) == b"goes on"


def test_R6_a_writable_streams_close_acts_also_while_it_is_locked(pair) -> None:
    sock, peer = pair()
    reader, writer = sock.streams()
    writer.write(b"before")
    sock.writable.close()
    assert peer.read_all() == b"before"
    peer.send(b"after")
    assert reader.read_exactly(5, timeout=WAIT) == b"after"


def test_R6_a_writable_streams_abort_acts_also_while_it_is_locked(pair, background) -> None:
    sock, peer = pair()
    reader, _writer = sock.streams()
    read = background(reader.read, timeout=WAIT).blocked()
    sock.writable.abort("enough")
    assert isinstance(read.error(), tcpsock.SocketAborted)
    assert peer.read_to_the_end()[0] == b""


def test_R6_a_readable_streams_close_closes_the_socket_also_while_it_is_locked(pair) -> None:
    """What a WSGI server calls when a response ends early."""
    sock, peer = pair()
    reader = sock.readable.get_reader()
    sock.readable.close()
    assert peer.read_all() == b""
    with pytest.raises(tcpsock.SocketClosed):
        reader.read(timeout=WAIT)
    peer.end()
    assert sock.closed.result(WAIT) is None


# R7: cancel()


@pytest.mark.parametrize("by", ["reader", "stream"])
def test_R7_cancel_throws_the_rest_away_and_reads_give_EOF(pair, by) -> None:
    sock, peer = pair()
    reader, writer = sock.streams()
    peer.send(b"unread")
    until_all_arrived(sock, 6)
    (reader if by == "reader" else sock.readable).cancel("not needed")
    for _ in range(2):
        assert reader.read(timeout=WAIT) == b""
        assert reader.readline(timeout=WAIT) == b""
    assert reader.closed.result(WAIT) is None
    assert sock.stats.bytes_buffered == 0
    writer.write(b"still writing")
    assert peer.read_exactly(13) == b"still writing"
    assert not sock.closed.done()


@pytest.mark.parametrize("mark", [1000, 1 << 20])
def test_R7_a_peer_that_goes_on_sending_after_cancel_is_not_stalled(pair, mark) -> None:
    sock, peer = pair(high_water_mark=mark)
    reader = sock.readable.get_reader()
    sent = peer.fill(pattern(3_000_000))
    reader.cancel()
    peer.send(pattern(8_000_000))
    assert sent
    assert reader.read(timeout=WAIT) == b""


def test_R7_cancel_without_a_reader_begins_to_throw_away(pair) -> None:
    sock, peer = pair()
    sock.readable.cancel()
    peer.send(pattern(8_000_000))
    assert sock.readable.get_reader().read(timeout=WAIT) == b""


@pytest.mark.parametrize(
    "call",
    [
        lambda reader: reader.read(timeout=WAIT) == b"",
        lambda reader: reader.readinto(bytearray(4), timeout=WAIT) == 0,
        lambda reader: list(reader) == [],
        lambda reader: reader.readline(timeout=WAIT) == b"",
        lambda reader: reader.read_all(timeout=WAIT) == b"",
    ],
    ids=["read", "readinto", "iteration", "readline", "read_all"],
)
def test_R7_cancel_wakes_a_blocked_read_with_EOF(pair, background, call) -> None:
    sock, _ = pair()
    reader = sock.readable.get_reader()
    read = background(call, reader).blocked()
    reader.cancel()
    assert read.result()


def test_R7_cancel_is_an_EOF_for_read_exactly_and_read_until(pair, background) -> None:
    sock, _ = pair()
    reader = sock.readable.get_reader()
    read = background(reader.read_exactly, 5, timeout=WAIT).blocked()
    reader.cancel()
    assert isinstance(read.error(), tcpsock.IncompleteRead)
    with pytest.raises(tcpsock.IncompleteRead):
        reader.read_until(b"\n", timeout=WAIT)


@pytest.mark.parametrize("half_open", [False, True])
@pytest.mark.parametrize("order", ["cancel, close", "close, cancel"])
def test_R7_cancelled_and_writer_closed_the_socket_closes(pair, half_open, order) -> None:
    sock, peer = pair(allow_half_open=half_open)
    reader, writer = sock.streams()
    writer.write(b"all of it")
    for step in order.split(", "):
        reader.cancel() if step == "cancel" else writer.close()
    assert peer.read_all() == b"all of it"
    peer.send(b"never read")
    peer.end()
    assert sock.closed.result(WAIT) is None


def test_R7_cancelled_and_writer_closed_waits_no_longer_than_close_timeout(pair) -> None:
    """A peer that never hangs up: the end comes as in E4, and is no failure."""
    sock, peer = pair(close_timeout=0.1)
    reader, writer = sock.streams()
    reader.cancel()
    writer.close()
    assert peer.read() == b""
    assert sock.closed.result(WAIT) is None


# R8: truncation


def test_R8_TLS_without_close_notify_is_TlsTruncated_after_the_data(tls_pair) -> None:
    sock, peer = tls_pair()
    reader = sock.readable.get_reader()
    peer.send(b"all there is")
    peer.cut()
    assert reader.read_exactly(12, timeout=WAIT) == b"all there is"
    for _ in range(2):
        with pytest.raises(tcpsock.TlsTruncated) as caught:
            reader.read(timeout=WAIT)
        assert isinstance(caught.value, EOFError)
        assert isinstance(caught.value, tcpsock.TlsError)
    assert isinstance(sock.closed.exception(WAIT), tcpsock.TlsTruncated)
    assert isinstance(reader.closed.exception(WAIT), tcpsock.TlsTruncated)


def test_R8_a_truncated_stream_never_looks_complete(tls_pair) -> None:
    sock, peer = tls_pair()
    reader = sock.readable.get_reader()
    peer.send(b"line one\nline tw")
    peer.cut()
    with pytest.raises(tcpsock.TlsTruncated):
        reader.read_all(timeout=WAIT)
    assert reader.readline(timeout=WAIT) == b"line one\n"
    with pytest.raises(tcpsock.TlsTruncated):
        reader.readline(timeout=WAIT)
    assert reader.read(timeout=WAIT) == b"line tw"
    with pytest.raises(tcpsock.TlsTruncated):
        list(reader)


def test_R8_truncation_in_the_middle_of_a_record(tls_pair) -> None:
    sock, peer = tls_pair()
    reader = sock.readable.get_reader()
    peer.send_raw(peer.records(b"whole") + peer.records(pattern(1000))[:500])
    peer.cut()
    assert reader.read_exactly(5, timeout=WAIT) == b"whole"
    with pytest.raises(tcpsock.TlsTruncated):
        reader.read(timeout=WAIT)


def test_R8_allow_truncation_reads_it_as_a_clean_EOF(tls_pair) -> None:
    sock, peer = tls_pair(tls={"allow_truncation": True})
    reader = sock.readable.get_reader()
    peer.send(b"all there is")
    peer.cut()
    assert reader.read_all(timeout=WAIT) == b"all there is"
    assert reader.read(timeout=WAIT) == b""
    assert sock.closed.result(WAIT) is None
    assert reader.closed.result(WAIT) is None


def test_R8_truncation_after_our_half_close_is_told(tls_pair) -> None:
    """Only close() makes us indifferent to how the peer ends."""
    sock, peer = tls_pair()
    reader, writer = sock.streams()
    writer.close()
    assert peer.read() == b""
    peer.send(b"half an answ")
    peer.cut()
    assert reader.read_exactly(12, timeout=WAIT) == b"half an answ"
    with pytest.raises(tcpsock.TlsTruncated):
        reader.read(timeout=WAIT)
    assert isinstance(sock.closed.exception(WAIT), tcpsock.TlsTruncated)


def test_R8_truncation_after_close_is_ignored(tls_pair) -> None:
    sock, peer = tls_pair(close_timeout=WAIT)
    sock.close()
    assert peer.read() == b""
    peer.cut()
    assert sock.closed.result(WAIT) is None


# R9: reset


@pytest.mark.parametrize("reading", [True, False], ids=["read ahead", "still in the kernel"])
def test_R9_what_arrived_before_a_reset_is_readable_then_ConnectionLost(pair, reading) -> None:
    sock, peer = pair()
    if reading:
        reader = sock.readable.get_reader()
    peer.send(pattern(50_000))
    peer.reset()
    if not reading:
        reader = sock.readable.get_reader()
    assert reader.read_exactly(50_000, timeout=WAIT) == pattern(50_000)
    for _ in range(2):
        with pytest.raises(tcpsock.ConnectionLost) as caught:
            reader.read(timeout=WAIT)
        assert isinstance(caught.value, ConnectionResetError)
    assert isinstance(sock.closed.exception(WAIT), tcpsock.ConnectionLost)
    assert isinstance(reader.closed.exception(WAIT), tcpsock.ConnectionLost)


@pytest.mark.direct("it counts descriptors, and the proxy has its own")
@pytest.mark.parametrize("mark", [1, 1000, 20_001])
def test_R9_what_the_kernel_holds_at_a_reset_is_taken_in_past_the_mark(pair, mark) -> None:
    """Nobody reads: the descriptor is closed all the same, and every byte is there."""
    before = open_descriptors()
    sock, peer = pair(high_water_mark=mark)
    reader = sock.readable.get_reader()
    peer.send(pattern(60_000))
    peer.reset()
    assert isinstance(sock.closed.exception(WAIT), tcpsock.ConnectionLost)
    # One more than before: the pair's listener.
    until(lambda: open_descriptors() <= before + 1, "the descriptors are closed")
    assert sock.stats.bytes_buffered == 60_000
    assert reader.read_exactly(60_000, timeout=0) == pattern(60_000)
    with pytest.raises(tcpsock.ConnectionLost):
        reader.read(timeout=0)


def test_R9_a_reset_wakes_a_blocked_read(pair, background) -> None:
    sock, peer = pair()
    reader = sock.readable.get_reader()
    read = background(reader.read, timeout=WAIT).blocked()
    peer.reset()
    assert isinstance(read.error(), tcpsock.ConnectionLost)


def test_R9_what_a_blocked_read_gathered_before_a_reset_is_readable(pair, background) -> None:
    sock, peer = pair()
    reader = sock.readable.get_reader()
    read = background(reader.read_exactly, 100, timeout=WAIT).blocked()
    peer.send(b"a part")
    peer.reset()
    assert isinstance(read.error(), tcpsock.ConnectionLost)
    assert reader.read(timeout=WAIT) == b"a part"
    with pytest.raises(tcpsock.ConnectionLost):
        reader.read(timeout=WAIT)


def test_R9_a_reset_that_a_write_saw_first_never_looks_like_EOF(pair, background) -> None:
    """One thread writes without pause, one reads, the peer resets: data, then ConnectionLost."""
    for round in range(15):
        sock, peer = pair()
        reader, writer = sock.streams()
        peer.send(pattern(5000, round))

        def write_on(writer: Any = writer) -> None:
            while True:
                writer.write(b"x" * 100, timeout=WAIT)

        writing = background(write_on)
        assert reader.read_exactly(2000, timeout=WAIT) == pattern(2000, round)
        peer.reset()
        assert isinstance(writing.error(), tcpsock.ConnectionLost)
        assert reader.read_exactly(3000, timeout=WAIT) == pattern(3000, round + 2000)
        with pytest.raises(tcpsock.ConnectionLost):
            reader.read(timeout=WAIT)
        assert isinstance(sock.closed.exception(WAIT), tcpsock.ConnectionLost)


def test_R9_a_reset_that_a_write_saw_first_takes_in_what_the_kernel_holds_too(
    pair, background
) -> None:
    """The queue is full, nobody reads, a write meets the reset: closed, and every byte is there."""
    for round in range(10):
        sock, peer = pair(high_water_mark=1000)
        reader, writer = sock.streams()
        peer.send(pattern(60_000, round))
        until_all_arrived(sock, 1000)

        def write_on(writer: Any = writer) -> None:
            while True:
                writer.write(b"x" * 10, timeout=WAIT)

        writing = background(write_on)
        peer.reset()
        assert isinstance(writing.error(), tcpsock.ConnectionLost)
        assert isinstance(sock.closed.exception(WAIT), tcpsock.ConnectionLost)
        assert reader.read_exactly(60_000, timeout=0) == pattern(60_000, round)
        with pytest.raises(tcpsock.ConnectionLost):
            reader.read(timeout=0)


def test_R9_a_reset_seen_by_a_write_alone_is_what_a_later_read_tells(pair) -> None:
    """Nobody has read yet when the write meets the reset."""
    sock, peer = pair()
    peer.send(b"refused: too busy")
    peer.reset()
    writer = sock.writable.get_writer()
    with pytest.raises(tcpsock.ConnectionLost):
        while True:
            writer.write(b"x" * 1000, timeout=WAIT)
    reader = sock.readable.get_reader()
    assert reader.read_exactly(17, timeout=WAIT) == b"refused: too busy"
    with pytest.raises(tcpsock.ConnectionLost):
        reader.read(timeout=WAIT)


# R10: the futures of readers and writers


def _error_of(future: Future[None]) -> BaseException | None:
    return future.exception(WAIT)


def test_R10_reader_closed_resolves_when_EOF_was_delivered_not_before(pair) -> None:
    sock, peer = pair()
    reader = sock.readable.get_reader()
    peer.send(b"abc")
    peer.end()
    assert sock.closed.result(WAIT) is None  # the FIN was seen (E1)
    assert reader.read_exactly(3, timeout=WAIT) == b"abc"
    assert not reader.closed.done()
    assert reader.read(timeout=WAIT) == b""
    assert reader.closed.result(WAIT) is None


def test_R10_writer_closed_resolves_when_close_has_flushed(pair) -> None:
    sock, peer = pair()
    writer = sock.writable.get_writer()
    writer.write(b"abc")
    assert not writer.closed.done()
    writer.close()
    assert peer.read_all() == b"abc"
    assert writer.closed.result(WAIT) is None
    assert not sock.closed.done()


def test_R10_writer_closed_waits_for_the_write_in_progress(pair, background) -> None:
    sock, peer = pair()
    writer = sock.writable.get_writer()
    write = background(writer.write, pattern(20_000_000), timeout=WAIT).blocked()
    writer.close()
    assert not writer.closed.done()
    assert peer.read_all() == pattern(20_000_000)
    write.result()
    assert writer.closed.result(WAIT) is None


def test_R10_writer_closed_resolves_when_the_peers_FIN_closed_the_write_side(pair) -> None:
    sock, peer = pair()
    reader, writer = sock.streams()
    peer.end()
    assert writer.closed.result(WAIT) is None
    assert reader.read(timeout=WAIT) == b""


def test_R10_both_fail_with_the_error_that_ended_the_stream(pair) -> None:
    sock, peer = pair()
    reader, writer = sock.streams()
    peer.reset()
    assert isinstance(_error_of(reader.closed), tcpsock.ConnectionLost)
    assert isinstance(_error_of(writer.closed), tcpsock.ConnectionLost)


def test_R10_both_fail_with_SocketAborted_after_abort(pair) -> None:
    sock, _ = pair()
    reader, writer = sock.streams()
    sock.abort("why")
    for future in (reader.closed, writer.closed):
        error = _error_of(future)
        assert isinstance(error, tcpsock.SocketAborted)
        assert error.reason == "why"


def test_R10_both_fail_with_SocketClosed_by_the_sockets_close(pair) -> None:
    sock, _ = pair(close_timeout=0)
    reader, writer = sock.streams()
    sock.close()
    assert type(_error_of(reader.closed)) is tcpsock.SocketClosed
    assert type(_error_of(writer.closed)) is tcpsock.SocketClosed


def test_R10_both_fail_with_SocketClosed_by_detach(pair) -> None:
    sock, _ = pair()
    reader, writer = sock.streams()
    with sock.detach(timeout=WAIT):
        assert type(_error_of(reader.closed)) is tcpsock.SocketClosed
        assert type(_error_of(writer.closed)) is tcpsock.SocketClosed


def test_R10_both_fail_with_SocketUpgraded_by_start_tls(plain_pair) -> None:
    sock, _ = plain_pair(secure_transport="starttls")
    reader, writer = sock.streams()
    new = sock.start_tls()
    try:
        assert isinstance(_error_of(reader.closed), tcpsock.SocketUpgraded)
        assert isinstance(_error_of(writer.closed), tcpsock.SocketUpgraded)
    finally:
        new.abort()
        _error_of(new.closed)


def test_R10_release_lock_fails_them_with_StreamLocked_if_they_were_pending(pair) -> None:
    sock, _ = pair()
    reader, writer = sock.streams()
    reader.release_lock()
    writer.release_lock()
    assert isinstance(_error_of(reader.closed), tcpsock.StreamLocked)
    assert isinstance(_error_of(writer.closed), tcpsock.StreamLocked)
    again = sock.readable.get_reader()
    assert not again.closed.done()


def test_R10_they_settle_once(pair) -> None:
    sock, peer = pair(allow_half_open=True)
    reader, writer = sock.streams()
    calls: list[str] = []
    reader.closed.add_done_callback(lambda _: calls.append("reader"))
    writer.closed.add_done_callback(lambda _: calls.append("writer"))
    writer.close()
    assert writer.closed.result(WAIT) is None
    peer.end()
    assert reader.read(timeout=WAIT) == b""
    assert reader.closed.result(WAIT) is None
    reader.release_lock()
    writer.release_lock()
    sock.abort()
    assert reader.closed.result(0) is None
    assert writer.closed.result(0) is None
    assert sorted(calls) == ["reader", "writer"]


def test_R10_nobody_can_cancel_them(pair) -> None:
    sock, _ = pair()
    reader, writer = sock.streams()
    for future in (reader.closed, writer.closed, sock.closed, sock.opened):
        assert not future.cancel()
    assert reader.closed.running()
    assert reader.closed is reader.closed
    assert writer.closed is writer.closed


def test_R10_a_cancelled_reader_and_an_iteration_resolve_it_too(pair) -> None:
    sock, peer = pair(allow_half_open=True)
    reader = sock.readable.get_reader()
    peer.send(b"abc")
    peer.end()
    assert b"".join(reader) == b"abc"
    assert reader.closed.result(WAIT) is None


# What a real socket has that a loopback test would not show otherwise


def test_R3_bytes_of_out_of_band_urgency_do_not_disturb_the_stream(plain_pair) -> None:
    """An urgent byte is not part of the stream; what is around it arrives in order."""
    sock, peer = plain_pair()
    reader = sock.readable.get_reader()
    peer.send(b"before")
    peer.sock.send(b"!", socket.MSG_OOB)
    peer.send(b"after")
    assert reader.read_exactly(11, timeout=WAIT) == b"beforeafter"
