"""What a difference is, what it is called, and of what kind it is."""

from __future__ import annotations

import pytest

from psync.audit_rules import Modes, Verdict, Worth, difference, foresee, is_unchanged, judge
from psync.core.entry import Agreed, Entry, Side, content_digest
from psync.core.reconcile import agree
from psync.explain import Told
from tests.support.replica import MTIME_NS, directory, file, link

F = file(b"one")._replace(digest=b"", ino=1, ctime_ns=1)


def agreed(left: Entry = F, right: Entry = F, digest: bytes = b"") -> Agreed:
    return agree(left._replace(digest=digest), left, right)


class TestDifference:
    @pytest.mark.parametrize(
        ("left", "right", "told"),
        [
            (None, None, ""),
            (F, F._replace(ino=7, ctime_ns=9), ""),
            (F, None, "only on the left"),
            (None, directory(), "directory, only on the right"),
            (F, directory(), "kind file | directory"),
            (F, F._replace(size=12345), "size 3 | 12,345"),
            (F, F._replace(digest=b"d"), ""),
            (F._replace(digest=b"e"), F._replace(digest=b"d"), "content"),
            (link(b"a"), link(b"\x1b"), "target a | \\x1b"),
            (F, F._replace(mode=0o4755), "mode 0644 | 4755"),
            (F, F._replace(uid=1, gid=2), "owner 0:0 | 1:2"),
            (F, F._replace(xattrs=b"x"), "attributes"),
            (F._replace(mtime_ns=10**18 + 1), F._replace(mtime_ns=-1),
             "mtime 2001-09-09T01:46:40.000000001Z | 1969-12-31T23:59:59.999999999Z"),
            (F._replace(mtime_ns=(1 << 63) * 10**9), F._replace(mtime_ns=0),
             "mtime 9223372036854775808.000000000 | 1970-01-01T00:00:00.000000000Z"),
            (F, F._replace(size=4, mode=0), "size 3 | 4, mode 0644 | 0000"),
        ],
    )  # fmt: skip
    def test_is_said_in_words(self, left: Entry | None, right: Entry | None, told: str) -> None:
        assert difference(left, right) == told

    def test_of_metadata_is_none_in_a_lite_audit(self) -> None:
        other = F._replace(mtime_ns=5, mode=0, uid=3, xattrs=b"x")

        assert difference(F, other, lite=True) == ""
        assert difference(F, other._replace(size=9), lite=True) == "size 3 | 9"

    def test_of_times_is_none_where_a_directory_is_stirred(self) -> None:
        d = directory(mtime_ns=1)

        assert difference(directory(), d, stirred=True) == ""
        assert difference(directory(), d._replace(mode=0), stirred=True) == "mode 0755 | 0000"
        assert difference(F, F._replace(mtime_ns=0), stirred=True) != ""


class TestModes:
    @pytest.mark.parametrize(
        ("modes", "left", "right", "skips"),
        [
            (Modes(), F, None, False),
            (Modes(modified=True), F, None, True),
            (Modes(modified=True), F, F, False),
            (Modes(no_links=True), link(b"a"), link(b"b"), True),
            (Modes(no_links=True), link(b"a"), None, True),
            (Modes(no_links=True), link(b"a"), F, False),
            (Modes(newer_min=1), F, F, True),
            (Modes(newer_min=1), F, None, True),
            (Modes(newer_min=1), F, F._replace(ctime_ns=MTIME_NS + 20), False),
            (Modes(newer_min=1), F._replace(mtime_ns=MTIME_NS + 10), F, False),
            (Modes(newer_min=1), directory(), directory(), False),
        ],
    )
    def test_leave_out(
        self, modes: Modes, left: Entry | None, right: Entry | None, skips: bool
    ) -> None:
        since_ns = (MTIME_NS + 10, MTIME_NS + 20)  # two clocks

        assert modes.skips(left, right, since_ns) is skips


class TestCloseness:
    @pytest.mark.parametrize(
        ("modes", "other", "sees"),
        [
            (Modes(), Modes(), True),
            (Modes(checksum=True), Modes(), True),
            (Modes(), Modes(checksum=True), False),
            (Modes(lite=True), Modes(), False),
            (Modes(), Modes(lite=True), True),
            (Modes(checksum=True, modified=True), Modes(checksum=True), False),
            (Modes(modified=True), Modes(modified=True), True),
            (Modes(no_links=True), Modes(), False),
            (Modes(), Modes(no_links=True, modified=True), True),
            (Modes(newer_min=5), Modes(newer_min=1), False),
            (Modes(), Modes(newer_min=1), True),
            (Modes(extra=("excludes a",)), Modes(), False),
            (Modes(extra=("excludes a",)), Modes(extra=("excludes b", "excludes a")), True),
        ],
    )
    def test_of_one_audit_is_that_of_another(
        self, modes: Modes, other: Modes, sees: bool
    ) -> None:
        assert modes.sees_all_of(other) is sees

    def test_together_is_that_of_both(self) -> None:
        one = Modes(lite=True, no_links=True, newer_min=5, extra=("excludes a", "excludes b"))
        two = Modes(checksum=True, no_links=True, extra=("excludes b",))
        both = one.together(two)

        assert both == Modes(checksum=True, no_links=True, extra=("excludes b",))
        assert both.sees_all_of(one) and both.sees_all_of(two)

    def test_is_said_as_on_the_command_line(self) -> None:
        modes = Modes(checksum=True, no_links=True, newer_min=1.5, extra=("excludes a",))

        assert modes.words == "--checksum, --no-links, --newer 1.5, without excludes a"
        assert Modes().words == "without options"


