"""P2, P5 to P10, P12 to P14: what a policy answers, asked by evaluate()."""

# ruff: noqa: RUF001  (look-alikes are what these tests are about)

from __future__ import annotations

import ipaddress
import socket
import threading
from collections.abc import Iterable
from typing import Any

import pytest

from tcpsock import EgressPolicy
from tcpsock._policy.addresses import is_this_machine

from .network import PUBLIC, Zone

public_internet = EgressPolicy.public_internet
workers = EgressPolicy.workers
PRESETS = pytest.mark.parametrize("preset", [public_internet, workers])


def code(policy: EgressPolicy, host: str, port: int = 80, *addresses: str) -> str | None:
    return policy.evaluate(host, port, addresses or None).code


# P5: the order


def no(host: str, port: int, address: str) -> bool:
    return False


def test_P5_the_first_question_that_says_no_is_reported() -> None:
    """Spelling, port, host; then own, deny_networks, allow_networks, preset, check."""
    everything: dict[str, Any] = {
        "preset": "public_internet",
        "check": no,
        "allow_networks": ["192.0.2.0/24"],
        "deny_networks": ["10.0.0.0/8"],
        "own_addresses": ["10.0.0.5:80"],
        "deny_hosts": ["db.example"],
        "deny_ports": [80],
    }
    seen = []
    while everything:
        policy = EgressPolicy(**everything)
        seen.append((code(policy, "0x7f.1"), code(policy, "db.example", 80, "10.0.0.5")))
        everything.popitem()
    assert {spelling for spelling, _ in seen} == {"policy-spelling"}
    assert [other for _, other in seen] == [
        "policy-port",
        "policy-host",
        "policy-loop",
        *["policy-address"] * 4,
    ]


def test_P5_the_reasons_come_in_that_order_too() -> None:
    network = {"allow_networks": ["192.0.2.0/24"], "check": no}
    denied = EgressPolicy(deny_networks=["10.0.0.0/8"], **network)
    assert "deny_networks" in denied.evaluate("10.0.0.5", 80).reason
    assert "allow_networks" in EgressPolicy(**network).evaluate("10.0.0.5", 80).reason
    assert "RFC 1918" in public_internet(**network).evaluate("10.0.0.5", 80).reason
    assert "check" in public_internet(**network).evaluate(PUBLIC, 80).reason


def test_P5_if_an_address_is_an_own_one_the_loop_is_reported() -> None:
    policy = public_internet(own_addresses=["127.0.0.1:8000"])
    answer = ["10.0.0.5", "127.0.0.1", "10.0.0.6"]
    decision = policy.evaluate("db.example", 8000, answer)
    assert decision.code == "policy-loop"
    assert [address for address, _ in decision.refused] == answer
    outer = public_internet(deny_networks=["127.0.0.0/8"]) & EgressPolicy(
        own_addresses=["127.0.0.1:8000"]
    )
    assert code(outer, "db.example", 8000, *answer) == "policy-loop"


# P6: host, port, address; deny beats allow beats the preset beats yes


def test_P6_nothing_given_is_yes() -> None:
    policy = EgressPolicy()
    for address in ("127.0.0.1", "10.0.0.5", PUBLIC, "::1", "fe80::1", "224.0.0.1", "0.0.0.0"):
        assert policy.evaluate(address, 25).addresses == (address,)
        assert policy.evaluate("db.example", 25, [address])
    assert policy.evaluate("db.example", 25)


@pytest.mark.parametrize("preset", [None, "public_internet", "workers"])
def test_P6_deny_beats_allow(preset: Any) -> None:
    policy = EgressPolicy(
        preset=preset,
        allow_hosts=["*.example"],
        deny_hosts=["db.example"],
        allow_ports=[80, 81],
        deny_ports=[81],
        allow_networks=["10.0.0.0/8", PUBLIC],
        deny_networks=["10.1.0.0/16"],
    )
    assert policy.evaluate("web.example", 80, ["10.0.0.5"])
    assert code(policy, "db.example", 80, "10.0.0.5") == "policy-host"
    assert code(policy, "web.example", 81, "10.0.0.5") == "policy-port"
    assert code(policy, "web.example", 80, "10.1.0.5") == "policy-address"
    narrower = EgressPolicy(
        preset=preset, allow_networks=["10.1.0.5"], deny_networks=["10.0.0.0/8"]
    )
    assert code(narrower, "10.1.0.5") == "policy-address"


