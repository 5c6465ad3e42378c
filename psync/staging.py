"""A file becomes visible whole, with its final mode, owner and time, or not at all.

Everything new is made in `.psync/stage` first, on the same file system as its target:
small content by ourselves, large content by rsync in a directory for each of its runs.
From there one rename publishes it. rsync never writes anywhere else.

**Invariants.** Nothing in staging was ever visible to a user, so it may be destroyed
at any time: whoever moves something out of here may not move it back once it was
visible. Names are of fixed length and ours, so that a user's name of 255 bytes can be
published. What failed leaves nothing behind.

Where things go from here, and what they take the place of, is not decided here.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple, Optional

from psync import faults
from psync.core.entry import Entry, Kind, is_ours, valid_path
from psync.private import open_directory, remove_tree, unused_names
from psync.syscalls import (
    EXCHANGE,
    check_room,
    clone_file,
    copy_file,
    open_beneath,
    renameat2,
)
from psync.xattrs import Attributes, copy_rest

__all__ = ["COPY_MAX", "Made", "Stage", "attempt"]

COPY_MAX = 256 << 20  # bytes that are worth copying for the sake of a mode or a time

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_LINK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE_NAME = re.compile(rb"[0-9]{1,20}")
_SOURCE = re.compile(rb"[0-9]{1,20}/[0-9]{1,20}")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_USABLE = 0o700  # what we need of a directory of ours, to move it
_GIVEN = 0o6000  # set-user-id and set-group-id: of an owner, and of no other
_UNHELD = (errno.EPERM, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EOVERFLOW)


def attempt(call: Callable[..., None], *args: Any, **options: Any) -> Optional[OSError]:
    """Set what a file system may not have, or this file not be given; return why it was not."""
    try:
        call(*args, **options)
    except OSError as error:
        if error.errno not in _UNHELD:
            raise
        return error
    return None


class Made(NamedTuple):
    """Something in staging, complete, that one rename will publish.

    Attributes:
        name: its name in staging.
        fd: open on it, so that its inode number stays its own.
        st: what it is now.
        mode: the permissions that it is to have; `st` has them already, except for a
            directory that its owner may not write to.
        ours: made by us for one transition; else fetched by rsync, and its run's.
        unmet: the file system has not taken all of the metadata that were wanted.
    """

    name: bytes
    fd: int
    st: os.stat_result
    mode: int
    ours: bool
    unmet: bool = False


class Stage:
    """The directory `.psync/stage`.

    Args:
        control_fd: `.psync`.
        owners: set user and group as wanted; else they are left as they come.
        strip: drop set-user-id, set-group-id and sticky bits.
        durable: sync each file before it can be published.
        attributes: sets the extended attributes that are replicated.
    """

    def __init__(
        self,
        control_fd: int,
        owners: bool,
        strip: bool,
        durable: bool,
        attributes: Optional[Attributes] = None,
    ) -> None:
        self._attributes = attributes
        self.fd = open_directory(control_fd, b"stage")
        self._owners = owners
        self._mask = 0o777 if strip else 0o7777
        self._durable = durable
        self._unused = unused_names()

    # --- small things, made by us

    def file(self, content: bytes, wanted: Entry) -> Made:
        """Make a file."""
        name = self._unused()
        mode = 0o600 if wanted.xattrs else wanted.mode & 0o777  # they are set by who may write
        fd = os.open(name, _CREATE, mode, dir_fd=self.fd)
        try:
            written = os.write(fd, content)
            while written < len(content):
                written += os.write(fd, content[written:])
            return self._dress(name, fd, wanted, ours=True)
        except OSError:
            os.close(fd)
            remove_tree(self.fd, name)
            raise

    def copy(self, source_fd: int, st: os.stat_result, wanted: Entry) -> Made:
        """Make a copy of a file that is here, with other metadata. Blocks.

        Args:
            source_fd: the file, open for reading.
            st: what it is; mode bits that are not replicated are as they are there, and so is
                the owner where owners are not.
            wanted: mode, owner and time of the copy.

        Raises:
            OSError: EFBIG: it is too large for that.
        """
        name = self._unused()
        fd = os.open(name, _CREATE, 0o600, dir_fd=self.fd)
        try:
            if not clone_file(source_fd, fd):
                if st.st_blocks * 512 > COPY_MAX:
                    reason = "it has other names, and is too large to be copied for that"
                    raise OSError(errno.EFBIG, reason)
                copy_file(source_fd, fd)
            made = self._dress(name, fd, wanted, ours=True)
            if not self._owners:
                made = self.give(made, st.st_uid, st.st_gid)
            kept = stat.S_IMODE(st.st_mode) & ~self._mask
            if kept:
                os.fchmod(fd, made.mode | kept)
                made = made._replace(st=os.fstat(fd))
            return made
        except OSError:
            os.close(fd)
            remove_tree(self.fd, name)
            raise

    def directory(self, wanted: Entry) -> Made:
        """Make an empty directory."""
        name = self._unused()
        os.mkdir(name, 0o700, dir_fd=self.fd)
        try:
            fd = os.open(name, _OPEN_DIRECTORY, dir_fd=self.fd)
            try:
                return self._dress(name, fd, wanted, ours=True)
            except OSError:
                os.close(fd)
                raise
        except OSError:
            os.rmdir(name, dir_fd=self.fd)
            raise

    def link(self, wanted: Entry) -> Made:
        """Make a symbolic link."""
        name = self._unused()
        os.symlink(wanted.target, name, dir_fd=self.fd)
        here: dict[str, Any] = {"dir_fd": self.fd, "follow_symlinks": False}
        try:
            if self._owners:
                attempt(os.chown, name, wanted.uid, wanted.gid, **here)
            attempt(os.utime, name, ns=(wanted.mtime_ns, wanted.mtime_ns), **here)
            fd = os.open(name, _OPEN_LINK, dir_fd=self.fd)
        except OSError:
            os.unlink(name, dir_fd=self.fd)
            raise
        st = os.fstat(fd)
        return Made(name, fd, st, 0, True, self._is_unmet(st, wanted))

    def _dress(self, name: bytes, fd: int, wanted: Entry, ours: bool) -> Made:
        mode = wanted.mode & self._mask
        usable = 0 if wanted.kind == Kind.FILE else _USABLE
        all_of_it = mode | usable
        # The owner before the mode: it clears bits of it, and some are not for another one.
        if self._owners and attempt(os.fchown, fd, wanted.uid, wanted.gid):
            mode &= ~_GIVEN
        mode_here = mode | usable
        unset = self._attributes is not None and self._attributes.set(fd, wanted.xattrs)
        attempt(os.utime, fd, ns=(wanted.mtime_ns, wanted.mtime_ns))
        st = os.fstat(fd)
        if stat.S_IMODE(st.st_mode) != mode_here:  # umask or owner had a say
            attempt(os.fchmod, fd, mode_here)
            st = os.fstat(fd)
        unmet = self._is_unmet(st, wanted) or stat.S_IMODE(st.st_mode) != all_of_it
        if self._attributes is not None and (unset or wanted.xattrs):
            unmet = unmet or self._attributes.of(fd) != wanted.xattrs  # the mode changes an ACL
        if self._durable:
            os.fsync(fd)
        return Made(name, fd, st, mode, ours, unmet)

    def _is_unmet(self, st: os.stat_result, wanted: Entry) -> bool:
        """Tell whether the file system has made something else of an owner or a time."""
        if self._owners and (st.st_uid, st.st_gid) != (wanted.uid, wanted.gid):
            return True
        return st.st_mtime_ns != wanted.mtime_ns

    def stored(self, wanted: Entry) -> tuple[os.stat_result, bytes]:
        """What the file system makes of metadata: tried with something of that kind of ours.

        Returns:
            What it is then, and its attributes.
        """
        if wanted.kind == Kind.SYMLINK:
            made = self.link(wanted._replace(target=wanted.target or b"x"))
        else:
            is_file = wanted.kind == Kind.FILE
            made = self.file(b"", wanted) if is_file else self.directory(wanted)
            attempt(os.fchmod, made.fd, made.mode)
        try:
            if self._attributes is None or wanted.kind == Kind.SYMLINK:
                return os.fstat(made.fd), b""
            return os.fstat(made.fd), self._attributes.of(made.fd)
        finally:
            self.discard(made)
            os.close(made.fd)

    def keep_rest(self, made: Made, source_fd: int) -> Made:
        """Give it the attributes that are not replicated, of what it will replace."""
        if not stat.S_ISREG(made.st.st_mode):
            return made
        copy_rest(source_fd, made.fd, self._attributes)
        st = os.fstat(made.fd)
        if st.st_mode != made.st.st_mode:  # an ACL is a mode, too
            attempt(os.fchmod, made.fd, stat.S_IMODE(made.st.st_mode))
            st = os.fstat(made.fd)
        return made._replace(st=st)

    def give(self, made: Made, uid: int, gid: int) -> Made:
        """Give it to another user and group (-1: as it is), if we may."""
        st = made.st
        if stat.S_ISLNK(st.st_mode) or (uid in (-1, st.st_uid) and gid in (-1, st.st_gid)):
            return made
        try:
            os.fchown(made.fd, uid, gid)
            os.fchmod(made.fd, stat.S_IMODE(st.st_mode))
        except OSError as error:
            if error.errno not in _UNHELD:
                raise
            return made  # then it is ours
        return made._replace(st=os.fstat(made.fd))

    def discard(self, made: Made) -> None:
        """Remove what was not published after all; a fetched file stays for another try."""
        if made.ours:
            remove_tree(self.fd, made.name)

    # --- large files, fetched by rsync

    def fetched(self, source: bytes, wanted: Entry) -> Made:
        """Take a file that rsync has filled.

        Args:
            source: `b"<run>/<name>"`.
            wanted: what it is to be.

        Raises:
            OSError: it is not there, or not whole.
        """
        if not _SOURCE.fullmatch(source):
            raise OSError(errno.EINVAL, "that is no name in staging")
        fd = open_beneath(self.fd, source, _READ)
        try:
            st = os.fstat(fd)
            if not stat.S_ISREG(st.st_mode) or st.st_size != wanted.size:
                raise OSError(
                    errno.EBADMSG, f"{st.st_size} of {wanted.size} bytes have been transferred"
                )
            return self._dress(source, fd, wanted, ours=False)
        except OSError:
            os.close(fd)
            raise

    def open_run(
        self, root_fd: int, run: int, names: list[bytes], bases: list[bytes], size: int
    ) -> None:
        """Make the directory that one run of rsync fills; blocks while it copies bases.

        Args:
            root_fd: the replica's root.
            run: its number.
            names: of the files in it: decimal numbers.
            bases: for each the path of a live file to start from, or empty. One that is
                gone, or is no file, is left out: rsync then sends everything.
            size: bytes that those without a base will take; 0: nobody knows.

        Raises:
            OSError: nothing is left of it.
        """
        if len(names) != len(bases) or not all(_FILE_NAME.fullmatch(name) for name in names):
            raise OSError(errno.EINVAL, "these are no names for staging")
        self.drop_run(run)
        check_room(self.fd, size)
        directory = b"%d" % run
        os.mkdir(directory, 0o700, dir_fd=self.fd)
        try:
            run_fd = os.open(directory, _OPEN_DIRECTORY, dir_fd=self.fd)
            faults.at("staging opened")
            try:
                for name, base in zip(names, bases):
                    fd = os.open(name, _CREATE, 0o600, dir_fd=run_fd)
                    try:
                        if base:
                            _copy_base(root_fd, base, fd)
                    finally:
                        os.close(fd)
            finally:
                os.close(run_fd)
        except OSError:
            self.drop_run(run)
            raise

    def drop_run(self, run: int) -> None:
        """Remove the directory of a run, if it is there."""
        remove_tree(self.fd, b"%d" % run)

    # --- the whole

    def probe(self) -> None:
        """See that the file system can do what everything else rests on.

        Raises:
            OSError: it cannot exchange two names, or takes `a` for `A`: then who removes the one
                that his side has no more would remove the other, which it has.
        """
        unused = self._unused()
        names = unused + b"a", unused + b"b"
        try:
            for name in names:
                os.close(os.open(name, _CREATE, 0o600, dir_fd=self.fd))
            try:
                renameat2(self.fd, names[0], self.fd, names[1], EXCHANGE)
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                    raise
                raise OSError(
                    error.errno,
                    "the file system cannot exchange two names (RENAME_EXCHANGE), "
                    "so files on it cannot be replaced safely",
                ) from None
            with suppress(FileNotFoundError):
                os.stat(unused + b"A", dir_fd=self.fd)
                raise OSError(
                    errno.EOPNOTSUPP,
                    "the file system takes upper and lower case in names for the same, "
                    "so a name may mean another file than on the other side",
                )
        finally:
            for name in names:
                remove_tree(self.fd, name)

    def clear(self) -> None:
        """Remove everything: nobody has ever seen it."""
        for name in os.listdir(self.fd):
            remove_tree(self.fd, os.fsencode(name))

    def close(self) -> None:
        """Close the directory."""
        os.close(self.fd)


def _copy_base(root_fd: int, base: bytes, target_fd: int) -> None:
    if not valid_path(base) or is_ours(base):
        raise OSError(errno.EINVAL, "that is no path of this replica")
    try:
        fd = open_beneath(root_fd, base, _READ)
    except OSError:
        return  # it is gone, or not ours to read
    try:
        if stat.S_ISREG(os.fstat(fd).st_mode):
            copy_file(fd, target_fd)
    except OSError as error:
        if error.errno in _FULL:
            raise
        os.ftruncate(target_fd, 0)
    finally:
        os.close(fd)
