"""Whatever a peer sends, however it ends, and in whatever way it is read: a Reader gives the bytes.

The model is a run of bytes that were sent and not read yet, and what comes after them. It says what
each call must return or raise once all of that has arrived. Nothing sleeps: either the answer is
certain and the call may wait for it, or it isn't and the call must time out and lose nothing.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition
from peers import WAIT, Call, pattern, until, until_all_arrived

import tcpsock
from tcpsock import IncompleteRead, LimitExceeded, ReadTimeout, StreamLocked
from tcpsock._connection import life
from tcpsock._wire.wire import Wire

from .machines import NotedMachine, step

ROOM = 20_000  # bytes unread at most: so many fit into our kernel's buffer, so no send ever waits


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
LIMITS = SIZES | st.just(65_536)
SEPARATORS = st.sampled_from([b"\n", b"\r\n", b"\r\n\r\n", b"\n\n", b"ab", b"aab"]) | st.binary(
    min_size=1, max_size=4
)
TAKES = st.one_of(
    st.builds(Read, SIZES),
    st.just(ReadAnything(0)),
    st.builds(ReadInto, SIZES),
)
GATHERS = st.one_of(
    st.builds(ReadExactly, SIZES),
    st.builds(ReadUntil, LIMITS, SEPARATORS),
    st.builds(ReadLine, LIMITS),
    st.builds(ReadAll, LIMITS),
    st.builds(Peek, SIZES),
)
CALLS = TAKES | GATHERS
TIMINGS = st.sampled_from(["patient", "default", "now", 0.001, 0.01])


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

# What the peer sends ----------------------------------------------------------------------------

# Bytes, with separators that begin in one piece and end in the next; or so many of an endless
# sequence, in which a lost or doubled byte shows.
TEXTS = st.lists(
    st.sampled_from([b"a", b"ab", b"\r", b"\n", b"\r\n", b"\r\n\r", b"x\nyy\nz"])
    | st.integers(1, 9),
    min_size=1,
    max_size=6,
)
BULKS = st.lists(
    st.sampled_from([999, 1000, 1001, 16_383, 16_384, 16_385]) | st.integers(10, 3000),
    min_size=1,
    max_size=3,
)
PIECES = TEXTS | BULKS
CUTS = st.lists(st.integers(0, 5000), max_size=4)

EOF = "EOF"


class ReaderMachine(NotedMachine):
    """Every way to send and to end, every way to read, and the bytes that it must come to."""

    def __init__(self, connect: Any) -> None:
        super().__init__()
        self.connect = connect
        self.grace = life.GRACE
        self.sock: tcpsock.Socket | None = None

    @step(
        by=initialize,
        transport=st.sampled_from(["plain", "tls12", "tls13"]),
        mark=st.sampled_from([1, 7, 1000, 16_383, 16_384, 16_385, 1 << 20]),
        half_open=st.booleans(),
        allow_truncation=st.booleans(),
        default=st.sampled_from([None, 0, WAIT]),
        eager=st.booleans(),
        early=st.just([]) | PIECES,
        early_end=st.sampled_from([None] * 12 + ["end", "notify", "cut", "reset"]),
    )
    def open(
        self,
        transport: str,
        mark: int,
        half_open: bool,
        allow_truncation: bool,
        default: float | None,
        eager: bool,
        early: list[bytes | int],
        early_end: str | None,
    ) -> None:
        """`default` is the socket's timeout. `eager`: the thread reads ahead without a grace.

        `early` and `early_end` come before anybody reads (rule R0).
        """
        if eager:
            life.GRACE = 0.0  # type: ignore[misc]  # it is final for everybody else
        self.sock, self.peer = self.connect(
            transport,
            tls={"allow_truncation": allow_truncation},
            high_water_mark=mark,
            allow_half_open=half_open,
            timeout=default,
        )
        self.tls = transport != "plain"
        self.mark, self.default, self.allow_truncation = mark, default, allow_truncation
        self.unread = b""
        self.end: str | type[tcpsock.SocketError] | None = None  # what comes after `unread`
        self.sent = 0  # how much of the endless sequence
        self.half_sent: tuple[bytes, bytes] | None = None  # the rest of a record; what is in it
        self.consumed = 0
        self.allowed = mark  # bytes that may be read ahead
        self.begun = False  # somebody has asked for bytes (rule R0)
        self.given_up = False  # cancel() was called
        self.cancelled = False  # and nothing had broken before
        self.ended_well = False  # by FIN, over TLS by close_notify
        self.broken_late = False  # reset, after its end
        self.reader: tcpsock.Reader | None = None
        self.eof_known = False  # to the present reader
        if early:
            self._send(self._make(early))
        if early_end:
            self._end_it(early_end)

    # -- The peer -------------------------------------------------------------------------------

    def _make(self, pieces: list[bytes | int]) -> list[bytes]:
        """The pieces' bytes, as far as there is room."""
        made: list[bytes] = []
        for piece in pieces:
            if isinstance(piece, int):
                made.append(pattern(piece, self.sent))
                self.sent += piece
            else:
                made.append(piece)
            if len(self.unread) + sum(map(len, made)) > ROOM:
                made.pop()
        return made

    def _send(self, pieces: list[bytes], cuts: list[int] | None = None) -> None:
        """Each piece in a record of its own; the network cuts where it likes."""
        raw, sent = b"", b""
        if self.half_sent is not None:
            raw, sent = self.half_sent
            self.half_sent = None
        raw += self.peer.records(*pieces)
        for start, end in itertools.pairwise([0, *sorted(cuts or []), len(raw)]):
            self.peer.send_raw(raw[start:end])
        self._count_as_sent(sent + b"".join(pieces))

    def _count_as_sent(self, data: bytes) -> None:
        if not self.cancelled:
            self.unread += data

    @precondition(lambda self: self.end is None)
    @step(pieces=TEXTS, cuts=CUTS)
    def send_text(self, pieces: list[bytes | int], cuts: list[int]) -> None:
        self._send(self._make(pieces), cuts)

    @precondition(lambda self: self.end is None)
    @step(pieces=BULKS, cuts=CUTS)
    def send_bulk(self, pieces: list[bytes | int], cuts: list[int]) -> None:
        self._send(self._make(pieces), cuts)

    @precondition(lambda self: self.tls and self.end is None and self.half_sent is None)
    @step(size=st.integers(1, 3000), share=st.floats(0, 1))
    def send_half_a_record(self, size: int, share: float) -> None:
        data = b"".join(self._make([size]))
        if not data:
            return
        raw = self.peer.records(data)
        cut = int((len(raw) - 1) * share)
        self.peer.send_raw(raw[:cut])
        self.half_sent = raw[cut:], data

    @precondition(lambda self: self.end is None and len(self.steps) > 10)
    @step(how=st.sampled_from(["end", "notify", "cut", "reset"]))
    def end_it(self, how: str) -> None:
        self._end_it(how)

    def _end_it(self, how: str) -> None:
        """`cut` is FIN without close_notify, and perhaps in the middle of a record."""
        if not self.tls and how in ("notify", "cut"):
            how = "end"
        if self.half_sent is not None and how in ("end", "notify"):
            self._send([])
        getattr(self.peer, how)()
        self.ended_well = how in ("end", "notify")
        if self.end is not EOF:  # which stays, after cancel()
            self.end = self._meaning_of(how)

    def _meaning_of(self, how: str) -> str | type[tcpsock.SocketError]:
        if how == "reset":
            return tcpsock.ConnectionLost
        if how == "cut" and not self.allow_truncation:
            return tcpsock.TlsTruncated
        return EOF

    @precondition(lambda self: self.ended_well and not self.given_up and not self.broken_late)
    @step()
    def reset_after_the_end(self) -> None:
        """What came before it was complete, and stays so.

        (Not so if TLS ended without close_notify: the kernel's word that FIN came first goes to
        OpenSSL's alert about that, so it may count as lost. That is the safe side.)
        """
        self.peer.reset()
        self.broken_late = True

    @precondition(lambda self: self.begun and not self.given_up)
    @step()
    def all_that_may_be_is_read_ahead(self) -> None:
        assert self.sock is not None
        stats_of = self.sock
        least = min(len(self.unread), max(1, self.mark // 2))
        until(lambda: stats_of.stats.bytes_buffered >= least, f"{least} bytes are read ahead")

    # -- Locks ----------------------------------------------------------------------------------

    def _locked(self) -> tcpsock.Reader:
        """The reader, a new one if there is none."""
        assert self.sock is not None
        if self.reader is None:
            self.reader = self.sock.readable.get_reader()
            self.begun = True
            self.eof_known = self.cancelled
        return self.reader

    @step(how=st.sampled_from(["lock", "release", "release", "drop"]))
    def lock_or_release(self, how: str) -> None:
        reader = self._locked()
        assert self._readable.locked
        with pytest.raises(StreamLocked):
            self._readable.get_reader()
        if how == "lock":
            return
        if how == "release":
            pending = self._may_be_pending and not reader.closed.done()
            reader.release_lock()
            if pending:
                assert isinstance(reader.closed.exception(WAIT), StreamLocked)
            for call in (Read(1), ReadExactly(1), Peek(1)):
                assert type(_outcome(call, reader, timeout=0)) is StreamLocked
        self.reader = None
        del reader
        assert not self._readable.locked

    @property
    def _was_reset(self) -> bool:
        return self.end is tcpsock.ConnectionLost or self.broken_late

    @property
    def _may_be_pending(self) -> bool:
        """Whether `closed` has nothing to tell yet but that EOF was delivered, if it was."""
        return self.end in (None, EOF) and not self.broken_late

    # -- Reading --------------------------------------------------------------------------------

    @step(call=TAKES, timing=TIMINGS)
    def take(self, call: ReadCall, timing: str | float) -> None:
        self._read(call, timing)

    @step(call=GATHERS, timing=TIMINGS)
    def gather(self, call: ReadCall, timing: str | float) -> None:
        self._read(call, timing)

    def _read(self, call: ReadCall, timing: str | float) -> None:
        reader = self._locked()
        certain = self._answer(call) is not None
        seconds: float | None
        if timing == "default" and (certain or self.default == 0):
            timeout, seconds = {}, self.default
        else:
            seconds = timing if isinstance(timing, float) else 0
            if timing == "patient" and certain:
                seconds = WAIT
            timeout = {"timeout": seconds}
        # What is not read ahead yet may come too late for a small timeout.
        may_time_out = not certain or (
            seconds in (0, 0.001, 0.01) and call.answer(self._buffered(), False) is None
        )
        self.allowed = max(self.allowed, call.reach)
        self._check(call, may_time_out, _outcome(call, reader, **timeout))

    @precondition(lambda self: self.end is None)
    @step(
        call=CALLS,
        pieces=PIECES,
        cuts=CUTS,
        how=st.sampled_from([None] * 9 + ["end", "cut", "reset"]),
        patient=st.booleans(),
    )
    def read_while_it_comes(
        self,
        call: ReadCall,
        pieces: list[bytes | int],
        cuts: list[int],
        how: str | None,
        patient: bool,
    ) -> None:
        reader = self._locked()
        self.allowed = max(self.allowed, call.reach)
        made = self._make(pieces)
        before = self.unread, self.end
        late = self.half_sent[1] if self.half_sent else b""
        self._count_as_sent(late + b"".join(made))
        if how is not None and not self.cancelled:
            self.end = self._meaning_of(how if self.tls or how == "reset" else "end")
        certain = self._answer(call) is not None
        after = self.end
        self.unread, self.end = before

        seconds = WAIT if certain and patient else 0.01
        running = Call(call, reader, timeout=seconds)
        self._send(made, cuts)
        if how is not None:
            self._end_it(how)
        assert self.end == after
        self._check(call, seconds < WAIT, running.error() or running.result())

    @precondition(lambda self: self.end is None and not self.given_up)
    @step(calls=st.lists(CALLS, min_size=1, max_size=4), size=st.integers(50_000, 400_000))
    def read_while_much_comes(self, calls: list[ReadCall], size: int) -> None:
        """More than the kernel holds: the peer is stalled and goes on, many times."""
        reader = self._locked()
        self._send([])
        data = pattern(size, self.sent)
        self.sent += size
        self.unread += data
        sending = Call(self.peer.send, data)
        for call in calls * 10:
            if self._answer(call) is not None:
                self.allowed = max(self.allowed, call.reach)
                self._check(call, False, _outcome(call, reader, timeout=WAIT))
        if len(self.unread) > ROOM // 2:
            rest = ReadExactly(len(self.unread) - ROOM // 2)
            self.allowed = max(self.allowed, rest.reach)
            self._check(rest, False, _outcome(rest, reader, timeout=WAIT))
        sending.result()

    def _answer(self, call: ReadCall) -> Answer | None:
        answer = call.answer(self.unread, self.end is EOF)
        if answer is None and isinstance(self.end, type):
            return Answer(error=self.end, takes=0)
        return answer

    def _buffered(self) -> bytes:
        assert self.sock is not None
        return self.unread[: self.sock.stats.bytes_buffered]

    def _check(self, call: ReadCall, may_time_out: bool, outcome: bytes | BaseException) -> None:
        """What a call has come to is what the model says, or a timeout where there may be one."""
        answer = self._answer(call)
        if isinstance(outcome, ReadTimeout):
            assert may_time_out, f"{call} timed out, where it must give {answer}"
            return
        assert answer is not None, f"{call} gave {outcome!r} where it had to wait"
        assert answer.fits(outcome), f"{call} gave {outcome!r} for {answer}"
        returned = len(outcome) if isinstance(outcome, bytes) else 0
        self._consume(returned if answer.takes is None else answer.takes)
        self.eof_known = self.eof_known or answer.at_eof

    def _consume(self, n: int) -> None:
        self.unread = self.unread[n:]
        self.consumed += n

    @step(chunks=st.integers(1, 3), by_stream=st.booleans())
    def iterate(self, chunks: int, by_stream: bool) -> None:
        assert self.sock is not None
        iterator: Iterator[bytes]
        if by_stream:
            self.reader = None
            iterator = iter(self.sock.readable)
            assert not self.sock.readable.locked
        else:
            iterator = iter(self._locked())
        anything = ReadAnything(0)
        for _ in range(chunks):
            if self._answer(anything) is None and self.default != 0:
                break
            self.begun = True
            known = self.eof_known
            outcome = _outcome(next, iterator, b"")
            self._check(anything, self.default == 0, outcome)
            if by_stream:
                self.eof_known = known  # a reader of its own
            if not isinstance(outcome, bytes) or not outcome:
                break  # it is over
            assert self.sock.readable.locked
        del iterator
        if by_stream:
            assert not self.sock.readable.locked

    @step(
        calls=st.lists(FILE_CALLS, max_size=5),
        buffering=st.sampled_from([1, 7, 1000, 65_536]),
        ending=st.sampled_from(["close", "close", "with", "drop", "cancel"]),
    )
    def use_as_file(self, calls: list[FileCall], buffering: int, ending: str) -> None:
        reader = self._locked()
        file = reader.as_file(buffering=buffering)
        with pytest.raises(StreamLocked):
            reader.read(timeout=0)
        self.reader = None
        del reader
        given, timed_out = b"", False
        for call in calls:
            rest = self.unread[len(given) :]
            if not call.certain(rest, self.end is EOF, buffering):
                # What a file had gathered before the connection broke is gone, as it is in a
                # file of socket.makefile(): not asked for here.
                if self.default != 0 or self.end is not None:
                    continue
            try:
                got = call(file)
            except ReadTimeout:
                assert self.default == 0
                timed_out = True
                break
            most = call.most(rest)
            if call.part:
                assert most.startswith(got)
                assert got or self.end is EOF or call.name == "peek"
            else:
                assert got == most
            given += got if call.name != "peek" else b""
            assert file.tell() == len(given)
        if timed_out:
            with pytest.raises(OSError, match="an earlier read of this file timed out"):
                file.read(1)
            buffering = len(self.unread)
        self.allowed += buffering
        if ending == "cancel" and not isinstance(self.end, type):
            self._cancel(self._readable.cancel)
        if ending == "with":
            with file:
                pass
        elif ending != "drop":
            file.close()
        del file
        assert not self._readable.locked
        if not self.cancelled:
            self._consume(len(given))

    @property
    def _readable(self) -> tcpsock.ReadableStream:
        assert self.sock is not None
        return self.sock.readable

    # -- Giving it up ---------------------------------------------------------------------------

    @precondition(lambda self: not self.given_up and len(self.steps) > 10)
    @step(by_reader=st.booleans())
    def cancel(self, by_reader: bool) -> None:
        self._cancel(self._locked().cancel if by_reader else self._readable.cancel)

    def _cancel(self, cancel: Callable[[], None]) -> None:
        assert self.sock is not None
        if self.end is tcpsock.ConnectionLost:
            self.sock.closed.exception(WAIT)  # it knows
        cancel()
        self.begun = self.given_up = True
        self.unread = b""
        if isinstance(self.end, type):
            # What it knew to be broken stays broken; else there is no more news.
            with self._readable.get_reader() if self.reader is None else _as_is(self.reader) as r:
                try:
                    assert r.read(timeout=WAIT) == b""
                except self.end:
                    return
            assert self.end is not tcpsock.ConnectionLost
        self.end = EOF
        self.cancelled = self.eof_known = True

    @precondition(
        lambda self: not self.given_up and self.end in (None, EOF) and len(self.steps) > 10
    )
    @step(call=CALLS)
    def cancel_under_a_read(self, call: ReadCall) -> None:
        """The read comes to its end, either before or by the cancel()."""
        before = self._answer(call)
        running = Call(call, self._locked(), timeout=WAIT)
        self._cancel(self._readable.cancel)
        outcome = running.error() or running.result()
        by_cancel = call.answer(b"", True)
        assert by_cancel is not None
        assert by_cancel.fits(outcome) or (before is not None and before.fits(outcome))

    # -- What always holds ----------------------------------------------------------------------

    @invariant()
    def the_counters_tell_the_truth(self) -> None:
        if self.sock is None:
            return
        stats = self.sock.stats
        if self.cancelled:
            assert stats.bytes_buffered == 0
            return
        if not self.begun and self.end is None:
            assert stats.bytes_received == 0
        if not self._was_reset:  # then all that the kernel holds is taken in
            assert stats.bytes_buffered <= self.allowed
        self.allowed = max(self.mark, stats.bytes_buffered)
        assert stats.bytes_buffered <= len(self.unread)
        if isinstance(self.end, type):
            return  # cancel() may have thrown something away
        assert stats.bytes_received - stats.bytes_buffered == self.consumed

    @invariant()
    def closed_tells_the_truth(self) -> None:
        if self.sock is None or self.reader is None or not self._may_be_pending:
            return
        if self.eof_known:
            assert self.reader.closed.exception(WAIT) is None
        else:
            assert not self.reader.closed.done()

    def clean_up(self) -> None:
        life.GRACE = self.grace  # type: ignore[misc]
        if self.sock is not None:
            self.reader = None
            self.sock.abort()
            self.peer.close()
            self.sock.closed.exception(WAIT)

    def check_at_end(self) -> None:
        if self.sock is not None:
            self._read_the_rest()

    def _read_the_rest(self) -> None:
        if self.end is None:
            self._end_it("end")
        reader = self._locked()
        rest = bytearray()
        for _ in range(2):  # the end stays the end
            try:
                while chunk := reader.read(timeout=WAIT):
                    rest += chunk
            except tcpsock.SocketError as error:
                assert type(error) is self.end
                assert isinstance(reader.closed.exception(WAIT), self.end)
            else:
                assert self.end is EOF
        assert rest == self.unread


def _outcome(function: Callable[..., bytes], *args: Any, **kwargs: Any) -> bytes | BaseException:
    """What it returns or raises. A traceback would keep the reader in its frames, and its lock."""
    try:
        return function(*args, **kwargs)
    except tcpsock.SocketError as error:
        return error.with_traceback(None)


class _as_is:
    """A reader that a with statement leaves as it is."""

    def __init__(self, reader: tcpsock.Reader) -> None:
        self._reader = reader

    def __enter__(self) -> tcpsock.Reader:
        return self._reader

    def __exit__(self, *_: object) -> None:
        pass


def test_R0_to_R10_a_reader_gives_what_bytes_would(connect: Any, run_machine: Any) -> None:
    """Any chunking, any mix of calls, any end, over plain TCP, TLS 1.2 and TLS 1.3."""

    def machine() -> ReaderMachine:
        return ReaderMachine(connect)

    run_machine(machine)


# What was found ---------------------------------------------------------------------------------


def test_R7_a_reset_that_is_noticed_after_cancel_brings_nothing_back(
    connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The queue is full, and cancel() comes between the poll that tells of the reset and the lock.

    The kernel's bytes, which a reset lets in past the mark, were then read after the cancel().
    """
    sock, peer = connect("plain", high_water_mark=1)
    reader = sock.readable.get_reader()
    peer.send(b"abc")
    until_all_arrived(sock, 1)
    was_reset = Wire.was_reset

    def cancel_meanwhile(wire: Wire) -> bool:
        reader.cancel()
        return was_reset(wire)

    monkeypatch.setattr(Wire, "was_reset", cancel_meanwhile)
    peer.reset()
    sock.closed.exception(WAIT)
    assert reader.read(timeout=WAIT) == b""


def test_R10_a_reader_after_cancel_is_told_of_no_later_failure(connect: Any) -> None:
    """Its reads give EOF, so `closed` resolves."""
    sock, peer = connect("plain")
    sock.readable.cancel()
    peer.reset()
    assert isinstance(sock.closed.exception(WAIT), tcpsock.ConnectionLost)
    reader = sock.readable.get_reader()
    assert reader.read(timeout=WAIT) == b""
    assert reader.closed.exception(WAIT) is None
