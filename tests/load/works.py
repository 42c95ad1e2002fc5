"""What is asked of one process, and what it cost: `python works.py WORK ARGUMENTS` does one work.

ARGUMENTS and the result, on the last line of stdout, are JSON objects. A work ends with an error if
a byte was wrong, an end was told wrongly, or something was left behind; how much it took is for the
caller to judge. Each is a process of its own, so that its memory is nobody else's.
"""

from __future__ import annotations

import concurrent.futures
import faulthandler
import itertools
import json
import random
import statistics
import sys
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import measuring
from endings import ENDINGS, Places, places
from measuring import PATIENCE, held, resident, until, until_only
from server import Server, raise_descriptor_limit

import tcpsock
from tcpsock._wire import close_notify

KIB = 1024
_ROUNDS = 5
Figures = dict[str, float]


def echo(sockets: int, rounds: int, size: int) -> Figures:
    """So many TLS sockets at once, each sending and getting back `rounds` times `size` bytes."""
    raise_descriptor_limit(2 * sockets + 100)
    with Server() as server, places(server) as to:
        _warm_up(to, tls=True)
        before, memory = held(), resident()
        begun = time.monotonic()
        crowd = [to.connect("echo", 1) for _ in range(sockets)]
        for sock in crowd:
            sock.opened.result(PATIENCE)
        opened = time.monotonic()
        start = threading.Barrier(sockets + 1)

        def talk(n: int) -> None:
            random_bytes = random.Random(n).randbytes
            reader, writer = crowd[n].streams()
            start.wait(PATIENCE)
            for _ in range(rounds):
                sent = random_bytes(size)
                writer.write(sent)
                assert reader.read_exactly(size) == sent

        with concurrent.futures.ThreadPoolExecutor(sockets) as talking:
            talks = [talking.submit(talk, n) for n in range(sockets)]
            start.wait(PATIENCE)
            started = time.monotonic()
            for each in talks:
                each.result(PATIENCE)
            done = time.monotonic()
        figures = {
            "sockets": sockets,
            "open_seconds": opened - begun,
            "echo_seconds": done - started,
            "megabytes_per_second": sockets * rounds * size / (done - started) / 1e6,
            **_cost(memory, before, sockets),
        }
        _close(crowd)
        crowd.clear()
        del sock, talks, each
        until_only(before)
        return figures


def idle(sockets: int, tls: bool, at_once: int = 200) -> Figures:
    """So many sockets that do nothing, until the peer ends `at_once` of them after the other.

    (Not all in one moment: when thousands of threads wake up together, CPython's lock keeps two
    cores busy for a minute with the waiting alone, whatever the threads do.)
    """
    raise_descriptor_limit(2 * sockets + 100)
    with Server() as server, places(server) as to:
        _warm_up(to, tls=tls)
        before, memory = held(), resident()
        begun = time.monotonic()
        crowd = []
        for start in range(0, sockets, 500):
            some = [to.connect("hold", tls) for _ in range(start, min(start + 500, sockets))]
            for sock in some:
                sock.opened.result(PATIENCE)
            crowd += some
        opened = time.monotonic()
        assert not any(sock.closed.done() for sock in crowd)
        figures = {
            "sockets": sockets,
            "open_seconds": opened - begun,
            **_cost(memory, before, sockets),
        }
        noticed = threading.Semaphore(0)
        for sock in crowd:
            sock.closed.add_done_callback(lambda _: noticed.release())
        if tls:  # a close_notify is noticed once reading has begun, a FIN before (R0)
            readers = [sock.readable.get_reader() for sock in crowd]
        ended = time.monotonic()
        for start in range(0, sockets, at_once):
            batch = min(at_once, sockets - start)
            server.let_go(batch)
            for _ in range(batch):
                assert noticed.acquire(timeout=PATIENCE), "an end was not noticed"
        figures["notice_seconds"] = time.monotonic() - ended
        for sock in crowd:
            assert sock.closed.result(0) is None
        if tls:
            assert all(reader.read() == b"" for reader in readers)
            del readers
        del crowd, some, sock
        until_only(before)
        return figures


