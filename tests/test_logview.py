"""Reading logs: both formats, every filter, and a file that is moved away while it is followed."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from psync import logview
from psync.effects.log import WatchedFile, make_logger
from psync.effects.state import SessionDir
from psync.errors import UsageError
from psync.logview import LEVELS, Filter, Record, Tail, parse, show, since

Capture = pytest.CaptureFixture[str]
HERE = Path(__file__).parents[1]
NOW = time.mktime((2026, 3, 1, 12, 0, 0, 0, 0, -1))
LINE = (
    "[2026-03-01 09:30:00.125] [WAR:+1] [L] [home] transition.applied "
    'path="docs/a \\"b\\".txt" what=created'
)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def session(state: Path, name: str, log: Path | None = None) -> Path:
    """A session that has run; return its log, which is not there yet."""
    known = SessionDir(state, name)
    known.lock()
    known.describe({"log": str(log)} if log else {})
    known.unlock()
    return log or known.log_file


def record(**more: Any) -> Record:
    made = parse(LINE)
    assert made is not None
    return made._replace(**more)


class TestParse:
    def test_reads_the_text_format(self):
        made = record()

        assert time.localtime(made.time)[:6] == (2026, 3, 1, 9, 30, 0)
        assert made.time % 1 == 0.125
        assert (made.level, made.side, made.session) == (2, "left", "home")
        assert made.event == "transition.applied"
        assert made.facts == {"path": 'docs/a "b".txt', "what": "created"}
        assert made.text == LINE

    @pytest.mark.parametrize(
        "line",
        [
            "", "psync: 3 lines of the log were lost: it could not be written", "{", "[]", "{}",
            '{"time": "x", "level": "info", "session": "s", "event": "e"}',
            "[2026-03-01 09:30:00.125] [ERR:+2] [B] [home]   File x, line 3",
            "[2026-99-01 09:30:00.125] [ERR:+2] [B] [home] e.v",
        ],
    )  # fmt: skip
    def test_knows_what_is_no_event(self, line):
        assert parse(line) is None

    @pytest.mark.parametrize("style", ["text", "json"])
    def test_reads_what_psync_writes(self, tmp_path: Path, style: str):
        path = tmp_path / "psync.log"
        file = WatchedFile(path)
        log = make_logger(file, session="home", style=style, level="debug")
        before = time.time()
        log.debug("a.first", path=b"e\x1b\n \xff", n=3)
        log.warning("b.second", side=1, message='say "no" = no')
        try:
            raise ValueError("what it was")
        except ValueError as error:
            log.critical("c.third", exc_info=error)
        file.close()

        first, second, third = Tail(path).records()

        assert before - 0.002 <= first.time <= time.time()
        assert (first.level, first.side, first.event) == (0, "", "a.first")
        assert first.facts["path"] == "e\\x1b\\n \\xff"
        assert (second.level, second.side) == (2, "right")
        assert second.facts["message"] == 'say "no" = no'
        assert third.level == LEVELS.index("critical")
        assert third.text.splitlines()[0].endswith("[B] [home] c.third")
        assert third.text.splitlines()[-1].strip() == "ValueError: what it was"
        assert json.loads(second.as_json()).items() >= {
            "event": "b.second", "side": "right", "level": "warning", "session": "home",
        }.items()  # fmt: skip

    def test_shows_both_formats_alike(self, tmp_path: Path):
        shown = []
        for style in ("text", "json"):
            path = tmp_path / style
            file = WatchedFile(path)
            make_logger(file, session="home", style=style).info("a.b", side=0, path=b"x y", n=3)
            file.close()
            shown += [each.text.partition("] ")[2] for each in Tail(path).records()]

        assert shown[0] == shown[1] == '[INF:+0] [L] [home] a.b path="x y" n=3'


class TestSince:
    @pytest.mark.parametrize(
        ("text", "ago"),
        [
            ("90s", 90), ("10m", 600), ("2h", 7200), ("3d", 259_200), ("11:59", 60),
            ("11:59:30", 30), ("2026-03-01 11:00", 3600), ("2026-03-01T11:00:01", 3599),
            ("2026-03-01", 43_200),
        ],
    )  # fmt: skip
    def test_is_an_age_or_a_time(self, text, ago):
        assert since(text, NOW) == NOW - ago

    @pytest.mark.parametrize("text", ["", "soon", "10", "-1h", "25:00", "2026-13-01", "1h 2m"])
    def test_is_refused_otherwise(self, text):
        with pytest.raises(UsageError, match="neither an age like 10m"):
            since(text, NOW)


class TestFilter:
    @pytest.mark.parametrize(
        ("wanted", "is_wanted"),
        [
            (Filter(), True),
            (Filter(since=record().time), True),
            (Filter(since=record().time + 0.001), False),
            (Filter(level=2), True),
            (Filter(level=3), False),
            (Filter(side="left"), True),
            (Filter(side="right"), False),
            (Filter(session="home"), True),
            (Filter(session="other"), False),
            (Filter(grep="APPLIED"), True),
            (Filter(grep="removed"), False),
            (Filter(path="docs/*"), True),
            (Filter(path="*.txt"), True),
            (Filter(path="a *"), True),
            (Filter(path="docs"), False),
            (Filter(path="*.TXT"), False),
        ],
    )
    def test_is_all_that_was_asked_for(self, wanted, is_wanted):
        assert wanted.wants(record()) is is_wanted

    @pytest.mark.parametrize(
        ("path", "is_wanted"), [("old", True), ("d/*", True), ("new", True), ("e/*", False)]
    )
    def test_by_path_is_also_of_what_was_renamed_from_there(self, path, is_wanted):
        renamed = record(facts={"path": "new", "moved_from": "d/old"})
        assert Filter(path=path).wants(renamed) is is_wanted

    def test_by_path_leaves_out_what_has_none(self):
        assert not Filter(path="*").wants(record(facts={}))


def line(number: int, name: str = "home", second: int = 0) -> str:
    return f"[2026-03-01 09:30:{second:02}.000] [INF:+0] [B] [{name}] e.v n={number}\n"


def numbers(tail: Tail) -> list[str]:
    return [each.facts["n"] for each in tail.records()]


class TestTail:
    def test_follows_what_is_written(self, tmp_path: Path):
        path = tmp_path / "log"
        tail = Tail(path)
        assert numbers(tail) == []
        with open(path, "a") as file:
            file.write(line(1) + line(2)[:20])
            file.flush()
            assert numbers(tail) == ["1"]
            file.write(line(2)[20:])
            file.flush()
            assert numbers(tail) == ["2"]
            assert numbers(tail) == []
        tail.close()

    @pytest.mark.parametrize("moved", [0, None])
    def test_follows_what_was_moved_away_just_before(self, tmp_path: Path, moved: int | None):
        path, old = tmp_path / "log", tmp_path / "log.1"
        (tmp_path / "log.2").write_text(line(1))
        old.write_text(line(2, second=2))
        tail = Tail(path, moved=moved)
        assert numbers(tail) == (["1", "2"] if moved is None else ["2"])
        with open(old, "a") as file:
            file.write(line(3, second=3))  # who writes has not noticed yet
        assert numbers(tail) == ["3"]
        path.write_text(line(4, second=4))
        assert numbers(tail) == ["4"]
        tail.close()

    def test_follows_when_the_file_is_moved_away(self, tmp_path: Path):
        path = tmp_path / "log"
        path.write_text(line(1))
        tail = Tail(path)
        assert numbers(tail) == ["1"]
        with open(path, "a") as old:
            path.rename(tmp_path / "log.1")
            assert numbers(tail) == []
            old.write(line(2))  # who writes has not noticed yet
            old.flush()
            assert numbers(tail) == ["2"]
            old.write(line(3))
        path.write_text(line(4))

        assert numbers(tail) == ["3", "4"]
        tail.close()

    def test_follows_when_the_file_is_cut_off(self, tmp_path: Path):
        path = tmp_path / "log"
        path.write_text(line(1) + line(2))
        tail = Tail(path)
        assert numbers(tail) == ["1", "2"]
        path.write_text(line(3))

        assert numbers(tail) == ["3"]
        tail.close()

    def test_is_not_bothered_by_what_is_no_log(self, tmp_path: Path):
        path = tmp_path / "log"
        path.write_bytes(b"\0\xff" * 2_000_000 + b"\n\n" + line(1).encode() + b"more\xff\n")

        (only,) = Tail(path).records()

        assert only.text.splitlines() == [line(1).rstrip(), "  more\udcff"]


class TestMovedAway:
    """What logrotate has made of the log before."""

    def rotate(self, path: Path, *names: str) -> None:
        """Lay out files with a line each, numbered, the oldest first; the last is the present."""
        for number, name in enumerate(names, 1):
            text = line(number, second=number).encode()
            packed = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}
            pack = packed.get(name.rpartition(".")[2], bytes)
            path.with_name(name).write_bytes(pack(text))

    @pytest.mark.parametrize(
        "names",
        [
            ("psync.log.11.gz", "psync.log.10.bz2", "psync.log.2.xz", "psync.log.1"),
            ("psync.log-20260301.gz", "psync.log-20260308", "psync.log-20260308-1772950000"),
            ("psync.log.2026-03-01.gz",),
            (),
        ],
    )
    def test_comes_first(self, state: Path, capsys: Capture, names):
        path = session(state, "home")
        self.rotate(path, *names, path.name)

        show(state, "home", Filter())

        told = [each.rpartition("=")[2] for each in capsys.readouterr().out.splitlines()]
        assert told == [str(number) for number in range(1, len(names) + 2)]

    def test_is_told_from_what_only_looks_like_it(self, state: Path, capsys: Capture):
        path = session(state, "home")
        others = ("psync.log-2", "psync.log.old", "psync.log.1.zip", "xpsync.log.1")
        self.rotate(path, *others, path.name)
        path.with_name("psync.log.2").write_text("no log\n")

        show(state, "home", Filter())

        assert capsys.readouterr().out == line(5, second=5)

    def test_is_read_once_while_it_is_being_compressed(self, state: Path, capsys: Capture):
        path = session(state, "home")
        self.rotate(path, "psync.log.1", path.name)
        path.with_name("psync.log.1.gz").write_bytes(gzip.compress(b"half of it")[:15])

        show(state, "home", Filter())

        assert capsys.readouterr() == (line(1, second=1) + line(2, second=2), "")

    def test_is_read_as_far_as_it_can_be(self, state: Path, capsys: Capture):
        path = session(state, "home")
        self.rotate(path, "psync.log.1", path.name)
        path.with_name("psync.log.2.gz").write_bytes(b"\x1f\x8bbroken")

        show(state, "home", Filter())

        told, complaint = capsys.readouterr()
        assert told == line(1, second=1) + line(2, second=2)
        assert complaint.startswith(f"psync: cannot read all of the log {path}.2.gz: ")

    @pytest.mark.parametrize(("second", "read"), [(0, 3), (2, 3), (3, 2), (4, 1), (9, 1)])
    def test_is_left_alone_where_nobody_asks_for_it(
        self, state: Path, monkeypatch: pytest.MonkeyPatch, second, read
    ):
        """Of what is older not more than its first event is read."""
        path = session(state, "home")
        self.rotate(path, "psync.log.3.gz", "psync.log.2.gz", "psync.log.1", path.name)
        whole = []
        lines_of = logview._lines_of
        monkeypatch.setattr(
            logview, "_lines_of",
            lambda path, *most: lines_of(path, *most) if most else whole.append(path) or iter(()),
        )  # fmt: skip
        at = record().time - 0.125 + second

        show(state, "home", Filter(since=at))

        assert len(whole) == read

    @pytest.mark.parametrize(("lines", "first"), [(1, 4), (2, 3), (3, 2), (9, 1)])
    def test_is_counted_among_the_last_lines(
        self, state: Path, capsys: Capture, lines: int, first: int
    ):
        path = session(state, "home")
        self.rotate(path, "psync.log.3.gz", "psync.log.2.gz", "psync.log.1", path.name)

        show(state, "home", Filter(), lines=lines)

        told = [each.rpartition("=")[2] for each in capsys.readouterr().out.splitlines()]
        assert told == [str(number) for number in range(first, 5)]

    def test_just_now_is_missed_by_nobody(self, state: Path):
        """The present file is held before the others are looked for."""
        path = session(state, "home")
        path.write_text(line(1))
        tail = Tail(path, moved=None)
        assert tail._open(path)
        path.rename(path.with_name("psync.log.1"))
        path.write_text(line(2))

        assert numbers(tail) == ["1", "2"]
        tail.close()

    def test_goes_into_no_memory(self, tmp_path: Path):
        path = tmp_path / "log"
        with gzip.open(tmp_path / "log.2.gz", "wb", 1) as packed:
            for _ in range(10):
                packed.write(line(1, second=1).encode() * 2000)
        tracemalloc.start()
        try:
            assert sum(1 for _ in Tail(path, moved=None).records()) == 20_000
            assert tracemalloc.get_traced_memory()[1] < 2_000_000
        finally:
            tracemalloc.stop()


class TestShow:
    def test_several_sessions_in_the_order_of_time(self, state: Path, capsys: Capture):
        session(state, "a").write_text(line(1, "a", 1) + line(4, "a", 9))
        session(state, "b").write_text(line(2, "b", 2) + line(3, "b", 5))
        session(state, "never")

        assert show(state, None, Filter()) == 0
        assert [each[-1] for each in capsys.readouterr().out.splitlines()] == ["1", "2", "3", "4"]

    def test_one_session_of_a_file_that_two_share(self, state: Path, capsys: Capture):
        shared = state.parent / "shared.log"
        for name in ("a", "b"):
            session(state, name, shared)
        shared.write_text(line(1, "a") + line(2, "b"))

        show(state, "b", Filter(session="b"))
        assert capsys.readouterr().out == line(2, "b")
        show(state, None, Filter())
        assert capsys.readouterr().out == line(1, "a") + line(2, "b")

    def test_the_last_lines_of_those_that_are_wanted(self, state: Path, capsys: Capture):
        session(state, "a").write_text("".join(line(n, "a") for n in range(30)))

        show(state, "a", Filter(grep="n=1"), lines=2)

        assert capsys.readouterr().out == line(18, "a") + line(19, "a")

    def test_none_of_what_is_there_if_that_is_wanted(self, state: Path, capsys: Capture):
        session(state, "a").write_text(line(1, "a"))

        show(state, "a", Filter(), lines=0)

        assert capsys.readouterr().out == ""

    @pytest.mark.parametrize(
        "steps",
        [((50, 0), (600, 0), (None, 0)), ((50, 0), (None, None)), ((10**6, 0), (None, None))],
    )
    def test_the_last_lines_without_reading_all_of_a_long_file(
        self, state: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, steps
    ):
        monkeypatch.setattr(logview, "_STEPS", steps)
        session(state, "a").write_text("".join(line(n, "a", n) for n in range(10, 50)))
        session(state, "b").write_text("more\n" + line(1, "b", 5) + line(2, "b", 48))

        show(state, None, Filter(), lines=6)

        told = capsys.readouterr().out.splitlines(keepends=True)
        assert told == [
            *[line(n, "a", n) for n in range(45, 49)], line(2, "b", 48), line(49, "a", 49),
        ]  # fmt: skip

    def test_the_last_lines_of_all_files_and_not_of_the_shortest(
        self, state: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(logview, "_STEPS", ((700, 0), (None, None)))
        session(state, "old").write_text("".join(line(n, "old", n) for n in range(6)))
        long = [line(n, "new", n).replace("n=", f"m={'x' * 500} n=") for n in range(30, 40)]
        session(state, "new").write_text("".join(long))

        show(state, None, Filter(), lines=6)

        assert capsys.readouterr().out == "".join(long[-6:])

    def test_nothing_that_could_move_a_cursor(self, state: Path, capsys: Capture):
        session(state, "a").write_text(
            line(1, "a").rstrip() + "\x1b[2J\udcff\n", "utf-8", "surrogateescape"
        )

        show(state, "a", Filter())

        assert "\x1b" not in capsys.readouterr().out

    def test_a_session_that_nobody_knows_is_refused(self, state: Path):
        session(state, "home")

        with pytest.raises(UsageError, match=r"no session 'hom' has run here \(there are: home\)"):
            show(state, "hom", Filter())


class TestBell:
    """Nothing here is ever waited for in full."""

    def test_wakes_up_who_waits_for_more(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(logview, "_ANYWAY_S", 600.0)
        bell = logview._Bell()
        places = {tmp_path, tmp_path / "not there yet"}
        bell.wait(places)  # something may have happened before it listened
        path = tmp_path / "log"

        path.write_text("made")
        bell.wait(places)
        with path.open("a") as file:
            file.write("more")
        bell.wait(places)
        path.rename(tmp_path / "log.1")
        (tmp_path / "not there yet").mkdir()
        bell.wait(places)
        bell.close()

    def test_does_without_inotify(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        def none_left():
            raise OSError(24, "Too many open files")

        monkeypatch.setattr("inotify_simple.INotify", none_left)
        monkeypatch.setattr(logview, "_EVERY_S", 0.0)

        bell = logview._Bell()
        bell.wait({tmp_path})
        bell.close()


class TestCommand:
    def test_follows_filters_and_ends(self, state: Path):
        path = session(state, "home")
        path.write_text("".join(line(n) for n in range(100)))
        with subprocess.Popen(
            [sys.executable, "-m", "psync", "log", "-f", "--grep", "n=", "--json"],
            env=os.environ | {"PYTHONPATH": str(HERE), "PSYNC_STATE_DIR": str(state)},
            stdout=subprocess.PIPE, text=True,
        ) as process:  # fmt: skip
            assert process.stdout is not None
            for number in range(90, 100):
                assert json.loads(process.stdout.readline())["n"] == str(number)
            for numbers in ((1, 3), (5, 7)):  # as logrotate does
                moved = path.with_name("psync.log.1")
                path.rename(moved)
                moved.with_name("psync.log.1.gz").write_bytes(gzip.compress(moved.read_bytes()))
                moved.unlink()
                first, last = numbers
                path.write_text(line(first) + line(2).replace("n=", "m=") + line(last))
                for number in numbers:
                    assert json.loads(process.stdout.readline())["n"] == str(number)
            newer = session(state, "newer")
            newer.write_text(line(7, "newer"))
            assert json.loads(process.stdout.readline())["session"] == "newer"
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0

    @pytest.mark.parametrize(
        ("args", "said"),
        [
            (["--since", "soon"], "neither an age like 10m"),
            (["--level", "loud"], "invalid choice: 'loud'"),
            (["-n", "-1"], "invalid number value: '-1'"),
            (["nobody"], "no session 'nobody' has run here (there are: none)"),
        ],
    )
    def test_refuses_in_one_line(self, state: Path, args, said):
        done = subprocess.run(
            [sys.executable, "-m", "psync", "log", *args],
            env=os.environ | {"PYTHONPATH": str(HERE), "PSYNC_STATE_DIR": str(state)},
            capture_output=True, text=True, check=False,
        )  # fmt: skip

        assert (done.returncode, done.stdout) == (2, "")
        assert said in done.stderr and done.stderr.count("\n") == 1
