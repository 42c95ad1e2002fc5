"""Several policies, asked in their order: each of them must allow (rules P5, P11 and P14)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .._dialing.address import check_host, check_port, dns_name
from .addresses import Found, found
from .hosts import Host
from .rules import Refusal, Rules
from .terms import Decision

__all__ = ["Verdict", "evaluate", "judge_addresses", "judge_name"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """A decision, and what is behind it."""

    decision: Decision
    refusal: Refusal | None
    """The one that is reported; None if allowed."""
    peer: Found | None
    """The address that it is about."""
    refusals: Sequence[Refusal | None]
    """One for each address; None for those that may be dialled."""


def evaluate(
    rules: Sequence[Rules], hostname: str, port: int, addresses: Iterable[str] | None
) -> Decision:
    """The dry run: see EgressPolicy.evaluate()."""
    host, port = Host(check_host(hostname)), check_port(port)
    if isinstance(addresses, str):
        raise TypeError("addresses must be a collection of str, not str")
    verdict = judge_name(rules, host, port)
    if host.ip is not None:
        addresses = [dns_name(hostname)]
    if verdict.refusal is None and addresses is not None:
        verdict = judge_addresses(rules, host, port, [(found(str(ip)), port) for ip in addresses])
    return verdict.decision


def judge_name(rules: Iterable[Rules], host: Host, port: int) -> Verdict:
    """What can be said before any look-up."""
    for each in rules:
        refusal = each.refuse_name(host, port)
        if refusal is not None:
            return Verdict(Decision(False, refusal.code, refusal.why, (), ()), refusal, None, ())
    return Verdict(Decision(True, None, "allowed", (), ()), None, None, ())


def judge_addresses(
    rules: Sequence[Rules], host: Host, asked: int, addresses: Sequence[tuple[Found, int]]
) -> Verdict:
    """What can be said of the addresses that a host has.

    Args:
        rules: of every policy; none of them refuses the name.
        host, asked: as given to connect().
        addresses: each with the port that would be dialled there.
    """
    refusals = [_judge(rules, host, asked, address, port) for address, port in addresses]
    given = [address.given for address, _ in addresses]
    allowed = tuple(text for text, refusal in zip(given, refusals, strict=True) if refusal is None)
    refused = tuple(
        (text, refusal.why) for text, refusal in zip(given, refusals, strict=True) if refusal
    )
    if allowed:
        reason = "allowed"
        if refused:
            reason += f", save {len(refused)} of {len(given)} addresses"
        return Verdict(Decision(True, None, reason, allowed, refused), None, None, refusals)
    # A loop goes first, wherever it stands; then the first.
    order = sorted(
        (refusal.code != "policy-loop", place) for place, refusal in enumerate(refusals) if refusal
    )
    if not order:
        refusal = Refusal("policy-address", "the host has no address", None)
        return Verdict(Decision(False, refusal.code, refusal.why, (), ()), refusal, None, ())
    place = order[0][1]
    reported = refusals[place]
    assert reported is not None
    decision = Decision(False, reported.code, reported.why, (), refused)
    return Verdict(decision, reported, addresses[place][0], refusals)


def _judge(
    rules: Sequence[Rules], host: Host, asked: int, address: Found, port: int
) -> Refusal | None:
    for each in rules:
        refusal = each.refuse_own(address, port)
        if refusal is not None:
            return refusal
    for each in rules:
        refusal = each.refuse_address(host, asked, address)
        if refusal is not None:
            return refusal
    return None
