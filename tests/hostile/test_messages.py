"""Text that a stranger chose never rewrites a terminal or a log (L2), and no secret gets into one.

Messages, reprs, warnings and thread names are meant here; attributes keep what was said as it was.
"""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest
from peers import HOST, WAIT, Listener, Peer, ca_data, until

import tcpsock
from tcpsock.testing import server_context
from tests.hostile.odd_certificates import root
from tests.hostile.outcomes import refusal

# A line feed to forge a line, an escape sequence to hide one, controls that turn text round.
EVIL = "\r\nERROR root logged in \x1b[2K\x85\x07\x7f\u202egnp.exe\u2028\u2066\0"
UNFIT = re.compile("[\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
UNFIT_CHARACTERS = [chr(n) for n in range(0x10000) if UNFIT.match(chr(n))]
LONGEST = 200  # characters of a stranger's text in a message (L2)


def assert_fit(text: str, said: int = LONGEST) -> None:
    """Nothing in it rewrites a terminal, and it is short; `said`: what may stand in it besides."""
    assert not UNFIT.search(text), ascii(text)
    # Each escape takes up to six characters for one.
    assert len(text) <= 6 * said + 200, ascii(text)


# Names


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda host: tcpsock.connect((host, 9)), id="connect"),
        pytest.param(lambda host: tcpsock.connect(f"{host}:9"), id="connect_text"),
        pytest.param(lambda host: tcpsock.SocketAddress(host, 9), id="SocketAddress"),
        pytest.param(lambda host: tcpsock.TlsOptions(server_hostname=host), id="server_hostname"),
    ],
)
def test_L2_A1_a_host_with_such_characters_is_none(make: Callable[[str], object]) -> None:
    """Not one of them is accepted anywhere in a name, so none can stand in any message."""
    for character in UNFIT_CHARACTERS:
        for host in (f"{character}host", f"ho{character}st.example", f"fe80::1%eth{character}0"):
            with pytest.raises(ValueError) as caught:
                made = make(host)
                getattr(made, "abort", lambda: None)()  # not to leave it behind
                pytest.fail(f"accepted: {host!a}")
            assert_fit(str(caught.value))


def test_L2_adopt_takes_no_such_host_either() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for character in UNFIT_CHARACTERS[::7]:
            with pytest.raises(tcpsock.InvalidAddress) as caught:
                tcpsock.adopt(ours, hostname=f"ho{character}st")
            assert_fit(str(caught.value))


def test_L2_names_of_threads_are_fit(listener: Listener) -> None:
    """A name may be of any script that IDNA knows."""
    with tcpsock.connect(f"localhost:{listener.port}") as sock:
        sock.opened.result(WAIT)
        listener.accept().close()
        for thread in threading.enumerate():
            assert_fit(thread.name)


# What a resolver says


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(socket.gaierror(socket.EAI_NONAME, EVIL * 20), id="gaierror"),
        pytest.param(OSError(5, EVIL * 20), id="OSError"),
        pytest.param(ValueError(EVIL * 20), id="anything"),
    ],
)
def test_L2_what_the_resolver_says_is_escaped_and_cut(monkeypatch, error) -> None:
    """It may be a user's own, and quote an answer of the network's."""

    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    sock = tcpsock.connect("db.example:5432")
    told = sock.opened.exception(WAIT)
    assert isinstance(told, tcpsock.ResolveError)
    assert_fit(str(told))
    assert "ERROR root logged in" in str(told)
    assert len(str(told)) < 600
    assert EVIL in str(told.__cause__)  # as it was


# What the caller says of the peer


@pytest.mark.parametrize(
    "reason",
    [
        pytest.param(f"bad greeting {EVIL * 20}", id="text"),
        pytest.param(ValueError(f"bad greeting {EVIL * 20}"), id="exception"),
        pytest.param(f"bad greeting {EVIL * 20}".encode(), id="bytes"),
    ],
)
def test_L2_the_reason_of_an_abort_is_escaped_and_cut(reason) -> None:
    """Programs quote the peer there. The attribute is the very object."""
    ours, theirs = socket.socketpair()
    with theirs:
        sock = tcpsock.adopt(ours)
        reader = sock.readable.get_reader()
        sock.abort(reason)
        with pytest.raises(tcpsock.SocketAborted) as caught:
            reader.read()
        for error in (caught.value, sock.closed.exception(WAIT)):
            assert isinstance(error, tcpsock.SocketAborted)
            assert_fit(str(error))
            assert len(str(error)) < 600
            assert "bad greeting" in str(error)
            assert error.reason is reason


# What the peer sends


