"""A pair of directories with a real session between them, driven as a user would.

Everything goes through the installed command and the file system; nothing here knows how
psync works inside. Waiting is what `psync flush` and `psync status` ask the session, never a
sleep; it is asked from here, for a process each would be most of what the tests cost.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from psync.control import NoSession, Refused, Unanswered, call
from psync.effects.state import sessions
from psync.errors import PsyncError

WAIT_S = 60.0
SIDES = ("left", "right")
_STARTED = "watching: both sides agree"


def command() -> list[str]:
    """The installed command of this interpreter; from a checkout, the package itself."""
    script = Path(os.environ.get("TEST_PSYNC", Path(sys.executable).parent / "psync"))
    return [str(script)] if script.exists() else [sys.executable, "-m", "psync"]


def tree(root: Path | bytes) -> dict[bytes, tuple[Any, ...]]:
    """Everything that psync promises to keep the same, by path; psync's own is left out."""
    found: dict[bytes, tuple[Any, ...]] = {}
    top = os.fsencode(root)

    def visit(fd: int, prefix: bytes) -> None:
        for name in sorted(os.fsencode(n) for n in os.listdir(fd)):
            if (not prefix and name == b".psync") or name.endswith(b".psync.ignore"):
                continue
            path = prefix + name
            st = os.stat(name, dir_fd=fd, follow_symlinks=False)
            kind = stat.S_IFMT(st.st_mode)
            common = (st.st_uid, st.st_gid, st.st_mtime_ns)
            if stat.S_ISDIR(st.st_mode):
                found[path] = ("dir", stat.S_IMODE(st.st_mode), *common)
                inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
                try:
                    visit(inner, path + b"/")
                finally:
                    os.close(inner)
            elif stat.S_ISLNK(st.st_mode):
                found[path] = ("link", os.readlink(name, dir_fd=fd), *common)
            elif stat.S_ISREG(st.st_mode):
                inner = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=fd)
                with open(inner, "rb") as file:
                    found[path] = ("file", stat.S_IMODE(st.st_mode), *common, file.read())
            else:
                found[path] = ("other", kind)

    fd = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    try:
        visit(fd, b"")
    finally:
        os.close(fd)
    return found


def until(condition: Callable[[], Any], what: str, within: float = WAIT_S) -> Any:
    """Wait for something that no event tells of."""
    deadline = time.monotonic() + within
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what} did not come about within {within:.0f} s"
        time.sleep(0.02)
    return value


