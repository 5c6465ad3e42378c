"""What lost a conflict, or was deleted, is kept here until a person has seen it.

`.psync/conflicts` holds each loser under the name that it had in quarantine, and beside it a
note in JSON: where it was, when and why it was displaced, what it was. It goes back to
where it was (or elsewhere) as if a user had put it there; what stands there then takes
its place here. Where both versions are to be kept among the users' files it goes back at once,
beside the other one, under a name of its own. `.psync/trash` is a second store, of what was
deleted because it was deleted on the other replica, where people want that.

**Invariants.** Things come and go by renames that overwrite nothing; the note is written
before, so that none lacks it. Only `drop` and `empty` destroy, because a person said so, and
`expire`, because nobody came. What has a note is told of, whatever its name.

Who loses is not decided here (`core.reconcile`), nor what a late writer wrote (`quarantine`).
"""

from __future__ import annotations

import calendar
import errno
import json
import logging
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Optional

from psync import faults
from psync.core.entry import Entry, Side, is_ours, join, printable, split, valid_path
from psync.private import open_directory, remove_tree
from psync.syscalls import EXCHANGE, NOREPLACE, open_beneath, renameat2
from psync.wire import Note

__all__ = ["SHOWN_MAX", "Conflicts", "name_beside", "read_present"]

SHOWN_MAX = 4 << 20  # bytes of a version that are worth comparing on a terminal
_NAME = re.compile(rb"(?!.*\.json(\.new)?$)(?!\.\.?$)[^/\0]+", re.DOTALL)  # not of a note
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC


_TIME = "%Y-%m-%dT%H:%M:%SZ"
_REPLACED = "replaced"  # by a version that was restored
_UNKNOWN = "unknown"  # its note says nothing
_NAME_MAX = 255
_EXTENSION_MAX = 16
_BESIDE_MAX = 1000  # of one name in one second


