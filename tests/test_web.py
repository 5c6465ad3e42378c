"""What `psync web` answers, byte for byte: to browsers, to Prometheus, and to who means harm."""

from __future__ import annotations

import asyncio
import grp
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from psync import web
from psync.effects.state import SessionDir
from psync.errors import UsageError
from psync.metrics import exposition
from psync.web import Address, Web, address

HERE = Path(__file__).parents[1]
HOSTILE = "<img src=x onerror=alert(1)>"


def told(name: str = "home", **more: Any) -> dict[str, Any]:
    side = {"host": "h", "root": "/r", "connected": True, "entries": 7, "applied": 5, "bytes": 4200}
    return {
        "name": name, "state": "watching", "state_since": 100.0, "started": 50.0, "lag_s": 1.5,
        "pending": 3, "in_flight": 2, "problems": 1, "conflicts": 4, "agreed": 7, "halted": "",
        "trouble": "", "last_change": None, "left": side,
        "right": {**side, "connected": False, "applied": 9}, "problem_list": [],
    } | more  # fmt: skip


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the sessions tell; how often they were asked is the length of `asked`."""
    all_told = [told(problem_list=[{"side": "left", "path": HOSTILE, "message": "m"}])]
    monkeypatch.setattr(web, "survey", lambda *_: all_told)
    return all_told


def serving(
    where: Address,
    test: Callable[[Address, Web], Awaitable[Any]],
    group: str | None = None,
    config: str | None = None,
    state: str = "/nowhere",
) -> Any:
    """Run a test while the page is served."""

    async def run() -> Any:
        served = Web(Path(state), None, config)
        try:
            return await test(await served.listen(where, group), served)
        finally:
            await served.close()

    return asyncio.run(run())


async def say(where: Address, raw: bytes) -> bytes:
    """Send bytes as they are; return all that comes back."""
    if where.path:
        reader, writer = await asyncio.open_unix_connection(where.path)
    else:
        reader, writer = await asyncio.open_connection(where.host, where.port)
    try:
        writer.write(raw)
        return await asyncio.wait_for(reader.read(), 20)
    except ConnectionError:
        return b""
    finally:
        writer.close()


LOOPBACK = Address("127.0.0.1", 0)


def get(path: str, host: str = "localhost:1", method: str = "GET") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()


def ask(raw: bytes) -> tuple[int, dict[str, str], bytes]:
    """Send a request to a server of its own; return status, headers and body."""
    answer: bytes = serving(LOOPBACK, lambda where, _: say(where, raw))
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    assert int(headers["Content-Length"]) == len(body) or raw.startswith(b"HEAD")
    return int(first.split()[1]), headers, body


class TestAddress:
    @pytest.mark.parametrize(
        ("text", "made"),
        [
            ("127.0.0.1:9464", Address("127.0.0.1", 9464)),
            ("localhost:0", Address("127.0.0.1", 0)),
            ("[::1]:80", Address("::1", 80)),
            ("127.8.8.8:1", Address("127.8.8.8", 1)),
            ("/run/psync/web.sock", Address("", 0, "/run/psync/web.sock")),
            ("unix:/run/x", Address("", 0, "/run/x")),
        ],
    )
    def test_is_of_this_host_alone(self, text, made):
        assert address(text) == made

    @pytest.mark.parametrize(
        "text",
        [
            "0.0.0.0:9464", "[::]:9464", ":9464", "9464", "192.0.2.1:80", "example.org:80",
            "localhost.evil.example:80", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536",
            "127.0.0.1:-1", "", "127.0.0.1:٣", "/" + "x" * 107,
        ],
    )  # fmt: skip
    def test_is_refused_otherwise_in_one_line(self, text):
        with pytest.raises(UsageError) as refusal:
            address(text)

        assert "\n" not in str(refusal.value)


@pytest.mark.usefixtures("sessions")
class TestAnswers:
    def test_the_page_and_its_files(self):
        status, headers, body = ask(get("/"))

        assert status == 200
        assert headers["Content-Type"] == "text/html; charset=utf-8"
        for name in re.findall(rb'(?:src|href)="([^"]+)"', body):
            assert ask(get(f"/{name.decode()}"))[0] == 200

    def test_every_answer_says_what_a_browser_may_do_with_it(self):
        for path in ("/", "/page.js", "/status.json", "/metrics", "/healthz", "/none"):
            _, headers, _ = ask(get(path))
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["Content-Security-Policy"].startswith("default-src 'none'; ")
            assert "unsafe" not in headers["Content-Security-Policy"]
            assert headers["Cache-Control"] == "no-store"
            assert not [name for name in headers if name.lower().startswith("access-control")]

    def test_the_page_has_nothing_inline_that_its_policy_forbids(self):
        text = (HERE / "psync/share/web/index.html").read_text()

        assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", text)
        assert "://" not in text
        script = (HERE / "psync/share/web/page.js").read_text()
        assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", script)

    def test_for_programs(self):
        status, headers, body = ask(get("/status.json"))

        assert (status, headers["Content-Type"]) == (200, "application/json")
        answer = json.loads(body)
        assert answer["sessions"][0]["problem_list"][0]["path"] == HOSTILE
        assert answer["healthy"] is True

    def test_head_is_get_without_a_body(self):
        status, headers, body = ask(get("/status.json", method="HEAD"))

        assert (status, body) == (200, b"")
        assert int(headers["Content-Length"]) > 100

    def test_health(self, sessions):
        assert ask(get("/healthz"))[::2] == (200, b"ok\nhome: watching\n")
        sessions.append(told("files", state="halted", halted="left is empty"))

        assert ask(get("/healthz"))[::2] == (
            503, b"unhealthy\nhome: watching\nfiles: halted: left is empty\n",
        )  # fmt: skip
        assert ask(get("/healthz?session=home"))[::2] == (200, b"ok\nhome: watching\n")
        assert ask(get("/healthz?session=files"))[0] == 503
        assert ask(get("/healthz?session=none&session=home"))[::2] == (
            503, b"unhealthy\nhome: watching\nnone: there is no such session\n",
        )  # fmt: skip
        assert ask(get("/healthz?session=a%0Ab"))[::2] == (
            503, b"unhealthy\na\\nb: there is no such session\n",
        )  # fmt: skip

    def test_trouble_with_the_state_directory_is_said(self, monkeypatch):
        def survey(*_):
            raise UsageError("cannot read it")

        monkeypatch.setattr(web, "survey", survey)

        for path in ("/healthz", "/metrics", "/status.json"):
            assert ask(get(path))[::2] == (503, b"psync: cannot read it\n")


@pytest.mark.usefixtures("sessions")
class TestRefusals:
    @pytest.mark.parametrize(
        "host",
        ["localhost", "LOCALHOST:80", "127.0.0.1:9464", "[::1]", "[::1]:8080", "127.1.2.3:1"],
    )
    def test_none_for_this_host_by_its_names(self, host):
        assert ask(get("/healthz", host))[0] == 200

    @pytest.mark.parametrize(
        "host",
        [
            "evil.example", "evil.example:9464", "localhost.evil.example", "127.0.0.1.evil.example",
            "192.0.2.1", "[::2]", "", "localhost:x", "user@localhost", "localhost, evil.example",
            "::1", "127.0.0.1:1:1", "x.localhost",
        ],
    )  # fmt: skip
    def test_of_other_names_for_they_may_have_been_rebound(self, host):
        assert ask(get("/status.json", host))[0] == 421

    @pytest.mark.parametrize(
        "lines",
        ["", "Host: localhost\r\nHost: evil.example\r\n", "X-Forwarded-Host: localhost\r\n"],
    )
    def test_of_no_name_or_two(self, lines):
        assert ask(f"GET / HTTP/1.1\r\n{lines}\r\n".encode())[0] == 421

    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE"])
    def test_of_whatever_is_not_to_look(self, method):
        status, headers, _ = ask(get("/", method=method))

        assert (status, headers["Allow"]) == (405, "GET, HEAD")

    @pytest.mark.parametrize(
        "raw",
        [
            b"\r\n\r\n",
            b"GET /\r\n\r\n",
            b"GET / HTTP/2.0\r\nHost: localhost\r\n\r\n",
            b"GET http://localhost/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"GET /a b HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"get / HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: localhost\r\n folded\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost : localhost\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nbody",
            b"GET / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"\xff\xfe\r\n\r\n",
            b"\x16\x03\x01\x02\x00\r\n\r\n",
        ],
    )
    def test_of_what_is_no_request(self, raw):
        assert ask(raw)[0] == 400

    @pytest.mark.parametrize("path", ["/none", "/../web.py", "/%2e%2e/web.py", "//", "/index.html"])
    def test_of_what_is_not_there(self, path):
        assert ask(get(path))[0] == 404

    def test_of_what_is_too_long(self):
        async def test(where, _):
            reader, writer = await asyncio.open_connection(where.host, where.port)
            writer.write(b"GET / HTTP/1.1\r\nX: " + b"x" * web.HEAD_MAX)
            answer = await asyncio.wait_for(reader.readline(), 20)
            writer.close()
            return answer

        assert serving(LOOPBACK, test).startswith(b"HTTP/1.1 431 ")

    def test_of_more_than_can_be_served(self, monkeypatch):
        monkeypatch.setattr(web, "CONNECTIONS_MAX", 2)

        async def test(where, served):
            idle = [await asyncio.open_connection(where.host, where.port) for _ in range(2)]
            while len(served._clients) < 2:
                await asyncio.sleep(0)
            refused = await say(where, get("/healthz"))
            for _, writer in idle:
                writer.close()
                await writer.wait_closed()
            while served._clients:
                await asyncio.sleep(0)
            return refused, await say(where, get("/healthz"))

        refused, served = serving(LOOPBACK, test)
        assert refused.startswith(b"HTTP/1.1 503 ")
        assert served.startswith(b"HTTP/1.1 200 ")

    def test_to_wait_for_ever(self, monkeypatch):
        monkeypatch.setattr(web, "REQUEST_S", 0.05)

        assert serving(LOOPBACK, lambda where, _: say(where, b"GET / HT")) == b""


class TestSessions:
    def test_are_asked_once_however_many_look(self, monkeypatch):
        asked = []
        monkeypatch.setattr(web, "survey", lambda *args: asked.append(args) or [told()])
        monkeypatch.setattr(web, "FRESH_S", 3600.0)

        async def test(where, served):
            served._told_at = -3600.0
            return await asyncio.gather(*(say(where, get("/healthz")) for _ in range(20)))

        answers = serving(LOOPBACK, test)
        assert all(b"home: watching" in answer for answer in answers)
        assert len(asked) == 1


@pytest.mark.usefixtures("sessions")
class TestSocket:
    def test_is_the_owners_alone_and_goes_with_the_server(self, tmp_path: Path):
        path = tmp_path / "web.sock"

        async def test(where, _):
            mode = stat.S_IMODE(path.stat().st_mode)
            # A proxy before it may send any name: no browser gets at a socket.
            return mode, await say(where, get("/healthz", "any.example"))

        mode, answer = serving(address(str(path)), test)
        assert mode == 0o600
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert not path.exists()

    def test_may_be_a_groups_as_well(self, tmp_path: Path):
        group = grp.getgrgid(os.getgid()).gr_name
        path = tmp_path / "web.sock"

        async def test(where, _):
            st = path.stat()
            return stat.S_IMODE(st.st_mode), st.st_gid

        assert serving(address(str(path)), test, group) == (0o660, os.getgid())

    def test_takes_the_place_of_one_that_was_left_behind(self, tmp_path: Path):
        path = tmp_path / "web.sock"
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(path))

        answer = serving(address(str(path)), lambda where, _: say(where, get("/healthz")))
        assert answer.startswith(b"HTTP/1.1 200 ")

    def test_takes_nobody_elses_place(self, tmp_path: Path):
        path = tmp_path / "web.sock"
        path.write_text("mine")
        with pytest.raises(UsageError, match="something else is there"):
            serving(address(str(path)), lambda where, _: say(where, b""))
        assert path.read_text() == "mine"
        path.unlink()

        async def again(where, _):
            await Web(Path("/nowhere")).listen(where)

        with pytest.raises(UsageError, match="another process does"):
            serving(address(str(path)), again)

    def test_says_why_it_cannot_listen(self, tmp_path: Path):
        with pytest.raises(UsageError, match="No such file or directory"):
            serving(address(str(tmp_path / "none/web.sock")), lambda where, _: say(where, b""))
        with pytest.raises(UsageError, match="there is no such group"):
            serving(address(str(tmp_path / "s")), lambda where, _: say(where, b""), "no-such")

        async def again(where, _):
            await Web(Path("/nowhere")).listen(where)

        with pytest.raises(UsageError, match=r"cannot listen on .*: Address already in use"):
            serving(LOOPBACK, again)


def families(*all_told: dict[str, Any]) -> dict[str, list[tuple[dict[str, str], float]]]:
    """What Prometheus' own parser finds."""
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(exposition(list(all_told))):
        assert family.documentation
        assert family.type in ("gauge", "counter")
        for sample in family.samples:
            assert (family.type == "counter") == sample.name.endswith("_total")
            assert re.fullmatch(r"psync_[a-z_]+", sample.name)
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


