"""Sessions that start again, and hosts that are not what they were; ids as in docs/FAILURES.md."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import sys
from pathlib import Path

import pytest

from tests.e2e.pair import SIDES, Pair, tree, until
from tests.sshd import Sshd

CHECKOUT = Path(__file__).resolve().parents[2]


class TestStarts:
    @pytest.mark.parametrize("side", SIDES)
    def test_x16_with_a_root_set_back_to_a_snapshot_lose_nothing(
        self, pair: Pair, side: str
    ) -> None:
        here, there = pair.sides(side)
        snapshot = pair.base / "snapshot"
        for name in ("f", "g"):
            (here / name).write_text(f"old {name}")
            os.utime(here / name, ns=(10**18, 10**18))
        pair.start()
        pair.settle()
        pair.stop()
        pair.shell(f"cp -a {here} {snapshot}")
        pair.start()
        (there / "f").write_text("new f")
        (here / "later").write_text("later")
        pair.settle()
        pair.stop()
        shutil.rmtree(here)
        snapshot.rename(here)

        pair.start()
        after = {path: entry[-1] for path, entry in pair.settle().items()}
        assert after == {b"f": b"new f", b"g": b"old g", b"later": b"later"}
        assert pair.conflicts(side) == [b"old f"]
        assert "was set back to a snapshot" in pair.log()
        told = pair.log().count("was set back")
        pair.restart()
        assert pair.log().count("was set back") == told, "the state is known again"

    def test_x08_with_an_older_archive_lose_nothing(self, pair: Pair) -> None:
        """Another state directory has replicated the pair meanwhile."""
        (pair.left / "f").write_text("one")
        pair.start()
        pair.settle()
        pair.stop()
        first, pair.state = pair.state, pair.base / "other"
        for turn in ("two", "one"):
            pair.env["PSYNC_STATE_DIR"] = str(pair.state)
            pair.start()
            (pair.right / "f").write_text(turn)
            (pair.right / turn).write_text(turn)
            pair.settle()
            pair.stop()
        pair.state = first
        pair.env["PSYNC_STATE_DIR"] = str(first)
        (pair.left / "f").write_text("three")

        pair.start()
        after = {path: entry[-1] for path, entry in pair.settle().items()}
        assert after == {b"f": b"three", b"one": b"one", b"two": b"two"}
        assert "another state directory" in pair.log()

    def test_x08_with_a_new_archive_bring_nothing_back_before_it_is_recorded(
        self, breakable: Pair, sshd: Sshd
    ) -> None:
        """The link breaks when the roots are still called as another archive knows them."""
        pair = breakable
        for name in ("f", "g"):
            (pair.left / name).write_text(name)
        pair.start()
        pair.settle()
        pair.stop()
        pair.state = pair.base / "other"
        pair.env["PSYNC_STATE_DIR"] = str(pair.state)
        pair.start("--set", "sync_interval=3600", "--set", "timeout=2")
        sshd.freeze()
        (pair.left / "f").unlink()
        (pair.left / "g").rename(pair.left / "moved")
        pair.wait_for("disconnected")
        sshd.thaw()
        pair.wait_for("watching")

        assert set(pair.settle()) == {b"moved"}
        assert "set back" not in pair.log()

    @pytest.mark.parametrize("how", ["gone", "broken"])
    def test_x07_without_an_archive_delete_nothing(self, pair: Pair, how: str) -> None:
        for name in ("f", "g"):
            (pair.left / name).write_text(name)
        pair.start()
        pair.settle()
        pair.stop()
        (archive,) = pair.base.glob("**/archive.db")
        for file in archive.parent.glob("archive.db*"):
            file.unlink()
        if how == "broken":
            archive.write_bytes(b"no database" * 1000)
        (pair.right / "f").unlink()

        pair.start()
        after = pair.settle()
        assert {name: after[name][-1] for name in (b"f", b"g")} == {b"f": b"f", b"g": b"g"}
        assert pair.status()["conflicts"] == 0

    def test_x15_with_a_whole_machine_set_back_lose_nothing(self, pair: Pair) -> None:
        """The left side's, on which psync runs; the other one has gone on."""
        left, right = pair.left, pair.right
        for name in "fghi":
            (left / name).write_text(f"old {name}")
        pair.start()
        pair.settle()
        pair.stop()
        pair.shell(f"mkdir image; cp -a {left} {pair.state} image")
        pair.start()
        (right / "f").write_text("new f")
        (left / "g").write_text("new g")
        (left / "later").write_text("later")
        (right / "h").unlink()
        pair.settle()
        pair.stop()
        for path in (left, pair.state):
            shutil.rmtree(path)
            (pair.base / "image" / path.name).rename(path)
        (left / "i").write_text("edited since")

        pair.start()
        found = pair.contents()
        found.pop(b"h", None)  # or it comes back
        assert found == {
            b"f": b"new f", b"g": b"new g", b"i": b"edited since", b"later": b"later",
        }  # fmt: skip
        kept = pair.conflicts("left") + pair.conflicts("right")
        assert set(kept) <= {b"old f", b"old g", b"old i"}


