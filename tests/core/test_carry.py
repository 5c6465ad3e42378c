"""How a decision is carried out, and what becomes of it when an agent cannot or will not."""

from __future__ import annotations

from typing import Any

import pytest

from psync.core.entry import XATTRS_MAX, below_or_at, content_digest, is_ours
from psync.core.events import (
    Intend,
    Limits,
    Problem,
    Said,
    Transferred,
)
from psync.core.pending import LASTING_ATTEMPTS, QUIET_ATTEMPTS
from psync.core.session import Session
from psync.errors import AgentError
from psync.wire import (
    APPLIED,
    CHANGED,
    DELETE,
    FAILED,
    IN_USE,
    META,
    META_ONLY,
    NO_PARENT,
    NOT_EMPTY,
    PUT,
    RMDIR,
    UNREADABLE,
    Apply,
    Item,
    List_,
    Observed,
    Outcome,
    Results,
    Trouble,
)
from tests.core.test_session import LEFT, RIGHT, TINY, Duo, Side
from tests.support.replica import link

LARGE = b"?" * 20  # more than is sent in a frame; a `Hand` finds just that in staging


def verbs(duo: Duo, side: Side = RIGHT) -> list[tuple[int, bytes]]:
    return [(t.verb, t.path) for t in duo.transitions(side)]


class TestCopy:
    def test_of_a_small_file_brings_its_content_along(self) -> None:
        duo = Duo({b"f": b"one"})
        duo.write(LEFT, b"f", b"two")

        (transition,) = duo.transitions(RIGHT)
        assert transition.verb == PUT
        assert transition.content == b"two"
        assert transition.wanted.digest == content_digest(b"two")
        assert transition.expected.same_identity(duo.right.tree[b"f"])
        assert [i.path for i in duo.intents()] == [b"f"]
        assert [i.path for i in duo.session.in_flight().intents] == [b"f"]
        duo.assert_rest()
        assert duo.session.in_flight() == Intend([], [])
        assert duo.session.bytes_moved == [0, 3]
        assert [n.text for n in duo.notes("transition.applied")] == ["replaced"]

    def test_of_an_empty_file_needs_no_look(self) -> None:
        duo = Duo()
        duo.left.make(b"f", b"")
        duo.see(LEFT, b"f", read=False)

        assert [t.content for t in duo.transitions(RIGHT)] == [b""]
        duo.assert_rest()

    def test_of_a_link_needs_no_content(self) -> None:
        duo = Duo({b"f": b"one"})
        duo.left.remove(b"f")
        duo.left.make(b"f", link(b"target"))
        duo.see(LEFT, b"f")

        assert [t.wanted.target for t in duo.transitions(RIGHT)] == [b"target"]
        duo.assert_rest()

    def test_of_content_that_did_not_fit_has_it_asked_for(self) -> None:
        duo = Duo(limits=Limits(contents_max=4))
        duo.left.make(b"a", b"one")
        duo.left.make(b"b", b"two")
        duo.see(LEFT, b"a", b"b")

        assert [t.path for t in duo.transitions(RIGHT)] == [b"a"]
        assert duo.looked(LEFT) == [(1, b"b")]
        duo.assert_rest()

    def test_of_a_directory_comes_before_what_is_in_it(self) -> None:
        duo = Duo()
        duo.left.make(b"d", None)
        duo.left.make(b"d/e", None)
        duo.left.make(b"d/e/f", b"one")
        duo.say(LEFT, duo.left.listing(b"d"), duo.left.listing(b"d/e"))
        duo.see(LEFT, b"d/e/f")
        order = []
        while duo.transitions(RIGHT):
            order += verbs(duo)
            duo.obey(RIGHT)

        assert order == [(PUT, b"d"), (PUT, b"d/e"), (PUT, b"d/e/f")]
        duo.assert_rest()

    def test_of_a_file_over_a_directory_removes_what_is_in_it_first(self) -> None:
        duo = Duo({b"d/e/f": b"one", b"d/g": b"two"})
        duo.left.remove(b"d")
        duo.write(LEFT, b"d", b"file")
        order = []
        while duo.transitions(RIGHT) or duo.right.inbox:
            order += verbs(duo)
            duo.obey(RIGHT)

        assert order[-1] == (PUT, b"d")
        assert set(order[:-1]) == {(DELETE, b"d/e/f"), (RMDIR, b"d/e"), (DELETE, b"d/g")}
        duo.assert_rest()

    def test_that_a_user_overtakes_is_news_again(self) -> None:
        duo = Duo({b"f": b"one"})
        duo.write(LEFT, b"f", b"two")
        duo.write(LEFT, b"f", b"six")
        assert [t.content for t in duo.transitions(RIGHT)] == [b"two"]
        duo.obey(RIGHT)

        assert [t.content for t in duo.transitions(RIGHT)] == [b"six"]
        duo.assert_rest()

    def test_into_a_directory_that_went_meanwhile_is_news_of_that_side(self) -> None:
        duo = Duo({b"d/f": b"one"})
        duo.write(LEFT, b"d/f", b"two")
        duo.delete(RIGHT, b"d")
        duo.left.remove(b"d")
        duo.see(LEFT, b"d/f", b"d")

        duo.settle()
        assert duo.shape(LEFT) == duo.shape(RIGHT)


