"""Every kind of change, in both directions, while the other side is used too (issue 2, point 1)."""

from __future__ import annotations

import json
import os
import shutil
from typing import Any

import pytest

from tests.e2e.changes import CHANGES, fill
from tests.e2e.pair import SIDES, Pair, tree, until


class TestOneChange:
    @pytest.mark.parametrize("side", SIDES)
    def test_every_kind_reaches_the_other_side(self, watching: Pair, side: str) -> None:
        self.change_everything(watching, side)

    def test_every_kind_does_so_without_echo_suppression(self, pair: Pair) -> None:
        pair.options = ["--set", "suppress_echoes=false"]
        pair.start()

        self.change_everything(pair, "left")

    def change_everything(self, watching: Pair, side: str) -> None:
        root = watching.root(side)
        other = watching.root("right" if side == "left" else "left")
        for name, change in CHANGES.items():
            for child in root.iterdir():
                if child.name != ".psync":
                    shutil.rmtree(child) if child.is_dir() and not child.is_symlink() else (
                        child.unlink()
                    )
            fill(root)
            watching.settle()
            change(root)
            before = tree(root)
            (other / "meanwhile").write_text(name)  # the other side is used, too

            after = watching.settle()

            assert {k: v for k, v in after.items() if k != b"meanwhile"} == before, name
            assert (root / "meanwhile").read_text() == name
        assert watching.status()["conflicts"] == 0


class TestBothSides:
    def test_unrelated_changes_meet(self, watching: Pair) -> None:
        fill(watching.left)
        watching.settle()
        for i in range(100):
            (watching.left / f"l{i}").write_text(f"left {i}")
            (watching.right / f"r{i}").write_text(f"right {i}")
            if i % 10 == 0:
                (watching.left / f"dir{i}/sub").mkdir(parents=True)
                (watching.right / f"docs/{i}").mkdir()

        after = watching.settle()

        assert sum(path.startswith((b"l", b"r")) for path in after) == 200
        assert watching.status()["conflicts"] == 0

    def test_rename_here_and_edit_there_both_count(self, watching: Pair) -> None:
        fill(watching.left)
        watching.settle()
        watching.psync("pause")
        os.rename(watching.left / "docs", watching.left / "papers")
        (watching.right / "docs/report.txt").write_text("edited on the right")
        watching.psync("resume")

        after = watching.settle()

        texts = [v[-1] for v in after.values() if v[0] == "file"]
        assert b"edited on the right" in texts
        assert b"notes" in texts

    @pytest.mark.parametrize("side", SIDES)
    def test_c04_directory_deleted_here_lives_on_with_what_is_new_there(
        self, watching: Pair, side: str
    ) -> None:
        here, there = watching.sides(side)
        fill(here)
        watching.settle()
        with watching.unheard():
            shutil.rmtree(here / "docs")
            (there / "docs/old/new").write_text("new")

        after = watching.settle()

        assert set(after) == {b"keep", b"empty", b"docs", b"docs/old", b"docs/old/new"}

    @pytest.mark.parametrize("side", SIDES)
    def test_c01_conflict_keeps_the_loser(self, watching: Pair, side: str) -> None:
        here, there = watching.sides(side)
        fill(here)
        watching.settle()
        with watching.unheard():
            (here / "keep").write_text("older")
            os.utime(here / "keep", ns=(10**18, 10**18))
            (there / "keep").write_text("newer")

        after = watching.settle()

        assert after[b"keep"][-1] == b"newer"
        assert watching.conflicts(side) == [b"older"]
        assert watching.status()["conflicts"] == 1


def _rival(pair: Pair, path: str, newer: str = "right") -> None:
    """Let both sides change a file, of which one is newer."""
    pair.psync("pause")
    for name in SIDES:
        file = pair.root(name) / path
        file.write_text(f"{name}\n")
        os.utime(file, ns=(10**18, 10**18 + (name == newer)))
    pair.psync("resume")


