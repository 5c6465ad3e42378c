"""A pattern means what it means to git."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from psync.core.ignore import Ignore
from psync.core.patterns import parse

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")

PIECES = st.sampled_from(
    [
        "a", "b", "ab", "cache", ".x", "f.o", "*", "**", "***", "?", "/", "/", "**/", "/**", "[ab]",
        "[!a]", "[^b]", "[a-c]", "[]]", "[]-a]", "[\\]]", "[a\\-c]", "[[:alpha:]]", "[![:punct:]]",
        "[[:digit:]x]", "[[:x]", "[-a]", "[a-]", "\\*", "\\?", "\\a", "\\[", "a*", "*b", ".o", "é",
        "-", "]", "#", "[^/]", "[.-0]",
    ]
)  # fmt: skip
PATTERNS = st.tuples(
    st.sampled_from(["", "", "", "!", "/", "!/"]),
    st.lists(PIECES, min_size=1, max_size=5).map("".join),
    st.sampled_from(["", "", "/"]),
).map("".join)
NAMES = st.sampled_from(
    ["a", "b", "ab", "abc", "cache", ".x", "f.o", "b.o", "*", "?", "]", "[", "é", "-", "x", "#"]
)
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)


def rules(*patterns: str) -> Ignore:
    return Ignore(patterns)


class Git:
    """A repository of nothing but a list of patterns."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.env = {
            **os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull,
            "GIT_DIR": str(root / ".git"),
        }  # fmt: skip
        subprocess.run(["git", "init", "-q"], cwd=root, env=self.env, check=True)
        (root / ".git/info").mkdir(exist_ok=True)
        for tree in ("files", "directories"):
            (root / tree).mkdir()

    def ignores(self, patterns: list[str], paths: list[str], *, directories: bool) -> list[bool]:
        """Ask git of paths as files, or as directories, for which it wants to see them."""
        (self.root / ".git/info/exclude").write_text("".join(map(in_a_file, patterns)))
        tree = self.root / ("directories" if directories else "files")
        if directories:
            for path in paths:
                (tree / path).mkdir(parents=True, exist_ok=True)
        asked = [path.encode() for path in paths]
        done = subprocess.run(
            ["git", "check-ignore", "--no-index", "-z", "-v", "-n", "--stdin"],
            input=b"\0".join(asked) + b"\0", env={**self.env, "GIT_WORK_TREE": str(tree)},
            cwd=tree, check=False, capture_output=True,
        )  # fmt: skip
        fields = done.stdout.split(b"\0")[:-1]
        found = dict(zip(fields[3::4], fields[2::4], strict=True))
        assert set(found) == set(asked), done.stderr
        return [bool(found[path]) and not found[path].startswith(b"!") for path in asked]


@pytest.fixture(scope="module")
def git(tmp_path_factory: pytest.TempPathFactory) -> Git:
    return Git(tmp_path_factory.mktemp("git"))


def in_a_file(pattern: str) -> str:
    """A pattern as a line of `.gitignore`, where `#` begins a comment."""
    return ("\\" if pattern.startswith("#") else "") + pattern + "\n"


@needs_git
class TestGit:
    @settings(max_examples=150, suppress_health_check=list(HealthCheck), deadline=None)
    @given(patterns=st.lists(PATTERNS, min_size=1, max_size=4), paths=st.lists(PATHS, max_size=12))
    def test_agrees_on_every_pattern_and_path(
        self, git: Git, patterns: list[str], paths: list[str]
    ) -> None:
        usable, never = [], []
        for pattern in patterns:
            try:
                parse(pattern)
                usable.append(pattern)
            except ValueError:
                never.append(pattern)
        asked = sorted({"a", *paths})
        ignore = rules(*usable)

        for kind in (False, True):
            ours = [ignore(path.encode(), kind) for path in asked]
            assert ours == git.ignores(usable, asked, directories=kind)
        refused = [pattern for pattern in never if not pattern.startswith("!")]
        assert not refused or not any(git.ignores(refused, asked, directories=False))

    @pytest.mark.parametrize(
        "patterns",
        [
            ["*.o", "!keep.o"],
            ["*", "!*/", "!*.c"],
            ["/*", "!/src/"],
            ["build/", "!build/keep"],
            ["**/logs/*.log"],
            ["a/**/z"],
            ["a/**"],
            ["**"],
            ["doc/*.txt"],
            ["/top"],
            ["\\!bang"],
            ["foo**/bar"],
            ["a**b/c"],
            ["x/"],
            ["!x"],
            ["a\\ b"],
        ],
    )
    def test_agrees_where_people_stumble(self, git: Git, patterns: list[str]) -> None:
        names = [
            "keep.o", "d/keep.o", "x.o", "main.c", "src", "src/main.c", "src/x.o", "build",
            "build/keep", "logs/a.log", "d/logs/a.log", "d/logs/e/a.log", "a", "a/z", "a/b/c/z",
            "doc/x.txt", "doc/d/x.txt", "d/doc/x.txt", "top", "d/top", "!bang", "foobar",
            "foox/bar", "foo/x/bar", "axb/c", "a/b/c", "x", "d/x", "a b",
        ]  # fmt: skip
        ignore = rules(*patterns)

        for kind in (False, True):
            ours = [ignore(name.encode(), kind) for name in names]
            assert ours == git.ignores(patterns, names, directories=kind)


