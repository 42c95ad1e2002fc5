"""Hammers of the process itself: exit with sockets in every state, fork in the middle of traffic.

A child leaves as a program does: SystemExit goes up through all frames, and the interpreter is
taken down. So no frame above it may have a `with` or a `finally` that is only for the parent.
"""

from __future__ import annotations

import atexit
import gc
import multiprocessing
import os
import random
import select
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any, NoReturn

from anvil import TLS
from hammers_opening import Places, echo
from peers import HOST, WAIT, Call, ca_data, pattern

import tcpsock
from tcpsock import SocketError, SocketForked
from tcpsock.testing import serve

__all__ = ["exits", "forks", "multiprocessing_by_any_method"]

_IN_TIME = 15  # seconds within which a child must be gone


Leave = Callable[[int], NoReturn]  # sys.exit in the main thread alone, os._exit anywhere


class Child:
    """A forked process that runs something and leaves with the code that it returns."""

    def __init__(self, run: Callable[[], int], leave: Leave = sys.exit) -> None:
        self._output, write = os.pipe()
        self._pid = os.fork()
        if self._pid:
            os.close(write)
            return
        os.dup2(write, 1)
        os.dup2(write, 2)
        os.close(write)
        os.close(self._output)
        signal.alarm(_IN_TIME)
        warnings.simplefilter("ignore", ResourceWarning)  # E6's, and those of its own sockets
        try:
            code = run()
        except Exception:
            traceback.print_exc()
            os._exit(1)
        leave(code)

    def left_with(self, code: int) -> None:
        """Wait for it. Fails if it hangs, printed something, or left in another way."""
        deadline = time.monotonic() + 2 * _IN_TIME
        printed = b""
        while select.select([self._output], [], [], max(0.0, deadline - time.monotonic()))[0]:
            part = os.read(self._output, 1 << 16)
            if not part:
                break
            printed += part
        else:
            os.kill(self._pid, signal.SIGKILL)
        os.close(self._output)
        status = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        assert (status, printed) == (code, b""), f"{status}, not {code}\n{printed.decode()}"


def _server_elsewhere(ends: ExitStack) -> tuple[str, int]:
    """An echo server in a process of its own, so that this one has no threads but its clients'."""
    ca_data()  # the authority is one for both
    port, write = os.pipe()
    until, hold = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(hold)
            with serve(echo) as server:
                os.write(write, b"%d" % server.port)
                os.read(until, 1)  # until nobody holds the other end any more
        finally:
            os._exit(0)
    ends.callback(os.waitpid, pid, 0)
    ends.callback(os.close, hold)
    os.close(write)
    os.close(until)
    address = HOST, int(os.read(port, 8))
    os.close(port)
    return address


def _echoes(sock: tcpsock.Socket, rng: random.Random) -> bool:
    """Whether what we write comes back, over however much of it."""
    data = pattern(rng.choice((1, 3_000, 100_000)), rng.randrange(1_000))
    with sock.writable.get_writer() as writer, sock.readable.get_reader() as reader:
        writer.write(data, timeout=WAIT)
        return reader.read_exactly(len(data), timeout=WAIT) == data


# Exit

_kept: list[object] = []  # what lives as long as the modules do


def exits(seed: int) -> None:
    """Interpreters end with sockets in any state: in time, without a word, by their own code."""
    rng = random.Random(seed)
    ends = ExitStack()
    places = Places(ends, _server_elsewhere(ends), rng)
    codes = [rng.choice((0, 3, 77)) for _ in range(8)]
    children = [Child(partial(_leave_behind, places, rng.random(), code)) for code in codes]
    for child, code in zip(children, codes, strict=True):
        child.left_with(code)
    ends.close()


def _leave_behind(places: Places, seed: float, code: int) -> int:
    rng = random.Random(seed)
    keep = rng.choice((_kept, []))
    states = rng.choices(_STATES, k=rng.randrange(1, 5))
    for state in states:
        keep.append(state(places, rng))
    sys.setswitchinterval(rng.choice((1e-5, 5e-3)))
    for _ in range(rng.choice((0, 1_000, 100_000))):  # let them get on with it, or not
        pass
    return code


