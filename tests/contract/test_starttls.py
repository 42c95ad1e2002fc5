"""StartTLS: when it may begin, what becomes of the old socket, what nobody slips in (S1 to S6)."""

from __future__ import annotations

import contextlib
import gc
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from _ending_peers import (
    BULK,
    BlackHole,
    Listener,
    Names,
    another_authority,
    ca_data,
    connected,
    failure,
    free_port,
    note_server_names,
    raised,
    sees_reset,
    tls_server,
    tls_server_for,
    trusting,
)
from peers import WAIT, Call, Peer, pattern, until

import tcpsock
from tcpsock import (
    PlaintextInjected,
    SocketAborted,
    SocketClosed,
    SocketUpgraded,
    StartTlsError,
    StreamBusy,
    TlsOptions,
    testing,
)


@contextlib.contextmanager
def upgrading(**options: Any) -> Iterator[tuple[tcpsock.Socket, tcpsock.Socket, Peer]]:
    """A socket, the one that took over from it, and their peer, which hasn't shaken hands yet."""
    with connected("starttls", **options) as (old, peer):
        new = old.start_tls()
        try:
            yield old, new, peer
        finally:
            new.abort()
            failure(new.closed)


def talks(new: tcpsock.Socket, peer: Peer) -> bool:
    """Whether both directions work over TLS."""
    reader, writer = new.streams()
    writer.write(b"ping", timeout=WAIT)
    assert peer.read_exactly(4) == b"ping"
    peer.send(b"pong")
    assert reader.read_exactly(4, timeout=WAIT) == b"pong"
    reader.release_lock()
    writer.release_lock()
    return True


def unharmed(sock: tcpsock.Socket, peer: Peer) -> bool:
    """Whether a refused start_tls() has changed nothing: it goes on in clear, then upgrades."""
    assert not sock.upgraded
    assert talks(sock, peer)
    with sock.start_tls() as new:
        peer.start_tls(tls_server())
        assert talks(new, peer)
        peer.end()
    return True


# S1: the checks and their order


@pytest.mark.parametrize("then", ["open", "closed", "aborted", "failed", "writer closed", "busy"])
def test_S1_already_TLS_comes_first(then: str, background: Callable[..., Call]) -> None:
    with connected("on") as (sock, peer):
        if then == "closed":
            sock.close()
        elif then == "aborted":
            sock.abort()
        elif then == "failed":
            peer.reset()
            failure(sock.closed)
        elif then == "writer closed":
            sock.writable.close()
        elif then == "busy":
            background(sock.readable.get_reader().read).blocked()
        error = raised(StartTlsError, sock.start_tls)
        assert error.code == "starttls-already-tls" and error.phase == "tls"
        assert isinstance(error, RuntimeError)
        assert not sock.upgraded
        peer.close()


def test_S1_the_upgraded_socket_is_already_TLS() -> None:
    with upgrading() as (_old, new, peer):
        assert raised(StartTlsError, new.start_tls).code == "starttls-already-tls"
        peer.start_tls(tls_server())
        new.opened.result(WAIT)
        assert raised(StartTlsError, new.start_tls).code == "starttls-already-tls"


def test_S1_twice_is_SocketUpgraded_whatever_came_after() -> None:
    with upgrading() as (old, new, peer):
        error = raised(SocketUpgraded, old.start_tls)
        assert error.code == "socket-upgraded"
        peer.start_tls(tls_server())
        new.opened.result(WAIT)
        old.closed.result(WAIT)
        old.close()
        old.abort()
        raised(SocketUpgraded, old.start_tls)
        new.abort()
        failure(new.closed)
        raised(SocketUpgraded, old.start_tls)


@pytest.mark.parametrize("secure", ["starttls", "off"])
@pytest.mark.parametrize(
    "how",
    [
        "close",
        "closed",
        "abort",
        "detach",
        "writer",
        "writable",
        "peer",
        "peer, half-open",
    ],
)
def test_S1_closed_comes_before_the_wrong_mode(secure: str, how: str) -> None:
    options = {"allow_half_open": True} if how == "peer, half-open" else {}
    with connected(secure, **options) as (sock, peer):
        expected: type[SocketClosed] = SocketClosed
        if how.startswith("close"):
            peer.end()
            sock.close()
            if how == "closed":
                sock.closed.result(WAIT)
        elif how == "abort":
            sock.abort("why")
            expected = SocketAborted
        elif how == "detach":
            sock.detach(timeout=WAIT).close()
        elif how == "writer":
            sock.writable.get_writer().close()
        elif how == "writable":
            sock.writable.close()
        elif how == "peer":
            peer.end()
            sock.closed.result(WAIT)
        else:
            peer.end()
            assert sock.readable.get_reader().read(timeout=WAIT) == b""
        error = raised(expected, sock.start_tls)
        assert not sock.upgraded
        if isinstance(error, SocketAborted):
            assert error.reason == "why"


