"""A walk through the table of errors: each class and code, provoked for real (api.md, O3, O4)."""

from __future__ import annotations

import copy
import errno
import inspect
import pathlib
import pickle
import re
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from _ending_peers import (
    BULK,
    BlackHole,
    Listener,
    Names,
    connected,
    failure,
    free_port,
    raised,
    tls_server,
    trusting,
)
from peers import WAIT, Call, pattern

import tcpsock
from tcpsock import KeepAlive, SocketAddress, SocketError, SocketOptions, TlsOptions

ROOT = pathlib.Path(__file__).parents[2]

# api.md's table: what each class is, besides a SocketError.
ALSO: dict[str, tuple[type[BaseException], ...]] = {
    "InvalidAddress": (ValueError,),
    "PolicyViolation": (PermissionError,),
    "ScopeError": (RuntimeError,),
    "ConnectError": (ConnectionError,),
    "ResolveError": (tcpsock.ConnectError, socket.gaierror),
    "ConnectTimeout": (tcpsock.ConnectError, TimeoutError),
    "TlsError": (ConnectionError, ssl.SSLError),
    "TlsVerificationError": (tcpsock.TlsError, ssl.SSLCertVerificationError),
    "TlsTruncated": (tcpsock.TlsError, EOFError),
    "StartTlsError": (RuntimeError,),
    "PlaintextInjected": (tcpsock.StartTlsError,),
    "StartTlsRefused": (tcpsock.StartTlsError,),
    "ReadTimeout": (TimeoutError,),
    "WriteTimeout": (TimeoutError,),
    "ConnectionLost": (ConnectionResetError,),
    "IncompleteRead": (EOFError,),
    "LimitExceeded": (ValueError,),
    "SocketClosed": (),
    "SocketAborted": (tcpsock.SocketClosed,),
    "SocketUpgraded": (tcpsock.SocketClosed,),
    "SocketForked": (tcpsock.SocketClosed,),
    "StreamLocked": (RuntimeError,),
    "StreamBusy": (RuntimeError,),
}
# What other work brings about: the egress policy, scopes, tcpsock.starttls.negotiate().
LATER = {"PolicyViolation", "ScopeError", "StartTlsRefused"}
OWN = ("attempts", "verify_message", "bytes_written", "partial", "expected", "reason", "reply")
PHASES = {"address", "policy", "resolve", "connect", "tls", "read", "write", "close"}


def public_errors() -> dict[str, type[SocketError]]:
    found = {name: getattr(tcpsock, name) for name in tcpsock.__all__}
    return {
        name: thing
        for name, thing in found.items()
        if inspect.isclass(thing) and issubclass(thing, SocketError) and thing is not SocketError
    }


def test_api_the_table_is_complete() -> None:
    assert set(public_errors()) == set(ALSO)
    assert issubclass(SocketError, OSError)
    for name, kind in public_errors().items():
        for also in ALSO[name]:
            assert issubclass(kind, also), (name, also)


# The walk: each function below brings one error about and returns it.

PROVOKED: dict[str, tuple[type[SocketError], str, str, Callable[[], SocketError]]] = {}
Provoke = Callable[[], Any]


def walk(kind: type[SocketError], code: str, phase: str) -> Callable[[Provoke], Provoke]:
    """Enter a function into the walk, with what its error must be."""

    def enter(provoke: Provoke) -> Provoke:
        PROVOKED[provoke.__name__] = kind, code, phase, provoke
        return provoke

    return enter


@walk(tcpsock.InvalidAddress, "invalid-address", "address")
def a_missing_port() -> Any:
    return raised(tcpsock.InvalidAddress, tcpsock.connect, "db.example")


@walk(tcpsock.InvalidAddress, "invalid-address", "address")
def a_port_out_of_range() -> Any:
    return raised(tcpsock.InvalidAddress, lambda: tcpsock.connect(("db.example", 0)))


@walk(tcpsock.ConnectError, "connect-error", "connect")
def a_refused_port() -> Any:
    port = free_port()
    error: Any = failure(tcpsock.connect(f"127.0.0.1:{port}").opened)
    assert error.errno == errno.ECONNREFUSED
    assert [attempt.address for attempt in error.attempts] == [f"127.0.0.1:{port}"]
    return error


@walk(tcpsock.ResolveError, "resolve-error", "resolve")
def an_unknown_name() -> Any:
    with Names():
        error: Any = failure(tcpsock.connect("db.example:80").opened)
    assert error.errno == socket.EAI_NONAME and error.attempts == ()
    return error


