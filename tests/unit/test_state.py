"""A connection's states: which ending counts, who is woken, and what is refused."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from peers import WAIT

from tcpsock import _deadline
from tcpsock._connection.state import Ending, Phase, State
from tcpsock._errors import ConnectionLost, SocketAborted, SocketClosed, StreamBusy
from tcpsock._futures import born_running
from tcpsock._wire.platform import POLLIN, Waker, poller

ADDRESS = "a.example:1"
OVER = [Ending.CUT, Ending.FAILED, Ending.UPGRADED, Ending.DETACHED]


@pytest.fixture
def state() -> Iterator[State]:
    """One with a waker, as from its thread's first step to the last."""
    state = State(ADDRESS)
    state.waker = Waker()
    yield state
    state.waker.close()


def is_woken(state: State) -> bool:
    assert state.waker is not None
    poll = poller()
    poll.register(state.waker.fileno(), POLLIN)
    return bool(poll.poll(0))


def test_O2_a_new_connection_is_opening_and_its_futures_are_running() -> None:
    state = State(ADDRESS)
    assert (state.phase, state.ending) == (Phase.OPENING, Ending.NONE)
    assert state.opened.running() and state.closed.running()
    assert not state.opened.cancel() and not state.closed.cancel()


# Endings ----------------------------------------------------------------------------------------


def test_E3_a_failure_is_what_closed_fails_with(state: State) -> None:
    error = ConnectionLost("gone")
    with state.lock:
        state.fail(error)
    assert state.ending is Ending.FAILED
    assert state.failure is error
    assert state.outcome is error
    assert is_woken(state)


def test_T26_a_failure_keeps_no_frames(state: State) -> None:
    with pytest.raises(ConnectionLost) as caught:
        raise ConnectionLost("gone") from OSError("why")
    assert caught.value.__traceback__ is not None
    with state.lock:
        state.fail(caught.value)
    assert state.failure is caught.value
    assert state.failure.__traceback__ is None


def test_E3_a_failure_may_end_in_a_cut(state: State) -> None:
    with state.lock:
        state.fail(ConnectionLost("write timed out"), Ending.CUT)
    assert state.ending is Ending.CUT
    assert state.failure is not None


def test_the_first_failure_counts(state: State) -> None:
    first = ConnectionLost("first")
    with state.lock:
        state.fail(first)
        state.fail(ConnectionLost("second"), Ending.CUT)
    assert (state.ending, state.failure, state.outcome) == (Ending.FAILED, first, first)


@pytest.mark.parametrize("ending", [Ending.FAILED, Ending.CUT])
def test_E4_a_failure_after_close_ends_the_wait_and_is_not_the_callers(
    state: State, ending: Ending
) -> None:
    with state.lock:
        state.begin_closing(5)
        assert state.waker is not None
        state.waker.clear()
        state.fail(ConnectionLost("reset while draining"), ending)
    assert state.ending is ending
    assert state.failure is None
    assert state.outcome is None
    assert is_woken(state)


@pytest.mark.parametrize("step", ["fail", "begin_closing", "cut"])
@pytest.mark.parametrize("ending", OVER)
def test_what_has_ended_does_not_end_in_another_way(
    state: State, ending: Ending, step: str
) -> None:
    state.ending = ending
    take(state, step)
    assert state.ending is ending
    assert state.failure is None and state.outcome is None
    assert not is_woken(state)


@pytest.mark.parametrize("step", ["fail", "begin_closing", "cut"])
def test_nothing_happens_to_a_connection_without_a_descriptor(state: State, step: str) -> None:
    state.phase = Phase.ENDED
    take(state, step)
    assert state.ending is Ending.NONE
    assert state.failure is None and state.outcome is None
    assert not is_woken(state)


def take(state: State, step: str) -> None:
    with state.lock:
        if step == "fail":
            state.fail(ConnectionLost("late"))
        elif step == "cut":
            state.cut()
        else:
            state.begin_closing(1)


