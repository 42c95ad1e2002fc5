"""Addresses and options: what connect() takes, what it refuses, and how it says so (A1 to A4)."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import os
import pathlib
import pickle
import socket
import ssl
import subprocess
import sys
import unicodedata
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from _ending_peers import (
    Listener,
    Names,
    ca_data,
    connected,
    failure,
    note_server_names,
    raised,
    tls_server,
    tls_server_for,
    trusting,
)
from peers import WAIT, Peer

import tcpsock
from tcpsock import InvalidAddress, KeepAlive, SocketAddress, SocketOptions, TlsOptions, testing

ROOT = pathlib.Path(__file__).parents[2]
MISTAKES = (TypeError, ValueError)


def mistake(call: Callable[..., object], *args: Any, **options: Any) -> Exception:
    """The plain TypeError or ValueError that the call raises."""
    with pytest.raises(MISTAKES) as caught:
        call(*args, **options)
    assert not isinstance(caught.value, OSError), repr(caught.value)
    return caught.value


def has_controls(text: str) -> bool:
    """Whether there is anything in it that moves a terminal's cursor, or can't be printed."""
    return any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in text)


@contextlib.contextmanager
def adopted(**options: Any) -> Iterator[tuple[tcpsock.Socket, Peer]]:
    """A Socket over one end of a socketpair, and the peer at the other."""
    ours, theirs = socket.socketpair()
    with contextlib.closing(Peer(theirs)) as peer:
        sock = tcpsock.adopt(ours, **options)
        try:
            yield sock, peer
        finally:
            sock.abort()
            failure(sock.closed)


# -- A1: strings ------------------------------------------------------------------------------


def forms(host: str, port: int) -> list[Any]:
    bracketed = f"[{host}]" if ":" in host else host
    return [
        f"{bracketed}:{port}",
        f"tcp://{bracketed}:{port}",
        f"tcp://{bracketed}:{port}/",
        SocketAddress(host, port),
        (host, port),
        {"hostname": host, "port": port},
    ]


@pytest.mark.parametrize("form", range(6))
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_A1_every_form_of_an_address_connects(host: str, form: int) -> None:
    with Listener(host) as listener, tcpsock.connect(forms(host, listener.port)[form]) as sock:
        peer = listener.accept()
        info = sock.opened.result(WAIT)
        assert info.hostname == host
        assert info.remote_address == listener.address
        peer.end()


@pytest.mark.parametrize("form", range(6))
def test_A1_every_form_takes_a_name(form: int) -> None:
    with Listener() as listener, Names() as names:
        names["db.example"] = [("127.0.0.1", listener.port)]
        with tcpsock.connect(forms("db.example", listener.port)[form]) as sock:
            peer = listener.accept()
            assert sock.opened.result(WAIT).hostname == "db.example"
            peer.end()
        assert names.asked == ["db.example"]


LONGEST = ".".join(["a" * 49] * 5) + ".xyz"  # 253 characters

IMPOSSIBLE = {
    "no port": "db.example",
    "no port, dotted quad": "127.0.0.1",
    "nothing": "",
    "only a colon": ":",
    "no host": ":80",
    "no host in a URL": "tcp://:80",
    "nothing behind tcp://": "tcp://",
    "no port behind the colon": "db.example:",
    "no port in a URL": "tcp://db.example",
    "no port in a URL with a slash": "tcp://db.example/",
    "http": "http://db.example:80",
    "https": "https://db.example:443/",
    "tls": "tls://db.example:443",
    "scheme without slashes": "tcp:db.example:80",
    "no scheme, but slashes": "//db.example:80",
    "path": "tcp://db.example:80/path",
    "two slashes": "tcp://db.example:80//",
    "path without scheme": "db.example:80/path",
    "slash without scheme": "db.example:80/",
    "query": "tcp://db.example:80?x=1",
    "query behind the slash": "tcp://db.example:80/?x=1",
    "empty query": "tcp://db.example:80?",
    "query without scheme": "db.example:80?x=1",
    "fragment": "tcp://db.example:80#top",
    "empty fragment": "tcp://db.example:80#",
    "fragment without scheme": "db.example:80#top",
    "query in the host": "db.example?x:80",
    "fragment in the host": "db.example#x:80",
    "path in the host": "db.example/x:80",
    "backslash": "db.example\\x:80",
    "user": "tcp://user@db.example:80",
    "user without scheme": "user@db.example:80",
    "user and password": "tcp://user:word@db.example:80",
    "empty user": "tcp://@db.example:80",
    "blank before": " db.example:80",
    "blank behind": "db.example:80 ",
    "blank in the host": "db example:80",
    "blank before the port": "db.example: 80",
    "blank before the colon": "db.example :80",
    "tab": "db.example\t:80",
    "newline behind": "db.example:80\n",
    "newline in the host": "db.exa\nmple:80",
    "carriage return": "db.example\r:80",
    "newline in the scheme": "tc\np://db.example:80",
    "NUL": "1.2.3.4\0evil:80",
    "NUL at the end": "1.2.3.4:80\0",
    "escape": "db\x1b[31m.example:80",
    "DEL": "db.example\x7f:80",
    "C1 control": "db.example\x85:80",
    "no-break space": "db\u00a0.example:80",
    "ideographic space": "db\u3000.example:80",
    "line separator": "db\u2028.example:80",
    "lone surrogate": "db\ud800.example:80",
    "port 0": "db.example:0",
    "port 00": "db.example:00",
    "port 65536": "db.example:65536",
    "port of many digits": "db.example:" + "9" * 5000,
    "negative port": "db.example:-1",
    "port with a sign": "db.example:+80",
    "leading zero": "db.example:080",
    "hexadecimal": "db.example:0x50",
    "underscore": "db.example:8_0",
    "full-width digits": "db.example:\uff18\uff10",
    "superscript digits": "db.example:\u00b2\u00b2",
    "fraction": "db.example:80.0",
    "service name": "db.example:http",
    "two ports": "db.example:80:80",
    "bare IPv6": "::1:80",
    "bare IPv6 without port": "::1",
    "bare IPv6 in a URL": "tcp://::1:80",
    "bare IPv6 with a scope": "fe80::1%eth0:80",
    "brackets without port": "[::1]",
    "nothing behind the brackets' colon": "[::1]:",
    "no colon behind the brackets": "[::1]80",
    "something behind the brackets": "[::1]x:80",
    "something before the brackets": "x[::1]:80",
    "open bracket": "[::1:80",
    "closing bracket": "::1]:80",
    "two brackets": "[[::1]]:80",
    "empty brackets": "[]:80",
    "brackets around IPv4": "[127.0.0.1]:80",
    "brackets around a name": "[db.example]:80",
    "brackets around no IPv6": "[::1::2]:80",
    "brackets around the future": "[v1.x]:80",
    "blank in the brackets": "[ ::1]:80",
    "NUL in the brackets": "[::1\0]:80",
    "NUL in the scope": "[fe80::1%lo\0]:80",
    "host of 254 characters": "a" + LONGEST + ":80",
    "empty label": "db..example:80",
    "leading dot": ".db.example:80",
    "only a dot": ".:80",
    "label of 64 characters": "a" * 64 + ".example:80",
    "unicode label too long": "\u00fc" * 63 + ".example:80",
    "nothing left after IDNA": "\u00ad:80",
}


@pytest.mark.parametrize("address", IMPOSSIBLE.values(), ids=IMPOSSIBLE.keys())
def test_A1_A2_what_cannot_be_an_address_is_InvalidAddress_at_the_call(address: str) -> None:
    with Names() as names:
        error = raised(InvalidAddress, tcpsock.connect, address)
        assert names.asked == []  # checked before it was resolved
    assert isinstance(error, ValueError) and isinstance(error, tcpsock.SocketError)
    assert error.phase == "address" and error.code == "invalid-address"
    text = str(error)
    assert text and not has_controls(text)
    assert len(text) < 1000


@pytest.mark.parametrize(
    ("address", "escaped"),
    [
        ("1.2.3.4\0evil:80", "\\x00"),
        ("db\x1b[31m.example:80", "\\x1b"),
        ("db.example:80\n", "\\n"),
        ("db.example\x85:80", "\\x85"),
    ],
)
def test_A1_control_characters_are_escaped_in_the_message(address: str, escaped: str) -> None:
    assert escaped in str(raised(InvalidAddress, tcpsock.connect, address))
    host = address.rsplit(":", 1)[0]
    if escaped != "\\n":
        assert escaped in str(raised(InvalidAddress, tcpsock.connect, (host, 80)))


@pytest.mark.parametrize(
    "address",
    [
        "tcp://alice:hunter2@db.example:80",
        "tcp://alice:hunter2@db.example",
        "alice:hunter2@db.example:80",
        "https://alice:hunter2@db.example:443/path",
        "tcp://alice:hunter2@db.example:0",
        "tcp://alice:hunter2@[::1]:80",
        "tcp://alice:hun@hunter2@db.example:80",
        "tcp://alice%40x:hunter2%2F@db.example:80",
    ],
)
def test_A1_userinfo_is_masked_in_the_message(address: str) -> None:
    error = raised(InvalidAddress, tcpsock.connect, address)
    for text in (str(error), repr(error), str(error.address)):
        assert "hunter2" not in text and "alice" not in text


def test_A1_a_host_of_253_characters_is_the_longest() -> None:
    assert len(LONGEST) == 253
    with Listener() as listener, Names() as names:
        names[LONGEST] = [("127.0.0.1", listener.port)]
        with tcpsock.connect(f"{LONGEST}:80", close_timeout=0) as sock:
            assert sock.opened.result(WAIT).hostname == LONGEST
    raised(InvalidAddress, tcpsock.connect, ("a" + LONGEST, 80))


@pytest.mark.parametrize("port", [1, 65535])
def test_A1_the_first_and_the_last_port(port: int) -> None:
    with Names() as names:
        names["db.example"] = socket.gaierror(socket.EAI_NONAME, "not today")
        sock = tcpsock.connect(f"db.example:{port}")
        error = failure(sock.opened)
        assert isinstance(error, tcpsock.ResolveError)
        assert error.address == f"db.example:{port}"
        assert str(SocketAddress("db.example", port)) == f"db.example:{port}"


def test_D7_the_first_mistakes_are_answered() -> None:
    assert "port" in str(raised(InvalidAddress, tcpsock.connect, "db.example"))
    text = str(raised(InvalidAddress, tcpsock.connect, "https://db.example:443"))
    assert '"db.example:443"' in text and "secure_transport" in text
    connect: Any = tcpsock.connect
    assert '"db.example:80"' in str(raised(TypeError, connect, "db.example", 80))


# -- A1, A3: the other forms ------------------------------------------------------------------


def test_A1_a_bare_IPv6_literal_is_fine_where_it_is_not_ambiguous() -> None:
    assert str(SocketAddress("::1", 80)) == "[::1]:80"
    assert str(SocketAddress("127.0.0.1", 80)) == "127.0.0.1:80"
    assert str(SocketAddress("db.example", 80)) == "db.example:80"


BAD_HOSTS = [
    "",
    ".",
    "db..example",
    ".db.example",
    "a" * 64,
    "\u00fc" * 63,
    "a" + LONGEST,
    "1.2.3.4\0evil",
    "db example",
    "db.example\n",
    "db\x1b.example",
    "user@db.example",
    "db.example/path",
    "db.example?x",
    "db.example#x",
    "db.example:80",
    "tcp://db.example",
    "\u00ad",
    "::1::2",
    "fe80::1%",
]
BAD_PORTS = [0, -1, 65536, 10**30]


@pytest.mark.parametrize(
    "form",
    [SocketAddress, lambda h, p: (h, p), lambda h, p: {"hostname": h, "port": p}],
    ids=["SocketAddress", "tuple", "mapping"],
)
class TestA3ObjectForms:
    @pytest.mark.parametrize("host", BAD_HOSTS, ids=ascii)
    def test_A3_bad_hostname(self, form: Callable[..., Any], host: str) -> None:
        error = raised(InvalidAddress, lambda: tcpsock.connect(form(host, 80)))
        assert not has_controls(str(error)) and error.phase == "address"

    @pytest.mark.parametrize("port", BAD_PORTS)
    def test_A3_port_out_of_range(self, form: Callable[..., Any], port: int) -> None:
        raised(InvalidAddress, lambda: tcpsock.connect(form("db.example", port)))

    @pytest.mark.parametrize("port", ["80", 80.0, None, True, b"80", float("nan")])
    def test_A3_a_port_that_is_no_integer(self, form: Callable[..., Any], port: Any) -> None:
        error = mistake(lambda: tcpsock.connect(form("db.example", port)))
        assert type(error) is TypeError and "port" in str(error)

    @pytest.mark.parametrize("host", [None, b"db.example", 5, 2130706433, ["db.example"]])
    def test_A3_a_hostname_that_is_no_str(self, form: Callable[..., Any], host: Any) -> None:
        error = mistake(lambda: tcpsock.connect(form(host, 80)))
        assert type(error) is TypeError and "host" in str(error)


@pytest.mark.parametrize(
    "address",
    [
        None,
        80,
        b"db.example:80",
        object,
        ("db.example",),
        ("db.example", 80, 0),
        (),
        {},
        {"hostname": "db.example"},
        {"port": 80},
        {"host": "db.example", "port": 80},
        ["db.example:80"],
    ],
    ids=repr,
)
def test_A1_A3_what_is_no_form_of_an_address_is_an_error_at_the_call(address: Any) -> None:
    """workerd lets a missing hostname become "undefined"."""
    with Names() as names, pytest.raises((TypeError, InvalidAddress)):
        tcpsock.connect(address)
    assert names.asked == []


def test_A3_wrong_type_is_a_plain_TypeError() -> None:
    for address in (None, 80, b"db.example:80", object()):
        error = mistake(tcpsock.connect, address)
        assert type(error) is TypeError


def test_A3_a_missing_field_of_a_mapping_is_named() -> None:
    for missing, mapping in (("port", {"hostname": "a"}), ("hostname", {"port": 80})):
        with pytest.raises((TypeError, InvalidAddress), match=missing):
            tcpsock.connect(mapping)  # type: ignore[arg-type]


# -- A2: names --------------------------------------------------------------------------------


def test_A2_a_unicode_name_goes_through_IDNA_for_DNS_SNI_and_verification() -> None:
    context = tls_server_for("xn--bcher-kva.example")
    asked_for = note_server_names(context)
    with Listener(context=context) as listener, Names() as names:
        names["xn--bcher-kva.example"] = [("127.0.0.1", listener.port)]
        with tcpsock.connect(
            f"b\u00fccher.example:{listener.port}",
            secure_transport="on",
            close_timeout=0,
            tls=trusting(),
        ) as sock:
            listener.accept()
            assert sock.opened.result(WAIT).hostname == "b\u00fccher.example"
        assert names.asked == ["xn--bcher-kva.example"]
    assert asked_for == ["xn--bcher-kva.example"]


def test_A2_a_trailing_dot_is_kept_for_DNS_and_dropped_for_SNI() -> None:
    context = tls_server_for("db.example")
    asked_for = note_server_names(context)
    with Listener(context=context) as listener, Names() as names:
        names["db.example."] = [("127.0.0.1", listener.port)]
        with tcpsock.connect(
            ("db.example.", listener.port),
            secure_transport="on",
            close_timeout=0,
            tls=trusting(),
        ) as sock:
            listener.accept()
            assert sock.opened.result(WAIT).hostname == "db.example."
        assert names.asked == ["db.example."]
    assert asked_for == ["db.example"]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_A2_an_IP_literal_sends_no_SNI_and_is_verified_against_IP_SANs(host: str) -> None:
    context = tls_server_for(host)
    asked_for = note_server_names(context)
    with (
        Listener(host, context=context) as listener,
        tcpsock.connect(
            listener.address, secure_transport="on", tls=trusting(), close_timeout=0
        ) as sock,
    ):
        listener.accept()
        sock.opened.result(WAIT)
    assert asked_for == [None]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_A2_a_certificate_without_the_IP_address_is_refused(host: str) -> None:
    with Listener(host, context=tls_server_for("localhost", "192.0.2.1")) as listener:
        sock = tcpsock.connect(listener.address, secure_transport="on", tls=trusting())
        with pytest.raises(OSError):
            listener.accept()
        assert isinstance(failure(sock.opened), tcpsock.TlsVerificationError)


def test_A2_an_IPv6_scope_is_kept_for_connect() -> None:
    """The scope id must reach the kernel: seen by CPython's audit event (L8)."""
    script = """
import socket, sys
sys.path.insert(0, sys.argv[1])
dialled = []
def hook(event, args):
    if event == "socket.connect":
        dialled.append(args[1])
import tcpsock
sys.addaudithook(hook)
index = socket.if_nametoindex("lo")
sock = tcpsock.connect("[fe80::1%lo]:9", connect_timeout=5)
while not dialled and not sock.opened.done():
    pass
sock.close()
assert dialled and dialled[0][0] == "fe80::1" and dialled[0][3] == index, dialled
"""
    run = subprocess.run(
        [sys.executable, "-c", script, str(ROOT)], capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0, run.stderr


def test_A2_a_scope_is_dropped_for_SNI_and_for_what_TLS_verifies() -> None:
    """adopt() takes the host from its caller, so no link-local address is needed."""
    context = tls_server_for("fe80::1")
    asked_for = note_server_names(context)
    with adopted(hostname="fe80::1%lo", secure_transport="on", tls=trusting()) as (sock, peer):
        peer.start_tls(context)
        assert sock.opened.result(WAIT).hostname == "fe80::1%lo"
        assert asked_for == [None]


# -- A3: options ------------------------------------------------------------------------------


def test_api_SocketOptions_has_the_fields_and_defaults_of_the_contract() -> None:
    defaults = {f.name: getattr(SocketOptions(), f.name) for f in dataclasses.fields(SocketOptions)}
    assert defaults == {
        "secure_transport": "off",
        "allow_half_open": False,
        "tls": None,
        "connect_timeout": 30.0,
        "timeout": None,
        "close_timeout": 2.0,
        "high_water_mark": 1 << 20,
        "local_address": None,
        "no_delay": True,
        "keep_alive": True,
        "policy": None,
    }


def test_api_TlsOptions_has_the_fields_and_defaults_of_the_contract() -> None:
    defaults = {f.name: getattr(TlsOptions(), f.name) for f in dataclasses.fields(TlsOptions)}
    assert defaults == {
        "server_hostname": None,
        "alpn": (),
        "ssl_context": None,
        "trust": "certifi",
        "ca_file": None,
        "ca_data": None,
        "client_cert": None,
        "client_key": None,
        "client_key_password": None,
        "minimum_version": ssl.TLSVersion.TLSv1_2,
        "session": None,
        "allow_truncation": False,
    }


def test_api_KeepAlive_has_the_fields_and_defaults_of_the_contract() -> None:
    keep = KeepAlive()
    assert (keep.idle, keep.interval, keep.count) == (60, 10, 5)


@pytest.mark.parametrize(
    "value", [SocketAddress("a", 1), SocketOptions(), TlsOptions(), KeepAlive()], ids=repr
)
def test_api_addresses_and_options_are_frozen(value: Any) -> None:
    name = dataclasses.fields(value)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, name, getattr(value, name))
    assert not hasattr(value, "__dict__")  # slots: a wrong name cannot be set unnoticed


