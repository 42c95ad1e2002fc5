"""Egress policies: which hosts, ports and addresses may be dialled, and how many at once.

>>> policy = EgressPolicy.public_internet(deny_hosts=["*.corp.example"], max_open_sockets=20)
>>> str(policy.evaluate("wiki.corp.example", 443))
'the host is denied by deny_hosts "*.corp.example"'
>>> policy.evaluate("example.com", 443, ["93.184.215.14", "10.0.0.5"]).addresses
('93.184.215.14',)

Give one to connect() as `policy=`. A look-up is made once, and what was judged is what is dialled;
who controls a name gains nothing by changing its answers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Set
from dataclasses import dataclass, fields
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import TYPE_CHECKING, Any, TypedDict, get_args

from ._policy.terms import Check, Decision, Preset
from ._typing import Unpack

if TYPE_CHECKING:
    from ._policy.rules import Rules

__all__ = ["Decision", "EgressPolicy"]

Entry = str | IPv4Network | IPv6Network | IPv4Address | IPv6Address

_MOST_SHOWN = 3  # entries of a collection in a repr
# The fields that are collections, with an example for who mistakes one.
_COLLECTIONS = {
    "allow_hosts": '["db.example"]',
    "deny_hosts": '["db.example"]',
    "allow_networks": '["192.0.2.0/24"]',
    "deny_networks": '["192.0.2.0/24"]',
    "allow_ports": "[443]",
    "deny_ports": "[443]",
    "own_addresses": '["127.0.0.1:8000"]',
    "nat64_prefixes": '["64:ff9b::/96"]',
}
_OPTIONAL = {"allow_hosts", "allow_networks", "allow_ports"}


class EgressPolicyFields(TypedDict, total=False):
    """The fields of EgressPolicy as keywords of its presets."""

    allow_hosts: Collection[str] | None
    deny_hosts: Collection[str]
    allow_networks: Collection[Entry] | None
    deny_networks: Collection[Entry]
    allow_ports: Collection[int] | None
    deny_ports: Collection[int]
    own_addresses: Collection[str]
    nat64_prefixes: Collection[str]
    max_open_sockets: int | None
    check: Check | None


class _Compiled:
    """What a policy has besides its fields."""

    __slots__ = ("__weakref__", "_rules")

    if TYPE_CHECKING:  # no field
        _rules: tuple[Rules, ...]
        """Its own, after those of the policies that it combines."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class EgressPolicy(_Compiled):
    """What may be dialled. Host, port and address must each be allowed (rules P5 to P18).

    Args:
        allow_hosts: exact names, IP addresses, and "*.example.com" for all that is below; nothing
            else passes. None is every host. An allowed host is no pass for its address.
        deny_hosts: the same; deny always wins.
        allow_networks: CIDR or single addresses. With a preset these as well as what it allows,
            without one these alone. None is what the preset allows, or everything.
        deny_networks: the same; what is inside of an IPv6 address counts too.
        allow_ports: ports, or a range(); nothing else passes. None is every port.
        deny_ports: the same.
        own_addresses: where this program listens, as "ip:port": connecting there is a loop.
            "0.0.0.0:8000" and "[::]:8000" are every address of this machine.
        nat64_prefixes: addresses behind them are judged by the IPv4 address inside.
        max_open_sockets: connections that are open at once, counted for each object and process:
            make a policy once and share it.
        check: called last, for each address, as check(host, port, address), in the connection's
            thread. Only True lets through; a str is the reason why not.
        preset: what public_internet() and workers() set.

    `a & b` allows what both allow. A policy is fixed, hashable and, unless its `check` is not,
    picklable; a copy is the same object, and dataclasses.replace() makes one with a new count.

    Raises:
        TypeError, ValueError: a mistake; the message names the field and the entry.
    """

    allow_hosts: Collection[str] | None = None
    deny_hosts: Collection[str] = ()
    allow_networks: Collection[Entry] | None = None
    deny_networks: Collection[Entry] = ()
    allow_ports: Collection[int] | None = None
    deny_ports: Collection[int] = ()
    own_addresses: Collection[str] = ()
    nat64_prefixes: Collection[str] = ("64:ff9b::/96",)
    max_open_sockets: int | None = None
    check: Check | None = None
    preset: Preset | None = None

    def __post_init__(self) -> None:
        for name, example in _COLLECTIONS.items():
            given = getattr(self, name)
            if given is not None or name not in _OPTIONAL:
                object.__setattr__(self, name, _fixed(name, given, example))
        self._check_single_values()
        object.__setattr__(self, "_rules", (self._compile(),))

    def _check_single_values(self) -> None:
        limit = self.max_open_sockets
        if limit is not None:
            if isinstance(limit, bool) or not isinstance(limit, int):
                raise TypeError(f"max_open_sockets must be an int, not {type(limit).__name__}")
            if limit < 0:
                raise ValueError(f"max_open_sockets must be 0 or more, not {limit}")
        if self.check is not None and not callable(self.check):
            raise TypeError(f"check must be a callable, not {type(self.check).__name__}")
        if self.preset is not None:
            if not isinstance(self.preset, str):
                raise TypeError(f"preset must be a str, not {type(self.preset).__name__}")
            if self.preset not in get_args(Preset):
                known = " or ".join(f'"{name}"' for name in get_args(Preset))
                raise ValueError(f"preset must be {known}, not {self.preset!r}")

    def _compile(self) -> Rules:
        # Late, and so in evaluate(): most programs that import this have no policy (rule K2).
        from ._policy import entries
        from ._policy.counting import Counter
        from ._policy.rules import Rules

        nat64 = entries.nat64_prefixes("nat64_prefixes", self.nat64_prefixes)
        allow_hosts = allow_networks = allow_ports = counter = None
        if self.allow_hosts is not None:
            allow_hosts = entries.host_table("allow_hosts", self.allow_hosts, nat64)
        if self.allow_networks is not None:
            allow_networks = entries.network_table("allow_networks", self.allow_networks)
        if self.allow_ports is not None:
            allow_ports = entries.ports("allow_ports", self.allow_ports)
        if self.max_open_sockets is not None:
            counter = Counter(self.max_open_sockets)
        return Rules(
            allow_hosts=allow_hosts,
            deny_hosts=entries.host_table("deny_hosts", self.deny_hosts, nat64),
            allow_networks=allow_networks,
            deny_networks=entries.network_table("deny_networks", self.deny_networks, mapped=True),
            allow_ports=allow_ports,
            deny_ports=entries.ports("deny_ports", self.deny_ports),
            own_addresses=entries.own_addresses("own_addresses", self.own_addresses),
            nat64_prefixes=nat64,
            check=self.check,
            preset=self.preset,
            counter=counter,
        )

    @classmethod
    def public_internet(cls, **overrides: Unpack[EgressPolicyFields]) -> EgressPolicy:
        """A policy that lets nothing through but the public internet, and not port 25.

        Refused are loopback, private, link-local (cloud metadata), carrier-grade NAT, multicast,
        reserved, and every other special-purpose range of IANA's registries (rules P2 and P8).

        Args:
            overrides: the other fields.
        """
        return cls(preset="public_internet", **overrides)

    @classmethod
    def workers(cls, **overrides: Unpack[EgressPolicyFields]) -> EgressPolicy:
        """The same as public_internet(), with Cloudflare Workers' error messages word for word.

        They name no address, so strangers may see them; `PolicyViolation.decision` has the reason.
        """
        return cls(preset="workers", **overrides)

    def evaluate(self, host: str, port: int, addresses: Iterable[str] | None = None) -> Decision:
        """What connect() would do: without a look-up, a log record, or being counted.

        Args:
            host: as for connect(). For an IP address no `addresses` are needed.
            port: as for connect().
            addresses: what a look-up of the name would find; None judges the host and port alone.

        Raises:
            InvalidAddress, TypeError: the host or port cannot be one, as with connect().
        """
        from ._policy import judge

        return judge.evaluate(self._rules, host, port, addresses)

    def __and__(self, other: EgressPolicy) -> EgressPolicy:
        if not isinstance(other, EgressPolicy):
            return NotImplemented
        return _both()(policies=(self, other))

    def _given(self) -> dict[str, Any]:
        """The fields that differ from their defaults."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        defaults = {each.name: each.default for each in fields(self)}
        return {name: value for name, value in values.items() if value != defaults[name]}

    def __repr__(self) -> str:
        shown = [f"{name}={_short(value)}" for name, value in self._given().items()]
        counter = self._rules[-1].counter
        if counter is not None:
            shown.append(f"({len(counter)} open)")
        return f"<{' '.join(['EgressPolicy', *shown])}>"

    def __reduce__(self) -> tuple[object, ...]:
        return functools.partial(type(self), **self._given()), ()

    # Nothing in it changes but the count, which a copy must not begin anew.
    def __copy__(self) -> EgressPolicy:
        return self

    def __deepcopy__(self, memo: object) -> EgressPolicy:
        return self


@functools.cache  # a dataclass takes long to make, and few combine policies
def _both() -> Callable[..., EgressPolicy]:
    """The class of what `a & b` gives."""

    @dataclass(frozen=True, slots=True, kw_only=True, repr=False)
    class Both(EgressPolicy):
        """The rules of several policies, then its own, if dataclasses.replace() gave it any."""

        policies: tuple[EgressPolicy, ...]

        def __post_init__(self) -> None:
            EgressPolicy.__post_init__(self)
            object.__setattr__(self, "_rules", combine(self.policies) + self._rules)

        def _given(self) -> dict[str, Any]:
            given = EgressPolicy._given(self)
            del given["policies"]
            return given

        def __repr__(self) -> str:
            members = list(map(repr, self.policies))
            if self._given():
                members.append(EgressPolicy.__repr__(self))
            return " & ".join(members)

        def __reduce__(self) -> tuple[object, ...]:
            return _combined, (self.policies, self._given())

    return Both


def _combined(policies: tuple[EgressPolicy, ...], own: dict[str, Any]) -> EgressPolicy:
    """For pickle."""
    return _both()(policies=policies, **own)


def combine(policies: Iterable[EgressPolicy | None]) -> tuple[Rules, ...]:
    """The rules of several policies, in their order: a connection needs a yes of each (P14)."""
    return tuple(rules for policy in policies if policy is not None for rules in policy._rules)


def _short(value: object) -> str:
    """A repr, without the bulk of a long collection."""
    if isinstance(value, tuple) and len(value) > _MOST_SHOWN:
        first = ", ".join(map(repr, value[:_MOST_SHOWN]))
        return f"({first}, ... {len(value)} in all)"
    return repr(value)


def _fixed(field: str, entries: object, example: str) -> tuple[Any, ...] | range:
    """The entries of any field, fixed; a range() stays one. None of them is looked at."""
    if isinstance(entries, (str, bytes, bytearray)) or not isinstance(entries, Collection):
        raise TypeError(
            f"{field} must be a collection, such as {example}, not {type(entries).__name__}"
        )
    if isinstance(entries, range):
        return entries
    if isinstance(entries, Set):  # it has no order, and a policy is to be the same again
        return tuple(sorted(entries, key=str))
    return tuple(entries)
