"""ManageSieve (RFC 5804): the server begins with its capabilities, as it does behind TLS again."""

from __future__ import annotations

import re

from .dialogue import Dialogue, NotSpoken, ReadExactly, ReadTo, Refused, send_line

__all__ = ["sieve"]

_LITERAL = re.compile(rb"\{([0-9]{1,10})\+?\}\r?\n\Z")  # so many bytes follow the line's end
_STRING = re.compile(rb'"((?:[^"\\]|\\.)*)"|\{[0-9]{1,10}\+?\}\r?\n', re.DOTALL)
_STATUS = re.compile(rb"(OK|NO|BYE)(?![^\s(])", re.IGNORECASE)


def sieve(name: str) -> Dialogue[None]:
    """STARTTLS, if that is among the capabilities."""
    offered = yield from _response("a list of capabilities")
    if b"STARTTLS" not in [_first_string(line).upper() for line in offered]:
        raise Refused(b"".join(offered), "the capabilities do not list STARTTLS")
    yield from send_line("STARTTLS")
    yield from _response("a reply to STARTTLS")


def _response(expected: str) -> Dialogue[list[bytes]]:
    """Wait for OK. Returns the lines before that, each of which begins with a string."""
    lines: list[bytes] = []
    while True:
        line = yield from _line_with_literals()
        status = _STATUS.match(line)
        if status is None and _STRING.match(line) is None:
            raise NotSpoken(line, expected)
        if status is None:
            lines.append(line)
        elif status[1].upper() == b"OK":
            return lines
        else:
            raise Refused(line)


def _line_with_literals() -> Dialogue[bytes]:
    """A line, the literals in it and what stands behind them; a literal may have line ends."""
    line = part = yield ReadTo(b"\n")
    while literal := _LITERAL.search(part):
        line += yield ReadExactly(int(literal[1]))
        part = yield ReadTo(b"\n")
        line += part
    return line


def _first_string(line: bytes) -> bytes:
    string = _STRING.match(line)
    assert string is not None
    if string[1] is not None:
        return re.sub(rb"\\(.)", rb"\1", string[1], flags=re.DOTALL)
    size = int(re.sub(rb"[^0-9]", b"", string[0]))
    return line[string.end() : string.end() + size]
