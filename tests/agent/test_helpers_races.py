"""What users do between any two steps of a transition costs nobody anything.

Every operation is run with every behaviour of a user at every one of its steps, and once
more with the agent killed right there. A user's text must then be in the tree or in the
conflict store, unless he himself has replaced or removed it; ours may only be gone if the
operation was not applied.
"""

from __future__ import annotations

import ast
import errno
import mmap
import os
import signal
import stat
import tempfile
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from psync.syscalls import renameat2
from psync.wire import APPLIED, CHANGED, IN_USE, NO_PARENT, Outcome, Transition
from tests.support.replica import Replica, directory, file, link

BASE, OURS, OTHER = b"base text", b"our new text", b"target text"


# --- operations ---------------------------------------------------------------------------


class Operation(NamedTuple):
    """What there is before, the transition, and the path that users meddle with."""

    setup: Callable[[Replica], None]
    transition: Callable[[Replica], Transition]
    path: bytes = b"d/p"
    base: bytes = BASE  # what is at the path before
    ours: bytes = OURS  # what the transition brings there
    kept: bool = False  # what is there before is a loser


def nothing(r: Replica) -> None:
    (r.root / "d").mkdir()


def a_file(r: Replica) -> None:
    r.write(b"d/p", BASE)


def a_linked_file(r: Replica) -> None:
    r.write(b"d/p", BASE)
    os.link(r / b"d/p", r / b"d/twin")


def a_link(r: Replica) -> None:
    (r.root / "d").mkdir()
    (r / b"d/p").symlink_to("base")


def two_files(r: Replica) -> None:
    r.write(b"d/p", BASE)
    r.write(b"e/q", OTHER)


OPERATIONS = {
    "create": Operation(nothing, lambda r: r.put(b"d/p", file(OURS), OURS), base=b""),
    "mkdir": Operation(nothing, lambda r: r.put(b"d/p", directory()), base=b"", ours=b""),
    "replace": Operation(a_file, lambda r: r.put(b"d/p", file(OURS), OURS, r.look(b"d/p"))),
    "replace-keep": Operation(
        a_file, lambda r: r.put(b"d/p", file(OURS), OURS, r.look(b"d/p"), keep=True),
        kept=True,
    ),
    "replace-link": Operation(
        a_link, lambda r: r.put(b"d/p", file(OURS), OURS, r.look(b"d/p")), base=b""
    ),
    "to-link": Operation(
        a_file, lambda r: r.put(b"d/p", link(b"ours"), None, r.look(b"d/p")), ours=b""
    ),
    "to-directory": Operation(
        a_file, lambda r: r.put(b"d/p", directory(), None, r.look(b"d/p")), ours=b""
    ),
    "delete": Operation(a_file, lambda r: r.delete(b"d/p", r.look(b"d/p")), ours=b""),
    "delete-keep": Operation(
        a_file, lambda r: r.delete(b"d/p", r.look(b"d/p"), keep=True), ours=b"", kept=True
    ),
    "meta": Operation(
        a_file, lambda r: r.meta(b"d/p", r.look(b"d/p"), file(BASE, 0o600)), ours=BASE
    ),
    "meta-linked": Operation(
        a_linked_file, lambda r: r.meta(b"d/p", r.look(b"d/p"), file(BASE, 0o600)), ours=BASE
    ),
    "rename": Operation(
        two_files, lambda r: r.rename(b"d/p", r.look(b"d/p"), b"e/new"), ours=b""
    ),
    "rename-over": Operation(
        two_files,
        lambda r: r.rename(b"e/q", r.look(b"e/q"), b"d/p", r.look(b"d/p")),
        ours=OTHER,
    ),
    "rename-over-from": Operation(
        two_files,
        lambda r: r.rename(b"d/p", r.look(b"d/p"), b"e/q", r.look(b"e/q")),
        ours=b"",
    ),
}  # fmt: skip


# --- users --------------------------------------------------------------------------------

MINE = b"a user's own text"


