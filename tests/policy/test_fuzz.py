"""A fuzzer over hosts and addresses: nothing reaches a listener, or leaves, against the policy.

What a host really means is asked of the C library (`getaddrinfo` with AI_NUMERICHOST, as it was
before the test replaced it), and what an address is of the newest `ipaddress` rules written down
here: neither is the code under test. TCPSOCK_LONG=1 makes 100,000 tries of the few hundred.
"""

# ruff: noqa: RUF001  (look-alikes are what this is about)

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from peers import WAIT, Listener

import tcpsock
from tcpsock import ConnectError, EgressPolicy, InvalidAddress, PolicyViolation
from tcpsock._dialing import race

LONG = bool(os.environ.get("TCPSOCK_LONG"))
TRIES = 100_000 if LONG else 300
_getaddrinfo = socket.getaddrinfo
_dial = race._dial

fuzzed = settings(
    max_examples=TRIES,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)

# What an address means, by another way than the library's: one big list of forbidden integers.

V4 = """0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24
192.0.2.0/24 192.31.196.0/24 192.52.193.0/24 192.88.99.0/24 192.168.0.0/16 192.175.48.0/24
198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 224.0.0.0/3 168.63.129.16/32"""
V6_OK = "2000::/3"
V6 = "2001::/23 2001:db8::/32 2620:4f:8000::/48 3fff::/20"


def _spans(text: str) -> list[tuple[int, int]]:
    networks = [ipaddress.ip_network(word) for word in text.split()]
    return [(int(net[0]), int(net[-1])) for net in networks]


V4_SPANS, V6_SPANS, V6_OK_SPANS = _spans(V4), _spans(V6), _spans(V6_OK)


