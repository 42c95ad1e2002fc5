"""Every error that a connection can end in, in one family.

Each one is a `SocketError`, therefore an `OSError`, and also the built-in that a Python user would
catch for it (`TimeoutError`, `EOFError`, `ssl.SSLError`, ...). All of them can be made from their
text alone, since job queues and process pools rebuild them that way, and keep their attributes
through pickle and copy.
"""

from __future__ import annotations

import copy
import re
import socket
import ssl
from typing import Literal, TypeVar

from ._info import Attempt

__all__ = [
    "ConnectError",
    "ConnectTimeout",
    "ConnectionLost",
    "IncompleteRead",
    "InvalidAddress",
    "LimitExceeded",
    "Phase",
    "PlaintextInjected",
    "PolicyViolation",
    "ReadTimeout",
    "ResolveError",
    "ScopeError",
    "SocketAborted",
    "SocketClosed",
    "SocketError",
    "SocketForked",
    "SocketUpgraded",
    "StartTlsError",
    "StartTlsRefused",
    "StreamBusy",
    "StreamLocked",
    "TlsError",
    "TlsTruncated",
    "TlsVerificationError",
    "WriteTimeout",
    "bare",
    "fresh",
    "number_in_words",
    "printable",
]

Phase = Literal["address", "policy", "resolve", "connect", "tls", "read", "write", "close"]


class SocketError(OSError):
    """The base of every error that this package raises for a connection.

    Args:
        message: what happened, to which peer, in which phase, and what to do about it.
        phase: how far the connection was: see the attribute.
        address: the HOST:PORT asked for.
        errno: the error number of the system call behind it, if there was one.

    `str(error)` is the message alone. A class attribute gives `phase` where only one makes sense.
    """

    code: str = "socket-error"
    """A stable name for programs: the class name in kebab case, where nothing else is said."""
    phase: Phase | None = None
    """One of "address", "policy", "resolve", "connect", "tls", "read", "write", "close"."""
    address: str | None
    """HOST:PORT as asked for; None where there is none."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "code" not in vars(cls):
            cls.code = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", cls.__name__).lower()

    def __init__(
        self,
        message: str = "",
        *,
        phase: Phase | None = None,
        address: str | None = None,
        errno: int | None = None,
    ) -> None:
        super().__init__(message)
        if phase is not None:
            self.phase = phase
        self.address = address
        self.errno = errno
        self.strerror = message

    def __str__(self) -> str:
        # ssl.SSLError and a plain OSError with an errno would print something else.
        return str(self.args[0]) if self.args else ""

    def __reduce__(self) -> tuple[object, ...]:
        # OSError's own would lose errno: it keeps that in a slot, not in __dict__.
        slots = {"errno": self.errno, "strerror": self.strerror}
        return type(self), self.args, {**self.__dict__, **slots}


class InvalidAddress(SocketError, ValueError):
    """An address that cannot be one, found before anything is looked up (rules A1 to A3)."""

    phase: Phase | None = "address"


class PolicyViolation(SocketError, PermissionError):
    """The egress policy forbids this connection; `code` tells which of its questions said no."""

    phase: Phase | None = "policy"
    decision: object | None
    """What the policy decided, with its reasons; None when made from text alone."""

    def __init__(
        self,
        message: str = "",
        *,
        phase: Phase | None = None,
        address: str | None = None,
        errno: int | None = None,
        code: str | None = None,
        decision: object | None = None,
    ) -> None:
        super().__init__(message, phase=phase, address=address, errno=errno)
        if code is not None:
            self.code = code
        self.decision = decision


class ScopeError(SocketError, RuntimeError):
    """A rule about socket scopes is broken; `code` tells which."""

    phase: Phase | None = "policy"

    def __init__(
        self,
        message: str = "",
        *,
        phase: Phase | None = None,
        address: str | None = None,
        errno: int | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message, phase=phase, address=address, errno=errno)
        if code is not None:
            self.code = code


class ConnectError(SocketError, ConnectionError):
    """No attempt to connect succeeded (rule O4)."""

    phase: Phase | None = "connect"
    attempts: tuple[Attempt, ...]
    """Every address tried, in the order in which the attempts were started."""

    def __init__(
        self,
        message: str = "",
        *,
        phase: Phase | None = None,
        address: str | None = None,
        errno: int | None = None,
        attempts: tuple[Attempt, ...] = (),
    ) -> None:
        super().__init__(message, phase=phase, address=address, errno=errno)
        self.attempts = attempts


class ResolveError(ConnectError, socket.gaierror):
    """The name could not be resolved."""

    phase: Phase | None = "resolve"


class ConnectTimeout(ConnectError, TimeoutError):
    """`connect_timeout` was over; `phase` tells in the middle of what."""


class TlsError(SocketError, ConnectionError, ssl.SSLError):
    """The TLS handshake or a TLS record failed; the message keeps the alert's text."""

    phase: Phase | None = "tls"
    library: str
    """The part of OpenSSL that failed, such as "SSL"; empty where nothing was told."""
    reason: str
    """OpenSSL's name for it, such as "WRONG_VERSION_NUMBER"; empty where nothing was told."""

    def __init__(
        self,
        message: str = "",
        *,
        phase: Phase | None = None,
        address: str | None = None,
        errno: int | None = None,
        library: str = "",
        reason: str = "",
    ) -> None:
        super().__init__(message, phase=phase, address=address, errno=errno)
        self.library = library
        self.reason = reason


