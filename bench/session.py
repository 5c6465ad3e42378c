"""A psync session as a user has it, and what its processes use.

It is the command `python -m psync -r HOST LEFT RIGHT`, over the lab's sshd. What is waited for
is asked over the session's own socket, as `psync status` and `psync flush` do, but without
starting a Python for each question: on two cores that would be part of every figure.

**Invariants.** A session that was started is ended, whatever happens, and its memory is recorded
before. Its processes are those that descend from the brain, and those that sshd started for it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from bench.lab import LIMIT_S, Lab
from bench.report import Record
from psync.control import NoSession, Unanswered, call
from tests.sshd import children

__all__ = ["Session", "Usage", "session"]

CHECKOUT = Path(__file__).resolve().parent.parent
_NAME = "bench"
_LOOK_S = 0.005  # how often the state is asked for while the session starts
_QUIET_CPU_S = 0.002  # so little while we looked is no work that is still being done


class Usage(NamedTuple):
    """What a session's processes have used so far."""

    cpu_s: float
    switches: int


class Session:
    """One pair of roots in a room, and the session between them when it runs."""

    def __init__(self, lab: Lab, room: Path, record: Record, options: tuple[str, ...]) -> None:
        self.left = room / "left"
        self.right = room / "right"
        self.host = lab.sshd.alias
        self._lab = lab
        self._room = room
        self._record = record
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self._profilers: list[subprocess.Popen[bytes]] = []
        for root in (self.left, self.right):
            root.mkdir(exist_ok=True)

    def roots(self, direction: str) -> tuple[Path, Path]:
        """Give the root that is written and the root that follows: `left to right`, or back."""
        return (self.left, self.right) if direction == "left to right" else (self.right, self.left)

    def start(self) -> float:
        """Start it; return how long it took until it watched."""
        state = self._room / "state"
        with (self._room / "output").open("ab") as output:
            start = time.perf_counter()
            self._process = subprocess.Popen(
                [
                    sys.executable, "-m", "psync", "--state-dir", str(state), "--name", _NAME,
                    "-r", self.host, *self._options, str(self.left), str(self.right),
                ],
                env=self._lab.env(), cwd=CHECKOUT, stdin=subprocess.DEVNULL,
                stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip
        while True:
            with contextlib.suppress(NoSession, Unanswered):
                if self.ask("status")["state"] == "watching":
                    seconds = time.perf_counter() - start
                    break
            if self._process.poll() is not None:
                raise RuntimeError(f"psync ended with status {self._process.returncode}")
            if time.perf_counter() - start > LIMIT_S:
                raise TimeoutError(f"psync did not come to watch within {LIMIT_S:g} s")
            time.sleep(_LOOK_S)
        self._profile()
        return seconds

    def ask(self, verb: str, within: float = 5.0, **args: Any) -> Any:
        """Ask the session something, as the command's verbs do."""
        return call(self._room / "state" / "sessions" / _NAME, verb, args, within)

    def flush(self) -> None:
        """Return when everything that has been done is on both sides."""
        self.ask("flush", LIMIT_S + 2, timeout=LIMIT_S)

    def quiet(self, within: float = 60.0) -> None:
        """Return when the session has nothing left to do: its processes use no CPU."""
        if self._profilers:  # looking at it costs it CPU
            time.sleep(1.0)
            return
        deadline = time.monotonic() + within
        used = self.usage().cpu_s
        while time.monotonic() < deadline:
            time.sleep(self._lab.quiet_s)
            before, used = used, self.usage().cpu_s
            if used - before < _QUIET_CPU_S:
                return
        self._record.notes.append(f"not idle within {within:g} s")

    def empty_quarantine(self) -> None:
        """Wait until what was displaced is gone, so that it costs the next round nothing."""
        held = [root / ".psync" / "quarantine" for root in (self.left, self.right)]
        deadline = time.monotonic() + 60
        while any(path.is_dir() and any(path.iterdir()) for path in held):
            if time.monotonic() > deadline:
                self._record.notes.append("the quarantine did not empty within 60 s")
                return
            time.sleep(0.1)
        self.quiet()

    def stop(self) -> None:
        """End it, after a look at its memory."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._record.remember_memory(self.memory())
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
            self._record.notes.append("psync did not end on SIGTERM within 30 s")
        self._process = None
        for profiler in self._profilers:  # it ends with what it looks at
            profiler.wait(60)
        self._profilers.clear()

    def said(self) -> str:
        """The end of what it logged and printed, for who looks into a failure."""
        files = [*(self._room / "state").glob("sessions/*/psync.log"), self._room / "output"]
        lines: list[str] = []
        for file in files:
            with contextlib.suppress(OSError):
                lines += file.read_text(errors="replace").splitlines()[-20:]
        return "\n".join(lines)

    # --- its processes ----------------------------------------------------------------------

    def processes(self) -> dict[str, int]:
        """List the processes that are there as long as the session, by role."""
        assert self._process is not None
        brain = self._process.pid
        found = {"brain": brain}
        sides = (("left", children(brain)[1:]), ("right", self._lab.sshd.commands()))
        for side, pids in sides:
            for pid in pids:
                with contextlib.suppress(OSError):
                    program = os.readlink(f"/proc/{pid}/exe")
                    if "python" in program:
                        found[f"{side} agent"] = pid
                    elif "cinotify" in program:
                        found[f"{side} cinotify"] = pid
        return found

    def memory(self) -> dict[str, dict[str, int]]:
        """Read the peak resident size and the present proportional size of each, in bytes."""
        sizes: dict[str, dict[str, int]] = {}
        for role, pid in self.processes().items():
            with contextlib.suppress(OSError):
                sizes[role] = {
                    "VmHWM": _kilobytes(f"/proc/{pid}/status", "VmHWM:"),
                    "Pss": _kilobytes(f"/proc/{pid}/smaps_rollup", "Pss:"),
                }
        return sizes

    def usage(self) -> Usage:
        """Add up CPU and context switches, which are wake-ups, of all its processes."""
        nanoseconds = switches = 0
        for pid in self.processes().values():
            for task in Path(f"/proc/{pid}/task").iterdir():
                nanoseconds += int((task / "schedstat").read_text().split()[0])
                for line in (task / "status").read_text().splitlines():
                    if "ctxt_switches:" in line:
                        switches += int(line.split()[1])
        return Usage(nanoseconds / 1e9, switches)

    def _profile(self) -> None:
        """Have py-spy look at the Python processes, where that was asked for."""
        if self._lab.profiles is None:
            return
        for role, pid in self.processes().items():
            if role.endswith("cinotify"):
                continue
            # The brain computes, and what waits in its thread pool is no news; an agent's work
            # is system calls, which do not hold the interpreter's lock.
            only_running = ["--gil"] if role == "brain" else []
            base = f"{self._record.name}-{role.replace(' ', '-')}"
            taken = len(list(self._lab.profiles.glob(f"{base}.*.folded")))
            out = self._lab.profiles / f"{base}.{taken}.folded"
            out.touch()
            self._profilers.append(
                subprocess.Popen(
                    ["py-spy", "record", "--pid", str(pid), "--format", "raw", "--rate", "400",
                     "--duration", "unlimited", "--output", str(out), *only_running],
                    stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                )
            )  # fmt: skip


@contextlib.contextmanager
def session(lab: Lab, room: Path, record: Record, *options: str) -> Iterator[Session]:
    """A session that is ended whatever happens; `start` it."""
    made = Session(lab, room, record, options)
    try:
        yield made
    except Exception as error:
        error.add_note(made.said())
        raise
    finally:
        made.stop()


def _kilobytes(file: str, key: str) -> int:
    for line in Path(file).read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    return 0