def is_public(address: str) -> bool:
    """Whether a packet to this address may go out under public_internet()."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    number = int.from_bytes(socket.inet_pton(family, address.partition("%")[0]), "big")
    if family == socket.AF_INET:
        return not any(first <= number <= last for first, last in V4_SPANS)
    low = str(ipaddress.IPv4Address(number & 0xFFFFFFFF))
    if number >> 32 in (0xFFFF, 0x64FF9B << 64):
        return is_public(low)
    if number >> 112 == 0x2002:
        outside = is_public(str(ipaddress.IPv4Address(number >> 80 & 0xFFFFFFFF)))
    else:
        outside = any(first <= number <= last for first, last in V6_OK_SPANS)
        outside = outside and not any(first <= number <= last for first, last in V6_SPANS)
    if (number >> 32 & 0xFFFFFFFF) & 0xFCFFFFFF == 0x5EFE:
        outside = outside and is_public(low)
    return outside


# What people write

INTERESTING_V4 = [int(ipaddress.IPv4Address(word.partition("/")[0])) for word in V4.split()]
v4 = st.one_of(
    st.sampled_from(INTERESTING_V4),
    st.sampled_from([0x7F000001, 0xA9FEA9FE, 0x08080808, 0x5DB8D70E]),
    st.integers(0, 0xFFFFFFFF),
    st.builds(
        lambda base, step: (base + step) & 0xFFFFFFFF,
        st.sampled_from(INTERESTING_V4),
        st.integers(-2, 2),
    ),
)
part = st.sampled_from(["{:d}", "{:#x}", "0{:o}", "{:#X}", "00{:o}", "{:03d}", "0x0{:x}"])
LOOK_ALIKES = {
    "0": "0０⓪⁰𝟎",
    "1": "1１①¹𝟏",
    "2": "2２②²𝟐",
    "7": "7７⑦⁷𝟕",
    "8": "8８⑧⁸𝟖",
    "9": "9９⑨⁹𝟗",
    ".": ".。．｡",
    "x": "xｘⓧX",
    "a": "aａⓐA",
    ":": ":：",
}


@st.composite
def spelled_v4(draw: Any) -> str:
    """An IPv4 address in one of the ways of inet_aton(), and some that nobody takes."""
    number = draw(v4)
    pieces = draw(st.integers(1, 4))
    numbers = [number >> (24 - 8 * i) & 0xFF for i in range(pieces - 1)]
    numbers.append(number & (1 << (8 * (5 - pieces))) - 1)
    plain = draw(st.booleans())
    text = ".".join(("{:d}" if plain else draw(part)).format(each) for each in numbers)
    return text + draw(st.sampled_from(["", "", "", ".", "..", ".1", " ", "%1", ":80", "\0x", "/"]))


@st.composite
def spelled_v6(draw: Any) -> str:
    """An IPv6 address that may carry an IPv4 one, written out, compressed, or with a dotted end."""
    inner = draw(v4)
    high, low = inner >> 16, inner & 0xFFFF
    dotted = str(ipaddress.IPv4Address(inner))
    inverted = inner ^ 0xFFFFFFFF
    text: str = draw(
        st.one_of(
            st.sampled_from(
                [
                    f"::ffff:{dotted}",
                    f"::FFFF:{high:x}:{low:x}",
                    f"0:0:0:0:0:ffff:{dotted}",
                    f"::{dotted}",
                    f"::ffff:0:{dotted}",
                    f"64:ff9b::{dotted}",
                    f"64:ff9b:0:0:0:0:{high:x}:{low:x}",
                    f"64:ff9b:1::{dotted}",
                    f"2002:{high:x}:{low:x}::1",
                    f"2002:{high:x}:{low:x}::5efe:{dotted}",
                    f"2001:0:{high:x}:{low:x}::",
                    f"2001::{inverted >> 16:x}:{inverted & 0xFFFF:x}",
                    f"fe80::5efe:{dotted}",
                    f"2606:4700::200:5efe:{dotted}",
                    "::1",
                    "::",
                ]
            ),
            st.builds(lambda n: str(ipaddress.IPv6Address(n)), st.integers(0, (1 << 128) - 1)),
            st.builds(
                lambda n: ipaddress.IPv6Address((1 << 125) + n).exploded, st.integers(0, 1 << 125)
            ),
        )
    )
    return text + draw(st.sampled_from(["", "", "", "", "%lo", "%1", "%nowhere", "."]))


@st.composite
def disguised(draw: Any, texts: Any) -> str:
    """With look-alikes and characters that go away (rule A2)."""
    text: str = draw(texts)
    if draw(st.booleans()):
        return text
    shapes = [draw(st.sampled_from(LOOK_ALIKES.get(each, each))) for each in text]
    if draw(st.booleans()):
        shapes.insert(
            draw(st.integers(0, len(shapes))), draw(st.sampled_from("\u00ad\u200b\u2060"))
        )
    return "".join(shapes)


NAMES = ["localhost", "db.example", "rebind.example", "127.0.0.1.nip.example", "1.example", "a.0x"]
hosts = st.one_of(
    disguised(spelled_v4()),
    disguised(spelled_v6()),
    disguised(st.sampled_from(NAMES)),
    st.text(st.characters(codec="utf-8"), max_size=20),
    st.from_regex(r"[0-9a-fx.]{1,20}", fullmatch=True),
)
answers = st.lists(st.one_of(spelled_v4(), spelled_v6()), max_size=4)


def numeric(host: str) -> list[str]:
    """What the C library takes for an IP address, and for which."""
    try:
        found = _getaddrinfo(host, 80, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError, ValueError):
        return []
    return [sockaddr[0] for *_, sockaddr in found]


class World:
    """A resolver that answers as the C library would, and a network where only loopback is."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.answers: list[list[str]] = []
        self.looked_up = 0
        self.numbers: list[str] = []
        self.dialled: list[str] = []

    def getaddrinfo(self, host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        self.looked_up += 1
        self.numbers += [host] if numeric(host) else []
        found = numeric(host) or (self.answers.pop(0) if self.answers else [])
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "not known")
        return [
            (socket.AF_INET6, 1, 6, "", (text, port, 0, 0))
            if ":" in text
            else (socket.AF_INET, 1, 6, "", (text, port))
            for text in found
        ]

    def dial(self, candidate: Any, prepare: Any) -> socket.socket:
        self.dialled.append(candidate.sockaddr[0])
        # Its text as the kernel would take it: a name here would be a second look-up.
        ip = ipaddress.ip_address(candidate.sockaddr[0].partition("%")[0])
        if str(getattr(ip, "ipv4_mapped", None) or ip) in ("127.0.0.1", "0.0.0.0"):
            return _dial(candidate, prepare)
        raise OSError("not in a test")


