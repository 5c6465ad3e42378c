"""Read the logs of sessions as a person wants them: `psync log`.

Lines of several sessions come in the order of time; both formats are read, text and JSON, mixed too
(who changes `log_format` does not lose what was). With `follow` it goes on with what is
written from now on, also after the file was moved away and made anew, or cut off. What logrotate
has moved away before (`NAME.1`, `NAME.2.gz`, `NAME-20260301.xz`) is read before the present file,
one file after the other.

**Invariants.** It only reads, and needs no session that runs. A line is printed once and whole:
what is not ended by a newline waits for the rest. A line that is no event of its own belongs to the
one before it, as those of a traceback do. What is printed is harmless, whatever is in the file.
Memory does not grow with the logs.

The first event in a file says where it belongs among the others, neither its name nor its time.
"""

from __future__ import annotations

import bz2
import datetime as dt
import fnmatch
import functools
import gzip
import heapq
import json
import lzma
import math
import os
import re
import sys
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
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
_EVERY_S = 0.25  # where inotify cannot be had
_ANYWAY_S = 2.0  # beside inotify, which does not tell of all: a log on a network, or behind a link
_GATHER_MS = 50  # so that a log is not read line by line
# How much is read for the last lines: bytes of the present file, and how many that were moved away.
_STEPS = ((1 << 20, 0), (1 << 25, 0), (None, 1), (None, None))
# What logrotate appends, also with `dateext`, and never the name of another session's log.
_MOVED = re.compile(r"(\.\d{1,4}|[.-]\d{4}-?\d\d-?\d\d[\d.-]*)(\.gz|\.bz2|\.xz)?")
_OPEN: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_WRITTEN = 0x2 | 0x80 | 0x100  # IN_MODIFY, IN_MOVED_TO, IN_CREATE
_BROKEN = (OSError, EOFError, zlib.error, lzma.LZMAError)


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
        path: a shell's pattern, for the whole path or for the last name of it; of a rename, for
            the old one as well.
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
        paths = [record.facts.get(fact) for fact in ("path", "moved_from")]
        return any(
            fnmatch.fnmatchcase(each, self.path)
            for path in paths
            if isinstance(path, str) and path
            for each in (path, path.rpartition("/")[2])
        )


# --- files --------------------------------------------------------------------------------


class Tail:
    """A log file that is read to its end, and again whenever there is more."""

    def __init__(
        self, path: Path, window: int | None = None, moved: int | None = 0, since: float = 0.0
    ) -> None:
        """Begin to read a log.

        Args:
            path: where it is.
            window: only the last so many bytes of what is there; None: all.
            moved: so many files that were moved away come before it; None: all of them.
            since: nobody wants what is older than this.
        """
        self._path = path
        self._window = window
        self._moved = moved
        self._since = since
        self.whole_since = 0.0  # nothing later than this was left out; inf: not known yet
        self._is_first = True
        self._fd = -1
        self._rest = b""
        self._held: Record | None = None  # more lines of it may come

    def records(self) -> Iterator[Record]:
        """Read what is there and has not been read yet.

        Raises:
            UsageError: the file may not be read.
        """
        is_open = self._fd >= 0 or self._open(self._path)
        if self._is_first:
            # Just moved away, and no other made yet: what is written until then is still to come.
            is_open = is_open or any(map(self._open, self._last_moved()))
            self._is_first = False  # the present file is held: it cannot be moved away unseen
            for path in self._moved_away():
                yield from self._events(_lines_of(path))
        while is_open:
            # Asked first: who writes to a new file writes no more to the one before.
            is_last = not self._is_replaced()
            yield from self._events(self._lines())
            if is_last:
                break
            self.close()
            is_open = self._open(self._path)
        if self._held is not None:
            yield self._held
            self._held = None

    def _events(self, lines: Iterator[str]) -> Iterator[Record]:
        """Make events of lines; the last one is held back, for there may be more of it."""
        for line in lines:
            record = parse(line)
            if record is None:
                self._held = _joined(self._held, line)
                continue
            if self._held is not None:
                yield self._held
            self.whole_since = min(self.whole_since, record.time)
            self._held = record

    def _moved_away(self) -> list[Path]:
        """The files that were moved away and are wanted, the oldest first."""
        there = _moved_from(self._path, os.fstat(self._fd) if self._fd >= 0 else None)
        if self._moved == 0:
            chosen: list[Path] = []
        else:
            begins = sorted((begin, path) for path in there if (begin := _begin(path)) is not None)
            # All in a file is older than the first in the next one.
            ends = [begin for begin, _ in begins[1:]] + [math.inf]
            wanted = [
                path for (_, path), end in zip(begins, ends, strict=False) if end >= self._since
            ]
            chosen = wanted[-self._moved :] if self._moved is not None else wanted
            there = wanted
        if len(chosen) < len(there):
            self.whole_since = math.inf
        return chosen

    def _last_moved(self) -> list[Path]:
        """The file that was moved away last, if it can be read on."""
        there = [path for path in _moved_from(self._path, None) if path.suffix not in _OPEN]
        begins = [(begin, path) for path in there if (begin := _begin(path)) is not None]
        return [path for _, path in sorted(begins)[-1:]]

    def _open(self, path: Path) -> bool:
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise UsageError(f"cannot read the log {path}: {reason(error)}") from None
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


