"""What a process holds: memory, descriptors, threads and objects, as Linux and gc tell."""

from __future__ import annotations

import collections
import concurrent.futures
import ctypes
import gc
import os
import resource
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

__all__ = [
    "PATIENCE",
    "Held",
    "blocks",
    "descriptors",
    "held",
    "in_use",
    "resident",
    "threads",
    "until",
    "until_only",
]

PATIENCE = 120.0  # seconds after which something that must happen is taken for lost

_PAGE = resource.getpagesize()
_IDLE = "tcpsock idle"  # threads that wait a few seconds for more work, on purpose
# Besides our own classes: what each connection is made of.
_PARTS = (concurrent.futures.Future, socket.socket, ssl.SSLContext, ssl.SSLSession)


def resident() -> int:
    """Bytes of this process in memory."""
    with open("/proc/self/statm", "rb") as statm:
        return int(statm.read().split()[1]) * _PAGE


class _MallocInfo(ctypes.Structure):
    """`struct mallinfo2` of <malloc.h>."""

    _fields_ = (
        ("arena", ctypes.c_size_t),
        ("ordblks", ctypes.c_size_t),
        ("smblks", ctypes.c_size_t),
        ("hblks", ctypes.c_size_t),
        ("hblkhd", ctypes.c_size_t),  # bytes in blocks of their own
        ("usmblks", ctypes.c_size_t),
        ("fsmblks", ctypes.c_size_t),
        ("uordblks", ctypes.c_size_t),  # bytes in all others that are in use
        ("fordblks", ctypes.c_size_t),
        ("keepcost", ctypes.c_size_t),
    )


def in_use() -> int:
    """Bytes that C code and Python's large objects have allocated and not freed.

    Unlike resident(), which is the answer where there is no glibc 2.33, it doesn't count what
    malloc keeps for later, so it doesn't creep when many threads allocate by turns. Python's small
    objects are in neither: blocks() counts those.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallinfo2"):
        return resident()
    libc.mallinfo2.restype = _MallocInfo
    info = libc.mallinfo2()
    return int(info.uordblks + info.hblkhd)


def descriptors() -> int:
    """How many are open (the one that looks is not counted)."""
    return len(os.listdir("/proc/self/fd")) - 1


def threads() -> int:
    """As the kernel counts them."""
    return len(os.listdir("/proc/self/task"))


class Held(NamedTuple):
    """What must be the same before and after connections have come and gone."""

    descriptors: int
    threads: tuple[str, ...]
    objects: dict[str, int]


def held() -> Held:
    """What this process holds. Threads that wait for more work are left out, and their objects."""
    gc.collect()
    objects = collections.Counter(
        f"{type(thing).__module__}.{type(thing).__qualname__}"
        for thing in gc.get_objects()
        if type(thing).__module__.startswith("tcpsock") or isinstance(thing, _PARTS)
    )
    objects.pop("tcpsock._threads._Worker", None)
    busy = sorted(each.name for each in threading.enumerate() if each.name != _IDLE)
    return Held(descriptors(), tuple(busy), dict(objects))


def until(condition: Callable[[], object], what: str) -> None:
    """Wait for something that no event tells of."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"still not so after {PATIENCE} s: {what}"
        time.sleep(0.01)


def until_only(expected: Held) -> None:
    """Wait until this process holds that again: what ends in the background gets time to.

    Raises:
        AssertionError: it goes on holding more, or less; says what.
    """
    deadline = time.monotonic() + 10
    while (now := held()) != expected:
        if time.monotonic() > deadline:
            raise AssertionError(
                f"left behind: {now.descriptors - expected.descriptors} descriptors,"
                f" threads {_difference(now.threads, expected.threads)},"
                f" objects {_difference(now.objects, expected.objects)}"
            )
        time.sleep(0.05)


def _difference(
    now: Iterable[str] | dict[str, int], then: Iterable[str] | dict[str, int]
) -> dict[str, int]:
    """How many of each there are more now."""
    more = collections.Counter(now)
    more.subtract(collections.Counter(then))
    return {name: count for name, count in more.items() if count}


def blocks() -> int:
    """How many small objects Python has allocated, those that gc doesn't know of too."""
    gc.collect()
    return sys.getallocatedblocks()