def test_P6_the_reason_names_field_and_entry() -> None:
    policy = EgressPolicy(
        deny_hosts=["*.evil.test"],
        deny_ports=[22],
        deny_networks=[ipaddress.ip_network("10.0.0.0/8")],
    )
    assert 'deny_hosts "*.evil.test"' in str(policy.evaluate("a.evil.test", 80))
    assert "deny_ports (22)" in str(policy.evaluate("db.example", 22))
    assert 'deny_networks "10.0.0.0/8"' in str(policy.evaluate("10.0.0.5", 80))


@pytest.mark.parametrize("preset", [None, "public_internet", "workers"])
def test_P6_when_given_nothing_else_passes(preset: Any) -> None:
    hosts = EgressPolicy(preset=preset, allow_hosts=["db.example"])
    assert hosts.evaluate("db.example", 80, [PUBLIC])
    assert code(hosts, "web.example") == code(hosts, PUBLIC) == "policy-host"
    ports = EgressPolicy(preset=preset, allow_ports=range(80, 82))
    assert ports.evaluate("db.example", 81)
    assert code(ports, "db.example", 82) == code(ports, "db.example", 25) == "policy-port"
    for nothing in (EgressPolicy(allow_hosts=()), EgressPolicy(allow_ports=())):
        assert not nothing.evaluate("db.example", 80)
    assert code(EgressPolicy(allow_networks=()), PUBLIC) == "policy-address"


@PRESETS
def test_P6_a_port_named_lifts_the_preset_on_25(preset: Any) -> None:
    assert code(preset(), "mail.example", 25) == "policy-port"
    assert preset(allow_ports=[25, 587]).evaluate("mail.example", 25, [PUBLIC])
    assert code(preset(allow_ports=[587]), "mail.example", 25) == "policy-port"
    assert code(preset(allow_ports=[25], deny_ports=[25]), "mail.example", 25) == "policy-port"
    assert EgressPolicy().evaluate("mail.example", 25)


@PRESETS
def test_P6_allow_networks_with_a_preset_is_these_as_well(preset: Any) -> None:
    policy = preset(allow_networks=["10.0.0.0/8", "::1"])
    for address in ("10.0.0.5", "::1", PUBLIC, "2606:4700::1111"):
        assert policy.evaluate("db.example", 80, [address])
    for address in ("127.0.0.1", "192.168.0.1", "::2"):
        assert code(policy, address) == "policy-address"


def test_P6_allow_networks_without_one_is_these_alone() -> None:
    policy = EgressPolicy(allow_networks=["10.0.0.0/8", "::1"])
    for address in ("10.0.0.5", "::1"):
        assert policy.evaluate(address, 80)
    for address in ("127.0.0.1", PUBLIC, "2606:4700::1111"):
        assert code(policy, address) == "policy-address"


def test_P6_an_allowed_host_is_no_pass_for_its_address_and_the_text_says_so() -> None:
    policy = public_internet(allow_hosts=["db.internal"])
    decision = policy.evaluate("db.internal", 5432, ["10.0.0.5"])
    assert decision.code == "policy-address"
    assert 'allow_networks=("10.0.0.0/8",)' in decision.reason
    assert "allow_hosts is no pass for its address" in decision.reason
    both = public_internet(allow_hosts=["db.internal"], allow_networks=["10.0.0.0/8"])
    assert both.evaluate("db.internal", 5432, ["10.0.0.5"])
    literal = public_internet(allow_hosts=["10.0.0.5"])
    assert code(literal, "10.0.0.5") == "policy-address"


