"""Plain and TLS wires: what comes, what goes, and which error an end becomes."""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import ssl
import struct
from collections.abc import Callable, Iterator

import pytest
from peers import HOST, WAIT, ca_data, only, pattern, until

from tcpsock._deadline import Deadline
from tcpsock._errors import ConnectionLost, TlsError, TlsTruncated
from tcpsock._wire.descriptors import ours
from tcpsock._wire.platform import POLLIN, POLLOUT, POLLRDHUP, Waker
from tcpsock._wire.tls import TlsWire, is_tls_eof, tls_failure
from tcpsock._wire.wire import HANGUP, TIMED_OUT, WOKEN, Wire, connection_lost

ADDRESS = "a.example:1"
NOW = Deadline(0)
SOON = Deadline(None)  # for what must come: pytest's own limit ends a hang
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
GARBAGE = b"this is no TLS record at all"


class Ends:
    """A wire and its peer, over TCP or (what one end sends is there at once) a Unix socketpair."""

    def __init__(self, kind: str) -> None:
        self.waker = Waker()
        if kind == "unix":
            self.mine, self.peer = socket.socketpair()
        else:
            with socket.create_server((HOST, 0)) as listener:
                self.mine = socket.create_connection(listener.getsockname())
                self.peer, _ = listener.accept()
        self.mine.setblocking(False)
        self.peer.settimeout(WAIT)
        self.wire = Wire(self.mine, self.waker, ADDRESS)

    def start_tls(self, version: ssl.TLSVersion, *, allow_truncation: bool = False) -> TlsWire:
        """TLS on both ends; the wire is a TlsWire from now on."""
        options = {"do_handshake_on_connect": False, "suppress_ragged_eofs": False}
        context = ssl.create_default_context(cadata=ca_data())
        self.tls = context.wrap_socket(self.mine, server_hostname=HOST, **options)
        self.server = only(version).wrap_socket(self.peer, server_side=True, **options)
        self.mine, self.peer = self.tls, self.server
        self.server.setblocking(False)
        wire = TlsWire(self.tls, self.waker, ADDRESS, allow_truncation=allow_truncation)
        self.wire = wire
        done = False
        while not done:
            done = wire.handshake()
            with contextlib.suppress(ssl.SSLWantReadError):
                self.server.do_handshake()
        self.server.do_handshake()
        self.server.settimeout(WAIT)
        return wire

    def receive(self, size: int) -> bytes:
        """`size` bytes through the wire, or what comes before its end."""
        got = b""
        while len(got) < size:
            chunk = self.wire.recv(size - len(got))
            if chunk == b"":
                break
            if chunk is None:
                self.wire.wait_to_receive(self.wire.receive_events, SOON)
            else:
                got += chunk
        return got

    def receive_tickets(self) -> None:
        """Take in what TLS 1.3's server sends behind the handshake: no bytes of anybody's."""
        assert self.wire.recv(1) is None

    def reset_by_peer(self) -> None:
        """The peer resets, and the reset is here."""
        self.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.peer.close()
        until_hung_up(self.mine)

    def close(self) -> None:
        self.mine.close()
        self.peer.close()
        self.waker.close()


def until_hung_up(sock: socket.socket) -> None:
    poll = select.poll()
    poll.register(sock.fileno(), 0)
    assert poll.poll(int(WAIT * 1000))


def wait_to_send(wire: Wire, events: int, deadline: Deadline) -> int:
    return wire.wait_to_send(events, deadline, heed_waker=True)


def fill(send: Callable[[bytes], int | None]) -> int:
    """Send zeros until there is no room; returns how many went."""
    sent = 0
    chunk = bytes(1 << 16)
    while True:
        try:
            taken = send(chunk)
        except BlockingIOError:
            taken = None
        if taken is None:
            if len(chunk) == 1:
                return sent
            chunk = b"\0"
        else:
            sent += taken


