"""SocketInfo and its parts: values that travel, tell no secrets, and bind to a TLS channel."""

from __future__ import annotations

import copy
import dataclasses
import datetime
import errno
import hashlib
import pickle

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from tcpsock._info import Attempt, SocketInfo, SocketStats, Timings

REFUSED = Attempt("[::1]:5432", 0.01, ConnectionRefusedError(errno.ECONNREFUSED, "refused"))
WON = Attempt("127.0.0.1:5432", 0.02, None)


def info(**changes: object) -> SocketInfo:
    known: dict[str, object] = {
        "remote_address": "127.0.0.1:5432",
        "local_address": "127.0.0.1:40000",
        "hostname": "db.example",
        "alpn": "postgresql",
        "tls_version": "TLSv1.2",
        "cipher": "ECDHE-RSA-AES256-GCM-SHA384",
        "peer_certificate": b"0\x00",
        "cipher_bits": 256,
        "certificate": {"subject": ((("commonName", "db.example"),),)},
        "certificate_chain": (b"0\x00",),
        "timings": Timings(0.1, 0.2, 0.3),
        "attempts": (REFUSED, WON),
        "_tls_unique": b"a secret of this channel",
    }
    return SocketInfo(**{**known, **changes})  # type: ignore[arg-type]


def certificate(key: object, algorithm: object, **options: object) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "db.example")])
    begin = datetime.datetime(2025, 1, 1)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())  # type: ignore[attr-defined]
        .serial_number(1)
        .not_valid_before(begin)
        .not_valid_after(begin + datetime.timedelta(days=1))
        # Large enough that lengths take the long form of DER, in one byte and in two.
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("x" * 60 + ".example")]), False)
    )
    return builder.sign(key, algorithm, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


# Attempt, Timings, SocketStats, SocketInfo ------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [REFUSED, WON, Timings(None, 0.5, None), SocketStats(1, 2, 3, 4.0, 5.0), info()],
    ids=lambda value: type(value).__name__,
)
def test_L7_the_facts_survive_pickle_and_copy(value: object) -> None:
    copies = [pickle.loads(pickle.dumps(value, n)) for n in range(pickle.HIGHEST_PROTOCOL + 1)]
    for again in (*copies, copy.copy(value), copy.deepcopy(value)):
        assert type(again) is type(value)
        assert again == value
        assert hash(again) == hash(value)
        assert repr(again) == repr(value)


def test_L7_a_copied_info_can_still_bind_its_channel() -> None:
    again = pickle.loads(pickle.dumps(info()))
    assert again.channel_binding("tls-unique") == b"a secret of this channel"


@pytest.mark.parametrize("value", [WON, Timings(None, None, None), info()])
def test_O4_facts_are_frozen(value: object) -> None:
    first = dataclasses.fields(value)[0].name  # type: ignore[arg-type]
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, first, "changed")


def test_O4_attempts_with_different_errors_differ() -> None:
    other = Attempt("[::1]:5432", 0.01, OSError(errno.EHOSTUNREACH, "unreachable"))
    assert other != REFUSED
    assert Attempt("[::1]:5432", 0.01, None) != REFUSED
    assert ("[::1]:5432", 0.01, REFUSED.error) != REFUSED


def test_L2_repr_shows_no_secret() -> None:
    assert "secret" not in repr(info())
    assert "db.example" in repr(info())


def test_O4_the_fields_are_the_public_ones_in_their_order() -> None:
    names = [field.name for field in dataclasses.fields(SocketInfo)]
    assert names == [
        "remote_address",
        "local_address",
        "hostname",
        "alpn",
        "tls_version",
        "cipher",
        "peer_certificate",
        "cipher_bits",
        "certificate",
        "certificate_chain",
        "timings",
        "attempts",
        "_tls_unique",
    ]


def test_O4_without_tls_everything_about_it_is_none() -> None:
    plain = SocketInfo("127.0.0.1:80", "127.0.0.1:40000", "localhost")
    assert (plain.alpn, plain.tls_version, plain.cipher, plain.cipher_bits) == (None,) * 4
    assert (plain.peer_certificate, plain.certificate) == (None, None)
    assert plain.certificate_chain == ()


