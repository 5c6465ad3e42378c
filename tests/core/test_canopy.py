"""Three perturbed trees: whatever users did, deciding comes to rest, and nothing is lost.

A small tree is agreed on; then users change both sides at random (or the trees meet for the first
time). Each path is decided and the decision applied to a model, until there is nothing to do. What
a decision may know is what psync could know: digests of what has been read, whether a look was
only of attributes; never the content itself, by which the model judges.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from psync.core.archive import Archive
from psync.core.entry import ROOT, Entry, Kind, Side, content_digest
from psync.core.reconcile import Decision, Verb, View, agree, decide
from tests.support.rows import MemoryRows

STEPS_MAX = 6  # compare, metadata, content, record: no path needs more
TEXTS = [b"", b"old", b"new", b"two", b"longer"]
TARGETS = [b"here", b"there"]
NAMES = [b"a", b"b", b"c", b"d"]


@dataclass
class Node:
    """What really is at a path of one side, and how much of it psync knows."""

    entry: Entry  # as the next look shows it; with a digest if it has been read
    content: tuple[int, bytes]  # kind and bytes or target: what must not be lost
    touched_only: bool = False  # attributes alone changed since the last look
    is_intact: bool = False  # psync saw that nothing else happened to it since it was agreed on

    @property
    def is_precious(self) -> bool:
        return self.entry.kind != Kind.DIRECTORY


Tree = dict[bytes, Node]
Loser = tuple[bytes, tuple[int, bytes]]  # a path and the content that was there


@dataclass
class World:
    """Two trees, an archive, and the losers of conflicts."""

    chance: random.Random
    archive: Archive = field(default_factory=lambda: Archive(MemoryRows()))
    trees: tuple[Tree, Tree] = field(default_factory=lambda: ({}, {}))
    kept: list[Loser] = field(default_factory=list)
    trust_times: bool = False
    clock: itertools.count = field(default_factory=lambda: itertools.count(1000))

    # --- what users do

    def node(self, kind: int, text: bytes) -> Node:
        """Make something new; no two have one mtime, so that no conflict is a tie."""
        now = next(self.clock)
        digest = content_digest(text) if kind == Kind.FILE and self.chance.random() < 0.5 else b""
        entry = Entry(
            kind,
            0 if kind == Kind.SYMLINK else self.chance.choice([0o600, 0o644, 0o755]),
            self.chance.choice([0, 0, 5]),
            0,
            len(text) if kind == Kind.FILE else 0,
            now,
            text if kind == Kind.SYMLINK else b"",
            digest,
            now,
            0 if kind == Kind.DIRECTORY else now,
        )
        return Node(entry, (kind, b"" if kind == Kind.DIRECTORY else text))

    def anything(self) -> Node:
        kind = self.chance.choice([Kind.FILE, Kind.FILE, Kind.FILE, Kind.SYMLINK, Kind.DIRECTORY])
        return self.node(kind, self.chance.choice(TARGETS if kind == Kind.SYMLINK else TEXTS))

    def agree_on(self, path: bytes, node: Node) -> None:
        """Have both sides hold the same, and the archive say so."""
        twin = node.entry._replace(ino=node.entry.ino + 100_000)
        node.is_intact = True
        self.trees[0][path] = node
        self.trees[1][path] = Node(twin, node.content, is_intact=True)
        self.archive.put(path, agree(node.entry, node.entry, twin))

    def change(self, tree: Tree, path: bytes) -> None:
        """Do what a user may do to a path of one side."""
        old = tree.get(path)
        now = next(self.clock)
        verb = self.chance.choice(["make", "delete", "chmod", "chown", "touch", "save", "forge"])
        if verb == "make":
            tree[path] = self.anything()
        elif old is None:
            return
        elif verb == "delete":
            del tree[path]
        elif verb in ("save", "forge") and old.entry.kind == Kind.FILE:
            new = self.node(Kind.FILE, self.chance.choice(TEXTS))
            if verb == "forge":  # `cp -p`, `touch -r`: the old times, other or equal bytes
                new.entry = new.entry._replace(mtime_ns=old.entry.mtime_ns)
            tree[path] = new
        else:
            entry = old.entry
            if verb == "chmod" and entry.kind != Kind.SYMLINK:
                entry = entry._replace(mode=self.chance.choice([0o600, 0o640, 0o755]))
            elif verb == "chown":
                entry = entry._replace(uid=self.chance.choice([0, 5, 6]))
            else:
                entry = entry._replace(mtime_ns=now)
            ctime = 0 if entry.kind == Kind.DIRECTORY else now
            entry = entry._replace(ctime_ns=ctime, digest=self.chance.choice([b"", entry.digest]))
            intact = old.is_intact and self.chance.random() < 0.5
            tree[path] = Node(entry, old.content, touched_only=True, is_intact=intact)

    # --- what psync does

    def view(self, side: Side, path: bytes) -> View:
        node = self.trees[side].get(path)
        if node is None:
            return View(None)
        was = self.archive.get(path)
        if not node.touched_only or was is None:
            return View(node.entry)
        # The last look need not have been one at what is agreed.
        return View(node.entry, intact=node.is_intact, doubtful=True)

    def decide(self, path: bytes) -> Decision:
        views = self.view(Side.LEFT, path), self.view(Side.RIGHT, path)
        base = self.archive.get(path)
        decision = decide(base, *views, trust_times=self.trust_times)
        self.check_symmetry(path, views, decision)
        return decision

    def check_symmetry(self, path: bytes, views: tuple[View, View], decision: Decision) -> None:
        """Swapping the sides swaps the decision, but for versions of one time."""
        left, right = views
        if left.entry and right.entry and left.entry.mtime_ns == right.entry.mtime_ns:
            return
        base = self.archive.get(path)
        swapped = base and base._replace(
            left_ino=base.right_ino, left_ctime_ns=base.right_ctime_ns,
            right_ino=base.left_ino, right_ctime_ns=base.left_ctime_ns,
        )  # fmt: skip
        mirror = decide(swapped, right, left, trust_times=self.trust_times)
        if decision.verb in (Verb.COPY, Verb.REMOVE) or decision.partial:
            mirror = mirror._replace(source=mirror.source.other)
        assert mirror == decision

    def apply(self, path: bytes, decision: Decision) -> None:
        source, target = decision.source, decision.source.other
        ours, theirs = self.trees[source].get(path), self.trees[target].get(path)
        match decision.verb:
            case Verb.AGREE:
                self.record(path, decision.wanted)
            case Verb.FORGET:
                self.archive.remove(path)
            case Verb.COPY:
                assert ours is not None
                if theirs is not None and decision.conflict:
                    self.kept.append((path, theirs.content))
                now = next(self.clock)
                self.trees[target][path] = Node(
                    decision.wanted._replace(
                        ino=now, ctime_ns=0 if decision.wanted.kind == Kind.DIRECTORY else now
                    ),
                    ours.content,
                )
                self.record(path, decision.wanted)
            case Verb.REMOVE:
                del self.trees[target][path]
                self.archive.remove(path)
            case Verb.COMPARE:
                known = 0
                for tree in self.trees:
                    node = tree.get(path)
                    if node and node.entry.kind == Kind.FILE and not node.entry.digest:
                        node.entry = node.entry._replace(digest=content_digest(node.content[1]))
                        known += 1
                assert known, "what is asked for is not known yet"
            case Verb.ADJUST:
                for side in (source,) if decision.partial else Side:
                    self.adjust(self.trees[side][path], decision.wanted)

    def adjust(self, node: Node, wanted: Entry) -> None:
        node.entry = node.entry._replace(
            mode=wanted.mode, uid=wanted.uid, gid=wanted.gid, mtime_ns=wanted.mtime_ns,
            ctime_ns=0 if node.entry.kind == Kind.DIRECTORY else next(self.clock),
            digest=wanted.digest,
        )  # fmt: skip

    def record(self, path: bytes, wanted: Entry) -> None:
        self.archive.put(path, agree(wanted, self.trees[0][path].entry, self.trees[1][path].entry))
        for tree in self.trees:
            tree[path].touched_only, tree[path].is_intact = False, True

    def settle(self) -> int:
        """Decide and apply until every path is at rest; return the steps that the longest took."""
        longest = 0
        for path in self.chance.sample(NAMES, len(NAMES)):
            for step in range(STEPS_MAX + 1):
                decision = self.decide(path)
                if decision.verb is Verb.NOTHING:
                    break
                assert step < STEPS_MAX, f"{path!r} never rests: {decision}"
                self.apply(path, decision)
            longest = max(longest, step)
        return longest


def precious(world: World, before: dict[bytes, tuple[int, bytes]]) -> list[Loser]:
    """What must still be somewhere: content that a user made and the other side never saw."""
    return [
        (path, node.content)
        for tree in world.trees
        for path, node in tree.items()
        if node.is_precious and node.content != before.get(path)
    ]


def check_at_rest(world: World) -> None:
    left, right = world.trees
    assert left.keys() == right.keys()
    assert dict(world.archive.children(ROOT)).keys() == left.keys()
    for path, node in left.items():
        other = right[path]
        assert node.content == other.content
        assert node.entry.same_meta(other.entry)
        record = world.archive.get(path)
        assert record is not None
        for side, entry in ((Side.LEFT, node.entry), (Side.RIGHT, other.entry)):
            assert entry.same_identity(record.on(side)) and entry.same_meta(record.on(side))
        if record.digest:  # what is remembered of content is true
            assert record.digest == content_digest(node.content[1])


def check_nothing_lost(world: World, must: list[Loser]) -> None:
    for path, text in must:
        node = world.trees[0].get(path)
        is_there = node is not None and node.content == text
        assert is_there or (path, text) in world.kept, f"{text!r} at {path!r} is nowhere"


def moved_metadata(world: World, before: Tree) -> list[tuple[bytes, str, int]]:
    """What one side alone did to metadata, whatever the other did to the content."""
    moved = []
    for path, was in before.items():
        nodes = [tree.get(path) for tree in world.trees]
        for ours, theirs in (nodes, reversed(nodes)):
            if ours is None or ours.entry.kind != was.entry.kind:
                continue
            for name in ("mode", "uid"):
                old, new = getattr(was.entry, name), getattr(ours.entry, name)
                if new == old:
                    continue
                if theirs is None:
                    if ours.is_precious:  # it comes back
                        moved.append((path, name, new))
                elif theirs.entry.kind == was.entry.kind and getattr(theirs.entry, name) == old:
                    moved.append((path, name, new))
    return moved


def check_metadata_survived(world: World, moved: list[tuple[bytes, str, int]]) -> None:
    conflicts = {path for path, _ in world.kept}
    for path, name, value in moved:
        if path not in conflicts:  # a loser keeps its own
            assert getattr(world.trees[0][path].entry, name) == value, (path, name)


def perturb(world: World, changes: int) -> None:
    for _ in range(changes):
        world.change(world.chance.choice(world.trees), world.chance.choice(NAMES))


seeds = st.integers(0, 1 << 40)


class TestCanopy:
    @given(seeds)
    def test_that_was_agreed_on_comes_to_rest_and_loses_nothing(self, seed):
        world = World(random.Random(seed))
        for path in NAMES:
            if world.chance.random() < 0.7:
                world.agree_on(path, world.anything())
        for _ in range(world.chance.randrange(1, 4)):  # at rest, users go on
            agreed = dict(world.trees[0])
            before = {path: node.content for path, node in agreed.items()}
            perturb(world, world.chance.randrange(8))
            must, moved = precious(world, before), moved_metadata(world, agreed)
            world.kept.clear()
            world.settle()

            check_at_rest(world)
            check_nothing_lost(world, must)
            check_metadata_survived(world, moved)

    @given(seeds)
    def test_that_meets_for_the_first_time_is_united(self, seed):
        world = World(random.Random(seed))
        for tree in world.trees:
            for path in NAMES:
                if world.chance.random() < 0.7:
                    tree[path] = world.anything()
        must = precious(world, {})
        world.settle()

        check_at_rest(world)
        check_nothing_lost(world, must)

    @given(seeds)
    def test_that_meets_for_the_first_time_may_trust_honest_times(self, seed):
        world = World(random.Random(seed), trust_times=True)
        for path in NAMES:
            node = world.anything()
            for tree in world.trees:  # copied by `rsync -a`, then changed by people
                entry = node.entry._replace(ino=next(world.clock))
                tree[path] = Node(entry, node.content)
                if world.chance.random() < 0.4:
                    tree[path] = world.anything()
        must = precious(world, {})
        world.settle()

        check_at_rest(world)
        check_nothing_lost(world, must)

    @given(seeds)
    def test_loses_nothing_when_the_archive_is_older_than_the_trees(self, seed):
        # psync was killed before it could write down what it had done.
        world = World(random.Random(seed))
        for path in NAMES:
            world.agree_on(path, world.anything())
        before = {path: node.content for path, node in world.trees[0].items()}
        world.archive.freeze()
        world.archive.commit()
        perturb(world, 6)
        must = precious(world, before)
        world.settle()
        world.archive.roll_back()
        for node in itertools.chain.from_iterable(tree.values() for tree in world.trees):
            node.touched_only = node.is_intact = False  # a new process has seen nothing
        world.settle()

        check_at_rest(world)
        check_nothing_lost(world, must)

    @pytest.mark.parametrize("seed", range(20))
    def test_that_nobody_changes_rests_at_once(self, seed):
        world = World(random.Random(seed))
        for path in NAMES:
            world.agree_on(path, world.anything())

        assert world.settle() == 0
        assert not world.kept

    @pytest.mark.parametrize("seed", range(20))
    def test_of_which_one_side_changed_has_no_conflict(self, seed):
        world = World(random.Random(seed))
        for path in NAMES:
            node = world.anything()
            node.entry = node.entry._replace(
                digest=content_digest(node.content[1]) if node.entry.kind == Kind.FILE else b""
            )
            world.agree_on(path, node)
        for _ in range(8):
            world.change(world.trees[1], world.chance.choice(NAMES))
        wanted = {path: node.content for path, node in world.trees[1].items()}
        world.settle()

        check_at_rest(world)
        assert not world.kept
        assert {path: node.content for path, node in world.trees[0].items()} == wanted
