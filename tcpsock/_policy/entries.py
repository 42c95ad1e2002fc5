"""The fields of a policy as people write them: checked, and turned into what can be asked.

Every mistake is an error that names the field and the entry (rule P16).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Sequence

from .._dialing import address as addresses
from .._errors import printable
from .addresses import NAT64_LENGTHS
from .hosts import HostTable
from .networks import Network, NetworkTable, network
from .rules import OwnAddress

__all__ = [
    "host_table",
    "nat64_prefixes",
    "network_table",
    "own_addresses",
    "ports",
]

_LAST_PORT = 65535
_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")


def host_table(
    field: str, entries: Collection[object], nat64: Sequence[ipaddress.IPv6Network]
) -> HostTable:
    """For allow_hosts and deny_hosts."""
    for entry in entries:
        if not isinstance(entry, str):
            raise TypeError(f"{field} must have str entries, not {type(entry).__name__}")
    try:
        return HostTable(entries, nat64)  # type: ignore[arg-type]  # looked at above
    except ValueError as error:
        raise ValueError(f"{field}: {error}") from None


def network_table(
    field: str, entries: Collection[object], *, mapped: bool = False
) -> NetworkTable[str]:
    """For allow_networks and deny_networks.

    `mapped`: a network of IPv4-mapped addresses means the IPv4 network as well.
    """
    rows: list[tuple[Network, str]] = []
    for entry in entries:
        net, written = _network(field, entry), str(entry)
        rows.append((net, written))
        if mapped and isinstance(net, ipaddress.IPv6Network) and net.subnet_of(_MAPPED):
            inner = ipaddress.IPv4Address(net.network_address.packed[12:])
            rows.append((ipaddress.IPv4Network((inner, net.prefixlen - 96)), written))
    return NetworkTable(rows)


def _network(field: str, entry: object) -> Network:
    try:
        return network(entry)
    except TypeError as error:
        raise TypeError(f"{field}: an entry {error}") from None
    except ValueError as error:
        raise ValueError(f'{field}: "{printable(str(entry))}" {error}') from None


def nat64_prefixes(field: str, entries: Collection[object]) -> tuple[ipaddress.IPv6Network, ...]:
    """The narrowest first: it is the one that counts."""
    prefixes = []
    for entry in entries:
        net = _network(field, entry)
        if not isinstance(net, ipaddress.IPv6Network) or net.prefixlen not in NAT64_LENGTHS:
            lengths = ", ".join(f"/{length}" for length in NAT64_LENGTHS)
            raise ValueError(f'{field}: "{entry}" is no IPv6 prefix of {lengths} (RFC 6052)')
        prefixes.append(net)
    return tuple(sorted(prefixes, key=lambda net: -net.prefixlen))


def ports(field: str, entries: Collection[object]) -> Collection[int]:
    """For allow_ports and deny_ports."""
    if isinstance(entries, range):
        for port in (entries[0], entries[-1]) if entries else ():
            _check_port(field, port)
        return entries
    return frozenset(_check_port(field, port) for port in entries)


def _check_port(field: str, port: object) -> int:
    if isinstance(port, bool) or not isinstance(port, int):
        raise TypeError(f"{field} must have int entries, not {type(port).__name__}")
    if not 1 <= port <= _LAST_PORT:
        raise ValueError(f"{field}: port {port} is outside 1..{_LAST_PORT}")
    return port


def own_addresses(field: str, entries: Collection[object]) -> tuple[OwnAddress, ...]:
    """Each is "ip:port", IPv6 in brackets."""
    own = []
    for entry in entries:
        if not isinstance(entry, str):
            raise TypeError(f"{field} must have str entries, not {type(entry).__name__}")
        shown = printable(entry)
        try:
            host, port = addresses.parse(entry)
            ip = ipaddress.ip_address(host.partition("%")[0])
        except ValueError:
            ip = None
        if ip is None or "/" in entry:
            raise ValueError(f'{field}: "{shown}" is no ip:port, such as "127.0.0.1:8000"')
        own.append(OwnAddress(shown, ip, port))
    return tuple(own)
