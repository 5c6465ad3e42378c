"""The part of the model check that takes seconds; `tests.agent.modelcheck` has the rest."""

from __future__ import annotations

import os
import tempfile
from itertools import islice
from pathlib import Path

import pytest

from tests.agent.modelcheck import ACTIONS, KINDS, TRANSITIONS, Schedule, run, run_row, schedules

SCHEDULES_MAX = 400  # no row is as long


@pytest.fixture
def place():
    """A directory to work in: in memory where there is room."""
    shared = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=shared, prefix="psync-modelcheck-") as directory:
        yield Path(directory)


@pytest.mark.parametrize("transition", TRANSITIONS)
class TestEverySchedule:
    @pytest.mark.parametrize("lease", [True, False], ids=["lease", "no lease"])
    def test_of_one_user_loses_nothing(self, place, transition, lease):
        """Actions are dealt out to the transitions here: the command tries each with each."""
        rows = list(schedules("one", transition, lease))
        step = 3 if lease else 6
        first = list(TRANSITIONS).index(transition) % step
        count = 0
        for row in rows[first::step]:
            some, violated = run_row(row, place)
            assert not violated, violated[0]
            count += some
        assert count > step

    def test_with_a_kill_at_each_call_loses_nothing(self, place, transition):
        count, violated = run_row(
            (Schedule(transition, killed=at) for at in range(SCHEDULES_MAX)), place
        )

        assert not violated, violated[0]
        assert 3 < count < SCHEDULES_MAX


@pytest.mark.parametrize("transition", ["replace", "delete", "rename-over"])
def test_a_kill_at_each_call_of_a_recovery_loses_nothing(place, transition):
    total = 0
    killed = 8
    while True:  # a kill of which something is left to be recovered
        row = (Schedule(transition, killed=killed, again=at) for at in range(SCHEDULES_MAX))
        count, violated = run_row(row, place)
        assert not violated, violated[0]
        total += count
        if not count or total > 20:
            break
        killed += 3
    assert total > 10


class TestSchedules:
    def test_are_none_beyond_the_last_call(self, place):
        assert run(Schedule("create", first="remove", first_at=0), place / "a")
        assert not run(Schedule("create", first="remove", first_at=300), place / "b")
        assert not run(Schedule("create", killed=300), place / "c")

    def test_of_each_kind_are_there(self):
        for kind in KINDS:
            rows = list(islice(schedules(kind, "create", True), 3))
            assert rows
            assert next(rows[0]).transition == "create"

    def test_have_users_who_do_what_people_do(self):
        assert set(ACTIONS) >= {
            "save_in_place", "save_by_rename", "remove", "move_away", "make_anew", "truncate",
            "change_mode", "link", "append",
        }  # fmt: skip
