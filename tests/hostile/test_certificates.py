"""Certificates that must not be accepted, each for its own reason (O6, O7), and odd ones that may.

Each refusal is a TlsVerificationError with OpenSSL's reason in it, and comes before `opened`.
"""

from __future__ import annotations

import functools
import ipaddress
import re
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from peers import WAIT, Peer

import tcpsock
from tcpsock.testing import Certificate, server_context
from tests.hostile.odd_certificates import DAY, NOW, Holder, altered, root
from tests.hostile.outcomes import assert_says, by_read, refusal
from tests.hostile.tls13_server import handshake

HOST_NAME = "server.example.com"
V12, V13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3

ROOT = root()
OTHER_ROOT = root(common_name="nobody's root")


@functools.cache
def rsa_root() -> Holder:
    """An authority whose signatures can be made anew."""
    return root(key=rsa.generate_private_key(65537, 2048), common_name="hostile RSA root")


class Meeting:
    """A connection to a server with a certificate, up to its success or refusal."""

    def __init__(self, dial: Any) -> None:
        self._dial = dial

    def __call__(
        self,
        shown: Certificate | ssl.SSLContext,
        name: str = HOST_NAME,
        *,
        trusted: Holder = ROOT,
        **tls: Any,
    ) -> tcpsock.Socket:
        context = shown if isinstance(shown, ssl.SSLContext) else server_context(shown)
        if "ssl_context" not in tls:
            tls["ca_data"] = trusted.pem
        sock: tcpsock.Socket = self._dial(tls={"server_hostname": name, **tls})
        self.peer: Peer = self._dial.accept(Peer)
        try:
            self.peer.start_tls(context)
        except (ssl.SSLError, ConnectionError):
            pass  # refused; `opened` tells why
        return sock

    def opens(self, *args: Any, **kwargs: Any) -> tcpsock.SocketInfo:
        """The facts of a connection that is accepted, and works."""
        sock = self(*args, **kwargs)
        info = sock.opened.result(WAIT)
        sock.writable.get_writer().write(b"welcome")
        assert self.peer.read_exactly(7) == b"welcome"
        return info

    def is_refused(self, words: str, *args: Any, **kwargs: Any) -> tcpsock.TlsVerificationError:
        """The error of one whose certificate is not."""
        sock = self(*args, **kwargs)
        error = refusal(sock, words, tcpsock.TlsVerificationError)
        assert isinstance(error, ssl.SSLCertVerificationError)
        assert error.verify_message and error.verify_code
        name = kwargs.get("name") or (args[1] if len(args) > 1 else HOST_NAME)
        assert name in str(error)
        return error


@pytest.fixture
def meet(dial: Any) -> Meeting:
    """Connects to servers with odd certificates."""
    return Meeting(dial)


def test_O6_the_good_one_that_all_others_are_compared_with(meet) -> None:
    info = meet.opens(ROOT.issue(HOST_NAME).shown())
    assert info.certificate["subjectAltName"] == (("DNS", HOST_NAME),)


# Dates


@pytest.mark.parametrize(
    ("begins", "ends", "words"),
    [
        pytest.param(-3, -1, "certificate has expired", id="expired"),
        pytest.param(1, 3, "not yet valid", id="not_yet_valid"),
        pytest.param(-25_000, -20_000, "expired", id="of_the_last_century"),
    ],
)
def test_O6_out_of_its_time(meet, begins, ends, words) -> None:
    leaf = ROOT.issue(HOST_NAME, not_before=NOW + begins * DAY, not_after=NOW + ends * DAY)
    meet.is_refused(words, leaf.shown())


def test_O6_an_intermediate_out_of_its_time(meet) -> None:
    basic = x509.BasicConstraints(ca=True, path_length=None)
    old = ROOT.issue(
        common_name="old CA",
        not_before=NOW - 3 * DAY,
        not_after=NOW - DAY,
        extensions=(basic,),
    )
    meet.is_refused("expired", old.issue(HOST_NAME).shown(old))