@pytest.mark.parametrize("secure", ["starttls", "off"])
def test_S1_a_failure_comes_before_the_wrong_mode(secure: str) -> None:
    with connected(secure) as (sock, peer):
        peer.reset()
        stored = failure(sock.closed)
        error = raised(tcpsock.ConnectionLost, sock.start_tls)
        assert error is not stored and error.__cause__ is stored
    sock = tcpsock.connect(f"127.0.0.1:{free_port()}", secure_transport=secure)  # type: ignore[arg-type]
    stored = failure(sock.closed)
    error = raised(tcpsock.ConnectError, sock.start_tls)
    assert error.__cause__ is stored


def test_S1_a_failure_before_close_goes_on_being_told() -> None:
    with connected("starttls") as (sock, peer):
        peer.reset()
        failure(sock.closed)
        sock.close()
        with pytest.raises((tcpsock.ConnectionLost, SocketClosed)):
            sock.start_tls()


def test_S1_the_wrong_mode_comes_before_a_blocked_read(background: Callable[..., Call]) -> None:
    with connected("off") as (sock, peer):
        assert raised(StartTlsError, sock.start_tls).code == "starttls-not-enabled"
        background(sock.readable.get_reader().read).blocked()
        error = raised(StartTlsError, sock.start_tls)
        assert error.code == "starttls-not-enabled"
        assert '"starttls"' in str(error).replace("'", '"')
        assert not sock.upgraded
        peer.end()


def test_S1_a_blocked_read_is_StreamBusy_and_nothing_has_changed(
    background: Callable[..., Call],
) -> None:
    with connected("starttls") as (sock, peer):
        reader = sock.readable.get_reader()
        read = background(reader.read_exactly, 8).blocked()
        for _ in range(3):
            error = raised(StreamBusy, sock.start_tls)
            assert error.code == "stream-busy" and isinstance(error, RuntimeError)
        assert not sock.upgraded and not read.done()
        peer.send(b"in clear")
        assert read.result() == b"in clear"
        reader.release_lock()
        assert unharmed(sock, peer)


def test_S1_a_blocked_iteration_is_StreamBusy(background: Callable[..., Call]) -> None:
    with connected("starttls") as (sock, peer):
        chunk = background(next, iter(sock.readable)).blocked()
        raised(StreamBusy, sock.start_tls)
        peer.send(b"x")
        assert chunk.result() == b"x"


def test_S1_a_write_in_progress_is_StreamBusy_and_nothing_has_changed(
    background: Callable[..., Call],
) -> None:
    with connected("starttls") as (sock, peer):
        writer = sock.writable.get_writer()
        write = background(writer.write, pattern(BULK)).blocked()
        raised(StreamBusy, sock.start_tls)
        assert not sock.upgraded
        assert peer.read_exactly(BULK) == pattern(BULK)
        assert write.result() is None
        writer.release_lock()
        assert unharmed(sock, peer)


@pytest.mark.parametrize("what", ["read", "write"])
def test_S1_S4_a_read_or_write_that_waits_for_opened_is_StreamBusy(
    what: str, background: Callable[..., Call]
) -> None:
    with Listener() as listener, Names() as names:
        names["localhost"] = [("127.0.0.1", listener.port)]
        answer = names.hang("localhost")
        sock = tcpsock.connect("localhost:80", secure_transport="starttls", tls=trusting())
        reader, writer = sock.streams()
        call = background(*{"read": (reader.read,), "write": (writer.write, b"x")}[what]).blocked()
        raised(StreamBusy, sock.start_tls)
        assert not sock.upgraded
        answer.set()
        peer = listener.accept()
        peer.send(b"x")
        call.result()
        peer.end()
        sock.close().result(WAIT)


@pytest.mark.parametrize("bad", [5, "x", True, {"server_hostname": "x"}, tcpsock.SocketOptions()])
def test_S3_options_that_are_no_TlsOptions_are_a_TypeError(bad: Any) -> None:
    with connected("starttls") as (sock, peer):
        raised(TypeError, sock.start_tls, bad)
        assert unharmed(sock, peer)


# S2: the old socket