@walk(tcpsock.ConnectTimeout, "connect-timeout", "resolve")
def a_name_server_that_is_silent() -> Any:
    with Names() as names:
        names.hang("db.example")
        return failure(tcpsock.connect("db.example:80", connect_timeout=0.05).opened)


@walk(tcpsock.ConnectTimeout, "connect-timeout", "connect")
def an_address_that_is_silent() -> Any:
    with BlackHole() as hole:
        error: Any = failure(tcpsock.connect(hole.address, connect_timeout=0.05).opened)
        assert [attempt.address for attempt in error.attempts] == [hole.address]
        return error


@walk(tcpsock.ConnectTimeout, "connect-timeout", "tls")
def a_handshake_that_is_silent() -> Any:
    with Listener() as listener:
        sock = tcpsock.connect(
            listener.address, connect_timeout=0.1, secure_transport="on", tls=trusting()
        )
        return failure(sock.opened)


@walk(tcpsock.TlsError, "tls-error", "tls")
def a_server_without_TLS() -> Any:
    with Listener() as listener:
        sock = tcpsock.connect(listener.address, secure_transport="on", tls=trusting())
        listener.accept().send(b"220 mail.example ESMTP\r\n")
        return failure(sock.opened)


@walk(tcpsock.TlsError, "tls-error", "")
def a_record_that_is_none() -> Any:
    with connected("on") as (sock, peer):
        peer.send_raw(b"garbage in the middle of TLS")
        return raised(tcpsock.TlsError, sock.readable.get_reader().read, timeout=WAIT)


@walk(tcpsock.TlsVerificationError, "tls-verification-error", "tls")
def a_certificate_of_an_unknown_authority() -> Any:
    with Listener(context=tls_server()) as listener:
        sock = tcpsock.connect(listener.address, secure_transport="on")
        with pytest.raises(OSError):
            listener.accept()
        error: Any = failure(sock.opened)
    assert error.verify_message
    return error


@walk(tcpsock.TlsTruncated, "tls-truncated", "")
def an_end_without_close_notify() -> Any:
    with connected("on") as (sock, peer):
        peer.cut()
        return raised(tcpsock.TlsTruncated, sock.readable.get_reader().read, timeout=WAIT)


@walk(tcpsock.StartTlsError, "starttls-already-tls", "tls")
def start_tls_over_TLS() -> Any:
    with connected("on") as (sock, _peer):
        return raised(tcpsock.StartTlsError, sock.start_tls)


@walk(tcpsock.StartTlsError, "starttls-not-enabled", "tls")
def start_tls_without_starttls() -> Any:
    with connected("off") as (sock, _peer):
        return raised(tcpsock.StartTlsError, sock.start_tls)


@walk(tcpsock.PlaintextInjected, "plaintext-injected", "tls")
def plaintext_before_TLS_that_was_read_ahead() -> Any:
    with connected("starttls") as (sock, peer):
        peer.send(b"injected")
        sock.readable.get_reader().peek(timeout=WAIT)
        return raised(tcpsock.PlaintextInjected, sock.start_tls)


@walk(tcpsock.ReadTimeout, "read-timeout", "read")
def a_read_without_an_answer() -> Any:
    with connected() as (sock, _peer):
        return raised(tcpsock.ReadTimeout, sock.readable.get_reader().read, timeout=0.01)


@walk(tcpsock.WriteTimeout, "write-timeout", "write")
def a_write_that_nobody_takes() -> Any:
    with connected() as (sock, _peer):
        writer = sock.writable.get_writer()
        error = raised(tcpsock.WriteTimeout, writer.write, pattern(BULK), timeout=0.05)
        assert 0 < error.bytes_written < BULK
        return error


@walk(tcpsock.ConnectionLost, "connection-lost", "read")
def a_reset_under_a_read() -> Any:
    with connected() as (sock, peer):
        reader = sock.readable.get_reader()
        read = Call(reader.read).blocked()
        peer.reset()
        error = read.error()
        assert isinstance(error, SocketError) and error.errno in (None, errno.ECONNRESET)
        return error


@walk(tcpsock.ConnectionLost, "connection-lost", "write")
def a_write_after_the_peers_end() -> Any:
    with connected() as (sock, peer):
        peer.end()
        sock.closed.result(WAIT)
        return raised(tcpsock.ConnectionLost, sock.writable.get_writer().write, b"x")


