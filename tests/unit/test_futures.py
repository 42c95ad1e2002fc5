"""Futures that settle once, whatever hangs on them."""

from __future__ import annotations

import concurrent.futures
import logging
import subprocess
import sys
import threading

import pytest
from peers import WAIT, Call

from tcpsock._errors import ConnectionLost, SocketForked
from tcpsock._futures import Settlements, born_running, settle, settle_in_forked_child


def test_O2_a_future_is_running_from_birth_and_cannot_be_cancelled() -> None:
    future = born_running()
    assert isinstance(future, concurrent.futures.Future)
    assert future.running()
    assert not future.cancel()
    settle(future, "value")
    assert not future.cancel()
    assert future.result() == "value"


def test_O2_a_future_settles_once() -> None:
    future, error = born_running(), ConnectionLost("first")
    settle(future, error=error)
    settle(future, "second")
    settle(future, error=ConnectionLost("third"))
    assert future.exception() is error


def test_O2_what_a_user_has_set_stays() -> None:
    future = born_running()
    future.set_result("theirs")
    settle(future, error=ConnectionLost("ours"))
    assert future.result() == "theirs"


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit, ValueError])
def test_O2_no_callback_stops_the_thread_that_settles_or_the_callbacks_behind_it(
    kind: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    def fail(future: object) -> None:
        raise kind("from a callback")

    future = born_running()
    called: list[object] = []
    future.add_done_callback(fail)
    future.add_done_callback(called.append)
    with caplog.at_level(logging.ERROR, "concurrent.futures"):
        Call(settle, future).result()
        assert called == [future]
        assert "from a callback" in caplog.text
        Call(future.add_done_callback, fail).result()  # done already: it is called at once
    assert len(caplog.records) == 2


def test_O2_the_users_own_interrupt_goes_on_in_the_main_thread() -> None:
    def interrupt(future: object) -> None:
        raise KeyboardInterrupt

    future = born_running()
    future.add_done_callback(interrupt)
    with pytest.raises(KeyboardInterrupt):
        settle(future)
    assert future.done()


def test_O2_a_logging_handler_that_raises_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Bad(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise SystemExit("from a handler")

    def fail(future: object) -> None:
        raise ValueError("from a callback")

    monkeypatch.setattr(logging.getLogger("concurrent.futures"), "handlers", [Bad()])
    future = born_running()
    called: list[object] = []
    future.add_done_callback(fail)
    future.add_done_callback(called.append)
    settle(future)
    assert called == [future]


def test_O3_result_raises_a_fresh_copy_each_time() -> None:
    future, error = born_running(), ConnectionLost("gone", phase="read", address="a.example:1")
    settle(future, error=error)
    raised = []
    for _ in range(2):
        with pytest.raises(ConnectionLost, match=r"^gone$") as caught:
            future.result()
        raised.append(caught.value)
    for each in raised:
        assert each.__cause__ is error
        assert (each.phase, each.address) == ("read", "a.example:1")
    assert raised[0] is not raised[1]
    assert error.__traceback__ is None
    assert future.exception() is error


def test_an_error_that_is_none_of_ours_is_raised_as_it_is() -> None:
    future, error = born_running(), ZeroDivisionError("a user's own")
    future.set_exception(error)
    with pytest.raises(ZeroDivisionError) as caught:
        future.result()
    assert caught.value is error


def test_result_waits_no_longer_than_it_is_told() -> None:
    future = born_running()
    with pytest.raises(concurrent.futures.TimeoutError):
        future.result(0)
    with pytest.raises(concurrent.futures.TimeoutError):
        future.result(timeout=0.001)
    settle(future, 5)
    assert future.result(0) == 5


def test_O2_settlements_wait_for_run_and_come_in_order() -> None:
    settlements, error = Settlements(), ConnectionLost("gone")
    futures = [born_running() for _ in range(3)]
    order: list[object] = []
    for future in futures:
        future.add_done_callback(order.append)
    assert not settlements
    settlements.add(None, "nobody's")
    assert not settlements
    settlements.add(futures[1], "one")
    settlements.add(futures[0])
    settlements.add(futures[2], error=error)
    assert settlements
    assert not any(future.done() for future in futures)
    settlements.run()
    assert not settlements
    assert order == [futures[1], futures[0], futures[2]]
    assert futures[1].result() == "one"
    assert futures[0].result() is None
    assert futures[2].exception() is error
    settlements.run()  # nothing is due


def test_a_callback_may_make_more_due() -> None:
    settlements, first, second = Settlements(), born_running(), born_running()
    first.add_done_callback(lambda _: settlements.add(second, "later"))
    settlements.add(first)
    settlements.run()
    assert second.result(0) == "later"


def test_E8_T9_a_pending_future_fails_in_a_child_though_its_lock_is_held() -> None:
    """The thread that held it at the fork doesn't exist any more; here it does, and waits."""
    future, held, release = born_running(), threading.Event(), threading.Event()
    called: list[object] = []
    future.add_done_callback(called.append)

    def hold() -> None:
        with condition:
            held.set()
            assert release.wait(WAIT)

    condition = future._condition
    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(WAIT)
    error = SocketForked("forked")
    settle_in_forked_child(future, error)
    assert future.exception(0) is error
    assert called == []  # callbacks are the parent's
    release.set()
    holder.join(WAIT)


def test_E8_a_settled_future_stays_as_it_is_in_a_child() -> None:
    future = born_running()
    settle(future, "before the fork")
    settle_in_forked_child(future, SocketForked("forked"))
    assert future.result(0) == "before the fork"


def test_E8_a_thread_of_the_parent_that_waits_is_no_waiter_in_the_child() -> None:
    program = """if True:
        import concurrent.futures, os, threading
        from tcpsock._errors import SocketForked
        from tcpsock._futures import born_running, settle, settle_in_forked_child

        future = born_running()
        waiting = threading.Thread(target=concurrent.futures.wait, args=([future],))
        waiting.start()
        while not future._waiters:
            pass
        future._waiters[0].lock.acquire()  # as the waiting thread might at this very moment
        child = os.fork()
        if child == 0:
            settle_in_forked_child(future, SocketForked("forked"))
            try:
                future.result(0)
            except SocketForked:
                os._exit(0)
            os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        future._waiters[0].lock.release()
        assert future.running()
        settle(future, "parent")
        waiting.join(10)
        print(future.result())
    """
    done = subprocess.run(
        [sys.executable, "-c", program], timeout=WAIT, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "parent\n"), done.stderr
