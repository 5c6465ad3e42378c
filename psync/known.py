"""Remember what the brain knows already, so that it is not told again.

Most of what an agent hears of is its own work: each transition makes events. And a file
that is listed in a new directory is heard of once more when its own events come. To look
again costs microseconds; to send it again costs both ends much more.

Two memories: `own`, what our transitions left (the brain has it from their results), and
`told`, what was sent last. A look that shows just that says nothing new.

**Invariants.** What is known is known by state: inode, ctime, size and all metadata, and,
where a path was written to, the content as well; never by name or time alone. Wherever
the brain may believe something else by now, it is forgotten. To forget is always right:
the memories save work and nothing depends on them. Bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Optional

from psync.core.entry import Entry, Kind, is_below, join
from psync.wire import APPLIED, PUT, RENAME, Outcome, Transition

__all__ = ["NOT_OURS", "Known", "same_state"]

REMEMBERED_MAX = 16_384
NOT_OURS = Entry(0, 0, 0, 0, 0, 0, b"", b"", 0, 0)  # what `ours` says where we left nothing

_FILE, _DIRECTORY = int(Kind.FILE), int(Kind.DIRECTORY)


def same_state(a: Entry, b: Entry) -> bool:
    """Tell whether two looks at one replica show the same (digests may be known or not)."""
    return a[:7] == b[:7] and a[8:] == b[8:]


class Known:
    """See the module's text."""

    def __init__(self, own: dict[bytes, Optional[Entry]], *, suppress: bool) -> None:
        """Remember nothing yet.

        Args:
            own: what our transitions left, path by path; filled, and bounded, by who applies.
            suppress: whether `own` may keep anything back.
        """
        self._own = own
        self._suppress = suppress
        self._told: dict[bytes, Entry] = {}
        self._made: dict[bytes, set[bytes]] = {}
        self._renames: dict[tuple[bytes, bytes], int] = {}  # ours, to be heard of yet

    def ours(self, path: bytes) -> Optional[Entry]:
        """What our last transition left at a path: `NOT_OURS` if there was none."""
        return self._own.get(path, NOT_OURS) if self._suppress else NOT_OURS

    def shows(self, path: bytes, entry: Entry, *, written: bool) -> bool:
        """Tell whether the brain knows what we see; forget what is outdated by it.

        Equal stats are no proof for a file that was `written` to in the same tick of the
        clock: then the content has to be equal, too.
        """
        if self._suppress:
            ours = self._own.get(path, NOT_OURS)
            if ours is not NOT_OURS:
                if ours is None or not same_state(ours, entry):
                    del self._own[path]
                elif not written or entry.kind != _FILE or ours.digest == entry.digest != b"":
                    return True
        told = self._told.get(path)
        if told is None or not same_state(told, entry):
            return False
        return not written or entry.kind != _FILE or told.digest == entry.digest != b""

    def tell(self, path: bytes, entry: Entry, *, meta_only: bool = False) -> None:
        """The brain is being told; after `meta_only` it still has the content it had."""
        told = self._told
        if meta_only and not entry.digest:
            before = told.get(path)
            if before is not None and before.ino == entry.ino:
                entry = entry._replace(digest=before.digest)
        if len(told) >= REMEMBERED_MAX:
            told.clear()
        told[path] = entry
        ours = self._own.get(path, NOT_OURS)
        if ours is None or (ours is not NOT_OURS and not same_state(ours, entry)):
            del self._own[path]

    def tell_absent(self, path: bytes) -> bool:
        """Nothing is at a path: tell whether the brain has to hear of it."""
        self._told.pop(path, None)
        if self.ours(path) is None:
            return False  # we removed it ourselves
        self._own.pop(path, None)
        return True

    def answer(self, path: bytes, entry: Optional[Entry]) -> None:
        """The brain is told of this in an answer: forget what says otherwise."""
        told = self._told.get(path)
        if told is not None and (entry is None or not same_state(told, entry)):
            del self._told[path]
        ours = self._own.get(path, NOT_OURS)
        if ours is NOT_OURS or ours == entry:
            return
        if ours is None or entry is None or not same_state(ours, entry):
            del self._own[path]

    def forget(self, path: bytes) -> None:
        """Whatever is seen next at this path is news."""
        self._told.pop(path, None)
        self._own.pop(path, None)

    def forget_told(self, path: bytes) -> None:
        """What is seen next at this path is news, unless it is our own work."""
        self._told.pop(path, None)

    def forget_all_told(self) -> None:
        """Whatever is seen next is news, unless it is our own work."""
        self._told.clear()
        self._made.clear()

    def events_lost(self) -> None:
        """Nobody tells of what happened."""
        self.forget_all_told()
        self._renames.clear()

    def directory_moved(self, old: bytes, new: bytes) -> None:
        """All paths below a directory have changed their meaning."""
        self.forget_all_told()
        ours = self._renames.pop((old, new), 0)
        if not ours:
            self._own.clear()
        elif ours > 1:
            self._renames[old, new] = ours - 1

    # --- directories of our own making -----------------------------------------------------

    def applied(self, transitions: Sequence[Transition], outcomes: Sequence[Outcome]) -> None:
        """Transitions were carried out."""
        made = self._made
        if len(made) > REMEMBERED_MAX:
            made.clear()
        for transition, outcome in zip(transitions, outcomes):
            path = transition.path
            self._told.pop(path, None)
            if transition.source:
                self._told.pop(transition.source, None)
            if outcome.status != APPLIED or not self._suppress:
                continue
            if transition.verb == RENAME and outcome.entry is not None:
                self._renamed(transition.source, path, outcome.entry)
            if transition.verb in (PUT, RENAME):
                directory, _, name = path.rpartition(b"/")
                if directory in made:
                    made[directory].add(name)
                wanted = transition.wanted
                if transition.verb == PUT and wanted is not None and wanted.kind == _DIRECTORY:
                    made.setdefault(path, set())

    def _renamed(self, old: bytes, new: bytes, entry: Entry) -> None:
        """We renamed a directory: what we left below its new name before is not there any more."""
        if entry.kind != _DIRECTORY:
            return
        for below in [p for p in self._own if is_below(p, new)]:
            del self._own[below]
        if len(self._renames) > REMEMBERED_MAX:
            self._renames.clear()
        self._renames[old, new] = self._renames.get((old, new), 0) + 1

    def is_our_work(
        self,
        path: bytes,
        entry: Entry,
        names: Sequence[bytes],
        look: Callable[[bytes], Optional[Entry]],
    ) -> bool:
        """Tell whether a directory that appeared is our work, with all in it, and nothing lacks.

        Asked once, when its first listing is due; from then on its events tell.

        Args:
            path: the directory.
            entry: what is there.
            names: all that is in it and is replicated.
            look: gives what is at a name; may raise OSError.
        """
        made = self._made.pop(path, None)
        ours = self.ours(path)
        if made is None or ours is None or not same_state(ours, entry):
            return False
        for name in names:
            left = self._own.get(join(path, name))
            if left is None:
                return False
            try:
                seen = look(name)
            except OSError:
                return False
            if seen is None or not same_state(seen, left):
                return False
        there = set(names)
        return all(name in there or self._own.get(join(path, name)) is None for name in made)
