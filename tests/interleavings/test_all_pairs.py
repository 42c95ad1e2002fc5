"""Each event against each blocked call, at each point of everybody's way: none hangs, none lies.

For each pair the same little story is told again and again: a call blocks, an event comes. Each
time one thread is stopped at another point (schedule.py says which these are), and goes on when
everybody else has come as far as possible without it. What comes of it must be in outcomes.py.
"""

from __future__ import annotations

import itertools
import os
import random
import warnings
from collections.abc import Callable, Iterator
from functools import partial

import pytest
from calls import CALLS, EVENTS, makes_sense
from outcomes import allowed
from scene import Outcome, Scene, Servers
from schedule import Schedule

LONG = bool(os.environ.get("TCPSOCK_LONG"))
TRANSPORTS = ("plain", "tls12", "tls13", "starttls") if LONG else ("plain", "tls13")
STEP = {"plain": 1, "tls13": 1 if LONG else 10}  # visit each point, or only one of so many
SEEDS = range(10 if LONG else 1)

# Who is stopped, and from when on its points are counted: from the beginning of the call or from
# the event; where the call goes on after the event, from the moment when the peer lets it end.
STOPS = [
    ("call", "call"),
    ("connection", "call"),
    ("call", "event"),
    ("connection", "event"),
    ("event", "event"),
    ("call", "release"),
    ("connection", "release"),
]

# After these the call, once it has begun, goes on as if nothing had been: its end is no news.
REFUSED = ("start_tls", "release_lock", "detach")

PAIRS = [
    (event, kind)
    for event, kind in itertools.product(EVENTS, CALLS)
    if any(makes_sense(call, event) for call in CALLS[kind])
]


@pytest.fixture(scope="module")
def servers(request: pytest.FixtureRequest) -> Iterator[Servers]:
    servers = Servers(request.param)
    yield servers
    servers.close()


class Story:
    """One run of a pair: a call begins, an event happens, the peer lets the call end."""

    def __init__(self, servers: Servers, call: str, kind: str, event: str) -> None:
        self.servers, self.blocked = servers, CALLS[kind][call]
        self.happening = EVENTS[event]
        self.name = f"{event} against {call} over {servers.transport}"
        on = " on TLS" if event == "start_tls" and servers.transport != "plain" else ""
        self.allowed = allowed(event + on, kind)
        self.drops = event == "drop"
        # What happens while a thread is stopped; data comes in two pieces in that time.
        self.held = ("call", "event") if event == "data" else ("call",)

    def tell(self, how: Callable[[Story], str | None], what: str) -> tuple[Outcome, str | None]:
        """Tell it in one way. Returns what came of it, and what that way says about itself."""
        with (
            Schedule() as self.schedule,
            pytest.MonkeyPatch.context() as patch,
            warnings.catch_warnings(record=True) as caught,
        ):
            warnings.simplefilter("always")
            self.scene = Scene(self.schedule, self.servers, self.blocked, patch)
            try:
                said = how(self)
                outcome = self.scene.finish(self.event, self.call)
                assert any(line.fits(outcome) for line in self.allowed), outcome
                if self.blocked.at_once and outcome.call not in ("whole", "some"):
                    assert self.ended_at_once
                self._check_warnings(outcome, caught)
            except Exception as error:
                report = self.schedule.report()
                self.scene.connection.abort()
                raise AssertionError(f"{self.name}, {what}: {error}\n{report}") from error
        return outcome, said

    def begin(self) -> None:
        """The call."""
        self.call = self.schedule.run("call", lambda: self.scene.call.pop()())

    def happen(self) -> None:
        """The event."""
        self.event = self.schedule.run("event", partial(self.happening, self.scene))

    def release(self) -> None:
        """The peer does what is waited for, if anybody still waits."""
        self.ended_at_once = self.schedule.is_over("call")
        if not all(map(self.schedule.is_over, ("call", "another write", "event"))):
            self.schedule.run("peer", partial(self.blocked.release, self.scene))

    def _check_warnings(self, outcome: Outcome, caught: list[warnings.WarningMessage]) -> None:
        """A dropped socket says so, unless it had come to its end by itself (rule E6)."""
        said = {str(each.message) for each in caught}
        unclosed = {f"unclosed tcpsock.Socket {self.scene.connection.state.address}"}
        assert not said - unclosed, said
        if not self.drops:
            assert not said
        elif outcome.writer != "resolves":
            assert said, "no ResourceWarning"


def stop_once(who: str, since: str, after: int, story: Story) -> str | None:
    """Stop one thread, once. Returns where it was stopped, None if it didn't come so far."""
    schedule, where = story.schedule, None
    steps = {"call": story.begin, "event": story.happen, "release": story.release}
    for moment, step in steps.items():
        if moment == since:
            schedule.stop(story.scene.thread if who == "connection" else who, after)
        step()
        schedule.settle()
        if moment not in story.held:
            where = where or schedule.stopped_at
            schedule.go_on()
            schedule.settle()
    return where


def shuffle(seed: int, story: Story) -> None:
    """Let one thread at a time go from point to point, in an order that chance has made."""
    chance = random.Random(seed)
    story.schedule.stop_all()
    story.begin()
    story.happen()
    story.schedule.shuffle(chance)
    story.release()
    story.schedule.shuffle(chance)
    story.schedule.go_on()
    story.schedule.settle()


def stories(servers: Servers, kind: str, event: str) -> Iterator[Story]:
    """One for each call of that kind that the event can come to."""
    return (Story(servers, call, kind, event) for call in CALLS[kind] if makes_sense(call, event))


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("servers", TRANSPORTS, indirect=True)
@pytest.mark.parametrize(("event", "kind"), PAIRS)
def test_one_thread_is_stopped_at_each_point(servers: Servers, event: str, kind: str) -> None:
    """E1 to E6, O1 to O8, R3 to R10, S1 to S5, W1 to W5, one of each against one of each."""
    step = STEP.get(servers.transport, 1)
    came: list[Outcome] = []
    for story in stories(servers, kind, event):
        for who, since in STOPS:
            if since == "release" and not LONG and event in REFUSED:
                continue
            for after in itertools.count(0, step):
                how = f"{who} stopped after {after} points from the {since} on"
                outcome, where = story.tell(partial(stop_once, who, since, after), how)
                came.append(outcome)
                if where is None:
                    break
    if servers.transport == "plain":  # and the table allows nothing that doesn't happen
        for line in story.allowed:
            assert "*" in line.rules or any(map(line.fits, came)), f"never so: {line}"


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("servers", TRANSPORTS, indirect=True)
@pytest.mark.parametrize(("event", "kind"), PAIRS)
def test_chance_stops_all_threads(servers: Servers, event: str, kind: str) -> None:
    """The same, with all threads stopped and let go again in an order that a seed has made."""
    for story in stories(servers, kind, event):
        for seed in SEEDS:
            story.tell(partial(shuffle, seed), f"shuffled by seed {seed}")
