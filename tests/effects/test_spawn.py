"""Children are started, signalled and reaped under both event loops."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from psync.effects.spawn import Process, listen, run_to_end, spawn


def _missing(pid: int, flags: int = 0) -> int:
    raise OSError(38, "Function not implemented")


async def output_of(*argv: str, **options: object) -> tuple[int, str]:
    """Run a program to its end; return its exit status and what it wrote to stdout."""
    said = bytearray()
    ended = asyncio.Event()
    listener, writer = await listen(said.extend, ended.set)
    process = await spawn(argv, stdout=writer, **options)  # type: ignore[arg-type]
    os.close(writer)
    status = await process.wait()
    await ended.wait()
    listener.close()
    return status, said.decode()


class TestEnd:
    @pytest.mark.parametrize(
        ("script", "status"), [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", -signal.SIGTERM)]
    )
    async def test_is_reported_with_its_status(self, script: str, status: int) -> None:
        process = await spawn(["sh", "-c", script])

        assert await process.wait() == status
        assert process.returncode == status

    async def test_is_not_known_before(self) -> None:
        process = await spawn(["sleep", "60"])

        assert process.returncode is None

        process.kill()
        await process.wait()

    async def test_reaches_everybody_who_waits_though_one_gave_up(self) -> None:
        process = await spawn(["sleep", "60"])
        waiting = [asyncio.create_task(process.wait()) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        process.kill()

        results = await asyncio.gather(*waiting, return_exceptions=True)

        assert isinstance(results[0], asyncio.CancelledError)
        assert results[1:] == [-signal.SIGKILL, -signal.SIGKILL]

    async def test_leaves_no_descriptor_open(self) -> None:
        await output_of("true")
        before = os.listdir("/proc/self/fd")

        await output_of("true")

        assert len(os.listdir("/proc/self/fd")) == len(before)

    async def test_is_noticed_without_pidfds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "pidfd_open", _missing)
        process = await spawn(["sh", "-c", "exit 3"])

        assert await process.wait() == 3


class TestStart:
    async def test_of_what_does_not_exist_is_an_error(self) -> None:
        with pytest.raises(FileNotFoundError):
            await spawn(["no-such-program-anywhere"])

    async def test_gives_no_descriptor_but_those_named(self) -> None:
        kept, other = os.open("/dev/null", os.O_RDONLY), os.open("/dev/null", os.O_RDONLY)
        os.set_inheritable(other, True)
        try:
            _, said = await output_of("ls", "/proc/self/fd", pass_fds=[kept])
        finally:
            os.close(kept)
            os.close(other)

        numbers = {int(line) for line in said.split()}
        assert kept in numbers
        assert other not in numbers

    async def test_in_a_session_of_its_own(self) -> None:
        _, said = await output_of(
            sys.executable, "-c", "import os; print(os.getsid(0), os.getpid())"
        )

        session, pid = said.split()
        assert session == pid

    async def test_with_environment_and_directory(self, tmp_path: Path) -> None:
        status, said = await output_of(
            "sh",
            "-c",
            'echo "$WORD $PWD"',
            env={"WORD": "here", "PATH": os.defpath},
            cwd=str(tmp_path),
        )

        assert (status, said) == (0, f"here {tmp_path}\n")


class TestSignal:
    async def started(self, script: str) -> tuple[Process, int]:
        """Start a shell that tells a pid once it is ready."""
        told: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        listener, writer = await listen(lambda data: told.set_result(int(data)))
        process = await spawn(["sh", "-c", script], stdout=writer)
        os.close(writer)
        pid = await told
        listener.close()
        return process, pid

    async def test_reaches_what_the_child_has_started(self) -> None:
        process, grandchild = await self.started("sleep 60 & echo $!; wait")
        watch = os.pidfd_open(grandchild)
        gone = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(watch, gone.set)

        process.terminate()

        await process.wait()
        async with asyncio.timeout(10):
            await gone.wait()
        loop.remove_reader(watch)
        os.close(watch)

    @pytest.mark.parametrize("has_pidfds", [True, False])
    async def test_at_the_end_kills_what_is_left_where_that_is_wanted(
        self, monkeypatch: pytest.MonkeyPatch, has_pidfds: bool
    ) -> None:
        reader, writer = os.pipe()  # held by all of them, so at its end when all are gone
        gone = asyncio.Event()
        asyncio.get_running_loop().add_reader(reader, gone.set)
        with monkeypatch.context() as patch:
            if not has_pidfds:
                patch.setattr(os, "pidfd_open", _missing)
            script = "(kill -STOP $(exec sh -c 'echo $PPID')) & exit 4"
            process = await spawn(["sh", "-c", script], pass_fds=[writer], ends_all=True)
        os.close(writer)

        assert await process.wait() == 4

        async with asyncio.timeout(10):
            await gone.wait()
        asyncio.get_running_loop().remove_reader(reader)
        os.close(reader)

    async def test_kills_a_stopped_child(self) -> None:
        process, _ = await self.started("echo $$; kill -STOP $$")

        process.kill()

        assert await process.wait() == -signal.SIGKILL

    async def test_after_the_end_goes_nowhere(self) -> None:
        process = await spawn(["true"])
        await process.wait()

        process.terminate()
        process.kill()

        assert process.returncode == 0


class TestRunToEnd:
    async def test_gives_status_and_what_was_said(self) -> None:
        said = await run_to_end(["sh", "-c", "cat; echo done >&2; exit 3"], b"given ", within=60)

        assert said == (3, "given done")

    async def test_takes_more_than_a_pipe_holds(self) -> None:
        status, said = await run_to_end(["wc", "-c"], b"x" * 300_000, within=60)

        assert (status, said) == (0, "300000")

    async def test_kills_what_takes_too_long(self) -> None:
        status, _ = await run_to_end(["sleep", "1000"], within=0.1)

        assert status == -signal.SIGKILL

    async def test_leaves_nothing_when_it_is_cancelled(self, tmp_path: Path) -> None:
        script = f"echo $$ >{tmp_path}/new; mv {tmp_path}/new {tmp_path}/pid; exec sleep 1000"
        work = asyncio.create_task(run_to_end(["sh", "-c", script], within=1000))
        while not (tmp_path / "pid").exists():
            await asyncio.sleep(0.01)
        pid = int((tmp_path / "pid").read_text())
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)

        assert not Path(f"/proc/{pid}").exists()  # noqa: ASYNC240
