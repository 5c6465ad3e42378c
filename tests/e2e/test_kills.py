"""Every process killed at every point where it may matter, one by one (X01, X02).

The points stand in the code (`psync/faults.py`); each is walked to by work on both sides that makes
every kind of change, a conflict and large files among them. Whoever comes there is held, something
is killed, and then: both sides come to be equal, with all that users wrote in them or among
what is kept, nothing stays behind, and nothing is taken for a conflict that is none.

`TEST_ALL_KILLS=1` kills everything at every point, not only who has come there.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from psync.errors import PsyncError
from tests.e2e.faults import POINTS, Faults
from tests.e2e.pair import Pair, opened, until
from tests.sshd import Sshd, children

LARGE = 300_000  # bytes, more than inline_max
IN_RECOVERY = ("recovering", "recovered")
RARE = {  # what only some other work comes to, and the tests that go there
    "undone": "agent/test_helpers_races.py::TestTheWayBack",
    "lent": "agent/test_helpers_unprivileged.py",
    "full": "agent/test_helpers.py",  # with `force`
}


class Lab:
    """A session whose processes can be held at a point, over an sshd of its own."""

    def __init__(self, pair: Pair, sshd: Sshd, faults: Faults) -> None:
        self.pair, self.sshd, self.faults = pair, sshd, faults
        self.turn = 0
        self.well = True
        self.told: dict[bytes, bytes] = {}
        self._resuming = threading.Thread()

    def start(self) -> None:
        self.pair.start("--set", "quarantine=0.2", "--set", "sync_interval=0.3")

    def agent(self, side: str) -> int:
        """The agent of a side, once there is one."""
        lock = self.pair.root(side) / ".psync/lock"

        def holder() -> int:
            st = lock.stat()
            where = f"{os.major(st.st_dev):02x}:{os.minor(st.st_dev):02x}:{st.st_ino}"
            for line in Path("/proc/locks").read_text().splitlines():
                words = line.split()
                if "FLOCK" in words and words[-3] == where and "->" not in words:
                    return int(words[-4])
            return 0

        pid: int = until(holder, f"an agent on the {side}")
        return pid

    def victims(self, who: str) -> list[int]:
        """The processes that go by a name."""
        brain = self.pair.process
        assert brain is not None
        if who == "brain":
            return [brain.pid]
        if who in ("left", "right"):
            return [self.agent(who)]
        if who == "rsync":
            everybody = children(brain.pid) + self.sshd.commands()
            return [pid for pid in everybody if _comm(pid) == "rsync"]
        return [
            pid
            for side in ("left", "right")
            for pid in children(self.agent(side))
            if _comm(pid).startswith("cinotify")
        ]

    def kill(self, who: str) -> None:
        """Kill processes, or the connection."""
        if who == "ssh":
            self.sshd.cut()
            return
        for pid in self.victims(who):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    # --- work ------------------------------------------------------------------------------

    def prepare(self) -> str:
        """Let both sides agree on something to work with; return the directory's name."""
        self.turn += 1
        name = f"t{self.turn}"
        for tag in "lr":  # what is changed on the left, and on the right
            here = self.pair.left / name / tag
            for directory in ("d", "gone", "moved"):
                (here / directory).mkdir(parents=True)
            for file in ("a", "b", "c", "e", "f", "conflict"):
                (here / file).write_text(f"{name} {tag} {file} old")
            (here / "moved/x").write_text(f"{name} {tag} x")
            (here / "large").write_bytes(b"%08d" % self.turn * (LARGE // 8))
            (here / "link").symlink_to("a")
        self.pair.settle()
        return name

    def work(self, name: str, point: str, pids: set[int] | None) -> dict[bytes, bytes]:
        """Change it on both sides at once, in every way; hold who comes to a point then.

        Returns:
            What files are to say.
        """
        self.pair.ask("pause")
        self.faults.arm(point, pids)
        told = self._work(name)
        # Whoever is held may be the one who would answer.
        self._resuming = threading.Thread(target=self._resume)
        self._resuming.start()
        return told

    def _resume(self) -> None:
        with contextlib.suppress(PsyncError, OSError):  # it was killed
            self.pair.ask("resume")

    def _work(self, name: str) -> dict[bytes, bytes]:
        told: dict[str, bytes] = {}
        for tag, root in (("l", self.pair.left), ("r", self.pair.right)):
            here, text = root / name / tag, f"{name} {tag}"
            self._disagree(name, tag)
            (here / "new").write_text(f"{text} new")
            (here / "a").write_text(f"{text} a edited")
            (here / "b").rename(here / "d/b")
            (here / "c").unlink()
            (here / "e").rename(here / "f")
            (here / "d2/deep").mkdir(parents=True)
            (here / "d2/deep/y").write_text(f"{text} y")
            (here / "d").chmod(0o750)
            (here / "gone").rmdir()
            (here / "moved").rename(here / "there")
            with (here / "large").open("r+b") as large:
                large.write(b"edited")
            (here / "large2").write_bytes(b"%08d" % (10**7 + self.turn) * (LARGE // 8))
            (here / "link").unlink()
            (here / "link").symlink_to("f")
            for path, what in (
                ("new", "new"), ("a", "a edited"), ("d/b", "b old"), ("f", "e old"),
                ("d2/deep/y", "y"), ("there/x", "x"),
            ):  # fmt: skip
                told[f"{tag}/{path}"] = f"{text} {what}".encode()
            for path in ("large", "large2"):
                told[f"{tag}/{path}"] = (here / path).read_bytes()
        return {f"{name}/{path}".encode(): text for path, text in told.items()}

    def _disagree(self, name: str, tag: str) -> None:
        """Let both sides edit one file, this side last."""
        now = time.time_ns()
        for number, (side, root) in enumerate((("l", self.pair.left), ("r", self.pair.right))):
            file = root / name / tag / "conflict"
            file.write_text(f"{name} {tag} conflict {side}")
            os.utime(file, ns=(now, now + (10**6 if side == tag else number)))

    def check(self, name: str, told: dict[bytes, bytes]) -> None:
        """See that everything is as it is to be, and nothing is left."""
        after = {
            path.removeprefix(name.encode() + b"/"): entry
            for path, entry in self.pair.settle().items()
            if path.startswith(name.encode() + b"/")
        }
        files = {path: entry[-1] for path, entry in after.items() if entry[0] == "file"}
        kept = self.pair.conflicts("left") + self.pair.conflicts("right")
        for tag in ("l", "r"):
            text = f"{name} {tag} conflict ".encode()
            mine = [each for each in kept if each.startswith(text)]
            winner = files.pop(f"{tag}/conflict".encode())
            assert {winner, *mine} >= {text + b"l", text + b"r"}
            assert len(mine) <= 2
            assert after[f"{tag}/link".encode()][1] == b"f"
            assert after[f"{tag}/d".encode()][1] == 0o750
            gone = [f"{tag}/{each}".encode() for each in ("b", "c", "e", "gone", "moved")]
            assert not after.keys() & gone
        assert {f"{name}/".encode() + path: text for path, text in files.items()} == told
        others = [each for each in kept if each.startswith(f"{name} ".encode())]
        assert all(b" conflict " in each for each in others), "what is no conflict is none"
        until(lambda: not self.pair.leftovers(), "an empty staging")

    def walk(self, point: str, whose: str, victim: str) -> None:
        """Go to a point and kill something there."""
        pair, faults = self.pair, self.faults
        if pair.process is None or pair.process.poll() is not None:
            self.start()
        name = self.prepare()
        if point in IN_RECOVERY:
            self._fail_first(name, whose, point)
            told = self.told
        else:
            pids = {self.agent(whose)} if whose != "brain" else None
            told = self.work(name, point, pids)
        assert faults.wait(30), f"nobody has come to {point!r}; seen: {sorted(faults.seen)}"
        self.kill(victim if victim != "itself" else whose)
        faults.disarm()
        self._resuming.join()
        if (victim if victim != "itself" else whose) == "brain":
            assert pair.process is not None
            pair.process.wait(30)
            self.start()
        self.check(name, told)
        self.well = True

    def _fail_first(self, name: str, whose: str, point: str) -> None:
        """Kill an agent while something is in quarantine, so that the next one has to recover."""
        agent = self.agent(whose)
        self.told = self.work(name, "displaced", {agent})
        assert self.faults.wait(30)
        os.kill(agent, signal.SIGKILL)
        self.faults.disarm()
        self.faults.arm(point)


def _comm(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


@pytest.fixture(scope="class")
def lab(tmp_path_factory: pytest.TempPathFactory, programs: list[Path]) -> Iterator[Lab]:
    base = tmp_path_factory.mktemp("kills")
    with Faults() as faults:
        remote = f"HOME={base}/ssh/remote PATH={os.defpath} PSYNC_FAULTS={faults.path}"
        (base / "pair").mkdir()
        with Sshd.start(base / "ssh", SetEnv=remote) as sshd:
            env = {"HOME": str(sshd.home), "PSYNC_FAULTS": faults.path}
            with opened(base / "pair", sshd.alias, env) as pair:
                yield Lab(pair, sshd, faults)
                faults.disarm()


@pytest.fixture
def walk(lab: Lab) -> Iterator[Callable[[str, str, str], None]]:
    """A walk in a session that goes on for the next one, if all is well."""
    lab.well = False
    yield lab.walk
    lab.faults.disarm()
    if not lab.well and lab.pair.process is not None:
        lab.pair.kill()


def _walks(whose: str, *others: str) -> list[pytest.ParameterSet]:
    """All points of a kind of process, and who is killed there."""
    points = POINTS["brain" if whose == "brain" else "agent"]
    everybody = os.environ.get("TEST_ALL_KILLS")
    victims = ["itself", *(["brain", "left", "right", "ssh", "cinotify"] if everybody else others)]
    return [
        pytest.param(point, victim, id=f"{point}, {victim}")
        for point in points
        if point not in RARE
        for victim in victims
        if victim != whose
    ]


class TestBrain:
    @pytest.mark.parametrize(("point", "victim"), _walks("brain", "ssh"))
    def test_x02_loses_nothing_wherever_something_is_killed(
        self, walk: Callable[[str, str, str], None], point: str, victim: str
    ) -> None:
        walk(point, "brain", victim)

    def test_loses_nothing_when_rsync_is_killed(
        self, walk: Callable[[str, str, str], None]
    ) -> None:
        walk("rsync: begun", "brain", "rsync")


    def test_loses_nothing_when_all_watchers_are_killed(
        self, walk: Callable[[str, str, str], None]
    ) -> None:
        walk("heard", "brain", "cinotify")


class TestLeftAgent:
    @pytest.mark.parametrize(("point", "victim"), _walks("left"))
    def test_x01_loses_nothing_wherever_something_is_killed(
        self, walk: Callable[[str, str, str], None], point: str, victim: str
    ) -> None:
        walk(point, "left", victim)


class TestRightAgent:
    @pytest.mark.parametrize(("point", "victim"), _walks("right"))
    def test_x01_loses_nothing_wherever_something_is_killed(
        self, walk: Callable[[str, str, str], None], point: str, victim: str
    ) -> None:
        walk(point, "right", victim)
