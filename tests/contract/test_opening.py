"""Opening: what connect() gives at once, what `opened` tells, and how attempts fail (O1 to O8)."""

from __future__ import annotations

import concurrent.futures
import contextlib
import errno
import gc
import hashlib
import os
import pathlib
import socket
import ssl
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

import pytest
from _ending_peers import (
    BlackHole,
    Listener,
    Names,
    another_authority,
    ca_data,
    connected,
    failure,
    free_port,
    living,
    note_server_names,
    raised,
    sees_reset,
    tls_server,
    tls_server_for,
    trusting,
)
from peers import WAIT, Call, open_descriptors, until

import tcpsock
from tcpsock import SocketClosed, TlsOptions, testing

ROOT = pathlib.Path(__file__).parents[2]
NOTHING_THERE = socket.gaierror(socket.EAI_NONAME, "Name or service not known")


# O1: connect() returns at once


def test_O1_connect_returns_while_the_name_is_looked_up() -> None:
    with Listener() as listener, Names() as names:
        names["db.example"] = [("127.0.0.1", listener.port)]
        answer = names.hang("db.example")
        sock = tcpsock.connect("db.example:80", close_timeout=0)
        assert not sock.opened.done() and not sock.closed.done()
        answer.set()
        assert sock.opened.result(WAIT).remote_address == listener.address
        sock.close().result(WAIT)


def test_O1_reads_and_writes_wait_for_opened(background: Callable[..., Call]) -> None:
    with Listener() as listener, Names() as names:
        names["db.example"] = [("127.0.0.1", listener.port)]
        answer = names.hang("db.example")
        sock = tcpsock.connect("db.example:80", close_timeout=0)
        reader, writer = sock.streams()
        read = background(reader.read_exactly, 5).blocked()
        write = background(writer.write, b"hello").blocked()
        assert not sock.opened.done()
        answer.set()
        peer = listener.accept()
        assert peer.read_exactly(5) == b"hello"
        assert write.result() is None
        peer.send(b"world")
        assert read.result() == b"world"
        sock.close().result(WAIT)


def test_O1_reads_and_writes_wait_for_the_TLS_handshake(background: Callable[..., Call]) -> None:
    """Nothing goes out in clear while they wait."""
    with Listener() as listener:
        sock = tcpsock.connect(
            listener.address, secure_transport="on", tls=trusting(), close_timeout=0
        )
        reader, writer = sock.streams()
        peer = listener.accept()
        read = background(reader.read_exactly, 5).blocked()
        write = background(writer.write, b"hello").blocked()
        peer.start_tls(tls_server())
        assert peer.read_exactly(5) == b"hello"
        peer.send(b"world")
        assert (read.result(), write.result()) == (b"world", None)
        sock.close().result(WAIT)


def test_O1_W2_a_timeout_while_waiting_for_opened_harms_nothing() -> None:
    with Listener() as listener, Names() as names:
        names["db.example"] = [("127.0.0.1", listener.port)]
        answer = names.hang("db.example")
        sock = tcpsock.connect("db.example:80", close_timeout=0)
        reader, writer = sock.streams()
        raised(tcpsock.ReadTimeout, reader.read, timeout=0.01)
        error = raised(tcpsock.WriteTimeout, writer.write, b"never sent", timeout=0.01)
        assert error.bytes_written == 0
        answer.set()
        peer = listener.accept()
        writer.write(b"sent")
        assert peer.read() == b"sent"
        sock.close().result(WAIT)


def test_O1_closing_the_writer_before_opened_half_closes_once_it_is_open() -> None:
    with Listener() as listener, Names() as names:
        names["db.example"] = [("127.0.0.1", listener.port)]
        answer = names.hang("db.example")
        sock = tcpsock.connect("db.example:80")
        reader, writer = sock.streams()
        writer.close()
        raised(SocketClosed, writer.write, b"too late")
        answer.set()
        peer = listener.accept()
        assert peer.read_all() == b""
        peer.send(b"still read")
        peer.end()
        assert reader.read_all(timeout=WAIT) == b"still read"
        assert sock.closed.result(WAIT) is None


def test_api_streams_and_futures_are_the_same_objects_at_every_access() -> None:
    with connected() as (sock, _peer):
        for name in ("readable", "writable", "opened", "closed"):
            assert getattr(sock, name) is getattr(sock, name)
        reader, writer = sock.streams()
        assert isinstance(reader, tcpsock.Reader) and isinstance(writer, tcpsock.Writer)
        assert sock.readable.locked and sock.writable.locked


def test_api_a_socket_is_made_by_connect_and_adopt_only() -> None:
    with pytest.raises(TypeError):
        tcpsock.Socket()


# O2: the futures


@pytest.mark.parametrize("secure", ["off", "on"])
def test_O2_the_futures_are_running_and_cannot_be_cancelled(secure: str) -> None:
    with Listener() as listener, Names() as names:
        names["db.example"] = [("127.0.0.1", listener.port)]
        answer = names.hang("db.example")
        options: dict[str, Any] = {"tls": trusting(server_hostname="localhost")}
        sock = tcpsock.connect(
            "db.example:80",
            secure_transport=secure,  # type: ignore[arg-type]
            **(options if secure == "on" else {}),
        )
        for future in (sock.opened, sock.closed):
            assert isinstance(future, concurrent.futures.Future)
            assert future.running() and not future.done()
            assert future.cancel() is False
            assert not future.cancelled()
        answer.set()
        peer = listener.accept()
        if secure == "on":
            peer.start_tls(tls_server())
        sock.opened.result(WAIT)
        assert sock.closed.running() and sock.closed.cancel() is False
        peer.end()
        assert sock.close().result(WAIT) is None
        assert sock.closed.cancel() is False


def test_O2_each_future_settles_exactly_once() -> None:
    calls: list[object] = []
    with connected() as (sock, peer):
        sock.opened.add_done_callback(calls.append)
        sock.closed.add_done_callback(calls.append)
        peer.end()
        sock.closed.result(WAIT)
        sock.close()
        sock.abort()
        sock.close().result(WAIT)
        assert calls == [sock.opened, sock.closed]


