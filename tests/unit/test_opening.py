"""The ways to a wire: dialling, adoption, StartTLS; each opens one or leaves nothing open."""

from __future__ import annotations

import errno
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from peers import HOST, WAIT, Listener, ca_data, only, until

from tcpsock._connection.opening import (
    Adopted,
    Dialling,
    Opener,
    Stopped,
    TlsStart,
    Upgrading,
    set_options,
)
from tcpsock._dialing.resolve import Candidate
from tcpsock._errors import (
    ConnectError,
    ConnectionLost,
    ConnectTimeout,
    PlaintextInjected,
    PolicyViolation,
    ResolveError,
    TlsError,
    TlsTruncated,
    TlsVerificationError,
)
from tcpsock._info import Attempt, SocketInfo, Timings
from tcpsock._options import KeepAlive, SocketOptions, TlsOptions
from tcpsock._wire.descriptors import ours
from tcpsock._wire.platform import POLLIN, Waker, poller
from tcpsock._wire.tls import TlsWire
from tcpsock._wire.wire import Wire
from tcpsock.testing import Authority, authority, reset, serve, server_context, truncate

NAME = "db.example"
UNKNOWN = SocketInfo(
    remote_address=None,
    local_address=None,
    hostname=NAME,
    timings=Timings(None, None, None),
)


class Open:
    """Opens, as a connection's thread does, and closes what was opened after the test."""

    def __init__(self) -> None:
        self.waker = Waker()
        self.asked = 0
        self.stop = False
        self._wires: list[Wire] = []

    def __call__(self, opener: Opener) -> tuple[Wire, SocketInfo]:
        wire, info = opener.open(self.waker, self._stop)
        self._wires.append(wire)
        return wire, info

    def is_called_off(self, opener: Opener) -> socket.socket | None:
        """Stopped, with the socket that is the caller's to end now, if there is one yet."""
        with pytest.raises(Stopped) as stopped:
            self(opener)
        assert not self.is_woken()
        assert len(stopped.value.args) <= 1
        sock: socket.socket | None = stopped.value.args[0] if stopped.value.args else None
        return sock

    def _stop(self) -> bool:
        self.asked += 1
        return self.stop

    def call_off(self) -> None:
        """As close() does it."""
        self.stop = True
        self.waker.set()

    def is_woken(self) -> bool:
        poll = poller()
        poll.register(self.waker.fileno(), POLLIN)
        return bool(poll.poll(0))

    def close(self) -> None:
        for wire in self._wires:
            wire.close()
        self.waker.close()


@pytest.fixture
def open_() -> Iterator[Open]:
    opening = Open()
    yield opening
    opening.close()


@pytest.fixture
def listener() -> Iterator[Listener]:
    listener = Listener()
    yield listener
    listener.close()