class TestRemoval:
    @pytest.mark.parametrize("hidden", [b"d/cache", b"d/cache/x"])
    def test_leaves_what_is_excluded_from_now_on(self, hidden: bytes) -> None:
        """It was replicated once, and nobody has listed its directory since."""
        duo = Duo(
            {b"d/cache/x": b"x", b"d/f": b"one"},
            ignored=lambda path, _=None: is_ours(path) or below_or_at(path, hidden),
        )
        duo.delete(LEFT, b"d")
        duo.run()

        assert b"d/cache/x" in duo.right.tree
        assert b"d/f" not in duo.right.tree
        assert not any(below_or_at(t.path, hidden) for t in duo.sent())
        assert duo.archive.get(hidden) is None

    def test_of_a_tree_takes_what_is_in_it_first(self) -> None:
        duo = Duo({b"d/e/f": b"one", b"d/g": b"two"})
        duo.delete(LEFT, b"d")
        order = []
        while duo.transitions(RIGHT):
            order += verbs(duo)
            duo.obey(RIGHT)

        assert order == [(DELETE, b"d/e/f"), (RMDIR, b"d/e"), (DELETE, b"d/g"), (RMDIR, b"d")]
        duo.assert_rest()
        assert {n.text for n in duo.notes("transition.applied")} == {"removed"}

    def test_of_both_is_agreed_at_once(self) -> None:
        duo = Duo({b"f": b"one"})
        for hand in duo.hands:
            hand.remove(b"f")
        duo.receive(*(Said(s, Observed([Item(b"f", None)])) for s in Side))

        assert duo.transitions(LEFT) == duo.transitions(RIGHT) == []
        duo.assert_rest()

    def test_that_the_other_side_overtakes_is_agreed(self) -> None:
        duo = Duo({b"f": b"one"})
        duo.delete(LEFT, b"f")
        duo.delete(RIGHT, b"f")

        duo.assert_rest()

    def test_of_an_edited_file_brings_it_back(self) -> None:
        duo = Duo({b"f": b"one"})
        duo.right.edit(b"f", b"two")
        duo.left.remove(b"f")
        duo.receive(
            Said(RIGHT, Observed([duo.right.item(b"f")])),
            Said(LEFT, Observed([Item(b"f", None)])),
        )

        assert verbs(duo, LEFT) == [(PUT, b"f")]
        duo.assert_rest()

    def test_waits_for_the_end_of_a_scan(self) -> None:
        duo = Duo({b"d/f": b"one", b"x/y": b"1"}, start=False)
        duo.left.remove(b"d/f")
        duo.left.edit(b"x/y", b"2")
        for side in Side:
            duo.up(side)
            duo.say(side, *duo.hands[side].scan())
        duo.obey(RIGHT)
        duo.say(LEFT, duo.left.listing(b""), duo.left.listing(b"d"))
        assert verbs(duo) == []
        duo.say(LEFT, duo.left.listing(b"x"))
        duo.left.inbox = [
            m for m in duo.left.inbox if not hasattr(m, "paths") or hasattr(m, "want")
        ]

        assert (DELETE, b"d/f") in verbs(duo)
        duo.assert_rest()

    def test_of_a_tree_stops_when_its_directory_is_back(self) -> None:
        duo = Duo({b"d/%d" % i: b"x" for i in range(3)})
        duo.left.remove(b"d")
        duo.see(LEFT, b"d")
        assert duo.session.remains()["walking"] == 0
        duo.left.make(b"d", None)
        duo.see(LEFT, b"d")

        duo.assert_rest()
        assert duo.shape(RIGHT) == {b"d": None}

    @pytest.mark.parametrize("what", [None, b"file"])
    def test_of_a_tree_that_waits_for_room_stops_when_it_is_back(
        self, what: bytes | None, monkeypatch
    ) -> None:
        monkeypatch.setattr("psync.core.plan.OPS_MAX", 1)
        duo = Duo({b"a/%d" % i: b"x" for i in range(3)} | {b"b/f": b"one"})
        duo.delete(LEFT, b"a")
        assert verbs(duo) == [(DELETE, b"a/0")]
        assert duo.session.remains()["walking"] > 0
        duo.left.make(b"a", what)
        if what is None:
            for i in range(3):
                duo.left.make(b"a/%d" % i, b"x")
        duo.see(LEFT, b"a")

        duo.assert_rest()
        assert duo.shape(RIGHT)[b"a"] == what
        assert (b"a/2" in duo.right.tree) == (what is None)

    def test_of_a_tree_begins_anew_when_a_side_went(self, monkeypatch) -> None:
        monkeypatch.setattr("psync.core.plan.OPS_MAX", 1)
        duo = Duo({b"a/%d" % i: b"x" for i in range(3)})
        duo.delete(LEFT, b"a")
        assert duo.session.remains()["walking"] == 1
        duo.down(RIGHT)
        duo.up(RIGHT)
        duo.say(RIGHT, *duo.right.scan())

        duo.assert_rest()
        assert duo.shape(RIGHT) == {}

    def test_of_a_chain_that_waits_for_operations_goes_from_the_bottom_up(
        self, monkeypatch
    ) -> None:
        """All of it had been touched before it was removed, and becomes free from the top down."""
        chain = [b"/".join([b"d"] * depth) for depth in range(1, 61)]
        decided: list[bytes] = []
        decide = Session._decide

        def note(self: Session, path: bytes, **how: bool) -> None:
            decided.append(path)
            decide(self, path, **how)

        monkeypatch.setattr(Session, "_decide", note)
        duo = Duo(dict.fromkeys(chain))
        for path in chain:
            duo.left.edit(path, mode=0o700)
        duo.see(LEFT, *chain)
        duo.left.remove(b"d")
        duo.see(LEFT, *reversed(chain))
        assert [t.verb for t in duo.transitions(RIGHT)] == [META] * 60
        duo.obey(RIGHT)

        assert [t.path for t in duo.transitions(RIGHT)] == chain[::-1]
        duo.assert_rest()
        assert duo.shape(RIGHT) == {}
        assert len(decided) <= 10 * len(chain)

    def test_of_a_directory_that_is_put_off_is_tried_when_something_in_it_has_gone(self) -> None:
        duo = Duo({b"d/f": b"one"})
        duo.delete(LEFT, b"d/f")
        duo.left.remove(b"d")
        duo.see(LEFT, b"d")
        pending = duo.session._pending
        for op in [op for op in duo.session._flights.ops.values() if op.path == b"d"]:
            duo.session._flights.end(op)  # as if it had been refused again and again
        pending.problems[b"d"] = Problem(b"d", RIGHT, "in the way", 9, duo.now + 60)
        duo.right.inbox = duo.right.inbox[:1]
        assert [t.path for t in duo.transitions(RIGHT)] == [b"d/f"]
        duo.obey(RIGHT)

        assert [t.path for t in duo.transitions(RIGHT)] == [b"d"]
        duo.assert_rest()

    def test_of_a_directory_with_something_not_replicated_is_a_problem(self) -> None:
        duo = Duo({b"d": None})
        duo.delete(LEFT, b"d")
        for _ in range(3):
            duo.reply(RIGHT, NOT_EMPTY)
            assert duo.listed(RIGHT) == [b"d"]
            duo.obey(RIGHT)
            if not duo.transitions(RIGHT):
                duo.wait()

        (problem,) = duo.session.problems()
        assert problem.message == "the directory holds entries that are not replicated"
        duo.assert_rest()

    def test_of_a_directory_waits_for_what_cannot_go_yet_and_says_so(self) -> None:
        duo = Duo({b"d/f": b"one"})
        duo.left.remove(b"d/f")
        duo.left.remove(b"d")
        duo.see(LEFT, b"d")
        (batch,) = duo.right.inbox
        duo.right.inbox.clear()
        duo.say(RIGHT, Results(batch.batch, [
            Outcome(t.op, status, duo.right.tree[t.path])
            for t, status in zip(batch.transitions, (IN_USE, NOT_EMPTY), strict=True)
        ]))  # fmt: skip

        told = {path: each.message for path, each in duo.session._pending.problems.items()}
        assert told == {
            b"d/f": "somebody is writing it",
            b"d": "what is in the directory has not gone yet",
        }
        duo.wait()
        duo.assert_rest()

    @pytest.mark.parametrize("what", [None, b"file"])
    def test_of_such_a_directory_may_be_forced(self, what: bytes | None) -> None:
        duo = Duo({b"d": None}, TINY._replace(force=True))
        duo.left.remove(b"d")
        if what is not None:
            duo.left.make(b"d", what)
        duo.see(LEFT, b"d")
        mark = duo.session.mark()
        (first,) = duo.transitions(RIGHT)
        assert not first.keep
        duo.reply(RIGHT, NOT_EMPTY)
        assert duo.listed(RIGHT) == [b"d"]
        duo.obey(RIGHT)
        while not duo.transitions(RIGHT):
            duo.wait()

        assert [(t.verb, t.keep) for t in duo.transitions(RIGHT)] == [(RMDIR, True)]
        duo.obey(RIGHT)
        assert duo.session.settled(mark) is (what is None)
        duo.assert_rest()
        assert duo.right.content.get(b"d") == what

    def test_of_such_a_directory_may_be_forced_once_there_is_room(self, monkeypatch) -> None:
        duo = Duo({b"d": None}, TINY._replace(force=True))
        duo.left.remove(b"d")
        duo.write(LEFT, b"d", b"file")
        duo.reply(RIGHT, NOT_EMPTY)
        monkeypatch.setattr("psync.core.plan.OPS_MAX", 1)
        duo.write(LEFT, b"e", b"")
        duo.obey(RIGHT, List_)
        duo.wait()
        assert [t.path for t in duo.transitions(RIGHT)] == [b"e"]

        duo.assert_rest()
        assert duo.right.content == {b"d": b"file", b"e": b""}

    def test_is_forced_soon_once_that_may_be(self) -> None:
        duo = Duo({b"d": None})
        duo.delete(LEFT, b"d")
        for attempt in range(LASTING_ATTEMPTS):
            if attempt:
                duo.wait()
            duo.reply(RIGHT, NOT_EMPTY)
            duo.obey(RIGHT)
        assert duo.transitions(RIGHT) == []

        duo.session.take_over(TINY._replace(force=True))
        duo.pump()
        began = duo.now
        assert [t.keep for t in duo.transitions(RIGHT)] == [False]
        duo.reply(RIGHT, NOT_EMPTY)
        duo.obey(RIGHT)
        duo.wait()

        assert [(t.verb, t.keep) for t in duo.transitions(RIGHT)] == [(RMDIR, True)]
        assert duo.now - began < 1
        duo.assert_rest()

    def test_is_not_forced_where_something_new_is_found(self) -> None:
        duo = Duo({b"d": None}, TINY._replace(force=True))
        duo.delete(LEFT, b"d")
        duo.right.make(b"d/new", b"new")
        duo.reply(RIGHT, NOT_EMPTY)

        duo.assert_rest()
        assert duo.left.content[b"d/new"] == b"new"
        assert not any(t.keep for t in duo.sent())

    def test_of_a_directory_waits_for_room(self, monkeypatch) -> None:
        monkeypatch.setattr("psync.core.plan.OPS_MAX", 1)
        duo = Duo({b"a": None, b"b": b"x"})
        duo.delete(LEFT, b"b")
        duo.delete(LEFT, b"a")
        assert verbs(duo) == [(DELETE, b"b")]

        duo.assert_rest()


