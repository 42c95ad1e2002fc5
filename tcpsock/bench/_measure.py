"""Who is measured when.

What is to be compared stands in one lane: the same work on the same server, done by one peer after
the other. All lanes are gone through once a round, and the rounds follow each other: so the values
of a pair are close neighbours in time, and a noisy second spoils one pair in some lanes, not all
pairs of one. Ratios are made inside a round alone; the median of them is what counts.

The amount of work is the same for all peers of a lane, and is found by trying.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ._peers import Peer, Stopwatch
from ._protocol import Target
from ._statistics import Spread, ratios, spread
from ._works import Figure, Sample, Work

__all__ = ["Failure", "Lane", "Plan", "Row", "measure", "rows"]

_LEAST_ROUNDS = 3  # below that a median is no better than a single value


class Failure(Exception):
    """A measurement went wrong; the message is for the user."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much time to take.

    Attributes:
        rounds: how often each lane is gone through.
        seconds_each: what one measurement should take, on the average of its lane.
        seconds: when to stop: after that no round begins that would not end in time, once three
            were done.
    """

    rounds: int
    seconds_each: float
    seconds: float


@dataclass(slots=True)
class Lane:
    """One work on one server, and the peers that do it in turn. The first is the baseline."""

    work: Work
    target: Target
    peers: tuple[Peer, ...]
    amount: int = 0
    samples: dict[str, list[Sample]] = field(default_factory=dict)  # by the name of the peer

    @property
    def transport(self) -> str:
        """What the bytes travel over."""
        return "TLS 1.3" if self.target.tls else "plain"

    @property
    def title(self) -> str:
        """The lane in a few words."""
        return f"{self.transport}, {self.work.title}"

    def calibrate(self, seconds_each: float) -> None:
        """Finds the amount that takes a peer `seconds_each` on the average of all peers."""
        amount = self.work.first_amount
        while True:
            seconds = sum(self._run(peer, amount).seconds for peer in self.peers)
            taken = max(seconds / len(self.peers), 1e-6)  # a coarse clock may see no time pass
            steps = math.ceil(amount * seconds_each / taken / self.work.step)
            self.amount = max(steps, 1) * self.work.step
            # The first tries tell little: they are short, and much happens for the first time.
            if taken > seconds_each / 5:
                return
            amount = min(self.amount, 10 * amount)

    def go_through(self) -> None:
        """Measures each peer once, in turn."""
        for peer in self.peers:
            self.samples.setdefault(peer.name, []).append(self._run(peer, self.amount))

    def _run(self, peer: Peer, amount: int) -> Sample:
        watch = Stopwatch()
        try:
            peer.jobs[self.work.name](self.target, amount, watch)
        except Exception as error:
            what = f"{type(error).__name__}: {error}"
            raise Failure(f"{peer.name} failed ({self.title}): {what}") from error
        return Sample(amount, watch.seconds, watch.cpu_seconds, watch.laps)


@dataclass(frozen=True, slots=True)
class Row:
    """One peer beside the baseline, in one figure of one lane."""

    lane: Lane
    figure: Figure
    subject: str
    baseline: str
    subject_value: float  # median of all rounds, in the figure's unit
    baseline_value: float
    ratios: list[float]  # a round each; above 1 the subject is better
    spread: Spread  # of the ratios
    subject_cpu: float  # CPU seconds of all rounds together
    baseline_cpu: float

    @property
    def cpu_ratio(self) -> float | None:
        """CPU seconds against the baseline's. None: below what this system's clock can tell."""
        return self.subject_cpu / self.baseline_cpu if self.baseline_cpu else None


def measure(lanes: Sequence[Lane], plan: Plan, progress: Callable[[str], None]) -> int:
    """Fills the lanes with samples; returns the number of rounds.

    Raises Failure if a peer or a server fails.
    """
    start = time.monotonic()
    for lane in lanes:
        progress(f"trying out: {lane.title}")
        lane.calibrate(plan.seconds_each)
    for done in range(plan.rounds):
        round_start = time.monotonic()
        for lane in lanes:
            progress(f"round {done + 1} of {plan.rounds}: {lane.title}")
            lane.go_through()
        now = time.monotonic()
        if done + 1 >= _LEAST_ROUNDS and now + (now - round_start) > start + plan.seconds:
            return done + 1
    return plan.rounds


def rows(lanes: Sequence[Lane]) -> list[Row]:
    """All that the samples say: each peer beside its lane's first, figure by figure."""
    return [
        _row(lane, figure, subject.name)
        for lane in lanes
        for figure in lane.work.figures
        for subject in lane.peers[1:]
    ]


def _row(lane: Lane, figure: Figure, subject: str) -> Row:
    baseline = lane.peers[0].name
    ours, theirs = lane.samples[subject], lane.samples[baseline]
    our_values, their_values = [figure.read(one) for one in ours], [figure.read(o) for o in theirs]
    compared = ratios(our_values, their_values, higher_is_better=figure.higher_is_better)
    return Row(
        lane=lane,
        figure=figure,
        subject=subject,
        baseline=baseline,
        subject_value=spread(our_values).median,
        baseline_value=spread(their_values).median,
        ratios=compared,
        spread=spread(compared),
        subject_cpu=sum(sample.cpu_seconds for sample in ours),
        baseline_cpu=sum(sample.cpu_seconds for sample in theirs),
    )