@pytest.fixture(params=["tcp", "unix"])
def ends(request: pytest.FixtureRequest) -> Iterator[Ends]:
    ends = Ends(request.param)
    yield ends
    ends.close()


@pytest.fixture
def tcp() -> Iterator[Ends]:
    ends = Ends("tcp")
    yield ends
    ends.close()


@pytest.fixture
def unix() -> Iterator[Ends]:
    ends = Ends("unix")
    yield ends
    ends.close()


@pytest.fixture(params=VERSIONS, ids=["tls12", "tls13"])
def version(request: pytest.FixtureRequest) -> ssl.TLSVersion:
    chosen: ssl.TLSVersion = request.param
    return chosen


# Waiting ----------------------------------------------------------------------------------------


def test_waiting_to_receive_tells_what_it_found(ends: Ends) -> None:
    wire = ends.wire
    assert wire.wait_to_receive(POLLIN, NOW) == TIMED_OUT
    ends.waker.set()
    assert wire.wait_to_receive(POLLIN, SOON) == WOKEN
    ends.peer.send(b"x")
    until(lambda: wire.wait_to_receive(POLLIN, NOW) == WOKEN | POLLIN, "the byte is here")
    ends.waker.clear()
    assert wire.wait_to_receive(POLLIN, None) == POLLIN
    assert wire.wait_to_receive(POLLOUT, None) == POLLOUT


def test_T5_waiting_for_no_events_leaves_a_socket_that_has_hung_up_out(ends: Ends) -> None:
    """Else a hang-up that is known would end each wait at once, and the loop spin."""
    ends.peer.close()
    assert ends.wire.wait_to_receive(POLLIN | POLLRDHUP, SOON) & HANGUP
    assert ends.wire.wait_to_receive(0, NOW) == TIMED_OUT
    ends.waker.set()
    assert ends.wire.wait_to_receive(0, SOON) == WOKEN
    ends.waker.clear()
    assert ends.wire.wait_to_receive(POLLIN, SOON) & POLLIN


def test_waiting_to_send_tells_what_it_found_and_leaves_the_waker_set(ends: Ends) -> None:
    wire = ends.wire
    assert wait_to_send(wire, POLLOUT, SOON) == POLLOUT
    fill(wire.send)
    assert wait_to_send(wire, POLLOUT, NOW) == TIMED_OUT
    ends.waker.set()
    assert wait_to_send(wire, POLLOUT, SOON) == WOKEN
    assert wait_to_send(wire, POLLOUT, SOON) == WOKEN
    assert wire.wait_to_send(POLLOUT, SOON, heed_waker=False) == TIMED_OUT
    assert wait_to_send(wire, POLLOUT, SOON) == WOKEN  # heeded again
    ends.peer.send(b"x")
    until(lambda: wait_to_send(wire, POLLIN, NOW) == WOKEN | POLLIN, "the byte is here")


# Plain: receiving -------------------------------------------------------------------------------


def test_R2_recv_gives_what_is_there(unix: Ends) -> None:
    wire = unix.wire
    assert wire.recv(10) is None
    assert not wire.maybe_more
    unix.peer.send(b"0123456789abc")
    assert wire.recv(10) == b"0123456789"
    assert wire.maybe_more
    assert wire.recv(10) == b"abc"
    assert not wire.maybe_more
    unix.peer.shutdown(socket.SHUT_WR)
    assert wire.recv(10) == b""
    assert wire.recv(10) == b""
    assert wire.receive_events == POLLIN


def test_R2_recv_into_gives_what_is_there(unix: Ends) -> None:
    wire, buffer = unix.wire, bytearray(10)
    assert wire.recv_into(memoryview(buffer)) is None
    unix.peer.send(b"0123456789abc")
    assert wire.recv_into(memoryview(buffer)) == 10
    assert wire.maybe_more
    assert wire.recv_into(memoryview(buffer)) == 3
    assert buffer == b"abc3456789"
    assert not wire.maybe_more
    unix.peer.shutdown(socket.SHUT_WR)
    assert wire.recv_into(memoryview(buffer)) == 0


