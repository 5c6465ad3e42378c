"""Drive the real cinotify on real directories: start it, read its frames, know when all is told.

Nothing here sleeps. What happened before a beat (a file closed in `.psync`) is told before the
beat is, so `Cinotify.told()` returns exactly the frames that a test's changes have caused.
"""

from __future__ import annotations

import os
import select
import signal
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from psync.core.entry import Entry, Kind, directory_digest, is_ours, join
from psync.syscalls import EXCHANGE, renameat2

CREATED, MODIFIED, CLOSED, ATTRIBUTES, DELETED, MOVED_IN, MOVED_OUT, DIRECTORY = (
    1 << n for n in range(8)
)
PATIENCE_S = 30.0


def exchange(a: Path, b: Path) -> None:
    """Let two names swap what they name, at once."""
    above = os.open("/", os.O_PATH)
    try:
        renameat2(above, os.fsencode(a), above, os.fsencode(b), EXCHANGE)
    finally:
        os.close(above)


class Frame(NamedTuple):
    """One frame: its type, its fixed fields, its path, and for a move the new path."""

    type: str
    fields: tuple
    path: bytes = b""
    new: bytes = b""


def decode(type_: int, body: bytes) -> Frame:
    """Decode a frame's body, strictly."""
    kind = chr(type_)
    if kind == "D":
        live, digest, entries = struct.unpack_from("<B16sI", body)
        return Frame(kind, (live, digest, entries), body[21:])
    if kind == "S":
        return Frame(kind, struct.unpack("<IQQQ", body))
    if kind == "E":
        return Frame(kind, struct.unpack_from("<I", body), body[4:])
    if kind == "M":
        is_directory, size = struct.unpack_from("<BI", body)
        assert size <= len(body) - 5
        return Frame(kind, (is_directory,), body[5 : 5 + size], body[5 + size :])
    if kind == "X":
        return Frame(kind, struct.unpack_from("<i", body), body[4:])
    assert kind in "OULNB", kind
    return Frame(kind, (), body)


class Cinotify:
    """One running cinotify and all that it has said."""

    def __init__(self, command: list[str], root: Path, **popen) -> None:
        self.root = os.fsencode(root)
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **popen
        )
        os.set_blocking(self.process.stdout.fileno(), False)
        self._bytes = b""
        self._beats = 0

    def frames(self) -> Iterator[Frame]:
        """Yield frames as they come; fail when none comes for long, stop at the end."""
        while True:
            while len(self._bytes) >= 5:
                (length,) = struct.unpack_from("<I", self._bytes)
                assert 1 <= length < 1 << 20
                if len(self._bytes) < 4 + length:
                    break
                frame = decode(self._bytes[4], self._bytes[5 : 4 + length])
                self._bytes = self._bytes[4 + length :]
                yield frame
            ready, _, _ = select.select([self.process.stdout], [], [], PATIENCE_S)
            assert ready, "cinotify says nothing"
            data = os.read(self.process.stdout.fileno(), 1 << 20)
            if not data:
                return
            self._bytes += data

    def until(self, wanted: Callable[[Frame], bool]) -> list[Frame]:
        """Return the frames up to and with the first that is wanted."""
        seen = []
        for frame in self.frames():
            seen.append(frame)
            if wanted(frame):
                return seen
        raise AssertionError(f"cinotify ended: {self.process.stderr.read()!r}; said {seen}")

    def scanned(self) -> list[Frame]:
        """Return the frames up to the end of a full scan."""
        return self.until(lambda f: f.type == "S")

    def told(self) -> list[Frame]:
        """Return everything that happened before this call (and was not returned yet)."""
        self._beats += 1
        name = b"beat.%d" % self._beats
        path = join(join(self.root, b".psync"), name)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
        os.unlink(path)
        return self.until(lambda f: f.type == "B" and f.path == name)[:-1]

    def rescan(self) -> list[Frame]:
        """Ask for a full scan and return its frames."""
        self.process.stdin.write(b"R")
        self.process.stdin.flush()
        return self.scanned()

    def pause(self) -> None:
        """Stop the process, and return when it stands."""
        self.process.send_signal(signal.SIGSTOP)
        deadline = time.monotonic() + PATIENCE_S
        while self._state() != "T":
            assert time.monotonic() < deadline

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def _state(self) -> str:
        status = Path(f"/proc/{self.process.pid}/stat").read_text()
        return status.rpartition(")")[2].split()[0]

    def end(self) -> int:
        """Leave it alone, whatever it was about to say, and return its exit status."""
        self.process.stdin.close()
        self.process.stdout.close()
        status = self.process.wait(PATIENCE_S)
        if not self.process.stderr.closed:
            complaint = self.process.stderr.read()
            self.process.stderr.close()
            assert complaint == b"", complaint.decode()
        return status


def entry_of(st: os.stat_result, owners: bool = True, special: bool = True) -> Entry | None:
    """The entry that a stat shows, by the contract's own words."""
    kind = {stat.S_IFREG: Kind.FILE, stat.S_IFDIR: Kind.DIRECTORY, stat.S_IFLNK: Kind.SYMLINK}.get(
        stat.S_IFMT(st.st_mode)
    )
    if kind is None:
        return None
    mode = 0 if kind == Kind.SYMLINK else st.st_mode & (0o7777 if special else 0o777)
    return Entry(
        kind,
        mode,
        st.st_uid if owners else 0,
        st.st_gid if owners else 0,
        st.st_size if kind == Kind.FILE else 0,
        st.st_mtime_ns,
        b"",
        b"",
        st.st_ino,
        0 if kind == Kind.DIRECTORY else st.st_ctime_ns,
    )


def digests_of(
    root: Path, owners: bool = True, special: bool = True
) -> list[tuple[bytes, bytes, int]]:
    """`(path, digest, entries)` of each directory, in the order of a scan, by descriptors."""
    found = []

    def walk(fd: int, path: bytes) -> None:
        children = []
        for name in sorted(os.listdir(fd), key=os.fsencode):
            raw = os.fsencode(name)
            entry = entry_of(os.stat(raw, dir_fd=fd, follow_symlinks=False), owners, special)
            if entry is not None and not is_ours(join(path, raw)):
                children.append((raw, entry))
        own = entry_of(os.fstat(fd), owners, special)
        found.append((path, directory_digest(own, children), len(children)))
        for name, entry in children:
            if entry.kind == Kind.DIRECTORY:
                child = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
                try:
                    walk(child, join(path, name))
                finally:
                    os.close(child)

    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(10_000)
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        walk(fd, b"")
    finally:
        os.close(fd)
        sys.setrecursionlimit(limit)
    return found


def scanned_digests(frames: list[Frame], live: int = 0) -> list[tuple[bytes, bytes, int]]:
    """The same, as cinotify told it."""
    return [(f.path, *f.fields[1:]) for f in frames if f.type == "D" and f.fields[0] == live]
