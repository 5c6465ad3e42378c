"""Make sure that one agent at a time works on a root.

Two agents on one root would take each other's work for a user's. So an agent locks
`.psync/lock` (flock: the kernel lets go of it when its holder ends, however it ends) and
writes into it who it is.

A brain that was killed comes back while its old agent may still be there: usually that
one ends by itself as its pipe closes, but it may be frozen or stuck. A holder of *our own*
session is given `PATIENCE` seconds and is then killed; a holder of any other session is
left alone and named.

**Invariants.** Nobody is killed who is not proven to be a psync agent of the same user that
has this very lock file open. The lock is not inherited by children. `.psync` is not made
here.
"""

from __future__ import annotations

import fcntl
import os
import signal
import time

from psync.core.entry import CONTROL_NAME
from psync.syscalls import open_beneath

__all__ = ["COMM", "LockedError", "RootLock", "is_agent"]

COMM = "psync-agent"  # what an agent calls itself in /proc/PID/comm
PATIENCE = 3.0
_LOCK = CONTROL_NAME + b"/lock"


class LockedError(Exception):
    """Another agent holds the root; the message is for people."""


class RootLock:
    """The lock of one root, taken in two steps: nothing may be written at first."""

    def __init__(self, root_fd: int, session: str) -> None:
        """Prepare; `root_fd` stays the caller's, `session` says whose agent this is."""
        self._root_fd = root_fd
        self._session = session
        self._fd = -1

    def probe(self) -> None:
        """Take the lock if there is a lock file; make none. Raises LockedError, OSError."""
        try:
            self._take(0)
        except (FileNotFoundError, NotADirectoryError):
            pass  # never used by psync: nobody can hold it

    def take(self) -> None:
        """Take the lock; `.psync` must be there. Raises LockedError, OSError."""
        if self._fd < 0:
            self._take(os.O_CREAT)

    def _take(self, create: int) -> None:
        flags = os.O_RDWR | os.O_NOFOLLOW | create
        fd = open_beneath(self._root_fd, _LOCK, flags, 0o600 if create else 0)
        try:
            if not _try(fd):
                self._wait(fd)
            os.ftruncate(fd, 0)
            os.pwrite(fd, b"%d %s\n" % (os.getpid(), self._session.encode()), 0)
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd

    def _wait(self, fd: int) -> None:
        """Outlast, and at last end, an agent of our own session."""
        pid, session = _holder(fd)
        if session == self._session:
            if _try_for(fd, PATIENCE):
                return
            pid, session = _holder(fd)
            if session == self._session and _kill(pid, fd) and _try_for(fd, PATIENCE):
                return
        who = f"pid {pid}" if pid else "another host or container"
        raise LockedError(f"another psync session is working on this directory ({who})")

    def release(self) -> None:
        """Let go."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _try(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _try_for(fd: int, seconds: float) -> bool:
    until = time.monotonic() + seconds
    while not _try(fd):
        if time.monotonic() >= until:
            return False
        time.sleep(0.02)
    return True


def _holder(fd: int) -> tuple[int, str]:
    """Who says that he holds the lock: pid and session; 0 if it cannot be told."""
    pid, _, session = os.pread(fd, 4096, 0).decode("utf-8", "replace").strip().partition(" ")
    return (int(pid) if pid.isdigit() and len(pid) < 10 else 0), session


def is_agent(pid: int) -> bool:
    """Tell whether a process is a psync agent of our own user."""
    try:
        if os.stat(f"/proc/{pid}").st_uid != os.geteuid():
            return False
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as stream:
            return stream.read().rstrip("\n") == COMM
    except OSError:
        return False


def _has_open(pid: int, lock: os.stat_result) -> bool:
    try:
        names = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return False
    for name in names:
        try:
            st = os.stat(f"/proc/{pid}/fd/{name}")
        except OSError:
            continue
        if (st.st_dev, st.st_ino) == (lock.st_dev, lock.st_ino):
            return True
    return False


def _kill(pid: int, fd: int) -> bool:
    """End an agent that does not end; False if it is not proven to be one."""
    if pid in (0, os.getpid()):
        return False
    handle: int | None = None
    try:
        handle = os.pidfd_open(pid)  # so that the number cannot come to mean another process
    except OSError:
        pass  # before Linux 5.3
    try:
        if not is_agent(pid) or not _has_open(pid, os.fstat(fd)):
            return False
        if handle is None:
            os.kill(pid, signal.SIGKILL)
        else:
            signal.pidfd_send_signal(handle, signal.SIGKILL)
    except ProcessLookupError:
        pass
    except OSError:
        return False
    finally:
        if handle is not None:
            os.close(handle)
    return True