class TestPattern:
    @pytest.mark.parametrize(
        ("pattern", "matching", "other"),
        [
            ("*.iso", [b"x.iso", b"d/x.iso", b".iso"], [b"x.iso2", b"x.ISO"]),
            ("/cache", [b"cache", b"cache/f"], [b"d/cache"]),
            ("d/*.pdf", [b"d/x.pdf"], [b"d/e/x.pdf", b"e/d/x.pdf"]),
            ("**/d/*.pdf", [b"d/x.pdf", b"e/d/x.pdf"], [b"d/e/x.pdf"]),
            ("a/**", [b"a/b", b"a/b/c"], [b"a"]),
            ("~$*", [b"~$x", b"d/~$"], [b"x~$"]),
            ("[0-9]?", [b"1a"], [b"a1", b"11a"]),
            ("[[:x]", [b"[", b":", b"x"], [b"y"]),
            ("[]-a\\]]", [b"]", b"a", b"_"], [b"b", b"["]),
            ("[![:digit:]a-c-]", [b"d", b"_"], [b"1", b"b", b"-"]),
            ("\xe9", ["\xe9".encode()], [b"\xe9"]),
            ("\udcff*", [b"\xffx"], ["\xff".encode()]),
            ("new\nline", [b"new\nline"], [b"new"]),
            ("*", [b"new\nline"], []),
            ("#x", [b"#x"], []),
            ("\\!x", [b"!x"], [b"x"]),
            ("re:/~", [b"~lock", b"d/~"], [b"a~"]),
            (r"re:\.tmp$", [b"x.TMP"], [b"x.tmp2"]),
            ("re:^/top$", [b"top", b"top/x"], [b"d/top"]),
            (r"re:\udcff", [b"a\xff"], [b"a"]),
            (r"re:(a)\1", [b"baab"], [b"ab"]),
        ],
    )
    def test_matches(self, pattern: str, matching: list[bytes], other: list[bytes]) -> None:
        assert [path for path in matching if not rules(pattern)(path)] == []
        assert [path for path in other if rules(pattern)(path)] == []

    @pytest.mark.parametrize(
        ("pattern", "trouble"),
        [
            ("", "is no pattern: it is empty"),
            ("!", "is no pattern: it is empty"),
            ("/", "is no pattern: it is empty"),
            ("a\0b", "is no pattern: no name holds a NUL"),
            ("/a\0b/c", "is no pattern: no name holds a NUL"),
            ("[a", r"is no pattern: a \[ in it is never closed"),
            ("x[!]", r"is no pattern: a \[ in it is never closed"),
            ("[[:alpha:", r"is no pattern: a \[ in it is never closed"),
            ("[[:letter:]]", r"is no pattern: there is no \[:letter:\]"),
            ("a/[z-", r"is no pattern: a \[ in it is never closed"),
            ("x\\", "is no pattern: it ends in a backslash"),
            ("re:", "is no regular expression: it is empty"),
            ("!re:", "is no regular expression: it is empty"),
            ("re:(", "is no regular expression: missing"),
            ("!re:[", "is no regular expression: unterminated"),
            ("re:a{99999999999}", "is no regular expression: "),
            ("re:" + "(" * 5000, "is no regular expression: it is nested too deep"),
        ],
    )
    def test_that_can_never_match_is_refused(self, pattern: str, trouble: str) -> None:
        with pytest.raises(ValueError, match=trouble):
            parse(pattern)

    def test_with_a_range_that_is_empty_matches_nothing(self) -> None:
        assert not rules("[z-a]")(b"m")
        assert not rules("d/[/]")(b"d/m")