@pytest.mark.parametrize("kind", [SocketOptions, TlsOptions, KeepAlive])
def test_api_options_are_keyword_only(kind: type) -> None:
    with pytest.raises(TypeError):
        kind("off")


def test_api_addresses_compare_and_hash_by_value() -> None:
    assert SocketAddress("a", 1) == SocketAddress("a", 1) != SocketAddress("a", 2)
    assert len({SocketAddress("a", 1), SocketAddress("a", 1)}) == 1


@pytest.mark.parametrize(
    ("wrong", "near"),
    [
        ("secureTransport", "secure_transport"),
        ("allowHalfOpen", "allow_half_open"),
        ("connect_timeot", "connect_timeout"),
        ("highWaterMark", "high_water_mark"),
        ("nodelay", "no_delay"),
        ("keepalive", "keep_alive"),
        ("local_addr", "local_address"),
    ],
)
def test_A3_an_unknown_option_is_a_TypeError_that_proposes_the_near_name(
    wrong: str, near: str
) -> None:
    """workerd ignores unknown options in silence."""
    error = mistake(tcpsock.connect, "db.example:80", **{wrong: True})
    assert type(error) is TypeError and wrong in str(error) and near in str(error)


def test_A3_an_option_that_is_near_to_nothing_is_a_TypeError_too() -> None:
    assert "xyzzy" in str(raised(TypeError, tcpsock.connect, "db.example:80", xyzzy=1))