class TestPolicy:
    @pytest.mark.parametrize("favoured", SIDES)
    def test_lets_a_side_win(self, pair: Pair, favoured: str) -> None:
        other = "right" if favoured == "left" else "left"
        pair.start("--set", f"conflict={favoured}")
        (pair.left / "f").write_text("first")
        pair.settle()
        _rival(pair, "f", newer=other)
        _rival(pair, "new", newer=other)

        after = pair.settle()

        assert [after[name][-1] for name in (b"f", b"new")] == [f"{favoured}\n".encode()] * 2
        assert pair.conflicts(other) == [f"{other}\n".encode()] * 2
        assert pair.status()["conflicts"] == 2

    @pytest.mark.parametrize("newer", SIDES)
    def test_c25_keeps_both_versions_on_both_sides(self, pair: Pair, newer: str) -> None:
        other = "right" if newer == "left" else "left"
        names = ["f.txt", "\udcff\n" + "x" * 253, "\u00e9" * 127, ".hidden"]
        pair.start("--set", "conflict=keep-both")
        for number, name in enumerate(names):
            (pair.left / str(number)).mkdir()
            (pair.left / str(number) / name).write_text("first")
        pair.settle()
        for number, name in enumerate(names):
            _rival(pair, f"{number}/{name}", newer=newer)

        after = pair.settle()

        for number, name in enumerate(names):
            path = os.fsencode(f"{number}/{name}")
            here = {p: v[-1] for p, v in after.items() if p.startswith(b"%d/" % number)}
            assert here.pop(path) == f"{newer}\n".encode()
            ((beside, found),) = here.items()
            assert found == f"{other}\n".encode()
            assert f".conflict-{other.upper()}-".encode() in beside
            assert number == 1 or beside.decode(), "not cut within a character"
        assert pair.conflicts(other) == []
        assert pair.status()["conflicts"] == 0
        pair.restart()
        assert pair.settle() == after

    def test_asks_and_leaves_both_versions_where_they_are(self, pair: Pair) -> None:
        pair.start("--set", "conflict=ask")
        (pair.left / "f").write_text("first")
        pair.settle()
        _rival(pair, "f")
        _rival(pair, "new\n")
        self._assert_asked(pair, "f", "new\\n")

        pair.stop()
        pair.launch("--set", "conflict=ask")
        pair.wait_for("watching")
        self._assert_asked(pair, "f", "new\\n")
        shown = pair.psync("conflicts", "--diff", "f").stdout.splitlines()
        assert shown[:2] + shown[-2:] == ["--- f (left)", "+++ f (right)", "-left", "+right"]

        (pair.left / "other").write_text("goes on")
        assert pair.psync("conflicts", "--take", "left", "f").returncode == 0
        self._assert_asked(pair, "new\\n")
        assert (pair.right / "other").read_text() == "goes on"
        assert pair.psync("conflicts", "--take", "right", "new\\n").returncode == 0

        after = pair.settle()
        assert (after[b"f"][-1], after[b"new\n"][-1]) == (b"left\n", b"right\n")
        assert (pair.conflicts("left"), pair.conflicts("right")) == ([b"left\n"], [b"right\n"])
        again = pair.psync("conflicts", "--take", "left", "f")
        assert again.returncode == 1
        assert "f: no conflict there waits for a word" in again.stderr

    def _assert_asked(self, pair: Pair, *paths: str) -> None:
        """What a person is asked about is shown, and keeps nobody waiting."""
        flush = pair.psync("flush", "--timeout", "30")
        assert flush.returncode == 1
        assert flush.stderr.count("\n") == 1
        assert all(
            f"{path}: both sides changed it: psync conflicts" in flush.stderr for path in paths
        )
        told = pair.status()
        assert (told["conflict_list"], told["pending"]) == (list(paths), 0)
        listed = json.loads(pair.psync("conflicts", "--json").stdout)["conflicts"]
        assert [v["path"] for v in listed if v["reason"] == "ask"] == list(paths)
        for path in paths:
            for side in SIDES:
                name = path.replace("\\n", "\n")
                assert (pair.root(side) / name).read_text() == f"{side}\n"

    @pytest.mark.parametrize("directory", SIDES)
    def test_asks_about_a_directory_and_leaves_all_that_is_in_it(
        self, pair: Pair, directory: str
    ) -> None:
        other = "right" if directory == "left" else "left"
        (pair.root(directory) / "p/d").mkdir(parents=True)
        (pair.root(directory) / "p/d/x").write_text("inside")
        (pair.root(other) / "p").write_text("a file")
        remote = ["-r", pair.host] if pair.host else []
        run = pair.psync("sync", "--set", "conflict=ask", *remote, str(pair.left), str(pair.right))

        assert run.returncode == 2
        assert "p: both sides changed it" in run.stderr
        assert (pair.root(other) / "p").read_text() == "a file"
        pair.launch("--set", "conflict=ask")
        pair.wait_for("watching")
        assert "p: both sides changed it" in pair.psync("flush").stderr
        refused = pair.psync("conflicts", "--take", other, "p")
        assert refused.returncode == 1
        assert f"on the {directory} it is a directory" in refused.stderr
        assert pair.psync("conflicts", "--take", directory, "p").returncode == 0
        assert pair.settle()[b"p/d/x"][-1] == b"inside"
        assert pair.conflicts(other) == [b"a file"]

    def test_that_does_not_exist_is_refused(self, pair: Pair) -> None:
        run = pair.psync("run", "--set", "conflict=oldest", str(pair.left), str(pair.right))

        assert run.returncode == 2
        assert run.stderr.count("\n") == 1
        assert "conflict: Invalid enum value 'oldest'; there are: newest" in run.stderr


