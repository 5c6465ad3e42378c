"""Start a program without copying the brain, and learn of its end without a thread.

uvloop starts children with `fork`, which stops the loop for as long as it takes to copy
the page tables of a brain with a million archived paths (50 ms and more);
`subprocess.Popen` uses `vfork` and takes two. So every child of psync is started here,
and its end is noticed through a pidfd that the loop watches like any other descriptor.

**Invariants.** A child leads a session of its own: a Ctrl-C in the terminal reaches psync
alone, which then ends its children in order, and a signal sent through `Process` reaches
everything that the child has started. A signal never goes to a pid that has been
reaped. Descriptors are inherited only when named.

It reads no output by itself: callers pass descriptors, and `listen` makes one that
reports what a child writes to it. `run_to_end` is for a program that is given a text and says
little: both are in memory files, so that nobody has to pump.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import threading
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["Listener", "Moved", "Process", "listen", "run_to_end", "spawn"]

_SAID_MAX = 2000
_KILLED_S = 1.0  # for a killed one to be gone
_BUSY, _STOPPED = (b"R", b"D"), (b"T", b"t")  # states of a process, as in /proc/<pid>/stat

Stream = int | IO[bytes]


class Moved(NamedTuple):
    """What processes have done so far.

    Attributes:
        size: bytes that those of them have read and written which are there still.
        stopped: one of them is stopped (SIGSTOP, a debugger).
    """

    size: int
    stopped: bool


class Process:
    """A running child; made by `spawn`."""

    def __init__(self, child: subprocess.Popen[bytes], *, ends_all: bool = False) -> None:
        self._child = child
        self._ends_all = ends_all
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[int] = self._loop.create_future()
        self.pid = child.pid
        try:
            self._pidfd = os.pidfd_open(child.pid)
        except OSError:  # a kernel before 5.3, or a sandbox that forbids it
            self._pidfd = -1
            threading.Thread(target=self._wait_in_thread, daemon=True).start()
        else:
            self._loop.add_reader(self._pidfd, self._reap)

    @property
    def returncode(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        return self._ended.result() if self._ended.done() else None

    async def wait(self) -> int:
        """Wait for the end; return the exit status, negative for a signal.

        Any number of callers may wait; one that is cancelled disturbs nobody.
        """
        return await asyncio.shield(self._ended)

    def terminate(self) -> None:
        """Ask the child, and all that it has started, to end. Does nothing after its end."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End the child, and all that it has started, at once; also when it is stopped."""
        self._signal(signal.SIGKILL)

    def moved(self) -> Moved | None:
        """Tell what the child, and all that it has started, have read and written so far.

        Returns:
            None: one of them is at work or waits for a disk, so that a number says nothing, or the
            kernel does not tell.
        """
        total, stopped = 0, False
        for name in os.listdir("/proc"):
            try:
                if not name.isdigit() or os.getpgid(int(name)) != self.pid:
                    continue
                state = Path("/proc", name, "stat").read_bytes().rpartition(b")")[2].split()[0]
                counts = Path("/proc", name, "io").read_bytes().split()
            except (ProcessLookupError, FileNotFoundError):
                continue  # it has just ended
            except OSError:
                return None
            if state in _BUSY:
                return None
            total += int(counts[1]) + int(counts[3])  # rchar, wchar: pipes count, too
            stopped = stopped or state in _STOPPED
        return Moved(total, stopped)

    def _signal(self, number: signal.Signals) -> None:
        if not self._ended.done():  # not reaped by us, so the pid is still the child's
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    def _reap(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._end()

    def _end(self) -> None:
        if self._ends_all:
            self.kill()  # the others: it is not reaped yet, so the group is still the child's
        self._ended.set_result(self._child.wait())

    def _wait_in_thread(self) -> None:
        # Wait without reaping: only the loop's thread may free the pid for others.
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody asks any more
            self._loop.call_soon_threadsafe(self._end)


async def spawn(
    argv: Sequence[str],
    *,
    stdin: Stream = subprocess.DEVNULL,
    stdout: Stream = subprocess.DEVNULL,
    stderr: Stream = subprocess.DEVNULL,
    pass_fds: Sequence[int] = (),
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    ends_all: bool = False,
) -> Process:
    """Start a program; the caller keeps, and closes, the descriptors it passed.

    Args:
        argv: program (looked up in PATH) and arguments; no shell is involved.
        stdin: descriptor or file that the child gets as 0; nothing (`/dev/null`) unless given.
        stdout: likewise 1.
        stderr: likewise 2.
        pass_fds: further descriptors, kept under the same numbers.
        env: the whole environment; ours unless given.
        cwd: where to start it; here unless given.
        ends_all: at its end all that it has started is killed, also what is stopped.

    Raises:
        OSError: it cannot be started, `FileNotFoundError` where there is no such program.
    """
    child = subprocess.Popen(  # noqa: ASYNC220 - 2 ms by vfork; see above
        list(argv),
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        pass_fds=tuple(pass_fds),
        env=env,
        cwd=cwd,
        start_new_session=True,
    )
    return Process(child, ends_all=ends_all)


async def run_to_end(
    argv: Sequence[str],
    text: bytes = b"",
    *,
    within: float,
    env: Mapping[str, str] | None = None,
) -> tuple[int, str]:
    """Run a program that reads `text`, until its end or until it is killed.

    Args:
        argv: as `spawn`'s.
        text: its standard input.
        within: seconds; then it, and all that it has started, is killed. Cancelling does the same.
        env: as `spawn`'s.

    Returns:
        its exit status, negative for a signal, and the beginning of what it printed.

    Raises:
        OSError: it cannot be started.
    """
    given, said = os.memfd_create("psync-text"), os.memfd_create("psync-said")
    try:
        os.write(given, text)
        os.lseek(given, 0, os.SEEK_SET)
        process = await spawn(argv, stdin=given, stdout=said, stderr=said, env=env)
        try:
            async with asyncio.timeout(within):
                status = await process.wait()
        except TimeoutError:
            status = -signal.SIGKILL
        finally:
            if process.returncode is None:
                process.kill()
                await asyncio.wait([asyncio.ensure_future(process.wait())], timeout=_KILLED_S)
        return status, os.pread(said, _SAID_MAX, 0).decode("utf-8", "replace").strip()
    finally:
        os.close(given)
        os.close(said)


class Listener(asyncio.Protocol):
    """The reading end of a pipe; made by `listen`."""

    def __init__(self, on_data: Callable[[bytes], None], on_end: Callable[[], None]) -> None:
        self._on_data = on_data
        self._on_end = on_end
        self._transport: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport (asyncio)."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Pass on what came (asyncio)."""
        self._on_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass on the end (asyncio)."""
        self._on_end()

    def close(self) -> None:
        """Stop listening, also when somebody still holds the other end."""
        if self._transport is not None:
            self._transport.close()


async def listen(
    on_data: Callable[[bytes], None], on_end: Callable[[], None] = lambda: None
) -> tuple[Listener, int]:
    """Make a pipe whose output is reported.

    Args:
        on_data: called with what came, as it comes.
        on_end: called once, when nothing more will come.

    Returns:
        the reading end, and the descriptor to give to a child; the caller closes both.
    """
    reader, writer = os.pipe()
    try:
        _, listener = await asyncio.get_running_loop().connect_read_pipe(
            lambda: Listener(on_data, on_end), os.fdopen(reader, "rb", 0)
        )
    except BaseException:
        os.close(writer)
        raise
    return listener, writer
