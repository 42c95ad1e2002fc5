"""Hammers of the end: everybody closes, while everything else is in flight."""

from __future__ import annotations

import gc
import itertools
import random
import socket
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial

from anvil import PATIENCE, TLS, Barrier, frame, outcome, read_somehow, together, unframe
from conftest import Pair
from peers import WAIT, Call, pattern

import tcpsock
from tcpsock import ConnectionLost, SocketAborted, SocketClosed, SocketError
from tcpsock.testing import serve

__all__ = ["close_from_eight", "closed_by_finalizers", "everything_in_flight"]


def close_from_eight(transport: str, seed: int) -> None:
    """Eight threads close one socket, in the middle of a read, a write and a half-close."""
    pair = Pair(transport)
    sock, peer = pair(close_timeout=WAIT)
    reader, writer = sock.streams()
    start = Barrier(11)

    def write_on() -> None:
        start.wait()
        while True:
            writer.write(pattern(20_000))

    def read_on() -> None:
        start.wait()
        while reader.read():
            pass

    def close() -> None:
        start.wait()
        assert sock.close() is sock.closed

    def stream() -> None:
        for n in range(20):
            peer.send(pattern(50_000, n))

    streaming = Call(stream)
    draining = Call(peer.read_all)
    calls = [Call(write_on), Call(read_on)]
    closing = [Call(close) for _ in range(8)]
    start.wait()
    if seed % 2:
        writer.close()
    for call in closing:
        call.result()
    for call in calls:
        error = call.error()
        assert error is None or type(error) is SocketClosed, repr(error)
    sent = draining.result()
    assert sent == b"".join([pattern(20_000)] * (len(sent) // 20_000))
    streaming.result()
    peer.end()
    assert sock.closed.result(PATIENCE) is None
    pair.end()


def everything_in_flight(transport: str, seed: int) -> None:
    """Reads, writes, half-close, cancel, the peer's end, and then closes and aborts, all at once.

    Without an abort the peer gets each write that has returned, whole and once, and a clean end;
    with one it still gets no byte that is out of its place.
    """
    rng = random.Random(seed)
    aborting, peer_ends = rng.random() < 0.4, rng.random() < 0.4
    cut_off = (OSError,) if aborting else ()  # what may then happen to the peer
    pair = Pair(transport)
    sock, peer = pair(
        allow_half_open=rng.random() < 0.5,
        close_timeout=PATIENCE,
        high_water_mark=rng.choice((1, 10_007, 100_003, 1 << 20)),
        peer_buffers=rng.choice((None, 20_000)),
    )
    reader, writer = sock.streams()
    written: list[list[int]] = [[], [], []]  # by each writer, the writes that have returned
    received = bytearray()
    ended: list[str] = []  # how the peer's reading did

    def write_on(me: int, seed: float) -> None:
        rng = random.Random(seed)
        with suppress(SocketClosed, ConnectionLost):  # the latter is rule E1's
            for number in itertools.count():
                writer.write(frame(me, number, rng.choice((0, 10, 3_000, 20_000, 200_000))))
                written[me].append(number)

    def read_on(seed: float) -> None:
        rng, at = random.Random(seed), 0
        with suppress(SocketClosed):
            while got := read_somehow(reader, rng):
                assert got == pattern(len(got), at), f"wrong bytes behind {at}"
                at += len(got)

    def stream(size: int) -> None:
        with suppress(*cut_off):
            peer.send(pattern(size))
            if peer_ends:
                peer.end()

    def take() -> None:
        try:
            while part := peer.read():
                received.extend(part)
            ended.append("eof")
        except cut_off:
            ended.append("cut")
        streaming.result()
        if not peer_ends:
            with suppress(*cut_off):
                peer.end()

    def after(progress: int, act: Callable[[], object]) -> None:
        """Once so many bytes have gone out, or no more do."""
        over = (reader.closed, writer.closed)
        while sock.stats.bytes_sent < progress and not any(future.done() for future in over):
            pass
        act()

    ends = [sock.close, sock.readable.close] + [sock.abort, sock.writable.abort] * aborting
    halves = [sock.writable.close, sock.writable.close, sock.readable.cancel, reader.cancel]
    actions = [sock.close, *rng.choices(ends, k=rng.randrange(6))]
    actions += rng.sample(halves, rng.choice((0, 0, 1, 3)))
    when = rng.choice((0, 1, 50_000, 500_000, 2_000_000))
    streaming = Call(stream, rng.choice((0, 100_000, 3_000_000)))
    together(
        take,
        partial(read_on, rng.random()),
        *(partial(write_on, me, rng.random()) for me in range(rng.randrange(1, 4))),
        *(partial(after, when + rng.choice((0, 0, 1, 30_000)), act) for act in actions),
    )
    error = outcome(sock.closed, *((SocketAborted,) if aborting else ()))
    got, rest = unframe(bytes(received))
    for me, numbers in got.items():
        assert numbers == list(range(len(numbers))), f"writer {me}: {numbers}"
    if error is None and not aborting:
        assert ended == ["eof"]
        assert not rest, f"{len(rest)} bytes of no whole write"
        for me, numbers in enumerate(written):
            assert len(got.get(me, ())) >= len(numbers), f"writer {me}: {got} of {numbers}"
    pair.end()


class Client:
    """As drivers write it: it closes its socket when it goes, and only the collector finds it."""

    def __init__(self, sock: tcpsock.Socket, how: str) -> None:
        self.sock, self._how = sock, how
        self._me = self

    def __del__(self) -> None:
        with suppress(SocketError):
            getattr(self.sock, self._how)()


def closed_by_finalizers(transport: str, seed: int) -> None:
    """Garbage is collected at any line of any thread, and closes sockets amid what others do."""
    warnings.filterwarnings("ignore", "unclosed tcpsock", ResourceWarning)
    rng = random.Random(seed)
    often, usual = rng.choice((1, 7, 30, 100)), gc.get_threshold()
    closed: list[Future[None]] = []
    options = {} if transport == "plain" else TLS()

    def come_and_go(seed: float) -> None:
        rng = random.Random(seed)
        for _ in range(8):
            sock = tcpsock.connect(server.address, **options, close_timeout=0.5, timeout=WAIT)
            closed.append(sock.closed)
            reader, writer = sock.streams()
            for _ in range(rng.randrange(3)):
                writer.write(pattern(2_000))
                assert reader.read_exactly(2_000) == pattern(2_000)
            if rng.random() < 0.5:
                writer.close()
            client = Client(sock, rng.choice(("close", "close", "abort", "streams")))
            del sock, reader, writer, client
            for _ in range(rng.choice((0, 1_000, 10_000))):  # so that another thread finds it
                pass

    def echo(sock: socket.socket) -> None:
        while received := sock.recv(1 << 16):
            sock.sendall(received)

    with serve(echo, tls=transport == "tls") as server:
        gc.set_threshold(often, 2, 2)
        together(*(partial(come_and_go, rng.random()) for _ in range(8)))
        gc.set_threshold(*usual)
        gc.collect()
        for future in closed:
            outcome(future, SocketAborted)
