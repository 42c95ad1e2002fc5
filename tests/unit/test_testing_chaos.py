"""ChaosProxy and its steps, between raw sockets."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import select
import socket
import ssl
import threading
from collections.abc import Iterator, Sequence

import pytest
from peers import until
from raw_clients import TLS_VERSIONS, dial, echo, pattern, read_all, read_exactly, secure

from tcpsock import testing
from tcpsock.testing import (
    ChaosProxy,
    Cuts,
    DelayFin,
    Drain,
    Dribble,
    DropCloseNotify,
    Fin,
    Flip,
    Inject,
    Reset,
    Script,
    Send,
    Stall,
    SwallowFin,
    half_close,
    reset,
    serve,
    server_context,
    silent_port,
    upgrade,
)
from tcpsock.testing._chaos import Step, _Link, _Swallowed
from tcpsock.testing._steps import ResetNow, Stream

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


@pytest.mark.parametrize("steps", [(), (Cuts(5),)], ids=["no", "cuts"])
def test_large_streams_go_both_ways_at_once(steps: Sequence[object]) -> None:
    question, answer = (random.Random(seed).randbytes(20_000_000) for seed in (1, 2))
    got = []

    def handler(sock: socket.socket) -> None:
        reading = threading.Thread(target=lambda: got.append(read_all(sock)))
        reading.start()
        sock.sendall(answer)
        half_close(sock)
        reading.join()

    def ask(client: socket.socket) -> None:
        client.sendall(question)
        client.shutdown(socket.SHUT_WR)

    with proxied(handler, to_client=steps, to_server=steps) as (client, server):
        asking = threading.Thread(target=ask, args=[client])
        asking.start()
        assert read_all(client) == answer
        asking.join()
        server.wait()
    assert got == [question]
    assert server.errors == []


RECORD = b"\x17\x03\x03" + (16_384).to_bytes(2, "big") + bytes(16_384)
EVENT = threading.Event()
EVENT.set()


@pytest.mark.parametrize(
    "step",
    [
        Dribble(1000),
        Dribble(1, until=10),
        Cuts(1),
        Stall(EVENT, 10),
        Reset(1 << 40),
        Fin(1 << 40),
        DelayFin(EVENT),
        SwallowFin(),
        Flip(1 << 40),
        Inject(b"!", 10),
        DropCloseNotify(),
    ],
    ids=lambda step: type(step).__name__,
)
def test_no_step_takes_in_more_than_it_gives_out(step: Step) -> None:
    """Save for a piece or a record: a proxy before a client that doesn't read needs no memory."""
    taken = given = 0

    def endless() -> Iterator[bytes]:
        nonlocal taken
        for _ in range(1000):
            taken += len(RECORD)
            yield RECORD

    with contextlib.suppress(_Swallowed):
        for piece in step.apply(Stream(endless()), Patience()):
            given += len(piece)
            assert taken - given <= 2 * len(RECORD)
    assert given >= taken - len(RECORD)


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


def test_what_came_before_a_reset_is_delivered_before_it() -> None:
    """However slowly it goes, and also if the client's writing meets the reset first."""
    answer = pattern(20_000)

    def handler(sock: socket.socket) -> None:
        sock.sendall(answer)
        reset(sock)

    for writing in (False, True):
        go = threading.Event()
        with proxied(handler, to_client=[Dribble(100), Stall(go, 1000)]) as (client, server):
            server.wait()
            if writing:
                client.sendall(b"x")
            poll = select.poll()
            poll.register(client, 0)
            assert poll.poll(100) == []  # no reset yet
            go.set()
            assert read_exactly(client, len(answer)) == answer
            with pytest.raises(ConnectionResetError):
                client.recv(1)


def test_a_reset_after_a_half_close_passes_though_nobody_says_anything() -> None:
    go = threading.Event()

    def handler(sock: socket.socket) -> None:
        half_close(sock)
        assert go.wait(20)
        reset(sock)

    with proxied(handler) as (client, _):
        assert client.recv(1) == b""
        until_threads(5)  # the one that read the half-close has ended
        go.set()
        poll = select.poll()
        poll.register(client, 0)
        assert poll.poll(20_000)
        with pytest.raises(OSError):  # the half-close was first: recv() would go on giving b""
            client.getpeername()


def test_a_reset_passes_though_the_other_direction_was_swallowed_or_ended() -> None:
    def handler(sock: socket.socket) -> None:
        with pytest.raises(OSError):
            while True:
                sock.sendall(bytes(1000))

    for steps in ([SwallowFin()], [Fin(1)], []):
        with proxied(handler, to_server=steps) as (client, server):
            client.sendall(b"xyz")
            client.shutdown(socket.SHUT_WR)
            assert read_exactly(client, 1000) == bytes(1000)
            reset(client)
            server.wait()
        assert server.errors == []


