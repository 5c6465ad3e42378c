"""How fast and how far behind: what is told of a session to who watches it."""

from __future__ import annotations

import pytest

from psync.core.entry import Side
from psync.pace import CHANGES_MAX, RATE_OVER_S, SLOT_S, Pace

LEFT, RIGHT = Side
NOTHING = (0, 0)


class TestLag:
    def test_is_nothing_where_nothing_waits(self):
        assert Pace(100.0).lag(None, 105.0) == 0.0

    def test_counts_from_when_it_was_observed(self):
        pace = Pace(100.0)
        for second in range(1, 11):
            pace.note(100.0 + second, second, NOTHING, NOTHING)

        assert pace.lag(3, 120.0) == 17.0
        assert pace.lag(10, 120.0) == 10.0

    def test_is_at_most_a_slot_too_large_and_never_too_small(self):
        pace = Pace(0.0)
        for number in range(1, 101):
            pace.note(10.0 + number * 0.01, number, NOTHING, NOTHING)

        for number in range(1, 101):
            true = 20.0 - (10.0 + number * 0.01)
            assert true - 1e-9 <= pace.lag(number, 20.0) <= true + SLOT_S

    def test_of_what_nobody_has_noted_yet_is_nothing(self):
        pace = Pace(100.0)
        pace.note(101.0, 5, NOTHING, NOTHING)

        assert pace.lag(6, 160.0) == 0.0

    def test_goes_back_no_further_than_when_nothing_waited(self):
        pace = Pace(100.0)
        pace.note(150.0, 7, NOTHING, NOTHING, at_rest=True)
        pace.note(160.0, 8, NOTHING, NOTHING)

        assert pace.lag(0, 170.0) == 20.0

    def test_stays_true_within_an_eighth_over_a_day_of_work_without_pause(self):
        pace = Pace(0.0)
        end = 86_400
        for second in range(1, end + 1):
            pace.note(float(second), second, NOTHING, NOTHING)
            assert len(pace._slots) <= 512

        for number in range(1, end, 997):
            true = float(end - number)
            assert true <= pace.lag(number, float(end)) <= true * 8 / 7 + SLOT_S


class TestRates:
    def test_are_those_of_the_last_seconds_on_each_side(self):
        pace = Pace(0.0)
        pace.note(50.0, 1, (100, 0), (9000, 0))
        pace.note(95.0, 2, (110, 20), (9500, 400))

        assert pace.rates(LEFT, 100.0, (110, 20), (9500, 400)) == (10 / RATE_OVER_S, 50.0)
        assert pace.rates(RIGHT, 100.0, (110, 20), (9500, 400)) == (20 / RATE_OVER_S, 40.0)

    def test_come_to_nothing_when_nothing_happens(self):
        pace = Pace(0.0)
        for step in range(4):  # all of it within a slot
            pace.note(50.0 + step * 0.01, step, (step, 0), NOTHING)

        assert pace.rates(LEFT, 55.0, (3, 0), NOTHING) == (0.3, 0.0)
        assert pace.rates(LEFT, 61.0, (3, 0), NOTHING) == (0.0, 0.0)

    def test_begin_with_the_session(self):
        pace = Pace(100.0)
        pace.note(100.1, 4, (4, 0), NOTHING)

        assert pace.rates(LEFT, 102.0, (4, 0), NOTHING) == (2.0, 0.0)


class TestChanges:
    def test_are_the_last_ones_the_newest_first_and_for_people(self):
        pace = Pace(0.0)
        for number in range(CHANGES_MAX + 5):
            pace.changed(float(number), RIGHT, b"a\n%d\xff" % number, "created")

        told = pace.last_changes()

        assert len(told) == CHANGES_MAX
        last = CHANGES_MAX + 4
        assert told[0] == {
            "time": float(last), "side": "right", "path": f"a\\n{last}\\xff", "what": "created",
        }  # fmt: skip


class TestState:
    @pytest.mark.parametrize("again", [1, 2])
    def test_is_known_since_it_changed(self, again):
        pace = Pace(0.0)
        pace.is_in("scanning", 1000.0)
        for step in range(again):
            pace.is_in("watching", 2000.0 + step)

        assert pace.state_since == 2000.0