@walk(tcpsock.IncompleteRead, "incomplete-read", "read")
def an_end_before_all_that_was_asked_for() -> Any:
    with connected() as (sock, peer):
        peer.send(b"part")
        peer.end()
        error = raised(
            tcpsock.IncompleteRead, sock.readable.get_reader().read_exactly, 9, timeout=WAIT
        )
        assert (error.partial, error.expected) == (b"part", 9)
        return error


@walk(tcpsock.IncompleteRead, "incomplete-read", "read")
def an_end_before_the_separator() -> Any:
    with connected() as (sock, peer):
        peer.send(b"part")
        peer.end()
        error = raised(
            tcpsock.IncompleteRead, sock.readable.get_reader().read_until, b"\n", timeout=WAIT
        )
        assert (error.partial, error.expected) == (b"part", None)
        return error


@walk(tcpsock.LimitExceeded, "limit-exceeded", "read")
def a_line_that_is_too_long() -> Any:
    with connected() as (sock, peer):
        peer.send(b"0123456789\n")
        reader = sock.readable.get_reader()
        return raised(tcpsock.LimitExceeded, reader.readline, limit=5, timeout=WAIT)


@walk(tcpsock.SocketClosed, "socket-closed", "")
def a_read_after_close() -> Any:
    with connected() as (sock, peer):
        reader = sock.readable.get_reader()
        peer.end()
        sock.close()
        return raised(tcpsock.SocketClosed, reader.read)


@walk(tcpsock.SocketClosed, "socket-closed", "")
def a_write_after_the_writers_close() -> Any:
    with connected() as (sock, _peer):
        writer = sock.writable.get_writer()
        writer.close()
        return raised(tcpsock.SocketClosed, writer.write, b"x")


@walk(tcpsock.SocketClosed, "socket-closed", "")
def a_read_after_detach() -> Any:
    with connected() as (sock, _peer):
        reader = sock.readable.get_reader()
        sock.detach(timeout=WAIT).close()
        return raised(tcpsock.SocketClosed, reader.read)


@walk(tcpsock.SocketClosed, "socket-closed", "")
def an_attempt_that_was_closed() -> Any:
    with BlackHole() as hole:
        sock = tcpsock.connect(hole.address)
        sock.close()
        return failure(sock.opened)


@walk(tcpsock.SocketAborted, "socket-aborted", "")
def an_abort() -> Any:
    with connected() as (sock, _peer):
        sock.abort("why")
        error: Any = failure(sock.closed)
        assert error.reason == "why"
        return error


@walk(tcpsock.SocketUpgraded, "socket-upgraded", "")
def a_write_on_the_old_socket() -> Any:
    with connected("starttls") as (sock, peer):
        writer = sock.writable.get_writer()
        with sock.start_tls() as new:
            error = raised(tcpsock.SocketUpgraded, writer.write, b"x")
            peer.start_tls(tls_server())
            new.opened.result(WAIT)
            peer.end()
            return error


@walk(tcpsock.SocketForked, "socket-forked", "")
def a_read_in_a_forked_child() -> Any:
    """The child, of an interpreter of its own, sends the error home, pickled."""
    script = """
import os, pickle, sys
sys.path.insert(0, sys.argv[1])
import tcpsock
sock = tcpsock.connect(sys.argv[2])
sock.opened.result(20)
reader = sock.readable.get_reader()
child = os.fork()
if child == 0:
    try:
        reader.read()
    except tcpsock.SocketForked as error:
        os.write(1, pickle.dumps(error))
    os._exit(0)
os.waitpid(child, 0)
sock.abort()
"""
    with Listener() as listener:
        run = subprocess.run(
            [sys.executable, "-c", script, str(ROOT), listener.address],
            stdout=subprocess.PIPE, timeout=50, check=True,
        )  # fmt: skip
    return pickle.loads(run.stdout)


@walk(tcpsock.StreamLocked, "stream-locked", "")
def a_second_reader() -> Any:
    with connected() as (sock, _peer):
        reader = sock.readable.get_reader()
        error = raised(tcpsock.StreamLocked, sock.readable.get_reader)
        reader.release_lock()
        return error


@walk(tcpsock.StreamLocked, "stream-locked", "")
def a_second_writer() -> Any:
    with connected() as (sock, _peer):
        writer = sock.writable.get_writer()
        error = raised(tcpsock.StreamLocked, sock.writable.get_writer)
        writer.release_lock()
        return error


