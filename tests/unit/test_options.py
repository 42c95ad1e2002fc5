"""tcpsock._options: what is accepted, what is refused, and in which words."""

from __future__ import annotations

import collections
import copy
import dataclasses
import inspect
import math
import os
import pickle
import re
import ssl
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from tcpsock import _options
from tcpsock._errors import InvalidAddress
from tcpsock._options import (
    KeepAlive,
    SocketAddress,
    SocketOptionFields,
    SocketOptions,
    TlsOptionFields,
    TlsOptions,
    Unpack,
    call_timeout,
    check_timeout,
    socket_options,
    tls_options,
)
from tcpsock.policy import EgressPolicy

OPTIONS = (SocketOptions, TlsOptions, KeepAlive)
EVERY_PROTOCOL = range(pickle.HIGHEST_PROTOCOL + 1)


def client_context() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def any_session() -> ssl.SSLSession:
    """A session that looks real to isinstance(), as only a handshake could make one."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for context in (server, client):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers("aNULL:@SECLEVEL=0")  # without any certificate
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    session = ends[0].session
    assert session is not None
    return session


# SocketAddress


def test_A1_address_prints_as_it_is_written() -> None:
    """str() gives "host:port", an IPv6 address in brackets."""
    assert str(SocketAddress("db.example", 5432)) == "db.example:5432"
    assert str(SocketAddress("::1", 80)) == "[::1]:80"
    assert str(SocketAddress(hostname="fe80::1%eth0", port=80)) == "[fe80::1%eth0]:80"


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_A3_address_refuses_ports_out_of_range(port: int) -> None:
    """In the object form too, port 0 and the like are InvalidAddress."""
    with pytest.raises(InvalidAddress):
        SocketAddress("db.example", port)


@pytest.mark.parametrize("hostname", ["", "a b", "1.2.3.4\0evil", "x" * 254, "[::1]"])
def test_A1_address_refuses_what_is_no_host(hostname: str) -> None:
    """A host is checked before anybody resolves it."""
    with pytest.raises(InvalidAddress):
        SocketAddress(hostname, 80)


@pytest.mark.parametrize(
    ("hostname", "port"), [("a", True), ("a", "80"), ("a", 80.0), (None, 80), (b"a", 80)]
)
def test_A3_address_refuses_wrong_types(hostname: Any, port: Any) -> None:
    """A port that is no integer, or a hostname that is no str, is a TypeError."""
    with pytest.raises(TypeError):
        SocketAddress(hostname, port)


# SocketOptions


def test_defaults_are_those_of_the_api() -> None:
    """Each default of the contract, field by field."""
    assert {f.name: f.default for f in dataclasses.fields(SocketOptions)} == {
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
    assert {f.name: f.default for f in dataclasses.fields(TlsOptions)} == {
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
    assert KeepAlive() == KeepAlive(idle=60, interval=10, count=5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("policy", EgressPolicy.public_internet()),
        ("connect_timeout", None),
        ("connect_timeout", 1),
        ("connect_timeout", 1e9),
        ("timeout", None),
        ("timeout", 0),
        ("timeout", 0.5),
        ("close_timeout", None),
        ("close_timeout", 0.0),
        ("high_water_mark", 1),
        ("local_address", ("127.0.0.1", 0)),
        ("local_address", ("::", 65535)),
        ("local_address", ("fe80::1%lo", 0)),
        ("keep_alive", False),
        ("keep_alive", KeepAlive(idle=1, interval=1, count=1)),
        ("keep_alive", KeepAlive(idle=32767, interval=32767, count=127)),
    ],
)
def test_A3_what_is_right_is_accepted(name: str, value: Any) -> None:
    """The edges of what each option takes are inside, and the value is kept as given."""
    assert getattr(SocketOptions(**{name: value}), name) == value


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("secure_transport", "tls", ValueError),
        ("secure_transport", "On", ValueError),
        ("secure_transport", True, TypeError),
        ("secure_transport", None, TypeError),
        ("allow_half_open", 1, TypeError),
        ("tls", {"alpn": ["h2"]}, TypeError),
        ("tls", True, TypeError),
        ("connect_timeout", 0, ValueError),
        ("connect_timeout", -1, ValueError),
        ("connect_timeout", math.inf, ValueError),
        ("connect_timeout", math.nan, ValueError),
        ("connect_timeout", True, TypeError),
        ("connect_timeout", "30", TypeError),
        ("connect_timeout", ..., TypeError),
        ("timeout", -0.1, ValueError),
        ("timeout", math.inf, ValueError),
        ("timeout", 10**400, ValueError),
        ("timeout", math.nan, ValueError),
        ("timeout", False, TypeError),
        ("close_timeout", -1, ValueError),
        ("close_timeout", math.inf, ValueError),
        ("close_timeout", "2", TypeError),
        ("high_water_mark", 0, ValueError),
        ("high_water_mark", -1, ValueError),
        ("high_water_mark", 1.0, TypeError),
        ("high_water_mark", True, TypeError),
        ("high_water_mark", None, TypeError),
        ("local_address", "127.0.0.1", TypeError),
        ("local_address", ["127.0.0.1", 0], TypeError),
        ("local_address", ("127.0.0.1",), TypeError),
        ("local_address", (b"127.0.0.1", 0), TypeError),
        ("local_address", ("localhost", 0), ValueError),
        ("local_address", ("[::1]", 0), ValueError),
        ("local_address", ("127.0.0.1\0", 0), ValueError),
        ("local_address", ("127.0.0.1", -1), ValueError),
        ("local_address", ("127.0.0.1", 65536), ValueError),
        ("local_address", ("127.0.0.1", True), TypeError),
        ("local_address", ("127.0.0.1", "0"), TypeError),
        ("no_delay", 0, TypeError),
        ("keep_alive", None, TypeError),
        ("keep_alive", 60, TypeError),
        ("keep_alive", (60, 10, 5), TypeError),
        ("policy", "public", TypeError),
    ],
)
def test_A3_a_wrong_value_names_its_option(name: str, value: Any, error: type[Exception]) -> None:
    """A wrong option value is a plain TypeError or ValueError that names the option."""
    with pytest.raises(error, match=name) as caught:
        SocketOptions(**{name: value})
    assert type(caught.value) is error


@pytest.mark.parametrize("name", ["idle", "interval", "count"])
@pytest.mark.parametrize(
    ("value", "error"), [(0, ValueError), (-1, ValueError), (40000, ValueError), (1.5, TypeError)]
)
def test_A3_a_wrong_pace_of_keep_alive(name: str, value: Any, error: type[Exception]) -> None:
    """KeepAlive's numbers are checked here, not by the kernel when the socket is open."""
    with pytest.raises(error, match=f"keep_alive: {name}"):
        KeepAlive(**{name: value})


