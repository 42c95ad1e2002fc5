"""After the handshake: key updates and tickets in storms, and messages that must not come.

They come in the middle of the data, and concern whoever reads and whoever writes at that moment: no
byte may be lost, doubled or held up by them, in either direction.
"""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from peers import WAIT, Call, pattern

import tcpsock
from tcpsock._wire.wire import Wire
from tests.hostile.outcomes import assert_broken, assert_says, read_ahead
from tests.hostile.tls_peer import (
    ALERT,
    HANDSHAKE,
    LARGEST,
    WARNING,
    SealedPeer,
    alert,
    handshake_message,
    key_update,
    session_ticket,
)

LONG = bool(os.environ.get("TCPSOCK_LONG"))
V12, V13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
ONLY_TLS13 = pytest.mark.parametrize("version", [V13], ids=["tls13"])
END = alert(0, WARNING)


# KeyUpdate


@ONLY_TLS13
@pytest.mark.parametrize("requested", [False, True], ids=["told", "asked"])
@pytest.mark.timeout(180)
def test_R3_a_storm_of_key_updates(sealed, receive, requested) -> None:
    """Each record has other keys than the one before."""
    size = 300_000 if LONG else 9_000
    sock, peer = sealed(high_water_mark=size + 1 if receive is read_ahead else 1009)

    def storm() -> None:
        for start in range(0, size, 300):
            for n in range(start, start + 300, 30):
                peer.send_sealed(pattern(30, n))
                for _ in range(3):
                    peer.send_key_update(requested=requested)
        peer.send_sealed(END, kind=ALERT)

    storming = Call(storm)
    assert receive(sock) == (pattern(size), None)
    storming.result()


@ONLY_TLS13
def test_R3_T13_our_keys_change_whenever_we_are_asked_to(sealed) -> None:
    """Our answer goes out with the next write; the peer's OpenSSL could not read it otherwise."""
    sock, peer = sealed()
    reader, writer = sock.streams()
    for n in range(2_000 if LONG else 60):
        peer.send_key_update(requested=True)
        peer.send_sealed(b"%08d" % n)
        assert reader.read_exactly(8, timeout=WAIT) == b"%08d" % n
        writer.write(pattern(40_000, n), timeout=WAIT)
        assert peer.read_exactly(40_000) == pattern(40_000, n)


@ONLY_TLS13
@pytest.mark.parametrize("reading", [False, True], ids=["unread", "read"])
def test_R1_T13_keys_are_asked_for_in_the_middle_of_a_write(sealed, background, reading) -> None:
    """Half a record of ours waits for room then, sealed with the old keys."""
    sock, peer = sealed()
    reader, writer = sock.streams()
    data = pattern(20_000_000)
    read = background(reader.read_exactly, 9, timeout=WAIT).blocked() if reading else None
    write = background(writer.write, data, timeout=WAIT).blocked()
    peer.send_sealed(b"before")
    peer.send_key_update(requested=True)
    peer.send_sealed(b"end")
    if read is not None:
        assert read.result() == b"beforeend"
    assert peer.read_exactly(len(data)) == data
    write.result()
    if read is None:
        assert reader.read_exactly(9, timeout=WAIT) == b"beforeend"
    writer.write(b"with the new keys")
    assert peer.read_exactly(17) == b"with the new keys"


@ONLY_TLS13
def test_R1_T13_keys_are_asked_for_again_and_again_under_a_write_that_waits(
    sealed, background
) -> None:
    """A peer that does not read, and asks twice, breaks the connection: OpenSSL cannot answer it.

    A newer OpenSSL may. Either way nobody hangs, and what arrived on either side was in order.
    """
    sock, peer = sealed()
    reader, writer = sock.streams()
    data = pattern(20_000_000)
    write = background(writer.write, data, timeout=WAIT).blocked()
    received = background(_read_all, reader)
    sent = b""
    try:
        for n in range(5_000 if LONG else 100):
            peer.send_key_update(requested=True)
            peer.send_sealed(b"%06d" % n)
            sent += b"%06d" % n
        peer.send_sealed(END, kind=ALERT)
    except ConnectionError:
        pass  # we are told below
    got, _ = peer.read_to_the_end()
    assert got == data[: len(got)]
    come, error = received.result()
    assert sent.startswith(come)
    if error is None:
        assert (come, got) == (sent, data)
    else:
        assert type(error) is tcpsock.TlsError
        assert_says(error, "bad length")
        assert type(write.error()) is tcpsock.TlsError