def test_S2_start_tls_returns_at_once_and_the_old_socket_is_upgraded_from_then_on() -> None:
    with connected("starttls") as (old, peer):
        assert not old.upgraded and old.secure_transport == "starttls"
        new = old.start_tls()  # though the server says nothing
        assert old.upgraded and not new.upgraded
        assert new.secure_transport == "on" and old.secure_transport == "starttls"
        assert new is not old
        assert not new.opened.done() and not new.closed.done()
        # the wire is handed over: ClientHello is out, whatever becomes of it
        assert old.closed.result(WAIT) is None
        assert peer.sock.recv(1, socket.MSG_PEEK) == b"\x16"
        assert not new.opened.done()
        peer.start_tls(tls_server())
        assert new.opened.result(WAIT).tls_version == "TLSv1.3"
        assert talks(new, peer)
        peer.end()
        assert new.close().result(WAIT) is None


def test_S2_everything_of_the_old_socket_raises_SocketUpgraded() -> None:
    with connected("starttls") as (old, peer):
        reader, writer = old.streams()
        iterator = iter(reader)
        writer.write(b"STARTTLS\r\n")
        assert peer.read_exactly(10) == b"STARTTLS\r\n"
        with old.start_tls() as new:
            for when in ("at once", "when it is open"):
                calls: list[Callable[[], object]] = [
                    reader.read,
                    lambda: reader.readinto(bytearray(1)),
                    lambda: reader.read_exactly(1),
                    lambda: reader.read_until(b"x"),
                    reader.readline,
                    reader.read_all,
                    reader.peek,
                    lambda: next(iterator),
                    lambda: writer.write(b"never in clear"),
                    lambda: writer.writelines([b"never", b"in clear"]),
                    old.readable.get_reader,
                    old.writable.get_writer,
                    old.streams,
                    lambda: next(iter(old.readable)),
                    old.start_tls,
                    old.detach,
                ]
                for call in calls:
                    error = raised(SocketUpgraded, call)
                    assert isinstance(error, SocketClosed), when
                # R10
                assert isinstance(failure(reader.closed), SocketUpgraded)
                assert isinstance(failure(writer.closed), SocketUpgraded)
                if when == "at once":
                    peer.start_tls(tls_server())
                    new.opened.result(WAIT)
            assert talks(new, peer)
            peer.end()


@pytest.mark.parametrize("when", ["at once", "when it is open"])
def test_S2_nothing_that_the_old_socket_does_hurts_the_new_one(when: str) -> None:
    with connected("starttls") as (old, peer):
        reader, writer = old.streams()
        with old.start_tls() as new:
            if when == "when it is open":
                peer.start_tls(tls_server())
                new.opened.result(WAIT)
            assert old.close() is old.closed
            old.abort("no effect")
            reader.cancel()
            writer.close()
            writer.abort()
            old.readable.cancel()
            old.readable.close()
            old.writable.close()
            old.writable.abort()
            reader.release_lock()
            writer.release_lock()
            assert old.closed.result(WAIT) is None
            if when == "at once":
                peer.start_tls(tls_server())
            assert talks(new, peer)
            assert old.closed.result(0) is None
            assert old.opened.result(0).tls_version is None
            peer.end()


def test_S2_held_readers_and_writers_need_no_release() -> None:
    with connected("starttls") as (old, peer):
        held = old.streams()
        with old.start_tls() as new:
            peer.start_tls(tls_server())
            assert talks(new, peer)
            peer.end()
        del held


def test_S2_a_read_that_timed_out_before_is_no_obstacle() -> None:
    with connected("starttls") as (old, peer):
        reader = old.readable.get_reader()
        raised(tcpsock.ReadTimeout, reader.read, timeout=0.01)
        with old.start_tls() as new:
            peer.start_tls(tls_server())
            assert talks(new, peer)
            peer.end()


def test_S2_a_done_callback_of_the_old_closed_may_use_the_new_socket() -> None:
    """Drivers emit "secure" from it."""
    with connected("starttls") as (old, peer):
        used: list[Any] = []
        new = old.start_tls()
        old.closed.add_done_callback(lambda _: used.append(new.streams()))
        peer.start_tls(tls_server())
        until(lambda: used, "the callback has run")
        ((reader, writer),) = used
        writer.write(b"ping", timeout=WAIT)
        assert peer.read_exactly(4) == b"ping"
        peer.end()
        assert reader.read(timeout=WAIT) == b""
        assert new.close().result(WAIT) is None