def test_P6_the_error_text_of_the_preset() -> None:
    assert public_internet().evaluate("db.example", 80, ["10.0.0.5"]).reason == (
        "10.0.0.5 is private-use (10.0.0.0/8, RFC 1918), not public internet;"
        ' if this is meant: allow_networks=("10.0.0.0/8",)'
    )


# P7: hosts


@pytest.mark.parametrize(
    ("entry", "same", "different"),
    [
        (
            "db.example",
            [
                "db.example",
                "DB.Example",
                "db.example.",
                "ｄｂ.example",
                "db。example",
                "d\u00adb.example",
            ],
            ["a.db.example", "xdb.example", "example", "db.example.org", "db-example"],
        ),
        (
            "DB.EXAMPLE.",
            ["db.example", "db.example."],
            ["db.examples"],
        ),
        (
            "*.example.com",
            ["a.example.com", "a.b.c.example.com", "A.EXAMPLE.COM.", "xn--mnchen-3ya.example.com"],
            ["example.com", "evilexample.com", "a.example.com.evil.test", "com", "a.example.co"],
        ),
        ("*.COM.", ["a.com", "a.b.com"], ["com", "a.como"]),
        (
            "münchen.example",
            [
                "xn--mnchen-3ya.example",
                "MÜNCHEN.example",
                "XN--MNCHEN-3YA.example",
                "mu\u0308nchen.example",
            ],
            ["munchen.example", "muenchen.example"],
        ),
        ("xn--mnchen-3ya.example", ["münchen.example"], ["munchen.example"]),
        ("*.bücher.example", ["a.xn--bcher-kva.example"], ["xn--bcher-kva.example"]),
        (
            "192.0.2.1",
            ["192.0.2.1", "１９２.0.2.1", "::ffff:192.0.2.1", "::FFFF:c000:201"],
            ["192.0.2.2"],
        ),
        ("192.0.2.1", ["64:ff9b::192.0.2.1", "2002:c000:201::9"], ["64:ff9b:1::192.0.2.1"]),
        ("::1", ["0:0:0:0:0:0:0:1", "::0001", "0::1"], ["::2", "127.0.0.1", "::0.0.0.2"]),
        ("2001:DB8::1", ["2001:db8:0::1"], ["2001:db8::2"]),
        ("fe80::1%lo", ["fe80::1", "fe80::1%eth0", "fe80::1%1"], ["fe80::2"]),
        ("localhost", ["LOCALHOST", "localhost."], ["127.0.0.1", "a.localhost"]),
    ],
)
def test_P7_hosts_are_compared_in_one_form(
    entry: str, same: Iterable[str], different: Iterable[str]
) -> None:
    """A-labels, lower case, no trailing dot; an IP literal as an address."""
    allowing, denying = EgressPolicy(allow_hosts=[entry]), EgressPolicy(deny_hosts=[entry])
    for host in same:
        assert allowing.evaluate(host, 80), host
        assert code(denying, host) == "policy-host", host
    for host in different:
        assert code(allowing, host) == "policy-host", host
        assert denying.evaluate(host, 80), host


# P8: the ranges are tested by the table in spellings.py, by test_ranges.py, and by the fuzzer.


@PRESETS
@pytest.mark.parametrize("address", ["192.0.0.9", "192.0.0.10", "192.31.196.1", "2001:20::1"])
def test_P8_special_purpose_is_refused_though_globally_reachable(preset: Any, address: str) -> None:
    assert code(preset(), address) == "policy-address"


# P9: the address inside


