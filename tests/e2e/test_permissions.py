"""An ordinary user's session: directories whose mode keeps him out, as their own owner."""

from __future__ import annotations

import json

import pytest

from tests.e2e.pair import Pair, tree, until

SIDES = ("left", "right")


class TestReadOnlyDirectories:
    @pytest.mark.parametrize("side", SIDES)
    def test_a03_are_filled_changed_and_emptied(self, plain: Pair, side: str) -> None:
        root = plain.root(side)
        make = f"mkdir -p {side}/mod/a; echo 1 >{side}/mod/a/f; echo 2 >{side}/mod/g; "
        plain.shell(
            make + f"head -c 5000000 /dev/urandom >{side}/mod/a/large; chmod -R a-w {side}/mod"
        )
        plain.start()

        found = plain.settle()

        assert found.keys() == {b"mod", b"mod/a", b"mod/a/f", b"mod/a/large", b"mod/g"}
        assert found[b"mod"][1] == found[b"mod/a"][1] == 0o555

        plain.shell(
            f"cd {side}; chmod u+w mod mod/a; rm mod/g; echo 3 >mod/new; mv mod/a/f mod/f; "
            "mkdir b; mv mod/a b; chmod a-w b b/a mod"
        )
        found = plain.settle()

        assert found.keys() == {b"b", b"b/a", b"b/a/large", b"mod", b"mod/f", b"mod/new"}
        assert [found[path][1] for path in (b"b", b"b/a", b"mod")] == [0o555] * 3

        plain.shell(f"cd {side}; chmod -R u+w b mod; rm -r b mod")

        assert plain.settle() == tree(root) == {}


class TestUnreadableFiles:
    @pytest.mark.parametrize("side", SIDES)
    def test_a01_hold_up_nothing_else_and_come_when_they_can_be_read(
        self, plain: Pair, side: str
    ) -> None:
        there = plain.sides(side)[1]
        plain.shell(f"cd {side}; mkdir d; echo 1 >d/f; echo 1 >d/g; echo 1 >edited")
        plain.start()
        plain.settle()
        plain.shell(
            f"cd {side}; for name in g h; do echo 2 >aside.psync.ignore; "
            "chmod 0 aside.psync.ignore; mv aside.psync.ignore d/$name; done; echo 2 >d/f"
        )
        told = until(lambda: plain.status()["problem_list"], "a problem")
        until(lambda: (there / "d/f").read_bytes() == b"2\n", "the rest")

        assert {problem["path"] for problem in told} <= {"d/g", "d/h"}
        assert tree(there)[b"d/g"][-1] == b"1\n"
        assert not (there / "d/h").exists()
        plain.shell(f"chmod 0644 {side}/d/g {side}/d/h")
        until(lambda: not plain.status()["problems"], "the end of all problems")
        assert plain.contents() == {
            b"d/f": b"2\n", b"d/g": b"2\n", b"d/h": b"2\n", b"edited": b"1\n",
        }  # fmt: skip
        assert plain.status()["conflicts"] == 0

    @pytest.mark.parametrize(
        ("when", "size"), [("before", 3_000_000), ("live", 4), ("replaced", 4)]
    )
    def test_a01_keep_no_flush_and_come_by_themselves(
        self, plain: Pair, when: str, size: int
    ) -> None:
        new = "left/.psync.ignore"
        make = f"head -c {size} /dev/urandom >{new}; chmod 0 {new}; mv {new} left/f"
        plain.shell("echo 1 >left/g" + "; echo 1 >left/f" * (when == "replaced"))
        if when != "before":
            plain.start()
        plain.shell(make)
        if when == "before":
            told = plain.psync("sync", str(plain.left), str(plain.right))
            assert (told.returncode, told.stdout.count("watching: both")) == (2, 0)
            assert "1 path could not be replicated: f: it cannot be read" in told.stderr
            plain.launch()
            plain.wait_for("watching")

        with pytest.raises(AssertionError, match="f: it cannot be read; see psync status"):
            plain.flush()

        status = plain.status()
        assert status["lag_s"] == 0
        assert [each["message"] for each in status["problem_list"]] == ["it cannot be read"]
        told = plain.psync("check", "--json")
        (found,) = json.loads(told.stdout)["sessions"][0]["differences"]
        assert (found["path"], found["kind"]) == ("f", "unreadable")

        plain.shell("chmod 0644 left/f")

        until(lambda: not plain.status()["problems"], "the end of all problems")
        assert plain.settle().keys() == {b"f", b"g"}
        assert plain.status()["conflicts"] == 0


class TestUnreadableDirectories:
    @pytest.mark.parametrize("when", ["before", "live"])
    @pytest.mark.parametrize("mode", ["0000", "0311", "0444"])
    def test_a01_are_told_of_until_they_can_be_read(
        self, plain: Pair, mode: str, when: str
    ) -> None:
        new = "left/.psync.ignore"
        if when == "live":
            plain.start()
        plain.shell(f"mkdir {new}; echo 1 >{new}/f; chmod {mode} {new}; mv {new} left/d")
        if when == "before":
            plain.launch()
            plain.wait_for("watching")
        until((plain.right / "d").exists, "the directory over there")
        until(lambda: plain.status()["problems"], "a problem")
        with pytest.raises(AssertionError, match=r"1 path .* d: Permission denied"):
            plain.flush()

        plain.shell("chmod 0755 left/d")

        plain.flush()
        assert not plain.status()["problems"]
        assert plain.settle()[b"d/f"][-1] == b"1\n"
