"""Compare both replicas without changing them: what `psync check` does.

The audit does not believe the archive, nor a session that runs: agents of its own read both
trees, and what they say is compared. Only then is psync asked what it makes of a difference,
to tell what is on its way from what it does not know of. A difference is looked at twice; between
the two looks a session that runs has time to bring over what it can.

    0  equal     1  failed: no statement can be made     2  alert     3  notice

An alert is one path that psync believes to be equal, or `alert_threshold` differences of any
kind; a notice is fewer. What has arrived by the second look is no difference.

**Invariants.** Nothing in either tree is written, nor in `.psync` (but by a session that is asked
to flush, as it always does then). What is in memory at a time is bounded, however large the
trees, and however different. What is saved of a difference (`--backup`) is private, and in the
session's state directory.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from psync.alerts import Alert, Alerts, audit_alert, deliver, ways
from psync.audit_knowledge import Knowledge
from psync.audit_merge import Found
from psync.audit_rules import (
    Modes,
    Verdict,
    Worth,
    as_agreed,
    difference,
    foresee,
    is_unchanged,
    judge,
)
from psync.audit_sides import Sides, Unreadable
from psync.config import Options
from psync.core.entry import Entry, Kind, Side, printable
from psync.effects.console import Console, quantity
from psync.effects.state import SessionDir, reason
from psync.errors import PsyncError, StoreError
from psync.explain import Told
from psync.wire import BUSY, UNREADABLE, Item

__all__ = [
    "ALERT", "EQUAL", "FAILED", "NOTICE", "REPORT", "Modes", "audit", "tell_people",
]  # fmt: skip

EQUAL, FAILED, ALERT, NOTICE = range(4)
REPORT = "audit.json"
_SUSPECTS_MAX = 500  # that are looked at again at once
_UNREAD_MAX = 1000  # files that are read at once,
_UNREAD_BYTES_MAX = 64 << 20  # and their size, but for the last of them
_LISTED_MAX = 1000  # differences in a report for programs
_TOLD_MAX = 50  # of them in an alert
_FLUSH_S = 15.0  # what a session has to bring over what is on its way; a writer may take 10
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
_LEFT_ALONE = "left alone (skip_initial_sync): psync sync brings it over"
_SAVED = (Kind.FILE, Kind.SYMLINK)

Entries = tuple[Entry | None, Entry | None]


class _Suspect(NamedTuple):
    """A path at which the sides differed at the first look."""

    path: bytes
    sides: Entries
    nested: bool
    stirred: bool


class _Audit:
    """One run through both trees; see the module's text."""

    def __init__(
        self,
        options: Options,
        modes: Modes,
        session_dir: SessionDir,
        console: Console,
        *,
        silent: bool,
    ) -> None:
        self._modes = modes
        self._session_dir = session_dir
        self._console = console
        self._silent = silent
        self._meta_from = None if options.meta_from == "both" else Side[options.meta_from.upper()]
        self._knowledge = Knowledge(session_dir, _FLUSH_S, self._warn)
        self._sides = Sides(options, one_sided=not modes.modified)
        self._since_ns = (0, 0)
        self._suspects: list[_Suspect] = []
        self._unread: list[_Suspect] = []
        self._unread_bytes = 0
        self._started = time.monotonic()
        self._backup: Path | None = None
        self.compared = 0
        self.bytes = 0  # of content that was read, on each side
        self.saved = 0
        self.unsaved = 0
        self.counts = dict.fromkeys(Worth, 0)
        self.listed: list[dict[str, str]] = []

    async def run(self) -> None:
        """Compare both trees.

        Raises:
            PsyncError: no statement can be made; the message says why.
        """
        try:
            await self._knowledge.open()
            await self._sides.open()
            for warning in self._sides.warnings:
                self._warn(warning)
            if self._modes.newer_min:
                left, right = (
                    clock - int(self._modes.newer_min * 60e9) for clock in self._sides.clocks_ns()
                )
                self._since_ns = (left, right)
            async for found in self._sides.walk():
                await self._take(found)
            await self._read_unread()
            await self._examine()
        finally:
            self._console.finish()
            await self._sides.close()
            self._knowledge.close()

    def _warn(self, text: str) -> None:
        self._console.warn(f"psync: {text}")

    # --- the first look ----------------------------------------------------------------------

    async def _take(self, found: Found) -> None:
        self.compared += 1
        if not self.compared % 100:
            self._progress()
        if any(item is not None and item.entry is None for item in found.sides):
            await self._unreadable(found.path, found.sides, nested=found.nested)
            return
        left, right = (item and item.entry for item in found.sides)
        if self._modes.skips(left, right, self._since_ns):
            return
        suspect = _Suspect(found.path, (left, right), found.nested, found.stirred)
        if self._difference(suspect, (left, right)):
            await self._suspect(suspect)
        elif self._modes.checksum and _are_files(left, right):
            assert left is not None
            self._unread.append(suspect)
            self._unread_bytes += left.size
            if len(self._unread) >= _UNREAD_MAX or self._unread_bytes >= _UNREAD_BYTES_MAX:
                await self._read_unread()

    def _difference(self, suspect: _Suspect, sides: Entries) -> str:
        return difference(*sides, lite=self._modes.lite, stirred=suspect.stirred)

    async def _suspect(self, suspect: _Suspect) -> None:
        self._suspects.append(suspect)
        if len(self._suspects) >= _SUSPECTS_MAX:
            await self._examine()

    async def _unreadable(self, path: bytes, sides: Sequence[Item | None], *, nested: bool) -> None:
        """A side cannot tell what is at a path; a mount point may be where nothing else is."""
        told = []
        mounts = 0
        for side, item in zip(Side, sides, strict=True):
            if item is not None and item.entry is None and item.flags & UNREADABLE:
                trouble = self._sides.merge.why(side, path)
                mounts += trouble.code == "mount"
                told.append(f"{side.name.lower()}: {trouble.message}")
        if mounts < len(told) or any(item is not None and item.entry for item in sides):
            await self._record(
                path, (None, None), Verdict(Worth.UNREADABLE, "; ".join(told)), nested
            )

    async def _read_unread(self) -> None:
        """Compare the content of files that are equal so far."""
        unread, self._unread, self._unread_bytes = self._unread, [], 0
        if not unread:
            return
        looked = await self._sides.look(2, [each.path for each in unread])
        for suspect, items in zip(unread, looked, strict=True):
            left, right = (item.entry for item in items)
            self.bytes += left.size if left is not None else 0
            self._progress()
            if any(item.flags & UNREADABLE for item in items):
                await self._cannot_read(suspect, items)
            elif any(item.flags & BUSY for item in items):
                verdict = Verdict(Worth.ON_ITS_WAY, "it is written all the time")
                await self._record(suspect.path, (left, right), verdict, suspect.nested)
            elif self._difference(suspect, (left, right)):
                await self._suspect(suspect._replace(sides=(left, right)))

    async def _cannot_read(self, suspect: _Suspect, items: tuple[Item, Item]) -> None:
        where = [s.name.lower() for s in Side if items[s].flags & UNREADABLE]
        verdict = Verdict(Worth.UNREADABLE, f"cannot be read on the {' and the '.join(where)}")
        for side in Side:
            self._sides.merge.why(side, suspect.path)
        await self._record(suspect.path, (None, None), verdict, suspect.nested)

    # --- the second look ---------------------------------------------------------------------

    async def _examine(self) -> None:
        """Tell what has become of differences, and of what kind those are that are left."""
        suspects, self._suspects = self._suspects, []
        if not suspects:
            return
        told = await self._knowledge.tell([each.path for each in suspects])
        suspects = [
            suspect
            for suspect, each in zip(suspects, told, strict=True)
            if self._difference(suspect, as_agreed(suspect.sides, each.agreed))
        ]
        if not suspects:
            return  # none of the sides can hold what the other has
        settled = await self._knowledge.settle()
        looked = await self._look_again(suspects)
        told = await self._knowledge.tell([each.path for each in suspects])
        undecided: list[tuple[_Suspect, Told]] = []
        for suspect, items, each in zip(suspects, looked, told, strict=True):
            if self._is_unreadable(suspect, items, each):
                await self._cannot_read(suspect, items)
                continue
            left, right = (item.entry for item in items)
            verdict = self._verdict(suspect, (left, right), each, settled=settled)
            if verdict is None:
                undecided.append((suspect, each))
            else:
                await self._record(suspect.path, (left, right), verdict, suspect.nested)
        await self._decide(undecided)

    async def _look_again(self, suspects: Sequence[_Suspect]) -> list[tuple[Item, Item]]:
        """What both sides have there now; see `_want`."""
        wants = [self._want(each) for each in suspects]
        found: dict[bytes, tuple[Item, Item]] = {}
        for want in set(wants):
            paths = [each.path for each, w in zip(suspects, wants, strict=True) if w == want]
            found.update(zip(paths, await self._sides.look(want, paths), strict=True))
        return [found[each.path] for each in suspects]

    def _want(self, suspect: _Suspect) -> int:
        """What to ask at the second look: 2, the content; 1, whether it can be read; 0, neither.

        Where more than metadata differs psync has to read it.
        """
        left, right = suspect.sides
        if self._modes.checksum and _are_files(left, right):
            return 2
        if left is None or right is None:
            return 1
        return int((left.size, left.mtime_ns) != (right.size, right.mtime_ns))

    def _is_unreadable(self, suspect: _Suspect, items: tuple[Item, Item], told: Told) -> bool:
        """Tell whether nobody can tell what a side has there, nor bring it over."""
        flawed = [item for item in items if item.flags & UNREADABLE]
        if not flawed or self._want(suspect) == 2 or any(item.entry is None for item in flawed):
            return bool(flawed)
        left, right = (item.entry for item in items)
        return told.word != "pending" and bool(self._difference(suspect, (left, right)))

    def _verdict(
        self, suspect: _Suspect, sides: Entries, told: Told, *, settled: bool
    ) -> Verdict | None:
        """Tell of what kind a difference is; None: psync would first read what is there."""
        text = self._difference(suspect, as_agreed(sides, told.agreed))
        if not text:
            return Verdict(Worth.ARRIVED, "")
        knowledge = self._knowledge
        verdict = None
        if knowledge.running:
            unchanged = is_unchanged(suspect.sides, sides)
            verdict = judge(told, settled=settled, unchanged=unchanged)
        if verdict is None and not knowledge.known:
            verdict = Verdict(Worth.DIFFERS, "")
        is_left_alone = knowledge.skipped and not told.word
        if verdict is None or (is_left_alone and verdict.worth is Worth.BELIEVED):
            verdict = foresee(sides, told.agreed, met=knowledge.met, meta_from=self._meta_from)
            if is_left_alone and verdict is not None and verdict.worth is Worth.ON_ITS_WAY:
                verdict = Verdict(Worth.DIFFERS, _LEFT_ALONE)
        return verdict and verdict._replace(
            text="; ".join(filter(None, (text + _whose(sides, told), verdict.text)))
        )

    async def _decide(self, undecided: Sequence[tuple[_Suspect, Told]]) -> None:
        """Read what psync would read at its next look, and say what it would make of it."""
        if not undecided:
            return
        looked = await self._sides.look(2, [suspect.path for suspect, _ in undecided])
        for (suspect, told), items in zip(undecided, looked, strict=True):
            if any(item.flags & UNREADABLE for item in items):
                await self._cannot_read(suspect, items)
                continue
            left, right = (item.entry for item in items)
            verdict = self._verdict(suspect, (left, right), told, settled=False)
            if verdict is None:
                text = self._difference(suspect, as_agreed((left, right), told.agreed))
                verdict = Verdict(Worth.ON_ITS_WAY, f"{text}; it is written just now")
            await self._record(suspect.path, (left, right), verdict, suspect.nested)

    # --- what is found ---------------------------------------------------------------------------

    async def _record(self, path: bytes, sides: Entries, verdict: Verdict, nested: bool) -> None:
        """Count a difference, tell of it, and save both versions where that is asked for.

        What is in a directory that only one side has is told with that.
        """
        self.counts[verdict.worth] += 1
        if verdict.worth is Worth.ARRIVED:
            return
        if not nested or verdict.worth is Worth.BELIEVED:
            title, shown = verdict.worth.title, printable(path)
            if len(self.listed) < _LISTED_MAX:
                self.listed.append({"path": shown, "kind": title, "what": verdict.text})
            if not self._silent:
                self._console.say(f"{title}: {shown}: {verdict.text}")
        if self._modes.backup:
            await self._save(path, sides)

    def _progress(self) -> None:
        seconds = max(time.monotonic() - self._started, 0.001)
        told = f"comparing: {self.compared:,} entries, {self.compared / seconds:,.0f}/s"
        if self._modes.checksum:
            told += f", {quantity(self.bytes)} read, {quantity(self.bytes / seconds)}/s"
        self._console.show(told)

    # --- what is saved -----------------------------------------------------------------------

    async def _save(self, path: bytes, sides: Entries) -> None:
        """Save both versions of what differs in more than its metadata."""
        left, right = sides
        if left is not None and right is not None and left.kind == right.kind:
            is_read = left.digest and right.digest  # else it is for size and time to tell
            same = left.digest == right.digest if is_read else left.mtime_ns == right.mtime_ns
            if same and (left.size, left.target) == (right.size, right.target):
                return
        for side, entry in zip(Side, sides, strict=True):
            if entry is None or entry.kind not in _SAVED:
                continue
            try:
                await self._save_one(side, path, entry)
                self.saved += 1
            except (Unreadable, OSError) as error:
                why = reason(error) if isinstance(error, OSError) else str(error)
                if isinstance(error, OSError) and error.errno in _NO_ROOM:
                    raise StoreError(f"cannot save {printable(path)}: {why}") from None
                self.unsaved += 1
                where = f"{printable(path)}: the {side.name.lower()} version"
                self._warn(f"{where} was not saved: {why}")

    async def _save_one(self, side: Side, path: bytes, entry: Entry) -> None:
        top = os.fsencode(self._backup_directory())
        target = os.path.join(top, side.name.lower().encode(), path)
        os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
        if entry.kind == Kind.SYMLINK:
            os.symlink(entry.target, target)
        else:
            try:
                with _create(target) as file:
                    async with contextlib.aclosing(self._sides.read(side, path, entry)) as parts:
                        async for part in parts:
                            file.write(part)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(target)
                raise
        os.utime(target, ns=(entry.mtime_ns, entry.mtime_ns), follow_symlinks=False)

    def _backup_directory(self) -> Path:
        if self._backup is None:
            self._session_dir.make()
            stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
            parent = self._session_dir.path / "backup"
            parent.mkdir(mode=0o700, exist_ok=True)
            serial = 0
            while (place := parent / (f"{stamp}.{serial}" if serial else stamp)).exists():
                serial += 1
            place.mkdir(mode=0o700)
            self._backup = place
        return self._backup

    # --- the end -------------------------------------------------------------------------------

    @property
    def exit_code(self) -> int:
        """See the module's text."""
        total = sum(self.counts.values()) - self.counts[Worth.ARRIVED]
        if self.counts[Worth.BELIEVED] or (total and total >= self._modes.threshold):
            return ALERT
        return NOTICE if total or self.unsaved else EQUAL

    def report(self) -> dict[str, Any]:
        """Say what was found, for programs."""
        left, right = self._sides.roots
        told: dict[str, Any] = {
            "name": self._session_dir.name,
            "exit": self.exit_code,
            "left": left,
            "right": right,
            "session": self._knowledge.state or ("unknown" if self._knowledge.running else "none"),
            "compared": self.compared,
            "seconds": round(time.monotonic() - self._started, 3),
            "counts": {worth.title: count for worth, count in self.counts.items()},
            "modes": self._modes._asdict(),
        }
        if self._modes.checksum:
            told["bytes"] = self.bytes
        if self._modes.backup:
            told["saved"], told["unsaved"] = self.saved, self.unsaved
            told["backup"] = str(self._backup or "")
        return told


