"""What a host and a root are able to: the agent's part of `psync doctor`.

**Invariants.** Nothing that has a name is made: what a file system can do is tried with files
without one (`O_TMPFILE`), which end with us whatever happens. Where there are none of these it is
not tried. What takes long (to count directories, and watches in use) ends after `_COUNT_S`
seconds, and says that it has. What cannot be found out is 0 or empty, never an error.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import time
from typing import Callable, Dict, List, Sequence, Tuple

from psync.core.entry import CONTROL_NAME, printable
from psync.core.ignore import is_pruned
from psync.host import filesystem, read_text
from psync.syscalls import clone_file
from psync.wire import Examine, Examined

__all__ = ["examine"]

_COUNT_S = 5.0
_INOTIFY = "/proc/sys/fs/inotify/"
_NS = 1_234_567_890_123_456_789  # a time that needs every digit
_OTHER_ID = 54321
_ACL = struct.pack("<I", 2) + b"".join(  # u::rw, u:54321:r, g::r, mask::r, o::-
    struct.pack("<HHI", tag, mode, who)
    for tag, mode, who in (
        (0x01, 6, 0xFFFFFFFF), (0x02, 4, _OTHER_ID), (0x04, 4, 0xFFFFFFFF), (0x10, 4, 0xFFFFFFFF),
        (0x20, 0, 0xFFFFFFFF),
    )
)  # fmt: skip


def examine(question: Examine, root_fd: int, root: bytes, trouble: str = "") -> Examined:
    """Look at this host, and at a root.

    Args:
        question: what the brain has asked.
        root_fd: the root, open; -1: it cannot be used.
        root: its path.
        trouble: why it cannot be used.
    """
    limits = [_number(name) for name in ("max_user_watches", "max_user_instances")]
    limits.append(_number("max_queued_events"))
    used = _watches_in_use()
    free = total = inodes_free = inodes = directories = 0
    all_counted = True
    able: List[str] = []
    unable: List[str] = []
    kind = ""
    real = b""
    if root_fd >= 0:
        real = os.path.realpath(root)
        kind = filesystem(root)
        try:
            space = os.fstatvfs(root_fd)
        except OSError:
            pass
        else:
            free, total = space.f_bavail * space.f_frsize, space.f_blocks * space.f_frsize
            inodes_free, inodes = space.f_favail, space.f_files
        directories, all_counted = _count_directories(root, question.pruned)
        try:
            able, unable = _abilities(root_fd)
        except OSError as error:
            trouble = f"{printable(root)} may not be written: {error.strerror}"
    return Examined(
        token=question.token,
        root=real,
        trouble=trouble,
        filesystem=kind,
        free_bytes=free,
        total_bytes=total,
        free_inodes=inodes_free,
        total_inodes=inodes,
        directories=directories,
        all_counted=all_counted,
        watches_max=limits[0],
        watches_used=used,
        instances_max=limits[1],
        queue_max=limits[2],
        able=able,
        unable=unable,
        clock_ns=time.time_ns(),
    )


def _number(name: str) -> int:
    text = read_text(_INOTIFY + name)
    return int(text) if text.isdigit() else 0


def _watches_in_use() -> int:
    """How many watches this user's processes hold, as far as can be seen in time."""
    until = time.monotonic() + _COUNT_S
    count = 0
    for name in os.listdir("/proc"):
        if not name.isdigit() or time.monotonic() > until:
            continue
        try:
            if os.stat(f"/proc/{name}").st_uid != os.geteuid():
                continue
            for fd in os.listdir(f"/proc/{name}/fd"):
                if os.readlink(f"/proc/{name}/fd/{fd}") == "anon_inode:inotify":
                    with open(f"/proc/{name}/fdinfo/{fd}", "rb") as info:
                        count += sum(line.startswith(b"inotify ") for line in info)
        except OSError:
            pass  # it has ended, or is not ours to see
    return count


def _count_directories(root: bytes, pruned: Sequence[bytes]) -> Tuple[int, bool]:
    """How many directories there are to be watched, and whether all were counted in time."""
    until = time.monotonic() + _COUNT_S
    waiting, count = [root], 0
    while waiting:
        if time.monotonic() > until:
            return count, False
        count += 1
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.name == CONTROL_NAME or is_pruned(entry.name, pruned):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
        except OSError:
            pass
    return count, True


# --- what its file system can do ----------------------------------------------------------


def _abilities(root_fd: int) -> Tuple[List[str], List[str]]:
    """Try what replication uses; names of what works, and of what does not.

    Raises OSError: nothing may be written there.
    """
    try:
        fd = _nameless(root_fd)
    except OSError as error:
        if error.errno in (errno.EROFS, errno.EPERM, errno.EACCES):
            raise
        return [], []
    other = -1
    try:
        other = _nameless(root_fd)
        os.write(fd, b"x" * 4096)
        able: List[str] = []
        unable: List[str] = []
        for name, attempt in _ATTEMPTS.items():
            try:
                works = attempt(fd, other)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    continue  # that says nothing of what it can do
                works = False
            (able if works else unable).append(name)
        return able, unable
    except OSError:
        return [], []
    finally:
        os.close(fd)
        if other >= 0:
            os.close(other)


def _nameless(root_fd: int) -> int:
    return os.open(b".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600, dir_fd=root_fd)


def _times(fd: int, _: int) -> bool:
    os.utime(fd, ns=(_NS, _NS))
    return os.fstat(fd).st_mtime_ns == _NS


def _modes(fd: int, _: int) -> bool:
    os.fchmod(fd, 0o4751)
    return stat.S_IMODE(os.fstat(fd).st_mode) == 0o4751


def _owners(fd: int, _: int) -> bool:
    if os.geteuid() != 0:
        return True  # nobody else can either
    os.fchown(fd, _OTHER_ID, _OTHER_ID)
    return os.fstat(fd).st_uid == _OTHER_ID


def _attributes(fd: int, _: int) -> bool:
    os.setxattr(fd, b"user.psync", b"x")
    return os.getxattr(fd, b"user.psync") == b"x"


def _acls(fd: int, _: int) -> bool:
    os.setxattr(fd, b"system.posix_acl_access", _ACL)
    return os.getxattr(fd, b"system.posix_acl_access") == _ACL


def _leases(fd: int, _: int) -> bool:
    again = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.fcntl(again, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(again, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except BlockingIOError:
        pass  # we have it open for writing ourselves: so it does know of leases
    finally:
        os.close(again)
    return True


_ATTEMPTS: Dict[str, Callable[[int, int], bool]] = {
    "nanoseconds": _times,
    "modes": _modes,
    "owners": _owners,
    "attributes": _attributes,
    "ACLs": _acls,
    "leases": _leases,
    "reflinks": clone_file,
}