@pytest.mark.parametrize(
    ("wrong", "near"),
    [("On", "on"), ("startTls", "starttls"), ("start_tls", "starttls"), ("STARTTLS", "starttls")],
)
def test_D7_secure_transport_proposes_the_near_word(wrong: Any, near: str) -> None:
    """A misspelt secure_transport is answered with the right spelling."""
    with pytest.raises(ValueError, match=re.escape(f"did you mean {near!r}?")):
        SocketOptions(secure_transport=wrong)


@pytest.mark.parametrize(
    ("wrong", "near"),
    [
        ("secureTransport", "secure_transport"),
        ("allowHalfOpen", "allow_half_open"),
        ("highWaterMark", "high_water_mark"),
        ("connect_timout", "connect_timeout"),
        ("nodelay", "no_delay"),
        ("keepalive", "keep_alive"),
    ],
)
def test_D7_unknown_options_propose_the_near_one(wrong: str, near: str) -> None:
    """The name of another language or library is answered with ours, in both ways of giving it."""
    unknown: Any = {wrong: True}
    with pytest.raises(TypeError, match=f"{wrong}.*did you mean '{near}'"):
        socket_options(None, unknown)
    with pytest.raises(TypeError, match=f"{wrong}.*did you mean '{near}'"):
        SocketOptions(**unknown)


