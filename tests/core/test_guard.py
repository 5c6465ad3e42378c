"""How much may be deleted before a person is asked."""

from __future__ import annotations

import re

import pytest

from psync.core import guard
from psync.core.entry import Side
from psync.core.events import Limits, Resumed, SideUp, State
from psync.wire import Observed, Trouble
from tests.core.test_session import Duo

LEFT, RIGHT = Side.LEFT, Side.RIGHT
HALF = Limits(max_delete_min=0)
AT_ONCE = 12  # of 100 entries, of which 50 may go: a quarter of those


def of(count: int, directory: bytes = b"") -> dict[bytes, bytes]:
    """So many files."""
    return {directory + b"%03d" % i: b"x" for i in range(count)}


def delete(duo: Duo, *paths: bytes) -> None:
    """Let a user delete what is told of in one message."""
    for path in paths:
        duo.left.remove(path)
    duo.say(LEFT, Observed([duo.left.item(path) for path in paths]))


class TestScans:
    def scanned(self, left: int, limits: Limits) -> Duo:
        duo = Duo({b"%d" % i: b"x" for i in range(4)}, limits, start=False)
        for name in list(duo.left.tree)[left:]:
            duo.left.remove(name)
        for side in Side:
            duo.up(side)
            duo.say(side, *duo.hands[side].scan())
        return duo

    @pytest.mark.parametrize(
        ("left", "limits", "halts"),
        [
            pytest.param(1, Limits(max_delete_min=4), True, id="more than the share"),
            pytest.param(2, Limits(max_delete_min=4), False, id="just the share"),
            pytest.param(0, Limits(max_delete_min=5), False, id="too few to be guarded"),
            pytest.param(0, Limits(max_delete_min=4, max_delete=1.0), False, id="all may go"),
            pytest.param(1, Limits(max_delete=2), True, id="more than the number"),
            pytest.param(2, Limits(max_delete=2), False, id="just the number"),
        ],
    )
    def test_halts_when_too_much_is_missing(self, left: int, limits: Limits, halts: bool) -> None:
        duo = self.scanned(left, limits)

        assert (duo.session.state is State.HALTED) == halts
        assert bool(duo.session.halted) == halts
        assert len(duo.notes("session.halted")) == halts
        if halts:
            told = duo.session.status()["halted"]
            assert re.search("more than (50%|2 entries) would be deleted", told)

    def test_lets_nothing_begin_until_a_person_accepts(self) -> None:
        duo = self.scanned(1, Limits(max_delete_min=4))
        assert duo.session.deadline() is None
        duo.receive(Resumed())
        assert duo.session.state is State.HALTED
        assert not any(duo.transitions(side) or duo.listed(side) for side in Side)

        duo.receive(Resumed(accept=True))

        duo.assert_rest()
        assert duo.session.halted == ""
        assert len(duo.shape(RIGHT)) == 1

    def test_asks_nobody_who_has_accepted_already(self) -> None:
        duo = Duo({b"%d" % i: b"x" for i in range(4)}, Limits(max_delete_min=4), start=False)
        for name in list(duo.left.tree):
            duo.left.remove(name)
        duo.up(RIGHT)
        duo.say(RIGHT, *duo.right.scan())
        duo.receive(SideUp(LEFT, accepted=True))
        duo.say(LEFT, *duo.left.scan())

        duo.assert_rest()
        assert duo.session.halted == ""
        assert duo.shape(RIGHT) == {}

    @pytest.mark.parametrize(
        ("hidden", "halts"),
        [
            pytest.param([b"d"], False, id="all of it"),
            pytest.param([b"d/e", b"d"], False, id="twice"),
            pytest.param([b"d/e"], True, id="a part of it"),
        ],
    )
    def test_takes_what_cannot_be_seen_for_no_deletion(
        self, hidden: list[bytes], halts: bool
    ) -> None:
        inside = {b"d/%d" % i: b"x" for i in range(4)} | {b"d/e/f": b"x", b"f": b"x"}
        duo = Duo(inside, Limits(max_delete_min=4), start=False)
        for path in [p for p in duo.left.tree if p.startswith(b"d/")]:
            duo.left.remove(path)
        for side in Side:
            duo.up(side)
            if side == LEFT:
                duo.say(side, *(Trouble("unreadable", p, "Permission denied") for p in hidden))
            duo.say(side, *duo.hands[side].scan())

        assert (duo.session.state is State.HALTED) == halts
        assert not duo.transitions(RIGHT)

    def test_says_it_once(self) -> None:
        duo = self.scanned(1, Limits(max_delete_min=4))
        duo.say(LEFT, *duo.left.scan())

        assert len(duo.notes("session.halted")) == 1


