"""Say what was measured: against which floor, within which budget, on which machine.

A figure alone says more about the machine than about psync. So each has the floor beside it,
which was measured in the same run on the same data, and where docs/DESIGN.md sets a budget, the
verdict.

**Invariants.** The table and the JSON come from the same records. A sample that was taken
is in the JSON; nothing is dropped as an outlier. A verdict is only given where there is a budget.

It measures nothing.
"""

from __future__ import annotations

import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psync

__all__ = [
    "Budget",
    "Figure",
    "Record",
    "at_least",
    "at_most",
    "facts",
    "quantile",
    "table",
    "times",
]


class Budget(NamedTuple):
    """What is allowed: a number in the figure's unit, or a multiple of the floor."""

    limit: float
    relative: bool
    at_least: bool = False

    def met(self, measured: float, floor: float | None) -> bool | None:
        """Tell whether a figure keeps it; None where that needs a floor and there is none."""
        if self.relative and not floor:
            return None
        value = measured / floor if self.relative and floor else measured
        return value >= self.limit if self.at_least else value <= self.limit

    def describe(self, unit: str) -> str:
        """Render it for the table."""
        sign = ">=" if self.at_least else "<="
        return f"{sign} {self.limit:g} {'x' if self.relative else unit}"


def at_most(limit: float) -> Budget:
    """Allow this much, in the figure's unit."""
    return Budget(limit, relative=False)


def times(limit: float) -> Budget:
    """Allow this many times the floor."""
    return Budget(limit, relative=True)


def at_least(limit: float) -> Budget:
    """Ask for this many times the floor (of a throughput)."""
    return Budget(limit, relative=True, at_least=True)


class Figure(NamedTuple):
    """One line of the table.

    Attributes:
        what: what was measured, to be read after the measurement's title.
        unit: of `measured`, of `floor` and of every peer.
        floor_name: what the floor is.
        peers: the same work done by others, by name; for comparison only.
    """

    what: str
    unit: str
    measured: float
    floor: float | None = None
    floor_name: str = ""
    budget: Budget | None = None
    peers: dict[str, float] = {}  # noqa: RUF012  # a default, never changed

    @property
    def ratio(self) -> float | None:
        """How many times the floor."""
        return self.measured / self.floor if self.floor else None

    @property
    def met(self) -> bool | None:
        """Whether the budget is kept."""
        return self.budget.met(self.measured, self.floor) if self.budget else None


class Record:
    """Everything that one measurement found, also when it failed half-way."""

    def __init__(self, name: str, title: str) -> None:
        self.name = name
        self.title = title
        self.figures: list[Figure] = []
        self.samples: dict[str, list[float]] = {}
        self.memory: dict[str, dict[str, int]] = {}
        self.notes: list[str] = []
        self.error: str | None = None
        self.where = ""  # the traceback and what psync said, when it failed
        self.seconds = 0.0
        self.load = (0.0, 0.0)

    def sample(self, series: str, value: float) -> None:
        """Keep one observation."""
        self.samples.setdefault(series, []).append(value)

    def median(self, series: str) -> float:
        """Take the middle of what a series has so far."""
        return statistics.median(self.samples[series])

    def quantile(self, series: str, q: float) -> float:
        """Take a quantile of what a series has so far."""
        return quantile(self.samples[series], q)

    def remember_memory(self, by_role: dict[str, dict[str, int]]) -> None:
        """Keep the largest that each process was seen with."""
        for role, sizes in by_role.items():
            kept = self.memory.setdefault(role, {})
            for kind, size in sizes.items():
                kept[kind] = max(size, kept.get(kind, 0))

    def plain(self) -> dict[str, Any]:
        """Make what JSON can hold."""
        return {
            "name": self.name,
            "title": self.title,
            "seconds": self.seconds,
            "load": self.load,
            "error": self.error,
            "where": self.where,
            "notes": self.notes,
            "figures": [
                {
                    **figure._asdict(),
                    "ratio": figure.ratio,
                    "budget": figure.budget and figure.budget.describe(figure.unit),
                    "met": figure.met,
                }
                for figure in self.figures
            ],
            "samples": self.samples,
            "memory": self.memory,
        }


def quantile(samples: Sequence[float], q: float) -> float:
    """Take the nearest-rank quantile: a value that was really observed."""
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(q * len(ordered)) - 1)]


# --- the table ----------------------------------------------------------------------------

