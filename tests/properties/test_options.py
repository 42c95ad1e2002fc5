"""Any options: an object that equals its own copies, or a plain error that names the option.

Nothing is dialled: connect() gets only options that have been refused.
"""

from __future__ import annotations

import copy
import dataclasses
import enum
import os
import pathlib
import pickle
import ssl
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import assume, event, example, given, settings
from hypothesis import strategies as st

import tcpsock
from tcpsock import KeepAlive, SocketOptions, TlsOptions
from tcpsock._errors import printable

for_all = settings.get_profile("properties")
Options = type[SocketOptions] | type[TlsOptions] | type[KeepAlive]

SECRET = "hunter2"

# Values: right ones and near ones for each option, and anything for every one ---------------------


class _Number(enum.IntEnum):
    FEW = 5
    NONE = 0


@dataclasses.dataclass(frozen=True)
class _Path(os.PathLike[Any]):
    path: Any

    def __fspath__(self) -> Any:
        return self.path


ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([5000, -5000]).map(
        lambda digits: digits * 10 ** abs(digits)
    ),  # too long to show
    st.floats(),
    st.text(max_size=20),
    st.binary(max_size=20),
    st.decimals(allow_nan=True),
    st.fractions(),
    st.complex_numbers(),
    st.tuples(),
    st.lists(st.text(max_size=3), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    st.sampled_from([..., object(), object, len, b"", bytearray(b"x"), memoryview(b"x"), range(3)]),
    st.sampled_from(_Number),
)
COUNTS = st.integers(-2, 200) | st.integers() | st.sampled_from([32_767, 32_768, *_Number])
SECONDS = st.one_of(
    st.none(),
    st.integers(-1, 100),
    st.floats(0, 1e6),
    st.floats(),
    st.sampled_from([0.0, -0.0, 1e9, 1e10, float("inf"), float("nan"), *_Number]),
)
PATHS = st.one_of(
    st.none(),
    st.text(max_size=20),
    st.text(max_size=20).map(_Path),
    st.sampled_from([pathlib.PurePath("/a/b"), _Path(b"bytes"), b"bytes", "a\0b"]),
)
IPS = st.ip_addresses().map(str) | st.sampled_from(["", "localhost", "[::1]", "::", "fe80::1%lo"])
PROTOCOLS = st.one_of(
    st.sampled_from(["h2", "http/1.1", "", "a" * 255, "a" * 256, "\xfc"]),
    st.text(max_size=5),
)
CONTEXTS = st.sampled_from([ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)])

KEEP_ALIVE = {"idle": COUNTS, "interval": COUNTS, "count": COUNTS}
TLS = {
    "server_hostname": st.sampled_from([None, "db.example", "::1", "a b", "a..b", "x" * 254]),
    "alpn": st.lists(PROTOCOLS, max_size=4) | st.lists(PROTOCOLS, max_size=4).map(tuple),
    "ssl_context": st.none() | CONTEXTS,
    "trust": st.sampled_from(["certifi", "system", "System", "none"]),
    "ca_file": PATHS,
    "ca_data": st.none() | st.text(max_size=10) | st.binary(max_size=10),
    "client_cert": PATHS,
    "client_key": PATHS,
    "client_key_password": st.sampled_from([None, SECRET, SECRET.encode(), SECRET * 200, "\ud800"]),
    "minimum_version": st.sampled_from([*ssl.TLSVersion, *map(int, ssl.TLSVersion)]),
    "session": st.none(),
    "allow_truncation": st.booleans(),
}


