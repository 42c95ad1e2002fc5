"""PostgreSQL and MySQL, which both agree on TLS before anybody has logged in."""

from __future__ import annotations

from .dialogue import Dialogue, NotSpoken, ReadExactly, ReadTo, Refused, Send, not_spoken

__all__ = ["mysql", "postgres"]


# PostgreSQL (its manual, "Message Flow") ----------------------------------------------------------

_SSL_REQUEST = b"\0\0\0\x08\x04\xd2\x16\x2f"  # its length, and 80877103 in place of a version
_LONGEST_ERROR = 8192  # bytes; what begins with more is no length


def postgres(name: str) -> Dialogue[None]:
    """SSLRequest; the answer is one byte, and TLS begins right behind it."""
    yield Send(_SSL_REQUEST)
    answer = yield ReadExactly(1)
    if answer == b"S":
        return
    if answer == b"N":
        raise Refused(answer, "the server has no TLS")
    if answer != b"E":
        yield from not_spoken(answer, "the byte S")
    head = yield ReadExactly(4)
    size = int.from_bytes(head, "big")
    if 4 <= size <= _LONGEST_ERROR:
        raise Refused(_postgres_message((yield ReadExactly(size - 4))))
    if not head.isascii() or b"\0" in head:
        yield from not_spoken(answer + head, "the byte S")
    rest = yield ReadTo(b"\0")  # from before protocol 3: a string and nothing else
    raise Refused((head + rest).rstrip(b"\n\0"))


def _postgres_message(body: bytes) -> bytes:
    """The field M of an ErrorResponse; all of it if there is none."""
    for field in body.split(b"\0"):
        if field.startswith(b"M"):
            return field[1:]
    return body


# MySQL and MariaDB ("Connection Phase") -----------------------------------------------------------

_CLIENT_SSL = 0x0800
_CAPABILITIES = (
    0x0001  # LONG_PASSWORD; in MariaDB: we are no client that extends these flags
    | 0x0004  # LONG_FLAG
    | 0x0200  # PROTOCOL_41
    | _CLIENT_SSL
    | 0x2000  # TRANSACTIONS
    | 0x8000  # SECURE_CONNECTION
    | 0x80000  # PLUGIN_AUTH
)
_LONGEST_GREETING = 8192  # bytes; what begins with more is no length
_LONGEST_PACKET = (1 << 24) - 1
_UTF8MB4 = 45  # utf8mb4_general_ci
_GREETING = "a greeting of protocol 10"


def mysql(name: str) -> Dialogue[None]:
    """Read the greeting, send SSLRequest; there is no answer, the next bytes are TLS."""
    head = yield ReadExactly(4)
    size, sequence = int.from_bytes(head[:3], "little"), head[3]
    if not 1 <= size <= _LONGEST_GREETING or sequence != 0:
        yield from not_spoken(head, _GREETING)
    greeting = yield ReadExactly(size)
    if greeting[0] == 0xFF:
        raise Refused(_mysql_message(greeting))
    version, end, rest = greeting[1:].partition(b"\0")
    # Thread id (4), the nonce's beginning (8), a zero, then the lower half of the capabilities.
    if greeting[0] != 10 or not end or len(rest) < 15:
        raise NotSpoken(greeting, _GREETING)
    if not int.from_bytes(rest[13:15], "little") & _CLIENT_SSL:
        raise Refused(version, "the server has no TLS")
    request = _CAPABILITIES.to_bytes(4, "little") + _LONGEST_PACKET.to_bytes(4, "little")
    request += bytes([_UTF8MB4]) + bytes(23)
    yield Send(len(request).to_bytes(3, "little") + b"\x01" + request)


def _mysql_message(packet: bytes) -> bytes:
    """What an ERR packet says: behind 0xFF a number, then # and five characters in newer ones."""
    message = packet[3:]
    return message[6:] if message.startswith(b"#") else message
