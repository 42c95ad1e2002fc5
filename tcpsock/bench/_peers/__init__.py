"""Who is measured. Each peer has a module here, with one function for each work that it can do.

A peer's module is imported when the peer is asked for, so that a library which is not installed
is missed by nobody else. An asynchronous peer runs its own loop inside each of its functions.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from types import TracebackType

from .._protocol import Target

__all__ = ["Job", "Peer", "Stopwatch", "again", "load", "warm_up"]


@dataclass(slots=True)
class Stopwatch:
    """Measures the part of a job that counts: a context manager, used once a job."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0  # of all threads of this process
    laps: list[float] = field(default_factory=list)  # seconds of each round, by the job itself

    def __enter__(self) -> None:
        self.cpu_seconds = -time.process_time()
        self.seconds = -time.perf_counter()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.seconds += time.perf_counter()
        self.cpu_seconds += time.process_time()


# job(target, amount, watch): connects, warms up, and does `amount` of the work under the watch.
Job = Callable[[Target, int, Stopwatch], None]


@dataclass(frozen=True, slots=True)
class Peer:
    """One way of doing the works."""

    name: str
    jobs: Mapping[str, Job]  # by the name of the work; what it lacks, the peer cannot do


def load(name: str) -> Peer:
    """The peer of that name. Raises ImportError where its library is not installed."""
    peer = import_module(f".{name}", __name__).PEER
    assert isinstance(peer, Peer)
    return peer


def again(peer: Peer) -> Peer:
    """The same peer under another name: to be measured against itself, which shows the noise."""
    return replace(peer, name=f"{peer.name} again")


def warm_up(amount: int, step: int = 1) -> int:
    """How much of it a job does before the watch runs: a twentieth, at least one step."""
    return max(amount // step // 20, 1) * step