def test_A3_start_tls_proposes_the_near_name_too() -> None:
    with connected("starttls") as (sock, _peer):
        error = mistake(sock.start_tls, serverHostname="localhost")
        assert type(error) is TypeError and "server_hostname" in str(error)
        assert not sock.upgraded


def test_A3_address_and_options_are_positional_only() -> None:
    connect: Any = tcpsock.connect
    for call in (
        lambda: connect(address="db.example:80"),
        lambda: connect("db.example:80", options=SocketOptions()),
        lambda: connect(),
    ):
        raised(TypeError, call)


@pytest.mark.parametrize("options", [80, "off", {"timeout": 1}, TlsOptions(), SocketOptions, True])
def test_A3_options_must_be_SocketOptions(options: Any) -> None:
    assert type(mistake(tcpsock.connect, "db.example:80", options)) is TypeError


NAN, INF = float("nan"), float("inf")
WRONG_OPTIONS = [
    *(("secure_transport", value) for value in ("ON", "tls", "", True, None, 1, [])),
    *(("allow_half_open", value) for value in ("yes", None, "", [])),
    *(("tls", value) for value in ("on", True, {}, SocketOptions())),
    *(("connect_timeout", value) for value in (0, 0.0, -1, NAN, -INF, "30", True, False, ())),
    *(("timeout", value) for value in (-1, -0.001, NAN, -INF, "30", True, False, ())),
    *(("close_timeout", value) for value in (-1, NAN, -INF, "2", True, False, ())),
    *(("high_water_mark", value) for value in (0, -1, 1.5, 1e6, "1", None, True, False)),
    *(
        ("local_address", value)
        for value in (
            "127.0.0.1",
            "127.0.0.1:0",
            ("127.0.0.1",),
            ("localhost", 0),
            ("", 0),
            ("127.1", 0),
            ("127.0.0.1", -1),
            ("127.0.0.1", 65536),
            ("127.0.0.1", "0"),
            ("127.0.0.1", True),
            ("127.0.0.1", None),
            (None, 0),
            (b"127.0.0.1", 0),
            ("127.0.0.1\0", 0),
            5,
        )
    ),
    *(("no_delay", value) for value in ("yes", None, "")),
    *(("keep_alive", value) for value in ("yes", None, 60, 1.0, (60, 10, 5), KeepAlive)),
    *(("policy", value) for value in (object, "public_internet", True)),
]


