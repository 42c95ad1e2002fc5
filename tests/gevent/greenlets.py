"""Where threads are greenlets: what tests look at and do from outside, done for greenlets.

A pytest plug-in, for run.py alone. It is loaded after gevent has patched everything and before any
test. What tcpsock itself sees stays gevent's own.
"""

from __future__ import annotations

import gc
import signal
import sys
import threading
from types import FrameType, SimpleNamespace
from typing import Any

import gevent
import gevent.ssl
import greenlet
import pytest

from tcpsock._wire import platform

# Tests that cannot hold here, whatever the library does, and why.
DESELECTED = {
    "test_S2_S6_threads_that_go_on_trying_the_old_streams_get_in_nobodys_way": (
        "its threads never wait, and then no other greenlet has a turn"
    ),
    "test_R9_a_reset_that_a_write_saw_first_takes_in_what_the_kernel_holds_too": (
        "nor has one while it writes ten bytes at a time until the kernel is full"
    ),
    "test_E4_the_descriptor_is_closed_when_closed_resolves": (
        "gevent's os.close() closes the waker's eventfd one turn of its loop later"
    ),
}

_main = greenlet.getcurrent()
_known: dict[int, greenlet.greenlet] = {}
_frames_of_native_threads = sys._current_frames


def _greenlets() -> dict[int, greenlet.greenlet]:
    """Those of threads that are alive, by what `threading` takes for the thread's number."""
    wanted = {thread.ident or 0 for thread in threading.enumerate()}
    if wanted - _known.keys():
        found = (each for each in gc.get_objects() if isinstance(each, greenlet.greenlet))
        _known.update({id(each): each for each in (_main, *found)})
    for ident in _known.keys() - wanted:
        del _known[ident]
    return _known


def _current_frames() -> dict[int, FrameType]:
    """Where every thread is: the tests' way to learn that a call waits."""
    frames = _frames_of_native_threads()
    frames.update({i: each.gr_frame for i, each in _greenlets().items() if each.gr_frame})
    return frames


def _interrupt(ident: int, number: int) -> None:
    """What the signal's handler raises comes out of that greenlet's wait, as gevent.Timeout does.

    By itself gevent calls the handler in whichever greenlet runs, and that is mostly its hub.
    """
    handler = signal.getsignal(number)
    assert callable(handler)
    try:
        handler(number, None)
    except BaseException as error:
        gevent.get_hub().loop.run_callback(_greenlets()[ident].throw, error)


def pytest_configure(config: pytest.Config) -> None:
    sys._current_frames = _current_frames
    signal.pthread_kill = _interrupt
    # gevent expects one of its own sockets here; the tests' servers have TLS over memory BIOs.
    gevent.ssl._Callback.__call__ = lambda callback, *args: callback.user_function(*args)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    ending_peers: Any = sys.modules.get("_ending_peers")
    if ending_peers is not None:  # it looks for POLLERR, which gevent's poll() doesn't know
        ending_peers.select = SimpleNamespace(**vars(ending_peers.select))
        ending_peers.select.poll = platform.poller
    deselected = [item for item in items if getattr(item, "originalname", "") in DESELECTED]
    items[:] = [item for item in items if item not in deselected]
    config.hook.pytest_deselected(items=deselected)


def pytest_report_header() -> str:
    loop = type(gevent.get_hub().loop).__module__
    return f"greenlets: gevent {gevent.__version__}, {loop}; deselected: {', '.join(DESELECTED)}"