def _looking_up(places: Places, rng: random.Random) -> object:
    return tcpsock.connect("hanging.example:7", connect_timeout=None)


def _dialling(places: Places, rng: random.Random) -> object:
    return tcpsock.connect(places.full, connect_timeout=None)


def _shaking_hands(places: Places, rng: random.Random) -> object:
    return tcpsock.connect(places.silent, **TLS(), connect_timeout=None)


def _opening(places: Places, rng: random.Random) -> tcpsock.Socket:
    return tcpsock.connect(places.listening, **rng.choice(({}, TLS(), TLS("starttls"))))


def _idle(places: Places, rng: random.Random) -> tcpsock.Socket:
    sock = _opening(places, rng)
    assert _echoes(sock, rng)
    return sock


def _silent(places: Places, **options: Any) -> tcpsock.Socket:
    sock = tcpsock.connect(places.silent, close_timeout=None, **options)
    sock.opened.result(WAIT)
    return sock


def _reading(places: Places, rng: random.Random) -> object:
    sock = rng.choice((_opening, _idle))(places, rng)
    return Call(sock.readable.get_reader().read)


def _writing(places: Places, rng: random.Random) -> object:
    sock = _silent(places)
    return Call(sock.writable.get_writer().write, bytes(16 << 20))


def _half_closed(places: Places, rng: random.Random) -> object:
    sock = rng.choice((_idle(places, rng), _silent(places)))
    sock.writable.close()
    return sock


def _closing(places: Places, rng: random.Random) -> object:
    sock = _silent(places)
    call = Call(sock.writable.get_writer().write, bytes(16 << 20)) if rng.random() < 0.5 else None
    sock.close()
    return sock, call


def _upgrading(places: Places, rng: random.Random) -> object:
    old = tcpsock.connect(places.silent, **TLS("starttls"), connect_timeout=None)
    if rng.random() < 0.5:
        old.opened.result(WAIT)
    new = old.start_tls()
    if rng.random() < 0.5:
        old.closed.result(WAIT)
    return old, new


def _detached(places: Places, rng: random.Random) -> object:
    return tcpsock.connect(places.listening, **rng.choice(({}, TLS()))).detach(timeout=WAIT)


def _files(places: Places, rng: random.Random) -> object:
    reader, writer = _idle(places, rng).streams()
    lines, out = reader.as_file(), writer.as_file()
    out.write(b"never flushed")
    return lines, out


def _piping(places: Places, rng: random.Random) -> object:
    return Call(_idle(places, rng).readable.pipe_to, _idle(places, rng).writable)


def _busy(places: Places, rng: random.Random) -> object:
    """In a daemon thread, which the exit cuts off in the middle."""

    def pump() -> None:
        while _echoes(sock, rng):
            pass

    sock = _idle(places, rng)
    return Call(pump)


def _coming_and_going(places: Places, rng: random.Random) -> object:
    def connect_on() -> None:
        while True:
            with suppress(SocketError), _opening(places, rng) as sock:
                sock.opened.result(WAIT)

    return Call(connect_on)


def _finishing_first(places: Places, rng: random.Random) -> object:
    """In a thread that the exit waits for: it must come to its end."""

    def talk() -> None:
        for _ in range(20):
            assert _echoes(sock, rng)
        assert sock.close().result(WAIT) is None
        unfinished.clear()

    def check() -> None:
        if unfinished:
            os._exit(90)

    sock = _idle(places, rng)
    unfinished = [sock]
    atexit.register(check)
    thread = threading.Thread(target=talk)
    thread.start()
    return thread


def _used_at_exit(places: Places, rng: random.Random) -> object:
    """By an atexit handler; a new one may no longer have a thread, and is told so."""

    def use() -> None:
        code = 91
        try:
            assert _echoes(sock, rng)
            assert sock.close().result(WAIT) is None
            new = _opening(places, rng)
            error = new.opened.exception(WAIT)
            assert error is None or isinstance(error, tcpsock.ConnectError), error
            assert new.close() is new.closed
            code = 0
        finally:
            if code:
                os._exit(code)

    sock = _idle(places, rng)
    atexit.register(use)
    return sock


