"""Claim a root for a pair: `.psync`, psync's own directory, and the marker in it.

A root that is not mounted looks like an empty one, and one that belongs to another pair
like any other; the marker tells them apart. It names the pair and the side. One that was set back
to a snapshot looks like its users' work; the generation tells that apart.

**Invariants.** `.psync` is a real directory (mode 0700) of the user we run as, or we
refuse; one that holds what is not ours is somebody's own and is left alone. The root
itself keeps its time.

Whether a marker or a generation is the right one is decided by the brain.
"""

from __future__ import annotations

import errno
import os

from psync.core.entry import CONTROL_NAME
from psync.holding import set_times
from psync.syscalls import open_beneath

__all__ = ["generation", "marker", "open_control", "write_generation", "write_marker"]

_SIDES = ("left", "right")
_MARKER_MAX = 4096
_GENERATION_MAX = 100
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
_NAMES = frozenset(
    (
        "stage", "quarantine", "conflicts", "journal", "journal.new", "marker", "marker.new",
        "lock", "generation", "generation.new",
    )
)  # fmt: skip


def marker(root_fd: int) -> tuple[str, str]:
    """Read which pair a root belongs to.

    Returns:
        The pair's id, and `left` or `right`; both empty where there is no (whole) marker.
    """
    try:
        fd = open_beneath(root_fd, CONTROL_NAME + b"/marker", _READ)
    except OSError:
        return "", ""
    with open(fd, "rb") as stream:
        try:
            lines = stream.read(_MARKER_MAX).decode("utf-8").split("\n")
        except (OSError, ValueError):
            return "", ""
    if len(lines) != 3 or lines[1] not in _SIDES:
        return "", ""
    return lines[0], lines[1]


def write_marker(root_fd: int, control_fd: int, pair: str, side: int) -> None:
    """Write down which pair and side a root is; durable."""
    if marker(root_fd) == (pair, _SIDES[side]):
        return
    _write(control_fd, b"marker", f"{pair}\n{_SIDES[side]}\n")


def generation(root_fd: int) -> str:
    """Read which of its states a root is in; empty: it does not say."""
    try:
        fd = open_beneath(root_fd, CONTROL_NAME + b"/generation", _READ)
    except OSError:
        return ""
    with open(fd, "rb") as stream:
        try:
            return stream.read(_GENERATION_MAX).decode("ascii").strip()
        except (OSError, ValueError):
            return ""


def write_generation(control_fd: int, name: str) -> None:
    """Write down which state a root is in; durable."""
    _write(control_fd, b"generation", name + "\n")


def _write(control_fd: int, name: bytes, text: str) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(name + b".new", flags, 0o600, dir_fd=control_fd)
    with open(fd, "w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(fd)
    os.rename(name + b".new", name, src_dir_fd=control_fd, dst_dir_fd=control_fd)


def open_control(root_fd: int) -> int:
    """Open `.psync`, made where it is missing; only if it is ours and nobody else's.

    Raises:
        OSError: somebody else has something of that name; the message says what.
    """
    _make(root_fd)
    try:
        fd = open_beneath(root_fd, CONTROL_NAME, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP, errno.EXDEV):
            raise
        raise OSError(error.errno, "'.psync' in the root is no directory of psync's") from None
    try:
        st = os.fstat(fd)
        if st.st_uid != os.geteuid():
            raise OSError(errno.EPERM, f"'.psync' in the root belongs to user {st.st_uid}")
        if marker(root_fd) == ("", ""):
            for name in os.listdir(fd):
                if name not in _NAMES and not name.startswith("beat."):
                    raise OSError(errno.EEXIST, "'.psync' in the root is not psync's: move it away")
        os.fchmod(fd, 0o700)
    except OSError:
        os.close(fd)
        raise
    return fd


def _make(root_fd: int) -> None:
    """Make `.psync` where it is missing; the root's time stays what it was."""
    fd = open_beneath(root_fd, b"", os.O_PATH | os.O_DIRECTORY)
    try:
        st = os.fstat(fd)
        os.mkdir(CONTROL_NAME, 0o700, dir_fd=fd)
        set_times(fd, st.st_atime_ns, st.st_mtime_ns)
    except FileExistsError:
        pass
    finally:
        os.close(fd)
