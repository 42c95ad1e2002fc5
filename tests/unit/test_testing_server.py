"""serve(): its handlers, how connections begin and end, and what close() leaves: nothing."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import ssl
import subprocess
import sys
import textwrap
import threading

import pytest
from raw_clients import TLS_VERSIONS, dial, echo, pattern, read_all, read_exactly, secure

import tcpsock
from tcpsock import testing
from tcpsock.testing import (
    ChaosProxy,
    Dribble,
    Expect,
    Reset,
    Script,
    Send,
    authority,
    half_close,
    reset,
    serve,
    server_context,
    truncate,
    upgrade,
)

# serve


@pytest.mark.parametrize(
    ("host", "address"),
    [("127.0.0.1", "127.0.0.1:"), ("localhost", "localhost:"), ("::1", "[::1]:")],
)
def test_serve_calls_the_handler_with_each_connection(host: str, address: str) -> None:
    with serve(echo, host=host) as server:
        assert server.address == f"{address}{server.port}"
        assert server.host == host
        with dial(server.address) as one, dial(server.address) as two:
            two.sendall(b"two")
            one.sendall(b"one")
            assert read_exactly(one, 3) == b"one"
            assert read_exactly(two, 3) == b"two"
    assert server.errors == []


def test_handler_gets_a_blocking_socket() -> None:
    seen = []
    with (
        serve(lambda sock: seen.append((type(sock).__mro__[1], sock.gettimeout()))) as server,
        dial(server.address) as client,
    ):
        assert client.recv(1) == b""
    assert seen == [(socket.socket, None)]


def test_what_a_handler_sent_arrives_though_it_left_bytes_unread() -> None:
    """close() with unread bytes would be a reset, and destroy the answer."""
    answer = pattern(200_000)

    def handler(sock: socket.socket) -> None:
        sock.recv(1)
        sock.sendall(answer)

    with serve(handler) as server, dial(server.address) as client:
        client.sendall(b"x" * 1000)
        assert read_all(client) == answer


def test_exceptions_of_handlers_are_collected_and_not_printed(
    capfd: pytest.CaptureFixture[str],
) -> None:
    def handler(sock: socket.socket) -> None:
        raise {b"a": AssertionError, b"s": SystemExit}[sock.recv(1)]("told")

    with serve(handler) as server:
        for letter in (b"a", b"s"):
            with dial(server.address) as client:
                client.sendall(letter)
                assert client.recv(1) == b""
            server.wait()
    assert [(type(e), str(e)) for e in server.errors] == [
        (AssertionError, "told"),
        (SystemExit, "told"),
    ]
    assert capfd.readouterr() == ("", "")


def test_wait_sees_a_connection_that_nobody_has_accepted_yet() -> None:
    def handler(sock: socket.socket) -> None:
        assert read_all(sock) == b"bye"
        raise ValueError

    with serve(handler) as server:
        for round in range(1, 51):
            with dial(server.address) as client:
                client.sendall(b"bye")
            server.wait()
            assert len(server.errors) == round
    assert {type(e) for e in server.errors} == {ValueError}


def test_wait_gives_up_in_the_end() -> None:
    with (
        serve(echo) as server,
        dial(server.address),
        pytest.raises(TimeoutError, match="1 running"),
    ):
        server.wait(0.05)


def test_a_detached_socket_is_left_open() -> None:
    kept: list[int] = []
    with serve(lambda sock: kept.append(sock.detach())) as server:
        client = dial(server.address)
        server.wait()
    with client, socket.socket(fileno=kept[0]) as ours:
        ours.sendall(b"still here")
        assert read_exactly(client, 10) == b"still here"


def test_a_handler_may_close_its_socket() -> None:
    with serve(lambda sock: sock.close()) as server, dial(server.address) as client:
        assert client.recv(1) == b""
    assert server.errors == []


def test_close_wakes_a_handler_that_reads_and_one_that_writes() -> None:
    ends = []

    def handler(sock: socket.socket) -> None:
        try:
            if sock.recv(1) == b"r":
                ends.append(sock.recv(10))
            else:
                sock.sendall(bytes(50_000_000))
        finally:
            ends.append(b"end")

    server = serve(handler)
    with dial(server.address) as reading, dial(server.address) as writing:
        reading.sendall(b"rlast")
        writing.sendall(b"w")
        assert read_exactly(writing, 1) == b"\0"
        server.close()
        server.close()
    assert sorted(ends) == [b"end", b"end", b"last"]
    assert server.errors == []  # what close() did to them isn't their failure


def test_close_wakes_a_handler_in_the_middle_of_tls() -> None:
    """A handshake, a read and a read after upgrade() of the handler's own making."""
    begun = threading.Semaphore(0)

    def handler(sock: socket.socket) -> None:
        begun.release()
        sock.recv(1)

    def upgrading(sock: socket.socket) -> None:
        begun.release()
        with server_context().wrap_socket(sock, server_side=True) as tls:
            begun.release()
            tls.recv(1)

    with serve(handler, tls=True) as one, serve(upgrading) as two, contextlib.ExitStack() as stack:
        stack.enter_context(dial(one.address))  # says nothing
        stack.enter_context(secure(dial(one.address)))
        stack.enter_context(dial(two.address))
        stack.enter_context(secure(dial(two.address)))
        for _ in range(4):
            assert begun.acquire(timeout=20)
        one.close()
        two.close()
    assert one.errors == two.errors == []


