"""Hosts as policies compare them, and those that only look like names.

Resolvers take "2130706433", "0x7f.1" and "127.1" for addresses, by rules of the 1980s that no two
of them read alike; whoever compares names doesn't see them coming. So a host that ends in a number
and is no dotted quad is refused, whatever it means (rule P10).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from ipaddress import IPv6Network

from .._dialing.address import dns_name, ip_literal
from .._errors import printable
from .addresses import found, stands_for
from .networks import IP

__all__ = ["Host", "HostTable"]

# WHATWG URL, "ends in a number checker": digits, or 0x and hexadecimal digits, even none.
_NUMBER = re.compile("[0-9]+|0[xX][0-9A-Fa-f]*")


class Host:
    """A host, in the form in which it is compared (rule P7).

    Attributes:
        name: IDNA A-labels in lower case, without the trailing dot; an IP address without scope.
        ip: the address that it is, or None.
        misspelt: whether it is a number that is no dotted quad.

    Raises:
        InvalidAddress: it cannot be a host (rules A1 and A2).
    """

    __slots__ = ("ip", "misspelt", "name")

    def __init__(self, hostname: str) -> None:
        # What a resolver gets: full-width digits and ideographic dots are plain ones by now.
        name = dns_name(hostname).partition("%")[0]
        self.ip: IP | None = None
        self.misspelt = False
        if ip_literal(name):
            address = found(name)
            self.name, self.ip = address.text, address.ip
        else:
            self.name = name.removesuffix(".").lower()
            self.misspelt = _NUMBER.fullmatch(self.name.rpartition(".")[2]) is not None


class HostTable:
    """Exact names, IP addresses, and "*.example.com" for everything below a name.

    Args:
        entries: as they were written.
        nat64: the prefixes behind which an IPv4 address is compared.

    Raises:
        ValueError: an entry is none of these; the message begins with the entry.
    """

    def __init__(self, entries: Collection[str], nat64: Sequence[IPv6Network]) -> None:
        self._nat64 = nat64
        self._names: dict[str, str] = {}
        self._parents: dict[str, str] = {}
        self._ips: dict[IP | None, str] = {}
        for entry in entries:
            self._add(entry)

    def _add(self, entry: str) -> None:
        name = entry.removeprefix("*.")
        shown = f'"{printable(entry)}"'
        if "*" in name:
            raise ValueError(f'{shown}: * can only stand as "*." before a name')
        if not name:
            raise ValueError(f"{shown} is no name")
        try:
            host = Host(name)
        except ValueError as error:
            raise ValueError(f"{shown} is no host: {error}") from None
        if host.misspelt:
            raise ValueError(f"{shown}: write an IP address as four decimal numbers")
        if host.ip is None:
            (self._names if name == entry else self._parents)[host.name] = entry
        elif name != entry:
            raise ValueError(f"{shown}: nothing is below an IP address")
        else:
            self._ips[stands_for(host.ip, self._nat64)] = entry

    def find(self, host: Host) -> str | None:
        """The entry that means this host; None if none does."""
        if host.ip is not None:
            return self._ips.get(stands_for(host.ip, self._nat64))
        if host.name in self._names:
            return self._names[host.name]
        parent = host.name
        while parent:
            parent = parent.partition(".")[2]
            if parent in self._parents:
                return self._parents[parent]
        return None
