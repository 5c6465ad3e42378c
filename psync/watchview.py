"""Show in the terminal how every session is, live: `psync status --watch`.

A table of all sessions, then what is wrong at which path, then what was replicated last, as far
as the window goes; drawn anew every second, and at once when the window changes or a key
is pressed. Where stdout is no terminal, or one that knows no escape sequences (TERM=dumb, or none),
it is a plain line for each session and second.

**Invariants.** A row is a row: nothing wraps, and no name, however evil, moves the cursor. However
it ends (q, Ctrl-C, SIGTERM, an error) the terminal is as it was before. It asks the sessions
only what `psync status` asks, and is never in their way.

It keeps nothing and knows no colours beyond the terminal's own eight; with NO_COLOR none.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import sys
import termios
import time
import tty
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from psync.effects.console import duration, harmless, quantity
from psync.overview import AILING, ENDED, audit_in_words, survey

__all__ = ["fit", "render", "watch"]

_EVERY_S = 1.0
_WITHIN_S = 2.0  # longer than a session that is well ever takes
_HEAD = ("SESSION", "STATE", "SINCE", "LAG", "QUEUE", "TO RIGHT", "TO LEFT", "PROB", "CONF")
_WIDTHS = (0, 12, 7, 7, 7, 14, 14, 4, 4)  # 0: what is left
_NAME_MIN = 10
_NARROW = (6, 5, 2)  # left out, the last first, where there is no room for all
_BOLD, _DIM, _RED, _GREEN, _YELLOW = "1", "2", "31", "32", "33"

_ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l"
_LEAVE = "\x1b[?7h\x1b[?25h\x1b[?1049l"

Row = tuple[str, str]  # text, and how it looks: SGR parameters, or nothing


# --- what is shown ------------------------------------------------------------------------


def fit(text: str, width: int) -> str:
    """Cut a text to so many columns, and make it harmless; an ellipsis tells that it was cut."""
    text = harmless(text)
    if text.isascii():
        return text if len(text) <= width else text[: max(width - 1, 0)] + "…"[:width]
    used, end = 0, 0
    for at, character in enumerate(text):
        used += _columns(character)
        if used <= width - 1:
            end = at + 1
        if used > width:
            return text[:end] + "…"[:width]
    return text


def _columns(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _padded(text: str, width: int) -> str:
    text = fit(text, width)
    return text + " " * (width - sum(map(_columns, text)))


def _age(since: float | None, now: float) -> str:
    """Tell a time span in a few characters: `42s`, `3h05m`, `12d`."""
    if not since:
        return "-"
    seconds = max(0, int(now - since))
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60:02}s"
    if seconds < 86_400:
        return f"{seconds // 3600}h{seconds % 3600 // 60:02}m"
    return f"{seconds // 86_400}d"


def _lag(seconds: float | None) -> str:
    if not seconds:
        return "-"
    return f"{seconds:.1f}s" if seconds < 60 else duration(seconds)


def _rate(side: dict[str, Any]) -> str:
    changes, size = side.get("changes_per_s") or 0, side.get("bytes_per_s") or 0
    if not changes and not size:
        return "-"
    return f"{changes:.{0 if changes >= 10 else 1}f}/s {quantity(size)}/s"


def _cells(told: dict[str, Any], now: float) -> list[str]:
    pending, flying = told.get("pending") or 0, told.get("in_flight") or 0
    return [
        str(told.get("name")),
        str(told.get("state")),
        _age(told.get("state_since"), now),
        _lag(told.get("lag_s")),
        f"{pending:,}" + (f"/{flying:,}" if flying else ""),
        _rate(told.get("right") or {}),
        _rate(told.get("left") or {}),
        f"{told.get('problems') or 0:,}",
        f"{told.get('conflicts') or 0:,}",
    ]


def _look(told: dict[str, Any]) -> str:
    state = told.get("state")
    if state in AILING or told.get("trouble"):
        return _RED
    if state in ENDED:
        return _DIM
    if state != "watching" or told.get("problems") or told.get("conflicts"):
        return _YELLOW
    return _GREEN


def _table(all_told: list[dict[str, Any]], width: int, now: float) -> list[Row]:
    shown = list(range(len(_HEAD)))
    for left_out in reversed(_NARROW):
        if sum(_WIDTHS[i] + 1 for i in shown) + _NAME_MIN <= width:
            break
        shown.remove(left_out)
    rest = min(40, max(_NAME_MIN, width - sum(_WIDTHS[i] + 1 for i in shown if i)))
    widths = [_WIDTHS[i] or rest for i in shown]

    def row(cells: list[str]) -> str:
        told = [_padded(cells[i], w) for i, w in zip(shown, widths, strict=True)]
        return " ".join(told).rstrip()

    rows: list[Row] = [(row(list(_HEAD)), _BOLD)]
    return rows + [(row(_cells(told, now)), _look(told)) for told in all_told]


def _places(told: dict[str, Any], now: float) -> list[Row]:
    """Where a session's sides are, and when they were compared last."""
    rows = []
    for name in ("left", "right"):
        side = told.get(name) or {}
        text = f"    {name:<5} {side.get('host')} {side.get('root')}"
        if "entries" in side:
            text += f"  {side['entries']:,} entries, {side.get('applied') or 0:,} changes made"
        rows.append((text, _DIM))
    if audit := told.get("audit"):
        rows.append((f"    last check {audit_in_words(audit)}", _DIM))
    return rows