@pytest.mark.parametrize(("name", "value"), WRONG_OPTIONS, ids=lambda v: ascii(v)[:30])
def test_A3_a_wrong_option_value_names_the_option(name: str, value: Any) -> None:
    base: dict[str, Any] = {"secure_transport": "on"} if name == "tls" else {}
    for call in (
        lambda: SocketOptions(**base, **{name: value}),
        lambda: tcpsock.connect("db.example:80", **base, **{name: value}),
        lambda: tcpsock.connect("db.example:80", SocketOptions(**base), **{name: value}),
    ):
        error = mistake(call)
        assert type(error) in MISTAKES and name in str(error)


@pytest.mark.parametrize("field", ["idle", "interval", "count"])
@pytest.mark.parametrize("value", [0, -1, "60", None, True, 1.5, NAN])
def test_A3_a_wrong_keep_alive_value_names_the_field(field: str, value: Any) -> None:
    error = mistake(lambda: KeepAlive(**{field: value}))
    assert type(error) in MISTAKES and field in str(error)


WRONG_TLS_OPTIONS = [
    *(("server_hostname", value) for value in (5, b"db.example", "", "a..b", "a" * 64, "a\0b")),
    *(("alpn", value) for value in ("h2", b"h2", 5, None, [5], [b"h2"], [""], ["x" * 256])),
    *(("ssl_context", value) for value in ("default", True, ssl.SSLContext)),
    *(("trust", value) for value in ("none", "", True, None, 5)),
    *(("ca_file", value) for value in (5, True, [], b"x" * 0)),
    *(("ca_data", value) for value in (5, True, [], pathlib.Path("x"))),
    *(("client_cert", value) for value in (5, True, [])),
    *(
        ("minimum_version", value)
        for value in (
            "TLSv1_2",
            "1.2",
            1.2,
            3,
            None,
            True,
            ssl.TLSVersion.SSLv3,
            ssl.TLSVersion.TLSv1,
            ssl.TLSVersion.TLSv1_1,
            ssl.TLSVersion.MINIMUM_SUPPORTED,
        )
    ),
    *(("session", value) for value in ("x", b"x", True, 5)),
    *(("allow_truncation", value) for value in ("yes", None, "")),
]


