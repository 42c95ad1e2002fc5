"""Every way in which a connection comes to its end, each as a function that makes one of them.

It takes the places to go to and a number, whose parity decides between plain and TLS where both can
end that way. It checks that the end is told as it should be, and keeps nothing.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

from measuring import PATIENCE
from server import HOST, Server

import tcpsock
from tcpsock import TlsOptions

__all__ = ["ENDINGS", "Places", "places"]

_BULK = bytes(4 << 20)  # more than the kernel takes for a peer that doesn't read
_MOMENT = 0.01  # seconds that a time limit lasts which is there to be over


class Places:
    """Where to connect to.

    Attributes:
        refusing: an address where nobody listens.
        black_hole: one that never answers.
        trusted: TlsOptions that trust the server.
    """

    def __init__(self, server: Server, refusing: str, black_hole: str) -> None:
        self._server = server
        self.refusing, self.black_hole = refusing, black_hole
        self.trusted = TlsOptions(ca_data=server.ca_data)

    def connect(self, service: str, n: int = 0, **options: Any) -> tcpsock.Socket:
        """A socket to a service: over TLS if n is odd."""
        if n % 2:
            options = {"secure_transport": "on", "tls": self.trusted, **options}
        address = self._server.address(service, tls=bool(n % 2))
        return tcpsock.connect(address, connect_timeout=PATIENCE, timeout=PATIENCE, **options)

    def tls_to_plain(self, service: str, **options: Any) -> tcpsock.Socket:
        """A socket that tries TLS with a service that speaks none."""
        return tcpsock.connect(
            self._server.address(service), secure_transport="on", tls=self.trusted, **options
        )

    def starttls(self, service: str) -> tcpsock.Socket:
        """A socket to a TLS service that has said nothing yet."""
        return tcpsock.connect(
            self._server.address(service, tls=True),
            secure_transport="starttls",
            tls=self.trusted,
            connect_timeout=PATIENCE,
        )

    def distrusting(self, service: str) -> tcpsock.Socket:
        """A socket to a TLS service whose root it doesn't know."""
        return tcpsock.connect(
            self._server.address(service, tls=True),
            secure_transport="on",
            connect_timeout=PATIENCE,
        )


_LATE, _UNKNOWN = "late.example", "unknown.example"


def _look_up(host: object, *_: object, **__: object) -> list[Any]:
    """In place of `socket.getaddrinfo`: one name is answered too late, the other never."""
    if host == _LATE:
        time.sleep(2 * _MOMENT)
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (HOST, 1))]
    raise socket.gaierror(socket.EAI_NONAME, f"no address for {host}")


@contextlib.contextmanager
def places(server: Server) -> Iterator[Places]:
    """The server's services, two addresses that are none, and two names."""
    socket.getaddrinfo = _look_up
    with socket.socket() as refusing, socket.socket() as full, socket.socket() as filler:
        refusing.bind((HOST, 0))
        full.bind((HOST, 0))
        full.listen(0)
        filler.connect(full.getsockname())
        yield Places(
            server,
            f"{HOST}:{refusing.getsockname()[1]}",
            f"{HOST}:{full.getsockname()[1]}",
        )


def _fails(future: concurrent.futures.Future[Any], kind: type[BaseException]) -> None:
    error = future.exception(PATIENCE)
    assert type(error) is kind, repr(error)


def _raises(kind: type[BaseException], call: Callable[..., object], *args: Any, **kw: Any) -> None:
    try:
        call(*args, **kw)
    except kind as error:
        assert type(error) is kind, repr(error)
    else:
        raise AssertionError(f"{call!r} did not raise {kind.__name__}")


def closed_by_us(places: Places, n: int) -> None:
    """close(), to a peer that then ends too."""
    sock = places.connect("echo", n)
    sock.opened.result(PATIENCE)
    sock.close().result(PATIENCE)


def ended_by_the_peer(places: Places, n: int) -> None:
    """The peer ends, and closed resolves by itself (E1)."""
    reader, writer = (sock := places.connect("answer", n)).streams()
    writer.write(b"?")
    assert reader.read_all() == b"!"
    sock.closed.result(PATIENCE)


def reset_by_the_peer(places: Places, n: int) -> None:
    """ConnectionLost."""
    reader, writer = (sock := places.connect("reset", n)).streams()
    writer.write(b"?")
    _raises(tcpsock.ConnectionLost, reader.read)
    _fails(sock.closed, tcpsock.ConnectionLost)


