"""The contract suite's transports: every test that takes `pair` runs over all four of them.

The environment variable TCPSOCK_NETWORK says what lies between the two ends of each pair:

    direct    nothing but the loopback (this is the default)
    dribble   a ChaosProxy that passes single bytes on, both ways; after the first 4 KiB, 1 KiB
    cuts      a ChaosProxy that cuts what both sides send into pieces of 1 byte to 16 KiB

A test marked `direct("why")` needs the first one, for instance because it looks into the far end's
kernel: a proxy acknowledges what it has received itself. In the other two it is left out, or with
`transport="plain"` that one of its four forms.
"""

from __future__ import annotations

import os
import signal
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from peers import HOST, WAIT, Call, Interrupted, Listener, Peer, ca_data, only

import tcpsock
from tcpsock.testing import ChaosProxy, Cuts, Dribble

NETWORK = os.environ.get("TCPSOCK_NETWORK", "direct")
TRANSPORTS = ("plain", "tls12", "tls13", "starttls")
_VERSIONS = {
    "tls12": ssl.TLSVersion.TLSv1_2,
    "tls13": ssl.TLSVersion.TLSv1_3,
    "starttls": ssl.TLSVersion.TLSv1_3,
}


# Single bytes through every handshake and a test's first words; megabytes would take minutes.
_DRIBBLE = [Dribble(1, until=4096), Dribble(1024)]
NETWORKS: dict[str, dict[str, Any]] = {  # the steps of the proxy
    "direct": {},
    "dribble": {"to_client": _DRIBBLE, "to_server": _DRIBBLE},
    "cuts": {"to_client": [Cuts(1)], "to_server": [Cuts(2)]},
}


def pytest_configure() -> None:
    if NETWORK not in NETWORKS:
        raise pytest.UsageError(f"TCPSOCK_NETWORK={NETWORK}: not one of {', '.join(NETWORKS)}")


def pytest_report_header() -> str:
    return f"network of the contract suite's pairs: {NETWORK}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if NETWORK == "direct":
        return
    left_out = [item for item in items if _needs_direct(item)]
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)


def _needs_direct(item: pytest.Item) -> bool:
    marker = item.get_closest_marker("direct")
    if marker is None:
        return False
    transport = marker.kwargs.get("transport")
    return transport is None or item.callspec.params["pair"] == transport  # type: ignore[attr-defined]  # a Function's


