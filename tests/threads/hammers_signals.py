"""Hammers of Ctrl-C: KeyboardInterrupt out of any line of any call, in the main thread.

What it interrupts may be given up, and a write that has begun takes the connection along (W4). But
no lock stays held, no turn stays taken, no other thread waits for ever, and reads lose nothing.
"""

from __future__ import annotations

import gc
import io
import itertools
import os
import queue
import random
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial

from anvil import PATIENCE, TLS, frame, outcome, read_somehow, unframe
from conftest import Pair
from hammers_opening import Places, echo
from peers import HOST, WAIT, Call, pattern

import tcpsock
from tcpsock import IncompleteRead, PlaintextInjected, SocketAborted, SocketClosed, SocketError
from tcpsock.testing import serve

__all__ = ["interrupted_calls", "interrupted_flow", "interrupted_reads", "interrupted_turns"]


class CtrlC:
    """Interrupts calls of the main thread, each of them once."""

    def __init__(self, ends: ExitStack) -> None:
        self._calling = False  # from before a call until after it
        self._armed = False  # it has not been interrupted yet
        self._spins: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._sent: queue.SimpleQueue[None] = queue.SimpleQueue()
        ends.callback(signal.signal, signal.SIGINT, signal.signal(signal.SIGINT, self._strike))
        sys.unraisablehook = _say_unraisable
        ends.callback(setattr, sys, "unraisablehook", sys.__unraisablehook__)
        sending = Call(self._send, threading.main_thread().ident)
        ends.callback(sending.join)
        ends.callback(self._spins.put, None)

    def interrupts(self, call: Callable[[], object], spins: int) -> bool:
        """Make a call, and interrupt it when another thread has spun so often.

        Returns whether that came before its end. What the call returned, or raised of ours, is
        dropped.
        """
        self._calling, struck = True, True
        self._spins.put(spins)
        try:
            try:
                self._armed = True
                with suppress(SocketError):
                    call()
                struck = False
            finally:
                self._armed = False
        except KeyboardInterrupt:
            pass
        except RuntimeError as error:  # threading.Condition's, if it was about to wait
            assert "un-acquired lock" in str(error), error
        finally:
            self._calling = False
            self._sent.get()
        return struck

    def _strike(self, *_: object) -> None:
        if self._armed:
            self._armed = False
            raise KeyboardInterrupt

    def _send(self, main: int) -> None:
        while (spins := self._spins.get()) is not None:
            for _ in range(spins):
                pass
            for sent in itertools.count(1):
                if not self._calling:
                    break
                signal.pthread_kill(main, signal.SIGINT)
                time.sleep(0.0005)
                if sent % 100 == 0:  # what came out of a finalizer, the interpreter has swallowed
                    self._armed = self._calling
            self._sent.put(None)


def _say_unraisable(told: sys.UnraisableHookArgs) -> None:
    if not isinstance(told.exc_value, KeyboardInterrupt):
        sys.__unraisablehook__(told)


# Long enough for a call to have begun to wait; the others strike while it is on its way.
SPINS = (0, 10, 50, 100, 200, 300, 500, 1_000, 2_000, 20_000)


