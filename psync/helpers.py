"""Change a replica as the brain asks, and never at the cost of what a user does meanwhile.

Between the brain's look at a file and our change of it anything can happen. So nothing
is checked first and done then: the act itself proves what it acted on. A file is
replaced by exchanging it with the new one, removed by moving it aside; then what was
displaced is identified, and if it is not what the brain had seen, it goes back. A read
lease finds writers who have the file open and holds new ones back meanwhile; quarantine
catches the few whom it does not. `SAFETY.md`, 3.4, has the reasoning and the proof.

**Invariants.** Each transition is a compare-and-swap: applied to exactly the version it
expects, or not at all. No call made here unlinks a file or overwrites a name; the only
calls that take a name away from a user are renames into quarantine, each announced in
the journal, and `rmdir`, whose ENOTEMPTY is its check. Every name is a single component
below a directory that was opened without following a link or leaving the root. A
transition that fails leaves nothing behind and stops no other one.

Not done here: looking at content (`scan`), the last look at what was displaced
(`quarantine`), making new files (`staging`), clearing up after a crash (`recovery`).
"""

from __future__ import annotations

import errno
import logging
import os
import stat
import time
from collections import OrderedDict
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import suppress
from itertools import islice
from typing import Optional, Union

from psync import faults
from psync.claim import marker, open_control, write_generation, write_marker
from psync.conflicts import Conflicts, read_present
from psync.core.entry import (
    META_FIELDS,
    XATTRS_MAX,
    Entry,
    Kind,
    Side,
    content_digest,
    is_ours,
    printable,
    split,
    valid_path,
)
from psync.holding import Directory, Held, Loan, UnmetError, is_closed, is_expected, same
from psync.intents import Intent
from psync.quarantine import Quarantine, Reason, for_trash
from psync.recovery import recover
from psync.scan import entry_at, entry_from_stat
from psync.staging import Made, Stage, attempt
from psync.syscalls import (
    EXCHANGE,
    NOREPLACE,
    open_beneath,
    renameat2,
    syncfs,
)
from psync.wire import (
    APPLIED,
    CHANGED,
    DELETE,
    EMPTY,
    FAILED,
    FRAME_MAX,
    GO_ON,
    IN_USE,
    LIST,
    META,
    NO_PARENT,
    NOT_EMPTY,
    PUT,
    READ,
    RENAME,
    RESTORE,
    RMDIR,
    SHOW,
    Dropped,
    Kept,
    Note,
    Outcome,
    Recall,
    Recalled,
    Start,
    Transition,
)
from psync.xattrs import UNTOLD, Attributes

__all__ = ["Helpers", "NotDurableError", "marker"]

OWN_MAX = 65_536  # paths of which we remember what we left there
NOTES_MAX = 100_000  # of a store, at once
EMPTY_SLICE_S = 0.5  # how long one request to empty the trash may take
_NOTE_SIZE = 64  # bytes of one in a message, beside its names
TRUST_S = 0.005  # how long a directory that was opened is taken to be where it was

_FILE, _DIRECTORY, _SYMLINK = int(Kind.FILE), int(Kind.DIRECTORY), int(Kind.SYMLINK)

_MESSAGES = {
    CHANGED: "it is not what it was any more",
    IN_USE: "somebody has it open for writing",
    NOT_EMPTY: "the directory is not empty",
    NO_PARENT: "its directory is not there",
}
_WORDS = {
    "mode": "mode", "uid": "owner", "gid": "owner", "mtime_ns": "time", "xattrs": "attributes",
}  # fmt: skip
_DOING = {
    PUT: "write",
    META: "set mode, owner and time of",
    DELETE: "delete",
    RMDIR: "remove the directory",
    RENAME: "rename something to",
}


class NotDurableError(Exception):
    """What was applied may not be on the disk, and never will be."""


