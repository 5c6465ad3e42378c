"""An agent as the protocol asks for it, on a simulated disk: it looks, and it compares and swaps.

What `filter` and `helpers` do to a real tree is done here to `Disk`, in the smallest steps,
so that users can do something between any two of them. `core.settle` is the real one.

**Invariants.** Each transition is atomic: applied to exactly the version that it expects,
or not at all; that the real one is so is proved elsewhere. Every message goes through
`wire`, so that what is said here could be said by an agent.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator

from psync.core.entry import (
    ROOT,
    Entry,
    Kind,
    content_digest,
    directory_digest,
    is_below,
    is_ours,
    join,
    parent,
    split,
)
from psync.core.ignore import Ignore
from psync.core.settle import (
    CLOSED,
    CREATED,
    DELETED,
    DIRECTORY,
    LIST,
    MODIFIED,
    MOVED,
    MOVED_IN,
    MOVED_OUT,
    PASSED,
    Due,
    Settle,
)
from psync.wire import (
    APPLIED,
    BUSY,
    CHANGED,
    DELETE,
    FAILED,
    IN_USE,
    META,
    META_ONLY,
    NO_PARENT,
    NOT_EMPTY,
    PUT,
    RENAME,
    RMDIR,
    Apply,
    Closed,
    CloseSource,
    Credit,
    Digests,
    Dropped,
    Flush,
    Flushed,
    Item,
    Kept,
    List_,
    Listing,
    Look,
    Message,
    Observed,
    Opened,
    OpenSource,
    Outcome,
    Rescan,
    Results,
    Scanned,
    Settings,
    Stage,
    Staged,
    Sync,
    Synced,
    Transition,
    Unstage,
)
from tests.simulation.disk import Disk, Node

__all__ = ["Agent", "Options"]

_NAMES = CREATED | DELETED | MOVED_IN | MOVED_OUT
_GONE = DELETED | MOVED_OUT
_CONTENT = CREATED | MODIFIED | CLOSED | MOVED_IN


class Options:
    """How agents of one simulated world behave."""

    def __init__(self, rng: random.Random) -> None:
        """Draw them."""
        self.suppress_echoes = rng.random() < 0.6
        self.tells_contents = rng.random() < 0.8
        self.hints_renames = rng.random() < 0.85
        self.inline_max = 64
        self.credit = rng.choice((40, 200, 100_000))
        self.listing_names = rng.choice((1, 2, 1000))
        self.scan_step = rng.choice((1, 3, 1000))
        self.sync_fails = rng.random() < 0.1
        self.apply_fails = rng.random() < 0.1
        self.keep_both = False


class Agent:
    """One run of an agent."""

    def __init__(
        self, disk: Disk, options: Options, rng: random.Random, number: int, ignored: Ignore,
        send: Callable[[Message], None], now: Callable[[], float],
    ) -> None:  # fmt: skip
        self._disk = disk
        self._options = options
        self._rng = rng
        self._number = number
        self._ignored = ignored
        self._revealing: Iterator[None] | None = None  # one of `_later`
        self._send = send
        self._now = now
        self._settle = Settle(50, 1000)
        self._inbox: deque[Message] = deque()
        self._work: Iterator[None] | None = None
        self._later: deque[Iterator[None]] = deque()  # answers, between which all else goes on
        self._answering: bytes | None = None  # the directory that is listed in one of them
        self._overtaken: set[bytes] = set()  # names in it that were told of meanwhile
        self._own: dict[bytes, Entry | None] = {}
        self._moved_on: dict[int, tuple[set[int], int]] = {}  # as `psync.holding.Links`
        self._absent: dict[bytes, int] = {}
        self._told_in: dict[bytes, int] = {}  # the directories, by what they were called then
        self._touched: dict[bytes, None] = {}
        self._tree: dict[bytes, int] = {}  # what is watched, and where we believe it to be
        self._generation = 0
        self._scan: Iterator[None] | None = None
        self._scan_again = False
        self._flushes: list[int] = []
        self._open: dict[int, list[tuple[Node, Entry] | None]] = {}
        self.staging: dict[bytes, bytes] = {}
        self.credit = options.credit
        self.due = list(disk.due)
        for name, (path, _) in disk.due.items():
            send(Kept(path, name, fresh=False))
        disk.watcher = number
        disk.events.clear()
        disk.overflowed = False
        self._begin_scan()

    # --- the loop ---

    def take(self, message: Message) -> None:
        """A message arrived."""
        self._inbox.append(message)

    def step(self) -> None:
        """Do one small thing that is to be done."""
        if self._work is not None:
            if next(self._work, self) is self:
                self._work = None
            return
        choices: list[Callable[[], None]] = []
        if self._inbox:
            choices.append(self._serve)
        if self._later:
            choices.append(self._go_on_answering)
        if self.due:
            choices.append(self._put_beside)
        if self._scan is not None:
            choices.append(self._go_on_scanning)
        elif self._disk.events or self._disk.overflowed:
            choices.append(self._hear)
        else:
            deadline = self._settle.deadline()
            if deadline is not None and deadline <= self._now():
                choices.append(self._look_around)
            elif self._touched:
                choices.append(self._look_at_touched)
            if self._flushes:
                choices.append(self._flush)
        if choices:
            self._rng.choice(choices)()

    @property
    def idle(self) -> bool:
        """Tell whether nothing is to be done without an event."""
        return not (
            self._work or self._inbox or self._later or self.due or self._scan or self._disk.events
            or self._disk.overflowed or self._touched or len(self._settle)
        )  # fmt: skip

    def _go_on_answering(self) -> None:
        if next(self._later[0], self) is self:
            over = self._later.popleft()
            if over is self._revealing:
                self._revealing = None

    # --- the scan ---

    def _begin_scan(self) -> None:
        self._generation += 1
        self._scan_again = False
        self._scan = self._scanning(self._generation)

    def _go_on_scanning(self) -> None:
        assert self._scan is not None
        if next(self._scan, self) is self:
            self._scan = None
            if self._scan_again:
                self._begin_scan()

    def _scanning(self, generation: int) -> Iterator[None]:
        stack = [ROOT]
        digests: list[tuple[bytes, bytes]] = []
        directories = entries = 0
        while stack:
            path = stack.pop()
            node = self._disk.at(path)
            if node is None or node.kind is not Kind.DIRECTORY:
                self._scan_again = True  # it may have been moved, with all in it: out of the way
                continue
            self._watch(path, node)
            children = self._children(path, node, hidden=True)
            own = [(name, child.entry()) for name, child in children]
            if not self._ignored(path, True):
                digests.append((path, directory_digest(node.entry(), own)))
            directories += 1
            entries += len(children)
            stack += [
                join(path, name) for name, child in reversed(children)
                if child.kind is Kind.DIRECTORY
            ]  # fmt: skip
            if len(digests) >= self._options.scan_step:
                self._send(Digests(generation, digests))
                digests = []
                yield
        if digests:
            self._send(Digests(generation, digests))
        self._send(Scanned(generation, directories, entries, 0))

    def _children(
        self, path: bytes, node: Node, *, hidden: bool = False
    ) -> list[tuple[bytes, Node]]:
        return [
            (name, child)
            for name, child in sorted(node.children.items())
            if not is_ours(join(path, name))
            and (hidden or not self._ignored(join(path, name), child.kind is Kind.DIRECTORY))
        ]

    # --- events ---

    def _hear(self) -> None:
        if self._disk.overflowed:
            self._disk.events.clear()
            self._disk.overflowed = False
            self._settle.clear()
            self._absent.clear()
            self._begin_scan()
            return
        events = self._disk.events
        count = self._rng.randint(1, len(events))
        for mask, path, new in events[:count]:
            if new:
                self._moved(bool(mask & DIRECTORY), path, new)
            elif not self._ignored(path):
                self._happened(mask, path)
            elif mask & _NAMES:
                self._touch_above(path)
                if mask & DIRECTORY and mask & (CREATED | MOVED_IN):
                    self._watch_all(path)
        del events[:count]

    def _happened(self, mask: int, path: bytes) -> None:
        now = self._now()
        if mask & _NAMES:
            self._touched[parent(path)] = None
        if mask & DIRECTORY and mask & (CREATED | MOVED_IN):
            self._appeared(path)
            return
        self._settle.note(path, mask, now)

    def _appeared(self, top: bytes) -> None:
        """Watch a directory that is new, and all in it; each will be listed."""
        node = self._disk.at(top)
        if node is None or node.kind is not Kind.DIRECTORY or is_ours(top):
            return
        self._watch(top, node)
        if not self._ignored(top, True):
            self._settle.note(top, LIST | DIRECTORY, self._now())
        for name, child in self._children(top, node, hidden=True):
            if child.kind is Kind.DIRECTORY:
                self._appeared(join(top, name))

    def _watch_all(self, top: bytes) -> None:
        """What is hidden is watched, too: other rules may show it."""
        for path, node in [(top, self._disk.at(top)), *self._disk.walk(top)]:
            if node is not None and node.kind is Kind.DIRECTORY and not is_ours(path):
                self._watch(path, node)

    def _touch_above(self, path: bytes) -> None:
        """A name that is not replicated has come or gone: its directory's mtime is replicated."""
        if not is_ours(path) and not self._ignored(parent(path), True):
            self._touched[parent(path)] = None

    def _moved(self, directory: bool, old: bytes, new: bytes) -> None:
        hidden = [self._ignored(path, directory) for path in (old, new)]
        if any(hidden):
            for path, is_hidden in zip((old, new), hidden, strict=True):
                if is_hidden:
                    self._touch_above(path)
            if not hidden[1]:
                self._happened(MOVED_IN | DIRECTORY * directory, new)
            elif not hidden[0]:
                self._happened(MOVED_OUT | DIRECTORY * directory, old)
            if directory:
                self._directory_moved(old, new, known=False)
            return
        for path in [p for p in self._touched if directory and (p == old or is_below(p, old))]:
            del self._touched[path]
            self._touched[new + path[len(old) :]] = None
        self._touched[parent(old)] = self._touched[parent(new)] = None
        now = self._now()
        if not self._options.hints_renames:
            self._settle.note(old, MOVED_OUT | DIRECTORY * directory, now)
            self._settle.note(new, MOVED_IN | DIRECTORY * directory | LIST * directory, now)
        else:
            self._settle.rename(old, new, directory, now)
        if directory:
            self._directory_moved(old, new, known=self._options.hints_renames)

    def _directory_moved(self, old: bytes, new: bytes, *, known: bool) -> None:
        """Forget what a directory's move has made wrong; `known`: what is in it goes along."""
        now = self._now()
        if self._revealing is not None:
            self._rescan()  # what is left to look at may have another name now
        if self._ignored.by_path and not self._ignored(new, True):
            ignored = self._ignored
            self._reveal_soon(new, lambda path, kind: ignored(old + path[len(new) :], kind))
        for path in [p for p in self._own if is_below(p, old)]:
            # Was it done before the rename, or in a new directory of the old name?
            self._settle.note(new + path[len(old) :], MODIFIED | CLOSED, now)
        left = self._own.get(new)
        if left is None or self._own.get(old, left) is not None:
            self._own.clear()  # not our own rename: what we left there is somewhere else
        for path in [p for p in self._absent if is_below(p, old)]:
            mask, path = self._absent.pop(path), new + path[len(old) :]
            self._settle.note(path, mask, now)
            self._appeared(path)  # a directory was told as gone with all that is in it
        for path in [p for p in self._told_in if p == old or is_below(p, old)]:
            ino, path = self._told_in.pop(path), new + path[len(old) :]
            there = self._disk.at(path)
            if there is not None and there.ino == ino:
                self._told_in[path] = ino
            else:
                self._settle.note(path, LIST | DIRECTORY, now)
        for path in [p for p in self._tree if p == new or is_below(p, new)]:
            del self._tree[path]
        for path in [p for p in self._tree if p == old or is_below(p, old)]:
            self._tree[new + path[len(old) :]] = self._tree.pop(path)
        for path, node in [(new, self._disk.at(new)), *self._disk.walk(new)]:
            if node is None or node.kind is not Kind.DIRECTORY or is_ours(path):
                continue
            # What was watched too late may have been moved already when it was found.
            watched = node.watcher == self._number and self._tree.get(path) == node.ino
            if not watched or not known:
                self._appeared(new)
                break

    def _watch(self, path: bytes, node: Node) -> None:
        node.watcher = self._number
        self._tree[path] = node.ino

    # --- looking ---

    def _look_around(self) -> None:
        due = self._settle.due(self._now(), self._rng.choice((1, 2, 100)))
        self._work = self._looking(due)

    def _looking(self, due: list[Due]) -> Iterator[None]:
        items: list[Item] = []
        for d in due:
            node = self._node(d.path)
            self._overtake(d.path)
            if d.mask & PASSED:
                self._look_onward(d, items)
            elif d.mask & LIST and node is not None and node.kind is Kind.DIRECTORY:
                if d.moved_from:
                    self._look(d, items)
                if items:
                    self._send(Observed(items))
                    items = []
                for _ in self._list(d.path, live=True):
                    raise AssertionError("a live listing is told at once")
            elif d.mask & (MOVED | MOVED_OUT) and not d.moved_from and self._is_directory(node):
                self._appeared(d.path)  # as after an exchange
            else:
                self._look(d, items)
            if self._rng.random() < 0.2:
                if items and self._rng.random() < 0.5:
                    self._send(Observed(items))
                    items = []
                yield
        if items:
            self._send(Observed(items))

    @staticmethod
    def _is_directory(node: Node | None) -> bool:
        return node is not None and node.kind is Kind.DIRECTORY

    def _look_onward(self, d: Due, items: list[Item]) -> None:
        self._settle.note(d.path, MOVED_OUT | DIRECTORY, self._now())
        node = self._node(d.onward)
        if node is not None and node.kind is Kind.DIRECTORY:
            items.append(Item(d.path, node.entry(), None, d.moved_from))

    def _look(self, d: Due, items: list[Item]) -> None:
        path = d.path
        node = self._node(path)
        if node is None:
            self._absent[path] = (d.mask & ~_GONE) | MODIFIED | CLOSED
            if self._is_echo(path, None):
                return
            items.append(Item(path, None))
            return
        entry, content, flags = self._read(node, want=bool(d.mask & _CONTENT))
        if flags & BUSY:
            self._settle.busy(path, self._now())
            if not d.moved_from and not d.force:
                return
        # A rename is an echo only if it was our own: then we left nothing at the old path.
        ours = not d.moved_from or self._own.get(d.moved_from, entry) is None
        if self._is_echo(path, entry) and ours:
            return
        if content is not None:
            self.credit -= len(content)
        # Said of the events that were heard; what was written since shows in the mtime. (Who
        # puts that back as well, between an event and a look, is beyond an agent.)
        if d.mask & _CONTENT and not flags & BUSY:
            node.stealthy = False  # what was put back is told
        elif not d.mask & _CONTENT and not node.stealthy and entry.tells_writes():
            flags |= META_ONLY
        self._tell_of(path)
        items.append(Item(path, entry, content, d.moved_from, flags))

    def _tell_of(self, path: bytes) -> None:
        """What is at a path is told, of the directory that has that name now."""
        self._tell_in(parent(path))

    def _tell_in(self, directory: bytes) -> None:
        node = self._disk.at(directory)
        if directory and node is not None:
            self._told_in[directory] = node.ino

    def _node(self, path: bytes) -> Node | None:
        node = self._disk.at(path)
        return None if node is None or self._ignored(path, self._is_directory(node)) else node

    def _read(self, node: Node, *, want: bool, asked: bool = False) -> tuple[
        Entry, bytes | None, int
    ]:  # fmt: skip
        entry = node.entry()
        if node.kind is not Kind.FILE:
            return entry, None, 0
        if node.writers:
            return entry, None, BUSY
        if not want or len(node.data) > self._options.inline_max:
            return entry, None, 0
        if not asked and (self.credit <= 0 or not self._options.tells_contents):
            return entry, None, 0
        return entry._replace(digest=content_digest(node.data)), node.data, 0

    def _is_echo(self, path: bytes, entry: Entry | None) -> bool:
        """Tell whether this is just what we left there; forget what we left if it is not."""
        if path not in self._own:
            return False
        left = self._own[path]
        same = (left is None) == (entry is None)
        if same and left is not None and entry is not None:
            same = left._replace(digest=b"") == entry._replace(digest=b"")
        if not same:
            del self._own[path]
        return same and self._options.suppress_echoes

    def _look_at_touched(self) -> None:
        items = []
        for path in self._touched:
            node = self._node(path)
            if path and node is not None and node.kind is Kind.DIRECTORY:
                if not self._is_echo(path, node.entry()):
                    self._overtake(path)
                    self._tell_of(path)
                    items.append(Item(path, node.entry()))
        self._touched = {}
        if items:
            self._send(Observed(items))

    def _overtake(self, path: bytes) -> None:
        """Of a path is told: what goes on with a listing later must not deny that it is there."""
        if path and parent(path) == self._answering:
            self._overtaken.add(split(path)[1])

    def _list(self, path: bytes, *, live: bool) -> Iterator[None]:
        node = self._node(path)
        if node is None or node.kind is not Kind.DIRECTORY:
            if live:
                self._absent[path] = LIST | DIRECTORY
            else:
                self._send(Listing(path, None, b"", None, []))
            return
        self._tell_in(path)
        self._is_echo(path, node.entry())  # whatever we left there, the listing tells what is
        items: list[Item] = []
        after = b""
        names = [name for name, _ in self._children(path, node)]
        if not live:
            self._answering, self._overtaken = path, set()
        while names:
            name = names.pop(0)
            child = node.children.get(name)
            if child is None:
                continue
            if live:
                self._overtake(join(path, name))
            entry, content, flags = self._read(child, want=live)
            if flags & BUSY:
                self._settle.busy(join(path, name), self._now())
            self._is_echo(join(path, name), entry)
            if content is not None:
                self.credit -= len(content)
            items.append(Item(name, entry, content, b"", flags))
            if len(items) >= self._options.listing_names and names:
                self._send(Listing(path, node.entry(), after, name, items))
                after, items = name, []
                if live:
                    continue
                yield
                if self._node(path) is not node:
                    self._send(Listing(path, None, b"", None, []))
                    self._answering = None
                    return
                names = sorted({*names, *(new for new in self._overtaken if new > after)})
                self._overtaken = set()
        for left in [p for p in self._own if parent(p) == path and p]:
            if self._node(left) is None:
                self._is_echo(left, None)
        self._send(Listing(path, node.entry(), after, None, items))
        if not live:
            self._answering = None

    # --- what the brain asks ---

    def _serve(self) -> None:
        message = self._inbox.popleft()
        if isinstance(message, Apply):
            self._work = self._apply(message)
        elif isinstance(message, List_):
            self._later.append(self._list_all(message.paths))
        elif isinstance(message, Look):
            self._later.append(self._answer(message))
        elif isinstance(message, Credit):
            self.credit = min(self.credit + message.size, self._options.credit)
        elif isinstance(message, Rescan):
            if self._scan is None:
                self._begin_scan()
            else:
                self._scan_again = True
        elif isinstance(message, Settings):
            self._take_over(Ignore(message.start.excludes, message.start.tempfiles))
        elif isinstance(message, Sync):
            ok = not (self._options.sync_fails and self._rng.random() < 0.5)
            if ok:
                self._disk.sync()
            self._send(Synced(message.token, ok))
        elif isinstance(message, Flush):
            self._flushes.append(message.token)
        elif isinstance(message, OpenSource):
            self._open_source(message)
        elif isinstance(message, CloseSource):
            files = self._open.pop(message.run, [])
            self._send(Closed(message.run, [f is not None and self._is_intact(*f) for f in files]))
        elif isinstance(message, Stage):
            self._send(Staged(message.run, self._number, 9, ""))
        elif isinstance(message, Unstage):
            prefix = b"%d/" % message.run
            for name in [n for n in self.staging if n.startswith(prefix)]:
                del self.staging[name]
        else:
            raise AssertionError(f"the brain said {message}")

    def _flush(self) -> None:
        quiet = self._scan is None and self._revealing is None
        if quiet and not self._disk.events and not self._touched:
            if len(self._settle):
                self._settle.expedite()
                self._look_around()
                return
            for token in self._flushes:
                self._send(Flushed(token))
            self._flushes = []

    def _take_over(self, ignored: Ignore) -> None:
        before, self._ignored = self._ignored, ignored
        self._reveal_soon(ROOT, before)

    def _reveal_soon(self, top: bytes, before: Callable[[bytes, bool], bool]) -> None:
        if self._revealing is not None:  # what that has not come to may be visible again, or not
            self._rescan()
            self._later.remove(self._revealing)
        self._revealing = self._reveal(top, before)
        self._later.append(self._revealing)

    def _rescan(self) -> None:
        self._scan_again = True
        if self._scan is None:
            self._begin_scan()

    def _reveal(self, top: bytes, before: Callable[[bytes, bool], bool]) -> Iterator[None]:
        """Find what was hidden and is no more."""
        waiting = [top]
        while waiting:
            path = waiting.pop()
            node = self._node(path)
            if node is None or node.kind is not Kind.DIRECTORY:
                continue
            for name, child in self._children(path, node):
                sub, directory = join(path, name), child.kind is Kind.DIRECTORY
                if not before(sub, directory):
                    if directory:
                        waiting.append(sub)
                elif directory:
                    self._appeared(sub)
                else:
                    self._own.pop(sub, None)
                    self._settle.note(sub, MODIFIED | CLOSED, self._now())
            yield

    def _list_all(self, paths: list[bytes]) -> Iterator[None]:
        for path in paths:
            yield from self._list(path, live=False)
            yield

    def _answer(self, message: Look) -> Iterator[None]:
        # A rename that has been heard of is told before anything is said to be absent.
        while due := self._settle.due(self._now()):
            for _ in self._looking(due):
                pass
        items = []
        for path in message.paths:
            node = self._node(path)
            if node is None:
                self._absent[path] = MODIFIED | CLOSED
                self._is_echo(path, None)
                items.append(Item(path, None))
                continue
            entry, content, flags = self._read(node, want=message.want > 0, asked=True)
            if message.want == 2 and not flags and node.kind is Kind.FILE:
                entry, content = entry._replace(digest=content_digest(node.data)), None
            if flags & BUSY:
                self._settle.busy(path, self._now())
            self._is_echo(path, entry)
            self._tell_of(path)
            items.append(Item(path, entry, content, b"", flags))
            if self._rng.random() < 0.3:
                self._send(Observed(items))
                items = []
                yield
        if items:
            self._send(Observed(items))

    # --- large files ---

    def _open_source(self, message: OpenSource) -> None:
        files: list[tuple[Node, Entry] | None] = []
        for path, expected in message.files:
            node = self._node(path)
            good = node is not None and not node.writers and expected.same_identity(node.entry())
            files.append((node, node.entry()) if good and node is not None else None)
        self._open[message.run] = files
        numbers = [20 + i if f is not None else -1 for i, f in enumerate(files)]
        self._send(Opened(message.run, numbers, self._number, []))

    def _is_intact(self, node: Node, expected: Entry) -> bool:
        return node.entry() == expected

    def source(self, run: int, number: int) -> bytes:
        """What rsync reads from an open descriptor now."""
        file = self._open[run][number - 20]
        assert file is not None
        return file[0].data

    # --- transitions ---

    def _apply(self, message: Apply) -> Iterator[None]:
        outcomes = []
        for transition in message.transitions:
            outcomes.append(self._change(transition))
            if self._rng.random() < 0.3:
                yield
        while self.due:
            self._put_beside()
        kept = [o._replace(kept=o.kept if o.kept in self._disk.due else b"") for o in outcomes]
        self._send(Results(message.batch, kept if self._options.keep_both else outcomes))

    def _change(self, t: Transition) -> Outcome:
        if self._options.apply_fails and self._rng.random() < 0.1:
            return self._outcome(t, FAILED)
        kept = self._disk.kept
        before = self._disk.at(t.path)
        t = t._replace(
            expected=self._now_shown(t.expected), source_expected=self._now_shown(t.source_expected)
        )
        status = self._dispatch(t)
        if status == APPLIED:
            node = self._disk.at(t.path)
            self._own[t.path] = node.entry() if node is not None else None
            if t.verb == PUT and node is not None and node is before:
                del self._own[t.path]  # it was there already: whoever brought it is to be told of
            if t.verb == RENAME:
                self._own[t.source] = None
            for path in (t.path, t.source):
                self._doubt(path)
                self._overtake(path)
        outcome = self._outcome(t, status)
        if self._disk.kept > kept:
            outcome = outcome._replace(kept=b"%d" % self._disk.kept)
        return outcome

    def _keep(self, path: bytes, node: Node) -> None:
        """What loses a conflict is never lost."""
        disk = self._disk
        disk.conflicts.append((path, node))
        disk.kept += 1
        if self._options.keep_both:
            name = b"%d" % disk.kept
            disk.due[name] = (path, node)
            self.due.append(name)

    def _put_beside(self) -> None:
        """Give back what has lost, if its directory is still there."""
        disk, name = self._disk, self.due.pop(0)
        path, node = disk.due[name]
        place = disk.at(parent(path))
        if place is None or place.kind is not Kind.DIRECTORY:
            return
        new, before = path + b".conflict" + name, place.mtime
        if disk.make(new, node.kind, node.data) is None:
            return
        disk.set_meta(new, mode=node.mode, uid=node.uid, gid=node.gid, mtime=node.mtime, tell=False)
        place.mtime = before
        del disk.due[name]
        disk.conflicts.remove((path, node))
        disk.beside.add(node.data[:8])
        self._send(Dropped(name, new))

    def _doubt(self, path: bytes) -> None:
        """The brain takes an outcome for one of before a rename that it is to be told yet."""
        for new, record in list(self._settle._ready.items()):
            old = record.moved_from
            if not (old and record.mask & DIRECTORY):
                continue
            if is_below(path, old):
                self._settle.note(new + path[len(old) :], MODIFIED | CLOSED, self._now())
            if is_below(path, old) or is_below(path, new):
                self._own.pop(path, None)
                self._settle.note(path, MODIFIED | CLOSED, self._now())

    def _outcome(self, t: Transition, status: int) -> Outcome:
        node = self._disk.at(t.path)
        entry = node.entry() if node is not None else None
        if entry is not None and status == APPLIED and t.verb == PUT and t.content is not None:
            entry = entry._replace(digest=content_digest(t.content))
        unmet = (
            status == APPLIED
            and t.verb in (PUT, META)
            and entry is not None
            and t.wanted is not None
            and not entry.same_meta(t.wanted)
        )
        message = "" if status == APPLIED else f"status {status}"
        return Outcome(t.op, status, entry, message, unmet=unmet)

    def _now_shown(self, entry: Entry | None) -> Entry | None:
        """What is expected may have lost another name since, by our own doing."""
        earlier, last = self._moved_on.get(entry.ino if entry else 0, (set[int](), 0))
        return entry._replace(ctime_ns=last) if entry and entry.ctime_ns in earlier else entry

    def _moves_on(self, node: Node, ctime: int) -> None:
        if node.inode.linked:
            earlier, last = self._moved_on.get(node.ino, (set[int](), 0))
            earlier = earlier | {ctime} if last == ctime else {ctime}
            self._moved_on[node.ino] = (earlier, node.ctime)

    def _dispatch(self, t: Transition) -> int:
        assert not is_ours(t.path), t
        place = self._disk.at(parent(t.path))
        if place is None or place.kind is not Kind.DIRECTORY:
            return NO_PARENT
        node = self._disk.at(t.path)
        if t.verb == META:
            return self._meta(t, node)
        if t.verb == PUT and t.wanted is not None and t.wanted.kind == Kind.DIRECTORY:
            if node is not None and node.kind is Kind.DIRECTORY:
                return self._meta(t, node)
        if t.expected is None:
            if node is not None:
                return CHANGED
        elif node is None or not t.expected.same_identity(node.entry()):
            return CHANGED
        if t.verb == PUT:
            return self._put(t, node)
        if t.verb == RENAME:
            return self._rename(t, node)
        if t.verb == RMDIR:
            assert t.expected is not None and t.expected.kind == Kind.DIRECTORY, t
            return self._displace(t, node)
        assert t.verb == DELETE and (t.expected is None or t.expected.kind != Kind.DIRECTORY), t
        return self._displace(t, node)

    def _meta(self, t: Transition, node: Node | None) -> int:
        wanted, expected = t.wanted, t.expected
        assert wanted is not None
        if node is None or node.kind != wanted.kind:
            return CHANGED
        if expected is not None and not expected.same_identity(node.entry()):
            return CHANGED
        if t.verb == META and expected is not None:
            now = node.entry()._replace(mtime_ns=expected.mtime_ns)
            if not now.same_meta(expected):
                return CHANGED
        if node.writers:
            return IN_USE
        named = [self._disk.at(path) for path in {*(t.links or []), t.path}]
        if sum(n is not None and n.inode is node.inode for n in named) < node.inode.names:
            self._set_apart(t, node)
            return APPLIED
        self._dress(t.path, wanted)
        return APPLIED

    def _dress(self, path: bytes, wanted: Entry) -> None:
        """Give what is at a path the metadata that are wanted."""
        self._disk.set_meta(
            path,
            mode=wanted.mode,
            uid=wanted.uid,
            gid=wanted.gid,
            mtime=wanted.mtime_ns,
            xattrs=wanted.xattrs,
        )

    def _set_apart(self, t: Transition, node: Node) -> None:
        """Replace one of the names of a file by a copy, for all are not known."""
        place, wanted = node.parent, t.wanted
        assert place is not None and wanted is not None
        before, ctime = place.mtime, node.ctime
        self._disk.remove(t.path)
        self._moves_on(node, ctime)
        self._disk.make(t.path, node.kind, node.data)
        self._dress(t.path, wanted)
        place.mtime = before

    def _displace(self, t: Transition, node: Node | None) -> int:
        """Take what was expected away from the path, and never lose what must be kept."""
        if node is None:
            return APPLIED
        if node.writers:
            return IN_USE
        if node.children:
            return NOT_EMPTY
        if node.kind is not Kind.DIRECTORY:
            self._disk.quarantine.append((self._now(), node.data[:8]))
        if t.keep and node.kind is not Kind.DIRECTORY:
            self._keep(t.path, node)
        place = node.parent
        assert place is not None
        before, ctime = place.mtime, node.ctime
        self._disk.remove(t.path)
        self._moves_on(node, ctime)
        place.mtime = before
        return APPLIED

    def _put(self, t: Transition, node: Node | None) -> int:
        wanted = t.wanted
        assert wanted is not None
        data = wanted.target
        if wanted.kind == Kind.FILE:
            data = t.content if t.content is not None else self.staging.pop(t.source)
            assert len(data) == wanted.size, t
        place = self._disk.at(parent(t.path))
        assert place is not None
        before = place.mtime
        status = self._displace(t, node)
        if status == APPLIED:
            self._disk.make(t.path, Kind(wanted.kind), data)
            self._dress(t.path, wanted)
        place.mtime = before
        return status

    def _rename(self, t: Transition, covered: Node | None) -> int:
        assert t.source_expected is not None and t.source
        node = self._disk.at(t.source)
        if node is None or not t.source_expected.same_identity(node.entry()):
            return CHANGED
        if covered is not None and covered.writers:
            return IN_USE
        if covered is not None and covered.children:
            return NOT_EMPTY
        places = [self._disk.at(parent(t.source)), self._disk.at(split(t.path)[0])]
        before = [p.mtime for p in places if p is not None]
        if covered is not None and t.keep:
            self._keep(t.path, covered)
        if covered is not None and (covered.kind is Kind.DIRECTORY) != (
            node.kind is Kind.DIRECTORY
        ):
            return CHANGED
        if covered is not None and covered.kind is not Kind.DIRECTORY:
            self._disk.quarantine.append((self._now(), covered.data[:8]))
        ctime, covered_ctime = node.ctime, covered.ctime if covered is not None else 0
        if covered is not None and covered.inode is node.inode:
            self._disk.remove(t.source)
        else:
            assert self._disk.rename(t.source, t.path), t
        self._moves_on(node, ctime)
        if covered is not None and covered.inode is not node.inode:
            self._moves_on(covered, covered_ctime)
        for place, mtime in zip(places, before, strict=True):
            assert place is not None
            place.mtime = mtime
        return APPLIED
