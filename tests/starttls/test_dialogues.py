"""C7: the dialogues by themselves, without a socket: what they ask for, and what they believe."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import hypothesis
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peers import WAIT

import tcpsock
from tcpsock import SocketError
from tcpsock._starttls.dialogue import (
    Dialogue,
    NotSpoken,
    ReadExactly,
    ReadTo,
    ReadWaiting,
    Refused,
    Send,
)
from tcpsock._starttls.ldap import ldap
from tcpsock._starttls.sieve import sieve
from tcpsock._starttls.xmpp import xmpp
from tcpsock.starttls import _DIALOGUES, PROTOCOLS, negotiate

from .conversations import (
    BAD,
    FEATURES,
    GOOD,
    LDAP_ASKED,
    NAME,
    PROCEED,
    STREAM,
    Exactly,
    extended,
    greeting,
    notice,
    packet,
    spoken,
    tlv,
)

LONG = bool(os.environ.get("TCPSOCK_LONG"))
SEED = int(os.environ.get("TCPSOCK_SEED") or 11)


class End(Exception):
    """The server has no more to say."""


def listen(dialogue: Dialogue[None], said: bytes) -> tuple[bytes, bytes]:
    """Carry it out with all that the server ever says; returns what was sent and the rest.

    Raises:
        Refused, NotSpoken: its own. End: it wants to hear more.
    """
    sent, answer = b"", None
    try:
        while True:
            step = next(dialogue) if answer is None else dialogue.send(answer)
            if isinstance(step, Send):
                sent += step.content
                size = 0
            elif isinstance(step, ReadExactly):
                size = step.size
            elif isinstance(step, ReadTo):
                size = said.find(step.separator) + len(step.separator) or len(said) + 1
            else:
                assert isinstance(step, ReadWaiting)
                size = min(len(said), 200)
            if size > len(said):
                raise End
            answer, said = said[:size], said[size:]
    except StopIteration:
        return sent, said
    finally:
        dialogue.close()


@pytest.mark.parametrize("case", GOOD)
def test_S5_no_byte_behind_the_go_ahead_is_read(case: str) -> None:
    protocol, conversation = GOOD[case]
    asked = b"".join(words for words in conversation if isinstance(words, Exactly))
    behind = b"\n>\0S" * 20
    assert listen(_DIALOGUES[protocol](NAME), spoken(conversation) + behind) == (asked, behind)


GARBAGE: dict[str, list[bytes]] = {
    "smtp": [
        b"\n",
        b"22\n",
        b"220ok\n",
        b"2200 ok\n",
        b"220-a\n250 b\n",
        b"620 x\n",
        b"220-a\nb\n",
    ],
    "lmtp": [b"* OK\n", b"220+x\n"],
    "imap": [b"OK\n", b"* \n", b"*\n", b"a OK\n", b"* FETCH\n", b"* OK\r\nb1 OK\n", b"* OK\n+ x\n"],
    "pop3": [b"OK\n", b"+OKAY\n", b"+ OK\n", b"* OK\n"],
    "ftp": [b"+OK\n", b"220/\n", b"\xff\xff\n"],
    "nntp": [b"200-a\n", b"2000\n", b"x\n"],
    "sieve": [b"OKAY\n", b"STARTTLS\n", b'"open\n', b'"a\\"\n', b"{-1}\n", b"{99999999999}\n"],
    "irc": [b":only.prefix\n", b"6700\n", b"\x01\n", b"@tag\n", b"\n"],
    "ldap": [
        b"\x31\x05\x02\x01\x01\x78\0",
        b"\x30\x80\x02\x01\x01\x78\0\0\0",  # indefinite
        b"\x30\x85\0\0\0\0\x05\x02\x01\x01\x78\0",  # five bytes of length
        b"\x30\x00",
        b"\x30\x02\x02\x05",  # an element beyond the message's end
        extended(2, 0),
        tlv(0x30, tlv(0x02, b""), b"\x78\0"),
        tlv(0x30, tlv(0x02, b"\1"), tlv(0x61, tlv(0x0A, b"\0"), tlv(4), tlv(4))),  # a bind's
        tlv(0x30, tlv(0x02, b"\1"), tlv(0x78, tlv(0x0A, b"\0"), tlv(4))),
        tlv(0x30, tlv(0x02, b"\1"), tlv(0x78, tlv(0x02, b"\0"), tlv(4), tlv(4))),
        tlv(0x30, tlv(0x02, b"\1"), tlv(0x78, tlv(0x0A, b"\0" * 9), tlv(4), tlv(4))),
        notice(b"1.2.3") + b"x\r\n",
    ],
    "postgres": [b"s", b"\0", b"R\0\0\0\x08", b"E\0\0\0\1x", b"E\xff\xff\xff\xffx\0", b"EFA\0L\0"],
    "mysql": [
        packet(b""),
        packet(b"\x0a8.0\0" + bytes(14)),
        packet(b"\x0a8.0" + b"x" * 60),
        packet(b"\x09" + greeting()[5:]),
        greeting(protocol=11),
        packet(greeting()[4:], sequence=1),
    ],
    "xmpp": [
        b"<html>",
        b"<stream xmlns='jabber:client' version='1.0'>",
        b"<?xml version='1.0'?><?xml version='1.0'?>",
        b"<?php x?>",
        b"<!-- a comment -->",
        b"<!DOCTYPE s [<!ENTITY a 'b'>]>" + STREAM,
        b"<?xml version='1.0'?><!DOCTYPE s SYSTEM 'http://127.0.0.1/'>" + STREAM,
        STREAM + b"<!-- -->" + FEATURES,
        STREAM + b"<?pi?>" + FEATURES,
        STREAM + b"<a>&unknown;</a>",
        STREAM + b"<a b='&unknown;'/>",
        STREAM + b"<a></b>",
        STREAM + b"<a b='1' b='2'/>",
        STREAM + b"<unbound:features/>",
        STREAM + b"<a>\xff</a>",
        STREAM + b"<a>&#0;</a>",
        STREAM + b"< a/>",
        STREAM + b"<a b=c/>",
        b"x" + STREAM,
        b"\xef\xbb\xbfx" + STREAM,
    ],
    "xmpp-server": [b"<a/>", b"SSH-2.0-OpenSSH_9.2p1\r\n"],
}


@pytest.mark.parametrize(
    ("protocol", "said"), [(p, said) for p in PROTOCOLS for said in GARBAGE[p]]
)
def test_C7_what_is_not_of_the_protocol(protocol: str, said: bytes) -> None:
    with pytest.raises(NotSpoken) as caught:
        listen(_DIALOGUES[protocol](NAME), said)
    assert caught.value.expected
    assert caught.value.reply in said + b"\r\n" or protocol == "smtp"


@pytest.mark.parametrize("pad", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("size", [0, 1, 127, 128, 255, 256, 3000])
def test_C7_BER_lengths_in_any_form(pad: int, size: int) -> None:
    """The long form may have leading zeros; only DER forbids it."""
    if size > 255 and pad == 1:
        pad = 2
    said = extended(1, 0, b"x" * size, pad=pad) if size < 200 or pad != 1 else extended(1, 0)
    assert listen(ldap(""), said + b"behind") == (LDAP_ASKED, b"behind")
    with pytest.raises(Refused, match="result 80") as caught:
        listen(ldap(""), extended(1, 80, b"x" * size, pad=0 if size > 200 and pad == 1 else pad))
    assert caught.value.reply == b"x" * size


def test_C7_LDAP_controls_referrals_and_names_may_follow() -> None:
    response = tlv(
        0x78,
        tlv(0x0A, b"\0"),
        tlv(4, b"dc=example"),
        tlv(4, b""),
        tlv(0xA3, tlv(4, b"ldap://x/")),
        tlv(0x8A, b"1.3.6.1.4.1.1466.20037"),
        tlv(0x8B, b"value"),
    )
    said = tlv(0x30, tlv(2, b"\0\1"), response, tlv(0xA0, b""))
    assert listen(ldap(""), said)[1] == b""


def test_C7_a_sieve_literal_is_no_line() -> None:
    """OK inside of one ends nothing, and STARTTLS as a value offers nothing."""
    said = b'"X" {20}\r\nOK\r\n"STARTTLS"\r\nOK\r\n\r\n"Y" "STARTTLS"\r\nOK\r\n'
    with pytest.raises(Refused, match="do not list"):
        listen(sieve(""), said)


@pytest.mark.parametrize(
    ("before", "behind"),
    [
        (b"<a b='>' c=\"'/>", b'"/>'),
        (b"<a>", b"</a>"),
        (b"<a><![CDATA[<a/>]]", b"]]></a>"),
        (b"<a><b/>&gt;", b"</a>"),
    ],
)
def test_C7_what_is_within_another_element_allows_nothing(before: bytes, behind: bytes) -> None:
    said = before + PROCEED + behind
    with pytest.raises((Refused, NotSpoken)) as caught:  # a value must not have a <
        listen(xmpp(NAME), STREAM + FEATURES + said)
    assert said.startswith(caught.value.reply)
    assert caught.value.reply == said or isinstance(caught.value, NotSpoken)


@pytest.mark.parametrize("text", ["&#x10;", "&#1114112;", "&lol;"])
def test_C7_no_entities_but_XMLs_own(text: str) -> None:
    with pytest.raises(NotSpoken):
        listen(xmpp(NAME), STREAM + f"<a b='{text}'/>".encode())


# Anything at all --------------------------------------------------------------------------------

fuzz = settings(
    max_examples=5000 if LONG else 150,
    derandomize=not LONG,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)

TOKENS = [
    b"\r\n", b"\n", b"\r", b"\x00", b" ", b"-", b"220 ", b"220-", b"250 STARTTLS\r\n", b"* ",
    b"a1 OK\n", b"* OK\r\n", b"+OK\r\n", b"OK\r\n", b'"', b"\\", b"{3}\r\n", b"{3+}\r\n",
    b"{9999999999}\r\n", b"PING :\r\n", b":x NOTICE y\r\n", b"670", b"382 \r\n", b"0\x84",
    b"\x80", b"\xff", b"\x7f", b"x", b"\x02\x01\x01", b"\x02\x01\x00", b"E", b"S", b"N", b"<",
    b">", b"/>", b"'", b"<!", b"<?", b"<![CDATA[", b"]]>", b"&lt;", b"&a;", b"<!DOCTYPE a [",
    b"</stream:stream>", b"xmlns=''", b"1" * 5000, b"x" * 9000, "\u202e\x9b".encode(),
]  # fmt: skip


def tokens() -> st.SearchStrategy[bytes]:
    return st.lists(st.sampled_from(TOKENS)).map(b"".join)


@st.composite
def damaged(draw: st.DrawFn, protocol: str) -> bytes:
    """What a server of that protocol might have said, with some of it lost, doubled or other."""
    whole = [spoken(conversation) for kind, conversation in GOOD.values() if kind == protocol]
    whole += [spoken(conversation) for kind, conversation, _ in BAD.values() if kind == protocol]
    said = draw(st.sampled_from(whole))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(said)))
        end = draw(st.integers(start, min(len(said), start + 12)))
        new = draw(st.sampled_from(TOKENS) | st.binary(max_size=4) | st.just(said[start:end] * 2))
        said = said[:start] + new + said[end:]
    return said


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_C7_nothing_that_a_server_says_confuses_us(protocol: str) -> None:
    """A dialogue ends well or in one of its own ways; it asks for nothing absurd."""

    @hypothesis.seed(SEED)
    @fuzz
    @given(
        damaged(protocol)
        | st.binary(max_size=300)
        | st.lists(st.sampled_from(TOKENS)).map(b"".join)
    )
    def holds(said: bytes) -> None:
        try:
            _, rest = listen(_DIALOGUES[protocol](NAME), said)
        except (Refused, NotSpoken, End):
            return
        assert said.endswith(rest) and len(rest) < len(said)

    holds()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_C7_nothing_that_a_server_says_breaks_negotiate(protocol: str) -> None:
    """The same over a socket, to the end of the connection: a SocketError each time."""

    @hypothesis.seed(SEED)
    @settings(fuzz, max_examples=2000 if LONG else 40)
    @given(damaged(protocol))
    def holds(said: bytes) -> None:
        ours, theirs = socket.socketpair()
        with theirs, tcpsock.adopt(ours, secure_transport="starttls", hostname="localhost") as sock:
            theirs.sendall(said)
            theirs.shutdown(socket.SHUT_WR)
            with pytest.raises(SocketError) as caught:
                negotiate(sock, protocol, name=NAME, timeout=WAIT).opened.result(WAIT)
            assert not isinstance(caught.value, TimeoutError)
            assert str(caught.value).isprintable()
            sock.closed.exception(WAIT)  # done for, one way or another
            while theirs.recv(1 << 16):
                pass

    holds()


# Imports ----------------------------------------------------------------------------------------


def test_K2_what_it_costs_to_import() -> None:
    """`import tcpsock` doesn't bring it, and it brings no XML and nothing else that is heavy."""
    program = (
        "import sys, tcpsock; assert 'tcpsock.starttls' not in sys.modules\n"
        "before = set(sys.modules); import tcpsock.starttls\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=WAIT, check=True
    )
    brought = [name for name in done.stdout.split() if not name.startswith("tcpsock")]
    assert brought == []
