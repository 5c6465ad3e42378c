"""Two replicas, their users, agents, links and the brain, in virtual time, from one seed.

Everything that can happen in one order or another happens in an order that the seed
draws: messages are under way for a while, agents do one small step at a time, users act
between any two of them. Links break, which the brain may hear of late, agents and the brain are
killed, the power fails.

**Invariants.** No clock, no thread, no order of a set or a hash: the same seed gives the
same trace, which `World.trace` digests. The driver here does what `psync/brain.py` does.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from enum import Enum
from hashlib import blake2b
from typing import Any

from psync.core.archive import Archive
from psync.core.entry import LOCAL_SUFFIX, ROOT, Entry, Kind, Side, below_or_at, parent
from psync.core.events import (
    FullSync,
    Intend,
    Limits,
    Note,
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
from psync.core.ignore import Ignore
from psync.core.session import Session
from psync.wire import (
    RENAME,
    Apply,
    Closed,
    CloseSource,
    Flush,
    Flushed,
    Framer,
    Message,
    Opened,
    OpenSource,
    Rescan,
    Results,
    Settings,
    Stage,
    Staged,
    Start,
    Sync,
    Synced,
    Unstage,
    encode,
)
from tests.simulation.agent import Agent, Options
from tests.simulation.disk import Disk
from tests.simulation.users import Users
from tests.support.rows import MemoryRows

__all__ = ["World", "run"]

MESSAGES_MAX = 20_000
_RULES = [[], [], ["a"], ["b/"], ["/c"], ["a", "/b/c"], ["/a/*", "!/a/b"], ["c/", "b~"]]


class Violation(AssertionError):
    """The world is not as it should be."""


class Brain:
    """One run of the brain: the session and the part of `psync/brain.py` that matters here."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.archive = Archive(world.rows)
        world.boots += 1
        self.session = Session(
            self.archive,
            world.limits,
            first_op=(world.boots << 32) + 1,
            history=[record for _, record in world.log],
            ignored=Ignore(world.rules),
            met=world.met,
        )
        if world.known_rules != world.rules:
            self.session.hide(Ignore(world.rules))
        if self.archive.is_committed:
            world.known_rules = world.rules
        self.alive = True
        self.up = [False, False]
        self._number = 0
        self._runs: dict[int, tuple[Transfer, int]] = {}
        self._staged: dict[int, tuple[Side, int]] = {}
        self._syncing: tuple[int, int, dict[Side, bool]] | None = None
        self.flushed: dict[int, set[Side]] = {}
        self.timer: float | None = None

    # --- events ---

    def side_up(self, side: Side) -> None:
        self.up[side] = True
        rebooted = self.world.known_boots[side] != self.world.host_boots[side]
        if rebooted:
            self.world.log.clear()
            self.world.known_boots[side] = self.world.host_boots[side]
        up = SideUp(side, rebooted, cut_ns=self.world.cut_ns[side])
        self.session.receive(up, self.world.now)
        self.pump()

    def side_down(self, side: Side) -> None:
        self.up[side] = False
        self.session.receive(SideDown(side), self.world.now)
        if self._syncing is not None:
            self.archive.thaw()
            self._syncing = None
        for run, (transfer, _) in list(self._runs.items()):
            del self._runs[run]
            for each in Side:
                if each != side:
                    message = CloseSource(run) if each == transfer.source else Unstage(run)
                    self.world.send(each, message)
            self.session.receive(
                Transferred(transfer.op, b"", message="the link broke"), self.world.now
            )
        self.flushed.clear()
        self.pump()

    def receive(self, side: Side, message: Message) -> None:
        kind = type(message)
        if kind is Opened:
            self._opened(side, message)
        elif kind is Staged:
            self._on_staged(message)
        elif kind is Closed:
            self._closed(message)
        elif kind is Synced:
            self._synced(side, message)
        elif kind is Flushed:
            if message.token in self.flushed:
                self.flushed[message.token].add(side)
        else:
            if kind is Results:
                for outcome in message.outcomes:
                    staged = self._staged.pop(outcome.op, None)
                    if staged is not None:
                        self.world.send(staged[0], Unstage(staged[1]))
            self.session.receive(Said(side, message), self.world.now)
        self.pump()

    def pump(self) -> None:
        if not self.alive:
            return
        for command in self.session.commands(self.world.now):
            self.world.note("  brain", command)
            if isinstance(command, Send):
                self.world.send(command.side, command.message)
            elif isinstance(command, Intend):
                self.world.log.append((self.world.generation, command))
            elif isinstance(command, Transfer):
                self._transfer(command)
            else:
                assert isinstance(command, Note)
                if command.event == "session.halted":
                    self.world.later(self.world.delay() * 10, self._accept)
        self.world.met = self.session.met
        deadline = self.session.deadline()
        if deadline is not None and deadline != self.timer:
            self.timer = deadline
            self.world.later(max(deadline - self.world.now, 0), self._on_timer)

    def _on_timer(self) -> None:
        if self.alive and self.timer is not None and self.timer <= self.world.now:
            self.timer = None
            self.pump()

    def _accept(self) -> None:
        if self.alive and self.session.halted:
            self.session.receive(Resumed(accept=True), self.world.now)
            self.pump()

    # --- large files ---

    def _transfer(self, transfer: Transfer) -> None:
        self._number += 1
        self._runs[self._number] = (transfer, -1)
        self.world.send(
            transfer.source, OpenSource(self._number, [(transfer.path, transfer.entry)])
        )

    def _opened(self, side: Side, message: Opened) -> None:
        if message.run not in self._runs:
            return
        transfer, _ = self._runs[message.run]
        number = message.files[0]
        if number < 0:
            del self._runs[message.run]
            self.session.receive(Transferred(transfer.op, b"", torn=True), self.world.now)
            self.world.send(side, CloseSource(message.run))
            return
        self._runs[message.run] = (transfer, number)
        bases = [transfer.basis]
        self.world.send(side.other, Stage(message.run, [b"%d" % number], bases))

    def _on_staged(self, message: Staged) -> None:
        self.world.later(self.world.delay(), lambda: self._copy(message.run))

    def _copy(self, run: int) -> None:
        """What rsync does: it reads what is there now, and may fail."""
        if run not in self._runs or not self.alive:
            return
        transfer, number = self._runs[run]
        source, target = (self.world.agents[s] for s in (transfer.source, transfer.source.other))
        if source is None or target is None or self.world.rng.random() < 0.05:
            del self._runs[run]
            self.world.send(transfer.source, CloseSource(run))
            self.world.send(transfer.source.other, Unstage(run))
            self.session.receive(
                Transferred(transfer.op, b"", message="rsync failed"), self.world.now
            )
            self.pump()
            return
        target.staging[b"%d/%d" % (run, number)] = source.source(run, number)
        self.world.send(transfer.source, CloseSource(run))

    def _closed(self, message: Closed) -> None:
        if message.run not in self._runs:
            return
        transfer, number = self._runs.pop(message.run)
        if message.intact[0]:
            staged = b"%d/%d" % (message.run, number)
            self._staged[transfer.op] = (transfer.source.other, message.run)
            self.session.receive(Transferred(transfer.op, staged), self.world.now)
        else:
            self.world.send(transfer.source.other, Unstage(message.run))
            self.session.receive(Transferred(transfer.op, b"", torn=True), self.world.now)

    # --- durability ---

    def make_durable(self) -> None:
        if self._syncing is not None or not all(self.up) or not self.archive.freeze():
            return
        world = self.world
        generation = world.generation
        world.generation += 1
        world.log.append((world.generation, self.session.in_flight()))
        self._number += 1
        self._syncing = (self._number, generation, {})
        for side in Side:
            world.send(side, Sync(self._number))

    def _synced(self, side: Side, message: Synced) -> None:
        if self._syncing is None or message.token != self._syncing[0]:
            return
        answers = self._syncing[2]
        answers[side] = message.ok
        if len(answers) < 2:
            return
        generation = self._syncing[1]
        self._syncing = None
        if not all(answers.values()):
            self.archive.thaw()
            return
        self.archive.commit()
        self.world.known_rules = self.world.rules
        self.world.log = [(g, record) for g, record in self.world.log if g > generation]
        self.archive.remember_digests()


