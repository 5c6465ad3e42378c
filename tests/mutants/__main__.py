"""Break each guard of psync's promise in turn, and see that a test fails for each.

    python -m tests.mutants [--jobs N] [--list] [WORD ...]

Words choose guards by their file or text. The checkout is copied; nothing in it is
touched. First everything that is chosen has to pass on the code as it is. Then each guard
is `caught`, or it `SURVIVED`: no test misses it. Exit code 0: all caught; 1: one survived;
2: the list does not fit the code any more, or a test fails on the code as it is.
"""

from __future__ import annotations

import argparse
import os
import queue
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.mutants.guards import GUARDS, Guard

CHECKOUT = Path(__file__).parents[2]
TIMEOUT_S = 240  # a mutant that hangs is caught by that
LEFT_OUT = shutil.ignore_patterns(
    ".git", ".venv", "build", "dist", "demo", "__pycache__", ".*_cache", ".hypothesis"
)
PYTEST = ["-q", "-x", "--no-header", "--tb=line", "-p", "no:cacheprovider", "-o", "timeout=60"]
FAILED = 1  # pytest's exit code


class MisfitError(Exception):
    """The list of guards does not fit the code."""


def run(copy: Path, tests: str) -> tuple[int, str]:
    """Run pytest in a copy; return its exit code (`FAILED` if it hung) and what it printed."""
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", *PYTEST, *shlex.split(tests)]
    try:
        done = subprocess.run(
            command, cwd=copy, env=environment, stdin=subprocess.DEVNULL, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=TIMEOUT_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return FAILED, "it hangs"
    return done.returncode, done.stdout


def break_(copy: Path, guard: Guard) -> str:
    """Take a guard away in a copy; return the text of the file as it was.

    Raises:
        MisfitError: it does not stand there exactly once.
    """
    path = copy / guard.file
    text = path.read_text()
    if text.count(guard.old) != 1:
        raise MisfitError(f"{guard.file}: found {text.count(guard.old)} times: {guard.old!r}")
    path.write_text(text.replace(guard.old, guard.new))
    return text


def check(copy: Path, guard: Guard) -> tuple[str, str]:
    """Break a guard, run its tests, mend it; return the verdict and what pytest printed."""
    whole = break_(copy, guard)
    try:
        code, printed = run(copy, guard.tests)
    finally:
        (copy / guard.file).write_text(whole)
    if code == 0:
        return "SURVIVED", printed
    if code > FAILED:  # below 0: it did not even live to tell
        raise MisfitError(f"{guard.file}: {guard.what}: pytest ended with {code}:\n{printed}")
    return "caught", printed


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/mutants", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("words", nargs="*", help="only guards whose file or text has one of these")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--list", action="store_true", help="name the guards and break none")
    options = parser.parse_args()
    words = options.words or [""]
    chosen = [g for g in GUARDS if any(w in f"{g.file}: {g.what}" for w in words)]
    if options.list:
        for guard in chosen:
            print(f"{guard.file}: {guard.what}")
        return 0
    began = time.monotonic()
    survived = 0
    with tempfile.TemporaryDirectory(prefix="psync-mutants-") as scratch:
        copies: queue.SimpleQueue[Path] = queue.SimpleQueue()
        for number in range(options.jobs):
            copy = Path(scratch, str(number))
            shutil.copytree(CHECKOUT, copy, ignore=LEFT_OUT, symlinks=True)
            copies.put(copy)

        def in_a_copy(work):
            copy = copies.get()
            try:
                return work(copy)
            finally:
                copies.put(copy)

        with ThreadPoolExecutor(options.jobs) as pool:
            selections = list(dict.fromkeys(guard.tests for guard in chosen))
            whole = list(
                pool.map(lambda tests: in_a_copy(lambda copy: run(copy, tests)), selections)
            )
            for tests, (code, printed) in zip(selections, whole, strict=True):
                if code:
                    print(f"fails on the code as it is ({code}): {tests}\n{printed}")
            if any(code for code, _ in whole):
                return 2
            print(f"{len(selections)} selections of tests pass on the code as it is", flush=True)
            verdicts = pool.map(lambda g: in_a_copy(lambda copy: check(copy, g)), chosen)
            try:
                for guard, (verdict, _) in zip(chosen, verdicts, strict=True):
                    survived += verdict != "caught"
                    print(f"{verdict:8} {guard.file}: {guard.what}", flush=True)
            except MisfitError as error:
                print(error)
                pool.shutdown(cancel_futures=True)
                return 2
    took = time.monotonic() - began
    print(f"{len(chosen)} guards broken, {survived} not missed by a test, {took:.0f} s")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
