"""Random work on both sides at once, with faults: nothing lost, everything the same at the end.

The left works in `a`, the right in `b`, and a reference directory gets what both do: at the end
both replicas must equal it. In `c` both work on the same names: there only the sides must
agree. A failing seed is repeated with `TEST_SEED=n`.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.pair import Pair, tree, until
from tests.sshd import Sshd

NAMES = ["x", "y", "z", "d1", "d2", "d3"]
SEEDS = [int(os.environ["TEST_SEED"])] if "TEST_SEED" in os.environ else [1, 2, 3]


class Worker:
    """Does random things below a directory; the same seed does the same."""

    def __init__(self, seed: int, root: Path) -> None:
        self.random = random.Random(seed)
        self.root = root
        self.count = 0
        root.mkdir(exist_ok=True)

    def path(self) -> Path:
        depth = self.random.choice((1, 1, 2, 2, 3))
        return self.root.joinpath(*(self.random.choice(NAMES) for _ in range(depth)))

    def step(self) -> None:
        self.count += 1
        act = self.random.choice(
            (self.write, self.write, self.write, self.append, self.save, self.remove, self.move,
             self.move, self.mkdir, self.link, self.chmod, self.large)
        )  # fmt: skip
        first, second = self.path(), self.path()
        size = self.random.randrange(5000)
        try:
            act(first, second, size)
        except OSError:
            pass  # such a thing cannot be done there now

    def text(self, size: int) -> bytes:
        return b"%s %d " % (self.root.name.encode(), self.count) * (size // 8 + 1)

    def write(self, path: Path, _: Path, size: int) -> None:
        path.write_bytes(self.text(size))

    def append(self, path: Path, _: Path, size: int) -> None:
        with path.open("ab") as file:
            file.write(self.text(size))

    def save(self, path: Path, _: Path, size: int) -> None:
        aside = path.with_name("aside")
        aside.write_bytes(self.text(size))
        os.replace(aside, path)

    def remove(self, path: Path, _: Path, __: int) -> None:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()

    def move(self, path: Path, other: Path, _: int) -> None:
        os.rename(path, other)

    def mkdir(self, path: Path, _: Path, __: int) -> None:
        path.mkdir(parents=True)

    def link(self, path: Path, other: Path, _: int) -> None:
        path.symlink_to(other.name)

    def chmod(self, path: Path, _: Path, size: int) -> None:
        path.chmod(0o755 if path.is_dir() else 0o600 | (size & 0o77))

    def large(self, path: Path, _: Path, size: int) -> None:
        path.write_bytes(self.text(300_000 + size))


def contents(root: Path) -> dict[bytes, tuple[object, ...]]:
    """The tree without times: a reference is made a moment earlier or later."""
    return {
        path: (told[0], told[-1] if told[0] == "file" else told[1])
        for path, told in tree(root).items()
    }


class TestChurn:
    @pytest.mark.parametrize("seed", SEEDS)
    def test_ends_with_equal_trees_and_nothing_lost(
        self, breakable: Pair, sshd: Sshd, tmp_path: Path, seed: int
    ) -> None:
        pair = breakable
        chance = random.Random(seed)
        reference = tmp_path / "reference"
        reference.mkdir()
        (pair.left / "c").mkdir()
        pair.start()
        pair.settle()
        workers = [
            Worker(seed * 10, pair.left / "a"),
            Worker(seed * 10, reference / "a"),
            Worker(seed * 10 + 1, pair.right / "b"),
            Worker(seed * 10 + 1, reference / "b"),
            Worker(seed * 10 + 2, pair.left / "c"),
            Worker(seed * 10 + 3, pair.right / "c"),
        ]

        def kill_agent() -> None:
            agents = pair.agents()
            if agents:
                os.kill(chance.choice(agents), 9)

        def kill_brain() -> None:
            pair.kill()
            pair.launch()

        def restart() -> None:
            pair.stop()
            pair.launch()

        faults: list[Callable[[], object]] = [sshd.cut, kill_agent, kill_brain, restart]
        for _ in range(4):
            for step in range(60):
                for worker in workers:
                    worker.step()
                if step == 30 and chance.random() < 0.8:
                    chance.choice(faults)()
            pair.wait_for("watching")
            pair.settle()

        left = contents(pair.left)
        for top in (b"a", b"b"):
            expected = {p: v for p, v in contents(reference).items() if p.startswith(top)}
            assert {p: v for p, v in left.items() if p.startswith(top)} == expected
        until(lambda: not pair.leftovers(), "empty staging")
