"""Query PostgreSQL by hand: SSLRequest, StartTLS, a login that is bound to the TLS session, rows.

    python examples/postgres.py                           with a stand-in that it starts itself
    python examples/postgres.py HOST:PORT USER [QUERY]    the password is in PGPASSWORD

An environment variable SSL_CERT_FILE names the roots to trust, if they are not the public ones.

Every message but the first two is a type byte, a length of four bytes that counts itself, and the
body. The login is SCRAM-SHA-256-PLUS (RFC 5802, RFC 7677): it proves to both sides that the other
knows the password, and that nobody sits in the middle with a TLS session to each of them.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import os
import secrets
import struct
import sys
from collections.abc import Iterator

from tcpsock import Reader, Socket, SocketError, TlsOptions, Writer, connect

SSL_REQUEST = struct.pack(">ii", 8, 80877103)
PROTOCOL_3 = 196608
GS2 = b"p=tls-server-end-point,,"  # the channel binding that we use; no other name to act for


class PostgresError(Exception):
    """The server's own error, or something that no PostgreSQL server says."""


def receive(reader: Reader) -> tuple[bytes, bytes]:
    """Read one message: its type and its body.

    Raises:
        PostgresError: it was the server's error.
    """
    kind, length = struct.unpack(">ci", reader.read_exactly(5))
    body = reader.read_exactly(length - 4) if length > 4 else b""
    if kind == b"E":  # fields: one byte that tells which, and a text
        fields = {field[:1]: field[1:].decode() for field in body.split(b"\0") if field}
        raise PostgresError(fields.get(b"M", "unknown error"))
    return kind, body


def send(writer: Writer, kind: bytes, body: bytes) -> None:
    writer.write(kind + struct.pack(">i", len(body) + 4) + body)


def upgrade(plain: Socket) -> Socket:
    """Ask for TLS, and start it once the server has said S (yes)."""
    reader, writer = plain.streams()
    writer.write(SSL_REQUEST)
    if reader.read_exactly(1) != b"S":
        raise PostgresError("the server does not do TLS")
    return plain.start_tls()


def digest(key: bytes, text: bytes) -> bytes:
    return hmac.digest(key, text, "sha256")


def log_in(reader: Reader, writer: Writer, password: str, binding: bytes) -> None:
    """Do SCRAM-SHA-256-PLUS, up to the server's proof that it knows the password too."""
    kind, body = receive(reader)
    code, mechanisms = body[:4], body[4:].split(b"\0")
    if kind != b"R" or code != struct.pack(">i", 10) or b"SCRAM-SHA-256-PLUS" not in mechanisms:
        raise PostgresError("the server does not offer SCRAM-SHA-256-PLUS")

    # The user was named in the start-up message, so the name stays empty here.
    first = b"n=,r=" + base64.b64encode(secrets.token_bytes(18))
    send(
        writer,
        b"p",
        b"SCRAM-SHA-256-PLUS\0" + struct.pack(">i", len(GS2 + first)) + GS2 + first,
    )
    challenge = receive(reader)[1][4:]
    fields = dict(part.split(b"=", 1) for part in challenge.split(b","))
    if not fields[b"r"].startswith(first[5:]):
        raise PostgresError("an answer to somebody else's login")

    # Outside ASCII a password would have to go through SASLprep first.
    salt, rounds = base64.b64decode(fields[b"s"]), int(fields[b"i"])
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, rounds)
    final = b"c=" + base64.b64encode(GS2 + binding) + b",r=" + fields[b"r"]
    everything = first + b"," + challenge + b"," + final
    client_key = digest(salted, b"Client Key")
    signature = digest(hashlib.sha256(client_key).digest(), everything)
    proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
    send(writer, b"p", final + b",p=" + base64.b64encode(proof))

    verdict = receive(reader)[1][4:]
    expected = digest(digest(salted, b"Server Key"), everything)
    if not hmac.compare_digest(verdict, b"v=" + base64.b64encode(expected)):
        raise PostgresError("the server does not know the password")


@contextlib.contextmanager
def session(
    address: str,
    user: str,
    password: str,
    *,
    database: str = "postgres",
    tls: TlsOptions | None = None,
) -> Iterator[tuple[Reader, Writer]]:
    """Connect, log in, and say goodbye at the end."""
    with connect(address, secure_transport="starttls", tls=tls, timeout=30) as plain:
        secure = upgrade(plain)
        info = secure.opened.result()  # the handshake is done, the certificate verified
        reader, writer = secure.streams()
        parameters = f"user\0{user}\0database\0{database}\0\0".encode()
        writer.write(struct.pack(">ii", len(parameters) + 8, PROTOCOL_3) + parameters)
        log_in(reader, writer, password, info.channel_binding())
        while receive(reader)[0] != b"Z":  # settings that it reports, until it is ready
            pass
        yield reader, writer
        send(writer, b"X", b"")


def query(reader: Reader, writer: Writer, sql: str) -> list[list[str | None]]:
    """Run one statement and return its rows, each value as text."""
    send(writer, b"Q", sql.encode() + b"\0")
    rows = []
    while True:
        kind, body = receive(reader)
        if kind == b"D":
            rows.append(values(body))
        elif kind == b"Z":
            return rows


def values(body: bytes) -> list[str | None]:
    """Take a row apart: how many values, then a length and that many bytes each; -1 is NULL."""
    found: list[str | None] = []
    (count,), at = struct.unpack_from(">h", body), 2
    for _ in range(count):
        (length,), at = struct.unpack_from(">i", body, at), at + 4
        found.append(None if length < 0 else body[at : at + length].decode())
        at += max(length, 0)
    return found


def show(address: str, user: str, password: str, sql: str, tls: TlsOptions | None = None) -> None:
    with session(address, user, password, tls=tls) as (reader, writer):
        for row in query(reader, writer, sql):
            print(*row, sep=" | ")


def main() -> None:
    sql = "select version(), 6 * 7, null"
    if len(sys.argv) > 2:
        _, address, user, *query_words = sys.argv
        show(address, user, os.environ.get("PGPASSWORD", ""), " ".join(query_words) or sql)
    else:
        import stand_ins

        with stand_ins.postgres(password="correct horse") as server:
            tls = TlsOptions(ca_data=server.ca_data)
            show(server.address, "postgres", "correct horse", sql, tls)


if __name__ == "__main__":
    try:
        main()
    except (SocketError, PostgresError) as error:
        sys.exit(f"postgres: {error}")
