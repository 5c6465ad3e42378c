"""Which paths are not replicated."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from psync.core.ignore import _DIRECTORIES_MAX, Ignore, is_pruned
from psync.errors import ConfigError

NAMES = st.sampled_from([b"a", b"b", b"cache", b"x.tmp", b".git", b"f.psync.ignore"])
PATHS = st.lists(NAMES, min_size=1, max_size=5).map(b"/".join)


class TestRules:
    @pytest.mark.parametrize(
        ("patterns", "path", "expected"),
        [
            pytest.param(["*.tmp"], b"a/x.tmp", True, id="a name anywhere"),
            pytest.param(["cache"], b"cache/deep/in/it", True, id="below an ignored directory"),
            pytest.param(["cache"], b"cached", False, id="beside an ignored directory"),
            pytest.param(["x", "y"], b"y", True, id="any of several"),
            pytest.param([], b"anything", False, id="no rules"),
            pytest.param(["*", "re:."], b"", False, id="never the root"),
            pytest.param(["*.o", "!k.o"], b"k.o", False, id="but not that"),
            pytest.param(["!k.o", "*.o"], b"k.o", True, id="the last rule counts"),
            pytest.param(["*.o", "!k*", "ko.o"], b"ko.o", True, id="but that again"),
            pytest.param(["re:[.]o$", "!k.o"], b"k.o", False, id="expressions among patterns"),
            pytest.param(["*.o", "!re:/k"], b"k.o", False, id="an expression that takes out"),
            pytest.param(["d", "!d/f"], b"d/f", True, id="nothing brings back what is below"),
            pytest.param(["d/*", "!d/f"], b"d/f", False, id="but what is beside"),
        ],
    )
    def test_decide(self, patterns: list[str], path: bytes, expected: bool) -> None:
        assert Ignore(patterns)(path) is expected
        assert Ignore([], patterns)(path) is expected

    @pytest.mark.parametrize(
        ("patterns", "expected"),
        [
            pytest.param(["a", "b/", "*.o", "t*"], [b"t*", b"*.o", b"b", b"a"], id="by a name"),
            pytest.param(["a?", "[ab]", "a*b", "/a", "a/b", "**/a", "re:a"], [], id="by more"),
            pytest.param(["a", "!b", "c"], [b"c"], id="not what a later rule may take back"),
            pytest.param(["a", "!re:b"], [], id="nor an expression"),
        ],
    )
    def test_name_directories_that_nobody_needs_to_enter(
        self, patterns: list[str], expected: list[bytes]
    ) -> None:
        assert list(Ignore(patterns).pruned) == expected
        assert list(Ignore(["z"], patterns).pruned) == [b"z", *expected]

    def test_name_them_by_what_is_before_or_after(self) -> None:
        pruned = Ignore(["cache", "*.o", "t*"]).pruned

        for path in (b"cache", b"a/cache", b"a/x.o", b"t", b"a/tmp"):
            assert is_pruned(path, pruned)
        for path in (b"cached", b"cache/a", b"x.oo", b"at", b""):
            assert not is_pruned(path, pruned)

    def test_hide_no_root(self) -> None:
        assert not Ignore(["*", "*/"])(b"", True)

    def test_of_one_list_take_nothing_out_of_the_other(self) -> None:
        assert Ignore(["!x.tmp"], ["*.tmp"])(b"x.tmp")
        assert Ignore(["*.tmp"], ["!x.tmp"])(b"x.tmp")

    def test_of_directories_hide_no_file(self) -> None:
        ignore = Ignore(["build/"])

        assert ignore(b"build", True)
        assert not ignore(b"build", False)
        assert ignore(b"build/x", False)
        assert ignore(b"build/x")

    @pytest.mark.parametrize("patterns", [["build/"], ["*", "!build/"]])
    def test_hide_what_nobody_knows_the_kind_of_only_if_either_is_hidden(
        self, patterns: list[str]
    ) -> None:
        assert not Ignore(patterns)(b"build")
        assert Ignore([*patterns, "build"])(b"build")

    @pytest.mark.parametrize("path", [b".psync", b".psync/stage/1", b"a.psync.ignore/b"])
    def test_ignores_our_own_names_without_rules(self, path: bytes) -> None:
        assert Ignore()(path)

    @pytest.mark.parametrize("option", ["excludes", "tempfiles"])
    def test_names_the_pattern_that_is_wrong(self, option: str) -> None:
        with pytest.raises(ConfigError, match=rf"{option}.*\(unclosed"):
            Ignore(**{option: ["fine", "re:(unclosed"]})

    @given(st.lists(PATHS, max_size=30))
    def test_answers_alike_in_any_order_and_for_all_that_is_below(self, paths: list[bytes]) -> None:
        rules = ["cache", "*.tmp", r"re:/\.git/", "b/", "!a.tmp"]
        one = Ignore(rules)
        for path in paths:
            answer = one(path)
            assert answer is Ignore(rules)(path)
            if answer:
                assert one(path + b"/below")

    def test_forgets_directories_when_there_are_too_many(self) -> None:
        ignore = Ignore(["cache"])
        for i in range(_DIRECTORIES_MAX + 10):
            ignore(b"%d/f" % i)

        assert len(ignore._directories) <= _DIRECTORIES_MAX + 2
        assert ignore(b"1/cache/f")

    def test_copes_with_a_very_deep_path(self) -> None:
        deep = b"/".join([b"d"] * 5000)

        assert Ignore(["never"])(deep) is False
        assert Ignore(["/d"])(deep) is True
