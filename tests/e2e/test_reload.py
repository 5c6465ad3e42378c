"""SIGHUP: another configuration is taken over by the session that runs."""

from __future__ import annotations

import os
import random
import signal
import threading
from pathlib import Path

import pytest

from tests.e2e.pair import Pair, configured, tree, until
from tests.sshd import Sshd


def names(root: Path) -> set[str]:
    return {path.decode() for path in tree(root)}


def hang_up(pair: Pair, said: str = "configuration: ") -> str:
    """Send SIGHUP; return the line in which the session says what came of it."""
    before = len(lines(pair, said))
    assert pair.process is not None
    pair.process.send_signal(signal.SIGHUP)
    until(lambda: len(lines(pair, said)) > before, "word of the configuration")
    return lines(pair, said)[-1]


def lines(pair: Pair, said: str) -> list[str]:
    (file,) = pair.state.glob("sessions/*/psync.log")
    return [line for line in file.read_text().splitlines() if said in line]


class TestRules:
    def test_show_what_they_hide_no_more_and_hide_what_they_did_not(self, pair: Pair) -> None:
        name = configured(pair, excludes='["*.o", "build/"]', log_level='"debug"')
        for path in ("x.o", "d/y.o", "d/build/deep/z", "cache/c", "cache/d/e", "f"):
            file = pair.left / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(path)
        pair.run(*name)
        pair.flush()
        assert names(pair.right) == {"d", "cache", "cache/c", "cache/d", "cache/d/e", "f"}

        configured(pair, excludes='["cache"]', log_level='"debug"')
        assert "configuration: taken over: excludes" in hang_up(pair)
        pair.flush()

        assert (pair.right / "d/build/deep/z").read_text() == "d/build/deep/z"
        assert names(pair.right) - names(pair.left) == set()
        assert names(pair.left) - names(pair.right) == set()
        (pair.left / "cache/c").unlink()
        (pair.left / "cache/d/e").write_text("mine")
        (pair.right / "cache/new").write_text("theirs")
        (pair.left / "x.o").write_text("two")
        pair.flush()
        assert (pair.right / "cache/c").read_text() == "cache/c"
        assert (pair.right / "cache/d/e").read_text() == "cache/d/e"
        assert not (pair.left / "cache/new").exists()
        assert (pair.right / "x.o").read_text() == "two"
        status = pair.status()
        assert (status["state"], status["problems"], status["conflicts"]) == ("watching", 0, 0)
        audit = pair.psync("check", status["name"])
        assert (audit.returncode, audit.stderr) == (0, ""), audit.stdout

    def test_that_come_back_bring_both_sides_together(self, local: Pair) -> None:
        name = configured(local)
        for path in ("cache/c", "cache/gone", "x"):
            (local.left / path).parent.mkdir(exist_ok=True)
            (local.left / path).write_text(path)
        local.run(*name)
        local.settle()
        configured(local, excludes='["cache/", "x"]')
        hang_up(local)
        local.flush()
        (local.left / "cache/gone").unlink()
        (local.left / "cache/c").write_text("two")
        (local.right / "cache/r").write_text("r")

        configured(local)
        hang_up(local)

        after = local.settle()
        assert after[b"cache/gone"][-1] == b"cache/gone"  # nobody has seen it deleted
        assert after[b"cache/c"][-1] == b"two"
        assert after[b"cache/r"][-1] == b"r"
        assert b"x" in after

    def test_hold_for_a_side_that_was_away(self, breakable: Pair, sshd: Sshd) -> None:
        pair = breakable
        name = configured(pair, excludes='["*.o"]')
        pair.run(*name)
        for path in ("x.o", "y.tmp"):
            (pair.left / path).write_text(path)
        pair.flush()
        sshd.stop()
        pair.wait_for("disconnected")

        configured(pair, excludes='["*.tmp"]')
        hang_up(pair)
        (pair.right / "new.o").write_text("new")
        (pair.right / "new.tmp").write_text("new")
        (pair.left / "y.tmp").unlink()
        sshd.restart()
        pair.wait_for("watching")
        pair.flush()

        assert names(pair.left) == {"x.o", "new.o"}
        assert names(pair.right) == {"x.o", "new.o", "new.tmp", "y.tmp"}

    @pytest.mark.parametrize("seed", range(3))
    def test_that_come_and_go_while_users_work_lose_nothing(self, pair: Pair, seed: int) -> None:
        draw = random.Random(seed)
        name = configured(pair)
        pair.run(*name)
        written: dict[Path, str] = {}
        for step in range(400):
            root = draw.choice((pair.left, pair.right))
            mine = root.name  # each side has files of its own: there is no conflict to be had
            top = draw.choice(("cache", "d", "d/cache", "e"))
            path = Path(top, mine, f"f{draw.randrange(12)}")
            try:
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                if draw.random() < 0.2 and path in written:
                    there = Path(draw.choice(("cache", "d", "e")), mine, f"m{step}")
                    (root / there).parent.mkdir(parents=True, exist_ok=True)
                    os.rename(root / path, root / there)
                    written[there] = written.pop(path)
                else:
                    (root / path).write_text(f"{step}")
                    written[path] = f"{step}"
            except FileNotFoundError:
                continue  # the directory was renamed over there
            if step % 40 == 20:
                rules = draw.choice(('["cache/"]', '["*1", "d/"]', "[]", '["re:cache"]'))
                configured(pair, excludes=rules)
                pair.process.send_signal(signal.SIGHUP)
        configured(pair)
        pair.process.send_signal(signal.SIGHUP)
        pair.flush()

        after = pair.settle()

        assert {path: after[os.fsencode(path)][-1].decode() for path in written} == written
        assert pair.status()["problems"] == 0

    def test_that_are_others_at_the_start_delete_nothing_either(self, local: Pair) -> None:
        name = configured(local)
        (local.left / "build").mkdir()
        (local.left / "build/f").write_text("f")
        local.run(*name)
        local.settle()
        local.stop()

        name = configured(local, excludes='["build/"]')
        local.run(*name)
        (local.left / "build/f").unlink()
        (local.left / "build").rmdir()
        local.flush()
        local.stop()
        assert (local.right / "build/f").read_text() == "f"

        name = configured(local)
        local.run(*name)
        assert (local.left / "build/f").read_text() == "f"