def test_D7_options_of_the_other_class_are_shown_the_way() -> None:
    """A TLS option given to connect() is told where it belongs."""
    misplaced: Any = {"ca_file": "x"}
    with pytest.raises(TypeError, match=r"no option 'ca_file'; TlsOptions has it"):
        socket_options(None, misplaced)
    misplaced = {"timeout": 1}
    with pytest.raises(TypeError, match=r"no option 'timeout'; SocketOptions has it"):
        tls_options(None, None, misplaced)


def test_A3_an_option_like_no_other_is_still_named() -> None:
    """Where nothing is near, nothing is proposed."""
    unknown: Any = {"zzz": 1}
    with pytest.raises(TypeError, match=r"SocketOptions has no option 'zzz'$"):
        socket_options(None, unknown)


def test_A4_tls_without_secure_transport_is_an_error() -> None:
    """TLS options that would not be used: nobody may believe that this is encrypted."""
    tls = TlsOptions()
    with pytest.raises(ValueError, match=r"tls .*secure_transport"):
        SocketOptions(tls=tls)
    with pytest.raises(ValueError, match=r"tls .*secure_transport"):
        socket_options(SocketOptions(secure_transport="on", tls=tls), {"secure_transport": "off"})
    with pytest.raises(ValueError, match=r"tls .*secure_transport"):
        socket_options(None, {"tls": tls})
    assert socket_options(SocketOptions(secure_transport="starttls"), {"tls": tls}).tls is tls


# Merging


def test_keywords_override_single_fields() -> None:
    """A keyword changes its field, the given object stays as it was."""
    base = SocketOptions(timeout=5, no_delay=False)
    merged = socket_options(base, {"timeout": None, "allow_half_open": True})
    assert merged == SocketOptions(timeout=None, no_delay=False, allow_half_open=True)
    assert base.timeout == 5


def test_without_keywords_nothing_is_made() -> None:
    """The common case costs nothing: the default, or what was given, is used as it is."""
    assert socket_options(None, {}) is socket_options(None, {})
    options = SocketOptions(timeout=5)
    assert socket_options(options, {}) is options
    tls = TlsOptions(alpn=["h2"])
    assert tls_options(tls, None, {}) is tls
    assert tls_options(None, None, {}) == TlsOptions()


def test_S3_start_tls_options_replace_and_keywords_change() -> None:
    """A TlsOptions object replaces connect()'s, keywords alone change single fields of it."""
    base = TlsOptions(alpn=["h2"], trust="system")
    assert tls_options(base, TlsOptions(server_hostname="a.example"), {}).alpn == ()
    changed = tls_options(base, None, {"server_hostname": "a.example"})
    assert changed == dataclasses.replace(base, server_hostname="a.example")
    both = tls_options(base, TlsOptions(alpn=["x"]), {"server_hostname": "a.example"})
    assert (both.alpn, both.trust, both.server_hostname) == (("x",), "certifi", "a.example")


@pytest.mark.parametrize("options", [{}, {"timeout": 1}, "on", TlsOptions(), SocketOptions])
def test_A3_options_of_another_type(options: Any) -> None:
    """What is no SocketOptions is a TypeError, a mapping too: keywords do that."""
    with pytest.raises(TypeError, match="options"):
        socket_options(options, {})


def test_A3_start_tls_options_of_another_type() -> None:
    """start_tls() takes TlsOptions, not those of a socket."""
    wrong: Any = SocketOptions()
    with pytest.raises(TypeError, match="options must be a TlsOptions"):
        tls_options(None, wrong, {})


def test_D7_a_port_given_as_options() -> None:
    """connect("host", 80) is told how addresses are written."""
    port: Any = 80
    with pytest.raises(TypeError, match="host:port"):
        socket_options(port, {})


# TlsOptions


@pytest.mark.parametrize(
    "alpn", [["h2"], ("h2",), collections.deque(["h2"]), [], ["x" * 255], ["h2", "http/1.1"]]
)
def test_A3_alpn_takes_any_sequence(alpn: Any) -> None:
    """alpn is any sequence of str, kept as a tuple."""
    assert TlsOptions(alpn=alpn).alpn == tuple(alpn)