def _some(known: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    """Some of these options: mostly near ones, sometimes anything, seldom one that isn't known."""
    near = st.fixed_dictionaries({}, optional=known)
    strange = st.dictionaries(st.sampled_from(sorted(known)), ANYTHING, max_size=2)
    unknown = st.dictionaries(
        st.sampled_from([name.replace("_", "") for name in known] + ["timeuot", "verify"])
        | st.text(max_size=10),
        ANYTHING,
        max_size=1,
    )
    few = st.dictionaries(st.sampled_from(sorted(known)), st.just(None), max_size=3).flatmap(
        lambda names: st.fixed_dictionaries({name: known[name] for name in names})
    )
    return st.one_of(
        few,
        few,
        near,
        st.builds(lambda one, two: one | two, few, strange),
        st.builds(lambda one, two: one | two, few, unknown),
    )


def _made_of(make: Callable[..., Any], known: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Objects of options that are taken; the defaults where they are not."""

    def made(given: dict[str, Any]) -> Any:
        try:
            return make(**given)
        except (TypeError, ValueError):
            return make()

    return _some(known).map(made)


SOCKET = {
    "secure_transport": st.sampled_from(["off", "on", "starttls", "On", "tls", ""]),
    "allow_half_open": st.booleans(),
    "tls": st.none() | _made_of(TlsOptions, TLS),
    "connect_timeout": SECONDS,
    "timeout": SECONDS,
    "close_timeout": SECONDS,
    "high_water_mark": COUNTS,
    "local_address": st.none() | st.tuples(IPS, st.integers(-1, 65_536)) | st.tuples(IPS),
    "no_delay": st.booleans(),
    "keep_alive": st.booleans() | _made_of(KeepAlive, KEEP_ALIVE),
    "policy": st.sampled_from([None, "public", {}]),
}
KNOWN: dict[Options, dict[str, Any]] = {
    KeepAlive: KEEP_ALIVE,
    TlsOptions: TLS,
    SocketOptions: SOCKET,
}
ONLY_HERE = ("ssl_context", "session", "client_key_password")  # options that no pickle takes along


def test_the_strategies_know_every_option() -> None:
    for cls, known in KNOWN.items():
        assert set(known) == {field.name for field in dataclasses.fields(cls)}


def check_error(error: Exception, given: dict[str, Any]) -> None:
    assert type(error) in (TypeError, ValueError), repr(error)
    message = str(error)
    assert any(name in message for name in given) or any(repr(name) in message for name in given), (
        f"{message} names none of {sorted(given)}"
    )
    assert SECRET not in message
    assert len(message) < 1000


def check_round_trip(options: Any) -> None:
    cls = type(options)
    again = {field.name: getattr(options, field.name) for field in dataclasses.fields(cls)}
    for copied in (
        copy.copy(options),
        copy.deepcopy(options),
        dataclasses.replace(options),
        cls(**again),
    ):
        assert type(copied) is cls
        assert copied == options
        assert hash(copied) == hash(options)
        assert repr(copied) == repr(options)
    assert SECRET not in repr(options)
    tls = options if cls is TlsOptions else getattr(options, "tls", None)
    kept_here = [name for name in ONLY_HERE if tls is not None and getattr(tls, name) is not None]
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        if kept_here:
            with pytest.raises(TypeError, match="|".join(kept_here)):
                pickle.dumps(options, protocol)
        else:
            assert pickle.loads(pickle.dumps(options, protocol)) == options


def check(cls: Options, given: dict[str, Any]) -> None:
    try:
        options = cls(**given)
    except Exception as error:
        event("refused")
        check_error(error, given)
    else:
        event("taken")
        check_round_trip(options)


@for_all
@given(_some(KEEP_ALIVE))
def test_A3_any_pace_of_keep_alive(given: dict[str, Any]) -> None:
    check(KeepAlive, given)


@for_all
@given(_some(TLS))
@example({"client_cert": "c", "client_key_password": SECRET * 200})
@example({"ca_file": "f", "ca_data": "d", "trust": "system"})
def test_A3_A4_any_options_for_tls(given: dict[str, Any]) -> None:
    check(TlsOptions, given)


@for_all
@given(_some(SOCKET))
def test_A3_any_options_of_a_socket(given: dict[str, Any]) -> None:
    check(SocketOptions, given)


@for_all
@given(overrides=_some(SOCKET), base=st.none() | _made_of(SocketOptions, SOCKET))
def test_A3_A4_connect_raises_at_the_call_what_the_options_are_refused_with(
    overrides: dict[str, Any], base: SocketOptions | None
) -> None:
    """The same class, the same words, with an object to override and without one."""
    whole = (
        {} if base is None else {f.name: getattr(base, f.name) for f in dataclasses.fields(base)}
    )
    try:
        SocketOptions(**(whole | overrides))
    except (TypeError, ValueError) as error:
        with pytest.raises(type(error)) as caught:
            tcpsock.connect("127.0.0.1:1", base, **overrides)
        assert type(caught.value) is type(error)
        assert str(caught.value) == str(error)


@for_all
@given(options=ANYTHING)
def test_A3_what_is_no_SocketOptions_is_a_TypeError(options: Any) -> None:
    assume(options is not None)
    with pytest.raises(TypeError, match=r"options|port"):
        tcpsock.connect("127.0.0.1:1", options)


@for_all
@given(name=st.text(max_size=12))
def test_A3_an_unknown_option_is_told_by_its_name(name: str) -> None:
    for cls, known in KNOWN.items():
        if name not in known:
            with pytest.raises(TypeError) as caught:
                cls(**{name: 1})
            message = str(caught.value)
            assert f"has no option {name!r}" in message
            assert printable(message, limit=1000) == message


@pytest.mark.parametrize("name", ["timeout", "connect_timeout", "close_timeout", "high_water_mark"])
def test_A3_a_number_of_5000_digits_is_refused_by_the_options_name(name: str) -> None:
    """Python refuses to write it out, with a ValueError that tells nothing about options."""
    with pytest.raises(ValueError, match=name):
        SocketOptions(**{name: -(10**5000)})
