"""`psync runcheck` finds what is not alive from end to end, and nothing that only looks so."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.pair import Pair, until
from tests.sshd import Sshd, children

OK, WARNING, CRITICAL, UNKNOWN = range(4)


class Service:
    """A configured session in the background, and the mail that is sent about it."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.config = pair.base / "psync.toml"
        self.mail = pair.base / "mail"
        self.mail.mkdir()
        tools = pair.base / "tools"
        tools.mkdir()
        program = tools / "sendmail"
        program.write_text(
            f"#!/bin/sh\n[ ! -e {pair.base}/mail-is-down ] || exit 75\n"
            f"n=$(ls {self.mail} | wc -l)\ncat >{tools}/$n\nmv {tools}/$n {self.mail}/$n\n"
        )
        program.chmod(0o755)
        pair.env["PATH"] = f"{tools}:{os.environ['PATH']}"
        self.configure()

    def configure(self, session: str = "", alerts: str = "", checks: str = "after = 1") -> None:
        host = f'host = "{self.pair.host}"\n' if self.pair.host else ""
        self.config.write_text(
            f'[session.home]\n{host}left = "{self.pair.left}"\nright = "{self.pair.right}"\n'
            f"{session}\n[alerts]\n{alerts}\n[runcheck]\n{checks}\n"
        )

    @property
    def directory(self) -> Path:
        return self.pair.state / "sessions" / "home"

    def psync(self, *args: str) -> subprocess.CompletedProcess[str]:
        verb, *rest = args
        return self.pair.psync(verb, "--config", str(self.config), *rest)

    def start(self) -> int:
        done = self.psync("start", "home")
        assert done.returncode == 0, done.stderr
        self.pair.flush()
        return int(self.pair.status()["pid"])

    def check(self, *args: str) -> tuple[int, str]:
        """Run it; return its code and the line about the session."""
        done = self.psync("runcheck", *args)
        assert done.stderr == ""
        (line,) = done.stdout.splitlines()
        return done.returncode, line

    def subjects(self) -> list[str]:
        letters = sorted(self.mail.iterdir(), key=lambda p: int(p.name))
        lines = [line for letter in letters for line in letter.read_text().splitlines()]
        return [line.partition(": ")[2] for line in lines if line.startswith("Subject: ")]


def made(pair: Pair) -> Iterator[Service]:
    service = Service(pair)
    try:
        yield service
    finally:
        for told in pair._ask("status", 5):
            os.kill(told["pid"], signal.SIGCONT)
        pair.psync("stop", "--all")


@pytest.fixture
def service(pair: Pair) -> Iterator[Service]:
    yield from made(pair)


@pytest.fixture
def plainly(local: Pair) -> Iterator[Service]:
    """Without SSH: where only the session's own end is of interest."""
    yield from made(local)


class TestWell:
    def test_is_said_with_figures_and_status_0(self, service: Service) -> None:
        service.start()

        code, line = service.check()

        assert code == OK
        assert line.startswith("OK: home: watching; heartbeat 0.")
        told = json.loads(service.psync("runcheck", "--json").stdout)["sessions"]
        assert told[0]["status"] == "OK"
        assert 0 < told[0]["heartbeat_s"] <= told[0]["lag_s"] < 60

    def test_leaves_nothing_in_the_trees(self, service: Service) -> None:
        service.start()
        service.check()

        assert service.pair.settle() == {}