class TestMetrics:
    def test_tell_all_of_a_session_that_runs(self):
        home = {"session": "home"}
        found = families(told(audit={"time": "2026-03-01T09:30:00+0100", "counts": {"size": 2}}))

        for name, value in (
            ("psync_up", 1), ("psync_lag_seconds", 1.5), ("psync_pending", 3),
            ("psync_in_flight", 2), ("psync_problems", 1), ("psync_conflicts", 4),
            ("psync_agreed_entries", 7), ("psync_start_timestamp_seconds", 50),
            ("psync_state_timestamp_seconds", 100), ("psync_state_unwritable", 0),
            ("psync_check_timestamp_seconds", 1772353800),
        ):  # fmt: skip
            assert found[name] == [(home, value)], name
        left, right = {**home, "side": "left"}, {**home, "side": "right"}
        assert found["psync_changes_total"] == [(left, 5), (right, 9)]
        assert found["psync_bytes_total"] == [(left, 4200), (right, 4200)]
        assert found["psync_side_connected"] == [(left, 1), (right, 0)]
        assert found["psync_check_differences"] == [({**home, "kind": "size"}, 2)]
        assert "psync_last_change_timestamp_seconds" not in found
        assert [labels["state"] for labels, value in found["psync_session_state"] if value] == [
            "watching"
        ]

    def test_tell_of_one_that_does_not_answer_that_it_does_not(self):
        lost = {"name": "off", "state": "failed", "missed": True, "audit": {"time": None}}
        found = families(told(), lost)

        assert found["psync_up"] == [({"session": "home"}, 1), ({"session": "off"}, 0)]
        assert found["psync_missed"] == [({"session": "home"}, 0), ({"session": "off"}, 1)]
        assert ({"session": "off", "state": "failed"}, 1) in found["psync_session_state"]
        assert [labels for labels, _ in found["psync_lag_seconds"]] == [{"session": "home"}]

    def test_cannot_be_forged(self):
        evil = 'a"} 1\npsync_up{session="\\'

        assert ({"session": evil}, 1) in families(told(evil))["psync_up"]

    def test_keep_large_counters_exact(self):
        side = {"applied": 123_456_789_012, "bytes": 987_654_321_098_765}

        assert (987_654_321_098_765) in [
            value for _, value in families(told(left=side))["psync_bytes_total"]
        ]

    def test_are_served(self, sessions):
        status, headers, body = ask(get("/metrics"))

        assert (status, headers["Content-Type"]) == (
            200, "text/plain; version=0.0.4; charset=utf-8",
        )  # fmt: skip
        assert body == exposition(sessions).encode()


