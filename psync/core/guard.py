"""Halt before a great part of a replica is deleted that nobody meant to delete.

A scan that lacks too much halts before anything of it is compared. Deletions that are seen
one by one are made at once as long as they are few; of a flood of them all others wait
until it pauses, and are counted: `rm -rf` is faster than we are. What is too much is
measured by the most that was agreed in the last minute.

**Invariants.** What has been counted and was not too much waits no more. Who waits has a
deadline, or the session has halted. What is removed with a directory was counted with it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice

from psync.core.entry import Kind, Side, ancestors
from psync.core.pair import Pair
from psync.core.reconcile import Decision, Verb, View

__all__ = ["Guard"]

FREE = 32  # deletions under way that wait for nobody
_PAUSE_S = 0.2
_PATIENCE_S = 10.0  # a flood without a pause is counted so often
_FLOOD_S = 60.0  # what is deleted later is another flood
_COUNTED_MAX = 5000  # at a time
_GONE = (b"\0gone left", b"\0gone right")  # no paths: who waits for a flood's pause waits there


class _Flood:
    """Deletions that one side has seen; see `Guard`."""

    def __init__(self) -> None:
        self.began = -math.inf
        self.agreed = 0  # the most entries since then
        self.strict = False  # a scan shows all of it: none is made uncounted
        self.accepted = False
        self.first = self.due = math.inf  # since when somebody waits, and when he is counted
        self.counting: dict[bytes, None] = {}  # who waited when that began
        self.census: Iterator[bytes] = iter(())  # of all that goes with them
        self.gone = 0  # as far as it has come
        self.counted: set[bytes] = set()  # who need not wait any more


class Guard:
    """See the module's text."""

    def __init__(self, pair: Pair) -> None:
        self._archive = pair.archive
        self._pending = pair.pending
        self._flights = pair.flights
        self._limits = pair.limits
        self._floods = [_Flood(), _Flood()]  # by the side that shows them
        self._accepted: set[Side] = set()  # sides whose next scan may lack whatever it lacks

    # --- what is known of a side ---------------------------------------------------------

    def forget(self, side: Side) -> None:
        """What a side has shown counts no more."""
        self._floods[side] = _Flood()

    def scanned(self, side: Side, entries: int) -> str:
        """Say what is wrong with a scan that has found so many entries; empty: nothing."""
        agreed = self._archive.count
        self._floods[side].strict = True
        if side in self._accepted:
            self._accepted.remove(side)
            self._floods[side].accepted = True
        elif entries < agreed - self._most(agreed):
            return (
                f"{side.name.lower()} shows {entries} entries where {agreed} were agreed: "
                f"{self._consequence}"
            )
        return ""

    # --- what a person says --------------------------------------------------------------

    def accept_next(self, side: Side) -> None:
        """What the next scan of a side lacks is meant to be gone."""
        self._accepted.add(side)

    def accept(self) -> None:
        """What is gone is meant to be gone, until both sides are at rest."""
        for side in Side:
            self._let_go(side)
            self._floods[side].accepted = True

    def rest(self) -> None:
        """Both sides are at rest."""
        for flood in self._floods:
            flood.accepted = flood.strict = False
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
        if flood.accepted or path in flood.counted:
            return False
        if now > flood.began + _FLOOD_S and flood.due == math.inf:
            flood.began, flood.agreed = now, 0
            flood.counted.clear()
        flood.agreed = max(flood.agreed, self._archive.count)
        most = self._most(flood.agreed)
        if most >= flood.agreed:
            return False
        if not flood.strict:
            going = self._flights.removals + 1
            if is_directory:
                below = (p for p in self._archive.walk_up(path) if p not in self._flights.at)
                going += sum(1 for _ in islice(below, FREE))
            few = most // 4
            fewest = max(flood.agreed - few, self._fewest)
            if going <= min(FREE, few) and self._archive.count - going >= fewest:
                return False
        flood.first = min(flood.first, now)
        flood.due = now if flood.strict else min(now + _PAUSE_S, flood.first + _PATIENCE_S)
        self._pending.hold(path, _GONE[decision.source])
        return True

    def count(self) -> tuple[Side, str] | None:
        """Let those go on who have waited long enough; or say where and why it would be too much.

        Who waits for very many takes more than one call, so that nothing else waits for it.
        """
        for side, flood in zip(Side, self._floods, strict=True):
            if self._pending.now < flood.due:
                continue
            if not flood.counting:
                flood.counting = dict(self._pending.held.get(_GONE[side], {}))
                flood.census, flood.gone = self._all_of(flood.counting), 0
            some = sum(1 for _ in islice(flood.census, _COUNTED_MAX))
            flood.gone += some
            agreed = flood.agreed
            lost = agreed - self._archive.count + flood.gone
            if lost > self._most(agreed):
                flood.counting = {}
                return side, (
                    f"{side.name.lower()} has lost {lost} of {agreed} entries, or more: "
                    f"{self._consequence}"
                )
            if some == _COUNTED_MAX:
                continue
            flood.counted.update(flood.counting)
            flood.strict = False
            self._let_go(side)
        return None

    def _let_go(self, side: Side) -> None:
        flood = self._floods[side]
        flood.counting, flood.first, flood.due = {}, math.inf, math.inf
        self._pending.release(_GONE[side])

    @property
    def deadline(self) -> float | None:
        """When `count` has something to do."""
        due = min(flood.due for flood in self._floods)
        return None if due == math.inf else due

    def _all_of(self, paths: dict[bytes, None]) -> Iterator[bytes]:
        """Everything agreed that goes with some paths, once."""
        for path in paths:
            if not any(above in paths for above in ancestors(path)):
                yield from self._archive.walk_up(path)
                yield path

    def _most(self, agreed: int) -> int:
        """How many entries of so many may go."""
        limit = self._limits.max_delete
        if isinstance(limit, int):
            return limit
        return int(agreed * limit + 1e-9) if agreed >= self._fewest else agreed

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
