"""Readers and writers as binary files: C speed for small pieces, over the same connection.

The buffers are io's own. What is added is how they end: closing a file gives back what it holds.
"""

from __future__ import annotations

import contextlib
import io
import sys
import warnings
import weakref
from collections.abc import Callable
from typing import IO, TYPE_CHECKING, Any

from ._connection.life import Connection
from ._errors import ReadTimeout

if sys.version_info >= (3, 12):
    from collections.abc import Buffer
elif TYPE_CHECKING:
    from typing_extensions import Buffer
else:
    Buffer = object  # annotations are all that it is used in

__all__ = ["Buffer", "RawReader", "RawWriter", "WriteFile", "bytes_of", "read_file", "write_all"]


class _DroppableFile:
    """A file that is closed when it is dropped, as files are, so a writer's is flushed.

    Not at interpreter exit, where that might wait for ever; and not where the finalizer has
    interrupted the connection's own steps: what a flush waits for may be in the same thread.
    """

    closed: bool
    raw: Any

    def __del__(self) -> None:
        try:
            raw = self.raw
        except ValueError:
            return  # detached
        if raw is None or self.closed or sys.is_finalizing():
            return
        if raw.connection.state.interrupted:
            warnings.warn("a file of a tcpsock stream was dropped unclosed", ResourceWarning, 2)
        else:
            # ValueError: an exception came into an earlier close()
            with contextlib.suppress(OSError, ValueError):
                self.close()  # type: ignore[attr-defined]  # io's own, or the subclass'


class _Raw(io.RawIOBase):
    """What stands below a buffer. Its buffer closes it; its own finalizer, which may come first,
    must not."""

    def __del__(self) -> None:
        pass


class RawReader(_Raw):
    """What stands below a reader's buffered file.

    Args:
        holder: who holds the stream's lock.
        connection: where to receive.
        timeout: seconds for each receive, or None.
        give_up: called once with the bytes that the file has not given out.

    Attributes, those of the one thread that uses the file (in_file() may be asked by another: it
    is true of that moment):
        given: how many bytes the buffer has had from here.
        begun_at: where in these the operation in progress, or the last one, began.
        log: the last of them, at least from there on.
        timed_out: the file is of no more use, as one of socket.makefile() after a timeout.
        shut: the buffer is asked for what it holds: nothing more is to be had.
        file: the buffer above; it keeps this one alive.
    """

    file: weakref.ref[io.BufferedReader]

    def __init__(
        self,
        holder: object,
        connection: Connection,
        timeout: float | None,
        give_up: Callable[[bytes], None],
    ) -> None:
        self.connection = connection
        self.timeout = timeout
        self.give_up = give_up
        self.given = 0
        self.begun_at = 0
        self.log = bytearray()
        self.timed_out = False
        self.shut = False
        self._holder = holder

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        """So that the buffer's own tell() gives its user's position."""
        return self.given

    def readinto(self, buffer: Buffer, /) -> int | None:
        if self.shut:
            return None
        if self.timed_out:
            raise OSError("cannot read on: an earlier read of this file timed out")
        with memoryview(buffer) as whole, whole.cast("B") as view:
            if not view:
                return 0
            try:
                got = self.connection.receiving.readinto(self._holder, view, self.timeout)
            except ReadTimeout:
                self.timed_out = True
                raise
            if self.timeout is not None:
                del self.log[: len(self.log) - (self.given - self.begun_at)]
                self.log += view[:got]
            self.given += got
            return got

    def in_file(self) -> int:
        """How many bytes the file has had from here and not given out; it doesn't wait."""
        file = self.file()
        try:
            return 0 if file is None else self.given - file.tell()
        except ValueError:
            return 0  # closed or detached just now

    def ungiven(self) -> bytes:
        """What the buffer has had since the operation began, and what was in it by then."""
        return bytes(self.log[len(self.log) - (self.given - self.begun_at) :])


