"""Open SSH connections, say plainly why one cannot be opened, and learn new host keys.

**Invariants.** A connection that was opened is to a host whose key is in a known_hosts
file; the same holds for every host that it jumps through. Every failure leaves as one of
ours, with one line that says what to do. `trust` shows a fingerprint before it writes.

It starts nothing on the other host: `remote` does.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from typing import TYPE_CHECKING

import asyncssh

from psync.effects.ssh_config import find_route
from psync.errors import HostKeyError, PsyncError, RefusedError, TransportError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from psync.effects.ssh_config import Route

__all__ = ["Connection", "UnknownHostError", "connect", "trust"]

_CLOSE_S = 0.5
_SAY_SAME_HOST = (socket.EAI_NONAME, socket.EAI_FAIL, getattr(socket, "EAI_NODATA", -5))


class UnknownHostError(RefusedError):
    """No such name. Whoever has reached the host before may take it for a passing fault."""


class NotLetInError(RefusedError):
    """The host is the right one, and does not accept our keys."""


class _Client(asyncssh.SSHClient):
    """Remembers the host key that was not to be trusted."""

    key: asyncssh.SSHKey | None = None

    def validate_host_public_key(
        self, host: str, addr: str, port: int, key: asyncssh.SSHKey
    ) -> bool:
        """Take a key that is in no known_hosts file (asyncssh); trust none of them."""
        self.key = key
        return False


class Connection:
    """An open connection, and those to the hosts that it goes through."""

    def __init__(self, ssh: asyncssh.SSHClientConnection, through: Connection | None) -> None:
        self.ssh = ssh
        self._through = through

    @property
    def alive(self) -> bool:
        """Whether it can still be used, as far as is known."""
        return not self.ssh.is_closed()

    async def close(self) -> None:
        """Close it; returns within a second, also when the other host is silent."""
        self.ssh.close()
        try:
            async with asyncio.timeout(_CLOSE_S):
                await self.ssh.wait_closed()
        except TimeoutError:
            self.ssh.abort()
        finally:
            if self._through is not None:
                await self._through.close()


async def connect(
    destination: str, ssh_options: list[str] | None = None, timeout_s: float = 20.0
) -> Connection:
    """Open a connection to a host, and log in.

    Args:
        destination: what ssh takes: an alias, `host`, `user@host`, `ssh://...`.
        ssh_options: words of ssh's command line (`-p 2222`, `-o ConnectTimeout=10`).
        timeout_s: for all of it; later, of silence that end the connection.

    Raises:
        UsageError: destination or options make no sense, or an ssh configuration is wrong.
        UnknownHostError: the name cannot be resolved.
        HostKeyError: the host's key is not known, or has changed.
        RefusedError: it does not let us in.
        TransportError: it cannot be reached (now).
    """
    client = _Client()
    with find_route(destination, ssh_options, timeout_s) as route:
        through: Connection | None = None
        try:
            for jump in route.jumps:
                through = await _jump(jump, route, timeout_s, through)
            return await _connect(destination, route, timeout_s, through, client)
        except BaseException:
            if through is not None:
                await through.close()
            raise


async def _jump(
    jump: str, route: Route, timeout_s: float, through: Connection | None
) -> Connection:
    """Connect to a host on the way."""
    # host:port, which only ProxyJump has; an IPv6 address has more than one colon
    target = f"ssh://{jump}" if "://" not in jump and jump.count(":") == 1 else jump
    with find_route(target, route.jump_options, timeout_s) as step:
        return await _connect(jump, step, timeout_s, through, _Client())


async def _connect(
    name: str, route: Route, timeout_s: float, through: Connection | None, client: _Client
) -> Connection:
    try:
        async with asyncio.timeout(timeout_s):
            ssh = await asyncssh.connect(
                **route.arguments,
                tunnel=through.ssh if through is not None else None,
                client_factory=lambda: client,
            )
    except (asyncssh.Error, OSError, ValueError) as error:
        raise _explain(name, route, client.key, error) from error
    return Connection(ssh, through)


def _explain(name: str, route: Route, key: asyncssh.SSHKey | None, error: Exception) -> PsyncError:
    """Say in our words why a connection could not be opened, and what to do."""
    where = f"{route.host} port {route.port}"
    if isinstance(error, asyncssh.HostKeyNotVerifiable):
        return _explain_key(name, route, key, str(error))
    if isinstance(error, (asyncssh.KeyImportError, asyncssh.KeyEncryptionError)):
        return RefusedError(
            f"{name}: a key cannot be used: {error} ({_tried(route)}); name another: IdentityFile"
        )
    if isinstance(error, asyncssh.PermissionDenied):
        return NotLetInError(
            f"{name}: {route.user}@{route.host} does not accept our keys ({_tried(route)}): put "
            "the public key into ~/.ssh/authorized_keys there, or load it into ssh-agent (psync "
            "never asks for a password or passphrase)"
        )
    if isinstance(error, socket.gaierror):
        if error.errno in _SAY_SAME_HOST:
            return UnknownHostError(
                f"{name}: there is no host called {route.host}: check the name, or give its "
                "address as HostName in ~/.ssh/config"
            )
        return TransportError(f"{name}: {route.host} cannot be looked up now: {error.strerror}")
    if isinstance(error, UnicodeError):
        return UnknownHostError(f"{name}: {route.host} cannot be the name of a host")
    if isinstance(error, TimeoutError):
        return TransportError(
            f"{name}: no answer from {where} in time: is it up, and does a firewall let us through?"
        )
    if isinstance(error, OSError):
        # several addresses were tried: one error that only has text
        if error.errno == errno.ECONNREFUSED or f"[Errno {errno.ECONNREFUSED}]" in str(error):
            return TransportError(
                f"{name}: {where} refuses connections: is sshd running there, and on that port?"
            )
        reason = os.strerror(error.errno) if error.errno else str(error)
        return TransportError(f"{name}: {where} cannot be reached: {reason}")
    if isinstance(error, (asyncssh.ConnectionLost, asyncssh.ChannelOpenError)):
        return TransportError(f"{name}: {where} ended the connection: {error}")
    return RefusedError(f"{name}: {where} and we do not understand each other: {error}")


def _tried(route: Route) -> str:
    """Say which key files were tried, and of the others why they were not."""
    return "; ".join(f"{file}: {_fate(file)}" for file in route.key_files) or "no key file is there"


def _fate(file: str) -> str:
    try:
        st = os.stat(file)
        asyncssh.read_private_key(file)
    except OSError as error:
        return f"left out: {error.strerror}"
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as error:
        return f"left out, unless ssh-agent has it: {error}"
    if st.st_uid == os.getuid() and st.st_mode & 0o077:
        return "tried, but ssh would leave it out: others may read it (chmod 600)"
    return "tried"


def _explain_key(name: str, route: Route, key: asyncssh.SSHKey | None, reason: str) -> HostKeyError:
    if key is None and "key is revoked" in reason:
        where = ", ".join(route.revoked_by())
        return HostKeyError(
            f"{name}: its host key is REVOKED (by {where}): somebody else may have it! Make "
            f"another one on that host and then: psync trust {name}; only if this one is good "
            "after all, remove that line"
        )
    if key is None:
        return HostKeyError(f"{name}: its host key cannot be trusted: {reason}")
    shown = f" ({_describe(key)})"
    if route.knows():
        return HostKeyError(
            f"{name}: its host key has CHANGED{shown}: somebody may be in between! If the host was "
            f"set up anew: ssh-keygen -f {route.known_hosts_file} -R '{route.known_hosts_name()}' "
            f"and then: psync trust {name}"
        )
    return HostKeyError(
        f"{name}: its host key is not known yet{shown}: have a look at it with: psync trust {name}"
    )


def _describe(key: asyncssh.SSHKey) -> str:
    return f"{key.algorithm.decode()} {key.get_fingerprint()}"


# --- trust ----------------------------------------------------------------------------------


async def trust(
    destination: str,
    ssh_options: list[str] | None = None,
    *,
    accept: Callable[[str], bool] | None = None,
    timeout_s: float = 20.0,
) -> str:
    """Fetch a host's key, let a person look at it, and remember it in known_hosts.

    Args:
        destination: likewise `connect`'s; also the two below.
        ssh_options: `connect`'s.
        accept: is asked with the fingerprint in the question; None accepts unseen.
        timeout_s: `connect`'s.

    Returns:
        a line that says what has been done.

    Raises:
        HostKeyError: another key of that host is known already, or it was not accepted.
        PsyncError: as `connect`.
    """
    client = _Client()
    with find_route(destination, ssh_options, timeout_s) as route:
        through: Connection | None = None
        try:
            for jump in route.jumps:
                through = await _jump(jump, route, timeout_s, through)
            with contextlib.suppress(NotLetInError):  # the host's key was fine
                connection = await _connect(destination, route, timeout_s, through, client)
                await connection.close()
        except HostKeyError:
            if client.key is None or route.knows():
                raise
        finally:
            if through is not None:
                await through.close()
        name, key = route.known_hosts_name(), client.key
        if key is None:
            return f"{name} is known already"
        question = f"The host key of {name} is {_describe(key)}. Do you trust it?"
        if accept is not None and not accept(question):
            raise HostKeyError(f"{destination}: its host key was not accepted; nothing was written")
        _remember(route.known_hosts_file, f"{name} {key.export_public_key().decode().strip()}")
        return f"{name} ({_describe(key)}) is known from now on, in {route.known_hosts_file}"


def _remember(file: Path, line: str) -> None:
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(file, "ab+", opener=lambda path, flags: os.open(path, flags, 0o600)) as known:
            size = known.seek(0, os.SEEK_END)
            torn = size > 0 and os.pread(known.fileno(), 1, size - 1) != b"\n"
            known.write(b"\n" * torn + line.encode() + b"\n")
    except OSError as error:
        raise HostKeyError(f"{file} cannot be written: {error.strerror}") from None
