"""Which directories of one replica have to be looked at, after a scan of all of it.

A scan names every directory with a digest. One whose digest is the archive's is as it was
agreed, whatever is in it, and is not looked at; the others are listed, parents first, a
bounded number at a time.

**Invariants.** A directory that is `pending` may hold changes that nobody has seen: nothing
in it is decided but names that both sides' listings have passed already, so that no giant
directory has to be held in memory. Every pending directory is answered by a listing or by
trouble, or the side goes down. A newer scan replaces an older one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from psync.core.archive import Archive
from psync.core.entry import ROOT, ancestors, is_below

__all__ = ["Survey"]

OUTSTANDING_MAX = 64


class Survey:
    """The state of one side's scan and of the listings that follow it."""

    def __init__(self, side: int, archive: Archive) -> None:
        self._side = side
        self._archive = archive
        self.generation = 0
        self._scanning = False
        self._comparing = False
        self._digests: dict[bytes, bytes] = {}
        self._queue: deque[bytes] = deque()
        self._outstanding: set[bytes] = set()
        self._forced: set[bytes] = set()
        self._deep: set[bytes] = set()
        self._passed: dict[bytes, bytes] = {}  # how far the listings of pending ones have come
        self.pending: set[bytes] = set()

    def reset(self) -> None:
        """Forget everything: the side is gone or scans anew."""
        self.generation = 0
        self._scanning = self._comparing = False
        self._digests.clear()
        self._queue.clear()
        self._outstanding.clear()
        self._forced.clear()
        self._deep.clear()
        self._passed.clear()
        self.pending.clear()

    @property
    def comparing(self) -> bool:
        """Tell whether what a scan has found is still being listed."""
        return self._comparing and bool(self.pending)

    def ask(self, path: bytes, *, deep: bool = False) -> None:
        """List a directory, whatever its digest says; `deep`: and all directories in it."""
        self._passed.pop(path, None)
        self._forced.add(path)
        self.pending.add(path)
        self._queue.append(path)
        if deep:
            self._deep.add(path)

    def found(self, directory: bytes, path: bytes) -> None:
        """A listing of `directory` shows a directory at `path`."""
        if directory in self._deep:
            self.ask(path, deep=True)

    def is_asked(self, path: bytes) -> bool:
        """Tell whether a directory is to be listed for another reason than a scan's."""
        return path in self._forced

    def has_found(self, path: bytes) -> bool:
        """Tell whether the scan whose findings are being listed has found a directory at a path."""
        return path in self._digests

    def again(self, top: bytes) -> None:
        """A directory has been listed before it was known what to compare it with: do it anew."""
        if not self._digests:
            self.ask(top, deep=True)
            return
        for path in sorted(self._digests):
            if (path == top or is_below(path, top)) and path not in self.pending:
                if not self._as_agreed(path):
                    self.ask(path)

    def begin(self, generation: int, *, keep: bool = False) -> None:
        """A scan begins; it replaces an older one, and, unless `keep`, what was to be listed."""
        if not keep:
            self.reset()
        self._digests.clear()
        self._scanning = True
        self.generation = generation

    def scanned(self, directories: list[tuple[bytes, bytes]]) -> None:
        """Take digests of the scan that is going on."""
        self._digests.update(directories)

    def finish(self, *, compare: bool = True) -> None:
        """The scan is over: find out what to list (nothing, if not to be compared)."""
        self._scanning = False
        if compare:
            self._digests.setdefault(ROOT, b"")
            for path in sorted(self._digests):
                if not self._as_agreed(path):
                    self._queue.append(path)
                    self.pending.add(path)
            self._comparing = True
        else:
            self._digests.clear()

    def _as_agreed(self, path: bytes) -> bool:
        digest = self._digests.get(path)
        return bool(path and digest) and self._archive.digest(self._side, path) == digest

    def next(self) -> list[bytes]:
        """The directories to list now.

        What a rename has brought in line meanwhile is passed over; such directories are no
        longer pending.
        """
        paths: list[bytes] = []
        while self._queue and len(self._outstanding) < OUTSTANDING_MAX:
            path = self._queue.popleft()
            if path not in self.pending or path in self._outstanding:
                continue
            if path not in self._forced and self._as_agreed(path):
                self.pending.discard(path)
                continue
            self._outstanding.add(path)
            paths.append(path)
        if not self.pending:
            self._comparing = False
            if not self._scanning:
                self._digests.clear()
        return paths

    def hides(self, directory: bytes, name: bytes) -> bool:
        """Tell whether a name may be news that its directory's listing has not come to yet."""
        return directory in self.pending and name > self._passed.get(directory, b"")

    def passed(self, path: bytes, after: bytes, upto: bytes) -> None:
        """The listing of a directory has told of all names in `after < name <= upto`."""
        if path in self.pending and after in (b"", self._passed.get(path)):
            self._passed[path] = upto

    def listed(self, path: bytes, after: bytes = b"") -> None:
        """A directory has been listed to its end, or cannot be.

        What comes `after` a name that the listing has not come to is the end of one that began
        before the directory was asked for again: it has to be listed once more.
        """
        self._outstanding.discard(path)
        if after and path in self.pending and after != self._passed.get(path):
            self._queue.append(path)
            return
        self._forced.discard(path)
        self._deep.discard(path)
        self._passed.pop(path, None)
        self.pending.discard(path)

    def leave_out(self, hidden: Callable[[bytes], bool]) -> list[bytes]:
        """List none of the directories that are hidden now; return those that were to be."""
        dropped = [path for path in self.pending if path and hidden(path)]
        self.pending.difference_update(dropped)
        self._forced.difference_update(dropped)
        self._deep.difference_update(dropped)
        for path in dropped:
            self._passed.pop(path, None)
        return dropped

    def moved(self, old: bytes, new: bytes) -> None:
        """A directory was renamed on this side: what is pending in it is pending there now.

        What has been asked under the old name is asked again; so is all of it that a deep
        listing of what it was in has not come to.
        """

        def there(path: bytes) -> bytes:
            return new + path[len(old) :] if path == old or is_below(path, old) else path

        asked = [path for path in self._outstanding if there(path) != path]
        self._outstanding.difference_update(asked)
        self._queue = deque(there(p) for p in [*self._queue, *sorted(asked)])
        self._forced = {there(p) for p in self._forced}
        self._deep = {there(p) for p in self._deep}
        self._passed = {p: name for p, name in self._passed.items() if there(p) == p}
        self.pending = {there(p) for p in self.pending}
        self._digests = {there(p): d for p, d in self._digests.items()}
        if not self._deep.isdisjoint(ancestors(old)):
            self.ask(new, deep=True)
