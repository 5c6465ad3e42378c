"""Every schedule of the helpers' system calls, their users and a kill, on the real kernel.

    python -m tests.agent.modelcheck [--jobs N] [--directory DIR] [--only WORD] [KIND ...]

A transition takes some dozens of system calls. Before each of them a user may do
something, and so may a second one; at each the agent may be killed, and the next agent as well
while it recovers. All of that is enumerated here, run, and looked at: no text of a
user's may be gone that he has not put an end to himself, nothing of ours may be left, and to
recover once more must change nothing.

Kinds of schedules, `one` and `kill` if none is named:

    one      one user's action before each call
    two      two users' actions, before each pair of calls
    kill     nobody, or one user, then a kill at each call from there on
    again    as `kill` where the user acts right before, and the next agent is killed, too, at
             each call of its recovery
    between  as `kill` where the user acts right before, and another one acts before each call
             of the recovery

**Invariants.** A kill is a real process's end between two calls: nothing of it is
unwound. A user who is held back by a lease goes on when it ends. The same arguments run
the same schedules.
"""

from __future__ import annotations

import argparse
import ast
import collections
import errno
import fcntl
import os
import re
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import psync.holding
import psync.quarantine
import psync.syscalls
from psync.wire import APPLIED, CHANGED, IN_USE, NO_PARENT, NOT_EMPTY
from tests.agent.test_helpers_races import BASE, OPERATIONS, OURS, Operation, User
from tests.support.replica import Replica, directory, file

__all__ = [
    "ACTIONS", "KINDS", "TRANSITIONS", "Schedule", "Steps", "Violation", "in_a_child", "interposed",
    "run", "run_row", "schedules",
]  # fmt: skip

FIRST, SECOND = b"what the first one wrote", b"what another one wrote"
STEPS_MAX = 400  # no transition takes so many calls
IN_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


class Violation(AssertionError):
    """Something is lost, or left."""


# --- what there is to do --------------------------------------------------------------------


def _linked(r: Replica) -> None:
    r.write(b"d/p", BASE)
    os.link(r / b"d/p", r / b"d/twin")


def _empty_directory(r: Replica) -> None:
    (r / b"d/p").mkdir(parents=True)


TRANSITIONS: dict[str, Operation] = {
    **OPERATIONS,
    "replace-linked": Operation(
        _linked, lambda r: r.put(b"d/p", file(OURS), OURS, r.look(b"d/p"))
    ),
    "delete-linked": Operation(_linked, lambda r: r.delete(b"d/p", r.look(b"d/p")), ours=b""),
    "rmdir": Operation(
        _empty_directory, lambda r: r.rmdir(b"d/p", r.look(b"d/p")), base=b"", ours=b""
    ),
    "meta-directory": Operation(
        _empty_directory,
        lambda r: r.meta(b"d/p", r.look(b"d/p"), directory(0o700)),
        base=b"",
        ours=b"",
    ),
}  # fmt: skip


class Meddler(User):
    """A user as the other tests know him, who can do a little more."""

    def truncate(self) -> None:
        """Leave four bytes of it; waits if we hold a lease."""
        old = self._now()
        if old:
            self._open(os.O_WRONLY, lambda fd: os.ftruncate(fd, 4), old[:4])
            self.ended.append(old)

    def link(self) -> None:
        """Give it another name."""
        if self._path.is_file() and not self._path.is_symlink():
            other = self._root / "linked"
            if not os.path.lexists(other):
                os.link(self._path, other, follow_symlinks=False)

    def move_directory(self) -> None:
        """Rename the directory that it is in."""
        if self._path.parent.is_dir():
            self._path.parent.rename(self._root / "directory")


ACTIONS = [
    name
    for cls in (User, Meddler)
    for name, value in vars(cls).items()
    if callable(value) and not name.startswith("_") and name not in ("at", "do_nothing")
]


# --- before each system call ------------------------------------------------------------------

