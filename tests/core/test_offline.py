"""What both users did while psync was off, deep in a tree, told and answered in any order.

The simulated worlds are shallow, so that their users meet often. Here trees are deep, and
directories are moved into each other.
"""

from __future__ import annotations

import random

import pytest

from psync.core.entry import Side, below_or_at, join
from psync.core.events import State
from tests.core.test_session import LEFT, RIGHT, Duo, Hand


def meet(duo: Duo, rng: random.Random) -> None:
    """Let both sides come up, and answer in some order, until nothing happens any more."""
    sides = rng.sample(list(Side), 2)
    for side in sides:
        duo.up(side)
    for side in sides:
        duo.say(side, *duo.hands[side].scan())
    for _ in range(5000):
        busy = [side for side in Side if duo.hands[side].inbox]
        if busy:
            hand = duo.hands[side := rng.choice(busy)]
            duo.say(side, *hand.answers(hand.inbox.pop(0)))
        elif duo.session.deadline() is None:
            return
        else:
            duo.wait()
    raise AssertionError("it never comes to rest")


def act(hand: Hand, rng: random.Random, new: bytes) -> None:
    """Let a user move, remove, edit or make something, with content that is new."""
    paths = sorted(hand.tree)
    if not paths:
        return
    path = rng.choice(paths)
    what = rng.random()
    if what < 0.65:
        place = rng.choice([b"", *(p for p in paths if hand.is_directory(p))])
        name = rng.choice([path.rpartition(b"/")[2], new])
        if not below_or_at(place, path) and join(place, name) not in hand.tree:
            hand.rename(path, join(place, name))
    elif what < 0.85:
        hand.remove(path)
    elif hand.is_directory(path):
        hand.make(join(path, new), new)
    else:
        hand.edit(path, new, mtime_ns=10**18 + rng.randrange(100))


def world(seed: int) -> Duo:
    rng = random.Random(seed)
    tree: dict[bytes, bytes | None] = {}
    directories = [b""]
    for number in range(rng.randint(4, 9)):
        directories.append(join(rng.choice(directories), b"d%d" % number))
        tree[directories[-1]] = None
    for number in range(rng.randint(3, 8)):
        tree[join(rng.choice(directories), b"f%d" % number)] = b"t%d" % number
    duo = Duo(tree, start=False)
    for side in Side:
        for number in range(rng.randint(1, 5)):
            act(duo.hands[side], rng, b"n%d%d" % (side, number))
    meet(duo, rng)
    return duo


def agree(seed: int) -> None:
    duo = world(seed)
    if duo.session.state is not State.HALTED:
        assert duo.shape(LEFT) == duo.shape(RIGHT), seed
        assert duo.session.settled(duo.session.mark()), seed


@pytest.mark.parametrize("first", range(0, 1000, 250))
def test_all_of_it_comes_to_rest_the_same(first: int) -> None:
    for seed in range(first, first + 250):
        agree(seed)


@pytest.mark.parametrize("seed", [19991, 45604])
def test_moves_into_each_other_do_not_wait_for_each_other_for_ever(seed: int) -> None:
    """The last of a circle to wait was one that was to be removed with its directory."""
    agree(seed)


def test_a_deletion_in_what_was_moved_with_all_that_is_around_it_is_not_forgotten() -> None:
    """A listing of all that is in a directory was under way when something in it was moved."""
    for seed in range(150):
        tree = {b"a/b/D/c/f": b"1", b"a/b/D/c/g": b"2", b"a/b/D/c/n/big": b"3"}
        duo = Duo({**tree, b"X": None, b"Y": None, b"Z": None}, start=False)
        duo.right.rename(b"a/b/D", b"X/D")
        duo.left.rename(b"a", b"Y/b")
        duo.left.rename(b"Y/b/b/D/c/n", b"Z/n")
        duo.left.remove(b"Y/b/b/D/c/g")
        meet(duo, random.Random(seed))

        assert duo.shape(LEFT) == duo.shape(RIGHT), seed