@pytest.mark.parametrize(("name", "value"), WRONG_TLS_OPTIONS, ids=lambda v: ascii(v)[:30])
def test_A3_A4_a_wrong_TLS_option_value_names_the_option(name: str, value: Any) -> None:
    error = mistake(
        lambda: tcpsock.connect(
            "db.example:443", secure_transport="on", tls=TlsOptions(**{name: value})
        )
    )
    assert type(error) in MISTAKES and name in str(error)


@pytest.mark.parametrize("value", [0.001, 5, 30.0, None], ids=repr)
def test_A3_timeouts_may_be_integers_fractions_or_None(value: Any) -> None:
    options = SocketOptions(connect_timeout=value, timeout=value, close_timeout=value)
    assert options.connect_timeout == options.timeout == options.close_timeout == value


def test_A3_the_edges_of_what_is_right() -> None:
    SocketOptions(close_timeout=0)
    SocketOptions(high_water_mark=1)
    SocketOptions(local_address=("::", 0))
    SocketOptions(local_address=("0.0.0.0", 65535))
    SocketOptions(keep_alive=KeepAlive(idle=1, interval=1, count=1))
    TlsOptions(alpn=["x" * 255, "h2"], minimum_version=ssl.TLSVersion.TLSv1_3)


def test_api_a_keyword_overrides_the_field_of_the_options_object() -> None:
    with Listener() as listener:
        given = SocketOptions(secure_transport="off", close_timeout=0.0, timeout=0.001)
        with tcpsock.connect(listener.address, given, secure_transport="starttls") as sock:
            assert sock.secure_transport == "starttls"
            raised(tcpsock.ReadTimeout, sock.readable.get_reader().read)
        assert given.secure_transport == "off"  # the object itself is as it was
        with tcpsock.connect(listener.address, given) as sock:
            assert sock.secure_transport == "off"


def test_api_no_delay_and_keep_alive_reach_the_kernel() -> None:
    def setting(sock: socket.socket, level: int, name: int) -> int:
        return sock.getsockopt(level, name)

    keys = [socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT]
    with Listener() as listener:
        with socket.create_connection((listener.host, listener.port)) as plain:
            system = [setting(plain, socket.IPPROTO_TCP, key) for key in keys]
        cases: list[tuple[dict[str, Any], bool, bool, list[int]]] = [
            ({}, True, True, system),
            ({"no_delay": False, "keep_alive": False}, False, False, system),
            ({"keep_alive": KeepAlive(idle=31, interval=7, count=3)}, True, True, [31, 7, 3]),
        ]
        for options, no_delay, keep_alive, values in cases:
            sock = tcpsock.connect(listener.address, **options)
            with sock.detach(timeout=WAIT) as real:
                assert bool(setting(real, socket.IPPROTO_TCP, socket.TCP_NODELAY)) is no_delay
                assert bool(setting(real, socket.SOL_SOCKET, socket.SO_KEEPALIVE)) is keep_alive
                assert [setting(real, socket.IPPROTO_TCP, key) for key in keys] == values


def test_api_local_address_is_where_the_connection_comes_from() -> None:
    with Listener() as probe, Listener() as listener:
        port = probe.port
        probe.close()
        with tcpsock.connect(
            listener.address, local_address=("127.0.0.2", port), close_timeout=0
        ) as sock:
            peer = listener.accept()
            assert sock.opened.result(WAIT).local_address == f"127.0.0.2:{port}"
            assert peer.sock.getpeername() == ("127.0.0.2", port)


@pytest.mark.parametrize(
    ("local", "kept"),
    [("127.0.0.1", "v4"), ("0.0.0.0", "v4"), ("::1", "v6"), ("::", "v6")],
)
def test_api_only_the_family_of_local_address_is_dialled(local: str, kept: str) -> None:
    with Listener("127.0.0.1") as v4, Listener("::1") as v6, Names() as names:
        names["db.example"] = [("::1", v6.port), ("127.0.0.1", v4.port)]
        with tcpsock.connect("db.example:80", local_address=(local, 0), close_timeout=0) as sock:
            info = sock.opened.result(WAIT)
        listener = v4 if kept == "v4" else v6
        assert [attempt.address for attempt in info.attempts] == [listener.address]
        assert info.remote_address == listener.address
        assert info.local_address is not None
        assert info.local_address.rsplit(":", 1)[0] == ("127.0.0.1" if kept == "v4" else "[::1]")


@pytest.mark.parametrize("address", ["::1", "db.example"])
def test_api_nothing_to_dial_in_the_family_of_local_address_is_a_ConnectError(
    address: str,
) -> None:
    with Listener("::1") as listener, Names() as names:
        names["db.example"] = [("::1", listener.port)]
        sock = tcpsock.connect((address, listener.port), local_address=("127.0.0.1", 0))
        error = failure(sock.opened)
        assert isinstance(error, tcpsock.ConnectError)
        assert failure(sock.closed) is error


