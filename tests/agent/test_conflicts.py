"""The conflict store: what comes into it, and how a person gets it out."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from psync.conflicts import SHOWN_MAX, Conflicts, name_beside
from psync.core.entry import Entry, Kind, Side, valid_path
from psync.helpers import Helpers
from psync.syscalls import renameat2
from psync.wire import (
    APPLIED,
    DROP,
    LIST,
    READ,
    RESTORE,
    SHOW,
    Dropped,
    Kept,
    Note,
    Recall,
    Recalled,
)
from tests.support.replica import Replica, file

NAME = b"0123456789abcdef"


class Store:
    """A root with a conflict store, and what it has logged."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / ".psync/quarantine").mkdir(parents=True)
        self.root_fd = os.open(root, os.O_RDONLY)
        control_fd = os.open(root / ".psync", os.O_RDONLY)
        self._from = os.open(root / ".psync/quarantine", os.O_RDONLY)
        self.logged: list[str] = []
        self.store = Conflicts(control_fd, lambda _, line: self.logged.append(line))
        os.close(control_fd)
        self.directory = root / ".psync/conflicts"

    def take(self, name: bytes = NAME, path: bytes = b"d/f", content: bytes = b"lost") -> Note:
        kept = self.root / ".psync/quarantine" / os.fsdecode(name)
        kept.write_bytes(content)
        os.utime(kept, ns=(1, 10**18 + 7))
        entry = Entry(Kind.FILE, 0o644, 0, 0, len(content), 10**18 + 7, b"", b"", 1, 1)
        self.store.take(self._from, name, path, "conflict", entry)
        return self.store.find(name)

    def expire(self, before_ns: int) -> list[Note]:
        """Let go what came before a time."""
        return list(self.store.expire(lambda note: note.time_ns < before_ns))

    def names(self) -> set[str]:
        return {path.name for path in self.directory.iterdir()}

    def close(self) -> None:
        self.store.close()
        os.close(self._from)
        os.close(self.root_fd)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "root")
    yield store
    store.close()


class TestTaking:
    def test_comes_with_a_note(self, store: Store) -> None:
        note = store.take(path=b"d/\xff\n")

        assert note[:2] == (NAME, b"d/\xff\n")
        assert note[3:] == ("conflict", 4, 10**18 + 7)
        assert [*store.store.notes()] == [note]
        assert store.names() == {NAME.decode(), NAME.decode() + ".json"}

    def test_is_told_of_whatever_its_name(self, store: Store) -> None:
        """Recovery keeps what lay in quarantine, also if no name of ours."""
        note = store.take(b"stranger\n")

        assert [*store.store.notes()] == [note]
        store.store.drop(note.name)
        assert store.names() == set()

    def test_overwrites_nothing(self, store: Store) -> None:
        store.take(content=b"first")
        with pytest.raises(FileExistsError):
            store.take(content=b"second")

        assert (store.directory / NAME.decode()).read_bytes() == b"first"

    def test_without_a_note_is_left_alone(self, store: Store) -> None:
        (store.directory / "README").write_text("somebody's")

        assert [*store.store.notes()] == []
        assert "no readable note" in store.logged[0]

    @pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"path_hex": 1}', "\0" * 99])
    def test_is_told_of_though_a_power_cut_has_emptied_its_note(
        self, store: Store, text: str
    ) -> None:
        store.take()
        (store.directory / (NAME.decode() + ".json")).write_text(text)
        (note,) = store.store.notes()

        assert note._replace(time_ns=0) == (NAME, b"", 0, "unknown", 4, 10**18 + 7)
        assert note == store.store.find(NAME)
        assert store.expire(note.time_ns) == []
        assert not store.store.restore(store.root_fd, note, b"f")
        assert store.names() == set()

    @pytest.mark.parametrize("name", [b"f" * 16, b"../marker", b"..", b".", b"", NAME + b".json"])
    def test_is_found_by_its_name_only(self, store: Store, name: bytes) -> None:
        store.take()
        with pytest.raises(OSError, match="there is no "):
            store.store.find(name)


