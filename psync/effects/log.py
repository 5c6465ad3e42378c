"""Write down what psync did, in lines that a person can read and a program can parse.

    [2026-03-01 09:30:00.125] [INF:+0] [L] [home] transition.applied path=docs/a.txt verb=put

The shape is the original's: time, severity (FAT +4, CRI +3, ERR +2, WAR +1, INF +0, DEB -1),
the side (L, R, or B for both), the session; then the event, `noun.verb`, and what goes with
it. With `log_format = "json"` the same is one JSON object a line.

**Invariants.** One event is one line, and no file name, however evil, makes it two (a
traceback is a line for each of its own). A session never stops because its log cannot be
written: a person is told of the first line that is lost, and how many were is logged. Rotation
needs no cooperation: a file that was moved away is made anew within a second, and at once on
SIGHUP; so is its directory, but for a session's own, whose loss is more than the log's.

It does not configure structlog for the process, and it does not print: what a person
at the terminal should see at once (`session.*`, `conflict.*`, `problem.*`, and warnings) is
handed to the `Console` as well; where an event has a `message`, that is what is shown.
"""

from __future__ import annotations

import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, MutableMapping
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import msgspec
import structlog
from structlog.typing import FilteringBoundLogger

from psync.core.entry import printable
from psync.effects.console import Console, harmless
from psync.effects.state import reason
from psync.errors import UsageError

__all__ = ["Bridge", "Logger", "WatchedFile", "make_logger"]

Logger = FilteringBoundLogger

_SEVERITY = {
    "critical": "CRI:+3",
    "exception": "ERR:+2",
    "error": "ERR:+2",
    "warning": "WAR:+1",
    "warn": "WAR:+1",
    "info": "INF:+0",
    "debug": "DEB:-1",
}
_LEVEL = {name: name for name in _SEVERITY} | {"exception": "error", "warn": "warning"}
_NUMBER = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}
_SOURCE = ("L", "R")
_SHOWN = ("session", "conflict", "problem")
_SAID = "library.said"  # in the log, but nothing that a person could act upon
_CHECK_S = 1.0

_Event = MutableMapping[str, Any]


