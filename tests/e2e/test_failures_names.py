"""Names, and what has one but is no file of a replica; ids as in docs/FAILURES.md."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from inotify_simple import INotify, flags

from tests.e2e.disks import disk
from tests.e2e.pair import SIDES, Pair, tree, until

only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")


@contextmanager
def bound(source: Path, at: Path) -> Iterator[None]:
    """Mount a directory a second time."""
    subprocess.run(["mount", "--bind", str(source), str(at)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(at)], check=True)


@pytest.mark.parametrize("side", SIDES)
class TestNames:
    def test_n13_names_that_look_alike(self, watching: Pair, side: str) -> None:
        here = os.fsencode(watching.root(side))
        twins = {"\u00e9".encode(): b"composed", "e\u0301".encode(): b"apart"}
        for name, text in twins.items():
            with open(here + b"/" + name, "wb") as file:
                file.write(text)

        after = watching.settle()
        assert {name: after[name][-1] for name in twins} == twins


@pytest.mark.parametrize("side", SIDES)
class TestDirectories:
    def test_n01_made_and_filled_at_once_are_replicated_whole(
        self, watching: Pair, side: str
    ) -> None:
        here = watching.root(side)
        for number in range(20):
            (here / f"{number}/b/c").mkdir(parents=True)
            (here / f"{number}/b/c/d").write_text(f"n01 {number}")

        assert watching.contents() == {
            b"%d/b/c/d" % number: b"n01 %d" % number for number in range(20)
        }  # fmt: skip

    def test_n02_deleted_and_made_again_are_still_watched(self, watching: Pair, side: str) -> None:
        here = watching.root(side)
        for turn in range(5):
            (here / "d").mkdir()
            (here / "d/f").write_text(f"n02 {turn}")
            assert watching.contents() == {b"d/f": b"n02 %d" % turn}
            (here / "d/f").write_text(f"n02 edited {turn}")
            assert watching.contents() == {b"d/f": b"n02 edited %d" % turn}
            shutil.rmtree(here / "d")

        assert watching.settle() == {}

    def test_n03_renamed_are_watched_under_their_new_name(self, watching: Pair, side: str) -> None:
        here = watching.root(side)
        (here / "d/e").mkdir(parents=True)
        (here / "d/e/f").write_text("n03")
        watching.settle()
        (here / "d").rename(here / "new")
        (here / "new/e/f").write_text("n03 at once")
        assert watching.contents() == {b"new/e/f": b"n03 at once"}
        (here / "new/e/f").write_text("n03 later")

        assert watching.contents() == {b"new/e/f": b"n03 later"}

    def test_n04_moved_out_and_back_come_as_they_are_then(self, watching: Pair, side: str) -> None:
        here, outside = watching.root(side), watching.base / "outside"
        (here / "d").mkdir()
        for name in ("f", "g"):
            (here / "d" / name).write_text(f"n04 {name}")
        watching.settle()
        (here / "d").rename(outside)
        assert watching.settle() == {}
        (outside / "f").write_text("n04 edited outside")
        (outside / "g").unlink()
        outside.rename(here / "d")
        assert watching.contents() == {b"d/f": b"n04 edited outside"}
        (here / "d/f").write_text("n04 edited inside")

        assert watching.contents() == {b"d/f": b"n04 edited inside"}


class TestShapes:
    def test_n06_a_giant_directory_is_compared_and_carried(self, local: Pair) -> None:
        """It is listed in ranges, and what both sides have told of is decided meanwhile."""
        count = 6000
        (local.left / "d").mkdir()
        for number in range(count):
            (local.left / f"d/{number:05}").touch()
        shutil.copytree(local.left / "d", local.right / "d")
        (local.left / "d/new").write_text("n06")
        local.start()
        assert local.settle()[b"d/new"][-1] == b"n06"
        told = local.status()
        assert told["agreed"] == count + 2
        applied = told["left"]["applied"] + told["right"]["applied"]
        assert applied == 2, "it, and its directory's time"
        local.stop()
        (local.right / "d/03000").write_text("edited")
        (local.right / "d/03001").unlink()
        local.start()

        after = local.settle()
        assert len(after) == count + 1
        assert after[b"d/03000"][-1] == b"edited"


@pytest.mark.parametrize("side", SIDES)
class TestExcluded:
    def test_n17_files_keep_their_directory_until_they_go(self, watching: Pair, side: str) -> None:
        here, there = watching.sides(side)
        (here / "d").mkdir()
        (here / "d/f").write_text("n17")
        watching.settle()
        (there / "d/~$lock").write_text("n17 excluded")
        watching.flush()
        shutil.rmtree(here / "d")

        (told,) = until(lambda: watching.status()["problem_list"], "a problem")
        assert told["path"] == "d"
        assert "holds entries that are not replicated" in told["message"]
        assert tree(there).keys() == {b"d", b"d/~$lock"}
        (there / "d/~$lock").unlink()
        until(lambda: not watching.status()["problems"], "the end of the problem")
        assert watching.settle() == {}

    def test_n18_from_now_on_or_not_any_more_is_no_deletion(self, pair: Pair, side: str) -> None:
        here, there = pair.sides(side)
        for name in ("f", "a.log", "b.log"):
            (here / name).write_text(f"n18 {name}")
        pair.start()
        expected = pair.settle()
        pair.stop()
        pair.start("--set", "excludes=['*.log']")
        assert pair.settle() == expected
        (here / "a.log").unlink()
        (there / "f").write_text("n18 edited")
        pair.flush()
        assert {path: entry[-1] for path, entry in tree(there).items()} == {
            b"f": b"n18 edited", b"a.log": b"n18 a.log", b"b.log": b"n18 b.log",
        }  # fmt: skip
        pair.stop()

        pair.start()
        assert pair.contents() == {
            b"f": b"n18 edited", b"a.log": b"n18 a.log", b"b.log": b"n18 b.log",
        }  # fmt: skip


@pytest.mark.parametrize("side", SIDES)
class TestSpecial:
    def test_n19_files_stay_where_they_are_and_are_never_opened(
        self, watching: Pair, side: str
    ) -> None:
        here, there = watching.sides(side)
        opened = INotify()
        (here / "d").mkdir()
        watching.settle()
        os.mkfifo(here / "d/fifo")
        opened.add_watch(here / "d/fifo", flags.OPEN)
        with socket.socket(socket.AF_UNIX) as bound_there:
            bound_there.bind(os.fspath(here / "d/socket"))
        if os.geteuid() == 0:
            os.mknod(here / "d/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
            opened.add_watch(here / "d/null", flags.OPEN)
        (here / "d/f").write_text("n19")
        (here / "d").rename(here / "e")
        watching.flush()

        assert tree(there).keys() == {b"e", b"e/f"}
        assert opened.read(timeout=0) == []
        opened.close()
        assert watching.status()["problems"] == 0
        for name in ("fifo", "socket", "null"):
            (here / "e" / name).unlink(missing_ok=True)
        watching.settle()

    @only_root
    def test_n20_n21_of_which_a_bind_mount_makes_a_loop_are_not_entered(
        self, watching: Pair, side: str
    ) -> None:
        here, there = watching.sides(side)
        for path in ("d/loop", "d/e"):
            (here / path).mkdir(parents=True)
        (here / "d/up").symlink_to("..")
        (here / "d/self").symlink_to("self")
        watching.settle()
        with bound(here, here / "d/loop"):
            (here / "d/f").write_text("n21")
            watching.flush()

            assert tree(there).keys() == {
                b"d", b"d/e", b"d/f", b"d/loop", b"d/self", b"d/up",
            }  # fmt: skip
            (there / "d/loop/x").write_text("n20")
            told = until(lambda: watching.status()["problem_list"], "a problem")
            assert all("mount" in problem["message"] for problem in told)

        assert watching.contents() == {b"d/f": b"n21", b"d/loop/x": b"n20"}


@only_root
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("kind", ["btrfs", "xfs"])
def test_n23_files_that_share_their_blocks_are_told_apart(
    local: Pair, kind: str, side: str
) -> None:
    here = local.root(side)
    with disk(local.base / "disk", here, kind, mib=320):
        for name, size in (("large", 1 << 20), ("small", 1 << 16)):
            (here / name).write_bytes(os.urandom(size))
            (here / f"old {name}").write_bytes(os.urandom(size))
        local.start()
        before = local.contents()
        for name in ("large", "small"):
            local.shell(f"cd {here}; cp --reflink=always {name} 'copy of {name}'")
            local.shell(f"cd {here}; cp --reflink=always {name} 'old {name}'")
            with (here / f"copy of {name}").open("r+b") as stream:
                stream.seek(5000)
                stream.write(b"n23")

        after = local.contents()
        for name in (b"large", b"small"):
            whole = before[name]
            assert after[name] == after[b"old " + name] == whole
            assert after[b"copy of " + name] == whole[:5000] + b"n23" + whole[5003:]
        local.stop()
