"""Sockets and the interpreter around them: exit (E7), fork (E8), dropping (E6), threads (O2, O5).

Each script runs in an interpreter of its own, with the peer in this one, and asserts by itself what
it wants; its exit code, its output and that it ends at all are what the test looks at.
"""

from __future__ import annotations

import pathlib
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator

import pytest

from tcpsock import testing

ROOT = pathlib.Path(__file__).parents[2]

PROLOGUE = """
import gc, os, signal, socket, struct, sys, threading, time, warnings
sys.path.insert(0, sys.argv[1])
import tcpsock
from tcpsock import SocketClosed, SocketForked
ADDRESS, TLS_ADDRESS, CA = sys.argv[2:5]
WAIT = 20
TLS = {"secure_transport": "on", "tls": tcpsock.TlsOptions(ca_data=CA)}

def until(condition, what):
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline, "still not: " + what
        time.sleep(0.005)

def echoes(sock, data=b"echo"):
    reader, writer = sock.streams()
    writer.write(data, timeout=WAIT)
    assert reader.read_exactly(len(data), timeout=WAIT) == data
    reader.release_lock()
    writer.release_lock()
    return True

def raises(kind, call, *args, **options):
    try:
        call(*args, **options)
    except kind as error:
        assert type(error) is kind, repr(error)
        return error
    raise AssertionError(f"{call} did not raise {kind}")

def waiting_in(call, *args):
    # A daemon thread that sits in this call when we return: its innermost frame stands still.
    def run():
        try:
            call(*args)
        except tcpsock.SocketError:
            pass
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    seen = []
    def still():
        frame = sys._current_frames().get(thread.ident)
        seen.append(frame and (id(frame), frame.f_lasti))
        return frame and frame.f_code is not run.__code__ and len(set(seen[-5:])) == 1 < len(seen)
    until(still, "it waits")
    return thread

real_getaddrinfo = socket.getaddrinfo
def hang_names(*hanging):
    # These names are looked up for ever, "db.example" is the server with the plain port.
    host, port = ADDRESS.rsplit(":", 1)
    def getaddrinfo(name, *args, **options):
        name = name.decode() if isinstance(name, bytes) else name
        if name.startswith("hang"):
            threading.Event().wait()
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, int(port)))]
    socket.getaddrinfo = getaddrinfo

def black_hole():
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    filler = socket.socket()
    filler.connect(listener.getsockname())
    return "127.0.0.1:%d" % listener.getsockname()[1], (listener, filler)

def silent_listener():
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    return "127.0.0.1:%d" % listener.getsockname()[1], listener

def descriptors():
    return len(os.listdir("/proc/self/fd"))

def kernel_threads():
    return len(os.listdir("/proc/self/task"))
"""