def test_close_tells_of_a_handler_that_will_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tcpsock.testing._server.PATIENCE", 0.3)
    event = threading.Event()
    begun = threading.Event()

    def handler(sock: socket.socket) -> None:
        begun.set()
        event.wait()

    with serve(handler) as server, dial(server.address):
        assert begun.wait(20)
        server.close()
        assert "did not end" in str(server.errors[0])
        event.set()


def test_close_cuts_no_descriptor_that_took_the_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tcpsock.testing._server.PATIENCE", 0.3)
    ours, theirs = socket.socketpair()
    taken, event = threading.Event(), threading.Event()

    def handler(sock: socket.socket) -> None:
        number = sock.fileno()
        sock.close()
        os.dup2(ours.fileno(), number)
        taken.set()
        event.wait()
        os.close(number)

    with ours, theirs, serve(handler) as server, dial(server.address):
        assert taken.wait(20)
        server.close()
        theirs.sendall(b"untouched")
        assert read_exactly(ours, 9) == b"untouched"
        event.set()


def test_a_handler_may_close_its_server() -> None:
    with serve(lambda sock: server.close()) as server, dial(server.address) as client:
        assert client.recv(1) == b""
    with pytest.raises(OSError):
        dial(server.address)
    assert server.errors == []


def test_a_closed_server_leaves_nothing_at_once() -> None:
    """Not only in the end: when close() returns, every thread and descriptor is gone."""
    authority()
    before = set(os.listdir("/dev/fd")), set(threading.enumerate())
    with (
        serve(echo, tls=True) as server,
        ChaosProxy(server.address, to_client=[Dribble(7)]) as proxy,
    ):
        for _ in range(20):
            with secure(dial(proxy.address)) as client:
                client.sendall(b"x" * 100)
                assert read_exactly(client, 100) == b"x" * 100
        idle = [dial(proxy.address) for _ in range(5)]
    for client in idle:
        client.close()
    assert (set(os.listdir("/dev/fd")), set(threading.enumerate())) == before


def test_importing_and_plain_serving_need_the_standard_library_alone() -> None:
    """And what needs trustme says how to get it."""
    program = """
        import socket, sys
        sys.modules["trustme"] = None
        from tcpsock.testing import authority, serve
        assert not {"cryptography", "pytest", "_pytest", "hypothesis"} & set(sys.modules)
        with serve(lambda sock: sock.sendall(b"plain")) as server:
            with socket.create_connection((server.host, server.port)) as client:
                assert client.recv(5) == b"plain"
            for call in (
                lambda: serve(print, tls=True),
                lambda: serve(print, starttls=print),
                lambda: server.ca_data,
                authority,
            ):
                try:
                    call()
                except ImportError as error:
                    assert "pip install tcpsock[test]" in str(error), error
                else:
                    raise SystemExit("no error")
    """
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_every_public_name_is_documented() -> None:
    for name in set(testing.__all__) - {"Handler"}:  # an alias
        assert getattr(testing, name).__doc__, name


# the end of a connection


@TLS_VERSIONS
def test_the_handlers_return_ends_tls_cleanly(version: ssl.TLSVersion) -> None:
    """With close_notify behind more than the kernel takes at once, and unread bytes waiting."""
    answer = pattern(8_000_000)

    def handler(sock: socket.socket) -> None:
        sock.recv(1)
        sock.sendall(answer)

    with (
        serve(handler, tls=server_context(maximum=version)) as server,
        secure(dial(server.address)) as client,
    ):
        client.sendall(b"x" * 1000)
        assert read_all(client) == answer  # a missing close_notify would be an SSLEOFError
    assert server.errors == []


def test_the_close_notify_is_tried_again_when_there_is_no_room_for_it() -> None:
    def handler(sock: socket.socket) -> None:
        assert isinstance(sock, ssl.SSLSocket)
        really, tries = sock.unwrap, iter([ssl.SSLWantWriteError, ssl.SSLWantWriteError])

        def unwrap() -> socket.socket:
            for error in tries:
                raise error
            return really()

        sock.unwrap = unwrap  # type: ignore[method-assign]  # no peer can bring it about reliably

    with serve(handler, tls=True) as server, secure(dial(server.address)) as client:
        assert client.recv(1) == b""
    assert server.errors == []