@PRESETS
@pytest.mark.parametrize("outside", ["::ffff:{}", "64:ff9b::{}", "{six}"])
def test_P9_mapped_nat64_and_6to4_are_judged_by_the_inner_address_alone(
    preset: Any, outside: str
) -> None:
    def wrap(ipv4: str) -> str:
        packed = socket.inet_aton(ipv4)
        six = f"2002:{packed[:2].hex()}:{packed[2:].hex()}::1"
        return outside.format(ipv4, six=six)

    policy = preset()
    assert policy.evaluate(wrap(PUBLIC), 80)
    for inner in ("127.0.0.1", "10.0.0.5", "169.254.169.254", "168.63.129.16", "0.0.0.0"):
        decision = policy.evaluate(wrap(inner), 80)
        assert decision.code == "policy-address"
        assert f"holds {inner}" in decision.reason
    assert preset(allow_networks=["10.0.0.0/8"]).evaluate(wrap("10.0.0.5"), 80)
    for lifts_nothing in ("64:ff9b::/96", "::ffff:0:0/96", "2002::/16", "::/0"):
        assert not preset(allow_networks=[lifts_nothing]).evaluate(wrap("10.0.0.5"), 80)
    assert EgressPolicy(allow_networks=["10.0.0.0/8"]).evaluate(wrap("10.0.0.5"), 80)
    assert not EgressPolicy(allow_networks=["2000::/3", "::/3"]).evaluate(wrap("10.0.0.5"), 80)


# RFC 6052 section 2.4, table 2: 192.0.2.33 behind prefixes of each length.
RFC_6052 = [
    ("2001:db8::/32", "2001:db8:c000:221::"),
    ("2001:db8:100::/40", "2001:db8:1c0:2:21::"),
    ("2001:db8:122::/48", "2001:db8:122:c000:2:2100::"),
    ("2001:db8:122:300::/56", "2001:db8:122:3c0:0:221::"),
    ("2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100::"),
    ("2001:db8:122:344::/96", "2001:db8:122:344::192.0.2.33"),
]


@pytest.mark.parametrize(("prefix", "address"), RFC_6052)
def test_P9_the_layouts_of_RFC_6052(prefix: str, address: str) -> None:
    policy = EgressPolicy(nat64_prefixes=[prefix], allow_networks=["192.0.2.33"])
    assert policy.evaluate(address, 80)
    other = EgressPolicy(nat64_prefixes=[prefix], deny_networks=["192.0.2.33"])
    assert "holds 192.0.2.33" in other.evaluate(address, 80).reason
    assert code(public_internet(nat64_prefixes=[prefix]), address) == "policy-address"


@pytest.mark.parametrize(("prefix", "address"), RFC_6052[:-1])
def test_P9_what_is_not_in_the_format_of_RFC_6052_is_refused(prefix: str, address: str) -> None:
    """Bits 64 to 71 are zero (section 2.2): who knows what a translator makes of another."""
    packed = bytearray(ipaddress.ip_address(address).packed)
    packed[8] = 1
    policy = EgressPolicy(nat64_prefixes=[prefix])
    assert policy.evaluate(address, 80)
    decision = policy.evaluate(str(ipaddress.ip_address(bytes(packed))), 80)
    assert decision.code == "policy-address" and "RFC 6052" in decision.reason


def test_P9_the_narrowest_nat64_prefix_counts() -> None:
    prefixes = ["2001:db8::/32", "2001:db8:122:344::/96"]
    policy = EgressPolicy(nat64_prefixes=prefixes, allow_networks=["192.0.2.33"])
    for address in ("2001:db8:122:344::192.0.2.33", "2001:db8:c000:221::"):
        assert policy.evaluate(address, 80)


@PRESETS
@pytest.mark.parametrize(
    "address",
    [
        f"2001::{PUBLIC}",  # Teredo
        "2001:0:4136:e378:8000:63bf:3fff:fdd2",  # RFC 4380 section 4
        f"::{PUBLIC}",  # compatible
        f"::ffff:0:{PUBLIC}",  # translated
        f"64:ff9b:1::{PUBLIC}",  # local-use NAT64
    ],
)
def test_P9_some_are_refused_whatever_is_inside(preset: Any, address: str) -> None:
    assert code(preset(), address) == "policy-address"


@PRESETS
def test_P9_local_use_nat64_only_if_nat64_prefixes_has_it(preset: Any) -> None:
    policy = preset(nat64_prefixes=["64:ff9b:1::/48", "64:ff9b::/96"])
    assert policy.evaluate("64:ff9b:1:5db8:d7:e00::", 80)  # 93.184.215.14
    assert code(policy, "64:ff9b:1:a00:0:500::") == "policy-address"  # 10.0.0.5
    part = preset(nat64_prefixes=["64:ff9b:1:7::/96"])
    assert part.evaluate(f"64:ff9b:1:7::{PUBLIC}", 80)
    assert code(part, f"64:ff9b:1:8::{PUBLIC}") == "policy-address"