@pytest.mark.parametrize(
    ("alpn", "error"),
    [
        ("h2", TypeError),
        (b"h2", TypeError),
        (None, TypeError),
        ({"h2"}, TypeError),
        ([b"h2"], TypeError),
        ([None], TypeError),
        ([""], ValueError),
        (["x" * 256], ValueError),
        (["h\u00b2"], ValueError),
        (["x" * 255] * 256, ValueError),
    ],
)
def test_A4_alpn_refuses_everything_else(alpn: Any, error: type[Exception]) -> None:
    """A str above all: it is a sequence of its letters."""
    with pytest.raises(error, match="alpn"):
        TlsOptions(alpn=alpn)


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("server_hostname", b"a.example", TypeError),
        ("server_hostname", "", ValueError),
        ("server_hostname", "a b", ValueError),
        ("server_hostname", "a.example\0", ValueError),
        ("ssl_context", "default", TypeError),
        ("ssl_context", True, TypeError),
        ("ssl_context", ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ValueError),
        ("trust", "mozilla", ValueError),
        ("trust", None, TypeError),
        ("ca_file", b"roots.pem", TypeError),
        ("ca_file", 3, TypeError),
        ("ca_file", "a\0b", ValueError),
        ("ca_data", bytearray(b"x"), TypeError),
        ("ca_data", Path("x"), TypeError),
        ("client_cert", ["cert.pem"], TypeError),
        ("client_key", 3, TypeError),
        ("client_key_password", 1234, TypeError),
        ("client_key_password", "x" * 1025, ValueError),
        ("client_key_password", "\ud800", ValueError),
        ("minimum_version", "1.3", TypeError),
        ("minimum_version", 771, TypeError),
        ("minimum_version", ssl.TLSVersion.TLSv1_1, ValueError),
        ("minimum_version", ssl.TLSVersion.MINIMUM_SUPPORTED, ValueError),
        ("minimum_version", ssl.TLSVersion.MAXIMUM_SUPPORTED, ValueError),
        ("session", b"ticket", TypeError),
        ("allow_truncation", 1, TypeError),
    ],
)
def test_A3_a_wrong_tls_value_names_its_option(
    name: str, value: Any, error: type[Exception]
) -> None:
    """A wrong TLS option is a plain TypeError or ValueError that names the option."""
    with pytest.raises(error, match=name) as caught:
        TlsOptions(**{name: value})
    assert type(caught.value) is error


@pytest.mark.parametrize("hostname", ["a.example", "a.example.", "b\u00fccher.example", "::1"])
def test_A2_server_hostname_is_a_host(hostname: str) -> None:
    """What connect() takes for a host is a server_hostname as well."""
    assert TlsOptions(server_hostname=hostname).server_hostname == hostname


@pytest.mark.parametrize(
    "excluded",
    [
        {"alpn": ["h2"]},
        {"trust": "system"},
        {"ca_file": "roots.pem"},
        {"ca_data": "roots"},
        {"client_cert": "cert.pem"},
        {"client_cert": "cert.pem", "client_key": "key.pem"},
        {"minimum_version": ssl.TLSVersion.TLSv1_3},
    ],
)
def test_A4_ssl_context_excludes_what_it_decides(excluded: dict[str, Any]) -> None:
    """Two places that say what a context is like: an error that names both."""
    with pytest.raises(ValueError, match=f"ssl_context excludes {next(iter(excluded))}"):
        TlsOptions(ssl_context=client_context(), **excluded)


def test_A4_ssl_context_goes_with_the_rest() -> None:
    """Name, session and truncation belong to the connection, not to the context."""
    context, session = client_context(), any_session()
    options = TlsOptions(
        ssl_context=context, server_hostname="a.example", session=session, allow_truncation=True
    )
    assert options.ssl_context is context
    assert options.session is session


