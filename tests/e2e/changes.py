"""A small tree, and every kind of change that can be made to it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path


def fill(root: Path) -> None:
    """A small tree to work on."""
    (root / "docs/old").mkdir(parents=True)
    (root / "docs/report.txt").write_text("first")
    (root / "docs/old/notes").write_text("notes")
    (root / "docs/link").symlink_to("report.txt")
    (root / "keep").write_text("keep")
    (root / "empty").touch()


def _write_aside(root: Path) -> None:
    aside = root / "docs/.report.txt.swp1"
    aside.write_text("saved aside")
    os.replace(aside, root / "docs/report.txt")


def _append(root: Path) -> None:
    with (root / "docs/report.txt").open("a") as file:
        file.write(" and more")


def _same_size(root: Path) -> None:
    path = root / "docs/report.txt"
    before = path.stat()
    path.write_text("third")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _mkdir_at_once(root: Path) -> None:
    (root / "a/b/c/d").mkdir(parents=True)
    (root / "a/b/c/d/at-once").write_text("inside")


def _move_in(root: Path) -> None:
    outside = root.parent / f"outside-{root.name}"
    (outside / "deep").mkdir(parents=True)
    (outside / "deep/file").write_text("from outside")
    os.rename(outside, root / "moved-in")


def _move_out(root: Path) -> None:
    os.rename(root / "docs", root.parent / f"gone-{root.name}")


def _swap(root: Path) -> None:
    os.rename(root / "keep", root / "t")
    os.rename(root / "docs/report.txt", root / "keep")
    os.rename(root / "t", root / "docs/report.txt")


def _file_to_dir(root: Path) -> None:
    (root / "keep").unlink()
    (root / "keep").mkdir()
    (root / "keep/inside").write_text("was a file")


def _dir_to_file(root: Path) -> None:
    shutil.rmtree(root / "docs")
    (root / "docs").write_text("was a directory")


def _file_to_link(root: Path) -> None:
    (root / "keep").unlink()
    (root / "keep").symlink_to("docs/report.txt")


def _link_to_dir(root: Path) -> None:
    (root / "docs/link").unlink()
    (root / "docs/link").mkdir()


def _mtimes(root: Path) -> None:
    os.utime(root / "keep", ns=(1, 1_234_567_890_123_456_789))
    os.utime(root / "docs/old", ns=(1, 987_654_321_000_000_001))
    os.utime(root / "docs/link", ns=(1, 5_000_000_007), follow_symlinks=False)


def _modes(root: Path) -> None:
    (root / "keep").chmod(0o640)
    (root / "docs").chmod(0o711)
    (root / "empty").chmod(0o400)


def _owners(root: Path) -> None:
    os.chown(root / "keep", 1234, 2345)
    os.chown(root / "docs", 1234, 0)
    os.chown(root / "docs/link", 7, 8, follow_symlinks=False)


CHANGES: dict[str, Callable[[Path], object]] = {
    "create": lambda r: (r / "new").write_text("new"),
    "create empty file": lambda r: (r / "nothing").touch(),
    "create empty directory": lambda r: (r / "hollow").mkdir(),
    "overwrite in place": lambda r: (r / "docs/report.txt").write_text("second"),
    "write aside and rename": _write_aside,
    "append": _append,
    "truncate to nothing": lambda r: (r / "docs/report.txt").write_text(""),
    "rewrite with equal size and mtime": _same_size,
    "delete file": lambda r: (r / "keep").unlink(),
    "delete symlink": lambda r: (r / "docs/link").unlink(),
    "delete tree": lambda r: shutil.rmtree(r / "docs"),
    "rename file": lambda r: os.rename(r / "keep", r / "kept"),
    "rename file across directories": lambda r: os.rename(r / "keep", r / "docs/old/kept"),
    "rename over an existing file": lambda r: os.replace(r / "keep", r / "docs/report.txt"),
    "rename directory with content": lambda r: os.rename(r / "docs", r / "papers"),
    "move directory into another": lambda r: os.rename(r / "docs/old", r / "older"),
    "swap two files": _swap,
    "move a tree in": _move_in,
    "move a tree out": _move_out,
    "mkdir -p with a file at once inside": _mkdir_at_once,
    "symlink": lambda r: (r / "s").symlink_to("keep"),
    "dangling symlink": lambda r: (r / "s").symlink_to("/nowhere/at all"),
    "retarget symlink": lambda r: ((r / "docs/link").unlink(), (r / "docs/link").symlink_to("x")),
    "hard link": lambda r: os.link(r / "keep", r / "same"),
    "file becomes directory": _file_to_dir,
    "directory becomes file": _dir_to_file,
    "file becomes symlink": _file_to_link,
    "symlink becomes directory": _link_to_dir,
    "mtimes to the nanosecond": _mtimes,
    "modes": _modes,
    "attribute": lambda r: os.setxattr(r / "keep", "user.x", b"y"),
}
if os.geteuid() == 0:
    CHANGES["owner and group"] = _owners
