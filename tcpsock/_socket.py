"""connect(), adopt() and the Socket that they return: what users see of a connection."""

from __future__ import annotations

import concurrent.futures
import socket
import ssl
import sys
from collections.abc import Sequence
from types import EllipsisType, TracebackType
from typing import TYPE_CHECKING, NoReturn

from ._connection import handover
from ._connection.life import Connection
from ._connection.opening import (
    Adopted,
    Dialling,
    Opener,
    TlsStart,
    Upgrading,
    Vetting,
    set_options,
)
from ._connection.state import Ending, Outbound, Phase
from ._dialing import address as addresses
from ._errors import (
    SocketForked,
    SocketUpgraded,
    StartTlsError,
    TlsError,
    fresh,
    number_in_words,
)
from ._hints import missing_attribute
from ._info import SocketInfo, SocketStats
from ._options import (
    SocketOptionFields,
    SocketOptions,
    TlsOptionFields,
    TlsOptions,
    Unpack,
    call_timeout,
    socket_options,
    tls_options,
)
from ._policy.counting import Place
from ._streams import Anchor, ReadableStream, Reader, WritableStream, Writer
from ._wire.contexts import checked_at_call, client_context
from .policy import combine

if TYPE_CHECKING:
    from ._policy.rules import Rules

__all__ = ["Socket", "adopt", "connect"]


def connect(
    address: object,
    options: SocketOptions | None = None,
    /,
    **option_overrides: Unpack[SocketOptionFields],
) -> Socket:
    """Connect to a TCP server. Returns at once; the work goes on behind `Socket.opened` (rule O1).

    Args:
        address: "host:port", "[v6]:port", "tcp://host:port", a SocketAddress, a (host, port) tuple,
            or a mapping with `hostname` and `port`.
        options: see SocketOptions.
        option_overrides: single fields of SocketOptions.

    Raises:
        InvalidAddress, TypeError, ValueError: a mistake in the arguments; an unreadable file is its
            OSError. Trouble of the network never raises here: it goes to `opened`, `closed`, and
            whatever is reading or writing.
        PolicyViolation: `max_open_sockets` of the policy is reached. Its other refusals don't raise
            here, either.
    """
    if isinstance(options, int) and isinstance(address, str):  # as in telnetlib
        together = f"{addresses.masked(address)}:{number_in_words(options)}"
        raise TypeError(f'the port is a part of the address: connect("{together}")')
    hostname, port = addresses.parse(address)
    chosen = socket_options(options, option_overrides)
    tls = _tls_start(chosen, hostname)
    at_once = tls if chosen.secure_transport == "on" else None
    where = addresses.host_port(hostname, port)
    rules = combine([chosen.policy])
    with _take_place(rules, where) as place:
        opener = Dialling(hostname, port, chosen, at_once, _vetting(rules, hostname, port))
        return Socket(opener, where, hostname, chosen, place)


def adopt(
    sock: socket.socket,
    options: SocketOptions | None = None,
    /,
    *,
    hostname: str | None = None,
    **option_overrides: Unpack[SocketOptionFields],
) -> Socket:
    """Take over a connected stream socket, with TLS and StartTLS as in connect().

    Args:
        sock: from a proxy library, a socketpair(), a Unix socket, an inherited descriptor; it is
            detached, and the descriptor is the returned Socket's.
        options: see SocketOptions; those for dialling have no effect. A policy judges nothing
            here, but counts.
        hostname: the name that TLS sends and verifies, unless `TlsOptions.server_hostname` is
            given; `SocketInfo.hostname`.
        option_overrides: single fields of SocketOptions.

    Raises:
        ValueError: the socket is not a connected stream, or TLS has no name to verify.
        TypeError: it is an `ssl.SSLSocket`, or no socket.
        PolicyViolation: `max_open_sockets` of the policy is reached; the socket stays yours.
    """
    if isinstance(sock, ssl.SSLSocket):
        raise TypeError("sock is an ssl.SSLSocket; adopt the plain one with secure_transport='on'")
    if not isinstance(sock, socket.socket):
        raise TypeError(f"sock must be a socket.socket, not {type(sock).__name__}")
    if hostname is not None:
        addresses.check_host(hostname)
    chosen = socket_options(options, option_overrides)
    tls = _tls_start(chosen, hostname or "")
    if chosen.secure_transport == "on" and tls is not None:
        _check_server_name(tls)
    if sock.type != socket.SOCK_STREAM:
        raise ValueError("sock must be a stream socket")
    try:
        peer = sock.getpeername()
    except OSError as error:
        raise ValueError(f"sock is not connected: {error}") from error
    if isinstance(peer, tuple) and len(peer) >= 2:
        where = addresses.host_port(hostname or peer[0], peer[1])
    else:
        where = hostname or "adopted socket"
    with _take_place(combine([chosen.policy]), where) as place:
        own = socket.socket(sock.family, sock.type, sock.proto, fileno=sock.detach())
        own.setblocking(False)
        if own.family in (socket.AF_INET, socket.AF_INET6):
            set_options(own, chosen)
        at_once = tls if chosen.secure_transport == "on" else None
        opener = Adopted(own, hostname or "", where, chosen, at_once)
        return Socket(opener, where, hostname or "", chosen, place)


