"""Disks that are full, fail, lose their power or go away; ids as in docs/FAILURES.md."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3

import pytest

from tests.e2e.disks import Disk, disk, fuse, memory, resize
from tests.e2e.pair import SIDES, Pair, tree, until
from tests.sshd import children

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")


def power_cut(pair: Pair, broken: Disk, kept: str) -> None:
    """Everything ends at once, and a disk has only what it was made to write."""
    pids = pair.agents()
    pair.kill()
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    broken.cut(kept)
    broken.unmount()
    broken.mount()


class TestPower:
    @pytest.mark.parametrize("kept", ["nothing", "names"])
    @pytest.mark.parametrize("side", SIDES)
    @pytest.mark.parametrize("kind", ["ext4", "xfs"])
    def test_x03_x04_x05_that_is_cut_loses_nothing(
        self, pair: Pair, side: str, kept: str, kind: str
    ) -> None:
        """What one side has lost comes again from the other, and nothing old wins.

        Whether psync had put it there (X03, X04) or a user (X05).

        The host goes on, as with a disk that is not in it.
        """
        here, there = pair.sides(side)
        with disk(pair.base / "disk", here, kind, mib=320 if kind == "xfs" else 64) as broken:
            pair.start("--set", "sync_interval=60")
            (there / "d").mkdir()
            for number in range(20):
                (there / f"d/{number}").write_text(f"old {number}")
            (there / "large").write_bytes(b"old" * 300_000)
            pair.settle()
            pair.restart()  # commits
            for number in range(0, 20, 2):
                (there / f"d/{number}").write_text(f"newer {number}")
            (there / "large").write_bytes(b"new" * 300_000)
            (there / "d/1").rename(there / "moved")
            (there / "d/3").unlink()
            (there / "fresh").write_text("fresh")
            (here / "d/5").write_text("published")
            (here / "made").write_text("published")
            (here / "d/7").unlink()
            expected = pair.settle()

            power_cut(pair, broken, kept)
            pair.start()

            found = pair.settle()
            assert {p: e[-1] for p, e in found.items() if e[0] == "file"} == {
                p: e[-1] for p, e in expected.items() if e[0] == "file"
            }
            until(lambda: not pair.leftovers(), "empty staging")
            pair.stop()

    @pytest.mark.parametrize(("side", "kept"), [("left", "names"), ("right", "nothing")])
    def test_a07_a_disk_that_fails_halts_and_is_not_believed(
        self, pair: Pair, side: str, kept: str
    ) -> None:
        here, there = pair.sides(side)
        with disk(pair.base / "disk", here) as broken:
            pair.start("--set", "sync_interval=1")
            (there / "f").write_text("old")
            pair.settle()
            pair.restart()
            (there / "f").write_text("newer")
            (there / "g").write_text("new")
            pair.settle()
            broken.cut(kept)

            told = pair.wait_for("halted")

            assert "psync resume" in told["halted"]
            broken.unmount()
            broken.mount()
            assert pair.psync("resume").returncode == 0
            pair.wait_for("watching")
            found = pair.settle()
            assert (found[b"f"][-1], found[b"g"][-1]) == (b"newer", b"new")
            pair.stop()


@pytest.mark.parametrize("side", SIDES)
class TestAway:
    def test_r01_a_disk_that_is_not_mounted_at_the_start_deletes_nothing(
        self, pair: Pair, side: str
    ) -> None:
        """The path shows the empty directory that the disk was mounted at."""
        here, there = pair.sides(side)
        with disk(pair.base / "disk", here) as absent:
            (there / "precious").write_text("precious")
            pair.start()
            pair.settle()
            pair.stop()
            absent.unmount()

            pair.launch()
            pair.wait_for("halted")

            assert os.listdir(here) == []
            assert set(tree(there)) == {b"precious"}
            absent.mount()
            assert pair.psync("resume").returncode == 0
            pair.wait_for("watching")
            assert set(pair.settle()) == {b"precious"}
            pair.stop()

    def test_r02_a_disk_that_is_taken_away_lazily_deletes_nothing(
        self, pair: Pair, side: str
    ) -> None:
        """Nothing tells of it: the descriptors that are open still show the old tree."""
        here, there = pair.sides(side)
        with disk(pair.base / "disk", here) as taken:
            (there / "precious").write_text("precious")
            pair.start()
            pair.settle()
            taken.unmount(lazily=True)
            (there / "new").write_text("new")

            pair.wait_for("halted")

            assert os.listdir(here) == []
            assert set(tree(there)) == {b"precious", b"new"}
            taken.mount()
            assert pair.psync("resume").returncode == 0
            pair.wait_for("watching")
            assert set(pair.settle()) == {b"precious", b"new"}
            pair.stop()


@pytest.mark.parametrize("side", ["left", "right"])
class TestFuse:
    def test_e09_is_polled_and_says_so(self, pair: Pair, side: str) -> None:
        here, there = pair.sides(side)
        with fuse("fuse-overlayfs", here, pair.base / "behind"):
            (here / "first").write_text("first")
            pair.start("--set", "poll_interval=0.5")
            (here / "through").write_text("through")
            (there / "f").write_text("one")
            assert set(pair.settle()) == {b"first", b"through", b"f"}
            (there / "f").write_text("two")
            (there / "first").rename(there / "second")
            after = pair.settle()
            assert set(after) == {b"second", b"through", b"f"}
            assert after[b"f"][-1] == b"two"
            (told,) = pair.status()["problem_list"]
            assert "they are looked for every 0.5 s" in told["message"]
            pair.stop()

    def test_e09_that_cannot_exchange_names_is_refused(self, pair: Pair, side: str) -> None:
        with fuse("bindfs", pair.root(side), pair.base / "behind"):
            process = pair.launch()

            assert process.wait(60) == 2
            (line,) = [each for each in pair.output().splitlines() if "exchange" in each]
            assert str(pair.root(side)) in line


@pytest.mark.parametrize("side", SIDES)
class TestSpoilt:
    def test_a02_a_directory_whose_listing_breaks_off_deletes_nothing(
        self, pair: Pair, side: str
    ) -> None:
        """The kernel gives most of the names, and then says that it cannot go on."""
        here, there = pair.sides(side)
        with disk(pair.base / "disk", here) as broken:
            (here / "d").mkdir()
            for number in range(300):
                (here / f"d/{number:0>100}").write_text("a02")
            pair.start()
            before = pair.settle()
            pair.stop()
            last = os.listdir(here / "d")[-1]
            broken.unmount()
            broken.spoil(os.fsencode(last))
            broken.mount()
            with pytest.raises(OSError, match="Bad message"):
                os.listdir(here / "d")

            pair.launch()
            (there / "new").write_text("a02")
            pair.wait_for("watching")

            told = until(lambda: pair.status()["problem_list"], "a problem")
            assert [problem["path"] for problem in told] == ["d"]
            until((here / "new").exists, "the rest")
            assert before.items() <= tree(there).items()
            pair.stop()


class TestFull:
    @pytest.mark.parametrize("side", SIDES)
    def test_a05_a_replica_goes_on_when_there_is_room_again(self, pair: Pair, side: str) -> None:
        here, there = pair.sides(side)
        with memory(here, "2m"):
            (there / "first").write_text("first")
            pair.start()
            before = pair.settle()
            (there / "inline").write_bytes(b"i" * 200_000)
            (there / "large").write_bytes(b"l" * 8_000_000)
            (there / "first").write_text("edited")
            until(lambda: "no room: 8,000,000 bytes are to come" in str(pair.status()), "a problem")

            assert tree(here).keys() >= before.keys()
            assert not (here / "large").exists()
            resize(here, "64m")
            found = pair.settle()
            assert found[b"large"][-1] == b"l" * 8_000_000
            assert found[b"first"][-1] == b"edited"
            until(lambda: not pair.leftovers(), "empty staging")
            pair.stop()

    @pytest.mark.parametrize("side", SIDES)
    @pytest.mark.parametrize("room", ["2m,nr_inodes=1", "2m,nr_inodes=5", "4k"])
    def test_a_replica_begins_when_there_is_room(self, local: Pair, side: str, room: str) -> None:
        """What is psync's own cannot be made in it, or not all of that."""
        here, there = local.sides(side)
        with memory(here, room):
            with contextlib.suppress(OSError):
                (here / "ballast.psync.ignore").write_bytes(b"b" * 4096)
            (there / "f").write_text("text")
            pid = local.launch().pid
            agents: set[int] = set()

            def tried() -> bool:
                agents.update(children(pid))
                return len(agents) > 6

            until(tried, "more tries")

            assert "make room, or free inodes" in local.status()[here.name]["trouble"]
            assert local.output().count("trying again") == 1
            resize(here, "2m,nr_inodes=0")
            assert set(local.settle()) == {b"f"}
            assert local.status()[here.name]["trouble"] == ""
            assert local.stop() == 0

    @pytest.mark.parametrize("inodes", [1, 4, 7])
    def test_a_state_directory_without_inodes_ends_a_start(self, local: Pair, inodes: int) -> None:
        with memory(local.state, f"2m,nr_inodes={inodes}"):
            assert local.launch().wait(60) == 2

        (line,) = local.output().splitlines()
        assert str(local.state) in line
        assert "No space left on device" in line or "a free inode (df -i)?" in line

    def test_what_a_full_replica_cannot_vouch_for_stays_out_of_the_archive(
        self, pair: Pair
    ) -> None:
        """There is no room to name the state that is durable: the older one counts."""
        with memory(pair.right, "2m"):
            (pair.left / "old").write_text("text")
            pair.start("--set", "sync_interval=0.2")
            pair.settle()
            pair.restart()  # commits
            ballast = pair.right / "ballast.psync.ignore"
            with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as stream:
                while True:
                    stream.write(b"b" * 4096)
            (pair.left / "old").rename(pair.left / "new")
            assert set(pair.settle()) == {b"new"}

            until(lambda: "archive.delayed" in pair.log(), "a commit that is put off")

            pair.kill()
            (archive,) = pair.state.glob("sessions/*/archive.db")
            with contextlib.closing(sqlite3.connect(archive)) as rows:
                names = [name for (name,) in rows.execute("SELECT name FROM entry")]
            assert names == [b"old"]
            ballast.unlink()
            pair.start()
            assert set(pair.settle()) == {b"new"}
            assert pair.status()["conflicts"] == 0
            pair.stop()

    def test_a06_the_state_directory_goes_on_when_there_is_room_again(self, pair: Pair) -> None:
        """Nothing is replicated that cannot be written down, and nothing is missed."""
        with memory(pair.state, "2m"):
            (pair.left / "f").write_text("old")
            pair.start("--set", "sync_interval=1")
            pair.settle()
            ballast = pair.state / "ballast"
            with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as stream:
                while True:
                    stream.write(b"b" * 4096)
            (pair.left / "f").write_text("edited")
            (pair.right / "g").write_text("new")
            for number in range(500):  # more than fits into what is left of the last blocks
                (pair.left / f"{number:0>200}").write_text("many")

            told = until(lambda: pair.status().get("trouble"), "trouble")

            assert "cannot" in told
            assert pair.process is not None
            assert pair.process.poll() is None
            refused = pair.psync("flush", "--timeout", "0.2")
            assert (refused.returncode, told in refused.stderr) == (1, True), refused.stderr
            (pair.left / "h").write_text("while full")
            ballast.unlink()
            found = pair.settle()
            assert [found[name][-1] for name in (b"f", b"g", b"h")] == [
                b"edited", b"new", b"while full",
            ]  # fmt: skip
            assert pair.status()["trouble"] == ""
            assert pair.stop() == 0
