"""P16, and what a policy is as an object: fixed, hashable, copied, pickled, shown."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import ipaddress
import pickle
from typing import Any, get_type_hints

import pytest
from peers import WAIT

import tcpsock
from tcpsock import Decision, EgressPolicy, PolicyViolation, SocketOptions
from tcpsock.policy import EgressPolicyFields


def says_no(host: str, port: int, address: str) -> bool:
    return False


EVERYTHING: dict[str, Any] = {
    "allow_hosts": ["a.example", "*.b.example", "192.0.2.1", "2001:db8::1"],
    "deny_hosts": {"c.example"},
    "allow_networks": [
        "10.0.0.0/8",
        "192.0.2.7",
        ipaddress.ip_network("172.16.0.0/12"),
        ipaddress.ip_address("2001:db8::1"),
    ],
    "deny_networks": ("fd00::/8",),
    "allow_ports": range(1, 65536),
    "deny_ports": [22, 23],
    "own_addresses": ["127.0.0.1:8000", "[::]:8000"],
    "nat64_prefixes": ["64:ff9b::/96", "2001:db8:64::/48"],
    "max_open_sockets": 6,
    "check": says_no,
    "preset": "workers",
}


def test_P16_every_field_is_taken() -> None:
    policy = EgressPolicy(**EVERYTHING)
    assert [field.name for field in dataclasses.fields(policy)] == list(EVERYTHING)
    assert policy.preset == "workers" and policy.max_open_sockets == 6


@pytest.mark.parametrize(
    ("field", "entry", "error", "said"),
    [
        # Hosts
        ("allow_hosts", "db.example", TypeError, "collection"),
        ("deny_hosts", b"db", TypeError, "collection"),
        ("deny_hosts", None, TypeError, "collection"),
        ("allow_hosts", [b"db.example"], TypeError, "str entries, not bytes"),
        ("allow_hosts", [""], ValueError, '""'),
        ("allow_hosts", ["*"], ValueError, '"*"'),
        ("allow_hosts", ["*."], ValueError, '"*."'),
        ("deny_hosts", ["a.*.example"], ValueError, '"a.*.example"'),
        ("deny_hosts", ["*db.example"], ValueError, '"*db.example"'),
        ("deny_hosts", ["*.*.example"], ValueError, '"*.*.example"'),
        ("deny_hosts", ["db.example*"], ValueError, '"db.example*"'),
        ("deny_hosts", ["*.192.0.2.1"], ValueError, '"*.192.0.2.1"'),
        ("deny_hosts", ["*.::1"], ValueError, '"*.::1"'),
        ("allow_hosts", ["db.example:80"], ValueError, '"db.example:80"'),
        ("allow_hosts", ["http://db.example"], ValueError, '"http://db.example"'),
        ("allow_hosts", ["[::1]"], ValueError, '"[::1]"'),
        ("allow_hosts", ["a..example"], ValueError, '"a..example"'),
        ("allow_hosts", ["a b.example"], ValueError, '"a b.example"'),
        ("allow_hosts", ["\x1b[2J.example"], ValueError, r'"\x1b[2J.example"'),
        ("allow_hosts", ["127.1"], ValueError, '"127.1"'),
        ("allow_hosts", ["0x7f000001"], ValueError, '"0x7f000001"'),
        # Networks
        ("allow_networks", "10.0.0.0/8", TypeError, "collection"),
        ("allow_networks", [10], TypeError, "int"),
        ("allow_networks", [("10.0.0.0", 8)], TypeError, "tuple"),
        ("allow_networks", ["10.0.0.5/8"], ValueError, '"10.0.0.5/8" has host bits set'),
        ("deny_networks", ["fd00::1/8"], ValueError, "the network is fd00::/8"),
        ("deny_networks", [ipaddress.ip_interface("10.0.0.5/8")], ValueError, "10.0.0.5/8"),
        ("deny_networks", ["10.0.0.0/33"], ValueError, '"10.0.0.0/33"'),
        ("deny_networks", ["10.0.0.0/255.0.0.0"], ValueError, '"10.0.0.0/255.0.0.0"'),
        ("deny_networks", ["10.0.0.0/0.255.255.255"], ValueError, "10.0.0.0/0.255"),
        ("deny_networks", ["010.0.0.0/8"], ValueError, '"010.0.0.0/8"'),
        ("deny_networks", ["10/8"], ValueError, '"10/8"'),
        ("deny_networks", ["fe80::1%eth0"], ValueError, '"fe80::1%eth0"'),
        ("deny_networks", ["db.example"], ValueError, '"db.example"'),
        ("deny_networks", [""], ValueError, '""'),
        # Ports
        ("allow_ports", 443, TypeError, "collection"),
        ("allow_ports", "443", TypeError, "collection"),
        ("allow_ports", b"ab", TypeError, "collection"),
        ("allow_ports", ["443"], TypeError, "str"),
        ("allow_ports", [True], TypeError, "bool"),
        ("allow_ports", [443.0], TypeError, "float"),
        ("allow_ports", [0], ValueError, "port 0"),
        ("deny_ports", [-1], ValueError, "port -1"),
        ("deny_ports", [65536], ValueError, "port 65536"),
        ("allow_ports", range(10), ValueError, "port 0"),
        ("allow_ports", range(1, 65537), ValueError, "port 65536"),
        # Own addresses (P12)
        ("own_addresses", "127.0.0.1:8000", TypeError, "collection"),
        ("own_addresses", [8000], TypeError, "int"),
        ("own_addresses", ["127.0.0.1"], ValueError, '"127.0.0.1"'),
        ("own_addresses", [":8000"], ValueError, '":8000"'),
        ("own_addresses", ["localhost:8000"], ValueError, '"localhost:8000"'),
        ("own_addresses", ["127.0.0.1:0"], ValueError, '"127.0.0.1:0"'),
        ("own_addresses", ["::1:8000"], ValueError, '"::1:8000"'),
        ("own_addresses", ["tcp://127.0.0.1:80"], ValueError, '"tcp://127.0.0.1:80"'),
        ("own_addresses", ["0x7f.1:8000"], ValueError, '"0x7f.1:8000"'),
        # NAT64
        ("nat64_prefixes", "64:ff9b::/96", TypeError, "collection"),
        ("nat64_prefixes", ["64:ff9b::/95"], ValueError, '"64:ff9b::/95"'),
        ("nat64_prefixes", ["10.0.0.0/32"], ValueError, '"10.0.0.0/32"'),
        ("nat64_prefixes", ["64:ff9b::1/96"], ValueError, "host bits"),
        # The rest
        ("max_open_sockets", -1, ValueError, "0 or more, not -1"),
        ("max_open_sockets", True, TypeError, "bool"),
        ("max_open_sockets", 1.5, TypeError, "float"),
        ("max_open_sockets", "6", TypeError, "str"),
        ("check", "a.b", TypeError, "callable"),
        ("preset", "public", ValueError, "'public'"),
        ("preset", 1, TypeError, "int"),
    ],
)
def test_P16_a_mistake_names_field_and_entry(
    field: str, entry: Any, error: type[Exception], said: str
) -> None:
    """TypeError for a wrong type, ValueError for a wrong value: plain ones, at the making."""
    with pytest.raises((TypeError, ValueError)) as caught:
        EgressPolicy(**{field: entry})
    assert type(caught.value) is error
    assert str(caught.value).startswith(field)
    assert said in str(caught.value)


def test_P16_a_generator_is_no_collection() -> None:
    """It would be used up by the first look."""
    ports: Any = (port for port in [80])
    with pytest.raises(TypeError, match="allow_ports"):
        EgressPolicy(allow_ports=ports)


@pytest.mark.parametrize("make", [EgressPolicy.public_internet, EgressPolicy.workers])
def test_P16_the_presets_take_every_other_field(make: Any) -> None:
    overrides = {name: value for name, value in EVERYTHING.items() if name != "preset"}
    policy = make(**overrides)
    assert policy.preset == make.__name__
    assert policy.deny_ports == (22, 23)
    with pytest.raises(TypeError, match="preset"):
        make(preset="workers")
    with pytest.raises(TypeError, match="allow_host"):
        make(allow_host=["db.example"])


def test_P16_keyword_only_and_frozen() -> None:
    positional: Any = EgressPolicy
    with pytest.raises(TypeError):
        positional(["db.example"])
    policy: Any = EgressPolicy()
    with pytest.raises(dataclasses.FrozenInstanceError):
        policy.preset = "workers"
    with pytest.raises((AttributeError, TypeError)):
        policy.other = 1
    assert not hasattr(policy, "__dict__")


def test_P16_what_was_given_cannot_be_changed_afterwards() -> None:
    """Whoever keeps the list that he gave can't widen the policy by it."""
    hosts = ["a.example"]
    policy = EgressPolicy(allow_hosts=hosts)
    hosts.append("b.example")
    assert not policy.evaluate("b.example", 80)
    assert policy.allow_hosts == ("a.example",)