class TestConflicts:
    @pytest.fixture(params=["left", "right"])
    def side(self, request: pytest.FixtureRequest) -> str:
        """Where the loser is."""
        return str(request.param)

    @pytest.fixture
    def kept(self, watching: Pair, side: str) -> str:
        """A version that has lost, by its name."""
        for root, text in ((watching.left, "left\n"), (watching.right, "right\n")):
            (root / "f").write_text(text)
        watching.psync("pause")
        for name in ("left", "right"):
            file = watching.root(name) / "f"
            file.write_text(f"{name} {'lost' if name == side else 'won'}\n")
            os.utime(file, ns=(10**18, 10**18 + (name != side)))
        watching.psync("resume")
        assert watching.settle()[b"f"][-1].endswith(b"won\n")
        (version,) = self.listed(watching, "lost")
        assert version["side"] == side
        assert version["path"] == "f"
        assert version["reason"] == "conflict"
        return str(version["kept"])

    def listed(self, watching: Pair, text: str = "") -> list[dict[str, Any]]:
        """What is kept of which the text contains something."""
        found = json.loads(watching.psync("conflicts", "--json").stdout)["conflicts"]
        return [v for v in found if text in watching.psync("conflicts", "--show", v["kept"]).stdout]

    def test_are_compared(self, watching: Pair, side: str, kept: str) -> None:
        other = "right" if side == "left" else "left"
        shown = watching.psync("conflicts", "--diff", kept)

        assert shown.stdout.splitlines()[-2:] == [f"-{side} lost", f"+{other} won"]
        assert f"{side}  f  {kept}  conflict" in watching.psync("conflicts").stdout

    def test_of_a_session_that_does_not_run_are_listed_where_they_are_on_this_host(
        self, watching: Pair, side: str, kept: str
    ) -> None:
        (session,) = (watching.state / "sessions").iterdir()
        running = watching.psync("conflicts", session.name).stdout
        watching.stop()
        before = tree(watching.left / ".psync"), tree(watching.right / ".psync")

        listed = watching.psync("conflicts", session.name)

        assert listed.returncode == 0
        if watching.host is None or side == "left":
            assert [line for line in listed.stdout.splitlines() if kept in line] == [
                line for line in running.splitlines() if kept in line
            ]
        if watching.host is not None:
            place = f"{watching.right}/.psync/conflicts on {watching.host}"
            told = f"right  not listed while its session does not run: it is in {place}\n"
            assert told in listed.stdout
        assert watching.psync("trash", session.name).returncode == 0
        assert (tree(watching.left / ".psync"), tree(watching.right / ".psync")) == before
        refused = watching.psync("conflicts", session.name, "--drop", kept)
        assert refused.returncode == 2
        assert "is not running" in refused.stderr

    def test_are_restored_on_both_sides(self, watching: Pair, side: str, kept: str) -> None:
        assert watching.psync("conflicts", "--restore", kept).returncode == 0

        assert watching.settle()[b"f"][-1] == f"{side} lost\n".encode()
        (version,) = self.listed(watching, "won")
        assert (version["kept"], version["reason"]) == (kept, "replaced")
        assert watching.psync("conflicts", "--restore", kept, "--to", "g").returncode == 0
        assert watching.settle()[b"g"][-1].endswith(b"won\n")
        assert self.listed(watching, "won") == []

    def test_are_dropped(self, watching: Pair, side: str, kept: str) -> None:
        before = watching.status()["conflicts"]
        assert watching.psync("conflicts", "--drop", kept).returncode == 0

        assert self.listed(watching, "lost") == []
        assert watching.status()["conflicts"] == before - 1
        again = watching.psync("conflicts", "--drop", kept)
        assert again.returncode == 1
        assert again.stderr.count("\n") == 1
        assert "is no version that is kept" in again.stderr
        watching.restart()
        assert watching.status()["conflicts"] == before - 1

    def test_are_not_compared_with_what_is_gone(self, watching: Pair, side: str, kept: str) -> None:
        watching.shell(f"rm {watching.root(side)}/f")
        watching.settle()
        refused = watching.psync("conflicts", "--diff", kept)

        assert refused.returncode == 1
        assert "there is no file at f now" in refused.stderr

    def test_are_put_nowhere_else(self, watching: Pair, side: str, kept: str) -> None:
        for path in ("../out", "/out", ".psync/marker"):
            refused = watching.psync("conflicts", "--restore", kept, "--to", path)
            assert refused.returncode == 1
            assert "nothing can be restored to" in refused.stderr
        assert len(self.listed(watching, "lost")) == 1


