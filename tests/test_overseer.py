"""Who looks after a session is told what counts, once, and nothing else."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest
import structlog

from psync.alerts import Alert, Alerts
from psync.effects.notify import Notifier
from psync.effects.state import SessionDir
from psync.overseer import Facts, Overseer, Reporter, _Unsent

FINE = Facts("watching", "watching: 0 pending", "", frozenset(), [], alive=True, ready=True)
EMPTY = FINE._replace(state="halted", halted="left: it is empty", halts=frozenset(("left empty",)))
ALERTS = Alerts(mail="root", lasting=600, every=3600)


def troubled(*paths: str) -> Facts:
    return FINE._replace(troubles=[(path, f"left {path}: it is full") for path in paths])


class TestHalt:
    def test_is_told_at_once_and_once(self) -> None:
        reporter = Reporter("home", ALERTS, {})

        (alert,) = reporter.look(EMPTY, 0)

        assert alert.event == "halted"
        assert "session home has HALTED" in alert.subject
        assert "  left: it is empty" in alert.lines
        assert reporter.look(EMPTY._replace(halted="left: no file is there"), 10_000) == []

    def test_is_told_once_whatever_else_is_found_meanwhile(self) -> None:
        reporter = Reporter("home", ALERTS, {})
        reporter.look(EMPTY, 0)
        both = EMPTY._replace(halted="one; two", halts=frozenset(("left empty", "right gone")))

        assert reporter.look(both, 1) == []

    def test_of_a_side_is_one_while_it_is_looked_at(self) -> None:
        gone = EMPTY._replace(halted="left: it is gone", halts=frozenset(("left gone",)))
        reporter = Reporter("home", ALERTS, {})
        reporter.look(gone, 0)

        assert reporter.look(EMPTY, 1) == []
        other = EMPTY._replace(halted="right: it is gone", halts=frozenset(("right gone",)))
        assert [alert.event for alert in reporter.look(other, 2)] == ["halted"]
        assert [alert.event for alert in reporter.look(FINE, 3)] == ["recovered"]
        assert [alert.event for alert in reporter.look(EMPTY, 4)] == ["halted"]

    def test_for_another_reason_is_told_again(self) -> None:
        told: dict[str, str] = {}
        Reporter("home", ALERTS, told).look(EMPTY, 0)
        gone = EMPTY._replace(halted="left: it is gone", halts=frozenset(("left gone",)))
        reporter = Reporter("home", ALERTS, told)  # after a restart

        (alert,) = reporter.look(gone, 0)
        assert alert.event == "halted"
        assert "  left: it is gone" in alert.lines
        assert reporter.look(gone, 1) == []
        (alert,) = reporter.look(FINE, 2)
        assert "  left: it is gone" in alert.lines
        assert told == {}

    def test_that_is_over_is_told_when_it_watches_again(self) -> None:
        reporter = Reporter("home", ALERTS, {})
        reporter.look(EMPTY, 0)

        assert reporter.look(FINE._replace(state="scanning"), 1) == []
        (alert,) = reporter.look(FINE, 2)
        assert alert.event == "recovered"
        assert "  left: it is empty" in alert.lines
        assert reporter.look(FINE, 3) == []

    def test_is_not_over_by_a_restart(self) -> None:
        """A flood of deletions is counted while it watches already."""
        reporter = Reporter("home", ALERTS, {"halted": EMPTY.halted, "halts": "left empty"})

        assert reporter.look(FINE, 0) == []
        assert reporter.look(EMPTY, 10) == []
        (alert,) = reporter.look(FINE, 11)
        assert alert.event == "recovered"

    def test_that_is_over_after_a_restart_is_told_a_little_later(self) -> None:
        told = {"halted": EMPTY.halted, "halts": "left empty"}
        reporter = Reporter("home", ALERTS, told)

        assert reporter.look(FINE, 0) == []
        assert reporter.look(FINE._replace(state="scanning"), 5) == []
        assert reporter.look(FINE, 15) == []
        (alert,) = reporter.look(FINE, 27)
        assert alert.event == "recovered"
        assert told == {}


class TestProblems:
    def test_are_told_when_they_last(self) -> None:
        reporter = Reporter("home", ALERTS, {})

        assert reporter.look(troubled("a", "b"), 0) == []
        assert reporter.look(troubled("a", "b"), 599) == []
        (alert,) = reporter.look(troubled("a", "b", "c"), 600)
        assert alert.event == "problems"
        assert alert.subject == "session home: 2 problems that last"
        assert "  left a: it is full" in alert.lines
        # What comes at other paths is gathered; a whole side does not wait for that.
        assert reporter.look(troubled("a", "b", "c"), 1200) == []
        assert reporter.look(troubled("a", "b", "c", "d"), 1300) == []
        assert reporter.look(troubled("a", "b", "c", "d"), 600 + ALERTS.every - 1) == []
        (alert,) = reporter.look(troubled("a", "b", "c", "d"), 600 + ALERTS.every)
        assert alert.subject == "session home: 2 problems that last"

    def test_of_a_whole_side_are_told_whatever_was_told_of_paths(self) -> None:
        reporter = Reporter("home", ALERTS, {})
        away = [("away right", "right is not connected: no route")]
        seen = troubled("a")
        assert [reporter.look(seen, 0), len(reporter.look(seen, 600))] == [[], 1]
        seen = seen._replace(troubles=[*seen.troubles, *away])

        assert reporter.look(seen, 700) == []
        (alert,) = reporter.look(seen, 1300)

        assert "  right is not connected: no route" in alert.lines

    @pytest.mark.parametrize(
        ("state", "troubles", "is_rest_fine"),
        [
            ("watching", ["a"], True),
            ("scanning", ["a"], True),
            ("paused", ["a"], False),
            ("disconnected", ["a"], False),
            ("disconnected", ["away right"], False),
            ("watching", ["a", "state"], False),
        ],
    )
    def test_are_told_with_what_becomes_of_the_rest(
        self, state: str, troubles: list[str], is_rest_fine: bool
    ) -> None:
        reporter = Reporter("home", Alerts(mail="root", lasting=0), {})

        (alert,) = reporter.look(troubled(*troubles)._replace(state=state), 0)

        assert ("all else is replicated" in alert.lines[0]) == is_rest_fine
        assert ("nothing is replicated meanwhile" in alert.lines[0]) == (not is_rest_fine)

    def test_are_not_told_beside_a_halt(self) -> None:
        reporter = Reporter("home", Alerts(mail="root", lasting=10), {})
        halted = EMPTY._replace(troubles=troubled("a").troubles)

        told = [alert.event for now in (0, 10, 20) for alert in reporter.look(halted, now)]
        after = [alert.event for alert in reporter.look(troubled("a"), 30)]

        assert told == ["halted"]
        assert after == ["recovered", "problems"]

    @pytest.mark.parametrize(
        ("lasting", "told"),
        [(0, "1 second"), (20, "20 seconds"), (60, "1 minute"), (600, "10 minutes")],
    )
    def test_are_told_with_how_long_they_last(self, lasting: float, told: str) -> None:
        reporter = Reporter("home", Alerts(mail="root", lasting=lasting), {})

        alerts = [*reporter.look(troubled("a"), 0), *reporter.look(troubled("a"), lasting)]

        (alert,) = alerts
        assert f"has had this trouble for {told}; all else" in alert.lines[0]

    def test_that_pass_in_time_are_never_told(self) -> None:
        reporter = Reporter("home", ALERTS, {})
        reporter.look(troubled("a"), 0)
        reporter.look(FINE, 500)

        assert reporter.look(troubled("a"), 700) == []

    def test_that_are_solved_are_told_together(self) -> None:
        reporter = Reporter("home", ALERTS, {})
        reporter.look(troubled("a", "b"), 0)
        reporter.look(troubled("a", "b"), 600)

        assert reporter.look(troubled("a"), 601) == []
        (alert,) = reporter.look(FINE, 602)
        assert alert.event == "recovered"
        assert alert.subject == "session home: 2 problems solved"

    def test_are_not_taken_for_solved_while_nothing_is_watched(self) -> None:
        reporter = Reporter("home", ALERTS, {})
        reporter.look(troubled("a"), 0)
        assert reporter.look(troubled("a"), 600) != []

        assert reporter.look(FINE._replace(state="disconnected"), 601) == []

    def test_are_not_taken_for_solved_by_a_restart(self) -> None:
        """The session has not tried these paths yet."""
        told = {"a": "left a: full", "b": "left b: full"}
        reporter = Reporter("home", ALERTS, told)

        assert reporter.look(FINE._replace(state="scanning"), 0) == []
        assert reporter.look(FINE, 1) == []
        assert reporter.look(FINE, 600) == []
        assert reporter.look(troubled("a"), 601) == []
        assert reporter.look(troubled("a"), 2000) == []
        assert set(told) == {"a", "b"}
        (alert,) = reporter.look(FINE, 2001)
        assert alert.subject == "session home: 2 problems solved"

    @pytest.mark.parametrize(("lasting", "after"), [(0, 12), (600, 600)])
    def test_that_are_solved_after_a_restart_are_told_when_it_has_watched_long_enough(
        self, lasting: float, after: float
    ) -> None:
        reporter = Reporter("home", Alerts(mail="root", lasting=lasting), {"a": "left a: full"})

        assert reporter.look(FINE, 0) == []
        assert reporter.look(FINE._replace(state="disconnected"), 10) == []
        assert reporter.look(FINE, 1000) == []
        assert reporter.look(FINE, 1000 + after - 1) == []
        (alert,) = reporter.look(FINE, 1000 + after)
        assert alert.event == "recovered"
        assert reporter.look(FINE, 1001 + after) == []

    def test_are_listed_up_to_a_bound(self) -> None:
        reporter = Reporter("home", Alerts(mail="root", lasting=0), {})

        (alert,) = reporter.look(troubled(*(f"f{i}" for i in range(100))), 0)

        assert alert.lines[-1] == "  and 80 more"


class TestConflicts:
    def test_are_gathered(self) -> None:
        reporter = Reporter("home", ALERTS, {})
        reporter.conflict("conflict: a")

        (first,) = reporter.look(FINE, 0)
        for number in range(30):
            reporter.conflict(f"conflict: b{number}")
        assert reporter.look(FINE, 3599) == []
        (second,) = reporter.look(FINE, 3600)

        assert first.subject == "session home: 1 conflict"
        assert second.subject == "session home: 30 conflicts"
        assert second.lines[-1] == "  and 10 more"
        assert reporter.look(FINE, 9000) == []


@pytest.fixture
def manager(tmp_path: Path):
    """A socket as systemd's, and the environment that names it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.setblocking(False)
        yield listening, {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "300000"}


