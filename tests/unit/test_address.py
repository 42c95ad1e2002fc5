"""Addresses: what is taken, what is refused, and what the refusal says."""

from __future__ import annotations

import contextlib
import enum
import subprocess
import sys
import types
import urllib.parse
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tcpsock._dialing.address import (
    check_host,
    check_port,
    dns_name,
    host_port,
    ip_literal,
    parse,
    sni_name,
)
from tcpsock._errors import InvalidAddress, printable

LABEL_63 = "a" * 63
HOST_253 = ".".join([LABEL_63] * 3 + ["a" * 61])


# What is taken ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_address", "expected"),
    [
        ("db.example:5432", ("db.example", 5432)),
        ("localhost:1", ("localhost", 1)),
        ("localhost:65535", ("localhost", 65535)),
        ("127.0.0.1:80", ("127.0.0.1", 80)),
        ("[::1]:80", ("::1", 80)),
        ("[fe80::1%eth0]:80", ("fe80::1%eth0", 80)),
        ("[::ffff:1.2.3.4]:80", ("::ffff:1.2.3.4", 80)),
        ("tcp://db.example:5432", ("db.example", 5432)),
        ("TCP://db.example:5432", ("db.example", 5432)),
        ("tcp://db.example:5432/", ("db.example", 5432)),
        ("tcp://[::1]:80/", ("::1", 80)),
        ("DB.Example:5432", ("DB.Example", 5432)),
        ("db.example.:5432", ("db.example.", 5432)),
        ("my_service:80", ("my_service", 80)),
        ("xn--bcher-kva.example:80", ("xn--bcher-kva.example", 80)),
        ("bücher.example:80", ("bücher.example", 80)),
        (f"{HOST_253}:80", (HOST_253, 80)),
        (f"{HOST_253}.:80", (f"{HOST_253}.", 80)),
        (f"{LABEL_63}:80", (LABEL_63, 80)),
        ("127.1:80", ("127.1", 80)),
    ],
)
def test_A1_text_forms(given_address: str, expected: tuple[str, int]) -> None:
    assert parse(given_address) == expected


class _Text(str):
    pass


class _Port(enum.IntEnum):
    POSTGRES = 5432


class _Peer(NamedTuple):
    host: str
    port: int


class _Index:
    def __index__(self) -> int:
        return 5432


@pytest.mark.parametrize(
    "given_address",
    [
        ("db.example", 5432),
        {"hostname": "db.example", "port": 5432},
        types.MappingProxyType({"hostname": "db.example", "port": 5432}),
        types.SimpleNamespace(hostname="db.example", port=5432),
        _Peer("db.example", 5432),
        _Text("db.example:5432"),
        ("db.example", _Port.POSTGRES),
        ("db.example", _Index()),
    ],
    ids=lambda given_address: type(given_address).__name__,
)
def test_A1_object_forms(given_address: object) -> None:
    hostname, port = parse(given_address)
    assert (hostname, port) == ("db.example", 5432)
    assert type(port) is int


def test_A1_a_bare_ipv6_address_is_fine_where_it_is_not_ambiguous() -> None:
    assert parse(("::1", 80)) == ("::1", 80)
    assert parse({"hostname": "fe80::1%eth0", "port": 80}) == ("fe80::1%eth0", 80)


# What is refused, and what it says --------------------------------------------------------------

