"""One replicated pair as a state machine: events in, commands out.

The theory. For every path there are three values: what was agreed (`core.archive`), and what
each side shows (`core.replica`). A side that has shown nothing new shows what was agreed, so
only the news is kept; a path with news is *dirty*, and a dirty path is decided
(`core.reconcile`) as soon as nothing stands in the way. A decision becomes a transition
for one side (`core.carry`), which its agent applies only if the path there is what we believe.
What comes back is the next news (`core.news`). When both sides show the same, it is agreed,
and the path is clean.

Everything else is about *what stands in the way* of a path, and each has one name:

    an operation on it under way           `Flights.at`
    a rename under way above it            `Flights.locked`
    a rename of it not settled yet         `Moves.holder`
    its directory not listed yet           `Survey.pending`
    its directory not agreed yet           `Pair.has_parent`
    somebody writing it                    `Replica.busy`
    a look at it that has been asked for   `Replica.awaited`
    the target's window full               `Replica.stalled`
    too much content asked for already     `Replica.unasked`
    what is below it to be removed first   `Carrier.walking`
    many deletions, to be counted first    `Guard.holds`
    a failure, until its time comes        `Pending.problems`
    a person's word                        `Pending.asked`

**How to drive it.** `receive(event, now)` for everything that happens; then `commands(now)`
and carry them out in order; call again at `deadline()`. `problems()` and `status()` may be
asked at any time. `now` is any clock that does not go back, in seconds.

**Invariants.**

- The archive changes only on an agent's word that a side holds what is recorded for it.
- At most one decision for a path is being carried out.
- A child is planned only when its directory is agreed; a directory is removed only after
  what was agreed in it.
- What a peer says is checked before it is believed: paths, answers to questions never asked.
- No I/O, no clock, no asyncio; the same events give the same commands.
"""

from __future__ import annotations

import math
from heapq import nsmallest
from typing import Any

from psync.core.archive import Archive
from psync.core.carry import Carrier, intent_of, is_recorded
from psync.core.entry import (
    ROOT,
    Entry,
    Kind,
    Side,
    ancestors,
    below_or_at,
    split,
)
from psync.core.events import (
    Command,
    Event,
    FullSync,
    Intend,
    Intent,
    Limits,
    Paused,
    Problem,
    Resumed,
    Said,
    Send,
    SideDown,
    SideUp,
    State,
    Transferred,
)
from psync.core.guard import Guard
from psync.core.ignore import Ignore
from psync.core.moves import Moves
from psync.core.news import News
from psync.core.pair import Ignored, Pair
from psync.core.pending import QUIET_ATTEMPTS
from psync.core.recall import Recall
from psync.core.reconcile import RIVALS, Decision, Verb, View, agree, decide, with_meta_of
from psync.core.replica import Link
from psync.wire import List_, Scanned

__all__ = ["STATES", "Session"]

# The session's state as a function of its sides, the lesser first; halting and pausing,
# which are a person's business, go before it. `docs/draw_states.py` draws it.
STATES: dict[tuple[Link, Link], State] = {
    (Link.NEVER, Link.NEVER): State.STARTING,
    (Link.NEVER, Link.DOWN): State.DISCONNECTED,
    (Link.NEVER, Link.SCANNING): State.STARTING,
    (Link.NEVER, Link.READY): State.STARTING,
    (Link.DOWN, Link.DOWN): State.DISCONNECTED,
    (Link.DOWN, Link.SCANNING): State.DISCONNECTED,
    (Link.DOWN, Link.READY): State.DISCONNECTED,
    (Link.SCANNING, Link.SCANNING): State.SCANNING,
    (Link.SCANNING, Link.READY): State.SCANNING,
    (Link.READY, Link.READY): State.WATCHING,
}

_DEFAULTS = Limits()
_BACKLOG_MAX = 50_000
_IN_USE = "a program has this database open: it is replicated when it is closed"
_COUNTED_MAX = 1000  # views
_UNOBSERVED = ("unreadable", "mount", "io")  # troubles with a path, and all in it
_SCANNED = (b"\0left", b"\0right")  # no paths: who waits for the end of a side's scan waits there