def test_S2_stats_and_repr_of_both() -> None:
    with connected("starttls") as (old, peer):
        reader, writer = old.streams()
        writer.write(b"STARTTLS\r\n")
        peer.send(b"220 go\r\n")
        assert reader.readline(timeout=WAIT) == b"220 go\r\n"
        assert peer.read_exactly(10)
        with old.start_tls() as new:
            peer.start_tls(tls_server())
            assert talks(new, peer)
            assert (old.stats.bytes_sent, old.stats.bytes_received) == (10, 8)
            assert (new.stats.bytes_sent, new.stats.bytes_received) == (4, 4)
            assert "upgraded" in repr(old) and "TLSv1.3" in repr(new)
            peer.end()


# S3: the new socket


def test_S3_it_has_streams_and_futures_of_its_own() -> None:
    with upgrading() as (old, new, peer):
        for name in ("readable", "writable", "opened", "closed"):
            assert getattr(new, name) is not getattr(old, name)
        assert new.opened.running() and new.opened.cancel() is False
        assert new.closed.running() and new.closed.cancel() is False
        peer.start_tls(tls_server())
        info = new.opened.result(WAIT)
        assert info.tls_version == "TLSv1.3" and info.peer_certificate
        before = old.opened.result(0)
        assert info.attempts == before.attempts
        assert info.timings.connect == before.timings.connect
        assert info.timings.resolve == before.timings.resolve
        assert info.timings.tls is not None and before.timings.tls is None
        assert (info.remote_address, info.local_address, info.hostname) == (
            before.remote_address,
            before.local_address,
            before.hostname,
        )


def test_S3_opened_means_a_verified_handshake() -> None:
    with upgrading() as (_old, new, peer):
        assert peer.sock.recv(1, socket.MSG_PEEK) == b"\x16"
        assert not new.opened.done()
        peer.start_tls(tls_server())
        assert new.opened.result(WAIT).channel_binding()


@pytest.mark.parametrize(
    "context",
    [
        lambda: testing.server_context(another_authority().issue()),
        lambda: tls_server_for("other.example"),
        lambda: testing.server_context(testing.authority().issue(validity="expired")),
    ],
    ids=["unknown authority", "other name", "expired"],
)
def test_S3_its_failure_reason_is_the_certificates(context: Callable[[], ssl.SSLContext]) -> None:
    with upgrading() as (old, new, peer):
        with pytest.raises(OSError):
            peer.start_tls(context())
            peer.read()
        error = failure(new.opened)
        assert type(error) is tcpsock.TlsVerificationError and error.phase == "tls"
        assert failure(new.closed) is error
        reader, writer = new.streams()
        assert raised(tcpsock.TlsVerificationError, reader.read).__cause__ is error
        assert raised(tcpsock.TlsVerificationError, writer.write, b"x").__cause__ is error
        assert old.closed.result(WAIT) is None  # S4: handed over, whatever came of it


def test_S3_its_failure_reason_is_the_alerts() -> None:
    context = testing.server_context(client_ca=ca_data(), maximum=ssl.TLSVersion.TLSv1_2)
    with upgrading() as (_old, new, peer):
        with pytest.raises(ssl.SSLError):
            peer.start_tls(context)
        error = failure(new.opened)
        assert type(error) is tcpsock.TlsError
        assert "handshake failure" in str(error).lower().replace("_", " ")


def test_S3_a_server_that_goes_on_in_plain() -> None:
    with upgrading() as (_old, new, peer):
        assert peer.sock.recv(1 << 14)
        peer.send(b"454 TLS not available due to temporary reason\r\n")
        error = failure(new.opened)
        assert isinstance(error, tcpsock.TlsError)
        assert not isinstance(error, tcpsock.TlsVerificationError)


@pytest.mark.parametrize("how", ["fin", "reset"])
def test_S3_a_server_that_hangs_up(how: str) -> None:
    with upgrading() as (old, new, peer):
        assert peer.sock.recv(1 << 14)
        if how == "fin":
            peer.cut()
        else:
            peer.reset()
        error = failure(new.opened)
        assert isinstance(error, tcpsock.SocketError) and error.phase == "tls"
        assert failure(new.closed) is error
        assert old.closed.result(WAIT) is None


def test_S3_it_inherits_the_options() -> None:
    with upgrading(timeout=0.05, close_timeout=0.1, high_water_mark=5000) as (_old, new, peer):
        peer.start_tls(tls_server())
        new.opened.result(WAIT)
        reader = new.readable.get_reader()
        raised(tcpsock.ReadTimeout, reader.read)
        peer.send(pattern(100_000))
        until(lambda: new.stats.bytes_buffered >= 5000, "the queue is full")
        assert new.stats.bytes_buffered < 5000 + (1 << 14)  # a record more at most
        begun = time.monotonic()
        new.close().result(WAIT)
        assert time.monotonic() - begun >= 0.1


