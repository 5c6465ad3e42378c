"""Hold on to what a transition acts on, so that the act can prove what it acted on.

A name says little: between two calls another file can come to it. What is held by a
descriptor stays the same inode, whatever becomes of its name, and no other file can get
its inode number; so "the name leads to what is held" is proof.

**Invariants.** A directory is reached without following a link or leaving the root, and
what is in it by a single component. Nothing that is no file is opened for reading, and
nothing at all for writing. Whoever holds, closes.
"""

from __future__ import annotations

import errno
import math
import os
import stat
from collections import OrderedDict
from contextlib import suppress
from typing import Optional, Union

from psync.core.entry import Entry, Kind
from psync.syscalls import lease_intact, open_beneath, read_lease
from psync.wire import CHANGED, IN_USE, NO_PARENT

__all__ = [
    "Directory",
    "Held",
    "Links",
    "Loan",
    "UnmetError",
    "is_closed",
    "is_expected",
    "same",
    "set_times",
]

_FILE, _DIRECTORY, _SYMLINK = int(Kind.FILE), int(Kind.DIRECTORY), int(Kind.SYMLINK)
_FORMATS = {_FILE: stat.S_IFREG, _DIRECTORY: stat.S_IFDIR, _SYMLINK: stat.S_IFLNK}

_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_ONLY = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.ENODEV)
_NO_PARENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV)
_NEEDED = stat.S_IWUSR | stat.S_IXUSR  # to change names in a directory of our own
_LENT = stat.S_ISVTX | _NEEDED

LINKS_MAX = 16_384  # inodes


class UnmetError(Exception):
    """The replica is not in the state that a transition asks for: nothing was done."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Directory:
    """A directory that names are changed in.

    Its own time is put back when it is left: replicas agree on times of directories, too,
    and it is the users' doings that count.
    """

    __slots__ = ("changed", "fd", "loan", "path", "since", "st")

    def __init__(self, root_fd: int, path: bytes, now: float) -> None:
        self.path = path
        self.since = now
        self.changed = False
        self.loan: Optional[Loan] = None
        try:
            try:
                self.fd = open_beneath(root_fd, path, os.O_RDONLY | os.O_DIRECTORY)
            except PermissionError:  # it may still be searched and written to
                self.fd = open_beneath(root_fd, path, os.O_PATH | os.O_DIRECTORY)
        except OSError as error:
            if error.errno in _NO_PARENT:
                raise UnmetError(NO_PARENT) from None
            raise
        self.st = os.fstat(self.fd)

    def has_stayed(self, root_fd: int) -> bool:
        """Tell whether it still is where it was opened; if not, it is not trusted any more.

        It goes on being a directory when it is moved, also out of the root.
        """
        if not self.path or self._is_there(root_fd):
            return True
        self.since = -math.inf
        return False

    def _is_there(self, root_fd: int) -> bool:
        try:
            fd = open_beneath(root_fd, self.path, os.O_PATH | os.O_DIRECTORY)
        except OSError:
            return False
        try:
            st = os.fstat(fd)
        finally:
            os.close(fd)
        return (st.st_dev, st.st_ino) == (self.st.st_dev, self.st.st_ino)

    def leave(self) -> None:
        """Put mode and time back, if we have changed names in it, and close it."""
        if self.loan is not None:
            self.loan.end()
        if self.changed:
            set_times(self.fd, self.st.st_atime_ns, self.st.st_mtime_ns)
        os.close(self.fd)


class Loan:
    """Permission to change names in a directory, which its owner, who we are, lacks: for a while.

    The sticky bit marks it, which means nothing to an owner: a user who sets the mode
    meanwhile sets another one, and that stays.
    """

    def __init__(self, fd: int, mode: int) -> None:
        """Prepare it; `mode` is the directory's own."""
        self._fd = fd
        self._mode = mode

    def begin(self) -> None:
        """Lend, unless the mode is not the one that was seen any more."""
        if stat.S_IMODE(os.fstat(self._fd).st_mode) == self._mode:
            _set_mode(self._fd, self._mode | _LENT)

    def end(self) -> None:
        """Put the mode back, if it is the one that was lent."""
        if stat.S_IMODE(os.fstat(self._fd).st_mode) == self._mode | _LENT:
            with suppress(OSError):
                _set_mode(self._fd, self._mode)