@pytest.mark.parametrize("which", ["opened", "closed"])
def test_O2_a_done_callback_may_call_anything_that_does_not_wait(which: str) -> None:
    """The futures settle outside of every lock."""
    results: concurrent.futures.Future[list[object]] = concurrent.futures.Future()

    def call_back(future: concurrent.futures.Future[Any]) -> None:
        def everything() -> list[object]:
            done = [repr(sock), sock.stats, sock.readable.locked, sock.upgraded, sock.tls_session]
            if which == "opened":
                reader, writer = sock.streams()
                try:
                    reader.read(timeout=0)
                except tcpsock.ReadTimeout:
                    done.append("nothing there")
                writer.write(b"from the callback")
                reader.release_lock()
                sock.readable.cancel()
                writer.close()
            done += [sock.close(), sock.close()]
            sock.abort()
            sock.readable.cancel()
            sock.writable.abort()
            return done

        try:
            # In two threads: what the callback calls itself, and what others call meanwhile.
            other = Call(lambda: (repr(sock), sock.stats, sock.readable.locked))
            other.result()
            results.set_result(everything())
        except BaseException as error:
            results.set_exception(error)

    with Listener() as listener, Names() as names:
        names["db.example"] = [("127.0.0.1", listener.port)]
        answer = names.hang("db.example")
        sock = tcpsock.connect("db.example:80", close_timeout=0)
        getattr(sock, which).add_done_callback(call_back)
        answer.set()
        peer = listener.accept()
        if which == "closed":
            peer.end()
        results.result(WAIT)
        if which == "opened":
            assert peer.read_exactly(17) == b"from the callback"
        failure(sock.closed)


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, ValueError, GeneratorExit])
def test_O2_nothing_that_a_callback_raises_stops_the_connection(
    error: type[BaseException], background: Callable[..., Call]
) -> None:
    called: list[object] = []

    def call_back(future: object) -> None:
        called.append(future)
        raise error("out of a callback")

    with Listener() as listener, Names() as names:
        names["db.example"] = [("127.0.0.1", listener.port)]
        answer = names.hang("db.example")
        sock = tcpsock.connect("db.example:80")
        sock.opened.add_done_callback(call_back)
        sock.opened.add_done_callback(called.append)  # those after it are called too
        sock.closed.add_done_callback(call_back)
        reader, writer = sock.streams()
        read = background(reader.read).blocked()
        answer.set()
        peer = listener.accept()
        peer.send(b"data")
        assert read.result() == b"data"
        writer.write(b"reply")
        assert peer.read() == b"reply"
        peer.end()
        assert reader.read(timeout=WAIT) == b""
        assert sock.closed.result(WAIT) is None
        until(lambda: len(called) == 3, "all callbacks were called")


@pytest.mark.parametrize("by", ["set_result", "set_exception"])
@pytest.mark.parametrize("which", ["opened", "closed"])
def test_O2_no_set_result_by_the_user_stops_the_connection(
    which: str, by: str, background: Callable[..., Call]
) -> None:
    before = open_descriptors()
    with Listener() as listener, Names() as names:
        names["db.example"] = [("127.0.0.1", listener.port)]
        answer = names.hang("db.example")
        sock = tcpsock.connect("db.example:80")
        value: Any = ValueError("mine") if by == "set_exception" else "mine"
        getattr(getattr(sock, which), by)(value)
        reader, writer = sock.streams()
        read = background(reader.read).blocked()
        answer.set()
        peer = listener.accept()
        peer.send(b"data")
        assert read.result() == b"data"
        writer.write(b"reply")
        assert peer.read() == b"reply"
        peer.end()
        assert reader.read(timeout=WAIT) == b""
        sock.close()
        failure(sock.closed)
    until(lambda: open_descriptors() <= before, "the descriptors are gone")


@pytest.mark.parametrize("which", ["opened", "closed"])
def test_O2_a_callback_that_blocks_holds_up_no_other_socket(which: str) -> None:
    inside, release = threading.Event(), threading.Event()

    def block(_future: object) -> None:
        inside.set()
        release.wait(6 * WAIT)

    with Listener() as listener, Names() as names:
        names["db.example"] = [("127.0.0.1", listener.port)]
        answer = names.hang("db.example")
        blocked = tcpsock.connect("db.example:80", close_timeout=0)
        getattr(blocked, which).add_done_callback(block)
        answer.set()
        peer = listener.accept()
        if which == "closed":
            peer.end()
        try:
            assert inside.wait(WAIT)
            for _ in range(3):
                with tcpsock.connect(listener.address) as other:
                    peer = listener.accept()
                    reader, writer = other.streams()
                    writer.write(b"ping")
                    assert peer.read_exactly(4) == b"ping"
                    peer.send(b"pong")
                    peer.end()
                    assert reader.read_all(timeout=WAIT) == b"pong"
            blocked.close()  # returns, though its thread is busy
        finally:
            release.set()
        failure(blocked.closed)


def test_O2_waiting_for_several_sockets_with_concurrent_futures() -> None:
    """They are real futures: wait() and as_completed() take them."""
    with Listener() as listener, Names() as names:
        names["db.example"] = [("127.0.0.1", listener.port)]
        answer = names.hang("db.example")
        slow = tcpsock.connect("db.example:80", close_timeout=0)
        fast = tcpsock.connect(listener.address, close_timeout=0)
        done, waiting = concurrent.futures.wait(
            [slow.opened, fast.opened], WAIT, concurrent.futures.FIRST_COMPLETED
        )
        assert (done, waiting) == ({fast.opened}, {slow.opened})
        answer.set()
        finished = set(concurrent.futures.as_completed([slow.opened, fast.opened], WAIT))
        assert finished == {slow.opened, fast.opened}
        for sock in (slow, fast):
            sock.close().result(WAIT)


# O3: one failure


def refused() -> tcpsock.Socket:
    return tcpsock.connect(f"127.0.0.1:{free_port()}")


def test_O3_opened_and_closed_fail_with_the_same_object() -> None:
    sock = refused()
    error = failure(sock.opened)
    assert type(error) is tcpsock.ConnectError
    assert failure(sock.closed) is error


def test_O3_reads_and_writes_raise_a_fresh_copy_from_the_stored_error() -> None:
    sock = refused()
    stored = failure(sock.opened)
    assert isinstance(stored, tcpsock.ConnectError)
    reader, writer = sock.streams()  # R6: fine on a socket that failed
    calls: list[Callable[[], object]] = [
        reader.read,
        lambda: reader.readinto(bytearray(1)),
        lambda: reader.read_exactly(1),
        lambda: reader.read_until(b"\n"),
        reader.readline,
        reader.read_all,
        reader.peek,
        lambda: next(iter(reader)),
        lambda: writer.write(b"x"),
        lambda: writer.writelines([b"x"]),
    ]
    copies = [raised(tcpsock.ConnectError, call) for call in calls for _ in range(2)]
    assert len({id(copy) for copy in [stored, *copies]}) == len(copies) + 1
    for copy in copies:
        assert copy.__cause__ is stored
        assert str(copy) == str(stored)
        for name in ("code", "phase", "address", "errno", "attempts"):
            assert getattr(copy, name) == getattr(stored, name)