class User:
    """Somebody at one path; `waiting` is what our lease makes him wait for."""

    def __init__(self, root: Path, path: bytes, text: bytes = MINE) -> None:
        self._text = text
        self._root = root
        self._path = root / os.fsdecode(path)
        self.waiting: dict[int, Callable[[], None]] = {}  # by inode
        self.wrote: list[bytes] = []  # what must not be lost
        self.ended: list[bytes] = []  # what he himself has put an end to
        self.in_vain: list[bytes] = []  # written into a file that has no name any more
        self.found_room = False  # he put something where he would have deleted what he found

    def at(self, step: str, behaviour: str) -> Callable[[str], None]:
        """Make the function that acts at a step of the helpers'."""

        def act(at: str) -> None:
            if at == step:
                getattr(self, behaviour)()

        return act

    def _now(self) -> bytes:
        try:
            return self._path.read_bytes()
        except OSError:
            return b""

    def save_in_place(self) -> None:
        """Truncate and write, as vim with backupcopy=yes; waits if we hold a lease."""
        old = self._now()
        self._open(os.O_WRONLY | os.O_TRUNC, lambda fd: os.write(fd, self._text))
        if old:
            self.ended.append(old)

    def append(self) -> None:
        """Append, as a log does; waits if we hold a lease."""
        old = self._now()
        self._open(os.O_WRONLY | os.O_APPEND, lambda fd: os.write(fd, self._text))
        if old:
            self.ended.append(old)

    def save_unnoticed(self) -> None:
        """Write as many bytes as there were and put the time back."""
        old = self._now()
        if not old:
            return
        text = (self._text * 9)[: len(old)]
        st = self._path.stat()

        def act(fd: int) -> None:
            os.write(fd, text)
            os.utime(fd, ns=(st.st_atime_ns, st.st_mtime_ns))

        self._open(os.O_WRONLY, act, text)
        self.ended.append(old)

    def _open(self, flags: int, act: Callable[[int], object], text: bytes = b"") -> None:
        """Open for writing; the name is resolved now, even if the lease makes us wait."""
        try:
            inode = os.open(self._path, os.O_PATH | os.O_NOFOLLOW)
        except OSError:
            return
        if not stat.S_ISREG(os.fstat(inode).st_mode):
            os.close(inode)
            return

        def attempt() -> None:
            before = Path(f"/proc/self/fd/{inode}").read_bytes()
            fd = os.open(f"/proc/self/fd/{inode}", flags | os.O_NONBLOCK)
            if not flags & os.O_APPEND:
                self.ended.append(before)  # as it is by now, however long he had to wait
            act(fd)
            heirs = self.wrote if os.fstat(fd).st_nlink else self.in_vain
            heirs.append(text or self._text)
            os.close(fd)
            os.close(inode)

        try:
            attempt()
        except BlockingIOError:
            self.waiting[os.fstat(inode).st_ino] = attempt

    def save_by_rename(self) -> None:
        """Write a temporary file and rename it over, as most editors do."""
        old = self._now()
        temporary = self._path.with_name("temporary")
        temporary.write_bytes(self._text)
        try:
            temporary.rename(self._path)
        except IsADirectoryError:
            temporary.unlink()
            return
        self.wrote.append(self._text)
        self.ended.append(old)

    def save_with_backup(self) -> None:
        """Move it aside, write it anew, delete what was moved, as vim with backupcopy=no."""
        old = self._now()
        if not old or self._path.is_symlink():
            return
        backup = self._path.with_name("p~")
        self._path.rename(backup)
        self._path.write_bytes(self._text)
        self.wrote.append(self._text)
        backup.unlink()
        self.ended.append(old)

    def remove(self) -> None:
        """Delete it."""
        old = self._now()
        try:
            self._path.unlink()
        except (FileNotFoundError, IsADirectoryError):
            return
        self.ended.append(old)

    def _make_room(self) -> None:
        self.found_room |= not os.path.lexists(self._path)
        self.remove()

    def make_anew(self) -> None:
        """Delete it and make another one: on ext4 it gets the same inode number."""
        self._make_room()
        if not self._path.exists():
            self._path.write_bytes(self._text)
            self.wrote.append(self._text)

    def move_away(self) -> None:
        """Rename it to a name of his own."""
        if os.path.lexists(self._path):
            self._path.rename(self._root / "moved away")

    def make_directory(self) -> None:
        """Put a directory with something in it into its place."""
        self._make_room()
        if not os.path.lexists(self._path):
            self._path.mkdir()
        if self._path.is_dir() and not self._path.is_symlink():
            child = self._path / "child"
            if child.exists():
                self.ended.append(child.read_bytes())
            child.write_bytes(self._text)
            self.wrote.append(self._text)

    def make_link(self) -> None:
        """Put a symlink into its place."""
        self._make_room()
        if not os.path.lexists(self._path):
            self._path.symlink_to("/etc")

    def change_mode(self) -> None:
        """Change permissions only."""
        if self._path.exists():
            self._path.chmod(0o711)

    def do_nothing(self) -> None:
        """Be content."""


