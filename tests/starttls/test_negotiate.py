"""C7: each dialogue over a socket, with a server that follows a script."""

from __future__ import annotations

import contextlib
import logging
import re
import signal
import socket
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from peers import HOST, WAIT, Interrupted, Listener, Peer, interrupt_when_blocked

import tcpsock
from tcpsock import (
    IncompleteRead,
    PlaintextInjected,
    ReadTimeout,
    Socket,
    SocketAborted,
    SocketError,
    StartTlsError,
    StartTlsRefused,
    TlsError,
    TlsOptions,
)
from tcpsock.starttls import PROTOCOLS, negotiate
from tcpsock.testing import (
    ChaosProxy,
    Cuts,
    Dialogue,
    Dribble,
    Echo,
    Expect,
    Inject,
    Script,
    Send,
    Stall,
    Upgrade,
    authority,
    serve,
)

from .conversations import (
    BAD,
    GOOD,
    NAME,
    STREAM,
    Conversation,
    extended,
    greeting,
    notice,
    opened,
    speaking,
    spoken,
)

DATA = bytes(range(256)) * 40


def plain(address: str, *, timeout: float | None = WAIT) -> Socket:
    return tcpsock.connect(
        address,
        secure_transport="starttls",
        tls=TlsOptions(ca_data=authority().ca_data),
        timeout=timeout,
    )


def upgrading(conversation: Conversation) -> Script:
    return Script(*speaking(conversation), Upgrade(), Echo())


def outcome(
    address: str, protocol: str, *, timeout: float = WAIT, hangs_up: bool = False
) -> SocketError:
    """What comes of it where no TLS may come of it; the socket must be done for by then.

    `hangs_up`: so may the server, and then it may have been done for before (rule E1).
    """
    with plain(address) as sock:
        with pytest.raises(SocketError) as caught:
            negotiate(sock, protocol, name=NAME, timeout=timeout).opened.result(WAIT)
        if sock.upgraded:
            sock.closed.result(WAIT)
        else:
            error = sock.closed.exception(WAIT)
            assert isinstance(error, (SocketAborted, PlaintextInjected)) or hangs_up
    return caught.value


def round_trip(address: str, protocol: str) -> None:
    with plain(address) as sock:
        secure = negotiate(sock, protocol, name=NAME)
        reader, writer = secure.streams()
        writer.write(DATA)
        writer.close()
        assert reader.read_all() == DATA
        assert sock.upgraded and secure.opened.result().tls_version
        assert secure.opened.result().hostname == HOST


def hear_a_reset(dialogue: Dialogue) -> None:
    """The last step of a server that the client turns its back on."""
    with pytest.raises(ConnectionResetError):
        while dialogue.receive():
            pass


def hear_the_end(dialogue: Dialogue) -> None:
    """The last step of a server whose client may be quicker than what it is sent."""
    with contextlib.suppress(ConnectionError):
        while dialogue.receive():
            pass


good = pytest.mark.parametrize("case", GOOD)
one_of_each = pytest.mark.parametrize("protocol", PROTOCOLS)  # each has a case of its name


def test_C7_the_protocols() -> None:
    assert " ".join(PROTOCOLS) == (
        "smtp lmtp imap pop3 ftp nntp sieve irc ldap postgres mysql xmpp xmpp-server"
    )
    assert {protocol for protocol, _ in GOOD.values()} == set(PROTOCOLS)
    assert {protocol for protocol, _, _ in BAD.values()} == set(PROTOCOLS)


# TLS --------------------------------------------------------------------------------------------


@good
def test_C7_the_dialogue_ends_in_TLS(case: str) -> None:
    """The server hears exactly what it must hear, and then ClientHello."""
    protocol, conversation = GOOD[case]
    with serve(upgrading(conversation)) as server:
        round_trip(server.address, protocol)
    assert not server.errors


@good
@pytest.mark.parametrize("steps", [[Dribble(1)], [Cuts(3)]], ids=["dribble", "cuts"])
def test_C7_replies_may_be_cut_anywhere(case: str, steps: list[Dribble | Cuts]) -> None:
    protocol, conversation = GOOD[case]
    with serve(upgrading(conversation)) as server:
        with ChaosProxy(server.address, to_client=steps, to_server=steps) as proxy:
            round_trip(proxy.address, protocol)
    assert not server.errors


# Refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", BAD)
def test_C7_a_refusal_has_the_servers_own_words(case: str) -> None:
    protocol, conversation, words = BAD[case]
    with serve(Script(*speaking(conversation), hear_a_reset)) as server:
        with plain(server.address) as sock:
            with pytest.raises(StartTlsRefused, match=words) as caught:
                negotiate(sock, protocol, name=NAME)
            refused = caught.value
            assert isinstance(sock.closed.exception(WAIT), SocketAborted)
            assert isinstance(sock.closed.exception().reason, StartTlsRefused)
    assert not server.errors
    assert str(refused).startswith(f"{server.address}: the server refused StartTLS: ")
    assert refused.code == "start-tls-refused" and refused.phase == "tls"
    assert refused.address == server.address
    assert str(refused).isprintable()
    assert refused.reply.encode("utf-8", "surrogateescape") in spoken(conversation)


def test_C7_the_words_are_escaped_and_the_reply_is_raw() -> None:
    """L2: C0, C1, DEL, bidi and undecodable bytes can do nothing to a terminal."""
    said = "454 \x1b]0;\x07\x9b2J\x7f\u202egnihton\u2066 ".encode() + b"\xff\xfe" + b"x" * 2000
    with serve(Script(Send(b"+OK\r\n"), Expect(b"STLS\r\n"), Send(b"-ERR " + said + b"\r\n"))) as s:
        error = outcome(s.address, "pop3")
    assert isinstance(error, StartTlsRefused)
    assert str(error).isprintable() and len(str(error)) < 400
    for escaped in ("\\x1b", "\\x07", "\\x9b2J", "\\x7f", "\\u202e", "\\u2066", "\\xff\\xfe"):
        assert escaped in str(error)
    assert error.reply.encode("utf-8", "surrogateescape") == b"-ERR " + said


OTHERS = {
    "http": b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n<html>\n<p>No.</p></html>\n",
    "ssh": b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n",
    "pop3": b"+OK ready\r\n",
    "nntp": b"200 news\r\n",
    "tls": b"\x15\x03\x01\0\x02\x02\x46\n\0\0\0\0\0\0\0\0\0",
}


UNDERSTOOD = {
    ("pop3", "pop3"),
    ("nntp", "nntp"),
    *(("nntp", protocol) for protocol in ("smtp", "lmtp", "ftp", "irc")),  # a code, if a wrong one
    ("ssh", "postgres"),  # S
}


@pytest.mark.parametrize(
    ("other", "protocol"),
    [(o, p) for o in OTHERS for p in PROTOCOLS if (o, p) not in UNDERSTOOD],
)
def test_C7_another_protocol_is_named_and_what_came(other: str, protocol: str) -> None:
    """The server stays on the line: nobody has to wait for a time-out to be told."""
    with serve(Script(Send(OTHERS[other]), hear_a_reset)) as server:
        error = outcome(server.address, protocol)
    assert isinstance(error, StartTlsRefused)
    assert error.code == "starttls-not-spoken"
    assert f"does not speak {protocol}: " in str(error)
    came = error.reply.encode("utf-8", "surrogateescape")
    assert len(came) >= 7 and OTHERS[other].startswith(came)
    assert str(error).isprintable()


def test_S5_a_banner_that_begins_with_S_is_no_go_ahead() -> None:
    with serve(Script(Send(OTHERS["ssh"]), hear_a_reset)) as server:
        assert isinstance(outcome(server.address, "postgres"), PlaintextInjected)


# Cut off ----------------------------------------------------------------------------------------


@good
def test_C7_cut_after_every_byte(case: str) -> None:
    """The server hangs up after 0, 1, 2... bytes: each time it's an error that says so."""
    protocol, conversation = GOOD[case]
    total = len(spoken(conversation))
    budgets = iter(range(total))
    with serve(lambda sock: Script(*speaking(conversation, next(budgets)))(sock)) as server:
        for budget in range(total):
            error = outcome(server.address, protocol, hangs_up=True)
            assert isinstance(error, IncompleteRead), (budget, error)
            assert "hung up" in str(error) and protocol in str(error)
    assert not server.errors


@one_of_each
def test_C7_hung_up_behind_the_go_ahead(protocol: str) -> None:
    with serve(Script(*speaking(GOOD[protocol][1]))) as server:
        outcome(server.address, protocol, hangs_up=True)


