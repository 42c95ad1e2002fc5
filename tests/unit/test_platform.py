"""What platforms differ in: wakers with and without eventfd, and polling without poll()."""

from __future__ import annotations

import errno
import os
import resource
import runpy
import select
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
from peers import WAIT, open_descriptors

import tcpsock
from tcpsock._wire import platform
from tcpsock._wire.platform import POLLIN, POLLOUT, Waker, poller
from tcpsock.testing import Echo, Script, serve


@pytest.fixture(params=["eventfd", "pair"])
def waker_kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    kind: str = request.param
    if kind == "pair":
        monkeypatch.delattr(os, "eventfd", raising=False)
    return kind


@pytest.fixture
def waker(waker_kind: str) -> Iterator[Waker]:
    waker = Waker()
    yield waker
    waker.close()


@pytest.fixture(params=["poll", "select"])
def poll_kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    kind: str = request.param
    if kind == "select":
        monkeypatch.delattr(select, "poll")
    return kind


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair()
    one.setblocking(False)
    with one, other:
        yield one, other


def readable(fd: int) -> bool:
    return bool(select.select([fd], [], [], 0)[0])


# Wakers -----------------------------------------------------------------------------------------


def test_T5_a_waker_is_readable_from_set_to_clear(waker: Waker) -> None:
    assert not readable(waker.fileno())
    waker.set()
    waker.set()
    assert readable(waker.fileno())
    assert readable(waker.fileno())  # level-triggered: looking takes nothing back
    waker.clear()
    assert not readable(waker.fileno())
    waker.set()
    assert readable(waker.fileno())


def test_clearing_a_waker_that_is_not_set_does_not_wait(waker: Waker) -> None:
    waker.clear()
    assert not readable(waker.fileno())


def test_a_waker_that_is_full_does_not_wait_and_clears_at_once(
    waker: Waker, waker_kind: str
) -> None:
    if waker_kind == "eventfd":
        os.eventfd_write(waker.fileno(), 2**64 - 2)  # the most that it holds
    else:
        while select.select([], [waker._write_fd], [], 0)[1]:
            waker.set()
    for _ in range(500):
        waker.set()
    assert readable(waker.fileno())
    waker.clear()
    assert not readable(waker.fileno())


def test_a_waker_costs_one_descriptor_or_two_and_gives_them_back(waker_kind: str) -> None:
    before = open_descriptors()
    waker = Waker()
    assert open_descriptors() - before == (1 if waker_kind == "eventfd" else 2)
    assert not os.get_inheritable(waker.fileno())
    waker.close()
    assert open_descriptors() == before


# Polling ----------------------------------------------------------------------------------------


def test_poll_tells_what_was_asked_for_and_nothing_else(
    poll_kind: str, pair: tuple[socket.socket, socket.socket]
) -> None:
    one, other = pair
    poll = poller()
    poll.register(one.fileno(), POLLIN)
    assert poll.poll(0) == []
    assert poll.poll(1) == []
    other.send(b"x")
    assert poll.poll(0) == [(one.fileno(), POLLIN)]
    assert poll.poll(None) == [(one.fileno(), POLLIN)]
    assert poll.poll() == [(one.fileno(), POLLIN)]
    poll.modify(one.fileno(), POLLOUT)
    assert poll.poll(0) == [(one.fileno(), POLLOUT)]
    poll.modify(one.fileno(), POLLIN | POLLOUT)
    assert poll.poll(0) == [(one.fileno(), POLLIN | POLLOUT)]
    poll.modify(one.fileno(), 0)
    assert poll.poll(0) == []
    poll.modify(one.fileno(), POLLIN)
    poll.unregister(one.fileno())
    assert poll.poll(0) == []
    with pytest.raises(KeyError):
        poll.unregister(one.fileno())


def test_poll_does_not_call_a_full_socket_writable(
    poll_kind: str, pair: tuple[socket.socket, socket.socket]
) -> None:
    one, other = pair
    poll = poller()
    poll.register(one.fileno(), POLLOUT)
    poll.register(other.fileno(), POLLIN)
    with pytest.raises(BlockingIOError):
        while True:
            one.send(bytes(65536))
    assert poll.poll(0) == [(other.fileno(), POLLIN)]


