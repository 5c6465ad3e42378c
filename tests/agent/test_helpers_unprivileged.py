"""An agent that is not root: no file can be given away, and not every file leased or read."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from psync.wire import APPLIED, CHANGED, FAILED, IN_USE, NOT_EMPTY
from psync.xattrs import pack
from tests.support.replica import MTIME_NS, Replica, directory, file, link

USER, GROUP, STRANGER = 54321, 54321, 54322

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


@pytest.fixture
def root():
    """A directory of the user's, which he can get at."""
    made = Path(tempfile.mkdtemp())
    os.chown(made, USER, GROUP)
    yield made
    shutil.rmtree(made)


def as_user(work: Callable[[], None]) -> None:
    """Do something as an ordinary user, in another process."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a fork among threads
        pid = os.fork()
    if not pid:
        try:
            os.setgroups([])
            os.setgid(GROUP)
            os.setuid(USER)
            work()
        except BaseException:  # noqa: BLE001  the parent raises it
            os.write(writer, traceback.format_exc().encode()[-60_000:])
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as stream:
        trouble = stream.read().decode()
    os.waitpid(pid, 0)
    assert not trouble, trouble


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def on(root: Path) -> Callable[[Callable[[Replica], None]], None]:
    """Run the decorated function at once, as the user, on a replica at `root`."""

    def run(work: Callable[[Replica], None]) -> None:
        def whole() -> None:
            replica = Replica(root)
            work(replica)
            replica.finish()
            assert replica.leftovers() == []
            replica.close()

        as_user(whole)

    return run


class TestOwnFiles:
    def test_everything_works(self, root):
        @on(root)
        def _(r: Replica) -> None:
            made, folder, _ = r.apply(
                r.put(b"f", file(b"1", 0o640), b"1"),
                r.put(b"d", directory(0o700)),
                r.put(b"d/l", link(b"x")),
            )
            replaced, _ = r.apply(
                r.put(b"f", file(b"2"), b"2", made.entry, keep=True),
                r.meta(b"d", folder.entry, directory(0o750, MTIME_NS + 1)),
            )
            moved, gone = r.apply(
                r.rename(b"f", replaced.entry, b"d/f"),
                r.delete(b"d/l", r.look(b"d/l")),
            )

            assert moved.status == gone.status == APPLIED
            assert r.tree() == {b"d": b"/", b"d/f": b"2"}
            assert r.look(b"d")[:6] == (2, 0o750, 0, 0, 0, MTIME_NS + 1)
            assert r.conflicts() == {b"f": (b"1", "conflict")}
            assert (root / "d/f").stat().st_uid == USER

    def test_own_files_are_leased(self, root):
        @on(root)
        def _(r: Replica) -> None:
            old = r.write(b"f", b"old")
            with open(r.root / "f", "ab"):
                (busy,) = r.apply(r.put(b"f", file(b"new"), b"new", old))

            assert busy.status == IN_USE

    def test_a_file_that_may_not_be_read_can_be_replaced(self, root):
        @on(root)
        def _(r: Replica) -> None:
            old = r.write(b"f", b"old", 0o200)
            (replaced,) = r.apply(r.put(b"f", file(b"new", 0), b"new", old))
            (meta,) = r.apply(r.meta(b"f", replaced.entry, file(b"new", 0o600, 5)))
            (gone,) = r.apply(r.delete(b"f", meta.entry))

            assert replaced.status == meta.status == gone.status == APPLIED
            assert meta.entry[1:6] == (0o600, 0, 0, 3, 5)
            r.finish()
            assert r.conflicts() == {}

    def test_a_directory_that_may_not_be_written_to_can_be_made_and_filled(self, root):
        @on(root)
        def _(r: Replica) -> None:
            made, child = r.apply(r.put(b"d", directory(0o555)), r.put(b"d/f", file(b"x"), b"x"))
            (later,) = r.apply(r.put(b"d/e", directory(0o500)))

            assert made.status == child.status == later.status == APPLIED
            assert made.entry == r.look(b"d")
            assert r.tree() == {b"d": b"/", b"d/e": b"/", b"d/f": b"x"}
            assert mode_of(root / "d") == 0o555

    def test_names_in_a_read_only_directory_of_our_own_change(self, root):
        @on(root)
        def _(r: Replica) -> None:
            files = {name: r.write(b"d/" + name, name) for name in (b"a", b"b", b"c")}
            (root / "d/s").mkdir()
            (root / "d").chmod(0o555)
            before = r.look(b"d")

            outcomes = r.apply(
                r.put(b"d/g", file(b"x"), b"x"),
                r.put(b"d/a", file(b"new"), b"new", files[b"a"]),
                r.delete(b"d/b", files[b"b"]),
                r.rename(b"d/c", files[b"c"], b"g"),
                r.rmdir(b"d/s", r.look(b"d/s")),
            )

            assert [o.status for o in outcomes] == [APPLIED] * 5
            assert r.tree() == {b"d": b"/", b"d/a": b"new", b"d/g": b"x", b"g": b"c"}
            assert r.look(b"d") == before

    def test_a_read_only_directory_moves_between_such(self, root):
        @on(root)
        def _(r: Replica) -> None:
            for path in ("a/d", "b"):
                (root / path).mkdir(parents=True)
                (root / path).chmod(0o555)
            (root / "a").chmod(0o555)

            (moved,) = r.apply(r.rename(b"a/d", r.look(b"a/d"), b"b/d"))

            assert moved.status == APPLIED
            assert moved.entry == r.look(b"b/d")
            assert [mode_of(root / path) for path in ("a", "b", "b/d")] == [0o555] * 3

    @pytest.mark.parametrize("mode", [0o000, 0o755, 0o777])
    def test_the_mode_that_a_user_sets_meanwhile_stays(self, root, mode):
        @on(root)
        def _(r: Replica) -> None:
            (root / "d").mkdir(0o555)
            r.helpers.step = lambda at: (root / "d").chmod(mode) if at == "published" else None

            (made,) = r.apply(r.put(b"d/f", file(b"x"), b"x"))

            assert made.status == APPLIED
            assert mode_of(root / "d") == mode

    @pytest.mark.parametrize("at", ["lent", "published", "moved"])
    def test_a_mode_is_put_back_after_a_crash(self, root, at):
        def dies(r: Replica) -> None:
            for path in ("a/d", "b"):
                (root / path).mkdir(parents=True)
                (root / path).chmod(0o555)
            (root / "a").chmod(0o511)
            old = r.look(b"a/d")
            r.helpers.step = lambda now: os._exit(0) if now == at else None
            r.apply(r.put(b"b/f", file(b"x"), b"x"), r.rename(b"a/d", old, b"b/d"))

        as_user(lambda: dies(Replica(root)))
        lent = [
            p for p in ("a", "b", "a/d", "b/d") if (root / p).is_dir() and mode_of(root / p) & 0o200
        ]

        @on(root)
        def _(r: Replica) -> None:
            assert lent
            assert mode_of(root / "a") == 0o511
            assert mode_of(root / "b") == 0o555
            assert mode_of(root / ("b/d" if at == "moved" else "a/d")) == 0o555

    def test_the_mode_that_a_user_sets_after_a_crash_stays(self, root):
        def dies(r: Replica) -> None:
            (root / "d").mkdir(0o555)
            r.helpers.step = lambda at: os._exit(0)
            r.apply(r.put(b"d/f", file(b"x"), b"x"))

        as_user(lambda: dies(Replica(root)))
        (root / "d").chmod(0o755)

        @on(root)
        def _(r: Replica) -> None:
            assert mode_of(root / "d") == 0o755

    def test_nothing_is_lent_that_could_not_be_put_back(self, root):
        (root / "d").mkdir()
        os.chown(root / "d", USER, STRANGER)
        (root / "d").chmod(0o2555)  # not in this group, one loses the bit

        @on(root)
        def _(r: Replica) -> None:
            (outcome,) = r.apply(r.put(b"d/f", file(b"x"), b"x"))

            assert (outcome.status, outcome.message) == (
                FAILED, "cannot write d/f: Permission denied",
            )  # fmt: skip
            assert mode_of(root / "d") == 0o2555

    def test_a_read_only_file_is_given_attributes(self, root):
        try:
            os.setxattr(root, "user.try", b"")
        except OSError:
            pytest.skip("this file system has no attributes")

        def work() -> None:
            r = Replica(root, xattrs=True)
            old = r.write(b"f", b"text", 0o444)
            wanted = old._replace(xattrs=pack({b"user.one": b"1"}))

            (outcome,) = r.apply(r.meta(b"f", old, wanted))
            r.finish()

            assert (outcome.status, outcome.unmet) == (APPLIED, False)
            assert outcome.entry == r.look(b"f")._replace(digest=b"")
            assert outcome.entry[:6] == wanted[:6]
            assert outcome.entry.xattrs == wanted.xattrs
            assert r.leftovers() == []
            r.close()

        as_user(work)

    def test_a_directory_that_may_not_be_listed(self, root):
        @on(root)
        def _(r: Replica) -> None:
            (root / "d").mkdir()
            (root / "d").chmod(0o300)

            (made,) = r.apply(r.put(b"d/f", file(b"x"), b"x"))
            (mtime_ns, mode) = r.look(b"d").mtime_ns, r.look(b"d").mode
            (meta,) = r.apply(r.meta(b"d", r.look(b"d"), directory(0o700)))

            assert made.status == meta.status == APPLIED
            assert mode == 0o300
            assert mtime_ns < meta.entry.mtime_ns or meta.entry.mtime_ns == MTIME_NS

    def test_a_directory_that_may_not_even_be_searched(self, root):
        @on(root)
        def _(r: Replica) -> None:
            old = r.write(b"d/f", b"old")
            (root / "d").chmod(0o600)

            outcomes = r.apply(r.put(b"d/g", file(b"x"), b"x"), r.delete(b"d/f", old))

            assert [o.status for o in outcomes] == [APPLIED] * 2
            assert mode_of(root / "d") == 0o600
            (root / "d").chmod(0o700)
            assert r.tree() == {b"d": b"/", b"d/g": b"x"}

    def test_what_is_below_one_that_may_not_be_searched_is_out_of_reach(self, root):
        @on(root)
        def _(r: Replica) -> None:
            old = r.write(b"d/e/f", b"old")
            (root / "d").chmod(0o600)

            outcomes = r.apply(r.put(b"d/e/g", file(b"x"), b"x"), r.delete(b"d/e/f", old))
            (root / "d").chmod(0o700)

            assert [o.status for o in outcomes] == [FAILED] * 2
            assert [o.entry for o in outcomes] == [None, None]
            assert r.tree() == {b"d": b"/", b"d/e": b"/", b"d/e/f": b"old"}

    def test_stands_in_the_group_of_a_shared_directory(self, root):
        (root / "shared").mkdir()
        os.chown(root / "shared", USER, STRANGER)
        (root / "shared").chmod(0o2775)

        @on(root)
        def _(r: Replica) -> None:
            (outcome,) = r.apply(r.put(b"shared/f", file(b"x"), b"x"))

            assert outcome.status == APPLIED  # although we may not give it that group


class TestFilesOfOthers:
    @pytest.fixture(autouse=True)
    def theirs(self, root):
        (root / "theirs").write_bytes(b"text")
        os.chown(root / "theirs", STRANGER, STRANGER)
        (root / "private").write_bytes(b"secret")
        (root / "private").chmod(0o600)
        os.chown(root / "private", STRANGER, STRANGER)

    def test_can_be_replaced_and_deleted_in_our_directory(self, root):
        @on(root)
        def _(r: Replica) -> None:
            replaced, gone = r.apply(
                r.put(b"theirs", file(b"new"), b"new", r.look(b"theirs")),
                r.delete(b"private", r.look(b"private")),
            )
            r.finish()

            assert replaced.status == gone.status == APPLIED
            assert r.tree() == {b"theirs": b"new"}
            assert r.conflicts() == {}

    def test_a_late_write_is_found_without_a_lease(self, root):
        writers = [os.open(root / name, os.O_WRONLY) for name in ("theirs", "private")]

        @on(root)
        def _(r: Replica) -> None:
            outcomes = r.apply(
                r.put(b"theirs", file(b"new"), b"new", r.look(b"theirs")),
                r.delete(b"private", r.look(b"private")),
            )
            assert [o.status for o in outcomes] == [APPLIED, APPLIED]
            for writer in writers:
                os.write(writer, b"late")
            r.finish()

            assert sorted(r.tree()) == [b"theirs"]
            assert sorted(kept.path for kept in r.helpers.kept) == [b"private", b"theirs"]

        for writer in writers:
            os.close(writer)

    def test_a15_metadata_cannot_be_set_and_that_is_told_once(self, root):
        @on(root)
        def _(r: Replica) -> None:
            old = r.look(b"theirs")
            assert r.helpers.unheld == ""

            outcomes = r.apply(
                r.meta(b"theirs", old, old._replace(mode=0o600)),
                r.meta(b"theirs", old, old._replace(mtime_ns=5)),
                r.meta(b"theirs", old, old),
            )

            assert [(o.status, o.unmet) for o in outcomes] == [
                (APPLIED, True), (APPLIED, True), (APPLIED, False)
            ]  # fmt: skip
            assert r.look(b"theirs") == old == outcomes[0].entry._replace(digest=old.digest)
            assert "the mode of theirs" in r.helpers.unheld
            assert "time" not in r.helpers.unheld  # of one that came later

    def test_a15_what_the_owner_has_set_meanwhile_is_news(self, root):
        uid = os.geteuid()

        @on(root)
        def _(r: Replica) -> None:
            old = r.look(b"theirs")
            seen = os.fstat

            def meanwhile(fd: int) -> os.stat_result:
                st = list(seen(fd))
                st[0] = stat.S_IFREG | 0o640
                return os.stat_result(st, {"st_mtime_ns": old.mtime_ns, "st_ctime_ns": 1})

            def act(at: str) -> None:
                if at == "set":
                    os.fstat = meanwhile

            r.helpers.step = act
            try:
                (outcome,) = r.apply(r.meta(b"theirs", old, old._replace(mode=0o600)))
            finally:
                os.fstat = seen

            assert (outcome.status, outcome.unmet) == (FAILED, False)
            assert "Operation not permitted" in outcome.message

        assert os.geteuid() == uid

    def test_metadata_of_one_with_another_name_cannot_be_set_either(self, root):
        os.link(root / "theirs", root / "another")

        @on(root)
        def _(r: Replica) -> None:
            old = r.look(b"theirs")

            (outcome,) = r.apply(r.meta(b"theirs", old, old._replace(mode=0o600)))

            assert (outcome.status, outcome.unmet) == (APPLIED, True)
            assert r.look(b"theirs") == old == outcome.entry._replace(digest=old.digest)

    def test_changes_are_seen_all_the_same(self, root):
        @on(root)
        def _(r: Replica) -> None:
            old = r.look(b"theirs")

            (outcome,) = r.apply(r.put(b"theirs", file(b"x"), b"x", old._replace(size=1)))

            assert outcome.status == CHANGED

    def test_a_sticky_directory_protects_them(self, root):
        (root / "tmp").mkdir()
        (root / "tmp").chmod(0o1777)
        (root / "tmp/f").write_bytes(b"text")

        @on(root)
        def _(r: Replica) -> None:
            old = r.look(b"tmp/f")

            outcomes = r.apply(
                r.put(b"tmp/f", file(b"new"), b"new", old),
                r.delete(b"tmp/f", old),
                r.rename(b"tmp/f", old, b"f"),
                r.put(b"tmp/mine", file(b"new"), b"new"),
            )

            assert [o.status for o in outcomes] == [FAILED, FAILED, FAILED, APPLIED]
            assert (root / "tmp/f").read_bytes() == b"text"

    def test_a_directory_of_theirs_is_left_alone(self, root):
        (root / "d").mkdir()
        (root / "d/f").write_bytes(b"text")

        @on(root)
        def _(r: Replica) -> None:
            outcomes = r.apply(
                r.put(b"d/g", file(b"x"), b"x"),
                r.meta(b"d", r.look(b"d"), directory(0o700)),
                r.rmdir(b"d", r.look(b"d")),
            )

            assert [o.status for o in outcomes] == [FAILED, APPLIED, NOT_EMPTY]
            assert outcomes[1].unmet
            assert r.look(b"d").mode == 0o755


class TestRoots:
    def test_one_that_may_not_be_written_to_is_refused(self, root):
        os.chown(root, 0, 0)
        root.chmod(0o755)

        def work() -> None:
            replica = Replica(root, prepare=False)
            with pytest.raises(PermissionError):
                replica.helpers.prepare("pair", 0)

        as_user(work)

        assert list(root.iterdir()) == []

    def test_s06_one_where_somebody_else_has_been_is_refused(self, root):
        Replica(root).close()  # as root
        (root / ".psync").chmod(0o755)

        def work() -> None:
            replica = Replica(root, prepare=False)
            with pytest.raises(OSError, match=r"'\.psync' in the root belongs to user 0"):
                replica.helpers.prepare("pair", 0)

        as_user(work)