def test_O3_tracebacks_do_not_pile_up() -> None:
    def depth(error: BaseException | None) -> int:
        frames = 0
        link = error.__traceback__ if error else None
        while link is not None:
            frames, link = frames + 1, link.tb_next
        return frames

    sock = refused()
    stored = failure(sock.opened)
    reader = sock.readable.get_reader()
    first = depth(raised(tcpsock.ConnectError, reader.read))
    before = depth(stored)
    for _ in range(20):
        last = depth(raised(tcpsock.ConnectError, reader.read))
    assert last == first
    assert depth(stored) == before


def test_O3_blocked_reads_and_writes_raise_it(background: Callable[..., Call]) -> None:
    with Names() as names:
        names["db.example"] = [("127.0.0.1", free_port())]
        answer = names.hang("db.example")
        sock = tcpsock.connect("db.example:80")
        reader, writer = sock.streams()
        read = background(reader.read).blocked()
        writes = [background(writer.write, b"x").blocked() for _ in range(2)]
        answer.set()
        stored = failure(sock.opened)
        for call in (read, *writes):
            error = call.error()
            assert type(error) is tcpsock.ConnectError
            assert error is not stored and error.__cause__ is stored
        assert isinstance(failure(reader.closed), tcpsock.ConnectError)
        assert isinstance(failure(writer.closed), tcpsock.ConnectError)


def test_O3_close_succeeds_and_the_failure_goes_on_being_raised() -> None:
    sock = refused()
    stored = failure(sock.closed)
    reader, writer = sock.streams()
    for _ in range(3):
        assert sock.close() is sock.closed
        sock.abort()
        assert failure(sock.closed) is stored
        assert raised(tcpsock.ConnectError, reader.read).__cause__ is stored
        assert raised(tcpsock.ConnectError, writer.write, b"x").__cause__ is stored
    writer.close()
    reader.cancel()
    sock.readable.close()


def test_O3_leaving_the_with_block_of_a_failed_socket_raises_nothing() -> None:
    with refused() as sock:
        failure(sock.opened)
    assert sock.closed.done()


def refused_port(_: contextlib.ExitStack) -> tcpsock.Socket:
    return refused()


def unknown_name(_: contextlib.ExitStack) -> tcpsock.Socket:
    return tcpsock.connect("db.invalid:80")


def connect_timeout(peers: contextlib.ExitStack) -> tcpsock.Socket:
    hole = peers.enter_context(BlackHole())
    return tcpsock.connect(hole.address, connect_timeout=0.05)


def tls_timeout(peers: contextlib.ExitStack) -> tcpsock.Socket:
    listener = peers.enter_context(Listener())
    return tcpsock.connect(
        listener.address, connect_timeout=0.1, secure_transport="on", tls=trusting()
    )


def tls_verification(peers: contextlib.ExitStack) -> tcpsock.Socket:
    listener = peers.enter_context(Listener(context=tls_server()))
    sock = tcpsock.connect(listener.address, secure_transport="on")
    with pytest.raises(OSError):
        listener.accept()
    return sock


def closed_while_dialling(peers: contextlib.ExitStack) -> tcpsock.Socket:
    hole = peers.enter_context(BlackHole())
    sock = tcpsock.connect(hole.address)
    sock.close()
    return sock


@pytest.mark.parametrize(
    "make",
    [
        refused_port,
        unknown_name,
        connect_timeout,
        tls_timeout,
        tls_verification,
        closed_while_dialling,
    ],
)
def test_O3_a_failed_attempt_leaves_no_descriptor_thread_or_memory(
    make: Callable[[contextlib.ExitStack], tcpsock.Socket],
) -> None:
    """Threads are seen to by the fixture that looks after every test."""
    with Names():
        sockets, before = living(tcpsock.Socket), open_descriptors()
        with contextlib.ExitStack() as peers:
            sock = make(peers)
            assert failure(sock.opened) is not None
            failure(sock.closed)
            if make is not closed_while_dialling:
                reader = sock.readable.get_reader()
                with pytest.raises(tcpsock.SocketError):
                    reader.read()
                del reader
        until(lambda: open_descriptors() <= before, "the descriptors are gone")
        del sock
        until(lambda: living(tcpsock.Socket) <= sockets, "the Socket is collected")


