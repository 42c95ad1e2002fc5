"""Programs that checks.py runs: `python programs.py NAME`; and a WSGI application for gunicorn."""

from __future__ import annotations

import faulthandler
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterable
from typing import Any

PATIENCE = 60.0  # seconds after which a program is taken for hung


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Ask the backend, and give its answer out as it comes."""
    import tcpsock

    sock = tcpsock.connect(os.environ["BACKEND"], timeout=PATIENCE)
    with sock.writable.get_writer() as writer:
        writer.write(environ["PATH_INFO"].encode())
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    return sock.readable


def echo(sock: socket.socket) -> None:
    while received := sock.recv(65536):
        sock.sendall(received)


def imported_first() -> None:
    """tcpsock, and all that it imports, before gevent patches; nothing was used yet."""
    import tcpsock

    patch()
    from tcpsock.testing import serve

    done = []
    for secure in ("off", "on"):
        with serve(echo, tls=secure == "on") as server:
            tls = tcpsock.TlsOptions(ca_data=server.ca_data) if secure == "on" else None
            with tcpsock.connect(server.address, secure_transport=secure, tls=tls) as sock:
                reader, writer = sock.streams()
                writer.write(b"hello")
                assert reader.read_exactly(5) == b"hello"
        done.append(secure)
    print(*done)


def fork() -> None:
    """A child of a process that has a connection, and in it new ones on the same descriptors."""
    patch()
    import gevent

    import tcpsock
    from tcpsock.testing import serve

    with serve(echo) as server:
        sock = tcpsock.connect(server.address)
        sock.opened.result()
        reader = sock.readable.get_reader()
        gevent.sleep(0.05)  # its greenlet waits for bytes now
        child = os.fork()
        if child == 0:
            said = ["child:"]
            gevent.sleep(0.01)  # gevent closes descriptors one turn of its loop later
            for _ in range(3):
                pairs = [socket.socketpair() for _ in range(5)]
                for one, other in [*pairs, *(reversed(pair) for pair in pairs)]:
                    receiving = gevent.spawn(one.recv, 1)
                    gevent.sleep(0.001)
                    other.send(b"xx")  # one byte stays, so the number stays readable
                    receiving.get()
            try:
                reader.read()
            except tcpsock.SocketForked:
                said.append("SocketForked,")
            anew = tcpsock.connect(server.address)
            anew_reader, anew_writer = anew.streams()
            anew_writer.write(b"hello anew")
            said.append(anew_reader.read_exactly(10).decode())
            anew.close().result()
            print(*said, flush=True)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        writer = sock.writable.get_writer()
        writer.write(b"hello")
        print("parent:", reader.read_exactly(5).decode())
        sock.close().result()


def ctrl_c() -> None:
    """Ctrl-C in the middle of a read, which then goes on as if nothing had been."""
    patch()
    import gevent

    import tcpsock
    from tcpsock.testing import serve

    with serve(echo) as server, tcpsock.connect(server.address) as sock:
        reader, writer = sock.streams()
        writer.write(b"hel")
        gevent.spawn_later(0.2, os.kill, os.getpid(), signal.SIGINT)
        try:
            reader.read_exactly(5)
        except KeyboardInterrupt:
            print("interrupted")
        writer.write(b"lo")
        print(reader.read_exactly(5).decode())


def patch() -> None:
    from gevent import monkey

    monkey.patch_all()


if __name__ == "__main__":
    faulthandler.dump_traceback_later(PATIENCE, exit=True)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
    {"imported-first": imported_first, "fork": fork, "ctrl-c": ctrl_c}[sys.argv[1]]()
    faulthandler.cancel_dump_traceback_later()
