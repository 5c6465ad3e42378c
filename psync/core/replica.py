"""One side as the session knows it: what it shows, what it was asked, what it was sent.

A side that has shown nothing new shows what was agreed; so only the news is kept, as views.
They are indexed by directory, because a listing speaks of all names in one and a rename
takes along everything below one.

**Invariants.** A view is the last word of the side on that path, in the order in which it
spoke. A path waits for at most one look. Bytes of content that an agent sent unasked
are given back as credit exactly when they are not kept any more, so that an agent which may
have so many on their way never stands still.

It decides nothing and knows nothing of the other side.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

from psync.core.archive import Archive
from psync.core.entry import ROOT, Agreed, Entry, Kind, Side, is_below, join, parent, split
from psync.core.events import Limits
from psync.core.plan import Plan
from psync.core.reconcile import View
from psync.core.survey import Survey
from psync.wire import META_ONLY, Credit, Dropped, Kept, Listing, Look, Message, Observed, Results

__all__ = ["NOTHING", "REQUESTED", "Link", "Move", "Replica", "Views"]

ASKING_MAX = 8 * 1024 * 1024
CREDIT_MIN = 256 * 1024

NOTHING = View(None)
REQUESTED = -1  # a full scan that has not begun


class Link(IntEnum):
    """How far one side is."""

    NEVER = 0  # not seen yet
    DOWN = 1
    SCANNING = 2
    READY = 3


class Move(NamedTuple):
    """A rename that a side showed.

    Attributes:
        old: where from.
        entry: what was there then.
        intact: only the name has changed since it was agreed.
        hinted: the agent saw it happen; else it was guessed from an inode that was found.
        asked: it is being looked whether it is still at its old path.
    """

    old: bytes
    entry: Entry
    intact: bool
    hinted: bool
    asked: bool = False


class Views:
    """What a side shows at paths where it is news, by directory and name."""

    def __init__(self) -> None:
        self._by_directory: dict[bytes, dict[bytes, View]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, path: bytes) -> bool:
        return self.get(path) is not None

    def __iter__(self) -> Iterator[bytes]:
        for directory, names in self._by_directory.items():
            for name in names:
                yield join(directory, name)

    def get(self, path: bytes) -> View | None:
        """The view of a path, None without news."""
        directory, _, name = path.rpartition(b"/")
        names = self._by_directory.get(directory)
        return names.get(name) if names is not None else None

    def set(self, path: bytes, view: View) -> None:
        """Keep a path's view."""
        directory, _, name = path.rpartition(b"/")
        names = self._by_directory.get(directory)
        if names is None:
            names = self._by_directory[directory] = {}
        if name not in names:
            self._count += 1
        names[name] = view

    def pop(self, path: bytes) -> View | None:
        """A path is no news any more."""
        directory, _, name = path.rpartition(b"/")
        names = self._by_directory.get(directory)
        if names is None or name not in names:
            return None
        view = names.pop(name)
        self._count -= 1
        if not names:
            del self._by_directory[directory]
        return view

    def names(self, directory: bytes, after: bytes, upto: bytes | None) -> list[bytes]:
        """The names in a directory at which something is there, as far as it is news.

        Those with `after < name <= upto`; None: to the end.
        """
        return [
            name
            for name, view in self._by_directory.get(directory, {}).items()
            if after < name and (upto is None or name <= upto) and view.entry is not None
        ]

    def has_any(self, directory: bytes) -> bool:
        """Tell whether something is in a directory, as far as it is news."""
        names = self._by_directory.get(directory, {})
        return any(view.entry is not None for view in names.values())

    def directories(self) -> list[bytes]:
        """The directories in which there is news."""
        return list(self._by_directory)

    def below(self, top: bytes) -> list[bytes]:
        """All paths with news below a directory."""
        return [
            join(directory, name)
            for directory, names in self._by_directory.items()
            if directory == top or is_below(directory, top)
            for name in names
        ]

    def clear(self) -> None:
        """Nothing is news."""
        self._by_directory.clear()
        self._count = 0