def test_O6_a_date_that_is_none(meet) -> None:
    leaf = rsa_root().issue(HOST_NAME)
    date = leaf.certificate.not_valid_after_utc.strftime("%y%m%d%H%M%SZ").encode()
    shown = altered(leaf, date, b"99ab31235959Z")
    meet.is_refused("format error", shown, trusted=rsa_root())


# Names

MISMATCH = "(Hostname|IP address) mismatch"


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("other.example.com", HOST_NAME),
        ("*.example.com", "example.com"),
        ("*.example.com", "a.b.example.com"),
        ("*.com", "evil.com"),
        ("*", "server"),
        ("*", "evil.com"),
        ("*.*.example.com", "a.b.example.com"),
        ("server.*.com", "server.example.com"),
        ("s*.example.com", HOST_NAME),
        ("*r.example.com", HOST_NAME),
        ("s*r.example.com", HOST_NAME),
        ("xn--*.example.com", "xn--bcher-kva.example.com"),
        (".example.com", HOST_NAME),
        ("*.example.com.", HOST_NAME),
        (f"{HOST_NAME}.", HOST_NAME),
        (f"{HOST_NAME}\0.evil.test", HOST_NAME),
        (f"evil.test\0.{HOST_NAME}", HOST_NAME),
        (f"{HOST_NAME}.evil.test", HOST_NAME),
        (f"evil{HOST_NAME}", HOST_NAME),
        ("*", "127.0.0.1"),
        ("*.0.0.1", "127.0.0.1"),
    ],
    ids=ascii,
)
def test_O6_A2_a_name_that_does_not_match(meet, pattern, name) -> None:
    """A wildcard is one whole label, the leftmost, below a domain of two labels at least."""
    error = meet.is_refused(MISMATCH, ROOT.issue(x509.DNSName(pattern)).shown(), name)
    assert "server_hostname" in str(error)


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("*.example.com", HOST_NAME),
        ("SERVER.Example.COM", HOST_NAME),
        ("*.example.com", "bücher.example.com"),
        ("xn--bcher-kva.example.com", "bücher.example.com"),
    ],
    ids=ascii,
)
def test_O6_A2_a_name_that_does(meet, pattern, name) -> None:
    meet.opens(ROOT.issue(pattern).shown(), name)


@pytest.mark.parametrize(
    "names",
    [
        pytest.param((), id="none_at_all"),
        pytest.param(("other.example.com",), id="another"),
        pytest.param((x509.UniformResourceIdentifier(f"https://{HOST_NAME}/"),), id="a_URI"),
        pytest.param((x509.RFC822Name(f"root@{HOST_NAME}"),), id="a_mail_address"),
    ],
)
def test_O6_A2_the_common_name_is_no_name(meet, names) -> None:
    """RFC 9525: names stand in subjectAltName alone."""
    leaf = ROOT.issue(*names, common_name=HOST_NAME)
    meet.is_refused("Hostname mismatch", leaf.shown())


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "2001:db8::1"])
def test_O6_A2_an_IP_address_that_the_certificate_has(meet, address) -> None:
    meet.opens(ROOT.issue(address).shown(), address)


@pytest.mark.parametrize(
    ("has", "asked"),
    [
        pytest.param("127.0.0.2", "127.0.0.1", id="another"),
        pytest.param("::ffff:127.0.0.1", "127.0.0.1", id="mapped"),
        pytest.param("127.0.0.1", "::ffff:127.0.0.1", id="asked_for_mapped"),
        pytest.param(x509.DNSName("127.0.0.1"), "127.0.0.1", id="as_a_DNS_name"),
        pytest.param(x509.RegisteredID(x509.ObjectIdentifier("1.2.3")), "127.0.0.1", id="none"),
    ],
)
def test_O6_A2_an_IP_address_that_it_has_not(meet, has, asked) -> None:
    meet.is_refused("IP address mismatch", ROOT.issue(has, common_name=asked).shown(), asked)


# Who signed it


def test_O7_self_signed(meet) -> None:
    error = meet.is_refused("self-signed", root(HOST_NAME).shown())
    assert "ca_file" in str(error)


def test_O7_a_root_that_nobody_trusts_is_not_trusted_for_being_shown(meet) -> None:
    shown = OTHER_ROOT.issue(HOST_NAME).shown(OTHER_ROOT)
    meet.is_refused("self-signed certificate in certificate chain", shown)


