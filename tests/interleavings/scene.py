"""One connection with a call that blocks on it, and the peer at its other end.

A run goes like this: a Scene is set, its call begins, an event happens to the connection, the peer
does what the call waits for if it still does, and `finish()` looks at what came of it all.
`test_all_pairs.py` tells which thread is stopped where meanwhile.
"""

from __future__ import annotations

import contextlib
import re
import select
import socket
import ssl
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, NamedTuple

import pytest
from peers import HOST, WAIT, Call, Listener, Peer, ca_data, only
from schedule import Schedule

import tcpsock
from tcpsock import testing
from tcpsock._connection.life import Connection
from tcpsock._connection.state import Owner, Phase

__all__ = ["VERSIONS", "Blocked", "Outcome", "Scene", "Servers"]

VERSIONS = {
    "tls12": ssl.TLSVersion.TLSv1_2,
    "tls13": ssl.TLSVersion.TLSv1_3,
    "starttls": ssl.TLSVersion.TLSv1_3,
}
SMALL = 16_384  # bytes of a kernel's buffer


class Blocked(NamedTuple):
    """A call that blocks."""

    prepare: Callable[[Scene], Callable[[], object]]
    """Makes it ready; what comes out refers to nothing but what the call needs."""
    release: Callable[[Scene], object]
    """The peer does what the call waits for."""
    gives: object = None
    """What it returns if nothing happens to it."""
    ahead: bytes = b""
    """What the peer has sent before."""
    writes: bytes = b""
    """What it writes."""
    peeks: bool = False
    """Whether what it returns stays to be read."""
    opening: bool = False
    """Whether the connection is not open yet."""
    at_once: bool = True
    """Whether an event that ends it does so without the peer's help."""


class Outcome(NamedTuple):
    """What came of a run, in words. Errors go by their classes, in short: "Closed", "Lost"."""

    event: str  # "done", or the error
    call: str  # "whole": as if nothing had happened; "some" of it; "EOF"; or the error
    closed: str  # Socket.closed: "resolves", "pending", or the error
    reader: str  # and so Reader.closed; "-" where there is none
    writer: str  # and Writer.closed
    got: str  # how much the peer got of what was written: "none", "some", "all"; "-" of nothing


class Servers:
    """Who accepts the connections of all runs over one transport."""

    def __init__(self, transport: str) -> None:
        self.transport = transport
        self.small, self.usual = Listener(buffers=SMALL), Listener()
        self.context = only(VERSIONS.get(transport, ssl.TLSVersion.TLSv1_3))

    def close(self) -> None:
        self.small.close()
        self.usual.close()