class World:
    """See the module's text."""

    def __init__(self, seed: int, *, faults: bool = True, keep_trace: bool = False) -> None:
        self.rng = random.Random(seed)
        self.now = 1.0
        self._serial = 0
        self._ticks = 1_700_000_000 * 10**9
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._digest = blake2b()
        self.lines: list[str] | None = [] if keep_trace else None
        rng, policy = self.rng, random.Random(f"policy {seed}")
        self.options = Options(rng)
        reuse, queue_max = rng.random() < 0.5, rng.choice((6, 40, 10_000))
        self.disks = [Disk(self._tick, reuse_inodes=reuse, queue_max=queue_max) for _ in Side]
        chance = random.Random(f"{seed} file systems")  # of its own: other worlds stay as they are
        if chance.random() < 0.3:
            poor = chance.choice(self.disks)
            poor.grain = chance.choice((1, 10**6, 10**9, 10**11))
            poor.has_modes, poor.has_owners = chance.random() < 0.5, chance.random() < 0.5
            poor.has_attributes = chance.random() < 0.5
        self.users = Users(self.disks, rng, self._tick, self.later)
        self.limits = Limits(
            inline_max=self.options.inline_max,
            views_max=rng.choice((4, 1000, 1000, 1000)),
            contents_max=rng.choice((10, 1000, 1000)),
            max_delete=rng.choice((1.0, 0.5, 0.2, 3)),
            max_delete_min=4,
            favoured=policy.choice((None, None, *Side)),
            ask=policy.random() < 0.3,
            meta_from=chance.choice((None, None, None, *Side)),
        )
        self.options.keep_both = policy.random() < 0.3
        self._slow = rng.choice((0.001, 0.02, 0.3))
        self._pace = rng.choice((0.005, 0.08, 0.5))
        self._faults = [
            f for f in ("cut", "kill brain", "power", "sync", "rescan", "flush", "retry")
            if faults and rng.random() < 0.5
        ]  # fmt: skip
        self._when = random.Random(f"{seed} full syncs")  # of its own, likewise
        self._full_syncs = self._when.choice((0.0, 0.0, 0.05, 0.3))
        self._reloads = random.Random(f"{seed} rules")
        self._rule_changes = self._reloads.choice((0.0, 0.0, 0.05, 0.2))
        self._reloaded = False
        self._links = random.Random(f"{seed} links")
        self._lateness = self._links.choice((0.0, 0.0, 0.05, 0.5))  # seconds, at most
        self.rules: list[str] = []
        self.known_rules: list[str] = []  # by which the archive was committed last
        self.rows = MemoryRows()
        self.log: list[tuple[int, Intend]] = []
        self.generation = 0
        self.boots = 0
        self.met = False
        self.host_boots, self.known_boots = [0, 0], [0, 0]
        self.cut_ns = [0, 0]
        self.agents: list[Agent | None] = [None, None]
        self._agent_numbers = 0
        self._epochs = [0, 0]
        self._idle = 0.05  # how often an agent that has nothing to do is asked
        self._last: dict[tuple[int, str], float] = {}
        self.sent = 0
        self.applied = self.renames = 0
        self._flushing = False
        self._powerless: list[float] = []
        self._restored: set[bytes] = set()
        self.excused: set[bytes] = set()
        self.brain: Brain | None = None
        if rng.random() < 0.5:  # trees that are there before psync is
            for _ in range(rng.randint(1, 12)):
                self.users.act(rng.choice(list(Side)))
        self._boot()
        for disk in self.disks:
            disk.sync()
        self._tick_agents()

    # --- time ---

    def _tick(self) -> int:
        self._ticks += 1000
        return self._ticks + int(self.now * 1e9)

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        self._serial += 1
        heapq.heappush(self._queue, (self.now + seconds, self._serial, action))

    def run_until(self, moment: float, condition: Callable[[], bool] | None = None) -> None:
        while self._queue and self._queue[0][0] <= moment:
            if condition is not None and condition():
                return
            self.now, _, action = heapq.heappop(self._queue)
            action()
        self.now = moment

    def delay(self) -> float:
        return self.rng.uniform(0.0001, self._slow)

    def note(self, what: str, value: object = None) -> None:
        self._digest.update(f"{self.now:.6f} {what} {value}".encode())
        if self.lines is not None:
            shown = "" if value is None else _brief(value)
            self.lines.append(f"{self.now:.4f} {what} {shown}")

    @property
    def trace(self) -> str:
        """A digest of everything that happened."""
        return self._digest.hexdigest()

    # --- links ---

    def send(self, side: Side, message: Message) -> None:
        """From the brain to an agent."""
        self.sent += 1
        if isinstance(message, Apply):
            self.applied += len(message.transitions)
            self.renames += sum(t.verb == RENAME for t in message.transitions)
        if self.sent > MESSAGES_MAX:
            raise Violation("the brain does not come to rest")
        agent = self.agents[side]
        if agent is not None:
            self._carry(side, "down", message, agent.take)

    def _carry(
        self, side: Side, way: str, message: Message, deliver: Callable[[Any], None]
    ) -> None:
        framed = Framer().feed(encode(message))
        epoch = self._epochs[side]
        moment = max(self.now + self.delay(), self._last.get((side, way), 0.0) + 1e-6)
        self._last[side, way] = moment

        def arrive() -> None:
            if self._epochs[side] == epoch:
                for whole in framed:
                    deliver(whole)

        self.later(moment - self.now, arrive)

    def _heard(self, side: Side, message: Message) -> None:
        self.note(side.name, message)
        if self.brain is not None:
            self.brain.receive(side, message)

    # --- agents and the brain, their lives ---

    def _boot(self) -> None:
        self.brain = Brain(self)
        for side in Side:
            self._start_agent(side)

    def _start_agent(self, side: Side) -> None:
        if self.brain is None or self.agents[side] is not None:
            return
        self._tell_lost(side)
        self._epochs[side] += 1
        self._agent_numbers += 1
        self.note(f"{side.name} agent {self._agent_numbers}")
        self.agents[side] = Agent(
            self.disks[side], self.options, self.rng, self._agent_numbers, Ignore(self.rules),
            lambda message: self._carry(
                side, "up", message, lambda whole: self._heard(side, whole)
            ),
            lambda: self.now,
        )  # fmt: skip
        self.brain.side_up(side)

    def _stop_agent(self, side: Side) -> None:
        if self.agents[side] is None:
            return
        self.agents[side] = None
        self._epochs[side] += 1
        self.disks[side].watcher = 0
        self.disks[side].events.clear()
        self.disks[side].overflowed = False
        self.note(f"{side.name} down")
        if self.brain is not None:
            self._doubt(self.brain)
        epoch, late = self._epochs[side], self._links.uniform(0, self._lateness)
        if late:
            self.later(late, lambda: self._epochs[side] == epoch and self._tell_lost(side))
        else:
            self._tell_lost(side)

    def _tell_lost(self, side: Side) -> None:
        """The brain hears that a link is lost: before, what it sends and copies just fails."""
        if self.brain is not None and self.brain.up[side]:
            self.note(f"{side.name} known to be down")
            self._doubt(self.brain)
            self.brain.side_down(side)

    def _tick_agents(self) -> None:
        for side in self.rng.sample(list(Side), 2):
            agent = self.agents[side]
            for _ in range(self.rng.choice((0, 1, 1, 4))):
                if agent is not None:
                    agent.step()
        busy = any(a is not None and not a.idle for a in self.agents)
        self.later(self.delay() if busy else self._idle, self._tick_agents)

    # --- faults ---

    def _fault(self) -> None:
        kind = self.rng.choice(self._faults)
        side = self.rng.choice(list(Side))
        self.note(f"{kind} {side.name}")
        if kind == "cut":
            self._stop_agent(side)
            self.later(self.rng.uniform(0.01, 2), lambda: self._start_agent(side))
        elif kind == "kill brain":
            self._kill_brain()
            self.later(self.rng.uniform(0.01, 1), self._reboot)
        elif kind == "power":
            self._cut_power(side)
        elif kind == "sync":
            if self.brain is not None:
                self.brain.make_durable()
        elif kind == "rescan":
            self.send(side, Rescan())
        elif kind == "retry":
            if self.brain is not None:
                self.brain.session.receive(Retry(), self.now)
                self.brain.pump()
        else:
            self._flush()

    def _full_sync(self) -> None:
        if self.brain is not None:
            self.note("full sync")
            self.brain.session.receive(FullSync(), self.now)
            self.brain.pump()

    def _reload(self, rules: list[str]) -> None:
        """Somebody has changed the rules, and has them taken over if psync runs."""
        self.note(f"rules {rules}")
        self.rules, self._reloaded = rules, True
        if self.brain is None:
            return
        self.brain.session.hide(Ignore(rules))
        for side in Side:
            self.send(side, Settings(_start(rules)))
        self.brain.pump()

    def _kill_brain(self) -> None:
        brain, self.brain = self.brain, None
        if brain is not None:
            brain.alive = False
            self._doubt(brain)
        for side in Side:
            self._stop_agent(side)

    def _doubt(self, brain: Brain) -> None:
        """What is under way may be done or not, and nobody can tell.

        Who edits it then may see that judged wrongly (a copy too many, a deletion undone), but
        nothing lost.
        """
        for intent in brain.session.in_flight().intents:
            for disk in self.disks:
                for path in (intent.path, intent.moved_from):
                    node = disk.at(path) if path else None
                    if node is not None:
                        self.users.blurred.add(node.data[:8])
        for op in brain.session._flights.ops.values():
            self.users.blurred.add((op.transition.content or b"")[:8])

    def _reboot(self) -> None:
        if self.brain is None:
            self._boot()

    def _cut_power(self, side: Side) -> None:
        disk, other = self.disks[side], self.disks[side.other]
        before = {n.data[:8] for _, n in disk.walk() if n.kind is not Kind.DIRECTORY}
        self._stop_agent(side)
        disk.cut_power(names_kept=self.rng.random() < 0.5)
        self.host_boots[side] += 1
        self.cut_ns[side] = self._tick()
        after = {n.data[:8] for _, n in disk.walk() if n.kind is not Kind.DIRECTORY}
        published = {n.data[:8] for _, n in other.walk() if n.kind is not Kind.DIRECTORY}
        self.excused |= before - after - published
        self._restored |= after
        self._powerless.append(self.now)
        self.later(self.rng.uniform(0.01, 1), lambda: self._start_agent(side))

    def _flush(self) -> None:
        """Nobody writes: once the flush is over both sides are equal."""
        brain = self.brain
        if brain is None or not all(brain.up):
            return
        renames = self.renames
        brain.session.receive(Retry(), self.now)
        brain.pump()
        self.run_until(self.now + 5, lambda: brain.session.settled(-1))
        brain._number += 1
        token = brain._number
        brain.flushed[token] = set()
        for side in Side:
            self.send(side, Flush(token))
        answers = brain.flushed[token]
        self.run_until(self.now + 10, lambda: len(answers) == 2)
        if len(answers) < 2 or not brain.alive:
            return
        self.run_until(self.now + 5, lambda: brain.session.settled(-1))
        if not brain.session.settled(-1):
            return
        mark = brain.session.mark()
        self.run_until(self.now + 10, lambda: brain.session.settled(mark))
        if brain.alive and brain.session.settled(mark) and not brain.session.problems():
            if any(n.writers or n.inode.linked for d in self.disks for _, n in d.walk()):
                return
            if Ignore(self.rules).by_path and self.renames != renames:
                return  # what they reveal is told a moment later
            different = self._difference()
            if different:
                raise Violation(f"not flushed: {different}")

    # --- the course of events ---

    def live(self, actions: int) -> None:
        """Let users and faults do so much, then stop them and wait until all is at rest."""
        for _ in range(actions):
            self.run_until(self.now + self.rng.expovariate(1 / self._pace))
            if self._when.random() < self._full_syncs:
                self._full_sync()
            if self._reloads.random() < self._rule_changes:
                self._reload(self._reloads.choice(_RULES))
            if self._faults and self.rng.random() < 0.15:
                self._fault()
                continue
            if self.limits.ask and self.rng.random() < 0.2:
                self._answer()
                continue
            side = self.rng.choice(list(Side))
            for _ in range(self.rng.choice((1, 1, 1, 3))):
                self.note(self.users.act(side))
        self.users.rest()
        self._faults = []
        self._idle = 0.5
        self._reboot()
        self.run_until(self.now + 5)
        self._reboot()
        for side in Side:
            self._start_agent(side)
        if self.rules:
            self._reload([])
        self.run_until(self.now + 240)
        if any(n.inode.linked for d in self.disks for _, n in d.walk()):
            # Who writes through one name of a file and removes that is heard of nowhere.
            for side in Side:
                self.send(side, Rescan())
            self.run_until(self.now + 60)
        self.check()
        sent, applied = self.sent, self.applied
        self.run_until(self.now + 300)
        if self.applied != applied and not self._has_local_names():
            raise Violation("something is changed though all is at rest")
        if self.sent != sent and not self._has_local_names():
            raise Violation("the brain speaks though all is at rest")
        assert self.brain is not None
        self.brain.make_durable()
        self.run_until(self.now + 5)
        # A new start finds everything as it was agreed.
        self.options.sync_fails = False
        self.brain.make_durable()
        self.run_until(self.now + 5)
        # What waits for a person's word, and how it got there, is not known at once again.
        applied, waiting = self.applied, self._waiting()
        due = any(disk.due for disk in self.disks)  # a new agent tries to put it beside what won
        trees = self._trees(waiting)
        self._kill_brain()
        self._boot()
        self.run_until(self.now + 60)
        self.check()
        if self.applied != applied and not self._has_local_names() and not waiting and not due:
            raise Violation("a new start changes something")
        if self._trees(waiting) != trees and not due and not self._has_local_names():
            raise Violation("a new start changes something that nobody is asked about")
        self._answer_all()
        self._write_untold()

    def _write_untold(self) -> None:
        """What no event tells of is found by a full sync, wherever it is."""
        if self._has_local_names() or self._waiting():
            return
        side = self._when.choice(list(Side))
        disk = self.disks[side]
        events, overflowed = list(disk.events), disk.overflowed
        self.note(f"{side.name} untold {self.users.do_overwrite(disk)!r}")
        disk.events[:], disk.overflowed = events, overflowed
        self._full_sync()
        self.run_until(self.now + 60)
        self.check()

    def _trees(self, without: list[bytes]) -> list[tuple[bytes, Entry, bytes]]:
        """All that is on both sides, but for some paths and what is in them."""
        return [
            (path, node.entry(), node.data)
            for disk in self.disks
            for path, node in disk.walk()
            if not any(below_or_at(path, top) for top in without)
        ]

    # --- a person who is asked ---

    def _answer(self) -> bool:
        """Let a side win a conflict that waits for a word; tell whether there is one."""
        brain = self.brain
        waiting = brain.session.asked() if brain is not None else []
        if brain is None or not waiting:
            return False
        path, left, right = self.rng.choice(waiting)
        side = self.rng.choice(list(Side))
        self.note(f"take {side.name} {path!r}")
        refusal = brain.session.take(path, side)
        if refusal and left is not None and right is not None:
            kinds = (left.kind, right.kind)
            if kinds[side] == Kind.DIRECTORY or Kind.DIRECTORY not in kinds:
                raise Violation(f"{side.name} cannot be taken at {path!r}: {refusal}")
            assert not brain.session.take(path, side.other)
        brain.pump()
        return True

    def _answer_all(self) -> None:
        """Once every question is answered, both sides are equal everywhere."""
        if not self.limits.ask:
            return
        for _ in range(50):
            if not self._answer():
                break
            self.run_until(self.now + 60)
        else:
            raise Violation("the questions do not end")
        if any(n.inode.linked for d in self.disks for _, n in d.walk()):
            for side in Side:
                self.send(side, Rescan())
            self.run_until(self.now + 60)
        self.check()

    # --- what has to be true at rest ---

    def _has_local_names(self) -> bool:
        return any(p.endswith(LOCAL_SUFFIX) for d in self.disks for p, _ in d.walk())

    def _difference(self) -> str:
        """The first path at which the sides differ (outside of what stays local)."""
        shown: list[dict[bytes, tuple[Any, ...]]] = []
        stay: set[bytes] = set()
        ignored = Ignore(self.rules)
        for disk in self.disks:
            these = {}
            for path, node in disk.walk():
                if ignored(path, node.kind is Kind.DIRECTORY):
                    up = parent(path)
                    while up:
                        stay.add(up)
                        up = parent(up)
                else:
                    these[path] = (self._held(node.entry()), node.data)
            shown.append(these)
        waiting = self._waiting()
        for path in sorted(set(shown[0]) | set(shown[1])):
            one, two = shown[0].get(path), shown[1].get(path)
            if any(below_or_at(path, top) for top in waiting):
                continue
            if one != two and path not in stay:
                return f"{path!r}: {one} / {two}"
        return ""

    def _waiting(self) -> list[bytes]:
        """Paths at which a person's word is waited for, or what that stands in the way of."""
        if self.brain is None:
            return []
        pending = self.brain.session._pending
        return [path for path in pending.since if pending.is_asleep(path)]

    def _held(self, entry: Entry) -> tuple[Any, ...]:
        """What both file systems can hold of an entry."""
        grain = max(disk.grain for disk in self.disks)
        modes = all(disk.has_modes for disk in self.disks)
        owners = all(disk.has_owners for disk in self.disks)
        return entry._replace(
            mode=entry.mode if modes else 0,
            uid=entry.uid if owners else 0,
            mtime_ns=entry.mtime_ns - entry.mtime_ns % grain,
            digest=entry.xattrs if all(disk.has_attributes for disk in self.disks) else b"",
        )[:8]

    def check(self) -> None:
        """Check everything that guarantees say of a world at rest."""
        brain = self.brain
        assert brain is not None
        session = brain.session
        local = self._has_local_names()
        if not local and session.problems():
            raise Violation(f"problems: {session.problems()}")
        different = self._difference()
        if different:
            raise Violation(f"different: {different}")
        if session.state is not State.WATCHING:
            raise Violation(f"state {session.state.name}")
        waits = bool(session.asked())
        self._check_tokens(everywhere=not waits)
        if waits and not local and (session.pending or not session.stuck(session.mark())):
            raise Violation(f"pending: {session.pending} beside {session.asked()}")
        for agent in self.agents:
            if agent is not None and agent.due:
                raise Violation(f"not put beside what won: {agent.due}")
        if local or waits:
            return
        self._check_archive(brain)
        self._check_memory(brain)

    def _check_tokens(self, *, everywhere: bool) -> None:
        here = [
            {n.data[:8] for _, n in d.walk() if n.kind is not Kind.DIRECTORY} for d in self.disks
        ]
        if self._has_local_names() or not everywhere:  # what stays local keeps its directory, too
            here = [here[0] | here[1]] * 2
        kept = {node.data[:8] for d in self.disks for _, node in d.conflicts}
        users = self.users
        # A rename is a removal and a creation. When the power fails where it was made, what was
        # removed on the other side for it is still in quarantine there, for a minute.
        for disk in self.disks:
            for moment, token in disk.quarantine:
                near = any(abs(moment - cut) < 30 for cut in self._powerless)
                if near and token in users.blurred:
                    kept.add(token)
        lost = users.tokens - users.superseded - self.excused - (here[0] & here[1]) - kept
        if lost:
            raise Violation(f"lost: {sorted(lost)}")
        # What was hidden has been left as it was on either side, and came together again.
        if self._powerless or self._reloaded:
            return
        users.superseded.discard(b"local")
        beside = set[bytes]().union(*(d.beside for d in self.disks))
        back = (here[0] | here[1]) & users.superseded - users.blurred
        back = {token for token in back if token not in beside or not self._was_rivalled(token)}
        if back:
            raise Violation(f"came back: {sorted(back)}")
        for _, node in [c for d in self.disks for c in d.conflicts]:
            token = node.data[:8]
            if token in users.superseded - users.blurred and not self._was_rivalled(token):
                raise Violation(f"no conflict: {token!r}")

    def _was_rivalled(self, token: bytes) -> bool:
        """Whether two versions descend from one, of which `token` is one (or before one)."""
        line = {token}
        while token in self.users.parents:
            token = self.users.parents[token]
            line.add(token)
        heirs: dict[bytes, int] = {}
        for before in self.users.parents.values():
            heirs[before] = heirs.get(before, 0) + 1
        return any(heirs.get(t, 0) > 1 for t in line) or len(line) == 1

    def _check_archive(self, brain: Brain) -> None:
        paths = [p for p, _ in self.disks[0].walk()]
        for path in paths:
            agreed = brain.archive.get(path)
            if agreed is None:
                raise Violation(f"not in the archive: {path!r}")
            for side in Side:
                node = self.disks[side].at(path)
                assert node is not None
                entry = node.entry()
                on = agreed.on(side)._replace(digest=b"")
                if node.inode.linked:  # nobody is told that another name has come or gone
                    on = on._replace(ctime_ns=entry.ctime_ns)
                if on != entry:
                    raise Violation(f"archive {path!r} {side.name}: {on} is {entry}")
        if sorted(brain.archive.walk_up(b"")) != sorted(paths):
            raise Violation("the archive has more than there is")
        if brain.archive.count != len(paths):
            raise Violation(f"the archive counts {brain.archive.count}, there are {len(paths)}")

    def _check_memory(self, brain: Brain) -> None:
        session = brain.session
        if session.pending or not session.settled(session.mark()):
            raise Violation(f"pending: {session.pending}")
        for side in Side:
            agent = self.agents[side]
            assert agent is not None
            if agent.credit != self.options.credit:
                raise Violation(f"{side.name}: credit {agent.credit} of {self.options.credit}")
        leftover = {name: value for name, value in session.remains().items() if value}
        if leftover:
            raise Violation(f"remains: {leftover}")