def test_S3_it_inherits_allow_half_open() -> None:
    with upgrading(allow_half_open=True) as (_old, new, peer):
        peer.start_tls(tls_server())
        reader, writer = new.streams()
        peer.end()
        assert reader.read(timeout=WAIT) == b""
        assert not new.closed.done()
        writer.write(b"still")
        assert peer.read_exactly(5) == b"still"
        writer.close()
        assert new.closed.result(WAIT) is None


def test_S3_connect_timeout_counts_anew_from_the_hand_over() -> None:
    with connected("starttls", connect_timeout=0.5) as (old, peer):
        reader = old.readable.get_reader()
        raised(tcpsock.ReadTimeout, reader.read, timeout=0.6)  # longer than it takes to connect
        with old.start_tls() as new:
            peer.start_tls(tls_server())
            new.opened.result(WAIT)
            peer.end()


def test_S3_connect_timeout_holds_for_the_handshake() -> None:
    begun = time.monotonic()
    with upgrading(connect_timeout=0.3) as (old, new, _peer):
        error = failure(new.opened)
        assert time.monotonic() - begun >= 0.3
        assert type(error) is tcpsock.ConnectTimeout and error.phase == "tls"
        assert failure(new.closed) is error
        assert old.closed.result(WAIT) is None


def upgrade_of(
    host: str,
    certificate_for: str,
    connect_tls: TlsOptions | None,
    *arguments: TlsOptions,
    **overrides: Any,
) -> tuple[list[str | None], tcpsock.SocketInfo | BaseException]:
    """Connect to `host` (which is the loopback), start TLS; the SNI sent, and what came of it."""
    context = testing.server_context(
        testing.authority().issue(certificate_for), alpn=("first", "second")
    )
    asked_for = note_server_names(context)
    with Listener() as listener, Names() as names:
        names[host] = [("127.0.0.1", listener.port)]
        old = tcpsock.connect(
            (host, listener.port), secure_transport="starttls", tls=connect_tls, close_timeout=0
        )
        with old, old.start_tls(*arguments, **overrides) as new:
            with contextlib.suppress(OSError):
                listener.accept().start_tls(context)
            error = failure(new.opened)
            return asked_for, error or new.opened.result(0)


def test_S3_server_hostname_defaults_to_the_host_given_to_connect() -> None:
    asked_for, info = upgrade_of("db.example", "db.example", trusting())
    assert asked_for == ["db.example"] and isinstance(info, tcpsock.SocketInfo)
    _, error = upgrade_of("db.example", "other.example", trusting())
    assert isinstance(error, tcpsock.TlsVerificationError)


def test_S3_server_hostname_may_be_given_to_either() -> None:
    for connect_tls, overrides in (
        (trusting(server_hostname="mail.example"), {}),
        (trusting(), {"server_hostname": "mail.example"}),
        (trusting(server_hostname="other.example"), {"server_hostname": "mail.example"}),
        (None, {"server_hostname": "mail.example", "ca_data": ca_data()}),
    ):
        asked_for, info = upgrade_of("db.example", "mail.example", connect_tls, **overrides)
        assert asked_for == ["mail.example"] and isinstance(info, tcpsock.SocketInfo)


def test_S3_keywords_alone_change_single_fields() -> None:
    _, info = upgrade_of("db.example", "db.example", trusting(alpn=["first"]), alpn=["second"])
    assert isinstance(info, tcpsock.SocketInfo) and info.alpn == "second"
    # the same, where the server prefers the field that is not changed
    _, info = upgrade_of(
        "db.example",
        "mail.example",
        trusting(alpn=["second"]),
        server_hostname="mail.example",
    )
    assert isinstance(info, tcpsock.SocketInfo) and info.alpn == "second"


def test_S3_a_TlsOptions_object_replaces_that_of_connect() -> None:
    _, error = upgrade_of("db.example", "db.example", trusting(), TlsOptions())
    assert isinstance(error, tcpsock.TlsVerificationError)  # certifi's roots again
    _, info = upgrade_of("db.example", "db.example", trusting(alpn=["first"]), trusting())
    assert isinstance(info, tcpsock.SocketInfo) and info.alpn is None
    # an object and keywords: the keywords change fields of that object
    _, info = upgrade_of(
        "db.example", "db.example", TlsOptions(alpn=["first"]), trusting(), alpn=["second"]
    )
    assert isinstance(info, tcpsock.SocketInfo) and info.alpn == "second"