def _wrongs(all_told: list[dict[str, Any]]) -> list[Row]:
    """What a person should know of: what ails sessions first, then paths."""
    ills: list[Row] = []
    paths: list[Row] = []
    for told in all_told:
        name = told.get("name")
        for key in ("halted", "trouble", "misconfigured"):
            if told.get(key):
                ills.append((f"{name}: {key}: {told[key]}", _RED))
        for side in ("left", "right"):
            place = told.get(side) or {}
            if place.get("connected") is False and told.get("state") not in ENDED:
                why = place.get("trouble") or "not connected yet"
                ills.append((f"{name}: {side} is away: {why}", _RED))
        for each in told.get("problem_list") or ():
            place = f"{each.get('side')} {each.get('path')}"
            paths.append((f"{name}: {place}: {each.get('message')}", _YELLOW))
        for path in told.get("conflict_list") or ():
            what = "a conflict waits: psync conflicts --take left|right PATH"
            paths.append((f"{name}: {path}: {what}", _YELLOW))
    return ills + paths


def _changes(all_told: list[dict[str, Any]]) -> list[Row]:
    """What was applied last in all sessions, the newest first."""
    several = len(all_told) > 1
    found = [
        (each.get("time") or 0.0, str(told.get("name")), each)
        for told in all_told
        for each in told.get("changes") or ()
    ]
    found.sort(key=lambda each: -each[0])
    rows = []
    for clock, name, each in found:
        when = time.strftime("%H:%M:%S", time.localtime(clock))
        arrow = "left <-" if each.get("side") == "left" else "-> right"
        session = f"{fit(name, 16):<16}  " if several else ""
        what = f"{each.get('what'):<9}"
        rows.append((f"{when}  {session}{arrow:<8}  {what}  {each.get('path')}", ""))
    return rows


def render(
    all_told: list[dict[str, Any]], width: int, height: int, now: float, offset: int = 0
) -> tuple[list[Row], int]:
    """Lay out a screen.

    Args:
        all_told: of each session, what `overview.survey` tells.
        width: columns.
        height: rows.
        now: the time of day, in s since 1970.
        offset: of what does not fit, how many rows to scroll past.

    Returns:
        At most `height` rows of at most `width` columns each; and how many are scrolled past.
    """
    clock = time.strftime("%H:%M:%S", time.localtime(now))
    count = f"{len(all_told)} session{'s' * (len(all_told) != 1)}"
    title = f"psync on {socket.gethostname()}: {count}"
    keys = f"{clock}   q ends"
    gap = max(1, width - len(title) - len(keys))
    body: list[Row] = []
    if all_told:
        table = _table(all_told, width, now)
        body.append(table[0])
        roomy = height >= 5 * len(all_told) + 10
        for told, row in zip(all_told, table[1:], strict=True):
            body += [row, *(_places(told, now) if roomy else [])]
    else:
        body.append(("no session is known here", _DIM))
    for heading, rows in (
        ("PROBLEMS AND CONFLICTS", _wrongs(all_told)),
        ("LAST CHANGES", _changes(all_told)),
    ):
        if rows:
            body += [("", ""), (heading, _BOLD), *rows]
    room = max(0, height - 2)
    offset = max(0, min(offset, len(body) - room))
    body = body[offset : offset + room]
    rows = [(title + " " * gap + keys, _BOLD), ("", ""), *body]
    return [(fit(text, width), look) for text, look in rows[: max(0, height)]], offset


# --- the terminal -------------------------------------------------------------------------


