"""The two streams of a socket, and the reader and the writer that hold their locks.

These objects hold a connection and its anchor, and know how to ask; what is asked happens in
`_connection`. A lock's holder is known there by a weak reference, so that one who is dropped has
given the lock back without a word.
"""

from __future__ import annotations

import concurrent.futures
import io
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from types import EllipsisType, TracebackType
from typing import IO, TYPE_CHECKING, NoReturn, TypeAlias

from ._connection.life import Connection
from ._connection.queue import ByteQueue
from ._errors import StreamBusy, StreamLocked, number_in_words
from ._files import Buffer, RawReader, RawWriter, WriteFile, bytes_of, read_file, write_all
from ._futures import born_running
from ._hints import missing_attribute
from ._options import call_timeout

__all__ = ["Anchor", "ReadableStream", "Reader", "WritableStream", "Writer"]

Timeout: TypeAlias = "float | EllipsisType | None"

_EVERYTHING = sys.maxsize


class Anchor:
    """What every public object of a socket refers to: when it goes, the socket is dropped (E6)."""

    __slots__ = ("__weakref__", "_connection")

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def __del__(self) -> None:
        connection = getattr(self, "_connection", None)  # __init__ may have been interrupted
        if connection is not None:
            connection.drop()


class Handle:
    """A connection, seen from outside: what readers, writers and streams have in common."""

    __slots__ = ("__weakref__", "_anchor", "_connection", "_timeout")

    def __init__(self, connection: Connection, anchor: Anchor, timeout: float | None) -> None:
        self._connection = connection
        self._anchor = anchor
        self._timeout = timeout

    if not TYPE_CHECKING:  # checkers would accept every name

        def __getattr__(self, name):
            raise missing_attribute(self, name)

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"a {type(self).__name__} cannot be copied or pickled: it is this process's"
        )

    def _describe(self, what: str) -> str:
        return f"<{type(self).__name__} {self._connection.state.address} {what}>"


# -- Reading -----------------------------------------------------------------------------------


class ReadableStream(Handle):
    """What the peer sends. Get a reader, or iterate over it for chunks of bytes.

    It can be returned from a WSGI application: whoever serves it calls close() when it is done.
    """

    __slots__ = ()

    @property
    def locked(self) -> bool:
        """Whether a reader, an iteration or a pipe_to() holds the stream."""
        return self._connection.receiving.lease.held

    def get_reader(self) -> Reader:
        """Lock the stream and read from it; reading ahead begins (rule R0).

        Raises:
            StreamLocked: somebody else holds it.
            SocketClosed: after close(), abort(), detach() or start_tls(). (A connection that failed
                gives a reader, which raises the failure.)
        """
        return Reader(self._connection, self._anchor, self._timeout)

    def cancel(self, reason: object = None) -> None:
        """Throw away what came and what still comes; acts also while locked (rule R7).

        Reads give EOF, a blocked one at once. The write side goes on.
        """
        self._connection.cancel_reading()

    def pipe_to(self, dest: WritableStream | IO[bytes], *, close: bool = True) -> int:
        """Write everything to EOF into another place.

        Args:
            dest: a writable stream, which is locked meanwhile, or a binary file.
            close: half-close a writable stream at the end. A file is flushed, never closed.

        Returns:
            How many bytes were moved.

        Raises:
            What the reading or the writing side raises. The other side then stays open: only the
            caller knows whether what arrived there may look complete. A chunk that could not be
            written is put back.
        """
        if isinstance(dest, WritableStream):
            with dest.get_writer() as writer:
                moved = self._pipe(writer.write)
                if close:
                    writer.close()
            return moved
        if not hasattr(dest, "write") or isinstance(dest, io.TextIOBase):
            raise TypeError(
                f"dest must be a WritableStream or a binary file, not {type(dest).__name__}"
            )
        moved = self._pipe(partial(write_all, dest))
        dest.flush()
        return moved

    def _pipe(self, write: Callable[[bytes], object]) -> int:
        moved = 0
        with self.get_reader() as reader:
            while chunk := reader.read():
                try:
                    write(chunk)
                except BaseException:
                    self._connection.receiving.put_back(chunk)
                    raise
                moved += len(chunk)
        return moved

    def close(self) -> None:
        """Close the socket; what a WSGI server calls when the response ends, also early (F3)."""
        self._connection.close()

    def __iter__(self) -> Iterator[bytes]:
        """Chunks until EOF; the lock is held from the first one to the last."""
        return _Chunks(self)

    def __repr__(self) -> str:
        return self._describe("locked" if self.locked else "unlocked")


