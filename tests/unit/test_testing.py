"""tcpsock.testing by itself: servers, scripts and the proxy against raw sockets and ssl."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import select
import socket
import ssl
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator, Sequence

import pytest

from tcpsock import testing
from tcpsock.testing import (
    Authority,
    ChaosProxy,
    Cuts,
    DelayFin,
    Dialogue,
    Drain,
    Dribble,
    DropCloseNotify,
    Echo,
    Expect,
    ExpectEof,
    Fin,
    Flip,
    HalfClose,
    Inject,
    Reset,
    Script,
    Send,
    Stall,
    SwallowFin,
    TruncateTls,
    Upgrade,
    authority,
    half_close,
    reset,
    serve,
    server_context,
    truncate,
    upgrade,
)
from tcpsock.testing._chaos import _Link
from tcpsock.testing._steps import Stream

TLS_VERSIONS = pytest.mark.parametrize(
    "version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["TLS1.2", "TLS1.3"]
)


def dial(address: str) -> socket.socket:
    host, port = address.rsplit(":", 1)
    return socket.create_connection((host.strip("[]"), int(port)), timeout=20)


def secure(
    sock: socket.socket,
    *,
    ca_data: str | None = None,
    hostname: str = "localhost",
    certificate: testing.Certificate | None = None,
    alpn: Sequence[str] = (),
) -> ssl.SSLSocket:
    context = ssl.create_default_context(cadata=ca_data or authority().ca_data)
    if certificate is not None:
        certificate.load_into(context)
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context.wrap_socket(sock, server_hostname=hostname, suppress_ragged_eofs=False)


def read_all(sock: socket.socket) -> bytes:
    pieces = []
    while piece := sock.recv(65536):
        pieces.append(piece)
    return b"".join(pieces)


def read_exactly(sock: socket.socket, size: int) -> bytes:
    got = b""
    while len(got) < size:
        piece = sock.recv(size - len(got))
        assert piece, f"EOF after {got!r}"
        got += piece
    return got


def echo(sock: socket.socket) -> None:
    while piece := sock.recv(65536):
        sock.sendall(piece)


def pattern(size: int) -> bytes:
    """Bytes in which nothing can be missing, doubled or displaced unseen."""
    return b"".join(i.to_bytes(4, "big") for i in range(size // 4))


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
        from tcpsock.testing import serve
        with serve(lambda sock: sock.sendall(b"plain")) as server:
            with socket.create_connection((server.host, server.port)) as client:
                assert client.recv(5) == b"plain"
        try:
            serve(print, tls=True)
        except RuntimeError as error:
            assert "pip install 'tcpsock[test]'" in str(error), error
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


# certificates and contexts


@pytest.mark.parametrize("hostname", ["localhost", "127.0.0.1", "::1"])
def test_tls_true_is_valid_for_loopback(hostname: str) -> None:
    with (
        serve(echo, tls=True) as server,
        secure(dial(server.address), ca_data=server.ca_data, hostname=hostname) as client,
    ):
        client.sendall(b"hello")
        assert read_exactly(client, 5) == b"hello"
    assert server.errors == []


@TLS_VERSIONS
def test_the_version_can_be_chosen(version: ssl.TLSVersion) -> None:
    for context in (server_context(maximum=version), server_context(minimum=version)):
        with serve(echo, tls=context) as server, secure(dial(server.address)) as client:
            assert context.maximum_version == version or client.version() == "TLSv1.3"


def test_an_outdated_server_can_be_had() -> None:
    with serve(echo, tls=server_context(maximum=ssl.TLSVersion.TLSv1_1)) as server:
        with (
            dial(server.address) as sock,
            pytest.raises(ssl.SSLError, match=r"(?i)version|protocol"),
        ):
            secure(sock)
        server.wait()
    assert isinstance(server.errors[0], ssl.SSLError)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: authority().issue(validity="expired"), "has expired"),
        (lambda: authority().issue(validity="future"), "not yet valid"),
        (lambda: authority().issue("wrong.example"), "Hostname mismatch"),
        (lambda: Authority().issue(), "unable to get local issuer"),
    ],
    ids=["expired", "future", "wrong host", "unknown CA"],
)
def test_bad_certificates(make: Callable[[], testing.Certificate], message: str) -> None:
    with serve(echo, tls=server_context(make())) as server:
        with (
            dial(server.address) as sock,
            pytest.raises(ssl.SSLCertVerificationError, match=message),
        ):
            secure(sock)
        server.wait()
    assert len(server.errors) == 1


def test_an_intermediate_authority_sends_its_chain() -> None:
    with (
        serve(echo, tls=server_context(Authority(authority()).issue())) as server,
        secure(dial(server.address)) as client,
    ):
        client.sendall(b"x")
        assert client.recv(1) == b"x"


def test_client_certificates() -> None:
    seen = []

    def handler(sock: socket.socket) -> None:
        assert isinstance(sock, ssl.SSLSocket)
        certificate = sock.getpeercert()
        assert certificate is not None
        seen.append(certificate["subjectAltName"])
        sock.sendall(b"welcome")

    with serve(handler, tls=server_context(client_ca=authority().ca_data)) as server:
        mine = authority().issue("me@example.org")
        with secure(dial(server.address), certificate=mine) as client:
            assert read_exactly(client, 7) == b"welcome"
        with secure(dial(server.address)) as client, pytest.raises(OSError):
            client.sendall(b"x")
            client.recv(1)
        server.wait()
    assert seen == [(("email", "me@example.org"),)]
    assert len(server.errors) == 1


def test_alpn() -> None:
    with (
        serve(echo, tls=server_context(alpn=["b", "a"])) as server,
        secure(dial(server.address), alpn=["a", "b"]) as client,
    ):
        assert client.selected_alpn_protocol() == "b"


def test_a_certificate_can_be_written(tmp_path: os.PathLike[str]) -> None:
    chain, key = authority().issue("me@example.org").write(tmp_path)
    assert os.stat(key).st_mode & 0o777 == 0o600
    ssl.create_default_context().load_cert_chain(chain, key)
    assert "PRIVATE" not in repr(authority().issue())


def test_there_is_one_authority_however_many_ask_at_once() -> None:
    program = """
        import threading
        from tcpsock.testing import authority
        found = []
        threads = [threading.Thread(target=lambda: found.append(authority())) for _ in range(8)]
        for t in threads: t.start()
        for t in threads: t.join()
        assert len(found) == 8 and len(set(found)) == 1
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True)


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


