"""The command ``python -m tcpsock.bench``."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from types import FrameType

from . import _measure, _peers, _report
from ._progress import Progress
from ._server import Server, ServerError
from ._works import WORKS

__all__ = ["main"]

_PROGRAM = "tcpsock.bench"

_PLAN = _measure.Plan(rounds=7, seconds_each=0.22, seconds=54)
_QUICK_PLAN = _measure.Plan(rounds=3, seconds_each=0.055, seconds=8)

_NOISE_WORKS = ("ping-pong", "download")  # the baseline is measured a second time there
_PATIENCE = 3.0  # times the planned seconds: after that something hangs


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status.

    0: done; 1: a measurement failed; 2: wrong usage; 130: Ctrl-C; 141: stdout's reader is gone
    (on POSIX the process really dies of SIGINT or SIGPIPE then).
    """
    options = _parse(arguments)
    try:
        return _run(options)
    except KeyboardInterrupt:
        return _die_of("SIGINT", 130)
    except BrokenPipeError:
        return _die_of("SIGPIPE", 141)
    except (_measure.Failure, ServerError, OSError) as error:
        print(f"{_PROGRAM}: {error}", file=sys.stderr)
        return 1


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=_PROGRAM,
        usage="python -m tcpsock.bench [-h] [--quick] [--json [FILE]]",
        description="Measures tcpsock beside the raw blocking socket, on servers of its own.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--quick", action="store_true", help="10 seconds in place of a minute; less exact"
    )
    parser.add_argument(
        "--json",
        metavar="FILE",
        nargs="?",
        const="-",
        help="write the figures to FILE too; without FILE to stdout, in place of the table",
    )
    options = parser.parse_args(arguments)
    if options.json not in (None, "-"):
        try:
            _check_writable(options.json)
        except OSError as error:
            parser.error(f"argument --json: {options.json}: {error.strerror}")
    return options


def _check_writable(path: str) -> None:
    """Better told now than in a minute. A file that is there keeps its content."""
    existed = os.path.exists(path)
    with open(path, "ab"):
        pass
    if not existed:
        os.remove(path)


def _run(options: argparse.Namespace) -> int:
    plan = _QUICK_PLAN if options.quick else _PLAN
    start = time.monotonic()
    facts = _report.machine()
    progress = Progress(plan.seconds)
    try:
        with _limit(_PATIENCE * plan.seconds), Server() as server:
            lanes = _lanes(server)
            rounds = _measure.measure(lanes, plan, progress)
    finally:
        progress.clear()
    rows = _measure.rows(lanes)
    document = _report.document(rows, rounds, time.monotonic() - start, facts)
    if options.json == "-":
        _print(json.dumps(document, indent=1))
        return 0
    if options.json is not None:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(document, file, indent=1)
            file.write("\n")
    _print(_report.table(rows, rounds, facts))
    return 0


def _lanes(server: Server) -> list[_measure.Lane]:
    raw, subject = _peers.load("raw"), _peers.load("tcpsock")
    return [
        _measure.Lane(
            work,
            target,
            (raw, subject, _peers.again(raw)) if work.name in _NOISE_WORKS else (raw, subject),
        )
        for target in (server.plain, server.tls)
        for work in WORKS
    ]


@contextlib.contextmanager
def _limit(seconds: float) -> Iterator[None]:
    """Ends the block with a TimeoutError after that time, where the system has a timer for it.

    A signal, not a thread: it costs the measurements nothing.
    """
    if not hasattr(signal, "setitimer"):
        yield
        return

    def give_up(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"gave up after {seconds:.0f} s: something hangs")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _print(text: str) -> None:
    """Writes to stdout, now. Raises OSError where it can't, and then leaves nothing to flush."""
    try:
        print(text, flush=True)
    except OSError:
        # The interpreter would try again at its end, and complain in its own words.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


def _die_of(name: str, status: int) -> int:
    """Ends the process by that signal where there is one, so that a calling script stops too."""
    if hasattr(signal, "SIGPIPE"):
        number = getattr(signal, name)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    return status


if __name__ == "__main__":
    sys.exit(main())