class TestMetadata:
    def test_is_brought_over_without_content(self) -> None:
        duo = Duo({b"f": b"one"})
        duo.left.edit(b"f", mode=0o600)
        duo.see(LEFT, b"f", read=False, flags=META_ONLY)

        assert [(t.verb, t.wanted.mode) for t in duo.transitions(RIGHT)] == [(META, 0o600)]
        duo.assert_rest()
        assert duo.right.tree[b"f"].mode == 0o600
        assert [n.text for n in duo.notes("transition.applied")] == ["metadata"]

    def test_of_both_sides_is_merged_field_by_field(self) -> None:
        duo = Duo({b"f": b"one"})
        duo.left.edit(b"f", mode=0o600)
        duo.right.edit(b"f", uid=7)
        items = [h.item(b"f", read=False, flags=META_ONLY) for h in duo.hands]
        duo.receive(*(Said(s, Observed([items[s]])) for s in Side))
        assert [t.verb for s in Side for t in duo.transitions(s)] == [META, META]

        duo.run()
        duo.assert_rest()
        assert (duo.left.tree[b"f"].mode, duo.left.tree[b"f"].uid) == (0o600, 7)

    def test_of_the_kept_side_goes_before_the_content_of_the_edited(self) -> None:
        duo = Duo({b"f": b"one"})
        duo.left.edit(b"f", b"two", mtime_ns=5)
        duo.right.edit(b"f", mode=0o600)
        duo.receive(
            Said(RIGHT, Observed([duo.right.item(b"f", read=False, flags=META_ONLY)])),
            Said(LEFT, Observed([duo.left.item(b"f")])),
        )
        assert verbs(duo, LEFT) == [(META, b"f")]
        assert duo.session.in_flight() == Intend([], [])  # there is nothing in it to recognise

        duo.assert_rest()
        assert duo.right.content[b"f"] == b"two"
        assert duo.right.tree[b"f"].mode == 0o600

    def test_waits_for_room_on_both_sides(self, monkeypatch) -> None:
        monkeypatch.setattr("psync.core.plan.OPS_MAX", 1)
        duo = Duo({b"f": b"one"})
        duo.write(LEFT, b"g", b"x")
        duo.left.edit(b"f", mode=0o600)
        duo.see(LEFT, b"f", read=False, flags=META_ONLY)
        assert verbs(duo) == [(PUT, b"g")]

        duo.assert_rest()

    def test_that_was_not_as_expected_is_looked_at_on_both_sides(self) -> None:
        duo = Duo({b"f": b"one"})
        duo.left.edit(b"f", mode=0o600)
        duo.see(LEFT, b"f", read=False, flags=META_ONLY)
        duo.right.edit(b"f", b"two")
        duo.reply(RIGHT, CHANGED)

        assert duo.looked(LEFT) == [(0, b"f")]
        assert duo.looked(RIGHT) == [(1, b"f")]
        duo.assert_rest()
        assert duo.left.content[b"f"] == b"two"

    def test_in_a_directory_that_is_gone_waits_for_it(self) -> None:
        duo = Duo({b"d/f": b"one"})
        duo.left.edit(b"d/f", mode=0o600)
        duo.right.edit(b"d/f", uid=3)
        duo.left.edit(b"d", mode=0o700)
        duo.see(LEFT, b"d/f", b"d", flags=META_ONLY, read=False)
        duo.see(RIGHT, b"d/f", flags=META_ONLY, read=False)

        duo.assert_rest()


