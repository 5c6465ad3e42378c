"""Renames that are carried over as renames, and what becomes of those that are not."""

from __future__ import annotations

from itertools import product

import pytest

from psync.core.entry import ROOT, Kind, below_or_at, is_ours
from psync.core.events import (
    Paused,
    Resumed,
    Said,
    Transferred,
)
from psync.wire import (
    APPLIED,
    BUSY,
    CHANGED,
    DELETE,
    FAILED,
    META_ONLY,
    PUT,
    RENAME,
    Apply,
    Item,
    List_,
    Listing,
    Look,
    Observed,
    Outcome,
    Results,
)
from tests.core.test_session import LEFT, RIGHT, Duo, Side, file


def verbs(duo: Duo, side: Side = RIGHT) -> list[tuple[int, bytes]]:
    return [(t.verb, t.path) for t in duo.transitions(side)]


def _saw(side: Side, items: list[Item]) -> Said:
    return Said(side, Observed(items))


def _said(side: Side, item: Item) -> Said:
    return _saw(side, [item])


class TestFile:
    def test_is_renamed_and_not_copied(self) -> None:
        duo = Duo({b"f": b"one"})
        duo.move(LEFT, b"f", b"g")

        (transition,) = duo.transitions(RIGHT)
        assert (transition.verb, transition.source, transition.path) == (RENAME, b"f", b"g")
        assert transition.source_expected.same_identity(duo.right.tree[b"f"])
        duo.assert_rest()
        assert duo.shape(RIGHT) == {b"g": b"one"}
        assert duo.session.bytes_moved == [0, 0]
        told = [(n.text, n.moved_from) for n in duo.notes("transition.applied")]
        assert told == [("renamed", b"f")]

    def test_that_is_edited_too_is_renamed_and_then_replaced(self) -> None:
        duo = Duo({b"f": b"one"})
        duo.left.rename(b"f", b"g")
        duo.left.edit(b"g", b"two", mtime_ns=5)
        duo.say(LEFT, Observed([duo.left.item(b"g", moved_from=b"f"), Item(b"f", None)]))
        assert verbs(duo) == [(RENAME, b"g")]

        duo.assert_rest()
        assert duo.shape(RIGHT) == {b"g": b"two"}

    def test_goes_over_an_agreed_one(self) -> None:
        duo = Duo({b"f": b"one", b"g": b"two"})
        duo.move(LEFT, b"f", b"g")

        (transition,) = duo.transitions(RIGHT)
        assert transition.expected.same_identity(duo.right.tree[b"g"])
        duo.assert_rest()
        assert duo.shape(RIGHT) == {b"g": b"one"}

    def test_goes_over_no_edited_one(self) -> None:
        duo = Duo({b"f": b"one", b"g": b"two"})
        duo.right.edit(b"g", b"other", mtime_ns=9)
        duo.left.rename(b"f", b"g")
        told = [duo.left.item(b"g", moved_from=b"f", flags=META_ONLY), Item(b"f", None)]
        duo.session.receive(_said(RIGHT, duo.right.item(b"g")), duo.now)
        duo.say(LEFT, Observed(told))

        assert (RENAME, b"g") not in verbs(duo)
        duo.settle()
        assert duo.shape(LEFT) == duo.shape(RIGHT)
        assert any(t.keep for t in duo.sent())

    @pytest.mark.parametrize("content", [b"two", b"three"])
    def test_that_is_edited_over_there_keeps_the_edit_whatever_is_scanned(
        self, content: bytes
    ) -> None:
        """A scan that begins before the rename is answered forgets what was told of the edit."""
        duo = Duo({b"f": b"one", b"d/x": b"1"})
        duo.receive(Paused())
        duo.right.edit(b"f", content, mtime_ns=file(b"").mtime_ns + 5)
        duo.see(RIGHT, b"f")
        duo.move(LEFT, b"f", b"d/n")
        duo.receive(Resumed())
        assert verbs(duo) == [(RENAME, b"d/n")]

        duo.say(RIGHT, *duo.right.scan())
        duo.obey(RIGHT, Apply)
        duo.obey(LEFT, Apply)
        told = duo.right.item(b"d/n", read=False, moved_from=b"f", flags=META_ONLY)
        duo.say(RIGHT, Observed([told]))
        duo.settle()

        assert duo.shape(LEFT) == duo.shape(RIGHT)
        assert duo.shape(RIGHT)[b"d/n"] == content

    def test_that_is_edited_over_there_is_not_renamed(self) -> None:
        duo = Duo({b"f": b"one"})
        duo.right.remove(b"f")
        duo.right.make(b"f", b"other")
        duo.session.receive(_said(RIGHT, duo.right.item(b"f")), duo.now)
        duo.move(LEFT, b"f", b"g")

        assert (RENAME, b"g") not in verbs(duo)
        duo.assert_rest()
        assert duo.shape(LEFT) == {b"f": b"other", b"g": b"one"}

    def test_renamed_twice_while_it_waits_is_renamed_once(self) -> None:
        duo = Duo({b"f": b"one"})
        duo.write(LEFT, b"f", b"two")
        duo.move(LEFT, b"f", b"g")
        duo.move(LEFT, b"g", b"h")
        duo.obey(RIGHT)

        (transition,) = duo.transitions(RIGHT)
        assert (transition.source, transition.path) == (b"f", b"h")
        duo.assert_rest()

    def test_whose_new_name_is_renamed_over_is_dealt_with_as_gone(self) -> None:
        duo = Duo({b"f": b"one", b"g": b"two"})
        duo.left.rename(b"f", b"h")
        first = duo.left.item(b"h", read=False, moved_from=b"f", flags=META_ONLY)
        duo.left.rename(b"g", b"h")
        second = duo.left.item(b"h", read=False, moved_from=b"g", flags=META_ONLY)
        duo.say(LEFT, Observed([first, Item(b"f", None), second, Item(b"g", None)]))

        duo.assert_rest()
        assert duo.shape(RIGHT) == {b"h": b"two"}

    def test_into_a_new_directory_arrives_there(self) -> None:
        duo = Duo({b"f": b"one"})
        duo.left.make(b"d", None)
        duo.see(LEFT, b"d")
        duo.move(LEFT, b"f", b"d/f")
        assert verbs(duo) == [(PUT, b"d")]

        duo.assert_rest()
        assert duo.shape(RIGHT) == {b"d": None, b"d/f": b"one"}
        assert [t.verb for t in duo.sent()] == [PUT, RENAME]

    def test_that_a_new_directorys_listing_shows_moves_no_bytes(self) -> None:
        duo = Duo({b"f": b"one"})
        duo.left.make(b"d", None)
        duo.left.rename(b"f", b"d/f")
        duo.say(LEFT, duo.left.listing(b"d"), Observed([Item(b"f", None)]))

        duo.assert_rest()
        assert [t.verb for t in duo.sent()] == [PUT, RENAME]

    @pytest.mark.parametrize("what", [b"one", None])
    def test_that_is_found_before_it_is_missed_moves_no_bytes(self, what: bytes | None) -> None:
        duo = Duo({b"f": what})
        duo.left.make(b"d", None)
        duo.left.rename(b"f", b"d/f")
        duo.say(LEFT, duo.left.listing(b"d"))
        assert (0, b"f") in duo.looked(LEFT)
        duo.see(LEFT, b"d/f", b"d")  # something else happens before that is answered
        assert not duo.session.settled(duo.session.mark())

        duo.assert_rest()
        assert [t.verb for t in duo.sent()] == [PUT, RENAME]

    def test_that_is_still_where_it_was_is_none(self) -> None:
        duo = Duo({b"f": b"one"})
        duo.left.make(b"d", None)
        duo.left.tree[b"d/f"] = duo.left.tree[b"f"]
        duo.left.content[b"d/f"] = b"one"
        duo.say(LEFT, duo.left.listing(b"d"))

        duo.assert_rest()
        assert duo.shape(RIGHT) == {b"d": None, b"d/f": b"one", b"f": b"one"}

    def test_that_is_found_and_renamed_further_is_one(self) -> None:
        duo = Duo({b"f": b"one"})
        duo.left.make(b"d", None)
        duo.left.rename(b"f", b"d/f")
        duo.say(LEFT, duo.left.listing(b"d"))
        duo.move(LEFT, b"d/f", b"d/g")
        duo.see(LEFT, b"f")

        duo.assert_rest()
        assert [(t.verb, t.source) for t in duo.sent()] == [(PUT, b""), (RENAME, b"f")]

    def test_into_a_directory_that_cannot_be_made_waits_with_it(self) -> None:
        duo = Duo({b"f": b"one"})
        duo.left.make(b"d", None)
        duo.see(LEFT, b"d")
        duo.move(LEFT, b"f", b"d/f")
        duo.reply(RIGHT, FAILED, "no space left")
        assert duo.transitions(RIGHT) == []
        duo.left.remove(b"d")
        duo.see(LEFT, b"d", b"d/f")

        duo.assert_rest()
        assert duo.shape(RIGHT) == {}

    def test_twice_heard_of_at_once_is_one(self) -> None:
        duo = Duo({b"f": b"one"})
        items = []
        for old, new in ((b"f", b"g"), (b"g", b"h")):
            duo.left.rename(old, new)
            items += [duo.left.item(new, read=False, moved_from=old, flags=META_ONLY)]
            items += [Item(old, None)]
        duo.say(LEFT, Observed(items))

        duo.assert_rest()
        assert [(t.verb, t.source, t.path) for t in duo.sent()] == [(RENAME, b"f", b"h")]

    @pytest.mark.parametrize(
        "pattern",
        [
            pytest.param("3>4 2>3 1>2 0>1", id="rotated"),
            pytest.param("1>2 0>1", id="rotated over the oldest"),
            pytest.param("a>t b>a t>b", id="swapped"),
            pytest.param("a>t b>a c>b t>c", id="in a circle"),
            pytest.param("a>t t>a a>t t>a a>b", id="there and back"),
            pytest.param("a>t t>a a>u u>a", id="away and back twice"),
        ],
    )
    def test_in_quick_succession_are_renamed_and_never_copied(self, pattern: str) -> None:
        """However much the other side has done when the next one is heard of."""
        renames = [tuple(each.encode().split(b">")) for each in pattern.split()]
        names = {name for name in b"".join(map(b"".join, renames)) if chr(name) in "0123abc"}
        for answers in product((False, True), repeat=len(renames)):
            duo = Duo({bytes((name,)): bytes((name,)) for name in sorted(names)})
            for (old, new), answered in zip(renames, answers, strict=True):
                duo.move(LEFT, old, new)
                if answered:
                    duo.obey(RIGHT)

            duo.assert_rest()
            assert {t.verb for t in duo.sent()} <= {RENAME}, answers

    def test_again_while_it_is_being_renamed_follows(self) -> None:
        duo = Duo({b"f": b"one"})
        duo.move(LEFT, b"f", b"g")
        duo.move(LEFT, b"g", b"h")
        duo.move(LEFT, b"h", b"i")

        duo.assert_rest()
        assert duo.shape(RIGHT) == {b"i": b"one"}
        assert [(t.verb, t.path) for t in duo.sent()] == [(RENAME, b"g"), (RENAME, b"i")]

    @pytest.mark.parametrize("told", [False, True])
    def test_again_before_its_name_was_told_as_gone_follows(self, told: bool) -> None:
        """As an agent does that has found a name of the chain gone, and waited for its event."""
        duo = Duo({b"f": b"one"})
        duo.move(LEFT, b"f", b"g")
        duo.left.rename(b"g", b"i")
        if told:  # after all
            duo.see(LEFT, b"g")
        duo.say(LEFT, Observed([duo.left.item(b"i", moved_from=b"g", flags=META_ONLY)]))

        duo.settle()
        assert duo.looked(LEFT) == []
        duo.see(LEFT, b"g", b"h")
        duo.assert_rest()
        assert duo.shape(RIGHT) == {b"i": b"one"}
        assert [(t.verb, t.path) for t in duo.sent()] == [(RENAME, b"g"), (RENAME, b"i")]

    @pytest.mark.parametrize("heard", ["of it", "with the next name"])
    def test_again_does_not_hide_an_edit_that_kept_the_time(self, heard: str) -> None:
        duo = Duo({b"f": b"one"})
        duo.move(LEFT, b"f", b"g")
        duo.left.edit(b"g", b"two", mtime_ns=duo.left.tree[b"g"].mtime_ns)
        if heard == "of it":
            duo.see(LEFT, b"g")
        duo.move(LEFT, b"g", b"h", flags=0 if heard == "with the next name" else META_ONLY)
        duo.move(LEFT, b"h", b"i")

        duo.settle()
        assert duo.shape(RIGHT) == {b"i": b"two"}

    def test_out_of_a_directory_that_is_to_be_listed_does_not_hide_an_edit(self) -> None:
        """It was scanned after the edit, of which nobody has told."""
        duo = Duo({b"d/f": b"one", b"e": None}, start=False)
        duo.left.edit(b"d/f", b"two", mtime_ns=duo.left.tree[b"d/f"].mtime_ns)
        for side in Side:
            duo.up(side)
            duo.say(side, *duo.hands[side].scan())
        duo.move(LEFT, b"d/f", b"e/g")

        duo.assert_rest()
        assert duo.shape(RIGHT) == {b"d": None, b"e": None, b"e/g": b"two"}

    def test_of_another_file_to_that_name_while_it_is_being_renamed_is_not_taken_for_it(
        self,
    ) -> None:
        duo = Duo({b"f": b"one"})
        duo.move(LEFT, b"f", b"g")
        duo.left.make(b"g", b"two")
        duo.move(LEFT, b"g", b"h")

        duo.assert_rest()
        assert duo.shape(RIGHT) == {b"h": b"two"}

    def test_again_and_edited_while_it_is_being_renamed_follows_with_the_edit(self) -> None:
        duo = Duo({b"f": b"one"})
        duo.move(LEFT, b"f", b"g")
        duo.left.edit(b"g", b"two")
        duo.move(LEFT, b"g", b"h", flags=0)

        duo.assert_rest()
        assert duo.shape(RIGHT) == {b"h": b"two"}

    def test_again_while_a_rename_fails_is_dealt_with_as_gone(self) -> None:
        duo = Duo({b"f": b"one"})
        duo.move(LEFT, b"f", b"g")
        duo.move(LEFT, b"g", b"h")
        duo.reply(RIGHT, FAILED)

        duo.assert_rest()
        assert duo.shape(RIGHT) == {b"h": b"one"}

    def test_waits_for_an_operation_at_its_old_name(self) -> None:
        duo = Duo({b"f": b"one"})
        duo.write(LEFT, b"f", b"two")
        duo.move(LEFT, b"f", b"g")
        assert verbs(duo) == [(PUT, b"f")]
        duo.obey(RIGHT)

        assert verbs(duo) == [(RENAME, b"g")]
        duo.assert_rest()
        assert duo.shape(RIGHT) == {b"g": b"two"}

    def test_waits_for_a_writer_over_there(self) -> None:
        duo = Duo({b"f": b"one"})
        duo.right.edit(b"f", mode=0o600)
        duo.see(RIGHT, b"f", read=False, flags=BUSY | META_ONLY)
        duo.move(LEFT, b"f", b"g")
        assert duo.transitions(RIGHT) == []
        duo.see(RIGHT, b"f")

        duo.assert_rest()
        assert duo.shape(RIGHT) == {b"f": b"one", b"g": b"one"}  # it was changed there

    def test_waits_for_room(self, monkeypatch) -> None:
        monkeypatch.setattr("psync.core.plan.OPS_MAX", 1)
        duo = Duo({b"f": b"one"})
        duo.write(LEFT, b"x", b"1")
        duo.move(LEFT, b"f", b"g")
        assert verbs(duo) == [(PUT, b"x")]
        duo.obey(RIGHT)

        assert verbs(duo) == [(RENAME, b"g")]
        duo.assert_rest()

    def test_waits_until_its_old_directory_is_listed(self) -> None:
        duo = Duo({b"d/f": b"one", b"d/x": b"1"}, start=False)
        duo.left.edit(b"d/x", b"2")
        duo.left.rename(b"d/f", b"g")
        for side in Side:
            duo.up(side)
            duo.say(side, *duo.hands[side].scan())
        duo.obey(RIGHT)
        duo.say(LEFT, duo.left.listing(ROOT))
        assert duo.transitions(RIGHT) == []

        duo.assert_rest()
        assert duo.shape(RIGHT) == {b"d": None, b"d/x": b"2", b"g": b"one"}
        assert sorted(t.verb for t in duo.sent()) == sorted((PUT, RENAME))

    @pytest.mark.parametrize("order", [(ROOT, b"d", b"e"), (b"e", b"d", ROOT), (b"d", ROOT, b"e")])
    def test_is_found_in_whatever_order_directories_are_listed(self, order) -> None:
        duo = Duo({b"e/f": b"one", b"d/x": b"1"}, start=False)
        duo.left.rename(b"e/f", b"d/f")
        for side in Side:
            duo.up(side)
            duo.say(side, *duo.hands[side].scan())
        duo.obey(RIGHT)
        duo.left.inbox.clear()
        for path in order:
            duo.say(LEFT, duo.left.listing(path))

        duo.assert_rest()
        assert [t.verb for t in duo.sent()] == [RENAME]

    def test_waits_until_its_old_directory_is_listed_over_there(self) -> None:
        duo = Duo({b"f": b"one"})
        duo.move(LEFT, b"f", b"g")
        duo.down(RIGHT)
        duo.right.rename(b"f", b"g")
        duo.up(RIGHT)
        duo.say(RIGHT, *duo.right.scan())
        assert duo.transitions(RIGHT) == []

        duo.assert_rest()
        assert [t.verb for t in duo.sent()] == [RENAME]

    def test_that_both_sides_have_renamed_is_agreed_at_once(self) -> None:
        duo = Duo({b"f": b"one"})
        for hand in duo.hands:
            hand.rename(b"f", b"g")
        for side in Side:
            hand = duo.hands[side]
            told = [hand.item(b"g", read=False, moved_from=b"f", flags=META_ONLY), Item(b"f", None)]
            duo.session.receive(_saw(side, told), duo.now)
        duo.pump()

        assert duo.transitions(LEFT) == duo.transitions(RIGHT) == []
        duo.assert_rest()

    def test_that_both_sides_have_renamed_elsewhere_is_kept_at_both(self) -> None:
        duo = Duo({b"f": b"one"})
        duo.left.rename(b"f", b"g")
        duo.right.rename(b"f", b"h")
        for side, name in ((LEFT, b"g"), (RIGHT, b"h")):
            hand = duo.hands[side]
            told = [hand.item(name, moved_from=b"f", flags=META_ONLY), Item(b"f", None)]
            duo.session.receive(_saw(side, told), duo.now)
        duo.pump()

        duo.assert_rest()
        assert duo.shape(LEFT) == {b"g": b"one", b"h": b"one"}

    def test_that_cannot_be_renamed_there_is_looked_at(self) -> None:
        duo = Duo({b"f": b"one"})
        duo.move(LEFT, b"f", b"g")
        duo.reply(RIGHT, CHANGED)
        assert {path for _, path in duo.looked(RIGHT)} == {b"f", b"g"}

        duo.assert_rest()
        assert duo.shape(RIGHT) == {b"g": b"one"}

    def test_with_two_new_names_is_at_both(self) -> None:
        duo = Duo({b"f": b"one"})
        duo.down(LEFT)
        duo.left.rename(b"f", b"g")
        duo.left.tree[b"h"], duo.left.content[b"h"] = duo.left.tree[b"g"], b"one"
        duo.up(LEFT)
        duo.say(LEFT, *duo.left.scan())

        duo.assert_rest()
        assert duo.shape(RIGHT) == {b"g": b"one", b"h": b"one"}