class Conflicts:
    """A store of one replica.

    Args:
        control_fd: `.psync`.
        log: takes a `logging` level and a line.
        name: the store's: `conflicts` or `trash`.

    Attributes:
        keep_both: what comes here is to go back beside the version that won.
        due: the names of what is to go back so.
    """

    def __init__(
        self, control_fd: int, log: Callable[[int, str], None], name: str = "conflicts"
    ) -> None:
        self._fd = open_directory(control_fd, name.encode())
        self._log = log
        self._name = name
        self.keep_both = False
        self.due: list[bytes] = []
        self._doomed: Optional[dict[bytes, None]] = None  # what `empty` is to destroy

    def close(self) -> None:
        """Close it."""
        os.close(self._fd)

    def take(
        self,
        from_fd: int,
        name: bytes,
        path: bytes,
        reason: str,
        entry: Entry,
        *,
        beside: bool = True,
    ) -> None:
        """Move something here from another directory of ours.

        Args:
            from_fd: where it is.
            name: its name there and here.
            path: where its user had it; empty: nobody knows.
            reason: a word of `quarantine.Reason`.
            entry: what it is.
            beside: it may go back, where `keep_both` says so.

        Raises:
            OSError: it is where it was.
        """
        beside = beside and self.keep_both and bool(path)
        self._write(name, path, reason, entry, beside=beside)
        faults.at("noted")
        renameat2(from_fd, name, self._fd, name, NOREPLACE)
        if beside:
            self.due.append(name)

    # --- what is here ----------------------------------------------------------------------

    def notes(self) -> Iterator[Note]:
        """What is known of everything here, in the order of the names."""
        for name in sorted(map(os.fsencode, os.listdir(self._fd))):
            if not _NAME.fullmatch(name):
                continue
            try:
                yield self._note(name)
            except OSError:
                self._log(logging.WARNING, f"{self._name}/{printable(name)} has no readable note")

    def find(self, name: bytes) -> Note:
        """What is known of one version. Raises OSError, with a message for people."""
        try:
            if not _NAME.fullmatch(name):
                raise FileNotFoundError
            os.stat(name, dir_fd=self._fd, follow_symlinks=False)
            return self._note(name)
        except FileNotFoundError:
            raise OSError(
                errno.ENOENT, f"there is no {printable(name)} in .psync/{self._name}"
            ) from None

    def show(self, root_fd: int, note: Note) -> tuple[Optional[bytes], Optional[bytes]]:
        """Read a version, and what is at its path now; None: no file, or a very large one.

        Of a symlink that is its text.
        """
        kept = None
        with suppress(OSError):
            kept = _read(self._fd, note.name)
        return kept, read_present(root_fd, note.path)

    # --- what a person wants ---------------------------------------------------------------

    def restore(self, root_fd: int, note: Note, path: bytes) -> bool:
        """Put a version back among the user's files; what is there now takes its place here.

        A directory that is not there any more is made.

        Args:
            root_fd: the replica's root.
            note: the version's.
            path: where to.

        Returns:
            Whether there is something under its name here still.

        Raises:
            OSError: it is where it was; the message says why.
        """
        if not path or not valid_path(path) or is_ours(path):
            raise OSError(errno.EINVAL, f"nothing can be restored to {printable(path)!r}")
        directory, name = split(path)
        shown = printable(path)
        if self._doomed is not None:
            self._doomed.pop(note.name, None)  # it is to be another version's name
        try:
            parent_fd = _open_or_make(root_fd, directory)
        except OSError as error:
            reason = f"{printable(directory)} cannot be entered: {error.strerror}"
            raise OSError(error.errno, reason) from None
        try:
            try:
                renameat2(self._fd, note.name, parent_fd, name, NOREPLACE)
            except FileExistsError:
                self._exchange(note, parent_fd, name, path)
                return True
            with suppress(OSError):
                os.unlink(note.name + b".json", dir_fd=self._fd)
            return False
        except OSError as error:
            raise OSError(error.errno, f"cannot restore {shown}: {error.strerror}") from None
        finally:
            os.close(parent_fd)

    def _exchange(self, note: Note, parent_fd: int, name: bytes, path: bytes) -> None:
        """What is displaced keeps the version's name here; a directory is not displaced.

        Its own note is there first: with the version's it would expire too early.
        """
        st = os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
        mode, size, mtime_ns = stat.S_IMODE(st.st_mode), st.st_size, st.st_mtime_ns
        entry = Entry(0, mode, st.st_uid, st.st_gid, size, mtime_ns, b"", b"", st.st_ino, 0)
        new, current = self._write_new(note.name, path, _REPLACED, entry), note.name + b".json"
        renameat2(self._fd, new, self._fd, current, EXCHANGE)
        try:
            renameat2(self._fd, note.name, parent_fd, name, EXCHANGE)
            st = os.stat(note.name, dir_fd=self._fd, follow_symlinks=False)
            if stat.S_ISDIR(st.st_mode):
                renameat2(self._fd, note.name, parent_fd, name, EXCHANGE)
                raise OSError(errno.EISDIR, "there is a directory now, name another path")
        except OSError:
            renameat2(self._fd, new, self._fd, current, EXCHANGE)
            raise
        finally:
            with suppress(OSError):
                os.unlink(new, dir_fd=self._fd)

    # --- what both sides are to keep -------------------------------------------------------

    def recall_due(self) -> None:
        """Find what an earlier agent was to put back beside the version that won, and did not."""
        for note in self.notes():
            with suppress(OSError, ValueError):
                if note.path and self._told(note.name).get("beside") is True:
                    self.due.append(note.name)

    def put_beside(self, note: Note, parent_fd: int, side: Side) -> bytes:
        """Put a version back into the directory where it was, under a name that nobody has.

        Args:
            note: the version's.
            parent_fd: that directory.
            side: the replica's.

        Returns:
            Its path now.

        Raises:
            OSError: it is where it was.
        """
        directory, name = split(note.path)
        for number in range(1, _BESIDE_MAX):
            new = name_beside(name, side, note.time_ns, number)
            try:
                renameat2(self._fd, note.name, parent_fd, new, NOREPLACE)
            except FileExistsError:
                continue
            with suppress(OSError):
                os.unlink(note.name + b".json", dir_fd=self._fd)
            return join(directory, new)
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))

    def drop(self, name: bytes) -> None:
        """Destroy a version. Raises OSError."""
        remove_tree(self._fd, name)
        with suppress(FileNotFoundError):
            os.unlink(name + b".json", dir_fd=self._fd)

    def doom(self) -> None:
        """Choose all that is here now for `empty`: what comes later was not meant."""
        names = set(map(os.fsencode, os.listdir(self._fd)))
        chosen = (name for name in names if _NAME.fullmatch(name) and name + b".json" in names)
        self._doomed = dict.fromkeys(sorted(chosen, reverse=True))  # the oldest is the last

    def empty(self, in_time: Callable[[], bool]) -> tuple[int, int, int]:
        """Destroy what `doom` has chosen, while there is time.

        What cannot be destroyed stays, and is tried no more.

        Returns:
            How many have gone, how many could not, and how many are left.

        Raises:
            OSError: nothing was chosen since this agent began; the message says so.
        """
        if self._doomed is None:
            raise OSError(errno.ESTALE, "its agent has begun anew: empty it again")
        tried, count = 0, 0
        while self._doomed and in_time():
            name, _ = self._doomed.popitem()
            tried += 1
            count += self._drop_or_tell(name)
        return count, tried - count, len(self._doomed)

    def expire(self, is_old: Callable[[Note], bool]) -> Iterator[Note]:
        """Destroy what has been here for long enough; yields each when it is gone."""
        for note in self.notes():
            if is_old(note) and self._drop_or_tell(note.name):
                yield note

    def _drop_or_tell(self, name: bytes) -> bool:
        try:
            self.drop(name)
        except OSError as error:
            why = f"cannot drop {self._name}/{printable(name)}: {error.strerror}"
            self._log(logging.WARNING, why)
            return False
        return True

    # --- notes -----------------------------------------------------------------------------

    def _write(
        self, name: bytes, path: bytes, reason: str, entry: Entry, *, beside: bool = False
    ) -> None:
        """Write a note, whole or not at all."""
        new = self._write_new(name, path, reason, entry, beside=beside)
        os.rename(new, name + b".json", src_dir_fd=self._fd, dst_dir_fd=self._fd)

    def _write_new(
        self, name: bytes, path: bytes, reason: str, entry: Entry, *, beside: bool = False
    ) -> bytes:
        """Write a note that does not count yet; return what it is called."""
        note = {
            "path": printable(path) if path else "",
            "path_hex": path.hex(),
            "time": time.strftime(_TIME, time.gmtime()),
            "reason": reason,
            **({"beside": True} if beside else {}),
            "entry": {
                **entry._asdict(),
                "target": entry.target.hex(),
                "digest": entry.digest.hex(),
                "xattrs": entry.xattrs.hex(),
            },
        }
        new = name + b".json.new"
        with open(os.open(new, _NEW, 0o600, dir_fd=self._fd), "wb") as stream:
            stream.write(json.dumps(note, indent=1).encode() + b"\n")
        return new

    def _told(self, name: bytes) -> dict[str, Any]:
        """A note as it stands there. Raises OSError, ValueError."""
        with open(os.open(name + b".json", _OPEN, dir_fd=self._fd), "rb") as stream:
            told = json.load(stream)
        if not isinstance(told, dict):
            raise ValueError(told)
        return told

    def _note(self, name: bytes) -> Note:
        """What is known of a version. A power cut may have left of a note no more than its name."""
        try:
            told = self._told(name)
            return Note(
                name,
                bytes.fromhex(told["path_hex"]),
                calendar.timegm(time.strptime(told["time"], _TIME)) * 10**9,
                str(told["reason"]),
                int(told["entry"]["size"]),
                int(told["entry"]["mtime_ns"]),
            )
        except (ValueError, KeyError, TypeError):
            st = os.stat(name, dir_fd=self._fd, follow_symlinks=False)
            return Note(name, b"", st.st_ctime_ns, _UNKNOWN, st.st_size, st.st_mtime_ns)


