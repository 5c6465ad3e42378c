#!/usr/bin/env python3
"""Run psync from a checkout, as the original was run: `./psync.py -r HOST LEFT RIGHT`.

It finds what an installation would have brought: the packages (in `.venv` beside it, where
`scripts/prepare` puts them) and the two small native programs, which it builds when
they are not there. Where something is missing it says so in one line.

It is never installed: a `psync.py` in a directory of programs would hide the package from
every script there. Here the package wins, because a directory comes before a module. It is
written so that an old Python can read it as far as the line that asks for a newer one.
"""

import os
import sys

ROOT = os.path.dirname(os.path.abspath(__file__))
VENV = os.path.join(ROOT, ".venv")
NEEDED = ("apsw", "asyncssh", "msgspec", "structlog")


def fail(message):
    """End, with one line that says what to do."""
    sys.stderr.write(f"psync: {message}\n")
    sys.exit(2)


def find_packages():
    """Go on in the checkout's own environment if this Python lacks something."""
    from importlib.util import find_spec

    missing = [name for name in NEEDED if find_spec(name) is None]
    if not missing and sys.version_info >= (3, 11):
        return
    python = os.path.join(VENV, "bin", "python")
    inside = os.path.realpath(sys.prefix) == os.path.realpath(VENV)
    if os.access(python, os.X_OK) and not inside:
        os.execv(python, [python, os.path.abspath(__file__), *sys.argv[1:]])
    if sys.version_info < (3, 11):  # noqa: UP036  # nothing has refused it before
        fail(f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}")
    fail(f"{', '.join(missing)} not found: run  {os.path.join(ROOT, 'scripts', 'prepare')} run")


def build_programs():
    """Build cinotify and psync-rsh where they are older than their sources, or missing."""
    import native

    try:
        native.build()
    except (native.BuildError, OSError):
        sys.stderr.write("psync: going on without cinotify; see  python3 native.py\n")


def main():
    """Prepare, and become `psync`."""
    sys.path[0] = ROOT
    if sys.argv[1:2] == ["agent"]:  # it needs no packages, and an old Python will do
        from psync.cli import main as psync

        return psync()
    find_packages()
    from psync.cli import main as psync
    from psync.grammar import QUESTIONS

    if not QUESTIONS.intersection(sys.argv[1:2]):
        build_programs()
    return psync()


if __name__ == "__main__":
    sys.exit(main())
