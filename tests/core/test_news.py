"""What is believed of what the agents say, and what is not."""

from __future__ import annotations

import collections
from typing import Any

import pytest

from psync.core.entry import ROOT, Entry, Side, is_ours
from psync.core.events import FullSync, Limits, Paused, Resumed, State
from psync.core.pending import LASTING_ATTEMPTS
from psync.core.session import Session
from psync.errors import AgentError
from psync.wire import (
    APPLIED,
    BUSY,
    FAILED,
    META_ONLY,
    UNREADABLE,
    Apply,
    Credit,
    Digests,
    Dropped,
    Item,
    Kept,
    List_,
    Listing,
    Message,
    Observed,
    Outcome,
    Pong,
    Rescan,
    Results,
    Trouble,
)
from tests.core.test_session import LEFT, RIGHT, Duo
from tests.support.replica import directory, file

FIFO = Entry(9, 0o644, 0, 0, 0, 0, b"", b"", 77, 1)


class TestLies:
    @pytest.mark.parametrize(
        "message",
        [
            pytest.param(Pong(1, 0), id="a message of another conversation"),
            pytest.param(Rescan(), id="a message of the brain"),
            pytest.param(Observed([Item(b"../x", None)]), id="out of the root"),
            pytest.param(Observed([Item(b"/etc/passwd", None)]), id="absolute"),
            pytest.param(Observed([Item(b"d//f", None)]), id="an empty name"),
            pytest.param(Observed([Item(b".psync/lock", None)]), id="psync's own"),
            pytest.param(Observed([Item(b"f", None, None, b"../f")]), id="moved out of the root"),
            pytest.param(Observed([Item(b"f", FIFO)]), id="a kind that cannot be"),
            pytest.param(Listing(b"..", None, b"", None, []), id="a listing out of the root"),
            pytest.param(
                Listing(b"d", directory(), b"", None, [Item(b"e/f", None)]), id="a path as a name"
            ),
            pytest.param(Listing(b"d", directory(), b"", None, [Item(b"", None)]), id="no name"),
            pytest.param(
                Listing(b"d", directory(), b"", None, [Item(b"..", None)]), id="the parent"
            ),
            pytest.param(
                Listing(b"d", directory(), b"", None, [Item(b"f", FIFO)]), id="a kind in a listing"
            ),
            pytest.param(Digests(1, [(b"d", b""), (b"d/../..", b"")]), id="a digest out of it"),
            pytest.param(Trouble("io", b"../x", "broken"), id="trouble out of it"),
            pytest.param(Kept(b"../x", b"0001"), id="a conflict out of it"),
            pytest.param(Dropped(b"0001", b"../x"), id="a loser put out of it"),
            pytest.param(Results(99, []), id="a batch that was never sent"),
        ],
    )
    def test_are_told_from_news(self, message: Message) -> None:
        duo = Duo({b"d/f": b"one"})

        with pytest.raises(AgentError):
            duo.say(LEFT, message)

    def answered(self, outcomes: list[Outcome]) -> None:
        duo = Duo({b"f": b"one", b"g": b"one"})
        duo.write(LEFT, b"f", b"two")  # operation 1 on the right
        duo.write(RIGHT, b"g", b"two")  # operation 2 on the left
        (batch,) = duo.asked(RIGHT, Apply)
        duo.say(RIGHT, Results(batch.batch, outcomes))

    @pytest.mark.parametrize(
        "outcomes",
        [
            pytest.param([], id="too few"),
            pytest.param([Outcome(1, FAILED, None), Outcome(1, FAILED, None)], id="too many"),
            pytest.param([Outcome(7, FAILED, None)], id="an operation that never was"),
            pytest.param([Outcome(2, FAILED, None)], id="the other side's operation"),
            pytest.param([Outcome(1, APPLIED, None)], id="nothing there that was made"),
            pytest.param([Outcome(1, APPLIED, directory())], id="another kind than was made"),
        ],
    )
    def test_in_results_are_told_from_answers(self, outcomes: list[Outcome]) -> None:
        with pytest.raises(AgentError):
            self.answered(outcomes)

    def test_of_a_batch_answered_twice_are_not_believed(self) -> None:
        duo = Duo({b"f": b"one"})
        duo.write(LEFT, b"f", b"two")
        (batch,) = duo.asked(RIGHT, Apply)
        duo.obey(RIGHT)

        with pytest.raises(AgentError):
            duo.say(RIGHT, Results(batch.batch, [Outcome(1, APPLIED, file(b"two"))]))


