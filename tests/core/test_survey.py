"""A survey: what a scan did not recognise is listed, a bounded number at a time."""

from __future__ import annotations

import pytest

from psync.core.archive import Archive
from psync.core.entry import ROOT, Agreed, Kind, Side
from psync.core.survey import OUTSTANDING_MAX, Survey
from tests.support.rows import MemoryRows

PATHS = [b"a", b"a/b", b"a/b/c", b"d"]


def directory(ino: int, mode: int = 0o755) -> Agreed:
    return Agreed(Kind.DIRECTORY, mode, 0, 0, 0, 1, b"", b"", ino, 0, ino + 100, 0)


@pytest.fixture
def archive() -> Archive:
    archive = Archive(MemoryRows())
    for number, path in enumerate(PATHS):
        archive.put(path, directory(number + 10))
    return archive


@pytest.fixture
def survey(archive) -> Survey:
    return Survey(Side.LEFT, archive)


def scan(survey: Survey, archive: Archive, *strange: bytes) -> None:
    """Scan a tree that is as agreed, but for some directories."""
    survey.begin(survey.generation + 1)
    found = [(path, b"?" if path in strange else archive.digest(0, path)) for path in PATHS]
    survey.scanned([(ROOT, b"root")])
    survey.scanned(found)
    survey.finish()


class TestRanges:
    def test_hide_what_the_listing_has_not_come_to(self, survey, archive):
        scan(survey, archive, b"d")
        survey.next()
        assert survey.hides(b"d", b"a")
        survey.passed(b"d", b"", b"k")
        assert not survey.hides(b"d", b"k")
        survey.passed(b"d", b"x", b"z")
        assert survey.hides(b"d", b"l"), "what came between was not told"
        survey.passed(b"d", b"k", b"m")
        assert not survey.hides(b"d", b"l")
        survey.listed(b"d")

        assert not survey.hides(b"d", b"z")

    @pytest.mark.parametrize("how", ["asked", "moved"])
    def test_begin_anew_when_a_directory_is_asked_for_again(self, survey, archive, how):
        scan(survey, archive, b"d")
        survey.next()
        survey.passed(b"d", b"", b"k")
        if how == "asked":
            survey.ask(b"d")
        else:
            survey.moved(b"d", b"e")
            survey.moved(b"e", b"d")
        survey.passed(b"d", b"k", b"m")

        assert survey.hides(b"d", b"a")

    def test_of_what_nobody_waits_for_are_not_remembered(self, survey, archive):
        survey.passed(b"d", b"", b"k")
        scan(survey, archive, b"d")

        assert survey.hides(b"d", b"a")


class TestScan:
    def test_lists_the_root_and_what_is_not_as_agreed(self, survey, archive):
        scan(survey, archive, b"d", b"a/b")

        assert survey.pending == {ROOT, b"a/b", b"d"}
        assert survey.comparing
        assert survey.next() == [ROOT, b"a/b", b"d"]
        assert survey.next() == []

    def test_lists_directories_that_nobody_agreed_on(self, survey, archive):
        survey.begin(1)
        survey.scanned([(ROOT, b"r"), (b"new", b"digest"), (b"d", archive.digest(0, b"d"))])
        survey.finish()

        assert survey.pending == {ROOT, b"new"}

    def test_lists_the_root_even_if_it_was_not_named(self, survey):
        survey.begin(1)
        survey.finish()

        assert survey.next() == [ROOT]

    def test_compares_with_what_its_own_side_had(self, survey, archive):
        archive.put(b"d/e", directory(20))
        survey.begin(1)
        survey.scanned([(b"d", archive.digest(Side.RIGHT, b"d"))])
        survey.finish()

        assert b"d" in survey.pending

    def test_is_over_when_all_is_listed(self, survey, archive):
        scan(survey, archive, b"d")
        for path in survey.next():
            assert survey.comparing
            survey.listed(path)

        assert not survey.comparing
        assert survey.next() == []
        survey.listed(b"d")  # an answer that nobody waits for
        assert not survey.pending

    def test_compares_all_that_was_told_of_though_nothing_was_to_be_listed(self, survey):
        survey.begin(1)
        survey.finish()
        survey.begin(2, keep=True)
        survey.listed(ROOT)
        for path in (b"a", b"d"):
            survey.scanned([(path, b"?")])
            assert survey.next() == []
        survey.finish()

        assert survey.next() == [ROOT, b"a", b"d"]

    def test_that_is_not_to_be_compared_lists_nothing(self, survey):
        survey.begin(1)
        survey.scanned([(b"d", b"?")])
        survey.finish(compare=False)

        assert survey.next() == []
        assert not survey.pending and not survey.comparing

    def test_lists_a_bounded_number_at_a_time(self, survey):
        survey.begin(1)
        survey.scanned([(b"%04d" % i, b"?") for i in range(2 * OUTSTANDING_MAX)])
        survey.finish()

        first = survey.next()
        assert len(first) == OUTSTANDING_MAX
        assert survey.next() == []
        survey.listed(first[0])
        assert len(survey.next()) == 1

    def test_passes_over_what_a_rename_has_brought_in_line(self, survey, archive):
        digest = archive.digest(0, b"a")
        survey.begin(1)
        survey.scanned([(ROOT, b"r"), (b"z", digest)])
        survey.finish()
        assert b"z" in survey.pending

        archive.rename(b"a", b"z", directory(10))
        assert survey.next() == [ROOT]
        assert survey.pending == {ROOT}

    def test_that_is_newer_replaces_an_older_one(self, survey, archive):
        scan(survey, archive, b"a")
        survey.next()
        survey.ask(b"d", deep=True)
        scan(survey, archive, b"a/b")

        assert survey.generation == 2
        assert survey.pending == {ROOT, b"a/b"}
        assert survey.next() == [ROOT, b"a/b"]
        survey.found(b"d", b"d/x")
        assert b"d/x" not in survey.pending

    def test_is_forgotten_when_the_side_goes(self, survey, archive):
        scan(survey, archive, b"a")
        survey.reset()

        assert survey.next() == []
        assert not survey.pending and not survey.comparing
        assert survey.generation == 0


