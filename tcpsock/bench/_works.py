"""What is measured: the works, and the figures that each of them gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from . import _protocol, _statistics

__all__ = ["WORKS", "Figure", "Sample", "Work"]


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement: what it took one peer to do one work."""

    amount: int  # in the work's own measure
    seconds: float
    cpu_seconds: float  # of all threads of the client's process
    laps: list[float]  # seconds of each round, where the work has rounds


@dataclass(frozen=True, slots=True)
class Figure:
    """A number that is read off a sample, and shown as one row of the table."""

    name: str
    unit: str
    read: Callable[[Sample], float]
    higher_is_better: bool


@dataclass(frozen=True, slots=True)
class Work:
    """One kind of work, that each peer does in its own best usual way."""

    name: str  # in Peer.works, and in the JSON document
    title: str
    figures: tuple[Figure, ...]
    first_amount: int  # how much of it the first try does
    step: int = 1  # amounts are multiples of this


def _megabytes_per_second(sample: Sample) -> float:
    return sample.amount / sample.seconds / 1e6


def _per_second(sample: Sample) -> float:
    return sample.amount / sample.seconds


def _microseconds(share: float) -> Callable[[Sample], float]:
    return lambda sample: _statistics.percentile(sample.laps, share) * 1e6


# A mean round trip would hide what a user feels: the usual one, and the slow one in a hundred.
_ROUND_TRIPS = (
    Figure("median", "us", _microseconds(0.5), higher_is_better=False),
    Figure("p99", "us", _microseconds(0.99), higher_is_better=False),
)
_THROUGHPUT = (Figure("throughput", "MB/s", _megabytes_per_second, higher_is_better=True),)
_RATE = (Figure("rate", "1/s", _per_second, higher_is_better=True),)

_MEGABYTES_4 = 16 * _protocol.BLOCK

WORKS = (
    Work("ping-pong", "ping-pong 64 B", _ROUND_TRIPS, first_amount=100),
    Work("download", "download, read()", _THROUGHPUT, _MEGABYTES_4, step=_protocol.BLOCK),
    Work("download-into", "download, readinto()", _THROUGHPUT, _MEGABYTES_4, step=_protocol.BLOCK),
    Work("upload", "upload", _THROUGHPUT, _MEGABYTES_4, step=_protocol.BLOCK),
    Work("connect-graceful", "connect + close, both wait for EOF", _RATE, first_amount=10),
    Work("connect-close", "connect + close, nobody waits", _RATE, first_amount=10),
)