class TestScan:
    def test_that_replaces_another_makes_the_side_scan_again(self) -> None:
        duo = Duo({b"d/f": b"one"})
        duo.left.edit(b"d/f", b"two")
        digests, scanned = duo.left.scan()
        duo.say(LEFT, digests)
        assert duo.session.state is State.SCANNING
        duo.say(LEFT, scanned)

        assert duo.listed(LEFT) == [ROOT, b"d"]
        duo.assert_rest()
        assert duo.right.content[b"d/f"] == b"two"

    def test_drops_news_that_it_will_show_anyway(self) -> None:
        duo = Duo({b"f": b"one", b"g": b"one"})
        duo.down(RIGHT)
        duo.write(LEFT, b"f", b"two")
        duo.left.edit(b"f", b"one")
        duo.say(LEFT, *duo.left.scan())
        duo.up(RIGHT)
        duo.say(RIGHT, *duo.right.scan())

        duo.assert_rest()

    def test_drops_news_of_what_is_as_agreed_again(self) -> None:
        duo = Duo({b"d/f": b"one"})
        duo.down(RIGHT)
        agreed = duo.left.tree[b"d/f"]
        duo.write(LEFT, b"d/f", b"two")
        duo.left.tree[b"d/f"], duo.left.content[b"d/f"] = agreed, b"one"  # that event was lost
        duo.say(LEFT, *duo.left.scan())
        duo.up(RIGHT)
        duo.say(RIGHT, *duo.right.scan())

        duo.assert_rest()
        assert duo.right.content[b"d/f"] == b"one"

    def test_does_not_compare_the_first_time_if_not_wanted(self) -> None:
        duo = Duo({b"d/f": b"one"}, Limits(compare=False), start=False)
        duo.left.edit(b"d/f", b"two")
        for side in (LEFT, RIGHT):
            duo.up(side)
            duo.say(side, *duo.hands[side].scan())
        assert duo.listed(LEFT) == duo.listed(RIGHT) == []
        assert duo.session.state is State.WATCHING
        assert duo.session.skipped
        duo.say(LEFT, *duo.left.scan())

        assert duo.listed(LEFT) == [ROOT, b"d"]  # but from then on
        assert duo.session.skipped  # of the other side
        duo.say(RIGHT, *duo.right.scan())
        assert not duo.session.skipped

    def test_compares_in_a_full_sync_what_it_has_left_alone(self) -> None:
        duo = Duo({b"f": b"one"}, Limits(compare=False), start=False)
        duo.left.edit(b"f", b"two")
        duo.start()
        assert duo.session.skipped
        duo.receive(FullSync())
        duo.settle()

        assert not duo.session.skipped
        assert duo.right.content[b"f"] == b"two"

    def test_is_not_taken_for_what_was_agreed_while_it_went_on(self) -> None:
        duo = Duo({b"f": b"one", b"g": b"one"})
        duo.write(LEFT, b"f", b"two")
        duo.say(LEFT, *duo.left.scan())
        duo.move(LEFT, b"g", b"h")
        duo.say(LEFT, *duo.left.scan())

        duo.assert_rest()
        assert duo.shape(RIGHT) == {b"f": b"two", b"h": b"one"}

    def test_lets_what_is_told_meanwhile_count(self) -> None:
        duo = Duo({b"f": b"one"})
        duo.write(LEFT, b"f", b"two")
        digests, scanned = duo.left.scan()
        duo.say(LEFT, digests)
        duo.write(LEFT, b"f", b"six")
        duo.say(LEFT, scanned)

        duo.assert_rest()
        assert duo.right.content[b"f"] == b"six"

    def test_keeps_views_of_the_other_side_and_decides_them(self) -> None:
        duo = Duo({b"f": b"one", b"g": b"one"})
        duo.right.edit(b"f", b"half")
        duo.see(RIGHT, b"f", read=False, flags=BUSY)
        duo.write(LEFT, b"f", b"mine", mtime_ns=3)
        duo.write(LEFT, b"g", b"more")
        duo.say(LEFT, *duo.left.scan())
        duo.see(RIGHT, b"f")
        duo.run()

        assert duo.shape(LEFT) == duo.shape(RIGHT)