def test_O7_an_unknown_authority(meet) -> None:
    error = meet.is_refused("issuer", OTHER_ROOT.issue(HOST_NAME).shown())
    assert "ca_file" in str(error)


def test_O7_one_of_the_same_name_as_a_root_that_is_trusted(meet) -> None:
    meet.is_refused("signature|issuer", root().issue(HOST_NAME).shown())


def test_O7_a_missing_intermediate(meet) -> None:
    meet.is_refused("issuer", ROOT.authority().issue(HOST_NAME).shown())


def test_O7_an_intermediate_that_is_trusted_itself(meet) -> None:
    """What stands in ca_data is a root, whoever signed it; so is a leaf."""
    intermediate = ROOT.authority()
    leaf = intermediate.issue(HOST_NAME)
    meet.opens(leaf.shown(), trusted=intermediate)
    meet.opens(leaf.shown(), trusted=leaf)


@pytest.mark.parametrize("basic", [True, False], ids=["CA_FALSE", "no_constraints"])
def test_O7_signed_by_who_is_no_authority(meet, basic) -> None:
    """Whoever has a certificate could else make one for any name."""
    extensions = [x509.BasicConstraints(ca=False, path_length=None)] if basic else []
    nobody = ROOT.issue("evil.test", common_name="no CA", extensions=extensions)
    meet.is_refused("invalid CA certificate", nobody.issue(HOST_NAME).shown(nobody))


def test_O7_a_chain_longer_than_an_authority_may_have(meet) -> None:
    last = ROOT.issue(
        common_name="last CA", extensions=[x509.BasicConstraints(ca=True, path_length=0)]
    )
    beyond = last.authority(common_name="one too many")
    meet.is_refused("path length", beyond.issue(HOST_NAME).shown(beyond, last))


@pytest.mark.parametrize(
    ("constraints", "name", "words"),
    [
        pytest.param(
            x509.NameConstraints([x509.DNSName("allowed.example")], None),
            HOST_NAME,
            "permitted subtree",
            id="not_permitted",
        ),
        pytest.param(
            x509.NameConstraints(None, [x509.DNSName("example.com")]),
            HOST_NAME,
            "excluded subtree",
            id="excluded",
        ),
        pytest.param(
            x509.NameConstraints(None, [x509.IPAddress(ipaddress.ip_network("127.0.0.0/8"))]),
            "127.0.0.1",
            "excluded subtree",
            id="excluded_network",
        ),
    ],
)
def test_O7_a_name_that_its_authority_may_not_vouch_for(meet, constraints, name, words) -> None:
    confined = ROOT.authority(constraints)
    meet.is_refused(words, confined.issue(name).shown(confined), name)


def test_O7_a_name_within_its_authoritys_constraints(meet) -> None:
    confined = ROOT.authority(x509.NameConstraints([x509.DNSName("example.com")], None))
    meet.opens(confined.issue(HOST_NAME).shown(confined))


@pytest.mark.parametrize(
    ("purposes", "opens"),
    [
        pytest.param([ExtendedKeyUsageOID.CLIENT_AUTH], False, id="client"),
        pytest.param([ExtendedKeyUsageOID.CODE_SIGNING], False, id="code"),
        pytest.param([ExtendedKeyUsageOID.SERVER_AUTH], True, id="server"),
    ],
)
def test_O7_what_the_key_may_be_used_for(meet, purposes, opens) -> None:
    shown = ROOT.issue(HOST_NAME, extensions=[x509.ExtendedKeyUsage(purposes)]).shown()
    if opens:
        meet.opens(shown)
    else:
        meet.is_refused("purpose", shown)


def test_O7_an_extension_that_must_be_understood_and_is_not(meet) -> None:
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\5\0")
    meet.is_refused("critical extension", ROOT.issue(HOST_NAME, extensions=[unknown]).shown())


