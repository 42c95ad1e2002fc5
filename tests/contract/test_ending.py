"""The end of a connection, from whichever side it comes, and what `closed` says of it (E1 to E8).

What only shows in an interpreter of its own (E7, E8) is in tests/threads/test_lifetimes.py.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import gc
import pathlib
import socket
import ssl
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from _ending_peers import (
    BULK,
    BlackHole,
    Listener,
    Names,
    connected,
    failure,
    free_port,
    living,
    raised,
    sees_reset,
    tls_server,
    trusting,
)
from peers import WAIT, Call, Peer, open_descriptors, pattern, until

import tcpsock
from tcpsock import ConnectionLost, SocketAborted, SocketClosed, testing

ROOT = pathlib.Path(__file__).parents[2]
READS = ["read", "readinto", "read_exactly", "read_until", "readline", "read_all", "peek", "next"]
both = pytest.mark.parametrize("secure", ["off", "on"])


# E1: the peer ends first


@both
def test_E1_the_end_of_an_idle_connection_is_noticed_without_reading(secure: str) -> None:
    """workerd notices only when somebody reads."""
    with connected(secure) as (sock, peer):
        assert not sock.closed.done()
        peer.end()
        assert sock.closed.result(WAIT) is None
        assert peer.read_to_the_end() == (b"", "eof")  # our side was closed, and well


@both
def test_E1_what_was_received_stays_readable_up_to_its_end(secure: str) -> None:
    with connected(secure) as (sock, peer):
        peer.send(pattern(50_000))  # all of it, and the FIN behind it, are in our kernel
        peer.end()
        assert sock.closed.result(WAIT) is None
        reader = sock.readable.get_reader()
        assert reader.read_exactly(50_000, timeout=WAIT) == pattern(50_000)
        for _ in range(3):
            assert reader.read(timeout=WAIT) == b""
        assert reader.closed.result(WAIT) is None


@both
def test_E1_close_drops_what_was_received(secure: str) -> None:
    with connected(secure) as (sock, peer):
        peer.send(b"never read")
        peer.end()
        sock.closed.result(WAIT)
        reader = sock.readable.get_reader()
        sock.close().result(WAIT)
        raised(SocketClosed, reader.read, timeout=WAIT)
        raised(SocketClosed, reader.read_all, timeout=WAIT)


@both
def test_E1_a_write_after_the_peers_end_is_ConnectionLost(secure: str) -> None:
    with connected(secure) as (sock, peer):
        writer = sock.writable.get_writer()
        peer.end()
        sock.closed.result(WAIT)
        for _ in range(2):
            error = raised(ConnectionLost, writer.write, b"too late")
            assert error.phase == "write"
        assert writer.closed.result(WAIT) is None  # R10: E1 closed the write side
        assert sock.closed.exception() is None  # the connection itself ended well


@both
def test_E1_a_FIN_behind_a_full_queue_is_seen_when_there_is_room(secure: str) -> None:
    with connected(secure, high_water_mark=1000) as (sock, peer):
        reader = sock.readable.get_reader()
        sender = Call(lambda: (peer.send(pattern(200_000)), peer.end()))
        assert reader.read_exactly(200_000, timeout=WAIT) == pattern(200_000)
        sender.result()
        assert sock.closed.result(WAIT) is None  # without another read
        assert reader.read(timeout=WAIT) == b""


@both
@pytest.mark.parametrize("reading", [False, True])
def test_E1_a_reset_is_seen_at_once(secure: str, reading: bool) -> None:
    with connected(secure) as (sock, peer):
        if reading:
            sock.readable.get_reader()
        peer.reset()
        error = failure(sock.closed)
        assert type(error) is ConnectionLost and isinstance(error, ConnectionResetError)


@both
def test_E1_a_reset_is_seen_at_once_also_behind_a_full_queue(secure: str) -> None:
    with connected(secure, high_water_mark=1000) as (sock, peer):
        reader = sock.readable.get_reader()
        peer.send(pattern(100_000))
        peer.reset()
        assert type(failure(sock.closed)) is ConnectionLost
        # R9: what arrived before it is still there
        assert reader.read_exactly(100_000, timeout=WAIT) == pattern(100_000)
        raised(ConnectionLost, reader.read, timeout=WAIT)


def test_E1_a_close_notify_without_a_FIN_is_seen_once_reading_has_begun() -> None:
    with connected("on") as (sock, peer):
        peer.send(b"bye")
        peer.notify()
        reader = sock.readable.get_reader()
        assert sock.closed.result(WAIT) is None
        assert reader.read_all(timeout=WAIT) == b"bye"
        assert peer.read_to_the_end() == (b"", "eof")


@both
def test_E1_a_write_in_progress_is_let_finish(secure: str, background: Callable[..., Call]) -> None:
    with connected(secure) as (sock, peer):
        writer = sock.writable.get_writer()
        data = pattern(BULK)
        write = background(writer.write, data).blocked()
        peer.send(b"enough")
        peer.end()
        reader = sock.readable.get_reader()
        assert reader.read_all(timeout=WAIT) == b"enough"  # the end was seen
        assert not write.done() and not sock.closed.done()
        assert peer.read_to_the_end() == (data, "eof")
        assert write.result() is None
        assert sock.closed.result(WAIT) is None
        raised(ConnectionLost, writer.write, b"one more")


@both
def test_E1_the_timeout_of_a_write_in_progress_holds(
    secure: str, background: Callable[..., Call]
) -> None:
    with connected(secure) as (sock, peer):
        writer = sock.writable.get_writer()
        write = background(writer.write, pattern(BULK), timeout=0.5)
        peer.end()
        assert isinstance(write.error(), tcpsock.WriteTimeout)
        assert type(failure(sock.closed)) is tcpsock.WriteTimeout


@both
def test_E1_a_write_that_waits_for_its_turn_does_not_begin(
    secure: str, background: Callable[..., Call]
) -> None:
    with connected(secure) as (sock, peer):
        writer = sock.writable.get_writer()
        data = pattern(BULK)
        write = background(writer.write, data).blocked()
        waiting = background(writer.write, b"later").blocked()
        peer.end()
        reader = sock.readable.get_reader()
        assert reader.read_all(timeout=WAIT) == b""
        received, how = peer.read_to_the_end()
        assert write.result() is None
        assert isinstance(waiting.error(), ConnectionLost)
        assert (received, how) == (data, "eof")


# E2: half-open


@both
def test_E2_after_the_peers_end_writing_goes_on(secure: str) -> None:
    """workerd never resolves `closed` here, its issue 5653."""
    with connected(secure, allow_half_open=True) as (sock, peer):
        reader, writer = sock.streams()
        peer.send(b"question")
        peer.end()
        assert reader.read_all(timeout=WAIT) == b"question"
        assert not sock.closed.done()
        writer.write(b"answer, ")
        writer.write(b"and more")
        assert peer.read_exactly(16) == b"answer, and more"
        assert not sock.closed.done()
        writer.close()
        assert peer.read_to_the_end() == (b"", "eof")
        assert sock.closed.result(WAIT) is None
        assert reader.read(timeout=WAIT) == b""


@both
def test_E2_nobody_needs_to_read_for_closed_to_resolve(secure: str) -> None:
    with connected(secure, allow_half_open=True) as (sock, peer):
        peer.end()
        writer = sock.writable.get_writer()
        writer.write(b"answer")
        assert peer.read_exactly(6) == b"answer"
        writer.close()
        assert sock.closed.result(WAIT) is None


@both
def test_E2_a_peer_that_is_gone_fails_the_next_writes(secure: str) -> None:
    with connected(secure, allow_half_open=True) as (sock, peer):
        reader, writer = sock.streams()
        peer.end()
        assert reader.read(timeout=WAIT) == b""
        peer.reset()
        assert type(failure(sock.closed)) is ConnectionLost
        raised(ConnectionLost, writer.write, b"x")


# E3: both directions


@both
@pytest.mark.parametrize("half_open", [False, True])
def test_E3_we_end_first_then_the_peer(secure: str, half_open: bool) -> None:
    with connected(secure, allow_half_open=half_open) as (sock, peer):
        reader, writer = sock.streams()
        writer.write(b"all")
        writer.close()
        assert peer.read_to_the_end() == (b"all", "eof")
        assert not sock.closed.done()
        peer.send(pattern(100_000))
        assert reader.read_exactly(100_000, timeout=WAIT) == pattern(100_000)
        assert not sock.closed.done()
        peer.end()
        assert sock.closed.result(WAIT) is None
        assert reader.read(timeout=WAIT) == b""
        raised(SocketClosed, writer.write, b"x")


@both
def test_E3_both_end_at_the_same_time(secure: str) -> None:
    for _ in range(20):
        with connected(secure) as (sock, peer):
            writer = sock.writable.get_writer()
            other = Call(peer.end)
            writer.close()
            other.result()
            assert sock.closed.result(WAIT) is None


@both
def test_E3_a_reset_fails_it(secure: str) -> None:
    with connected(secure) as (sock, peer):
        reader, writer = sock.streams()
        writer.close()
        assert peer.read_to_the_end() == (b"", "eof")
        peer.reset()
        error = failure(sock.closed)
        if secure == "off":
            assert type(error) is ConnectionLost and error.code == "connection-lost"
        else:  # T19: after our own FIN, a reset under TLS may be told as a truncation
            assert type(error) in (ConnectionLost, tcpsock.TlsTruncated)
        assert raised(type(error), reader.read, timeout=WAIT).__cause__ is error


def test_E3_R8_a_truncation_fails_it() -> None:
    with connected("on") as (sock, peer):
        reader = sock.readable.get_reader()
        peer.send(b"before")
        peer.cut()
        error = failure(sock.closed)
        assert type(error) is tcpsock.TlsTruncated
        assert reader.read(timeout=WAIT) == b"before"
        assert raised(tcpsock.TlsTruncated, reader.read, timeout=WAIT).__cause__ is error


def test_E3_R8_allow_truncation_makes_it_a_clean_end() -> None:
    with connected("on", tls=trusting(allow_truncation=True)) as (sock, peer):
        reader = sock.readable.get_reader()
        peer.send(b"before")
        peer.cut()
        assert reader.read_all(timeout=WAIT) == b"before"
        assert sock.closed.result(WAIT) is None


@both
@pytest.mark.parametrize("by", ["socket", "writer", "writable"])
def test_E3_W5_an_abort_fails_it_and_resets(secure: str, by: str) -> None:
    reason = RuntimeError("enough")
    with connected(secure) as (sock, peer):
        reader, writer = sock.streams()
        writer.write(b"sent")
        assert peer.read_exactly(4) == b"sent"
        who: Any = {"socket": sock, "writer": writer, "writable": sock.writable}[by]
        who.abort(reason)
        error = failure(sock.closed)
        assert type(error) is SocketAborted and error.reason is reason
        assert error.code == "socket-aborted"
        assert sees_reset(peer)
        for call in (reader.read, lambda: writer.write(b"x")):
            copy = raised(SocketAborted, call)
            assert copy.reason is reason and copy.__cause__ is error
        for get in (sock.readable.get_reader, sock.writable.get_writer):  # R6
            raised(SocketAborted, get)
        assert sock.close() is sock.closed and failure(sock.closed) is error


@both
def test_E3_an_abort_wakes_what_is_blocked(secure: str, background: Callable[..., Call]) -> None:
    with connected(secure) as (sock, peer):
        reader, writer = sock.streams()
        read = background(reader.read).blocked()
        write = background(writer.write, pattern(BULK)).blocked()
        waiting = background(writer.write, b"later").blocked()
        sock.abort("why")
        for call in (read, write, waiting):
            error = call.error()
            assert type(error) is SocketAborted and error.reason == "why"
        assert sees_reset(peer)


def test_E3_abort_before_opened(background: Callable[..., Call]) -> None:
    with BlackHole() as hole:
        sock = tcpsock.connect(hole.address)
        reader, writer = sock.streams()
        calls = [background(reader.read).blocked(), background(writer.write, b"x").blocked()]
        sock.abort("changed my mind")
        for error in (failure(sock.opened), failure(sock.closed), *(c.error() for c in calls)):
            assert type(error) is SocketAborted and error.reason == "changed my mind"


@both
def test_E3_W4_a_write_timeout_fails_it(secure: str) -> None:
    with connected(secure) as (sock, peer):
        reader, writer = sock.streams()
        error = raised(tcpsock.WriteTimeout, writer.write, pattern(BULK), timeout=0.2)
        assert 0 < error.bytes_written < BULK
        stored = failure(sock.closed)
        assert type(stored) is tcpsock.WriteTimeout
        raised(tcpsock.WriteTimeout, writer.write, b"x")
        raised(tcpsock.WriteTimeout, reader.read, timeout=WAIT)
        assert sees_reset(peer)


# E4: close()


def test_E4_close_returns_closed_and_may_be_called_again_and_again() -> None:
    with connected() as (sock, peer):
        assert sock.close() is sock.closed
        assert sock.close() is sock.closed
        peer.end()
        assert sock.closed.result(WAIT) is None
        assert sock.close() is sock.closed
        assert sock.closed.result(WAIT) is None


@both
def test_E4_the_peer_sees_all_that_was_written_and_a_clean_end(secure: str) -> None:
    with connected(secure) as (sock, peer):
        writer = sock.writable.get_writer()
        writer.write(pattern(50_000))
        sock.close()
        assert peer.read_to_the_end() == (pattern(50_000), "eof")
        peer.end()
        assert sock.closed.result(WAIT) is None


@both
@pytest.mark.parametrize("name", READS)
def test_E4_a_blocked_read_raises_SocketClosed_at_once(
    secure: str, name: str, background: Callable[..., Call]
) -> None:
    arguments: dict[str, tuple[Any, ...]] = {
        "readinto": (bytearray(5),),
        "read_exactly": (5,),
        "read_until": (b"x",),
        "peek": (5,),
    }
    with connected(secure, close_timeout=None) as (sock, peer):
        reader = sock.readable.get_reader()
        peer.send(b"abcd" if name not in ("read", "readinto", "next") else b"")
        if name == "next":
            read = background(next, iter(reader)).blocked()
        else:
            read = background(getattr(reader, name), *arguments.get(name, ())).blocked()
        sock.close()
        error = read.error()  # though the peer has not ended, and close() has no limit
        assert type(error) is SocketClosed and error.code == "socket-closed"
        assert not sock.closed.done()
        peer.end()
        assert sock.closed.result(WAIT) is None


@both
def test_E4_nothing_works_after_it(secure: str) -> None:
    """docs: "After close() is called ... This fails"."""
    with connected(secure) as (sock, peer):
        reader, writer = sock.streams()
        peer.send(b"never read")
        sock.close()
        for when in ("at once", "when closed"):
            calls: list[Callable[[], object]] = [
                reader.read,
                lambda: reader.readinto(bytearray(5)),
                lambda: reader.read_exactly(1),
                lambda: reader.read_until(b"\n"),
                reader.readline,
                reader.read_all,
                reader.peek,
                lambda: next(iter(reader)),
                lambda: writer.write(b"x"),
                lambda: writer.writelines([b"x"]),
                sock.readable.get_reader,
                sock.writable.get_writer,
                sock.streams,
                lambda: next(iter(sock.readable)),
            ]
            for call in calls:
                assert type(raised(SocketClosed, call)) is SocketClosed, when
            writer.close()  # closing again: no-op
            sock.writable.close()
            sock.readable.close()
            if when == "at once":
                assert isinstance(failure(reader.closed), SocketClosed)  # R10
                assert isinstance(failure(writer.closed), SocketClosed)
                peer.end()
                assert sock.closed.result(WAIT) is None


@both
def test_E4_get_reader_and_get_writer_fail_after_it_without_locks_held(secure: str) -> None:
    with connected(secure) as (sock, peer):
        sock.close()
        raised(SocketClosed, sock.readable.get_reader)
        raised(SocketClosed, sock.writable.get_writer)
        raised(SocketClosed, sock.streams)
        raised(SocketClosed, lambda: next(iter(sock.readable)))
        peer.end()


@both
def test_E4_unread_data_is_drained_so_that_no_reset_destroys_what_was_written(
    secure: str,
) -> None:
    """The peer goes on sending for a while before it reads our last words."""
    with connected(secure, close_timeout=WAIT) as (sock, peer):
        reader, writer = sock.streams()
        peer.send(pattern(500_000))
        reader.read_exactly(10, timeout=WAIT)
        writer.write(b"last words")
        sock.close()
        for _ in range(10):
            peer.send(pattern(500_000))
        assert peer.read_to_the_end() == (b"last words", "eof")
        assert not sock.closed.done()
        peer.end()
        assert sock.closed.result(WAIT) is None


@both
def test_E4_a_full_queue_is_no_obstacle(secure: str) -> None:
    with connected(secure, high_water_mark=1000, close_timeout=WAIT) as (sock, peer):
        sock.readable.get_reader()
        sender = Call(peer.send, pattern(BULK))
        until(lambda: sock.stats.bytes_buffered >= 1000, "the queue is full")
        sock.close()
        sender.result()
        assert peer.read_to_the_end() == (b"", "eof")
        peer.end()
        assert sock.closed.result(WAIT) is None


@both
def test_E4_close_before_anybody_read(secure: str) -> None:
    with connected(secure, close_timeout=WAIT) as (sock, peer):
        peer.send(pattern(1_000_000))
        sock.close()
        peer.send(pattern(1_000_000))
        assert peer.read_to_the_end() == (b"", "eof")
        peer.end()
        assert sock.closed.result(WAIT) is None


@both
def test_E4_a_peer_that_does_not_hang_up_is_reset_after_close_timeout(secure: str) -> None:
    with connected(secure, close_timeout=0.3) as (sock, peer):
        begun = time.monotonic()
        sock.close()
        assert peer.read_to_the_end() == (b"", "eof")  # first the FIN,
        assert sock.closed.result(WAIT) is None
        assert time.monotonic() - begun >= 0.3
        assert sees_reset(peer)  # then the reset


@both
def test_E4_close_timeout_0_is_FIN_then_reset_at_once(secure: str) -> None:
    with connected(secure, close_timeout=0) as (sock, peer):
        sock.writable.get_writer().write(b"sent before")
        assert peer.read_exactly(11) == b"sent before"
        assert sock.close().result(WAIT) is None
        assert sees_reset(peer)


@both
def test_E4_close_timeout_None_is_no_limit(secure: str) -> None:
    with connected(secure, close_timeout=None) as (sock, peer):
        sock.close()
        assert peer.read_to_the_end() == (b"", "eof")
        assert not concurrent.futures.wait([sock.closed], 0.3).done
        peer.end()
        assert sock.closed.result(WAIT) is None


@both
def test_E4_a_write_in_progress_is_let_finish(secure: str, background: Callable[..., Call]) -> None:
    with connected(secure, close_timeout=WAIT) as (sock, peer):
        data = pattern(BULK)
        write = background(sock.writable.get_writer().write, data).blocked()
        assert sock.close() is sock.closed  # at once
        assert not write.done()
        assert peer.read_to_the_end() == (data, "eof")
        assert write.result() is None
        peer.end()
        assert sock.closed.result(WAIT) is None


@both
def test_E4_a_write_that_had_to_be_cut_off_raises_SocketClosed_in_its_own_thread(
    secure: str, background: Callable[..., Call]
) -> None:
    with connected(secure, close_timeout=0.3) as (sock, peer):
        write = background(sock.writable.get_writer().write, pattern(BULK)).blocked()
        begun = time.monotonic()
        assert sock.close().result(WAIT) is None
        assert time.monotonic() - begun >= 0.3
        assert type(write.error()) is SocketClosed
        assert sees_reset(peer)


@both
def test_E4_a_write_that_waits_for_its_turn_does_not_begin_after_close(
    secure: str, background: Callable[..., Call]
) -> None:
    with connected(secure, close_timeout=WAIT) as (sock, peer):
        writer, data = sock.writable.get_writer(), pattern(BULK)
        write = background(writer.write, data).blocked()
        waiting = background(writer.write, b"later").blocked()
        sock.close()
        assert peer.read_to_the_end() == (data, "eof")
        assert write.result() is None
        assert type(waiting.error()) is SocketClosed
        peer.end()
        assert sock.closed.result(WAIT) is None


@both
def test_E4_the_timeout_of_a_write_that_close_waits_for_holds(
    secure: str, background: Callable[..., Call]
) -> None:
    with connected(secure, close_timeout=None) as (sock, _peer):
        write = background(sock.writable.get_writer().write, pattern(BULK), timeout=0.5)
        write_error = Call(write.error)
        until(lambda: sock.stats.bytes_sent > 0 or write.done(), "the write has begun")
        sock.close()
        error = write_error.result()
        assert isinstance(error, (tcpsock.WriteTimeout, SocketClosed))
        assert sock.closed.result(WAIT) is None  # E4: after close() it never fails


@both
def test_E4_a_peer_that_resets_is_not_the_callers_failure(secure: str) -> None:
    with connected(secure, close_timeout=None) as (sock, peer):
        sock.close()
        assert peer.read_to_the_end() == (b"", "eof")
        peer.reset()
        assert sock.closed.result(WAIT) is None


def test_E4_R8_a_truncation_after_close_is_ignored() -> None:
    with connected("on", close_timeout=None) as (sock, peer):
        sock.close()
        assert peer.read_to_the_end() == (b"", "eof")
        peer.cut()
        assert sock.closed.result(WAIT) is None


def test_E4_garbage_after_close_is_ignored() -> None:
    with connected("on", close_timeout=None) as (sock, peer):
        sock.close()
        assert peer.read_to_the_end() == (b"", "eof")
        peer.send_raw(b"this is no TLS record" * 100)
        with contextlib.suppress(OSError):  # we may have hung up on that
            peer.cut()
        assert sock.closed.result(WAIT) is None


@both
def test_E4_W5_abort_after_close_ends_the_wait_and_closed_resolves(secure: str) -> None:
    with connected(secure, close_timeout=None) as (sock, peer):
        sock.close()
        sock.abort("no more patience")
        assert sock.closed.result(WAIT) is None
        assert sees_reset(peer)


@both
def test_E4_W5_abort_after_close_ends_a_write_in_progress(
    secure: str, background: Callable[..., Call]
) -> None:
    with connected(secure, close_timeout=None) as (sock, _peer):
        write = background(sock.writable.get_writer().write, pattern(BULK)).blocked()
        sock.close()
        sock.abort()
        assert isinstance(write.error(), SocketClosed)
        assert sock.closed.result(WAIT) is None


@both
def test_E4_close_after_the_writers_close(secure: str) -> None:
    with connected(secure) as (sock, peer):
        sock.writable.get_writer().close()
        assert peer.read_to_the_end() == (b"", "eof")
        sock.close()
        peer.send(b"unread")
        peer.end()
        assert sock.closed.result(WAIT) is None


@both
def test_E4_R7_cancelled_and_writer_closed_closes_the_socket(secure: str) -> None:
    with connected(secure, close_timeout=0.2) as (sock, peer):
        reader, writer = sock.streams()
        reader.cancel()
        writer.close()
        assert peer.read_to_the_end() == (b"", "eof")
        assert sock.closed.result(WAIT) is None  # the peer didn't hang up: close_timeout
        assert sees_reset(peer)


@both
def test_E4_the_descriptor_is_closed_when_closed_resolves(secure: str) -> None:
    before = open_descriptors()
    for _ in range(20):
        with connected(secure) as (sock, peer):
            peer.end()
            sock.close().result(WAIT)
            # the listener's and the peer's are still open
            assert open_descriptors() <= before + 2


def resolving(names: Names, _: contextlib.ExitStack) -> tcpsock.Socket:
    names.hang("db.example")
    return tcpsock.connect("db.example:80", connect_timeout=None)


def dialling(_: Names, peers: contextlib.ExitStack) -> tcpsock.Socket:
    hole = peers.enter_context(BlackHole())
    return tcpsock.connect(hole.address, connect_timeout=None)


def shaking_hands(_: Names, peers: contextlib.ExitStack) -> tcpsock.Socket:
    listener = peers.enter_context(Listener())
    sock = tcpsock.connect(
        listener.address, secure_transport="on", tls=trusting(), connect_timeout=None
    )
    assert listener.accept().sock.recv(1)  # ClientHello
    return sock


@pytest.mark.parametrize("make", [resolving, dialling, shaking_hands])
def test_E4_close_before_opened_ends_the_attempt_at_once(
    make: Callable[[Names, contextlib.ExitStack], tcpsock.Socket],
    background: Callable[..., Call],
) -> None:
    with Names() as names, contextlib.ExitStack() as peers:
        sock = make(names, peers)
        reader, writer = sock.streams()
        read = background(reader.read).blocked()
        write = background(writer.write, b"x").blocked()
        assert sock.close() is sock.closed
        assert sock.closed.result(WAIT) is None
        assert type(failure(sock.opened)) is SocketClosed
        assert type(read.error()) is SocketClosed and type(write.error()) is SocketClosed
        raised(SocketClosed, reader.read)
        raised(SocketClosed, writer.write, b"x")
        assert sock.close().result(WAIT) is None


@both
@pytest.mark.parametrize("which", ["opened", "closed"])
def test_E4_a_done_callback_may_close(secure: str, which: str) -> None:
    """close() never waits, so the connection's own thread may call it."""
    with Listener() as listener, Names() as names:
        names["localhost"] = [("127.0.0.1", listener.port)]
        answer = names.hang("localhost")
        options: dict[str, Any] = {"tls": trusting()} if secure == "on" else {}
        sock = tcpsock.connect("localhost:80", secure_transport=secure, **options)  # type: ignore[arg-type]
        returned: list[object] = []
        getattr(sock, which).add_done_callback(lambda _: returned.append(sock.close()))
        answer.set()
        peer = listener.accept()
        if secure == "on":
            peer.start_tls(tls_server())
        peer.end()
        assert sock.closed.result(WAIT) is None
        until(lambda: returned, "the callback has run")
        assert returned == [sock.closed]


