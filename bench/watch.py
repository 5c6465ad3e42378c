"""Learn from the kernel, not by polling, when a name in a directory has come, changed or gone.

**Invariants.** The moment that counts is when the event was read, before anything else is done
about it. What happened before `wait` was called, but after the directory was watched, is not
missed: events wait in the kernel.

It sees one directory, not what is below it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from inotify_simple import INotify, flags

__all__ = ["Names"]

CAME = flags.CREATE | flags.MOVED_TO | flags.CLOSE_WRITE
WENT = flags.DELETE | flags.MOVED_FROM


class Names:
    """What happens to the names in one directory."""

    def __init__(self, directory: Path) -> None:
        self._inotify = INotify()
        self._inotify.add_watch(directory, CAME | WENT)

    def __enter__(self) -> Names:
        return self

    def __exit__(self, *_: object) -> None:
        self._inotify.close()

    def came(self, name: str, complete: Callable[[], bool], within: float = 60.0) -> float:
        """Wait until a name is there and complete; return when (by `time.perf_counter`)."""
        return self._wait(name, CAME, complete, within)

    def went(self, name: str, gone: Callable[[], bool], within: float = 60.0) -> float:
        """Wait until a name is gone; return when."""
        return self._wait(name, WENT, gone, within)

    def forget(self) -> None:
        """Drop what has been waiting to be read."""
        self._inotify.read(timeout=0)

    def _wait(self, name: str, mask: int, holds: Callable[[], bool], within: float) -> float:
        deadline = time.monotonic() + within
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"nothing happened to {name} within {within:g} s")
            events = self._inotify.read(timeout=max(1, int(left * 1000)))
            now = time.perf_counter()
            for event in events:
                if event.name == name and event.mask & mask and holds():
                    return now


def whole(file: Path, content: bytes, mtime_ns: int) -> Callable[[], bool]:
    """Make the question whether a small file is there with content and time."""

    def check() -> bool:
        try:
            fd = os.open(file, os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            return os.read(fd, len(content) + 1) == content and os.fstat(fd).st_mtime_ns == mtime_ns
        finally:
            os.close(fd)

    return check
