"""The system calls that psync's safety rests on and that Python's `os` does not have.

A file is replaced without a race by `renameat2`, reached without leaving the root by
`openat2`, and shielded from writers for some microseconds by a read lease; Python 3.9
offers none of them. They are called through `ctypes`, so that an agent on a bare host
needs nothing but its interpreter.

**Invariants.** Every function raises `OSError` with the kernel's errno, and nothing else,
for what the system refuses. Every descriptor handed out is close-on-exec. No path is
followed through a symbolic link. Importing this module ignores SIGIO in the whole
process: its default action would end a process that holds a lease when somebody opens
the file.

Nothing here decides or retries; there is no policy in this module.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import signal
import struct
import threading
from contextlib import suppress
from functools import lru_cache
from typing import Any

__all__ = [
    "EXCHANGE",
    "NOREPLACE",
    "check_room",
    "clone_file",
    "copy_file",
    "has_holes",
    "is_mount",
    "lease_intact",
    "memfd",
    "mount_id",
    "open_beneath",
    "read_lease",
    "release_lease",
    "renameat2",
    "syncfs",
]

NOREPLACE = 1
EXCHANGE = 2

_PATH_MAX = 4095  # what one call takes, without the closing NUL
_RESOLVE = 0x01 | 0x02 | 0x04 | 0x08  # NO_XDEV | NO_MAGICLINKS | NO_SYMLINKS | BENEATH
_OPENAT2 = 437  # the same on every architecture
_RENAMEAT2 = {"x86_64": 316, "aarch64": 276, "riscv64": 276, "i686": 353, "armv7l": 382}
_FICLONE = 0x40049409
_MFD_CLOEXEC = 0x01
_MFD_EXEC = 0x10
_HOW = struct.Struct("=QQQ")  # struct open_how: flags, mode, resolve
_COPY_STEP = 1 << 30

_libc: Any = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long

if threading.current_thread() is threading.main_thread():  # elsewhere Python forbids it
    signal.signal(signal.SIGIO, signal.SIG_IGN)


def _failure(path: bytes = b"") -> OSError:
    number = ctypes.get_errno()
    return (
        OSError(number, os.strerror(number), path) if path else OSError(number, os.strerror(number))
    )


# --- names --------------------------------------------------------------------------------


def _renameat2_by_number(olddir: int, old: bytes, newdir: int, new: bytes, flags: int) -> int:
    number = _RENAMEAT2.get(platform.machine())
    if number is None:
        ctypes.set_errno(errno.ENOSYS)
        return -1
    result: int = _libc.syscall(number, olddir, old, newdir, new, flags)
    return result


# glibc has the wrapper from 2.28 on, musl from 1.2.6 on.
_renameat2: Any = getattr(_libc, "renameat2", _renameat2_by_number)


def renameat2(olddir: int, old: bytes, newdir: int, new: bytes, flags: int) -> None:
    """Rename `old` in `olddir` to `new` in `newdir`, in one step.

    Args:
        olddir: descriptor of the directory that `old` is relative to.
        old: the name now.
        newdir: descriptor of the directory that `new` is relative to.
        new: the name afterwards.
        flags: `NOREPLACE` (fails with EEXIST if `new` is there) or `EXCHANGE` (swaps the
            two, fails with ENOENT if either is not there). File systems that have
            neither answer EINVAL.
    """
    if _renameat2(olddir, old, newdir, new, flags):
        raise _failure(new)


def _openat2(dirfd: int, path: bytes, flags: int, mode: int) -> int:
    how = _HOW.pack(flags | os.O_CLOEXEC, mode, _RESOLVE)
    fd: int = _libc.syscall(_OPENAT2, dirfd, path, how, _HOW.size)
    if fd < 0:
        raise _failure(path)
    return fd


@lru_cache(maxsize=1)
def _has_openat2() -> bool:
    """Tell whether openat2 works here: kernels before 5.6 and some sandboxes refuse it."""
    try:
        os.close(_openat2(-1, b"/", os.O_PATH, 0))  # leads out of any directory: EXDEV
    except OSError as error:
        return error.errno not in (errno.ENOSYS, errno.EPERM)
    return True


def _walk(dirfd: int, path: bytes, flags: int, mode: int) -> int:
    """Do what openat2 does, component by component.

    A bind mount of the same file system is not noticed here; openat2 notices it.
    """
    device = os.fstat(dirfd).st_dev
    *above, name = path.split(b"/")
    at = dirfd
    try:
        for component in above:
            below = _step(at, component, os.O_PATH | os.O_DIRECTORY, 0, device)
            if at != dirfd:
                os.close(at)
            at = below
        return _step(at, name, flags, mode, device)
    finally:
        if at != dirfd:
            os.close(at)


def _step(dirfd: int, name: bytes, flags: int, mode: int, device: int) -> int:
    if name == b"..":
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), name)
    fd = os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=dirfd)
    if os.fstat(fd).st_dev != device:
        os.close(fd)
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), name)
    return fd


def open_beneath(dirfd: int, path: bytes, flags: int, mode: int = 0) -> int:
    """Open what `path` names below a directory, and nothing that lies elsewhere.

    No symbolic link is followed (ELOOP or ENOTDIR), no mount point is crossed (EXDEV)
    and `..` leads nowhere (EXDEV), whatever is renamed meanwhile.

    Args:
        dirfd: the directory; O_PATH will do.
        path: relative, of any length; `b""` is the directory itself.
        flags: as for `os.open`; O_CLOEXEC is added.
        mode: permissions, only with O_CREAT.

    Returns:
        A new descriptor.
    """
    if not path:
        path = b"."
    if not _has_openat2():
        return _walk(dirfd, path, flags, mode)
    if len(path) <= _PATH_MAX:
        return _openat2(dirfd, path, flags, mode)
    at = dirfd
    try:
        while len(path) > _PATH_MAX:
            cut = path.rfind(b"/", 0, _PATH_MAX)
            if cut <= 0:
                raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), path)
            below = _openat2(at, path[:cut], os.O_PATH | os.O_DIRECTORY, 0)
            if at != dirfd:
                os.close(at)
            at, path = below, path[cut + 1 :]
        return _openat2(at, path, flags, mode)
    finally:
        if at != dirfd:
            os.close(at)


# --- mounts -------------------------------------------------------------------------------

_STATX = {"x86_64": 332, "aarch64": 291, "riscv64": 291, "i686": 383, "armv7l": 397}.get(
    platform.machine()
)
_STATX_SIZE = 256
_STATX_MASK, _STATX_ATTRIBUTES, _STATX_MOUNT = 0, 8, 144  # where a u32, u64 and u64 are in it
_ATTR_MOUNT_ROOT = 0x2000
_MOUNT_UNIQUE = 0x4000  # since Linux 6.8
_AT_HOW = 0x100 | 0x800 | 0x1000  # SYMLINK_NOFOLLOW | NO_AUTOMOUNT | EMPTY_PATH


def is_mount(dirfd: int, name: bytes) -> bool:
    """Tell whether the root of a mount is at a name in a directory, of whatever file system.

    Kernels before 5.8 do not know, and some sandboxes do not say: False then.

    Raises:
        OSError: the name cannot be looked at.
    """
    found = _statx(dirfd, name, 0)
    if found is None:
        return False
    (attributes,) = struct.unpack_from("=Q", found, _STATX_ATTRIBUTES)
    return bool(attributes & _ATTR_MOUNT_ROOT)


def mount_id(fd: int) -> int:
    """The number of the mount that a file is in, never used again; 0: the kernel does not say."""
    found = _statx(fd, b"", _MOUNT_UNIQUE)
    if found is None or not struct.unpack_from("=I", found, _STATX_MASK)[0] & _MOUNT_UNIQUE:
        return 0
    (number,) = struct.unpack_from("=Q", found, _STATX_MOUNT)
    return int(number)


def _statx(dirfd: int, name: bytes, mask: int) -> Any:
    """`struct statx` of a name; None where there is no such call. Raises OSError."""
    if _STATX is None:
        return None
    found = ctypes.create_string_buffer(_STATX_SIZE)
    if _libc.syscall(_STATX, dirfd, name, _AT_HOW, mask, found):
        failure = _failure(name)
        if failure.errno in (errno.ENOSYS, errno.EPERM):
            return None
        raise failure
    return found


# --- leases -------------------------------------------------------------------------------


def read_lease(fd: int) -> bool:
    """Take a read lease: until it is released, whoever opens the file for writing waits.

    Returns:
        False if somebody, in whatever process and through whatever name or mapping, has
        the file open for writing.

    Raises:
        PermissionError: the file is not ours and we may not lease those of others.
        OSError: the file system has no leases, or the file is no regular one.
    """
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except BlockingIOError:
        return False
    return True


def lease_intact(fd: int) -> bool:
    """Tell whether nobody has begun to wait for our lease to end (or it was taken away)."""
    return fcntl.fcntl(fd, fcntl.F_GETLEASE) == fcntl.F_RDLCK


def release_lease(fd: int) -> None:
    """End a lease, so that those who wait may go on; closing the descriptor does so too."""
    with suppress(BlockingIOError):  # taken away already, after /proc/sys/fs/lease-break-time
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)


# --- content ------------------------------------------------------------------------------


def syncfs(fd: int) -> None:
    """Make everything written to the file system of `fd` durable. Blocks."""
    if _libc.syncfs(fd):
        raise _failure()


def clone_file(src_fd: int, dst_fd: int) -> bool:
    """Let an empty file share the blocks of another; False: the file system cannot."""
    try:
        fcntl.ioctl(dst_fd, _FICLONE, src_fd)
    except OSError:
        return False  # no reflinks here, or not between these two
    return True


def check_room(fd: int, size: int) -> None:
    """See that there is room, before a disk that others use as well has been filled for nothing.

    Args:
        fd: something on the file system.
        size: bytes that are to come.

    Raises:
        OSError: ENOSPC, with the figures. What is set apart for root counts as taken.
    """
    space = os.fstatvfs(fd)
    free = space.f_bavail * space.f_frsize
    if size > free and space.f_blocks:  # 0 where there is no limit, or none that is known
        raise OSError(errno.ENOSPC, f"no room: {size:,} bytes are to come, {free:,} are free")


def copy_file(src_fd: int, dst_fd: int) -> None:
    """Copy a regular file's whole content into an empty one, as cheaply as possible.

    Shares the blocks where the file system can, else lets the kernel copy, else copies
    through this process; holes stay holes. What is written to the source meanwhile may
    or may not be in the copy. Blocks for as long as that takes. Raises ENOSPC at once where
    there is no room.
    """
    if clone_file(src_fd, dst_fd):
        return
    st = os.fstat(src_fd)
    size = st.st_size
    check_room(dst_fd, st.st_blocks * 512)
    at = 0
    while at < size:
        try:
            begin = os.lseek(src_fd, at, os.SEEK_DATA)
            end = os.lseek(src_fd, begin, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole is left
                break
            begin, end = at, size  # no SEEK_DATA here
        _copy_range(src_fd, dst_fd, begin, min(end, size))
        at = end
    os.ftruncate(dst_fd, size)


def has_holes(fd: int) -> bool:
    """Tell whether a regular file is sparse: less of it is stored than is read from it.

    Both have to be so: a file system that compresses stores less of a file without holes, and
    space that was only set apart for a file counts as a hole.
    """
    st = os.fstat(fd)
    if st.st_blocks * 512 >= st.st_size:
        return False
    try:
        return os.lseek(fd, 0, os.SEEK_HOLE) < st.st_size
    except OSError:
        return False  # cut short meanwhile, or no SEEK_HOLE here


_NO_RANGES = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM)


def _copy_range(src_fd: int, dst_fd: int, at: int, end: int) -> None:
    in_kernel = hasattr(os, "copy_file_range")
    while at < end:
        if in_kernel:
            try:
                done = os.copy_file_range(src_fd, dst_fd, min(end - at, _COPY_STEP), at, at)
            except OSError as error:
                if error.errno not in _NO_RANGES:
                    raise
                in_kernel = False
                continue
        else:
            block = os.pread(src_fd, min(end - at, 1 << 20), at)
            done = os.pwrite(dst_fd, block, at) if block else 0
        if not done:
            return  # the source was cut short meanwhile
        at += done


def memfd(name: str, data: bytes) -> int:
    """Put bytes into a file that exists in memory only, to be read or executed.

    The descriptor returned is a read-only one (the kernel executes nothing that is open
    for writing); `/proc/self/fd/N` is its path.

    Raises:
        OSError: also where `vm.memfd_noexec` forbids executable ones.
    """
    try:
        writable = os.memfd_create(name, _MFD_CLOEXEC | _MFD_EXEC)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        writable = os.memfd_create(name, _MFD_CLOEXEC)  # before 6.3 all of them are
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(writable, rest) :]
        return os.open(f"/proc/self/fd/{writable}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(writable)
