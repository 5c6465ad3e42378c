"""Names that swap what they name: in one system call, or by way of a third one."""

from __future__ import annotations

import os
import stat
import time
from itertools import pairwise, product
from pathlib import Path

import pytest

from psync.syscalls import EXCHANGE, renameat2
from tests.e2e.pair import Pair, tree

KINDS = ["file", "directory", "empty directory", "symlink"]


def make(path: Path, kind: str) -> None:
    """Put something to a path that tells by its content where it was made."""
    match kind:
        case "file":
            path.write_text(f"file of {path.name}")
        case "directory":
            (path / "deep/er").mkdir(parents=True)
            (path / "same").write_text(f"in {path.name}")
            (path / "deep/same").write_text(f"deep in {path.name}")
            (path / f"deep/er/only {path.name}").write_text(path.name)
        case "empty directory":
            path.mkdir()
        case "symlink":
            path.symlink_to(path.name)


def exchange(directory: Path, times: int) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(times):
        renameat2(fd, b"X", fd, b"Y", EXCHANGE)
    os.close(fd)


@pytest.fixture
def exchangers(local: Pair) -> Pair:
    """On both sides, a directory for each two kinds that may be exchanged."""
    for side in ("left", "right"):
        for x, y in product(KINDS, KINDS):
            directory = local.root(side) / side / f"{x}, {y}"
            directory.mkdir(parents=True)
            make(directory / "X", x)
            make(directory / "Y", y)
    local.start()
    local.settle()
    return local


def exchange_all(pair: Pair, times: int) -> dict[bytes, object]:
    """Exchange on each side what is its own; return what both shall look like."""
    expected: dict[bytes, object] = {}
    for side in ("left", "right"):
        own = pair.root(side) / side  # in the rest psync is at work
        for directory in own.iterdir():
            exchange(directory, times)
        st = own.stat()
        entry = ("dir", stat.S_IMODE(st.st_mode), st.st_uid, st.st_gid, st.st_mtime_ns)
        expected[side.encode()] = entry
        expected |= {side.encode() + b"/" + path: value for path, value in tree(own).items()}
    return expected


def test_exchanged_names_are_exchanged_over_there(exchangers: Pair) -> None:
    for _ in range(3):
        expected = exchange_all(exchangers, 1)

        assert exchangers.settle() == expected

    assert exchangers.status()["conflicts"] == 0


@pytest.mark.parametrize("times", [2, 7, 100])
def test_many_quick_exchanges_end_in_what_is_there(exchangers: Pair, times: int) -> None:
    expected = exchange_all(exchangers, times)

    assert exchangers.settle() == expected
    assert exchangers.status()["conflicts"] == 0


def inodes(directory: Path) -> dict[Path, int]:
    """The inode of everything in a directory."""
    return {path.relative_to(directory): path.stat().st_ino for path in directory.rglob("*")}


@pytest.mark.parametrize(
    ("names", "pause"), [("ab", 0.0), ("ab", 0.002), ("ab", 0.02), ("abc", 0.0), ("abc", 0.002)]
)
def test_large_directories_that_take_each_other_s_names_are_not_copied(
    local: Pair, names: str, pause: float
) -> None:
    for name in names:
        (local.left / name / "sub").mkdir(parents=True)
        for n in range(300):
            (local.left / name / f"{n}").write_text(f"{name} {n}")
            (local.left / name / "sub" / f"{n}").write_text(f"{name} sub {n}")
    local.start()
    local.settle()
    for side, other in (("left", "right"), ("right", "left")):
        for _ in range(2):
            _swap(local, side, other, names, pause)


def _swap(pair: Pair, side: str, other: str, names: str, pause: float) -> None:
    """Let each directory take the next one's name; that moves no file over there."""
    root, over_there = pair.root(side), pair.root(other)
    before = {name: inodes(over_there / name) for name in names}
    time.sleep(pause)
    (root / names[0]).rename(root / "t")
    for new, old in pairwise(names):
        time.sleep(pause)
        (root / old).rename(root / new)
    time.sleep(pause)
    (root / "t").rename(root / names[-1])

    pair.settle()
    assert not (over_there / "t").exists()
    after = {name: inodes(over_there / name) for name in names}
    assert [after[name] for name in names] == [before[name] for name in (*names[1:], names[0])]
