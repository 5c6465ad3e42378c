"""A full sync, at hours and on demand, while the session goes on."""

from __future__ import annotations

import mmap
import os
import time

import pytest

from tests.e2e.pair import Pair, configured, tree, until
from tests.sshd import Sshd


class TestOnDemand:
    def test_is_done_by_the_session_that_runs(self, pair: Pair) -> None:
        name = configured(pair)
        pair.run(*name)
        (pair.left / "d").mkdir()
        (pair.left / "d/f").write_text("one")
        (pair.right / "gone").write_text("gone")
        pair.settle()
        (pair.right / "gone").unlink()
        (pair.left / "d/f").write_text("two")

        done = pair.psync("sync", *name)

        assert (done.returncode, done.stderr) == (0, "")
        assert "changes were made" in done.stdout
        assert set(tree(pair.left)) == {b"d", b"d/f"}
        assert tree(pair.left) == tree(pair.right)
        assert "full sync: somebody asks for it" in pair.log()
        assert pair.status()["full_sync"] is False

    def test_refuses_options_that_the_session_does_not_run_with(self, local: Pair) -> None:
        name = configured(local, conflict='"left"')
        local.run(*name)

        def asked(*more: str) -> tuple[int, str]:
            done = local.psync("sync", *name, *more)
            return done.returncode, done.stderr

        refused = "runs, by its own options: {} would not count"
        for more, said in (
            (("--set", "conflict=right"), refused.format("conflict")),
            (("-e", "foo", "-r", "elsewhere"), refused.format("excludes, host")),
            (("-e", "("), "is no regular expression"),
            (("--set", "bogus=1"), "unknown key bogus"),
        ):
            status, text = asked(*more)
            assert status == 2
            assert said in text
            assert text.count("\n") == 1
        assert asked("--set", "conflict=left") == (0, "")

    def test_finds_what_the_kernel_tells_nobody(self, pair: Pair) -> None:
        """What is written through a mapping makes no event before the mapping is given up."""
        name = configured(pair, max_delay="0.2")
        (pair.left / "d").mkdir()
        (pair.left / "d/mapped").write_bytes(b"a" * 8192)
        pair.run(*name)
        pair.settle()
        with (pair.left / "d/mapped").open("r+b") as file:
            mapped = mmap.mmap(file.fileno(), 0)
        pair.settle()
        mapped[:1] = b"b"
        mapped.flush()
        pair.flush()
        assert (pair.right / "d/mapped").read_bytes()[:1] == b"a"

        done = pair.psync("sync", *name)

        assert (done.returncode, done.stderr) == (0, "")
        assert (pair.right / "d/mapped").read_bytes()[:1] == b"b"
        mapped.close()
        pair.settle()

    def test_finds_what_nobody_told_of_wherever_it_is_in_a_large_tree(self, local: Pair) -> None:
        """Written through names outside of the root, of which no watch tells."""
        name = configured(local)
        files = [local.left / f"d{i:04}/f" for i in range(2500)]
        for file in files:
            file.parent.mkdir()
            file.write_text("one")
        local.run(*name)
        local.settle()
        outside = [local.base / f"outside{n}" for n in range(10)]
        for file, other in zip(files[::250], outside, strict=True):
            os.link(file, other)
        local.settle()
        for other in outside:
            other.write_text("another")
        local.flush()
        there = [local.right / file.relative_to(local.left) for file in files[::250]]
        assert {file.read_text() for file in there} == {"one"}

        done = local.psync("sync", *name)

        assert (done.returncode, done.stdout) == (0, "10 changes were made\n")
        assert {file.read_text() for file in there} == {"another"}
        local.settle()

    def test_names_a_session_by_its_roots_too(self, watching: Pair) -> None:
        (watching.left / "f").write_text("one")

        assert watching.host
        done = watching.psync(
            "sync", "-r", watching.host, str(watching.left), str(watching.right)
        )

        assert (done.returncode, done.stderr) == (0, "")
        assert (watching.right / "f").read_text() == "one"

    def test_skips_nothing_that_happens_meanwhile(self, pair: Pair) -> None:
        name = configured(pair)
        for i in range(1000):
            directory = pair.left / f"d{i % 20}"
            directory.mkdir(exist_ok=True)
            (directory / f"f{i}").write_text("one")
        pair.run(*name)
        pair.settle()

        for i in range(0, 300, 3):
            if i % 60 == 0:
                assert pair.psync("sync", *name).returncode == 0
            (pair.left / f"d{i % 20}/f{i}").unlink()
            (pair.right / f"d{(i + 1) % 20}/f{i + 1}").write_text("two")
            os.rename(pair.left / f"d{(i + 2) % 20}/f{i + 2}", pair.left / f"moved{i}")

        after = pair.settle()
        assert len([path for path in after if b"/f" in path]) == 800
        assert len([path for path in after if path.startswith(b"moved")]) == 100
        assert pair.status()["conflicts"] == 0

    def test_says_what_cannot_be_made_the_same(self, local: Pair) -> None:
        name = configured(local, excludes='["build/"]')
        (local.right / "build/precious").mkdir(parents=True)
        local.run(*name)
        (local.left / "build").write_text("in the way")

        done = local.psync("sync", *name)

        assert done.returncode == 2
        assert "build: what is there is not replicated, and stands in the way" in done.stderr
        assert done.stderr.count("\n") == 1

    @pytest.mark.parametrize("verb", ["sync", "flush"])
    def test_ends_when_the_session_halts(self, local: Pair, verb: str) -> None:
        name = configured(local)
        for number in range(120):
            (local.left / f"{number}").write_text("f")
        local.run(*name)
        for number in range(110):
            (local.left / f"{number}").unlink()

        done = local.psync(verb, *(name if verb == "sync" else name[-1:]))

        assert done.returncode == (2 if verb == "sync" else 1)
        assert "the session has halted: left has lost" in done.stderr
        assert local.status()["state"] == "halted"

    def test_says_what_it_would_do_and_does_nothing(self, pair: Pair) -> None:
        name = configured(pair, excludes='["*.o"]')
        for i in range(30):
            (pair.left / f"d{i}").mkdir()
            (pair.left / f"d{i}/f").write_text(f"{i}")
        (pair.left / "old").write_text("old")
        pair.run(*name)
        pair.settle()
        assert pair.psync("sync", "-n", *name).stdout == "0 changes would be made\n"
        assert pair.psync("pause").returncode == 0
        (pair.left / "d1/f").write_text("other")
        (pair.right / "d2/f").unlink()
        (pair.right / "d3/f").chmod(0o600)
        (pair.left / "d4/x.o").write_text("hidden")
        (pair.left / "d4/new").symlink_to("x")
        (pair.left / "d5/f").write_text("this")
        (pair.right / "d5/f").write_text("that one")
        (pair.right / "old").rename(pair.right / "new")
        (pair.right / "d6").rename(pair.right / "d7/d6")
        before = tree(pair.left), tree(pair.right)

        done = pair.psync("sync", "-n", *name)

        assert (done.returncode, done.stderr) == (0, "")
        lines = [line for line in done.stdout.splitlines() if " of d" not in line]
        assert [line for line in lines if "d5/f" not in line] == [
            "would replace file d1/f on the right",
            "would remove d2/f on the left",
            "would create symlink d4/new on the right",
            "would rename d6 to d7/d6 on the left",
            "would rename old to new on the left",
            lines[-1],
        ]
        assert [line.split()[2] for line in lines if "keep it as a conflict" in line] == ["d5/f"]
        assert "would compare the contents of d3/f" in done.stdout
        assert "would set mode, owner and time of d2\n" in done.stdout
        assert (tree(pair.left), tree(pair.right)) == before
        assert pair.psync("resume").returncode == 0
        pair.flush()
        assert pair.psync("sync", "-n", *name).stdout == "0 changes would be made\n"

    def test_of_a_side_that_is_away_is_refused(self, breakable: Pair, sshd: Sshd) -> None:
        name = configured(breakable)
        breakable.run(*name)
        sshd.stop()
        breakable.wait_for("disconnected")

        done = breakable.psync("sync", "-n", *name)

        assert done.returncode == 2
        assert done.stderr.count("\n") == 1

    def test_of_a_session_that_is_paused_is_refused(self, watching: Pair) -> None:
        assert watching.psync("pause").returncode == 0
        assert watching.host
        roots = [str(watching.left), str(watching.right)]
        done = watching.psync("sync", "-r", watching.host, *roots)
        watching.psync("resume")

        assert done.returncode == 2
        assert "the session is paused: psync resume" in done.stderr

    def test_without_a_session_runs_one_and_ends(self, pair: Pair) -> None:
        name = configured(pair)
        (pair.left / "f").write_text("one")

        done = pair.psync("sync", *name)

        assert done.returncode == 0, done.stderr
        assert (pair.right / "f").read_text() == "one"
        assert pair.agents() == []


def just_before_the_hour(seconds: int) -> str:
    """A time zone in which it is so many seconds to three."""
    ahead = 3 * 3600 - seconds - int(time.time()) % 86400
    hours, rest = divmod(abs((ahead + 43200) % 86400 - 43200), 3600)
    sign = "-" if (ahead + 43200) % 86400 >= 43200 else "+"
    return f"XXX{sign}{hours}:{rest // 60:02}:{rest % 60:02}"


class TestAtHours:
    def test_is_done_when_the_hour_has_come(self, local: Pair) -> None:
        name = configured(local, fullsync="[3]")
        local.env["TZ"] = just_before_the_hour(8)
        local.run(*name)
        assert "full sync" not in local.log()

        until(lambda: "full sync: done" in local.log(), "the full sync of three", 60)

        assert "full sync: it is past 03:00" in local.log()
        (local.left / "f").write_text("one")
        assert b"f" in local.settle()
        assert local.log().count("full sync: it is past") == 1