class TestHint:
    @pytest.mark.parametrize(("old", "new"), [(b"x.psync.ignore", b"g"), (b"f", b"f.psync.ignore")])
    def test_to_or_from_what_is_not_replicated_is_none(self, old: bytes, new: bytes) -> None:
        duo = Duo({b"f": b"one"})
        duo.left.make(b"x.psync.ignore", b"own")
        duo.left.rename(old, new)
        told = [duo.left.item(new, moved_from=old), duo.left.item(old)]
        duo.say(LEFT, Observed(told))
        for path in [p for p in duo.left.tree if is_ours(p)]:
            duo.left.remove(path)

        assert all(t.verb != RENAME for t in duo.transitions(RIGHT))
        duo.assert_rest()

    def test_of_what_is_gone_again_is_none(self) -> None:
        duo = Duo({b"f": b"one"})
        duo.left.remove(b"f")
        duo.say(LEFT, Observed([Item(b"g", None, None, b"f"), Item(b"f", None)]))

        assert verbs(duo) == [(DELETE, b"f")]
        duo.assert_rest()

    def test_of_what_was_never_agreed_is_none(self) -> None:
        duo = Duo()
        duo.left.make(b"g", b"one")
        duo.say(LEFT, Observed([duo.left.item(b"g", moved_from=b"f"), Item(b"f", None)]))

        assert verbs(duo) == [(PUT, b"g")]
        duo.assert_rest()

    def test_of_another_inode_than_was_agreed_is_none(self) -> None:
        duo = Duo({b"f": b"one"})
        duo.left.remove(b"f")
        duo.left.make(b"g", b"two")
        duo.say(LEFT, Observed([duo.left.item(b"g", moved_from=b"f"), Item(b"f", None)]))

        assert all(verb != RENAME for verb, _ in verbs(duo))
        duo.assert_rest()

    def test_of_a_new_directory_has_it_listed(self) -> None:
        duo = Duo()
        duo.left.make(b"e", None)
        duo.left.make(b"e/f", b"one")
        duo.say(LEFT, Observed([duo.left.item(b"e", moved_from=b"d"), Item(b"d", None)]))

        assert duo.listed(LEFT) == [b"e"]
        duo.assert_rest()
        assert duo.shape(RIGHT) == {b"e": None, b"e/f": b"one"}

    def test_that_comes_late_has_both_directories_listed(self) -> None:
        duo = Duo({b"d/f": b"one"})
        duo.left.rename(b"d", b"n")
        duo.left.make(b"d", None)
        duo.left.make(b"d/x", b"1")
        duo.see(LEFT, b"d")
        duo.say(LEFT, Observed([duo.left.item(b"n", moved_from=b"d")]))
        assert sorted(duo.listed(LEFT)) == [b"d", b"n"]

        duo.assert_rest()
        assert sorted(duo.shape(RIGHT)) == [b"d", b"d/x", b"n", b"n/f"]

    def test_of_a_directory_into_itself_is_none(self) -> None:
        duo = Duo({b"d/f": b"one"})
        entry = duo.left.tree[b"d"]
        duo.say(LEFT, Observed([Item(b"d/e", entry, None, b"d", META_ONLY)]))
        duo.left.inbox.clear()

        assert all(t.verb != RENAME for t in duo.transitions(RIGHT))


