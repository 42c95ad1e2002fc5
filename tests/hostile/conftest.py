"""Connections to peers that are in the test's own hands, down to the single record."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pytest
from peers import HOST, WAIT, Listener, Peer, ca_data

import tcpsock
from tests.contract.conftest import background, listener
from tests.hostile.outcomes import RECEIVERS, Receive
from tests.hostile.tls_peer import SealedPeer, hostile_context

__all__ = ["background", "dial", "listener", "receive", "sealed", "version"]

AnyPeer = TypeVar("AnyPeer", bound=Peer)


class Dial:
    """Sockets with TLS to one listener, whose other ends the test accepts."""

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.address = listener.address
        self._sockets: list[tcpsock.Socket] = []
        self._peers: list[Peer] = []

    def __call__(
        self, address: str | None = None, *, tls: dict[str, Any] | None = None, **options: Any
    ) -> tcpsock.Socket:
        """Connect, and don't wait for anything. `tls`: fields of TlsOptions."""
        fields = dict(tls or {})
        if "ssl_context" not in fields:
            fields.setdefault("ca_data", ca_data())
        sock = tcpsock.connect(
            address or self.address,
            secure_transport="on",
            tls=tcpsock.TlsOptions(**fields),
            **options,
        )
        self._sockets.append(sock)
        return sock

    def adopt(self, kind: type[AnyPeer], **options: Any) -> tuple[tcpsock.Socket, AnyPeer]:
        """Both ends of a connection that is there before its `connect_timeout` begins."""
        ours = socket.create_connection((HOST, self.listener.port))
        peer = self.accept(kind)
        tls = tcpsock.TlsOptions(ca_data=ca_data())
        sock = tcpsock.adopt(ours, hostname=HOST, secure_transport="on", tls=tls, **options)
        self._sockets.append(sock)
        return sock, peer

    def accept(self, kind: type[AnyPeer]) -> AnyPeer:
        """The next connection's other end; its TLS is still to be started."""
        peer = kind(self.listener.accept().sock)
        self._peers.append(peer)
        return peer

    def end(self) -> None:
        for sock in self._sockets:
            sock.abort()
        for peer in self._peers:
            peer.close()
        for sock in self._sockets:
            sock.closed.exception(WAIT)


@pytest.fixture
def dial(background: object, listener: Listener) -> Iterator[Dial]:
    """Makes connections whose other end the test accepts; ends them."""
    dial = Dial(listener)
    yield dial
    dial.end()


@pytest.fixture(params=[ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["tls12", "tls13"])
def version(request: pytest.FixtureRequest) -> ssl.TLSVersion:
    """TLS 1.2 and 1.3."""
    chosen: ssl.TLSVersion = request.param
    return chosen


@pytest.fixture
def sealed(dial: Dial, version: ssl.TLSVersion) -> Callable[..., tuple[tcpsock.Socket, SealedPeer]]:
    """Makes a Socket that has opened, and the SealedPeer at its other end."""

    def connect(**options: Any) -> tuple[tcpsock.Socket, SealedPeer]:
        sock = dial(**options)
        peer = dial.accept(SealedPeer)
        peer.start_tls(hostile_context(version))
        sock.opened.result(WAIT)
        return sock, peer

    return connect


@pytest.fixture(params=RECEIVERS, ids=RECEIVERS)
def receive(request: pytest.FixtureRequest) -> Receive:
    """Each way to receive everything."""
    function: Receive = RECEIVERS[request.param]
    return function
