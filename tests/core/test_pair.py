"""What the parts of a session share."""

from __future__ import annotations

from psync.core.archive import Archive, Change
from psync.core.entry import Side, is_ours
from psync.core.events import Intend, Intent, Limits, Note
from psync.core.pair import Pair
from psync.core.reconcile import View, agree
from psync.core.replica import Link
from tests.support.replica import directory, file
from tests.support.rows import MemoryRows

FILE, DIRECTORY = file(b"one")._replace(ino=5), directory()._replace(ino=6)


def pair() -> Pair:
    return Pair(Archive(MemoryRows()), Limits(), 1, is_ours)


def meant(path: bytes, target: Side = Side.RIGHT, moved_from: bytes = b"") -> Intent:
    return Intent(path, target, FILE, FILE, moved_from)


class TestIntents:
    def test_of_a_rename_may_be_found_at_either_name(self) -> None:
        made = pair()
        for intent in (meant(b"d/f"), meant(b"d", moved_from=b""), meant(b"e", moved_from=b"d")):
            made.intend(intent)

        assert sorted(made.intents) == [b"d", b"d/f", b"e", b"e/f"]

    def test_of_the_other_side_are_not_moved_by_a_rename(self) -> None:
        made = pair()
        made.intend(meant(b"d/f", Side.LEFT))
        made.intend(meant(b"e", Side.RIGHT, moved_from=b"d"))

        assert sorted(made.intents) == [b"d/f"]


class TestReplay:
    def test_ends_the_doubt_about_what_came_to_be_agreed(self) -> None:
        made = pair()
        made.replay(Intend([meant(b"f"), meant(b"g")], []))
        made.replay(Intend([], [Change(b"f", agree(FILE, FILE, FILE))]))

        assert made.archive.get(b"f") is not None
        assert list(made.intents) == [b"g"]

    def test_takes_intents_along_with_a_rename(self) -> None:
        made = pair()
        record = agree(DIRECTORY, DIRECTORY, DIRECTORY)
        made.replay(Intend([meant(b"d/f"), meant(b"d"), meant(b"x")], []))
        made.replay(Intend([meant(b"d/f"), meant(b"d")], [Change(b"d", record)]))
        made.replay(Intend([], [Change(b"e", record, b"d")]))

        assert made.archive.get(b"d") is None
        assert made.archive.get(b"e") is not None
        assert sorted(made.intents) == [b"e/f", b"x"]


class TestParent:
    def test_of_the_roots_names_is_always_there(self) -> None:
        assert pair().has_parent(b"f", Side.LEFT)

    def test_that_is_not_agreed_is_waited_for_and_looked_for(self) -> None:
        made = pair()
        replica = made.replicas[Side.LEFT]
        replica.link = Link.READY
        replica.views.set(b"d/f", View(FILE))

        assert not made.has_parent(b"d/f", None)
        assert made.pending.held == {b"d": {b"d/f": None}}
        assert sorted(replica.awaited) == [b"d", b"d/f"]

    def test_that_has_gone_on_the_target_comes_back(self) -> None:
        made = pair()
        made.archive.put(b"d", agree(DIRECTORY, DIRECTORY, DIRECTORY))
        made.replicas[Side.RIGHT].views.set(b"d", View(None))

        assert made.has_parent(b"d/f", Side.LEFT)
        assert not made.has_parent(b"d/f", Side.RIGHT)
        assert made.survivors == {b"d"}
        assert b"d" in made.pending.dirty


class TestLook:
    def test_is_asked_only_of_a_side_that_is_ready(self) -> None:
        made = pair()
        made.look(Side.LEFT, b"f", 0)

        assert made.replicas[Side.LEFT].awaited == {}


class TestConflict:
    def test_is_noted_with_a_name_that_can_be_printed(self) -> None:
        made = pair()
        made.keep(Side.LEFT, b"f", b"")
        made.keep(Side.LEFT, b"f", b"1\n")

        assert made.out == [Note("conflict.kept", Side.LEFT, b"f", "1\\n")]
