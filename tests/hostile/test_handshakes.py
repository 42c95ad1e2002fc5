"""Handshakes that never come to an end, or to a bad one: what `opened` then tells, and how soon."""

from __future__ import annotations

import contextlib
import os
import random
import ssl
from collections.abc import Iterable
from typing import Any

import pytest
from peers import HOST, WAIT, Peer, only, pattern

import tcpsock
from tcpsock.testing import ChaosProxy, Dribble, authority, server_context
from tests.hostile.outcomes import refusal
from tests.hostile.tls13_server import (
    CERTIFICATE,
    CERTIFICATE_VERIFY,
    ENCRYPTED_EXTENSIONS,
    FINISHED,
    alpn,
    handshake,
)
from tests.hostile.tls_peer import (
    ALERT,
    CHANGE_CIPHER_SPEC,
    HANDSHAKE,
    WARNING,
    alert,
    handshake_message,
    header,
    record,
)

LONG = bool(os.environ.get("TCPSOCK_LONG"))
V12, V13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3


def named(cases: Iterable[str]) -> list[str]:
    """Names of tests that can be typed."""
    return [case.replace(" ", "_") for case in cases]


def asked(peer: Peer) -> bytes:
    """The ClientHello."""
    return peer.sock.recv(65_536)


# Who does not speak TLS

BANNERS = {
    "HTTP": b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n",
    "HTML": b"<html>400</html>",
    "SSH": b"SSH-2.0-OpenSSH_9.2p1\r\n",
    "SMTP": b"220 mail.example ESMTP\r\n",
    "IMAP": b"* OK IMAP4rev1 ready\r\n",
    "POP3": b"+OK ready\r\n",
    "FTP": b"220-Welcome\r\n220 ready\r\n",
    "MySQL": b"J\0\0\0\n8.0.36\0" + bytes(60),
    "VNC": b"RFB 003.008\n",
    "Redis": b"-ERR Protocol error\r\n",
    "zeros": bytes(100),
    "ones": b"\xff" * 100,
    "SSL 2": b"\x80\x2e\4\0\1\0\2" + bytes(40),
}


@pytest.mark.parametrize("name", BANNERS, ids=named(BANNERS))
@pytest.mark.parametrize("then", ["waits", "hangs up"], ids=["waits", "hangs_up"])
def test_O4_a_peer_that_does_not_speak_TLS(dial, name, then) -> None:
    """Told by its first bytes, with what to try instead; who waits on holds up nobody."""
    sock = dial(connect_timeout=None)
    peer = dial.accept(Peer)
    if then == "hangs up":
        asked(peer)
    peer.send_raw(BANNERS[name])
    if then == "hangs up":
        with contextlib.suppress(OSError):  # we may have been faster
            peer.cut()
    error = refusal(sock, "does not speak TLS")
    assert 'try secure_transport="starttls"' in str(error)
    assert error.address == dial.address


@pytest.mark.parametrize("answer", [b"", b"N", b"E\0\0\0", b"\x16\3"], ids=["0", "1", "4", "2"])
@pytest.mark.parametrize("end", ["FIN", "RST"])
def test_O4_a_peer_that_says_next_to_nothing_and_hangs_up(dial, answer, end) -> None:
    sock = dial()
    peer = dial.accept(Peer)
    asked(peer)
    peer.send_raw(answer)
    if end == "FIN":
        peer.cut()
        refusal(sock, "closed the connection during the TLS handshake.*may not speak TLS")
    else:
        peer.reset()
        refusal(sock, "reset", tcpsock.ConnectionLost)


# First answers that are none

ANSWERS = {
    "application data": (record(b"hello" * 9), "unexpected message"),
    "a storm of ChangeCipherSpec": (record(b"\1", CHANGE_CIPHER_SPEC) * 99, "unexpected message"),
    "a storm of empty records": (record(b"", HANDSHAKE) * 99, "record too small"),
    "a ServerHello of 16 MB": (
        record(b"\2\xff\xff\xff" + bytes(16_000), HANDSHAKE),
        "excessive message size",
    ),
    "a ServerHello of garbage": (
        record(handshake_message(2, b"\xff" * 80), HANDSHAKE),
        "length mismatch|bad extension|decode error",
    ),
    "a ServerHello of TLS 1.9": (
        record(handshake_message(2, b"\3\x0a" + bytes(36)), HANDSHAKE),
        "unsupported protocol|version|length",
    ),
    "a Finished": (record(handshake_message(20, bytes(48)), HANDSHAKE), "unexpected message"),
    "a record over the limit": (header(0xFFFF, HANDSHAKE), "does not speak TLS|too long"),
}