@pytest.mark.parametrize("into", [False, True])
@pytest.mark.parametrize("taken", [False, True])
def test_R9_T19_a_reset_is_ConnectionLost_though_a_sender_took_the_error(
    tcp: Ends, into: bool, taken: bool
) -> None:
    tcp.reset_by_peer()
    if taken:  # as a send() in another thread takes it
        assert tcp.mine.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNRESET
    with pytest.raises(ConnectionLost) as lost:
        if into:
            tcp.wire.recv_into(memoryview(bytearray(10)))
        else:
            tcp.wire.recv(10)
    assert str(lost.value) == f"{ADDRESS}: connection reset by the peer (read)"
    assert lost.value.phase == "read"
    assert lost.value.address == ADDRESS
    assert lost.value.errno == errno.ECONNRESET
    if not taken:
        assert isinstance(lost.value.__cause__, ConnectionResetError)
        assert lost.value.__cause__.__traceback__ is None


def test_R9_T19_was_reset_of_a_connection_with_its_peer(ends: Ends) -> None:
    assert not ends.wire.was_reset()
    ends.peer.shutdown(socket.SHUT_WR)
    assert ends.wire.recv(1) == b""
    assert not ends.wire.was_reset()
    ends.peer.close()
    assert ends.wire.wait_to_receive(POLLIN, SOON) & POLLIN
    assert not ends.wire.was_reset()


def test_R9_T19_was_reset_after_a_reset(tcp: Ends) -> None:
    tcp.reset_by_peer()
    assert tcp.wire.was_reset()


def test_R9_T19_was_reset_is_false_once_both_sides_have_ended(ends: Ends) -> None:
    """There is no peer any more then either."""
    assert ends.wire.half_close()
    assert ends.wire.fin_sent
    assert ends.peer.recv(1) == b""
    ends.peer.close()
    until_hung_up(ends.mine)
    if ends.mine.family != socket.AF_UNIX:
        until(lambda: not has_peer(ends.mine), "the peer is gone")
    assert not ends.wire.was_reset()
    assert ends.wire.recv(1) == b""


def has_peer(sock: socket.socket) -> bool:
    try:
        socket.socket.getpeername(sock)
    except OSError:
        return False
    return True


def test_R9_T19_was_reset_tells_nothing_after_our_own_fin(tcp: Ends) -> None:
    tcp.wire.half_close()
    tcp.reset_by_peer()
    assert not has_peer(tcp.mine)
    assert not tcp.wire.was_reset()


def test_S5_plaintext_waiting_looks_and_takes_nothing(unix: Ends) -> None:
    assert not unix.wire.plaintext_waiting()
    unix.peer.send(b"injected")
    assert unix.wire.plaintext_waiting()
    assert unix.wire.plaintext_waiting()
    assert unix.wire.recv(100) == b"injected"
    unix.peer.shutdown(socket.SHUT_WR)
    assert not unix.wire.plaintext_waiting()


def test_S5_a_broken_connection_has_no_plaintext_waiting(tcp: Ends) -> None:
    tcp.reset_by_peer()
    assert not tcp.wire.plaintext_waiting()


# Plain: sending and the end ---------------------------------------------------------------------


def test_W1_send_takes_what_there_is_room_for(ends: Ends) -> None:
    sent = fill(ends.wire.send)
    assert sent > 0
    assert ends.wire.send(b"x") is None
    assert ends.wire.in_flight(b"x" * 100) == 0
    ends.mine.shutdown(socket.SHUT_WR)
    got = 0
    while chunk := ends.peer.recv(1 << 20):
        got += len(chunk)
    assert got == sent


