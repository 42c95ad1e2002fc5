"""Addresses at which no connection comes about, for tests of what a client says then."""

from __future__ import annotations

import contextlib
import select
import socket
from collections.abc import Iterator

__all__ = ["closed_port", "silent_port"]


@contextlib.contextmanager
def closed_port(host: str = "127.0.0.1") -> Iterator[str]:
    """Give a ``host:port`` that refuses every connection: nobody listens there, nor can."""
    with _bound(host) as sock:  # bound, and so nobody else's
        yield _address(sock)


@contextlib.contextmanager
def silent_port(host: str = "127.0.0.1") -> Iterator[str]:
    """Give a ``host:port`` that answers no attempt to connect, as behind a firewall (on Linux).

    It listens, but its queue is full, and the kernel drops what asks to be let in.
    """
    with _bound(host) as sock, socket.socket(sock.family) as first:
        sock.listen(0)
        first.connect(sock.getsockname())
        arrived = select.poll()
        arrived.register(sock, select.POLLIN)
        arrived.poll()
        yield _address(sock)


def _bound(host: str) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    sock.bind((host, 0))
    return sock


def _address(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
