"""What can be chosen about a connection: checked as it is made, fixed from then on.

Each class holds its own rules in `__post_init__`, so a wrong value is told where it was written,
by the name of its option, before anything is dialled (rules A3 and A4). What stands in files is
read later, by `_wire/contexts.py`.
"""

from __future__ import annotations

import functools
import os
import ssl
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from types import EllipsisType
from typing import Literal, TypedDict, TypeVar

from ._dialing import address
from ._errors import number_in_words
from ._typing import Unpack
from .policy import EgressPolicy

__all__ = [
    "KeepAlive",
    "SecureTransport",
    "SocketAddress",
    "SocketOptionFields",
    "SocketOptions",
    "StrPath",
    "TlsOptionFields",
    "TlsOptions",
    "Trust",
    "Unpack",
    "call_timeout",
    "check_timeout",
    "socket_options",
    "tls_options",
]

SecureTransport = Literal["off", "on", "starttls"]
Trust = Literal["certifi", "system"]
StrPath = str | os.PathLike[str]

_LONGEST_KEEP_ALIVE = 32767  # seconds: Linux, MAX_TCP_KEEPIDLE and MAX_TCP_KEEPINTVL
_MOST_PROBES = 127  # Linux, MAX_TCP_KEEPCNT
_LONGEST_PROTOCOL = 255  # bytes, RFC 7301 section 3.1: the length stands in one byte
_LONGEST_ALPN = 65535  # bytes, the same for the list of all protocols with their lengths
_LONGEST_PASSWORD = 1024  # bytes, OpenSSL's PEM_BUFSIZE

# What never shows in a repr (rule L2), and what doesn't go into a pickle.
_HIDDEN = frozenset({"ca_data", "client_key_password", "session"})
_UNPICKLED = ("ssl_context", "session", "client_key_password")

_Options = TypeVar("_Options")


def _proposes_near_names(cls: type[_Options]) -> type[_Options]:
    """A class decorator: an unknown option is a TypeError that proposes a known one (rule D7)."""
    make = vars(cls)["__init__"]
    names = vars(cls)["__slots__"]  # exactly the fields

    @functools.wraps(make)
    def __init__(self: _Options, *args: object, **options: object) -> None:
        for name in options:
            if name not in names:
                raise TypeError(f"{cls.__name__} has no option {name!r}{_hint(name, names)}")
        make(self, *args, **options)

    type.__setattr__(cls, "__init__", __init__)
    return cls


def _repr(self: SocketOptions | TlsOptions) -> str:
    """What differs from the defaults, without the secrets."""
    shown = []
    for option in fields(self):
        value = getattr(self, option.name)
        if value != option.default:
            shown.append(f"{option.name}={'<hidden>' if option.name in _HIDDEN else repr(value)}")
    return f"{type(self).__name__}({', '.join(shown)})"


@dataclass(frozen=True, slots=True)
class SocketAddress:
    """Where to connect to.

    Args:
        hostname: a name or an IP address; an IPv6 address without brackets.
        port: from 1 to 65535.

    `str()` gives "host:port", an IPv6 address in brackets.

    Raises:
        InvalidAddress: it cannot be an address (rules A1 to A3).
        TypeError: the hostname is no str, or the port no integer.
    """

    hostname: str
    port: int

    def __post_init__(self) -> None:
        address.check_host(self.hostname)
        object.__setattr__(self, "port", address.check_port(self.port))

    def __str__(self) -> str:
        return address.host_port(self.hostname, self.port)


@_proposes_near_names
@dataclass(frozen=True, slots=True, kw_only=True)
class KeepAlive:
    """How TCP finds out that a silent peer is gone, where the system's own pace doesn't suit.

    Args:
        idle: seconds of silence before the first probe, 1 to 32767.
        interval: seconds from one probe to the next, 1 to 32767.
        count: how many probes go unanswered until the connection is lost, 1 to 127.
    """

    idle: int = 60
    interval: int = 10
    count: int = 5

    def __post_init__(self) -> None:
        _check_int("keep_alive: idle", self.idle, 1, _LONGEST_KEEP_ALIVE)
        _check_int("keep_alive: interval", self.interval, 1, _LONGEST_KEEP_ALIVE)
        _check_int("keep_alive: count", self.count, 1, _MOST_PROBES)


