"""HTTP/1.0 from nginx: the request ends with a half-close, the answer with the server's."""

from __future__ import annotations

import io
import random
from typing import Any

import pytest
from launch import Server

import tcpsock
from examples import http_get as example
from tcpsock import TlsOptions


def target(server: Server, scheme: str, **tls: Any) -> tuple[str, dict[str, Any]]:
    if scheme == "http":
        return server.address, {"timeout": 30}
    options = TlsOptions(ca_data=server.ca_data, **tls)
    return server.tls_address, {"timeout": 30, "secure_transport": "on", "tls": options}


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_W3_get_behind_a_half_close(http_server: Server, scheme: str) -> None:
    """The page arrives byte for byte after we have ended our side.

    It fits into the kernel's buffers, for a longer one would be given up at our half-close by
    nginx, which then sends no close_notify either: Content-Length tells that all is there.
    """
    page = random.Random(4).randbytes(100_000)
    (http_server.directory / "short.bin").write_bytes(page)
    address, options = target(http_server, scheme, allow_truncation=True)
    body = io.BytesIO()
    with tcpsock.connect(address, **options) as sock:
        status, headers = example.request(sock, "localhost", "/short.bin")
        assert example.save(sock, headers, body) == len(page)
        sock.closed.result(30)
    assert status.endswith(" 200 OK")
    assert headers["content-length"] == str(len(page))
    assert body.getvalue() == page


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_R2_a_long_page(http_server: Server, scheme: str) -> None:
    """5 MB arrive byte for byte, over TLS up to the server's close_notify."""
    page = random.Random(5).randbytes(5_000_000)
    (http_server.directory / "long.bin").write_bytes(page)
    address, options = target(http_server, scheme)
    body = io.BytesIO()
    with tcpsock.connect(address, **options) as sock:
        _, headers = example.request(sock, "localhost", "/long.bin", half_close=False)
        assert example.save(sock, headers, body) == len(page)
        sock.closed.result(30)
    assert body.getvalue() == page


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_page_that_is_not_there(http_server: Server, scheme: str) -> None:
    """The server's status, and a whole answer all the same."""
    address, options = target(http_server, scheme)
    body = io.BytesIO()
    with tcpsock.connect(address, **options) as sock:
        status, headers = example.request(sock, "localhost", "/nothing", half_close=False)
        example.save(sock, headers, body)
    assert status.endswith(" 404 Not Found")
    assert b"404 Not Found" in body.getvalue()


def test_tls_to_the_plain_port(http_server: Server) -> None:
    """nginx answers a ClientHello with an HTTP error; ours says that this isn't TLS."""
    tls = TlsOptions(ca_data=http_server.ca_data)
    with tcpsock.connect(http_server.address, secure_transport="on", tls=tls) as sock:
        with pytest.raises(tcpsock.TlsError) as caught:
            sock.opened.result(30)
    assert caught.value.phase == "tls"
