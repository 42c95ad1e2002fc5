"""Hammers of traffic: two threads on one connection, and both directions at once."""

from __future__ import annotations

import random
import socket
import ssl
import threading
from collections.abc import Callable
from functools import partial

from anvil import PATIENCE, TLS, read_somehow, together
from conftest import Pair
from peers import WAIT, Call, only, pattern

import tcpsock
from tcpsock.testing import serve

__all__ = ["duplex", "half_close", "ping_pong"]

PAIRS = 100

# But for the last, none is a multiple of a TLS record's 16,384 bytes: records get cut.
MARKS = (1, 10_007, 16_385, 100_003, 1_000_003, 1 << 20)
CHUNKS = (1, 100, 5_000, 16_385, 70_000, 300_000)


def ping_pong(version: ssl.TLSVersion, rounds: int) -> None:
    """100 TLS connections at once, each with a thread that writes and one that reads."""

    def echo(sock: socket.socket) -> None:
        while received := sock.recv(4096):
            sock.sendall(received)

    def write(writer: tcpsock.Writer, seed: int, pong: threading.Semaphore) -> None:
        for n in range(rounds):
            assert pong.acquire(timeout=PATIENCE)
            writer.write(pattern(64, seed + n))
        writer.close()

    def read(reader: tcpsock.Reader, seed: int, pong: threading.Semaphore) -> None:
        for n in range(rounds):
            assert reader.read_exactly(64) == pattern(64, seed + n)
            pong.release()
        assert reader.read() == b""

    with serve(echo, tls=only(version)) as server:
        options = {**TLS(), "timeout": PATIENCE, "connect_timeout": PATIENCE}
        sockets = [tcpsock.connect(server.address, **options) for _ in range(PAIRS)]
        calls = []
        for seed, sock in enumerate(sockets):
            pong = threading.Semaphore(3)  # so many are on their way: both directions at once
            reader, writer = sock.streams()
            calls += [Call(write, writer, seed, pong), Call(read, reader, seed, pong)]
        for call in calls:
            call.thread.join(PATIENCE)
            call.result()
        for sock in sockets:
            assert sock.closed.result(PATIENCE) is None
        server.wait(PATIENCE)
        assert not server.errors, server.errors


def duplex(transport: str, seed: int) -> None:
    """Megabytes both ways at once on three connections, in chunks of any size, byte for byte."""
    rng = random.Random(seed)
    pair = Pair(transport)
    sockets, calls = [], []
    for _ in range(3):
        sock, peer = pair(high_water_mark=rng.choice(MARKS), timeout=WAIT, allow_half_open=True)
        size, start = rng.randrange(1_000_000, 4_000_000), rng.randrange(1_000_000)
        reader, writer = sock.streams()
        calls += [
            partial(_send, writer.write, writer.close, size, start, rng.random()),
            partial(_receive, lambda rng, peer=peer: peer.read(rng.choice(CHUNKS)), size, start, 0),
            partial(_send, peer.send, peer.end, size, start, rng.random()),
            partial(_receive, partial(read_somehow, reader), size, start, rng.random()),
        ]
        sockets.append(sock)
    together(*calls)
    for sock in sockets:
        assert sock.closed.result(WAIT) is None
    pair.end()


def _send(
    send: Callable[[bytes], object], end: Callable[[], object], size: int, start: int, seed: float
) -> None:
    rng, at = random.Random(seed), 0
    while at < size:
        chunk = pattern(min(rng.choice(CHUNKS), size - at), start + at)
        send(chunk)
        at += len(chunk)
    end()


def _receive(receive: Callable[[random.Random], bytes], size: int, start: int, seed: float) -> None:
    rng, at = random.Random(seed), 0
    while received := receive(rng):
        assert received == pattern(len(received), start + at), f"wrong bytes behind {at}"
        at += len(received)
    assert at == size, f"{at} of {size} bytes"


def half_close(transport: str, seed: int) -> None:
    """We end our side with 5 MB inbound: every byte of them arrives."""
    rng = random.Random(seed)
    size = 5_000_000
    pair = Pair(transport)
    sock, peer = pair(high_water_mark=rng.choice((*MARKS, 1 << 23)))
    reader, writer = sock.streams()

    def stream() -> None:
        peer.send(pattern(size, seed))
        assert peer.read_all() == b"enough"
        peer.end()

    streaming = Call(stream)
    before = rng.choice([0, 1, 70_000, 2_000_000])
    got = bytearray(reader.read_exactly(before)) if before else bytearray()
    reading = Call(reader.read_all) if rng.random() < 0.5 else None
    writer.write(b"enough")
    writer.close()
    got += reading.result() if reading else reader.read_all()
    assert got == pattern(size, seed), f"{len(got)} of {size} bytes"
    streaming.result()
    assert sock.closed.result(WAIT) is None
    pair.end()
