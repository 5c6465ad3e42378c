"""Tell which paths the user does not want replicated.

There are two lists of rules (`core.patterns`): `excludes` for what never leaves its replica,
`tempfiles` for what programs write on their way to the real file. Within a list the last
rule that matches counts, so that `!name` takes out of what came before it; each list hides by
itself.

**Invariants.** What is in an ignored directory is ignored, and no rule brings it back:
nothing is ever replicated without the directory that it is in. psync's own names
(`core.entry.is_ours`) are always ignored. The answer depends on the path, and on whether it
is a directory, alone; where nobody knows that yet, only what is ignored either way is.
Memory is bounded.

No I/O, and no opinion on what happens to a file that is renamed into or out of an ignored
name: that is for who observes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any, Callable, Optional

from psync.core.entry import is_ours
from psync.core.patterns import Rule, parse
from psync.errors import ConfigError

__all__ = ["Ignore", "is_pruned"]

_DIRECTORIES_MAX = 8192

_Match = Callable[[bytes, bytes], bool]  # a path, and its last name


class _Run:
    """Rules that follow each other and say the same: one of them is enough."""

    def __init__(self, rules: list[Rule]) -> None:
        self.ignores = rules[0].ignores
        self.matches = _compile([rule for rule in rules if not rule.directory])
        directories = [rule for rule in rules if rule.directory]
        self.matches_directory = _compile(directories) if directories else None


class Ignore:
    """A compiled set of rules; call it with a path.

    Attributes:
        by_kind: some rule is about directories only.
        by_path: some rule is about more than a name.
        pruned: every directory of such a name is ignored, wherever it is: `x`, `*x` or `x*`.
    """

    def __init__(self, excludes: Sequence[str] = (), tempfiles: Sequence[str] = ()) -> None:
        """Compile the rules.

        Raises:
            ConfigError: a pattern is none; the message names it.
        """
        lists = [_parse_all(excludes, "excludes"), _parse_all(tempfiles, "tempfiles")]
        self._lists = [_runs(rules) for rules in lists if rules]
        self.by_kind = any(rule.directory for rules in lists for rule in rules)
        self.by_path = any(not rule.name for rules in lists for rule in rules)
        self.pruned = tuple(glob for rules in lists for glob in _pruned(rules))
        self._directories: dict[bytes, bool] = {}
        self._last: tuple[bytes, Optional[bool], bool] = (b"", None, False)

    def __call__(self, path: bytes, directory: Optional[bool] = None) -> bool:
        """Tell whether a path is ignored; the root never is.

        Args:
            path: relative to the root.
            directory: whether it is a directory; None: nobody knows.
        """
        last, kind, answer = self._last  # several events in turn are about one path
        if path == last and directory is kind:
            return answer
        answer = is_ours(path) or (
            bool(self._lists)
            and (self._above(path.rpartition(b"/")[0]) or self._matches(path, directory))
        )
        self._last = (path, directory, answer)
        return answer

    def _matches(self, path: bytes, directory: Optional[bool]) -> bool:
        if directory is None:
            return self._hides(path, False) and (not self.by_kind or self._hides(path, True))
        return self._hides(path, directory)

    def _hides(self, path: bytes, directory: bool) -> bool:
        """Ask the rules for one path by itself."""
        if not path:
            return False
        name = path[path.rfind(b"/") + 1 :]
        for runs in self._lists:
            for run in runs:
                if run.matches(path, name) or (
                    directory and run.matches_directory and run.matches_directory(path, name)
                ):
                    if run.ignores:
                        return True
                    break
        return False

    def _above(self, path: bytes) -> bool:
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
            ignored = ignored or self._hides(path, True)
            memo[path] = ignored
        return ignored


def _parse_all(patterns: Sequence[str], option: str) -> list[Rule]:
    rules = []
    for pattern in patterns:
        try:
            rules.append(parse(pattern))
        except ValueError as error:
            raise ConfigError(f"the {option} pattern {pattern!a} {error}") from None
    return rules


def _pruned(rules: list[Rule]) -> Iterator[bytes]:
    """What hides by a literal name, and is not taken back: no later rule counts more."""
    for rule in reversed(rules):
        if not rule.ignores:
            return
        if rule.name and not rule.wild:
            yield b"*" * rule.before + rule.text + b"*" * rule.after


def is_pruned(path: bytes, pruned: Sequence[bytes]) -> bool:
    """Tell whether a directory has one of the names that `Ignore.pruned` gives."""
    name = path[path.rfind(b"/") + 1 :]
    return any(fnmatchcase(name, each) for each in pruned)


def _runs(rules: list[Rule]) -> list[_Run]:
    """Group rules, the last first, which is the order in which they count."""
    groups: list[list[Rule]] = []
    for rule in rules:
        if groups and groups[-1][0].ignores == rule.ignores:
            groups[-1].append(rule)
        else:
            groups.append([rule])
    return [_Run(group) for group in reversed(groups)]


def _compile(rules: list[Rule]) -> _Match:
    """Make one test of many rules: what is common costs no regular expression."""
    of_names = [rule for rule in rules if rule.name and not rule.wild]
    names = frozenset(r.text for r in of_names if not (r.before or r.after))
    ends = tuple(r.text for r in of_names if r.before)
    begins = tuple(r.text for r in of_names if r.after)
    name_like = _any_of([rule.text for rule in rules if rule.name and rule.wild])
    path_like = _any_of([rule.text for rule in rules if not rule.name and rule.wild])
    searches = [rule.expression.search for rule in rules if rule.expression is not None]

    def matches(path: bytes, name: bytes) -> bool:
        if name in names or name.endswith(ends) or name.startswith(begins):
            return True
        if name_like is not None and name_like(name) is not None:
            return True
        if path_like is not None and path_like(path) is not None:
            return True
        if searches:
            text = "/" + path.decode("utf-8", "surrogateescape")
            for search in searches:
                if search(text) is not None:
                    return True
        return False

    return matches


def _any_of(texts: list[bytes]) -> Optional[Callable[[bytes], Any]]:
    if not texts:
        return None
    return re.compile(b"|".join(b"(?:%s)" % text for text in texts), re.DOTALL).fullmatch
