"""Addresses as people write them: told from mistakes before anything is looked up.

A host that is not checked is a hole: `getaddrinfo("1.2.3.4\\0evil")` succeeds, and Unicode can
turn into a slash or a colon on its way to the resolver. So every host takes one way, `dns_name`,
which checks what was written and what becomes of it (rules A1 to A3).
"""

from __future__ import annotations

import encodings.idna  # noqa: F401  (imported here since the first use in a thread may deadlock)
import ipaddress
import operator
import re
from collections.abc import Mapping
from functools import lru_cache

from .._errors import InvalidAddress, number_in_words, printable

__all__ = [
    "check_host",
    "check_port",
    "dns_name",
    "host_port",
    "ip_literal",
    "masked",
    "parse",
    "sni_name",
]

_LONGEST_HOST = 253  # characters, RFC 1035 section 2.3.4 less the length bytes of the wire format
_LONGEST_LABEL = 63  # RFC 1035 section 2.3.4
_LAST_PORT = 65535

_BLANK_OR_CONTROL = re.compile(  # IDNA knows the bidirectional controls of Unicode 3.2 alone
    "[\\s\0-\x1f\x7f-\x9f\ud800-\udfff\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]"
)
# What ends or divides the host of a URL (WHATWG URL, "forbidden host code points"), save blanks.
_DELIMITER = re.compile(r"[#%/:<>?@\[\\\]^|]")
_DECIMAL = re.compile("[0-9]+")
# Everything up to the last @: a password may itself contain "/", "?" or "@", and full-width forms
# of the sign turn into it.
_USERINFO = re.compile("^([A-Za-z][A-Za-z0-9+.-]*://)?.*[@\uff20\ufe6b]", re.DOTALL)

# Schemes that people are likely to try: (their port, whether they mean TLS).
_OTHER_SCHEMES = {
    "http": (80, False),
    "https": (443, True),
    "ws": (80, False),
    "wss": (443, True),
}


def parse(address: object) -> tuple[str, int]:
    """The host and the port of an address in any of its forms (rules A1 and A3).

    Args:
        address: "host:port", "[v6]:port", "tcp://host:port", a (host, port) tuple, a mapping with
            `hostname` and `port`, or an object with these two attributes.

    Returns:
        The host as it was written, without brackets, and the port.

    Raises:
        InvalidAddress: it cannot be one.
        TypeError: it is of a type that no address has, or its host or port is.
    """
    if isinstance(address, str):
        return _parse_text(address)
    if isinstance(address, tuple):
        if len(address) != 2:
            raise TypeError(f"an address tuple is (host, port), not {len(address)} items")
        hostname, port = address
    elif isinstance(address, Mapping):
        hostname, port = _from_mapping(address)
    else:
        try:
            hostname, port = address.hostname, address.port  # type: ignore[attr-defined]
        except AttributeError:
            raise TypeError(
                'an address is "host:port", a (host, port) tuple, a SocketAddress or a mapping '
                f"with hostname and port, not {type(address).__name__}"
            ) from None
    return check_host(hostname), check_port(port)


def check_host(hostname: object) -> str:
    """The host itself, if it can be one: a name, or an IP address without brackets.

    Raises:
        InvalidAddress: it cannot.
        TypeError: it is no str.
    """
    if not isinstance(hostname, str):
        raise TypeError(f"hostname must be a str, not {type(hostname).__name__}")
    dns_name(hostname)
    return hostname


def check_port(port: object) -> int:
    """The port as an int, if it is one from 1 to 65535.

    Raises:
        InvalidAddress: it is outside.
        TypeError: it is no integer; True and False are none either.
    """
    if isinstance(port, bool) or not hasattr(port, "__index__"):
        raise TypeError(f"port must be an int, not {type(port).__name__}")
    number = operator.index(port)
    if not 1 <= number <= _LAST_PORT:
        raise InvalidAddress(f"port {number_in_words(number)} is outside 1..{_LAST_PORT}")
    return number


@lru_cache(maxsize=512)
def dns_name(hostname: str) -> str:
    """The host as the resolver gets it: IDNA A-labels, a trailing dot and an IPv6 scope kept.

    IP addresses stay as they are.

    Raises:
        InvalidAddress: it cannot be a host (rules A1 and A2).
    """
    _check_characters(hostname)
    if not hostname:
        raise InvalidAddress("the host is missing")
    if len(hostname.removesuffix(".")) > _LONGEST_HOST:
        raise InvalidAddress(
            f"{_shown(hostname)}: a host of {len(hostname)} characters; "
            f"{_LONGEST_HOST} is the longest"
        )
    if ip_literal(hostname):
        return hostname
    try:
        name = hostname.encode("idna").decode("ascii")
    except UnicodeError as error:
        raise _bad_labels(hostname) from error
    # Looked at again after IDNA, which turns U+2100 into "a/c" and U+2025 into "..".
    _check_characters(name)
    if delimiter := _DELIMITER.search(name):
        raise _stray_delimiter(hostname, "@" if "@" in name else delimiter[0])
    if not all(0 < len(label) <= _LONGEST_LABEL for label in name.removesuffix(".").split(".")):
        raise _bad_labels(hostname)
    if len(name.removesuffix(".")) > _LONGEST_HOST:
        raise InvalidAddress(
            f"{_shown(hostname)}: its IDNA form has {len(name)} characters; "
            f"{_LONGEST_HOST} is the longest"
        )
    return name


def sni_name(hostname: str) -> str:
    """The host as TLS gets it, to send as SNI and to verify: no trailing dot, no IPv6 scope.

    An IP address stays one; `ssl` sends no SNI for it and verifies it against IP SANs (rule A2).
    """
    return dns_name(hostname).partition("%")[0].removesuffix(".")


