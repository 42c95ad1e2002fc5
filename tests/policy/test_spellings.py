"""What attackers try is refused and what people mean is allowed: the whole table, by connect()."""

from __future__ import annotations

import ipaddress
import unicodedata
from collections.abc import Iterator
from typing import Any

import pytest
from peers import WAIT

import tcpsock
from tcpsock import EgressPolicy, InvalidAddress, PolicyViolation

from .network import Dials, QuietListener, Zone
from .spellings import ALLOWED, REFUSED


def rows() -> Iterator[Any]:
    for source, fates in REFUSED.items():
        for fate, hosts in fates.items():
            for host in hosts:
                yield pytest.param(host, fate, source, id=ascii(host))


def known(zone: Zone, row: str) -> tuple[str, list[str] | None]:
    """The host of a row, and what it resolves to, which the zone knows from now on."""
    host, arrow, answer = row.partition(" -> ")
    if not arrow:
        return host, None
    zone[host.encode("idna").decode().lower().removesuffix(".")] = answer.split()
    return host, answer.split()


def test_the_table_is_large_enough_and_says_everything_once() -> None:
    refused = [host for fates in REFUSED.values() for hosts in fates.values() for host in hosts]
    allowed = [host for hosts in ALLOWED.values() for host in hosts]
    assert len(set(refused)) >= 200 and len(set(allowed)) >= 60
    assert not set(refused) & set(allowed)
    for hosts in [*ALLOWED.values(), *(h for fates in REFUSED.values() for h in fates.values())]:
        assert len(hosts) == len(set(hosts))


@pytest.mark.parametrize(("row", "fate", "source"), list(rows()))
def test_P8_P9_P10_what_attackers_try_is_refused(
    row: str, fate: str, source: str, zone: Zone, dials: Dials, listener: QuietListener
) -> None:
    """The presets refuse it, by the right rule, and the listener sees nobody."""
    host, answer = known(zone, row)
    for policy in (EgressPolicy.public_internet(), EgressPolicy.workers()):
        if fate == "invalid":
            with pytest.raises(InvalidAddress):
                tcpsock.connect((host, listener.port), policy=policy)
            continue
        del zone.asked[:]
        sock = tcpsock.connect((host, listener.port), policy=policy)
        error = sock.opened.exception(WAIT)
        assert isinstance(error, PolicyViolation), source
        assert error.code == ("policy-spelling" if fate == "spelling" else "policy-address"), source
        assert len(zone.asked) == (1 if fate == "answer" else 0), source
        assert not policy.evaluate(host, 443, answer), source
    if fate == "spelling":
        assert EgressPolicy().evaluate(host, 80).code == "policy-spelling"
    assert dials.made == []
    assert listener.saw_nobody()


@pytest.mark.parametrize(
    ("row", "source"),
    [
        pytest.param(host, source, id=ascii(host))
        for source, hosts in ALLOWED.items()
        for host in hosts
    ],
)
def test_P8_P9_P10_what_people_mean_is_allowed(
    row: str, source: str, zone: Zone, dials: Dials
) -> None:
    """It is dialled (which leads nowhere here), at its public addresses and at no other."""
    host, answer = known(zone, row)
    plain = unicodedata.normalize("NFKC", host).replace("\u3002", ".")
    expected = {str(ipaddress.ip_address(text)) for text in answer or [plain]}
    expected -= {"10.0.0.5", "fd00::5"}
    for policy in (EgressPolicy.public_internet(), EgressPolicy.workers()):
        del zone.asked[:], dials.made[:]
        sock = tcpsock.connect((host, 443), policy=policy)
        error = sock.opened.exception(WAIT)
        assert isinstance(error, tcpsock.ConnectError), source
        assert set(dials.made) == expected and len(dials.made) == len(expected), source
        assert len(zone.asked) == (1 if answer else 0), source
        assert policy.evaluate(host, 443, answer), source
