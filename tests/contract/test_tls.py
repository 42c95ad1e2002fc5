"""TLS: what is verified and negotiated (O6, O7), and how it goes wrong (O3, O4, R8)."""

from __future__ import annotations

import base64
import hashlib
import re
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from peers import HOST, WAIT, Listener, Peer, only, pattern

import tcpsock
from tcpsock.testing import Authority, ChaosProxy, Dribble, authority, serve, server_context

V12, V13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
VERSIONS = pytest.mark.parametrize("version", [V12, V13], ids=["tls12", "tls13"])


class Dial:
    """Sockets with TLS to one listener; the test is the server, or lets `serve` be it."""

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.address = listener.address
        self._ends: list[Callable[[], object]] = []

    def __call__(
        self, address: str | None = None, *, options: dict[str, Any] | None = None, **tls: Any
    ) -> tcpsock.Socket:
        """Connect; nothing is awaited. `tls`: fields of TlsOptions, our authority the default."""
        if not tls.keys() & {"ca_data", "ca_file", "ssl_context", "trust"}:
            tls["ca_data"] = authority().ca_data
        sock = tcpsock.connect(
            address or self.address,
            secure_transport="on",
            tls=tcpsock.TlsOptions(**tls),
            **(options or {}),
        )
        self._ends.append(lambda: (sock.abort(), sock.closed.exception(WAIT)))
        return sock

    def accept(self, context: ssl.SSLContext | None = None) -> Peer:
        """The connection's other end, its handshake done if there is a context."""
        peer = self.listener.accept()
        self._ends.append(peer.close)
        if context is not None:
            peer.start_tls(context)
        return peer

    def both(
        self, context: ssl.SSLContext, **tls: Any
    ) -> tuple[tcpsock.Socket, Peer, tcpsock.SocketInfo]:
        """A connection that opens."""
        sock = self(**tls)
        peer = self.accept(context)
        return sock, peer, sock.opened.result(WAIT)

    def end(self) -> None:
        for end in self._ends:
            end()


@pytest.fixture
def dial(background: object, listener: Listener) -> Iterator[Dial]:
    dial = Dial(listener)
    yield dial
    dial.end()


def failure(sock: tcpsock.Socket) -> BaseException:
    """What `opened` failed with, after a look at everything else that must tell the same (O3)."""
    error = sock.opened.exception(WAIT)
    assert error is not None
    assert sock.closed.exception(WAIT) is error
    reader, writer = sock.streams()
    for call in (reader.read, lambda: writer.write(b"never in clear")):
        with pytest.raises(type(error)) as caught:
            call()
        assert caught.value is not error
        assert caught.value.__cause__ is error
    assert sock.close() is sock.closed
    return error


# Trust


def _der(pem: str) -> bytes:
    return base64.b64decode("".join(pem.strip().splitlines()[1:-1]))


@VERSIONS
@pytest.mark.parametrize("form", ["text", "PEM bytes", "DER bytes", "file", "path"])
def test_O7_custom_roots(dial, tmp_path, version, form) -> None:
    pem = authority().ca_data
    path: Path = tmp_path / "ca.pem"
    path.write_text(pem)
    roots: dict[str, Any] = {
        "text": {"ca_data": pem},
        "PEM bytes": {"ca_data": pem.encode()},
        "DER bytes": {"ca_data": _der(pem)},
        "file": {"ca_file": str(path)},
        "path": {"ca_file": path},
    }[form]
    sock, peer, info = dial.both(only(version), **roots)
    sock.writable.get_writer().write(b"trusted")
    assert peer.read_exactly(7) == b"trusted"
    assert info.tls_version == ("TLSv1.2" if version is V12 else "TLSv1.3")


def test_O7_custom_roots_replace_the_others(dial, tmp_path) -> None:
    """Trust exactly these: another authority's file does not vouch for ours."""
    path = tmp_path / "other.pem"
    path.write_text(Authority().ca_data)
    for roots in ({"ca_file": path}, {"ca_data": path.read_text()}, {"trust": "certifi"}):
        sock = dial(**roots)
        with pytest.raises(ssl.SSLError):
            dial.accept(server_context())
        assert isinstance(failure(sock), tcpsock.TlsVerificationError)


