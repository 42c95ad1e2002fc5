"""IP networks: read from what people write, and found by an address that is in them."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Generic, TypeVar

__all__ = ["IP", "Network", "NetworkTable", "network"]

IP = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

T = TypeVar("T")

_TYPES = (
    ipaddress.IPv4Network,
    ipaddress.IPv6Network,
    ipaddress.IPv4Address,
    ipaddress.IPv6Address,
)
# No masks ("10.0.0.0/255.0.0.0"): a hostmask looks much like one and means the opposite.
_WRITTEN = re.compile(r"[0-9A-Fa-f:.]+(/[0-9]{1,3})?")


def network(entry: object) -> Network:
    """A network from CIDR notation, from one address, or from the objects of `ipaddress`.

    Raises:
        TypeError: it is none of these.
        ValueError: it is no network; the message ends a sentence that begins with the entry.
    """
    if not isinstance(entry, (str, *_TYPES)):
        raise TypeError(f"must be CIDR or an address, not {type(entry).__name__}")
    text = str(entry)
    if not _WRITTEN.fullmatch(text):
        raise ValueError("is no network; write CIDR or one address")
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        pass
    try:
        meant = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError("is no network; write CIDR or one address") from None
    raise ValueError(f"has host bits set; the network is {meant}")


class NetworkTable(Generic[T]):
    """Which of many networks an address is in: the narrowest of them, however many there are."""

    def __init__(self, rows: Iterable[tuple[Network, T]]) -> None:
        by_length: dict[tuple[int, int], dict[int, T]] = {}
        for net, row in rows:
            networks = by_length.setdefault((net.version, net.prefixlen), {})
            networks.setdefault(_prefix(net.network_address, net.prefixlen), row)
        self._by_length = sorted(by_length.items(), reverse=True, key=lambda item: item[0])

    def find(self, ip: IP) -> T | None:
        """What stands beside the narrowest network that has the address; None if none has."""
        for (version, length), networks in self._by_length:
            if version == ip.version:
                found = networks.get(_prefix(ip, length))
                if found is not None:
                    return found
        return None


def _prefix(ip: IP, length: int) -> int:
    """The first `length` bits."""
    return int(ip) >> (ip.max_prefixlen - length)