class TestListing:
    def test_in_ranges_says_nothing_of_the_names_outside(self) -> None:
        duo = Duo({b"d/%c" % c: b"x" for c in b"abcdef"}, start=False)
        for name in (b"d/a", b"d/d", b"d/f"):
            duo.left.remove(name)
        duo.left.edit(b"d", mtime_ns=4)
        for side in (LEFT, RIGHT):
            duo.up(side)
            duo.say(side, *duo.hands[side].scan())
        duo.obey(RIGHT)
        whole = duo.left.listing(b"d")
        first = whole._replace(upto=b"c", items=whole.items[:2])
        last = whole._replace(after=b"c", items=whole.items[2:])
        duo.say(LEFT, duo.left.listing(ROOT), first)
        assert sorted(duo.session._replicas[0].views) == [b"d", b"d/a"]
        assert duo.session.pending
        duo.say(LEFT, last)
        duo.left.inbox.clear()

        duo.assert_rest()
        assert sorted(duo.right.tree) == [b"d", b"d/b", b"d/c", b"d/e"]

    def test_in_ranges_decides_what_both_sides_have_passed(self) -> None:
        duo = Duo(start=False)
        for hand in duo.hands:
            hand.make(b"d", None)
            for c in b"aceg":
                hand.make(b"d/%c" % c, b"x")
        duo.left.make(b"d/b", b"new")
        for side in (LEFT, RIGHT):
            duo.up(side)
            duo.say(side, *duo.hands[side].scan(), duo.hands[side].listing(ROOT))

        def tell(side: Side, after: bytes, upto: bytes | None) -> None:
            whole = duo.hands[side].listing(b"d")
            items = [i for i in whole.items if after < i.path and (not upto or i.path <= upto)]
            duo.say(side, whole._replace(after=after, upto=upto, items=items))

        tell(LEFT, b"", b"c")
        tell(RIGHT, b"", b"a")
        assert [p for p in duo.left.tree if duo.archive.get(p)] == [b"d", b"d/a"]
        assert not duo.looked(LEFT), "the right side may have that one, too"
        tell(RIGHT, b"a", b"e")
        assert duo.looked(LEFT) == [(1, b"d/b")]
        assert duo.archive.get(b"d/c")
        assert len(duo.session._replicas[0].views) == 1, "what is agreed is not kept in memory"
        assert not duo.archive.get(b"d/e")
        tell(LEFT, b"c", None)
        tell(RIGHT, b"e", None)
        for hand in duo.hands:
            hand.inbox = [m for m in hand.inbox if not isinstance(m, List_)]

        duo.assert_rest()
        assert duo.right.content[b"d/b"] == b"new"

    def test_of_what_is_gone_asks_what_is_there_now(self) -> None:
        duo = Duo({b"d/f": b"one"}, start=False)
        duo.left.edit(b"d/f", b"two")
        for side in (LEFT, RIGHT):
            duo.up(side)
            duo.say(side, *duo.hands[side].scan())
        duo.left.remove(b"d")
        duo.left.make(b"d", b"a file")
        duo.say(LEFT, Listing(b"d", None, b"", None, []))
        assert duo.looked(LEFT) == [(0, b"d")]

        duo.assert_rest()
        assert duo.shape(RIGHT) == {b"d": b"a file"}

    def test_that_the_root_is_gone_says_nothing(self) -> None:
        duo = Duo({b"f": b"one"}, start=False)
        for side in (LEFT, RIGHT):
            duo.up(side)
            duo.say(side, *duo.hands[side].scan())
        duo.say(LEFT, Listing(ROOT, None, b"", None, []))
        duo.left.inbox.clear()
        duo.obey(RIGHT)

        assert duo.looked(LEFT) == []
        assert duo.transitions(RIGHT) == []

    def test_forgets_what_is_ignored_now_and_lets_both_keep_theirs(self) -> None:
        duo = Duo(
            {b"f": b"one", b"cache/x": b"1"},
            ignored=lambda path, _=None: is_ours(path) or path.startswith(b"cache"),
            start=False,
        )
        for side in (LEFT, RIGHT):
            duo.up(side)
            hidden = {p: e for p, e in duo.hands[side].tree.items() if not p.startswith(b"cache")}
            duo.hands[side].tree, kept = hidden, duo.hands[side].tree
            duo.say(side, *duo.hands[side].scan())
        duo.run()

        assert duo.archive.get(b"cache/x") is None
        assert duo.archive.get(b"cache") is None
        assert b"cache/x" in kept
        duo.assert_rest()
        assert duo.session.applied == [0, 0]

    def test_live_of_a_new_directory_needs_no_more_looks(self) -> None:
        duo = Duo()
        duo.left.make(b"d", None)
        duo.left.make(b"d/f", b"one")
        listing = duo.left.listing(b"d")
        item = duo.left.item(b"d/f")._replace(path=b"f")
        duo.say(LEFT, listing._replace(items=[item]))

        assert [t.path for t in duo.transitions(RIGHT)] == [b"d"]
        duo.obey(RIGHT)
        assert [(t.path, t.content) for t in duo.transitions(RIGHT)] == [(b"d/f", b"one")]
        duo.assert_rest()

    def test_may_name_what_went_away_meanwhile(self) -> None:
        duo = Duo({b"d/f": b"one"})
        duo.left.remove(b"d/f")
        duo.say(LEFT, duo.left.listing(b"d")._replace(items=[Item(b"f", None)]))

        duo.assert_rest()
        assert duo.shape(RIGHT) == {b"d": None}