def test_O7_a_chain_through_an_intermediate(dial) -> None:
    intermediate = Authority(authority())
    _, _, info = dial.both(server_context(intermediate.issue()))
    assert info.peer_certificate is not None
    assert info.certificate_chain[0] == info.peer_certificate


@VERSIONS
@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("expired", "expired"),
        ("not yet valid", "not yet valid"),
        ("wrong host", HOST),
        ("unknown CA", "issuer|self-signed|self signed"),
    ],
)
def test_O6_a_certificate_that_does_not_verify_is_TlsVerificationError(
    dial, version, case, words
) -> None:
    certificate = {
        "expired": lambda: authority().issue(validity="expired"),
        "not yet valid": lambda: authority().issue(validity="future"),
        "wrong host": lambda: authority().issue("wrong.example"),
        "unknown CA": lambda: Authority().issue(),
    }[case]()
    sock = dial()
    peer = dial.accept()
    with pytest.raises(ssl.SSLError, match=r"(?i)alert"):
        peer.start_tls(server_context(certificate, minimum=version, maximum=version))
    error = failure(sock)
    assert isinstance(error, tcpsock.TlsVerificationError)
    assert isinstance(error, ssl.SSLCertVerificationError)
    assert isinstance(error, ConnectionError)
    assert error.verify_message
    assert (error.phase, error.code) == ("tls", "tls-verification-error")
    assert error.address == dial.address
    assert dial.address in str(error)
    assert re.search(words, str(error)), str(error)
    assert isinstance(error.__cause__, ssl.SSLError)


@VERSIONS
def test_O6_nothing_of_ours_goes_out_when_verification_fails(dial, version, background) -> None:
    sock = dial()
    write = background(sock.writable.get_writer().write, b"password", timeout=WAIT)
    peer = dial.accept()
    with pytest.raises(ssl.SSLError):
        peer.start_tls(
            server_context(authority().issue("wrong.example"), minimum=version, maximum=version)
        )
    assert isinstance(write.error(), tcpsock.TlsVerificationError)
    rest = bytearray()
    try:
        while data := peer.sock.recv(1000):
            rest += data
    except ConnectionError:
        pass
    assert b"password" not in rest


# Names


def _named_context(*names: str) -> tuple[ssl.SSLContext, list[str | None]]:
    """A context for these names, and the list of the SNI names that clients asked for."""
    context = server_context(authority().issue(*names))
    asked: list[str | None] = []
    context.sni_callback = lambda _sock, name, _context: asked.append(name)
    return context, asked


def test_O7_SNI_other_than_the_dialled_name_is_sent_and_verified(dial) -> None:
    context, asked = _named_context("db.example")
    _, _, info = dial.both(context, server_hostname="db.example")
    assert asked == ["db.example"]
    assert info.hostname == HOST
    sock = dial(server_hostname="other.example")
    with pytest.raises(ssl.SSLError):
        dial.accept(context)
    error = failure(sock)
    assert isinstance(error, tcpsock.TlsVerificationError)
    assert "other.example" in str(error)


def test_A2_an_IP_literal_sends_no_SNI_and_is_verified_against_IP_SANs(dial) -> None:
    context, asked = _named_context(HOST)
    dial.both(context)
    assert asked in ([], [None])
    context, _ = _named_context("localhost")
    sock = dial()
    with pytest.raises(ssl.SSLError):
        dial.accept(context)
    assert isinstance(failure(sock), tcpsock.TlsVerificationError)


def test_A2_the_dialled_name_is_the_SNI_name_without_its_dot(dial) -> None:
    context, asked = _named_context("localhost")
    sock = dial(f"localhost:{dial.listener.port}")
    dial.accept(context)
    sock.opened.result(WAIT)
    sock = dial(server_hostname="localhost.")
    dial.accept(context)
    sock.opened.result(WAIT)
    assert asked == ["localhost", "localhost"]


# Versions, ALPN, what was negotiated


