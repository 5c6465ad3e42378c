"""What is measured: each of these is one thing that a user waits for.

The budgets are those of docs/DESIGN.md, "Speed". A measurement prepares its own directories and
sessions, takes its samples in turn with those of its floor, so that both see the same
machine, and checks that what psync made is right: speed without equality is a failure.

**Invariants.** A measurement leaves nothing behind. The clock of a sample starts right before
the user's last system call and stops when the kernel told of the last change on the other side, or
when `flush` has returned. Whatever is compared is compared after the clock has stopped.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from bench.lab import COUNTED, Echo, Lab
from bench.report import Budget, Figure, Record, at_least, at_most, times
from bench.session import Session, session
from bench.trees import content, difference, make_file, make_real, make_small, same_file
from bench.watch import Names, whole

__all__ = ["MEASUREMENTS", "Sizes", "full", "normal", "quick", "run"]

DIRECTIONS = ("left to right", "right to left")
_SMALL = 4096
_LONG_AGO_NS = 1_600_000_000 * 10**9  # no file with this time is racily clean
_FICLONE = 0x40049409
_MEGA = 1 << 20
_ALL_MAY_GO = "max_delete=100%"  # a whole tree is deleted on purpose


class Sizes(NamedTuple):
    """How much of everything."""

    samples: int = 200
    rounds: int = 5
    few_rounds: int = 3  # of what takes long
    small_files: int = 10_000
    small_directories: int = 100
    large: int = 1 << 30
    changed: int = 1 << 20
    unchanged: tuple[int, int] = (100_000, 5_000)  # files, directories
    million: tuple[int, int] = (1_000_000, 50_000)
    real: tuple[int, int] = (17_600, 270_000_000)  # files, bytes
    idle_s: float = 10.0
    idle_after_s: float = 8.0  # what was applied has become durable by then
    pause_s: float = 0.05  # between two single changes: the session is idle again
    quiet_s: float = 0.3  # a session that used no CPU so long has nothing left to do
    room: int = 10 << 30  # bytes on the file system, at most


normal = Sizes()
full = Sizes(room=12 << 30)
quick = Sizes(
    samples=3, rounds=1, few_rounds=1, small_files=40, small_directories=4, large=4 << 20,
    changed=64 << 10, unchanged=(60, 6), million=(120, 12), real=(60, 600_000), idle_s=0.5,
    idle_after_s=0.5, pause_s=0.005, quiet_s=0.03, room=256 << 20,
)  # fmt: skip

Measure = Callable[[Lab, Sizes, Record], None]


def run(name: str, lab: Lab, sizes: Sizes) -> Record:
    """Make one measurement; a failure is recorded, not raised."""
    title, measure = MEASUREMENTS[name]
    record = Record(name, title.format(**_words(sizes)))
    start, load = time.perf_counter(), os.getloadavg()[0]
    try:
        measure(lab, sizes, record)
    except Exception as error:  # noqa: BLE001  # the others go on
        said = [line for note in getattr(error, "__notes__", []) for line in note.splitlines()]
        record.error = " / ".join([f"{type(error).__name__}: {error}", *said[-1:]])
        record.where = "".join(traceback.format_exception(error))
    record.seconds = time.perf_counter() - start
    record.load = (load, os.getloadavg()[0])
    return record


def _words(sizes: Sizes) -> dict[str, str]:
    return {
        "small": f"{sizes.small_files:,}",
        "directories": f"{sizes.small_directories:,}",
        "half": f"{sizes.small_files // 2:,}",
        "large": f"{sizes.large / _MEGA:,.0f} MiB",
        "changed": f"{sizes.changed / 1024:,.0f} KiB",
        "unchanged": f"{sizes.unchanged[0]:,}",
        "million": "{:,} unchanged files in {:,} directories".format(*sizes.million),
        "real": f"{sizes.real[0]:,} files, {sizes.real[1] / 1e6:,.0f} MB",
    }


# --- single changes in an idle session ------------------------------------------------------


def latency(lab: Lab, sizes: Sizes, record: Record) -> None:
    """From the close of a small file on one side until it is complete on the other."""
    with lab.room() as room, session(lab, room, record) as running, Echo(lab) as echo:
        running.start()
        for direction in DIRECTIONS:
            source, target = running.roots(direction)
            with Names(target) as names:
                for n in range(sizes.samples):
                    running.flush() if n == 0 else time.sleep(sizes.pause_s)
                    record.sample("ssh cat", echo.trip(_SMALL) * 1e3)
                    name, data = f"{direction.replace(' ', '-')}-{n}", content(n, _SMALL)
                    start, mtime_ns = _write(source / name, data)
                    done = names.came(name, whole(target / name, data, mtime_ns))
                    record.sample(direction, (done - start) * 1e3)
        _expect_equal(running)
    for direction in DIRECTIONS:
        _quantiles(record, direction, direction, "ssh cat", at_most(3.0), at_most(10.0))


def _write(path: Path, data: bytes) -> tuple[float, int]:
    """Write a file; return when it was about to be closed, and its mtime."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    os.write(fd, data)
    mtime_ns = os.fstat(fd).st_mtime_ns
    start = time.perf_counter()
    os.close(fd)
    return start, mtime_ns


