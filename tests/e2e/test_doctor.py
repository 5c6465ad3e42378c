"""`psync doctor` finds over the real connection what would be in a session's way."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.pair import Pair, command
from tests.sshd import Sshd


def examined(pair: Pair, *more: str) -> tuple[int, dict[tuple[str, str], dict[str, Any]]]:
    """Run it; return its code, and what it says by side and thing."""
    host = ["-r", pair.host] if pair.host else []
    done = pair.psync("doctor", "--json", *host, *more, str(pair.left), str(pair.right))
    assert done.stderr == ""
    checks = json.loads(done.stdout)["checks"]
    return done.returncode, {(check["where"], check["what"]): check for check in checks}


class TestDoctor:
    def test_says_of_each_thing_how_it_is(self, pair: Pair) -> None:
        code, told = examined(pair)

        assert code == 0
        for side in ("left", "right"):
            for what in ("agent", "rsync", "clock", "root", "space", "inotify"):
                assert told[side, what]["level"] in ("ok", "warn"), told[side, what]
        assert told["right", "clock"]["level"] == "ok"
        assert str(pair.host) in told["right", "agent"]["text"]
        assert ("", "state directory") in told

    def test_is_for_people_too(self, pair: Pair) -> None:
        done = pair.psync("doctor", "-r", str(pair.host), str(pair.left), str(pair.right))

        lines = done.stdout.splitlines()
        assert done.returncode == 0
        assert any(line.startswith("ok    right: agent: psync ") for line in lines)
        assert "warn  alerts: nobody is told of trouble: see [alerts] in" in lines[-1]

    def test_changes_nothing(self, pair: Pair) -> None:
        before = pair.left.stat().st_mtime_ns, pair.right.stat().st_mtime_ns

        examined(pair)

        assert os.listdir(pair.left) == os.listdir(pair.right) == []
        assert (pair.left.stat().st_mtime_ns, pair.right.stat().st_mtime_ns) == before
        assert not pair.state.exists()

    def test_leaves_a_session_that_runs_alone(self, watching: Pair) -> None:
        (watching.left / "x").write_text("x")
        agents = watching.agents()

        code, told = examined(watching)

        assert code == 0
        assert told["", "session"]["text"].endswith(" runs")
        assert watching.settle().keys() == {b"x"}
        assert watching.agents() == agents

    def test_finds_a_root_that_is_not_there(self, pair: Pair) -> None:
        pair.right.rmdir()

        code, told = examined(pair)

        assert code == 1
        assert told["right", "root"]["level"] == "bad"
        assert f"{pair.right} does not exist" in told["right", "root"]["text"]
        assert told["left", "root"]["level"] == "ok"

    @pytest.mark.parametrize("how", ["immutable", "read-only"])
    def test_finds_a_root_that_may_not_be_written(
        self, local: Pair, how: str, request: pytest.FixtureRequest
    ) -> None:
        right = str(local.right)
        do, undo = {
            "immutable": ([["chattr", "+i", right]], [["chattr", "-i", right]]),
            "read-only": (
                [["mount", "--bind", right, right], ["mount", "-o", "remount,bind,ro", right]],
                [["umount", right]],
            ),
        }[how]
        request.addfinalizer(
            lambda: [subprocess.run(each, capture_output=True, check=False) for each in undo]
        )
        for argv in do:
            if subprocess.run(argv, capture_output=True, check=False).returncode:
                pytest.skip(f"{' '.join(argv)} cannot be done here")

        code, told = examined(local)

        assert code == 1
        assert told["right", "root"]["level"] == "bad"
        assert told["right", "root"]["text"] == f"{right} may not be written"
        assert told["left", "root"]["level"] == "ok"
        assert local.psync("run", str(local.left), right).returncode == 2

    def test_finds_a_root_that_holds_no_files(self, local: Pair) -> None:
        local.left = Path("/proc")

        code, told = examined(local)

        assert code == 1
        assert told["left", "file system"]["level"] == "bad"

    @pytest.mark.parametrize("place", ["/proc/nope", "file/state"])
    def test_finds_a_state_directory_that_cannot_be_used(self, local: Pair, place: str) -> None:
        (local.base / "file").write_text("")

        code, told = examined(local, "--state-dir", str(local.base / place))

        assert code == 1
        assert told["", "state directory"]["level"] == "bad"
        assert "cannot be written" in told["", "state directory"]["text"]

    def test_finds_a_state_directory_that_would_be_replicated(self, local: Pair) -> None:
        code, told = examined(local, "--state-dir", str(local.right / "state"))

        assert code == 1
        assert told["", "roots"]["level"] == "bad"
        assert f"is inside {local.right}, and would be replicated" in told["", "roots"]["text"]
        assert told["", "roots"]["todo"] == "choose another --state-dir"

    def test_finds_a_root_inside_the_other(self, local: Pair) -> None:
        inner = local.left / "inner"
        inner.mkdir()
        local.right = inner

        code, told = examined(local)

        assert code == 1
        assert told["", "roots"]["level"] == "bad"

    def test_finds_a_host_whose_key_is_not_known(self, breakable: Pair, sshd: Sshd) -> None:
        sshd.known_hosts.write_text("")

        code, told = examined(breakable)

        assert code == 1
        assert told["right", "agent"]["todo"] == f"psync trust {sshd.alias}"
        assert told["left", "agent"]["level"] == "ok"

    def test_finds_a_host_that_does_not_let_us_in(self, breakable: Pair, sshd: Sshd) -> None:
        sshd.forbid()

        code, told = examined(breakable)

        assert code == 1
        assert "authorized_keys" in told["right", "agent"]["todo"]

    def test_finds_a_host_that_is_down(self, breakable: Pair, sshd: Sshd) -> None:
        sshd.stop()

        code, told = examined(breakable)

        assert code == 1
        assert "is sshd running there" in told["right", "agent"]["todo"]

    def test_finds_that_rsync_is_missing_there(
        self, breakable: Pair, sshd: Sshd, tmp_path: Path
    ) -> None:
        tools = tmp_path / "few"
        tools.mkdir()
        (tools / "python3").symlink_to("/usr/bin/python3")
        sshd.through(f'PATH={tools} exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"')

        code, told = examined(breakable)

        assert code == 1
        assert told["right", "rsync"]["todo"].startswith("install it there")
        assert told["left", "rsync"]["level"] == "ok"

    def test_serves_through_a_key_that_may_only_run_an_agent(
        self, breakable: Pair, sshd: Sshd
    ) -> None:
        (psync,) = command()
        sshd.allow(f"{psync} agent --root {breakable.right}")
        assert examined(breakable)[0] == 0

        sshd.allow(f"{psync} agent --root {breakable.base}")
        code, told = examined(breakable)

        assert code == 1
        assert "this key may only serve" in told["right", "root"]["text"]

    def test_finds_what_keeps_people_from_being_told(self, local: Pair) -> None:
        config = local.base / "psync.toml"
        config.write_text("[alerts]\ncommand = ['/nowhere/tell']\nurls = ['json://s3cret@host']\n")
        config.chmod(0o644)

        code, told = examined(local, "--config", str(config))

        assert code == 1
        assert told["", "alerts"]["text"] == "there is no program /nowhere/tell"
        assert told["", "configuration"]["todo"] == f"chmod 600 {config}"
        assert "s3cret" not in json.dumps(list(told.values()))

    def test_finds_urls_that_nobody_knows_how_to_tell(self, local: Pair) -> None:
        pytest.importorskip("apprise")
        config = local.base / "psync.toml"
        config.write_text("[alerts]\nurls = ['json://host', 'bogus://s3cret']\n")

        code, told = examined(local, "--config", str(config))

        assert code == 1
        text = told["", "alerts"]["text"]
        assert text == "[alerts] urls: number 2 (bogus) is none that apprise knows how to tell"

    def test_examines_a_configured_session_by_its_name(self, local: Pair) -> None:
        config = local.base / "psync.toml"
        config.write_text(f'[session.home]\nleft = "{local.left}"\nright = "{local.right}"\n')

        done = local.psync("doctor", "--config", str(config), "home")

        assert done.returncode == 0
        assert "session: home does not run" in done.stdout