class TestDead:
    def test_is_started_again(self, plainly: Service) -> None:
        pid = plainly.start()
        os.kill(pid, signal.SIGKILL)
        until(lambda: not plainly.pair.agents(), "the end of the agents")

        code, line = plainly.check()

        assert code == WARNING
        assert line == "WARNING: home: down: no process of it answers; started again"
        (plainly.pair.left / "x").write_text("x")
        assert b"x" in plainly.pair.settle()
        assert plainly.check()[0] == OK

    def test_is_not_said_to_be_started_when_it_cannot_go_on(self, service: Service) -> None:
        """What is wrong over there shows only once a connection stands."""
        os.kill(service.start(), signal.SIGKILL)
        until(lambda: not service.pair.agents(), "the end of the agents")
        service.pair.right.rename(service.pair.base / "away")
        service.pair.right.write_text("no directory")

        code, line = service.check()

        assert code == CRITICAL
        assert "; not started: session home ended at once: " in line
        done = service.psync("start", "home")
        assert done.returncode == 2
        assert "home ended at once" in done.stderr
        assert done.stdout == ""

    def test_says_what_it_waits_for_once_it_is_started(self, service: Service) -> None:
        service.configure("ssh_options = '-p 1'")

        done = service.psync("start", "home")

        assert done.returncode == 0
        assert done.stdout.startswith("home: started; right is not connected: ")

    def test_is_left_alone_when_it_was_stopped_on_purpose(self, plainly: Service) -> None:
        plainly.configure(alerts="mail = 'root'")
        plainly.start()
        assert plainly.psync("stop", "home").returncode == 2  # it takes no --config
        assert plainly.pair.psync("stop", "home").returncode == 0

        code, line = plainly.check()

        assert (code, line) == (WARNING, "WARNING: home: stopped on purpose (psync stop)")
        assert plainly.pair.status() == {}
        assert plainly.psync("start").stdout.startswith("home: stopped on purpose")
        assert plainly.subjects() == []
        plainly.start()
        assert plainly.check()[0] == OK

    @pytest.mark.parametrize("once", [("sync", "-n"), ("run", "-n"), ("sync",)])
    def test_stays_stopped_on_purpose_after_a_run_that_ends_by_itself(
        self, plainly: Service, once: tuple[str, ...]
    ) -> None:
        plainly.start()
        assert plainly.pair.psync("stop", "home").returncode == 0
        assert plainly.psync(*once, "home").returncode == 0

        code, line = plainly.check()

        assert (code, line) == (WARNING, "WARNING: home: stopped on purpose (psync stop)")
        assert plainly.pair.status() == {}

    def test_is_only_looked_at_if_so_wanted(self, plainly: Service) -> None:
        assert plainly.check("--no-restart")[0] == CRITICAL
        assert plainly.pair.status() == {}

    def test_that_cannot_be_started_says_why(self, plainly: Service) -> None:
        plainly.pair.right.rmdir()

        code, line = plainly.check()

        assert code == CRITICAL
        assert f"not started: session home ended at once: {plainly.pair.right} does not" in line

    def test_that_cannot_begin_leaves_no_session(self, plainly: Service) -> None:
        plainly.pair.right.rmdir()

        assert f"{plainly.pair.right} does not exist" in plainly.psync("start", "home").stderr

        assert list((plainly.pair.state / "sessions").iterdir()) == []

    def test_that_is_configured_and_is_refused_is_known_to_have_failed(
        self, service: Service
    ) -> None:
        service.pair.host = "no-such-host.invalid"
        service.configure()

        assert "there is no host called" in service.psync("start", "home").stderr

        assert json.loads((service.directory / "session.json").read_text())["exit"] == 2
        assert "there is no host called" in (service.directory / "psync.log").read_text()


class TestEnding:
    """A session that is configured to end by itself: cron runs it, and nobody keeps it alive."""

    @pytest.mark.parametrize("key", ["sync_only", "dry_run"])
    def test_in_good_order_is_well_and_is_not_started(self, plainly: Service, key: str) -> None:
        plainly.configure(f"{key} = true", alerts="mail = 'root'")
        (plainly.pair.left / "f").write_text("x")

        before = plainly.check()
        assert plainly.psync("run", "home").returncode == 0
        code, line = plainly.check()

        assert before[0] == WARNING
        assert before[1].startswith("WARNING: home: has not run yet; ")
        assert code == OK
        assert line == "OK: home: ended in good order, as it is configured to"
        assert plainly.psync("runcheck", "home").stdout == line + "\n"
        assert plainly.pair.status() == {}
        assert plainly.subjects() == []

    def test_otherwise_is_told_and_it_is_not_started(self, plainly: Service) -> None:
        plainly.configure("sync_only = true", alerts="mail = 'root'")
        assert plainly.psync("run", "home").returncode == 0
        plainly.pair.right.rename(plainly.pair.base / "away")
        assert plainly.psync("run", "home").returncode == 2

        code, line = plainly.check()

        assert (code, line) == (CRITICAL, "CRITICAL: home: down: it ended with status 2")
        assert len(plainly.subjects()) == 1