class TestShowing:
    def test_reads_both_versions(self, store: Store) -> None:
        (store.root / "d").mkdir()
        (store.root / "d/f").write_bytes(b"won")

        assert store.store.show(store.root_fd, store.take()) == (b"lost", b"won")

    def test_shows_no_large_file_and_none_that_is_not_there(self, store: Store) -> None:
        note = store.take(content=b"")
        os.truncate(store.directory / NAME.decode(), SHOWN_MAX + 1)

        assert store.store.show(store.root_fd, note) == (None, None)

    def test_shows_a_link_and_not_where_it_leads(self, store: Store) -> None:
        (store.root / "f").symlink_to("/etc/passwd")
        note = store.take(path=b"f")
        (store.directory / NAME.decode()).unlink()
        (store.directory / NAME.decode()).symlink_to("elsewhere")

        assert store.store.show(store.root_fd, note) == (b"elsewhere", b"/etc/passwd")

    def test_holds_nothing_open_of_a_directory(self, store: Store) -> None:
        (store.root / "d/f").mkdir(parents=True)
        note, before = store.take(), os.listdir("/proc/self/fd")

        assert store.store.show(store.root_fd, note) == (b"lost", None)
        assert os.listdir("/proc/self/fd") == before

    def test_follows_no_link_out_of_the_root(self, store: Store, tmp_path: Path) -> None:
        (tmp_path / "secret").write_bytes(b"secret")
        (store.root / "d").symlink_to(tmp_path)
        note = store.take(path=b"d/secret")

        assert store.store.show(store.root_fd, note) == (b"lost", None)


