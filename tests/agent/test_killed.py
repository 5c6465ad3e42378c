"""An agent that is killed between any two system calls leaves the old or the new (X01, X21)."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import pytest

import psync.syscalls
from psync.wire import APPLIED, Transition
from tests.agent.test_helpers_races import OPERATIONS, OURS, Operation, a_file, nothing
from tests.support.replica import Replica, file

FETCHED = b"7/1"  # a run of rsync's, and its file


def an_empty_directory(r: Replica) -> None:
    (r.root / "d/p").mkdir(parents=True)


ALL = {
    **OPERATIONS,
    "rmdir": Operation(an_empty_directory, lambda r: r.rmdir(b"d/p", r.look(b"d/p"))),
    "create-fetched": Operation(nothing, lambda r: r.put(b"d/p", file(OURS), source=FETCHED)),
    "replace-fetched": Operation(
        a_file, lambda r: r.put(b"d/p", file(OURS), None, r.look(b"d/p"), source=FETCHED)
    ),
}


def apply(replica: Replica, transition: Transition) -> int:
    """Apply a transition; return what became of it."""
    if transition.source == FETCHED:
        run, name = FETCHED.split(b"/")
        replica.helpers.stage(int(run), [name], [b""])
        (replica.root / ".psync/stage" / os.fsdecode(FETCHED)).write_bytes(OURS)
    (outcome,) = replica.apply(transition)
    if transition.source == FETCHED:
        replica.helpers.unstage(int(run))
    return outcome.status


def system_calls(act: Callable[[], None]) -> Callable[[FrameType, str, object], None]:
    """Make a profiler that acts before each call of the system, as far as Python makes it."""
    ours = psync.syscalls.__file__

    def profile(frame: FrameType, event: str, what: object) -> None:
        own = event == "call" and frame.f_code.co_filename == ours
        if own or (event == "c_call" and getattr(what, "__module__", None) == os.stat.__module__):
            act()

    return profile


def kill(work: Callable[[Callable[[], None]], object], number: int) -> bool:
    """Let another process do some work, and kill it before that system call.

    Args:
        work: takes what has to be called when calls of the system begin to count.
        number: from 1.

    Returns:
        Whether it came so far.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a fork among threads
        pid = os.fork()
    if not pid:
        try:
            left = number

            def act() -> None:
                nonlocal left
                left -= 1
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)

            work(lambda: sys.setprofile(system_calls(act)))
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A directory to work in: in memory, where there is that."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        yield Path(directory)


State = tuple[dict[bytes, bytes], dict[bytes, tuple[bytes, str]]]


class Trial:
    """An operation, done in many replicas, and what one looks like before and after it."""

    def __init__(self, place: Path, name: str) -> None:
        self._place = place
        self._operation = ALL[name]
        self._count = 0
        replica, transition = self._make()
        self.undone: State = (replica.tree(), replica.conflicts())
        assert apply(replica, transition) == APPLIED
        replica.finish()
        self.done: State = (replica.tree(), replica.conflicts())
        replica.close()

    def _make(self) -> tuple[Replica, Transition]:
        self._count += 1
        root = self._place / f"{self._count}"
        root.mkdir()
        replica = Replica(root)
        self._operation.setup(replica)
        return replica, self._operation.transition(replica)

    def killed(self, number: int) -> Path | None:
        """Do it in a new replica and kill it before a system call; None if it has ended."""
        replica, transition = self._make()
        replica.close()

        def work(begin: Callable[[], None]) -> None:
            working = Replica(replica.root)
            begin()
            apply(working, transition)

        return replica.root if kill(work, number) else None

    def recover(self, root: Path) -> bool:
        """Start again where an agent was killed; return whether the operation is done."""
        replica = Replica(root)
        replica.finish()
        found = (replica.tree(), replica.conflicts())
        assert found in (self.undone, self.done)
        assert replica.leftovers() == []
        replica.close()
        return found == self.done


def recover_killed(root: Path, number: int) -> bool:
    """Start again, and be killed before a system call; False if it has ended."""

    def work(begin: Callable[[], None]) -> None:
        begin()
        Replica(root).finish()

    return kill(work, number)


@pytest.mark.parametrize("name", ALL)
def test_x01_at_any_system_call_it_is_undone_or_done(place: Path, name: str) -> None:
    trial = Trial(place, name)
    done = []
    while root := trial.killed(len(done) + 1):
        done.append(trial.recover(root))

    assert len(done) > 5
    assert done == sorted(done), "what is done stays done"
    assert done[-1]


@pytest.mark.parametrize("name", ["replace-keep", "delete", "rename-over", "replace-fetched"])
def test_x21_and_so_it_is_when_recovery_is_killed_as_well(place: Path, name: str) -> None:
    trial = Trial(place, name)
    number = 1
    while (root := trial.killed(number)) and not trial.recover(root):
        number += 1
    for last in (number - 1, number):  # the last call that may be undone, and the next
        calls = 0
        while (root := trial.killed(last)) and recover_killed(root, calls + 1):
            trial.recover(root)
            calls += 1

        assert calls > 5