class TestBesideABadOne:
    def test_others_are_started_and_looked_at(self, plainly: Service) -> None:
        good = plainly.config.read_text()
        plainly.config.write_text('[session."a/b"]\nleft = "/l"\nright = "/r"\n' + good)

        started = plainly.psync("start")
        plainly.pair.flush()
        looked = plainly.psync("runcheck")

        assert (started.returncode, started.stdout) == (2, "home: started\n")
        assert "'a/b' is no name for a session" in started.stderr
        assert looked.returncode == UNKNOWN
        bad, home = looked.stdout.splitlines()
        assert bad.startswith("UNKNOWN: a/b: ")
        assert home.startswith("OK: home: ")

    def test_it_is_not_started_on_the_root_of_another(self, plainly: Service) -> None:
        second = f'[session.second]\nleft = "{plainly.pair.right}"\nright = "{plainly.mail}"\n'
        plainly.config.write_text(plainly.config.read_text() + second)

        started = plainly.psync("start")
        looked = plainly.psync("runcheck")

        assert (started.returncode, started.stdout) == (2, "home: started\n")
        assert "no root belongs to two sessions" in started.stderr
        bad, home = looked.stdout.splitlines()
        assert bad.startswith("CRITICAL: second: down: no process of it answers; not started: ")
        assert home.startswith(("OK: home: ", "WARNING: home: "))
        assert looked.returncode == CRITICAL


class TestMisconfigured:
    """A session that could not be started again is named while it runs, not after the crash."""

    WRONG = "trash = 'x'"

    def test_is_named_while_it_runs(self, plainly: Service) -> None:
        pid = plainly.start()
        plainly.configure(self.WRONG)

        code, line = plainly.check()
        started = plainly.psync("start")

        said = f"{plainly.config}: [session.home]: trash: "
        assert code == WARNING
        assert line.startswith(f"WARNING: home: watching, but could not be started again: {said}")
        assert (started.returncode, started.stdout) == (2, "home: runs already\n")
        (told,) = started.stderr.splitlines()
        assert told.startswith(f"psync: {said}")
        assert plainly.pair.status()["pid"] == pid

    def test_is_named_where_no_connection_could_be_made_again(self, service: Service) -> None:
        service.start()
        service.configure("ssh_options = '-Z'")

        code, line = service.check()

        assert code == WARNING
        assert f"be started again: {service.config}: [session.home]: ssh option -Z means" in line

    def test_is_named_where_it_was_stopped_on_purpose(self, plainly: Service) -> None:
        plainly.start()
        assert plainly.pair.psync("stop", "home").returncode == 0
        plainly.configure(self.WRONG, alerts="mail = 'root'")

        code, line = plainly.check()
        started = plainly.psync("start")

        said = f"{plainly.config}: [session.home]: trash: "
        assert code == WARNING
        assert line.startswith("WARNING: home: stopped on purpose (psync stop); could not be ")
        assert said in line
        assert plainly.subjects() == []
        assert started.returncode == 2
        assert started.stdout.startswith("home: stopped on purpose")
        assert started.stderr.startswith(f"psync: {said}")

    def test_is_told_once_after_so_many_in_a_row_and_once_when_it_is_over(
        self, plainly: Service
    ) -> None:
        alerts, checks = "mail = 'root'", "after = 2"
        plainly.configure("", alerts, checks)
        plainly.start()
        plainly.configure(self.WRONG, alerts, checks)

        plainly.check()
        assert plainly.subjects() == []
        for _ in range(3):
            plainly.check()
        (subject,) = plainly.subjects()
        assert "session home: watching, but could not" in subject  # a long one is folded
        plainly.configure("", alerts, checks)
        for _ in range(2):
            assert plainly.check()[0] == OK

        assert len(plainly.subjects()) == 2
        assert plainly.subjects()[1].endswith("session home is well again")

    def test_is_not_ended_where_it_hangs(self, plainly: Service) -> None:
        pid = plainly.start()
        plainly.configure(self.WRONG)
        os.kill(pid, signal.SIGSTOP)

        code, line = plainly.check()
        os.kill(pid, signal.SIGCONT)

        assert code == CRITICAL
        assert "it hangs; could not be started again: " in line
        assert line.count("[session.home]") == 1
        assert plainly.pair.status()["pid"] == pid


