"""Eight ways of saving a file against the helpers, thousands of times, in real time.

    python -m tests.agent.saverace [--rounds N] [--no-lease] [--verb put|delete] [DIRECTORY]
    python -m tests.agent.saverace --on ext4,xfs,btrfs,tmpfs,overlay      (as root)

In each round a user saves a file in the very moment in which the helpers replace or
delete it: he is another process, on another processor where there is one, and both wait
for a few random microseconds first. Then what he wrote has to be there: at its path, or in
the conflict store. `--on` makes a file system of each kind in a file and mounts it.

**Invariants.** Every text is written once. A user who finds no file makes one. Nothing is
left when it ends, mounts neither.
"""

from __future__ import annotations

import argparse
import collections
import mmap
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psync.holding
import psync.quarantine
from psync.wire import APPLIED, CHANGED, FAILED, IN_USE
from tests.support.replica import Replica, file

__all__ = ["WAYS", "race"]

SIZE = 16  # of every text: two of the ways change no size
OFFSET_S, HOLD_S = 400e-6, 15e-6  # a replacement takes some 200 microseconds
PAUSE_S = 20e-6  # between two looks whether it is time
PATH = b"P"
_STATUS = {APPLIED: "applied", CHANGED: "changed", IN_USE: "in use", FAILED: "failed"}


# --- ways to save ---------------------------------------------------------------------------


def _write(path: bytes, flags: int, text: bytes, hold: Callable[[], None]) -> None:
    fd = os.open(path, flags | os.O_CREAT, 0o644)
    try:
        hold()
        os.write(fd, text)
    finally:
        os.close(fd)


def truncating(path: bytes, text: bytes, hold: Callable[[], None]) -> None:
    """As `echo >file`."""
    _write(path, os.O_WRONLY | os.O_TRUNC, text, hold)


def in_place(path: bytes, text: bytes, hold: Callable[[], None]) -> None:
    """As many bytes as there were."""
    _write(path, os.O_WRONLY, text, hold)


def by_rename(path: bytes, text: bytes, hold: Callable[[], None]) -> None:
    """A temporary file renamed over it."""
    _write(path + b".tmp", os.O_WRONLY | os.O_TRUNC, text, hold)
    os.rename(path + b".tmp", path)


def as_vim(path: bytes, text: bytes, hold: Callable[[], None]) -> None:
    """The old one renamed aside, a new one made, the old one removed (backupcopy=no)."""
    try:
        os.rename(path, path + b"~")
    except FileNotFoundError:
        pass
    hold()
    _write(path, os.O_WRONLY | os.O_TRUNC, text, lambda: None)
    try:
        os.unlink(path + b"~")
    except FileNotFoundError:
        pass


def appending(path: bytes, text: bytes, hold: Callable[[], None]) -> None:
    """As a log."""
    _write(path, os.O_WRONLY | os.O_APPEND, text, hold)


def mapped(path: bytes, text: bytes, hold: Callable[[], None]) -> None:
    """Through a shared mapping, whose descriptor is closed."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if os.fstat(fd).st_size < SIZE:
            os.ftruncate(fd, SIZE)
        mapping = mmap.mmap(fd, SIZE)
    finally:
        os.close(fd)
    hold()
    mapping[:SIZE] = text
    mapping.close()


def truncating_by_name(path: bytes, text: bytes, hold: Callable[[], None]) -> None:
    """truncate(2), and then a write."""
    try:
        os.truncate(path, 0)
    except FileNotFoundError:
        pass
    hold()
    _write(path, os.O_WRONLY, text, lambda: None)


def unnoticed(path: bytes, text: bytes, hold: Callable[[], None]) -> None:
    """As many bytes as there were, and the time put back."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        st = os.fstat(fd)
        hold()
        os.write(fd, text)
        os.utime(fd, ns=(st.st_atime_ns, st.st_mtime_ns))
    finally:
        os.close(fd)


WAYS = {
    way.__name__: way
    for way in (
        truncating, in_place, by_rename, as_vim, appending, mapped, truncating_by_name, unnoticed,
    )
}  # fmt: skip


# --- the race -------------------------------------------------------------------------------


def _wait(seconds: float) -> None:
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


class _Other:
    """The user's process: saves once for each number that it is shown."""

    def __init__(self, path: bytes, way: str, seed: int) -> None:
        # Words: what is asked for, what is done. Each is stored at once; struct.pack_into() would
        # write zeros first, which the other process may see.
        self._shared = memoryview(mmap.mmap(-1, 16)).cast("q")
        self._parent = os.getpid()
        self._pid = os.fork()
        if not self._pid:
            try:
                self._live(path, WAYS[way], random.Random(seed))
            finally:
                os._exit(1)

    def _live(
        self, path: bytes, save: Callable[[bytes, bytes, Callable[[], None]], None],
        chance: random.Random,
    ) -> None:  # fmt: skip
        done = 0
        while True:
            if self._shared[0] == done:
                if os.getppid() != self._parent:
                    return  # nobody will end us
                time.sleep(PAUSE_S)
                continue
            done += 1
            offset, hold = chance.uniform(0, OFFSET_S), chance.uniform(0, HOLD_S)
            _wait(offset)
            save(path, _text("user", done), lambda hold=hold: _wait(hold))
            self._shared[1] = done

    def begin(self, number: int) -> None:
        """Let him save, now."""
        self._shared[0] = number

    def join(self, number: int) -> None:
        """Wait until he has."""
        while self._shared[1] != number:
            time.sleep(PAUSE_S)
            if os.waitpid(self._pid, os.WNOHANG)[0]:
                raise RuntimeError("the user's process ended")

    def end(self) -> None:
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)


