"""Alerts reach people: by sendmail, by a program of theirs, and by what apprise speaks to."""

from __future__ import annotations

import asyncio
import email
import email.policy
import json
import os
import threading
import tomllib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from psync.alerts import (
    Alert,
    Alerts,
    audit_alert,
    check_alerts,
    deliver,
    exposed,
    load_alerts,
    misunderstood,
    ways,
)
from psync.errors import ConfigError
from tests.e2e.pair import until

HALT = Alert("halted", "home", "session home has HALTED", ["it is empty", "a\nb\x1b[2J"])


@pytest.fixture
def outbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the only sendmail on PATH puts what it is given."""
    tools = tmp_path / "tools"
    tools.mkdir()
    script(tools / "sendmail", f'echo "$@" >{tmp_path}/arguments; cat >{tmp_path}/mail')
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    return tmp_path / "mail"


def alive(pid: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


class TestMail:
    async def test_is_handed_to_sendmail(self, outbox: Path) -> None:
        alerts = Alerts(mail=["root", "ops@example.org"], mail_from="psync@example.org")

        assert await deliver(alerts, HALT) == {}

        raw = outbox.read_bytes()  # noqa: ASYNC240
        letter = email.message_from_bytes(raw, policy=email.policy.default)
        assert letter["To"] == "root, ops@example.org"
        assert letter["From"] == "psync@example.org"
        assert letter["Subject"].endswith(": session home has HALTED")
        assert os.uname().nodename in letter["Subject"]
        assert letter["Auto-Submitted"] == "auto-generated"
        assert letter.get_content() == "it is empty\na\\nb\\x1b[2J\n"
        assert (outbox.parent / "arguments").read_text() == "-t -oi\n"

    async def test_says_what_keeps_it_from_being_sent(self, outbox: Path) -> None:
        script(outbox.parent / "tools/sendmail", "echo no such user >&2; exit 67")

        failed = await deliver(Alerts(mail="nobody"), HALT)

        assert failed == {"mail": "[alerts] mail: sendmail failed (67): no such user"}

    async def test_without_a_sendmail_is_a_line(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", "/nowhere")
        monkeypatch.setattr("psync.alerts._MORE_PATH", "")

        failed = await deliver(Alerts(mail="root"), HALT)

        assert failed["mail"].startswith("[alerts] mail: sendmail cannot be started: No such file")


class TestCommand:
    async def test_reads_the_text_and_finds_the_rest_in_its_environment(
        self, tmp_path: Path
    ) -> None:
        told = tmp_path / "told"
        tell = script(
            tmp_path / "tell",
            f'{{ echo "$PSYNC_EVENT|$PSYNC_SESSION|$PSYNC_SUBJECT|$*"; cat; }} >{told}',
        )

        assert await deliver(Alerts(command=[tell, "a b"]), HALT) == {}

        first, *rest = told.read_text().splitlines()
        assert first.startswith("halted|home|psync ")
        assert first.endswith("has HALTED|a b")
        assert rest == ["it is empty", "a\\nb\\x1b[2J"]

    async def test_that_hangs_is_killed_with_all_it_started(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("psync.alerts._WITHIN_S", 0.2)
        pid = tmp_path / "pid"
        tell = script(tmp_path / "tell", f"sleep 1000 & echo $! >{pid}; wait")

        failed = await deliver(Alerts(command=[tell]), HALT)

        assert "tell was killed by signal 9" in failed["command"]
        until(lambda: not alive(int(pid.read_text())), "its end")


class TestUrls:
    """Through apprise, to a real server on loopback."""

    @pytest.fixture
    def server(self):
        pytest.importorskip("apprise")
        posts: list[tuple[str, dict]] = []
        over = threading.Event()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                posts.append((self.path, json.loads(body)))
                if "hang" in self.path:
                    over.wait()
                    return  # who asked is gone
                self.send_response(500 if "refuse" in self.path else 200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
            threading.Thread(target=http.serve_forever, daemon=True).start()
            yield f"127.0.0.1:{http.server_port}", posts
            over.set()
            http.shutdown()

    async def test_are_told_by_apprise(self, server) -> None:
        address, posts = server

        assert await deliver(Alerts(urls=[f"json://{address}/token"]), HALT) == {}

        ((path, told),) = posts
        assert path.rstrip("/") == "/token"
        assert told["title"].endswith("session home has HALTED")
        assert "a\\nb\\x1b[2J" in told["message"]

    async def test_that_fail_are_named_by_number_and_nothing_secret(self, server) -> None:
        address, posts = server
        urls = [f"json://{address}/ok", f"json://user:s3cret@{address}/refuse", "nothing://s3cret"]
        alerts = Alerts(urls=urls)

        failed = await deliver(alerts, HALT)

        assert len(posts) == 2
        assert list(failed) == ways(alerts)[1:]
        assert list(failed.values()) == [
            "[alerts] urls: number 2 (json) did not take it",
            "[alerts] urls: number 3 (nothing) is none that apprise knows how to tell",
        ]
        assert not [word for word in [*failed, *failed.values()] if "s3cret" in word]

    async def test_are_told_once_though_another_is_dead(self, server) -> None:
        address, posts = server
        alerts = Alerts(urls=[f"json://{address}/refuse", f"json://{address}/good"] * 2)
        bad, good = ways(alerts)

        failed = await deliver(alerts, HALT)
        assert list(failed) == [bad]
        assert list(await deliver(alerts, HALT, [good])) == [bad]

        paths = [path.strip("/") for path, _ in posts]
        assert sorted(paths) == ["good", "refuse", "refuse"]

    async def test_are_told_though_another_hangs(
        self, server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # The program and one URL hang until the other URL has been told.
        monkeypatch.setattr("psync.alerts._WITHIN_S", 600)
        address, posts = server
        pid = tmp_path / "pid"
        tell = script(tmp_path / "tell", f"echo $$ >{pid}; exec sleep 1000")
        urls = [f"json://{address}/hang", f"json://{address}/good"]
        task = asyncio.create_task(deliver(Alerts(command=[tell], urls=urls), HALT))

        async with asyncio.timeout(60):
            while len(posts) < 2:  # a thread's list tells nobody
                await asyncio.sleep(0.01)
        assert not task.done()
        task.cancel()

        with pytest.raises(asyncio.CancelledError):
            await task
        until(lambda: not alive(int(pid.read_text())), "its end")

    async def test_that_hang_fail_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def killed(*_: object, **__: object) -> tuple[int, str]:
            return -9, "a library's word\n2 ok\n3 fai"

        monkeypatch.setattr("psync.alerts.run_to_end", killed)
        alerts = Alerts(urls=["json://hangs", "json://good", "json://writes"])

        failed = await deliver(alerts, HALT)

        assert list(failed.values()) == [
            f"[alerts] urls: number {number} (json) gave no answer (it has 60 s)"
            for number in (1, 3)
        ]

    async def test_that_mean_nothing_are_found_without_telling_anybody(self, server) -> None:
        address, posts = server
        alerts = Alerts(urls=[f"json://{address}/x", "bogus://s3cret", "mailto://"])

        assert await misunderstood(alerts) == [
            "[alerts] urls: number 2 (bogus) is none that apprise knows how to tell",
            "[alerts] urls: number 3 (mailto) is none that apprise knows how to tell",
        ]
        assert await misunderstood(Alerts()) == []
        assert posts == []

    async def test_without_apprise_say_how_to_get_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "apprise.py").write_text("raise ImportError")
        monkeypatch.syspath_prepend(tmp_path)

        alerts = Alerts(urls=["json://127.0.0.1:1"])
        failed = await deliver(alerts, HALT)

        assert "pip install 'psync[alerts]'" in failed[ways(alerts)[0]]

    async def test_are_told_alone_where_the_others_know(self, server, outbox: Path) -> None:
        address, posts = server

        await deliver(Alerts(mail="root", urls=[f"json://{address}/x"]), HALT, {"mail"})

        assert len(posts) == 1
        assert not outbox.exists()  # noqa: ASYNC240


class TestConfiguration:
    @pytest.mark.parametrize(
        ("text", "line"),
        [
            pytest.param(
                "mail = 'root'", "mail: there is no sendmail: install a mail server", id="mail"
            ),
            pytest.param(
                "command = ['/nonexistent', 'x']",
                "command: there is no program /nonexistent: install it, or see [alerts] command",
                id="command",
            ),
            pytest.param(
                "urls = ['json://s3cret']",
                "urls: apprise is not installed: pip install 'psync[alerts]'",
                id="urls",
            ),
        ],
    )
    def test_that_needs_what_is_not_here_is_refused_by_a_check_alone(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, line: str
    ) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setattr("psync.alerts._MORE_PATH", "")
        monkeypatch.setattr("psync.alerts.has_apprise", lambda: False)
        file = tmp_path / "psync.toml"
        file.write_text(f"[alerts]\n{text}\n")

        with pytest.raises(ConfigError) as found:
            check_alerts(file)

        assert str(found.value) == f"{file}: [alerts] {line}"
        assert load_alerts(file).enabled  # a session goes on, and tries

    def load(self, tmp_path: Path, text: str) -> Alerts:
        file = tmp_path / "psync.toml"
        file.write_text(text)
        return load_alerts(file)

    def test_may_be_missing(self, tmp_path: Path) -> None:
        assert not load_alerts(None).enabled
        assert not self.load(tmp_path, "[session.x]\n").enabled

    def test_takes_one_address_or_several(self, tmp_path: Path) -> None:
        assert self.load(tmp_path, '[alerts]\nmail = "root"').addresses == ["root"]
        assert self.load(tmp_path, '[alerts]\nmail = ["a", "b"]').addresses == ["a", "b"]

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            pytest.param("mial = 'x'", "unknown key mial: did you mean mail?", id="misspelt"),
            pytest.param("urls = ['s3cret']", "urls: number 1 has no scheme", id="no scheme"),
            pytest.param("urls = 's3cret'", "urls: Expected array, got str", id="no list"),
            pytest.param("urls = ['a://b', 7]", "urls: Expected str, got int", id="no text"),
            pytest.param("lasting = -1", "lasting: ", id="negative"),
            pytest.param("mail = '-oQ/tmp'", "is no mail address", id="an option"),
            pytest.param('mail_from = "a\\nBcc: b"', "is no mail address", id="a header"),
        ],
    )
    def test_is_checked_and_shows_no_secret(self, tmp_path: Path, text: str, said: str) -> None:
        with pytest.raises(ConfigError) as caught:
            self.load(tmp_path, f"[alerts]\n{text}")

        assert said in str(caught.value)
        assert "[alerts]" in str(caught.value)
        assert "s3cret" not in str(caught.value)

    def test_warns_when_others_may_read_what_is_secret(self, tmp_path: Path) -> None:
        alerts = self.load(tmp_path, "[alerts]\nurls = ['json://token@host']")
        file = tmp_path / "psync.toml"

        file.chmod(0o644)
        assert "chmod 600" in exposed(file, alerts)
        assert "token" not in exposed(file, alerts)
        file.chmod(0o600)
        assert exposed(file, alerts) == ""

    def test_is_explained_key_by_key(self, checkout: Path) -> None:
        tables = tomllib.loads((checkout / "conf/psync.toml").read_text())

        assert set(tables["alerts"]) == set(Alerts.__struct_fields__)


class TestAudit:
    def test_is_told_with_its_differences(self) -> None:
        alert = audit_alert("home", "2 files differ", ["a", "b"])

        assert alert.event == "audit"
        assert alert.subject == "audit alert of session home: 2 files differ"
        assert alert.lines[1:] == ["a", "b"]
