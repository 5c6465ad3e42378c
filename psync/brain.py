"""Run a session: events in, commands out, until somebody says stop.

The brain is the thin, asynchronous skin around `core.session`: it keeps an agent running on
each side, hands the session what they say, and carries out what it commands, in order. All
decisions are the session's; all waiting is here.

**Invariants.** Everything runs in one event loop and nothing in it blocks for longer than a
small database commit. The archive is committed only after both agents have made everything
durable that it is going to say. A lost link is never an error of the session: it is tried again
for ever, with growing and jittered pauses; only what trying again cannot mend ends it, with
one line and an exit code. When `run` returns no process and no task of it is left.

It does not parse options, print help or know SSH: see `cli`, `effects.remote`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import time
from collections import deque
from collections.abc import Callable, Coroutine
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import msgspec

import psync
from psync import faults
from psync.config import FIXED, Options
from psync.control import ControlServer
from psync.core.archive import Archive
from psync.core.entry import Kind, Side, printable
from psync.core.events import (
    Command,
    Event,
    FullSync,
    Intend,
    Limits,
    Note,
    Paused,
    Problem,
    Resumed,
    Retry,
    Said,
    Send,
    SideDown,
    SideUp,
    State,
    Transfer,
    Transferred,
)
from psync.core.session import Session
from psync.desk import Desk
from psync.effects.console import Console, counted
from psync.effects.log import Logger
from psync.effects.rsync import Rsync
from psync.effects.store import Intents, Rows, SessionDir, archives_of, set_aside
from psync.effects.transport import Host, LocalHost
from psync.errors import (
    AgentError,
    Exit,
    HostKeyError,
    PsyncError,
    RefusedError,
    StoreError,
    TransportError,
    UnwritableError,
    UsageError,
)
from psync.explain import explain
from psync.overseer import Facts, Overseer
from psync.pace import Pace
from psync.peer import Peer, start_message
from psync.preview import Preview
from psync.schedule import latest
from psync.transfers import Transfers
from psync.wire import (
    APPLIED,
    META,
    RENAME,
    Apply,
    Fatal,
    Flush,
    Flushed,
    Log,
    Message,
    Outcome,
    Ping,
    Pong,
    Ready,
    Results,
    Settings,
    Start,
    Stop,
    Sync,
    Synced,
    Transition,
    Watch,
)

__all__ = ["run"]

_BACKOFF_MIN_S = 0.2
_BACKOFF_MAX_S = 30.0
_PING_MAX_S = 15.0  # an agent that has not been told to start ends after a minute
_STOP_S = 4.0
_RESUME_S = 8.0  # to see whether it halts again; whoever asks waits for 10
_UNDECIDED = (State.STARTING, State.DISCONNECTED, State.SCANNING)
_UNCOMMITTED_MAX = 20_000
_BANNED_S = 5.0
_COMM_MAX = 15  # bytes that the kernel keeps of a program's name
_HOUR_LOOK_S = 30.0  # a clock that is set, or a machine that sleeps, tells nobody
_UNWRITTEN_S = 1.0  # between tries to write down what is to be done
_TRIED_MAX = 8
_TO_ACCEPT = (
    "it has halted, and ends: see what is wrong with that root. What is missing is deleted only "
    "by a session that stays (psync run, psync start) and is told: psync resume --accept-deletes"
)
_WOULD_HALT = "this was a dry run: any other would halt, for the reason that was given"
_PASSING = frozenset(("internal", "protocol", "no-room"))
_ROOT_GONE = frozenset(("no-root", "not-a-directory", "root-lost"))


class _Refusal(PsyncError):
    """What trying again cannot mend."""

    def __init__(self, message: str, exit_code: Exit) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class _HaltedError(PsyncError):
    """Nothing goes on until a person has spoken."""

    def __init__(self, why: str) -> None:
        super().__init__(f"the session has halted: {why}")


class _StaleError(PsyncError):
    """The archive is not of the state that a root is in: it says nothing of what its users did."""


class _Waiting(NamedTuple):
    """Somebody waits until everything observed up to `mark` is on both sides."""

    mark: int
    done: asyncio.Future[list[Problem]]


class Brain:
    """One session's loop; see the module's text."""

    def __init__(
        self,
        options: Options,
        state: SessionDir,
        log: Logger,
        console: Console,
        hosts: list[Host],
        overseer: Overseer,
        reread: Callable[[], Options] | None = None,
    ) -> None:
        self._options = options
        self._overseer = overseer
        self._reread = reread
        self._awaiting_restart: list[str] = []  # keys that are configured to be something else
        self._misconfigured = ""  # what is wrong with the configuration, if it is not taken over
        self._log = log
        self._console = console
        self._state = state
        roots = (options.left, options.right)
        self._peers = [Peer(s, h, r) for s, h, r in zip(Side, hosts, roots, strict=True)]
        self._greeted = asyncio.Event()  # both agents have said who they are
        self._inspected = asyncio.Event()  # both have said how their root is
        self._accepting = asyncio.Event()  # somebody has accepted what a root lacks
        self._rows = Rows(
            state.database,
            durable=options.durability == "strict",
            warn=lambda line: log.warning("archive.broken", message=line),
        )
        self._intents = Intents(state.path)
        self._archive = Archive(self._rows)
        boot = int(self._rows.meta("boot") or "0") + 1
        self._rows.set_meta("boot", str(boot))
        self._stopped_ns = int(self._rows.meta("stopped_ns") or "0")
        self._rows.set_meta("stopped_ns", "0")
        decode = msgspec.msgpack.Decoder(Intend).decode
        self._session = Session(
            self._archive,
            _limits(options),
            first_op=(boot << 32) + 1,
            # Without the archive that they belong to they mean nothing.
            history=[]
            if self._rows.moved_aside
            else [decode(record) for record in self._intents.load()],
            ignored=options.ignored(),
            met=self._rows.meta("met") == "1",
        )
        self._has_met = self._session.met  # and it is written down
        if self._rows.meta("rules") not in (None, _rules(options)):
            self._session.hide(options.ignored())
        if self._archive.is_committed:
            self._rows.set_meta("rules", _rules(options))
        if self._archive.count:
            self._mark_agreed()
        self._held: deque[Command] = deque()  # until the first of them can be written down
        self._held_until = 0.0
        self._is_delayed = False  # a replica has no room to say what state it is in
        self._unwritable = {"intents": "", "archive": ""}  # why, of what cannot be written now
        self._last_number = 0
        self._desk = Desk(self._session, self._peers, self._number, self._pump)
        self._transfers = Transfers(
            self._peers, Rsync(*hosts), options.etimeout, options.rsync_extra,
            self._transferred, self._number,
        )  # fmt: skip
        self._waiting: list[_Waiting] = []
        self._ended: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self._timer: asyncio.Handle | None = None
        self._timer_at: float | None = None
        self._committing = asyncio.Lock()
        self._commit_soon = asyncio.Event()
        self._started = time.time()
        self._last_change: float | None = None
        self._would_halt = False  # if it were no dry run
        self._is_seen_going = False  # by the overseer, since it has begun or halted
        self._full_syncs = 0  # under way
        self._full_synced = time.time()  # when the last began; a start compares everything, too
        self._in_sync_once = False
        self._first: int | None = None  # what the first scans have found is numbered up to here
        self._is_reconciled = False
        self._pace = Pace(asyncio.get_running_loop().time())

    @property
    def options(self) -> Options:
        """What it serves by now."""
        return self._options

    # --- the life of a session -----------------------------------------------------------

    async def run(self) -> Exit:
        """Run until stopped; return the exit code."""
        loop = asyncio.get_running_loop()
        ends = (signal.SIGTERM, signal.SIGINT)
        # Blocked meanwhile: a signal that comes between two handlers may find neither.
        signal.pthread_sigmask(signal.SIG_BLOCK, ends)
        for number in ends:
            loop.add_signal_handler(number, self._stop, number.name)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ends)
        if self._reread is not None:
            loop.add_signal_handler(signal.SIGHUP, self._take_over)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGHUP,))  # blocked since the start
        control = ControlServer(self._state.path, self._control)
        await control.start()
        works: list[Coroutine[Any, Any, None]] = [
            self._ping(), self._commit_often(), self._overseer.watch(self._facts)
        ]  # fmt: skip
        for peer in self._peers:
            works += [self._keep_connected(peer), self._transfers.carry(peer.side)]
        works.append(self._sync_at_hours())
        works.append(self._watch_for_banned())
        if self._options.sync_only or self._options.dry_run:
            works.append(self._end_when_in_sync())
        tasks = [asyncio.create_task(work) for work in works]
        for task in tasks:
            task.add_done_callback(self._task_done)
        try:
            return await self._ended
        finally:
            await self._shut_down(tasks, control)

    def _stop(self, why: str) -> None:
        """End in good order; the log says who wanted it."""
        if not self._ended.done():
            self._log.info("session.stopped", message=f"stopped: {why}")
        self._end(Exit.STOPPED)

    def _end(self, code: Exit) -> None:
        if not self._ended.done():
            self._ended.set_result(code)

    def _fail(self, error: BaseException) -> None:
        if not self._ended.done():
            self._ended.set_exception(error)

    def _task_done(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._fail(error)

    async def _shut_down(self, tasks: list[asyncio.Task[None]], control: ControlServer) -> None:
        """End everything within seconds, whatever hangs."""
        self._overseer.stopping()
        self._console.finish()
        with contextlib.suppress(TimeoutError, PsyncError):
            async with asyncio.timeout(2.0):
                await self._commit()
        for task in tasks:
            task.cancel()
        if self._timer is not None:
            self._timer.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await control.close()
        for peer in self._peers:
            peer.send(Stop())
        await asyncio.gather(*(self._hang_up(peer, _STOP_S) for peer in self._peers))
        with contextlib.suppress(StoreError):
            self._rows.set_meta("stopped_ns", str(time.time_ns()))
        self._intents.close()
        self._rows.close()

    async def _hang_up(self, peer: Peer, grace: float) -> None:
        with contextlib.suppress(TimeoutError, OSError, TransportError):
            async with asyncio.timeout(grace + 1.0):
                await peer.hang_up(grace)

    # --- connections ---------------------------------------------------------------------

    async def _keep_connected(self, peer: Peer) -> None:
        """Keep an agent running on a side, for ever, or until it is away for too long."""
        loop, pause = asyncio.get_running_loop(), _BACKOFF_MIN_S
        away_since = loop.time()
        while True:
            try:
                await self._connect(peer)
                error: PsyncError = await peer.end()
                if peer.serves:
                    pause, away_since = _BACKOFF_MIN_S, loop.time()
            except (TransportError, AgentError, UnwritableError) as failure:
                error = failure
            self._lost(peer, error)
            await self._hang_up(peer, 0.5)
            if most := self._options.maxtimeout:
                left = away_since + most - loop.time()
                if left <= 0:
                    lost = (Exit.LEFT_LOST, Exit.RIGHT_LOST)[peer.side]
                    why = f"{peer.name} is away for more than {most:g} s (maxtimeout): {error}"
                    raise _Refusal(why, lost)
                pause = min(pause, left + _BACKOFF_MIN_S)
            # Full jitter: many sessions that lost one host do not come back all at once.
            await asyncio.sleep(random.uniform(_BACKOFF_MIN_S / 2, pause))
            pause = min(pause * 2, _BACKOFF_MAX_S)

    async def _connect(self, peer: Peer) -> None:
        """Start an agent, agree with it on the root, and let it watch."""
        other = self._peers[peer.side.other]
        await peer.connect(self._on_messages)
        assert peer.hello is not None
        if not peer.hello.rsync:
            raise RefusedError(
                f"rsync is not installed on {peer.host.describe()}: install it there "
                "(Debian: apt-get install rsync)"
            )
        if other.hello is not None:
            self._greeted.set()
        await peer.until(self._greeted)
        owners = all(p.hello is not None and p.hello.euid == 0 for p in self._peers)
        peer.owners = owners
        start = self._start_message(peer, owners)
        within = self._options.itimeout
        peer.ready = await peer.ask(start, Ready, within=within, key="itimeout")
        if other.ready is not None:
            self._inspected.set()
        await peer.until(self._inspected)
        pair = self._check_roots(peer)
        self._check_generation(peer)
        lacking = self._disaster(peer)
        if lacking:
            # Until then it is not touched: a marker would make it ours.
            self._halt(peer, "empty" if peer.ready.empty else "unmarked", lacking)
            peer.trouble = lacking
            self._accepting.clear()
            await peer.until(self._accepting)
        if other.up and other.owners != owners:
            other.lose(TransportError("the other side's user is another now"))
        peer.send(Watch(pair))
        peer.up = True
        if (wanted := self._start_message(peer, owners)) != start:
            peer.send(Settings(wanted))  # another configuration has been taken over meanwhile
        since = f"{peer.hello.boot_id} {peer.ready.mounted}"
        known = self._rows.meta(f"boot_id.{peer.side.name.lower()}") or since
        # Of another boot, or mounting, it may have lost what was not durable.
        rebooted = known != since or self._is_unstored(peer)
        if rebooted and known.startswith(peer.hello.boot_id):
            peer.remounted_ns = peer.hello.clock_ns
        if rebooted:
            self._intents.drop(self._intents.rotate())
        now = asyncio.get_running_loop().time()
        up = SideUp(
            peer.side, rebooted, accepted=bool(lacking), cut_ns=peer.cut_ns(self._stopped_ns)
        )
        self._session.receive(up, now)
        self._rows.set_meta(f"boot_id.{peer.side.name.lower()}", since)
        self._pump()

    def _serve(self, peer: Peer) -> None:
        """Say that a side is there, once it has told of its replica."""
        peer.serves, peer.trouble = True, ""
        self._log.info("side.connected", side=peer.side, host=peer.host.describe())
        if peer.was_up:
            self._log.info(
                "session.reconnected", side=peer.side, message=f"{peer.name}: connected again"
            )
        else:
            peer.was_up = True
            self._begin()

    def _begin(self) -> None:
        """Say what the session does, once it is clear that it can."""
        if not all(peer.was_up for peer in self._peers):
            return
        self._overseer.wake()
        options = self._options
        where = f"{options.host}:" if options.host else ""
        self._log.info(
            "session.started", message=f"replicating {options.left} <-> {where}{options.right}"
        )

    def _is_unstored(self, peer: Peer) -> bool:
        """Tell whether its disk has failed since everything there was read."""
        return self._rows.meta(f"unstored.{peer.side.name.lower()}") == "1"

    def _start_message(self, peer: Peer, owners: bool) -> Start:
        return start_message(
            self._options,
            peer.side,
            self._remembered("session"),
            owners=owners,
            distrust_cache=self._is_unstored(peer),
        )

    def _remembered(self, key: str, fresh: str | None = None) -> str:
        """An id from the state directory, made at its first use."""
        known = self._rows.meta(key)
        if known is None:
            known = fresh or uuid4().hex
            self._rows.set_meta(key, known)
        return known

    def _check_roots(self, peer: Peer) -> str:
        """Make sure that both roots are this pair's; return the pair's id."""
        left, right = self._peers
        assert left.ready and right.ready and left.hello and right.hello and peer.ready
        a, b = left.ready, right.ready
        if (left.hello.boot_id, left.hello.hostname) == (right.hello.boot_id, right.hello.hostname):
            if (a.device, a.inode) == (b.device, b.inode):
                raise UsageError(f"{left.root} and {right.root} are the same directory")
            for inner, outer in ((a, b), (b, a)):
                if inner.root.startswith(outer.root.rstrip(b"/") + b"/"):
                    raise UsageError(
                        f"{printable(inner.root)} is inside {printable(outer.root)}: "
                        "a tree cannot be replicated into itself"
                    )
        known = self._rows.meta("pair")
        pair = known
        if pair is None and a.marker_pair == b.marker_pair:
            # Two new roots; or our state was lost, and the replicas still know each other.
            pair = self._remembered("pair", a.marker_pair)
        for each, ready in ((left, a), (right, b)):
            if ready.marker_pair not in ("", pair):
                raise UsageError(
                    f"{each.root} on {each.host.describe()} belongs to another psync pair: stop "
                    f"that session, or if it is gone for good remove {each.root}/.psync/marker"
                )
            side = each.side.name.lower()
            if ready.marker_side not in ("", side):
                raise UsageError(
                    f"{each.root} on {each.host.describe()} is the {ready.marker_side} root of its "
                    f"pair, not the {side} one: give the roots as before; or, to begin anew, "
                    "remove .psync/marker in both"
                )
        assert pair is not None
        if known is None:
            self._tell_of_namesakes(pair)
        return pair

    def _tell_of_namesakes(self, pair: str) -> None:
        """Say so where another session has the archive of this pair, and we have none."""
        if names := archives_of(pair, self._state):
            self._log.warning(
                "archive.elsewhere",
                message=f"these roots are known to session {' and '.join(names)}, not to "
                f"{self._state.name}: both are united, what was deleted meanwhile comes back; "
                f"stop this and start {names[0]} if that is not meant",
            )

    def _check_generation(self, peer: Peer) -> None:
        """See that a root is in the state in which the archive knows it, or has gone on from there.

        Raises:
            _StaleError: it was set back to an earlier one; or another archive knows of later ones.
        """
        assert peer.ready is not None
        if not peer.ready.marker_pair or not self._archive.count or self._options.dry_run:
            return
        if not self._rows.meta("generation"):
            return  # nothing has been recorded yet: what a root is called is of another's time
        if peer.ready.generation not in self._generations():
            raise _StaleError(
                f"{peer.name}: {peer.root} is not in the state that was agreed last: it was set "
                "back to a snapshot, or replicated with another state directory. Both trees are "
                "compared without the archive: nothing is deleted, and what differs is kept as a "
                "conflict"
            )

    def _generations(self) -> list[str]:
        """What a root may be called: as committed last, or as tried since then."""
        committed = self._rows.meta("generation") or ""
        tried = (self._rows.meta("generation_next") or "").split()
        since = tried.index(committed) + 1 if committed in tried else 0
        return [committed, *tried[since:]]

    def _disaster(self, peer: Peer) -> str:
        """Say what is wrong with a root that is not what it was; empty: nothing."""
        assert peer.ready is not None
        if not self._archive.count or (peer.ready.marker_pair and not peer.ready.empty):
            return ""
        what = "is empty" if peer.ready.empty else "has lost its marker (.psync/marker)"
        return (
            f"{peer.name}: {peer.root} {what}, but {self._archive.count} entries were agreed: is "
            "its file system mounted? When it is back: psync resume. If it is meant to be so: "
            "psync resume --accept-deletes"
        )

    def _lost(self, peer: Peer, error: PsyncError) -> None:
        """Tell people, and the session; raise what trying again cannot mend."""
        if isinstance(error, (RefusedError, HostKeyError)):
            lost = (Exit.LEFT_LOST, Exit.RIGHT_LOST)[peer.side]
            raise _Refusal(str(error), lost if peer.was_up else Exit.FAILED)
        if self._options.sync_only and not peer.was_up:
            raise _Refusal(str(error), Exit.FAILED)
        if str(error) != peer.trouble or peer.serves:
            self._log.warning(
                "side.lost", side=peer.side, message=f"{peer.name}: {error}; trying again"
            )
        peer.trouble = str(error)
        self._overseer.wake()
        self._drop(peer, error)
        self._pump()

    def _drop(self, peer: Peer, error: PsyncError) -> None:
        """Let nothing be decided any more by what a side shows, or said."""
        if isinstance(error, TransportError):
            peer.lose(error)
        peer.up = False
        self._session.receive(SideDown(peer.side), asyncio.get_running_loop().time())
        # The session has given up all transfers, and what this side was asked.
        self._held = deque(
            each
            for each in self._held
            if not (
                isinstance(each, Transfer) or (isinstance(each, Send) and each.side == peer.side)
            )
        )

    async def _ping(self) -> None:
        """Notice a link that carries nothing any more; keep an agent that waits for the other."""
        loop = asyncio.get_running_loop()
        while True:
            timeout = self._options.timeout
            await asyncio.sleep(min(timeout / 4, _PING_MAX_S))
            for peer in self._peers:
                if not peer.connected:
                    continue
                if peer.up and loop.time() - peer.heard > timeout:
                    peer.lose(TransportError(f"no sign of life for {timeout:.0f} s"))
                else:
                    peer.send(Ping(self._number()))

    def _number(self) -> int:
        self._last_number += 1
        return self._last_number

    # --- another configuration -------------------------------------------------------------

    def _take_over(self) -> None:
        """Read the configuration again and serve by it, as far as that goes without a restart."""
        with self._overseer.reloading():
            self._reconfigure()

    def _reconfigure(self) -> None:
        assert self._reread is not None
        alerts = self._overseer.alerts
        try:
            new = self._reread()
        except PsyncError as error:
            self._misconfigured = str(error)
            self._log.warning("session.misconfigured", message=f"{error}: all stays as it was")
            return
        except Exception as error:  # noqa: BLE001  # nobody else would hear of it
            self._fail(error)
            return
        old = self._options
        changed = [key for key in new.__struct_fields__ if getattr(new, key) != getattr(old, key)]
        kept = {key: getattr(old, key) for key in changed if key in FIXED}
        self._awaiting_restart, self._misconfigured = list(kept), ""
        self._options = options = msgspec.structs.replace(new, **kept)
        live = [key for key in changed if key not in kept]
        if live:
            self._serve_by(options, old)
            with contextlib.suppress(StoreError):  # who reads it goes by what was so before
                facts = {**self._state.described(), "options": msgspec.to_builtins(options)}
                self._state.describe(facts)
        taken = live + ["alerts"] * (self._overseer.alerts != alerts)
        told = "; ".join(
            f"{what}: {', '.join(keys)}"
            for what, keys in (("taken over", taken), ("needs a restart", list(kept)))
            if keys
        )
        tell = self._log.warning if kept else self._log.info
        tell("session.configured", message=f"configuration: {told or 'nothing has changed'}")

    def _serve_by(self, options: Options, old: Options) -> None:
        self._transfers.silence_s = options.etimeout
        self._transfers.options = options.rsync_extra
        self._session.take_over(_limits(options))
        if _rules(options) != _rules(old):
            self._session.hide(options.ignored())
            self._commit_soon.set()
        for peer in self._peers:
            peer.host.timeout, peer.host.itimeout = options.timeout, options.itimeout
            if peer.up and peer.owners is not None:
                peer.send(Settings(self._start_message(peer, peer.owners)))
        self._pump()

    # --- messages and commands -------------------------------------------------------------

    def _on_messages(self, peer: Peer, messages: list[Message]) -> None:
        """Take what an agent sent; called by the link, in order."""
        now = peer.heard = asyncio.get_running_loop().time()
        try:
            try:
                for message in messages:
                    self._on_message(peer, message, now)
            except AgentError as error:
                self._log.error("agent.broke_protocol", side=peer.side, message=str(error))
                peer.lose(TransportError(f"dropped: {error}"))
            self._pump()
        except Exception as error:  # noqa: BLE001  # ours, not the link's: it must not go on
            self._fail(error)

    def _on_message(self, peer: Peer, message: Message, now: float) -> None:
        if isinstance(message, Pong) or peer.answered(message):
            return
        if isinstance(message, Fatal):
            self._on_fatal(peer, message)
        elif isinstance(message, Log):
            levels = {20: self._log.info, 10: self._log.debug}
            write = levels.get(message.level, self._log.warning)
            write("agent.said", side=peer.side, text=message.message)
        elif peer.up and peer.connected:
            if isinstance(message, Results):
                faults.at("heard")
                self._transfers.placed(peer.side, message)
            if not peer.serves:
                self._serve(peer)
            self._session.receive(Said(peer.side, message), now)

    def _on_fatal(self, peer: Peer, message: Fatal) -> None:
        """An agent says that it cannot serve."""
        if message.code in _ROOT_GONE and peer.was_up:
            why = f"{peer.name}: {message.message}; when it is back: psync resume"
            self._halt(peer, "gone", why)
        if message.code == "not-durable":
            self._halt(
                peer,
                "disk",
                f"{peer.name}: {message.message}: see to its disk, then psync resume: all that "
                "was not known to be stored is read again",
            )
            # As after a power cut: only what is committed counts, and no cache is believed.
            with contextlib.suppress(UnwritableError):
                self._rows.set_meta(f"unstored.{peer.side.name.lower()}", "1")
        if message.code in _PASSING or peer.was_up:
            peer.lose(TransportError(message.message))
        else:
            peer.lose(RefusedError(f"{peer.name}: {message.message}"))

    def _halt(self, peer: Peer, kind: str, reason: str) -> None:
        if self._options.dry_run:  # which must not touch that root
            self._fail(_Refusal("nothing is planned for a root that is not as it was", Exit.FAILED))
        self._session.halt(peer.side, kind, reason)
        self._pump()

    def _pump(self) -> None:
        """Carry out what the session wants done now."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        if self._unwritable["archive"] or (self._held and now < self._held_until):
            return  # what the agents say is taken in, nothing new is decided
        if not self._held:
            self._held.extend(self._session.commands(now))
        if self._carry_out_held():
            deadline = self._session.deadline()
        else:
            deadline = self._held_until = now + _UNWRITTEN_S
        if self._timer is not None and self._timer_at != deadline:
            self._timer.cancel()
            self._timer = None
        if self._timer is None and deadline is not None:
            # uvloop gives a plain handle, which does not know its time, for what is due.
            self._timer, self._timer_at = loop.call_at(deadline, self._on_timer), deadline
        if self._waiting:
            self._wake()
        session, pace = self._session, self._pace
        if session.met and not self._has_met and not self._options.dry_run:
            self._remember_met()
        pace.note(
            now, session.mark(), session.applied, session.bytes_moved,
            at_rest=not session.pending,
        )  # fmt: skip
        if not self._is_reconciled:
            self._is_reconciled = self._has_reconciled()
        pace.is_in(self._shown_state, time.time())
        if not self._is_seen_going and session.state is State.WATCHING:
            self._is_seen_going = True
            self._overseer.look(self._facts())  # lest it takes another halt for the last one
        if not self._in_sync_once:
            self._report_progress()
        if self._archive.uncommitted > _UNCOMMITTED_MAX:
            self._commit_soon.set()

    def _on_timer(self) -> None:
        self._timer = None
        try:
            self._pump()
        except Exception as error:  # noqa: BLE001  # nobody else would hear of it
            self._fail(error)

    def _remember_met(self) -> None:
        """Both sides have been compared: from now on nothing is taken for equal by its time.

        Not only once something is agreed for good: the next start would trust in times again.
        """
        with contextlib.suppress(UnwritableError):
            self._rows.set_meta("met", "1", durable=True)
            self._has_met = True

    def _carry_out_held(self) -> bool:
        """Carry out commands in order; False: one cannot be written down, and the rest waits."""
        held = self._held
        try:
            while held:
                self._carry_out(held[0])
                held.popleft()
        except UnwritableError as error:
            self._written("intents", str(error))
            return False
        self._written("intents")
        return True

    def _written(self, what: str, trouble: str = "") -> None:
        """Something was written to the state directory, or could not be; tell people once."""
        if trouble and not any(self._unwritable.values()):
            message = f"{trouble}; nothing is replicated until it can be written"
            self._log.warning("state.unwritable", message=message)
        was, self._unwritable[what] = self._unwritable[what], trouble
        if was and not any(self._unwritable.values()):
            self._log.info("state.writable", message="the state directory can be written again")

    def _carry_out(self, command: Command) -> None:
        if self._options.dry_run and self._pretend(command):
            return
        if isinstance(command, Send):
            self._peers[command.side].send(command.message)
            if isinstance(command.message, Apply):
                faults.at("sent")
        elif isinstance(command, Note):
            self._note(command)
        elif isinstance(command, Intend):
            faults.at("intending")
            self._intents.append([_encode(command)])
            faults.at("intended")
        else:
            assert isinstance(command, Transfer)
            self._transfers.add(command)

    def _pretend(self, command: Command) -> bool:
        """Say what would be done and go on as if it were; False: there is nothing to it."""
        if isinstance(command, Transfer):
            pretended: Event = Transferred(command.op, b"dry-run/0")
        elif isinstance(command, Send) and isinstance(command.message, Apply):
            outcomes = []
            for each in command.message.transitions:
                self._console.say(f"would {_in_words(each)} on the {command.side.name.lower()}")
                made = each.wanted._replace(ino=each.op, ctime_ns=each.op) if each.wanted else None
                outcomes.append(Outcome(each.op, APPLIED, made))
            pretended = Said(command.side, Results(command.message.batch, outcomes))
        else:
            return isinstance(command, Intend)
        asyncio.get_running_loop().call_soon(self._go_on, pretended)
        return True

    def _go_on(self, event: Event) -> None:
        try:
            self._session.receive(event, asyncio.get_running_loop().time())
            self._pump()
        except Exception as error:  # noqa: BLE001  # nobody else would hear of it
            self._fail(error)

    def _transferred(self, events: list[Transferred]) -> set[int]:
        """Tell the session what became of transfers; return the operations that go on."""
        now = asyncio.get_running_loop().time()
        for event in events:
            self._session.receive(event, now)
        going_on = {event.op for event in events if self._session.is_under_way(event.op)}
        self._pump()
        return going_on

    def _note(self, note: Note) -> None:
        if note.event == "transition.applied":
            event = "transition.planned" if self._options.dry_run else note.event
            more = {"moved_from": note.moved_from} if note.moved_from else {}
            self._log.info(event, side=note.side, path=note.path, what=note.text, **more)
            if event == note.event:
                self._last_change = time.time()
                assert note.side is not None
                self._pace.changed(self._last_change, note.side, note.path, note.text)
            return
        where = f" on the {note.side.name.lower()}" if note.side is not None else ""
        path = f"{printable(note.path)}: " if note.path else ""
        message = {
            "conflict.kept": f"conflict{where}: {path}the version that lost is kept as "
            f".psync/conflicts/{note.text}",
            "conflict.beside": f"conflict{where}: {path}{note.text}",
            "session.halted": f"HALTED: {note.text}",
        }.get(note.event, f"{note.event.replace('.', ' ')}{where}: {path}{note.text}")
        self._log.warning(note.event, side=note.side, path=note.path, message=message)
        if note.event.startswith("conflict."):
            self._overseer.conflict(message)
        elif note.event == "session.halted":
            self._is_seen_going = False
            self._overseer.wake()
            if self._options.dry_run:  # nothing is lost by going on, and people see what it is
                self._would_halt = True
                asyncio.get_running_loop().call_soon(self._go_on, Resumed(accept=True))

    @property
    def _shown_state(self) -> State:
        """What people are told that the session is doing; they may rely on what it watches."""
        state = self._session.state
        return State.SCANNING if state is State.WATCHING and not self._is_reconciled else state

    def _has_reconciled(self) -> bool:
        """Tell whether all that the first scans have found is on both sides, or cannot be."""
        session = self._session
        if not session.is_told:
            self._first = None
            return False
        if self._first is None:
            self._first = session.mark()
        return session.settled(self._first) or bool(session.stuck(self._first))

    def _report_progress(self) -> None:
        """Show how far the first synchronization is; say so when it is over."""
        session = self._session
        if session.state not in (State.SCANNING, State.WATCHING) or self._ended.done():
            return
        done = sum(session.applied)
        self._console.progress(done, sum(session.bytes_moved), done + session.pending)
        if session.state is State.WATCHING and not session.pending:
            self._in_sync_once = True
            if not self._options.dry_run:
                self._mark_agreed()  # if only that there is nothing on either side
            self._console.finish()
            kept = len(session.conflicts())
            changes = counted(done, "change")
            took = f"{changes} in {time.time() - self._started:.1f} s"
            count = self._archive.count
            entries = "entry" if count == 1 else "entries"
            self._log.info(
                "session.watching",
                message=f"dry run: {changes} would be made"
                if self._options.dry_run
                else f"watching: both sides agree on {count:,} {entries} ({took})"
                + (f"; versions that lost a conflict: {kept:,} (psync conflicts)" if kept else ""),
            )

    # --- durability ------------------------------------------------------------------------

    async def _commit_often(self) -> None:
        """Let the archive follow what both replicas have made durable."""
        while True:
            interval = self._options.sync_interval
            if self._unwritable["archive"]:
                interval = min(interval, _UNWRITTEN_S)
                self._commit_soon.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(interval):
                    await self._commit_soon.wait()
            self._commit_soon.clear()
            try:
                await self._commit()
            except TransportError as error:
                self._log.debug("archive.delayed", reason=str(error))
            except UnwritableError as error:
                self._written("archive", str(error))
            else:
                if self._unwritable["archive"]:
                    self._written("archive")
                    self._pump()

    async def _commit(self) -> None:
        """Commit what is agreed, once it would survive a power cut on both sides.

        Raises:
            TransportError: a side went away; nothing is committed.
            UnwritableError: it cannot be written down now; nothing is lost.
        """
        if self._options.dry_run or not all(peer.up for peer in self._peers):
            return
        async with self._committing:
            if self._archive.freeze():
                try:
                    await self._commit_frozen()
                finally:
                    self._archive.thaw()
            self._archive.remember_digests()

    def _mark_agreed(self) -> None:
        with contextlib.suppress(StoreError):  # who looks from outside asks for it; we do not
            self._state.mark_agreed()

    async def _commit_frozen(self) -> None:
        generation = self._intents.rotate()
        faults.at("commit: rotated")
        flying = self._session.in_flight()
        if flying.intents:
            self._intents.append([_encode(flying)])
        number, name = self._number(), uuid4().hex
        # Before any root says so: who is stopped in between has seen one or the other.
        tried = [*self._generations()[1:], name]
        self._rows.set_meta("generation_next", " ".join(tried[-_TRIED_MAX:]), durable=True)
        faults.at("commit: named")
        answers = await asyncio.gather(
            *(peer.ask(Sync(number, name), Synced, number) for peer in self._peers)
        )
        if not all(answer.ok for answer in answers):
            if not self._is_delayed:
                self._log.warning(
                    "archive.delayed",
                    message="a replica has no room left in .psync: what is agreed from now on is "
                    "compared again after a restart",
                )
            self._is_delayed = True
            return
        self._is_delayed = False
        faults.at("commit: synced")
        self._archive.commit()
        faults.at("commit: written")
        self._rows.set_meta("generation", name)
        faults.at("commit: told")
        self._mark_agreed()
        if self._rows.meta("rules") != _rules(self._options):
            self._rows.set_meta("rules", _rules(self._options))
        for peer in self._peers:
            if self._is_unstored(peer):
                self._rows.set_meta(f"unstored.{peer.side.name.lower()}", "")
        self._intents.drop(generation)

    # --- what people ask ---------------------------------------------------------------------

    async def _control(self, verb: str, args: dict[str, Any]) -> Any:
        """Answer a request that came over the control socket."""
        if verb == "status":
            return self.status()
        if verb == "stop":
            asyncio.get_running_loop().call_soon(self._stop, "psync stop")
        elif verb == "flush":
            await self._flush_within(args.get("timeout"))
        elif verb == "beat":
            return await self._beat(float(args.get("within") or 60.0))
        elif verb == "pause":
            self._tell(Paused())
        elif verb == "resume":
            await self._resume(accept=bool(args.get("accept_deletes")))
        elif verb == "sync":
            if args.get("dry_run"):
                return await self._preview()
            return await self._sync_on_demand()
        elif verb in ("conflicts", "trash"):
            return await self._desk.answer(args, trash=verb == "trash")
        elif verb == "explain":
            settled = await self._settles_within(args.get("timeout"))
            return explain(self._session, self._archive, args, settled=settled)
        else:
            raise PsyncError(f"this session does not know {verb!a}")
        return None

    # --- full syncs ------------------------------------------------------------------------

    async def _sync_on_demand(self) -> dict[str, int]:
        """Compare all of both sides now; return how many changes were made meanwhile.

        Raises:
            PsyncError: not everything can be made the same, or nothing goes on.
        """
        self._check_going()
        if self._session.state is State.PAUSED:
            raise PsyncError("the session is paused: psync resume")
        before = sum(self._session.applied)
        stuck = await self._full_sync("somebody asks for it")
        if stuck:
            raise PsyncError(_told(stuck))
        return {"changes": sum(self._session.applied) - before}

    async def _preview(self) -> dict[str, Any]:
        """Say what a full sync would do, and do nothing.

        Raises:
            PsyncError: a side is away, or too much differs.
        """
        preview = Preview(self._session, self._archive, self._peers, self._number)
        lines, changes = await preview.lines()
        return {"plan": lines, "changes": changes}

    async def _full_sync(self, why: str) -> list[Problem]:
        """Have both sides scanned and compared while everything else goes on.

        Returns:
            What cannot be made the same, however long one waits.
        """
        self._log.info("sync.began", message=f"full sync: {why}")
        began, before = time.time(), sum(self._session.applied)
        self._full_syncs += 1
        try:
            self._tell(FullSync())
            stuck = await self.flush()
            while self._session.is_comparing_all:  # an agent had to finish another scan before
                stuck = await self.flush()
        finally:
            self._full_syncs -= 1
        self._full_synced = max(self._full_synced, began)
        changes, took = sum(self._session.applied) - before, time.time() - began
        self._log.info(
            "sync.done", message=f"full sync: done, {counted(changes, 'change')} in {took:.1f} s"
        )
        return stuck

    async def _sync_at_hours(self) -> None:
        """Compare everything at the hours that the user wants it at."""
        while True:
            due = latest(self._options.fullsync, datetime.now())  # noqa: DTZ005  # on the wall
            if due is not None and due.timestamp() > self._full_synced and not self._session.halted:
                with contextlib.suppress(_HaltedError):  # it is tried again after that
                    await self._full_sync(f"it is past {due:%H:%M}")
            await asyncio.sleep(_until_hour() if self._options.fullsync else _HOUR_LOOK_S)

    def _tell(self, event: Paused | Resumed | Retry | FullSync) -> None:
        self._session.receive(event, asyncio.get_running_loop().time())
        self._pump()

    async def _resume(self, *, accept: bool) -> None:
        """Go on after a pause, or after a halt whose cause is gone or accepted.

        Raises:
            PsyncError: the cause is still there.
        """
        session = self._session
        had_halted = bool(session.halted)
        if had_halted and not accept:
            # Both roots are looked at from the beginning; what is still wrong halts again.
            for peer in self._peers:
                if peer.connected:
                    self._drop(peer, TransportError("looked at anew, for psync resume"))
        else:
            self._accepting.set()
        self._tell(Resumed(accept=True))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_RESUME_S):
                while had_halted and session.state in _UNDECIDED:  # noqa: ASYNC110  # no event
                    await asyncio.sleep(0.05)
        if session.halted:
            raise _HaltedError(session.halted)

    def status(self) -> dict[str, Any]:
        """Say how things stand, as `psync status --json` prints it."""
        session, pace = self._session, self._pace
        now = asyncio.get_running_loop().time()
        applied, moved = session.applied, session.bytes_moved
        pace.is_in(self._shown_state, time.time())
        rates = [pace.rates(side, now, applied, moved) for side in Side]
        sides = {
            peer.side.name.lower(): {
                "host": peer.host.describe(),
                "root": peer.root,
                "connected": peer.up,
                "entries": session.entries(peer.side),
                "local": session.local(peer.side),
                "applied": applied[peer.side],
                "bytes": moved[peer.side],
                "changes_per_s": round(rates[peer.side][0], 2),
                "bytes_per_s": round(rates[peer.side][1]),
                "trouble": peer.trouble or self._waited_for(peer),
                "waits": not peer.trouble and bool(self._waited_for(peer)),
            }
            for peer in self._peers
        }
        problems = [(p.side, p.path, p.message) for p in session.problems()]
        problems += [(side, path, message) for side, _, path, message in session.troubles()]
        return {
            "name": self._options.name,
            "pid": os.getpid(),
            "version": psync.__version__,
            **session.status(),
            "state": self._shown_state.name.lower(),
            **sides,
            "trouble": next((why for why in self._unwritable.values() if why), ""),
            "alerts": self._overseer.tells,
            "started": self._started,
            "ready": self._is_ready,
            "state_since": pace.state_since,
            "lag_s": round(pace.lag(session.oldest(), now), 3),
            "last_change": self._last_change,
            "changes": pace.last_changes(),
            "awaiting_restart": self._awaiting_restart,
            "misconfigured": self._misconfigured,
            "full_sync": self._full_syncs > 0,
            "full_synced": self._full_synced,
            "conflict_list": [printable(path) for path, _, _ in session.asked()[:100]],
            "problem_list": [
                {"side": side.name.lower(), "path": printable(path), "message": message}
                for side, path, message in problems[:100]
            ],
        }

    def _waited_for(self, peer: Peer) -> str:
        """Say that a side with an agent is not up because the other one has none; else nothing."""
        other = self._peers[peer.side.other]
        if peer.up or not peer.connected or other.connected:
            return ""
        return f"it waits for the {other.side.name.lower()}"

    def _facts(self) -> Facts:
        """Say how things stand, to who looks after the session."""
        session, now = self._session, asyncio.get_running_loop().time()
        told = session.status()
        counts = [f"{told[key]:,} {key}" for key in ("pending", "conflicts", "problems")]
        troubles = [("state", why) for why in self._unwritable.values() if why]
        if not session.halted:  # which explains why a side is away
            troubles += [
                (f"away {p.side}", f"{p.name} is not connected: {p.trouble}")
                for p in self._peers
                if not p.up and p.trouble
            ]
        found = [(p.side, p.path, p.message) for p in session.problems()]
        found += [(side, path, message) for side, _, path, message in session.troubles()]
        troubles += [
            (f"{side} {printable(path)}", f"{side.name.lower()} {printable(path)}: {message}")
            for side, path, message in found
        ]
        return Facts(
            state=told["state"],
            told=f"{told['state']}: {', '.join(counts)}",
            halted=session.halted,
            halts=session.halts,
            troubles=troubles,
            alive=all(not p.up or now - p.heard <= 2 * self._options.timeout for p in self._peers),
            ready=self._is_ready,
        )

    @property
    def _is_ready(self) -> bool:
        """Whether both sides have been connected, or it is known why one is not, and is tried."""
        return all(p.was_up for p in self._peers) or any(p.trouble for p in self._peers)

    async def _beat(self, within: float) -> dict[str, float | None]:
        """Prove that what happens on either side comes here, and say how far behind we are.

        Each agent writes a file to its replica's disk and waits until the kernel, cinotify and
        its filter have told it of that file, and of all that was before it; then what it has told
        us of has to be on the other side.

        Args:
            within: seconds for all of it.

        Returns:
            `heartbeat_s` and `lag_s`, in seconds; None: it took longer.
        """
        loop = asyncio.get_running_loop()
        began, number = loop.time(), self._number()
        beaten: float | None = None
        try:
            async with asyncio.timeout(within):
                await self._hear_all(number)
                beaten = loop.time() - began
                await self._until_settled(self._session.mark())
        except (TimeoutError, TransportError, _HaltedError):
            return {"heartbeat_s": beaten, "lag_s": None}
        return {"heartbeat_s": beaten, "lag_s": loop.time() - began}

    def _check_going(self) -> None:
        if self._session.halted:
            raise _HaltedError(self._session.halted)

    async def _flush_within(self, seconds: float | None) -> None:
        self._check_going()
        try:
            async with asyncio.timeout(seconds):
                stuck = await self.flush()
        except TimeoutError:
            why = "".join(f": {each}" for each in self._unwritable.values() if each)
            if some := self._session.on_the_way(3):
                why += f"; on their way: {', '.join(map(printable, some))}"
            raise PsyncError(f"not everything is on both sides after {seconds} s{why}") from None
        if stuck:
            raise PsyncError(_told(stuck))

    async def _settles_within(self, seconds: float | None) -> bool:
        """Bring over what can be, within so many seconds; tell whether nothing else is left."""
        if not seconds or self._session.state not in (State.SCANNING, State.WATCHING):
            return False
        try:
            async with asyncio.timeout(seconds):
                await self.flush()
        except (TimeoutError, _HaltedError):
            return False
        return True

    async def flush(self) -> list[Problem]:
        """Return once everything that has happened on either side is on both.

        Returns:
            What cannot be, however long one waits.

        Raises:
            _HaltedError: nothing goes on, in a session that is more than a dry run.
        """
        unseen: set[tuple[Side, bytes]] | None = None
        while True:
            if unseen is None:
                self._tell(Retry())
            await self._until_settled(-1)
            try:
                await self._hear_all(self._number())
            except TransportError:
                await asyncio.sleep(0.02)  # what the lost link carried comes again
                continue
            await self._until_settled(-1)  # what was said before may not be taken in yet
            stuck = await self._until_settled(self._session.mark())
            found = self._session.unseen()
            now = {(p.side, p.path) for p in found}
            if not now or (unseen is not None and unseen <= now):
                return list({p.path: p for p in [*found, *stuck]}.values())
            unseen = now  # what has just been brought over may have made it readable

    async def _hear_all(self, number: int) -> None:
        """Wait until both agents have told us of all that was before this question.

        Raises:
            TransportError: a side is away, or does not watch yet.
        """
        for peer in self._peers:
            peer.check_watches()
        await asyncio.gather(*(peer.ask(Flush(number), Flushed, number) for peer in self._peers))

    async def _until_settled(self, mark: int) -> list[Problem]:
        """Wait until everything observed up to `mark` is on both sides (and both are watched).

        Or until only problems are left that do not pass: these are returned.

        Raises:
            _HaltedError: see `flush`.
        """
        waiting = _Waiting(mark, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        try:
            self._wake()
            return await waiting.done
        finally:
            self._waiting.remove(waiting)

    def _wake(self) -> None:
        for waiting in self._waiting:
            if waiting.done.done():
                continue
            if self._session.halted and not self._options.dry_run:
                waiting.done.set_exception(_HaltedError(self._session.halted))
                continue
            stuck = self._session.stuck(waiting.mark)
            if stuck or self._session.settled(waiting.mark):
                waiting.done.set_result(stuck)

    async def _end_when_in_sync(self) -> None:
        try:
            stuck = await self.flush()
        except _HaltedError:  # the reason has been told
            raise _Refusal(_TO_ACCEPT, Exit.FAILED) from None
        await self._commit()
        if stuck:
            self._fail(_Refusal(_told(stuck), Exit.FAILED))
        if self._would_halt:
            self._fail(_Refusal(_WOULD_HALT, Exit.FAILED))
        self._stop("done")

    async def _watch_for_banned(self) -> None:
        """End when a program runs that must not run beside us."""
        while True:
            banned = self._options.banned
            name = await asyncio.to_thread(_running, banned) if banned else ""
            if name:
                self._log.warning("session.banned", message=f"{name} is running: the session ends")
                self._end(Exit.BANNED)
                return
            await asyncio.sleep(_BANNED_S)


def _in_words(transition: Transition) -> str:
    """Say what a transition does, to whom reads a plan."""
    path = printable(transition.path)
    if transition.verb == RENAME:
        return f"rename {printable(transition.source)} to {path}"
    if transition.verb == META:
        return f"set mode, owner and time of {path}"
    if transition.wanted is None:
        return f"remove {path}"
    kind = Kind(transition.wanted.kind).name.lower()
    if transition.keep:
        return f"replace {path} with the other side's {kind} and keep it as a conflict"
    return f"{'replace' if transition.expected else 'create'} {kind} {path}"


def _until_hour() -> float:
    """Seconds until the next hour begins, or until it is worth a look at the clock."""
    now = datetime.now()  # noqa: DTZ005  # on the wall
    return min(_HOUR_LOOK_S, 3600.0 - now.minute * 60 - now.second - now.microsecond / 1e6 + 0.001)


_encode = msgspec.msgpack.Encoder().encode


def _told(problems: list[Problem]) -> str:
    """Say in a line what could not be replicated, and why."""
    some = [f"{printable(each.path) or 'all'}: {each.message}" for each in problems[:3]]
    count = f"{len(problems)} path{'s' * (len(problems) > 1)} could not be replicated"
    return f"{count}: {'; '.join(some)}; see psync status"


def _running(banned: str) -> str:
    """The name of a running program that contains `banned`; empty: there is none."""
    wanted = os.fsencode(banned)
    for process in map(Path("/proc").joinpath, filter(str.isdigit, os.listdir("/proc"))):
        with contextlib.suppress(OSError):
            comm = (process / "comm").read_bytes().removesuffix(b"\n")
            whole = _whole_name(process, comm)
            if (wanted if whole else wanted[:_COMM_MAX]) in (whole or comm):
                return printable(whole or comm)
    return ""


def _whole_name(process: Path, comm: bytes) -> bytes:
    """The name of a program of which the kernel's `comm` is the beginning; empty: not known.

    It is its file's, or a script's beside its interpreter: no other word of its command line.
    """
    if len(comm) < _COMM_MAX:
        return comm
    files = (process / "cmdline").read_bytes().split(b"\0")[:3]
    with contextlib.suppress(OSError):  # of another user
        files.insert(0, os.fsencode(os.readlink(process / "exe")))
    names = map(os.path.basename, files)
    return next((name for name in names if name.startswith(comm)), b"")


def _rules(options: Options) -> str:
    """What is not replicated, as a text to compare."""
    return json.dumps([options.all_excludes(), options.tempfiles])


def _share(text: str) -> float | int:
    return float(text[:-1]) / 100 if text.endswith("%") else int(text)


def _limits(options: Options) -> Limits:
    return Limits(
        inline_max=options.inline_max,
        max_delete=_share(options.max_delete),
        max_rewrite=_share(options.max_rewrite) if options.max_rewrite else None,
        compare=not options.skip_initial_sync,
        favoured=Side.__members__.get(options.conflict.upper()),
        ask=options.conflict == "ask",
        meta_from=None if options.meta_from == "both" else Side[options.meta_from.upper()],
        force=options.force > 0,
    )


async def run(
    options: Options,
    state: SessionDir,
    log: Logger,
    console: Console,
    overseer: Overseer,
    reread: Callable[[], Options] | None = None,
) -> Exit:
    """Run a session until it is stopped, and return its exit code.

    Args:
        options: checked by `config`.
        state: locked by this process.
        log: the session's.
        console: the terminal.
        overseer: who is told how it goes.
        reread: gives what is configured now, on SIGHUP; None: nothing is.

    Raises:
        PsyncError: it cannot start, or cannot go on; the message is for the user.
    """
    if options.banned and (name := _running(options.banned)):
        log.warning("session.banned", message=f"{name} is running: nothing is begun")
        return Exit.BANNED
    right: Host = LocalHost(options.itimeout)
    if options.host is not None:
        from psync.effects.remote import SshHost  # a third of the time that a start takes

        right = SshHost(options.host, options.ssh_options, options.timeout, options.itimeout)
    while True:
        hosts = [LocalHost(options.itimeout), right]
        brain = Brain(options, state, log, console, hosts, overseer, reread)
        try:
            return await brain.run()
        except _StaleError as stale:
            options = brain.options
            aside = set_aside(state.database, "stale")
            intents = Intents(state.path)
            intents.drop(intents.rotate())
            intents.close()
            log.warning("archive.stale", message=f"{stale} (it is {aside.name} now)")