def _create(path: bytes) -> BinaryIO:
    """Make a private file, to be written."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return open(os.open(path, flags, 0o600), "wb")


def _are_files(left: Entry | None, right: Entry | None) -> bool:
    """Tell whether both are files of one size, so that only their content may differ."""
    if left is None or right is None:
        return False
    return left.kind == right.kind == Kind.FILE and left.size == right.size > 0


def _whose(sides: Entries, told: Told) -> str:
    """Say which of two contents is the agreed one, where that is known."""
    agreed = told.agreed.digest if told.agreed is not None else b""
    left, right = (entry.digest if entry is not None else b"" for entry in sides)
    if agreed and left and right and left != right and agreed in (left, right):
        return f" (what was agreed is on the {'left' if agreed == left else 'right'})"
    return ""


def _summary(report: dict[str, Any]) -> str:
    """Say in a line what an audit has found."""
    counts = report["counts"]
    worths = [worth for worth in reversed(Worth) if worth is not Worth.ARRIVED]
    kinds = [f"{counts[w.title]:,} {w.title}" for w in worths if counts[w.title]]
    told = ", ".join(kinds) or "equal"
    if counts[Worth.ARRIVED.title]:
        told += f" ({counts[Worth.ARRIVED.title]:,} arrived meanwhile)"
    line = (
        f"{report['name']}: {report['compared']:,} entries compared in {report['seconds']:.1f} s: "
        f"{told}"
    )
    if report.get("backup"):
        line += f"; {report['saved']:,} versions saved in {report['backup']}"
    verdict = {ALERT: "ALERT", NOTICE: "notice"}.get(report["exit"])
    return f"{line}: {verdict}" if verdict else line


@contextlib.contextmanager
def _alone(session_dir: SessionDir) -> Iterator[None]:
    """See that no other audit of this session runs; remove what a killed one has left.

    Raises:
        PsyncError: one runs.
    """
    if not os.path.isdir(session_dir.path):
        yield
        return
    try:
        fd = os.open(session_dir.path / "audit.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreError(f"cannot use {session_dir.path}: {reason(error)}") from None
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PsyncError(f"an audit of {session_dir.name} is running already") from None
        for left in session_dir.path.glob("audit.*/"):
            shutil.rmtree(left, ignore_errors=True)
        yield
    finally:
        os.close(fd)


async def _run(audit: _Audit) -> int:
    """Run it; whatever else goes wrong while it is being ended is no failure of its own.

    Returns:
        the signal that has ended it, or 0.
    """
    task = asyncio.current_task()
    assert task is not None
    ended = 0

    def end(number: int) -> None:
        nonlocal ended
        ended = number
        task.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, end, number)
    try:
        await audit.run()
    except (PsyncError, asyncio.CancelledError):
        if not ended:
            raise
    return ended


def audit(
    options: Options, modes: Modes, session_dir: SessionDir, *, as_json: bool
) -> dict[str, Any]:
    """Compare a session's two replicas, tell what was found, and remember it.

    Args:
        options: the session's: what is replicated, and where.
        modes: what is compared.
        session_dir: the session's, whether it runs or not.
        as_json: print nothing but warnings; the caller prints what is returned.

    Returns:
        The report; `exit` is what `psync check` ends with.

    Raises:
        PsyncError: another audit of this session runs.
    """
    console = Console()
    modes = modes._replace(extra=_extra(options, session_dir))
    with _alone(session_dir):
        work = _Audit(options, modes, session_dir, console, silent=as_json)
        began = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        failure = ""
        try:
            ended = asyncio.run(_run(work))
            if ended == signal.SIGINT:
                raise KeyboardInterrupt
            if ended:
                console.warn("psync: ended by SIGTERM, before anything could be said")
                raise SystemExit(FAILED)
        except PsyncError as error:
            failure = str(error)
        report = {**work.report(), "time": began}
        if failure:
            report.update(exit=FAILED, error=failure)
            console.warn(f"psync: {failure}")
        elif not as_json:
            console.say(_summary(report))
        before = session_dir.described(REPORT)
        known, stands = _remember(before, report, modes)
        if stands:
            closer = _modes_of(before) or Modes()
            console.warn(
                f"psync: the audit of {before.get('time')} ({closer.words}) looked more closely, "
                "and what it found stands until one like it says otherwise"
            )
        if os.path.isdir(session_dir.path):
            try:
                session_dir.describe(known, REPORT)
            except StoreError as error:
                console.warn(f"psync: {error}")
        return {**report, "stands": stands, "differences": work.listed}


def _extra(options: Options, session_dir: SessionDir) -> tuple[str, ...]:
    """The rules of an audit that are not the session's own; without a session, none."""
    own = session_dir.described().get("options") or {}
    extra = []
    for key in ("excludes", "tempfiles", "rsync_excludes"):
        rules, its = getattr(options, key), own.get(key)
        if not isinstance(its, list) or rules == its:
            continue
        if any(rule.startswith(("!", "+ ")) for rule in (*rules, *its)):
            extra.append(f"{key} {' '.join(rules)}")  # what one does depends on its place
        else:
            extra += [f"{key} {rule}" for rule in rules if rule not in its]
    if own.get("xattrs") and not options.xattrs:
        extra.append("attributes")
    if options.strip_special_bits and own.get("strip_special_bits") is False:
        extra.append("special bits")
    return tuple(extra)


