"""connect() and many addresses, on the loopback: what users see of a race, and how to end one.

The schedules themselves are in tests/unit/test_race.py, where a clock of our own goes forward.
"""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Callable, Iterator

import pytest
from _ending_peers import BlackHole, Listener, Names, failure, free_port, tls_server, trusting
from peers import WAIT, open_descriptors, until

import tcpsock
from tcpsock import ConnectError, ConnectTimeout, SocketAborted, SocketClosed

NAME = "db.example"
ADDRESS = f"{NAME}:5432"
FORTY = [f"127.0.0.{n}" for n in range(2, 42)]


@pytest.fixture
def names() -> Iterator[Names]:
    with Names() as names:
        yield names


@pytest.fixture
def peers() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as peers:
        yield peers


def test_O4_O5_the_last_of_forty_addresses_answers(
    names: Names, peers: contextlib.ExitStack
) -> None:
    """Every refusal before it is told, in order; and nothing of them is left."""
    listener = peers.enter_context(Listener(FORTY[-1]))
    names[NAME] = [(ip, free_port(ip)) for ip in FORTY[:-1]] + [(listener.host, listener.port)]
    before = open_descriptors()
    sock = tcpsock.connect(ADDRESS, close_timeout=0)
    info = sock.opened.result(WAIT)
    assert info.remote_address == listener.address
    assert [attempt.address.partition(":")[0] for attempt in info.attempts] == FORTY
    assert {type(attempt.error) for attempt in info.attempts[:-1]} == {ConnectionRefusedError}
    assert info.attempts[-1].error is None
    assert open_descriptors() == before + 2  # the connection and its waker
    sock.close().result(WAIT)
    assert open_descriptors() == before


def test_O4_when_forty_addresses_refuse_the_error_names_each(names: Names) -> None:
    names[NAME] = [(ip, free_port(ip)) for ip in FORTY]
    error = failure(tcpsock.connect(ADDRESS).opened)
    assert type(error) is ConnectError
    assert error.phase == "connect" and error.errno == errno.ECONNREFUSED
    assert len(error.attempts) == 40
    assert "tried 40 addresses" in str(error)
    for attempt in error.attempts:
        assert f"{attempt.address} connection refused" in str(error)


def test_O4_O5_the_deadline_ends_forty_black_holes(
    names: Names, peers: contextlib.ExitStack
) -> None:
    """In 0.6 s no more than three attempts can begin, 250 ms apart; all three are told."""
    holes = [peers.enter_context(BlackHole(ip)) for ip in FORTY]
    names[NAME] = [(hole.host, hole.port) for hole in holes]
    before, begun = open_descriptors(), time.monotonic()
    error = failure(tcpsock.connect(ADDRESS, connect_timeout=0.6).opened)
    elapsed = time.monotonic() - begun
    assert elapsed >= 0.6
    assert type(error) is ConnectTimeout and isinstance(error, TimeoutError)
    assert error.phase == "connect" and error.code == "connect-timeout"
    assert 1 <= len(error.attempts) <= 3
    for n, attempt in enumerate(error.attempts):
        assert attempt.address == holes[n].address
        assert isinstance(attempt.error, TimeoutError)
        assert attempt.seconds <= elapsed - 0.25 * n
    said = str(error)
    assert said.startswith(f"{ADDRESS}: no answer in 0.6 s (connect; tried ")
    assert [hole.address in said for hole in holes] == [
        n < len(error.attempts) for n in range(len(holes))
    ]
    until(lambda: open_descriptors() == before, "the descriptors are gone")


