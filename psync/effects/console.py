"""Tell the person at the terminal how far the first synchronization is, and what matters.

Lines go to stdout, warnings to stderr. On a terminal the progress is one line at the
bottom that is drawn anew; elsewhere (cron, a unit's journal) it is a plain line now and then.

**Invariants.** It never fails and never blocks a session for longer than a write: a
terminal that went away, or a reader that closed the pipe, is no reason to stop. What it prints is
one line a call, whatever is in the text.

It keeps no history (the log does) and draws no colours.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import TextIO

__all__ = ["Console", "complain", "counted", "duration", "harmless", "quantity"]

_REDRAW_S = 0.1  # on a terminal
_REPEAT_S = 30.0  # elsewhere
_RATE_OVER_S = 5.0  # what the rate shown is an average of


def harmless(text: str) -> str:
    """Escape what could forge a line or move a cursor."""
    if text.isprintable():
        return text
    return "".join([c if c.isprintable() else _escaped(c) for c in text])


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # a byte of a name that is no UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


def complain(message: str, code: int) -> int:
    """Say on stderr, in one line, what is wrong or worth a look; return the code."""
    line = "psync: " + harmless(" ".join(message.split("\n"))) + "\n"
    try:
        sys.stderr.write(line)
    except (OSError, ValueError):
        pass
    return int(code)


def quantity(size: float) -> str:
    """Render a number of bytes: `812 B`, `4.2 MB`."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 999.5 or unit == "TB":
            return f"{size:.0f} {unit}" if unit == "B" or size >= 99.5 else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError


def counted(number: int, what: str) -> str:
    """Render a number of things: `1 conflict`, `1,200 conflicts`."""
    return f"{number:,} {what}{'s' * (number != 1)}"


def duration(seconds: float) -> str:
    """Render a time: `0:42`, `3:05:10`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Console:
    """The terminal of a session in the foreground."""

    def __init__(
        self,
        out: TextIO | None = None,
        err: TextIO | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Print to `out` and `err`, by default the process's own."""
        self._out = sys.stdout if out is None else out
        self._err = sys.stderr if err is None else err
        self._clock = clock
        self._tty = self._isatty()
        self._shown = ""  # the progress that stands at the bottom now
        self._due = 0.0
        self._started: float | None = None
        self._mark = (0.0, 0, 0)  # when, files, bytes: where the rate is measured from
        self._rates = (0.0, 0.0)  # files and bytes a second

    def _isatty(self) -> bool:
        try:
            return self._err.isatty() and os.environ.get("TERM") != "dumb"
        except (OSError, ValueError):
            return False

    def say(self, text: str) -> None:
        """Print a line that a person wants to know."""
        self._print(self._out, text)

    def warn(self, text: str) -> None:
        """Print a line that a person should act upon."""
        self._print(self._err, text)

    def progress(
        self,
        files: int,
        size: int,
        files_total: int | None = None,
        size_total: int | None = None,
    ) -> None:
        """Show how far it is; cheap, to be called at every step.

        Args:
            files: how many are done.
            size: bytes that are done.
            files_total: of how many, when known.
            size_total: of how many bytes, when known.
        """
        now = self._clock()
        if self._started is None:
            self._started = now
            self._mark = (now, files, size)
            self._due = now + (0.0 if self._tty else _REPEAT_S)
        if now < self._due:
            return
        self._due = now + (_REDRAW_S if self._tty else _REPEAT_S)
        self._measure(now, files, size)
        text = self._describe(files, size, files_total, size_total)
        if self._tty:
            self._draw(text)
        else:
            self.say(text)

    def show(self, text: str) -> None:
        """Show how far something is in other words; on a terminal only, and not too often."""
        now = self._clock()
        if self._tty and now >= self._due:
            self._due = now + _REDRAW_S
            self._draw(text)

    def finish(self) -> None:
        """Take the progress away: it is over."""
        if self._shown:
            self._write(self._err, "\r\x1b[K")
        self._shown = ""
        self._started = None
        self._rates = (0.0, 0.0)

    def _measure(self, now: float, files: int, size: int) -> None:
        since, files_then, size_then = self._mark
        elapsed = now - since
        if elapsed <= 0:
            return
        fresh = ((files - files_then) / elapsed, (size - size_then) / elapsed)
        weight = min(1.0, elapsed / _RATE_OVER_S) if any(self._rates) else 1.0
        self._rates = (
            self._rates[0] + weight * (fresh[0] - self._rates[0]),
            self._rates[1] + weight * (fresh[1] - self._rates[1]),
        )
        self._mark = (now, files, size)

    def _describe(
        self, files: int, size: int, files_total: int | None, size_total: int | None
    ) -> str:
        parts = [
            f"{files:,}" + (f" of {files_total:,}" if files_total else "") + " files",
            quantity(size) + (f" of {quantity(size_total)}" if size_total else ""),
            f"{quantity(self._rates[1])}/s",
        ]
        # Small files take their time by number, large ones by size: the slower tells.
        left = max(
            ((total - done) / rate if rate > 0 else 0.0)
            for total, done, rate in (
                (files_total or files, files, self._rates[0]),
                (size_total or size, size, self._rates[1]),
            )
        )
        if left > 0:
            parts.append(f"{duration(left)} left")
        return "synchronizing: " + ", ".join(parts)

    def _draw(self, text: str) -> None:
        try:
            width = os.get_terminal_size(self._err.fileno()).columns or 80
        except (OSError, ValueError):
            width = 80
        self._shown = text[: width - 1]
        self._write(self._err, f"\r{self._shown}\x1b[K")

    def _print(self, stream: TextIO, text: str) -> None:
        line = harmless(text) + "\n"
        if self._shown:
            self._write(self._err, "\r\x1b[K")
            self._write(stream, line)
            self._write(self._err, self._shown)
        else:
            self._write(stream, line)

    def _write(self, stream: TextIO, text: str) -> None:
        try:
            stream.write(text)
            stream.flush()
        except UnicodeEncodeError:  # a terminal that is not UTF-8
            self._write(stream, text.encode("ascii", "backslashreplace").decode())
        except (OSError, ValueError):
            pass  # nobody looks any more