BEHAVIOURS = [
    name
    for name, value in vars(User).items()
    if callable(value) and not name.startswith("_") and name != "at"
]


# --- what must hold -----------------------------------------------------------------------


def texts(replica: Replica) -> list[bytes]:
    """The content of everything that a user can get at: the tree and the conflict store."""
    kept = [
        path.read_bytes()
        for path in (replica.root / ".psync/conflicts").rglob("*")
        if path.is_file() and path.suffix != ".json"
    ]
    return [*replica.tree().values(), *kept]


def has(everything: list[bytes], text: bytes) -> bool:
    return any(text in content for content in everything)


def assert_nothing_lost(replica: Replica, wrote: list[bytes], ended: list[bytes]) -> None:
    everything = texts(replica)
    for text in wrote:
        assert has(everything, text) or has(ended, text), everything
    assert replica.leftovers() == []


def assert_consistent(
    replica: Replica, operation: Operation, outcome: Outcome, ended: list[bytes]
) -> None:
    everything = texts(replica)
    assert outcome.status in (APPLIED, CHANGED, IN_USE), outcome
    if outcome.status == APPLIED and not ended:
        assert has(everything, operation.ours)
    if (outcome.status != APPLIED or operation.kept) and not ended:
        assert has(everything, operation.base), (outcome, everything)


def steps_of(operation: Operation, root: Path) -> list[str]:
    """Run the operation undisturbed; return the steps that it takes."""
    root.mkdir()
    replica = Replica(root)
    operation.setup(replica)
    steps: list[str] = []
    transition = operation.transition(replica)
    replica.helpers.step = steps.append
    (outcome,) = replica.apply(transition)
    replica.finish()
    assert outcome.status == APPLIED
    assert steps
    assert replica.leftovers() == []
    assert has(texts(replica), operation.ours)
    assert replica.helpers.kept == []
    replica.close()
    return steps


@pytest.fixture
def place(tmp_path, behaviour):
    """A directory to work in: in memory, except where inode numbers are to be used again."""
    if behaviour == "make_anew" or not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        yield Path(directory)


@pytest.fixture(params=["lease", "no lease"])
def lease(request, monkeypatch):
    """Run with and without: a file that is not ours cannot be leased."""

    def refuse(fd: int) -> bool:
        raise PermissionError(errno.EACCES, "not yours")

    if request.param == "no lease":
        monkeypatch.setattr("psync.holding.read_lease", refuse)
        monkeypatch.setattr("psync.quarantine.read_lease", refuse)


@pytest.mark.usefixtures("lease")
@pytest.mark.parametrize("behaviour", BEHAVIOURS)
@pytest.mark.parametrize("name", OPERATIONS)
class TestRaces:
    def test_nobody_loses_anything(self, place, name, behaviour):
        operation = OPERATIONS[name]
        for step in steps_of(operation, place / "undisturbed"):
            root = place / step
            root.mkdir()
            replica = Replica(root)
            operation.setup(replica)
            user = User(replica.root, operation.path)
            transition = operation.transition(replica)

            replica.helpers.step = user.at(step, behaviour)
            (outcome,) = replica.apply(transition)
            replica.helpers.step = lambda at: None
            for goes_on in user.waiting.values():
                goes_on()
            replica.finish()

            assert not user.in_vain
            assert_nothing_lost(replica, user.wrote, user.ended)
            assert_consistent(replica, operation, outcome, user.ended)
            replica.close()


