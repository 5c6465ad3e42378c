"""The part of the small worlds that takes seconds; `tests.simulation.exhaustive` has the rest."""

from __future__ import annotations

import pickle

import pytest

from tests.simulation.agent import Agent
from tests.simulation.exhaustive import TREES, Bounds, Canon, SmallWorld, explore


class TestEveryInterleaving:
    @pytest.mark.parametrize(
        ("ours", "theirs"),
        [
            pytest.param(("save", "a"), ("save", "a"), id="two edits"),
            pytest.param(("delete", "a"), ("save", "a"), id="a deletion and an edit"),
        ],
    )
    def test_of_two_operations_loses_nothing_and_comes_to_rest(self, ours, theirs):
        found = explore(TREES["a file"], Bounds(1, 0), ((ours,), (theirs,)))

        assert not found.violated, found.violated[0]
        assert found.states > 100
        assert found.rests > 2

    def test_of_one_operation_and_a_fault_loses_nothing(self):
        found = explore(TREES["a file"], Bounds(1, 1), ((("save", "a"),), ()))

        assert not found.violated, found.violated[0]
        assert found.states > 100
        assert found.rests > 2


class TestWorlds:
    def test_that_behave_alike_are_one(self):
        one, two = (SmallWorld(TREES["two files"], Bounds(1, 0)) for _ in "12")
        two._ticks += 7_000_000  # another time of the day
        one.do(("user", "0", "save", "a"))
        one.do(("user", "1", "save", "b"))
        two.do(("user", "1", "save", "b"))
        two.do(("user", "0", "save", "a"))

        assert Canon(one.now).digest(one) != Canon(two.now).digest(two)  # which was later counts
        three = pickle.loads(pickle.dumps(one))
        three._ticks += 5_000_000
        assert Canon(one.now).digest(one) == Canon(three.now).digest(three)

    def test_that_differ_are_two(self):
        one, two = (SmallWorld(TREES["a file"], Bounds(1, 0)) for _ in "12")
        one.do(("user", "0", "save", "a"))
        two.do(("user", "0", "delete", "a"))

        assert Canon(one.now).digest(one) != Canon(two.now).digest(two)

    def test_that_lose_something_are_found(self, monkeypatch):
        """The agents take every event at a path that they wrote to for their own."""
        monkeypatch.setattr(Agent, "_is_echo", lambda self, path, entry: path in self._own)

        operations = ((("save", "a"),), (("save", "a"),))
        found = explore(TREES["a file"], Bounds(1, 0), operations, violations_max=1)

        assert len(found.violated) == 1
        assert "different" in found.violated[0][0]