def test_E1_sending_to_a_peer_that_is_gone_is_ConnectionLost(tcp: Ends) -> None:
    tcp.reset_by_peer()
    errors = []
    for _ in range(2):
        with pytest.raises(ConnectionLost) as lost:
            tcp.wire.send(b"x")
        assert lost.value.phase == "write"
        errors.append((lost.value.errno, str(lost.value)))
    assert errors == [
        (errno.ECONNRESET, f"{ADDRESS}: connection reset by the peer (write)"),
        (errno.EPIPE, f"{ADDRESS}: connection reset: the peer takes no more (broken pipe) (write)"),
    ]


def test_W3_half_close_ends_our_side_alone(ends: Ends) -> None:
    assert ends.wire.send(b"last") == 4
    assert not ends.wire.fin_sent
    assert ends.wire.half_close()
    assert ends.wire.fin_sent
    assert ends.peer.recv(100) == b"last"
    assert ends.peer.recv(100) == b""
    ends.peer.sendall(b"goes on")
    assert ends.receive(7) == b"goes on"
    ends.peer.close()
    assert ends.receive(1) == b""
    assert ends.wire.half_close()  # the peer is gone: no error


def test_closing_a_wire_delivers_what_was_sent(ends: Ends) -> None:
    ends.wire.send(b"last")
    ends.wire.close()
    assert ends.mine.fileno() == -1
    assert ends.peer.recv(100) == b"last"
    assert ends.peer.recv(100) == b""


def test_W5_reset_is_a_reset(ends: Ends) -> None:
    ends.wire.reset()
    assert ends.mine.fileno() == -1
    if ends.mine.family == socket.AF_UNIX:  # it has none
        assert ends.peer.recv(1) == b""
    else:
        with pytest.raises(ConnectionResetError):
            ends.peer.recv(1)


def test_release_gives_the_socket_away(unix: Ends) -> None:
    assert unix.mine in ours
    assert unix.wire.release() is unix.mine
    assert unix.mine not in ours
    assert unix.mine.fileno() >= 0


def test_a_plain_wire_has_no_session_and_keeps_no_bytes(unix: Ends) -> None:
    unix.peer.send(b"x")
    assert unix.wire.session is None
    assert not unix.wire.holds_bytes


# TLS: receiving ---------------------------------------------------------------------------------


def test_R2_recv_gives_all_records_that_have_arrived(unix: Ends, version: ssl.TLSVersion) -> None:
    wire = unix.start_tls(version)
    for n in range(5):
        unix.server.sendall(pattern(1000, n * 1000))
    unix.server.sendall(pattern(40_000, 5000))
    assert wire.recv(1 << 20) == pattern(45_000)
    assert not wire.maybe_more
    assert wire.recv(1 << 20) is None
    assert wire.receive_events == POLLIN


@pytest.mark.parametrize("size", [1, 999, 1000, 1001, 16_384, 20_000])
def test_R2_recv_keeps_to_its_size_and_what_is_left_needs_no_poll(
    unix: Ends, version: ssl.TLSVersion, size: int
) -> None:
    wire = unix.start_tls(version)
    unix.receive_tickets()
    unix.server.sendall(pattern(1000))
    unix.server.sendall(pattern(20_000, 1000))
    got, filled = b"", 0
    while len(got) < 21_000:
        chunk = wire.recv(size)
        assert chunk and len(chunk) <= size
        if len(chunk) == size:
            filled += 1
            assert wire.maybe_more
        got += chunk
    assert got == pattern(21_000)
    assert filled >= 21_000 // size  # several records fill one receive
    assert wire.recv(size) is None
    assert not wire.maybe_more


def test_R2_recv_into_fills_the_start_of_a_buffer(unix: Ends, version: ssl.TLSVersion) -> None:
    wire = unix.start_tls(version)
    unix.server.sendall(b"abc")
    unix.server.sendall(b"def")
    buffer = bytearray(b"." * 8)
    assert wire.recv_into(memoryview(buffer)) == 6
    assert buffer == b"abcdef.."


def test_what_recv_gave_does_not_change_when_its_buffer_is_used_again(
    unix: Ends, version: ssl.TLSVersion
) -> None:
    wire = unix.start_tls(version)
    unix.server.sendall(b"first")
    first = wire.recv(100)
    unix.server.sendall(b"other")
    assert wire.recv(100) == b"other"
    assert first == b"first"


