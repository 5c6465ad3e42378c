"""How all sessions of a host are, seen from outside: running, silent, stopped, failed."""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from psync.control import ControlServer
from psync.effects.state import SessionDir
from psync.overview import ask, away, health, names, survey

STAMP = "2026-03-01T09:30:00+0100"
FACTS = {"name": "x", "left": "/l", "host": "h", "right": "/r", "started": STAMP, "version": "1"}


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def known(state: Path, name: str, **facts) -> SessionDir:
    """A session that has run once."""
    session = SessionDir(state, name)
    session.lock()
    session.describe({**FACTS, **facts})
    session.unlock()
    return session


@pytest.fixture
def running(state: Path) -> Iterator[SessionDir]:
    """A session that answers, in this process."""
    session = known(state, "runs")
    session.lock()
    loop = asyncio.new_event_loop()

    async def answer(verb, args):
        return {"name": "runs", "state": "watching", "verb": verb}

    server = ControlServer(session.path, answer)
    loop.run_until_complete(server.start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield session
    asyncio.run_coroutine_threadsafe(server.close(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
    session.unlock()


class TestAsk:
    def test_tells_what_runs_and_who_is_silent(self, state: Path, running: SessionDir):
        known(state, "ended")
        mute = known(state, "mute")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(mute.path / "control"))
            listener.listen()
            answers, silent = ask(state, None, 0.2)

        assert [(each["name"], each["state"]) for each in answers] == [
            ("mute", "unanswered"), ("runs", "watching"),
        ]  # fmt: skip
        (line,) = silent
        assert f"session mute did not answer in time (pid {os.getpid()})" in line

    def test_adds_how_the_last_check_went(self, state: Path, running: SessionDir):
        (running.path / "audit.json").write_text('{"exit": 0}')

        (answer,), _ = ask(state, "runs", 5.0)

        assert answer["audit"] == {"exit": 0}

    def test_finds_nothing_where_nothing_is(self, state: Path):
        assert ask(state, None, 1.0) == ([], [])
        assert ask(state, "none", 1.0) == ([], [])


class TestSurvey:
    def test_tells_also_of_what_has_ended(self, state: Path, running: SessionDir):
        known(state, "done", ended="2026-03-01T09:40:00+0100", exit=0)
        known(state, "lost", ended="2026-03-01T09:40:00+0100", exit=4)

        told = {each["name"]: each for each in survey(state, None, 5.0)}

        assert {name: each["state"] for name, each in told.items()} == {
            "done": "stopped", "lost": "failed", "runs": "watching",
        }  # fmt: skip
        assert told["done"]["right"] == {"host": "h", "root": "/r"}
        assert told["done"]["left"] == {"host": "this host", "root": "/l"}
        assert told["done"]["state_since"] - told["done"]["started"] == 600

    def test_recognises_one_that_was_killed(self, state: Path):
        (known(state, "killed").path / "lock").write_text("2147483646\n")

        (told,) = survey(state, "killed", 1.0)

        assert told["state"] == "failed"

    @pytest.mark.parametrize(
        ("configured", "agreed", "missed"),
        [
            pytest.param((), True, True, id="no configuration"),
            pytest.param((), False, False, id="it never began"),
            pytest.param(("lost",), False, True, id="configured"),
            pytest.param(("other",), True, False, id="configured no more"),
        ],
    )
    def test_tells_whether_what_failed_is_missed(self, state: Path, configured, agreed, missed):
        session = known(state, "lost", exit=4)
        if agreed:
            session.mark_agreed()

        (told,) = survey(state, None, 1.0, configured)

        assert (told["state"], told["missed"]) == ("failed", missed)

    def test_takes_one_for_stopped_that_is_to_stay_away(self, state: Path):
        killed = known(state, "killed")
        (killed.path / "lock").write_text("2147483646\n")
        killed.mark_stopped(on_purpose=True)

        (told,) = survey(state, "killed", 1.0)

        assert told["state"] == "stopped"

    def test_takes_who_holds_the_lock_for_starting_and_does_not_touch_it(self, state: Path):
        session = known(state, "young")
        session.lock()

        (told,) = survey(state, "young", 1.0)

        assert (told["state"], told["pid"]) == ("starting", os.getpid())
        session.unlock()
        with open(session.path / "lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def test_takes_a_directory_without_anything_in_it(self, state: Path):
        (state / "sessions" / "bare").mkdir(parents=True)

        (told,) = survey(state, None, 1.0)

        assert told["state"] == "stopped"

    def test_is_not_held_up_by_one_that_is_silent(self, state: Path, running: SessionDir):
        mute = known(state, "mute")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(mute.path / "control"))
            listener.listen()
            began = time.monotonic()
            told = survey(state, None, 0.3)

        assert time.monotonic() - began < 5
        assert [(each["name"], each["state"]) for each in told] == [
            ("mute", "unanswered"), ("runs", "watching"),
        ]  # fmt: skip


class TestHealth:
    @pytest.mark.parametrize(
        ("told", "well", "line"),
        [
            ([], False, "no session is running"),
            ([{"state": "watching"}], True, "s: watching"),
            ([{"state": "scanning"}], True, "s: scanning"),
            ([{"state": "paused"}], True, "s: paused"),
            ([{"state": "watching", "problems": 3}], True, "s: watching"),
            ([{"state": "watching", "trouble": "full"}], False, "s: watching: full"),
            ([{"state": "halted", "halted": "left is empty"}], False, "s: halted: left is empty"),
            (
                [{"state": "disconnected", "right": {"trouble": "no route"}}],
                False,
                "s: disconnected: no route",
            ),
            ([{"state": "stopped"}], False, "s: stopped"),
            ([{"state": "stopped"}, {"state": "watching"}], True, "s: stopped"),
            ([{"state": "failed"}, {"state": "watching"}], False, "s: failed"),
            ([{"state": "failed", "missed": True}, {"state": "watching"}], False, "s: failed"),
            ([{"state": "failed", "missed": False}, {"state": "watching"}], True, "s: failed"),
            ([{"state": "failed", "missed": False}], False, "no session is running"),
            ([{"state": "unanswered", "missed": False}], False, "s: unanswered"),
            ([{"state": "unanswered"}, {"state": "watching"}], False, "s: unanswered"),
        ],
    )
    def test_is_that_something_runs_and_nothing_ails(self, told, well, line):
        answer = health([{"name": "s", **each} for each in told])

        assert answer[0] is well
        assert line in answer[1]


WAITS = {"connected": False, "trouble": "it waits for the other", "waits": True}
REFUSED = {"connected": False, "trouble": "refused", "waits": False}


class TestAway:
    @pytest.mark.parametrize(
        ("left", "right", "found"),
        [
            pytest.param(WAITS, REFUSED, ["right", "left"], id="the cause comes first"),
            pytest.param(REFUSED, WAITS, ["left", "right"], id="or stays there"),
            pytest.param(WAITS, {"connected": False, "trouble": ""}, ["left"], id="not known yet"),
            pytest.param({"connected": True, "trouble": ""}, REFUSED, ["right"], id="one side"),
        ],
    )
    def test_is_told_with_its_cause_first(self, left, right, found):
        assert [side for side, _ in away({"left": left, "right": right})] == found


class TestNames:
    def test_are_those_that_have_run_and_those_that_are_configured(
        self, state: Path, tmp_path: Path
    ):
        known(state, "ran")
        config = tmp_path / "psync.toml"
        config.write_text(
            '[session.home]\nleft = "/l"\n  [ session . "files" ]  # the other\n# [session.not]\n'
        )

        assert names(state, config) == ["files", "home", "ran"]

    def test_are_none_where_nothing_can_be_read(self, state: Path, tmp_path: Path):
        assert names(state, tmp_path / "nowhere") == []
        assert names(state, None) == []