class WatchedFile:
    """A log file that may be rotated under us; as a file object for structlog."""

    def __init__(
        self,
        path: Path,
        clock: Callable[[], float] = time.monotonic,
        *,
        makes_directory: bool = True,
        warn: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Open the file for appending, and make it where it is not.

        Args:
            path: its name.
            clock: seconds.
            makes_directory: also its directory, now and whenever it is gone.
            warn: is told once that lines are lost, and why.

        Raises:
            UsageError: it cannot be written.
        """
        self._path = path
        self._clock = clock
        self._makes_directory = makes_directory
        self._warn = warn
        self._fd = -1
        self._identity: tuple[int, int] | None = None
        self._check_at = 0.0
        self._lost = 0
        try:
            self._open()
        except OSError as error:
            raise UsageError(f"cannot write the log {path}: {reason(error)}") from None

    def _open(self) -> None:
        if self._makes_directory:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
        fd = os.open(self._path, flags, 0o600)
        status = os.fstat(fd)
        self.close()
        self._fd, self._identity = fd, (status.st_dev, status.st_ino)
        self._check_at = self._clock() + _CHECK_S

    def reopen(self) -> None:
        """Look at the name again before the next line; safe in a signal handler."""
        self._check_at = 0.0

    def write(self, line: bytes) -> None:
        """Append a line, whatever happened to the file."""
        try:
            if self._clock() >= self._check_at:
                self._follow()
            if self._lost:
                lost = b"psync: %d lines of the log were lost: it could not be written\n"
                os.write(self._fd, lost % self._lost)
                self._lost = 0
            os.write(self._fd, line)
        except OSError as error:
            if not self._lost:
                self._warn(
                    f"cannot write the log {self._path}: {reason(error)}; lines of it are lost "
                    "until it can be written, all else goes on"
                )
            self._lost += 1
            self._check_at = 0.0

    def _follow(self) -> None:
        """Open the name anew if it is another file now, or none."""
        self._check_at = self._clock() + _CHECK_S
        try:
            status = os.stat(self._path)
        except FileNotFoundError:
            self._open()
            return
        if (status.st_dev, status.st_ino) != self._identity:
            self._open()

    def flush(self) -> None:
        """Do nothing: every line is written at once."""

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Threshold:
    """The least level that is written; it may be set anew."""

    def __init__(self, level: str) -> None:
        self._least = 0
        self.set(level)

    def set(self, level: str) -> None:
        """Write what is of a level, and of those above it."""
        self._least = _NUMBER[level]

    def __call__(self, _logger: Any, method: str, event: _Event) -> _Event:
        """Drop what is of too low a level."""
        if _NUMBER[_LEVEL[method]] < self._least:
            raise structlog.DropEvent
        return event


def make_logger(
    file: WatchedFile,
    *,
    session: str,
    style: str = "text",
    level: str | Threshold = "info",
    console: Console | None = None,
) -> Logger:
    """Make the logger of a session.

    Args:
        file: where the lines go.
        session: is bound to every event.
        style: `text` or `json`.
        level: what is less than this is not even rendered; a `Threshold` may be set later.
        console: is told what a person at the terminal should see.
    """
    processors: list[Any] = [_plain]
    if isinstance(level, Threshold):
        processors.insert(0, level)
        level = "debug"
    if console is not None:
        processors.append(_Teller(console))
    processors.append(_Text() if style == "text" else _json)
    logger = structlog.wrap_logger(
        structlog.BytesLogger(file),  # type: ignore[arg-type]  # it needs write and flush only
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        context_class=dict,
        cache_logger_on_first_use=True,
    )
    return cast(Logger, logger.bind(session=session))


def _plain(_logger: Any, method: str, event: _Event) -> _Event:
    """Turn every value into what both styles can render: text, numbers, lists of them."""
    for key, value in event.items():
        kind = type(value)
        if kind is bytes:
            event[key] = printable(value)
        elif kind is str:
            if not value.isprintable():
                event[key] = harmless(value)
        elif kind not in (int, bool, float) and value is not None and key != "exc_info":
            event[key] = _plain_value(value)
    event["level"] = _LEVEL[method]
    return event


def _plain_value(value: Any) -> Any:
    if isinstance(value, bytes):
        return printable(value)
    if isinstance(value, (bool, int, float)):
        return int(value) if isinstance(value, int) and type(value) is not bool else value
    if isinstance(value, dict):
        return {str(k): _plain_value(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain_value(v) for v in value]
    return None if value is None else harmless(str(value))


def _trace(event: _Event) -> str:
    """Render and take out the exception that goes with an event."""
    about = event.pop("exc_info", None)
    if about is True:
        about = sys.exc_info()
    if isinstance(about, BaseException):
        about = (type(about), about, about.__traceback__)
    if not isinstance(about, tuple) or about[0] is None:
        return ""
    return "".join(
        traceback.format_exception(
            cast(type[BaseException], about[0]),
            cast(BaseException, about[1]),
            cast("TracebackType | None", about[2]),
        )
    )


class _Teller:
    """Hands to the console what a person should see at once."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def __call__(self, _logger: Any, _method: str, event: _Event) -> _Event:
        level = event["level"]
        name = event["event"]
        if (
            level == "debug"
            or name == _SAID
            or (level == "info" and name.partition(".")[0] not in _SHOWN)
        ):
            return event
        text = event.get("message")
        if text is None:
            text = name + _pairs(event)
        line = f"psync: {event.get('session', '')}: {text}"
        if level == "info":
            self._console.say(line)
        else:
            self._console.warn(line)
        return event


_FRAME = frozenset(("event", "level", "session", "side", "exc_info"))


def _pairs(event: _Event) -> str:
    return "".join([f" {k}={_word(v)}" for k, v in event.items() if k not in _FRAME])


def _word(value: Any) -> str:
    """Render a value so that the end of it can be seen."""
    text = value if type(value) is str else str(value)
    if not text or " " in text or '"' in text or "=" in text:
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return text


class _Text:
    """Renders the original's line."""

    def __init__(self) -> None:
        self._second = -1
        self._stamp = ""

    def __call__(self, _logger: Any, method: str, event: _Event) -> bytes:
        now = time.time()
        second = int(now)
        if second != self._second:
            self._second = second
            self._stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(second))
        side = event.get("side")
        source = _SOURCE[side] if side in (0, 1) else "B"
        head = (
            f"[{self._stamp}.{int((now - second) * 1000):03}] [{_SEVERITY[method]}] [{source}]"
            f" [{event.get('session', '-')}] "
        )
        trace = _trace(event) if "exc_info" in event else ""
        lines = [f"{head}{event['event']}{_pairs(event)}"]
        lines += [f"{head}  {harmless(line)}" for line in trace.splitlines()]
        return "\n".join(lines).encode("utf-8", "backslashreplace")


_encode = msgspec.json.Encoder().encode


def _json(_logger: Any, _method: str, event: _Event) -> bytes:
    now = time.time()
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
    record: dict[str, Any] = {"time": f"{stamp}.{int(now % 1 * 1000):03}Z"}
    trace = _trace(event) if "exc_info" in event else ""
    side = event.pop("side", None)
    if side is not None:
        record["side"] = ("left", "right")[side] if side in (0, 1) else side
    record |= event
    if trace:
        record["exception"] = trace
    return _encode(record)


class Bridge(logging.Handler):
    """Brings what libraries log, asyncssh and asyncio above all, into the session's log."""

    def __init__(self, log: Logger, level: int = logging.WARNING) -> None:
        super().__init__(level)
        self._log = log

    def install(self) -> None:
        """Become the one handler of the standard library's logging."""
        logging.getLogger().handlers[:] = [self]
        self.listen(self.level)

    def listen(self, level: int) -> None:
        """Take what is of a level, and of those above it."""
        self.setLevel(level)
        logging.getLogger().setLevel(level)
        logging.getLogger("asyncssh").setLevel(level)

    def emit(self, record: logging.LogRecord) -> None:
        """Log a record as `library.said`."""
        level = record.levelno
        try:
            text = record.getMessage()
        except (TypeError, ValueError):
            text = str(record.msg)
        if level >= logging.ERROR:
            self._log.error(
                "library.said", library=record.name, text=text, exc_info=record.exc_info
            )
        elif level >= logging.WARNING:
            self._log.warning(_SAID, library=record.name, text=text)
        else:
            self._log.debug(_SAID, library=record.name, text=text)
