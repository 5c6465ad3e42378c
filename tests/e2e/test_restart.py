"""What happens while psync is off is replicated, not undone; kills lose nothing (points 3, 7)."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
from pathlib import Path

import pytest

from tests.e2e.pair import SIDES, Pair, tree, until


def _tree(root: Path) -> None:
    for d in range(5):
        (root / f"d{d}/sub").mkdir(parents=True)
        for f in range(10):
            (root / f"d{d}/f{f}").write_text(f"{d} {f}")
            (root / f"d{d}/sub/s{f}").write_text(f"sub {d} {f}")


class TestFirstStart:
    def test_unites_two_trees(self, pair: Pair) -> None:
        (pair.left / "only-left").write_text("l")
        (pair.right / "only-right").write_text("r")
        (pair.left / "both").write_text("the same")
        shutil.copy2(pair.left / "both", pair.right / "both")
        (pair.left / "times").write_text("equal bytes")
        (pair.right / "times").write_text("equal bytes")
        os.utime(pair.left / "times", ns=(10**18, 10**18))
        (pair.left / "differs").write_text("old left")
        os.utime(pair.left / "differs", ns=(10**18, 10**18))
        (pair.right / "differs").write_text("new right")
        (pair.left / "kinds").mkdir()
        (pair.left / "kinds/inside").write_text("in the directory")
        (pair.right / "kinds").write_text("the file")
        inode = (pair.right / "times").stat().st_ino

        pair.start()
        after = pair.settle()

        assert after[b"differs"][-1] == b"new right"
        assert pair.conflicts("left") == [b"old left"]
        assert after[b"kinds"][0] == "dir"
        assert pair.conflicts("right") == [b"the file"]
        assert (pair.right / "times").stat().st_ino == inode, "equal content was not copied"
        assert set(after) >= {b"only-left", b"only-right", b"both", b"times"}
        assert pair.status()["conflicts"] == 2
        pair.restart()
        assert pair.status()["conflicts"] == 2, "what is kept is counted for as long as it is"
        assert pair.psync("conflicts").stdout.count("differs") == 1

    def test_of_equal_trees_changes_nothing(self, pair: Pair) -> None:
        _tree(pair.left)
        shutil.rmtree(pair.right)
        shutil.copytree(pair.left, pair.right, symlinks=True)

        pair.start()

        told = pair.status()
        assert told["agreed"] == 110
        assert told["left"]["applied"] == told["right"]["applied"] == 0
        assert told["conflicts"] == 0


class TestNextStart:
    def test_finds_the_digests_of_directories_that_the_one_before_has_made(
        self, pair: Pair
    ) -> None:
        _tree(pair.left)
        pair.start()
        pair.settle()
        pair.restart()
        pair.stop()

        (archive,) = pair.state.glob("sessions/*/archive.db")
        with contextlib.closing(sqlite3.connect(archive)) as rows:
            known = rows.execute("SELECT count(*), count(DISTINCT digest) FROM digest").fetchone()
        assert known == (20, 20), "ten directories, two sides"


    @pytest.mark.parametrize("end", ["stop", "kill"])
    @pytest.mark.parametrize("before", [0, 1])
    def test_reads_files_of_equal_size_and_time_once_both_have_been_compared(
        self, local: Pair, end: str, before: int
    ) -> None:
        """That is so even if nothing was agreed, or nothing for good yet."""
        for number in range(before):
            (local.left / f"{number}").write_text("x")
        local.start()
        local.settle()
        getattr(local, end)()
        until(lambda: not local.agents(), "the agents' end")
        for root, text in ((local.left, "LEFT text"), (local.right, "RIGHTtext")):
            (root / "b").write_text(text)
            os.utime(root / "b", ns=(10**18, 10**18))
        local.start()
        local.settle()

        assert set(local.texts()) >= {b"LEFT text", b"RIGHTtext"}
        assert local.status()["conflicts"] == 1


class TestWhileOff:
    def test_everything_done_on_both_sides_is_replicated(self, pair: Pair) -> None:
        _tree(pair.left)
        pair.start()
        pair.settle()
        assert pair.stop() == 0
        left, right = pair.left, pair.right
        (left / "d0/f0").write_text("edited left")
        (right / "d0/f1").write_text("edited right")
        (left / "d0/f2").unlink()
        (right / "d0/f3").unlink()
        shutil.rmtree(left / "d1")
        shutil.rmtree(right / "d2/sub")
        os.rename(left / "d3", left / "renamed-left")
        os.rename(right / "d4/f4", right / "d4/renamed-right")
        (left / "created/deep").mkdir(parents=True)
        (left / "created/deep/x").write_text("x")
        (right / "d0/link").symlink_to("f0")
        (right / "d0/f5").chmod(0o600)
        inode = (right / "d3/f0").stat().st_ino

        pair.start()
        after = pair.settle()

        assert after[b"d0/f0"][-1] == b"edited left"
        assert after[b"d0/f1"][-1] == b"edited right"
        for gone in (b"d0/f2", b"d0/f3", b"d1", b"d2/sub", b"d3", b"d4/f4"):
            assert gone not in after
        assert (right / "renamed-left/f0").stat().st_ino == inode, "a rename moves no bytes"
        assert after[b"d4/renamed-right"][-1] == b"4 4"
        assert after[b"created/deep/x"][-1] == b"x"
        assert after[b"d0/f5"][1] == 0o600
        assert pair.status()["conflicts"] == 0

    def test_c03_deleted_and_edited_elsewhere_comes_back(self, pair: Pair) -> None:
        (pair.left / "f").write_text("f")
        (pair.left / "g").write_text("g")
        pair.start()
        pair.stop()
        (pair.left / "f").unlink()
        (pair.right / "f").write_text("edited")

        pair.start()

        assert pair.settle()[b"f"][-1] == b"edited"

    def test_r03_a_side_emptied_is_no_deletion(self, pair: Pair) -> None:
        _tree(pair.left)
        pair.start()
        pair.stop()
        for child in pair.left.iterdir():
            if child.is_dir():
                shutil.rmtree(child)
        before = tree(pair.right)

        pair.launch()
        told = pair.wait_for("halted")

        assert "--accept-deletes" in told["halted"]
        assert tree(pair.right) == before
        assert pair.stop() == 0


class TestKill:
    def test_x02_of_the_brain_loses_nothing_and_makes_no_conflict(self, pair: Pair) -> None:
        pair.start()
        for round_ in range(4):
            for i in range(300):
                (pair.left / f"f{i}").write_text(f"{round_} {i}")
            until((pair.right / "f100").exists, "half of it")
            pair.kill()
            until(lambda: not pair.agents(), "the agents' end")
            for i in range(0, 300, 3):
                (pair.left / f"f{i}").write_text(f"again {round_} {i}")
            pair.start()
            after = pair.settle()
            assert after[b"f0"][-1] == b"again %d 0" % round_
            assert after[b"f1"][-1] == b"%d 1" % round_
            assert pair.status()["conflicts"] == 0
            assert pair.leftovers() == []

    def test_of_an_agent_is_followed_by_another(self, pair: Pair) -> None:
        pair.start()
        for round_ in range(4):
            for i in range(200):
                (pair.left / f"f{i}").write_text(f"{round_} {i}")
                (pair.right / f"g{i}").write_text(f"{round_} {i}")
            victims = pair.agents()
            assert len(victims) == 2
            os.kill(victims[round_ % 2], 9)
            (pair.left / "after").write_text(str(round_))
            after = pair.settle()
            assert after[b"after"][-1] == b"%d" % round_
            assert after[b"f199"][-1] == b"%d 199" % round_
            assert after[b"g0"][-1] == b"%d 0" % round_
            assert pair.status()["conflicts"] == 0
            assert pair.leftovers() == []

    def test_e04_of_cinotify_is_noticed(self, pair: Pair) -> None:
        pair.start()
        for pid in pair.agents():
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            for child in children:
                os.kill(int(child), 9)
        (pair.left / "after").write_text("x")

        assert b"after" in pair.settle()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
class TestMount:
    def test_r05_that_hides_a_directory_is_no_deletion(self, pair: Pair) -> None:
        (pair.left / "data").mkdir()
        (pair.left / "data/precious").write_text("precious")
        (pair.left / "beside").write_text("x")
        pair.start()
        pair.settle()
        pair.stop()
        subprocess.run(["mount", "-t", "tmpfs", "none", str(pair.left / "data")], check=True)
        try:
            pair.start()
            (pair.left / "beside").write_text("y")
            pair.flush()

            assert (pair.right / "data/precious").read_text() == "precious"
            assert (pair.right / "beside").read_text() == "y"
            pair.stop()
        finally:
            subprocess.run(["umount", str(pair.left / "data")], check=True)
        pair.start()
        assert pair.settle()[b"data/precious"][-1] == b"precious"

    @pytest.mark.parametrize("side", SIDES)
    def test_r05_that_comes_and_goes_while_psync_watches_is_no_deletion(
        self, watching: Pair, side: str
    ) -> None:
        here = watching.root(side)
        there = watching.root("right" if side == "left" else "left")
        (here / "data").mkdir()
        (here / "data/precious").write_text("precious")
        watching.settle()
        subprocess.run(["mount", "-t", "tmpfs", "none", str(here / "data")], check=True)
        try:
            (here / "data/in the mount").write_text("stays here")
            (here / "beside").write_text("y")
            watching.flush()
            assert (there / "beside").read_text() == "y"
            assert [p.name for p in (there / "data").iterdir()] == ["precious"]
            (there / "data/new").write_text("cannot go there now")
            with pytest.raises(AssertionError, match="mount"):
                watching.flush(2)
        finally:
            subprocess.run(["umount", str(here / "data")], check=True)

        found = {path: entry[-1] for path, entry in watching.settle().items()}
        assert (found[b"data/precious"], found[b"data/new"]) == (
            b"precious", b"cannot go there now",
        )  # fmt: skip


class TestRootLost:
    """A root that is not what it was is no deletion of what was in it, whatever `resume` says."""

    @pytest.mark.parametrize("side", SIDES)
    def test_r04_and_replaced_while_running(self, pair: Pair, side: str) -> None:
        here, there = pair.sides(side)
        _tree(here)
        pair.start()
        before = pair.settle()
        aside = pair.base / "aside"
        here.rename(aside)
        here.mkdir()
        (there / "new").write_text("n")  # so that somebody looks at the other side
        pair.wait_for("halted")

        for _ in range(2):
            refused = pair.psync("resume")
            assert "is empty" in refused.stderr, refused.stderr
            assert refused.returncode == 1
        assert before.items() <= tree(there).items()
        assert list(here.iterdir()) == []

        here.rmdir()
        aside.rename(here)
        assert pair.psync("resume").returncode == 0
        assert pair.settle()[b"new"][-1] == b"n"
        assert before.items() <= tree(here).items()

    @pytest.mark.parametrize("side", SIDES)
    def test_r06_and_meant_to_be_empty(self, pair: Pair, side: str) -> None:
        here, there = pair.sides(side)
        _tree(here)
        pair.start()
        before = pair.settle()
        pair.stop()
        shutil.rmtree(here)
        here.mkdir()
        pair.launch()
        pair.wait_for("halted")
        assert (tree(here), tree(there)) == ({}, before)

        assert pair.psync("resume", "--accept-deletes").returncode == 0

        pair.wait_for("watching")
        assert pair.settle() == {}

    @pytest.mark.parametrize("side", SIDES)
    def test_r03_most_of_its_entries_at_once(self, pair: Pair, side: str) -> None:
        _tree(pair.left)
        (pair.left / "other").write_text("o")
        pair.start()
        before = pair.settle()
        other = pair.right if side == "left" else pair.left

        pair.shell(f"rm -rf {pair.root(side)}/d*")
        told = pair.wait_for("halted")
        assert f"{side} has lost" in told["halted"]
        assert "--accept-deletes" in told["halted"]
        kept = tree(other)
        assert kept.keys() <= before.keys()
        assert len(kept) >= len(before) * 7 / 8 - 1

        refused = pair.psync("resume")
        assert f"{side} shows 1 entries" in refused.stderr
        assert refused.returncode == 1
        assert tree(other).keys() == kept.keys()

        assert pair.psync("resume", "--accept-deletes").returncode == 0
        pair.wait_for("watching")
        assert list(pair.settle()) == [b"other"]

    def test_r06_its_marker(self, pair: Pair) -> None:
        _tree(pair.left)
        pair.start()
        before = pair.settle()
        shutil.rmtree(pair.right / ".psync")
        (pair.left / "new").write_text("n")
        assert "has lost its marker" in pair.wait_for("halted")["halted"]
        assert before.items() <= tree(pair.right).items()

        assert pair.psync("resume").returncode == 1
        assert pair.psync("resume", "--accept-deletes").returncode == 0

        pair.wait_for("watching")
        after = pair.settle()
        assert after[b"new"][-1] == b"n"
        assert before.items() <= after.items()
