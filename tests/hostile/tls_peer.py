"""Peers whose TLS records are the test's own: sealed by hand, so anything can stand in them.

Python's `ssl` makes good records alone. A test that wants bad ones needs the keys: OpenSSL writes
a connection's secrets into a key log, and what is left to do is small. `SealedPeer` does the
handshake with OpenSSL and seals what it sends by itself; reading stays OpenSSL's. For handshakes
that go wrong after the ServerHello, where everything is encrypted, see tls13_server.py.
"""

from __future__ import annotations

import contextlib
import hmac
import socket
import ssl
import tempfile
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from peers import Peer

from tcpsock.testing import server_context

__all__ = [
    "ALERT",
    "APPLICATION",
    "CHANGE_CIPHER_SPEC",
    "FATAL",
    "HANDSHAKE",
    "LARGEST",
    "WARNING",
    "Seal12",
    "Seal13",
    "SealedPeer",
    "alert",
    "expand_label",
    "handshake_message",
    "header",
    "hostile_context",
    "key_update",
    "record",
    "session_ticket",
]

CHANGE_CIPHER_SPEC, ALERT, HANDSHAKE, APPLICATION = 20, 21, 22, 23  # RFC 8446 section 5.1
LARGEST = 1 << 14  # bytes in a record's plaintext

WARNING, FATAL = 1, 2


def header(size: int, kind: int = APPLICATION, version: int = 0x0303) -> bytes:
    """The five bytes before a record's content."""
    return bytes([kind]) + version.to_bytes(2, "big") + size.to_bytes(2, "big")


def record(content: bytes, kind: int = APPLICATION, version: int = 0x0303) -> bytes:
    """A record as it is: in clear."""
    return header(len(content), kind, version) + content


def alert(description: int, level: int = FATAL) -> bytes:
    """The content of an alert record."""
    return bytes([level, description])


def handshake_message(kind: int, body: bytes = b"") -> bytes:
    """A handshake message, as it stands in records of kind HANDSHAKE."""
    return bytes([kind]) + len(body).to_bytes(3, "big") + body


def key_update(requested: bool) -> bytes:
    """RFC 8446 section 4.6.3. Whoever sends it seals all that follows with the next keys."""
    return handshake_message(24, bytes([requested]))


def session_ticket(number: int, size: int = 32, lifetime: int = 7200) -> bytes:
    """RFC 8446 section 4.6.1."""
    nonce, ticket = number.to_bytes(8, "big"), number.to_bytes(size, "big")
    return handshake_message(
        4,
        lifetime.to_bytes(4, "big")
        + bytes(4)
        + bytes([len(nonce)])
        + nonce
        + size.to_bytes(2, "big")
        + ticket
        + bytes(2),
    )


# Sealing: AES-256-GCM with SHA-384, which both versions agree on when the other side is OpenSSL.


class Seal13:
    """RFC 8446 section 5.2, from a traffic secret."""

    def __init__(self, secret: bytes) -> None:
        self._use(secret)

    def __call__(self, content: bytes, kind: int = APPLICATION, *, padding: int = 0) -> bytes:
        return self.inner(content + bytes([kind]) + bytes(padding))

    def inner(self, inner: bytes) -> bytes:
        """A record whose inner plaintext is not even completed by its content type."""
        start = header(len(inner) + 16)
        return start + self._key.encrypt(self._nonce(), inner, start)

    def unseal(self, start: bytes, sealed: bytes) -> tuple[int, bytes]:
        """Kind and content of the next record, where the other side does the sealing."""
        inner = self._key.decrypt(self._nonce(), sealed, start).rstrip(b"\0")
        return inner[-1], inner[:-1]

    def next_keys(self) -> None:
        """What a KeyUpdate is followed by (section 7.2)."""
        self._use(expand_label(self._secret, b"traffic upd", b"", 48))

    def _use(self, secret: bytes) -> None:
        self._secret = secret
        self._key = AESGCM(expand_label(secret, b"key", b"", 32))
        self._iv = int.from_bytes(expand_label(secret, b"iv", b"", 12), "big")
        self._number = 0

    def _nonce(self) -> bytes:
        number, self._number = self._number, self._number + 1
        return (self._iv ^ number).to_bytes(12, "big")


