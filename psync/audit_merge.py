"""Walk two trees side by side, from listings that come as they come.

Both sides list the same directories in the same order, names in byte order, so that two
streams are merged as one goes through two sorted lists: what is at the head of one and not of the
other is missing there. A directory is entered when it has been found, those found last first.

**Invariants.** What is held is bounded: the directories that were found and not listed yet (those
on the way down to where the walk is, with their neighbours; `_WAITING_BYTES_MAX` of them),
`WINDOW` that were asked for, and listings for which a side had credit. What an agent says is
checked: it lists what it was asked for, in order, with names that can be, and no more of it than
it may; else it is an `AgentError`. Nor does it invent names without end: after `_NAMES_MAX` of
them it is over. That is not less because nothing tells how much there is: an honest side may have
all of a tree while the other has nothing yet, and who lies about names lies about their number.

Sans I/O: listings in; what was found, what to ask for and credit out. What a difference is, is
not known here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from psync.core.entry import CONTROL_NAME, ROOT, XATTRS_MAX, Entry, Kind, Side, join, printable
from psync.errors import AgentError
from psync.wire import AUDIT_CREDIT, UNREADABLE, Item, Listing, Trouble, listing_weight

__all__ = ["WINDOW", "Found", "Merge", "check_entry"]

WINDOW = 64  # directories that are asked for at once
_HELD_MAX = 2 * AUDIT_CREDIT  # with the last listing, for which there was just enough
_NAMES_MAX = 1 << 30  # of one side: a thousand times what a large server has
_WAITING_BYTES_MAX = 1 << 30  # of directories: some five million of them
_WAITING_BYTES = 150  # beside the path
_TROUBLE_BYTES_MAX = 64 << 20  # of what a side cannot tell, until it is asked why
_MESSAGE_MAX = 200
_PATH_MAX = 65535
_TARGET_MAX = 4096  # bytes of a symlink's text, on any file system
_KINDS = frozenset(Kind)

_Sides = tuple[Side, ...]


class Found(NamedTuple):
    """What both sides have at a path.

    Attributes:
        path: where.
        sides: left and right; None: nothing (that is replicated).
        nested: it is in a directory that only one side has.
        stirred: it is a directory in which one side has names that the other has not: no
            wonder that their mtimes differ.
    """

    path: bytes
    sides: tuple[Item | None, Item | None]
    nested: bool = False
    stirred: bool = False


class _Job:
    """A directory that is being listed, on one side or on both."""

    def __init__(self, path: bytes, sides: _Sides) -> None:
        self.path = path
        self.sides = sides
        self.heads: list[deque[Item]] = [deque(), deque()]
        self.own: list[Entry | None] = [None, None]
        self.begun = [False, False]
        self.ended = [side not in sides for side in Side]
        self.children: list[tuple[bytes, _Sides]] = []
        self.stirred = False
        self.blind = False  # a side cannot list it: nothing can be told of what is in it


class _Stream:
    """What one side says."""

    def __init__(self) -> None:
        self.asked: deque[bytes] = deque()  # not listed to their end
        self.upto = b""  # of the first of them, so far
        self.listings: deque[tuple[Listing, int]] = deque()  # with their weights
        self.names = 0
        self.held = 0
        self.freed = 0
        self.troubles: dict[bytes, Trouble] = {}
        self.trouble_bytes = 0


class Merge:
    """See the module's text; `one_sided`: enter directories that only one side has, too."""

    def __init__(self, *, one_sided: bool = True) -> None:
        self._one_sided = one_sided
        self._stack: list[tuple[bytes, _Sides]] = [(ROOT, tuple(Side))]
        self._waiting_bytes = _waiting_bytes(ROOT)  # of the stack, and of what will be put there
        self._jobs: deque[_Job] = deque()
        self._streams = (_Stream(), _Stream())

    @property
    def done(self) -> bool:
        """Tell whether the walk is over."""
        return not self._stack and not self._jobs

    @property
    def can_ask(self) -> bool:
        """Tell whether `ask` has something to ask for."""
        return bool(self._stack) and len(self._jobs) < WINDOW

    def ask(self) -> tuple[list[bytes], list[bytes]]:
        """The directories that each side is to be asked for now, in this order."""
        paths: tuple[list[bytes], list[bytes]] = ([], [])
        while self.can_ask:
            job = _Job(*self._stack.pop())
            self._waiting_bytes -= _waiting_bytes(job.path)
            self._jobs.append(job)
            for side in job.sides:
                paths[side].append(job.path)
                self._streams[side].asked.append(job.path)
        return paths

    def credit(self, side: Side) -> int:
        """The credit that a side is to be given back now."""
        stream = self._streams[side]
        freed, stream.freed = stream.freed, 0
        return freed

    def trouble(self, side: Side, trouble: Trouble) -> None:
        """A side cannot tell what is at a path, and says why, before it says so."""
        stream = self._streams[side]
        self.why(side, trouble.path)
        stream.troubles[trouble.path] = trouble._replace(message=trouble.message[:_MESSAGE_MAX])
        stream.trouble_bytes += _trouble_bytes(trouble)
        if stream.trouble_bytes > _TROUBLE_BYTES_MAX:
            raise AgentError("it has trouble with too much at once")

    def why(self, side: Side, path: bytes) -> Trouble:
        """Why a side could not tell what is at a path; once."""
        stream = self._streams[side]
        trouble = stream.troubles.pop(path, None)
        if trouble is None:
            return Trouble("unreadable", path, "cannot be read")
        stream.trouble_bytes -= _trouble_bytes(trouble)
        return trouble

    def hear(self, side: Side, listing: Listing) -> None:
        """Take a listing.

        Raises:
            AgentError: it was not asked for, or cannot be.
        """
        stream = self._streams[side]
        shown = printable(listing.path)
        if not stream.asked or listing.path != stream.asked[0]:
            raise AgentError(f"it listed {shown}, which it was not asked for now")
        if listing.after != stream.upto:
            raise AgentError(f"its listing of {shown} has a gap")
        before = listing.after
        for item in listing.items:
            _check_name(item.path, listing.path)
            if item.path <= before:
                raise AgentError(f"its listing of {shown} is not in order")
            before = item.path
            if item.entry is None and not item.flags & UNREADABLE:
                raise AgentError(f"its listing of {shown} says nothing of what it names")
            check_entry(item.entry, join(listing.path, item.path))
        check_entry(listing.entry, listing.path)
        if listing.entry is None and (listing.items or listing.upto is not None):
            raise AgentError(f"its listing of {shown} is of nothing")
        if listing.upto is not None and (not listing.items or listing.upto != before):
            raise AgentError(f"its listing of {shown} does not go on")
        stream.names += len(listing.items)
        if stream.names > _NAMES_MAX:
            raise AgentError(f"{shown}: by now it has named more than {_NAMES_MAX:,} files")
        weight = listing_weight(listing.items)
        stream.held += weight
        if stream.held > _HELD_MAX:
            raise AgentError("it says more than it has been given credit for")
        stream.listings.append((listing, weight))
        stream.upto = listing.upto or b""
        if listing.upto is None:
            stream.asked.popleft()

    def found(self) -> Iterator[Found]:
        """Go on as far as that is possible; a directory comes after the names in it."""
        while self._jobs:
            job = self._jobs[0]
            yield from self._advance(job)
            if not all(job.ended) or any(job.heads):
                return
            self._jobs.popleft()
            yield from self._finish(job)
            self._stack += reversed(job.children)

    def _advance(self, job: _Job) -> Iterator[Found]:
        left, right = job.heads
        while True:
            for side in job.sides:
                while not job.heads[side] and not job.ended[side]:
                    if not self._pull(job, side):
                        return
            if not left and not right:
                return
            if not right or (left and left[0].path < right[0].path):
                yield from self._pair(job, left.popleft(), None)
            elif not left or right[0].path < left[0].path:
                yield from self._pair(job, None, right.popleft())
            else:
                yield from self._pair(job, left.popleft(), right.popleft())

    def _pull(self, job: _Job, side: Side) -> bool:
        """Take a side's next listing; False: it has not come yet."""
        stream = self._streams[side]
        if not stream.listings:
            return False
        listing, weight = stream.listings.popleft()
        stream.held -= weight
        stream.freed += weight
        job.heads[side].extend(listing.items)
        job.ended[side] = listing.upto is None
        if not job.begun[side]:
            job.begun[side] = True
            job.own[side] = listing.entry
            job.blind |= listing.entry is None and job.path in stream.troubles
        elif listing.entry is None:
            job.own[side] = None
        return True

    def _pair(self, job: _Job, left: Item | None, right: Item | None) -> Iterator[Found]:
        sides = (left, right)
        there = left or right
        assert there is not None
        path = join(job.path, there.path)
        directories = tuple(s for s in Side if _is_directory(sides[s]))
        if job.blind:
            for side in Side:
                self.why(side, path)
            return
        if left is None or right is None:
            job.stirred = True
        if len(directories) == 2:
            self._enter(job, path, directories)
            return  # told when it has been listed
        if directories and self._one_sided and not any(map(_is_unreadable, sides)):
            self._enter(job, path, directories)
        yield Found(path, sides, nested=len(job.sides) == 1)

    def _enter(self, job: _Job, path: bytes, sides: tuple[Side, ...]) -> None:
        if len(path) > _PATH_MAX:
            raise AgentError(f"{printable(path[:100])}...: directories are nested without end")
        self._waiting_bytes += _waiting_bytes(path)
        if self._waiting_bytes > _WAITING_BYTES_MAX:
            where = printable(job.path)
            raise AgentError(f"{where}: there are more directories in it than can be held")
        job.children.append((path, sides))

    def _finish(self, job: _Job) -> Iterator[Found]:
        """Tell of a directory that both sides have; the root's own metadata is nobody's."""
        if len(job.sides) == 1:
            return
        sides = tuple(self._own(job, side) for side in Side)
        if job.path or any(item is None or item.flags for item in sides):
            yield Found(job.path, (sides[0], sides[1]), stirred=job.stirred)

    def _own(self, job: _Job, side: Side) -> Item | None:
        entry = job.own[side]
        if entry is not None:
            return Item(job.path, entry)
        if job.path in self._streams[side].troubles:
            return Item(job.path, None, None, b"", UNREADABLE)
        return None


def _is_directory(item: Item | None) -> bool:
    return item is not None and item.entry is not None and item.entry.kind == Kind.DIRECTORY


def _is_unreadable(item: Item | None) -> bool:
    return item is not None and item.entry is None


def _waiting_bytes(path: bytes) -> int:
    return _WAITING_BYTES + len(path)


def _trouble_bytes(trouble: Trouble) -> int:
    return 500 + len(trouble.path)


def _check_name(name: bytes, directory: bytes) -> None:
    if (
        not name
        or len(name) > 255
        or b"/" in name
        or b"\0" in name
        or name in (b".", b"..", CONTROL_NAME)
    ):
        raise AgentError(
            f"in {printable(directory)} it names what cannot be a name: {printable(name)!a}"
        )


def check_entry(entry: Entry | None, path: bytes) -> None:
    """See that an entry that an agent sent can be one. Raises AgentError."""
    if entry is not None and (
        entry.kind not in _KINDS
        or entry.size < 0
        or len(entry.target) > _TARGET_MAX
        or len(entry.xattrs) > XATTRS_MAX
    ):
        raise AgentError(f"{printable(path)}: it says that there is what cannot be")