class _Screen:
    """A terminal in our hands: drawn on, and listened to."""

    def __init__(self) -> None:
        self._out = sys.stdout.fileno()
        self._in = sys.stdin.fileno() if sys.stdin.isatty() else -1
        self._coloured = not os.environ.get("NO_COLOR")
        self._wake, self._woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """Take the terminal, and give it back as it was, whatever happens."""
        before = termios.tcgetattr(self._in) if self._in >= 0 else None
        signals = {
            signal.SIGWINCH: lambda *_: None,  # it comes over the pipe
            signal.SIGTERM: _end,
            signal.SIGHUP: _end,
        }
        former = {number: signal.signal(number, act) for number, act in signals.items()}
        former_pipe = signal.set_wakeup_fd(self._woken, warn_on_full_buffer=False)
        try:
            if before is not None:
                tty.setcbreak(self._in, termios.TCSANOW)
                mode = termios.tcgetattr(self._in)
                mode[6][termios.VSUSP] = b"\0"  # stopped, it would leave the terminal to the shell
                termios.tcsetattr(self._in, termios.TCSANOW, mode)
            self._write(_ENTER)
            yield
        finally:
            signal.set_wakeup_fd(former_pipe)
            with contextlib.suppress(OSError):
                self._write(_LEAVE)
            if before is not None:
                with contextlib.suppress(termios.error):
                    termios.tcsetattr(self._in, termios.TCSANOW, before)
            for number, act in former.items():
                signal.signal(number, act)
            os.close(self._wake)
            os.close(self._woken)

    def size(self) -> tuple[int, int]:
        """Columns and rows."""
        try:
            columns, rows = os.get_terminal_size(self._out)
        except OSError:
            columns, rows = 0, 0
        return columns or 80, rows or 24  # a serial line knows neither

    def draw(self, rows: list[Row], height: int) -> None:
        """Draw over what is there, without a flicker."""
        lines = [
            f"\x1b[{look}m{text}\x1b[0m" if look and self._coloured else text for text, look in rows
        ]
        # To erase behind a full row would take its last character.
        rest = "\r\n\x1b[J" if len(lines) < height else ""
        self._write("\x1b[H" + "\r\n".join(f"\x1b[2K{line}" for line in lines) + rest)

    def wait(self, seconds: float) -> bytes:
        """Return what was typed, at once; nothing when the time is over or the window changed."""
        heard = [self._wake] + ([self._in] if self._in >= 0 else [])
        ready, _, _ = select.select(heard, [], [], max(0.0, seconds))
        if self._wake in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake, 4096)
        if self._in in ready:
            typed = os.read(self._in, 64)
            return typed or b"q"  # nobody is there any more
        return b""

    def _write(self, text: str) -> None:
        encoding = sys.stdout.encoding or "utf-8"
        data = text.encode(encoding, "backslashreplace")
        while data:
            data = data[os.write(self._out, data) :]


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


_STEPS = {b"k": -1, b"\x1b[A": -1, b"j": 1, b"\x1b[B": 1, b"\x1b[5~": -10, b"\x1b[6~": 10, b" ": 10}


def watch(state: Path, name: str | None, *, as_json: bool = False) -> int:
    """Show the sessions until told to end; return the exit code.

    Args:
        state: the state directory.
        name: only this session; None: all.
        as_json: a line of JSON each second instead, as of `psync status --json`.

    Raises:
        PsyncError: as of `overview.survey`.
    """
    told = survey(state, name, _WITHIN_S)
    can_draw = sys.stdout.isatty() and os.environ.get("TERM") not in (None, "", "dumb")
    if as_json or not can_draw:
        try:
            _repeat(state, name, told, as_json=as_json)
        except KeyboardInterrupt:
            return 0
    screen = _Screen()
    offset = 0
    with contextlib.suppress(KeyboardInterrupt), screen.taken():
        due = time.monotonic() + _EVERY_S
        while True:
            width, height = screen.size()
            rows, offset = render(told, width, height, time.time(), offset)
            screen.draw(rows, height)
            typed = screen.wait(due - time.monotonic())
            if typed in (b"q", b"Q", b"\x04"):
                break
            offset += _STEPS.get(typed, 0)
            if time.monotonic() >= due:
                told = survey(state, name, _WITHIN_S)
                due = time.monotonic() + _EVERY_S
    return 0


def _repeat(
    state: Path, name: str | None, told: list[dict[str, Any]], *, as_json: bool
) -> NoReturn:
    """Print lines for ever."""
    while True:
        now = time.time()
        if as_json:
            print(json.dumps({"sessions": told}), flush=True)
        else:
            for each in told:
                print(harmless(_line(each, now)), flush=True)
        time.sleep(_EVERY_S)
        told = survey(state, name, _WITHIN_S)


def _line(told: dict[str, Any], now: float) -> str:
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now))
    name, *cells = _cells(told, now)
    labels = ("", "since ", "lag ", "queue ", "to right ", "to left ", "problems ", "conflicts ")
    parts = [label + cell for label, cell in zip(labels, cells, strict=True) if cell != "-"]
    return f"{when} {name}: {', '.join(parts)}"
