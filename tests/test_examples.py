"""Each example runs as its reader runs it first: without arguments, against its own stand-in."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"

PRINTS = {
    "gopher": "About gophers",
    "http_get": "You asked: GET / HTTP/1.0",
    "postgres": "A stand-in for PostgreSQL | 42 | None",
    "redis_pipeline": "INCR tcpsock:visits -> 3",
    "smtp": "OK, 101 bytes for you",
}


def test_D6_every_example_is_tested() -> None:
    """An example that this page doesn't know would never run."""
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {*PRINTS, "stand_ins"}


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        cwd=EXAMPLES,
        env={**os.environ, "PYTHONPATH": str(EXAMPLES.parent)},  # the tcpsock that is tested here
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=50,
    )


@pytest.mark.parametrize("name", PRINTS)
def test_D6_example_runs_without_arguments(name: str) -> None:
    """It ends well, prints what it promises, and warns of nothing."""
    done = run("-X", "dev", "-W", "error", f"{name}.py")
    assert (done.returncode, done.stderr) == (0, "")
    assert PRINTS[name] in done.stdout


@pytest.mark.parametrize("name", ["gopher", "http_get", "redis_pipeline"])
def test_D6_example_reports_a_failure_in_one_line(name: str) -> None:
    """Nobody listens on port 1: the error's own words, no traceback."""
    done = run(f"{name}.py", "127.0.0.1:1")
    assert done.returncode == 1
    assert done.stderr.startswith(f"{name}: 127.0.0.1:1") and done.stderr.count("\n") == 1