@_proposes_near_names
@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class TlsOptions:
    """How TLS is spoken, and who is trusted.

    Args:
        server_hostname: the name to send (SNI) and to verify; None is the host given to connect().
        alpn: the application protocols to offer, the favourite first.
        ssl_context: your own context, used as it is. It excludes alpn, trust, ca_file, ca_data,
            client_cert, client_key, client_key_password and minimum_version.
        trust: whose roots to trust: "certifi" (those of Mozilla), or "system" (OpenSSL's default
            paths; on Windows, its stores too). SSL_CERT_FILE and SSL_CERT_DIR in the environment
            replace either, save under `python -E` or `-I`.
        ca_file: trust exactly the certificates in this PEM file instead.
        ca_data: the same from memory: PEM as str or bytes, or DER bytes.
        client_cert: a PEM file with the certificate to show to the server, and its chain.
        client_key: a PEM file with its private key; None: it is in `client_cert`.
        client_key_password: what that key is encrypted with. Nobody is ever asked for it.
        minimum_version: `ssl.TLSVersion.TLSv1_2` or `TLSv1_3`.
        session: a session to resume, from `Socket.tls_session`.
        allow_truncation: True reads an EOF without close_notify as a clean one. Only for protocols
            whose messages tell their own end (rule R8).

    Raises:
        TypeError, ValueError: a value is wrong, or does not go with another (rule A4). Files are
            read by connect(): one that cannot be is its OSError, one without sense a ValueError.
    """

    server_hostname: str | None = None
    alpn: Sequence[str] = ()
    ssl_context: ssl.SSLContext | None = None
    trust: Trust = "certifi"
    ca_file: StrPath | None = None
    ca_data: str | bytes | None = None
    client_cert: StrPath | None = None
    client_key: StrPath | None = None
    client_key_password: str | bytes | None = None
    minimum_version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2
    session: ssl.SSLSession | None = field(default=None, hash=False)  # it has no hash of its own
    allow_truncation: bool = False

    def __post_init__(self) -> None:
        _check_server_hostname(self.server_hostname)
        object.__setattr__(self, "alpn", _alpn(self.alpn))
        _check_literal("trust", self.trust, ("certifi", "system"))
        _check_path("ca_file", self.ca_file)
        _check_type("ca_data", self.ca_data, (str, bytes, type(None)), "str, bytes or None")
        _check_path("client_cert", self.client_cert)
        _check_path("client_key", self.client_key)
        _check_password(self.client_key_password)
        _check_type("minimum_version", self.minimum_version, ssl.TLSVersion, "an ssl.TLSVersion")
        if self.minimum_version not in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            raise ValueError(
                f"minimum_version must be TLSv1_2 or TLSv1_3, not {self.minimum_version.name}"
            )
        _check_type(
            "session", self.session, (ssl.SSLSession, type(None)), "an ssl.SSLSession or None"
        )
        _check_type("allow_truncation", self.allow_truncation, bool, "a bool")
        self._check_context()
        self._check_combinations()

    def _check_context(self) -> None:
        if self.ssl_context is None:
            return
        _check_type("ssl_context", self.ssl_context, ssl.SSLContext, "an ssl.SSLContext or None")
        if self.ssl_context.protocol == ssl.PROTOCOL_TLS_SERVER:
            raise ValueError("ssl_context is a server's (PROTOCOL_TLS_SERVER), we are the client")
        beside = {"server_hostname", "ssl_context", "session", "allow_truncation"}
        for option in fields(self):
            if option.name not in beside and getattr(self, option.name) != option.default:
                raise ValueError(
                    f"ssl_context excludes {option.name}: your context decides that itself"
                )

    def _check_combinations(self) -> None:
        roots = {
            'trust="system"': self.trust == "system",
            "ca_file": self.ca_file is not None,
            "ca_data": self.ca_data is not None,
        }
        given = [name for name, is_given in roots.items() if is_given]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} exclude each other: give one of them")
        for name in ("client_key", "client_key_password"):
            if self.client_cert is None and getattr(self, name) is not None:
                raise ValueError(f"{name} is given without client_cert, the certificate it is for")

    __repr__ = _repr

    def __reduce__(self) -> tuple[object, ...]:
        for name in _UNPICKLED:
            if getattr(self, name) is not None:
                raise TypeError(
                    f"TlsOptions with {name} cannot be pickled: make them where they are used"
                )
        values = {option.name: getattr(self, option.name) for option in fields(self)}
        return functools.partial(type(self), **values), ()

    # Nothing in it changes, so a copy is the same object; contexts and sessions have no copies.
    def __copy__(self) -> TlsOptions:
        return self

    def __deepcopy__(self, memo: object) -> TlsOptions:
        return self