def test_a_clean_end_comes_behind_the_data_and_stays(unix: Ends, version: ssl.TLSVersion) -> None:
    wire = unix.start_tls(version)
    unix.server.sendall(b"last")
    notify(unix.server)
    assert wire.recv(100) == b"last"
    assert wire.maybe_more  # the end is known: no poll
    assert [wire.recv(100), wire.recv(100)] == [b"", b""]
    assert wire.recv_into(memoryview(bytearray(5))) == 0


def notify(server: ssl.SSLSocket) -> None:
    """close_notify, and no FIN."""
    server.setblocking(False)
    with contextlib.suppress(ssl.SSLWantReadError):
        server.unwrap()
    server.settimeout(WAIT)


def test_a_clean_end_comes_over_tcp_too(tcp: Ends, version: ssl.TLSVersion) -> None:
    tcp.start_tls(version)
    tcp.server.sendall(pattern(100_000))
    notify(tcp.server)
    tcp.peer.close()
    assert tcp.receive(200_000) == pattern(100_000)
    assert tcp.wire.recv(1) == b""


def test_R8_truncation_comes_behind_the_data_and_stays(unix: Ends, version: ssl.TLSVersion) -> None:
    wire = unix.start_tls(version)
    unix.server.sendall(b"all that")
    unix.server.close()
    assert wire.recv(100) == b"all that"
    assert wire.maybe_more
    for receive in (lambda: wire.recv(9), lambda: wire.recv_into(memoryview(bytearray(9)))):
        with pytest.raises(TlsTruncated, match="truncated") as truncated:
            receive()
        assert (truncated.value.phase, truncated.value.address) == ("read", ADDRESS)
        assert str(truncated.value).startswith(f"{ADDRESS}: ")
        assert isinstance(truncated.value.__cause__, ssl.SSLError)


def test_R8_truncation_without_data_before_it(unix: Ends, version: ssl.TLSVersion) -> None:
    wire = unix.start_tls(version)
    unix.receive_tickets()
    socket.socket.shutdown(unix.server, socket.SHUT_WR)
    with pytest.raises(TlsTruncated) as truncated:
        wire.recv(100)
    assert isinstance(truncated.value.__cause__, ssl.SSLError)
    assert truncated.value.__cause__.__traceback__ is None


def test_R8_truncation_in_the_middle_of_a_record(unix: Ends, version: ssl.TLSVersion) -> None:
    wire = unix.start_tls(version)
    unix.server.sendall(b"whole")
    socket.socket.send(unix.server, b"\x17\x03\x03\x00\x40half")
    socket.socket.shutdown(unix.server, socket.SHUT_WR)
    assert wire.recv(100) == b"whole"
    with pytest.raises(TlsTruncated):
        wire.recv(100)


def test_R8_truncation_that_is_allowed_is_an_end(unix: Ends, version: ssl.TLSVersion) -> None:
    wire = unix.start_tls(version, allow_truncation=True)
    unix.server.sendall(b"all that")
    unix.server.close()
    assert [wire.recv(100) for _ in range(3)] == [b"all that", b"", b""]


@pytest.mark.parametrize("allow_truncation", [False, True])
@pytest.mark.parametrize("taken", [False, True])
def test_R9_T19_a_reset_under_tls_is_ConnectionLost_and_no_truncation(
    tcp: Ends, version: ssl.TLSVersion, allow_truncation: bool, taken: bool
) -> None:
    wire = tcp.start_tls(version, allow_truncation=allow_truncation)
    tcp.receive_tickets()
    tcp.reset_by_peer()
    if taken:
        assert tcp.mine.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNRESET
    with pytest.raises(ConnectionLost, match="reset by the peer") as lost:
        wire.recv(100)
    assert (lost.value.phase, lost.value.errno) == ("read", errno.ECONNRESET)


