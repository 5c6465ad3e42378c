"""Take in what the agents say, and check it before it is believed.

Everything that an agent says of its side is news of one order: what it says later counts,
and nothing of it is taken before what came earlier. While a directory's rename is
being settled (`core.moves`) the side's talk waits; results wait with it, for an
observation that was made before an operation must not be taken for one made after it.

**Invariants.** Paths that a peer names are inside the root; it answers only what it was
asked. News is never an instruction: it makes paths dirty, and they are decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from psync.core.carry import Carrier
from psync.core.entry import ROOT, XATTRS_MAX, Entry, Kind, join, parent, printable, valid_path
from psync.core.events import Send
from psync.core.moves import Moves
from psync.core.pair import Pair
from psync.core.reconcile import Standing, View, standing
from psync.core.replica import REQUESTED, Link, Replica
from psync.errors import AgentError
from psync.wire import (
    BUSY,
    DATABASE,
    UNREADABLE,
    Digests,
    Dropped,
    Item,
    Kept,
    Listing,
    Message,
    Observed,
    Rescan,
    Results,
    Scanned,
    Trouble,
)

__all__ = ["News"]

STREAM_MAX = 1000
_KINDS = frozenset((Kind.FILE, Kind.DIRECTORY, Kind.SYMLINK))


class News:
    """See the module's text."""

    def __init__(self, pair: Pair, moves: Moves, carrier: Carrier) -> None:
        self._pair = pair
        self._moves = moves
        self._carrier = carrier
        self._archive = pair.archive
        self._pending = pair.pending
        self._flights = pair.flights

    def hear(self, replica: Replica, message: Message) -> None:
        """Take a message, now or when its time has come.

        Raises:
            AgentError: it cannot be; nothing more is to be believed of this agent.
        """
        handler = self._at_once.get(type(message))
        if handler is not None:
            handler(self, replica, message)
        elif type(message) in self._in_order:
            replica.stream.append(message)
            self.catch_up()
            if len(replica.stream) > STREAM_MAX:
                self.scan_anew(replica, "too much happened while a directory was being renamed")
        else:
            raise AgentError(f"an agent does not say {type(message).__name__} now")

    def catch_up(self) -> bool:
        """Take the news whose time has come; tell whether there was any."""
        some = False
        for replica in self._pair.replicas:
            while replica.stream and not replica.turning:
                message = replica.stream.popleft()
                self._in_order[type(message)](self, replica, message)
                some = True
        return some

    # --- scans ---------------------------------------------------------------------------

    def _on_digests(self, replica: Replica, message: Digests) -> None:
        for path, _ in message.directories:
            _check(path)
        self._scan_begins(replica, message.generation)
        replica.survey.scanned(message.directories)

    def _scan_begins(self, replica: Replica, generation: int) -> None:
        """A scan will show everything: what was seen before it counts no more.

        Unless it was asked for as a full scan: then nothing was lost, and nothing stops.
        """
        survey = replica.survey
        if survey.generation == generation:
            return
        if replica.full_scan == REQUESTED:
            replica.full_scan = generation
            survey.begin(generation, keep=True)
            return
        replica.full_scan = 0
        if survey.generation:
            self.forget(replica)
            replica.link = Link.SCANNING
        survey.begin(generation)

    def _on_scanned(self, replica: Replica, message: Scanned) -> None:
        self._scan_begins(replica, message.generation)
        replica.entries, replica.local = message.entries, message.local
        if replica.full_scan == message.generation:
            replica.full_scan = 0
            replica.skipped = False
            replica.survey.finish()
            # An agent that has lost events of its own accord may have begun it for that.
            for directory in replica.views.directories():
                replica.survey.ask(directory)
            return
        self._keep_sent(replica)
        compare = self._pair.limits.compare or replica.compared or self._pair.adopting
        replica.survey.finish(compare=compare)
        replica.skipped = not (self._pair.limits.compare or replica.compared)
        replica.compared = True
        replica.link = Link.READY
        if all(each.link == Link.READY for each in self._pair.replicas):
            for each in self._pair.replicas:
                self._pending.dirty.update(dict.fromkeys(each.views))

    def _keep_sent(self, replica: Replica) -> None:
        """Operations under way may change what was agreed, which the scan is compared with now.

        What it does not show to be different is what was agreed before.
        """
        for op in self._flights.ops.values():
            if op.side == replica.side:
                continue
            for path in (op.path, op.transition.source) if op.is_rename else (op.path,):
                if path not in replica.views:
                    replica.views.set(path, replica.view(path, self._archive.get(path)))
                    replica.presumed[path] = None

    def forget(self, replica: Replica) -> None:
        """Drop all news of a side: a scan of it will show what counts."""
        self._carrier.stop_all_walks()
        other = self._pair.replicas[replica.side.other]
        dropped = list(replica.views)
        waiting = replica.forget()
        for path in dropped:
            if path in other.views or path in self._flights.at:
                self._pending.dirty[path] = None
            else:
                waiting[path] = None
        self._pending.dirty.update(waiting)
        self._pending.ask_anew()
        self._pending.release_all()

    def compare_all(self) -> None:
        """Have both sides scanned, while all else goes on; who is being scanned anyway need not."""
        for replica in self._pair.replicas:
            if replica.link == Link.READY and not replica.full_scan:
                replica.full_scan = REQUESTED
                self._pair.out.append(Send(replica.side, Rescan()))

    def is_full_scan(self, replica: Replica, generation: int) -> bool:
        """Tell whether a scan is one during which all else goes on."""
        if replica.full_scan == REQUESTED:
            return replica.survey.generation != generation
        return replica.full_scan == generation

    def scan_anew(self, replica: Replica, why: str) -> None:
        """Too much news to keep: forget it, a scan will show it again."""
        self.forget(replica)
        replica.full_scan = 0
        replica.link = Link.SCANNING
        self._pair.out.append(Send(replica.side, Rescan()))
        self._pair.note("side.rescan", replica.side, ROOT, why)

    # --- listings ------------------------------------------------------------------------

    def _on_listing(self, replica: Replica, message: Listing) -> None:
        directory = message.path
        _check(directory)
        if directory and self._pair.ignored(directory, True):
            replica.waste(message)
            if message.entry is not None:
                self._observe(replica, Item(directory, message.entry))
            self._listed(replica, directory)
            return
        if message.entry is None:
            # It is no directory; what it is now, if anything, only a look can tell. Until then
            # nobody may think that he knows what is in it.
            if directory and replica.link == Link.READY:
                replica.views.set(directory, View(None))
                replica.look(directory, 0)
            self._listed(replica, directory)
            return
        before = len(replica.views)
        if self._pair.adopting and directory in replica.survey.pending:
            if not replica.survey.is_asked(directory):
                self._adopt(message)
        # What a flush waits for may have happened long before it is listed.
        since = 0 if directory in replica.survey.pending else None
        if directory and not (message.after and _is_same(message.entry, replica.shows(directory))):
            # With each range of a giant one all that waits for it would be decided in vain.
            self._observe(replica, Item(directory, message.entry), since)
        names = set()
        for item in message.items:
            if b"/" in item.path or not item.path:
                raise AgentError(f"the agent listed {printable(item.path)!r} as a name")
            names.add(item.path)
            self._list(replica, directory, item._replace(path=join(directory, item.path)), since)
        self._list_absent(replica, message, names, since)
        replica.count_listed(before)
        if message.upto is None:
            self._listed(replica, directory, message.after)
        else:
            replica.survey.passed(directory, message.after, message.upto)

    def _adopt(self, message: Listing) -> None:
        """Nobody has touched what a scan shows, unless that was told before."""
        paths = [join(message.path, item.path) for item in message.items]
        paths += [message.path] if message.path else []
        self._pair.untouched.update(p for p in paths if p not in self._pending.since)

    def _list(self, replica: Replica, directory: bytes, item: Item, since: int | None) -> None:
        """Something is in a directory."""
        _check(item.path)
        if item.entry is not None:
            if item.entry.kind == Kind.DIRECTORY:
                replica.survey.found(directory, item.path)
            if self._archive.get(item.path) is None:
                self._moves.guess(replica, item.path, item.entry)
        self._observe(replica, item, since)

    def _list_absent(
        self, replica: Replica, message: Listing, names: set[bytes], since: int | None
    ) -> None:
        """Everything else that we know of in the listed range is not there any more."""
        directory, after, upto = message.path, message.after, message.upto
        known = self._archive.names(directory, after, upto)
        known.update(replica.views.names(directory, after, upto))
        other = self._pair.replicas[replica.side.other]
        for name in other.views.names(directory, after, upto):
            if name not in known and name not in names:
                self._pending.dirty[join(directory, name)] = None  # it has waited for this side
        for name in sorted(known - names):
            path = join(directory, name)
            if ("mount", path) in replica.troubles:
                continue  # hidden by what is mounted there, not gone
            if self._pair.hides(path, replica.shows(path)):
                self._pair.leave_out(path)
            else:
                self._observe(replica, Item(path, None), since)

    def _listed(self, replica: Replica, directory: bytes, after: bytes = b"") -> None:
        replica.survey.listed(directory, after)
        self._pending.release(directory)

    # --- observations --------------------------------------------------------------------

    def _on_observed(self, replica: Replica, message: Observed) -> None:
        for position, item in enumerate(message.items, 1):
            _check(item.path)
            if item.moved_from:
                _check(item.moved_from)
                self._moves.hint(replica, item)
            elif self._is_unlisted(replica, item):
                replica.survey.ask(item.path, deep=True)
            self._observe(replica, item)
            if replica.is_flooded:
                replica.waste(Observed(message.items[position:]))
                most = self._pair.limits.views_max
                self.scan_anew(replica, f"more than {most} changed paths")
                return
            if replica.turning:
                if position < len(message.items):
                    replica.stream.appendleft(Observed(message.items[position:]))
                return

    def _is_unlisted(self, replica: Replica, item: Item) -> bool:
        """Tell whether a directory is shown that nobody knew of, nor has told what is in it.

        It may have been known, and been taken for gone in the moment of a rename above it.
        """
        entry = item.entry
        if entry is None or entry.kind != Kind.DIRECTORY or not item.path:
            return False
        was = replica.shows(item.path)
        return was is None or (was.kind, was.ino) != (entry.kind, entry.ino)

    def _observe(self, replica: Replica, item: Item, since: int | None = None) -> None:
        """Take over what a side shows at a path; `since`: from when on it may be so."""
        path = item.path
        if not path or self._pair.hides(path, item.entry):
            replica.waste(Observed([item]))
            if not path or self._pair.hides(path, None):
                if path in replica.awaited:  # it was asked for before it was hidden
                    self._pair.leave_out(path)
                return
            item = item._replace(entry=None, content=None)  # in place of what may not be hidden
        _, entry, content, _, flags = item
        if entry is not None and entry.kind not in _KINDS:
            raise AgentError(f"the agent showed a kind that cannot be at {printable(path)!r}")
        if entry is not None and len(entry.xattrs) > XATTRS_MAX:
            raise AgentError(f"the agent showed too many attributes at {printable(path)!r}")
        pending = self._pending
        pending.sequence += 1
        want = replica.answered(path)
        if want < 0 and since is None and self._pair.untouched:
            self._pair.untouched.discard(path)
        if want < 0 and pending.problems:
            self._hurry(replica, item)
        if want >= 0:
            self._check_answer(replica, item, want)
        if flags & BUSY:
            replica.busy[path] = bool(flags & DATABASE)
        elif replica.busy and replica.busy.pop(path, False):
            pending.hurry(path)
        if entry is not None and self._carrier.walking:
            self._carrier.stop_walking(replica.side, path, entry)

        replica.presumed.pop(path, None)
        base = self._archive.get(path)
        same = base is None and entry is None
        if base is not None and entry is not None:
            same = standing(base, replica.side, View(entry)) is Standing.SAME
            if same and entry.digest and not base.digest:
                self._archive.put(path, base._replace(digest=entry.digest))
        # While an operation is under way the archive may be about to say something else: then
        # even what is as it was is news.
        flights = self._flights
        if same and path not in flights.at and flights.lock_above(path) is None:
            replica.views.pop(path)
        else:
            replica.views.set(path, replica.renewed(path, base, entry, flags, asked=want >= 0))
        replica.drop_content(path)
        if content is not None and entry is not None:
            replica.keep_content(path, entry, content, asked=want == 1)
        pending.touch(path, since)
        if want < 0 and not same and entry is not None and not flags & BUSY:
            self._pair.look_at_links(replica.side, path, entry)

    def _hurry(self, replica: Replica, item: Item) -> None:
        """Something has happened at a path: that may help what is put off there, or in it."""
        path, entry = item.path, item.entry
        is_directory = entry is not None and entry.kind == Kind.DIRECTORY
        if path not in self._pending.problems and not is_directory:
            return
        shown = replica.shows(path)
        if item.content is not None or not _is_same(entry, shown):
            self._pending.hurry(path)
        if entry is not None and _lets_in_others(shown, entry):
            self._pending.hurry_in(path)

    def _check_answer(self, replica: Replica, item: Item, want: int) -> None:
        """A look that did not bring what was asked for is a problem of that path.

        A look that brought a directory that nobody knew of tells nothing of what is in it.
        """
        entry, base = item.entry, self._archive.get(item.path)
        if entry is not None and entry.kind == Kind.DIRECTORY:
            is_known = base is not None and entry.same_identity(base.on(replica.side))
            if not is_known or replica.shows(item.path) is None:
                replica.survey.ask(item.path, deep=True)
            return
        if entry is None or entry.kind != Kind.FILE or item.flags & BUSY:
            return
        if item.flags & UNREADABLE:  # that may last
            self._pair.fail(item.path, replica.side, "it cannot be read")
        elif want == 1 and item.content is None and 0 < entry.size <= self._pair.limits.inline_max:
            self._pair.fail(item.path, replica.side, "its content cannot be read", soon=True)

    # --- the rest --------------------------------------------------------------------------

    def _on_results(self, replica: Replica, message: Results) -> None:
        expected = replica.plan.answered(message.batch)
        if expected is None or expected != len(message.outcomes):
            raise AgentError("the agent answered a batch that was never sent")
        for outcome in message.outcomes:
            op = self._flights.ops.get(outcome.op)
            if op is None or op.side != replica.side:
                raise AgentError("the agent answered an operation that was never sent")
            self._carrier.finish(op, outcome)

    def _on_trouble(self, replica: Replica, message: Trouble) -> None:
        _check(message.path)
        key = (message.code, message.path)
        if not message.message:
            replica.troubles.pop(key, None)
            return
        if key not in replica.troubles:
            event = f"trouble.{message.code}"
            self._pair.note(event, replica.side, message.path, message.message)
        replica.troubles[key] = message.message
        if message.code == "metadata":
            return  # of no path in particular
        self._listed(replica, message.path)
        self._cannot_look(replica, message)

    def _cannot_look(self, replica: Replica, message: Trouble) -> None:
        """Trouble may be all the answer that a question gets: then it is asked again later.

        Of a directory that cannot be entered it is told once for all that is in it.
        """
        unanswered = [message.path] if message.path in replica.awaited else []
        if message.code == "unreadable":
            unanswered += [p for p in replica.awaited if p and parent(p) == message.path]
        for path in unanswered:
            replica.answered(path)
            self._pair.fail(path, replica.side, message.message)

    def _on_kept(self, replica: Replica, message: Kept) -> None:
        _check(message.path)
        self._pair.keep(replica.side, message.path, message.kept, fresh=message.fresh)

    def _on_dropped(self, replica: Replica, message: Dropped) -> None:
        path = message.path
        _check(path)
        self._pair.conflicts.pop((replica.side, message.kept), None)
        if path:
            self._pair.note("conflict.beside", replica.side, path, "the version that lost is here")
        if path and replica.link == Link.READY:
            replica.look(path, 0)
            self._pending.touch(path, 0)  # whoever waits for the conflict waits for it, too

    _at_once: ClassVar[dict[type, Callable[[News, Replica, Any], None]]] = {
        Digests: _on_digests,
        Scanned: _on_scanned,
    }
    _in_order: ClassVar[dict[type, Callable[[News, Replica, Any], None]]] = {
        Listing: _on_listing,
        Observed: _on_observed,
        Results: _on_results,
        Kept: _on_kept,
        Dropped: _on_dropped,
        Trouble: _on_trouble,
    }


def _check(path: bytes) -> None:
    if not valid_path(path):
        raise AgentError(f"the agent named a path that cannot be: {printable(path)!r}")


def _lets_in_others(was: Entry | None, now: Entry) -> bool:
    """Tell whether who may do what in a directory has changed."""
    if was is None or not was.kind == now.kind == Kind.DIRECTORY:
        return False
    return (was[:4], was.xattrs) != (now[:4], now.xattrs)  # mode and owner


def _is_same(entry: Entry | None, shown: Entry | None) -> bool:
    if entry is None or shown is None:
        return entry is shown
    return entry.same_identity(shown) and entry.same_meta(shown)
