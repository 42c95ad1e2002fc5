"""Alerts: a fatal one is told in its words, a flood of warnings ends, close_notify is the end."""

from __future__ import annotations

import os
import ssl

import pytest
from peers import WAIT, Peer, pattern

import tcpsock
from tests.hostile.outcomes import assert_broken, assert_says, by_read, refusal
from tests.hostile.tls_peer import ALERT, WARNING, alert, record

LONG = bool(os.environ.get("TCPSOCK_LONG"))
CLOSE_NOTIFY, USER_CANCELED = 0, 90

# RFC 8446 section 6 and RFC 5246 section 7.2, in OpenSSL's words.
FATAL_ALERTS = {
    10: "unexpected message",
    20: "bad record mac",
    21: "decryption failed",
    22: "record overflow",
    30: "decompression failure",
    40: "handshake failure",
    41: "no certificate",
    42: "bad certificate",
    43: "unsupported certificate",
    44: "certificate revoked",
    45: "certificate expired",
    46: "certificate unknown",
    47: "illegal parameter",
    48: "unknown ca",
    49: "access denied",
    50: "decode error",
    51: "decrypt error",
    60: "export restriction",
    70: "protocol version",
    71: "insufficient security",
    80: "internal error",
    86: "inappropriate fallback",
    100: "no renegotiation",
    109: "missing extension",
    110: "unsupported extension",
    112: "unrecognized name",
    113: "bad certificate status response",
    115: "unknown psk identity",
    116: "certificate required",
    120: "no application protocol",
}
UNKNOWN_ALERT = {255: "unknown error"}


def id_of(number: int, words: str) -> object:
    """A test's parameters, with a name that can be typed."""
    return pytest.param(number, words, id=words.replace(" ", "_"))


EVERY = pytest.mark.parametrize(
    ("number", "words"), [id_of(*each) for each in (FATAL_ALERTS | UNKNOWN_ALERT).items()]
)


@EVERY
def test_O4_a_fatal_alert_in_the_handshake_is_told_in_its_own_words(dial, number, words) -> None:
    """It has kept nobody waiting, and is no certificate error of ours."""
    sock = dial()
    peer = dial.accept(Peer)
    peer.sock.recv(65_536)
    peer.send_raw(record(alert(number), ALERT))
    error = refusal(sock, words)
    assert error.address == dial.address
    if number in FATAL_ALERTS:
        assert f"the alert '{words}" in str(error)


@EVERY
def test_R8_a_fatal_alert_later_is_told_after_the_data(sealed, number, words) -> None:
    """What follows it is not read any more."""
    sock, peer = sealed()
    peer.send_raw(
        peer.sealed(b"good") + peer.sealed(alert(number), kind=ALERT) + peer.sealed(b"never")
    )
    assert_broken(sock, by_read, b"good", words)


def test_R8_a_fatal_alert_ends_a_write_in_progress(sealed, background) -> None:
    sock, peer = sealed()
    write = background(sock.writable.get_writer().write, pattern(30_000_000)).blocked()
    peer.send_sealed(alert(49), kind=ALERT)
    for error in (write.error(), sock.closed.exception(WAIT)):
        assert type(error) is tcpsock.TlsError
        assert_says(error, "access denied")


# close_notify


def test_R8_what_follows_close_notify_is_never_delivered(sealed, receive) -> None:
    """It is the end, whatever the peer thinks of it."""
    sock, peer = sealed()
    out = peer.sealed(b"all of it")
    out += peer.sealed(alert(CLOSE_NOTIFY, WARNING), kind=ALERT)
    out += peer.sealed(b"never", b"ever")
    peer.send_raw(out)
    assert receive(sock) == (b"all of it", None)
    assert sock.closed.result(WAIT) is None
    assert sock.stats.bytes_received == 9


def test_R8_E2_what_follows_close_notify_does_not_disturb_our_writing(sealed) -> None:
    """The other direction goes on; EOF stays EOF."""
    sock, peer = sealed(allow_half_open=True)
    reader, writer = sock.streams()
    out = peer.sealed(b"all of it")
    out += peer.sealed(alert(CLOSE_NOTIFY, WARNING), kind=ALERT)
    peer.send_raw(out + peer.sealed(b"never"))
    assert reader.read_all(timeout=WAIT) == b"all of it"
    peer.send_sealed(b"ever")
    for start in range(0, 300_000, 100_000):
        writer.write(pattern(100_000, start), timeout=WAIT)
    assert peer.read_exactly(300_000) == pattern(300_000)
    assert reader.read(timeout=0) == b""


