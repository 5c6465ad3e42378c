"""A short race of each way of saving; `python -m tests.agent.saverace` is the long one."""

from __future__ import annotations

import os
import tempfile
import warnings
from pathlib import Path

import pytest

from tests.agent.saverace import WAYS, race, without_leases

ROUNDS = 25
SCENARIOS = [  # ids as in docs/FAILURES.md
    pytest.param("truncating", id="w01 truncating"),
    pytest.param("in_place", id="w01 in place"),
    pytest.param("by_rename", id="by rename"),
    pytest.param("as_vim", id="w02 as vim"),
    pytest.param("appending", id="w08 appending"),
    pytest.param("mapped", id="w09 mapped"),
    pytest.param("truncating_by_name", id="w12 truncating by name"),
    pytest.param("unnoticed", id="w11 unnoticed"),
]


@pytest.fixture
def place():
    shared = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=shared, prefix="psync-saverace-") as directory:
        yield Path(directory)


def test_every_way_of_saving_is_raced():
    assert [scenario.values for scenario in SCENARIOS] == [(way,) for way in WAYS]


@pytest.mark.parametrize("way", SCENARIOS)
class TestRace:
    @pytest.mark.parametrize("verb", ["put", "delete"])
    def test_loses_nothing(self, place, way, verb):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # a fork among threads
            lost, happened = race(place, way, ROUNDS, verb=verb)

        assert lost == []
        assert sum(happened[each] for each in ("applied", "changed", "in use")) == ROUNDS

    def test_loses_nothing_without_leases(self, place, way):
        with warnings.catch_warnings(), without_leases():
            warnings.simplefilter("ignore", DeprecationWarning)
            lost, _ = race(place, way, ROUNDS, seed=2)

        assert lost == []