def flood(sockets: int, mark: int, tls: bool) -> Figures:
    """An endless sender to each of so many sockets, whose consumers never read.

    Half as many are there before: what the first ones cost malloc is the process's, not a socket's.
    """
    raise_descriptor_limit(3 * sockets + 100)
    with Server() as server, places(server) as to:
        _warm_up(to, tls=tls)
        before = held()
        crowd: list[tcpsock.Socket] = []
        readers: list[tcpsock.Reader] = []
        most = 0

        def fill(number: int) -> int:
            """So many more, full and watched for a while. Returns the resident bytes then."""
            nonlocal most
            more = [to.connect("flood", tls, high_water_mark=mark) for _ in range(number)]
            readers.extend(sock.readable.get_reader() for sock in more)
            crowd.extend(more)
            until(lambda: min(_buffered(more)) >= mark, "all are full up to the mark")
            for _ in range(20):  # and stay so
                time.sleep(0.02)
                most = max(most, *_buffered(crowd))
            return resident()

        memory = fill(sockets // 2)
        per_socket = (fill(sockets) - memory) / sockets
        for sock in crowd:
            sock.abort()
        for sock in crowd:
            assert isinstance(sock.closed.exception(PATIENCE), tcpsock.SocketAborted)
        del sock
        crowd.clear()
        readers.clear()
        until_only(before)
        return {
            "sockets": sockets,
            "mark": mark,
            "most_buffered": most,
            "kib_over_mark": (per_socket - mark) / KIB,
        }


def _buffered(crowd: list[tcpsock.Socket]) -> list[int]:
    return [sock.stats.bytes_buffered for sock in crowd]


def endings(count: int) -> Figures:
    """`count` endings of each kind, four at a time; nothing is left of any of them.

    The figures are what grew by each ending: bytes of C code and large objects, and Python's small
    objects, those that gc doesn't know of too. They are medians of several rounds, as the library
    keeps a few large buffers for the next connection, and may add one in any round.
    """
    raise_descriptor_limit(2 * count + 200)  # the server's: it holds those that it doesn't read
    alone = measuring.threads()
    begun = time.monotonic()
    grown: list[tuple[float, float]] = []
    with Server() as server, places(server) as to:
        with concurrent.futures.ThreadPoolExecutor(4) as four:

            def make(ending: Callable[[Places, int], None], number: int) -> None:
                for result in [four.submit(ending, to, n) for n in range(number)]:
                    result.result(PATIENCE)

            for ending in ENDINGS:
                make(ending, 8)
            before = held()
            each_time = count // _ROUNDS
            for _ in range(_ROUNDS):
                blocks, memory = measuring.blocks(), measuring.in_use()
                for ending in ENDINGS:
                    try:
                        make(ending, each_time)
                        until_only(before)
                    except AssertionError as error:
                        raise AssertionError(f"{ending.__name__}: {error}") from error
                made = each_time * len(ENDINGS)
                grown.append(
                    (
                        (measuring.in_use() - memory) / made,
                        (measuring.blocks() - blocks) / made,
                    )
                )
    figures: Figures = {
        "endings": count * len(ENDINGS),
        "kinds": len(ENDINGS),
        "seconds": time.monotonic() - begun,
        "bytes_per_ending": statistics.median(memory for memory, _ in grown),
        "blocks_per_ending": statistics.median(blocks for _, blocks in grown),
    }
    until(lambda: measuring.threads() == alone, "idle threads have gone")
    return figures


def reconnect(seconds: float, seed: int) -> Figures:
    """Clients that connect again and again, for so long, through whatever goes wrong.

    The figures are what each of them added to memory, from a tenth of the time on: the slope of
    what is in use, and of what is resident, which creeps a little while malloc finds its size.
    """
    raise_descriptor_limit(1000)
    with Server() as server, places(server) as to:
        _warm_up(to, tls=True)
        for n in range(100):
            _session(to, random.Random(n))
        before = held()
        stop = time.monotonic() + seconds
        counts = [0] * 3

        def client(which: int) -> None:
            rng = random.Random(f"{seed} {which}")
            while time.monotonic() < stop:
                try:
                    _session(to, rng)
                except BaseException as error:
                    raise AssertionError(
                        f"seed {seed}, client {which}, session {counts[which]}: {error!r}"
                    ) from error
                counts[which] += 1

        samples: list[tuple[int, int, int]] = []
        with concurrent.futures.ThreadPoolExecutor(len(counts)) as clients:
            running = [clients.submit(client, which) for which in range(len(counts))]
            while concurrent.futures.wait(running, seconds / 100).not_done:
                samples.append((sum(counts), measuring.in_use(), resident()))
            for each in running:
                each.result()
        del each, running
        until_only(before)
        sessions, in_use, memory = zip(*samples[len(samples) // 10 :], strict=True)
        return {
            "sessions": sum(counts),
            "seconds": seconds,
            "bytes_per_session": _slope(sessions, in_use),
            "resident_bytes_per_session": _slope(sessions, memory),
        }


def _session(to: Places, rng: random.Random) -> None:
    """One connection with whatever becomes of it: mostly well, sometimes one of the troubles."""
    n = rng.randrange(2)
    if rng.random() < 0.5:
        rng.choice(ENDINGS)(to, n)
        return
    size = rng.randrange(1, 200_000)
    with to.connect("echo", n, high_water_mark=rng.choice([1, 10_000, 1 << 20])) as sock:
        reader, writer = sock.streams()
        for _ in range(rng.randrange(1, 4)):
            sent = rng.randbytes(size)
            writing = threading.Thread(target=writer.write, args=(sent,))
            writing.start()
            got = reader.read_exactly(size // 2) + reader.read_exactly(size - size // 2)
            writing.join()
            assert got == sent
            try:
                reader.read(timeout=rng.choice([0, 0.001]))
            except tcpsock.ReadTimeout:
                pass
            else:
                raise AssertionError("bytes out of nowhere")


def _slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    """The median of the slopes between any two points: a single step doesn't count for much."""
    points = list(zip(xs, ys, strict=True))
    return statistics.median(
        (y2 - y1) / (x2 - x1) for (x1, y1), (x2, y2) in itertools.combinations(points, 2) if x2 > x1
    )


def _warm_up(to: Places, *, tls: bool) -> None:
    """What the library makes once for the process is there before anybody counts."""
    close_notify.prepare()
    crowd = [to.connect("echo", tls) for _ in range(20)]
    for sock in crowd:
        reader, writer = sock.streams()
        writer.write(bytes(1000))
        reader.read_exactly(1000)
    _close(crowd)


def _close(crowd: list[tcpsock.Socket]) -> None:
    for sock in crowd:
        sock.close()
    for sock in crowd:
        sock.closed.result(PATIENCE)


def _cost(memory: int, before: measuring.Held, sockets: int) -> Figures:
    """What each of so many sockets takes, compared with before."""
    return {
        "kib_per_socket": (resident() - memory) / sockets / KIB,
        "descriptors_per_socket": (measuring.descriptors() - before.descriptors) / sockets,
        "threads_per_socket": (len(held().threads) - len(before.threads)) / sockets,
    }


if __name__ == "__main__":
    faulthandler.dump_traceback_later(15 * 60, exit=True)
    # A bare socket that is left to the garbage collector tells so; a Socket of ours may be (E6).
    warnings.simplefilter("error", ResourceWarning)
    warnings.filterwarnings("ignore", "unclosed tcpsock.Socket", ResourceWarning)
    work: Callable[..., Figures] = globals()[sys.argv[1]]
    arguments: dict[str, Any] = json.loads(sys.argv[2])
    print(json.dumps(work(**arguments)))
