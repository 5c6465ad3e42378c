"""What psync hears of, and users who do much at once; ids as in docs/FAILURES.md."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.e2e.pair import SIDES, Pair, until
from tests.sshd import Sshd

HOUR_NS = 3600 * 10**9


@pytest.mark.parametrize("side", SIDES)
class TestEvents:
    def test_e01_e02_that_overflow_between_the_halves_of_a_rename_delete_nothing(
        self, watching: Pair, side: str
    ) -> None:
        here, there = watching.sides(side)
        queue = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
        if queue > 100_000:
            pytest.skip("the queue is too long for a quick test")
        fillers = [here / "filler", here / "filler2"]
        for path in [*fillers, here / "d/f"]:
            path.parent.mkdir(exist_ok=True)
            path.write_text(path.name)
        watching.settle()
        inode = (there / "d/f").stat().st_ino
        with watching.deaf(side):
            for number in range(queue - 1):  # only one more fits
                fillers[number % 2].chmod(0o600)
            (here / "d").rename(here / "e")

        assert set(watching.settle()) == {b"filler", b"filler2", b"e", b"e/f"}
        assert (there / "e/f").stat().st_ino == inode

    def test_e05_of_our_own_work_lead_to_nothing(self, watching: Pair, side: str) -> None:
        here = watching.root(side)

        def applied() -> list[int]:
            told = watching.status()
            return [told[each]["applied"] for each in (side, SIDES[side == "left"])]

        (here / "d").mkdir()
        (here / "d/f").write_text("e05")
        watching.settle()
        before = applied()
        (here / "d/f").write_text("e05 edited")
        watching.settle()
        assert applied() == [before[0], before[1] + 1]
        (here / "d/f").rename(here / "d/g")
        watching.settle()
        assert applied()[0] == before[0], "nothing but what users do there comes from there"

        then = applied()
        for _ in range(3):
            watching.flush()
        assert applied() == then

    def test_e06_of_a_user_right_after_our_own_are_heard(self, watching: Pair, side: str) -> None:
        here, there = watching.sides(side)
        (here / "f").touch()
        watching.settle()
        for turn in range(10):
            text = f"e06 sent {turn}"
            (here / "f").write_text(text)
            until(lambda text=text: (there / "f").read_text() == text, "the file")
            (there / "f").write_text(f"e06 user {turn}")

            assert watching.contents() == {b"f": b"e06 user %d" % turn}
        assert watching.status()["conflicts"] == 0

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
    def test_e08_of_writes_through_another_mount_are_heard(self, watching: Pair, side: str) -> None:
        here = watching.root(side)
        (here / "f").write_text("e08")
        (here / "d").mkdir()
        watching.settle()
        elsewhere = watching.base / "elsewhere"
        elsewhere.mkdir()
        script = f"""mount --bind {here} {elsewhere}; cd {elsewhere}
            echo edited >f; echo new >d/new; mkdir e; echo deep >e/deep"""
        command = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", script]
        subprocess.run(command, check=True)

        assert watching.contents() == {
            b"f": b"edited\n", b"d/new": b"new\n", b"e/deep": b"deep\n",
        }  # fmt: skip


def test_e03_too_few_watches_are_told_of_and_nothing_is_missed(breakable: Pair, sshd: Sshd) -> None:
    """The right side's user may watch ten directories, and has twenty."""
    pair = breakable
    limit = 'echo 10 >/proc/sys/user/max_inotify_watches; exec sh -c "$SSH_ORIGINAL_COMMAND"'
    sshd.through(f"exec unshare --user --map-root-user sh -c {shlex.quote(limit)}")
    for number in range(20):
        (pair.right / f"{number}").mkdir()
        (pair.right / f"{number}/f").write_text("e03")
    pair.start("--set", "poll_interval=0.2")
    pair.settle()

    (told,) = pair.status()["problem_list"]
    assert "more directories than inotify watches" in told["message"]
    assert "fs.inotify.max_user_watches" in told["message"]
    for number in range(20):
        (pair.right / f"{number}/f").write_text("e03 edited")
    files = [pair.left / f"{number}/f" for number in range(20)]
    until(lambda: {f.read_text() for f in files} == {"e03 edited"}, "all edits over here")
    assert pair.status()["conflicts"] == 0


@pytest.mark.parametrize("side", SIDES)
class TestTimes:
    def test_a14_of_any_year_are_kept_and_put_nothing_in_order(
        self, watching: Pair, side: str
    ) -> None:
        here = watching.root(side)
        year_ns = 31_556_952 * 10**9
        for turn, year in enumerate((2150, 1950, 2106, 1969, 2039, 1970)):
            (here / "f").write_text(f"a14 {turn}")
            moment = (year - 1970) * year_ns + 7
            os.utime(here / "f", ns=(moment, moment))

            found = watching.settle()[b"f"]
            assert (found[-1], found[4]) == (b"a14 %d" % turn, moment)
        assert watching.status()["conflicts"] == 0

    def test_x14_edits_in_turn_whatever_the_clocks_say(self, watching: Pair, side: str) -> None:
        lost = watching.status()["conflicts"]
        for turn, root in enumerate(watching.sides(side) * 3):
            (root / "f").write_text(f"x14 {turn}")
            moment = time.time_ns() + (-1) ** turn * turn * HOUR_NS
            os.utime(root / "f", ns=(moment, moment))
            assert watching.settle()[b"f"][-1] == b"x14 %d" % turn

        assert watching.status()["conflicts"] == lost


