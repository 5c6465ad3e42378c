"""What would keep a session from working well, on either host, and what to do about it.

    psync doctor NAME | -r HOST LEFT RIGHT

An agent is started on each side, over the connection that a session would have, and looks at
its host and its root (`examine`); so what works here works for a session, and the other way round.

**Invariants.** Nothing is changed, on neither side: no root is claimed, locked or written to, and a
session that runs is not disturbed. Whatever is found is a line of its own: what was looked at,
how it is, and, if it is not as it should be, what to do. One side that cannot be reached keeps
nothing from being said about the other.

It does not mend anything, and it compares no trees: that is `psync check`.
"""

from __future__ import annotations

import asyncio
import errno
import os
import time
from typing import NamedTuple

from psync.alerts import Alerts, has_apprise, lacking, misunderstood
from psync.config import Options
from psync.control import Call, NoSession, Unanswered
from psync.core.entry import Side, printable
from psync.effects.console import quantity
from psync.effects.state import SessionDir, reason
from psync.effects.transport import Host, LocalHost
from psync.errors import PsyncError, StoreError, TransportError
from psync.filter import is_remote
from psync.host import filesystem, holds_files
from psync.peer import Peer
from psync.wire import Examine, Examined, Fatal, Hello, Message, Stop

__all__ = ["BAD", "OK", "WARN", "WORDS", "Check", "doctor", "judge"]

OK, WARN, BAD = range(3)
WORDS = ("ok", "warn", "bad")
_ANSWER_S = 60.0
_GRACE_S = 2.0
_SKEW_WARN_S, _SKEW_BAD_S = 2.0, 300.0
_FREE_WARN, _FREE_BAD = 0.05, 0.005  # shares of a file system
_SPARE_WATCHES = 0.8  # of the limit may be in use
_QUEUE_MIN = 16384

# What an ability is for: what is not replicated, or not as well, without it; and how bad that is.
_MISSING = {
    "nanoseconds": "times are cut to what it holds",
    "modes": "modes are not replicated to it",
    "owners": "owners are not replicated to it",
    "attributes": "extended attributes are not replicated to it",
    "ACLs": "ACLs are not replicated to it",
    "leases": "whether a file is being written is found out less exactly",
}


class Check(NamedTuple):
    """One thing that was looked at.

    Attributes:
        where: `left`, `right`, or empty: here, or both.
        what: the thing, in a word or two.
        level: `OK`, `WARN` or `BAD`.
        text: how it is.
        todo: what to do; empty: nothing.
    """

    where: str
    what: str
    level: int
    text: str
    todo: str = ""


async def doctor(
    options: Options, session: SessionDir, alerts: Alerts, exposed: str
) -> list[Check]:
    """Look at all that a session needs.

    Args:
        options: the session's.
        session: its state; need not be there.
        alerts: who is to be told.
        exposed: what is wrong with the mode of the configuration file; empty: nothing.
    """
    right: Host = LocalHost(options.itimeout)
    if options.host is not None:
        from psync.effects.remote import SshHost

        right = SshHost(options.host, options.ssh_options, options.timeout, options.itimeout)
    hosts = (LocalHost(options.itimeout), right)
    peers = [
        Peer(side, host, root)
        for side, host, root in zip(Side, hosts, (options.left, options.right), strict=True)
    ]
    runs = _runs(session)
    pruned = list(options.ignored().pruned)
    seen = await asyncio.gather(*(_examine(peer, runs, pruned) for peer in peers))
    checks = [check for found, _ in seen for check in found]
    answers = [answer for _, answer in seen]
    if all(answers):
        checks += _both(peers, [each for each in answers if each is not None])
    roots = [options.left] if options.host is not None else [options.left, options.right]
    if misplaced := session.misplaced(roots, options.log_file):
        text, _, todo = misplaced.rpartition(": ")
        checks.append(Check("", "roots", BAD, text, todo))
    urls = await misunderstood(alerts) if has_apprise() else []
    return [*checks, *_here(session, runs, alerts, exposed, urls)]


def _runs(session: SessionDir) -> bool:
    try:
        Call(session.path, "status").close()
    except (NoSession, Unanswered, StoreError):
        return False
    return True


