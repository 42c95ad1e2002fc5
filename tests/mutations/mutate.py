"""Break the core, one line at a time, and see whether the tests notice.

    python tests/mutations/mutate.py --seed 1 --count 60        some of all mutations
    python tests/mutations/mutate.py --seed 1 --count 60 --list the same, only told
    python tests/mutations/mutate.py --seed 1 --count 60 --pick 7,31

Which lines are broken, and how, is drawn from all that could be, by the seed. Each mutation is made
in a copy of the tree, and the tests run there until one fails: those of the module first, then the
contract suite, then the threads' and all others. A test that hangs has failed. Since a test may
fail by chance, it must fail again; else the run goes on without it. The exit code is 0 if every
mutation was caught.
"""

from __future__ import annotations

import argparse
import ast
import io
import itertools
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tokenize
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
BROKEN = ("tcpsock/_connection", "tcpsock/_wire", "tcpsock/_dialing")
NEEDED = ("tcpsock", "tests", "docs", "setup.cfg")  # all that the tests below need of the tree

TEST_SECONDS = 20  # a test that takes longer hangs: the slowest takes 6 on a quiet machine
RUN_SECONDS = 3600  # for all tests of one mutation; a run that takes longer hangs
CAUGHT, AT_TIMES, SURVIVED = "caught", "caught at times", "SURVIVED"
_HUNG = " - the run hung"
MEMORY = 12 << 30  # bytes of address space: a mutation may well fill a queue for ever

# Where a mutation is most likely to be caught; all other tests follow. (green.py is missing: what
# tests it is run by gevent/run.py alone.)
LIKELY = {
    "handover": ["unit/test_opening", "contract/test_starttls", "threads/test_lifetimes"],
    "lease": ["unit/test_lease", "contract/test_streams", "contract/test_reading"],
    "life": ["unit/test_state", "contract/test_ending", "contract/test_starttls"],
    "opening": ["unit/test_opening", "contract/test_opening", "contract/test_starttls"],
    "queue": ["unit/test_queue", "contract/test_reading"],
    "receiving": ["unit/test_state", "contract/test_reading", "contract/test_duplex"],
    "sending": ["unit/test_sending", "contract/test_writing", "contract/test_duplex"],
    "state": ["unit/test_state", "contract/test_ending", "contract/test_writing"],
    "close_notify": ["unit/test_close_notify", "contract/test_tls", "contract/test_duplex"],
    "contexts": ["unit/test_contexts", "contract/test_tls"],
    "descriptors": ["unit/test_descriptors", "threads/test_lifetimes"],
    "platform": ["unit/test_platform", "unit/test_wire"],
    "tls": ["unit/test_wire", "contract/test_tls", "contract/test_ending"],
    "wire": ["unit/test_wire", "contract/test_ending", "contract/test_reading"],
    "address": ["unit/test_address", "contract/test_addresses"],
    "race": ["unit/test_race", "contract/test_opening"],
    "resolve": ["unit/test_resolve", "contract/test_opening"],
}
THEN = ["contract", "unit", "interleavings", "threads"]
# Of other rooms, or too slow for what they add.
LEFT_OUT = (
    "gevent",
    "load",
    "mutations",
    "policy",
    "servers",
    "starttls",
    "unit/test_bench",
    "unit/test_testing",
)


# -- What could be broken ----------------------------------------------------------------------


class Mutation(NamedTuple):
    """One change of a source file: `length` bytes at `start` are replaced."""

    path: str
    line: int
    kind: str
    start: int
    length: int
    replacement: bytes

    def applied(self, source: bytes) -> bytes:
        return source[: self.start] + self.replacement + source[self.start + self.length :]

    def told(self, source: bytes) -> str:
        """The line before and after."""
        before = source.splitlines()[self.line - 1].decode().strip()
        after = self.applied(source).splitlines()[self.line - 1].decode().strip()
        return f"{self.path}:{self.line}  {self.kind}\n    - {before}\n    + {after}"


_OTHER = {
    "<": "<=",
    "<=": "<",
    ">": ">=",
    ">=": ">",
    "==": "!=",
    "!=": "==",
    "is": "is not",
    "is not": "is",
    "in": "not in",
    "not in": "in",
    "and": "or",
    "or": "and",
}


