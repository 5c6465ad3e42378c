"""When a path is due, and under which name."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from psync.core.settle import (
    ATTRIBUTES,
    CLOSED,
    CREATED,
    DEEP,
    DELETED,
    DIRECTORY,
    HELD,
    LIST,
    MODIFIED,
    MOVED,
    MOVED_IN,
    MOVED_OUT,
    PASSED,
    Due,
    Settle,
)

SETTLE, MAX_DELAY = 0.05, 1.0


@pytest.fixture
def settle() -> Settle:
    return Settle(50, 1000)


def paths(due: list[Due]) -> list[bytes]:
    return [d.path for d in due]


class TestDue:
    @pytest.mark.parametrize(
        "mask", [CLOSED, DELETED, MOVED_IN, MOVED_OUT, ATTRIBUTES, LIST | DIRECTORY]
    )
    def test_is_at_once_for_all_but_writes(self, settle: Settle, mask: int) -> None:
        settle.note(b"f", mask, 10.0)

        assert settle.deadline() == 0.0
        assert paths(settle.due(10.0)) == [b"f"]
        assert settle.due(11.0) == []
        assert settle.deadline() is None

    @pytest.mark.parametrize("mask", [CREATED, MODIFIED, CREATED | MODIFIED])
    def test_waits_for_a_writer_to_be_quiet(self, settle: Settle, mask: int) -> None:
        settle.note(b"f", mask, 10.0)

        assert settle.due(10.0) == []
        assert settle.waits(b"f")
        assert settle.deadline() == pytest.approx(10.05)
        assert settle.due(10.05) == [Due(b"f", False, False, mask, b"")]

    def test_is_when_other_times_say_from_then_on(self, settle: Settle) -> None:
        settle.note(b"f", MODIFIED, 10.0)
        settle.take_over(200, 100)
        settle.note(b"g", MODIFIED, 10.0)

        assert paths(settle.due(10.05)) == [b"f"]
        assert paths(settle.due(10.19)) == []
        assert paths(settle.due(10.2)) == [b"g"]

    def test_comes_with_the_close(self, settle: Settle) -> None:
        settle.note(b"f", CREATED, 10.0)
        settle.note(b"f", MODIFIED, 10.01)
        assert not settle.is_ready(b"f")
        settle.note(b"f", CLOSED, 10.02)
        assert settle.is_ready(b"f")

        assert settle.due(10.02) == [Due(b"f", False, False, CREATED | MODIFIED | CLOSED, b"")]

    def test_waits_on_when_it_is_written_again_after_the_close(self, settle: Settle) -> None:
        settle.note(b"f", CLOSED, 10.0)
        settle.note(b"f", MODIFIED, 10.0)

        assert settle.due(10.01) == []
        assert paths(settle.due(10.06)) == [b"f"]

    def test_is_put_off_by_further_writes_but_not_for_ever(self, settle: Settle) -> None:
        now = 10.0
        while now < 10.97:
            settle.note(b"f", MODIFIED, now)
            assert settle.due(now) == []
            now += 0.03
        settle.note(b"f", MODIFIED, 10.99)

        assert settle.deadline() is not None
        due = settle.due(11.0)
        assert due == [Due(b"f", False, True, MODIFIED, b"")]

    def test_is_not_hastened_by_attributes(self, settle: Settle) -> None:
        settle.note(b"f", MODIFIED, 10.0)
        settle.note(b"f", ATTRIBUTES, 10.01)

        assert settle.due(10.02) == []
        assert settle.due(10.05)[0].meta_only is False

    def test_tells_when_only_attributes_changed(self, settle: Settle) -> None:
        settle.note(b"f", ATTRIBUTES, 10.0)
        settle.note(b"f", ATTRIBUTES, 10.0)
        settle.note(b"d", ATTRIBUTES | DIRECTORY, 10.0)
        settle.note(b"g", ATTRIBUTES, 10.0)
        settle.note(b"g", CLOSED, 10.0)

        assert [d.meta_only for d in settle.due(10.0)] == [True, True, False]

    def test_tells_when_only_the_name_changed(self, settle: Settle) -> None:
        settle.note(b"b", ATTRIBUTES, 10.0)
        settle.rename(b"a", b"aa", False, 10.0)
        settle.rename(b"b", b"bb", False, 10.0)
        settle.rename(b"c", b"cc", False, 10.0)
        settle.note(b"cc", CLOSED, 10.0)
        settle.note(b"d", MODIFIED, 10.0)
        settle.rename(b"d", b"dd", False, 10.0)
        due = {d.path: d.meta_only for d in settle.due(10.0) if d.moved_from}

        assert due == {b"aa": True, b"bb": True, b"cc": False, b"dd": False}

    def test_remembers_only_the_last_word_on_being_gone(self, settle: Settle) -> None:
        settle.note(b"gone", CLOSED, 10.0)
        settle.note(b"gone", DELETED, 10.0)
        settle.note(b"back", DELETED, 10.0)
        settle.note(b"back", MOVED_IN, 10.0)
        gone, back = settle.due(10.0)

        assert gone.mask == CLOSED | DELETED
        assert back.mask == MOVED_IN

    def test_forgets_nothing_for_a_late_word_on_being_gone(self, settle: Settle) -> None:
        settle.note(b"d", LIST | DIRECTORY, 10.0)
        settle.note(b"d", MOVED_OUT | DIRECTORY, 10.0)
        settle.rename(b"e", b"f", False, 10.0)
        settle.note(b"f", MOVED_OUT, 10.0)
        listed, moved = settle.due(10.0)[0], settle.due(10.0)[0]

        assert listed.mask & LIST
        assert moved.moved_from == b"e"

    def test_takes_what_is_new_at_a_path_for_nothing_that_was_renamed(self, settle: Settle) -> None:
        settle.rename(b"a", b"b", False, 10.0)
        settle.note(b"b", DELETED, 10.0)
        settle.note(b"b", CREATED | CLOSED, 10.0)

        assert settle.due(10.0)[0] == Due(b"b", False, False, CREATED | CLOSED, b"")

    def test_keeps_the_order_and_the_limit(self, settle: Settle) -> None:
        for name in (b"c", b"a", b"b"):
            settle.note(name, CLOSED, 10.0)

        assert settle.ready == 3
        assert paths(settle.due(10.0, 2)) == [b"c", b"a"]
        assert settle.deadline() == 0.0
        assert paths(settle.due(10.0, 2)) == [b"b"]

    def test_gives_a_listing_last(self, settle: Settle) -> None:
        settle.note(b"a", CLOSED, 10.0)
        settle.note(b"d", LIST | DIRECTORY, 10.0)
        settle.note(b"d/f", CLOSED, 10.0)

        assert paths(settle.due(10.0)) == [b"a", b"d"]
        assert paths(settle.due(10.0)) == [b"d/f"]


class TestRename:
    def test_is_a_move_and_an_absence_in_this_order(self, settle: Settle) -> None:
        settle.rename(b"a", b"b", False, 10.0)

        assert settle.due(10.0) == [
            Due(b"b", True, False, MOVED, b"a"),
            Due(b"a", False, False, MOVED_OUT, b""),
        ]

    def test_makes_one_move_of_a_chain(self, settle: Settle) -> None:
        settle.rename(b"a", b"b", False, 10.0)
        settle.rename(b"b", b"c", False, 10.0)
        moved = [(d.path, d.moved_from) for d in settle.due(10.0)]

        assert moved == [(b"c", b"a"), (b"b", b""), (b"a", b"")]

    def test_makes_two_moves_of_a_swap(self, settle: Settle) -> None:
        settle.rename(b"a", b"t", False, 10.0)
        settle.rename(b"b", b"a", False, 10.0)
        settle.rename(b"t", b"b", False, 10.0)
        moved = {d.path: d.moved_from for d in settle.due(10.0)}

        assert moved == {b"a": b"b", b"b": b"a", b"t": b""}

    def test_is_none_when_it_led_back(self, settle: Settle) -> None:
        settle.rename(b"a", b"b", False, 10.0)
        settle.rename(b"b", b"a", False, 10.0)
        due = {d.path: d for d in settle.due(10.0)}

        assert due[b"a"].moved_from == b""
        assert not due[b"a"].mask & MOVED_OUT

    def test_takes_what_waits_along(self, settle: Settle) -> None:
        settle.note(b"f", MODIFIED, 10.0)
        settle.rename(b"f", b"g", False, 10.01)
        due = settle.due(10.01)

        assert due[0] == Due(b"g", False, False, MOVED | MODIFIED, b"f")
        assert settle.due(20.0) == []

    def test_takes_what_waits_below_along(self, settle: Settle) -> None:
        settle.note(b"d/ready", CLOSED, 10.0)
        settle.note(b"d/waiting", MODIFIED, 10.0)
        settle.note(b"dx", CLOSED, 10.0)
        settle.rename(b"d", b"e", True, 10.0)

        assert paths(settle.due(10.0)) == [b"dx", b"e", b"d", b"e/ready"]
        assert paths(settle.due(10.05)) == [b"e/waiting"]

    def test_comes_before_what_was_noted_of_its_new_name(self, settle: Settle) -> None:
        settle.note(b"e/f", CLOSED, 10.0)
        settle.note(b"ex", CLOSED, 10.0)
        settle.rename(b"d", b"e", True, 10.0)

        assert paths(settle.due(10.0)) == [b"ex", b"e", b"d", b"e/f"]

    def test_of_a_directory_that_is_new_keeps_its_listing(self, settle: Settle) -> None:
        settle.note(b"d", LIST | DIRECTORY, 10.0)
        settle.rename(b"d", b"e", True, 10.0)

        assert settle.due(10.0)[0].mask & LIST

    def test_puts_a_new_life_at_the_old_name_after_it(self, settle: Settle) -> None:
        settle.rename(b"a", b"b", False, 10.0)
        settle.note(b"a", CREATED, 10.0)
        settle.note(b"a", CLOSED, 10.0)
        due = settle.due(10.0)

        assert paths(due) == [b"b", b"a"]
        assert due[1].mask == CREATED | CLOSED


class TestRingsOfDirectories:
    """Directories that take each other's names: told in the order in which it can be done."""

    @staticmethod
    def told(settle: Settle) -> list[tuple[bytes, bytes, bytes]]:
        return [(d.path, d.moved_from, d.onward) for d in settle.due(10.0) if d.moved_from]

    def swap(self, settle: Settle) -> None:
        for old, new in ((b"a", b"t"), (b"b", b"a"), (b"t", b"b")):
            settle.rename(old, new, True, 10.0)

    def test_are_told_with_the_name_that_they_were_closed_by(self, settle: Settle) -> None:
        self.swap(settle)

        assert self.told(settle) == [(b"t", b"a", b"b"), (b"a", b"b", b""), (b"b", b"t", b"")]

    def test_may_be_of_three(self, settle: Settle) -> None:
        for old, new in ((b"a", b"t"), (b"b", b"a"), (b"c", b"b"), (b"t", b"c")):
            settle.rename(old, new, True, 10.0)

        assert self.told(settle) == [
            (b"t", b"a", b"c"),
            (b"a", b"b", b""),
            (b"b", b"c", b""),
            (b"c", b"t", b""),
        ]

    def test_come_before_what_is_in_them_and_after_what_was_noted_before(
        self, settle: Settle
    ) -> None:
        settle.note(b"before", CLOSED, 10.0)
        settle.note(b"a/f", CLOSED, 10.0)
        self.swap(settle)

        assert paths(settle.due(10.0)) == [b"before", b"t", b"a", b"b", b"b/f"]

    def test_are_told_of_where_the_last_one_went(self, settle: Settle) -> None:
        self.swap(settle)
        settle.rename(b"b", b"c", True, 10.0)

        assert self.told(settle) == [(b"t", b"a", b"c"), (b"a", b"b", b""), (b"c", b"t", b"")]

    @pytest.mark.parametrize("mask", [CREATED | CLOSED, MOVED_IN, LIST | DIRECTORY])
    def test_are_forgotten_with_a_new_life_at_the_name_passed(
        self, settle: Settle, mask: int
    ) -> None:
        self.swap(settle)
        settle.note(b"t", mask, 10.0)
        t = next(d for d in settle.due(10.0) if d.path == b"t")

        assert (t.mask & PASSED, t.moved_from, t.onward) == (0, b"", b"")

    def test_are_forgotten_with_what_leaves_the_name_passed_again(self, settle: Settle) -> None:
        self.swap(settle)
        settle.rename(b"t", b"x", True, 10.0)
        due = {d.path: d for d in settle.due(10.0)}

        assert (due[b"x"].mask, due[b"x"].moved_from) == (MOVED | DIRECTORY, b"t")
        assert due[b"t"].mask == MOVED_OUT | DIRECTORY

    def test_are_none_of_files(self, settle: Settle) -> None:
        for old, new in ((b"a", b"t"), (b"b", b"a"), (b"t", b"b")):
            settle.rename(old, new, False, 10.0)

        assert self.told(settle) == [(b"a", b"b", b""), (b"b", b"a", b"")]

    def test_are_none_where_a_directory_came_back(self, settle: Settle) -> None:
        settle.rename(b"a", b"t", True, 10.0)
        settle.rename(b"t", b"a", True, 10.0)

        assert self.told(settle) == []

    def test_made_again_and_again_come_to_an_end(self, settle: Settle) -> None:
        for _ in range(5):
            self.swap(settle)

        assert {d.path for d in settle.due(10.0)} == {b"a", b"b", b"t"}