def _start(rules: list[str]) -> Start:
    """What an agent is told of how to serve on: only the rules are of interest."""
    return Start(0, "", ROOT, "", 0, False, False, rules, [], 0, 0, 0, 0, 0, False, False, 0)


def _brief(value: object) -> str:
    """Show a message or a command in a line that can be read: only what is not the default."""
    if isinstance(value, Entry):
        kind = Kind(value.kind).name[0]
        times = f"m{value.mtime_ns % 10**14 // 1000} c{value.ctime_ns % 10**14 // 1000}"
        size = value.target.decode() or value.size
        mark = "#" if value.digest else ""
        return f"<{kind}{value.ino} {value.mode:o} {value.uid} {size} {times}{mark}>"
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, list):
        return "[" + ", ".join(map(_brief, value)) + "]"
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        defaults = getattr(value, "_field_defaults", {})
        shown = [
            f"{name}={_brief(v)}" if name in defaults else _brief(v)
            for name, v in zip(value._fields, value, strict=True)
            if name not in defaults or v != defaults[name]
        ]
        return f"{type(value).__name__}({', '.join(shown)})"
    return repr(value)


def run(seed: int, *, actions: int = 40, faults: bool = True, keep_trace: bool = False) -> World:
    """Run one world; raise what is wrong with it."""
    world = World(seed, faults=faults, keep_trace=keep_trace)
    world.live(actions)
    return world
