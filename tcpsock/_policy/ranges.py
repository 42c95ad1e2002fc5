"""The ranges that are not the public internet, each with the document that says so.

They are written out rather than asked of `ipaddress`: its `is_global` and `is_private` differ
between Python versions, and call 224.0.0.1, ::127.0.0.1 and 64:ff9b::7f00:1 global. The presets
refuse every block of IANA's two special-purpose registries, "globally reachable" or not (192.0.0.9
is the control port of one's own NAT), and what stands in MORE (rule P8).

https://www.iana.org/assignments/iana-ipv4-special-registry/
https://www.iana.org/assignments/iana-ipv6-special-registry/
"""

from __future__ import annotations

import functools
import ipaddress
import re
from typing import NamedTuple

from .networks import IP, NetworkTable

__all__ = ["IPV4", "IPV6", "MORE", "REGISTRY_DATE", "Block", "not_public"]

REGISTRY_DATE = "2025-10-09"  # when both registries were last updated


class Block(NamedTuple):
    """A range that the presets refuse."""

    network: str
    name: str
    """The registry's; in MORE, ours."""
    source: str
    """The RFC, or whoever else says so."""
    since: str
    """Year and month of the registration; empty in MORE."""

    @property
    def said(self) -> str:
        """The name as it stands in a sentence."""
        if not self.since:
            return self.name
        return re.sub(r"\b[A-Z][a-z]+\b", lambda word: word[0].lower(), self.name)


IPV4 = (
    Block("0.0.0.0/8", '"This network"', "RFC 791", "1981-09"),
    Block("0.0.0.0/32", '"This host on this network"', "RFC 1122", "1981-09"),
    Block("10.0.0.0/8", "Private-Use", "RFC 1918", "1996-02"),
    Block("100.64.0.0/10", "Shared Address Space", "RFC 6598", "2012-04"),
    Block("127.0.0.0/8", "Loopback", "RFC 1122", "1981-09"),
    Block("169.254.0.0/16", "Link Local", "RFC 3927", "2005-05"),
    Block("172.16.0.0/12", "Private-Use", "RFC 1918", "1996-02"),
    Block("192.0.0.0/24", "IETF Protocol Assignments", "RFC 6890", "2010-01"),
    Block("192.0.0.0/29", "IPv4 Service Continuity Prefix", "RFC 7335", "2011-06"),
    Block("192.0.0.8/32", "IPv4 dummy address", "RFC 7600", "2015-03"),
    Block("192.0.0.9/32", "Port Control Protocol Anycast", "RFC 7723", "2015-10"),
    Block("192.0.0.10/32", "Traversal Using Relays around NAT Anycast", "RFC 8155", "2017-02"),
    Block("192.0.0.170/32", "NAT64/DNS64 Discovery", "RFC 8880", "2013-02"),
    Block("192.0.0.171/32", "NAT64/DNS64 Discovery", "RFC 8880", "2013-02"),
    Block("192.0.2.0/24", "Documentation (TEST-NET-1)", "RFC 5737", "2010-01"),
    Block("192.31.196.0/24", "AS112-v4", "RFC 7535", "2014-12"),
    Block("192.52.193.0/24", "AMT", "RFC 7450", "2014-12"),
    Block("192.88.99.0/24", "Deprecated (6to4 Relay Anycast)", "RFC 7526", "2001-06"),
    Block("192.88.99.2/32", "6a44-relay anycast address", "RFC 6751", "2012-10"),
    Block("192.168.0.0/16", "Private-Use", "RFC 1918", "1996-02"),
    Block("192.175.48.0/24", "Direct Delegation AS112 Service", "RFC 7534", "1996-01"),
    Block("198.18.0.0/15", "Benchmarking", "RFC 2544", "1999-03"),
    Block("198.51.100.0/24", "Documentation (TEST-NET-2)", "RFC 5737", "2010-01"),
    Block("203.0.113.0/24", "Documentation (TEST-NET-3)", "RFC 5737", "2010-01"),
    Block("240.0.0.0/4", "Reserved", "RFC 1112", "1989-08"),
    Block("255.255.255.255/32", "Limited Broadcast", "RFC 919", "1984-10"),
)
"""IANA IPv4 Special-Purpose Address Registry."""

