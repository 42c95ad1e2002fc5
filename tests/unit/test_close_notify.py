"""TLS's half-close without a read: nothing that is on its way to us is lost (rule W3, trap T3)."""

from __future__ import annotations

import contextlib
import os
import resource
import select
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from peers import HOST, WAIT, ca_data, only, open_descriptors, pattern

from tcpsock._wire import close_notify
from tcpsock._wire.close_notify import close_notify_record

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
ALERT, APPLICATION = 21, 23  # TLS 1.3 calls every encrypted record application data


class Tls:
    """Both ends of a TLS connection: ours doesn't block, the server's waits WAIT seconds."""

    def __init__(self, version: ssl.TLSVersion) -> None:
        with socket.create_server((HOST, 0)) as listener:
            client = socket.create_connection(listener.getsockname())
            server, _ = listener.accept()
        options = {"do_handshake_on_connect": False, "suppress_ragged_eofs": False}
        context = ssl.create_default_context(cadata=ca_data())
        self.client = context.wrap_socket(client, server_hostname=HOST, **options)
        self.server = only(version).wrap_socket(server, server_side=True, **options)
        self.client.setblocking(False)
        self.server.setblocking(False)
        unfinished = [self.client, self.server]
        while unfinished:
            for end in unfinished[:]:
                with contextlib.suppress(ssl.SSLWantReadError):
                    end.do_handshake()
                    unfinished.remove(end)
        self.server.settimeout(WAIT)

    def receive(self) -> bytes:
        """What comes next, at most 10,007 bytes."""
        while True:
            try:
                return self.client.recv(10_007)
            except ssl.SSLWantReadError:
                assert select.select([self.client], [], [], WAIT)[0]
            except ssl.SSLZeroReturnError:
                return b""

    def receive_all(self) -> bytes:
        return b"".join(iter(self.receive, b""))

    def rescued(self) -> bytes:
        """What TLS has decrypted already, as the caller must take out first."""
        waiting = self.client.pending()
        return self.client.recv(waiting) if waiting else b""

    def close(self) -> None:
        self.client.close()
        self.server.close()


@pytest.fixture(params=VERSIONS, ids=["tls12", "tls13"])
def tls(request: pytest.FixtureRequest) -> Iterator[Tls]:
    tls = Tls(request.param)
    yield tls
    tls.close()


def half_close(tls: Tls) -> bytes:
    """The whole of it, as a wire does it; returns what had been decrypted."""
    rescued = tls.rescued()
    record = close_notify_record(tls.client)
    assert record
    assert socket.socket.send(tls.client, record) == len(record)
    socket.socket.shutdown(tls.client, socket.SHUT_WR)
    return rescued


def receive_end(server: ssl.SSLSocket) -> bytes:
    try:
        return server.recv(1)
    except ssl.SSLZeroReturnError:
        return b""


def test_W3_it_is_one_alert_record_and_not_sent_by_itself(tls: Tls) -> None:
    record = close_notify_record(tls.client)
    kind, length = record[0], int.from_bytes(record[3:5], "big")
    assert kind == (ALERT if tls.client.version() == "TLSv1.2" else APPLICATION)
    assert record[1:3] == b"\x03\x03"
    assert len(record) == 5 + length
    assert not select.select([tls.server], [], [], 0)[0]
    socket.socket.send(tls.client, record)
    assert receive_end(tls.server) == b""  # else SSLEOFError: there was no FIN


@pytest.mark.parametrize("read_before", [0, 1, 20_000])
def test_W3_T3_nothing_of_what_is_waiting_is_lost(tls: Tls, read_before: int) -> None:
    """With read_before over 0 a part is decrypted already; all else is in the kernel."""
    waiting = pattern(100_000)
    tls.server.sendall(waiting)
    got = b""
    while len(got) < read_before:
        got += tls.receive()
    got += half_close(tls)
    assert receive_end(tls.server) == b""
    tls.server.sendall(pattern(50_000, 100_000))  # the other direction goes on
    close_server_side(tls)
    got += tls.receive_all()
    assert got == pattern(150_000)


def close_server_side(tls: Tls) -> None:
    """Its close_notify; both are out then, and its descriptor is free of TLS."""
    tls.server.unwrap().close()


def test_W3_no_descriptor_is_needed(tls: Tls) -> None:
    tls.server.sendall(pattern(70_000))
    with no_descriptor_left():
        got = half_close(tls)
    assert receive_end(tls.server) == b""
    close_server_side(tls)
    assert got + tls.receive_all() == pattern(70_000)


