"""Say what a full sync would do, while the session goes on and does none of it.

Both trees are walked directory by directory, beside all that goes on, and compared with the
archive. What an agent tells for that is no news: nothing is decided by it, and the agent
does not take it for told.

**Invariants.** Nothing is changed, neither a replica nor what the session knows. At most
`LINES_MAX` paths are told of, and `ASKED_MAX` directories are asked for at once on a side.

It is a picture of a moment, or of several: what changes meanwhile may be in it or not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from psync.core.archive import Archive
from psync.core.entry import ROOT, Entry, Kind, Side, ancestors, join, printable, split
from psync.core.reconcile import Decision, Standing, Verb, View, standing
from psync.core.session import Session
from psync.errors import PsyncError
from psync.peer import Peer
from psync.wire import Peek, Peeked

__all__ = ["ASKED_MAX", "LINES_MAX", "Preview"]

ASKED_MAX = 16
LINES_MAX = 10_000

_NOTHING = View(None)


class Preview:
    """One look at both sides; see the module's text."""

    def __init__(
        self,
        session: Session,
        archive: Archive,
        peers: Sequence[Peer],
        number: Callable[[], int],
    ) -> None:
        """Prepare; `lines` does it.

        Args:
            session: says what it would decide; it is only asked.
            archive: its.
            peers: left and right.
            number: gives numbers that are not used twice.
        """
        self._session = session
        self._archive = archive
        self._peers = peers
        self._number = number
        self._shown: tuple[dict[bytes, Entry | None], dict[bytes, Entry | None]] = ({}, {})
        self._troubles: list[str] = []

    async def lines(self) -> tuple[list[str], int]:
        """Look, and say what would be done.

        Returns:
            a line a path, in the order of paths, and how many changes there would be.

        Raises:
            TransportError: a side is away.
            PsyncError: more differs than can be told.
        """
        try:
            async with asyncio.TaskGroup() as group:
                for side in Side:
                    group.create_task(self._walk(side))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        told: list[str] = []
        for path in sorted(self._shown[0].keys() | self._shown[1].keys()):
            told += self._told(path)
        return [*told, *self._troubles], len(told)

    # --- looking -------------------------------------------------------------------------

    async def _walk(self, side: Side) -> None:
        """Compare all of a side with the archive."""
        waiting = [ROOT]
        while waiting:
            some = [waiting.pop() for _ in range(min(ASKED_MAX, len(waiting)))]
            for found in await asyncio.gather(*(self._list(side, path) for path in some)):
                waiting += found

    async def _list(self, side: Side, directory: bytes) -> list[bytes]:
        """Compare a directory; return the directories in it."""
        directories, after = [], b""
        known = dict(self._archive.children(directory))
        while True:
            number = self._number()
            question = Peek(number, directory, after)
            self._peers[side].check_watches()
            answer = await self._peers[side].ask(question, Peeked, number)
            if answer.message:
                where = f"{side.name.lower()} {printable(directory) or 'root'}"
                self._troubles.append(f"cannot look into {where}: {answer.message}")
                return []
            for name, entry, *_ in answer.items:
                base = known.pop(name, None)
                if entry is None:
                    continue
                path = join(directory, name)
                if base is None or standing(base, side, View(entry)) is not Standing.SAME:
                    self._show(side, path, entry)
                if entry.kind == Kind.DIRECTORY:
                    directories.append(path)
            upto = answer.upto
            for name in [n for n in known if upto is None or n <= upto]:
                del known[name]
                self._show(side, join(directory, name), None)
            if upto is None or upto <= after:
                return directories
            after = upto

    def _show(self, side: Side, path: bytes, entry: Entry | None) -> None:
        self._shown[side][path] = entry
        if sum(map(len, self._shown)) > LINES_MAX:
            raise PsyncError(f"more than {LINES_MAX:,} paths differ: psync check counts them")

    # --- telling -------------------------------------------------------------------------

    def _told(self, path: bytes) -> list[str]:
        """Say what would become of a path."""
        left, right = (self._view(side, path) for side in Side)
        decision = self._session.would(path, left, right)
        moved = [self._renamed(side, path) for side in Side]
        if any(moved):
            return [line for line in moved if line and line != _PART_OF_IT]
        return _in_words(path, decision, (left, right))

    def _view(self, side: Side, path: bytes) -> View:
        if path in self._shown[side]:
            return View(self._shown[side][path])
        base = self._archive.get(path)
        gone = any(self._is_gone(side, above) for above in ancestors(path))
        return _NOTHING if base is None or gone else View(base.on(side), True)

    def _is_gone(self, side: Side, path: bytes) -> bool:
        return path in self._shown[side] and self._shown[side][path] is None

    def _renamed(self, side: Side, path: bytes) -> str:
        """The line of a rename on a side, `_PART_OF_IT` at its old path, or nothing."""
        if path not in self._shown[side] or path in self._shown[side.other]:
            return ""
        entry, base = self._shown[side][path], self._archive.get(path)
        if entry is None and base is not None:
            new = self._inodes(side).get((base.kind, base.on(side).ino))
            return _PART_OF_IT if new is not None and new != path else ""
        if entry is None or base is not None:
            return ""
        old = self._archive.find_inode(side, entry.ino)
        was = self._archive.get(old) if old is not None else None
        if old is None or was is None or was.kind != entry.kind:
            return ""
        if not any(self._is_gone(side, each) for each in (old, *ancestors(old))):
            return ""
        directory, name = split(path)
        if split(old)[1] == name and directory and self._renamed(side, directory):
            return _PART_OF_IT
        target = side.other.name.lower()
        return f"would rename {printable(old)} to {printable(path)} on the {target}"

    def _inodes(self, side: Side) -> dict[tuple[int, int], bytes]:
        """Where what is new on a side is, by kind and inode."""
        return {
            (entry.kind, entry.ino): path
            for path, entry in self._shown[side].items()
            if entry is not None and self._archive.get(path) is None
        }


_PART_OF_IT = "\0"  # of another line


def _in_words(path: bytes, decision: Decision, views: tuple[View, View]) -> list[str]:
    shown, verb = printable(path), decision.verb
    target = decision.source.other.name.lower()
    if verb is Verb.COPY:
        assert decision.wanted is not None
        kind = Kind(decision.wanted.kind).name.lower()
        if decision.conflict:
            return [f"would replace {shown} on the {target} and keep it as a conflict"]
        what = "create" if views[decision.source.other].entry is None else "replace"
        return [f"would {what} {kind} {shown} on the {target}"]
    if verb is Verb.REMOVE:
        return [f"would remove {shown} on the {target}"]
    if verb is Verb.ADJUST:
        return [f"would set mode, owner and time of {shown}"]
    if verb is Verb.COMPARE:
        return [f"would compare the contents of {shown}"]
    return []
