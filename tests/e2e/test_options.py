"""Options of the original, through the command: what each does, and what it leaves alone."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tests.e2e.pair import Pair, tree


class TestSkipInitialSync:
    def test_leaves_what_differs_and_replicates_what_happens(self, pair: Pair) -> None:
        for i in range(5):
            (pair.left / f"d{i}").mkdir()
            (pair.left / f"d{i}/same").write_text(f"same {i}")
        (pair.left / "removed").write_text("removed")
        (pair.left / "touched").write_text("touched")
        shutil.copytree(pair.left, pair.right, dirs_exist_ok=True)
        os.utime(pair.right / "touched", (1, 1))
        os.utime(pair.right / "d4", (1, 1))
        (pair.left / "only-left").write_text("left")
        (pair.right / "only-right").write_text("right")
        (pair.left / "differs").write_text("left one")
        (pair.right / "differs").write_text("right")
        (pair.left / "new").mkdir()
        (pair.left / "new/f").write_text("new")

        pair.start("-k")

        assert not (pair.right / "only-left").exists()
        assert not (pair.right / "new").exists()
        assert not (pair.left / "only-right").exists()
        assert (pair.right / "differs").read_text() == "right"
        assert pair.status()["conflicts"] == 0

        (pair.left / "d0/same").write_text("edited")
        (pair.right / "d4/same").write_text("edited, too")
        (pair.right / "removed").unlink()
        os.rename(pair.left / "d1", pair.left / "moved")
        (pair.left / "only-left").write_text("now")
        (pair.left / "new/g").write_text("g")
        pair.flush()
        assert (pair.right / "d0/same").read_text() == "edited"
        assert (pair.left / "d4/same").read_text() == "edited, too"
        assert not (pair.left / "removed").exists()
        assert (pair.right / "moved/same").read_text() == "same 1"
        assert not (pair.right / "d1").exists()
        assert (pair.right / "only-left").read_text() == "now"
        assert (pair.right / "new/g").read_text() == "g"
        assert not (pair.left / "only-right").exists()
        assert (pair.right / "differs").read_text() == "right"
        assert pair.status()["conflicts"] == 0

    def test_is_made_up_for_by_a_full_sync(self, local: Pair) -> None:
        (local.left / "f").write_text("left")
        (local.right / "g").write_text("right")
        local.start("-k")
        assert not (local.right / "f").exists()

        assert local.psync("sync", str(local.left), str(local.right)).returncode == 0

        assert set(local.settle()) == {b"f", b"g"}


class TestSyncOnly:
    def test_syncs_and_ends(self, pair: Pair) -> None:
        (pair.left / "f").write_text("left")
        (pair.right / "g").write_text("right")

        assert pair.launch("-s").wait(60) == 0

        assert tree(pair.left) == tree(pair.right)
        assert set(tree(pair.left)) == {b"f", b"g"}
        assert pair.agents() == []


class TestTranslate:
    def test_changes_the_path_of_the_right_root(self, local: Pair) -> None:
        (local.left / "f").write_text("left")

        done = local.psync(
            "sync", "-T", f"{local.left}:{local.right}", str(local.left), str(local.left)
        )

        assert (done.returncode, done.stderr) == (0, "")
        assert (local.right / "f").read_text() == "left"


class TestBanned:
    def test_program_that_runs_already_lets_nothing_begin(
        self, local: Pair, tmp_path: Path
    ) -> None:
        program = tmp_path / "a-name-that-the-kernel-cuts"
        shutil.copy(shutil.which("sleep") or "/bin/sleep", program)
        (local.left / "f").write_text("left")
        with subprocess.Popen([program, "60"]) as process:
            done = local.psync("-b", program.name, str(local.left), str(local.right))
            process.kill()

        assert done.returncode == 1
        assert f"{program.name} is running" in done.stderr
        assert tree(local.right) == {}
