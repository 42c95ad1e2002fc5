"""What servers of the thirteen protocols say, and what they must be asked.

A conversation is a list of the server's words (bytes) and the client's, which must be met exactly.
The go-ahead is its end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

from tcpsock.testing import Expect, Send

__all__ = [
    "BAD",
    "FEATURES",
    "GOOD",
    "LDAP_ASKED",
    "NAME",
    "PROCEED",
    "STREAM",
    "Conversation",
    "Exactly",
    "extended",
    "greeting",
    "notice",
    "opened",
    "packet",
    "speaking",
    "spoken",
    "tlv",
]

NAME = "client.example"

Conversation: TypeAlias = "Sequence[bytes | Exactly]"


class Exactly(bytes):
    """What the client must say, byte for byte."""


def line(command: str) -> Exactly:
    return Exactly(command.encode() + b"\r\n")


# LDAP


def tlv(tag: int, *contents: bytes, pad: int = 0) -> bytes:
    """A BER element; `pad` makes the length's long form that many bytes."""
    content = b"".join(contents)
    size = len(content)
    if not pad and size < 128:
        return bytes([tag, size]) + content
    width = max(pad, (size.bit_length() + 7) // 8)
    return bytes([tag, 0x80 | width]) + size.to_bytes(width, "big") + content


def extended(
    message_id: int, result: int, diagnostic: bytes = b"", more: bytes = b"", pad: int = 0
) -> bytes:
    """An LDAP ExtendedResponse."""
    response = tlv(
        0x78,
        tlv(0x0A, bytes([result])),
        tlv(0x04, b"", pad=pad),
        tlv(0x04, diagnostic, pad=pad),
        more,
        pad=pad,
    )
    return tlv(0x30, tlv(0x02, bytes([message_id])), response, pad=pad)


def notice(oid: bytes, diagnostic: bytes = b"") -> bytes:
    """An unsolicited notification."""
    return extended(0, 52, diagnostic, tlv(0x8A, oid))


LDAP_ASKED = Exactly(b"\x30\x1d\x02\x01\x01\x77\x18\x80\x16" + b"1.3.6.1.4.1.1466.20037")
DISCONNECTION = b"1.3.6.1.4.1.1466.20036"

# Databases

POSTGRES_ASKED = Exactly(b"\0\0\0\x08\x04\xd2\x16\x2f")
MYSQL_ASKED = Exactly(b"\x20\0\0\x01" + b"\x05\xaa\x08\0" + b"\xff\xff\xff\0" + b"\x2d" + bytes(23))


def packet(payload: bytes, sequence: int = 0) -> bytes:
    return len(payload).to_bytes(3, "little") + bytes([sequence]) + payload


def greeting(
    capabilities: int = 0xFFFF, *, protocol: int = 10, version: bytes = b"8.0.36"
) -> bytes:
    """MySQL's first packet."""
    low, high = capabilities & 0xFFFF, 0xC7FF
    return packet(
        bytes([protocol])
        + version
        + b"\0\x07\0\0\0ABCDEFGH\0"
        + low.to_bytes(2, "little")
        + b"\xff\x02\0"
        + high.to_bytes(2, "little")
        + b"\x15"
        + bytes(10)
        + b"ABCDEFGHIJKL\0caching_sha2_password\0"
    )


def pg_error(message: bytes) -> bytes:
    """A PostgreSQL ErrorResponse."""
    fields = b"SFATAL\0VFATAL\0C53300\0M" + message + b"\0Fproc.c\0L345\0\0"
    return b"E" + (len(fields) + 4).to_bytes(4, "big") + fields


# XMPP

STREAM = (
    b"<?xml version='1.0'?><stream:stream xmlns='jabber:client' id='c2s1' version='1.0'"
    b" xmlns:stream='http://etherx.jabber.org/streams' from='localhost'>"
)
FEATURES = (
    b"<stream:features><starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'><required/></starttls>"
    b"<mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>PLAIN</mechanism>"
    b"</mechanisms></stream:features>"
)
PROCEED = b"<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"


def opened(namespace: str, to: str = NAME) -> Exactly:
    return Exactly(
        f"<?xml version='1.0'?><stream:stream to='{to}' xmlns='{namespace}'"
        " xmlns:stream='http://etherx.jabber.org/streams' version='1.0'>".encode()
    )


STARTTLS = Exactly(b"<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")
CLIENT, SERVER = opened("jabber:client"), opened("jabber:server")

# What ends in TLS -------------------------------------------------------------------------------

EHLO, LHLO = line(f"EHLO {NAME}"), line(f"LHLO {NAME}")

GOOD: dict[str, tuple[str, Conversation]] = {
    "smtp": (
        "smtp",
        [
            b"220 mail.example ESMTP\r\n",
            EHLO,
            b"250-mail.example\r\n250-SIZE 1000\r\n250-STARTTLS\r\n250 HELP\r\n",
            line("STARTTLS"),
            b"220 2.0.0 go ahead\r\n",
        ],
    ),
    "smtp, many lines, odd spelling": (
        "smtp",
        [
            b"220-mail.example\r\n220-no spam\r\n220\r\n",
            EHLO,
            b"250-mail.example\n250-X-STARTTLS\n250 StartTLS now\n",
            line("STARTTLS"),
            b"220-go\r\n220\r\n",
        ],
    ),
    "lmtp": (
        "lmtp",
        [b"220 lmtp\r\n", LHLO, b"250-x\r\n250 STARTTLS\r\n", line("STARTTLS"), b"220 ok\r\n"],
    ),
    "imap": (
        "imap",
        [
            b"* OK [CAPABILITY IMAP4rev1 LOGINDISABLED] ready\r\n",
            line("a1 CAPABILITY"),
            b"* CAPABILITY IMAP4rev1 STARTTLS AUTH=PLAIN\r\na1 OK done\r\n",
            line("a2 STARTTLS"),
            b"a2 OK begin\r\n",
        ],
    ),
    "imap, untagged responses between": (
        "imap",
        [
            b"* ok\r\n",
            line("a1 CAPABILITY"),
            b"* OK still here\r\n* capability IMAP4rev1\r\n* Capability starttls\r\na1 ok\r\n",
            line("a2 STARTTLS"),
            b"* NO disk is nearly full\r\n* 3 EXISTS\r\na2 Ok begin\r\n",
        ],
    ),
    "pop3": ("pop3", [b"+OK ready <1@x>\r\n", line("STLS"), b"+OK\r\n"]),
    "ftp": ("ftp", [b"220 FTP\r\n", line("AUTH TLS"), b"234 AUTH TLS successful\r\n"]),
    "ftp, many lines": (
        "ftp",
        [
            b"220-Welcome\r\nto this\r\n 220 server\r\n230 files\r\n220-\r\n220 at service\r\n",
            line("AUTH TLS"),
            b"234-\r\n234\r\n",
        ],
    ),
    "nntp": ("nntp", [b"200 news\r\n", line("STARTTLS"), b"382 continue\r\n"]),
    "nntp, no posting": ("nntp", [b"201 news\r\n", line("STARTTLS"), b"382\r\n"]),
    "sieve": (
        "sieve",
        [
            b'"IMPLEMENTATION" "Example"\r\n"SASL" ""\r\n"SIEVE" "fileinto {3}"\r\n'
            b'"STARTTLS"\r\nOK\r\n',
            line("STARTTLS"),
            b'OK "begin"\r\n',
        ],
    ),
    "sieve, literals": (
        "sieve",
        [
            b'"IMPLEMENTATION" {7}\r\nOK\r\n{5}\r\n{8}\r\nstarttls\r\n'
            b'"X" "a \\" quoted"\r\nok (TAG {3}\r\nNO\r) {4}\r\nNO\r\n\r\n',
            line("STARTTLS"),
            b"OK {12+}\r\nNO\r\nBYE\r\nOK\r\r\n",
        ],
    ),
    "irc": ("irc", [line("STARTTLS"), b":irc.example 670 * :STARTTLS successful\r\n"]),
    "irc, notices and a ping": (
        "irc",
        [
            b":irc.example NOTICE AUTH :*** Looking up your hostname\r\n@time=1 :x notice * :y\r\n",
            line("STARTTLS"),
            b"PING :cookie 1\r\n",
            line("PONG :cookie 1"),
            b"NOTICE * :z\r\n670 nick :go\r\n",
        ],
    ),
    "ldap": ("ldap", [LDAP_ASKED, extended(1, 0)]),
    "ldap, long lengths, a name, and notices": (
        "ldap",
        [
            LDAP_ASKED,
            notice(b"1.2.3")
            + extended(1, 0, b"x" * 300, tlv(0x8A, b"1.3.6.1.4.1.1466.20037", pad=1), pad=4),
        ],
    ),
    "postgres": ("postgres", [POSTGRES_ASKED, b"S"]),
    "mysql": ("mysql", [greeting(), MYSQL_ASKED]),
    "mysql, MariaDB": ("mysql", [greeting(version=b"5.5.5-10.11.6-MariaDB"), MYSQL_ASKED]),
    "xmpp": ("xmpp", [CLIENT, STREAM + FEATURES, STARTTLS, PROCEED]),
    "xmpp-server": (
        "xmpp-server",
        [SERVER, STREAM.replace(b":client", b":server") + FEATURES, STARTTLS, PROCEED],
    ),
    "xmpp, other prefixes and quotes": (
        "xmpp",
        [
            CLIENT,
            b'<?xml version="1.0" encoding="utf-16"?>\n<s:stream xmlns:s="http://etherx.jabber.org/'
            b'streams"\n version = "1.0" from="a>b" x=\'">"\' >\n <s:features\n><t:starttls '
            b'xmlns:t="urn:ietf:params:xml:ns:xmpp-&#116;ls"/><a>&lt;<![CDATA[<b> >]]></a>'
            b"</s:features  >",
            STARTTLS,
            b' \n<q:proceed xmlns:q = "urn:ietf:params:xml:ns:xmpp-tls" x=\'/>"\'></q:proceed>',
        ],
    ),
}

# What is refused, and the words that the error must have ----------------------------------------

BAD: dict[str, tuple[str, Conversation, str]] = {
    "smtp, greeting": ("smtp", [b"554-no\r\n554 service\r\n"], "554-no\\\\r\\\\n554 service"),
    "smtp, EHLO": ("smtp", [b"220 x\r\n", EHLO, b"502 what?\r\n"], "502 what?"),
    "smtp, not offered": (
        "smtp",
        [b"220 x\r\n", EHLO, b"250-STARTTLSX\r\n250-X STARTTLS\r\n250 X-STARTTLS\r\n"],
        "the reply to EHLO does not offer STARTTLS: 250-STARTTLSX",
    ),
    "smtp, STARTTLS": (
        "smtp",
        [b"220 x\r\n", EHLO, b"250 STARTTLS\r\n", line("STARTTLS"), b"454 not \x1b[2J now\r\n"],
        "454 not \\\\x1b\\[2J now",
    ),
    "smtp, 250 is no go-ahead": (
        "smtp",
        [b"220 x\r\n", EHLO, b"250 STARTTLS\r\n", line("STARTTLS"), b"250 ok\r\n"],
        "250 ok",
    ),
    "lmtp": ("lmtp", [b"220 x\r\n", LHLO, b"500 ESMTP?\r\n"], "500 ESMTP?"),
    "imap, PREAUTH": ("imap", [b"* PREAUTH hi\r\n"], "logged in.*\\* PREAUTH hi"),
    "imap, BYE": ("imap", [b"* BYE too many\r\n"], "\\* BYE too many"),
    "imap, not listed": (
        "imap",
        [
            b"* OK\r\n",
            line("a1 CAPABILITY"),
            b"* CAPABILITY XSTARTTLS\r\n* X STARTTLS\r\na1 OK\r\n",
        ],
        "CAPABILITY does not list STARTTLS: \\* CAPABILITY XSTARTTLS",
    ),
    "imap, CAPABILITY": (
        "imap",
        [b"* OK\r\n", line("a1 CAPABILITY"), b"a1 BAD no\r\n"],
        "a1 BAD no",
    ),
    "imap, BYE later": (
        "imap",
        [b"* OK\r\n", line("a1 CAPABILITY"), b"* CAPABILITY STARTTLS\r\n* BYE now\r\n"],
        "\\* BYE now",
    ),
    "imap, NO": (
        "imap",
        [
            b"* OK\r\n",
            line("a1 CAPABILITY"),
            b"* CAPABILITY STARTTLS\r\na1 OK\r\n",
            line("a2 STARTTLS"),
            b"* OK x\r\na2 NO later\r\n",
        ],
        "a2 NO later",
    ),
    "pop3": ("pop3", [b"+OK\r\n", line("STLS"), b"-ERR unknown\r\n"], "-ERR unknown"),
    "pop3, greeting": ("pop3", [b"-ERR busy\r\n"], "-ERR busy"),
    "ftp": ("ftp", [b"220 x\r\n", line("AUTH TLS"), b"500 AUTH?\r\n"], "500 AUTH\\?"),
    "ftp, 334": ("ftp", [b"220 x\r\n", line("AUTH TLS"), b"334 more\r\n"], "334 more"),
    "ftp, greeting": (
        "ftp",
        [b"421-\r\nfull\r\n421 bye\r\n"],
        "421-\\\\r\\\\nfull\\\\r\\\\n421 bye",
    ),
    "nntp": ("nntp", [b"200 x\r\n", line("STARTTLS"), b"502 no\r\n"], "502 no"),
    "nntp, greeting": ("nntp", [b"400 closed\r\n"], "400 closed"),
    "sieve, not listed": ("sieve", [b'"STARTTLSX"\r\n"X" "STARTTLS"\r\nOK\r\n'], "do not list"),
    "sieve, BYE": ("sieve", [b'BYE "gone"\r\n'], 'BYE "gone"'),
    "sieve, NO": (
        "sieve",
        [b'"STARTTLS"\r\nOK\r\n', line("STARTTLS"), b'NO (TRYLATER) "later"\r\n'],
        'NO \\(TRYLATER\\) "later"',
    ),
    "irc, 691": ("irc", [line("STARTTLS"), b":x 691 * :failed\r\n"], "691 \\* :failed"),
    "irc, 421": ("irc", [line("STARTTLS"), b":x 421 * STARTTLS :Unknown\r\n"], "421"),
    "irc, 451": ("irc", [line("STARTTLS"), b"451 * :register\r\n"], "451 \\* :register"),
    "irc, ERROR": ("irc", [line("STARTTLS"), b"ERROR :Closing Link\r\n"], "ERROR :Closing Link"),
    "ldap": ("ldap", [LDAP_ASKED, extended(1, 53, b"no TLS")], "result 53: no TLS"),
    "ldap, disconnection": (
        "ldap",
        [LDAP_ASKED, notice(DISCONNECTION, b"bye")],
        "disconnects, result 52: bye",
    ),
    "postgres, N": ("postgres", [POSTGRES_ASKED, b"N"], "the server has no TLS: N"),
    "postgres, E": (
        "postgres",
        [POSTGRES_ASKED, pg_error(b"too many")],
        "refused StartTLS: too many",
    ),
    "postgres, old E": ("postgres", [POSTGRES_ASKED, b"EFATAL:  no\n\0"], "StartTLS: FATAL:  no"),
    "mysql, no TLS": ("mysql", [greeting(0xF7FF)], "the server has no TLS: 8.0.36"),
    "mysql, ERR": (
        "mysql",
        [packet(b"\xff\x10\x04#08004Too many connections")],
        "StartTLS: Too many connections",
    ),
    "mysql, old ERR": ("mysql", [packet(b"\xff\x6a\x04Host is blocked")], "StartTLS: Host is"),
    "xmpp, not listed": (
        "xmpp",
        [CLIENT, STREAM + b"<stream:features><starttls/></stream:features>"],
        "features do not list starttls: <stream:features>",
    ),
    "xmpp, failure": (
        "xmpp",
        [
            CLIENT,
            STREAM + FEATURES,
            STARTTLS,
            b"<failure xmlns='urn:ietf:params:xml:ns:xmpp-tls'/></stream:stream>",
        ],
        "<failure xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>",
    ),
    "xmpp, proceed of another kind": (
        "xmpp",
        [CLIENT, STREAM + FEATURES, STARTTLS, b"<proceed/>"],
        "<proceed/>",
    ),
    "xmpp, stream error": (
        "xmpp",
        [CLIENT, STREAM + b"<stream:error><host-unknown/></stream:error></stream:stream>"],
        "<host-unknown/>",
    ),
    "xmpp, the end": ("xmpp", [CLIENT, STREAM + b"</stream:stream>"], "ended the stream"),
    "xmpp, too old": ("xmpp", [CLIENT, STREAM.replace(b"1' version='1.0'", b"1'")], "before 1.0"),
    "xmpp-server": ("xmpp-server", [SERVER, STREAM + b"<stream:features/>"], "do not list"),
}


def spoken(conversation: Conversation) -> bytes:
    """All that the server says."""
    return b"".join(words for words in conversation if type(words) is bytes)


def speaking(conversation: Conversation, budget: int = 1 << 30) -> Iterator[Expect | Send]:
    """The steps of a script for the server, which stops after so many bytes of its own."""
    for words in conversation:
        if isinstance(words, Exactly):
            yield Expect(bytes(words))
        else:
            yield Send(words[:budget])
            budget -= len(words)
            if budget < 0:
                return