def _remember(
    before: dict[str, Any], report: dict[str, Any], modes: Modes
) -> tuple[dict[str, Any], bool]:
    """Say what `audit.json` is to hold after an audit, and whether that is an earlier verdict.

    An earlier alert stands that this audit could not see. `looked` is then when there was an audit
    last, and `failed` why that one came to nothing. Another alert takes its place, but not so that
    less than both needed would end it: `needs` are the modes for that.
    """
    closer = _modes_of(before)
    if closer is None or (report["exit"] != FAILED and modes.sees_all_of(closer)):
        return report, False
    if report["exit"] == ALERT:
        return {**report, "needs": modes.together(closer)._asdict()}, False
    rest = {key: value for key, value in before.items() if key != "failed"}
    why = {"failed": report.get("error", "")} if report["exit"] == FAILED else {}
    return {**rest, "looked": report["time"], **why}, True


def _modes_of(before: dict[str, Any]) -> Modes | None:
    """How closely one must look to end an earlier alert; None: there is none that may stand."""
    seen, counts = before.get("needs", before.get("modes")), before.get("counts")
    if before.get("exit") != ALERT or not (isinstance(seen, dict) and isinstance(counts, dict)):
        return None  # it is of another psync, or no alert
    lasts = any(counts.get(worth.title) for worth in Worth if worth >= Worth.UNREADABLE)
    if not lasts and "needs" not in before:
        return None  # what was on its way has arrived, or will be found again
    try:
        return Modes(**seen)
    except TypeError:
        return None


