"""Garbage is collected at any line of any thread, and a user's `__del__` may close a socket."""

from __future__ import annotations

import gc
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import tcpsock
from tcpsock.testing import serve

ROOT = Path(__file__).parents[2]
WAIT = 20.0


class Client:
    """As drivers write it: it closes its socket when it goes."""

    def __init__(self, sock: tcpsock.Socket) -> None:
        self.sock = sock
        self.me = self  # so that only the collector finds it

    def __del__(self) -> None:
        self.sock.close()


def in_a_thread(run: Any) -> None:
    """So that a deadlock is a failure and no hang."""
    errors: list[BaseException] = []

    def guarded() -> None:
        try:
            run()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=guarded, daemon=True)
    thread.start()
    thread.join(WAIT)
    assert not thread.is_alive(), "it waits for itself"
    assert not errors, errors


@pytest.mark.filterwarnings("ignore:unclosed tcpsock")  # their order is nobody's
@pytest.mark.parametrize("which", ["state", "tls", "half-close of another"])
def test_T8_a_finalizer_that_closes_may_interrupt_whoever_holds_a_lock(which: str) -> None:
    def echo(sock: socket.socket) -> None:
        while received := sock.recv(100):
            sock.sendall(received)

    with serve(echo, tls=True) as server:
        sock = tcpsock.connect(
            server.address, secure_transport="on", tls=tcpsock.TlsOptions(ca_data=server.ca_data)
        )
        sock.opened.result(WAIT)
        connection = sock._connection
        lock: Any = {
            "state": connection.state.lock,
            "tls": connection.state.wire._tls_lock,  # type: ignore[union-attr]
            "half-close of another": sys.modules["tcpsock._wire.close_notify"]._swap_lock,
        }[which]
        closed = sock.closed
        client = Client(sock)

        def interrupted() -> None:
            nonlocal client, sock
            with lock:
                del client, sock
                gc.collect()

        in_a_thread(interrupted)
        assert closed.result(WAIT) is None


def test_T8_hammer_finalizers_that_close_come_at_any_allocation() -> None:
    """With a collection at nearly each allocation, in whatever thread and section that is."""
    script = """
import faulthandler, gc, socket, sys, threading
faulthandler.dump_traceback_later(45, exit=True)
sys.path.insert(0, sys.argv[1])
import tcpsock

class Client:
    def __init__(self, sock):
        self.sock, self.me = sock, self
    def __del__(self):
        self.sock.close()

sys.setswitchinterval(1e-5)
gc.set_threshold(1)
closed = []
for round in range(60):
    ours, theirs = socket.socketpair()
    sock = tcpsock.adopt(ours, close_timeout=0.5)
    closed.append(sock.closed)
    reader = sock.readable.get_reader()
    feeder = threading.Thread(target=lambda: [theirs.sendall(b"x" * 100) for _ in range(50)])
    feeder.start()
    client = Client(sock)
    reader.read()
    del client, sock, reader
    feeder.join()
    theirs.close()
gc.collect()
for future in closed:
    future.exception(20)
print("all closed")
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(ROOT)], capture_output=True, text=True, timeout=55
    )
    assert done.stdout == "all closed\n", done.stderr