class TestHosts:
    """The right side's."""

    def test_e11_an_agent_that_is_killed_before_it_can_tell_makes_no_conflict(
        self, breakable: Pair, sshd: Sshd
    ) -> None:
        """It does what it is told; what became of it waits in a pipe, and is lost."""
        pair = breakable
        sshd.through('sh -c "$SSH_ORIGINAL_COMMAND" | cat')
        for name in ("edited", "gone", "renamed"):
            (pair.left / name).write_text("e11")
        pair.start()
        pair.settle()
        pipes = [p for p in sshd.commands() if Path(f"/proc/{p}/comm").read_text() == "cat\n"]
        for pid in pipes:
            os.kill(pid, signal.SIGSTOP)
        (pair.left / "made").write_text("e11 made")
        (pair.left / "edited").write_text("e11 edited")
        (pair.left / "gone").unlink()
        (pair.left / "renamed").rename(pair.left / "new name")
        until((pair.right / "made").exists, "the new file")
        until(lambda: (pair.right / "edited").read_text() == "e11 edited", "the edit")
        until(lambda: not (pair.right / "gone").exists(), "the deletion")
        until((pair.right / "new name").exists, "the rename")
        assert pair.status()["pending"]
        (pair.left / "made").write_text("e11 made, and edited since")

        for pid in [pair.agents()[1], *pipes]:
            os.kill(pid, signal.SIGKILL)
        pair.wait_for("disconnected")
        pair.wait_for("watching")
        assert pair.contents() == {
            b"made": b"e11 made, and edited since", b"edited": b"e11 edited", b"new name": b"e11",
        }  # fmt: skip
        assert pair.status()["conflicts"] == 0

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
    def test_x06_a_power_cut_that_emptied_files_or_brought_old_ones_back_is_no_edit(
        self, breakable: Pair, sshd: Sshd
    ) -> None:
        """The kernel says that it is another boot, of just now."""
        pair = breakable
        boot, uptime = pair.base / "boot_id", pair.base / "uptime"
        boot.write_text("first\n")
        uptime.write_text("1000000.00 0.00\n")
        script = f"""mount --bind {boot} /proc/sys/kernel/random/boot_id
            mount --bind {uptime} /proc/uptime
            exec sh -c "$SSH_ORIGINAL_COMMAND\""""
        command = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", script]
        sshd.through(f"exec {shlex.join(command)}")
        for name in ("emptied", "old", "other"):
            (pair.left / name).write_text(f"x06 {name}, first")
        pair.start("--set", "sync_interval=60")
        pair.settle()
        pair.restart()  # commits
        (pair.left / "old").write_text("x06 old, second")
        pair.settle()
        before = tree(pair.left)
        old = pair.right / "old"
        sshd.stop()
        pair.wait_for("disconnected")
        old.write_text("x06 old, first")
        (pair.right / "emptied").write_text("")
        for name in ("old", "emptied"):
            os.utime(pair.right / name, ns=(10**18, 10**18))
        boot.write_text("second\n")
        uptime.write_text("0.00 0.00\n")
        sshd.restart()
        pair.wait_for("watching")

        assert pair.settle() == before
        assert b"" in pair.conflicts("right")
        assert set(pair.conflicts("right")) <= {b"", b"x06 old, first"}
        assert pair.conflicts("left") == []

    def test_s05_an_agent_that_says_that_everything_is_deleted_halts_the_session(
        self, breakable: Pair, sshd: Sshd
    ) -> None:
        """It still counts as many entries as there were."""
        pair = breakable
        flag = pair.base / "flag"
        liar = f"PYTHONPATH={CHECKOUT} {sys.executable} -m tests.e2e.liar {flag}"
        sshd.through(f'sh -c "$SSH_ORIGINAL_COMMAND" | {liar}')
        for number in range(110):
            (pair.left / f"{number}").write_text("s05")
        pair.start()
        before = pair.settle()
        flag.touch()
        os.kill(pair.agents()[1], signal.SIGKILL)

        told = pair.wait_for("halted")

        assert told["halted"].startswith("right ")
        assert "--accept-deletes" in told["halted"]
        assert tree(pair.left) == before
