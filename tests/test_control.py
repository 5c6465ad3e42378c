"""The control socket: questions to a session that runs, and to one that does not."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from psync import control
from psync.control import Call, ControlServer, Ended, NoSession, Refused, Unanswered, call
from psync.errors import StoreError, UsageError

SERVE = """
import asyncio, os, signal, sys
from pathlib import Path
from psync.control import ControlServer

async def main(behaviour):
    over = asyncio.Event()
    if behaviour == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)

    async def answer(verb, args):
        if behaviour in ("mute", "stubborn"):
            await asyncio.sleep(3600)
        if behaviour == "refuse":
            from psync.errors import UsageError
            raise UsageError("not now")
        over.set()
        if behaviour == "abrupt":
            await asyncio.sleep(3600)
        return None

    server = ControlServer(Path(sys.argv[1]), answer)
    await server.start()
    print("ready", flush=True)
    await over.wait()
    await server.close()

asyncio.run(main(sys.argv[2]))
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    place = tmp_path / "home"
    place.mkdir()
    return place


@pytest.fixture
def spawn(directory: Path):
    """Start a process that serves in the directory and behaves as told."""
    started: list[subprocess.Popen[str]] = []

    def start(behaviour: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVE, directory, behaviour], stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


async def echo(verb: str, args: dict[str, Any]) -> Any:
    return [verb, args]


def serving(
    directory: Path,
    test: Callable[[], Awaitable[Any]],
    handler: Callable[[str, dict[str, Any]], Awaitable[Any]] = echo,
) -> Any:
    """Run a test while a server serves."""

    async def run() -> Any:
        server = ControlServer(directory, handler)
        await server.start()
        try:
            return await test()
        finally:
            await server.close()

    return asyncio.run(run())


def ask(directory: Path, *args: Any, **named: Any) -> Callable[[], Awaitable[Any]]:
    return lambda: asyncio.to_thread(call, directory, *args, **named)


def say(directory: Path, raw: bytes) -> bytes:
    """Send bytes as they are; return all that comes back."""
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(10)
        peer.connect(str(directory / "control"))
        peer.sendall(raw)
        peer.shutdown(socket.SHUT_WR)
        answer = b""
        while part := peer.recv(4096):
            answer += part
    return answer


class TestCall:
    def test_is_answered(self, directory):
        assert serving(directory, ask(directory, "status", {"a": [1, None, "\u00e4"]})) == [
            "status",
            {"a": [1, None, "\u00e4"]},
        ]

    def test_works_at_the_end_of_a_long_path(self, tmp_path):
        directory = tmp_path.joinpath(*["x" * 200] * 5)
        directory.mkdir(parents=True)

        assert serving(directory, ask(directory, "status")) == ["status", {}]

    def test_works_with_uvloop(self, directory):
        uvloop = pytest.importorskip("uvloop")

        async def test():
            server = ControlServer(directory, echo)
            await server.start()
            try:
                return await asyncio.to_thread(call, directory, "status")
            finally:
                await server.close()

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            assert runner.run(test()) == ["status", {}]

    def test_takes_a_large_answer(self, directory):
        async def large(verb, args):
            return ["x" * 1000] * 3000

        assert len(serving(directory, ask(directory, "conflicts"), large)) == 3000

    def test_knows_the_process_that_answers(self, directory):
        async def test():
            request = await asyncio.to_thread(Call, directory, "status")
            await asyncio.to_thread(request.result, None)
            return request.pid

        assert serving(directory, test) == os.getpid()

    def test_of_a_session_that_says_no_raises_what_it_says(self, directory):
        async def refuse(verb, args):
            raise UsageError("not while paused")

        with pytest.raises(Refused, match="session home: not while paused"):
            serving(directory, ask(directory, "flush"), refuse)

    def test_of_a_session_that_is_slow_ends_in_time(self, directory):
        async def slow(verb, args):
            await asyncio.Event().wait()

        with pytest.raises(Unanswered, match="did not answer in time"):
            serving(directory, ask(directory, "flush", timeout=0.05), slow)

    @pytest.mark.parametrize("left_over", ["nothing", "socket", "file", "no directory"])
    def test_without_a_session_says_so(self, directory, left_over):
        if left_over == "socket":
            with socket.socket(socket.AF_UNIX) as dead:
                dead.bind(str(directory / "control"))
        elif left_over == "file":
            (directory / "control").write_text("")
        elif left_over == "no directory":
            directory.rmdir()

        with pytest.raises(NoSession, match="session home is not running"):
            call(directory, "status")

    def test_of_a_session_that_is_killed_says_so(self, directory, spawn):
        process = spawn("mute")
        request = Call(directory, "status")
        process.kill()

        with pytest.raises(Ended):
            request.result(time.monotonic() + 10)


