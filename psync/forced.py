"""Serve rsync behind a key that may do nothing but `psync agent`.

Whoever restricts a key with `command="psync agent --root DIR",restrict` wants psync to
work with it and nothing else. psync's brain runs `rsync --server` over the same key for
large files; sshd then starts us, with rsync's command line in `SSH_ORIGINAL_COMMAND`. It
is taken apart, compared with what psync's own rsync sends, and run without a shell.

**Invariants.** What is run is rsync, with options from a fixed set, on paths that are
descriptors of a living agent of the same user: files in its root to read, and a run's
directory in its staging to write. Whatever else was asked for is refused.

The check is of what the paths lead to at this moment; a key that may run an agent on the
root may read and write in it anyway, so a race would gain nobody anything.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import stat
import sys
from typing import NoReturn

from psync.core.entry import CONTROL_NAME
from psync.lock import is_agent

__all__ = ["RefusedCommand", "check_rsync", "run_rsync"]

_SHORT = re.compile(r"-[LWISzcv]*e[0-9]*\.[0-9]*[A-Za-z]*\Z")
_LONG = re.compile(
    r"(?:--inplace|--sparse|--stats|--numeric-ids|--preallocate|--fsync|--timeout=[0-9]{1,6}"
    r"|--bwlimit=[0-9.]{1,12}|--(?:checksum|compress)-choice=[a-z0-9,]{1,40}"
    r"|--compress-level=[0-9]{1,3}|--log-format=%[a-zA-Z]|-B[0-9]{1,9})\Z"
)
_SOURCE = re.compile(r"/proc/([1-9][0-9]{0,9})/fd/([0-9]{1,7})\Z")
_TARGET = re.compile(r"/proc/([1-9][0-9]{0,9})/fd/([0-9]{1,7})/([0-9]{1,20})/\Z")


class RefusedCommand(Exception):
    """The command is not one that psync's own rsync would send; says why."""


def check_rsync(command: str, root: str | None) -> list[str]:
    """Take `rsync --server ...` apart and see that it is harmless.

    Args:
        command: what the other side asked sshd to run.
        root: the only root that may be served; None: any agent's.

    Returns:
        The argument vector.

    Raises:
        RefusedCommand: it is not harmless, or not known to be.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise RefusedCommand(f"it cannot be read: {error}") from None
    if words[:2] != ["rsync", "--server"]:
        raise RefusedCommand("it is not rsync --server")
    rest = words[2:]
    sender = rest[:1] == ["--sender"]
    if sender:
        rest = rest[1:]
    if "." not in rest:
        raise RefusedCommand("it names no paths")
    at = rest.index(".")
    options, paths = rest[:at], rest[at + 1 :]
    if not options or _SHORT.match(options[0]) is None:
        raise RefusedCommand("its flags are not those that psync uses")
    for option in options[1:]:
        if _LONG.match(option) is None:
            raise RefusedCommand(f"{option!r} is not an option that psync uses")
    if not paths or (not sender and len(paths) != 1):
        raise RefusedCommand("it names no path, or too many")
    for path in paths:
        match = (_SOURCE if sender else _TARGET).match(path)
        if match is None:
            raise RefusedCommand(f"{path!r} is not a path that psync uses")
        _check_path(match.group(1), match.group(2), sender, root)
    return words


def _check_path(pid: str, fd: str, sender: bool, root: str | None) -> None:
    if not is_agent(int(pid)):
        raise RefusedCommand(f"process {pid} is no psync agent of this user")
    link = f"/proc/{pid}/fd/{fd}"
    try:
        st = os.stat(link)
        there = os.readlink(link)
    except OSError:
        raise RefusedCommand(f"the agent {pid} has no descriptor {fd}") from None
    above = None if root is None else os.path.realpath(root)
    if sender:
        if not stat.S_ISREG(st.st_mode):
            raise RefusedCommand(f"descriptor {fd} of the agent {pid} is no file")
        if above is not None and not there.startswith(above.rstrip("/") + "/"):
            raise RefusedCommand(f"descriptor {fd} of the agent {pid} is not below the root")
        return
    stage = _stage(above if above is not None else there)
    if stage is None or stage != (st.st_dev, st.st_ino):
        raise RefusedCommand(f"descriptor {fd} of the agent {pid} is not the root's staging")


def _stage(path: str) -> tuple[int, int] | None:
    """The identity of the staging directory: of the root, or at a path that must be one."""
    tail = "/" + os.fsdecode(CONTROL_NAME) + "/stage"
    if not path.endswith(tail):
        path += tail
    try:
        st = os.stat(path, follow_symlinks=False)
    except OSError:
        return None
    return (st.st_dev, st.st_ino) if stat.S_ISDIR(st.st_mode) else None


def run_rsync(command: str, root: str | None) -> NoReturn:
    """Become rsync, or say why not and exit with rsync's code for "not supported"."""
    try:
        words = check_rsync(command, root)
    except RefusedCommand as refusal:
        sys.stderr.write(f"psync: this key runs psync only; the command was refused: {refusal}\n")
        sys.exit(4)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        os.execvp("rsync", words)
    except OSError as error:
        sys.stderr.write(f"psync: rsync cannot be run here: {error.strerror}\n")
        sys.exit(127)