def run_python(script: str, *arguments: str, options: tuple[str, ...] = ()) -> None:
    """Run a script that asserts what it wants, in an interpreter of its own."""
    script = "import sys; sys.path.insert(0, sys.argv[1])\n" + script
    run = subprocess.run(
        [sys.executable, *options, "-c", script, str(ROOT), *arguments],
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert (run.returncode, run.stderr) == (0, "")


def test_O3_no_descriptor_left_in_the_process_is_a_ConnectError_through_opened() -> None:
    with Listener() as listener:
        run_python(
            """
import errno, os, resource, tcpsock
with tcpsock.connect(sys.argv[2], close_timeout=0) as sock:
    sock.opened.result(20)  # whatever is made once is made now
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
for spare in range(4):  # each time there is room for one more
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    taken = []
    try:
        while True:
            taken.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        pass
    for _ in range(spare):
        os.close(taken.pop())
    sock = tcpsock.connect(sys.argv[2], close_timeout=0)
    error = sock.opened.exception(20)
    for descriptor in taken:
        os.close(descriptor)
    if error is None:
        assert spare > 1, spare  # a socket and its waker need one each at least
    else:
        assert type(error) is tcpsock.ConnectError, repr(error)
        assert sock.closed.exception(20) is error
        assert "Too many open files" in str(error) or error.errno == errno.EMFILE, str(error)
    sock.close()
    sock.closed.exception(20)
with tcpsock.connect(sys.argv[2], close_timeout=0) as sock:
    sock.opened.result(20)
""",
            listener.address,
        )


def test_O3_T10_no_thread_to_be_had_is_a_ConnectError_through_opened() -> None:
    """A thread whose stack is larger than the address space cannot be started."""
    with Listener() as listener:
        run_python(
            """
import threading, tcpsock
threading.stack_size(1 << 46)
for target in (sys.argv[2], "db.invalid:80"):
    sock = tcpsock.connect(target)
    error = sock.opened.exception(20)
    assert isinstance(error, tcpsock.ConnectError), repr(error)
    assert sock.closed.exception(20) is error
    assert "thread" in str(error), str(error)
    try:
        sock.readable.get_reader().read()
    except tcpsock.ConnectError as raised:
        assert raised.__cause__ is error
    else:
        raise AssertionError("read() did not raise")
    assert sock.close() is sock.closed
threading.stack_size(0)
with tcpsock.connect(sys.argv[2], close_timeout=0) as sock:
    sock.opened.result(20)
""",
            listener.address,
        )


@pytest.mark.parametrize("what", ["threads", "descriptors"])
def test_O3_an_adopted_socket_that_nothing_can_serve_is_closed(what: str) -> None:
    run_python(
        f"""
import gc, os, resource, socket, threading, warnings, tcpsock
warnings.simplefilter("error")
ours, theirs = socket.socketpair()
theirs.settimeout(20)
taken = []
if {what!r} == "threads":
    threading.stack_size(1 << 46)
else:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        while True:
            taken.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        pass
sock = tcpsock.adopt(ours)
assert type(sock.opened.exception(20)) is tcpsock.ConnectError
assert sock.closed.exception(20) is sock.opened.exception(20)
for descriptor in taken:
    os.close(descriptor)
assert theirs.recv(1) == b""  # though `sock` is still there
theirs.close()
"""
    )


# O4: the error tells the truth


def test_O4_refused() -> None:
    port = free_port()
    sock = tcpsock.connect(f"127.0.0.1:{port}")
    error = failure(sock.opened)
    assert type(error) is tcpsock.ConnectError
    assert isinstance(error, ConnectionError) and not isinstance(error, TimeoutError)
    assert error.address == f"127.0.0.1:{port}"
    assert error.phase == "connect" and error.errno == errno.ECONNREFUSED
    assert isinstance(error.__cause__, ConnectionRefusedError)
    (attempt,) = error.attempts
    assert attempt.address == f"127.0.0.1:{port}" and attempt.seconds >= 0
    assert isinstance(attempt.error, ConnectionRefusedError)
    assert f"127.0.0.1:{port}" in str(error) and "refused" in str(error).lower()


def test_O4_every_attempt_is_told() -> None:
    with Names() as names:
        ports = [free_port("::1"), free_port("127.0.0.1"), free_port("127.0.0.2")]
        names["db.example"] = [
            ("::1", ports[0]),
            ("127.0.0.1", ports[1]),
            ("127.0.0.2", ports[2]),
        ]
        error = failure(tcpsock.connect("db.example:5432").opened)
    assert type(error) is tcpsock.ConnectError
    addresses = [f"[::1]:{ports[0]}", f"127.0.0.1:{ports[1]}", f"127.0.0.2:{ports[2]}"]
    assert [attempt.address for attempt in error.attempts] == addresses
    assert all(isinstance(attempt.error, ConnectionRefusedError) for attempt in error.attempts)
    assert error.address == "db.example:5432"
    assert "db.example:5432" in str(error)
    for ip in ("::1", "127.0.0.1", "127.0.0.2"):
        assert ip in str(error)


@pytest.mark.parametrize(
    "answer",
    [
        NOTHING_THERE,
        socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"),
        OSError(errno.EMFILE, "Too many open files"),
        UnicodeError("label too long"),
        [],
        RuntimeError("a resolver of somebody's own"),
    ],
    ids=repr,
)
def test_O4_a_name_that_does_not_resolve(answer: Any) -> None:
    with Names() as names:
        names["db.example"] = answer
        sock = tcpsock.connect("db.example:80")
        error = failure(sock.opened)
    assert type(error) is tcpsock.ResolveError
    assert isinstance(error, socket.gaierror) and isinstance(error, tcpsock.ConnectError)
    assert error.phase == "resolve" and error.code == "resolve-error"
    assert error.address == "db.example:80" and error.attempts == ()
    assert "db.example" in str(error) and "resol" in str(error).lower()
    if isinstance(answer, OSError):
        assert error.errno == answer.errno
        assert str(answer.strerror) in str(error)
    if isinstance(answer, Exception):
        assert error.__cause__ is answer
    assert failure(sock.closed) is error


def test_O4_a_name_that_really_does_not_resolve() -> None:
    """RFC 6761: .invalid never exists. What the machine's resolver says to that may differ."""
    error = failure(tcpsock.connect("db.invalid:80").opened)
    assert type(error) is tcpsock.ResolveError and isinstance(error.__cause__, socket.gaierror)


@pytest.mark.parametrize("phase", ["resolve", "connect", "tls"])
def test_O4_O5_the_one_deadline_is_over_and_the_error_says_in_which_phase(phase: str) -> None:
    options: dict[str, Any] = {}
    begun = time.monotonic()
    with Names() as names, BlackHole() if phase == "connect" else Listener() as peer:
        if phase == "resolve":
            names.hang("db.example")
        elif phase == "tls":
            options = {"secure_transport": "on", "tls": trusting(server_hostname="localhost")}
        names["db.example"] = [("127.0.0.1", peer.port)]
        sock = tcpsock.connect("db.example:80", connect_timeout=0.2, **options)
        error = failure(sock.opened)
    assert time.monotonic() - begun >= 0.2
    assert type(error) is tcpsock.ConnectTimeout
    assert isinstance(error, TimeoutError) and isinstance(error, tcpsock.ConnectError)
    assert error.phase == phase and error.code == "connect-timeout"
    assert error.address == "db.example:80"
    assert "0.2" in str(error) and phase in str(error).lower()
    assert failure(sock.closed) is error
    if phase == "resolve":
        assert error.attempts == ()
    else:
        (attempt,) = error.attempts
        assert attempt.address == peer.address and attempt.seconds > 0
        if phase == "connect":
            assert isinstance(attempt.error, TimeoutError)
            assert peer.host in str(error)


def tls_failure(context: ssl.SSLContext | None, **fields: Any) -> Any:
    """What opening fails with at a TLS server; without a context it isn't one."""
    with Listener() as listener:
        sock = tcpsock.connect(listener.address, secure_transport="on", tls=TlsOptions(**fields))
        peer = listener.accept()
        if context is None:
            peer.send(b"220 mail.example ESMTP ready, and no TLS here\r\n" * 3)
        else:
            with pytest.raises(OSError):
                peer.start_tls(context)
                peer.read()  # in TLS 1.3 our refusal comes after the server's handshake
        error: Any = failure(sock.opened)
        assert failure(sock.closed) is error
        assert isinstance(error, tcpsock.TlsError) and isinstance(error, ssl.SSLError)
        assert isinstance(error, ConnectionError)
        assert error.phase == "tls" and error.address == listener.address
        assert listener.address in str(error)
        assert isinstance(error.__cause__, OSError)
        copy = raised(type(error), sock.readable.get_reader().read)
        assert copy.__cause__ is error
        return error


@pytest.mark.parametrize(
    ("context", "fields", "words"),
    [
        (lambda: testing.server_context(testing.authority().issue(validity="expired")),
         {}, "expired"),
        (lambda: testing.server_context(testing.authority().issue(validity="future")),
         {}, "not yet valid"),
        (lambda: testing.server_context(another_authority().issue()), {}, "issuer"),
        (lambda: tls_server_for("192.0.2.1"), {}, "127.0.0.1"),
        (lambda: tls_server_for("other.example"), {"server_hostname": "localhost"}, "localhost"),
    ],
    ids=["expired", "not yet valid", "unknown authority", "other address", "other name"],
)  # fmt: skip
def test_O4_O6_O7_a_certificate_that_does_not_verify(
    context: Callable[[], ssl.SSLContext], fields: dict[str, Any], words: str
) -> None:
    error = tls_failure(context(), ca_data=ca_data(), **fields)
    assert type(error) is tcpsock.TlsVerificationError
    assert isinstance(error, ssl.SSLCertVerificationError)
    assert error.code == "tls-verification-error"
    assert error.verify_message and error.verify_message.rstrip(".") in str(error)
    assert words in str(error)


def test_O4_O7_by_default_only_certifis_roots_are_trusted() -> None:
    error = tls_failure(tls_server())
    assert type(error) is tcpsock.TlsVerificationError


def test_O4_a_server_that_does_not_speak_TLS() -> None:
    error = tls_failure(None, ca_data=ca_data())
    assert type(error) is tcpsock.TlsError and error.code == "tls-error"
    assert not isinstance(error, ssl.SSLCertVerificationError)


def test_O4_an_alert_is_kept_word_for_word() -> None:
    """A server that wants a client certificate says so; TLS 1.2: while opening."""
    context = testing.server_context(client_ca=ca_data(), maximum=ssl.TLSVersion.TLSv1_2)
    error = tls_failure(context, ca_data=ca_data())
    assert type(error) is tcpsock.TlsError
    assert "handshake failure" in str(error).lower().replace("_", " ")


def test_O4_T12_in_TLS_1_3_a_refused_client_certificate_is_told_at_the_first_read() -> None:
    context = testing.server_context(client_ca=ca_data(), minimum=ssl.TLSVersion.TLSv1_3)
    with Listener() as listener:
        sock = tcpsock.connect(listener.address, secure_transport="on", tls=trusting())
        peer = listener.accept()
        with pytest.raises(ssl.SSLError):
            peer.start_tls(context)
        peer.end()
        assert sock.opened.result(WAIT).tls_version == "TLSv1.3"
        error = raised(tcpsock.TlsError, sock.readable.get_reader().read, timeout=WAIT)
        assert "certificate required" in str(error).lower().replace("_", " ")
        assert failure(sock.closed) is error.__cause__


@pytest.mark.parametrize("how", ["fin", "reset", "truncated"])
def test_O4_a_handshake_that_is_cut_off(how: str) -> None:
    with Listener() as listener:
        sock = tcpsock.connect(listener.address, secure_transport="on", tls=trusting())
        peer = listener.accept()
        peer.sock.recv(1 << 14)
        if how == "reset":
            peer.reset()
        elif how == "fin":
            peer.cut()
        else:
            peer.send_raw(b"\x16\x03\x03\x10\x00\x02\x00")
            peer.cut()
        error = failure(sock.opened)
        assert isinstance(error, tcpsock.SocketError) and error.phase == "tls"
        assert isinstance(error, ConnectionError)
        assert type(error) in (
            tcpsock.TlsError,
            tcpsock.TlsTruncated,
            tcpsock.ConnectionLost,
            tcpsock.ConnectError,
        )
        assert failure(sock.closed) is error


# O5: racing


def test_O5_the_next_address_is_tried_at_once_after_a_failure() -> None:
    with Listener("127.0.0.1") as listener, Names() as names:
        names["db.example"] = [("::1", free_port("::1")), ("127.0.0.1", listener.port)]
        with tcpsock.connect("db.example:80", close_timeout=0) as sock:
            info = sock.opened.result(WAIT)
        assert info.remote_address == listener.address
        first, second = info.attempts
        assert isinstance(first.error, ConnectionRefusedError)
        assert first.address.startswith("[::1]:")
        assert second.address == listener.address and second.error is None


def test_O5_an_address_that_does_not_answer_holds_up_the_next_by_250_ms() -> None:
    with BlackHole("::1") as hole, Listener() as listener, Names() as names:
        names["db.example"] = [("::1", hole.port), ("127.0.0.1", listener.port)]
        begun = time.monotonic()
        with tcpsock.connect("db.example:80", close_timeout=0) as sock:
            info = sock.opened.result(WAIT)
            assert time.monotonic() - begun >= 0.25
        assert info.remote_address == listener.address
        assert [attempt.address for attempt in info.attempts] == [hole.address, listener.address]
        loser, winner = info.attempts
        assert winner.error is None and isinstance(loser.error, OSError)
        assert loser.seconds >= 0.25
        assert info.timings.connect is not None and info.timings.connect >= 0.25


def test_O5_families_are_interleaved() -> None:
    """RFC 8305 section 4: the first answer's family first, then in turn."""
    with Listener("127.0.0.3") as listener, Names() as names:
        v6 = [("::1", free_port("::1")) for _ in range(3)]
        v4 = [("127.0.0.1", free_port()), ("127.0.0.2", free_port("127.0.0.2"))]
        names["db.example"] = [*v6, *v4, ("127.0.0.3", listener.port)]
        with tcpsock.connect("db.example:80", close_timeout=0) as sock:
            info = sock.opened.result(WAIT)
    expected = [v6[0], v4[0], v6[1], v4[1], v6[2], ("127.0.0.3", listener.port)]
    assert [attempt.address for attempt in info.attempts] == [
        f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}" for ip, port in expected
    ]


