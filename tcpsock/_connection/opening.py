"""How a connection comes to its wire: by dialling, by adoption, or by StartTLS.

Each way is an object with one method, `open`, which runs in the connection's thread: it waits only
together with the connection's waker, keeps to one deadline over everything, and either returns an
open wire and what is known about it, or leaves nothing open and raises what `opened` fails with.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from .._deadline import Deadline
from .._dialing import race
from .._dialing.address import host_port, sni_name
from .._dialing.resolve import Candidate, Lookup, interleave, literal
from .._errors import (
    ConnectError,
    ConnectTimeout,
    Phase,
    PlaintextInjected,
    ResolveError,
    SocketError,
    TlsError,
    TlsVerificationError,
    bare,
    printable,
)
from .._info import Attempt, SocketInfo, Timings
from .._options import KeepAlive, SocketOptions, TlsOptions
from .._wire.contexts import client_context
from .._wire.descriptors import ours
from .._wire.platform import POLLIN, Waker, poller
from .._wire.tls import TlsWire, is_tls_eof, tls_failure, verified_name
from .._wire.wire import TIMED_OUT, WOKEN, Wire, connection_lost

__all__ = [
    "Adopted",
    "Dialling",
    "Opener",
    "Stopped",
    "Upgrading",
    "Vetting",
    "plaintext_injected",
]

Stopped = race.Stopped


class Opener(Protocol):
    """One way to an open wire."""

    def open(self, waker: Waker, stop: Callable[[], bool]) -> tuple[Wire, SocketInfo]:
        """Open it.

        Args:
            waker: interrupts every wait; it is cleared, and then `stop` is asked.
            stop: whether nobody wants the connection any more.

        Raises:
            Stopped: `stop` said so. Its one argument, if any, is a socket that is connected and now
                the caller's to close, or to reset.
            SocketError: what `opened` fails with.
        """

    def give_up(self) -> None:
        """Close what it holds: open() will not be called."""


class Vetting(Protocol):
    """Where an egress policy has its say (rule P1): before the look-up, and on what it finds.

    The vetted candidates themselves are dialled, so a second look-up cannot change them.
    """

    def vet_name(self, hostname: str, port: int) -> None:
        """Raise PolicyViolation for a name or port that may not even be looked up."""

    def vet_candidates(
        self, candidates: Sequence[Candidate]
    ) -> tuple[Sequence[Candidate], tuple[Attempt, ...]]:
        """Those that may be dialled, and an Attempt for each that may not; raises if none may."""


@dataclass(frozen=True)
class TlsStart:
    """What is needed to start TLS over a connected socket."""

    options: TlsOptions
    hostname: str
    context: ssl.SSLContext | None  # None: made in the connection's thread

    @property
    def server_name(self) -> str:
        """The name that is sent and verified (rule A2)."""
        return sni_name(self.options.server_hostname or self.hostname)


class Dialling:
    """Resolve, vet, dial, for "on" the handshake too, all under one deadline (rule O5)."""

    def __init__(
        self,
        hostname: str,
        port: int,
        options: SocketOptions,
        tls: TlsStart | None,
        vetting: Vetting | None = None,
    ) -> None:
        self._hostname, self._port = hostname, port
        self._address = host_port(hostname, port)
        self._options = options
        self._tls = tls
        self._vetting = vetting
        self._deadline = Deadline(options.connect_timeout)

    def open(self, waker: Waker, stop: Callable[[], bool]) -> tuple[Wire, SocketInfo]:
        if self._vetting is not None:
            self._vetting.vet_name(self._hostname, self._port)
        started = time.monotonic()
        candidates, looked_up = self._resolve(waker, stop)
        resolved = time.monotonic()
        left_out: tuple[Attempt, ...] = ()
        if self._vetting is not None:
            candidates, left_out = self._vetting.vet_candidates(candidates)
        won = self._race(candidates, left_out, waker, stop)
        sock = won.sock
        try:
            info = SocketInfo(
                hostname=self._hostname,
                remote_address=_ip_port(sock.getpeername),
                local_address=_ip_port(sock.getsockname),
                timings=Timings(
                    resolved - started if looked_up else None, time.monotonic() - resolved, None
                ),
                attempts=left_out + won.attempts,
            )
            if self._tls is None:
                return Wire(sock, waker, self._address), info
        except BaseException:
            sock.close()
            raise
        return secure(sock, self._tls, self._address, info, waker, stop, self._deadline)

    def give_up(self) -> None:
        """Nothing is held before open()."""

    def _resolve(self, waker: Waker, stop: Callable[[], bool]) -> tuple[Sequence[Candidate], bool]:
        """Whom to dial, in their order, and whether that took a look-up."""
        looked_up = False
        try:
            candidates: Sequence[Candidate] | None = literal(self._hostname, self._port)
            if candidates is None:
                looked_up = True
                candidates = self._look_up(waker, stop)
        except (SocketError, Stopped):
            raise
        except BaseException as error:  # getaddrinfo may be a user's own, and raise anything
            raise self._unresolved(error) from bare(error)
        if self._options.local_address is not None:
            family = socket.AF_INET6 if ":" in self._options.local_address[0] else socket.AF_INET
            candidates = [each for each in candidates if each.family == family]
            if not candidates:
                raise ConnectError(
                    f"{self._address}: the host has no address of the family of"
                    f" local_address={self._options.local_address[0]!r} (resolve)",
                    phase="resolve",
                    address=self._address,
                )
        return interleave(candidates), looked_up

    def _look_up(self, waker: Waker, stop: Callable[[], bool]) -> Sequence[Candidate]:
        lookup = Lookup(self._hostname, self._port, waker.set)
        try:
            waiting = poller()
            waiting.register(waker.fileno(), POLLIN)
            while not lookup.done:
                if not waiting.poll(self._deadline.poll_ms()) and self._deadline.expired():
                    raise self._timed_out("resolve", ())
                waker.clear()
                if stop():
                    raise Stopped
            found = lookup.result()
            if self._deadline.expired():  # the time went here: there is none to dial in
                raise self._timed_out("resolve", ())
            return found
        finally:
            lookup.abandon()

    def _race(
        self,
        candidates: Sequence[Candidate],
        left_out: tuple[Attempt, ...],
        waker: Waker,
        stop: Callable[[], bool],
    ) -> race.Won:
        try:
            return race.race(
                candidates,
                deadline=self._deadline,
                waker=waker,
                stop=stop,
                prepare=self._prepare,
            )
        except race.TimedOut as late:
            raise self._timed_out("connect", left_out + late.attempts) from None
        except race.AllFailed as failed:
            attempts = left_out + failed.attempts
            errors = [attempt.error for attempt in attempts if attempt.error is not None]
            raise ConnectError(
                f"{self._address}: no connection (connect; {_summary(attempts)})",
                address=self._address,
                attempts=attempts,
                errno=errors[-1].errno,
            ) from errors[-1]

    def _prepare(self, sock: socket.socket) -> None:
        ours.add(sock)
        set_options(sock, self._options)
        if self._options.local_address is not None:
            sock.bind(self._options.local_address)

    def _unresolved(self, error: BaseException) -> ResolveError:
        said = getattr(error, "strerror", None) or str(error) or repr(error)
        return ResolveError(
            f"{self._address}: cannot resolve the name: {printable(said)} (resolve)",
            address=self._address,
            errno=error.errno if isinstance(error, OSError) else None,
        )

    def _timed_out(self, phase: Phase, attempts: tuple[Attempt, ...]) -> ConnectTimeout:
        doing = "the look-up of the name" if phase == "resolve" else _summary(attempts)
        if not attempts and phase == "connect":
            doing = "not even time for an attempt"
        return ConnectTimeout(
            f"{self._address}: no answer in {self._deadline.seconds:g} s ({phase}; {doing})",
            phase=phase,
            address=self._address,
            attempts=attempts,
        )


class Adopted:
    """A socket that somebody else connected; only TLS may be left to do."""

    def __init__(
        self,
        sock: socket.socket,
        hostname: str,
        address: str | None,
        options: SocketOptions,
        tls: TlsStart | None,
    ) -> None:
        ours.add(sock)
        self._socket = sock
        self._hostname, self._address = hostname, address
        self._tls = tls
        self._deadline = Deadline(options.connect_timeout)

    def open(self, waker: Waker, stop: Callable[[], bool]) -> tuple[Wire, SocketInfo]:
        sock = self._socket
        if stop():
            raise Stopped(sock)
        info = SocketInfo(
            hostname=self._hostname,
            remote_address=_ip_port(sock.getpeername),
            local_address=_ip_port(sock.getsockname),
        )
        if self._tls is None:
            return Wire(sock, waker, self._address), info
        return secure(sock, self._tls, self._address, info, waker, stop, self._deadline)

    def give_up(self) -> None:
        self._socket.close()


class Upgrading:
    """TLS over the wire of a connection that began without it (rules S3 to S6)."""

    def __init__(self, address: str | None, options: SocketOptions, tls: TlsStart) -> None:
        self._address = address
        self._tls = tls
        self._timeout = options.connect_timeout
        self._wire: Wire | None = None
        self._info: SocketInfo | None = None
        self._plaintext_read = False

    def take_over(self, wire: Wire, info: SocketInfo, *, plaintext_read: bool) -> None:
        """Called by the old connection's thread, which goes on to open() and never reads again.

        No other thread uses this object.
        """
        self._wire, self._info, self._plaintext_read = wire, info, plaintext_read

    def open(self, waker: Waker, stop: Callable[[], bool]) -> tuple[Wire, SocketInfo]:
        wire, info = self._wire, self._info
        assert wire is not None and info is not None
        self._wire = None
        waker.clear()
        if stop():
            raise Stopped(wire.release())
        if self._plaintext_read or wire.plaintext_waiting():
            wire.reset()
            raise plaintext_injected(self._address)
        return secure(
            wire.release(), self._tls, self._address, info, waker, stop, Deadline(self._timeout)
        )

    def give_up(self) -> None:
        if self._wire is not None:
            self._wire.close()


def secure(
    sock: socket.socket,
    tls: TlsStart,
    address: str | None,
    info: SocketInfo,
    waker: Waker,
    stop: Callable[[], bool],
    deadline: Deadline,
) -> tuple[TlsWire, SocketInfo]:
    """Make TLS of a connected, non-blocking socket: handshake done, certificate verified (O6).

    It closes the socket when it raises anything but Stopped.
    """
    started = time.monotonic()
    try:
        context = tls.context or client_context(tls.options)
        session = tls.options.session
        try:
            # Of one that is reset already, wrap_socket() would leave a socket of its own open.
            sock.getpeername()
            sock = context.wrap_socket(
                sock,
                server_hostname=tls.server_name,
                do_handshake_on_connect=False,
                suppress_ragged_eofs=False,
            )
            ours.add(sock)
            if session is not None and verified_name(session) == tls.server_name:
                try:
                    sock.session = session
                except ValueError:
                    pass  # of another context: it can't be resumed here (rule O7)
            wire = TlsWire(sock, waker, address, allow_truncation=tls.options.allow_truncation)
            while not wire.handshake():
                found = wire.wait_to_receive(wire.receive_events, deadline)
                if found & WOKEN:
                    waker.clear()
                    if stop():
                        raise Stopped(sock)
                if found == TIMED_OUT:
                    raise ConnectTimeout(
                        f"{address}: the TLS handshake was not done in {deadline.seconds:g} s"
                        " (tls); the peer may not speak TLS on this port",
                        phase="tls",
                        address=address,
                        attempts=info.attempts,
                    )
        except (OSError, ValueError) as error:
            if isinstance(error, SocketError):
                raise
            raise _handshake_failure(address, tls.server_name, error) from bare(error)
        assert isinstance(sock, ssl.SSLSocket)
        return wire, _with_tls(info, sock, time.monotonic() - started)
    except Stopped:
        raise
    except BaseException:
        sock.close()
        raise


def _with_tls(info: SocketInfo, sock: ssl.SSLSocket, seconds: float) -> SocketInfo:
    """The same facts, with those of a TLS session."""
    cipher = sock.cipher()
    version = sock.version()
    leaf = sock.getpeercert(binary_form=True)
    chain: Sequence[bytes] = (leaf,) if leaf else ()
    if hasattr(sock, "get_unverified_chain"):  # public from Python 3.13 on
        chain = sock.get_unverified_chain() or chain
    return replace(
        info,
        alpn=sock.selected_alpn_protocol(),
        tls_version=version,
        cipher=cipher[0] if cipher else None,
        cipher_bits=cipher[2] if cipher else None,
        peer_certificate=leaf,
        certificate=_in_words(sock),
        certificate_chain=tuple(chain),
        timings=replace(info.timings, tls=seconds),
        _tls_unique=sock.get_channel_binding() if version != "TLSv1.3" else None,
    )


def _in_words(sock: ssl.SSLSocket) -> Mapping[str, object] | None:
    """getpeercert(); None also for a certificate that is good, but that Python can't decode."""
    try:
        return sock.getpeercert() or None
    except (ValueError, ssl.SSLError):
        return None


