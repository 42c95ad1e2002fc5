"""A TLS object that one direction has broken: the other one tells the same, and blames nobody else.

OpenSSL itself then only says that it met an end that should not be there, which is what it says of
a peer that hangs up.
"""

from __future__ import annotations

import select
import socket
import ssl
from collections.abc import Callable, Iterator

import pytest
from peers import HOST, WAIT, Call, Listener, ca_data

import tcpsock
from tcpsock._wire.platform import Waker
from tcpsock._wire.tls import TlsWire
from tests.hostile.outcomes import assert_says
from tests.hostile.tls_peer import HANDSHAKE, SealedPeer, handshake_message, hostile_context

V12 = ssl.TLSVersion.TLSv1_2


@pytest.fixture
def wire(listener: Listener, version: ssl.TLSVersion) -> Iterator[tuple[TlsWire, SealedPeer]]:
    """A wire without a connection round it, so that the test says who does what when."""
    ours = socket.create_connection((HOST, listener.port))
    peer = SealedPeer(listener.accept().sock)
    shaking = Call(peer.start_tls, hostile_context(version))
    context = ssl.create_default_context(cadata=ca_data())  # it may be asked to renegotiate
    tls = context.wrap_socket(ours, server_hostname=HOST, suppress_ragged_eofs=False)
    shaking.result()
    tls.setblocking(False)
    waker = Waker()
    wire = TlsWire(tls, waker, listener.address, allow_truncation=False)
    yield wire, peer
    wire.close()
    waker.close()
    peer.close()


def readable(wire: TlsWire) -> None:
    """Wait until something has come."""
    assert select.select([wire._fd], [], [], WAIT)[0]


def both_fail(first: Callable[[], object], then: Callable[[], object], words: str) -> None:
    """With the same kind of error, and the same words."""
    for call in (first, then, then):
        with pytest.raises(tcpsock.SocketError) as caught:
            call()
        assert type(caught.value) is tcpsock.TlsError, repr(caught.value)
        assert_says(caught.value, words)


def test_R8_a_write_after_a_bad_record(wire) -> None:
    tls, peer = wire
    record = bytearray(peer.sealed(b"evil"))
    record[-1] ^= 1
    peer.send_raw(bytes(record))
    readable(tls)
    both_fail(lambda: tls.recv(100), lambda: tls.send(b"data"), "bad record mac")


@pytest.mark.parametrize("version", [V12], ids=["tls12"])
def test_R8_a_read_after_a_write_that_broke_TLS(wire) -> None:
    """Data in the middle of a handshake is no longer possible once a write drives it."""
    tls, peer = wire
    peer.send_sealed(handshake_message(0), kind=HANDSHAKE)
    readable(tls)
    assert tls.recv(100) is None
    peer.send_sealed(b"data")
    readable(tls)
    both_fail(lambda: tls.send(b"data"), lambda: tls.recv(100), "unexpected record")