def test_A4_a_context_that_verifies_nothing_is_the_users_choice() -> None:
    """There is no verify=False, but a context is taken as it is."""
    context = client_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    assert TlsOptions(ssl_context=context).ssl_context is context


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"trust": "system", "ca_file": "x"}, 'trust="system" and ca_file'),
        ({"trust": "system", "ca_data": "x"}, 'trust="system" and ca_data'),
        ({"ca_file": "x", "ca_data": "x"}, "ca_file and ca_data"),
    ],
)
def test_A4_more_than_one_kind_of_roots(given: dict[str, Any], named: str) -> None:
    """Who is trusted is said once."""
    with pytest.raises(ValueError, match=f"{named} exclude each other"):
        TlsOptions(**given)


@pytest.mark.parametrize("name", ["client_key", "client_key_password"])
def test_A4_a_key_or_password_without_a_certificate(name: str) -> None:
    """A key or a password without a certificate would never be used."""
    with pytest.raises(ValueError, match=f"{name} is given without client_cert"):
        TlsOptions(**{name: "x"})  # type: ignore[arg-type]  # names come from the parameter


def test_A4_combinations_are_checked_when_merged_too() -> None:
    """Keywords that don't go with the object are an error, as they are together."""
    with pytest.raises(ValueError, match="ssl_context excludes alpn"):
        tls_options(TlsOptions(ssl_context=client_context()), None, {"alpn": ["h2"]})


# Time limits


@pytest.mark.parametrize("timeout", [None, 0, 0.0, 1, 2.5, 10**6])
def test_R4_a_calls_own_timeout(timeout: float | None) -> None:
    """What a call says goes before the default; 0 is legal."""
    assert call_timeout(timeout, 7.0) == timeout


def test_R4_a_timeout_left_out_is_the_default() -> None:
    """`...` stands for the socket's default, which may be None."""
    assert call_timeout(..., 7.0) == 7.0
    assert call_timeout(..., None) is None


@pytest.mark.parametrize(
    ("timeout", "error"),
    [
        (-1, ValueError),
        (math.nan, ValueError),
        (math.inf, ValueError),
        (-math.inf, ValueError),
        (1e300, ValueError),
        (True, TypeError),
        ("1", TypeError),
        (1j, TypeError),
    ],
)
def test_A3_a_timeout_that_is_none_names_itself(timeout: Any, error: type[Exception]) -> None:
    """A value that no clock can count is refused before anything waits for it."""
    with pytest.raises(error, match="timeout"):
        call_timeout(timeout, None)
    with pytest.raises(error, match="grace"):
        check_timeout("grace", timeout)


# As values


def examples() -> list[Any]:
    tls = TlsOptions(alpn=["h2"], ca_file=Path("x"), trust="certifi", server_hostname="a.example")
    return [
        SocketAddress("::1", 80),
        KeepAlive(idle=3),
        TlsOptions(),
        tls,
        TlsOptions(ca_data="PEM"),
        SocketOptions(),
        SocketOptions(
            secure_transport="on",
            tls=tls,
            keep_alive=KeepAlive(count=2),
            local_address=("::", 0),
        ),
    ]


@pytest.mark.parametrize("options", examples(), ids=str)
def test_L7_options_survive_pickle_and_copy(options: Any) -> None:
    """Addresses and options cross process pools; copies are equal, and hash alike."""
    twins = [pickle.loads(pickle.dumps(options, protocol)) for protocol in EVERY_PROTOCOL]
    for twin in [*twins, copy.copy(options), copy.deepcopy(options), dataclasses.replace(options)]:
        assert type(twin) is type(options)
        assert twin == options
        assert hash(twin) == hash(options)
        assert repr(twin) == repr(options)