def single(lab: Lab, sizes: Sizes, record: Record) -> None:
    """Rename, delete and mkdir of one entry, half of the samples in each direction."""
    with lab.room() as room, session(lab, room, record) as running, Echo(lab) as echo:
        running.start()
        for direction in DIRECTIONS:
            with Names(running.roots(direction)[1]) as names:
                for n in range(-(-sizes.samples // 2)):
                    record.sample("ssh cat", echo.trip(64) * 1e3)
                    _single(running, record, direction, names, n, sizes.pause_s)
        _expect_equal(running)
    for what in ("rename", "delete", "mkdir"):
        _quantiles(record, what, what, "ssh cat", at_most(2.0), None)


def _single(
    running: Session, record: Record, direction: str, names: Names, n: int, pause_s: float
) -> None:
    """Take one sample of each kind."""
    source, target = running.roots(direction)
    old, new, directory = (f"{direction[0]}{n}.{what}" for what in ("old", "new", "directory"))
    (source / old).write_bytes(content(n, _SMALL))
    running.flush()

    def sample(what: str, change: Callable[[], object], wait: Callable[[], float]) -> None:
        names.forget()
        time.sleep(pause_s)
        start = time.perf_counter()
        change()
        record.sample(what, (wait() - start) * 1e3)

    sample(
        "rename",
        lambda: (source / old).rename(source / new),
        lambda: names.came(new, (target / new).is_file),
    )
    sample(
        "delete",
        (source / new).unlink,
        lambda: names.went(new, lambda: not (target / new).exists()),
    )
    sample(
        "mkdir",
        (source / directory).mkdir,
        lambda: names.came(directory, (target / directory).is_dir),
    )


def _quantiles(
    record: Record, what: str, series: str, floor: str, p50: Budget, p99: Budget | None
) -> None:
    for label, q, budget in (("p50", 0.5, p50), ("p99", 0.99, p99)):
        record.figures.append(
            Figure(
                f"{what}, {label}", "ms", record.quantile(series, q), record.quantile(floor, q),
                f"{floor}, round trip", budget,
            )
        )  # fmt: skip


# --- many files ---------------------------------------------------------------------------


def many(lab: Lab, sizes: Sizes, record: Record) -> None:
    """Many small files made as fast as possible, until both sides are identical."""

    def make(running: Session, name: str) -> float:
        start = time.perf_counter()
        make_small(running.left / name, sizes.small_files, sizes.small_directories, _SMALL)
        return start

    _copied(lab, sizes.rounds, record, make)
    record.figures.append(_against_tar(record))


def both(lab: Lab, sizes: Sizes, record: Record) -> None:
    """Half of them on each side at the same time."""
    files, directories = sizes.small_files // 2, sizes.small_directories // 2

    def make(running: Session, name: str) -> float:
        (running.left / name).mkdir()
        running.flush()
        writers = [
            threading.Thread(target=make_small, args=(place, files, directories, _SMALL))
            for place in (running.left / name / "l", running.right / name / "r")
        ]
        start = time.perf_counter()
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        return start

    _copied(lab, sizes.rounds, record, make)
    record.figures.append(_against_tar(record))


def real(lab: Lab, sizes: Sizes, record: Record) -> None:
    """A tree as people have them is copied in."""
    with lab.room() as place:
        source = place / "source"
        files, size = make_real(source, *sizes.real)
        record.notes.append(f"{files:,} files, {size:,} bytes")

        def make(running: Session, name: str) -> float:
            start = time.perf_counter()
            subprocess.run(["cp", "-a", str(source), str(running.left / name)], check=True)
            return start

        _copied(lab, sizes.few_rounds, record, make)
    record.figures.append(_against_tar(record))


def _copied(lab: Lab, rounds: int, record: Record, make: Callable[[Session, str], float]) -> None:
    """Let a tree be made in a running session, and copy the same tree with tar and rsync.

    Args:
        make: makes the tree of that name; returns when it began.
    """
    with lab.room() as room, session(lab, room, record) as running:
        running.start()
        copies = room / "copies"
        copies.mkdir()
        for n in range(rounds):
            name = f"tree{n}"
            running.quiet()
            start = make(running, name)
            record.sample("made", time.perf_counter() - start)
            running.flush()
            record.sample("psync", time.perf_counter() - start)
            _expect_equal(running, name)
            running.quiet()
            _copy_with_peers(lab, record, running.left / name, copies)


def _copy_with_peers(lab: Lab, record: Record, source: Path, copies: Path) -> None:
    """Take a sample of what tar and rsync need for the same."""
    for peer, copy in (("tar", lab.tar), ("rsync", lab.rsync)):
        record.sample(peer, copy(source, copies))
        subprocess.run(["rm", "-rf", str(copies / source.name)], check=True)


def _against_tar(record: Record) -> Figure:
    return Figure(
        "until identical", "s", record.median("psync"), record.median("tar"), "tar | ssh tar",
        times(1.5), {"rsync -a": record.median("rsync"), "the making alone": record.median("made")},
    )  # fmt: skip


# --- a directory of many files ------------------------------------------------------------


def move(lab: Lab, sizes: Sizes, record: Record) -> None:
    """Rename a directory with many files, to and fro."""
    with lab.room() as room, session(lab, room, record) as running, Echo(lab) as echo:
        _twin(running, "tree", sizes.small_files, sizes.small_directories, _SMALL)
        running.start()
        for n in range(2 * sizes.rounds):
            running.quiet()
            record.sample("ssh cat", 1e3 * echo.trip(64))
            old, new = ("tree", "moved") if n % 2 == 0 else ("moved", "tree")
            record.sample("psync", 1e3 * _move(running, DIRECTIONS[n // 2 % 2], old, new))
        _expect_equal(running)
    with lab.room() as room, session(lab, room, record) as running:
        running.host = COUNTED
        _twin(running, "tree", sizes.small_files, sizes.small_directories, _SMALL)
        running.start()
        for n in range(max(2, sizes.few_rounds)):
            running.quiet()
            old, new = ("tree", "moved") if n % 2 == 0 else ("moved", "tree")

            def work(old: str = old, new: str = new) -> None:
                _move(running, DIRECTIONS[0], old, new)
                running.quiet()

            record.sample("bytes", lab.bytes_of(work))
    record.figures += [
        Figure("until renamed", "ms", record.median("psync"), record.median("ssh cat"),
               "ssh cat, round trip", at_most(20.0)),
        Figure("on the wire", "B", record.median("bytes"), budget=at_most(4096)),
    ]  # fmt: skip


def _move(running: Session, direction: str, old: str, new: str) -> float:
    """Rename a directory; return the seconds until it is renamed, whole, on the other side."""
    source, target = running.roots(direction)
    files = _count(source / old)

    def renamed() -> bool:
        return (target / new).is_dir() and not (target / old).exists()

    with Names(target) as names:
        start = time.perf_counter()
        (source / old).rename(source / new)
        done = names.came(new, renamed)
    if _count(target / new) != files:
        raise AssertionError(f"{new} was not whole when its name appeared")
    return done - start


def _count(root: Path) -> int:
    return sum(len(files) for _, _, files in os.walk(root))


def _twin(running: Session, name: str, files: int, directories: int, size: int) -> None:
    """Make the same tree on both sides, before the session starts."""
    for root in (running.left, running.right):
        make_small(root / name, files, directories, size, _LONG_AGO_NS)
        os.utime(root, ns=(_LONG_AGO_NS, _LONG_AGO_NS))


def remove(lab: Lab, sizes: Sizes, record: Record) -> None:
    """Delete such a directory with rm -rf, until it is gone on the other side."""
    with lab.room() as room, session(lab, room, record, "--set", _ALL_MAY_GO) as running:
        names = [f"tree{n}" for n in range(sizes.few_rounds)]
        for name in names:
            _twin(running, name, sizes.small_files, sizes.small_directories, _SMALL)
            make_small(room / name, sizes.small_files, sizes.small_directories, _SMALL)
        running.start()
        with Names(running.right) as watched:
            for name in names:
                running.quiet()
                record.sample("ssh rm -rf", lab.remove(room / name))
                target = running.right / name
                start = time.perf_counter()
                subprocess.run(["rm", "-rf", str(running.left / name)], check=True)
                record.sample("removing", time.perf_counter() - start)
                gone = watched.went(name, lambda target=target: not target.exists())  # type: ignore[misc]
                record.sample("psync", gone - start)
        _expect_equal(running)
    record.figures.append(
        Figure("until gone", "s", record.median("psync"), record.median("ssh rm -rf"),
               "ssh rm -rf", times(2.0), {"the rm alone": record.median("removing")})
    )  # fmt: skip


# --- large files ----------------------------------------------------------------------------


def delta(lab: Lab, sizes: Sizes, record: Record) -> None:
    """A little is changed in the middle of a large file."""
    with lab.room() as room:
        _delta_time(lab, sizes, record, room)
    with lab.room() as room:
        _delta_bytes(lab, sizes, record, room)
    reflinks = _has_reflinks(lab.directory)
    if not reflinks:
        record.notes.append("no reflinks here: the budget is that against plain rsync")
    record.figures += [
        Figure("until complete", "s", record.median("psync"), record.median("rsync"), "rsync -a",
               None if reflinks else times(1.1)),
        Figure("until complete, in place", "s", record.median("psync"), record.median("inplace"),
               "rsync -a --inplace", times(1.2) if reflinks else None),
        Figure("on the wire", "B", record.median("bytes"), record.median("rsync bytes"),
               "rsync -a", times(1.1)),
    ]  # fmt: skip


def _delta_time(lab: Lab, sizes: Sizes, record: Record, room: Path) -> None:
    """Change the file as often as there are floors to compare with, twice a round."""
    copies = room / "copies"
    with session(lab, room, record, "--set", "quarantine=1") as running:
        file = _twin_file(running, sizes.large)
        copies.mkdir()
        shutil.copy2(file, copies / file.name)
        running.start()
        for n in range(sizes.few_rounds):
            for peer, options in (("rsync", ()), ("inplace", ("--inplace",))):
                running.empty_quarantine()
                record.sample("psync", _change(running, file, sizes.changed, n))
                running.quiet()
                record.sample(peer, lab.rsync(file, copies, *options))
                if not same_file(file, copies / file.name):
                    raise AssertionError("rsync's copy differs")


def _delta_bytes(lab: Lab, sizes: Sizes, record: Record, room: Path) -> None:
    """The same through the relay, without a clock."""
    copies = room / "copies"
    with session(lab, room, record, "--set", "quarantine=1") as running:
        running.host = COUNTED
        file = _twin_file(running, sizes.large)
        copies.mkdir()
        shutil.copy2(file, copies / file.name)
        running.start()
        running.quiet()

        def work() -> None:
            _change(running, file, sizes.changed, 99)
            running.quiet()

        record.sample("bytes", lab.bytes_of(work))
        record.sample("rsync bytes", lab.bytes_of(lambda: lab.rsync(file, copies, counted=True)))


def _twin_file(running: Session, size: int) -> Path:
    """Put the same large file on both sides."""
    file = running.left / "large"
    make_file(file, size)
    os.utime(file, ns=(_LONG_AGO_NS, _LONG_AGO_NS))
    shutil.copy2(file, running.right / file.name)
    for root in (running.left, running.right):
        os.utime(root, ns=(_LONG_AGO_NS, _LONG_AGO_NS))
    return file


def _change(running: Session, file: Path, size: int, seed: int) -> float:
    """Overwrite a part in the middle; return the seconds from the close until it has arrived."""
    target = running.right / file.name
    data = os.urandom(size)
    fd = os.open(file, os.O_WRONLY)
    os.pwrite(fd, data, os.fstat(fd).st_size // 2 + seed * 4096)
    mtime_ns = os.fstat(fd).st_mtime_ns
    with Names(running.right) as names:
        start = time.perf_counter()
        os.close(fd)
        done = names.came(file.name, lambda: target.stat().st_mtime_ns == mtime_ns)
    if not same_file(file, target):
        raise AssertionError("the changed file differs")
    return done - start


def _has_reflinks(directory: Path) -> bool:
    with tempfile.TemporaryFile(dir=directory) as one, tempfile.TemporaryFile(dir=directory) as two:
        one.write(bytes(_SMALL))
        one.flush()
        try:
            fcntl.ioctl(two.fileno(), _FICLONE, one.fileno())
        except OSError:
            return False
        return True


def large(lab: Lab, sizes: Sizes, record: Record) -> None:
    """A new large file is moved in."""
    with lab.room() as place:
        source = place / "large"
        copies = place / "copies"
        copies.mkdir()
        make_file(source, sizes.large)
        for _ in range(sizes.few_rounds):
            _copy_with_peers(lab, record, source, copies)
            with lab.room() as room, session(lab, room, record) as running:
                running.start()
                running.quiet()
                record.sample("psync", _move_in(running, source))

    def rate(series: str) -> float:
        return sizes.large / 1e6 / record.median(series)

    record.figures.append(
        Figure("throughput", "MB/s", rate("psync"), rate("tar"), "tar | ssh tar", at_least(0.9),
               {"rsync -a": rate("rsync")})
    )  # fmt: skip


def _move_in(running: Session, source: Path) -> float:
    """Move a file into the left root; return the seconds until it is on the right."""
    inside, target = running.left / source.name, running.right / source.name
    want = source.stat()

    def complete() -> bool:
        got = target.stat()
        return (got.st_size, got.st_mtime_ns) == (want.st_size, want.st_mtime_ns)

    with Names(running.right) as names:
        start = time.perf_counter()
        source.rename(inside)
        done = names.came(source.name, complete, within=300)
    if not same_file(inside, target):
        raise AssertionError("the new file differs")
    running.stop()
    inside.rename(source)
    return done - start


# --- starting, and doing nothing ------------------------------------------------------------


def start(lab: Lab, sizes: Sizes, record: Record) -> None:
    """Start with a tree in which nothing has changed."""
    _start(lab, sizes.rounds, record, *sizes.unchanged)
    record.figures.append(
        Figure("until watching", "s", record.median("psync"), record.median("rsync"), "rsync -a",
               at_most(0.5), {"the first start": record.median("first")})
    )  # fmt: skip


def million(lab: Lab, sizes: Sizes, record: Record) -> None:
    """The same with ten times as many files in as many directories, and a look at the memory."""
    _start(lab, sizes.few_rounds, record, *sizes.million)
    peaks = sum(used.get("VmHWM", 0) for used in record.memory.values())
    shared = sum(used.get("Pss", 0) for used in record.memory.values())
    record.figures += [
        Figure("until watching", "s", record.median("psync"), record.median("rsync"), "rsync -a",
               at_most(3.0), {"the first start": record.median("first")}),
        Figure("peak memory, VmHWM summed", "MiB", peaks / _MEGA, budget=at_most(200)),
        Figure("memory at the end, PSS summed", "MiB", shared / _MEGA),
    ]  # fmt: skip


def _start(lab: Lab, rounds: int, record: Record, files: int, directories: int) -> None:
    with lab.room() as room, session(lab, room, record) as running:
        _twin(running, "tree", files, directories, 100 if files <= 100_000 else 0)
        record.sample("first", running.start())
        running.flush()
        running.quiet()
        running.stop()
        record.memory.clear()  # of the first start, which compares everything
        for _ in range(rounds):
            record.sample("rsync", lab.rsync(running.left / "tree", running.right))
            record.sample("psync", running.start())
            running.quiet()
            running.stop()


def idle(lab: Lab, sizes: Sizes, record: Record) -> None:
    """Nothing happens, beside the real tree."""
    with lab.room() as room, session(lab, room, record) as running:
        make_real(running.left / "tree", *sizes.real)
        shutil.copytree(running.left / "tree", running.right / "tree", symlinks=True)
        running.start()
        running.flush()
        running.quiet()
        time.sleep(sizes.idle_after_s)
        before, start = running.usage(), time.perf_counter()
        time.sleep(sizes.idle_s)
        after, elapsed = running.usage(), time.perf_counter() - start
        processes = len(running.processes())
        _expect_equal(running)
    record.sample("cpu_s", after.cpu_s - before.cpu_s)
    record.sample("switches", after.switches - before.switches)
    record.notes.append(f"{processes} processes")
    record.figures += [
        Figure("CPU of all processes", "% of a core",
               100 * (after.cpu_s - before.cpu_s) / elapsed, budget=at_most(0.1)),
        Figure("wake-ups", "/s", (after.switches - before.switches) / elapsed),
    ]  # fmt: skip


def _expect_equal(running: Session, name: str = ".") -> None:
    """Make sure that both sides are the same, now that psync says so."""
    running.flush()
    if odd := difference(running.left / name, running.right / name):
        raise AssertionError(f"the sides differ: {odd}")


MEASUREMENTS: dict[str, tuple[str, Measure]] = {
    "latency": ("4 KiB file, closed until complete, idle session", latency),
    "single": ("one entry, idle session", single),
    "many": ("{small} files of 4 KiB in {directories} directories", many),
    "both": ("{half} of them on each side at once", both),
    "move": ("rename of a directory with {small} files", move),
    "remove": ("delete of a directory with {small} files", remove),
    "delta": ("{changed} changed in the middle of {large}", delta),
    "large": ("new file of {large}", large),
    "start": ("start with {unchanged} unchanged files", start),
    "real": ("a real tree of {real}, copied in", real),
    "idle": ("idle with the real tree", idle),
    "million": ("start with {million}", million),
}
