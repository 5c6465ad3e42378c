"""Both sides change one thing before either has heard of the other; ids as in docs/FAILURES.md."""

from __future__ import annotations

import os
import shutil

import pytest

from tests.e2e.pair import SIDES, Pair, until


@pytest.mark.parametrize("side", SIDES)
class TestEdits:
    def test_c02_that_nobody_has_heard_of_are_not_overwritten(
        self, watching: Pair, side: str
    ) -> None:
        """Only the transition itself finds out."""
        here, there = watching.sides(side)
        (here / "f").write_text("c02")
        watching.settle()
        with watching.deaf("left" if there == watching.left else "right"):
            (there / "f").write_text("c02 unheard of")
            (here / "f").write_text("c02 heard of")
            until(lambda: watching.status()["conflicts"], "a conflict")

        found = watching.contents()[b"f"]
        kept = watching.conflicts("left") + watching.conflicts("right")
        assert sorted([found, *kept]) == [b"c02 heard of", b"c02 unheard of"]

    def test_c20_c22_to_equal_bytes_are_no_conflict(self, watching: Pair, side: str) -> None:
        here, there = watching.sides(side)
        (here / "edited").write_text("before")
        watching.settle()
        with watching.unheard():
            for root in (here, there):
                (root / "made").write_text("c20")
                (root / "edited").write_text("c22 edited")
            os.utime(there / "made", ns=(10**18, 10**18))
            inodes = [(root / "made").stat().st_ino for root in (here, there)]

        assert watching.contents() == {b"made": b"c20", b"edited": b"c22 edited"}
        assert [(root / "made").stat().st_ino for root in (here, there)] == inodes
        assert watching.status()["conflicts"] == 0

    def test_c23_by_way_of_a_new_file_of_the_same_size_are_seen(
        self, watching: Pair, side: str
    ) -> None:
        """The new file mostly has the old one's inode, and here its time, too."""
        here = watching.root(side)
        names = [f"{number}" for number in range(20)]
        for name in names:
            (here / name).write_text(f"c23 old {name}")
            os.utime(here / name, ns=(10**18, 10**18))
        watching.settle()
        for name in names:
            (here / name).unlink()
            (here / name).write_text(f"c23 new {name}")
            os.utime(here / name, ns=(10**18, 10**18))

        assert watching.contents() == {n.encode(): f"c23 new {n}".encode() for n in names}
        assert watching.status()["conflicts"] == 0

    def test_c24_that_lose_within_a_second_are_all_kept(self, watching: Pair, side: str) -> None:
        here, there = watching.sides(side)
        rounds = range(4)
        for number in rounds:
            with watching.unheard():
                (here / "f").write_text(f"c24 lost {number}")
                os.utime(here / "f", ns=(10**18, 10**18))
                (there / "f").write_text(f"c24 won {number}")
            assert watching.contents() == {b"f": b"c24 won %d" % number}

        assert watching.conflicts(side) == [b"c24 lost %d" % number for number in rounds]

    def test_c27_of_the_mode_and_of_the_text_are_both_kept(self, watching: Pair, side: str) -> None:
        here, there = watching.sides(side)
        (here / "f").write_text("c27")
        watching.settle()
        with watching.unheard():
            (here / "f").chmod(0o600)
            (there / "f").write_text("c27 edited")

        (found,) = watching.settle().values()
        assert (found[1], found[-1]) == (0o600, b"c27 edited")
        assert watching.status()["conflicts"] == 0

    def test_c28_of_the_mode_on_both_sides_end_in_the_left_s(
        self, watching: Pair, side: str
    ) -> None:
        """Always so where both files are of one time; and the log tells of it."""
        names = [f"c28 {side} {number}" for number in range(3)]
        for name in names:
            (watching.root(side) / name).write_text("c28")
        watching.settle()
        with watching.unheard():
            for name in names:
                (watching.left / name).chmod(0o640)
                (watching.right / name).chmod(0o604)

        after = watching.settle()
        assert {entry[1] for entry in after.values()} == {0o640}
        assert all(f'path="{name}" what=metadata' in watching.log() for name in names)
        assert watching.status()["conflicts"] == 0


