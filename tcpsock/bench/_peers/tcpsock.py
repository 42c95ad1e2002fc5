"""tcpsock itself, used as its documentation says."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tcpsock import Reader, Socket, SocketOptions, TlsOptions, Writer, connect

from .. import _certificate
from .._protocol import BLOCK, ECHO, MESSAGE, REQUEST, SEND, TAKE, Target, hung_up
from . import Peer, Stopwatch, warm_up

__all__ = ["PEER"]

_PLAIN = SocketOptions()
_TLS = SocketOptions(
    secure_transport="on",
    tls=TlsOptions(ca_data=_certificate.AUTHORITY, minimum_version=ssl.TLSVersion.TLSv1_3),
)


def _connect(target: Target) -> Socket:
    return connect((target.host, target.port), _TLS if target.tls else _PLAIN)


@contextmanager
def _connection(target: Target) -> Iterator[tuple[Reader, Writer]]:
    sock = _connect(target)
    try:
        sock.opened.result()
        yield sock.streams()
    except BaseException:
        sock.abort()  # a graceful close would wait for all that the server still has to send
        raise
    sock.close().result()


def _ping_pong(target: Target, rounds: int, watch: Stopwatch) -> None:
    with _connection(target) as (reader, writer):
        _bounce(reader, writer, warm_up(rounds), [])
        with watch:
            _bounce(reader, writer, rounds, watch.laps)


def _bounce(reader: Reader, writer: Writer, rounds: int, laps: list[float]) -> None:
    send, receive, clock, lap = writer.write, reader.read, time.perf_counter, laps.append
    send(REQUEST.pack(ECHO, rounds * len(MESSAGE)))
    for _ in range(rounds):
        start = clock()
        send(MESSAGE)
        left = len(MESSAGE)
        while left:
            left -= len(receive()) or hung_up()
        lap(clock() - start)


def _download(target: Target, amount: int, watch: Stopwatch) -> None:
    with _connection(target) as (reader, writer):
        _fetch(reader, writer, warm_up(amount, BLOCK))
        with watch:
            _fetch(reader, writer, amount)


def _fetch(reader: Reader, writer: Writer, left: int) -> None:
    writer.write(REQUEST.pack(SEND, left))
    receive = reader.read
    while left:
        left -= len(receive()) or hung_up()


def _download_into(target: Target, amount: int, watch: Stopwatch) -> None:
    buffer = bytearray(BLOCK)
    with _connection(target) as (reader, writer):
        _fetch_into(reader, writer, buffer, warm_up(amount, BLOCK))
        with watch:
            _fetch_into(reader, writer, buffer, amount)


def _fetch_into(reader: Reader, writer: Writer, buffer: bytearray, left: int) -> None:
    writer.write(REQUEST.pack(SEND, left))
    receive_into = reader.readinto
    while left:
        left -= receive_into(buffer) or hung_up()


def _upload(target: Target, amount: int, watch: Stopwatch) -> None:
    block = bytes(BLOCK)
    with _connection(target) as (reader, writer):
        _bring(reader, writer, block, warm_up(amount, BLOCK))
        with watch:
            _bring(reader, writer, block, amount)


def _bring(reader: Reader, writer: Writer, block: bytes, amount: int) -> None:
    send = writer.write
    send(REQUEST.pack(TAKE, amount))
    for _ in range(amount // len(block)):
        send(block)
    if not reader.read(1):
        hung_up()


def _connect_graceful(target: Target, count: int, watch: Stopwatch) -> None:
    with watch:
        for _ in range(count):
            sock = _connect(target)
            sock.opened.result()
            sock.close().result()


def _connect_close(target: Target, count: int, watch: Stopwatch) -> None:
    with watch:
        closing = []
        for _ in range(count):
            sock = _connect(target)
            sock.opened.result()
            closing.append(sock.close())
        # What is still being done in the background is part of the price.
        for closed in closing:
            closed.result()


PEER = Peer(
    "tcpsock",
    {
        "ping-pong": _ping_pong,
        "download": _download,
        "download-into": _download_into,
        "upload": _upload,
        "connect-graceful": _connect_graceful,
        "connect-close": _connect_close,
    },
)
