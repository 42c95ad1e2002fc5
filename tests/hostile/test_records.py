"""Records that no honest peer sends: nothing of them is delivered, and the error tells why.

What came before stays readable, in its order (R3, R8); then reads, writes and `closed` all tell the
same TlsError (O3), whoever receives; and the peer is told by an alert.
"""

from __future__ import annotations

import os
import random
import ssl
from collections.abc import Callable, Iterable
from typing import NamedTuple

import pytest
from peers import WAIT, Call, pattern

import tcpsock
from tests.hostile.outcomes import assert_broken, assert_says, read_ahead
from tests.hostile.tls_peer import (
    ALERT,
    CHANGE_CIPHER_SPEC,
    HANDSHAKE,
    LARGEST,
    Seal13,
    SealedPeer,
    alert,
    handshake_message,
    header,
    hostile_context,
    record,
)

LONG = bool(os.environ.get("TCPSOCK_LONG"))
MAC = "bad record mac"
KIND = "record type|unexpected record"  # OpenSSL's words for a kind that cannot be, in 1.3 and 1.2
LENGTH = "too long"


class Attack(NamedTuple):
    """What is sent behind good data, and what the error says of it."""

    make: Callable[[SealedPeer], bytes]
    words: str
    versions: tuple[str, ...] = ("TLSv1.2", "TLSv1.3")


def seal13(peer: SealedPeer) -> Seal13:
    """The seal of a TLS 1.3 peer."""
    assert isinstance(peer.seal, Seal13)
    return peer.seal


def _swapped(peer: SealedPeer) -> bytes:
    first, second = peer.sealed(b"first"), peer.sealed(b"second")
    return second + first


def _after_a_lost_one(peer: SealedPeer) -> bytes:
    peer.sealed(b"lost")
    return peer.sealed(b"evil")


def _damaged(peer: SealedPeer) -> bytes:
    damaged = bytearray(peer.sealed(b"evil"))
    damaged[-20] ^= 1
    return bytes(damaged)


def _another_kind_outside(peer: SealedPeer) -> bytes:
    """The kind is authenticated too: what was sealed as data is no alert."""
    return bytes([ALERT]) + peer.sealed(b"\1\0")[1:]


ONLY13 = ("TLSv1.3",)
ATTACKS = {
    "one byte more than a record holds": Attack(
        lambda peer: peer.sealed(bytes(LARGEST + 1)), f"{LENGTH}|overflow"
    ),
    "a header that announces 2,049 bytes too much": Attack(
        lambda _: header(LARGEST + 2049), LENGTH
    ),
    "a header that announces 257 bytes too much": Attack(
        lambda _: header(LARGEST + 257), LENGTH, ONLY13
    ),
    "a header that announces 65,535 bytes": Attack(lambda _: header(0xFFFF), LENGTH),
    "a plaintext record of no bytes": Attack(lambda _: record(b""), f"{MAC}|internal error"),
    "unencrypted application data": Attack(lambda _: record(b"evil" * 9), MAC),
    "a little unencrypted application data": Attack(
        lambda _: record(b"evil"), f"{MAC}|internal error"
    ),
    "an unencrypted fatal alert": Attack(
        lambda _: record(alert(40), ALERT), f"{KIND}|internal error"
    ),
    "an unencrypted close_notify": Attack(
        lambda _: record(alert(0, 1), ALERT), f"{KIND}|internal error"
    ),
    "an unencrypted handshake message": Attack(
        lambda _: record(handshake_message(0), HANDSHAKE), f"{KIND}|internal error"
    ),
    "an unencrypted ChangeCipherSpec": Attack(
        lambda _: record(b"\1", CHANGE_CIPHER_SPEC), f"{KIND}|internal error"
    ),
    "a sealed ChangeCipherSpec": Attack(
        lambda peer: peer.sealed(b"\1", kind=CHANGE_CIPHER_SPEC), f"{KIND}|ccs"
    ),
    "a sealed record of kind 0": Attack(lambda peer: peer.sealed(b"evil", kind=0), KIND),
    "a sealed heartbeat": Attack(lambda peer: peer.sealed(b"\1\xff\xff", kind=24), KIND),
    "a sealed record of kind 99": Attack(lambda peer: peer.sealed(b"evil", kind=99), KIND),
    "a record of kind 99 in clear": Attack(lambda _: record(b"evil" * 9, 99), f"{KIND}|{MAC}"),
    "data sealed as such, called an alert": Attack(_another_kind_outside, f"{KIND}|{MAC}"),
    "the version of SSL 3": Attack(lambda _: record(b"evil" * 9, version=0x0300), "version"),
    "a version of the future": Attack(lambda _: record(b"evil" * 9, version=0x0305), "version"),
    "a version that is HT": Attack(lambda _: b"\x17HTTP/1.1 200 OK\r\n\r\n", "version"),
    "a record that comes twice": Attack(lambda peer: 2 * peer.sealed(b"once, "), MAC),
    "two records swapped": Attack(_swapped, MAC),
    "a record behind one that is lost": Attack(_after_a_lost_one, MAC),
    "a damaged record": Attack(_damaged, MAC),
    "nothing but padding": Attack(lambda peer: seal13(peer).inner(bytes(99)), KIND, ONLY13),
    "not even padding": Attack(lambda peer: seal13(peer).inner(b""), MAC, ONLY13),
    "33 empty records": Attack(lambda peer: peer.sealed(*[b""] * 33), "record too small"),
}
DELIVERED = {"a record that comes twice": b"once, "}  # besides what came before