@VERSIONS
def test_O6_opened_tells_what_was_negotiated(dial, version) -> None:
    certificate = authority().issue()
    context = server_context(certificate, minimum=version, maximum=version)
    _, peer, info = dial.both(context)
    assert peer.tls is not None
    cipher = peer.tls.cipher()
    assert cipher is not None
    assert (info.tls_version, info.cipher) == (peer.tls.version(), cipher[0])
    assert info.cipher_bits == cipher[2]
    der = info.peer_certificate
    assert der is not None
    assert ssl.DER_cert_to_PEM_cert(der).strip() in certificate.chain.replace("\r", "")
    assert info.certificate_chain[0] == der
    assert info.certificate is not None
    assert ("DNS", "localhost") in info.certificate["subjectAltName"]
    assert info.timings.tls is not None
    assert info.timings.tls >= 0
    assert info.channel_binding() == hashlib.sha256(der).digest()
    if version is V12:
        assert info.channel_binding("tls-unique") == peer.tls.get_channel_binding("tls-unique")
    else:
        with pytest.raises(ValueError, match="tls-unique"):
            info.channel_binding("tls-unique")
    with pytest.raises(ValueError, match="nonsense"):
        info.channel_binding("nonsense")


@pytest.mark.parametrize(
    ("ours", "theirs", "agreed"),
    [
        (["h2", "http/1.1"], ["http/1.1"], "http/1.1"),
        (("h2",), ["h2"], "h2"),
        (["h2"], [], None),
        ([], ["h2"], None),
        (["postgresql"], ["h2"], None),
    ],
)
@VERSIONS
def test_O7_ALPN(dial, version, ours, theirs, agreed) -> None:
    _, peer, info = dial.both(
        server_context(alpn=theirs, minimum=version, maximum=version), alpn=ours
    )
    assert peer.tls is not None
    assert info.alpn == peer.tls.selected_alpn_protocol() == agreed


def test_O7_a_server_below_the_minimum_version_is_refused(dial) -> None:
    sock = dial(minimum_version=V13)
    with pytest.raises(ssl.SSLError):
        dial.accept(only(V12))
    error = failure(sock)
    assert isinstance(error, tcpsock.TlsError)
    assert not isinstance(error, tcpsock.TlsVerificationError)
    assert (error.phase, error.code) == ("tls", "tls-error")
    _, _, info = dial.both(server_context(), minimum_version=V13)
    assert info.tls_version == "TLSv1.3"


def test_O7_TLS_1_1_is_refused_whatever_the_server_likes(dial) -> None:
    sock = dial()
    peer = dial.accept()
    with pytest.raises(ssl.SSLError):
        peer.start_tls(server_context(maximum=ssl.TLSVersion.TLSv1_1))
    assert isinstance(failure(sock), tcpsock.TlsError)


# Client certificates


@VERSIONS
@pytest.mark.parametrize("form", ["two files", "one file"])
def test_O7_a_client_certificate_is_shown(dial, tmp_path, version, form) -> None:
    cert, key = authority().issue("client@example.org").write(tmp_path)
    cert, key = Path(cert), Path(key)
    files: dict[str, Any] = {"client_cert": cert, "client_key": str(key)}
    if form == "one file":
        cert.write_text(cert.read_text() + key.read_text())
        files = {"client_cert": str(cert)}
    demanding = server_context(client_ca=authority().ca_data, minimum=version, maximum=version)
    sock, peer, _ = dial.both(demanding, **files)
    assert peer.tls is not None
    shown = peer.tls.getpeercert()
    assert shown is not None
    assert ("email", "client@example.org") in shown["subjectAltName"]
    peer.send(b"welcome")
    assert sock.readable.get_reader().read_exactly(7, timeout=WAIT) == b"welcome"


