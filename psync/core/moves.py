"""Carry renames over as renames: a moved tree costs one operation, and no bytes.

An agent that sees a rename says so (a *hint*); a scan that finds an agreed inode under another
name may *guess* one. Either is only that: it is carried over if the path it came from is
still what was agreed, here and there, and nothing is in the way. If it is not, then
something is gone at one path and new at another, and is dealt with as such.

**A directory's hint speaks of one name and means all that is in it.** Whatever the side
says next, it says of the new paths; whatever it said before was of the old ones. So its
talk waits (`Replica.turning`) until the archive has been renamed, too, or it is certain
that it will not be; then the directory is listed where it is now. What talk waits for
must not itself wait for that talk: a directory's rename waits for operations of the other
side, and for nothing else, and only one at a time is waited for; a rename that cannot be
waited for is treated as one that was found.

What both sides have done already is followed in the archive alone. So are our own renames
of which an interruption kept us from hearing (`recall`): else they would be taken for a
user's, and done to the very one whose renames they follow.

**Invariants.** A hint that is wrong costs a transfer, never a file: the agent over there
renames only what is as agreed. After a directory's rename, or instead of it, what is in
the directory is either known or asked for.
"""

from __future__ import annotations

from psync.core.entry import (
    ROOT,
    Agreed,
    Entry,
    Kind,
    Side,
    ancestors,
    below_or_at,
    is_below,
    parent,
)
from psync.core.flights import Op
from psync.core.pair import Pair
from psync.core.recall import Recall
from psync.core.reconcile import COPIED_FIELDS, Decision, Verb, View
from psync.core.replica import Link, Move, Replica
from psync.wire import META_ONLY, RENAME, Item, Outcome, Transition

__all__ = ["Moves"]

_RENAME = Decision(Verb.NOTHING)