# `python -m tests.agent.modelcheck kill` has them all.
@pytest.mark.usefixtures("lease")
@pytest.mark.parametrize(
    "behaviour", ["save_in_place", "save_by_rename", "remove", "make_directory", "do_nothing"]
)
@pytest.mark.parametrize("name", OPERATIONS)
class TestKill:
    def test_x01_loses_nothing_whatever_users_do(self, place, name, behaviour):
        operation = OPERATIONS[name]
        for step in steps_of(operation, place / "undisturbed"):
            root = place / step
            root.mkdir()
            replica = Replica(root)
            operation.setup(replica)
            transition = operation.transition(replica)
            replica.close()

            killed = kill_at(root, transition, operation.path, step, behaviour)
            assert killed is not None
            wrote, ended, waiting = killed
            for inode in waiting:
                wrote += go_on_writing(root, inode)
            replica = Replica(root)
            replica.finish()

            assert_nothing_lost(replica, wrote, ended)
            if not ended:
                everything = texts(replica)
                assert has(everything, operation.base) or has(everything, operation.ours)
                if behaviour == "do_nothing" and operation.base and operation.ours:
                    content = replica.tree()[operation.path]  # whole, and never absent
                    assert content in (operation.base, operation.ours)
            replica.close()


DISPLACING = {
    "replace": "parked",
    "replace-keep": "parked",
    "replace-link": "parked",
    "meta-linked": "parked",
    "to-link": "parked",
    "to-directory": "parked",
    "delete": "held",
    "rename": "held",
    "rename-over": "held",
    "rename-over-from": "held",
}  # the last step at which a user can bring the wrong thing under the transition


@pytest.mark.parametrize("behaviour", ["save_by_rename", "make_directory", "make_link", "append"])
@pytest.mark.parametrize("name", DISPLACING)
class TestTheWayBack:
    """The wrong thing was displaced and goes back; meanwhile users go on, or we are killed."""

    @pytest.mark.parametrize("then", BEHAVIOURS)
    def test_loses_nothing_either(self, place, name, behaviour, then):
        operation = OPERATIONS[name]
        for step in ("displaced", "exchanged", "moved", "undone"):
            root = place / step
            root.mkdir()
            replica = Replica(root)
            operation.setup(replica)
            one = User(root, operation.path)
            another = User(root, operation.path, b"what somebody else wrote")
            transition = operation.transition(replica)

            first, second = one.at(DISPLACING[name], behaviour), another.at(step, then)
            replica.helpers.step = lambda at, acts=(first, second): [act(at) for act in acts]
            replica.apply(transition)
            replica.helpers.step = lambda at: None
            for goes_on in [*one.waiting.values(), *another.waiting.values()]:
                goes_on()
            replica.finish()

            assert_nothing_lost(replica, one.wrote + another.wrote, one.ended + another.ended)
            if one.in_vain:  # only if the other one has taken the file away
                assert step == "undone"
                assert has(another.ended, BASE)
            replica.close()

    def test_not_even_when_the_agent_is_killed(self, place, name, behaviour):
        operation = OPERATIONS[name]
        for step in ("displaced", "exchanged", "moved", "undone"):
            root = place / step
            root.mkdir()
            replica = Replica(root)
            operation.setup(replica)
            transition = operation.transition(replica)
            replica.close()

            killed = kill_at(
                root, transition, operation.path, DISPLACING[name], behaviour, dies_at=step
            )
            if killed is None:
                continue  # there is no such step on this way
            wrote, ended, waiting = killed
            for inode in waiting:
                wrote += go_on_writing(root, inode)
            replica = Replica(root)
            replica.finish()

            assert_nothing_lost(replica, wrote, ended)
            if behaviour in ("save_by_rename", "make_directory") and "from" not in name:
                assert has(list(replica.tree().values()), MINE), replica.tree()
            replica.close()