@pytest.mark.parametrize("password", ["geheim", b"geheim"])
def test_O7_an_encrypted_client_key_and_its_password(dial, tmp_path, password) -> None:
    from cryptography.hazmat.primitives import serialization as s

    cert, key = authority().issue("client@example.org").write(tmp_path)
    private = s.load_pem_private_key(Path(key).read_bytes(), None)
    Path(key).write_bytes(
        private.private_bytes(
            s.Encoding.PEM, s.PrivateFormat.PKCS8, s.BestAvailableEncryption(b"geheim")
        )
    )
    _, peer, _ = dial.both(
        server_context(client_ca=authority().ca_data),
        client_cert=cert,
        client_key=key,
        client_key_password=password,
    )
    assert peer.tls is not None
    assert peer.tls.getpeercert()


@pytest.mark.parametrize("end", ["closed", "open"])
def test_T12_TLS13_without_a_client_certificate_opens_and_fails_at_the_first_read(
    dial, end
) -> None:
    """The refusal comes after our part of the handshake: `closed` and the read tell the alert."""
    sock = dial()
    peer = dial.accept()
    with pytest.raises(ssl.SSLError, match="PEER_DID_NOT_RETURN_A_CERTIFICATE"):
        peer.start_tls(server_context(client_ca=authority().ca_data, minimum=V13, maximum=V13))
    if end == "closed":
        peer.close()
    assert sock.opened.result(WAIT).tls_version == "TLSv1.3"
    reader = sock.readable.get_reader()
    for _ in range(2):
        with pytest.raises(tcpsock.TlsError, match=r"(?i)certificate.required") as caught:
            reader.read(timeout=WAIT)
        assert not isinstance(caught.value, tcpsock.TlsTruncated)
    assert isinstance(sock.closed.exception(WAIT), tcpsock.TlsError)


def test_T12_TLS12_without_a_client_certificate_does_not_open(dial) -> None:
    sock = dial()
    peer = dial.accept()
    with pytest.raises(ssl.SSLError):
        peer.start_tls(server_context(client_ca=authority().ca_data, minimum=V12, maximum=V12))
    error = failure(sock)
    assert isinstance(error, tcpsock.TlsError)
    assert error.phase == "tls"


def test_T12_a_client_certificate_of_a_stranger_is_refused(dial, tmp_path) -> None:
    cert, key = Authority().issue("client@example.org").write(tmp_path)
    sock = dial(client_cert=cert, client_key=key)
    with pytest.raises(ssl.SSLError):
        dial.accept(server_context(client_ca=authority().ca_data, minimum=V13, maximum=V13))
    sock.opened.result(WAIT)
    with pytest.raises(tcpsock.TlsError, match=r"(?i)unknown.ca"):
        sock.readable.get_reader().read(timeout=WAIT)


# Sessions


@VERSIONS
def test_O7_a_session_is_resumed(dial, version) -> None:
    context = server_context(minimum=version, maximum=version)
    sock, peer, _ = dial.both(context)
    if version is V13:
        assert sock.tls_session is None  # no ticket was read yet
    peer.send(b"x")  # behind the tickets
    assert sock.readable.get_reader().read(timeout=WAIT) == b"x"
    session = sock.tls_session
    assert isinstance(session, ssl.SSLSession)
    again, peer, info = dial.both(context, session=session)
    assert peer.tls is not None
    assert peer.tls.session_reused
    assert info.peer_certificate is not None
    again.writable.get_writer().write(b"resumed")
    assert peer.read_exactly(7) == b"resumed"


@VERSIONS
def test_O7_a_session_from_another_context_is_ignored(dial, version) -> None:
    context = server_context(minimum=version, maximum=version)
    sock, peer, _ = dial.both(context, alpn=["one"])
    peer.send(b"x")
    assert sock.readable.get_reader().read(timeout=WAIT) == b"x"
    _, peer, _ = dial.both(context, alpn=["two"], session=sock.tls_session)
    assert peer.tls is not None
    assert not peer.tls.session_reused


def test_O7_a_session_that_the_server_forgot_gives_a_full_handshake(dial) -> None:
    sock, peer, _ = dial.both(server_context())
    peer.send(b"x")
    assert sock.readable.get_reader().read(timeout=WAIT) == b"x"
    session = sock.tls_session
    assert session is not None
    _, peer, info = dial.both(server_context(), session=session)
    assert peer.tls is not None
    assert not peer.tls.session_reused
    assert info.tls_version == "TLSv1.3"


