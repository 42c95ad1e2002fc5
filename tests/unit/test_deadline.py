"""Deadlines, by a clock that the test moves."""

from __future__ import annotations

import select

import pytest

from tcpsock import _deadline
from tcpsock._deadline import Deadline
from tcpsock._wire.platform import Waker


class Clock:
    """Stands still until the test moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(_deadline, "clock", clock)
    return clock


def test_what_is_left_counts_down_to_zero_and_never_below(clock: Clock) -> None:
    deadline = Deadline(2.5)
    assert deadline.seconds == 2.5
    left = []
    for now in (1000.0, 1001.0, 1002.25, 1002.5, 1010.0):
        clock.now = now
        left.append((deadline.remaining(), deadline.expired()))
    assert left == [(2.5, False), (1.5, False), (0.25, False), (0.0, True), (0.0, True)]


def test_no_limit_asks_no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_deadline, "clock", lambda: pytest.fail("asked the clock"))
    deadline = Deadline(None)
    assert deadline.seconds is None
    assert deadline.remaining() is None
    assert not deadline.expired()
    assert deadline.poll_ms() is None


def test_no_time_at_all_is_over_at_once(clock: Clock) -> None:
    deadline = Deadline(0)
    assert deadline.expired()
    assert deadline.remaining() == 0
    assert deadline.poll_ms() == 0


@pytest.mark.parametrize(
    ("seconds_left", "milliseconds"), [(1.0, 1000), (0.0005, 1), (0.0625, 63), (0.0, 0), (-3.0, 0)]
)
def test_poll_ms_is_rounded_up_so_that_no_wait_spins(
    clock: Clock, seconds_left: float, milliseconds: int
) -> None:
    deadline = Deadline(16.0)
    clock.now += 16.0 - seconds_left
    assert deadline.poll_ms() == milliseconds


def test_poll_takes_the_longest_deadline_there_is() -> None:
    milliseconds = Deadline(1e9).poll_ms()
    waker = Waker()
    waker.set()
    poll = select.poll()
    poll.register(waker.fileno(), select.POLLIN)
    assert poll.poll(milliseconds)  # OverflowError for more than a C int
    waker.close()
