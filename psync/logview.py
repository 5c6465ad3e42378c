"""Read the logs of sessions as a person wants them: `psync log`.

Lines of several sessions come in the order of time; both formats are read, text and JSON, mixed too
(who changes `log_format` does not lose what was). With `follow` it goes on with what is
written from now on, also after the file was moved away and made anew, or cut off.

**Invariants.** It only reads, and needs no session that runs. A line is printed once and whole:
what is not ended by a newline waits for the rest. A line that is no event of its own belongs to the
one before it, as those of a traceback do. What is printed is harmless, whatever is in the file.

It reads the present file, not those that were moved away before it began.
"""

from __future__ import annotations

import datetime as dt
import fnmatch
import functools
import heapq
import json
import math
import os
import re
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from psync.effects.console import harmless
from psync.effects.state import SessionDir, reason, sessions
from psync.errors import UsageError

__all__ = ["LEVELS", "Filter", "Record", "Tail", "parse", "show", "since"]

LEVELS = ("debug", "info", "warning", "error", "critical")
_SEVERITIES = {"DEB": 0, "INF": 1, "WAR": 2, "ERR": 3, "CRI": 4, "FAT": 4}
_TAGS = ("DEB:-1", "INF:+0", "WAR:+1", "ERR:+2", "CRI:+3")
_SIDES = {"L": "left", "R": "right"}
_LINE = re.compile(
    r"\[(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)\.(\d{3})\] \[([A-Z]{3}):[+-]\d\] \[([LRB])\] \[([^]]*)\] "
    r"(\S*)(.*)",
    re.DOTALL,
)
_PAIR = re.compile(r' ([\w-]+)=(?:"((?:[^"\\]|\\.)*)"|(\S*))')
_FRAME = frozenset(("time", "level", "side", "session", "event", "exception"))
_CHUNK = 1 << 16
_LINE_MAX = 1 << 20
_EVERY_S = 0.25
_WINDOWS = (1 << 20, 1 << 25, None)  # bytes


class Record(NamedTuple):
    """One event of a log.

    Attributes:
        time: in s since 1970; 0: it does not say.
        level: an index into `LEVELS`.
        side: `left`, `right`, or empty: both.
        event: `noun.verb`.
        facts: what goes with it.
        text: as it stands in the file, or would stand there as text.
    """

    time: float
    level: int
    side: str
    session: str
    event: str
    facts: dict[str, Any]
    text: str

    def as_json(self) -> str:
        """One line for programs, of the same form whatever the file's."""
        stamp = dt.datetime.fromtimestamp(self.time, dt.UTC).isoformat(timespec="milliseconds")
        told: dict[str, Any] = {
            "time": stamp.replace("+00:00", "Z"), "level": LEVELS[self.level],
            "session": self.session, "side": self.side, "event": self.event,
        }  # fmt: skip
        told |= {key: value for key, value in self.facts.items() if key not in told}
        return json.dumps({key: value for key, value in told.items() if value != ""})


# --- one line -----------------------------------------------------------------------------


def parse(line: str) -> Record | None:
    """Read a line; None: it is none of an event's own, but belongs to the one before."""
    if line.startswith("{"):
        return _parse_json(line)
    match = _LINE.fullmatch(line)
    if match is None or not match[6]:
        return None  # the first word of a traceback's line is behind two blanks
    stamp, milliseconds, severity, side, session, event, rest = match.groups()
    try:
        when = _local(stamp) + int(milliseconds) / 1000
    except ValueError:
        return None
    level = _SEVERITIES.get(severity, 1)
    facts = {key: _unquoted(quoted) or word for key, quoted, word in _PAIR.findall(rest)}
    return Record(when, level, _SIDES.get(side, ""), session, event, facts, line)


@functools.lru_cache(maxsize=64)  # many lines share a second
def _local(stamp: str) -> float:
    return time.mktime(time.strptime(stamp, "%Y-%m-%d %H:%M:%S"))


def _unquoted(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL) if "\\" in text else text


