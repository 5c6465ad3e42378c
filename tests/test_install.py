"""What `psync install` puts in place is what systemd, cron and logrotate understand."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from psync.errors import StoreError, UsageError
from psync.grammar import VERBS
from psync.install import doubled, install, uninstall

COMMAND = "/opt/psync/bin/psync"
CRON_FIELD = r"\*(?:/\d+)?|\d+(?:-\d+)?(?:,\d+(?:-\d+)?)*"
CRON = re.compile(
    rf"(?:(?P<when>@reboot)|(?P<fields>(?:(?:{CRON_FIELD})\s+){{4}}(?:{CRON_FIELD})))"
    r"\s+(?P<user>\w+)\s+(?P<command>.*)"
)


def everything(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


class TestInstall:
    def test_puts_files_where_they_are_looked_for(self, tmp_path: Path) -> None:
        install(tmp_path, systemd=True, command=COMMAND)

        assert set(everything(tmp_path)) >= {
            "etc/logrotate.d/psync",
            "etc/psync/psync.toml.example",
            "etc/systemd/system/psync@.service",
            "etc/systemd/system/psync-check.service",
            "etc/systemd/system/psync-check.timer",
            "etc/systemd/system/psync-runcheck.service",
            "etc/systemd/system/psync-runcheck.timer",
        }
        assert not (tmp_path / "etc/cron.d").exists()
        assert not (tmp_path / "etc/psync/psync.toml").exists()

    def test_makes_the_root_where_it_is_missing(self, tmp_path: Path) -> None:
        root = tmp_path / "of/a package"

        install(root, systemd=True, command=COMMAND)

        assert (root / "etc/psync/psync.toml.example").is_file()

    def test_says_which_root_cannot_be_made(self, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to("nowhere")

        with pytest.raises(StoreError, match=r"cannot write .*/link: "):
            install(tmp_path / "link", systemd=True, command=COMMAND)

    def test_for_cron_brings_no_units(self, tmp_path: Path) -> None:
        install(tmp_path, systemd=False, command=COMMAND)

        assert (tmp_path / "etc/cron.d/psync").stat().st_mode & 0o777 == 0o644
        assert not (tmp_path / "etc/systemd").exists()

    def test_names_the_psync_that_is_to_run(self, tmp_path: Path) -> None:
        install(tmp_path, systemd=True, command=COMMAND)

        for path, content in everything(tmp_path).items():
            assert b"/usr/local/bin/psync" not in content.replace(
                b'command = []                    # ["/usr/local/bin/tell"', b""
            ), path
        unit = (tmp_path / "etc/systemd/system/psync@.service").read_text()
        assert f"ExecStart={COMMAND} run %i\n" in unit

    def test_changes_nothing_the_second_time(self, tmp_path: Path) -> None:
        install(tmp_path, systemd=True, command=COMMAND)
        before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.service")}

        done = install(tmp_path, systemd=True, command=COMMAND)

        assert {each.what for each in done} == {"unchanged"}
        assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.service")} == before

    def test_brings_a_newer_version_of_what_it_wrote(self, tmp_path: Path) -> None:
        install(tmp_path, systemd=True, command="/usr/local/bin/psync")

        done = install(tmp_path, systemd=True, command=COMMAND)

        written = {each.path.name for each in done if each.what == "wrote"}
        assert "psync@.service" in written
        assert COMMAND in (tmp_path / "etc/systemd/system/psync@.service").read_text()

    def test_writes_over_nothing_that_is_not_its_own(self, tmp_path: Path) -> None:
        mine = tmp_path / "etc/logrotate.d/psync"
        mine.parent.mkdir(parents=True)
        mine.write_text("mine")
        install(tmp_path, systemd=True, command=COMMAND)
        edited = tmp_path / "etc/systemd/system/psync@.service"
        edited.write_text("edited")

        again = install(tmp_path, systemd=True, command="/a/psync")
        done = {each.path: each.what for each in again}

        assert done[mine] == "left, for it is not ours"
        assert done[edited] == "left, for it was edited"
        assert mine.read_text() == "mine"
        assert edited.read_text() == "edited"

    def test_does_not_follow_a_symlink(self, tmp_path: Path) -> None:
        link = tmp_path / "etc/logrotate.d/psync"
        link.parent.mkdir(parents=True)
        link.symlink_to(tmp_path / "elsewhere")

        install(tmp_path, systemd=True, command=COMMAND)

        assert link.is_symlink()
        assert not (tmp_path / "elsewhere").exists()

    def test_names_another_state_directory(self, tmp_path: Path) -> None:
        for systemd in (True, False):
            install(tmp_path, systemd=systemd, command=COMMAND, state="/srv/state")

        units = sorted((tmp_path / "etc/systemd/system").glob("*.service"))
        assert len(units) == 4
        for unit in units:
            text = unit.read_text()
            assert "\n[Service]\nEnvironment=PSYNC_STATE_DIR=/srv/state\n" in text, unit
            assert "StateDirectory" not in text
        assert "\nPSYNC_STATE_DIR=/srv/state\n" in (tmp_path / "etc/cron.d/psync").read_text()
        rotated = (tmp_path / "etc/logrotate.d/psync").read_text()
        assert "\n/srv/state/sessions/*/psync.log /var/log/psync/*.log {\n" in rotated
        assert "\n/srv/state/sessions/*/output {\n" in rotated
        for path, content in everything(tmp_path / "etc").items():
            assert b"/var/lib/psync" not in content or path == "psync/psync.toml.example", path

    def test_keeps_to_the_state_directory_until_another_is_named(self, tmp_path: Path) -> None:
        unit = tmp_path / "etc/systemd/system/psync@.service"
        install(tmp_path, systemd=True, command=COMMAND)
        usual = unit.read_text()
        install(tmp_path, systemd=True, command=COMMAND, state="/srv/state/")
        done = install(tmp_path, systemd=True, command=COMMAND)
        assert {each.what for each in done} == {"unchanged"}

        install(tmp_path, systemd=True, command=COMMAND, state="/var/lib/psync")

        assert unit.read_text() == usual

    @pytest.mark.parametrize("state", ["state", "/a b", "/x\n/y", "/100%", "/*"])
    def test_refuses_a_state_directory_that_a_unit_cannot_name(
        self, tmp_path: Path, state: str
    ) -> None:
        with pytest.raises(UsageError, match="--state-dir"):
            install(tmp_path, systemd=True, command=COMMAND, state=state)

        assert everything(tmp_path) == {}

    def test_says_that_cron_and_units_would_do_the_same(self, tmp_path: Path) -> None:
        install(tmp_path, systemd=True, command=COMMAND)
        assert doubled(tmp_path) == ""

        install(tmp_path, systemd=False, command=COMMAND)

        assert "would do the same twice" in doubled(tmp_path)

    @pytest.mark.parametrize("command", ["psync", "/a b/psync", "/x\n/psync", "/100%/psync"])
    def test_refuses_a_command_that_a_unit_cannot_name(self, tmp_path: Path, command: str) -> None:
        with pytest.raises(UsageError, match="--command"):
            install(tmp_path, systemd=True, command=command)

    def test_says_what_it_needs(self, tmp_path: Path) -> None:
        (tmp_path / "etc").write_text("")

        with pytest.raises(StoreError, match=r"cannot write .*/etc"):
            install(tmp_path, systemd=True, command=COMMAND)


class TestUninstall:
    def test_removes_what_was_written_and_nothing_else(self, tmp_path: Path) -> None:
        install(tmp_path, systemd=True, command=COMMAND)
        theirs = {
            "etc/psync/psync.toml": b"[session.home]",
            "etc/systemd/system/other.service": b"",
            "var/lib/psync/sessions/home/archive.db": b"",
        }
        for name, content in theirs.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(content)

        uninstall(tmp_path)

        assert everything(tmp_path) == theirs

    def test_removes_the_directories_that_were_made_for_it(self, tmp_path: Path) -> None:
        (tmp_path / "etc").mkdir()
        install(tmp_path, systemd=True, command=COMMAND)

        uninstall(tmp_path)

        assert [p.name for p in tmp_path.rglob("*")] == ["etc"]

    def test_leaves_what_was_edited(self, tmp_path: Path) -> None:
        install(tmp_path, systemd=True, command=COMMAND)
        unit = tmp_path / "etc/systemd/system/psync@.service"
        unit.write_text("edited")

        done = {each.path: each.what for each in uninstall(tmp_path)}

        assert done[unit] == "left, for it was edited"
        assert everything(tmp_path) == {"etc/systemd/system/psync@.service": b"edited"}

    def test_of_nothing_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="nothing is installed"):
            uninstall(tmp_path)

    def test_refuses_a_manifest_that_is_damaged(self, tmp_path: Path) -> None:
        install(tmp_path, systemd=True, command=COMMAND)
        (tmp_path / "var/lib/psync/installed.json").write_text('{"files": [')

        with pytest.raises(StoreError, match="damaged"):
            uninstall(tmp_path)


class TestCommand:
    def test_prints_what_it_wrote_and_what_is_next(self, tmp_path: Path) -> None:
        argv = [sys.executable, "-m", "psync"]
        where = ["--root", str(tmp_path)]
        done = subprocess.run(
            [*argv, "install", *where], capture_output=True, text=True, check=True
        )
        gone = subprocess.run(
            [*argv, "uninstall", *where], capture_output=True, text=True, check=True
        )

        assert f"wrote: {tmp_path}/etc/systemd/system/psync@.service" in done.stdout.splitlines()
        assert "systemctl enable --now psync@NAME" in done.stdout
        assert f"removed: {tmp_path}/etc/logrotate.d/psync" in gone.stdout.splitlines()
        assert "systemctl disable" in gone.stdout


    @pytest.mark.parametrize("how", ["--state-dir", "PSYNC_STATE_DIR"])
    def test_tells_units_where_the_state_is(self, tmp_path: Path, how: str) -> None:
        option = ["--state-dir", "/srv/state"] if how == "--state-dir" else []
        done = subprocess.run(
            [sys.executable, "-m", "psync", "install", "--root", str(tmp_path), "--cron", *option],
            env={**os.environ, **({} if option else {how: "/srv/state"})},
            capture_output=True, text=True, check=False,
        )  # fmt: skip

        assert (done.returncode, done.stderr) == (0, "")
        assert "\nPSYNC_STATE_DIR=/srv/state\n" in (tmp_path / "etc/cron.d/psync").read_text()

    @pytest.mark.parametrize(
        ("state", "kind", "warns"),
        [
            ("/tmp/state", "--systemd", True),
            ("/var/tmp/state", "--systemd", True),
            ("/tmp/state", "--cron", False),
            ("/tmpfs/state", "--systemd", False),
        ],
    )
    def test_warns_of_a_state_directory_that_a_unit_does_not_see(
        self, tmp_path: Path, state: str, kind: str, warns: bool
    ) -> None:
        where = ["--root", str(tmp_path), "--state-dir", state]
        done = subprocess.run(
            [sys.executable, "-m", "psync", "install", kind, *where],
            capture_output=True, text=True, check=False,
        )  # fmt: skip

        assert done.returncode == 0
        assert (f"psync: {state}: psync-web.service does not see it" in done.stderr) == warns


class TestUnits:
    @pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not here")
    @pytest.mark.parametrize("state", [None, "/srv/state"])
    def test_are_accepted_by_systemd(self, tmp_path: Path, state: str | None) -> None:
        program = tmp_path / "bin" / "psync"
        program.parent.mkdir()
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
        install(tmp_path, systemd=True, command=str(program), state=state)
        units = tmp_path / "etc/systemd/system"
        (units / "psync@home.service").symlink_to("psync@.service")

        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", *sorted(units.glob("psync[-@]*.*"))],
            capture_output=True, text=True, check=False,
        )  # fmt: skip

        assert (done.returncode, done.stdout + done.stderr) == (0, "")

    def test_run_verbs_that_there_are(self, checkout: Path) -> None:
        for unit in (checkout / "conf/systemd").glob("*.service"):
            text = unit.read_text()
            (verb,) = re.findall(r"^ExecStart=/usr/local/bin/psync (\w+)", text, re.MULTILINE)
            assert verb in (*VERBS, "check"), unit

    def test_confine_nothing_that_would_give_a_session_its_own_view_of_mounts(
        self, checkout: Path
    ) -> None:
        """Roots would be missing, or look as after a power cut at each start."""
        text = (checkout / "conf/systemd/psync@.service").read_text()
        keys = set(re.findall(r"^(\w+)=", text, re.MULTILINE))

        assert not {key for key in keys if key.startswith(("Protect", "Private", "ReadOnly"))}
        assert not keys & {"RestrictSUIDSGID", "DynamicUser", "RootDirectory", "BindPaths"}


class TestCron:
    def test_lines_are_as_crontab_5_has_them(self, checkout: Path) -> None:
        lines = (checkout / "conf/cron/psync").read_text().splitlines()
        jobs = [CRON.fullmatch(line.removeprefix("# ")) for line in lines]
        rest = [line for line, job in zip(lines, jobs, strict=True) if job is None]

        assert sum(job is not None for job in jobs) >= 4
        for line in rest:
            assert not line or line.startswith("#") or re.fullmatch(r"[A-Z]+=\S+", line), line
        for job in filter(None, jobs):
            assert "%" not in job["command"]  # cron takes it for the end of a line
            assert job["user"] == "root"
            verb = re.search(r"/usr/local/bin/psync (\w+)", job["command"])
            assert verb is not None and verb[1] in VERBS


