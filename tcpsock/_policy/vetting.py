"""One connection before its policies: refusals become errors and log records.

The records go to the logger `tcpsock.policy` (rule P17) and hold the whole reason; the errors may
hold less.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

from .._dialing.address import host_port
from .._dialing.resolve import Candidate
from .._errors import PolicyViolation, printable
from .._info import Attempt
from .addresses import found
from .counting import Full, Place, take
from .hosts import Host
from .judge import Verdict, judge_addresses, judge_name
from .rules import Refusal, Rules
from .terms import Decision

__all__ = ["Vetting", "take_place"]

_log = logging.getLogger("tcpsock.policy")
logging.getLogger("tcpsock").addHandler(logging.NullHandler())  # nothing is printed by itself (L1)


class Vetting:
    """What Dialling asks: about the host and port before the look-up, then about the addresses.

    Args:
        rules: of every policy that applies, in their order.
        hostname, port: as given to connect().
        scope: the name of the socket's scope, for the log.
    """

    def __init__(
        self, rules: Sequence[Rules], hostname: str, port: int, scope: str | None = None
    ) -> None:
        self._rules = rules
        self._host = Host(hostname)
        self._port = port
        self._address = host_port(hostname, port)
        self._shown = host_port(printable(hostname), port)
        self._scope = scope

    def vet_name(self, hostname: str, port: int) -> None:
        """Raise PolicyViolation for a host or port that may not even be looked up."""
        self._raise_refusal(judge_name(self._rules, self._host, self._port))

    def vet_candidates(
        self, candidates: Sequence[Candidate]
    ) -> tuple[Sequence[Candidate], tuple[Attempt, ...]]:
        """Those that may be dialled, and an Attempt for each that may not; raises if none may."""
        addresses = []
        for candidate in candidates:
            ip, port, *flow_and_scope = candidate.sockaddr
            scope_id = flow_and_scope[1] if flow_and_scope else 0
            addresses.append((found(ip, scope_id), port))
        verdict = judge_addresses(self._rules, self._host, self._port, addresses)
        self._raise_refusal(verdict)
        allowed: list[Candidate] = []
        left_out: list[Attempt] = []
        for candidate, (address, _), refusal in zip(
            candidates, addresses, verdict.refusals, strict=True
        ):
            if refusal is None:
                allowed.append(candidate)
                continue
            error = self._violation(refusal, verdict.decision)
            # A list of attempts names the address itself, and has no room for advice.
            error.strerror = "left out by the policy"
            left_out.append(Attempt(candidate.address, 0.0, error))
            self._record(logging.INFO, "left out", refusal, address.text)
        return allowed, tuple(left_out)

    def _raise_refusal(self, verdict: Verdict) -> None:
        refusal = verdict.refusal
        if refusal is None:
            return
        peer = verdict.peer.text if verdict.peer else None
        self._record(logging.WARNING, "refused", refusal, peer)
        raise self._violation(refusal, verdict.decision) from refusal.cause

    def _violation(self, refusal: Refusal, decision: Decision) -> PolicyViolation:
        said = f"{self._shown}: {refusal.why}" if refusal.said is None else refusal.said
        error = PolicyViolation(said, address=self._address, code=refusal.code, decision=decision)
        error.__cause__ = refusal.cause
        return error

    def _record(self, level: int, done: str, refusal: Refusal, peer: str | None) -> None:
        message = f"{done} {self._shown}: {refusal.why}"
        _write(level, message, self._shown, peer, refusal.code, self._scope)


def take_place(rules: Sequence[Rules], address: str, scope: str | None = None) -> Place:
    """Count a connection in every policy that limits how many are open.

    Raises:
        PolicyViolation: a limit is reached.
    """
    counters = [each.counter for each in rules if each.counter is not None]
    try:
        return take(counters)
    except Full as full:
        taken, limit = full.args
    sockets = "1 socket is" if taken == 1 else f"{taken} sockets are"
    why = f"{sockets} open and max_open_sockets is {limit}"
    code = "policy-limit"
    shown = printable(address)
    _write(logging.WARNING, f"refused {shown}: {why}", shown, None, code, scope)
    decision = Decision(False, code, why, (), ())
    raise PolicyViolation(f"{shown}: {why}", address=address, code=code, decision=decision)


def _write(
    level: int, message: str, address: str, peer: str | None, code: str, scope: str | None
) -> None:
    """One record; a handler that raises breaks no connection."""
    facts = {"event": "policy", "address": address, "peer": peer, "code": code, "scope": scope}
    try:
        _log.log(level, "%s", message, extra={"tcpsock": facts})
    except BaseException as error:
        in_main = threading.current_thread() is threading.main_thread()
        if in_main and not isinstance(error, Exception):
            raise  # the user's Ctrl-C, and a thread of the user's
