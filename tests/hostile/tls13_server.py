"""A TLS 1.3 server in miniature, which lies where it is told to.

What a server says after its ServerHello is encrypted, and authenticated by its Finished message:
a proxy cannot change it, and OpenSSL does not lie. So this does the handshake itself (RFC 8446,
with X25519, AES-256-GCM and ECDSA, which OpenSSL offers), and each message may be left out or
replaced.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import socket
from collections.abc import Collection, Sequence

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, x25519

from tcpsock.testing import Certificate
from tests.hostile.tls_peer import HANDSHAKE, Seal13, expand_label, handshake_message, record

__all__ = ["alpn", "handshake", "sized"]

SERVER_HELLO, ENCRYPTED_EXTENSIONS, CERTIFICATE, CERTIFICATE_VERIFY, FINISHED = 2, 8, 11, 15, 20


def handshake(
    sock: socket.socket,
    certificate: Certificate,
    *,
    extensions: bytes = b"",
    chain: Sequence[bytes] | None = None,
    proof: Certificate | None = None,
    leave_out: Collection[int] = (),
    finished: bytes | None = None,
    early: bytes = b"",
) -> Seal13:
    """Answer the ClientHello that comes, up to our Finished; returns what seals the data.

    Args:
        certificate: shown, and its key proves that it is ours.
        extensions: of EncryptedExtensions; nobody asks whether they were offered.
        chain: DER certificates to be shown instead.
        proof: the one whose key signs instead.
        leave_out: message types that are not sent (nor counted in the transcript).
        finished: what stands in the Finished message instead.
        early: application data that goes out before the Finished message, with its keys.
    """
    hello = _message(sock)
    transcript = hashlib.sha384(hello)
    session_id, share = _client_share(hello)
    ours = x25519.X25519PrivateKey.generate()
    server_hello = handshake_message(
        SERVER_HELLO,
        b"\3\3"
        + os.urandom(32)
        + sized(session_id, 1)
        + b"\x13\2\0"  # TLS_AES_256_GCM_SHA384, no compression
        + sized(
            _extension(43, b"\3\4")
            + _extension(51, b"\0\x1d" + sized(ours.public_key().public_bytes_raw(), 2)),
            2,
        ),
    )
    transcript.update(server_hello)
    sock.sendall(record(server_hello, HANDSHAKE))

    def derive(secret: bytes, label: bytes) -> bytes:
        return expand_label(secret, label, transcript.digest(), 48)

    nothing = hashlib.sha384().digest()
    secret = hmac.digest(bytes(48), bytes(48), "sha384")
    shared = ours.exchange(x25519.X25519PublicKey.from_public_bytes(share))
    secret = hmac.digest(expand_label(secret, b"derived", nothing, 48), shared, "sha384")
    traffic = derive(secret, b"s hs traffic")
    seal = Seal13(traffic)
    flight = b""

    def say(kind: int, body: bytes) -> None:
        nonlocal flight
        if kind not in leave_out:
            flight += handshake_message(kind, body)
            transcript.update(handshake_message(kind, body))

    say(ENCRYPTED_EXTENSIONS, sized(extensions, 2))
    shown = _der(certificate) if chain is None else chain
    say(CERTIFICATE, b"\0" + sized(b"".join(sized(one, 3) + b"\0\0" for one in shown), 3))
    key = serialization.load_pem_private_key((proof or certificate).key.encode(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    signed = b" " * 64 + b"TLS 1.3, server CertificateVerify\0" + transcript.digest()
    signature = key.sign(signed, ec.ECDSA(hashes.SHA256()))
    say(CERTIFICATE_VERIFY, b"\4\3" + sized(signature, 2))
    finished_key = expand_label(traffic, b"finished", b"", 48)
    mac = hmac.digest(finished_key, transcript.digest(), "sha384")
    say(FINISHED, mac if finished is None else finished)
    sealed = seal(early) if early else b""
    for start in range(0, len(flight), 1 << 14):
        sealed += seal(flight[start : start + (1 << 14)], HANDSHAKE)
    sock.sendall(sealed)
    secret = hmac.digest(expand_label(secret, b"derived", nothing, 48), bytes(48), "sha384")
    return Seal13(derive(secret, b"s ap traffic"))


def alpn(protocol: bytes) -> bytes:
    """The extension that says which protocol was chosen (RFC 7301)."""
    return _extension(16, sized(sized(protocol, 1), 2))


def sized(content: bytes, width: int) -> bytes:
    """Bytes behind their length, as TLS writes a vector."""
    return len(content).to_bytes(width, "big") + content


def _extension(kind: int, body: bytes) -> bytes:
    return kind.to_bytes(2, "big") + sized(body, 2)


def _message(sock: socket.socket) -> bytes:
    """The handshake message in the client's first record."""
    with sock.makefile("rb") as file:
        start = file.read(5)
        return file.read(int.from_bytes(start[3:], "big"))


def _client_share(hello: bytes) -> tuple[bytes, bytes]:
    """Session id and X25519 key share of a ClientHello (RFC 8446 section 4.1.2)."""
    at = 4 + 2 + 32
    session_id = hello[at + 1 : at + 1 + hello[at]]
    at += 1 + len(session_id)
    at += 2 + int.from_bytes(hello[at : at + 2], "big")  # cipher suites
    at += 1 + hello[at]  # compression methods
    at += 2  # all extensions' length
    while at < len(hello):
        kind, size = (int.from_bytes(hello[at + n : at + n + 2], "big") for n in (0, 2))
        if kind == 51:
            group = hello.index(b"\0\x1d\0\x20", at)
            return session_id, hello[group + 4 : group + 36]
        at += 4 + size
    raise AssertionError("the client offers no key share")


def _der(certificate: Certificate) -> list[bytes]:
    pem = x509.load_pem_x509_certificates(certificate.chain.encode())
    return [one.public_bytes(serialization.Encoding.DER) for one in pem]
