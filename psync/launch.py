"""Start sessions in the background, and start again what died.

A session that is a unit of systemd's (`psync@NAME.service`, enabled) is systemd's to start; any
other is started by us, in a session of its own and without a terminal, with what it prints in
`output` in its directory.

**Invariants.** A process that a name in the state directory says is the session's is looked at
through a pidfd before it is signalled: no other process ever gets that signal. A session that was
stopped on purpose is not started from here unless its user names it.

It does not decide whether a session is dead: see `runcheck`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
from pathlib import Path
from typing import NamedTuple

from psync.control import Call, NoSession, Unanswered, call
from psync.effects.bootstrap import own_command
from psync.effects.spawn import run_to_end, spawn
from psync.effects.state import SessionDir, reason
from psync.errors import PsyncError, StoreError
from psync.overview import away

__all__ = ["Unit", "end_hung", "find_unit", "is_answered", "start"]

_BOOTED = "/run/systemd/system"  # sd_booted(3)
_SYSTEMCTL_S = 150.0  # longer than what a unit may take to start
_STARTED_S = 20.0  # until a session answers
_LOOK_S = 0.1
_ANSWER_S = 2.0
_TERM_S = 5.0
_KILL_S = 5.0


class Unit(NamedTuple):
    """What systemd knows of a session.

    Attributes:
        name: the unit's.
        state: `active`, `inactive` (an administrator has stopped it), `failed`, `activating`, ...
    """

    name: str
    state: str


async def find_unit(name: str) -> Unit | None:
    """Find the enabled unit of a session; None: there is none, or no systemd."""
    if not os.path.isdir(_BOOTED):  # noqa: ASYNC240  # memory
        return None
    unit = f"psync@{name}.service"
    scope = [] if os.geteuid() == 0 else ["--user"]
    try:
        status, _ = await run_to_end(
            ["systemctl", *scope, "is-enabled", "--quiet", unit], within=_SYSTEMCTL_S
        )
        if status:
            return None
        _, said = await run_to_end(["systemctl", *scope, "is-active", unit], within=_SYSTEMCTL_S)
    except OSError:
        return None
    return Unit(unit, said.strip())


async def start(session: SessionDir, config: Path | None, unit: Unit | None) -> str:
    """Start a session in the background, and wait until it is clear whether it can go on.

    Args:
        session: which one; nobody runs it.
        config: the file that it is configured in; None: where psync looks for it.
        unit: systemd's, where that is to do it; what runs of it is ended first.

    Returns:
        what it waits for, and tries again; empty: nothing, or nobody knows yet.

    Raises:
        PsyncError: it does not come up; the message says why.
    """
    if unit is not None:
        scope = [] if os.geteuid() == 0 else ["--user"]
        status, said = await run_to_end(
            ["systemctl", *scope, "restart", unit.name], within=_SYSTEMCTL_S
        )
        if status:
            raise PsyncError(f"systemctl restart {unit.name} failed: {' '.join(said.split())}")
        return ""
    where = ["--config", str(config)] if config is not None else []
    state = str(session.path.parent.parent)
    try:
        session.make()
        # Appended, so that logrotate may cut it while the session goes on.
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        output = os.open(session.path / "output", flags, 0o600)
    except OSError as error:
        raise StoreError(f"cannot use {session.path}: {reason(error)}") from None
    try:
        argv = [*own_command("psync.cli"), "run", "--state-dir", state, *where, session.name]
        process = await spawn(argv, stdout=output, stderr=output)
        ended = asyncio.ensure_future(process.wait())
        lacks: str | None = None
        try:
            async with asyncio.timeout(_STARTED_S):
                while not ended.done() and (lacks := _lacks(session)) is None:
                    await asyncio.wait([ended], timeout=_LOOK_S)
        except TimeoutError:
            if not is_answered(session):
                raise PsyncError(f"session {session.name} does not answer yet") from None
        finally:
            ended.cancel()
        if process.returncode:
            lines = os.pread(output, 2000, 0).decode("utf-8", "replace").splitlines()
            why = lines[-1].removeprefix("psync: ") if lines else f"status {process.returncode}"
            with contextlib.suppress(OSError):
                if os.listdir(session.path) == ["output"]:  # it has not begun
                    os.unlink(session.path / "output")
                    session.path.rmdir()
            raise PsyncError(f"session {session.name} ended at once: {why}")
        return lacks or ""
    finally:
        os.close(output)


def _lacks(session: SessionDir) -> str | None:
    """Say what a session waits for that has begun; None: it has not, or may still end of it."""
    try:
        told = call(session.path, "status", timeout=_ANSWER_S)
    except PsyncError:
        return None
    if not told.get("ready", True):
        return None
    return next((f"{name} is not connected: {why}" for name, why in away(told)), "")


def is_answered(session: SessionDir) -> bool:
    """Tell whether somebody listens for questions to a session."""
    try:
        Call(session.path, "status").close()
    except (NoSession, Unanswered):
        return False
    return True


def end_hung(session: SessionDir) -> None:
    """End a session that does not answer, by force where it has to be.

    Raises:
        PsyncError: it is still there, or cannot be found.
    """
    try:
        request = Call(session.path, "status")
    except NoSession:
        return
    try:
        # While the connection stands the pid is that process's and no other's.
        process = os.pidfd_open(request.pid)
    except ProcessLookupError:
        return
    finally:
        request.close()
    try:
        poll = select.poll()
        poll.register(process, select.POLLIN)
        for number, seconds in ((signal.SIGTERM, _TERM_S), (signal.SIGKILL, _KILL_S)):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(process, number)
            if poll.poll(seconds * 1000):
                return
    finally:
        os.close(process)
    raise PsyncError(
        f"session {session.name} (pid {request.pid}) cannot be ended: does its disk hang?"
    )
