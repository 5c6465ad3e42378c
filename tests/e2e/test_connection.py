"""The connection may drop, freeze or be away at any time; nothing is lost (points 6 and 7)."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path

import pytest

from tests.e2e.pair import WAIT_S, Pair, tree, until
from tests.sshd import Sshd, children


class TestDrop:
    def test_x12_is_survived_and_what_happened_meanwhile_replicated(
        self, breakable: Pair, sshd: Sshd
    ) -> None:
        pair = breakable
        pair.start()
        for i in range(50):
            (pair.left / f"f{i}").write_text("first")
        pair.settle()
        sshd.stop()
        pair.wait_for("disconnected")
        for i in range(0, 50, 2):
            (pair.left / f"f{i}").write_text("edited left")
            (pair.right / f"f{i + 1}").write_text("edited right")
        (pair.left / "f48").unlink()
        (pair.right / "f49").unlink()
        os.rename(pair.right / "f47", pair.right / "renamed")
        (pair.left / "d/e").mkdir(parents=True)
        (pair.left / "d/e/new").write_text("new")
        sshd.restart()
        pair.wait_for("watching")

        after = pair.settle()

        assert after[b"f0"][-1] == b"edited left"
        assert after[b"f1"][-1] == b"edited right"
        assert b"f48" not in after and b"f49" not in after and b"f47" not in after
        assert after[b"renamed"][-1] == b"edited right"
        assert after[b"d/e/new"][-1] == b"new"
        assert pair.status()["conflicts"] == 0
        lost, again = pair.output().index("trying again"), pair.output().index("connected again")
        assert lost < again

    def test_x09_in_the_middle_of_work_again_and_again(self, breakable: Pair, sshd: Sshd) -> None:
        pair = breakable
        pair.start()
        for round_ in range(5):
            for i in range(150):
                (pair.left / f"l{i}").write_text(f"{round_} {i}")
                (pair.right / f"r{i}").write_text(f"{round_} {i}")
            (pair.left / "large").write_bytes(os.urandom(3_000_000))
            sshd.cut()
            (pair.left / "during").write_text(str(round_))
            after = pair.settle()
            assert after[b"l149"][-1] == b"%d 149" % round_
            assert after[b"r149"][-1] == b"%d 149" % round_
            assert after[b"during"][-1] == b"%d" % round_
        assert pair.status()["conflicts"] == 0
        until(lambda: not pair.leftovers(), "empty staging")

    def test_host_that_greets_is_told_to_be_silent_where_that_matters(
        self, breakable: Pair, sshd: Sshd
    ) -> None:
        """The agent is found after a greeting, on either output; rsync is not."""
        pair = breakable
        sshd.through('echo welcome; echo welcome >&2; exec sh -c "$SSH_ORIGINAL_COMMAND"')
        pair.start()
        (pair.left / "small").write_text("small")
        pair.settle()
        (pair.left / "large").write_bytes(os.urandom(500_000))
        until(lambda: pair.status()["problems"], "the problem")

        (problem,) = pair.status()["problem_list"]
        assert problem["path"] == "large"
        assert "prints before it answers" in problem["message"]
        sshd.through('exec sh -c "$SSH_ORIGINAL_COMMAND"')
        sshd.cut()
        pair.wait_for("watching")
        pair.settle()

    def test_host_that_is_away_at_the_start_is_waited_for(
        self, breakable: Pair, sshd: Sshd
    ) -> None:
        pair = breakable
        sshd.stop()
        (pair.left / "early").write_text("early")
        pair.launch()
        pair.wait_for("disconnected")
        assert pair.psync("flush", "--timeout", "0.2").returncode == 1
        until(lambda: pair.status()["left"]["trouble"] == "it waits for the right", "the left")
        assert "refuses connections" in pair.status()["right"]["trouble"]

        sshd.restart()
        pair.wait_for("watching")

        assert b"early" in pair.settle()


    def test_login_may_take_longer_than_the_connection(self, breakable: Pair, sshd: Sshd) -> None:
        pair = breakable
        pair.options = ["--set", "timeout=2"]
        sshd.through('sleep 2.5; exec sh -c "$SSH_ORIGINAL_COMMAND"')
        (pair.left / "x").write_text("x")
        pair.start()

        assert set(pair.settle()) == {b"x"}
        assert "trying again" not in pair.output()
        remote = ["-r", sshd.alias, "--set", "timeout=2", str(pair.left), str(pair.right)]
        for verb in ("doctor", "check"):
            done = pair.psync(verb, *remote)
            assert done.returncode == 0, done

    @pytest.mark.parametrize("at_start", [True, False])
    def test_that_is_away_for_too_long_ends_the_session(
        self, breakable: Pair, sshd: Sshd, at_start: bool
    ) -> None:
        pair = breakable
        pair.options = ["--set", "maxtimeout=1"]
        if not at_start:
            pair.start()
        sshd.stop()
        process = pair.launch() if at_start else pair.process
        assert process is not None

        assert process.wait(WAIT_S) == 4
        assert "is away for more than 1 s (maxtimeout)" in pair.output()
        assert pair.agents() == []


class TestFrozen:
    def test_x10_x15_peer_is_noticed_within_the_timeout(self, breakable: Pair, sshd: Sshd) -> None:
        """A host that sleeps, or a half-open connection: it goes on when it is awake again."""
        pair = breakable
        pair.options = ["--set", "timeout=4"]
        pair.start()
        (pair.left / "before").write_text("x")
        pair.settle()

        sshd.freeze()
        (pair.left / "while").write_text("frozen")
        pair.wait_for("disconnected")
        told = pair.status()
        assert told["right"]["connected"] is False
        sshd.thaw()
        pair.wait_for("watching")

        assert b"while" in pair.settle()

    def test_peer_does_not_delay_the_end(self, breakable: Pair, sshd: Sshd) -> None:
        pair = breakable
        pair.start()
        sshd.freeze()
        (pair.left / "x").write_text("x")

        assert pair.stop() == 0

        sshd.thaw()
        until(lambda: not pair.agents(), "the agents' end")

    def test_x10_x13_agent_is_replaced(self, pair: Pair) -> None:
        pair.options = ["--set", "timeout=4"]
        pair.start()
        left = next(pid for pid in pair.agents())
        os.kill(left, signal.SIGSTOP)
        (pair.left / "x").write_text("x")
        (pair.right / "y").write_text("y")
        pair.wait_for("disconnected")
        pair.wait_for("watching")

        after = pair.settle()

        assert set(after) == {b"x", b"y"}
        assert left not in pair.agents()


    def test_rsync_is_ended_and_keeps_no_other_file_waiting(self, pair: Pair) -> None:
        pair.options = ["--set", "etimeout=2", "--set", "rsync_extra=--bwlimit=1000"]
        pair.start()
        assert pair.process is not None
        brain = pair.process.pid
        (pair.left / "large").write_bytes(os.urandom(1_000_000))
        frozen = until(lambda: _named("rsync", brain), "rsync")
        for pid in frozen:
            os.kill(pid, signal.SIGSTOP)
        (pair.left / "other").write_bytes(os.urandom(300_000))

        assert set(pair.settle()) == {b"large", b"other"}
        assert not set(frozen) & set(_named("rsync", brain))
        until(lambda: not pair.leftovers(), "empty staging")


def _named(name: str, parent: int) -> list[int]:
    """The processes with a name among those that come from another."""
    found = []
    for pid in children(parent):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if Path(f"/proc/{pid}/comm").read_text().strip() == name:
                found.append(pid)
    return found


class TestAgent:
    def test_runs_where_only_python_and_rsync_are_installed(
        self, breakable: Pair, sshd: Sshd, tmp_path: Path
    ) -> None:
        bare = tmp_path / "bin"
        bare.mkdir()
        for name in ("python3", "rsync", "sh"):
            target = Path("/usr/bin" if name != "sh" else "/bin", name)
            (bare / name).symlink_to(target)
        sshd.through(f'PATH={bare} exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"')
        breakable.start()
        (breakable.left / "small").write_text("s")
        (breakable.left / "large").write_bytes(os.urandom(1_000_000))
        (breakable.right / "back").write_bytes(os.urandom(1_000_000))

        assert set(breakable.settle()) == {b"small", b"large", b"back"}

    def test_behind_a_forced_command_serves_its_root_only(
        self, breakable: Pair, sshd: Sshd
    ) -> None:
        pair = breakable
        agent = f"{sys.executable} -m psync agent --root {pair.right}"
        checkout = Path(__file__).resolve().parents[2]
        sshd.allow(f"cd {checkout} && PYTHONPATH={checkout} {agent}")
        pair.start()
        (pair.left / "small").write_text("s")
        (pair.left / "large").write_bytes(os.urandom(1_000_000))
        (pair.right / "back").write_bytes(os.urandom(1_000_000))
        assert set(pair.settle()) == {b"small", b"large", b"back"}
        assert pair.stop() == 0

        pair.right = pair.base / "elsewhere"
        pair.right.mkdir()
        refused = pair.launch()

        assert refused.wait(30) == 2
        assert str(pair.right) in pair.output()
        assert tree(pair.right) == {}