class Pair:
    """Makes connected pairs over one transport, and ends them after the test.

    Calling it gives a `tcpsock.Socket` that has opened and the Peer at its other end. Keywords are
    options of connect(); `tls` is a dict of TlsOptions fields, used where there is TLS. With
    `receive_buffer=` (bytes) the kernel's receive buffer of our side stays at that size, and
    `raw=` prepares the connected socket: both go through adopt(), all else through connect().
    """

    def __init__(self, transport: str, *, network: str = NETWORK) -> None:
        self.transport = transport
        self.tls = transport != "plain"
        self._network = network
        self._proxies: list[ChaosProxy] = []
        self._listeners: dict[int | None, Listener] = {}  # by the size of the peers' buffers
        self._sockets: list[tcpsock.Socket] = []
        self._peers: list[Peer] = []

    def __call__(
        self,
        *,
        tls: dict[str, Any] | None = None,
        receive_buffer: int | None = None,
        raw: Callable[[Any], object] | None = None,
        peer_buffers: int | None = None,
        **options: Any,
    ) -> tuple[tcpsock.Socket, Peer]:
        if peer_buffers not in self._listeners:
            self._listeners[peer_buffers] = Listener(buffers=peer_buffers)
        listener = self._listeners[peer_buffers]
        if self.tls:
            options["secure_transport"] = "starttls" if self.transport == "starttls" else "on"
            options["tls"] = tcpsock.TlsOptions(**{"ca_data": ca_data(), **(tls or {})})
        address = listener.address
        if self._network != "direct":
            self._proxies.append(ChaosProxy(address, **NETWORKS[self._network]))
            address = self._proxies[-1].address
        if receive_buffer is None and raw is None:
            sock = tcpsock.connect(address, **options)
            peer = listener.accept()
        else:
            sock, peer = self._adopt(listener, address, receive_buffer, raw, options)
        self._sockets.append(sock)
        self._peers.append(peer)
        if self.transport == "starttls":
            sock = self._upgrade(sock, peer)
        elif self.tls:
            peer.start_tls(only(_VERSIONS[self.transport]))
        sock.opened.result(WAIT)
        return sock, peer

    def _adopt(
        self,
        listener: Listener,
        address: str,
        receive_buffer: int | None,
        raw: Callable[[Any], object] | None,
        options: dict[str, Any],
    ) -> tuple[tcpsock.Socket, Peer]:
        ours = socket.socket()
        if receive_buffer is not None:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        ours.connect((HOST, int(address.rpartition(":")[2])))
        peer = listener.accept()
        if raw is not None:
            raw(ours)
        return tcpsock.adopt(ours, hostname=HOST, **options), peer

    def _upgrade(self, old: tcpsock.Socket, peer: Peer) -> tcpsock.Socket:
        reader, writer = old.streams()
        writer.write(b"STARTTLS\r\n", timeout=WAIT)
        assert peer.read_exactly(10) == b"STARTTLS\r\n"
        peer.send(b"220 ready\r\n")
        assert reader.readline(timeout=WAIT) == b"220 ready\r\n"
        sock = old.start_tls()
        self._sockets.append(sock)
        peer.start_tls(only(_VERSIONS[self.transport]))
        return sock

    def end(self) -> None:
        """End all of them at once, and wait until they are gone."""
        for sock in self._sockets:
            sock.abort()
        for peer in self._peers:
            peer.close()
        for listener in self._listeners.values():
            listener.close()
        for proxy in self._proxies:
            proxy.close()
        for sock in self._sockets:
            sock.closed.exception(WAIT)


@pytest.fixture
def background() -> Iterator[Callable[..., Call]]:
    """Runs a call in a thread of its own: `background(reader.read, timeout=1)` is a Call."""
    calls: list[Call] = []

    def start(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Call:
        calls.append(Call(function, *args, **kwargs))
        return calls[-1]

    yield start
    for call in calls:
        call.join()


@pytest.fixture(params=TRANSPORTS)
def pair(request: pytest.FixtureRequest, background: object) -> Iterator[Pair]:
    """Connected pairs over plain TCP, TLS 1.2, TLS 1.3 and an upgraded StartTLS connection.

    (It asks for `background` so that the pairs end first, and free what is blocked on them.)
    """
    pair = Pair(request.param)
    yield pair
    pair.end()


@pytest.fixture
def plain_pair(background: object) -> Iterator[Pair]:
    """Connected pairs over plain TCP alone."""
    pair = Pair("plain")
    yield pair
    pair.end()


@pytest.fixture(params=["tls12", "tls13", "starttls"])
def tls_pair(request: pytest.FixtureRequest, background: object) -> Iterator[Pair]:
    """Connected pairs over TLS alone."""
    pair = Pair(request.param)
    yield pair
    pair.end()


@pytest.fixture(params=TRANSPORTS)
def cut_pair(request: pytest.FixtureRequest, background: object) -> Iterator[Pair]:
    """Connected pairs over a network that puts the segments' limits where nobody expects them."""
    pair = Pair(request.param, network="cuts")
    yield pair
    pair.end()


@pytest.fixture(params=["socket", "peer"])
def first(request: pytest.FixtureRequest) -> str:
    """Who ends its side first: "socket" (we do) or "peer"."""
    role: str = request.param
    return role


@pytest.fixture
def listener() -> Iterator[Listener]:
    """A listening loopback socket; the test accepts."""
    listener = Listener()
    yield listener
    listener.close()


@pytest.fixture
def interruptible() -> Iterator[None]:
    """SIGUSR1 raises Interrupted in the main thread, as Ctrl-C does KeyboardInterrupt."""

    def interrupt(*_: object) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGUSR1, interrupt)
    yield
    signal.signal(signal.SIGUSR1, before)