async def _examine(
    peer: Peer, runs: bool, pruned: list[bytes]
) -> tuple[list[Check], Examined | None]:
    """Start an agent on a side, and look at what it finds there."""
    where = peer.side.name.lower()

    def on_messages(peer: Peer, messages: list[Message]) -> None:
        for message in messages:
            if isinstance(message, Fatal):
                peer.lose(TransportError(message.message))
            peer.answered(message)

    try:
        began = time.monotonic()
        await peer.connect(on_messages)
        took = time.monotonic() - began
        question = Examine(1, os.fsencode(peer.root), pruned)
        answer = await peer.ask(question, Examined, 1, within=_ANSWER_S)
        heard_ns = time.time_ns()
    except PsyncError as error:
        text, _, todo = str(error).rpartition(": ")
        return [Check(where, "agent", BAD, text or todo, todo if text else "")], None
    finally:
        peer.send(Stop())
        await peer.hang_up(_GRACE_S)
    hello = peer.hello
    assert hello is not None
    text = (
        f"psync {hello.version} on Python {hello.python}, {hello.arch}, as user {hello.euid} on "
        f"{peer.host.describe()}, started in {took:.2f} s"
    )
    skew_s = (answer.clock_ns - heard_ns) / 1e9
    agent = Check(where, "agent", OK, text)
    return [agent, *judge(where, hello, answer, skew_s=skew_s, runs=runs)], answer


def judge(
    where: str, hello: Hello, answer: Examined, *, skew_s: float, runs: bool
) -> list[Check]:
    """Say what is well and what is not on a side.

    Args:
        where: the side's name.
        hello: who its agent is.
        answer: what it has found.
        skew_s: by how much its clock is ahead of ours, in seconds.
        runs: whether the session runs there, with watches of its own.
    """
    checks = []
    if hello.rsync:
        checks.append(Check(where, "rsync", OK, hello.rsync))
    else:
        todo = "install it there (Debian: apt-get install rsync)"
        checks.append(Check(where, "rsync", BAD, "is not installed", todo))
    if "cinotify" not in hello.features:
        text = f"there is none for {hello.arch}: inotify is read by Python, which is slower"
        todo = "build it there: python3 native.py"
        checks.append(Check(where, "cinotify", WARN, text, todo))
    checks.append(_clock(where, skew_s))
    checks += _root(where, answer)
    if not answer.trouble:
        checks += [*_file_system(where, answer), *_space(where, answer)]
    return [*checks, _watches(where, answer, runs)]


def _clock(where: str, skew_s: float) -> Check:
    text = f"differs by {abs(skew_s):.1f} s from here"
    if abs(skew_s) <= _SKEW_WARN_S:
        return Check(where, "clock", OK, text)
    why = "of two conflicting edits the newest wins, by these clocks"
    todo = f"let a time service (chrony, systemd-timesyncd) set it: {why}"
    return Check(where, "clock", BAD if abs(skew_s) > _SKEW_BAD_S else WARN, text, todo)


def _root(where: str, answer: Examined) -> list[Check]:
    if answer.trouble:
        todo = "make it, mount it, or let the user of the agent read and write it"
        return [Check(where, "root", BAD, answer.trouble, todo)]
    more = "" if answer.all_counted else " or more"
    count = f"directories to watch: {answer.directories:,}{more}"
    return [Check(where, "root", OK, f"{printable(answer.root)}, {count}")]


def _file_system(where: str, answer: Examined) -> list[Check]:
    kind = answer.filesystem or "of unknown type"
    if not holds_files(kind):
        text = f"{kind} holds no files, it shows what the kernel knows"
        return [Check(where, "file system", BAD, text, "choose another root")]
    checks = []
    if is_remote(kind):
        text = f"{kind}: changes that other hosts make are not reported, but looked for"
        todo = "run psync where the disk is; or see poll_interval"
        checks.append(Check(where, "file system", WARN, text, todo))
    if not answer.able and not answer.unable:
        text = f"{kind}: what it can do could not be tried (it has no files without a name)"
        todo = "a trial with two empty directories shows whether psync can write there"
        return [*checks, Check(where, "file system", WARN, text, todo)]
    lacking = [name for name in answer.unable if name in _MISSING]
    if lacking:
        told = "; ".join(f"no {name}: {_MISSING[name]}" for name in lacking)
        todo = "use another file system (ext4, xfs, btrfs) or mount option if you need them"
        checks.append(Check(where, "file system", WARN, f"{kind}: {told}", todo))
    elif not checks:
        checks.append(Check(where, "file system", OK, f"{kind}: {', '.join(answer.able)}"))
    return checks


def _space(where: str, answer: Examined) -> list[Check]:
    free, total = answer.free_bytes, answer.total_bytes
    checks = []
    if total:
        text = f"{quantity(free)} free of {quantity(total)}"
        todo = "make room: what does not fit is not replicated, and .psync needs some, too"
        checks.append(_share(where, "space", free / total, text, todo))
    if answer.total_inodes:
        text = f"{answer.free_inodes:,} free of {answer.total_inodes:,}"
        todo = "remove files, or make the file system anew with more inodes"
        share = answer.free_inodes / answer.total_inodes
        checks.append(_share(where, "inodes", share, text, todo))
    return checks


def _share(where: str, what: str, share: float, text: str, todo: str) -> Check:
    level = BAD if share < _FREE_BAD else WARN if share < _FREE_WARN else OK
    return Check(where, what, level, text, todo if level else "")


