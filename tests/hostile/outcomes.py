"""How a hostile connection must end: what is delivered, what is told, and to whom."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

import pytest
from peers import WAIT

import tcpsock

__all__ = [
    "RECEIVERS",
    "Receive",
    "assert_broken",
    "assert_says",
    "by_read",
    "read_ahead",
    "refusal",
]

Receive = Callable[[tcpsock.Socket], "tuple[bytes, tcpsock.SocketError | None]"]
AnyError = TypeVar("AnyError", bound=tcpsock.SocketError)


def _to_the_end(take: Callable[[], bytes]) -> tuple[bytes, tcpsock.SocketError | None]:
    received = bytearray()
    try:
        while chunk := take():
            received += chunk
    except tcpsock.SocketError as error:
        return bytes(received), error
    return bytes(received), None


def by_read(sock: tcpsock.Socket) -> tuple[bytes, tcpsock.SocketError | None]:
    """The caller receives for itself."""
    with sock.readable.get_reader() as reader:
        return _to_the_end(lambda: reader.read(timeout=WAIT))


def by_readinto(sock: tcpsock.Socket) -> tuple[bytes, tcpsock.SocketError | None]:
    """The same into a buffer of an odd size."""
    buffer = bytearray(1009)
    with sock.readable.get_reader() as reader:
        return _to_the_end(lambda: bytes(buffer[: reader.readinto(buffer, timeout=WAIT)]))


def read_ahead(sock: tcpsock.Socket) -> tuple[bytes, tcpsock.SocketError | None]:
    """The connection's thread has received everything, and met the end, before anybody reads."""
    with sock.readable.get_reader() as reader:
        sock.closed.exception(WAIT)
        return _to_the_end(lambda: reader.read(timeout=0))


RECEIVERS: dict[str, Receive] = {"read": by_read, "readinto": by_readinto, "ahead": read_ahead}
"""The ways to receive everything: the bytes, and the error at their end (None: a clean EOF)."""


def assert_says(error: tcpsock.SocketError, words: str) -> None:
    """The message names the peer, and tells what happened to whoever reads it in a log."""
    message = str(error)
    assert error.address and message.startswith(f"{error.address}: "), message
    assert re.search(words, message, re.IGNORECASE), message
    assert message.isprintable(), ascii(message)
    assert "ssl.c" not in message, message
    assert "internal error: " not in message, message


def assert_broken(
    sock: tcpsock.Socket,
    receive: Receive,
    delivered: bytes,
    words: str,
    kind: type[AnyError] = tcpsock.TlsError,  # type: ignore[assignment]  # what TLS ends in
) -> AnyError:
    """Exactly `delivered` comes, then an error of this very class, from then on and everywhere.

    Returns what `closed` failed with.
    """
    received, error = receive(sock)
    assert received == delivered
    assert type(error) is kind, repr(error)
    assert error.phase == "read"
    assert error.address == sock.opened.result(0).remote_address
    assert_says(error, words)
    stored = sock.closed.exception(WAIT)
    assert type(stored) is kind
    assert error.__cause__ is stored
    assert sock.stats.bytes_received == len(delivered)
    reader, writer = sock.streams()
    for call in (reader.read, lambda: reader.readinto(bytearray(9)), lambda: writer.write(b"x")):
        with pytest.raises(kind):
            call()
    return stored


def refusal(
    sock: tcpsock.Socket,
    words: str,
    kind: type[AnyError] = tcpsock.TlsError,  # type: ignore[assignment]
) -> AnyError:
    """What `opened` failed with: of this very class, in phase "tls", told everywhere alike (O3)."""
    error = sock.opened.exception(WAIT)
    assert type(error) is kind, repr(error)
    assert error.phase == "tls"
    assert_says(error, words)
    assert sock.closed.exception(WAIT) is error
    reader, writer = sock.streams()
    for call in (reader.read, lambda: writer.write(b"never sent")):
        with pytest.raises(kind) as caught:
            call()
        assert caught.value.__cause__ is error
    return error