class TestHung:
    def test_is_ended_and_started_when_it_is_found_so_in_a_row(self, plainly: Service) -> None:
        plainly.configure(checks="after = 2")
        pid = plainly.start()
        os.kill(pid, signal.SIGSTOP)

        first, _ = plainly.check()
        assert first == CRITICAL
        assert os.path.exists(f"/proc/{pid}")
        second, line = plainly.check()

        assert second == WARNING
        assert line.endswith("it hangs; started again")
        assert plainly.pair.status()["pid"] != pid
        plainly.pair.flush()


class TestLink:
    def test_that_is_stalled_gives_no_heartbeat(self, breakable: Pair, sshd: Sshd) -> None:
        for service in made(breakable):
            service.start()
            sshd.freeze()

            code, line = service.check("--lag", "1")

            assert code == CRITICAL
            assert "no heartbeat within 1 s, while it says that it is watching" in line
            sshd.thaw()
            service.pair.flush()
            assert service.check()[0] == OK

    def test_that_is_cut_is_told_with_its_reason(self, breakable: Pair, sshd: Sshd) -> None:
        for service in made(breakable):
            service.start()
            sshd.stop()

            def away() -> bool:
                return breakable.status()["state"] == "disconnected"

            until(away, "the loss of the link")
            code, line = service.check("--lag", "1")

            assert code == CRITICAL
            assert "right is not connected: " in line
            sshd.restart()

    def test_that_was_never_there_is_what_is_waited_for(self, plainly: Service) -> None:
        """The agent of the other side has not begun to watch: a question would be its end."""
        pair = plainly.pair
        pair.host = "127.0.0.1"
        plainly.configure("ssh_options = '-p 1'")
        assert plainly.psync("start", "home").returncode == 0
        until(lambda: pair.status()["left"]["waits"], "the agent that waits")

        code, line = plainly.check()
        flushed = pair.psync("flush", "--timeout", "0.5", "home")
        compared = plainly.psync("sync", "-n", "home")

        assert code == CRITICAL
        assert line.startswith("CRITICAL: home: right is not connected: ")
        assert line.endswith("; left is not connected: it waits for the right")
        assert flushed.returncode == 1
        assert "is not connected" in compared.stderr
        assert pair.status()["left"]["waits"]
        assert "side=left" not in pair.log()


class TestWatcher:
    def test_that_is_dead_to_the_world_is_found(self, service: Service) -> None:
        """A process list would show every process there should be."""
        pid = service.start()
        watchers = [
            child
            for parent in [*children(pid), *service.pair.agents()]
            for child in children(parent)
            if "cinotify" in Path(f"/proc/{child}/comm").read_text()
        ]
        assert watchers
        os.kill(watchers[-1], signal.SIGSTOP)
        try:
            code, line = service.check("--lag", "1")
        finally:
            os.kill(watchers[-1], signal.SIGCONT)

        assert code == CRITICAL
        assert "no heartbeat within 1 s" in line


class TestLag:
    def test_above_its_bound_is_told(self, plainly: Service) -> None:
        plainly.start()
        for root in (plainly.pair.left, plainly.pair.right):
            (root / "f").write_text("x")
        plainly.pair.flush()
        with (plainly.pair.right / "f").open("r+"):  # somebody works on it
            (plainly.pair.left / "f").write_text("longer")

            code, line = plainly.check("--lag", "1")

        assert code == WARNING
        assert "lag above 1 s" in line


class TestHalted:
    def test_is_left_to_a_person(self, plainly: Service) -> None:
        plainly.start()
        for number in range(20):
            (plainly.pair.left / f"f{number}").write_text("x")
        plainly.pair.flush()
        pid = plainly.pair.status()["pid"]
        (plainly.pair.left / ".psync").rename(plainly.pair.base / "gone")
        until(lambda: plainly.pair.status()["state"] == "halted", "the halt")

        code, line = plainly.check()

        assert code == CRITICAL
        assert line.startswith("CRITICAL: home: halted: ")
        assert plainly.pair.status()["pid"] == pid
        assert len(list(plainly.pair.right.glob("f*"))) == 20


