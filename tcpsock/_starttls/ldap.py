"""LDAP's StartTLS, an extended operation (RFC 4511, 4.14), and as much BER as it takes."""

from __future__ import annotations

from dataclasses import dataclass

from .dialogue import Dialogue, NotSpoken, ReadExactly, Refused, Send, not_spoken

__all__ = ["ldap"]

_START_TLS = b"1.3.6.1.4.1.1466.20037"
_DISCONNECTION = b"1.3.6.1.4.1.1466.20036"
_MESSAGE_ID = 1

# Tags.
_INTEGER, _OCTETS, _ENUMERATED, _SEQUENCE = 0x02, 0x04, 0x0A, 0x30
_EXTENDED_RESPONSE = 0x78  # [APPLICATION 24]
_RESPONSE_NAME = 0x8A  # [10]

_EXPECTED = "an answer to StartTLS"


def ldap(name: str) -> Dialogue[None]:
    """Ask, and wait for the answer to that question."""
    oid = bytes([0x80, len(_START_TLS)]) + _START_TLS
    request = bytes([_INTEGER, 1, _MESSAGE_ID, 0x77, len(oid)]) + oid
    yield Send(bytes([_SEQUENCE, len(request)]) + request)
    while True:
        message = yield from _read_message()
        try:
            answer = _Answer.parse(message)
        except ValueError:
            raise NotSpoken(message, _EXPECTED) from None
        if answer.message_id == _MESSAGE_ID:
            break
        if answer.message_id != 0:
            raise NotSpoken(message, _EXPECTED)
        if answer.name == _DISCONNECTION:
            raise Refused(answer.diagnostic, f"the server disconnects, result {answer.result}")
        # Another unsolicited notification (4.4) is nothing that we must know.
    if answer.result != 0:
        raise Refused(answer.diagnostic, f"result {answer.result}")


def _read_message() -> Dialogue[bytes]:
    """One whole element, its tag and length included. Nothing behind it is read."""
    head = yield ReadExactly(2)
    if head[0] != _SEQUENCE:
        yield from not_spoken(head, _EXPECTED)
    size = head[1]
    if size & 0x80:  # the long form: so many bytes are the length
        if not 1 <= size & 0x7F <= 4:  # none at all is the indefinite form, which LDAP forbids
            yield from not_spoken(head, _EXPECTED)
        length = yield ReadExactly(size & 0x7F)
        head += length
        size = int.from_bytes(length, "big")
    return head + (yield ReadExactly(size))


@dataclass(frozen=True)
class _Answer:
    """What an extended response says."""

    message_id: int
    result: int
    diagnostic: bytes
    name: bytes

    @classmethod
    def parse(cls, message: bytes) -> _Answer:
        """ValueError if it is none."""
        body = _Elements(_Elements(message).take(_SEQUENCE))
        message_id = _integer(body.take(_INTEGER))
        response = _Elements(body.take(_EXTENDED_RESPONSE))  # controls may follow
        result = _integer(response.take(_ENUMERATED))
        response.take(_OCTETS)  # matchedDN
        diagnostic = response.take(_OCTETS)
        name = b""
        while response.rest:
            tag, content = response.next()
            if tag == _RESPONSE_NAME:
                name = content
        return cls(message_id, result, diagnostic, name)


class _Elements:
    """A sequence of BER elements with tags of one byte and definite lengths."""

    def __init__(self, content: bytes) -> None:
        self.rest = content

    def next(self) -> tuple[int, bytes]:
        """The tag and the content of the next one. ValueError if it isn't all there."""
        if len(self.rest) < 2:
            raise ValueError("cut short")
        tag, size, start = self.rest[0], self.rest[1], 2
        if size & 0x80:
            start += size & 0x7F
            if not 2 < start <= len(self.rest):
                raise ValueError("no definite length")
            size = int.from_bytes(self.rest[2:start], "big")
        content = self.rest[start : start + size]
        if len(content) < size:
            raise ValueError("cut short")
        self.rest = self.rest[start + size :]
        return tag, content

    def take(self, tag: int) -> bytes:
        """The content of the next one, whose tag must be this one."""
        found, content = self.next()
        if found != tag:
            raise ValueError(f"tag {found:#x} instead of {tag:#x}")
        return content


def _integer(content: bytes) -> int:
    if not 1 <= len(content) <= 8:
        raise ValueError("no number")
    return int.from_bytes(content, "big", signed=True)