NO_ADDRESS = [
    # text, what its message says
    ("", 'write "host:port"'),
    ("host", 'port is missing; write "host:PORT"'),
    ("host:", 'port is missing; write "host:PORT"'),
    ("tcp://host", 'port is missing; write "host:PORT"'),
    ("tcp://host/", 'port is missing; write "host:PORT"'),
    ("[::1]", r'port is missing; write "\[::1\]:PORT"'),
    ("[::1]:", r'port is missing; write "\[::1\]:PORT"'),
    (":80", "host before the port is missing"),
    ("tcp://:80", "host before the port is missing"),
    (":", "host before the port is missing"),
    ("tcp://", "host before the port is missing"),
    ("::1", r'written "\[::1\]:PORT"'),
    ("2001:db8::7", r'written "\[2001:db8::7\]:PORT"'),
    ("fe80::1%eth0", r'written "\[fe80::1%eth0\]:PORT"'),
    ("::1:80", "written"),
    ("a:b:80", "more than one colon"),
    ("db.example:5432:1", "more than one colon"),
    ("host:0", "outside 1..65535"),
    ("host:65536", "outside 1..65535"),
    ("host:" + "9" * 5000, "outside 1..65535"),
    ("host:080", "leading zeros"),
    ("host:00", "leading zeros"),
    ("host:http", "decimal number"),
    ("host:-1", "decimal number"),
    ("host:+80", "decimal number"),
    ("host:8_0", "decimal number"),
    ("host:0x50", "decimal number"),
    ("host:80.0", "decimal number"),
    ("host:\uff18\uff10", "decimal number"),
    ("host:\u0668\u0660", "decimal number"),
    ("host:\u00b2", "decimal number"),
    ("[example.com]:80", "brackets are for IPv6 addresses alone"),
    ("[127.0.0.1]:80", "brackets are for IPv6 addresses alone"),
    ("[]:80", "brackets are for IPv6 addresses alone"),
    ("[::1%]:80", "brackets are for IPv6 addresses alone"),
    ("[::g]:80", "brackets are for IPv6 addresses alone"),
    ("[::1%a]b]:80", "the form is"),
    ("[::1:80", "the form is"),
    ("[::1]80", "the form is"),
    ("[::1] :80", "blanks"),
    ("host:80/", "path"),
    ("tcp://host:80//", "path"),
    ("tcp://host:80/path", "path"),
    ("//host:80", "path"),
    ("tcp:///host:80", "path"),
    ("tcp://host:80?x=1", "query"),
    ("host:80#x", "fragment"),
    ("host/:80", "path"),
    ("user@host:80", "user name"),
    (" host:80", "blanks"),
    ("host:80 ", "blanks"),
    ("host:80\n", "control characters"),
    ("ho st:80", "blanks"),
    ("ho\u3000st:80", "blanks"),
    ("ho\xa0st:80", "blanks"),
    ("1.2.3.4\0evil:80", "control characters"),
    ("host:80\0", "control characters"),
    ("ho\x7fst:80", "control characters"),
    ("ho\x9bst:80", "control characters"),
    ("a..b:80", "part of the name is empty"),
    (".a:80", "part of the name is empty"),
    ("a..:80", "part of the name is empty"),
    (".:80", "part of the name is empty"),
    (f"{LABEL_63}a:80", "longer than 63"),
    ("ü" * 63 + ":80", "longer than 63"),
    ("\xad:80", "part of the name is empty"),
    ("bücher..example:80", "part of the name is empty"),
    ("\ud800:80", "blanks or control"),
    (f"{HOST_253}a:80", "254 characters"),
    (f"{HOST_253}a.:80", "255 characters"),
    ("a" * 254 + ":80", "254 characters"),
    (".".join(["ü" * 40] * 6) + ":80", "253 is the longest"),
    ("ho%st:80", 'no "%"'),
    ("127.0.0.1%eth0:80", 'no "%"'),
    ("ho\\st:80", "a host contains no"),
    ("<host>:80", "a host contains no"),
    ("h|st:80", "a host contains no"),
    ("h^st:80", "a host contains no"),
    ("host]:80", "without brackets"),
    ("mailto://host:25", 'write "host:port" or "tcp://host:port"'),
    ("://host:80", 'write "host:port" or "tcp://host:port"'),
]


@pytest.mark.parametrize(("text", "says"), NO_ADDRESS, ids=lambda text: ascii(text)[:30])
def test_A1_what_is_no_address(text: str, says: str) -> None:
    with pytest.raises(InvalidAddress, match=says) as caught:
        parse(text)
    assert isinstance(caught.value, ValueError)
    assert (caught.value.code, caught.value.phase) == ("invalid-address", "address")
    assert caught.value.errno is None


@pytest.mark.parametrize(
    ("host", "says"),
    [
        ("", "host is missing"),
        ("host:80", 'no ":"'),
        ("[::1]", "without brackets"),
        ("[example.com]", "without brackets"),
        ("user:secret@host", "user name"),
        ("tcp://host", "a host contains no"),
        ("host/path", 'no "/"'),
        ("1.2.3.4\0evil", "control characters"),
        ("host\n", "control characters"),
        ("a..b", "part of the name is empty"),
        ("::1%a/b", "a host contains no"),
        ("::1%a]b", "a host contains no"),
        ("::1%", "a host contains no"),
        (f"::1%{'e' * 254}", "253 is the longest"),
        # What Unicode's compatibility forms would become on their way to the resolver:
        ("a\u2100b.example", 'no "/"'),  # "a/c" in one character
        ("evil.example\uff0fx", 'no "/"'),
        ("a\uff1a80", 'no ":"'),
        ("\uff1a\uff1a1", 'no ":"'),
        ("user\uff20host", "user name"),
        ("a\uff05b", 'no "%"'),
        ("a\xb4b", "no blanks"),  # an acute accent is a blank that carries one
        ("a\u2025b", "part of the name is empty"),  # ".." in one character
        ("a\uff1fb", r'no "\?"'),
        ("a\u037eb;", None),  # a Greek question mark is a semicolon: odd, and harmless
    ],
)
def test_A3_hosts_in_object_forms(host: str, says: str | None) -> None:
    if says is None:
        assert parse((host, 80)) == (host, 80)
        return
    for form in ((host, 80), {"hostname": host, "port": 80}):
        with pytest.raises(InvalidAddress, match=says):
            parse(form)
    with pytest.raises(InvalidAddress, match=says):
        check_host(host)