@one_of_each
def test_C7_silence(protocol: str) -> None:
    """One deadline for all; the socket is aborted."""
    release = threading.Event()
    with serve(Script(Stall(release))) as server:
        error = outcome(server.address, protocol, timeout=0.1)
        release.set()
    assert isinstance(error, ReadTimeout)
    assert "timed out: no answer after 0.1 s" in str(error) and protocol in str(error)


@one_of_each
def test_C7_silence_before_the_last_byte(protocol: str) -> None:
    """What had come is in the message: it may be all that there is to go by."""
    conversation = GOOD[protocol][1]
    release = threading.Event()
    steps = [*speaking(conversation, len(spoken(conversation)) - 1), Stall(release)]
    with serve(Script(*steps)) as server:
        error = outcome(server.address, protocol, timeout=0.3)
        release.set()
    assert isinstance(error, ReadTimeout)
    assert protocol in ("postgres",) or "the last that came is" in str(error)


# Too much ---------------------------------------------------------------------------------------


FLOODS: dict[str, tuple[bytes, bytes]] = {  # before it, and what comes again and again
    "smtp": (b"", b"220-again\r\n"),
    "lmtp": (b"", b"220-\r\n"),
    "imap": (b"* OK\r\n", b"* OK again\r\n"),
    "ftp": (b"220-\r\n", b"and so on\r\n"),
    "sieve": (b"", b'"X" {4}\r\nabcd\r\n'),
    "irc": (b"", b"PING :x\r\n"),
    "ldap": (b"", notice(b"1.2.3")),
    "xmpp": (STREAM + b"<stream:features>", b"<again/>"),
}