class TestPuttingBack:
    def test_gives_the_same_again_in_the_same_order(self, settle: Settle) -> None:
        settle.rename(b"a", b"b", True, 10.0)
        settle.note(b"c", CLOSED, 10.0)
        first = settle.due(10.0)
        settle.note(b"d", CLOSED, 10.0)
        settle.put_back(first)

        again = settle.due(10.0)
        assert [d._replace(mask=d.mask & ~HELD) for d in again[:3]] == first
        assert paths(again) == [b"b", b"a", b"c", b"d"]
        assert all(d.mask & HELD for d in again[:3])

    def test_joins_what_was_noted_meanwhile(self, settle: Settle) -> None:
        settle.note(b"a", CLOSED, 10.0)
        first = settle.due(10.0)
        settle.note(b"a", ATTRIBUTES, 10.0)
        settle.put_back(first)

        assert [d.mask for d in settle.due(10.0)] == [CLOSED | ATTRIBUTES | HELD]

    def test_leaves_alone_what_is_held(self, settle: Settle) -> None:
        settle.note(b"a", CLOSED, 10.0)
        first = settle.due(10.0)
        settle.hold(b"a", 10.0, 1.0)
        settle.put_back(first)

        assert settle.due(10.5) == []
        assert paths(settle.due(11.0)) == [b"a"]