class Seal12:
    """RFC 5246 section 6.2.3.3 and RFC 5288, from one side's key and salt."""

    def __init__(self, key: bytes, salt: bytes) -> None:
        self._key, self._salt = AESGCM(key), salt
        self._number = 1  # the Finished message had 0

    @classmethod
    def both(
        cls, master: bytes, client_random: bytes, server_random: bytes
    ) -> tuple[Seal12, Seal12]:
        """The client's and the server's, from the master secret (RFC 5246 section 6.3)."""
        seed = a = b"key expansion" + server_random + client_random
        block = b""
        while len(block) < 72:
            a = hmac.digest(master, a, "sha384")
            block += hmac.digest(master, a + seed, "sha384")
        return cls(block[:32], block[64:68]), cls(block[32:64], block[68:72])

    def __call__(self, content: bytes, kind: int = APPLICATION) -> bytes:
        number = self._number.to_bytes(8, "big")
        self._number += 1
        known = number + header(len(content), kind)
        sealed = number + self._key.encrypt(self._salt + number, content, known)
        return record(sealed, kind)

    def unseal(self, start: bytes, sealed: bytes) -> tuple[int, bytes]:
        """Kind and content of the next record, where the other side does the sealing."""
        number = self._number.to_bytes(8, "big")
        self._number += 1
        known = number + header(len(sealed) - 8 - 16, start[0])
        return start[0], self._key.decrypt(self._salt + sealed[:8], sealed[8:], known)


def expand_label(secret: bytes, label: bytes, context: bytes, size: int) -> bytes:
    """HKDF-Expand-Label of RFC 8446 section 7.1, with SHA-384."""
    label = b"tls13 " + label
    info = size.to_bytes(2, "big") + bytes([len(label)]) + label + bytes([len(context)]) + context
    assert size <= 48, "one round of HKDF-Expand"
    return hmac.digest(secret, info + b"\1", "sha384")[:size]


# The peer


def hostile_context(version: ssl.TLSVersion) -> ssl.SSLContext:
    """A server's context for a SealedPeer: no session tickets, which would be sealed records."""
    context = server_context(minimum=version, maximum=version)
    context.num_tickets = 0
    context.set_ciphers("ECDHE+AESGCM")
    return context


class SealedPeer(Peer):
    """A Peer that seals what it sends by itself.

    After start_tls(), `seal(content, kind)` makes the next record, and send_raw() sends it. What
    OpenSSL would send from then on, by send() or end(), the other side could not read. `theirs`
    unseals what the other side sends.
    """

    seal: Seal12 | Seal13
    theirs: Seal12 | Seal13
    flight = b""  # the server's first one, as it went out

    def start_tls(self, context: ssl.SSLContext, early: bytes = b"") -> None:
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)  # small records
        with tempfile.TemporaryDirectory() as directory:
            log = Path(directory, "keys")
            context.keylog_filename = log
            try:
                super().start_tls(context, early)
            finally:
                context.keylog_filename = None
            secrets = dict(_secrets(log.read_text()))
        assert self.tls is not None
        cipher = self.tls.cipher()
        assert cipher and cipher[0].endswith(("AES256-GCM-SHA384", "AES_256_GCM_SHA384")), cipher
        if self.tls.version() == "TLSv1.3":
            self.seal = Seal13(secrets["SERVER_TRAFFIC_SECRET_0"][1])
            self.theirs = Seal13(secrets["CLIENT_TRAFFIC_SECRET_0"][1])
        else:
            client_random, master = secrets["CLIENT_RANDOM"]
            self.theirs, self.seal = Seal12.both(master, client_random, self.flight[11:43])

    def sealed(self, *contents: bytes, kind: int = APPLICATION) -> bytes:
        """A record for each, not sent. They are numbered: make them in the order of sending."""
        return b"".join(self.seal(content, kind) for content in contents)

    def send_sealed(self, *contents: bytes, kind: int = APPLICATION) -> None:
        """Send a record for each."""
        self.send_raw(self.sealed(*contents, kind=kind))

    def send_key_update(self, *, requested: bool) -> None:
        """Send KeyUpdate, and go on with the next keys."""
        assert isinstance(self.seal, Seal13)
        self.send_sealed(key_update(requested), kind=HANDSHAKE)
        self.seal.next_keys()

    def next_record(self) -> tuple[int, bytes]:
        """Kind and content of the next record that comes; not together with read()."""
        start = self._raw(5)
        return self.theirs.unseal(start, self._raw(int.from_bytes(start[3:], "big")))

    def _raw(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            data += self.sock.recv(size - len(data)) or pytest.fail("the other side hung up")
        return data

    def last_words(self) -> str:
        """The alert with which the other side left, in OpenSSL's words; drops the data before."""
        try:
            while self.read():
                pass
        except ssl.SSLError as error:
            return error.reason or str(error)
        except ConnectionError:
            return "reset"
        return "close_notify"

    def _flush(self) -> None:
        data = self._outgoing.read()
        self.flight = self.flight or data
        with contextlib.suppress(ConnectionError):  # a client that refuses us may be gone
            self.sock.sendall(data)


def _secrets(log: str) -> list[tuple[str, tuple[bytes, bytes]]]:
    """The lines of a key log: name, client random, secret."""
    lines = [line.split() for line in log.splitlines() if not line.startswith("#")]
    return [
        (name, (bytes.fromhex(random), bytes.fromhex(secret))) for name, random, secret in lines
    ]