@pytest.mark.parametrize("protocol", FLOODS)
def test_C7_a_dialogue_of_more_than_64_KiB_is_refused(protocol: str) -> None:
    """And no more than that was taken in: the server could go on for ever."""
    before, again = FLOODS[protocol]
    release = threading.Event()
    said = before + again * ((1 << 16) // len(again) + 1)
    with serve(Script(Send(said), Stall(release))) as server:
        error = outcome(server.address, protocol)
    assert isinstance(error, StartTlsRefused)
    assert error.code == "starttls-too-long" and "65536 bytes" in str(error)
    assert not server.errors


def test_C7_64_KiB_are_not_too_much() -> None:
    hello, _, offers, _, go_ahead = GOOD["smtp"][1]
    start = b"220-" + b"x" * 8000 + b"\r\n"
    greetings = start * 8
    rest = (1 << 16) - len(greetings) - len(offers) - len(go_ahead)
    greetings += b"220 " + b"x" * (rest - 6) + b"\r\n"
    conversation = [greetings, *GOOD["smtp"][1][1:]]
    assert len(spoken(conversation)) == 1 << 16 and hello
    with serve(upgrading(conversation)) as server:
        round_trip(server.address, "smtp")


LONG_LINES: dict[str, bytes] = {
    "smtp": b"220 " + b"x" * 8187,
    "lmtp": b"220 " + b"x" * 8187,
    "imap": b"* OK " + b"x" * 8186,
    "pop3": b"+OK " + b"x" * 8187,
    "ftp": b"220 " + b"x" * 8187,
    "nntp": b"200 " + b"x" * 8187,
    "sieve": b'"' + b"x" * 8190,
    "irc": b"NOTICE " + b"x" * 8184,
    "ldap": extended(1, 0, b"x" * 8200),
    "postgres": b"EFATAL: " + b"x" * 8200,
    "mysql": greeting(version=b"x" * 8200),
    "xmpp": STREAM + b"<stream:features x='" + b"x" * 8200,
    "xmpp-server": STREAM + b"<stream:features x='" + b">" * 8200,
}


@pytest.mark.parametrize("protocol", LONG_LINES)
def test_C7_a_line_of_more_than_8_KiB_is_refused(protocol: str) -> None:
    """Its end need not come for that."""
    release = threading.Event()
    said = LONG_LINES[protocol]
    with serve(Script(Send(said + b"xx"), Stall(release))) as server:
        error = outcome(server.address, protocol)
    assert isinstance(error, StartTlsRefused)
    assert error.code in ("starttls-too-long", "starttls-not-spoken")
    assert len(str(error)) < 400


@pytest.mark.parametrize("size", [8192, 8193])
def test_C7_a_line_of_8_KiB(size: int) -> None:
    banner = b"+OK ".ljust(size - 2, b"x") + b"\r\n"
    with serve(upgrading([banner, *GOOD["pop3"][1][1:]])) as server:
        if size == 8192:
            return round_trip(server.address, "pop3")
        error = outcome(server.address, "pop3")
    assert isinstance(error, StartTlsRefused) and error.code == "starttls-too-long"
    assert "more than 8192 bytes" in str(error)
    assert error.reply.startswith("+OK xxx")


# Plaintext behind the go-ahead ------------------------------------------------------------------

INJECTED = b"* OK you are logged in\r\n"


@good
@pytest.mark.parametrize("extra", [b"\0", b"\n", INJECTED], ids=["zero", "newline", "line"])
def test_S5_injected_in_the_same_segment(case: str, extra: bytes) -> None:
    """CVE-2011-0411. What the dialogue's own reads took in with the go-ahead counts."""
    protocol, conversation = GOOD[case]
    steps = list(speaking(conversation))
    if protocol == "mysql":
        steps = [Send(spoken(conversation) + extra)]  # its go-ahead is the greeting
    else:
        steps[-1] = Send(conversation[-1] + extra)
    with serve(Script(*steps, hear_a_reset)) as server:
        error = outcome(server.address, protocol)
        assert isinstance(error, PlaintextInjected)
        assert "plaintext" in str(error)
    assert not server.errors


@one_of_each
def test_S5_injected_in_the_next_segment(protocol: str) -> None:
    """Found before ClientHello, or by the handshake; never delivered."""
    conversation = GOOD[protocol][1]
    at = len(spoken(conversation))
    with serve(Script(*speaking(conversation), hear_the_end)) as server:
        with ChaosProxy(server.address, to_client=[Inject(INJECTED, at), Dribble(1)]) as proxy:
            error = outcome(proxy.address, protocol)
    assert isinstance(error, (PlaintextInjected, TlsError))


# Before any byte --------------------------------------------------------------------------------


@pytest.fixture
def listener() -> Iterator[Listener]:
    listener = Listener()
    yield listener
    listener.close()


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Signals raise Interrupted in the main thread."""

    def interrupt(number: int, frame: object) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGUSR1, interrupt)
    yield
    signal.signal(signal.SIGUSR1, before)


def assert_untouched(sock: Socket, peer: Peer) -> None:
    """Not a byte was said, and the socket is as good as before. Closes the peer's side."""
    with sock.readable.get_reader() as reader, sock.writable.get_writer() as writer:
        writer.write(b"first")
        assert peer.read() == b"first"
        peer.send(b"second")
        assert reader.read() == b"second"
    peer.close()


def test_C7_an_unknown_protocol(listener: Listener) -> None:
    with plain(listener.address) as sock:
        peer = listener.accept()
        with pytest.raises(
            ValueError, match=r"one of smtp, .*, xmpp-server, not 'SM\\x1bTP'"
        ) as no:
            negotiate(sock, "SM\x1bTP")
        assert not isinstance(no.value, SocketError)
        assert_untouched(sock, peer)


@pytest.mark.parametrize(
    "name", ["", "a b", "a\r\nRCPT", "a\0", "\x85", "x" * 256, "b\xfccher.example", "\u202ex"]
)
def test_C7_a_name_that_would_be_another_command(listener: Listener, name: str) -> None:
    with plain(listener.address) as sock:
        peer = listener.accept()
        with pytest.raises(ValueError, match="name must be"):
            negotiate(sock, "smtp", name=name)
        assert_untouched(sock, peer)


@pytest.mark.parametrize("timeout", [-1, "1", float("nan"), True])
def test_C7_a_timeout_that_is_none(listener: Listener, timeout: object) -> None:
    with plain(listener.address) as sock:
        peer = listener.accept()
        with pytest.raises((TypeError, ValueError), match="timeout"):
            negotiate(sock, "smtp", timeout=timeout)  # type: ignore[arg-type]
        assert_untouched(sock, peer)


def test_C7_locked_streams(listener: Listener) -> None:
    """One of them is enough; the other one isn't held afterwards."""
    with plain(listener.address) as sock:
        peer = listener.accept()
        for hold in (sock.readable.get_reader, sock.writable.get_writer):
            with hold():
                with pytest.raises(tcpsock.StreamLocked):
                    negotiate(sock, "irc")
            assert not sock.readable.locked and not sock.writable.locked
        assert_untouched(sock, peer)


def test_C7_another_mode(listener: Listener) -> None:
    with tcpsock.connect(listener.address, timeout=WAIT) as sock:
        peer = listener.accept()
        with pytest.raises(StartTlsError, match="starttls") as caught:
            negotiate(sock, "irc")
        assert caught.value.code == "starttls-not-enabled"
        assert_untouched(sock, peer)


def test_C7_tls_already() -> None:
    with serve(Script(Echo()), tls=True) as server:
        tls = TlsOptions(ca_data=server.ca_data)
        with tcpsock.connect(server.address, secure_transport="on", tls=tls) as sock:
            with pytest.raises(StartTlsError) as caught:
                negotiate(sock, "irc")
            assert caught.value.code == "starttls-already-tls"
            reader, writer = sock.streams()
            writer.write(b"alive")
            assert reader.read_exactly(5) == b"alive"


def test_C7_closed_and_upgraded(listener: Listener) -> None:
    with plain(listener.address) as sock:
        peer = listener.accept()
        with sock.start_tls():
            with pytest.raises(tcpsock.SocketUpgraded):
                negotiate(sock, "irc")
    with plain(listener.address) as sock:
        sock.close()
        with pytest.raises(tcpsock.SocketClosed):
            negotiate(sock, "irc")
    peer.close()


def test_C7_not_connected(listener: Listener) -> None:
    """What the connecting failed with; nobody has been spoken to."""
    listener.close()
    with plain(listener.address) as sock, pytest.raises(tcpsock.ConnectError, match="refused"):
        negotiate(sock, "irc")


# Names and times --------------------------------------------------------------------------------


@pytest.mark.parametrize(("host", "literal"), [("127.0.0.1", "[127.0.0.1]"), ("::1", "[IPv6:::1]")])
def test_C7_who_we_are_left_out(host: str, literal: str) -> None:
    """RFC 5321, 4.1.3."""
    script = Script(Send(b"220 x\r\n"), Expect(f"EHLO {literal}\r\n".encode()), Send(b"500 no\r\n"))
    with serve(script, host=host) as server:
        with plain(server.address) as sock, pytest.raises(StartTlsRefused, match="500 no"):
            negotiate(sock, "smtp")
    assert not server.errors


@pytest.mark.parametrize(
    ("protocol", "name", "to"),
    [
        ("xmpp", None, "localhost"),
        ("xmpp-server", "b\xfccher.example", "b\xfccher.example"),
        ("xmpp", "a'<&\">b", "a&apos;&lt;&amp;&quot;&gt;b"),
    ],
)
def test_C7_the_xmpp_domain(protocol: str, name: str | None, to: str) -> None:
    header = opened("jabber:server" if "server" in protocol else "jabber:client", to)
    with serve(Script(Expect(header), Send(STREAM + b"</stream:stream>"))) as server:
        with plain(f"localhost:{server.port}") as sock:
            with pytest.raises(StartTlsRefused, match="ended"):
                negotiate(sock, protocol, name=name)
    assert not server.errors


def adopted() -> tuple[Socket, socket.socket]:
    ours, theirs = socket.socketpair()
    return tcpsock.adopt(ours, secure_transport="starttls", timeout=WAIT), theirs


def test_C7_a_unix_socket_has_no_address() -> None:
    """EHLO needs one all the same; an XMPP domain can't be guessed."""
    sock, peer = adopted()
    with sock, peer:
        with pytest.raises(ValueError, match="name="):
            negotiate(sock, "xmpp")
        assert not sock.readable.locked and not sock.writable.locked
        peer.sendall(b"220 x\r\n500 no\r\n")
        with pytest.raises(StartTlsRefused, match="500 no"):
            negotiate(sock, "lmtp")
        assert peer.recv(100) == b"LHLO [127.0.0.1]\r\n"


def test_C7_the_sockets_timeout_is_the_default(listener: Listener) -> None:
    with plain(listener.address, timeout=0.05) as sock:
        with pytest.raises(ReadTimeout, match=r"no answer after 0\.05 s"):
            negotiate(sock, "pop3")
    options = tcpsock.SocketOptions(secure_transport="starttls", connect_timeout=0.5)
    with tcpsock.connect(listener.address, options) as sock:
        with pytest.raises(ReadTimeout, match=r"no answer after 0\.5 s"):
            negotiate(sock, "pop3")


def test_C7_one_deadline_for_the_whole_dialogue() -> None:
    """A server that says a line every so often doesn't get more time for it."""

    def drip(sock: socket.socket) -> None:
        pause = threading.Event()
        while not pause.wait(0.02):
            sock.sendall(b"* OK again\r\n")

    with serve(drip) as server:
        error = outcome(server.address, "imap", timeout=0.3)
    assert isinstance(error, ReadTimeout) and "after 0.3 s" in str(error)


def test_C7_any_exception_aborts(listener: Listener, interruptible: None) -> None:
    """Ctrl-C in the middle, for instance: half a dialogue is of no use to anybody."""
    with plain(listener.address) as sock:
        peer = listener.accept()
        peer.sock.sendall(b"+OK\r\n")
        call = interrupt_when_blocked(
            threading.main_thread(), lambda: peer.sock.recv(6, socket.MSG_PEEK) == b"STLS\r\n"
        )
        with pytest.raises(Interrupted):
            negotiate(sock, "pop3", timeout=WAIT)
        call.result()
        assert isinstance(sock.closed.exception(WAIT), SocketAborted)
        assert peer.read_to_the_end() == (b"STLS\r\n", "reset")
    peer.close()


# The log and the docs ---------------------------------------------------------------------------


def test_L1_the_dialogue_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Both directions, at DEBUG alone, with control characters escaped."""
    conversation = [b"+OK \x1b[2J\r\n", *GOOD["pop3"][1][1:]]
    with caplog.at_level(logging.DEBUG, "tcpsock"), serve(upgrading(conversation)) as server:
        round_trip(server.address, "pop3")
    events = [getattr(record, "tcpsock", {}) for record in caplog.records]
    heard = [(e["direction"], e["line"]) for e in events if e.get("event") == "starttls"]
    assert heard == [("received", "+OK \\x1b[2J"), ("sent", "STLS"), ("received", "+OK")]
    assert all(record.getMessage().isprintable() for record in caplog.records)
    caplog.clear()
    with caplog.at_level(logging.INFO, "tcpsock"), serve(upgrading(conversation)) as server:
        round_trip(server.address, "pop3")
    assert not caplog.records


def test_D3_the_page_has_every_protocol_and_code() -> None:
    page = (Path(__file__).parents[2] / "docs" / "starttls.rst").read_text()
    table = page.partition("The protocols")[2].partition("Two arguments")[0]
    listed = re.findall(r"^``([a-z0-9-]+)`` ", table, re.MULTILINE)
    assert listed == ["protocol", *PROTOCOLS]
    for code in ("starttls-not-spoken", "starttls-too-long", "starttls-not-enabled"):
        assert f"``{code}``" in page


def test_D4_the_pages_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """They run as they stand, with a server of ours where they connect to."""
    page = (Path(__file__).parents[2] / "docs" / "starttls.rst").read_text()
    blocks = re.findall(r"\.\. code-block:: python\n\n((?:   .*\n|\n)+)", page)
    first, second = [textwrap.dedent(block) for block in blocks]
    conversation = GOOD["smtp"][1]
    hello = Script(
        Send(conversation[0]),
        Expect(re.compile(rb"EHLO \[127\.0\.0\.1\]\r\n")),
        *speaking(conversation[2:]),
        Upgrade(),
        Echo(),
    )
    with serve(hello) as server:
        tls = TlsOptions(ca_data=server.ca_data)
        dial = tcpsock.connect

        def connect(address: str, **options: Any) -> Socket:
            return dial(server.address, tls=tls, **options)

        monkeypatch.setattr(tcpsock, "connect", connect)
        said: list[object] = []
        exec(first, {"print": said.append})
        assert said == [b"EHLO client.example.com\r\n"]
        names: dict[str, Any] = {"print": said.append}
        exec(second, names)
        with names["secured"]("mail.example.com:25", "smtp") as secure:
            assert secure.opened.result().tls_version
        with pytest.raises(StartTlsRefused):
            names["secured"]("mail.example.com:25", "pop3")
        assert said[2] == conversation[0].decode().strip()
