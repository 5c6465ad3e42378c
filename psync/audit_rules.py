"""What a difference is in an audit, and of what kind.

Each mode leaves something out. *lite*: times, modes, owners, attributes; what is left is what is
there at all, its kind, its size, a link's target. *modified*: what only one side has. *no links*:
symbolic links. *newer*: files in which nothing has changed for so many minutes. *checksum* leaves
out nothing and reads all files of equal size.

A difference is of one of these kinds, the worst first:

    BELIEVED    psync takes the path for equal: it would never mend it
    DIFFERS     psync cannot or may not mend it (a conflict, a problem), or nobody knows better
    UNREADABLE  it cannot be told what a side has there
    ON_ITS_WAY  psync knows, or will see at its next start, and brings it over
    ARRIVED     it was one at the first look and is none any more

**Invariants.** Pure: no I/O, no clock. What is on its way is what `core.reconcile` would do
with what both sides show, not another opinion of it. What a side cannot hold (`Agreed.as_agreed`)
is no difference.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

from psync.core.entry import Agreed, Entry, Kind, Side, printable
from psync.core.reconcile import Verb, View, decide, with_meta_of
from psync.explain import Told

__all__ = [
    "Modes",
    "Verdict",
    "Worth",
    "as_agreed",
    "difference",
    "foresee",
    "is_unchanged",
    "judge",
]

Sides = tuple[Entry | None, Entry | None]


class Modes(NamedTuple):
    """What is asked for.

    Attributes:
        lite: only what is there, its kind and size.
        checksum: read the content of all files of equal size.
        modified: leave out what only one side has.
        no_links: leave out symbolic links.
        newer_min: leave out files without a change within so many minutes; 0: none.
        backup: save what differs.
        threshold: so many differences are an alert.
        extra: rules that hide more than the session's own.
    """

    lite: bool = False
    checksum: bool = False
    modified: bool = False
    no_links: bool = False
    newer_min: float = 0.0
    backup: bool = False
    threshold: int = 10
    extra: tuple[str, ...] = ()

    def sees_all_of(self, other: Modes) -> bool:
        """Tell whether an audit finds all that another would have found."""
        closely = [2 * m.checksum or 1 - m.lite for m in (self, other)]
        return (
            closely[0] >= closely[1]
            and not self.newer_min  # what it looked at then is older by now
            and self.modified <= other.modified
            and self.no_links <= other.no_links
            and set(self.extra) <= set(other.extra)
        )

    def together(self, other: Modes) -> Modes:
        """The modes of an audit that finds all that either would have found, and no more."""
        return self._replace(
            lite=self.lite and other.lite,
            checksum=self.checksum or other.checksum,
            modified=self.modified and other.modified,
            no_links=self.no_links and other.no_links,
            newer_min=0.0,
            extra=tuple(rule for rule in self.extra if rule in other.extra),
        )

    @property
    def words(self) -> str:
        """How closely an audit looks, for people: as on the command line."""
        flags = ("lite", "checksum", "modified", "no_links")
        words = [f"--{key.replace('_', '-')}" for key in flags if getattr(self, key)]
        if self.newer_min:
            words.append(f"--newer {self.newer_min:g}")
        words += [f"without {rule}" for rule in self.extra]
        return ", ".join(words) or "without options"

    def skips(self, left: Entry | None, right: Entry | None, since_ns: Sequence[int]) -> bool:
        """Tell whether a path is left out.

        Args:
            left: what the left has there.
            right: what the right has there.
            since_ns: for each side, by its clock: what has not changed since then is old.
        """
        there = [(side, e) for side, e in zip(Side, (left, right), strict=True) if e is not None]
        if self.modified and len(there) < 2:
            return True
        if self.no_links and all(entry.kind == Kind.SYMLINK for _, entry in there):
            return True
        if not self.newer_min or any(entry.kind == Kind.DIRECTORY for _, entry in there):
            return False
        return all(max(entry.mtime_ns, entry.ctime_ns) < since_ns[side] for side, entry in there)


class Worth(IntEnum):
    """The kinds of differences; see the module's text."""

    ARRIVED = 0
    ON_ITS_WAY = 1
    UNREADABLE = 2
    DIFFERS = 3
    BELIEVED = 4

    @property
    def title(self) -> str:
        """What to call it, for people and programs."""
        return _TITLES[self]


_TITLES = ("arrived", "on its way", "unreadable", "differs", "believed equal")


class Verdict(NamedTuple):
    """What is found at a path: the kind of the difference, and what it is, for people."""

    worth: Worth
    text: str