def test_S3_a_session_is_resumed_after_an_upgrade_too() -> None:
    session: Any = None
    for expected in (False, True):
        with connected("starttls", tls=trusting()) as (old, peer):
            with old.start_tls(session=session) as new:
                peer.start_tls(tls_server())
                assert talks(new, peer)
                session = new.tls_session
                assert session is not None
                tls: Any = peer.tls
                assert tls.session_reused is expected
                peer.end()


# S4: before opened


def test_S4_start_tls_before_opened_waits_its_turn() -> None:
    with Listener() as listener, Names() as names:
        names["localhost"] = [("127.0.0.1", listener.port)]
        answer = names.hang("localhost")
        old = tcpsock.connect("localhost:80", secure_transport="starttls", tls=trusting())
        new = old.start_tls()
        assert old.upgraded
        for future in (old.opened, old.closed, new.opened, new.closed):
            assert not future.done()
        raised(SocketUpgraded, old.streams)
        answer.set()
        peer = listener.accept()
        assert old.opened.result(WAIT).tls_version is None
        assert old.closed.result(WAIT) is None
        assert not new.opened.done()
        peer.start_tls(tls_server())
        assert new.opened.result(WAIT).tls_version == "TLSv1.3"
        assert talks(new, peer)
        peer.end()
        assert new.close().result(WAIT) is None


def test_S4_reads_and_writes_of_the_new_socket_wait_for_both(
    background: Callable[..., Call],
) -> None:
    with Listener() as listener, Names() as names:
        names["localhost"] = [("127.0.0.1", listener.port)]
        answer = names.hang("localhost")
        new = tcpsock.connect(
            "localhost:80", secure_transport="starttls", tls=trusting()
        ).start_tls()
        reader, writer = new.streams()
        read = background(reader.read_exactly, 4).blocked()
        write = background(writer.write, b"ping").blocked()
        answer.set()
        peer = listener.accept()
        peer.start_tls(tls_server())
        assert peer.read_exactly(4) == b"ping"
        peer.send(b"pong")
        assert (read.result(), write.result()) == (b"pong", None)
        peer.end()
        new.close().result(WAIT)


def test_S4_if_connecting_fails_all_four_futures_fail_with_that_error() -> None:
    with Names() as names:
        names["localhost"] = [("127.0.0.1", free_port())]
        answer = names.hang("localhost")
        old = tcpsock.connect("localhost:80", secure_transport="starttls")
        new = old.start_tls()
        answer.set()
        error = failure(old.opened)
        assert type(error) is tcpsock.ConnectError and error.phase == "connect"
        for future in (old.closed, new.opened, new.closed):
            assert failure(future) is error
        assert raised(tcpsock.ConnectError, new.readable.get_reader().read).__cause__ is error
        raised(SocketUpgraded, old.start_tls)


def test_S4_the_old_closed_resolves_also_if_the_handshake_fails() -> None:
    with Listener() as listener, Names() as names:
        names["localhost"] = [("127.0.0.1", listener.port)]
        answer = names.hang("localhost")
        old = tcpsock.connect("localhost:80", secure_transport="starttls")
        new = old.start_tls()
        answer.set()
        with pytest.raises(OSError):
            listener.accept().start_tls(tls_server())
        assert isinstance(failure(new.opened), tcpsock.TlsVerificationError)
        assert old.opened.result(WAIT).remote_address == listener.address
        assert old.closed.result(WAIT) is None


@pytest.mark.parametrize("how", ["close", "abort"])
def test_S4_E4_closing_the_new_socket_before_either_is_open(how: str) -> None:
    with BlackHole() as hole:
        old = tcpsock.connect(hole.address, secure_transport="starttls", connect_timeout=None)
        new = old.start_tls()
        old.close()  # no-ops
        old.abort()
        assert not new.closed.done()
        getattr(new, how)()
        assert isinstance(failure(new.opened), SocketClosed)
        error = failure(new.closed)
        assert error is None if how == "close" else isinstance(error, SocketAborted)
        assert isinstance(failure(old.opened), SocketClosed)
        failure(old.closed)  # settles


@pytest.mark.parametrize("how", ["close", "abort"])
def test_S4_E4_closing_the_new_socket_during_its_handshake(how: str) -> None:
    with upgrading() as (old, new, peer):
        assert peer.sock.recv(1, socket.MSG_PEEK) == b"\x16"
        getattr(new, how)()
        assert isinstance(failure(new.opened), SocketClosed)
        error = failure(new.closed)
        assert error is None if how == "close" else isinstance(error, SocketAborted)
        assert old.closed.result(WAIT) is None