def test_O4_garbage_comes_behind_the_data_as_a_TlsError_with_its_reason(
    unix: Ends, version: ssl.TLSVersion
) -> None:
    wire = unix.start_tls(version)
    unix.server.sendall(b"before")
    socket.socket.send(unix.server, GARBAGE)
    assert wire.recv(100) == b"before"
    for _ in range(2):
        with pytest.raises(TlsError) as failed:
            wire.recv(100)
        assert not isinstance(failed.value, TlsTruncated)
        assert failed.value.library == "SSL"
        assert failed.value.reason  # WRONG_VERSION_NUMBER or its like
        words = failed.value.reason.replace("_", " ").lower()
        assert str(failed.value) == f"{ADDRESS}: TLS failed: {words} (read)"
        assert isinstance(failed.value.__cause__, ssl.SSLError)
        assert failed.value.__cause__.__traceback__ is None


def test_O4_a_corrupted_record_is_a_TlsError(unix: Ends, version: ssl.TLSVersion) -> None:
    wire = unix.start_tls(version)
    socket.socket.send(unix.server, b"\x17\x03\x03\x00\x20" + bytes(32))
    with pytest.raises(TlsError) as failed:
        wire.recv(100)
    assert failed.value.reason == "DECRYPTION_FAILED_OR_BAD_RECORD_MAC"


