"""Whatever is given as an address: it round-trips, or is refused in words that can be printed.

Nothing is dialled: connect() gets only what the parser has refused.
"""

from __future__ import annotations

import collections
import copy
import ipaddress
import pickle
import types
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

import tcpsock
from tcpsock import InvalidAddress, SocketAddress
from tcpsock._dialing.address import dns_name, host_port, ip_literal, parse, sni_name
from tcpsock._errors import printable

for_all = settings.get_profile("properties")
more = settings(for_all, max_examples=3 * for_all.max_examples)

# Nearly right, and nearly wrong -----------------------------------------------------------------

LABELS = st.one_of(
    *[st.from_regex(r"[A-Za-z0-9_-]{1,8}", fullmatch=True)] * 6,
    st.sampled_from(["", "a" * 63, "a" * 64, "xn--", "xn--bcher-kva", "b\xfccher", "\u4f8b\u3048"]),
    st.sampled_from(["\xad", "\ufb01", "\u2100", "\uff0f", "\u2025", "\xdf", "\u0130", "\u200d"]),
    st.text(max_size=4),
)
DOTS = st.sampled_from([".", ".", ".", "..", "\u3002", "\uff0e", "\uff61"])


@st.composite
def names(draw: st.DrawFn) -> str:
    name = draw(LABELS)
    for _ in range(draw(st.integers(0, 4))):
        name += draw(DOTS) + draw(LABELS)
    return name + draw(st.sampled_from(["", "", "", "."]))


SCOPES = st.just("") | st.sampled_from(["%eth0", "%1", "%", "%%", "%a/b", "%a]b", "%25eth0", "% "])
IPS = st.one_of(
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(str),
    st.ip_addresses(v=6).map(lambda ip: ip.exploded),
    st.ip_addresses(v=4).map(lambda ip: f"::ffff:{ip}"),
    st.sampled_from(["127.1", "0x7f.1", "0127.0.0.1", "1.2.3.4.", "::", ":::", "1::2::3"]),
)
HOSTS = names() | st.builds("{}{}".format, IPS, SCOPES)
GOOD_PORTS = st.integers(1, 65535)
PORTS = st.one_of(
    *[GOOD_PORTS.map(str)] * 6,
    st.integers(-1, 1 << 70).map(str),
    st.sampled_from(["", "0", "080", "+80", " 80", "8_0", "80.0", "0x50", "http", "\uff18\uff10"]),
    st.sampled_from(["\u0668\u0660", "\xb2", "9" * 5000]),
)
SCHEMES = st.sampled_from(
    ["", "", "", "tcp://", "TCP://", "http://", "https://", "tcp:", "//", "x"]
)
TAILS = st.sampled_from([""] * 16 + ["/", "//", "/path", "?q", "#f", "\n", "\0", " "])


@st.composite
def near_addresses(draw: st.DrawFn) -> str:
    host, port = draw(HOSTS), draw(PORTS)
    is_v6 = ":" in host
    if draw(st.sampled_from([is_v6] * 5 + [not is_v6])):
        host = f"[{host}]"
    return f"{draw(SCHEMES)}{host}:{port}{draw(TAILS)}"


@st.composite
def damaged(draw: st.DrawFn, addresses: st.SearchStrategy[str]) -> str:
    """One character more, less or other than an address has."""
    text = draw(addresses)
    at = draw(st.integers(0, len(text)))
    return text[:at] + draw(st.text(max_size=1)) + text[at + draw(st.integers(0, 1)) :]


TEXTS = st.one_of(near_addresses(), damaged(near_addresses()), st.text(), st.text("[]:%@/?#.0a\0"))


class _Text(str):
    pass


class _Index:
    def __init__(self, value: int) -> None:
        self._value = value

    def __index__(self) -> int:
        return self._value

    def __repr__(self) -> str:
        return f"_Index({self._value})"


_Pair = collections.namedtuple("_Pair", ["host", "port"])

ANYTHING = st.one_of(
    HOSTS,
    TEXTS,
    st.integers(),
    st.integers(1, 65535),
    st.integers(1, 65535).map(_Index),
    st.booleans(),
    st.none(),
    st.floats(),
    st.binary(),
    st.lists(st.integers()),
    st.just(5000).map(lambda digits: 10**digits),  # Python refuses to write it out
    st.just(object()),
)
OBJECTS = st.one_of(
    st.tuples(HOSTS, GOOD_PORTS),
    st.builds(_Pair, HOSTS, GOOD_PORTS),
    st.tuples(ANYTHING, ANYTHING),
    st.lists(ANYTHING, max_size=5).map(tuple),
    st.fixed_dictionaries({"hostname": HOSTS, "port": GOOD_PORTS}),
    st.fixed_dictionaries({}, optional={"hostname": ANYTHING, "port": ANYTHING}),
    st.dictionaries(
        st.sampled_from(["hostname", "port", "host"]) | st.text() | st.none(), ANYTHING
    ),
    st.builds(lambda d: types.MappingProxyType(d), st.just({"hostname": "a", "port": 1})),
    st.builds(types.SimpleNamespace, hostname=ANYTHING, port=ANYTHING),
    st.builds(types.SimpleNamespace, port=GOOD_PORTS),
    ANYTHING,
)


def fit_to_print(error: Exception) -> bool:
    """Nothing in it can rewrite a terminal, or fill one."""
    message = str(error)
    return printable(message, limit=1000) == message and len(message) < 1000


def refused(address: Any) -> Exception | None:
    """What the parser refuses it with."""
    try:
        parse(address)
    except (InvalidAddress, TypeError) as error:
        assert type(error) in (InvalidAddress, TypeError)
        return error
    return None