def tell_people(
    alerts: Alerts, session: SessionDir, before: dict[str, Any], report: dict[str, Any]
) -> list[str]:
    """Tell of an audit that has become an alert, or a worse one, or is none any more.

    Args:
        alerts: who is told.
        session: its `audit.json` says afterwards by which ways people know, and of what.
        before: what that said before this audit.
        report: this audit's.

    Returns:
        A line for each way to them that failed.
    """
    told, all_ways, was_heard = before.get("alerted"), ways(alerts), before.get("heard") or {}
    known = [way for way in told if way in all_ways] if isinstance(told, list) else []
    heard = {way: was_heard.get(way, before.get("counts") or {}) for way in known}
    informed = [way for way in known if not _is_worse(report["counts"], heard[way])]
    failed: dict[str, str] = {}
    if report["exit"] == ALERT and len(informed) < len(all_ways):
        counts = [f"{count:,} {kind}" for kind, count in report["counts"].items() if count]
        some = report["differences"][:_TOLD_MAX]
        lines = [f"{each['kind']}: {each['path']}: {each['what']}" for each in some]
        alert = audit_alert(report["name"], ", ".join(counts), lines)
        failed = asyncio.run(deliver(alerts, alert, informed))
        for way in set(all_ways).difference(informed, failed):
            most = heard.get(way, {})  # of each kind: audits that look differently take turns
            heard[way] = {k: max(n, most.get(k, 0)) for k, n in report["counts"].items()}
    elif report["exit"] not in (ALERT, FAILED) and known and not report.get("stands"):
        text = f"audit of session {report['name']}: well again"
        alert = Alert("recovered", report["name"], text, [text])
        failed = asyncio.run(deliver(alerts, alert, [way for way in all_ways if way not in known]))
        heard = {way: heard[way] for way in known if way in failed}
    if heard:
        facts = {"alerted": list(heard), "heard": heard}
        session.describe({**session.described(REPORT), **facts}, REPORT)
    return list(dict.fromkeys(failed.values()))


def _is_worse(counts: dict[str, int], heard: dict[str, int]) -> bool:
    """Tell whether there is more, of some kind and of worse ones, than people have heard of."""
    titles = [worth.title for worth in sorted(Worth, reverse=True) if worth != Worth.ARRIVED]
    excess = accumulate(counts.get(title, 0) - heard.get(title, 0) for title in titles)
    return any(more > 0 for more in excess)
