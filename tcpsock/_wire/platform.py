"""What a platform lacks: decided here alone, by asking for the thing itself (rule K3)."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable
from typing import Protocol

__all__ = [
    "POLLERR",
    "POLLHUP",
    "POLLIN",
    "POLLNVAL",
    "POLLOUT",
    "POLLRDHUP",
    "Poller",
    "Waker",
    "at_fork",
    "poller",
]

POLLIN = getattr(select, "POLLIN", 1)
POLLOUT = getattr(select, "POLLOUT", 4)
POLLERR = getattr(select, "POLLERR", 8)
POLLHUP = getattr(select, "POLLHUP", 16)
POLLNVAL = getattr(select, "POLLNVAL", 32)
POLLRDHUP = getattr(select, "POLLRDHUP", 0)  # 0: this platform doesn't tell a hang-up apart


class Poller(Protocol):
    """The part of `select.poll` that we use."""

    def register(self, fd: int, events: int, /) -> None: ...
    def modify(self, fd: int, events: int, /) -> None: ...
    def unregister(self, fd: int, /) -> None: ...
    def poll(self, milliseconds: int | None = None, /) -> list[tuple[int, int]]: ...


class _SelectPoller:
    """`select.select` in the shape of `select.poll`, where there is no poll."""

    def __init__(self) -> None:
        self._events: dict[int, int] = {}

    def register(self, fd: int, events: int, /) -> None:
        self._events[fd] = events

    modify = register

    def unregister(self, fd: int, /) -> None:
        del self._events[fd]

    def poll(self, milliseconds: int | None = None, /) -> list[tuple[int, int]]:
        reading = [fd for fd, events in self._events.items() if events & POLLIN]
        writing = [fd for fd, events in self._events.items() if events & POLLOUT]
        try:
            readable, writable, failed = select.select(
                reading, writing, writing, None if milliseconds is None else milliseconds / 1000
            )
        except ValueError as error:
            raise OSError(
                "this platform has no poll(), and its select() takes no more descriptors"
            ) from error
        found = dict.fromkeys(readable, POLLIN)
        for fd in {*writable, *failed}:
            found[fd] = found.get(fd, 0) | POLLOUT
        return list(found.items())


def poller() -> Poller:
    """A fresh poll object. Each is one waiter's: none may be used by two threads at once."""
    if not hasattr(select, "poll"):  # asked late: gevent replaces it
        return _SelectPoller()
    if getattr(select.poll, "__module__", None) == "gevent.select":
        from .green import GreenPoller

        return GreenPoller()
    return select.poll()


class Waker:
    """Wakes whoever polls its descriptor; level-triggered, from set() until clear().

    An eventfd costs one descriptor, a socket pair two. Who sets it holds `State.lock`, the turn to
    send or the look-up's lock: nobody can while it is closed, lest the number be another's by then.
    """

    __slots__ = ("_pair", "_read_fd", "_write_fd")

    def __init__(self) -> None:
        self._pair: tuple[socket.socket, socket.socket] | None = None
        if hasattr(os, "eventfd"):
            self._read_fd = self._write_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        else:
            self._pair = socket.socketpair()
            for end in self._pair:
                end.setblocking(False)
            self._read_fd, self._write_fd = (end.fileno() for end in self._pair)

    def fileno(self) -> int:
        """The descriptor to poll for reading."""
        return self._read_fd

    def set(self) -> None:
        """Wake the poller; again and again is fine."""
        try:
            if self._pair is None:
                os.eventfd_write(self._write_fd, 1)
            else:
                self._pair[1].send(b"!")
        except BlockingIOError:
            pass  # so full that nobody can miss it

    def clear(self) -> None:
        """Take back every set() until now."""
        try:
            if self._pair is None:
                os.eventfd_read(self._read_fd)
            else:
                while self._pair[0].recv(4096):
                    pass
        except BlockingIOError:
            pass

    def close(self) -> None:
        """Give the descriptors back."""
        if self._pair is None:
            os.close(self._read_fd)
        else:
            for end in self._pair:
                end.close()


def at_fork(
    *,
    before: Callable[[], object] | None = None,
    in_parent: Callable[[], object] | None = None,
    in_child: Callable[[], object] | None = None,
) -> None:
    """Register what a fork must do; nothing where processes don't fork."""
    if hasattr(os, "register_at_fork"):
        hooks = {"before": before, "after_in_parent": in_parent, "after_in_child": in_child}
        os.register_at_fork(**{name: hook for name, hook in hooks.items() if hook})