def test_E4_close_sets_its_deadline_once(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 50.0
    monkeypatch.setattr(_deadline, "clock", lambda: now)
    with state.lock:
        state.begin_closing(2)
        assert state.ending is Ending.CLOSING
        now = 51.0
        state.begin_closing(2)
    assert state.closing.remaining() == 1.0


@pytest.mark.parametrize("ending", [Ending.NONE, Ending.CLOSING])
def test_W5_a_cut_ends_what_lives_or_closes(state: State, ending: Ending) -> None:
    state.ending = ending
    with state.lock:
        state.cut()
    assert state.ending is Ending.CUT
    assert state.failure is None and state.outcome is None
    assert is_woken(state)


def test_W4_what_a_send_failed_with_becomes_the_failure_when_it_is_counted(state: State) -> None:
    with state.lock:
        state.count_as_lost()
        assert state.ending is Ending.NONE
        state.lost = ConnectionLost("EPIPE")
        state.count_as_lost()
    assert state.ending is Ending.FAILED
    assert state.failure is state.lost


# Waking -----------------------------------------------------------------------------------------


def test_T5_wake_all_wakes_everybody_wherever_they_wait(state: State) -> None:
    waiting = threading.Semaphore(0)
    woken: list[bool] = []

    def wait(turn: threading.Condition) -> None:
        with state.lock:
            waiting.release()
            woken.append(turn.wait(WAIT))

    turns = [state.thread_turn, state.callers_turn, state.callers_turn]
    threads = [threading.Thread(target=wait, args=(turn,)) for turn in turns]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert waiting.acquire(timeout=WAIT)
    with state.lock:  # free only while all of them wait
        state.wake_all()
    for thread in threads:
        thread.join(WAIT)
    assert woken == [True, True, True]
    assert is_woken(state)


def test_wake_all_needs_no_waker() -> None:
    state = State(ADDRESS)
    with state.lock:
        state.wake_all()
    state.clear_waker()


@pytest.mark.parametrize("ending", list(Ending))
def test_a_wake_up_that_announces_the_end_is_not_taken_back(state: State, ending: Ending) -> None:
    """A blocked write polls the same waker, and may not have seen it yet."""
    assert state.waker is not None
    state.waker.set()
    state.ending = ending
    state.clear_waker()
    assert is_woken(state) == (ending not in (Ending.NONE, Ending.CLOSING))


# Refusals ---------------------------------------------------------------------------------------


def test_O3_a_refusal_is_raised_as_a_fresh_copy(state: State) -> None:
    with state.lock:
        state.check()
        state.refusal = state.closed_error("close")
        with pytest.raises(SocketClosed, match=r"^a\.example:1: the socket is closed$") as caught:
            state.check()
    assert caught.value is not state.refusal
    assert caught.value.__cause__ is state.refusal
    assert (caught.value.phase, caught.value.address) == ("close", ADDRESS)


def test_a_socket_that_is_being_detached_is_refused(state: State) -> None:
    state.ending = Ending.DETACHED
    with state.lock, pytest.raises(StreamBusy, match="handed out by detach"):
        state.check()


@pytest.mark.parametrize("ending", [each for each in Ending if each is not Ending.DETACHED])
def test_O3_an_ending_alone_refuses_nothing(state: State, ending: Ending) -> None:
    """Reads go on up to what had arrived, and writes say themselves what they failed with."""
    state.ending = ending
    with state.lock:
        state.check()


@pytest.mark.parametrize(
    ("reason", "why"),
    [(None, ""), ("shutting down", ": shutting down"), (KeyError("k"), ": KeyError('k')")],
)
def test_W5_an_abort_says_why(state: State, reason: object, why: str) -> None:
    error = state.aborted_error(reason)
    assert isinstance(error, SocketAborted)
    assert str(error) == f"{ADDRESS}: the connection was aborted{why}"
    assert error.reason is reason
    assert error.address == ADDRESS


def test_closed_error_says_what_was_closed(state: State) -> None:
    error = state.closed_error("write", "the writer is closed")
    assert str(error) == f"{ADDRESS}: the writer is closed"
    assert error.phase == "write"


# Fork -------------------------------------------------------------------------------------------


def test_E8_T9_fresh_locks_replace_held_ones(state: State) -> None:
    future = born_running()
    state.settlements.add(future, "the parent's")
    state.lock.acquire()  # as another thread's at the fork
    state.replace_locks()
    with state.lock:
        state.thread_turn.notify()  # RuntimeError if it had another lock
        state.callers_turn.notify_all()
    assert not state.settlements
    assert not future.done()