class TestWriterWhoWaits:
    """He has resolved the name before we displaced the file: it must be back when he goes on."""

    @pytest.mark.parametrize(
        ("name", "step", "path"),
        [
            ("replace", "parked", b"d/p"),
            ("replace-keep", "parked", b"d/p"),
            ("delete", "held", b"d/p"),
            ("rename-over", "exchanged", b"e/q"),
        ],
    )
    def test_w16_writes_into_the_file_at_its_path(self, tmp_path, name, step, path):
        operation = OPERATIONS[name]
        replica = Replica(tmp_path)
        operation.setup(replica)
        user = User(tmp_path, path)

        replica.helpers.step = user.at(step, "append")
        (outcome,) = replica.apply(operation.transition(replica))
        assert user.waiting
        for goes_on in user.waiting.values():
            goes_on()
        replica.finish()

        assert outcome.status == IN_USE
        assert outcome.entry.ino == replica.look(operation.path).ino
        assert replica.tree()[operation.path] == BASE + MINE
        assert replica.conflicts() == {}
        replica.close()


def kill_at(
    root: Path,
    transition: Transition,
    path: bytes,
    step: str,
    behaviour: str,
    dies_at: str = "",
) -> tuple[list[bytes], list[bytes], list[int]] | None:
    """Apply in another process, let a user act at a step, and kill the process there.

    Args:
        dies_at: or at a later step.

    Returns:
        What the user wrote, what he ended, the inodes of files that he still waits to
        write to; None if the step was never reached.
    """
    dies_at = dies_at or step
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a fork among threads
        pid = os.fork()
    if not pid:
        try:
            replica = Replica(root)
            user = User(root, path)
            act = user.at(step, behaviour)

            def act_and_die(at: str) -> None:
                act(at)
                if at == dies_at:
                    told = (user.wrote, user.ended, list(user.waiting))
                    os.write(writer, repr(told).encode())
                    os.kill(os.getpid(), signal.SIGKILL)

            replica.helpers.step = act_and_die
            replica.apply(transition)
            os._exit(0)
        finally:
            os._exit(1)
    os.close(writer)
    with open(reader, "rb") as stream:
        told = stream.read()
    _, status = os.waitpid(pid, 0)
    if os.WIFEXITED(status):
        assert os.WEXITSTATUS(status) == 0
        return None
    wrote, ended, waiting = ast.literal_eval(told.decode())
    return wrote, ended, waiting


def go_on_writing(root: Path, inode: int) -> list[bytes]:
    """Let a writer whom the lease held back go on, wherever the file is now."""
    for path in root.rglob("*"):
        if path.lstat().st_ino == inode and path.is_file():
            with path.open("ab") as stream:
                stream.write(MINE)
            return [MINE]
    return []


