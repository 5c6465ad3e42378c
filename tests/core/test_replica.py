"""What is known of one side."""

from __future__ import annotations

import pytest

from psync.core.archive import Archive
from psync.core.entry import ROOT, Side
from psync.core.events import Limits
from psync.core.reconcile import View, agree
from psync.core.replica import Link, Replica, Views
from psync.wire import META_ONLY, Credit, Item, Look, Observed, Rescan, Results
from tests.support.replica import directory, file, link
from tests.support.rows import MemoryRows

FILE = file(b"one")._replace(ino=5, ctime_ns=1)
BASE = agree(FILE, FILE, FILE)


@pytest.fixture
def replica() -> Replica:
    return Replica(Side.LEFT, Archive(MemoryRows()), Limits(contents_max=4, views_max=2))


class TestViews:
    def test_are_found_by_path_by_directory_and_below(self) -> None:
        views = Views()
        paths = [b"f", b"d/f", b"d/e/g", b"da/x"]
        for path in paths:
            views.set(path, View(FILE))
        views.set(b"d/gone", View(None))
        views.set(b"f", View(None))

        assert len(views) == 5
        assert list(views) == [b"f", b"d/f", b"d/gone", b"d/e/g", b"da/x"]
        assert b"d/f" in views
        assert b"d" not in views
        assert views.names(b"d", b"", None) == views.names(b"d", b"e", b"f") == [b"f"]
        assert views.names(b"nowhere", b"", None) == []
        assert views.names(b"d", b"", b"e") == views.names(b"d", b"f", None) == []
        assert views.has_any(b"d")
        assert not views.has_any(b"nowhere")
        assert views.below(b"d") == [b"d/f", b"d/gone", b"d/e/g"]

    def test_forget_one_or_all(self) -> None:
        views = Views()
        views.set(b"d/f", View(FILE))
        views.set(b"d/g", View(FILE))

        assert views.pop(b"d/x") is views.pop(b"x") is None
        assert views.pop(b"d/f") == View(FILE)
        assert len(views) == 1
        views.clear()
        assert list(views) == []


class TestParents:
    @pytest.mark.parametrize(
        ("news", "lacks"),
        [
            pytest.param({}, False, id="no news"),
            pytest.param({b"a": View(directory()), b"a/b": View(directory())}, False, id="there"),
            pytest.param({b"a/b": View(None)}, True, id="gone"),
            pytest.param({b"a": View(FILE), b"a/b": View(directory())}, True, id="a file above"),
            pytest.param({b"a/b/c": View(None)}, False, id="only itself gone"),
        ],
    )
    def test_are_looked_for_all_the_way_up(
        self, replica: Replica, news: dict[bytes, View], lacks: bool
    ) -> None:
        for path, view in news.items():
            replica.views.set(path, view)

        assert replica.lacks_parent(b"a/b/c") == lacks


class TestRenewal:
    @pytest.mark.parametrize(
        ("entry", "flags", "asked", "expected"),
        [
            pytest.param(None, 0, False, View(None), id="gone"),
            pytest.param(link(b"x"), 0, False, View(link(b"x")), id="another kind"),
            pytest.param(
                FILE._replace(size=9), META_ONLY, False, View(FILE._replace(size=9)), id="size"
            ),
            pytest.param(
                FILE._replace(ctime_ns=2), 0, True, View(FILE._replace(ctime_ns=2)), id="identity"
            ),
            pytest.param(
                FILE._replace(ctime_ns=2, digest=b""),
                META_ONLY,
                False,
                View(FILE._replace(ctime_ns=2), True),
                id="attributes only",
            ),
            pytest.param(
                FILE._replace(ctime_ns=2, mtime_ns=9),
                META_ONLY,
                False,
                View(FILE._replace(ctime_ns=2, mtime_ns=9), doubtful=True),
                id="attributes and mtime",
            ),
            pytest.param(FILE, 0, True, View(FILE, True), id="the same, asked for"),
            pytest.param(FILE, 0, False, View(FILE, doubtful=True), id="the same, by itself"),
        ],
    )
    def test_keeps_of_the_content_what_is_known_still(
        self, replica: Replica, entry, flags: int, asked: bool, expected: View
    ) -> None:
        replica.link = Link.READY
        assert replica.renewed(b"f", BASE, entry, flags, asked=asked) == expected

    @pytest.mark.parametrize("how", ["scanning", "not listed", "listed", "told"])
    def test_of_attributes_only_needs_to_know_what_was_told_before(
        self, replica: Replica, how: str
    ) -> None:
        changed = FILE._replace(ctime_ns=2, digest=b"")
        replica.link = Link.SCANNING if how == "scanning" else Link.READY
        if how != "scanning":
            replica.survey.ask(ROOT)
        if how == "listed":
            replica.survey.passed(ROOT, b"", b"g")
        if how == "told":
            replica.views.set(b"f", View(FILE, True))

        view = replica.renewed(b"f", BASE, changed, META_ONLY, asked=False)

        assert view.intact is (how in ("listed", "told"))
        assert bool(view.entry.digest) is view.intact