def name_beside(name: bytes, side: Side, time_ns: int, number: int = 1) -> bytes:
    """Name the version that lost: `name.conflict-LEFT-20261122T001500Z.ext`, 255 bytes at most.

    Args:
        name: what it was called.
        side: where it was.
        time_ns: when it lost.
        number: tells it from others of that second.
    """
    stem, dot, extension = name.rpartition(b".")
    if not stem or len(extension) > _EXTENSION_MAX:
        stem, dot, extension = name, b"", b""
    when = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(time_ns // 10**9))
    mark = f".conflict-{side.name}-{when}" + (f"-{number}" if number > 1 else "")
    rest = mark.encode() + dot + extension
    end = min(len(stem), _NAME_MAX - len(rest))
    for _ in range(3):  # not within a character of UTF-8
        if end < len(stem) and stem[end] & 0xC0 == 0x80:
            end -= 1
    return stem[:end] + rest


def _open_or_make(root_fd: int, directory: bytes) -> int:
    """Open a directory of the replica; what is missing of it is made like what it is in."""
    missing: list[bytes] = []
    while True:
        try:
            fd = open_beneath(root_fd, directory, os.O_PATH | os.O_DIRECTORY)
            break
        except FileNotFoundError:
            if not directory:
                raise
        directory, name = split(directory)
        missing.append(name)
    while missing:
        above, name = fd, missing.pop()
        try:
            fd = _make_directory(above, name)
        finally:
            os.close(above)
    return fd


def _make_directory(parent_fd: int, name: bytes) -> int:
    """Make a directory with owner and mode of the one that it is in, and open it."""
    os.mkdir(name, 0o700, dir_fd=parent_fd)
    fd = os.open(name, _DIRECTORY, dir_fd=parent_fd)
    try:
        st = os.fstat(parent_fd)
        with suppress(PermissionError):
            os.fchown(fd, st.st_uid, st.st_gid)
        os.fchmod(fd, stat.S_IMODE(st.st_mode))
    except OSError:
        os.close(fd)
        raise
    return fd


def read_present(root_fd: int, path: bytes) -> Optional[bytes]:
    """Read what is at a path of the replica; None: no file, or a very large one."""
    directory, name = split(path)
    with suppress(OSError):
        parent_fd = open_beneath(root_fd, directory, os.O_PATH | os.O_DIRECTORY)
        try:
            return _read(parent_fd, name)
        finally:
            os.close(parent_fd)
    return None


def _read(parent_fd: int, name: bytes) -> Optional[bytes]:
    """Read a file, or a symlink's text; None: it is not to be shown. Raises OSError."""
    st = os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
    if stat.S_ISLNK(st.st_mode):
        return os.readlink(name, dir_fd=parent_fd)
    if not stat.S_ISREG(st.st_mode):
        return None
    with open(os.open(name, _OPEN, dir_fd=parent_fd), "rb") as stream:
        st = os.fstat(stream.fileno())
        if not stat.S_ISREG(st.st_mode) or st.st_size > SHOWN_MAX:
            return None
        return stream.read(SHOWN_MAX)
