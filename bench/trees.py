"""Make the trees that are measured, and tell whether two of them are the same.

**Invariants.** The same arguments give the same names and the same contents, so that both sides
and all rounds do the same work. Contents do not compress.

It knows nothing of psync but that `.psync` at a root is not part of a tree.
"""

from __future__ import annotations

import filecmp
import itertools
import os
import random
import shutil
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from tests.e2e.pair import tree

__all__ = ["content", "difference", "make_file", "make_real", "make_small", "same_file"]

_POOL = random.Random(1).randbytes(1 << 20)
_FLAT = 1000  # more directories than this are spread over two levels
_FANOUT = 250
_MEGA = 1 << 20


def content(number: int, size: int) -> bytes:
    """Give a small file's content: any two numbers differ in theirs, if near each other."""
    start = number * 37 % (len(_POOL) - size)
    return _POOL[start : start + size]


def make_small(
    root: Path, files: int, directories: int, size: int, mtime_ns: int | None = None
) -> None:
    """Make many small files in a new directory, as fast as this can be done.

    Args:
        root: is made.
        files: how many, spread evenly over the directories.
        directories: how many there are below `root`, more or less.
        size: of each file.
        mtime_ns: for every file and directory, so that two such trees are the same; None: now.
    """
    os.mkdir(root)
    each = -(-files // directories)
    number = 0
    stamped = [os.fspath(root)]
    for index in range(directories):
        if directories <= _FLAT:
            path = f"{root}/d{index:03}"
        else:
            if index % _FANOUT == 0:
                os.mkdir(f"{root}/d{index // _FANOUT:03}")
                stamped.append(f"{root}/d{index // _FANOUT:03}")
            path = f"{root}/d{index // _FANOUT:03}/e{index % _FANOUT:03}"
        os.mkdir(path)
        stamped.append(path)
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        for _ in range(min(each, files - number)):
            fd = os.open(
                f"f{number:07}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644, dir_fd=directory
            )
            if size:
                os.write(fd, content(number, size))
            if mtime_ns is not None:
                os.utime(fd, ns=(mtime_ns, mtime_ns))
            os.close(fd)
            number += 1
        os.close(directory)
    if mtime_ns is not None:
        for path in reversed(stamped):
            os.utime(path, ns=(mtime_ns, mtime_ns))


def make_file(path: Path, size: int, seed: int = 1) -> None:
    """Write one large file of random bytes."""
    source = random.Random(seed)
    with path.open("wb") as file:
        while size:
            piece = source.randbytes(min(size, _MEGA))
            file.write(piece)
            size -= len(piece)


def make_real(root: Path, files: int, size: int) -> tuple[int, int]:
    """Copy Python's own library and the installed packages, again and again, until it is enough.

    A file that would take far more than its share of the bytes is left out.

    Returns:
        How many files and how many bytes it has become.
    """
    count = total = 0
    for repeat in itertools.count():
        before = count
        for source, relative in _library():
            length = source.stat().st_size
            if total + length > size * (count + 1) // files + size // 16:
                continue
            target = root / f"copy{repeat}" / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
            count += 1
            total += length
            if count == files:
                return count, total
        if count == before:
            raise RuntimeError("this Python has no library to copy")
    raise AssertionError


def _library() -> Iterator[tuple[Path, str]]:
    for name in ("stdlib", "purelib"):
        top = Path(sysconfig.get_paths()[name])
        for parent, directories, names in os.walk(top):
            directories.sort()
            if "site-packages" in directories:  # of the stdlib; the environment's own comes anyway
                directories.remove("site-packages")
            for each in sorted(names):
                file = Path(parent, each)
                if file.is_file() and not file.is_symlink():
                    yield file, f"{name}/{file.relative_to(top)}"


def difference(left: Path, right: Path) -> str:
    """Say in what two trees differ, times, modes and owners included; empty if in nothing."""
    one, other = tree(left), tree(right)
    odd = sorted(path for path in one.keys() | other.keys() if one.get(path) != other.get(path))
    if not odd:
        return ""
    first = odd[0]
    return f"{len(odd)} of {len(one)} paths differ, first {first!r}: " + " | ".join(
        repr(side[first][:5]) if first in side else "missing" for side in (one, other)
    )


def same_file(left: Path, right: Path) -> bool:
    """Tell whether two large files are the same, in content, mode and time."""
    a, b = left.stat(), right.stat()
    alike = (a.st_size, a.st_mode, a.st_mtime_ns) == (b.st_size, b.st_mode, b.st_mtime_ns)
    return alike and filecmp.cmp(left, right, shallow=False)
