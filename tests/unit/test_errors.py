"""The error classes: what each one also is, its code, and that it survives every way to travel."""

from __future__ import annotations

import copy
import errno
import gc
import pickle
import socket
import ssl
import weakref

import pytest

from tcpsock import _errors
from tcpsock._errors import (
    ConnectError,
    ConnectionLost,
    ConnectTimeout,
    IncompleteRead,
    InvalidAddress,
    LimitExceeded,
    PlaintextInjected,
    PolicyViolation,
    ReadTimeout,
    ResolveError,
    ScopeError,
    SocketAborted,
    SocketClosed,
    SocketError,
    SocketForked,
    SocketUpgraded,
    StartTlsError,
    StartTlsRefused,
    StreamBusy,
    StreamLocked,
    TlsError,
    TlsTruncated,
    TlsVerificationError,
    WriteTimeout,
    bare,
    fresh,
    printable,
)
from tcpsock._info import Attempt

ATTEMPTS = (Attempt("192.0.2.7:80", 0.25, ConnectionRefusedError(errno.ECONNREFUSED, "refused")),)

# class: (what it also is, code, phase where nothing else is said, its own attributes)
TABLE: dict[type[SocketError], tuple[tuple[type, ...], str, str | None, dict[str, object]]] = {
    SocketError: ((OSError,), "socket-error", None, {}),
    InvalidAddress: ((ValueError,), "invalid-address", "address", {}),
    PolicyViolation: (
        (PermissionError,),
        "policy-violation",
        "policy",
        {"code": "policy-port", "decision": ("any", "object")},
    ),
    ScopeError: ((RuntimeError,), "scope-error", "policy", {"code": "scope-ended"}),
    ConnectError: ((ConnectionError,), "connect-error", "connect", {"attempts": ATTEMPTS}),
    ResolveError: (
        (ConnectError, socket.gaierror),
        "resolve-error",
        "resolve",
        {"attempts": ATTEMPTS},
    ),
    ConnectTimeout: (
        (ConnectError, TimeoutError),
        "connect-timeout",
        "connect",
        {"attempts": ATTEMPTS},
    ),
    TlsError: (
        (ConnectionError, ssl.SSLError),
        "tls-error",
        "tls",
        {"library": "SSL", "reason": "WRONG_VERSION_NUMBER"},
    ),
    TlsVerificationError: (
        (TlsError, ssl.SSLCertVerificationError),
        "tls-verification-error",
        "tls",
        {"verify_code": 10, "verify_message": "certificate has expired", "reason": "X"},
    ),
    TlsTruncated: ((TlsError, EOFError), "tls-truncated", "tls", {}),
    StartTlsError: (
        (RuntimeError,),
        "start-tls-error",
        "tls",
        {"code": "starttls-already-tls"},
    ),
    PlaintextInjected: ((StartTlsError,), "plaintext-injected", "tls", {}),
    StartTlsRefused: ((StartTlsError,), "start-tls-refused", "tls", {"reply": "454 no\x1b[2J"}),
    ReadTimeout: ((TimeoutError,), "read-timeout", "read", {}),
    WriteTimeout: ((TimeoutError,), "write-timeout", "write", {"bytes_written": 4096}),
    ConnectionLost: ((ConnectionResetError,), "connection-lost", None, {}),
    IncompleteRead: (
        (EOFError,),
        "incomplete-read",
        "read",
        {"partial": b"half", "expected": 8},
    ),
    LimitExceeded: ((ValueError,), "limit-exceeded", "read", {}),
    SocketClosed: ((), "socket-closed", None, {}),
    SocketAborted: ((SocketClosed,), "socket-aborted", None, {"reason": ("why", 1)}),
    SocketUpgraded: ((SocketClosed,), "socket-upgraded", None, {}),
    SocketForked: ((SocketClosed,), "socket-forked", None, {}),
    StreamLocked: ((RuntimeError,), "stream-locked", None, {}),
    StreamBusy: ((RuntimeError,), "stream-busy", None, {}),
}

# The defaults when an error is made from its text alone.
DEFAULTS: dict[str, object] = {
    "attempts": (),
    "bytes_written": 0,
    "decision": None,
    "expected": None,
    "library": "",
    "partial": b"",
    "reply": "",
    "verify_code": 1,
    "verify_message": "",
}

COMMON = {"phase": "close", "address": "db.example:5432", "errno": errno.ECONNRESET}

every_class = pytest.mark.parametrize("cls", TABLE, ids=lambda cls: cls.__name__)


def full(cls: type[SocketError]) -> SocketError:
    """An error that has every attribute set."""
    own = TABLE[cls][3]
    return cls("db.example:5432: gone", **COMMON, **own)  # type: ignore[arg-type]


def assert_same(one: SocketError, other: SocketError) -> None:
    assert type(one) is type(other)
    assert one.args == other.args
    assert str(one) == str(other)
    assert (one.errno, one.strerror) == (other.errno, other.strerror)
    assert vars(one) == vars(other)


def test_O4_the_table_is_complete() -> None:
    """Every error class of the module is in the table of this test."""
    classes = {
        item
        for item in vars(_errors).values()
        if isinstance(item, type) and issubclass(item, SocketError)
    }
    assert classes == set(TABLE)
    assert {cls.__name__ for cls in classes} <= set(_errors.__all__)