class TestCommand:
    def run(self, *args: str, **more: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "psync", "web", *args],
            env=os.environ | {"PYTHONPATH": str(HERE)}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more,
        )  # fmt: skip

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_serves_where_it_says_until_it_is_told_to_end(self, tmp_path: Path, number: int):
        session = SessionDir(tmp_path / "state", "home")
        session.lock()
        session.unlock()
        path = tmp_path / "web.sock"
        with self.run(
            "--state-dir", str(tmp_path / "state"), "--listen", "127.0.0.1:0", "--listen", str(path)
        ) as process:
            assert process.stdout is not None
            found = re.search(r"http://127\.0\.0\.1:(\d+)/$", process.stdout.readline())
            assert found is not None
            assert str(path) in process.stdout.readline()
            for where in (Address("127.0.0.1", int(found[1])), Address("", 0, str(path))):
                answer = asyncio.run(say(where, get("/healthz")))
                assert b"home: stopped\nno session is running" in answer
            process.send_signal(number)
            assert process.wait(30) == 0
        assert not path.exists()

    def test_asks_the_configuration_who_is_missed(self, tmp_path: Path):
        session = SessionDir(tmp_path / "state", "home")
        session.lock()
        session.describe({"exit": 4})
        session.mark_agreed()
        session.unlock()
        config = tmp_path / "psync.toml"

        async def missed(where: Address, web: Web) -> list[bool]:
            found = []
            for table in ("[session.other]", "[session.home]"):
                config.write_text(f"{table}\n")
                web._told_at = -1.0
                answer = await say(where, get("/status.json"))
                (told,) = json.loads(answer.partition(b"\r\n\r\n")[2])["sessions"]
                found.append(told["missed"])
            return found

        state = str(session.path.parent.parent)
        assert serving(LOOPBACK, missed, None, str(config), state) == [False, True]

    @pytest.mark.parametrize(
        ("args", "said"),
        [
            (["--listen", "0.0.0.0:9464"], "neither a loopback address and a port"),
            (["--group", "root"], "--group says who may use a unix socket"),
            (["../x"], "is no name for a session"),
        ],
    )
    def test_refuses_in_one_line(self, args, said):
        with self.run(*args) as process:
            out, errors = process.communicate(timeout=30)

        assert (process.returncode, out) == (2, "")
        assert errors.startswith("psync: ") and said in errors and errors.count("\n") == 1