class Finder(ast.NodeVisitor):
    """Every mutation of one file, but those that no test could or should notice.

    Left alone are assertions, type hints, messages and repr()s, and the attributes that a
    constructor sets: without one of those nothing works at all, so it proves nothing.
    """

    def __init__(self, path: str, source: bytes) -> None:
        self.path = path
        self.source = source
        self.found: list[Mutation] = []
        self._lines = [0]
        for line in source.splitlines(keepends=True):
            self._lines.append(self._lines[-1] + len(line))
        tokens = tokenize.generate_tokens(io.StringIO(source.decode()).readline)
        self._operators = [
            (self._lines[token.start[0] - 1] + token.start[1], token.string)
            for token in tokens
            if token.string in {"<", "<=", ">", ">=", "==", "!=", "is", "not", "in", "and", "or"}
        ]
        self._function: list[ast.FunctionDef] = []
        self.visit(ast.parse(source))

    # Positions: ast counts columns in bytes, as we do. (tokenize counts characters; the files have
    # no operator behind a character of several bytes in one line.)

    def _start(self, node: ast.expr | ast.stmt) -> int:
        return self._lines[node.lineno - 1] + node.col_offset

    def _end(self, node: ast.expr | ast.stmt) -> int:
        assert node.end_lineno is not None and node.end_col_offset is not None
        return self._lines[node.end_lineno - 1] + node.end_col_offset

    def _replace(self, node: ast.expr | ast.stmt, kind: str, text: str) -> None:
        start = self._start(node)
        self._add(start, self._end(node) - start, kind, text)

    def _add(self, start: int, length: int, kind: str, text: str) -> None:
        line = self.source.count(b"\n", 0, start) + 1
        self.found.append(Mutation(self.path, line, kind, start, length, text.encode()))

    def _swap_operator(self, left: ast.expr, right: ast.expr, kind: str) -> None:
        start, end = self._end(left), self._start(right)
        words = [(at, word) for at, word in self._operators if start <= at < end]
        at, operator = words[0][0], " ".join(word for _, word in words)
        if operator in _OTHER:
            last = words[-1]
            self._add(at, last[0] + len(last[1]) - at, kind, _OTHER[operator])

    def _negate(self, condition: ast.expr, kind: str) -> None:
        if isinstance(condition, ast.Constant):
            return
        text = self.source[self._start(condition) : self._end(condition)].decode()
        self._replace(condition, kind, f"not ({text})")

    # Statements

    def visit_Assert(self, node: ast.Assert) -> None:
        pass

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        if not any("Protocol" in ast.unparse(base) for base in node.bases):
            for statement in node.body:
                self.visit(statement)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        if node.name == "__repr__":
            return
        for default in (*node.args.defaults, *filter(None, node.args.kw_defaults)):
            self.visit(default)
        self._function.append(node)
        body = node.body[1:] if ast.get_docstring(node) else node.body
        returns = "None" if node.returns is None else ast.unparse(node.returns)
        if body and returns == "None" and node.name != "__init__" and len(body) > 1:
            indent = " " * body[0].col_offset
            self._add(self._start(body[0]), 0, "return at once", f"return\n{indent}")
        for statement in body:
            self.visit(statement)
        self._function.pop()

    def visit_If(self, node: ast.If) -> None:
        if "TYPE_CHECKING" not in ast.unparse(node.test):
            self._negate(node.test, "negate the condition")
            self.generic_visit(node)

    def visit_While(self, node: ast.While) -> None:
        self._negate(node.test, "negate the condition")
        for each in node.body if isinstance(node.test, ast.Constant) else (node.test, *node.body):
            self.visit(each)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._negate(node.test, "negate the condition")
        self.generic_visit(node)

    def visit_Return(self, node: ast.Return) -> None:
        function = self._function[-1]
        if node.value is not None and function.returns is not None:
            if ast.unparse(function.returns) == "bool":
                self._negate(node.value, "negate the result")
            self.visit(node.value)

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Call):
            if "super().__init__" not in ast.unparse(node):
                self._replace(node, "drop the call", "pass")
            self.visit(node.value)

    def visit_Assign(self, node: ast.Assign) -> None:
        if not self._function:
            return
        target = node.targets[0]
        stored = target.elts if isinstance(target, ast.Tuple) else [target]
        local = any(isinstance(each, ast.Name) for each in stored)  # missed in the next line
        if self._function[-1].name != "__init__" and not local:
            self._replace(node, "drop the assignment", "pass")
        self.visit(node.value)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self._replace(node, "drop the assignment", "pass")
        self.visit(node.value)

    def visit_Raise(self, node: ast.Raise) -> None:
        self._replace(node, "drop the raise", "pass")

    def visit_Delete(self, node: ast.Delete) -> None:
        self._replace(node, "drop the del", "pass")

    # Expressions

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        pass

    def visit_Compare(self, node: ast.Compare) -> None:
        operands = [node.left, *node.comparators]
        for left, right in itertools.pairwise(operands):
            self._swap_operator(left, right, "swap the comparison")
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        for left, right in itertools.pairwise(node.values):
            self._swap_operator(left, right, "swap and/or")
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.Not):
            operand = self.source[self._start(node.operand) : self._end(node.operand)].decode()
            self._replace(node, "remove the not", operand)
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        other = {"0": "1", "1": "0", "True": "False", "False": "True"}.get(repr(node.value))
        if other is not None:
            self._replace(node, "change the constant", other)