# the proxy


@contextlib.contextmanager
def proxied(
    handler: testing.Handler,
    *,
    tls: bool | ssl.SSLContext = False,
    to_client: Sequence[object] = (),
    to_server: Sequence[object] = (),
) -> Iterator[tuple[socket.socket, testing.Server]]:
    with serve(handler, tls=tls) as server:
        proxy = ChaosProxy(server.address, to_client=to_client, to_server=to_server)  # type: ignore[arg-type]  # steps; the protocol is private
        with proxy, dial(proxy.address) as client:
            yield client, server
        assert proxy.errors == []


@pytest.mark.parametrize(
    "steps", [(), (Dribble(1000),), (Cuts(1), Dribble(3000), Cuts(2))], ids=["no", "one", "three"]
)
@pytest.mark.parametrize("tls", [False, True])
def test_the_proxy_changes_no_byte_unless_told_so(tls: bool, steps: Sequence[object]) -> None:
    """Both directions at once, each half-closed when it is done."""
    question, answer = pattern(300_000), pattern(400_000)[::-1]
    got = []

    def handler(sock: socket.socket) -> None:
        sock.sendall(answer)
        got.append(half_close(sock) + read_all(sock))

    with (
        proxied(handler, tls=tls, to_client=steps, to_server=steps) as (sock, server),
        secure(sock) if tls else sock as client,
    ):
        assert read_all(client) == answer
        client.sendall(question)  # though the server has half-closed already
        if isinstance(client, ssl.SSLSocket):
            client = client.unwrap()
        client.shutdown(socket.SHUT_WR)
        server.wait()
        client.close()
    assert server.errors == []
    assert got == [question]


def test_a_half_close_of_the_client_passes_through() -> None:
    with proxied(lambda sock: sock.sendall(b"got " + read_all(sock))) as (client, _):
        client.sendall(b"abc")
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == b"got abc"


def test_resets_pass_through_both_ways() -> None:
    def handler(sock: socket.socket) -> None:
        if sock.recv(1) == b"r":
            reset(sock)
        else:
            sock.recv(1)

    with proxied(handler) as (client, server):
        client.sendall(b"r")
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    with proxied(handler) as (client, server):
        client.sendall(b"x")
        reset(client)
        server.wait()
    assert [type(e) for e in server.errors] in ([ConnectionResetError], [])


