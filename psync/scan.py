"""Look at what is on the disk, without disturbing it and without being fooled.

psync decides from what it saw, so a look must be exact: one `Entry` for one version of
one path, content that belongs to that version and to no other, a directory's names
without a gap. Everything here is asked through directory descriptors, never through a
path that somebody could bend while we walk it.

A file's content is read under a read lease where we may have one: it is refused while
anybody has the file open for writing, and holds back who wants to, for the microseconds
that reading takes. Where we may not, equal stats before and after have to do.

**Invariants.** Nothing here changes the tree (not even access times, where we may avoid
it). No symlink is followed, no mount point is entered, no fifo or device is opened. What
cannot be read is an error, never "empty" and never "absent". Content is given out only
together with the entry of the version that it was read from.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from contextlib import suppress
from hashlib import blake2b
from typing import Callable, NamedTuple, Optional

from psync.core.entry import TICK_NS, Entry, Kind, content_digest
from psync.syscalls import is_mount, open_beneath, read_lease, release_lease
from psync.wire import BUSY, UNREADABLE
from psync.xattrs import Attributes

__all__ = [
    "ABSENT",
    "Looker",
    "Seen",
    "entry_at",
    "entry_from_stat",
    "entry_of",
    "forget_cached",
    "hash_file",
    "list_names",
    "look_whole",
    "open_directory",
    "open_file",
    "read_block",
    "read_settled",
]

_FILE = int(Kind.FILE)
_DIRECTORY = int(Kind.DIRECTORY)
_SYMLINK = int(Kind.SYMLINK)

_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NONBLOCK
_AS_PARENT = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW
_NOT_THERE = frozenset((errno.ENOENT, errno.ENOTDIR, errno.ELOOP))
_TRIES = 4  # for a version that stays the same while it is read
_PARENTS_MAX = 64
_TIME_MIN, _TIME_MAX = -(1 << 63), (1 << 64) - 1  # what the wire holds


class Seen(NamedTuple):
    """What a look showed: the entry (None: nothing that is replicated), content, wire flags."""

    entry: Optional[Entry]
    content: Optional[bytes] = None
    flags: int = 0


ABSENT = Seen(None)


def entry_from_stat(
    st: os.stat_result,
    owners: bool,
    strip: bool,
    target: bytes = b"",
    digest: bytes = b"",
    xattrs: bytes = b"",
) -> Optional[Entry]:
    """Make the entry that an `lstat` or `fstat` shows.

    Args:
        st: the stat result.
        owners: whether user and group are replicated; both are 0 otherwise.
        strip: drop set-user-id, set-group-id and sticky bits.
        target: a symlink's text.
        digest: a file's content digest, where known.
        xattrs: its attributes, where they are replicated.

    Returns:
        None for what is not replicated: fifo, socket, device.
    """
    mode = st.st_mode
    kind = mode & 0o170000
    bits = mode & (0o777 if strip else 0o7777)
    uid, gid = (st.st_uid, st.st_gid) if owners else (0, 0)
    mtime_ns = st.st_mtime_ns
    if not _TIME_MIN <= mtime_ns <= _TIME_MAX:
        mtime_ns = _TIME_MAX  # which no replica is given either
    if kind == stat.S_IFREG:
        return Entry(
            _FILE,
            bits,
            uid,
            gid,
            st.st_size,
            mtime_ns,
            b"",
            digest,
            st.st_ino,
            st.st_ctime_ns,
            xattrs,
        )
    if kind == stat.S_IFDIR:
        return Entry(_DIRECTORY, bits, uid, gid, 0, mtime_ns, b"", b"", st.st_ino, 0, xattrs)
    if kind == stat.S_IFLNK:
        return Entry(_SYMLINK, 0, uid, gid, 0, mtime_ns, target, b"", st.st_ino, st.st_ctime_ns)
    return None


def entry_at(
    parent_fd: int,
    name: bytes,
    *,
    owners: bool,
    strip: bool,
    attributes: Optional[Attributes] = None,
) -> Optional[Entry]:
    """Make the entry of a name in a directory; `b""` is the directory itself.

    Returns:
        None if nothing is there, or nothing that is replicated.

    Raises:
        OSError: it cannot be told; EXDEV for a mount point.
    """
    for _ in range(_TRIES):
        try:
            if not name:
                return entry_of(parent_fd, owners=owners, strip=strip, attributes=attributes)
            st = os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
            if not stat.S_ISLNK(st.st_mode):
                if stat.S_ISDIR(st.st_mode):
                    _pass_over_mounts(parent_fd, name, st, os.fstat(parent_fd).st_dev)
                xattrs = _xattrs_at(parent_fd, name, st, attributes)
                return entry_from_stat(st, owners, strip, xattrs=xattrs)
            return _symlink(parent_fd, name, st, owners, strip)
        except OSError as error:
            if error.errno == errno.EINVAL:  # no symlink any more
                continue
            if error.errno in _NOT_THERE:
                return None
            raise
    raise OSError(errno.EBUSY, "changes all the time", name)


def entry_of(
    fd: int, *, owners: bool, strip: bool, attributes: Optional[Attributes] = None
) -> Optional[Entry]:
    """Make the entry of a file or directory that is open. Raises OSError."""
    xattrs = b"" if attributes is None else attributes.of(fd)
    return entry_from_stat(os.fstat(fd), owners, strip, xattrs=xattrs)


def _xattrs_at(
    parent_fd: int, name: bytes, st: os.stat_result, attributes: Optional[Attributes]
) -> bytes:
    """Read the attributes of what `lstat` just showed; OSError(EINVAL) if it is another now.

    If it has none now, whoever has replaced it is heard of, and nothing of it is lost by then.
    """
    xattrs = b"" if attributes is None else attributes.at(parent_fd, name)
    if not xattrs:
        return b""
    after = os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
    if (after.st_ino, after.st_ctime_ns) != (st.st_ino, st.st_ctime_ns):
        raise OSError(errno.EINVAL, "replaced meanwhile", name)
    return xattrs


def _pass_over_mounts(parent_fd: int, name: bytes, st: os.stat_result, device: int) -> None:
    """See that a directory is not the root of a mount, be it of the same file system.

    Only directories: overlayfs shows files with other device numbers.
    """
    if st.st_dev != device or is_mount(parent_fd, name):
        raise OSError(errno.EXDEV, "is a mount point", name)


def _symlink(
    parent_fd: int, name: bytes, st: os.stat_result, owners: bool, strip: bool
) -> Optional[Entry]:
    """Read a symlink's text and make its entry; OSError(EINVAL) if it was replaced meanwhile.

    A symlink cannot be changed, only replaced, and that shows in its inode and ctime.
    """
    target = os.readlink(name, dir_fd=parent_fd)
    after = os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
    if (after.st_ino, after.st_ctime_ns) != (st.st_ino, st.st_ctime_ns):
        raise OSError(errno.EINVAL, "replaced meanwhile", name)
    return entry_from_stat(st, owners, strip, target)


def open_file(parent_fd: int, name: bytes) -> int:
    """Open a regular file for reading, without moving its access time where we may."""
    try:
        return os.open(name, _OPEN | os.O_NOATIME, dir_fd=parent_fd)
    except PermissionError:
        return os.open(name, _OPEN, dir_fd=parent_fd)


def _same(a: os.stat_result, b: os.stat_result) -> bool:
    return (
        a.st_ino == b.st_ino
        and a.st_ctime_ns == b.st_ctime_ns
        and a.st_mtime_ns == b.st_mtime_ns
        and a.st_size == b.st_size
    )


def read_settled(
    parent_fd: int,
    name: bytes,
    before: os.stat_result,
    *,
    content_max: int,
    trust_ns: int,
    owners: bool,
    strip: bool,
    force: bool = False,
    attributes: Optional[Attributes] = None,
) -> Optional[Seen]:
    """Read a regular file that nobody is writing.

    Args:
        parent_fd: the directory that it is in.
        name: its name there.
        before: what `lstat` just showed: a regular file.
        content_max: read the content of files up to this size; -1: of none.
        trust_ns: where no lease is to be had, a file is taken for quiet if it was not
            modified for so long; 0: always.
        owners: see `entry_from_stat`.
        strip: see `entry_from_stat`.
        force: take the content even though somebody has the file open for writing, if it
            stays the same while it is read.
        attributes: reads the extended attributes that are replicated.

    Returns:
        What was seen, with `BUSY` or `UNREADABLE` and without content where that is so;
        None if it changed meanwhile: look again.
    """

    def unread(flags: int) -> Seen:
        xattrs = b"" if attributes is None else attributes.at(parent_fd, name)
        return Seen(entry_from_stat(before, owners, strip, xattrs=xattrs), None, flags)

    try:
        fd = open_file(parent_fd, name)
    except BlockingIOError:  # somebody else holds a write lease
        return unread(BUSY)
    except OSError as error:
        if error.errno in _NOT_THERE or error.errno == errno.ENXIO:
            return None
        return unread(UNREADABLE)
    try:
        quiet = True
        if not force:
            try:
                quiet = read_lease(fd)
            except OSError:  # not our file, or no leases here
                quiet = not trust_ns or time.time_ns() - before.st_mtime_ns >= trust_ns
        if not quiet:
            return unread(BUSY)
        size = before.st_size
        content = _read(fd, size) if size <= content_max else None
        xattrs = b"" if attributes is None else attributes.of(fd)
        after = os.fstat(fd)
    except OSError:
        return unread(UNREADABLE)
    finally:
        os.close(fd)
    if not _same(before, after) or (content is not None and len(content) != size):
        return None
    digest = b"" if content is None else content_digest(content)
    return Seen(entry_from_stat(after, owners, strip, b"", digest, xattrs), content)


def _read(fd: int, size: int) -> bytes:
    if not size:
        return b""
    content = os.read(fd, size)
    while len(content) < size:
        more = os.read(fd, size - len(content))
        if not more:
            break
        content += more
    return content


def open_directory(root_fd: int, path: bytes) -> int:
    """Open a directory below the root for listing. Raises OSError."""
    return open_beneath(root_fd, path, _OPEN_DIRECTORY)


def list_names(fd: int) -> list[bytes]:
    """All names in a directory, in byte order.

    Raises:
        OSError: the directory could not be read to its end; nothing is known then.
    """
    return sorted(map(os.fsencode, os.listdir(fd)))


def forget_cached(root_fd: int) -> None:
    """Have the content of all files read from the disk when it is asked for next. Blocks.

    What a disk did not take may stay in the cache, whole, and is no proof of anything.
    """
    device = os.fstat(root_fd).st_dev

    def has(parent_fd: int, name: bytes, kind: Callable[[int], bool]) -> bool:
        try:
            st = os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
        except OSError:
            return False
        return st.st_dev == device and kind(st.st_mode)

    for _, names, files, parent_fd in os.fwalk(b".", dir_fd=root_fd):
        names[:] = [name for name in names if has(parent_fd, name, stat.S_ISDIR)]
        for name in files:
            if not has(parent_fd, name, stat.S_ISREG):
                continue
            with suppress(OSError):
                fd = os.open(name, _OPEN, dir_fd=parent_fd)
                try:
                    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                finally:
                    os.close(fd)


def hash_file(fd: int, stopped: Callable[[], bool]) -> Optional[bytes]:
    """Digest a file's content as `content_digest` does, however large it is.

    Returns:
        None if `stopped` said so meanwhile.
    """
    state = blake2b(digest_size=16)
    at = 0
    while True:
        block = os.pread(fd, 1 << 20, at)
        if not block:
            return state.digest()
        state.update(block)
        at += len(block)
        if stopped():
            return None


def may_be_mapped(fd: int, *, blind: bool) -> bool:
    """Tell whether somebody may store into a file through a mapping that he has.

    Args:
        fd: the file, open for reading.
        blind: leases do not see mappings here, as on overlayfs.
    """
    if blind:
        return True
    try:
        quiet = read_lease(fd)
    except OSError:  # not ours, or no leases here
        return True
    if quiet:
        release_lease(fd)
    return not quiet


def let_stores_show(fd: int) -> None:
    """Have the next store through any mapping move the file's time. Blocks while it is written.

    Only the first store into a page since that was written back does. A file that is known by
    size and time alone, because it is too large to be read again, would else change unseen.
    """
    with suppress(OSError):
        os.fdatasync(fd)


def _open_quietly(root_fd: int, path: bytes) -> int:
    """Open a file below the root for reading, as `open_file` does."""
    try:
        return open_beneath(root_fd, path, _OPEN | os.O_NOATIME)
    except PermissionError:
        return open_beneath(root_fd, path, _OPEN)


def _outwait(ctime_ns: int) -> None:
    """Wait until no write can leave this ctime any more: what is read from then on tells."""
    passed = time.time_ns() - ctime_ns
    if 0 <= passed < TICK_NS:
        time.sleep((TICK_NS - passed) / 1e9)


def look_whole(
    root_fd: int,
    looker: Looker,
    path: bytes,
    stopped: Callable[[], bool],
    opened: Callable[[int], None] = lambda fd: None,
) -> Optional[Seen]:
    """Look at a path and digest what is there, however large it is.

    Args:
        root_fd: the root.
        looker: looks below it.
        path: what to look at.
        stopped: see `hash_file`.
        opened: is given the file before it is read.

    Returns:
        What was seen, of a file with its digest, or flagged `UNREADABLE`, or `BUSY` if it
        changes all the time; None if `stopped` said so meanwhile.

    Raises:
        OSError: it cannot be told what is there.
    """
    seen = looker.look(path)
    for _ in range(_TRIES - 1):
        entry = seen.entry
        if entry is None or entry.kind != _FILE:
            return seen
        try:
            fd = _open_quietly(root_fd, path)
        except PermissionError:
            return seen._replace(flags=UNREADABLE)
        except OSError as error:
            if error.errno not in _NOT_THERE and error.errno != errno.ENXIO:
                raise
            seen = looker.look(path)
            continue
        try:
            opened(fd)
            _outwait(entry.ctime_ns)
            digest = hash_file(fd, stopped)
        finally:
            os.close(fd)
        if digest is None:
            return None
        seen = looker.look(path)
        if entry.same_identity(seen.entry) and seen.entry is not None:
            return Seen(seen.entry._replace(digest=digest))
    return seen._replace(flags=BUSY)


def read_block(root_fd: int, looker: Looker, path: bytes, at: int, size: int) -> Seen:
    """Read a part of a file, with the entry of the version that it is a part of.

    Args:
        root_fd: the root.
        looker: looks below it.
        path: what to read.
        at: from where on.
        size: bytes, at most.

    Returns:
        With empty content at the end of a file, and for what is none; flagged `BUSY` and without
        any if it changes meanwhile.

    Raises:
        OSError: it cannot be read.
    """
    seen = looker.look(path)
    if seen.entry is None or seen.entry.kind != _FILE:
        return seen._replace(content=b"")
    fd = _open_quietly(root_fd, path)
    try:
        content = os.pread(fd, size, at)
    finally:
        os.close(fd)
    if not seen.entry.same_identity(looker.look(path).entry):
        return seen._replace(flags=BUSY)
    return seen._replace(content=content)


class Looker:
    """Looks at paths below one root; remembers open directories until `forget`.

    Not thread-safe: a thread that looks has a Looker of its own.
    """

    def __init__(
        self,
        root_fd: int,
        *,
        owners: bool,
        strip: bool,
        attributes: Optional[Attributes] = None,
    ) -> None:
        """Look below `root_fd`, which stays the caller's."""
        self._attributes = attributes
        self._root_fd = root_fd
        self._owners = owners
        self._strip = strip
        self._device = os.fstat(root_fd).st_dev
        self._parents: dict[bytes, int] = {}

    def forget(self) -> None:
        """Close the directories: a name may lead elsewhere by now."""
        for fd in self._parents.values():
            if fd >= 0:
                os.close(fd)
        self._parents.clear()

    def parent(self, directory: bytes) -> int:
        """A descriptor (O_PATH) of a directory, ours to keep; -1 if it is not there.

        Raises:
            OSError: it cannot be reached; EXDEV: it is behind a mount point.
        """
        if not directory:
            return self._root_fd
        fd = self._parents.get(directory)
        if fd is not None:
            return fd
        if len(self._parents) >= _PARENTS_MAX:
            self.forget()
        try:
            fd = open_beneath(self._root_fd, directory, _AS_PARENT)
        except OSError as error:
            if error.errno not in _NOT_THERE:
                raise
            fd = -1
        self._parents[directory] = fd
        return fd

    def state(self, path: bytes) -> Optional[Entry]:
        """The entry at a path, without its content. Raises OSError as `look` does."""
        return self.look(path).entry

    def look(
        self,
        path: bytes,
        content_max: Optional[int] = None,
        *,
        trust_ns: int = 0,
        force: bool = False,
    ) -> Seen:
        """Look at a path.

        Args:
            path: below the root; `b""` is the root.
            content_max: None: do not ask whether a file is quiet; else see `read_settled`.
            trust_ns: see `read_settled`.
            force: see `read_settled`.

        Raises:
            OSError: it cannot be told what is there; EXDEV: it is (behind) a mount point.
        """
        directory, _, name = path.rpartition(b"/")
        parent_fd = self.parent(directory)
        if parent_fd < 0:
            return ABSENT
        if not name:
            return Seen(self.entry_of(parent_fd))
        return self.look_at(parent_fd, name, content_max, trust_ns=trust_ns, force=force)

    def entry_of(self, fd: int) -> Optional[Entry]:
        """The entry of a file or directory that is open, be it with O_PATH. Raises OSError."""
        return entry_of(fd, owners=self._owners, strip=self._strip, attributes=self._attributes)

    def look_at(
        self,
        parent_fd: int,
        name: bytes,
        content_max: Optional[int] = None,
        *,
        trust_ns: int = 0,
        force: bool = False,
    ) -> Seen:
        """Look at a name in an open directory; else as `look`."""
        owners, strip, attributes = self._owners, self._strip, self._attributes
        st: Optional[os.stat_result] = None
        for _ in range(_TRIES):
            try:
                st = os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
                kind = st.st_mode & 0o170000
                if kind == stat.S_IFREG:
                    if content_max is None:
                        xattrs = _xattrs_at(parent_fd, name, st, attributes)
                        return Seen(entry_from_stat(st, owners, strip, xattrs=xattrs))
                    seen = read_settled(
                        parent_fd,
                        name,
                        st,
                        content_max=content_max,
                        trust_ns=trust_ns,
                        owners=owners,
                        strip=strip,
                        force=force,
                        attributes=attributes,
                    )
                    if seen is not None:
                        return seen
                elif kind == stat.S_IFDIR:
                    _pass_over_mounts(parent_fd, name, st, self._device)
                    xattrs = _xattrs_at(parent_fd, name, st, attributes)
                    return Seen(entry_from_stat(st, owners, strip, xattrs=xattrs))
                elif kind == stat.S_IFLNK:
                    return Seen(_symlink(parent_fd, name, st, owners, strip))
                else:
                    return ABSENT
            except OSError as error:
                if error.errno in _NOT_THERE:
                    return ABSENT
                if error.errno != errno.EINVAL:
                    raise
        if st is None or not stat.S_ISREG(st.st_mode):
            raise OSError(errno.EBUSY, "changes all the time", name)
        xattrs = b"" if attributes is None else attributes.at(parent_fd, name)
        return Seen(entry_from_stat(st, owners, strip, xattrs=xattrs), None, BUSY)
