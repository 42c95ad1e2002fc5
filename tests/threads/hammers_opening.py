"""Hammers of beginnings: sockets that are given up while they open, and callbacks that call in."""

from __future__ import annotations

import concurrent.futures
import gc
import logging
import random
import socket
import ssl
import threading
import warnings
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any

from anvil import PATIENCE, TLS, outcome, together
from peers import HOST, Call, only

import tcpsock
from tcpsock import ConnectionLost, PlaintextInjected, SocketAborted, SocketClosed, SocketError
from tcpsock.testing import serve, upgrade

__all__ = ["Places", "callbacks_that_call_in", "connects_given_up", "echo"]


def echo(sock: socket.socket) -> None:
    """A server's side: in clear, or over TLS from where the client begins it."""
    with suppress(OSError):  # whatever the client does
        while first := sock.recv(3, socket.MSG_PEEK):
            if first == b"\x16\x03\x01":  # a ClientHello
                break
            sock.sendall(sock.recv(1 << 16))
        else:
            return
        sock = upgrade(sock, only(ssl.TLSVersion.TLSv1_3))
        while received := sock.recv(1 << 16):
            sock.sendall(received)


# Where to connect to


class Places:
    """Peers of every kind, by host and port, and a resolver that knows their names.

    Until `ends` is closed: then the look-ups that hang find something.
    """

    def __init__(self, ends: ExitStack, listening: tuple[str, int], rng: random.Random) -> None:
        self._rng = random.Random(rng.random())
        self._found = threading.Event()
        self.listening = listening
        self.silent = self._bound(ends, backlog=128)  # connects, and never says a word
        self.refusing = self._bound(ends)
        self.full = self._bound(ends, backlog=0)  # answers no SYN: its only place is taken
        ends.enter_context(socket.create_connection(self.full))
        self.names = {
            "echo.example": [self.listening],
            "many.example": [self.refusing, self.full, self.refusing, self.listening],
            "refusing.example": [self.refusing, self.refusing],
            "full.example": [self.full, self.full],
            "silent.example": [self.silent],
            "hanging.example": [self.listening],
        }
        ends.callback(setattr, socket, "getaddrinfo", socket.getaddrinfo)
        socket.getaddrinfo = self._look_up  # type: ignore[assignment]  # takes what we give
        ends.callback(self._found.set)

    def _bound(self, ends: ExitStack, backlog: int | None = None) -> tuple[str, int]:
        sock = ends.enter_context(socket.socket())
        sock.bind((HOST, 0))
        if backlog is not None:
            sock.listen(backlog)
        name: tuple[str, int] = sock.getsockname()
        return name

    def _look_up(self, name: bytes | str, port: int, **_: Any) -> list[tuple[Any, ...]]:
        name = name.decode() if isinstance(name, bytes) else name
        if name == "hanging.example":
            self._found.wait()
        for _ in range(self._rng.choice((0, 100, 10_000))):  # it takes its time
            pass
        if name not in self.names:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", where) for where in self.names[name]]


def connects_given_up(seed: int) -> None:
    """Sockets closed, aborted, upgraded and dropped at any point of opening, whatever the peer."""
    rng = random.Random(seed)
    with ExitStack() as ends, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "unclosed tcpsock", ResourceWarning)
        server = ends.enter_context(serve(echo))
        places = Places(ends, (HOST, server.port), rng)
        together(*(partial(_give_up_many, places, rng.random()) for _ in range(8)))


def _give_up_many(places: Places, seed: float) -> None:
    rng = random.Random(seed)
    for _ in range(8):
        _give_up(places, rng)


def _give_up(places: Places, rng: random.Random) -> None:
    literals = [places.listening, places.silent, places.refusing, places.full]
    names = [(name, 7) for name in (*places.names, "unknown.example")]
    transport = rng.choice(("off", "starttls", "on", "on"))
    sock = tcpsock.connect(
        rng.choice(literals + names),
        **(TLS(transport, server_hostname="localhost") if transport != "off" else {}),
        connect_timeout=rng.choice((0.001, 0.02, 0.2)),
        close_timeout=rng.choice((0, 0.02, 0.2)),
    )
    futures = [(sock.opened, sock.closed)]
    dropping = rng.random() < 0.3
    blocked = [] if dropping else _blocked(sock, rng)  # it would hold the socket
    # The one is its failure, the other ours.
    with suppress(concurrent.futures.TimeoutError, SocketError):
        sock.opened.exception(rng.choice((0, 0, 0.0003, 0.001, 0.003, 0.01, 0.1)))
    if rng.random() < 0.3:
        with suppress(SocketError, RuntimeError):
            sock = sock.start_tls(server_hostname="localhost")
            futures.append((sock.opened, sock.closed))
    if not dropping:
        for _ in range(rng.randrange(1, 4)):
            rng.choice((sock.close, sock.abort, partial(sock.__exit__, None, None, None)))()
    del sock
    for call in blocked:
        error = call.error()
        assert isinstance(error, (SocketError, type(None))), repr(error)
    for opened, closed in futures:
        failure, error = outcome(opened, SocketError), outcome(closed, SocketError)
        if failure is not None and not isinstance(failure, SocketClosed):
            assert error is failure, (failure, error)  # rule O3
        else:
            opened_and_lost = (SocketAborted, ConnectionLost, PlaintextInjected)
            assert error is None or isinstance(error, opened_and_lost), error