def test_P16_hashable_and_equal_by_its_fields() -> None:
    one, two = EgressPolicy(**EVERYTHING), EgressPolicy(**EVERYTHING)
    assert one == two and hash(one) == hash(two)
    assert one != EgressPolicy() and len({one, two, EgressPolicy()}) == 2
    both = one & two
    assert both == one & two and hash(both) == hash(one & two)
    assert both != one


def test_P16_replace_works() -> None:
    policy = EgressPolicy.public_internet(deny_ports=[22])
    other = dataclasses.replace(policy, deny_ports=[23])
    assert other.preset == "public_internet"
    assert other.evaluate("db.example", 22) and not other.evaluate("db.example", 23)


def test_P16_replace_never_widens_what_was_combined() -> None:
    both = EgressPolicy(deny_ports=[22]) & EgressPolicy(deny_ports=[23])
    narrower = dataclasses.replace(both, deny_ports=[24])
    assert [bool(narrower.evaluate("db.example", port)) for port in (22, 23, 24, 25)] == [
        False,
        False,
        False,
        True,
    ]
    assert isinstance(narrower, EgressPolicy)
    assert "(22,)" in repr(narrower) and "(24,)" in repr(narrower)


@pytest.mark.parametrize(
    "policy",
    [
        EgressPolicy(),
        EgressPolicy(**EVERYTHING),
        EgressPolicy.workers(max_open_sockets=3),
        EgressPolicy(deny_ports=[22]) & EgressPolicy.public_internet(deny_hosts=["a.example"]),
    ],
    ids=["empty", "everything", "preset", "both"],
)
def test_P16_pickle_and_copy(policy: EgressPolicy) -> None:
    """A pickled one is equal and has a count of its own; a copy is the same and has the same."""
    again = pickle.loads(pickle.dumps(policy))
    assert again == policy and again is not policy
    assert again.evaluate("db.example", 22) == policy.evaluate("db.example", 22)
    assert copy.copy(policy) is policy
    assert copy.deepcopy(policy) is policy
    options = SocketOptions(policy=policy)
    assert pickle.loads(pickle.dumps(options)) == options
    assert copy.deepcopy(options).policy is policy