def check_round_trip(address: Any) -> None:
    hostname, port = parse(address)
    assert type(port) is int
    assert 1 <= port <= 65535
    again = SocketAddress(hostname, port)
    assert parse(str(again)) == parse(again) == (hostname, port)
    assert parse(f"tcp://{again}/") == (hostname, port)
    assert (
        parse((hostname, port)) == parse({"hostname": hostname, "port": port}) == (hostname, port)
    )
    for copied in (pickle.loads(pickle.dumps(again)), copy.copy(again), copy.deepcopy(again)):
        assert copied == again
        assert str(copied) == str(again)


@more
@given(TEXTS)
@example("xn--\xfc:80")
@example("tcp://[::1]:80/")
@example("[::1%eth0]:80")
def test_A1_a_text_round_trips_or_is_an_InvalidAddress(text: str) -> None:
    error = refused(text)
    if error is None:
        return check_round_trip(text)
    assert type(error) is InvalidAddress
    assert fit_to_print(error)
    with pytest.raises(InvalidAddress) as caught:
        tcpsock.connect(text)
    assert str(caught.value) == str(error)
    assert parse_like(_Text(text)) == str(error)
    return None


def parse_like(address: Any) -> str:
    with pytest.raises(InvalidAddress) as caught:
        parse(address)
    return str(caught.value)


@more
@given(OBJECTS)
def test_A3_an_object_round_trips_or_is_refused_with_one_of_two_errors(address: Any) -> None:
    error = refused(address)
    if error is None:
        return check_round_trip(address)
    assert fit_to_print(error)
    with pytest.raises((InvalidAddress, TypeError)) as caught:
        tcpsock.connect(address)
    assert type(caught.value) is type(error)
    assert str(caught.value) == str(error)
    return None


@pytest.mark.parametrize("port", [10**5000, -(10**5000)], ids=["above", "below"])
def test_A3_a_port_of_5000_digits_is_an_InvalidAddress(port: int) -> None:
    """Python refuses to write it out, with a plain ValueError."""
    for form in (("host", port), {"hostname": "host", "port": port}):
        with pytest.raises(InvalidAddress, match="outside"):
            parse(form)


@for_all
@given(ANYTHING, ANYTHING)
def test_A3_a_SocketAddress_takes_what_the_parser_takes(hostname: Any, port: Any) -> None:
    error = refused((hostname, port))
    if error is None:
        made = SocketAddress(hostname, port)
        assert (made.hostname, made.port) == parse((hostname, port))
        return
    with pytest.raises(type(error)) as caught:
        SocketAddress(hostname, port)
    assert str(caught.value) == str(error)


# What the resolver and TLS get ------------------------------------------------------------------


@more
@given(HOSTS)
@example("\uff11\uff12\uff17.0.0.1")
def test_A2_a_host_that_is_taken_is_safe_for_the_resolver_and_for_TLS(host: str) -> None:
    try:
        name = dns_name(host)
    except InvalidAddress as error:
        assert fit_to_print(error)
        return
    sni = sni_name(host)
    if ip_literal(host):
        assert name == host
        assert ipaddress.ip_address(sni)
        assert "%" not in sni
        return
    assert name.isascii()
    assert not set(name) & set("\0\t\r\n /\\?#@[]<>^|:%")
    assert dns_name(name) == name
    assert name.endswith(".") is host.endswith((".", "\u3002", "\uff0e", "\uff61"))
    for form in (name, sni):
        labels = form.removesuffix(".").split(".")
        assert all(1 <= len(label) <= 63 for label in labels)
        assert sum(map(len, labels)) + len(labels) - 1 <= 253
    assert not sni.endswith(".")


@for_all
@given(HOSTS, GOOD_PORTS)
def test_A1_brackets_go_round_ipv6_and_nothing_else(host: str, port: int) -> None:
    assume(refused((host, port)) is None)
    text = host_port(host, port)
    assert text == str(SocketAddress(host, port))
    assert text.startswith("[") is (ip_literal(host) and ":" in host)


# Secrets ----------------------------------------------------------------------------------------

USERS = st.text("bob:@/?#[]%\uff20\ufe6b\n\x1b \0", max_size=6)


@more
@given(
    scheme=st.sampled_from(["", "tcp://", "TCP://", "https://", "http://", "postgres://", "//"]),
    user=USERS,
    around=st.tuples(USERS, USERS),
    at=st.sampled_from(["@", "\uff20", "\ufe6b"]),
    host=HOSTS,
    end=st.sampled_from(["", ":80", ":x", "/", "/path", ":80/x?y#z"]),
)
@example("", "", ("", ":443"), "@", "x", "")
def test_A1_no_message_shows_a_password(
    scheme: str, user: str, around: tuple[str, str], at: str, host: str, end: str
) -> None:
    """Whatever stands before the last @, and wherever it is written."""
    secret = "hunter2"
    text = f"{scheme}{user}:{around[0]}{secret}{around[1]}{at}{host}{end}"
    for form in (text, (text, 80), {"hostname": text, "port": 80}, {text: 1}):
        error = refused(form)
        assert error is not None
        assert secret not in str(error)
        assert secret not in repr(error)
        assert fit_to_print(error)


@for_all
@given(user=USERS, at=st.sampled_from(["@", "\uff20"]), host=HOSTS, port=st.integers())
@example("bob", "@", "host", 80)
@example("\x1b[2J", "@", "host", 80)
def test_D7_a_port_of_its_own_shows_no_password(user: str, at: str, host: str, port: int) -> None:
    """connect("host", 80), as of telnetlib, is told how it is written."""
    with pytest.raises(TypeError, match="the port is a part of the address") as caught:
        tcpsock.connect(f"{user}:hunter2{at}{host}", port)  # type: ignore[arg-type]
    assert "hunter2" not in str(caught.value)
    assert fit_to_print(caught.value)
