"""SMTP, LMTP, FTP and NNTP, whose replies begin with three digits; POP3; IMAP.

RFC 3207 (SMTP), 2033 (LMTP), 4217 (FTP), 4642 (NNTP), 2595 (POP3), 9051 (IMAP).
"""

from __future__ import annotations

import re

from .dialogue import Dialogue, NotSpoken, Refused, read_line, send_line

__all__ = ["ftp", "imap", "lmtp", "nntp", "pop3", "smtp"]

_REPLY_LINE = re.compile(rb"([1-5][0-9][0-9])(?:([ -])(.*))?", re.DOTALL)


# Three digits -----------------------------------------------------------------------------------


def smtp(name: str) -> Dialogue[None]:
    """EHLO, and STARTTLS if that is among what the server can do."""
    yield from _extended_mail("EHLO", name)


def lmtp(name: str) -> Dialogue[None]:
    """The same with LMTP's greeting."""
    yield from _extended_mail("LHLO", name)


def _extended_mail(hello: str, name: str) -> Dialogue[None]:
    yield from _mail_reply("220", "a greeting with 220")
    yield from send_line(f"{hello} {name}")
    offers = yield from _mail_reply("250", f"a reply to {hello}")
    # A keyword is the first word of its line: X-STARTTLS and STARTTLSX are others.
    keywords = {line[4:].upper().partition(b" ")[0] for line in offers}
    if b"STARTTLS" not in keywords:
        raise Refused(b"\r\n".join(offers), f"the reply to {hello} does not offer STARTTLS")
    yield from send_line("STARTTLS")
    yield from _mail_reply("220", "a reply to STARTTLS")


def _mail_reply(code: str, expected: str) -> Dialogue[list[bytes]]:
    """A reply of one line or more, each with the code (RFC 5321, 4.2.1)."""
    lines: list[bytes] = []
    while True:
        line = yield from read_line()
        lines.append(line)
        parts = _REPLY_LINE.fullmatch(line)
        if parts is None or not line.startswith(lines[0][:3]):
            raise NotSpoken(b"\r\n".join(lines), expected)
        if parts[2] != b"-":
            return _demand(code, lines)


def ftp(name: str) -> Dialogue[None]:
    """AUTH TLS."""
    yield from _ftp_reply("220", "a greeting with 220")
    yield from send_line("AUTH TLS")
    yield from _ftp_reply("234", "a reply to AUTH TLS")


def _ftp_reply(code: str, expected: str) -> Dialogue[list[bytes]]:
    """A reply of one line or more; what stands between the first and the last one is free text."""
    lines = [(yield from read_line())]
    parts = _REPLY_LINE.fullmatch(lines[0])
    if parts is None:
        raise NotSpoken(lines[0], expected)
    last = re.compile(rb"%b(?: .*)?" % parts[1], re.DOTALL)
    while parts[2] == b"-" and (len(lines) == 1 or not last.fullmatch(lines[-1])):
        lines.append((yield from read_line()))
    return _demand(code, lines)


def nntp(name: str) -> Dialogue[None]:
    """STARTTLS, whether posting is allowed or not."""
    yield from _news_reply("200|201", "a greeting with 200 or 201")
    yield from send_line("STARTTLS")
    yield from _news_reply("382", "a reply to STARTTLS")


def _news_reply(codes: str, expected: str) -> Dialogue[list[bytes]]:
    line = yield from read_line()
    parts = _REPLY_LINE.fullmatch(line)
    if parts is None or parts[2] == b"-":
        raise NotSpoken(line, expected)
    return _demand(codes, [line])


def _demand(codes: str, lines: list[bytes]) -> list[bytes]:
    """The reply itself, if its code is as it should be."""
    if not re.match(codes.encode(), lines[-1]):
        raise Refused(b"\r\n".join(lines))
    return lines


# Words ------------------------------------------------------------------------------------------


def pop3(name: str) -> Dialogue[None]:
    """STLS."""
    yield from _pop_reply("a greeting with +OK")
    yield from send_line("STLS")
    yield from _pop_reply("a reply to STLS")


def _pop_reply(expected: str) -> Dialogue[None]:
    line = yield from read_line()
    status = line.split(b" ", 1)[0].upper()
    if status == b"-ERR":
        raise Refused(line)
    if status != b"+OK":
        raise NotSpoken(line, expected)


def imap(name: str) -> Dialogue[None]:
    """CAPABILITY, and STARTTLS if that is among them."""
    greeting = yield from read_line()
    first, status = _imap_words(greeting, "a greeting with * OK")
    if first != b"*" or status not in (b"OK", b"BYE", b"PREAUTH"):
        raise NotSpoken(greeting, "a greeting with * OK")
    if status == b"PREAUTH":  # RFC 9051, 7.1.4: nobody can tell who logged in here, and how
        raise Refused(greeting, "the server takes us for logged in, where STARTTLS isn't allowed")
    if status == b"BYE":
        raise Refused(greeting)
    untagged = yield from _imap_command("a1", "CAPABILITY")
    capabilities = [line for line in untagged if line.upper().split()[1:2] == [b"CAPABILITY"]]
    if not any(b"STARTTLS" in line.upper().split()[2:] for line in capabilities):
        raise Refused(b"\r\n".join(capabilities), "CAPABILITY does not list STARTTLS")
    yield from _imap_command("a2", "STARTTLS")


def _imap_command(tag: str, command: str) -> Dialogue[list[bytes]]:
    """Send it, and wait for its OK. Returns the untagged responses that came before that."""
    yield from send_line(f"{tag} {command}")
    untagged: list[bytes] = []
    while True:
        line = yield from read_line()
        expected = f"a response to {command}"
        first, status = _imap_words(line, expected)
        if first == b"*":
            untagged.append(line)
            if status == b"BYE":
                raise Refused(line)
        elif first != tag.encode() or status not in (b"OK", b"NO", b"BAD"):
            raise NotSpoken(line, expected)
        elif status == b"OK":
            return untagged
        else:
            raise Refused(line)


def _imap_words(line: bytes, expected: str) -> tuple[bytes, bytes]:
    """The tag, or *, and the word behind it."""
    words = line.split(b" ", 2)
    if len(words) < 2 or not words[1]:
        raise NotSpoken(line, expected)
    return words[0], words[1].upper()