def test_E4_close_from_eight_threads() -> None:
    for _ in range(20):
        with connected() as (sock, peer):
            together = threading.Barrier(8)

            def close(sock: tcpsock.Socket = sock, together: threading.Barrier = together) -> Any:
                together.wait(WAIT)
                return sock.close()

            calls = [Call(close) for _ in range(8)]
            assert all(call.result() is sock.closed for call in calls)
            peer.end()
            assert sock.closed.result(WAIT) is None


@both
def test_E4_close_notify_and_FIN_are_on_their_way_when_close_returns(secure: str) -> None:
    """So a process that ends right behind it has ended its connections well."""
    ends: list[tuple[bytes, str]] = []

    def serve_one(sock: socket.socket) -> None:
        if isinstance(sock, ssl.SSLSocket):
            sock.suppress_ragged_eofs = False
        try:
            received = b"".join(iter(lambda: sock.recv(100), b""))
        except OSError as error:
            ends.append((b"", repr(error)))
        else:
            ends.append((received, "eof"))

    context = testing.server_context()
    context.num_tickets = (
        0  # unread ones would make the kernel reset a connection without a process
    )
    with testing.serve(serve_one, tls=context if secure == "on" else False) as server:
        script = """
import os, sys
sys.path.insert(0, sys.argv[1])
import tcpsock
options = {}
if sys.argv[3] == "on":
    options = {"secure_transport": "on", "tls": tcpsock.TlsOptions(ca_data=sys.argv[4])}
sock = tcpsock.connect(sys.argv[2], **options)
sock.opened.result(20)
sock.writable.get_writer().write(b"bye")
sock.close()
os._exit(0)
"""
        for _ in range(3):
            subprocess.run(
                [sys.executable, "-c", script, str(ROOT), server.address, secure, server.ca_data],
                check=True,
                timeout=50,
            )
        until(lambda: len(ends) == 3, "the server saw the ends")
    assert ends == [(b"bye", "eof")] * 3