class TestLooks:
    def test_are_asked_once_and_for_the_most(self, replica: Replica) -> None:
        replica.look(b"f", 1, 10)
        replica.look(b"f", 0)
        replica.look(b"f", 2)

        assert replica.questions() == [Look(1, [b"f"]), Look(2, [b"f"])]
        assert replica.questions() == []
        assert replica.answered(b"f") == 2
        assert replica.answered(b"f") == -1
        assert replica.remains()["awaited"] == 0

    def test_for_content_are_bounded(self, replica: Replica, monkeypatch) -> None:
        monkeypatch.setattr("psync.core.replica.ASKING_MAX", 10)

        replica.look(b"f", 1, 10)
        replica.look(b"h", 0)
        assert not replica.may_ask
        replica.answered(b"f")
        assert replica.may_ask


class TestContent:
    def test_is_kept_for_the_very_version(self, replica: Replica) -> None:
        replica.keep_content(b"f", FILE, b"one", asked=False)

        assert replica.content(b"f", FILE) == (b"one", FILE.digest)
        assert replica.content(b"f", FILE._replace(ctime_ns=2)) is None
        assert replica.content(b"g", FILE) is None
        replica.drop_content(b"f")
        replica.drop_content(b"f")
        assert replica.credit(all_of_it=True) == [Credit(3)]

    def test_that_is_too_much_is_kept_only_if_asked_for(self, replica: Replica) -> None:
        replica.keep_content(b"f", FILE, b"one", asked=False)
        replica.keep_content(b"g", FILE, b"one", asked=False)
        assert replica.content(b"g", FILE) is None
        replica.keep_content(b"g", FILE, b"one", asked=True)

        assert replica.content(b"g", FILE) is not None

    @pytest.mark.parametrize("entry", [directory(), FILE._replace(size=2)])
    def test_that_cannot_be_this_files_is_given_back(self, replica: Replica, entry) -> None:
        replica.keep_content(b"f", entry, b"one", asked=True)

        assert replica.credit(all_of_it=False) == []  # not in small coin
        assert replica.credit(all_of_it=True) == [Credit(3)]
        assert replica.credit(all_of_it=True) == []


class TestFlood:
    def test_does_not_count_what_was_listed(self, replica: Replica) -> None:
        before = len(replica.views)
        for name in (b"a", b"b", b"c"):
            replica.views.set(name, View(FILE))
        assert replica.is_flooded
        replica.count_listed(before)
        assert not replica.is_flooded
        replica.views.clear()

        assert not replica.is_flooded


class TestForgetting:
    def test_keeps_results_and_gives_content_back(self, replica: Replica) -> None:
        replica.stream.extend([Observed([Item(b"f", FILE, b"one")]), Results(1, []), Rescan()])
        replica.look(b"g", 0)
        replica.keep_content(b"h", FILE, b"one", asked=True)

        assert replica.forget() == {b"g": None}
        assert list(replica.stream) == [Results(1, [])]
        assert replica.credit(all_of_it=True) == [Credit(6)]
        replica.hang_up()
        assert set(replica.remains().values()) == {0}
