"""The core against two file systems in memory, with everything that goes wrong in between.

Each seed is a world: users on both sides, agents that speak the real messages, links that delay
and break, brains that are killed, power that fails. What must hold at the end is in
`World.check`. `python -m tests.simulation.hunt FIRST COUNT` runs as many more as one likes.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.simulation.world import World

ACTIONS = 40
IN_A_TEST = 25
IN_A_RUN = 50


def live(seed: int, *, faults: bool, actions: int = ACTIONS) -> list[str]:
    world = World(seed, faults=faults, keep_trace=True)
    world.live(actions)
    return list(world.lines or [])


def live_all(first: int, *, faults: bool, actions: int = ACTIONS) -> None:
    for seed in range(first, first + IN_A_TEST):
        try:
            live(seed, faults=faults, actions=actions)
        except Exception as error:
            raise AssertionError(f"seed {seed}: {error}") from error


class TestWorlds:
    @pytest.mark.parametrize("first", range(0, 200, IN_A_TEST))
    def test_come_to_rest_without_a_loss_whatever_fails(self, first: int) -> None:
        live_all(first, faults=True)

    @pytest.mark.parametrize("first", range(10_000, 10_100, IN_A_TEST))
    def test_come_to_rest_when_nothing_fails(self, first: int) -> None:
        live_all(first, faults=False)

    @pytest.mark.parametrize("first", range(20_000, 20_100, IN_A_TEST))
    def test_come_to_rest_after_a_longer_life(self, first: int) -> None:
        live_all(first, faults=True, actions=2 * ACTIONS)


class TestReplay:
    @pytest.mark.parametrize("seed", [3, 7, 41, 113])
    def test_of_a_seed_is_the_same_twice(self, seed: int) -> None:
        assert live(seed, faults=True) == live(seed, faults=True)

    @pytest.mark.parametrize("first", range(0, 500, IN_A_RUN))
    def test_of_each_seed_is_the_same_whatever_the_order_of_hashes(self, first: int) -> None:
        hunt = [sys.executable, "-m", "tests.simulation.hunt"]
        command = [*hunt, str(first), str(IN_A_RUN), "--traces"]
        runs = [
            subprocess.Popen(
                command, env={**os.environ, "PYTHONHASHSEED": chance}, stdout=subprocess.PIPE,
                text=True,
            )
            for chance in ("1", "2")
        ]  # fmt: skip
        one, two = (run.communicate(timeout=100)[0].splitlines() for run in runs)

        assert one[-1] == f"0 of {IN_A_RUN} failed {{}}"
        assert len(one) == IN_A_RUN + 1
        assert [lines for lines in zip(one, two, strict=True) if lines[0] != lines[1]] == []