class Helpers:
    """Applies transitions to one root.

    Not for several threads, except for `stage` and `sync`.

    Args:
        root_fd: the root; stays the caller's.
        owners: set user and group of what is written; else a replaced file keeps its own.
        strip_special_bits: never set set-user-id, set-group-id and sticky bits.
        strict: a batch is durable before its outcomes are returned.
        quarantine_ms: how long what was displaced waits for its last look.
        log: takes a `logging` level and a line.
        attributes: reads and sets the extended attributes that are replicated.
        now: the clock, in seconds.
        keep_both: what loses a conflict goes back beside the version that won.
        for_trash: see `Quarantine`.
    """

    stage_fd: int
    """A descriptor of `.psync/stage`, for rsync to reach it through."""

    unheld: str
    """What this replica could not hold of the first file of which it could not hold all."""

    step: Callable[[str], None]
    """Called between any two steps whose order matters; tests let users act there."""

    def __init__(
        self,
        root_fd: int,
        *,
        owners: bool,
        strip_special_bits: bool,
        strict: bool,
        quarantine_ms: int,
        log: Callable[[int, str], None],
        attributes: Optional[Attributes] = None,
        now: Callable[[], float] = time.monotonic,
        keep_both: bool = False,
        for_trash: Container[str] = (),
    ) -> None:
        self._attributes = attributes
        self.own: OrderedDict[bytes, Optional[Entry]] = OrderedDict()
        self.kept: list[Kept] = []
        self.unheld = ""
        self._unmet = False
        self._was_there = False  # the directory that was to be made
        self.step = faults.at
        self._root_fd = root_fd
        self._owners = owners
        self._strip = strip_special_bits
        self._strict = strict
        self._delay_s = quarantine_ms / 1000
        self._log = log
        self._now = now
        self._keep_both = keep_both
        self._for_trash = for_trash
        self._side = Side.LEFT
        self._here: Optional[Directory] = None
        self._control_fd = -1
        self._stage: Stage
        self._quarantine: Quarantine

    # --- beginning and end

    def prepare(self, pair: str, side: int) -> None:
        """Make `.psync` with all that belongs in it, or open it; claim the root for a pair.

        Raises:
            OSError: the root cannot be used; the message says why.
        """
        self._control_fd = open_control(self._root_fd)
        self._stage = Stage(
            self._control_fd, self._owners, self._strip, self._strict, self._attributes
        )
        self._quarantine = Quarantine(
            self._control_fd, self._delay_s, self._strict, self._log, self._now, self._for_trash
        )
        self._quarantine.kept = self.kept
        self._quarantine.conflicts.keep_both = self._keep_both
        self._side = Side(side)
        self._stage.probe()
        self.stage_fd = self._stage.fd
        write_marker(self._root_fd, self._control_fd, pair, side)

    def recover(self) -> None:
        """Clear up after an agent that was killed; before the first `apply`."""
        self._stage.clear()
        self._quarantine.recall_kept()
        recover(self._root_fd, self._quarantine)

    def close(self) -> None:
        """Close everything. What waits in quarantine goes on waiting in the next agent."""
        if self._control_fd >= 0:
            self._stage.close()
            self._quarantine.close()
            os.close(self._control_fd)
            self._control_fd = -1

    # --- besides transitions

    def stage(self, run: int, names: list[bytes], bases: list[bytes], size: int = 0) -> None:
        """Make `.psync/stage/<run>/` for rsync to fill; see `Stage.open_run`. Blocks."""
        self._stage.open_run(self._root_fd, run, names, bases, size)

    def unstage(self, run: int) -> None:
        """Remove what is left of a run of rsync."""
        self._stage.drop_run(run)

    def tick(self) -> Optional[float]:
        """Do what is due in quarantine, a little of it.

        Returns:
            Seconds until more is due, None if nothing waits.
        """
        return self._quarantine.tick()

    def recall(self, message: Recall) -> tuple[Recalled, list[Union[Dropped, Kept]]]:
        """Do what a person wants with the conflict store, or the trash. Blocks.

        Returns:
            The answer, and what it has changed in the conflict store.
        """
        quarantine = self._quarantine
        store = quarantine.trash if message.trash else quarantine.conflicts
        answer, changes = self._recall(message, store)
        return answer, [] if message.trash else changes

    def _recall(
        self, message: Recall, store: Conflicts
    ) -> tuple[Recalled, list[Union[Dropped, Kept]]]:
        name, token = message.kept, message.token
        found: list[Note] = []  # told with what went wrong: it is here, and not on the other side
        try:
            if message.verb == LIST:
                return Recalled(token, "", list(_fitting(store.notes()))), []
            if message.verb == READ:
                return Recalled(token, "", [], None, self._present(message.path)), []
            if message.verb in (EMPTY, GO_ON):
                return self._empty(message), []
            note = store.find(name)
            found = [note]
            if message.verb == SHOW:
                return Recalled(token, "", [note], *store.show(self._root_fd, note)), []
            if message.verb == RESTORE:
                path = message.path or note.path
                if store.restore(self._root_fd, note, path):
                    now_kept = Kept(path, name, fresh=False)
                    return Recalled(token, "", [note]), [Dropped(name), now_kept]
            else:
                store.drop(name)
            return Recalled(token, "", [note]), [Dropped(name)]
        except OSError as error:
            return Recalled(token, error.strerror or str(error), found), []

    def _empty(self, message: Recall) -> Recalled:
        if not message.trash:
            raise OSError(errno.EINVAL, "only the trash can be emptied")
        quarantine, until = self._quarantine, time.monotonic() + EMPTY_SLICE_S
        if message.verb == EMPTY:
            quarantine.trash.doom()
        count, failed, left = quarantine.trash.empty(lambda: time.monotonic() < until)
        waiting = 0 if left else quarantine.trash_to_come()
        why = f"{failed:,} could not be dropped, the log says why" if failed else ""
        return Recalled(message.token, why, [], gone=count, left=left, waiting=waiting)

    def _present(self, path: bytes) -> Optional[bytes]:
        if not path or not valid_path(path) or is_ours(path):
            raise OSError(errno.EINVAL, f"{printable(path)} is no path of this replica")
        return read_present(self._root_fd, path)

    def put_beside(self) -> list[Dropped]:
        """Give back to the users what has lost a conflict, where they are to keep both versions.

        What cannot be put there now stays in the conflict store; the next agent tries again.

        Returns:
            What is not in the store any more.
        """
        store, done = self._quarantine.conflicts, []
        try:
            while store.due:
                name = store.due.pop(0)
                try:
                    done.append(self._put_beside(store.find(name)))
                except UnmetError as unmet:
                    self._cannot_put_beside(name, _MESSAGES[unmet.status])
                except OSError as error:
                    self._cannot_put_beside(name, error.strerror or str(error))
        finally:
            self._leave()
        if done:
            self._quarantine.settle()
        return done

    def _put_beside(self, note: Note) -> Dropped:
        here = self._enter(split(note.path)[0])
        self._open_up(here)
        path = self._quarantine.conflicts.put_beside(note, here.fd, self._side)
        here.changed = True
        return Dropped(note.name, path)

    def _cannot_put_beside(self, name: bytes, why: str) -> None:
        self._log(
            logging.WARNING,
            f"what lost a conflict cannot be put beside the version that won: {why}; it stays in "
            f".psync/conflicts/{printable(name)}",
        )

    def take_over(self, start: Start) -> None:
        """Keep what is displaced as is wanted from now on."""
        self._quarantine.take_over(start.quarantine_ms / 1000, for_trash=for_trash(start))
        self._quarantine.conflicts.keep_both = start.keep_both

    def expire(self, keep_s: int, trash_s: int = 0, versions_s: int = 0) -> list[Dropped]:
        """Destroy what has been in the stores for so long. Blocks.

        Args:
            keep_s: the age of what goes from the conflict store, in seconds; 0: nothing goes.
            trash_s: likewise, from the trash.
            versions_s: likewise, of what an edit has replaced.

        Returns:
            What is not in the conflict store any more.
        """
        now_ns, quarantine = time.time_ns(), self._quarantine

        def is_old(note: Note) -> bool:
            age_s = versions_s if note.reason == Reason.EDITED else trash_s
            return age_s != 0 and note.time_ns < now_ns - age_s * 10**9

        if trash_s or versions_s:
            for _ in quarantine.trash.expire(is_old):
                pass
        if not keep_s:
            return []
        gone = quarantine.conflicts.expire(lambda note: note.time_ns < now_ns - keep_s * 10**9)
        return [Dropped(note.name) for note in gone]

    def sync(self, generation: str = "") -> bool:
        """Make everything applied so far durable. Blocks.

        Args:
            generation: what the state is called from now on; empty: as before.

        Returns:
            False if there is no room for the name: nothing is lost, try again.

        Raises:
            NotDurableError: some of it may be lost. The system says so once: nobody may believe a
                later sync.
        """
        try:
            try:
                if generation:
                    write_generation(self._control_fd, generation)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                self._log(logging.INFO, f"the state cannot be named: {error.strerror}")
                return False
            syncfs(self._control_fd)
        except OSError as error:
            reason = error.strerror or str(error)
            raise NotDurableError(f"its disk did not take all that was written: {reason}") from None
        return True

    # --- transitions

    def apply(self, transitions: list[Transition]) -> list[Outcome]:
        """Make the changes of a batch, in order.

        Returns:
            What became of each; one that was not applied stops no other.

        Raises:
            NotDurableError: see `sync`; only with `strict`.
        """
        intents, trouble = self._intend(transitions)
        outcomes = []
        try:
            for index, transition in enumerate(transitions):
                outcomes.append(self._apply(transition, intents.get(index), trouble))
        finally:
            self._leave()
        if self._strict:
            self.sync()
        self._quarantine.settle()
        return outcomes

    def _intend(self, transitions: list[Transition]) -> tuple[dict[int, Intent], str]:
        """Write down all that the batch will displace, or say why that is impossible."""
        intents = {}
        for index, t in enumerate(transitions):
            if not _displaces(t):
                continue
            assert t.expected is not None
            wanted = t.source_expected if t.verb == RENAME else t.wanted
            if wanted is not None and t.content is not None:
                digest = content_digest(t.content)
                wanted = wanted._replace(size=len(t.content), digest=digest)
            source = t.source if t.verb == RENAME else b""
            name = self._quarantine.unused()
            intents[index] = Intent(name, t.path, t.expected, wanted, t.keep, source)
        if intents:
            try:
                self.step("announced")
                self._quarantine.intend(list(intents.values()))
            except OSError as error:
                return {}, f"cannot write .psync/journal: {error.strerror}"
        return intents, ""

    def _apply(self, t: Transition, intent: Optional[Intent], trouble: str) -> Outcome:
        refusal = _refusal(t)
        if not refusal and intent is None and _displaces(t):
            refusal = trouble
        t = self._brought_up(t)
        if refusal:
            return Outcome(t.op, FAILED, self._look(t.path), refusal)
        self._unmet = self._was_there = False
        try:
            entry, kept = self._change(t, intent)
        except UnmetError as unmet:
            message = f"{printable(t.path)}: {_MESSAGES[unmet.status]}"
            return Outcome(t.op, unmet.status, self._look(t.path), message)
        except OSError as error:
            message = f"cannot {_DOING[t.verb]} {printable(t.path)}: {error.strerror}"
            return Outcome(t.op, FAILED, self._look(t.path), message)
        if self._was_there:
            self.own.pop(t.path, None)  # whoever brought it is to be told of, with what is in it
        else:
            self._remember(t.path, entry)
        if self._unmet and not self.unheld:
            assert entry is not None and t.wanted is not None
            self.unheld = _unheld(t.path, entry, t.wanted)
        return Outcome(t.op, APPLIED, entry, "", kept, self._unmet)

    def _brought_up(self, t: Transition) -> Transition:
        """What is expected may have lost another name since, by our own doing."""
        now = self._quarantine.links.now
        if t.expected is not None:
            t = t._replace(expected=now(t.expected))
        if t.source_expected is not None:
            t = t._replace(source_expected=now(t.source_expected))
        return t

    def _change(self, t: Transition, intent: Optional[Intent]) -> tuple[Optional[Entry], bytes]:
        """Do it; return what is at the path now, and the name of a loser that was kept."""
        verb = t.verb
        directory, name = split(t.path)
        if verb == META and not name:
            self._leave()  # or it would put the root's time back
            return self._set_meta(self._root_fd, b".", t), b""
        here = self._enter(directory)
        if verb == META:
            return self._set_meta(here.fd, name, t, here), b""
        self._open_up(here)
        if verb == PUT:
            return self._put(t, here, name, intent)
        if verb == RENAME:
            return self._rename(t, here, name, intent)
        if verb == RMDIR:
            return None, self._remove_directory(here, name, t.expected, t.path if t.keep else b"")
        return None, self._delete(here, name, t.expected, intent)

    # --- put

    def _put(
        self, t: Transition, here: Directory, name: bytes, intent: Optional[Intent]
    ) -> tuple[Entry, bytes]:
        wanted, expected = t.wanted, t.expected
        assert wanted is not None
        if wanted.kind == _DIRECTORY and self._is_directory(here, name, expected):
            self._was_there = True
            return self._set_meta(here.fd, name, t), b""
        made = self._make(t, wanted)
        kept = b""
        try:
            self.step("made")
            if intent is not None:
                assert expected is not None
                made, kept = self._replace(made, here, name, expected, intent)
            else:
                if expected is not None:
                    self._remove_directory(here, name, expected)
                self._create(made, here, name)
            self.step("published")
            self._unmet = made.unmet
            return self._published(made, t, intent), kept
        except (UnmetError, OSError):
            self._stage.discard(made)
            raise
        finally:
            os.close(made.fd)

    def _is_directory(self, here: Directory, name: bytes, expected: Optional[Entry]) -> bool:
        if expected is not None:
            return expected.kind == _DIRECTORY
        there = self._entry_at(here.fd, name)
        return there is not None and there.kind == _DIRECTORY

    def _make(self, t: Transition, wanted: Entry) -> Made:
        if wanted.kind == _DIRECTORY:
            return self._stage.directory(wanted)
        if wanted.kind == _SYMLINK:
            return self._stage.link(wanted)
        if t.content is not None:
            return self._stage.file(t.content, wanted)
        return self._stage.fetched(t.source, wanted)

    def _create(self, made: Made, here: Directory, name: bytes) -> None:
        if here.st.st_mode & stat.S_ISGID and not self._owners:
            self._stage.give(made, -1, here.st.st_gid)  # as if it had been made there
        try:
            renameat2(self._stage.fd, made.name, here.fd, name, NOREPLACE)
        except FileExistsError:
            raise UnmetError(CHANGED) from None
        here.changed = True
        self._expect_in_place(here)

    def _replace(
        self, made: Made, here: Directory, name: bytes, expected: Entry, intent: Intent
    ) -> tuple[Made, bytes]:
        """Exchange what is expected with what was made; put all back if it was something else."""
        held = Held(here.fd, name, expected, lease=True)
        try:
            self.step("held")
            if not self._owners:
                made = self._stage.give(made, held.st.st_uid, held.st.st_gid)
            made = self._stage.keep_rest(made, held.fd)
            return made, self._exchange(held, made, here, name, intent)
        finally:
            held.close()

    def _exchange(
        self, held: Held, made: Made, here: Directory, name: bytes, intent: Intent
    ) -> bytes:
        """Exchange what is held with what was made, and see that it was that."""
        quarantine_fd = self._quarantine.fd
        renameat2(self._stage.fd, made.name, quarantine_fd, intent.name, NOREPLACE)
        self.step("parked")
        try:
            renameat2(quarantine_fd, intent.name, here.fd, name, EXCHANGE)
        except OSError as error:
            renameat2(quarantine_fd, intent.name, self._stage.fd, made.name, NOREPLACE)
            if error.errno == errno.ENOENT:
                raise UnmetError(CHANGED) from None
            raise
        here.changed = True
        self.step("displaced")
        self._verify(held, intent, here, name, made)
        if held.st.st_nlink > 1:
            shown = printable(intent.path)
            self._log(logging.INFO, f"{shown} had other names here: they keep what it was")
        return self._retire(held, intent)

    def _published(self, made: Made, t: Transition, intent: Optional[Intent]) -> Entry:
        """Tell what we have left at the path.

        If somebody has changed it already, it is told as it was before it became visible:
        what he made of it must not be taken for what we left.
        """
        wanted = t.wanted
        assert wanted is not None
        if wanted.kind == _DIRECTORY:
            mode = made.mode
            if mode != stat.S_IMODE(made.st.st_mode) and attempt(os.fchmod, made.fd, mode):
                self._unmet = True
            if self._unmet:
                mode = stat.S_IMODE(os.fstat(made.fd).st_mode)
            bits = mode & (0o777 if self._strip else 0o7777)
            return self._entry(made.st, xattrs=self._xattrs(made, wanted))._replace(mode=bits)
        st = os.fstat(made.fd)
        if t.content is None:
            digest = b""
        elif intent is not None and intent.wanted is not None:
            digest = intent.wanted.digest  # known already
        else:
            digest = content_digest(t.content)
        shown = st if same(made.st, st) else made.st
        return self._entry(shown, wanted.target, digest, self._xattrs(made, wanted))

    def _xattrs(self, made: Made, wanted: Entry) -> bytes:
        """The attributes of what we have made, as far as we know without being fooled."""
        if self._attributes is None or not made.unmet or wanted.kind == _SYMLINK:
            return wanted.xattrs
        return self._attributes.of(made.fd)

    # --- delete

    def _delete(
        self, here: Directory, name: bytes, expected: Optional[Entry], intent: Optional[Intent]
    ) -> bytes:
        """Move what is expected aside; put it back if it was something else."""
        if expected is None or intent is None:
            if self._entry_at(here.fd, name) is not None:
                raise UnmetError(CHANGED)
            return b""
        held = Held(here.fd, name, expected, lease=True)
        try:
            self.step("held")
            try:
                renameat2(here.fd, name, self._quarantine.fd, intent.name, NOREPLACE)
            except FileNotFoundError:
                raise UnmetError(CHANGED) from None
            here.changed = True
            self.step("displaced")
            self._verify(held, intent, here, name, None)
            return self._retire(held, intent)
        finally:
            held.close()

    def _remove_directory(
        self, here: Directory, name: bytes, expected: Optional[Entry], path: bytes = b""
    ) -> bytes:
        """Remove an empty directory; the kernel tells whether it is one.

        Args:
            here: where it is.
            name: its name there.
            expected: what it has to be.
            path: if not empty: its path; what is not empty is set aside then.

        Returns:
            The name of what was set aside in the conflict store, or nothing.
        """
        try:
            st = os.stat(name, dir_fd=here.fd, follow_symlinks=False)
            if expected is None or not is_expected(-1, st, expected):
                raise UnmetError(CHANGED)
            self.step("found")
            os.rmdir(name, dir_fd=here.fd)
        except (FileNotFoundError, NotADirectoryError):
            raise UnmetError(CHANGED) from None
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            if not path or expected is None:
                raise UnmetError(NOT_EMPTY) from None
            return self._set_aside(here, name, path, expected)
        here.changed = True
        self._expect_in_place(here)
        return b""

    def _set_aside(self, here: Directory, name: bytes, path: bytes, expected: Entry) -> bytes:
        """Move a directory, with what else is in it, to the conflict store; return its name there.

        The journal does not speak of it: who comes after a crash keeps what lies in quarantine.
        """
        quarantine = self._quarantine
        intent = Intent(quarantine.unused(), path, expected, None, True)
        self.step("full")
        renameat2(here.fd, name, quarantine.fd, intent.name, NOREPLACE)
        here.changed = True
        self.step("displaced")
        st = os.stat(intent.name, dir_fd=quarantine.fd, follow_symlinks=False)
        stayed = here.has_stayed(self._root_fd)
        if st.st_ino != expected.ino or not stayed:
            self._undo(None, intent, here, name, None)
            raise UnmetError(CHANGED if stayed else NO_PARENT)
        return quarantine.keep(intent, Reason.FORCED)

    # --- what was displaced

    def _verify(
        self, held: Held, intent: Intent, here: Directory, name: bytes, made: Optional[Made]
    ) -> None:
        """See that what lies in quarantine now is what was held, and undo if it is not.

        Nor is anything confirmed in a directory that has been moved meanwhile, be it out of the
        root: whoever moved it shall find in it what was there. The lease is still held: who waits
        for it has resolved the old name already, so his file must be back there before he goes on.
        """
        known = held.is_at(self._quarantine.fd, intent.name)
        awaited = held.is_awaited()
        stayed = here.has_stayed(self._root_fd)
        untouched = held.is_untouched() and self._has_kept(held, intent.expected)
        if known and not awaited and stayed and untouched:
            self.step("verified")
            return
        self._undo(held if known else None, intent, here, name, made)
        if not stayed:
            raise UnmetError(NO_PARENT)
        raise UnmetError(IN_USE if known and awaited else CHANGED)

    def _has_kept(self, held: Held, expected: Entry) -> bool:
        """Tell whether nobody has set attributes: nothing but the ctime tells, and we move that."""
        return self._attributes is None or self._xattrs_of(held) == expected.xattrs

    def _retire(self, held: Held, intent: Intent) -> bytes:
        """Put away what was displaced as planned; return its name in the conflict store."""
        quarantine = self._quarantine
        quarantine.links.note(held.st, held.fd)
        if intent.keep:
            return quarantine.keep(intent, Reason.LOSER)
        if intent.expected.kind == _SYMLINK:
            quarantine.drop_link(intent)
        else:
            ctime_ns = os.fstat(held.fd).st_ctime_ns  # which our rename has moved
            quarantine.admit(intent, intent.expected._replace(ctime_ns=ctime_ns))
        return b""

    def _undo(
        self,
        held: Optional[Held],
        intent: Intent,
        here: Directory,
        name: bytes,
        made: Optional[Made],
    ) -> None:
        """Put back what was displaced, destroying nothing that came there meanwhile.

        Args:
            held: it is the expected version after all; None: it is a user's own.
            intent: names it in quarantine.
            here: where it was.
            name: what it was called.
            made: what we have put in its place, None for nothing.
        """
        quarantine = self._quarantine
        for flags in (EXCHANGE, NOREPLACE) if made else (NOREPLACE,):
            try:
                renameat2(quarantine.fd, intent.name, here.fd, name, flags)
            except OSError:
                continue  # the name has gone, or something else has come there
            break
        else:
            if held is not None:
                kept = self._retire(held, intent)
                if kept:
                    quarantine.kept.append(Kept(intent.path, kept))
            else:
                quarantine.report(intent.path, quarantine.keep(intent, Reason.DISPLACED))
            return
        if made is None or flags == NOREPLACE:
            return
        self.step("undone")
        st = os.stat(intent.name, dir_fd=quarantine.fd, follow_symlinks=False)
        if st.st_ino != made.st.st_ino:
            quarantine.report(intent.path, quarantine.keep(intent, Reason.DISPLACED))
        elif stat.S_ISDIR(st.st_mode):
            quarantine.drop_directory(intent)
        elif stat.S_ISLNK(st.st_mode):
            quarantine.drop_link(intent)
        else:  # it was visible for a moment: somebody may have opened it
            assert intent.wanted is not None
            ours = self._entry(made.st, b"", intent.wanted.digest)
            quarantine.admit(intent, ours._replace(ctime_ns=st.st_ctime_ns))

    # --- rename

    def _rename(
        self, t: Transition, here: Directory, name: bytes, intent: Optional[Intent]
    ) -> tuple[Entry, bytes]:
        expected = t.source_expected
        assert expected is not None
        old_directory, old_name = split(t.source)
        there = here
        if old_directory != here.path:
            there = Directory(self._root_fd, old_directory, 0.0)
        try:
            self._open_up(there)
            held = Held(there.fd, old_name, expected, lease=False)
            try:
                self.step("held")
                loan = None
                if expected.kind == _DIRECTORY and there is not here:  # its ".." changes, too
                    loan = self._lend(held.fd, held.st, t.path, t.source)
                try:
                    kept = self._move(held, there, old_name, here, name, t.expected, intent)
                finally:
                    if loan is not None:
                        loan.end()
                self._quarantine.links.note(held.st, held.fd)
                st = held.st if not held.is_untouched() else os.fstat(held.fd)
                moved = self._entry(st, expected.target, xattrs=self._xattrs_of(held))
            finally:
                held.close()
        finally:
            if there is not here:
                there.leave()
        self._remember(t.source, None)
        return moved, kept

    def _move(
        self,
        held: Held,
        there: Directory,
        old_name: bytes,
        here: Directory,
        name: bytes,
        expected: Optional[Entry],
        intent: Optional[Intent],
    ) -> bytes:
        """Move what is held to its new name: a writer moves with it, so no lease is needed."""
        if intent is not None:
            assert expected is not None
            return self._move_over(held, there, old_name, here, name, expected, intent)
        if expected is not None:
            self._remove_directory(here, name, expected)
        try:
            renameat2(there.fd, old_name, here.fd, name, NOREPLACE)
        except (FileExistsError, FileNotFoundError):
            raise UnmetError(CHANGED) from None
        there.changed = here.changed = True
        self.step("moved")
        stayed = self._have_stayed(here, there)
        if not stayed or not held.is_at(here.fd, name, gone=True):
            # A directory was moved, or another file had come to the old name.
            _try_rename(here.fd, name, there.fd, old_name, NOREPLACE)
            raise UnmetError(CHANGED if stayed else NO_PARENT)
        return b""

    def _move_over(
        self,
        held: Held,
        there: Directory,
        old_name: bytes,
        here: Directory,
        name: bytes,
        expected: Entry,
        intent: Intent,
    ) -> bytes:
        """Exchange the two, then move the displaced one aside, which has the old name now."""
        quarantine_fd = self._quarantine.fd
        over = Held(here.fd, name, expected, lease=True)
        try:
            try:
                renameat2(there.fd, old_name, here.fd, name, EXCHANGE)
            except FileNotFoundError:
                raise UnmetError(CHANGED) from None
            there.changed = here.changed = True
            self.step("exchanged")
            # A name that is gone was taken away by a user, after the exchange.
            moved = held.is_at(here.fd, name, gone=True)
            as_planned = moved and over.is_at(there.fd, old_name, gone=True)
            awaited = over.is_awaited()
            stayed = self._have_stayed(here, there)
            if not as_planned or awaited or not stayed or not over.is_untouched():
                _try_rename(there.fd, old_name, here.fd, name, EXCHANGE)
                if not stayed:
                    raise UnmetError(NO_PARENT)
                raise UnmetError(IN_USE if as_planned and awaited else CHANGED)
            try:
                renameat2(there.fd, old_name, quarantine_fd, intent.name, NOREPLACE)
            except FileNotFoundError:
                return b""  # somebody has removed it himself
            self.step("displaced")
            try:
                self._verify(over, intent, there, old_name, None)
            except UnmetError:
                if over.is_at(there.fd, old_name):
                    _try_rename(there.fd, old_name, here.fd, name, EXCHANGE)
                raise
            return self._retire(over, intent)
        finally:
            over.close()

    # --- metadata

    def _set_meta(
        self, parent_fd: int, name: bytes, t: Transition, here: Optional[Directory] = None
    ) -> Entry:
        """Set mode, owner and time of what is expected, or of the directory that is there.

        Args:
            parent_fd: what it is in.
            name: its name there.
            t: the transition.
            here: what it is in, if its name may be given to a copy.
        """
        wanted = t.wanted
        assert wanted is not None
        expected = t.expected or self._entry_at(parent_fd, name)
        if expected is None or expected.kind != wanted.kind:
            raise UnmetError(CHANGED)
        is_file = wanted.kind == _FILE
        # Setting the time would hide what a user writes at that moment: hold him back.
        lease = is_file and wanted.mtime_ns != expected.mtime_ns
        held = Held(parent_fd, name, expected, lease)
        try:
            before = self._entry(held.st, xattrs=self._xattrs_of(held))
            if t.verb == META and before._replace(mtime_ns=expected.mtime_ns).meta() != (
                expected.meta()
            ):
                raise UnmetError(CHANGED)
            self.step("held")
            if here is not None and not before.same_meta(wanted):
                is_shared = self._is_shared(held.st, t)
                if is_shared and os.geteuid() not in (0, held.st.st_uid):
                    self._unmet = True  # nor could it be set in place
                    return before._replace(target=expected.target)
                if is_shared or _is_closed_to_attributes(held.st, before, wanted):
                    return self._set_apart(here, name, t, expected)
            refused = self._set(held, before, wanted)
            self.step("set")
            st = os.fstat(held.fd)
            now = self._entry(st, expected.target, xattrs=self._xattrs_of(held))
            self._unmet = not now.same_meta(wanted) and self._is_all(now, before, wanted, st)
            if refused is not None and not self._unmet:
                raise refused
        finally:
            held.close()
        mtime_ns = held.st.st_mtime_ns if before.mtime_ns == wanted.mtime_ns else st.st_mtime_ns
        if is_file and (st.st_size, st.st_mtime_ns) != (held.st.st_size, mtime_ns):
            raise UnmetError(CHANGED)
        if here is not None:
            self._expect_in_place(here)
        return now

    def _is_all(self, now: Entry, before: Entry, wanted: Entry, st: os.stat_result) -> bool:
        """Tell whether a file has all of the wanted metadata that it can be given here.

        What differs is either what the file system makes of it, or was refused, because the file
        is somebody else's. Else somebody has just set it, or an attribute keeps it as it is.
        """
        fields = [f for f in META_FIELDS if getattr(now, f) != getattr(wanted, f)]
        if UNTOLD in (now.xattrs, wanted.xattrs):
            fields = [f for f in fields if f != "xattrs"]  # they are never replaced
        limit = before
        if os.geteuid() in (0, st.st_uid):
            st, xattrs = self._stage.stored(wanted)
            limit = self._entry(st, wanted.target, xattrs=xattrs)
        return all(getattr(now, f) == getattr(limit, f) for f in fields)

    def _is_shared(self, st: os.stat_result, t: Transition) -> bool:
        """Tell whether a file has names that are not known to be in the root.

        What is set would be set of whatever somebody has linked into it.
        """
        if st.st_nlink < 2 or stat.S_ISDIR(st.st_mode):
            return False
        known = sum(self._is_name_of(path, st) for path in {*(t.links or ()), t.path})
        return known + self._quarantine.names_of(st.st_ino) < st.st_nlink

    def _is_name_of(self, path: bytes, st: os.stat_result) -> bool:
        """Tell whether an inode is at a path of the replica."""
        if not valid_path(path) or is_ours(path):
            return False
        directory, name = split(path)
        try:
            fd = open_beneath(self._root_fd, directory, os.O_PATH | os.O_DIRECTORY)
            try:
                there = os.stat(name, dir_fd=fd, follow_symlinks=False)
            finally:
                os.close(fd)
        except OSError:
            return False
        return (there.st_dev, there.st_ino) == (st.st_dev, st.st_ino)

    def _set_apart(self, here: Directory, name: bytes, t: Transition, expected: Entry) -> Entry:
        """Replace a file by a copy that has the metadata; its other names keep the inode."""
        wanted = t.wanted
        assert wanted is not None
        held = Held(here.fd, name, expected, lease=True)
        try:
            self._open_up(here)
            if wanted.kind == _SYMLINK:
                made = self._stage.link(wanted._replace(target=expected.target))
            else:
                made = self._stage.keep_rest(self._stage.copy(held.fd, held.st, wanted), held.fd)
            try:
                copied = wanted._replace(
                    size=expected.size, target=expected.target, digest=expected.digest
                )
                quarantine = self._quarantine
                intent = Intent(quarantine.unused(), t.path, expected, copied, False)
                quarantine.intend([intent])
                self.step("made")
                self._exchange(held, made, here, name, intent)
                self.step("published")
                self._unmet = made.unmet
                return self._published(made, t._replace(wanted=copied), intent)
            except (UnmetError, OSError):
                self._stage.discard(made)
                raise
            finally:
                os.close(made.fd)
        finally:
            held.close()

    def _set(self, held: Held, before: Entry, wanted: Entry) -> Optional[OSError]:
        """Set what is wanted and can be set; return why something could not."""
        where = held.reference()
        refused = None
        new_owner = self._owners and (before.uid, before.gid) != (wanted.uid, wanted.gid)
        mode = wanted.mode & 0o7777
        if new_owner:  # before the mode: it clears bits of it, and some are not for another one
            refused = attempt(os.chown, where, wanted.uid, wanted.gid)
            if refused is not None:
                mode &= 0o1777
        mode_here = stat.S_IMODE(held.st.st_mode)
        if self._attributes is not None and before.xattrs != wanted.xattrs:
            refused = self._attributes.set(held.fd, wanted.xattrs) or refused
            mode_here = stat.S_IMODE(os.fstat(held.fd).st_mode)  # an ACL is a mode, too
        if self._strip:  # special bits are not replicated: those that are here stay
            mode = mode & 0o777 | stat.S_IMODE(held.st.st_mode) & 0o7000
        if wanted.kind != _SYMLINK and (new_owner or mode != mode_here):
            refused = attempt(os.chmod, where, mode) or refused
        if before.mtime_ns != wanted.mtime_ns:
            times = (held.st.st_atime_ns, wanted.mtime_ns)
            refused = attempt(os.utime, where, ns=times) or refused
        return refused

    # --- small things

    def _enter(self, path: bytes) -> Directory:
        """Open the directory that the next names are in, unless it just was."""
        here, now = self._here, self._now()
        if here is not None:
            if here.path == path and now - here.since < TRUST_S:
                return here
            self._leave()
        self._here = here = Directory(self._root_fd, path, now)
        return here

    def _have_stayed(self, one: Directory, other: Directory) -> bool:
        stayed = one.has_stayed(self._root_fd)
        return other.has_stayed(self._root_fd) and stayed

    def _expect_in_place(self, here: Directory) -> None:
        """See that a directory in which something was done is still where it was opened.

        Raises:
            UnmetError: it is not. What was done in it is its new place's, and confirmed to nobody:
                what is believed to be there may be forgotten elsewhere.
        """
        if not here.has_stayed(self._root_fd):
            raise UnmetError(NO_PARENT)

    def _open_up(self, here: Directory) -> None:
        """Let names be changed in a directory of our own that is read-only, until it is left."""
        if here.loan is None:
            here.loan = self._lend(here.fd, here.st, here.path)

    def _lend(
        self, fd: int, st: os.stat_result, path: bytes, source: bytes = b""
    ) -> Optional[Loan]:
        """Lend ourselves what a directory's mode keeps from us; see that a crash ends it, too.

        Args:
            fd: the directory.
            st: what it is.
            path: where it is, or will be.
            source: where else it may be.

        Raises:
            OSError: it cannot be written down.
        """
        if not is_closed(st):
            return None
        mode = stat.S_IMODE(st.st_mode)
        own = self._entry(st)._replace(mode=mode)
        quarantine = self._quarantine
        quarantine.intend([Intent(quarantine.unused(), path, own, None, False, source)])
        loan = Loan(fd, mode)
        with suppress(OSError):  # then the act itself says what is wrong
            loan.begin()
        self.step("lent")
        return loan

    def _leave(self) -> None:
        if self._here is not None:
            self._here.leave()
            self._here = None

    def _look(self, path: bytes) -> Optional[Entry]:
        if not valid_path(path):
            return None
        directory, name = split(path)
        try:
            fd = self._enter(directory).fd if path else self._root_fd
            return self._entry_at(fd, name)
        except (OSError, UnmetError):
            return None

    def _entry(
        self,
        st: os.stat_result,
        target: bytes = b"",
        digest: bytes = b"",
        xattrs: bytes = b"",
    ) -> Entry:
        entry = entry_from_stat(st, self._owners, self._strip, target, digest, xattrs)
        assert entry is not None
        return entry

    def _entry_at(self, parent_fd: int, name: bytes) -> Optional[Entry]:
        return entry_at(
            parent_fd,
            name,
            owners=self._owners,
            strip=self._strip,
            attributes=self._attributes,
        )

    def _xattrs_of(self, held: Held) -> bytes:
        if self._attributes is None or stat.S_ISLNK(held.st.st_mode):
            return b""
        return self._attributes.of(held.fd)

    def _remember(self, path: bytes, entry: Optional[Entry]) -> None:
        own = self.own
        own[path] = entry
        own.move_to_end(path)
        if len(own) > OWN_MAX:
            own.popitem(last=False)