def test_R8_close_notify_behind_half_a_record_is_no_end(sealed, receive) -> None:
    """A record's length decides where the next one begins, so nothing here is authentic."""
    sock, peer = sealed()
    out = peer.sealed(b"good") + peer.sealed(b"evil" * 10)[:-7]
    peer.send_raw(out + peer.sealed(alert(CLOSE_NOTIFY, WARNING), kind=ALERT))
    assert_broken(sock, receive, b"good", "bad record mac")


def test_O4_close_notify_in_the_handshake_is_a_hang_up(dial) -> None:
    """Not a clean EOF of a connection that never opened."""
    sock = dial()
    peer = dial.accept(Peer)
    peer.sock.recv(65_536)
    peer.send_raw(record(alert(CLOSE_NOTIFY, WARNING), ALERT))
    refusal(sock, "closed the connection during the TLS handshake")


# Warnings


def test_R8_user_canceled_then_close_notify_is_a_clean_end(sealed, receive) -> None:
    """RFC 8446 section 6.1: it should be followed by close_notify, which is what counts."""
    sock, peer = sealed()
    peer.send_raw(
        peer.sealed(b"good")
        + peer.sealed(alert(USER_CANCELED, WARNING), alert(CLOSE_NOTIFY, WARNING), kind=ALERT)
    )
    assert receive(sock) == (b"good", None)


def test_R8_user_canceled_alone_is_no_end(sealed, receive) -> None:
    """The stream goes on behind it, and a FIN is a truncation as ever."""
    sock, peer = sealed()
    peer.send_sealed(alert(USER_CANCELED, WARNING), kind=ALERT)
    peer.send_sealed(b"goes on")
    peer.cut()
    assert_broken(sock, receive, b"goes on", "close_notify", tcpsock.TlsTruncated)


def test_R8_the_level_of_an_alert_is_of_no_account_in_1_3(sealed, version, receive) -> None:
    """RFC 8446 section 6: any error is fatal there. In TLS 1.2 a warning is ignored."""
    sock, peer = sealed()
    peer.send_raw(peer.sealed(b"good") + peer.sealed(alert(40, WARNING), kind=ALERT))
    if version is ssl.TLSVersion.TLSv1_3:
        assert_broken(sock, receive, b"good", "handshake failure")
    else:
        peer.send_raw(peer.sealed(b", and more") + peer.sealed(alert(0, WARNING), kind=ALERT))
        assert receive(sock) == (b"good, and more", None)


@pytest.mark.parametrize("number", [USER_CANCELED, 41, 112])
def test_R8_a_flood_of_warnings_ends_the_connection(sealed, receive, number) -> None:
    """OpenSSL ignores four in a row, and gives up at the fifth."""
    sock, peer = sealed()
    out = peer.sealed(b"good")
    out += peer.sealed(*[alert(number, WARNING)] * (1_000 if LONG else 100), kind=ALERT)
    peer.send_raw(out + peer.sealed(b"never"))
    words = f"too many warn alerts|{FATAL_ALERTS.get(number, 'too many')}"
    assert_broken(sock, receive, b"good", words)


def test_R8_a_flood_of_warnings_in_the_handshake_ends_it(dial) -> None:
    sock = dial(connect_timeout=None)
    peer = dial.accept(Peer)
    peer.sock.recv(65_536)
    peer.send_raw(record(alert(112, WARNING), ALERT) * 200)
    refusal(sock, "too many warn alerts")


def test_R3_warnings_between_data_cost_no_byte(sealed, receive) -> None:
    """Any number of them, if data comes between."""
    sock, peer = sealed()
    size = 100_000 if LONG else 3_000
    for n in range(0, size, 1000):
        out = b""
        for start in range(n, n + 1000, 10):
            out += peer.sealed(pattern(10, start))
            out += peer.sealed(alert(USER_CANCELED, WARNING), kind=ALERT)
        peer.send_raw(out)
    peer.send_sealed(alert(CLOSE_NOTIFY, WARNING), kind=ALERT)
    assert receive(sock) == (pattern(size), None)


# Alerts that are none


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(b"", "invalid alert|bad length", id="empty"),
        pytest.param(b"\2", "invalid alert", id="half"),
        pytest.param(b"\1\0\0", "invalid alert", id="three_bytes"),
        pytest.param(alert(90, 1) + alert(0, 1), "invalid alert", id="two_in_a_record"),
        pytest.param(b"\3\x28", "unknown alert type|handshake failure", id="level_3"),
    ],
)
def test_R8_a_malformed_alert_is_an_error(sealed, receive, content, words) -> None:
    """Above all it is no EOF."""
    sock, peer = sealed()
    peer.send_raw(peer.sealed(b"good") + peer.sealed(content, kind=ALERT))
    assert_broken(sock, receive, b"good", words)