class TestTrash:
    @pytest.fixture
    def side(self) -> str:
        """Where a user deletes."""
        return "left"

    @pytest.fixture
    def deleted(self, pair: Pair, side: str) -> Pair:
        """A session that has deleted a tree, a file that was edited before, and a link."""
        pair.start("--set", "trash=30d", "--set", "quarantine=0.1")
        fill(pair.left)
        pair.settle()
        (pair.left / "keep").write_text("edited")
        pair.settle()
        os.rename(pair.root(side) / "empty", pair.root(side) / "moved")
        shutil.rmtree(pair.root(side) / "docs")
        (pair.root(side) / "keep").unlink()
        assert set(pair.settle()) == {b"moved"}
        until(lambda: len(self.listed(pair)) == 4, "what was deleted in the trash")
        return pair

    def listed(self, pair: Pair) -> dict[str, dict[str, Any]]:
        found = json.loads(pair.psync("trash", "--json").stdout)["trash"]
        return {each["path"]: each for each in found}

    @pytest.mark.parametrize("side", SIDES)
    def test_has_what_was_deleted_on_the_other_side(self, deleted: Pair, side: str) -> None:
        other = "right" if side == "left" else "left"
        found = self.listed(deleted)

        assert set(found) == {"docs/report.txt", "docs/old/notes", "docs/link", "keep"}
        assert {(each["side"], each["reason"]) for each in found.values()} == {(other, "deleted")}
        assert deleted.psync("trash", "--show", found["keep"]["kept"]).stdout == "edited"
        assert f"  {other}  keep  " in deleted.psync("trash").stdout
        assert deleted.psync("conflicts").stdout == ""
        assert deleted.status()["conflicts"] == 0

    @pytest.mark.parametrize("side", SIDES)
    def test_gives_it_back_nowhere_else(self, deleted: Pair, side: str) -> None:
        """What is said is said of the side that has it, not of the one that does not."""
        kept = self.listed(deleted)["keep"]["kept"]

        refused = deleted.psync("trash", "--restore", kept, "--to", "../../x")

        assert refused.returncode == 1
        assert refused.stderr.endswith(f"{kept}: nothing can be restored to '../../x'\n")
        assert "keep" in self.listed(deleted)

    def test_gives_it_back_to_both_sides(self, deleted: Pair) -> None:
        found = self.listed(deleted)
        for path in ("docs/old/notes", "docs/link"):
            assert deleted.psync("trash", "--restore", found[path]["kept"]).returncode == 0

        after = deleted.settle()
        assert set(after) == {b"moved", b"docs", b"docs/old", b"docs/old/notes", b"docs/link"}
        assert after[b"docs/old/notes"][-1] == b"notes"
        assert set(self.listed(deleted)) == {"docs/report.txt", "keep"}

    def test_r11_has_what_a_program_gone_wild_has_rewritten(self, pair: Pair) -> None:
        options = {"versions": "7d", "quarantine": "0.1", "max_rewrite": "5"}
        pair.start(*(word for option in options.items() for word in ("--set", "=".join(option))))
        for number in range(20):
            (pair.left / f"{number:02}").write_text(f"good {number}")
        pair.settle()
        for number in range(20):
            (pair.left / f"{number:02}").write_text(f"encrypted {number}")

        told = pair.wait_for("halted")

        assert "left has rewritten more than 5 files within a minute" in told["halted"]
        found = until(lambda: len(self.listed(pair)) == 5 and self.listed(pair), "their versions")
        assert {each["reason"] for each in found.values()} == {"edited"}
        there = {name.decode(): entry[-1].decode() for name, entry in tree(pair.right).items()}
        assert {name for name, text in there.items() if "encrypted" in text} == set(found)
        for name, each in found.items():
            kept = pair.psync("trash", "--show", each["kept"]).stdout
            assert kept == f"good {int(name)}"
        assert pair.psync("resume", "--accept").returncode == 0
        assert {e[-1] for e in pair.settle().values()} == {b"encrypted %d" % n for n in range(20)}

    def test_lets_go_of_it(self, deleted: Pair) -> None:
        kept = self.listed(deleted)["keep"]["kept"]
        assert deleted.psync("trash", "--drop", kept).returncode == 0
        again = deleted.psync("trash", "--drop", kept)
        assert again.returncode == 1
        assert f"there is no {kept} in .psync/trash" in again.stderr

        assert "keep" not in self.listed(deleted)
        deleted.stop()
        deleted.start("--set", "trash=1s")
        until(lambda: not self.listed(deleted), "an empty trash")

    def test_is_emptied_at_once(self, deleted: Pair) -> None:
        assert deleted.psync("trash", "--empty").stdout == "4 versions dropped\n"

        assert self.listed(deleted) == {}
        assert deleted.psync("trash", "--empty").stdout == "0 versions dropped\n"

    def test_of_a_time_that_makes_no_sense_is_refused(self, pair: Pair) -> None:
        run = pair.psync("run", "--set", "trash=soon", str(pair.left), str(pair.right))

        assert run.returncode == 2
        assert run.stderr.count("\n") == 1
        assert "trash: 'soon' is neither a time like 30d, 12h or 90s nor empty" in run.stderr