def _moved_from(path: Path, present: os.stat_result | None) -> list[Path]:
    """The files that logrotate has moved away from a name, in no order."""
    try:
        names = {each.name for each in os.scandir(path.parent)}
    except OSError:
        return []
    found = []
    for name in names:
        match = _MOVED.fullmatch(name, len(path.name)) if name.startswith(path.name) else None
        # Where both are there, the one is just being compressed into the other.
        if match is None or (match[2] and name.removesuffix(match[2]) in names):
            continue
        moved = path.with_name(name)
        if present is None or not _is_same(moved, present):
            found.append(moved)
    return found


def _is_same(path: Path, status: os.stat_result) -> bool:
    try:
        there = os.stat(path)
    except OSError:
        return False
    return (there.st_dev, there.st_ino) == (status.st_dev, status.st_ino)


def _begin(path: Path) -> float | None:
    """When the first event in a file was; None: there is none, or it cannot be read."""
    lines = _lines_of(path, _LINE_MAX)
    return next((record.time for record in map(parse, lines) if record is not None), None)


def _lines_of(path: Path, size_max: int | None = None) -> Iterator[str]:
    """The lines of a whole file; what cannot be read is complained of, and is its end."""
    try:
        with _OPEN.get(path.suffix, open)(path, "rb") as file:
            rest, size = b"", 0
            while (size_max is None or size < size_max) and (chunk := file.read(_CHUNK)):
                size += len(chunk)
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    yield line.decode("utf-8", "surrogateescape")
                if len(rest) > _LINE_MAX:
                    rest = b""
    except FileNotFoundError:
        pass  # it was old, and is just being removed
    except _BROKEN as error:
        why = reason(error) if isinstance(error, OSError) else str(error)
        print(harmless(f"psync: cannot read all of the log {path}: {why}"), file=sys.stderr)


def _joined(record: Record | None, line: str) -> Record | None:
    """Add to an event a line that belongs to it."""
    if record is None:
        return None
    match = _LINE.fullmatch(line)
    more = match[7] if match is not None else f" {line}"
    return record._replace(text=f"{record.text}\n {more}")


class _Logs:
    """The logs of one session or of all, however many there come to be."""

    def __init__(
        self,
        state: Path,
        name: str | None,
        since: float = 0.0,
        window: int | None = None,
        moved: int | None = None,
    ) -> None:
        self._state = state
        self._name = name
        self._since = since
        self._window = window
        self._moved = moved
        self._tails: dict[Path, Tail] = {}
        self._directories: set[Path] = set()

    def records(self) -> Iterator[Record]:
        """What has not been read yet, in the order of time."""
        known = (
            [SessionDir(self._state, self._name)] if self._name is not None
            else sessions(self._state)
        )  # fmt: skip
        for session in known:
            path = Path(session.described().get("log") or session.log_file)
            self._directories |= {session.path, path.parent}
            if path not in self._tails:
                self._tails[path] = Tail(path, self._window, self._moved, self._since)
        return heapq.merge(
            *[tail.records() for tail in self._tails.values()], key=lambda each: each.time
        )

    def last(self, lines: int, wanted: Filter) -> list[Record]:
        """The last so many that are wanted."""
        return list(deque(filter(wanted.wants, self.records()), maxlen=lines))

    @property
    def directories(self) -> set[Path]:
        """Where something happens when there is more to read, or there are more sessions."""
        return {self._state / "sessions", *self._directories}

    @property
    def whole_since(self) -> float:
        """Since when all that was written has been read; 0: for ever."""
        return max((tail.whole_since for tail in self._tails.values()), default=0.0)

    def close(self) -> None:
        """Let go of the files."""
        for tail in self._tails.values():
            tail.close()


class _Bell:
    """Wakes up who follows logs when there may be more of them."""

    def __init__(self) -> None:
        try:
            from inotify_simple import INotify

            self._inotify = INotify()
        except OSError:  # too many of them
            self._inotify = None
        self._watched: set[Path] = set()

    def wait(self, directories: set[Path]) -> None:
        """Return when something has happened in a directory, or may have."""
        if self._inotify is None:
            time.sleep(_EVERY_S)
            return
        fresh = directories - self._watched
        for directory in fresh:
            try:
                self._inotify.add_watch(directory, _WRITTEN)
            except OSError:
                continue  # it is not there yet, or there are too many watches: `_ANYWAY_S`
            self._watched.add(directory)
        if not fresh & self._watched:  # else it may have happened before
            self._inotify.read(timeout=int(_ANYWAY_S * 1000), read_delay=_GATHER_MS)

    def close(self) -> None:
        """Listen no more."""
        if self._inotify is not None:
            self._inotify.close()


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
    logs = _Logs(state, name, wanted.since)
    bell = _Bell() if follow else None
    if lines is None:
        found: Iterable[Record] = filter(wanted.wants, logs.records())
    else:
        logs, found = _last(state, name, lines, wanted)
    try:
        while True:
            for record in found:
                _print(record, as_json=as_json)
            sys.stdout.flush()
            if bell is None:
                return 0
            bell.wait(logs.directories)
            found = filter(wanted.wants, logs.records())
    except KeyboardInterrupt:
        return 0
    finally:
        logs.close()
        if bell is not None:
            bell.close()


def _last(state: Path, name: str | None, lines: int, wanted: Filter) -> tuple[_Logs, list[Record]]:
    """Find the last lines that are wanted without reading more of long files than that takes."""
    for window, moved in _STEPS:
        logs = _Logs(state, name, wanted.since, window, moved)
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