@PRESETS
@pytest.mark.parametrize("identifier", ["0:5efe", "200:5efe", "100:5efe", "300:5efe"])
def test_P9_isatap_needs_the_inner_address_as_well(preset: Any, identifier: str) -> None:
    def isatap(ipv4: str) -> str:
        return f"2606:4700:0:1:{identifier}:{ipv4}"

    assert preset().evaluate(isatap(PUBLIC), 80)
    assert code(preset(), isatap("10.0.0.5")) == "policy-address"
    assert preset(allow_networks=["10.0.0.0/8"]).evaluate(isatap("10.0.0.5"), 80)
    assert code(preset(), f"fe80::{identifier}:{PUBLIC}") == "policy-address"  # the outer one
    inner_too = EgressPolicy(allow_networks=["2606:4700::/32"])
    assert code(inner_too, isatap(PUBLIC)) == "policy-address"
    assert code(preset(), f"2002:5db8:d70e:1:{identifier}:10.0.0.5") == "policy-address"


@pytest.mark.parametrize(
    "address",
    [
        "192.0.2.33",
        "::ffff:192.0.2.33",
        "64:ff9b::192.0.2.33",
        "2002:c000:221::1",
        "::192.0.2.33",
        "::ffff:0:192.0.2.33",
        "2001:db8::5efe:192.0.2.33",
        "2001:db8::200:5efe:192.0.2.33",
        "2001:0:c000:221::1",  # Teredo's server
        "2001:0:5db8:d70e:0:0:3fff:fdde",  # Teredo's client, inverted
        "64:ff9b:1:c000:2:2100::",
        "64:ff9b:1:c0:0:221::",
        "64:ff9b:1:0:c0:2:2100:0",
        "64:ff9b:1::192.0.2.33",
    ],
)
def test_P9_deny_networks_matches_what_is_inside(address: str) -> None:
    for policy in (
        EgressPolicy(deny_networks=["192.0.2.0/24"]),
        EgressPolicy(deny_networks=["192.0.2.33"], allow_networks=["0.0.0.0/0", "::/0"]),
        EgressPolicy(deny_networks=["192.0.2.33"], nat64_prefixes=[])
        if not address.startswith("2001:db8")
        else EgressPolicy(deny_networks=["192.0.2.33"]),
    ):
        decision = policy.evaluate(address, 80)
        assert decision.code == "policy-address"
        assert "deny_networks" in decision.reason


def test_P9_deny_networks_matches_the_outer_address() -> None:
    policy = EgressPolicy(deny_networks=["2002::/16", "::ffff:0:0/96", "64:ff9b::/96"])
    for address in ("2002:5db8:d70e::1", f"::ffff:{PUBLIC}", f"64:ff9b::{PUBLIC}"):
        assert code(policy, address) == "policy-address"
    assert EgressPolicy(deny_networks=["::/0"]).evaluate(PUBLIC, 80)


def test_P9_a_mapped_network_denies_the_IPv4_one() -> None:
    """::ffff:10.0.0.5 and 10.0.0.5 are one peer, however the entry is written."""
    policy = EgressPolicy(deny_networks=["::ffff:10.0.0.0/104"])
    assert code(policy, "10.0.0.5") == code(policy, "::ffff:10.0.0.5") == "policy-address"
    assert policy.evaluate("11.0.0.5", 80)


def test_P9_loopback_and_unspecified_are_no_compatible_addresses() -> None:
    policy = EgressPolicy(deny_networks=["0.0.0.0/8"])
    assert policy.evaluate("::1", 80) and policy.evaluate("::", 80)