class TestObservation:
    @pytest.mark.parametrize("path", [ROOT, b"x.psync.ignore"])
    def test_of_what_is_not_replicated_gives_its_bytes_back(self, path: bytes) -> None:
        duo = Duo()
        duo.say(LEFT, Observed([Item(path, file(b"one"), b"one")]))

        assert duo.asked(LEFT, Credit) == [Credit(3)]
        duo.assert_rest()

    def test_of_what_is_as_agreed_is_no_news(self) -> None:
        duo = Duo({b"f": b"one"})
        duo.see(LEFT, b"f")

        duo.assert_rest()
        assert duo.session.applied == [0, 0]

    def test_teaches_the_archive_a_digest(self) -> None:
        duo = Duo({b"f": b"one"})
        base = duo.archive.get(b"f")
        assert base is not None
        duo.archive.put(b"f", base._replace(digest=b""))
        duo.see(LEFT, b"f")

        assert duo.archive.get(b"f") == base

    def test_of_the_agreed_state_is_news_while_an_operation_is_under_way(self) -> None:
        duo = Duo({b"f": b"one"})
        was, content = duo.left.tree[b"f"], b"one"
        duo.write(LEFT, b"f", b"two")
        duo.left.tree[b"f"], duo.left.content[b"f"] = was, content
        duo.see(LEFT, b"f")
        duo.obey(RIGHT)

        duo.assert_rest()
        assert duo.right.content[b"f"] == b"one"

    def test_without_content_has_it_asked_for(self) -> None:
        duo = Duo()
        duo.left.make(b"f", b"one")
        duo.see(LEFT, b"f", read=False)

        assert duo.looked(LEFT) == [(1, b"f")]
        duo.assert_rest()

    def test_of_a_path_that_failed_tries_it_again(self) -> None:
        duo = Duo()
        duo.write(LEFT, b"f", b"one")
        duo.reply(RIGHT, FAILED, "full")
        duo.see(LEFT, b"f", read=False)
        assert duo.transitions(RIGHT) == []  # it says nothing new
        duo.write(LEFT, b"f", b"two")

        assert [t.content for t in duo.transitions(RIGHT)] == [b"two"]
        duo.assert_rest()

    def test_of_a_path_that_failed_and_is_gone_tries_it_again(self) -> None:
        duo = Duo()
        duo.write(LEFT, b"f", b"one")
        duo.reply(RIGHT, FAILED, "full")
        duo.delete(LEFT, b"f")

        duo.assert_rest()
        assert duo.session.deadline() is None