class TlsVerificationError(TlsError, ssl.SSLCertVerificationError):
    """The peer's certificate, or the name in it, was not accepted."""

    verify_code: int
    """OpenSSL's X509_V_ERR number; 1 (unspecified) where nothing was told."""
    verify_message: str
    """OpenSSL's words for it, such as "certificate has expired"."""

    def __init__(
        self,
        message: str = "",
        *,
        phase: Phase | None = None,
        address: str | None = None,
        errno: int | None = None,
        library: str = "",
        reason: str = "",
        verify_code: int = 1,
        verify_message: str = "",
    ) -> None:
        super().__init__(
            message, phase=phase, address=address, errno=errno, library=library, reason=reason
        )
        self.verify_code = verify_code
        self.verify_message = verify_message


class TlsTruncated(TlsError, EOFError):
    """The peer hung up without TLS's close_notify: somebody may have cut the end off (rule R8)."""


class StartTlsError(SocketError, RuntimeError):
    """start_tls() is not allowed here; `code` tells why."""

    phase: Phase | None = "tls"

    def __init__(
        self,
        message: str = "",
        *,
        phase: Phase | None = None,
        address: str | None = None,
        errno: int | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message, phase=phase, address=address, errno=errno)
        if code is not None:
            self.code = code


class PlaintextInjected(StartTlsError):
    """Plaintext was waiting when TLS was to start: an attack, or a peer out of step (rule S5)."""


class StartTlsRefused(StartTlsError):
    """The server did not agree to start TLS."""

    reply: str
    """What the server said instead, as it said it: control characters are not escaped."""

    def __init__(
        self,
        message: str = "",
        *,
        phase: Phase | None = None,
        address: str | None = None,
        errno: int | None = None,
        code: str | None = None,
        reply: str = "",
    ) -> None:
        super().__init__(message, phase=phase, address=address, errno=errno, code=code)
        self.reply = reply


class ReadTimeout(SocketError, TimeoutError):
    """A read was not complete in its time. What arrived stays for the next one (rule R4)."""

    phase: Phase | None = "read"


class WriteTimeout(SocketError, TimeoutError):
    """A write was not complete in its time, which ends the connection (rule W4)."""

    phase: Phase | None = "write"
    bytes_written: int
    """How many bytes the kernel took; over TLS an upper bound."""

    def __init__(
        self,
        message: str = "",
        *,
        phase: Phase | None = None,
        address: str | None = None,
        errno: int | None = None,
        bytes_written: int = 0,
    ) -> None:
        super().__init__(message, phase=phase, address=address, errno=errno)
        self.bytes_written = bytes_written


class ConnectionLost(SocketError, ConnectionResetError):
    """The connection broke: reset by the peer, a broken pipe, or the network gone."""


class IncompleteRead(SocketError, EOFError):
    """The peer ended before everything asked for had arrived."""

    phase: Phase | None = "read"
    partial: bytes
    """What did arrive; it is consumed."""
    expected: int | None
    """How many bytes were asked for; None if the read was for a separator."""

    def __init__(
        self,
        message: str = "",
        *,
        phase: Phase | None = None,
        address: str | None = None,
        errno: int | None = None,
        partial: bytes = b"",
        expected: int | None = None,
    ) -> None:
        super().__init__(message, phase=phase, address=address, errno=errno)
        self.partial = partial
        self.expected = expected


class LimitExceeded(SocketError, ValueError):
    """The separator, or the end, did not come within `limit` bytes; nothing is consumed."""

    phase: Phase | None = "read"


class SocketClosed(SocketError):
    """The socket was closed on our side, before this call or under it."""


class SocketAborted(SocketClosed):
    """The connection was cut off by abort()."""

    reason: object
    """What was given to abort(), or the exception that a write was left with."""

    def __init__(
        self,
        message: str = "",
        *,
        phase: Phase | None = None,
        address: str | None = None,
        errno: int | None = None,
        reason: object = None,
    ) -> None:
        super().__init__(message, phase=phase, address=address, errno=errno)
        self.reason = reason


class SocketUpgraded(SocketClosed):
    """start_tls() was called on this socket: the one that it returned has taken over."""


class SocketForked(SocketClosed):
    """The socket belongs to the parent process; connect anew in the child."""


class StreamLocked(SocketError, RuntimeError):
    """The stream has another reader or writer, or this one was released."""


class StreamBusy(SocketError, RuntimeError):
    """Another thread is in the middle of a read or a write."""


AnySocketError = TypeVar("AnySocketError", bound=SocketError)
AnyException = TypeVar("AnyException", bound=BaseException)


def fresh(error: AnySocketError) -> AnySocketError:
    """A copy of a stored error to be raised: the tracebacks of many calls must not pile up on one.

    Same class and attributes, no traceback, `__cause__` is the stored error (rule O3).
    """
    again = copy.copy(error)
    again.__cause__ = error
    return again


def bare(error: AnyException) -> AnyException:
    """The same error without tracebacks, along all of its causes and contexts.

    An exception that is kept keeps its frames, and with them everything that their variables
    refer to: a socket that nobody uses any more would never be collected.
    """
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        link = pending.pop()
        if link is not None and id(link) not in seen:
            seen.add(id(link))
            link.__traceback__ = None
            pending += link.__cause__, link.__context__
    return error


# C0, DEL and C1 controls, line and paragraph separators, bidirectional controls, and halves of
# surrogate pairs, which could not even be printed.
_UNPRINTABLE = re.compile(
    "[\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def number_in_words(number: float) -> str:
    """A number for a message: Python refuses to write one of thousands of digits."""
    try:
        return repr(number)
    except ValueError:
        return "one of thousands of digits"


def printable(text: str, limit: int = 200) -> str:
    """Text that a stranger chose, fit for a message: nothing in it can rewrite a terminal.

    Control characters are escaped (`\\x1b`), and what goes beyond `limit` characters becomes "...".
    """
    if len(text) > limit:
        text = text[:limit] + "..."
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)