def test_L7_decisions_and_violations_survive_pickle_and_copy() -> None:
    policy = EgressPolicy.workers()
    sock = tcpsock.connect("10.0.0.5:80", policy=policy)
    error = sock.opened.exception(WAIT)
    assert isinstance(error, PolicyViolation)
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(again) is PolicyViolation
        assert (str(again), again.code, again.phase, again.address) == (
            "proxy request failed, cannot connect to the specified address",
            "policy-address",
            "policy",
            "10.0.0.5:80",
        )
        assert again.decision == error.decision == policy.evaluate("10.0.0.5", 80)
        assert isinstance(again.decision, Decision)


def test_a_decision_is_true_if_allowed_and_reads_as_its_reason() -> None:
    policy = EgressPolicy.public_internet()
    yes = policy.evaluate("db.example", 5432, ["10.0.0.5", "93.184.215.14"])
    assert yes and yes.allowed and yes.code is None
    assert str(yes) == yes.reason == "allowed, save 1 of 2 addresses"
    assert yes.addresses == ("93.184.215.14",)
    assert [address for address, _ in yes.refused] == ["10.0.0.5"]
    no = policy.evaluate("db.example", 5432, ["10.0.0.5"])
    assert not no and not no.allowed and no.code == "policy-address"
    assert str(no) == no.reason == no.refused[0][1]
    assert hash(no) == hash(policy.evaluate("db.example", 5432, ["10.0.0.5"]))


def test_L5_repr_tells_the_state_and_is_short() -> None:
    assert repr(EgressPolicy()) == "<EgressPolicy>"
    assert repr(EgressPolicy.public_internet(max_open_sockets=6)) == (
        "<EgressPolicy max_open_sockets=6 preset='public_internet' (0 open)>"
    )
    many = EgressPolicy(deny_networks=[f"10.{i}.0.0/16" for i in range(256)])
    assert repr(many) == (
        "<EgressPolicy deny_networks=('10.0.0.0/16', '10.1.0.0/16', '10.2.0.0/16', ... 256 in all)>"
    )
    assert repr(EgressPolicy(deny_ports=[1]) & EgressPolicy(deny_ports=[2])) == (
        "<EgressPolicy deny_ports=(1,)> & <EgressPolicy deny_ports=(2,)>"
    )
    assert "policy=<EgressPolicy preset='workers'>" in repr(
        SocketOptions(policy=EgressPolicy.workers())
    )


def test_Y2_Y3_types_of_the_presets_keywords() -> None:
    hints = get_type_hints(EgressPolicy)
    del hints["preset"]
    assert get_type_hints(EgressPolicyFields) == hints
    assert list(inspect.signature(EgressPolicy).parameters) == list(EVERYTHING)
    for public in (
        EgressPolicy.public_internet,
        EgressPolicy.workers,
        EgressPolicy.evaluate,
        EgressPolicy.__and__,
        EgressPolicy.__init__,
    ):
        assert get_type_hints(public)
        assert inspect.signature(public)


def test_and_takes_policies_alone() -> None:
    policy: Any = EgressPolicy()
    with pytest.raises(TypeError):
        policy & 1


@pytest.mark.parametrize(
    ("host", "port", "addresses", "error"),
    [
        ("", 80, None, tcpsock.InvalidAddress),
        ("a b", 80, None, tcpsock.InvalidAddress),
        ("db.example", 0, None, tcpsock.InvalidAddress),
        (80, "db.example", None, TypeError),
        ("db.example", "80", None, TypeError),
        ("db.example", 80, "10.0.0.5", TypeError),
    ],
)
def test_A3_evaluate_raises_what_connect_would(
    host: Any, port: Any, addresses: Any, error: type[Exception]
) -> None:
    with pytest.raises(error):
        EgressPolicy().evaluate(host, port, addresses)


def test_A3_connect_takes_nothing_else_for_a_policy() -> None:
    wrong: Any = "public_internet"
    with pytest.raises(TypeError, match="policy must be an EgressPolicy or None, not str"):
        tcpsock.connect("db.example:80", policy=wrong)