@PRESETS
def test_P9_scope_ids_are_ignored(preset: Any) -> None:
    for address in ("fe80::1%eth0", "fe80::1%1", "::1%lo", "fe80::1%no-such", "fe80::1%4294967296"):
        assert code(preset(), address) == "policy-address"
    assert preset().evaluate("db.example", 80, ["2606:4700::1111%1"])
    assert EgressPolicy(allow_networks=["fe80::/10"]).evaluate("fe80::1%eth0", 80)
    assert not EgressPolicy(deny_networks=["fe80::1"]).evaluate("fe80::1%eth0", 80)


@pytest.mark.parametrize(
    "junk",
    [
        "",
        "db.example",
        "0x7f.1",
        "127.1",
        "10.0.0.5.",
        "010.0.0.5",
        "1.2.3.4%1",
        "::g",
        "[::1]",
        " ::1",
        "٣.4.5.6",
    ],
)
def test_P9_what_cannot_be_parsed_is_refused(junk: str) -> None:
    """A resolver of the user's may answer anything; the kernel must not be asked what it means."""
    decision = EgressPolicy().evaluate("db.example", 80, [junk, PUBLIC])
    assert decision.addresses == (PUBLIC,)
    assert code(EgressPolicy(), "db.example", 80, junk) == "policy-address"


def test_an_empty_answer_allows_nothing() -> None:
    assert not EgressPolicy().evaluate("db.example", 80, [])


# P10: spelling

POLICIES = pytest.mark.parametrize(
    "policy",
    [EgressPolicy(), public_internet(), workers(), EgressPolicy(allow_networks=["0.0.0.0/0"])],
    ids=["empty", "public_internet", "workers", "networks"],
)
MISSPELT = [
    "2130706433",
    "0x7f.1",
    "0177.0.0.1",
    "127.1",
    "0x08080808",
    "1.2.3.4.5",
    "127.0.0.1.",
    "8.8.8.8.",
    "0",
    "0x",
    "0X7F000001",
    "a.0x",
    "db.example.1",
    "1.2.3.256",
    "1.2.3.04",
    "1.2.3",
    "1.2.3.4.",
    "+1.2.3.4",
    "db.0xff",
    "99999999999999999999",
]
FINE = [
    "1.2.3.4",
    "0.0.0.0",
    "db.example",
    "1.example",
    "1.2.3.4.example",
    "0xg",
    "x0",
    "db.1a",
    "::1.2.3.4",
    "::",
]


@POLICIES
@pytest.mark.parametrize("host", MISSPELT)
def test_P10_numbers_that_are_no_dotted_quad_are_refused_under_any_policy(
    policy: EgressPolicy, host: str
) -> None:
    assert policy.evaluate(host, 80).code == "policy-spelling"
    assert policy.evaluate(host, 80, [PUBLIC]).code == "policy-spelling"


@pytest.mark.parametrize("host", FINE)
def test_P10_names_and_dotted_quads_are_not(host: str) -> None:
    assert EgressPolicy().evaluate(host, 80)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("２１３０７０６４３３", "policy-spelling"),
        ("０x７f.1", "policy-spelling"),
        ("①②⑦.⓪.⓪.①", "policy-address"),
        ("127。0。0。1", "policy-address"),
        ("127．0．0．1", "policy-address"),
        ("127｡0｡0｡1", "policy-address"),
        ("1\u00ad27.0.0.1", "policy-address"),
        ("12\u00ad7.1", "policy-spelling"),
        ("１２７.1", "policy-spelling"),
        ("①②⑦。1", "policy-spelling"),
        ("ⓛocalhost.①", "policy-spelling"),
        ("0\u200bx7f000001", "policy-spelling"),
        ("²¹³⁰⁷⁰⁶⁴³³", "policy-spelling"),
    ],
)
def test_P10_is_judged_after_A2(host: str, expected: str) -> None:
    """What getaddrinfo would make of it counts."""
    assert public_internet().evaluate(host, 80).code == expected


@pytest.mark.parametrize("host", ["８.８.８.８", "8。8。8。8", "⑧.8.8.8"])
def test_P10_what_A2_makes_a_dotted_quad_is_one(host: str) -> None:
    assert public_internet().evaluate(host, 80).addresses == ("8.8.8.8",)


