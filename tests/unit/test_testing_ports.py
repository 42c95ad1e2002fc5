"""Addresses at which no connection comes about."""

from __future__ import annotations

import socket

import pytest
from raw_clients import dial

import tcpsock
from tcpsock.testing import closed_port, silent_port

HOSTS = pytest.mark.parametrize("host", ["127.0.0.1", "::1"])


@HOSTS
def test_a_closed_port_refuses_as_often_as_it_is_asked(host: str) -> None:
    with closed_port(host) as address:
        for _ in range(3):
            with pytest.raises(ConnectionRefusedError):
                dial(address)


@HOSTS
def test_nobody_else_can_get_a_closed_port(host: str) -> None:
    """Or a test would meet a stranger there."""
    with closed_port(host) as address:
        port = int(address.rpartition(":")[2])
        with pytest.raises(OSError):
            socket.create_server(
                (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET
            )


@HOSTS
def test_a_silent_port_answers_nobody(host: str) -> None:
    with silent_port(host) as address:
        socks = [socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) for _ in "ab"]
        for sock in socks:
            with sock, pytest.raises(TimeoutError):
                sock.settimeout(0.1)
                sock.connect((host, int(address.rpartition(":")[2])))


def test_a_clients_view_of_both() -> None:
    with closed_port() as address, pytest.raises(tcpsock.ConnectError) as caught:
        tcpsock.connect(address).opened.result(20)
    assert not isinstance(caught.value, tcpsock.ConnectTimeout)
    with silent_port() as address, pytest.raises(tcpsock.ConnectTimeout):
        tcpsock.connect(address, connect_timeout=0.1).opened.result(20)
