"""Nothing that a user could see is destroyed before somebody has looked at it again.

Whatever a transition displaces goes to `.psync/quarantine` under a name of ours. A
program that opened the file before may still write into it there; so after a while its
content is compared once more, under a lease, with what it was when it was displaced.
Only if that is equal it is unlinked, or goes to `.psync/trash` if people want to have what was
deleted, or what an edit has replaced. Otherwise it holds somebody's work: it goes to
`.psync/conflicts`, with a note of where it came from, and is reported.

**Invariants.** `unlink` is called here for names in quarantine only, and never for a
file whose content was not just found equal to a version that the other replica holds or
that its user knowingly replaced. Every displacement is preceded by a line in
`.psync/journal` (one write a batch); a name in quarantine without one is never dropped.
Names are of fixed length and not made of the user's. Not more than `WAITING_MAX` files
wait, but for those that a full disk keeps out of a store: past that the oldest are looked at
early. A directory is removed by `rmdir` only.

What to displace, and the way back when it was the wrong thing, is not decided here
(`helpers`), nor what an interrupted displacement meant (`recovery`).
"""

from __future__ import annotations

import heapq
import logging
import os
from collections.abc import Callable, Container
from hashlib import blake2b
from typing import NamedTuple, Optional

from psync import faults
from psync.conflicts import Conflicts
from psync.core.entry import Entry, Kind, printable
from psync.holding import Links
from psync.intents import Intent, Journal
from psync.private import open_directory, unused_names
from psync.syscalls import lease_intact, read_lease
from psync.wire import Kept, Start

__all__ = ["WAITING_MAX", "Quarantine", "Reason", "for_trash"]

WAITING_MAX = 32_768
SLICE_S = 0.020  # how long one `tick` may work
RETRY_S = 30.0  # when somebody still has a displaced file open

_BLOCK = 1 << 18
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_PATH = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class Reason:
    """Why something is in a store; the word stands in its note."""

    LOSER = "conflict"  # both replicas changed it, and the other version was taken
    FORCED = "forced"  # a directory deleted with what is not replicated: no version of anything
    LATE_WRITE = "late-write"  # written through a descriptor that was open before
    DISPLACED = "displaced"  # saved in the very moment in which we replaced the file
    UNKNOWN = "unknown"  # found in quarantine, and no line of the journal tells of it
    UNREADABLE = "unreadable"  # displaced, and its content cannot be compared
    DELETED = "deleted"  # on the other replica, and so here: in the trash
    EDITED = "edited"  # likewise: the version before that edit


def for_trash(start: Start) -> list[str]:
    """What a session wants to go to the trash in the end, by reason."""
    kept = ((Reason.DELETED, start.trash_s), (Reason.EDITED, start.versions_s))
    return [reason for reason, keep_s in kept if keep_s]


# --- the last look ------------------------------------------------------------------------

_EQUAL, _OTHER, _BUSY, _UNREADABLE, _GONE = range(5)


class _Inspection:
    """The last look at one displaced file, a slice at a time, under a lease if we may."""

    def __init__(self, directory: int, name: bytes, entry: Entry) -> None:
        self._entry = entry
        self._hash = blake2b(digest_size=16)
        self._at = 0
        self.fd = os.open(name, _OPEN, dir_fd=directory)
        self._leased = True
        self.verdict: Optional[int] = None
        try:
            if not read_lease(self.fd):
                self.verdict = _BUSY
        except OSError:
            self._leased = False  # not ours to lease, or no leases on this file system
        self.before = os.fstat(self.fd)
        if self.verdict is None and self.before.st_size != entry.size:
            self.verdict = _OTHER
        elif self.verdict is None and not entry.digest:
            self.verdict = _EQUAL if _same_stamp(self.before, entry) else _OTHER

    def advance(self, in_time: Callable[[], bool]) -> bool:
        """Read on while there is time; tell whether `verdict` stands."""
        while self.verdict is None:
            block = os.pread(self.fd, _BLOCK, self._at)
            self._hash.update(block)
            self._at += len(block)
            if len(block) < _BLOCK and self._at >= self.before.st_size:
                equal = self._hash.digest() == self._entry.digest
                self.verdict = _EQUAL if equal else _OTHER
            elif not block or not self._undisturbed():
                self.verdict = _BUSY
            elif not in_time():
                return False
        if self.verdict == _EQUAL and not self._undisturbed():
            self.verdict = _BUSY
        return True

    def _undisturbed(self) -> bool:
        if self._leased:
            return lease_intact(self.fd)
        now = os.fstat(self.fd)
        return now.st_ctime_ns == self.before.st_ctime_ns

    def close(self) -> None:
        """End the look, and with it the lease."""
        os.close(self.fd)


