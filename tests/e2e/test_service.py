"""A session as a service: as systemd, cron and logrotate meet it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.pair import WAIT_S, Pair, command, configured, tree, until
from tests.e2e.test_runcheck import Service, made
from tests.sshd import Sshd
from tests.test_install import CRON


@pytest.fixture
def service(local: Pair) -> Iterator[Service]:
    yield from made(local)


@pytest.fixture
def manager(pair: Pair) -> Iterator[socket.socket]:
    """What systemd listens on; the pair's sessions are told of it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.bind(str(pair.base / "notify"))
        line.settimeout(WAIT_S)
        pair.env["NOTIFY_SOCKET"] = str(pair.base / "notify")
        pair.env["WATCHDOG_USEC"] = "600000"
        yield line


def hear(manager: socket.socket, word: str) -> list[str]:
    """Everything that the manager is told until it is told `word`."""
    heard: list[str] = []
    while not any(line.startswith(word) for line in heard):
        heard += manager.recv(4096).decode().split("\n")
    return heard


class TestManager:
    def test_hears_all_of_a_life(self, pair: Pair, manager: socket.socket) -> None:
        pair.launch()

        assert "READY=1" in hear(manager, "READY=1")
        hear(manager, "STATUS=watching: 0 pending")
        hear(manager, "WATCHDOG=1")
        assert pair.stop() == 0
        assert hear(manager, "STOPPING=1")

    def test_hears_that_it_is_ready_when_the_other_host_is_away(
        self, pair: Pair, manager: socket.socket
    ) -> None:
        """Else the unit would fail, and be started over and over."""
        pair.host = "127.0.0.1"
        pair.options = ["--set", "ssh_options=-p 1"]
        pair.launch()

        hear(manager, "READY=1")

    def test_hears_when_another_configuration_has_been_taken_over(
        self, pair: Pair, manager: socket.socket
    ) -> None:
        pair.run(*configured(pair))
        hear(manager, "READY=1")
        for values, said in (({"trash": "'1d'"}, "taken over: trash"), ({"trsh": "1"}, "trsh")):
            configured(pair, **values)
            assert pair.process is not None
            pair.process.send_signal(signal.SIGHUP)

            hear(manager, "RELOADING=1")
            hear(manager, "READY=1")

            assert said in pair.log()  # also when all stays as it was: systemd waits for it

    def test_hears_nothing_from_a_brain_that_hangs(
        self, pair: Pair, manager: socket.socket
    ) -> None:
        process = pair.launch()
        hear(manager, "WATCHDOG=1")
        process.send_signal(signal.SIGSTOP)
        manager.setblocking(False)
        with pytest.raises(BlockingIOError):
            while True:
                manager.recv(4096)
        manager.settimeout(2)
        try:
            with pytest.raises(TimeoutError):
                manager.recv(4096)
        finally:
            process.send_signal(signal.SIGCONT)

    def test_is_not_spoken_to_by_anybody_else(self, pair: Pair, manager: socket.socket) -> None:
        process = pair.launch()
        hear(manager, "READY=1")

        for agent in pair.agents():
            assert b"NOTIFY_SOCKET" not in Path(f"/proc/{agent}/environ").read_bytes()
        assert process.poll() is None