class Told:
    """A session that is as the test says, and what its overseer makes of it."""

    def __init__(self, overseer: Overseer) -> None:
        self.facts = FINE
        self.overseer = overseer
        self.looks: asyncio.Queue[None] = asyncio.Queue()
        self.task = asyncio.create_task(overseer.watch(self._look))

    def _look(self) -> Facts:
        self.looks.put_nowait(None)
        return self.facts

    async def end(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


def overseer(tmp_path: Path, alerts: Alerts, env: dict[str, str]) -> Overseer:
    state = SessionDir(tmp_path / "state", "home")
    state.path.mkdir(parents=True, exist_ok=True)
    return Overseer(state, alerts, structlog.get_logger(), Notifier(env))


async def hear(manager: socket.socket) -> list[str]:
    said = await asyncio.get_running_loop().sock_recv(manager, 4096)
    return said.decode().split("\n")


class TestManager:
    async def test_hears_ready_once_the_session_is_and_its_state(
        self, tmp_path: Path, manager: Any
    ) -> None:
        line, env = manager
        told = Told(overseer(tmp_path, Alerts(), env))
        told.facts = FINE._replace(state="starting", told="starting", ready=False)

        first = await hear(line)
        told.facts = FINE
        told.overseer.wake()
        second = await hear(line)
        third = await hear(line)
        await told.end()

        assert first == ["STATUS=starting", "WATCHDOG=1"]
        assert second == ["READY=1", "STATUS=watching: 0 pending", "WATCHDOG=1"]
        assert third == ["WATCHDOG=1"]

    async def test_is_not_fed_without_proof_of_progress(self, tmp_path: Path, manager: Any) -> None:
        line, env = manager
        told = Told(overseer(tmp_path, Alerts(), env))
        told.facts = FINE._replace(alive=False)
        assert await hear(line) == ["READY=1", "STATUS=watching: 0 pending"]
        for _ in range(3):
            await told.looks.get()
        with pytest.raises(BlockingIOError):
            line.recv(4096)
        told.facts = FINE

        assert await hear(line) == ["WATCHDOG=1"]

        await told.end()

    async def test_hears_of_another_configuration_when_and_as_long_as_it_is_read(
        self, tmp_path: Path, manager: Any
    ) -> None:
        line, env = manager
        told = Told(overseer(tmp_path, Alerts(), env))
        told.facts = FINE._replace(ready=False)
        await hear(line)
        with told.overseer.reloading():  # it has not said yet that it is ready
            pass
        told.facts = FINE
        told.overseer.wake()
        assert (await hear(line))[0] == "READY=1"
        await told.end()

        with pytest.raises(ZeroDivisionError), told.overseer.reloading():
            begun = await hear(line)
            with pytest.raises(BlockingIOError):
                line.recv(4096)
            raise ZeroDivisionError

        assert begun[0] == "RELOADING=1"
        name, _, stamp = begun[1].partition("=")
        assert name == "MONOTONIC_USEC"
        assert 0 <= time.clock_gettime(time.CLOCK_MONOTONIC) - int(stamp) / 1e6 < 60
        assert await hear(line) == ["READY=1"]

    async def test_hears_of_the_end(self, tmp_path: Path, manager: Any) -> None:
        line, env = manager
        overseer(tmp_path, Alerts(), env).stopping()

        assert await hear(line) == ["STOPPING=1"]

    async def test_that_listens_on_an_abstract_address_is_reached(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
            line.bind("")  # the kernel chooses
            line.setblocking(False)
            address = line.getsockname().decode().replace("\0", "@")
            Notifier({"NOTIFY_SOCKET": address}).tell("READY=1", "STATUS=ü")

            assert await hear(line) == ["READY=1", "STATUS=ü"]

    def test_is_known_to_nobody_whom_we_start(self) -> None:
        env = {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "1000000", "PATH": "/bin"}

        notifier = Notifier(env)
        notifier.tell("READY=1")  # nobody listens

        assert notifier.watchdog_s == 1.0
        assert env == {"PATH": "/bin"}

    def test_of_another_process_is_not_ours_to_feed(self) -> None:
        env = {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}

        assert Notifier(env).watchdog_s is None

    async def test_and_nobody_else_lets_it_sleep(self, tmp_path: Path) -> None:
        told = Told(overseer(tmp_path, Alerts(), {}))
        told.overseer.wake()
        await asyncio.sleep(0)

        assert told.looks.empty()

        told.overseer.take_over(ALERTS)  # somebody wants to know, after all

        await told.looks.get()
        await told.end()


class TestPeople:
    @pytest.fixture
    def mailbox(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        box = tmp_path / "mail"
        box.mkdir()
        program = tmp_path / "tell"
        program.write_text(
            f"#!/bin/sh\n[ ! -e {tmp_path}/broken ] || exit 1\n"
            f'cat >{box}/new\nmv {box}/new "{box}/$PSYNC_EVENT"\n'
        )
        program.chmod(0o755)
        return box

    def alerts(self, tmp_path: Path) -> Alerts:
        return Alerts(command=[str(tmp_path / "tell")], lasting=0.4, every=0)

    async def arrives(self, mailbox: Path, event: str) -> str:
        async with asyncio.timeout(30):
            while not (mailbox / event).exists():  # a file tells nobody
                await asyncio.sleep(0.01)
        return (mailbox / event).read_text()

    async def test_are_told_and_what_they_know_is_remembered(
        self, tmp_path: Path, mailbox: Path
    ) -> None:
        told = Told(overseer(tmp_path, self.alerts(tmp_path), {}))
        told.facts = EMPTY
        told.overseer.wake()
        assert "left: it is empty" in await self.arrives(mailbox, "halted")
        await told.end()
        kept = json.loads((tmp_path / "state/sessions/home/alerts.json").read_text())
        assert kept == {"halted": "left: it is empty", "halts": "left empty"}

        again = Told(overseer(tmp_path, self.alerts(tmp_path), {}))

        assert "replicates again" in await self.arrives(mailbox, "recovered")
        await again.end()

    async def test_are_told_by_the_next_session_what_this_one_could_not_deliver(
        self, tmp_path: Path, mailbox: Path
    ) -> None:
        (tmp_path / "broken").touch()
        with structlog.testing.capture_logs() as log:
            told = Told(overseer(tmp_path, self.alerts(tmp_path), {}))
            told.facts = EMPTY
            told.overseer.wake()
            async with asyncio.timeout(30):
                while not log:
                    await told.looks.get()
            await told.end()
        (tmp_path / "broken").unlink()

        again = Told(overseer(tmp_path, self.alerts(tmp_path), {}))
        again.facts = EMPTY
        again.overseer.wake()

        assert "left: it is empty" in await self.arrives(mailbox, "halted")
        await again.end()

    @pytest.mark.parametrize("ends", ["in order", "killed"])
    async def test_are_told_by_the_next_session_what_does_not_show_again(
        self, tmp_path: Path, mailbox: Path, ends: str
    ) -> None:
        """A conflict, unlike a halt, is there no more for the next one to find."""
        (tmp_path / "broken").touch()
        with structlog.testing.capture_logs() as log:
            told = Told(overseer(tmp_path, self.alerts(tmp_path), {}))
            told.overseer.conflict("conflict: a")
            async with asyncio.timeout(30):
                while not log:
                    await told.looks.get()
            known = (tmp_path / "state/sessions/home/alerts.json").read_bytes()
            await told.end()
        if ends == "killed":
            (tmp_path / "state/sessions/home/alerts.json").write_bytes(known)
        (tmp_path / "broken").unlink()

        again = Told(overseer(tmp_path, self.alerts(tmp_path), {}))

        assert "conflict: a" in await self.arrives(mailbox, "conflicts")
        async with asyncio.timeout(30):
            while again.overseer._unsent:
                await asyncio.sleep(0.01)
        await again.end()
        assert not overseer(tmp_path, self.alerts(tmp_path), {})._unsent

    @pytest.mark.parametrize("unsent", [7, ["x"], [[["halted"], []]], [[None, None]]])
    def test_are_not_kept_waiting_by_what_cannot_be_read(self, tmp_path: Path, unsent: Any) -> None:
        first = overseer(tmp_path, self.alerts(tmp_path), {})
        first._state.describe({"unsent": unsent}, "alerts.json")

        assert not overseer(tmp_path, self.alerts(tmp_path), {})._unsent

    async def test_are_told_what_happens_right_before_the_end(
        self, tmp_path: Path, mailbox: Path
    ) -> None:
        told = Told(overseer(tmp_path, self.alerts(tmp_path), {}))
        await told.looks.get()
        told.facts = EMPTY
        told.overseer.wake()
        await asyncio.sleep(0)  # it looks, and no more
        await told.end()

        assert (mailbox / "halted").exists()

    @pytest.mark.parametrize("works", [True, False])
    async def test_are_told_of_gathered_conflicts_when_the_session_ends(
        self, tmp_path: Path, mailbox: Path, works: bool
    ) -> None:
        alerts = self.alerts(tmp_path)
        alerts.every = 3600
        told = Told(overseer(tmp_path, alerts, {}))
        told.overseer.conflict("conflict: a")
        await self.arrives(mailbox, "conflicts")
        (mailbox / "conflicts").unlink()
        told.overseer.conflict("conflict: b")
        if not works:
            (tmp_path / "broken").touch()
        with structlog.testing.capture_logs():
            await told.end()
        assert (mailbox / "conflicts").exists() == works
        (tmp_path / "broken").unlink(missing_ok=True)

        again = Told(overseer(tmp_path, alerts, {}))

        assert "conflict: b" in await self.arrives(mailbox, "conflicts")
        await again.end()

    async def test_are_told_later_what_cannot_be_delivered_now(
        self, tmp_path: Path, mailbox: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("psync.overseer._RETRY_MIN_S", 0.1)
        (tmp_path / "broken").touch()
        with structlog.testing.capture_logs() as log:
            told = Told(overseer(tmp_path, self.alerts(tmp_path), {}))
            told.overseer.conflict("conflict: a")
            async with asyncio.timeout(30):
                while not log:
                    await told.looks.get()
            (tmp_path / "broken").unlink()

            assert "conflict: a" in await self.arrives(mailbox, "conflicts")
            await told.end()

        assert log[0]["event"] == "alert.failed"
        assert log[0]["reason"] == "[alerts] command: tell failed (1)"
        assert [entry["event"] for entry in log].count("alert.failed") == 1

    async def test_are_told_once_and_of_all_though_another_way_is_dead(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("psync.overseer._RETRY_MIN_S", 0.1)
        box, tries = tmp_path / "box", tmp_path / "tries"
        programs = {"sendmail": f"echo >>{tries}; exit 1", "tell": f"echo $PSYNC_EVENT >>{box}"}
        for name, text in programs.items():
            (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
            (tmp_path / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        alerts = self.alerts(tmp_path)
        alerts.mail = "root"
        told = Told(overseer(tmp_path, alerts, {}))

        async with asyncio.timeout(60):
            told.overseer.conflict("conflict: a")
            while not tries.exists() or len(tries.read_text()) < 3:
                await asyncio.sleep(0.01)
            told.facts = FINE._replace(state="halted", halted="left: it is empty")
            told.overseer.wake()
            while len(box.read_text().split()) < 2:  # it does not wait behind the first
                await asyncio.sleep(0.01)
        await told.end()

        assert box.read_text().split() == ["conflicts", "halted"]

    def test_are_told_no_more_by_a_way_that_is_gone(self, tmp_path: Path) -> None:
        alerts = self.alerts(tmp_path)
        alerts.mail = "root"
        watched = overseer(tmp_path, alerts, {})
        watched._unsent.append(_Unsent(Alert("halted", "home", "old", []), {"command"}))

        watched.take_over(self.alerts(tmp_path))

        assert not watched._unsent

    async def test_who_cannot_be_told_keep_no_session_from_its_end(self, tmp_path: Path) -> None:
        program = tmp_path / "tell"
        program.write_text(f"#!/bin/sh\n: >{tmp_path}/called\nexec sleep 1000\n")
        program.chmod(0o755)
        told = Told(overseer(tmp_path, self.alerts(tmp_path), {}))
        told.overseer.conflict("conflict: a")
        await self.arrives(tmp_path, "called")

        await asyncio.wait_for(told.end(), 10)
