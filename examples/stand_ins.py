"""Servers for the examples to talk to when nobody gives them an address.

Each knows just enough of its protocol for its example, over `tcpsock.testing.serve()`, on a free
port of the loopback, with a certificate that is made up on the spot. tests/servers/ runs the same
examples against the real ones.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import hmac
import secrets
import socket
import ssl
import struct
from collections.abc import Iterator
from typing import BinaryIO

from tcpsock.testing import Handler, Server, authority, serve, server_context, upgrade


@contextlib.contextmanager
def running(handler: Handler, *, tls: bool = False) -> Iterator[Server]:
    """Serve, and raise at the end what went wrong in the handler."""
    with serve(handler, tls=tls) as server:
        yield server
        server.wait()
    if server.errors:
        raise server.errors[0]


def gopher() -> contextlib.AbstractContextManager[Server]:
    """A menu of one page, whatever is asked for."""

    def handle(sock: socket.socket) -> None:
        with sock.makefile("rb") as stream:
            stream.readline()
        sock.sendall(b"iWelcome to Gopherspace.\t\tlocalhost\t70\r\n")
        sock.sendall(b"0About gophers\t/about\tlocalhost\t70\r\n.\r\n")

    return running(handle)


def http() -> contextlib.AbstractContextManager[Server]:
    """A short page, sent once the client has ended its request by a half-close."""

    def handle(sock: socket.socket) -> None:
        with sock.makefile("rb") as stream:
            request = stream.read()
        page = b"You asked: " + request.splitlines()[0] + b"\n"
        head = f"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {len(page)}\r\n\r\n"
        sock.sendall(head.encode() + page)

    return running(handle)


def redis() -> contextlib.AbstractContextManager[Server]:
    """Strings and counters; it hangs up without a close_notify, as some releases of Redis do."""
    store: dict[bytes, bytes] = {}

    def bulk(value: bytes | None) -> bytes:
        return b"$-1\r\n" if value is None else b"$%d\r\n%s\r\n" % (len(value), value)

    def answer(name: bytes, key: bytes = b"", *more: bytes) -> bytes:
        if name == b"SET":
            store[key] = more[0]
            return b"+OK\r\n"
        if name == b"GET":
            return bulk(store.get(key))
        if name == b"MGET":
            return b"*%d\r\n" % (1 + len(more)) + b"".join(bulk(store.get(k)) for k in (key, *more))
        if name == b"DEL":
            return b":%d\r\n" % (store.pop(key, None) is not None)
        if name == b"INCR":
            value = store.get(key, b"0")
            if not value.isdigit():
                return b"-ERR value is not an integer or out of range\r\n"
            store[key] = b"%d" % (int(value) + 1)
            return b":" + store[key] + b"\r\n"
        return b"+OK\r\n" if name == b"QUIT" else b"-ERR unknown command\r\n"

    def words(stream: BinaryIO) -> list[bytes]:
        found = []
        for _ in range(int(stream.readline()[1:])):
            length = int(stream.readline()[1:])
            found.append(stream.read(length + 2)[:-2])
        return found

    def handle(sock: socket.socket) -> None:
        with sock.makefile("rb") as stream:
            command = [b""]
            while command != [b"QUIT"]:
                command = words(stream)
                sock.sendall(answer(*command))
        socket.socket.shutdown(sock, socket.SHUT_WR)  # without the close_notify that unwrap() sends

    return running(handle, tls=True)


def smtp() -> contextlib.AbstractContextManager[Server]:
    """Takes one message, over TLS alone."""

    def talk(sock: socket.socket, replies: dict[str, str]) -> str:
        """Answer each line by its first word; return the one that no reply is known for."""
        with sock.makefile("rb", buffering=0) as stream:  # TLS may begin right behind a line
            while line := stream.readline().decode().rstrip():
                word = line.split()[0].upper()
                if word not in replies:
                    return word
                sock.sendall(replies[word].encode())
        return ""

    def handle(sock: socket.socket) -> None:
        sock.sendall(b"220 localhost ESMTP\r\n")
        features = "250-localhost\r\n250-8BITMIME\r\n250 STARTTLS\r\n"
        assert talk(sock, {"EHLO": features}) == "STARTTLS"
        sock.sendall(b"220 go ahead\r\n")
        secure = upgrade(sock)
        ok = "250 OK\r\n"
        assert talk(secure, {"EHLO": "250 localhost\r\n", "MAIL": ok, "RCPT": ok}) == "DATA"
        secure.sendall(b"354 end it with a dot alone\r\n")
        size = 0
        with secure.makefile("rb") as stream:
            while (line := stream.readline()) != b".\r\n":
                size += len(line) - line.startswith(b".")
        secure.sendall(b"250 OK, %d bytes for you\r\n" % size)
        assert talk(secure, {}) == "QUIT"
        secure.sendall(b"221 goodbye\r\n")

    return running(handle)


def postgres(*, password: str) -> contextlib.AbstractContextManager[Server]:
    """Checks the login for real, channel binding included, and answers every query alike."""
    certificate = authority().issue()
    context = server_context(certificate)
    leaf = certificate.chain[: certificate.chain.index("-----END")] + "-----END CERTIFICATE-----\n"
    binding = hashlib.sha256(ssl.PEM_cert_to_DER_cert(leaf)).digest()

    def handle(sock: socket.socket) -> None:
        assert sock.recv(8) == struct.pack(">ii", 8, 80877103)
        sock.sendall(b"S")
        secure = upgrade(sock, context)
        with secure.makefile("rb") as stream:
            (length,) = struct.unpack(">i", stream.read(4))
            assert b"user\0postgres\0" in stream.read(length - 4)
            _scram(secure, stream, password, binding)
            _send(secure, b"R", struct.pack(">i", 0))
            _send(secure, b"S", b"server_version\0stand-in\0")
            _send(secure, b"Z", b"I")
            while _receive(stream, b"QX"):
                _send(secure, b"T", struct.pack(">h", 0))
                _send(secure, b"D", _row(b"A stand-in for PostgreSQL", b"42", None))
                _send(secure, b"C", b"SELECT 1\0")
                _send(secure, b"Z", b"I")

    return running(handle)


def _row(*values: bytes | None) -> bytes:
    body = struct.pack(">h", len(values))
    for value in values:
        body += struct.pack(">i", -1) if value is None else struct.pack(">i", len(value)) + value
    return body


def _send(sock: socket.socket, kind: bytes, body: bytes) -> None:
    sock.sendall(kind + struct.pack(">i", len(body) + 4) + body)


def _receive(stream: BinaryIO, kinds: bytes) -> bytes:
    kind, length = struct.unpack(">ci", stream.read(5))
    assert kind in kinds
    return stream.read(length - 4)


def _scram(sock: socket.socket, stream: BinaryIO, password: str, binding: bytes) -> None:
    """The server's half of SCRAM-SHA-256-PLUS; a wrong proof fails an assertion."""
    digest = functools.partial(hmac.digest, digest="sha256")
    _send(sock, b"R", struct.pack(">i", 10) + b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0")
    mechanism, first = _receive(stream, b"p").split(b"\0", 1)
    assert mechanism == b"SCRAM-SHA-256-PLUS"
    gs2, bare = first[4 : first.index(b"n=")], first[first.index(b"n=") :]
    salt, rounds = secrets.token_bytes(16), 4096
    nonce = bare[bare.index(b"r=") + 2 :] + base64.b64encode(secrets.token_bytes(18))
    challenge = b"r=%s,s=%s,i=%d" % (nonce, base64.b64encode(salt), rounds)
    _send(sock, b"R", struct.pack(">i", 11) + challenge)

    final, _, proof = _receive(stream, b"p").rpartition(b",p=")
    assert final == b"c=" + base64.b64encode(gs2 + binding) + b",r=" + nonce
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, rounds)
    everything = bare + b"," + challenge + b"," + final
    stored = hashlib.sha256(digest(salted, b"Client Key")).digest()
    signature = digest(stored, everything)
    client_key = bytes(a ^ b for a, b in zip(base64.b64decode(proof), signature, strict=True))
    assert hashlib.sha256(client_key).digest() == stored
    verdict = base64.b64encode(digest(digest(salted, b"Server Key"), everything))
    _send(sock, b"R", struct.pack(">i", 12) + b"v=" + verdict)
