"""What an agent finds out about its host and process, and sets up there once.

**Invariants.** What cannot be found out is empty, never an error: an agent can serve without
knowing any of this. Nothing here touches the root.
"""

from __future__ import annotations

import os
import resource
import signal
import time

from psync.lock import COMM
from psync.syscalls import mount_id

__all__ = [
    "booted_ns",
    "filesystem",
    "holds_files",
    "mounted",
    "prepare_process",
    "read_text",
    "rsync_version",
]

_KERNELS_OWN = frozenset(
    ("proc", "sysfs", "cgroup", "cgroup2", "devpts", "debugfs", "tracefs", "securityfs", "configfs",
     "bpf", "pstore", "mqueue", "efivarfs", "autofs", "binfmt_misc", "fusectl", "nsfs")
)  # fmt: skip


def read_text(path: str) -> str:
    """Read a small file of the kernel's."""
    try:
        with open(path, "rb") as stream:
            return stream.read().decode("utf-8", "replace").strip()
    except OSError:
        return ""


def booted_ns() -> int:
    """When this host was started, by its clock; 0: it does not say."""
    words = read_text("/proc/uptime").split()
    return time.time_ns() - int(float(words[0]) * 1e9) if words else 0


def rsync_version() -> str:
    """The version of rsync on this host; empty without one."""
    reader, writer = os.pipe()
    try:
        pid = os.posix_spawnp(
            "rsync",
            ["rsync", "--version"],
            os.environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, writer, 1), (os.POSIX_SPAWN_DUP2, writer, 2)],
            setsigdef=[signal.SIGPIPE],
        )
    except OSError:
        os.close(writer)
        os.close(reader)
        return ""
    os.close(writer)
    with open(reader, "rb") as stream:
        words = stream.read().split()
    os.waitpid(pid, 0)
    if words[:2] != [b"rsync", b"version"] or len(words) < 3:
        return ""
    return words[2].decode("utf-8", "replace").lstrip("v")


def filesystem(path: bytes) -> str:
    """The type of the file system that a path is on, as the kernel names it."""
    path = os.path.realpath(path)
    best, found = b"", ""
    try:
        with open("/proc/self/mountinfo", "rb") as stream:
            for line in stream:
                left, _, right = line.partition(b" - ")
                fields, kinds = left.split(), right.split()
                if len(fields) < 5 or not kinds:
                    continue
                point = _unescape(fields[4])
                inside = point == b"/" or path == point or path.startswith(point + b"/")
                if inside and len(point) >= len(best):
                    best, found = point, kinds[0].decode("utf-8", "replace")
    except OSError:
        pass
    return found


def holds_files(kind: str) -> bool:
    """Tell whether a file system, by its type, can hold files, and does not show the kernel."""
    return kind not in _KERNELS_OWN


def mounted(fd: int, kind: str) -> str:
    """What names this mounting of the file system that `fd` is in, and no other; empty: unknown.

    Args:
        fd: the root.
        kind: what `filesystem` says.
    """
    device = os.fstat(fd).st_dev
    block = os.path.realpath(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")
    try:  # ext4 and xfs have a directory there, for as long as they are mounted anywhere
        return f"{kind}-{os.stat(f'/sys/fs/{kind}/{os.path.basename(block)}').st_ino}"
    except OSError:
        return str(mount_id(fd) or "")


def _unescape(field: bytes) -> bytes:
    """Undo mountinfo's octal escapes."""
    for escape, char in ((b"\\040", b" "), (b"\\011", b"\t"), (b"\\012", b"\n")):
        field = field.replace(escape, char)
    return field.replace(b"\\134", b"\\")


def prepare_process() -> None:
    """Name the process, and let it have as many files open as it may."""
    try:
        with open("/proc/self/comm", "wb") as stream:
            stream.write(COMM.encode())
    except OSError:
        pass
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):
            pass
    os.umask(0o077)