@every_class
def test_O4_each_error_is_what_a_python_user_would_catch(cls: type[SocketError]) -> None:
    also, code, phase, _ = TABLE[cls]
    for base in (SocketError, OSError, *also):
        assert issubclass(cls, base)
    error = cls("text")
    assert (error.code, error.phase) == (code, phase)


def test_O4_no_error_is_a_kind_of_another_that_it_should_not_be() -> None:
    """`except ConnectError` must not swallow a TlsError, nor `except SocketClosed` a lost peer."""
    for cls, (also, *_) in TABLE.items():
        ours = {base for base in cls.__mro__ if base in TABLE} - {cls, SocketError}
        assert ours == {base for base in also if base in TABLE}


@every_class
def test_L7_text_alone_is_enough(cls: type[SocketError]) -> None:
    """Job queues with JSON results rebuild an error as `type(*args)`."""
    error = full(cls)
    again = type(error)(*error.args)
    assert str(again) == "db.example:5432: gone"
    assert (again.address, again.errno) == (None, None)
    for name in TABLE[cls][3]:
        if name == "reason":
            assert again.reason == (None if cls is SocketAborted else "")  # type: ignore[attr-defined]
        elif name != "code":
            assert getattr(again, name) == DEFAULTS[name]
    assert str(cls()) == ""


@every_class
def test_L7_attributes_survive_pickle(cls: type[SocketError]) -> None:
    error = full(cls)
    for name, value in {**COMMON, **TABLE[cls][3]}.items():
        assert getattr(error, name) == value
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert_same(pickle.loads(pickle.dumps(error, protocol)), error)


@every_class
def test_L7_attributes_survive_copy(cls: type[SocketError]) -> None:
    error = full(cls)
    for again in (copy.copy(error), copy.deepcopy(error)):
        assert again is not error
        assert_same(again, error)


def test_L7_a_note_survives_too() -> None:
    error = ReadTimeout("late")
    error.__notes__ = ["while talking to db.example"]  # what add_note() does, from Python 3.11 on
    assert pickle.loads(pickle.dumps(error)).__notes__ == ["while talking to db.example"]


@every_class
def test_O4_the_text_is_the_message_and_repr_shows_class_and_message(
    cls: type[SocketError],
) -> None:
    error = full(cls)
    assert str(error) == "db.example:5432: gone"
    assert error.strerror == "db.example:5432: gone"
    assert repr(error) == f"{cls.__name__}('db.example:5432: gone')"


@every_class
def test_O4_attributes_are_keywords_alone(cls: type[SocketError]) -> None:
    with pytest.raises(TypeError):
        cls("text", "read")  # type: ignore[call-arg]


def test_O4_a_subclass_of_the_users_has_its_own_code() -> None:
    class ReplicaLost(ConnectionLost):
        pass

    assert ReplicaLost("x").code == "replica-lost"
    assert ConnectionLost("x").code == "connection-lost"


@every_class
def test_O3_fresh_is_a_copy_from_the_stored_error(cls: type[SocketError]) -> None:
    stored = full(cls)
    try:
        raise stored
    except SocketError:
        pass
    again = fresh(stored)
    assert again is not stored
    assert_same(again, stored)
    assert again.__traceback__ is None
    assert again.__cause__ is stored


def test_O3_raising_fresh_copies_adds_no_traceback_to_the_stored_error() -> None:
    stored = ConnectionLost("gone")
    for _ in range(3):
        with pytest.raises(ConnectionLost):
            raise fresh(stored)
    assert stored.__traceback__ is None


def test_O3_bare_drops_the_frames_along_causes_and_contexts() -> None:
    """A kept error must not keep the variables of the frames that it came through (T26)."""

    class Anchor:
        pass

    anchors: list[weakref.ref[Anchor]] = []

    def deep() -> None:
        anchor = Anchor()
        anchors.append(weakref.ref(anchor))
        raise OSError("first")

    def fails() -> None:
        try:
            deep()
        except OSError as first:
            try:
                deep()
            except OSError:
                raise ConnectionLost("third") from first

    def kept() -> ConnectionLost:
        try:
            fails()
        except ConnectionLost as error:
            return bare(error)
        raise AssertionError

    error = kept()
    gc.collect()
    assert isinstance(error.__cause__, OSError)
    assert isinstance(error.__context__, OSError)
    for link in (error, error.__cause__, error.__context__):
        assert link.__traceback__ is None
    assert [anchor() for anchor in anchors] == [None, None]


def test_O3_bare_ends_on_a_chain_that_bites_its_tail() -> None:
    one, two = OSError("one"), OSError("two")
    one.__cause__, two.__cause__ = two, one
    assert bare(one) is one


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("plain text, unchanged: äöü €", "plain text, unchanged: äöü €"),
        ("\x1b[2J", r"\x1b[2J"),
        ("a\r\nb\tc\0", r"a\r\nb\tc\x00"),
        ("\x7f\x9b", r"\x7f\x9b"),
        ("\u2028\u2029\u202e\u2066\u200e\u061c", r"\u2028\u2029\u202e\u2066\u200e\u061c"),
        ("\ud800", r"\ud800"),
        ("x" * 201, "x" * 200 + "..."),
    ],
)
def test_L2_a_strangers_text_cannot_rewrite_a_terminal(raw: str, shown: str) -> None:
    assert printable(raw) == shown
    shown.encode("utf-8")