def _watches(where: str, answer: Examined, runs: bool) -> Check:
    most, needed = answer.watches_max, answer.directories
    if not most:
        todo = "changes are looked for, not reported: is inotify in the kernel there?"
        return Check(where, "inotify", WARN, "its limits cannot be read", todo)
    used = 0 if runs else answer.watches_used  # else its own would count twice
    text = f"{needed:,} of {most:,} watches needed" + (f", {used:,} in use" if used else "")
    wanted = max(2 * (needed + used), 65536)
    todo = (
        f"sysctl fs.inotify.max_user_watches={wanted}, and the same line into "
        "/etc/sysctl.d/psync.conf there"
    )
    if needed + used > most:
        return Check(where, "inotify", BAD, text, todo)
    if needed + used > _SPARE_WATCHES * most or not answer.all_counted:
        return Check(where, "inotify", WARN, text, todo)
    if answer.queue_max and answer.queue_max < _QUEUE_MIN:
        todo = f"sysctl fs.inotify.max_queued_events={_QUEUE_MIN}: an overflow costs a scan"
        return Check(where, "inotify", WARN, f"a queue of {answer.queue_max:,} events", todo)
    return Check(where, "inotify", OK, text)


def _both(peers: list[Peer], answers: list[Examined]) -> list[Check]:
    """What only both sides together tell."""
    left, right = (peer.hello for peer in peers)
    a, b = (answer.root for answer in answers)
    assert left is not None and right is not None
    checks = []
    same_host = (left.boot_id, left.hostname) == (right.boot_id, right.hostname)
    if same_host and a and b and (b"%s/" % a).startswith(b"%s/" % b.rstrip(b"/")):
        checks.append(_nested(a, b))
    elif same_host and a and b and (b"%s/" % b).startswith(b"%s/" % a.rstrip(b"/")):
        checks.append(_nested(b, a))
    if left.euid == right.euid == 0:
        checks.append(Check("", "owners", OK, "are replicated: both agents are root"))
    else:
        text = "are not replicated: files belong to whom an agent runs as"
        todo = "run both agents as root, if you need them"
        checks.append(Check("", "owners", WARN, text, todo))
    if left.version != right.version:
        text = f"psync {left.version} on the left, {right.version} on the right"
        checks.append(Check("", "versions", BAD, text, "install the same on both"))
    return checks


def _nested(inner: bytes, outer: bytes) -> Check:
    text = f"{printable(inner)} is {printable(outer)}, or inside it"
    return Check("", "roots", BAD, text, "a tree cannot be replicated into itself")


def _here(
    session: SessionDir, runs: bool, alerts: Alerts, exposed: str, wrong_urls: list[str]
) -> list[Check]:
    """What only this host, and the state that it keeps, tells."""
    checks = [_state(session)]
    text = "runs" if runs else "has been stopped on purpose" if session.stopped else "does not run"
    checks.append(Check("", "session", OK, f"{session.name} {text}"))
    if exposed:
        text, _, todo = exposed.partition(": ")
        checks.append(Check("", "configuration", WARN, text, todo))
    if not alerts.enabled:
        todo = "see [alerts] in /etc/psync/psync.toml.example, which psync install writes"
        checks.append(Check("", "alerts", WARN, "nobody is told of trouble", todo))
        return checks
    missing = [Check("", "alerts", BAD, text, todo) for _, text, todo in lacking(alerts)]
    todo = "apprise's documentation lists what it knows"
    missing += [Check("", "alerts", BAD, line, todo) for line in wrong_urls]
    return [*checks, *(missing or [Check("", "alerts", OK, "somebody is told of trouble")])]


def _state(session: SessionDir) -> Check:
    """See whether the state directory can be written, with room for an archive.

    It is tried with a file without a name, in the directory itself or where it would be made.
    """
    place = session.path
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    elsewhere = "run it as another user, or name another place with --state-dir"
    kind = filesystem(os.fsencode(place))
    try:
        os.close(os.open(place, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR) or not holds_files(kind):
            text = f"{place} cannot be written: {reason(error)}"
            return Check("", "state directory", BAD, text, elsewhere)
        if not os.access(place, os.W_OK | os.X_OK, effective_ids=True):
            return Check("", "state directory", BAD, f"{place} cannot be written", elsewhere)
        text = f"{session.path}: {kind} has no files without a name to try it with"
        return Check("", "state directory", WARN, text, "a disk of this host is better for it")
    space = os.statvfs(place)
    free, total = space.f_bavail * space.f_frsize, space.f_blocks * space.f_frsize
    text = f"{session.path}, {quantity(free)} free"
    todo = "make room: while it cannot be written nothing is replicated"
    return _share("", "state directory", free / total if total else 1.0, text, todo)
