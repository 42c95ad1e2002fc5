"""The thread cache: reuse, names, and what idle threads leave alone."""

from __future__ import annotations

import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator

import pytest
from peers import WAIT, until

from tcpsock import _threads

IDLE = "tcpsock idle"


@pytest.fixture(autouse=True)
def no_idle_threads() -> Iterator[None]:
    """Begin without any; those of earlier tests are put aside, and idle on."""
    aside = [_threads._idle.pop() for _ in range(len(_threads._idle))]
    yield
    _threads._idle.extend(aside)


class Work:
    """Something to run that says who runs it, and waits for the test to let it end."""

    def __init__(self) -> None:
        self.thread: threading.Thread | None = None
        self.name = ""
        self._begun, self._may_end = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.thread = threading.current_thread()
        self.name = self.thread.name
        self._begun.set()
        assert self._may_end.wait(WAIT)

    def begun(self) -> threading.Thread:
        assert self._begun.wait(WAIT)
        assert self.thread is not None
        return self.thread

    def end(self) -> threading.Thread:
        """Let it end; returns its thread once that idles."""
        thread = self.begun()
        self._may_end.set()
        until(lambda: any(each.thread is thread for each in _threads._idle), "the thread idles")
        return thread


def start(name: str = "tcpsock test") -> Work:
    work = Work()
    _threads.start(work, name)
    return work


def test_a_thread_that_has_finished_runs_the_next_work() -> None:
    first = start().end()
    second = start()
    assert second.begun() is first
    assert not _threads._idle
    assert second.end() is first


def test_L6_a_thread_bears_the_name_of_what_it_runs_while_it_runs() -> None:
    work = start("tcpsock a.example:1")
    work.begun()
    assert work.name == "tcpsock a.example:1"
    thread = work.end()
    assert thread.name == IDLE
    again = start("tcpsock b.example:2")
    assert again.begun() is thread
    assert again.name == "tcpsock b.example:2"
    again.end()


def test_work_at_the_same_time_has_threads_of_its_own_and_the_last_to_finish_goes_first() -> None:
    first, second = start(), start()
    assert first.begun() is not second.begun()
    first.end()
    last = second.end()
    third = start()
    assert third.begun() is last
    third.end()


def test_E7_threads_are_daemons() -> None:
    work = start()
    assert work.begun().daemon
    work.end()


def test_an_idle_thread_holds_nothing_of_what_it_did() -> None:
    work = start()
    work.end()
    gone = weakref.ref(work)
    del work
    assert gone() is None


def test_idle_threads_end_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    work = start()
    work.begun()
    monkeypatch.setattr(_threads, "_IDLE_SECONDS", 0.001)
    work._may_end.set()
    thread = work.begun()
    thread.join(WAIT)
    assert not thread.is_alive()
    assert not _threads._idle
    monkeypatch.undo()
    again = start()
    assert again.begun() is not thread
    again.end()


def test_a_thread_that_is_taken_just_as_it_gives_up_does_the_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """start() may take a worker between the end of its wait and its leaving the list."""

    class Contested(list):  # type: ignore[type-arg]  # of private things
        def remove(self, worker: object) -> None:
            if not taken:
                taken.append(self.pop())
                given.set()
            super().remove(worker)

    taken: list[_threads._Worker] = []
    given = threading.Event()
    monkeypatch.setattr(_threads, "_idle", Contested())
    work = start()
    thread = work.begun()
    monkeypatch.setattr(_threads, "_IDLE_SECONDS", 0.001)
    work._may_end.set()
    assert given.wait(WAIT)
    late = Work()
    taken[0].give(late, "tcpsock late")
    assert late.begun() is thread
    late._may_end.set()
    thread.join(WAIT)
    assert not thread.is_alive()


def test_O3_T10_no_thread_to_be_had_is_a_RuntimeError(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        _threads.start(lambda: None, "tcpsock test")
    assert not _threads._idle


def run(program: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", program], timeout=WAIT, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "good\n"), done.stderr


def test_E8_a_forked_child_starts_threads_of_its_own() -> None:
    """The parent's idle ones don't exist there: work given to one would never be done."""
    run(
        """if True:
        import os, threading, time
        from tcpsock import _threads

        def works():
            done = threading.Event()
            _threads.start(done.set, "tcpsock test")
            return done.wait(10)

        assert works()
        while not _threads._idle:
            time.sleep(0.001)
        child = os.fork()
        if child == 0:
            os._exit(0 if works() else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert len(_threads._idle) == 1  # the parent's own is as it was
        print("good")
        """
    )


def test_E7_threads_at_work_and_idle_ones_hold_up_no_exit() -> None:
    run(
        """if True:
        import threading
        from tcpsock import _threads

        begun = threading.Event()
        _threads.start(lambda: (begun.set(), threading.Event().wait()), "tcpsock test")
        _threads.start(lambda: None, "tcpsock test")
        assert begun.wait(10)
        print("good")
        """
    )