def _careless(certificate: Certificate) -> ssl.SSLContext:
    """A server's context that takes any certificate for good enough."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    certificate.load_into(context)
    return context


def test_O7_a_key_that_is_too_short(meet) -> None:
    leaf = ROOT.issue(HOST_NAME, key=rsa.generate_private_key(65537, 1024))
    meet.is_refused("key too weak", _careless(leaf.shown()))


def test_O7_a_signature_by_SHA_1(meet) -> None:
    """Made by whoever can make two things with one hash."""
    sha256, sha1 = (bytes.fromhex(f"2a864886f70d0101{end}") for end in ("0b", "05"))
    shown = altered(rsa_root().issue(HOST_NAME), sha256, sha1, algorithm=hashes.SHA1())
    meet.is_refused("digest|too weak", _careless(shown), trusted=rsa_root())


# Revocation: not checked, unless by a context of one's own


def _checking_revocation(directory: Path, *lists: str) -> ssl.SSLContext:
    """What docs/security.rst recommends: an own context with revocation lists."""
    context = ssl.create_default_context(cadata=ROOT.pem)
    context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN
    if lists:
        (directory / "revoked.pem").write_text("".join(lists))
        context.load_verify_locations(cafile=directory / "revoked.pem")
    return context


def test_O7_revocation_is_not_checked_by_default(meet) -> None:
    """Neither fetched nor asked for: the docs say so."""
    intermediate = ROOT.authority()
    meet.opens(intermediate.issue(HOST_NAME).shown(intermediate))


def test_O7_a_revoked_intermediate_with_an_own_context_and_a_list(meet, tmp_path) -> None:
    intermediate = ROOT.authority()
    leaf = intermediate.issue(HOST_NAME)
    lists = ROOT.revokes(intermediate), intermediate.revokes()
    context = _checking_revocation(tmp_path, *lists)
    meet.is_refused("certificate revoked", leaf.shown(intermediate), ssl_context=context)
    good = ROOT.authority(common_name="another CA")
    context = _checking_revocation(tmp_path, ROOT.revokes(intermediate), good.revokes())
    meet.opens(good.issue(HOST_NAME).shown(good), ssl_context=context)
    missing = _checking_revocation(tmp_path)
    meet.is_refused("unable to get certificate CRL", leaf.shown(intermediate), ssl_context=missing)


# Sizes


def test_O7_a_certificate_of_90_kilobytes_is_taken(meet) -> None:
    """OpenSSL's limit for all of what is shown is 102,400 bytes."""
    leaf = ROOT.issue(HOST_NAME, *(f"{n:05d}.{'x' * 50}.example" for n in range(1350)))
    assert 80_000 < len(leaf.der) < 100_000
    info = meet.opens(leaf.shown())
    assert info.peer_certificate == leaf.der
    assert len(repr(info)) < 2_000, "what a peer chose fills no log"


def test_O7_a_chain_of_more_than_100_kilobytes_is_refused(dial) -> None:
    """And not even received."""
    big = OTHER_ROOT.issue(*(f"{n:05d}.{'x' * 50}.example" for n in range(800)))
    leaf = ROOT.issue(HOST_NAME)
    sock = dial(tls={"server_hostname": HOST_NAME, "ca_data": ROOT.pem})
    peer = dial.accept(Peer)
    with_much = [leaf.der, big.der, big.der]
    assert sum(map(len, with_much)) > 102_400
    try:
        handshake(peer.sock, leaf.shown(), chain=with_much)
    except ConnectionError:
        pass  # it does not hear us out
    refusal(sock, "excessive message size")


def test_O7_a_chain_of_too_many(meet) -> None:
    chain = [ROOT]
    for n in range(105):
        chain.append(chain[-1].authority(common_name=f"CA {n}"))
    meet.is_refused("chain too long", chain[-1].issue(HOST_NAME).shown(*chain[:0:-1]))