def test_tls_session_is_None_without_TLS(plain_pair) -> None:
    sock, _ = plain_pair()
    assert sock.tls_session is None


# One's own context


def test_O7_an_own_context_is_used_as_it_is(dial) -> None:
    """The way for who wants no verification: everything is what the context says."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = V12
    context.set_alpn_protocols(["own"])
    server = server_context(authority().issue("wrong.example", validity="expired"), alpn=["own"])
    sock, peer, info = dial.both(server, ssl_context=context)
    assert (info.tls_version, info.alpn) == ("TLSv1.2", "own")
    sock.writable.get_writer().write(b"unverified")
    assert peer.read_exactly(10) == b"unverified"
    assert (context.check_hostname, context.verify_mode) == (False, ssl.CERT_NONE)


def test_O7_an_own_context_that_verifies_verifies(dial) -> None:
    context = ssl.create_default_context(cadata=authority().ca_data)
    dial.both(server_context(), ssl_context=context)
    sock = dial(ssl_context=context)
    with pytest.raises(ssl.SSLError):
        dial.accept(server_context(authority().issue("wrong.example")))
    assert isinstance(failure(sock), tcpsock.TlsVerificationError)
    context, asked = _named_context("db.example")
    dial.both(
        context,
        ssl_context=ssl.create_default_context(cadata=authority().ca_data),
        server_hostname="db.example",
    )
    assert asked == ["db.example"]


def test_O7_an_own_context_may_ignore_unexpected_EOF_and_truncation_is_ours_to_tell(dial) -> None:
    """allow_truncation goes with an own context too."""
    for allow in (False, True):
        context = ssl.create_default_context(cadata=authority().ca_data)
        sock, peer, _ = dial.both(server_context(), ssl_context=context, allow_truncation=allow)
        peer.send(b"data")
        peer.cut()
        reader = sock.readable.get_reader()
        if allow:
            assert reader.read_all(timeout=WAIT) == b"data"
        else:
            with pytest.raises(tcpsock.TlsTruncated):
                reader.read_all(timeout=WAIT)


# Handshakes that fail


def test_O4_a_plain_text_server_is_a_TlsError(dial) -> None:
    sock = dial()
    peer = dial.accept()
    peer.send(b"220 mail.example ESMTP\r\n")
    error = failure(sock)
    assert isinstance(error, tcpsock.TlsError)
    assert isinstance(error, ssl.SSLError)
    assert (error.phase, error.code, error.address) == ("tls", "tls-error", dial.address)


def test_O4_a_handshake_that_is_refused_keeps_the_alerts_text(dial) -> None:
    sock = dial()
    peer = dial.accept()
    peer.send(bytes([21, 3, 3, 0, 2, 2, 40]))  # fatal alert: handshake_failure
    error = failure(sock)
    assert isinstance(error, tcpsock.TlsError)
    assert "handshake failure" in str(error).lower().replace("_", " ")
    assert isinstance(error.__cause__, ssl.SSLError)


def _server_flight(peer: Peer, version: ssl.TLSVersion) -> bytes:
    """What a server answers to the ClientHello that waits at the peer."""
    hello = peer.sock.recv(65_536)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = only(version).wrap_bio(incoming, outgoing, server_side=True)
    incoming.write(hello)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


@VERSIONS
@pytest.mark.parametrize("after", ["nothing", "half a record"])
@pytest.mark.parametrize("end", ["cut", "reset"])
def test_O4_a_handshake_that_is_cut_off(dial, version, after, end) -> None:
    sock = dial()
    peer = dial.accept()
    flight = _server_flight(peer, version)
    if after == "half a record":
        peer.send(flight[: len(flight) // 2])
    if end == "cut":
        peer.cut()
        kinds: tuple[type[Exception], ...] = (tcpsock.TlsError,)
    else:
        peer.reset()
        kinds = (tcpsock.TlsError, tcpsock.ConnectionLost)
    error = failure(sock)
    assert isinstance(error, kinds)
    assert isinstance(error, ConnectionError)
    assert error.phase == "tls"  # type: ignore[attr-defined]  # each SocketError has one
    assert dial.address in str(error)


@pytest.mark.parametrize("after", ["nothing", "half a record"])
def test_O5_a_handshake_that_falls_silent_ends_at_connect_timeout(dial, after) -> None:
    sock = dial(options={"connect_timeout": 0.3})
    peer = dial.accept()
    if after != "nothing":
        flight = _server_flight(peer, V13)
        peer.send(flight[: len(flight) // 2])
    error = failure(sock)
    assert isinstance(error, tcpsock.ConnectTimeout)
    assert isinstance(error, TimeoutError)
    assert (error.phase, error.code) == ("tls", "connect-timeout")
    assert dial.address in str(error)


def test_O5_a_handshake_one_byte_at_a_time(dial) -> None:
    """Every split of the server's messages is one that the network may choose."""
    with ChaosProxy(dial.address, to_client=[Dribble(1)]) as proxy:
        sock = dial(proxy.address)
        peer = dial.accept(server_context())
        sock.opened.result(WAIT)
        peer.send(b"byte by byte")
        peer.end()
        assert sock.readable.get_reader().read_all(timeout=WAIT) == b"byte by byte"
        assert sock.closed.result(WAIT) is None


