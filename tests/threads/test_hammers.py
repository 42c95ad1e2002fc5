"""Two threads and one TLS connection, thousands of times: no hang, no crash, no lost byte.

The hammers are in hammers.py. TCPSOCK_LONG=1 repeats each of them a hundred times as often.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
LONG = bool(os.environ.get("TCPSOCK_LONG"))
# How often by default, and how often when it may take long.
REPEATS = {
    "ping-pong-tls12": (1, 20),
    "ping-pong-tls13": (1, 20),
    "half-close-tls12": (4, 200),
    "half-close-tls13": (4, 200),
    "close-from-eight-tls12": (5, 200),
    "close-from-eight-tls13": (5, 200),
}


def _hammer(name: str) -> None:
    """Run one in a process of its own, which must come to its last line."""
    paths = [HERE.parent.parent, HERE.parent / "contract"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    count = REPEATS[name][LONG]
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", HERE / "hammers.py", name, str(count)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=3000 if LONG else 280,
    )
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert done.stdout == f"survived {count}\n"
    assert done.stderr == ""


@pytest.mark.long
@pytest.mark.timeout(3100 if LONG else 300)
@pytest.mark.parametrize("version", ["tls12", "tls13"])
def test_R5_T1_duplex_ping_pong_on_100_connections(version) -> None:
    """A reader and a writer thread each; two threads in one SSL object crash the interpreter."""
    _hammer(f"ping-pong-{version}")


@pytest.mark.long
@pytest.mark.timeout(3100 if LONG else 300)
@pytest.mark.parametrize("version", ["tls12", "tls13"])
def test_W3_T3_half_close_with_5_MB_inbound(version) -> None:
    """Byte for byte, whoever reads, and however much was read before."""
    _hammer(f"half-close-{version}")


@pytest.mark.long
@pytest.mark.timeout(3100 if LONG else 300)
@pytest.mark.parametrize("version", ["tls12", "tls13"])
def test_E4_close_from_eight_threads(version) -> None:
    """In the middle of a read and a write: the peer sees whole writes and a clean end."""
    _hammer(f"close-from-eight-{version}")