def test_O3_a_local_address_that_is_not_ours_is_a_ConnectError() -> None:
    with Listener() as listener:
        sock = tcpsock.connect(listener.address, local_address=("203.0.113.1", 0))
        error = failure(sock.opened)
        assert type(error) is tcpsock.ConnectError
        assert isinstance(error.attempts[0].error, OSError)


# -- A4: options that don't go together, and files --------------------------------------------


def on(**fields: Any) -> Callable[[], object]:
    """A call of connect() with these TLS options, the making of the options included."""
    return lambda: tcpsock.connect(
        "db.example:443", secure_transport="on", tls=TlsOptions(**fields)
    )


def test_A4_tls_with_secure_transport_off() -> None:
    for call in (
        lambda: tcpsock.connect("db.example:80", tls=TlsOptions()),
        lambda: tcpsock.connect("db.example:80", secure_transport="off", tls=TlsOptions()),
        lambda: tcpsock.connect("db.example:80", SocketOptions(), tls=TlsOptions()),
    ):
        assert "tls" in str(mistake(call))


def own_context() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@pytest.mark.parametrize(
    "fields",
    [
        {"alpn": ["h2"]},
        {"trust": "system"},
        {"ca_file": "/etc/hosts"},
        {"ca_data": "x"},
        {"client_cert": "/etc/hosts"},
        {"client_cert": "/etc/hosts", "client_key": "/etc/hosts"},
        {"client_key": "/etc/hosts"},
        {"client_key_password": "x"},
        {"minimum_version": ssl.TLSVersion.TLSv1_3},
    ],
    ids=lambda fields: "+".join(fields),
)
def test_A4_ssl_context_with_a_field_that_it_excludes(fields: dict[str, Any]) -> None:
    error = mistake(on(ssl_context=own_context(), **fields))
    assert "ssl_context" in str(error) and any(name in str(error) for name in fields)


def test_A4_ssl_context_goes_with_the_other_fields() -> None:
    TlsOptions(ssl_context=own_context(), server_hostname="db.example", allow_truncation=True)


@pytest.mark.parametrize(
    "fields",
    [
        {"trust": "system", "ca_file": "/etc/hosts"},
        {"trust": "system", "ca_data": "x"},
        {"ca_file": "/etc/hosts", "ca_data": "x"},
        {"trust": "system", "ca_file": "/etc/hosts", "ca_data": "x"},
    ],
    ids=lambda fields: "+".join(fields),
)
def test_A4_more_than_one_kind_of_roots(fields: dict[str, Any]) -> None:
    text = str(mistake(on(**fields)))
    assert sum(name in text for name in fields) >= 2


@pytest.mark.parametrize("field", ["client_key", "client_key_password"])
def test_A4_key_or_password_without_a_certificate(field: str) -> None:
    text = str(mistake(on(**{field: "/etc/hosts"})))
    assert field in text and "client_cert" in text


def test_A4_a_str_for_alpn() -> None:
    assert "alpn" in str(mistake(on(alpn="h2")))


@pytest.fixture
def files(tmp_path: pathlib.Path) -> pathlib.Path:
    """A directory with PEM files of every kind, good and bad."""
    cert = testing.authority().issue("client.example")
    (tmp_path / "cert.pem").write_text(cert.chain)
    (tmp_path / "key.pem").write_text(cert.key)
    (tmp_path / "both.pem").write_text(cert.key + cert.chain)
    (tmp_path / "other_key.pem").write_text(testing.authority().issue("x.example").key)
    (tmp_path / "ca.pem").write_text(ca_data())
    (tmp_path / "garbage.pem").write_bytes(b"no certificate here\n")
    (tmp_path / "empty.pem").write_bytes(b"")
    (tmp_path / "binary.pem").write_bytes(bytes(range(256)))
    lines = ca_data().splitlines(keepends=True)
    (tmp_path / "broken.pem").write_text("".join([lines[0], "AAAA\n", lines[-1]]))
    (tmp_path / "cut.pem").write_text("".join(lines[:3]))
    (tmp_path / "directory").mkdir()
    from cryptography.hazmat.primitives import serialization as pem

    loaded = pem.load_pem_private_key(cert.key.encode(), None)
    (tmp_path / "locked_key.pem").write_bytes(
        loaded.private_bytes(
            pem.Encoding.PEM,
            pem.PrivateFormat.PKCS8,
            pem.BestAvailableEncryption(b"open sesame"),
        )
    )
    return tmp_path


@pytest.mark.parametrize("field", ["ca_file", "client_cert", "client_key"])
@pytest.mark.parametrize("kind", [str, pathlib.Path])
@pytest.mark.parametrize(
    ("name", "expected"), [("missing.pem", FileNotFoundError), ("directory", IsADirectoryError)]
)
def test_A4_an_unreadable_file_is_its_OSError_with_the_filename(
    files: pathlib.Path, field: str, kind: Any, name: str, expected: type[OSError]
) -> None:
    path = kind(files / name)
    fields = {field: path}
    if field == "client_key":
        fields["client_cert"] = files / "cert.pem"
    with pytest.raises(expected) as caught:
        on(**fields)()
    assert not isinstance(caught.value, tcpsock.SocketError)
    assert os.fspath(caught.value.filename) == os.fspath(path)


@pytest.mark.parametrize("field", ["ca_file", "client_cert", "client_key"])
@pytest.mark.parametrize(
    "name", ["garbage.pem", "empty.pem", "binary.pem", "broken.pem", "cut.pem"]
)
def test_A4_a_malformed_file_is_a_ValueError_that_names_it(
    files: pathlib.Path, field: str, name: str
) -> None:
    fields = {field: files / name}
    if field == "client_key":
        fields["client_cert"] = files / "cert.pem"
    error = mistake(on(**fields))
    assert isinstance(error, ValueError) and name in str(error)