@TLS_VERSIONS
def test_half_close_loses_nothing_of_what_comes_in(version: ssl.TLSVersion) -> None:
    """Decrypted, in the kernel, or sent after it."""
    got = []
    waiting = threading.Event()

    def handler(sock: socket.socket) -> None:
        first = sock.recv(1)
        assert waiting.wait(20)
        sock.sendall(b"before the end")
        rest = half_close(sock)
        got.append(first + rest + read_all(sock))

    question = pattern(1_000_000)
    with serve(handler, tls=server_context(maximum=version)) as server:
        with secure(dial(server.address)) as client:
            client.sendall(question[:10])
            client.sendall(question[10:50_000])
            waiting.set()
            assert read_all(client) == b"before the end"
            client.sendall(question[50_000:])
            client.unwrap().close()
        server.wait()
    assert server.errors == []
    assert got == [question]


def test_half_close_without_tls() -> None:
    got = []

    def handler(sock: socket.socket) -> None:
        assert half_close(sock) == b""
        got.append(read_all(sock))

    with serve(handler) as server, dial(server.address) as client:
        assert client.recv(1) == b""
        client.sendall(b"after it")
        client.shutdown(socket.SHUT_WR)
        server.wait()
    assert got == [b"after it"]


@TLS_VERSIONS
def test_truncate_is_a_fin_without_close_notify(version: ssl.TLSVersion) -> None:
    def handler(sock: socket.socket) -> None:
        sock.sendall(b"cut")
        truncate(sock)
        assert sock.recv(10) == b"still read"

    with (
        serve(handler, tls=server_context(maximum=version)) as server,
        secure(dial(server.address)) as client,
    ):
        assert read_exactly(client, 3) == b"cut"
        client.sendall(b"still read")
        server.wait()
        with pytest.raises(ssl.SSLError, match=r"(?i)eof"):
            client.recv(1)
    assert server.errors == []


@pytest.mark.parametrize("tls", [False, True])
def test_reset(tls: bool) -> None:
    def handler(sock: socket.socket) -> None:
        sock.sendall(b"data")
        assert sock.recv(1) == b"x"
        reset(sock)

    with (
        serve(handler, tls=tls) as server,
        dial(server.address) as sock,
        secure(sock) if tls else sock as client,
    ):
        assert read_exactly(client, 4) == b"data"
        client.sendall(b"x")
        server.wait()
        with pytest.raises(ConnectionResetError):
            socket.socket.recv(client, 1)


def test_upgrade_in_the_middle() -> None:
    def handler(sock: socket.socket) -> None:
        assert sock.recv(100) == b"STARTTLS"
        sock.sendall(b"go")
        echo(upgrade(sock))

    with serve(handler) as server, dial(server.address) as sock:
        sock.sendall(b"STARTTLS")
        assert read_exactly(sock, 2) == b"go"
        with secure(sock, ca_data=server.ca_data) as client:
            client.sendall(b"secret")
            assert read_exactly(client, 6) == b"secret"
            client.unwrap().close()
    assert server.errors == []


def test_a_strict_handler_sees_a_missing_close_notify() -> None:
    with serve(lambda sock: upgrade(sock, suppress_ragged_eofs=False).recv(1)) as server:
        with secure(dial(server.address)) as client:
            socket.socket.shutdown(client, socket.SHUT_WR)
            server.wait()
    assert [type(e) for e in server.errors] == [ssl.SSLEOFError]


# StartTLS


def ask_for_tls(sock: socket.socket, line: bytes = b"STARTTLS\r\n") -> None:
    sock.sendall(line)
    assert read_exactly(sock, 8) == b"220 go\r\n"


def go_ahead(sock: socket.socket) -> None:
    assert read_exactly(sock, 10) == b"STARTTLS\r\n"
    sock.sendall(b"220 go\r\n")


@pytest.mark.parametrize(
    "starttls",
    [go_ahead, Script(Expect(b"STARTTLS\r\n"), Send(b"220 go\r\n"))],
    ids=["function", "script"],
)
@pytest.mark.parametrize("tls", [False, True], ids=["implied", "tls=True"])
def test_starttls_talks_in_clear_and_then_the_handler_gets_tls(
    tls: bool, starttls: testing.Handler
) -> None:
    def handler(sock: socket.socket) -> None:
        assert isinstance(sock, ssl.SSLSocket)
        echo(sock)

    with serve(handler, tls=tls, starttls=starttls) as server:
        for _ in range(2):
            sock = dial(server.address)
            ask_for_tls(sock)
            with secure(sock, ca_data=server.ca_data) as client:
                client.sendall(b"secret")
                assert read_exactly(client, 6) == b"secret"
                client.unwrap().close()
        server.wait()
    assert server.errors == []


