"""Carry a decision out on one side, and take in what became of it.

A decision becomes a transition, which an agent applies only if the path there is what we
believe. If it was, both sides agree and the archive says so; if not, the path is looked at
again. Content that is not at hand is asked for first, or brought by a transfer.

**Invariants.** The archive changes only on an agent's word that a side holds what is
recorded for it. A child is planned only when its directory is agreed; a directory is removed,
or replaced, only after what was agreed in it. What loses a conflict is kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from psync.core.entry import (
    META_FIELDS,
    Agreed,
    Entry,
    Kind,
    Side,
    ancestors,
    content_digest,
    is_below,
    parent,
    printable,
)
from psync.core.events import Intend, Intent, Transfer, Transferred
from psync.core.flights import Op
from psync.core.moves import Moves
from psync.core.pair import Pair
from psync.core.reconcile import Decision, Verb, View, agree
from psync.errors import AgentError
from psync.wire import (
    APPLIED,
    CHANGED,
    DELETE,
    IN_USE,
    META,
    NO_PARENT,
    NOT_EMPTY,
    PUT,
    RENAME,
    RMDIR,
    Outcome,
    Transition,
)

__all__ = ["Carrier", "intent_of", "is_recorded"]

LINKS_MAX = 100  # names of one inode that are worth telling

_Walk = tuple[Side, bytes, Iterator[bytes]]  # where it is gone, the directory, what is below it


class Carrier:
    """See the module's text."""

    def __init__(self, pair: Pair, moves: Moves) -> None:
        self._pair = pair
        self._moves = moves
        self._archive = pair.archive
        self._pending = pair.pending
        self._flights = pair.flights
        self._replicas = pair.replicas
        self._walks: tuple[deque[_Walk], deque[_Walk]] = (deque(), deque())
        self.walking: dict[bytes, Side] = {}  # directories being emptied, and where they are gone

    # --- decisions -----------------------------------------------------------------------

    def copy(
        self, path: bytes, decision: Decision, left: View, right: View, *, emptied: bool
    ) -> None:
        """Make a path on the other side what it is on `decision.source`."""
        source = decision.source
        entry, expected = (left, right)[source].entry, (left, right)[source.other].entry
        wanted = decision.wanted
        assert entry is not None and wanted is not None
        target = self._replicas[source.other]
        if not self._pair.has_parent(path, target.side):
            return
        if _is_directory(expected) and not _is_directory(entry):
            if not emptied:
                self._walk(source, path)
                return
            if self._is_kept(path):
                return
            if path in self._pair.forced:  # there is room: a walk ends only when there is
                self._remove_directory(target.side, path, expected, decision)
                return
        if _is_directory(entry) and not _is_directory(expected) and not emptied:
            # It comes back without what was agreed in it: that went with it, unseen.
            if self._archive.children(path):
                self._walk(target.side, path)
                return
        if not self._has_content(path, source, entry) or not self._has_room(path, target.side):
            return
        if entry.kind == Kind.FILE and entry.size > self._pair.limits.inline_max:
            keep = bool(decision.conflict)
            transition = Transition(0, PUT, path, expected, wanted, keep=keep)
            op = self._begin(target.side, transition, decision, entry)
            self._flights.transfers.add(op.number)
            basis = path if expected is not None and expected.kind == Kind.FILE else b""
            self._pair.out.append(Transfer(op.number, source, path, entry, basis))
            return
        content: bytes | None = None
        if entry.kind == Kind.FILE:
            content, digest = self._replicas[source].content(path, entry) or (b"", b"")
            if not wanted.digest:
                wanted = wanted._replace(digest=digest or content_digest(content))
            self._replicas[source].drop_content(path)
        transition = Transition(
            0, PUT, path, expected, wanted, b"", None, content, bool(decision.conflict)
        )
        self._send(target.side, transition, decision, entry)

    def remove(
        self, path: bytes, decision: Decision, left: View, right: View, *, emptied: bool
    ) -> None:
        """Remove from the other side what is gone on `decision.source`."""
        side = decision.source.other
        expected = (left, right)[side].entry
        assert expected is not None
        if not self._has_room(path, side):
            return
        if not _is_directory(expected):
            self._send(side, Transition(0, DELETE, path, expected, None), decision, None)
        elif not emptied and self._archive.children(path):
            self._walk(decision.source, path)
        elif not self._is_kept(path):
            self._remove_directory(side, path, expected, decision)

    def _remove_directory(
        self, side: Side, path: bytes, expected: Entry | None, decision: Decision
    ) -> None:
        """Remove a directory; with all that is not replicated, if that has to be, once it is seen.

        Until then something new may be found in it, for which it stays.
        """
        keep = path in self._pair.forced and path not in self._replicas[side].survey.pending
        self._send(side, Transition(0, RMDIR, path, expected, None, keep=keep), decision, None)

    def adjust(self, path: bytes, decision: Decision, left: View, right: View) -> None:
        """Give both sides the same metadata; the content, if it differs, follows."""
        wanted, views, base = decision.wanted, (left, right), self._archive.get(path)
        assert wanted is not None
        if not self._pair.has_parent(path, None):
            return
        if not all(self._has_room(path, side) for side in Side):
            return
        for side in Side:
            entry, shown = views[side].entry, views[side.other].entry
            assert entry is not None
            holds = base.as_agreed(side, entry) if base is not None else entry
            if holds.same_meta(wanted) or (decision.partial and side != decision.source):
                continue
            whole = wanted._replace(
                kind=entry.kind, size=entry.size, target=entry.target, digest=entry.digest
            )
            links = self._other_names(side, path, entry, wanted)
            transition = Transition(0, META, path, entry, whole, links=links or None)
            self._send(side, transition, decision, shown, intact=not decision.partial)

    def _is_kept(self, path: bytes) -> bool:
        """Tell whether something in a directory waits for a person's word; then wait for it."""
        inner = self._pending.asleep_below(path)
        if inner is not None:
            self._pending.hold(path, inner)
        return inner is not None

    def _other_names(self, side: Side, path: bytes, entry: Entry, wanted: Entry) -> list[bytes]:
        """The other paths at which metadata may be set by setting them at one."""
        if _is_directory(entry):
            return []
        names = [name for name in self._archive.find_links(side, entry.ino) if name != path]
        if self._pair.limits.meta_from is side.other:
            # What is set back under all names would be set back again, if over there they differ.
            shown = self._replicas[side.other].shows
            names = [name for name in names if _same_copied(shown(name), wanted)]
        return names[:LINKS_MAX]

    def _has_content(self, path: bytes, source: Side, entry: Entry) -> bool:
        """Tell whether what is to be sent with a transition is here; else ask for it in time."""
        replica, target = self._replicas[source], self._replicas[source.other]
        if entry.kind != Kind.FILE or not 0 < entry.size <= self._pair.limits.inline_max:
            return True
        if replica.content(path, entry) is not None:
            return True
        if replica.may_ask and target.plan.has_room:
            replica.look(path, 1, entry.size)
        else:
            replica.unasked[path] = None
        return False

    def _has_room(self, path: bytes, side: Side) -> bool:
        replica = self._replicas[side]
        if not replica.plan.has_room:
            replica.stalled[path] = None
            return False
        return True

    def _begin(
        self,
        side: Side,
        transition: Transition,
        decision: Decision,
        shown: Entry | None,
        *,
        intact: bool = False,
    ) -> Op:
        sequence = self._pending.sequence
        return self._flights.begin(side, transition, decision, shown, sequence, intact=intact)

    def _send(
        self,
        side: Side,
        transition: Transition,
        decision: Decision,
        shown: Entry | None,
        *,
        intact: bool = False,
    ) -> None:
        op = self._begin(side, transition, decision, shown, intact=intact)
        self._replicas[side].plan.add(op.transition)

    # --- directories that go with all that is in them ------------------------------------

    def _walk(self, source: Side, path: bytes) -> None:
        """Deal with everything agreed below a directory that is gone on `source`, then with it.

        A walk leaves out what another one deals with, or has dealt with: that comes before it.
        """
        walks = self._walks[source.other]
        after = len(walks)
        if not self.walking.keys().isdisjoint(ancestors(path)):
            around = (n for n, (_, top, _) in enumerate(walks) if is_below(path, top))
            after = next(around, after)
        walks.insert(after, (source, path, self._archive.walk_up(path, self._flights.removing)))
        self.walking[path] = source

    def next_of_walk(self) -> bytes | None:
        """The next path to be decided below a directory that goes, or that directory itself."""
        for target in Side:
            walks = self._walks[target]
            if not walks or not self._replicas[target].plan.has_room:
                continue
            source, top, below = walks[0]
            path = next(below, None)
            while path is not None and self._pair.ignored(path):
                self._archive.remove(path)  # not replicated any more; the other side keeps its own
                path = next(below, None)
            if path is None:
                walks.popleft()
                del self.walking[top]
                return top
            # Whatever was seen there was seen before the directory went.
            self._replicas[source].views.set(path, View(None))
            self._replicas[source].drop_content(path)
            return path
        return None

    def stop_walking(self, side: Side, path: bytes, entry: Entry) -> None:
        """A directory that was gone on a side is back: what is left in it is not to be removed."""
        if self.walking.get(path) != side:
            return
        del self.walking[path]
        for walks in self._walks:
            kept = [w for w in walks if w[1] != path]
            walks.clear()
            walks.extend(kept)
        if entry.kind == Kind.DIRECTORY:  # what was in it was taken for gone
            self._replicas[side].survey.ask(path, deep=True)

    def stop_all_walks(self) -> None:
        """Decide anew about all directories that are being emptied."""
        for top in self.walking:
            self._pending.dirty[top] = None
        self.walking.clear()
        for walks in self._walks:
            walks.clear()

    # --- results -------------------------------------------------------------------------

    def finish(self, op: Op, outcome: Outcome) -> None:
        """An agent has answered an operation."""
        path, side, status = op.path, op.side, outcome.status
        void = self._flights.is_void(op)
        last = self._flights.end(op)
        self._pair.keep(side, path, outcome.kept, fresh=path not in self._pair.taken)
        if status == APPLIED:
            self._replicas[side].applied += 1
            self._presume_no_more(op)
        if op.transition.verb == RENAME:
            if status == APPLIED:
                old = op.transition.source
                self._pair.note("transition.applied", side, path, "renamed", old)
            self._moves.finish(op, outcome, applied=status == APPLIED and not void)
        elif status == APPLIED and void:
            self._replicas[side].views.set(path, View(outcome.entry))
        elif status == APPLIED:
            self._applied(op, outcome.entry, unmet=outcome.unmet)
            if last and _is_all_of_it(op) and path in self._pending.since:
                self._pending.since[path] = op.sequence + 1  # what came later counts anew
        elif status == CHANGED and (
            self._pair.hides(path, outcome.entry)
            or (outcome.entry is None and op.transition.expected is None)  # as of a fifo
        ):
            self._pair.fail(path, side, "what is there is not replicated, and stands in the way")
        elif status == CHANGED:
            self._pending.changed(path, side)
            self._pair.look(side, path, 1)
            if op.transition.verb == META:
                self._pair.look(side.other, path, 0)
        elif status == NOT_EMPTY:
            self._replicas[side].survey.ask(path)
            if self._pair.limits.force and path not in self._pair.forced:
                self._pair.forced.add(path)
                self._pending.problems.pop(path, None)  # the next try is another one: soon
            lasting = "the directory holds entries that are not replicated"
            passing = "what is in the directory has not gone yet"
            self._pair.fail(path, side, passing if self._archive.children(path) else lasting)
        elif status == NO_PARENT:
            if self._replicas[side].lacks_parent(path):
                self._replicas[side].views.set(path, View(None))  # it went with its directory
            elif self._pair.fail(path, side, self._why_no_parent(side, path)) > 1:
                # Not at once: it may have been renamed, of which its agent is just going to hear.
                self._pair.look(side, parent(path), 0)
        else:
            text = outcome.message or "somebody is writing it"
            self._pair.fail(path, side, text, soon=status == IN_USE)
        if not last:
            return
        if path in self._pair.left_out:
            self._pair.left_out.discard(path)
            self._pair.leave_out(path)
        elif status == APPLIED and self._pair.is_at_rest(path):
            self._pair.rest(path)
        else:
            self._pending.release(path)
            self._pending.touch(path)

    def _why_no_parent(self, side: Side, path: bytes) -> str:
        troubles = self._replicas[side].troubles
        if any(("mount", above) in troubles for above in ancestors(path)):
            return "a mount point is in the way: what is mounted there is left alone"
        return "its directory is not there"

    def _presume_no_more(self, op: Op) -> None:
        """What is agreed is about to change: what is not listed yet is compared with that."""
        other = self._replicas[op.side.other]
        for path in (op.path, op.transition.source) if op.is_rename else (op.path,):
            if path in other.presumed:
                del other.presumed[path]
                if {path, parent(path)} & other.survey.pending:
                    other.views.pop(path)

    def _applied(self, op: Op, entry: Entry | None, *, unmet: bool) -> None:
        path, side, transition = op.path, op.side, op.transition
        wanted = transition.wanted
        if not unmet:
            self._pending.problems.pop(path, None)
        if wanted is None:
            self._removed(op)
            return
        if entry is None or entry.kind != wanted.kind or op.shown is None:
            raise AgentError(f"the agent did something else at {printable(path)!r}")
        if transition.verb == META:
            self._adjusted(op, entry, op.shown, unmet=unmet)
            return
        if wanted.kind == Kind.DIRECTORY and self._replicas[side].views.has_any(path):
            # It may be another one than they were seen in, of which nobody tells any more.
            self._replicas[side].survey.ask(path, deep=True)
        self._replicas[side].bytes_moved += wanted.size
        wanted = wanted._replace(digest=wanted.digest or entry.digest)
        self._agree(op, wanted, entry, op.shown, unmet=unmet)
        self._pair.survivors.discard(path)
        text = "conflict" if transition.keep else ("replaced" if transition.expected else "created")
        self._pair.note("transition.applied", side, path, text)

    def _removed(self, op: Op) -> None:
        path = op.path
        self._archive.remove(path)
        self._replicas[op.side].views.pop(path)
        other = self._replicas[op.side.other].views
        view = other.get(path)
        if view is not None and view.entry is None:
            other.pop(path)
        self._pending.hurry(parent(path))  # it may have been in the way of its directory's end
        self._pair.note("transition.applied", op.side, path, "removed")

    def _agree(self, op: Op, wanted: Entry, entry: Entry, shown: Entry, *, unmet: bool) -> None:
        """Both sides hold `wanted`: what the other showed is no news, unless it has changed."""
        path, side = op.path, op.side
        if not self._archive.has_directory(parent(path)):
            self._replicas[side].views.set(path, View(entry))  # its directory has gone since
            return
        held = entry.same_meta(wanted) or unmet
        if held and not shown.same_meta(wanted):
            held = self._holds(path, side.other, shown, wanted)
        sides = (shown, entry) if side else (entry, shown)
        self._archive.put(path, agree(wanted, *sides, held=held))
        if wanted.kind == Kind.FILE:
            self._pair.look_at_twins(side.other, path, shown)
        self._replicas[side].views.pop(path)
        replica = self._replicas[side.other]
        view = replica.views.get(path)
        other = view.entry if view is not None else None
        if other is not None and shown.same_identity(other) and shown.same_meta(other):
            replica.views.pop(path)
            replica.drop_content(path)

    def _holds(self, path: bytes, side: Side, entry: Entry, wanted: Entry) -> bool:
        """Tell whether a side holds all of the wanted metadata that it can, as far as is known."""
        base = self._archive.get(path)
        if base is None or base.kind != entry.kind:
            return entry.same_identity(self._pair.at_most.get(path))
        return base.as_agreed(side, entry).same_meta(wanted)

    def _adjusted(self, op: Op, entry: Entry, shown: Entry, *, unmet: bool) -> None:
        """Metadata was brought over to a side; its content is as it was."""
        path, side, expected = op.path, op.side, op.transition.expected
        base, wanted = self._archive.get(path), op.decision.wanted
        was = self._replicas[side].view(path, base)
        assert expected is not None and wanted is not None
        if entry.kind == Kind.FILE and not entry.digest:
            entry = entry._replace(digest=expected.digest)
        self._pair.look_at_links(side, path, entry)
        self._pair.take_on(path, side, expected, entry)
        met = entry.same_meta(wanted) or unmet
        agreed = shown.same_meta(wanted) or self._holds(path, side.other, shown, wanted)
        if op.intact and met and agreed:
            self._agree(op, wanted, entry, shown, unmet=unmet)
        else:
            self._replicas[side].views.set(path, View(entry, was.intact))
            if base is not None and base.kind != entry.kind:
                base = None  # what was something else has no such metadata
            if base is not None and not op.intact and met:
                # The content is still to be copied; what the other side had changed has arrived.
                self._archive.put(path, _with_meta_of(base, wanted, side, entry, shown))
            elif unmet and base is None and op.decision.partial:
                self._pair.at_most[path] = entry  # is known as such once there is a record
            elif unmet:
                self._pair.fail(path, side, "its mode, owner or time cannot be set")
        self._pair.note("transition.applied", side, path, "metadata")

    # --- transfers -----------------------------------------------------------------------

    def transferred(self, event: Transferred) -> None:
        """A large file's content is in staging, or is not to be had."""
        op = self._flights.ops.get(event.op)
        if op is None or event.op not in self._flights.transfers:
            return  # its side went down meanwhile
        self._flights.transfers.discard(event.op)
        if event.staged:
            transition = op.transition._replace(source=event.staged)
            self._flights.ops[event.op] = op._replace(transition=transition)
            self._replicas[op.side].plan.add(transition)
            return
        self._flights.end(op)
        if event.torn:
            self._pair.look(op.side.other, op.path, 1)  # tells, too, if it cannot be read
        else:
            self._pair.fail(op.path, op.side, event.message)
        self._pending.release(op.path)
        self._pending.touch(op.path)

    # --- a side that is gone ---------------------------------------------------------------

    def lose(self, side: Side) -> None:
        """What a side was asked to do is open; transfers to and from it have failed."""
        flights = self._flights
        for op in list(flights.ops.values()):
            if op.side != side and op.number not in flights.transfers:
                continue
            if op.transition.verb == RENAME:
                self._pair.intend(intent_of(op))
                self._moves.lose(op)
            elif op.transition.verb != META and not (
                op.number in flights.transfers or flights.is_void(op)
            ):
                # Nobody knows whether it was done; the next scan will recognise it.
                self._pair.intend(intent_of(op))
            if flights.end(op):
                self._pending.release(op.path)
                self._pending.touch(op.path)

    def in_flight(self) -> Intend:
        """What has been sent, or may have been done before, and is not known to be agreed."""
        ops = [op for op in self._flights.ops.values() if not self._flights.is_void(op)]
        sent = [intent_of(op) for op in ops if is_recorded(op)]
        earlier = [i for intents in self._pair.intents.values() for i in intents]
        return Intend([*earlier, *self._pair.renames.values(), *sent], [])