class Scene:
    """One connection, its peer, and a call that will block.

    Attributes:
        sock, reader, writer: of the connection that the event happens to.
        kept: what else refers to the socket.
        peer: its other end; None while a name is looked up.
        other, other_peer: the connection at the other end of a pipe.
        another: another write than the call's, where there is one.
        upgraded, detached: what start_tls() or detach() gave.
        sent: what the peer has sent, and got: received.
        wrote_before: what another write writes, which began before the call.
        piped: what has come out of a pipe.
        call: the call, to be taken out and called.
        connection: what is behind the socket; no reference in the sense of rule E6.
        thread: the name of the connection's thread.
    """

    def __init__(
        self,
        schedule: Schedule,
        servers: Servers,
        blocked: Blocked,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        self.schedule, self.servers, self.blocked = schedule, servers, blocked
        self.sock: Any = None
        self.reader: Any = None
        self.writer: Any = None
        self.kept: list[object] = []
        self.peer: Any = None
        self.peer_has_ended = self.was_reset = self.given_up = False
        self.other: Any = None
        self.another: Call | None = None
        self.other_peer: Any = None
        self.upgraded: Any = None
        self.detached: Any = None
        self.sent = self.got = self.wrote_before = b""
        self.piped: Callable[[], bytes] = bytes
        self._name_is_known = threading.Event()
        monkeypatch.setattr(socket, "getaddrinfo", self._look_up)
        self._connect()
        self.opened: Future[Any] = self.sock.opened
        self.connection: Connection = self.sock._connection
        self.thread = f"tcpsock {self.connection.state.address}"
        if blocked.ahead:
            self.send(blocked.ahead)
        self.call = [blocked.prepare(self)]
        self._closed = [each and each.closed for each in (self.sock, self.reader, self.writer)]
        self._settled_under_lock = False
        for future in (self.opened, *filter(None, self._closed)):
            future.add_done_callback(self._look_for_the_lock)
        schedule.settle()

    # -- The beginning --------------------------------------------------------------------------

    def _connect(self) -> None:
        transport, opening = self.servers.transport, self.blocked.opening
        options: dict[str, Any] = {
            "secure_transport": "on" if transport in ("tls12", "tls13") else "starttls",
            "tls": tcpsock.TlsOptions(ca_data=ca_data()),
            "close_timeout": None,
            "connect_timeout": None,
        }
        if transport == "plain" and opening:
            self.sock = tcpsock.connect(f"localhost:{self.servers.small.port}", **options)
            return
        self.sock, self.peer = _adopted(self.servers.small, **options)
        if transport == "starttls":
            self.sock = self.sock.start_tls()
        if not opening:
            if transport != "plain":
                self.peer.start_tls(self.servers.context)
            self.sock.opened.result(WAIT)

    def connect_other(self) -> Any:
        """Another connection, for the other end of a pipe."""
        self.other, self.other_peer = _adopted(self.servers.usual, close_timeout=None)
        self.other.opened.result(WAIT)
        return self.other

    def _look_up(self, *_: object, **__: object) -> list[Any]:
        """In the place of getaddrinfo: hangs until the connection is to open."""
        with self.schedule.waiting(lambda: not self._name_is_known.is_set()):
            self._name_is_known.wait(WAIT)
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (HOST, self.servers.small.port))]

    # -- What the peer does ---------------------------------------------------------------------

    def open_up(self) -> None:
        """Let the connection open, if it isn't yet."""
        if self.peer is None:
            self._name_is_known.set()
            _wait_for(self.servers.small.sock)
            self.peer = _accepted(self.servers.small)
        elif not self.opened.done():
            self.peer.start_tls(self.servers.context)

    def send(self, data: bytes) -> None:
        """Send this."""
        self.sent += data
        self.peer.send(data)

    def end(self) -> None:
        """Send FIN, over TLS close_notify first."""
        if not self.peer_has_ended:
            self.peer_has_ended = True
            self.peer.end()

    def reset(self) -> None:
        """Reset the connection."""
        self.peer_has_ended = self.was_reset = True
        testing.reset(self.peer.sock)

    def receive(self, size: int) -> None:
        """Receive until there are so many bytes, or the end."""
        while len(self.got) < size and (chunk := self.peer.read(size - len(self.got))):
            self.got += chunk

    # -- The end --------------------------------------------------------------------------------

    def finish(self, event: Call, call: Call) -> Outcome:
        """Say what came of it, see that nothing else did, and end everything.

        Both calls are over. No byte is lost or doubled, what is open goes on, and at last nothing
        is held.
        """
        if not self.opened.done():
            self.open_up()
            self.schedule.settle()
        said = self._what(event, None, "done"), self._what(call, self.blocked.gives, "whole")
        if self.another is not None and self.schedule.is_over("another write"):
            self.another.error()  # its thread may go on to hold the socket for a moment
            self.schedule.settle()
        states = [_state(future) for future in self._closed]
        if self.upgraded is not None and self.sent:
            failure = self.upgraded.opened.exception(WAIT)  # before ClientHello, or behind it
            assert isinstance(failure, (tcpsock.PlaintextInjected, tcpsock.TlsError))
        elif self.upgraded is not None:
            self.peer.start_tls(self.servers.context)
            reader, writer = self.upgraded.streams()
            self._talk(reader.read, writer.write)
        elif self.detached is not None:
            self.detached.settimeout(WAIT)
            read = self._delivered(call)  # before detach() had its turn
            while len(read) < len(self.sent):
                read += self.detached.recv(len(self.sent) - len(read))
            assert read == self.sent
            self._talk(partial(self.detached.recv, 100), self.detached.sendall)
        elif self.sock is not None:
            self._look_at_the_rest(call, writing=states[-1] in ("pending", "Locked"))
        self._end_everything()
        self._check_that_nothing_is_held()
        return Outcome(*said, *states, self._what_the_peer_got())

    def _what(self, call: Call, expected: object, word: str) -> str:
        """What a call came to, in a word."""
        error = call.error()
        if isinstance(error, tcpsock.IncompleteRead):
            return "EOF"
        if error is not None:
            return _name(error)
        if call.result() == expected:
            return word
        return "EOF" if self.peer_has_ended or self.given_up else "some"

    def _look_at_the_rest(self, call: Call, *, writing: bool) -> None:
        """What was sent and not read, or given up, can be read; then the connection goes on."""
        self.reader = self.writer = None
        self.kept.clear()  # the stream's lock is given back
        try:
            reader = self.sock.readable.get_reader()
        except tcpsock.SocketClosed:
            return
        if self.given_up:
            assert reader.read(timeout=WAIT) == b""
        elif failure := self._failure():
            with pytest.raises(type(failure)):
                reader.read(timeout=WAIT)
        else:
            read = self._delivered(call)
            while len(read) < len(self.sent):
                chunk = reader.read(timeout=WAIT)
                assert chunk, f"EOF after {read!r} of {self.sent!r}"
                read += chunk
            assert read == self.sent
            if self.was_reset:
                with pytest.raises(tcpsock.ConnectionLost):
                    reader.read(timeout=WAIT)
            elif self.peer_has_ended:
                assert reader.read(timeout=WAIT) == reader.read(timeout=WAIT) == b""
            else:
                self.peer.send(b"ping")
                assert reader.read_exactly(4, timeout=WAIT) == b"ping"
        if writing and not self.peer_has_ended:
            self.sock.writable.get_writer().write(b"pong", timeout=WAIT)
            assert self.peer.read_exactly(4) == b"pong"

    def _failure(self) -> BaseException | None:
        """What has ended the connection together with all bytes that had arrived, if anything."""
        never_opened = self.opened.exception()
        ended = self.sock.closed.exception() if self.sock.closed.done() else None
        return never_opened or (ended if isinstance(ended, tcpsock.PlaintextInjected) else None)

    def _talk(self, receive: Callable[[], bytes], send: Callable[[bytes], object]) -> None:
        self.peer.send(b"ping")
        assert receive() == b"ping"
        send(b"pong")
        assert self.peer.read_exactly(4) == b"pong"

    def _delivered(self, call: Call) -> bytes:
        if call.error() is None and self.blocked.peeks:
            return b""
        if call.error() is None and isinstance(call.result(), bytes):
            return bytes(call.result())
        return self.piped() or getattr(call.error(), "partial", b"")

    def _end_everything(self) -> None:
        for each in (self.upgraded or self.sock, self.detached, self.other):
            if each is not None:
                each.close()
        self._name_is_known.set()
        if self.peer is not None and not self.was_reset:
            rest, _ = self.peer.read_to_the_end()
            latest = self.opened if self.upgraded is None else self.upgraded.opened
            if latest.exception(WAIT) is None:  # else it may have been a ClientHello
                self.got += rest
            with contextlib.suppress(OSError):
                self.end()
        for peer in (self.peer, self.other_peer):
            if peer is not None:
                peer.close()
        self.schedule.finish()
        assert all(future is None or future.done() for future in (self.opened, *self._closed))

    def _look_for_the_lock(self, _: object) -> None:
        """Futures settle outside of it (rule O2)."""
        self._settled_under_lock |= self.connection.state.interrupted

    def _check_that_nothing_is_held(self) -> None:
        assert not self._settled_under_lock
        connection: Connection | None = self.connection
        while connection is not None:
            state, receiving, sending = connection.state, connection.receiving, connection.sending
            assert state.lock.acquire(blocking=False)  # by this thread, which never has it
            state.lock.release()
            assert state.phase is Phase.ENDED and state.wire is state.waker is None
            assert state.opened.done() and state.closed.done() and not state.settlements
            assert receiving.owner is Owner.NOBODY and receiving.reading is None
            assert not receiving.wanted
            assert sending.turn is None and not sending.waiting and not sending.blocked
            connection = connection.successor

    def _what_the_peer_got(self) -> str:
        everything = self.wrote_before + self.blocked.writes
        assert everything.startswith(self.got), "the peer got what was not written"
        if not everything:
            return "-"
        if len(self.got) <= (len(self.wrote_before) if self.blocked.writes else 0):
            return "none"
        return "all" if self.got == everything else "some"


def _adopted(listener: Listener, **options: Any) -> tuple[tcpsock.Socket, Peer]:
    ours = socket.socket()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL)
    ours.connect((HOST, listener.port))
    return tcpsock.adopt(ours, hostname=HOST, **options), _accepted(listener)


def _accepted(listener: Listener) -> Peer:
    sock = _PeerSocket(fileno=listener.sock.accept()[0].detach())
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)  # what is sent is there
    return Peer(sock)


class _PeerSocket(socket.socket):
    """A blocking socket whose waits the schedule sees."""

    def recv(self, *args: Any) -> bytes:
        _wait_for(self)
        return super().recv(*args)


def _wait_for(sock: socket.socket) -> None:
    arrived = select.poll()  # the schedule's own
    arrived.register(sock.fileno(), select.POLLIN)
    arrived.poll(int(WAIT * 1000))


def _state(future: Future[Any] | None) -> str:
    """What a future has come to, in a word."""
    if future is None:
        return "-"
    if not future.done():
        return "pending"
    error = future.exception()
    return "resolves" if error is None else _name(error)


def _name(error: BaseException) -> str:
    name = re.sub("^(Socket|Stream|Connection|Plaintext)", "", type(error).__name__)
    return name.removesuffix("Error")