def test_E4_close_during_a_handshake_ends_the_attempt_at_once(dial) -> None:
    sock = dial(options={"connect_timeout": None})
    peer = dial.accept()
    assert peer.sock.recv(65_536)
    sock.close()
    assert isinstance(sock.opened.exception(WAIT), tcpsock.SocketClosed)
    assert sock.closed.result(WAIT) is None


def test_O3_a_failed_handshake_leaves_no_descriptor_and_a_served_peer_sees_the_end(dial) -> None:
    """The same through a real ssl.SSLSocket server."""
    with serve(lambda sock: sock.recv(1), tls=server_context(Authority().issue())) as server:
        sock = dial(server.address)
        assert isinstance(failure(sock), tcpsock.TlsVerificationError)
        server.wait()
    assert any(isinstance(error, ssl.SSLError) for error in server.errors)


# Records that are wrong


def test_R8_garbage_in_the_middle_of_TLS_is_a_TlsError_after_the_data(tls_pair) -> None:
    sock, peer = tls_pair()
    reader, writer = sock.streams()
    peer.send(b"good")
    peer.send_raw(b"HTTP/1.0 200 OK\r\n\r\nnot a record")
    assert reader.read_exactly(4, timeout=WAIT) == b"good"
    for _ in range(2):
        with pytest.raises(tcpsock.TlsError) as caught:
            reader.read(timeout=WAIT)
        assert not isinstance(caught.value, tcpsock.TlsTruncated)
        assert caught.value.phase == "read"
    with pytest.raises(tcpsock.TlsError):
        while True:
            writer.write(b"x")
    assert isinstance(sock.closed.exception(WAIT), tcpsock.TlsError)


@pytest.mark.parametrize("at", [5, -1], ids=["first byte", "last byte"])
def test_R8_a_corrupted_record_is_a_TlsError_and_none_of_it_is_delivered(tls_pair, at) -> None:
    sock, peer = tls_pair()
    reader = sock.readable.get_reader()
    record = bytearray(peer.records(b"evil"))
    record[at] ^= 1
    peer.send_raw(bytes(record))
    peer.send_raw(peer.records(b"after it"))
    with pytest.raises(tcpsock.TlsError) as caught:
        reader.read(timeout=WAIT)
    assert not isinstance(caught.value, tcpsock.TlsTruncated)
    assert isinstance(caught.value, ssl.SSLError)
    assert isinstance(sock.closed.exception(WAIT), tcpsock.TlsError)
    assert sock.stats.bytes_received == 0
    assert peer.read_to_the_end()[0] == b""