@pytest.mark.parametrize("port", [0, -1, 65536, 1 << 70])
def test_A3_ports_in_object_forms(port: int) -> None:
    with pytest.raises(InvalidAddress, match=rf"port {port} is outside 1\.\.65535"):
        parse(("host", port))
    with pytest.raises(InvalidAddress):
        check_port(port)


@pytest.mark.parametrize("port", [True, False, "80", 80.0, None, b"80", [80]])
def test_A3_a_port_that_is_no_integer_is_a_type_error(port: object) -> None:
    for form in (("host", port), {"hostname": "host", "port": port}):
        with pytest.raises(TypeError, match=f"port must be an int, not {type(port).__name__}"):
            parse(form)


@pytest.mark.parametrize("hostname", [None, b"host", 1, ["host"]])
def test_A3_a_hostname_that_is_no_str_is_a_type_error(hostname: object) -> None:
    for form in ((hostname, 80), {"hostname": hostname, "port": 80}):
        with pytest.raises(TypeError, match="hostname must be a str"):
            parse(form)


@pytest.mark.parametrize(
    ("no_address", "says"),
    [
        (None, "not NoneType"),
        (80, "not int"),
        (b"host:80", "not bytes"),
        (["host", 80], "not list"),
        ((), "not 0 items"),
        (("host",), "not 1 items"),
        (("::1", 80, 0, 0), "not 4 items"),
        (urllib.parse.urlsplit("https://host:443"), "not 5 items"),
    ],
)
def test_A3_what_is_of_no_address_type(no_address: object, says: str) -> None:
    with pytest.raises(TypeError, match=says):
        parse(no_address)


def test_A1_a_mapping_without_hostname_or_port() -> None:
    with pytest.raises(InvalidAddress, match="hostname is missing"):
        parse({"port": 80})
    with pytest.raises(InvalidAddress, match="port is missing"):
        parse({"hostname": "host"})


def test_A3_a_mapping_with_more_is_not_half_ignored() -> None:
    with pytest.raises(TypeError, match='hostname and port alone, not "secure_transport"'):
        parse({"hostname": "host", "port": 80, "secure_transport": "on"})
    with pytest.raises(TypeError, match='not "host"'):
        parse({"host": "host", "port": 80})


# Messages ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("https://example.com", 'write "example.com:443" with secure_transport="on"'),
        ("https://example.com/path?q", 'write "example.com:443" with secure_transport="on"'),
        ("HTTPS://example.com:8443/", 'write "example.com:8443" with secure_transport="on"'),
        ("https://[::1]/", 'write "[::1]:443" with secure_transport="on"'),
        ("https://", 'write "host:443" with secure_transport="on"'),
        ("wss://example.com/chat", 'write "example.com:443" with secure_transport="on"'),
        ("http://example.com", 'write "example.com:80"'),
    ],
)
def test_D7_a_url_gets_an_answer_that_can_be_pasted(url: str, says: str) -> None:
    with pytest.raises(InvalidAddress) as caught:
        parse(url)
    assert str(caught.value).endswith(says)


@pytest.mark.parametrize(
    "text",
    [
        "tcp://bob:hunter2@host:80",
        "bob:hunter2@host:80",
        "https://bob:hunter2@host/",
        "https://bob:hun/ter2@host/",
        "tcp://bob:h/u?n#ter2@host:80",
        "tcp://bob:hun@ter2@host:80",
        "postgres://bob:hunter2@host/db",
        "bob:hunter2@host",
        "tcp://bob:hunter2@[::1]",
        "bob:hunter2\n@host:80",
        "tcp://bob:hunter2\uff20host:80",
        "x" * 300 + ":hunter2@host:80",
        "https://bob:hunter2:443@x",
    ],
)
def test_A1_userinfo_is_masked(text: str) -> None:
    for form in (text, (text, 80), {"hostname": text, "port": 80}):
        with pytest.raises(InvalidAddress) as caught:
            parse(form)
        for secret in ("bob", "hun", "ter2"):
            assert secret not in str(caught.value)
        assert "***@" in str(caught.value)


