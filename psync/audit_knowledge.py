"""What psync itself knows of paths that differ: from the session that runs, or its archive.

**Invariants.** The archive is the session's own: it is read from a copy, which is made without
keeping a session from starting, and only if something differs; it is thrown away. A session
that is running is asked instead. Whoever cannot be asked is `unknown`, which is no reason to
end an audit. To a session that has much to bring over little time is given.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from psync.control import Call, NoSession
from psync.core.archive import Archive
from psync.core.events import Intend
from psync.effects.state import SessionDir, reason
from psync.effects.store import Intents, Rows
from psync.errors import PsyncError, StoreError
from psync.explain import QUESTION_MAX, Answer, Told, ask, read_answer

__all__ = ["Knowledge"]

_ANSWER_S = 20.0
_PAUSES = 4  # times as long as it was given in vain, it is not given any more
_COPY_TRIES = 3
_PARTS = ("", "-wal")
_decode = msgspec.msgpack.Decoder(Intend).decode


class Knowledge:
    """See the module's text.

    Attributes:
        running: there is a session, which is asked.
        known: something was agreed, by which a difference can be told from another.
        met: both sides have been compared once.
        skipped: what differed before the session that runs began is left alone by it.
        state: of the session that runs; empty: none does.
    """

    def __init__(
        self, session_dir: SessionDir, flush_s: float, warn: Callable[[str], None]
    ) -> None:
        """Know nothing yet.

        Args:
            session_dir: the session's.
            flush_s: how long a session may take to bring over what it can.
            warn: is told, in one line and once, why nobody can be asked.
        """
        self._directory = session_dir
        self._flush_s = flush_s
        self._warn = warn
        self._busy_until = 0.0  # how long it need not be asked to settle again
        self._is_asleep = False  # there may be an archive, and it is not read yet
        self._copy: tempfile.TemporaryDirectory[str] | None = None
        self._rows: Rows | None = None
        self._archive: Archive | None = None
        self.running = False
        self.known = False
        self.met = True
        self.skipped = False
        self.state = ""

    async def open(self) -> None:
        """Find out who can be asked."""
        self._is_asleep = False
        try:
            await self._ask([])
            self.running = self.known = True
        except NoSession:
            self._is_asleep = not self._directory.fresh
        except PsyncError as error:
            self.running = True
            self._give_up(str(error))

    async def _wake(self) -> None:
        """Something differs, and no session ran when the audit began."""
        await self.open()
        if not self._is_asleep:
            return
        self._is_asleep = False
        try:
            await asyncio.to_thread(self._read_archive)
        except OSError as error:
            self._give_up(reason(error))
        except (StoreError, msgspec.MsgspecError) as error:
            self._give_up(str(error))

    def close(self) -> None:
        """Throw the copy away."""
        if self._rows is not None:
            self._rows.close()
        if self._copy is not None:
            self._copy.cleanup()

    def _give_up(self, why: str) -> None:
        self.known = False
        self._warn(f"what psync believes is not known: {why}")

    # --- a session that runs ---------------------------------------------------------------

    async def _ask(self, paths: Sequence[bytes], *, flush: bool = False) -> Answer:
        args: dict[str, Any] = {**ask(paths), "timeout": self._flush_s if flush else None}
        within = _ANSWER_S + (self._flush_s if flush else 0.0)
        call = Call(self._directory.path, "explain", args)
        try:
            said = await asyncio.to_thread(call.result, time.monotonic() + within)
        except asyncio.CancelledError:
            call.give_up()
            raise
        answer = read_answer(said, len(paths))
        self.met, self.state, self.skipped = answer.met, answer.state, answer.skipped
        return answer

    async def settle(self) -> bool:
        """Let a session that runs bring over what it can; tell whether that was everything."""
        if not self.running or not self.known or time.monotonic() < self._busy_until:
            return False
        try:
            settled = (await self._ask([], flush=True)).settled
        except PsyncError as error:
            self._give_up(str(error))
            return False
        if not settled:
            self._busy_until = time.monotonic() + _PAUSES * self._flush_s
        return settled

    async def tell(self, paths: Sequence[bytes]) -> list[Told]:
        """What is known of some paths."""
        if self._is_asleep:
            await self._wake()
        if not self.known:
            return [Told("unknown" if self.running else "", "", None) for _ in paths]
        if self._archive is not None:
            return [Told("", "", self._archive.get(path)) for path in paths]
        told: list[Told] = []
        try:
            for part in _parts(paths):
                if len(part[0]) > QUESTION_MAX:
                    told.append(Told("unknown", "its path is too long to ask for", None))
                else:
                    told += (await self._ask(part)).told
        except PsyncError as error:
            self._give_up(str(error))
            told += [Told("unknown", "", None) for _ in paths[len(told) :]]
        return told

    # --- none runs ----------------------------------------------------------------------------

    def _read_archive(self) -> None:
        """Copy the archive, whole and of one moment, and open the copy. Blocks."""
        database = self._directory.database
        self._copy = tempfile.TemporaryDirectory(prefix="audit.", dir=self._directory.path)
        copy = Path(self._copy.name, "archive.db")
        for _ in range(_COPY_TRIES):
            before = _versions(database)
            for part in _PARTS:
                Path(f"{copy}{part}").unlink(missing_ok=True)
                with suppress(FileNotFoundError):
                    shutil.copyfile(f"{database}{part}", f"{copy}{part}")
            if _versions(database) == before:
                break
        else:
            raise StoreError(f"the archive {database} changes all the time")
        self._rows = Rows(copy)
        if self._rows.moved_aside is not None:
            raise StoreError(f"the archive {database} is broken")
        self._archive = Archive(self._rows)
        for record in Intents(self._directory.path).load():  # of a session that was killed
            for change in _decode(record).agreed:
                self._archive.replay(change)
        self.known = True
        self.met = self._rows.meta("met") == "1"


def _versions(database: Path) -> list[tuple[int, int] | None]:
    found: list[tuple[int, int] | None] = []
    for part in _PARTS:
        try:
            st = os.stat(f"{database}{part}")
            found.append((st.st_size, st.st_mtime_ns))
        except FileNotFoundError:
            found.append(None)
    return found


def _parts(paths: Sequence[bytes]) -> list[list[bytes]]:
    """Cut paths into questions; a path that is too long has one of its own."""
    parts: list[list[bytes]] = []
    size = QUESTION_MAX + 1
    for path in paths:
        size += len(path) + 4
        if size > QUESTION_MAX or len(parts[-1]) >= 500:
            parts.append([])
            size = len(path) + 4
        parts[-1].append(path)
    return parts
