"""Files with several names on one side: each name is a file of its own on the other."""

from __future__ import annotations

import pytest

from psync.core.entry import Side
from psync.core.events import Said
from psync.core.reconcile import agree
from psync.wire import APPLIED, BUSY, DELETE, META, PUT, Observed, Outcome, Results
from tests.core.test_session import LEFT, RIGHT, Duo


@pytest.fixture
def duo() -> Duo:
    """On the left `a`, `b` and `d/c` are one inode, `x` is another."""
    made = Duo({b"a": b"text", b"b": b"text", b"d/c": b"text", b"x": b"else"}, start=False)
    for name in (b"b", b"d/c"):
        link(made, name)
        made.archive.put(
            name,
            agree(made.archive.get(b"a").on(LEFT), made.left.tree[b"a"], made.right.tree[name]),
        )
    made.start()
    assert made.sent() == []
    return made


def link(duo: Duo, name: bytes) -> None:
    duo.left.tree[name] = duo.left.tree[b"a"]
    duo.left.content[name] = duo.left.content[b"a"]


def change(duo: Duo, content: bytes, *names: bytes, **fields: int) -> None:
    """Somebody on the left changes the inode; under these names it is."""
    entry = duo.left.edit(names[0], content, **fields)
    for name in names[1:]:
        duo.left.tree[name] = entry
        duo.left.content[name] = content


class TestDeleted:
    def test_over_there_all_go_at_once(self, duo: Duo) -> None:
        for name in (b"a", b"b", b"d/c"):
            duo.right.remove(name)
        duo.see(RIGHT, b"a", b"b", b"d/c")

        assert [(t.verb, t.path) for t in duo.sent()] == [
            (DELETE, b"a"), (DELETE, b"b"), (DELETE, b"d/c")
        ]  # fmt: skip

    @pytest.mark.parametrize("edited", [False, True])
    def test_later_goes_only_if_its_bytes_are_the_agreed_ones(self, duo: Duo, edited: bool) -> None:
        change(duo, b"EDIT" if edited else b"text", b"a", b"b", b"d/c")  # size and mtime put back
        duo.delete(RIGHT, b"b")
        duo.reply(LEFT, 1)
        duo.settle()

        assert (b"b" in duo.left.tree) is edited
        assert (b"b" in duo.right.tree) is edited
        assert not edited or duo.right.content[b"b"] == b"EDIT"

    def test_and_moved_here_meanwhile_is_looked_at(self, duo: Duo) -> None:
        duo.delete(RIGHT, b"a")
        duo.left.rename(b"a", b"y")
        duo.see(LEFT, b"y")
        assert duo.looked(LEFT) == []
        duo.settle()

        assert duo.shape(LEFT) == duo.shape(RIGHT)
        assert duo.right.content[b"y"] == b"text"


class TestMade:
    @pytest.mark.parametrize("first", [b"f", b"q/g"])
    def test_and_changed_at_once_by_one_name_changes_the_other_too(self, first: bytes) -> None:
        """Neither is agreed when that is told, and only one of them is told of."""
        duo = Duo({b"q": None})
        duo.write(LEFT, b"f", b"one")
        entry = duo.left.edit(b"f", mode=0o700)
        duo.left.tree[b"q/g"], duo.left.content[b"q/g"] = entry, b"one"
        duo.see(LEFT, b"q/g")
        duo.hands[RIGHT].inbox.sort(key=lambda m: m.transitions[0].path != first)

        duo.settle()

        assert [duo.right.tree[name].mode for name in (b"f", b"q/g")] == [0o700] * 2
        duo.assert_rest()

    def test_and_written_through_at_once_changes_the_first_name_too(self) -> None:
        """Size and time are as they were; only what it says tells."""
        duo = Duo({b"f": b"one"})
        entry = duo.left.edit(b"f", b"two")
        duo.left.tree[b"g"], duo.left.content[b"g"] = entry, b"two"
        duo.see(LEFT, b"g")

        duo.assert_rest()
        assert duo.shape(RIGHT) == {b"f": b"two", b"g": b"two"}

    def test_on_both_sides_leaves_the_first_name_agreed(self) -> None:
        duo = Duo({b"f": b"one"})
        for hand in duo.hands:
            hand.tree[b"g"], hand.content[b"g"] = hand.tree[b"f"], hand.content[b"f"]
        duo.receive(*(Said(side, Observed([duo.hands[side].item(b"g")])) for side in Side))

        duo.assert_rest()
        assert duo.sent() == []
        assert duo.shape(LEFT) == {b"f": b"one", b"g": b"one"}