@pytest.mark.parametrize("how", ["failed", "aborted", "ended", "detached", "upgraded"])
def test_E4_close_never_raises(how: str) -> None:
    with connected("starttls") as (sock, peer):
        if how == "failed":
            peer.reset()
            failure(sock.closed)
        elif how == "aborted":
            sock.abort()
        elif how == "ended":
            peer.end()
            sock.closed.result(WAIT)
        elif how == "detached":
            sock.detach(timeout=WAIT).close()
        else:
            with sock.start_tls() as new:
                peer.start_tls(tls_server())
                new.opened.result(WAIT)
                assert sock.close() is sock.closed
                peer.end()
        for _ in range(2):
            assert sock.close() is sock.closed
        failure(sock.closed)
        assert sock.close() is sock.closed


@both
def test_E4_closing_a_stream_closes(secure: str) -> None:
    """WritableStream.close() half-closes, ReadableStream.close() closes the socket."""
    with connected(secure) as (sock, peer):
        sock.writable.close()
        assert peer.read_to_the_end() == (b"", "eof")
        assert not sock.closed.done()
        sock.readable.close()
        raised(SocketClosed, sock.readable.get_reader)
        peer.end()
        assert sock.closed.result(WAIT) is None


# E5: with


@both
def test_E5_leaving_the_block_closes_and_waits(secure: str) -> None:
    with connected(secure) as (sock, peer):
        ended = Call(lambda: (peer.read_to_the_end(), peer.end()))
        with sock as entered:
            assert entered is sock
        assert sock.closed.done() and sock.closed.exception() is None
        assert ended.result()[0] == (b"", "eof")