def test_starttls_presents_the_certificate_of_its_context() -> None:
    wrong = server_context(authority().issue("wrong.example"))
    with serve(echo, tls=wrong, starttls=go_ahead) as server, dial(server.address) as sock:
        ask_for_tls(sock)
        with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
            secure(sock)


@pytest.mark.parametrize(
    ("left_over", "hello"),
    [(b"x", b"\x16\x03\x01\x02\x00" + bytes(512)), (b"EHLO evil\r\n", b""), (b"x" * 20_000, b"")],
    ids=["one byte", "a line", "a lot"],
)
def test_plaintext_behind_the_wish_for_tls_fails_the_handshake(
    left_over: bytes, hello: bytes
) -> None:
    """It's the first bytes of the handshake to whoever reads them. No handler ever sees one.

    The client gets EOF behind the alert, if there was one, and no reset that overtakes it.
    """
    called = []
    with serve(called.append, starttls=go_ahead) as server:
        with dial(server.address) as sock:
            ask_for_tls(sock, b"STARTTLS\r\n" + left_over)
            sock.sendall(hello)
            assert read_all(sock)[:1] in (b"", b"\x15")
        server.wait()
    assert [type(e) for e in server.errors] == [ssl.SSLError]
    assert called == []


def test_plaintext_behind_the_go_ahead_is_found_by_tcpsock() -> None:
    """S5: the server's side of the same attack."""
    starttls = Script(Expect(b"STARTTLS\r\n"), Send(b"220 go\r\n250 evil\r\n"))
    with serve(echo, starttls=starttls) as server:
        with tcpsock.connect(server.address, secure_transport="starttls", timeout=20) as plain:
            reader, writer = plain.streams()
            writer.write(b"STARTTLS\r\n")
            assert reader.read_exactly(8) == b"220 go\r\n"
            with pytest.raises(tcpsock.PlaintextInjected):
                plain.start_tls(ca_data=server.ca_data).opened.result(20)
        server.wait()


@pytest.mark.parametrize(
    "end", [lambda sock: sock.close(), reset, Script(Reset())], ids=["close", "reset", "script"]
)
def test_starttls_may_refuse_by_ending_the_connection(end: testing.Handler) -> None:
    called = []
    with serve(called.append, starttls=end) as server:
        with contextlib.suppress(ConnectionResetError), dial(server.address) as sock:
            assert sock.recv(1) == b""
        server.wait()
    assert server.errors == called == []


def test_starttls_that_fails_is_told_and_goes_no_further() -> None:
    called = []
    with serve(called.append, starttls=Script(Expect(b"STARTTLS\r\n"))) as server:
        with dial(server.address) as sock:
            sock.sendall(b"QUIT\r\n")
            assert read_all(sock) == b""
        server.wait()
    assert [type(e) for e in server.errors] == [AssertionError]
    assert called == []


def test_no_handshake_is_done_with_a_client_that_has_gone() -> None:
    """ssl's own wrap_socket() gives a socket then that looks as if it had been."""
    called = []
    gone = threading.Event()

    def starttls(sock: socket.socket) -> None:
        assert gone.wait(20)
        with pytest.raises(ConnectionResetError):
            sock.recv(1)

    with serve(called.append, starttls=starttls) as server:
        reset(dial(server.address))
        gone.set()
        server.wait()
    assert [getattr(e, "errno", None) for e in server.errors] == [errno.ENOTCONN]
    assert called == []


def test_starttls_leaves_the_upgrade_to_the_server() -> None:
    """Doing it twice is a mistake that shows."""
    called = []
    with serve(called.append, starttls=upgrade) as server:
        with secure(dial(server.address)) as client:
            assert client.recv(1) == b""
        server.wait()
    assert [type(e) for e in server.errors] == [OSError]
    assert called == []


def test_close_wakes_what_goes_before_the_handshake() -> None:
    begun = threading.Semaphore(0)

    def starttls(sock: socket.socket) -> None:
        begun.release()
        go_ahead(sock)
        begun.release()

    with serve(echo, starttls=starttls) as server:
        with dial(server.address), dial(server.address) as sock:
            ask_for_tls(sock)
            for _ in range(3):
                assert begun.acquire(timeout=20)
            server.close()
    # The one that read was given an EOF and says so; the handshake was cut off.
    assert [type(e) for e in server.errors] == [AssertionError]
