"""Every interleaving in a small world: two names, one directory, a few operations a side.

    python -m tests.simulation.exhaustive [--ops N] [--faults N] [--jobs N] [--tree NAME]

The real core and the agents of the simulation, with nothing left to chance: at each moment
there are a few things that can come next (an agent hears what has happened, looks, serves a
message; the brain takes one; a user of either side does one of his operations; a link
breaks, the brain is killed), and each of them is tried. Worlds that are the same but for the
names of times and inodes are gone through once. Wherever nothing is left to be done but
what users and faults do, everything must be well: `World.check`.

**Invariants.** A step is atomic: one message is taken, or one look made. Time passes only when
nothing else can happen. All that a world does next is in its state, so what follows from one that
was seen before was tried before. The counts are the same at each run.
"""

from __future__ import annotations

import argparse
import os
import pickle
import sys
import time
from collections import deque
from collections.abc import Callable
from enum import Enum
from functools import cache, partial
from hashlib import blake2b
from multiprocessing import get_context
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any, NamedTuple

from psync.core.entry import Kind, Side
from psync.core.events import Limits
from psync.core.ignore import Ignore
from psync.wire import Credit, Message
from tests.simulation.agent import Agent, Options
from tests.simulation.disk import Disk
from tests.simulation.users import Users
from tests.simulation.world import Brain, Violation, World
from tests.support.rows import MemoryRows

__all__ = ["FAULTS", "OPERATIONS", "TREES", "Bounds", "Canon", "Found", "SmallWorld", "explore"]

Action = tuple[str, ...]
STEPS_MAX = 500  # no small world needs so many to come to rest


# --- what users do ----------------------------------------------------------------------------


class NoChance:
    """Makes the one choice that leaves nothing undone, always; in place of a `random.Random`."""

    def random(self) -> float:
        return 0.99

    def choice(self, several: Any) -> Any:
        return several[-1]

    def randint(self, low: int, high: int) -> int:
        return high


class SmallUsers(Users):
    """Users whose every choice is made by who explores; a text is named after its writer."""

    def __init__(self, disks: list[Disk], now_ns: Callable[[], int]) -> None:
        super().__init__(disks, NoChance(), now_ns, _never)
        self.written: list[bytes] = []
        self.side = 0

    @property
    def tokens(self) -> set[bytes]:
        return set(self.written)

    def _token(self, after: bytes = b"") -> bytes:
        count = sum(1 for token in self.written if token[0] == 48 + self.side)
        token = b"%d%07d" % (self.side, count)
        self.written.append(token)
        if after:
            self.superseded.add(after[:8])
            self.parents[token] = after[:8]
        return token

    def save(self, disk: Disk, path: bytes) -> bool:
        """Write a file in place, or make it."""
        node = disk.at(path)
        if node is None:
            parent = disk.at(path.rpartition(b"/")[0])
            if parent is None or parent.kind is not Kind.DIRECTORY:
                return False
            return disk.make(path, Kind.FILE, self._token()) is not None
        return node.kind is Kind.FILE and disk.write(path, self._token(node.data))

    def delete(self, disk: Disk, path: bytes) -> bool:
        node = disk.at(path)
        if node is None or node.kind is Kind.DIRECTORY:
            return False
        self._delete(disk, path)
        return True

    def move(self, disk: Disk, old: bytes, new: bytes) -> bool:
        """Rename, over a file as well."""
        covered = disk.at(new)
        if disk.at(old) is None:
            return False
        self._blur(disk, old)
        if not disk.rename(old, new):
            return False
        if covered is not None and covered.kind is not Kind.DIRECTORY:
            self.superseded.add(covered.data[:8])
        return True

    def mkdir(self, disk: Disk, path: bytes) -> bool:
        return disk.make(path, Kind.DIRECTORY) is not None

    def rmtree(self, disk: Disk, path: bytes) -> bool:
        node = disk.at(path)
        if node is None or node.kind is not Kind.DIRECTORY:
            return False
        self._remove_tree(disk, path)
        return True