def test_S4_one_expression_is_enough() -> None:
    with Listener() as listener:
        new = tcpsock.connect(
            listener.address, secure_transport="starttls", tls=trusting()
        ).start_tls()
        gc.collect()
        peer = listener.accept()
        peer.start_tls(tls_server())
        assert talks(new, peer)
        peer.end()
        new.close().result(WAIT)


def test_S4_start_tls_in_a_callback_of_opened() -> None:
    with Listener() as listener, Names() as names:
        names["localhost"] = [("127.0.0.1", listener.port)]
        answer = names.hang("localhost")
        old = tcpsock.connect("localhost:80", secure_transport="starttls", tls=trusting())
        made: list[tcpsock.Socket] = []
        old.opened.add_done_callback(lambda _: made.append(old.start_tls()))
        answer.set()
        peer = listener.accept()
        peer.start_tls(tls_server())
        (new,) = made
        assert talks(new, peer)
        peer.end()
        new.close().result(WAIT)


# S5: plaintext


def injected_at_the_call(old: tcpsock.Socket, peer: Peer) -> None:
    error = raised(PlaintextInjected, old.start_tls)
    assert isinstance(error, StartTlsError)
    assert error.code == "plaintext-injected" and error.phase == "tls"
    stored = failure(old.closed)
    assert type(stored) is PlaintextInjected and error.__cause__ is stored
    assert sees_reset(peer)
    with pytest.raises(tcpsock.SocketError):
        old.readable.get_reader().read(timeout=0)
    with pytest.raises(tcpsock.SocketError):
        old.start_tls()


def test_S5_plaintext_behind_the_go_ahead_in_the_same_segment() -> None:
    """CVE-2011-0411 and its kin."""
    with connected("starttls") as (old, peer):
        reader = old.readable.get_reader()
        peer.send(b"220 ready\r\n250 injected\r\n")
        assert reader.readline(timeout=WAIT) == b"220 ready\r\n"
        reader.release_lock()
        injected_at_the_call(old, peer)


@pytest.mark.parametrize("how", ["peeked", "timed out", "read in part", "put back by a file"])
def test_S5_plaintext_that_was_read_ahead(how: str) -> None:
    with connected("starttls") as (old, peer):
        reader = old.readable.get_reader()
        peer.send(b"injected")
        if how == "peeked":
            assert reader.peek(8, timeout=WAIT) == b"injected"
        elif how == "timed out":
            assert reader.peek(8, timeout=WAIT) == b"injected"
            raised(tcpsock.ReadTimeout, reader.read_exactly, 100, timeout=0)
        elif how == "read in part":
            assert reader.read_exactly(7, timeout=WAIT) == b"injecte"
            reader.peek(1, timeout=WAIT)
        else:
            with reader.as_file() as file:
                assert file.read(3) == b"inj"
            until(lambda: old.stats.bytes_buffered == 5, "the rest is back")
            reader = old.readable.get_reader()
        reader.release_lock()
        injected_at_the_call(old, peer)


def injected_by_then(start: Callable[[], tcpsock.Socket], peer: Peer) -> None:
    """The plaintext is in the kernel: known at the call, or seen just before ClientHello."""
    try:
        new = start()
    except PlaintextInjected:
        pass
    else:
        error = failure(new.opened)
        assert type(error) is PlaintextInjected and error.code == "plaintext-injected"
        assert failure(new.closed) is error
        reader = new.readable.get_reader()
        raised(PlaintextInjected, reader.read)
        raised(PlaintextInjected, reader.read_all)
        assert new.stats.bytes_received == 0
    assert sees_reset(peer)


def test_S5_plaintext_that_nobody_has_read_yet() -> None:
    with connected("starttls") as (old, peer):
        peer.send(b"injected")
        peer.until_acknowledged()
        injected_by_then(old.start_tls, peer)
        failure(old.closed)


def test_S5_plaintext_in_the_next_segment() -> None:
    with connected("starttls") as (old, peer):
        reader = old.readable.get_reader()
        peer.send(b"220 ready\r\n")
        assert reader.readline(timeout=WAIT) == b"220 ready\r\n"
        peer.send(b"injected")
        peer.until_acknowledged()
        injected_by_then(old.start_tls, peer)
        failure(old.closed)


def test_S5_plaintext_that_cancel_threw_away_is_no_matter_of_delivery() -> None:
    """After cancel() nothing is delivered any more; whatever start_tls() does, it settles."""
    with connected("starttls") as (old, peer):
        old.readable.cancel()
        peer.send(b"thrown away")
        peer.until_acknowledged()
        until(lambda: old.stats.bytes_received == 11, "it was thrown away")
        try:
            new = old.start_tls()
        except tcpsock.SocketError:
            return
        with new:
            peer.start_tls(tls_server())
            assert talks(new, peer)
            peer.end()


