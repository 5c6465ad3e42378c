"""Scenarios of the catalogue of what goes wrong (docs/FAILURES.md), by their ids."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.pair import Pair, tree, until

HOUR_NS = 3600 * 10**9


def sides(pair: Pair, side: str) -> tuple[Path, Path]:
    """A side's root, and the other one."""
    return (pair.left, pair.right) if side == "left" else (pair.right, pair.left)


@contextmanager
def unheard(pair: Pair) -> Iterator[None]:
    """Let both sides do something before either is replicated."""
    assert pair.psync("pause").returncode == 0
    yield
    assert pair.psync("resume").returncode == 0


def texts(pair: Pair) -> list[bytes]:
    """What all files say, once both sides are equal, and all that lost a conflict."""
    files = [entry[-1] for entry in pair.settle().values() if entry[0] == "file"]
    return files + pair.conflicts("left") + pair.conflicts("right")


@pytest.mark.parametrize("side", ["left", "right"])
class TestRenames:
    def test_c07_of_equal_files_over_each_other_keep_the_text(
        self, watching: Pair, side: str
    ) -> None:
        here, there = sides(watching, side)
        for name in ("a", "b"):
            (here / name).write_text("c07")
        watching.settle()
        with unheard(watching):
            (here / "a").rename(here / "b")
            (there / "b").rename(there / "a")

        assert b"c07" in texts(watching)

    def test_c08_to_a_name_that_is_new_over_there_keep_both(
        self, watching: Pair, side: str
    ) -> None:
        here, there = sides(watching, side)
        (here / "a").write_text(f"c08 renamed {side}")
        watching.settle()
        with unheard(watching):
            (here / "a").rename(here / "b")
            (there / "b").write_text(f"c08 made {side}")

        found = texts(watching)
        assert {f"c08 renamed {side}".encode(), f"c08 made {side}".encode()} <= set(found)
        assert b"a" not in watching.settle()

    def test_c09_of_a_directory_keep_what_is_made_in_it_over_there(
        self, watching: Pair, side: str
    ) -> None:
        here, there = sides(watching, side)
        (here / "d").mkdir()
        (here / "d/f").write_text("c09")
        watching.settle()
        with unheard(watching):
            (here / "d").rename(here / "e")
            (there / "d/x").write_text("c09 new")

        after = watching.settle()
        assert [after[p][-1] for p in (b"e/x", b"d/x") if p in after] == [b"c09 new"]
        assert after[b"e/f"][-1] == b"c09"

    def test_c10_of_a_directory_to_two_names_lose_nothing(self, watching: Pair, side: str) -> None:
        here, there = sides(watching, side)
        (here / "d/sub").mkdir(parents=True)
        for i in range(10):
            (here / f"d/sub/{i}").write_text(f"c10 {i}")
        watching.settle()
        with unheard(watching):
            (here / "d").rename(here / "e")
            (there / "d").rename(there / "f")

        assert {b"c10 %d" % i for i in range(10)} <= set(texts(watching))