class _Client:
    """As drivers write it: it closes its socket when it goes."""

    def __init__(self, sock: tcpsock.Socket, how: str) -> None:
        self._sock, self._how = sock, how
        self._me = self  # so that only the collector, or nobody, finds it

    def __del__(self) -> None:
        with suppress(SocketError):
            getattr(self._sock, self._how)()


def _closed_by_finalizer(places: Places, rng: random.Random) -> object:
    return _Client(_idle(places, rng), rng.choice(("close", "abort", "streams", "start_tls")))


def _called_back(places: Places, rng: random.Random) -> object:
    """Whose callbacks connect anew, whenever the exit lets them."""

    def again(_: object) -> None:
        _kept.append(_opening(places, rng))

    sock = _opening(places, rng)
    for future in (sock.opened, sock.closed):
        future.add_done_callback(again)
    if rng.random() < 0.5:
        sock.close()
    return sock


_STATES: list[Callable[[Places, random.Random], object]] = [
    _dialling,
    _shaking_hands,
    _opening,
    _idle,
    _reading,
    _writing,
    _half_closed,
    _closing,
    _upgrading,
    _detached,
    _files,
    _piping,
    _busy,
    _finishing_first,
    _used_at_exit,
    _closed_by_finalizer,
]
if sys.version_info >= (3, 11):
    # A daemon thread starts a thread, while the interpreter ends: 3.10 itself may crash then, as
    # the new thread begins with a state that was freed already.
    _STATES += [_looking_up, _coming_and_going, _called_back]


# Fork


def forks(seed: int) -> None:
    """Workers forked out of any thread, amid traffic, use what they inherited and connect anew.

    A child of a fork that finds other threads inside OpenSSL may hang in its first TLS call:
    OpenSSL has locks of its own. So children use TLS only where the parent's TLS connections are
    at rest.
    """
    warnings.filterwarnings("ignore", ".*fork", DeprecationWarning)  # 3.12: threads and fork()
    rng = random.Random(seed)
    ends = ExitStack()
    places = Places(ends, _server_elsewhere(ends), rng)
    tls_rests = rng.random() < 0.5
    plain = [tcpsock.connect(places.listening) for _ in range(2)]
    secure = [tcpsock.connect(places.listening, **TLS()) for _ in range(2)]
    for sock in (*plain, *secure):
        assert _echoes(sock, rng)
    waiting = tcpsock.connect(places.listening)
    blocked = Call(waiting.readable.get_reader().read)
    hanging = tcpsock.connect("hanging.example:7")
    inherited = [*plain, *secure, waiting, hanging, tcpsock.connect(places.listening)]

    stop = threading.Event()
    calls = [Call(_pump, sock, stop, rng.random()) for sock in plain]
    calls += [Call(_pump, sock, stop, rng.random()) for sock in secure if not tls_rests]
    calls += [Call(_look, sock, stop) for sock in inherited[::3]]
    calls += [Call(_come_and_go, places, stop)]
    for code in range(6):
        main = rng.random() < 0.5  # SystemExit ends a program in its main thread alone
        leave: Leave = rng.choice((sys.exit, os._exit)) if main else os._exit
        work = partial(_work, inherited, places, rng.random(), code, leave, tls=tls_rests)
        child = Child(work, leave) if main else Call(Child, work, leave).result()
        child.left_with(code)
    stop.set()
    for call in calls:
        call.result()
    for sock in (*plain, *secure):
        assert not sock.closed.done()
        assert _echoes(sock, rng)
    for sock in inherited:
        assert sock.close().result(WAIT) is None
    assert isinstance(blocked.error(), tcpsock.SocketClosed)
    ends.close()


def _pump(sock: tcpsock.Socket, stop: threading.Event, seed: float) -> None:
    rng = random.Random(seed)
    while not stop.is_set():
        assert _echoes(sock, rng)