def interrupted_reads(transport: str, seed: int) -> None:
    """Reads that wait lose no byte, whatever they had gathered; another thread writes all along."""
    rng = random.Random(seed)
    pair = Pair(transport)
    sock, peer = pair(high_water_mark=rng.choice((1, 10_007, 1 << 20)), timeout=WAIT)
    reader, writer = sock.streams()
    stop = threading.Event()

    def write_on() -> int:
        number = 0
        while not stop.is_set():
            writer.write(frame(1, number, 3_000))
            number += 1
        writer.close()
        return number

    taking, writing = Call(peer.read_all), Call(write_on)
    at = 0
    with ExitStack() as ends:
        ctrl_c = CtrlC(ends)
        for _ in range(30):
            gathered = rng.choice((0, 0, 1, 20_000))
            if gathered:
                peer.send(pattern(gathered, at))
                reader.peek(gathered)  # they are ours now, and not yet taken
            wanted = gathered + rng.choice((1, 10, 100_000))
            calls: tuple[Callable[[], object], ...] = (
                partial(reader.read_exactly, wanted),
                partial(reader.peek, wanted),
                partial(reader.read_all),
                partial(reader.read_until, b"no such thing", limit=wanted + 13),
                *((reader.read, partial(reader.readinto, bytearray(9))) if not gathered else ()),
            )
            assert ctrl_c.interrupts(rng.choice(calls), rng.choice(SPINS))
            peer.send(pattern(wanted - gathered, at + gathered))
            assert reader.read_exactly(wanted) == pattern(wanted, at), f"wrong bytes behind {at}"
            at += wanted
    stop.set()
    numbers, rest = unframe(taking.result())
    assert (numbers, rest) == ({1: list(range(writing.result()))}, b"")
    peer.end()
    assert reader.read() == b""
    assert sock.closed.result(WAIT) is None
    pair.end()


def interrupted_flow(transport: str, seed: int) -> None:
    """While bytes flow, an interruption makes one gap at most, and nothing changes its place.

    The signal may strike between recv() and the next line, which takes what was received along:
    Python has no way to hold it off.
    """
    rng = random.Random(seed)
    sent = pattern(900_000)
    pair = Pair(transport)
    sock, peer = pair(high_water_mark=rng.choice((10_007, 1 << 20)), timeout=WAIT)
    reader = sock.readable.get_reader()
    received = bytearray()

    def flow() -> None:
        at = 0
        while at < len(sent):
            size = rng.choice((100, 5_000, 30_000))
            peer.send(sent[at : at + size])
            at += size
        peer.end()

    def read() -> None:
        received.extend(read_somehow(reader, rng))

    flowing, struck = Call(flow), 0
    with ExitStack() as ends:
        ctrl_c = CtrlC(ends)
        for _ in range(20):
            struck += ctrl_c.interrupts(read, rng.choice(SPINS))
            try:
                received += reader.read_exactly(100)  # enough to tell where they are from
            except IncompleteRead as error:
                received += error.partial
    received.extend(reader.read_all())
    assert _gaps(bytes(received), sent) <= struck
    flowing.result()
    assert sock.closed.result(WAIT) is None
    pair.end()


def _gaps(received: bytes, sent: bytes) -> int:
    """How often something is missing. Fails if anything is out of its order."""
    gaps, at = 0, 0
    while received:
        same = len(os.path.commonprefix((received, sent[at:])))  # noqa: RUF071  # bytes, no paths
        received, at = received[same:], at + same
        if received:
            at = sent.find(received[:16], at)
            assert at >= 0, "bytes came twice, or in another order"
            gaps += 1
    return gaps


def interrupted_calls(seed: int) -> None:
    """After any call was interrupted, the socket works in another thread, or ends well."""
    warnings.filterwarnings("ignore", "unclosed", ResourceWarning)  # what went with the exception
    rng = random.Random(seed)
    with ExitStack() as ends:
        server = ends.enter_context(serve(echo))
        places = Places(ends, (HOST, server.port), rng)
        ctrl_c = CtrlC(ends)
        for _ in range(30):
            _interrupt_one(places, ctrl_c, rng)


def _interrupt_one(places: Places, ctrl_c: CtrlC, rng: random.Random) -> None:
    answers = rng.random() < 0.6
    options = {
        **rng.choice(({}, TLS(server_hostname="localhost"), TLS("starttls"))),
        "connect_timeout": PATIENCE if answers else 0.3,
        "close_timeout": PATIENCE if answers else None,
    }
    where = places.listening if answers else rng.choice(_MUTE)(places)
    made: list[tcpsock.Socket] = []

    def connect() -> None:
        made.append(tcpsock.connect(where, **options))

    if rng.random() < 0.2:
        ctrl_c.interrupts(connect, rng.choice(SPINS))
    else:
        connect()
    if not made:
        return  # it is dropped, and must end
    [sock] = made
    if answers and rng.random() < 0.7:
        sock.opened.result(WAIT)
    calls = rng.choices(_calls(sock, rng), k=rng.randrange(1, 4))
    for call in calls:
        ctrl_c.interrupts(call, rng.choice(SPINS))
    Call(_examine, sock, rng, answers, sock.readable.cancel in calls).result()