def test_S5_a_greeting_when_start_tls_came_before_opened() -> None:
    """The server talks first, the client didn't listen: never fed to TLS, never delivered."""
    with Listener() as listener, Names() as names:
        names["localhost"] = [("127.0.0.1", listener.port)]
        answer = names.hang("localhost")
        old = tcpsock.connect("localhost:80", secure_transport="starttls", tls=trusting())
        new = old.start_tls()
        # No handshake is over before the peer has spoken: it has to do that before ClientHello.
        spoken = Call(lambda: listener.accept().send(b"220 greeting\r\n"))
        answer.set()
        error = failure(new.opened)
        spoken.result()
        assert isinstance(error, (PlaintextInjected, tcpsock.TlsError))
        failure(old.closed)
        raised(type(error), new.readable.get_reader().read_all)


@pytest.mark.parametrize("data", [b"250 injected\r\n", b"\x00" * 9, b"\xff"], ids=repr)
def test_S5_plaintext_after_ClientHello_makes_the_handshake_fail(data: bytes) -> None:
    with upgrading() as (_old, new, peer):
        assert peer.sock.recv(1, socket.MSG_PEEK) == b"\x16"
        peer.send_raw(data)
        with contextlib.suppress(OSError):  # we may have hung up on that
            peer.cut()
        error = failure(new.opened)
        assert isinstance(error, tcpsock.SocketError) and error.phase == "tls"
        raised(type(error), new.readable.get_reader().read_all)


def test_S5_plaintext_between_ClientHello_and_a_good_handshake() -> None:
    with upgrading() as (_old, new, peer):
        assert peer.sock.recv(1, socket.MSG_PEEK) == b"\x16"
        peer.send_raw(b"250 injected\r\n")
        with contextlib.suppress(OSError):
            peer.start_tls(tls_server())
        assert isinstance(failure(new.opened), tcpsock.TlsError)


# S6: no byte of the handshake is lost


def test_S2_S6_threads_that_go_on_trying_the_old_streams_get_in_nobodys_way() -> None:
    """Each of their calls is before the upgrade, or is refused: none ever touches TLS."""

    def keep_reading(reader: tcpsock.Reader) -> BaseException:
        while True:
            try:
                assert reader.read(timeout=0) == b"never"
            except tcpsock.ReadTimeout:
                pass
            except tcpsock.SocketError as error:
                return error

    def keep_writing(writer: tcpsock.Writer) -> BaseException:
        while True:
            try:
                writer.write(b"")
            except tcpsock.SocketError as error:
                return error

    for _ in range(20):
        with connected("starttls") as (old, peer):
            reader, writer = old.streams()
            calls = [Call(keep_reading, reader), Call(keep_writing, writer)]
            new = None
            while new is None:
                with contextlib.suppress(StreamBusy):
                    new = old.start_tls()
            with new:
                peer.start_tls(tls_server())
                assert talks(new, peer)
                for call in calls:
                    assert type(call.result()) is SocketUpgraded
                peer.end()


def test_S6_the_reader_thread_is_off_before_ClientHello_goes_out() -> None:
    """It reads ahead, and the server answers at once, again and again."""

    def serve_one(sock: socket.socket) -> None:
        sock.sendall(b"220 hello\r\n")
        assert sock.recv(100) == b"STARTTLS\r\n"
        sock.sendall(b"220 go\r\n")
        tls = testing.upgrade(sock)
        tls.sendall(tls.recv(100))

    with testing.serve(serve_one) as server:
        tls = TlsOptions(ca_data=server.ca_data)
        for turn in range(40):
            with tcpsock.connect(
                server.address, secure_transport="starttls", tls=tls, timeout=WAIT
            ) as old:
                reader, writer = old.streams()
                assert reader.readline() == b"220 hello\r\n"
                writer.write(b"STARTTLS\r\n")
                if turn % 2:
                    assert reader.readline() == b"220 go\r\n"
                else:  # the thread, not the caller, has received it
                    until(lambda: old.stats.bytes_buffered == 8, "it was read ahead")
                    assert reader.read() == b"220 go\r\n"
                new = old.start_tls()
                reader, writer = new.streams()
                writer.write(b"secret")
                assert reader.read_all() == b"secret"
                assert new.closed.result(WAIT) is None
    assert server.errors == []
