"""XMPP (RFC 6120, 5): a stream of XML, in which one element asks for TLS and another allows it.

The stream is cut into tags here, and each tag goes to expat as a whole, which knows about prefixes,
quoting and entities. Doctypes, and with them all entities of the server's own, comments and
processing instructions are forbidden by RFC 6120, 11.1, and refused before expat sees them.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from .dialogue import Dialogue, NotSpoken, ReadExactly, ReadTo, Refused, Send, not_spoken

__all__ = ["xmpp", "xmpp_server"]

_STREAMS = "http://etherx.jabber.org/streams"
_TLS = "urn:ietf:params:xml:ns:xmpp-tls"
_LONGEST_TAG = 8192
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&apos;"}
_STREAM_EXPECTED = "an XMPP stream"

# Text, and then a tag whose quoted values are all complete; or a CDATA section.
_WHOLE_TAG = re.compile(rb"""[^<]*<(?:"[^"]*"|'[^']*'|[^"'>])*>""")
_DECLARATION = re.compile(rb"\s*<\?xml\s")
_CDATA = re.compile(rb"[^<]*<!\[CDATA\[")
_FORBIDDEN = re.compile(rb"[^<]*<[!?]")


def xmpp(name: str) -> Dialogue[None]:
    """Open a client's stream to the domain `name`."""
    yield from _upgrade("jabber:client", name)


def xmpp_server(name: str) -> Dialogue[None]:
    """Open a server's stream to the domain `name`."""
    yield from _upgrade("jabber:server", name)


def _upgrade(namespace: str, domain: str) -> Dialogue[None]:
    quoted = "".join(_ENTITIES.get(character, character) for character in domain)
    header = (
        f"<?xml version='1.0'?><stream:stream to='{quoted}' xmlns='{namespace}'"
        f" xmlns:stream='{_STREAMS}' version='1.0'>"
    )
    yield Send(header.encode())
    stream = _Stream()
    features = yield from stream.next_child()
    if features.name != f"{_STREAMS} features":
        raise Refused(features.raw)
    if f"{_TLS} starttls" not in features.children:
        raise Refused(features.raw, "the stream's features do not list starttls")
    yield Send(f"<starttls xmlns='{_TLS}'/>".encode())
    answer = yield from stream.next_child()
    if answer.name != f"{_TLS} proceed":
        raise Refused(answer.raw)


class _Child:
    """An element right below the stream's root."""

    def __init__(self, name: str) -> None:
        self.name = name  # namespace, space, local name
        self.children: list[str] = []
        self.raw = b""


class _Stream:
    """What the server sends, element by element. Bytes behind an element stay unread."""

    def __init__(self) -> None:
        from xml.parsers import expat  # late: nobody else needs it

        parser = expat.ParserCreate("utf-8", " ")
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        self._parse: Callable[[bytes], object] = parser.Parse
        self._malformed = expat.ExpatError
        self._depth = 0
        self._begun = False
        self._child: _Child | None = None
        self._wrong_root = self._too_old = False

    def next_child(self) -> Dialogue[_Child]:
        """Read to the end of the next element below the root.

        Raises:
            Refused: the stream ends.
            NotSpoken: it is no XMPP stream, or holds what is forbidden there.
        """
        self._child = None
        raw = b""
        while True:
            tag = yield from self._read_tag()
            raw = raw + tag if self._child is not None else tag
            try:
                self._parse(tag)
            except self._malformed:
                raise NotSpoken(raw, _STREAM_EXPECTED) from None
            if self._wrong_root:
                raise NotSpoken(raw, _STREAM_EXPECTED)
            if self._too_old:
                raise Refused(raw, "the stream is of a version before 1.0, which has no StartTLS")
            if self._begun and self._depth == 0:
                raise Refused(raw, "the server ended the stream")
            if self._child is not None and self._depth == 1:
                self._child.raw = raw.strip()
                return self._child

    def _read_tag(self) -> Dialogue[bytes]:
        """Up to the end of the next tag: a > within quotes, or CDATA, is none."""
        tag = b""
        if not self._begun:  # a server of another kind may never send a >
            tag = yield ReadExactly(1)
            if tag not in b"< \t\r\n":
                yield from not_spoken(tag, _STREAM_EXPECTED)
        tag += yield ReadTo(b">")
        if _CDATA.match(tag):
            while not tag.endswith(b"]]>"):
                tag += yield from self._read_more(tag)
            return tag
        if _FORBIDDEN.match(tag) and (self._begun or not _DECLARATION.match(tag)):
            raise NotSpoken(tag, _STREAM_EXPECTED)
        while not _WHOLE_TAG.fullmatch(tag):
            tag += yield from self._read_more(tag)
        return tag

    def _read_more(self, tag: bytes) -> Dialogue[bytes]:
        if len(tag) > _LONGEST_TAG:
            raise NotSpoken(tag, _STREAM_EXPECTED)
        return (yield ReadTo(b">"))

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if self._depth == 0:
            self._begun = True
            self._wrong_root = name != f"{_STREAMS} stream"
            self._too_old = attributes.get("version", "0").split(".")[0] in ("", "0")
        elif self._depth == 1:
            self._child = _Child(name)
        elif self._depth == 2 and self._child is not None:
            self._child.children.append(name)
        self._depth += 1

    def _end(self, name: str) -> None:
        self._depth -= 1
