"""One thread of a connection stopped at one point of its way, while everything else goes on.

A Schedule traces all threads of one run by instruments that are put into tcpsock for as long as
the run lasts; the library itself knows nothing of them. The points at which a thread can be stopped
are the ones where other threads can change what it finds next: before it takes `State.lock`, after
it gave it back, as it comes out of a Condition, and before and after each call of the wire, or each
poll where there is no wire yet. In a critical section, or inside a call of the wire, there are
none: a thread that is stopped there would only hold up the others. But for one: behind
`State.wake_all()`, since what is woken by that may look at the state without the lock.

Nothing here depends on time. `settle()` waits until nobody can go on by himself: each thread is
over, stopped, or waits for something that has not come. That is asked of the things themselves: is
the lock still held, has nobody notified the Condition since the wait began, does a poll of the same
descriptors find nothing? (A Condition's wait with a time-out, a grace, is soon over and no rest; a
poll with one is: a clogged write polls again and again while the thread that it needs is stopped.)
"""

from __future__ import annotations

import contextlib
import itertools
import random
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from instruments import install
from peers import WAIT, Call

__all__ = ["Schedule"]


class Party:
    """One thread of a run.

    Attributes:
        passed: the points that it has come to.
        inside: how many locks it holds, and whether it is in a call of the wire: no points there.
        waits: while it waits: whether what it waits for has not come.
        stopped, over: where it is.
        go_on: released to let it go on from where it is stopped.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.passed: list[str] = []
        self.inside = 0
        self.waits: Callable[[], bool] | None = None
        self.stopped = False
        self.over = False
        self.go_on = threading.Semaphore(0)
        self.ident: int | None = None

    @property
    def at_rest(self) -> bool:
        """Whether it can't go on by itself."""
        waits = self.waits
        return self.stopped or self.over or (waits is not None and waits())


class _Here(threading.local):
    party: Party | None = None


class Schedule:
    """The threads of one run, some of which are stopped at some points.

    As a context manager it puts the instruments in, and in the end takes them out again.
    """

    def __init__(self) -> None:
        self._here = _Here()
        self._parties: list[Party] = []
        self._stops: Callable[[Party], bool] = _nobody  # whether a thread stops where it is now
        self._ticks = itertools.count()
        self._last_change = next(self._ticks)
        self._patches = pytest.MonkeyPatch()

    def __enter__(self) -> Schedule:
        install(self, self._patches.setattr)
        return self

    def __exit__(self, *_: object) -> None:
        self.go_on()
        self._patches.undo()

    # -- For the test ---------------------------------------------------------------------------

    def run(self, name: str, function: Callable[[], object]) -> Call:
        """Begin a call in a thread of its own, which is one of those that can be stopped."""
        return Call(self.as_party(name, function))

    def stop(self, name: str, after: int) -> None:
        """Stop that thread when it has passed so many points from now on, and comes to the next."""
        left = itertools.count(after, -1)
        self._stops = lambda party: party.name == name and next(left) == 0

    def go_on(self) -> None:
        """Let every thread go on, and stop none any more."""
        self._stops = _nobody
        for party in self._stopped():
            self._let(party)

    def shuffle(self, chance: random.Random) -> None:
        """Let one thread at a time go on to its next point, until all of them are at rest.

        One goes on as long as it can while another waits at its point, until chance favours that
        one. All threads must be stopped at each point, see `stop_all()`.
        """
        favour: dict[Party, float] = {}
        self.settle()
        while stopped := self._stopped():
            party = max(stopped, key=lambda each: favour.setdefault(each, chance.random()))
            if chance.random() < 0.1:
                favour[party] = chance.random()
            self._let(party)
            self.settle()

    def stop_all(self) -> None:
        """Stop each thread at each point."""
        self._stops = lambda party: True

    @property
    def stopped_at(self) -> str | None:
        """The point where a thread is stopped, if one is."""
        return next((party.passed[-1] for party in self._stopped()), None)

    def is_over(self, name: str) -> bool:
        """Whether that thread has come to its end, or there never was one."""
        return all(party.over for party in self._parties if party.name == name)

    def settle(self) -> None:
        """Wait until every thread is over, stopped, or waits for what has not come."""
        self._wait_until(lambda: all(party.at_rest for party in self._parties))

    def finish(self) -> None:
        """Wait until all threads are over."""
        self._wait_until(lambda: all(party.over for party in self._parties))

    def _wait_until(self, so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + WAIT
        while time.monotonic() < deadline:
            before = self._last_change
            if so():
                time.sleep(0)  # one that has just come out of a poll gets a chance to say so
                if so() and self._last_change == before:
                    return
            time.sleep(0.0001)
        raise AssertionError(f"not after {WAIT} s")

    def report(self) -> str:
        """Where each thread is, and how it came there."""
        frames, lines = sys._current_frames(), []
        for party in self._parties:
            where = "over" if party.over else "stopped" if party.stopped else "at"
            lines.append(f"{party.name}: {', '.join(party.passed)}; {where}")
            if not party.over and party.ident in frames:
                lines += traceback.format_stack(frames[party.ident])[-4:]
        return "\n".join(lines)

    def _stopped(self) -> list[Party]:
        return [party for party in self._parties if party.stopped]

    def _let(self, party: Party) -> None:
        party.stopped = False
        party.go_on.release()

    # -- For the instruments --------------------------------------------------------------------

    def as_party(self, name: str, function: Callable[[], object]) -> Callable[[], Any]:
        """The same function, for a thread that is to be one of ours."""
        party = Party(name)
        self._parties.append(party)

        def run() -> object:
            self._here.party, party.ident = party, threading.get_ident()
            try:
                self.point("begin")
                return function()
            finally:
                self._here.party = None
                party.over = True
                self.note_change()

        return run

    def note_change(self) -> None:
        """Whoever looks at all threads just now has to look again."""
        self._last_change = next(self._ticks)

    def point(self, name: str, *, even_inside: bool = False) -> None:
        """Here a thread can be stopped."""
        party = self._here.party
        if party is None or (party.inside and not even_inside):
            return
        party.passed.append(name)
        if self._stops(party):
            party.stopped = True
            self.note_change()
            party.go_on.acquire()

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Something with a point before it, one behind it, and none inside."""
        self.point(f"before {name}")
        self.enter()
        try:
            yield
        finally:
            self.leave(f"after {name}")

    def enter(self) -> None:
        """No points from here on."""
        if self._here.party is not None:
            self._here.party.inside += 1

    def leave(self, point: str) -> None:
        """As before enter(); here is a point."""
        if self._here.party is not None:
            self._here.party.inside -= 1
            self.point(point)

    def swap_inside(self, inside: int) -> int:
        """For a Condition, which gives up a lock however often it is held."""
        party = self._here.party
        if party is None:
            return 0
        before, party.inside = party.inside, inside
        return before

    @contextlib.contextmanager
    def waiting(self, nothing_came: Callable[[], bool]) -> Iterator[None]:
        """This thread waits, and is at rest as long as `nothing_came` says so."""
        self._set_waits(nothing_came)
        try:
            yield
        finally:
            self._set_waits(None)

    def awake(self) -> None:
        """This thread waits no longer; it may yet have to wait for the lock."""
        self._set_waits(None)

    def _set_waits(self, waits: Callable[[], bool] | None) -> None:
        if self._here.party is not None:
            self._here.party.waits = waits
            self.note_change()


def _nobody(party: Party) -> bool:
    return False