def test_O5_a_slow_attempt_is_not_killed_while_others_run() -> None:
    """The first address answers late, to the SYN that is sent again after a second; it wins."""
    with BlackHole("::1") as slow, BlackHole("127.0.0.1") as hole, Names() as names:
        names["db.example"] = [("::1", slow.port), ("127.0.0.1", hole.port)]
        sock = tcpsock.connect("db.example:80", close_timeout=0)
        # Both queues are full, so nothing tells that the second attempt has begun but the time.
        assert not concurrent.futures.wait([sock.opened], 0.5).done
        slow.open_up()
        info = sock.opened.result(WAIT)
        sock.close().result(WAIT)
        assert info.remote_address == slow.address
        assert [attempt.address for attempt in info.attempts] == [slow.address, hole.address]
        assert info.attempts[0].error is None and info.attempts[1].error is not None


def test_O5_DNS_and_connecting_share_one_deadline() -> None:
    """The name takes half of the time, so the attempt gets the other half only."""
    with BlackHole() as hole, Names() as names:
        names["db.example"] = [("127.0.0.1", hole.port)]
        answer = names.hang("db.example")
        sock = tcpsock.connect("db.example:80", connect_timeout=1.2)
        assert not concurrent.futures.wait([sock.opened], 0.6).done
        answer.set()
        error = failure(sock.opened)
        assert isinstance(error, tcpsock.ConnectTimeout) and error.phase == "connect"
        assert error.attempts[0].seconds < 1.2  # a deadline of its own would give it all of that


