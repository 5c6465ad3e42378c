"""A real sshd for tests: own keys, own home, 127.0.0.1, and every way to make it fail.

    with Sshd.start(directory) as sshd:
        ...SshHost(sshd.alias) with HOME=sshd.home, or sshd.ssh_options() without...

The *client's* home (`home`) has `.ssh/config` with the alias, the user's key and a
known_hosts file. The *server* gives every session a home of its own (`remote_home`, an
empty one: no start-up files slow it down) and a plain PATH.

Needs OpenSSH's sshd. Works as root (it makes `/run/sshd`) and as a plain user.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shlex
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Sshd", "children", "free_port"]

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Sshd:
    """One sshd and what belongs to it; made by `Sshd.start`."""

    alias = "psync-test"

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.home = directory / "home"
        self.remote_home = directory / "remote"
        self.port = free_port()
        self.user = getpass.getuser()
        self.known_hosts = self.home / ".ssh" / "known_hosts"
        self.authorized_keys = directory / "authorized_keys"
        self.key = self.home / ".ssh" / "id_ed25519"
        self.host_key = directory / "host_key"
        self._log = directory / "sshd.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._frozen: list[int] = []
        self._settings: dict[str, str] = {}

    @classmethod
    @contextlib.contextmanager
    def start(cls, directory: Path, **settings: str) -> Iterator[Sshd]:
        """Set everything up and run it; `settings` are sshd_config keywords."""
        sshd = cls(directory)
        sshd._prepare()
        sshd._settings = settings
        sshd.restart()
        try:
            yield sshd
        finally:
            sshd.stop()

    # --- set-up --------------------------------------------------------------------------

    def _prepare(self) -> None:
        for path in (self.home / ".ssh", self.remote_home):
            path.mkdir(parents=True, mode=0o700)
        make_key(self.host_key)
        make_key(self.key)
        self.allow()
        self.trust()
        self.write_config()

    def write_config(self, *lines: str) -> None:
        """Write the client's ssh_config; `lines` come first in the alias's block."""
        config = self.home / ".ssh" / "config"
        block = [
            f"Host {self.alias}",
            *lines,
            "HostName 127.0.0.1",
            f"Port {self.port}",
            f"User {self.user}",
            f"IdentityFile {self.key}",
            "IdentitiesOnly yes",
            f"UserKnownHostsFile {self.known_hosts}",
        ]
        config.write_text("\n  ".join(block) + "\n")
        config.chmod(0o600)

    def allow(self, command: str | None = None) -> None:
        """Let the user's key in; bound to `command` where that is given."""
        restriction = ""
        if command is not None:
            escaped = command.replace('"', '\\"')
            restriction = f'command="{escaped}",restrict '
        public = self.key.with_suffix(".pub").read_text()
        self.authorized_keys.write_text(restriction + public)
        self.authorized_keys.chmod(0o600)

    def through(self, script: str) -> None:
        """Run every command through a script, which finds it in SSH_ORIGINAL_COMMAND.

        So a test can make the other host look as it needs it: another PATH, a banner.
        """
        wrapper = self.directory / "wrapper"
        wrapper.write_text("#!/bin/sh\n" + script + "\n")
        wrapper.chmod(0o755)
        self.allow(str(wrapper))

    def forbid(self) -> None:
        """Let no key in."""
        self.authorized_keys.write_text("")

    def trust(self) -> None:
        """Make the host's key known to the client."""
        public = self.host_key.with_suffix(".pub").read_text()
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {public}")

    def change_host_key(self) -> None:
        """Give the server another key; takes effect with `restart`."""
        self.host_key.unlink()
        self.host_key.with_suffix(".pub").unlink()
        make_key(self.host_key)

    def ssh_options(self) -> list[str]:
        """Reach it without the client's home."""
        return ["-F", str(self.home / ".ssh" / "config")]

    def ssh(self, *command: str) -> list[str]:
        """The argv that runs a command there with OpenSSH's client."""
        return ["ssh", *self.ssh_options(), self.alias, *command]

    # --- life ------------------------------------------------------------------------------

    def restart(self) -> None:
        """Stop it where it runs, and run it (again) on the same port."""
        self.stop()
        if os.geteuid() == 0:
            os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
        settings = {
            "Port": str(self.port),
            "ListenAddress": "127.0.0.1",
            "HostKey": str(self.host_key),
            "PidFile": "none",
            "AuthorizedKeysFile": str(self.authorized_keys),
            "StrictModes": "no",  # the temporary directory's parents are everybody's
            "PasswordAuthentication": "no",
            "KbdInteractiveAuthentication": "no",
            "PubkeyAuthentication": "yes",
            "PermitRootLogin": "yes",
            "UsePAM": "no",
            "UseDNS": "no",
            "PrintMotd": "no",
            "MaxStartups": "100",
            "Subsystem": "sftp internal-sftp",
            # one line: only the first SetEnv counts
            "SetEnv": f"HOME={self.remote_home} PATH={PATH}",
            **self._settings,
        }
        config = self.directory / "sshd_config"
        config.write_text("".join(f"{key} {value}\n" for key, value in settings.items()))
        program = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
        if program is None:
            raise FileNotFoundError("sshd: install openssh-server")
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(
                [program, "-D", "-e", "-f", str(config)], stdin=subprocess.DEVNULL, stderr=log
            )
        deadline = time.monotonic() + 10
        while True:  # sshd cannot tell when it listens
            if self._is_open():
                return
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"sshd does not start: {self.log()}")
            time.sleep(0.01)

    def stop(self) -> None:
        """End it with all its connections; the port then refuses."""
        if self._process is None:
            return
        self.thaw()
        # One that it forks while we look would keep the port open for a moment.
        _signal(self._process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        for pid in self._tree():
            _signal(pid, signal.SIGKILL)
        self._process.wait()
        self._process = None
        while self._is_open():  # those are not our children: they go when they go
            time.sleep(0.001)

    def _is_open(self) -> bool:
        """Tell whether somebody listens on the port."""
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def cut(self) -> None:
        """Cut every connection at once, as if the network had gone with a reset; it goes on."""
        assert self._process is not None
        self.thaw()
        for pid in self._tree():
            if pid != self._process.pid and is_sshd(pid):
                _signal(pid, signal.SIGKILL)

    def freeze(self) -> None:
        """Stop it and everything that it has started: the link is half open."""
        for pid in self._tree():
            _signal(pid, signal.SIGSTOP)
            self._frozen.append(pid)

    def thaw(self) -> None:
        """Let it go on after `freeze`."""
        while self._frozen:
            _signal(self._frozen.pop(), signal.SIGCONT)

    def commands(self) -> list[int]:
        """The processes that its sessions have started."""
        return [pid for pid in self._tree() if not is_sshd(pid)]

    def log(self) -> str:
        """What it said."""
        return self._log.read_text(errors="replace")

    def _tree(self) -> list[int]:
        return [] if self._process is None else children(self._process.pid)


def make_key(file: Path) -> None:
    """Make a key pair without a passphrase."""
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "psync-test", "-f", str(file)],
        check=True,
    )


def free_port() -> int:
    """Find a port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def children(pid: int) -> list[int]:
    """List a process and all that come from it, parents first."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += [int(child) for child in task.read_text().split()]
    return found


def is_sshd(pid: int) -> bool:
    """Tell whether a process is (a part of) sshd."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().startswith("sshd")
    except OSError:
        return False


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def quote(*words: str) -> str:
    """Join words for a shell."""
    return shlex.join(words)