class TestDirectory:
    AGREED = ((b"d/e/f", b"one"), (b"d/g", b"two"))

    @pytest.fixture
    def duo(self) -> Duo:
        return Duo(dict(self.AGREED))

    def test_is_renamed_with_all_that_is_in_it(self, duo: Duo) -> None:
        duo.move(LEFT, b"d", b"n")

        assert verbs(duo) == [(RENAME, b"n")]
        duo.assert_rest()
        assert duo.shape(RIGHT)[b"n/e/f"] == b"one"
        assert duo.listed(LEFT) == []
        assert len(duo.sent()) == 1

    def test_keeps_what_the_target_has_changed_of_it_meanwhile(self, duo: Duo) -> None:
        duo.move(LEFT, b"d", b"n")
        duo.right.edit(b"d", mode=0o700)
        duo.see(RIGHT, b"d")

        duo.assert_rest()
        assert duo.left.tree[b"n"].mode == 0o700

    def test_takes_news_in_it_along(self, duo: Duo) -> None:
        duo.write(LEFT, b"x", b"1")  # under way meanwhile
        duo.right.edit(b"d/g", b"half")
        duo.see(RIGHT, b"d/g", read=False, flags=BUSY)
        duo.left.edit(b"d/e/f", b"half")
        duo.see(LEFT, b"d/e/f", read=False, flags=BUSY)
        duo.move(LEFT, b"d", b"n")
        duo.obey(RIGHT)
        duo.see(LEFT, b"n/e/f")
        duo.see(RIGHT, b"n/g")

        duo.assert_rest()
        assert duo.shape(LEFT)[b"n/e/f"] == b"half"
        assert duo.shape(LEFT)[b"n/g"] == b"half"

    @pytest.mark.parametrize("below", [b"a", b"a/a"])
    def test_into_each_other_on_both_sides_comes_to_rest(self, below: bytes) -> None:
        """Nobody has heard of the renames: directories are new, and in them are known inodes."""
        duo = Duo({b"a/a/x": b"1", b"b/b/y": b"2"})
        moves = ((LEFT, b"b", below + b"/b"), (RIGHT, b"a", b"b/b/a"))
        for side, old, new in moves:
            duo.hands[side].rename(old, new)
        for side, old, new in moves:
            hand = duo.hands[side]
            duo.say(side, Observed([hand.item(new), Item(old, None)]))
            for path in sorted(p for p, e in hand.tree.items() if e.kind == Kind.DIRECTORY):
                if below_or_at(path, new):
                    items = [Item(name, entry) for name, entry in hand.children(path)]
                    duo.say(side, Listing(path, hand.tree[path], b"", None, items))

        duo.assert_rest()
        assert sorted(v for v in duo.shape(LEFT).values() if v) == [b"1", b"2"]

    def test_to_a_name_that_another_is_on_its_way_to_is_not_taken_for_that(self) -> None:
        """The first is carried over as one that was found, and the talk has gone on meanwhile."""
        duo = Duo({b"d/x": b"1", b"e/y": b"2", b"f/s/z": b"3", b"r/q": b"4"})
        duo.move(RIGHT, b"r", b"rr")
        duo.move(LEFT, b"d", b"t")
        duo.obey(LEFT, List_)
        duo.obey(LEFT, Look)
        assert (RENAME, b"t") in verbs(duo)
        for old, new in ((b"t", b"c"), (b"f", b"d"), (b"e", b"t")):
            duo.move(LEFT, old, new)
            duo.obey(LEFT, Apply)

        duo.assert_rest()
        assert duo.shape(RIGHT)[b"d/s/z"] == b"3"

    def test_takes_along_what_was_asked_of_it_under_its_old_name(self, duo: Duo) -> None:
        """The answer is that nothing is there, which is true of both names by then."""
        duo.write(LEFT, b"d/g", b"new")
        duo.delete(LEFT, b"d/g")
        duo.move(LEFT, b"d", b"n")
        duo.obey(RIGHT)
        duo.obey(RIGHT)
        assert (0, b"n/g") in duo.looked(LEFT)
        duo.move(LEFT, b"n", b"m")

        duo.assert_rest()
        assert duo.shape(RIGHT) == {b"m": None, b"m/e": None, b"m/e/f": b"one"}

    def test_waits_for_operations_in_it(self, duo: Duo) -> None:
        duo.write(LEFT, b"d/g", b"new")
        duo.move(LEFT, b"d", b"n")
        assert verbs(duo) == [(PUT, b"d/g")]
        duo.obey(RIGHT)

        assert verbs(duo) == [(RENAME, b"n")]
        duo.assert_rest()

    def test_waits_for_no_transfer(self, duo: Duo) -> None:
        duo.write(LEFT, b"d/g", b"more than is sent in a frame")
        (transfer,) = duo.transfers()
        duo.move(LEFT, b"d", b"n")

        assert duo.listed(LEFT) == [b"n"]  # it is dealt with as gone and new
        duo.obey(LEFT)
        duo.receive(Transferred(transfer.op, b"", torn=True))
        duo.run()
        for transfer in duo.transfers()[1:]:
            duo.receive(Transferred(transfer.op, b"1/3"))
        duo.settle()
        assert sorted(duo.shape(RIGHT)) == [b"n", b"n/e", b"n/e/f", b"n/g"]

    def test_waits_for_no_operation_of_its_own_side(self, duo: Duo) -> None:
        duo.write(RIGHT, b"d/g", b"new")
        duo.left.rename(b"d", b"n")
        told = [
            duo.left.item(b"n", moved_from=b"d", flags=META_ONLY),
            Item(b"d", None),
        ]
        duo.say(LEFT, Observed(told))
        assert duo.listed(LEFT) == [b"n"]
        (batch,) = duo.asked(LEFT, Apply)
        duo.left.inbox.remove(batch)
        duo.say(LEFT, Results(batch.batch, [Outcome(batch.transitions[0].op, CHANGED, None)]))

        duo.settle()
        assert duo.shape(LEFT) == duo.shape(RIGHT)
        assert duo.shape(LEFT)[b"n/e/f"] == b"one"

    def test_is_one_at_a_time(self) -> None:
        duo = Duo({b"a/f": b"one", b"b/f": b"two"})
        duo.move(LEFT, b"a", b"x")
        duo.move(RIGHT, b"b", b"y")
        assert verbs(duo) == [(RENAME, b"x")]
        assert duo.listed(RIGHT) == [b"y"]

        duo.assert_rest()
        assert sorted(duo.shape(LEFT)) == [b"x", b"x/f", b"y", b"y/f"]

    def test_into_a_directory_being_made_waits_for_it(self, duo: Duo) -> None:
        duo.left.make(b"n", None)
        duo.see(LEFT, b"n")
        duo.move(LEFT, b"d", b"n/d")
        assert verbs(duo) == [(PUT, b"n")]
        duo.obey(RIGHT)

        assert verbs(duo) == [(RENAME, b"n/d")]
        duo.assert_rest()

    def test_into_a_directory_nobody_makes_is_given_up(self, duo: Duo) -> None:
        duo.left.make(b"n", None)
        duo.move(LEFT, b"d", b"n/d")
        assert duo.listed(LEFT) == [b"n/d"]
        duo.see(LEFT, b"n")

        duo.assert_rest()
        assert duo.shape(RIGHT)[b"n/d/e/f"] == b"one"

    def test_that_was_listed_anew_at_its_old_name_is_given_up(self, duo: Duo) -> None:
        duo.left.rename(b"d", b"n")
        duo.left.make(b"d", None)
        duo.left.make(b"d/new", b"x")
        told = [
            duo.left.item(b"n", moved_from=b"d", flags=META_ONLY),
            duo.left.item(b"d"),
            duo.left.item(b"d/new"),
        ]
        duo.say(LEFT, Observed(told))

        duo.assert_rest()
        assert duo.shape(RIGHT)[b"n/e/f"] == b"one"
        assert duo.shape(RIGHT)[b"d/new"] == b"x"

    def test_that_was_edited_over_there_is_given_up(self, duo: Duo) -> None:
        duo.right.remove(b"d")
        duo.right.make(b"d", b"a file")
        duo.session.receive(_saw(RIGHT, [duo.right.item(b"d")]), duo.now)
        duo.move(LEFT, b"d", b"n")

        duo.settle()
        assert duo.shape(LEFT) == duo.shape(RIGHT)
        assert duo.shape(LEFT)[b"n/e/f"] == b"one"

    def test_over_a_directory_is_given_up(self, duo: Duo) -> None:
        duo.right.make(b"n", None)
        duo.right.make(b"n/x", b"1")
        duo.session.receive(_saw(RIGHT, [duo.right.item(b"n"), duo.right.item(b"n/x")]), duo.now)
        duo.move(LEFT, b"d", b"n")

        duo.settle()
        assert duo.shape(LEFT) == duo.shape(RIGHT)
        assert sorted(duo.shape(LEFT)) == [b"n", b"n/e", b"n/e/f", b"n/g", b"n/x"]

    def test_that_both_sides_have_renamed_is_agreed_at_once(self, duo: Duo) -> None:
        for hand in duo.hands:
            hand.rename(b"d", b"n")
        for side in Side:
            hand = duo.hands[side]
            told = [hand.item(b"n", moved_from=b"d", flags=META_ONLY), Item(b"d", None)]
            duo.session.receive(_saw(side, told), duo.now)
        duo.pump()

        duo.assert_rest()
        assert [t.verb for t in duo.sent()] == []

    def test_that_was_found_renamed_is_renamed(self, duo: Duo) -> None:
        duo.down(LEFT)
        duo.left.rename(b"d", b"n")
        duo.left.edit(b"n/g", b"new")
        duo.up(LEFT)
        duo.say(LEFT, *duo.left.scan())
        duo.obey(LEFT)
        duo.obey(LEFT)

        assert verbs(duo) == [(RENAME, b"n")]
        duo.assert_rest()
        assert duo.shape(RIGHT)[b"n/g"] == b"new"

    def test_that_was_found_renamed_and_is_not_to_be_is_listed(self, duo: Duo) -> None:
        duo.down(LEFT)
        duo.left.rename(b"d", b"n")
        duo.up(LEFT)
        duo.say(LEFT, *duo.left.scan())
        while not duo.transitions(RIGHT):
            duo.obey(LEFT)
        duo.reply(RIGHT, CHANGED)

        duo.settle()
        assert duo.shape(LEFT) == duo.shape(RIGHT)
        assert duo.shape(LEFT)[b"n/e/f"] == b"one"

    def test_that_cannot_be_renamed_there_is_looked_at(self, duo: Duo) -> None:
        duo.move(LEFT, b"d", b"n")
        duo.reply(RIGHT, CHANGED)

        assert duo.listed(LEFT) == [b"n"]
        assert {path for _, path in duo.looked(RIGHT)} == {b"d", b"n"}
        duo.assert_rest()
        assert duo.shape(RIGHT)[b"n/e/f"] == b"one"

    def test_out_of_a_directory_that_is_renamed_next(self, duo: Duo) -> None:
        duo.left.rename(b"d/g", b"g")
        first = duo.left.item(b"g", read=False, moved_from=b"d/g", flags=META_ONLY)
        duo.left.rename(b"d", b"n")
        second = duo.left.item(b"n", moved_from=b"d", flags=META_ONLY)
        duo.say(LEFT, Observed([first, Item(b"d/g", None), second, Item(b"d", None)]))

        duo.assert_rest()
        assert sorted(duo.shape(RIGHT)) == [b"g", b"n", b"n/e", b"n/e/f"]

    def test_waits_for_room(self, duo: Duo, monkeypatch) -> None:
        monkeypatch.setattr("psync.core.plan.OPS_MAX", 1)
        duo.write(LEFT, b"x", b"1")
        duo.move(LEFT, b"d", b"n")
        assert verbs(duo) == [(PUT, b"x")]
        duo.obey(RIGHT)

        assert verbs(duo) == [(RENAME, b"n")]
        duo.assert_rest()

    def test_before_its_directory_is_listed_is_given_up(self, duo: Duo) -> None:
        duo.down(LEFT)
        duo.left.edit(b"d", mtime_ns=3)
        duo.up(LEFT)
        duo.say(LEFT, *duo.left.scan())
        assert b"d" in duo.listed(LEFT)
        duo.left.rename(b"d/e", b"n")
        told = [duo.left.item(b"n", moved_from=b"d/e", flags=META_ONLY), Item(b"d/e", None)]
        duo.say(LEFT, Observed(told))

        duo.assert_rest()
        assert duo.shape(RIGHT)[b"n/f"] == b"one"