def _never(seconds: float, action: Callable[[], None]) -> None:
    raise AssertionError("nothing is put off here")


OPERATIONS: tuple[Action, ...] = (
    ("save", "a"), ("save", "b"), ("save", "d/a"), ("delete", "a"), ("delete", "d/a"),
    ("move", "a", "b"), ("move", "b", "a"), ("move", "a", "d/a"), ("move", "d/a", "a"),
    ("mkdir", "d"), ("rmtree", "d"), ("move", "d", "b"), ("move", "b", "d"),
)  # fmt: skip

FAULTS: tuple[Action, ...] = (("cut", "0"), ("cut", "1"), ("kill brain",))

TREES: dict[str, tuple[Action, ...]] = {
    "nothing": (),
    "a file": (("save", "a"),),
    "two files": (("save", "a"), ("save", "b")),
    "a directory": (("save", "a"), ("mkdir", "d"), ("save", "d/a")),
}


class Bounds(NamedTuple):
    """How far to explore: operations of each side, faults of all."""

    operations: int
    faults: int


# --- a world without chance -------------------------------------------------------------------


class SmallWorld(World):
    """See the module's text."""

    def __init__(self, tree: tuple[Action, ...], bounds: Bounds) -> None:
        self.rng = NoChance()
        self.now = 1.0
        self._ticks = 1_700_000_000 * 10**9
        self.lines = None
        self.options = Options(NoChance())
        self.options.suppress_echoes = self.options.tells_contents = True
        self.options.hints_renames = True
        self.options.credit = 100_000
        self.options.listing_names = self.options.scan_step = 1000
        self.options.sync_fails = self.options.apply_fails = False
        self.disks = []
        for side in Side:
            disk = Disk(self._tick, reuse_inodes=False, queue_max=10_000)
            disk._next_ino = (side + 1) * 10**9
            self.disks.append(disk)
        self.users = SmallUsers(self.disks, self._tick)
        self.limits = Limits(inline_max=64, max_delete=1.0)
        self.rows = MemoryRows()
        self.log = []
        self.generation = 0
        self.boots = 0
        self.met = self._reloaded = False
        self.rules = self.known_rules = []
        self.host_boots, self.known_boots = [0, 0], [0, 0]
        self.cut_ns = [0, 0]
        self.agents = [None, None]
        self._agent_numbers = 0
        self.up: list[deque[Message]] = [deque(), deque()]
        self.sent = self.applied = 0
        self._powerless = []
        self._restored = set()
        self.excused = set()
        self.brain = None
        self.left = [bounds.operations, bounds.operations]
        self.faults_left = bounds.faults
        self.did: list[Action] = []
        for action in tree:
            self.operate(Side.LEFT, action)
        self.do(("boot",))
        self.rest()
        assert self.brain is not None
        self.brain.make_durable()
        self.rest()

    def _tick(self) -> int:
        self._ticks += 1000
        return self._ticks

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        """The only timer is the session's, whose deadline is asked for."""

    def note(self, what: str, value: object = None) -> None:
        pass

    def send(self, side: Side, message: Message) -> None:
        self.sent += 1
        agent = self.agents[side]
        if agent is None:
            return
        agent.take(message)
        if isinstance(message, Credit):  # means nothing to anybody else
            agent._inbox.pop()
            agent.credit = min(agent.credit + message.size, self.options.credit)

    def _heard(self, side: Side, message: Message) -> None:
        self.up[side].append(message)

    def _time(self) -> float:
        return self.now

    def _boot(self) -> None:
        self.brain = Brain(self)
        for side in Side:
            self._start_agent(side)

    def _start_agent(self, side: Side) -> None:
        assert self.brain is not None
        self._agent_numbers += 1
        agent = Agent(
            self.disks[side], self.options, self.rng, self._agent_numbers, Ignore(),
            partial(self._heard, side), self._time,
        )  # fmt: skip
        self.agents[side] = agent
        while agent._scan is not None:
            agent._go_on_scanning()
        self.brain.side_up(side)

    def _stop_agent(self, side: Side) -> None:
        if self.agents[side] is None:
            return
        self.agents[side] = None
        self.up[side].clear()
        self.disks[side].watcher = 0
        self.disks[side].events.clear()
        if self.brain is not None:
            self._doubt(self.brain)
            self.brain.side_down(side)

    # --- what can come next ---

    def steps(self) -> list[Action]:
        """What the system may do next, in an order that is always the same."""
        steps: list[Action] = []
        for side, agent in zip(Side, self.agents, strict=True):
            name = str(int(side))
            if self.up[side] and self.brain is not None:
                steps.append(("take", name))
            if agent is None:
                continue
            if agent._inbox:
                steps.append(("serve", name))
            if self.disks[side].events:
                steps.append(("hear", name))
            if agent._settle.deadline() is not None or agent._touched:
                steps.append(("look", name))
        if steps:
            return steps
        if self.brain is None:
            return [("boot",)]
        for side in Side:
            if self.agents[side] is None:
                return [("start", str(int(side)))]
        if self.brain.session.deadline() is not None:
            return [("wait",)]
        return []

    def do(self, action: Action) -> bool:
        """Do what comes next; False: it cannot be done."""
        verb, *arguments = action
        self.did.append(action)
        if verb == "user":
            side = Side(int(arguments[0]))
            self.left[side] -= 1
            return self.operate(side, tuple(arguments[1:]))
        if verb == "boot":
            self._boot()
        elif verb == "wait":
            assert self.brain is not None
            deadline = self.brain.session.deadline()
            assert deadline is not None
            self.now = max(self.now, deadline)
            self.brain.pump()
        elif verb == "kill brain":
            self.faults_left -= 1
            if self.brain is None:
                return False
            self._kill_brain()
        elif verb == "cut":
            self.faults_left -= 1
            if self.agents[int(arguments[0])] is None:
                return False
            self._stop_agent(Side(int(arguments[0])))
        elif verb == "start":
            self._start_agent(Side(int(arguments[0])))
        else:
            self._let_agent(verb, Side(int(arguments[0])))
        return True

    def _let_agent(self, verb: str, side: Side) -> None:
        if verb == "take":
            assert self.brain is not None
            self.brain.receive(side, self.up[side].popleft())
            return
        agent = self.agents[side]
        assert agent is not None
        if verb == "serve":
            agent._serve()
        elif verb == "hear":
            agent._hear()
        else:
            deadline = agent._settle.deadline()
            if deadline is not None:
                self.now = max(self.now, deadline)
                agent._look_around()
                self._finish(agent)
            if agent._touched and agent._settle.deadline() is None:
                agent._look_at_touched()
        self._finish(agent)
        while agent._scan is not None:
            agent._go_on_scanning()

    @staticmethod
    def _finish(agent: Agent) -> None:
        while agent._work is not None:
            if next(agent._work, agent) is agent:
                agent._work = None
        while agent._later:  # here answers are given in one step
            agent._go_on_answering()

    def operate(self, side: Side, action: Action) -> bool:
        """Let a user do something; False: there is nothing to do it to."""
        verb, *paths = action
        self.users.side = side
        done: bool = getattr(self.users, verb)(
            self.disks[side], *(path.encode() for path in paths)
        )
        return done

    def rest(self) -> None:
        """Let the system do what there is to do, in one order of many."""
        for _ in range(STEPS_MAX):
            steps = self.steps()
            if not steps:
                return
            self.do(steps[0])
        raise Violation("it does not come to rest")