class Session:
    """See the module's text."""

    def __init__(
        self,
        archive: Archive,
        limits: Limits = _DEFAULTS,
        *,
        first_op: int = 1,
        history: list[Intend] | None = None,
        ignored: Ignored | None = None,
        met: bool = False,
    ) -> None:
        """Begin with no side up.

        Args:
            archive: what was agreed.
            limits: bounds and policies.
            first_op: operations are numbered from here; unique for the pair for ever.
            history: what earlier runs have recorded and not committed.
            ignored: tells which paths are not replicated; None: only our own.
            met: both sides have been compared once (`Session.met`). Until then equal size and
                mtime are taken for equal content where nothing was agreed.
        """
        self.met = met
        self._archive = archive
        self._limits = limits
        self._pair = Pair(archive, limits, first_op, ignored or Ignore())
        for record in history or []:
            self._pair.replay(record)
        self._replicas = self._pair.replicas
        self._pending = self._pair.pending
        self._flights = self._pair.flights
        self._recall = Recall(self._pair)
        self._moves = Moves(self._pair, self._recall)
        self._carrier = Carrier(self._pair, self._moves)
        self._news = News(self._pair, self._moves, self._carrier)
        self._guard = Guard(self._pair)
        self._halts: dict[Side, tuple[str, str]] = {}  # kind and reason
        self._paused = False

    # --- the five verbs ------------------------------------------------------------------

    def receive(self, event: Event, now: float) -> None:
        """Take note of an event.

        Raises:
            AgentError: the peer said what cannot be; drop its connection and say `SideDown`.
        """
        self._pending.now = now
        if isinstance(event, Said):
            replica, message = self._replicas[event.side], event.message
            is_full = isinstance(message, Scanned) and self._news.is_full_scan(
                replica, message.generation
            )
            self._news.hear(replica, message)
            if is_full:
                self._guard.compared(event.side)
            elif isinstance(message, Scanned):
                why = self._guard.scanned(event.side, message.entries)
                if why:
                    self.halt(event.side, "deletions", why)
        elif isinstance(event, SideUp):
            self._side_down(event.side, Link.SCANNING)
            self._pair.forget_kept(event.side)
            self._replicas[event.side].cut_ns = event.cut_ns
            if event.accepted:
                self._guard.accept_next(event.side)
            if event.rebooted:
                self._roll_back(event.side.other)
        elif isinstance(event, SideDown):
            self._side_down(event.side, Link.DOWN)
        elif isinstance(event, Transferred):
            self._carrier.transferred(event)
        elif isinstance(event, Paused):
            self._paused = True
        elif isinstance(event, Resumed):
            self._paused = False
            if event.accept and self._halts:
                self._halts.clear()
                self._guard.accept()
        elif isinstance(event, FullSync):
            self._news.compare_all()
        else:
            self._pending.hurry_all()

    def commands(self, now: float) -> list[Command]:
        """Decide what can be decided; return what to do, in order."""
        self._pending.now = now
        active = self._active
        if active:
            self._pending.retry()
            self._drain()
        intents: list[Intent] = []
        sends: list[Command] = []
        asleep = self._pending.asleep
        at_rest = len(self._pending.since) == asleep
        backlog = sum(len(replica.views) for replica in self._replicas) - 2 * asleep
        for replica in self._replicas:
            if replica.link < Link.SCANNING:
                continue
            side = replica.side
            for batch in replica.plan.take():
                for transition in batch.transitions:
                    op = self._flights.ops[transition.op]
                    if is_recorded(op):
                        intents.append(intent_of(op))
                sends.append(Send(side, batch))
            if active and backlog < _BACKLOG_MAX:
                paths = replica.survey.next()
                if paths:
                    sends.append(Send(side, List_(paths)))
            for message in replica.questions():
                sends.append(Send(side, message))
            for message in replica.credit(all_of_it=at_rest):
                sends.append(Send(side, message))
        out = self._pair.out
        self._pair.out = []
        agreed = self._archive.take_changes()
        if intents or agreed:
            out.append(Intend(intents, agreed))
        return out + sends

    def deadline(self) -> float | None:
        """When `commands` has to be asked again if nothing happens; None: never."""
        times = [self._pending.deadline, self._guard.deadline] if self._active else []
        return min((time for time in times if time is not None), default=None)

    def problems(self) -> list[Problem]:
        """The paths that cannot be handled now, and why."""
        pending = self._pending
        found = [p for p in pending.problems.values() if p.attempts >= QUIET_ATTEMPTS]
        return [p for p in found if not pending.is_asleep(p.path)] if pending.asked else found

    def status(self) -> dict[str, Any]:
        """Say how things stand: plain values, ready for JSON."""
        return {
            "state": self.state.name.lower(),
            "pending": self.pending,
            "in_flight": len(self._flights.ops),
            "conflicts": len(self._pair.conflicts) + len(self._pending.asked),
            "problems": len(self.problems()) + len(self.troubles()),
            "agreed": self._archive.count,
            "halted": self.halted,
        }

    # --- more to ask ---------------------------------------------------------------------

    @property
    def state(self) -> State:
        """What the session is doing."""
        if self._halts:
            return State.HALTED
        if self._paused:
            return State.PAUSED
        low, high = sorted(replica.link for replica in self._replicas)
        state = STATES[low, high]
        if state is State.WATCHING and any(r.survey.comparing for r in self._replicas):
            return State.SCANNING
        return state

    @property
    def halted(self) -> str:
        """Why the session has halted; empty: it has not."""
        return "; ".join(reason for _, reason in self._halts.values())

    @property
    def halts(self) -> frozenset[str]:
        """The same for programs: which side, and a word; however it is put for people."""
        return frozenset(f"{side.name.lower()} {kind}" for side, (kind, _) in self._halts.items())

    @property
    def pending(self) -> int:
        """How many paths are on their way to rest, as far as is known."""
        unlisted = sum(len(replica.survey.pending) for replica in self._replicas)
        return len(self._pending.since) - self._pending.asleep + unlisted

    def mark(self) -> int:
        """A point in the order of what has been observed; see `settled`."""
        return self._pending.sequence

    def oldest(self) -> int | None:
        """The number, as of `mark`, of the oldest news that is on its way; None: nothing is.

        What waits for a person, or for a problem to be solved, is on no way.
        """
        since, stuck = self._pending.since, self._pending.stuck()
        if not stuck:
            return min(since.values(), default=None)
        return min((n for path, n in since.items() if path not in stuck), default=None)

    def on_the_way(self, most: int) -> list[bytes]:
        """The paths with the oldest news that is on its way, so many at most."""
        since, stuck = self._pending.since, self._pending.stuck()
        return nsmallest(most, (path for path in since if path not in stuck), key=since.__getitem__)

    def settled(self, mark: int) -> bool:
        """Tell whether everything observed up to `mark` is on both sides."""
        if not self.is_told:
            return False
        return all(since > mark for since in self._pending.since.values())

    def stuck(self, mark: int) -> list[Problem]:
        """The problems because of which `settled` will not come true; empty: it may."""
        if not self.is_told:
            return []
        found: dict[bytes, Problem] = {}
        for path, since in self._pending.since.items():
            if since <= mark:
                problem = self._pending.lasting(path)
                if problem is None:
                    return []
                found[problem.path] = problem
        return list(found.values())

    @property
    def is_told(self) -> bool:
        """Tell whether all that the agents have said and found is taken in."""
        return self.state == State.WATCHING and not any(
            replica.stream or replica.survey.pending for replica in self._replicas
        )

    def conflicts(self) -> list[tuple[Side, bytes, bytes]]:
        """The losers kept: side, path, name in that side's conflict store."""
        kept = sorted(self._pair.conflicts.items())
        return [(side, path, name) for (side, name), path in kept]

    def asked(self) -> list[tuple[bytes, Entry | None, Entry | None]]:
        """The conflicts that wait for a person's word: path, and what either side shows."""
        left, right = self._replicas
        return [(path, left.shows(path), right.shows(path)) for path in sorted(self._pending.asked)]

    def would(self, path: bytes, left: View, right: View) -> Decision:
        """What is decided of a path if the sides show this there, and nothing stands in the way."""
        base = self._archive.get(path)
        favoured = self._limits.favoured
        decision = decide(base, left, right, trust_times=not self.met, favoured=favoured)
        if self._limits.meta_from is not None:
            shown = (left.entry, right.entry, self._pair.at_most.get(path))
            decision = with_meta_of(self._limits.meta_from, decision, base, *shown)
        return decision

    def explain(self, path: bytes) -> tuple[str, str]:
        """Say what keeps a path, or what it is in, from being at rest.

        Returns:
            A word and a message: `pending` (it is on its way), `problem` (it cannot be
            handled), `asked` (it waits for a person's word), `trouble` (it cannot be observed);
            both empty: it is at rest, as far as is known.
        """
        pending = self._pending
        for each in (path, *ancestors(path)):
            if each in pending.since:
                problem = pending.lasting(each)
                if problem is None:
                    return "pending", ""
                return ("asked" if problem.path in pending.asked else "problem"), problem.message
            for replica in self._replicas:
                if each in replica.survey.pending:
                    return "pending", ""
                for code in _UNOBSERVED:
                    message = replica.troubles.get((code, each))
                    if message:
                        return "trouble", f"{replica.side.name.lower()}: {message}"
        return "", ""

    @property
    def skipped(self) -> bool:
        """Whether what differed before the session began is left alone, as it was told to."""
        return any(replica.skipped for replica in self._replicas)

    def take(self, path: bytes, side: Side) -> str:
        """Let a side's version win a conflict; return why it cannot, empty: it will.

        It is for the two versions that there are now: if one of them is changed before that
        is done, it is asked anew.
        """
        versions = [replica.shows(path) for replica in self._replicas]
        chosen, loser = versions[side], versions[side.other]
        if path not in self._pending.asked or chosen is None or loser is None:
            return "no conflict there waits for a word"
        if chosen.kind != Kind.DIRECTORY == loser.kind:
            return (
                f"on the {side.other.name.lower()} it is a directory, which cannot be kept as a "
                "version: take that, or rename one of the two"
            )
        assert versions[0] is not None and versions[1] is not None
        self._pair.taken[path] = (side, versions[0], versions[1])
        self._pending.touch(path)
        return ""

    def troubles(self) -> list[tuple[Side, str, bytes, str]]:
        """What the agents cannot observe: side, code, path, message."""
        return [
            (replica.side, code, path, message)
            for replica in self._replicas
            for (code, path), message in replica.troubles.items()
        ]

    def unseen(self) -> list[Problem]:
        """The paths, and all in them, whose content cannot be read: nothing of it comes over."""
        return [
            Problem(path, side, message, 0, math.inf)
            for side, code, path, message in self.troubles()
            if code == "unreadable" or (code == "io" and path)
        ]

    @property
    def applied(self) -> list[int]:
        """How many transitions have been applied to each side."""
        return [replica.applied for replica in self._replicas]

    @property
    def bytes_moved(self) -> list[int]:
        """How many bytes of files have been written to each side."""
        return [replica.bytes_moved for replica in self._replicas]

    def local(self, side: Side) -> int:
        """How many names stay on a side by their suffix, as its last scan found."""
        return self._replicas[side].local

    def entries(self, side: Side) -> int:
        """How many entries a side has; while much is new there, what its last scan found counts."""
        replica, count = self._replicas[side], self._archive.count
        views = replica.views
        if len(views) > _COUNTED_MAX or replica.survey.pending:
            return max(count, replica.entries)
        for path in views:
            view = views.get(path)
            there = view is not None and view.entry is not None
            count += there - (self._archive.get(path) is not None)
        return count

    @property
    def is_comparing_all(self) -> bool:
        """Tell whether a full sync that was asked for is not over."""
        return any(each.full_scan or each.survey.comparing for each in self._replicas)

    def is_under_way(self, number: int) -> bool:
        """Tell whether an operation has not ended, nor been given up."""
        return number in self._flights.ops

    def is_ready(self, side: Side) -> bool:
        """Tell whether a side's scan is over."""
        return self._replicas[side].link == Link.READY

    def in_flight(self) -> Intend:
        """What has been sent and may not be agreed yet: belongs into a new file of the log."""
        return self._carrier.in_flight()

    def remains(self) -> dict[str, int]:
        """What is held in memory, by name: nothing at all once everything is at rest."""
        remains = {
            "dirty": len(self._pending.dirty),
            "held": len(self._pending.held),
            "problems": len(self._pending.problems),
            "asked": len(self._pending.asked) + len(self._pair.taken),
            "since": len(self._pending.since),
            "operations": len(self._flights.ops) + len(self._flights.at),
            "locked": len(self._flights.locked),
            "walking": len(self._carrier.walking),
            "survivors": len(self._pair.survivors) + len(self._pair.suspects),
            "untouched": len(self._pair.untouched),
            "forced": len(self._pair.forced) + len(self._pair.left_out),
            "intents": len(self._pair.intents),
        }
        for replica in self._replicas:
            for name, count in replica.remains().items():
                remains[name] = remains.get(name, 0) + count
        return remains

    def halt(self, side: Side, kind: str, reason: str) -> None:
        """Begin nothing new until a person says `Resumed(accept=True)`; `kind`: see `halts`."""
        if self._halts.get(side) != (kind, reason):
            self._halts[side] = (kind, reason)
            self._pair.note("session.halted", None, ROOT, reason)

    # --- sides that go and come ----------------------------------------------------------

    @property
    def _active(self) -> bool:
        return (
            not self._halts
            and not self._paused
            and all(replica.link == Link.READY for replica in self._replicas)
        )

    def _side_down(self, side: Side, link: Link) -> None:
        """A side is gone: what it showed and what it was asked counts no more."""
        replica = self._replicas[side]
        self._carrier.lose(side)
        self._moves.wait_no_more(self._replicas[side.other])
        self._pending.dirty.update(replica.stalled)
        replica.stalled.clear()
        replica.hang_up()
        self._news.forget(replica)
        self._guard.forget(side)
        replica.hang_up()  # nor is it owed anything for what has been forgotten
        replica.link = link

    def _roll_back(self, other: Side) -> None:
        """A host may have lost what was not durable: only what is committed counts.

        The other side has seen more since: it is scanned, too. What was sent and not answered
        is no intent any more: the bytes it was made from may be gone.
        """
        if self._archive.is_committed and not (self._pair.intents or self._flights.ops):
            return  # there was nothing to lose
        self._archive.roll_back()
        self._leave_out_agreed()
        self._pair.intents.clear()
        self._flights.void_all()
        replica = self._replicas[other]
        if replica.link >= Link.SCANNING:
            self._news.scan_anew(replica, "the other side may have lost what was not durable")

    # --- other rules and limits ----------------------------------------------------------

    def take_over(self, limits: Limits) -> None:
        """Decide by these from now on: what waits for a person, or is put off, may go on now."""
        self._limits = self._pair.limits = limits
        self._guard.take_over(limits)
        for replica in self._replicas:
            replica.take_over(limits)
        self._pending.ask_anew()
        self._pending.hurry_all()

    def hide(self, ignored: Ignored) -> int:
        """Replicate by other rules from now on; return how many agreed entries that leaves out.

        Both sides keep theirs, as if they had never been replicated. What is visible now and was
        not is the agents' to tell.
        """
        pair, count = self._pair, self._archive.count
        # A directory's rename may have taken what is agreed in it to where the old rules hide it;
        # what has become of that since was not told.
        for path, agreed in self._archive.walk_down(ROOT):
            if pair.ignored(path, agreed.kind == Kind.DIRECTORY):
                self._archive.remove(path)
                pair.rest(path)
        pair.ignored = ignored
        self._carrier.stop_all_walks()
        self._moves.leave_out()
        pair.left_out = {  # by these rules: what was hidden may be told again by now
            op.path
            for op in self._flights.ops.values()
            if pair.hides(op.path, op.transition.wanted or op.transition.expected)
        }
        self._leave_out_agreed()
        known = {*self._pending.since, *self._pending.problems, *self._pending.dirty}
        for replica in self._replicas:
            known.update(replica.views, replica.awaited, replica.busy)
        for path in known:
            shown = [e for e in (r.shows(path) for r in self._replicas) if e is not None]
            if path and any(pair.hides(path, entry) for entry in shown or (None,)):
                pair.leave_out(path)
        for replica in self._replicas:
            for path in replica.survey.leave_out(lambda path: ignored(path, True)):
                self._pending.release(path)
            for code, path in [key for key in replica.troubles if key[1] and ignored(key[1], True)]:
                del replica.troubles[code, path]
            self._guard.forget(replica.side)  # what is left out is not gone
        return count - self._archive.count

    def _leave_out_agreed(self) -> None:
        for path, agreed in self._archive.walk_down(ROOT):
            if self._pair.ignored(path, agreed.kind == Kind.DIRECTORY):
                self._pair.leave_out(path)

    # --- deciding ------------------------------------------------------------------------

    def _drain(self) -> None:
        """Decide dirty paths until none is left or no side has room."""
        pending = self._pending
        if self._pair.renames:
            self._moves.recall()
        for replica in self._replicas:
            # Oldest first, and no more of them than there is room for: each is decided anew.
            while replica.stalled and replica.plan.has_room:
                self._take_up(replica.stalled.popitem(last=False)[0])
            plan = self._replicas[replica.side.other].plan
            while replica.unasked and replica.may_ask and plan.has_room:
                self._take_up(replica.unasked.popitem(last=False)[0])
            if not replica.survey.comparing:
                pending.release(_SCANNED[replica.side])
        going_on = True
        while going_on:
            while pending.dirty:
                dirty, pending.dirty = pending.dirty, {}
                for path in self._moves.first(dirty):
                    self._take_up(path)
            going_on = (
                self._walk_on() or self._moves.turn() or self._news.catch_up() or self._count_gone()
            )
        if not any(replica.survey.pending for replica in self._replicas):
            self.met = True
            self._pair.adopting = False
            self._recall.forget()
            if len(pending.since) == pending.asleep:
                self._guard.rest()

    def _count_gone(self) -> bool:
        """Halt if too much is gone; tell whether somebody need not wait for that any more."""
        found = self._guard.count()
        if found is not None:
            side, why = found
            self.halt(side, "deletions", why)
        return bool(self._pending.dirty)

    def _walk_on(self) -> bool:
        """Go on with a directory that is to be removed; tell whether there was one."""
        path = self._carrier.next_of_walk()
        if path is None:
            return False
        self._pending.touch(path)
        del self._pending.dirty[path]
        self._take_up(path, emptied=True)
        return True

    def _take_up(self, path: bytes, *, emptied: bool = False) -> None:
        """Decide a path, and see to it that nothing waits for it for which it waits itself."""
        self._decide(path, emptied=emptied)
        if self._moves.any:
            self._moves.untangle(path)

    def _is_waiting(self, path: bytes) -> bool:
        """Tell whether something stands in the way of deciding a path; who ends that says so."""
        pending = self._pending
        left, right = self._replicas
        if path in self._flights.at or path in self._carrier.walking:
            return True
        if path in left.awaited or path in right.awaited or pending.is_put_off(path):
            return True
        holder = self._flights.lock_above(path)
        if holder is None:
            holder = self._moves.holder(path)
        if holder is None:
            directory, name = split(path)
            if (
                left.survey.hides(directory, name)
                or right.survey.hides(directory, name)
                or (directory in self._flights.at and not self._archive.has_directory(directory))
            ):
                holder = directory
        if holder is None:
            return False
        pending.hold(path, holder)
        return True

    def _is_doomed(self, path: bytes, views: tuple[View, View]) -> bool:
        """Tell whether what a side shows is being removed from elsewhere; then wait, and look.

        It was seen here and there, so it has been moved meanwhile, perhaps back to where it is
        going to be removed from. Unless both were agreed: then it has both names.
        """
        suspects = self._pair.suspects
        for replica, view in zip(self._replicas, views, strict=True):
            for holder in self._flights.doom(replica.side, view.entry):
                if holder == path or self._are_links(replica.side, holder, path):
                    continue
                suspects[path] = None
                self._pending.hold(path, holder)
                return True
        if path in suspects:
            del suspects[path]
            for replica in self._replicas:
                replica.look(path, 0)
            return True
        return False

    def _are_links(self, side: Side, one: bytes, two: bytes) -> bool:
        """Tell whether two paths were agreed as names of one inode of a side."""
        agreed = (self._archive.get(one), self._archive.get(two))
        inodes = {base.on(side).ino if base is not None else 0 for base in agreed}
        return len(inodes) == 1 and 0 not in inodes

    def _decide(self, path: bytes, *, emptied: bool = False) -> None:
        """Take the next step for one path, or leave it where it waits.

        Args:
            path: a dirty path.
            emptied: what was agreed below it has been dealt with already.
        """
        self._pending.asked.pop(path, None)
        if self._is_waiting(path):
            return
        for replica in self._replicas:
            if path in replica.moves and self._moves.plan(replica, path):
                return
        left, right = self._replicas
        base = self._archive.get(path)
        if self._recall.is_open(path):
            if not self._pair.has_parent(path, None) or self._recall.settle(path):
                return
            base = self._archive.get(path)
        views = (left.view(path, base), right.view(path, base))
        if self._is_doomed(path, views):
            return
        favoured = self._favoured(path, views)
        decision = decide(base, *views, trust_times=not self.met, favoured=favoured)
        asks = self._limits.ask and path not in self._pair.taken
        if self._limits.meta_from is not None and not (asks and decision.conflict):
            shown = (views[0].entry, views[1].entry, self._pair.at_most.get(path))
            decision = with_meta_of(self._limits.meta_from, decision, base, *shown)
        decision = self._with_survivors(path, self._without_cuts(decision, views), views)
        if path in self._pair.untouched:
            decision = _adopted(decision)
        verb = decision.verb
        if verb is Verb.NOTHING:
            self._pair.rest(path)
        elif verb is Verb.AGREE:
            self._agree(path, decision, views)
        elif verb is Verb.FORGET:
            self._archive.remove(path)
            self._pair.rest(path)
        elif path in left.busy or path in right.busy:
            self._wait_for_writer(path)
        elif verb is Verb.COMPARE:
            for replica, view in zip(self._replicas, views, strict=True):
                entry = view.entry
                if entry is not None and entry.kind == Kind.FILE and not entry.digest:
                    replica.look(path, 2)
        elif verb is Verb.REMOVE and self._replicas[decision.source].survey.comparing:
            # It may turn up elsewhere: then it was renamed.
            self._pending.hold(path, _SCANNED[decision.source])
        elif asks and decision.conflict == RIVALS:
            self._ask(path, decision)
        elif not emptied and self._guard.holds(path, decision, views):
            pass  # how much goes with it is to be counted first
        elif verb is Verb.COPY and (why := self._guard.stops(path, decision, views)):
            self.halt(decision.source, "rewrites", why)
        elif verb is Verb.COPY:
            self._carrier.copy(path, decision, *views, emptied=emptied)
        elif verb is Verb.REMOVE:
            self._carrier.remove(path, decision, *views, emptied=emptied)
        else:
            self._carrier.adjust(path, decision, *views)

    def _favoured(self, path: bytes, views: tuple[View, View]) -> Side | None:
        """Whose version wins a conflict: what a person has said of these two, or of all."""
        taken = self._pair.taken.get(path)
        if taken is not None:
            side, *versions = taken
            if all(map(Entry.same_identity, versions, [view.entry for view in views])):
                return side
            del self._pair.taken[path]
        return self._limits.favoured

    def _ask(self, path: bytes, decision: Decision) -> None:
        """Leave both versions where they are until a person has chosen one."""
        for replica in self._replicas:
            replica.drop_content(path)
            if path in replica.leaving:  # what was there has been renamed: that may go on
                self._pending.touch(replica.leaving[path])
        message = f"{RIVALS}: psync conflicts --take left|right PATH"
        if self._pending.ask(path, decision.source.other, message):
            self._pair.note("conflict.asked", None, path, message)

    def _wait_for_writer(self, path: bytes) -> None:
        """A path is observed again once it is settled, if its directory is still there."""
        for replica in self._replicas:
            if replica.busy.get(path):
                self._pair.fail(path, replica.side, _IN_USE)
                return
        directory = split(path)[0]
        if not directory:
            return
        self._pending.hold(path, directory)
        for replica in self._replicas:
            above = replica.shows(directory)
            if path in replica.busy and (above is None or above.kind != Kind.DIRECTORY):
                replica.look(path, 0)

    def _agree(self, path: bytes, decision: Decision, views: tuple[View, View]) -> None:
        """Both sides hold the same, and nobody had to do anything."""
        if self._pair.has_parent(path, None):
            left, right = views[0].entry, views[1].entry
            assert decision.wanted is not None and left is not None and right is not None
            self._follow_former(path, left, right)
            self._archive.put(path, agree(decision.wanted, left, right, held=True))
            self._pair.rest(path)

    def _follow_former(self, path: bytes, left: Entry, right: Entry) -> None:
        """What comes to be agreed at a path may be what was at another, which both have renamed.

        If it stayed agreed there, and one side brought it back, it would be taken for what it
        had always been there, and for what the other side had removed.
        """
        for former in self._archive.find_links(Side.LEFT, left.ino):
            base = self._archive.get(former)
            if base is None or (base.kind, base.right_ino) != (right.kind, right.ino):
                continue
            if below_or_at(former, path):
                continue  # its record goes with the directory that was there
            if base.kind == Kind.DIRECTORY and not self._may_take_along(former, path):
                continue
            here = [replica.shows(former) for replica in self._replicas]
            if not any(e is not None and e.ino == base.on(i).ino for i, e in enumerate(here)):
                self._moves.follow_both(former, path, base)
                return

    def _may_take_along(self, former: bytes, path: bytes) -> bool:
        """Tell whether a directory's record may take what is agreed in it to another path."""
        return (
            self._archive.get(path) is None
            and not below_or_at(path, former)
            and self._flights.find(lambda op: below_or_at(op.path, former)) is None
        )

    def _without_cuts(self, decision: Decision, views: tuple[View, View]) -> Decision:
        """What a power cut has damaged is no edit: the other side's content comes back.

        File systems keep the order of names, not of content: a file may be empty, or one of ours,
        with the time that we gave it, hold zeros. That a user has emptied a file right before
        looks the same; what is replaced is kept. Nor is it given metadata first: then
        nothing would tell any more that it is older than the cut.
        """
        if decision.verb is not Verb.COPY and not decision.partial:
            return decision
        sides = [decision.source, decision.source.other] if decision.conflict else [decision.source]
        for side in sides:
            damaged, there = views[side].entry, views[side.other].entry
            if damaged is None or there is None or there.kind != Kind.FILE or not there.size:
                continue
            ours = bool(decision.conflict) and damaged.mtime_ns == there.mtime_ns
            if self._replicas[side].may_be_cut(damaged) and (ours or not damaged.size):
                return Decision(Verb.COPY, side.other, there.bare(), "a power cut has damaged it")
        return decision

    def _with_survivors(
        self, path: bytes, decision: Decision, views: tuple[View, View]
    ) -> Decision:
        """A directory in which something new lives stays, or comes back."""
        if path not in self._pair.survivors or decision.verb not in (Verb.REMOVE, Verb.COPY):
            return decision
        kept = decision.source.other
        entry = views[kept].entry
        if entry is None or entry.kind != Kind.DIRECTORY:
            return decision
        conflict = RIVALS if decision.verb is Verb.COPY else ""
        return Decision(Verb.COPY, kept, entry.bare(), conflict)


def _adopted(decision: Decision) -> Decision:
    """What is decided at a start that is to change nothing: only what is the same is agreed."""
    if decision.verb is Verb.ADJUST and not decision.partial:
        return Decision(Verb.AGREE, wanted=decision.wanted)
    if decision.verb in (Verb.COPY, Verb.REMOVE, Verb.ADJUST):
        return Decision(Verb.NOTHING)
    return decision
