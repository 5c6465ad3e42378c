"""Tell which paths the user does not want replicated.

The user gives regular expressions, as to the original: `excludes` for what never leaves
its replica, `tempfiles` for what programs write on their way to the real file. Both are
searched, without regard to case, in the path with a slash in front, so that `/~` means
"a name that begins with ~".

**Invariants.** What is in an ignored directory is ignored: nothing is ever replicated
without the directory that it is in. psync's own names (`core.entry.is_ours`) are always
ignored. The answer depends on the path alone. Memory is bounded.

No I/O, and no opinion on what happens to a file that is renamed into or out of an ignored
name: that is for who observes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from re import Pattern

from psync.core.entry import is_ours
from psync.errors import ConfigError

__all__ = ["Ignore", "compile_patterns"]

_DIRECTORIES_MAX = 8192


def compile_patterns(patterns: Sequence[str], option: str) -> list[Pattern[str]]:
    """Compile the patterns of one option.

    Raises:
        ConfigError: one of them is no regular expression; the message names it.
    """
    compiled = []
    for pattern in patterns:
        try:
            compiled.append(re.compile(pattern, re.IGNORECASE))
        except (re.error, RecursionError, OverflowError) as error:
            raise ConfigError(
                f"the {option} pattern {pattern!r} is no regular expression: {error}"
            ) from None
    return compiled


class Ignore:
    """A compiled set of rules; call it with a path."""

    def __init__(self, excludes: Sequence[str] = (), tempfiles: Sequence[str] = ()) -> None:
        """Compile the rules.

        Raises:
            ConfigError: a pattern is no regular expression.
        """
        patterns = compile_patterns(excludes, "excludes")
        patterns += compile_patterns(tempfiles, "tempfiles")
        self._searches = [p.search for p in patterns]
        self._directories: dict[bytes, bool] = {}
        self._last = (b"", False)  # several events in turn are about one path

    def __call__(self, path: bytes) -> bool:
        """Tell whether a path is ignored; the root never is."""
        last, answer = self._last
        if path == last:
            return answer
        answer = is_ours(path) or (
            bool(self._searches)
            and (self._directory(path.rpartition(b"/")[0]) or self._matches(path))
        )
        self._last = (path, answer)
        return answer

    def _matches(self, path: bytes) -> bool:
        text = "/" + os.fsdecode(path)
        for search in self._searches:  # noqa: SIM110  # any() would cost as much as the search
            if search(text) is not None:
                return True
        return False

    def _directory(self, path: bytes) -> bool:
        """The answer for a directory, remembered; a loop, for a path may be very deep."""
        if not path:
            return False
        memo = self._directories
        known = memo.get(path)
        if known is not None:
            return known
        unknown = [path]
        ignored = False
        while True:
            path = path.rpartition(b"/")[0]
            if not path:
                break
            known = memo.get(path)
            if known is not None:
                ignored = known
                break
            unknown.append(path)
        if len(memo) > _DIRECTORIES_MAX:
            memo.clear()
        for path in reversed(unknown):
            ignored = ignored or self._matches(path)
            memo[path] = ignored
        return ignored
