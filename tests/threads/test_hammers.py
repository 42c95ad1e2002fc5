"""Whatever threads, signals and processes do to sockets: no hang, no crash, no lost byte.

The hammers are in hammers.py and what it imports; each runs in a process of its own, with as many
seeds as REPEATS says, and fails with the seed that it broke at. TCPSOCK_LONG=1 takes more of them.
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
    "ping-pong": (1, 10),
    "duplex": (3, 60),
    "half-close": (4, 200),
    "close-from-eight": (5, 200),
    "in-flight": (30, 500),
    "starttls-loop": (10, 60),
    "starttls-during-writes": (40, 400),
    "connects-given-up": (6, 60),
    "callbacks": (8, 60),
    "exits": (8, 60),
    "forks": (4, 40),
    "multiprocessing": (1, 1),
    "interrupted-reads": (5, 60),
    "interrupted-flow": (5, 60),
    "interrupted-turns": (4, 40),
    "interrupted-calls": (10, 150),
    "storm": (20, 300),
}

pytestmark = [pytest.mark.long, pytest.mark.timeout(1900 if LONG else 200)]


def hammer(name: str, transport: str | None = None) -> None:
    """Run one in a process of its own, which must come to its last line and say nothing else."""
    count = REPEATS[name][LONG]
    paths = [HERE.parent.parent, HERE.parent / "contract"]
    done = subprocess.run(
        [
            sys.executable,
            *("-X", "dev", "-W", "error"),
            HERE / "hammers.py",
            f"{name}-{transport}" if transport else name,
            str(count),
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))},
        capture_output=True,
        text=True,
        timeout=1800 if LONG else 180,
    )
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert done.stdout.endswith(f"\nsurvived {count}\n"), done.stdout
    assert done.stderr == ""


def over(*transports: str) -> pytest.MarkDecorator:
    """Once for each transport."""
    return pytest.mark.parametrize("transport", transports)


@over("tls12", "tls13")
def test_R5_T1_duplex_ping_pong_on_100_connections(transport: str) -> None:
    """A reader and a writer thread each; two threads in one SSL object crash the interpreter."""
    hammer("ping-pong", transport)


@over("tls12", "tls13", "starttls")
def test_R1_R3_W1_megabytes_both_ways_at_once(transport: str) -> None:
    """By every read call, with marks that cut records, in chunks of any size: byte for byte."""
    hammer("duplex", transport)


@over("tls12", "tls13")
def test_W3_T3_half_close_with_5_MB_inbound(transport: str) -> None:
    """Byte for byte, whoever reads, and however much was read before."""
    hammer("half-close", transport)


@over("tls12", "tls13")
def test_E4_close_from_eight_threads(transport: str) -> None:
    """In the middle of a read and a write: the peer sees whole writes and a clean end."""
    hammer("close-from-eight", transport)


@over("plain", "tls12", "tls13", "starttls")
def test_W2_W5_R7_E1_E4_everything_in_flight_at_the_end(transport: str) -> None:
    """Reads, writes, half-closes, cancels, closes and aborts at once: no write is torn."""
    hammer("in-flight", transport)


def test_S2_S4_S6_starttls_in_a_loop() -> None:
    """Hundreds of upgrades, wanted by three threads each, some before the socket is open."""
    hammer("starttls-loop")


def test_S1_S2_starttls_during_writes() -> None:
    """Refused while a write is in progress, and not one byte in clear behind the ClientHello."""
    hammer("starttls-during-writes")


def test_O3_O5_O8_E4_connects_that_are_given_up() -> None:
    """Before the look-up ends, while TCP connects, during the handshake: all futures settle."""
    hammer("connects-given-up")


def test_O2_callbacks_that_call_back_in() -> None:
    """They close, abort, upgrade, read, write, connect, drop, raise and exit."""
    hammer("callbacks")


if sys.version_info >= (3, 11):  # interpreters of 3.10 crash now and then as they end

    def test_E7_exit_with_sockets_in_every_state() -> None:
        """In time, with the program's own code, and without a word."""
        hammer("exits")


def test_E8_fork_out_of_any_thread_amid_traffic() -> None:
    """As a pre-fork server: the children connect anew, the parent's connections go on."""
    hammer("forks")


def test_E8_multiprocessing_by_any_method() -> None:
    """Workers that were forked or spawned connect anew."""
    hammer("multiprocessing")


@over("plain", "tls12", "tls13")
def test_R4_an_interrupted_read_loses_nothing(transport: str) -> None:
    """KeyboardInterrupt out of reads that wait, having gathered something or not."""
    hammer("interrupted-reads", transport)


@over("plain", "tls12", "tls13")
def test_R3_R4_an_interruption_amid_flowing_bytes_changes_no_order(transport: str) -> None:
    """It may lose what was received in the very same instant, and nothing else."""
    hammer("interrupted-flow", transport)


def test_W2_W4_an_interrupted_wait_for_a_turn_harms_nobody() -> None:
    """The write in progress and those behind it go on."""
    hammer("interrupted-turns")


def test_W4_any_call_may_be_interrupted() -> None:
    """Afterwards the socket works as a whole or is closed, and no lock is held."""
    hammer("interrupted-calls")


@over("plain", "tls", "starttls")
def test_anything_at_all_may_happen_at_once(transport: str) -> None:
    """Random calls in random threads, against a random peer: only what the contract allows."""
    hammer("storm", transport)