def aborted(places: Places, n: int) -> None:
    """abort(), with a reason that is an object of its own."""
    sock = places.connect("echo", n)
    sock.opened.result(PATIENCE)
    sock.abort(RuntimeError("enough"))
    _fails(sock.closed, tcpsock.SocketAborted)


def truncated(places: Places, n: int) -> None:
    """FIN without close_notify."""
    reader, writer = (sock := places.connect("truncate", 1)).streams()
    writer.write(b"?")
    _raises(tcpsock.TlsTruncated, reader.read)
    _fails(sock.closed, tcpsock.TlsTruncated)


def unresolved(places: Places, n: int) -> None:
    """By turns a name that has no address, and an answer after the deadline."""
    if n % 2:
        sock, kind = tcpsock.connect((_LATE, 1), connect_timeout=_MOMENT), tcpsock.ConnectTimeout
    else:
        sock, kind = tcpsock.connect((_UNKNOWN, 1)), tcpsock.ResolveError
    _fails(sock.opened, kind)
    _fails(sock.closed, kind)


def refused(places: Places, n: int) -> None:
    """Nobody listens."""
    sock = tcpsock.connect(places.refusing)
    _fails(sock.opened, tcpsock.ConnectError)
    _fails(sock.closed, tcpsock.ConnectError)


def handshake_failed(places: Places, n: int) -> None:
    """By turns a root that is not known, and a peer that doesn't speak TLS."""
    sock = places.distrusting("echo") if n % 2 else places.tls_to_plain("garbage")
    kind = tcpsock.TlsVerificationError if n % 2 else tcpsock.TlsError
    _fails(sock.opened, kind)
    _fails(sock.closed, kind)


def connect_timed_out(places: Places, n: int) -> None:
    """By turns in the TLS handshake and in TCP's."""
    if n % 2:
        sock = places.tls_to_plain("take", connect_timeout=_MOMENT)
    else:
        sock = tcpsock.connect(places.black_hole, connect_timeout=_MOMENT)
    _fails(sock.opened, tcpsock.ConnectTimeout)
    _fails(sock.closed, tcpsock.ConnectTimeout)


def upgraded(places: Places, n: int) -> None:
    """start_tls(), and close() of what it gave."""
    plain = places.starttls("echo")
    secure = plain.start_tls()
    plain.closed.result(PATIENCE)
    secure.opened.result(PATIENCE)
    secure.close().result(PATIENCE)


def detached(places: Places, n: int) -> None:
    """The bare socket is the caller's; this one is done."""
    sock = places.connect("echo", n)
    sock.opened.result(PATIENCE)
    with sock.detach() as bare:
        sock.closed.result(PATIENCE)
        bare.sendall(b"still there?")
        assert bare.recv(1) == b"s"


def dropped(places: Places, n: int) -> None:
    """Nobody refers to it any more."""
    closed = _drop(places, n)
    closed.result(PATIENCE)


def _drop(places: Places, n: int) -> concurrent.futures.Future[None]:
    """A socket that was used, and is gone when this returns."""
    sock = places.connect("echo", n)
    reader, writer = sock.streams()
    writer.write(b"x")
    assert reader.read() == b"x"
    return sock.closed


def write_timed_out(places: Places, n: int) -> None:
    """The peer doesn't read."""
    sock = places.connect("hold", n)
    writer = sock.writable.get_writer()
    sock.opened.result(PATIENCE)
    _raises(tcpsock.WriteTimeout, writer.write, _BULK, timeout=_MOMENT)
    _fails(sock.closed, tcpsock.WriteTimeout)


def cancelled_and_closed(places: Places, n: int) -> None:
    """cancel() with bytes on their way here, then close()."""
    reader, writer = (sock := places.connect("echo", n)).streams()
    writer.write(_BULK[:100_000])
    reader.cancel()
    assert reader.read() == b""
    sock.close().result(PATIENCE)


ENDINGS: tuple[Callable[[Places, int], None], ...] = (
    closed_by_us,
    ended_by_the_peer,
    reset_by_the_peer,
    aborted,
    truncated,
    unresolved,
    refused,
    handshake_failed,
    connect_timed_out,
    upgraded,
    detached,
    dropped,
    write_timed_out,
    cancelled_and_closed,
)
