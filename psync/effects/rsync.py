"""Carry large files between the hosts with rsync, over the connection that is open already.

rsync starts what it takes for a remote shell: `psync-rsh`, a few lines of C that hand
rsync's two pipes to us and wait for an exit status. We join the pipes to a channel of the
data connection. So a transfer costs no handshake, and its bytes pass through one process
only. Between two replicas on one machine rsync does without any of that.

**Invariants.** rsync reads descriptors that an agent holds (`/proc/<pid>/fd/<n>`) and
writes into staging; it never sees a user's name, and never writes to a user's file. It
sets no times, modes or owners: whoever places the file does. Nothing of the user's
environment changes what it does. There is no limit on how long it may take while bytes
flow. After `run` no process of it is left here.

Silence ends it. rsync sees to that by itself, but not where one of its processes is stopped:
a stopped one measures nothing, and the others keep each other awake (`_MOVED_MIN`). So we look
at how many bytes they move, too.

It does not know what is worth sending, nor whether a file changed meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import platform
import re
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psync
from psync import faults
from psync.core.entry import printable
from psync.effects.spawn import Moved, Process, listen, run_to_end, spawn
from psync.effects.transport import RemoteHost
from psync.errors import PsyncError, TransportError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from psync.core.entry import Side
    from psync.effects.transport import Host

__all__ = ["Rsync", "RsyncError", "refusal"]

_LOOKS = 4  # in the time after which silence ends it
_MOVED_MIN = 256  # bytes in that time; of a stopped one the others exchange a few, to stay alive
_COMMAND_MAX = 100_000  # Linux takes 131,072 in one argument, and sshd makes one of it
_STDERR_MAX = 8192
_LAST_WORDS_S = 1.0
_ASKED_S = 5.0
_NAME = "psync"  # what rsync takes for a host's name; the shim knows only one
_NOT_FOUND = 127
_SILENT = 30

# rsync's exit codes that come of a link, not of a file
_LINK_CODES = {
    10: "the connection failed",
    12: "the connection ended in the middle",
    20: "rsync was told to stop",
    _SILENT: "nothing came for too long (etimeout)",
    35: "the connection could not be made in time",
    255: "the connection was lost",
}
_PROGRESS = re.compile(rb"([0-9][0-9,.]*) +[0-9]+%")

# The shim where none could be compiled. rsync takes the word apart: no single quote in it.
_SHIM = (
    'import os,socket,sys;s=socket.socket(fileno=int(os.environ["PSYNC_RSH_FD"]));'
    "socket.send_fds(s,[b''.join(os.fsencode(a)+bytes(1) for a in sys.argv[1:])],[0,1]);"
    "os.close(0);os.close(1);b=s.recv(1);sys.exit(b[0] if b else 255)"
).replace("''", '""')


class RsyncError(PsyncError):
    """rsync could not do what it was asked to, for a reason other than the connection."""

    def __init__(self, code: int, line: str) -> None:
        super().__init__(f"rsync: {line} (exit status {code})" if code else line)
        self.code = code


class Rsync:
    """Runs rsync between two hosts, of which one at most is not this one."""

    def __init__(self, left: Host, right: Host) -> None:
        self._hosts = (left, right)
        self._remote = [host for host in self._hosts if isinstance(host, RemoteHost)]
        if len(self._remote) > 1:
            raise UsageError("one of the two replicas has to be on this host")

    async def run(
        self,
        source: Side,
        source_paths: list[str],
        target: Side,
        target_dir: str,
        *,
        delta: bool,
        sparse: bool,
        silence_s: float,
        options: list[str],
        on_bytes: Callable[[int], None] | None = None,
    ) -> None:
        """Bring files into a directory under their paths' last components; any number may run.

        Args:
            source: where the files are.
            source_paths: absolute paths; what they lead to is read (`-L`).
            target: where they are to be.
            target_dir: an absolute path that ends in a slash.
            delta: send what differs from the file that is there already, else all of it.
            sparse: the files have holes, which are to be holes there, too.
            silence_s: how long nothing may move; then it is ended.
            options: more options, from the user (`-z`, `--bwlimit=1m`).
            on_bytes: told now and then how many bytes of all files are done.

        Raises:
            TransportError: the connection failed; what is in the directory is worth nothing.
            RsyncError: rsync itself failed.
            ValueError: more paths than fit a command.
        """
        if sum(len(path) + 1 for path in source_paths) > _COMMAND_MAX:
            raise ValueError(f"{len(source_paths)} paths are too many for one command")
        argv = [
            "rsync",
            # what a descriptor leads to, whatever its size and time say
            "-L", "-I",
            # Into the file itself. Not with holes: before 3.3.0 rsync then left bytes of the old
            # file where the new one has a hole at its end.
            "--sparse" if sparse else "--inplace",
            "--no-whole-file" if delta else "--whole-file",
            # nobody waits for a connection full of zeros
            *(["-z"] if sparse and self._remote and not _is_on_compression(options) else []),
            f"--timeout={math.ceil(silence_s)}",
            *(["--info=progress2"] if on_bytes is not None else []),
            *options,
        ]  # fmt: skip
        remote = None
        for side in (source, target):
            host = self._hosts[side]
            if isinstance(host, RemoteHost):
                remote = host
                argv += ["-e", _remote_shell()]
        argv += [self._place(source, path) for path in source_paths]
        argv.append(self._place(target, target_dir))
        await _Run(remote, silence_s, on_bytes).run(argv)

    def _place(self, side: Side, path: str) -> str:
        return f"{_NAME}:{path}" if self._hosts[side] in self._remote else path


def _is_on_compression(options: list[str]) -> bool:
    """Tell whether a user has said how to compress; if in doubt, yes: `-z` twice is another one."""
    return any("z" in option or "compress" in option for option in options)


def _remote_shell() -> str:
    """What rsync starts in place of ssh."""
    shim = Path(psync.__file__).with_name("_bin") / f"psync-rsh-{platform.machine()}"
    if os.access(shim, os.X_OK) and not set(str(shim)) & set(" '\"\\"):
        return str(shim)
    return f"'{sys.executable}' -ISE -c '{_SHIM}'"


class _Run:
    """One run of rsync."""

    def __init__(
        self,
        remote: RemoteHost | None,
        silence_s: float,
        on_bytes: Callable[[int], None] | None,
    ) -> None:
        self._remote = remote
        self._silence_s = silence_s
        self._on_bytes = on_bytes
        self._errors = bytearray()
        self._quiet = asyncio.Event()  # rsync's standard error has ended
        self._pending = b""

    async def run(self, argv: list[str]) -> None:
        """Run it to its end; see `Rsync.run`."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with contextlib.ExitStack() as stack:
            stack.enter_context(ours)
            with theirs:
                output, stdout = await listen(self._progress)
                stack.callback(output.close)
                stack.callback(os.close, stdout)
                errors, stderr = await listen(self._complain, self._quiet.set)
                stack.callback(errors.close)
                try:
                    process = await spawn(
                        argv,
                        stdout=stdout,
                        stderr=stderr,
                        pass_fds=[theirs.fileno()],
                        env={**_environment(), "PSYNC_RSH_FD": str(theirs.fileno())},
                        ends_all=True,
                    )
                except OSError as error:
                    raise RsyncError(
                        _NOT_FOUND, f"it cannot be started on this host: {error.strerror}"
                    ) from None
                finally:
                    os.close(stderr)
            serving = asyncio.create_task(self._serve(ours))
            faults.at("rsync: begun")
            try:
                code = await self._end(process)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LAST_WORDS_S):
                        await self._quiet.wait()
            finally:
                process.kill()
                serving.cancel()
                (served,) = await asyncio.gather(serving, return_exceptions=True)
        if code:
            raise served if isinstance(served, PsyncError) else self._explain(code)

    async def _end(self, process: Process) -> int:
        """Wait for its end; return its exit status.

        Looks are counted, not seconds: when we did not run for a while, it could not move either.
        """
        before, quiet = process.moved(), 0
        while quiet < _LOOKS:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._silence_s / _LOOKS):
                    return await process.wait()
            seen = process.moved()
            if seen is not None and before is not None and _is_quiet(before, seen):
                quiet += 1
            else:
                before, quiet = seen, 0
        process.kill()
        with contextlib.suppress(TimeoutError):  # it may hang in a file system that does
            async with asyncio.timeout(_LAST_WORDS_S):
                await process.wait()
        return _SILENT

    async def _serve(self, ours: socket.socket) -> None:
        """Join rsync to the other host, once its shim asks for it."""
        ours.setblocking(False)
        request, descriptors = await _receive(ours)
        if self._remote is None or len(descriptors) != 2:
            for descriptor in descriptors:
                os.close(descriptor)
            return  # it ended before it came so far
        words = request.removesuffix(b"\0").split(b"\0")[1:]
        command = b" ".join(words).decode("utf-8", "surrogateescape")  # as ssh does
        stdin, stdout = descriptors
        try:
            status = await self._remote.run(command, stdin, stdout, self._complain)
        except PsyncError:
            ours.shutdown(socket.SHUT_RDWR)  # the shim then exits with 255
            raise
        with contextlib.suppress(OSError):
            ours.send(bytes([status & 0xFF]))

    def _progress(self, data: bytes) -> None:
        if self._on_bytes is None:
            return
        self._pending = (self._pending + data)[-256:]
        found = _PROGRESS.findall(self._pending)
        if found:
            self._pending = b""
            self._on_bytes(int(re.sub(rb"[,.]", b"", found[-1])))

    def _complain(self, data: bytes) -> None:
        self._errors += data
        del self._errors[_STDERR_MAX:]  # the first complaint is the cause of the others

    def _explain(self, code: int) -> PsyncError:
        lines = [printable(line.strip()) for line in bytes(self._errors).splitlines()]
        causes = [line for line in lines if line and not line.startswith("rsync error:")]
        # a shell's greeting may stand before what rsync says
        cause = next((line for line in causes if line.startswith("rsync")), None)
        said = (cause or next(iter(causes), "")).removeprefix("rsync: ")
        where = self._remote.describe() if self._remote is not None else "this host"
        if code == _NOT_FOUND or any(line.endswith("(code 127)") for line in lines):
            return RsyncError(
                code, f"it is not installed on {where} (Debian: apt-get install rsync); {said}"
            )
        if any("is your shell clean?" in line for line in lines):
            return RsyncError(
                code,
                f"something on {where} prints before it answers: see to it that neither the "
                f"shell's start-up files nor a command= of the key do; {said}",
            )
        if code in _LINK_CODES or code < 0:
            why = _LINK_CODES.get(code, f"rsync was killed by signal {-code}")
            return TransportError(f"{where}: {why}{f': {said}' if said else ''}")
        return RsyncError(code, said or "it gives no reason")


def _is_quiet(before: Moved, seen: Moved) -> bool:
    # One that ends takes its number along. Where none is stopped a byte may mean that the other
    # host is at work, on a slow disk, say.
    return abs(seen.size - before.size) < (_MOVED_MIN if seen.stopped else 1)


async def _receive(ours: socket.socket) -> tuple[bytes, list[int]]:
    """Wait for the shim's request and the two descriptors that come with it."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(ours, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(ours)
    try:
        request, descriptors, _, _ = socket.recv_fds(ours, _COMMAND_MAX * 2, 2)
    except OSError:
        return b"", []
    return request, descriptors


def _environment() -> dict[str, str]:
    """Ours, without what would change rsync's ways or its language."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RSYNC_", "LC_"))}
    return {**kept, "LC_ALL": "C"}


async def refusal(option: str) -> str:
    """Say in rsync's words why it takes no such option; empty: it does, or cannot be asked."""
    # --version would do, but that it comes before rsync looks at the names of algorithms.
    ask = ["rsync", option, "--list-only", os.devnull]
    try:
        status, said = await run_to_end(ask, within=_ASKED_S, env=_environment())
    except OSError:
        return ""
    return said.partition("\n")[0].removeprefix("rsync: ") if status > 0 else ""
