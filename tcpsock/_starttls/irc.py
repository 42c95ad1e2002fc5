"""IRC: STARTTLS among the first words of a connection (the IRCv3 extension "tls")."""

from __future__ import annotations

import re

from .dialogue import Dialogue, NotSpoken, Refused, Send, read_line, send_line

__all__ = ["irc"]

# Tags, a prefix, the command (a word or three digits), and its parameters.
_MESSAGE = re.compile(rb"(?:@\S+ +)?(?::\S+ +)?([A-Za-z]+|[0-9]{3})(?: +(.*))?", re.DOTALL)


def irc(name: str) -> Dialogue[None]:
    """Wait for 670; a server that greets with NOTICEs, or asks with PING, is listened to."""
    yield from send_line("STARTTLS")
    while True:
        line = yield from read_line()
        message = _MESSAGE.fullmatch(line)
        if message is None:
            raise NotSpoken(line, "a reply to STARTTLS")
        command, parameters = message[1].upper(), message[2] or b""
        if command == b"670":  # RPL_STARTTLS
            return
        if command == b"PING":
            yield Send(b"PONG " + parameters + b"\r\n")
        elif command != b"NOTICE":
            raise Refused(line)