@contextlib.contextmanager
def world(port: int) -> Iterator[World]:
    made = World(port)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(socket, "getaddrinfo", made.getaddrinfo)
        patched.setattr(race, "_dial", made.dial)
        yield made


@pytest.fixture(scope="module", autouse=True)
def without_a_log() -> Iterator[None]:
    logger = logging.getLogger("tcpsock.policy")
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(logging.NOTSET)


@pytest.fixture(scope="module")
def open_port() -> Iterator[Listener]:
    listener = Listener()
    listener.sock.setblocking(False)
    yield listener
    listener.close()


def saw_somebody(listener: Listener) -> bool:
    try:
        listener.sock.accept()[0].close()
    except BlockingIOError:
        return False
    return True


@pytest.mark.long
@pytest.mark.timeout(7200 if LONG else 120)
@seed(9)
@fuzzed
@given(host=hosts, first=answers, second=answers, workers=st.booleans())
def test_P1_P8_P9_P10_nothing_is_dialled_against_the_presets(
    open_port: Listener, host: str, first: list[str], second: list[str], workers: bool
) -> None:
    """Whatever the host and the resolver's answers, which change from one look-up to the next."""
    policy = EgressPolicy.workers() if workers else EgressPolicy.public_internet()
    with world(open_port.port) as here:
        here.answers = [first, second]
        try:
            sock = tcpsock.connect((host, open_port.port), policy=policy, close_timeout=0)
        except InvalidAddress:
            assert here.looked_up == 0
            with pytest.raises(InvalidAddress):
                policy.evaluate(host, open_port.port)
            return
        error = sock.opened.exception(WAIT)
        sock.abort()
        sock.closed.exception(WAIT)
    assert isinstance(error, (PolicyViolation, ConnectError)), error
    assert not saw_somebody(open_port)
    assert all(map(is_public, here.dialled)), here.dialled
    # No address is ever looked up. ("*" is a name to everybody but glibc, which takes it for none
    # and answers with the loopback.)
    assert here.looked_up <= 1 and here.numbers in ([], ["*"])
    if isinstance(error, PolicyViolation):
        assert here.dialled == []
        assert here.looked_up == 0 or error.code == "policy-address"
    # The dry run says the same, of the host alone, or of what the look-up found.
    found = numeric(host) or first
    decision = policy.evaluate(host, open_port.port, found if here.looked_up else None)
    if "cannot resolve" in str(error):  # "%nowhere" is no interface
        assert here.dialled == [] and (not found or "%" in host)
    else:
        assert bool(decision) is not isinstance(error, PolicyViolation), decision
        assert set(map(_plain, here.dialled)) == set(map(_plain, decision.addresses))


near_home = st.one_of(
    disguised(spelled_v4()),
    st.sampled_from(
        ["127.0.0.1", "0.0.0.0", "::ffff:127.0.0.1", "::ffff:7f00:1", "::ffff:0.0.0.0", "127.0.0.2"]
    ),
    disguised(st.sampled_from(["127.1", "0x7f000001", "2130706433", "0177.0.0.1", "127.0.0.1"])),
)
# Policies, and whether they let a connection to 127.0.0.1 and to 0.0.0.0 through.
HOME_POLICIES = [
    (EgressPolicy(), True, True),
    (EgressPolicy(allow_networks=["127.0.0.1"]), True, False),
    (EgressPolicy.public_internet(allow_networks=["127.0.0.1"]), True, False),
    (EgressPolicy(deny_networks=["127.0.0.0/8", "0.0.0.0/8"]), False, False),
    (EgressPolicy(check=lambda host, port, address: "127" not in address), False, True),
    (EgressPolicy() & EgressPolicy(deny_networks=["127.0.0.1"]), False, True),
    (EgressPolicy(allow_networks=["0.0.0.0/0"], deny_ports=range(1, 65536)), False, False),
]


