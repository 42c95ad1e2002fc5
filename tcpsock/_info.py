"""What is known about a connection: facts for the user, fixed once and free of secrets."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Attempt", "SocketInfo", "SocketStats", "Timings"]


@dataclass(frozen=True, slots=True)
class Timings:
    """How long each step of opening took, in seconds; None where there was no such step."""

    resolve: float | None
    connect: float | None
    tls: float | None


@dataclass(frozen=True, slots=True)
class Attempt:
    """One address that was tried, or left out by the policy."""

    address: str
    """In the form "ip:port", IPv6 bracketed."""
    seconds: float
    """From the start of this attempt to its end, however it ended."""
    error: OSError | None
    """Why it is not the one in use; None for the winner alone."""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Attempt):
            return NotImplemented
        return self._value() == other._value()

    def __hash__(self) -> int:
        return hash(self._value())

    def _value(self) -> tuple[object, ...]:
        # Exceptions compare by identity, and a copy of an Attempt has a copy of its error.
        return self.address, self.seconds, type(self.error), str(self.error)


@dataclass(frozen=True, slots=True)
class SocketStats:
    """A snapshot of a socket's counters; they begin anew after start_tls().

    Bytes are the application's, not TLS's. `bytes_received` includes `bytes_buffered`, which were
    read ahead and not yet taken. `age` and `idle` are seconds: since the socket was made, and since
    the last byte in either direction.
    """

    bytes_received: int
    bytes_sent: int
    bytes_buffered: int
    age: float
    idle: float


@dataclass(frozen=True)
class SocketInfo:
    """What `Socket.opened` resolves to: who the peer is, and how the connection came about."""

    remote_address: str | None
    """The peer's "ip:port", IPv6 bracketed; None where the socket has no IP address."""
    local_address: str | None
    """The same for our end."""
    hostname: str
    """The host as asked for."""
    alpn: str | None = None
    """The application protocol that TLS agreed on."""
    tls_version: str | None = None
    """Such as "TLSv1.3"; None without TLS."""
    cipher: str | None = None
    """OpenSSL's name of the cipher suite; None without TLS."""
    peer_certificate: bytes | None = field(default=None, repr=False)
    """The peer's certificate, DER; None without TLS."""
    cipher_bits: int | None = None
    """How many secret bits the cipher uses; None without TLS."""
    certificate: Mapping[str, object] | None = field(default=None, hash=False, repr=False)
    """The peer's certificate in the form of `ssl.SSLSocket.getpeercert()`."""
    certificate_chain: tuple[bytes, ...] = field(default=(), repr=False)
    """DER, leaf first; the leaf alone where this Python can't tell the rest."""
    timings: Timings = Timings(None, None, None)
    """How long opening took."""
    attempts: tuple[Attempt, ...] = ()
    """Every address tried, in the order in which the attempts were started."""
    _tls_unique: bytes | None = field(default=None, repr=False)
    """The "tls-unique" binding, kept since the wire may be gone when somebody asks for it."""

    def channel_binding(self, kind: str = "tls-server-end-point") -> bytes:
        """What ties an authentication to this TLS connection, as SCRAM-...-PLUS needs it.

        Args:
            kind: "tls-server-end-point" (a hash of the server's certificate, RFC 5929 section 4)
                or, below TLS 1.3, "tls-unique" (section 3).

        Raises:
            ValueError: without TLS, for another kind, and where the kind is not defined:
                "tls-unique" in TLS 1.3, "tls-server-end-point" for a certificate whose signature
                algorithm does not name one hash function (RSASSA-PSS, EdDSA).
        """
        if kind not in ("tls-server-end-point", "tls-unique"):
            raise ValueError(
                f"channel binding {kind!r} is not available: "
                'it is "tls-server-end-point" or "tls-unique"'
            )
        if self.tls_version is None:
            raise ValueError(f"there is no channel binding {kind!r} without TLS")
        if kind == "tls-unique":
            if self.tls_version == "TLSv1.3":
                raise ValueError('"tls-unique" is not defined for TLS 1.3 (RFC 8446 appendix C.5)')
            if self._tls_unique is None:
                raise ValueError('TLS gave no "tls-unique" value for this connection')
            return self._tls_unique
        if self.peer_certificate is None:
            raise ValueError(f"there is no channel binding {kind!r} without a server certificate")
        return hashlib.new(_end_point_hash(self.peer_certificate), self.peer_certificate).digest()