def _text(who: str, number: int) -> bytes:
    return f"{who}-{number:0{SIZE - len(who) - 2}}\n".encode()


def race(
    root: Path, way: str, rounds: int, *, verb: str = "put", seed: int = 1
) -> tuple[list[int], collections.Counter[str]]:
    """Run so many rounds in an empty directory.

    Returns:
        The rounds in which what the user wrote was lost, and how often what happened.
    """
    chance = random.Random(seed)
    path = os.fsencode(root / os.fsdecode(PATH))
    replica = Replica(root)
    other = _Other(path, way, seed + 1)
    lost: list[int] = []
    happened: collections.Counter[str] = collections.Counter()
    try:
        for number in range(1, rounds + 1):
            expected = replica.write(PATH, _text("base", number))
            ours = _text("ours", number)
            if verb == "put":
                transition = replica.put(PATH, file(ours), ours, expected)
            else:
                transition = replica.delete(PATH, expected)
            other.begin(number)
            _wait(chance.uniform(0, OFFSET_S / 4))
            (outcome,) = replica.apply(transition)
            other.join(number)
            replica.finish()
            happened[_STATUS.get(outcome.status, "else")] += 1
            text = _text("user", number)
            if not _is_there(root, text):
                lost.append(number)
            happened["kept"] += _clear(root)
    finally:
        other.end()
        replica.close()
    return lost, happened


def _is_there(root: Path, text: bytes) -> bool:
    for place in (root, root / ".psync/conflicts"):
        for path in place.iterdir():
            if path.is_file() and text in path.read_bytes():
                return True
    return False


def _clear(root: Path) -> int:
    """Remove what the round has left; return how many versions were kept."""
    kept = 0
    for entry in list(os.scandir(root / ".psync/conflicts")):
        kept += not entry.name.endswith(".json")
        os.unlink(entry.path)
    for entry in list(os.scandir(root)):
        if entry.is_file():
            os.unlink(entry.path)
    return kept


@contextmanager
def without_leases() -> Iterator[None]:
    """As for files that are not ours, or where a file system has none."""

    def refuse(fd: int) -> bool:
        raise PermissionError(13, "not yours")

    whole = psync.holding.read_lease
    psync.holding.read_lease = psync.quarantine.read_lease = refuse
    try:
        yield
    finally:
        psync.holding.read_lease = psync.quarantine.read_lease = whole


# --- file systems ---------------------------------------------------------------------------


@contextmanager
def mounted(kind: str) -> Iterator[Path]:
    """Make a file system, mount it, and give a directory on it. As root only."""
    with tempfile.TemporaryDirectory(prefix="psync-saverace-") as place, ExitStack() as stack:
        at = Path(place, "mnt")
        at.mkdir()
        if kind in ("tmpfs", "overlay"):
            _call("mount", "-t", "tmpfs", "-o", "size=512m", "tmpfs", at)
        else:
            image = Path(place, "image")
            with image.open("wb") as stream:
                stream.truncate(512 << 20)
            _call(f"mkfs.{kind}", *(["-F"] if kind == "ext4" else ["-f"]), "-q", image)
            _call("mount", "-o", "loop", image, at)
        stack.callback(_call, "umount", at)
        if kind == "overlay":
            for name in ("lower", "upper", "work", "merged"):
                (at / name).mkdir()
            layers = f"lowerdir={at}/lower,upperdir={at}/upper,workdir={at}/work"
            _call("mount", "-t", "overlay", "-o", layers, "overlay", at / "merged")
            stack.callback(_call, "umount", at / "merged")
            at = at / "merged"
        yield at


def _call(*command: str | Path) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _races(where: Path, name: str, options: argparse.Namespace) -> int:
    failed = 0
    for verb in options.verb:
        for way in WAYS:
            root = Path(tempfile.mkdtemp(dir=where))
            began = time.monotonic()
            try:
                with ExitStack() as stack:
                    if options.no_lease:
                        stack.enter_context(without_leases())
                    lost, happened = race(root, way, options.rounds, verb=verb, seed=options.seed)
            finally:
                shutil.rmtree(root, ignore_errors=True)
            told = ", ".join(f"{what} {count:,}" for what, count in sorted(happened.items()))
            print(
                f"{name:8} {verb:6} {way:18} {options.rounds:,} rounds: lost {len(lost)} "
                f"({told}; {time.monotonic() - began:.0f} s)",
                flush=True,
            )
            failed += len(lost)
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("directory", nargs="?", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--rounds", type=int, default=30_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--verb", action="append", choices=["put", "delete"])
    parser.add_argument("--no-lease", action="store_true", help="as for files that are not ours")
    parser.add_argument("--on", default="", help="kinds of file systems to make and mount")
    options = parser.parse_args()
    options.verb = options.verb or ["put"]
    failed = 0
    for kind in options.on.split(",") if options.on else []:
        with mounted(kind) as where:
            failed += _races(where, kind, options)
    if not options.on:
        failed += _races(options.directory, "here", options)
    print("nothing lost" if not failed else f"{failed} lost")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
