"""P8, P18 and D3: the ranges in the docs are those in the code, and the docs' Python runs."""

from __future__ import annotations

import doctest
import inspect
import ipaddress
import re
import textwrap
from typing import Any

import pytest

import tcpsock.policy
from tcpsock import EgressPolicy
from tcpsock._policy import rules
from tcpsock._policy.ranges import IPV4, IPV6, MORE, REGISTRY_DATE, not_public

from .network import Zone
from .ranges_table import PAGE, between, table

TEXT = PAGE.read_text()


def test_P8_the_docs_have_the_ranges_of_the_code() -> None:
    """If not: python tests/policy/ranges_table.py."""
    assert between(TEXT) == table()


def test_P8_every_row_has_its_RFC_its_name_and_its_date() -> None:
    assert REGISTRY_DATE >= "2025-10-09"
    assert len(IPV4) == 26 and len(IPV6) == 25  # one row of IANA's is two addresses
    for block in (*IPV4, *IPV6):
        assert re.fullmatch(r"RFC \d+", block.source), block
        assert re.fullmatch(r"(19|20)\d\d-(0[1-9]|1[012])", block.since), block
        assert block.name
    networks = [block.network for block in (*IPV4, *IPV6, *MORE)]
    assert len(set(networks)) == len(networks)
    for network in networks:
        ipaddress.ip_network(network)  # strict: no host bits


def test_P8_an_address_is_named_by_the_narrowest_block() -> None:
    for address, network in (
        ("0.0.0.0", "0.0.0.0/32"),
        ("0.0.0.1", "0.0.0.0/8"),
        ("192.0.0.1", "192.0.0.0/29"),
        ("192.0.0.9", "192.0.0.9/32"),
        ("192.0.0.99", "192.0.0.0/24"),
        ("2001::1", "2001::/32"),
        ("2001:1::3", "2001:1::3/128"),
        ("2001:1::4", "2001::/23"),
        ("::1", "::1/128"),
        ("::2", "::/96"),
        ("fe80::1", "fe80::/10"),
        ("fe00::1", "8000::/1"),
    ):
        block = not_public(ipaddress.ip_address(address))
        assert block is not None and block.network == network
    assert not_public(ipaddress.ip_address("8.8.8.8")) is None


def test_P8_every_block_is_refused_from_its_first_address_to_its_last() -> None:
    policy = EgressPolicy.public_internet(nat64_prefixes=[])
    judged_by_the_inner = {"::ffff:0:0/96", "2002::/16"}
    for block in (*IPV4, *IPV6, *MORE):
        if block.network not in judged_by_the_inner:
            net = ipaddress.ip_network(block.network)
            for ip in (net[0], net[-1]):
                assert not policy.evaluate(str(ip), 443), f"{ip} of {block}"


def test_P8_is_global_and_is_private_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """They differ between Python versions."""

    def asked(_: object) -> bool:
        raise AssertionError("asked")

    for kind in (ipaddress.IPv4Address, ipaddress.IPv6Address):
        for name in ("is_global", "is_private", "is_reserved", "is_link_local", "is_loopback"):
            monkeypatch.setattr(kind, name, property(asked))
    policy = EgressPolicy.public_internet(own_addresses=["0.0.0.0:80"])
    for address in ("8.8.8.8", "10.0.0.5", "::1", "2606:4700::1111", "::ffff:10.0.0.5"):
        policy.evaluate(address, 80)


def blocks() -> list[str]:
    found = re.findall(r"^\.\. code-block:: python\n\n((?:(?: {3}.*)?\n)+)", TEXT, re.M)
    return [textwrap.dedent(block) for block in found]


def test_D3_the_page_runs(zone: Zone, capsys: pytest.CaptureFixture[str]) -> None:
    zone["intranet.example"] = ["10.0.0.5"]
    names: dict[str, Any] = {"today": lambda: "Sunday"}
    for block in blocks():
        exec(compile(block, str(PAGE), "exec"), names)
    names["test_internal_addresses_are_refused"]()
    assert names["office_hours"]("db.example", 80, "8.8.8.8") == "closed on Sundays"
    assert capsys.readouterr().out == "policy-address\nallowed, save 1 of 2 addresses\n"


def test_D3_the_modules_examples_run() -> None:
    assert doctest.testmod(tcpsock.policy) == (0, 3)


def test_D5_the_page_has_every_field_and_every_code() -> None:
    for field in EgressPolicy.__dataclass_fields__:
        assert f"``{field}``" in TEXT or field == "preset"
    in_code = set(re.findall(r'"(policy-[a-z]+)"', inspect.getsource(rules)))
    assert set(re.findall(r"^``(policy-[a-z]+)``", TEXT, re.M)) == in_code | {"policy-limit"}
