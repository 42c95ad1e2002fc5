"""Every error survives the ways on which errors travel, whatever is in it, and can be shown."""

from __future__ import annotations

import copy
import inspect
import os
import pickle
import traceback
from errno import ECONNREFUSED, ETIMEDOUT
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tcpsock
from tcpsock import _errors
from tcpsock._errors import Phase, SocketError, bare, fresh, printable
from tcpsock._info import Attempt

for_all = settings.get_profile("properties")
CLASSES = sorted(
    (
        found
        for found in vars(_errors).values()
        if isinstance(found, type) and issubclass(found, SocketError)
    ),
    key=lambda cls: cls.__name__,
)

TEXTS = st.text(max_size=30) | st.sampled_from(["", "%s {} \0\x1b[2J", "\ud800", "x" * 5000])
# (Old pickle protocols know no TimeoutError: without its number it would come back as an OSError.)
REFUSED, TIMED_OUT = (OSError(number, os.strerror(number)) for number in (ECONNREFUSED, ETIMEDOUT))
CAUSES = st.sampled_from([None, REFUSED, TIMED_OUT, tcpsock.ReadTimeout("late")])
ATTEMPTS = st.lists(st.builds(Attempt, TEXTS, st.floats(0, 100), CAUSES), max_size=4).map(tuple)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9) | st.binary(max_size=9),
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(st.text(max_size=3), parts),
    max_leaves=6,
)
ATTRIBUTES: dict[str, st.SearchStrategy[Any]] = {
    "phase": st.sampled_from([None, *get_args(Phase)]),
    "address": st.none() | TEXTS,
    "errno": st.none() | st.integers(),
    "attempts": ATTEMPTS,
    "bytes_written": st.integers(0),
    "code": TEXTS,
    "decision": PLAIN,
    "expected": st.none() | st.integers(0),
    "library": TEXTS,
    "partial": st.binary(max_size=30),
    "reason": TEXTS,
    "reply": TEXTS,
    "verify_code": st.integers(),
    "verify_message": TEXTS,
}


@st.composite
def errors(draw: st.DrawFn) -> tuple[SocketError, dict[str, Any]]:
    """An error, and what it was made with."""
    cls = draw(st.sampled_from(CLASSES))
    given = {}
    for name in list(inspect.signature(cls).parameters)[1:]:
        if draw(st.booleans()):
            is_own = name == "reason" and cls is tcpsock.SocketAborted  # and not OpenSSL's
            given[name] = draw(PLAIN if is_own else ATTRIBUTES[name])
    message = draw(TEXTS)
    error = cls(message, **given)
    return error, {"message": message, **given}


def parts_of(error: SocketError) -> tuple[Any, ...]:
    """All that makes an error this one."""
    return type(error), error.args, str(error), error.errno, error.strerror, vars(error)


@for_all
@given(errors())
def test_L7_every_error_keeps_what_it_was_made_with(
    made: tuple[SocketError, dict[str, Any]],
) -> None:
    error, given = made
    assert str(error) == error.strerror == given.pop("message")
    for name, value in given.items():
        if value is not None or name not in ("phase", "code"):
            assert getattr(error, name) == value
    assert type(error).__name__ in repr(error)
    assert isinstance(error, OSError)


@for_all
@given(errors(), st.dictionaries(st.from_regex(r"[a-z]{3,8}", fullmatch=True), PLAIN, max_size=2))
def test_L7_every_error_survives_pickle_and_copy(
    made: tuple[SocketError, dict[str, Any]], more: dict[str, Any]
) -> None:
    """With all of its attributes, those of a user's own too."""
    error, _ = made
    for name, value in more.items():
        setattr(error, "own_" + name, value)
    ways = [
        copy.copy(error),
        copy.deepcopy(error),
        fresh(error),
        *(
            pickle.loads(pickle.dumps(error, protocol))
            for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
        ),
    ]
    ways.append(pickle.loads(pickle.dumps(ways[-1])))  # and on from there
    for again in ways:
        assert again is not error
        assert parts_of(again) == parts_of(error)
        assert repr(again) == repr(error)


@for_all
@given(errors())
def test_L7_every_error_can_be_raised_and_shown(made: tuple[SocketError, dict[str, Any]]) -> None:
    """str(), repr(), a traceback's text and the built-in that a user would catch."""
    error, _ = made
    for base in type(error).__mro__[1:-1]:
        with pytest.raises(base):
            raise error  # type: ignore[misc]  # every base of an error but object
    assert isinstance(str(error), str)
    assert isinstance(repr(error), str)
    assert type(error).__name__ in "".join(traceback.format_exception(error))
    assert bare(error).__traceback__ is None
    again = type(error)(*error.args)  # as job queues with JSON results do
    assert str(again) == str(error)


@for_all
@given(TEXTS | st.text(max_size=300), st.integers(1, 300))
def test_L2_a_strangers_text_becomes_printable(text: str, limit: int) -> None:
    shown = printable(text, limit)
    shown.encode("utf-8")
    assert not any(character < " " or "\x7f" <= character <= "\x9f" for character in shown)
    assert printable(shown, limit=len(shown)) == shown
    assert len(shown) <= 10 * limit + 3