class TestPresumed:
    def test_time_of_a_directory_that_is_agreed_meanwhile_is_no_news(self) -> None:
        duo = Duo({b"d/e": None})
        duo.right.edit(b"d/e", mtime_ns=99)
        duo.see(RIGHT, b"d/e")
        (batch,) = duo.left.inbox
        duo.left.inbox.clear()
        # A scan is compared with what was agreed before; then that changes.
        messages = [Said(RIGHT, message) for message in duo.right.scan()]
        duo.receive(*messages, Said(LEFT, duo.left.answers(batch)[0]))
        duo.assert_rest()

        assert duo.left.tree[b"d/e"].mtime_ns == duo.right.tree[b"d/e"].mtime_ns == 99

    def test_time_that_was_set_back_before_the_scan_is_news(self) -> None:
        duo = Duo({b"d/e": None})
        before = duo.right.tree[b"d/e"].mtime_ns
        duo.right.edit(b"d/e", mtime_ns=99)
        duo.see(RIGHT, b"d/e")
        (batch,) = duo.left.inbox
        duo.left.inbox.clear()
        duo.right.edit(b"d/e", mtime_ns=before)
        messages = [Said(RIGHT, message) for message in duo.right.scan()]
        duo.receive(*messages, Said(LEFT, duo.left.answers(batch)[0]))
        duo.assert_rest()

        assert duo.left.tree[b"d/e"].mtime_ns == duo.right.tree[b"d/e"].mtime_ns == before


