"""Guards that nobody would miss but in a rare moment: here that moment comes.

`scripts/mutants` takes each guard of psync away and asks which test fails. These are the tests that
it asked for: each makes the one moment in which a guard matters, and looks.
"""

from __future__ import annotations

import errno
import os
import signal
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from psync.core.entry import content_digest
from psync.scan import Looker, entry_at
from psync.syscalls import open_beneath
from psync.wire import APPLIED, CHANGED, FAILED
from tests.agent.modelcheck import Steps, in_a_child, interposed
from tests.agent.test_helpers_races import BASE, MINE, OPERATIONS, OURS, User
from tests.support.replica import Replica, directory, file

ANOTHER = b"what somebody else wrote"


@pytest.fixture
def replica(tmp_path):
    made = Replica(tmp_path)
    yield made
    made.close()


@pytest.fixture
def no_lease(monkeypatch):
    """As for files that are not ours, or where a file system has no leases."""

    def refuse(fd: int) -> bool:
        raise PermissionError(errno.EACCES, "not yours")

    monkeypatch.setattr("psync.holding.read_lease", refuse)
    monkeypatch.setattr("psync.quarantine.read_lease", refuse)


def at_steps(replica: Replica, acts: dict[str, Callable[[], None]]) -> None:
    """Let users act at the helpers' steps."""
    replica.helpers.step = lambda at: acts.get(at, lambda: None)()


def kill_after(root: Path, prepare: Callable[[Replica], object], acts: dict, dies_at: str) -> None:
    """Let another process apply what `prepare` gives, and kill it at a step."""

    def apply(say: Callable[[object], None]) -> None:
        replica = Replica(root)
        transition = prepare(replica)

        def step(at: str) -> None:
            acts.get(at, lambda: None)()
            if at == dies_at:
                say(True)
                os.kill(os.getpid(), signal.SIGKILL)

        replica.helpers.step = step
        replica.apply(transition)

    assert in_a_child(apply) is True


class TestWayBack:
    @pytest.mark.usefixtures("no_lease")
    @pytest.mark.parametrize("verb", ["replace", "delete"])
    def test_is_for_what_was_written_to_in_the_last_moment(self, replica, verb):
        operation = OPERATIONS[verb]
        operation.setup(replica)
        user = User(replica.root, b"d/p")
        transition = operation.transition(replica)

        at_steps(replica, {"held": user.save_in_place})
        (outcome,) = replica.apply(transition)
        replica.finish()

        assert outcome.status == CHANGED
        assert replica.tree()[b"d/p"] == MINE
        assert replica.conflicts() == {}

    def test_is_for_what_took_the_place_of_what_was_to_be_renamed(self, replica):
        operation = OPERATIONS["rename"]
        operation.setup(replica)
        user = User(replica.root, b"d/p")
        transition = operation.transition(replica)

        at_steps(replica, {"held": user.save_by_rename})
        (outcome,) = replica.apply(transition)

        assert outcome.status == CHANGED
        assert replica.tree()[b"d/p"] == MINE
        assert b"e/new" not in replica.tree()

    def test_is_for_what_took_the_place_of_what_was_to_be_renamed_over(self, replica):
        operation = OPERATIONS["rename-over"]
        operation.setup(replica)
        user = User(replica.root, b"e/q")
        transition = operation.transition(replica)

        at_steps(replica, {"held": user.save_by_rename})
        (outcome,) = replica.apply(transition)
        replica.finish()

        assert outcome.status == CHANGED
        assert replica.tree() == {b"d": b"/", b"d/p": BASE, b"e": b"/", b"e/q": MINE}
        assert replica.conflicts() == {}

    def test_keeps_a_link_that_somebody_made_meanwhile(self, replica):
        operation = OPERATIONS["to-link"]
        operation.setup(replica)
        one, another = User(replica.root, b"d/p"), User(replica.root, b"d/p")
        transition = operation.transition(replica)

        at_steps(replica, {"parked": one.save_by_rename, "displaced": another.make_link})
        (outcome,) = replica.apply(transition)
        replica.finish()

        assert outcome.status == CHANGED
        assert replica.tree()[b"d/p"] == MINE
        assert replica.conflicts() == {b"d/p": (b"/", "displaced")}
        (kept,) = (p for p in (replica.root / ".psync/conflicts").iterdir() if p.is_symlink())
        assert os.readlink(kept) == "/etc"
        assert replica.leftovers() == []


class TestMetadata:
    def test_does_not_overrule_the_mode_that_a_user_gave_a_directory(self, replica):
        (replica / b"d").mkdir()
        expected = replica.look(b"d")
        (replica / b"d").chmod(0o711)

        (outcome,) = replica.apply(replica.meta(b"d", expected, directory(0o700)))

        assert outcome.status == CHANGED
        assert stat.S_IMODE((replica / b"d").stat().st_mode) == 0o711

    def test_says_that_somebody_wrote_meanwhile(self, replica):
        expected = replica.write(b"f", b"old")
        wanted = file(b"old", 0o600, expected.mtime_ns)

        at_steps(replica, {"held": lambda: (replica / b"f").write_bytes(b"newer")})
        (outcome,) = replica.apply(replica.meta(b"f", expected, wanted))

        assert outcome.status == CHANGED
        assert replica.tree()[b"f"] == b"newer"