class TestFloods:
    def test_lets_few_deletions_go_at_once(self) -> None:
        duo = Duo(of(100), HALF)
        delete(duo, *list(of(AT_ONCE)))

        assert len(duo.transitions(RIGHT)) == AT_ONCE
        duo.assert_rest()

    def test_counts_the_others_when_a_flood_pauses(self) -> None:
        duo = Duo(of(100), HALF)
        delete(duo, *list(of(25)))
        delete(duo, *list(of(50))[25:])
        duo.run()
        assert len(duo.right.tree) == 100 - AT_ONCE

        duo.wait()
        duo.run()
        assert len(duo.right.tree) == 50
        duo.assert_rest()

    def test_halts_when_it_was_too_much(self) -> None:
        duo = Duo(of(100), HALF)
        delete(duo, *list(of(51)))
        duo.run()
        duo.wait()

        assert duo.session.state is State.HALTED
        assert re.search(
            "^left has lost .* of 100 entries.*: more than 50% would be deleted.*--accept-deletes",
            duo.session.halted,
        )
        assert duo.session.deadline() is None
        duo.run()
        assert len(duo.right.tree) == 100 - AT_ONCE

    def test_goes_on_when_a_person_accepts(self) -> None:
        duo = Duo(of(100), HALF)
        delete(duo, *list(of(60)))
        duo.run()
        duo.wait()
        duo.receive(Resumed(accept=True))
        delete(duo, *list(of(100))[60:80])

        duo.assert_rest()
        assert len(duo.right.tree) == 20
        delete(duo, *list(of(100))[80:])
        assert duo.transitions(RIGHT) == []  # nobody has accepted this

    def test_counts_nothing_again_that_a_person_has_accepted(self) -> None:
        duo = Duo(of(200), HALF)
        delete(duo, *list(of(200))[:140])
        duo.run()
        duo.wait()
        duo.receive(Resumed(accept=True))
        duo.assert_rest()
        duo.now += 10

        delete(duo, *list(of(200))[140:165])
        duo.settle()
        assert not duo.session.halted
        assert len(duo.right.tree) == 35
        delete(duo, *list(of(200))[165:171])
        duo.settle()
        assert duo.session.halted.startswith("left has lost 31 of 60 entries")

    def test_asks_again_after_a_new_scan(self) -> None:
        duo = Duo(of(100), HALF)
        delete(duo, *list(of(60)))
        duo.run()
        duo.wait()
        duo.receive(Resumed(accept=True))
        for side in Side:
            duo.down(side)
        duo.start()

        assert duo.session.state is State.HALTED

    def test_does_not_bring_a_replica_below_what_is_guarded_uncounted(self) -> None:
        duo = Duo(of(100), Limits(max_delete_min=95))
        delete(duo, *list(of(51)))
        duo.run()

        assert len(duo.right.tree) == 95
        duo.wait()
        assert duo.session.halted

    def test_accepts_nothing_more_though_a_path_never_comes_to_rest(self) -> None:
        duo = Duo({**of(200), b"busy": b"x"}, HALF._replace(inline_max=8))
        duo.write(RIGHT, b"busy", b"its transfer never ends")
        delete(duo, *list(of(120)))
        duo.run()
        duo.wait()
        assert duo.session.halted
        duo.receive(Resumed(accept=True))
        duo.run()
        assert len(duo.right.tree) == 81

        duo.now += 60
        delete(duo, *list(of(200))[120:])
        duo.run()
        duo.wait()
        assert duo.session.halted

    def test_counts_what_is_still_being_deleted(self) -> None:
        duo = Duo(of(100), HALF)
        delete(duo, *list(of(40)))
        duo.wait()
        assert len(duo.transitions(RIGHT)) == 40
        delete(duo, *list(of(70))[40:])
        duo.wait()

        assert re.search("has lost 70 of 100", duo.session.halted)

    def test_does_not_count_what_is_somewhere_else(self) -> None:
        """It is a rename of which nobody has told."""
        duo = Duo({**of(80, b"d/"), **of(20)}, HALF)
        duo.left.rename(b"d", b"e")
        duo.see(LEFT, b"d")
        duo.see(LEFT, b"e")
        assert duo.listed(LEFT) == [b"e"]
        duo.wait()  # for its listing
        assert not duo.session.halted

        duo.assert_rest()
        assert not duo.session.halted

    def test_waits_for_no_listing_for_ever(self) -> None:
        duo = Duo({**of(80, b"d/"), **of(20)}, HALF)
        delete(duo, b"d")
        duo.left.make(b"e", None)
        duo.see(LEFT, b"e")
        start = duo.now
        while not duo.session.halted:
            duo.wait()

        assert 9 < duo.now - start < 11

    def test_forgets_an_acceptance_that_nothing_asked_for(self) -> None:
        duo = Duo(of(100), HALF)
        duo.receive(Resumed(accept=True))
        delete(duo, *list(of(60)))

        assert len(duo.transitions(RIGHT)) == AT_ONCE

    def test_counts_what_goes_with_a_directory_once(self) -> None:
        duo = Duo({**of(50, b"d/e/"), **of(50)}, HALF)
        delete(duo, b"d/e/000", b"d/e", b"d")
        assert [t.path for t in duo.transitions(RIGHT)] == [b"d/e/000"]
        duo.run()
        duo.wait()

        assert re.search("has lost 52 of 102", duo.session.halted)

    def test_lets_a_directory_go_that_is_not_too_much(self) -> None:
        duo = Duo({**of(50, b"d/e/"), **of(52)}, HALF)
        delete(duo, b"d")

        duo.assert_rest()
        assert len(duo.right.tree) == 52

    def test_counts_what_a_file_takes_the_place_of(self) -> None:
        duo = Duo({**of(60, b"d/"), **of(39)}, HALF)
        duo.left.remove(b"d")
        duo.write(LEFT, b"d", b"file")
        assert duo.transitions(RIGHT) == []
        duo.wait()

        assert duo.session.halted

    def test_does_not_count_what_came_back(self) -> None:
        duo = Duo(of(100), HALF)
        delete(duo, *list(of(60)))
        for path in list(of(60))[AT_ONCE:30]:
            duo.write(LEFT, path, b"new")

        duo.assert_rest()
        assert not duo.session.halted
        assert len(duo.right.tree) == 58

    def test_counts_slow_deletions_of_a_minute(self) -> None:
        duo = Duo(of(100), HALF)
        for path in list(of(100)):
            delete(duo, path)
            duo.run()
            duo.now += 0.5
            if duo.session.deadline() is not None:
                duo.wait()
            if duo.session.halted:
                break

        assert len(duo.right.tree) == 50

    def test_forgets_what_was_deleted_before(self) -> None:
        duo = Duo(of(100), HALF)
        for path in list(of(60)):
            delete(duo, path)
            duo.settle()
            duo.now += 5

        assert len(duo.right.tree) == 40

    def test_remembers_nothing_of_floods_that_are_over(self) -> None:
        duo = Duo({**of(100), b"busy": b"x"}, HALF)
        duo.write(RIGHT, b"busy", b"a large one")  # its transfer never ends: there is no rest
        for directory in (b"a", b"b"):
            duo.session._guard._floods[LEFT].counted.update(of(3, directory))
            duo.now += 61
            delete(duo, *list(of(1, b"") if directory == b"a" else [b"001"]))

        assert duo.session._guard._floods[LEFT].counted == {b"001"}

    def test_counts_a_flood_without_a_pause(self) -> None:
        duo = Duo(of(400), HALF)
        start = duo.now
        for path in list(of(180)):
            delete(duo, path)
            duo.now += 0.1
            duo.pump()
        deleted = [t.path for t in duo.transitions(RIGHT)]

        assert guard.FREE < len(deleted) < 180
        assert duo.now - start < 19
        duo.assert_rest()

    def test_counts_very_many_in_slices(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(guard, "_COUNTED_MAX", 7)
        duo = Duo(of(100), HALF)
        delete(duo, *list(of(40)))
        duo.run()
        duo.wait()
        assert duo.transitions(RIGHT) == []
        assert duo.session.deadline() is not None

        duo.assert_rest()
        assert len(duo.right.tree) == 60

    @pytest.mark.parametrize(
        ("limits", "deleted", "halts"),
        [
            pytest.param(Limits(max_delete=2), 2, False, id="just the number"),
            pytest.param(Limits(max_delete=2), 3, True, id="more than the number"),
            pytest.param(Limits(max_delete=0), 1, True, id="none may go"),
            pytest.param(Limits(max_delete_min=101), 100, False, id="too few to be guarded"),
            pytest.param(Limits(max_delete_min=0, max_delete=1.0), 100, False, id="all may go"),
            pytest.param(Limits(max_delete_min=0, max_delete=0.29), 29, False, id="just a share"),
            pytest.param(Limits(max_delete_min=0, max_delete=0.29), 30, True, id="more than that"),
        ],
    )
    def test_measures_by_the_limit(self, limits: Limits, deleted: int, halts: bool) -> None:
        duo = Duo(of(100), limits)
        delete(duo, *list(of(deleted)))
        duo.settle()

        assert bool(duo.session.halted) == halts


class TestComparing:
    def test_deletes_nothing_that_a_scan_shows_to_be_gone_uncounted(self) -> None:
        """As much is new as is gone, so its number says nothing."""
        duo = Duo(of(100), HALF, start=False)
        for path in list(of(60)):
            duo.left.remove(path)
            duo.left.make(path + b".new", b"new")
        duo.start()

        assert duo.session.halted
        assert set(of(100)) <= set(duo.right.tree)

    def test_s05_believes_no_count_of_a_side_that_shows_nothing(self) -> None:
        duo = Duo(of(100), HALF, start=False)
        for path in list(of(100)):
            duo.left.remove(path)
        for side in Side:
            duo.up(side)
            digests, scanned = duo.hands[side].scan()
            duo.say(side, digests, scanned._replace(entries=100))
        duo.run()

        assert duo.session.halted
        assert set(of(100)) <= set(duo.right.tree)

    def test_lets_go_at_once_what_is_not_too_much(self) -> None:
        duo = Duo(of(100), HALF, start=False)
        for path in list(of(50)):
            duo.left.remove(path)
        duo.start()

        assert duo.session.deadline() is None
        duo.assert_rest()
        assert len(duo.right.tree) == 50


class TestRewrites:
    """Files that one side edits within a minute (R11)."""

    def edited(self, limits: Limits, count: int = 4) -> Duo:
        duo = Duo(of(10), limits)
        for i in range(count):
            duo.left.edit(b"%03d" % i, b"encrypted")
        duo.say(LEFT, Observed([duo.left.item(b"%03d" % i) for i in range(count)]))
        duo.run()
        return duo

    def changed(self, duo: Duo) -> int:
        return list(duo.right.content.values()).count(b"encrypted")

    @pytest.mark.parametrize(
        ("limits", "replicated"),
        [
            pytest.param(Limits(max_rewrite=3), 3, id="a number"),
            pytest.param(Limits(max_rewrite=0.3, max_delete_min=0), 3, id="a share"),
            pytest.param(Limits(max_rewrite=0.3), 4, id="a share of few"),
            pytest.param(Limits(max_rewrite=4), 4, id="just the number"),
            pytest.param(Limits(), 4, id="any number"),
        ],
    )
    def test_halt_when_there_are_too_many(self, limits: Limits, replicated: int) -> None:
        duo = self.edited(limits)

        assert self.changed(duo) == replicated
        assert (duo.session.state is State.HALTED) == (replicated < 4)
        if replicated < 4:
            assert "left has rewritten more than 3 files within a minute" in duo.session.halted
            assert duo.session.pending == 1

    def test_go_on_when_a_person_accepts(self) -> None:
        duo = self.edited(Limits(max_rewrite=3), 9)
        duo.receive(Resumed(accept=True))
        duo.run()

        assert self.changed(duo) == 9
        duo.assert_rest()

    def test_are_no_longer_accepted_after_a_while(self) -> None:
        duo = self.edited(Limits(max_rewrite=3))
        duo.receive(Resumed(accept=True))
        duo.run()
        duo.now += 6
        for i in range(4, 8):
            duo.left.edit(b"%03d" % i, b"encrypted")
        duo.say(LEFT, Observed([duo.left.item(b"%03d" % i) for i in range(4, 8)]))
        duo.run()

        assert duo.session.state is State.HALTED
        assert self.changed(duo) == 4

    def test_of_another_minute_or_of_one_file_are_not_added_up(self) -> None:
        duo = self.edited(Limits(max_rewrite=3), 3)
        for text in (b"1", b"22", b"333"):
            duo.left.edit(b"000", text)
            duo.say(LEFT, Observed([duo.left.item(b"000")]))
            duo.run()
        duo.now += 61
        for i in range(3, 6):
            duo.left.edit(b"%03d" % i, b"encrypted")
        duo.say(LEFT, Observed([duo.left.item(b"%03d" % i) for i in range(3, 6)]))

        duo.assert_rest()
        assert self.changed(duo) == 5

    def test_are_counted_anew_with_the_side(self) -> None:
        duo = self.edited(Limits(max_rewrite=3))
        duo.down(LEFT)
        duo.receive(Resumed(accept=True))
        duo.now += 6
        duo.up(LEFT)
        duo.say(LEFT, *duo.left.scan())

        duo.assert_rest()
        assert self.changed(duo) == 4

    def test_do_not_count_what_is_new_or_deleted_or_no_file(self) -> None:
        duo = Duo(of(10) | {b"d": None}, Limits(max_rewrite=0))
        duo.left.make(b"new", b"new")
        duo.left.remove(b"009")
        duo.left.remove(b"008")
        duo.left.make(b"008", None)
        duo.say(LEFT, Observed([duo.left.item(p) for p in (b"new", b"009", b"008")]))

        duo.assert_rest()
        assert not duo.session.halted
