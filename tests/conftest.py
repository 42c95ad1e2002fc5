"""What holds for every test: it leaves nothing behind, and in CI none is skipped unexpectedly."""

from __future__ import annotations

import gc
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Generator, Iterator

import pytest

from tcpsock._wire import close_notify

# In CI (the variable CI is set) everything that a test needs is there, so a skip is a mistake,
# unless its reason matches one of these.
EXPECTED_SKIPS: tuple[str, ...] = ("this system allows no descriptors over 1024",)

_PATIENCE = 5.0  # seconds for connections to go away that a test has ended but not waited for
_HAS_FAILED = pytest.StashKey[bool]()
_DESCRIPTORS = "/dev/fd"


@pytest.fixture(scope="session", autouse=True)
def kept_for_the_process() -> None:
    """Make what the library makes once and keeps, lest it count as a test's leftover."""
    close_notify.prepare()


@pytest.fixture(scope="session", autouse=True)
def ctrl_c_is_heard() -> None:
    """A shell's background job ignores SIGINT, and would hand that down to what tests interrupt."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a thread or a descriptor behind.

    What closes in the background gets a moment to do it. Garbage is collected if something is
    left then: a socket in a reference cycle goes away with its ResourceWarning, which is an error
    too. A test that has failed already isn't asked: its traceback keeps things alive.
    """
    threads, descriptors = _busy_threads(), _open_descriptors()
    yield
    if request.node.stash.get(_HAS_FAILED, False):
        return
    begun, collected = time.monotonic(), False
    while True:
        left = _leftovers(threads, descriptors)
        waited = time.monotonic() - begun
        if not left:
            return
        if waited > _PATIENCE:
            pytest.fail("left behind:\n" + "\n".join(left), pytrace=False)
        if waited > 0.2 and not collected:
            gc.collect()
            collected = True
        time.sleep(0.01)


def _busy_threads() -> set[threading.Thread]:
    """Threads at work. Idle ones are kept for the next connection on purpose."""
    return {thread for thread in threading.enumerate() if thread.name != "tcpsock idle"}


def _open_descriptors() -> dict[int, tuple[int, int]]:
    """Each descriptor, and what tells it from another that has its number."""
    found = {}
    for name in os.listdir(_DESCRIPTORS) if os.path.isdir(_DESCRIPTORS) else ():
        try:
            status = os.fstat(int(name))
        except OSError:
            continue  # the one that listed them
        found[int(name)] = (status.st_dev, status.st_ino)
    return found


def _leftovers(
    threads: set[threading.Thread], descriptors: dict[int, tuple[int, int]]
) -> list[str]:
    """Say what there is now that wasn't there before."""
    left = []
    for fd, identity in _open_descriptors().items():
        if descriptors.get(fd) != identity:
            try:
                what = os.readlink(f"{_DESCRIPTORS}/{fd}")
            except OSError:
                what = "?"
            left.append(f"descriptor {fd}: {what}")
    frames = sys._current_frames()
    for thread in _busy_threads() - threads:
        left.append(f"thread {thread.name!r}")
        if thread.ident in frames:
            left += traceback.format_stack(frames[thread.ident])
    return left


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _refuse_unexpected_skip(report)
    if report.failed:
        item.stash[_HAS_FAILED] = True
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _refuse_unexpected_skip(report)
    return report


def _refuse_unexpected_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if not report.skipped or not os.environ.get("CI"):
        return
    place = report.longrepr
    reason = place[2] if isinstance(place, tuple) else str(getattr(report, "wasxfail", place))
    if not any(re.search(expected, reason) for expected in EXPECTED_SKIPS):
        report.outcome = "failed"
        report.longrepr = f"not expected in CI: {reason}"