def _blocked(sock: tcpsock.Socket, rng: random.Random) -> list[Call]:
    """Calls that wait for it to open, or for its peer."""
    calls = (
        lambda: sock.readable.get_reader().read(),
        lambda: sock.writable.get_writer().write(bytes(5_000_000)),
        lambda: sock.opened.result(PATIENCE),
        lambda: sock.detach().close(),
        lambda: list(sock.readable),
    )
    return [Call(call) for call in rng.sample(calls, rng.choice((0, 0, 1, 2)))]


# Callbacks


class Meddler:
    """Whatever one future tells, it calls: something else each time, until it has had enough."""

    def __init__(self, address: str, rng: random.Random) -> None:
        self._address = address
        self._rng = rng
        self._connects_left = 20
        self._kept: list[tcpsock.Socket] = []
        self._all: list[weakref.ref[tcpsock.Socket]] = []
        self._futures: list[Future[Any]] = []
        self._lock = threading.Lock()

    def connect(self) -> None:
        """One more, with callbacks on all that it has."""
        with self._lock:
            self._connects_left -= 1
            if self._connects_left < 0:
                return
            transport = self._rng.choice(("off", "starttls", "on"))
        options = {} if transport == "off" else TLS(transport)
        self.watch(tcpsock.connect(self._address, **options, close_timeout=0.05))

    def watch(self, sock: tcpsock.Socket) -> None:
        """Call back in, whenever one of its futures is settled."""
        self._note(sock, sock.opened, sock.closed)
        self._all.append(weakref.ref(sock))
        with self._lock:
            if self._rng.random() < 0.7:
                self._kept.append(sock)
        with suppress(SocketError):
            reader, writer = sock.streams()
            self._note(sock, reader.closed, writer.closed)

    def _note(self, sock: tcpsock.Socket, *futures: Future[Any]) -> None:
        known = weakref.ref(sock) if self._rng.random() < 0.7 else lambda: sock
        for future in futures:
            self._futures.append(future)
            for _ in range(self._rng.randrange(1, 4)):
                future.add_done_callback(partial(self._call_in, known))

    def _call_in(self, known: Callable[[], tcpsock.Socket | None], _: Future[Any]) -> None:
        sock = known()
        if sock is None:
            return self.drop_all()
        calls: tuple[Callable[[], object], ...] = (
            sock.close,
            sock.abort,
            sock.readable.cancel,
            sock.writable.close,
            sock.streams,
            lambda: self.watch(sock.start_tls()),
            lambda: sock.readable.get_reader().read(timeout=0),
            lambda: sock.writable.get_writer().write(b"from a callback", timeout=0),
            lambda: (repr(sock), sock.stats, sock.tls_session),
            self.connect,
            self.drop_all,
            partial(_raise, ValueError),
            partial(_raise, SystemExit),
            partial(_raise, KeyboardInterrupt),
        )
        with suppress(SocketError):
            self._rng.choice(calls)()

    def drop_all(self) -> None:
        """Forget every socket."""
        with self._lock:
            dropped, self._kept = self._kept, []
        del dropped
        gc.collect()

    def end(self) -> None:
        """Close what is left, and wait for every future, also those that come meanwhile."""
        for future in self._futures:  # it grows
            while not future.done():
                for known in list(self._all):
                    sock = known()
                    if sock is not None:  # a callback that knows it keeps it open
                        self._rng.choice((sock.close, sock.abort))()
                    del sock
                concurrent.futures.wait([future], 0.01)
            outcome(future, SocketError)
        self.drop_all()


def _raise(kind: type[BaseException]) -> None:
    raise kind("out of a callback")


class BrokenHandler(logging.Handler):
    """What a user's logging may do as well."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self._rng = rng

    def handle(self, record: logging.LogRecord) -> bool:
        if self._rng.random() < 0.3:
            raise SystemExit("out of a logging handler")
        return True


def callbacks_that_call_in(seed: int) -> None:
    """Done-callbacks of all four futures close, abort, upgrade, connect, drop, raise and exit."""
    rng = random.Random(seed)
    # For the rest of the process: a callback may come behind the last future that we wait for.
    warnings.filterwarnings("ignore", "unclosed tcpsock", ResourceWarning)
    log = logging.getLogger("concurrent.futures")
    log.handlers, log.propagate = [BrokenHandler(rng)], False
    died: list[object] = []
    threading.excepthook = died.append
    with serve(echo) as server:
        meddlers = [Meddler(server.address, random.Random(rng.random())) for _ in range(3)]
        together(*(partial(_meddle, each) for each in meddlers))
    assert not died, died


def _meddle(meddler: Meddler) -> None:
    for _ in range(5):
        meddler.connect()
    meddler.end()