class TestAnswer:
    def test_that_a_file_cannot_be_read_is_a_problem(self) -> None:
        duo = Duo({b"f": b"one"})
        duo.left.edit(b"f", mtime_ns=5)
        duo.see(LEFT, b"f", read=False, flags=META_ONLY)
        unreadable = duo.left.item(b"f", read=False, flags=UNREADABLE)
        for _ in range(3):
            assert duo.looked(LEFT) == [(2, b"f")]
            duo.left.inbox.clear()
            duo.say(LEFT, Observed([unreadable]))
            duo.wait()

        (problem,) = duo.session.problems()
        assert problem.message == "it cannot be read"
        assert [n.path for n in duo.notes("problem.raised")] == [b"f"]
        duo.assert_rest()

    @pytest.mark.parametrize("agreed", [True, False], ids=["an edit", "a new file"])
    def test_that_a_file_cannot_be_read_keeps_no_flush(self, agreed: bool) -> None:
        duo = Duo({b"f": b"one"} if agreed else {})
        if agreed:
            duo.left.remove(b"f")
        duo.left.make(b"f", b"other")
        duo.see(LEFT, b"f", read=False, flags=UNREADABLE)
        for attempt in range(LASTING_ATTEMPTS):
            if attempt:
                duo.wait()
            assert duo.looked(LEFT) == [(1, b"f")]
            duo.left.inbox.clear()
            assert duo.session.stuck(duo.session.mark()) == []
            duo.see(LEFT, b"f", read=False, flags=UNREADABLE)

        (problem,) = duo.session.stuck(duo.session.mark())
        assert (problem.path, problem.message) == (b"f", "it cannot be read")
        assert duo.session.oldest() is None
        assert duo.session.explain(b"f") == ("problem", "it cannot be read")

        duo.left.edit(b"f", mode=0o640)
        duo.see(LEFT, b"f", read=False)

        duo.assert_rest()

    def test_without_the_content_asked_for_is_a_problem(self) -> None:
        duo = Duo()
        duo.left.make(b"f", b"one")
        duo.see(LEFT, b"f", read=False)
        for _ in range(3):
            duo.left.inbox.clear()
            duo.see(LEFT, b"f", read=False)
            assert duo.looked(LEFT) == []
            duo.wait()
            assert duo.looked(LEFT) == [(1, b"f")]

        assert [p.message for p in duo.session.problems()] == ["its content cannot be read"]
        duo.assert_rest()

    @pytest.mark.parametrize("how", [{"flags": BUSY}, {}])
    def test_that_somebody_writes_or_that_it_is_gone_is_none(self, how: dict[str, Any]) -> None:
        duo = Duo()
        duo.left.make(b"f", b"one")
        duo.see(LEFT, b"f", read=False)
        duo.left.inbox.clear()
        if not how:
            duo.left.remove(b"f")
        duo.see(LEFT, b"f", read=False, **how)

        assert duo.session.remains()["problems"] == 0
        duo.see(LEFT, b"f")
        duo.assert_rest()

    def test_that_it_has_grown_too_large_begins_a_transfer(self) -> None:
        duo = Duo()
        duo.left.make(b"f", b"one")
        duo.see(LEFT, b"f", read=False)
        duo.left.inbox.clear()
        duo.left.edit(b"f", b"much too large")
        duo.see(LEFT, b"f", read=False)

        assert [t.path for t in duo.transfers()] == [b"f"]


class TestFlood:
    def test_makes_the_side_be_scanned_anew(self, monkeypatch) -> None:
        monkeypatch.setattr("psync.core.replica.CREDIT_MIN", 4)
        duo = Duo(limits=Limits(views_max=2))
        duo.down(RIGHT)
        items = []
        for name in (b"a", b"b", b"c", b"d"):
            duo.left.make(name, name)
            items.append(duo.left.item(name))
        duo.say(LEFT, Observed(items))

        assert duo.asked(LEFT, Rescan) == [Rescan()]
        assert [c.size for c in duo.asked(LEFT, Credit)] == [4]
        assert [n.text for n in duo.notes("side.rescan")] == ["more than 2 changed paths"]
        assert not duo.session.is_ready(LEFT)
        duo.up(RIGHT)
        duo.say(RIGHT, *duo.right.scan())
        duo.assert_rest()
        assert len(duo.right.tree) == 4


