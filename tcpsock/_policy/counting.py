"""How many sockets are open, for `max_open_sockets`: counted by place, one a connection.

A place is not given back by an event but seen to be free: when the future `closed` of its
connection is settled, which is before anybody who waits on it wakes (rules P3 and P15).
"""

from __future__ import annotations

import concurrent.futures
import threading
import weakref
from collections.abc import Collection

from .._info import SocketInfo
from .._wire.platform import at_fork

__all__ = ["Counter", "Full", "Place", "take"]


class Full(Exception):
    """There is no place left: the arguments are how many are taken, and the limit."""


class Counter:
    """A limit, and the places taken under it in this process.

    It knows them weakly: one that nobody holds any more, whatever became of its connection, is no
    longer taken.
    """

    __slots__ = ("__weakref__", "_places", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._places: set[weakref.ref[Place]] = set()
        _counters.add(self)

    def __len__(self) -> int:
        """How many places are taken."""
        return len(self._places) - len(self._free())

    def _free(self) -> list[weakref.ref[Place]]:
        """Those that are to be forgotten."""
        # Of a copy, since remove() takes no lock.
        known = [(ref, ref()) for ref in list(self._places)]
        return [ref for ref, place in known if place is None or place.free]

    def add(self, place: Place) -> None:
        """Requires the lock."""
        self._places.add(place.ref)

    def check(self) -> None:
        """Raise Full if more places are taken than there are. Requires the lock."""
        if len(self._places) > self.limit:
            self._places.difference_update(self._free())
        if len(self._places) > self.limit:
            raise Full(len(self._places) - 1, self.limit)

    def remove(self, place: Place) -> None:
        """Any number of times, by anybody."""
        self._places.discard(place.ref)

    def clear(self) -> None:
        """For a forked child: the places are the parent's."""
        self._places.clear()


class Place:
    """What one connection takes up in all the counters that limit it.

    Who holds it: connect() while the connection is made, then the public object, and a callback of
    its future `closed`, which its thread holds as long as it is pending. The other way round the
    futures are known weakly, so that what hangs on their callbacks can go.
    """

    __slots__ = ("__weakref__", "_closed", "_counters", "_opened", "ref")

    def __init__(self, counters: Collection[Counter]) -> None:
        self.ref = weakref.ref(self)
        self._counters = counters
        self._opened: weakref.ref[concurrent.futures.Future[SocketInfo]] | None = None
        self._closed: weakref.ref[concurrent.futures.Future[None]] | None = None

    @property
    def free(self) -> bool:
        """Whether the connection is over, or never came about."""
        if self._opened is None or self._closed is None:
            return False  # it is just being made
        opened, closed = self._opened(), self._closed()
        return (
            closed is None
            or closed.done()
            or (opened is not None and opened.done() and opened.exception() is not None)
        )

    def follow(
        self,
        opened: concurrent.futures.Future[SocketInfo],
        closed: concurrent.futures.Future[None],
    ) -> None:
        """These are the connection's futures; from start_tls() on, the new socket's."""
        if not self._counters:
            return
        self._opened, self._closed = weakref.ref(opened), weakref.ref(closed)
        closed.add_done_callback(self._tidy_up)

    def follows(self, closed: concurrent.futures.Future[None]) -> bool:
        """Whether this is the `closed` of the connection's futures."""
        return self._closed is not None and self._closed() is closed

    def __enter__(self) -> Place:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:  # there will be no connection
            self.give_back()

    def give_back(self) -> None:
        """Be free, whatever the futures say; again and again is fine."""
        for counter in self._counters:
            counter.remove(self)

    def _tidy_up(self, _: concurrent.futures.Future[None]) -> None:
        if self.free:  # not so if start_tls() has gone on to other futures
            self.give_back()


def take(counters: Collection[Counter]) -> Place:
    """Take a place in all of them, or in none.

    Raises:
        Full: of the first that is.
    """
    place = Place(counters)
    with _lock:
        for counter in counters:
            counter.add(place)
        try:
            for counter in counters:
                counter.check()
        except BaseException:
            place.give_back()
            raise
    return place


# Makes one step of adding and checking. Re-entrant: a finalizer may connect in the middle of it.
_lock = threading.RLock()
_counters: weakref.WeakSet[Counter] = weakref.WeakSet()


def _in_child() -> None:
    global _lock
    _lock = threading.RLock()  # another thread may have held the old one
    for counter in list(_counters):
        counter.clear()


at_fork(in_child=_in_child)