class TestKeys:
    def test_are_taken_over_or_named_as_in_need_of_a_restart(self, local: Pair) -> None:
        name = configured(local, conflict='"ask"')
        local.run(*name)
        (local.left / "f").write_text("one")
        local.settle()
        assert local.psync("pause").returncode == 0
        (local.left / "f").write_text("left")
        (local.right / "f").write_text("right")
        assert local.psync("resume").returncode == 0
        until(lambda: local.status()["conflicts"] == 1, "the conflict")

        configured(local, conflict='"right"', settle_ms="20", timeout="30", inline_max="10")
        told = hang_up(local)

        assert "taken over: settle_ms, timeout, conflict; needs a restart: inline_max" in told
        assert local.settle()[b"f"][-1] == b"right"
        assert local.status()["awaiting_restart"] == ["inline_max"]
        assert "  needs a restart: inline_max\n" in local.psync("status").stdout

        configured(local, conflict='"right"', settle_ms="20", timeout="30")
        assert "configuration: nothing has changed" in hang_up(local)
        assert local.status()["awaiting_restart"] == []

    def test_of_the_log_count_from_then_on(self, local: Pair) -> None:
        name = configured(local)
        local.run(*name)
        assert lines(local, "watching with") == []

        configured(local, log_level='"warning"')
        hang_up_quietly(local)
        (local.left / "f").write_text("one")
        local.settle()
        assert lines(local, "path=f") == []

        configured(local, log_level='"info"')
        hang_up(local)
        (local.left / "g").write_text("one")
        local.settle()
        assert any("path=g" in line for line in lines(local, "created"))

    def test_name_a_program_that_ends_the_session(self, local: Pair) -> None:
        name = configured(local)
        local.run(*name)

        running = Path("/proc/self/comm").read_text().strip()
        configured(local, banned=f'"{running}"')
        hang_up(local)

        assert local.process is not None
        assert local.process.wait(60) == 1


def hang_up_quietly(pair: Pair) -> None:
    """Send SIGHUP where no word of it is written; what is asked later comes after it."""
    assert pair.process is not None
    pair.process.send_signal(signal.SIGHUP)
    pair.flush()


class TestFile:
    def test_that_is_broken_changes_nothing(self, local: Pair) -> None:
        name = configured(local, excludes='["*.o"]')
        local.run(*name)
        configured(local, excludes='["*.o", "[a"]', settl_ms="1")

        told = hang_up(local, "all stays as it was")

        assert "psync.toml: [session.home]: unknown key settl_ms: did you mean settle_ms?" in told
        (local.left / "x.o").write_text("x")
        (local.left / "f").write_text("f")
        local.flush()
        assert names(local.right) == {"f"}

    def test_that_names_no_way_to_the_host_changes_nothing(self, pair: Pair) -> None:
        name = configured(pair)
        pair.run(*name)
        configured(pair, ssh_options='"-Z"', excludes='["*.o"]')

        told = hang_up(pair, "all stays as it was")

        assert "psync.toml: [session.home]: ssh option -Z means nothing to psync" in told
        (pair.left / "x.o").write_text("x")
        pair.flush()
        assert names(pair.right) == {"x.o"}

    def test_that_is_broken_is_told_of_until_it_is_mended(self, local: Pair) -> None:
        configured(local)
        file, place = local.base / "psync.toml", local.base / "config/psync/psync.toml"
        place.parent.mkdir(parents=True)
        place.symlink_to(file)
        local.env["XDG_CONFIG_HOME"] = str(local.base / "config")
        local.run("home")
        file.write_text("[session")

        told = hang_up(local, "all stays as it was")

        assert "neither a verb" not in told
        assert "is no TOML" in local.status()["misconfigured"]
        (line,) = (x for x in local.psync("status").stdout.splitlines() if "as it was" in x)
        assert line.startswith("  configuration: ")

        configured(local)
        file.write_text(file.read_text() + "[alerts]\nmail = 'root'\n")
        assert "configuration: taken over: alerts" in hang_up(local)
        assert local.status()["misconfigured"] == ""
        assert local.status()["alerts"]
        assert "configuration: nothing has changed" in hang_up(local)

    def test_is_read_by_no_session_of_the_command_line(self, local: Pair) -> None:
        local.start()
        configured(local, excludes='["*.o"]')
        assert local.process is not None
        local.process.send_signal(signal.SIGHUP)

        (local.left / "x.o").write_text("x")

        assert b"x.o" in local.settle()
        assert lines(local, "configuration") == []


class TestStart:
    def hang_up_early(self, pair: Pair) -> None:
        until(lambda: list(pair.state.glob("sessions/*/lock")), "a session that begins")
        assert pair.process is not None
        pair.process.send_signal(signal.SIGHUP)

    def test_does_not_end_of_a_reload_that_comes_too_early(self, local: Pair) -> None:
        name = configured(local)
        hang_up_early = threading.Thread(target=self.hang_up_early, args=(local,))
        hang_up_early.start()
        local.run(*name)
        hang_up_early.join()

        (local.left / "f").write_text("x")
        assert b"f" in local.settle()
