"""What the hammers strike on: connections, bytes that show where they belong, and a look behind.

A hammer runs in a process of its own, hundreds of times over, with a seed that differs each time.
"""

from __future__ import annotations

import contextlib
import gc
import os
import random
import struct
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from peers import Call, ca_data, pattern, until

import tcpsock

__all__ = [
    "CONNECTING_FAILS",
    "PATIENCE",
    "TLS",
    "Barrier",
    "frame",
    "leaving_nothing",
    "outcome",
    "read_somehow",
    "together",
    "unframe",
]

PATIENCE = 120  # seconds after which a hammer is taken for hung

# What a socket may fail with while it opens, besides SocketClosed and SocketAborted.
CONNECTING_FAILS = (tcpsock.ConnectError, tcpsock.TlsError, tcpsock.ConnectionLost)


def TLS(transport: str = "on", **fields: Any) -> dict[str, Any]:
    """Options of connect() for one of our own servers."""
    tls = tcpsock.TlsOptions(**{"ca_data": ca_data(), **fields})
    return {"secure_transport": transport, "tls": tls}


# Frames: so that whoever receives them knows which writes they are, and whether they are whole.

_HEADER = struct.Struct("!BBII")
_MAGIC = 0xF7  # no TLS record begins like this


def frame(writer: int, number: int, size: int) -> bytes:
    """What a writer gives to its n-th write: `size` bytes behind a header."""
    return _HEADER.pack(_MAGIC, writer, number, size) + pattern(size, 1009 * writer + number)


def unframe(received: bytes) -> tuple[dict[int, list[int]], bytes]:
    """The numbers of the whole frames of each writer, in order, and what is left behind the last.

    What is left is the beginning of a frame, or no frame at all. Fails if a frame isn't as its
    writer made it.
    """
    numbers: dict[int, list[int]] = {}
    at = 0
    while len(received) - at >= _HEADER.size and received[at] == _MAGIC:
        _, writer, number, size = _HEADER.unpack_from(received, at)
        whole = frame(writer, number, size)
        found = received[at : at + len(whole)]
        assert whole.startswith(found), f"frame {number} of writer {writer} is not its own"
        if len(found) < len(whole):
            break
        numbers.setdefault(writer, []).append(number)
        at += len(whole)
    return numbers, received[at:]


# Calls


def read_somehow(reader: tcpsock.Reader, rng: random.Random, **timeout: Any) -> bytes:
    """Some bytes by any of the read calls; b"" at EOF alone."""
    size = rng.choice((1, 100, 5_000, 16_384, 70_000, 300_000))
    calls: tuple[Callable[[], bytes], ...] = (
        lambda: reader.read(**timeout),
        lambda: reader.read(size, **timeout),
        lambda: _read_into(reader, bytearray(size), **timeout),
        lambda: reader.read_exactly(size, **timeout),
        lambda: reader.readline(limit=1 << 20, **timeout),
        lambda: reader.read_until(bytes([size % 251]), limit=1 << 20, **timeout),
        lambda: _peek_and_read(reader, size, **timeout),
    )
    try:
        return rng.choice(calls)()
    except tcpsock.IncompleteRead as error:
        return error.partial


def _read_into(reader: tcpsock.Reader, buffer: bytearray, **timeout: Any) -> bytes:
    return bytes(buffer[: reader.readinto(buffer, **timeout)])


def _peek_and_read(reader: tcpsock.Reader, size: int, **timeout: Any) -> bytes:
    seen = reader.peek(size, **timeout)
    if not seen:
        return b""
    got = reader.read_exactly(len(seen), timeout=0)
    assert got == seen
    return got


def outcome(future: Any, *kinds: type[BaseException]) -> BaseException | None:
    """What a future failed with, None if it resolved. Fails if it's neither None nor of `kinds`."""
    error: BaseException | None = future.exception(PATIENCE)
    assert error is None or isinstance(error, kinds), repr(error)
    return error


class Barrier(threading.Barrier):
    """Where threads wait for one another, though not for ever."""

    def __init__(self, parties: int) -> None:
        super().__init__(parties, timeout=PATIENCE)


def together(*functions: Callable[[], object]) -> None:
    """Run each in a thread of its own, all beginning at once; raises what the first one raises."""
    start = Barrier(len(functions))

    def begin(function: Callable[[], object]) -> None:
        start.wait()
        function()

    running = [Call(begin, function) for function in functions]
    while running:
        for call in running:
            call.thread.join(0.005)
            if call.done():
                call.result()
        running = [call for call in running if not call.done()]


# What must not be left


@contextlib.contextmanager
def leaving_nothing() -> Iterator[None]:
    """Fails if a thread, a descriptor or a Socket is left that wasn't there before."""
    threads, descriptors = _busy_threads(), len(_descriptors())

    def left() -> list[str]:
        gc.collect()
        found = [_stack(thread) for thread in _busy_threads() - threads]
        now = _descriptors()
        if len(now) > descriptors:
            found += now
        if not found:
            found += [repr(each) for each in gc.get_objects() if type(each) is tcpsock.Socket]
        return found

    yield
    try:
        until(lambda: not left(), "nothing is left")
    except AssertionError as error:
        raise AssertionError("left behind:\n" + "\n".join(left())) from error


def _busy_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name != "tcpsock idle"}


def _stack(thread: threading.Thread) -> str:
    frame = sys._current_frames().get(thread.ident or 0)
    return f"{thread.name}\n" + "".join(traceback.format_stack(frame) if frame else ())


def _descriptors() -> list[str]:
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the one that listed them
            found.append(os.readlink(f"/proc/self/fd/{name}"))
    return found
