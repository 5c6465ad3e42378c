"""Bring large files from one side into the other's staging, many in one run of rsync.

    source agent: open the files, hold their descriptors      OpenSource -> Opened
    target agent: a directory in staging, with copies of      Stage -> Staged
                  what may be like them
    rsync: from /proc/<pid>/fd/<n> to /proc/<pid>/fd/<m>/<run>/
    source agent: are they still as they were?                 CloseSource -> Closed
    then the session places them, and staging is cleared       Unstage

rsync never sees a user's name and never touches a user's file: it reads descriptors and
writes private staging.

**Invariants.** Every `Transfer` taken is answered by exactly one `Transferred`, unless the
source's or target's link is lost, when the session has given it up itself. A file that
changed while it was read is torn: it is not placed. Staging is cleared after the last of its
files has been placed or given up.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import product

from psync import faults
from psync.core.entry import Side
from psync.core.events import (
    Transfer,
    Transferred,
)
from psync.effects.rsync import Rsync, RsyncError
from psync.errors import TransportError
from psync.peer import Peer
from psync.wire import Closed, CloseSource, Opened, OpenSource, Results, Stage, Staged, Unstage

__all__ = ["Transfers"]

FILES_MAX = 64
BYTES_MAX = 256 * 1024 * 1024


class Transfers:
    """The transfers of a session, one run at a time in each direction."""

    def __init__(
        self,
        peers: Sequence[Peer],
        rsync: Rsync,
        silence_s: float,
        options: list[str],
        report: Callable[[list[Transferred]], set[int]],
        number: Callable[[], int],
    ) -> None:
        """Prepare.

        Args:
            peers: left and right.
            rsync: runs rsync between them.
            silence_s: how long nothing of a transfer may move; then it is given up.
            options: more options for rsync, from the user.
            report: is told what became of transfers; returns the operations that go on: no side
                has gone down meanwhile.
            number: gives numbers that are not used twice.
        """
        self._peers = peers
        self._rsync = rsync
        self.silence_s = silence_s
        self.options = options
        self._report = report
        self._number = number
        self._queues: tuple[deque[Transfer], deque[Transfer]] = (deque(), deque())
        self._ready = (asyncio.Event(), asyncio.Event())
        self._placing: dict[int, set[int]] = {}  # run -> operations that still need its staging
        self._run_of: dict[int, int] = {}

    def add(self, transfer: Transfer) -> None:
        """Take over a transfer."""
        self._queues[transfer.source].append(transfer)
        self._ready[transfer.source].set()

    def placed(self, side: Side, results: Results) -> None:
        """Operations have been answered: clear the staging that nobody needs any more."""
        if self._run_of:
            self._clear(side, [outcome.op for outcome in results.outcomes])

    def _clear(self, side: Side, ops: Iterable[int]) -> None:
        for op in ops:
            run = self._run_of.pop(op, None)
            if run is not None:
                self._placing[run].discard(op)
                if not self._placing[run]:
                    del self._placing[run]
                    self._peers[side].send(Unstage(run))

    async def carry(self, source: Side) -> None:
        """Carry what comes from a side, for ever."""
        queue, ready = self._queues[source], self._ready[source]
        while True:
            await ready.wait()
            ready.clear()
            while queue:
                batch = [queue.popleft()]
                size = batch[0].entry.size
                while queue and len(batch) < FILES_MAX and size < BYTES_MAX:
                    size += queue[0].entry.size
                    batch.append(queue.popleft())
                await self._carry(source, batch)

    async def _carry(self, source: Side, batch: list[Transfer]) -> None:
        try:
            events = await self._run(source, batch)
            going_on = self._report(events)
            self._clear(source.other, [e.op for e in events if e.op not in going_on])
        except TransportError as error:
            # Of a side that is gone the session hears soon, and gives all of them up. Told of one
            # before, it might begin another, which fails at once: nobody else would have a turn.
            if all(peer.connected for peer in self._peers):
                self._report([Transferred(t.op, b"", message=str(error)) for t in batch])
        except RsyncError as error:
            if len(batch) == 1:
                self._report([Transferred(batch[0].op, b"", message=str(error))])
                return
            for transfer in batch:  # one file's trouble is not another's
                await self._carry(source, [transfer])

    async def _run(self, source: Side, batch: list[Transfer]) -> list[Transferred]:
        reader, writer = self._peers[source], self._peers[source.other]
        run = self._number()
        opened = await reader.ask(OpenSource(run, [(t.path, t.entry) for t in batch]), Opened, run)
        if len(opened.files) != len(batch):
            raise TransportError(f"{reader.name} opened other files than it was asked for")
        files = [(t, fd) for t, fd in zip(batch, opened.files, strict=True) if fd >= 0]
        events = [
            Transferred(t.op, b"", torn=True)
            for t, fd in zip(batch, opened.files, strict=True)
            if fd < 0
        ]
        try:
            if files:
                await self._fill(source, run, opened, files)
            faults.at("transfer: filled")
            closed = await reader.ask(CloseSource(run), Closed, run)
            faults.at("transfer: closed")
            if len(closed.intact) != len(batch):
                raise TransportError(f"{reader.name} closed other files than it had opened")
        except (TransportError, RsyncError):
            reader.send(CloseSource(run))
            writer.send(Unstage(run))
            raise
        intact = [ok for ok, fd in zip(closed.intact, opened.files, strict=True) if fd >= 0]
        placing = set()
        for (transfer, fd), whole in zip(files, intact, strict=True):
            if whole:
                placing.add(transfer.op)
                self._run_of[transfer.op] = run
                events.append(Transferred(transfer.op, b"%d/%d" % (run, fd)))
            else:
                events.append(Transferred(transfer.op, b"", torn=True))
        if placing:
            self._placing[run] = placing
        else:
            writer.send(Unstage(run))
        return events

    async def _fill(
        self, source: Side, run: int, opened: Opened, files: list[tuple[Transfer, int]]
    ) -> None:
        """Fill the target's staging."""
        writer = self._peers[source.other]
        names = [b"%d" % fd for _, fd in files]
        bases = [transfer.basis for transfer, _ in files]
        holes = set(opened.sparse)
        size = sum(t.entry.size for t, fd in files if not t.basis and fd not in holes)
        staged = await writer.ask(Stage(run, names, bases, size), Staged, run)
        if staged.message:
            raise RsyncError(0, staged.message)
        faults.at("transfer: staged")
        # A whole file, a difference and what has holes are best sent in different ways.
        for delta, sparse in product((False, True), repeat=2):
            some = [fd for t, fd in files if (bool(t.basis), fd in holes) == (delta, sparse)]
            if some:
                await self._rsync.run(
                    source,
                    [f"/proc/{opened.pid}/fd/{fd}" for fd in some],
                    source.other,
                    f"/proc/{staged.pid}/fd/{staged.fd}/{run}/",
                    delta=delta,
                    sparse=sparse,
                    silence_s=self.silence_s,
                    options=self.options,
                )