# What Python can't put into words


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda ca: ca.issue(HOST_NAME, "AAAA.example"), id="a_name"),
        pytest.param(
            lambda ca: ca.issue(HOST_NAME, x509.UniformResourceIdentifier("http://AAAA/")),
            id="a_URI",
        ),
        pytest.param(
            lambda ca: ca.issue(
                HOST_NAME,
                extensions=[
                    x509.CRLDistributionPoints(
                        [
                            x509.DistributionPoint(
                                [x509.UniformResourceIdentifier("http://AAAA/")], None, None, None
                            )
                        ]
                    )
                ],
            ),
            id="a_revocation_list",
        ),
    ],
)
def test_O6_a_good_certificate_with_text_that_is_no_UTF_8(
    meet, make: Callable[[Holder], Holder]
) -> None:
    """It is verified as any other; `certificate` has no words for it, `peer_certificate` all."""
    shown = altered(make(rsa_root()), b"AAAA", b"\xff\xfe\xfd\xfc")
    info = meet.opens(shown, trusted=rsa_root())
    assert info.certificate is None
    assert b"\xff\xfe\xfd\xfc" in info.peer_certificate
    assert info.channel_binding()


def test_L2_control_characters_in_a_certificate_stay_in_the_attributes(meet) -> None:
    """They are raw there, and nowhere else."""
    leaf = ROOT.issue(HOST_NAME, common_name="\x1b[31m\u202e\u2028red")
    info = meet.opens(leaf.shown())
    assert info.certificate["subject"] == ((("commonName", "\x1b[31m\u202e\u2028red"),),)
    assert repr(info).isprintable()


# Sessions


@pytest.mark.parametrize("version", [V12, V13], ids=["tls12", "tls13"])
def test_O6_a_session_of_another_name_is_not_resumed(meet, version) -> None:
    """OpenSSL verifies nothing when it resumes: the certificate would be another server's."""
    context = server_context(ROOT.issue("a.example.com").shown(), minimum=version, maximum=version)
    sock = meet(context, "a.example.com")
    meet.peer.send(b"x")  # behind the ticket
    assert sock.readable.get_reader().read(timeout=WAIT) == b"x"
    session = sock.tls_session
    assert session is not None
    meet.opens(context, "a.example.com", session=session)
    assert meet.peer.tls.session_reused
    meet.is_refused("Hostname mismatch", context, "b.example.com", session=session)


@pytest.mark.parametrize("version", [V12, V13], ids=["tls12", "tls13"])
def test_O6_O7_a_session_of_a_server_that_has_changed(meet, version) -> None:
    """A server that does not know the session shows its certificate, and that is verified."""
    sock = meet(server_context(ROOT.issue(HOST_NAME).shown(), minimum=version, maximum=version))
    meet.peer.send(b"x")
    assert sock.readable.get_reader().read(timeout=WAIT) == b"x"
    evil = server_context(OTHER_ROOT.issue(HOST_NAME).shown(), minimum=version, maximum=version)
    meet.is_refused("issuer", evil, session=sock.tls_session)


# Client certificates


@pytest.mark.parametrize("shown", ["none", "a_strangers", "expired"])
def test_T12_a_client_certificate_that_the_server_refuses(dial, version, shown, tmp_path) -> None:
    """TLS 1.2 tells in the handshake; in 1.3 we are done by then, and the first read tells."""
    issuer = OTHER_ROOT if shown == "a_strangers" else ROOT
    until = NOW - DAY if shown == "expired" else NOW + DAY
    client = issuer.issue("client@example.org", not_before=NOW - 2 * DAY, not_after=until)
    cert, key = client.shown().write(tmp_path)
    tls = {} if shown == "none" else {"client_cert": cert, "client_key": key}
    words = {
        "none": "certificate required|handshake failure",
        "a_strangers": "unknown ca",
        "expired": "certificate expired",
    }[shown]
    context = server_context(
        ROOT.issue(HOST_NAME).shown(), client_ca=ROOT.pem, minimum=version, maximum=version
    )
    sock = dial(tls={"server_hostname": HOST_NAME, "ca_data": ROOT.pem, **tls})
    peer = dial.accept(Peer)
    with pytest.raises(ssl.SSLError):
        peer.start_tls(context)
    if version is V12:
        error = refusal(sock, words)
    else:
        assert sock.opened.result(WAIT).tls_version == "TLSv1.3"
        received, error = by_read(sock)
        assert received == b""
        assert type(error) is tcpsock.TlsError
        assert error.phase == "read"
        assert_says(error, words)
        assert type(sock.closed.exception(WAIT)) is tcpsock.TlsError
    assert re.search("the alert '[a-z ]+'", str(error))
