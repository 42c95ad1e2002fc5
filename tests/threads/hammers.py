"""The hammers: `python hammers.py NAME COUNT [FIRST]` strikes with one, COUNT seeds from FIRST.

Each is a process of its own, because what it looks for may kill the interpreter or hang it: then
faulthandler tells where. Threads change every 10 microseconds, as often as CPython can.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import signal
import ssl
import sys
import traceback
from collections.abc import Callable
from functools import partial

from anvil import PATIENCE, leaving_nothing
from hammers_closing import close_from_eight, closed_by_finalizers, everything_in_flight
from hammers_opening import callbacks_that_call_in, connects_given_up
from hammers_processes import exits, forks, multiprocessing_by_any_method
from hammers_signals import (
    interrupted_calls,
    interrupted_flow,
    interrupted_reads,
    interrupted_turns,
)
from hammers_starttls import starttls_during_writes, starttls_in_a_loop
from hammers_traffic import duplex, half_close, ping_pong
from storm import storm

from tcpsock._wire import close_notify

HAMMERS: dict[str, Callable[[int], object]] = {
    "ping-pong-tls12": lambda _: ping_pong(ssl.TLSVersion.TLSv1_2, 20),
    "ping-pong-tls13": lambda _: ping_pong(ssl.TLSVersion.TLSv1_3, 20),
    "duplex-tls12": partial(duplex, "tls12"),
    "duplex-tls13": partial(duplex, "tls13"),
    "duplex-starttls": partial(duplex, "starttls"),
    "half-close-tls12": partial(half_close, "tls12"),
    "half-close-tls13": partial(half_close, "tls13"),
    "close-from-eight-tls12": partial(close_from_eight, "tls12"),
    "close-from-eight-tls13": partial(close_from_eight, "tls13"),
    "in-flight-plain": partial(everything_in_flight, "plain"),
    "in-flight-tls12": partial(everything_in_flight, "tls12"),
    "in-flight-tls13": partial(everything_in_flight, "tls13"),
    "in-flight-starttls": partial(everything_in_flight, "starttls"),
    "finalizers-plain": partial(closed_by_finalizers, "plain"),
    "finalizers-tls": partial(closed_by_finalizers, "tls"),
    "starttls-loop": starttls_in_a_loop,
    "starttls-during-writes": starttls_during_writes,
    "connects-given-up": connects_given_up,
    "callbacks": callbacks_that_call_in,
    "exits": exits,
    "forks": forks,
    "interrupted-reads-plain": partial(interrupted_reads, "plain"),
    "interrupted-reads-tls12": partial(interrupted_reads, "tls12"),
    "interrupted-reads-tls13": partial(interrupted_reads, "tls13"),
    "interrupted-flow-plain": partial(interrupted_flow, "plain"),
    "interrupted-flow-tls12": partial(interrupted_flow, "tls12"),
    "interrupted-flow-tls13": partial(interrupted_flow, "tls13"),
    "interrupted-turns": interrupted_turns,
    "interrupted-calls": interrupted_calls,
    "storm-plain": partial(storm, "plain"),
    "storm-tls": partial(storm, "tls"),
    "storm-starttls": partial(storm, "starttls"),
    "multiprocessing": multiprocessing_by_any_method,
}


def strike(name: str, count: int, first: int) -> None:
    """Let one hammer fall, over and over."""
    faulthandler.enable()
    # Not dump_traceback_later(): a forked child that takes leave would wait for its thread.
    faulthandler.register(signal.SIGALRM, chain=True)
    sys.setswitchinterval(1e-5)
    close_notify.prepare()  # what the library makes once and keeps is nobody's leftover
    gc.freeze()  # what is here now is looked at no more
    for seed in range(first, first + count):
        print("seed", seed, flush=True)  # the last one printed is the one that it broke at
        signal.alarm(PATIENCE)
        try:
            with leaving_nothing():
                HAMMERS[name](seed)
        except Exception:
            traceback.print_exc()
            faulthandler.dump_traceback()  # somebody may hang
            os._exit(1)
    signal.alarm(0)
    print("survived", count)


if __name__ == "__main__":
    strike(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 0)
