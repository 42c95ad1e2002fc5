"""Hammers of StartTLS: the wire changes hands while others want it too."""

from __future__ import annotations

import itertools
import random
import socket
import ssl
import time
from contextlib import suppress
from functools import partial

from anvil import PATIENCE, TLS, frame, together, unframe
from peers import WAIT, Call, Listener, only, pattern

import tcpsock
from tcpsock import SocketUpgraded, StreamBusy
from tcpsock.testing import serve, upgrade

__all__ = ["starttls_during_writes", "starttls_in_a_loop"]

GREETING = pattern(20_000, 7)  # what the server sends right behind its handshake
VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)


def starttls_in_a_loop(seed: int) -> None:
    """Upgrades in four threads, some before `opened`, while others still use the old sockets."""
    rng = random.Random(seed)
    context = only(rng.choice(VERSIONS))

    def greet_and_echo(sock: socket.socket) -> None:
        if sock.recv(1, socket.MSG_PEEK) == b"S":  # else it's a ClientHello
            assert sock.recv(9) == b"STARTTLS\n"
            sock.sendall(b"go ahead\n")
        sock = upgrade(sock, context)
        sock.sendall(GREETING)
        while received := sock.recv(1 << 16):
            sock.sendall(received)

    with serve(greet_and_echo) as server:
        together(*(partial(_upgrades, server.address, 5, rng.random()) for _ in range(4)))
        server.wait(WAIT)
        assert not server.errors, server.errors


def _upgrades(address: str, count: int, seed: float) -> None:
    rng = random.Random(seed)
    for _ in range(count):
        old = tcpsock.connect(address, **TLS("starttls"), timeout=WAIT)
        held = old.streams() if rng.random() < 0.7 else None
        if held and rng.random() < 0.7:
            reader, writer = held
            writer.write(b"STARTTLS\n")
            assert reader.readline() == b"go ahead\n"
            if rng.random() < 0.5:
                reader.release_lock()
        elif rng.random() < 0.5:
            old.opened.result(WAIT)
        taken_over: list[tcpsock.Socket] = []
        together(
            *(partial(_upgrade, old, taken_over) for _ in range(3)),
            *([partial(_meddle, old)] if rng.random() < 0.5 else []),
        )
        [new] = taken_over
        assert old.closed.result(WAIT) is None
        if held:
            for call in (held[0].read, partial(held[1].write, b"in clear")):
                try:
                    call()
                except (SocketUpgraded, tcpsock.StreamLocked):
                    pass
                else:
                    raise AssertionError("the old socket still works")
        _talk(new, rng)


def _upgrade(old: tcpsock.Socket, taken_over: list[tcpsock.Socket]) -> None:
    """One of several that want to; the others are told so."""
    try:
        new = old.start_tls()
    except SocketUpgraded:
        return
    taken_over.append(new)
    new.opened.result(WAIT)


def _meddle(old: tcpsock.Socket) -> None:
    """Do what a careless owner does to a socket that is no longer his."""
    while not old.upgraded:
        pass
    old.close()
    old.abort()
    old.readable.cancel()
    old.writable.close()
    old.readable.close()
    assert "upgraded" in repr(old)
    assert old.closed.result(WAIT) is None


def _talk(new: tcpsock.Socket, rng: random.Random) -> None:
    """Find everything over TLS as it should be, and close."""
    said = pattern(rng.choice((1, 1_000, 300_000)), rng.randrange(1_000))
    with new:
        reader, writer = new.streams()
        if rng.random() < 0.5:
            assert reader.read_exactly(len(GREETING)) == GREETING
            greeting = b""
        else:
            greeting = GREETING
        writer.write(said)
        writer.close()
        assert reader.read_all() == greeting + said
    assert new.closed.exception(WAIT) is None


def starttls_during_writes(seed: int) -> None:
    """start_tls() is StreamBusy until no write is in progress; then no byte in clear follows."""
    rng = random.Random(seed)
    listener = Listener(buffers=rng.choice((None, 20_000)))
    old = tcpsock.connect(listener.address, **TLS("starttls"), timeout=PATIENCE)
    peer = listener.accept()
    writer = old.writable.get_writer()
    written: list[list[int]] = [[], [], []]
    taken_over: list[tcpsock.Socket] = []
    received: dict[int, list[int]] = {}

    def write_on(me: int, seed: float) -> None:
        rng = random.Random(seed)
        for number in itertools.count():
            whole = frame(me, number, rng.choice((0, 10, 3_000, 20_000, 200_000)))
            try:
                writer.write(whole)
            except SocketUpgraded:
                return
            written[me].append(number)
            time.sleep(rng.choice((0, 0, 0.001)))  # so that now and then nobody is writing

    def upgrade(progress: int) -> None:
        while old.stats.bytes_sent < progress and not old.upgraded:
            pass
        while not old.upgraded:
            with suppress(StreamBusy, SocketUpgraded):
                taken_over.append(old.start_tls())

    def take() -> None:
        rest = b""
        while not rest or rest[0] != 0x16:  # a TLS record of the handshake
            part = peer.read()
            assert part, "the end"
            numbers, rest = unframe(rest + part)
            for me, more in numbers.items():
                received.setdefault(me, []).extend(more)
        peer.start_tls(only(rng.choice(VERSIONS)), early=rest)

    writers = range(rng.randrange(1, 4))
    together(
        take,
        *(partial(write_on, me, rng.random()) for me in writers),
        *(partial(upgrade, rng.choice((0, 1, 100_000, 1_000_000))) for _ in range(2)),
    )
    for me in writers:
        assert received.get(me, []) == written[me] == list(range(len(written[me])))
    [new] = taken_over
    assert old.closed.result(WAIT) is None
    with new:
        reader, writer = new.streams()
        reading = Call(reader.read_all)
        writer.write(frame(9, 0, 100_000))
        writer.close()
        assert unframe(peer.read_all()) == ({9: [0]}, b"")
        peer.send(pattern(100_000))
        peer.end()
        assert reading.result() == pattern(100_000)
    assert new.closed.exception(WAIT) is None
    peer.close()
    listener.close()
