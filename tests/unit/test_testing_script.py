"""Scripts: servers that are written as a list of steps."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import threading

import pytest
from raw_clients import dial, read_all, read_exactly, secure

from tcpsock.testing import (
    Dialogue,
    Drain,
    Echo,
    Expect,
    ExpectEof,
    HalfClose,
    Reset,
    Script,
    Send,
    Stall,
    TruncateTls,
    Upgrade,
    reset,
    serve,
)

# scripts


def test_a_script_talks() -> None:
    hello = Expect(re.compile(rb"EHLO [a-z.]+\r\n"))
    script = Script(
        Send(b"220 hi\r\n"),
        hello,
        Send(b"250 STARTTLS\r\n"),
        Expect(b"STARTTLS\r\n"),
        Send(b"220 go\r\n"),
        Upgrade(),
        hello,
        Send(b"250 ok\r\n"),
        HalfClose(),
        Expect(b"QUIT\r\n"),
        ExpectEof(),
    )
    with serve(script) as server, dial(server.address) as sock:
        assert read_exactly(sock, 8) == b"220 hi\r\n"
        sock.sendall(b"EHLO me.example\r\nSTARTTLS\r\n")  # one segment, two steps
        assert read_exactly(sock, 22) == b"250 STARTTLS\r\n220 go\r\n"
        with secure(sock) as client:
            client.sendall(b"EHLO me\r\nQUIT\r\n")  # one record, read in parts
            assert read_all(client) == b"250 ok\r\n"
            client.unwrap().close()
        server.wait()
    assert server.errors == []


def test_a_script_that_is_not_followed_says_so_at_the_first_wrong_byte() -> None:
    with serve(Script(Expect(b"QUIT\r\n"))) as server:
        with dial(server.address) as client:
            client.sendall(b"QUA")
            assert client.recv(1) == b""
        with dial(server.address) as client:
            client.sendall(b"QUI")
        server.wait()
    assert [str(e) for e in server.errors] == [
        r"Expect(data=b'QUIT\r\n'): got b'QUA'",
        r"Expect(data=b'QUIT\r\n'): got b'QUI' and then EOF",
    ]
    with serve(Script(ExpectEof())) as server, dial(server.address) as client:
        client.sendall(b"x")
        server.wait()
    assert [str(e) for e in server.errors] == ["ExpectEof(): got b'x'"]


def test_echo_and_drain() -> None:
    with serve(Script(Expect(b"?"), Echo(), Send(b"!"))) as server, dial(server.address) as client:
        client.sendall(b"?abc")
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == b"abc!"
    with serve(Script(HalfClose(), Drain())) as server, dial(server.address) as client:
        assert client.recv(1) == b""
        client.sendall(bytes(1_000_000))
        client.shutdown(socket.SHUT_WR)
        server.wait()
    assert server.errors == []


def test_a_step_may_be_any_function() -> None:
    def shout(dialogue: Dialogue) -> None:
        dialogue.sock.sendall(dialogue.receive(3).upper())

    with serve(Script(shout)) as server, dial(server.address) as client:
        client.sendall(b"abc")
        assert read_all(client) == b"ABC"
    with pytest.raises(TypeError, match="not a step"):
        Script(b"hello")  # type: ignore[arg-type]  # the mistake that this is about


def test_a_script_stalls_until_it_is_told() -> None:
    event = threading.Event()
    with (
        serve(Script(Send(b"a"), Stall(event), Send(b"b"))) as server,
        dial(server.address) as client,
    ):
        assert read_exactly(client, 1) == b"a"
        client.settimeout(0.05)
        with pytest.raises(TimeoutError):
            client.recv(1)
        client.settimeout(20)
        event.set()
        assert read_all(client) == b"b"
    assert server.errors == []


def test_a_stalled_script_ends_with_its_connection_or_its_server() -> None:
    never = threading.Event()
    with serve(Script(Send(b"a"), Stall(never), Send(b"b"))) as server:
        with dial(server.address) as client:
            assert read_exactly(client, 1) == b"a"
            reset(client)
        server.wait()
        with dial(server.address) as client:
            assert read_exactly(client, 1) == b"a"
            server.close()
    assert server.errors == []


def test_a_script_resets_and_truncates() -> None:
    with serve(Script(Send(b"a"), Expect(b"x"), Reset())) as server, dial(server.address) as client:
        client.sendall(b"x")
        assert read_exactly(client, 1) == b"a"
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    with (
        serve(Script(Send(b"a"), TruncateTls(), Drain()), tls=True) as server,
        secure(dial(server.address)) as client,
    ):
        assert read_exactly(client, 1) == b"a"
        with pytest.raises(ssl.SSLError, match=r"(?i)eof"):
            client.recv(1)


def test_steps_show_themselves() -> None:
    assert repr(Script(Send(b"a"), HalfClose())) == "Script(Send(data=b'a'), HalfClose())"


@pytest.mark.parametrize("tls", [False, True])
def test_a_script_without_steps_closes_at_once_and_one_of_a_reset_resets(tls: bool) -> None:
    """The server that accepts, and then wants no more of you."""
    for script, raised in ((Script(), None), (Script(Reset()), (ConnectionError, ssl.SSLError))):
        with serve(script, tls=tls) as server, contextlib.ExitStack() as stack:
            if raised:
                stack.enter_context(pytest.raises(raised))
            sock = stack.enter_context(dial(server.address))
            client = stack.enter_context(secure(sock)) if tls else sock
            server.wait()
            assert client.recv(1) == b""
        assert server.errors == []
