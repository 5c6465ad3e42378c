"""Any name that the kernel takes, and paths that no system call takes whole (point 2)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.pair import Pair, tree, until

ODD_NAMES = [
    b"\xff\xfe not UTF-8 \x80",
    b"new\nline",
    b"carriage\rreturn",
    b"tab\tstop",
    b"co:lon",
    b"'single' \"double\" `back`",
    b"back\\slash",
    b"-rf",
    b"--delete",
    b" leading and trailing ",
    b"$(touch hurt)",
    b"*?[a-z]",
    b"\x1b[31mred",
    b"\x01\x7f",
    "n\u0303 and \u00f1".encode(),
    "\U0001f600".encode(),
    b"host:path",
    b"~",
    b"#",
    b"...",
    b"x" * 255,
    b"\xc3" * 255,
]


class TestNames:
    @pytest.mark.parametrize("side", ["left", "right"])
    def test_n08_n09_n10_n11_n12_n14_of_any_bytes_are_kept(self, watching: Pair, side: str) -> None:
        root = os.fsencode(watching.root(side))
        for name in ODD_NAMES:
            path = os.path.join(root, name)
            with open(path, "wb") as file:
                file.write(name)
            os.mkdir(os.path.join(root, b"d" + name[:254]))
            os.symlink(name, os.path.join(root, b"l" + name[:254]))
        with open(os.path.join(root, b"large " + b"\n" * 200), "wb") as file:
            file.write(os.urandom(400_000))
        first = watching.settle()
        assert len(first) == 3 * len(ODD_NAMES) + 1

        for name in ODD_NAMES:
            os.rename(os.path.join(root, name), os.path.join(root, b"d" + name[:254], name))
            os.unlink(os.path.join(root, b"l" + name[:254]))
        second = watching.settle()

        assert len(second) == 2 * len(ODD_NAMES) + 1

        for name in ODD_NAMES:
            with open(os.path.join(root, b"d" + name[:254], name), "ab") as file:
                file.write(b"more")
        watching.settle()

    @pytest.mark.parametrize("side", ["left", "right"])
    def test_n07_of_paths_beyond_4096_bytes(self, watching: Pair, side: str) -> None:
        here = os.open(watching.root(side), os.O_RDONLY | os.O_DIRECTORY)
        for i in range(30):
            name = b"%02d" % i + b"n" * 200
            os.mkdir(name, dir_fd=here)
            deeper = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
            os.close(here)
            here = deeper
        for name, size in ((b"small", 5), (b"large", 500_000)):
            fd = os.open(name, os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=here)
            os.write(fd, b"x" * size)
            os.close(fd)

        after = watching.settle()

        assert max(map(len, after)) > 6000
        os.rename("small", "renamed", src_dir_fd=here, dst_dir_fd=here)
        os.unlink("large", dir_fd=here)
        os.close(here)
        assert len(watching.settle()) == 31

    def test_n07_below_each_other_more_often_than_python_calls_itself(self, local: Pair) -> None:
        """At the start, while it watches, and when all of it is removed."""
        make = "import os\nfor _ in range(550): os.mkdir('d'), os.chdir('d'), open('f', 'w')"
        subprocess.run([sys.executable, "-c", make], cwd=local.left, check=True)
        (local.left / "d").rename(local.left / "first")
        local.start("--set", "max_delete=100%")

        subprocess.run([sys.executable, "-c", make], cwd=local.left, check=True)
        local.flush()
        for name in ("first", "d"):
            count = subprocess.run(
                ["find", name, "-type", "f"], cwd=local.right, capture_output=True, check=True
            )
            assert count.stdout.count(b"\n") == 550
        subprocess.run(["rm", "-r", "first", "d"], cwd=local.left, check=True)
        until(lambda: set(os.listdir(local.right)) == {".psync"}, "the end of both")

    def test_n15_of_our_own_stay_where_they_are_and_are_counted(self, watching: Pair) -> None:
        (watching.left / "mine.psync.ignore").write_text("local")
        (watching.left / "dir.psync.ignore").mkdir()
        (watching.left / "dir.psync.ignore/inside").write_text("local")
        (watching.left / "mine.psync.ignored").write_text("shared")

        watching.flush()

        assert set(tree(watching.right)) == {b"mine.psync.ignored"}
        names = {p.name for p in watching.right.iterdir()}
        assert names == {".psync", "mine.psync.ignored"}

        watching.restart()  # its scan counts them (N15)
        told = watching.status()
        assert (told["left"]["local"], told["right"]["local"]) == (2, 0)
        lines = watching.psync("status").stdout.splitlines()
        assert [line.endswith("; 2 *.psync.ignore stay here") for line in lines[1:3]] == [
            True, False,
        ]  # fmt: skip

    def test_s07_never_forge_a_line_in_log_or_status(self, watching: Pair) -> None:
        name = "evil\n[2026-01-01 00:00:00] [FAT:+4] forged\x1b[2J"
        (watching.left / name).write_text("x")
        watching.flush()

        log = next(Path(watching.state).glob("sessions/*/psync.log")).read_text()

        assert "\x1b" not in log
        assert not any(line.startswith("[2026-01-01 00:00:00] [FAT") for line in log.splitlines())
