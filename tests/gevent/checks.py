"""What greenlets add to the contract: nobody is held up, and what gevent throws loses nothing.

Collected by run.py alone, which has gevent patch everything first (trap T17).
"""

from __future__ import annotations

import http.client
import os
import random
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import gevent
import gevent.lock
import pytest
from _ending_peers import BlackHole, connected
from peers import WAIT, Call, ca_data, pattern, until

import tcpsock
from tcpsock.testing import serve

HERE = Path(__file__).parent
LONG = bool(os.environ.get("TCPSOCK_LONG"))
BULK = 16 << 20  # bytes: more than both kernels take of a connection that nobody reads

both = pytest.mark.parametrize("secure", ["off", "on"])


@pytest.fixture
def others_go_on() -> Iterator[Callable[[], None]]:
    """Another greenlet; the call waits until it has had twenty turns more."""
    turns = 0

    def take_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            gevent.sleep(0.001)

    def go_on() -> None:
        before = turns
        until(lambda: turns >= before + 20, "the other greenlet has its turns")

    other = gevent.spawn(take_turns)
    yield go_on
    other.kill()


# -- Nobody is held up -------------------------------------------------------------------------


@both
def test_T17_a_read_that_waits(secure: str, others_go_on: Callable[[], None]) -> None:
    with connected(secure) as (sock, peer):
        read = Call(sock.readable.get_reader().read).blocked()
        others_go_on()
        peer.send(b"at last")
        assert read.result() == b"at last"


@both
def test_T17_a_write_that_waits(secure: str, others_go_on: Callable[[], None]) -> None:
    """gevent's SSLSocket.send() says 0 where the standard one raises: no reason to try for ever."""
    with connected(secure) as (sock, peer):
        write = Call(sock.writable.get_writer().write, pattern(BULK)).blocked()
        others_go_on()
        assert peer.read_exactly(BULK) == pattern(BULK)
        write.result()


@both
def test_T17_a_connection_that_is_merely_watched(
    secure: str, others_go_on: Callable[[], None]
) -> None:
    """And what it watches for is seen, also behind bytes that nobody has asked for (R0, E1)."""
    with connected(secure) as (sock, peer):
        peer.send(b"last words")
        others_go_on()
        assert not sock.closed.done()
        peer.end()
        assert sock.closed.result(WAIT) is None
        assert sock.readable.get_reader().read_all(timeout=WAIT) == b"last words"


@both
def test_T17_a_full_queue(secure: str, others_go_on: Callable[[], None]) -> None:
    """The reset that comes while nobody reads is seen at once (R9)."""
    with connected(secure, high_water_mark=1000) as (sock, peer):
        sock.readable.get_reader()
        peer.send(pattern(100_000))
        until(lambda: sock.stats.bytes_buffered >= 1000, "the queue is full")
        others_go_on()
        peer.reset()
        error = sock.closed.exception(WAIT)
        assert type(error) is tcpsock.ConnectionLost


def test_T17_dialling(others_go_on: Callable[[], None]) -> None:
    with BlackHole() as hole, tcpsock.connect(hole.address) as sock:
        others_go_on()
        assert not sock.opened.done()


@both
def test_T17_a_close_that_waits_for_the_peer(secure: str, others_go_on: Callable[[], None]) -> None:
    with connected(secure, close_timeout=None) as (sock, peer):
        closed = sock.close()
        assert peer.read_all() == b""
        others_go_on()
        assert not closed.done()
        peer.end()
        assert closed.result(WAIT) is None


# -- What gevent throws ------------------------------------------------------------------------


@both
def test_R4_a_gevent_Timeout_in_a_read_loses_nothing(secure: str) -> None:
    with connected(secure) as (sock, peer):
        reader = sock.readable.get_reader()
        peer.send(b"half")
        with pytest.raises(gevent.Timeout), gevent.Timeout(0.1):
            reader.read_exactly(8)
        peer.send(b"half")
        assert reader.read_exactly(8, timeout=WAIT) == b"halfhalf"


@both
def test_R5_a_greenlet_killed_in_a_read_leaves_none_in_progress(secure: str) -> None:
    with connected(secure) as (sock, peer):
        reader = sock.readable.get_reader()
        reading = gevent.spawn(reader.read_exactly, 8)
        peer.send(b"half")
        until(lambda: sock.stats.bytes_buffered == 4, "it has gathered the first half")
        reading.kill()
        reader.release_lock()
        peer.send(b"half")
        assert sock.readable.get_reader().read_exactly(8, timeout=WAIT) == b"halfhalf"