def test_L2_what_the_peer_sent_is_in_no_message(plain: tuple[tcpsock.Socket, Peer]) -> None:
    """It is in `.partial`, and in the next read."""
    sock, peer = plain
    sent = EVIL.encode() * 10
    peer.send(sent)
    reader = sock.readable.get_reader()
    until(lambda: sock.stats.bytes_buffered == len(sent), "all has come")
    errors: list[tcpsock.SocketError] = []
    for call in (
        lambda: reader.read_until(b"\xff", limit=100),
        lambda: reader.read_all(limit=10, timeout=WAIT),
        lambda: reader.read_until(b"\xff", timeout=0),
        lambda: reader.read_exactly(len(sent) + 1, timeout=0),
    ):
        with pytest.raises(tcpsock.SocketError) as caught:
            call()
        errors.append(caught.value)
    peer.end()
    with pytest.raises(tcpsock.IncompleteRead) as incomplete:
        reader.read_exactly(len(sent) + 1, timeout=WAIT)
    assert incomplete.value.partial == sent
    for error in (*errors, incomplete.value):
        for text in (str(error), repr(error)):
            assert_fit(text)
            assert "root logged in" not in text


@pytest.fixture
def plain(listener: Listener) -> Any:
    """A connection without TLS."""
    sock = tcpsock.connect(listener.address)
    peer = listener.accept()
    sock.opened.result(WAIT)
    yield sock, peer
    sock.abort()
    peer.close()
    sock.closed.exception(WAIT)


def test_L2_a_separator_is_escaped_and_cut(plain: tuple[tcpsock.Socket, Peer]) -> None:
    """MIME boundaries and the like are the peer's choice."""
    sock, peer = plain
    peer.send(b"x" * 2000)
    reader = sock.readable.get_reader()
    until(lambda: sock.stats.bytes_buffered == 2000, "all has come")
    separator = EVIL.encode() * 20
    with pytest.raises(tcpsock.LimitExceeded) as exceeded:
        reader.read_until(separator, limit=1500)
    peer.end()
    with pytest.raises(tcpsock.IncompleteRead) as incomplete:
        reader.read_until(separator, timeout=WAIT)
    for error in (exceeded.value, incomplete.value):
        assert_fit(str(error))
        assert len(str(error)) < 600


def test_L2_a_banner_in_place_of_TLS_is_not_quoted(dial: Any) -> None:
    sock = dial()
    peer = dial.accept(Peer)
    peer.send_raw(EVIL.encode() * 10)
    error = refusal(sock, "does not speak TLS")
    assert_fit(repr(error))
    assert "root logged in" not in str(error)


def test_L2_plaintext_before_TLS_is_not_quoted(listener: Listener) -> None:
    sock = tcpsock.connect(
        listener.address, secure_transport="starttls", tls=tcpsock.TlsOptions(ca_data=ca_data())
    )
    peer = listener.accept()
    sock.opened.result(WAIT)
    peer.send(EVIL.encode())
    peer.until_acknowledged()
    upgraded = sock.start_tls()
    error = upgraded.opened.exception(WAIT)
    assert isinstance(error, tcpsock.PlaintextInjected)
    assert_fit(str(error))
    assert "root logged in" not in str(error)
    peer.close()


# Certificates


@pytest.mark.parametrize("trusted", [True, False], ids=["trusted", "stranger"])
def test_L2_names_in_a_certificate_are_in_no_message(dial: Any, trusted: bool) -> None:
    """Nor does a repr grow by them: see also test_certificates.py."""
    evil = EVIL.replace("\0", "")
    authority = root(common_name=evil[:60])
    leaf = authority.issue("other.example", common_name=f"leaf {evil}"[:60])
    sock = dial(tls={"ca_data": authority.pem if trusted else ca_data()})
    with pytest.raises(OSError):
        dial.accept(Peer).start_tls(server_context(leaf.shown(authority)))
    error = refusal(sock, "mismatch" if trusted else "self-signed", tcpsock.TlsVerificationError)
    for text in (str(error), repr(error), error.verify_message):
        assert_fit(text)
        assert "root logged in" not in text


# Secrets


def test_L2_no_secret_in_any_repr(dial: Any, tmp_path: Any) -> None:
    """Neither the data, nor a password, nor a key."""
    cert, key = root().issue("client@example.org").shown().write(tmp_path)
    options = tcpsock.TlsOptions(
        client_cert=cert, client_key=key, client_key_password="s3cret", ca_data=ca_data()
    )
    sock = dial(tls={"client_cert": cert, "client_key": key, "client_key_password": "s3cret"})
    peer = dial.accept(Peer)
    peer.start_tls(server_context())
    info = sock.opened.result(WAIT)
    reader, writer = sock.streams()
    peer.send(b"s3cret")
    until(lambda: sock.stats.bytes_buffered == 6, "it has come")
    writer.write(b"s3cret")
    error = tcpsock.IncompleteRead("cut off", partial=b"s3cret")
    everything = (
        options,
        tcpsock.SocketOptions(secure_transport="on", tls=options),
        sock,
        info,
        reader,
        writer,
        sock.readable,
        sock.writable,
        sock.stats,
        sock.opened,
        error,
    )
    for each in everything:
        assert "s3cret" not in repr(each)
        assert "PRIVATE KEY" not in repr(each)
        assert HOST in repr(sock)
