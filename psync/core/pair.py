"""The two replicas and all that is known of them: what the parts of a session share.

`moves`, `news`, `carry` and `session` each do one kind of thing to it; none of them has
state of its own that another needs.

**Invariants.** Sides are data: nothing here or there asks which of the two it is.
"""

from __future__ import annotations

from typing import Protocol

from psync.core.archive import Archive
from psync.core.entry import Entry, Kind, Side, below_or_at, is_below, parent, printable
from psync.core.events import Command, Intend, Intent, Limits, Note
from psync.core.flights import Flights
from psync.core.pending import QUIET_ATTEMPTS, Pending
from psync.core.reconcile import View
from psync.core.replica import NOTHING, Link, Replica

__all__ = ["Ignored", "Pair"]


class Ignored(Protocol):
    """Tells which paths are not replicated (`core.ignore`)."""

    def __call__(self, path: bytes, directory: bool | None = None, /) -> bool:
        """Tell it of one; `directory`: whether it is one, None if nobody knows."""


class Pair:
    """See the module's text.

    Attributes:
        survivors: directories that were removed on one side, but something new lives in them
            on the other.
        suspects: paths that have to be looked at again once the operation that they wait for
            is over.
        intents: what was sent by an earlier run, or before a link broke, and may be done.
        renames: the renames among that, by their new path.
        conflicts: the losers kept, by side and name in the conflict store.
        forced: directories that are to be removed with what is in them.
        adopting: what both sides hold at the start is agreed; what differs there is left alone.
        untouched: paths that differ so, as far as is known, and nobody has touched since.
        left_out: paths that are not replicated any more, but at which an operation is under way.
        taken: at which paths a person has chosen a side, and between which versions.
        out: commands that are ready.
    """

    def __init__(
        self,
        archive: Archive,
        limits: Limits,
        first_op: int,
        ignored: Ignored,
    ) -> None:
        self.archive = archive
        self.limits = limits
        self.ignored = ignored
        self.replicas = (
            Replica(Side.LEFT, archive, limits),
            Replica(Side.RIGHT, archive, limits),
        )
        self.pending = Pending()
        self.flights = Flights(first_op)
        self.survivors: set[bytes] = set()
        self.suspects: dict[bytes, None] = {}
        self.intents: dict[bytes, list[Intent]] = {}
        self.renames: dict[bytes, Intent] = {}
        self.conflicts: dict[tuple[Side, bytes], bytes] = {}
        self.taken: dict[bytes, tuple[Side, Entry, Entry]] = {}
        self.adopting = not limits.compare and not archive.count
        self.untouched: set[bytes] = set()
        self.forced: set[bytes] = set()
        self.left_out: set[bytes] = set()
        self.at_most: dict[bytes, Entry] = {}  # what a side has made of metadata, if not all of it
        self.out: list[Command] = []

    def hides(self, path: bytes, entry: Entry | None) -> bool:
        """Tell whether a path is not replicated, as far as what is shown there tells."""
        return self.ignored(path, None if entry is None else entry.kind == Kind.DIRECTORY)

    def replay(self, record: Intend) -> None:
        """Take over what an earlier run has recorded.

        What came to be agreed at a path ends all doubt about what had been meant for it.
        """
        for change in record.agreed:
            self.archive.replay(change)
            self.intents.pop(change.path, None)
            self.renames.pop(change.path, None)
            old = change.moved_from
            for path in [p for p in self.intents if old and below_or_at(p, old)]:
                moved = self.intents.pop(path)
                if path != old:
                    self.intents[change.path + path[len(old) :]] = moved
        for intent in record.intents:
            self.intend(intent)

    def intend(self, intent: Intent) -> None:
        """Remember what may have been done and is not known to be."""
        old = intent.moved_from
        if not old:
            self.intents.setdefault(intent.path, []).append(intent)
            return
        self.renames[intent.path] = intent
        # It may have been renamed, or not: what that side was given at the old names may be at
        # either. (What the other side was given was moved by its user, and proves nothing.)
        for path in [p for p in self.intents if p == old or is_below(p, old)]:
            moved = [each for each in self.intents[path] if each.target == intent.target]
            if moved:
                self.intents.setdefault(intent.path + path[len(old) :], []).extend(moved)

    def note(
        self, event: str, side: Side | None, path: bytes, text: str, moved_from: bytes = b""
    ) -> None:
        """Tell people something."""
        self.out.append(Note(event, side, path, text, moved_from))

    def keep(self, side: Side, path: bytes, kept: bytes, *, fresh: bool = True) -> None:
        """A conflict's loser was kept on a side; people know already unless it is fresh."""
        if not kept or (side, kept) in self.conflicts:
            return
        self.conflicts[side, kept] = path
        if fresh:
            self.note("conflict.kept", side, path, printable(kept))

    def forget_kept(self, side: Side) -> None:
        """A new agent tells of all losers that are kept on a side."""
        for key in [key for key in self.conflicts if key[0] == side]:
            del self.conflicts[key]

    def take_on(self, path: bytes, side: Side, was: Entry, now: Entry) -> None:
        """A version has got other metadata from us: what a person has chosen is the same still."""
        if path in self.taken:
            chosen, *versions = self.taken[path]
            versions[side] = now if versions[side].same_identity(was) else versions[side]
            self.taken[path] = (chosen, versions[0], versions[1])

    def look(self, side: Side, path: bytes, want: int) -> None:
        """Have a path looked at on a side, if somebody is there to do it."""
        replica = self.replicas[side]
        if replica.link == Link.READY:
            replica.look(path, want)

    def look_at_links(self, side: Side, path: bytes, entry: Entry) -> None:
        """What is at a path has changed: of other names that it may have nobody tells.

        A name that is new has moved the ctime of the others; that alone says nothing. Who has
        written through it at once, and put size and time back, is known by what it says. It is
        news as old as the path's: who waits for that one waits for all of them.
        """
        replica, base = self.replicas[side], self.archive.get(path)
        is_known = base is not None and base.on(side).ino == entry.ino
        if replica.link != Link.READY or entry.kind == Kind.DIRECTORY:
            return
        for link in self.archive.find_links(side, entry.ino):
            shown = replica.shows(link)
            if link == path or shown is None or shown.ino != entry.ino:
                continue
            if shown[:7] != entry[:7] or (is_known and shown.ctime_ns != entry.ctime_ns):
                replica.look(link, 0)
            elif entry.digest and shown.digest and entry.digest != shown.digest:
                replica.look(link, 2)
            else:
                continue
            self.pending.touch(link, self.pending.since.get(path))

    def look_at_twins(self, side: Side, path: bytes, shown: Entry) -> None:
        """What comes to be agreed at a path may have another name on a side, which shows another.

        Who has changed it meanwhile has done so by one name, and nobody tells of the other.
        """
        for link in self.archive.find_links(side, shown.ino):
            other = self.replicas[side].shows(link)
            if link == path or other is None or other.ino != shown.ino:
                continue
            if (other[:7], other.ctime_ns) != (shown[:7], shown.ctime_ns):
                for each in (link, path):
                    self.look(side, each, 0)
                    self.pending.touch(each, self.pending.since.get(path))

    def fail(self, path: bytes, side: Side, message: str, *, soon: bool = False) -> int:
        """A path could not be handled; people are told when it does not go away by itself.

        Returns how often that was so.
        """
        attempts = self.pending.fail(path, side, message, soon=soon)
        if attempts == QUIET_ATTEMPTS:
            self.note("problem.raised", side, path, message)
        return attempts

    def is_at_rest(self, path: bytes) -> bool:
        """Tell whether both sides show what was agreed, so that there is nothing to decide."""
        return not any(
            path in replica.views or path in replica.moves or path in replica.awaited
            for replica in self.replicas
        )

    def rest(self, path: bytes) -> None:
        """A path is at rest: both sides show what was agreed."""
        for replica in self.replicas:
            replica.views.pop(path)
            replica.drop_content(path)
            replica.busy.pop(path, None)
            replica.presumed.pop(path, None)
        self.survivors.discard(path)
        self.untouched.discard(path)
        self.forced.discard(path)
        self.suspects.pop(path, None)
        self.intents.pop(path, None)
        self.taken.pop(path, None)
        self.at_most.pop(path, None)
        self.pending.rest(path)

    def leave_out(self, path: bytes) -> None:
        """A path is not replicated any more: both sides keep what they have there.

        Where only directories are hidden, a side may show something else, which is news still.
        """
        shown = [replica.shows(path) for replica in self.replicas]
        self.archive.remove(path)
        for replica in self.replicas:
            replica.answered(path)
            replica.stalled.pop(path, None)
        self.rest(path)
        for replica, entry in zip(self.replicas, shown, strict=True):
            if entry is not None and not self.hides(path, entry):
                replica.views.set(path, View(entry))
                self.pending.touch(path)

    def has_parent(self, path: bytes, target: Side | None) -> bool:
        """Tell whether a path's directory is agreed (and there, on `target`); else see to it.

        The path is held until its directory has come to rest.
        """
        directory = parent(path)
        if not directory:
            return True
        base = self.archive.get(directory)
        if base is None or base.kind != Kind.DIRECTORY:
            self._ask_for_parent(path, directory)
            return False
        if target is not None:
            replica = self.replicas[target]
            if directory not in replica.views and replica.lacks_parent(directory):
                replica.views.set(directory, NOTHING)  # it went with a directory above it
            view = replica.views.get(directory)
            if view is not None and not _is_directory(view.entry):
                # Gone over there, but something in it lives on here: it comes back.
                if directory not in self.survivors:
                    self.survivors.add(directory)
                    self.pending.problems.pop(directory, None)  # the next try is another one: soon
                self.pending.hold(path, directory)
                if directory not in self.pending.asked:
                    self.pending.touch(directory)
                return False
        return True

    def _ask_for_parent(self, path: bytes, directory: bytes) -> None:
        """Something was seen in what is no agreed directory: it is new, or long gone."""
        self.pending.hold(path, directory)
        if directory in self.flights.at or directory in self.pending.dirty:
            return
        if self.pending.waits_for(directory) is not None:
            return  # a chain of them would be decided anew for each that is found
        for replica in self.replicas:
            if directory in replica.views:
                self.pending.touch(directory)
            view = replica.views.get(path)
            if view is None or view.entry is None:
                continue
            if not _is_directory(replica.shows(directory)):
                self.look(replica.side, directory, 0)
                self.look(replica.side, path, 0)


def _is_directory(entry: Entry | None) -> bool:
    return entry is not None and entry.kind == Kind.DIRECTORY