class TestRename:
    def test_of_a_large_tree_moves_no_bytes(self, watching: Pair) -> None:
        big = watching.left / "big"
        big.mkdir()
        for i in range(200):
            (big / f"{i}").write_bytes(os.urandom(20_000))
        watching.settle()
        moved = watching.status()["right"]["bytes"]
        inode = (watching.right / "big/7").stat().st_ino

        os.rename(big, watching.left / "renamed")
        watching.settle()

        assert watching.status()["right"]["bytes"] == moved
        assert (watching.right / "renamed/7").stat().st_ino == inode
        for name in ("big", "renamed"):  # the log is asked by either name
            told = watching.psync("log", "--path", name, "--grep", "what=renamed").stdout
            assert "path=renamed what=renamed moved_from=big" in told

    @pytest.mark.parametrize("how", ["into a new directory", "twice", "back and on"])
    def test_of_a_file_keeps_the_file(self, watching: Pair, how: str) -> None:
        (watching.left / "f").write_bytes(os.urandom(300_000))
        watching.settle()
        moved = watching.status()["right"]["bytes"]
        inode = (watching.right / "f").stat().st_ino
        names = {"into a new directory": ["d/f"], "twice": ["g", "d/f"], "back and on": ["g", "f"]}

        (watching.left / "d").mkdir()
        old = watching.left / "f"
        for name in [*names[how], "d/last"]:
            old = old.rename(watching.left / name)
        watching.settle()

        assert (watching.right / "d/last").stat().st_ino == inode
        assert watching.status()["right"]["bytes"] == moved

    def test_into_a_new_directory_again_and_again_keeps_the_file(self, watching: Pair) -> None:
        (watching.left / "f").write_bytes(os.urandom(300_000))
        watching.settle()
        inode = (watching.right / "f").stat().st_ino
        old = watching.left / "f"
        for i in range(10):
            (watching.left / f"d{i}").mkdir()
            old = old.rename(watching.left / f"d{i}/f")
            watching.settle()
            assert (watching.right / f"d{i}/f").stat().st_ino == inode, i