class TestAudit:
    @pytest.mark.parametrize(
        ("audit", "code", "said"),
        [
            pytest.param({"exit": 0}, OK, "watching", id="equal"),
            pytest.param(
                {"exit": 2, "counts": {"content": 3}}, CRITICAL, "an alert: 3 content", id="alert"
            ),
            pytest.param({"exit": 3, "counts": {"new": 1}}, WARNING, "differences", id="notice"),
            pytest.param({"exit": 1, "error": "cut"}, WARNING, "failed: cut", id="failed"),
            pytest.param(
                {"exit": 0, "time": "2020-01-01T00:00:00+00:00"}, WARNING, "hours old", id="old"
            ),
            pytest.param(
                {"exit": 0, "time": "2100-01-01T00:00:00+00:00"}, WARNING, "the future", id="ahead"
            ),
            pytest.param(None, WARNING, "no audit yet", id="missing"),
        ],
    )
    def test_counts(
        self, plainly: Service, audit: dict[str, Any] | None, code: int, said: str
    ) -> None:
        plainly.configure(checks="audit_age = '1d'")
        plainly.start()
        if audit is not None:
            told = {"time": f"{_now()}", **audit}
            (plainly.directory / "audit.json").write_text(json.dumps(told))

        found, line = plainly.check()

        assert found == code
        assert said in line


