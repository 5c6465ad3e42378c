"""Operations under way: decisions that are being carried out on one side.

**Invariants.** What stands at a path of an operation under way is decided again only when
that is over (both sides may be adjusted at once, that is one decision). Nothing below a
directory is decided while it is being renamed. Numbers are never used twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from psync.core.entry import Entry, Kind, Side, ancestors
from psync.core.reconcile import Decision
from psync.wire import META, RENAME, RMDIR, Transition

__all__ = ["Flights", "Op"]


class Op(NamedTuple):
    """A decision being carried out on one side.

    Attributes:
        number: the transition's `op`.
        side: where.
        path: at which path; of a rename the new one.
        transition: what the agent is told.
        decision: what it is for.
        shown: what the other side showed when it was decided.
        sequence: how far observations had come then.
        intact: of a rename, the content that moved is the agreed one; of metadata, there is
            no other content to follow.
    """

    number: int
    side: Side
    path: bytes
    transition: Transition
    decision: Decision
    shown: Entry | None
    sequence: int
    intact: bool

    @property
    def is_rename(self) -> bool:
        """Tell whether it takes something away from another path."""
        return self.transition.verb == RENAME

    @property
    def doomed(self) -> int:
        """The inode that it takes away for good, on its side; 0: none."""
        transition = self.transition
        expected = transition.expected
        if expected is None or transition.verb == META or expected.kind == Kind.DIRECTORY:
            return 0
        return expected.ino


class Flights:
    """See the module's text."""

    def __init__(self, first: int) -> None:
        self._next = first
        self.ops: dict[int, Op] = {}
        self.at: dict[bytes, int] = {}  # how many at a path
        self.transfers: set[int] = set()  # operations whose content is still to be brought
        self._void: set[int] = set()
        self._doomed: tuple[dict[int, list[bytes]], dict[int, list[bytes]]] = ({}, {})
        self.locked: dict[bytes, int] = {}  # names that a rename is taking away or giving
        self.removing: set[bytes] = set()  # directories that are being removed

    def begin(
        self,
        side: Side,
        transition: Transition,
        decision: Decision,
        shown: Entry | None,
        sequence: int,
        *,
        intact: bool = False,
    ) -> Op:
        """Number an operation; it is under way from now on."""
        number, path = self._next, transition.path
        self._next += 1
        transition = Transition(number, *transition[1:])
        op = Op(number, side, path, transition, decision, shown, sequence, intact)
        self.ops[number] = op
        if op.doomed:
            self._doomed[side].setdefault(op.doomed, []).append(path)
        self.at[path] = self.at.get(path, 0) + 1
        if transition.verb == RMDIR:
            self.removing.add(path)
        return op

    def end(self, op: Op) -> bool:
        """An operation is over; tell whether it was the last at its path."""
        del self.ops[op.number]
        if op.doomed:
            doomed = self._doomed[op.side]
            doomed[op.doomed].remove(op.path)
            if not doomed[op.doomed]:
                del doomed[op.doomed]
        self.transfers.discard(op.number)
        if op.transition.verb == RMDIR:
            self.removing.discard(op.path)
        self._void.discard(op.number)
        left = self.at[op.path] - 1
        if left:
            self.at[op.path] = left
            return False
        del self.at[op.path]
        return True

    def void_all(self) -> None:
        """What the operations under way were made from may be gone: they prove nothing."""
        self._void.update(self.ops)

    def is_void(self, op: Op) -> bool:
        """Tell whether the success of an operation says nothing of the other side."""
        return op.number in self._void

    def find(self, wanted: Callable[[Op], bool]) -> Op | None:
        """The first operation of which something is true."""
        return next((op for op in self.ops.values() if wanted(op)), None)

    def doom(self, side: Side, entry: Entry | None) -> list[bytes]:
        """The paths of operations that take away what a side shows somewhere."""
        doomed = self._doomed[side]
        return doomed.get(entry.ino, []) if doomed and entry is not None else []

    # --- renames -------------------------------------------------------------------------

    def lock(self, *names: bytes) -> None:
        """Names are about to change their meaning."""
        for name in names:
            self.locked[name] = self.locked.get(name, 0) + 1

    def unlock(self, *names: bytes) -> None:
        """They have (or have not)."""
        for name in names:
            left = self.locked.pop(name) - 1
            if left:
                self.locked[name] = left

    def lock_above(self, path: bytes) -> bytes | None:
        """The locked name that a path is or is in."""
        if self.locked:
            for above in (path, *ancestors(path)):
                if above in self.locked:
                    return above
        return None
