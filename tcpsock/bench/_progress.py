"""Says on stderr how far the measuring is."""

from __future__ import annotations

import sys
import time

__all__ = ["Progress"]

_WIDTH = 79  # columns of a terminal that are ours


class Progress:
    """A line that is written over on a terminal; elsewhere a short line every few seconds.

    Call it with what begins now. Nothing is written where there is no stderr.
    """

    def __init__(self, seconds: float) -> None:
        """`seconds`: what all of it will take, about."""
        self._seconds = seconds
        self._start = time.monotonic()
        self._next_line = 0.0
        self._terminal = sys.stderr is not None and sys.stderr.isatty()

    def __call__(self, now: str) -> None:
        if sys.stderr is None:
            return
        passed = time.monotonic() - self._start
        line = f"{passed:3.0f} s of about {self._seconds:.0f} s  {now}"
        if self._terminal:
            sys.stderr.write("\r" + line[:_WIDTH].ljust(_WIDTH))
            sys.stderr.flush()
        elif passed >= self._next_line:
            self._next_line = passed + 5
            print(line, file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Takes the line off the terminal again."""
        if self._terminal:
            sys.stderr.write("\r" + " " * _WIDTH + "\r")
            sys.stderr.flush()
