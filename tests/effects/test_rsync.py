"""rsync is ended when nothing moves any more, whatever keeps it from noticing that itself."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from psync.core.entry import Side
from psync.effects.remote import SshHost
from psync.effects.rsync import Rsync
from psync.effects.transport import Host, LocalHost
from psync.errors import TransportError
from tests.sshd import Sshd, children

_PATIENCE_S = 20.0


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what nothing reports."""
    async with asyncio.timeout(_PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.005)


def group() -> list[int]:
    """The processes of the rsync that we have started, the oldest first."""
    return [
        pid
        for pid in children(os.getpid())
        if os.getpgid(pid) == os.getsid(pid) != os.getsid(0)
        and Path(f"/proc/{pid}/comm").read_text().strip() == "rsync"
    ]


def is_gone(pid: int) -> bool:
    """Tell whether a process has ended; init may not have buried it yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


class Job:
    """A file to be sent to a directory, by the real rsync or by a program in its place."""

    def __init__(self, directory: Path, right: Host, kilobytes: int = 3000) -> None:
        self.source, self.target = directory / "file", directory / "target"
        self.source.write_bytes(os.urandom(kilobytes * 1024))
        self.target.mkdir()
        self._rsync = Rsync(LocalHost(), right)

    def moves(self) -> bool:
        """Tell whether something has arrived."""
        copy = self.target / "file"
        return copy.exists() and copy.stat().st_size > 0

    async def run(
        self, source: Side = Side.LEFT, kilobytes_per_s: int = 1000, silence_s: float = 2.0
    ) -> None:
        """Send it. rsync counts whole seconds, so with one it would sometimes give up at once."""
        await self._rsync.run(
            source,
            [str(self.source)],
            source.other,
            f"{self.target}/",
            delta=False,
            sparse=False,
            silence_s=silence_s,
            options=[f"--bwlimit={kilobytes_per_s}"],
        )


@pytest.fixture
def instead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Job]:
    """Put a script in the place of rsync."""

    def install(script: str) -> Job:
        programs = tmp_path / "bin"
        programs.mkdir()
        program = programs / "rsync"
        program.write_text(script)
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
        return Job(tmp_path, LocalHost())

    return install


class TestSilence:
    @pytest.mark.parametrize("which", ["all", "first", "last"])
    async def test_of_one_that_is_stopped_ends_it(self, tmp_path: Path, which: str) -> None:
        job = Job(tmp_path, LocalHost())
        running = asyncio.create_task(job.run())
        await until(lambda: job.moves() and len(group()) == 3)
        everybody = group()
        frozen = {"all": everybody, "first": everybody[:1], "last": everybody[-1:]}[which]
        for pid in frozen:
            os.kill(pid, signal.SIGSTOP)

        with pytest.raises(TransportError, match="etimeout"):
            async with asyncio.timeout(_PATIENCE_S):
                await running

        await until(lambda: all(map(is_gone, everybody)))

    @pytest.mark.parametrize("source", Side)
    async def test_of_one_that_talks_to_another_host_ends_it(
        self, tmp_path: Path, shared_sshd: Sshd, source: Side
    ) -> None:
        host = SshHost(shared_sshd.alias)
        job = Job(tmp_path, host)
        running = asyncio.create_task(job.run(source))
        await until(job.moves)
        here = [pid for pid in group() if pid not in shared_sshd.commands()]
        for pid in here:
            os.kill(pid, signal.SIGSTOP)

        with pytest.raises(TransportError, match="etimeout"):
            async with asyncio.timeout(_PATIENCE_S):
                await running

        await until(lambda: all(map(is_gone, here)))
        await host.close()

    async def test_is_not_what_is_slow(self, tmp_path: Path) -> None:
        job = Job(tmp_path, LocalHost(), kilobytes=300)

        await job.run(kilobytes_per_s=100)  # longer than nothing may move

        assert (job.target / "file").read_bytes() == job.source.read_bytes()

    async def test_is_not_a_byte_now_and_then_where_none_is_stopped(
        self, instead: Callable[[str], Job]
    ) -> None:
        """The other host may be at work, on a slow disk, say."""
        job = instead(
            f"#!{sys.executable} -S\n"
            "import os, time\n"
            "for _ in range(20):\n"
            "    os.write(2, b'.')\n"
            "    time.sleep(0.1)\n"
        )

        await job.run(silence_s=1.0)

    async def test_is_not_work_without_a_byte(self, instead: Callable[[str], Job]) -> None:
        job = instead(
            f"#!{sys.executable} -S\n"
            "import time\n"
            "until = time.monotonic() + 2\n"
            "while time.monotonic() < until:\n"
            "    pass\n"
        )

        await job.run(silence_s=1.0)

    async def test_of_one_that_waits_for_nothing_ends_it(
        self, instead: Callable[[str], Job]
    ) -> None:
        job = instead("#!/bin/sh\nsleep 1000\n")

        with pytest.raises(TransportError, match="etimeout"):
            async with asyncio.timeout(_PATIENCE_S):
                await job.run(silence_s=1.0)