def _parse_json(line: str) -> Record | None:
    try:
        told = json.loads(line)
        when = dt.datetime.fromisoformat(told["time"]).timestamp()
        level = LEVELS.index(told["level"])
        session, event = str(told["session"]), str(told["event"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    side = told.get("side") or ""
    facts = {key: value for key, value in told.items() if key not in _FRAME}
    record = Record(when, level, str(side), session, event, facts, "")
    text = _as_text(record)
    if trace := told.get("exception"):
        text += "".join(f"\n  {line}" for line in str(trace).splitlines())
    return record._replace(text=text)


def _as_text(record: Record) -> str:
    """Write an event as the text format does."""
    stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.time))
    source = {"left": "L", "right": "R"}.get(record.side, "B")
    words = "".join(f" {key}={_word(value)}" for key, value in record.facts.items())
    return (
        f"[{stamp}.{int(record.time % 1 * 1000):03}] [{_TAGS[record.level]}] [{source}] "
        f"[{record.session}] {record.event}{words}"
    )


def _word(value: Any) -> str:
    text = str(value)
    if not text or re.search(r'[ "=]', text):
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return text


# --- which are meant ----------------------------------------------------------------------


def since(text: str, now: float) -> float:
    """Read a time: `10m` ago, `2026-03-01`, `2026-03-01 09:30`, `09:30` today; in s since 1970.

    Raises:
        UsageError: it is none.
    """
    if match := re.fullmatch(r"(\d{1,9})([smhdw])", text, re.ASCII):
        return now - int(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}[match[2]]
    today = time.strftime("%Y-%m-%d", time.localtime(now))
    for given in (text.replace("T", " "), f"{today} {text}"):
        for form in ("%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%d"):
            try:
                return time.mktime(time.strptime(given, form))
            except (ValueError, OverflowError):
                continue
    raise UsageError(
        f"--since {text!a} is neither an age like 10m, 2h or 3d nor a time like 09:30 or "
        "'2026-03-01 09:30'"
    )


class Filter(NamedTuple):
    """Which events are wanted; empty is any.

    Attributes:
        since: in s since 1970.
        level: an index into `LEVELS`, the least that is wanted.
        side: `left` or `right`.
        session: its name; a log file may be shared.
        grep: a text that is to be in the line, in whatever case.
        path: a shell's pattern, for the whole path or for the last name of it.
    """

    since: float = 0.0
    level: int = 0
    side: str = ""
    session: str = ""
    grep: str = ""
    path: str = ""

    def wants(self, record: Record) -> bool:
        """Tell whether an event is wanted."""
        if record.time < self.since or record.level < self.level:
            return False
        if (self.side and record.side != self.side) or (
            self.session and record.session != self.session
        ):
            return False
        if self.grep and self.grep.casefold() not in record.text.casefold():
            return False
        if not self.path:
            return True
        path = record.facts.get("path")
        if not isinstance(path, str) or not path:
            return False
        return any(fnmatch.fnmatchcase(each, self.path) for each in (path, path.rpartition("/")[2]))


# --- files --------------------------------------------------------------------------------