def test_a_reset_is_no_eof_though_the_sending_thread_saw_it_first() -> None:
    """The kernel tells a reset once; recv() after it gives b"", as at an EOF."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        far, near = zip(*(pair(listener) for _ in range(2)), strict=True)
    with far[0], far[1], _Link(*near) as link:
        reset(far[1])
        poll = select.poll()
        poll.register(near[1], 0)
        poll.poll()
        with pytest.raises(ConnectionError):
            near[1].send(b"x")
        with pytest.raises(OSError):
            list(link._read(near[1]))


def pair(listener: socket.socket) -> tuple[socket.socket, socket.socket]:
    return socket.create_connection(listener.getsockname()), listener.accept()[0]


def test_dribble_parts_the_bytes() -> None:
    go = threading.Semaphore(0)
    pieces = []

    def handler(sock: socket.socket) -> None:
        sock.sendall(b"abcdef")
        assert sock.recv(1) == b""

    with proxied(handler, to_client=[Dribble(2), Pause(go)]) as (client, _):
        for _ in range(3):
            go.release()
            pieces.append(client.recv(100))
    assert pieces == [b"ab", b"cd", b"ef"]
    with pytest.raises(ValueError, match="n must"):
        Dribble(0)


class Pause:
    """A step of one's own: lets a piece through whenever it is told."""

    def __init__(self, go: threading.Semaphore) -> None:
        self.go = go

    def apply(self, stream: Iterator[bytes], link: object) -> Iterator[bytes]:
        for piece in stream:
            assert self.go.acquire(timeout=20)
            yield piece


class Nothing:
    """Something to wait in for steps that are tried alone, and don't."""

    def wait(self, event: threading.Event) -> None:
        raise NotImplementedError


def cut(seed: int, pieces: Sequence[bytes]) -> list[bytes]:
    return list(Cuts(seed).apply(Stream(pieces), Nothing()))


def test_cuts_depend_on_the_seed_and_on_nothing_else() -> None:
    text = pattern(400_000)
    one, again, other = cut(1, [text]), cut(1, [text]), cut(2, [text])
    assert one == again != other
    assert b"".join(one) == b"".join(other) == text
    assert min(map(len, one)) < 10 and max(map(len, one)) > 1000

    def ends(pieces: Sequence[bytes]) -> set[int]:
        return {sum(map(len, pieces[:i])) for i in range(len(pieces) + 1)}

    assert ends(cut(1, [text[:1000], text[1000:]])) == ends(one) | {1000}


def test_stall_holds_one_direction_at_its_place() -> None:
    event = threading.Event()
    with proxied(echo, to_client=[Stall(event, at=3)]) as (client, _):
        client.sendall(b"abcdef")
        assert read_exactly(client, 3) == b"abc"
        client.settimeout(0.05)
        with pytest.raises(TimeoutError):
            client.recv(1)
        client.settimeout(20)
        event.set()
        assert read_exactly(client, 3) == b"def"


def test_a_stalled_proxy_closes_at_once() -> None:
    never = threading.Event()
    with proxied(echo, to_client=[Stall(never)], to_server=[Stall(never, at=1)]) as (client, _):
        client.sendall(b"abcdef")


def test_reset_comes_behind_the_bytes_that_it_lets_through() -> None:
    """Also if the client takes its time, and they would all fit into the proxy's send buffer."""
    size = 100_000
    with (
        serve(Script(Send(bytes(50_000_000)))) as server,  # more than all the buffers take
        ChaosProxy(server.address, to_client=[Reset(size)]) as proxy,
        socket.socket() as client,
    ):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        host, port = proxy.address.split(":")
        client.connect((host, int(port)))
        poll = select.poll()
        poll.register(client, 0)
        assert poll.poll(200) == []  # no reset yet
        got = 0
        with pytest.raises(ConnectionResetError):
            while True:
                piece = client.recv(65536)
                assert piece
                got += len(piece)
        assert got == size
        server.wait()
    assert [type(e) for e in server.errors] in ([ConnectionResetError], [BrokenPipeError])
    assert proxy.errors == []


def test_a_reset_of_one_direction_hits_both_sides_though_the_other_is_stalled() -> None:
    never = threading.Event()

    def handler(sock: socket.socket) -> None:
        with pytest.raises(ConnectionResetError):
            while sock.recv(1) == b"x":
                pass

    with proxied(handler, to_client=[Stall(never)], to_server=[Reset(after=1)]) as (client, server):
        with pytest.raises(ConnectionResetError):
            client.sendall(b"x")
            client.recv(1)
        server.wait()
    assert server.errors == []


def test_a_stream_that_ends_early_is_not_stalled_reset_or_injected() -> None:
    never = threading.Event()
    steps = [Stall(never, at=10), Reset(after=10), Inject(b"evil", at=10), Flip(10)]
    with proxied(lambda sock: sock.sendall(b"short"), to_client=steps) as (client, _):
        assert read_all(client) == b"short"


