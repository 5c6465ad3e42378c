"""Metadata: what a file system cannot hold, what one may not set, what is kept as it is."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.pair import Pair

SECOND_NS = 10**9


@pytest.fixture
def coarse(local: Pair) -> Iterator[Pair]:
    """The right root is on a file system with times to the second."""
    if os.geteuid() or not shutil.which("mkfs.ext4"):
        pytest.skip("only root mounts, and there has to be mkfs.ext4")
    image = local.base / "image"
    with image.open("wb") as stream:
        stream.truncate(32 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-I", "128", image], check=True, capture_output=True)
    mounted = subprocess.run(["mount", "-o", "loop", image, local.right], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"there is no mounting here: {mounted.stderr.decode()}")
    try:
        shutil.rmtree(local.right / "lost+found")
        yield local
        local.close()
    finally:
        subprocess.run(["umount", local.right], check=True)


def problems(pair: Pair) -> list[str]:
    return [problem["message"] for problem in pair.status()["problem_list"]]


class TestCoarseTimes:
    def test_a13_do_not_bounce(self, coarse: Pair) -> None:
        (coarse.left / "d").mkdir()
        times = {}
        for name, size in (("small", 10), ("large", 300_000), ("d/f", 5)):
            (coarse.left / name).write_bytes(b"x" * size)
        (coarse.left / "link").symlink_to("small")
        for number, name in enumerate(("small", "large", "d/f", "link", "d"), 1):
            times[name] = number * SECOND_NS + 123_456_789
            os.utime(coarse.left / name, ns=(0, times[name]), follow_symlinks=False)

        def check() -> None:
            coarse.flush()
            for name, time in times.items():
                assert (coarse.left / name).lstat().st_mtime_ns == time
                assert (coarse.right / name).lstat().st_mtime_ns == time - time % SECOND_NS

        coarse.start()
        check()
        assert len(problems(coarse)) == 1
        assert "not all metadata can be set here, such as the time of" in problems(coarse)[0]
        (coarse.left / "small").chmod(0o600)
        times["large"] = 77 * SECOND_NS + 1
        os.utime(coarse.left / "large", ns=(0, times["large"]))
        check()
        coarse.restart()
        check()
        assert [coarse.status()[side]["applied"] for side in ("left", "right")] == [0, 0]

        (coarse.right / "small").write_bytes(b"edited over there")
        del times["small"]
        check()
        assert (coarse.left / "small").read_bytes() == b"edited over there"
        assert coarse.conflicts("left") == coarse.conflicts("right") == []


class TestFilesOfOthers:
    def test_a15_content_goes_and_one_problem_is_told(self, plain: Pair) -> None:
        if os.geteuid():
            pytest.skip("only root makes files of others")
        names = [f"f{i}" for i in range(5)]
        plain.shell("for i in 0 1 2 3 4; do echo text > left/f$i; done")
        plain.start()
        for name in names:
            os.chown(plain.right / name, 4321, 4321)
        plain.flush()
        plain.shell("chmod 600 left/*; touch -d @5 left/*")
        plain.flush()

        assert len(problems(plain)) == 1
        assert "not all metadata can be set here" in problems(plain)[0]
        assert stat.S_IMODE((plain.right / "f0").stat().st_mode) != 0o600
        plain.shell("echo more >> left/f0; chmod 640 left/f0")
        plain.flush()
        assert (plain.right / "f0").read_text() == "text\nmore\n"
        assert stat.S_IMODE((plain.right / "f0").stat().st_mode) == 0o640
        plain.restart()
        plain.flush()
        assert stat.S_IMODE((plain.left / "f1").stat().st_mode) == 0o600


class TestModes:
    @pytest.mark.parametrize("side", ["left", "right"])
    @pytest.mark.parametrize("umask", [0o022, 0o077])
    def test_a09_are_not_cut_by_a_umask(self, local: Pair, side: str, umask: int) -> None:
        root: Path = local.root(side)
        before = os.umask(umask)
        try:
            local.start()
        finally:
            os.umask(before)
        modes = {"a": 0o666, "b": 0o777, "c": 0o000, "d": 0o600, "large": 0o666}
        for name, mode in modes.items():
            (root / name).write_bytes(b"x" * (300_000 if name == "large" else 3))
            (root / name).chmod(mode)
        (root / "directory").mkdir()
        (root / "directory").chmod(0o777)
        after = local.settle()

        assert {k.decode(): v[1] for k, v in after.items()} == {**modes, "directory": 0o777}

    @pytest.mark.parametrize("side", ["left", "right"])
    def test_a10_special_bits_are_kept_with_their_owner(self, local: Pair, side: str) -> None:
        if os.geteuid():
            pytest.skip("special bits are replicated where both agents are root")
        root: Path = local.root(side)
        local.start()
        for name, size in (("new", 3), ("large", 300_000)):
            (root / name).write_bytes(b"x" * size)
            os.chown(root / name, 1234, 2345)
            (root / name).chmod(0o6755)
        (root / "tmp").mkdir()
        (root / "tmp").chmod(0o1777)
        local.settle()
        os.chown(root / "new", 4321, 5432)
        (root / "new").chmod(0o4711)
        with (root / "large").open("ab") as stream:
            stream.write(b"more")
        (root / "large").chmod(0o2755)
        after = local.settle()

        assert after[b"new"][1:4] == (0o4711, 4321, 5432)
        assert after[b"large"][1:4] == (0o2755, 1234, 2345)
        assert after[b"tmp"][1] == 0o1777