class TestLostLink:
    def test_leaves_a_files_rename_to_be_decided_anew(self) -> None:
        duo = Duo({b"f": b"one"})
        duo.move(LEFT, b"f", b"g")
        duo.down(RIGHT)
        duo.up(RIGHT)
        duo.say(RIGHT, *duo.right.scan())

        duo.assert_rest()
        assert duo.shape(RIGHT) == {b"g": b"one"}
        assert {t.verb for t in duo.sent()} == {RENAME}

    def test_finds_a_files_rename_done(self) -> None:
        duo = Duo({b"f": b"one"})
        duo.move(LEFT, b"f", b"g")
        duo.right.rename(b"f", b"g")
        duo.down(RIGHT)
        duo.up(RIGHT)
        duo.say(RIGHT, *duo.right.scan())

        duo.assert_rest()
        assert len(duo.sent()) == 1

    def test_lets_talk_go_on_that_waits_for_a_rename(self) -> None:
        duo = Duo({b"d/f": b"one"})
        duo.move(LEFT, b"d", b"e")
        duo.write(LEFT, b"x", b"1")
        duo.down(RIGHT)
        assert b"e" not in duo.left.inbox
        duo.up(RIGHT)
        duo.say(RIGHT, *duo.right.scan())

        duo.assert_rest()
        assert duo.shape(RIGHT) == {b"e": None, b"e/f": b"one", b"x": b"1"}

    @pytest.mark.parametrize("done", [False, True])
    def test_of_the_other_side_leaves_a_directorys_rename_to_be_found(self, done: bool) -> None:
        duo = Duo({b"d/f": b"one"})
        duo.move(LEFT, b"d", b"e")
        sent = duo.asked(RIGHT, Apply)
        duo.down(LEFT)
        duo.right.inbox = sent if done else []
        if done:
            duo.obey(RIGHT)
        else:
            duo.down(RIGHT)
            duo.up(RIGHT)
            duo.say(RIGHT, *duo.right.scan())
        duo.up(LEFT)
        duo.say(LEFT, *duo.left.scan())

        duo.assert_rest()
        assert duo.shape(RIGHT) == {b"e": None, b"e/f": b"one"}


    def test_while_a_directory_came_back_has_it_listed_with_all_in_it(self) -> None:
        """The scan shows it as it was agreed, until the rename that is under way is followed."""
        duo = Duo({b"c/s/f": b"one"})
        duo.move(RIGHT, b"c", b"e")
        duo.down(RIGHT)
        duo.right.rename(b"e", b"c")
        duo.right.edit(b"c", mtime_ns=77)  # so that it is not taken for what was agreed
        for path, what in ((b"e", None), (b"e/s", None), (b"e/s/g", b"two")):
            duo.right.make(path, what)
        duo.up(RIGHT)
        duo.say(RIGHT, *duo.right.scan())
        duo.obey(LEFT, Apply)

        duo.assert_rest()
        assert duo.shape(LEFT)[b"c/s/f"] == b"one"


