"""The archive: reads see every change at once, and only what was durable outlives a crash."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from psync.core import archive as module
from psync.core.archive import Archive
from psync.core.entry import ROOT, Agreed, Kind, Side, directory_digest, is_below, parent
from tests.support.rows import MemoryRows


def file(ino: int = 1, size: int = 3) -> Agreed:
    return Agreed(Kind.FILE, 0o644, 0, 0, size, 5, b"", b"d", ino, 10, ino + 1000, 20)


def directory(ino: int = 1, mode: int = 0o755) -> Agreed:
    return Agreed(Kind.DIRECTORY, mode, 0, 0, 0, 5, b"", b"", ino, 0, ino + 1000, 0)


def flush(archive: Archive) -> None:
    if archive.freeze():
        archive.commit()


def content(archive: Archive) -> dict[bytes, Agreed]:
    return {path: archive.get(path) for path in archive.walk_up(ROOT)}


@pytest.fixture
def rows() -> MemoryRows:
    return MemoryRows()


@pytest.fixture
def archive(rows) -> Archive:
    """a/, a/b/, a/b/f, a/f, z."""
    archive = Archive(rows)
    archive.put(b"a", directory(1))
    archive.put(b"a/b", directory(2))
    archive.put(b"a/b/f", file(3))
    archive.put(b"a/f", file(4))
    archive.put(b"z", file(5))
    return archive


@pytest.fixture(params=["recent", "frozen", "committed"])
def stage(request, archive) -> str:
    """Have the tree of `archive` stand in each of the three layers."""
    if request.param != "recent":
        archive.freeze()
    if request.param == "committed":
        archive.commit()
    return request.param


class TestReading:
    def test_sees_what_was_put(self, archive, stage):
        assert archive.get(b"a/b/f") == file(3)
        assert archive.get(b"a/b") == directory(2)
        assert archive.get(b"a/b/g") is None
        assert archive.get(b"nowhere/f") is None
        assert archive.get(ROOT) is None
        assert archive.count == 5

    def test_knows_directories(self, archive, stage):
        assert all(map(archive.has_directory, [ROOT, b"a", b"a/b"]))
        assert not any(map(archive.has_directory, [b"z", b"a/f", b"nowhere", b"nowhere/b"]))

    def test_lists_children_in_byte_order(self, archive, stage):
        archive.put(b"a/\xff", file(6))
        archive.put(b"a/A", file(7))

        assert [name for name, _ in archive.children(b"a")] == [b"A", b"b", b"f", b"\xff"]
        assert archive.children(b"z") == archive.children(b"nowhere") == []

    def test_names_what_is_in_a_range(self, archive, stage):
        archive.put(b"a/g", file(6))
        archive.remove(b"a/f")

        assert archive.names(b"a", b"", None) == {b"b", b"g"}
        assert archive.names(b"a", b"b", b"g") == archive.names(b"a", b"b", None) == {b"g"}
        assert archive.names(b"a", b"", b"f") == {b"b"}
        assert archive.names(b"a", b"g", None) == archive.names(b"nowhere", b"", None) == set()

    def test_walks_children_before_their_directory(self, archive, stage):
        assert list(archive.walk_up(ROOT)) == [b"a/b/f", b"a/b", b"a/f", b"a", b"z"]
        assert list(archive.walk_up(b"a/b")) == [b"a/b/f"]

    def test_finds_inodes_of_each_side(self, archive, stage):
        assert archive.find_inode(Side.LEFT, 3) == b"a/b/f"
        assert archive.find_inode(Side.RIGHT, 1003) == b"a/b/f"
        assert archive.find_inode(Side.RIGHT, 3) is None
        assert archive.find_inode(Side.LEFT, 1) == b"a"

    def test_says_the_same_with_small_caches(self, archive, rows, monkeypatch):
        monkeypatch.setattr(module, "_IDS_MAX", 1)
        monkeypatch.setattr(module, "_READ_MAX", 1)
        flush(archive)
        before = content(archive)
        later = Archive(rows)

        for path in [*before, *sorted(before)]:
            assert later.get(path) == before[path]
        assert len(later._read) <= 2 and len(later._ids) <= 2


class TestDepth:
    def test_is_as_large_as_any_that_paths_have(self, rows):
        """Nothing here calls itself for each level."""
        archive = Archive(rows)
        paths = [b"/".join([b"d"] * depth) for depth in range(1, 2001)]
        for number, path in enumerate(paths):
            archive.put(path, directory(number))
        flush(archive)
        archive = Archive(rows)

        assert archive.get(paths[-1]) == directory(len(paths) - 1)
        assert list(archive.walk_up(ROOT)) == paths[::-1]
        assert [path for path, _ in archive.walk_down(ROOT)] == paths
        archive.remove(b"d")
        assert (archive.count, list(archive.walk_up(ROOT))) == (0, [])


class TestPut:
    def test_replaces_a_record(self, archive, stage):
        archive.put(b"z", file(6, size=9))

        assert archive.get(b"z") == file(6, size=9)
        assert archive.count == 5
        assert archive.find_inode(Side.LEFT, 5) is None
        assert archive.find_inode(Side.LEFT, 6) == b"z"

    def test_of_a_directory_again_keeps_what_is_in_it(self, archive, stage):
        archive.put(b"a", directory(1, mode=0o700))

        assert archive.get(b"a").mode == 0o700
        assert archive.get(b"a/b/f") == file(3)

    def test_of_a_file_over_a_directory_forgets_what_was_in_it(self, archive, stage):
        archive.put(b"a", file(9))

        assert content(archive) == {b"a": file(9), b"z": file(5)}
        assert archive.count == 2
        assert not archive.has_directory(b"a")
        assert archive.find_inode(Side.LEFT, 3) is None

    def test_of_a_directory_over_a_file_begins_empty(self, archive, stage):
        archive.put(b"z", directory(9))

        assert archive.has_directory(b"z")
        assert archive.children(b"z") == []

    def test_refuses_a_path_whose_directory_nobody_agreed_on(self, archive, stage):
        for path in (b"nowhere/f", b"z/f"):
            with pytest.raises(AssertionError):
                archive.put(path, file())


class TestRemove:
    def test_forgets_everything_below(self, archive, stage):
        archive.remove(b"a")

        assert content(archive) == {b"z": file(5)}
        assert archive.count == 1
        assert archive.get(b"a/b/f") is None
        assert archive.find_inode(Side.LEFT, 3) is None

    def test_of_nothing_is_nothing(self, archive, stage):
        waiting = archive.uncommitted
        for path in (b"q", b"a/q", b"nowhere/q"):
            archive.remove(path)

        assert archive.count == 5
        assert archive.uncommitted == waiting

    def test_and_put_anew_has_nothing_of_the_old(self, archive, stage):
        archive.remove(b"a")
        archive.put(b"a", directory(7))

        assert archive.children(b"a") == []
        flush_all(archive)
        assert archive.children(b"a") == []


def flush_all(archive: Archive) -> None:
    """Commit every generation there is."""
    if archive._frozen is not None:
        archive.commit()
    flush(archive)


class TestRename:
    def test_of_a_directory_is_one_record_however_much_is_in_it(self, archive, stage):
        flush_all(archive)
        archive.rename(b"a", b"c", directory(1))

        assert archive.uncommitted == 2  # gone here, there now
        assert list(archive.walk_up(ROOT)) == [b"c/b/f", b"c/b", b"c/f", b"c", b"z"]
        assert archive.get(b"a/b/f") is None
        assert archive.find_inode(Side.LEFT, 3) == b"c/b/f"
        assert archive.count == 5

    def test_moves_what_is_below_in_any_stage(self, archive, stage):
        archive.rename(b"a/b", b"b", directory(2))

        assert archive.find_inode(Side.RIGHT, 1003) == b"b/f"
        assert content(archive) == {
            b"a": directory(1), b"a/f": file(4), b"b": directory(2), b"b/f": file(3), b"z": file(5),
        }  # fmt: skip
        flush_all(archive)
        assert archive.find_inode(Side.RIGHT, 1003) == b"b/f"

    def test_over_something_replaces_it(self, archive, stage):
        archive.rename(b"z", b"a", file(5))
        assert content(archive) == {b"a": file(5)}
        assert archive.count == 1

    def test_of_a_file_takes_its_new_record(self, archive, stage):
        archive.rename(b"z", b"a/z", file(5, size=8))

        assert archive.get(b"z") is None
        assert archive.get(b"a/z") == file(5, size=8)
        assert archive.count == 5

    @pytest.mark.parametrize(
        ("old", "new"), [(b"q", b"r"), (b"nowhere/q", b"r"), (b"z", b"nowhere/z")]
    )
    def test_refuses_what_nobody_agreed_on(self, archive, stage, old, new):
        with pytest.raises(AssertionError):
            archive.rename(old, new, file())


class TestCommit:
    def test_writes_only_what_was_frozen(self, archive, rows):
        assert archive.uncommitted == 5
        assert archive.freeze()
        assert archive.uncommitted == 0
        archive.put(b"late", file(8))
        archive.remove(b"a/f")
        archive.commit()

        assert set(content(Archive(rows))) == {b"a", b"a/b", b"a/b/f", b"a/f", b"z"}
        assert set(content(archive)) == {b"a", b"a/b", b"a/b/f", b"late", b"z"}
        flush(archive)
        assert content(Archive(rows)) == content(archive)

    def test_of_nothing_is_none(self, archive):
        flush(archive)

        assert not archive.freeze()

    def test_gives_a_later_archive_ids_of_its_own(self, archive, rows):
        flush(archive)
        later = Archive(rows)
        later.put(b"new", directory(9))
        later.put(b"new/f", file(10))

        assert later.children(b"new") == [(b"f", file(10))]
        assert [name for name, _ in later.children(b"a")] == [b"b", b"f"]

    def test_one_generation_at_a_time(self, archive):
        archive.freeze()
        archive.put(b"late", file(8))
        with pytest.raises(AssertionError):
            archive.freeze()

    def test_forgets_what_it_had_read(self, archive):
        flush(archive)
        assert archive.get(b"new") is None
        archive.put(b"new", file(9))
        flush(archive)
        assert archive.get(b"new") == file(9)
        archive.remove(b"new")
        flush(archive)
        assert archive.get(b"new") is None


class TestThaw:
    def test_takes_a_generation_back_under_what_is_newer(self, archive, rows):
        archive.freeze()
        archive.put(b"z", file(6))
        archive.put(b"late", file(8))
        archive.remove(b"a/b")
        before = content(archive)
        archive.thaw()

        assert content(archive) == before
        assert content(Archive(rows)) == {}
        flush(archive)
        assert content(Archive(rows)) == before

    def test_a_thaw_without_a_frozen_generation_changes_nothing(self, archive) -> None:
        before = content(archive)

        archive.thaw()

        assert content(archive) == before
        assert archive.uncommitted == len(before)

    def test_keeps_renames(self, archive, rows):
        flush(archive)
        archive.rename(b"a", b"c", directory(1))
        archive.freeze()
        archive.rename(b"c", b"e", directory(1))
        archive.thaw()

        assert archive.find_inode(Side.LEFT, 3) == b"e/b/f"
        flush(archive)
        assert content(Archive(rows)) == content(archive)


class TestRollBack:
    def test_forgets_all_that_is_not_in_the_rows(self, archive, rows):
        flush(archive)
        committed = content(archive)
        archive.rename(b"a", b"c", directory(1))
        archive.freeze()
        archive.put(b"late", file(8))
        archive.put(b"z", file(9))
        archive.roll_back()

        assert content(archive) == committed
        assert archive.count == 5
        assert archive.uncommitted == 0
        assert not archive.freeze()

    def test_gives_no_id_twice(self, archive, rows):
        archive.roll_back()
        archive.put(b"n", directory(1))
        archive.put(b"m", directory(2))
        archive.put(b"n/f", file(3))
        flush(archive)

        assert set(content(Archive(rows))) == {b"n", b"n/f", b"m"}


class TestReplay:
    def test_of_the_changes_since_a_commit_makes_the_same_archive(self, archive, rows):
        flush(archive)
        archive.take_changes()
        archive.rename(b"a", b"c", directory(1))
        archive.put(b"c/g", file(8))
        archive.put(b"a", file(9))
        archive.remove(b"z")
        archive.remove(b"z")  # nothing is there: nothing is said
        changes = archive.take_changes()
        assert [change.path for change in changes] == [b"c", b"c/g", b"a", b"z"]
        assert archive.take_changes() == []

        later = Archive(rows)
        for change in changes:
            later.replay(change)
        assert content(later) == content(archive)
        assert later.count == archive.count
        assert later.take_changes() == []

    def test_on_top_of_itself_changes_nothing(self, archive):
        archive.rename(b"a/b", b"b", directory(2))
        archive.remove(b"a/f")
        before = content(archive)
        for change in archive.take_changes():
            archive.replay(change)

        assert content(archive) == before

    @pytest.mark.parametrize("names", [(b"a", b"c"), (b"a", b"c", b"d"), (b"a", b"c", b"a", b"c")])
    @pytest.mark.parametrize("again", [True, False])
    def test_of_a_renamed_directory_keeps_what_is_in_it(self, archive, rows, names, again):
        flush(archive)
        archive.take_changes()
        for number, (old, new) in enumerate(itertools.pairwise(names), 10):
            archive.rename(old, new, directory(1))
            archive.put(new + b"/g", file(number))
            if again:  # another one comes to the old path, and goes again where the first returns
                archive.remove(old)
                archive.put(old, directory(90 + number))
                archive.put(old + b"/x", file(80 + number))
        flush(archive)
        before = content(archive)
        changes = archive.take_changes()

        later = Archive(rows)
        for change in changes:
            later.replay(change)

        assert content(later) == before
        assert later.get(names[-1] + b"/b/f") == file(3)

    def test_of_a_new_directory_that_was_renamed_makes_one(self, archive, rows):
        flush(archive)
        archive.take_changes()
        archive.put(b"n", directory(10))
        archive.put(b"n/f", file(11))
        archive.rename(b"n", b"m", directory(10))
        flush(archive)
        later = Archive(rows)
        for change in archive.take_changes():
            later.replay(change)

        assert content(later) == content(archive)
        assert later.count == archive.count

    def test_passes_over_what_went_with_its_directory(self, archive):
        changes = archive.take_changes()
        archive.remove(b"a/b")
        archive.put(b"a/b", file(6))
        for change in changes:
            if change.path == b"a/b/f":
                archive.replay(change)

        assert archive.get(b"a/b/f") is None
        assert archive.get(b"a/b") == file(6)

    def test_has_nothing_of_what_was_rolled_back(self, archive):
        archive.roll_back()

        assert archive.take_changes() == []


class TestFindInode:
    def test_asks_no_rows_while_there_are_none(
        self, rows: MemoryRows, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        archive = Archive(rows)
        monkeypatch.delattr(MemoryRows, "by_inode")

        archive.put(b"a", file(1))

        assert archive.find_inode(Side.LEFT, 1) == b"a"
        assert archive.find_links(Side.LEFT, 2) == []

    def test_knows_no_place_whose_directory_is_gone(self, archive, rows):
        flush(archive)
        # The rows still name a/b/f; a/b has gone to another place, and something else stands there.
        archive.remove(b"a")
        archive.put(b"a", directory(7))
        archive.put(b"a/b", directory(8))

        assert archive.find_inode(Side.LEFT, 3) is None
        assert archive.find_inode(Side.LEFT, 8) == b"a/b"

    def test_knows_no_place_in_a_directory_that_the_rows_lost(self, archive, rows):
        flush(archive)
        rows._places.clear()  # as garbled as an index can be

        assert Archive(rows).find_inode(Side.LEFT, 3) is None
        assert Archive(rows).find_inode(Side.LEFT, 5) == b"z"

    def test_knows_no_place_where_another_inode_is_by_now(self, archive):
        flush(archive)
        archive.put(b"z", file(6))

        assert archive.find_inode(Side.LEFT, 5) is None

    def test_finds_it_again_after_it_went_and_came(self, archive):
        flush(archive)
        archive.remove(b"z")
        assert archive.find_inode(Side.LEFT, 5) is None
        archive.put(b"a/y", file(5))
        assert archive.find_inode(Side.LEFT, 5) == b"a/y"


class TestDigest:
    def test_is_that_of_the_directory_as_each_side_holds_it(self, archive, stage):
        for side in Side:
            assert archive.digest(side, b"a") == directory_digest(
                directory(1).on(side), [(b"b", directory(2).on(side)), (b"f", file(4).on(side))]
            )
        assert archive.digest(Side.LEFT, b"a") != archive.digest(Side.RIGHT, b"a")

    def test_of_what_is_no_agreed_directory_is_empty(self, archive, stage):
        for path in (ROOT, b"z", b"nowhere", b"nowhere/d"):
            assert archive.digest(Side.LEFT, path) == b""

    def test_is_remembered_for_the_next_start(self, archive, rows):
        flush(archive)
        known = archive.digest(Side.LEFT, b"a")
        assert rows.digest(2, Side.LEFT) == b""
        archive.remember_digests()

        assert rows.digest(2, Side.LEFT) == known
        assert rows.digest(2, Side.RIGHT) == b""
        assert Archive(rows).digest(Side.LEFT, b"a") == known

    def test_is_taken_from_the_rows_while_nothing_changed(self, archive, rows):
        flush(archive)
        rows.set_digests([(2, Side.LEFT, b"known")])
        assert archive.digest(Side.LEFT, b"a") == b"known"

        archive.put(b"a/g", file(9))
        assert archive.digest(Side.LEFT, b"a") not in (b"", b"known")

    def test_that_is_no_longer_true_is_not_remembered(self, archive, rows):
        flush(archive)
        archive.digest(Side.LEFT, b"a")
        archive.put(b"a/g", file(9))
        archive.remember_digests()

        assert rows.digest(2, Side.LEFT) == b""

    def test_changes_with_the_directory_itself(self, archive):
        flush(archive)
        before = archive.digest(Side.LEFT, b"a/b")
        archive.remember_digests()
        archive.put(b"a/b", directory(2, mode=0o700))

        assert archive.digest(Side.LEFT, b"a/b") != before


# --- against a model -------------------------------------------------------------------------

NAMES = [b"a", b"b", b"c"]


class Model:
    """What an archive has to say: dictionaries of paths, one for each layer."""

    def __init__(self) -> None:
        self.now: dict[bytes, Agreed] = {}
        self.frozen: dict[bytes, Agreed] | None = None
        self.committed: dict[bytes, Agreed] = {}

    def directories(self) -> list[bytes]:
        return [ROOT, *(p for p, agreed in self.now.items() if agreed.kind == Kind.DIRECTORY)]

    def remove(self, path: bytes) -> None:
        self.now = {p: a for p, a in self.now.items() if p != path and not is_below(p, path)}

    def put(self, path: bytes, agreed: Agreed) -> None:
        if agreed.kind != Kind.DIRECTORY:
            self.remove(path)
        self.now[path] = agreed

    def rename(self, old: bytes, new: bytes, agreed: Agreed) -> None:
        moved = {p: a for p, a in self.now.items() if is_below(p, old)}
        self.remove(old)
        self.remove(new)
        self.now.update({new + p[len(old) :]: a for p, a in moved.items()})
        self.now[new] = agreed


@given(st.integers(0, 1 << 32))
def test_archive_says_what_a_dictionary_would(seed):
    chance = random.Random(seed)
    rows, model = MemoryRows(), Model()
    archive = Archive(rows)

    def place() -> bytes:
        path = chance.choice(sorted(model.directories()))
        return (path + b"/" if path.count(b"/") < 2 and path else b"") + chance.choice(NAMES)

    for ino in range(1, 40):
        path = place()
        match chance.randrange(9):
            case 0 | 1:
                agreed = file(ino)
                archive.put(path, agreed), model.put(path, agreed)
            case 2 | 3:
                agreed = directory(ino)
                archive.put(path, agreed), model.put(path, agreed)
            case 4:
                archive.remove(path), model.remove(path)
            case 5 if model.now:
                old = chance.choice(sorted(model.now))
                if old != path and not is_below(path, old) and not is_below(old, path):
                    agreed = model.now[old]
                    archive.rename(old, path, agreed), model.rename(old, path, agreed)
            case 6 if model.frozen is None:
                if archive.freeze():
                    model.frozen = dict(model.now)
            case 7 if model.frozen is not None:
                if chance.random() < 0.3:
                    archive.thaw()
                else:
                    archive.commit()
                    model.committed = model.frozen
                model.frozen = None
            case 8 if chance.random() < 0.2:
                archive.roll_back()
                model.now, model.frozen = dict(model.committed), None

        assert content(archive) == model.now
        assert archive.count == len(model.now)
        assert all(parent(p) in model.directories() for p in content(archive))
        for p, agreed in model.now.items():
            assert archive.find_inode(Side.LEFT, agreed.left_ino) == p
            if agreed.kind == Kind.DIRECTORY:
                fresh = directory_digest(
                    agreed.on(0), [(name, child.on(0)) for name, child in archive.children(p)]
                )
                assert archive.digest(Side.LEFT, p) == fresh
        assert content(Archive(rows)) == model.committed