class Socket:
    """A TCP connection, plain or TLS: made by connect(), adopt() and start_tls().

    As a context manager it closes the socket at the end of the block and waits until it is closed,
    `close_timeout` at most; leaving the block never raises what `closed` failed with (rule E5).

    Attributes:
        readable: what the peer sends.
        writable: what is sent to the peer.
        opened: resolves to a SocketInfo when the connection, and TLS, is established.
        closed: resolves when both directions have ended; fails with what broke the connection.
    """

    readable: ReadableStream
    writable: WritableStream
    opened: concurrent.futures.Future[SocketInfo]
    closed: concurrent.futures.Future[None]

    def __init__(
        self, opener: Opener, address: str, hostname: str, options: SocketOptions, place: Place
    ) -> None:
        connection = Connection(
            opener,
            address,
            half_open=options.allow_half_open,
            close_timeout=options.close_timeout,
            mark=options.high_water_mark,
        )
        anchor = Anchor(connection)
        self._connection = connection
        self._address, self._hostname, self._options = address, hostname, options
        self._transport = options.secure_transport
        self._place = place
        self.readable = ReadableStream(connection, anchor, options.timeout)
        self.writable = WritableStream(connection, anchor, options.timeout)
        self.opened = connection.state.opened
        self.closed = connection.state.closed
        if not isinstance(opener, Upgrading):  # those run in the old socket's thread
            place.follow(self.opened, self.closed)
            connection.start()

    if not TYPE_CHECKING:  # checkers would accept every name

        def __getattr__(self, name):
            raise missing_attribute(self, name)

    @property
    def secure_transport(self) -> str:
        """How it is protected: "off", "on" (after start_tls() too) or "starttls"."""
        return self._transport

    @property
    def upgraded(self) -> bool:
        """Whether start_tls() was called: the socket that it returned has taken over."""
        return self._connection.successor is not None

    @property
    def stats(self) -> SocketStats:
        """Counters, as they are just now; legal in every state, and never waits."""
        return self._connection.stats()

    @property
    def tls_session(self) -> ssl.SSLSession | None:
        """The session, for TlsOptions(session=...); None until the server gave a ticket (O7)."""
        return self._connection.tls_session()

    def streams(self) -> tuple[Reader, Writer]:
        """A reader and a writer: (readable.get_reader(), writable.get_writer())."""
        return self.readable.get_reader(), self.writable.get_writer()

    def close(self) -> concurrent.futures.Future[None]:
        """Close gracefully; returns `closed` at once, and never raises (rule E4).

        A write in progress is finished, then FIN goes out (over TLS close_notify first), and what
        the peer still sends is thrown away until its own end, all within `close_timeout`; then the
        connection is reset. Reads and writes raise SocketClosed.
        """
        self._connection.close()
        return self.closed

    def abort(self, reason: object = None) -> None:
        """End the connection at once, with a TCP reset; `closed` fails with SocketAborted.

        Args:
            reason: kept as the error's `reason`.

        After close() it only ends the wait, and `closed` resolves (rule W5).
        """
        self._connection.abort(reason)

    def start_tls(
        self, options: TlsOptions | None = None, /, **overrides: Unpack[TlsOptionFields]
    ) -> Socket:
        """Upgrade to TLS. Returns the new socket at once; this one is done (rules S1 to S6).

        Args:
            options: replaces the TlsOptions given to connect().
            overrides: single fields of them.

        Raises:
            StartTlsError: TLS is on already, or `secure_transport` was not "starttls".
            SocketUpgraded: called before. SocketClosed: closed, or closed by the peer.
            StreamBusy: a read or write is in progress in another thread; nothing has changed.
            PlaintextInjected: plaintext was read ahead, which may be an attack; the connection is
                reset. Found later, it comes through the new socket's `opened`.
        """
        chosen = tls_options(self._options.tls, options, overrides)
        with self._connection.state.lock:
            self._check_upgradable()
        tls = TlsStart(chosen, self._hostname, _context_at_call(chosen))
        _check_server_name(tls)
        upgraded = Socket(
            Upgrading(self._address, self._options, tls),
            self._address,
            self._hostname,
            self._options,
            self._place,
        )
        upgraded._transport = "on"

        def check() -> None:
            self._check_upgradable()
            # From now on the new socket has the place, unless something is in the way.
            self._place.follow(upgraded.opened, upgraded.closed)

        try:
            handover.upgrade(self._connection, upgraded._connection, check)
        except BaseException:
            if self._connection.successor is not upgraded._connection:
                if self._place.follows(upgraded.closed):
                    self._place.follow(self.opened, self.closed)
                upgraded._connection.discard()
            raise
        return upgraded

    def _check_upgradable(self) -> None:
        """The order of S1. Requires the connection's lock."""
        state = self._connection.state
        if isinstance(state.refusal, SocketForked):
            raise fresh(state.refusal) from state.refusal
        if self._transport == "on":
            raise StartTlsError(
                f"{self._address}: this socket is TLS already (tls)",
                address=self._address,
                code="starttls-already-tls",
            )
        if isinstance(state.refusal, SocketUpgraded):
            raise fresh(state.refusal) from state.refusal
        handover.check_usable(self._connection, "tls")
        if self._transport != "starttls":
            raise StartTlsError(
                f"{self._address}: start_tls() needs a socket that was opened with"
                ' secure_transport="starttls" (tls)',
                address=self._address,
                code="starttls-not-enabled",
            )
        handover.check_idle(self._connection, "tls", "start_tls()")

    def detach(self, *, timeout: float | EllipsisType | None = ...) -> socket.socket:
        """Hand out the real socket, blocking, for a driver to use; this Socket is then done.

        Waits for `opened`, and until the background thread has let go of it. Nothing is lost: with
        bytes read ahead it is StreamBusy, and nothing has changed. A TLS socket comes out as an
        `ssl.SSLSocket` whose `suppress_ragged_eofs` is the option `allow_truncation`.

        Args:
            timeout: seconds to wait at most; left out, the socket's `timeout`.

        Raises:
            SocketForked, SocketUpgraded, SocketClosed, or what the connection failed with.
            StreamBusy: a read or write is in progress, or bytes were read ahead.
            ReadTimeout: the time is over; nothing has changed.
        """
        sock = handover.detach(self._connection, call_timeout(timeout, self._options.timeout))
        self._place.give_back()  # `closed` resolves in the thread, a moment later
        return sock

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a Socket cannot be copied or pickled: it is this process's; connect() in the other one"
        )

    def __enter__(self) -> Socket:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        connection = self._connection
        while connection.successor is not None:  # the block's socket may have been upgraded in it
            connection = connection.successor
        connection.close()
        if not sys.is_finalizing():  # then no thread is left that could close it
            connection.state.closed.exception()

    def __repr__(self) -> str:
        return f"<Socket {self._address} {self._describe()}>"

    def _describe(self) -> str:
        """The state in a few words, from what can be had without a lock."""
        connection = self._connection
        state, info = connection.state, connection.state.info
        if connection.successor is not None:
            return "upgraded"
        if isinstance(state.refusal, SocketForked):
            return "of the parent process"
        if state.failure is not None:
            return f"failed: {type(state.failure).__name__}"
        if state.phase is Phase.OPENING and state.ending is Ending.NONE:
            return "connecting"
        if state.phase is Phase.ENDED:
            return "detached" if state.ending is Ending.DETACHED else "closed"
        if state.ending is not Ending.NONE:
            return "closing"
        half = connection.sending.outbound is not Outbound.OPEN or connection.peer_has_ended
        words = ["half-closed" if half else "open"]
        if info is not None:
            words += [info.tls_version] if info.tls_version else []
            words += [f"{info.local_address}->{info.remote_address}"]
        return " ".join(words)