@_proposes_near_names
@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class SocketOptions:
    """How a connection is made and how it behaves. Times are seconds.

    Args:
        secure_transport: "off" (plain TCP), "on" (TLS at once) or "starttls" (plain until
            `Socket.start_tls()`).
        allow_half_open: True goes on writing after the peer has ended its side (rule E2).
        tls: how TLS is spoken; not with secure_transport="off".
        connect_timeout: for the look-up, every attempt to connect, and TLS, together; over 0, None
            is no limit.
        timeout: the default for each blocking read and write; 0 is now or ReadTimeout, None no
            limit.
        close_timeout: what closing may spend on flushing and draining; after that the connection
            is reset. 0 resets at once, None is no limit (rule E4).
        high_water_mark: how many bytes are read ahead at most; 1 or more.
        local_address: (IP address, port) to connect from; port 0 is any. Only addresses of its
            family are dialled, so ("0.0.0.0", 0) and ("::", 0) choose the family alone.
        no_delay: TCP_NODELAY: small writes go out at once.
        keep_alive: TCP keep-alive, on or off, or on with a pace of its own.
        policy: what may be dialled, and how many sockets may be open; None is no limit.

    Raises:
        TypeError, ValueError: a value is wrong, or does not go with another (rules A3 and A4).
    """

    secure_transport: SecureTransport = "off"
    allow_half_open: bool = False
    tls: TlsOptions | None = None
    connect_timeout: float | None = 30.0
    timeout: float | None = None
    close_timeout: float | None = 2.0
    high_water_mark: int = 1 << 20
    local_address: tuple[str, int] | None = None
    no_delay: bool = True
    keep_alive: bool | KeepAlive = True
    policy: EgressPolicy | None = None

    def __post_init__(self) -> None:
        _check_literal("secure_transport", self.secure_transport, ("off", "on", "starttls"))
        _check_type("allow_half_open", self.allow_half_open, bool, "a bool")
        _check_type("tls", self.tls, (TlsOptions, type(None)), "a TlsOptions or None")
        if self.tls is not None and self.secure_transport == "off":
            raise ValueError(
                'tls is given, but secure_transport is "off": nothing would be encrypted; '
                'it must be "on" or "starttls"'
            )
        check_timeout("connect_timeout", self.connect_timeout, over_zero=True)
        check_timeout("timeout", self.timeout)
        check_timeout("close_timeout", self.close_timeout)
        _check_int("high_water_mark", self.high_water_mark, 1)
        if self.local_address is not None:
            _check_local_address(self.local_address)
        _check_type("no_delay", self.no_delay, bool, "a bool")
        _check_type("keep_alive", self.keep_alive, (bool, KeepAlive), "a bool or a KeepAlive")
        _check_type("policy", self.policy, (EgressPolicy, type(None)), "an EgressPolicy or None")

    __repr__ = _repr


class TlsOptionFields(TypedDict, total=False):
    """The fields of TlsOptions as keywords."""

    server_hostname: str | None
    alpn: Sequence[str]
    ssl_context: ssl.SSLContext | None
    trust: Trust
    ca_file: StrPath | None
    ca_data: str | bytes | None
    client_cert: StrPath | None
    client_key: StrPath | None
    client_key_password: str | bytes | None
    minimum_version: ssl.TLSVersion
    session: ssl.SSLSession | None
    allow_truncation: bool


class SocketOptionFields(TypedDict, total=False):
    """The fields of SocketOptions as keywords."""

    secure_transport: SecureTransport
    allow_half_open: bool
    tls: TlsOptions | None
    connect_timeout: float | None
    timeout: float | None
    close_timeout: float | None
    high_water_mark: int
    local_address: tuple[str, int] | None
    no_delay: bool
    keep_alive: bool | KeepAlive
    policy: EgressPolicy | None


def socket_options(options: SocketOptions | None, overrides: SocketOptionFields) -> SocketOptions:
    """The options given to connect() or adopt(), each keyword overriding its field.

    Raises:
        TypeError, ValueError: something in them is wrong; the message names it.
    """
    if isinstance(options, int):  # connect("host", 80), as of telnetlib (rule D7)
        raise TypeError('the port is a part of the address: write "host:port" or ("host", port)')
    _check_type("options", options, (SocketOptions, type(None)), "a SocketOptions, or keywords")
    base = options or _SOCKET_DEFAULTS
    return replace(base, **overrides) if overrides else base


def tls_options(
    base: TlsOptions | None, options: TlsOptions | None, overrides: TlsOptionFields
) -> TlsOptions:
    """The options of start_tls(): those given replace connect()'s, keywords change single fields.

    Raises:
        TypeError, ValueError: something in them is wrong; the message names it.
    """
    _check_type("options", options, (TlsOptions, type(None)), "a TlsOptions, or keywords")
    chosen = options or base or _TLS_DEFAULTS
    return replace(chosen, **overrides) if overrides else chosen


def call_timeout(timeout: float | EllipsisType | None, default: float | None) -> float | None:
    """The seconds that one call has: its own `timeout` where that was given; None is no limit.

    Raises:
        TypeError, ValueError: it is no time at all.
    """
    if timeout is ...:
        return default
    check_timeout("timeout", timeout)
    return timeout