class TestAsk:
    def test_lists_whatever_the_digest_says(self, survey, archive):
        scan(survey, archive)
        survey.ask(b"d")

        assert survey.next() == [ROOT, b"d"]
        survey.listed(b"d")
        assert survey.pending == {ROOT}

    def test_once_while_it_is_under_way(self, survey):
        survey.ask(b"d")
        survey.ask(b"d")
        assert survey.next() == [b"d"]

        survey.ask(b"d")
        assert survey.next() == []

    def test_is_forgotten_when_it_was_answered_before_it_was_sent(self, survey):
        survey.ask(b"d")
        survey.listed(b"d")

        assert survey.next() == []

    def test_is_not_answered_by_the_end_of_a_listing_that_began_before(self, survey):
        survey.ask(b"d")
        survey.next()
        survey.passed(b"d", b"", b"m")
        survey.ask(b"d", deep=True)
        survey.found(b"d", b"d/x")

        survey.listed(b"d", b"m")
        assert survey.pending == {b"d", b"d/x"}
        assert survey.next() == [b"d", b"d/x"]
        survey.passed(b"d", b"", b"m")
        survey.found(b"d", b"d/a")
        survey.listed(b"d", b"m")
        assert survey.pending == {b"d/x", b"d/a"}

    def test_deep_lists_every_directory_that_is_found(self, survey):
        survey.ask(b"d", deep=True)
        assert survey.next() == [b"d"]
        survey.found(b"d", b"d/x")
        survey.listed(b"d")
        assert survey.next() == [b"d/x"]
        survey.found(b"d/x", b"d/x/y")
        survey.listed(b"d/x")
        assert survey.next() == [b"d/x/y"]

    def test_shallow_lists_none_that_is_found(self, survey):
        survey.ask(b"d")
        survey.found(b"d", b"d/x")

        assert survey.pending == {b"d"}


class TestAgain:
    def test_lists_what_the_scan_found_different_below(self, survey, archive):
        scan(survey, archive, b"a", b"a/b", b"d")
        for path in survey.next():
            if path != b"d":  # one stays: the scan is not over, and its digests are there
                survey.listed(path)

        survey.again(b"a")
        assert survey.pending == {b"a", b"a/b", b"d"}
        assert survey.next() == [b"a", b"a/b"]

    def test_leaves_what_is_as_agreed_or_pending_already(self, survey, archive):
        scan(survey, archive, b"a/b")
        survey.again(b"a")

        assert survey.next() == [ROOT, b"a/b"]

    def test_lists_everything_below_when_the_scan_is_long_over(self, survey):
        survey.again(b"a")
        assert survey.next() == [b"a"]

        survey.found(b"a", b"a/b")
        assert survey.next() == [b"a/b"]


class TestMove:
    def test_takes_what_is_pending_along(self, survey, archive):
        scan(survey, archive, b"a", b"a/b/c", b"d")
        survey.moved(b"a", b"z")

        assert survey.pending == {ROOT, b"z", b"z/b/c", b"d"}
        assert survey.next() == [ROOT, b"z", b"z/b/c", b"d"]

    def test_asks_again_what_was_asked_under_the_old_name(self, survey):
        survey.ask(b"a", deep=True)
        survey.ask(b"ab")
        assert survey.next() == [b"a", b"ab"]

        survey.moved(b"a", b"z")
        assert survey.next() == [b"z"]
        survey.listed(b"a")
        assert b"z" in survey.pending
        survey.found(b"z", b"z/b")  # it is as deep as it was
        survey.listed(b"z")
        assert survey.pending == {b"ab", b"z/b"}

    @pytest.mark.parametrize("deep", [True, False])
    def test_out_of_what_is_being_listed_with_all_that_is_in_it_is_listed_too(self, survey, deep):
        survey.ask(b"a", deep=deep)
        assert survey.next() == [b"a"]

        survey.moved(b"a/b/c", b"z")

        assert survey.next() == ([b"z"] if deep else [])
        survey.found(b"z", b"z/d")
        assert (b"z/d" in survey.pending) is deep

    def test_compares_with_the_new_place(self, survey, archive):
        scan(survey, archive)
        survey.moved(b"d", b"a/e")
        archive.rename(b"d", b"a/e", directory(13))
        survey.again(b"a/e")

        assert b"a/e" not in survey.pending
