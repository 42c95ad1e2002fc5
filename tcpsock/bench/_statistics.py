"""From many noisy measurements to a few numbers that can be believed."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Spread", "percentile", "ratios", "spread"]


@dataclass(frozen=True, slots=True)
class Spread:
    """Where the values of a sample lie: the middle one, the middle half, and all of them."""

    median: float
    low: float  # the lower quartile
    high: float  # the upper quartile
    least: float
    most: float


def spread(values: Sequence[float]) -> Spread:
    """Summarizes one value or more.

    The median and not the mean: on a shared machine single measurements are off by any factor.
    """
    if len(values) == 1:
        low = median = high = values[0]
    else:
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, low, high, min(values), max(values))


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` (0 to 1) of the values do not exceed."""
    ordered = sorted(values)
    below = int(share * len(ordered))
    rank = below if below == share * len(ordered) else below + 1
    return ordered[max(rank, 1) - 1]


def ratios(
    subject: Sequence[float], baseline: Sequence[float], *, higher_is_better: bool
) -> list[float]:
    """How much better the subject was, pair by pair: above 1 is better.

    Only what was measured in the same round is compared: the machine changes its mood between.
    """
    pairs = zip(subject, baseline, strict=True)
    return [mine / other if higher_is_better else other / mine for mine, other in pairs]