def test_results_that_bring_nothing_are_a_failure() -> None:
    duo = Duo({b"d/f": b"one"})
    duo.move(LEFT, b"d", b"e")
    (batch,) = duo.asked(RIGHT, Apply)
    duo.right.inbox.remove(batch)
    duo.say(RIGHT, Results(batch.batch, [Outcome(batch.transitions[0].op, APPLIED, None)]))

    assert duo.listed(LEFT) == [b"e"]
    duo.assert_rest()


class TestWriters:
    def test_in_a_directory_whose_rename_is_given_up_are_forgotten(self) -> None:
        duo = Duo({b"d/f": b"one", b"d/g": b"two"})
        duo.see(LEFT, b"d/g", read=False, flags=BUSY)
        duo.left.edit(b"d/g", b"half")
        duo.see(LEFT, b"d/g", read=False, flags=BUSY)
        duo.write(LEFT, b"d/f", b"?" * 20)
        duo.move(LEFT, b"d", b"n")
        assert duo.session.remains()["busy"] == 0
        for transfer in duo.transfers():
            duo.receive(Transferred(transfer.op, b"", torn=True))
        duo.run()
        for transfer in duo.transfers()[1:]:
            duo.receive(Transferred(transfer.op, b"1/3"))

        duo.assert_rest()
        assert duo.shape(RIGHT) == {b"n": None, b"n/f": b"?" * 20, b"n/g": b"half"}

    def test_in_what_a_renamed_directory_replaces_are_forgotten(self) -> None:
        duo = Duo({b"d/f": b"one"})
        duo.move(LEFT, b"d", b"n")
        entry = duo.right.tree[b"d/f"]._replace(ino=77)
        duo.say(RIGHT, Observed([Item(b"n/x", entry, None, b"", BUSY)]))
        assert duo.session.remains()["busy"] == 1
        duo.obey(RIGHT, Apply)

        assert duo.session.remains()["busy"] == 0
        duo.assert_rest()


