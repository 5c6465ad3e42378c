"""An agent that was killed in the middle of something leaves nothing half done.

Each displacement was written into the journal first. Here, when an agent starts, what
lies in quarantine is judged by what it *is*, not by what the journal hoped for: the
version that was to be displaced (then the operation is complete), the one that was to
take its place (then it was undone, or never begun), or somebody's own, caught in
between, which goes back to where it was. And a read-only directory that was opened up to
change names in it becomes read-only again.

**Invariants.** Things move by renames only, none of which destroys: `NOREPLACE`, or `EXCHANGE`
with a name of ours. What can be judged neither way goes to the conflict store. So
recovery may itself be killed anywhere and simply begins again.

Staging needs none of this: nobody has ever seen what is in it.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from typing import Optional

from psync import faults
from psync.core.entry import Entry, Kind, content_digest, split
from psync.holding import Loan
from psync.intents import Intent
from psync.quarantine import Quarantine, Reason
from psync.syscalls import EXCHANGE, NOREPLACE, open_beneath, renameat2
from psync.wire import Kept

__all__ = ["recover"]

_KINDS = {
    stat.S_IFREG: Kind.FILE,
    stat.S_IFDIR: Kind.DIRECTORY,
    stat.S_IFLNK: Kind.SYMLINK,
}
_AT = os.O_PATH | os.O_DIRECTORY


def recover(root_fd: int, quarantine: Quarantine) -> None:
    """Finish or undo what an earlier agent was doing, before anything else is done."""
    recorded = quarantine.recorded().values()
    loans = [intent for intent in recorded if intent.expected.kind == Kind.DIRECTORY]
    intents = {i.name: i for i in recorded if i.expected.kind != Kind.DIRECTORY}
    found = {os.fsencode(name) for name in os.listdir(quarantine.fd)}
    for intent in intents.values():
        if (
            intent.source
            and intent.name not in found
            and _finish_rename(root_fd, quarantine, intent)
        ):
            found.add(intent.name)
    for name in sorted(found):
        intent = intents.get(name) or _unknown(name)
        faults.at("recovering")
        try:
            _judge(root_fd, quarantine, intent)
        except OSError:  # it can neither be looked at nor go back: nobody shall miss it
            quarantine.report(intent.path, quarantine.keep(intent, Reason.DISPLACED))
    for loan in reversed(loans):
        _end_loan(root_fd, loan)
    faults.at("recovered")
    quarantine.rewrite_journal()
    quarantine.settle()


def _end_loan(root_fd: int, loan: Intent) -> None:
    """Put back the mode of a directory in which names were being changed."""
    for path in {loan.path, loan.source or loan.path}:
        with suppress(OSError):
            fd = open_beneath(root_fd, path, _AT)
            try:
                if os.fstat(fd).st_ino == loan.expected.ino:
                    Loan(fd, loan.expected.mode).end()
            finally:
                os.close(fd)


def _unknown(name: bytes) -> Intent:
    """Stand in for an intent that was lost, as a power cut can do."""
    nothing = Entry(0, 0, 0, 0, 0, 0, b"", b"", 0, 0)
    return Intent(name, b"", nothing, None, False)


def _judge(root_fd: int, quarantine: Quarantine, intent: Intent) -> None:
    """Decide what a name in quarantine is, and what becomes of it."""
    st = _stat(quarantine.fd, intent.name)
    if st is None:
        return
    if not intent.path:
        quarantine.report(b"", quarantine.keep(intent, Reason.UNKNOWN))
    elif _is_expected(st, intent):
        if not _is_torn_replacement(root_fd, quarantine, intent):
            _displaced(quarantine, intent, st)
    elif _is_replacement(st, intent):
        _replacement(quarantine, intent, st)
    else:
        _give_back(root_fd, quarantine, intent)


def _displaced(quarantine: Quarantine, intent: Intent, st: os.stat_result) -> None:
    """Go on with what was displaced as planned."""
    if intent.keep:
        quarantine.kept.append(Kept(intent.path, quarantine.keep(intent, Reason.LOSER)))
    elif stat.S_ISLNK(st.st_mode):
        quarantine.drop_link(intent)
    else:
        quarantine.admit(intent, intent.expected._replace(ctime_ns=st.st_ctime_ns))


def _replacement(quarantine: Quarantine, intent: Intent, st: os.stat_result) -> None:
    """Drop our own version, unless somebody has written to it while it was visible."""
    assert intent.wanted is not None
    if stat.S_ISDIR(st.st_mode):
        quarantine.drop_directory(intent)
    elif stat.S_ISLNK(st.st_mode):
        quarantine.drop_link(intent)
    else:
        quarantine.admit(intent, intent.wanted._replace(ctime_ns=st.st_ctime_ns))


def _give_back(root_fd: int, quarantine: Quarantine, intent: Intent) -> None:
    """Put a user's own version, displaced by mistake, back to where it was."""
    directory, name = split(intent.path)
    try:
        parent_fd = open_beneath(root_fd, directory, _AT)
    except OSError:  # the directory is gone
        quarantine.report(intent.path, quarantine.keep(intent, Reason.DISPLACED))
        return
    try:
        live = _stat(parent_fd, name)
        ours_is_there = live is not None and _is_replacement(live, intent)
        flags = EXCHANGE if ours_is_there else NOREPLACE
        try:
            renameat2(quarantine.fd, intent.name, parent_fd, name, flags)
        except OSError:
            quarantine.report(intent.path, quarantine.keep(intent, Reason.DISPLACED))
            return
    finally:
        os.close(parent_fd)
    st = _stat(quarantine.fd, intent.name)
    if st is None:
        return
    if _is_replacement(st, intent):
        _replacement(quarantine, intent, st)
    else:
        quarantine.report(intent.path, quarantine.keep(intent, Reason.DISPLACED))


