"""What users may do, in any order, on both sides of a real session: nothing of it is lost.

Hypothesis draws what they do, and makes a failing run short. Every text is written once; it has
to be in the tree, in the conflict store, or with the user who took it away: he looks at what he
puts an end to, at the moment he does so.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from psync.syscalls import EXCHANGE, NOREPLACE, renameat2
from tests.e2e.pair import Pair, tree, until

SIDES = st.sampled_from(("left", "right"))
PATHS = st.sampled_from(("a", "b", "d", "d/a", "d/b", "d/d", "e", "e/a"))
LARGE = 300_000


def attempt(act: Callable[..., None]) -> Callable[..., None]:
    """What cannot be done where things are as they are now is not done."""

    @wraps(act)
    def tried(*args: Any, **kwargs: Any) -> None:
        with suppress(OSError):
            act(*args, **kwargs)

    return tried


class Users(RuleBasedStateMachine):
    """See the module's text."""

    def __init__(self, pair: Pair) -> None:
        super().__init__()
        self.pair = pair
        self.count = 0
        self.written: list[bytes] = []
        self.ended: list[bytes] = []
        self.gone = pair.base / "gone"
        if self.gone.exists():  # the run before has failed, or left something
            pair.stop()
            for path in (pair.left, pair.right, pair.state, self.gone):
                shutil.rmtree(path)
        for path in (pair.left, pair.right, self.gone):
            path.mkdir(exist_ok=True)
        if pair.process is None or pair.process.poll() is not None:
            pair.start("--set", "quarantine=0.2")
        self.top = os.open(pair.base, os.O_RDONLY | os.O_DIRECTORY)

    def text(self, large: bool = False) -> bytes:
        self.count += 1
        text = b"<%d>" % self.count
        self.written.append(text)
        return text + b"." * (LARGE if large else 0)

    def move(self, old: Path, new: Path, flags: int) -> None:
        names = [os.fsencode(path.relative_to(self.pair.base)) for path in (old, new)]
        renameat2(self.top, names[0], self.top, names[1], flags)

    def aside(self) -> Path:
        return self.gone / str(len(list(self.gone.iterdir())))

    @attempt
    def take_away(self, path: Path) -> None:
        self.move(path, self.aside(), NOREPLACE)

    # --- what users do ---------------------------------------------------------------------

    @rule(side=SIDES, path=PATHS, large=st.booleans())
    @attempt
    def save_in_place(self, side: str, path: str, large: bool) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
        fd = os.open(self.pair.root(side) / path, flags, 0o644)
        try:
            self.ended.append(os.pread(fd, 2 * LARGE, 0))
            os.ftruncate(fd, 0)
            os.write(fd, self.text(large))
        finally:
            os.close(fd)

    @rule(side=SIDES, path=PATHS, large=st.booleans())
    @attempt
    def save_by_rename(self, side: str, path: str, large: bool) -> None:
        new, target = self.aside(), self.pair.root(side) / path
        text = self.text(large)
        new.write_bytes(text)
        try:
            self.move(new, target, NOREPLACE)
        except FileExistsError:
            self.move(new, target, EXCHANGE)

    @rule(side=SIDES, path=PATHS)
    @attempt
    def append(self, side: str, path: str) -> None:
        fd = os.open(self.pair.root(side) / path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW)
        try:
            os.write(fd, self.text())
        finally:
            os.close(fd)

    @rule(side=SIDES, path=PATHS)
    def remove(self, side: str, path: str) -> None:
        self.take_away(self.pair.root(side) / path)

    @rule(side=SIDES, path=PATHS, new=PATHS)
    @attempt
    def rename(self, side: str, path: str, new: str) -> None:
        self.move(self.pair.root(side) / path, self.pair.root(side) / new, NOREPLACE)

    @rule(side=SIDES, path=PATHS, new=PATHS)
    @attempt
    def exchange(self, side: str, path: str, new: str) -> None:
        self.move(self.pair.root(side) / path, self.pair.root(side) / new, EXCHANGE)

    @rule(side=SIDES, path=PATHS)
    @attempt
    def make_directory(self, side: str, path: str) -> None:
        (self.pair.root(side) / path).mkdir()

    @rule(side=SIDES, path=PATHS, text=PATHS)
    @attempt
    def make_link(self, side: str, path: str, text: str) -> None:
        (self.pair.root(side) / path).symlink_to(text)

    @rule(side=SIDES, path=PATHS, mode=st.sampled_from((0o600, 0o640, 0o644)))
    @attempt
    def change_mode(self, side: str, path: str, mode: int) -> None:
        file = self.pair.root(side) / path
        file.chmod(mode | 0o100 * file.is_dir(), follow_symlinks=True)

    # --- what must hold --------------------------------------------------------------------

    @rule()
    def come_to_rest(self) -> None:
        self.pair.settle()

    def lost(self) -> list[bytes]:
        found = [told[-1] for told in tree(self.pair.left).values() if told[0] == "file"]
        found += [told[-1] for told in tree(self.gone).values() if told[0] == "file"]
        found += self.pair.conflicts("left") + self.pair.conflicts("right") + self.ended
        return [text for text in self.written if not any(text in each for each in found)]

    def teardown(self) -> None:
        os.close(self.top)
        self.pair.settle()
        until(lambda: not self.lost(), f"{self.lost()} among what is kept", 5.0)
        self.pair.settle()
        if not self.pair.clear():  # one more conflict has come, of a late write
            self.gone.mkdir(exist_ok=True)


def test_of_any_work_on_both_sides_nothing_is_lost(local: Pair) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        lambda: Users(local),
        settings=settings(
            max_examples=int(os.environ.get("TEST_EXAMPLES", "15")),
            stateful_step_count=15,
            suppress_health_check=list(HealthCheck),
        ),
    )