class Moves:
    """See the module's text."""

    def __init__(self, pair: Pair, recall: Recall) -> None:
        self._pair = pair
        self._recall = recall
        self._archive = pair.archive
        self._pending = pair.pending
        self._flights = pair.flights
        self._replicas = pair.replicas

    # --- what is heard of renames --------------------------------------------------------

    def hint(self, replica: Replica, item: Item) -> None:
        """An agent saw a rename: remember it until it is decided."""
        old, new, entry = item.moved_from, item.path, item.entry
        hides = self._pair.hides
        if entry is None or hides(new, entry):
            return
        earlier = replica.moves.get(old)
        chained = earlier is not None and (earlier.hinted or entry.kind == Kind.FILE)
        if earlier is not None and chained and earlier.entry.ino == entry.ino:
            self._forget(replica, old)
            self._pending.touch(old)
            old = earlier.old
        else:
            earlier = None
        base = self._archive.get(old)
        if base is None and self._is_on_its_way(replica, old, item, earlier):
            return
        if base is None or hides(old, entry) or not self._is_agreed(replica, old, base, entry):
            if entry.kind == Kind.DIRECTORY:
                self._lose_track(replica, old, new)
            return
        was = replica.view(old, base)
        agreed = base.on(replica.side)
        same = entry.size == agreed.size and entry.mtime_ns == agreed.mtime_ns
        intact = bool(item.flags & META_ONLY) and was.intact and same and replica.knows(old)
        self._remember(replica, new, Move(old, entry, intact, hinted=True))
        if was.entry is not None and was.entry.ino == entry.ino:
            replica.views.set(old, View(None))
            self._pending.touch(new)
            self._pending.touch(old)
        if entry.kind == Kind.DIRECTORY:
            replica.turning = new
            if not self._may_wait(replica, old, new):
                self.wait_no_more(replica)

    def _is_on_its_way(
        self, replica: Replica, old: bytes, item: Item, earlier: Move | None
    ) -> bool:
        """Remember a further rename of what is just being renamed over there.

        Whoever wrote to it in between may have put the time back: it must show what it showed
        when it was renamed last.
        """
        op = self._flights.find(lambda op: op.path == old and op.side != replica.side)
        entry = item.entry
        if op is None or not op.is_rename or op.shown is None or entry is None:
            return False
        if op.shown.kind != Kind.FILE or op.shown.ino != entry.ino:
            return False
        last, intact = (earlier.entry, earlier.intact) if earlier else (op.shown, op.intact)
        shown = replica.shows(item.moved_from)
        same = entry.size == last.size and entry.mtime_ns == last.mtime_ns
        intact = intact and bool(item.flags & META_ONLY) and same and last.same_identity(shown)
        self._remember(replica, item.path, Move(old, entry, intact, hinted=True))
        if shown is not None and shown.ino == entry.ino:
            replica.views.set(item.moved_from, View(None))  # it may be told as gone later
        return True

    def _is_agreed(self, replica: Replica, old: bytes, base: Agreed, entry: Entry) -> bool:
        """Tell whether what was renamed is what was agreed at its old path."""
        if base.on(replica.side).ino != entry.ino or base.kind != entry.kind:
            return False
        if base.kind != Kind.DIRECTORY:
            return True
        # What is believed below the old path must be of this directory, and not be that all of
        # it is gone, because the path was found empty before the rename was heard of.
        shown = replica.shows(old)
        return shown is not None and shown.ino == entry.ino

    def _may_wait(self, replica: Replica, old: bytes, new: bytes) -> bool:
        """Tell whether the talk of a side may wait for a directory's rename to be settled."""
        if self._replicas[replica.side.other].turning:
            return False
        return (
            self._flights.find(
                lambda op: (
                    op.side == replica.side
                    and (below_or_at(op.path, old) or below_or_at(op.path, new))
                )
            )
            is None
        )

    def guess(self, replica: Replica, path: bytes, entry: Entry) -> None:
        """A new name was found: it may be an agreed inode that was elsewhere.

        Or one whose number was given again, as it is at once: so a directory whose content has
        changed as well is not taken for one that was renamed; the files in it may be.
        """
        old = self._archive.find_inode(replica.side, entry.ino)
        base = self._archive.get(old) if old else None
        if old is None or base is None or old == path or base.kind != entry.kind:
            return
        if entry.size != base.size or entry.mtime_ns != base.on(replica.side).mtime_ns:
            return
        self._remember(replica, path, Move(old, entry, intact=False, hinted=False))

    def _remember(self, replica: Replica, new: bytes, move: Move) -> None:
        if new in replica.moves:
            self._forget(replica, new)
        replica.moves[new] = move
        replica.leaving[move.old] = new

    @property
    def any(self) -> bool:
        """Tell whether there are renames to be carried over."""
        return any(replica.moves for replica in self._replicas)

    def first(self, dirty: dict[bytes, None]) -> dict[bytes, None]:
        """Put the new paths of renames first: once the old ones are removed it is too late."""
        if not self.any:
            return dirty
        moved = []
        for replica in self._replicas:
            moves, leaving = replica.moves, replica.leaving
            for path in dirty:
                if path in moves:
                    moved.append(path)
                new = leaving.get(path, path)
                if new in moves and path not in replica.awaited:
                    if moves[new].asked or self._recall.is_open(path):
                        moved.append(new)
        return dict.fromkeys([*moved, *dirty])

    # --- what waits for renames ------------------------------------------------------------

    def holder(self, path: bytes) -> bytes | None:
        """The new path of a rename that has to be settled before a path is decided."""
        for unsure, intent in self._pair.renames.items():
            if below_or_at(path, unsure) or below_or_at(path, intent.moved_from):
                return unsure
        for replica in self._replicas:
            if replica.turning:
                old = replica.moves[replica.turning].old
                if below_or_at(path, replica.turning) or below_or_at(path, old):
                    return replica.turning
            new = replica.leaving.get(path)
            if new is not None and self._goes_on(replica, path, new):
                return new
        return None

    def _goes_on(self, replica: Replica, old: bytes, new: bytes) -> bool:
        """Tell whether a rename waits for nothing but results: then its old path waits for it.

        Or for its directory, which nobody at the old path waits for; or for another that does,
        of what is at its new path (`_is_to_leave`).
        """
        if new not in replica.moves or replica.shows(old) is not None:
            return False
        flights, waits_for = self._flights, self._pending.waits_for
        stalled = self._replicas[replica.side.other].stalled
        way: list[bytes] = [old]
        each: bytes | None = new
        while each is not None and each not in way:
            if each in flights.at or each in flights.locked or each in stalled:
                return True
            if waits_for(each) == parent(each) != parent(way[-1]):
                return True
            if any(below_or_at(op.path, way[-1]) for op in flights.ops.values()):
                return True
            way.append(each)
            further = replica.leaving.get(each)
            each = further if waits_for(each) == further else None
        return False

    def untangle(self, path: bytes) -> None:
        """Give up a rename for which, in the end, it has to wait itself.

        So it is if each side has moved a directory into the one that the other side has moved.
        """
        way: list[bytes] = []
        each: bytes | None = path
        while each is not None and each not in way:
            way.append(each)
            each = self._pending.waits_for(each)
        circle = way[way.index(each) :] if each is not None else []
        coming = {*self._flights.at, *self._flights.locked, *self._pair.renames}
        for replica in self._replicas:
            coming.update(replica.awaited)
        if not coming.isdisjoint(circle):
            return  # it goes on by itself
        for new in circle:
            for replica in self._replicas:
                if new in replica.moves and replica.turning != new:
                    self._give_up(replica, new)
                    return

    def turn(self) -> bool:
        """Go on with the rename that talk waits for; tell whether it is settled."""
        for replica in self._replicas:
            new = replica.turning
            if not new or new in self._flights.at:
                continue
            self.plan(replica, new)
            if not replica.turning:
                return True
        return False

    def _is_turning(self, replica: Replica, old: bytes, new: bytes) -> bool:
        """Tell whether talk waits for just this rename, and not for a later one to that name."""
        return replica.turning == new and replica.moves[new].old == old

    def _give_up(self, replica: Replica, new: bytes) -> None:
        """A rename is not carried over: something is gone at one path, and new at another."""
        old = self._forget(replica, new)
        if replica.turning == new:
            replica.turning = ROOT
            self._lose_track(replica, old, new)
        self._pending.release(new)
        self._pending.touch(new)

    def leave_out(self) -> None:
        """Forget the renames of what is not replicated any more."""
        hides = self._pair.hides
        for replica in self._replicas:
            for new, move in list(replica.moves.items()):
                if hides(new, move.entry) or hides(move.old, move.entry):
                    self._give_up(replica, new)
                    self._pending.touch(move.old)
            self.wait_no_more(replica)

    def _forget(self, replica: Replica, new: bytes) -> bytes:
        old = replica.moves.pop(new).old
        if replica.leaving.get(old) == new:
            del replica.leaving[old]
        return old

    def _lose_track(self, replica: Replica, old: bytes, new: bytes) -> None:
        """A directory was renamed, and what is in it is not known any more."""
        for path in replica.views.below(old):
            replica.views.set(path, View(None))
            replica.drop_content(path)
            self._pending.touch(path)
        for path in [p for p in replica.busy if is_below(p, old)]:
            del replica.busy[path]
            self._pending.touch(path)
        replica.survey.ask(new, deep=True)
        if replica.shows(old) is not None:
            replica.survey.ask(old, deep=True)

    # --- carrying them over ------------------------------------------------------------------

    def plan(self, replica: Replica, new: bytes) -> bool:
        """Try to carry a rename over to the other side; tell whether the path waits for it."""
        target = self._replicas[replica.side.other]
        old = replica.moves[new].old
        turning = replica.turning == new
        if parent(old) in replica.survey.pending and turning:
            self._give_up(replica, new)
            return False
        if any(parent(old) in each.survey.pending for each in (replica, target)) and not turning:
            self._pending.hold(new, parent(old))
            return True
        base = self._archive.get(old)
        if base is None and old in self._flights.at:
            self._pending.hold(new, old)
            return True
        if base is not None and base.kind != Kind.DIRECTORY and self._recall.is_open(old):
            # What is there now may be what we had put in the place of what was renamed.
            if old in target.awaited or self._recall.settle(old):
                self._pending.hold(new, old)
                return True
            base = self._archive.get(old)
        if self._has_asked(replica, old, new):
            return True
        if base is None or not self._is_news(replica, old, new, base):
            self._give_up(replica, new)
            return False
        there = target.shows(old)
        if there is None and self._both_moved(replica, old, new, base):
            return False
        if (
            there is None
            or self._would_change_meta(target.side, new, base)
            or not self._may_follow(target, old, new, base, there)
        ):
            self._give_up(replica, new)
            return False
        if not turning and self._is_to_leave(replica, new):
            return True
        if self._is_in_the_way(replica, old, new, base):
            return replica.turning == new or new in replica.moves
        if turning and not self._has_parent(target, new):
            return replica.turning == new
        if not turning and not self._pair.has_parent(new, target.side):
            return True
        if not target.plan.has_room:
            target.stalled[new] = None
            return True
        self._send(replica, target, old, new, base, there)
        return True

    def _would_change_meta(self, side: Side, new: bytes, base: Agreed) -> bool:
        """Tell whether a rename would replace metadata that only its side may set.

        As one who saves by rename does: the content goes there, and the metadata stay.
        """
        over = self._archive.get(new)
        if over is None or self._pair.limits.meta_from is not side or base.kind == Kind.DIRECTORY:
            return False
        return any(getattr(over, field) != getattr(base, field) for field in COPIED_FIELDS)

    def _has_asked(self, replica: Replica, old: bytes, new: bytes) -> bool:
        """What was found at a new path may have left its old one, and nobody has said so yet."""
        move, here = replica.moves[new], replica.shows(old)
        if move.hinted or move.asked or here is None or here.ino != move.entry.ino:
            return False
        replica.moves[new] = move._replace(asked=True)
        replica.look(old, 0)
        self._pending.hold(new, old)
        return True

    def _is_news(self, replica: Replica, old: bytes, new: bytes, base: Agreed) -> bool:
        """Tell whether the agreed entry of `old` is at `new` now, and not at `old` any more."""
        view = replica.views.get(new)
        entry, here = view.entry if view is not None else None, replica.shows(old)
        return (
            entry is not None
            and entry.ino == base.on(replica.side).ino
            and entry.kind == base.kind
            and (here is None or here.ino != entry.ino)
            and not is_below(new, old)
            and not is_below(old, new)
        )

    def _may_follow(
        self, target: Replica, old: bytes, new: bytes, base: Agreed, there: Entry
    ) -> bool:
        """Tell whether the other side still has the agreed entry, and room for it."""
        if there.kind != base.kind or there.ino != base.on(target.side).ino:
            return False
        covered = target.shows(new)
        if covered is None:
            return True
        return (
            new not in target.views
            and Kind.DIRECTORY not in (covered.kind, base.kind)
            and new not in target.busy
        )

    def _is_in_the_way(self, replica: Replica, old: bytes, new: bytes, base: Agreed) -> bool:
        """Tell whether something is under way at the names or in the directory; wait for it.

        A long transfer is not waited for while the talk of a side waits.
        """
        flights, turning = self._flights, replica.turning == new

        def touches(path: bytes) -> bool:
            if path in (old, new):
                return True
            return base.kind == Kind.DIRECTORY and (is_below(path, old) or is_below(path, new))

        op = flights.find(lambda op: touches(op.path))
        if op is not None:
            if turning and (op.number in flights.transfers or op.side == replica.side):
                self._give_up(replica, new)
            elif not turning:
                self._pending.hold(new, op.path)
            return True
        other = self._replicas[replica.side.other]
        if old in other.busy:
            self._pending.hold(new, old)
            return True
        return False

    def _is_to_leave(self, replica: Replica, path: bytes) -> bool:
        """Tell whether what was agreed at a path is to be renamed, too; then wait for that."""
        new = replica.leaving.get(path)
        if new is None or new not in replica.moves or new not in self._pending.since:
            return False
        self._pending.hold(path, new)
        return True

    def _has_parent(self, target: Replica, new: bytes) -> bool:
        """As `Pair.has_parent`, for a rename that may wait for operations only."""
        directory = parent(new)
        if not directory:
            return True
        base, there = self._archive.get(directory), target.shows(directory)
        if base is not None and there is not None and base.kind == there.kind == Kind.DIRECTORY:
            return True
        above = set(ancestors(new))
        op = self._flights.find(lambda op: op.path in above and op.side == target.side)
        if op is None or op.number in self._flights.transfers:
            self._give_up(self._replicas[target.side.other], new)
        return False

    def _send(
        self, replica: Replica, target: Replica, old: bytes, new: bytes, base: Agreed, there: Entry
    ) -> None:
        entry, move = replica.shows(new), replica.moves[new]
        assert entry is not None
        if replica.turning != new:
            self._forget(replica, new)
        self._flights.lock(old, new)
        wanted = there.bare()
        transition = Transition(0, RENAME, new, target.shows(new), wanted, old, there)
        intact = base.kind != Kind.FILE or (move.intact and entry.same_identity(move.entry))
        op = self._flights.begin(
            target.side, transition, _RENAME, entry, self._pending.sequence, intact=intact
        )
        target.plan.add(op.transition)

    # --- what became of them -----------------------------------------------------------------

    def finish(self, op: Op, outcome: Outcome, *, applied: bool) -> None:
        """An agent has answered a rename."""
        old, new = op.transition.source, op.path
        self._flights.unlock(old, new)
        base = self._archive.get(old)
        if (
            applied
            and base is not None
            and outcome.entry is not None
            and op.shown is not None
            and self._archive.has_directory(parent(new))
        ):
            self._follow_over(op, base, op.shown, outcome.entry)
        else:
            if applied:
                self._archive.remove(new)  # what is there now is no user's edit of that
            self._fail(op)
        self._pending.release(old)
        self._pending.release(new)

    def _follow_over(self, op: Op, base: Agreed, shown: Entry, entry: Entry) -> None:
        """The other side has been renamed, too."""
        old, new = op.transition.source, op.path
        target, source = self._replicas[op.side], self._replicas[op.side.other]
        here = shown if op.intact else base.on(source.side)
        # What the target had changed in it meanwhile is still to be told from what was agreed.
        changed, was = target.views.pop(old), op.transition.source_expected
        if changed is None and was is not None and not was.same_identity(base.on(target.side)):
            changed = View(was)  # a scan that began meanwhile has dropped it
        there = entry if changed is None else base.on(target.side)
        self._follow(source.side, old, new, base, here, there)
        target.views.pop(new)
        if changed is not None or not entry.same_meta(base.on(op.side)):
            target.views.set(new, View(entry, changed is None or changed.intact))
        if base.kind == Kind.DIRECTORY:
            self._arrive(target, old, new, listed=False)
            self._arrive(source, old, new, listed=not self._is_turning(source, old, new))
        self._pending.touch(old)
        self._pending.touch(new)

    def _both_moved(self, replica: Replica, old: bytes, new: bytes, base: Agreed) -> bool:
        """Follow into the archive what both sides have done already; tell whether they have."""
        other = self._replicas[replica.side.other]
        view = other.views.get(new)
        if (
            view is None
            or view.entry is None
            or view.entry.ino != base.on(other.side).ino
            or view.entry.kind != base.kind
            or not self._archive.has_directory(parent(new))
            or self._flights.find(lambda op: below_or_at(op.path, old) or below_or_at(op.path, new))
        ):
            return False
        self.follow_both(old, new, base)
        return True

    def follow_both(self, old: bytes, new: bytes, base: Agreed) -> None:
        """Both sides have renamed something: follow."""
        self._archive.rename(old, new, base)
        for each in self._replicas:
            if base.kind == Kind.DIRECTORY:
                self._arrive(each, old, new, listed=not self._is_turning(each, old, new))
            if new in each.moves and each.moves[new].old == old:
                self._forget(each, new)
        self._pending.release(new)
        self._pending.touch(old)
        self._pending.touch(new)

    def _follow(
        self, side: Side, old: bytes, new: bytes, base: Agreed, here: Entry, there: Entry
    ) -> None:
        """Take a rename over into the archive."""
        sides = (here, there) if side == Side.LEFT else (there, here)
        self._archive.rename(old, new, base.seen(*sides))

    def _arrive(self, replica: Replica, old: bytes, new: bytes, *, listed: bool) -> None:
        """A directory's rename is settled: what is known of paths in it is known of the new ones.

        Args:
            replica: where it was renamed.
            old: its path before.
            new: its path now.
            listed: what is in it may have been seen at the new path already, when nobody knew
                what had been agreed there.
        """

        def there(path: bytes) -> bytes:
            return new + path[len(old) :]

        views, touch, since = replica.views, self._pending.touch, self._pending.since
        if not listed:
            self._void(replica, new)
        for path in views.below(old):
            touch(path)
            view = None if listed else views.pop(path)
            if view is None:
                continue
            replica.drop_content(path)
            views.set(there(path), view)
            if view.entry is None:  # it was not there any more, or renamed with the rest already
                self._pair.look(replica.side, there(path), 0)
            touch(there(path), since[path])
        for path in [p for p in replica.awaited if is_below(p, old)]:
            # The answer will be about the old name, where nothing is any more, or another thing.
            replica.look(there(path), *replica.awaited[path])
            touch(there(path), since.get(path))
        for path in [] if listed else [p for p in replica.busy if is_below(p, old)]:
            replica.busy[there(path)] = replica.busy.pop(path)
            touch(there(path), since.get(path))
        if listed:
            replica.survey.again(new)
            if replica.shows(old) is not None or replica.survey.has_found(old):
                replica.survey.again(old)
        else:
            replica.survey.moved(old, new)
        for path in [p for p in self._pending.since if is_below(p, old)]:
            touch(path)
        intents = self._pair.intents
        for path in [p for p in intents if is_below(p, old)]:
            intents.setdefault(there(path), []).extend(intents.pop(path))
        for further, move in list(replica.moves.items()):
            if is_below(move.old, old):  # it was renamed out of the directory before that moved
                replica.leaving.pop(move.old, None)
                replica.moves[further] = move._replace(old=there(move.old))
                replica.leaving[there(move.old)] = further
        if self._is_turning(replica, old, new):
            replica.turning = ROOT
            self._forget(replica, new)
            self._pending.release(new)

    def _void(self, replica: Replica, top: bytes) -> None:
        """What was seen below a path was in another directory, which is there no more."""
        for path in replica.views.below(top):
            replica.views.pop(path)
            replica.drop_content(path)
            self._pending.touch(path)
        for path in [p for p in replica.busy if is_below(p, top)]:
            del replica.busy[path]

    def _fail(self, op: Op) -> None:
        """The rename was not to be: both names are looked at afresh."""
        source = self._replicas[op.side.other]
        if self._is_turning(source, op.transition.source, op.path):
            self._give_up(source, op.path)
        elif op.shown is not None and op.shown.kind == Kind.DIRECTORY:
            source.survey.ask(op.path, deep=True)
        for path in (op.transition.source, op.path):
            for side in Side:
                self._pair.look(side, path, 0)
            self._pending.touch(path)

    def lose(self, op: Op) -> None:
        """The side that was to follow a rename is gone; nobody knows whether it has."""
        old, new, source = op.transition.source, op.path, self._replicas[op.side.other]
        self._flights.unlock(old, new)
        self._pending.release(old)
        if op.shown is not None and source.turning != new:
            self._remember(source, new, Move(old, op.shown, op.intact, hinted=False))

    def recall(self) -> None:
        """Follow what we had renamed when we were interrupted, as soon as both sides show it.

        Its user may have renamed it further meanwhile, or back. If what we did was taken for
        something that the other user did, it would be done to him.
        """
        renames = self._pair.renames
        for new, intent in list(renames.items()):
            old, target = intent.moved_from, self._replicas[intent.target]
            source = self._replicas[target.side.other]
            if any(
                each.link != Link.READY or path in each.survey.pending
                for each in self._replicas
                for path in (parent(old), parent(new))
            ):
                continue
            base, there = self._archive.get(old), target.shows(new)
            if base is None or there is None or not self._was_renamed(target, old, base, there):
                base = None
            elif not self._is_read(target, new, base, there):
                continue
            del renames[new]
            if base is not None and there is not None:
                seen = source.shows(new)
                if seen is None or seen.ino != base.on(source.side).ino:
                    self._take_over(target, source, old, new, base, there)
            self._pending.release(new)
            self._pending.touch(old)
            self._pending.touch(new)

    def _was_renamed(self, target: Replica, old: bytes, base: Agreed, there: Entry) -> bool:
        """Tell whether what a side shows at a new path is what was agreed at an old one."""
        was, still = base.on(target.side), target.shows(old)
        moved = still is None or still.ino != was.ino
        return moved and (there.kind, there.ino) == (was.kind, was.ino)

    def _is_read(self, target: Replica, new: bytes, base: Agreed, there: Entry) -> bool:
        """Tell whether all is known that can be of what we had renamed; else have it read.

        Its ctime has moved with its name. Whoever has written to it since, and put the old time
        back, is known by what it says only.
        """
        if base.kind != Kind.FILE or not base.digest or there.digest:
            return True
        if not self._archive.has_directory(parent(new)):
            return True  # then it is not followed
        was = base.on(target.side)
        if (there.size, there.mtime_ns) != (was.size, was.mtime_ns):
            return True
        if new in target.busy or new in self._pending.problems:
            return True
        target.look(new, 2)
        return False

    def _take_over(
        self, target: Replica, source: Replica, old: bytes, new: bytes, base: Agreed, there: Entry
    ) -> None:
        """What was agreed is at its new path on one side, and not on the other."""
        if not self._archive.has_directory(parent(new)) or is_below(old, new):
            return
        here = source.shows(old)
        if here is not None and old not in source.views:
            source.views.set(old, View(here))
        if new not in source.views:
            source.views.set(new, View(None))
        was = base.on(target.side)
        same = (there.size, there.mtime_ns) == (was.size, was.mtime_ns)
        if base.kind == Kind.FILE:
            same = same and there.digest == base.digest != b""
        if base.kind == Kind.DIRECTORY or not same:
            there = was
        sides = (there, base.on(1)) if target.side == Side.LEFT else (base.on(0), there)
        self.follow_both(old, new, base.seen(*sides))

    def wait_no_more(self, replica: Replica) -> None:
        """Let the talk of a side go on, as if its rename had been found and not been heard of.

        The other side is gone, and may be so for long, or is waited for in turn.
        """
        new = replica.turning
        if new:
            move = replica.moves[new]
            self._give_up(replica, new)
            self._remember(replica, new, move._replace(hinted=False, intact=False))