@walk(tcpsock.StreamLocked, "stream-locked", "")
def a_reader_after_its_release() -> Any:
    with connected() as (sock, _peer):
        reader = sock.readable.get_reader()
        reader.release_lock()
        return raised(tcpsock.StreamLocked, reader.read)


@walk(tcpsock.StreamBusy, "stream-busy", "")
def a_second_read_at_once() -> Any:
    with connected() as (sock, peer):
        reader = sock.readable.get_reader()
        read = Call(reader.read).blocked()
        error = raised(tcpsock.StreamBusy, reader.read)
        peer.send(b"x")
        assert read.result() == b"x"
        return error


@walk(tcpsock.StreamBusy, "stream-busy", "")
def a_detach_with_buffered_bytes() -> Any:
    with connected() as (sock, peer):
        peer.send(b"x")
        sock.readable.get_reader().peek(timeout=WAIT)
        return raised(tcpsock.StreamBusy, sock.detach, timeout=WAIT)


def attributes(error: SocketError) -> dict[str, Any]:
    return {
        name: getattr(error, name)
        for name in ("code", "phase", "address", "errno", "args", *OWN)
        if hasattr(error, name)
    }


@pytest.mark.parametrize("name", PROVOKED)
def test_api_O4_L7_walk(name: str) -> None:
    """Each error is what the table says, tells the truth, and crosses process borders."""
    kind, code, phase, provoke = PROVOKED[name]
    error = provoke()
    assert type(error) is kind
    for also in (SocketError, OSError, *ALSO[kind.__name__]):
        assert isinstance(error, also)
    assert error.code == code
    assert error.phase == phase if phase else error.phase in PHASES
    if phase == "address":
        assert error.address is None
    else:
        assert re.fullmatch(r"(\[::1\]|127\.0\.0\.1|db\.example):\d+", error.address or "")
    assert error.errno is None or isinstance(error.errno, int)

    # what, which peer, and a sentence rather than a number
    text = str(error)
    assert text and text.splitlines() == [text] and not text.startswith("[Errno")
    if error.address:
        assert error.address in text
    assert kind.__name__ in repr(error)

    # pickle and copy keep the type, the message and every attribute
    ways: list[Callable[[Any], Any]] = [copy.copy, copy.deepcopy]
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        ways.append(lambda e, p=protocol: pickle.loads(pickle.dumps(e, p)))
    for again in ways:
        twin = again(error)
        assert twin is not error and type(twin) is kind
        assert str(twin) == text and attributes(twin) == attributes(error)

    # Celery's JSON results make one from the text alone (web.md, F7)
    remade = kind(*error.args)
    assert str(remade) == text


def test_api_every_class_was_walked_through() -> None:
    walked = {kind.__name__ for kind, *_ in PROVOKED.values()}
    assert walked | LATER == set(ALSO)
    codes = {code for _, code, *_ in PROVOKED.values()}
    for name in set(ALSO) - LATER - {"StartTlsError"}:
        kebab = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower()
        assert kebab in codes  # the class name in kebab case
    assert {"starttls-already-tls", "starttls-not-enabled"} <= codes


@pytest.mark.parametrize("name", ALSO)
def test_api_F7_each_can_be_made_from_its_text_alone(name: str) -> None:
    kind = getattr(tcpsock, name)
    error = kind("the text")
    assert str(error) == "the text" and isinstance(error, SocketError)
    assert isinstance(error.code, str) and error.address is None and error.errno is None
    assert str(pickle.loads(pickle.dumps(error))) == "the text"
    with pytest.raises(kind, match="the text"):
        raise error


def test_O3_a_raised_error_has_the_stored_one_as_its_cause_and_that_the_original() -> None:
    sock = tcpsock.connect(f"127.0.0.1:{free_port()}")
    stored = failure(sock.opened)
    error = raised(tcpsock.ConnectError, sock.readable.get_reader().read)
    assert error.__cause__ is stored
    assert stored is not None and isinstance(stored.__cause__, ConnectionRefusedError)
    with connected() as (sock, peer):
        peer.reset()
        stored = failure(sock.closed)
        error = raised(tcpsock.ConnectionLost, sock.readable.get_reader().read)  # type: ignore[assignment]
        assert error.__cause__ is stored