# --- whether two worlds are the same ----------------------------------------------------------

_FORGOTTEN = frozenset(
    (
        # counts, names for the eyes, and what the oracle alone looks at
        "did", "sent", "applied", "bytes_moved", "_ticks", "sequence", "_serial", "_batch",
        "_agent_numbers", "_number", "_count", "_count_chmods", "kept", "lines",
        # what is the same in all worlds, durations among it
        "rng", "_rng", "options", "limits", "_options", "_limits", "_actions", "Settle._settle",
        "Settle._max_delay", "_paths_max", "_reuse", "_queue_max", "grain", "has_modes",
        "has_owners", "has_attributes", "local_names",
        # caches, and bounds that no small world comes near to
        "_read", "_ids", "_fresh_digests", "credit", "_credit", "_listed", "_asking",
    )
)  # fmt: skip


class Canon:
    """Writes a world down so that worlds that behave alike read alike.

    Times are named by their rank, inodes, operations and agents by the order in which they are
    met; floats are relative to now; objects by their number at the first meeting.
    """

    def __init__(self, now: float) -> None:
        self._now = now
        self._out: list[Any] = []
        self._times: list[tuple[int, int]] = []  # where in `_out`, and the time
        self._numbers: dict[int, int] = {}
        self._objects: dict[int, int] = {}

    def digest(self, world: SmallWorld) -> bytes:
        self._write(world)
        ranks = {t: i for i, t in enumerate(sorted({time for _, time in self._times}))}
        for at, moment in self._times:
            self._out[at] = ("t", ranks[moment])
        return blake2b(repr(self._out).encode(), digest_size=16).digest()

    def _write(self, value: Any) -> None:
        out = self._out
        kind = type(value)
        if kind in _PLAIN:
            out.append(value)
        elif kind is int:
            if value < 10**9:
                out.append(value)
            elif value >= 10**15:
                self._times.append((len(out), value))
                out.append(None)
            else:
                out.append(("n", self._numbers.setdefault(value, len(self._numbers))))
        elif kind is float:
            out.append(round(value - self._now, 4) if value < 1e9 else "never")
        elif issubclass(kind, tuple):
            out.append("(")
            for each in value:
                self._write(each)
            out.append(")")
        elif issubclass(kind, Enum):
            out.append(value.value)
        elif kind in (FunctionType, BuiltinFunctionType, type):
            out.append(value.__name__)
        else:
            self._object(value, kind)

    def _object(self, value: Any, kind: type) -> None:
        out = self._out
        if kind in (dict, list, set, deque) and not value:
            out.append("none")
            return
        known = self._objects.get(id(value))
        if known is not None:
            out.append(("o", known))
            return
        self._objects[id(value)] = len(self._objects)
        if kind is dict:
            out.append("{")
            for key, each in value.items():
                self._write(key)
                self._write(each)
        elif kind is list or kind is deque:
            out.append("[")
            for each in value:
                self._write(each)
        elif issubclass(kind, (set, frozenset)):
            out.append("<")
            for each in sorted(value, key=repr):
                self._write(each)
        elif kind is MethodType:
            out.append(value.__func__.__name__)
        elif kind is partial:
            out.append(value.args)
        else:
            out.append(kind.__name__)
            for name in _slots(kind):
                self._write(getattr(value, name))
            forgotten = _forgotten(kind)
            for name, each in getattr(value, "__dict__", _NOTHING).items():
                if name not in forgotten:
                    out.append(name)
                    self._write(list(each) if name == "since" else each)
        out.append("end")


