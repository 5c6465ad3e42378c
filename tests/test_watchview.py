"""The live view of all sessions: what is on the screen, and what the terminal is left as."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from fcntl import ioctl
from pathlib import Path

import pytest

from psync.effects.state import SessionDir
from psync.watchview import fit, render

NOW = 1_772_353_800.0
HERE = Path(__file__).parents[1]


def told(name: str = "home", **more) -> dict:
    side = {
        "host": "this host", "root": "/srv/x", "connected": True, "entries": 1234, "applied": 5,
        "changes_per_s": 0, "bytes_per_s": 0, "trouble": "",
    }  # fmt: skip
    return {
        "name": name, "state": "watching", "state_since": NOW - 100, "lag_s": 0.0, "pending": 0,
        "in_flight": 0, "problems": 0, "conflicts": 0, "halted": "", "trouble": "",
        "left": side, "right": {**side, "host": "backup"}, "changes": [], "problem_list": [],
        "conflict_list": [],
    } | more  # fmt: skip


def screen(*sessions: dict, width: int = 80, height: int = 24, offset: int = 0) -> list[str]:
    rows, _ = render(list(sessions), width, height, NOW, offset)
    assert len(rows) <= height
    return [text for text, _ in rows]


class TestFit:
    @pytest.mark.parametrize(
        ("text", "width", "shown"),
        [
            ("short", 5, "short"),
            ("longer", 5, "long…"),
            ("日本語", 6, "日本語"),
            ("日本語", 5, "日本…"),
            ("日本語", 4, "日…"),
            ("e\u0301e\u0301e\u0301", 3, "e\u0301e\u0301e\u0301"),
            ("a\x1b[2Jb\nc", 20, "a\\x1b[2Jb\\nc"),
            ("\udcff", 9, "\\xff"),
            ("x", 0, ""),
            ("日", 1, "…"),
        ],
    )
    def test_cuts_to_columns_and_makes_harmless(self, text, width, shown):
        assert fit(text, width) == shown


class TestScreen:
    def test_shows_all_of_a_session_in_80_columns(self):
        left = {
            "host": "this host", "root": "/srv/x", "connected": True, "entries": 1234,
            "changes_per_s": 123.0, "bytes_per_s": 315_000,
        }  # fmt: skip
        rows = screen(told(lag_s=3.25, pending=17, in_flight=4, problems=2, conflicts=1, left=left))

        assert rows[3].split() == [
            "home", "watching", "3.2s", "17/4", "-", "123/s", "315", "kB/s", "2", "1",
        ]  # fmt: skip
        assert "this host /srv/x" in rows[4]
        assert "backup /srv/x" in rows[5]
        assert all(len(row) <= 80 for row in rows)

    def test_shows_problems_conflicts_and_changes_the_newest_first(self):
        change = {"time": NOW - 5, "side": "right", "path": "docs/a", "what": "created"}
        later = {"time": NOW - 1, "side": "left", "path": "b", "what": "removed"}
        rows = screen(
            told("one", changes=[change], conflict_list=["f"]),
            told(
                "two", changes=[later],
                problem_list=[{"side": "left", "path": "p", "message": "disk full"}],
            ),
        )  # fmt: skip

        text = "\n".join(rows)
        assert "one: f: a conflict waits" in text
        assert "two: left p: disk full" in text
        changes = rows[rows.index("LAST CHANGES") + 1 :]
        assert changes[0].split()[1:] == ["two", "left", "<-", "removed", "b"]
        assert changes[1].split()[1:] == ["one", "->", "right", "created", "docs/a"]

    def test_says_what_ails_before_what_is_wrong_at_paths(self):
        away = {"host": "h", "root": "/r", "connected": False, "trouble": "no route"}
        rows = screen(
            told("a", problem_list=[{"side": "left", "path": "p", "message": "m"}]),
            told("b", state="halted", halted="left is empty", right=away),
        )

        at = rows.index("PROBLEMS AND CONFLICTS")
        assert rows[at + 1 : at + 4] == [
            "b: halted: left is empty", "b: right is away: no route", "a: left p: m",
        ]  # fmt: skip

    @pytest.mark.parametrize("size", [(80, 24), (40, 10), (20, 3), (1, 1), (200, 60)])
    def test_fits_whatever_the_window_and_the_names(self, size):
        evil = "\x1b[2J\n日本" * 50
        rows = screen(
            *[
                told(
                    f"s{i}", conflict_list=[evil], halted=evil, trouble=evil,
                    left={"host": evil, "root": evil, "connected": False, "trouble": evil},
                    changes=[{"time": NOW, "side": "left", "path": evil, "what": "created"}],
                )
                for i in range(30)
            ],
            width=size[0], height=size[1],
        )  # fmt: skip

        assert all(fit(row, size[0]) == row and row.isprintable() for row in rows)

    def test_scrolls_no_further_than_there_is_something(self):
        sessions = [told(f"s{i}") for i in range(40)]

        rows, offset = render(sessions, 80, 10, NOW, 1000)

        assert offset == 41 - 8
        assert rows[-1][0].startswith("s39 ")

    def test_without_sessions_says_so(self):
        assert "no session is known here" in screen()

    def test_tells_how_the_last_check_went(self):
        audit = {"time": "2026-03-01T09:30:00+0100", "exit": 2, "counts": {"missing": 3, "x": 0}}

        assert "    last check 2026-03-01T09:30:00+0100: ALERT, 3 missing" in screen(
            told(audit=audit)
        )


class Terminal:
    """`psync status --watch` in a pseudo-terminal."""

    def __init__(self, state: Path, rows: int = 24, columns: int = 80, **env: str) -> None:
        self.primary, self.secondary = pty.openpty()
        self.resize(rows, columns)
        self.before = termios.tcgetattr(self.secondary)
        self.shown = b""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "psync", "status", "--watch", "--state-dir", str(state)],
            stdin=self.secondary, stdout=self.secondary, stderr=self.secondary,
            start_new_session=True,
            env=os.environ | {"PYTHONPATH": str(HERE), "NO_COLOR": "1", "TERM": "xterm"} | env,
        )  # fmt: skip

    def resize(self, rows: int, columns: int) -> None:
        ioctl(self.primary, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def until(self, what: bytes) -> None:
        deadline = time.monotonic() + 30
        while what not in self.shown:
            ready, _, _ = select.select([self.primary], [], [], deadline - time.monotonic())
            assert ready, self.shown
            self.shown += os.read(self.primary, 65536)

    def is_as_before(self) -> bool:
        self.until(b"\x1b[?7h\x1b[?25h\x1b[?1049l")
        self.process.wait(30)
        return termios.tcgetattr(self.secondary) == self.before


@pytest.fixture
def terminal(tmp_path: Path, request: pytest.FixtureRequest):
    session = SessionDir(tmp_path / "state", "home")
    session.lock()
    session.describe({"left": "/l", "right": "/r"})
    session.unlock()
    made = Terminal(tmp_path / "state", **getattr(request, "param", {}))
    yield made
    made.process.kill()
    made.process.wait()
    os.close(made.primary)
    os.close(made.secondary)


class TestTerminal:
    def test_is_left_as_it_was_by_q(self, terminal: Terminal):
        terminal.until(b"stopped")
        os.write(terminal.primary, b"q")

        assert terminal.is_as_before()
        assert terminal.process.wait(30) == 0

    @pytest.mark.parametrize(
        ("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
    )
    def test_is_left_as_it_was_by_a_signal(self, terminal: Terminal, number: int, code: int):
        terminal.until(b"stopped")
        terminal.process.send_signal(number)

        assert terminal.is_as_before()
        assert terminal.process.wait(30) == code

    def test_is_drawn_anew_when_its_size_changes(self, terminal: Terminal):
        terminal.until(b"TO LEFT")
        assert b"SINCE" not in terminal.shown
        terminal.resize(24, 100)
        terminal.process.send_signal(signal.SIGWINCH)

        terminal.until(b"SINCE")


class TestElsewhere:
    @pytest.mark.parametrize("terminal", [{"TERM": "dumb"}, {"TERM": ""}], indirect=True)
    def test_a_terminal_that_knows_no_escapes_gets_none(self, terminal: Terminal):
        terminal.until(b" home: stopped, ")
        terminal.until(b"\n")
        terminal.process.send_signal(signal.SIGINT)

        assert terminal.process.wait(30) == 0
        assert b"\x1b" not in terminal.shown

    def test_is_a_line_for_each_session_and_second(self, terminal: Terminal, tmp_path: Path):
        def is_line(line: str) -> bool:
            return " home: stopped, " in line

        def is_json(line: str) -> bool:
            return bool(json.loads(line)["sessions"][0]["state"] == "stopped")

        state = {"PYTHONPATH": str(HERE), "PSYNC_STATE_DIR": str(tmp_path / "state")}
        for extra, check in (([], is_line), (["--json"], is_json)):
            process = subprocess.Popen(
                [sys.executable, "-m", "psync", "status", "--watch", *extra],
                env=os.environ | state, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
            assert process.stdout is not None
            for _ in range(2):
                assert check(process.stdout.readline())
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0
            process.stdout.close()