@pytest.mark.parametrize(
    "data",
    [
        "",
        b"",
        "no certificate here",
        b"no certificate here",
        b"\x30\x82\x01",
        "\u00fc",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\nMIIB",
        "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
    ],
    ids=lambda data: ascii(data)[:30],
)
def test_A4_malformed_ca_data_is_a_ValueError_that_names_the_field(data: str | bytes) -> None:
    error = mistake(on(ca_data=data))
    assert isinstance(error, ValueError) and "ca_data" in str(error)


def test_A4_a_key_that_is_not_the_certificates_is_a_ValueError(files: pathlib.Path) -> None:
    error = mistake(on(client_cert=files / "cert.pem", client_key=files / "other_key.pem"))
    assert isinstance(error, ValueError)
    assert "cert.pem" in str(error) or "other_key.pem" in str(error)


def test_A4_a_certificate_file_without_a_key_is_a_ValueError(files: pathlib.Path) -> None:
    error = mistake(on(client_cert=files / "cert.pem"))
    assert isinstance(error, ValueError) and "cert.pem" in str(error)


@pytest.mark.parametrize("password", [None, "wrong", b"wrong", ""])
def test_A4_an_encrypted_key_without_its_password_is_a_ValueError(
    files: pathlib.Path, password: str | bytes | None
) -> None:
    fields: dict[str, Any] = {} if password is None else {"client_key_password": password}
    error = mistake(
        on(client_cert=files / "cert.pem", client_key=files / "locked_key.pem", **fields)
    )
    assert isinstance(error, ValueError) and "locked_key.pem" in str(error)
    assert "password" in str(error)


def test_A4_an_encrypted_key_never_prompts_on_the_terminal(files: pathlib.Path) -> None:
    """The call runs with a terminal of its own, and leaves it untouched."""
    script = """
import sys
sys.path.insert(0, sys.argv[1])
import tcpsock
try:
    tcpsock.connect("127.0.0.1:9", secure_transport="on",
                    tls=tcpsock.TlsOptions(client_cert=sys.argv[2], client_key=sys.argv[3]))
except ValueError:
    print("ValueError")
"""
    import pty

    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(
            sys.executable,
            [
                sys.executable,
                "-c",
                script,
                str(ROOT),
                str(files / "cert.pem"),
                str(files / "locked_key.pem"),
            ],
        )
    shown = b""
    try:
        with contextlib.suppress(OSError):  # EIO: the child is gone
            while b"pass phrase" not in shown and (chunk := os.read(terminal, 1000)):
                shown += chunk
    finally:
        os.close(terminal)  # hangs up: a child that waits for a password ends too
        os.waitpid(pid, 0)
    assert shown.split() == [b"ValueError"]


@pytest.mark.parametrize(
    "which",
    ["cert and key", "one file for both", "locked, str", "locked, bytes", "paths"],
)
def test_A4_client_certificates_that_are_right(files: pathlib.Path, which: str) -> None:
    cert, key, locked = (str(files / n) for n in ("cert.pem", "key.pem", "locked_key.pem"))
    fields: dict[str, dict[str, Any]] = {
        "cert and key": {"client_cert": cert, "client_key": key},
        "one file for both": {"client_cert": str(files / "both.pem")},
        "locked, str": {
            "client_cert": cert,
            "client_key": locked,
            "client_key_password": "open sesame",
        },
        "locked, bytes": {
            "client_cert": cert,
            "client_key": locked,
            "client_key_password": b"open sesame",
        },
        "paths": {"client_cert": files / "cert.pem", "client_key": files / "key.pem"},
    }
    context = testing.server_context(client_ca=ca_data())
    with (
        Listener(context=context) as listener,
        tcpsock.connect(
            listener.address, secure_transport="on", tls=trusting(**fields[which])
        ) as sock,
    ):
        peer = listener.accept()
        assert peer.tls is not None
        shown: Any = peer.tls.getpeercert()
        assert ("DNS", "client.example") in shown["subjectAltName"]
        peer.send(b"hello")
        assert sock.readable.get_reader().read_exactly(5, timeout=WAIT) == b"hello"
        peer.end()


@pytest.mark.parametrize("form", ["str", "PEM bytes", "DER bytes", "two roots", "file", "path"])
def test_A4_roots_that_are_right(files: pathlib.Path, form: str) -> None:
    fields: dict[str, dict[str, Any]] = {
        "str": {"ca_data": ca_data()},
        "PEM bytes": {"ca_data": ca_data().encode()},
        "DER bytes": {"ca_data": ssl.PEM_cert_to_DER_cert(ca_data())},
        "two roots": {"ca_data": testing.Authority().ca_data + ca_data()},
        "file": {"ca_file": str(files / "ca.pem")},
        "path": {"ca_file": files / "ca.pem"},
    }
    with (
        Listener(context=tls_server()) as listener,
        tcpsock.connect(
            listener.address,
            secure_transport="on",
            close_timeout=0,
            tls=TlsOptions(**fields[form]),
        ) as sock,
    ):
        listener.accept()
        sock.opened.result(WAIT)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"ca_file": "/nowhere/ca.pem"}, FileNotFoundError),
        ({"ca_data": "no certificate here"}, ValueError),
        ({"client_key": "/nowhere/key.pem"}, ValueError),
        ({"minimum_version": ssl.TLSVersion.TLSv1}, ValueError),
        ({"alpn": "h2"}, TypeError),
        ({"server_hostname": 5}, TypeError),
    ],
    ids=lambda value: ascii(value)[:30],
)
def test_A4_start_tls_refuses_at_the_call_and_nothing_has_changed(
    fields: dict[str, Any], expected: type[Exception]
) -> None:
    with connected("starttls", tls=None) as (sock, peer):
        reader, writer = sock.streams()
        with pytest.raises(expected):
            sock.start_tls(**fields)
        assert not sock.upgraded
        writer.write(b"still in clear")
        assert peer.read() == b"still in clear"
        peer.send(b"here too")
        assert reader.read(timeout=WAIT) == b"here too"