@both
def test_E5_leaving_the_block_waits_for_close_timeout_at_most(secure: str) -> None:
    with connected(secure, close_timeout=0.2) as (sock, peer):
        begun = time.monotonic()
        with sock:
            pass
        assert time.monotonic() - begun >= 0.2
        assert sock.closed.result(0) is None
        assert sees_reset(peer)


@both
@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, GeneratorExit, SystemExit])
def test_E5_leaving_it_with_an_exception_closes_too_and_the_exception_goes_on(
    secure: str, kind: type[BaseException]
) -> None:
    with connected(secure, close_timeout=0) as (sock, _peer):
        ours = kind("out of the block")
        with pytest.raises(kind) as caught, sock:
            raise ours
        assert caught.value is ours and ours.__cause__ is None
        assert sock.closed.done() and sock.closed.exception() is None


def test_E5_leaving_never_raises_what_closed_failed_with() -> None:
    with tcpsock.connect(f"127.0.0.1:{free_port()}") as sock:
        failure(sock.opened)
    assert isinstance(sock.closed.exception(), tcpsock.ConnectError)
    with connected() as (sock, peer):
        with sock:
            peer.reset()
            failure(sock.closed)
        with sock:  # a block may be entered again, to no effect
            pass
        assert isinstance(sock.closed.exception(), ConnectionLost)
    with connected() as (sock, _peer):
        with sock:
            sock.abort()
        assert isinstance(sock.closed.exception(), SocketAborted)


