"""One point in time that a whole operation must meet, however many waits it takes."""

from __future__ import annotations

import math
import time

__all__ = ["Deadline", "clock"]

_LONGEST_POLL = 2**31 - 1  # milliseconds; a poll() that ends early is made again

clock = time.monotonic  # called through this module, so that tests may put another clock here


class Deadline:
    """A time limit that starts counting when it is made.

    Args:
        seconds: from now; None is no limit, and then no clock is ever asked.
    """

    __slots__ = ("_at", "seconds")

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds
        self._at = None if seconds is None else clock() + seconds

    def remaining(self) -> float | None:
        """Seconds that are left, never below 0; None where there is no limit."""
        return None if self._at is None else max(0.0, self._at - clock())

    def expired(self) -> bool:
        """Whether no time is left."""
        return self._at is not None and clock() >= self._at

    def poll_ms(self) -> int | None:
        """What is left, as poll() takes it: milliseconds, rounded up so that it never spins."""
        if self._at is None:
            return None
        return min(max(0, math.ceil((self._at - clock()) * 1000)), _LONGEST_POLL)