class TestAlerts:
    """A session tells people itself, each thing once."""

    ALERTS = "mail = 'root'\nlasting = 0.5\nevery = 0"

    def test_of_conflicts(self, service: Service) -> None:
        service.configure(alerts=self.ALERTS)
        service.start()
        pair = service.pair
        pair.psync("pause", "home")
        (pair.left / "f\nSubject: forged").write_text("left")
        (pair.right / "f\nSubject: forged").write_text("right!")
        pair.psync("resume", "home")

        until(service.subjects, "the alert")

        (subject,) = service.subjects()
        assert subject.endswith("session home: 1 conflict")
        assert pair.status()["alerts"]

    def test_of_no_conflict_that_a_person_has_just_decided(self, service: Service) -> None:
        service.configure("conflict = 'ask'", self.ALERTS)
        service.start()
        pair = service.pair

        def differ(name: str) -> None:
            pair.psync("pause", "home")
            (pair.left / name).write_text("left")
            (pair.right / name).write_text("right!")
            pair.psync("resume", "home")

        differ("f")
        until(service.subjects, "the question")
        assert pair.psync("conflicts", "home", "--take", "left", "f").returncode == 0
        until(lambda: pair.conflicts("right"), "the version that lost")
        pair.flush()
        (kept,) = json.loads(pair.psync("conflicts", "home", "--json").stdout)["conflicts"]
        assert pair.psync("conflicts", "home", "--restore", kept["kept"]).returncode == 0
        pair.flush()
        differ("g")
        until(lambda: len(service.subjects()) > 1, "the next question")

        assert "conflict asked: g: both sides" in (service.mail / "1").read_text()

    def test_of_problems_that_last_and_of_their_end(self, service: Service) -> None:
        service.configure(alerts=self.ALERTS)
        service.start()
        pair = service.pair
        (pair.left / "d").mkdir()
        pair.flush()
        os.mkfifo(pair.left / "d/fifo")
        (pair.right / "d").rmdir()

        until(service.subjects, "the alert")
        (pair.left / "d/fifo").unlink()
        until(lambda: len(service.subjects()) > 1, "the other one")

        first, second = service.subjects()
        assert first.endswith("session home: 1 problem that lasts")
        assert second.endswith("session home: 1 problem solved")

    def test_of_problems_that_outlast_a_restart_is_once(self, service: Service) -> None:
        """What is solved while it does not run is told as well."""
        service.configure("inline_max = 10\nrsync_extra = ['--bwlimit=bogus']", self.ALERTS)
        service.start()
        pair = service.pair
        (pair.left / "f").write_text("x" * 1000)
        until(service.subjects, "the alert")
        assert pair.psync("stop", "home").returncode == 0
        assert service.psync("start", "home").returncode == 0
        until(lambda: pair.status()["problems"], "the problem")

        (pair.left / "g").write_text("x" * 1000)
        until(lambda: len(service.subjects()) > 1, "the next alert")
        assert pair.psync("stop", "home").returncode == 0
        service.configure("inline_max = 10", self.ALERTS)
        service.start()
        until(lambda: len(service.subjects()) > 2, "the last one")

        *first, last = service.subjects()
        assert all(each.endswith("session home: 1 problem that lasts") for each in first)
        assert last.endswith("session home: 2 problems solved")

    def test_of_each_halt(self, service: Service) -> None:
        """Also of one right after a resume, and of one for another reason after a restart."""
        service.configure(alerts=self.ALERTS.replace("0.5", "600"))
        pair = service.pair
        for name in "ab":
            (pair.left / name).write_text("f")
        service.start()
        aside = pair.base / "aside"

        def halts() -> None:
            until(lambda: pair.status().get("state") == "halted", "the halt")

        for _ in range(2):
            pair.left.rename(aside)
            halts()
            aside.rename(pair.left)
            assert pair.psync("resume", "home").returncode == 0
        pair.left.rename(aside)
        halts()
        assert pair.psync("stop", "home").returncode == 0
        pair.left.mkdir()
        assert service.psync("start", "home").returncode == 0
        until(lambda: len(service.subjects()) == 6, "all alerts")

        last = [subject.rpartition(" ")[2] for subject in service.subjects()]
        assert last == ["HALTED", "on", "HALTED", "on", "HALTED", "HALTED"]
        assert "is empty, but" in (service.mail / "5").read_text().replace("=\n", "")

    def test_of_a_host_that_is_away_and_is_back(self, breakable: Pair, sshd: Sshd) -> None:
        for service in made(breakable):
            service.configure(alerts=self.ALERTS)
            service.start()
            sshd.stop()
            until(service.subjects, "the alert")
            sshd.restart()
            until(lambda: len(service.subjects()) > 1, "the other one")  # noqa: B023

            text = (service.mail / "0").read_text()
            assert "right (psync-test) is not connected: " in text
            assert service.subjects()[1].endswith("solved")

    def test_show_their_urls_in_no_log(self, service: Service) -> None:
        service.configure(
            session="debug = 3", alerts="urls = ['json://s3cret:s3cret@127.0.0.1:1/s3cret']"
        )
        service.start()
        pair = service.pair
        (pair.left / "f").write_text("x")
        pair.flush()
        (pair.left / ".psync").rename(pair.base / "gone")
        log = service.directory / "psync.log"
        until(lambda: "alert.failed" in log.read_text(), "a try to tell")

        for path in service.directory.iterdir():
            if path.is_file():
                assert b"s3cret" not in path.read_bytes(), path
        assert "s3cret" not in json.dumps(pair.status())


class TestConfinement:
    """What the unit takes away must not be missed: the kernel's part of it, without systemd."""

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root has what is taken away")
    @pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv is not here")
    def test_leaves_what_replication_needs(self, local: Pair, checkout: Path) -> None:
        unit = (checkout / "conf/systemd/psync@.service").read_text()
        listed = " ".join(re.findall(r"^CapabilityBoundingSet=(.*)$", unit, re.MULTILINE))
        kept = ",".join(f"+{word.removeprefix('CAP_').lower()}" for word in listed.split())
        assert "NoNewPrivileges=yes" in unit
        confined = ["setpriv", "--no-new-privs", "--bounding-set", f"-all,{kept}"]
        local.process = subprocess.Popen(
            [*confined, *command(), str(local.left), str(local.right)],
            env=local.env, stdin=subprocess.DEVNULL, stdout=local._printed, stderr=local._printed,
        )  # fmt: skip
        local.wait_for("watching")
        script = """
            umask 022
            mkdir -p left/d; echo a >left/d/a; chown 12345:23456 left/d/a; chmod 4751 left/d/a
            echo b >left/d/b; chown 12345 left/d left/d/b; chmod 0 left/d/b; chmod 2770 left/d
            ln -s nowhere left/link; chown -h 777 left/link
            head -c 3000000 /dev/urandom >left/large; chmod 0 left/large; chown 12345 left/large
        """
        local.shell(script)
        local.flush()
        local.shell("echo more >>right/d/b; mv right/d/a right/d/c")

        settled = local.settle()

        assert settled[b"d/c"][:4] == ("file", 0o4751, 12345, 23456)
        assert settled[b"d/b"][-1] == b"b\nmore\n"
        assert settled[b"link"][2] == 777
        assert settled[b"large"][:3] == ("file", 0, 12345)
        assert local.status()["problems"] == 0


