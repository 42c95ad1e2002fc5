"""The blocking socket of the standard library, each work in its best usual form: the baseline."""

from __future__ import annotations

import functools
import socket
import ssl
import time

from .. import _certificate
from .._protocol import BLOCK, ECHO, MESSAGE, REQUEST, SEND, TAKE, Target, hung_up
from . import Peer, Stopwatch, warm_up

__all__ = ["PEER"]

# An SSLSocket returns one record of at most 16 KiB, however much was asked for, and allocates all
# that was asked for: with 256 KiB its throughput jumps between 0.4 and 1 of this, as malloc likes.
_TLS_READ = 64 * 1024


@functools.cache
def _context() -> ssl.SSLContext:
    return ssl.create_default_context(cadata=_certificate.AUTHORITY)


def _connect(target: Target) -> socket.socket:
    sock = socket.create_connection((target.host, target.port))
    if target.tls:
        return _context().wrap_socket(sock, server_hostname=target.host)
    return sock


def _connect_to_talk(target: Target) -> socket.socket:
    sock = _connect(target)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _ping_pong(target: Target, rounds: int, watch: Stopwatch) -> None:
    size = _TLS_READ if target.tls else BLOCK
    with _connect_to_talk(target) as sock:
        _bounce(sock, size, warm_up(rounds), [])
        with watch:
            _bounce(sock, size, rounds, watch.laps)


def _bounce(sock: socket.socket, size: int, rounds: int, laps: list[float]) -> None:
    send, receive, clock, lap = sock.sendall, sock.recv, time.perf_counter, laps.append
    send(REQUEST.pack(ECHO, rounds * len(MESSAGE)))
    for _ in range(rounds):
        start = clock()
        send(MESSAGE)
        left = len(MESSAGE)
        while left:
            left -= len(receive(size)) or hung_up()
        lap(clock() - start)


def _download(target: Target, amount: int, watch: Stopwatch) -> None:
    size = _TLS_READ if target.tls else BLOCK
    with _connect_to_talk(target) as sock:
        _fetch(sock, size, warm_up(amount, BLOCK))
        with watch:
            _fetch(sock, size, amount)


def _fetch(sock: socket.socket, size: int, left: int) -> None:
    sock.sendall(REQUEST.pack(SEND, left))
    receive = sock.recv
    while left:
        left -= len(receive(size)) or hung_up()


def _download_into(target: Target, amount: int, watch: Stopwatch) -> None:
    buffer = bytearray(BLOCK)
    with _connect_to_talk(target) as sock:
        _fetch_into(sock, buffer, warm_up(amount, BLOCK))
        with watch:
            _fetch_into(sock, buffer, amount)


def _fetch_into(sock: socket.socket, buffer: bytearray, left: int) -> None:
    sock.sendall(REQUEST.pack(SEND, left))
    receive_into = sock.recv_into
    while left:
        left -= receive_into(buffer) or hung_up()


def _upload(target: Target, amount: int, watch: Stopwatch) -> None:
    block = bytes(BLOCK)
    with _connect_to_talk(target) as sock:
        _bring(sock, block, warm_up(amount, BLOCK))
        with watch:
            _bring(sock, block, amount)


def _bring(sock: socket.socket, block: bytes, amount: int) -> None:
    send = sock.sendall
    send(REQUEST.pack(TAKE, amount))
    for _ in range(amount // len(block)):
        send(block)
    if not sock.recv(1):
        hung_up()


def _connect_graceful(target: Target, count: int, watch: Stopwatch) -> None:
    with watch:
        for _ in range(count):
            with _connect(target) as sock:
                if isinstance(sock, ssl.SSLSocket):
                    sock.unwrap()  # close_notify, and the wait for theirs; plain from here on
                sock.shutdown(socket.SHUT_WR)
                sock.recv(1)


def _connect_close(target: Target, count: int, watch: Stopwatch) -> None:
    with watch:
        for _ in range(count):
            _connect(target).close()


PEER = Peer(
    "raw",
    {
        "ping-pong": _ping_pong,
        "download": _download,
        "download-into": _download_into,
        "upload": _upload,
        "connect-graceful": _connect_graceful,
        "connect-close": _connect_close,
    },
)