def test_api_argument_mistakes_are_plain(background: Callable[..., Call]) -> None:
    """They are no SocketErrors, and name the argument."""
    with connected() as (sock, _peer):
        reader, writer = sock.streams()
        calls: list[tuple[Callable[[], object], type[Exception], str]] = [
            (lambda: reader.read(0), ValueError, "max_bytes"),
            (lambda: reader.read("1"), TypeError, "max_bytes"),  # type: ignore[arg-type]
            (lambda: reader.read(timeout=-1), ValueError, "timeout"),
            (lambda: reader.read(timeout="1"), TypeError, "timeout"),  # type: ignore[arg-type]
            (lambda: writer.write(b"x", timeout=-1), ValueError, "timeout"),
            (lambda: writer.write("x"), TypeError, "encode"),  # type: ignore[arg-type]
            (lambda: reader.readinto(bytearray()), ValueError, "buffer"),
            (lambda: reader.readline(limit=0), ValueError, "limit"),
            (lambda: reader.read_exactly(-1), ValueError, "n"),
            (lambda: reader.read_until(b""), ValueError, "separator"),
            (lambda: sock.detach(timeout=-1), ValueError, "timeout"),
        ]
        for call, kind, word in calls:
            error = raised(kind, call)
            assert word in str(error)


# What else crosses process borders


@pytest.mark.parametrize("secure", ["off", "on"])
def test_api_SocketInfo_and_its_parts_survive_pickle_and_copy(secure: str) -> None:
    with connected(secure) as (sock, _peer):
        info, stats = sock.opened.result(WAIT), sock.stats
    for thing in (info, info.timings, info.attempts, info.attempts[0], stats):
        for twin in (pickle.loads(pickle.dumps(thing)), copy.copy(thing), copy.deepcopy(thing)):
            assert twin == thing
            assert type(twin) is type(thing)
    twin = pickle.loads(pickle.dumps(info))
    if secure == "on":
        assert twin.channel_binding() == info.channel_binding()
    assert twin.certificate == info.certificate and twin.attempts == info.attempts


@pytest.mark.parametrize(
    "thing",
    [
        SocketAddress("db.example", 5432),
        SocketOptions(timeout=5, keep_alive=KeepAlive(idle=7), local_address=("127.0.0.1", 0)),
        SocketOptions(secure_transport="on", tls=TlsOptions(alpn=["h2"], server_hostname="x")),
        TlsOptions(ca_file="/etc/ssl/certs/ca.pem", minimum_version=ssl.TLSVersion.TLSv1_3),
        TlsOptions(client_cert=pathlib.Path("cert.pem"), client_key="key.pem"),
        KeepAlive(idle=1, interval=2, count=3),
    ],
    ids=lambda thing: type(thing).__name__,
)
def test_api_addresses_and_options_survive_pickle_and_copy(thing: Any) -> None:
    for twin in (pickle.loads(pickle.dumps(thing)), copy.copy(thing), copy.deepcopy(thing)):
        assert twin == thing and type(twin) is type(thing)


def secrets() -> dict[str, TlsOptions]:
    with connected("on") as (sock, peer):
        reader = sock.readable.get_reader()
        peer.send(b"x")  # session tickets come before it
        reader.read(timeout=WAIT)
        session = sock.tls_session
    assert session is not None
    return {
        "ssl_context": TlsOptions(ssl_context=ssl.create_default_context()),
        "session": TlsOptions(session=session),
        "client_key_password": TlsOptions(client_cert="c.pem", client_key_password="hunter2"),
    }


@pytest.mark.parametrize("field", ["ssl_context", "session", "client_key_password"])
def test_api_options_with_a_secret_refuse_pickle_and_name_the_field(field: str) -> None:
    options = secrets()[field]
    for thing in (options, SocketOptions(secure_transport="on", tls=options)):
        for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
            with pytest.raises(TypeError, match=field):
                pickle.dumps(thing, protocol)
        assert copy.copy(thing) == thing


def test_L2_no_secret_in_a_repr() -> None:
    options = TlsOptions(client_cert="c.pem", client_key="k.pem", client_key_password="hunter2")
    both = SocketOptions(secure_transport="on", tls=options)
    in_bytes = TlsOptions(client_cert="c.pem", client_key_password=b"hunter2")
    for thing in (options, both, in_bytes):
        assert "hunter2" not in repr(thing) and "hunter2" not in str(thing)
    assert "c.pem" in repr(options)