class TestAttributes:
    def test_are_brought_over_without_content(self) -> None:
        duo = Duo({b"f": b"one", b"d": None})
        for path in (b"f", b"d"):
            duo.left.edit(path, xattrs=b"attributes")
            duo.see(LEFT, path, read=False, flags=META_ONLY)
        assert [t.verb for t in duo.transitions(RIGHT)] == [META, META]

        duo.assert_rest()
        assert {duo.right.tree[path].xattrs for path in (b"f", b"d")} == {b"attributes"}
        assert duo.archive.get(b"f").xattrs == b"attributes"

    def test_and_an_edit_over_there_both_survive(self) -> None:
        duo = Duo({b"f": b"one"})
        duo.left.edit(b"f", b"two", mtime_ns=5)
        duo.right.edit(b"f", xattrs=b"attributes")
        duo.receive(
            Said(RIGHT, Observed([duo.right.item(b"f", read=False, flags=META_ONLY)])),
            Said(LEFT, Observed([duo.left.item(b"f")])),
        )
        duo.assert_rest()

        assert duo.right.content[b"f"] == b"two"
        assert {hand.tree[b"f"].xattrs for hand in duo.hands} == {b"attributes"}

    def test_of_a_new_file_come_with_it(self) -> None:
        duo = Duo()
        duo.write(LEFT, b"f", b"one", xattrs=b"attributes")
        duo.assert_rest()

        assert duo.right.tree[b"f"].xattrs == b"attributes"
        assert [t.verb for t in duo.sent()] == [PUT]

    def test_set_anew_keep_a_file_from_being_deleted(self) -> None:
        duo = Duo({b"f": b"one"})
        duo.left.edit(b"f", xattrs=b"attributes")
        duo.right.remove(b"f")
        duo.receive(*(Said(s, Observed([duo.hands[s].item(b"f")])) for s in Side))
        duo.assert_rest()

        assert duo.right.tree[b"f"].xattrs == b"attributes"

    def test_of_which_there_are_too_many_are_a_lie(self) -> None:
        duo = Duo({b"f": b"one"})
        duo.left.edit(b"f", xattrs=b"x" * (XATTRS_MAX + 1))

        with pytest.raises(AgentError, match="too many attributes"):
            duo.see(LEFT, b"f")