_PLAIN = frozenset((str, bytes, bool, type(None)))
_NOTHING: dict[str, Any] = {}


@cache
def _slots(kind: type) -> tuple[str, ...]:
    """What an object of a class has besides its `__dict__`, less what is forgotten."""
    names = [name for cls in kind.__mro__ for name in getattr(cls, "__slots__", ())]
    forgotten = _forgotten(kind)
    return tuple(name for name in names if name not in forgotten and name != "__dict__")


@cache
def _forgotten(kind: type) -> frozenset[str]:
    """The attributes of a class that make no difference."""
    own = f"{kind.__name__}."
    return _FORGOTTEN | {name.removeprefix(own) for name in _FORGOTTEN if name.startswith(own)}


# --- all of them ------------------------------------------------------------------------------


class Found(NamedTuple):
    """What an exploration came to.

    Attributes:
        states: worlds that differ.
        steps: how often a world was taken one step further.
        rests: worlds at rest that were checked.
        violated: what went wrong, each with the steps that lead there.
    """

    states: int
    steps: int
    rests: int
    violated: list[tuple[str, list[Action]]]


def explore(
    tree: tuple[Action, ...],
    bounds: Bounds,
    operations: tuple[tuple[Action, ...], tuple[Action, ...]] = (OPERATIONS, OPERATIONS),
    faults: tuple[Action, ...] = FAULTS,
    first: tuple[Action, ...] = (),
    violations_max: int = 5,
) -> Found:
    """Go through all worlds that follow from a tree that both sides agree on.

    Args:
        tree: what is there.
        bounds: how much users and faults do.
        operations: what the users of the left and of the right may do.
        faults: what may go wrong.
        first: what comes first of all, to divide the work.
        violations_max: stop after so many.
    """
    world = SmallWorld(tree, bounds)
    world.did.clear()
    for action in first:
        if not world.do(action):
            return Found(0, 0, 0, [])
    seen = {Canon(world.now).digest(world)}
    stack = [pickle.dumps(world)]
    steps = rests = 0
    violated: list[tuple[str, list[Action]]] = []
    while stack and len(violated) < violations_max:
        frozen = stack.pop()
        world = pickle.loads(frozen)
        choices = world.steps()
        if not choices:
            rests += 1
            try:
                if len(world.did) > STEPS_MAX:
                    raise Violation("it does not come to rest")
                world.check()
            except Exception as error:  # noqa: BLE001  # of whatever kind: it is told
                violated.append((f"{type(error).__name__}: {error}", world.did))
                continue
        for side in Side:
            if world.left[side]:
                choices += [("user", str(int(side)), *each) for each in operations[side]]
        if world.faults_left and world.brain is not None:
            choices += faults
        for action in choices:
            following: SmallWorld = pickle.loads(frozen)
            try:
                if not following.do(action):
                    continue
            except Exception as error:  # noqa: BLE001
                violated.append((f"{type(error).__name__}: {error}", following.did))
                continue
            steps += 1
            if len(following.did) > STEPS_MAX:
                violated.append(("it does not come to rest", following.did))
                continue
            digest = Canon(following.now).digest(following)
            if digest not in seen:
                seen.add(digest)
                stack.append(pickle.dumps(following))
    return Found(len(seen), steps, rests, violated)


