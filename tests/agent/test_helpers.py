"""Transitions on a real file system, while nobody else does anything."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from psync import helpers as helpers_module
from psync import quarantine as quarantine_module
from psync.core.entry import Kind, content_digest
from psync.helpers import NotDurableError, marker
from psync.syscalls import EXCHANGE, NOREPLACE, renameat2
from psync.wire import (
    APPLIED,
    CHANGED,
    DELETE,
    FAILED,
    IN_USE,
    NO_PARENT,
    NOT_EMPTY,
    PUT,
    RENAME,
    Transition,
)
from tests.support.replica import MTIME_NS, Replica, directory, file, link

ROOT = os.geteuid() == 0


@pytest.fixture
def replica(tmp_path: Path):
    made = Replica(tmp_path)
    yield made
    made.close()


def statuses(outcomes):
    return [outcome.status for outcome in outcomes]


class TestPrepare:
    def test_s06_s09_makes_its_own_directory_for_nobody_else(self, replica):
        control = replica.root / ".psync"

        assert stat.S_IMODE(control.stat().st_mode) == 0o700
        assert {p.name for p in control.iterdir()} == {
            "conflicts", "journal", "marker", "quarantine", "stage", "trash",
        }  # fmt: skip

    def test_writes_the_marker(self, tmp_path, replica):
        assert marker(replica.fd) == ("pair", "left")

        replica.helpers.close()
        replica.helpers.prepare("another", 1)

        assert marker(replica.fd) == ("another", "right")

    @pytest.mark.parametrize("text", ["", "pair", "pair\nmiddle\n", "pair\nleft", "\xff\n1\n2\n3"])
    def test_a_marker_that_is_not_whole_is_none(self, replica, text):
        (replica.root / ".psync/marker").write_text(text, encoding="latin-1")

        assert marker(replica.fd) == ("", "")

    def test_leaves_the_time_of_the_root(self, tmp_path):
        os.utime(tmp_path, ns=(MTIME_NS, MTIME_NS))

        Replica(tmp_path).close()

        assert tmp_path.stat().st_mtime_ns == MTIME_NS

    @pytest.mark.parametrize("what", ["file", "link", "directory"])
    def test_n16_s06_refuses_what_a_user_has_called_so(self, tmp_path, what):
        taken = tmp_path / ".psync"
        if what == "file":
            taken.write_text("mine")
        elif what == "link":
            (tmp_path / "elsewhere").mkdir()
            taken.symlink_to("elsewhere")
        else:
            taken.mkdir()
            (taken / "notes").write_text("mine")
        replica = Replica(tmp_path, prepare=False)

        with pytest.raises(OSError, match=r"'\.psync' in the root is"):
            replica.helpers.prepare("pair", 0)

        replica.close()
        assert not (taken / "marker").exists()

    def test_refuses_a_file_system_that_cannot_exchange(self, tmp_path, monkeypatch):
        def refuse(*args):
            raise OSError(22, "Invalid argument")

        monkeypatch.setattr("psync.staging.renameat2", refuse)
        replica = Replica(tmp_path, prepare=False)

        with pytest.raises(OSError, match="cannot exchange two names"):
            replica.helpers.prepare("pair", 0)

        assert not list((tmp_path / ".psync/stage").iterdir())
        replica.close()

    def test_c15_refuses_a_file_system_that_folds_case(self, tmp_path, monkeypatch):
        """What such a one says is said for it: none can be mounted on every kernel."""

        def fold(path, **options):
            return real(path.lower() if isinstance(path, bytes) else path, **options)

        real = os.stat
        monkeypatch.setattr("psync.staging.os.stat", fold)
        replica = Replica(tmp_path, prepare=False)

        with pytest.raises(OSError, match="upper and lower case in names for the same"):
            replica.helpers.prepare("pair", 0)

        monkeypatch.undo()
        assert not list((tmp_path / ".psync/stage").iterdir())
        replica.close()


class TestCreate:
    def test_makes_a_file_whole_with_mode_and_time(self, replica):
        outcome, = replica.apply(replica.put(b"f", file(b"text", 0o640), b"text"))  # fmt: skip

        assert outcome.status == APPLIED
        assert outcome.entry == replica.look(b"f")
        assert outcome.entry[:6] == (Kind.FILE, 0o640, 0, 0, 4, MTIME_NS)
        assert outcome.entry.digest == content_digest(b"text")
        assert replica.tree() == {b"f": b"text"}
        assert replica.helpers.own == {b"f": outcome.entry}
        assert replica.leftovers() == []

    def test_digest_is_that_of_the_content_whatever_was_claimed(self, replica):
        claimed = file(b"other")._replace(size=4)

        (outcome,) = replica.apply(replica.put(b"f", claimed, b"text"))

        assert outcome.entry.digest == content_digest(b"text")

    def test_makes_directories_and_links(self, replica):
        outcomes = replica.apply(
            replica.put(b"d", directory(0o700)),
            replica.put(b"d/f", file(b"text"), b"text"),
            replica.put(b"d/l", link(b"../nowhere\xff")),
        )

        assert statuses(outcomes) == [APPLIED] * 3
        assert replica.tree() == {b"d": b"/", b"d/f": b"text", b"d/l": b"-> ../nowhere\xff"}
        for path, outcome in zip([b"d", b"d/f", b"d/l"], outcomes, strict=True):
            assert outcome.entry == replica.look(path)
            assert outcome.entry.mtime_ns == MTIME_NS

    def test_never_overwrites(self, replica):
        there = replica.write(b"f", b"mine")

        (outcome,) = replica.apply(replica.put(b"f", file(b"text"), b"text"))

        assert outcome.status == CHANGED
        assert outcome.entry == there._replace(digest=b"")
        assert replica.tree() == {b"f": b"mine"}
        assert replica.helpers.own == {}
        assert replica.leftovers() == []

    def test_takes_no_directory_that_is_there_for_its_own(self, replica):
        """A user has just renamed it to there: the brain misses its files if it is not told."""
        replica.write(b"d/f", b"text")
        replica.apply(replica.put(b"e", directory()))
        replica.apply(replica.put(b"d", directory(0o700)))

        assert set(replica.helpers.own) == {b"e"}

    def test_a_directory_that_is_there_gets_mode_and_time(self, replica):
        replica.write(b"d/f", b"mine")

        (outcome,) = replica.apply(replica.put(b"d", directory(0o750)))

        assert outcome.status == APPLIED
        assert outcome.entry == replica.look(b"d")
        assert (outcome.entry.mode, outcome.entry.mtime_ns) == (0o750, MTIME_NS)

    def test_a_directory_does_not_take_the_place_of_a_file(self, replica):
        replica.write(b"d", b"mine")

        (outcome,) = replica.apply(replica.put(b"d", directory()))

        assert outcome.status == CHANGED
        assert replica.tree() == {b"d": b"mine"}

    @pytest.mark.parametrize("parent", ["missing", "file", "link"])
    def test_needs_its_parent(self, replica, parent):
        if parent == "file":
            replica.write(b"d", b"")
        elif parent == "link":
            (replica.root / "d").symlink_to("/tmp")

        (outcome,) = replica.apply(replica.put(b"d/f", file(b""), b""))

        assert outcome.status == NO_PARENT
        assert outcome.entry is None
        assert replica.leftovers() == []

    def test_directory_times_stay_what_the_users_made_them(self, replica):
        os.utime(replica.root, ns=(MTIME_NS, MTIME_NS))

        replica.apply(
            replica.put(b"d", directory(mtime_ns=MTIME_NS + 5)),
            replica.put(b"d/e", directory(mtime_ns=MTIME_NS + 6)),
            replica.put(b"d/e/f", file(b""), b""),
            replica.put(b"d/g", file(b""), b""),
        )

        assert replica.look(b"").mtime_ns == MTIME_NS
        assert replica.look(b"d").mtime_ns == MTIME_NS + 5
        assert replica.look(b"d/e").mtime_ns == MTIME_NS + 6

    def test_an_empty_and_a_large_file(self, replica):
        large = os.urandom(3_000_000)

        outcomes = replica.apply(
            replica.put(b"empty", file(b""), b""), replica.put(b"large", file(large), large)
        )

        assert statuses(outcomes) == [APPLIED, APPLIED]
        assert replica.tree() == {b"empty": b"", b"large": large}

    def test_a_file_without_permissions(self, replica):
        (outcome,) = replica.apply(replica.put(b"f", file(b"text", 0), b"text"))

        assert outcome.status == APPLIED
        assert stat.S_IMODE((replica.root / "f").stat().st_mode) == 0

    @pytest.mark.parametrize("mtime_ns", [0, -1_500_000_000, 4_000_000_000_000_000_001])
    def test_a14_times_before_1970_and_after_2038(self, replica, mtime_ns):
        (outcome,) = replica.apply(replica.put(b"f", file(b"", mtime_ns=mtime_ns), b""))

        assert outcome.entry.mtime_ns == mtime_ns

    @pytest.mark.parametrize("mtime_ns", [-(1 << 63) - 1, 1 << 63])
    def test_a14_times_that_cannot_be_held_are_said_to_be_what_is_wrong(self, replica, mtime_ns):
        before = replica.write(b"g", b"")
        outcomes = replica.apply(
            replica.put(b"f", file(b"", mtime_ns=mtime_ns), b""),
            replica.put(b"d", directory()._replace(mtime_ns=mtime_ns)),
            replica.put(b"l", link(b"x")._replace(mtime_ns=mtime_ns)),
            replica.meta(b"g", before, before._replace(mtime_ns=mtime_ns)),
        )

        for outcome, name in zip(outcomes, "fdlg", strict=True):
            assert outcome.status == FAILED
            assert outcome.message.startswith(f"the time of {name} is beyond what 64 bits")

    def test_a10_special_bits_only_where_they_are_replicated(self, tmp_path):
        for strip, mode in ((True, 0o755), (False, 0o6755)):
            root = tmp_path / str(strip)
            root.mkdir()
            replica = Replica(root, strip=strip)

            (outcome,) = replica.apply(replica.put(b"f", file(b"", 0o6755), b""))

            assert outcome.entry.mode == mode
            assert stat.S_IMODE((root / "f").stat().st_mode) == mode
            replica.close()

    @pytest.mark.skipif(not ROOT, reason="only root gives files away")
    def test_owners_where_they_are_replicated(self, tmp_path):
        replica = Replica(tmp_path, owners=True, strip=False)
        wanted = file(b"", 0o4755)._replace(uid=1234, gid=2345)

        outcomes = replica.apply(
            replica.put(b"f", wanted, b""),
            replica.put(b"l", link(b"x")._replace(uid=1234, gid=2345)),
            replica.put(b"d", directory()._replace(uid=1234, gid=2345)),
        )

        assert statuses(outcomes) == [APPLIED] * 3
        assert [o.entry[1:4] for o in outcomes] == [
            (0o4755, 1234, 2345), (0, 1234, 2345), (0o755, 1234, 2345),
        ]  # fmt: skip
        replica.close()


class TestNames:
    @pytest.mark.parametrize(
        "name",
        [b"x" * 255, b"\xff\xfe" * 127, b"a\nb\tc\x1b", b"-rf", b"a:b", b" ", "ö".encode() * 127],
    )
    def test_n08_any_name_goes_through_everything(self, replica, name):
        (made,) = replica.apply(replica.put(name, file(b"1"), b"1"))
        (replaced,) = replica.apply(replica.put(name, file(b"2"), b"2", made.entry, keep=True))
        (renamed,) = replica.apply(replica.rename(name, replaced.entry, b"d"))
        (back,) = replica.apply(replica.rename(b"d", renamed.entry, name))
        (gone,) = replica.apply(replica.delete(name, back.entry))
        replica.finish()

        assert statuses([made, replaced, renamed, back, gone]) == [APPLIED] * 5
        assert replica.conflicts() == {name: (b"1", "conflict")}
        assert replica.leftovers() == []

    def test_n07_paths_longer_than_the_kernel_takes(self, replica):
        path = b""
        transitions = []
        for _ in range(25):
            path = path + b"/" + b"d" * 250 if path else b"d" * 250
            transitions.append(replica.put(path, directory()))
        transitions.append(replica.put(path + b"/f", file(b"deep"), b"deep"))

        outcomes = replica.apply(*transitions)
        (gone,) = replica.apply(replica.delete(path + b"/f", outcomes[-1].entry))
        removed = replica.apply(
            *[
                replica.rmdir(t.path, o.entry)
                for t, o in reversed(list(zip(transitions, outcomes, strict=True))[:-1])
            ]
        )

        assert statuses(outcomes) == [APPLIED] * 26
        assert len(path) > 6000
        assert gone.status == APPLIED
        assert statuses(removed) == [APPLIED] * 25

    @pytest.mark.parametrize(
        "path",
        [b"", b"..", b"../x", b"a/../../x", b"/etc/x", b"a//b", b"./a", b"a\0b", b"x" * 256,
         b".psync", b".psync/marker", b".psync/stage/x", b"x.psync.ignore", b"d.psync.ignore/x"],
    )  # fmt: skip
    def test_s02_refuses_what_is_no_path_of_the_replica(self, replica, path):
        there = replica.write(b"there", b"text")

        outcomes = replica.apply(
            replica.put(path, file(b"evil"), b"evil"),
            replica.delete(path, there),
            replica.rmdir(path, directory()),
            replica.rename(b"there", there, path),
            replica.rename(path, there, b"new"),
        )

        assert statuses(outcomes) == [FAILED] * 5
        assert all("is no path of this replica" in outcome.message for outcome in outcomes)
        assert all("\n" not in outcome.message for outcome in outcomes)
        assert replica.tree() == {b"there": b"text"}


class TestReplace:
    def test_exchanges_the_whole_file(self, replica):
        old = replica.write(b"f", b"old")

        (outcome,) = replica.apply(replica.put(b"f", file(b"new!", 0o600), b"new!", old))

        assert outcome.status == APPLIED
        assert outcome.entry == replica.look(b"f")
        assert replica.tree() == {b"f": b"new!"}
        assert replica.helpers.own == {b"f": outcome.entry}

    def test_what_was_displaced_is_dropped_after_a_last_look(self, replica):
        old = replica.write(b"f", b"old")

        replica.apply(replica.put(b"f", file(b"new"), b"new", old))

        assert replica.leftovers() != []
        assert replica.helpers.tick() == pytest.approx(60)
        replica.finish()
        assert replica.leftovers() == []
        assert replica.conflicts() == {}
        assert replica.helpers.kept == []

    @pytest.mark.parametrize("field", ["ino", "size", "mtime_ns", "ctime_ns", "kind"])
    def test_only_the_version_that_is_expected(self, replica, field):
        old = replica.write(b"f", b"old")
        wrong = old._replace(**{field: getattr(old, field) + 2})

        (outcome,) = replica.apply(replica.put(b"f", file(b"new"), b"new", wrong))

        assert outcome.status == CHANGED
        assert outcome.entry == old._replace(digest=b"")
        assert replica.tree() == {b"f": b"old"}
        assert replica.leftovers() == []

    def test_without_identity_kind_size_and_time_decide(self, replica):
        old = replica.write(b"f", b"old")._replace(ino=0, ctime_ns=0)

        wrong, right = replica.apply(
            replica.put(b"f", file(b"new"), b"new", old._replace(mtime_ns=1)),
            replica.put(b"f", file(b"new"), b"new", old),
        )

        assert (wrong.status, right.status) == (CHANGED, APPLIED)

    def test_nothing_is_no_version(self, replica):
        old = replica.write(b"f", b"old")
        (replica.root / "f").unlink()

        (outcome,) = replica.apply(replica.put(b"f", file(b"new"), b"new", old))

        assert (outcome.status, outcome.entry) == (CHANGED, None)
        assert replica.tree() == {}

    def test_a_loser_goes_to_the_conflict_store_at_once(self, replica):
        old = replica.write(b"d/f\n", b"loser")

        (outcome,) = replica.apply(replica.put(b"d/f\n", file(b"new"), b"new", old, keep=True))

        assert outcome.status == APPLIED
        assert replica.conflicts() == {b"d/f\n": (b"loser", "conflict")}
        kept = replica.root / ".psync/conflicts" / outcome.kept.decode()
        assert kept.read_bytes() == b"loser"
        assert kept.stat().st_mtime_ns == old.mtime_ns
        assert replica.leftovers() == []
        assert replica.helpers.kept == []  # the outcome has said it

    def test_writers_are_not_disturbed(self, replica):
        old = replica.write(b"f", b"old")

        with open(replica.root / "f", "ab") as writer:
            (busy,) = replica.apply(replica.put(b"f", file(b"new"), b"new", old))
            writer.write(b" and more")
        (later,) = replica.apply(replica.put(b"f", file(b"new"), b"new", replica.look(b"f")))

        assert busy.status == IN_USE
        assert later.status == APPLIED

    def test_r10_readers_disturb_nobody(self, replica):
        old = replica.write(b"f", b"old")

        with open(replica.root / "f", "rb") as reader:
            (outcome,) = replica.apply(replica.put(b"f", file(b"new"), b"new", old))
            assert reader.read() == b"old"

        assert outcome.status == APPLIED

    def test_replaces_the_name_never_the_inode(self, replica, tmp_path_factory):
        outside = tmp_path_factory.mktemp("outside") / "passwd"
        outside.write_bytes(b"precious")
        os.link(outside, replica.root / "f")

        (outcome,) = replica.apply(replica.put(b"f", file(b"new"), b"new", replica.look(b"f")))
        replica.finish()

        assert outcome.status == APPLIED
        assert outside.read_bytes() == b"precious"

    @pytest.mark.skipif(not ROOT, reason="only root gives files away")
    def test_a08_keeps_its_owner_where_owners_are_not_replicated(self, replica):
        replica.write(b"f", b"old")
        os.chown(replica.root / "f", 1234, 2345)

        replica.apply(replica.put(b"f", file(b"new", 0o640), b"new", replica.look(b"f")))

        st = (replica.root / "f").stat()
        assert (st.st_uid, st.st_gid, stat.S_IMODE(st.st_mode)) == (1234, 2345, 0o640)

    def test_a_link_by_a_link(self, replica):
        (replica.root / "l").symlink_to("old")

        (outcome,) = replica.apply(replica.put(b"l", link(b"new"), None, replica.look(b"l")))

        assert outcome.status == APPLIED
        assert outcome.entry == replica.look(b"l")
        assert replica.leftovers() == []  # a link's text cannot change: no last look

    def test_several_times_in_one_batch(self, replica):
        first = replica.write(b"f", b"0")
        second = replica.apply(replica.put(b"f", file(b"1"), b"1", first))[0].entry
        third = replica.apply(replica.put(b"f", file(b"2"), b"2", second))[0].entry
        replica.finish()

        assert replica.look(b"f") == third
        assert replica.leftovers() == []
        assert replica.conflicts() == {}


class TestTypeChange:
    KINDS = {  # noqa: RUF012
        "file": (file(b"new"), b"new", b"new"),
        "link": (link(b"new"), None, b"-> new"),
        "directory": (directory(), None, b"/"),
    }

    @pytest.mark.parametrize("keep", [False, True])
    @pytest.mark.parametrize("to", KINDS)
    @pytest.mark.parametrize("before", KINDS)
    def test_from_anything_to_anything(self, replica, before, to, keep):
        wanted, content, _ = self.KINDS[before]
        (made,) = replica.apply(replica.put(b"p", wanted, content))
        wanted, content, text = self.KINDS[to]

        (outcome,) = replica.apply(replica.put(b"p", wanted, content, made.entry, keep=keep))
        replica.finish()

        assert outcome.status == APPLIED
        assert outcome.entry == replica.look(b"p")
        assert replica.tree() == {b"p": text}
        assert bool(outcome.kept) == (keep and before != "directory")
        assert replica.leftovers() == []

    def test_a_directory_with_something_in_it_stays(self, replica):
        replica.write(b"d/x", b"mine")

        (outcome,) = replica.apply(replica.put(b"d", file(b"new"), b"new", replica.look(b"d")))

        assert outcome.status == NOT_EMPTY
        assert replica.tree() == {b"d": b"/", b"d/x": b"mine"}
        assert replica.leftovers() == []


class TestDelete:
    def test_removes_a_file(self, replica):
        old = replica.write(b"d/f", b"old")
        os.utime(replica.root / "d", ns=(MTIME_NS, MTIME_NS))

        (outcome,) = replica.apply(replica.delete(b"d/f", old))

        assert (outcome.status, outcome.entry) == (APPLIED, None)
        assert replica.tree() == {b"d": b"/"}
        assert replica.look(b"d").mtime_ns == MTIME_NS
        assert replica.helpers.own == {b"d/f": None}
        replica.finish()
        assert replica.leftovers() == []

    def test_only_the_version_that_is_expected(self, replica):
        old = replica.write(b"f", b"old")
        new = replica.write(b"f", b"newer")

        (outcome,) = replica.apply(replica.delete(b"f", old))

        assert (outcome.status, outcome.entry) == (CHANGED, new._replace(digest=b""))
        assert replica.tree() == {b"f": b"newer"}

    def test_what_is_gone_already_is_no_trouble(self, replica):
        (outcome,) = replica.apply(replica.delete(b"f", None))

        assert (outcome.status, outcome.entry) == (APPLIED, None)

    def test_nothing_expected_removes_nothing(self, replica):
        replica.write(b"f", b"mine")

        (outcome,) = replica.apply(replica.delete(b"f", None))

        assert outcome.status == CHANGED
        assert replica.tree() == {b"f": b"mine"}

    def test_keeps_a_loser(self, replica):
        old = replica.write(b"f", b"loser")

        (outcome,) = replica.apply(replica.delete(b"f", old, keep=True))

        assert replica.conflicts() == {b"f": (b"loser", "conflict")}
        assert outcome.kept

    def test_never_removes_a_directory(self, replica):
        (replica.root / "d").mkdir()

        (outcome,) = replica.apply(replica.delete(b"d", replica.look(b"d")))

        assert outcome.status == FAILED
        assert replica.tree() == {b"d": b"/"}

    def test_c24_c26_a_dozen_of_the_same_name(self, replica):
        for n in range(12):
            entry = replica.write(b"f", b"%d" % n)
            assert replica.apply(replica.delete(b"f", entry, keep=True))[0].status == APPLIED

        assert len(list((replica.root / ".psync/conflicts").glob("*.json"))) == 12


class TestRemoveDirectory:
    def test_removes_an_empty_one(self, replica):
        (replica.root / "d").mkdir()

        (outcome,) = replica.apply(replica.rmdir(b"d", replica.look(b"d")))

        assert (outcome.status, outcome.entry) == (APPLIED, None)
        assert replica.tree() == {}

    def test_leaves_one_with_something_in_it(self, replica):
        replica.write(b"d/x.psync.ignore", b"mine")

        (outcome,) = replica.apply(replica.rmdir(b"d", replica.look(b"d")))

        assert outcome.status == NOT_EMPTY
        assert replica.tree() == {b"d": b"/", b"d/x.psync.ignore": b"mine"}

    @pytest.mark.parametrize("there", ["nothing", "file", "another"])
    def test_only_the_one_that_is_expected(self, replica, there):
        (replica.root / "d").mkdir()
        expected = replica.look(b"d")
        (replica.root / "keep-the-inode").mkdir()
        shutil.rmtree(replica.root / "d")
        if there == "file":
            replica.write(b"d", b"mine")
        elif there == "another":
            (replica.root / "d").mkdir()
            expected = expected._replace(ino=replica.look(b"keep-the-inode").ino)

        (outcome,) = replica.apply(replica.rmdir(b"d", expected))

        assert outcome.status == CHANGED
        assert (b"d" in replica.tree()) == (there != "nothing")

    def test_with_all_that_is_in_it_if_that_is_to_be_kept(self, replica):
        replica.write(b"d/e/x.psync.ignore", b"mine")

        (outcome,) = replica.apply(replica.rmdir(b"d", replica.look(b"d"), keep=True))

        assert outcome.status == APPLIED
        assert replica.tree() == {}
        assert replica.conflicts() == {b"d": (b"/", "forced")}
        kept = replica.root / ".psync/conflicts" / outcome.kept.decode()
        assert (kept / "e/x.psync.ignore").read_bytes() == b"mine"

    def test_that_is_another_when_it_is_set_aside_goes_back(self, replica):
        replica.write(b"d/x.psync.ignore", b"one")
        replica.write(b"other/x.psync.ignore", b"two")
        expected = replica.look(b"d")
        rename = os.rename

        def swap(at):
            if at == "full":
                rename(replica.root / "d", replica.root / "was")
                rename(replica.root / "other", replica.root / "d")

        replica.helpers.step = swap
        (outcome,) = replica.apply(replica.rmdir(b"d", expected, keep=True))

        assert outcome.status == CHANGED
        assert (replica.root / "d/x.psync.ignore").read_bytes() == b"two"
        assert (replica.root / "was/x.psync.ignore").read_bytes() == b"one"
        assert replica.conflicts() == {}

    def test_that_is_set_aside_is_found_after_a_crash(self, tmp_path, replica):
        class Crash(Exception):
            pass

        def crash(at):
            if at == "displaced":
                raise Crash

        replica.write(b"d/x.psync.ignore", b"mine")
        replica.helpers.step = crash
        with pytest.raises(Crash):
            replica.apply(replica.rmdir(b"d", replica.look(b"d"), keep=True))

        replica.helpers.step = lambda at: None
        replica.helpers.recover()

        ((content, _),) = replica.conflicts().values()
        assert content == b"/"
        (kept,) = [p for p in (replica.root / ".psync/conflicts").iterdir() if p.is_dir()]
        assert (kept / "x.psync.ignore").read_bytes() == b"mine"


class TestRename:
    @pytest.mark.parametrize("kind", ["file", "link", "directory"])
    def test_to_a_free_name(self, replica, kind):
        replica.write(b"to/other", b"")
        if kind == "file":
            replica.write(b"from/x", b"text")
        elif kind == "link":
            replica.write(b"from/other", b"")
            (replica.root / "from/x").symlink_to("target")
        else:
            replica.write(b"from/x/child", b"text")
        for name in ("from", "to"):
            os.utime(replica.root / name, ns=(MTIME_NS, MTIME_NS))
        source = replica.look(b"from/x")

        (outcome,) = replica.apply(replica.rename(b"from/x", source, b"to/y"))

        assert outcome.status == APPLIED
        assert outcome.entry == replica.look(b"to/y")._replace(digest=b"")
        assert outcome.entry.ino == source.ino
        assert b"from/x" not in replica.tree()
        assert replica.look(b"from").mtime_ns == replica.look(b"to").mtime_ns == MTIME_NS
        assert replica.helpers.own == {b"from/x": None, b"to/y": outcome.entry}

    def test_within_a_directory(self, replica):
        source = replica.write(b"a", b"text")

        (outcome,) = replica.apply(replica.rename(b"a", source, b"b"))

        assert outcome.status == APPLIED
        assert replica.tree() == {b"b": b"text"}

    def test_never_overwrites(self, replica):
        source = replica.write(b"a", b"text")
        replica.write(b"b", b"mine")

        (outcome,) = replica.apply(replica.rename(b"a", source, b"b"))

        assert outcome.status == CHANGED
        assert replica.tree() == {b"a": b"text", b"b": b"mine"}

    def test_only_the_version_that_is_expected(self, replica):
        source = replica.write(b"a", b"text")
        replica.write(b"a", b"other")

        (outcome,) = replica.apply(replica.rename(b"a", source, b"b"))

        assert (outcome.status, outcome.entry) == (CHANGED, None)
        assert replica.tree() == {b"a": b"other"}

    @pytest.mark.parametrize("keep", [False, True])
    def test_over_what_is_expected(self, replica, keep):
        source = replica.write(b"from/a", b"new")
        target = replica.write(b"to/b", b"old")

        (outcome,) = replica.apply(replica.rename(b"from/a", source, b"to/b", target, keep=keep))
        replica.finish()

        assert outcome.status == APPLIED
        assert outcome.entry == replica.look(b"to/b")._replace(digest=b"")
        assert replica.tree() == {b"from": b"/", b"to": b"/", b"to/b": b"new"}
        assert replica.conflicts() == ({b"to/b": (b"old", "conflict")} if keep else {})
        assert replica.leftovers() == []

    def test_over_another_version_changes_nothing(self, replica):
        source = replica.write(b"a", b"new")
        target = replica.write(b"b", b"old")
        replica.write(b"b", b"mine")

        (outcome,) = replica.apply(replica.rename(b"a", source, b"b", target))

        assert outcome.status == CHANGED
        assert replica.tree() == {b"a": b"new", b"b": b"mine"}

    def test_over_a_file_that_somebody_writes(self, replica):
        source = replica.write(b"a", b"new")
        target = replica.write(b"b", b"old")

        with open(replica.root / "b", "ab"):
            (outcome,) = replica.apply(replica.rename(b"a", source, b"b", target))

        assert outcome.status == IN_USE
        assert replica.tree() == {b"a": b"new", b"b": b"old"}

    def test_a_file_moves_with_whoever_writes_it(self, replica):
        source = replica.write(b"a", b"text")

        with open(replica.root / "a", "ab") as writer:
            (outcome,) = replica.apply(replica.rename(b"a", source, b"b"))
            writer.write(b" and more")

        assert outcome.status == APPLIED
        assert replica.tree() == {b"b": b"text and more"}

    def test_over_an_empty_directory(self, replica):
        replica.write(b"a/x", b"text")
        (replica.root / "b").mkdir()

        (outcome,) = replica.apply(
            replica.rename(b"a", replica.look(b"a"), b"b", replica.look(b"b"))
        )

        assert outcome.status == APPLIED
        assert replica.tree() == {b"b": b"/", b"b/x": b"text"}

    def test_over_a_directory_with_something_in_it(self, replica):
        replica.write(b"a/x", b"text")
        replica.write(b"b/y", b"mine")

        (outcome,) = replica.apply(
            replica.rename(b"a", replica.look(b"a"), b"b", replica.look(b"b"))
        )

        assert outcome.status == NOT_EMPTY
        assert replica.tree() == {b"a": b"/", b"a/x": b"text", b"b": b"/", b"b/y": b"mine"}

    def test_a_directory_into_itself(self, replica):
        replica.write(b"a/x", b"text")

        (outcome,) = replica.apply(replica.rename(b"a", replica.look(b"a"), b"a/b"))

        assert outcome.status == FAILED
        assert replica.tree() == {b"a": b"/", b"a/x": b"text"}

    def test_children_are_found_under_the_new_name_in_the_same_batch(self, replica):
        child = replica.write(b"a/x", b"old")

        outcomes = replica.apply(
            replica.rename(b"a", replica.look(b"a"), b"b"),
            replica.put(b"b/x", file(b"new"), b"new", child),
        )

        assert statuses(outcomes) == [APPLIED, APPLIED]
        assert replica.tree() == {b"b": b"/", b"b/x": b"new"}


class TestLinks:
    @pytest.fixture
    def entry(self, replica):
        entry = replica.write(b"a", b"text")
        for name in (b"b", b"c"):
            os.link(replica / b"a", replica / name)
        return replica.look(b"a")._replace(digest=entry.digest)

    @pytest.mark.parametrize("read", [True, False])
    def test_of_one_file_go_in_one_batch_and_leave_nothing(self, replica, entry, read):
        if not read:
            entry = entry._replace(digest=b"")

        outcomes = replica.apply(*(replica.delete(name, entry) for name in (b"a", b"b", b"c")))
        replica.finish()

        assert statuses(outcomes) == [APPLIED] * 3
        assert replica.tree() == {}
        assert replica.conflicts() == {}
        assert replica.leftovers() == []

    def test_are_replaced_renamed_and_deleted_each_by_itself(self, replica, entry):
        new = file(b"new text")

        outcomes = replica.apply(
            replica.put(b"a", new, b"new text", entry),
            replica.rename(b"b", entry, b"moved"),
            replica.delete(b"c", entry),
        )

        assert statuses(outcomes) == [APPLIED] * 3
        assert replica.tree() == {b"a": b"new text", b"moved": b"text"}
        assert outcomes[1].entry.ino == entry.ino

    def test_are_expected_as_before_after_quarantine_too(self, replica, entry):
        entry = entry._replace(digest=b"")
        replica.apply(replica.delete(b"a", entry))
        replica.finish()

        assert statuses(replica.apply(replica.delete(b"b", entry))) == [APPLIED]

    @pytest.mark.parametrize("when", ["before", "between", "after"])
    def test_written_to_in_between_are_not_what_is_expected(self, replica, entry, when):
        def write():
            (replica / b"b").write_bytes(b"TEXT")
            os.utime(replica / b"b", ns=(0, entry.mtime_ns))

        if when == "before":
            write()
        outcomes = replica.apply(replica.delete(b"a", entry))
        if when == "between":
            write()
            outcomes += replica.apply(replica.delete(b"c", entry))
        outcomes += replica.apply(replica.delete(b"b", entry))
        if when == "after":
            write_to = next((replica.root / ".psync/quarantine").iterdir())
            write_to.write_bytes(b"TEXT")
        replica.finish()

        expected = {
            "before": [CHANGED, CHANGED],
            "between": [APPLIED, CHANGED, CHANGED],
            "after": [APPLIED, APPLIED],
        }
        assert statuses(outcomes) == expected[when]
        kept = [content for content, _ in replica.conflicts().values()]
        assert b"TEXT" in [*replica.tree().values(), *kept]

    def test_are_remembered_for_so_many_files(self, replica, monkeypatch):
        monkeypatch.setattr("psync.holding.LINKS_MAX", 2)
        entries = []
        for name in (b"1", b"2", b"3"):
            replica.write(name, name)
            os.link(replica / name, replica / (name + b"+"))
            entries.append(replica.look(name))
            replica.apply(replica.delete(name, entries[-1]))

        outcomes = replica.apply(
            *(replica.delete(n, e) for n, e in zip((b"1+", b"2+", b"3+"), entries, strict=True))
        )

        assert statuses(outcomes) == [CHANGED, APPLIED, APPLIED]


class TestMeta:
    def test_sets_mode_and_time_of_a_file(self, replica):
        old = replica.write(b"f", b"text")

        (outcome,) = replica.apply(replica.meta(b"f", old, file(b"text", 0o600)))

        assert outcome.status == APPLIED
        assert outcome.entry == replica.look(b"f")._replace(digest=b"")
        assert (outcome.entry.mode, outcome.entry.mtime_ns) == (0o600, MTIME_NS)
        assert outcome.entry.ino == old.ino

    def test_of_a_directory_after_its_children(self, replica):
        replica.write(b"d/x", b"")
        old = replica.look(b"d")

        outcomes = replica.apply(
            replica.put(b"d/y", file(b""), b""), replica.meta(b"d", old, directory(0o711))
        )

        assert statuses(outcomes) == [APPLIED, APPLIED]
        assert replica.look(b"d")[:6] == (Kind.DIRECTORY, 0o711, 0, 0, 0, MTIME_NS)

    def test_of_the_root(self, replica):
        outcomes = replica.apply(
            replica.put(b"x", file(b""), b""),
            replica.meta(b"", replica.look(b""), directory(0o750)),
        )

        assert statuses(outcomes) == [APPLIED, APPLIED]
        assert outcomes[1].entry == replica.look(b"")
        assert outcomes[1].entry[1:6] == (0o750, 0, 0, 0, MTIME_NS)

    def test_of_a_link(self, replica):
        (replica.root / "l").symlink_to("/etc/passwd")
        before = os.stat("/etc/passwd")

        (outcome,) = replica.apply(replica.meta(b"l", replica.look(b"l"), link(b"/etc/passwd")))

        assert outcome.status == APPLIED
        assert outcome.entry == replica.look(b"l")
        assert outcome.entry.mtime_ns == MTIME_NS
        assert os.stat("/etc/passwd") == before

    @pytest.mark.parametrize("field", ["mode", "ino", "ctime_ns", "mtime_ns"])
    def test_only_of_the_version_that_is_expected(self, replica, field):
        old = replica.write(b"f", b"text")
        wrong = old._replace(**{field: getattr(old, field) ^ 1})

        (outcome,) = replica.apply(replica.meta(b"f", wrong, file(b"text", 0o600)))

        assert outcome.status == CHANGED
        assert replica.look(b"f") == old

    def test_mode_of_a_file_that_somebody_writes(self, replica):
        old = replica.write(b"f", b"text")

        with open(replica.root / "f", "ab"):
            (outcome,) = replica.apply(replica.meta(b"f", old, old._replace(mode=0o600)))

        assert outcome.status == APPLIED

    def test_time_of_a_file_that_somebody_writes_waits(self, replica):
        old = replica.write(b"f", b"text")

        with open(replica.root / "f", "ab"):
            (outcome,) = replica.apply(replica.meta(b"f", old, file(b"text")))

        assert outcome.status == IN_USE
        assert replica.look(b"f") == old

    def test_special_bits_that_are_not_replicated_stay(self, replica):
        (replica.root / "d").mkdir()
        (replica.root / "d").chmod(0o2775)

        (outcome,) = replica.apply(replica.meta(b"d", replica.look(b"d"), directory(0o770)))

        assert outcome.entry.mode == 0o770
        assert stat.S_IMODE((replica.root / "d").stat().st_mode) == 0o2770

    @pytest.mark.skipif(not ROOT, reason="only root gives files away")
    def test_owner_and_bits_that_a_new_owner_would_clear(self, tmp_path):
        replica = Replica(tmp_path, owners=True, strip=False)
        old = replica.write(b"f", b"text", 0o4755)

        (outcome,) = replica.apply(replica.meta(b"f", old, old._replace(uid=1234, gid=2345)))

        assert outcome.entry[1:4] == (0o4755, 1234, 2345)
        replica.close()


class TestUnheld:
    """A file system that has not all of the metadata: content goes, and one problem is told."""

    @pytest.fixture
    def coarse(self, monkeypatch):
        """Times to two seconds, as vfat."""
        utime = os.utime

        def cut(path, *, ns, **options):
            utime(path, ns=tuple(t - t % 2_000_000_000 for t in ns), **options)

        monkeypatch.setattr(os, "utime", cut)

    @pytest.fixture
    def simple(self, monkeypatch):
        """Neither modes nor owners, as vfat."""

        def refuse(*args, **options):
            raise PermissionError(errno.EPERM, "Operation not permitted")

        for name in ("chmod", "fchmod", "chown", "fchown"):
            monkeypatch.setattr(os, name, refuse)

    def test_a13_times_are_what_the_file_system_makes_of_them(self, replica, coarse):
        outcomes = replica.apply(
            replica.put(b"d", directory()),
            replica.put(b"d/f", file(b"text"), b"text"),
            replica.put(b"l", link(b"target")),
            replica.put(b"even", file(b"", mtime_ns=4_000_000_000), b""),
        )

        assert [(o.status, o.unmet) for o in outcomes] == [(APPLIED, True)] * 3 + [(APPLIED, False)]
        for path, outcome in zip([b"d", b"d/f", b"l"], outcomes, strict=False):
            assert outcome.entry == replica.look(path)
            assert outcome.entry.mtime_ns == MTIME_NS - MTIME_NS % 2_000_000_000
        assert "the time of d:" in replica.helpers.unheld
        assert replica.leftovers() == []

    @pytest.mark.parametrize("kind", ["file", "directory", "link"])
    def test_a13_set_times_are_what_the_file_system_makes_of_them(self, replica, coarse, kind):
        make = {"file": file(b"text"), "directory": directory(), "link": link(b"target")}[kind]
        replica.apply(replica.put(b"x", make, b"text" if kind == "file" else None))
        old = replica.look(b"x")

        (outcome,) = replica.apply(replica.meta(b"x", old, old._replace(mtime_ns=5_123_456_789)))

        assert (outcome.status, outcome.unmet) == (APPLIED, True)
        assert outcome.entry == replica.look(b"x")._replace(digest=b"")
        assert outcome.entry.mtime_ns == 4_000_000_000
        assert replica.leftovers() == []

    def test_a13_another_time_is_a_users(self, replica, coarse, monkeypatch):
        old = replica.write(b"x", b"text")
        users = (0, 8 * 10**9)
        replica.helpers.step = lambda at: at == "set" and os.utime(replica / b"x", ns=users)

        (outcome,) = replica.apply(replica.meta(b"x", old, old._replace(mtime_ns=5_123_456_789)))

        assert (outcome.status, outcome.unmet) == (APPLIED, False)
        assert outcome.entry.mtime_ns == 8 * 10**9

    def test_modes_that_a_file_system_has_not(self, replica, simple):
        outcomes = replica.apply(
            replica.put(b"f", file(b"text", 0o666), b"text"), replica.put(b"d", directory(0o500))
        )

        assert [(o.status, o.unmet) for o in outcomes] == [(APPLIED, True)] * 2
        assert outcomes[0].entry == replica.look(b"f")
        assert outcomes[1].entry == replica.look(b"d")
        assert outcomes[1].entry.mode == 0o700
        assert "the mode of f:" in replica.helpers.unheld

    def test_modes_of_what_is_there_on_such_a_file_system(self, replica, simple):
        (replica / b"f").write_bytes(b"text")
        old = replica.look(b"f")

        (outcome,) = replica.apply(replica.meta(b"f", old, old._replace(mode=0o600)))

        assert outcome.status == FAILED  # in staging a file is made with that mode

        (outcome,) = replica.apply(replica.meta(b"f", old, old._replace(mode=0o666)))

        assert (outcome.status, outcome.unmet) == (APPLIED, True)
        assert replica.look(b"f") == old

    @pytest.mark.skipif(not ROOT, reason="only root gives files away")
    def test_a10_a_file_that_stays_ours_does_not_become_set_user_id(self, tmp_path, monkeypatch):
        def refuse(*args, **options):
            raise PermissionError(errno.EPERM, "Operation not permitted")

        replica = Replica(tmp_path, owners=True, strip=False)
        there = replica.write(b"there", b"text")
        monkeypatch.setattr(os, "chown", refuse)
        monkeypatch.setattr(os, "fchown", refuse)
        wanted = file(b"text", 0o4755)._replace(uid=1234, gid=1234)

        outcomes = replica.apply(
            replica.put(b"new", wanted, b"text"), replica.meta(b"there", there, wanted)
        )

        assert [(o.status, o.unmet) for o in outcomes] == [(APPLIED, True)] * 2
        for name in (b"new", b"there"):
            assert stat.S_IMODE((replica / name).stat().st_mode) == 0o755
        replica.close()

    @pytest.mark.skipif(not ROOT, reason="only root sets that")
    def test_a04_an_immutable_file_is_tried_again(self, replica):
        old = replica.write(b"f", b"text")
        done = subprocess.run(["chattr", "+i", replica / b"f"], check=False, capture_output=True)
        if done.returncode:
            pytest.skip("this file system has no such attribute")
        try:
            now = replica.look(b"f")
            outcomes = replica.apply(
                replica.meta(b"f", now, now._replace(mode=0o600)),
                replica.put(b"f", file(b"new"), b"new", now),
                replica.delete(b"f", now),
            )
        finally:
            subprocess.run(["chattr", "-i", replica / b"f"], check=True)

        assert statuses(outcomes) == [FAILED] * 3
        assert replica.tree() == {b"f": b"text"}
        now = replica.look(b"f")
        assert now.mode == old.mode
        assert statuses(replica.apply(replica.delete(b"f", now))) == [APPLIED]


class TestMetaOfLinks:
    """What has names that are not known to be in the root is left alone under those."""

    @pytest.fixture
    def outside(self, replica, tmp_path_factory):
        made = tmp_path_factory.mktemp("outside", numbered=True) / "passwd"
        made.write_bytes(b"precious")
        made.chmod(0o644)
        try:
            os.link(made, replica.root / "f")
        except OSError:
            pytest.skip("the root is on another file system")
        return made

    @pytest.mark.parametrize("change", [{"mode": 0o777}, {"mtime_ns": 5}])
    def test_s12_is_set_apart_from_names_outside_of_the_root(self, replica, outside, change):
        before = outside.stat()
        old = replica.look(b"f")

        (outcome,) = replica.apply(replica.meta(b"f", old, old._replace(**change)))
        replica.finish()

        after = outside.stat()
        assert (after.st_mode, after.st_mtime_ns) == (before.st_mode, before.st_mtime_ns)
        assert outside.read_bytes() == b"precious"
        assert after.st_nlink == 1
        assert outcome.status == APPLIED
        assert outcome.entry == replica.look(b"f")._replace(digest=b"")
        assert outcome.entry[:6] == old._replace(**change)[:6]
        assert outcome.entry.ino != old.ino
        assert replica.tree() == {b"f": b"precious"}
        assert replica.conflicts() == {}
        assert replica.leftovers() == []

    @pytest.mark.skipif(not ROOT, reason="only root gives files away")
    def test_s12_owner_and_bits_of_a_copy(self, tmp_path, tmp_path_factory):
        replica = Replica(tmp_path, owners=True, strip=False)
        replica.write(b"f", b"text", 0o4755)
        elsewhere = tmp_path_factory.mktemp("outside", numbered=True) / "f"
        os.link(replica / b"f", elsewhere)
        old = replica.look(b"f")

        (outcome,) = replica.apply(replica.meta(b"f", old, old._replace(uid=1234, gid=2345)))

        assert outcome.entry[1:4] == (0o4755, 1234, 2345)
        assert (elsewhere.stat().st_uid, elsewhere.stat().st_mode & 0o7777) == (0, 0o4755)
        replica.close()

    @pytest.mark.skipif(not ROOT, reason="only root gives files away")
    def test_s12_a_copy_keeps_owner_and_bits_that_are_not_replicated(self, replica, outside):
        os.chown(outside, 1234, 2345)
        outside.chmod(0o4755)
        old = replica.look(b"f")

        replica.apply(replica.meta(b"f", old, old._replace(mode=0o700)))

        st = (replica / b"f").stat()
        assert (st.st_uid, st.st_gid, stat.S_IMODE(st.st_mode)) == (1234, 2345, 0o4700)

    def test_s12_of_a_symlink(self, replica, tmp_path_factory):
        elsewhere = tmp_path_factory.mktemp("outside", numbered=True) / "l"
        elsewhere.symlink_to("target")
        os.link(elsewhere, replica.root / "l", follow_symlinks=False)
        before = elsewhere.lstat().st_mtime_ns
        old = replica.look(b"l")

        (outcome,) = replica.apply(replica.meta(b"l", old, link(b"target")))

        assert outcome.entry == replica.look(b"l")
        assert outcome.entry.mtime_ns == MTIME_NS
        assert elsewhere.lstat().st_mtime_ns == before
        assert replica.leftovers() == []

    def test_is_set_of_all_names_where_all_are_known(self, replica):
        old = replica.write(b"f", b"text")
        (replica.root / "d").mkdir()
        os.link(replica / b"f", replica / b"d/g")
        transition = replica.meta(b"f", replica.look(b"f"), old._replace(mode=0o600))

        (outcome,) = replica.apply(transition._replace(links=[b"d/g", b"d/g"]))

        assert outcome.status == APPLIED
        assert outcome.entry.ino == old.ino == replica.look(b"d/g").ino
        assert replica.look(b"d/g").mode == 0o600

    @pytest.mark.parametrize("links", [None, [b"gone"], [b"d"], [b"../f"], [b"f"], [b"x/y/z"]])
    def test_is_not_where_one_is_not_there(self, replica, links):
        old = replica.write(b"f", b"text")
        (replica.root / "d").mkdir()
        os.link(replica / b"f", replica / b"d/g")
        transition = replica.meta(b"f", replica.look(b"f"), old._replace(mode=0o600))

        (outcome,) = replica.apply(transition._replace(links=links))

        assert outcome.status == APPLIED
        assert (replica.look(b"f").mode, replica.look(b"d/g").mode) == (0o600, 0o644)

    def test_a_name_that_waits_in_quarantine_is_known(self, replica):
        old = replica.write(b"f", b"text")
        os.link(replica / b"f", replica / b"g")
        replica.apply(replica.delete(b"g", replica.look(b"g")))
        old = replica.look(b"f")

        (outcome,) = replica.apply(replica.meta(b"f", old, old._replace(mode=0o600)))

        assert outcome.entry.ino == old.ino

    def test_without_a_change_is_left_alone(self, replica, outside):
        old = replica.look(b"f")

        (outcome,) = replica.apply(replica.meta(b"f", old, old))

        assert outcome.entry == old._replace(digest=b"")
        assert outside.stat().st_nlink == 2

    def test_of_a_large_file_is_a_problem(self, replica, outside, monkeypatch):
        monkeypatch.setattr("psync.staging.COPY_MAX", 0)
        monkeypatch.setattr("psync.staging.clone_file", lambda *fds: False)
        old = replica.look(b"f")

        (outcome,) = replica.apply(replica.meta(b"f", old, old._replace(mode=0o600)))

        assert outcome.status == FAILED
        assert "too large to be copied" in outcome.message
        assert replica.look(b"f") == old
        assert replica.leftovers() == []

    def test_of_a_file_that_somebody_writes_waits(self, replica, outside):
        old = replica.look(b"f")

        with open(outside, "ab"):
            (outcome,) = replica.apply(replica.meta(b"f", old, old._replace(mode=0o600)))

        assert outcome.status == IN_USE
        assert replica.look(b"f") == old

    @pytest.mark.parametrize("verb", ["replace", "meta"])
    def test_c30_what_stays_behind_is_reported_once(self, replica, outside, verb):
        old = replica.look(b"f")
        new = old._replace(mode=0o600)

        replica.apply(
            replica.meta(b"f", old, new)
            if verb == "meta"
            else replica.put(b"f", file(b"new"), b"new", old)
        )

        assert replica.lines == ["f had other names here: they keep what it was"]


class TestStaging:
    def test_a_run_is_filled_and_published(self, replica):
        content = os.urandom(300_000)
        replica.helpers.stage(7, [b"11", b"12"], [b"", b""])
        run = replica.root / ".psync/stage/7"
        assert sorted(p.name for p in run.iterdir()) == ["11", "12"]
        (run / "11").write_bytes(content)

        wanted = file(content, 0o640)
        (outcome,) = replica.apply(replica.put(b"big", wanted, source=b"7/11"))
        replica.helpers.unstage(7)

        assert outcome.status == APPLIED
        assert outcome.entry == replica.look(b"big")._replace(digest=b"")
        assert (outcome.entry.mode, outcome.entry.mtime_ns) == (0o640, MTIME_NS)
        assert replica.leftovers() == []

    def test_a_base_is_a_copy_of_the_live_file(self, replica):
        old = replica.write(b"big", b"x" * 100_000)

        replica.helpers.stage(7, [b"1", b"2", b"3"], [b"big", b"missing", b""])

        run = replica.root / ".psync/stage/7"
        assert (run / "1").read_bytes() == b"x" * 100_000
        assert (run / "1").stat().st_ino != old.ino
        assert (run / "2").read_bytes() == b""

    def test_a05_fills_no_disk_for_what_has_no_room_there(self, replica):
        with pytest.raises(OSError, match="no room") as raised:
            replica.helpers.stage(7, [b"1"], [b""], 1 << 60)

        assert raised.value.errno == errno.ENOSPC
        assert replica.leftovers() == []

    def test_replaces_through_quarantine(self, replica):
        old = replica.write(b"big", b"old")
        replica.helpers.stage(7, [b"1"], [b"big"])
        (replica.root / ".psync/stage/7/1").write_bytes(b"new")

        (outcome,) = replica.apply(replica.put(b"big", file(b"new"), None, old, source=b"7/1"))
        replica.helpers.unstage(7)
        replica.finish()

        assert outcome.status == APPLIED
        assert replica.tree() == {b"big": b"new"}
        assert replica.leftovers() == []

    def test_what_could_not_be_published_is_there_for_another_try(self, replica):
        old = replica.write(b"big", b"old")
        replica.helpers.stage(7, [b"1"], [b""])
        (replica.root / ".psync/stage/7/1").write_bytes(b"new")

        with open(replica.root / "big", "ab"):
            (busy,) = replica.apply(replica.put(b"big", file(b"new"), None, old, source=b"7/1"))
        (later,) = replica.apply(replica.put(b"big", file(b"new"), None, old, source=b"7/1"))

        assert (busy.status, later.status) == (IN_USE, APPLIED)

    @pytest.mark.parametrize(
        "source", [b"7/2", b"8/1", b"7", b"../../f", b"7/../../marker", b"/etc/passwd", b"7/1/"]
    )
    def test_takes_nothing_but_what_was_staged(self, replica, source):
        replica.helpers.stage(7, [b"1"], [b""])

        (outcome,) = replica.apply(replica.put(b"f", file(b""), source=source))

        assert outcome.status == FAILED
        assert replica.tree() == {}

    def test_s09_takes_nothing_that_is_not_whole(self, replica):
        replica.helpers.stage(7, [b"1"], [b""])
        (replica.root / ".psync/stage/7/1").write_bytes(b"ne")

        (outcome,) = replica.apply(replica.put(b"f", file(b"new"), source=b"7/1"))

        assert outcome.status == FAILED
        assert "2 of 3 bytes" in outcome.message

    def test_s06_takes_no_link_that_lies_in_staging(self, replica):
        replica.helpers.stage(7, [b"1"], [b""])
        staged = replica.root / ".psync/stage/7/1"
        staged.unlink()
        staged.symlink_to("/etc/passwd")

        (outcome,) = replica.apply(replica.put(b"f", file(b"new"), source=b"7/1"))

        assert outcome.status == FAILED

    @pytest.mark.parametrize("name", [b"a", b"../1", b"1/2", b"", b"1" * 21])
    def test_makes_no_other_names(self, replica, name):
        with pytest.raises(OSError, match="names for staging"):
            replica.helpers.stage(7, [name], [b""])

        assert replica.leftovers() == []

    def test_s04_copies_no_base_from_elsewhere(self, replica):
        with pytest.raises(OSError, match="no path of this replica"):
            replica.helpers.stage(7, [b"1"], [b"../../etc/passwd"])

        assert replica.leftovers() == []

    def test_the_same_run_begins_anew(self, replica):
        replica.helpers.stage(7, [b"1"], [b""])
        replica.helpers.stage(7, [b"2"], [b""])

        assert [p.name for p in (replica.root / ".psync/stage/7").iterdir()] == ["2"]

    def test_can_be_reached_through_its_descriptor(self, replica):
        replica.helpers.stage(7, [b"1"], [b""])

        assert os.listdir(f"/proc/self/fd/{replica.helpers.stage_fd}/7") == ["1"]


class TestTrouble:
    def test_one_stops_no_other(self, replica):
        old = replica.write(b"a", b"old")

        outcomes = replica.apply(
            replica.put(b"missing/x", file(b""), b""),
            replica.put(b"a", file(b"new"), b"new", old._replace(ino=1)),
            replica.put(b"b", file(b"new"), b"new"),
        )

        assert statuses(outcomes) == [NO_PARENT, CHANGED, APPLIED]

    @pytest.mark.parametrize(
        "transition",
        [
            Transition(1, PUT, b"f", None, None),
            Transition(1, PUT, b"f", None, file(b"")),
            Transition(1, PUT, b"f", None, file(b"")._replace(kind=9), content=b""),
            Transition(1, PUT, b"f", None, file(b"")._replace(mode=-1), content=b""),
            Transition(1, PUT, b"f", None, file(b"")._replace(uid=1 << 40), content=b""),
            Transition(1, PUT, b"f", None, file(b"")._replace(mtime_ns=1 << 64), content=b""),
            Transition(1, PUT, b"f", None, link(b"")),
            Transition(1, PUT, b"f", None, link(b"a\0b")),
            Transition(1, PUT, b"f", None, link(b"a" * 5000)),
            Transition(1, RENAME, b"f", None, None, b"g"),
            Transition(1, DELETE, b"f", directory(), None),
            Transition(1, 99, b"f", None, None),
        ],
    )
    def test_refuses_what_makes_no_sense(self, replica, transition):
        (outcome,) = replica.apply(transition)

        assert (outcome.status, outcome.entry) == (FAILED, None)
        assert outcome.message
        assert "\n" not in outcome.message
        assert replica.tree() == {}

    def test_displaces_nothing_that_cannot_be_written_down(self, replica, monkeypatch):
        old = replica.write(b"f", b"old")

        def full(intents, durable):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(replica.helpers._quarantine._journal, "append", full)
        outcomes = replica.apply(
            replica.put(b"f", file(b"new"), b"new", old),
            replica.delete(b"f", old),
            replica.put(b"g", file(b"new"), b"new"),
        )

        assert statuses(outcomes) == [FAILED, FAILED, APPLIED]
        assert "No space left" in outcomes[0].message
        assert replica.tree() == {b"f": b"old", b"g": b"new"}

    def test_a_loser_waits_until_it_can_be_stored(self, replica, monkeypatch):
        def full(*args):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        old = replica.write(b"f", b"loser")
        with monkeypatch.context() as patch:
            patch.setattr("psync.conflicts.renameat2", full)
            (outcome,) = replica.apply(replica.delete(b"f", old, keep=True))
        assert (outcome.status, bool(outcome.kept)) == (APPLIED, True)
        assert any("cannot put the conflict's loser f" in line for line in replica.lines)

        replica.finish()

        assert replica.conflicts() == {b"f": (b"loser", "conflict")}
        assert (replica.root / ".psync/conflicts" / outcome.kept.decode()).exists()
        assert replica.leftovers() == []

    def test_what_cannot_be_unlinked_yet_is_tried_again(self, replica, monkeypatch):
        def refuse(*args, **kwargs):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        old = replica.write(b"f", b"old")
        replica.apply(replica.delete(b"f", old))
        replica.now += 60
        with monkeypatch.context() as patch:
            patch.setattr("psync.quarantine.os.unlink", refuse)
            assert replica.helpers.tick() is not None

        replica.finish()

        assert replica.leftovers() == []
        assert replica.conflicts() == {}

    @pytest.mark.skipif(not ROOT, reason="only root mounts")
    class TestFullDisk:
        @pytest.fixture
        def replica(self, tmp_path):
            done = subprocess.run(
                ["mount", "-t", "tmpfs", "-o", "size=256k", "none", tmp_path], check=False
            )
            if done.returncode:
                pytest.skip("may not mount here")
            made = Replica(tmp_path)
            yield made
            made.close()
            subprocess.run(["umount", tmp_path], check=True)

        def test_fails_and_leaves_nothing(self, replica):
            old = replica.write(b"old", b"old")
            large = bytes(400_000)

            outcomes = replica.apply(
                replica.put(b"new", file(large), large),
                replica.put(b"old", file(large), large, old),
                replica.put(b"small", file(b"x"), b"x"),
            )

            assert statuses(outcomes) == [FAILED, FAILED, APPLIED]
            assert outcomes[0].message == "cannot write new: No space left on device"
            assert outcomes[1].entry == old._replace(digest=b"")
            assert replica.tree() == {b"old": b"old", b"small": b"x"}
            assert replica.leftovers() == []

        def test_keeps_what_is_deleted_even_then(self, replica):
            made = Replica(replica.root, for_trash=("deleted",))
            texts = {b"%d" % i: b"deleted %d" % i for i in range(3)}
            olds = [made.write(path, text) for path, text in texts.items()]
            made.apply(*(made.delete(p, old) for p, old in zip(texts, olds, strict=True)))
            with suppress(OSError), open(made.root / "filler", "wb", buffering=0) as filler:
                while filler.write(bytes(4096)):
                    pass
            with suppress(OSError):
                for i in range(100_000):
                    (made.root / f"inode{i}").touch()
            made.now += 60
            assert made.helpers.tick() is not None
            waits = [p.read_bytes() for p in (made.root / ".psync/quarantine").iterdir()]
            told = [line for line in made.lines if "into the trash yet" in line]

            for path in [made.root / "filler", *made.root.glob("inode*")]:
                path.unlink()
            made.finish()
            found = made.conflicts("trash")
            made.close()

            assert sorted(waits) == sorted(texts.values())
            assert len(told) == 1 and "No space left on device" in told[0]
            assert found == {path: (text, "deleted") for path, text in texts.items()}

        def test_keeps_a_loser_even_then(self, replica):
            old = replica.write(b"f", b"loser")
            with suppress(OSError), open(replica.root / "filler", "wb", buffering=0) as filler:
                while filler.write(bytes(4096)):
                    pass

            (outcome,) = replica.apply(replica.delete(b"f", old, keep=True))
            (replica.root / "filler").unlink()
            replica.finish()

            if outcome.status == APPLIED:
                assert replica.conflicts() == {b"f": (b"loser", "conflict")}
            else:
                assert replica.tree() == {b"f": b"loser"}

    @pytest.mark.parametrize("number", [errno.EROFS, errno.EIO, errno.ENOSPC, errno.EACCES])
    @pytest.mark.parametrize("which", [NOREPLACE, EXCHANGE])
    def test_what_the_system_refuses_leaves_nothing(self, replica, monkeypatch, which, number):
        def refuse(olddir, old, newdir, new, flags):
            if flags == which:
                raise OSError(number, os.strerror(number))
            renameat2(olddir, old, newdir, new, flags)

        old = replica.write(b"f", b"old")
        target = replica.write(b"g", b"target")
        if which == NOREPLACE:
            monkeypatch.setattr("psync.helpers.renameat2", refuse)
            transitions = [
                replica.put(b"new", file(b"new"), b"new"),
                replica.put(b"d", directory()),
                replica.put(b"l", link(b"x")),
                replica.put(b"f", file(b"new"), b"new", old),
                replica.put(b"f", directory(), None, old),
                replica.rename(b"f", old, b"h"),
                replica.delete(b"f", old),
            ]
        else:
            monkeypatch.setattr("psync.helpers.renameat2", refuse)
            transitions = [
                replica.put(b"f", link(b"x"), None, old),
                replica.rename(b"f", old, b"g", target),
            ]

        outcomes = replica.apply(*transitions)

        assert statuses(outcomes) == [FAILED] * len(transitions)
        assert all(o.message.endswith(os.strerror(number)) for o in outcomes)
        assert replica.tree() == {b"f": b"old", b"g": b"target"}
        assert replica.leftovers() == []

    @pytest.mark.skipif(not ROOT, reason="only root mounts")
    def test_never_enters_a_mount(self, replica):
        (replica.root / "m").mkdir()
        before = replica.look(b"m")
        done = subprocess.run(["mount", "-t", "tmpfs", "none", replica.root / "m"], check=False)
        if done.returncode:
            pytest.skip("may not mount here")
        try:
            outcomes = replica.apply(
                replica.put(b"m/x", file(b"x"), b"x"),
                replica.rmdir(b"m", before),
                replica.put(b"m", directory()),
            )

            assert statuses(outcomes) == [NO_PARENT, CHANGED, FAILED]
            assert os.listdir(replica.root / "m") == []
        finally:
            subprocess.run(["umount", replica.root / "m"], check=True)


class TestBounds:
    def test_remembers_only_so_many_paths(self, replica, monkeypatch):
        monkeypatch.setattr(helpers_module, "OWN_MAX", 10)

        replica.apply(*[replica.put(b"%d" % n, file(b""), b"") for n in range(25)])

        assert list(replica.helpers.own) == [b"%d" % n for n in range(15, 25)]

    def test_looks_early_when_too_much_waits(self, replica, monkeypatch):
        monkeypatch.setattr(quarantine_module, "WAITING_MAX", 5)
        entries = {b"%d" % n: replica.write(b"%d" % n, b"%d" % n) for n in range(20)}

        replica.apply(*[replica.delete(path, entry) for path, entry in entries.items()])

        assert len(list((replica.root / ".psync/quarantine").iterdir())) == 5
        replica.finish()
        assert replica.leftovers() == []
        assert replica.conflicts() == {}

    def test_the_journal_does_not_grow_for_ever(self, replica, monkeypatch):
        monkeypatch.setattr("psync.intents._COMPACT_BYTES", 1000)
        replica.helpers._quarantine._journal._compact_at = 1000
        journal = replica.root / ".psync/journal"
        for n in range(100):
            entry = replica.write(b"f", b"%d" % n)
            replica.apply(replica.delete(b"f", entry))
            replica.now += 5  # so that about twelve wait
            replica.helpers.tick()

        assert journal.stat().st_size < 8000
        replica.finish()
        assert replica.leftovers() == []

    def test_a_tick_is_short(self, tmp_path):
        replica = Replica(tmp_path)
        reads = []
        old = replica.write(b"large", bytes(20 << 20))
        replica.apply(replica.delete(b"large", old))
        replica.now += 60
        start = replica.now

        def clock():
            reads.append(None)
            return start + len(reads) * 0.004  # each look at the clock costs 4 ms

        replica.helpers._quarantine._now = clock
        ticks = 0
        while replica.helpers.tick() is not None:
            ticks += 1

        assert ticks > 5
        assert replica.leftovers() == []
        assert replica.conflicts() == {}
        replica.close()

    def test_leaks_no_descriptor(self, replica):
        before = len(os.listdir("/proc/self/fd"))
        old = replica.write(b"d/f", b"old")
        for _ in range(3):
            replica.apply(
                replica.put(b"d/f", file(b"new"), b"new", old._replace(ino=1)),
                replica.put(b"d/g", file(b""), b""),
                replica.put(b"x/y", file(b""), b""),
                replica.put(b"d/l", link(b"x")),
                replica.put(b"e", directory()),
                replica.rename(b"d/f", old._replace(ino=1), b"h"),
                replica.delete(b"d/f", old._replace(ino=1)),
                replica.meta(b"d/f", old._replace(ino=1), old),
                replica.put(b"z", file(b"q"), source=b"1/1"),
            )
            replica.finish()

        assert len(os.listdir("/proc/self/fd")) == before


class TestDurability:
    def test_syncs(self, replica):
        assert replica.helpers.sync() is True

    def test_a07_gives_up_what_the_disk_did_not_take(self, tmp_path, monkeypatch):
        def fail(fd):
            raise OSError(5, "Input/output error")

        replica = Replica(tmp_path, strict=True)
        old = replica.write(b"f", b"old")
        (good,) = replica.apply(replica.put(b"f", file(b"new"), b"new", old))
        monkeypatch.setattr("psync.helpers.syncfs", fail)

        assert good.status == APPLIED
        with pytest.raises(NotDurableError, match="Input/output error"):
            replica.apply(replica.put(b"g", file(b"new"), b"new"))
        with pytest.raises(NotDurableError, match="Input/output error"):
            replica.helpers.sync()
        replica.close()

    def test_a_state_that_cannot_be_named_is_not_lost(self, replica, monkeypatch):
        def fail(fd, name):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("psync.helpers.write_generation", fail)

        assert replica.helpers.sync("next") is False
        assert any("No space left" in line for line in replica.lines)


class TestBareHost:
    def test_runs_on_nothing_but_the_interpreter(self, tmp_path):
        package = Path(helpers_module.__file__).parents[1]
        code = f"""
import os, sys
sys.path.insert(0, {str(package)!r})
from psync.core.entry import Entry
from psync.helpers import Helpers
from psync.wire import Transition, PUT
fd = os.open({str(tmp_path)!r}, os.O_RDONLY)
helpers = Helpers(fd, owners=False, strip_special_bits=True, strict=False, quarantine_ms=0,
                  log=lambda level, line: None)
helpers.prepare("pair", 1)
helpers.recover()
wanted = Entry(1, 0o644, 0, 0, 4, 0, b"", b"", 0, 0)
outcome, = helpers.apply([Transition(1, PUT, b"f", None, wanted, content=b"text")])
assert outcome.status == 0, outcome
"""
        subprocess.run([sys.executable, "-ISE", "-c", code], check=True)

        assert (tmp_path / "f").read_bytes() == b"text"