def test_O5_a_loser_is_closed_when_another_won() -> None:
    with BlackHole("::1") as slow, Listener() as listener, Names() as names:
        names["db.example"] = [("::1", slow.port), ("127.0.0.1", listener.port)]
        before = open_descriptors()
        sock = tcpsock.connect("db.example:80")
        sock.opened.result(WAIT)
        peer = listener.accept()
        peer.end()
        sock.close().result(WAIT)
        peer.close()
        until(lambda: open_descriptors() <= before, "both descriptors are gone")


def test_O5_the_vetted_address_is_dialled_without_a_second_look_up() -> None:
    with Listener() as listener, Names() as names:
        names["db.example"] = [("127.0.0.1", listener.port)]
        with tcpsock.connect("db.example:80", close_timeout=0) as sock:
            assert sock.opened.result(WAIT).hostname == "db.example"
        assert names.asked == ["db.example"]


def test_O5_an_IP_literal_is_not_looked_up() -> None:
    with Listener() as listener, Names() as names:
        with tcpsock.connect(listener.address, close_timeout=0) as sock:
            info = sock.opened.result(WAIT)
        assert names.asked == [] and info.timings.resolve is None


def test_O5_T22_a_replaced_getaddrinfo_is_used() -> None:
    """Each test with Names relies on it; this one says so."""
    with Names() as names:
        names["db.example"] = NOTHING_THERE
        failure(tcpsock.connect("db.example:80").opened)
        assert names.asked == ["db.example"]


def test_O5_the_same_address_twice_is_tried_once() -> None:
    with Names() as names:
        port = free_port()
        names["db.example"] = [("127.0.0.1", port)] * 3
        error: Any = failure(tcpsock.connect("db.example:80").opened)
        assert [attempt.address for attempt in error.attempts] == [f"127.0.0.1:{port}"]


# O6, O7: TLS


def test_O6_opened_waits_for_the_handshake() -> None:
    with Listener() as listener:
        sock = tcpsock.connect(
            listener.address, secure_transport="on", tls=trusting(), close_timeout=0
        )
        peer = listener.accept()
        assert peer.sock.recv(1, socket.MSG_PEEK) == b"\x16"  # ClientHello is there
        assert not sock.opened.done()
        peer.start_tls(tls_server())
        assert sock.opened.result(WAIT).tls_version == "TLSv1.3"
        sock.close().result(WAIT)


def test_O6_nothing_is_sent_to_a_server_that_does_not_verify(
    background: Callable[..., Call],
) -> None:
    with Listener() as listener:
        sock = tcpsock.connect(listener.address, secure_transport="on")
        write = background(sock.writable.get_writer().write, b"a secret").blocked()
        peer = listener.accept()
        received = b""
        with pytest.raises(OSError):
            peer.start_tls(testing.server_context(another_authority().issue()))
            received += peer.read()
        assert received == b""
        assert isinstance(write.error(), tcpsock.TlsVerificationError)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_O7_TLS_below_1_2_is_refused(version: ssl.TLSVersion) -> None:
    error = tls_failure(testing.server_context(maximum=version), ca_data=ca_data())
    assert type(error) is tcpsock.TlsError
    assert "version" in str(error).lower()


def test_O7_minimum_version_is_kept() -> None:
    only_1_2 = testing.server_context(maximum=ssl.TLSVersion.TLSv1_2)
    with Listener(context=only_1_2) as listener:
        with tcpsock.connect(
            listener.address, secure_transport="on", tls=trusting(), close_timeout=0
        ) as sock:
            listener.accept()
            assert sock.opened.result(WAIT).tls_version == "TLSv1.2"
    error = tls_failure(only_1_2, ca_data=ca_data(), minimum_version=ssl.TLSVersion.TLSv1_3)
    assert type(error) is tcpsock.TlsError


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_O6_SocketInfo_tells_the_facts(version: ssl.TLSVersion) -> None:
    context = testing.server_context(minimum=version, maximum=version, alpn=("h2", "http/1.1"))
    asked_for = note_server_names(context)
    with Listener(context=context) as listener, Names() as names:
        names["db.example"] = [("127.0.0.1", listener.port)]
        with tcpsock.connect(
            "db.example:443",
            secure_transport="on",
            tls=trusting(server_hostname="localhost", alpn=["http/1.1", "h3"]),
            close_timeout=0,
        ) as sock:
            assert sock.secure_transport == "on" and not sock.upgraded
            peer = listener.accept()
            info = sock.opened.result(WAIT)
            tls: Any = peer.tls
            assert info.hostname == "db.example" and asked_for == ["localhost"]
            assert info.remote_address == listener.address
            assert info.local_address == "{}:{}".format(*peer.sock.getpeername())
            assert info.alpn == "http/1.1"
            assert info.tls_version == tls.version()
            assert (info.cipher, info.tls_version, info.cipher_bits) == tls.cipher()
            assert info.certificate is not None
            assert ("DNS", "localhost") in info.certificate["subjectAltName"]  # type: ignore[operator]
            assert info.certificate_chain[0] == info.peer_certificate
            assert info.timings.resolve is not None and info.timings.resolve >= 0
            assert info.timings.connect is not None and info.timings.connect >= 0
            assert info.timings.tls is not None and info.timings.tls >= 0
            (attempt,) = info.attempts
            assert (attempt.address, attempt.error) == (listener.address, None)
            assert attempt.seconds >= 0


