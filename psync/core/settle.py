"""Wait until a file is quiet before looking at it, and no longer than that.

A program that saves makes a burst of events: created, modified, modified, closed. To look
at each would show halves of files; to wait a fixed time would make everybody wait. So a
path that is being written waits for its close, everything else is due at once, and what
is never closed is due after `max_delay` all the same.

For each path that something happened to there is one record, in one of two places:

    waiting   written and not closed yet: due `settle_ms` after the last write, or when
              closed, but not later than `max_delay_ms` after the first write
    ready     due now, in the order in which it became due

Renames are kept with the new path (`Due.moved_from`), and what waits under the old path
goes on under the new one; so the chain a -> b -> c is one move from a to c. Directories that
take each other's names are an exception: of a ring of moves none can be made first. There the
name by way of which it was closed is told, too, though nothing is there any more (`PASSED`).

**Invariants.** Pure: the caller says what time it is. A path has at most one record. A
path that was noted is given out by `due` at least once after it was noted last, unless
`overflowed` is set: then nothing is known any more, and the caller looks at everything
(and calls `clear`). A directory's record comes out before those of what is in it, if it
was noted before them. Memory: at most `paths_max` records.

Whether somebody has a file open cannot be known here; the caller looks, and says `busy`.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import NamedTuple, Optional

__all__ = [
    "ATTRIBUTES",
    "CLOSED",
    "CREATED",
    "DEEP",
    "DELETED",
    "DIRECTORY",
    "HELD",
    "LIST",
    "MODIFIED",
    "MOVED",
    "MOVED_IN",
    "MOVED_OUT",
    "PASSED",
    "Due",
    "Settle",
]

# What happened to a path: the bits of cinotify's event frames ...
CREATED = 1
MODIFIED = 2
CLOSED = 4
ATTRIBUTES = 8
DELETED = 16
MOVED_IN = 32
MOVED_OUT = 64
DIRECTORY = 128
# ... and our own.
MOVED = 256  # a rename whose old path we know
LIST = 512  # a directory that is new here: what is in it is wanted, too
DEEP = 1024  # ... and what is in its directories
HELD = 2048  # given out once and taken back (`hold`, `put_back`)
PASSED = 4096  # a directory was renamed to here and on, to `Due.onward`: a ring is told in order

_GONE = DELETED | MOVED_OUT
_META = ATTRIBUTES | MOVED
_WRITING = CREATED | MODIFIED
_AT_ONCE = CLOSED | _GONE | MOVED_IN | LIST | DIRECTORY
_BACKOFF_MIN = 0.001  # a close is reported a moment before the kernel lets go of the file
_BACKOFF_MAX = 1.0


class Due(NamedTuple):
    """A path to look at now.

    Attributes:
        path: where.
        meta_only: nothing but attributes, or its name, has changed since it was given out last.
        force: it has waited for `max_delay` (or a flush does not wait): take it as it is.
        mask: all that happened to it; `DELETED` or `MOVED_OUT` only if that was the last.
        moved_from: where it was renamed from, or empty.
        onward: where it was renamed to, if it is not here any more (`PASSED`), or empty.
    """

    path: bytes
    meta_only: bool
    force: bool
    mask: int
    moved_from: bytes
    onward: bytes = b""


def _is_meta(mask: int) -> bool:
    return bool(mask & _META) and not mask & ~(_META | DIRECTORY | HELD)


class _Record:
    __slots__ = ("first", "force", "mask", "moved_from", "onward", "queued", "step", "until")

    def __init__(self, mask: int, moved_from: bytes = b"") -> None:
        self.mask = mask
        self.moved_from = moved_from
        self.onward = b""
        self.first = 0.0  # when it began to wait; 0: it does not
        self.until = 0.0
        self.queued = False  # whether the heap knows of it
        self.step = 0.0  # backoff
        self.force = False

    def forget_move(self) -> None:
        self.mask &= ~(MOVED | PASSED)
        self.moved_from = self.onward = b""


class Settle:
    """See the module's text."""

    def __init__(self, settle_ms: int, max_delay_ms: int, paths_max: int = 100_000) -> None:
        """Begin with nothing pending."""
        self._settle = settle_ms / 1000
        self._max_delay = max(max_delay_ms, settle_ms) / 1000
        self._paths_max = paths_max
        self._ready: dict[bytes, _Record] = {}
        self._waiting: dict[bytes, _Record] = {}
        self._heap: list[tuple[float, int, bytes, _Record]] = []
        self._serial = 0
        self._given: dict[bytes, _Record] = {}
        self.overflowed = False

    def take_over(self, settle_ms: int, max_delay_ms: int) -> None:
        """Wait so long from now on; what waits already is due when it was to be."""
        self._settle = settle_ms / 1000
        self._max_delay = max(max_delay_ms, settle_ms) / 1000

    def __len__(self) -> int:
        return len(self._ready) + len(self._waiting)

    @property
    def ready(self) -> int:
        """How many paths are due without waiting (and without counting whose time has come)."""
        return len(self._ready)

    def is_ready(self, path: bytes) -> bool:
        """Tell whether a path is due without waiting."""
        return path in self._ready

    def waits(self, path: bytes) -> bool:
        """Tell whether a path waits until it is quiet."""
        return path in self._waiting

    def clear(self) -> None:
        """Forget everything: all will be looked at anyway."""
        self._ready.clear()
        self._waiting.clear()
        self._heap.clear()
        self._given.clear()
        self.overflowed = False

    def note(self, path: bytes, mask: int, now: float) -> None:
        """Something happened to a path."""
        record = self._ready.get(path)
        if record is not None:
            if mask & _AT_ONCE or not mask & _WRITING:
                self._combine(record, mask)
                return
            del self._ready[path]
            self._combine(record, mask)
            self._wait(path, record, now)
            return
        record = self._waiting.get(path)
        if record is None:
            if len(self._ready) + len(self._waiting) >= self._paths_max:
                self.overflowed = True
                return
            record = _Record(mask)
        else:
            self._combine(record, mask)
            if not mask & _AT_ONCE and not record.mask & HELD:
                if mask & _WRITING:
                    record.until = min(now + self._settle, record.first + self._max_delay)
                return
            del self._waiting[path]
        if mask & _AT_ONCE or not mask & _WRITING:
            self._ready[path] = record
        else:
            self._wait(path, record, now)

    @staticmethod
    def _combine(record: _Record, mask: int) -> None:
        if mask & _GONE:
            # Nothing is forgotten for it: the watcher waits for the other half of a rename
            # before it says "moved out", and something new may be at the path by then.
            record.mask |= mask
            record.first = 0.0
            record.step = 0.0
            return
        if mask & (CREATED | MOVED_IN) or (mask & LIST and record.mask & PASSED):
            record.forget_move()  # another one than was renamed to here
        record.mask = (record.mask & ~_GONE) | mask

    def _wait(self, path: bytes, record: _Record, now: float) -> None:
        if not record.first:
            record.first = now
        record.until = min(now + self._settle, record.first + self._max_delay)
        self._waiting[path] = record
        self._enqueue(path, record)

    def _enqueue(self, path: bytes, record: _Record) -> None:
        self._serial += 1
        heappush(self._heap, (record.until, self._serial, path, record))

    def rename(self, old: bytes, new: bytes, directory: bool, now: float) -> None:
        """A path was renamed: what waits at it, and below it, goes on at the new path.

        Both paths are due: the new one first, with `moved_from`, then the old one, and that
        from which a chain of renames began.
        """
        was = self._take(old)
        self._take(new)
        record = _Record(MOVED, old)
        if was is not None and was.mask & PASSED:
            was.forget_move()
        if was is not None:
            # A file that is gone from here, too, has been renamed further: waited for once more.
            record.mask |= was.mask & ~(_GONE if directory else _GONE | HELD)
            record.moved_from = was.moved_from or old
            record.first = was.first
            passed = self._ready.get(was.moved_from)
            if passed is not None and passed.onward == old:
                passed.onward = new
        if directory:
            record.mask |= DIRECTORY
        gone = _Record(MOVED_OUT | (DIRECTORY if directory else 0))
        if directory and was is not None and self._is_ring(was.moved_from, new):
            record.moved_from = old
            gone = _Record(MOVED | PASSED | DIRECTORY, was.moved_from)
            gone.onward = new
            self._put_before(was.moved_from, old, gone)
        self._ready[new] = record
        self._ready[old] = gone
        origin = self._ready.get(record.moved_from)
        if origin is not None and not origin.mask & ~(MOVED_OUT | DIRECTORY | HELD):
            self._ready[record.moved_from] = self._ready.pop(record.moved_from)
        if record.moved_from == new:  # there and back again: no move, but look
            record.moved_from = b""
        if directory:
            prefix = new + b"/"  # noted of what was here before: it comes after what is here now
            for path in [p for p in self._ready if p.startswith(prefix)]:
                self._ready[path] = self._ready.pop(path)
            prefix = old + b"/"
            for pending in (self._ready, self._waiting):
                for path in [p for p in pending if p.startswith(prefix)]:
                    moved = pending.pop(path)
                    path = new + path[len(old) :]
                    stale = self._take(path)
                    if stale is not None:
                        moved.mask |= stale.mask & ~_GONE
                    pending[path] = moved
                    if pending is self._waiting:
                        self._enqueue(path, moved)
        if len(self._ready) + len(self._waiting) > self._paths_max:
            self.overflowed = True

    def _is_ring(self, path: bytes, last: bytes) -> bool:
        """Tell whether a path was taken by what made room for another, and so on to `last`."""
        seen = {last}
        while path not in seen:
            seen.add(path)
            record = self._ready.get(path)
            if record is None or record.mask & PASSED:
                return False
            path = record.moved_from
        return path == last and len(seen) > 1

    def _put_before(self, path: bytes, earlier: bytes, record: _Record) -> None:
        """Make a record due right before one that is."""
        ready: dict[bytes, _Record] = {}
        for each, due in self._ready.items():
            if each == path:
                ready[earlier] = record
            ready[each] = due
        self._ready = ready

    def _take(self, path: bytes) -> Optional[_Record]:
        record = self._ready.pop(path, None)
        return record if record is not None else self._waiting.pop(path, None)

    def hold(self, path: bytes, now: float, delay: float, mask: int = 0) -> None:
        """Give a path out again after `delay` seconds (or earlier, if something happens to it).

        For a path just given out, with all that was known of it (and `mask`), or one that is due
        and only gone.
        """
        due = self._ready.get(path)
        if due is not None and not due.mask & ~(MOVED_OUT | DIRECTORY | HELD):
            record: Optional[_Record] = self._ready.pop(path)
        else:
            record = self._again(path)
        if record is not None:
            record.mask |= HELD | mask
            record.until = now + delay
            record.first = record.first or now
            self._waiting[path] = record
            self._enqueue(path, record)

    def put_back(self, dues: list[Due]) -> None:
        """Take back what was just given out, to be given out again in the same order.

        Something may have been noted of it since, by who looked at what came before it.
        """
        back: dict[bytes, _Record] = {}
        for due in dues:
            given = self._given.pop(due.path, None)
            if given is None:  # it is held
                continue
            noted = self._take(due.path)
            if noted is not None:
                self._combine(given, noted.mask)
            given.mask |= HELD
            back[due.path] = given
        back.update(self._ready)
        self._ready = back

    def busy(self, path: bytes, now: float) -> None:
        """A path just given out (or any other) cannot be read yet: somebody writes to it.

        It is given out again after a while, longer each time, at last by `force`.
        """
        record = self._again(path)
        if record is None:
            return
        if not record.first or record.force:
            record.first = now
            record.force = False
            record.step = 0.0
        record.mask |= MODIFIED
        record.moved_from = b""  # has been told
        record.step = min(max(record.step * 2, _BACKOFF_MIN), _BACKOFF_MAX)
        record.until = min(now + record.step, record.first + self._max_delay)
        self._waiting[path] = record
        self._enqueue(path, record)

    def _again(self, path: bytes) -> Optional[_Record]:
        """The record to wait with; None if the path is pending (with newer news) already."""
        if path in self._ready or path in self._waiting:
            return None
        if len(self._ready) + len(self._waiting) >= self._paths_max:
            self.overflowed = True
            return None
        return self._given.pop(path, None) or _Record(MODIFIED)

    def expedite(self) -> None:
        """Make everything that is pending due now, by force: a flush does not wait."""
        self._ready.update(self._waiting)
        for record in self._ready.values():
            record.force = True
        self._waiting.clear()
        self._heap.clear()

    def due(self, now: float, limit: int = 1 << 30) -> list[Due]:
        """Take out what is due, at most `limit` paths, in order; a `LIST` is the last of them."""
        heap = self._heap
        while heap and heap[0][0] <= now:
            _, _, path, record = heappop(heap)
            if self._waiting.get(path) is not record:
                continue
            if record.until > now:  # written to since: wait on
                self._enqueue(path, record)
                continue
            del self._waiting[path]
            record.force = now >= record.first + self._max_delay
            self._ready[path] = record
        given: dict[bytes, _Record] = {}
        for path, record in self._ready.items():
            given[path] = record
            if record.mask & LIST or len(given) >= limit:
                break
        if len(given) == len(self._ready):
            self._ready = {}
        else:
            for path in given:
                del self._ready[path]
        self._given = given
        return [
            Due(path, _is_meta(r.mask), r.force, r.mask, r.moved_from, r.onward)
            for path, r in given.items()
        ]

    def deadline(self) -> Optional[float]:
        """When `due` has something to give; 0: now; None: never, as things are."""
        if self._ready:
            return 0.0
        heap = self._heap
        while heap:
            until, _, path, record = heap[0]
            if self._waiting.get(path) is record:
                return until
            heappop(heap)
        return None