def _take_place(rules: Sequence[Rules], where: str) -> Place:
    """Count the connection, where a policy limits how many there may be (rule P3)."""
    if not rules:
        return Place(())
    from ._policy import vetting  # late: what judges is imported with the first policy (rule K2)

    return vetting.take_place(rules, where)


def _vetting(rules: Sequence[Rules], hostname: str, port: int) -> Vetting | None:
    """Who judges what is dialled; None without a policy."""
    if not rules:
        return None
    from ._policy import vetting

    return vetting.Vetting(rules, hostname, port)


def _tls_start(options: SocketOptions, hostname: str) -> TlsStart | None:
    """What TLS will need, checked now as far as it is the caller's (rule A4)."""
    if options.secure_transport == "off":
        return None
    tls = options.tls or TlsOptions()
    return TlsStart(tls, hostname, _context_at_call(tls))


def _context_at_call(tls: TlsOptions) -> ssl.SSLContext | None:
    """The context, where that tells whether the caller's files are any good (rule A4).

    Trouble with the environment's is no mistake in an argument: the connection's thread meets it
    again, and `opened` fails with it.
    """
    try:
        return client_context(tls) if checked_at_call(tls) else None
    except TlsError:
        return None


def _check_server_name(tls: TlsStart) -> None:
    if not (tls.options.server_hostname or tls.hostname):
        raise ValueError(
            "TLS needs a name to verify: adopt(sock, hostname=...) or"
            " TlsOptions(server_hostname=...)"
        )