def difference(
    left: Entry | None, right: Entry | None, *, lite: bool = False, stirred: bool = False
) -> str:
    """Say in a few words how two sides differ; empty: they do not.

    `stirred`: the mtime of a directory does not count, for what is in it differs.
    """
    if left is None or right is None:
        if left is right:
            return ""
        side, there = (Side.RIGHT, right) if left is None else (Side.LEFT, left)
        assert there is not None
        what = "" if there.kind == Kind.FILE else f"{Kind(there.kind).name.lower()}, "
        return f"{what}only on the {side.name.lower()}"
    if left.kind != right.kind:
        return _two("kind", *(Kind(entry.kind).name.lower() for entry in (left, right)))
    told = []
    if left.size != right.size:
        told.append(_two("size", f"{left.size:,}", f"{right.size:,}"))
    elif left.digest and right.digest and left.digest != right.digest:
        told.append("content")
    if left.target != right.target:
        told.append(_two("target", printable(left.target), printable(right.target)))
    if not lite:
        told += _metadata(left, right, stirred=stirred)
    return ", ".join(told)


def _metadata(left: Entry, right: Entry, *, stirred: bool) -> list[str]:
    told = []
    if left.mtime_ns != right.mtime_ns and not (stirred and left.kind == Kind.DIRECTORY):
        told.append(_two("mtime", _time(left.mtime_ns), _time(right.mtime_ns)))
    if left.mode != right.mode:
        told.append(_two("mode", f"{left.mode:04o}", f"{right.mode:04o}"))
    if (left.uid, left.gid) != (right.uid, right.gid):
        told.append(_two("owner", f"{left.uid}:{left.gid}", f"{right.uid}:{right.gid}"))
    if left.xattrs != right.xattrs:
        told.append("attributes")
    return told


def _two(what: str, left: str, right: str) -> str:
    return f"{what} {left} | {right}"


def _time(ns: int) -> str:
    seconds, rest = divmod(ns, 10**9)
    try:
        return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{rest:09d}Z"
    except (OverflowError, ValueError, OSError):
        return f"{seconds}.{rest:09d}"


def as_agreed(sides: Sides, agreed: Agreed | None) -> Sides:
    """What both sides have, with what they cannot hold as agreed."""
    if agreed is None:
        return sides
    left, right = (
        entry and agreed.as_agreed(side, entry) for side, entry in zip(Side, sides, strict=True)
    )
    return left, right


def is_unchanged(first: Sides, second: Sides) -> bool:
    """Tell whether both sides have the same versions at two looks."""
    for one, two in zip(first, second, strict=True):
        if one is None or two is None:
            if one is not two:
                return False
        elif not (one.same_identity(two) and one.same_meta(two)):
            return False
    return True


def foresee(
    sides: Sides, agreed: Agreed | None, *, met: bool, meta_from: Side | None
) -> Verdict | None:
    """Tell what psync will make of a difference when it next looks there.

    Args:
        sides: what both have.
        agreed: what was agreed.
        met: both sides have been compared once.
        meta_from: whose metadata count; None: both sides'.

    Returns:
        Why with a kind; None: it would first read what both sides have, and so must we.
    """
    left, right = sides
    if agreed is not None:  # what is as agreed nothing makes it read
        left, right = (
            entry and _unread(entry, agreed.on(side))
            for side, entry in zip(Side, sides, strict=True)
        )
    decision = decide(agreed, View(left), View(right), trust_times=not met)
    if decision.verb is Verb.COMPARE:  # but the other side's version
        left, right = sides
        decision = decide(agreed, View(left), View(right), trust_times=not met)
    if meta_from is not None:
        decision = with_meta_of(meta_from, decision, agreed, left, right)
    if decision.verb is Verb.COMPARE:
        return None
    if decision.verb in (Verb.NOTHING, Verb.AGREE):
        return Verdict(Worth.BELIEVED, "")
    if decision.conflict:
        return Verdict(Worth.DIFFERS, f"a conflict: {decision.conflict}")
    return Verdict(Worth.ON_ITS_WAY, "")


def _unread(entry: Entry, was: Entry) -> Entry:
    """The entry as psync sees it, which reads nothing that is just as it was."""
    if entry.same_identity(was) and entry.same_meta(was):
        return entry._replace(digest=b"")
    return entry


def judge(told: Told, *, settled: bool, unchanged: bool) -> Verdict | None:
    """Tell what a session that runs says of a difference.

    Args:
        told: what it says of the path.
        settled: between the two looks everything was brought to both sides.
        unchanged: both looks showed the same versions.

    Returns:
        Its kind, and why; None: it does not know of it and has not been able to.
    """
    if told.word == "pending":
        return Verdict(Worth.ON_ITS_WAY, "")
    if told.word:
        return Verdict(Worth.DIFFERS, told.message)
    if not settled:
        return None
    if not unchanged:
        return Verdict(Worth.ON_ITS_WAY, "it changes just now")
    return Verdict(Worth.BELIEVED, "")