class Pair:
    """Two roots, a state directory, and the session between them when it runs."""

    def __init__(self, base: Path, host: str | None, env: dict[str, str]) -> None:
        st = base.stat()
        self.owner: dict[str, Any] = {}  # whom the programs run as
        if st.st_uid != os.geteuid():
            self.owner = {"user": st.st_uid, "group": st.st_gid, "extra_groups": []}
        self.base = base
        self.host = host
        self.left = base / "left"
        self.right = base / "right"
        self.state = base / "state"
        self.env = {**os.environ, **env, "PSYNC_STATE_DIR": str(self.state)}
        self.options: list[str] = []
        self.process: subprocess.Popen[str] | None = None
        self._printed = (base / "output").open("a")
        for root in (self.left, self.right):
            root.mkdir()
            os.chown(root, st.st_uid, st.st_gid)

    def root(self, side: str) -> Path:
        return self.left if side == "left" else self.right

    def sides(self, side: str) -> tuple[Path, Path]:
        """A side's root, and the other one."""
        return (self.left, self.right) if side == "left" else (self.right, self.left)

    def shell(self, script: str) -> None:
        """Do something as the user whose session it is, where both roots are."""
        subprocess.run(
            ["sh", "-ec", script], cwd=self.base, timeout=WAIT_S, check=True, **self.owner
        )

    def psync(self, *args: str, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command(), *args], env=self.env, text=True, capture_output=True, timeout=timeout,
            check=False, **self.owner,
        )  # fmt: skip

    def launch(self, *extra: str) -> subprocess.Popen[str]:
        """Start a session and do not wait for anything."""
        remote = ["-r", self.host] if self.host else []
        self.process = subprocess.Popen(
            [*command(), *remote, *self.options, *extra, str(self.left), str(self.right)],
            env=self.env, text=True, stdin=subprocess.DEVNULL,
            stdout=self._printed, stderr=subprocess.STDOUT, **self.owner,
        )  # fmt: skip
        return self.process

    def start(self, *extra: str) -> None:
        """Start a session and wait until it watches."""
        self._await_start(lambda: self.launch(*extra))

    def run(self, *words: str) -> None:
        """Start a session as `psync run` with these words, and wait until it watches."""

        def launch() -> subprocess.Popen[str]:
            self.process = subprocess.Popen(
                [*command(), "run", *words], env=self.env, text=True, stdin=subprocess.DEVNULL,
                stdout=self._printed, stderr=subprocess.STDOUT, **self.owner,
            )  # fmt: skip
            return self.process

        self._await_start(launch)

    def _await_start(self, launch: Callable[[], subprocess.Popen[str]]) -> None:
        before = self.output().count(_STARTED)
        process = launch()

        def started() -> bool:
            if process.poll() is not None:
                raise AssertionError(f"psync ended ({process.returncode}): {self.output()}")
            return self.output().count(_STARTED) > before

        until(started, "the first synchronization")
        self.flush()

    def output(self) -> str:
        """What the sessions have printed so far."""
        self._printed.flush()
        return (self.base / "output").read_text(errors="replace")

    def status(self) -> dict[str, Any]:
        """The session's status; empty while there is none."""
        answers = self._ask("status", 60.0)
        return answers[0] if answers else {}

    def _ask(self, verb: str, within: float, **args: Any) -> list[Any]:
        """Ask the sessions that run."""
        answers = []
        for session in sessions(self.state):
            with contextlib.suppress(NoSession):
                answers.append(call(session.path, verb, args, within))
        return answers

    def wait_for(self, state: str, within: float = WAIT_S) -> dict[str, Any]:
        def reached() -> Any:
            assert self.process is not None
            if self.process.poll() is not None:
                raise AssertionError(f"psync ended ({self.process.returncode}): {self.output()}")
            told = self.status()
            return told if told.get("state") == state else None

        return until(reached, f"state {state}", within)

    def flush(self, timeout: float = WAIT_S) -> None:
        try:
            answers = self._ask("flush", timeout + 30, timeout=timeout)
        except (Refused, Unanswered) as error:
            told = json.dumps(self.status(), indent=1)
            raise AssertionError(f"{error}{self._process()}{told}{self.log()}") from None
        assert answers, f"no session to flush: {self.output()}"

    def _process(self) -> str:
        """What the session's process has come to, for messages."""
        if self.process is None:
            return ""
        return f" (pid {self.process.pid}, exit {self.process.poll()}: {self.output()[-500:]})"

    def ask(self, verb: str) -> None:
        """Tell the session something that it answers at once."""
        self._ask(verb, WAIT_S)

    def log(self) -> str:
        """The end of the log, for messages."""
        lines: list[str] = []
        for file in self.state.glob("sessions/*/psync.log"):
            lines += file.read_text(errors="replace").splitlines()
        return "\n" + "\n".join(lines[-int(os.environ.get("TEST_LOG", "40")) :])

    def settle(self) -> dict[bytes, tuple[Any, ...]]:
        """Flush, and make sure that both sides are the same; return the tree."""
        self.flush()
        left, right = tree(self.left), tree(self.right)
        assert left == right, self.difference(left, right)
        return left

    def difference(self, left: dict[bytes, Any], right: dict[bytes, Any]) -> str:
        lines = ["the sides differ (left | right):"]
        for path in sorted(left.keys() | right.keys()):
            a, b = left.get(path), right.get(path)
            if a != b:
                lines.append(f"{path[:80]!r}: {str(a)[:120]} | {str(b)[:120]}")
        return "\n".join(lines[:20]) + self.log()

    def stop(self) -> int:
        """End the session as an administrator does; return its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(WAIT_S)

    def kill(self) -> None:
        """End the brain without any chance to say good-bye."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(WAIT_S)

    def restart(self) -> None:
        self.stop()
        self.start()

    def clear(self) -> bool:
        """Make a session that watches as good as new; false if it cannot be that."""
        try:
            if self.options or self.status().get("state") != "watching":
                return False
            if max(len(tree(self.left)), len(tree(self.right))) >= 100:
                return False  # so many deletions are what the session halts at
            for directory in (self.left, self.right, self.base):
                for child in directory.iterdir():
                    if child.is_dir() and not child.is_symlink():
                        if child.name not in (".psync", "left", "right", "state"):
                            shutil.rmtree(child)
                    elif child.name != "output":
                        child.unlink()
            self.flush()
            for version in self._ask("conflicts", WAIT_S)[0] or []:
                self._ask("conflicts", WAIT_S, action="drop", kept=version["kept"])
            told = self.status()
        except (AssertionError, OSError, PsyncError):
            return False
        return not (tree(self.left) or tree(self.right) or told["conflicts"] or told["problems"])

    def conflicts(self, side: str) -> list[bytes]:
        """The contents of the losers that a side keeps."""
        kept = self.root(side) / ".psync" / "conflicts"
        return sorted(
            p.read_bytes() for p in kept.iterdir() if p.is_file() and p.suffix != ".json"
        ) if kept.is_dir() else []  # fmt: skip

    def leftovers(self) -> list[str]:
        """What psync left in staging on either side."""
        return [
            os.path.join(directory, name)
            for root in (self.left, self.right)
            for directory, below, files in os.walk(root / ".psync" / "stage")  # of what is not gone
            for name in (*below, *files)
        ]

    def agents(self) -> list[int]:
        """The agents that serve one of our roots."""
        found = []
        for root in (self.left, self.right):
            for lock in root.glob(".psync/lock"):
                st = lock.stat()
                device = f"{os.major(st.st_dev):02x}:{os.minor(st.st_dev):02x}"
                where = f"{device}:{st.st_ino}"
                for line in Path("/proc/locks").read_text().splitlines():
                    words = line.split()
                    if "FLOCK" in words and words[-3] == where:
                        found.append(int(words[-4]))
        return found

    @contextlib.contextmanager
    def unheard(self) -> Iterator[None]:
        """Let both sides do something before either is replicated."""
        assert self._ask("pause", WAIT_S)
        yield
        assert self._ask("resume", WAIT_S)

    @contextlib.contextmanager
    def deaf(self, side: str) -> Iterator[None]:
        """Let nothing tell a side's agent of what happens there."""
        agent = self.agents()[side == "right"]
        (cinotify,) = Path(f"/proc/{agent}/task/{agent}/children").read_text().split()
        os.kill(int(cinotify), signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(int(cinotify), signal.SIGCONT)

    def contents(self) -> dict[bytes, bytes]:
        """Settle; return what each file says."""
        return {path: entry[-1] for path, entry in self.settle().items() if entry[0] == "file"}

    def texts(self) -> list[bytes]:
        """What all files say, once both sides are equal, and all that lost a conflict."""
        return [*self.contents().values(), *self.conflicts("left"), *self.conflicts("right")]

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(5)
        self._printed.close()
        for pid in self.agents():  # of a test that failed
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def configured(pair: Pair, **values: str) -> list[str]:
    """Write a configuration with a session `home`; return the words to run it."""
    lines = [f'left = "{pair.left}"', f'right = "{pair.right}"']
    if pair.host:
        lines.append(f'host = "{pair.host}"')
    lines += [f"{key} = {value}" for key, value in values.items()]
    file = pair.base / "psync.toml"
    file.write_text("\n".join(["[session.home]", *lines, ""]))
    return ["--config", str(file), "home"]


@contextlib.contextmanager
def opened(
    base: Path, host: str | None = None, env: dict[str, str] | None = None
) -> Iterator[Pair]:
    """A pair that is closed whatever happens."""
    pair = Pair(base, host, env or {})
    try:
        yield pair
    finally:
        pair.close()