_CALLS = (
    "open", "rename", "unlink", "rmdir", "mkdir", "symlink", "chmod", "fchmod", "chown",
    "fchown", "utime", "ftruncate", "write", "pread", "stat", "fstat", "readlink", "listdir",
    "fsync", "fdatasync",
)  # fmt: skip


class Steps:
    """Counts the calls while it is `on`; somebody may act before any of them."""

    def __init__(self) -> None:
        self.on = False
        self.count = 0
        self.acts: dict[int, list[Callable[[], None]]] = {}
        self.names: list[str] = []

    def before(self, name: str) -> None:
        """A call is about to be made."""
        if not self.on:
            return
        self.on = False
        try:
            self.names.append(name)
            for act in self.acts.pop(self.count, ()):
                act()
        finally:
            self.on = True
        self.count += 1


def _announcing(steps: Steps, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    def announced(*args: Any, **options: Any) -> Any:
        steps.before(name)
        return call(*args, **options)

    return announced


@contextmanager
def interposed(steps: Steps) -> Iterator[None]:
    """Let `steps` hear of every system call that the helpers make from Python."""
    places: list[tuple[Any, str]] = [(os, name) for name in _CALLS]
    places += [(psync.syscalls, "_renameat2"), (psync.syscalls, "_openat2"), (fcntl, "fcntl")]
    whole = [(place, name, getattr(place, name)) for place, name in places]
    for place, name, call in whole:
        setattr(place, name, _announcing(steps, name, call))
    try:
        yield
    finally:
        for place, name, call in whole:
            setattr(place, name, call)


@contextmanager
def _leases(allowed: bool) -> Iterator[None]:
    """Without: as for files that are not ours, or where a file system has none."""
    if allowed:
        yield
        return

    def refuse(fd: int) -> bool:
        raise PermissionError(errno.EACCES, "not yours")

    modules = (psync.holding, psync.quarantine)
    whole = [module.read_lease for module in modules]
    for module in modules:
        module.read_lease = refuse
    try:
        yield
    finally:
        for module, call in zip(modules, whole, strict=True):
            module.read_lease = call


# --- one schedule -----------------------------------------------------------------------------


class Schedule(NamedTuple):
    """Who does what before which call.

    Attributes:
        transition: a key of `TRANSITIONS`.
        lease: there are leases.
        first: a user's action, and the call before which he acts; empty: nobody does.
        first_at: ...
        second: another user's.
        second_at: ..., of the recovery if the agent is `killed`.
        killed: the call before which the agent is killed; -1: it is not.
        again: the call of its recovery before which the next one is killed; -1: it is not.
    """

    transition: str
    lease: bool = True
    first: str = ""
    first_at: int = 0
    second: str = ""
    second_at: int = 0
    killed: int = -1
    again: int = -1


class _Told(NamedTuple):
    """What came of a process that may have been killed."""

    reached: bool  # what was to be done was done
    wrote: list[bytes]
    ended: list[bytes]
    in_vain: list[bytes]
    waiting: list[int]  # inodes of files that somebody still waits to write to


def in_a_child(act: Callable[[Callable[[Any], None]], None]) -> Any:
    """Run something in a process that may die; return what it says by the function given."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a fork among threads
        pid = os.fork()
    if not pid:
        code = 1
        try:
            os.close(reader)

            def say(value: Any) -> None:
                os.write(writer, repr(value).encode())

            act(say)
            code = 0
        except BaseException:  # noqa: BLE001
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writer)
    with open(reader, "rb") as stream:
        told = stream.read()
    _, status = os.waitpid(pid, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise Violation("the agent ended by itself")
    return ast.literal_eval(told.decode()) if told else None


def _go_on_writing(root: Path, inode: int, text: bytes) -> list[bytes]:
    """Let a writer whom the lease held back go on, wherever the file is now."""
    for path in root.rglob("*"):
        if path.lstat().st_ino == inode and path.is_file():
            with path.open("ab") as stream:
                stream.write(text)
            return [text]
    return []


def run(schedule: Schedule, root: Path) -> bool:
    """Run a schedule in an empty directory and see that all is well.

    Returns:
        False if there is no such call: the schedule is not one.

    Raises:
        Violation: somebody has lost something, or something is left.
    """
    operation = TRANSITIONS[schedule.transition]
    root.mkdir()
    with _leases(schedule.lease):
        replica = Replica(root)
        operation.setup(replica)
        transition = operation.transition(replica)
        users = [Meddler(root, operation.path, text) for text in (FIRST, SECOND)]
        if schedule.killed < 0:
            return _undisturbed_by_death(schedule, operation, replica, transition, users)
        replica.close()
        return _with_death(schedule, operation, root, transition)


def _act(user: Meddler, action: str) -> Callable[[], None]:
    act: Callable[[], None] = getattr(user, action)

    def act_if_there() -> None:
        if user._path.parent.is_dir():  # or else the other one has moved it
            act()

    return act_if_there


def _undisturbed_by_death(
    schedule: Schedule, operation: Operation, replica: Replica, transition: Any,
    users: list[Meddler],
) -> bool:  # fmt: skip
    steps = Steps()
    for user, action, at in zip(
        users, (schedule.first, schedule.second), (schedule.first_at, schedule.second_at),
        strict=True,
    ):  # fmt: skip
        if action:
            steps.acts.setdefault(at, []).append(_act(user, action))
    with interposed(steps):
        steps.on = True
        (outcome,) = replica.apply(transition)
        steps.on = False
        _go_on(users)
        steps.on = True
        replica.finish()
        steps.on = False
    if steps.acts:
        replica.close()
        return False
    replica.finish()
    wrote = [text for user in users for text in user.wrote]
    ended = [text for user in users for text in user.ended]
    _check_nothing_lost(replica, wrote, ended)
    everything = _texts(replica)
    if outcome.status not in (APPLIED, CHANGED, IN_USE, NOT_EMPTY, NO_PARENT):
        raise Violation(f"outcome {outcome}")
    if outcome.status == APPLIED and not ended and not _has(everything, operation.ours):
        raise Violation(f"ours is gone: {everything}")
    # Whatever the other user has made of it: who takes its place would have deleted it.
    replaced = schedule.second and any(user.found_room for user in users)
    if operation.kept or (outcome.status != APPLIED and not replaced):
        if not ended and not _has(everything, operation.base):
            raise Violation(f"what was there is gone, {outcome}: {everything}")
    _check_twin(replica, schedule, ended)
    replica.close()
    _check_recovers_to_the_same(replica.root)
    return True


def _go_on(users: list[Meddler]) -> None:
    """The lease has ended: who waited for it goes on."""
    for user in users:
        waiting, user.waiting = user.waiting, {}
        for goes_on in waiting.values():
            goes_on()


def _with_death(schedule: Schedule, operation: Operation, root: Path, transition: Any) -> bool:
    def apply(say: Callable[[Any], None]) -> None:
        replica = Replica(root)
        user = Meddler(root, operation.path, FIRST)
        steps = Steps()

        def die() -> None:
            say((not steps.acts, user.wrote, user.ended, user.in_vain, list(user.waiting)))
            os.kill(os.getpid(), signal.SIGKILL)

        if schedule.first:
            steps.acts.setdefault(schedule.first_at, []).append(_act(user, schedule.first))
        steps.acts.setdefault(schedule.killed, []).append(die)
        with interposed(steps):
            steps.on = True
            replica.apply(transition)
            steps.on = False
            _go_on([user])
            steps.on = True
            replica.finish()
            steps.on = False

    told = in_a_child(apply)
    if told is None:
        return False
    _, wrote, ended, _, waiting = told
    for inode in waiting:
        wrote += _go_on_writing(root, inode, FIRST)

    if schedule.again >= 0 or schedule.second:
        reached = in_a_child(lambda say: _recover_disturbed(schedule, operation, root, say))
        if reached is None:
            return False
        wrote += reached[0]
        ended += reached[1]
        for inode in reached[2]:
            wrote += _go_on_writing(root, inode, SECOND)

    replica = Replica(root)
    replica.finish()
    _check_nothing_lost(replica, wrote, ended)
    everything = _texts(replica)
    if not ended and not _has(everything, operation.base) and not _has(everything, operation.ours):
        raise Violation(f"neither what was there nor ours: {everything}")
    if not schedule.first and not schedule.second and operation.base and operation.ours:
        content = replica.tree().get(operation.path)  # whole, and never absent
        if content not in (operation.base, operation.ours):
            raise Violation(f"at the path: {content!r}")
    _check_twin(replica, schedule, ended)
    replica.close()
    _check_recovers_to_the_same(root)
    return True


def _recover_disturbed(
    schedule: Schedule, operation: Operation, root: Path, say: Callable[[Any], None]
) -> None:
    """The next agent: killed, too, or disturbed by another user; says nothing if not reached."""
    user = Meddler(root, operation.path, SECOND)
    steps = Steps()

    def tell() -> None:
        say((user.wrote, user.ended, list(user.waiting)))

    def die() -> None:
        tell()
        os.kill(os.getpid(), signal.SIGKILL)

    if schedule.second:
        steps.acts.setdefault(schedule.second_at, []).append(_act(user, schedule.second))
    if schedule.again >= 0:
        steps.acts.setdefault(schedule.again, []).append(die)
    replica = Replica(root, prepare=False)
    replica.helpers.prepare("pair", 0)
    with interposed(steps):
        steps.on = True
        replica.helpers.recover()
        steps.on = False
    if steps.acts:
        return
    _go_on([user])
    replica.finish()
    tell()


# --- what must hold ---------------------------------------------------------------------------


def _texts(replica: Replica) -> list[bytes]:
    """The content of everything that a user can get at: the tree and the conflict store."""
    kept = [
        path.read_bytes()
        for path in (replica.root / ".psync/conflicts").rglob("*")
        if path.is_file() and not path.is_symlink() and path.suffix != ".json"
    ]
    return [*replica.tree().values(), *kept]


def _has(everything: list[bytes], text: bytes) -> bool:
    return any(text in content for content in everything)


_VISIBLE = {
    b"d", b"d/p", b"d/p/child", b"d/twin", b"d/temporary", b"e", b"e/q", b"e/new", b"moved away",
    b"moved away/child", b"linked", b"e/new/child", b"e/q/child",
}  # fmt: skip


def _check_nothing_lost(replica: Replica, wrote: list[bytes], ended: list[bytes]) -> None:
    everything = _texts(replica)
    for text in wrote:
        if not _has(everything, text) and not _has(ended, text):
            raise Violation(f"{text!r} is gone: {everything}")
    if replica.leftovers():
        raise Violation(f"left over: {replica.leftovers()}")
    strange = set(replica.tree()) - _VISIBLE
    strange -= {re.sub(rb"^[de]\b", b"directory", path) for path in _VISIBLE}
    if strange:
        raise Violation(f"visible: {strange}")


def _check_twin(replica: Replica, schedule: Schedule, ended: list[bytes]) -> None:
    """Another name of what goes is not touched."""
    if "linked" in schedule.transition and not ended:
        tree = replica.tree()
        if BASE not in tree.get(b"d/twin", tree.get(b"directory/twin", b"")):
            raise Violation(f"the other name: {tree}")


def _check_recovers_to_the_same(root: Path) -> None:
    """To recover once more changes nothing."""
    seen = []
    for _ in range(2):
        replica = Replica(root)
        replica.finish()
        seen.append((replica.tree(), sorted(os.listdir(root / ".psync/conflicts"))))
        replica.close()
    if seen[0] != seen[1]:
        raise Violation(f"recovered to something else: {seen}")


# --- all of them ------------------------------------------------------------------------------

KINDS = ("one", "two", "kill", "again", "between")


def schedules(kind: str, transition: str, lease: bool) -> Iterator[Iterator[Schedule]]:
    """Give all schedules of a kind in rows, each of which ends with the first that is none."""
    every = range(STEPS_MAX)
    base = Schedule(transition, lease)
    nobody_or_one = ["", *ACTIONS]
    if kind == "one":
        for action in ACTIONS:
            yield (base._replace(first=action, first_at=at) for at in every)
    elif kind == "two":
        for one in ACTIONS:
            for two in ACTIONS:
                for at in range(_length(base)):
                    row = base._replace(first=one, first_at=at, second=two)
                    yield (row._replace(second_at=then) for then in every[at:])
    elif kind == "kill":
        for action in nobody_or_one:
            for at in range(_length(base) if action else 1):
                row = base._replace(first=action, first_at=at)
                yield (row._replace(killed=then) for then in every[at:])
    elif kind == "again":
        for action in nobody_or_one:
            for at in range(_length(base)):
                row = base._replace(first=action, first_at=at, killed=at)
                yield (row._replace(again=then) for then in every)
    else:
        for one in nobody_or_one:
            for two in ACTIONS:
                for at in range(_length(base)):
                    row = base._replace(first=one, first_at=at, killed=at, second=two)
                    yield (row._replace(second_at=then) for then in every)


_lengths: dict[Schedule, int] = {}


def _length(schedule: Schedule) -> int:
    """How many calls a transition takes if nobody disturbs it."""
    if schedule not in _lengths:
        with tempfile.TemporaryDirectory() as place, _leases(schedule.lease):
            root = Path(place, "r")
            root.mkdir()
            replica = Replica(root)
            operation = TRANSITIONS[schedule.transition]
            operation.setup(replica)
            transition = operation.transition(replica)
            steps = Steps()
            with interposed(steps):
                steps.on = True
                replica.apply(transition)
                replica.finish()
                steps.on = False
            replica.close()
            _lengths[schedule] = steps.count
    return _lengths[schedule]


def run_row(row: Iterator[Schedule], place: Path) -> tuple[int, list[tuple[Schedule, str]]]:
    """Run the schedules of a row up to the first that is none; return their number, and what
    was violated."""
    count = 0
    violated = []
    root = place / "root"
    for schedule in row:
        try:
            if not run(schedule, root):
                break
        except Exception as error:  # noqa: BLE001  # of whatever kind: it is told
            violated.append((schedule, f"{type(error).__name__}: {error}"))
        finally:
            shutil.rmtree(root, ignore_errors=True)
        count += 1
    return count, violated


def _share(task: tuple[str, str, bool, str]) -> tuple[str, str, bool, int, list[Any]]:
    """Run all schedules of a kind and a transition; in a process of its own."""
    kind, transition, lease, where = task
    count = 0
    violated: list[Any] = []
    with tempfile.TemporaryDirectory(dir=where, prefix="psync-modelcheck-") as place:
        for row in schedules(kind, transition, lease):
            some, bad = run_row(row, Path(place))
            count += some
            violated += bad
    return kind, transition, lease, count, violated


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--directory", default=IN_MEMORY, help="where to work")
    parser.add_argument("--only", default="", help="only transitions whose name has this in it")
    parser.add_argument("--no-lease", action="store_true", help="as for files that are not ours")
    options = parser.parse_args()
    kinds = options.kinds or ["one", "kill"]
    if set(kinds) - set(KINDS):
        parser.error(f"the kinds are {', '.join(KINDS)}")
    tasks = [
        (kind, transition, not options.no_lease, options.directory)
        for kind in kinds
        for transition in TRANSITIONS
        if options.only in transition
    ]
    began = time.monotonic()
    counts: collections.Counter[str] = collections.Counter()
    bad = 0
    with get_context("fork").Pool(options.jobs, maxtasksperchild=1) as pool:
        for kind, transition, _, count, violated in pool.imap_unordered(_share, tasks):
            counts[kind] += count
            bad += len(violated)
            print(f"{kind:8} {transition:18} {count:8,} schedules, {len(violated)} violated")
            for schedule, why in violated[:5]:
                print(f"    {schedule}\n        {why[:400]}")
            sys.stdout.flush()
    took = time.monotonic() - began
    each = ", ".join(f"{kind} {count:,}" for kind, count in counts.items())
    print(f"{sum(counts.values()):,} schedules ({each}), {bad} violated, {took:.0f} s")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
