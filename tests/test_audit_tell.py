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

    def audit(self, code: int) -> list[str]:
        before = self.session.described(REPORT)
        report: dict[str, Any] = {
            "name": "home", "exit": code, "counts": {"differs": 2, "unreadable": 0},
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
