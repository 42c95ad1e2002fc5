"""The futures that users see: settled once, by us, and nothing that hangs on them can hurt us."""

from __future__ import annotations

import concurrent.futures
import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from ._errors import SocketError, fresh

__all__ = ["Settlements", "born_running", "settle", "settle_in_forked_child"]

T = TypeVar("T")


class _Condition(threading.Condition):
    """One whose `with` is that of its lock.

    threading's own is made of lines of Python: an exception out of a signal handler that comes
    there leaves the lock taken for ever, and whoever settles the future would wait for it.
    """

    __enter__ = property(lambda self: self._lock.__enter__)
    __exit__ = property(lambda self: self._lock.__exit__)


class _Shielded(concurrent.futures.Future[T]):
    """A Future whose callbacks cannot stop the thread that settles it (rule O2).

    The base class lets BaseException out of a callback, and whatever a logging handler raises: into
    our thread, and past the callbacks that come after it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._condition = _Condition()

    def add_done_callback(self, fn: Callable[[concurrent.futures.Future[T]], object]) -> None:
        def shielded(future: concurrent.futures.Future[T]) -> None:
            try:
                fn(future)
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt) and _in_main_thread():
                    raise  # the user's Ctrl-C, and a thread of the user's
                _log_failed_callback(future)

        super().add_done_callback(shielded)

    def result(self, timeout: float | None = None) -> T:
        """The value. An error is raised as a fresh copy, so that tracebacks don't pile up (O3)."""
        error = self.exception(timeout)
        if isinstance(error, SocketError):
            raise fresh(error) from error
        return super().result(timeout)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _log_failed_callback(future: concurrent.futures.Future[Any]) -> None:
    """As concurrent.futures does it, and under its name."""
    try:
        logging.getLogger("concurrent.futures").exception(
            "exception calling callback for %r", future
        )
    except BaseException:
        pass  # a handler's own trouble, which it must not make ours


def born_running() -> concurrent.futures.Future[Any]:
    """A future that is RUNNING from the start, so that cancel() is False (rule O2, trap T7)."""
    future: concurrent.futures.Future[Any] = _Shielded()
    future.set_running_or_notify_cancel()
    return future


def settle(
    future: concurrent.futures.Future[Any], value: object = None, error: BaseException | None = None
) -> None:
    """Settle a future unless somebody did already. Never call it with a lock held."""
    try:
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(value)
    except concurrent.futures.InvalidStateError:
        pass  # a user's own set_result(): theirs to keep


class Settlements:
    """Futures to be settled as soon as the lock that their state hangs on is released.

    add() is for code that holds the lock, run() for the same thread when it holds none. A deque
    takes and gives one thing at a time, with or without a GIL.
    """

    __slots__ = ("_due",)

    def __init__(self) -> None:
        self._due: deque[tuple[concurrent.futures.Future[Any], object, BaseException | None]]
        self._due = deque()

    def __bool__(self) -> bool:
        return bool(self._due)

    def add(
        self,
        future: concurrent.futures.Future[Any] | None,
        value: object = None,
        error: BaseException | None = None,
    ) -> None:
        """Note that a future is due; None is nobody's, and nothing."""
        if future is not None:
            self._due.append((future, value, error))

    def run(self) -> None:
        """Settle what is due, in order; another thread may be doing the same."""
        while True:
            try:
                due = self._due[0]
                settle(*due)
                self._due.remove(due)
            except IndexError:
                return
            except ValueError:
                pass  # another thread was faster


def settle_in_forked_child(future: concurrent.futures.Future[Any], error: BaseException) -> None:
    """Fail a pending future in a forked child, where another thread may have held its lock.

    The lock is replaced by a fresh one, and callbacks don't run: they belong to the parent
    (rule E8, trap T9).
    """
    future._condition = threading.Condition()  # there is no public way
    future._done_callbacks = []  # type: ignore[attr-defined]
    future._waiters = []
    if not future.done():
        settle(future, error=error)