_HEAD = ("", "measured", "floor", "ratio", "budget", "", "the floor is")


def table(records: Iterable[Record]) -> str:
    """Render everything for people."""
    records = list(records)
    rows: list[tuple[str, ...]] = [_HEAD]
    for record in records:
        rows.append((record.title, *[""] * (len(_HEAD) - 1)))
        rows += [_row(figure) for figure in record.figures]
    widths = [max(len(row[n]) for row in rows if any(row[1:])) for n in range(len(_HEAD))]
    lines = [_line_of(row, widths) for row in rows]
    return "\n".join([*lines, "", *_beside(records), "", *_memory(records)])


def _row(figure: Figure) -> tuple[str, ...]:
    verdict = {True: "met", False: "MISSED", None: ""}[figure.met]
    return (
        "  " + figure.what,
        _amount(figure.measured, figure.unit),
        "" if figure.floor is None else _amount(figure.floor, figure.unit),
        "" if figure.ratio is None else f"{figure.ratio:.2f}",
        figure.budget.describe(figure.unit) if figure.budget else "",
        verdict,
        figure.floor_name,
    )


def _amount(value: float, unit: str) -> str:
    """Render with three digits that count."""
    digits = 0 if value >= 100 or value == 0 else 1 if value >= 10 else 2 if value >= 0.1 else 3
    return f"{value:,.{digits}f} {unit}"


def _beside(records: list[Record]) -> list[str]:
    """List what was done by others, what is worth knowing, and what failed."""
    lines = []
    for record in records:
        told = [f"{n} {_amount(v, f.unit)}" for f in record.figures for n, v in f.peers.items()]
        told += [note.partition("\n")[0] for note in record.notes]
        if record.error:
            told.append(f"FAILED: {record.error}")
        if told:
            lines.append(f"{record.name}: " + "; ".join(dict.fromkeys(told)))
    return lines


def _memory(records: list[Record]) -> list[str]:
    roles = list(dict.fromkeys(role for record in records for role in record.memory))
    if not roles:
        return []
    rows = [("peak memory, MiB (VmHWM; PSS at the end)", *roles, "VmHWM, sum", "PSS, sum")]
    for record in records:
        if not record.memory:
            continue
        peaks = [record.memory.get(role, {}).get("VmHWM", 0) for role in roles]
        shared = sum(sizes.get("Pss", 0) for sizes in record.memory.values())
        rows.append(
            ("  " + record.name, *(f"{v / 2**20:.1f}" for v in (*peaks, sum(peaks), shared)))
        )
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    return [_line_of(row, widths) for row in rows]


def _line_of(row: Sequence[str], widths: Sequence[int]) -> str:
    """Put the first cell and words to the left, the others to the right."""
    cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
    if len(row) == len(_HEAD):
        cells[-1] = row[-1]
    return "  ".join([row[0].ljust(widths[0]), *cells[1:]]).rstrip()


# --- the machine ----------------------------------------------------------------------------


def facts(directory: Path) -> dict[str, Any]:
    """Describe the machine and the programs, as far as they shape the figures."""
    return {
        "when": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "psync": psync.__version__,
        "commit": _said("git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"),
        "cpu": _field("/proc/cpuinfo", "model name"),
        "cores": len(os.sched_getaffinity(0)),
        "memory": _field("/proc/meminfo", "MemTotal"),
        "kernel": platform.release(),
        "file_system": _said("stat", "-f", "-c", "%T", str(directory)),
        "python": platform.python_version(),
        "python3_of_sshd": _said("/usr/bin/env", "-i", "python3", "--version"),
        "openssh": _said("ssh", "-V"),
        "rsync": _said("rsync", "--version"),
        "tar": _said("tar", "--version"),
        "max_user_watches": _line("/proc/sys/fs/inotify/max_user_watches"),
        "root": os.geteuid() == 0,
        "argv": sys.argv[1:],
    }


def _said(*argv: str) -> str:
    try:
        run = subprocess.run(
            argv, text=True, capture_output=True, timeout=10, check=False, stdin=subprocess.DEVNULL
        )
    except OSError:
        return "missing"
    return (run.stdout or run.stderr).strip().partition("\n")[0]


def _line(file: str) -> str:
    try:
        return Path(file).read_text().strip()
    except OSError:
        return ""


def _field(file: str, key: str) -> str:
    for line in _line(file).splitlines():
        if line.startswith(key):
            return line.partition(":")[2].strip()
    return ""
