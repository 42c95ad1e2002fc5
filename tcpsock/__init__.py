"""Blocking TCP sockets as edge runtimes have them: connect(), streams, TLS and StartTLS.

>>> with connect("example.com:80") as sock:
...     reader, writer = sock.streams()
...     writer.write(b"GET / HTTP/1.0\\r\\nHost: example.com\\r\\n\\r\\n")
...     status = reader.readline()
"""

from ._errors import (
    ConnectError,
    ConnectionLost,
    ConnectTimeout,
    IncompleteRead,
    InvalidAddress,
    LimitExceeded,
    PlaintextInjected,
    PolicyViolation,
    ReadTimeout,
    ResolveError,
    ScopeError,
    SocketAborted,
    SocketClosed,
    SocketError,
    SocketForked,
    SocketUpgraded,
    StartTlsError,
    StartTlsRefused,
    StreamBusy,
    StreamLocked,
    TlsError,
    TlsTruncated,
    TlsVerificationError,
    WriteTimeout,
)
from ._info import Attempt, SocketInfo, SocketStats, Timings
from ._options import KeepAlive, SocketAddress, SocketOptions, TlsOptions
from ._socket import Socket, adopt, connect
from ._streams import ReadableStream, Reader, WritableStream, Writer
from ._version import __version__
from .policy import Decision, EgressPolicy

__all__ = [
    "Attempt",
    "ConnectError",
    "ConnectTimeout",
    "ConnectionLost",
    "Decision",
    "EgressPolicy",
    "IncompleteRead",
    "InvalidAddress",
    "KeepAlive",
    "LimitExceeded",
    "PlaintextInjected",
    "PolicyViolation",
    "ReadTimeout",
    "ReadableStream",
    "Reader",
    "ResolveError",
    "ScopeError",
    "Socket",
    "SocketAborted",
    "SocketAddress",
    "SocketClosed",
    "SocketError",
    "SocketForked",
    "SocketInfo",
    "SocketOptions",
    "SocketStats",
    "SocketUpgraded",
    "StartTlsError",
    "StartTlsRefused",
    "StreamBusy",
    "StreamLocked",
    "Timings",
    "TlsError",
    "TlsOptions",
    "TlsTruncated",
    "TlsVerificationError",
    "WritableStream",
    "WriteTimeout",
    "Writer",
    "__version__",
    "adopt",
    "connect",
]