# What OpenSSL says when the first bytes that it gets are no TLS record.
_NOT_TLS = {
    "WRONG_VERSION_NUMBER",
    "HTTP_REQUEST",
    "UNKNOWN_PROTOCOL",
    "RECORD_LAYER_FAILURE",
    "PACKET_LENGTH_TOO_LONG",
}


def _handshake_failure(
    address: str | None, server_name: str, error: OSError | ValueError
) -> SocketError:
    """What ended a handshake, and what to do about it."""
    if isinstance(error, ssl.SSLCertVerificationError):
        said = error.verify_message
        hint = ""
        if "issuer" in said or "self-signed" in said or "self signed" in said:
            hint = "; if this root is yours: TlsOptions(ca_file=...)"
        elif "mismatch" in said.lower():
            hint = "; if another name is meant: TlsOptions(server_hostname=...)"
        return TlsVerificationError(
            f"{address}: the certificate was not accepted for {printable(server_name)!r}:"
            f" {printable(said).rstrip('.')} (tls){hint}",
            address=address,
            errno=error.errno,
            library=error.library or "",
            reason=error.reason or "",
            verify_code=error.verify_code,
            verify_message=said,
        )
    if isinstance(error, ValueError):
        return TlsError(f"{address}: {error} (tls)", address=address)
    if is_tls_eof(error) or isinstance(error, ssl.SSLZeroReturnError):
        return TlsError(
            f"{address}: the peer closed the connection during the TLS handshake (tls); it may"
            " not speak TLS on this port, or refuse ours",
            address=address,
            errno=error.errno,
            library=getattr(error, "library", None) or "",
            reason=getattr(error, "reason", None) or "",
        )
    if isinstance(error, ssl.SSLError):
        if error.reason in _NOT_TLS:
            return TlsError(
                f"{address}: the peer does not speak TLS on this port"
                f" ({error.reason.replace('_', ' ').lower()}; tls); try"
                ' secure_transport="starttls" or "off"',
                address=address,
                errno=error.errno,
                library=error.library or "",
                reason=error.reason or "",
            )
        return tls_failure(address, "tls", error)
    return connection_lost(address, "tls", error)