# --- what is asked ------------------------------------------------------------------------


def _fitting(notes: Iterable[Note]) -> Iterator[Note]:
    """As many notes as fit into a message."""
    size = 0
    for note in islice(notes, NOTES_MAX):
        size += len(note.path) + len(note.name) + _NOTE_SIZE
        if size > FRAME_MAX // 2:
            return
        yield note


def _is_closed_to_attributes(st: os.stat_result, before: Entry, wanted: Entry) -> bool:
    """Tell whether a file's mode keeps its owner, who we are, from giving it attributes."""
    closed = stat.S_ISREG(st.st_mode) and not st.st_mode & stat.S_IWUSR
    return closed and os.geteuid() == st.st_uid != 0 and before.xattrs != wanted.xattrs


def _unheld(path: bytes, entry: Entry, wanted: Entry) -> str:
    """Say what a replica cannot hold of a file's metadata."""
    fields = [f for f in META_FIELDS if getattr(entry, f) != getattr(wanted, f)]
    said = {_WORDS[field]: None for field in fields}
    return (
        f"not all metadata can be set here, such as the {' and the '.join(said)} of "
        f"{printable(path)}: what differs stays, and is not replicated back"
    )


def _displaces(t: Transition) -> bool:
    """Tell whether something that a user could see has to go to quarantine for this."""
    return (
        t.expected is not None and t.expected.kind != _DIRECTORY and t.verb in (PUT, DELETE, RENAME)
    )