class TestCron:
    def test_commands_do_what_they_are_there_for(
        self, service: Service, checkout: Path, tmp_path: Path
    ) -> None:
        config = tmp_path / "etc" / "psync"
        config.mkdir(parents=True)
        (config / "psync.toml").write_text(service.config.read_text())
        env = service.pair.env | {"XDG_CONFIG_HOME": str(tmp_path / "etc")}
        lines = (checkout / "conf/cron/psync").read_text().splitlines()
        jobs = [job["command"] for line in lines if (job := CRON.fullmatch(line.strip("# ")))]
        (psync,) = command()

        for job in jobs:
            if " sync home" in job:
                (service.pair.left / "by night").write_text("x")
                service.pair.psync("stop", "home")
            done = subprocess.run(
                ["/bin/sh", "-c", job.replace("/usr/local/bin/psync", psync)], env=env,
                cwd="/", capture_output=True, text=True, timeout=60, check=False,
            )  # fmt: skip

            assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), job
            if " start" in job:
                service.pair.flush()  # `runcheck` warns of a session that catches up
            if " sync home" in job:
                assert tree(service.pair.left) == tree(service.pair.right)
                service.start()
        assert len(jobs) >= 4


class TestLogFile:
    def test_is_made_again_with_its_directory(self, service: Service) -> None:
        pair = service.pair
        log = pair.base / "logs/home.log"
        service.configure(f"log_file = '{log}'")
        service.start()
        shutil.rmtree(log.parent)
        log.parent.write_text("in the way")

        def is_missed() -> bool:
            with (pair.left / "f").open("a") as file:
                file.write("more")
            pair.flush()
            return "home: cannot write the log" in (service.directory / "output").read_text()

        until(is_missed, "the line of the log that cannot be written")
        log.parent.unlink()
        (pair.left / "g").write_text("x")
        pair.flush()

        first, *lines = log.read_text().splitlines()
        assert "of the log were lost" in first
        assert "path=g" in lines[-1]


@pytest.mark.skipif(shutil.which("logrotate") is None, reason="logrotate is not here")
class TestLogrotate:
    def test_takes_the_log_of_a_session_and_loses_no_line(
        self, service: Service, checkout: Path, tmp_path: Path
    ) -> None:
        service.start()
        log = service.directory / "psync.log"
        rules = (checkout / "conf/logrotate/psync").read_text()
        config = tmp_path / "logrotate.conf"
        config.write_text(rules.replace("/var/lib/psync", str(service.pair.state)))
        if os.geteuid() != 0:
            pytest.skip("logrotate insists on files of root's")

        def written() -> str:
            return "".join(
                path.read_text() for path in sorted(service.directory.glob("psync.log*"))
                if path.suffix != ".gz"
            )  # fmt: skip

        def again(names: list[str], since: int) -> bool:
            names.append(f"after-{since}-{len(names)}")
            (service.pair.left / names[-1]).write_text("x")
            service.pair.flush()
            return log.exists()

        for round_ in range(2):
            name = f"before-{round_}"
            (service.pair.left / name).write_text("x")
            service.pair.flush()
            subprocess.run(
                ["logrotate", "--force", "--state", tmp_path / "logrotate.state", config],
                check=True, capture_output=True, timeout=60,
            )  # fmt: skip
            assert name in (service.directory / "psync.log.1").read_text()
            names: list[str] = []
            until(lambda names=names, since=round_: again(names, since), "a log in its place")
            told = written()
            assert [each for each in names if each not in told] == []

        assert log.stat().st_mode & 0o777 == 0o600
        assert list(service.directory.glob("psync.log.2.gz"))
        told = service.pair.psync("log", "home", "--path", "before-0", "--side", "right").stdout
        assert told.count("before-0") == 1  # from the oldest file

        service.pair.psync("stop", "home")
        printed = (service.directory / "output").read_text()
        assert printed == "psync: home: stopped: psync stop\n"  # what was there has been cut
