"""Gopher from pygopherd: a selector, a half-close, and the page to its end."""

from __future__ import annotations

import random

import pytest
from launch import Server

import tcpsock
from examples import gopher
from tcpsock import TlsOptions


def test_menu_and_page(gopher_server: Server) -> None:
    """The menu names the page, and the page is what the file holds."""
    (gopher_server.directory / "hello.txt").write_text("Hello, Gopher.\n")
    menu = b"".join(gopher.fetch(gopher_server.address))
    assert f"\t/hello.txt\tlocalhost\t{gopher_server.port}" in menu.decode()
    assert b"".join(gopher.fetch(gopher_server.address, "/hello.txt")) == b"Hello, Gopher.\n"


def test_W3_a_long_page_behind_a_half_close(gopher_server: Server) -> None:
    """5 MB arrive byte for byte, all of them after we have ended our side."""
    page = random.Random(6).randbytes(5_000_000)
    (gopher_server.directory / "long.bin").write_bytes(page)
    assert b"".join(gopher.fetch(gopher_server.address, "/long.bin")) == page


def test_R8_its_tls_ends_without_close_notify(gopher_server: Server) -> None:
    """The whole page is delivered first, then the truncation told."""
    page = random.Random(7).randbytes(1_000_000)
    (gopher_server.directory / "secret.bin").write_bytes(page)
    tls = TlsOptions(ca_data=gopher_server.ca_data)
    arrived = bytearray()
    with tcpsock.connect(
        gopher_server.tls_address, secure_transport="on", tls=tls, timeout=30
    ) as sock:
        reader, writer = sock.streams()
        writer.write(b"/secret.bin\r\n")
        with pytest.raises(tcpsock.TlsTruncated):
            for chunk in reader:
                arrived += chunk
    assert arrived == page
