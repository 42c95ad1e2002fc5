"""`select.poll` for greenlets: where gevent has put its own, which knows too little."""

from __future__ import annotations

import importlib
import select
from typing import Any, Final

from .._deadline import Deadline

__all__ = ["GreenPoller"]

_LOOK: Final = 50  # milliseconds between looks for a hang-up that there is no way to wait for


class GreenPoller:
    """All events of `select.poll`; gevent's knows POLLIN and POLLOUT, and no hang-up.

    The real one tells what there is, and never waits. Waiting is gevent's; where it is for a
    hang-up alone, an epoll object stands between: its own descriptor is readable once there is one.
    """

    def __init__(self) -> None:
        monkey = importlib.import_module("gevent.monkey")
        self._now: Any = monkey.get_original("select", "poll")()
        self._epoll: Any = monkey.get_original("select", "epoll")
        self._events: dict[int, int] = {}

    def register(self, fd: int, events: int, /) -> None:
        self._now.register(fd, events)
        self._events[fd] = events

    modify = register

    def unregister(self, fd: int, /) -> None:
        self._now.unregister(fd)
        del self._events[fd]

    def poll(self, milliseconds: int | None = None, /) -> list[tuple[int, int]]:
        deadline = Deadline(None if milliseconds is None else milliseconds / 1000)
        while True:
            found: list[tuple[int, int]] = self._now.poll(0)
            if found or deadline.expired():
                return found
            self._wait(deadline.poll_ms())

    def _wait(self, milliseconds: int | None) -> None:
        waiting = select.poll()  # a fresh one: it is of the hub of the thread that made it
        beyond = {}
        for fd, events in self._events.items():
            if events & (select.POLLIN | select.POLLOUT):
                waiting.register(fd, events)
            else:
                beyond[fd] = events
        if not beyond:
            waiting.poll(milliseconds)
            return
        try:
            epoll = self._epoll()
        except OSError:  # no descriptor is left
            waiting.poll(_LOOK if milliseconds is None else min(milliseconds, _LOOK))
            return
        with epoll:
            for fd, events in beyond.items():
                epoll.register(fd, events)
            waiting.register(epoll.fileno(), select.POLLIN)
            waiting.poll(milliseconds)