class TestLateWrites:
    """A descriptor, or a mapping, that was open before is the quarantine's business."""

    @pytest.fixture
    def replica(self, tmp_path, monkeypatch):
        def refuse(fd: int) -> bool:
            raise PermissionError(errno.EACCES, "not yours")

        monkeypatch.setattr("psync.holding.read_lease", refuse)  # as for somebody else's file
        made = Replica(tmp_path)
        yield made
        made.close()

    @pytest.mark.parametrize("verb", ["replace", "delete", "rename over"])
    def test_a_late_write_becomes_a_conflict(self, replica, verb):
        old = replica.write(b"f", b"old")
        other = replica.write(b"g", b"new")
        writer = os.open(replica.root / "f", os.O_WRONLY)

        (outcome,) = replica.apply(
            {
                "replace": replica.put(b"f", file(b"new"), b"new", old),
                "delete": replica.delete(b"f", old),
                "rename over": replica.rename(b"g", other, b"f", old),
            }[verb]
        )
        os.write(writer, b"late")
        os.close(writer)
        replica.finish()

        assert outcome.status == APPLIED
        assert replica.conflicts() == {b"f": (b"late", "late-write")}
        assert [kept.path for kept in replica.helpers.kept] == [b"f"]
        assert replica.leftovers() == []

    def test_waits_for_as_long_as_somebody_may_still_write(self, replica):
        old = replica.write(b"f", b"old")
        writer = os.open(replica.root / "f", os.O_WRONLY)
        replica.apply(replica.delete(b"f", old))

        for _ in range(5):
            replica.now += 60
            assert replica.helpers.tick() is not None
        os.write(writer, b"very late")
        os.close(writer)
        replica.finish()

        assert replica.conflicts() == {b"f": (b"very late", "late-write")}

    def test_w09_a_mapping_counts_as_a_writer(self, replica):
        old = replica.write(b"f", b"old")
        with open(replica.root / "f", "r+b") as stream:
            mapping = mmap.mmap(stream.fileno(), 0)
        replica.apply(replica.delete(b"f", old))

        replica.now += 60
        assert replica.helpers.tick() is not None
        mapping[:3] = b"map"
        mapping.close()
        replica.finish()

        assert replica.conflicts() == {b"f": (b"map", "late-write")}

    @pytest.mark.parametrize("verb", ["replace", "delete"])
    def test_w10_a_store_that_moves_no_time_is_found_by_the_digest(self, replica, verb):
        """The first store has made the page dirty; of the second one no stat tells."""
        replica.write(b"f", b"old text")
        with open(replica.root / "f", "r+b") as stream:
            mapping = mmap.mmap(stream.fileno(), 0)
        mapping[:3] = b"our"
        seen = replica.look(b"f")
        mapping[:3] = b"now"
        assert replica.look(b"f").same_identity(seen)

        (outcome,) = replica.apply(
            {
                "replace": replica.put(b"f", file(b"new"), b"new", seen),
                "delete": replica.delete(b"f", seen),
            }[verb]
        )
        mapping.close()
        replica.finish()

        assert outcome.status == APPLIED
        assert replica.conflicts() == {b"f": (b"now text", "late-write")}

    def test_without_a_digest_size_and_times_decide(self, replica):
        same = replica.write(b"same", b"old")._replace(digest=b"")
        touched = replica.write(b"touched", b"old")._replace(digest=b"")
        writer = os.open(replica.root / "touched", os.O_WRONLY)
        replica.apply(replica.delete(b"same", same), replica.delete(b"touched", touched))

        os.write(writer, b"OLD")
        os.close(writer)
        replica.finish()

        assert replica.conflicts() == {b"touched": (b"OLD", "late-write")}

    def test_there_is_none_into_a_file_that_we_cannot_read(self, replica, monkeypatch):
        """Its owner has taken its mode away: its bytes are known, and cannot be compared."""

        def refuse(*args: object) -> None:
            raise PermissionError(errno.EACCES, "mode 000")

        monkeypatch.setattr("psync.quarantine._Inspection", refuse)
        deleted, replaced = replica.write(b"f", b"old"), replica.write(b"g", b"old")
        replica.apply(
            replica.delete(b"f", deleted), replica.put(b"g", file(b"new"), b"new", replaced)
        )

        replica.finish()

        assert replica.conflicts() == {}

    def test_a_late_write_into_a_loser_is_in_the_conflict_store(self, replica):
        old = replica.write(b"f", b"old")
        writer = os.open(replica.root / "f", os.O_WRONLY)
        replica.apply(replica.put(b"f", file(b"new"), b"new", old, keep=True))

        os.write(writer, b"late")
        os.close(writer)
        replica.finish()

        assert replica.conflicts() == {b"f": (b"late", "conflict")}

    def test_a_loser_that_cannot_go_back_is_told_of(self, replica):
        """Its user has set its mode in the very moment in which its directory was removed."""

        def meddle(at: str) -> None:
            if at == "displaced":
                (displaced,) = (replica.root / ".psync/quarantine").iterdir()
                displaced.chmod(0o600)
                (replica / b"d/f").unlink()
                (replica / b"d").rmdir()

        old = replica.write(b"d/f", b"old")
        replica.helpers.step = meddle
        (outcome,) = replica.apply(replica.put(b"d/f", file(b"new"), b"new", old, keep=True))

        assert outcome.status == NO_PARENT
        assert replica.conflicts() == {b"d/f": (b"old", "conflict")}
        assert [kept.path for kept in replica.helpers.kept] == [b"d/f"]

    def test_is_found_by_the_next_agent_too(self, replica, tmp_path):
        old = replica.write(b"f", b"old")
        writer = os.open(replica.root / "f", os.O_WRONLY)
        replica.apply(replica.put(b"f", file(b"new"), b"new", old))
        replica.helpers.close()
        os.write(writer, b"late")
        os.close(writer)

        replica.helpers.prepare("pair", 0)
        replica.helpers.recover()
        replica.finish()

        assert replica.conflicts() == {b"f": (b"late", "late-write")}
        assert replica.tree() == {b"f": b"new"}

    def test_what_cannot_be_read_back_is_kept(self, replica, monkeypatch):
        def fail(*args):
            raise OSError(errno.EIO, "Input/output error")

        old = replica.write(b"f", b"old")
        replica.apply(replica.delete(b"f", old))
        monkeypatch.setattr("psync.quarantine.os.pread", fail)
        replica.finish()

        assert replica.conflicts() == {b"f": (b"old", "unreadable")}