@pytest.mark.long
@pytest.mark.timeout(7200 if LONG else 120)
@seed(9)
@fuzzed
@given(host=near_home, policy=st.sampled_from(HOME_POLICIES))
def test_P1_P10_a_listener_is_reached_just_if_the_policy_lets_it(
    open_port: Listener, host: str, policy: tuple[EgressPolicy, bool, bool]
) -> None:
    """Real connections, to a port of this machine."""
    chosen, home, unspecified = policy
    with world(open_port.port) as here:
        try:
            sock = tcpsock.connect((host, open_port.port), policy=chosen, close_timeout=0)
        except InvalidAddress:
            return
        error = sock.opened.exception(WAIT)
        sock.abort()
        sock.closed.exception(WAIT)
    assert here.numbers == []
    meant = {socket.inet_ntoa(_plain(text)[-4:]) for text in here.dialled}
    allowed = {"127.0.0.1": home, "0.0.0.0": unspecified}
    assert not any(allowed.get(address) is False for address in meant)
    assert saw_somebody(open_port) is (error is None)
    if host in ("127.0.0.1", "::ffff:127.0.0.1", "::ffff:7f00:1"):
        assert (error is None) is home
    if host in ("0.0.0.0", "::ffff:0.0.0.0"):
        assert (error is None) is unspecified


def _plain(text: str) -> bytes:
    text = text.partition("%")[0]
    return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)


@pytest.mark.long
@pytest.mark.timeout(7200 if LONG else 120)
@seed(9)
@fuzzed
@given(text=st.one_of(spelled_v4(), spelled_v6()))
def test_P8_P9_an_address_is_allowed_just_if_it_is_public(text: str) -> None:
    """Not only is none let through: none is refused that need not be."""
    try:
        ip = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        assert not EgressPolicy().evaluate("db.example", 80, [text])
        return
    if ip.version == 4 and "%" in text:
        return
    decision = EgressPolicy.public_internet().evaluate("db.example", 80, [text])
    assert bool(decision) is is_public(text), decision


@pytest.mark.long
@pytest.mark.timeout(7200 if LONG else 120)
@seed(9)
@fuzzed
@given(text=st.one_of(spelled_v4(), spelled_v6()), network=v4, length=st.integers(0, 32))
def test_P9_what_is_denied_is_denied_in_every_wrapping(
    text: str, network: int, length: int
) -> None:
    """Mapped, translated, tunnelled: if the IPv4 network is denied, so is each address inside."""
    net = ipaddress.ip_network((network, length), strict=False)
    policy = EgressPolicy(deny_networks=[net])
    inner = ipaddress.IPv4Address(network)
    packed = inner.packed
    inverted = bytes(byte ^ 0xFF for byte in packed)
    prefix = bytes.fromhex("20010db8000000000000000000000000")
    for wrapped in (
        bytes(10) + b"\xff\xff" + packed,
        bytes(8) + b"\xff\xff\0\0" + packed,
        bytes.fromhex("0064ff9b0000000000000000") + packed,
        bytes.fromhex("0064ff9b0001000000000000") + packed,
        b"\x20\x02" + packed + bytes(10),
        prefix[:8] + bytes.fromhex("00005efe") + packed,
        prefix[:8] + bytes.fromhex("02005efe") + packed,
        b"\x20\x01\0\0" + packed + bytes(8),
        b"\x20\x01\0\0" + bytes(8) + inverted,
        *([bytes(12) + packed] if network > 1 else []),
    ):
        address = socket.inet_ntop(socket.AF_INET6, wrapped)
        assert not policy.evaluate("db.example", 80, [address]), address
    assert not policy.evaluate(str(inner), 80)


@pytest.mark.long
@pytest.mark.timeout(7200 if LONG else 120)
@seed(9)
@fuzzed
@given(host=hosts, allowed=st.sampled_from(["db.example", "*.example", "192.0.2.1", "localhost"]))
def test_P7_no_host_passes_but_the_allowed_ones(host: str, allowed: str) -> None:
    """By another comparison: of the bytes that a resolver gets, or of the address that it is."""
    try:
        decision = EgressPolicy(allow_hosts=[allowed]).evaluate(host, 80)
    except InvalidAddress:
        return
    if not decision:
        return
    if allowed == "192.0.2.1":
        (address,) = decision.addresses
        inner = socket.inet_aton(allowed)
        assert inner in (_plain(address)[-4:], _plain(address)[2:6])
        return
    name = host.encode("idna").lower().removesuffix(b".")
    assert name == allowed.encode() or (allowed == "*.example" and name.endswith(b".example"))