def test_fin_ends_a_tls_stream_in_the_middle_of_a_record() -> None:
    def handler(sock: socket.socket) -> None:
        sock.sendall(bytes(30_000_000))  # what is past the FIN is taken from it all the same
        assert read_all(sock) == b"the other direction goes on"

    with (
        proxied(handler, tls=True, to_client=[Fin(100_000)]) as (sock, server),
        secure(sock) as client,
    ):
        client.sendall(b"the other direction goes on")
        socket.socket.shutdown(client, socket.SHUT_WR)
        got = b""
        with pytest.raises(ssl.SSLError, match=r"(?i)eof"):
            while True:
                got += client.recv(65536)
        assert 80_000 < len(got) < 100_000
        server.wait()
    assert server.errors == []


def test_delay_fin() -> None:
    event = threading.Event()
    with proxied(lambda sock: sock.sendall(b"abc"), to_client=[DelayFin(event)]) as (client, _):
        assert read_exactly(client, 3) == b"abc"
        client.settimeout(0.05)
        with pytest.raises(TimeoutError):
            client.recv(1)
        client.settimeout(20)
        event.set()
        assert client.recv(1) == b""


def test_swallowed_half_close() -> None:
    def handler(sock: socket.socket) -> None:
        assert sock.recv(3) == b"abc"
        sock.settimeout(0.05)
        with pytest.raises(TimeoutError):
            sock.recv(1)
        sock.sendall(b"not yet")
        half_close(sock)
        sock.settimeout(20)
        assert sock.recv(1) == b""  # when both sides have ended, the connection does

    with proxied(handler, to_server=[SwallowFin()]) as (client, server):
        client.sendall(b"abc")
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == b"not yet"
        server.wait()
    assert server.errors == []


def test_flip_changes_one_byte() -> None:
    with proxied(echo, to_client=[Flip(2), Flip(3, mask=0x20)]) as (client, _):
        client.sendall(b"abcde")
        assert read_exactly(client, 5) == b"abbDe"
    with proxied(echo, tls=True, to_client=[Flip(200)]) as (sock, _):
        with pytest.raises(ssl.SSLError):
            secure(sock).close()
        sock.close()


def test_inject_joins_the_segment_before_it() -> None:
    step = Inject(b"evil", at=6)
    assert list(step.apply(Stream([b"220 go"]), Nothing())) == [b"220 goevil"]
    assert list(step.apply(Stream([b"220", b" go on"]), Nothing())) == [b"220", b" goevil", b" on"]


def test_inject_waits_for_nothing_behind_its_place() -> None:
    with proxied(echo, to_client=[Inject(b"at once"), Inject(b"!", at=9)]) as (client, _):
        assert read_exactly(client, 7) == b"at once"
        client.sendall(b"abc")
        assert read_exactly(client, 4) == b"ab!c"


@TLS_VERSIONS
@pytest.mark.parametrize("starttls", [False, True])
def test_drop_close_notify(version: ssl.TLSVersion, starttls: bool) -> None:
    answer = pattern(100_000)
    context = server_context(maximum=version)

    def handler(sock: socket.socket) -> None:
        if starttls:
            sock.sendall(b"220 go\r\n")
            sock = upgrade(sock, context)
        sock.sendall(answer)

    step = DropCloseNotify(at=8 if starttls else 0)
    with proxied(handler, tls=False if starttls else context, to_client=[step]) as (sock, server):
        if starttls:
            assert read_exactly(sock, 8) == b"220 go\r\n"
        with secure(sock) as client:
            assert read_exactly(client, len(answer)) == answer
            with pytest.raises(ssl.SSLError, match=r"(?i)eof"):
                client.recv(1)
    assert server.errors == []


def test_a_target_that_refuses_is_a_reset_and_an_error() -> None:
    with serve(echo) as gone:
        pass
    with ChaosProxy(gone.address) as proxy, pytest.raises(ConnectionResetError):
        with dial(proxy.address) as client:  # it may already notice here
            client.recv(1)
    assert [getattr(e, "errno", None) for e in proxy.errors] == [errno.ECONNREFUSED]


def test_what_is_no_step_is_refused_at_once() -> None:
    with pytest.raises(TypeError, match="not a step of a proxy: Send"):
        ChaosProxy("127.0.0.1:1", to_client=[Send(b"x")])  # type: ignore[list-item]  # the mistake


def test_a_step_that_fails_is_told() -> None:
    class Broken:
        def apply(self, stream: Iterator[bytes], link: object) -> Iterator[bytes]:
            next(stream)
            raise ZeroDivisionError

    with serve(echo) as server, ChaosProxy(server.address, to_client=[Broken()]) as proxy:
        with dial(proxy.address) as client, pytest.raises(ConnectionResetError):
            client.sendall(b"x")
            client.recv(1)
    assert [type(e) for e in proxy.errors] == [ZeroDivisionError]


def test_every_public_name_is_documented() -> None:
    for name in set(testing.__all__) - {"Handler"}:  # an alias
        assert getattr(testing, name).__doc__, name