# P12: the program itself


def test_P12_an_own_address_is_a_loop_in_any_policy() -> None:
    for policy in (
        EgressPolicy(own_addresses=["127.0.0.1:8000", "[2001:db8::1]:8001"]),
        public_internet(own_addresses=["127.0.0.1:8000", "[2001:db8::1]:8001"]),
        EgressPolicy(
            own_addresses=["127.0.0.1:8000", "[2001:db8::1]:8001"], allow_networks=["::/0"]
        ),
    ):
        decision = policy.evaluate("127.0.0.1", 8000)
        assert decision.code == "policy-loop"
        assert "TCP Loop detected" in decision.reason
        assert 'own_addresses "127.0.0.1:8000"' in decision.reason
        assert code(policy, "db.example", 8000, "::ffff:127.0.0.1") == "policy-loop"
        assert code(policy, "db.example", 8000, "64:ff9b::7f00:1") == "policy-loop"
        assert code(policy, "db.example", 8001, "2001:db8:0::1") == "policy-loop"
        assert code(policy, "db.example", 8000, "2001:db8::1") != "policy-loop"
        assert code(policy, "127.0.0.1", 8001) != "policy-loop"
        assert code(policy, "127.0.0.2", 8000) != "policy-loop"


@pytest.mark.parametrize("target", ["0.0.0.0", "::", "::ffff:0.0.0.0"])
@pytest.mark.parametrize("own", ["127.0.0.1:8000", "0.0.0.0:8000", "[::]:8000", "192.0.2.1:8000"])
def test_P12_the_unspecified_address_is_this_machine(target: str, own: str) -> None:
    policy = EgressPolicy(own_addresses=[own])
    assert code(policy, target, 8000) == "policy-loop"
    assert code(policy, target, 8001) is None


@pytest.mark.parametrize("own", ["0.0.0.0:8000", "[::]:8000"])
def test_P12_every_address_of_this_machine(own: str) -> None:
    """The kernel knows which these are; it is asked by bind()."""
    policy = EgressPolicy(own_addresses=[own])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(("192.0.2.1", 9))  # UDP: nothing is sent
            mine = [sock.getsockname()[0]]
        except OSError:
            mine = []
    for address in ["127.0.0.1", "127.8.9.10", "::1", "::ffff:127.0.0.1", *mine]:
        assert code(policy, address, 8000) == "policy-loop", address
        assert code(policy, address, 8001) is None
    for address in ("192.0.2.1", "2001:db8::1", PUBLIC, "224.0.0.1", "ff02::1"):
        assert code(policy, address, 8000) is None, address


def test_P12_the_kernel_is_asked_only_when_it_must_be(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Socket(socket.socket):
        def bind(self, address: Any) -> None:
            asked.append(address)
            super().bind(address)

    monkeypatch.setattr(socket, "socket", Socket)
    EgressPolicy(own_addresses=["127.0.0.1:8000"]).evaluate("127.0.0.2", 8000)
    wildcard = EgressPolicy(own_addresses=["0.0.0.0:8000"])
    wildcard.evaluate("127.0.0.2", 8001)
    assert asked == []
    wildcard.evaluate("127.0.0.2", 8000)
    assert asked == [("127.0.0.2", 0)]
    assert not is_this_machine(ipaddress.ip_address("fe80::1:2:3:4"))


# P13: check


def test_P13_check_is_asked_last_for_each_address() -> None:
    asked: list[tuple[str, int, str]] = []

    def check(host: str, port: int, address: str) -> bool:
        asked.append((host, port, address))
        return True

    policy = public_internet(check=check)
    policy.evaluate("mail.example", 25, [PUBLIC])
    policy.evaluate("127.1", 80)
    policy.evaluate("DB.Example.", 80, ["10.0.0.5"])
    assert asked == []
    answer = [PUBLIC, "10.0.0.5", "2606:4700:0::1111"]
    assert policy.evaluate("DB.Example.", 80, answer).addresses == (PUBLIC, "2606:4700:0::1111")
    assert asked == [("db.example", 80, PUBLIC), ("db.example", 80, "2606:4700::1111")]
    assert policy.evaluate("db.example", 80) and len(asked) == 2


class Truthy:
    def __bool__(self) -> bool:
        return True

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]  # as any class with its own __eq__


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (False, "it said no"),
        ("not on Sundays", "not on Sundays"),
        ("", "refused by check"),
        (None, "NoneType, and only True"),
        (1, "int, and only True"),
        (Truthy(), "Truthy, and only True"),
    ],
)
@pytest.mark.parametrize("preset", [None, "public_internet", "workers"])
def test_P13_only_True_lets_through(preset: Any, answer: Any, said: str) -> None:
    policy = EgressPolicy(preset=preset, check=lambda host, port, address: answer)
    decision = policy.evaluate(PUBLIC, 80)
    assert decision.code == "policy-check"
    assert said in decision.reason


