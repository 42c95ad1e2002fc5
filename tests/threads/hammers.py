"""The hammers themselves: `python hammers.py NAME COUNT` runs one, COUNT times over.

Each is a process of its own, because what it looks for may kill the interpreter or hang it: then
faulthandler tells where. Threads change every 10 microseconds, as often as CPython can.
"""

from __future__ import annotations

import faulthandler
import random
import ssl
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from peers import WAIT, Call, Listener, ca_data, only, pattern

import tcpsock
from tcpsock.testing import serve

PATIENCE = 240.0  # seconds after which a hammer is taken for hung
CONNECTIONS = 100


def open_tls(address: str, **options: object) -> tcpsock.Socket:
    """A socket to one of our own servers."""
    return tcpsock.connect(
        address,
        secure_transport="on",
        tls=tcpsock.TlsOptions(ca_data=ca_data()),
        timeout=PATIENCE,
        connect_timeout=PATIENCE,
        **options,  # type: ignore[arg-type]  # a test's own
    )


def ping_pong(version: ssl.TLSVersion, rounds: int) -> None:
    """100 TLS connections at once, each with a thread that writes and one that reads."""

    def echo(sock: object) -> None:
        while data := sock.recv(4096):  # type: ignore[attr-defined]  # a socket
            sock.sendall(data)  # type: ignore[attr-defined]

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

    with (
        serve(echo, tls=only(version)) as server,
        ThreadPoolExecutor(2 * CONNECTIONS) as threads,
    ):
        sockets = [open_tls(server.address) for _ in range(CONNECTIONS)]
        running = []
        for seed, sock in enumerate(sockets):
            pong = threading.Semaphore(3)  # so many are on their way: both directions at once
            reader, writer = sock.streams()
            running.append(threads.submit(write, writer, seed, pong))
            running.append(threads.submit(read, reader, seed, pong))
        for future in running:
            future.result(PATIENCE)
        for sock in sockets:
            assert sock.closed.result(PATIENCE) is None
        server.wait(PATIENCE)
        assert not server.errors, server.errors


def half_close(version: ssl.TLSVersion, seed: int) -> None:
    """We end our side with 5 MB inbound: every byte of them arrives."""
    rng = random.Random(seed)
    size = 5_000_000
    mark = rng.choice([10_007, 100_003, 1 << 20, 1 << 23])
    listener = Listener()
    sock = open_tls(listener.address, high_water_mark=mark)
    peer = listener.accept()
    peer.start_tls(only(version))
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
    peer.close()
    listener.close()


def close_from_eight(version: ssl.TLSVersion, seed: int) -> None:
    """Eight threads close one socket, in the middle of a read, a write and a half-close."""
    listener = Listener()
    sock = open_tls(listener.address, close_timeout=WAIT)
    peer = listener.accept()
    peer.start_tls(only(version))
    sock.opened.result(WAIT)  # or close() would end the attempt
    reader, writer = sock.streams()
    start = threading.Barrier(11)

    def write_on() -> None:
        start.wait(WAIT)
        while True:
            writer.write(pattern(20_000))

    def read_on() -> None:
        start.wait(WAIT)
        while reader.read():
            pass

    def close() -> None:
        start.wait(WAIT)
        assert sock.close() is sock.closed

    def stream() -> None:
        for n in range(20):
            peer.send(pattern(50_000, n))

    streaming = Call(stream)
    draining = Call(peer.read_all)
    calls = [Call(write_on), Call(read_on)]
    closing = [Call(close) for _ in range(8)]
    start.wait(WAIT)
    if seed % 2:
        writer.close()
    for call in closing:
        call.result()
    for call in calls:
        error = call.error()
        assert error is None or type(error) is tcpsock.SocketClosed, repr(error)
    sent = draining.result()
    assert sent == b"".join([pattern(20_000)] * (len(sent) // 20_000))
    streaming.result()
    peer.end()
    assert sock.closed.result(PATIENCE) is None
    peer.close()
    listener.close()


HAMMERS: dict[str, Callable[[int], object]] = {
    "ping-pong-tls12": lambda n: ping_pong(ssl.TLSVersion.TLSv1_2, 20),
    "ping-pong-tls13": lambda n: ping_pong(ssl.TLSVersion.TLSv1_3, 20),
    "half-close-tls12": lambda n: half_close(ssl.TLSVersion.TLSv1_2, n),
    "half-close-tls13": lambda n: half_close(ssl.TLSVersion.TLSv1_3, n),
    "close-from-eight-tls12": lambda n: close_from_eight(ssl.TLSVersion.TLSv1_2, n),
    "close-from-eight-tls13": lambda n: close_from_eight(ssl.TLSVersion.TLSv1_3, n),
}


if __name__ == "__main__":
    name, count = sys.argv[1], int(sys.argv[2])
    faulthandler.enable()
    sys.setswitchinterval(1e-5)
    for n in range(count):
        faulthandler.dump_traceback_later(PATIENCE, exit=True)
        HAMMERS[name](n)
    faulthandler.cancel_dump_traceback_later()
    print("survived", count)