IPV6 = (
    Block("::1/128", "Loopback Address", "RFC 4291", "2006-02"),
    Block("::/128", "Unspecified Address", "RFC 4291", "2006-02"),
    Block("::ffff:0:0/96", "IPv4-mapped Address", "RFC 4291", "2006-02"),
    Block("64:ff9b::/96", "IPv4-IPv6 Translat.", "RFC 6052", "2010-10"),
    Block("64:ff9b:1::/48", "IPv4-IPv6 Translat.", "RFC 8215", "2017-06"),
    Block("100::/64", "Discard-Only Address Block", "RFC 6666", "2012-06"),
    Block("100:0:0:1::/64", "Dummy IPv6 Prefix", "RFC 9780", "2025-04"),
    Block("2001::/23", "IETF Protocol Assignments", "RFC 2928", "2000-09"),
    Block("2001::/32", "TEREDO", "RFC 4380", "2006-01"),
    Block("2001:1::1/128", "Port Control Protocol Anycast", "RFC 7723", "2015-10"),
    Block("2001:1::2/128", "Traversal Using Relays around NAT Anycast", "RFC 8155", "2017-02"),
    Block("2001:1::3/128", "DNS-SD Service Registration Protocol Anycast", "RFC 9665", "2024-04"),
    Block("2001:2::/48", "Benchmarking", "RFC 5180", "2008-04"),
    Block("2001:3::/32", "AMT", "RFC 7450", "2014-12"),
    Block("2001:4:112::/48", "AS112-v6", "RFC 7535", "2014-12"),
    Block("2001:10::/28", "Deprecated (previously ORCHID)", "RFC 4843", "2007-03"),
    Block("2001:20::/28", "ORCHIDv2", "RFC 7343", "2014-07"),
    Block(
        "2001:30::/28",
        "Drone Remote ID Protocol Entity Tags (DETs) Prefix",
        "RFC 9374",
        "2022-12",
    ),
    Block("2001:db8::/32", "Documentation", "RFC 3849", "2004-07"),
    Block("2002::/16", "6to4", "RFC 3056", "2001-02"),
    Block("2620:4f:8000::/48", "Direct Delegation AS112 Service", "RFC 7534", "2011-05"),
    Block("3fff::/20", "Documentation", "RFC 9637", "2024-07"),
    Block("5f00::/16", "Segment Routing (SRv6) SIDs", "RFC 9602", "2024-04"),
    Block("fc00::/7", "Unique-Local", "RFC 4193", "2005-10"),
    Block("fe80::/10", "Link-Local Unicast", "RFC 4291", "2006-02"),
)
"""IANA IPv6 Special-Purpose Address Registry."""

MORE = (
    Block("224.0.0.0/4", "multicast", "RFC 5771", ""),
    Block("168.63.129.16/32", "Azure's WireServer, at a public address", "Microsoft", ""),
    Block("::/96", "an IPv4-compatible address", "RFC 4291", ""),
    Block("::ffff:0:0:0/96", "an IPv4-translated address", "RFC 2765", ""),
    Block("fec0::/10", "site-local", "RFC 3879", ""),
    Block("ff00::/8", "multicast", "RFC 4291", ""),
    Block("::/3", "outside of global unicast, 2000::/3", "RFC 4291", ""),
    Block("4000::/2", "outside of global unicast, 2000::/3", "RFC 4291", ""),
    Block("8000::/1", "outside of global unicast, 2000::/3", "RFC 4291", ""),
)
"""What else no preset lets through."""


def not_public(ip: IP) -> Block | None:
    """The narrowest block that makes an address no part of the public internet; None if none does.

    The address itself is judged, not what may be inside.
    """
    return _table().find(ip)


@functools.cache  # built when somebody first asks: most programs have no policy
def _table() -> NetworkTable[Block]:
    return NetworkTable(
        (ipaddress.ip_network(block.network), block) for block in (*IPV4, *IPV6, *MORE)
    )