@pytest.mark.parametrize("name", ANSWERS, ids=named(ANSWERS))
def test_O4_an_answer_that_is_none(dial, name) -> None:
    """It is seen at once, with the connection still open."""
    sock = dial(connect_timeout=None)
    peer = dial.accept(Peer)
    asked(peer)
    answer, words = ANSWERS[name]
    peer.send_raw(answer)
    refusal(sock, words)


def test_O5_a_peer_that_asks_for_another_hello_again_and_again(dial) -> None:
    """HelloRequest in the handshake is ignored (RFC 5246), and costs no more than the deadline."""
    sock, peer = dial.adopt(Peer, connect_timeout=0.5)
    asked(peer)
    peer.send_raw(record(handshake_message(0), HANDSHAKE) * (50_000 if LONG else 1_000))
    refusal(sock, "handshake was not done in 0.5 s", tcpsock.ConnectTimeout)


# Versions


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_O7_an_outdated_server(dial, newest) -> None:
    sock = dial()
    with pytest.raises((ssl.SSLError, ConnectionError)):
        dial.accept(Peer).start_tls(server_context(maximum=newest))
    refusal(sock, "protocol version")


def test_O7_a_server_older_than_we_want(dial) -> None:
    sock = dial(tls={"minimum_version": V13})
    with pytest.raises((ssl.SSLError, ConnectionError)):
        dial.accept(Peer).start_tls(only(V12))
    refusal(sock, "protocol version")


def test_O7_who_hides_that_we_speak_TLS_1_3_gets_nothing(dial) -> None:
    """A downgrade: the server's random bytes say that it would have liked to (RFC 8446 4.1.3)."""
    sock = dial()
    peer = dial.accept(Peer)
    hello = bytearray(asked(peer))
    versions = hello.index(b"\0\x2b\0\5\4\3\4\3\3")
    hello[versions : versions + 2] = b"\x0a\x0a"  # an extension of no meaning (RFC 8701)
    with pytest.raises(ssl.SSLError, match="ILLEGAL_PARAMETER"):
        peer.start_tls(server_context(), bytes(hello))
    refusal(sock, "inappropriate fallback")


def test_O7_no_cipher_in_common(dial) -> None:
    """RSA key exchange and CBC: nothing that Python's ciphers have."""
    context = server_context(minimum=V12, maximum=V12)
    context.set_ciphers("AES128-SHA")
    sock = dial()
    with pytest.raises(ssl.SSLError, match="NO_SHARED_CIPHER"):
        dial.accept(Peer).start_tls(context)
    refusal(sock, "handshake failure")


def test_O6_a_server_that_wants_another_key_share_gets_it(dial, receive) -> None:
    """HelloRetryRequest: a round more, and all is well."""
    context = server_context()
    context.set_ecdh_curve("secp384r1")
    sock = dial()
    peer = dial.accept(Peer)
    peer.start_tls(context)
    assert sock.opened.result(WAIT).tls_version == "TLSv1.3"
    peer.send(b"after all")
    peer.end()
    assert receive(sock) == (b"after all", None)


# A server that lies, in TLS 1.3


class Lie:
    """What handshake() is told."""

    def __init__(self, words: str, **lie: object) -> None:
        self.words = words
        self.lie = lie


LIES = {
    "ALPN that was not offered": Lie("extension", extensions=alpn(b"h2")),
    "another ALPN than offered": Lie("extension", extensions=alpn(b"h3")),
    "ALPN of control characters": Lie("extension", extensions=alpn(b"\x1b[31m\r\n")),
    "ALPN of no ASCII": Lie("extension", extensions=alpn(b"\xff\xfe")),
    "ALPN of nothing": Lie("extension", extensions=alpn(b"")),
    "a certificate whose key it has not": Lie("bad signature", proof=authority().issue()),
    "no certificates": Lie("length mismatch|no certificate", chain=[]),
    "a certificate of garbage": Lie("asn1", chain=[b"garbage"]),
    "no certificate message": Lie(
        "unexpected message", leave_out=(CERTIFICATE, CERTIFICATE_VERIFY)
    ),
    "no proof of its key": Lie("unexpected message", leave_out=(CERTIFICATE_VERIFY,)),
    "no extensions": Lie("unexpected message", leave_out=(ENCRYPTED_EXTENSIONS,)),
    "no Finished": Lie("bad record mac", leave_out=(FINISHED,)),
    "a wrong Finished": Lie("digest check failed", finished=bytes(48)),
    "data before its certificate": Lie("unexpected record", early=b"evil" * 25),
}