def test_R8_a_corrupted_record_behind_good_ones_in_one_segment(tls_pair) -> None:
    sock, peer = tls_pair()
    record = bytearray(peer.records(b"one", b"two") + peer.records(b"three"))
    record[-1] ^= 0x80
    peer.send_raw(bytes(record))
    reader = sock.readable.get_reader()
    assert reader.read_exactly(6, timeout=WAIT) == b"onetwo"
    with pytest.raises(tcpsock.TlsError):
        reader.read(timeout=WAIT)


def test_R8_a_corrupted_record_wakes_a_blocked_read_and_a_blocked_write(
    tls_pair, background
) -> None:
    sock, peer = tls_pair()
    reader, writer = sock.streams()
    read = background(reader.read, timeout=WAIT).blocked()
    write = background(writer.write, pattern(20_000_000), timeout=WAIT).blocked()
    record = bytearray(peer.records(b"evil"))
    record[-1] ^= 1
    peer.send_raw(bytes(record))
    assert isinstance(read.error(), tcpsock.TlsError)
    assert isinstance(write.error(), tcpsock.TlsError)


@pytest.mark.direct("one recv() is to give a whole record")
def test_R8_a_fatal_alert_from_the_peer_keeps_its_text(tls_pair) -> None:
    """A peer that cannot read our record says so: the alert is what our read raises."""
    sock, peer = tls_pair()
    reader, writer = sock.streams()
    assert peer.tls is not None
    peer.tls, broken = None, peer.tls
    writer.write(b"to be damaged on its way")
    record = bytearray(peer.sock.recv(65_536))
    record[-1] ^= 1
    peer.tls = broken
    peer._incoming.write(bytes(record))
    with pytest.raises(ssl.SSLError):
        peer.tls.read()
    peer.sock.sendall(peer._outgoing.read())
    with pytest.raises(tcpsock.TlsError, match=r"(?i)bad.record.mac"):
        reader.read(timeout=WAIT)


def test_R2_empty_records_are_no_EOF(tls_pair, background) -> None:
    """OpenSSL servers before TLS 1.1 sent them; any peer may."""
    sock, peer = tls_pair()
    read = background(sock.readable.get_reader().read_exactly, 4, timeout=WAIT).blocked()
    peer.send_raw(peer.records(b"", b"da", b"", b"ta"))
    assert read.result() == b"data"


@pytest.mark.parametrize("size", [1, 16_384, 16_385, 100_003])
def test_R3_writes_of_every_size_make_good_records(tls_pair, size) -> None:
    sock, peer = tls_pair(high_water_mark=10_007)
    reader, writer = sock.streams()
    for n in range(5):
        writer.write(pattern(size, n), timeout=WAIT)
        assert peer.read_exactly(size) == pattern(size, n)
        peer.send(pattern(size, n + 1))
        assert reader.read_exactly(size, timeout=WAIT) == pattern(size, n + 1)


def test_E4_close_sends_close_notify_before_its_FIN(tls_pair) -> None:
    sock, peer = tls_pair(close_timeout=WAIT)
    sock.writable.get_writer().write(b"complete")
    sock.close()
    assert peer.read_all() == b"complete"  # a missing close_notify would raise
    peer.end()
    assert sock.closed.result(WAIT) is None


def test_E1_the_answer_to_the_peers_close_notify_is_ours(tls_pair) -> None:
    sock, peer = tls_pair()
    peer.end()
    assert sock.closed.result(WAIT) is None
    assert peer.read_all() == b""


def test_W5_abort_sends_no_close_notify(tls_pair) -> None:
    """An aborted stream must not look complete to the peer."""
    sock, peer = tls_pair()
    sock.writable.get_writer().write(b"incompl")
    sock.abort()
    assert peer.read_to_the_end()[1] == "reset"


def test_detach_gives_a_real_SSLSocket_that_works(tls_pair) -> None:
    sock, peer = tls_pair()
    raw = sock.detach(timeout=WAIT)
    assert isinstance(raw, ssl.SSLSocket)
    with raw:
        assert raw.gettimeout() is None
        raw.sendall(b"by any driver")
        assert peer.read_exactly(13) == b"by any driver"
        peer.send(b"as ever")
        raw.settimeout(WAIT)
        assert raw.recv(100) == b"as ever"
    assert sock.closed.result(WAIT) is None
