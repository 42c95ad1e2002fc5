"""Happy Eyeballs (RFC 8305): the first of several addresses that answers is the one to use.

Dialling one after the other makes a user wait for the system's timeout, two minutes, when the
first address is a black hole; dialling all at once floods servers with connections that nobody
wants. So attempts start one by one, a short delay apart, and race: a slow one goes on while others
run, a failure starts the next one at once, and the first to connect wins.

All of them are non-blocking sockets in one poll loop of the calling thread. They need no threads,
so nothing is left to clean up when the race is over, whether won, lost, late or called off.
"""

from __future__ import annotations

import errno
import math
import os
import socket
from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

from .. import _deadline
from .._deadline import Deadline
from .._errors import bare
from .._info import Attempt
from .._wire import platform
from .resolve import Candidate

__all__ = ["AllFailed", "Stopped", "TimedOut", "Won", "race"]

ATTEMPT_DELAY = 0.250  # seconds, the recommended default of RFC 8305 section 5

# What a non-blocking connect() says that is done (the poll tells so again) or goes on; the last
# name is Windows'. EAGAIN is not among them: on Linux a TCP connect() that says it has failed.
_UNDER_WAY = {0, errno.EINPROGRESS, errno.EINTR, getattr(errno, "WSAEWOULDBLOCK", 0)}


class Won(NamedTuple):
    """How a race ends well."""

    sock: socket.socket
    """Connected, non-blocking."""
    attempts: tuple[Attempt, ...]
    """In the order in which they were started; the winner alone has no error."""


class Stopped(Exception):
    """The race was called off."""


class TimedOut(Exception):
    """The deadline was over before anybody answered."""

    def __init__(self, attempts: tuple[Attempt, ...]) -> None:
        super().__init__(attempts)
        self.attempts = attempts


class AllFailed(Exception):
    """Every address was tried, and none answered as it should."""

    def __init__(self, attempts: tuple[Attempt, ...]) -> None:
        super().__init__(attempts)
        self.attempts = attempts


def race(
    candidates: Iterable[Candidate],
    *,
    deadline: Deadline,
    waker: platform.Waker,
    stop: Callable[[], bool],
    prepare: Callable[[socket.socket], None],
) -> Won:
    """Connect to whichever candidate answers first.

    Args:
        candidates: in the order in which to try them.
        deadline: for all attempts together.
        waker: interrupts the wait; it is cleared, and then `stop` is asked.
        stop: whether to give up.
        prepare: what to do with each new socket before it connects (bind, options). An OSError out
            of it is that attempt's error.

    Raises:
        AllFailed, TimedOut, Stopped: no socket is left open then, nor after any other exception.
    """
    waiting = deque(candidates)
    runners: list[_Runner] = []  # everyone who started
    running: dict[int, tuple[_Runner, socket.socket]] = {}  # those under way, by descriptor
    next_start = _deadline.clock()
    poller = platform.poller()
    poller.register(waker.fileno(), platform.POLLIN)
    try:
        while waiting or running:
            if deadline.expired():
                for runner, _ in running.values():
                    runner.end(TimeoutError(errno.ETIMEDOUT, "no answer in time"))
                raise TimedOut(_report(runners))

            if waiting and (not running or _deadline.clock() >= next_start):
                candidate = waiting.popleft()
                runner = _Runner(candidate.address)
                runners.append(runner)
                try:
                    sock = _dial(candidate, prepare)
                except OSError as error:
                    runner.end(bare(error))
                    next_start = runner.started  # at once
                else:
                    running[sock.fileno()] = runner, sock
                    poller.register(sock.fileno(), platform.POLLOUT)
                    next_start = runner.started + ATTEMPT_DELAY
                continue

            events = dict(poller.poll(_pause(deadline, next_start if waiting else None)))
            if waker.fileno() in events:
                waker.clear()  # before the question, so that no later set() is lost
                if stop():
                    raise Stopped
            for fd in [fd for fd in running if fd in events]:  # the earlier start wins a tie
                poller.unregister(fd)
                runner, sock = running.pop(fd)
                status = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if not status:
                    runner.end(None)
                    for loser, _ in running.values():
                        loser.end(OSError(errno.ECANCELED, f"{runner.address} answered first"))
                    return Won(sock, _report(runners))
                sock.close()
                runner.end(OSError(status, os.strerror(status)))
                next_start = _deadline.clock()
        raise AllFailed(_report(runners))
    finally:
        for _, sock in running.values():
            sock.close()


class _Runner:
    """What is to be told of one attempt."""

    __slots__ = ("address", "error", "seconds", "started")

    def __init__(self, address: str) -> None:
        self.address = address
        self.started = _deadline.clock()
        self.seconds = 0.0
        self.error: OSError | None = None

    def end(self, error: OSError | None) -> None:
        self.seconds = _deadline.clock() - self.started
        self.error = error


def _report(runners: list[_Runner]) -> tuple[Attempt, ...]:
    return tuple(Attempt(runner.address, runner.seconds, runner.error) for runner in runners)


def _dial(candidate: Candidate, prepare: Callable[[socket.socket], None]) -> socket.socket:
    """A non-blocking socket on its way to the candidate; OSError where it fails at once."""
    sock = socket.socket(candidate.family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        prepare(sock)
        status = sock.connect_ex(candidate.sockaddr)
        if status not in _UNDER_WAY:
            raise OSError(status, os.strerror(status))
    except BaseException:
        sock.close()
        raise
    return sock


def _pause(deadline: Deadline, next_start: float | None) -> int | None:
    """How long poll() may sleep, in milliseconds, rounded up so that it never spins."""
    pause = deadline.poll_ms()
    if next_start is None:
        return pause
    until_start = max(0, math.ceil((next_start - _deadline.clock()) * 1000))
    return until_start if pause is None else min(pause, until_start)
