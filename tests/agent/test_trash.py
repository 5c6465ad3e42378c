"""The trash: what was deleted, or edited, because that was done on the other side."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from psync.syscalls import renameat2
from psync.wire import APPLIED, DROP, EMPTY, GO_ON, LIST, RESTORE, SHOW, Recall
from tests.support.replica import Replica, file


@pytest.fixture
def replica(tmp_path: Path) -> Iterator[Replica]:
    (tmp_path / "root").mkdir()
    made = Replica(tmp_path / "root", for_trash=("deleted",))
    yield made
    made.close()


def delete(replica: Replica, path: bytes, content: bytes = b"deleted") -> None:
    old = replica.write(path, content)
    (outcome,) = replica.apply(replica.delete(path, old))
    assert (outcome.status, outcome.kept) == (APPLIED, b"")


def full(*args: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Killed(BaseException):
    pass


class TestComing:
    def test_is_for_what_is_deleted_once_nobody_can_write_to_it(self, replica: Replica) -> None:
        old = replica.write(b"d/f\n\xff", b"deleted", 0o640)
        replica.apply(replica.delete(b"d/f\n\xff", old))
        assert replica.conflicts("trash") == {}
        replica.finish()

        assert replica.conflicts("trash") == {b"d/f\n\xff": (b"deleted", "deleted")}
        (kept,) = [p for p in (replica.root / ".psync/trash").iterdir() if p.suffix != ".json"]
        st = kept.stat()
        assert (st.st_ino, st.st_mode & 0o777, st.st_mtime_ns) == (old.ino, 0o640, old.mtime_ns)
        assert replica.leftovers() == []
        assert replica.helpers.kept == []

    def test_is_for_links_at_once(self, replica: Replica) -> None:
        (replica / b"l").symlink_to("there")
        (outcome,) = replica.apply(replica.delete(b"l", replica.look(b"l")))

        assert (outcome.status, outcome.kept) == (APPLIED, b"")
        assert replica.conflicts("trash") == {b"l": (b"/", "deleted")}
        assert replica.leftovers() == []

    def test_is_for_nothing_where_nobody_wants_that(self, tmp_path: Path) -> None:
        replica = Replica(tmp_path)
        delete(replica, b"f")
        (replica / b"l").symlink_to("there")
        replica.apply(replica.delete(b"l", replica.look(b"l")))
        replica.finish()
        found, left = replica.conflicts("trash"), replica.leftovers()
        replica.close()

        assert (found, left) == ({}, [])

    def test_is_not_for_what_is_replaced_or_loses_or_is_moved(self, replica: Replica) -> None:
        old = replica.write(b"f", b"1")
        replica.apply(replica.put(b"f", file(b"2"), b"2", old))
        (replica / b"l").symlink_to("there")
        replica.apply(replica.put(b"l", file(b"2"), b"2", replica.look(b"l")))
        replica.apply(replica.delete(b"f", replica.look(b"f"), keep=True))
        covered = replica.write(b"b", b"covered")
        replica.apply(replica.rename(b"a", replica.write(b"a", b"moved"), b"b", covered))
        replica.finish()

        assert replica.conflicts("trash") == {}
        assert replica.conflicts() == {b"f": (b"2", "conflict")}
        assert replica.leftovers() == []

    def test_is_not_for_what_somebody_has_written_to_since(self, replica: Replica) -> None:
        delete(replica, b"f")
        (quarantined,) = (replica.root / ".psync/quarantine").iterdir()
        quarantined.write_bytes(b"written late")
        replica.finish()

        assert replica.conflicts("trash") == {}
        assert replica.conflicts() == {b"f": (b"written late", "late-write")}

    def test_of_one_name_of_a_file_lets_the_others_be_changed(self, replica: Replica) -> None:
        replica.write(b"a", b"text")
        os.link(replica / b"a", replica / b"b")
        a, b = replica.look(b"a"), replica.look(b"b")
        replica.apply(replica.delete(b"b", b))
        replica.finish()
        (outcome,) = replica.apply(replica.put(b"a", file(b"new"), b"new", a))

        assert outcome.status == APPLIED
        assert replica.conflicts("trash") == {b"b": (b"text", "deleted")}


class TestVersions:
    @pytest.fixture
    def replica(self, tmp_path: Path) -> Iterator[Replica]:
        (tmp_path / "root").mkdir()
        made = Replica(tmp_path / "root", for_trash=("edited",))
        yield made
        made.close()

    def test_r11_before_each_edit_are_kept(self, replica: Replica) -> None:
        entry = replica.write(b"f", b"written by its user")
        for text in (b"encrypted once", b"encrypted twice"):
            replica.apply(replica.put(b"f", file(text), text, entry))
            entry = replica.look(b"f")
        (replica / b"l").symlink_to("there")
        replica.apply(replica.put(b"l", file(b"2"), b"2", replica.look(b"l")))
        covered = replica.write(b"b", b"covered")
        replica.apply(replica.rename(b"a", replica.write(b"a", b"moved"), b"b", covered))
        replica.finish()
        notes = replica.helpers.recall(Recall(1, LIST, trash=True))[0].notes

        assert sorted((note.path, note.size, note.reason) for note in notes) == [
            (b"b", 7, "edited"), (b"f", 14, "edited"), (b"f", 19, "edited"), (b"l", 0, "edited"),
        ]  # fmt: skip
        assert replica.leftovers() == []
        assert replica.conflicts() == {}

    def test_are_not_what_was_deleted_or_says_the_same_or_loses(self, replica: Replica) -> None:
        delete(replica, b"f")
        old = replica.write(b"g", b"text")
        replica.apply(replica.put(b"g", file(b"text"), b"text", old))
        old = replica.write(b"h", b"loser")
        replica.apply(replica.put(b"h", file(b"winner"), b"winner", old, keep=True))
        replica.finish()

        assert replica.conflicts("trash") == {}
        assert replica.conflicts() == {b"h": (b"loser", "conflict")}
        assert replica.leftovers() == []

    def test_expire_at_their_own_age(self, replica: Replica) -> None:
        old = replica.write(b"f", b"one")
        replica.apply(replica.put(b"f", file(b"two"), b"two", old))
        replica.finish()
        replica.helpers.expire(0, -60)
        assert replica.conflicts("trash") == {b"f": (b"one", "edited")}
        replica.helpers.expire(0, 60, -60)

        assert replica.conflicts("trash") == {}


class TestTrouble:
    def test_of_a_full_disk_is_told_once_and_passes(
        self, replica: Replica, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (replica / b"l").symlink_to("there")
        with monkeypatch.context() as patch:
            patch.setattr("psync.conflicts.renameat2", full)
            replica.apply(replica.delete(b"l", replica.look(b"l")))
            for name in (b"f", b"g"):
                delete(replica, name, name)
            for _ in range(3):
                replica.now += 60
                assert replica.helpers.tick() is not None
        assert len(list((replica.root / ".psync/quarantine").iterdir())) == 3
        assert [line for line in replica.lines if "trash" in line] == [
            line for line in replica.lines if line.startswith("cannot put l, which was deleted, ")
        ]
        assert len(replica.lines) == 1
        replica.finish()

        assert replica.conflicts("trash") == {
            b"l": (b"/", "deleted"), b"f": (b"f", "deleted"), b"g": (b"g", "deleted"),
        }  # fmt: skip
        assert replica.leftovers() == []

    def test_of_a_quarantine_that_somebody_has_emptied_passes(self, replica: Replica) -> None:
        delete(replica, b"f")
        for path in (replica.root / ".psync/quarantine").iterdir():
            path.unlink()
        replica.finish()

        assert replica.conflicts("trash") == {}
        assert replica.leftovers() == []

    def test_of_one_emptied_while_the_disk_is_full_passes(
        self, replica: Replica, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        delete(replica, b"f")
        with monkeypatch.context() as patch:
            patch.setattr("psync.conflicts.renameat2", full)
            replica.now += 60
            replica.helpers.tick()
        for path in (replica.root / ".psync/quarantine").iterdir():
            path.unlink()
        while (delay := replica.helpers.tick()) is not None:
            replica.now += delay

        assert replica.leftovers() == []

    @pytest.mark.parametrize("when", ["deleted", "noted", "stored"])
    @pytest.mark.parametrize("what", ["file", "link"])
    def test_of_an_agent_that_is_killed_loses_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str, what: str
    ) -> None:
        def killed(*args: int | bytes) -> None:
            if when == "stored":
                renameat2(*args)  # type: ignore[arg-type]
            raise Killed

        def killed_at_last(at: str) -> None:
            if at == "verified":
                raise Killed

        replica = Replica(tmp_path, for_trash=("deleted",))
        if what == "file":
            old = replica.write(b"p", b"deleted")
        else:
            (replica / b"p").symlink_to("there")
            old = replica.look(b"p")
        with monkeypatch.context() as patch:
            if when != "deleted":
                patch.setattr("psync.conflicts.renameat2", killed)
            try:
                if when == "deleted":
                    patch.setattr(replica.helpers, "step", killed_at_last)
                replica.apply(replica.delete(b"p", old))
                replica.finish()
            except Killed:
                pass
        os.close(replica.fd)

        again = Replica(tmp_path, for_trash=("deleted",))
        again.finish()
        found, left, tree = again.conflicts("trash"), again.leftovers(), again.tree()
        again.close()
        assert (found, left, tree) == (
            {b"p": (b"deleted" if what == "file" else b"/", "deleted")}, [], {},
        )  # fmt: skip


class TestAsking:
    def kept(self, replica: Replica, path: bytes = b"d/e/f") -> bytes:
        delete(replica, path)
        replica.finish()
        (note,) = replica.helpers.recall(Recall(1, LIST, trash=True))[0].notes
        assert (note.path, note.reason, note.size) == (path, "deleted", 7)
        return note.name

    def test_lists_and_shows_what_is_in_it_and_nothing_else(self, replica: Replica) -> None:
        name = self.kept(replica)
        answer, changes = replica.helpers.recall(Recall(1, SHOW, name, trash=True))

        assert (answer.kept, answer.present, changes) == (b"deleted", None, [])
        assert replica.helpers.recall(Recall(1, LIST))[0].notes == []
        told = replica.helpers.recall(Recall(1, SHOW, name))[0].message
        assert told == f"there is no {name.decode()} in .psync/conflicts"
        told = replica.helpers.recall(Recall(1, SHOW, b"none", trash=True))[0].message
        assert told == "there is no none in .psync/trash"

    def test_restores_it_with_the_directories_that_went_with_it(self, replica: Replica) -> None:
        name = self.kept(replica)
        (replica / b"d/e").rmdir()
        (replica / b"d").chmod(0o750)
        answer, changes = replica.helpers.recall(Recall(1, RESTORE, name, trash=True))

        assert (answer.message, changes) == ("", [])
        assert replica.tree() == {b"d": b"/", b"d/e": b"/", b"d/e/f": b"deleted"}
        assert (replica / b"d/e").stat().st_mode & 0o777 == 0o750
        assert replica.conflicts("trash") == {}

    def test_makes_as_many_of_them_as_are_missing(self, replica: Replica) -> None:
        name = self.kept(replica, b"f")
        path = b"/".join([b"x"] * 300)
        answer, _ = replica.helpers.recall(Recall(1, RESTORE, name, path, trash=True))
        assert answer.message == ""
        answer, _ = replica.helpers.recall(Recall(1, LIST, trash=True))
        assert answer.notes == []

    def test_makes_none_where_something_else_is(self, replica: Replica, tmp_path: Path) -> None:
        name = self.kept(replica)
        (replica / b"d/e").rmdir()
        (replica / b"d").rmdir()
        (replica / b"d").symlink_to(tmp_path)
        answer, _ = replica.helpers.recall(Recall(1, RESTORE, name, trash=True))

        assert "d/e cannot be entered" in answer.message
        assert not (tmp_path / "e").exists()
        assert len(replica.conflicts("trash")) == 1

    def test_keeps_what_is_there_instead(self, replica: Replica) -> None:
        name = self.kept(replica, b"f")
        replica.write(b"f", b"new")
        replica.helpers.recall(Recall(1, RESTORE, name, trash=True))

        assert replica.tree() == {b"f": b"deleted"}
        assert replica.conflicts("trash") == {b"f": (b"new", "replaced")}

    def test_drops_it(self, replica: Replica) -> None:
        name = self.kept(replica)
        answer, changes = replica.helpers.recall(Recall(1, DROP, name, trash=True))

        assert (answer.message, changes) == ("", [])
        assert replica.conflicts("trash") == {}

    def empty(self, replica: Replica, verb: int = EMPTY) -> tuple[str, int, int, int]:
        answer, changes = replica.helpers.recall(Recall(1, verb, trash=True))
        assert (answer.notes, changes) == ([], [])
        return answer.message, answer.gone, answer.left, answer.waiting

    def test_empties_it_of_what_is_there_and_tells_what_is_to_come(self, replica: Replica) -> None:
        for path in (b"a", b"b"):
            delete(replica, path)
        replica.finish()
        loser = replica.write(b"g", b"loser")
        replica.apply(replica.delete(b"g", loser, keep=True))
        nobodys = replica.root / ".psync/trash/nobodys"
        nobodys.write_text("no note tells of it")
        delete(replica, b"late")

        assert self.empty(replica) == ("", 2, 0, 1)
        assert self.empty(replica) == ("", 0, 0, 1)
        nobodys.unlink()  # it was left alone
        replica.finish()
        assert replica.conflicts() == {b"g": (b"loser", "conflict")}
        assert replica.conflicts("trash") == {b"late": (b"deleted", "deleted")}

    def test_empties_it_a_part_at_a_time_and_of_nothing_that_comes_meanwhile(
        self, replica: Replica, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for path in (b"a", b"b"):
            delete(replica, path)
        replica.finish()
        notes = replica.helpers.recall(Recall(1, LIST, trash=True))[0].notes
        with monkeypatch.context() as patch:
            patch.setattr("psync.helpers.EMPTY_SLICE_S", -1.0)
            assert self.empty(replica) == ("", 0, 2, 0)
        delete(replica, b"late")
        replica.finish()
        replica.write(b"a", b"new")
        replica.helpers.recall(Recall(1, RESTORE, notes[0].name, b"a", trash=True))

        assert self.empty(replica, GO_ON) == ("", 1, 0, 0)
        kept = {b"a": (b"new", "replaced"), b"late": (b"deleted", "deleted")}
        assert replica.conflicts("trash") == kept

    def test_goes_on_with_nothing_that_another_agent_began(self, replica: Replica) -> None:
        self.kept(replica)

        told, *counts = self.empty(replica, GO_ON)

        assert "its agent has begun anew: empty it again" in told
        assert counts == [0, 0, 0]
        assert len(replica.conflicts("trash")) == 1

    def test_tells_of_what_cannot_be_dropped(
        self, replica: Replica, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.kept(replica)
        monkeypatch.setattr("psync.conflicts.remove_tree", full)

        assert self.empty(replica) == ("1 could not be dropped, the log says why", 0, 0, 0)
        assert len(replica.conflicts("trash")) == 1

    def test_empties_the_trash_only(self, replica: Replica) -> None:
        loser = replica.write(b"g", b"loser")
        replica.apply(replica.delete(b"g", loser, keep=True))

        answer, changes = replica.helpers.recall(Recall(1, EMPTY))

        assert (answer.message, changes) == ("only the trash can be emptied", [])
        assert replica.conflicts() == {b"g": (b"loser", "conflict")}

    def test_expires_each_store_at_its_own_age(self, replica: Replica) -> None:
        self.kept(replica)
        loser = replica.write(b"g", b"loser")
        replica.apply(replica.delete(b"g", loser, keep=True))
        assert replica.helpers.expire(60, 60) == []
        assert replica.helpers.expire(60, -60) == []

        assert replica.conflicts("trash") == {}
        assert replica.conflicts() == {b"g": (b"loser", "conflict")}

    def test_lists_as_much_as_fits_into_a_message(
        self, replica: Replica, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for i in range(5):
            delete(replica, b"%d" % i)
        replica.finish()
        monkeypatch.setattr("psync.helpers.FRAME_MAX", 2 * 3 * (1 + 16 + 64))

        assert len(replica.helpers.recall(Recall(1, LIST, trash=True))[0].notes) == 3
