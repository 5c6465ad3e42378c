"""The place where everything is measured: an sshd of its own, and what the floors are made of.

The sshd is the one that the tests use: on 127.0.0.1, with its own keys, a client's home of its
own and a bare one for every login, so that neither the user's keys nor anybody's `.bashrc` has
a part in it. The floors and psync go through the same sshd to the same file system.

**Invariants.** Nothing is read from or left in the user's home; everything is below one
directory, which goes at the end. Only processes that were started here are ended.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from bench.relay import Relay
from tests.sshd import Sshd

__all__ = ["Echo", "Lab", "choose_directory"]

COUNTED = "psync-counted"  # the same host, by way of the relay
LIMIT_S = 900.0


class Lab:
    """One sshd, one relay in front of it, and rooms to work in."""

    def __init__(self, directory: Path, sshd: Sshd, relay: Relay) -> None:
        self.directory = directory
        self.sshd = sshd
        self.relay = relay
        self.quiet_s = 0.3  # a session that uses no CPU so long has nothing left to do
        self.profiles: Path | None = None  # where py-spy writes, if it is to look

    @classmethod
    @contextlib.contextmanager
    def opened(cls, parent: Path) -> Iterator[Lab]:
        """Set everything up in a new directory below `parent`; take it all away at the end."""
        directory = Path(tempfile.mkdtemp(prefix="psync-bench-", dir=parent))
        try:
            with Sshd.start(directory / "sshd") as sshd:
                relay = Relay(sshd.port)
                try:
                    _make_known(sshd, relay)
                    yield cls(directory, sshd, relay)
                finally:
                    relay.close()
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    @contextlib.contextmanager
    def room(self) -> Iterator[Path]:
        """An empty directory for one measurement."""
        room = Path(tempfile.mkdtemp(dir=self.directory))
        try:
            yield room
        finally:
            shutil.rmtree(room, ignore_errors=True)

    def env(self) -> dict[str, str]:
        """The surroundings of psync: this lab's home, nothing of the user's."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PSYNC_", "XDG_", "SSH_"))}
        return {**kept, "HOME": str(self.sshd.home), "LC_ALL": "C.UTF-8"}

    # --- the floors: each returns how long it took -----------------------------------------

    def tar(self, source: Path, target: Path) -> float:
        """Copy `source`, a file or directory, into the directory `target`: tar c | ssh tar x."""
        return _timed(
            ["tar", "cf", "-", "-C", str(source.parent), source.name],
            self.sshd.ssh("tar", "xf", "-", "-C", str(target)),
        )

    def rsync(self, source: Path, target: Path, *options: str, counted: bool = False) -> float:
        """The same with rsync -a over ssh; `counted` by the relay."""
        rsh = " ".join(["ssh", *self.sshd.ssh_options()])
        host = COUNTED if counted else self.sshd.alias
        return _timed(["rsync", "-a", *options, "-e", rsh, str(source), f"{host}:{target}/"])

    def remove(self, target: Path) -> float:
        """Remove a directory with ssh rm -rf."""
        return _timed(self.sshd.ssh("rm", "-rf", str(target)))

    def bytes_of(self, work: Callable[[], object]) -> int:
        """Count what passes the relay while `work` is done."""
        before = self.relay.carried
        work()
        return self.relay.carried - before


class Echo:
    """Round trips over a connection that is open already: `ssh HOST cat`."""

    def __init__(self, lab: Lab) -> None:
        self._process = subprocess.Popen(
            lab.sshd.ssh("cat"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        self.trip(1)  # the login is over when it answers

    def __enter__(self) -> Echo:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()

    def trip(self, size: int) -> float:
        """Send `size` bytes there and wait until they are back; at most a pipe's worth."""
        assert self._process.stdin and self._process.stdout
        data = os.urandom(size)
        start = time.perf_counter()
        self._process.stdin.write(data)
        while size:
            got = self._process.stdout.read(size)
            if not got:
                raise RuntimeError("ssh cat has ended")
            size -= len(got)
        return time.perf_counter() - start


def choose_directory(bytes_needed: int) -> Path:
    """Find where there is room: the memory file system, else the temporary directory."""
    shared = Path("/dev/shm")
    with contextlib.suppress(OSError):
        if shutil.disk_usage(shared).free >= bytes_needed and _available() >= 1.5 * bytes_needed:
            return shared
    return Path(tempfile.gettempdir())


def _available() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def _make_known(sshd: Sshd, relay: Relay) -> None:
    """Let the client reach the same sshd through the relay, under a second name."""
    public = sshd.host_key.with_suffix(".pub").read_text()
    with sshd.known_hosts.open("a") as file:
        file.write(f"[127.0.0.1]:{relay.port} {public}")
    config = sshd.home / ".ssh" / "config"
    block = config.read_text().replace(sshd.alias, COUNTED)
    block = block.replace(f"Port {sshd.port}", f"Port {relay.port}")
    with config.open("a") as file:
        file.write(block)


def _timed(*pipeline: list[str]) -> float:
    """Run commands, each reading what the one before writes; return the seconds until all ended."""
    start = time.perf_counter()
    processes: list[subprocess.Popen[bytes]] = []
    source: IO[bytes] | int | None = subprocess.DEVNULL
    for n, argv in enumerate(pipeline):
        last = n == len(pipeline) - 1
        process = subprocess.Popen(
            argv,
            stdin=source,
            stdout=subprocess.DEVNULL if last else subprocess.PIPE,
            stderr=subprocess.PIPE if last else None,
        )
        if processes and processes[-1].stdout:
            processes[-1].stdout.close()
        source = process.stdout
        processes.append(process)
    try:
        _, said = processes[-1].communicate(timeout=LIMIT_S)
        codes = [process.wait(LIMIT_S) for process in processes]
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()
    seconds = time.perf_counter() - start
    if any(codes):
        raise RuntimeError(f"{pipeline[-1][0]} failed ({codes}): {said.decode(errors='replace')}")
    return seconds