def test_a_reset_is_no_eof_though_the_sending_thread_saw_it_first() -> None:
    """The kernel tells a reset once; recv() after it gives b"", as at an EOF."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        far, near = zip(*(pair(listener) for _ in range(2)), strict=True)
    with far[0], far[1], near[1], _Link(near[0]) as link:
        near[1].setblocking(False)
        reset(far[1])
        poll = select.poll()
        poll.register(near[1], 0)
        poll.poll()
        with pytest.raises(ConnectionError):
            near[1].send(b"x")
        with pytest.raises(ResetNow):
            list(link._read(near[1]))


def pair(listener: socket.socket) -> tuple[socket.socket, socket.socket]:
    return socket.create_connection(listener.getsockname()), listener.accept()[0]


def test_every_step_of_the_public_contract_goes_by_position() -> None:
    event = threading.Event()
    assert [Dribble(3).n, Cuts(7).seed, Stall(event).event] == [3, 7, event]
    assert [Reset(4).after, Fin(5).after, Flip(6).offset] == [4, 5, 6]
    assert (Inject(b"evil", 7).data, Inject(b"evil", 7).at) == (b"evil", 7)
    steps = (Dribble(1), Cuts(7), Flip(0), Inject(b"!", 2), Fin(4))
    with serve(Script(Send(b"abcdef"))) as server:
        proxy = ChaosProxy(server.address, to_client=steps, to_server=())
        with dial(proxy.address) as client:
            assert read_all(client) == b"`b!c"
        proxy.close()
        proxy.close()
    with pytest.raises(OSError):
        dial(proxy.address)


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


def test_dribble_until() -> None:
    step = Dribble(2, until=5)
    assert list(step.apply(Stream([b"abc", b"defg", b"hij"]), Nothing())) == [
        *(b"ab", b"c", b"de"),
        *(b"fg", b"hij"),
    ]


class Pause:
    """A step of one's own: lets a piece through whenever it is told."""

    def __init__(self, go: threading.Semaphore) -> None:
        self.go = go

    def apply(self, stream: Iterator[bytes], link: object) -> Iterator[bytes]:
        for piece in stream:
            assert self.go.acquire(timeout=20)
            yield piece


class Patience:
    """Something to wait in for steps that are tried alone."""

    def wait(self, event: threading.Event) -> None:
        assert event.wait(20)


class Nothing:
    """The same for steps that don't wait."""

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


def test_a_target_that_has_hung_up_before_anybody_looked(monkeypatch: pytest.MonkeyPatch) -> None:
    """It did accept: what it said is delivered."""
    look = _Link._poll

    def late(self: _Link, sock: socket.socket, events: int, *more: socket.socket | None) -> None:
        look(self, sock, events, *more)
        if events == select.POLLOUT:
            poll = select.poll()
            poll.register(sock, 0)
            assert poll.poll(20_000)

    monkeypatch.setattr(_Link, "_poll", late)
    connected = threading.Event()  # else the reset may be what our own connect() tells of
    with serve(Script(Send(b"421 too busy\r\n"), Stall(connected), Reset())) as server:
        with ChaosProxy(server.address) as proxy, dial(proxy.address) as client:
            connected.set()
            assert read_exactly(client, 14) == b"421 too busy\r\n"
            with pytest.raises(ConnectionResetError):
                client.recv(1)
    assert proxy.errors == []


def test_close_ends_the_wait_for_a_silent_target() -> None:
    with (
        silent_port() as address,
        ChaosProxy(address) as proxy,
        dial(proxy.address),
        dial(proxy.address) as leaver,
    ):
        leaver.close()
        until_threads(4)  # the proxy's acceptor, two connections, and this one
        proxy.close()
        assert proxy.errors == []


def test_close_in_the_middle_leaves_nothing() -> None:
    """Of transfers, stalls, half-open connections and dials; from several threads at once."""
    never = threading.Event()
    before = descriptors(), set(threading.enumerate())

    def chatter(sock: socket.socket) -> None:
        sock.sendall(bytes(50_000_000))

    with serve(chatter) as server, contextlib.ExitStack() as stack:
        for steps in ([], [Dribble(1)], [Stall(never)], [DelayFin(never)], [Cuts(3)]):
            proxy = ChaosProxy(server.address, to_client=steps, to_server=steps)
            for n in range(8):
                client = stack.enter_context(dial(proxy.address))
                if n % 2:
                    client.sendall(b"x" * 100_000)
                    client.shutdown(socket.SHUT_WR)
            closers = [threading.Thread(target=proxy.close) for _ in range(4)]
            for closer in closers:
                closer.start()
            for closer in closers:
                closer.join()
            assert proxy.errors == []
    assert (descriptors(), set(threading.enumerate())) == before


def test_clients_that_leave_leave_nothing_though_the_proxy_lives_on() -> None:
    """By a close, a half-close or a reset, in the middle of what they are sent."""
    with (
        serve(Script(Send(bytes(1_000_000)), Drain())) as server,
        ChaosProxy(server.address, to_client=[Cuts(3)]) as proxy,
    ):
        before = descriptors()
        for n in range(60):
            client = dial(proxy.address)
            assert client.recv(1) == b"\0"
            if n % 3 == 0:
                client.shutdown(socket.SHUT_WR)
                read_all(client)
            (reset if n % 3 == 1 else socket.socket.close)(client)
        server.wait()
        proxy.wait()
        until_threads(3)
        assert descriptors() == before
        assert proxy.errors == []


def test_a_hundred_connections_at_once() -> None:
    def ask(n: int) -> None:
        with dial(proxy.address) as client:
            everybody.wait()
            client.sendall(pattern(30_000 + 4 * n))
            client.shutdown(socket.SHUT_WR)
            assert read_all(client) == pattern(30_000 + 4 * n)
            done.append(n)

    done: list[int] = []
    everybody = threading.Barrier(100)
    steps = [Dribble(1, until=1000), Cuts(2)]
    with serve(echo) as server:
        with ChaosProxy(server.address, to_client=steps, to_server=steps) as proxy:
            threads = [threading.Thread(target=ask, args=[n]) for n in range(100)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert proxy.errors == server.errors == []
    assert sorted(done) == list(range(100))


def descriptors() -> set[str]:
    return set(os.listdir("/dev/fd"))


def until_threads(number: int) -> None:
    until(lambda: threading.active_count() <= number, f"{number} threads are left")


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
