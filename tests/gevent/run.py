"""The contract suite where gevent has made greenlets of threads, and what that adds to it.

    python tests/gevent/run.py                      all of it
    python tests/gevent/run.py -x tests/contract    with options of pytest, or some tests

It needs `gevent` and `gunicorn`, and what the other tests need. TCPSOCK_LONG=1 makes it run longer.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TESTS = ("tests/contract", "tests/gevent/checks.py")

if __name__ == "__main__":
    chosen = sys.argv[1:]
    if not any(argument.partition("::")[0].endswith((".py", "contract")) for argument in chosen):
        chosen += TESTS
    os.chdir(ROOT)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(HERE)])
    patched = [sys.executable, "-m", "gevent.monkey", "--module", "pytest", "-p", "greenlets"]
    os.execv(sys.executable, [*patched, *chosen])