def _look(sock: tcpsock.Socket, stop: threading.Event) -> None:
    """Take the locks that a fork may find taken."""
    while not stop.is_set():
        assert repr(sock) and sock.stats and not sock.closed.done()
        sock.closed.add_done_callback(id)
        time.sleep(0)


def _come_and_go(places: Places, stop: threading.Event) -> None:
    rng = random.Random(0)
    while not stop.is_set():
        with tcpsock.connect(places.listening) as sock:
            assert _echoes(sock, rng)


def _work(
    inherited: list[tcpsock.Socket],
    places: Places,
    seed: float,
    code: int,
    leave: Leave,
    *,
    tls: bool,
) -> int:
    """A worker's life."""
    rng = random.Random(seed)
    for sock in rng.choice((inherited, [])):
        _use_inherited(sock)
    if rng.random() < 0.3:
        inherited.clear()
        gc.collect()
    for options in rng.choices(({}, TLS()) if tls else ({},), k=rng.randrange(3)):
        where = rng.choice((places.listening, ("echo.example", 7)))
        if options:
            options = TLS(server_hostname="localhost")
        with tcpsock.connect(where, **options) as sock:
            assert _echoes(sock, rng)
    if rng.random() < 0.2:
        work = partial(_work, inherited, places, rng.random(), 40, leave, tls=tls)
        Child(work, leave).left_with(40)
    return code


def _use_inherited(sock: tcpsock.Socket) -> None:
    """It is the parent's, and nothing that is done to it here has any effect."""
    calls: tuple[Callable[[], object], ...] = (
        sock.streams,
        sock.readable.get_reader,
        sock.writable.get_writer,
        sock.start_tls,
        sock.detach,
        lambda: next(iter(sock.readable)),
    )
    for call in calls:
        try:
            call()
        except SocketForked:
            pass
        else:
            raise AssertionError("it works in the child")
    assert isinstance(sock.closed.exception(WAIT), SocketForked)
    assert sock.close() is sock.closed
    sock.abort()
    sock.readable.cancel()
    sock.writable.close()
    sock.writable.abort()
    with sock:
        assert "parent" in repr(sock)
        assert sock.stats


def multiprocessing_by_any_method(seed: int) -> None:
    """Workers connect anew however they were started; a Socket itself can't be sent to one."""
    ends = ExitStack()
    server = _server_elsewhere(ends)
    Child(partial(_start_workers, server)).left_with(0)  # it also takes leave of its helpers
    ends.close()


def _start_workers(server: tuple[str, int]) -> int:
    warnings.filterwarnings("ignore", ".*fork", DeprecationWarning)
    rng = random.Random(0)
    with tcpsock.connect(server) as sock, tcpsock.connect(server, **TLS()) as secure:
        assert _echoes(sock, rng) and _echoes(secure, rng)
        for method in ("fork", "forkserver", "spawn"):
            context = multiprocessing.get_context(method)
            with context.Pool(2) as pool:
                assert pool.map(_connect_anew, [(server, ca_data())] * 4) == [True] * 4
                pool.close()
                pool.join()
            worker = context.Process(target=_connect_anew, args=((server, ca_data()),))
            worker.start()
            worker.join(WAIT)
            assert worker.exitcode == 0
            if method == "fork":
                worker = context.Process(target=_use_inherited, args=(sock,))
                worker.start()
                worker.join(WAIT)
                assert worker.exitcode == 0
            else:
                try:
                    context.Process(target=print, args=(sock,)).start()
                except TypeError:
                    pass
                else:
                    raise AssertionError("a Socket was pickled")
        assert _echoes(sock, rng) and _echoes(secure, rng)
    return 0


def _connect_anew(where: tuple[tuple[str, int], str]) -> bool:
    server, ca_data = where
    rng = random.Random(0)
    tls = tcpsock.TlsOptions(ca_data=ca_data)
    with (
        tcpsock.connect(server) as sock,
        tcpsock.connect(server, secure_transport="on", tls=tls) as secure,
    ):
        return _echoes(sock, rng) and _echoes(secure, rng)
