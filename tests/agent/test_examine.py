"""An agent tells what its host and a root are able to, and leaves no trace of having looked."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from psync import examine as module
from psync.examine import examine
from psync.wire import Examine, Examined


def look(root: Path, pruned: Sequence[bytes] = ()) -> Examined:
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return examine(Examine(7, os.fsencode(root), list(pruned)), fd, os.fsencode(root))
    finally:
        os.close(fd)


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[int]:
    """Three watches of our own."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.inotify_init1(os.O_CLOEXEC)
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        assert libc.inotify_add_watch(fd, os.fsencode(tmp_path / name), 0x100) > 0
    yield 3
    os.close(fd)


class TestExamine:
    def test_tells_of_the_root(self, tmp_path: Path) -> None:
        (tmp_path / "d/e").mkdir(parents=True)
        (tmp_path / "link").symlink_to("d")

        told = look(tmp_path)

        assert told.token == 7
        assert told.root == os.fsencode(os.path.realpath(tmp_path))
        assert told.trouble == ""
        assert (told.directories, told.all_counted) == (3, True)
        space = os.statvfs(tmp_path)
        assert told.total_bytes == space.f_blocks * space.f_frsize
        assert told.total_inodes == space.f_files
        assert told.filesystem

    def test_counts_no_directory_that_nobody_would_watch(self, tmp_path: Path) -> None:
        for name in (".psync/stage", "a/cache/d", "cache", "b.o", "c"):
            (tmp_path / name).mkdir(parents=True)

        assert look(tmp_path, [b"cache", b"*.o"]).directories == len(["", "a", "c"])

    def test_tries_what_the_file_system_can_do(self, tmp_path: Path) -> None:
        told = look(tmp_path)

        assert {"nanoseconds", "modes", "owners"} <= set(told.able)
        assert set(told.able).isdisjoint(told.unable)
        assert set(told.able) | set(told.unable) == set(module._ATTEMPTS)

    def test_leaves_no_trace(self, tmp_path: Path) -> None:
        before = tmp_path.stat().st_mtime_ns
        descriptors = len(os.listdir("/proc/self/fd"))

        look(tmp_path)

        assert os.listdir(tmp_path) == []
        assert tmp_path.stat().st_mtime_ns == before
        assert len(os.listdir("/proc/self/fd")) == descriptors

    def test_says_that_it_could_not_try_without_nameless_files(self) -> None:
        told = look(Path("/proc/self"))

        assert told.able == told.unable == []

    @pytest.mark.parametrize("number", [errno.EROFS, errno.EPERM, errno.EACCES])
    def test_says_that_nothing_may_be_written(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
    ) -> None:
        def refuse(root_fd: int) -> int:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(module, "_nameless", refuse)

        told = look(tmp_path)

        assert told.trouble == f"{tmp_path} may not be written: {os.strerror(number)}"

    def test_counts_watches_in_use(self, tmp_path: Path, watched: int) -> None:
        assert look(tmp_path).watches_used >= watched

    def test_stops_counting_in_time(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "_COUNT_S", -1.0)

        told = look(tmp_path)

        assert not told.all_counted

    def test_tells_of_the_host_whatever_the_root(self) -> None:
        told = examine(Examine(1, b"/nowhere", []), -1, b"/nowhere", "/nowhere does not exist")

        assert told.trouble == "/nowhere does not exist"
        assert told.watches_max > 0
        assert told.queue_max > 0
        assert (told.root, told.directories, told.total_bytes) == (b"", 0, 0)
