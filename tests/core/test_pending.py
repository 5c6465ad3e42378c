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

    def test_leaves_no_deadline_behind(self, pending: Pending) -> None:
        pending.fail(b"f", Side.LEFT, "full")
        pending.rest(b"f")

        assert pending.deadline is None
        pending.retry()
        assert pending.dirty == {}
