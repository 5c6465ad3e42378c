"""A replica on a real file system, as its agent changes it and as users do."""

from __future__ import annotations

import json
import os
import stat
import time
from pathlib import Path

from psync.core.entry import Entry, Kind, content_digest
from psync.helpers import Helpers
from psync.scan import entry_at
from psync.wire import DELETE, META, PUT, RENAME, RMDIR, Outcome, Transition
from psync.xattrs import Attributes

__all__ = ["QUARANTINE_S", "Replica", "directory", "file", "link"]

QUARANTINE_S = 60.0
MTIME_NS = 1_700_000_000_123_456_789


def file(content: bytes, mode: int = 0o644, mtime_ns: int = MTIME_NS) -> Entry:
    """The entry of a file that is wanted."""
    digest = content_digest(content)
    return Entry(Kind.FILE, mode, 0, 0, len(content), mtime_ns, b"", digest, 0, 0)


def directory(mode: int = 0o755, mtime_ns: int = MTIME_NS) -> Entry:
    """The entry of a directory that is wanted."""
    return Entry(Kind.DIRECTORY, mode, 0, 0, 0, mtime_ns, b"", b"", 0, 0)


def link(target: bytes, mtime_ns: int = MTIME_NS) -> Entry:
    """The entry of a symlink that is wanted."""
    return Entry(Kind.SYMLINK, 0, 0, 0, 0, mtime_ns, target, b"", 0, 0)


class Replica:
    """A root with helpers that serve it, on a clock that only moves when told to."""

    def __init__(
        self,
        root: Path,
        *,
        owners: bool = False,
        strip: bool = True,
        strict: bool = False,
        prepare: bool = True,
        keep_both: bool = False,
        for_trash: tuple[str, ...] = (),
        xattrs: bool = False,
    ) -> None:
        self.root = root
        self.path = os.fsencode(root)
        self.fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        self.now = 1000.0
        self.lines: list[str] = []
        self.owners, self.strip = owners, strip
        self._op = 0
        self.attributes = Attributes(owners=owners, strip=strip) if xattrs else None
        self.helpers = Helpers(
            self.fd,
            owners=owners,
            strip_special_bits=strip,
            strict=strict,
            quarantine_ms=int(QUARANTINE_S * 1000),
            log=lambda level, line: self.lines.append(line),
            attributes=self.attributes,
            now=lambda: self.now,
            keep_both=keep_both,
            for_trash=for_trash,
        )
        if prepare:
            self.helpers.prepare("pair", 0)
            self.helpers.recover()

    def close(self) -> None:
        self.helpers.close()
        os.close(self.fd)

    # --- transitions

    def apply(self, *transitions: Transition) -> list[Outcome]:
        return self.helpers.apply(list(transitions))

    def op(self) -> int:
        self._op += 1
        return self._op

    def put(self, path, wanted, content=None, expected=None, keep=False, source=b"") -> Transition:
        return Transition(
            self.op(), PUT, path, expected, wanted, source, content=content, keep=keep
        )

    def delete(self, path, expected, keep=False) -> Transition:
        return Transition(self.op(), DELETE, path, expected, None, keep=keep)

    def rmdir(self, path, expected, keep=False) -> Transition:
        return Transition(self.op(), RMDIR, path, expected, None, keep=keep)

    def meta(self, path, expected, wanted) -> Transition:
        return Transition(self.op(), META, path, expected, wanted)

    def rename(self, source, source_expected, path, expected=None, keep=False) -> Transition:
        return Transition(
            self.op(), RENAME, path, expected, None, source, source_expected, keep=keep
        )

    # --- what users do and see

    def __truediv__(self, path: bytes) -> Path:
        return self.root / os.fsdecode(path)

    def write(self, path: bytes, content: bytes, mode: int = 0o644) -> Entry:
        """Write a file as a user does; return what a look shows."""
        target = self / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        target.chmod(mode)
        return self.look(path)

    def look(self, path: bytes) -> Entry:
        """Look at what is there, with the digest of a file that can be read."""
        head, _, name = path.rpartition(b"/")
        fd = os.open(self.path + b"/" + head, os.O_PATH | os.O_DIRECTORY)
        try:
            entry = entry_at(
                fd, name, owners=self.owners, strip=self.strip, attributes=self.attributes
            )
        finally:
            os.close(fd)
        assert entry is not None, path
        if entry.kind == Kind.FILE and os.access(self / path, os.R_OK):
            entry = entry._replace(digest=content_digest((self / path).read_bytes()))
        return entry

    def tree(self) -> dict[bytes, bytes]:
        """Everything that users see: content of files, `-> text` of links, `/` for directories."""
        found: dict[bytes, bytes] = {}
        for at, directories, files in os.walk(self.path):
            if at == self.path:
                directories.remove(b".psync")
            for name in directories + files:
                path = os.path.join(at, name)
                mode = os.lstat(path).st_mode
                if stat.S_ISLNK(mode):
                    text = b"-> " + os.readlink(path)
                elif stat.S_ISDIR(mode):
                    text = b"/"
                else:
                    text = Path(os.fsdecode(path)).read_bytes()
                found[path[len(self.path) + 1 :]] = text
        return found

    # --- psync's own

    def conflicts(self, name: str = "conflicts") -> dict[bytes, tuple[bytes, str]]:
        """What a store holds: path -> content of a file (`/` for others), reason."""
        store = self.root / ".psync" / name
        found = {}
        for note in store.glob("*.json"):
            told = json.loads(note.read_text())
            kept = note.with_suffix("")
            content = kept.read_bytes() if kept.is_file() and not kept.is_symlink() else b"/"
            found[bytes.fromhex(told["path_hex"])] = (content, told["reason"])
        assert len(list(store.iterdir())) == 2 * len(list(store.glob("*.json")))
        return found

    def finish(self) -> None:
        """Let quarantine run out, however often somebody is still writing."""
        deadline = time.monotonic() + 10
        while (delay := self.helpers.tick()) is not None:
            assert time.monotonic() < deadline, "quarantine never ends"
            self.now += delay

    def leftovers(self) -> list[str]:
        """Everything that a quiet replica has no more in `.psync`."""
        control = self.root / ".psync"
        found = [str(p) for part in ("stage", "quarantine") for p in (control / part).iterdir()]
        if (control / "journal").stat().st_size:
            found.append("journal")
        return found