class Tail:
    """A log file that is read to its end, and again whenever there is more."""

    def __init__(self, path: Path, window: int | None = None) -> None:
        """Begin at the first line of what is there; with a `window` in its last so many bytes."""
        self._path = path
        self._window = window
        self.whole_since = 0.0  # nothing later than this was left out; inf: not known yet
        self._fd = -1
        self._rest = b""
        self._held: Record | None = None  # more lines of it may come

    def records(self) -> Iterator[Record]:
        """Read what is there and has not been read yet.

        Raises:
            UsageError: the file may not be read.
        """
        while True:
            if self._fd < 0 and not self._open():
                break
            # Asked first: who writes to a new file writes no more to the one before.
            is_last = not self._is_replaced()
            for line in self._lines():
                record = parse(line)
                if record is None:
                    self._held = _joined(self._held, line)
                    continue
                if self._held is not None:
                    yield self._held
                self.whole_since = min(self.whole_since, record.time)
                self._held = record
            if is_last:
                break
            self.close()
        if self._held is not None:
            yield self._held
            self._held = None

    def _open(self) -> bool:
        try:
            self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise UsageError(f"cannot read the log {self._path}: {reason(error)}") from None
        size = os.fstat(self._fd).st_size
        if self._window is not None and size > self._window:
            os.lseek(self._fd, size - self._window, os.SEEK_SET)
            self.whole_since = math.inf
        self._window = None
        return True

    def _lines(self) -> Iterator[str]:
        """Complete lines up to the present end of the file."""
        if os.fstat(self._fd).st_size < os.lseek(self._fd, 0, os.SEEK_CUR):
            os.lseek(self._fd, 0, os.SEEK_SET)  # it was cut off
            self._rest = b""
        while chunk := os.read(self._fd, _CHUNK):
            *lines, self._rest = (self._rest + chunk).split(b"\n")
            for line in lines:
                yield line.decode("utf-8", "surrogateescape")
            if len(self._rest) > _LINE_MAX:
                self._rest = b""  # nothing of psync's

    def _is_replaced(self) -> bool:
        """Tell whether another file has the name now."""
        try:
            there, ours = os.stat(self._path), os.fstat(self._fd)
        except OSError:
            return False  # moved away, and none made yet: more may come into the old one
        return (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino)

    def close(self) -> None:
        """Let go of the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd, self._rest = -1, b""


def _joined(record: Record | None, line: str) -> Record | None:
    """Add to an event a line that belongs to it."""
    if record is None:
        return None
    match = _LINE.fullmatch(line)
    more = match[7] if match is not None else f" {line}"
    return record._replace(text=f"{record.text}\n {more}")


class _Logs:
    """The logs of one session or of all, however many there come to be."""

    def __init__(self, state: Path, name: str | None, window: int | None = None) -> None:
        self._state = state
        self._name = name
        self._window = window
        self._tails: dict[Path, Tail] = {}

    def records(self) -> Iterator[Record]:
        """What has not been read yet, in the order of time."""
        known = (
            [SessionDir(self._state, self._name)] if self._name is not None
            else sessions(self._state)
        )  # fmt: skip
        for session in known:
            path = Path(session.described().get("log") or session.log_file)
            if path not in self._tails:
                self._tails[path] = Tail(path, self._window)
        return heapq.merge(
            *[tail.records() for tail in self._tails.values()], key=lambda each: each.time
        )

    def last(self, lines: int, wanted: Filter) -> list[Record]:
        """The last so many that are wanted."""
        return list(deque(filter(wanted.wants, self.records()), maxlen=lines))

    @property
    def whole_since(self) -> float:
        """Since when all that was written has been read; 0: for ever."""
        return max((tail.whole_since for tail in self._tails.values()), default=0.0)

    def close(self) -> None:
        """Let go of the files."""
        for tail in self._tails.values():
            tail.close()


# --- the verb -----------------------------------------------------------------------------


def show(
    state: Path,
    name: str | None,
    wanted: Filter,
    *,
    lines: int | None = None,
    follow: bool = False,
    as_json: bool = False,
) -> int:
    """Print what is wanted of the logs; return the exit code.

    Args:
        state: the state directory.
        name: only this session; None: all.
        wanted: which events.
        lines: of what is there only the last so many; None: all.
        follow: go on with what is written from now on, until Ctrl-C.
        as_json: a line of JSON each.

    Raises:
        UsageError: there is no such session, or its log may not be read.
        StoreError: the state directory cannot be read.
    """
    if name is not None and not SessionDir(state, name).path.is_dir():
        there = ", ".join(each.name for each in sessions(state)) or "none"
        raise UsageError(f"no session {name!a} has run here (there are: {there})")
    logs = _Logs(state, name)
    if lines is None:
        found: Iterable[Record] = filter(wanted.wants, logs.records())
    else:
        logs, found = _last(state, name, lines, wanted)
    try:
        while True:
            for record in found:
                _print(record, as_json=as_json)
            sys.stdout.flush()
            if not follow:
                return 0
            time.sleep(_EVERY_S)
            found = filter(wanted.wants, logs.records())
    except KeyboardInterrupt:
        return 0


def _last(state: Path, name: str | None, lines: int, wanted: Filter) -> tuple[_Logs, list[Record]]:
    """Find the last lines that are wanted without reading more of long files than that takes."""
    for window in _WINDOWS:
        logs = _Logs(state, name, window)
        found = logs.last(lines, wanted)
        complete = len(found) == lines and (not found or found[0].time >= logs.whole_since)
        if complete or not logs.whole_since:
            break
        logs.close()
    return logs, found


def _print(record: Record, *, as_json: bool) -> None:
    if as_json:
        print(record.as_json())
    else:
        print("\n".join(harmless(line) for line in record.text.split("\n")))