class TestServer:
    def test_is_private_and_leaves_nothing(self, directory):
        async def test():
            return (directory / "control").stat().st_mode & 0o777

        assert serving(directory, test) == 0o600
        assert list(directory.iterdir()) == []

    def test_takes_the_place_of_one_that_was_killed(self, directory, spawn):
        process = spawn("mute")
        process.kill()
        process.wait()
        assert (directory / "control").exists()

        assert serving(directory, ask(directory, "status")) == ["status", {}]

    def test_says_when_it_cannot_listen(self, tmp_path):
        with pytest.raises(StoreError, match="cannot make the socket"):
            asyncio.run(ControlServer(tmp_path / "none", echo).start())

    @pytest.mark.parametrize(
        "raw",
        [
            b"\n", b"nonsense\n", b"[]\n", b"{}\n", b'{"verb": 1}\n', b"null\n", b"\xff\n",
            b'{"verb": "x", "args": []}\n', b'"verb"\n', b"[" * 60_000 + b"\n",
        ],
    )  # fmt: skip
    def test_answers_nonsense(self, directory, raw):
        answer = json.loads(serving(directory, lambda: asyncio.to_thread(say, directory, raw)))

        assert answer == {"ok": False, "error": "that is no request"}

    def test_survives_a_client_that_never_stops_talking(self, directory):
        async def test():
            with contextlib.suppress(ConnectionError):  # it hangs up while we talk
                await asyncio.to_thread(say, directory, b"x" * 10_000_000)
            return await asyncio.to_thread(call, directory, "status")

        assert serving(directory, test) == ["status", {}]

    def test_survives_clients_that_hang_up(self, directory):
        async def test():
            for raw in (b"", b'{"verb"'):
                assert await asyncio.to_thread(say, directory, raw) == b""
            return await asyncio.to_thread(call, directory, "status")

        assert serving(directory, test) == ["status", {}]

    def test_gives_up_what_nobody_waits_for(self, directory):
        begun, cancelled = asyncio.Event(), asyncio.Event()

        async def handler(verb, args):
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

        async def test():
            request = await asyncio.to_thread(Call, directory, "flush")
            await begun.wait()
            request.close()
            await asyncio.wait_for(cancelled.wait(), 10)

        serving(directory, test, handler)

    def test_gives_up_everything_when_it_closes(self, directory):
        async def forever(verb, args):
            await asyncio.Event().wait()

        async def run():
            server = ControlServer(directory, forever)
            await server.start()
            request = await asyncio.to_thread(Call, directory, "flush")
            await asyncio.sleep(0)
            await asyncio.wait_for(server.close(), 10)
            with pytest.raises((Ended, Unanswered)):
                await asyncio.to_thread(request.result, time.monotonic() + 10)

        asyncio.run(run())

    def test_reports_a_fault_and_goes_on(self, directory):
        seen: list[dict[str, Any]] = []

        async def faulty(verb, args):
            return {"status": "fine", "unprintable": b""}[verb]

        async def test():
            asyncio.get_running_loop().set_exception_handler(lambda _loop, what: seen.append(what))
            for verb in ("nothing", "unprintable"):
                with pytest.raises(Refused, match=r"internal error: (KeyError|TypeError)"):
                    await asyncio.to_thread(call, directory, verb)
            return await asyncio.to_thread(call, directory, "status")

        assert serving(directory, test, faulty) == "fine"
        assert [type(what["exception"]) for what in seen] == [KeyError, TypeError]

    def test_serves_many_at_once_and_no_more_than_it_can(self, directory, monkeypatch):
        monkeypatch.setattr(control, "CLIENTS_MAX", 3)
        all_begun, release = asyncio.Event(), asyncio.Event()
        begun = 0

        async def handler(verb, args):
            nonlocal begun
            begun += 1
            if begun == 3:
                all_begun.set()
            await release.wait()
            return verb

        async def test():
            three = asyncio.gather(*[asyncio.to_thread(call, directory, "x") for _ in "abc"])
            await all_begun.wait()
            with pytest.raises(Refused, match="too many requests"):
                await asyncio.to_thread(call, directory, "x")
            release.set()
            assert await three == ["x"] * 3
            return await asyncio.to_thread(call, directory, "again")

        assert serving(directory, test, handler) == "again"


class TestStop:
    def test_waits_until_the_process_is_gone(self, directory, spawn):
        process = spawn("stop")

        control.stop(Call(directory, "stop"), 10)

        assert process.poll() == 0

    def test_takes_the_end_for_an_answer(self, directory, spawn):
        process = spawn("abrupt")

        control.stop(Call(directory, "stop"), 10)

        assert process.poll() == 0

    def test_uses_a_signal_when_nobody_answers(self, directory, spawn, monkeypatch):
        monkeypatch.setattr(control, "_STOP_ANSWER_S", 0.05)
        process = spawn("mute")

        control.stop(Call(directory, "stop"), 10)

        assert process.poll() == 0

    def test_says_when_nothing_helps(self, directory, spawn, monkeypatch):
        monkeypatch.setattr(control, "_STOP_ANSWER_S", 0.05)
        process = spawn("stubborn")

        with pytest.raises(Unanswered, match=rf"\(pid {process.pid}\) has not ended in 0.2 s"):
            control.stop(Call(directory, "stop"), 0.2)

    def test_does_not_insist_when_refused(self, directory, spawn):
        process = spawn("refuse")

        with pytest.raises(Refused, match="not now"):
            control.stop(Call(directory, "stop"), 10)

        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