# The hash function inside each signature algorithm, RFC 5929 section 4.1: MD5 and SHA-1 are too
# weak and become SHA-256. RSASSA-PSS names its hash in parameters, which the RFC does not foresee,
# and EdDSA has none to name: they stay out.
_SIGNATURE_HASHES = {
    "1.2.840.113549.1.1.4": "sha256",  # RSA with MD5
    "1.2.840.113549.1.1.5": "sha256",  # RSA with SHA-1
    "1.3.14.3.2.29": "sha256",  # RSA with SHA-1, an old name of it
    "1.2.840.113549.1.1.11": "sha256",
    "1.2.840.113549.1.1.12": "sha384",
    "1.2.840.113549.1.1.13": "sha512",
    "1.2.840.113549.1.1.14": "sha224",
    "2.16.840.1.101.3.4.3.13": "sha3_224",
    "2.16.840.1.101.3.4.3.14": "sha3_256",
    "2.16.840.1.101.3.4.3.15": "sha3_384",
    "2.16.840.1.101.3.4.3.16": "sha3_512",
    "1.2.840.10045.4.1": "sha256",  # ECDSA with SHA-1
    "1.2.840.10045.4.3.1": "sha224",
    "1.2.840.10045.4.3.2": "sha256",
    "1.2.840.10045.4.3.3": "sha384",
    "1.2.840.10045.4.3.4": "sha512",
    "2.16.840.1.101.3.4.3.9": "sha3_224",
    "2.16.840.1.101.3.4.3.10": "sha3_256",
    "2.16.840.1.101.3.4.3.11": "sha3_384",
    "2.16.840.1.101.3.4.3.12": "sha3_512",
    "1.2.840.10040.4.3": "sha256",  # DSA with SHA-1
    "2.16.840.1.101.3.4.3.1": "sha224",
    "2.16.840.1.101.3.4.3.2": "sha256",
    "2.16.840.1.101.3.4.3.3": "sha384",
    "2.16.840.1.101.3.4.3.4": "sha512",
}


def _end_point_hash(certificate: bytes) -> str:
    """The name of the hash function that "tls-server-end-point" takes for this certificate."""
    algorithm = _signature_algorithm(certificate)
    try:
        return _SIGNATURE_HASHES[algorithm]
    except KeyError:
        raise ValueError(
            '"tls-server-end-point" is not defined for a certificate '
            f"with the signature algorithm {algorithm} (RFC 5929 section 4.1)"
        ) from None


def _signature_algorithm(certificate: bytes) -> str:
    """The dotted object identifier of a DER certificate's signature algorithm.

    `ssl` doesn't tell it, so this walks there: RFC 5280 has
    `Certificate ::= SEQUENCE { tbsCertificate, signatureAlgorithm SEQUENCE { OID, ... }, ... }`.
    """
    try:
        tbs_certificate, _ = _der_content(certificate, 0)
        _, after_tbs = _der_content(certificate, tbs_certificate)
        oid_element, _ = _der_content(certificate, after_tbs)
        start, end = _der_content(certificate, oid_element)
        return _dotted(certificate[start:end])
    except IndexError:
        raise ValueError("the peer's certificate is not well-formed DER") from None


def _der_content(der: bytes, offset: int) -> tuple[int, int]:
    """Where the content of the DER element at `offset` begins and ends (X.690 section 8.1.3)."""
    length = der[offset + 1]
    start = offset + 2
    if length & 0x80:  # the long form: so many bytes of length follow
        start += length & 0x7F
        length = int.from_bytes(der[offset + 2 : start], "big")
    if start + length > len(der):
        raise IndexError("element longer than its surroundings")
    return start, start + length


def _dotted(oid: bytes) -> str:
    """An object identifier as people write it (X.690 section 8.19)."""
    arcs = [0]
    for byte in oid:
        arcs[-1] = arcs[-1] << 7 | byte & 0x7F
        if not byte & 0x80:
            arcs.append(0)
    first = min(arcs[0] // 40, 2)  # the first two arcs share one number
    return ".".join(map(str, [first, arcs[0] - 40 * first, *arcs[1:-1]]))
