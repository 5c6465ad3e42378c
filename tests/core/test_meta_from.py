"""One side's mode, owner and attributes count; those that the other sets are set back."""

from __future__ import annotations

import pytest

from psync.core.entry import META_FIELDS, Entry, Side
from psync.core.events import Paused, Resumed, Said
from psync.core.reconcile import Decision, Verb, View, agree, decide, with_meta_of
from psync.wire import META, META_ONLY, PUT, Observed
from tests.core.test_session import LEFT, TINY, Duo
from tests.support.replica import directory, file, link

COPIED = [field for field in META_FIELDS if field != "mtime_ns"]


@pytest.fixture(params=Side, ids=["left", "right"])
def side(request: pytest.FixtureRequest) -> Side:
    """Whose metadata count."""
    return request.param


def duo_of(side: Side, agreed: dict | None = None, *, start: bool = True) -> Duo:
    return Duo(agreed, TINY._replace(meta_from=side), start=start)


def value(field: str) -> int | bytes:
    return b"attributes" if field == "xattrs" else 0o7


def modes(duo: Duo, path: bytes = b"f") -> list[int]:
    return [hand.tree[path].mode for hand in duo.hands]


class TestSession:
    @pytest.mark.parametrize("field", COPIED)
    @pytest.mark.parametrize("what", [b"one", None])
    def test_sets_back_what_the_other_side_sets(self, side: Side, field: str, what) -> None:
        duo = duo_of(side, {b"f": what})
        there = duo.hands[side.other]
        was = getattr(there.tree[b"f"], field)
        there.edit(b"f", **{field: value(field)})
        duo.see(side.other, b"f", read=False, flags=META_ONLY)
        duo.assert_rest()

        assert [getattr(hand.tree[b"f"], field) for hand in duo.hands] == [was, was]
        assert [t.verb for t in duo.sent()] == [META]

    @pytest.mark.parametrize("field", COPIED)
    def test_brings_over_what_it_sets(self, side: Side, field: str) -> None:
        duo = duo_of(side, {b"f": b"one"})
        duo.hands[side].edit(b"f", **{field: value(field)})
        duo.see(side, b"f", read=False, flags=META_ONLY)
        duo.assert_rest()

        assert {getattr(hand.tree[b"f"], field) for hand in duo.hands} == {value(field)}

    def test_takes_the_content_of_the_other_side_without(self, side: Side) -> None:
        duo = duo_of(side, {b"f": b"one"})
        duo.write(side.other, b"f", b"two", mode=0o600, mtime_ns=5)
        duo.assert_rest()

        assert duo.shape(side) == {b"f": b"two"}
        assert modes(duo) == [0o644, 0o644]
        assert [t.verb for t in duo.sent()] == [META, PUT]
        assert {hand.tree[b"f"].mtime_ns for hand in duo.hands} == {5}

    def test_overrules_what_the_other_side_sets_when_it_edits(self, side: Side) -> None:
        duo = duo_of(side, {b"f": b"one"})
        duo.hands[side].edit(b"f", b"two", mtime_ns=5)
        duo.hands[side.other].edit(b"f", mode=0o600)
        duo.receive(*(Said(s, Observed([duo.hands[s].item(b"f", flags=META_ONLY)])) for s in Side))
        duo.assert_rest()

        assert modes(duo) == [0o644, 0o644]
        assert duo.shape(side.other) == {b"f": b"two"}

    @pytest.mark.parametrize("mode", [0o600, 0o644])
    def test_stay_when_a_file_that_both_have_is_renamed_over_another(
        self, side: Side, mode: int
    ) -> None:
        """Who saves by rename may be slow: then the new file is there already."""
        duo = duo_of(side, {b"f": b"one"})
        duo.hands[side].edit(b"f", mode=0o640)
        duo.see(side, b"f", flags=META_ONLY)
        duo.write(side.other, b"new", b"two", mode=mode, mtime_ns=5)
        duo.settle()
        assert modes(duo) == [0o640, 0o640]

        duo.move(side.other, b"new", b"f")
        duo.assert_rest()

        assert modes(duo) == [0o640, 0o640]
        assert duo.shape(side) == {b"f": b"two"}

    def test_takes_those_of_what_is_new_over_there(self, side: Side) -> None:
        duo = duo_of(side)
        duo.write(side.other, b"f", b"one", mode=0o600)
        duo.assert_rest()

        assert modes(duo) == [0o600, 0o600]

    @pytest.mark.parametrize("mtime_ns", [1, 9])
    def test_counts_in_a_conflict_whoever_wins(self, side: Side, mtime_ns: int) -> None:
        duo = duo_of(side, start=False)
        duo.hands[side].make(b"f", b"one", mode=0o640, mtime_ns=5)
        duo.hands[side.other].make(b"f", b"two!", mode=0o600, mtime_ns=mtime_ns)
        duo.start()
        duo.assert_rest()

        assert modes(duo) == [0o640, 0o640]
        assert duo.shape(side) == {b"f": b"two!" if mtime_ns == 9 else b"one"}

    @pytest.mark.parametrize("mtime_ns", [1, 9])
    def test_keep_nobody_waiting_where_two_trees_meet_and_one_cannot_hold_them(
        self, side: Side, mtime_ns: int
    ) -> None:
        duo = duo_of(side, start=False)
        poor = duo.hands[side.other]
        poor.holds = lambda entry: entry._replace(mode=0o755)  # type: ignore[method-assign]
        duo.hands[side].make(b"f", b"one", mode=0o640, mtime_ns=5)
        poor.make(b"f", b"two!", mtime_ns=mtime_ns)
        duo.start()
        duo.settle()

        assert duo.session.problems() == []
        assert duo.shape(side) == duo.shape(side.other)
        assert duo.left.content[b"f"] == (b"two!" if mtime_ns == 9 else b"one")
        assert (duo.hands[side].tree[b"f"].mode, poor.tree[b"f"].mode) == (0o640, 0o755)
        agreed = duo.archive.get(b"f")
        assert agreed is not None
        assert [agreed.on(s).mode for s in (side, side.other)] == [0o640, 0o755]

    def test_keep_nobody_waiting_where_a_directory_was_and_one_cannot_hold_them(
        self, side: Side
    ) -> None:
        """What the directory was says nothing of the files that both sides have there now."""
        duo = duo_of(side, {b"d": None})
        other = duo.hands[side.other]
        other.holds = lambda entry: entry._replace(uid=0)
        for hand, mtime_ns in ((duo.hands[side], 5), (other, 9)):
            hand.remove(b"d")
            hand.make(b"d", b"of %d" % mtime_ns, uid=7, mtime_ns=mtime_ns)
        for each in Side:
            duo.say(each, Observed([duo.hands[each].item(b"d")]))

        duo.assert_rest()
        assert duo.shape(side) == duo.shape(side.other) == {b"d": b"of 9"}

    @pytest.mark.parametrize("agreed", [{}, {b"f": b"one"}], ids=["new", "agreed"])
    @pytest.mark.parametrize("taken", Side)
    def test_leaves_a_persons_word_as_it_was(self, side: Side, agreed: dict, taken: Side) -> None:
        duo = Duo(agreed, TINY._replace(meta_from=side, ask=True))
        duo.receive(Paused())
        for each in Side:
            duo.write(each, b"f", b"by %d" % each, mode=0o600 + 0o40 * each)
        duo.receive(Resumed())
        duo.settle()
        duo.session.take(b"f", taken)
        duo.pump()

        duo.assert_rest()
        assert duo.left.content[b"f"] == b"by %d" % taken
        assert modes(duo) == [0o600 + 0o40 * side] * 2
        assert [t.keep for t in duo.sent() if t.verb == PUT] == [True]

    def test_counts_where_two_trees_meet(self, side: Side) -> None:
        duo = duo_of(side, start=False)
        for path, what in ((b"f", b"one"), (b"d", None)):
            duo.hands[side].make(path, what, mode=0o640, mtime_ns=5)
            duo.hands[side.other].make(path, what, mode=0o600, mtime_ns=9)
        duo.start()
        duo.assert_rest()

        assert modes(duo, b"f") == modes(duo, b"d") == [0o640, 0o640]
        assert {hand.tree[b"f"].mtime_ns for hand in duo.hands} == {9}

    @pytest.mark.parametrize("names", [[b"a"], [b"b", b"a"]])
    def test_sets_no_other_name_that_is_to_differ(self, side: Side, names: list[bytes]) -> None:
        duo = duo_of(side, {b"a": b"one", b"b": b"one"}, start=False)
        here, there = duo.hands[side], duo.hands[side.other]
        there.tree[b"b"] = there.tree[b"a"]  # one inode
        base = duo.archive.get(b"b")
        assert base is not None
        duo.archive.put(b"b", base.seen(*(hand.tree[b"b"] for hand in duo.hands)))
        duo.start()
        for name in names:
            here.edit(name, mode=0o640)
        duo.see(side, *names, read=False, flags=META_ONLY)

        links = {t.path: t.links for t in duo.transitions(side.other)}
        assert links[b"a"] == ([b"b"] if len(names) == 2 else None)

    def test_leaves_what_the_other_side_cannot_hold(self, side: Side) -> None:
        duo = duo_of(side)
        duo.hands[side.other].holds = lambda entry: entry._replace(mode=0o755)
        duo.write(side, b"f", b"one", mode=0o640)
        duo.run()
        duo.write(side.other, b"f", b"two", mtime_ns=5)
        duo.assert_rest()

        assert duo.hands[side].tree[b"f"].mode == 0o640
        assert duo.shape(side) == {b"f": b"two"}