@ONLY_TLS13
def test_R1_T13_nobody_spins_while_our_answer_has_no_room(sealed, background, monkeypatch) -> None:
    """Neither the thread that reads nor the write that waits."""
    calls = 0

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def count(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            return function(*args, **kwargs)

        return count

    for name in ("wait_to_receive", "wait_to_send"):
        monkeypatch.setattr(Wire, name, counted(getattr(Wire, name)))
    sock, peer = sealed()
    reader, writer = sock.streams()
    data = pattern(20_000_000)
    write = background(writer.write, data, timeout=WAIT).blocked()
    peer.send_key_update(requested=True)
    peer.send_sealed(b"data")
    assert reader.read_exactly(4, timeout=WAIT) == b"data"
    before = calls
    time.sleep(0.3)
    assert calls - before < 100
    assert peer.read_exactly(len(data)) == data
    write.result()


def _read_all(reader: tcpsock.Reader) -> tuple[bytes, tcpsock.SocketError | None]:
    parts = bytearray()
    try:
        while part := reader.read(timeout=WAIT):
            parts += part
    except tcpsock.SocketError as error:
        return bytes(parts), error
    return bytes(parts), None


# Session tickets


@ONLY_TLS13
@pytest.mark.timeout(180)
def test_R1_R3_a_storm_of_session_tickets_is_bounded(sealed) -> None:
    """Each replaces the one before: they cost no memory, and no byte between them is lost."""
    sock, peer = sealed()
    reader = sock.readable.get_reader()
    count = 6_000 if LONG else 900
    before = _resident()

    def storm() -> None:
        for n in range(count):
            ticket = session_ticket(n, size=LARGEST - 100)
            peer.send_raw(peer.sealed(ticket, kind=HANDSHAKE) + peer.sealed(b"%06d" % n))

    storming = Call(storm)
    expected = b"".join(b"%06d" % n for n in range(count))
    assert reader.read_exactly(len(expected), timeout=WAIT) == expected
    storming.result()
    assert _resident() - before < count * LARGEST // 3  # 15 MB of tickets went through, or 100
    assert sock.tls_session is not None


def _resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


@ONLY_TLS13
def test_O7_a_session_too_large_for_python_is_none_and_hurts_nothing(sealed, receive) -> None:
    """A ticket may have 65,535 bytes, and Python copies no session of more than 65,280."""
    sock, peer = sealed()
    ticket = session_ticket(1, size=65_535)
    out = peer.sealed(
        *(ticket[n : n + LARGEST] for n in range(0, len(ticket), LARGEST)), kind=HANDSHAKE
    )
    peer.send_raw(out + peer.sealed(b"data"))
    with sock.readable.get_reader() as reader:
        assert reader.read_exactly(4, timeout=WAIT) == b"data"
    assert sock.tls_session is None
    peer.send_sealed(END, kind=ALERT)
    assert receive(sock) == (b"", None)
    assert sock.closed.result(WAIT) is None
    assert sock.tls_session is None


@ONLY_TLS13
@pytest.mark.parametrize("lifetime", [0, 604_801, 0xFFFFFFFF], ids=["none", "over_a_week", "ages"])
def test_O7_a_ticket_of_any_lifetime_is_no_harm(sealed, lifetime) -> None:
    sock, peer = sealed()
    peer.send_sealed(session_ticket(1, lifetime=lifetime), kind=HANDSHAKE)
    peer.send_sealed(b"data")
    assert sock.readable.get_reader().read(timeout=WAIT) == b"data"
    repr(sock.tls_session)


# What must not come


class _Sent:
    """Makers of handshake messages that break the connection."""

    @staticmethod
    def message(kind: int, body: bytes = bytes(40)) -> Callable[[SealedPeer], bytes]:
        return lambda peer: peer.sealed(handshake_message(kind, body), kind=HANDSHAKE)

    @staticmethod
    def raw(*contents: bytes) -> Callable[[SealedPeer], bytes]:
        return lambda peer: peer.sealed(*contents, kind=HANDSHAKE)


def _between_fragments(peer: SealedPeer) -> bytes:
    ticket = session_ticket(1)
    return (
        peer.sealed(ticket[:9], kind=HANDSHAKE)
        + peer.sealed(b"evil")
        + peer.sealed(ticket[9:], kind=HANDSHAKE)
    )


UNEXPECTED = "unexpected message"
BREAKERS = {
    "a ClientHello": (_Sent.message(1), UNEXPECTED),
    "a ServerHello": (_Sent.message(2), UNEXPECTED),
    "EncryptedExtensions": (_Sent.message(8), UNEXPECTED),
    "a Certificate": (_Sent.message(11), UNEXPECTED),
    "a CertificateRequest that nobody allowed": (_Sent.message(13), UNEXPECTED),
    "a Finished": (_Sent.message(20, bytes(48)), UNEXPECTED),
    "a message of no known kind": (_Sent.message(99), UNEXPECTED),
    "a message of 16 MB": (
        _Sent.raw(b"\4\xff\xff\xff" + bytes(1000)),
        f"{UNEXPECTED}|excessive message size",
    ),
    "a broken ticket": (_Sent.message(4, b"garbage"), f"{UNEXPECTED}|length mismatch"),
    "a KeyUpdate that asks for 2": (_Sent.message(24, b"\2"), f"{UNEXPECTED}|bad key update"),
    "a KeyUpdate of two bytes": (_Sent.message(24, b"\0\0"), f"{UNEXPECTED}|excessive"),
    "two KeyUpdates in a record": (
        _Sent.raw(key_update(False) * 2),
        f"{UNEXPECTED}|not on record boundary",
    ),
    "a KeyUpdate, and the old keys": (
        lambda peer: peer.sealed(key_update(False), kind=HANDSHAKE) + peer.sealed(b"evil"),
        f"{UNEXPECTED}|bad record mac",
    ),
    "data between the parts of a message": (_between_fragments, f"{UNEXPECTED}|unexpected record"),
}


@pytest.mark.parametrize("name", BREAKERS, ids=[name.replace(" ", "_") for name in BREAKERS])
def test_R8_a_handshake_message_out_of_place(sealed, receive, name) -> None:
    """In TLS 1.2 all of these are."""
    sock, peer = sealed()
    make, words = BREAKERS[name]
    peer.send_raw(peer.sealed(b"good") + make(peer) + peer.sealed(b"never"))
    assert_broken(sock, receive, b"good", words)
    assert "ALERT" in peer.last_words()
