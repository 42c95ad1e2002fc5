"""The calls that read, and what each must give for the bytes that are there."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

import tcpsock
from tcpsock import IncompleteRead, LimitExceeded

__all__ = [
    "CALLS",
    "FILE_CALLS",
    "GATHERS",
    "SEARCHES",
    "TAKES",
    "Answer",
    "FileCall",
    "Peek",
    "Read",
    "ReadAnything",
    "ReadCall",
    "ReadExactly",
    "ReadUntil",
]

# The read calls ---------------------------------------------------------------------------------


@dataclass
class Answer:
    """What a call must give, when everything that was sent is there."""

    value: bytes = b""
    takes: int | None = None  # how many bytes are consumed; None: as many as are returned
    part: bool = False  # any beginning of the value will do, save none at all
    error: type[tcpsock.SocketError] | None = None
    attributes: dict[str, object] = field(default_factory=dict)
    at_eof: bool = False  # after this, the reader knows that there is no more

    def fits(self, outcome: bytes | BaseException) -> bool:
        """Whether this is what was returned or raised."""
        if self.error is not None:
            return type(outcome) is self.error and self.attributes.items() <= vars(outcome).items()
        if self.part:
            return isinstance(outcome, bytes) and outcome != b"" and self.value.startswith(outcome)
        return outcome == self.value


@dataclass(frozen=True)
class ReadCall:
    """One call with its arguments."""

    n: int

    def __call__(self, reader: tcpsock.Reader, **timeout: Any) -> bytes:
        raise NotImplementedError

    def answer(self, unread: bytes, eof: bool) -> Answer | None:
        """What it must give; None: it has to wait for more, or for what has ended the stream."""
        raise NotImplementedError

    @property
    def reach(self) -> int:
        """How many bytes may be read ahead for it (rule R4)."""
        return self.n


class Read(ReadCall):
    def __call__(self, reader: tcpsock.Reader, **timeout: Any) -> bytes:
        return reader.read(self.n, **timeout)

    def answer(self, unread: bytes, eof: bool) -> Answer | None:
        if unread:
            return Answer(unread[: self.n], part=True)
        return Answer(at_eof=True) if eof else None

    reach = 0  # it asks for what is there


class ReadAnything(Read):
    def __call__(self, reader: tcpsock.Reader, **timeout: Any) -> bytes:
        return reader.read(**timeout)

    def answer(self, unread: bytes, eof: bool) -> Answer | None:
        return Read(len(unread)).answer(unread, eof)


class ReadInto(Read):
    def __call__(self, reader: tcpsock.Reader, **timeout: Any) -> bytes:
        buffer = bytearray(b"\xaa" * (self.n + 2))
        with memoryview(buffer)[1:-1] as view:
            got = reader.readinto(view, **timeout)
        assert buffer[0] == buffer[-1] == 0xAA
        return bytes(buffer[1 : 1 + got])


class ReadExactly(ReadCall):
    def __call__(self, reader: tcpsock.Reader, **timeout: Any) -> bytes:
        return reader.read_exactly(self.n, **timeout)

    def answer(self, unread: bytes, eof: bool) -> Answer | None:
        if len(unread) >= self.n:
            return Answer(unread[: self.n])
        return _incomplete(unread, self.n) if eof else None


def _incomplete(partial: bytes, expected: int | None) -> Answer:
    attributes = {"partial": partial, "expected": expected}
    return Answer(takes=len(partial), error=IncompleteRead, attributes=attributes, at_eof=True)


@dataclass(frozen=True)
class ReadUntil(ReadCall):
    separator: bytes = b"\n"

    def __call__(self, reader: tcpsock.Reader, **timeout: Any) -> bytes:
        return reader.read_until(self.separator, limit=self.n, **timeout)

    def answer(self, unread: bytes, eof: bool) -> Answer | None:
        line, found, _ = unread[: self.n].partition(self.separator)
        if found:
            return Answer(line + found)
        if len(unread) >= self.n:
            return Answer(error=LimitExceeded)
        return self.rest(unread) if eof else None

    def rest(self, unread: bytes) -> Answer:
        """What it gives at EOF."""
        return _incomplete(unread, None)


class ReadLine(ReadUntil):
    def __call__(self, reader: tcpsock.Reader, **timeout: Any) -> bytes:
        return reader.readline(limit=self.n, **timeout)

    def rest(self, unread: bytes) -> Answer:
        return Answer(unread, at_eof=not unread)


class ReadAll(ReadCall):
    def __call__(self, reader: tcpsock.Reader, **timeout: Any) -> bytes:
        return reader.read_all(limit=self.n, **timeout)

    def answer(self, unread: bytes, eof: bool) -> Answer | None:
        if len(unread) > self.n:
            return Answer(error=LimitExceeded)
        return Answer(unread, at_eof=True) if eof else None

    @property
    def reach(self) -> int:
        return self.n + 1  # to see that there is more


class Peek(ReadCall):
    def __call__(self, reader: tcpsock.Reader, **timeout: Any) -> bytes:
        return reader.peek(self.n, **timeout)

    def answer(self, unread: bytes, eof: bool) -> Answer | None:
        if eof or len(unread) >= self.n:
            return Answer(unread[: self.n], takes=0, at_eof=not unread)
        return None


SIZES = st.integers(1, 20) | st.sampled_from([100, 1000, 16_383, 16_384, 16_385, 18_000])
LIMITS = st.just(65_536) | st.just(65_536) | SIZES
SEPARATORS = st.sampled_from([b"\n", b"\r\n", b"ab", b"\r\n\r\n", b"\n\n", b"aab"]) | st.binary(
    min_size=1, max_size=4
)
TAKES = st.one_of(
    st.builds(Read, SIZES),
    st.just(ReadAnything(0)),
    st.builds(ReadInto, SIZES),
)
SEARCHES = st.builds(ReadUntil, LIMITS, SEPARATORS) | st.builds(ReadLine, LIMITS)
GATHERS = st.one_of(
    SEARCHES,
    st.builds(ReadExactly, SIZES),
    st.builds(ReadAll, LIMITS),
    st.builds(Peek, SIZES),
)
CALLS = TAKES | GATHERS


# The calls of a reader's file -------------------------------------------------------------------


@dataclass(frozen=True)
class FileCall:
    """One call of a buffered file."""

    name: str
    n: int = -1

    def __call__(self, file: io.BufferedReader) -> bytes:
        if self.name in ("readinto", "readinto1"):
            buffer = bytearray(self.n)
            return bytes(buffer[: getattr(file, self.name)(buffer)])
        if self.name == "next":
            return next(file, b"")
        if self.name == "readlines":
            return b"".join(file.readlines())
        return getattr(file, self.name)(self.n)

    @property
    def part(self) -> bool:
        """Whether it may give less than it could."""
        return self.name in ("read1", "readinto1", "peek")

    def most(self, unread: bytes) -> bytes:
        """The most that it may give."""
        if self.name in ("readline", "next"):
            line, end, _ = unread.partition(b"\n")
            unread = line + end
        return unread[: self.n] if self.n >= 0 and self.name != "peek" else unread

    def certain(self, unread: bytes, eof: bool, buffering: int) -> bool:
        """Whether it comes to its end with what is there."""
        if eof:
            return True
        if self.name == "readinto1" and self.n > buffering:
            return False  # io reads on into a large buffer, though it has something to give
        if self.part:
            return bool(unread)
        if self.name in ("readline", "next"):
            return b"\n" in unread or 0 <= self.n <= len(unread)
        return self.n >= 0 and len(unread) >= self.n


FILE_CALLS = st.one_of(
    st.builds(FileCall, st.sampled_from(["read", "read1", "readinto", "readinto1"]), SIZES),
    st.builds(FileCall, st.just("readline"), st.just(-1) | SIZES),
    st.sampled_from([FileCall("next"), FileCall("peek", 1)]),
    st.sampled_from([FileCall("read"), FileCall("readlines")]),
)
