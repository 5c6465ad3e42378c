"""Observe one replica: turn "something happened here" into "this is what is there now".

An event never says what to do; it says where to look. The filter hears events from a
watcher (`psync.watch`), waits until a path is quiet (`core.settle`), looks
(`psync.scan`), and sends what it saw. So lost, doubled, late and reordered events do no
harm: the next look shows what is there.

What it sends, all in the order in which it was seen:

- `Digests` and `Scanned` while the watcher scans the tree;
- `Observed` for paths that something happened to, with content for small quiet files;
- `Listing` with content for a directory that is new here, its parent first;
- `Trouble` where it cannot look.

**Echoes.** The agent's own transitions make events, too; an observation that shows just what
they left is dropped, and so is one that shows what was told already (`psync.known`).

**Invariants.** A look that failed is never reported as "absent". A path that could not be
read (busy, forbidden) is looked at again by itself. `Flushed` follows everything that
happened before `Flush`. Bounds: `PENDING_MAX` paths wait (beyond: everything is scanned
anew), `CREDIT` bytes of content are on their way, `REMEMBERED_MAX` entries in each memory
of the recent past (beyond: work is done twice).

Nothing here decides what is right, and nothing here writes, but for the heartbeat file in
`.psync` that a flush makes.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterator, Sequence
from heapq import heappop, heappush
from typing import Any, Callable, Optional

from psync.core.entry import CONTROL_NAME, Entry, Kind, below_or_at, is_below, join, parent
from psync.core.ignore import Ignore
from psync.core.settle import (
    ATTRIBUTES,
    CLOSED,
    CREATED,
    DEEP,
    DELETED,
    DIRECTORY,
    HELD,
    LIST,
    MODIFIED,
    MOVED,
    MOVED_IN,
    MOVED_OUT,
    PASSED,
    Due,
    Settle,
)
from psync.known import NOT_OURS, REMEMBERED_MAX, Known, same_state
from psync.scan import (
    ABSENT,
    Looker,
    Seen,
    list_names,
    open_directory,
    open_file,
)
from psync.watch import Cinotify, Event, Inotify, Polling, Watcher
from psync.wire import (
    APPLIED,
    BUSY,
    CREDIT,
    DATABASE,
    META_ONLY,
    RENAME,
    UNREADABLE,
    Digests,
    Flushed,
    Item,
    Listing,
    Message,
    Observed,
    Outcome,
    Peek,
    Peeked,
    Scanned,
    Start,
    Transition,
    Trouble,
)
from psync.xattrs import attributes_of

__all__ = ["Filter", "RootLost", "is_remote"]

PENDING_MAX = 100_000
_SLICE = 128  # paths a look loop takes before it looks at the clock
_FRAME_BYTES = 1 << 20  # content in one frame
_LISTING_NAMES = 500
_PEEKED_NAMES = 2000
_DIGESTS_MAX = 1000
_ABSENT_AGE = 10.0  # a rename is heard of within this
_TOUCH_DELAY = 0.005  # a directory's own mtime follows what happened in it
_CHAIN_WAIT = 0.05  # what is gone, and nobody has said so, was renamed (again): its event comes
_PAUSE = 0.1  # so does that of a directory, which all else waits for
_ECHO_WAIT = 1.0  # our own work is heard of within this, or looked at
_TROUBLE_RETRY = 15.0
_TOLD_BY_SCANS = ("mount", "unreadable")
_SQLITE = b"SQLite format 3\0"
_JOURNALS = (b"-wal", b"-journal", b"-shm")  # SQLite's; a database is worth nothing without them
_DEATHS_MAX = 3
_DEATHS_WITHIN = 30.0

_GONE = DELETED | MOVED_OUT
_CONTENT = CREATED | MODIFIED | CLOSED | MOVED_IN
_WRITTEN = MODIFIED | CLOSED
_NAMES = CREATED | DELETED | MOVED_IN | MOVED_OUT
_FILE = int(Kind.FILE)
_DIR = int(Kind.DIRECTORY)

_REMOTE = (
    "nfs", "cifs", "smb", "9p", "ceph", "lustre", "afs", "gfs", "ocfs", "fuse", "vboxsf",
    "prl_fs", "virtiofs", "ncpfs", "beegfs", "gpfs",
)  # fmt: skip


def is_remote(filesystem: str) -> bool:
    """Tell whether a file system, by its type, may be changed by hosts that tell nobody here."""
    return filesystem.startswith(_REMOTE)


class RootLost(Exception):
    """The root is not the directory any more that we began with."""


def _exists(parent_fd: int, name: bytes) -> bool:
    try:
        os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
    except OSError:
        return False
    return True


class _Flush:
    """A flush on its way: the heartbeat, then the scan if one is due, then what was pending."""

    __slots__ = ("beaten", "generation", "target", "token")

    def __init__(self, token: int, generation: int) -> None:
        self.token = token
        self.beaten = False
        self.generation = generation  # the scan that must be over
        self.target = -1  # so many looks must have been taken; -1: not known yet


class Filter:
    """See the module's text. `send` must not block; the caller bounds what it queues."""

    def __init__(
        self,
        root_fd: int,
        start: Start,
        *,
        program: str,
        filesystem: str,
        own: dict[bytes, Optional[Entry]],
        send: Callable[[Message], None],
        log: Callable[[int, str], None],
        check_root: Callable[[], None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; `begin` starts it.

        Args:
            root_fd: the root; stays the caller's.
            start: how to serve.
            program: cinotify's path, or empty.
            filesystem: the root's type; some of them tell only half of what happens.
            own: what our transitions left, path by path; shared with who applies them.
            send: takes a message for the brain.
            log: takes a level and a line.
            check_root: raises `RootLost` if the root is not what it was.
            now: a monotonic clock.
        """
        self._root_fd = root_fd
        self._owners = start.owners
        self._strip = start.strip_special_bits
        self._inline_max = start.inline_max
        self._settle_ns = start.settle_ms * 1_000_000
        self._poll = max(start.poll_ms, 100) / 1000
        self._program = program
        self._known = Known(own, suppress=start.suppress_echoes)
        self._send = send
        self._log = log
        self._check_root = check_root
        self._now = now
        self._ignored = Ignore(start.excludes, start.tempfiles)
        self._attributes = attributes_of(start)
        self._looker = Looker(
            root_fd, owners=self._owners, strip=self._strip, attributes=self._attributes
        )
        self._settle = Settle(start.settle_ms, start.max_delay_ms, PENDING_MAX)

        self._watcher: Watcher
        self._pruned: set[bytes] = set()  # what it was told not to enter
        self._deaths: list[float] = []
        self._generation = 0
        self._scanning = False
        self._scan_again = False
        self._digests: list[tuple[bytes, bytes]] = []
        self._remote = is_remote(filesystem)
        self._polling = self._remote
        self._next_poll = 0.0

        self._absent: dict[bytes, tuple[float, int]] = {}
        self._told_lost = -_ABSENT_AGE
        self._told_in: dict[bytes, tuple[float, int]] = {}  # directories' inodes, by their names
        self._echoes: dict[bytes, float] = {}
        self._touched: dict[bytes, None] = {}
        self._touch_at = 0.0
        self._turning: dict[bytes, bytes] = {}  # directories' renames to be told yet, new to old
        self._paused_until = 0.0
        self._paused_for = b""
        self._interval = start.event_interval_ms / 1000
        self._gather_until = 0.0  # 0: nothing is gathered
        self._troubles: dict[tuple[str, bytes], str] = {}
        self._closed: set[bytes] = set()  # unreadable to us, while the watcher had read them
        self._doubted: set[tuple[str, bytes]] = set()  # not told again by the scan yet
        self._unread: set[bytes] = set()
        self._listing: Optional[Iterator[None]] = None
        self._listed = (b"", 0)
        self._revealing: Optional[Iterator[None]] = None
        self._rules = (start.excludes, start.tempfiles)
        self._answering: Optional[bytes] = None  # the directory whose listing was asked for
        self._overtaken: set[bytes] = set()  # names in it that were told of meanwhile
        self._credit = CREDIT
        self._taken = 0
        self._flushes: list[_Flush] = []

    # --- the watcher ---------------------------------------------------------------------

    def begin(self) -> None:
        """Start to watch and scan. `.psync` must be there."""
        self._generation = 1
        self._scanning = True
        self._watcher = self._start_watcher()
        if self._remote:
            self._trouble(
                "io",
                b"",
                "this file system does not tell of changes made on other hosts: "
                f"they are looked for every {self._poll:g} s",
            )
        if self._polling:
            self._next_poll = self._now() + self._poll

    def _start_watcher(self) -> Watcher:
        options: dict[str, Any] = {
            "owners": self._owners,
            "strip": self._strip,
            "attributes": self._attributes,
            "pruned": self._ignored.pruned,
        }
        self._pruned = set(self._ignored.pruned)
        recent = [t for t in self._deaths if self._now() - t < _DEATHS_WITHIN]
        if self._program and len(recent) < _DEATHS_MAX:
            try:
                return Cinotify(self._program, self._root_fd, **options)
            except OSError as error:
                self._log(30, f"cinotify cannot run here ({error}); watching without it")
        try:
            return Inotify(self._root_fd, **options)
        except (ImportError, OSError) as error:
            self._polling = True
            self._next_poll = self._now() + self._poll
            self._trouble(
                "io",
                b"",
                f"no events are to be had here ({error}): "
                f"changes are looked for every {self._poll:g} s",
            )
        return Polling(self._root_fd, **options)

    def take_over(self, start: Start) -> None:
        """Observe as is wanted from now on; look at what other rules hide no more."""
        self._settle_ns = start.settle_ms * 1_000_000
        self._settle.take_over(start.settle_ms, start.max_delay_ms)
        self._poll = max(start.poll_ms, 100) / 1000
        self._interval = start.event_interval_ms / 1000
        rules = (start.excludes, start.tempfiles)
        if rules == self._rules:
            return
        before, self._rules, self._ignored = self._ignored, rules, Ignore(*rules)
        if not self._pruned <= set(self._ignored.pruned):
            self._watch_anew()  # what was not watched may be replicated now
        self._reveal_soon(b"", before)

    def _reveal_soon(self, top: bytes, before: Callable[[bytes, bool], bool]) -> None:
        if self._revealing is not None:  # what that has not come to may be visible again, or not
            self.rescan()
        self._revealing = self._reveal(top, before)

    def _reveal(self, top: bytes, before: Callable[[bytes, bool], bool]) -> Iterator[None]:
        """Find what was hidden and is no more, by its name alone: yields between directories.

        Args:
            top: where to look.
            before: tells what was hidden.
        """
        waiting = [top]
        while waiting:
            path = waiting.pop()
            try:
                fd = open_directory(self._root_fd, path)
            except OSError:
                continue  # it is told of, or looked at, when it is there and can be read
            try:
                with os.scandir(fd) as entries:
                    found = [(e.name, e.is_dir(follow_symlinks=False)) for e in entries]
            except OSError:
                continue
            finally:
                os.close(fd)
            for name, directory in found:
                sub = join(path, os.fsencode(name))
                if self._ignored(sub, directory):
                    continue
                if not before(sub, directory):
                    if directory:
                        waiting.append(sub)
                elif directory:
                    self._list_soon(sub)
                else:
                    self.again(sub)
            yield

    @property
    def watcher(self) -> str:
        """The name of the watcher in use."""
        return self._watcher.name

    @property
    def fd(self) -> int:
        """Readable when `read` has something to do; -1: never. May change after `read`."""
        return self._watcher.fd

    @property
    def turning(self) -> bool:
        """A directory's rename is to be told before anything that was asked is answered."""
        return bool(self._turning)

    def close(self) -> None:
        """Stop watching."""
        self._looker.forget()
        if self._generation:
            self._watcher.close()

    def rescan(self) -> None:
        """Scan everything again. Raises RootLost."""
        if self._scanning:
            self._scan_again = True
            return
        self._check_root()
        self._scan_begins()
        self._watcher.rescan()

    def _scan_begins(self) -> None:
        self._scan_again = False
        self._generation += 1
        self._scanning = True
        self._doubted = {key for key in self._troubles if key[0] in _TOLD_BY_SCANS}

    def _died(self, why: str) -> None:
        """The watcher is dead: nothing is known of what happened since. Another one."""
        self._check_root()
        self._deaths.append(self._now())
        del self._deaths[:-_DEATHS_MAX]
        self._trouble("overflow", b"", f"the watcher ended ({why}): everything is scanned again")
        self._watch_anew()

    def _watch_anew(self) -> None:
        """Another watcher: nothing is known of what happens until it has begun."""
        self._watcher.close()
        self._scanning = False  # that scan will never be over
        self._digests = []
        self._events_lost()
        self._watcher = self._start_watcher()

    def _events_lost(self) -> None:
        """Nothing is known of what happened last; the watcher scans again by itself.

        A scan that is going on may have passed where it happened: another one follows it.
        """
        self._known.events_lost()
        if self._scanning:
            self._scan_again = True
        else:
            self._scan_begins()
        self._flush_after_scan()

    def _flush_after_scan(self) -> None:
        """What has happened before a flush may have been lost: it waits for the scan, too."""
        for flush in self._flushes:
            flush.generation = self._generation + self._scan_again
            flush.target = -1

    # --- events --------------------------------------------------------------------------

    def read(self) -> None:
        """Take what the watcher has to say.

        Raises:
            RootLost: the root is gone.
        """
        try:
            events = self._watcher.read()
        except EOFError as error:
            self._died(str(error))
            return
        if events:
            self._take(events)

    def _take(self, events: list[Event]) -> None:
        now = self._now()
        note, ignored, echoes = self._settle.note, self._ignored, self._echoes
        created: list[bytes] = []
        for event in events:
            kind = event[0]
            if kind == "E":
                _, mask, path = event
                if ignored(path):
                    if mask & _NAMES:
                        self._touch_above(path, now)
                    continue
                if echoes:
                    echoes.pop(path, None)
                self._heard_of(path)
                if not path:
                    self._touch(path, now)
                    continue
                if mask & _NAMES:
                    self._touch(path.rpartition(b"/")[0], now)
                if mask & DIRECTORY and mask & (CREATED | MOVED_IN):
                    continue  # its listing follows
                note(path, mask, now)
                if mask & CREATED and not mask & (CLOSED | _GONE):
                    created.append(path)
            elif kind == "D":
                self._directory(event[1], event[2], event[4], now)
            elif kind == "M":
                self._moved(event[1], event[2], event[3], now)
            else:
                self._other(event, now)
        if self._digests:
            self._send_digests()
        if created:
            self._complete_when_born(created, now)
        if self._settle.overflowed:
            self._overflow(now)

    def _overflow(self, now: float) -> None:
        """Too much is pending to be kept."""
        self._log(30, f"more than {PENDING_MAX} paths are pending: scanning everything")
        self._settle.clear()
        self._turning.clear()
        self._told_lost = now
        self.rescan()
        self._flush_after_scan()

    def _directory(self, live: bool, digest: bytes, path: bytes, now: float) -> None:
        if self._ignored(path, True):
            return
        self._untrouble("unreadable", path)
        self._untrouble("mount", path)
        if live:
            self._heard_of(path)
            self._settle.note(path, LIST | DIRECTORY, now)
            return
        if not self._scanning:  # the watcher had a reason of its own
            self._scan_begins()
        self._digests.append((path, digest))
        if len(self._digests) >= _DIGESTS_MAX:
            self._send_digests()

    def _send_digests(self) -> None:
        self._send(Digests(self._generation, self._digests))
        self._digests = []

    def _moved(self, directory: bool, old: bytes, new: bytes, now: float) -> None:
        """A rename: a hint, unless one of the names is none of ours."""
        self._echoes.pop(old, None)
        self._echoes.pop(new, None)
        self._heard_of(old)
        self._heard_of(new)
        from_nowhere, to_nowhere = (self._ignored(path, directory) for path in (old, new))
        for hidden, path in ((from_nowhere, old), (to_nowhere, new)):
            if hidden:
                self._touch_above(path, now)
        if from_nowhere and to_nowhere:
            return
        flag = DIRECTORY if directory else 0
        if to_nowhere:
            self._touch(parent(old), now)
            self._settle.note(old, MOVED_OUT | flag, now)
        elif from_nowhere or self._is_told_absent(old):
            self._touch(parent(new), now)
            self._settle.note(new, LIST | DEEP | flag if directory else MOVED_IN, now)
            if not from_nowhere:
                del self._absent[old]
                self._touch(parent(old), now)
                self._settle.note(old, MOVED_OUT | flag, now)
        else:
            self._absent.pop(new, None)
            self._absent.pop(old, None)
            self._touch(parent(old), now)
            self._touch(parent(new), now)
            self._settle.rename(old, new, directory, now)
            if directory:
                self._turn(old, new)
        if directory:
            self._directory_moved(old, new, now)

    def _turn(self, old: bytes, new: bytes) -> None:
        """A directory's rename is to be told, and those of directories in it go along."""
        self._turning[new] = self._turning.pop(old, old)
        for path in [p for p in self._turning if is_below(p, old)]:
            self._turning[new + path[len(old) :]] = self._turning.pop(path)

    def _directory_moved(self, old: bytes, new: bytes, now: float) -> None:
        """Forget what a directory's move has made wrong, and look again for what it hid.

        A path below `old` may have been looked at after the move and before we heard of
        it: it was reported as absent, and is at its new place. Or it was reported as what is in
        another directory, which has that name by now: who is told of the move takes it along.
        """
        self._known.directory_moved(old, new)
        for path in [p for p in self._echoes if is_below(p, old)]:
            # Was it done before the rename, or in a new directory of the old name?
            del self._echoes[path]
            self._settle.note(path, MODIFIED | CLOSED, now)
            self._settle.note(new + path[len(old) :], MODIFIED | CLOSED, now)
        for path in [p for p in self._touched if p == old or is_below(p, old)]:
            del self._touched[path]
            self._touched[new + path[len(old) :]] = None
        for flush in self._flushes:
            flush.target = -1
        for code, path in self._troubles_at(old):
            message = self._troubles[code, path]
            self._untrouble(code, path)
            if not self._ignored(new, True):
                self._trouble(code, new + path[len(old) :], message)
        if self._listing is not None:
            path, mask = self._listed
            if below_or_at(path, old):
                self._listing = None  # what is left of it would come under the wrong name
                self._settle.note(new + path[len(old) :], mask, now)
            elif below_or_at(path, new):
                self._listing = None  # it was to be told before the rename, which would void it
                self._settle.note(path, mask, now)
        if self._revealing is not None:
            self.rescan()  # what is left to look at may have another name now
        if self._ignored(new, True):
            return
        if self._ignored.by_path:  # what was hidden in it may be hidden no more
            ignored = self._ignored
            self._reveal_soon(new, lambda path, kind: ignored(old + path[len(new) :], kind))
        if now - self._told_lost < _ABSENT_AGE:
            self._settle.note(new, LIST | DEEP | DIRECTORY, now)
            return
        for path in [p for p in self._absent if is_below(p, new)]:
            del self._absent[path]  # of what was there before
        for path in [p for p in self._absent if is_below(p, old)]:
            mask = self._absent.pop(path)[1]
            self._settle.note(new + path[len(old) :], mask, now)
        for path in [p for p in self._told_in if below_or_at(p, old)]:
            when, inode = self._told_in.pop(path)
            there = new + path[len(old) :]
            if now - when >= _ABSENT_AGE:
                continue  # heard of by now, if it was renamed then
            if self._leads_to(there, inode):
                self._told_in[there] = (when, inode)
            else:
                self._settle.note(there, LIST | DIRECTORY, now)

    def _other(self, event: Event, now: float) -> None:
        kind = event[0]
        if kind == "S":
            self._scanned(event[1], event[2], event[3], now)
        elif kind == "O":
            self._trouble("overflow", b"", "too much happened at once: everything is scanned again")
            self._events_lost()
        elif kind == "B":
            for flush in self._flushes:
                if event[1] == b"beat.%d" % flush.token:
                    flush.beaten = True
        elif kind == "X":
            self._unreadable(event[2], event[1], now)
        elif kind == "N":
            if not self._ignored(event[1], True):
                self._trouble("mount", event[1], "is a mount point: what is in it stays here")
        elif kind == "L":
            if not self._polling:
                self._polling = True
                self._next_poll = now + self._poll
            self._trouble(
                "limit",
                b"",
                "there are more directories than inotify watches (raise the sysctl "
                f"fs.inotify.max_user_watches): looking everywhere every {self._poll:g} s",
            )
        elif kind == "U":
            self._check_root()
            raise RootLost("the root was unmounted or removed")

    def _scanned(self, directories: int, entries: int, local: int, now: float) -> None:
        if self._digests:
            self._send_digests()
        self._scanning = False
        self._send(Scanned(self._generation, directories, entries, local))
        self._untrouble("overflow", b"")
        for code, path in self._doubted:
            self._untrouble(code, path)
        if self._polling:
            self._next_poll = now + self._poll
        if self._scan_again:
            self.rescan()
        else:
            self._beat()

    def _unreadable(self, path: bytes, number: int, now: float) -> None:
        if self._ignored(path, True):
            return
        if not path:
            self._check_root()
        self._trouble("unreadable", path, os.strerror(number))
        if path:
            self._settle.note(path, ATTRIBUTES | DIRECTORY, now)

    def _complete_when_born(self, paths: list[bytes], now: float) -> None:
        """Symlinks and hard links are never closed: do not wait for it."""
        for path in paths:
            if not self._settle.waits(path):
                continue
            try:
                directory, _, name = path.rpartition(b"/")
                fd = self._looker.parent(directory)
                if fd >= 0:
                    st = os.stat(name, dir_fd=fd, follow_symlinks=False)
                    if not stat.S_ISREG(st.st_mode) or st.st_nlink > 1:
                        self._settle.note(path, MOVED_IN, now)
            except OSError:
                pass  # it is looked at in any case, only later
        self._looker.forget()

    def _touch(self, directory: bytes, now: float) -> None:
        """Names in a directory have changed, so its mtime has."""
        if not self._touched:
            self._touch_at = now + _TOUCH_DELAY
        self._touched[directory] = None

    def _touch_above(self, path: bytes, now: float) -> None:
        """A name that is not replicated has come or gone: its directory's mtime is replicated."""
        directory = parent(path)
        if directory and not self._ignored(directory, True):
            self._touch(directory, now)

    # --- looking -------------------------------------------------------------------------

    def deadline(self) -> Optional[float]:
        """When `live` has something to do, monotonic; 0: now; None: never, as things are."""
        if self._listing is not None or self._revealing is not None:
            return 0.0
        if self._watcher.scanning() or self._may_flush():
            return 0.0
        settled = self._settle.deadline()
        if settled is not None:
            settled = max(settled, self._paused_until, self._gather_until)
        times = [settled, self._watcher.deadline()]
        if self._touched and not self._turning:
            times.append(max(self._touch_at, self._gather_until))
        if self._echoes:
            times.append(next(iter(self._echoes.values())))
        if self._polling and not self._scanning:
            times.append(self._next_poll)
        return min((t for t in times if t is not None), default=None)

    def live(self, until: float) -> None:
        """Look where it is due, and send; stop soon after `until` (`deadline` is 0 then).

        Raises:
            RootLost: the root is gone.
        """
        watcher = self._watcher
        if watcher.scanning():
            self._take(watcher.step(until - self._now()))
        deadline = watcher.deadline()
        if deadline is not None and deadline <= self._now():
            self.read()
        settle = self._settle
        if self._revealing is not None:
            for _ in self._revealing:
                if self._now() >= until:
                    return
            self._revealing = None
        try:
            while True:
                if self._listing is not None:
                    for _ in self._listing:
                        if self._now() >= until:
                            return
                    self._listing = None
                if self._now() < self._paused_until or self._is_gathering():
                    break
                due = settle.due(self._now(), _SLICE)
                if not due:
                    self._gather_until = 0.0
                    break
                self._taken += self._look_at(due)
                if self._now() >= until:
                    break
            now = self._now()
            if self._touched and not self._turning and now >= self._gather_until:
                if now >= self._touch_at or self._flushes:
                    self._look_at_touched()
            if self._polling and not self._scanning and now >= self._next_poll:
                self.rescan()
            while self._echoes:
                path, until_echo = next(iter(self._echoes.items()))
                if until_echo > now:
                    break
                del self._echoes[path]
                settle.note(path, MOVED_IN, now)
        finally:
            self._looker.forget()
        if self._settle.overflowed:  # by what looks have led to
            self._overflow(now)
        if self._flushes:
            self._go_on_flushing()

    def _is_gathering(self) -> bool:
        """Tell whether more changes are awaited before any is looked at."""
        if not self._interval or self._flushes or not len(self._settle):
            return False
        now = self._now()
        if not self._gather_until:
            self._gather_until = now + self._interval
        return now < self._gather_until

    def _look_at(self, due: list[Due]) -> int:
        """Look at what is due, in order; return at how many paths."""
        items: list[Item] = []
        size = 0
        held: set[bytes] = set()
        for position, d in enumerate(due):
            path = d.path
            if path in held:
                continue
            self._overtake(path)
            if d.mask & PASSED:
                self._look_onward(d, items)
                continue
            directory = self._asks_for_directory(d) and self._is_directory(path)
            if self._is_moved_on(d, directory):
                return self._pause(due, position, items)
            turning = self._turning.pop(path, None)
            if d.mask & LIST and directory:
                if d.moved_from:
                    self._look(d, items, held)
                if items:
                    self._send(Observed(items))
                    items, size = [], 0
                self._listing = self._list(path, live=True, deep=bool(d.mask & DEEP))
                self._listed = (path, d.mask & (LIST | DEEP | DIRECTORY))
                return len(due)  # a listing is the last of what is given out at once
            if d.mask & (MOVED | MOVED_OUT) and not d.moved_from and directory:
                # Two names were exchanged: the watcher knows what is here from its old place.
                self._list_soon(path)
                continue
            content = self._look(d, items, held)
            if content is None:
                if turning is not None:
                    self._turning[path] = turning
                return self._pause(due, position, items)
            if content:
                size += content
                if size >= _FRAME_BYTES:
                    self._send(Observed(items))
                    items, size = [], 0
        if items:
            self._send(Observed(items))
        return len(due)

    @staticmethod
    def _asks_for_directory(d: Due) -> bool:
        """Tell whether it makes a difference if there is a directory at a path."""
        renamed = d.mask & (MOVED | MOVED_OUT) and (d.mask & DIRECTORY or not d.moved_from)
        return bool(d.mask & LIST or renamed)

    @staticmethod
    def _is_moved_on(d: Due, directory: bool) -> bool:
        """Tell whether directories were renamed further than we have heard: not what waits already.

        Args:
            d: what was renamed to or from its path.
            directory: there is one now.
        """
        renamed = d.mask & DIRECTORY and d.mask & (MOVED | MOVED_OUT)
        waits = d.mask & HELD or d.force or (d.mask & LIST and not d.moved_from)
        return bool(renamed) and not waits and directory != bool(d.moved_from)

    def _pause(self, due: list[Due], position: int, items: list[Item]) -> int:
        """Wait for what has happened to directories since; return at how many paths was looked.

        What is told of their renames goes by the order of them, so nothing else is told.
        """
        self._settle.put_back(due[position:])
        self._paused_until = self._now() + _PAUSE
        self._paused_for = due[position].path
        if items:
            self._send(Observed(items))
        return position

    def _heard_of(self, path: bytes) -> None:
        """Something happened at a path: that may be what was waited for."""
        if self._paused_until and path == self._paused_for:
            self._paused_until = 0.0

    def _look_onward(self, d: Due, items: list[Item]) -> None:
        """Tell of a directory that was renamed to here, and from here when others had made room."""
        self._settle.note(d.path, MOVED_OUT | DIRECTORY, self._now())
        try:
            entry = self._looker.look(d.onward).entry
        except OSError:
            return  # whoever looks there will tell
        if entry is None or entry.kind != _DIR:
            return
        if not self._known.shows(d.onward, entry, written=False):  # else all of it is our own work
            items.append(Item(d.path, entry, None, d.moved_from))

    def _list_soon(self, path: bytes, mask: int = LIST | DEEP | DIRECTORY) -> None:
        """A directory is new here, and nobody else says so of what is in it."""
        self._settle.note(path, mask, self._now())
        for flush in self._flushes:
            flush.target = -1

    def _is_directory(self, path: bytes) -> bool:
        try:
            entry = self._looker.look(path).entry
        except OSError:
            return True  # the listing will tell
        return entry is not None and entry.kind == _DIR

    def _look(self, d: Due, items: list[Item], held: set[bytes]) -> Optional[int]:
        """Look at one path and append what is worth telling; return its content's size.

        None: nothing is told, because a directory has just been moved on from there.
        """
        path, mask = d.path, d.mask
        unread = path in self._unread
        # While the watcher scans, it may be because it has lost what was written before.
        meta_only = d.meta_only and not unread and not self._scanning
        want = bool(mask & _CONTENT) or (d.meta_only and unread)
        ours = self._known.ours(path)
        looker = self._looker
        in_database = d.force and self._is_in_database(path)
        try:
            if want and (ours is NOT_OURS or mask & _WRITTEN):
                seen = looker.look(
                    path,
                    self._inline_max if self._credit > 0 else -1,
                    trust_ns=0 if mask & CLOSED else self._settle_ns,
                    force=d.force and not in_database,
                )
            else:
                seen = looker.look(path)
                if (
                    want
                    and seen.entry is not None
                    and (ours is None or not same_state(seen.entry, ours))
                ):
                    return self._look(d._replace(mask=mask | MODIFIED), items, held)
        except OSError as error:
            self._cannot(path, error)
            return 0
        entry, content, flags = self._unless_hidden(path, seen)
        if self._is_moved_on(d, entry is not None and entry.kind == _DIR):
            return None
        if entry is None:
            self._look_absent(d, items, held)
            return 0
        if flags:
            if flags & BUSY and in_database:
                flags |= DATABASE
            return self._look_flawed(d, entry, flags, items)
        if self._unread:
            self._unread.discard(path)
        if self._absent:
            self._absent.pop(path, None)
        if self._troubles:
            if entry.kind == _DIR and ("unreadable", path) in self._troubles:
                if path not in self._closed:  # nothing tells when that ends
                    self._settle.hold(path, self._now(), _TROUBLE_RETRY, LIST | DIRECTORY)
                    return self._look_flawed(d, entry, UNREADABLE, items)
                if not self._may_list(path):
                    return self._look_flawed(d, entry, UNREADABLE, items)
                self._untrouble("unreadable", path)
                self._list_soon(path, LIST | DIRECTORY)
            self._untrouble("io", path)
            self._untrouble("mount", path)
        if d.moved_from:  # a listing may have shown it before, but not where it came from
            self._known.forget_told(path)
        if self._known.shows(path, entry, written=bool(mask & _WRITTEN)):
            return 0
        meta_only = meta_only and entry.tells_writes()
        self._tell_of(path)
        self._known.tell(path, entry, meta_only=meta_only)
        items.append(Item(path, entry, content, d.moved_from, META_ONLY if meta_only else 0))
        if content is None:
            return 0
        self._credit -= len(content)
        return len(content)

    def _unless_hidden(self, path: bytes, seen: Seen) -> Seen:
        """What is to be told of a look: of what some rule hides because of its kind nothing is."""
        if self._ignored.by_kind and seen.entry is not None:
            if self._ignored(path, seen.entry.kind == _DIR):
                return ABSENT
        return seen

    def _is_in_database(self, path: bytes) -> bool:
        """Tell whether a file is part of a database with a journal: one without the other lies."""
        directory, _, name = path.rpartition(b"/")
        for suffix in _JOURNALS:
            name = name.removesuffix(suffix)
        try:
            parent_fd = self._looker.parent(directory)
            if parent_fd < 0 or not any(_exists(parent_fd, name + s) for s in _JOURNALS):
                return False
            fd = open_file(parent_fd, name)
            try:
                return os.read(fd, len(_SQLITE)) == _SQLITE
            finally:
                os.close(fd)
        except OSError:
            return False

    def _look_absent(self, d: Due, items: list[Item], held: set[bytes]) -> None:
        path, mask = d.path, d.mask
        if d.moved_from and not mask & (HELD | _GONE) and not d.force:
            now = self._now()
            self._settle.hold(path, now, _CHAIN_WAIT)
            if mask & DIRECTORY:
                self._turning[path] = d.moved_from
            held.add(d.moved_from)
            self._settle.hold(d.moved_from, now, _CHAIN_WAIT)
            return
        if not mask & (HELD | _GONE | LIST) and not d.force and not self._scanning:
            # Nobody has said that it went: a directory above it may have been renamed just now.
            self._settle.hold(path, self._now(), _CHAIN_WAIT)
            return
        for code, trouble in self._troubles_at(path):
            self._untrouble(code, trouble)
        told = self._known.tell_absent(path)
        if told:
            items.append(Item(path, None))
            if mask & DIRECTORY:  # and so is all that is in it, for who is told this
                mask |= LIST
        if told or mask & ~(_GONE | DIRECTORY | HELD):  # else it is just what we did
            # Also what was reported as deleted: the report may be older than a rename above it.
            self._remember_absent(path, mask & ~HELD)

    def _look_flawed(self, d: Due, entry: Entry, flags: int, items: list[Item]) -> int:
        """Busy or unreadable: it will be looked at again."""
        path = d.path
        if flags & BUSY:
            self._settle.busy(path, self._now())
            if not d.moved_from and not d.force:
                return 0  # it is told when it is quiet
        self._tell_of(path)
        self._known.forget(path)
        if flags & UNREADABLE:
            self._unread.add(path)
            if len(self._unread) > REMEMBERED_MAX:
                self._unread.pop()
        items.append(Item(path, entry, None, d.moved_from, flags))
        return 0

    def _is_told_absent(self, path: bytes) -> bool:
        """Tell whether a path was told as gone; of a directory in which names change nothing is."""
        known = self._absent.get(path)
        return known is not None and bool(known[1] & ~(ATTRIBUTES | DIRECTORY))

    def _remember_absent(self, path: bytes, mask: int) -> None:
        now = self._now()
        absent = self._absent
        if len(absent) >= REMEMBERED_MAX:
            oldest = next(iter(absent))
            if now - absent.pop(oldest)[0] < _ABSENT_AGE:
                self._told_lost = now
        if mask & DIRECTORY:
            mask = LIST | DEEP | DIRECTORY if mask & (MOVED | LIST) else mask
        else:
            mask |= MODIFIED | CLOSED
        absent[path] = (now, mask)

    def _tell_of(self, path: bytes) -> None:
        """What was looked at is to be told: of the directory that had that name, as we looked."""
        directory = parent(path)
        if directory:
            self._remember_told(directory, os.fstat(self._looker.parent(directory)).st_ino)

    def _remember_told(self, directory: bytes, inode: int) -> None:
        now = self._now()
        told = self._told_in
        told.pop(directory, None)  # the youngest comes last
        told[directory] = (now, inode)
        while now - told[next(iter(told))][0] >= _ABSENT_AGE:
            del told[next(iter(told))]
        if len(told) > REMEMBERED_MAX:
            del told[next(iter(told))]
            self._told_lost = now

    def _look_at_touched(self) -> None:
        touched, self._touched = self._touched, {}
        items = []
        for directory in touched:
            if self._settle.is_ready(directory):
                continue  # if it is new, its listing is to be the first that is told of it
            try:
                entry = self._looker.look(directory).entry
            except OSError:
                continue  # whoever lists it will tell
            if entry is None or entry.kind != _DIR:
                self._remember_absent(directory, ATTRIBUTES | DIRECTORY)
            elif not self._known.shows(directory, entry, written=False):
                self._overtake(directory)
                self._tell_of(directory)
                self._known.tell(directory, entry)
                items.append(Item(directory, entry))
        if items:
            self._send(Observed(items))

    # --- listings ------------------------------------------------------------------------

    def list_(self, paths: Sequence[bytes]) -> Iterator[None]:
        """Answer a `List_`: yields between slices of work."""
        for path in paths:
            if self._ignored(path, True):
                self._send(Listing(path, None, b"", None, []))
                continue
            for _ in self._list(path, live=False, deep=False):
                yield
            yield

    def _overtake(self, path: bytes) -> None:
        """Of a path is told: what goes on with a listing later must not deny that it is there."""
        directory, _, name = path.rpartition(b"/")
        if name and directory == self._answering:
            self._overtaken.add(name)

    def _list(self, path: bytes, *, live: bool, deep: bool) -> Iterator[None]:
        """List a directory; yields between slices.

        What is found is told before anything else can be, but for what we do ourselves meanwhile
        (`applied`): else news would be followed by what was there before.

        Args:
            path: the directory.
            live: it is new here: with content, and not at all if all of it is our own work.
            deep: the directories in it are new, too, and nobody else will say so.
        """
        try:
            fd = open_directory(self._root_fd, path)
        except OSError as error:
            self._cannot_list(path, error, live)
            return
        items: list[Item] = []
        try:
            st = os.fstat(fd)
            entry = self._looker.entry_of(fd)
            assert entry is not None
            if path:
                self._remember_told(path, st.st_ino)
            names = list_names(fd)
            self._untrouble("unreadable", path)
            names = [name for name in names if not self._ignored(join(path, name))]
            self._known.answer(path, entry)
            if live:
                self._absent.pop(path, None)
                for name in names:
                    self._echoes.pop(join(path, name), None)
                ours = self._known.is_our_work(
                    path, entry, names, lambda name: self._looker.look_at(fd, name).entry
                )
                if ours and not deep:
                    return
                self._known.tell(path, entry)
            after = b""
            size = 0
            if not live:
                self._answering, self._overtaken = path, set()
            while names:  # sorted, and so a heap
                name = heappop(names)
                sub = join(path, name)
                item = self._list_item(fd, name, sub, live)
                if item is None:
                    continue
                items.append(item)
                if deep and item.entry is not None and item.entry.kind == _DIR:
                    self._list_soon(sub)
                if item.content is not None:
                    self._credit -= len(item.content)
                    size += len(item.content)
                if len(items) >= _LISTING_NAMES or size >= _FRAME_BYTES:
                    self._send(Listing(path, entry, after, name, items))
                    after, items, size = name, [], 0
                    yield
                    if not self._is_at(path, st.st_ino):
                        raise OSError(errno.ENOENT, "was moved", path)
                    entry = self._looker.entry_of(fd)
                    assert entry is not None
                    if not live:
                        for new in self._overtaken.difference(names):
                            if new > after:
                                heappush(names, new)
                        self._overtaken = set()
                elif live and len(items) % _SLICE == 0:
                    yield
            self._send(Listing(path, entry, after, None, items))
        except OSError as error:
            # What was not sent is void: a listing that is not whole says nothing.
            for item in items:
                self._known.forget(join(path, item.path))
            self._cannot_list(path, error, live)
        finally:
            os.close(fd)
            if not live:
                self._answering, self._overtaken = None, set()

    def _close(self, path: bytes) -> None:
        """A directory keeps us out; the watcher may have nothing to say when that ends."""
        if len(self._closed) < REMEMBERED_MAX:
            self._closed.add(path)

    def _may_list(self, path: bytes) -> bool:
        """Tell whether the names in a directory can be read and looked at."""
        try:
            fd = open_directory(self._root_fd, path)
        except OSError:
            return False
        try:
            os.stat(b".", dir_fd=fd)
        except OSError:
            return False
        finally:
            os.close(fd)
        return True

    def _is_at(self, path: bytes, inode: int) -> bool:
        """Tell whether a directory is (still) at a path. Raises OSError."""
        if not path:
            return True
        fd = open_directory(self._root_fd, path)
        try:
            return os.fstat(fd).st_ino == inode
        finally:
            os.close(fd)

    def _leads_to(self, path: bytes, inode: int) -> bool:
        try:
            return self._is_at(path, inode)
        except OSError:
            return False

    def _list_item(self, fd: int, name: bytes, sub: bytes, live: bool) -> Optional[Item]:
        looker = self._looker
        try:
            if not live:
                seen = looker.look_at(fd, name)
            else:
                self._overtake(sub)
                ours = self._known.ours(sub)
                seen = ABSENT
                if ours is not None and ours is not NOT_OURS:
                    seen = looker.look_at(fd, name)
                if ours is None or seen.entry is None or not same_state(seen.entry, ours):
                    seen = looker.look_at(
                        fd,
                        name,
                        self._inline_max if self._credit > 0 else -1,
                        trust_ns=self._settle_ns,
                    )
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            self._trouble("mount", sub, "is a mount point: what is in it stays here")
            return None
        entry, content, flags = self._unless_hidden(sub, seen)
        if entry is None:
            return None
        if flags:
            if flags & BUSY:
                self._settle.busy(sub, self._now())
            else:
                self._unread.add(sub)
            self._known.forget(sub)
        else:
            self._known.answer(sub, entry)
            self._absent.pop(sub, None)
            if live:
                self._known.tell(sub, entry)
        if self._troubles:
            self._untrouble("mount", sub)
        return Item(name, entry, content, b"", flags)

    def _cannot_list(self, path: bytes, error: OSError, live: bool) -> None:
        number = error.errno or errno.EIO
        if number in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            if live:
                self._remember_absent(path, LIST | DEEP | DIRECTORY)
            else:
                self._send(Listing(path, None, b"", None, []))
        elif number == errno.EXDEV:
            self._trouble("mount", path, "is a mount point: what is in it stays here", again=True)
        else:
            is_closed = number in (errno.EACCES, errno.EPERM)
            if is_closed:
                self._close(path)
            if live or not is_closed:
                self._settle.note(path, ATTRIBUTES | DIRECTORY, self._now())
            self._trouble("unreadable", path, os.strerror(number), again=True)

    # --- what the brain asks ---------------------------------------------------------------

    def look(self, want: int, paths: Sequence[bytes]) -> Iterator[None]:
        """Answer a `Look` for state (0) or content (1): yields between slices of work."""
        items: list[Item] = []
        size = 0
        for count, path in enumerate(paths, 1):
            try:
                seen = self._looker.look(
                    path, self._inline_max if want else -1, trust_ns=self._settle_ns
                )
            except OSError as error:
                self._cannot(path, error, again=True)
            else:
                items.append(self._asked(path, seen))
                size += len(seen.content or b"")
            if size >= _FRAME_BYTES or count % _SLICE == 0:
                self._looker.forget()
                if items:
                    self._send(Observed(items))
                    items, size = [], 0
                yield
        self._looker.forget()
        if items:
            self._send(Observed(items))

    def peek(self, question: Peek) -> Iterator[None]:
        """Answer a `Peek`: yields once; nothing of it counts as told."""
        path = question.path
        items: list[Item] = []
        upto, message = None, ""
        try:
            fd = open_directory(self._root_fd, path)
            try:
                names = [name for name in list_names(fd) if name > question.after]
                if len(names) > _PEEKED_NAMES:
                    upto = names[_PEEKED_NAMES - 1]
                for name in names[:_PEEKED_NAMES]:
                    sub = join(path, name)
                    if self._ignored(sub):
                        continue
                    try:
                        entry = self._unless_hidden(sub, self._looker.look_at(fd, name)).entry
                    except OSError:
                        items.append(Item(name, None))  # such as a mount point
                        continue
                    if entry is not None:
                        items.append(Item(name, entry))
            finally:
                os.close(fd)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                message = os.strerror(error.errno or errno.EIO)
        self._send(Peeked(question.token, message, upto, items))
        yield

    def digested(self, path: bytes, seen: Seen) -> Iterator[None]:
        """Answer a `Look` for a digest, if what was hashed is still there: yields once."""
        try:
            now = self._looker.look(path)
        except OSError as error:
            self._cannot(path, error, again=True)
        else:
            if seen.entry is None or now.entry is None or not same_state(now.entry, seen.entry):
                is_file = now.entry is not None and now.entry.kind == _FILE
                seen = now._replace(flags=BUSY) if is_file else now
            self._send(Observed([self._asked(path, seen)]))
        self._looker.forget()
        yield

    def _asked(self, path: bytes, seen: Seen) -> Item:
        """Make the answer to a question for one path; it is never held back as known."""
        seen = self._unless_hidden(path, seen)
        if seen.flags:
            self._known.forget(path)
            if seen.flags & BUSY:
                self._settle.busy(path, self._now())
            else:
                self._unread.add(path)
        else:
            self._known.answer(path, seen.entry)
        if seen.entry is not None:
            self._tell_of(path)
        else:  # it may be on its way with a directory above it
            self._remember_absent(path, LIST | DEEP)
        return Item(path, seen.entry, seen.content, b"", seen.flags)

    def again(self, path: bytes) -> None:
        """Look at a path again, and tell whatever is there."""
        self._known.forget(path)
        self._settle.note(path, MODIFIED | CLOSED, self._now())

    def unanswerable(self, path: bytes, error: OSError) -> None:
        """A question for a path cannot be answered: say so, and tell when it can."""
        self._cannot(path, error, again=True)

    def credit(self, size: int) -> None:
        """The brain has taken over content."""
        self._credit = min(self._credit + max(size, 0), CREDIT)

    def applied(self, transitions: Sequence[Transition], outcomes: Sequence[Outcome]) -> None:
        """Transitions were carried out: their echoes will come.

        A path whose echo does not come may have been another one when it was changed: a
        directory above it was renamed meanwhile. It is looked at, so that the brain does
        not go on believing what the outcome said.
        """
        self._known.applied(transitions, outcomes)
        now = self._now()
        echoes = self._echoes
        for transition, outcome in zip(transitions, outcomes):
            path = transition.path
            if outcome.status != APPLIED or not path:
                continue  # then what was told as gone may still have been renamed
            self._absent.pop(path, None)
            self._done_at(path, now)
            if transition.verb == RENAME:
                self._done_at(transition.source, now)
        while len(echoes) > REMEMBERED_MAX:
            oldest = next(iter(echoes))
            del echoes[oldest]
            self._settle.note(oldest, MOVED_IN, now)

    def _done_at(self, path: bytes, now: float) -> None:
        """We have changed something: wait for the echo."""
        self._echoes.pop(path, None)
        self._echoes[path] = now + _ECHO_WAIT
        self._doubt(path, now)
        self._overtake(path)
        if self._listing is not None and self._listed[0] in (path, parent(path)):
            self.again(path)  # what is still to come of the listing may deny it

    def _doubt(self, path: bytes, now: float) -> None:
        """The brain takes an outcome for one of before a rename that it is to be told yet.

        So what it makes of it is wrong at both names: it is told what is there.
        """
        for new, old in self._turning.items():
            if is_below(path, old):
                self._settle.note(new + path[len(old) :], MODIFIED | CLOSED, now)
            if is_below(path, old) or is_below(path, new):
                self._known.forget(path)
                self._settle.note(path, MODIFIED | CLOSED, now)

    # --- flush -----------------------------------------------------------------------------

    def flush(self, token: int) -> None:
        """Observe everything that has happened so far, then send `Flushed`."""
        flush = _Flush(token, self._generation)
        self._flushes.append(flush)
        if self._polling:
            self._scan_for(flush)
        if not self._scanning:
            self._beat()

    def _scan_for(self, flush: _Flush) -> None:
        """Let a flush wait for a scan that begins now, or after the one that is going on."""
        flush.generation = self._generation + 1
        self.rescan()

    def _beat(self) -> None:
        """Make the events that come after all that happened before the flushes.

        While the watcher scans it may not watch `.psync` yet: then this waits.
        """
        for flush in self._flushes:
            if flush.beaten:
                continue
            if self._watcher.fd < 0:
                flush.beaten = True
                continue
            name = CONTROL_NAME + b"/beat.%d" % flush.token
            try:
                flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
                os.close(os.open(name, flags, 0o600, dir_fd=self._root_fd))
                os.unlink(name, dir_fd=self._root_fd)
            except OSError as error:  # no space, for one: a scan finds all there is, too
                self._log(30, f"a flush could not make its heartbeat ({error}): scanning instead")
                flush.beaten = True
                self._scan_for(flush)

    def _is_heard(self, flush: _Flush) -> bool:
        """Tell whether all that happened before a flush has come in."""
        if not flush.beaten or self._generation < flush.generation:
            return False
        return self._generation > flush.generation or not self._scanning

    def _may_flush(self) -> bool:
        return bool(self._flushes) and self._is_heard(self._flushes[0])

    def _go_on_flushing(self) -> None:
        done = []
        for flush in self._flushes:
            if not self._is_heard(flush) or self._revealing is not None:
                break
            if flush.target < 0:
                for path in self._echoes:
                    self._settle.note(path, MOVED_IN, self._now())
                self._echoes.clear()
                self._settle.expedite()
                self._paused_until = 0.0
                self._gather_until = 0.0
                flush.target = self._taken + self._settle.ready
            if (self._settle.ready and self._taken < flush.target) or self._listing is not None:
                break
            if self._touched:
                self._look_at_touched()
                self._looker.forget()
            done.append(flush)
        for flush in done:
            self._flushes.remove(flush)
            self._send(Flushed(flush.token))

    # --- trouble -----------------------------------------------------------------------------

    def _cannot(self, path: bytes, error: OSError, *, again: bool = False) -> None:
        """A look failed: nothing is known of the path; say so, and try again later."""
        number = error.errno or errno.EIO
        if number == errno.EXDEV:
            self._trouble("mount", path, "is (in) a mount point and stays here", again=again)
            self._settle.hold(path, self._now(), _TROUBLE_RETRY)  # nothing tells of its end
            return
        if number in (errno.EACCES, errno.EPERM):
            self._close(parent(path))
            self._trouble("unreadable", parent(path), os.strerror(number), again=again)
        else:
            self._trouble("io", path, os.strerror(number), again=again)
        self._known.forget(path)
        self._settle.hold(path, self._now(), _TROUBLE_RETRY)

    def _trouble(self, code: str, path: bytes, message: str, *, again: bool = False) -> None:
        key = (code, path)
        self._doubted.discard(key)
        if self._troubles.get(key) != message or again:
            if len(self._troubles) < REMEMBERED_MAX:
                self._troubles[key] = message
            self._send(Trouble(code, path, message))

    def _troubles_at(self, top: bytes) -> list[tuple[str, bytes]]:
        """What there is trouble with at a path and below it."""
        return [key for key in self._troubles if key[1] == top or is_below(key[1], top)]

    def _untrouble(self, code: str, path: bytes) -> None:
        self._closed.discard(path)
        if self._troubles.pop((code, path), None) is not None:
            self._send(Trouble(code, path, ""))