def _refusal(t: Transition) -> str:
    """Say why a transition makes no sense, whatever the replica looks like; empty if it does."""
    if not valid_path(t.path) or is_ours(t.path) or not (t.path or t.verb == META):
        return f"{printable(t.path)} is no path of this replica"
    verb, wanted, expected = t.verb, t.wanted, t.expected
    if verb in (PUT, META):
        if wanted is None or not _is_possible(wanted):
            return f"nothing possible is wanted at {printable(t.path)}"
        if not -(1 << 63) <= wanted.mtime_ns < 1 << 63:
            return (
                f"the time of {printable(t.path)} is beyond what 64 bits of nanoseconds hold (the "
                "years 1678 to 2261): give it another one with touch"
            )
        if verb == PUT and wanted.kind == _FILE and t.content is None and not t.source:
            return f"there is no content for {printable(t.path)}"
    elif verb == RENAME:
        if not t.source or not valid_path(t.source) or is_ours(t.source):
            return f"{printable(t.source)} is no path of this replica"
        if t.source_expected is None:
            return f"it is not said what is to become {printable(t.path)}"
    elif verb == DELETE:
        if expected is not None and expected.kind == _DIRECTORY:
            return f"{printable(t.path)} is expected to be a directory: RMDIR removes those"
    elif verb != RMDIR:
        return f"there is no verb {verb}"
    return ""


def _is_possible(e: Entry) -> bool:
    if not (0 <= e.mode <= 0o7777 and 0 <= e.uid < 0xFFFFFFFF and 0 <= e.gid < 0xFFFFFFFF):
        return False
    if len(e.xattrs) > XATTRS_MAX:
        return False
    if e.kind == _SYMLINK:
        return 0 < len(e.target) < 4096 and b"\0" not in e.target
    return e.kind == _FILE or e.kind == _DIRECTORY


def _try_rename(old_fd: int, old: bytes, new_fd: int, new: bytes, flags: int) -> None:
    """Rename back; where that is not possible any more, nothing is lost: both are visible."""
    with suppress(OSError):
        renameat2(old_fd, old, new_fd, new, flags)
