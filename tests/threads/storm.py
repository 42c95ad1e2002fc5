"""The storm: a few threads do anything at all to one socket, whose peer does anything at all.

Nobody knows what must come of it, but some things must never: a hang, an exception that the
contract does not name for that call, a byte that is out of its place, a future that is not settled,
an object that stays.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import gc
import io
import itertools
import random
import socket
import ssl
import threading
import time
import warnings
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

from anvil import TLS, frame, outcome, read_somehow, together, unframe
from peers import Call, only, pattern

import tcpsock
from tcpsock import (
    ConnectError,
    ConnectionLost,
    IncompleteRead,
    LimitExceeded,
    PlaintextInjected,
    ReadTimeout,
    Socket,
    SocketClosed,
    SocketError,
    StartTlsError,
    StreamBusy,
    StreamLocked,
    TlsError,
    WriteTimeout,
)
from tcpsock.testing import half_close, reset, serve, truncate, upgrade

__all__ = ["storm"]

# What a connection may have ended with, so that any use raises it: what a thread of ours did, what
# the peer did, and what happened while it opened.
ENDED = (SocketClosed, WriteTimeout, ConnectionLost, TlsError, PlaintextInjected, ConnectError)
READING = (*ENDED, ReadTimeout, IncompleteRead, LimitExceeded, StreamBusy, StreamLocked)
WRITING = (*ENDED, StreamBusy, StreamLocked)

_SENT = pattern(2_000_006)  # whatever the peer sends begins here, and is no longer
_SHORT = (0, 0, 0.001, 0.02)


class Peer:
    """The other side, which sends, receives, and ends in whatever way it likes."""

    def __init__(self, transport: str, rng: random.Random) -> None:
        self._transport = transport
        self._rng = random.Random(rng.random())
        self._version = rng.choice((ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3))
        self.received: list[bytearray] = []  # one for each stream

    def context(self) -> ssl.SSLContext | bool:
        """What serve() takes as its `tls`."""
        return only(self._version) if self._transport == "tls" else False

    def __call__(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            sock.settimeout(0.05)
            if self._transport == "starttls" and self._rng.random() < 0.7:
                self._converse(sock, self._rng.randrange(2))
                sock = upgrade(sock, only(self._version))
            self._converse(sock, self._rng.randrange(1, 8))

    def _converse(self, sock: socket.socket, steps: int) -> None:
        rng, sent = self._rng, 0
        received = bytearray()
        self.received.append(received)
        for _ in range(steps):
            step = rng.randrange(10)
            if step < 3:
                data = pattern(rng.choice((1, 1_000, 16_385, 300_000)), sent)
                sock.sendall(data)
                sent += len(data)
            elif step < 6:
                with contextlib.suppress(TimeoutError):
                    received += sock.recv(rng.choice((1, 1_000, 300_000)))
            elif step == 6:
                time.sleep(rng.choice((0.001, 0.01)))
            elif step == 7:
                received += half_close(sock)
            elif step == 8:
                truncate(sock)
            else:
                return reset(sock)


class Victim:
    """One connection and those that start_tls() makes of it, and all that hangs on them."""

    def __init__(self, address: str, options: dict[str, Any]) -> None:
        self._in_clear = options.get("secure_transport") != "on"
        self._numbers = itertools.count()
        self._weak: list[weakref.ref[Socket]] = []
        self.futures: list[Future[Any]] = []
        self.current: Socket | None = None
        self._note(tcpsock.connect(address, **options))

    def _note(self, sock: Socket) -> None:
        self.current = sock
        self._weak.append(weakref.ref(sock))
        self.futures += [sock.opened, sock.closed]

    def end(self, rng: random.Random) -> None:
        """Close or abort what there is."""
        for known in self._weak:
            sock = known()
            if sock is not None:
                rng.choice((sock.close, sock.abort))()

    def suffer(self, rng: random.Random) -> None:
        """One call of some kind. Fails if it raises what it must not."""
        [(call, _, allowed)] = rng.choices(_CALLS, _WEIGHTS)
        sock = self.current
        if sock is not None:
            with contextlib.suppress(*allowed):
                call(self, sock, rng)

    def _check(self, got: bytes) -> None:
        """Fails if the peer didn't send it like this. (It may have sent an alert, in clear.)"""
        alert = self._in_clear and (len(got) < 8 or b"\x15\x03" in got)
        assert got in _SENT or alert, f"{len(got)} bytes that nobody sent like this"

    # -- What may be done to it -----------------------------------------------------------------

    def read(self, sock: Socket, rng: random.Random) -> None:
        with sock.readable.get_reader() as reader:
            self.futures.append(reader.closed)
            for _ in range(rng.randrange(1, 4)):
                timeout = {} if rng.random() < 0.1 else {"timeout": rng.choice(_SHORT)}
                got = read_somehow(reader, rng, **timeout)
                self._check(got)

    def read_file(self, sock: Socket, rng: random.Random) -> None:
        with sock.readable.get_reader().as_file(buffering=rng.choice((10, 70_000))) as file:
            for _ in range(rng.randrange(1, 4)):
                try:
                    got = rng.choice((file.readline, partial(file.read, 5_000)))()
                except ReadTimeout:
                    break  # as a file of socket.makefile(), it is of no more use
                self._check(got)

    def read_all(self, sock: Socket, rng: random.Random) -> None:
        if rng.random() < 0.5:
            sock.readable.pipe_to(io.BytesIO())
        else:
            for _ in sock.readable:
                if rng.random() < 0.5:
                    break

    def write(self, sock: Socket, rng: random.Random) -> None:
        with sock.writable.get_writer() as writer:
            self.futures.append(writer.closed)
            for _ in range(rng.randrange(1, 4)):
                timeout = {} if rng.random() < 0.3 else {"timeout": rng.choice(_SHORT)}
                size = rng.choice((0, 1, 1_000, 100_000, 3_000_000))
                data = frame(threading.get_ident() % 251, next(self._numbers), size)
                if rng.random() < 0.5:
                    writer.write(data, **timeout)
                else:
                    writer.writelines([data[:5], data[5:]], **timeout)
            if rng.random() < 0.1:
                writer.close()

    def write_file(self, sock: Socket, rng: random.Random) -> None:
        with sock.writable.get_writer().as_file() as file:
            file.write(frame(0, next(self._numbers), rng.choice((0, 100_000))))

    def close(self, sock: Socket, rng: random.Random) -> None:
        calls = (sock.close, sock.readable.close, sock.writable.close, sock.readable.cancel)
        rng.choice(calls)()

    def abort(self, sock: Socket, rng: random.Random) -> None:
        rng.choice((sock.abort, sock.writable.abort))("for a reason")

    def leave(self, sock: Socket, rng: random.Random) -> None:
        with sock:
            pass

    def start_tls(self, sock: Socket, rng: random.Random) -> None:
        self._note(sock.start_tls(server_hostname="localhost"))

    def detach(self, sock: Socket, rng: random.Random) -> None:
        sock.detach(timeout=rng.choice((0, 0.05))).close()

    def look(self, sock: Socket, rng: random.Random) -> None:
        assert repr((sock, sock.readable, sock.writable)) and sock.stats
        assert sock.upgraded in (True, False) and sock.tls_session is not self

    def call_back(self, sock: Socket, rng: random.Random) -> None:
        known = weakref.ref(sock)

        def suffer(_: object) -> None:
            now = known()
            if now is not None:
                rng.choice((now.close, now.abort, now.readable.cancel))()

        rng.choice((sock.opened, sock.closed)).add_done_callback(suffer)

    def drop(self, sock: Socket, rng: random.Random) -> None:
        self.current = None
        if rng.random() < 0.7:  # the collector is to find it, in any thread and at any line
            cycle: list[object] = [sock]
            cycle.append(cycle)

    def wait(self, sock: Socket, rng: random.Random) -> None:
        with contextlib.suppress(concurrent.futures.TimeoutError):
            rng.choice((sock.opened, sock.closed)).exception(rng.choice(_SHORT))


