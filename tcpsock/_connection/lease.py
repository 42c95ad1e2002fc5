"""The lock of a stream: who may read from it, or write to it."""

from __future__ import annotations

import concurrent.futures
import weakref
from typing import Any, Literal

from .._errors import SocketError, StreamBusy, StreamLocked
from .state import State

__all__ = ["Lease"]


class Lease:
    """Who holds a stream, and the future that tells the holder how it ended.

    The holder is known by a weak reference: one that was dropped has given the lock back (R6).
    All methods require the state's lock, but `held` and `is_held_by`, which only look.
    """

    def __init__(self, state: State, phase: Literal["read", "write"]) -> None:
        self._state = state
        self._phase: Literal["read", "write"] = phase
        self._stream, self._holder_is = (
            ("readable", "reader") if phase == "read" else ("writable", "writer")
        )
        self._holder: weakref.ref[object] | None = None
        self.closed: concurrent.futures.Future[Any] | None = None

    @property
    def held(self) -> bool:
        """Whether somebody holds the lock."""
        holder = self._holder  # looked at once: `locked` and repr() ask without the lock
        return holder is not None and holder() is not None

    def is_held_by(self, holder: object) -> bool:
        """Whether this one does."""
        known = self._holder
        return known is not None and known() is holder

    def take(self, holder: object, closed: concurrent.futures.Future[Any]) -> None:
        """Take the lock; `closed` will be settled when the stream ends."""
        self._state.check()
        if self.held:
            raise StreamLocked(
                f"{self._state.address}: the {self._stream} stream is locked to another"
                f" {self._holder_is}; release_lock() that one first",
                phase=self._phase,
                address=self._state.address,
            )
        self.settle(self._released())  # that of a holder who was dropped
        self._holder = weakref.ref(holder)
        self.closed = closed

    def give_back(self, holder: object, *, busy: bool) -> None:
        """Give the lock back; StreamBusy, and still locked, while it is in use."""
        if not self.is_held_by(holder):
            return
        if busy:
            raise StreamBusy(
                f"{self._state.address}: a {self._phase} is in progress; release_lock() when it is"
                " done",
                phase=self._phase,
                address=self._state.address,
            )
        self._holder = None
        self.settle(self._released())

    def check(self, holder: object) -> None:
        """StreamLocked unless this one holds the lock."""
        if self._holder is None or self._holder() is not holder:
            raise self._released()

    def settle(self, error: SocketError | None) -> None:
        """The stream has ended for the present holder."""
        self._state.settlements.add(self.closed, error=error)
        self.closed = None

    def _released(self) -> StreamLocked:
        return StreamLocked(
            f"{self._state.address}: this {self._holder_is} has released its lock;"
            f" get_{self._holder_is}() gives a new one",
            phase=self._phase,
            address=self._state.address,
        )