class TestJournal:
    def test_takes_a_batch_whole_or_not_at_all(self, replica, monkeypatch):
        expected = replica.write(b"f", b"old")
        write = os.write

        def half(fd: int, data: bytes) -> int:
            return write(fd, data[: len(data) // 2] if b" drop " in data else data)

        monkeypatch.setattr("psync.intents.os.write", half)
        (outcome,) = replica.apply(replica.put(b"f", file(b"new"), b"new", expected))
        monkeypatch.undo()

        assert outcome.status == FAILED
        assert replica.tree()[b"f"] == b"old"
        assert replica.leftovers() == []

    def test_is_on_the_disk_before_anything_strict_is_displaced(self, tmp_path):
        replica = Replica(tmp_path, strict=True)
        expected = replica.write(b"f", b"old")
        steps = Steps()
        with interposed(steps):
            steps.on = True
            (outcome,) = replica.apply(replica.put(b"f", file(b"new"), b"new", expected))
            steps.on = False
        replica.close()

        assert outcome.status == APPLIED
        first_rename = steps.names.index("_renameat2")
        assert "fdatasync" in steps.names[:first_rename]
        assert "fsync" in steps.names[:first_rename]  # of what takes its place


@pytest.mark.usefixtures("no_lease")
class TestLastLook:
    def test_sees_who_writes_while_it_reads(self, replica, monkeypatch):
        replica.apply(replica.delete(b"f", replica.write(b"f", b"old")))
        (waiting,) = (replica.root / ".psync/quarantine").iterdir()
        pread = os.pread
        late = [b"late"]

        def read_and_be_late(fd: int, size: int, at: int) -> bytes:
            block = pread(fd, size, at)
            if late:
                with waiting.open("ab") as stream:  # whoever had it open before
                    stream.write(late.pop())
            return block

        monkeypatch.setattr("psync.quarantine.os.pread", read_and_be_late)
        replica.finish()

        assert replica.conflicts() == {b"f": (b"oldlate", "late-write")}

    def test_sees_what_was_written_under_cover_where_no_digest_is_known(self, replica):
        expected = replica.write(b"f", b"old")._replace(digest=b"")
        writer = os.open(replica.root / "f", os.O_WRONLY)
        replica.apply(replica.delete(b"f", expected))

        os.write(writer, b"OLD")
        os.utime(writer, ns=(expected.mtime_ns, expected.mtime_ns))
        os.close(writer)
        replica.finish()

        assert replica.conflicts() == {b"f": (b"OLD", "late-write")}


class TestRecovery:
    """The agent was killed between a displacement and its way back."""

    @pytest.mark.parametrize("verb", ["replace", "delete"])
    def test_gives_back_over_nothing_that_came_there_since(self, tmp_path, verb):
        operation = OPERATIONS[verb]
        with_setup = Replica(tmp_path)
        operation.setup(with_setup)
        with_setup.close()
        user = User(tmp_path, b"d/p")
        kill_after(
            tmp_path, operation.transition,
            {{"replace": "parked", "delete": "held"}[verb]: user.save_by_rename}, "displaced",
        )  # fmt: skip
        User(tmp_path, b"d/p", ANOTHER).make_anew()

        replica = Replica(tmp_path)
        replica.finish()

        assert replica.tree()[b"d/p"] == ANOTHER
        assert replica.conflicts() == {b"d/p": (MINE, "displaced")}
        assert replica.leftovers() == []
        replica.close()

    def test_knows_a_users_file_whatever_its_size_and_time(self, tmp_path):
        operation = OPERATIONS["replace"]
        with_setup = Replica(tmp_path)
        operation.setup(with_setup)
        with_setup.close()
        path = tmp_path / "d/p"
        st = path.stat()

        def save_alike() -> None:
            (tmp_path / "d/new").write_bytes(b"B" * st.st_size)
            os.utime(tmp_path / "d/new", ns=(st.st_atime_ns, st.st_mtime_ns))
            (tmp_path / "d/new").rename(path)

        kill_after(tmp_path, operation.transition, {"parked": save_alike}, "displaced")

        replica = Replica(tmp_path)
        replica.finish()

        assert replica.tree() == {b"d": b"/", b"d/p": b"B" * st.st_size}
        assert replica.conflicts() == {}
        replica.close()

    def test_looks_at_its_own_file_that_somebody_has_seen(self, tmp_path):
        operation = OPERATIONS["replace"]
        with_setup = Replica(tmp_path)
        operation.setup(with_setup)
        with_setup.close()
        one, another = User(tmp_path, b"d/p"), User(tmp_path, b"d/p", ANOTHER)
        kill_after(
            tmp_path, operation.transition,
            {"parked": one.save_by_rename, "displaced": another.save_unnoticed}, "undone",
        )  # fmt: skip
        text = ANOTHER[: len(OURS)]

        replica = Replica(tmp_path)
        replica.finish()

        assert replica.tree()[b"d/p"] == MINE
        assert replica.conflicts() == {b"d/p": (text, "late-write")}
        replica.close()


class TestPaths:
    @pytest.mark.parametrize(
        "source", [b".psync/marker", b"../f", b"/etc/passwd", b"d/../f", b"a\0b"]
    )
    def test_of_a_rename_are_both_of_the_replica(self, replica, source):
        expected = replica.write(b"f", b"text")

        (outcome,) = replica.apply(replica.rename(source, expected, b"g"))

        assert outcome.status == FAILED
        assert "is no path of this replica" in outcome.message
        assert replica.tree() == {b"f": b"text"}
        assert (replica.root / ".psync/marker").exists()

    @pytest.mark.parametrize("has_openat2", [True, False], ids=["openat2", "walk"])
    def test_lead_through_no_link_to_somewhere_else_in_the_root(
        self, replica, monkeypatch, has_openat2
    ):
        monkeypatch.setattr("psync.syscalls._has_openat2", lambda: has_openat2)
        replica.write(b"d/f", b"text")
        (replica / b"link").symlink_to("d")
        (replica / b"file").symlink_to("d/f")

        for path in (b"link/f", b"file", b"link"):
            with pytest.raises(OSError, match=r"symbolic link|Not a directory"):
                os.close(open_beneath(replica.fd, path, os.O_RDONLY))


    @pytest.mark.parametrize("source", [b"x", b"3", b"3/1/", b"3/1\n", b"03/../3/1", b"/3/1"])
    def test_in_staging_are_those_that_we_gave(self, replica, source):
        replica.helpers.stage(3, [b"1"], [b""])
        for name in ("x", "3/1", "3/1\n"):
            (replica.root / ".psync/stage" / name).write_bytes(b"text")

        (outcome,) = replica.apply(replica.put(b"f", file(b"text"), source=source))

        assert outcome.status == FAILED
        assert "no name in staging" in outcome.message
        assert replica.tree() == {}


class TestClaim:
    def test_lets_nobody_else_in_who_was_let_in_before(self, tmp_path):
        Replica(tmp_path).close()
        (tmp_path / ".psync").chmod(0o755)

        Replica(tmp_path).close()

        assert stat.S_IMODE((tmp_path / ".psync").stat().st_mode) == 0o700

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
    def test_takes_no_directory_of_somebody_else(self, tmp_path):
        (tmp_path / ".psync").mkdir()
        os.chown(tmp_path / ".psync", 54321, 54321)
        replica = Replica(tmp_path, prepare=False)

        with pytest.raises(OSError, match="belongs to user 54321"):
            replica.helpers.prepare("pair", 0)
        replica.close()


class TestLook:
    """What is looked at changes between two of the calls that a look takes."""

    def test_gives_no_content_that_was_changed_under_cover_while_it_was_read(
        self, tmp_path, monkeypatch
    ):
        def refuse(fd: int) -> bool:
            raise PermissionError(errno.EACCES, "not yours")

        path = tmp_path / "f"
        path.write_bytes(b"one")
        st = path.stat()
        fd = os.open(tmp_path, os.O_RDONLY)
        looker = Looker(fd, owners=False, strip=True)
        read = os.read
        texts = [b"two", b"333"]

        def read_and_write(reader: int, size: int) -> bytes:
            content = read(reader, size)
            if texts:
                path.write_bytes(texts.pop(0))
                os.utime(path, ns=(st.st_atime_ns, st.st_mtime_ns))
            return content

        monkeypatch.setattr("psync.scan.read_lease", refuse)
        monkeypatch.setattr("psync.scan.os.read", read_and_write)
        seen = looker.look(b"f", 100)
        monkeypatch.undo()

        assert seen.content == b"333"
        assert seen.entry is not None
        assert seen.entry.digest == content_digest(b"333")
        assert seen.entry.ctime_ns == path.stat().st_ctime_ns
        looker.forget()
        os.close(fd)

    def test_of_a_link_never_mixes_two(self, tmp_path, monkeypatch):
        path = tmp_path / "l"
        path.symlink_to("one")
        fd = os.open(tmp_path, os.O_RDONLY)
        readlink = os.readlink

        def replace_and_read(name: bytes, *, dir_fd: int) -> bytes:
            monkeypatch.undo()
            path.rename(tmp_path / "old")
            path.symlink_to("two")
            return readlink(name, dir_fd=dir_fd)

        monkeypatch.setattr("psync.scan.os.readlink", replace_and_read)
        entry = entry_at(fd, b"l", owners=False, strip=True)

        assert entry is not None
        assert (entry.target, entry.ino) == (b"two", path.lstat().st_ino)
        os.close(fd)