def cases(names: Iterable[str]) -> pytest.MarkDecorator:
    """Each attack, in each version that it is for."""
    return pytest.mark.parametrize(
        ("version", "name"),
        [
            pytest.param(version, name, id=f"{version.name}-{name.replace(' ', '_')}")
            for name in names
            for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)
            if version.name.replace("_", ".") in ATTACKS[name].versions
        ],
    )


@cases(ATTACKS)
def test_R8_a_hostile_record_ends_the_stream_where_it_stands(
    sealed, version, name, receive
) -> None:
    sock, peer = sealed()
    attack = ATTACKS[name]
    good = pattern(70_001)
    peer.send_sealed(*(good[n : n + LARGEST] for n in range(0, len(good), LARGEST)))
    peer.send_raw(attack.make(peer) + peer.sealed(b"never to be delivered"))
    delivered = good + DELIVERED.get(name, b"")
    assert_broken(sock, receive, delivered, attack.words)
    assert "ALERT" in peer.last_words()


@cases(
    [
        "a damaged record",
        "two records swapped",
        "an unencrypted close_notify",
        "a header that announces 65,535 bytes",
        "33 empty records",
    ]
)
def test_R8_a_hostile_record_ends_a_write_in_progress_too(
    sealed, version, name, background
) -> None:
    """The write tells the same, and what it had sent was in order."""
    sock, peer = sealed()
    sent = pattern(30_000_000)
    reader, writer = sock.streams()
    write = background(writer.write, sent, timeout=WAIT).blocked()
    peer.send_raw(peer.sealed(b"good") + ATTACKS[name].make(peer))
    assert reader.read_exactly(4, timeout=WAIT) == b"good"
    for error in (write.error(), sock.closed.exception(WAIT)):
        assert type(error) is tcpsock.TlsError
        assert_says(error, ATTACKS[name].words)
    got, _ = peer.read_to_the_end()
    assert got == sent[: len(got)]


@pytest.mark.parametrize("cut", [3, 15, -1], ids=["in its header", "in its body", "a byte short"])
@pytest.mark.parametrize("end", ["FIN", "RST"])
def test_R8_R9_a_record_that_is_cut_off_is_never_delivered(sealed, receive, cut, end) -> None:
    sock, peer = sealed()
    peer.send_raw(peer.sealed(b"good") + peer.sealed(b"evil" * 9)[:cut])
    if end == "FIN":
        peer.cut()
        assert_broken(sock, receive, b"good", "close_notify", tcpsock.TlsTruncated)
    else:
        peer.reset()
        assert_broken(sock, receive, b"good", "reset", tcpsock.ConnectionLost)