def check_timeout(name: str, seconds: object, *, over_zero: bool = False) -> None:
    """Whether this can be a time limit: None, or seconds that a clock can count.

    Raises:
        TypeError: it is no number; True and False are none either.
        ValueError: it is negative (with `over_zero`, 0 too), not a number, or endless.
    """
    if seconds is None:
        return
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise TypeError(f"{name} must be seconds or None, not {type(seconds).__name__}")
    if seconds > threading.TIMEOUT_MAX:  # math.inf too: what no lock could wait
        raise ValueError(f"{name} is too long to wait: None is no limit")
    if not (seconds > 0 or (seconds == 0 and not over_zero)):  # so that NaN is told as well
        least = "over 0" if over_zero else "0 or more"
        shown = number_in_words(seconds)
        raise ValueError(f"{name} must be {least} seconds or None, not {shown}")


def _hint(name: str, names: Sequence[str]) -> str:
    """What to write instead of an option that there isn't."""
    for other in (SocketOptions, TlsOptions):
        if name in (option.name for option in fields(other)):
            return f"; {other.__name__} has it"
    return _near(name, names)


def _near(word: str, known: Sequence[str]) -> str:
    """What was probably meant, to end a message with; empty where nothing is near."""
    import difflib  # late: only mistakes need it

    near = difflib.get_close_matches(word.lower(), known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _check_type(name: str, value: object, types: type | tuple[type, ...], expected: str) -> None:
    if not isinstance(value, types):
        raise TypeError(f"{name} must be {expected}, not {type(value).__name__}")


def _check_int(name: str, value: object, least: int, most: int | None = None) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    if value < least or (most is not None and value > most):
        limits = f"{least} or more" if most is None else f"from {least} to {most}"
        raise ValueError(f"{name} must be {limits}")


def _check_literal(name: str, value: object, known: Sequence[str]) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {type(value).__name__}")
    if value not in known:
        choice = " or ".join(f'"{word}"' for word in known)
        raise ValueError(f"{name} must be {choice}, not {value!r}{_near(value, known)}")


def _check_path(name: str, path: object) -> None:
    if path is None:
        return
    text = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(text, str):
        raise TypeError(f"{name} must be a path (str or os.PathLike), not {type(text).__name__}")
    if "\0" in text:
        raise ValueError(f"{name} contains a NUL character: no file has such a name")


def _check_password(password: object) -> None:
    """No message here shows the password, or a part of it."""
    name = "client_key_password"
    _check_type(name, password, (str, bytes, type(None)), "str, bytes or None")
    if isinstance(password, str):
        try:
            password = password.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{name} has no UTF-8 form") from None
    if isinstance(password, bytes) and len(password) > _LONGEST_PASSWORD:
        raise ValueError(f"{name} is longer than {_LONGEST_PASSWORD} bytes")


def _check_server_hostname(hostname: object) -> None:
    if hostname is None:
        return
    if not isinstance(hostname, str):
        raise TypeError(f"server_hostname must be a str or None, not {type(hostname).__name__}")
    try:
        address.check_host(hostname)
    except ValueError as error:
        raise ValueError(f"server_hostname: {error}") from None


def _alpn(protocols: object) -> tuple[str, ...]:
    if isinstance(protocols, (str, bytes)) or not isinstance(protocols, Sequence):
        raise TypeError(
            'alpn must be a sequence of str, such as ["h2", "http/1.1"], '
            f"not {type(protocols).__name__}"
        )
    for protocol in protocols:
        if not isinstance(protocol, str):
            raise TypeError(f"alpn must be a sequence of str, not of {type(protocol).__name__}")
        if not protocol.isascii() or not 1 <= len(protocol) <= _LONGEST_PROTOCOL:
            raise ValueError(
                f"alpn: a protocol has 1 to {_LONGEST_PROTOCOL} ASCII characters, "
                f"unlike {protocol[:40]!r}"
            )
    if sum(1 + len(protocol) for protocol in protocols) > _LONGEST_ALPN:
        raise ValueError(f"alpn: the protocols have more than {_LONGEST_ALPN} bytes together")
    return tuple(protocols)


def _check_local_address(local: object) -> None:
    if not isinstance(local, tuple) or len(local) != 2:
        raise TypeError("local_address must be an (IP address, port) tuple or None")
    host, port = local
    if not isinstance(host, str):
        raise TypeError(f"local_address: the address must be a str, not {type(host).__name__}")
    if not address.ip_literal(host):
        raise ValueError(f"local_address: {host!r} is no IP address")
    _check_int("local_address: the port", port, 0, 65535)


# Made once, and at the end: the checks above run for them as well.
_SOCKET_DEFAULTS = SocketOptions()
_TLS_DEFAULTS = TlsOptions()