def test_T13_what_tls_wants_is_what_is_waited_for(
    unix: Ends, version: ssl.TLSVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Receiving may have to send first (a key update, a renegotiation), and the reverse."""

    def refuse(kind: type[ssl.SSLError]) -> Callable[..., int]:
        def raises(*_: object) -> int:
            raise kind

        return raises

    wire = unix.start_tls(version)
    monkeypatch.setattr(unix.tls, "recv_into", refuse(ssl.SSLWantWriteError))
    assert wire.recv(10) is None
    assert wire.receive_events == POLLIN | POLLOUT
    monkeypatch.setattr(unix.tls, "recv_into", refuse(ssl.SSLWantReadError))
    assert wire.recv(10) is None
    assert wire.receive_events == POLLIN
    monkeypatch.setattr(unix.tls, "write", refuse(ssl.SSLWantReadError))
    assert wire.send(b"x") is None
    assert wire.send_events == POLLIN
    monkeypatch.setattr(unix.tls, "write", refuse(ssl.SSLWantWriteError))
    assert wire.send(b"x") is None
    assert wire.send_events == POLLOUT


# TLS: handshake and session ---------------------------------------------------------------------


def test_O7_a_handshake_goes_step_by_step(unix: Ends, version: ssl.TLSVersion) -> None:
    context = ssl.create_default_context(cadata=ca_data())
    options = {"do_handshake_on_connect": False, "suppress_ragged_eofs": False}
    tls = context.wrap_socket(unix.mine, server_hostname=HOST, **options)
    unix.mine = tls
    wire = TlsWire(tls, unix.waker, ADDRESS, allow_truncation=False)
    assert not wire.handshake()
    assert wire.receive_events == POLLIN
    assert not wire.handshake()  # nothing came
    unix.peer.sendall(GARBAGE)
    with pytest.raises(ssl.SSLError):
        wire.handshake()


def test_O7_there_is_a_session_once_it_can_be_resumed(unix: Ends, version: ssl.TLSVersion) -> None:
    wire = unix.start_tls(version)
    assert wire.maybe_more  # bytes may have come with the end of the handshake
    if version is ssl.TLSVersion.TLSv1_3:
        assert wire.session is None  # its tickets come behind the handshake
        unix.receive_tickets()
    session = wire.session
    assert session is not None
    assert session.has_ticket or session.id


# TLS: sending -----------------------------------------------------------------------------------


def test_W1_a_large_write_goes_in_slices(unix: Ends, version: ssl.TLSVersion) -> None:
    wire = unix.start_tls(version)
    data = pattern(200_000)
    assert wire.in_flight(data) == 1 << 16
    assert wire.in_flight(b"abc") == 3
    sent = 0
    got = b""
    while sent < len(data):
        taken = wire.send(memoryview(data)[sent:])
        if taken is None:
            got += unix.server.recv(1 << 16)
        else:
            assert 0 < taken <= 1 << 16
            sent += taken
    while len(got) < len(data):
        got += unix.server.recv(1 << 16)
    assert got == data


def test_T13_a_send_that_is_tried_again_sends_once(tcp: Ends, version: ssl.TLSVersion) -> None:
    wire = tcp.start_tls(version)
    data = pattern(8_000_000)
    sent, refused, got = 0, 0, bytearray()
    while sent < len(data):
        taken = wire.send(memoryview(data)[sent:])
        if taken is None:
            refused += 1
            assert wire.send_events == POLLOUT
            got += tcp.server.recv(1 << 20)
        else:
            sent += taken
    assert refused
    while len(got) < len(data):
        got += tcp.server.recv(1 << 20)
    assert got == data


def test_E1_sending_over_tls_to_a_peer_that_is_gone_is_ConnectionLost(
    tcp: Ends, version: ssl.TLSVersion
) -> None:
    wire = tcp.start_tls(version)
    tcp.reset_by_peer()
    for _ in range(2):
        with pytest.raises(ConnectionLost) as lost:
            wire.send(b"x")
        assert (lost.value.phase, lost.value.address) == ("write", ADDRESS)


# TLS: half-close --------------------------------------------------------------------------------


@pytest.mark.parametrize("mark", [10_007, 16_384, 1 << 18])
@pytest.mark.parametrize("before", [0, 1, 20_000])
def test_W3_T3_half_close_loses_nothing_and_keeps_the_order(
    tcp: Ends, version: ssl.TLSVersion, before: int, mark: int
) -> None:
    wire = tcp.start_tls(version)
    tcp.server.sendall(pattern(100_000))
    got = tcp.receive(before)
    assert not wire.holds_bytes
    assert wire.half_close()
    assert wire.holds_bytes == bool(before)  # what was decrypted already
    assert wire.fin_sent
    assert wire.maybe_more
    assert wire.wait_to_receive(0, NOW) == WOKEN  # whoever polled during the swap polls again
    with contextlib.suppress(ssl.SSLZeroReturnError):
        assert tcp.server.recv(1) == b""  # a clean end
    tcp.server.sendall(pattern(50_000, 100_000))
    notify(tcp.server)
    while chunk := tcp.receive(mark):
        got += chunk
    assert got == pattern(150_000)
    assert not wire.holds_bytes
    assert wire.half_close()  # nothing is sent again


def test_W3_half_close_waits_for_room_and_then_goes_on(unix: Ends, version: ssl.TLSVersion) -> None:
    """The peer doesn't decrypt here: room is taken by bytes that are no TLS."""
    wire = unix.start_tls(version)
    filler = fill(lambda chunk: socket.socket.send(unix.tls, chunk))
    assert not wire.half_close()
    assert not wire.half_close()
    got = b""
    while len(got) < filler:
        got += socket.socket.recv(unix.server, filler - len(got))
    assert wire.half_close()
    assert wire.fin_sent
    record = b""
    while chunk := socket.socket.recv(unix.server, 1000):
        record += chunk
    assert record[1:3] == b"\x03\x03"
    assert len(record) == 5 + int.from_bytes(record[3:5], "big")  # one record, and once


def test_W3_half_close_to_a_peer_that_is_gone_does_no_harm(
    tcp: Ends, version: ssl.TLSVersion
) -> None:
    wire = tcp.start_tls(version)
    tcp.receive_tickets()
    tcp.reset_by_peer()
    assert wire.half_close()
    assert wire.half_close()


def test_W3_half_close_of_a_broken_session_leaves_the_error_to_the_reader(
    unix: Ends, version: ssl.TLSVersion
) -> None:
    wire = unix.start_tls(version)
    unix.server.sendall(b"before")
    socket.socket.send(unix.server, GARBAGE)
    assert wire.recv(3) == b"bef"
    assert wire.half_close()
    assert wire.recv(100) == b"ore"
    with pytest.raises(TlsError):
        wire.recv(100)


@pytest.mark.parametrize("allow_truncation", [False, True])
def test_a_released_tls_socket_treats_truncation_as_was_asked_for(
    unix: Ends, version: ssl.TLSVersion, allow_truncation: bool
) -> None:
    wire = unix.start_tls(version, allow_truncation=allow_truncation)
    released = wire.release()
    assert released is unix.tls
    assert released not in ours
    released.settimeout(WAIT)
    unix.server.close()
    if allow_truncation:
        assert released.recv(1) == b""
    else:
        with pytest.raises(ssl.SSLError):
            released.recv(1)


# Errors -----------------------------------------------------------------------------------------


def test_T4_both_forms_of_a_missing_end_are_one() -> None:
    assert is_tls_eof(ssl.SSLEOFError(8, "EOF occurred"))
    assert is_tls_eof(ssl_error("UNEXPECTED_EOF_WHILE_READING"))
    assert not is_tls_eof(ssl_error("BAD_RECORD_TYPE"))
    assert not is_tls_eof(ssl_error(None))
    assert not is_tls_eof(ConnectionResetError())


def ssl_error(reason: str | None) -> ssl.SSLError:
    """One as the ssl module makes it: with both attributes, whatever they are."""
    error = ssl.SSLError(1, "odd")
    error.reason, error.library = reason, None  # type: ignore[assignment]  # typeshed says str
    return error


@pytest.mark.parametrize(
    ("error", "number", "words"),
    [
        (None, errno.ECONNRESET, "connection reset by the peer"),
        (OSError(errno.ENOTCONN, "?"), errno.ENOTCONN, "connection reset by the peer"),
        (OSError("no number"), None, "connection reset by the peer"),
        (OSError(errno.EPIPE, "?"), errno.EPIPE, "takes no more (broken pipe)"),
        (
            OSError(errno.EHOSTUNREACH, "No route to host"),
            errno.EHOSTUNREACH,
            "connection lost: No route to host",
        ),
    ],
)
def test_O4_a_lost_connection_says_how(
    error: OSError | None, number: int | None, words: str
) -> None:
    lost = connection_lost(ADDRESS, "write", error)
    assert str(lost).startswith(f"{ADDRESS}: ")
    assert str(lost).endswith(f"{words} (write)")
    assert (lost.errno, lost.phase, lost.address) == (number, "write", ADDRESS)


def test_O4_what_is_no_tls_failure_is_a_lost_connection() -> None:
    failure = tls_failure(ADDRESS, "read", OSError(errno.ETIMEDOUT, "Connection timed out"))
    assert isinstance(failure, ConnectionLost)
    assert failure.errno == errno.ETIMEDOUT


def test_O4_a_tls_failure_without_a_reason_says_what_ssl_said() -> None:
    failure = tls_failure(ADDRESS, "tls", ssl_error(None))
    assert isinstance(failure, TlsError)
    assert "odd" in str(failure)
    assert (failure.reason, failure.library, failure.errno) == ("", "", 1)


def test_T13_what_a_handshake_wants_is_what_is_waited_for(
    unix: Ends, version: ssl.TLSVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not only bytes: a long certificate chain of ours may find no room."""

    def refuse(kind: type[ssl.SSLError]) -> Callable[[], None]:
        def raises() -> None:
            raise kind

        return raises

    wire = unix.start_tls(version)
    monkeypatch.setattr(unix.tls, "do_handshake", refuse(ssl.SSLWantWriteError))
    assert not wire.handshake()
    assert wire.receive_events == POLLOUT
    monkeypatch.setattr(unix.tls, "do_handshake", refuse(ssl.SSLWantReadError))
    assert not wire.handshake()
    assert wire.receive_events == POLLIN