@pytest.mark.parametrize("side", SIDES)
class TestDeletions:
    def test_c03_of_what_is_edited_over_there_do_not_take_place(
        self, watching: Pair, side: str
    ) -> None:
        here, there = watching.sides(side)
        (here / "f").write_text("c03")
        watching.settle()
        with watching.unheard():
            (here / "f").unlink()
            (there / "f").write_text("c03 edited")

        assert watching.contents() == {b"f": b"c03 edited"}

    def test_c21_of_the_same_on_both_sides_are_agreed(self, watching: Pair, side: str) -> None:
        here, there = watching.sides(side)
        (here / "d").mkdir()
        (here / "d/f").write_text("c21")
        watching.settle()
        with watching.unheard():
            for root in (here, there):
                shutil.rmtree(root / "d")

        assert watching.settle() == {}
        told = watching.status()
        assert (told["agreed"], told["problems"], told["conflicts"]) == (0, 0, 0)


@pytest.mark.parametrize("side", SIDES)
class TestRenames:
    def test_c05_and_an_edit_over_there_both_count(self, watching: Pair, side: str) -> None:
        here, there = watching.sides(side)
        (here / "f").write_text("c05")
        watching.settle()
        with watching.unheard():
            (here / "f").rename(here / "g")
            (there / "f").write_text("c05 edited")

        assert watching.contents() in (
            {b"g": b"c05 edited"}, {b"g": b"c05", b"f": b"c05 edited"},
        )  # fmt: skip

    def test_c06_to_two_names_keep_both(self, watching: Pair, side: str) -> None:
        here, there = watching.sides(side)
        (here / "f").write_text("c06")
        watching.settle()
        with watching.unheard():
            (here / "f").rename(here / "g")
            (there / "f").rename(there / "h")

        assert watching.contents() == {b"g": b"c06", b"h": b"c06"}

    def test_c07_of_equal_files_over_each_other_keep_the_text(
        self, watching: Pair, side: str
    ) -> None:
        here, there = watching.sides(side)
        for name in ("a", "b"):
            (here / name).write_text("c07")
        watching.settle()
        with watching.unheard():
            (here / "a").rename(here / "b")
            (there / "b").rename(there / "a")

        assert b"c07" in watching.texts()

    def test_c08_to_a_name_that_is_new_over_there_keep_both(
        self, watching: Pair, side: str
    ) -> None:
        here, there = watching.sides(side)
        (here / "a").write_text(f"c08 renamed {side}")
        watching.settle()
        with watching.unheard():
            (here / "a").rename(here / "b")
            (there / "b").write_text(f"c08 made {side}")

        found = watching.texts()
        assert {f"c08 renamed {side}".encode(), f"c08 made {side}".encode()} <= set(found)
        assert b"a" not in watching.settle()

    def test_c09_of_a_directory_keep_what_is_made_in_it_over_there(
        self, watching: Pair, side: str
    ) -> None:
        here, there = watching.sides(side)
        (here / "d").mkdir()
        (here / "d/f").write_text("c09")
        watching.settle()
        with watching.unheard():
            (here / "d").rename(here / "e")
            (there / "d/x").write_text("c09 new")

        after = watching.settle()
        assert [after[p][-1] for p in (b"e/x", b"d/x") if p in after] == [b"c09 new"]
        assert after[b"e/f"][-1] == b"c09"

    def test_c10_of_a_directory_to_two_names_lose_nothing(self, watching: Pair, side: str) -> None:
        here, there = watching.sides(side)
        (here / "d/sub").mkdir(parents=True)
        for i in range(10):
            (here / f"d/sub/{i}").write_text(f"c10 {i}")
        watching.settle()
        with watching.unheard():
            (here / "d").rename(here / "e")
            (there / "d").rename(there / "f")

        assert {b"c10 %d" % i for i in range(10)} <= set(watching.texts())

    def test_c11_of_directories_into_each_other_lose_nothing(
        self, watching: Pair, side: str
    ) -> None:
        here, there = watching.sides(side)
        for name in "de":
            (here / name).mkdir()
            (here / name / "f").write_text(f"c11 {name}")
        watching.settle()
        with watching.unheard():
            (here / "d").rename(here / "e/d")
            (there / "e").rename(there / "d/e")

        assert {b"c11 d", b"c11 e"} <= set(watching.texts())

    def test_c12_of_two_files_by_way_of_a_third_name_swap_them(
        self, watching: Pair, side: str
    ) -> None:
        here = watching.root(side)
        for name in "ab":
            (here / name).write_text(f"c12 {name}")
        watching.settle()
        for old, new in ("at", "ba", "tb"):
            (here / old).rename(here / new)

        assert watching.contents() == {b"a": b"c12 b", b"b": b"c12 a"}

    def test_c13_of_a_file_again_and_again_are_one_move(self, watching: Pair, side: str) -> None:
        """If all are heard of at once."""
        here, there = watching.sides(side)
        (here / "a").write_text("c13")
        watching.settle()
        inode = (there / "a").stat().st_ino
        before = watching.status()[SIDES[side == "left"]]["applied"]
        with watching.deaf(side):
            for old, new in ("ab", "bc", "cd"):
                (here / old).rename(here / new)

        assert watching.contents() == {b"d": b"c13"}
        assert (there / "d").stat().st_ino == inode
        assert watching.status()[SIDES[side == "left"]]["applied"] - before == 1

    def test_c13_of_a_file_while_it_is_moved_arrive(self, watching: Pair, side: str) -> None:
        """Nobody waits for the next rename: step by step, or as a copy if one is heard of late."""
        here, _ = watching.sides(side)
        (here / "a").write_text("c13")
        watching.settle()
        for old, new in ("ab", "bc", "cd"):
            (here / old).rename(here / new)

        assert watching.contents() == {b"d": b"c13"}

    def test_c14_over_what_is_edited_over_there_keep_the_edit(
        self, watching: Pair, side: str
    ) -> None:
        here, there = watching.sides(side)
        for name in "fg":
            (here / name).write_text(f"c14 {name}")
        watching.settle()
        with watching.unheard():
            (here / "g").rename(here / "f")
            (there / "f").write_text("c14 edited")

        found = watching.contents()
        kept = watching.conflicts("left") + watching.conflicts("right")
        assert found.keys() == {b"f"}
        assert {b"c14 edited", b"c14 g"} <= {found[b"f"], *kept}


