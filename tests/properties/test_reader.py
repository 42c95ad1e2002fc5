"""Whatever a peer sends, however it ends, and in whatever way it is read: a Reader gives the bytes.

The model is a run of bytes that were sent and not read yet, and what comes after them. It says what
each call must return or raise once all of that has arrived. Nothing sleeps: either the answer is
certain and the call may wait for it, or it isn't and the call must time out and lose nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant
from peers import WAIT, Call, Peer, pattern, until, until_all_arrived

import tcpsock
from tcpsock import (
    ConnectionLost,
    ReadTimeout,
    SocketClosed,
    SocketError,
    StreamLocked,
    TlsTruncated,
)
from tcpsock._connection import life
from tcpsock._connection.receiving import Receiving

from .machines import NotedMachine, step
from .reading import (
    CALLS,
    FILE_CALLS,
    GATHERS,
    SEARCHES,
    TAKES,
    Answer,
    FileCall,
    Peek,
    Read,
    ReadAnything,
    ReadCall,
    ReadExactly,
    ReadUntil,
)

LATE = 15  # steps after which the data may come to its end: there is less to see after that
ROOM = 20_000  # bytes unread at most: so many fit into our kernel's buffer, so no send ever waits
NEAR = st.none() | st.none() | st.integers(-1, 1)
SMALL = (0, 0.001, 0.01)  # seconds, which may be too few for what is still on its way
TIMINGS = st.sampled_from(["patient", "default", *SMALL])

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
FIRST = st.just([]) | TEXTS | TEXTS | BULKS  # what is sent just before a call
CUTS = st.lists(st.integers(0, 5000), max_size=4)

ENDS = ["end", "notify", "cut", "reset"]  # as the peer's methods are called
Pieces = list[bytes | int]
EOF = "EOF"


class ReaderMachine(NotedMachine):
    """Every way to send and to end, every way to read, and the bytes that it must come to."""

    sock: tcpsock.Socket
    peer: Peer

    def __init__(self, connect: Any) -> None:
        super().__init__()
        self.connect = connect
        self.grace = life.GRACE
        self.connected = False

    @step(
        by=initialize,
        transport=st.sampled_from(["plain", "tls12", "tls13"]),
        mark=st.sampled_from([1, 7, 1000, 16_383, 16_384, 16_385, 1 << 20]),
        half_open=st.booleans(),
        allow_truncation=st.booleans(),
        default=st.sampled_from([None, 0, WAIT]),
        eager=st.booleans(),
        early=st.just([]) | PIECES,
        early_end=st.sampled_from([None] * 12 + ENDS),
        late_end=st.sampled_from(ENDS),
        late_call=GATHERS,
        late_near=st.integers(-1, 1),
    )
    def open(
        self,
        transport: str,
        mark: int,
        half_open: bool,
        allow_truncation: bool,
        default: float | None,
        eager: bool,
        early: Pieces,
        early_end: str | None,
        late_end: str,
        late_call: ReadCall,
        late_near: int,
    ) -> None:
        """`default` is the socket's timeout. `eager`: the thread reads ahead without a grace.

        `early` and `early_end` come before anybody reads (rule R0); `late_end` and `late_call`
        at last.
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
        self.connected = True
        self.tls = transport != "plain"
        self.mark, self.default, self.allow_truncation = mark, default, allow_truncation
        self.late_end, self.late_call, self.late_near = late_end, late_call, late_near
        self.half_closed = False  # by us
        self.unread = b""
        self.end: str | type[SocketError] | None = None  # what comes after `unread`
        self.sent = 0  # how much of the endless sequence
        self.half_sent: tuple[bytes, bytes] | None = None  # the rest of a record; what is in it
        self.consumed = 0
        self.allowed = mark  # bytes that may be read ahead
        self.put_back = 0  # at most, by a file: a receive that has begun doesn't know of them
        self.begun = False  # somebody has asked for bytes (rule R0)
        self.given_up = False  # cancel() was called
        self.cancelled = False  # and nothing had broken before
        self.ended_by: str | None = None
        self.broken_late = False  # reset, after its end
        self.reader: tcpsock.Reader | None = None
        self.eof_known = False  # to the present reader
        if early:
            self._send(self._make(early))
        if early_end:
            self._end_it(early_end)

    # -- The peer -------------------------------------------------------------------------------

    def _make(self, pieces: Pieces) -> list[bytes]:
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

    @step(pieces=PIECES, cuts=CUTS)
    def send(self, pieces: Pieces, cuts: list[int]) -> None:
        self._send_more(pieces, cuts)

    def _send_more(self, pieces: Pieces, cuts: list[int] | None = None) -> None:
        if self.end is None:
            self._send(self._make(pieces), cuts)

    @step(
        when=lambda self: self.tls and self.end is None,
        size=st.integers(1, 3000),
        share=st.floats(0, 1),
    )
    def send_half_a_record(self, size: int, share: float) -> None:
        self._send([])  # the other half of one before
        data = b"".join(self._make([size]))
        if not data:
            return
        raw = self.peer.records(data)
        cut = int((len(raw) - 1) * share)
        self.peer.send_raw(raw[:cut])
        self.half_sent = raw[cut:], data

    @step(when=lambda self: self.end is None and len(self.steps) > LATE, how=st.sampled_from(ENDS))
    def end_it(self, how: str) -> None:
        self._end_it(how)

    def _end_it(self, how: str) -> None:
        """`cut` is FIN without close_notify, and perhaps in the middle of a record."""
        if not self.tls and how in ("notify", "cut"):
            how = "end"
        if self.half_sent is not None and how in ("end", "notify"):
            self._send([])
        getattr(self.peer, how)()
        self.ended_by = how
        if self.end is not EOF:  # which stays, after cancel()
            self.end = self._meaning_of(how)

    def _meaning_of(self, how: str) -> str | type[SocketError]:
        if how == "reset":
            return ConnectionLost
        if how == "cut" and not self.allow_truncation:
            return TlsTruncated
        return EOF

    @step(
        when=lambda self: (
            self.ended_by in ("end", "notify") and not self.given_up and not self.broken_late
        )
    )
    def reset_after_the_end(self) -> None:
        """What came before it was complete, and stays so.

        (Not so if TLS ended without close_notify: the kernel's word that FIN came first goes to
        OpenSSL's alert about that, so it may count as lost. That is the safe side.)
        """
        self.peer.reset()
        self.broken_late = True

    @step(when=lambda self: self.begun and not self.given_up)
    def all_that_may_be_is_read_ahead(self) -> None:
        least = min(len(self.unread), max(1, self.mark // 2))
        until(lambda: self.sock.stats.bytes_buffered >= least, f"{least} bytes are read ahead")

    # -- Locks ----------------------------------------------------------------------------------

    def _locked(self) -> tcpsock.Reader:
        """The reader, a new one if there is none."""
        if self.reader is None:
            self.reader = self.sock.readable.get_reader()
            self.begun = True
            self.eof_known = self.cancelled
        return self.reader

    @step(how=st.sampled_from(["lock", "release", "release", "drop"]))
    def lock_or_release(self, how: str) -> None:
        reader = self._locked()
        assert self.sock.readable.locked
        with pytest.raises(StreamLocked):
            self.sock.readable.get_reader()
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
        assert not self.sock.readable.locked

    @property
    def _was_reset(self) -> bool:
        return self.end is ConnectionLost or self.broken_late

    @property
    def _may_be_pending(self) -> bool:
        """Whether `closed` has nothing to tell yet but that EOF was delivered, if it was."""
        return self.end in (None, EOF) and not self.broken_late

    # -- Reading --------------------------------------------------------------------------------

    @step(first=FIRST, call=TAKES, near=NEAR, timing=TIMINGS)
    def take(self, first: Pieces, call: ReadCall, near: int | None, timing: str | float) -> None:
        self._send_more(first)
        self._read(self._near(call, near), timing)

    @step(first=FIRST, call=GATHERS, near=NEAR, timing=TIMINGS)
    def gather(self, first: Pieces, call: ReadCall, near: int | None, timing: str | float) -> None:
        self._send_more(first)
        self._read(self._near(call, near), timing)

    def _near(self, call: ReadCall, near: int | None) -> ReadCall:
        """The call for about as many bytes as there are, if it is to be so."""
        return call if near is None else replace(call, n=max(1, len(self.unread) + near))

    def _read(self, call: ReadCall, timing: str | float) -> None:
        reader = self._locked()
        certain = self._answer(call) is not None
        timeout: dict[str, float] = {}
        if timing == "patient":
            timeout["timeout"] = WAIT if certain else 0
        elif timing != "default" or (self.default != 0 and not certain):
            timeout["timeout"] = 0 if timing == "default" else float(timing)
        seconds = timeout.get("timeout", self.default)
        # What has been read ahead must be found in no time, and all of it.
        ahead = call.answer(self.unread[: self.sock.stats.bytes_buffered], False)
        self.allowed = max(self.allowed, call.reach)
        outcome = _outcome(call, reader, **timeout)
        if isinstance(outcome, bytes) and ahead is not None:
            assert len(outcome) >= len(ahead.value)
        may_time_out = not certain or (seconds in SMALL and ahead is None)
        self._check(call, outcome, may_time_out=may_time_out)

    @step(
        when=lambda self: self.end is None,
        call=CALLS,
        pieces=PIECES,
        how=st.sampled_from([None] * 9 + ["end", "cut", "reset"]),
        patient=st.booleans(),
        slowly=st.booleans(),
    )
    def read_while_it_comes(
        self, call: ReadCall, pieces: Pieces, how: str | None, patient: bool, slowly: bool
    ) -> None:
        """`slowly`: no piece is sent before the one before has been received, if it is at all."""
        self._read_while_it_comes(call, self._make(pieces), how, patient, slowly)

    @step(
        when=lambda self: self.end is None,
        before=st.sampled_from([b"", b"x", b"a", b"\r", b"xyz"]),
        call=SEARCHES,
    )
    def read_until_while_the_separator_comes_in_pieces(
        self, before: bytes, call: ReadUntil
    ) -> None:
        text = before + call.separator
        if len(self.unread) + len(text) <= ROOM:
            pieces = [text[at : at + 1] for at in range(len(text))]
            self._read_while_it_comes(call, pieces, None, True, True)

    def _read_while_it_comes(
        self, call: ReadCall, pieces: list[bytes], how: str | None, patient: bool, slowly: bool
    ) -> None:
        reader = self._locked()
        self.allowed = max(self.allowed, call.reach)
        before = self.unread, self.end
        late = self.half_sent[1] if self.half_sent else b""
        self._count_as_sent(late + b"".join(pieces))
        if how is not None and not self.cancelled:
            self.end = self._meaning_of(how if self.tls or how == "reset" else "end")
        certain = self._answer(call) is not None
        after = self.end
        self.unread, self.end = before

        seconds = WAIT if certain and patient else 0.01
        running = Call(call, reader, timeout=seconds)
        if not pieces:
            self._send([])
        for piece in pieces:
            self._send([piece])
            if slowly:
                due = self.consumed + len(self.unread)
                until(
                    lambda due=due: running.done() or self.sock.stats.bytes_received >= due,
                    f"{due} bytes are received",
                )
        if how is not None:
            self._end_it(how)
        assert self.end == after
        outcome = running.error() or running.result()
        self._check(call, outcome, may_time_out=seconds < WAIT)

    @step(
        when=lambda self: self.end is None and not self.given_up,
        calls=st.lists(CALLS, min_size=1, max_size=4),
        size=st.integers(50_000, 400_000),
    )
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
                self._check(call, _outcome(call, reader, timeout=WAIT))
        if len(self.unread) > ROOM // 2:
            rest = ReadExactly(len(self.unread) - ROOM // 2)
            self.allowed = max(self.allowed, rest.reach)
            self._check(rest, _outcome(rest, reader, timeout=WAIT))
        sending.result()

    def _answer(self, call: ReadCall) -> Answer | None:
        answer = call.answer(self.unread, self.end is EOF)
        if answer is None and isinstance(self.end, type):
            return Answer(error=self.end, takes=0)
        return answer

    def _check(
        self, call: ReadCall, outcome: bytes | BaseException, *, may_time_out: bool = False
    ) -> None:
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

    @step(first=FIRST, chunks=st.integers(1, 3), by_stream=st.booleans())
    def iterate(self, first: Pieces, chunks: int, by_stream: bool) -> None:
        self._send_more(first)
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
            self._check(anything, outcome, may_time_out=self.default == 0)
            if by_stream:
                self.eof_known = known  # a reader of its own
            if not isinstance(outcome, bytes) or not outcome:
                break  # it is over
            assert self.sock.readable.locked
        del iterator
        if by_stream:
            assert not self.sock.readable.locked

    @step(
        first=FIRST,
        calls=st.lists(FILE_CALLS, max_size=5),
        buffering=st.sampled_from([1, 7, 1000, 65_536]),
        ending=st.sampled_from(["close", "close", "with", "drop", "cancel"]),
    )
    def use_as_file(
        self, first: Pieces, calls: list[FileCall], buffering: int, ending: str
    ) -> None:
        self._send_more(first)
        reader = self._locked()
        file = reader.as_file(buffering=buffering)
        with pytest.raises(StreamLocked):
            reader.read(timeout=0)
        self.reader = None
        del reader
        given, timed_out = b"", False
        for call in calls:
            rest = self.unread[len(given) :]
            certain = call.certain(rest, self.end is EOF, buffering)
            if not certain and (self.default != 0 or self.end is not None):
                continue  # it would wait; and what it gathers before the stream breaks is gone
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
        self.put_back = max(self.put_back, min(buffering, len(self.unread) - len(given)))
        self.allowed += self.put_back
        if ending == "cancel" and self.end in (None, EOF) and len(self.steps) > LATE:
            self._cancel(self.sock.readable.cancel)
        if ending == "with":
            with file:
                pass
        elif ending != "drop":
            file.close()
        del file
        assert not self.sock.readable.locked
        if not self.cancelled:
            self._consume(len(given))

    # -- Giving it up ---------------------------------------------------------------------------

    @step(when=lambda self: not self.given_up and len(self.steps) > LATE, by_reader=st.booleans())
    def cancel(self, by_reader: bool) -> None:
        self._cancel(self._locked().cancel if by_reader else self.sock.readable.cancel)

    def _cancel(self, cancel: Callable[[], None]) -> None:
        if self.end is ConnectionLost:
            self.sock.closed.exception(WAIT)  # it knows
        cancel()
        self.begun = self.given_up = True
        self.unread = b""
        if isinstance(self.end, type):
            # What it knew to be broken stays broken; else there is no more news.
            outcome = _outcome(self._locked().read, timeout=WAIT)
            if type(outcome) is self.end:
                return
            assert outcome == b""
            assert self.end is not ConnectionLost
        self.end = EOF
        self.cancelled = self.eof_known = True

    @step(
        when=lambda self: not self.given_up and self.end in (None, EOF) and len(self.steps) > LATE,
        call=CALLS,
        blocked=st.booleans(),
    )
    def cancel_under_a_read(self, call: ReadCall, blocked: bool) -> None:
        """The read comes to its end, either before or by the cancel()."""
        before = self._answer(call)
        running = Call(call, self._locked(), timeout=WAIT)
        if blocked:
            running.blocked(or_done=True)
        self._cancel(self.sock.readable.cancel)
        outcome = running.error() or running.result()
        by_cancel = call.answer(b"", True)
        assert by_cancel is not None
        assert by_cancel.fits(outcome) or (before is not None and before.fits(outcome))

    # -- The other direction --------------------------------------------------------------------

    @step(
        when=lambda self: self.ended_by != "cut" and not self.broken_late, size=st.integers(1, 100)
    )
    def write(self, size: int) -> None:
        """It may meet the peer's end or reset first, which must not change what is read.

        (Not tried where TLS has ended without close_notify: OpenSSL sends nothing any more, which
        counts as lost.)
        """
        with self.sock.writable.get_writer() as writer:
            error = Call(writer.write, b"x" * size, timeout=WAIT).error()
        if self.half_closed:
            assert isinstance(error, SocketClosed if self.end is None else SocketError)
        elif self.end is None:
            assert error is None
        else:
            assert isinstance(error, SocketError | None)

    @step(when=lambda self: not self.half_closed and not self.broken_late, first=FIRST)
    def half_close(self, first: Pieces) -> None:
        """Reading goes on, and loses nothing of what is waiting at this moment (rule W3)."""
        self._send_more(first)
        self.sock.writable.close()
        self.half_closed = True

    # -- What always holds ----------------------------------------------------------------------

    @invariant()
    def the_counters_tell_the_truth(self) -> None:
        stats = self.sock.stats
        if self.cancelled:
            assert stats.bytes_buffered == 0
            return
        if not self.begun and self.end is None:
            assert stats.bytes_received == 0
        if not self._was_reset:  # then all that the kernel holds is taken in
            assert stats.bytes_buffered <= self.allowed
        self.allowed = max(self.mark, stats.bytes_buffered) + self.put_back
        assert stats.bytes_buffered <= len(self.unread)
        if isinstance(self.end, type):
            return  # cancel() may have thrown something away
        assert stats.bytes_received - stats.bytes_buffered == self.consumed

    @invariant()
    def closed_tells_the_truth(self) -> None:
        if self.reader is None or not self._may_be_pending:
            return
        if self.eof_known:
            assert self.reader.closed.exception(WAIT) is None
        else:
            assert not self.reader.closed.done()

    def clean_up(self) -> None:
        life.GRACE = self.grace  # type: ignore[misc]
        if self.connected:
            self.reader = None
            self.sock.abort()
            self.peer.close()
            self.sock.closed.exception(WAIT)

    def check_at_end(self) -> None:
        if not self.connected:
            return
        if self.end is None:
            self._end_it(self.late_end)
        reader = self._locked()
        call = self._near(self.late_call, self.late_near)
        self._check(call, _outcome(call, reader, timeout=WAIT))
        rest = bytearray()
        for _ in range(2):  # the end stays the end
            try:
                while chunk := reader.read(timeout=WAIT):
                    rest += chunk
            except SocketError as error:
                assert type(error) is self.end
                assert isinstance(reader.closed.exception(WAIT), self.end)
            else:
                assert self.end is EOF
        assert rest == self.unread


def _outcome(function: Callable[..., bytes], *args: Any, **kwargs: Any) -> bytes | BaseException:
    """What it returns or raises. A traceback would keep the reader in its frames, and its lock."""
    try:
        return function(*args, **kwargs)
    except SocketError as error:
        return error.with_traceback(None)


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
    note_hangup = Receiving.note_hangup

    def cancel_before(receiving: Receiving, found: int, reset: bool) -> None:
        reader.cancel()
        note_hangup(receiving, found, reset)

    monkeypatch.setattr(Receiving, "note_hangup", cancel_before)
    peer.reset()
    sock.closed.exception(WAIT)
    assert reader.read(timeout=WAIT) == b""


@pytest.mark.parametrize("transport", ["plain", "tls12", "tls13"])
def test_E1_a_reset_is_seen_at_once_also_after_our_half_close(connect: Any, transport: str) -> None:
    """The queue is full, so it is not a receive that tells of it."""
    sock, peer = connect(transport, high_water_mark=1)
    reader = sock.readable.get_reader()
    sock.writable.close()
    peer.send(b"abc")
    until_all_arrived(sock, 1)
    peer.reset()
    assert isinstance(sock.closed.exception(WAIT), ConnectionLost)
    assert reader.read_exactly(3, timeout=WAIT) == b"abc"
    with pytest.raises(ConnectionLost):
        reader.read(timeout=WAIT)


def test_R10_a_reader_after_cancel_is_told_of_no_later_failure(connect: Any) -> None:
    """Its reads give EOF, so `closed` resolves."""
    sock, peer = connect("plain")
    sock.readable.cancel()
    peer.reset()
    assert isinstance(sock.closed.exception(WAIT), ConnectionLost)
    reader = sock.readable.get_reader()
    assert reader.read(timeout=WAIT) == b""
    assert reader.closed.exception(WAIT) is None