# Channel binding --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "algorithm",
    [
        hashes.SHA224(),
        hashes.SHA256(),
        hashes.SHA384(),
        hashes.SHA512(),
        hashes.SHA3_224(),
        hashes.SHA3_256(),
        hashes.SHA3_384(),
        hashes.SHA3_512(),
    ],
    ids=lambda algorithm: algorithm.name,
)
@pytest.mark.parametrize("kind", ["rsa", "ecdsa"])
def test_T25_the_end_point_hash_is_that_of_the_signature(
    kind: str, algorithm: hashes.HashAlgorithm, rsa_key: rsa.RSAPrivateKey
) -> None:
    key = rsa_key if kind == "rsa" else ec.generate_private_key(ec.SECP256R1())
    made = certificate(key, algorithm)
    der = made.public_bytes(Encoding.DER)
    assert made.signature_hash_algorithm is not None
    name = made.signature_hash_algorithm.name.replace("-", "_")
    assert info(peer_certificate=der).channel_binding() == hashlib.new(name, der).digest()


@pytest.mark.parametrize(
    ("old", "what"),
    [("2a864886f70d010104", "MD5"), ("2a864886f70d010105", "SHA-1")],
)
def test_T25_weak_hashes_become_sha256(old: str, what: str, rsa_key: rsa.RSAPrivateKey) -> None:
    """RFC 5929 section 4.1. The algorithm is patched in, as no library signs that way any more."""
    der = certificate(rsa_key, hashes.SHA512()).public_bytes(Encoding.DER)
    sha512_with_rsa = bytes.fromhex("2a864886f70d01010d")
    assert der.count(sha512_with_rsa) == 2
    der = der.replace(sha512_with_rsa, bytes.fromhex(old))
    assert info(peer_certificate=der).channel_binding() == hashlib.sha256(der).digest()


def test_T25_the_signature_counts_not_the_algorithm_named_inside(
    rsa_key: rsa.RSAPrivateKey,
) -> None:
    """Only the outer field is read: a look-alike earlier in the certificate changes nothing."""
    der = certificate(rsa_key, hashes.SHA512()).public_bytes(Encoding.DER)
    sha512_with_rsa = bytes.fromhex("2a864886f70d01010d")
    inner = der.index(sha512_with_rsa)
    der = der[: inner + 8] + b"\x0c" + der[inner + 9 :]
    assert info(peer_certificate=der).channel_binding() == hashlib.sha512(der).digest()


@pytest.mark.parametrize(
    ("key", "oid"),
    [
        (ed25519.Ed25519PrivateKey.generate(), "1.3.101.112"),
        (ed448.Ed448PrivateKey.generate(), "1.3.101.113"),
    ],
    ids=["Ed25519", "Ed448"],
)
def test_T25_eddsa_has_no_end_point_binding(key: object, oid: str) -> None:
    der = certificate(key, None).public_bytes(Encoding.DER)
    with pytest.raises(ValueError, match=f"signature algorithm {oid}"):
        info(peer_certificate=der).channel_binding()


def test_T25_rsassa_pss_has_no_end_point_binding(rsa_key: rsa.RSAPrivateKey) -> None:
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH)
    der = certificate(rsa_key, hashes.SHA256(), rsa_padding=pss).public_bytes(Encoding.DER)
    with pytest.raises(ValueError, match=r"1\.2\.840\.113549\.1\.1\.10"):
        info(peer_certificate=der).channel_binding()


def test_T25_a_damaged_certificate_is_a_value_error(rsa_key: rsa.RSAPrivateKey) -> None:
    """Cut anywhere, the walk ends in a ValueError and never runs over the end."""
    der = certificate(rsa_key, hashes.SHA256()).public_bytes(Encoding.DER)
    for length in range(len(der)):
        with pytest.raises(ValueError, match="not well-formed"):
            info(peer_certificate=der[:length]).channel_binding()


def test_T25_tls_unique_below_tls_1_3() -> None:
    assert info().channel_binding("tls-unique") == b"a secret of this channel"
    with pytest.raises(ValueError, match=r"TLS 1\.3"):
        info(tls_version="TLSv1.3").channel_binding("tls-unique")
    with pytest.raises(ValueError, match="tls-unique"):
        info(_tls_unique=None).channel_binding("tls-unique")


@pytest.mark.parametrize("kind", ["tls-server-end-point", "tls-unique"])
def test_T25_without_tls_there_is_no_channel_to_bind(kind: str) -> None:
    plain = SocketInfo("127.0.0.1:80", "127.0.0.1:40000", "localhost")
    with pytest.raises(ValueError, match="without TLS"):
        plain.channel_binding(kind)


def test_T25_an_unknown_kind_is_named() -> None:
    with pytest.raises(ValueError, match="tls-exporter"):
        info().channel_binding("tls-exporter")
    with pytest.raises(ValueError, match="certificate"):
        info(peer_certificate=None).channel_binding()