class TestShownAtItsOldPathWhileTheRenameIsUnderWay:
    def test_as_it_was_agreed_is_news(self) -> None:
        """A directory that comes back brings its files as they were, ctime and all."""
        duo = Duo({b"f": b"one"})
        was = duo.left.tree[b"f"]
        duo.move(LEFT, b"f", b"g")
        duo.left.rename(b"g", b"f")
        duo.left.tree[b"f"] = was
        duo.say(LEFT, Observed([Item(b"f", was), Item(b"g", None)]))

        duo.settle()
        assert duo.shape(RIGHT) == duo.shape(LEFT) == {b"f": b"one"}


class TestInodeGivenAgain:
    """A number is given to something else as soon as its file is gone."""

    def test_to_a_new_directory_is_no_rename(self) -> None:
        duo = Duo({b"d": None, b"d/f": b"one"}, start=False)
        number = duo.left.tree[b"d"].ino
        duo.left.remove(b"d/f")
        duo.left.remove(b"d")
        duo.left.make(b"e", None, mtime_ns=file(b"").mtime_ns + 5)
        duo.left.tree[b"e"] = duo.left.tree[b"e"]._replace(ino=number)
        duo.right.make(b"d/late", b"late")
        for side in Side:
            duo.up(side)
        for side in Side:
            duo.say(side, *duo.hands[side].scan())

        duo.settle()
        assert duo.shape(LEFT) == duo.shape(RIGHT) == {b"d": None, b"d/late": b"late", b"e": None}