class TestUnchanged:
    @pytest.mark.parametrize(
        ("first", "second", "expected"),
        [
            ((F, None), (F, None), True),
            ((F, F), (F, F._replace(digest=b"d")), True),
            ((F, F), (F, F._replace(ctime_ns=2)), False),
            ((F, directory()), (F, directory(mode=0o700)), False),
            ((F, None), (F, F), False),
            ((None, F), (None, None), False),
        ],
    )
    def test_is_the_same_version_on_both_sides(
        self,
        first: tuple[Entry | None, Entry | None],
        second: tuple[Entry | None, Entry | None],
        expected: bool,
    ) -> None:
        assert is_unchanged(first, second) is expected


class TestJudge:
    @pytest.mark.parametrize(
        ("word", "settled", "unchanged", "worth"),
        [
            ("pending", True, True, Worth.ON_ITS_WAY),
            ("problem", True, True, Worth.DIFFERS),
            ("unknown", False, True, Worth.DIFFERS),
            ("", False, True, None),
            ("", True, False, Worth.ON_ITS_WAY),
            ("", True, True, Worth.BELIEVED),
        ],
    )
    def test_by_what_a_session_says(
        self, word: str, settled: bool, unchanged: bool, worth: Worth | None
    ) -> None:
        verdict = judge(Told(word, "why", None), settled=settled, unchanged=unchanged)

        assert (verdict and verdict.worth) == worth


NEW = F._replace(ino=2, ctime_ns=2, mtime_ns=MTIME_NS + 1)
STIRRED = F._replace(ctime_ns=2)
ONE, TWO = content_digest(b"one"), content_digest(b"two")


class TestForesee:
    @pytest.mark.parametrize(
        ("left", "right", "base", "worth"),
        [
            pytest.param(F, None, None, Worth.ON_ITS_WAY, id="new"),
            pytest.param(F, None, agreed(), Worth.ON_ITS_WAY, id="deleted"),
            pytest.param(NEW, F, agreed(), Worth.ON_ITS_WAY, id="edited"),
            pytest.param(NEW._replace(size=4), NEW._replace(size=5), agreed(), Worth.DIFFERS,
                         id="edited on both"),
            pytest.param(F._replace(digest=ONE), F._replace(digest=TWO), agreed(digest=ONE),
                         Worth.BELIEVED, id="rotten"),
            pytest.param(F._replace(digest=ONE), STIRRED._replace(digest=TWO), agreed(digest=ONE),
                         Worth.ON_ITS_WAY, id="rewritten with its time"),
            pytest.param(F, STIRRED, agreed(digest=ONE), None, id="to be read"),
            pytest.param(F, F._replace(mode=0o600, ctime_ns=2), agreed(), None, id="doubtful"),
            pytest.param(F._replace(digest=ONE), F._replace(mode=0o600, ctime_ns=2, digest=ONE),
                         agreed(), Worth.ON_ITS_WAY, id="doubtful and read"),
            pytest.param(directory(), directory(mode=0o700), agreed(directory(), directory()),
                         Worth.ON_ITS_WAY, id="mode"),
        ],
    )  # fmt: skip
    def test_is_what_psync_would_do(
        self, left: Entry | None, right: Entry | None, base: Agreed | None, worth: Worth | None
    ) -> None:
        for sides, sided in (((left, right), base), ((right, left), base and _mirrored(base))):
            verdict = foresee(sides, sided, met=True, meta_from=None)
            assert (verdict and verdict.worth) == worth

    def test_knows_whose_metadata_count(self) -> None:
        sides = (directory(), directory(mode=0o700))
        base = agreed(directory(), directory())
        for side in Side:
            verdict = foresee(sides, base, met=True, meta_from=side)
            assert verdict == Verdict(Worth.ON_ITS_WAY, "")

    def test_of_two_that_never_met_trusts_their_times(self) -> None:
        sides = (F, F._replace(mode=0o600))

        assert foresee(sides, None, met=True, meta_from=None) is None
        verdict = foresee(sides, None, met=False, meta_from=None)
        assert verdict is not None and verdict.worth is Worth.ON_ITS_WAY


def _mirrored(base: Agreed) -> Agreed:
    return base._replace(
        left_ino=base.right_ino, left_ctime_ns=base.right_ctime_ns,
        right_ino=base.left_ino, right_ctime_ns=base.left_ctime_ns,
    )  # fmt: skip


def test_kinds_are_ordered_by_what_they_are_worth() -> None:
    assert [worth.title for worth in sorted(Worth)] == [
        "arrived", "on its way", "unreadable", "differs", "believed equal",
    ]  # fmt: skip