def test_E5_leaving_the_block_while_opening() -> None:
    with BlackHole() as hole:
        with tcpsock.connect(hole.address, connect_timeout=None) as sock:
            pass
        assert sock.closed.result(0) is None
        assert type(sock.opened.exception(0)) is SocketClosed


def test_E5_a_block_entered_before_start_tls_closes_the_socket_that_took_over() -> None:
    with connected("starttls", close_timeout=0) as (sock, peer):
        with sock:
            new = sock.start_tls()
            peer.start_tls(tls_server())
            new.opened.result(WAIT)
            sock.close()  # of the old one: stays a no-op
            assert not new.closed.done()
        assert new.closed.done() and new.closed.exception() is None
        raised(SocketClosed, new.readable.get_reader)


def test_E5_reader_and_writer_blocks_release_their_locks_only() -> None:
    with connected() as (sock, peer):
        with sock.readable.get_reader(), sock.writable.get_writer():
            assert sock.readable.locked and sock.writable.locked
        assert not sock.readable.locked and not sock.writable.locked
        sock.writable.get_writer().write(b"still open")
        assert peer.read_exactly(10) == b"still open"


# E6: dropping it


@contextlib.contextmanager
def dropping() -> Iterator[list[warnings.WarningMessage]]:
    """Collects the warnings inside, and garbage at its end."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield caught
        gc.collect()


def opened_one(listener: Listener, secure: str, **options: Any) -> tuple[tcpsock.Socket, Peer]:
    tls: dict[str, Any] = {"tls": trusting()} if secure != "off" else {}
    sock = tcpsock.connect(listener.address, secure_transport=secure, **tls, **options)  # type: ignore[arg-type]
    peer = listener.accept()
    if secure == "on":
        peer.start_tls(tls_server())
    sock.opened.result(WAIT)
    return sock, peer


@both
def test_E6_dropping_the_last_reference_closes_with_a_ResourceWarning(secure: str) -> None:
    sockets, before = living(tcpsock.Socket), open_descriptors()
    with Listener() as listener:
        sock, peer = opened_one(listener, secure)
        closed = sock.closed
        with dropping() as caught:
            del sock
            gc.collect()
            assert peer.read_to_the_end() == (b"", "eof")
            peer.end()
            failure(closed)
        (warning,) = caught
        assert warning.category is ResourceWarning
        assert listener.address in str(warning.message)
        assert warning.source is not None
        del warning, caught
    assert living(tcpsock.Socket) <= sockets
    until(lambda: open_descriptors() <= before, "the descriptors are gone")


@both
@pytest.mark.parametrize(
    "kept", ["readable", "writable", "reader", "writer", "iterator", "file in", "file out"]
)
def test_E6_streams_readers_and_writers_count_as_references(secure: str, kept: str) -> None:
    def keep(sock: tcpsock.Socket) -> Any:
        return {
            "readable": lambda: sock.readable,
            "writable": lambda: sock.writable,
            "reader": lambda: sock.readable.get_reader(),
            "writer": lambda: sock.writable.get_writer(),
            "iterator": lambda: iter(sock.readable),
            "file in": lambda: sock.readable.get_reader().as_file(),
            "file out": lambda: sock.writable.get_writer().as_file(),
        }[kept]()

    with Listener() as listener:
        sock, peer = opened_one(listener, secure, timeout=WAIT)
        thing = keep(sock)
        del sock
        with dropping() as caught:
            gc.collect()
            assert caught == []
            if kept in ("readable", "reader", "iterator", "file in"):
                peer.send(b"hello")
                if kept == "readable":
                    assert next(iter(thing)) == b"hello"
                elif kept == "iterator":
                    assert next(thing) == b"hello"
                elif kept == "reader":
                    assert thing.read(timeout=WAIT) == b"hello"
                else:
                    assert thing.read(5) == b"hello"
            else:
                if kept == "writable":
                    thing.get_writer().write(b"hello")
                else:
                    thing.write(b"hello")
                    if kept == "file out":
                        thing.flush()
                assert peer.read_exactly(5) == b"hello"
            assert caught == []
            del thing
            gc.collect()
            assert peer.read_to_the_end() == (b"", "eof")
            peer.end()
        assert [warning.category for warning in caught] == [ResourceWarning]
        caught.clear()


@both
def test_E6_the_futures_are_no_references(secure: str) -> None:
    with Listener() as listener:
        sock, peer = opened_one(listener, secure)
        opened, closed = sock.opened, sock.closed
        with dropping():
            del sock
            gc.collect()
            assert peer.read_to_the_end() == (b"", "eof")
            peer.end()
            assert closed.result(WAIT) is None
        assert opened.result(0).remote_address == listener.address


def test_E6_a_blocked_read_is_a_reference(background: Callable[..., Call]) -> None:
    with Listener() as listener:
        sock, peer = opened_one(listener, "off")
        read = background(sock.readable.get_reader().read)
        del sock
        gc.collect()
        read.blocked()
        with dropping():
            peer.send(b"hello")
            assert read.result() == b"hello"
            del read
            gc.collect()
            assert peer.read_to_the_end() == (b"", "eof")
            peer.end()


def test_E6_a_socket_in_a_reference_cycle() -> None:
    with Listener() as listener:
        sock, peer = opened_one(listener, "off")
        cycle: list[Any] = [sock, *sock.streams()]
        cycle.append(cycle)
        with dropping() as caught:
            del sock, cycle
            gc.collect()
            assert peer.read_to_the_end() == (b"", "eof")
            peer.end()
        assert [warning.category for warning in caught] == [ResourceWarning]
        caught.clear()


def test_E6_a_dropped_peer_that_never_hangs_up_is_reset() -> None:
    with Listener() as listener:
        sock, peer = opened_one(listener, "off", close_timeout=0.1)
        closed = sock.closed
        with dropping():
            del sock
            gc.collect()
            failure(closed)
            assert sees_reset(peer)


@pytest.mark.parametrize("how", ["closed", "aborted", "detached", "ended", "failed", "refused"])
def test_E6_no_warning_for_a_socket_that_has_ended(how: str) -> None:
    with Listener() as listener, dropping() as caught:
        if how == "refused":
            sock = tcpsock.connect(f"127.0.0.1:{free_port()}")
        else:
            sock, peer = opened_one(listener, "off")
        if how == "closed":
            peer.end()
            sock.close()
        elif how == "aborted":
            sock.abort()
        elif how == "detached":
            sock.detach(timeout=WAIT).close()
        elif how == "ended":
            peer.end()
        elif how == "failed":
            peer.reset()
        failure(sock.closed)
        del sock
        gc.collect()
        assert caught == []


def test_E6_dropping_the_old_socket_of_an_upgrade_harms_nothing() -> None:
    with Listener() as listener, dropping() as caught:
        sock, peer = opened_one(listener, "starttls")
        with sock.start_tls() as new:
            del sock
            gc.collect()
            peer.start_tls(tls_server())
            new.opened.result(WAIT)
            new.writable.get_writer().write(b"fine")
            assert peer.read_exactly(4) == b"fine"
            peer.end()
        assert caught == []


def test_E6_dropping_the_socket_that_took_over_closes_it_though_the_old_one_is_held() -> None:
    with Listener() as listener, dropping() as caught:
        old, peer = opened_one(listener, "starttls")
        new = old.start_tls()
        peer.start_tls(tls_server())
        new.opened.result(WAIT)
        closed = new.closed
        del new
        gc.collect()
        assert peer.read_to_the_end() == (b"", "eof")
        peer.end()
        assert closed.result(WAIT) is None
        assert [warning.category for warning in caught] == [ResourceWarning]
        caught.clear()
        assert old.upgraded and old.close() is old.closed


def test_E6_T26_a_socket_that_failed_is_collected_though_its_error_is_kept() -> None:
    sockets = living(tcpsock.Socket)
    errors = []
    for _ in range(5):
        with connected() as (sock, peer):
            reader = sock.readable.get_reader()
            peer.reset()
            errors.append(raised(ConnectionLost, reader.read, timeout=WAIT).with_traceback(None))
            errors.append(failure(sock.closed))  # type: ignore[arg-type]
        del sock, reader
    assert living(tcpsock.Socket) <= sockets


# detach()


@both
def test_detach_gives_the_real_blocking_socket(secure: str) -> None:
    with connected(secure) as (sock, peer):
        reader = sock.readable.get_reader()
        with sock.detach(timeout=WAIT) as real:
            assert isinstance(real, ssl.SSLSocket if secure == "on" else socket.socket)
            assert (type(real) is socket.socket) is (secure == "off")
            assert real.gettimeout() is None
            assert sock.closed.result(WAIT) is None
            for call in (
                reader.read,
                sock.readable.get_reader,
                sock.writable.get_writer,
                sock.streams,
            ):
                raised(SocketClosed, call)
            raised(SocketClosed, sock.detach)
            assert isinstance(failure(reader.closed), SocketClosed)  # R10
            sock.close()
            sock.abort()  # both do nothing to what was handed over
            real.settimeout(WAIT)
            real.sendall(b"ping")
            assert peer.read_exactly(4) == b"ping"
            peer.send(b"pong")
            assert real.recv(10) == b"pong"
            peer.end()
            assert real.recv(10) == b""


@both
def test_detach_loses_nothing_that_is_in_the_kernel(secure: str) -> None:
    with connected(secure) as (sock, peer):
        peer.send(b"greeting")
        peer.until_acknowledged()
        with sock.detach(timeout=WAIT) as real:
            assert real.recv(100) == b"greeting"


@both
def test_detach_with_buffered_bytes_is_StreamBusy_and_nothing_has_changed(secure: str) -> None:
    with connected(secure) as (sock, peer):
        reader, writer = sock.streams()
        peer.send(b"greeting")
        assert reader.peek(8, timeout=WAIT) == b"greeting"
        raised(tcpsock.StreamBusy, sock.detach, timeout=WAIT)
        assert reader.read_exactly(8, timeout=WAIT) == b"greeting"
        writer.write(b"fine")
        assert peer.read_exactly(4) == b"fine"
        with sock.detach(timeout=WAIT) as real:  # now it goes
            real.sendall(b"too")
            assert peer.read_exactly(3) == b"too"


@both
def test_detach_during_a_read_or_a_write_is_StreamBusy(
    secure: str, background: Callable[..., Call]
) -> None:
    with connected(secure) as (sock, peer):
        reader, writer = sock.streams()
        read = background(reader.read).blocked()
        raised(tcpsock.StreamBusy, sock.detach, timeout=WAIT)
        peer.send(b"data")
        assert read.result() == b"data"
        write = background(writer.write, pattern(BULK)).blocked()
        raised(tcpsock.StreamBusy, sock.detach, timeout=WAIT)
        assert peer.read_exactly(BULK) == pattern(BULK)
        assert write.result() is None


def test_detach_waits_for_opened_at_most_so_long() -> None:
    with Listener() as listener, Names() as names:
        names["db.example"] = [("127.0.0.1", listener.port)]
        answer = names.hang("db.example")
        sock = tcpsock.connect("db.example:80")
        for timeout in (0, 0.05):
            raised(tcpsock.ReadTimeout, sock.detach, timeout=timeout)
        answer.set()
        with sock.detach(timeout=WAIT) as real:
            peer = listener.accept()
            real.sendall(b"x")
            assert peer.read_exactly(1) == b"x"


def test_detach_of_one_that_closed_or_failed_raises_that() -> None:
    with connected() as (sock, peer):
        peer.reset()
        failure(sock.closed)
        raised(ConnectionLost, sock.detach)
    with connected() as (sock, _peer):
        sock.abort("why")
        assert raised(SocketAborted, sock.detach).reason == "why"
    with connected() as (sock, _peer):
        sock.close()
        raised(SocketClosed, sock.detach)
    sock = tcpsock.connect(f"127.0.0.1:{free_port()}")
    raised(tcpsock.ConnectError, sock.detach)


@pytest.mark.parametrize("allow", [False, True])
def test_detach_of_a_TLS_socket_keeps_allow_truncation(allow: bool) -> None:
    with connected("on", tls=trusting(allow_truncation=allow)) as (sock, peer):
        real = sock.detach(timeout=WAIT)
        assert isinstance(real, ssl.SSLSocket)
        with real:
            assert real.suppress_ragged_eofs is allow
            peer.cut()
            real.settimeout(WAIT)
            if allow:
                assert real.recv(1) == b""
            else:
                with pytest.raises(ssl.SSLError):
                    real.recv(1)


# stats and repr


@both
def test_L4_stats_are_exact_at_the_end_and_legal_in_every_state(secure: str) -> None:
    with connected(secure) as (sock, peer):
        reader, writer = sock.streams()
        before = sock.stats
        assert (before.bytes_received, before.bytes_sent, before.bytes_buffered) == (0, 0, 0)
        writer.write(pattern(100_000))
        writer.close()
        assert peer.read_to_the_end() == (pattern(100_000), "eof")
        peer.send(pattern(70_000))
        peer.end()
        assert len(reader.read_all(timeout=WAIT)) == 70_000
        sock.closed.result(WAIT)
        after = sock.stats
        assert (after.bytes_received, after.bytes_sent, after.bytes_buffered) == (
            70_000,
            100_000,
            0,
        )
        assert after.age >= before.age >= 0 and 0 <= after.idle <= after.age
        assert sock.close() and sock.stats.bytes_sent == 100_000


@both
def test_L5_repr_tells_the_state(secure: str) -> None:
    with Names() as names:
        names.hang("db.example")
        sock = tcpsock.connect("db.example:5432")
        assert "db.example:5432" in repr(sock) and "connecting" in repr(sock)
        sock.close().result(WAIT)
        assert "closed" in repr(sock)
    with connected(secure) as (sock, peer):
        info = sock.opened.result(WAIT)
        assert "open" in repr(sock)
        assert str(info.local_address) in repr(sock) and str(info.remote_address) in repr(sock)
        assert ("TLSv1.3" in repr(sock)) is (secure == "on")
        reader, writer = sock.streams()
        for thing in (sock.readable, sock.writable, reader, writer, info, sock.stats):
            assert type(thing).__name__ in repr(thing)
        writer.close()
        assert "half-closed" in repr(sock)
        peer.end()
        sock.closed.result(WAIT)
        assert "closed" in repr(sock)
    with connected(secure) as (sock, peer):
        peer.reset()
        failure(sock.closed)
        assert "failed" in repr(sock)