class TestHardLinks:
    @pytest.mark.parametrize("size", [10, 300_000])
    def test_deleted_over_there_stay_deleted(self, watching: Pair, size: int) -> None:
        self.link(watching, size)

        for name in "abc":
            (watching.right / name).unlink()

        assert watching.settle() == {}
        assert watching.conflicts("left") == []

    def test_one_deleted_after_the_other_stay_deleted(self, watching: Pair) -> None:
        self.link(watching, 10)
        for name in "abc":
            (watching.right / name).unlink()
            assert name.encode() not in watching.settle()

    def test_c29_written_through_one_name_change_under_all(self, watching: Pair) -> None:
        self.link(watching, 10)

        with (watching.left / "a").open("ab") as file:
            file.write(b"more")
        after = watching.settle()

        assert {v[-1] for v in after.values()} == {b"0123456789more"}

    def test_changed_in_mode_through_one_name_change_under_all(self, watching: Pair) -> None:
        self.link(watching, 10)

        (watching.right / "b").chmod(0o600)
        after = watching.settle()

        assert {v[1] for v in after.values()} == {0o600}

    @pytest.mark.parametrize("side", ["left", "right"])
    def test_c30_s12_to_a_file_outside_of_the_root_leave_it_alone(
        self, watching: Pair, side: str
    ) -> None:
        here, there = (getattr(watching, s) for s in (side, "right" if side == "left" else "left"))
        outside = watching.base / "outside"
        outside.write_bytes(b"precious")
        outside.chmod(0o640)
        for name in ("mode", "time", "content"):
            os.link(outside, there / name)
        watching.settle()
        before = outside.stat()

        (here / "mode").chmod(0o666)
        os.utime(here / "time", ns=(5, 5))
        (here / "content").write_bytes(b"edited")
        after = watching.settle()

        now = outside.stat()
        assert outside.read_bytes() == b"precious"
        assert (now.st_mode, now.st_mtime_ns) == (before.st_mode, before.st_mtime_ns)
        assert (after[b"mode"][1], after[b"time"][4]) == (0o666, 5)
        assert after[b"content"][-1] == b"edited"
        assert "content had other names here" in watching.log()  # c30

    def link(self, pair: Pair, size: int) -> None:
        (pair.left / "a").write_bytes(b"0123456789" * (size // 10))
        for name in "bc":
            os.link(pair.left / "a", pair.left / name)
        assert set(pair.settle()) == {b"a", b"b", b"c"}
