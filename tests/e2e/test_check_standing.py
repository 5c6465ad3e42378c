"""An alert of an audit stands until an audit that could see what was found says otherwise."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.e2e.changes import fill
from tests.e2e.pair import Pair
from tests.e2e.test_check import ALERT, EQUAL, behind_its_back

NOTE = "docs/old/notes"


class Told:
    """A session with a file that changed behind its back, and what people are told of it."""

    def __init__(self, pair: Pair, base: Path) -> None:
        self.pair = pair
        self._config, self._mail = base / "psync.toml", base / "mail"
        self._config.write_text(
            f"[session.home]\nleft = '{pair.left}'\nright = '{pair.right}'\n"
            f"[alerts]\ncommand = ['sh', '-c', 'echo $PSYNC_EVENT >> {self._mail}']\n"
            "[runcheck]\naudit_age = '1d'\nafter = 99\nrestart = false\n"
        )
        pair.options += ["--name", "home"]
        fill(pair.left)
        pair.start()
        pair.settle()
        behind_its_back(pair, pair.right / NOTE, b"NOTES")
        pair.flush()

    def check(self, *args: str) -> tuple[int, str]:
        """Audit it: the exit code, and what was printed to stderr."""
        done = self.pair.psync("check", "--config", str(self._config), *args, "home")
        return done.returncode, done.stderr

    def runcheck(self) -> tuple[int, str]:
        done = self.pair.psync("runcheck", "--config", str(self._config), "home")
        return done.returncode, done.stdout

    @property
    def mail(self) -> list[str]:
        return self._mail.read_text().split()

    def mend(self) -> None:
        shutil.copyfile(self.pair.left / NOTE, self.pair.right / NOTE)
        self.pair.settle()


@pytest.fixture
def told(local: Pair, tmp_path: Path) -> Told:
    return Told(local, tmp_path)


class TestAlert:
    def test_is_not_over_for_audits_that_cannot_see_it(self, told: Told) -> None:
        assert told.check("-c") == (ALERT, "")
        for lesser in (("--lite",), ("-c", "-e", f"^/{NOTE}$"), ("-X", "-n", "1"), ()):
            code, said = told.check(*lesser)
            assert code == EQUAL
            assert said.count("\n") == 1
            assert "(--checksum)" in said and "stands until" in said
            assert told.mail == ["audit"]
            found, line = told.runcheck()
            assert found == 2
            assert "alert: 1 believed equal" in line
            assert "hours old" not in line
            assert "ALERT" in told.pair.psync("status").stdout
        assert told.check("-c") == (ALERT, "")
        assert told.mail == ["audit"]
        told.mend()

        assert told.check("-c") == (EQUAL, "")
        assert told.mail == ["audit", "recovered"]
        assert told.runcheck()[0] == 0

    def test_is_not_over_when_a_lesser_alert_is(self, told: Told) -> None:
        told.check("-c")
        told.pair.psync("pause")
        (told.pair.left / "new").touch()
        assert told.check("--lite", "--alert-threshold", "1")[0] == ALERT
        told.pair.psync("resume")
        told.pair.flush()
        code, said = told.check("--lite")

        assert code == EQUAL
        assert "stands until" in said
        assert told.mail == ["audit"]
        assert (
            json.loads(told.pair.psync("status", "--json").stdout)["sessions"][0]["audit"]["exit"]
            == ALERT
        )

    def test_does_not_keep_the_age_of_the_last_audit(self, told: Told) -> None:
        told.check("-c")
        (file,) = told.pair.state.glob("sessions/*/audit.json")
        known = json.loads(file.read_text())
        file.write_text(json.dumps({**known, "time": "2020-01-01T00:00:00+0000"}))
        assert "hours old" in told.runcheck()[1]
        told.check("--lite")

        assert "hours old" not in told.runcheck()[1]
        assert told.runcheck()[0] == 2

    def test_does_not_hide_that_audits_fail(self, told: Told) -> None:
        told.check("-c")
        shutil.move(told.pair.right, told.pair.base / "away")
        try:
            assert told.check("--lite")[0] == 1
        finally:
            shutil.move(told.pair.base / "away", told.pair.right)
        (file,) = told.pair.state.glob("sessions/*/audit.json")
        known = json.loads(file.read_text())

        assert known["exit"] == ALERT
        assert "does not exist" in known["failed"]
        assert told.mail == ["audit"]