class TestTrouble:
    def test_is_told_once_until_it_is_over(self) -> None:
        duo = Duo()
        for _ in range(2):
            duo.say(LEFT, Trouble("mount", b"d", "another file system"))

        assert duo.session.troubles() == [(LEFT, "mount", b"d", "another file system")]
        assert [n.path for n in duo.notes("trouble.mount")] == [b"d"]
        assert duo.session.status()["problems"] == 1

        duo.say(LEFT, Trouble("mount", b"d", ""))

        assert duo.session.troubles() == []

    def test_answers_for_a_directory_that_cannot_be_listed(self) -> None:
        duo = Duo({b"d/f": b"one"}, start=False)
        duo.left.edit(b"d/f", b"two")
        for side in (LEFT, RIGHT):
            duo.up(side)
            duo.say(side, *duo.hands[side].scan())
        duo.say(LEFT, duo.left.listing(ROOT), Trouble("unreadable", b"d", "permission denied"))
        duo.left.inbox.clear()
        duo.obey(RIGHT)

        assert duo.session.state is State.WATCHING
        assert duo.transitions(RIGHT) == []  # not taken for empty

    @pytest.mark.parametrize(
        ("code", "path", "is_unseen"),
        [
            pytest.param("unreadable", b"d", True, id="a directory"),
            pytest.param("unreadable", b"", True, id="the root"),
            pytest.param("io", b"d/f", True, id="a disk that fails"),
            pytest.param("io", b"", False, id="a disk without events"),
            pytest.param("mount", b"d", False, id="what is not ours to bring over"),
            pytest.param("metadata", b"", False, id="metadata"),
        ],
    )
    def test_says_whose_content_cannot_come_over(
        self, code: str, path: bytes, is_unseen: bool
    ) -> None:
        duo = Duo({b"d/f": b"one"})
        duo.say(LEFT, Trouble(code, path, "no"))

        found = [(p.path, p.side, p.message) for p in duo.session.unseen()]

        assert found == [(path, LEFT, "no")] * is_unseen
        assert duo.session.settled(duo.session.mark())  # nobody waits for it

    @pytest.mark.parametrize(("code", "where"), [("io", b"d/f"), ("unreadable", b"d")])
    def test_answers_for_a_look_that_is_asked_again_later(self, code: str, where: bytes) -> None:
        duo = Duo({b"d/f": b"one", b"g": b"x"})
        duo.left.edit(b"d/f", b"second")
        duo.left.edit(b"g", b"more")
        duo.see(LEFT, b"d/f", b"g", read=False)
        for _ in range(LASTING_ATTEMPTS):
            assert (1, b"d/f") in duo.looked(LEFT)
            duo.left.inbox = []
            duo.say(LEFT, Trouble(code, where, "it cannot be"))
            assert b"d/f" not in [path for _, path in duo.looked(LEFT)]
            stuck = duo.session.stuck(duo.session.mark())
            duo.wait()

        assert stuck == []  # nobody has answered for `g`
        assert [(p.path, p.message) for p in duo.session.problems()] == [(b"d/f", "it cannot be")]
        duo.see(LEFT, b"g")
        duo.settle()
        assert duo.shape(LEFT) == duo.shape(RIGHT)

    def test_hides_what_a_mount_covers_and_takes_nothing_for_gone(self) -> None:
        duo = Duo({b"d/f": b"one"})
        duo.say(LEFT, Trouble("mount", b"d", "another file system"))
        duo.say(LEFT, duo.left.listing(ROOT)._replace(items=[]))

        assert duo.transitions(RIGHT) == []
        assert duo.archive.get(b"d/f") is not None