@pytest.mark.parametrize("side", SIDES)
class TestTypes:
    def test_c16_a_file_becomes_a_directory_while_it_is_edited_over_there(
        self, watching: Pair, side: str
    ) -> None:
        here, there = watching.sides(side)
        (here / "f").write_text("c16")
        watching.settle()
        with watching.unheard():
            (here / "f").unlink()
            (here / "f").mkdir()
            (here / "f/x").write_text("c16 inside")
            (there / "f").write_text("c16 edited")

        found = watching.contents()
        assert found[b"f/x"] == b"c16 inside"
        assert b"c16 edited" in watching.texts()

    def test_c17_a_directory_becomes_a_file_while_something_is_made_in_it_over_there(
        self, watching: Pair, side: str
    ) -> None:
        here, there = watching.sides(side)
        (here / "d").mkdir()
        (here / "d/f").write_text("c17")
        watching.settle()
        with watching.unheard():
            shutil.rmtree(here / "d")
            (here / "d").write_text("c17 a file")
            (there / "d/x").write_text("c17 new")

        assert set(watching.texts()) == {b"c17 a file", b"c17 new"}

    def test_c18_a_link_becomes_a_file_while_it_is_led_elsewhere_over_there(
        self, watching: Pair, side: str
    ) -> None:
        here, there = watching.sides(side)
        for name in "ab":
            (here / name).write_text(f"c18 {name}")
        (here / "s").symlink_to("a")
        watching.settle()
        with watching.unheard():
            (here / "s").unlink()
            (here / "s").write_text("c18 a file")
            (there / "s").unlink()
            (there / "s").symlink_to("b")

        after = watching.settle()
        assert [after[name][-1] for name in (b"a", b"b")] == [b"c18 a", b"c18 b"]
        links = [
            os.readlink(path)
            for root in (here, there)
            for path in [root / "s", *(root / ".psync/conflicts").iterdir()]
            if path.is_symlink()
        ]
        assert "b" in links
        assert b"c18 a file" in watching.texts()

    def test_c19_a_directory_becomes_a_link_to_another(self, watching: Pair, side: str) -> None:
        here = watching.root(side)
        for name in ("d", "behind"):
            (here / name).mkdir()
            (here / name / "f").write_text(f"c19 {name}")
        watching.settle()
        shutil.rmtree(here / "d")
        (here / "d").symlink_to("behind")

        after = watching.settle()
        assert after[b"d"][:2] == ("link", b"behind")
        assert after[b"behind/f"][-1] == b"c19 behind"