class TestOutcome:
    """What is told of a path is what we left there, never what somebody made of it since."""

    @pytest.mark.parametrize("behaviour", ["save_in_place", "append", "change_mode"])
    @pytest.mark.parametrize("name", ["create", "replace", "rename"])
    def test_a_later_edit_differs_from_it(self, tmp_path, name, behaviour):
        operation = OPERATIONS[name]
        replica = Replica(tmp_path)
        operation.setup(replica)
        at = b"e/new" if name == "rename" else operation.path
        user = User(tmp_path, at)
        step = {"create": "published", "replace": "published", "rename": "moved"}[name]
        replica.helpers.step = user.at(step, behaviour)

        (outcome,) = replica.apply(operation.transition(replica))

        assert outcome.status == APPLIED
        assert not outcome.entry.same_identity(replica.look(at))
        assert replica.helpers.own[at] == outcome.entry
        replica.close()


class TestRecovery:
    def test_x20_an_unknown_name_is_kept(self, tmp_path):
        replica = Replica(tmp_path)
        (tmp_path / ".psync/quarantine/0123456789abcdef").write_bytes(b"whose?")
        replica.close()

        replica = Replica(tmp_path)

        assert replica.conflicts() == {b"": (b"whose?", "unknown")}
        assert len(replica.helpers.kept) == 1
        assert replica.leftovers() == []
        replica.close()

    def test_x20_a_torn_journal_is_read_as_far_as_it_goes(self, tmp_path):
        replica = Replica(tmp_path)
        old = replica.write(b"f", b"old")
        replica.apply(replica.delete(b"f", old))
        replica.close()
        with open(tmp_path / ".psync/journal", "ab") as journal:
            journal.write(b"\0\0\0\nhalf a li")

        replica = Replica(tmp_path)
        replica.finish()

        assert replica.leftovers() == []
        assert replica.conflicts() == {}
        assert any("make no sense" in line for line in replica.lines)
        replica.close()

    def test_x20_empties_staging_whatever_is_in_it(self, tmp_path):
        replica = Replica(tmp_path)
        replica.helpers.stage(3, [b"1"], [b""])
        (tmp_path / ".psync/stage/x").write_bytes(b"")
        (tmp_path / ".psync/stage/3/.1.Xy").write_bytes(b"")
        outside = tmp_path / "outside"
        outside.mkdir()
        (outside / "file").write_bytes(b"")
        (tmp_path / ".psync/stage/link").symlink_to(outside)
        replica.close()

        replica = Replica(tmp_path)

        assert replica.leftovers() == []
        assert (outside / "file").exists()
        replica.close()

    def test_x03_a_file_that_a_power_cut_has_emptied_goes_back(self, tmp_path):
        replica = Replica(tmp_path)
        old = replica.write(b"f", b"old")
        (outcome,) = replica.apply(replica.put(b"f", file(b"new"), b"new", old))
        os.truncate(tmp_path / "f", 0)  # the name was on the disk, the bytes were not
        os.utime(tmp_path / "f", ns=(outcome.entry.mtime_ns, outcome.entry.mtime_ns))
        replica.close()

        replica = Replica(tmp_path)
        replica.finish()

        assert replica.tree() == {b"f": b"old"}
        assert replica.conflicts() == {}
        assert replica.leftovers() == []
        replica.close()

    def test_a_rename_over_is_finished(self, tmp_path):
        operation = OPERATIONS["rename-over"]
        replica = Replica(tmp_path)
        operation.setup(replica)
        transition = operation.transition(replica)
        replica.close()
        kill_at(tmp_path, transition, b"d/p", "exchanged", "do_nothing")
        assert (tmp_path / "e/q").read_bytes() == BASE

        replica = Replica(tmp_path)
        replica.finish()

        assert replica.tree() == {b"d": b"/", b"e": b"/", b"d/p": OTHER}
        assert replica.conflicts() == {}
        assert replica.leftovers() == []
        replica.close()

    def test_x21_may_be_killed_itself(self, tmp_path, monkeypatch):
        """Kill recovery before each of its renames in turn; then let it finish."""

        class KilledError(Exception):
            pass

        for name, behaviour in (("replace", "save_by_rename"), ("rename-over", "do_nothing")):
            operation = OPERATIONS[name]
            for step in steps_of(operation, tmp_path / name):
                for survives in range(4):
                    root = tmp_path / f"{name}-{step}-{survives}"
                    root.mkdir()
                    replica = Replica(root)
                    operation.setup(replica)
                    transition = operation.transition(replica)
                    replica.close()
                    killed = kill_at(root, transition, operation.path, step, behaviour)
                    assert killed is not None
                    wrote, ended, _ = killed
                    left = [survives]

                    def rename(*args, left: list[int] = left) -> None:
                        if not left[0]:
                            raise KilledError
                        left[0] -= 1
                        renameat2(*args)

                    for module in ("recovery", "conflicts"):
                        monkeypatch.setattr(f"psync.{module}.renameat2", rename)
                    with suppress(KilledError):
                        Replica(root).close()
                    monkeypatch.undo()
                    replica = Replica(root)
                    replica.finish()

                    assert_nothing_lost(replica, wrote, ended)
                    replica.close()


