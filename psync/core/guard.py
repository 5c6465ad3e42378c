"""Halt before a great part of a replica is deleted, or rewritten, that nobody meant to be.

A scan that lacks too much halts before anything of it is compared. Deletions that are seen
one by one are made at once as long as they are few; of a flood of them all others wait
until it pauses, and are counted: `rm -rf` is faster than we are. What is too much is
measured by the most that was agreed in the last minute; what is only somewhere else is not gone.
Files that are replaced because they were edited are counted as well, if people want that: a program
gone wild (or one that encrypts all it can reach) rewrites more in a minute than anybody edits.

**Invariants.** What has been counted and was not too much waits no more. Who waits has a
deadline, or the session has halted. What is removed with a directory was counted with it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import chain, islice

from psync.core.entry import Entry, Kind, Side, ancestors
from psync.core.events import Limits
from psync.core.pair import Pair
from psync.core.reconcile import Decision, Verb, View

__all__ = ["Guard"]

FREE = 32  # deletions that go at once, until there was a pause or they were counted
_PAUSE_S = 0.2
_PATIENCE_S = 10.0  # a flood without a pause is counted so often
_FLOOD_S = 60.0  # what is deleted later is another flood
_ACCEPTED_S = 5.0  # without a deletion: what comes then has not been accepted
_COUNTED_MAX = 5000  # at a time
_GONE = (b"\0gone left", b"\0gone right")  # no paths: who waits for a flood's pause waits there
_REWRITTEN = (b"\0rewritten left", b"\0rewritten right")  # likewise, for a person's word


class _Flood:
    """Deletions that one side has seen; see `Guard`."""

    def __init__(self) -> None:
        self.began = self.last = -math.inf
        self.agreed = 0  # the most entries since then
        self.free = 0  # so many more may go at once
        self.strict = False  # a scan shows all of it: none is made uncounted
        self.accepted = -math.inf  # until when all may go
        self.follows = False  # one that was accepted: then no replica is too small to be guarded
        self.first = self.due = math.inf  # since when somebody waits, and when he is counted
        self.counting: dict[bytes, None] = {}  # who waited when that began
        self.census: Iterator[int] | None = None  # over all that goes with them
        self.left = 0  # entries when it began, and how many of them are gone, as far as it has come
        self.gone = 0
        self.counted: set[bytes] = set()  # who need not wait any more


class _Rewrites:
    """Files that one side has edited within a minute; see `Guard`."""

    def __init__(self) -> None:
        self.began = self.accepted = -math.inf
        self.paths: set[bytes] = set()


class Guard:
    """See the module's text."""

    def __init__(self, pair: Pair) -> None:
        self._archive = pair.archive
        self._pending = pair.pending
        self._replicas = pair.replicas
        self._limits = pair.limits
        self._floods = [_Flood(), _Flood()]  # by the side that shows them
        self._rewrites = [_Rewrites(), _Rewrites()]  # likewise
        self._accepted: set[Side] = set()  # sides whose next scan may lack whatever it lacks

    # --- what is known of a side ---------------------------------------------------------

    def forget(self, side: Side) -> None:
        """What a side has shown counts no more; who has waited for that is decided anew."""
        self._floods[side] = _Flood()
        self._rewrites[side] = _Rewrites()
        self._pending.release(_GONE[side])
        self._pending.release(_REWRITTEN[side])

    def scanned(self, side: Side, entries: int) -> str:
        """Say what is wrong with a scan that has found so many entries; empty: nothing."""
        agreed = self._archive.count
        self._floods[side].strict = True
        if side in self._accepted:
            self._accepted.remove(side)
            self._floods[side].accepted = math.inf
            return ""
        lacking = agreed - self._most(agreed) - entries
        if lacking > 0 and lacking > self._hidden(side, lacking):
            return (
                f"{side.name.lower()} shows {entries} entries where {agreed} were agreed: "
                f"{self._consequence}"
            )
        return ""

    def _hidden(self, side: Side, enough: int) -> int:
        """How many agreed entries, up to `enough`, a scan could not see: they may well be there."""
        troubles = self._replicas[side].troubles
        tops = {path for code, path in troubles if code in ("unreadable", "mount", "io")}
        below = (
            path
            for top in sorted(tops)
            if not tops & set(ancestors(top))
            for path in self._archive.walk_up(top)
        )
        return sum(1 for _ in islice(below, max(enough, 0)))

    def take_over(self, limits: Limits) -> None:
        """Count by other limits from now on."""
        self._limits = limits

    def compared(self, side: Side) -> None:
        """All of a side is being compared while work goes on: no deletion is made uncounted."""
        self._floods[side].strict = True

    # --- what a person says --------------------------------------------------------------

    def accept_next(self, side: Side) -> None:
        """What the next scan of a side lacks is meant to be gone."""
        self._accepted.add(side)

    def accept(self) -> None:
        """What is gone is meant to be gone, and what is rewritten to be rewritten."""
        for side, rewrites in zip(Side, self._rewrites, strict=True):
            rewrites.accepted = self._pending.now + _ACCEPTED_S
            self._pending.release(_REWRITTEN[side])
        for side, flood in zip(Side, self._floods, strict=True):
            flood.counted.update(self._pending.held.get(_GONE[side], ()))
            flood.accepted = math.inf
            self._let_go(side)

    def rest(self) -> None:
        """Both sides are at rest."""
        for flood in self._floods:
            self._accept_no_more(flood)
            flood.strict = False
            flood.counted.clear()

    # --- deletions -----------------------------------------------------------------------

    def holds(self, path: bytes, decision: Decision, views: tuple[View, View]) -> bool:
        """Tell whether a decision waits, because it may be part of a great deletion."""
        there = views[decision.source.other].entry
        is_directory = there is not None and there.kind == Kind.DIRECTORY
        if decision.verb is not Verb.REMOVE:
            replaced = is_directory and decision.verb is Verb.COPY
            if not replaced or _kind(decision) == Kind.DIRECTORY:
                return False
        flood, now = self._floods[decision.source], self._pending.now
        if now <= flood.accepted:
            flood.accepted = max(flood.accepted, now + _ACCEPTED_S)
            return False
        self._accept_no_more(flood)
        if path in flood.counted:
            return False
        if now > flood.began + _FLOOD_S and flood.due == math.inf:
            flood.began, flood.agreed, flood.follows = now, 0, False
            flood.counted.clear()
        flood.agreed = max(flood.agreed, self._archive.count)
        most = self._most(flood.agreed, small=flood.follows)
        if most >= flood.agreed:
            return False
        if now > flood.last + _PAUSE_S:
            self._renew(flood)
        flood.last = now
        if not flood.strict:
            weight = 1
            if is_directory:
                below = (p for p in self._archive.walk_up(path) if p not in flood.counted)
                weight += sum(1 for _ in islice(below, FREE))
            if weight <= flood.free:
                flood.free -= weight
                flood.counted.add(path)
                return False
        flood.first = min(flood.first, now)
        flood.due = now if flood.strict else min(now + _PAUSE_S, flood.first + _PATIENCE_S)
        self._pending.hold(path, _GONE[decision.source])
        return True

    def _accept_no_more(self, flood: _Flood) -> None:
        """What has been accepted is no part of what is counted from now on."""
        if flood.accepted != -math.inf:
            flood.accepted = -math.inf
            flood.began, flood.agreed, flood.follows = self._pending.now, 0, True

    # --- edits ---------------------------------------------------------------------------

    def stops(self, path: bytes, decision: Decision, views: tuple[View, View]) -> str:
        """Say why a file is not replaced now, though it was edited; empty: it is.

        It waits until a person has spoken, or its side is scanned anew.
        """
        limit, now = self._limits.max_rewrite, self._pending.now
        there = views[decision.source.other].entry
        if limit is None or there is None or {there.kind, _kind(decision)} != {Kind.FILE}:
            return ""
        rewrites = self._rewrites[decision.source]
        if now <= rewrites.accepted:
            rewrites.accepted = now + _ACCEPTED_S
            return ""
        if now > rewrites.began + _FLOOD_S:
            rewrites.began = now
            rewrites.paths.clear()
        most = self._share(limit, max(self._archive.count, self._limits.max_delete_min))
        if path in rewrites.paths or len(rewrites.paths) < most:
            rewrites.paths.add(path)
            return ""
        self._pending.hold(path, _REWRITTEN[decision.source])
        return (
            f"{decision.source.name.lower()} has rewritten more than {most} files within a minute: "
            "no more of them are replicated. If that is right: psync resume --accept"
        )

    # --- how much was deleted --------------------------------------------------------------

    def count(self) -> tuple[Side, str] | None:
        """Let those go on who have waited long enough; or say where and why it would be too much.

        Who waits for very many takes more than one call, so that nothing else waits for it.
        """
        now = self._pending.now
        for side, flood in zip(Side, self._floods, strict=True):
            if flood.accepted == math.inf and not self._replicas[side].survey.pending:
                flood.accepted = now + _ACCEPTED_S
            if now < flood.due:
                continue
            if flood.census is None:
                if self._is_in_doubt(side) and now < flood.first + _PATIENCE_S:
                    flood.due = min(now + _PAUSE_S, flood.first + _PATIENCE_S)
                    continue
                flood.counting = dict(self._pending.held.get(_GONE[side], {}))
                flood.census = self._census(
                    side, {**flood.counting, **dict.fromkeys(flood.counted)}
                )
                flood.left, flood.gone = self._archive.count, 0
            visited = 0
            for is_gone in islice(flood.census, _COUNTED_MAX):
                flood.gone += is_gone
                visited += 1
            lost = flood.agreed - flood.left + flood.gone
            if lost > self._most(flood.agreed, small=flood.follows):
                flood.census = None
                return side, (
                    f"{side.name.lower()} has lost {lost} of {flood.agreed} entries, or more: "
                    f"{self._consequence}"
                )
            if visited == _COUNTED_MAX:
                continue
            flood.counted.update(flood.counting)
            flood.strict = False
            self._let_go(side)
            self._renew(flood)
        return None

    def _renew(self, flood: _Flood) -> None:
        """Let some go at once again: not so many that a restart would find nothing wrong."""
        few = self._most(flood.agreed) // 4
        fewest = max(flood.agreed - few, self._fewest)
        flood.free = max(0, min(FREE, few, self._archive.count - fewest))

    def _is_in_doubt(self, side: Side) -> bool:
        """Tell whether what is gone on a side may be about to turn up elsewhere."""
        replica = self._replicas[side]
        return bool(replica.survey.pending or replica.moves or replica.stream)

    def _census(self, side: Side, paths: dict[bytes, None]) -> Iterator[int]:
        """Visit everything agreed that goes with some paths, once: 1 for each that is gone."""
        views = self._replicas[side].views
        elsewhere = {
            _name_of(view.entry)
            for view in map(views.get, views)
            if view is not None and view.entry is not None
        }
        for top in paths:
            if any(above in paths for above in ancestors(top)):
                continue
            for path in chain(self._archive.walk_up(top), (top,)):
                view, base = views.get(path), self._archive.get(path)
                is_back = view is not None and view.entry is not None
                yield base is not None and not is_back and _name_of(base.on(side)) not in elsewhere

    def _let_go(self, side: Side) -> None:
        flood = self._floods[side]
        flood.counting, flood.census, flood.first, flood.due = {}, None, math.inf, math.inf
        self._pending.release(_GONE[side])

    @property
    def deadline(self) -> float | None:
        """When `count` has something to do."""
        due = min(flood.due for flood in self._floods)
        return None if due == math.inf else due

    def _most(self, agreed: int, *, small: bool = False) -> int:
        """How many entries of so many may go; `small`: even of few, not guarded else."""
        limit = self._limits.max_delete
        if isinstance(limit, int):
            return limit
        return self._share(limit, agreed) if small or agreed >= self._fewest else agreed

    @staticmethod
    def _share(limit: float, agreed: int) -> int:
        return limit if isinstance(limit, int) else int(agreed * limit + 1e-9)

    @property
    def _fewest(self) -> int:
        """Fewer entries than these are not guarded."""
        return 0 if isinstance(self._limits.max_delete, int) else self._limits.max_delete_min

    @property
    def _consequence(self) -> str:
        limit = self._limits.max_delete
        told = f"{limit} entries" if isinstance(limit, int) else f"{limit:.0%}"
        return f"more than {told} would be deleted. If that is right: psync resume --accept-deletes"


def _kind(decision: Decision) -> int:
    assert decision.wanted is not None
    return decision.wanted.kind


def _name_of(entry: Entry) -> tuple[int, ...]:
    """What stays the same when something is renamed: numbers of inodes alone are used again."""
    if entry.kind == Kind.DIRECTORY:
        return (entry.kind, entry.ino)
    return (entry.kind, entry.ino, entry.size, entry.mtime_ns)