def is_recorded(op: Op) -> bool:
    """Tell whether a later start has to recognise an operation, if it was done."""
    return op.transition.verb != META or not op.decision.partial


def intent_of(op: Op) -> Intent:
    """What has to be remembered of an operation."""
    moved_from = op.transition.source if op.transition.verb == RENAME else b""
    return Intent(op.path, op.side, op.transition.wanted, op.shown, moved_from)


def _is_all_of_it(op: Op) -> bool:
    """Tell whether an operation does all that was decided; else the rest of it is still to come."""
    verb = op.transition.verb
    return op.intact if verb == META else verb != RMDIR or op.decision.verb is not Verb.COPY


def _is_directory(entry: Entry | None) -> bool:
    return entry is not None and entry.kind == Kind.DIRECTORY


def _same_copied(entry: Entry | None, wanted: Entry) -> bool:
    return entry is not None and entry._replace(mtime_ns=wanted.mtime_ns).same_meta(wanted)


def _with_meta_of(base: Agreed, wanted: Entry, side: Side, entry: Entry, shown: Entry) -> Agreed:
    """The agreed state, with the metadata that both sides have come to hold since.

    Args:
        base: the agreed state.
        wanted: what both were to hold; its mtime belongs to content that is still to follow.
        side: where they were set.
        entry: what it holds now.
        shown: what the other side showed.
    """
    fields = [field for field in META_FIELDS if field != "mtime_ns"]
    other = base.as_agreed(side.other, shown)
    taken = [field for field in fields if getattr(other, field) == getattr(wanted, field)]
    sides = [base.on(Side.LEFT), base.on(Side.RIGHT)]
    for each, now in ((side, entry), (side.other, shown)):
        sides[each] = sides[each]._replace(**{field: getattr(now, field) for field in taken})
    agreed = wanted._replace(
        mtime_ns=base.mtime_ns,
        **{field: getattr(base, field) for field in fields if field not in taken},
    )
    return base.held(agreed, *sides)