class TestOutcome:
    def test_changed_where_nothing_is_to_be_seen_is_something_that_is_not_replicated(self) -> None:
        duo = Duo()
        duo.write(LEFT, b"f", b"two")  # where on the right side a fifo is
        for _ in range(3):
            duo.reply(RIGHT, CHANGED)
            duo.wait()
            duo.obey(LEFT)

        (problem,) = duo.session.problems()
        assert "not replicated" in problem.message
        duo.assert_rest()
        assert duo.right.content[b"f"] == b"two"

    def test_changed_has_it_looked_at_and_is_told_when_it_does_not_end(self) -> None:
        duo = Duo({b"f": b"one"})
        duo.write(LEFT, b"f", b"two")
        for _ in range(2):
            duo.reply(RIGHT, CHANGED)
            assert duo.looked(RIGHT) == [(1, b"f")]
            assert duo.session.problems() == []
            duo.run_until(RIGHT, Apply)
        duo.reply(RIGHT, CHANGED)
        assert [p.message for p in duo.session.problems()] == ["it keeps changing"]
        duo.assert_rest()

    @pytest.mark.parametrize(
        ("status", "message", "told"),
        [
            (IN_USE, "", "somebody is writing it"),
            (FAILED, "no space left on device", "no space left on device"),
            (NO_PARENT, "", "its directory is not there"),
        ],
    )
    def test_failed_is_tried_again_later(self, status: int, message: str, told: str) -> None:
        duo = Duo({b"d/f": b"one"})
        duo.write(LEFT, b"d/f", b"two")
        waits = []
        for _ in range(3):
            duo.reply(RIGHT, status, message)
            waits.append(duo.session.deadline() - duo.now)
            duo.obey(RIGHT)
            duo.wait()
            duo.obey(LEFT)

        assert [p.message for p in duo.session.problems()] == [told]
        assert waits == pytest.approx([0.1, 0.2, 0.4])
        assert len(duo.notes("problem.raised")) == 1
        duo.assert_rest()

    def test_failed_behind_a_mount_point_says_so(self) -> None:
        duo = Duo({b"d/f": b"one"})
        duo.say(RIGHT, Trouble("mount", b"d", "is a mount point"))
        duo.write(LEFT, b"d/f", b"two")
        for _ in range(3):
            duo.reply(RIGHT, NO_PARENT)
            duo.obey(RIGHT)
            duo.wait()
            duo.obey(LEFT)

        (problem,) = duo.session.problems()
        assert problem.message.startswith("a mount point is in the way")

    @pytest.mark.parametrize(
        ("change", "helps"),
        [({"mode": 0o700}, True), ({"uid": 7}, True), ({"xattrs": b"acl"}, True),
         ({"mtime_ns": 7}, False)],
    )  # fmt: skip
    def test_failed_is_tried_at_once_when_its_directory_lets_in_others(
        self, change: dict[str, Any], helps: bool
    ) -> None:
        duo = Duo({b"d/f": b"one"})
        duo.write(LEFT, b"d/f", b"two")
        for _ in range(5):
            duo.reply(RIGHT, FAILED, "Permission denied")
            duo.obey(RIGHT)
            duo.wait()
            duo.obey(LEFT)
        duo.reply(RIGHT, FAILED, "Permission denied")
        duo.right.edit(b"d", **change)
        duo.see(RIGHT, b"d")
        duo.run()

        assert (duo.right.content[b"d/f"] == b"two") is helps

    def test_no_parent_has_the_directory_looked_at(self) -> None:
        duo = Duo({b"d/f": b"one"})
        duo.write(LEFT, b"d/f", b"two")
        duo.right.remove(b"d")
        duo.reply(RIGHT, NO_PARENT)
        assert duo.looked(RIGHT) == []  # it may have been renamed, and that is being told
        duo.wait()
        duo.obey(LEFT)
        duo.reply(RIGHT, NO_PARENT)
        assert duo.looked(RIGHT) == [(0, b"d")]
        duo.obey(RIGHT)
        duo.settle()

        assert duo.shape(LEFT) == duo.shape(RIGHT) == {b"d": None, b"d/f": b"two"}

    def test_kept_a_loser(self) -> None:
        duo = Duo({b"f": b"one"})
        duo.write(LEFT, b"f", b"two")
        duo.reply(RIGHT, CHANGED, kept=b"0001")

        assert duo.session.conflicts() == [(RIGHT, b"f", b"0001")]

    def test_of_something_else_is_a_lie(self) -> None:
        duo = Duo({b"f": b"one"})
        duo.write(LEFT, b"f", b"two")
        (batch,) = duo.asked(RIGHT, Apply)

        with pytest.raises(AgentError, match="something else"):
            duo.say(
                RIGHT,
                Results(
                    batch.batch,
                    [Outcome(batch.transitions[0].op, APPLIED, link(b"elsewhere"))],
                ),
            )