def test_A4_files_are_read_at_the_call_of_start_tls_too(files: pathlib.Path) -> None:
    """A file named in connect(), for a start_tls() to come, is checked at connect()."""
    with pytest.raises(FileNotFoundError):
        tcpsock.connect(
            "db.example:80",
            secure_transport="starttls",
            tls=TlsOptions(ca_file=files / "missing.pem"),
        )


# -- adopt() ----------------------------------------------------------------------------------


def test_adopt_takes_over_a_socketpair_and_detaches_the_given_object() -> None:
    ours, theirs = socket.socketpair()
    with contextlib.closing(Peer(theirs)) as peer, tcpsock.adopt(ours) as sock:
        assert ours.fileno() == -1
        info = sock.opened.result(WAIT)
        assert info.remote_address is None and info.local_address is None
        assert info.peer_certificate is None and info.tls_version is None
        reader, writer = sock.streams()
        writer.write(b"ping")
        assert peer.read() == b"ping"
        peer.send(b"pong")
        assert reader.read(timeout=WAIT) == b"pong"
        writer.close()
        assert peer.read() == b""
        peer.end()
        assert reader.read(timeout=WAIT) == b""


@pytest.mark.parametrize("timeout", [None, 0.0, 5.0])
def test_adopt_takes_blocking_and_non_blocking_TCP_sockets(timeout: float | None) -> None:
    with Listener("::1") as listener:
        real = socket.create_connection((listener.host, listener.port))
        port = real.getsockname()[1]
        real.settimeout(timeout)
        with tcpsock.adopt(real, hostname="db.example") as sock:
            peer = listener.accept()
            info = sock.opened.result(WAIT)
            assert info.hostname == "db.example"
            assert info.remote_address == listener.address
            assert info.local_address == f"[::1]:{port}"
            peer.send(b"hello")
            assert sock.readable.get_reader().read(timeout=WAIT) == b"hello"
            peer.end()


@pytest.mark.parametrize(
    ("hostname", "fields", "good"),
    [
        ("localhost", {}, True),
        ("other.example", {}, False),
        (None, {"server_hostname": "localhost"}, True),
        ("other.example", {"server_hostname": "localhost"}, True),
        ("localhost", {"server_hostname": "other.example"}, False),
    ],
)
def test_adopt_with_TLS_verifies_the_hostname_given(
    hostname: str | None, fields: dict[str, Any], good: bool
) -> None:
    context = tls_server_for("localhost")
    with adopted(hostname=hostname, secure_transport="on", tls=trusting(**fields)) as (sock, peer):
        if good:
            peer.start_tls(context)
            assert sock.opened.result(WAIT).peer_certificate is not None
        else:
            with pytest.raises(OSError):
                peer.start_tls(context)
            assert isinstance(failure(sock.opened), tcpsock.TlsVerificationError)


def test_adopt_with_TLS_without_a_hostname_is_a_ValueError() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        with pytest.raises(ValueError, match="hostname"):
            tcpsock.adopt(ours, secure_transport="on")
        assert ours.fileno() != -1  # refused: still the caller's


def test_adopt_for_StartTLS_without_a_hostname_is_a_ValueError_at_start_tls() -> None:
    with adopted(secure_transport="starttls", tls=trusting()) as (sock, peer):
        sock.opened.result(WAIT)
        with pytest.raises(ValueError, match="hostname"):
            sock.start_tls()
        assert not sock.upgraded
        with sock.start_tls(server_hostname="localhost") as upgraded:
            peer.start_tls(tls_server())
            upgraded.opened.result(WAIT)
            peer.end()


def test_adopt_refuses_what_is_no_connected_stream_socket() -> None:
    unconnected = socket.socket()
    datagram, other_end = socket.socketpair(type=socket.SOCK_DGRAM)
    closed = socket.socket()
    closed.close()
    with unconnected, datagram, other_end, Listener() as listener:
        for bad in (unconnected, datagram, listener.sock, closed):
            error = mistake(tcpsock.adopt, bad)
            assert isinstance(error, ValueError)
        assert unconnected.fileno() != -1 and datagram.fileno() != -1
        not_sockets: list[Any] = [None, 5, "127.0.0.1:80", datagram.fileno(), object()]
        for wrong in not_sockets:
            assert type(mistake(tcpsock.adopt, wrong)) is TypeError


def test_adopt_refuses_an_SSLSocket() -> None:
    with Listener() as listener:
        context = ssl.create_default_context(cadata=ca_data())
        raw = socket.create_connection((listener.host, listener.port))
        with context.wrap_socket(
            raw, server_hostname="localhost", do_handshake_on_connect=False
        ) as wrapped:
            assert type(mistake(tcpsock.adopt, wrapped)) is TypeError
            assert wrapped.fileno() != -1


@pytest.mark.parametrize("hostname", [5, b"db.example", "", "a..b", "a\0b"], ids=repr)
def test_adopt_refuses_a_bad_hostname(hostname: Any) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        with pytest.raises((TypeError, ValueError)):
            tcpsock.adopt(ours, hostname=hostname)
        assert ours.fileno() != -1


def test_adopt_takes_options_as_connect_does() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert "timeout" in str(mistake(tcpsock.adopt, ours, timeout=-1))
        assert "secure_transport" in str(mistake(tcpsock.adopt, ours, secureTransport="on"))
    with adopted(timeout=0.001) as (sock, _peer):
        raised(tcpsock.ReadTimeout, sock.readable.get_reader().read)


def test_adopt_what_the_peer_sent_before_is_read() -> None:
    ours, theirs = socket.socketpair()
    with contextlib.closing(Peer(theirs)) as peer:
        peer.send(b"early")
        peer.end()
        with tcpsock.adopt(ours) as sock:
            assert sock.readable.get_reader().read_all(timeout=WAIT) == b"early"
        assert peer.read() == b""


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
def test_api_a_socket_and_its_streams_are_neither_copied_nor_pickled(copied: Any) -> None:
    with tcpsock.connect("127.0.0.1:9") as sock:
        for thing in (sock, sock.readable, sock.writable):
            with pytest.raises(TypeError, match="copied or pickled"):
                copied(thing)
