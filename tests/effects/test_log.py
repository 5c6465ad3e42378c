"""The log and the console: one event is one line, whatever is in it and wherever it goes."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import shutil
from pathlib import Path

import pytest

from psync.core.entry import Side
from psync.effects.console import Console, duration, harmless, quantity
from psync.effects.log import Bridge, WatchedFile, make_logger
from psync.errors import UsageError


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "logs" / "psync.log"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def file(path: Path, clock: Clock):
    watched = WatchedFile(path, clock)
    yield watched
    watched.close()


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


class TestText:
    def test_has_the_shape_of_the_original(self, file, path):
        log = make_logger(file, session="home")

        log.info("transition.applied", side=Side.LEFT, path=b"a/b", size=5)
        log.warning("link.lost", side=Side.RIGHT)
        log.error("session.failed", message="no such host")

        first, second, third = lines(path)
        stamp = r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}\] "
        assert re.fullmatch(
            stamp + r"\[INF:\+0\] \[L\] \[home\] transition\.applied path=a/b size=5", first
        )
        assert re.fullmatch(stamp + r"\[WAR:\+1\] \[R\] \[home\] link\.lost", second)
        assert re.fullmatch(
            stamp + r'\[ERR:\+2\] \[B\] \[home\] session\.failed message="no such host"', third
        )

    @pytest.mark.parametrize("style", ["text", "json"])
    @pytest.mark.parametrize(
        "name",
        [b"a\nb", b"\x1b[2J", b"\xff\xfe", "\u202e".encode(), "x\ny", "\udc80", "\r", "\u2028"],
    )
    def test_is_one_harmless_line_whatever_the_name(self, file, path, style, name):
        log = make_logger(file, session="home", style=style)

        log.info("transition.applied", path=name, inner=[name, {"k": name}], error=OSError(1, name))

        raw = path.read_bytes()
        assert raw.count(b"\n") == 1
        assert raw.decode()[:-1].isprintable()

    def test_shows_where_a_value_ends(self, file, path):
        log = make_logger(file, session="home")

        log.info("x.y", a="two words", b="", c='"', d="k=v", e="plain")

        assert lines(path)[0].endswith('x.y a="two words" b="" c="\\"" d="k=v" e=plain')

    def test_gives_each_line_of_a_traceback_a_line_of_the_log(self, file, path):
        log = make_logger(file, session="home")
        try:
            raise RuntimeError("first\nsecond")
        except RuntimeError:
            log.exception("brain.failed")

        assert "brain.failed" in lines(path)[0]
        assert all(re.match(r"\[.*\] \[ERR:\+2\] \[B\] \[home\] ", line) for line in lines(path))
        assert lines(path)[-1].endswith("  second")

    def test_leaves_out_what_is_below_the_level(self, file, path):
        log = make_logger(file, session="home", level="warning")

        log.info("a.b")
        log.log(logging.DEBUG, "a.c")
        log.log(logging.ERROR, "a.d")

        assert len(lines(path)) == 1
        assert "[ERR:+2]" in lines(path)[0]


class TestJson:
    def test_is_an_object_a_line(self, file, path):
        log = make_logger(file, session="home", style="json", level="debug")

        log.debug("a.b", side=Side.RIGHT, path=b"x\n", size=5, done=True, part=0.5, none=None)

        record = json.loads(lines(path)[0])
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", record.pop("time"))
        assert record == {
            "event": "a.b", "level": "debug", "session": "home", "side": "right",
            "path": "x\\n", "size": 5, "done": True, "part": 0.5, "none": None,
        }  # fmt: skip

    def test_holds_the_traceback(self, file, path):
        log = make_logger(file, session="home", style="json")

        log.error("brain.failed", exc_info=RuntimeError("why"))

        assert "RuntimeError: why" in json.loads(lines(path)[0])["exception"]


class TestRotation:
    def test_is_followed_within_a_second(self, file, path, clock):
        log = make_logger(file, session="home")
        log.info("a.one")
        path.rename(path.with_suffix(".1"))
        log.info("a.two")
        clock.now += 1
        log.info("a.three")

        assert ["a.one" in line or "a.two" in line for line in lines(path.with_suffix(".1"))] == [
            True,
            True,
        ]
        assert len(lines(path)) == 1
        assert path.stat().st_mode & 0o077 == 0

    def test_is_followed_when_a_new_file_is_there_already(self, file, path, clock):
        log = make_logger(file, session="home")
        log.info("a.one")
        path.rename(path.with_suffix(".1"))
        path.write_text("")
        clock.now += 1
        log.info("a.two")

        assert "a.two" in lines(path)[0]

    def test_is_followed_at_once_when_told(self, file, path):
        log = make_logger(file, session="home")
        log.info("a.one")
        path.rename(path.with_suffix(".1"))
        file.reopen()
        log.info("a.two")

        assert "a.two" in lines(path)[0]

    def test_by_truncation_leaves_no_hole(self, file, path):
        log = make_logger(file, session="home")
        log.info("a.one")
        os.truncate(path, 0)
        log.info("a.two")

        assert path.read_bytes().startswith(b"[")


class TestUnwritableLog:
    def test_that_nobody_reads_is_refused(self, tmp_path):
        """A fifo: to open it would wait for ever."""
        os.mkfifo(tmp_path / "fifo")

        with pytest.raises(UsageError, match="cannot write the log"):
            WatchedFile(tmp_path / "fifo")

    def test_is_refused_at_the_start(self, tmp_path):
        (tmp_path / "file").write_text("")

        with pytest.raises(UsageError, match="cannot write the log"):
            WatchedFile(tmp_path / "file" / "psync.log")

    def test_stops_nobody_later_and_counts_what_is_lost(self, file, path, clock):
        log = make_logger(file, session="home")
        log.info("a.one")
        path.rename(path.parent.parent / "old")
        path.parent.rmdir()
        path.parent.write_text("a file where the directory was")
        clock.now += 1
        log.info("a.two")
        log.info("a.three")
        path.parent.unlink()
        path.parent.mkdir()
        log.info("a.four")

        assert lines(path)[0] == "psync: 2 lines of the log were lost: it could not be written"
        assert "a.four" in lines(path)[1]

    @pytest.mark.parametrize("gone", ["removed", "renamed"])
    def test_gets_its_directory_back(self, file, path, clock, gone):
        log = make_logger(file, session="home")
        log.info("a.one")
        path.parent.rename(path.parent.with_name("old"))
        if gone == "removed":
            shutil.rmtree(path.parent.with_name("old"))
        clock.now += 1
        log.info("a.two")

        assert "a.two" in lines(path)[0]

    def test_is_told_of_once_where_it_is_seen(self, path, clock):
        told: list[str] = []
        path.parent.mkdir()
        file = WatchedFile(path, clock, makes_directory=False, warn=told.append)
        log = make_logger(file, session="home")
        path.parent.rename(path.parent.with_name("old"))
        clock.now += 1
        log.info("a.one")
        log.info("a.two")
        path.parent.with_name("old").rename(path.parent)
        log.info("a.three")
        file.close()

        assert told == [
            f"cannot write the log {path}: No such file or directory; lines of it are lost until "
            "it can be written, all else goes on"
        ]
        assert "a.three" in lines(path)[-1]


class TestBridge:
    @pytest.fixture(autouse=True)
    def restore(self):
        root = logging.getLogger()
        before = root.handlers[:], root.level
        yield
        root.handlers[:], level = before
        root.setLevel(level)

    def test_brings_warnings_of_libraries(self, file, path):
        Bridge(make_logger(file, session="home")).install()

        logging.getLogger("asyncssh").info("connected")
        logging.getLogger("asyncssh").warning("bad %s\n", "key")
        logging.getLogger("asyncio").error("never retrieved", exc_info=ValueError("x"))

        assert len([line for line in lines(path) if "library.said" in line]) == 2
        assert 'library=asyncssh text="bad key\\n"' in lines(path)[0].replace("\\\\n", "\\n")
        assert lines(path)[-1].endswith("ValueError: x")

    def test_survives_a_malformed_record(self, file, path):
        Bridge(make_logger(file, session="home")).install()

        logging.getLogger("other").warning("%d files", "many")

        assert "%d files" in lines(path)[0]


class TestConsole:
    @pytest.fixture
    def streams(self):
        return io.StringIO(), io.StringIO()

    def test_is_told_what_matters(self, file, streams):
        out, err = streams
        log = make_logger(file, session="home", level="debug", console=Console(*streams))

        log.info("transition.applied", path=b"x")
        log.debug("session.thought")
        log.info("session.watching", entries=3)
        log.info("conflict.kept", message="both sides changed a\nb")
        log.warning("link.lost", side=1)

        assert out.getvalue().splitlines() == [
            "psync: home: session.watching entries=3",
            r"psync: home: both sides changed a\nb",
        ]
        assert err.getvalue().splitlines() == ["psync: home: link.lost"]

    def test_prints_now_and_then_where_there_is_no_terminal(self, streams, clock):
        console = Console(*streams, clock=clock)
        for _ in range(61):
            console.progress(10, 1000)
            clock.now += 1
        console.finish()

        assert len(streams[0].getvalue().splitlines()) == 2
        assert streams[1].getvalue() == ""

    def test_draws_one_line_on_a_terminal(self, streams, clock):
        out, err = streams
        err.isatty = lambda: True
        console = Console(out, err, clock=clock)

        console.progress(0, 0, 2000, 10_000_000)
        console.progress(1, 1, 2000, 10_000_000)  # too soon to be seen
        clock.now += 10
        console.progress(1000, 5_000_000, 2000, 10_000_000)
        console.say("hello")
        console.finish()

        shown = "synchronizing: 1,000 of 2,000 files, 5.0 MB of 10.0 MB, 500 kB/s, 0:10 left"
        assert err.getvalue() == (
            "\rsynchronizing: 0 of 2,000 files, 0 B of 10.0 MB, 0 B/s\x1b[K"
            f"\r{shown[:79]}\x1b[K" + f"\r\x1b[K{shown[:79]}" + "\r\x1b[K"
        )
        assert out.getvalue() == "hello\n"

    def test_shows_other_words_on_a_terminal_only(self, streams, clock):
        out, err = streams
        console = Console(out, err, clock=clock)
        console.show("comparing: 1")
        assert err.getvalue() == ""
        err.isatty = lambda: True
        console = Console(out, err, clock=clock)

        console.show("comparing: 2")
        console.show("comparing: 3")  # too soon to be seen
        clock.now += 1
        console.show("comparing: 4")
        console.finish()

        assert err.getvalue() == "\rcomparing: 2\x1b[K\rcomparing: 4\x1b[K\r\x1b[K"
        assert out.getvalue() == ""

    def test_outlives_its_terminal(self):
        read, write = os.pipe()
        os.close(read)
        gone = os.fdopen(write, "w")
        closed = io.StringIO()
        closed.close()

        for console in (Console(gone, gone), Console(closed, closed)):
            console.say("x")
            console.warn("y")
            console.progress(1, 1)
            console.finish()
        with pytest.raises(BrokenPipeError):
            gone.close()

    def test_prints_what_its_terminal_cannot_show(self):
        raw = io.BytesIO()
        ascii_only = io.TextIOWrapper(raw, "ascii")

        Console(ascii_only, ascii_only).say("\u00e4")

        assert raw.getvalue() == b"\\xe4\n"

    def test_writes_numbers_for_people(self):
        assert [quantity(n) for n in (0, 999, 1000, 99_449, 100_000, 5 * 10**12, 10**18)] == [
            "0 B", "999 B", "1.0 kB", "99.4 kB", "100 kB", "5.0 TB", "1000000 TB",
        ]  # fmt: skip
        assert [duration(s) for s in (0, 59.6, 3661)] == ["0:00", "1:00", "1:01:01"]
        assert harmless("a\tb") == "a\\tb"