@pytest.mark.parametrize("side", ["left", "right"])
class TestWriters:
    def test_c19_a_directory_becomes_a_link_to_another(self, watching: Pair, side: str) -> None:
        here = watching.root(side)
        for name in ("d", "behind"):
            (here / name).mkdir()
            (here / name / "f").write_text(f"c19 {name}")
        watching.settle()
        shutil.rmtree(here / "d")
        (here / "d").symlink_to("behind")

        after = watching.settle()
        assert after[b"d"][:2] == ("link", b"behind")
        assert after[b"behind/f"][-1] == b"c19 behind"

    def test_w04_two_saves_of_one_length_in_a_moment(self, watching: Pair, side: str) -> None:
        here = watching.root(side)
        for number in range(100):
            for half in "ab":
                (here / "f.new").write_text(f"w04 {number:03} {half}")
                (here / "f.new").rename(here / "f")

        assert watching.settle()[b"f"][-1] == b"w04 099 b"

    def test_n13_names_that_look_alike(self, watching: Pair, side: str) -> None:
        here = os.fsencode(watching.root(side))
        twins = {"\u00e9".encode(): b"composed", "e\u0301".encode(): b"apart"}
        for name, text in twins.items():
            with open(here + b"/" + name, "wb") as file:
                file.write(text)

        after = watching.settle()
        assert {name: after[name][-1] for name in twins} == twins

    def test_r08_an_old_tree_is_restored_over_a_newer_one(self, watching: Pair, side: str) -> None:
        here, old = watching.root(side), watching.base / f"old-{side}"
        (here / "d").mkdir()
        old.mkdir()
        for i in range(10):
            (here / f"d/{i}").write_text(f"r08 {i} new")
            (old / f"{i}").write_text(f"r08 {i} old")
            os.utime(old / f"{i}", ns=(10**18, 10**18 + i))
        watching.settle()
        lost = watching.status()["conflicts"]
        watching.shell(f"cp -a {old}/. {here}/d/")

        after = watching.settle()
        assert [after[b"d/%d" % i][-1] for i in range(10)] == [b"r08 %d old" % i for i in range(10)]
        assert (here / "d/3").stat().st_mtime_ns == 10**18 + 3
        assert watching.status()["conflicts"] == lost

    def test_x14_edits_in_turn_whatever_the_clocks_say(self, watching: Pair, side: str) -> None:
        lost = watching.status()["conflicts"]
        for turn, root in enumerate(sides(watching, side) * 3):
            (root / "f").write_text(f"x14 {turn}")
            moment = time.time_ns() + (-1) ** turn * turn * HOUR_NS
            os.utime(root / "f", ns=(moment, moment))
            assert watching.settle()[b"f"][-1] == b"x14 %d" % turn

        assert watching.status()["conflicts"] == lost


class TestOverflow:
    @pytest.mark.parametrize("side", ["left", "right"])
    def test_e02_between_the_halves_of_a_rename_is_no_deletion(
        self, watching: Pair, side: str
    ) -> None:
        here, there = sides(watching, side)
        queue = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
        if queue > 100_000:
            pytest.skip("the queue is too long for a quick test")
        fillers = [here / "filler", here / "filler2"]
        for path in [*fillers, here / "d/f"]:
            path.parent.mkdir(exist_ok=True)
            path.write_text(path.name)
        watching.settle()
        inode = (there / "d/f").stat().st_ino
        agent = watching.agents()[side == "right"]
        (cinotify,) = Path(f"/proc/{agent}/task/{agent}/children").read_text().split()
        os.kill(int(cinotify), signal.SIGSTOP)
        try:
            for number in range(queue - 1):  # only one more fits
                fillers[number % 2].chmod(0o600)
            (here / "d").rename(here / "e")
        finally:
            os.kill(int(cinotify), signal.SIGCONT)

        assert set(watching.settle()) == {b"filler", b"filler2", b"e", b"e/f"}
        assert (there / "e/f").stat().st_ino == inode


class TestStarts:
    @pytest.mark.parametrize("side", ["left", "right"])
    def test_x16_with_a_root_set_back_to_a_snapshot_lose_nothing(
        self, pair: Pair, side: str
    ) -> None:
        here, there = sides(pair, side)
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


@pytest.mark.parametrize("side", ["left", "right"])
class TestPrograms:
    def test_w06_that_have_a_database_open_do_not_give_half_of_it(
        self, pair: Pair, side: str
    ) -> None:
        """The other side has the state before, whole; then the one after, whole."""
        here, there = sides(pair, side)
        with sqlite3.connect(here / "data") as made:
            made.execute("CREATE TABLE t (n)")
            made.execute("INSERT INTO t VALUES (0)")
        made.close()
        pair.start("--set", "max_delay=0.3")
        before = pair.settle()[b"data"]
        database = sqlite3.connect(here / "data", isolation_level=None)
        database.execute("PRAGMA journal_mode = WAL")
        for number in range(1, 300):
            database.execute("INSERT INTO t VALUES (?)", (number,))

        told = until(lambda: pair.status()["problem_list"], "a problem")

        assert "database open" in told[0]["message"]
        assert tree(there)[b"data"] == before
        assert set(tree(there)) == {b"data"}
        database.close()
        assert set(pair.settle()) == {b"data"}
        with sqlite3.connect(there / "data") as copy:
            assert copy.execute("SELECT count(*) FROM t").fetchone() == (300,)
            assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        copy.close()
