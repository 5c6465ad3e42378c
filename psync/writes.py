"""Hear of every write to files that are open, by whatever name it is made.

What a file is known by does not tell all: its ctime moves with its names as well as with its
content, its mtime can be put back, and both stand still within a tick of the kernel's clock. So
while a file is being read that is too large to be read twice, the kernel is asked to tell of
writes to it.

**Invariants.** What is said to be unwritten was not written to since it was watched: where the
kernel could not be asked, or has told too much to be kept, nothing is. Stores through a mapping
are not heard of; they move ctime and mtime (`scan.let_stores_show`).
"""

from __future__ import annotations

from typing import Any, NamedTuple, Optional

__all__ = ["Watched", "Writes"]

_MODIFY = 0x2
_OVERFLOW = 0x4000


class Watched(NamedTuple):
    """A file that is watched, and how often it had been written to by then."""

    watch: int
    writes: int


class Writes:
    """See the module's text."""

    def __init__(self) -> None:
        """Watch nothing yet: inotify instances are few, and one is had while it is needed."""
        self._inotify: Any = None
        self._counts: dict[int, int] = {}  # of writes, by watch
        self._users: dict[int, int] = {}  # a file has one watch, however often it is open

    def watch(self, fd: int) -> Optional[Watched]:
        """Begin to hear of writes to an open file; None: that cannot be had."""
        try:
            if self._inotify is None:
                from inotify_simple import INotify

                self._inotify = INotify(nonblocking=True)
            watch: int = self._inotify.add_watch(f"/proc/self/fd/{fd}", _MODIFY)
        except (OSError, ImportError):
            self._end_if_unused()
            return None
        self._users[watch] = self._users.get(watch, 0) + 1
        return Watched(watch, self._counts.setdefault(watch, 0))

    def is_unwritten(self, watched: Watched) -> bool:
        """Tell whether a file has surely not been written to since it was watched."""
        self._listen()
        return self._counts.get(watched.watch) == watched.writes

    def forget(self, watched: Optional[Watched]) -> None:
        """Hear no more of a file; it is open still."""
        if watched is None:
            return
        watch = watched.watch
        self._users[watch] -= 1
        if self._users[watch]:
            return
        del self._users[watch]
        self._counts.pop(watch, None)
        try:
            self._inotify.rm_watch(watch)
        except OSError:
            pass  # its file system is gone
        self._end_if_unused()

    def close(self) -> None:
        """Hear of nothing any more."""
        if self._inotify is not None:
            self._inotify.close()
            self._inotify = None
        self._counts.clear()
        self._users.clear()

    def _listen(self) -> None:
        for watch, mask, _, _ in self._inotify.read(timeout=0):
            if mask & _OVERFLOW:
                self._counts = {each: count + 1 for each, count in self._counts.items()}
            elif mask & _MODIFY and watch in self._counts:
                self._counts[watch] += 1

    def _end_if_unused(self) -> None:
        if not self._users:
            self.close()
