"""Before something is displaced it is written down, so that a crash loses nothing.

An agent can be killed between any two system calls. What lies in quarantine then is told
by a line that was written before it could get there; `recovery` reads these lines, looks
at what is really there, and finishes or undoes.

**Invariants.** Intents are appended, one write for a batch, all of them or none. A line
says what may have happened, never that it has. The journal is plain text, so that a
person can follow it without psync.

Nothing here looks at the tree or moves anything.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from typing import NamedTuple, Optional

from psync.core.entry import Entry

__all__ = ["Intent", "Journal"]

_COMPACT_BYTES = 32 << 20


class Intent(NamedTuple):
    """What is about to be displaced, and by what: enough to finish or undo it later.

    Attributes:
        name: the name in quarantine that it gets.
        path: where it is now.
        expected: what it is.
        wanted: what takes its place, None for nothing. When `source` is set, the entry
            that moves here from there.
        keep: it is a conflict's loser.
        source: the old path of what takes its place by a rename, else empty.

    If `expected` is a directory, nothing is displaced: it is read-only and being opened up to
    change names in it, and its mode is to become that again. It is at `path`, or at `source`.
    """

    name: bytes
    path: bytes
    expected: Entry
    wanted: Optional[Entry]
    keep: bool
    source: bytes = b""


def _entry_text(entry: Optional[Entry]) -> str:
    if entry is None:
        return "-"
    kind, mode, uid, gid, size, mtime_ns, target, digest, ino, ctime_ns = entry[:10]
    return (
        f"{kind:d},{mode:d},{uid:d},{gid:d},{size:d},{mtime_ns:d},"
        f"{target.hex()},{digest.hex()},{ino:d},{ctime_ns:d}"
    )


def _entry_of(text: str) -> Optional[Entry]:
    if text == "-":
        return None
    kind, mode, uid, gid, size, mtime_ns, target, digest, ino, ctime_ns = text.split(",")
    return Entry(
        int(kind),
        int(mode),
        int(uid),
        int(gid),
        int(size),
        int(mtime_ns),
        bytes.fromhex(target),
        bytes.fromhex(digest),
        int(ino),
        int(ctime_ns),
    )


def _line(intent: Intent) -> bytes:
    return (
        f"{intent.name.decode()} {'keep' if intent.keep else 'drop'} {intent.path.hex() or '-'} "
        f"{intent.source.hex() or '-'} {_entry_text(intent.expected)} "
        f"{_entry_text(intent.wanted)}\n"
    ).encode()


def _intent_of(line: bytes) -> Intent:
    name, keep, path, source, expected, wanted = line.decode("ascii").split(" ")
    displaced = _entry_of(expected)
    if displaced is None or keep not in ("keep", "drop"):
        raise ValueError(line)
    return Intent(
        name.encode(),
        bytes.fromhex("" if path == "-" else path),
        displaced,
        _entry_of(wanted),
        keep == "keep",
        bytes.fromhex("" if source == "-" else source),
    )


class Journal:
    """The intents, a line of text each: name, keep or drop, path, source, both entries.

    Paths, targets and digests are in hexadecimal, `-` is nothing. A line says what may
    have happened, not that it has: who reads it looks. There is no line for "done";
    when nothing is in quarantine any more the file is emptied.
    """

    def __init__(self, control_fd: int) -> None:
        self._control_fd = control_fd
        self._fd = self._open(b"journal", 0)
        self._size = os.fstat(self._fd).st_size
        self._compact_at = _COMPACT_BYTES

    def _open(self, name: bytes, flags: int) -> int:
        flags |= os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(name, flags, 0o600, dir_fd=self._control_fd)

    @property
    def is_large(self) -> bool:
        """Whether `rewrite` is worth its while."""
        return self._size > self._compact_at

    def append(self, intents: Iterable[Intent], durable: bool) -> None:
        """Write the intents down, all or none.

        Args:
            intents: what is about to be displaced.
            durable: wait until they are on the disk; else they survive any end of this
                process, but not of the machine.

        Raises:
            OSError: nothing may be displaced now.
        """
        data = b"".join([_line(intent) for intent in intents])
        try:
            if os.write(self._fd, data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if durable:
                os.fdatasync(self._fd)
        except OSError:
            os.ftruncate(self._fd, self._size)
            raise
        self._size += len(data)

    def load(self) -> tuple[dict[bytes, Intent], int]:
        """Read the intents, by name, and how many lines make no sense.

        The last line may be torn (its batch never began), and after a power cut any.
        """
        with open(os.dup(self._fd), "rb") as stream:
            stream.seek(0)
            lines = stream.read().split(b"\n")
        lines.pop()  # what follows the last newline
        intents: dict[bytes, Intent] = {}
        senseless = 0
        for line in lines:
            try:
                intent = _intent_of(line)
            except ValueError:
                senseless += 1
            else:
                intents[intent.name] = intent
        return intents, senseless

    def clear(self) -> None:
        """Forget everything: nothing is in quarantine."""
        if self._size:
            os.ftruncate(self._fd, 0)
            self._size = 0

    def rewrite(self, intents: Iterable[Intent]) -> None:
        """Keep only these."""
        fd = self._open(b"journal.new", os.O_TRUNC)
        try:
            with open(os.dup(fd), "wb") as stream:
                stream.writelines(_line(intent) for intent in intents)
            os.rename(
                b"journal.new",
                b"journal",
                src_dir_fd=self._control_fd,
                dst_dir_fd=self._control_fd,
            )
        except OSError:
            os.close(fd)
            raise
        os.close(self._fd)
        self._fd = fd
        self._size = os.fstat(fd).st_size
        self._compact_at = max(_COMPACT_BYTES, 2 * self._size)

    def close(self) -> None:
        """Close the file; it stays."""
        os.close(self._fd)
