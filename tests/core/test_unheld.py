"""Metadata that a side cannot hold: it keeps what it has, and that is no news of it."""

from __future__ import annotations

import pytest

from psync.core.entry import META_FIELDS, Agreed, Entry, Side
from psync.core.events import Said, Transferred
from psync.core.pending import QUIET_ATTEMPTS
from psync.core.reconcile import Verb, View, agree, decide
from psync.wire import APPLIED, META, META_ONLY, PUT, Observed, Outcome, Results, Trouble
from tests.core.test_session import LEFT, RIGHT, Duo
from tests.support.replica import directory, file, link

SECOND = 10**9


def coarse(entry: Entry) -> Entry:
    """Times to two seconds."""
    return entry._replace(mtime_ns=entry.mtime_ns - entry.mtime_ns % (2 * SECOND))


def simple(entry: Entry) -> Entry:
    """Neither modes nor owners."""
    return entry._replace(mode=0o755, uid=0, gid=0)


def meta(entry: Entry) -> tuple[int | bytes, ...]:
    return tuple(getattr(entry, field) for field in META_FIELDS)


@pytest.fixture
def duo() -> Duo:
    """On the right times are cut."""
    made = Duo()
    made.right.holds = coarse
    return made


def restart(duo: Duo) -> None:
    duo.commands.clear()
    duo.start()


class TestTimes:
    @pytest.mark.parametrize("size", [4, 400])
    def test_a13_that_are_cut_do_not_bounce(self, duo: Duo, size: int) -> None:
        mtime_ns = 5 * SECOND + 7
        duo.write(LEFT, b"f", b"?" * size, mtime_ns=mtime_ns)
        for transfer in duo.transfers():
            duo.receive(Transferred(transfer.op, b"1/7"))
        duo.run()
        assert duo.right.tree[b"f"].mtime_ns == 4 * SECOND
        assert duo.archive.get(b"f").on(RIGHT).mtime_ns == 4 * SECOND
        restart(duo)

        assert duo.sent() == []
        assert duo.left.tree[b"f"].mtime_ns == mtime_ns
        duo.assert_rest()

    @pytest.mark.parametrize("what", [None, b"text", link(b"target")])
    def test_a13_set_do_not_bounce(self, duo: Duo, what: bytes | Entry | None) -> None:
        duo.left.make(b"x", what)
        duo.see(LEFT, b"x")
        duo.run()
        duo.left.edit(b"x", mtime_ns=9 * SECOND + 7)
        duo.see(LEFT, b"x", read=False, flags=META_ONLY)
        duo.run()
        assert duo.right.tree[b"x"].mtime_ns == 8 * SECOND
        restart(duo)

        assert duo.sent() == []
        assert duo.left.tree[b"x"].mtime_ns == 9 * SECOND + 7
        duo.assert_rest()

    def test_that_are_equal_again_are_agreed(self, duo: Duo) -> None:
        duo.write(LEFT, b"f", b"text", mtime_ns=5)
        duo.run()
        assert duo.archive.get(b"f").right_own
        duo.left.edit(b"f", mtime_ns=4 * SECOND)
        duo.see(LEFT, b"f", read=False, flags=META_ONLY)
        duo.run()

        assert not duo.archive.get(b"f").right_own
        duo.assert_rest()

    def test_set_where_they_are_cut_arrive(self, duo: Duo) -> None:
        duo.write(LEFT, b"f", b"text", mtime_ns=5 * SECOND + 7)
        duo.run()
        duo.right.edit(b"f", mtime_ns=2 * SECOND)
        duo.see(RIGHT, b"f")
        duo.assert_rest()

        assert duo.left.tree[b"f"].mtime_ns == 2 * SECOND

    @pytest.mark.parametrize("content", [b"edit", b"longer"])
    def test_of_an_edit_within_the_same_moment_are_not_those_before(
        self, duo: Duo, content: bytes
    ) -> None:
        duo.write(LEFT, b"f", b"text", mtime_ns=5 * SECOND + 7)
        duo.run()
        duo.write(RIGHT, b"f", content)  # its time is cut to the same
        duo.assert_rest()

        assert duo.left.content[b"f"] == content
        assert duo.left.tree[b"f"].mtime_ns == 4 * SECOND

    def test_of_two_trees_that_meet_are_the_newer(self) -> None:
        duo = Duo(start=False)
        duo.right.holds = coarse
        duo.left.make(b"f", b"text", mtime_ns=5 * SECOND + 7)
        duo.right.make(b"f", b"text", mtime_ns=5 * SECOND + 7)
        duo.start()
        duo.assert_rest()
        restart(duo)

        assert duo.sent() == []
        assert duo.left.tree[b"f"].mtime_ns == 5 * SECOND + 7

    def test_survive_a_rename(self, duo: Duo) -> None:
        duo.write(LEFT, b"f", b"text", mtime_ns=5 * SECOND + 7)
        duo.run()
        for side, old, new in ((LEFT, b"f", b"g"), (RIGHT, b"g", b"h")):
            duo.move(side, old, new)
            duo.run()
        restart(duo)

        assert duo.sent() == []
        assert duo.left.tree[b"h"].mtime_ns == 5 * SECOND + 7
        duo.assert_rest()

    def test_survive_a_rename_that_is_found(self, duo: Duo) -> None:
        duo.write(LEFT, b"f", b"text", mtime_ns=5 * SECOND + 7)
        duo.run()
        duo.right.rename(b"f", b"g")
        restart(duo)

        assert [(t.source, t.path) for t in duo.sent()] == [(b"f", b"g")]
        assert duo.left.tree[b"g"].mtime_ns == 5 * SECOND + 7
        duo.assert_rest()