@pytest.fixture
def resolve(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], None]:
    """Put another answer to every look-up: addresses of a port, or an error that is raised."""

    def replace(answer: Callable[[], Any]) -> None:
        def getaddrinfo(host: object, port: object, **_: object) -> list[Any]:
            return [
                (family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", sockaddr)
                for family, sockaddr in answer()
            ]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    return replace


def start(**changes: Any) -> TlsStart:
    """TLS to our own servers."""
    options = TlsOptions(**{"ca_data": ca_data(), **changes})
    return TlsStart(options, changes.get("server_hostname") or HOST, None)


def dial(port: int, tls: TlsStart | None = None, host: str = HOST, **options: Any) -> Dialling:
    return Dialling(host, port, SocketOptions(**{"connect_timeout": WAIT, **options}), tls)


def refused_port() -> int:
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        port: int = sock.getsockname()[1]
        return port


# Dialling ---------------------------------------------------------------------------------------


def test_O1_an_ip_literal_is_dialled_without_a_look_up(
    open_: Open, listener: Listener, resolve: Any
) -> None:
    resolve(lambda: pytest.fail("looked up"))
    wire, info = open_(dial(listener.port))
    peer = listener.accept()
    assert type(wire) is Wire
    assert wire.address == listener.address
    assert info.hostname == HOST
    assert info.remote_address == listener.address
    assert info.local_address == "{}:{}".format(*peer.sock.getpeername())
    assert [(attempt.address, attempt.error) for attempt in info.attempts] == [
        (listener.address, None)
    ]
    assert info.timings.resolve is None
    assert info.timings.connect is not None
    assert info.timings.tls is None and info.tls_version is None
    peer.close()


def test_O5_T22_a_name_is_looked_up_late_and_every_address_tried(
    open_: Open, listener: Listener, resolve: Any
) -> None:
    refused = refused_port()
    resolve(lambda: [(socket.AF_INET, (HOST, port)) for port in (refused, listener.port)])
    wire, info = open_(dial(listener.port, host=NAME))
    listener.accept().close()
    assert wire.address == f"{NAME}:{listener.port}"
    assert info.hostname == NAME
    assert info.timings.resolve is not None
    assert [attempt.address for attempt in info.attempts] == [f"{HOST}:{refused}", listener.address]
    assert isinstance(info.attempts[0].error, ConnectionRefusedError)
    assert info.attempts[1].error is None


def test_O4_no_address_answers(open_: Open) -> None:
    port = refused_port()
    with pytest.raises(ConnectError) as failed:
        open_(dial(port))
    assert failed.value.phase == "connect"
    assert failed.value.errno == errno.ECONNREFUSED
    assert failed.value.address == f"{HOST}:{port}"
    assert len(failed.value.attempts) == 1
    assert isinstance(failed.value.__cause__, ConnectionRefusedError)
    assert str(failed.value) == (
        f"{HOST}:{port}: no connection (connect; tried 1 address: {HOST}:{port} connection refused)"
    )


@pytest.mark.parametrize(
    ("error", "number", "said"),
    [
        (socket.gaierror(socket.EAI_NONAME, "not known"), socket.EAI_NONAME, "not known"),
        (UnicodeError("label too long"), None, "label too long"),
        (SystemExit("a user's own resolver"), None, "a user's own resolver"),
        (KeyError(), None, "KeyError()"),
    ],
)
def test_O4_a_look_up_that_fails(
    open_: Open, resolve: Any, error: BaseException, number: int | None, said: str
) -> None:
    def fail() -> None:
        raise error

    resolve(fail)
    with pytest.raises(ResolveError) as failed:
        open_(dial(1, host=NAME))
    assert str(failed.value) == f"{NAME}:1: cannot resolve the name: {said} (resolve)"
    assert failed.value.errno == number
    assert failed.value.phase == "resolve"
    assert failed.value.__cause__ is error
    assert error.__traceback__ is None


def test_O5_a_look_up_that_hangs_ends_with_the_deadline(open_: Open, resolve: Any) -> None:
    answered = threading.Event()
    resolve(lambda: answered.wait(WAIT) and [])
    with pytest.raises(ConnectTimeout, match="the look-up of the name") as late:
        open_(dial(1, host=NAME, connect_timeout=0.01))
    assert late.value.phase == "resolve"
    answered.set()


def test_E4_a_look_up_that_hangs_is_called_off(open_: Open, resolve: Any) -> None:
    answered = threading.Event()

    def hang() -> list[Any]:
        open_.call_off()
        answered.wait(WAIT)
        return []

    resolve(hang)
    assert open_.is_called_off(dial(1, host=NAME)) is None
    answered.set()


def test_a_wake_up_that_does_not_mean_stop_changes_nothing(
    open_: Open, listener: Listener, resolve: Any
) -> None:
    asked = threading.Event()

    def answer() -> list[Any]:
        open_.waker.set()
        until(lambda: open_.asked, "it is asked whether to stop")
        asked.set()
        return [(socket.AF_INET, (HOST, listener.port))]

    resolve(answer)
    open_(dial(listener.port, host=NAME))
    assert asked.is_set()
    listener.accept().close()


def test_options_an_address_of_ones_own_is_bound(open_: Open, listener: Listener) -> None:
    _, info = open_(dial(listener.port, local_address=("127.0.0.2", 0)))
    peer = listener.accept()
    assert peer.sock.getpeername()[0] == "127.0.0.2"
    assert info.local_address is not None and info.local_address.startswith("127.0.0.2:")
    peer.close()


def test_O4_no_address_of_the_local_ones_family(open_: Open) -> None:
    with pytest.raises(ConnectError, match="no address of the family of local_address='::1'") as no:
        open_(dial(1, local_address=("::1", 0)))
    assert no.value.phase == "resolve"


def test_E8_a_dialled_socket_is_known_as_ours(open_: Open, listener: Listener) -> None:
    before = set(ours)
    open_(dial(listener.port))
    assert len(set(ours) - before) == 1
    listener.accept().close()


class Policy:
    """Forbids a name, or all candidates but the last."""

    def __init__(self, forbidden: str = "") -> None:
        self.forbidden = forbidden
        self.left_out = Attempt("192.0.2.1:1", 0.0, PolicyViolation("not this one"))

    def vet_name(self, hostname: str, port: int) -> None:
        if hostname == self.forbidden:
            raise PolicyViolation(f"{hostname}:{port} is forbidden")

    def vet_candidates(
        self, candidates: Sequence[Candidate]
    ) -> tuple[Sequence[Candidate], tuple[Attempt, ...]]:
        return candidates[-1:], (self.left_out,)


def test_P1_a_forbidden_name_is_not_even_looked_up(open_: Open, resolve: Any) -> None:
    resolve(lambda: pytest.fail("looked up"))
    with pytest.raises(PolicyViolation, match="forbidden"):
        open_(Dialling(NAME, 1, SocketOptions(), None, Policy(NAME)))


def test_P1_only_what_the_policy_leaves_is_dialled_and_all_is_told(
    open_: Open, listener: Listener, resolve: Any
) -> None:
    policy, never = Policy(), refused_port()
    resolve(lambda: [(socket.AF_INET, (HOST, port)) for port in (never, listener.port)])
    _, info = open_(Dialling(NAME, 1, SocketOptions(), None, policy))
    listener.accept().close()
    assert info.attempts[0] is policy.left_out
    assert [attempt.address for attempt in info.attempts[1:]] == [listener.address]
    resolve(lambda: [(socket.AF_INET, (HOST, never))])
    with pytest.raises(ConnectError, match=r"tried 2 addresses: 192\.0\.2\.1:1 not") as failed:
        open_(Dialling(NAME, 1, SocketOptions(), None, policy))
    assert failed.value.attempts[0] is policy.left_out


# TLS --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
def test_O6_dialling_with_tls_ends_after_the_handshake(open_: Open, version: str) -> None:
    chosen = ssl.TLSVersion.TLSv1_2 if version == "TLSv1.2" else ssl.TLSVersion.TLSv1_3
    context = server_context(minimum=chosen, maximum=chosen, alpn=["h2"])
    with serve(lambda sock: sock.sendall(sock.recv(100)), tls=context) as server:
        wire, info = open_(dial(server.port, start(alpn=("h2", "http/1.1"))))
        assert isinstance(wire, TlsWire)
        assert info.tls_version == version
        assert info.alpn == "h2"
        assert info.cipher and info.cipher_bits
        assert info.peer_certificate and info.certificate_chain[0] == info.peer_certificate
        assert info.certificate and ("IP Address", HOST) in info.certificate["subjectAltName"]
        assert info.timings.tls is not None
        assert (info._tls_unique is not None) == (version == "TLSv1.2")
        assert info.remote_address == server.address
        wire.send(b"x")
        while (echo := wire.recv(100)) is None:
            wire.wait_to_receive(wire.receive_events, None)
        assert echo == b"x"


def test_R8_truncation_is_no_clean_end_of_what_was_opened(open_: Open) -> None:
    with serve(truncate, tls=True) as server:
        wire, _ = open_(dial(server.port, start()))
        with pytest.raises(TlsTruncated):
            while wire.recv(100) is None:
                wire.wait_to_receive(wire.receive_events, None)


def test_O7_a_session_is_resumed_and_one_of_another_context_ignored(open_: Open) -> None:
    with serve(lambda sock: sock.recv(1), tls=only(ssl.TLSVersion.TLSv1_2)) as server:
        tls = start()
        first, _ = open_(dial(server.port, tls))
        session = first.session
        assert session is not None
        again, _ = open_(dial(server.port, start(session=session)))
        other = ssl.create_default_context(cadata=ca_data())
        options = TlsOptions(ssl_context=other, session=session)
        foreign, _ = open_(dial(server.port, TlsStart(options, HOST, None)))
        assert isinstance(again, TlsWire) and isinstance(foreign, TlsWire)
        assert again._tls.session_reused
        assert not foreign._tls.session_reused
        for wire in (first, again, foreign):
            wire.half_close()


@pytest.mark.parametrize(
    ("context", "server_hostname", "words"),
    [
        (lambda: server_context(Authority().issue()), None, "TlsOptions(ca_file=...)"),
        (
            lambda: server_context(authority().issue("right.example")),
            "wrong.example",
            "TlsOptions(server_hostname=...)",
        ),
        (lambda: server_context(authority().issue(validity="expired")), None, "expired"),
    ],
    ids=["unknown-ca", "wrong-host", "expired"],
)
def test_O4_a_certificate_that_is_not_accepted_says_what_to_do(
    open_: Open, context: Callable[[], ssl.SSLContext], server_hostname: str | None, words: str
) -> None:
    with serve(lambda sock: None, tls=context()) as server:
        with pytest.raises(TlsVerificationError) as failed:
            open_(dial(server.port, start(server_hostname=server_hostname)))
    error = failed.value
    assert words in str(error)
    assert repr(server_hostname or HOST) in str(error)
    assert error.verify_code
    assert error.verify_message
    assert (error.phase, error.address) == ("tls", server.address)
    assert error.reason == "CERTIFICATE_VERIFY_FAILED"
    assert error.__cause__ is not None and error.__cause__.__traceback__ is None


def answer(data: bytes) -> Callable[[socket.socket], object]:
    """A server that has no TLS."""

    def handler(sock: socket.socket) -> None:
        sock.recv(1000)
        sock.sendall(data)

    return handler


@pytest.mark.parametrize(
    ("handler", "words"),
    [
        (answer(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "does not speak TLS on this port"),
        (answer(b"220 mail.example ESMTP\r\n"), "does not speak TLS on this port"),
        (lambda sock: sock.recv(1000), "closed the connection during the TLS handshake"),
    ],
    ids=["http", "smtp", "closes"],
)
def test_O4_a_peer_that_does_not_speak_tls(open_: Open, handler: Any, words: str) -> None:
    with serve(handler) as server:
        with pytest.raises(TlsError, match=words) as failed:
            open_(dial(server.port, start()))
    assert not isinstance(failed.value, TlsVerificationError)
    assert (failed.value.phase, failed.value.address) == ("tls", server.address)


def test_O4_a_peer_that_refuses_our_versions_sends_an_alert(open_: Open) -> None:
    tls = start(minimum_version=ssl.TLSVersion.TLSv1_3)
    with serve(lambda sock: None, tls=only(ssl.TLSVersion.TLSv1_2)) as server:
        with pytest.raises(TlsError) as failed:
            open_(dial(server.port, tls))
    assert failed.value.reason == "TLSV1_ALERT_PROTOCOL_VERSION"
    assert "ended it by the alert 'protocol version' (tls)" in str(failed.value)


def test_O4_a_reset_before_the_handshake(open_: Open, listener: Listener) -> None:
    mine = socket.create_connection((HOST, listener.port))
    mine.setblocking(False)
    listener.accept().reset()
    poll = poller()
    poll.register(mine.fileno(), POLLIN)
    assert poll.poll(int(WAIT * 1000))
    with pytest.raises(ConnectionLost) as lost:
        open_(Adopted(mine, HOST, listener.address, SocketOptions(), start()))
    assert lost.value.phase == "tls"
    assert mine.fileno() == -1


def test_O4_a_reset_during_the_handshake(open_: Open) -> None:
    def handler(sock: socket.socket) -> None:
        sock.recv(1000)
        reset(sock)

    with serve(handler) as server, pytest.raises((ConnectionLost, TlsError)) as failed:
        open_(dial(server.port, start()))
    assert failed.value.phase == "tls"


def test_O5_a_silent_handshake_ends_with_the_deadline(open_: Open, listener: Listener) -> None:
    with pytest.raises(ConnectTimeout, match=r"not done in 0\.05 s \(tls\)") as late:
        open_(dial(listener.port, start(), connect_timeout=0.05))
    assert late.value.phase == "tls"
    assert [attempt.error for attempt in late.value.attempts] == [None]
    listener.accept().close()  # the client's end is closed


def test_E4_a_handshake_is_called_off(open_: Open) -> None:
    def handler(sock: socket.socket) -> None:
        sock.recv(1000)
        open_.call_off()
        ended.append(sock.recv(1000))

    ended: list[bytes] = []
    with serve(handler) as server:
        sock = open_.is_called_off(dial(server.port, start()))
        assert isinstance(sock, ssl.SSLSocket)
        sock.close()
        server.wait()
    assert ended == [b""]


@pytest.mark.parametrize(
    ("hostname", "server_hostname", "name"),
    [
        ("a.example.", None, "a.example"),
        ("fe80::1%eth0", None, "fe80::1"),
        ("a.example", "b.example", "b.example"),
    ],
)
def test_A2_the_name_for_tls(hostname: str, server_hostname: str | None, name: str) -> None:
    options = TlsOptions(server_hostname=server_hostname)
    assert TlsStart(options, hostname, None).server_name == name


# Adoption ---------------------------------------------------------------------------------------


def test_an_adopted_unix_socket_has_no_addresses(open_: Open) -> None:
    mine, other = socket.socketpair()
    mine.setblocking(False)
    wire, info = open_(Adopted(mine, NAME, "adopted socket", SocketOptions(), None))
    assert (info.remote_address, info.local_address, info.hostname) == (None, None, NAME)
    assert info.attempts == ()
    assert wire.address == "adopted socket"
    assert mine in ours
    other.close()


def test_an_adopted_tcp_socket_tells_its_addresses_and_gets_tls(open_: Open) -> None:
    with serve(lambda sock: sock.recv(1), tls=True) as server:
        mine = socket.create_connection((server.host, server.port))
        mine.setblocking(False)
        local = "{}:{}".format(*mine.getsockname())
        wire, info = open_(Adopted(mine, HOST, server.address, SocketOptions(), start()))
        assert isinstance(wire, TlsWire)
        assert (info.remote_address, info.local_address) == (server.address, local)
        assert info.tls_version == "TLSv1.3"
        wire.half_close()


# StartTLS ---------------------------------------------------------------------------------------


class Upgrade:
    """An upgrade of one end of a socketpair; the other is in the test's hands."""

    def __init__(self, open_: Open, *, plaintext_read: bool = False, **options: Any) -> None:
        mine, self.peer = socket.socketpair()
        mine.setblocking(False)
        self.peer.settimeout(WAIT)
        self.mine = mine
        self.opener = Upgrading(NAME, SocketOptions(connect_timeout=WAIT, **options), start())
        wire = Wire(mine, open_.waker, NAME)
        self.opener.take_over(wire, UNKNOWN, plaintext_read=plaintext_read)


@pytest.mark.parametrize("known", [False, True])
def test_S5_plaintext_before_tls_is_an_attack_and_ends_the_connection(
    open_: Open, known: bool
) -> None:
    """Read by the old connection already, or still in the kernel."""
    upgrade = Upgrade(open_, plaintext_read=known)
    if not known:
        upgrade.peer.sendall(b"injected")
    with pytest.raises(PlaintextInjected, match=NAME):
        open_(upgrade.opener)
    assert upgrade.mine.fileno() == -1
    with upgrade.peer as peer:
        try:
            handshake = peer.recv(1000)
        except ConnectionResetError:  # a Unix socket's, if the byte was not read
            handshake = b""
        assert handshake == b""


def test_E4_an_upgrade_that_nobody_wants_any_more_is_not_begun(open_: Open) -> None:
    upgrade = Upgrade(open_)
    open_.call_off()
    assert open_.is_called_off(upgrade.opener) is upgrade.mine
    upgrade.mine.close()
    with upgrade.peer as peer:
        assert peer.recv(1000) == b""  # no handshake


def test_E4_an_adopted_socket_that_nobody_wants_any_more_is_not_begun_with(open_: Open) -> None:
    mine, other = socket.socketpair()
    open_.stop = True
    opener = Adopted(mine, NAME, NAME, SocketOptions(), start())
    assert open_.is_called_off(opener) is mine
    with mine, other:
        other.setblocking(False)
        with pytest.raises(BlockingIOError):
            other.recv(1)


@pytest.mark.parametrize("kind", ["adopted", "upgrade"])
def test_what_is_given_up_before_it_began_is_closed(open_: Open, kind: str) -> None:
    if kind == "adopted":
        mine, peer = socket.socketpair()
        Adopted(mine, NAME, NAME, SocketOptions(), None).give_up()
    else:
        upgrade = Upgrade(open_)
        mine, peer = upgrade.mine, upgrade.peer
        upgrade.opener.give_up()
    dial(1).give_up()  # holds nothing
    assert mine.fileno() == -1
    with peer:
        assert peer.recv(1) == b""


def test_S3_an_upgrade_keeps_what_is_known_and_adds_tls(open_: Open) -> None:
    with serve(lambda sock: sock.recv(1), tls=True) as server:
        mine = socket.create_connection((server.host, server.port))
        mine.setblocking(False)
        opener = Upgrading(NAME, SocketOptions(connect_timeout=WAIT), start())
        opener.take_over(Wire(mine, open_.waker, NAME), UNKNOWN, plaintext_read=False)
        open_.waker.set()  # what woke the old connection is nothing to the new one
        wire, info = open_(opener)
        assert open_.asked == 1
        assert isinstance(wire, TlsWire)
        assert wire.address == NAME
        assert (info.hostname, info.tls_version) == (NAME, "TLSv1.3")
        wire.half_close()


# Options ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("on", [False, True])
def test_options_reach_the_socket(on: bool) -> None:
    with socket.socket() as sock:
        set_options(sock, SocketOptions(no_delay=on, keep_alive=on))
        assert bool(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)) == on
        assert bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)) == on


def test_options_the_pace_of_keep_alive_reaches_the_socket() -> None:
    with socket.socket() as sock:
        set_options(sock, SocketOptions(keep_alive=KeepAlive(idle=77, interval=33, count=9)))
        names = ["TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT"]
        paces = [sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name in names]
        assert paces == [77, 33, 9]
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


def test_K3_what_a_platform_lacks_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "TCP_KEEPINTVL")
    with socket.socket() as sock:
        set_options(sock, SocketOptions(keep_alive=KeepAlive(idle=77)))
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 77