@both
def test_W4_a_gevent_Timeout_in_a_write_aborts(secure: str) -> None:
    with connected(secure) as (sock, _):
        with pytest.raises(gevent.Timeout) as thrown, gevent.Timeout(0.1):
            sock.writable.get_writer().write(pattern(BULK))
        error = sock.closed.exception(WAIT)
        assert type(error) is tcpsock.SocketAborted
        assert error.reason is thrown.value


# -- Many of them ------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.timeout(1800 if LONG else 120)
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_R3_five_hundred_greenlets_with_a_socket_each(tls: bool) -> None:
    """All are open at once; each writes up to 100 KB in one greenlet and reads it in another."""
    count, rounds, seed = 500, 50 if LONG else 1, 26
    options = {}
    if tls:
        options = {"secure_transport": "on", "tls": tcpsock.TlsOptions(ca_data=ca_data())}
    dialling = gevent.lock.BoundedSemaphore(100)  # the listener's queue has room for 128
    all_open = threading.Barrier(count)

    def echo(sock: object) -> None:
        while received := sock.recv(65536):  # type: ignore[attr-defined]  # a socket
            sock.sendall(received)  # type: ignore[attr-defined]  # a socket

    def talk(number: int) -> None:
        sizes = random.Random(seed * count + number)
        with dialling:
            sock = tcpsock.connect(server.address, connect_timeout=None, **options)  # type: ignore[arg-type]  # a test's own
            sock.opened.result()
        with sock:
            all_open.wait()
            reader, writer = sock.streams()
            for _ in range(rounds):
                sent = pattern(sizes.randrange(1, 100_000), number)
                writing = gevent.spawn(writer.write, sent)
                assert reader.read_exactly(len(sent)) == sent, f"seed {seed}, number {number}"
                writing.get()

    with serve(echo, tls=tls) as server:
        talking = [gevent.spawn(talk, number) for number in range(count)]
        gevent.joinall(talking)
        assert [each.exception for each in talking] == [None] * count
        assert not server.errors


# -- Whole programs ----------------------------------------------------------------------------


def run(name: str) -> str:
    """One of programs.py, which must come to its end."""
    command = [sys.executable, "-W", "error", HERE / "programs.py", name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_T17_imported_before_gevent_patches() -> None:
    assert run("imported-first") == "off on\n"


def test_E8_greenlets_that_live_on_in_a_forked_child_come_to_their_end() -> None:
    """They wait on descriptor numbers that are the child's own connections' soon."""
    assert run("fork") == "child: SocketForked, hello anew\nparent: hello\n"


def test_R4_ctrl_c_in_a_read_loses_nothing() -> None:
    assert run("ctrl-c") == "interrupted\nhello\n"


def test_T17_gunicorn_serves_fifty_streams_at_once_with_one_worker() -> None:
    """The backend answers none before it has all of them."""
    count = 50
    all_there = threading.Barrier(count)

    def backend(sock: object) -> None:
        request = sock.recv(100)  # type: ignore[attr-defined]  # a socket
        all_there.wait(WAIT)
        sock.sendall(request * 1000)  # type: ignore[attr-defined]  # a socket

    def get(port: int, number: int) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT)
        connection.request("GET", f"/{number:03}")
        body = connection.getresponse().read()
        connection.close()
        return body

    with serve(backend) as server:
        gunicorn = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "-k", "gevent", "-b", "127.0.0.1:0", "programs"],
            cwd=HERE,
            env={**os.environ, "BACKEND": server.address},
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert gunicorn.stderr is not None
            said = ""
            while not (listening := re.search(r"http://127\.0\.0\.1:(\d+)", said)):
                line = gunicorn.stderr.readline()
                assert line, said
                said += line
            gets = [gevent.spawn(get, int(listening[1]), number) for number in range(count)]
            gevent.joinall(gets)
            assert [each.value for each in gets] == [b"/%03d" % n * 1000 for n in range(count)]
        finally:
            gunicorn.terminate()
            gunicorn.communicate(timeout=WAIT)
        assert not server.errors
