"""Whom an audit tells of an alert, and how often."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from psync.alerts import Alerts
from psync.audit import ALERT, EQUAL, FAILED, NOTICE, REPORT, tell_people
from psync.effects.state import SessionDir


class Told:
    """A session whose audits tell a program, which writes down what it is told."""

    def __init__(self, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._base, self._monkeypatch = base, monkeypatch
        self.addresses: list[str] = []
        self.session = SessionDir(base, "home")
        self.session.lock()
        self.session.unlock()
        self._mail = base / "mail"
        self.command = ["sh", "-c", f"echo $PSYNC_EVENT: ${{PSYNC_SUBJECT#*: }} >> {self._mail}"]

    def audit(self, code: int, *, differs: int = 2, believed: int = 0) -> list[str]:
        before = self.session.described(REPORT)
        report: dict[str, Any] = {
            "name": "home", "exit": code,
            "counts": {"differs": differs, "believed equal": believed},
            "differences": [{"kind": "differs", "path": "f", "what": "size 1 | 2"}],
        }  # fmt: skip
        self.session.describe(report, REPORT)
        alerts = Alerts(command=self.command, mail=self.addresses)
        return tell_people(alerts, self.session, before, report)

    def sendmail(self, text: str) -> None:
        """Let a sendmail be there, which does this."""
        program = self._base / "sendmail"
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(0o755)
        self._monkeypatch.setenv("PATH", f"{self._base}:{os.environ['PATH']}")
        self.addresses = ["root"]

    @property
    def mail(self) -> list[str]:
        return self._mail.read_text().splitlines() if self._mail.exists() else []


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Told:
    return Told(tmp_path, monkeypatch)


ONCE = "audit: audit alert of session home: 2 differs"
OVER = "recovered: audit of session home: well again"


class TestTelling:
    def test_is_once_for_an_alert_and_once_when_it_is_over(self, told: Told) -> None:
        for code in (EQUAL, ALERT, ALERT, FAILED, ALERT, NOTICE, EQUAL, ALERT):
            assert told.audit(code) == []

        assert told.mail == [ONCE, OVER, ONCE]
        assert told.session.described(REPORT)["alerted"] == ["command"]

    def test_is_tried_again_when_nobody_could_be_reached(self, told: Told) -> None:
        works, told.command = told.command, ["false"]
        assert len(told.audit(ALERT)) == 1
        told.command = works
        assert told.audit(ALERT) == []
        told.command = ["false"]
        assert len(told.audit(EQUAL)) == 1
        told.command = works
        assert told.audit(EQUAL) == []

        assert told.mail == [ONCE, OVER]

    def test_is_tried_again_by_the_way_that_failed(self, told: Told) -> None:
        told.sendmail("exit 1")
        assert len(told.audit(ALERT)) == 1
        assert len(told.audit(ALERT)) == 1
        told.sendmail(f"echo letter >> {told._mail}")
        assert told.audit(ALERT) == []
        assert told.audit(ALERT) == []

        assert told.mail == [ONCE, "letter"]

    def test_is_not_for_who_has_named_nobody(self, told: Told) -> None:
        told.command = []
        assert told.audit(ALERT) == []

        assert "alerted" not in told.session.described(REPORT)


class TestWorse:
    def test_is_told_again_and_what_is_no_worse_than_what_was_told_is_not(self, told: Told) -> None:
        for differs, believed in ((0, 1), (0, 25), (0, 25), (0, 3), (0, 25), (4, 21), (5, 21)):
            assert told.audit(ALERT, differs=differs, believed=believed) == []

        assert [line.partition("home: ")[2] for line in told.mail] == [
            "1 believed equal", "25 believed equal", "5 differs, 21 believed equal",
        ]  # fmt: skip

    def test_kind_is_told_though_there_are_fewer(self, told: Told) -> None:
        told.audit(ALERT, differs=30)
        told.audit(ALERT, differs=0, believed=1)

        assert told.mail[1].endswith("1 believed equal")

    def test_is_not_what_audits_find_that_take_turns(self, told: Told) -> None:
        for _ in range(3):
            told.audit(ALERT, differs=0, believed=1)
            told.audit(ALERT, differs=12)

        assert len(told.mail) == 2

    def test_is_told_by_each_way_that_has_not_told_it(self, told: Told) -> None:
        told.audit(ALERT)
        told.sendmail(f"echo letter >> {told._mail}")
        works, told.command = told.command, ["false"]
        assert len(told.audit(ALERT, differs=9)) == 1
        told.command = works
        for code in (ALERT, ALERT, EQUAL):
            assert told.audit(code, differs=9) == []

        assert told.mail[:3] == [ONCE, "letter", ONCE.replace("2", "9")]
        assert sorted(told.mail[3:]) == ["letter", OVER]

    def test_than_what_an_older_psync_told_is_told(self, told: Told) -> None:
        told.audit(ALERT)
        known = told.session.described(REPORT)
        known.pop("heard", None)
        told.session.describe(known, REPORT)
        told.audit(ALERT)
        told.audit(ALERT, differs=3)

        assert told.mail == [ONCE, ONCE.replace("2", "3")]