class Servers:
    """An echo server without and one with TLS, and the runner of scripts that talk to them."""

    def __init__(self, plain: testing.Server, tls: testing.Server) -> None:
        self.plain, self.tls = plain, tls

    def run(
        self,
        script: str,
        *options: str,
        returncode: int = 0,
        stdout: str = "",
        stderr: str | None = "",
        timeout: float = 50,
    ) -> str:
        """Run it; what it printed to stderr. stderr=None: anything may be there."""
        done = subprocess.run(
            [
                sys.executable,
                *options,
                "-c",
                PROLOGUE + textwrap.dedent(script),
                str(ROOT),
                self.plain.address,
                self.tls.address,
                self.tls.ca_data,
            ],
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert done.returncode == returncode, done.stderr
        assert done.stdout == stdout
        assert stderr is None or done.stderr == stderr
        return done.stderr


def echo(sock: socket.socket) -> None:
    while data := sock.recv(1 << 16):
        sock.sendall(data)


@pytest.fixture
def servers() -> Iterator[Servers]:
    with testing.serve(echo) as plain, testing.serve(echo, tls=True) as tls:
        yield Servers(plain, tls)


# E7: interpreter exit

AT_EXIT = {
    "open": "sock = tcpsock.connect(ADDRESS); sock.opened.result(WAIT)",
    "open over TLS": "sock = tcpsock.connect(TLS_ADDRESS, **TLS); sock.opened.result(WAIT)",
    "read from": "sock = tcpsock.connect(ADDRESS); assert echoes(sock)",
    "read from over TLS": "sock = tcpsock.connect(TLS_ADDRESS, **TLS); assert echoes(sock)",
    "held by reader and writer alone": "held = tcpsock.connect(ADDRESS).streams()",
    "just asked for": "sock = tcpsock.connect(ADDRESS)",
    "just asked for, over TLS": "sock = tcpsock.connect(TLS_ADDRESS, **TLS)",
    "resolving": """
        hang_names()
        sock = tcpsock.connect("hang.example:80", connect_timeout=None)
    """,
    "dialling": """
        address, held = black_hole()
        sock = tcpsock.connect(address, connect_timeout=None)
    """,
    "shaking hands": """
        address, held = silent_listener()
        sock = tcpsock.connect(address, connect_timeout=None, **TLS)
        peer, _ = held.accept()
        assert peer.recv(1)
    """,
    "blocked in a read": """
        sock = tcpsock.connect(ADDRESS)
        thread = waiting_in(sock.readable.get_reader().read)
    """,
    "blocked in a read over TLS": """
        sock = tcpsock.connect(TLS_ADDRESS, **TLS)
        thread = waiting_in(sock.readable.get_reader().read)
    """,
    "blocked in a read before it is open": """
        hang_names()
        sock = tcpsock.connect("hang.example:80", connect_timeout=None)
        thread = waiting_in(sock.readable.get_reader().read)
    """,
    "blocked in a write": """
        address, held = silent_listener()
        sock = tcpsock.connect(address)
        thread = waiting_in(sock.writable.get_writer().write, bytes(16 << 20))
    """,
    "closing without a limit": """
        address, held = silent_listener()
        sock = tcpsock.connect(address, close_timeout=None)
        sock.opened.result(WAIT)
        sock.close()
    """,
    "closing, with a write that waits": """
        address, held = silent_listener()
        sock = tcpsock.connect(address, close_timeout=None)
        thread = waiting_in(sock.writable.get_writer().write, bytes(16 << 20))
        sock.close()
    """,
    "waiting in StartTLS": """
        address, held = silent_listener()
        old = tcpsock.connect(address, secure_transport="starttls", connect_timeout=None)
        sock = old.start_tls()
        old.closed.result(WAIT)
    """,
    "waited for in a daemon thread": """
        sock = tcpsock.connect(ADDRESS)
        thread = waiting_in(sock.closed.result)
    """,
    "half-closed": """
        address, held = silent_listener()
        sock = tcpsock.connect(address)
        sock.writable.get_writer().close()
        sock.readable.get_reader()
    """,
    "a hundred": """
        socks = [tcpsock.connect(ADDRESS) for _ in range(100)]
        for sock in socks[:50]:
            sock.opened.result(WAIT)
    """,
    "in a reference cycle": """
        sock = tcpsock.connect(ADDRESS)
        sock.opened.result(WAIT)
        cycle = [sock]
        cycle.append(cycle)
    """,
    "closed by somebody's __del__": """
        class Client:
            def __init__(self, how):
                self.sock, self.how = tcpsock.connect(ADDRESS), how
                self.sock.opened.result(WAIT)
            def __del__(self):
                getattr(self.sock, self.how)()
        clients = [Client("close"), Client("abort"), Client("streams")]
        clients.append(clients)
    """,
    "all closed": """
        with tcpsock.connect(ADDRESS) as sock:
            assert echoes(sock)
    """,
}


@pytest.mark.parametrize("state", AT_EXIT)
def test_E7_exit_prints_nothing_and_does_not_hang(servers: Servers, state: str) -> None:
    servers.run(textwrap.dedent(AT_EXIT[state]))


@pytest.mark.parametrize("state", ["open", "shaking hands", "blocked in a read", "a hundred"])
def test_E7_development_mode_prints_the_warnings_of_E6_at_most(
    servers: Servers, state: str
) -> None:
    printed = servers.run(textwrap.dedent(AT_EXIT[state]), "-X", "dev", stderr=None)
    assert "Traceback" not in printed and "Exception" not in printed
    for line in printed.splitlines():
        if not line.startswith((" ", "ResourceWarning: Enable")):  # source lines, a hint
            assert "ResourceWarning: unclosed" in line


@pytest.mark.parametrize("how", ["sys.exit(3)", "raise SystemExit(3)", "os._exit(3)"])
def test_E7_the_exit_code_is_kept(servers: Servers, how: str) -> None:
    servers.run(
        f"""
        sock = tcpsock.connect(ADDRESS)
        thread = waiting_in(sock.readable.get_reader().read)
        {how}
        """,
        returncode=3,
    )


def test_E7_an_exception_that_ends_the_program_is_all_that_is_printed(servers: Servers) -> None:
    printed = servers.run(
        """
        sock = tcpsock.connect(ADDRESS)
        sock.opened.result(WAIT)
        raise ValueError("out of the program")
        """,
        returncode=1,
        stderr=None,
    )
    assert printed.strip().endswith("ValueError: out of the program")
    assert printed.count("Traceback") == 1


def test_E7_T10_connecting_during_exit_is_an_error_of_ours_or_works(servers: Servers) -> None:
    """From Python 3.12 no thread starts any more then."""
    servers.run(
        """
        import atexit
        kept = tcpsock.connect(ADDRESS)
        kept.opened.result(WAIT)

        @atexit.register
        def at_exit():
            for address, options in ((ADDRESS, {}), (TLS_ADDRESS, TLS), ("localhost:9", {})):
                sock = tcpsock.connect(address, **options)
                error = sock.opened.exception(WAIT)
                assert error is None or isinstance(error, tcpsock.ConnectError), repr(error)
                if error is None:
                    assert echoes(sock)
                assert sock.close() is sock.closed
            assert echoes(kept)  # what was open still works
            kept.close().result(WAIT)
            print("went through")
        """,
        stdout="went through\n",
    )


def test_E7_exit_in_the_middle_of_traffic(servers: Servers) -> None:
    script = """
        def pump(sock):
            reader, writer = sock.streams()
            while True:
                writer.write(b"x" * 1000)
                reader.read()

        def quietly(sock):
            try:
                pump(sock)
            except tcpsock.SocketError:
                pass

        for options in ({}, {}, TLS, TLS):
            sock = tcpsock.connect(TLS_ADDRESS if options else ADDRESS, **options)
            threading.Thread(target=quietly, args=(sock,), daemon=True).start()
            until(lambda: sock.stats.bytes_received > 100_000, "bytes flow")
        """
    for _ in range(3):
        servers.run(script)


def test_E7_ctrl_c_wakes_a_blocked_read(servers: Servers) -> None:
    printed = servers.run(
        """
        sock = tcpsock.connect(ADDRESS)
        reader = sock.readable.get_reader()
        main = threading.main_thread().ident
        seen = []
        def interrupt():
            def still():
                frame = sys._current_frames()[main]
                seen.append((id(frame), frame.f_lasti))
                return "tcpsock" in frame.f_code.co_filename + frame.f_back.f_code.co_filename \
                    and len(seen) > 5 and len(set(seen[-5:])) == 1
            until(still, "the main thread waits")
            os.kill(os.getpid(), signal.SIGINT)
        threading.Thread(target=interrupt, daemon=True).start()
        try:
            reader.read()
        except KeyboardInterrupt:
            print("interrupted")
        reader.release_lock()
        assert echoes(sock)  # R4: nothing is lost, nothing is broken
        """,
        stdout="interrupted\n",
    )
    assert printed == ""


# E8: fork

FORK = """
def forked(in_child):
    # Run it in a forked child; its exit code tells whether it went through.
    child = os.fork()
    if child == 0:
        try:
            in_child()
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    deadline = time.monotonic() + WAIT
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGABRT)
            raise AssertionError("the child hangs")
        time.sleep(0.005)
    assert status == 0, status
warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: fork() in a process with threads
"""


def test_E8_use_of_an_inherited_socket_is_SocketForked(servers: Servers) -> None:
    servers.run(
        FORK
        + """
socks = [tcpsock.connect(ADDRESS), tcpsock.connect(TLS_ADDRESS, **TLS),
         tcpsock.connect(ADDRESS, secure_transport="starttls")]
held = []
for sock in socks:
    sock.opened.result(WAIT)
    held.append(sock.streams())
bare = tcpsock.connect(ADDRESS)
bare.opened.result(WAIT)

def in_child():
    for sock, (reader, writer) in zip(socks, held):
        calls = [reader.read, reader.readline, reader.read_all, reader.peek,
                 lambda: reader.read_exactly(1), lambda: reader.readinto(bytearray(1)),
                 lambda: reader.read_until(b"x"), lambda: next(iter(reader)),
                 lambda: writer.write(b"x"), lambda: writer.writelines([b"x"]),
                 sock.start_tls, sock.detach]
        for call in calls:
            error = raises(SocketForked, call)
            assert error.code == "socket-forked" and isinstance(error, SocketClosed)
        assert sock.opened.done() and sock.opened.exception() is None
    for call in (bare.readable.get_reader, bare.writable.get_writer, bare.streams,
                 bare.detach, bare.start_tls, lambda: next(iter(bare.readable))):
        raises(SocketForked, call)
    for sock in socks:
        repr(sock), sock.stats, sock.readable.locked, sock.upgraded, sock.secure_transport
forked(in_child)
for sock, (reader, writer) in zip(socks, held):
    writer.write(b"unharmed")
    assert reader.read_exactly(8, timeout=WAIT) == b"unharmed"
""",
    )


def test_E8_the_parents_connections_are_unharmed(servers: Servers) -> None:
    """No shutdown, close_notify or reset from the child, whatever it does."""
    servers.run(
        FORK
        + """
socks = [tcpsock.connect(ADDRESS), tcpsock.connect(TLS_ADDRESS, **TLS)]
for sock in socks:
    assert echoes(sock)

def in_child():
    for sock in socks:
        assert sock.close() is sock.closed
        sock.abort()
        sock.readable.cancel()
        sock.readable.close()
        sock.writable.close()
        sock.writable.abort()
        with sock:
            pass
        sock.close()
    socks.clear()
    gc.collect()

def in_child_that_exits():
    forked(lambda: socks[0].close())  # a child of the child
    sys.stdout.flush()

def in_child_that_drops():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        while socks:
            socks.pop()
        gc.collect()
    assert caught == [], caught  # nothing was closed

for what in (in_child, in_child_that_exits, in_child_that_drops):
    forked(what)
    for sock in socks:
        assert not sock.closed.done()
        assert echoes(sock)
# a child that leaves as a program does, its atexit handlers and all
child = os.fork()
if child == 0:
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
for sock in socks:
    assert echoes(sock)
    sock.close()
""",
    )


def test_E8_leaving_an_inherited_with_block_does_nothing(servers: Servers) -> None:
    servers.run(
        FORK
        + """
with tcpsock.connect(TLS_ADDRESS, **TLS) as sock:
    assert echoes(sock)
    child = os.fork()
if child == 0:
    os._exit(0 if isinstance(sock.closed.exception(0), SocketForked) else 1)
assert os.waitpid(child, 0)[1] == 0
assert sock.closed.result(0) is None  # the parent's was open to the end, and closed well
""",
    )


def test_E8_pending_futures_fail_in_the_child_without_callbacks(servers: Servers) -> None:
    servers.run(
        FORK
        + """
hang_names()
opening = tcpsock.connect("hang.example:80", connect_timeout=None)
address, held = black_hole()
dialling = tcpsock.connect(address, connect_timeout=None)
upgrading = tcpsock.connect(address, secure_transport="starttls", connect_timeout=None)
upgraded = upgrading.start_tls()
idle = tcpsock.connect(ADDRESS)
reader, writer = idle.streams()
idle.opened.result(WAIT)
done = tcpsock.connect(ADDRESS)
done.opened.result(WAIT)
done.close().result(WAIT)
called = []
pending = [opening.opened, opening.closed, dialling.opened, dialling.closed, upgrading.opened,
           upgrading.closed, upgraded.opened, upgraded.closed, idle.closed,
           reader.closed, writer.closed]
for future in pending:
    future.add_done_callback(called.append)

def in_child():
    for future in pending:
        assert isinstance(future.exception(WAIT), SocketForked), future
    assert called == []
    assert done.closed.result(0) is None
    assert idle.opened.result(0).remote_address == ADDRESS
    raises(SocketForked, opening.readable.get_reader)
    assert opening.close() is opening.closed
    later = []
    opening.closed.add_done_callback(later.append)
    assert later == [opening.closed]
forked(in_child)
assert not any(future.done() for future in pending)
for sock in (opening, dialling, upgraded, idle):
    sock.close().result(WAIT)
""",
    )


def test_E8_the_childs_copies_of_the_descriptors_are_closed(servers: Servers) -> None:
    servers.run(
        FORK
        + """
def sockets():
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            link = os.readlink("/proc/self/fd/" + name)
        except OSError:
            continue
        if "socket" in link or "eventfd" in link:
            found.add((name, link))
    return found
with tcpsock.connect(TLS_ADDRESS, **TLS) as sock:  # what is made once
    assert echoes(sock)
address, held = silent_listener()
before = sockets()
socks = [tcpsock.connect(ADDRESS), tcpsock.connect(TLS_ADDRESS, **TLS)]
for sock in socks:
    assert echoes(sock)
socks.append(tcpsock.connect(address, **TLS))
peer, _ = held.accept()
assert peer.recv(1)
ours = sockets() - before
assert len(ours) >= 3
inherited = {link for _, link in ours if link.startswith("socket") and
             link != os.readlink("/proc/self/fd/%d" % peer.fileno())}
def in_child():
    left = {link for _, link in sockets()}
    assert not left & inherited, left & inherited
forked(in_child)
peer.close()
""",
    )


def test_E8_a_peer_sees_the_end_though_a_child_lives_on(servers: Servers) -> None:
    """The child's copies are closed, so that the parent's close() is the end of the connection."""
    servers.run(
        FORK
        + """
address, held = silent_listener()
sock = tcpsock.connect(address, close_timeout=0)
sock.opened.result(WAIT)
peer, _ = held.accept()
peer.settimeout(WAIT)
read, write = os.pipe()
child = os.fork()
if child == 0:
    os.close(write)
    os.read(read, 1)  # live on until the parent says so
    os._exit(0)
sock.abort()
try:
    assert peer.recv(1) == b""
except ConnectionResetError:
    pass
os.close(write)
assert os.waitpid(child, 0)[1] == 0
""",
    )


@pytest.mark.parametrize("options", ["{}", "TLS"])
def test_E8_the_child_connects_anew(servers: Servers, options: str) -> None:
    servers.run(
        FORK
        + f"""
options = {options}
address = TLS_ADDRESS if options else ADDRESS
sock = tcpsock.connect(address, **options)
assert echoes(sock)

def in_child():
    with tcpsock.connect(address, **options) as new:
        assert echoes(new)
        new.writable.close()  # over TLS: with what is kept once a process
        assert new.readable.get_reader().read_all(timeout=WAIT) == b""
    forked(in_grandchild)

def in_grandchild():
    with tcpsock.connect(address, **options) as new:
        assert echoes(new)
for _ in range(3):
    forked(in_child)
    assert echoes(sock)
""",
    )


def test_E8_pre_fork_workers(servers: Servers) -> None:
    """As gunicorn --preload: the master has used connections, idle threads and cached contexts."""
    servers.run(
        FORK
        + """
for options in ({}, TLS):
    with tcpsock.connect(TLS_ADDRESS if options else ADDRESS, **options) as sock:
        assert echoes(sock)
kept = tcpsock.connect(ADDRESS)
kept.opened.result(WAIT)
workers = []
for number in range(4):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            raises(SocketForked, kept.streams)
            together = [tcpsock.connect(TLS_ADDRESS, **TLS) for _ in range(5)]
            together += [tcpsock.connect(ADDRESS) for _ in range(5)]
            assert all(echoes(sock) for sock in together)
            for sock in together:
                sock.close().result(WAIT)
            code = 0
        finally:
            os._exit(code)
    workers.append(child)
assert [os.waitpid(child, 0)[1] for child in workers] == [0] * 4
assert echoes(kept)
""",
    )


def test_E8_fork_in_the_middle_of_everything(servers: Servers) -> None:
    """Other threads hold any lock there is at the moment of the fork: T9."""
    servers.run(
        FORK
        + """
sys.setswitchinterval(1e-5)
stop = threading.Event()
socks = [tcpsock.connect(ADDRESS), tcpsock.connect(ADDRESS),
         tcpsock.connect(TLS_ADDRESS, **TLS), tcpsock.connect(TLS_ADDRESS, **TLS)]
failures = []

def traffic(sock):
    try:
        reader, writer = sock.streams()
        while not stop.is_set():
            writer.write(b"x" * 5000)
            assert reader.read_exactly(5000, timeout=WAIT) == b"x" * 5000
    except BaseException as error:
        failures.append(error)

def look(sock):
    while not stop.is_set():
        sock.closed.done()
        sock.stats
        repr(sock)
        sock.closed.add_done_callback(id)

def come_and_go():
    try:
        while not stop.is_set():
            with tcpsock.connect(ADDRESS, close_timeout=0) as sock:
                assert echoes(sock)
    except BaseException as error:
        failures.append(error)

threads = [threading.Thread(target=traffic, args=(sock,)) for sock in socks]
threads += [threading.Thread(target=look, args=(sock,)) for sock in (socks[0], socks[2])]
threads += [threading.Thread(target=come_and_go)]
for thread in threads:
    thread.start()

def in_child():
    for sock in socks:
        assert isinstance(sock.closed.exception(WAIT), SocketForked)
        repr(sock), sock.stats
        sock.close()
        sock.abort()
        raises(SocketForked, sock.detach)
    with tcpsock.connect(TLS_ADDRESS, **TLS) as new:
        assert echoes(new)
    with tcpsock.connect(ADDRESS) as new:
        assert echoes(new)
try:
    for _ in range(10):
        forked(in_child)
        assert not failures, failures
finally:
    stop.set()
    for thread in threads:
        thread.join(WAIT)
assert not failures, failures
for sock in socks:
    sock.abort()
    sock.closed.exception(WAIT)
""",
    )


def test_E8_fork_while_another_thread_is_in_a_read_and_a_look_up(servers: Servers) -> None:
    servers.run(
        FORK
        + """
hang_names()
waiting = tcpsock.connect("hang.example:80", connect_timeout=None)
sock = tcpsock.connect(ADDRESS)
reader, writer = sock.streams()
thread = waiting_in(reader.read)
def in_child():
    raises(SocketForked, reader.read)
    raises(SocketForked, waiting.readable.get_reader)
    with tcpsock.connect("db.example:80") as new:  # a look-up of the child's own
        assert echoes(new)
forked(in_child)
writer.write(b"x")
thread.join(WAIT)
assert not thread.is_alive()
sock.close()
waiting.close()
""",
    )


def test_E8_multiprocessing_with_fork(servers: Servers) -> None:
    servers.run(
        """
warnings.simplefilter("ignore", DeprecationWarning)
import multiprocessing
sock = tcpsock.connect(ADDRESS)
assert echoes(sock)
def work(number):
    raises(SocketForked, sock.streams)
    with tcpsock.connect(ADDRESS) as new:
        assert echoes(new, b"%d" % number)
    return number
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map(work, range(6)) == list(range(6))
assert echoes(sock)
sock.close()
"""
    )


def test_E8_subprocess_inherits_no_descriptor(servers: Servers) -> None:
    servers.run(
        """
import subprocess
with tcpsock.connect(TLS_ADDRESS, **TLS) as sock:
    assert echoes(sock)
    listing = subprocess.run(
        [sys.executable, "-c", "import os; print(len(os.listdir('/proc/self/fd')))"],
        capture_output=True, text=True, close_fds=False, check=True).stdout
    assert int(listing) <= 4, listing  # the standard ones, and the one that lists
    assert echoes(sock)
"""
    )


# E6: dropping


def test_E6_dropped_sockets_leave_no_thread_and_no_descriptor(servers: Servers) -> None:
    servers.run(
        """
        with tcpsock.connect(TLS_ADDRESS, **TLS) as sock:  # what is made once
            assert echoes(sock)
        before = descriptors()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            closed = []
            for turn in range(60):
                options = TLS if turn % 3 == 0 else {}
                sock = tcpsock.connect(TLS_ADDRESS if options else ADDRESS, **options)
                assert echoes(sock)
                closed.append(sock.closed)
                if turn % 2:
                    cycle = [sock]
                    cycle.append(cycle)
                    del cycle
                del sock
            gc.collect()
            for future in closed:
                assert future.result(WAIT) is None
            assert [warning.category for warning in caught] == [ResourceWarning] * 60
            assert all(warning.source is not None for warning in caught)
            caught.clear()
        gc.collect()
        until(lambda: descriptors() <= before, "the descriptors are gone")
        alive = [thing for thing in gc.get_objects() if type(thing) is tcpsock.Socket]
        assert alive == []
        """
    )


def test_E6_T8_dropping_in_any_thread_at_any_moment(servers: Servers) -> None:
    """Finalizers take no lock: the collector runs them inside of anything."""
    servers.run(
        """
        warnings.simplefilter("ignore", ResourceWarning)
        gc.set_threshold(20)  # the collector runs all the time, in all threads
        sys.setswitchinterval(1e-5)
        closed, failures = [], []

        def drop_many():
            try:
                for turn in range(40):
                    sock = tcpsock.connect(ADDRESS, close_timeout=0)
                    closed.append(sock.closed)
                    if turn % 2:
                        assert echoes(sock)
                    cycle = [sock, sock.readable, sock.writable]
                    cycle.append(cycle)
                    del sock, cycle
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=drop_many) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT)
        assert not failures, failures
        gc.collect()
        for future in closed:
            future.exception(WAIT)
        """
    )


def test_E6_the_warning_may_be_an_error(servers: Servers) -> None:
    """-W error: Python prints what a finalizer raises; the socket is closed all the same."""
    printed = servers.run(
        """
        sock = tcpsock.connect(ADDRESS)
        sock.opened.result(WAIT)
        closed = sock.closed
        del sock
        gc.collect()
        assert closed.result(WAIT) is None
        """,
        "-W",
        "error::ResourceWarning",
        stderr=None,
    )
    assert "ResourceWarning: unclosed" in printed and "127.0.0.1" in printed


def test_E6_L6_the_warning_has_the_source_so_tracemalloc_tells_where_it_was_made(
    servers: Servers,
) -> None:
    servers.run(
        """
        import tracemalloc
        class Probe:
            pass
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            tracemalloc.start(20)
            sock = tcpsock.connect(ADDRESS)
            sock.opened.result(WAIT)
            del sock
            gc.collect()
        (warning,) = caught
        made = tracemalloc.get_object_traceback(warning.source)
        if tracemalloc.get_object_traceback(Probe()) is not None:  # 3.11 knows of no such object
            assert "<string>" in {frame.filename for frame in made}, made  # in this script
        """
    )


# Many sockets


COME_AND_GO = """
with tcpsock.connect(address, **options) as sock:  # what is made once
    assert echoes(sock)
before = descriptors()
for _ in range(many // 10):
    socks = [tcpsock.connect(address, close_timeout=0, **options) for _ in range(10)]
    for number, sock in enumerate(socks):
        if number % 3 == 0:
            sock.opened.result(WAIT)
        elif number % 3 == 1:
            assert echoes(sock)
    for sock in socks:
        sock.close()
    for sock in socks:
        assert sock.closed.result(WAIT) is None
assert descriptors() <= before
names = [thread.name for thread in threading.enumerate()][1:]
assert len(names) <= 20 and kernel_threads() <= 21, names  # idle ones are kept for a while
"""


def test_T15_a_thousand_sockets_leave_no_thread_and_no_descriptor(servers: Servers) -> None:
    servers.run(
        "address, options, many = ADDRESS, {}, 1000"
        + COME_AND_GO
        + 'until(lambda: kernel_threads() == 1, "the idle threads are gone too")'
    )


def test_T15_nor_do_those_with_TLS(servers: Servers) -> None:
    servers.run("address, options, many = TLS_ADDRESS, TLS, 200" + COME_AND_GO)


def test_T5_descriptors_above_1024_work(servers: Servers) -> None:
    """select() would break there."""
    servers.run(
        """
        import resource
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if hard != resource.RLIM_INFINITY and hard < 1300:
            sys.exit()
        resource.setrlimit(resource.RLIMIT_NOFILE, (1300, hard))
        taken = [os.open("/dev/null", os.O_RDONLY) for _ in range(1100)]
        for address, options in ((ADDRESS, {}), (TLS_ADDRESS, TLS)):
            with tcpsock.connect(address, **options) as sock:
                assert echoes(sock, b"x" * 100_000)
                sock.writable.close()
                assert sock.readable.get_reader().read_all(timeout=WAIT) == b""
        """
    )


def test_E4_close_from_eight_threads_under_traffic(servers: Servers) -> None:
    servers.run(
        """
        sys.setswitchinterval(1e-5)
        failures = []
        def traffic(sock):
            try:
                reader, writer = sock.streams()
                while True:
                    writer.write(b"x" * 20_000)
                    assert reader.read_exactly(20_000) == b"x" * 20_000
            except SocketClosed:
                pass
            except BaseException as error:
                failures.append(error)
        for turn in range(12):
            options = TLS if turn % 2 else {}
            sock = tcpsock.connect(TLS_ADDRESS if options else ADDRESS, **options)
            worker = threading.Thread(target=traffic, args=(sock,))
            worker.start()
            until(lambda: sock.stats.bytes_received > 50_000, "bytes flow")
            together = threading.Barrier(8)
            def close():
                together.wait()
                if sock.close() is not sock.closed:
                    failures.append("not its closed")
            closers = [threading.Thread(target=close) for _ in range(8)]
            for thread in closers:
                thread.start()
            for thread in [*closers, worker]:
                thread.join(WAIT)
                assert not thread.is_alive()
            assert sock.closed.result(WAIT) is None
        assert not failures, failures
        """
    )


# O2: callbacks


def test_O2_callbacks_that_raise_print_no_traceback_of_a_dead_thread(servers: Servers) -> None:
    """concurrent.futures logs what a callback raises; the connection's thread goes on."""
    printed = servers.run(
        """
        died = []
        threading.excepthook = died.append
        def raising(kind):
            def call_back(future):
                raise kind("out of a callback")
            return call_back
        hang_names()
        for kind in (SystemExit, KeyboardInterrupt, GeneratorExit, ValueError):
            sock = tcpsock.connect("db.example:80")
            for future in (sock.opened, sock.closed):
                future.add_done_callback(raising(kind))
            assert echoes(sock)
            assert sock.close().result(WAIT) is None
        with tcpsock.connect(ADDRESS) as sock:  # the threads are fit for reuse
            assert echoes(sock)
        assert died == [], died
        """,
        stderr=None,
    )
    assert "Exception in thread" not in printed


def test_O2_callbacks_that_call_back_in(servers: Servers) -> None:
    servers.run(
        """
        hang_names()
        for turn in range(60):
            done = threading.Event()
            sock = tcpsock.connect("db.example:80", close_timeout=0)
            def opened(future):
                other = tcpsock.connect(ADDRESS, close_timeout=0)  # another connection
                other.closed.add_done_callback(lambda _: done.set())
                other.opened.add_done_callback(lambda _: other.close())
                repr(sock), sock.stats, sock.streams()
                sock.close()
                sock.abort()
                sock.close()
            sock.opened.add_done_callback(opened)
            sock.closed.add_done_callback(lambda _: (sock.close(), sock.abort(), repr(sock)))
            sock.closed.exception(WAIT)
            assert sock.opened.exception(WAIT) is None
            assert done.wait(WAIT)
        """
    )


# O5: look-ups that hang


def test_O5_forty_hanging_look_ups_hold_up_nobody(servers: Servers) -> None:
    servers.run(
        """
        hang_names()
        hanging = [tcpsock.connect(f"hang{n}.example:80", connect_timeout=None) for n in range(39)]
        limited = tcpsock.connect("hang.example:80", connect_timeout=0.2)
        blocked = [waiting_in(hanging[0].readable.get_reader().read)]
        # an IP literal connects, over TLS too, and so does another name
        for target, options in ((ADDRESS, {}), (TLS_ADDRESS, TLS), ("db.example:80", {})):
            with tcpsock.connect(target, **options) as sock:
                assert echoes(sock)
        # nor the deadline
        error = limited.opened.exception(WAIT)
        assert type(error) is tcpsock.ConnectTimeout and error.phase == "resolve", repr(error)
        # nor close(), abort(), start_tls()
        for number, sock in enumerate(hanging):
            if number % 3 == 2:
                sock.abort()
                assert isinstance(sock.closed.exception(WAIT), tcpsock.SocketAborted)
            else:
                assert sock.close().result(WAIT) is None
            assert isinstance(sock.opened.exception(WAIT), SocketClosed)
        blocked[0].join(WAIT)
        assert not blocked[0].is_alive()
        # nor the drop of the last reference, nor exit
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            del sock, hanging, limited
            gc.collect()
        assert not [thing for thing in gc.get_objects() if type(thing) is tcpsock.Socket]
        """
    )


def test_O5_a_look_up_that_answers_after_the_end_is_of_no_consequence(servers: Servers) -> None:
    servers.run(
        """
        host, port = ADDRESS.rsplit(":", 1)
        answer = threading.Event()
        def getaddrinfo(name, *args, **options):
            answer.wait(WAIT)
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, int(port)))]
        before = descriptors()
        socket.getaddrinfo = getaddrinfo
        socks = [tcpsock.connect("db.example:80", connect_timeout=0.1) for _ in range(5)]
        closed = [tcpsock.connect("db.example:80") for _ in range(5)]
        for sock in closed:
            sock.close().result(WAIT)
        for sock in socks:
            assert isinstance(sock.opened.exception(WAIT), tcpsock.ConnectTimeout)
        answer.set()
        with tcpsock.connect("db.example:80") as sock:
            assert echoes(sock)
        until(lambda: descriptors() <= before, "nobody dialled behind our back")
        """
    )
