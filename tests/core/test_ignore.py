"""Which paths are not replicated."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from psync.core.ignore import _DIRECTORIES_MAX, Ignore
from psync.errors import ConfigError

NAMES = st.sampled_from([b"a", b"b", b"cache", b"x.tmp", b".git", b"f.psync.ignore"])
PATHS = st.lists(NAMES, min_size=1, max_size=5).map(b"/".join)


class TestRules:
    @pytest.mark.parametrize(
        ("patterns", "path", "expected"),
        [
            pytest.param([r"\.tmp$"], b"a/x.tmp", True, id="searched, not matched"),
            pytest.param([r"\.tmp$"], b"a/x.TMP", True, id="without regard to case"),
            pytest.param([r"\.tmp$"], b"a/x.tmp2", False, id="only what it says"),
            pytest.param(["/~"], b"~lock", True, id="a slash stands before the path"),
            pytest.param(["/~"], b"a~", False, id="and nowhere else"),
            pytest.param(["^/top$"], b"top", True, id="anchored to the root"),
            pytest.param(["^/top$"], b"d/top", False, id="anchored, deeper"),
            pytest.param(["/cache$"], b"cache/deep/in/it", True, id="below an ignored directory"),
            pytest.param(["/cache$"], b"cached", False, id="beside an ignored directory"),
            pytest.param(["x", "y"], b"y", True, id="any of several"),
            pytest.param([], b"anything", False, id="no rules"),
            pytest.param(["."], b"", False, id="never the root"),
            pytest.param([r"\udcff"], b"a\xff", True, id="bytes that are no UTF-8"),
            pytest.param(["(a)\\1"], b"baab", True, id="groups and references"),
        ],
    )
    def test_decides(self, patterns: list[str], path: bytes, expected: bool) -> None:
        assert Ignore(patterns)(path) is expected
        assert Ignore([], patterns)(path) is expected

    @pytest.mark.parametrize("path", [b".psync", b".psync/stage/1", b"a.psync.ignore/b"])
    def test_ignores_our_own_names_without_rules(self, path: bytes) -> None:
        assert Ignore()(path)

    @pytest.mark.parametrize("option", ["excludes", "tempfiles"])
    def test_names_the_pattern_that_is_wrong(self, option: str) -> None:
        with pytest.raises(ConfigError, match=rf"{option}.*\(unclosed"):
            Ignore(**{option: ["fine", "(unclosed"]})

    @given(st.lists(PATHS, max_size=30))
    def test_answers_alike_in_any_order_and_for_all_that_is_below(self, paths: list[bytes]) -> None:
        rules = ["/cache$", r"\.tmp$", r"/\.git/"]
        one = Ignore(rules)
        for path in paths:
            answer = one(path)
            assert answer is Ignore(rules)(path)
            if answer:
                assert one(path + b"/below")

    def test_forgets_directories_when_there_are_too_many(self) -> None:
        ignore = Ignore(["/cache$"])
        for i in range(_DIRECTORIES_MAX + 10):
            ignore(b"%d/f" % i)

        assert len(ignore._directories) <= _DIRECTORIES_MAX + 2
        assert ignore(b"1/cache/f")

    def test_copes_with_a_very_deep_path(self) -> None:
        deep = b"/".join([b"d"] * 5000)

        assert Ignore(["/never$"])(deep) is False
        assert Ignore(["^/d$"])(deep) is True
