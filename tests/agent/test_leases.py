"""Leases that others hold, and ours when the kernel takes them away; ids as in docs/FAILURES.md."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from psync.scan import Looker
from psync.wire import BUSY, IN_USE
from tests.agent.test_helpers_races import OPERATIONS, steps_of, texts
from tests.support.replica import Replica, file

BREAK_TIME = Path("/proc/sys/fs/lease-break-time")
HOLDER = """
import fcntl, os, signal, sys
signal.signal(signal.SIGIO, signal.SIG_IGN)
fd = os.open(sys.argv[1], os.O_RDWR)
fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def short_leases() -> Iterator[None]:
    """The kernel waits for no more than a second for whoever holds a lease."""
    before = BREAK_TIME.read_text()
    try:
        BREAK_TIME.write_text("1")
    except OSError:
        pytest.skip("only root sets how long a lease may last")
    yield
    BREAK_TIME.write_text(before)


@pytest.mark.parametrize("name", ["replace", "delete"])
def test_x11_a_lease_that_is_taken_away_loses_no_write(
    tmp_path: Path, short_leases: None, name: str
) -> None:
    """The agent is stopped at a step for as long as somebody needs to write in spite of it."""
    operation = OPERATIONS[name]
    for number, step in enumerate(steps_of(operation, tmp_path / "steps")):
        root = tmp_path / str(number)
        root.mkdir()
        replica = Replica(root)
        operation.setup(replica)
        transition = operation.transition(replica)
        inode = os.open(root / "d/p", os.O_PATH)

        def act(at: str, step: str = step, inode: int = inode) -> None:
            if at == step:
                script = f"echo late >> /proc/self/fd/{inode}"
                subprocess.run(["sh", "-c", script], pass_fds=[inode], timeout=30, check=True)

        replica.helpers.step = act
        replica.apply(transition)
        replica.finish()

        assert any(b"base textlate" in text for text in texts(replica)), (step, texts(replica))
        assert replica.leftovers() == []
        os.close(inode)
        replica.close()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("replace", ["held", "parked", "displaced", "verified"]),
        ("replace-keep", ["held", "parked", "displaced", "verified"]),
        ("delete", ["held", "displaced", "verified"]),
        ("rename-over", ["exchanged", "displaced", "verified"]),
        ("meta", ["held", "set"]),
    ],
)
def test_w17_s11_a_lease_is_held_only_while_a_file_is_displaced(
    tmp_path: Path, name: str, expected: list[str]
) -> None:
    """Who does not wait to write is kept out at no other step, and by nothing afterwards."""
    operation = OPERATIONS[name]
    kept_out = []
    for step in steps_of(operation, tmp_path / "steps"):
        root = tmp_path / step
        root.mkdir()
        replica = Replica(root)
        operation.setup(replica)
        transition = operation.transition(replica)
        inode = os.open(root / "d/p", os.O_PATH)

        def is_free(inode: int = inode) -> bool:
            try:
                os.close(os.open(f"/proc/self/fd/{inode}", os.O_WRONLY | os.O_NONBLOCK))
            except BlockingIOError:
                return False
            return True

        def act(at: str, step: str = step, is_free: Callable[[], bool] = is_free) -> None:
            if at == step and not is_free():
                kept_out.append(at)

        replica.helpers.step = act
        replica.apply(transition)

        assert is_free(), step
        replica.finish()
        os.close(inode)
        replica.close()

    assert kept_out == expected


class TestOfAnother:
    @pytest.fixture
    def held(self, tmp_path: Path) -> Iterator[Replica]:
        """A replica with a file that another program holds a lease on."""
        replica = Replica(tmp_path)
        self.old = replica.write(b"f", b"text")
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(tmp_path / "f")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        yield replica
        holder.communicate()
        replica.close()

    def test_s10_is_not_waited_for_by_a_look(self, held: Replica, tmp_path: Path) -> None:
        root_fd = os.open(tmp_path, os.O_RDONLY)
        looker = Looker(root_fd, owners=True, strip=False)

        seen = looker.look(b"f", 100)

        assert (seen.content, seen.flags) == (None, BUSY)
        looker.forget()
        os.close(root_fd)

    def test_s10_is_not_waited_for_by_a_transition(self, held: Replica, tmp_path: Path) -> None:
        before = (tmp_path / "f").lstat()

        (outcome,) = held.apply(held.put(b"f", file(b"new"), b"new", self.old))

        assert outcome.status == IN_USE
        assert (tmp_path / "f").lstat() == before