def test_poll_tells_of_the_peers_end_and_of_several_descriptors(
    poll_kind: str, pair: tuple[socket.socket, socket.socket]
) -> None:
    one, other = pair
    waker = Waker()
    poll = poller()
    poll.register(one.fileno(), POLLIN)
    poll.register(waker.fileno(), POLLIN)
    waker.set()
    other.shutdown(socket.SHUT_WR)
    found = dict(poll.poll(None))
    waker.close()
    assert found.keys() == {one.fileno(), waker.fileno()}
    assert all(events & POLLIN for events in found.values())


def test_poll_wakes_for_an_attempt_to_connect_that_failed(poll_kind: str) -> None:
    with socket.socket() as listener, socket.socket() as sock:
        listener.bind(("127.0.0.1", 0))  # and listens to nobody
        sock.setblocking(False)
        assert sock.connect_ex(listener.getsockname()) in (errno.EINPROGRESS, errno.ECONNREFUSED)
        poll = poller()
        poll.register(sock.fileno(), POLLOUT)
        assert poll.poll(int(WAIT * 1000))


def test_each_poller_is_fresh(poll_kind: str, pair: tuple[socket.socket, socket.socket]) -> None:
    poller().register(pair[0].fileno(), POLLOUT)
    assert poller().poll(0) == []


def test_T5_select_says_why_it_cannot_take_a_high_descriptor(
    monkeypatch: pytest.MonkeyPatch, pair: tuple[socket.socket, socket.socket]
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2000:
        pytest.skip("this system allows no descriptors over 1024")
    resource.setrlimit(resource.RLIMIT_NOFILE, (2000, hard))
    high = 1500
    try:
        os.dup2(pair[0].fileno(), high, inheritable=False)
        poll = poller()
        poll.register(high, POLLOUT)
        assert poll.poll(0) == [(high, POLLOUT)]
        monkeypatch.delattr(select, "poll")
        poll = poller()
        poll.register(high, POLLOUT)
        with pytest.raises(OSError, match="no poll"):
            poll.poll(0)
        os.close(high)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_T17_poll_is_looked_up_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """gevent puts another one there."""
    theirs = object()
    monkeypatch.setattr(select, "poll", lambda: theirs)
    assert poller() is theirs


def test_K3_events_have_numbers_where_select_has_no_names(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["POLLIN", "POLLOUT", "POLLERR", "POLLHUP", "POLLNVAL"]
    for name in names:
        assert getattr(platform, name) == getattr(select, name)
        monkeypatch.delattr(select, name)
    assert platform.POLLRDHUP == select.POLLRDHUP
    monkeypatch.delattr(select, "POLLRDHUP")
    module = runpy.run_path(str(platform.__file__))
    bits = [module[name] for name in names]
    assert all(bit and bit & (bit - 1) == 0 for bit in bits)
    assert len(set(bits)) == len(bits)
    assert module["POLLRDHUP"] == 0


def test_K3_a_whole_connection_needs_neither_poll_nor_eventfd(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with serve(Script(Echo())) as server:
        monkeypatch.delattr(os, "eventfd", raising=False)
        monkeypatch.delattr(select, "poll")
        with tcpsock.connect(server.address, timeout=WAIT) as sock:
            reader, writer = sock.streams()
            size = 300_000
            writer.write(bytes(size))
            assert reader.read_exactly(size) == bytes(size)
            writer.close()
            assert reader.read() == b""
            sock.closed.result(WAIT)
        monkeypatch.undo()


# Fork -------------------------------------------------------------------------------------------


def test_K3_nothing_is_registered_where_processes_do_not_fork(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(os, "register_at_fork")
    platform.at_fork(before=print, in_parent=print, in_child=print)


def test_fork_hooks_run_before_in_the_parent_and_in_the_child() -> None:
    program = """if True:
        import os
        from tcpsock._wire.platform import at_fork

        seen = []
        at_fork(before=lambda: seen.append("before"))
        at_fork(in_parent=lambda: seen.append("parent"), in_child=lambda: seen.append("child"))
        child = os.fork()
        if child == 0:
            os._exit(0 if seen == ["before", "child"] else 1)
        assert os.waitpid(child, 0)[1] == 0
        print(*seen)
    """
    done = subprocess.run(
        [sys.executable, "-c", program], timeout=WAIT, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "before parent\n"), done.stderr
