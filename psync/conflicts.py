"""What lost a conflict is kept here until a person has seen it.

`.psync/conflicts` holds each loser under the name that it had in quarantine, and beside it a
note in JSON: where it was, when and why it was displaced, what it was. It goes back to
where it was (or elsewhere) as if a user had put it there; what stands there then takes
its place here.

**Invariants.** Things come and go by renames that overwrite nothing; the note is written
before, so that none lacks it. Only `drop` destroys, because a person said so, and
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
from typing import Optional

from psync.core.entry import Entry, is_ours, printable, split, valid_path
from psync.private import open_directory, remove_tree
from psync.syscalls import EXCHANGE, NOREPLACE, open_beneath, renameat2
from psync.wire import Note

__all__ = ["SHOWN_MAX", "Conflicts"]

SHOWN_MAX = 4 << 20  # bytes of a version that are worth comparing on a terminal
_NAME = re.compile(rb"(?!.*\.json(\.new)?$)(?!\.\.?$)[^/\0]+", re.DOTALL)  # not of a note
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC


_TIME = "%Y-%m-%dT%H:%M:%SZ"
_REPLACED = "replaced"  # by a version that was restored


class Conflicts:
    """The store of one replica.

    Args:
        control_fd: `.psync`.
        log: takes a `logging` level and a line.
    """

    def __init__(self, control_fd: int, log: Callable[[int, str], None]) -> None:
        self._fd = open_directory(control_fd, b"conflicts")
        self._log = log

    def close(self) -> None:
        """Close it."""
        os.close(self._fd)

    def take(self, from_fd: int, name: bytes, path: bytes, reason: str, entry: Entry) -> None:
        """Move something here from another directory of ours.

        Args:
            from_fd: where it is.
            name: its name there and here.
            path: where its user had it; empty: nobody knows.
            reason: a word of `quarantine.Reason`.
            entry: what it is.

        Raises:
            OSError: it is where it was.
        """
        self._write(name, path, reason, entry)
        renameat2(from_fd, name, self._fd, name, NOREPLACE)

    # --- what is here ----------------------------------------------------------------------

    def notes(self) -> Iterator[Note]:
        """What is known of everything here, in the order of the names."""
        for name in sorted(map(os.fsencode, os.listdir(self._fd))):
            if not _NAME.fullmatch(name):
                continue
            try:
                yield self._note(name)
            except (OSError, ValueError, KeyError, TypeError):
                self._log(logging.WARNING, f"conflicts/{printable(name)} has no readable note")

    def find(self, name: bytes) -> Note:
        """What is known of one version. Raises OSError, with a message for people."""
        try:
            if not _NAME.fullmatch(name):
                raise FileNotFoundError
            os.stat(name, dir_fd=self._fd, follow_symlinks=False)
            return self._note(name)
        except FileNotFoundError:
            raise OSError(
                errno.ENOENT, f"there is no {printable(name)} in .psync/conflicts"
            ) from None
        except (ValueError, KeyError, TypeError):
            raise OSError(
                errno.EIO, f"the note .psync/conflicts/{printable(name)}.json cannot be read"
            ) from None

    def show(self, root_fd: int, note: Note) -> tuple[Optional[bytes], Optional[bytes]]:
        """Read a version, and what is at its path now; None: no file, or a very large one.

        Of a symlink that is its text.
        """
        kept = present = None
        with suppress(OSError):
            kept = _read(self._fd, note.name)
        with suppress(OSError):
            directory, name = split(note.path)
            parent_fd = open_beneath(root_fd, directory, os.O_PATH | os.O_DIRECTORY)
            try:
                present = _read(parent_fd, name)
            finally:
                os.close(parent_fd)
        return kept, present

    # --- what a person wants ---------------------------------------------------------------

    def restore(self, root_fd: int, note: Note, path: bytes) -> bool:
        """Put a version back among the user's files; what is there now takes its place here.

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
        try:
            parent_fd = open_beneath(root_fd, directory, os.O_PATH | os.O_DIRECTORY)
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
        """What is displaced keeps the version's name here; a directory is not displaced."""
        renameat2(self._fd, note.name, parent_fd, name, EXCHANGE)
        st = os.stat(note.name, dir_fd=self._fd, follow_symlinks=False)
        if stat.S_ISDIR(st.st_mode):
            renameat2(self._fd, note.name, parent_fd, name, EXCHANGE)
            raise OSError(errno.EISDIR, "there is a directory now, name another path")
        mode, size, mtime_ns = stat.S_IMODE(st.st_mode), st.st_size, st.st_mtime_ns
        entry = Entry(0, mode, st.st_uid, st.st_gid, size, mtime_ns, b"", b"", st.st_ino, 0)
        self._write(note.name, path, _REPLACED, entry)

    def drop(self, name: bytes) -> None:
        """Destroy a version. Raises OSError."""
        remove_tree(self._fd, name)
        with suppress(FileNotFoundError):
            os.unlink(name + b".json", dir_fd=self._fd)

    def expire(self, before_ns: int) -> Iterator[Note]:
        """Destroy what came here before a time; yields each when it is gone."""
        for note in self.notes():
            if note.time_ns < before_ns:
                try:
                    self.drop(note.name)
                except OSError as error:
                    shown = printable(note.name)
                    self._log(logging.WARNING, f"cannot drop conflicts/{shown}: {error.strerror}")
                else:
                    yield note

    # --- notes -----------------------------------------------------------------------------

    def _write(self, name: bytes, path: bytes, reason: str, entry: Entry) -> None:
        """Write a note, whole or not at all."""
        note = {
            "path": printable(path) if path else "",
            "path_hex": path.hex(),
            "time": time.strftime(_TIME, time.gmtime()),
            "reason": reason,
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
        os.rename(new, name + b".json", src_dir_fd=self._fd, dst_dir_fd=self._fd)

    def _note(self, name: bytes) -> Note:
        with open(os.open(name + b".json", _OPEN, dir_fd=self._fd), "rb") as stream:
            told = json.load(stream)
        return Note(
            name,
            bytes.fromhex(told["path_hex"]),
            calendar.timegm(time.strptime(told["time"], _TIME)) * 10**9,
            str(told["reason"]),
            int(told["entry"]["size"]),
            int(told["entry"]["mtime_ns"]),
        )


def _read(parent_fd: int, name: bytes) -> Optional[bytes]:
    """Read a file, or a symlink's text; None: it is not to be shown. Raises OSError."""
    st = os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
    if stat.S_ISLNK(st.st_mode):
        return os.readlink(name, dir_fd=parent_fd)
    with open(os.open(name, _OPEN, dir_fd=parent_fd), "rb") as stream:
        st = os.fstat(stream.fileno())
        if not stat.S_ISREG(st.st_mode) or st.st_size > SHOWN_MAX:
            return None
        return stream.read(SHOWN_MAX)