def test_P13_an_exception_refuses() -> None:
    def check(host: str, port: int, address: str) -> bool:
        raise LookupError(f"no {address}\x1b[2J")

    decision = EgressPolicy(check=check).evaluate(PUBLIC, 80)
    assert decision.code == "policy-check"
    assert f"LookupError('no {PUBLIC}" in decision.reason and "\x1b" not in decision.reason


def test_P13_ctrl_c_in_evaluate_is_the_users() -> None:
    def check(host: str, port: int, address: str) -> bool:
        raise KeyboardInterrupt

    assert threading.current_thread() is threading.main_thread()
    with pytest.raises(KeyboardInterrupt):
        EgressPolicy(check=check).evaluate(PUBLIC, 80)


# P14: composition


def test_P14_both_must_allow() -> None:
    one = EgressPolicy(allow_hosts=["a.example", "b.example"], deny_ports=[22])
    two = EgressPolicy(allow_hosts=["b.example", "c.example"], deny_networks=["10.0.0.0/8"])
    for both in (one & two, two & one):
        assert both.evaluate("b.example", 80, ["192.0.2.1"])
        assert code(both, "a.example") == code(both, "c.example") == "policy-host"
        assert code(both, "b.example", 22) == "policy-port"
        decision = both.evaluate("b.example", 80, ["10.0.0.5", "192.0.2.1"])
        assert decision.addresses == ("192.0.2.1",)


def test_P14_addresses_must_pass_all_and_the_first_refusal_is_reported() -> None:
    one = EgressPolicy(deny_networks=["10.1.0.0/16"], check=lambda *_: "the first says no")
    two = public_internet(deny_ports=[22])
    assert "the first says no" in (one & two).evaluate("10.0.0.5", 80).reason
    assert "private-use" in (two & one).evaluate("10.0.0.5", 80).reason
    assert "10.1.0.0/16" in (one & two).evaluate("10.1.0.5", 80).reason
    assert code(two & one, "db.example", 22) == "policy-port"


def test_P14_combining_only_narrows() -> None:
    wide = EgressPolicy(allow_networks=["0.0.0.0/0", "::/0"], allow_ports=[25, 80])
    for both in (public_internet() & wide, wide & public_internet(), wide & workers() & wide):
        assert code(both, "10.0.0.5") == "policy-address"
        assert code(both, "mail.example", 25) == "policy-port"
        assert both.evaluate(PUBLIC, 80)


def test_P14_many_of_them() -> None:
    policy = EgressPolicy()
    for port in range(1, 20):
        policy = policy & EgressPolicy(deny_ports=[port])
    assert [bool(policy.evaluate("db.example", port)) for port in (1, 10, 19, 20)] == [
        False,
        False,
        False,
        True,
    ]


def test_evaluate_looks_nothing_up_and_logs_nothing(zone: Zone, records: list[Any]) -> None:
    policy = public_internet(max_open_sockets=0)
    assert policy.evaluate("db.example", 80)
    assert not policy.evaluate("db.example", 80, ["10.0.0.5"])
    assert zone.asked == [] and records == []