@pytest.mark.parametrize("name", LIES, ids=named(LIES))
def test_O6_a_lie_in_the_handshake(dial, name) -> None:
    """`opened` fails, so nothing is delivered that came behind it, and nothing of ours goes out."""
    offered = [] if "not offered" in name else ["h2", "http/1.1"]
    sock = dial(tls={"alpn": offered})
    peer = dial.accept(Peer)
    try:
        seal = handshake(peer.sock, authority().issue(), **LIES[name].lie)  # type: ignore[arg-type]
        peer.send_raw(seal(b"never delivered"))
    except ConnectionError:
        pass  # it does not hear us out
    refusal(sock, LIES[name].words)
    assert sock.stats.bytes_received == 0


def test_O6_the_same_server_when_it_does_not_lie(dial, receive) -> None:
    """What the lies are compared with. Its data comes before it has heard of our Finished."""
    sock = dial(tls={"alpn": ["h2", "http/1.1"]})
    peer = dial.accept(Peer)
    seal = handshake(peer.sock, authority().issue(), extensions=alpn(b"http/1.1"))
    peer.send_raw(seal(pattern(10_000)) + seal(alert(0, WARNING), ALERT))
    assert receive(sock) == (pattern(10_000), None)
    assert sock.opened.result().alpn == "http/1.1"


# Damage and delay on the way


class Halt(Exception):
    """The server says no more."""


class Tampered(Peer):
    """A server whose first flight is damaged on its way, or the last of it."""

    flight = b""  # as it was made
    flip: tuple[int, int] | None = None  # at which byte, which bits
    cut_at: int | None = None

    def _flush(self) -> None:
        data = self._outgoing.read()
        if data and not self.flight:
            self.flight = data
            if self.flip:
                at, bits = self.flip
                data = data[:at] + bytes([data[at] ^ bits]) + data[at + 1 :]
            if self.cut_at:
                self.sock.sendall(data[: self.cut_at])
                raise Halt
        self.sock.sendall(data)


def _flight(context: ssl.SSLContext, dial: Any) -> bytes:
    """What it looks like undamaged."""
    dial()
    peer: Tampered = dial.accept(Tampered)
    peer.start_tls(context)
    return peer.flight


@pytest.mark.timeout(180)
def test_O6_any_flipped_bit_in_the_servers_flight(dial, version) -> None:
    """Whatever it makes of the messages: the handshake does not succeed."""
    context = only(version)
    size = len(_flight(context, dial)) - 100  # signatures vary in length
    chance = random.Random(10)
    # The second byte of the first record's version is the one that nobody looks at.
    offsets = [n for n in range(size) if n != 2]
    for at in offsets[:: 3 if LONG else size // 25]:
        sock, peer = dial.adopt(Tampered, connect_timeout=0.3)
        peer.flip = at, 1 << chance.randrange(8)
        try:
            peer.start_tls(context)
        except (ssl.SSLError, OSError):
            pass  # refused, or gone
        error = sock.opened.exception(WAIT)
        peer.close()
        where = f"{peer.flip}: {error!r}"
        kinds = (tcpsock.TlsError, tcpsock.ConnectTimeout, tcpsock.ConnectionLost)
        assert isinstance(error, kinds), where
        assert error.phase == "tls", where


@pytest.mark.parametrize("end", ["FIN", "silence"])
def test_O4_O5_a_handshake_that_stops_anywhere(dial, version, end) -> None:
    context = only(version)
    whole = len(_flight(context, dial)) - 20  # signatures vary in length
    steps = 10 if LONG else 3
    for cut in range(1, whole, whole // (steps if end == "silence" else 5 * steps)):
        sock, peer = dial.adopt(Tampered, connect_timeout=WAIT if end == "FIN" else 0.3)
        peer.cut_at = cut
        try:
            peer.start_tls(context)
        except (Halt, OSError):
            pass  # OSError: on a busy machine our time was over before we had begun
        if end == "FIN":
            peer.cut()
            refusal(sock, "closed the connection during the TLS handshake")
        else:
            refusal(sock, "handshake was not done in 0.3 s", tcpsock.ConnectTimeout)


def test_O5_a_handshake_byte_by_byte_and_everything_after_it(dial, version, receive) -> None:
    with ChaosProxy(dial.address, to_client=[Dribble(1)], to_server=[Dribble(1)]) as proxy:
        sock = dial(proxy.address)
        peer = dial.accept(Peer)
        peer.start_tls(only(version))
        assert sock.opened.result(WAIT).remote_address == proxy.address
        peer.send(pattern(3_000))
        peer.end()
        assert receive(sock) == (pattern(3_000), None)


def test_O7_a_name_is_no_address(dial) -> None:
    """What is verified is the name that was asked for, wherever the resolver leads."""
    sock = dial(f"localhost:{dial.listener.port}")
    context = server_context(authority().issue(HOST))
    with pytest.raises((ssl.SSLError, ConnectionError)):
        dial.accept(Peer).start_tls(context)
    refusal(sock, "Hostname mismatch.*'localhost'", tcpsock.TlsVerificationError)
