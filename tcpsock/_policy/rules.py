"""The three questions of one policy: may this host, this port, this address be dialled?

In each the user's deny beats the user's allow, which beats the preset, which beats yes (rule P6).
An answer of no is a Refusal, with the reason for whoever runs the program, and what an error may
say to strangers where the preset wants that kept apart.
"""

from __future__ import annotations

import threading
from collections.abc import Container, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Network
from typing import NamedTuple

from .._dialing.address import host_port
from .._errors import bare, printable
from .addresses import Found, inner_addresses, is_this_machine, isatap, stands_for
from .counting import Counter
from .hosts import Host, HostTable
from .networks import IP, NetworkTable
from .ranges import not_public
from .terms import Check, Preset

__all__ = ["OwnAddress", "Refusal", "Rules"]

_SMTP = 25  # mail servers among themselves; what spam needs

# Cloudflare Workers' messages, word for word; they name nothing, and strangers may see them.
_NO_SUCH_ADDRESS = "proxy request failed, cannot connect to the specified address"
_WORKERS = {
    "policy-spelling": _NO_SUCH_ADDRESS,
    "policy-address": _NO_SUCH_ADDRESS,
    "policy-check": _NO_SUCH_ADDRESS,
    "policy-loop": "TCP Loop detected",
}
_WORKERS_SMTP = "Connections to port 25 are prohibited"


class Refusal(NamedTuple):
    """Why something may not be dialled."""

    code: str
    why: str
    """The whole reason."""
    said: str | None
    """What the error says in place of the address asked for and the reason."""
    cause: BaseException | None = None


class OwnAddress(NamedTuple):
    """Where this program itself listens."""

    entry: str
    ip: IP
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What one policy allows; its fields, ready to be asked."""

    allow_hosts: HostTable | None
    deny_hosts: HostTable
    allow_networks: NetworkTable[str] | None
    deny_networks: NetworkTable[str]
    allow_ports: Container[int] | None
    deny_ports: Container[int]
    own_addresses: Sequence[OwnAddress]
    nat64_prefixes: Sequence[IPv6Network]
    check: Check | None
    preset: Preset | None
    counter: Counter | None

    def refuse_name(self, host: Host, port: int) -> Refusal | None:
        """What is refused before any look-up: spelling, port, host."""
        if host.misspelt:
            return self._refuse(
                "policy-spelling",
                f"{printable(host.name)} is a number in an unusual spelling, which may mean any"
                " address; write an IP address as four decimal numbers",
            )
        return self._refuse_port(port) or self._refuse_host(host)

    def _refuse_port(self, port: int) -> Refusal | None:
        if port in self.deny_ports:
            return self._refuse("policy-port", f"the port is in deny_ports ({port})")
        if self.allow_ports is not None:
            if port in self.allow_ports:
                return None
            return self._refuse("policy-port", f"port {port} is not in allow_ports")
        if self.preset is not None and port == _SMTP:
            return Refusal(
                "policy-port",
                f"port {port} (mail between servers) is refused by the preset {self.preset};"
                " if this is meant: allow_ports",
                _WORKERS_SMTP if self.preset == "workers" else None,
            )
        return None

    def _refuse_host(self, host: Host) -> Refusal | None:
        denied = self.deny_hosts.find(host)
        if denied is not None:
            return self._refuse(
                "policy-host", f'the host is denied by deny_hosts "{printable(denied)}"'
            )
        if self.allow_hosts is not None and self.allow_hosts.find(host) is None:
            return self._refuse("policy-host", "the host is not in allow_hosts")
        return None

    def refuse_own(self, address: Found, port: int) -> Refusal | None:
        """A loop: the program would connect to itself (rule P12)."""
        if address.ip is None:
            return None
        targets = [address.ip, *inner_addresses(address.ip, self.nat64_prefixes)]
        for own in self.own_addresses:
            if own.port != port:
                continue
            if any(
                target == own.ip
                or target.is_unspecified
                or (own.ip.is_unspecified and is_this_machine(target, address.scope_id))
                for target in targets
            ):
                return self._refuse(
                    "policy-loop",
                    f"TCP Loop detected: {host_port(address.text, port)} is this program itself"
                    f' (own_addresses "{own.entry}")',
                )
        return None

    def refuse_address(self, host: Host, port: int, address: Found) -> Refusal | None:
        """deny_networks, allow_networks, the preset, and at last `check` (rule P5)."""
        ip = address.ip
        if ip is None:
            return self._refuse("policy-address", f'"{printable(address.text)}" is no IP address')
        for any_of in (ip, *inner_addresses(ip, self.nat64_prefixes)):
            denied = self.deny_networks.find(any_of)
            if denied is not None:
                return self._refuse(
                    "policy-address",
                    f'{_subject(address, any_of)} denied by deny_networks "{denied}"',
                )
        judged = stands_for(ip, self.nat64_prefixes)
        if judged is None:
            return self._refuse(
                "policy-address",
                f"{address.text} has a NAT64 prefix, but not the format of RFC 6052",
            )
        for each in (judged, isatap(ip)):
            refusal = None if each is None else self._refuse_ip(host, address, each)
            if refusal is not None:
                return refusal
        return self._ask(host, port, address)

    def _refuse_ip(self, host: Host, address: Found, ip: IP) -> Refusal | None:
        """allow_networks and the preset, for the address or one inside."""
        if self.allow_networks is not None and self.allow_networks.find(ip) is not None:
            return None
        if self.preset is not None:
            block = not_public(ip)
            if block is None:
                return None
            why = f"{block.said} ({block.network}, {block.source}), not public internet"
            # Of our own rows some are half of all addresses: nobody means those.
            needed = block.network if block.since else ip
        elif self.allow_networks is not None:
            why, needed = "not in allow_networks", ip
        else:
            return None
        beside = ""
        if self.allow_hosts is not None:
            beside = " too: that a host is in allow_hosts is no pass for its address"
        return self._refuse(
            "policy-address",
            f"{_subject(address, ip)} {why};"
            f' if this is meant: allow_networks=("{needed}",){beside}',
        )

    def _ask(self, host: Host, port: int, address: Found) -> Refusal | None:
        """`check`: nothing but True lets through (rule P13)."""
        if self.check is None:
            return None
        cause: BaseException | None = None
        try:
            answer = self.check(host.name, port, address.text)
        except BaseException as error:
            in_main = threading.current_thread() is threading.main_thread()
            if in_main and not isinstance(error, Exception):
                raise  # Ctrl-C in evaluate()
            cause = bare(error)
            said = f"it raised {printable(repr(error))}"
        else:
            if answer is True:
                return None
            if isinstance(answer, str):
                said = printable(answer)
            elif answer is False:
                said = "it said no"
            else:
                said = f"it returned {type(answer).__name__}, and only True lets through"
        why = f"{address.text} is refused by check: {said}"
        return self._refuse("policy-check", why, cause)

    def _refuse(self, code: str, why: str, cause: BaseException | None = None) -> Refusal:
        said = _WORKERS.get(code) if self.preset == "workers" else None
        return Refusal(code, why, said, cause)


def _subject(address: Found, ip: IP) -> str:
    """The beginning of a sentence about an address, or about one that is inside of it."""
    if ip == address.ip:
        return f"{address.text} is"
    return f"{address.text} holds {ip}, which is"