class _Chunks:
    """An iteration over a readable stream. Dropped in the middle, it gives the lock back."""

    def __init__(self, stream: ReadableStream) -> None:
        self._stream = stream
        self._reader: Reader | None = None
        self._over = False

    def __iter__(self) -> _Chunks:
        return self

    def __next__(self) -> bytes:
        if self._over:
            raise StopIteration
        if self._reader is None:
            self._reader = self._stream.get_reader()
        self._over = True
        try:
            chunk = self._reader.read()
            self._over = not chunk
        finally:
            if self._over:  # EOF, or an error
                self._reader.release_lock()
        if self._over:
            raise StopIteration
        return chunk


class Reader(Handle):
    """Holds the lock of a readable stream and reads from it; as a context manager, releases it.

    Each call waits until it has what it promises. `timeout` is seconds for the whole call, however
    many receives it takes; None waits for ever, 0 not at all; left out, it is the socket's. A call
    that raises ReadTimeout or LimitExceeded has consumed nothing (rule R4).

    All raise, besides what they say: StreamBusy if another thread is in the middle of a read;
    StreamLocked after release_lock(); SocketClosed (or its kin) once the socket is closed, aborted,
    upgraded or detached; ConnectionLost, TlsError or TlsTruncated after all bytes that came before
    the connection broke; and what the opening failed with.

    Attributes:
        closed: resolves when EOF was delivered or the reading cancelled; fails with what ended it.
    """

    __slots__ = ("_file", "_receiving", "closed")

    closed: concurrent.futures.Future[None]

    def __init__(self, connection: Connection, anchor: Anchor, timeout: float | None) -> None:
        super().__init__(connection, anchor, timeout)
        self.closed = born_running()
        self._receiving = connection.receiving
        self._file: object | None = None
        connection.receiving.acquire(self, self.closed)

    def read(self, max_bytes: int | None = None, *, timeout: Timeout = ...) -> bytes:
        """What is there: at least one byte, at most max_bytes; b"" at EOF, again and again."""
        if max_bytes is None:
            max_bytes = _EVERYTHING
        elif max_bytes.__class__ is not int or max_bytes < 1:
            _check_size("max_bytes", max_bytes, least=1)
        seconds = self._timeout if timeout is ... else call_timeout(timeout, None)
        holder = self if self._file is None else self._holder
        return self._receiving.read(holder, max_bytes, seconds)

    def readinto(self, buffer: Buffer, *, timeout: Timeout = ...) -> int:
        """Fill the start of a writable buffer; returns how many bytes, 0 at EOF alone.

        From the network straight into the buffer, if nothing was read ahead.

        Raises:
            ValueError: the buffer is empty; TypeError: it cannot be written to.
        """
        with bytes_of(buffer, "buffer") as view:
            if view.readonly:
                raise TypeError("buffer must be writable, such as a bytearray")
            if not view:
                raise ValueError("buffer must not be empty: 0 means EOF")
            seconds = self._timeout if timeout is ... else call_timeout(timeout, None)
            return self._receiving.readinto(self._holder, view, seconds)

    def read_exactly(self, n: int, *, timeout: Timeout = ...) -> bytes:
        """Exactly n bytes, however many that are.

        Raises:
            IncompleteRead: EOF came first; `partial` has what was left.
        """
        _check_size("n", n)

        def complete(queue: ByteQueue, eof: bool) -> bytes | None:
            if len(queue) >= n:
                return queue.take(n)
            if eof:
                rest = queue.take(n)
                raise self._receiving.incomplete(rest, n, f"all {n} bytes had come")
            return None

        return self._gather(complete, n, timeout)

    def read_until(self, separator: bytes, *, limit: int = 65536, timeout: Timeout = ...) -> bytes:
        """Everything up to a separator, and the separator itself.

        Args:
            separator: one byte or more.
            limit: bytes at most, the separator included.
            timeout: seconds for the whole call.

        Raises:
            LimitExceeded: the separator did not come within the limit; nothing is consumed.
            IncompleteRead: EOF came first; `partial` has what was left.
        """
        if not isinstance(separator, (bytes, bytearray, memoryview)):
            raise TypeError(f"separator must be bytes, not {type(separator).__name__}")
        if not separator:
            raise ValueError("separator must not be empty")
        return self._until(bytes(separator), limit, timeout, f"no {bytes(separator[:20])!r}")

    def readline(self, *, limit: int = 65536, timeout: Timeout = ...) -> bytes:
        r"""One line, its b"\n" included; at EOF what is left, then b"".

        Raises:
            LimitExceeded: the line is longer than `limit` bytes; nothing is consumed.
        """
        return self._until(b"\n", limit, timeout, None)

    def _until(self, separator: bytes, limit: int, timeout: Timeout, missing: str | None) -> bytes:
        """`missing` is what an IncompleteRead says; None: what is left is a line of its own."""
        _check_size("limit", limit, least=1)
        searched = 0  # no byte is looked at twice

        def complete(queue: ByteQueue, eof: bool) -> bytes | None:
            nonlocal searched
            found = queue.find(separator, searched, limit)
            if found >= 0:
                return queue.take(found + len(separator))
            if len(queue) >= limit:
                what = f"{missing or 'no end of the line'} came"
                raise self._receiving.beyond_limit(limit, what)
            if eof:
                rest = queue.take(len(queue))
                if missing is None:
                    return rest
                raise self._receiving.incomplete(rest, None, f"{separator[:20]!r} had come")
            searched = max(0, len(queue) - len(separator) + 1)
            return None

        return self._gather(complete, limit, timeout)

    def read_all(self, *, limit: int | None = None, timeout: Timeout = ...) -> bytes:
        """Everything to EOF.

        Args:
            limit: bytes at most; None is no limit, and then the peer decides about your memory.
            timeout: seconds for the whole call.

        Raises:
            LimitExceeded: there is more; nothing is consumed.
        """
        if limit is not None:
            _check_size("limit", limit)

        def complete(queue: ByteQueue, eof: bool) -> bytes | None:
            if limit is not None and len(queue) > limit:
                raise self._receiving.beyond_limit(limit, "no EOF came")
            if not eof:
                return None
            self._receiving.deliver_eof()
            return queue.take(len(queue))

        return self._gather(complete, _EVERYTHING if limit is None else limit + 1, timeout)

    def peek(self, n: int = 1, *, timeout: Timeout = ...) -> bytes:
        """The next n bytes, which stay to be read; fewer only at EOF."""
        _check_size("n", n, least=1)

        def complete(queue: ByteQueue, eof: bool) -> bytes | None:
            return queue.peek(n) if eof or len(queue) >= n else None

        return self._gather(complete, n, timeout)

    def as_file(self, *, buffering: int = 65536) -> io.BufferedReader:
        """A binary file over this reader, for csv, pickle, TextIOWrapper and small reads.

        It holds the lock, and this reader must not be used, until it is closed; then bytes that it
        has not given out go back into the stream, and the lock is released. After a ReadTimeout the
        file raises OSError, as that of socket.makefile() does, and the socket lives on.

        Args:
            buffering: bytes to read at once, 1 or more.
        """
        _check_size("buffering", buffering, least=1)
        self._receiving.lease.check(self._holder)
        raw = RawReader(self, self._connection, self._timeout, self._give_file_up)
        file = read_file(raw, buffering)
        self._file = self._receiving.held_by_file = raw.in_file
        return file

    def _give_file_up(self, unread: bytes) -> None:
        self._receiving.put_back(unread)
        self._file = self._receiving.held_by_file = None
        self._receiving.release(self)

    def cancel(self, reason: object = None) -> None:
        """Give the inbound data up, as ReadableStream.cancel() does."""
        self._receiving.lease.check(self)
        self._connection.cancel_reading()

    def release_lock(self) -> None:
        """Give the stream's lock back; what was read ahead stays in the stream.

        Raises:
            StreamBusy: a read is in progress, or an as_file() is open; the lock is still held.
        """
        if self._file is not None:
            raise StreamBusy(
                f"{self._connection.state.address}: this reader's as_file() is open, and holds the"
                " lock until it is closed",
                phase="read",
                address=self._connection.state.address,
            )
        self._receiving.release(self)

    @property
    def _holder(self) -> Reader:
        if self._file is not None:
            raise StreamLocked(
                f"{self._connection.state.address}: this reader's as_file() is open; close it"
                " before you use the reader",
                phase="read",
                address=self._connection.state.address,
            )
        return self

    def _gather(
        self, complete: Callable[[ByteQueue, bool], bytes | None], reach: int, timeout: Timeout
    ) -> bytes:
        seconds = self._timeout if timeout is ... else call_timeout(timeout, None)
        return self._receiving.gather(self._holder, seconds, complete, reach)

    def __iter__(self) -> Iterator[bytes]:
        """Chunks until EOF; the lock stays held."""
        return iter(self.read, b"")

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._file is None:  # else it has the lock, until it is closed
            self.release_lock()

    def __repr__(self) -> str:
        return self._describe("locked" if self._receiving.lease.is_held_by(self) else "released")