def test_O6_SocketInfo_of_a_plain_socket_has_no_TLS() -> None:
    with connected() as (sock, peer):
        info = sock.opened.result(WAIT)
        assert info.local_address == "{}:{}".format(*peer.sock.getpeername())
        assert info.timings.tls is None and info.timings.connect is not None
        assert (info.alpn, info.tls_version, info.cipher, info.cipher_bits) == (None,) * 4
        assert (info.peer_certificate, info.certificate) == (None, None)
        assert info.certificate_chain == ()
        assert sock.tls_session is None and sock.secure_transport == "off"
        raised(ValueError, info.channel_binding)


def test_O6_the_certificate_is_the_servers() -> None:
    certificate = testing.authority().issue("localhost", "127.0.0.1")
    leaf = ssl.PEM_cert_to_DER_cert(
        certificate.chain[: certificate.chain.index("-----END") + len("-----END CERTIFICATE-----")]
    )
    context = testing.server_context(certificate)
    with Listener(context=context) as listener:
        with tcpsock.connect(
            listener.address, secure_transport="on", tls=trusting(), close_timeout=0
        ) as sock:
            listener.accept()
            info = sock.opened.result(WAIT)
    assert info.peer_certificate == leaf == info.certificate_chain[0]
    # trustme signs with SHA-256 (RFC 5929 section 4.1)
    assert info.channel_binding() == hashlib.sha256(leaf).digest()
    assert info.channel_binding("tls-server-end-point") == hashlib.sha256(leaf).digest()


def test_O6_a_chain_with_an_intermediate_certificate() -> None:
    between = testing.Authority(testing.authority())
    context = testing.server_context(between.issue())
    with Listener(context=context) as listener:
        with tcpsock.connect(
            listener.address, secure_transport="on", tls=trusting(), close_timeout=0
        ) as sock:
            listener.accept()
            chain = sock.opened.result(WAIT).certificate_chain
    if sys.version_info >= (3, 13):
        assert ssl.PEM_cert_to_DER_cert(between.ca_data) in chain


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_api_channel_binding_tls_unique_exists_below_TLS_1_3_only(version: ssl.TLSVersion) -> None:
    with connected("on", context=tls_server(version)) as (sock, peer):
        info = sock.opened.result(WAIT)
        tls: Any = peer.tls
        if version == ssl.TLSVersion.TLSv1_2:
            assert info.channel_binding("tls-unique") == tls.get_channel_binding("tls-unique")
        else:
            raised(ValueError, info.channel_binding, "tls-unique")
        raised(ValueError, info.channel_binding, "tls-exporter")


def connects(address: str, listener: Listener, **fields: Any) -> bool:
    """Whether TLS with these options opens."""
    with tcpsock.connect(
        address, secure_transport="on", tls=TlsOptions(**fields), close_timeout=0
    ) as sock:
        try:
            listener.accept()
        except OSError:
            pass
        error = failure(sock.opened)
        assert error is None or type(error) is tcpsock.TlsVerificationError, repr(error)
        return error is None