class TestTransfer:
    def begun(self, path: bytes = b"f") -> tuple[Duo, int]:
        duo = Duo({b"f": b"one"})
        duo.write(LEFT, path, LARGE)
        (transfer,) = duo.transfers()
        assert transfer.source == LEFT
        assert transfer.basis == (b"f" if path == b"f" else b"")
        assert transfer.entry.size == len(LARGE)
        return duo, transfer.op

    @pytest.mark.parametrize("path", [b"f", b"new"])
    def test_is_placed_when_it_is_staged(self, path: bytes) -> None:
        duo, op = self.begun(path)
        assert duo.transitions(RIGHT) == []
        duo.receive(Transferred(op, b"1/7"))

        (transition,) = duo.transitions(RIGHT)
        assert (transition.op, transition.source, transition.content) == (op, b"1/7", None)
        duo.assert_rest()
        assert duo.session.bytes_moved == [0, len(LARGE)]

    @pytest.mark.parametrize("side", [LEFT, RIGHT])
    def test_is_given_up_with_either_side(self, side: Side) -> None:
        duo, op = self.begun()
        assert duo.session.is_under_way(op)
        duo.down(side)
        assert not duo.session.is_under_way(op)
        duo.receive(Transferred(op, b"1/7"))

        assert not duo.session.is_under_way(op)

    def test_that_was_torn_has_the_source_looked_at(self) -> None:
        duo, op = self.begun()
        duo.receive(Transferred(op, b"", torn=True))
        assert duo.looked(LEFT) == [(1, b"f")]
        duo.obey(LEFT)
        again = duo.transfers()[-1]
        assert again.op != op
        duo.receive(Transferred(again.op, b"2/7"))

        duo.assert_rest()

    def test_that_cannot_be_read_is_a_problem_that_keeps_nobody(self) -> None:
        duo, _ = self.begun()
        for attempt in range(1, LASTING_ATTEMPTS + 1):
            duo.receive(Transferred(duo.transfers()[-1].op, b"", torn=True))
            duo.left.inbox.clear()
            duo.say(LEFT, Observed([duo.left.item(b"f", read=False, flags=UNREADABLE)]))
            assert len(duo.transfers()) == attempt  # not again at once
            if attempt < LASTING_ATTEMPTS:
                duo.wait()

        (problem,) = duo.session.stuck(duo.session.mark())
        assert (problem.path, problem.message) == (b"f", "it cannot be read")
        assert duo.session.oldest() is None

        duo.left.edit(b"f", mode=0o640)
        duo.see(LEFT, b"f", read=False)
        duo.receive(Transferred(duo.transfers()[-1].op, b"1/7"))

        duo.assert_rest()

    def test_that_failed_is_tried_again_later(self) -> None:
        duo, op = self.begun()
        duo.receive(Transferred(op, b"", message="rsync: connection unexpectedly closed"))
        assert len(duo.transfers()) == 1
        duo.wait()
        again = duo.transfers()[-1]
        assert again.op != op
        duo.receive(Transferred(again.op, b"2/7"))

        duo.assert_rest()

    @pytest.mark.parametrize("there", [None, b"a small"])
    def test_that_failed_is_tried_no_sooner_for_what_seems_to_live_in_its_place(
        self, there: bytes | None
    ) -> None:
        """What was seen in a directory that is gone on both sides by now waits for its place."""
        duo = Duo({b"d": None})
        duo.left.remove(b"d")
        duo.write(LEFT, b"d", LARGE)
        duo.right.make(b"d/n", b"new")
        duo.see(RIGHT, b"d/n")
        duo.delete(RIGHT, b"d")
        if there is not None:
            duo.write(RIGHT, b"d", there, mtime_ns=1)
        for attempt in range(1, 5):
            begun = duo.transfers()
            assert len(begun) == attempt
            duo.receive(Transferred(begun[-1].op, b"", message="the left is not connected"))
            assert len(duo.transfers()) == attempt  # not again at once
            if attempt == QUIET_ATTEMPTS:
                assert [problem.path for problem in duo.session.problems()] == [b"d"]
            duo.wait()
        duo.receive(Transferred(duo.transfers()[-1].op, b"1/7"))

        duo.assert_rest()

    @pytest.mark.parametrize("side", [LEFT, RIGHT])
    def test_ends_with_either_side(self, side: Side) -> None:
        duo, op = self.begun()
        duo.down(side)
        duo.receive(Transferred(op, b"1/7"))
        assert duo.session.in_flight() == Intend([], [])
        duo.up(side)
        duo.say(side, *duo.hands[side].scan())
        duo.run()
        duo.receive(Transferred(duo.transfers()[-1].op, b"2/7"))

        duo.assert_rest()

    def test_answered_twice_is_heard_once(self) -> None:
        duo, op = self.begun()
        duo.receive(Transferred(op, b"1/7"), Transferred(op, b"1/7"))

        assert len(duo.transitions(RIGHT)) == 1
        duo.assert_rest()


