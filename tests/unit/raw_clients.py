"""Raw sockets and ssl in place of tcpsock: what tcpsock.testing is tested with."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Sequence

import pytest

from tcpsock import testing

__all__ = ["TLS_VERSIONS", "dial", "echo", "pattern", "read_all", "read_exactly", "secure"]

TLS_VERSIONS = pytest.mark.parametrize(
    "version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["TLS1.2", "TLS1.3"]
)


def dial(address: str) -> socket.socket:
    host, port = address.rsplit(":", 1)
    return socket.create_connection((host.strip("[]"), int(port)), timeout=20)


def secure(
    sock: socket.socket,
    *,
    ca_data: str | None = None,
    hostname: str = "localhost",
    certificate: testing.Certificate | None = None,
    alpn: Sequence[str] = (),
) -> ssl.SSLSocket:
    context = ssl.create_default_context(cadata=ca_data or testing.authority().ca_data)
    if certificate is not None:
        certificate.load_into(context)
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context.wrap_socket(sock, server_hostname=hostname, suppress_ragged_eofs=False)


def read_all(sock: socket.socket) -> bytes:
    pieces = []
    while piece := sock.recv(65536):
        pieces.append(piece)
    return b"".join(pieces)


def read_exactly(sock: socket.socket, size: int) -> bytes:
    got = b""
    while len(got) < size:
        piece = sock.recv(size - len(got))
        assert piece, f"EOF after {got!r}"
        got += piece
    return got


def echo(sock: socket.socket) -> None:
    while piece := sock.recv(65536):
        sock.sendall(piece)


def pattern(size: int) -> bytes:
    """Bytes in which nothing can be missing, doubled or displaced unseen."""
    return b"".join(i.to_bytes(4, "big") for i in range(size // 4))
