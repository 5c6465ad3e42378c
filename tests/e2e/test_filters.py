"""What the user does not want replicated: rules for names, and the names of temporary files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.pair import SIDES, Pair, tree


def rules(**lists: list[str]) -> list[str]:
    """Rules as options of the command line."""
    return [word for key, rule in lists.items() for word in ("--set", f"{key}={json.dumps(rule)}")]


def names(root: Path) -> set[str]:
    return {path.decode() for path in tree(root)}


def make(root: Path, *paths: str) -> None:
    """Make files that hold their own paths."""
    for path in paths:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(path)


class TestRules:
    def test_are_the_same_for_what_is_there_and_for_what_happens(self, pair: Pair) -> None:
        excludes = ["*.o", "!keep.o", "build/", "/top", "d/**/deep", r"re:\.TMP$"]
        pair.options = rules(excludes=excludes)
        hidden = ("x.o", "build/x", "src/build/y", "top", "d/e/deep", "d/deep/f", "x.tmp")
        shown = ("keep.o", "src/keep.o", "src/top", "docs/build", "e/deep", "x.tmp2")
        make(pair.left, *hidden, *shown)
        pair.start()

        pair.flush()
        assert not any((pair.right / path).exists() for path in hidden)
        assert all((pair.right / path).read_text() == path for path in shown)

        more = [f"new/{path}" for path in (*hidden, *shown) if path not in ("top", "d/e/deep")]
        make(pair.left, *more, *(f"right/{p}" for p in shown))
        pair.flush()
        there = names(pair.right)
        assert {p for p in more if p in there} == {f"new/{p}" for p in shown} | {"new/d/deep/f"}

    def test_of_directories_follow_what_is_at_a_name(self, pair: Pair) -> None:
        pair.options = rules(excludes=["build/"])
        make(pair.left, "d/build/x", "e/build")
        pair.start()
        pair.flush()
        assert names(pair.right) == {"d", "e", "e/build"}

        (pair.left / "d/build").rename(pair.left / "d/kept")
        pair.flush()
        assert names(pair.right) == {"d", "d/kept", "d/kept/x", "e", "e/build"}

        (pair.left / "e/build").unlink()
        make(pair.left, "e/build/now-a-directory")
        (pair.left / "d/kept").rename(pair.left / "d/build")
        pair.flush()
        assert names(pair.right) == {"d", "e"}
        assert (pair.left / "d/build/x").exists()

        (pair.left / "e/build/now-a-directory").unlink()
        (pair.left / "e/build").rmdir()
        make(pair.left, "e/build")
        pair.flush()
        assert (pair.right / "e/build").read_text() == "e/build"

    @pytest.mark.parametrize("side", SIDES)
    def test_of_paths_follow_the_rename_of_a_directory(self, local: Pair, side: str) -> None:
        """What they hid is replicated once it has another path, and the other way round."""
        here, there = local.sides(side)
        for directory in ("a", "b"):
            (here / directory / "d").mkdir(parents=True)
            (here / directory / "x.log").write_text(directory)
            (here / directory / "d/y.log").write_text(directory)
            (here / directory / "f").write_text(directory)
        local.start("--set", "excludes=/a/**/*.log")
        local.flush()
        assert not (there / "a/x.log").exists()

        (here / "a").rename(here / "c")
        local.settle()
        assert (there / "c/x.log").read_text() == (there / "c/d/y.log").read_text() == "a"
        (here / "b").rename(here / "a")
        local.flush()
        (here / "a/x.log").unlink()
        (here / "a/f").write_text("two")
        local.flush()

        assert (there / "a/f").read_text() == "two"
        assert (there / "a/x.log").read_text() == "b"  # it stays as it was

    def test_protect_what_they_hide_from_what_is_to_be_put_there(self, pair: Pair) -> None:
        pair.options = rules(excludes=["build/"])
        pair.start()
        make(pair.right, "build/precious")
        make(pair.left, "build", "other")

        done = pair.psync("flush")

        assert done.returncode == 1
        assert "build: what is there is not replicated, and stands in the way" in done.stderr
        assert (pair.right / "build/precious").read_text() == "build/precious"
        assert (pair.left / "build").read_text() == "build"
        assert (pair.right / "other").exists()

        (pair.right / "build").rename(pair.right / "aside")
        pair.flush()
        assert names(pair.left) == {"build", "other", "aside", "aside/precious"}
        assert names(pair.right) == names(pair.left)


class TestForce:
    """A directory is deleted, but over there it holds what is not replicated."""

    def test_leaves_such_a_directory_without_it(self, local: Pair) -> None:
        local.options = rules(excludes=["*.o"])
        make(local.left, "d/f")
        local.start()
        local.flush()
        make(local.right, "d/x.o")
        (local.left / "d/f").unlink()
        (local.left / "d").rmdir()

        done = local.psync("flush")

        assert done.returncode == 1
        assert "d: the directory holds entries that are not replicated" in done.stderr
        assert names(local.right) == {"d", "d/x.o"}

    def test_deletes_it_and_keeps_what_was_in_it(self, pair: Pair) -> None:
        pair.options = [*rules(excludes=["*.o"]), "-f"]
        make(pair.left, "d/f", "e/f")
        pair.start()
        pair.flush()
        make(pair.right, "d/x.o", "e/x.o")
        (pair.left / "d/f").unlink()
        (pair.left / "d").rmdir()
        (pair.left / "e/f").unlink()
        (pair.left / "e").rmdir()
        (pair.left / "e").write_text("now a file")

        after = pair.settle()

        assert {path: entry[-1] for path, entry in after.items()} == {b"e": b"now a file"}
        kept = list((pair.right / ".psync/conflicts").glob("*/x.o"))
        assert sorted(path.read_text() for path in kept) == ["d/x.o", "e/x.o"]
        assert pair.status()["conflicts"] == 2
        listed = pair.psync("conflicts").stdout
        assert "  d  " in listed and "  e  " in listed

    def test_keeps_it_in_the_store_though_both_versions_of_a_conflict_stay(
        self, local: Pair
    ) -> None:
        """It would be back at once, and what a rule by its path hides would be replicated."""
        local.options = [*rules(excludes=["/d/secret"]), "-f", "--set", "conflict=keep-both"]
        make(local.left, "d/f", "e")
        local.start()
        local.flush()
        make(local.right, "d/secret")
        (local.left / "d/f").unlink()
        (local.left / "d").rmdir()

        after = local.settle()

        assert set(after) == {b"e"}
        (kept,) = (local.right / ".psync/conflicts").glob("*/secret")
        assert kept.read_text() == "d/secret"
        assert "  forced  " in local.psync("conflicts").stdout
        local.restart()
        assert set(local.settle()) == {b"e"}


class TestTemporaryFile:
    def test_that_is_renamed_counts_as_a_write_of_the_real_one(self, watching: Pair) -> None:
        for side, other in (("left", "right"), ("right", "left")):
            root, there = watching.root(side), watching.root(other)
            (root / f"{side}.doc").write_text("one")
            watching.flush()

            (root / f"~${side}").write_text("two")
            watching.flush()
            assert not (there / f"~${side}").exists()
            (root / f"~${side}").rename(root / f"{side}.doc")
            watching.flush()

            assert (there / f"{side}.doc").read_text() == "two"
            assert watching.status()["conflicts"] == 0

    def test_that_a_file_becomes_is_gone_from_where_it_was(self, watching: Pair) -> None:
        make(watching.left, "doc", "d/x")
        watching.flush()

        (watching.left / "doc").rename(watching.left / "~$doc")
        (watching.left / "d").rename(watching.left / ".#d")
        watching.flush()
        assert names(watching.right) == set()

        (watching.left / "~$doc").rename(watching.left / "doc")
        (watching.left / ".#d").rename(watching.left / "d")
        watching.flush()
        assert (watching.right / "doc").read_text() == "doc"
        assert (watching.right / "d/x").read_text() == "d/x"

    @pytest.mark.parametrize("side", ["left", "right"])
    def test_takes_part_in_the_dance_of_office_programs(self, watching: Pair, side: str) -> None:
        root = watching.root(side)
        other = watching.root("right" if side == "left" else "left")
        (root / "doc").write_text("old")
        watching.flush()

        (root / "~$new").write_text("new")
        (root / "doc").rename(root / "~$old")
        (root / "~$new").rename(root / "doc")
        (root / "~$old").unlink()
        watching.flush()

        assert (other / "doc").read_text() == (root / "doc").read_text() == "new"
        assert names(other) == {"doc"}
        assert watching.status()["conflicts"] == 0