def plaintext_injected(address: str | None) -> PlaintextInjected:
    """Something was sent in clear behind what was read, before TLS could start (rule S5)."""
    return PlaintextInjected(
        f"{address}: plaintext was waiting when TLS was to start: somebody may have injected it;"
        " the connection is reset. If the server sends more than one reply before its go-ahead,"
        " read all of it first",
        address=address,
    )


def set_options(sock: socket.socket, options: SocketOptions) -> None:
    """TCP_NODELAY and keep-alive as asked for; what a platform lacks is left as it is."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, options.no_delay)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, bool(options.keep_alive))
    if isinstance(options.keep_alive, KeepAlive):
        for name, value in (
            ("TCP_KEEPIDLE", options.keep_alive.idle),
            ("TCP_KEEPALIVE", options.keep_alive.idle),  # macOS' name of it
            ("TCP_KEEPINTVL", options.keep_alive.interval),
            ("TCP_KEEPCNT", options.keep_alive.count),
        ):
            if hasattr(socket, name):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _ip_port(ask: Callable[[], object]) -> str | None:
    """What getpeername() or getsockname() tell, as "ip:port"; None where it is no IP address."""
    try:
        name = ask()
    except OSError:
        return None  # gone already; a read will tell how
    if not isinstance(name, tuple) or len(name) < 2 or not isinstance(name[0], str):
        return None
    return host_port(name[0], name[1])


def _summary(attempts: Sequence[Attempt]) -> str:
    """What became of each attempt."""
    said = [
        f"{each.address} {(each.error.strerror or str(each.error)).lower()}"
        for each in attempts
        if each.error is not None
    ]
    number = "1 address" if len(said) == 1 else f"{len(said)} addresses"
    return f"tried {number}: {', '.join(said)}"