class TestModes:
    @pytest.fixture
    def duo(self) -> Duo:
        made = Duo()
        made.right.holds = simple
        made.write(LEFT, b"f", b"text", mode=0o640, uid=7)
        made.run()
        assert meta(made.right.tree[b"f"])[:3] == (0o755, 0, 0)
        made.commands.clear()
        return made

    def test_stay_where_they_were_set_when_the_other_side_edits(self, duo: Duo) -> None:
        duo.write(RIGHT, b"f", b"more", mtime_ns=5)
        duo.assert_rest()

        assert duo.left.content[b"f"] == b"more"
        assert meta(duo.left.tree[b"f"])[:4] == (0o640, 7, 0, 5)
        assert [t.verb for t in duo.sent()] == [PUT]

    def test_that_change_are_tried_once(self, duo: Duo) -> None:
        duo.left.edit(b"f", mode=0o600)
        duo.see(LEFT, b"f", read=False, flags=META_ONLY)
        duo.assert_rest()

        assert [(t.verb, t.wanted.mode) for t in duo.sent()] == [(META, 0o600)]
        assert duo.archive.get(b"f").mode == 0o600
        assert duo.session.problems() == []

    def test_do_not_keep_a_deletion_from_being_one(self, duo: Duo) -> None:
        duo.delete(RIGHT, b"f")
        duo.assert_rest()

        assert duo.left.tree == {}

    def test_of_something_else_in_its_place_are_its_own(self, duo: Duo) -> None:
        duo.right.holds = lambda entry: entry
        duo.right.remove(b"f")
        duo.right.make(b"f", None)
        duo.see(RIGHT, b"f")
        duo.assert_rest()

        assert duo.left.tree[b"f"].mode == directory().mode

    def test_can_be_held_again(self, duo: Duo) -> None:
        duo.right.holds = lambda entry: entry
        duo.right.edit(b"f", mode=0o700, uid=9)
        duo.see(RIGHT, b"f", read=False, flags=META_ONLY)
        duo.assert_rest()

        assert meta(duo.left.tree[b"f"])[:2] == (0o700, 9)
        assert not duo.archive.get(b"f").right_own

    def test_of_both_sides_one_of_which_cannot_hold_them(self, duo: Duo) -> None:
        duo.left.holds = lambda entry: entry._replace(mode=0o755)
        duo.left.edit(b"f", uid=8)
        duo.right.edit(b"f", mtime_ns=5)
        items = [h.item(b"f", read=False, flags=META_ONLY) for h in duo.hands]
        duo.receive(*(Said(s, Observed([items[s]])) for s in Side))
        duo.assert_rest()
        restart(duo)

        assert duo.sent() == []
        assert duo.left.tree[b"f"].uid == 8
        assert {h.tree[b"f"].mtime_ns for h in duo.hands} == {5}

    def test_before_an_edit_that_cannot_be_given_them(self) -> None:
        duo = Duo({b"f": b"one"})
        duo.left.holds = lambda entry: entry._replace(mode=0o644)
        duo.left.edit(b"f", b"two", mtime_ns=5)
        duo.right.edit(b"f", mode=0o600)
        duo.receive(
            Said(RIGHT, Observed([duo.right.item(b"f", read=False, flags=META_ONLY)])),
            Said(LEFT, Observed([duo.left.item(b"f")])),
        )
        duo.assert_rest()
        sent = [(t.verb, t.wanted.mode) for t in duo.sent()]
        restart(duo)

        assert sent == [(META, 0o600), (PUT, 0o600)]
        assert duo.sent() == []
        assert duo.right.content[b"f"] == b"two"
        assert duo.right.tree[b"f"].mode == 0o600

    def test_that_somebody_sets_meanwhile_are_not_taken_for_all_that_is_possible(self) -> None:
        duo = Duo({b"f": b"one"})
        duo.left.edit(b"f", mode=0o600)
        duo.see(LEFT, b"f", read=False, flags=META_ONLY)
        (batch,) = duo.right.inbox
        duo.right.inbox.clear()
        there = duo.right.edit(b"f", mode=0o444)
        outcome = Outcome(batch.transitions[0].op, APPLIED, there)
        duo.say(RIGHT, Results(batch.batch, [outcome]))
        duo.assert_rest()

        assert not duo.archive.get(b"f").right_own
        assert duo.left.tree[b"f"].mode == duo.right.tree[b"f"].mode

    def test_that_neither_side_can_be_given_are_a_problem(self) -> None:
        duo = Duo({b"f": b"one"})
        left, right = (hand.edit(b"f", **{f: 0o600 + s}) for s, (hand, f) in enumerate(
            zip(duo.hands, ("mode", "uid"), strict=True)
        ))  # fmt: skip
        for hand, now in zip(duo.hands, (left, right), strict=True):
            hand.holds = lambda entry, now=now: entry.with_meta(now.meta())
        items = [h.item(b"f", read=False, flags=META_ONLY) for h in duo.hands]
        duo.receive(*(Said(s, Observed([items[s]])) for s in Side))
        duo.run()
        for _ in range(QUIET_ATTEMPTS):
            duo.wait()
            duo.run()

        (problem,) = duo.session.problems()
        assert problem.message == "its mode, owner or time cannot be set"
        assert len(duo.sent()) < 4 * QUIET_ATTEMPTS


