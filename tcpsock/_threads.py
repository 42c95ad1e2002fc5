"""Background threads, kept for a few seconds after their work for the next one.

Starting and joining a thread costs three times as much as a whole loopback connection, so a
thread that has finished waits a little for more (trio's thread cache works the same way). All
are daemons: what they hold open must never keep the interpreter from ending (rule E7).
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable

__all__ = ["start"]

_IDLE_SECONDS = 5.0  # long enough for a pool that reconnects, short enough to be forgotten
_IDLE_NAME = "tcpsock idle"

# Workers without work, the last one to finish on top. list.append, pop and remove are atomic, with
# or without a GIL, so a worker is either here or somebody's: no lock (a held one would not survive
# a fork).
_idle: list[_Worker] = []


class _Worker:
    """One thread and its next piece of work. Whoever takes it out of `_idle` owns it."""

    def __init__(self) -> None:
        # Stored by start() before it releases `_given`, read by the thread that has acquired it.
        self._run: Callable[[], None] | None = None
        self._name = _IDLE_NAME
        self._given = threading.Lock()  # released once for each piece of work
        self._given.acquire()
        self.thread = threading.Thread(target=self._work, name=_IDLE_NAME, daemon=True)

    def give(self, run: Callable[[], None], name: str) -> None:
        self._run, self._name = run, name
        self._given.release()

    def _work(self) -> None:
        while True:
            if not self._given.acquire(timeout=_IDLE_SECONDS):
                try:
                    _idle.remove(self)
                except ValueError:
                    self._given.acquire()  # somebody took us just now: the work is on its way
                else:
                    return
            self.thread.name = self._name
            run, self._run = self._run, None
            assert run is not None
            run()
            del run  # a waiting thread holds nothing of what it did
            self.thread.name = _IDLE_NAME
            _idle.append(self)


def start(run: Callable[[], None], name: str) -> None:
    """Run something in a daemon thread, a waiting one where there is one.

    Args:
        run: called once; it must not raise.
        name: the thread's name while it does (rule L6).

    Raises:
        RuntimeError: no thread can be started (the interpreter is ending, or a limit is reached).
    """
    if sys.is_finalizing():  # an idle thread would never wake up again, a new one never start
        raise RuntimeError("the interpreter is ending")
    try:
        worker = _idle.pop()
    except IndexError:
        worker = _Worker()
        worker.give(run, name)
        worker.thread.start()
    else:
        worker.give(run, name)


if hasattr(os, "register_at_fork"):  # in the child none of these threads exist
    os.register_at_fork(after_in_child=_idle.clear)
