"""How fast a session goes and how far it lags: for people who look at it, never for a decision.

The brain notes after each of its steps how much has been observed and applied so far; whoever
asks is told what became of it lately. An observation is known by its number in their order
(`Session.mark`), so that to note costs the same however many paths are on their way; when
it was made is looked up in the notes when somebody asks.

**Invariants.** It is of bounded size: what lies further back is known less exactly. A lag is never
told too small, and too large by `SLOT_S` at most, or by an eighth of itself. A rate is that of the
last `RATE_OVER_S` seconds. The last changes are the last `CHANGES_MAX`.

It has no clock: `now` is that of the brain's loop.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

from psync.core.entry import Side, printable

__all__ = ["CHANGES_MAX", "RATE_OVER_S", "SLOT_S", "Pace"]

SLOT_S = 0.25
RATE_OVER_S = 10.0
CHANGES_MAX = 40
_SLOTS_MAX = 512


class _Slot(NamedTuple):
    """What happened between two times, and how it was at the end of it.

    Attributes:
        began: in s, as `ended`.
        mark: the number of the last observation.
        applied: changes that each side has been given.
        moved: bytes likewise.
    """

    began: float
    ended: float
    mark: int
    applied: Sequence[int]
    moved: Sequence[int]


class Pace:
    """See the module's text."""

    def __init__(self, now: float) -> None:
        self._slots = [_Slot(now, now, 0, (0, 0), (0, 0))]
        self._changes: deque[tuple[float, Side, bytes, str]] = deque(maxlen=CHANGES_MAX)
        self._rested = now
        self._state: object = None
        self.state_since = 0.0

    def note(
        self,
        now: float,
        mark: int,
        applied: Sequence[int],
        moved: Sequence[int],
        *,
        at_rest: bool = False,
    ) -> None:
        """So much has been observed, applied and written until now; `at_rest`: nothing waits."""
        if at_rest:
            self._rested = now
        slots = self._slots
        began = slots[-1].began
        if now - began < SLOT_S:
            slots[-1] = _Slot(began, now, mark, applied, moved)
            return
        slots.append(_Slot(now, now, mark, applied, moved))
        if len(slots) > _SLOTS_MAX:
            self._slots = _thinned(slots, now)

    def is_in(self, state: object, clock: float) -> None:
        """The session is in this state; `clock`: the time of day, in s since 1970."""
        if state is not self._state:
            self._state, self.state_since = state, clock

    def changed(self, clock: float, side: Side, path: bytes, what: str) -> None:
        """A change was applied to a side."""
        self._changes.append((clock, side, path, what))

    def lag(self, oldest: int | None, now: float) -> float:
        """For how long the observation of a number has been waiting, in s; None: nothing waits."""
        if oldest is None:
            return 0.0
        # What was observed since the last note is in none yet. A number may be told too small,
        # so that a flush waits for it: but it is younger than the last time when nothing waited.
        began = next((slot.began for slot in self._slots if slot.mark >= oldest), now)
        return max(0.0, now - max(began, self._rested))

    def rates(
        self, side: Side, now: float, applied: Sequence[int], moved: Sequence[int]
    ) -> tuple[float, float]:
        """Changes and bytes a second that a side has been given lately."""
        first = self._slots[0]
        since = now - RATE_OVER_S
        before = next((slot for slot in reversed(self._slots) if slot.ended <= since), None)
        _, _, _, applied_then, moved_then = before or (0.0, 0.0, 0, (0, 0), (0, 0))
        over = min(RATE_OVER_S, max(now - first.began, 1.0))
        return (
            (applied[side] - applied_then[side]) / over,
            (moved[side] - moved_then[side]) / over,
        )

    def last_changes(self) -> list[dict[str, Any]]:
        """What was applied last, the newest first: plain values, ready for JSON."""
        return [
            {"time": clock, "side": side.name.lower(), "path": printable(path), "what": what}
            for clock, side, path, what in reversed(self._changes)
        ]


def _thinned(slots: list[_Slot], now: float) -> list[_Slot]:
    """Join slots that are far back, each over an eighth of how far that is."""
    kept = slots[:1]
    for slot in slots[1:]:
        last = kept[-1]
        if slot.ended - last.began <= (now - last.began) / 8:
            kept[-1] = slot._replace(began=last.began)
        else:
            kept.append(slot)
    return kept
