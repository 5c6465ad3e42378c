"""How programs save their files, and what they leave beside them; ids as in docs/FAILURES.md."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import threading

import pytest
from inotify_simple import INotify, flags

from tests.e2e.pair import SIDES, WAIT_S, Pair, tree, until


@pytest.mark.parametrize("side", SIDES)
class TestEditors:
    def test_w03_emacs_locks_backs_up_and_saves(self, watching: Pair, side: str) -> None:
        here, there = watching.sides(side)
        (here / "notes").write_text("w03 first")
        watching.settle()
        (here / ".#notes").symlink_to("user@host.1234:1700000000")
        (here / "notes").rename(here / "notes~")
        (here / "notes").write_text("w03 second")
        watching.flush()

        assert tree(there).keys() == {b"notes", b"notes~"}
        (here / ".#notes").unlink()
        assert watching.contents() == {b"notes": b"w03 second", b"notes~": b"w03 first"}
        assert watching.status()["problems"] == 0

    def test_w04_two_saves_of_one_length_in_a_moment(self, watching: Pair, side: str) -> None:
        here = watching.root(side)
        for number in range(100):
            for half in "ab":
                (here / "f.new").write_text(f"w04 {number:03} {half}")
                (here / "f.new").rename(here / "f")

        assert watching.settle()[b"f"][-1] == b"w04 099 b"

    @pytest.mark.parametrize(
        ("lock", "new", "old"),
        [
            pytest.param(".~lock.doc.odt#", "lu1234.tmp", "", id="LibreOffice"),
            pytest.param("~$doc.odt", "A1B2C3D4.tmp", "E5F60718.tmp", id="MS Office"),
        ],
    )
    def test_w05_an_office_program_saves_by_way_of_other_names(
        self, watching: Pair, side: str, lock: str, new: str, old: str
    ) -> None:
        here, there = watching.sides(side)
        (here / "doc.odt").write_text("w05 first")
        watching.settle()
        names = INotify()
        names.add_watch(there, flags.CREATE | flags.MOVED_TO)
        (here / lock).write_text("user, host")
        watching.flush()
        (here / new).write_text("w05 second")
        if old:
            (here / "doc.odt").rename(here / old)
        (here / new).rename(here / "doc.odt")
        if old:
            (here / old).unlink()
        (here / lock).unlink()

        assert watching.contents() == {b"doc.odt": b"w05 second"}
        seen = [event.name for event in names.read(timeout=0)]
        names.close()
        assert "doc.odt" in seen
        assert lock not in seen
        told = watching.status()
        assert (told["problems"], told["conflicts"]) == (0, 0)


@pytest.mark.parametrize("side", SIDES)
class TestPrograms:
    def test_w06_that_have_a_database_open_do_not_give_half_of_it(
        self, pair: Pair, side: str
    ) -> None:
        """The other side has the state before, whole; then the one after, whole."""
        here, there = pair.sides(side)
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

    @pytest.mark.parametrize("size", [10, 300_000])
    def test_w11_that_put_the_time_back_are_noticed(
        self, watching: Pair, side: str, size: int
    ) -> None:
        file = watching.root(side) / "f"
        file.write_bytes(b"1" * size)
        for text in (b"2", b"3"):
            watching.settle()
            before = file.stat()
            file.write_bytes(text * size)
            os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))

        assert watching.contents() == {b"f": b"3" * size}

    def test_w12_that_truncate_by_name_are_noticed(self, watching: Pair, side: str) -> None:
        here = watching.root(side)
        (here / "f").write_text("w12 a long text")
        watching.settle()
        os.truncate(here / "f", 3)

        assert watching.contents() == {b"f": b"w12"}

    def test_w15_that_save_all_the_time_hold_up_nobody(self, watching: Pair, side: str) -> None:
        here, there = watching.sides(side)
        stop = threading.Event()
        saved = [0]
        (here / "busy").write_text("0")

        def save() -> None:
            while not stop.wait(0.05):
                (here / "busy").write_text(f"{saved[0] + 1}")
                saved[0] += 1

        def is_there(version: int) -> bool:
            return int((there / "busy").read_bytes() or -1) >= version

        writer = threading.Thread(target=save)
        writer.start()
        try:
            for number in range(5):
                until(lambda number=number: saved[0] > 2 * number, "another save")
                (here / f"{number}").write_text("beside")
                (there / f"back {number}").write_text("beside")
                before = saved[0]
                watching.flush()
                assert (there / f"{number}").exists()
                assert (here / f"back {number}").exists()
                until(lambda before=before: is_there(before), "a version no older than that")
        finally:
            stop.set()
            writer.join()

        assert watching.contents()[b"busy"] == b"%d" % saved[0]
        assert watching.status()["conflicts"] == 0

    def test_w18_that_save_in_turn_are_all_noticed(self, watching: Pair, side: str) -> None:
        script = "n=0; while [ $n -lt 50 ]; do n=$((n + 1)); echo $0 $n >f; done"
        for turn in range(3):
            both = [
                subprocess.Popen(["sh", "-c", script, f"{turn}{who}"], cwd=watching.root(side))
                for who in "ab"
            ]
            assert [each.wait(WAIT_S) for each in both] == [0, 0]
            last = (watching.root(side) / "f").read_bytes()

            assert watching.contents() == {b"f": last}
            assert last in (b"%da 50\n" % turn, b"%db 50\n" % turn)

    def test_w19_that_put_an_old_copy_back_are_believed(self, watching: Pair, side: str) -> None:
        here = watching.root(side)
        backup = watching.base / "backup"
        backup.write_text("w19 old")
        os.utime(backup, ns=(10**18, 10**18))
        (here / "f").write_text("w19 newer")
        watching.settle()
        watching.shell(f"cp -p {backup} {here}/f")

        (found,) = watching.settle().values()
        assert (found[-1], found[4]) == (b"w19 old", 10**18)
        assert watching.status()["conflicts"] == 0