class Held:
    """What a transition expects, found and held: its inode number stays its own.

    Attributes:
        st: as it was found, under the lease if there is one.
        leased: nobody has it open for writing, and who tries now waits.
    """

    __slots__ = ("_readable", "fd", "leased", "st")

    def __init__(self, parent_fd: int, name: bytes, expected: Entry, lease: bool) -> None:
        self.fd = -1
        self.leased = False
        self._readable = False
        try:
            self._open(parent_fd, name, expected.kind, lease)
            self.st = os.fstat(self.fd)
            if not is_expected(self.fd, self.st, expected):
                raise UnmetError(CHANGED)
        except (OSError, UnmetError) as error:
            if self.fd >= 0:
                os.close(self.fd)
            if isinstance(error, OSError) and error.errno in _ABSENT:
                raise UnmetError(CHANGED) from None
            raise

    def _open(self, parent_fd: int, name: bytes, kind: int, lease: bool) -> None:
        if kind != _SYMLINK:
            flags = _OPEN_FILE if kind == _FILE else _OPEN_DIRECTORY
            try:
                self.fd = os.open(name, flags, dir_fd=parent_fd)
            except BlockingIOError:  # it is lent to somebody, who is told of us now
                raise UnmetError(IN_USE) from None
            except PermissionError:
                pass  # we may not read it, but may still rename it
            else:
                self._readable = True
                if lease and kind == _FILE:
                    self._take_lease()
                return
        self.fd = os.open(name, _OPEN_ONLY, dir_fd=parent_fd)

    def _take_lease(self) -> None:
        try:
            self.leased = read_lease(self.fd)
        except OSError:
            return  # not ours to lease, or no leases here: quarantine has to do
        if not self.leased:
            raise UnmetError(IN_USE)

    def is_at(self, parent_fd: int, name: bytes, gone: bool = False) -> bool:
        """Tell whether a name is this very inode; `gone` if nothing is there."""
        try:
            st = os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
        except FileNotFoundError:
            return gone
        return st.st_ino == self.st.st_ino and st.st_dev == self.st.st_dev

    def is_untouched(self) -> bool:
        """Tell whether it still is as it was found; its ctime says where it was renamed."""
        return same(self.st, os.fstat(self.fd))

    def is_awaited(self) -> bool:
        """Tell whether somebody waits for our lease to end, to write."""
        return self.leased and not lease_intact(self.fd)

    def reference(self) -> Union[int, bytes]:
        """What `os.chmod` and its kin take for it."""
        return self.fd if self._readable else _reference(self.fd)

    def close(self) -> None:
        """Let go of it, and of the lease."""
        os.close(self.fd)


class Links:
    """What our own doings did to the ctime of files that have several names.

    To take one of its names away changes the ctime that a file shows under all of them, and
    nothing else of it. What is expected at another name is expected as it was before that.
    """

    def __init__(self) -> None:
        self._moved: OrderedDict[int, tuple[set[int], int]] = OrderedDict()

    def note(self, before: os.stat_result, fd: int) -> None:
        """A name of what is open has been changed by us, and was as `before` until then."""
        if before.st_nlink < 2 or stat.S_ISDIR(before.st_mode):
            return
        after = os.fstat(fd)
        if not same(before, after):
            return
        earlier, last = self._moved.pop(before.st_ino, (set[int](), 0))
        if last != before.st_ctime_ns:
            earlier = set()  # somebody else has changed it in between
        earlier.add(before.st_ctime_ns)
        self._moved[before.st_ino] = (earlier, after.st_ctime_ns)
        if len(self._moved) > LINKS_MAX:
            self._moved.popitem(last=False)

    def now(self, entry: Entry) -> Entry:
        """An entry as it shows itself now, if nobody but us has changed it."""
        earlier, last = self._moved.get(entry.ino, (set[int](), 0))
        return entry._replace(ctime_ns=last) if entry.ctime_ns in earlier else entry


def is_closed(st: os.stat_result) -> bool:
    """Tell whether a directory's own mode is what keeps us, its owner, from changing names in it.

    One whose mode could not be put back, because to set it clears a bit, is left alone.
    """
    me, mode = os.geteuid(), st.st_mode
    if not me or st.st_uid != me or mode & _NEEDED == _NEEDED:
        return False
    return not mode & stat.S_ISGID or st.st_gid in (os.getegid(), *os.getgroups())


def is_expected(fd: int, st: os.stat_result, expected: Entry) -> bool:
    """Tell whether what was looked at is the very version that is expected."""
    if stat.S_IFMT(st.st_mode) != _FORMATS.get(expected.kind):
        return False
    if expected.ino and st.st_ino != expected.ino:
        return False
    if expected.kind == _DIRECTORY:
        return True
    if st.st_mtime_ns != expected.mtime_ns:
        return False
    if expected.ino and st.st_ctime_ns != expected.ctime_ns:
        return False
    if expected.kind == _SYMLINK:
        return bool(expected.ino) or os.readlink(b"", dir_fd=fd) == expected.target
    return st.st_size == expected.size


def same(a: os.stat_result, b: os.stat_result) -> bool:
    """Tell whether nobody has written to it or set its attributes: all but ctime is equal."""
    return (
        a.st_mtime_ns == b.st_mtime_ns
        and a.st_size == b.st_size
        and a.st_mode == b.st_mode
        and a.st_uid == b.st_uid
        and a.st_gid == b.st_gid
    )


def set_times(fd: int, atime_ns: int, mtime_ns: int) -> None:
    """Set the times of what is open, if we may: only its owner may, and root."""
    try:
        try:
            os.utime(fd, ns=(atime_ns, mtime_ns))
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
            os.utime(_reference(fd), ns=(atime_ns, mtime_ns))
    except OSError:
        pass  # then they are what the system made them


def _set_mode(fd: int, mode: int) -> None:
    try:
        os.fchmod(fd, mode)
    except OSError as error:
        if error.errno != errno.EBADF:
            raise
        os.chmod(_reference(fd), mode)


def _reference(fd: int) -> bytes:
    """A path to what is open with O_PATH, which the calls on descriptors do not take."""
    return b"/proc/self/fd/%d" % fd