class TestRestoring:
    def test_puts_it_back_as_it_was(self, store: Store) -> None:
        (store.root / "d").mkdir()
        note = store.take()

        assert not store.store.restore(store.root_fd, note, note.path)
        assert (store.root / "d/f").read_bytes() == b"lost"
        assert (store.root / "d/f").stat().st_mtime_ns == 10**18 + 7
        assert store.names() == set()

    def test_keeps_what_is_there_instead(self, store: Store) -> None:
        (store.root / "d").mkdir()
        (store.root / "d/f").write_bytes(b"the winner")
        note = store.take()

        assert store.store.restore(store.root_fd, note, b"d/f")
        assert (store.root / "d/f").read_bytes() == b"lost"
        assert (store.directory / NAME.decode()).read_bytes() == b"the winner"
        now = store.store.find(NAME)
        assert (now.path, now.reason, now.size) == (b"d/f", "replaced", 10)

        assert store.store.restore(store.root_fd, now, b"d/f")
        assert (store.root / "d/f").read_bytes() == b"the winner"

    def test_elsewhere(self, store: Store) -> None:
        store.store.restore(store.root_fd, store.take(), b"other")

        assert (store.root / "other").read_bytes() == b"lost"

    def test_takes_the_place_of_no_directory(self, store: Store) -> None:
        (store.root / "d/f/inside").mkdir(parents=True)
        note = store.take()
        with pytest.raises(OSError, match="there is a directory now, name another path"):
            store.store.restore(store.root_fd, note, b"d/f")

        assert (store.root / "d/f/inside").is_dir()
        assert (store.directory / NAME.decode()).read_bytes() == b"lost"
        assert [*store.store.notes()] == [note]
        assert store.names() == {NAME.decode(), NAME.decode() + ".json"}

    def test_changes_nothing_on_a_full_disk(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The note of what it would have displaced could not be written."""

        def refuse(*args: object, **more: object) -> bytes:
            raise OSError(28, "No space left on device")

        (store.root / "f").write_bytes(b"newer")
        note = store.take()
        monkeypatch.setattr("psync.conflicts.json.dumps", refuse)
        with pytest.raises(OSError, match="cannot restore f: No space left"):
            store.store.restore(store.root_fd, note, b"f")

        assert (store.root / "f").read_bytes() == b"newer"
        assert store.store.find(NAME) == note

    def test_keeps_what_is_there_for_as_long_as_any_if_it_is_killed(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class KilledError(BaseException):
            pass

        def exchange(*args: Any) -> None:
            renameat2(*args)
            if args[1] == NAME:
                raise KilledError

        (store.root / "f").write_bytes(b"newer")
        store.take()
        note = store.directory / (NAME.decode() + ".json")
        told = json.loads(note.read_text())
        note.write_text(json.dumps({**told, "time": "2001-01-01T00:00:00Z"}))
        monkeypatch.setattr("psync.conflicts.renameat2", exchange)
        with pytest.raises(KilledError):
            store.store._exchange(store.store.find(NAME), store.root_fd, b"f", b"f")

        assert (store.directory / NAME.decode()).read_bytes() == b"newer"
        assert store.store.find(NAME)[1:2] == (b"f",)
        assert store.expire((int(time.time()) - 60) * 10**9) == []

    @pytest.mark.parametrize(
        "path", [b"", b"..", b"../f", b"/f", b"d/../../f", b".psync/marker", b"d/f.psync.ignore"]
    )
    def test_leads_nowhere_else(self, store: Store, path: bytes) -> None:
        note = store.take()
        with pytest.raises(OSError, match="nothing can be restored to"):
            store.store.restore(store.root_fd, note, path)

        assert NAME.decode() in store.names()

    def test_follows_no_link_out_of_the_root(self, store: Store, tmp_path: Path) -> None:
        (store.root / "d").symlink_to(tmp_path)
        note = store.take()
        with pytest.raises(OSError, match="d cannot be entered"):
            store.store.restore(store.root_fd, note, b"d/f")

        assert not (tmp_path / "f").exists()
        assert NAME.decode() in store.names()


class TestDropping:
    def test_destroys_one(self, store: Store) -> None:
        store.take()
        store.take(b"f" * 16)
        store.store.drop(NAME)

        assert store.names() == {"f" * 16, "f" * 16 + ".json"}

    def test_destroys_a_directory_with_all_in_it(self, store: Store) -> None:
        store.take()
        (store.directory / NAME.decode()).unlink()
        (store.directory / NAME.decode() / "sub").mkdir(parents=True)
        (store.directory / NAME.decode() / "sub/f").write_bytes(b"x")
        store.store.drop(NAME)

        assert store.names() == set()

    def test_follows_no_link(self, store: Store) -> None:
        (store.root / "f").write_bytes(b"x")
        store.take()
        (store.directory / NAME.decode()).unlink()
        (store.directory / NAME.decode()).symlink_to(store.root)
        store.store.drop(NAME)

        assert (store.root / "f").exists()

    def test_of_what_nobody_came_for(self, store: Store) -> None:
        store.take()
        store.take(b"f" * 16)
        note = store.directory / (NAME.decode() + ".json")
        told = json.loads(note.read_text())
        note.write_text(json.dumps({**told, "time": "2001-01-01T00:00:00Z"}))
        before = store.store.find(b"f" * 16).time_ns

        assert [n.name for n in store.expire(before)] == [NAME]
        assert store.names() == {"f" * 16, "f" * 16 + ".json"}
        assert store.expire(before) == []


class TestNameBeside:
    SECOND = 1_795_306_500 * 10**9  # 2026-11-22T00:15:00Z

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            (b"report.txt", b"report.conflict-LEFT-20261122T001500Z.txt"),
            (b"a.tar.gz", b"a.tar.conflict-LEFT-20261122T001500Z.gz"),
            (b"Makefile", b"Makefile.conflict-LEFT-20261122T001500Z"),
            (b".bashrc", b".bashrc.conflict-LEFT-20261122T001500Z"),
            (b"ends.", b"ends.conflict-LEFT-20261122T001500Z."),
            (
                b"v1.2 and many more words",
                b"v1.2 and many more words.conflict-LEFT-20261122T001500Z",
            ),
            (b"\xff\n.\x80", b"\xff\n.conflict-LEFT-20261122T001500Z.\x80"),
            (b"x" * 255, b"x" * 224 + b".conflict-LEFT-20261122T001500Z"),
            (b"\xc3\xa4" * 127, b"\xc3\xa4" * 112 + b".conflict-LEFT-20261122T001500Z"),
            (
                b"x" + b"\xc3\xa4" * 127,
                b"x" + b"\xc3\xa4" * 111 + b".conflict-LEFT-20261122T001500Z",
            ),
            (b"x" * 250 + b".txt", b"x" * 220 + b".conflict-LEFT-20261122T001500Z.txt"),
        ],
    )
    def test_tells_what_it_is_and_fits(self, name: bytes, expected: bytes) -> None:
        assert name_beside(name, Side.LEFT, self.SECOND) == expected
        assert valid_path(expected)

    def test_is_another_for_each_number(self) -> None:
        names = {name_beside(b"x" * 255, Side.RIGHT, self.SECOND, i) for i in range(1, 1000)}

        assert len(names) == 999
        assert {len(name) for name in names} == {255}
        assert b"x" * 221 + b".conflict-RIGHT-20261122T001500Z-2" in names


class TestBeside:
    """What loses a conflict, where the users are to keep both versions."""

    @pytest.fixture
    def replica(self, tmp_path: Path) -> Iterator[Replica]:
        replica = Replica(tmp_path, keep_both=True)
        yield replica
        replica.close()

    def lose(self, replica: Replica, path: bytes = b"d/f.txt", won: bytes = b"won") -> bytes:
        """Let what is at a path lose; return its name in the store."""
        old = replica.look(path)
        (outcome,) = replica.apply(replica.put(path, file(won), won, old, keep=True))
        assert outcome.status == APPLIED
        return outcome.kept

    def beside(self, replica: Replica) -> dict[bytes, bytes]:
        return {p: c for p, c in replica.tree().items() if b".conflict-" in p}

    def test_lies_where_it_was_under_another_name(self, replica: Replica) -> None:
        old = replica.write(b"d/f.txt", b"lost", 0o640)
        kept = self.lose(replica)
        (dropped,) = replica.helpers.put_beside()

        assert dropped.kept == kept
        assert self.beside(replica) == {dropped.path: b"lost"}
        assert replica.tree()[b"d/f.txt"] == b"won"
        now = replica.look(dropped.path)
        assert now._replace(ctime_ns=0) == old._replace(ctime_ns=0)
        assert replica.conflicts() == {}
        assert replica.leftovers() == []
        assert replica.helpers.put_beside() == []

    def test_takes_nobodys_name(self, replica: Replica) -> None:
        for text in (b"1", b"2", b"3"):
            replica.write(b"f", text)
            self.lose(replica, b"f")
        dropped = replica.helpers.put_beside()

        assert sorted(self.beside(replica).values()) == [b"1", b"2", b"3"]
        assert {d.path for d in dropped} == set(self.beside(replica))

    def test_of_a_name_as_long_as_can_be(self, replica: Replica) -> None:
        replica.write(b"\xff" * 255, b"lost")
        self.lose(replica, b"\xff" * 255)
        replica.helpers.put_beside()

        assert list(self.beside(replica).values()) == [b"lost"]

    def test_may_be_a_link(self, replica: Replica) -> None:
        (replica / b"f").symlink_to("there")
        self.lose(replica, b"f")
        replica.helpers.put_beside()

        assert list(self.beside(replica).values()) == [b"-> there"]

    def test_leaves_the_time_of_its_directory_alone(self, replica: Replica) -> None:
        replica.write(b"d/f.txt", b"lost")
        os.utime(replica / b"d", ns=(1, 10**18))
        self.lose(replica)
        replica.helpers.put_beside()

        assert (replica / b"d").stat().st_mtime_ns == 10**18

    def test_of_a_late_write_too(self, replica: Replica) -> None:
        old = replica.write(b"f", b"old")
        with open(replica / b"f", "ab", buffering=0) as late:
            replica.apply(replica.delete(b"f", old))  # in use: nothing is done
            os.rename(replica / b"f", replica / b"g")
            late.write(b"")
        replica.apply(replica.delete(b"g", replica.look(b"g")))
        quarantined = next((replica.root / ".psync/quarantine").iterdir())
        quarantined.write_bytes(b"written late")
        replica.finish()

        assert [k.path for k in replica.helpers.kept] == [b"g"]
        replica.helpers.put_beside()
        assert list(self.beside(replica).values()) == [b"written late"]

    def test_is_done_by_the_next_agent_if_one_was_killed_before(self, tmp_path: Path) -> None:
        (tmp_path / "root").mkdir()
        first = Replica(tmp_path / "root", keep_both=True)
        first.write(b"f", b"lost")
        kept = self.lose(first, b"f")
        first.close()

        second = Replica(tmp_path / "root", keep_both=True)
        (dropped,) = second.helpers.put_beside()
        second.close()

        assert dropped.kept == kept
        assert self.beside(second) == {dropped.path: b"lost"}
        third = Replica(tmp_path / "root", keep_both=True)
        assert third.helpers.put_beside() == []
        third.close()

    def test_is_not_done_to_what_lost_under_another_policy(self, tmp_path: Path) -> None:
        (tmp_path / "root").mkdir()
        first = Replica(tmp_path / "root")
        first.write(b"f", b"lost")
        self.lose(first, b"f")
        assert first.helpers.put_beside() == []
        first.close()

        second = Replica(tmp_path / "root", keep_both=True)
        assert second.helpers.put_beside() == []
        assert self.beside(second) == {}
        assert second.conflicts() == {b"f": (b"lost", "conflict")}
        second.close()

    @pytest.mark.parametrize("there", ["nothing", "a file", "a link out of the root"])
    def test_waits_in_the_store_where_its_directory_is_gone(
        self, replica: Replica, there: str, tmp_path: Path
    ) -> None:
        replica.write(b"d/f.txt", b"lost")
        kept = self.lose(replica)
        replica.write(b"e/g", b"lost too")
        self.lose(replica, b"e/g")
        (replica / b"d/f.txt").unlink()
        (replica / b"d").rmdir()
        if there == "a file":
            replica.write(b"d", b"")
        elif there == "a link out of the root":
            (replica / b"d").symlink_to(tmp_path.parent)

        (dropped,) = replica.helpers.put_beside()

        assert dropped.path.startswith(b"e/g.conflict-LEFT-")
        assert replica.conflicts() == {b"d/f.txt": (b"lost", "conflict")}
        assert [line for line in replica.lines if kept.decode() in line] == [
            "what lost a conflict cannot be put beside the version that won: its directory is not "
            f"there; it stays in .psync/conflicts/{kept.decode()}"
        ]

    def test_waits_in_the_store_where_the_system_refuses(
        self, replica: Replica, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*args: object) -> None:
            raise PermissionError(13, "Permission denied")

        replica.write(b"d/f.txt", b"lost")
        self.lose(replica)
        monkeypatch.setattr("psync.conflicts.renameat2", refuse)

        assert replica.helpers.put_beside() == []
        assert replica.conflicts() == {b"d/f.txt": (b"lost", "conflict")}
        assert "Permission denied" in replica.lines[-1]


class TestRecall:
    """What an agent answers."""

    @pytest.fixture
    def helpers(self, store: Store) -> Iterator[Helpers]:
        helpers = Helpers(
            store.root_fd,
            owners=False,
            strip_special_bits=True,
            strict=False,
            quarantine_ms=0,
            log=lambda *_: None,
        )
        helpers.prepare("pair", 0)
        yield helpers
        helpers.close()

    def test_lists_and_shows(self, store: Store, helpers: Helpers) -> None:
        note = store.take()

        assert helpers.recall(Recall(3, LIST)) == (Recalled(3, "", [note]), [])
        assert helpers.recall(Recall(4, SHOW, NAME)) == (Recalled(4, "", [note], b"lost"), [])

    @pytest.mark.parametrize(
        ("verb", "there", "changes"),
        [
            (DROP, False, [Dropped(NAME)]),
            (RESTORE, False, [Dropped(NAME)]),
            (RESTORE, True, [Dropped(NAME), Kept(b"f", NAME, fresh=False)]),
        ],
    )
    def test_says_what_has_changed(
        self, store: Store, helpers: Helpers, verb: int, there: bool, changes: list[object]
    ) -> None:
        if there:
            (store.root / "f").touch()
        note = store.take(path=b"f")

        assert helpers.recall(Recall(5, verb, NAME)) == (Recalled(5, "", [note]), changes)
        assert helpers.recall(Recall(6, LIST))[0].notes == [*store.store.notes()]

    def test_reads_what_is_there_now(self, store: Store, helpers: Helpers) -> None:
        (store.root / "d").mkdir()
        (store.root / "d/f").write_bytes(b"there")
        told = [helpers.recall(Recall(3, READ, b"", path)) for path in (b"d/f", b"d", b"none")]

        assert [answer.present for answer, _ in told] == [b"there", None, None]
        assert [answer.message for answer, _ in told] == ["", "", ""]
        for path in (b"", b"../f", b"/etc/passwd", b".psync/marker"):
            answer, _ = helpers.recall(Recall(3, READ, b"", path))
            assert "is no path of this replica" in answer.message
            assert answer.present is None

    def test_says_what_is_wrong(self, helpers: Helpers) -> None:
        answer, changes = helpers.recall(Recall(7, DROP, b"f" * 16))

        assert answer == Recalled(7, f"there is no {'f' * 16} in .psync/conflicts", [])
        assert changes == []

    def test_expires(self, store: Store, helpers: Helpers) -> None:
        store.take()

        assert helpers.expire(60) == []
        assert helpers.expire(-60) == [Dropped(NAME)]
