"""What the command says and returns, to a person and to a program (points 8 and 9)."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from psync.brain import _running
from tests.e2e.pair import WAIT_S, Pair, command, opened, tree, until
from tests.sshd import Sshd


class TestStatus:
    def test_lists_sessions_with_all_that_was_promised(self, watching: Pair) -> None:
        told = watching.status()

        assert told["state"] == "watching"
        assert told["pid"] == watching.process.pid  # type: ignore[union-attr]
        assert {"name", "left", "right", "pending", "conflicts", "problems"} <= told.keys()
        text = watching.psync("status")
        assert text.returncode == 0
        assert "watching" in text.stdout

    @pytest.mark.parametrize("more", [False, True])
    def test_is_scanning_until_all_was_reconciled_once(self, local: Pair, more: bool) -> None:
        (local.left / "large").write_bytes(b"x" * 600_000)
        if more:  # it stays a problem, on which nobody waits
            (local.left / "late").touch()
            os.utime(local.left / "late", (0, 10_000_000_000))
        local.launch("--set", "rsync_extra=--bwlimit=200")

        until(lambda: local.status().get("pending"), "something to do")
        told = local.wait_for("watching")

        assert tree(local.right)[b"large"] == tree(local.left)[b"large"]
        assert (told["pending"], told["problems"]) == (more, more)
        assert told["state_since"] - told["started"] > 1

    def test_tells_what_was_replicated_last_and_how_fast(self, watching: Pair) -> None:
        (watching.left / "a\nb").write_text("12345")
        watching.flush()

        told = watching.status()

        assert told["changes"][0].items() >= {
            "side": "right", "path": "a\\nb", "what": "created",
        }.items()  # fmt: skip
        assert told["right"]["changes_per_s"] > 0
        assert told["lag_s"] == told["in_flight"] == 0
        assert told["started"] <= told["state_since"] <= time.time()

    def test_says_how_long_a_change_has_been_waiting(self, watching: Pair) -> None:
        watching.psync("pause")
        (watching.left / "x").write_text("x")

        until(lambda: watching.status()["lag_s"] > 0.5, "a lag")

        watching.psync("resume")
        watching.settle()
        assert watching.status()["lag_s"] == 0

    def test_says_how_far_it_lags_while_a_side_is_away(self, breakable: Pair, sshd: Sshd) -> None:
        breakable.start()
        sshd.stop()
        breakable.wait_for("disconnected")
        (breakable.left / "x").write_text("x")

        told = until(lambda: (s := breakable.status())["lag_s"] > 0.5 and s, "a lag")

        assert told["pending"] == 1
        sshd.restart()
        breakable.wait_for("watching")
        breakable.settle()
        assert breakable.status()["lag_s"] == 0

    def test_is_shown_live_on_a_terminal(self, watching: Pair) -> None:
        primary, secondary = pty.openpty()
        process = subprocess.Popen(
            [*command(), "status", "--watch"],
            env=watching.env | {"TERM": "xterm"}, stdin=secondary, stdout=secondary,
            stderr=secondary,
        )  # fmt: skip
        os.close(secondary)
        shown = b""
        try:
            while b"TO LEFT" not in shown:
                shown += os.read(primary, 65536)
            (watching.left / "live \x1b[2J").write_text("x")
            while b"live \\x1b[2J" not in shown:
                shown += os.read(primary, 65536)
            os.write(primary, b"q")
            while b"\x1b[?1049l" not in shown:
                shown += os.read(primary, 65536)
            assert process.wait(WAIT_S) == 0
        finally:
            process.kill()
            os.close(primary)

    def test_without_a_session_is_an_empty_list(self, local: Pair) -> None:
        run = local.psync("status", "--json")

        assert run.returncode == 0
        assert json.loads(run.stdout) == {"sessions": []}

    def test_answers_at_once_while_the_link_is_stalled(self, breakable: Pair, sshd: Sshd) -> None:
        breakable.start()
        sshd.freeze()
        (breakable.left / "x").write_bytes(os.urandom(4_000_000))
        began = time.monotonic()

        told = breakable.status()

        assert time.monotonic() - began < 5
        assert told["state"] in ("watching", "disconnected")
        sshd.thaw()


class TestFlush:
    def test_returns_when_everything_is_there(self, watching: Pair) -> None:
        for i in range(20):
            (watching.left / f"f{i}").write_text(str(i))
            assert watching.psync("flush", "--timeout", "30").returncode == 0
            assert (watching.right / f"f{i}").read_text() == str(i)
            left = (watching.left / f"f{i}").stat().st_mtime_ns
            assert (watching.right / f"f{i}").stat().st_mtime_ns == left

    def test_right_after_a_restart(self, pair: Pair) -> None:
        for round_ in range(3):
            (pair.left / f"d{round_}").mkdir()
            for i in range(50):
                (pair.left / f"d{round_}/f{i}").write_text("x")
            pair.launch()
            until(pair.status, "a session that answers")
            pair.flush()
            assert len(list((pair.right / f"d{round_}").iterdir())) == 50
            pair.stop()

    def test_gives_up_in_time(self, watching: Pair) -> None:
        watching.psync("pause")
        (watching.left / "x").write_text("x")
        until(lambda: watching.status()["pending"], "news")

        run = watching.psync("flush", "--timeout", "0.3")

        assert run.returncode == 1
        (line,) = run.stderr.splitlines()
        assert line.endswith("; on their way: x")
        watching.psync("resume")
        assert b"x" in watching.settle()

    def test_names_what_is_not_replicated_in_the_place_of_an_edited_file(
        self, watching: Pair
    ) -> None:
        (watching.left / "f").write_text("one")
        watching.settle()
        watching.psync("pause")
        (watching.right / "f").unlink()
        os.mkfifo(watching.right / "f")
        (watching.left / "f").write_text("two!")
        watching.psync("resume")

        run = watching.psync("flush", "--timeout", "100", timeout=60)

        assert run.returncode == 1
        assert "f: what is there is not replicated, and stands in the way" in run.stderr
        (watching.right / "f").unlink()
        assert watching.settle()[b"f"][-1] == b"two!"

    def test_does_not_wait_for_what_waiting_does_not_solve(self, watching: Pair) -> None:
        (watching.left / "d/e").mkdir(parents=True)
        watching.settle()
        os.mkfifo(watching.left / "d/e/fifo")
        (watching.right / "d/e").rmdir()
        (watching.right / "d").rmdir()
        (watching.right / "new").write_text("new")

        run = watching.psync("flush", "--timeout", "100", timeout=30)

        assert run.returncode == 1
        assert len(run.stderr.splitlines()) == 1
        assert "2 paths could not be replicated: " in run.stderr
        assert "d/e: the directory holds entries that are not replicated" in run.stderr
        assert (watching.left / "new").read_text() == "new"
        (watching.left / "d/e/fifo").unlink()
        assert watching.settle().keys() == {b"new"}


class TestStop:
    def test_by_signal_leaves_no_process(self, watching: Pair) -> None:
        agents = watching.agents()
        assert len(agents) == 2

        assert watching.stop() == 0

        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in agents), "their end")

    def test_by_command_waits_for_the_end(self, watching: Pair) -> None:
        assert watching.psync("stop").returncode == 0

        assert watching.process is not None
        assert watching.process.wait(1) == 0

    def test_by_interrupt_is_a_plain_end(self, watching: Pair) -> None:
        assert watching.process is not None
        watching.process.send_signal(signal.SIGINT)

        assert watching.process.wait(WAIT_S) == 0
        assert "Traceback" not in watching.output()


class TestOneShot:
    def test_ends_when_both_are_the_same(self, pair: Pair) -> None:
        (pair.left / "a").write_text("a")
        (pair.right / "b").write_bytes(os.urandom(500_000))

        run = pair.launch("-s")

        assert run.wait(WAIT_S) == 0
        assert (pair.right / "a").read_text() == "a"
        assert (pair.left / "b").stat().st_size == 500_000

    def test_that_is_dry_changes_nothing_and_says_what_it_would(self, pair: Pair) -> None:
        (pair.left / "a").write_text("a")
        (pair.right / "b").mkdir()

        run = pair.launch("-ns")

        assert run.wait(WAIT_S) == 0
        said = pair.output()
        assert "would create file a on the right" in said
        assert "dry run: 2 changes would be made" in said
        assert "agree" not in said
        assert "transition.planned path=a what=created" in pair.log()
        assert "transition.applied" not in pair.log()
        assert not (pair.right / "a").exists()
        assert not (pair.left / "b").exists()

    @pytest.mark.parametrize("how", [["-s"], ["-n"], ["sync"]])
    @pytest.mark.parametrize("gone", ["most", "all"])
    def test_ends_when_it_has_halted(self, local: Pair, gone: str, how: list[str]) -> None:
        for number in range(120):
            (local.left / f"{number}").write_text("f")
        local.start()
        local.stop()
        for number in range(120 if gone == "all" else 110):
            (local.left / f"{number}").unlink()

        done = local.psync(*how, str(local.left), str(local.right))

        assert done.returncode == 2
        why = "shows 10 entries where 120 were agreed" if gone == "most" else "is empty, but 12"
        assert "HALTED: left" in done.stderr
        assert why in done.stderr
        assert done.stderr.count("\n") == 2
        assert ("a session that stays" in done.stderr) == ("-n" not in how)
        assert done.stdout.count("would remove") == (110 if gone == "most" and "-n" in how else 0)
        assert len(tree(local.right)) == 120

    def test_ends_when_something_can_never_be_the_same(self, pair: Pair) -> None:
        (pair.left / "d").mkdir()
        (pair.left / "f").touch()
        pair.start()
        pair.stop()
        os.mkfifo(pair.left / "d/fifo")
        (pair.right / "d").rmdir()

        run = pair.launch("-s")

        assert run.wait(WAIT_S) == 2
        assert "1 path could not be replicated: d: the directory holds" in pair.output()


class TestSideBySide:
    def test_several_sessions_run_on_one_host(self, pair: Pair, tmp_path: Path) -> None:
        (tmp_path / "two").mkdir()
        with opened(tmp_path / "two") as second:
            second.state = pair.state
            second.env["PSYNC_STATE_DIR"] = str(pair.state)
            second.left.joinpath("x").write_text("x")
            pair.left.joinpath("y").write_text("y")
            pair.launch()
            second.launch()
            until((second.right / "x").exists, "the second pair")
            until((pair.right / "y").exists, "the first pair")
            sessions = json.loads(pair.psync("status", "--json").stdout)["sessions"]
            assert len(sessions) == 2
            assert not (pair.right / "x").exists()

    def test_state_directory_with_a_long_path(self, local: Pair, tmp_path: Path) -> None:
        local.state = tmp_path / ("long" * 40) / ("path" * 40)
        local.env["PSYNC_STATE_DIR"] = str(local.state)
        local.start()
        (local.left / "x").write_text("x")

        assert b"x" in local.settle()


class TestLog:
    def test_follows_when_it_is_moved_away(self, watching: Pair) -> None:
        log = next(watching.state.glob("sessions/*/psync.log"))
        (watching.left / "first").write_text("x")
        watching.flush()
        log.rename(log.with_suffix(".1"))
        time.sleep(1.1)  # the file is looked for once a second
        (watching.left / "second").write_text("x")
        watching.flush()

        assert "second" in log.read_text()
        assert "first" in log.with_suffix(".1").read_text()

    def test_may_be_json(self, pair: Pair) -> None:
        pair.options = ["--set", "log_format=json"]
        pair.start()
        (pair.left / "x").write_text("x")
        pair.flush()
        log = next(pair.state.glob("sessions/*/psync.log"))

        records = [json.loads(line) for line in log.read_text().splitlines()]

        assert any(r["event"] == "transition.applied" and r["path"] == "x" for r in records)


class TestProgress:
    def test_is_shown_on_a_terminal_while_the_first_sync_runs(self, pair: Pair) -> None:
        for i in range(3000):
            (pair.left / f"f{i}").write_bytes(b"x" * 2000)
        primary, secondary = pty.openpty()
        remote = ["-r", str(pair.host)]
        pair.process = subprocess.Popen(
            [*command(), *remote, str(pair.left), str(pair.right)],
            env=pair.env, text=True, stdin=secondary, stdout=secondary, stderr=secondary,
        )  # fmt: skip
        os.close(secondary)
        shown = b""
        try:
            while b"watching: both sides agree" not in shown:
                shown += os.read(primary, 65536)
        finally:
            pair.stop()
            os.close(primary)

        assert b"files" in shown
        assert b"/s" in shown


class TestBadInput:
    """One clear line, the right exit code, nothing lost."""

    def refused(self, pair: Pair, *args: str, code: int = 2, within: float = 30) -> str:
        run = pair.psync(*args, timeout=within)
        said = [line for line in (run.stdout + run.stderr).splitlines() if line]
        assert run.returncode == code, run.stdout + run.stderr
        assert len(said) == 1, said
        assert said[0].startswith("psync: ")
        assert "Traceback" not in run.stderr
        return said[0]

    def test_root_that_is_not_there(self, local: Pair) -> None:
        missing = str(local.base / "missing")

        assert missing in self.refused(local, missing, str(local.right))
        assert missing in self.refused(local, str(local.left), missing)

    def test_remote_root_that_is_not_there(self, pair: Pair) -> None:
        missing = str(pair.base / "missing")

        assert missing in self.refused(pair, "-r", str(pair.host), str(pair.left), missing)

    @pytest.mark.parametrize(
        ("host", "right"), [("no-such-host.invalid", "/"), ("{host}", "/missing")]
    )
    def test_leaves_no_session_that_nobody_has_configured(
        self, pair: Pair, host: str, right: str
    ) -> None:
        self.refused(pair, "-r", host.format(host=pair.host), str(pair.left), right)

        assert list((pair.state / "sessions").iterdir()) == []

    def test_leaves_a_session_that_knows_its_pair(self, local: Pair) -> None:
        local.start()
        local.stop()
        (session,) = (local.state / "sessions").iterdir()
        for name in ("agreed", "alerts.json"):
            (session / name).unlink(missing_ok=True)
        local.right.rename(local.base / "away")

        self.refused(local, str(local.left), str(local.right))

        assert (session / "archive.db").exists()
        (local.base / "away").rename(local.right)
        local.start()
        assert local.settle() == {}

    def test_root_that_is_no_directory(self, local: Pair) -> None:
        file = local.base / "file"
        file.touch()

        assert "not a directory" in self.refused(local, str(file), str(local.right))

    def test_remote_root_that_is_no_directory(self, pair: Pair) -> None:
        file = pair.base / "file"
        file.touch()

        assert "directory" in self.refused(pair, "-r", str(pair.host), str(pair.left), str(file))

    def test_same_root_twice(self, local: Pair) -> None:
        assert "same directory" in self.refused(local, str(local.left), str(local.left))

    def test_same_root_twice_over_ssh(self, pair: Pair) -> None:
        args = ("-r", str(pair.host), str(pair.left), str(pair.left))

        assert "same directory" in self.refused(pair, *args)

    def test_root_inside_the_other(self, local: Pair) -> None:
        inner = local.left / "inner"
        inner.mkdir()

        assert "inside" in self.refused(local, str(local.left), str(inner))
        assert "inside" in self.refused(local, str(inner), str(local.left))
        assert not (local.left / ".psync").exists()

    def test_root_inside_the_other_by_way_of_a_symlink(self, local: Pair) -> None:
        (local.left / "inner").mkdir()
        link = local.base / "link"
        link.symlink_to(local.left)

        assert "inside" in self.refused(local, str(local.left), str(link / "inner"))

    @pytest.mark.parametrize("side", ["left", "right"])
    def test_n16_root_with_something_else_at_our_place(self, pair: Pair, side: str) -> None:
        (pair.root(side) / ".psync").write_text("mine")
        host = ["-r", pair.host] if pair.host else []

        said = self.refused(pair, *host, str(pair.left), str(pair.right))

        assert side in said
        assert ".psync" in said

    def test_x08_roots_the_other_way_round(self, local: Pair) -> None:
        """The archive of before would know an older state than the replicas."""
        local.start()
        local.stop()

        said = self.refused(local, str(local.right), str(local.left))

        assert "as before" in said

    def test_host_unknown(self, local: Pair) -> None:
        args = ("-r", "no-such-host.invalid", str(local.left), "/tmp")

        assert "no-such-host.invalid" in self.refused(local, *args)

    def test_key_refused(self, breakable: Pair, sshd: Sshd) -> None:
        sshd.forbid()
        args = ("-r", sshd.alias, str(breakable.left), str(breakable.right))

        assert sshd.alias in self.refused(breakable, *args)

    def test_host_key_unknown(self, breakable: Pair, sshd: Sshd) -> None:
        sshd.known_hosts.write_text("")
        args = ("-r", sshd.alias, str(breakable.left), str(breakable.right))

        assert "psync trust" in self.refused(breakable, *args)

        trusted = breakable.psync("trust", "--yes", sshd.alias)
        assert trusted.returncode == 0, trusted.stderr
        assert "SHA256:" in trusted.stdout
        breakable.start()

    def test_s08_host_key_changed(self, breakable: Pair, sshd: Sshd) -> None:
        sshd.change_host_key()
        sshd.restart()
        args = ("-r", sshd.alias, str(breakable.left), str(breakable.right))

        assert "key" in self.refused(breakable, *args)

    def test_s08_host_key_changed_while_running_ends_the_session(
        self, breakable: Pair, sshd: Sshd
    ) -> None:
        breakable.start()
        sshd.change_host_key()
        sshd.restart()

        assert breakable.process is not None
        assert breakable.process.wait(WAIT_S) == 4

    @pytest.mark.parametrize("missing", ["rsync", "python3"])
    def test_program_missing_over_there(
        self, breakable: Pair, sshd: Sshd, tmp_path: Path, missing: str
    ) -> None:
        bare = tmp_path / "bin"
        bare.mkdir()
        for name in {"python3", "rsync"} - {missing}:
            (bare / name).symlink_to(f"/usr/bin/{name}")
        sshd.through(f'PATH={bare} exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"')
        args = ("-r", sshd.alias, str(breakable.left), str(breakable.right))

        assert missing in self.refused(breakable, *args)

    def test_x22_other_version_over_there(
        self, breakable: Pair, sshd: Sshd, tmp_path: Path
    ) -> None:
        other = tmp_path / "other"
        checkout = Path(__file__).resolve().parents[2]
        shutil.copytree(checkout / "psync", other / "psync")
        init = other / "psync/__init__.py"
        init.write_text(init.read_text().replace("__version__ = ", "__version__ = '9.9.9' or "))
        sshd.allow(f"cd {other} && PYTHONPATH={other} {sys.executable} -m psync agent")
        args = ("-r", sshd.alias, str(breakable.left), str(breakable.right))

        assert "9.9.9" in self.refused(breakable, *args)

    def test_state_directory_that_cannot_be_written(self, local: Pair) -> None:
        blocked = local.base / "blocked"
        blocked.touch()

        said = self.refused(
            local, "--state-dir", str(blocked / "x"), str(local.left), str(local.right)
        )

        assert "state directory" in said

    def test_x17_second_session_on_the_same_pair(self, watching: Pair) -> None:
        args = ("-r", str(watching.host), str(watching.left), str(watching.right))

        assert "already running" in self.refused(watching, *args)
        assert watching.status()["state"] == "watching"

    def test_x08_x18_x19_root_of_another_pair(self, local: Pair) -> None:
        local.start()
        local.stop()
        third = local.base / "third"
        third.mkdir()

        said = self.refused(local, str(local.left), str(third))

        assert "belongs to another psync pair: stop that session" in said

    def test_x08_roots_of_another_session_are_told_of(self, local: Pair) -> None:
        (local.left / "f").write_text("x")
        roots = (str(local.left), str(local.right))
        names = ("one", "one", "other", "other")
        said = [local.psync("sync", "--name", name, *roots).stderr for name in names]

        assert said[2].count("\n") == 1
        assert "these roots are known to session one, not to other: both are united" in said[2]
        assert (said[0], said[1], said[3]) == ("", "", "")

    def test_x17_x18_x19_root_that_another_session_serves_now(self, local: Pair) -> None:
        local.start()
        third = local.base / "third"
        third.mkdir()

        said = self.refused(local, "--name", "third", str(third), str(local.right))

        assert "another psync session is working on this directory (pid " in said
        assert str(local.right) in said
        assert local.status()["state"] == "watching"

    def test_unknown_configuration_key(self, local: Pair) -> None:
        config = local.base / "psync.toml"
        config.write_text(
            f'[session.home]\nleft = "{local.left}"\nright = "{local.right}"\nsetle_ms = 5\n'
        )

        said = self.refused(local, "run", "--config", str(config), "home")

        for word in (str(config), "session.home", "setle_ms"):
            assert word in said

    def test_no_session_to_talk_to(self, local: Pair) -> None:
        assert "no session" in self.refused(local, "flush")
        assert "no session" in self.refused(local, "stop")

    def test_banned_program(self, local: Pair) -> None:
        name = Path(f"/proc/{os.getpid()}/comm").read_text().strip()

        said = self.refused(local, "-b", name, str(local.left), str(local.right), code=1)

        assert name in said

    @pytest.mark.parametrize("is_script", [False, True], ids=["binary", "script"])
    def test_banned_program_by_any_part_of_a_long_name(
        self, tmp_path: Path, is_script: bool
    ) -> None:
        program = tmp_path / "averylongprogramname_tail"
        if is_script:
            program.write_text("#!/bin/sh\nread x\n")
            program.chmod(0o755)
        else:
            shutil.copy(shutil.which("cat") or "", program)
        argv = [program, "-", "/x/averylongprogra.argument"]
        with subprocess.Popen(argv, stdin=subprocess.PIPE) as process:
            comm = Path(f"/proc/{process.pid}/comm")
            until(lambda: comm.read_text() == "averylongprogra\n", "the program")
            found = [_running(part) for part in ("name_tail", program.name, "averylongpro")]
            others = [_running(part) for part in ("averylongprogra.", "averylongprogramme")]
            assert process.stdin is not None
            process.stdin.close()

        assert found == [program.name] * 3
        assert others == ["", ""]


class TestDryRun:
    def test_prints_the_plan_and_changes_nothing(self, pair: Pair) -> None:
        (pair.left / "d").mkdir()
        (pair.left / "d/new").write_text("new")
        (pair.left / "large").write_bytes(os.urandom(400_000))
        (pair.right / "other").symlink_to("x")
        before = tree(pair.left), tree(pair.right)

        run = pair.launch("-n")

        assert run.wait(WAIT_S) == 0
        assert (tree(pair.left), tree(pair.right)) == before
        for line in (
            "would create directory d on the right",
            "would create file d/new on the right",
            "would create file large on the right",
            "would create symlink other on the left",
        ):
            assert line in pair.output().splitlines()
        pair.start()
        assert len(pair.settle()) == 4

    def test_excludes_by_rsync_pattern_and_by_expression(self, pair: Pair) -> None:
        pair.options = ["--rsync-excludes", "*.iso", "-e", "/cache$"]
        for name in ("a.iso", "b.iso.txt", "cache", "cached"):
            (pair.left / name).write_text(name)
        pair.start()
        pair.flush()

        assert set(tree(pair.right)) == {b"b.iso.txt", b"cached"}