class TestTakingBack:
    def test_gives_a_busy_path_again_with_growing_patience_and_at_last_by_force(
        self, settle: Settle
    ) -> None:
        settle.note(b"f", CLOSED, 10.0)
        now, waits = 10.0, []
        while not (due := settle.due(now)) or not due[0].force:
            for d in due:
                settle.busy(d.path, now)
            deadline = settle.deadline()
            assert deadline is not None
            waits.append(deadline - now)
            now = deadline

        assert waits[0] == pytest.approx(0.001)
        assert waits[:-1] == sorted(waits[:-1])
        assert now == pytest.approx(11.0)
        assert due[0].mask & CLOSED

    def test_begins_anew_after_force_did_not_help(self, settle: Settle) -> None:
        settle.note(b"f", MODIFIED, 10.0)
        settle.note(b"f", MODIFIED, 10.99)
        assert settle.due(11.0)[0].force
        settle.busy(b"f", 11.0)

        assert not settle.due(11.002)[0].force

    def test_takes_a_busy_path_that_was_never_noted(self, settle: Settle) -> None:
        settle.busy(b"f", 10.0)

        assert paths(settle.due(10.001)) == [b"f"]

    def test_leaves_newer_news_alone(self, settle: Settle) -> None:
        settle.note(b"f", CLOSED, 10.0)
        settle.due(10.0)
        settle.note(b"f", DELETED, 10.0)
        settle.busy(b"f", 10.0)
        settle.hold(b"f", 10.0, 5.0)

        assert settle.due(10.0)[0].mask == DELETED

    def test_holds_with_all_that_was_known(self, settle: Settle) -> None:
        settle.rename(b"a", b"b", False, 10.0)
        for d in settle.due(10.0):
            settle.hold(d.path, 10.0, 0.005)

        assert settle.due(10.004) == []
        assert settle.due(10.005) == [
            Due(b"b", True, False, MOVED | HELD, b"a"),
            Due(b"a", False, False, MOVED_OUT | HELD, b""),
        ]

    @pytest.mark.parametrize("directory", [False, True])
    def test_holds_what_is_renamed_further_anew_if_it_is_a_file(
        self, settle: Settle, directory: bool
    ) -> None:
        settle.rename(b"a", b"b", directory, 10.0)
        settle.due(10.0)
        settle.hold(b"b", 10.0, 0.005)
        settle.rename(b"b", b"c", directory, 10.001)
        due = settle.due(10.001)[0]

        assert (due.path, due.moved_from, due.meta_only) == (b"c", b"a", True)
        assert bool(due.mask & HELD) == directory

    def test_holds_what_is_due_and_only_gone(self, settle: Settle) -> None:
        settle.rename(b"a", b"b", False, 10.0)
        settle.note(b"c", CLOSED, 10.0)
        assert paths(settle.due(10.0, 1)) == [b"b"]
        settle.hold(b"b", 10.0, 0.005)
        settle.hold(b"a", 10.0, 0.005)
        settle.hold(b"c", 10.0, 0.005)

        assert paths(settle.due(10.0)) == [b"c"]
        assert paths(settle.due(10.005)) == [b"b", b"a"]

    def test_goes_on_with_a_held_move_when_its_next_event_comes(self, settle: Settle) -> None:
        settle.rename(b"a", b"b", False, 10.0)
        for d in settle.due(10.0):
            settle.hold(d.path, 10.0, 0.005)
        settle.rename(b"b", b"c", False, 10.001)
        due = settle.due(10.001)

        assert due[0].path == b"c"
        assert due[0].moved_from == b"a"

    def test_ends_a_hold_when_anything_happens(self, settle: Settle) -> None:
        settle.hold(b"f", 10.0, 60.0)
        settle.note(b"f", ATTRIBUTES, 11.0)

        assert paths(settle.due(11.0)) == [b"f"]