def _share(task: tuple[str, Bounds, Action]) -> tuple[str, Action, Found]:
    name, bounds, first = task
    return name, first, explore(TREES[name], bounds, first=(first,) if first else ())


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--ops", type=int, default=1, help="operations of each side")
    parser.add_argument("--faults", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--tree", action="append", choices=list(TREES))
    options = parser.parse_args()
    bounds = Bounds(options.ops, options.faults)
    began = time.monotonic()
    tasks = [(name, bounds, ()) for name in options.tree or TREES]
    states = steps = rests = bad = 0
    with get_context("fork").Pool(options.jobs, maxtasksperchild=1) as pool:
        for name, _, found in pool.imap_unordered(_share, tasks):
            print(
                f"{name:12} {found.states:10,} states, {found.steps:10,} steps, "
                f"{found.rests:8,} at rest, {len(found.violated)} violated",
                flush=True,
            )
            for why, did in found.violated:
                print(f"    {why}")
                print("        " + ", ".join(" ".join(action) for action in did))
            states += found.states
            steps += found.steps
            rests += found.rests
            bad += len(found.violated)
    took = time.monotonic() - began
    print(
        f"up to {options.ops} operations a side, {options.faults} faults: {states:,} states, "
        f"{steps:,} steps, {rests:,} at rest, {bad} violated, {took:.0f} s"
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