class _ReadFile(_DroppableFile, io.BufferedReader):
    """Closing it returns what it holds to the stream (rule R3)."""

    raw: RawReader

    def held(self) -> bytes:
        """What is in the buffer, without receiving."""
        self.raw.shut = True
        try:
            return self.peek()
        except ValueError:  # detached
            return b""
        finally:
            self.raw.shut = False

    def close(self) -> None:
        if not self.closed:
            unread = self.raw.ungiven() if self.raw.timed_out else self.held()
            self.raw.give_up(unread)
        super().close()


class _TimedReadFile(_ReadFile):
    """One whose reads may time out: what they had gathered by then is not lost (rule R4).

    The buffer forgets it. So it is kept below, from where each operation begins.
    """

    def _begin(self) -> None:
        if not self.raw.timed_out:  # else it raises, and what was gathered stays
            self.raw.begun_at = self.tell()

    def peek(self, size: int = 0, /) -> bytes:
        self._begin()
        return super().peek(size)

    def read(self, size: int | None = -1, /) -> bytes:
        self._begin()
        return super().read(size)

    def read1(self, size: int = -1, /) -> bytes:
        self._begin()
        return super().read1(size)

    def readinto(self, buffer: Buffer, /) -> int:
        self._begin()
        return super().readinto(buffer)

    def readinto1(self, buffer: Buffer, /) -> int:
        self._begin()
        return super().readinto1(buffer)

    def readline(self, size: int | None = -1, /) -> bytes:  # iteration calls it, too
        self._begin()
        return super().readline(size)

    def readlines(self, hint: int | None = -1, /) -> list[bytes]:
        self._begin()
        most = hint if hint is not None and hint > 0 else sys.maxsize
        lines: list[bytes] = []
        while line := super().readline():  # all one operation: none is given out before the last
            lines.append(line)
            most -= len(line)
            if most < 0:
                break
        return lines


def read_file(raw: RawReader, buffering: int) -> io.BufferedReader:
    """The file over a raw reader."""
    file = _ReadFile(raw, buffering) if raw.timeout is None else _TimedReadFile(raw, buffering)
    raw.file = weakref.ref(file)
    return file


class RawWriter(_Raw):
    """What stands below a writer's buffered file; arguments as RawReader's."""

    def __init__(
        self,
        holder: object,
        connection: Connection,
        timeout: float | None,
        give_up: Callable[[], None],
    ) -> None:
        self.connection = connection
        self._holder = holder
        self._timeout = timeout
        self._give_up = give_up

    def writable(self) -> bool:
        return True

    def write(self, data: Buffer, /) -> int:
        with bytes_of(data, "data") as view:
            self.connection.sending.write(self._holder, view, self._timeout)
            return len(view)

    def close(self) -> None:
        if not self.closed:
            self._give_up()
        super().close()


class WriteFile(_DroppableFile, io.BufferedWriter):
    """Closing it flushes, and gives the stream's lock back."""

    raw: RawWriter


def bytes_of(data: Buffer, name: str) -> memoryview:
    """A view of single bytes of anything that has bytes.

    Raises:
        TypeError: it has none; ValueError: they are not in one piece.
    """
    try:
        view = memoryview(data)
    except TypeError:
        hint = ": .encode() it" if isinstance(data, str) else ""
        raise TypeError(f"{name} must be bytes-like, not {type(data).__name__}{hint}") from None
    if view.format == "B" and view.ndim == 1 and view.c_contiguous:
        return view
    if not view.c_contiguous:
        raise ValueError(f"{name} must be C-contiguous")
    return view.cast("B") if view.nbytes else memoryview(b"")


def write_all(file: IO[bytes], chunk: bytes) -> None:
    """Write all of it; an unbuffered file may take less than it is given."""
    view = memoryview(chunk)
    while view:
        taken = file.write(view)
        view = view[len(view) if taken is None else taken :]