class TestDecide:
    BASE = agree(
        file(b"text", 0o640, 5), file(b"text", 0o640, 5), file(b"text", 0o755, 4), held=True
    )

    def view(self, side: int, **fields: int) -> View:
        return View(self.BASE.on(side)._replace(**fields))

    def test_comes_to_rest_where_a_side_holds_its_own(self) -> None:
        assert decide(self.BASE, self.view(0), self.view(1)).verb is Verb.NOTHING

    def test_adjusts_nothing_for_a_new_ctime(self) -> None:
        decision = decide(self.BASE, self.view(0), self.view(1, ctime_ns=99))

        assert decision.verb is Verb.AGREE
        assert decision.wanted == self.BASE.on(0)._replace(ino=0, ctime_ns=0)

    def test_changes_no_more_than_was_changed(self) -> None:
        decision = decide(self.BASE, self.view(0), self.view(1, mtime_ns=9))

        assert decision.verb is Verb.ADJUST
        assert (decision.wanted.mode, decision.wanted.mtime_ns) == (0o640, 9)


class TestTrouble:
    def test_of_metadata_is_of_no_path(self) -> None:
        duo = Duo({b"f": b"one"}, start=False)
        for side in Side:
            duo.up(side)
            duo.say(side, *duo.hands[side].scan())
        duo.say(RIGHT, Trouble("metadata", b"", "not here"))

        assert duo.session.pending == 2  # both roots are still to be listed
        assert duo.session.troubles() == [(RIGHT, "metadata", b"", "not here")]


def test_what_is_held_is_packed_only_where_it_differs() -> None:
    agreed: Agreed = agree(file(b"x"), file(b"x"), file(b"x"), held=True)

    assert (agreed.left_own, agreed.right_own) == (b"", b"")
    entry = file(b"x")._replace(mode=0o4711, uid=1, gid=(1 << 32) - 2, mtime_ns=-(1 << 63))
    assert file(b"y").with_meta(entry.meta()).same_meta(entry)