@contextlib.contextmanager
def no_descriptor_left() -> Iterator[None]:
    """Fill the table of this process up."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 2, limits[1]))
    fillers: list[int] = []
    try:
        with contextlib.suppress(OSError):
            while True:
                fillers.append(os.dup(0))
        with pytest.raises(OSError, match="Too many open files"):
            socket.socket()
        yield
    finally:
        for fd in fillers:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def is_free(lock: Any) -> bool:
    """Asked by another thread, since the lock is re-entrant."""
    answers: list[bool] = []

    def ask() -> None:
        answers.append(lock.acquire(blocking=False))
        if answers[0]:
            lock.release()

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join(WAIT)
    return answers[0]


def test_the_descriptor_is_the_connections_again(tls: Tls) -> None:
    before, count = os.fstat(tls.client.fileno()), open_descriptors()
    close_notify_record(tls.client)
    after = os.fstat(tls.client.fileno())
    assert (after.st_dev, after.st_ino) == (before.st_dev, before.st_ino)
    assert open_descriptors() == count
    assert not os.get_inheritable(tls.client.fileno())
    assert close_notify._decoy is not None
    assert not os.get_inheritable(close_notify._decoy.spare)
    assert is_free(close_notify._swap_lock)


def test_nothing_kept_for_the_next_time_holds_the_connection_open(tls: Tls) -> None:
    close_notify_record(tls.client)
    tls.client.close()
    tls.server.settimeout(WAIT)
    with pytest.raises((ssl.SSLEOFError, ConnectionResetError)):
        tls.server.recv(1)


def test_the_descriptor_comes_back_also_when_unwrap_is_interrupted(
    tls: Tls, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    before = os.fstat(tls.client.fileno()).st_ino
    monkeypatch.setattr(tls.client, "unwrap", interrupt)
    with pytest.raises(KeyboardInterrupt):
        close_notify_record(tls.client)
    assert os.fstat(tls.client.fileno()).st_ino == before
    monkeypatch.undo()
    half_close(tls)
    assert receive_end(tls.server) == b""


def test_there_is_no_record_a_second_time(tls: Tls) -> None:
    assert close_notify_record(tls.client)
    assert close_notify_record(tls.client) == b""


def test_there_is_no_record_before_the_handshake_and_none_is_left_for_the_next(tls: Tls) -> None:
    one, other = socket.socketpair()
    one.setblocking(False)
    context = ssl.create_default_context(cadata=ca_data())
    early = context.wrap_socket(one, server_hostname=HOST, do_handshake_on_connect=False)
    with early, other:
        assert close_notify_record(early) == b""
    half_close(tls)
    assert receive_end(tls.server) == b""


def test_E8_the_swap_lock_is_held_across_a_fork_and_a_child_has_a_pair_of_its_own() -> None:
    """Else a child might begin with a lock that nobody releases, or a swapped descriptor."""
    program = """if True:
        import os, sys, threading

        def is_free(lock):  # asked by another thread, since the lock is re-entrant
            answers = []
            def ask():
                answers.append(lock.acquire(blocking=False))
                if answers[0]:
                    lock.release()
            thread = threading.Thread(target=ask)
            thread.start()
            thread.join()
            return answers[0]

        locked = []
        look = lambda: locked.append(
            not is_free(sys.modules["tcpsock._wire.close_notify"]._swap_lock)
        )
        # Those registered first run last before the fork, and first after it: within tcpsock's.
        os.register_at_fork(before=look, after_in_parent=look, after_in_child=look)
        from tcpsock._wire import close_notify

        def sockets():
            links = [f"/proc/self/fd/{fd}" for fd in range(64)]
            return {os.readlink(link) for link in links if os.path.lexists(link)}

        before = sockets()
        close_notify.prepare()
        decoy, theirs = close_notify._decoy, sockets() - before
        assert theirs
        child = os.fork()
        if child == 0:
            assert close_notify._decoy is None
            assert is_free(close_notify._swap_lock)
            assert not theirs & sockets()
            close_notify.prepare()
            assert not theirs & sockets()
            os._exit(0 if locked == [True, True] else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert is_free(close_notify._swap_lock)
        assert close_notify._decoy is decoy
        print(*locked)
    """
    done = subprocess.run(
        [sys.executable, "-c", program], timeout=WAIT, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "True True\n"), done.stderr


def test_W3_a_program_that_starts_meanwhile_inherits_none_of_it(
    tls: Tls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy of the connection, or of the pair, in a child would outlive our close()."""
    unwrap, inheritable = tls.client.unwrap, []

    def look_and_unwrap() -> socket.socket:
        decoy = close_notify._decoy
        assert decoy is not None
        fds = (tls.client.fileno(), decoy.spare, decoy.inside, decoy.outside)
        inheritable.extend(fd for fd in fds if os.get_inheritable(fd))
        return unwrap()

    monkeypatch.setattr(tls.client, "unwrap", look_and_unwrap)
    half_close(tls)
    assert inheritable == []
    assert not os.get_inheritable(tls.client.fileno())
    decoy = close_notify._decoy
    assert decoy is not None
    assert not os.get_inheritable(decoy.spare)
