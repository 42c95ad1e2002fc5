"""What many sockets cost, and what is left of them: the figures of docs/reliability.rst.

    python benchmarks/load.py            # all of it, some minutes
    python benchmarks/load.py --quick    # the same works, smaller: under a minute
    python benchmarks/load.py idle flood # some of them

The works are those of the tests in tests/load/; each runs in a process of its own, against a server
in another one. Needs Linux, as many descriptors as twice the sockets (the soft limit is raised to
the hard one; `ulimit -Hn` tells it), and the `test` extra, for the server's certificate.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

__all__ = ["WORKS", "measure"]

_ROOT = Path(__file__).parent.parent
_LOAD = _ROOT / "tests" / "load"

Arguments = dict[str, Any]

# Each work's arguments: in short, and in full.
WORKS: dict[str, tuple[list[Arguments], list[Arguments]]] = {
    "echo": (
        [{"sockets": 100, "rounds": 3, "size": 16_384}],
        [{"sockets": 1_000, "rounds": 20, "size": 16_384}],
    ),
    "idle": (
        [{"sockets": 500, "tls": False}, {"sockets": 50, "tls": True}],
        [{"sockets": 5_000, "tls": False}, {"sockets": 500, "tls": True}],
    ),
    "flood": (
        [
            {"sockets": 40, "mark": mark, "tls": tls}
            for tls in (False, True)
            for mark in (16_384, 100_000, 1 << 20)
        ],
        [
            {"sockets": 200, "mark": mark, "tls": tls}
            for tls in (False, True)
            for mark in (16_384, 100_000, 1 << 20)
        ],
    ),
    "endings": ([{"count": 50}], [{"count": 2_000}]),
    "reconnect": ([{"seconds": 5, "seed": 1}], [{"seconds": 120, "seed": 1}]),
}

# How each figure is told.
_UNITS = {
    "sockets": "sockets",
    "open_seconds": "s until all are open",
    "echo_seconds": "s until all is echoed",
    "megabytes_per_second": "MB/s each way, all together",
    "kib_per_socket": "KiB resident a socket",
    "descriptors_per_socket": "descriptors a socket",
    "threads_per_socket": "threads a socket",
    "notice_seconds": "s to notice the peer's end, 200 by 200",
    "mark": "bytes: the high-water mark",
    "most_buffered": "bytes buffered at most",
    "kib_over_mark": "KiB resident a socket, less the mark",
    "endings": "endings",
    "kinds": "kinds of them",
    "seconds": "s",
    "bytes_per_ending": "bytes more in use after each",
    "blocks_per_ending": "Python objects more after each",
    "sessions": "sessions",
    "bytes_per_session": "bytes more in use after each",
    "resident_bytes_per_session": "bytes more resident after each",
}


class LoadError(Exception):
    """A work found that something was wrong, or left behind."""


def measure(work: str, arguments: Arguments, timeout: float = 900) -> dict[str, float]:
    """Do one work in a process of its own, and return its figures.

    Raises:
        LoadError: it found a wrong byte, a wrong end, or something left behind; says what.
        subprocess.TimeoutExpired: it hangs.
    """
    environment = {**os.environ, "PYTHONPATH": str(_ROOT)}
    done = subprocess.run(
        [sys.executable, _LOAD / "works.py", work, json.dumps(arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    if done.returncode or done.stderr:
        raise LoadError(f"{work} {arguments}: exit code {done.returncode}\n{done.stderr}")
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def _machine() -> str:
    """What the figures were made on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    processor = next((line for line in lines if line.startswith("model name")), ": unknown")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    return (
        f"{datetime.date.today()}, {platform.python_implementation()} {platform.python_version()},"
        f" {ssl.OPENSSL_VERSION}, {platform.system()} {platform.release()},"
        f" {os.cpu_count()} cores ({processor.partition(':')[2].strip()}), {memory:.0f} GiB"
    )


def _table(work: str, arguments: Arguments, figures: dict[str, float]) -> str:
    what = ", ".join(f"{name}={value}" for name, value in arguments.items())
    rows = [f"{_number(value):>12}  {_UNITS[name]}" for name, value in figures.items()]
    return "\n".join([f"{work}({what})", *rows])


def _number(value: float) -> str:
    """With three digits that count, or all of a larger or whole one."""
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 100 else f"{value:.3g}"


def main() -> None:
    """Print the figures of the works that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("works", nargs="*", metavar="WORK", help=", ".join(WORKS))
    parser.add_argument("--quick", action="store_true", help="the same works, smaller")
    chosen = parser.parse_args()
    unknown = set(chosen.works) - set(WORKS)
    if unknown:
        parser.error(f"no such work: {', '.join(sorted(unknown))}; there are {', '.join(WORKS)}")
    print(_machine())
    for work in chosen.works or WORKS:
        for arguments in WORKS[work][not chosen.quick]:
            print("\n" + _table(work, arguments, measure(work, arguments)), flush=True)


if __name__ == "__main__":
    main()
