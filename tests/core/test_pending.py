"""What waits, for what, and how long."""

from __future__ import annotations

import pytest

from psync.core.entry import Side
from psync.core.pending import QUIET_ATTEMPTS, Pending


@pytest.fixture
def pending() -> Pending:
    made = Pending()
    made.now = 100.0
    return made


class TestHolding:
    def test_ends_when_something_happens_at_the_holder(self, pending: Pending) -> None:
        pending.hold(b"d/f", b"d")
        pending.hold(b"d/g", b"d")
        pending.release(b"e")
        assert pending.dirty == {}
        pending.release(b"d")

        assert list(pending.dirty) == [b"d/f", b"d/g"]
        assert pending.held == {}

    def test_of_all_ends_at_once(self, pending: Pending) -> None:
        pending.hold(b"d/f", b"d")
        pending.hold(b"e/f", b"e")
        pending.release_all()

        assert list(pending.dirty) == [b"d/f", b"e/f"]

    def test_ends_when_the_holder_comes_to_rest(self, pending: Pending) -> None:
        pending.touch(b"d")
        pending.hold(b"d/f", b"d")
        pending.fail(b"d", Side.LEFT, "full")
        pending.rest(b"d")

        assert b"d/f" in pending.dirty
        assert pending.since == {}
        assert pending.problems == {}


class TestSince:
    def test_is_the_oldest_news(self, pending: Pending) -> None:
        pending.sequence = 3
        pending.touch(b"f")
        pending.sequence = 4
        pending.touch(b"f")

        assert pending.since == {b"f": 3}


class TestAsking:
    def test_is_a_lasting_problem_for_all_who_wait(self, pending: Pending) -> None:
        for path in (b"p", b"p/d", b"p/d/x", b"f"):
            pending.touch(path)
        pending.hold(b"p/d", b"p")
        pending.hold(b"p/d/x", b"p/d")

        assert pending.asleep == 0
        assert pending.asleep_below(b"p") is None
        assert pending.ask(b"p", Side.LEFT, "which?")
        assert pending.asleep == 3
        assert pending.asleep_below(b"p") == b"p/d"
        assert pending.asleep_below(b"f") is None
        for path in (b"p", b"p/d/x"):
            problem = pending.lasting(path)
            assert problem is not None and problem[:3] == (b"p", Side.LEFT, "which?")
        assert pending.lasting(b"f") is None
        assert pending.deadline is None

    def test_is_news_until_it_is_at_rest(self, pending: Pending) -> None:
        assert pending.ask(b"p", Side.LEFT, "which?")
        assert not pending.ask(b"p", Side.LEFT, "which?")
        pending.rest(b"p")

        assert pending.asked == {}
        assert pending.ask(b"p", Side.LEFT, "which?")

    def test_waits_for_nobody_else(self, pending: Pending) -> None:
        pending.hold(b"d/p", b"d")
        pending.ask(b"d/p", Side.LEFT, "which?")

        assert pending.held == {}

    def test_is_no_problem_any_more(self, pending: Pending) -> None:
        pending.touch(b"p")
        for _ in range(QUIET_ATTEMPTS):
            pending.fail(b"p", Side.LEFT, "in use", soon=True)
        pending.ask(b"p", Side.LEFT, "which?")

        assert pending.problems == {}

    def test_ends_when_it_may_be_another_question(self, pending: Pending) -> None:
        pending.ask(b"p", Side.LEFT, "which?")
        pending.ask_anew()

        assert pending.asked == {}
        assert list(pending.dirty) == [b"p"]


class TestProblem:
    @pytest.mark.parametrize(("soon", "longest"), [(False, 60.0), (True, 2.0)])
    def test_is_tried_again_less_and_less_often(
        self, pending: Pending, soon: bool, longest: float
    ) -> None:
        waits = []
        for attempt in range(1, 40):
            assert pending.fail(b"f", Side.LEFT, "full", soon=soon) == min(attempt, 31)
            assert pending.deadline is not None
            waits.append(pending.problems[b"f"].due - pending.now)

        assert waits[0] == pytest.approx(0.1)
        assert waits == sorted(waits)
        assert waits[-1] == longest

    def test_that_keeps_changing_is_tried_at_once_a_few_times(self, pending: Pending) -> None:
        waits = []
        for _ in range(QUIET_ATTEMPTS):
            pending.changed(b"f", Side.LEFT)
            waits.append(pending.problems[b"f"].due - pending.now)

        assert waits == pytest.approx([0.0, 0.0, 0.4])

    def test_is_put_off_until_its_time(self, pending: Pending) -> None:
        pending.fail(b"f", Side.LEFT, "full")
        pending.fail(b"g", Side.LEFT, "full")
        pending.fail(b"g", Side.LEFT, "full")
        assert pending.is_put_off(b"f")
        assert not pending.is_put_off(b"h")
        pending.retry()
        assert pending.dirty == {}
        assert pending.deadline == pytest.approx(100.1)
        pending.now = 100.1
        pending.retry()

        assert list(pending.dirty) == [b"f"]
        assert pending.deadline == pytest.approx(100.2)

    def test_is_hurried_when_something_happens_there(self, pending: Pending) -> None:
        pending.fail(b"f", Side.LEFT, "full")
        pending.hurry(b"f")
        pending.hurry(b"nothing")
        pending.hurry_all()

        assert not pending.is_put_off(b"f")
        assert pending.deadline == 100.0

    def test_is_hurried_when_something_happens_to_its_directory(self, pending: Pending) -> None:
        for path in (b"d/f", b"d/e/f", b"f"):
            pending.fail(path, Side.LEFT, "Permission denied")
        pending.hurry_in(b"d")

        assert [p for p in pending.problems if not pending.is_put_off(p)] == [b"d/f"]

    def test_leaves_no_deadline_behind(self, pending: Pending) -> None:
        pending.fail(b"f", Side.LEFT, "full")
        pending.rest(b"f")

        assert pending.deadline is None
        pending.retry()
        assert pending.dirty == {}