@pytest.mark.parametrize("protocol", EVERY_PROTOCOL)
@pytest.mark.parametrize("name", ["ssl_context", "session", "client_key_password"])
def test_L2_what_is_secret_or_alive_refuses_pickle(name: str, protocol: int) -> None:
    """A TypeError names the field, within SocketOptions too; copies are no problem."""
    given: dict[str, dict[str, Any]] = {
        "ssl_context": {"ssl_context": client_context()},
        "session": {"session": any_session()},
        "client_key_password": {"client_cert": "x", "client_key_password": "hunter2"},
    }
    tls = TlsOptions(**given[name])
    whole = SocketOptions(secure_transport="on", tls=tls)
    for options in (tls, whole):
        with pytest.raises(TypeError, match=name) as caught:
            pickle.dumps(options, protocol)
        assert "hunter2" not in str(caught.value)
        assert copy.copy(options) == options
        assert copy.deepcopy(options) == options
        assert hash(copy.deepcopy(options)) == hash(options)


@pytest.mark.parametrize("options", examples(), ids=str)
def test_options_are_frozen(options: Any) -> None:
    """Nothing can be changed, and nothing added."""
    first = dataclasses.fields(options)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(options, first, None)
    with pytest.raises((AttributeError, TypeError)):
        options.something_else = 1


def test_L2_repr_tells_what_was_chosen_without_secrets() -> None:
    """A repr shows what differs from the defaults, never a password, key or session."""
    tls = TlsOptions(
        alpn=["h2"],
        ca_data="-----BEGIN inner-----",
        client_cert="cert.pem",
        client_key_password=b"hunter2",
        session=any_session(),
    )
    options = SocketOptions(secure_transport="on", tls=tls, timeout=3)
    assert repr(options) == (
        "SocketOptions(secure_transport='on', tls=TlsOptions(alpn=('h2',), ca_data=<hidden>, "
        "client_cert='cert.pem', client_key_password=<hidden>, session=<hidden>), timeout=3)"
    )
    assert repr(SocketOptions()) == "SocketOptions()"


def test_L2_errors_do_not_show_the_password() -> None:
    """Neither a password of a wrong type, nor too long, nor without an encoding is shown."""
    for password in (["hunter2"], "hunter2" * 200, "hunter2\ud800"):
        wrong: Any = password
        with pytest.raises((TypeError, ValueError)) as caught:
            TlsOptions(client_cert="x", client_key_password=wrong)
        error: BaseException | None = caught.value
        while error is not None and not error.__suppress_context__:
            assert "hunter2" not in repr(error)
            error = error.__context__
        assert "hunter2" not in repr(error)


# Types


@pytest.mark.parametrize(
    ("options", "keywords"), [(SocketOptions, SocketOptionFields), (TlsOptions, TlsOptionFields)]
)
def test_Y2_keywords_are_the_fields(options: type, keywords: type) -> None:
    """The typed keywords have the names and the types of the fields, all of them optional."""
    assert get_type_hints(keywords) == get_type_hints(options)
    assert keywords.__required_keys__ == frozenset()  # type: ignore[attr-defined]  # a TypedDict


def test_Y3_hints_and_signatures_work() -> None:
    """Tools can ask for types and parameters, in spite of what stands in for Unpack on 3.10."""

    def connect(**option_overrides: Unpack[SocketOptionFields]) -> None: ...

    assert "option_overrides" in get_type_hints(connect, vars(_options))
    for options in OPTIONS:
        names = [field.name for field in dataclasses.fields(options)]
        parameters = inspect.signature(options).parameters
        assert list(parameters) == names
        assert {p.kind for p in parameters.values()} == {inspect.Parameter.KEYWORD_ONLY}
        assert set(get_type_hints(options)) == set(names)
        assert set(get_type_hints(options.__init__)) == {*names, "return"}
        assert options.__doc__


def test_options_are_keywords_alone() -> None:
    """No option is given by position."""
    for options in OPTIONS:
        positional: Any = options
        with pytest.raises(TypeError, match="positional"):
            positional("on")


def test_A3_paths_are_str_or_path_like() -> None:
    """Any os.PathLike will do, as long as it gives a str."""

    class BytesPath(os.PathLike[bytes]):
        def __fspath__(self) -> bytes:
            return b"x"

    wrong: Any = BytesPath()
    assert TlsOptions(ca_file=Path("x")).ca_file == Path("x")
    with pytest.raises(TypeError, match="ca_file"):
        TlsOptions(ca_file=wrong)