class TestUnheardOnBothSides:
    """What both sides have renamed is agreed at its new path, and no more at its old one."""

    @staticmethod
    def see_at_once(duo: Duo, *paths: bytes) -> None:
        told = [[hand.item(path, read=False) for path in paths] for hand in duo.hands]
        duo.receive(_saw(LEFT, told[0]), _saw(RIGHT, told[1]))

    def test_of_a_file_is_not_there_any_more_when_it_is_brought_back(self) -> None:
        duo = Duo({b"c/a": b"one"})
        for hand in duo.hands:
            hand.rename(b"c/a", b"b")
        duo.left.make(b"c/a", None)
        self.see_at_once(duo, b"b", b"c/a")
        duo.obey(LEFT, Look)
        duo.obey(RIGHT, Look)
        assert duo.archive.get(b"b") is not None
        assert duo.archive.get(b"c/a") is None
        for old, new in ((b"c/a", b"t"), (b"b", b"c/a"), (b"t", b"b")):
            duo.left.rename(old, new)
        duo.see(LEFT, b"b", b"c/a", read=False)

        duo.assert_rest()
        assert duo.shape(RIGHT)[b"c/a"] == b"one"

    def test_of_a_directory_takes_along_what_is_agreed_in_it(self) -> None:
        duo = Duo({b"c/a/x": b"one"})
        for hand in duo.hands:
            hand.rename(b"c/a", b"b")
        self.see_at_once(duo, b"b", b"c/a")

        assert duo.archive.get(b"b/x") is not None
        assert duo.archive.get(b"c/a") is None
        duo.assert_rest()
        assert duo.sent() == []

    def test_of_a_directory_stays_while_something_is_done_in_it(self) -> None:
        duo = Duo({b"c/a/x": b"one"})
        duo.write(LEFT, b"c/a/x", b"two")
        for hand in duo.hands:
            hand.rename(b"c/a", b"b")
        self.see_at_once(duo, b"b", b"c/a")
        for hand in duo.hands:
            items = [Item(name, entry) for name, entry in hand.children(b"b")]
            duo.say(hand.side, Listing(b"b", hand.tree[b"b"], b"", None, items))

        duo.assert_rest()
        assert duo.shape(RIGHT)[b"b/x"] == b"two"

    def test_is_none_of_another_file_that_is_equal(self) -> None:
        duo = Duo({b"f": b"one"})
        duo.left.rename(b"f", b"g")
        duo.right.make(b"g", b"one")
        duo.see(RIGHT, b"g")
        duo.see(LEFT, b"g", b"f")

        duo.assert_rest()
        assert duo.shape(RIGHT) == {b"g": b"one"}