class TestKept:
    def test_is_told_once(self) -> None:
        duo = Duo()
        duo.say(LEFT, Kept(b"f", b"0001"), Kept(b"f", b"0001"), Kept(b"a", b"0002"))

        assert duo.session.conflicts() == [(LEFT, b"f", b"0001"), (LEFT, b"a", b"0002")]
        assert len(duo.notes("conflict.kept")) == 2

    def test_is_forgotten_when_it_is_dropped(self) -> None:
        duo = Duo()
        duo.say(LEFT, Kept(b"f", b"0001"))
        duo.say(RIGHT, Dropped(b"0001"))
        assert duo.session.status()["conflicts"] == 1

        duo.say(LEFT, Dropped(b"0001"), Dropped(b"0002"))
        assert duo.session.conflicts() == []

    def test_in_the_place_of_one_that_was_restored_stays_known(self) -> None:
        """Also if that is told while the side's talk waits for a directory's rename."""
        duo = Duo({b"d/f": b"one"})
        duo.say(LEFT, Kept(b"f", b"0001"))
        duo.move(LEFT, b"d", b"e")
        duo.say(LEFT, Dropped(b"0001"), Kept(b"g", b"0001"))
        duo.settle()

        assert duo.session.conflicts() == [(LEFT, b"g", b"0001")]

    def test_is_heard_of_though_the_side_is_scanned_anew(self) -> None:
        duo = Duo({b"d/f": b"one"})
        duo.move(LEFT, b"d", b"e")
        duo.say(LEFT, Kept(b"g", b"0001"), *duo.left.scan())

        assert duo.session.conflicts() == [(LEFT, b"g", b"0001")]

    def test_is_not_told_again_after_a_restart(self) -> None:
        duo = Duo()
        duo.say(LEFT, Kept(b"f", b"0001", fresh=False))

        assert duo.session.conflicts() == [(LEFT, b"f", b"0001")]
        assert duo.notes("conflict.kept") == []

    def test_is_told_by_each_agent_anew(self) -> None:
        duo = Duo()
        duo.say(LEFT, Kept(b"f", b"0001"))
        duo.say(RIGHT, Kept(b"g", b"0002"))
        duo.down(LEFT)
        assert len(duo.session.conflicts()) == 2

        duo.up(LEFT)
        assert duo.session.conflicts() == [(RIGHT, b"g", b"0002")]

    def test_is_told_of_when_it_is_put_beside_what_won(self) -> None:
        duo = Duo()
        duo.say(LEFT, Kept(b"f", b"0001"))
        duo.left.make(b"f.conflict", b"lost")
        mark = duo.session.mark()
        duo.say(LEFT, Dropped(b"0001", b"f.conflict"))

        assert duo.session.conflicts() == []
        (note,) = duo.notes("conflict.beside")
        assert note[1:3] == (LEFT, b"f.conflict")
        assert not duo.session.settled(mark), "a flush waits for it"
        duo.assert_rest()
        assert duo.right.content == {b"f.conflict": b"lost"}

    def test_is_found_by_a_scan_where_it_was_put_before(self) -> None:
        duo = Duo(start=False)
        duo.up(LEFT)
        duo.left.make(b"f.conflict", b"lost")
        duo.say(LEFT, Dropped(b"0001", b"f.conflict"), *duo.left.scan())
        duo.up(RIGHT)
        duo.say(RIGHT, *duo.right.scan())

        duo.assert_rest()
        assert duo.right.content == {b"f.conflict": b"lost"}

    @pytest.mark.parametrize("scanned", [False, True])
    def test_is_told_after_the_outcome_by_which_it_lost(self, scanned: bool) -> None:
        """Though that waits, as all talk does, for the rename of a directory to be settled."""
        duo = Duo({b"d/f": b"one", b"g": b"one"})
        duo.receive(Paused())
        for side in Side:
            duo.write(side, b"g", b"by %d" % side, mtime_ns=10**18 + side)
        duo.receive(Resumed())
        (lost,) = duo.transitions(LEFT)
        duo.move(LEFT, b"d", b"e")
        (batch,) = duo.asked(LEFT, Apply)
        duo.left.inbox.clear()
        duo.say(LEFT, Results(batch.batch, [duo.left.apply(lost)._replace(kept=b"0001")]))
        duo.say(LEFT, Dropped(b"0001", b"g.conflict"))
        assert duo.session.conflicts() == []
        if scanned:
            duo.say(LEFT, *duo.left.scan())
        duo.run()

        assert duo.session.conflicts() == []
        assert [n.path for n in duo.notes("conflict.beside")] == [b"g.conflict"]


