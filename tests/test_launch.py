"""Sessions are started and ended by who is in charge of them: systemd, or nobody but psync."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from psync.alerts import Alerts
from psync.effects.state import SessionDir
from psync.errors import PsyncError
from psync.launch import Unit, end_hung, find_unit, is_answered, start
from psync.runcheck import CRITICAL, WARNING, Rules, load_rules, runcheck

Systemctl = Callable[[str], None]


@pytest.fixture
def session(tmp_path: Path) -> SessionDir:
    return SessionDir(tmp_path / "state", "home")


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    """What systemctl was asked, a line each."""
    return tmp_path / "asked"


@pytest.fixture
def systemctl(tmp_path: Path, asked: Path, monkeypatch: pytest.MonkeyPatch) -> Systemctl:
    """Let systemd run here, with a systemctl that does as the test says."""
    tools = tmp_path / "tools"
    tools.mkdir()
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setattr("psync.launch._BOOTED", str(tmp_path))

    def does(script: str) -> None:
        program = tools / "systemctl"
        program.write_text(f'#!/bin/sh\necho "$*" >>{asked}\ncase "$*" in\n{script}\nesac\n')
        program.chmod(0o755)

    return does


class TestUnit:
    async def test_is_found_with_its_state(self, systemctl: Systemctl) -> None:
        systemctl("*is-enabled*) exit 0;; *is-active*) echo failed; exit 3;;")

        assert await find_unit("home") == Unit("psync@home.service", "failed")

    async def test_that_is_not_enabled_is_none(self, systemctl: Systemctl) -> None:
        systemctl("*is-enabled*) exit 1;;")

        assert await find_unit("home") is None

    async def test_is_none_without_systemd(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("psync.launch._BOOTED", "/nowhere")

        assert await find_unit("home") is None

    async def test_is_started_by_systemd(
        self, systemctl: Systemctl, asked: Path, session: SessionDir
    ) -> None:
        systemctl("*restart*) exit 0;;")

        await start(session, None, Unit("psync@home.service", "failed"))

        assert asked.read_text().endswith("restart psync@home.service\n")  # noqa: ASYNC240
        assert not session.path.exists()

    async def test_that_does_not_start_says_why(
        self, systemctl: Systemctl, session: SessionDir
    ) -> None:
        systemctl("*restart*) echo Job failed. >&2; exit 1;;")

        with pytest.raises(PsyncError, match=r"systemctl restart .* failed: Job failed\."):
            await start(session, None, Unit("psync@home.service", "failed"))


class TestSession:
    def test_that_does_not_run_does_not_answer(self, session: SessionDir) -> None:
        assert not is_answered(session)
        end_hung(session)  # and there is nothing to end

    async def test_that_ends_at_once_says_why(self, session: SessionDir, tmp_path: Path) -> None:
        config = tmp_path / "psync.toml"
        config.write_text("[session.home]\n")
        session.make()
        session.mark_agreed()

        with pytest.raises(PsyncError, match=r"home ended at once: .*missing key"):
            await start(session, config, None)

        assert (session.path / "output").stat().st_mode & 0o077 == 0


class TestRuncheck:
    """What systemd says of a session counts."""

    async def look(self, session: SessionDir) -> tuple[int, str]:
        names = ["home"]
        rules, faults = Rules(after=1), dict[str, str]()
        (found,), failed = await runcheck([session], rules, Alerts(), None, names, names, faults)
        assert failed == []
        return found.code, found.text

    async def test_starts_a_unit_that_has_failed(
        self, systemctl: Systemctl, asked: Path, session: SessionDir
    ) -> None:
        systemctl("*is-active*) echo failed; exit 3;;")

        code, text = await self.look(session)

        assert (code, text) == (WARNING, "down: no process of it answers; started again")
        assert "restart psync@home.service" in asked.read_text()  # noqa: ASYNC240

    async def test_leaves_a_unit_alone_that_was_stopped(
        self, systemctl: Systemctl, asked: Path, session: SessionDir
    ) -> None:
        systemctl("*is-active*) echo inactive; exit 3;;")

        code, text = await self.look(session)

        assert (code, text) == (WARNING, "stopped on purpose (systemctl stop psync@home.service)")
        assert "restart" not in asked.read_text()  # noqa: ASYNC240

    async def test_does_not_come_between_when_systemd_starts_it(
        self, systemctl: Systemctl, asked: Path, session: SessionDir
    ) -> None:
        systemctl("*is-active*) echo activating; exit 3;;")

        code, _ = await self.look(session)

        assert code == CRITICAL
        assert "restart" not in asked.read_text()  # noqa: ASYNC240


class TestRules:
    def test_are_explained_key_by_key(self, checkout: Path) -> None:
        tables = tomllib.loads((checkout / "conf/psync.toml").read_text())

        assert set(tables["runcheck"]) == set(Rules.__struct_fields__)
        assert load_rules(checkout / "conf/psync.toml") == Rules()

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("after = 0", "after: "),
            ("lag = -1", "lag: "),
            ("audit_age = 'old'", "neither a time like 36h"),
            ("restrat = true", "did you mean restart"),
        ],
    )
    def test_are_checked(self, tmp_path: Path, text: str, said: str) -> None:
        file = tmp_path / "psync.toml"
        file.write_text(f"[runcheck]\n{text}")

        with pytest.raises(PsyncError, match=said):
            load_rules(file)
