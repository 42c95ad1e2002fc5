"""A stream's lock: who holds it, and what its `closed` future says."""

from __future__ import annotations

import weakref
from concurrent.futures import Future
from typing import Any, Literal

import pytest

from tcpsock._connection.lease import Lease
from tcpsock._connection.state import State
from tcpsock._errors import ConnectionLost, SocketClosed, StreamBusy, StreamLocked
from tcpsock._futures import born_running

ADDRESS = "a.example:1"


class Holder:
    """A reader or writer, as far as a lease knows one."""


class Leased:
    """A lease under test; every call is made under the lock, as it must be."""

    def __init__(self, phase: Literal["read", "write"] = "read") -> None:
        self.state = State(ADDRESS)
        self.lease = Lease(self.state, phase)

    def take(self, holder: Holder) -> Future[Any]:
        closed = born_running()
        with self.state.lock:
            self.lease.take(holder, closed)
        return closed

    def give_back(self, holder: Holder, *, busy: bool = False) -> None:
        with self.state.lock:
            self.lease.give_back(holder, busy=busy)

    def settle(self, error: ConnectionLost | None) -> None:
        with self.state.lock:
            self.lease.settle(error)


def test_R6_one_holder_at_a_time() -> None:
    leased, first, second = Leased(), Holder(), Holder()
    assert not leased.lease.held
    closed = leased.take(first)
    assert leased.lease.held
    assert leased.lease.is_held_by(first)
    assert not leased.lease.is_held_by(second)
    with pytest.raises(StreamLocked):
        leased.take(second)
    assert leased.lease.is_held_by(first)
    assert leased.lease.closed is closed


@pytest.mark.parametrize(
    ("phase", "words"),
    [
        ("read", ("the readable stream", "another reader", "a read is", "get_reader()")),
        ("write", ("the writable stream", "another writer", "a write is", "get_writer()")),
    ],
)
def test_O4_errors_name_the_peer_and_the_side(
    phase: Literal["read", "write"], words: tuple[str, str, str, str]
) -> None:
    leased, holder = Leased(phase), Holder()
    leased.take(holder)
    with pytest.raises(StreamLocked) as locked:
        leased.take(Holder())
    with pytest.raises(StreamBusy) as busy:
        leased.give_back(holder, busy=True)
    with pytest.raises(StreamLocked) as released:
        leased.lease.check(Holder())
    for error in (locked.value, busy.value, released.value):
        assert str(error).startswith(f"{ADDRESS}: ")
        assert (error.phase, error.address) == (phase, ADDRESS)
    assert words[0] in str(locked.value) and words[1] in str(locked.value)
    assert words[2] in str(busy.value)
    assert words[3] in str(released.value)


def test_R6_a_holder_that_was_dropped_has_given_the_lock_back() -> None:
    leased, holder, other = Leased(), Holder(), Holder()
    leased.take(holder)
    del holder
    assert not leased.lease.held
    leased.take(other)
    assert leased.lease.is_held_by(other)


def test_R10_the_future_of_a_dropped_holder_fails_when_the_next_one_comes() -> None:
    leased, holder, other = Leased(), Holder(), Holder()
    closed = leased.take(holder)
    del holder
    after = leased.take(other)
    leased.state.settlements.run()
    assert isinstance(closed.exception(0), StreamLocked)
    assert not after.done()


def test_R6_R10_giving_back_fails_the_pending_future_after_the_lock_is_released() -> None:
    leased, holder = Leased(), Holder()
    closed = leased.take(holder)
    leased.give_back(holder)
    assert not leased.lease.held
    assert not closed.done()  # not under the lock
    leased.state.settlements.run()
    assert isinstance(closed.exception(0), StreamLocked)
    with pytest.raises(StreamLocked):
        leased.lease.check(holder)


def test_R6_a_lease_in_use_is_not_given_back() -> None:
    leased, holder = Leased(), Holder()
    closed = leased.take(holder)
    with pytest.raises(StreamBusy):
        leased.give_back(holder, busy=True)
    leased.lease.check(holder)
    assert not leased.state.settlements
    assert not closed.done()


@pytest.mark.parametrize("busy", [False, True])
def test_R6_giving_back_what_one_does_not_hold_changes_nothing(busy: bool) -> None:
    leased, holder = Leased(), Holder()
    leased.give_back(Holder(), busy=busy)
    closed = leased.take(holder)
    leased.give_back(Holder(), busy=busy)
    leased.state.settlements.run()
    assert leased.lease.is_held_by(holder)
    assert not closed.done()


def test_R6_only_the_holder_passes_the_check() -> None:
    leased, holder = Leased(), Holder()
    with pytest.raises(StreamLocked):
        leased.lease.check(holder)
    leased.take(holder)
    leased.lease.check(holder)
    with pytest.raises(StreamLocked):
        leased.lease.check(Holder())


@pytest.mark.parametrize("error", [None, ConnectionLost("gone")])
def test_R10_the_future_settles_once_and_giving_back_later_does_not_change_it(
    error: ConnectionLost | None,
) -> None:
    leased, holder = Leased(), Holder()
    closed = leased.take(holder)
    leased.settle(error)
    leased.settle(ConnectionLost("again"))
    leased.give_back(holder)
    leased.state.settlements.run()
    assert closed.exception(0) is error
    assert leased.lease.closed is None


def test_E4_a_socket_that_refuses_gives_no_lease() -> None:
    leased, holder = Leased(), Holder()
    with leased.state.lock:
        leased.state.refusal = leased.state.closed_error("close")
    with pytest.raises(SocketClosed) as refused:
        leased.take(holder)
    assert refused.value.__cause__ is leased.state.refusal
    assert not leased.lease.held
    assert leased.lease.closed is None


class _GivenBackAtOnce(Lease):
    """Another thread gives the lock back as soon as somebody has looked at the holder."""

    _seen: weakref.ref[object] | None

    @property
    def _holder(self) -> weakref.ref[object] | None:  # type: ignore[override]
        seen, self._seen = self._seen, None
        return seen

    @_holder.setter
    def _holder(self, holder: weakref.ref[object] | None) -> None:
        self._seen = holder


def test_R6_who_asks_without_the_lock_looks_once() -> None:
    """`locked` and repr() do, and a release_lock() may come in between."""
    holder = Holder()
    lease = _GivenBackAtOnce(State(ADDRESS), "read")
    lease._holder = weakref.ref(holder)
    assert lease.held
    assert not lease.held
    lease._holder = weakref.ref(holder)
    assert lease.is_held_by(holder)
    assert not lease.is_held_by(holder)