class TestCredit:
    def test_is_given_back_when_a_batch_is_done(self) -> None:
        duo = Duo()
        duo.write(LEFT, b"f", b"one")
        duo.run()

        given = [c.message for c in duo.commands if getattr(c, "message", None) == Credit(3)]
        assert given == [Credit(3)]

    def test_is_asked_for_with_a_look_at_most_so_much_at_once(self, monkeypatch) -> None:
        monkeypatch.setattr("psync.core.replica.ASKING_MAX", 3)
        duo = Duo()
        for name in (b"a", b"b"):
            duo.left.make(name, b"one")
        duo.see(LEFT, b"a", b"b", read=False)

        assert duo.looked(LEFT) == [(1, b"a")]
        assert duo.session.remains()["awaited"] == 5
        duo.obey(LEFT)
        assert duo.looked(LEFT) == [(1, b"b")]
        duo.assert_rest()

    def counted(self, monkeypatch: pytest.MonkeyPatch) -> collections.Counter[bytes]:
        """How often each path is decided from now on."""
        decided: collections.Counter[bytes] = collections.Counter()
        decide = Session._decide

        def count(self: Session, path: bytes, **how: bool) -> None:
            decided[path] += 1
            decide(self, path, **how)

        monkeypatch.setattr(Session, "_decide", count)
        return decided

    def test_in_a_chain_of_new_directories_is_not_decided_anew_for_each(self, monkeypatch) -> None:
        chain = [b"/".join([b"d"] * depth) for depth in range(1, 100)]
        duo = Duo(dict.fromkeys(chain), start=False)
        duo.archive.remove(b"d")
        duo.right.remove(b"d")
        decided = self.counted(monkeypatch)
        duo.start()

        duo.assert_rest()
        assert set(duo.shape(RIGHT)) == set(chain)
        assert max(decided.values()) <= 6

    def test_is_not_decided_anew_for_all_that_waits_with_each_answer(self, monkeypatch) -> None:
        monkeypatch.setattr("psync.core.replica.ASKING_MAX", 10)
        duo = Duo()
        names = [b"%03d" % i for i in range(200)]
        for name in names:
            duo.left.make(name, b"one")
        decided = self.counted(monkeypatch)
        duo.see(LEFT, *names, read=False)

        duo.assert_rest()
        assert duo.shape(RIGHT) == dict.fromkeys(names, b"one")
        assert max(decided.values()) <= 3

    def test_that_waits_is_forgotten_with_the_side(self, monkeypatch) -> None:
        monkeypatch.setattr("psync.core.replica.ASKING_MAX", 3)
        duo = Duo()
        for name in (b"a", b"b"):
            duo.left.make(name, b"one")
        duo.see(LEFT, b"a", b"b", read=False)
        duo.down(LEFT)
        duo.up(LEFT)
        duo.say(LEFT, *duo.left.scan())

        duo.assert_rest()


class TestStream:
    """What a side says while its directory's rename is being settled waits."""

    def turning(self) -> Duo:
        duo = Duo({b"d/f": b"one", b"g": b"one"})
        duo.move(LEFT, b"d", b"e")
        assert duo.session.remains()["moves"] > 0
        return duo

    def test_waits_for_the_rename(self) -> None:
        duo = self.turning()
        duo.write(LEFT, b"e/f", b"two")
        assert not duo.session.settled(duo.session.mark())
        assert duo.session.remains()["stream"] > 0
        duo.obey(RIGHT)

        duo.assert_rest()
        assert duo.shape(RIGHT) == {b"e": None, b"e/f": b"two", b"g": b"one"}

    def test_is_bounded(self, monkeypatch) -> None:
        monkeypatch.setattr("psync.core.news.STREAM_MAX", 3)
        duo = self.turning()
        sent = [m for m in duo.right.inbox if isinstance(m, Apply)]
        duo.write(RIGHT, b"g", b"two")
        for i in range(4):
            duo.write(LEFT, b"h%d" % i, b"x")
        assert duo.asked(LEFT, Rescan) == [Rescan()]
        assert sent
        duo.obey(LEFT, Rescan)
        duo.run()

        assert duo.shape(LEFT) == duo.shape(RIGHT)
        assert duo.right.content[b"h3"] == b"x"
        assert duo.left.content[b"g"] == b"two"

    def test_keeps_results_when_it_is_forgotten(self) -> None:
        duo = Duo({b"d/f": b"one", b"g": b"one"})
        duo.write(RIGHT, b"g", b"two")
        duo.move(LEFT, b"d", b"e")
        duo.obey(LEFT, Apply)
        assert duo.session.remains()["stream"] == 2
        duo.left.inbox.clear()
        duo.say(LEFT, *duo.left.scan())
        duo.down(RIGHT)
        duo.up(RIGHT)
        duo.say(RIGHT, *duo.right.scan())

        duo.assert_rest()

    def test_continues_in_the_middle_of_a_message(self) -> None:
        duo = Duo({b"d/f": b"one", b"g": b"one"})
        duo.left.rename(b"d", b"e")
        duo.left.edit(b"e/f", b"two")
        told = [
            duo.left.item(b"e", moved_from=b"d", flags=META_ONLY),
            Item(b"d", None),
            duo.left.item(b"e/f"),
        ]
        duo.say(LEFT, Observed(told[:1]), Observed(told[1:]))
        duo.assert_rest()
        assert duo.right.content[b"e/f"] == b"two"