@lru_cache(maxsize=512)
def ip_literal(hostname: str) -> bool:
    """Whether the host is an IP address in its usual spelling; an IPv6 scope is allowed.

    Shortened or non-decimal IPv4 ("127.1", "0x7f.1") is a name to us, as it is to TLS.
    """
    try:
        ipaddress.ip_address(hostname)
    except ValueError:
        return False
    return not _DELIMITER.search(hostname.partition("%")[2])


def host_port(hostname: str, port: int) -> str:
    """The two in one, "host:port", with brackets round an IPv6 address."""
    return f"[{hostname}]:{port}" if ":" in hostname else f"{hostname}:{port}"


def _parse_text(text: str) -> tuple[str, int]:
    _check_characters(text)
    if not text:
        raise InvalidAddress('the address is empty; write "host:port"')
    scheme, is_url, rest = text.partition("://")
    if not is_url:
        rest = text
    elif scheme.lower() != "tcp":
        raise _wrong_scheme(text, scheme.lower(), rest)
    else:
        rest = rest.removesuffix("/")  # a lone one, which programs that build URLs like to add
    if _USERINFO.match(rest):
        raise InvalidAddress(f"{_shown(text)}: an address has no user name or password")
    if re.search("[/?#]", rest):
        raise InvalidAddress(
            f"{_shown(text)}: an address ends with the port, without a path, query or fragment"
        )
    hostname, port = _split(text, rest)
    if not hostname:
        raise InvalidAddress(f"{_shown(text)}: the host before the port is missing")
    if not port:
        missing = f"[{hostname}]:PORT" if ":" in hostname else f"{hostname}:PORT"
        raise InvalidAddress(f'{_shown(text)}: the port is missing; write "{masked(missing)}"')
    if not _DECIMAL.fullmatch(port):
        raise InvalidAddress(f"{_shown(text)}: the port is a decimal number, not {_shown(port)}")
    if port.startswith("0") and port != "0":
        raise InvalidAddress(f"{_shown(text)}: the port has leading zeros")
    if len(port) > len(str(_LAST_PORT)) or not 1 <= int(port) <= _LAST_PORT:
        raise InvalidAddress(f"{_shown(text)}: the port is outside 1..{_LAST_PORT}")
    return check_host(hostname), int(port)


def _split(text: str, rest: str) -> tuple[str, str]:
    """Host and port of a text without scheme; either may come out empty."""
    if rest.startswith("["):
        hostname, closed, port = rest[1:].partition("]")
        if not closed or (port and not port.startswith(":")):
            raise InvalidAddress(f'{_shown(text)}: the form is "[IPv6 address]:port"')
        if not (ip_literal(hostname) and ":" in hostname):
            raise InvalidAddress(f"{_shown(text)}: brackets are for IPv6 addresses alone")
        return hostname, port[1:]
    if ip_literal(rest) and ":" in rest:
        raise InvalidAddress(
            f'{_shown(text)}: an IPv6 address and its port are written "[{masked(rest)}]:PORT"'
        )
    hostname, colon, port = rest.rpartition(":")
    if not colon:
        return rest, ""
    if ":" in hostname:
        raise InvalidAddress(
            f'{_shown(text)}: more than one colon; the form is "host:port", '
            'for an IPv6 address "[address]:port"'
        )
    return hostname, port


def _from_mapping(address: Mapping[object, object]) -> tuple[object, object]:
    unknown = [key for key in address if key not in ("hostname", "port")]
    if unknown:  # ignored, a misplaced secure_transport="on" would mean plain text
        raise TypeError(
            f"an address mapping has hostname and port alone, not {_shown(str(unknown[0]))}"
        )
    for key in ("hostname", "port"):
        if key not in address:
            raise InvalidAddress(f"the {key} is missing in the address mapping")
    return address["hostname"], address["port"]


def _check_characters(text: str) -> None:
    if _BLANK_OR_CONTROL.search(text):
        raise InvalidAddress(f"{_shown(text)}: an address has no blanks or control characters")


def _stray_delimiter(hostname: str, delimiter: str) -> InvalidAddress:
    if delimiter == "@":
        return InvalidAddress(f"{_shown(hostname)}: a host has no user name or password")
    if delimiter in "[]":
        return InvalidAddress(f"{_shown(hostname)}: a host is given without brackets")
    return InvalidAddress(f"{_shown(hostname)}: a host contains no {_shown(delimiter)}")


def _bad_labels(hostname: str) -> InvalidAddress:
    return InvalidAddress(
        f"{_shown(hostname)}: a part of the name is empty, longer than {_LONGEST_LABEL} "
        "characters, or has characters that no name has"
    )


def _wrong_scheme(text: str, scheme: str, rest: str) -> InvalidAddress:
    """What to write instead of a URL: nearly everybody begins with https:// (rule D7)."""
    # No part of what follows a password may be mistaken for the host and shown.
    authority = "" if _USERINFO.match(rest) else re.split("[/?#]", rest)[0]
    if scheme not in _OTHER_SCHEMES:
        return InvalidAddress(f'{_shown(text)}: write "host:port" or "tcp://host:port"')
    port, tls = _OTHER_SCHEMES[scheme]
    if not re.search(r":\d+$", authority):
        authority = f"{authority or 'host'}:{port}"
    advice = f'write "{masked(authority)}"' + (' with secure_transport="on"' if tls else "")
    return InvalidAddress(f"{_shown(text)}: this is TCP, without {scheme.upper()}; {advice}")


def _shown(text: str) -> str:
    return f'"{masked(text)}"'


def masked(text: str) -> str:
    """A text as it may stand in a message: no user name, no password, no control character."""
    return printable(_USERINFO.sub(r"\1***@", text))