class TestDirectoryMovedAway:
    """Its user takes away the directory in which we are about to do something.

    Nothing is confirmed then: what is taken for agreed there would be deleted on the other side,
    as the directory is gone here. And what he has taken along stays as it was.
    """

    @pytest.mark.parametrize("instead", ["nothing", "another"])
    @pytest.mark.parametrize("to", ["outside", "root/elsewhere"])
    @pytest.mark.parametrize(
        ("what", "step"),
        [
            ("create", "made"),
            ("mkdir", "made"),
            ("replace", "held"),
            ("replace", "parked"),
            ("delete", "held"),
            ("delete", "displaced"),
            ("rmdir", "found"),
            ("set aside", "full"),
            ("chmod", "held"),
            ("move in", "held"),
            ("move out", "held"),
            ("move over", "held"),
        ],
    )
    def test_nothing_is_confirmed(
        self, tmp_path: Path, what: str, step: str, to: str, instead: str
    ) -> None:
        root = tmp_path / "root"
        root.mkdir()
        replica = Replica(root)
        old, other = replica.write(b"d/f", b"old"), replica.write(b"g", b"other")
        if what in ("rmdir", "set aside"):
            (root / "d/e").mkdir()
        if what == "set aside":
            (root / "d/e/x").write_bytes(b"x")
        transition = {
            "create": lambda: replica.put(b"d/new", file(b"new"), b"new"),
            "mkdir": lambda: replica.put(b"d/new", directory()),
            "replace": lambda: replica.put(b"d/f", file(b"new"), b"new", old),
            "delete": lambda: replica.delete(b"d/f", old),
            "rmdir": lambda: replica.rmdir(b"d/e", replica.look(b"d/e")),
            "set aside": lambda: replica.rmdir(b"d/e", replica.look(b"d/e"), keep=True),
            "chmod": lambda: replica.meta(b"d/f", old, old._replace(mode=0o600)),
            "move in": lambda: replica.rename(b"g", other, b"d/new"),
            "move out": lambda: replica.rename(b"d/f", old, b"new"),
            "move over": lambda: replica.rename(b"g", other, b"d/f", old),
        }[what]()

        def move_away() -> None:
            (root / "d").rename(tmp_path / to)
            if instead == "another":
                (root / "d").mkdir()

        acts = [move_away]
        replica.helpers.step = lambda at: acts.pop()() if at == step and acts else None

        (outcome,) = replica.apply(transition)
        replica.helpers.step = lambda at: None
        replica.finish()

        assert acts == []
        assert (outcome.status, outcome.entry) == (NO_PARENT, None)
        assert (tmp_path / to / "f").read_bytes() == b"old"
        assert (root / "g").read_bytes() == b"other"
        assert (tmp_path / to / "e/x").exists() is (what == "set aside")
        assert not (root / "new").exists()
        replica.close()