def test_O4_O6_a_race_is_told_through_TLS_and_StartTLS(
    names: Names, peers: contextlib.ExitStack
) -> None:
    """A refusal, a black hole, a winner; an upgraded socket keeps what is known of them."""
    refused = free_port("127.0.0.2")
    hole = peers.enter_context(BlackHole("127.0.0.3"))
    listener = peers.enter_context(Listener("127.0.0.4"))
    names[NAME] = [
        ("127.0.0.2", refused),
        (hole.host, hole.port),
        (listener.host, listener.port),
    ]
    plain = tcpsock.connect(
        ADDRESS, secure_transport="starttls", tls=trusting(server_hostname="localhost")
    )
    before = plain.opened.result(WAIT)
    peer = listener.accept()
    with plain.start_tls() as secure:
        peer.start_tls(tls_server())
        after = secure.opened.result(WAIT)
        peer.end()
    first, second, winner = before.attempts
    assert (first.address, second.address) == (f"127.0.0.2:{refused}", hole.address)
    assert isinstance(first.error, ConnectionRefusedError)
    assert second.error is not None and second.error.errno == errno.ECANCELED
    assert f"{listener.address} answered first" in str(second.error)
    assert second.seconds >= 0.25
    assert (winner.address, winner.error) == (listener.address, None)
    assert before.timings.resolve is not None and before.timings.connect is not None
    assert before.timings.connect >= second.seconds and before.timings.tls is None
    assert after.attempts == before.attempts
    assert (after.timings.resolve, after.timings.connect) == (
        before.timings.resolve,
        before.timings.connect,
    )
    assert after.timings.tls is not None


# The ends of an attempt, at each of its stages


def looked_up(names: Names, _: contextlib.ExitStack) -> tcpsock.Socket:
    names.hang(NAME)
    sock = tcpsock.connect(ADDRESS, connect_timeout=None)
    until(lambda: names.asked, "the look-up has begun")
    return sock


def dialled(names: Names, peers: contextlib.ExitStack) -> tcpsock.Socket:
    """A refusal, then two attempts under way (after 250 ms), and one that is not yet begun."""
    holes = [peers.enter_context(BlackHole(ip)) for ip in ("127.0.0.3", "127.0.0.4", "127.0.0.5")]
    names[NAME] = [("127.0.0.2", free_port("127.0.0.2")), *((h.host, h.port) for h in holes)]
    before = open_descriptors()
    sock = tcpsock.connect(ADDRESS, connect_timeout=None)
    # The waker and two attempts. (The look-up has none: it is the test's.)
    until(lambda: open_descriptors() >= before + 3, "two attempts are under way")
    return sock


def greeted(_: Names, peers: contextlib.ExitStack) -> tcpsock.Socket:
    """The server has our ClientHello and says nothing."""
    listener = peers.enter_context(Listener())
    sock = tcpsock.connect(
        listener.address, secure_transport="on", tls=trusting(), connect_timeout=None
    )
    assert listener.accept().sock.recv(1)
    return sock


def half_answered(_: Names, peers: contextlib.ExitStack) -> tcpsock.Socket:
    """The server has begun a record, and doesn't go on."""
    listener = peers.enter_context(Listener())
    sock = tcpsock.connect(
        listener.address, secure_transport="on", tls=trusting(), connect_timeout=None
    )
    peer = listener.accept()
    assert peer.sock.recv(1)
    peer.send_raw(b"\x16\x03\x03\x00\x7a\x02")
    return sock


def upgraded(_: Names, peers: contextlib.ExitStack) -> tcpsock.Socket:
    listener = peers.enter_context(Listener())
    plain = tcpsock.connect(
        listener.address, secure_transport="starttls", tls=trusting(), connect_timeout=None
    )
    peer = listener.accept()
    plain.opened.result(WAIT)
    secure = plain.start_tls()
    assert peer.sock.recv(1)
    return secure


@pytest.mark.parametrize("how", ["close", "abort"])
@pytest.mark.parametrize("stage", [looked_up, dialled, greeted, half_answered, upgraded])
def test_E4_W5_it_ends_at_once_at_every_stage(
    names: Names,
    peers: contextlib.ExitStack,
    stage: Callable[[Names, contextlib.ExitStack], tcpsock.Socket],
    how: str,
) -> None:
    """There is no connect_timeout that could have ended it instead."""
    sock = stage(names, peers)
    getattr(sock, how)()
    if how == "close":
        assert sock.closed.result(WAIT) is None
        assert type(failure(sock.opened)) is SocketClosed
    else:
        assert type(failure(sock.closed)) is SocketAborted
        assert type(failure(sock.opened)) is SocketAborted
