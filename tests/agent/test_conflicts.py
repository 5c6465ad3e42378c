"""The conflict store: what comes into it, and how a person gets it out."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from psync.conflicts import SHOWN_MAX, Conflicts
from psync.core.entry import Entry, Kind
from psync.helpers import Helpers
from psync.wire import DROP, LIST, RESTORE, SHOW, Dropped, Kept, Note, Recall, Recalled

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

    def test_without_a_readable_note_is_left_alone(self, store: Store) -> None:
        store.take()
        (store.directory / (NAME.decode() + ".json")).write_text("{")
        (store.directory / "README").write_text("somebody's")

        assert [*store.store.notes()] == []
        assert "no readable note" in store.logged[0]
        with pytest.raises(OSError, match="cannot be read"):
            store.store.find(NAME)

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

        assert [n.name for n in store.store.expire(before)] == [NAME]
        assert store.names() == {"f" * 16, "f" * 16 + ".json"}
        assert [*store.store.expire(before)] == []


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
            (RESTORE, True, [Dropped(NAME), Kept(b"f", NAME)]),
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

    def test_says_what_is_wrong(self, helpers: Helpers) -> None:
        answer, changes = helpers.recall(Recall(7, DROP, b"f" * 16))

        assert answer == Recalled(7, f"there is no {'f' * 16} in .psync/conflicts", [])
        assert changes == []

    def test_expires(self, store: Store, helpers: Helpers) -> None:
        store.take()

        assert helpers.expire(60) == []
        assert helpers.expire(-60) == [Dropped(NAME)]
