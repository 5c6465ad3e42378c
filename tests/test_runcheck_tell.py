"""Whom `psync runcheck` tells of what it finds, and how often."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from psync import runcheck
from psync.alerts import Alerts
from psync.effects.state import SessionDir
from psync.runcheck import CRITICAL, OK, UNKNOWN, WARNING, Finding, Rules

WELL = Finding("home", OK, "watching")
DOWN = Finding("home", CRITICAL, "down")
HUNG = Finding("home", CRITICAL, "hangs", is_hung=True)
NO_AUDIT = Finding("home", WARNING, "no audit")
OWN = Finding("home", WARNING, "1 problem", is_told=True)
HALTED = Finding("home", CRITICAL, "halted", is_told=True)
SILENT = Finding("home", UNKNOWN, "refused")


class Runs:
    """A session that is found as a test says, and what a program is told of it."""

    def __init__(self, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ended = 0
        self._session = SessionDir(base, "home")
        self._mail, self._monkeypatch = base / "mail", monkeypatch
        self._mail.touch()
        self.works = True

        async def again(session: SessionDir, finding: Finding, *_: object) -> Finding:
            self.ended += 1
            return finding._replace(code=WARNING)

        monkeypatch.setattr(runcheck, "_start_again", again)

    def __call__(self, *findings: Finding) -> list[str]:
        """Find it so, in turn; return what was told of it."""
        before = len(self.mail)
        tell = f"echo $PSYNC_EVENT ${{PSYNC_SUBJECT#*: }}; tail -n 1; echo) | xargs >> {self._mail}"
        alerts = Alerts(command=["sh", "-c", f"({tell}" if self.works else "false"])
        for each in findings:
            self._monkeypatch.setattr(runcheck, "_look", lambda *_, each=each: each)
            asyncio.run(
                runcheck.runcheck(
                    [self._session], Rules(after=2), alerts, None, ["home"], ["home"], {}
                )
            )
        return self.mail[before:]

    @property
    def mail(self) -> list[str]:
        return self._mail.read_text().splitlines()


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    return Runs(tmp_path, monkeypatch)


SAID = "What it does now: psync status home; what it did: its log."
TOLD = [f"down session home: down {SAID}"]


class TestDownAgain:
    @pytest.mark.parametrize("left", [NO_AUDIT, OWN], ids=["warning", "own"])
    def test_is_told_again_although_a_warning_stays(self, runs: Runs, left: Finding) -> None:
        assert runs(DOWN, DOWN, DOWN) == TOLD
        assert runs(left) == []
        assert runs(left) == [f"recovered session home is better, but: {left.text} down"]
        assert runs(left, left) == []
        assert runs(DOWN) == []
        assert runs(DOWN) == TOLD
        assert runs(DOWN, DOWN) == []
        assert runs(WELL, WELL) == ["recovered session home is well again down"]

    def test_is_not_told_again_to_who_never_heard_that_it_was_up(self, runs: Runs) -> None:
        assert runs(DOWN, DOWN, NO_AUDIT, DOWN, DOWN, HALTED, HALTED, OWN, DOWN) == TOLD

    def test_is_told_to_who_knew_only_that_it_cannot_be_told(self, runs: Runs) -> None:
        assert len(runs(SILENT, SILENT)) == 1
        assert runs(DOWN, DOWN) == TOLD

    def test_is_told_of_when_people_can_be_reached_again(self, runs: Runs) -> None:
        runs(DOWN, DOWN)
        runs.works = False
        assert runs(NO_AUDIT, NO_AUDIT) == []
        runs.works = True

        assert runs(NO_AUDIT) == ["recovered session home is better, but: no audit down"]


class TestWarning:
    def test_that_stays_is_over_in_its_own_words(self, runs: Runs) -> None:
        runs(DOWN, DOWN, NO_AUDIT, NO_AUDIT)

        assert runs(WELL) == ["recovered session home is well again no audit"]

    def test_that_the_session_tells_itself_is_left_to_it(self, runs: Runs) -> None:
        runs(DOWN, DOWN, OWN, OWN)

        assert runs(WELL, OWN, OWN) == []

    def test_of_a_moment_does_not_make_another_text_of_what_it_was(self, runs: Runs) -> None:
        runs(DOWN, DOWN, NO_AUDIT)

        assert runs(WELL) == ["recovered session home is well again down"]


def test_what_hangs_once_is_not_ended_because_a_warning_stands(runs: Runs) -> None:
    runs(NO_AUDIT, NO_AUDIT, HUNG)
    assert runs.ended == 0
    runs(HUNG)

    assert runs.ended == 1


@pytest.mark.parametrize(
    ("heard", "says"),
    [(None, "still scanning: no heartbeat within 30 s"), (1.0, "lag above 30 s (7 pending)")],
)
def test_a_first_reconciliation_that_takes_long_is_late_like_any_work(
    heard: float | None, says: str
) -> None:
    told = {"state": "scanning", "pending": 7, "started": 0}

    assert runcheck._late(told, {"heartbeat_s": heard}, Rules(lag=30.0)) == (WARNING, False, says)