class TestDecision:
    def decision(self, side: Side, base: Entry | None, *entries: Entry) -> Decision:
        agreed = None if base is None else agree(base, base, base)
        views = [View(entry) for entry in entries]
        return with_meta_of(side, decide(agreed, *views), agreed, *entries)

    def test_of_different_kinds_stays(self, side: Side) -> None:
        entries = file(b"x", 0o600)._replace(digest=b""), directory(0o700)

        assert self.decision(side, None, *entries) == decide(None, *map(View, entries))

    def test_that_needs_digests_stays(self, side: Side) -> None:
        entries = [file(b"x", mode)._replace(digest=b"") for mode in (0o600, 0o640)]

        assert self.decision(side, None, *entries).verb is Verb.COMPARE

    def test_that_nothing_is_to_be_done_stays(self, side: Side) -> None:
        assert self.decision(side, link(b"x"), link(b"x"), link(b"x")).verb is Verb.NOTHING

    def test_adjusts_no_more_than_is_needed(self, side: Side) -> None:
        entries = [file(b"x"), file(b"x")]
        entries[side.other] = file(b"x", 0o600, mtime_ns=1)

        decision = self.decision(side, file(b"x", mtime_ns=1), *entries)

        assert decision.verb is Verb.ADJUST
        assert decision.wanted == file(b"x")

    def test_agrees_on_what_is_equal_already(self) -> None:
        # The other side has followed in the meantime.
        entries = [file(b"x", 0o600), file(b"x", 0o600)]

        decision = self.decision(LEFT, file(b"x"), *entries)

        assert decision == Decision(Verb.AGREE, wanted=file(b"x", 0o600))
