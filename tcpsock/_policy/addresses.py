"""What an IP address really reaches: other addresses may be inside, and it may be this machine.

IPv6 has a dozen ways of carrying an IPv4 address, and a packet sent to such an address may end at
the inner one. Whoever judges the outer form alone lets ::ffff:127.0.0.1 through (rule P9).
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from typing import NamedTuple

from .networks import IP

__all__ = [
    "NAT64_LENGTHS",
    "Found",
    "found",
    "inner_addresses",
    "is_this_machine",
    "isatap",
    "stands_for",
]

NAT64_LENGTHS = (32, 40, 48, 56, 64, 96)  # RFC 6052 section 2.2

_MAPPED = bytes(10) + b"\xff\xff"  # ::ffff:0:0/96, RFC 4291 section 2.5.5.2
_TRANSLATED = bytes(8) + b"\xff\xff\0\0"  # ::ffff:0:0:0/96, RFC 2765 section 2.1
_COMPATIBLE = bytes(12)  # ::/96, RFC 4291 section 2.5.5.1
_SIX_TO_FOUR = b"\x20\x02"  # 2002::/16, RFC 3056 section 2
_TEREDO = b"\x20\x01\0\0"  # 2001::/32, RFC 4380 section 4
_WELL_KNOWN = IPv6Network("64:ff9b::/96")  # RFC 6052 section 2.1
_LOCAL_USE = IPv6Network("64:ff9b:1::/48")  # RFC 8215: whoever uses it chooses the length


class Found(NamedTuple):
    """An address to be judged."""

    given: str
    """As it came."""
    text: str
    """For messages and checks: the usual spelling, without a scope."""
    ip: IP | None
    """None if it can't be parsed."""
    scope_id: int
    """The interface of a link-local address, or 0."""


def found(given: str, scope_id: int = 0) -> Found:
    """Read an address; a scope in it (`%eth0`) is known by its number, or not at all."""
    text, _, scope = given.partition("%")
    try:
        ip = ipaddress.ip_address(text)
    except ValueError:
        return Found(given, given, None, 0)
    if ip.version == 4:
        # A scope is nothing that IPv4 has.
        return Found(given, str(ip), None if scope else ip, 0)
    if scope and not scope_id:
        try:
            scope_id = int(scope) if scope.isascii() and scope.isdigit() else 0
            scope_id = scope_id or socket.if_nametoindex(scope)
        except (OSError, ValueError, OverflowError):
            pass
    # Not str(ip), whose spelling of mapped addresses depends on the Python version.
    return Found(given, socket.inet_ntop(socket.AF_INET6, ip.packed), ip, scope_id)


def stands_for(ip: IP, nat64: Sequence[IPv6Network]) -> IP | None:
    """The address that counts: the inner one of IPv4-mapped, NAT64 and 6to4, else itself.

    None for one in a NAT64 prefix that is not in the format of RFC 6052.
    """
    if isinstance(ip, IPv4Address):
        return ip
    packed = ip.packed
    if packed.startswith(_MAPPED):
        return _ipv4(packed[12:])
    for prefix in nat64:
        if ip in prefix:
            return _translated(packed, prefix.prefixlen)
    if packed.startswith(_SIX_TO_FOUR):
        return _ipv4(packed[2:6])
    return ip


def isatap(ip: IP) -> IPv4Address | None:
    """The IPv4 address in an interface identifier of ISATAP (RFC 5214 section 6.1)."""
    packed = ip.packed
    # The first byte has the bits "universal" and "group", which may or may not be set.
    if len(packed) == 16 and packed[8] & 0xFC == 0 and packed[9:12] == b"\0\x5e\xfe":
        return _ipv4(packed[12:])
    return None


def inner_addresses(ip: IP, nat64: Sequence[IPv6Network]) -> list[IPv4Address]:
    """Every IPv4 address that an IPv6 address may carry, in whatever way; for who denies."""
    if isinstance(ip, IPv4Address):
        return []
    packed = ip.packed
    inner = [stands_for(ip, nat64), isatap(ip)]
    if packed.startswith((_COMPATIBLE, _TRANSLATED)) and int(ip) > 1:  # :: and ::1 are themselves
        inner.append(_ipv4(packed[12:]))
    if packed.startswith(_TEREDO):
        server, client = packed[4:8], bytes(byte ^ 0xFF for byte in packed[12:])
        inner += _ipv4(server), _ipv4(client)
    if ip in _WELL_KNOWN:
        inner.append(_translated(packed, 96))
    if ip in _LOCAL_USE:
        inner += (_translated(packed, length) for length in NAT64_LENGTHS if length >= 48)
    return [each for each in dict.fromkeys(inner) if isinstance(each, IPv4Address)]


def _translated(packed: bytes, length: int) -> IPv4Address | None:
    """The address behind a NAT64 prefix; it steps over bits 64 to 71, which are zero."""
    if length == 96:
        return _ipv4(packed[12:])
    if packed[8]:
        return None
    without = packed[:8] + packed[9:]
    return _ipv4(without[length // 8 : length // 8 + 4])


def _ipv4(packed: bytes) -> IPv4Address:
    return IPv4Address(packed)


def is_this_machine(ip: IP, scope_id: int = 0) -> bool:
    """Whether connecting to the address stays on this machine; the kernel knows (rule P12)."""
    if ip.is_unspecified:
        return True  # the kernel takes it for the loopback
    if ip.is_multicast:
        return False  # though one can bind to it
    where: tuple[str, int] | tuple[str, int, int, int]
    if isinstance(ip, IPv6Address):
        family, where = socket.AF_INET6, (str(ip).partition("%")[0], 0, 0, scope_id)
    else:
        family, where = socket.AF_INET, (str(ip), 0)
    try:
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.bind(where)
    except OSError:
        return False
    return True