def test_R8_allow_truncation_delivers_no_part_of_a_record_either(sealed, receive) -> None:
    sock, peer = sealed(tls={"allow_truncation": True})
    peer.send_raw(peer.sealed(b"good") + peer.sealed(b"evil" * 9)[:-1])
    peer.cut()
    assert receive(sock) == (b"good", None)
    assert sock.closed.result(WAIT) is None


def test_R8_allow_truncation_allows_no_damage(sealed, receive) -> None:
    sock, peer = sealed(tls={"allow_truncation": True})
    peer.send_raw(peer.sealed(b"good") + _damaged(peer))
    assert_broken(sock, receive, b"good", MAC)


# What is odd, and legal


def test_R2_R3_empty_records_between_full_ones(sealed, receive) -> None:
    """None is an EOF, and none costs a byte of order."""
    sock, peer = sealed()
    chunks: list[bytes] = []
    for n in range(20):
        chunks += [pattern(LARGEST, n), *[b""] * 32]
    peer.send_raw(peer.sealed(*chunks) + peer.sealed(alert(0, 1), kind=ALERT))
    assert receive(sock) == (b"".join(chunks), None)


def test_R2_empty_records_alone_are_nothing_to_read(sealed) -> None:
    sock, peer = sealed()
    reader = sock.readable.get_reader()
    peer.send_raw(peer.sealed(*[b""] * 32))
    for timeout in (0, 0.1):
        with pytest.raises(tcpsock.ReadTimeout):
            reader.read(timeout=timeout)
    peer.send_sealed(b"data")
    assert reader.read(timeout=WAIT) == b"data"
    assert sock.stats.bytes_received == 4


@pytest.mark.timeout(180)
def test_R1_R3_a_storm_of_tiny_and_empty_records_is_bounded(sealed, receive) -> None:
    """One byte a record, with empty ones between: exact, and in bounded memory."""
    size = 200_000 if LONG else 6_000
    sock, peer = sealed(high_water_mark=size + 1 if receive is read_ahead else 1009)
    data = pattern(size)
    chance = random.Random(8)

    def storm() -> None:
        for start in range(0, size, 500):
            chunks: list[bytes] = []
            for n in range(start, start + 500):
                chunks += [b""] * chance.randrange(3) + [data[n : n + 1]]
            peer.send_raw(peer.sealed(*chunks))
        peer.send_sealed(alert(0, 1), kind=ALERT)

    storming = Call(storm)
    assert receive(sock) == (data, None)
    storming.result()
    assert sock.stats.bytes_received == size


def test_R2_records_of_the_largest_size_and_with_all_padding(dial, receive) -> None:
    """The last byte that a record may hold is legal; padding is no data."""
    sock = dial()
    peer = dial.accept(SealedPeer)
    peer.start_tls(hostile_context(ssl.TLSVersion.TLSv1_3))
    seal = seal13(peer)
    full = pattern(LARGEST)
    peer.send_raw(
        seal(full)
        + seal(b"padded", padding=LARGEST - 6)
        + seal(b"", padding=LARGEST)
        + seal(b"!")
        + seal(alert(0, 1), ALERT)
    )
    assert receive(sock) == (full + b"padded!", None)


def test_R1_a_record_that_never_ends_costs_no_more_than_a_record(sealed) -> None:
    """The rest of one that never comes holds up a read until its timeout, and no longer."""
    sock, peer = sealed()
    reader = sock.readable.get_reader()
    peer.send_raw(peer.sealed(b"good") + header(LARGEST) + bytes(5000))
    assert reader.read(timeout=WAIT) == b"good"
    for _ in range(3):
        with pytest.raises(tcpsock.ReadTimeout):
            reader.read(timeout=0.05)
    assert sock.stats.bytes_received == 4
    sock.close()
    peer.close()
    assert sock.closed.result(WAIT) is None