def all_mutations(root: Path) -> list[Mutation]:
    """Every one, in the order of the files and lines."""
    found: list[Mutation] = []
    for folder in BROKEN:
        for file in sorted((root / folder).glob("*.py")):
            if file.stem not in LIKELY:
                continue
            source = file.read_bytes()
            finder = Finder(str(file.relative_to(root)), source)
            for mutation in sorted(set(finder.found), key=lambda each: each[1:]):
                ast.parse(mutation.applied(source))
                found.append(mutation)
    return found


def drawn(mutations: list[Mutation], seed: int, count: int) -> list[Mutation]:
    """As many of them, no two in one line."""
    shuffled = random.Random(seed).sample(mutations, len(mutations))
    by_line = {(each.path, each.line): each for each in reversed(shuffled)}
    return [each for each in shuffled if by_line[each.path, each.line] is each][:count]


# -- Who notices -------------------------------------------------------------------------------


class Copy:
    """A copy of the tree, to be broken."""

    def __init__(self, path: Path) -> None:
        self.path = path
        for name in NEEDED:
            source = ROOT / name
            if source.is_dir():
                ignored = shutil.ignore_patterns("__pycache__")
                shutil.copytree(source, path / name, ignore=ignored)
            else:
                shutil.copy(source, path / name)
        # A mutation may have its file's old size and time, which is all that a .pyc is known by.
        self._environment = {**os.environ, "PYTHONPATH": str(path), "PYTHONDONTWRITEBYTECODE": "1"}
        self._environment.pop("CI", None)
        where = "import tcpsock; print(tcpsock.__file__)"
        said = self._run([sys.executable, "-c", where], 60)
        assert said is not None and said.startswith(str(path)), said

    def tests_for(self, mutation: Mutation) -> list[str]:
        """Test files, the likely ones first."""
        folder = self.path / "tests"
        everything = sorted(each.name for each in folder.iterdir() if each.is_dir())
        ordered: dict[str, None] = {}
        for place in (*LIKELY[Path(mutation.path).stem], *THEN, *everything):
            inside = sorted((folder / place).glob("**/test_*.py"))
            for file in inside or [folder / f"{place}.py"]:
                name = str(file.relative_to(folder).with_suffix(""))
                if file.exists() and not name.startswith(LEFT_OUT):
                    ordered[f"tests/{name}.py"] = None
        return list(ordered)

    def first_failure(self, tests: list[str], without: Collection[str] = ()) -> str | None:
        """The first test that fails, with its error; None if none does."""
        return next(iter(self.failures(tests, without, "-x")), None)

    def failures(self, tests: list[str], without: Collection[str], *options: str) -> list[str]:
        """The tests that fail, each with its error."""
        command = [sys.executable, "-m", "pytest", "-q", "--tb=no", "-p", "no:cacheprovider"]
        command += ["--color=no", "--timeout", str(TEST_SECONDS), *options]
        command += [f"--deselect={each}" for each in without]
        command += [each for each in tests if each not in without]
        output = self._run(command, RUN_SECONDS)
        if output is None:
            return [f"{tests[0]} and what follows{_HUNG}"]
        if found := re.findall(r"^(?:FAILED|ERROR) (.+)", output, re.MULTILINE):
            return found
        if re.search(r"^\d+ passed", output, re.MULTILINE):
            return []
        return [f"{tests[0]} - " + (output.strip().splitlines() or ["the run broke off"])[-1]]

    def _run(self, command: list[str], seconds: float) -> str | None:
        """What it prints; None if it doesn't end in time."""
        with tempfile.TemporaryFile("w+", errors="replace") as output:
            process = subprocess.Popen(
                command,
                cwd=self.path,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY)),
            )
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                return None
            finally:
                try:
                    os.killpg(process.pid, signal.SIGKILL)  # it, and what its tests have started
                except ProcessLookupError:
                    pass
                process.wait()
            output.seek(0)
            return output.read()