class TestLostSide:
    def test_leaves_intents_that_a_scan_recognises(self) -> None:
        duo = Duo({b"f": b"one", b"g": b"two"})
        duo.write(LEFT, b"f", b"new")
        duo.delete(LEFT, b"g")
        for batch in duo.asked(RIGHT, Apply):
            duo.right.answers(batch)  # it is done, and nobody hears of it
        duo.down(RIGHT)
        assert duo.session.remains()["intents"] == 2
        assert len(duo.session.in_flight().intents) == 2
        duo.up(RIGHT)
        duo.say(RIGHT, *duo.right.scan())

        duo.assert_rest()
        assert len(duo.sent()) == 2
        assert duo.session.conflicts() == []

    def test_forgets_metadata_that_was_under_way(self) -> None:
        duo = Duo({b"f": b"one"})
        duo.left.edit(b"f", mode=0o600)
        duo.see(LEFT, b"f", read=False, flags=META_ONLY)
        duo.down(RIGHT)
        assert duo.session.remains()["intents"] == 0
        duo.up(RIGHT)
        duo.say(RIGHT, *duo.right.scan())

        duo.assert_rest()
        assert duo.right.tree[b"f"].mode == 0o600

    def test_of_both_sides_adjusted_ends_both(self) -> None:
        duo = Duo({b"f": b"one"})
        duo.left.edit(b"f", mode=0o600)
        duo.right.edit(b"f", uid=7)
        items = [h.item(b"f", read=False, flags=META_ONLY) for h in duo.hands]
        duo.receive(*(Said(s, Observed([items[s]])) for s in Side))
        duo.down(RIGHT)
        duo.up(RIGHT)
        duo.say(RIGHT, *duo.right.scan())

        duo.assert_rest()
        assert (duo.left.tree[b"f"].mode, duo.left.tree[b"f"].uid) == (0o600, 7)


class TestDirectoryGone:
    def test_under_a_file_that_has_just_been_made_leaves_it_news(self) -> None:
        duo = Duo({b"d/f": b"one"})
        duo.write(LEFT, b"d/f", b"two")
        (batch,) = duo.asked(RIGHT, Apply)
        results = duo.right.answers(batch)
        duo.receive(*(Said(s, Observed([Item(b"d", None)])) for s in Side))
        assert duo.archive.get(b"d") is None
        for hand in duo.hands:
            hand.remove(b"d")
            hand.inbox.clear()
        duo.say(RIGHT, *results)
        assert duo.archive.get(b"d/f") is None
        for side in Side:
            duo.say(side, *duo.hands[side].scan())

        duo.assert_rest()

    def test_on_one_side_is_emptied_whatever_else_is_told(self, monkeypatch) -> None:
        monkeypatch.setattr("psync.core.plan.OPS_MAX", 1)
        duo = Duo({b"a/%d" % i: b"x" for i in range(3)} | {b"f": b"one"})
        duo.delete(LEFT, b"a")
        assert duo.session.remains()["walking"] > 0
        duo.write(LEFT, b"f", b"two")

        duo.assert_rest()
        assert duo.shape(RIGHT) == {b"f": b"two"}
