"""Many sockets in one process: every byte right, memory bounded, and nothing left of them.

The works are in works.py, with their own checks; here is how much they may take. They are run in
short; TCPSOCK_LONG=1 runs them at the size that docs/reliability.rst tells the figures of. Both
sizes are in benchmarks/load.py, which prints the figures.
"""

from __future__ import annotations

import os
from typing import Any

import pytest

from benchmarks.load import WORKS, measure

LONG = bool(os.environ.get("TCPSOCK_LONG"))
KIB_BEYOND_THE_MARK = 128.0
# What each connection may add to memory. The short works aren't over before the library has made
# all the large buffers that it keeps for the next connection (2 MiB), nor malloc found its size.
BYTES_FOR_EACH = 256 if LONG else 2048

pytestmark = [pytest.mark.long, pytest.mark.timeout(900 if LONG else 180)]


def works(name: str) -> Any:
    """One test for each set of the work's arguments."""
    every = WORKS[name][LONG]
    return pytest.mark.parametrize(
        "arguments", every, ids=[" ".join(map(str, each.values())) for each in every]
    )


@works("echo")
def test_R3_W1_a_crowd_echoes_over_TLS_all_at_once(arguments: dict[str, Any]) -> None:
    """Every byte comes back right, and a socket costs two descriptors and one thread."""
    figures = measure("echo", arguments)
    assert figures["descriptors_per_socket"] == 2
    assert figures["threads_per_socket"] == 1
    assert figures["kib_per_socket"] < 256


@works("idle")
def test_E1_a_crowd_of_idle_sockets_notices_the_peers_end(arguments: dict[str, Any]) -> None:
    """Without anybody reading; an idle one costs little (a plain one was measured at 32 KiB)."""
    figures = measure("idle", arguments)
    assert figures["descriptors_per_socket"] == 2
    assert figures["threads_per_socket"] == 1
    assert figures["kib_per_socket"] < (128 if arguments["tls"] else 64)


@works("flood")
def test_R1_a_consumer_that_never_reads_costs_bounded_memory(arguments: dict[str, Any]) -> None:
    """The mark and 128 KiB. (In short there are few sockets to share malloc's slack.)"""
    figures = measure("flood", arguments)
    assert figures["most_buffered"] == arguments["mark"]
    assert figures["kib_over_mark"] <= KIB_BEYOND_THE_MARK + (0 if LONG else 192)


@works("endings")
def test_E3_O3_nothing_is_left_of_any_kind_of_ending(arguments: dict[str, Any]) -> None:
    """No descriptor, thread or object (the work sees to it), and no memory that nobody knows of."""
    figures = measure("endings", arguments)
    assert figures["bytes_per_ending"] < BYTES_FOR_EACH
    assert figures["blocks_per_ending"] < 0.5


@works("reconnect")
def test_O3_E6_reconnecting_for_ever_takes_no_more_memory(arguments: dict[str, Any]) -> None:
    """Through whatever goes wrong, from a tenth of the time on."""
    figures = measure("reconnect", arguments)
    assert figures["sessions"] > 100
    assert figures["bytes_per_session"] < BYTES_FOR_EACH
    if LONG:
        assert figures["resident_bytes_per_session"] < 2 * BYTES_FOR_EACH