# -- Writing -----------------------------------------------------------------------------------


class WritableStream(Handle):
    """What is sent to the peer. Get a writer."""

    __slots__ = ()

    @property
    def locked(self) -> bool:
        """Whether a writer or a pipe_to() holds the stream."""
        return self._connection.sending.lease.held

    def get_writer(self) -> Writer:
        """Lock the stream and write to it.

        Raises:
            StreamLocked: somebody else holds it.
            SocketClosed: after close(), abort(), detach() or start_tls().
        """
        return Writer(self._connection, self._anchor, self._timeout)

    def close(self) -> None:
        """Half-close, as Writer.close() does; acts also while locked."""
        self._connection.close_writing()

    def abort(self, reason: object = None) -> None:
        """End the whole connection at once, with a reset, as Socket.abort() does."""
        self._connection.abort(reason)

    def __repr__(self) -> str:
        return self._describe("locked" if self.locked else "unlocked")


class Writer(Handle):
    """Holds the lock of a writable stream and writes to it; as a context manager, releases it.

    Attributes:
        closed: resolves when close() has sent what there was and FIN, or the peer's end has closed
            the write side; fails with what ended it.
    """

    __slots__ = ("_file", "_sending", "closed")

    closed: concurrent.futures.Future[None]

    def __init__(self, connection: Connection, anchor: Anchor, timeout: float | None) -> None:
        super().__init__(connection, anchor, timeout)
        self.closed = born_running()
        self._sending = connection.sending
        self._file: object | None = None
        connection.sending.acquire(self, self.closed)

    def write(self, data: Buffer, *, timeout: Timeout = ...) -> None:
        """Send all of it; returns when the kernel has taken the last byte.

        Writes of several threads take turns, each goes out whole (rule W2).

        Args:
            data: any bytes-like object, of any C-contiguous format; not a str.
            timeout: seconds, the wait for other writes and for `opened` included; None is no limit,
                left out it is the socket's.

        Raises:
            WriteTimeout: while waiting for its turn, nothing was sent and the connection lives.
                After that the connection is reset, since nobody can know how much the peer got;
                `bytes_written` is how many bytes the kernel took (over TLS an upper bound).
            ConnectionLost: the peer is gone, or has closed (rule E1). SocketClosed: closed here.
        """
        seconds = self._timeout if timeout is ... else call_timeout(timeout, None)
        holder = self if self._file is None else self._holder
        if data.__class__ is bytes:
            self._sending.write(holder, data, seconds)
        else:
            with bytes_of(data, "data") as view:
                self._sending.write(holder, view, seconds)

    def writelines(self, chunks: Iterable[Buffer], *, timeout: Timeout = ...) -> None:
        """Send several pieces as one write."""
        if isinstance(chunks, (str, bytes, bytearray, memoryview)):
            raise TypeError(
                f"chunks must be an iterable of bytes-like objects, not {type(chunks).__name__}"
            )
        gathered = bytearray()
        for chunk in chunks:
            with bytes_of(chunk, "each chunk") as view:
                gathered += view
        self.write(gathered, timeout=timeout)

    def as_file(self, *, buffering: int = 65536) -> io.BufferedWriter:
        """A binary file over this writer, for csv, pickle, TextIOWrapper and small writes.

        It holds the lock, and this writer must not be used, until it is closed: that flushes it and
        releases the lock, and never half-closes.

        Args:
            buffering: bytes to collect before they are sent, 1 or more.
        """
        _check_size("buffering", buffering, least=1)
        self._sending.lease.check(self._holder)
        self._file = raw = RawWriter(self, self._connection, self._timeout, self._give_file_up)
        return WriteFile(raw, buffering)

    def _give_file_up(self) -> None:
        self._file = None
        self._sending.release(self)

    def close(self) -> None:
        """Half-close: FIN after the write in progress, over TLS close_notify first (rule W3).

        Returns at once. Reading goes on and loses nothing; later writes raise SocketClosed. Closing
        again does nothing.
        """
        self._sending.lease.check(self)
        self._connection.close_writing()

    def abort(self, reason: object = None) -> None:
        """End the whole connection at once, with a reset, as Socket.abort() does."""
        self._sending.lease.check(self)
        self._connection.abort(reason)

    def release_lock(self) -> None:
        """Give the stream's lock back.

        Raises:
            StreamBusy: a write is in progress, or an as_file() is open; the lock is still held.
        """
        if self._file is not None:
            raise StreamBusy(
                f"{self._connection.state.address}: this writer's as_file() is open, and holds the"
                " lock until it is closed",
                phase="write",
                address=self._connection.state.address,
            )
        self._sending.release(self)

    @property
    def _holder(self) -> Writer:
        if self._file is not None:
            raise StreamLocked(
                f"{self._connection.state.address}: this writer's as_file() is open; close it"
                " before you use the writer",
                phase="write",
                address=self._connection.state.address,
            )
        return self

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._file is None:  # else it has the lock, until it is closed
            self.release_lock()

    def __repr__(self) -> str:
        return self._describe("locked" if self._sending.lease.is_held_by(self) else "released")


def _check_size(name: str, size: object, *, least: int = 0) -> None:
    if isinstance(size, bool) or not isinstance(size, int):
        raise TypeError(f"{name} must be an int, not {type(size).__name__}")
    if size < least:
        raise ValueError(f"{name} must be {least} or more, not {number_in_words(size)}")