# Each call, how often it comes, and what it may raise.
_CALLS: tuple[
    tuple[Callable[[Victim, Socket, random.Random], None], int, tuple[type[SocketError], ...]], ...
] = (
    (Victim.read, 5, READING),
    (Victim.read_file, 1, READING),
    (Victim.read_all, 1, READING),
    (Victim.write, 4, WRITING),
    (Victim.write_file, 1, WRITING),
    (Victim.start_tls, 1, (*ENDED, StartTlsError, StreamBusy)),
    (Victim.detach, 1, (*ENDED, StreamBusy, ReadTimeout)),
    (Victim.close, 2, ()),
    (Victim.abort, 1, ()),
    (Victim.leave, 1, ()),
    (Victim.look, 1, ()),
    (Victim.wait, 1, ()),
    (Victim.call_back, 1, ()),
    (Victim.drop, 1, ()),
)
_WEIGHTS = [weight for _, weight, _ in _CALLS]


def storm(transport: str, seed: int) -> None:
    """Six connections at once, each with threads of its own and a peer of its own."""
    # We drop sockets on purpose; a peer's are lost where wrap_socket() finds them reset.
    warnings.filterwarnings("ignore", "unclosed (tcpsock|<tcpsock.testing)", ResourceWarning)
    rng = random.Random(seed)
    gc.set_threshold(rng.choice((1, 20, 700)))
    together(*(partial(_one, transport, rng.random()) for _ in range(6)))


def _one(transport: str, seed: float) -> None:
    rng = random.Random(seed)
    peer = Peer(transport, rng)
    options = {
        **(TLS({"tls": "on"}.get(transport, transport)) if transport != "plain" else {}),
        "allow_half_open": rng.random() < 0.3,
        "high_water_mark": rng.choice((1, 1_000, 70_000, 1 << 20)),
        "timeout": rng.choice((None, 0.02)),
        "close_timeout": rng.choice((0, 0.05, 0.5)),
        "connect_timeout": rng.choice((0.05, 30)),
    }
    with serve(peer, tls=peer.context()) as server:
        victim = Victim(server.address, options)
        if rng.random() < 0.5:
            concurrent.futures.wait(victim.futures[:1], 1)
        threads = range(rng.randrange(1, 5))
        calls = [Call(_suffer_on, victim, random.Random(rng.random())) for _ in threads]
        for call in calls:
            call.thread.join(0.3)
        while any(not call.done() for call in calls):  # some wait for ever
            victim.end(rng)
            for call in calls:
                call.thread.join(0.05)
        for call in calls:
            call.result()
        if rng.random() < 0.5:
            victim.end(rng)
        victim.current = None  # the last reference, but for cycles
        gc.collect()
        for future in victim.futures:
            outcome(future, SocketError)
    for received in peer.received:
        _, rest = unframe(bytes(received))
        begun = rest[:1]
        assert begun in (b"", frame(0, 0, 0)[:1]) or (transport, begun) == ("starttls", b"\x16")


def _suffer_on(victim: Victim, rng: random.Random) -> None:
    for _ in range(rng.randrange(1, 9)):
        victim.suffer(rng)