class Replica:
    """See the module's text.

    Attributes:
        views: the news.
        busy: paths that somebody has open for writing.
        moves: renames that are to be carried over, by their new path.
        turning: the directory's rename (its new path) that further talk of the side waits for.
        stream: that talk.
        stalled: paths that wait for room in the plan.
        unasked: paths whose content was not asked for yet, because of all that is asked for.
        awaited: paths that wait for a look, with what was asked for and the bytes expected.
        presumed: paths of which an operation under way has changed the agreed state since the
            side was scanned; their view is what was agreed before.
        troubles: what the agent cannot observe, by code and path.
        skipped: what differed before the session began was left alone, and still is.
        full_scan: the scan for which everything else goes on; `REQUESTED`; 0: none.
        cut_ns: when the host's power may have been cut last, by its clock; 0: never.
    """

    def __init__(self, side: Side, archive: Archive, limits: Limits) -> None:
        self.side = side
        self.link = Link.NEVER
        self.compared = False
        self.skipped = False
        self.entries = self.local = 0
        self.survey = Survey(side, archive)
        self.plan = Plan()
        self.views = Views()
        self.busy: dict[bytes, bool] = {}  # whether for as long as a program likes
        self.moves: dict[bytes, Move] = {}
        self.leaving: dict[bytes, bytes] = {}  # old path -> new path
        self.turning = ROOT
        self.stream: deque[Message] = deque()
        self.stalled: OrderedDict[bytes, None] = OrderedDict()
        self.unasked: OrderedDict[bytes, None] = OrderedDict()
        self.awaited: dict[bytes, tuple[int, int]] = {}
        self.presumed: dict[bytes, None] = {}
        self.troubles: dict[tuple[str, bytes], str] = {}
        self.full_scan = 0
        self.cut_ns = 0
        self.applied = 0
        self.bytes_moved = 0
        self._archive = archive
        self._limits = limits
        self._listed = 0  # so many of the views came by listings, which are rationed
        self._looks: dict[int, dict[bytes, None]] = {}
        self._asking = 0
        self._contents: dict[bytes, tuple[Entry, bytes]] = {}
        self._contents_size = 0
        self._credit = 0

    def take_over(self, limits: Limits) -> None:
        """Keep within other limits from now on."""
        self._limits = limits

    # --- what it shows -------------------------------------------------------------------

    def may_be_cut(self, entry: Entry) -> bool:
        """Tell whether a power cut may have left a file its name, but not its bytes."""
        return entry.kind == Kind.FILE and entry.ctime_ns < self.cut_ns

    def shows(self, path: bytes) -> Entry | None:
        """What is at a path: its news, else what was agreed."""
        view = self.views.get(path)
        if view is not None:
            return view.entry
        base = self._archive.get(path)
        return base.on(self.side) if base is not None else None

    def view(self, path: bytes, base: Agreed | None) -> View:
        """What is at a path, and whether its content is the agreed one."""
        view = self.views.get(path)
        if view is None:
            view = View(base.on(self.side), True) if base is not None else NOTHING
        return view

    def lacks_parent(self, path: bytes) -> bool:
        """Tell whether a directory above a path is known to be none (any more)."""
        while path := parent(path):
            view = self.views.get(path)
            if view is not None and (view.entry is None or view.entry.kind != Kind.DIRECTORY):
                return True
        return False

    def renewed(
        self, path: bytes, base: Agreed | None, entry: Entry | None, flags: int, *, asked: bool
    ) -> View:
        """The view after a new look; what was known of the content before may be known still.

        That only attributes have changed is said of the events that the agent had heard. Who
        writes right after a `chmod` is seen, but not heard yet: then the mtime tells.
        """
        if entry is None:
            return NOTHING
        was = self.view(path, base)
        old = was.entry
        if old is None or (old.kind, old.size, old.ino) != (entry.kind, entry.size, entry.ino):
            return View(entry)
        same = entry.same_identity(old)
        meta_only = bool(flags & META_ONLY) and self.knows(path)
        if not same and not meta_only:
            return View(entry)
        if entry.mtime_ns == old.mtime_ns:
            if not entry.digest:
                entry = entry._replace(digest=old.digest)
            if asked or meta_only:
                return View(entry, was.intact, was.doubtful)
        return View(entry, doubtful=was.intact or was.doubtful)

    def knows(self, path: bytes) -> bool:
        """Tell whether it is known what was told of a path last, of which an agent tells more.

        A scan that has found a directory changed has made it forgotten, until that is listed.
        """
        if path in self.views:
            return True
        return self.link == Link.READY and not self.survey.hides(*split(path))

    def count_listed(self, before: int) -> None:
        """A listing made `before` views to what they are now."""
        self._listed += len(self.views) - before

    @property
    def is_flooded(self) -> bool:
        """Tell whether the agent has told more by itself than may be kept."""
        self._listed = min(self._listed, len(self.views))
        return len(self.views) - self._listed > self._limits.views_max

    # --- what it is asked ----------------------------------------------------------------

    def look(self, path: bytes, want: int, size: int = 0) -> None:
        """Ask for a fresh look, at content of so many bytes; the path waits for the answer."""
        known = self.awaited.get(path)
        if known is None or known[0] < want:
            self._asking += size
            self.awaited[path] = (want, size + (known[1] if known else 0))
            self._looks.setdefault(want, {})[path] = None

    def answered(self, path: bytes) -> int:
        """A look came (asked for or not); return what had been asked for, -1: nothing."""
        awaited = self.awaited.pop(path, None)
        if awaited is None:
            return -1
        self._asking -= awaited[1]
        return awaited[0]

    @property
    def may_ask(self) -> bool:
        """Whether more content may be asked for."""
        return self._asking < ASKING_MAX

    def questions(self) -> list[Message]:
        """The looks to be sent."""
        looks: list[Message] = [Look(w, list(paths)) for w, paths in sorted(self._looks.items())]
        self._looks.clear()
        return looks

    # --- content -------------------------------------------------------------------------

    def keep_content(self, path: bytes, entry: Entry, content: bytes, *, asked: bool) -> None:
        """Keep a file's content until it is sent on, if there is room."""
        size = len(content)
        room = asked or self._contents_size + size <= self._limits.contents_max
        if entry.kind != Kind.FILE or size != entry.size or not room:
            self._credit += size
            return
        self._contents[path] = (entry, content)
        self._contents_size += size

    def content(self, path: bytes, entry: Entry) -> tuple[bytes, bytes] | None:
        """The content of this very version and its digest, if it is here."""
        held = self._contents.get(path)
        if held is None or not held[0].same_identity(entry):
            return None
        return held[1], held[0].digest

    def drop_content(self, path: bytes) -> None:
        """The content of a path is not needed any more."""
        held = self._contents.pop(path, None)
        if held is not None:
            self._contents_size -= len(held[1])
            self._credit += len(held[1])

    def waste(self, message: Message) -> None:
        """News is not wanted; the content in it is given back."""
        if isinstance(message, (Listing, Observed)):
            self._credit += sum(len(item.content) for item in message.items if item.content)

    def credit(self, *, all_of_it: bool) -> list[Message]:
        """What is to be given back to the agent now, not too often."""
        size = self._credit
        if not size or (size < CREDIT_MIN and not all_of_it):
            return []
        self._credit = 0
        return [Credit(size)]

    # --- forgetting ----------------------------------------------------------------------

    def forget(self) -> dict[bytes, None]:
        """Drop all news, a scan will show what counts; return the paths that waited for some.

        What became of operations, and of losers, is no news of that kind: it stays.
        """
        waiting = {**self.unasked, **dict.fromkeys(self.awaited)}
        for path in list(self._contents):
            self.drop_content(path)
        outcomes: deque[Message] = deque()
        for message in self.stream:
            self.waste(message)
            if isinstance(message, (Results, Kept, Dropped)):
                outcomes.append(message)
        self.stream = outcomes
        self.turning = ROOT
        self.views.clear()
        self.presumed.clear()
        self._listed = 0
        self.busy.clear()
        self.moves.clear()
        self.leaving.clear()
        self.unasked.clear()
        self.awaited.clear()
        self._asking = 0
        self._looks.clear()
        return waiting

    def hang_up(self) -> None:
        """The agent is gone: it can be owed nothing, and will answer nothing."""
        self.stream.clear()
        self.plan.reset()
        self.survey.reset()
        self.troubles.clear()
        self.full_scan = 0
        self._credit = 0

    def remains(self) -> dict[str, int]:
        """What is held in memory, by name; nothing once everything is at rest."""
        return {
            "views": len(self.views),
            "busy": len(self.busy),
            "moves": len(self.moves) + len(self.leaving) + len(self.turning),
            "stream": len(self.stream),
            "presumed": len(self.presumed),
            "stalled": len(self.stalled),
            "awaited": len(self.awaited) + len(self.unasked) + self._asking,
            "contents": len(self._contents) + self._contents_size,
            "surveyed": len(self.survey.pending),
        }