class TestBounds:
    def test_says_when_there_are_too_many_and_recovers(self) -> None:
        settle = Settle(50, 1000, paths_max=3)
        for i in range(4):
            settle.note(b"%d" % i, CLOSED, 10.0)

        before = settle.overflowed
        assert (before, len(settle)) == (True, 3)
        settle.clear()
        assert (settle.overflowed, len(settle)) == (False, 0)
        assert settle.deadline() is None

    def test_counts_what_is_taken_back_and_renamed(self) -> None:
        settle = Settle(50, 1000, paths_max=1)
        settle.note(b"a", CLOSED, 10.0)
        settle.busy(b"b", 10.0)
        full = settle.overflowed
        settle.clear()
        settle.rename(b"a", b"b", False, 10.0)

        assert (full, settle.overflowed) == (True, True)

    def test_makes_all_due_by_force_for_a_flush(self, settle: Settle) -> None:
        settle.note(b"waiting", MODIFIED, 10.0)
        settle.note(b"ready", CLOSED, 10.0)
        settle.expedite()

        assert {(d.path, d.force) for d in settle.due(10.0)} == {
            (b"waiting", True),
            (b"ready", True),
        }
        assert settle.due(20.0) == []


class Events(RuleBasedStateMachine):
    """Whatever happens: each path that was noted comes out, once, in bounded time."""

    names = st.sampled_from([b"a", b"b", b"d", b"d/f", b"d/g", b"e", b"e/f"])
    masks = st.sampled_from(
        [CREATED, MODIFIED, CLOSED, ATTRIBUTES, DELETED, MOVED_IN, LIST | DEEP | DIRECTORY]
    )

    def __init__(self) -> None:
        super().__init__()
        self.settle = Settle(50, 1000)
        self.now = 10.0
        self.owed: dict[bytes, float] = {}

    @rule(path=names, mask=masks)
    def note(self, path: bytes, mask: int) -> None:
        self.settle.note(path, mask, self.now)
        self.owed.setdefault(path, self.now)

    @rule(path=names)
    def busy(self, path: bytes) -> None:
        self.settle.busy(path, self.now)
        self.owed.setdefault(path, self.now)

    @rule(old=st.sampled_from([b"d", b"e"]), new=st.sampled_from([b"d", b"e", b"x"]))
    def rename_directory(self, old: bytes, new: bytes) -> None:
        if old == new:
            return
        self.settle.rename(old, new, True, self.now)
        for path in [p for p in self.owed if p.startswith(old + b"/")]:
            self.owed.setdefault(new + path[len(old) :], self.owed.pop(path))
        self.owed.setdefault(old, self.now)
        self.owed.setdefault(new, self.now)

    @rule(seconds=st.sampled_from([0.0, 0.001, 0.02, 0.05, 0.3]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule(limit=st.sampled_from([1, 2, 100]))
    def take(self, limit: int) -> None:
        due = self.settle.due(self.now, limit)
        assert len({d.path for d in due}) == len(due) <= limit
        for d in due:
            assert d.path in self.owed
            del self.owed[d.path]

    @precondition(lambda self: self.owed)
    @rule()
    def drain(self) -> None:
        deadline = self.settle.deadline()
        assert deadline is not None
        self.now = max(self.now, deadline, max(self.owed.values()) + MAX_DELAY)
        while due := self.settle.due(self.now):
            for d in due:
                del self.owed[d.path]
        assert not self.owed

    @invariant()
    def holds_one_record_a_path(self) -> None:
        assert len(self.settle) == len(self.owed)
        assert (self.settle.deadline() is None) == (not self.owed)


TestEvents = Events.TestCase
TestEvents.settings = settings(max_examples=60, stateful_step_count=30)


class TestStale:
    def test_deadline_passes_over_what_has_come_early(self, settle: Settle) -> None:
        settle.note(b"f", MODIFIED, 10.0)
        settle.note(b"f", CLOSED, 10.01)
        settle.due(10.01)

        assert settle.deadline() is None

    def test_news_at_a_directory_s_new_name_is_joined_by_what_moves_there(
        self, settle: Settle
    ) -> None:
        settle.note(b"new/f", MODIFIED, 10.0)
        settle.note(b"old/f", MODIFIED, 10.0)
        settle.rename(b"old", b"new", True, 10.0)

        due = {d.path: d.mask for d in settle.due(11.0)}

        assert due[b"new/f"] & MODIFIED
        assert b"old/f" not in due

    def test_a_writer_that_goes_on_after_a_close_is_waited_for(self, settle: Settle) -> None:
        settle.note(b"f", MODIFIED, 10.0)
        settle.note(b"f", CLOSED, 10.01)
        settle.note(b"f", MODIFIED, 10.03)

        assert settle.due(10.06) == []
        assert paths(settle.due(10.09)) == [b"f"]