_MUTE: tuple[Callable[[Places], object], ...] = (
    lambda places: places.silent,
    lambda places: places.full,
    lambda places: "hanging.example:7",
)


def _calls(sock: tcpsock.Socket, rng: random.Random) -> list[Callable[[], object]]:
    """What may be interrupted. Where no byte comes, it waits until it is."""

    def read() -> None:
        with sock.readable.get_reader() as reader:
            while read_somehow(reader, rng):
                pass

    def read_file() -> None:
        with sock.readable.get_reader().as_file() as file:
            file.read(10)

    def write() -> None:
        with sock.writable.get_writer() as writer:
            writer.write(bytes(rng.choice((0, 10, 100_000, 6_000_000))))

    def write_file() -> None:
        with sock.writable.get_writer().as_file() as file:
            file.write(bytes(100_000))

    def leave() -> None:
        with sock:
            pass

    return [
        lambda: sock.opened.result(WAIT),
        lambda: sock.closed.result(),
        lambda: sock.start_tls(server_hostname="localhost").opened.result(),
        lambda: sock.start_tls(server_hostname="localhost").close(),
        lambda: sock.detach().close(),
        lambda: sock.readable.pipe_to(io.BytesIO()),
        lambda: list(sock.readable),
        lambda: (repr(sock), sock.stats, sock.tls_session),
        sock.streams,
        sock.close,
        sock.abort,
        sock.readable.cancel,
        sock.writable.close,
        read,
        read_file,
        write,
        write_file,
        leave,
    ]


_MARK = b"<-- the examiner's own bytes -->"


def _examine(sock: tcpsock.Socket, rng: random.Random, answers: bool, cancelled: bool) -> None:
    """In a thread that has none of its locks: it works as a whole, or it is closed."""
    gc.collect()  # a reader that went with the exception, and was in a cycle
    assert repr(sock) and sock.stats
    if answers:
        try:
            reader, writer = sock.streams()
            writer.write(_MARK, timeout=WAIT)
            writer.close()
            assert reader.read_all(timeout=WAIT).endswith(_MARK) or cancelled
        except (SocketClosed, PlaintextInjected):  # the latter: an echo was on its way
            pass
        else:
            outcome(sock.closed, SocketAborted)  # by an abort() that was cut off
    rng.choice((sock.close, sock.abort) if answers else (sock.abort,))()
    outcome(sock.opened, SocketError)
    outcome(sock.closed, SocketError)


def interrupted_turns(seed: int) -> None:
    """A write that waits for its turn is given up, and the one that it waited for goes on."""
    rng = random.Random(seed)
    pair = Pair(rng.choice(("plain", "tls13")))
    sock, peer = pair(peer_buffers=20_000)
    writer = sock.writable.get_writer()
    first = Call(writer.write, frame(1, 0, 8_000_000)).blocked()
    with ExitStack() as ends:
        ctrl_c = CtrlC(ends)
        for _ in range(5):
            assert ctrl_c.interrupts(partial(writer.write, b"not this"), rng.choice(SPINS))
    others = [Call(writer.write, frame(2, 0, 9)), Call(writer.write, frame(3, 0, 9))]
    taking = Call(peer.read_all)
    for call in (first, *others):
        call.result()
    writer.close()
    assert unframe(taking.result()) == ({1: [0], 2: [0], 3: [0]}, b"")
    peer.end()
    assert sock.closed.result(WAIT) is None
    pair.end()