@pytest.mark.parametrize(
    "text", ["a\x1b[2Jb:80", "host:8\r0", "\u202ehost:x", "ho\x9bst", "\ud800:"]
)
def test_A1_control_characters_are_escaped(text: str) -> None:
    with pytest.raises(InvalidAddress) as caught:
        parse(text)
    assert str(caught.value).isprintable()


def test_L2_a_message_does_not_grow_with_the_address() -> None:
    with pytest.raises(InvalidAddress) as caught:
        parse("x" * 1_000_000 + ":y")
    assert len(str(caught.value)) < 500


# Names on their way to DNS and TLS --------------------------------------------------------------


@pytest.mark.parametrize(
    ("hostname", "for_dns", "for_tls"),
    [
        ("db.example", "db.example", "db.example"),
        ("db.example.", "db.example.", "db.example"),
        ("bücher.example", "xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("BÜCHER.example.", "xn--bcher-kva.example.", "xn--bcher-kva.example"),
        ("例え。テスト", "xn--r8jz45g.xn--zckzah", "xn--r8jz45g.xn--zckzah"),
        ("so\xadft.example", "soft.example", "soft.example"),
        ("\uff11\uff12\uff17.0.0.1", "127.0.0.1", "127.0.0.1"),
        ("127.0.0.1", "127.0.0.1", "127.0.0.1"),
        ("::1", "::1", "::1"),
        ("fe80::1%eth0", "fe80::1%eth0", "fe80::1"),
    ],
)
def test_A2_names_for_dns_and_tls(hostname: str, for_dns: str, for_tls: str) -> None:
    assert dns_name(hostname) == for_dns
    assert sni_name(hostname) == for_tls


@pytest.mark.parametrize(
    ("hostname", "expected"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("fe80::1%eth0", True),
        ("::ffff:127.0.0.1", True),
        ("localhost", False),
        ("127.1", False),
        ("0x7f.0.0.1", False),
        ("0127.0.0.1", False),
        ("127.0.0.1.", False),
        ("127.0.0.1%eth0", False),
        ("::1%", False),
        ("::1%a%b", False),
        ("::1%a/b", False),
        ("2130706433", False),
        ("", False),
    ],
)
def test_A2_what_is_an_ip_address(hostname: str, expected: bool) -> None:
    assert ip_literal(hostname) is expected


def test_A1_host_and_port_as_one_text() -> None:
    assert host_port("db.example", 5432) == "db.example:5432"
    assert host_port("::1", 80) == "[::1]:80"


# Whatever comes ---------------------------------------------------------------------------------

PIECES = st.one_of(
    st.sampled_from(["tcp://", "https://", "xn--", "127.0.0.1", "::1", "80"]),
    st.sampled_from("[]:%@/?.0aü \0\u2100\uff20\uff0e\xad\ud800\u202e"),
)
# A busy machine is no failure, and a failure found is to be written into an @example.
fuzz = settings(deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])


@fuzz
@given(st.one_of(st.text(), st.lists(PIECES).map("".join), st.text().map(lambda t: t + ":80")))
@example("xn--ü:80")
@example("tcp://[::1]:80/")
def test_A1_nothing_but_invalid_address_and_what_is_taken_round_trips(text: str) -> None:
    try:
        hostname, port = parse(text)
    except InvalidAddress as error:
        assert printable(str(error), limit=1000) == str(error)
        return
    assert parse(host_port(hostname, port)) == (hostname, port)
    assert parse((hostname, port)) == (hostname, port)
    name = dns_name(hostname)
    assert name.isascii() and dns_name(name) == name
    assert not set(name) & set("\0 /?#@[]\\<>^|")


@fuzz
@given(st.one_of(st.text(), st.integers(), st.none(), st.binary(), st.floats(), st.booleans()))
def test_A3_no_object_raises_anything_but_invalid_address_or_type_error(item: object) -> None:
    for form in (item, (item, item), ("host", item), (item, 80), {"hostname": item, "port": item}):
        with contextlib.suppress(InvalidAddress, TypeError):
            parse(form)


def test_T11_idna_is_imported_before_any_thread_needs_it() -> None:
    """The first use of the codec in a thread may wait for an import lock for ever."""
    program = "import sys, tcpsock._dialing.address; sys.exit('encodings.idna' not in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 0