def failing_anyway(copy: Copy, mutation: Mutation) -> list[str]:
    """Tests that fail, and fail again, while nothing is broken: they prove nothing."""
    found = []
    for failure in copy.failures(copy.tests_for(mutation), ()):
        test = failure.partition(" - ")[0]
        if copy.first_failure([test]):
            found.append(test)
            print(f"left out, since it fails anyway: {failure}", flush=True)
    return found


def tried(copy: Copy, mutation: Mutation, without: list[str]) -> Iterator[tuple[str, str]]:
    """What became of it, and by which test. The last says it; those before failed by chance."""
    file = copy.path / mutation.path
    source = file.read_bytes()
    tests = copy.tests_for(mutation)
    by_chance: list[str] = []
    file.write_bytes(mutation.applied(source))
    try:
        while failure := copy.first_failure(tests, [*without, *by_chance]):
            test = failure.partition(" - ")[0]
            if failure.endswith(_HUNG) or copy.first_failure([test]):
                yield CAUGHT, failure
                return
            yield AT_TIMES, failure
            by_chance.append(test)
        if not by_chance:
            yield SURVIVED, ""
    finally:
        file.write_bytes(source)


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by a signal"))
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--list", action="store_true", help="tell the mutations, try none")
    parser.add_argument("--pick", default="", help="numbers of the mutations to try, with commas")
    chosen = parser.parse_args()

    candidates = all_mutations(ROOT)
    picked = {int(number) for number in chosen.pick.split(",") if number}
    mutations = [
        (number, each)
        for number, each in enumerate(drawn(candidates, chosen.seed, chosen.count), 1)
        if not picked or number in picked
    ]
    print(f"{len(mutations)} of {len(candidates)} mutations, seed {chosen.seed}", flush=True)
    if chosen.list:
        for number, mutation in mutations:
            print(f"{number}  {mutation.told((ROOT / mutation.path).read_bytes())}")
        return 0

    results: dict[str, list[int]] = {CAUGHT: [], AT_TIMES: [], SURVIVED: []}
    with tempfile.TemporaryDirectory(prefix="mutations-") as folder:
        copy = Copy(Path(folder).resolve())
        without = failing_anyway(copy, mutations[0][1])
        for number, mutation in mutations:
            source = (copy.path / mutation.path).read_bytes()
            print(f"{number}  {mutation.told(source)}", flush=True)
            begun = time.monotonic()
            for result, failure in tried(copy, mutation, without):
                print(f"    {result}, {time.monotonic() - begun:.0f} s  {failure}", flush=True)
            results[result].append(number)
    print(f"{len(results[CAUGHT])} of {len(mutations)} caught")
    for result in (AT_TIMES, SURVIVED):
        if results[result]:
            print(f"{result}: {', '.join(map(str, results[result]))}")
    return 0 if len(results[CAUGHT]) == len(mutations) else 1


if __name__ == "__main__":
    sys.exit(main())