@pytest.fixture
def roots(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "roots.pem"
    path.write_text(ca_data())
    return path


@pytest.mark.parametrize("trust", ["certifi", "system"])
def test_O7_SSL_CERT_FILE_replaces_the_default_roots(
    trust: str, roots: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the default context has been made before, and only as long as it is set."""
    with Listener(context=tls_server()) as listener:
        assert not connects(listener.address, listener, trust=trust)
        monkeypatch.setenv("SSL_CERT_FILE", str(roots))
        assert connects(listener.address, listener, trust=trust)
        monkeypatch.delenv("SSL_CERT_FILE")
        assert not connects(listener.address, listener, trust=trust)


def test_O7_SSL_CERT_FILE_does_not_replace_roots_that_were_asked_for(
    tmp_path: pathlib.Path, roots: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other.pem"
    other.write_text(another_authority().ca_data)
    with Listener(context=tls_server()) as listener:
        monkeypatch.setenv("SSL_CERT_FILE", str(roots))
        assert not connects(listener.address, listener, ca_file=other)
        assert not connects(listener.address, listener, ca_data=another_authority().ca_data)
        monkeypatch.setenv("SSL_CERT_FILE", str(other))
        assert connects(listener.address, listener, ca_file=roots)


def test_O7_SSL_CERT_DIR_replaces_the_default_roots(
    roots: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed = subprocess.run(
        ["openssl", "x509", "-hash", "-noout", "-in", str(roots)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    directory = roots.parent / "roots"
    directory.mkdir()
    (directory / f"{hashed}.0").write_text(ca_data())
    with Listener(context=tls_server()) as listener:
        assert not connects(listener.address, listener)
        monkeypatch.setenv("SSL_CERT_DIR", str(directory))
        assert connects(listener.address, listener)
        monkeypatch.delenv("SSL_CERT_DIR")
        assert not connects(listener.address, listener)


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_O7_an_unreadable_SSL_CERT_variable_is_an_error_that_names_it(
    variable: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, str(tmp_path / "missing"))
    with Listener() as listener:
        sock = tcpsock.connect(listener.address, secure_transport="on")
        error = failure(sock.opened)
        assert isinstance(error, tcpsock.TlsError) and variable in str(error)
        assert error.phase == "tls"
        assert failure(sock.closed) is error
    with Listener(context=tls_server()) as listener:  # roots of one's own don't need it
        assert connects(listener.address, listener, ca_data=ca_data())


@pytest.mark.parametrize("option", ["-E", "-I"])
def test_O7_L3_the_environment_is_ignored_under_E_and_I(
    option: str, roots: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = roots.parent / "keys.log"
    monkeypatch.setenv("SSL_CERT_FILE", str(roots))
    monkeypatch.setenv("SSLKEYLOGFILE", str(keys))
    with testing.serve(lambda sock: sock.recv(1), tls=tls_server()) as server:
        run_python(
            """
import tcpsock
with tcpsock.connect(sys.argv[2], secure_transport="on") as sock:
    error = sock.opened.exception(20)
assert isinstance(error, tcpsock.TlsVerificationError), repr(error)
""",
            server.address,
            options=(option,),
        )
    assert not keys.exists()


def test_O7_L3_SSLKEYLOGFILE_is_part_of_what_shapes_a_context(roots: pathlib.Path) -> None:
    """In a process of its own, since a cached context keeps its log open."""
    keys = roots.parent / "keys.log"
    with testing.serve(lambda sock: sock.recv(1), tls=tls_server()) as server:
        run_python(
            """
import os, tcpsock
def connect():
    with tcpsock.connect(sys.argv[2], secure_transport="on",
                         tls=tcpsock.TlsOptions(ca_file=sys.argv[3])) as sock:
        sock.opened.result(20)
os.environ.pop("SSLKEYLOGFILE", None)
connect()
os.environ["SSLKEYLOGFILE"] = sys.argv[4]
assert not os.path.exists(sys.argv[4])
connect()
assert "CLIENT_HANDSHAKE_TRAFFIC_SECRET" in open(sys.argv[4]).read()
""",
            server.address,
            str(roots),
            str(keys),
        )


def test_O7_a_file_of_roots_that_has_changed_is_read_again(roots: pathlib.Path) -> None:
    with Listener(context=tls_server()) as listener:
        roots.write_text(another_authority().ca_data)
        assert not connects(listener.address, listener, ca_file=roots)
        replacement = roots.with_suffix(".new")
        replacement.write_text(ca_data())
        os.replace(replacement, roots)
        assert connects(listener.address, listener, ca_file=roots)


def test_O7_a_context_of_ones_own_is_used_as_it_is() -> None:
    context = ssl.create_default_context(cadata=ca_data())
    context.set_alpn_protocols(["mine"])
    server = testing.server_context(alpn=("mine",))
    with Listener(context=server) as listener:
        with tcpsock.connect(
            listener.address,
            secure_transport="on",
            tls=TlsOptions(ssl_context=context),
            close_timeout=0,
        ) as sock:
            listener.accept()
            assert sock.opened.result(WAIT).alpn == "mine"


def test_api_who_wants_no_verification_passes_a_context() -> None:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with Listener(context=testing.server_context(another_authority().issue())) as listener:
        with tcpsock.connect(
            listener.address,
            secure_transport="on",
            tls=TlsOptions(ssl_context=context),
            close_timeout=0,
        ) as sock:
            listener.accept()
            info = sock.opened.result(WAIT)
            assert info.peer_certificate is not None  # known, though not verified
            assert info.channel_binding()


def exchange(listener: Listener, fields: dict[str, Any]) -> tuple[bool, Any, Any]:
    """A TLS connection with one byte each way: was it resumed, its session before and after."""
    with tcpsock.connect(listener.address, secure_transport="on", tls=TlsOptions(**fields)) as sock:
        peer = listener.accept()
        sock.opened.result(WAIT)
        before = sock.tls_session
        reader, writer = sock.streams()
        writer.write(b"?")
        assert peer.read() == b"?"
        peer.send(b"!")
        assert reader.read(timeout=WAIT) == b"!"
        after = sock.tls_session
        peer.end()
        tls: Any = peer.tls
        return tls.session_reused, before, after


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_O7_a_session_is_resumed(version: ssl.TLSVersion) -> None:
    context = testing.server_context(minimum=version, maximum=version)
    with Listener(context=context) as listener:
        reused, before, session = exchange(listener, {"ca_data": ca_data()})
        assert not reused and isinstance(session, ssl.SSLSession)
        if version == ssl.TLSVersion.TLSv1_3:
            assert before is None  # no ticket has been read yet
        reused, _, _ = exchange(listener, {"ca_data": ca_data(), "session": session})
        assert reused


def test_O7_a_session_from_another_context_is_ignored(roots: pathlib.Path) -> None:
    with Listener(context=testing.server_context()) as listener:
        _, _, session = exchange(listener, {"ca_data": ca_data()})
        for fields in (
            {"ca_file": roots},
            {"ssl_context": ssl.create_default_context(cadata=ca_data())},
            {"ca_data": ca_data(), "alpn": ["x"]},
        ):
            reused, _, _ = exchange(listener, {**fields, "session": session})
            assert not reused


def test_O7_tls_session_is_None_where_no_ticket_comes() -> None:
    context = testing.server_context(minimum=ssl.TLSVersion.TLSv1_3)
    context.num_tickets = 0
    with Listener(context=context) as listener:
        assert exchange(listener, {"ca_data": ca_data()}) == (False, None, None)


# O8: kept alive while opening


def test_O8_connect_opened_result_works_in_one_expression() -> None:
    with Listener() as listener, Names() as names:
        names["db.example"] = [("127.0.0.1", listener.port)]
        answer = names.hang("db.example")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            opened = tcpsock.connect("db.example:80", close_timeout=0).opened
            gc.collect()
            assert not opened.done()
            answer.set()
            assert opened.result(WAIT).remote_address == listener.address
            # Afterwards nobody refers to the socket: it is closed (E6).
            peer = listener.accept()
            gc.collect()
            assert peer.read() == b""


def test_O8_also_through_a_TLS_handshake() -> None:
    with Listener() as listener:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            opened = tcpsock.connect(
                listener.address, secure_transport="on", tls=trusting(), close_timeout=0
            ).opened
            peer = listener.accept()
            gc.collect()
            gone = False
            try:
                peer.start_tls(tls_server())
            except ConnectionError:  # the session tickets found nobody there
                gone = True
            assert opened.result(WAIT).tls_version == "TLSv1.3"
            gc.collect()
            assert gone or sees_reset(peer)  # closed (E6)


def test_O8_also_for_what_start_tls_returns() -> None:
    with Listener() as listener, Names() as names:
        names["localhost"] = [("127.0.0.1", listener.port)]
        answer = names.hang("localhost")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            opened = (
                tcpsock.connect(
                    "localhost:80", secure_transport="starttls", tls=trusting(), close_timeout=0
                )
                .start_tls()
                .opened
            )
            gc.collect()
            answer.set()
            peer = listener.accept()
            gc.collect()
            gone = False
            try:
                peer.start_tls(tls_server())
            except ConnectionError:
                gone = True
            assert opened.result(WAIT).tls_version == "TLSv1.3"
            gc.collect()
            assert gone or sees_reset(peer)


def test_O8_an_attempt_that_fails_with_nobody_there_is_collected() -> None:
    sockets = living(tcpsock.Socket)
    opened = refused().opened
    assert isinstance(failure(opened), tcpsock.ConnectError)
    until(lambda: living(tcpsock.Socket) <= sockets, "the Socket is collected")
