"""Certificates that no authority should issue, made as a test needs them.

`tcpsock.testing` (and trustme behind it) makes good ones alone.
"""

from __future__ import annotations

import datetime
import inspect
import ipaddress
import ssl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives import serialization as s
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import NameOID

from tcpsock.testing import Certificate

__all__ = ["DAY", "NOW", "Holder", "altered", "root"]

NOW = datetime.datetime.now(datetime.timezone.utc)
DAY = datetime.timedelta(days=1)

_Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True)
class Holder:
    """A certificate, its key, and whoever signed it; it signs others if asked, allowed or not."""

    certificate: x509.Certificate
    key: _Key
    issuer: Holder | None = None

    @property
    def pem(self) -> str:
        """The certificate."""
        return self.certificate.public_bytes(s.Encoding.PEM).decode("ascii")

    @property
    def der(self) -> bytes:
        """The same."""
        return self.certificate.public_bytes(s.Encoding.DER)

    def shown(self, *chain: Holder) -> Certificate:
        """As a server shows it, with these certificates behind it."""
        return Certificate("".join(one.pem for one in (self, *chain)), _pem(self.key))

    def issue(
        self,
        *names: str | x509.GeneralName,
        common_name: str = "hostile test",
        key: _Key | None = None,
        signed_with: hashes.HashAlgorithm | None = None,
        not_before: datetime.datetime = NOW - DAY,
        not_after: datetime.datetime = NOW + DAY,
        extensions: Sequence[x509.ExtensionType] = (),
    ) -> Holder:
        """Sign one more.

        Args:
            names: subjectAltName, IP addresses told by their looks; none: no such extension.
            extensions: besides; those of no known kind are critical.
        """
        return _sign(
            names, common_name, key, signed_with, not_before, not_after, extensions, issuer=self
        )

    def authority(self, *extensions: x509.ExtensionType, common_name: str = "hostile CA") -> Holder:
        """Sign an intermediate authority's certificate."""
        basic = x509.BasicConstraints(ca=True, path_length=None)
        return self.issue(common_name=common_name, extensions=(basic, *extensions))

    def revokes(self, *revoked: Holder) -> str:
        """The revocation list of this authority, as PEM."""
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(NOW - DAY)
            .next_update(NOW + DAY)
        )
        for one in revoked:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder()
                .serial_number(one.certificate.serial_number)
                .revocation_date(NOW - DAY)
                .build()
            )
        return builder.sign(self.key, hashes.SHA256()).public_bytes(s.Encoding.PEM).decode("ascii")


def root(
    *names: str, common_name: str = "hostile root", key: _Key | None = None, ca: bool = True
) -> Holder:
    """An authority of its own, or whatever signs itself."""
    basic = x509.BasicConstraints(ca=ca, path_length=None)
    return _sign(names, common_name, key, None, NOW - DAY, NOW + DAY, (basic,), issuer=None)


def altered(
    holder: Holder, old: bytes, new: bytes, *, algorithm: hashes.HashAlgorithm | None = None
) -> Certificate:
    """The certificate with other bytes of the same number in it, signed anew; its issuer has RSA.

    For what no library writes: broken text, weak signatures.
    """
    assert len(old) == len(new) and holder.issuer
    assert isinstance(holder.issuer.key, rsa.RSAPrivateKey)
    signed = holder.certificate.tbs_certificate_bytes
    head, behind = holder.der.split(signed)
    assert old in signed
    signed = signed.replace(old, new)
    behind = behind.removesuffix(holder.certificate.signature).replace(old, new)
    by = holder.issuer.key.sign(signed, padding.PKCS1v15(), algorithm or hashes.SHA256())
    return Certificate(ssl.DER_cert_to_PEM_cert(head + signed + behind + by), _pem(holder.key))


def _sign(
    names: Sequence[str | x509.GeneralName],
    common_name: str,
    key: _Key | None,
    signed_with: hashes.HashAlgorithm | None,
    not_before: datetime.datetime,
    not_after: datetime.datetime,
    extensions: Sequence[x509.ExtensionType],
    issuer: Holder | None,
) -> Holder:
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_after)
    )
    if names:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False
        )
    by = key if issuer is None else issuer.key
    for extension in (*extensions, *_usual(key, by, extensions)):
        critical = isinstance(
            extension, (x509.BasicConstraints, x509.NameConstraints, x509.UnrecognizedExtension)
        )
        builder = builder.add_extension(extension, critical)
    return Holder(builder.sign(by, signed_with or hashes.SHA256()), key, issuer)


def _usual(
    key: _Key, by: _Key, extensions: Sequence[x509.ExtensionType]
) -> Iterator[x509.ExtensionType]:
    """What RFC 5280 wants besides; Python 3.13's default context insists on it."""
    yield x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    yield x509.AuthorityKeyIdentifier.from_issuer_public_key(by.public_key())
    if any(isinstance(one, x509.BasicConstraints) and one.ca for one in extensions):
        uses = dict.fromkeys(inspect.signature(x509.KeyUsage).parameters, False)
        yield x509.KeyUsage(**{**uses, "key_cert_sign": True, "crl_sign": True})


def _general_name(name: str | x509.GeneralName) -> x509.GeneralName:
    if isinstance(name, x509.GeneralName):
        return name
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _pem(key: _Key) -> str:
    return key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption()).decode(
        "ascii"
    )
