"""Ordered, bounded batches of transitions for one replica.

Latency first: what is ready when the plan is asked goes out at once; while the window is
full everything else gathers, and goes out together when results come back. Nothing waits
for a timer.

**Invariants.** Transitions leave in the order in which they were added. No more than
`OPS_MAX` operations and `BYTES_MAX` bytes of content (or one operation larger than that)
are unanswered. A batch fits a frame.
"""

from __future__ import annotations

from psync.wire import Apply, Transition

__all__ = ["Plan"]

OPS_MAX = 1024
BYTES_MAX = 8 * 1024 * 1024
BATCH_OPS_MAX = 128
BATCH_BYTES_MAX = 1024 * 1024


class Plan:
    """What is to be sent to one side, and what has been sent and not answered."""

    def __init__(self) -> None:
        self._ready: list[Transition] = []
        self._sent: dict[int, tuple[int, int]] = {}  # batch -> operations, bytes
        self._batch = 0
        self._ops = 0
        self._bytes = 0

    @property
    def has_room(self) -> bool:
        """Tell whether another transition may be added now."""
        return self._ops < OPS_MAX and self._bytes < BYTES_MAX

    @property
    def idle(self) -> bool:
        """Tell whether nothing is waiting and nothing unanswered."""
        return not self._ops

    def add(self, transition: Transition) -> None:
        """Append a transition to the next batch."""
        self._ready.append(transition)
        self._ops += 1
        self._bytes += len(transition.content or b"")

    def take(self) -> list[Apply]:
        """Cut what is ready into batches; they count as sent."""
        batches: list[Apply] = []
        ready = self._ready
        start = size = 0
        for i, transition in enumerate(ready):
            cost = len(transition.content or b"")
            if i > start and (i - start >= BATCH_OPS_MAX or size + cost > BATCH_BYTES_MAX):
                batches.append(self._cut(ready[start:i], size))
                start, size = i, 0
            size += cost
        if start < len(ready):
            batches.append(self._cut(ready[start:], size))
        self._ready = []
        return batches

    def _cut(self, transitions: list[Transition], size: int) -> Apply:
        self._batch += 1
        self._sent[self._batch] = (len(transitions), size)
        return Apply(self._batch, transitions)

    def answered(self, batch: int) -> int | None:
        """Take note that a batch's results came; return its length, None: no such batch."""
        ops, size = self._sent.pop(batch, (None, 0))
        if ops is not None:
            self._ops -= ops
            self._bytes -= size
        return ops

    def reset(self) -> None:
        """Forget everything: the connection is gone. Batch numbers go on."""
        self._ready, self._sent = [], {}
        self._ops = self._bytes = 0
