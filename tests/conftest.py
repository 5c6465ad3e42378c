"""What holds for every test: its own home, a known umask, programs that are built.

A test must neither see the user's sessions, configuration and keys nor leave anything in
them, so HOME is an empty directory and psync's and XDG's variables are unset. Fixtures that
one area alone needs stand in that area.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

import native

hypothesis.settings.register_profile("here", deadline=None)  # two cores are shared by workers
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "here")

os.environ["PATH"] += ":/usr/sbin:/sbin"  # where mkfs and mount's helpers are


@pytest.fixture(scope="session", autouse=True)
def own_surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Give the whole run a home of its own, and children the same; Ctrl-C works in them.

    Who runs the tests in the background of a script has it ignored, and children inherit that.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    home = tmp_path_factory.mktemp("home")
    before = os.umask(0o022)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        patch.setenv("LC_ALL", "C.UTF-8")
        for name in [*os.environ]:
            if name.startswith(("PSYNC_", "XDG_", "SSH_")):
                patch.delenv(name)
        yield
    os.umask(before)


@pytest.fixture(scope="session")
def programs() -> list[Path]:
    """The two C programs, built in place; at once where nothing changed."""
    return native.build()


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The root of the checkout that is tested."""
    return Path(__file__).resolve().parent.parent
