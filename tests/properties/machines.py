"""State machines that can tell what they did, also where it isn't the same twice.

hypothesis repeats what failed, and prints its steps. Threads and networks may not fail again; so a
machine notes its steps itself.
"""

from __future__ import annotations

import functools
import sys
import traceback
from collections.abc import Callable
from typing import Any

from hypothesis import settings
from hypothesis.errors import HypothesisException
from hypothesis.stateful import (
    RuleBasedStateMachine,
    precondition,
    rule,
    run_state_machine_as_test,
)

__all__ = ["NotedMachine", "run", "step"]


class NotedMachine(RuleBasedStateMachine):
    """Its rules are steps; `check_at_end` is called after the last, unless one has failed.

    Attributes:
        steps: what was done so far.
        failed: how the last one that failed in this process has done so.
    """

    failed: str | None = None

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[str] = []

    def check_at_end(self) -> None:
        """Check what is left when no more steps come."""

    def clean_up(self) -> None:
        """Give everything back, however it went."""

    def teardown(self) -> None:
        try:
            if sys.exc_info()[0] is None:
                self.check_at_end()
        finally:
            error = sys.exc_info()[1]
            # hypothesis stops it too, or complains that it went otherwise the time before.
            if isinstance(error, Exception) and not isinstance(error, HypothesisException):
                steps = "\n  ".join(self.steps)
                NotedMachine.failed = f"{traceback.format_exc()}\nafter\n  {steps}"
            self.clean_up()


def step(
    *,
    by: Callable[..., Any] = rule,
    when: Callable[[Any], object] | None = None,
    **arguments: Any,
) -> Callable[[Callable[..., None]], Any]:
    """A rule that is noted.

    Args:
        by: `initialize` makes it the first one.
        when: tells from the machine whether it may be taken now. It must depend on nothing but the
            steps so far: what threads and networks do isn't the same twice.
        arguments: strategies, as for a rule.
    """

    def decorate(function: Callable[..., None]) -> Any:
        @functools.wraps(function)
        def noted(self: NotedMachine, **chosen: Any) -> None:
            given = ", ".join(f"{name}={value!r}" for name, value in chosen.items())
            self.steps.append(f"{function.__name__}({given})")
            function(self, **chosen)

        made = by(**arguments)(noted)
        if when is None:
            return made

        def is_allowed(self: NotedMachine) -> bool:  # with a name: old releases are slow at lambdas
            return bool(when(self))

        return precondition(is_allowed)(made)

    return decorate


def run(make: Callable[[], NotedMachine], how: settings) -> None:
    """Run a machine as a test, and print the steps of one that fails."""
    NotedMachine.failed = None
    try:
        run_state_machine_as_test(make, settings=how)  # type: ignore[arg-type]  # or a class
    finally:
        if NotedMachine.failed is not None:
            print(f"The last failure of all that were tried:\n{NotedMachine.failed}")
            NotedMachine.failed = None