def _same_stamp(st: os.stat_result, entry: Entry) -> bool:
    return (
        st.st_size == entry.size
        and st.st_mtime_ns == entry.mtime_ns
        and st.st_ctime_ns == entry.ctime_ns
    )


def _says_the_same(one: Entry, two: Entry) -> bool:
    """Tell whether two versions are known to have the same content."""
    if (one.kind, one.size, one.target) != (two.kind, two.size, two.target):
        return False
    return one.kind != Kind.FILE or one.digest == two.digest != b""


# --- quarantine and conflict store --------------------------------------------------------


class _Waiting(NamedTuple):
    """A name in quarantine and when to look at it; a heap orders these."""

    due: float
    order: int
    intent: Intent
    entry: Entry  # what it must still be, to be dropped
    reason: str  # set: it only waits to get into a store


class Quarantine:
    """What was displaced and may not be destroyed yet; and the conflict store beside it.

    Args:
        control_fd: `.psync`, with `quarantine` and `conflicts` in it.
        delay_s: how long a displaced file waits for its last look.
        durable: intents are made durable before they are acted upon.
        log: takes a `logging` level and a line.
        now: the clock, in seconds.
        for_trash: what goes to the trash in the end: that which was `Reason.DELETED` or `EDITED`.
    """

    def __init__(
        self,
        control_fd: int,
        delay_s: float,
        durable: bool,
        log: Callable[[int, str], None],
        now: Callable[[], float],
        for_trash: Container[str] = (),
    ) -> None:
        self.fd = open_directory(control_fd, b"quarantine")
        self.kept: list[Kept] = []
        self.links = Links()
        self.unused = unused_names()
        self.conflicts = Conflicts(control_fd, log)
        self.trash = Conflicts(control_fd, log, "trash")
        self._for_trash = for_trash
        self._is_trash_full = False
        self._journal = Journal(control_fd)
        self._delay_s = delay_s
        self._retry_s = min(RETRY_S, max(delay_s, 0.1))
        self._durable = durable
        self._log = log
        self._now = now
        self._heap: list[_Waiting] = []
        self._order = 0
        self._inspection: Optional[_Inspection] = None  # of the first in the heap

    # --- displacing

    def intend(self, intents: list[Intent]) -> None:
        """Write down what is about to be displaced: before, and once for a batch.

        Raises:
            OSError: it cannot be written down, so it must not be done.
        """
        self._journal.append(intents, self._durable)

    def admit(self, intent: Intent, entry: Entry) -> None:
        """Begin to wait with a file that lies in quarantine.

        Args:
            intent: names it.
            entry: what it is as far as is known: it will be dropped only if it still is
                that. Where `entry.digest` is empty, size, mtime and ctime decide.
        """
        self._wait(intent, entry, "", self._delay_s)
        if len(self._heap) > WAITING_MAX:
            self._finish_first(lambda: True)

    def keep(self, intent: Intent, reason: str, entry: Optional[Entry] = None) -> bytes:
        """Move a name from quarantine to the conflict store, whatever it is.

        Where that fails now (a full disk) it is tried again later.

        Args:
            intent: names it.
            reason: one of `Reason`.
            entry: what it is; None: what was expected.

        Returns:
            The name that it has, or will have, in the conflict store.
        """
        entry = entry or intent.expected
        try:
            # What was hidden in a directory might be so no more under its other name.
            beside = reason != Reason.FORCED
            self.conflicts.take(self.fd, intent.name, intent.path, reason, entry, beside=beside)
        except OSError as error:
            self._log(
                logging.ERROR,
                f"cannot put the conflict's loser {printable(intent.path)} into the conflict store "
                f"yet: {error.strerror}; it waits in .psync/quarantine/{intent.name.decode()}",
            )
            self._wait(intent, entry, reason, self._retry_s)
        return intent.name

    def drop_link(self, intent: Intent) -> None:
        """Be done with a symlink in quarantine: its text cannot have changed."""
        if reason := self._trash_reason(intent, intent.expected):
            self._put_into_trash(intent, intent.expected, reason)
        else:
            os.unlink(intent.name, dir_fd=self.fd)

    def take_over(self, delay_s: float, for_trash: Container[str]) -> None:
        """Wait so long from now on, and keep in the trash what is wanted there."""
        self._delay_s = delay_s
        self._retry_s = min(RETRY_S, max(delay_s, 0.1))
        self._for_trash = for_trash

    def _trash_reason(self, intent: Intent, entry: Entry) -> str:
        """Why something in quarantine goes to the trash; empty: it need not be kept."""
        new = intent.wanted
        if intent.keep or (new is not None and _says_the_same(entry, new)):
            return ""  # it is a conflict's loser, or what it says is at its path
        reason = Reason.DELETED if new is None else Reason.EDITED
        return reason if reason in self._for_trash else ""

    def trash_to_come(self) -> int:
        """How many of those that wait go to the trash, if nobody has written to them."""
        return sum(
            bool(waiting.reason or self._trash_reason(waiting.intent, waiting.entry))
            for waiting in list(self._heap)  # any thread may ask
            if waiting.reason in ("", Reason.DELETED, Reason.EDITED)
        )

    def _put_into_trash(self, intent: Intent, entry: Entry, reason: str) -> None:
        """Move something from quarantine to the trash; where that fails now, later."""
        try:
            fd = os.open(intent.name, _PATH, dir_fd=self.fd)
        except FileNotFoundError:
            return  # somebody has emptied our directory
        try:
            before = os.fstat(fd)
            self.trash.take(self.fd, intent.name, intent.path, reason, entry)
            self.links.note(before, fd)
        except OSError as error:
            if not self._is_trash_full:  # one line is enough for all of them
                self._log(
                    logging.ERROR,
                    f"cannot put {printable(intent.path)}, which was {reason}, into the trash yet: "
                    f"{error.strerror}; it waits in .psync/quarantine/{intent.name.decode()}, and "
                    "so does what comes after it",
                )
            self._is_trash_full = True
            self._wait(intent, entry, reason, self._retry_s)
        else:
            self._is_trash_full = False
        finally:
            os.close(fd)

    def drop_directory(self, intent: Intent) -> None:
        """Remove an empty directory of ours from quarantine, or keep what is in it."""
        try:
            os.rmdir(intent.name, dir_fd=self.fd)
        except OSError:
            self.report(intent.path, self.keep(intent, Reason.DISPLACED))

    def report(self, path: bytes, name: bytes) -> None:
        """Note for the brain that something was kept that no transition names."""
        self.kept.append(Kept(path, name))
        self._log(
            logging.WARNING,
            f"{printable(path)} was written to while it was replaced: that text is kept in "
            f".psync/conflicts/{name.decode()}",
        )

    def settle(self) -> None:
        """Empty the journal when nothing waits, shorten it when it has grown long."""
        if not self._heap:
            self._journal.clear()
        elif self._journal.is_large:
            self.rewrite_journal()

    def rewrite_journal(self) -> None:
        """Keep the intents of what waits; a full disk only means that the others stay too."""
        try:
            self._journal.rewrite(waiting.intent for waiting in self._heap)
        except OSError as error:
            self._log(logging.WARNING, f"cannot shorten .psync/journal: {error.strerror}")

    def recorded(self) -> dict[bytes, Intent]:
        """Read the journal that an earlier agent has left."""
        intents, senseless = self._journal.load()
        if senseless:
            self._log(logging.WARNING, f"{senseless} lines of .psync/journal make no sense")
        return intents

    def names_of(self, ino: int) -> int:
        """How many names an inode has here, as far as they wait for their last look."""
        return sum(waiting.entry.ino == ino for waiting in self._heap)

    # --- the last look

    def tick(self) -> Optional[float]:
        """Look at what is due, for `SLICE_S` at most.

        Returns:
            Seconds until more is to be done, None when nothing waits.
        """
        end = self._now() + SLICE_S
        while self._heap:
            now = self._now()
            if self._heap[0].due > now:
                return self._heap[0].due - now
            if now >= end or not self._finish_first(lambda: self._now() < end):
                return 0.0
        self.settle()
        return None

    def _wait(self, intent: Intent, entry: Entry, reason: str, delay_s: float) -> None:
        self._order += 1
        waiting = _Waiting(self._now() + delay_s, self._order, intent, entry, reason)
        heapq.heappush(self._heap, waiting)

    def _finish_first(self, in_time: Callable[[], bool]) -> bool:
        """Look at what has waited longest; False if time was up before the verdict."""
        waiting = self._heap[0]
        try:
            verdict = self._inspect(waiting, in_time)
            if verdict is None:
                return False
            if verdict == _EQUAL and not self._trash_reason(waiting.intent, waiting.entry):
                faults.at("looked at last")
                os.unlink(waiting.intent.name, dir_fd=self.fd)  # while the lease holds
                if self._inspection is not None:
                    self.links.note(self._inspection.before, self._inspection.fd)
        except FileNotFoundError:
            verdict = _GONE  # somebody has emptied our directory
        except OSError as error:
            self._log(
                logging.ERROR,
                f"cannot unlink .psync/quarantine/{waiting.intent.name.decode()} yet: "
                f"{error.strerror}",
            )
            verdict = _BUSY
        if self._inspection is not None:
            self._inspection.close()
            self._inspection = None
        heapq.heappop(self._heap)
        self._act(waiting, verdict)
        return True

    def _inspect(self, waiting: _Waiting, in_time: Callable[[], bool]) -> Optional[int]:
        if waiting.reason:
            return _OTHER
        if self._inspection is None:
            name, entry = waiting.intent.name, self.links.now(waiting.entry)
            try:
                self._inspection = _Inspection(self.fd, name, entry)
            except PermissionError:  # not readable by us: size and times must do
                st = os.stat(name, dir_fd=self.fd, follow_symlinks=False)
                return _EQUAL if _same_stamp(st, entry) else _OTHER
        try:
            return self._inspection.verdict if self._inspection.advance(in_time) else None
        except OSError:
            return _UNREADABLE

    def _act(self, waiting: _Waiting, verdict: int) -> None:
        intent, entry, reason = waiting.intent, waiting.entry, waiting.reason
        if verdict == _BUSY:
            self._wait(intent, entry, reason, self._retry_s)
            return
        if verdict == _EQUAL:
            reason = self._trash_reason(intent, entry)
        if reason in (Reason.DELETED, Reason.EDITED):
            self._put_into_trash(intent, entry, reason)
        elif reason:
            self.keep(intent, reason, entry)
        elif verdict not in (_EQUAL, _GONE):
            late = Reason.LATE_WRITE if verdict == _OTHER else Reason.UNREADABLE
            self.report(intent.path, self.keep(intent, late, entry))

    # --- the conflict store

    def recall_kept(self) -> None:
        """Tell the brain what the store holds from earlier runs; what has no note is left out."""
        if self.conflicts.keep_both:
            self.conflicts.recall_due()
        for note in self.conflicts.notes():
            self.kept.append(Kept(note.path, note.name, fresh=False))

    def close(self) -> None:
        """Close everything; what waits goes on waiting when an agent starts again."""
        if self._inspection is not None:
            self._inspection.close()
            self._inspection = None
        self._journal.close()
        self.conflicts.close()
        self.trash.close()
        os.close(self.fd)
