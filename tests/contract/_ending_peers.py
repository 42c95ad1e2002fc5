"""Peers at other addresses, names that resolve to them, and the ways in which peers fail.

What the tests of opening, ending and StartTLS share. The Peer itself is that of `peers`: the test
accepts, shakes hands, talks and hangs up step by step, so nothing depends on time.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import gc
import random
import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pytest
from peers import WAIT, Peer

import tcpsock
from tcpsock import testing

BULK = 16 << 20  # bytes: more than both kernels take of a connection that nobody reads


# TLS


@functools.cache
def another_authority() -> testing.Authority:
    """An authority that nobody trusts by itself."""
    return testing.Authority()


def ca_data() -> str:
    """The root that the servers' certificates come from."""
    return testing.authority().ca_data


@functools.cache
def tls_server(version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    """A server whose certificate is good for localhost, 127.0.0.1 and ::1."""
    if version is None:
        return testing.server_context()
    return testing.server_context(minimum=version, maximum=version)


def tls_server_for(*names: str) -> ssl.SSLContext:
    """A server whose certificate is good for these names alone."""
    return testing.server_context(testing.authority().issue(*names))


def note_server_names(context: ssl.SSLContext) -> list[str | None]:
    """The list in which the SNI of each ClientHello to this server will be found."""
    names: list[str | None] = []
    context.sni_callback = lambda _sock, name, _context: names.append(name)  # type: ignore[assignment,misc]
    return names


def trusting(**fields: Any) -> tcpsock.TlsOptions:
    """TlsOptions that trust the servers' authority."""
    return tcpsock.TlsOptions(ca_data=ca_data(), **fields)


# Peers


class Listener:
    """A listening loopback socket of either family. What it accepted is closed with it."""

    def __init__(
        self, host: str = "127.0.0.1", *, context: ssl.SSLContext | None = None, backlog: int = 64
    ) -> None:
        """context: accept() shakes hands with it."""
        self.context = context
        self.sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        self.sock.bind((host, 0))
        self.sock.listen(backlog)
        self.sock.settimeout(WAIT)
        self.host, self.port = host, self.sock.getsockname()[1]
        self.address = f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"
        self._accepted: list[Peer] = []

    def accept(self) -> Peer:
        """The next connection."""
        peer = Peer(self.sock.accept()[0])
        self._accepted.append(peer)
        if self.context is not None:
            peer.start_tls(self.context)
        return peer

    def close(self) -> None:
        """Stop listening, and close every connection as it is."""
        self.sock.close()
        for peer in self._accepted:
            peer.close()

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class BlackHole(Listener):
    """An address that doesn't answer: its listener's queue is full, so SYNs are dropped."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        super().__init__(host, backlog=0)
        self._filler = socket.socket(self.sock.family)
        self._filler.connect((self.host, self.port))

    def open_up(self) -> None:
        """Make room: the next SYN, which is sent again after a second, gets through."""
        self.accept()

    def close(self) -> None:
        super().close()
        self._filler.close()


def free_port(host: str = "127.0.0.1") -> int:
    """A port on which nobody listens.

    Below those that the kernel gives out by itself: a connection to one of these may, by chance,
    come from the same port, and then it meets itself.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    while True:
        with socket.socket(family) as sock, contextlib.suppress(OSError):
            sock.bind((host, random.randrange(10_000, 30_000)))
            return int(sock.getsockname()[1])


def sees_reset(peer: Peer) -> bool:
    """Whether this peer's kernel gets a reset; False once both sides have ended with a FIN."""
    poller = select.poll()
    poller.register(peer.sock.fileno(), 0)
    return any(events & select.POLLERR for _, events in poller.poll(WAIT * 1000))


class Names:
    """Stands in for DNS: `socket.getaddrinfo` answers what the test put in.

    names["db.example"] = [("::1", 5432), ("127.0.0.1", 5432)], or an exception to be raised.
    """

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._answers: dict[str, list[tuple[str, int]] | BaseException] = {}
        self._hanging: dict[str, threading.Event] = {}
        self._patch = pytest.MonkeyPatch()

    def __setitem__(self, name: str, answer: list[tuple[str, int]] | BaseException) -> None:
        self._answers[name] = answer

    def hang(self, name: str) -> threading.Event:
        """Answer this name only once the event is set."""
        return self._hanging.setdefault(name, threading.Event())

    def __enter__(self) -> Names:
        self._patch.setattr(socket, "getaddrinfo", self._getaddrinfo)
        return self

    def __exit__(self, *exc: object) -> None:
        self._patch.undo()
        for event in self._hanging.values():
            event.set()

    def _getaddrinfo(
        self, host: Any, port: Any, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
    ) -> list[Any]:
        name = host.decode("ascii") if isinstance(host, bytes) else host
        self.asked.append(name)
        if name in self._hanging:
            self._hanging[name].wait(6 * WAIT)
        answer = self._answers.get(name)
        if isinstance(answer, BaseException):
            raise answer
        if answer is None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        found: list[Any] = []
        for ip, its_port in answer:
            kind = socket.AF_INET6 if ":" in ip else socket.AF_INET
            sockaddr: Any = (ip, its_port, 0, 0) if ":" in ip else (ip, its_port)
            if family in (0, kind):
                found.append((kind, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", sockaddr))
        return found


# Our end


@contextlib.contextmanager
def connected(
    secure: str = "off",
    *,
    context: ssl.SSLContext | None = None,
    **options: Any,
) -> Iterator[tuple[tcpsock.Socket, Peer]]:
    """An open socket and its peer; with `secure` "starttls" both are still in clear.

    The socket is aborted at the end, unless the test ended it.
    """
    if secure == "on":
        context = context or tls_server()
    if secure != "off":
        options.setdefault("tls", trusting())
    with Listener(context=context) as listener:
        sock = tcpsock.connect(listener.address, secure_transport=secure, **options)  # type: ignore[misc]
        try:
            peer = listener.accept()
            sock.opened.result(WAIT)
            yield sock, peer
        finally:
            sock.abort()
            failure(sock.closed)


def failure(future: concurrent.futures.Future[Any]) -> BaseException | None:
    """What the future failed with, None if it resolved; waits for it to settle."""
    return future.exception(WAIT)


Raised = TypeVar("Raised", bound=BaseException)


def raised(kind: type[Raised], call: Callable[..., object], *args: Any, **options: Any) -> Raised:
    """The error of exactly this class that the call raises."""
    with pytest.raises(kind) as caught:
        call(*args, **options)
    assert type(caught.value) is kind, repr(caught.value)
    return caught.value


def living(kind: type) -> int:
    """How many objects of this class the interpreter still has."""
    gc.collect()
    return sum(type(thing) is kind for thing in gc.get_objects())