def _is_torn_replacement(root_fd: int, quarantine: Quarantine, intent: Intent) -> bool:
    """Undo a replacement of which a power cut has left the name, but no byte.

    Most file systems keep the order of names, not of content. An empty file in place of
    a longer one, with the time that only we gave it, is such a one.
    """
    wanted = intent.wanted
    if wanted is None or wanted.kind != Kind.FILE or intent.source or wanted.size == 0:
        return False
    directory, name = split(intent.path)
    try:
        parent_fd = open_beneath(root_fd, directory, _AT)
    except OSError:
        return False
    try:
        live = _stat(parent_fd, name)
        if live is None or not stat.S_ISREG(live.st_mode):
            return False
        if live.st_size != 0 or live.st_mtime_ns != wanted.mtime_ns:
            return False
        renameat2(quarantine.fd, intent.name, parent_fd, name, EXCHANGE)
    finally:
        os.close(parent_fd)
    quarantine.admit(intent, wanted._replace(size=0, digest=content_digest(b"")))
    return True


def _finish_rename(root_fd: int, quarantine: Quarantine, intent: Intent) -> bool:
    """Move aside what a rename over it has exchanged to the old name.

    Returns:
        Whether it lies in quarantine now.
    """
    wanted = intent.wanted
    if wanted is None:
        return False
    directory, name = split(intent.path)
    old_directory, old_name = split(intent.source)
    fds: list[int] = []
    try:
        fds.append(new_fd := open_beneath(root_fd, directory, _AT))
        fds.append(old_fd := open_beneath(root_fd, old_directory, _AT))
        at_new, at_old = _stat(new_fd, name), _stat(old_fd, old_name)
        if at_new is None or at_old is None:
            return False
        if at_new.st_ino != wanted.ino or not _is_expected(at_old, intent):
            return False
        renameat2(old_fd, old_name, quarantine.fd, intent.name, NOREPLACE)
    except OSError:
        return False
    finally:
        for fd in fds:
            os.close(fd)
    return True


def _stat(parent_fd: int, name: bytes) -> Optional[os.stat_result]:
    try:
        return os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _is_expected(st: os.stat_result, intent: Intent) -> bool:
    """Tell whether this inode is the one to be displaced, written to since or not."""
    expected = intent.expected
    if expected.ino:
        return _KINDS.get(stat.S_IFMT(st.st_mode)) == expected.kind and st.st_ino == expected.ino
    return _looks_like(st, expected)


def _is_replacement(st: os.stat_result, intent: Intent) -> bool:
    """Tell whether this is what we made to take the place of the displaced."""
    return intent.wanted is not None and not intent.source and _looks_like(st, intent.wanted)


def _looks_like(st: os.stat_result, entry: Entry) -> bool:
    if _KINDS.get(stat.S_IFMT(st.st_mode)) != entry.kind or st.st_mtime_ns != entry.mtime_ns:
        return False
    return entry.kind != Kind.FILE or st.st_size == entry.size