def _now() -> str:
    done = subprocess.run(
        ["date", "-u", "+%Y-%m-%dT%H:%M:%S+00:00"], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


class TestTelling:
    def test_is_once_after_so_many_in_a_row_and_once_when_it_is_over(
        self, plainly: Service
    ) -> None:
        plainly.configure(alerts="mail = 'root'", checks="after = 2\nrestart = false")

        plainly.check()
        assert plainly.subjects() == []
        plainly.check()
        plainly.check()
        (subject,) = plainly.subjects()
        assert subject.endswith("session home: down: no process of it answers")
        plainly.start()
        plainly.check()
        plainly.check()

        assert len(plainly.subjects()) == 2
        assert plainly.subjects()[1].endswith("session home is well again")
        assert (plainly.directory / "runcheck.json").stat().st_mode & 0o077 == 0

    def test_is_tried_again_until_somebody_is_told(self, plainly: Service) -> None:
        plainly.configure(alerts="mail = 'root'", checks="after = 1\nrestart = false")
        down = plainly.pair.base / "mail-is-down"
        down.touch()

        done = plainly.psync("runcheck")
        assert done.returncode == CRITICAL
        assert "psync: [alerts] mail: sendmail failed (75)" in done.stderr
        down.unlink()
        plainly.check()

        assert len(plainly.subjects()) == 1

    def test_is_tried_again_by_the_way_that_failed(self, plainly: Service) -> None:
        told = plainly.pair.base / "told"
        tell = f"command = ['sh', '-c', 'echo $PSYNC_EVENT >>{told}']"
        plainly.configure(alerts=f"mail = 'root'\n{tell}", checks="after = 1\nrestart = false")
        down = plainly.pair.base / "mail-is-down"
        down.touch()

        for _ in range(2):
            assert "sendmail failed (75)" in plainly.psync("runcheck").stderr
        down.unlink()
        plainly.check()
        plainly.check()

        assert told.read_text().split() == ["down"]
        assert len(plainly.subjects()) == 1

    def test_of_what_a_session_tells_itself_is_left_to_it(self, plainly: Service) -> None:
        plainly.configure(alerts="mail = 'root'")
        plainly.start()
        (plainly.pair.left / "f").write_text("x")
        plainly.pair.flush()
        (plainly.pair.left / ".psync").rename(plainly.pair.base / "gone")
        until(plainly.subjects, "the session's own alert")

        assert plainly.check()[0] == CRITICAL
        (subject,) = plainly.subjects()
        assert subject.endswith("session home has HALTED")

    def test_of_a_problem_that_outlasts_a_restart_is_once(self, local: Pair) -> None:
        """A session that tells nobody has not met it yet when it is asked first."""
        service = Service(local)
        service.config.write_text("[alerts]\nmail = 'root'\n[runcheck]\nafter = 1\n")
        local.options = ["--set", "inline_max=10", "--set", "rsync_extra=--bwlimit=bogus"]
        (local.left / "f").write_text("x" * 1000)
        for _ in range(2):
            local.launch()
            local.wait_for("watching")
            code, line = service.check()
            assert code == WARNING
            assert "1 problem, like " in line
            local.stop()

        (subject,) = service.subjects()
        assert "1 problem, like " in subject


class TestUsage:
    def test_without_any_session_nothing_can_be_told(self, local: Pair) -> None:
        done = local.psync("runcheck")

        assert done.returncode == UNKNOWN
        assert done.stdout.startswith("UNKNOWN: there is no session")

    def test_names_a_session_that_nobody_knows(self, plainly: Service) -> None:
        code, line = plainly.check("hmoe")

        assert code == UNKNOWN
        assert "no session 'hmoe'" in line

    def test_worst_comes_first(self, plainly: Service) -> None:
        plainly.start()
        with plainly.config.open("a") as config:
            config.write('[session.other]\nleft = "/nowhere"\nright = "/nowhere/2"\n')

        done = plainly.psync("runcheck")

        assert done.returncode == CRITICAL
        assert [line.split(": ")[:2] for line in done.stdout.splitlines()] == [
            ["CRITICAL", "other"],
            ["OK", "home"],
        ]


class TestUnnamed:
    """Neither the configuration nor the command line says that these have to run."""

    def look(self, pair: Pair, *args: str) -> tuple[int, str]:
        done = pair.psync("runcheck", *args)
        assert done.stderr == ""
        return done.returncode, done.stdout.partition(": ")[0]

    def test_may_end_in_good_order(self, local: Pair) -> None:
        assert local.launch("--sync-only").wait(60) == 0
        assert self.look(local) == (OK, "OK")
        local.start()
        assert local.stop() == 0
        assert self.look(local) == (OK, "OK")
        local.start()
        assert local.psync("stop").returncode == 0

        assert self.look(local) == (OK, "OK")

    @pytest.mark.parametrize("files", [0, 1])
    def test_may_not_die_until_somebody_says_that_it_stays_away(
        self, local: Pair, files: int
    ) -> None:
        for number in range(files):
            (local.left / f"f{number}").write_text("x")
        local.start()
        name = local.status()["name"]
        local.kill()
        assert self.look(local) == (CRITICAL, "CRITICAL")
        assert self.look(local) == (CRITICAL, "CRITICAL")
        assert "is not running" in local.psync("stop", name).stderr

        assert self.look(local) == (OK, "OK")
        assert self.look(local, name) == (WARNING, "WARNING")

    def test_is_to_run_when_it_is_named(self, local: Pair) -> None:
        local.start()
        name = local.status()["name"]
        local.stop()

        assert self.look(local, name) == (CRITICAL, "CRITICAL")

    def test_is_missed_by_nobody_if_it_never_began(self, local: Pair) -> None:
        local.host = "127.0.0.1"
        local.options = ["--set", "ssh_options=-p 1"]
        local.launch()
        local.wait_for("disconnected")
        assert self.look(local)[0] == CRITICAL  # as long as it is there
        local.kill()

        assert self.look(local) == (OK, "OK")


class TestScripts:
    def test_start_look_and_stop(self, plainly: Service, checkout: Path) -> None:
        def script(name: str, *args: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [checkout / "scripts" / name, *args], env=plainly.pair.env, text=True,
                capture_output=True, timeout=60, check=False,
            )  # fmt: skip

        started = script("start", "--config", str(plainly.config))
        plainly.pair.flush()
        looked = script("runcheck", "--config", str(plainly.config))
        stopped = script("stop", "gone", "home")

        assert (started.returncode, started.stdout) == (0, "home: started\n"), started.stderr
        assert (looked.returncode, looked.stdout[:9]) == (0, "OK: home:"), looked.stderr
        said = "psync: session gone is not running\n"
        assert (stopped.returncode, stopped.stderr) == (2, said)
        assert plainly.pair.status() == {}