class TestChanged:
    def test_through_one_name_is_looked_at_under_all(self, duo: Duo) -> None:
        change(duo, b"more", b"a", b"b", b"d/c", mtime_ns=1)
        duo.see(LEFT, b"a")

        assert (0, b"b") in duo.looked(LEFT)
        assert (0, b"d/c") in duo.looked(LEFT)
        assert not duo.session.settled(duo.session.mark())
        duo.settle()
        assert duo.shape(LEFT) == duo.shape(RIGHT)

    def test_and_seen_under_all_is_looked_at_no_more(self, duo: Duo) -> None:
        change(duo, b"more", b"a", b"b", b"d/c", mtime_ns=1)
        duo.see(LEFT, b"a", b"b", b"d/c")
        duo.settle()
        duo.see(LEFT, b"a")

        assert duo.looked(LEFT) == []
        assert {t.verb for t in duo.sent()} == {PUT}

    def test_while_it_is_written_waits(self, duo: Duo) -> None:
        change(duo, b"more", b"a", b"b", b"d/c", mtime_ns=1)
        duo.see(LEFT, b"a", read=False, flags=BUSY)

        assert duo.looked(LEFT) == []

    def test_by_metadata_brought_over_is_looked_at(self, duo: Duo) -> None:
        duo.right.edit(b"a", mode=0o600)
        duo.see(RIGHT, b"a")
        mark = duo.session.mark()
        transition = duo.transitions(LEFT)[0]
        assert (transition.verb, transition.links) == (META, [b"b", b"d/c"])
        change(duo, b"text", b"a", b"b", b"d/c", mode=0o600)
        batch = duo.left.inbox.pop()
        duo.write(RIGHT, b"x", b"later")
        duo.say(LEFT, Results(batch.batch, [Outcome(transition.op, APPLIED, duo.left.tree[b"a"])]))
        assert {path for _, path in duo.looked(LEFT)} == {b"b", b"d/c"}
        assert not duo.session.settled(mark)  # of the flush that waits for `a`
        duo.settle()

        assert {duo.right.tree[n].mode for n in (b"a", b"b", b"d/c")} == {0o600}

    def test_while_a_side_scans_is_left_to_the_scan(self, duo: Duo) -> None:
        change(duo, b"more", b"a", b"b", b"d/c", mtime_ns=1)
        duo.up(LEFT)
        duo.say(LEFT, Observed([duo.left.item(b"a")]))

        assert duo.looked(LEFT) == []

    def test_where_another_file_has_come_is_not(self, duo: Duo) -> None:
        duo.write(LEFT, b"b", b"another", ino=4711)
        change(duo, b"more", b"a", b"d/c", mtime_ns=1)
        duo.left.remove(b"d/c")
        duo.see(LEFT, b"d/c")
        duo.left.inbox.clear()
        duo.see(LEFT, b"a")

        assert duo.looked(LEFT) == []


def test_an_archive_knows_all_names_of_an_inode(duo: Duo) -> None:
    ino = duo.left.tree[b"a"].ino

    assert duo.archive.find_links(Side.LEFT, ino) == [b"a", b"b", b"d/c"]
    duo.archive.freeze()
    duo.archive.commit()
    assert duo.archive.find_links(Side.LEFT, ino) == [b"a", b"b", b"d/c"]
    duo.archive.remove(b"b")
    assert duo.archive.find_links(Side.LEFT, ino) == [b"a", b"d/c"]