@pytest.mark.parametrize("side", SIDES)
class TestUsers:
    def test_r08_an_old_tree_is_restored_over_a_newer_one(self, watching: Pair, side: str) -> None:
        here, old = watching.root(side), watching.base / f"old-{side}"
        (here / "d").mkdir()
        old.mkdir()
        for i in range(10):
            (here / f"d/{i}").write_text(f"r08 {i} new")
            (old / f"{i}").write_text(f"r08 {i} old")
            os.utime(old / f"{i}", ns=(10**18, 10**18 + i))
        watching.settle()
        lost = watching.status()["conflicts"]
        watching.shell(f"cp -a {old}/. {here}/d/")

        after = watching.settle()
        assert [after[b"d/%d" % i][-1] for i in range(10)] == [b"r08 %d old" % i for i in range(10)]
        assert (here / "d/3").stat().st_mtime_ns == 10**18 + 3
        assert watching.status()["conflicts"] == lost

    def test_r09_copy_the_same_tree_to_both_sides(self, watching: Pair, side: str) -> None:
        """What is equal is not copied again; what is not is kept."""
        here, there = watching.sides(side)
        source = watching.base / "source"
        source.mkdir()
        for number in range(10):
            (source / f"{number}").write_text(f"r09 {number}")
        with watching.unheard():
            watching.shell(f"cp -r {source} {here}/d; rsync -a {source}/ {there}/d/")
            (here / "d/3").write_text("r09 edited before")
            os.utime(here / "d/3", ns=(10**18, 10**18))
            (there / "d/3").write_text("r09 edited after")
            before = {r: [(r / f"d/{n}").stat().st_ino for n in range(10)] for r in (here, there)}

        found = watching.contents()
        assert found == {
            b"d/%d" % n: b"r09 edited after" if n == 3 else b"r09 %d" % n for n in range(10)
        }
        assert watching.conflicts(side) == [b"r09 edited before"]
        for root, inodes in before.items():
            now = [(root / f"d/{n}").stat().st_ino for n in range(10)]
            assert [n for n in range(10) if now[n] != inodes[n]] == ([3] if root == here else [])

    def test_r10_who_only_read_are_in_nobodys_way(self, watching: Pair, side: str) -> None:
        here, there = watching.sides(side)
        (here / "f").write_text("r10")
        watching.settle()
        with (here / "f").open() as at_the_source, (there / "f").open() as at_the_target:
            (here / "f").write_text("r10 edited")
            assert watching.contents() == {b"f": b"r10 edited"}
            assert (at_the_source.read(), at_the_target.read()) == ("r10 edited", "r10")
        told = watching.status()
        assert (told["problems"], told["conflicts"]) == (0, 0)


@pytest.mark.skipif(shutil.which("git") is None, reason="there is no git")
def test_r07_git_checks_out_and_rebases_two_thousand_files(pair: Pair) -> None:
    here, there = pair.right / "repository", pair.left / "repository"
    git = "git -c user.name=u -c user.email=u@localhost -c init.defaultBranch=main -c gc.auto=0"

    def fill(numbers: range, text: str) -> None:
        for number in numbers:
            (here / f"d{number // 50}").mkdir(exist_ok=True)
            (here / f"d{number // 50}/{number}").write_text(f"{text} {number}\n")

    def commit(message: str) -> None:
        pair.shell(f"cd {here}; {git} add -A; {git} commit -qm '{message}'")

    pair.start()
    pair.shell(f"{git} init -q {here}")
    fill(range(2000), "first")
    commit("first")
    pair.shell(f"cd {here}; {git} checkout -qb topic; rm -r d20 d21 d22; {git} mv d23 moved")
    fill(range(1000), "topic")
    fill(range(2000, 2300), "topic")
    commit("topic")
    topic = pair.contents()
    pair.shell(f"cd {here}; {git} checkout -q main")
    fill(range(1500, 2000), "main")
    commit("main")
    for branch in ("topic", "main", "topic"):
        pair.shell(f"cd {here}; {git} checkout -q {branch}")
    work = {path: text for path, text in pair.contents().items() if b"/.git/" not in path}
    assert work.items() <= topic.items()
    pair.shell(f"cd {here}; {git} rebase -q main")

    pair.settle()
    told = pair.status()
    assert (told["conflicts"], told["problems"]) == (0, 0)
    script = f"cd {there}; {git} status --porcelain; {git} log --format=%s; {git} fsck --strict"
    said = subprocess.run(["sh", "-ec", script], capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["topic", "main", "first"]
