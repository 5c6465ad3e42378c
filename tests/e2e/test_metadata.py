"""Metadata: what a file system cannot hold, what one may not set, what is kept as it is."""

from __future__ import annotations

import os
import shutil
import stat
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.pair import SIDES, Pair, until

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
    mount = ["mount", "-o", "loop", image, local.right]
    mounted = subprocess.run(mount, check=False, capture_output=True)
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
    def test_a08_a15_content_goes_and_one_problem_is_told(self, plain: Pair) -> None:
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
        assert (plain.left / "f1").stat().st_uid != (plain.right / "f1").stat().st_uid == 4321
        told = [plain.status()[side]["applied"] for side in SIDES]
        plain.flush()
        assert [plain.status()[side]["applied"] for side in SIDES] == told


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("flag", ["i", "a"])
class TestFlags:
    def test_a04_a_file_that_nobody_may_change_is_told_of_and_tried_again(
        self, watching: Pair, side: str, flag: str
    ) -> None:
        here, there = watching.sides(side)
        for name in ("f", "g"):
            (here / name).write_text("a04")
        watching.settle()
        flagged = subprocess.run(["chattr", f"+{flag}", there / "f"], check=False, timeout=10)
        if flagged.returncode:
            pytest.skip("there are no such flags here, or only for root")
        try:
            for name in ("f", "g"):
                (here / name).write_text("a04 edited")
            (told,) = until(lambda: watching.status()["problem_list"], "a problem")
            until(lambda: (there / "g").read_text() == "a04 edited", "the rest")

            assert told["path"] == "f"
            assert (there / "f").read_text() == "a04"
        finally:
            subprocess.run(["chattr", f"-{flag}", there / "f"], check=True)
        until(lambda: not watching.status()["problems"], "the end of the problem")
        assert watching.contents() == {b"f": b"a04 edited", b"g": b"a04 edited"}
        assert watching.status()["conflicts"] == 0


def attributes(root: Path, name: str) -> dict[str, bytes]:
    path = root / name
    return {
        n: os.getxattr(path, n) for n in os.listxattr(path) if n.startswith(("user.", "system."))
    }


class TestAttributes:
    @pytest.mark.parametrize("side", ["left", "right"])
    def test_go_to_the_other_side(self, watching: Pair, side: str) -> None:
        here, there = (
            (watching.left, watching.right) if side == "left" else (watching.right, watching.left)
        )
        names = ["small", "large", "d"]
        (here / "small").write_bytes(b"x")
        (here / "large").write_bytes(b"x" * 300_000)
        (here / "d").mkdir()
        for name in names:
            os.setxattr(here / name, "user.one", name.encode())
            os.setxattr(here / name, "user.two", b"\0\xff")

        def check() -> None:
            watching.settle()
            for name in names:
                assert attributes(there, name) == attributes(here, name)

        check()
        assert attributes(there, "d") == {"user.one": b"d", "user.two": b"\0\xff"}
        os.setxattr(here / "small", "user.one", b"changed")
        os.removexattr(here / "large", "user.two")
        os.removexattr(here / "d", "user.one")
        check()
        with (there / "large").open("ab") as stream:
            stream.write(b"edited over there")
        os.setxattr(there / "small", "user.three", b"3")
        check()
        assert attributes(here, "small")["user.three"] == b"3"

        watching.stop()
        os.setxattr(here / "small", "user.off", b"x")
        os.setxattr(there / "d", "user.off", b"y")
        watching.start()
        check()
        assert attributes(there, "small")["user.off"] == b"x"
        assert attributes(here, "d")["user.off"] == b"y"
        watching.stop()
        for name in attributes(here, "d"):
            os.removexattr(here / "d", name)
        watching.start()
        check()
        assert attributes(there, "d") == {}
        assert watching.conflicts("left") == watching.conflicts("right") == []

    def test_stay_where_they_are_if_told_so(self, local: Pair) -> None:
        local.options = ["--set", "xattrs=false"]
        local.start()
        for name in ("f", "d"):
            if name == "d":
                (local.left / name).mkdir()
            else:
                (local.left / name).write_bytes(b"x")
        local.settle()
        for root in (local.left, local.right):
            os.setxattr(root / "f", "user.mine", os.fsencode(root))
        (local.left / "f").write_bytes(b"edited")
        local.settle()

        assert (local.right / "f").read_bytes() == b"edited"
        for root in (local.left, local.right):
            assert attributes(root, "f") == {"user.mine": os.fsencode(root)}

    @pytest.mark.skipif(os.geteuid() != 0, reason="ACLs are replicated between agents of root")
    def test_acls_go_along_with_the_mode(self, watching: Pair) -> None:
        names = ("system.posix_acl_access", "system.posix_acl_default")
        entries = [(1, 7, -1), (2, 6, 1234), (4, 5, -1), (0x10, 7, -1), (0x20, 0, -1)]
        acl = struct.pack("<I", 2) + b"".join(
            struct.pack("<HHI", tag, bits, who & 0xFFFFFFFF) for tag, bits, who in entries
        )
        (watching.left / "d").mkdir()
        (watching.left / "d/f").write_bytes(b"x")
        os.setxattr(watching.left / "d", names[1], acl)
        os.setxattr(watching.left / "d/f", names[0], acl)
        (watching.left / "d/g").write_bytes(b"inherits")
        after = watching.settle()

        assert after[b"d/f"][1] == 0o770
        for name in ("d", "d/f", "d/g"):
            assert attributes(watching.right, name) == attributes(watching.left, name) != {}
        (watching.right / "d/f").chmod(0o600)
        os.removexattr(watching.left / "d", names[1])
        watching.settle()
        for name in ("d", "d/f", "d/g"):
            assert attributes(watching.right, name) == attributes(watching.left, name)
        assert attributes(watching.left, "d") == {}

    def test_a11_a_side_without_them_is_one_problem(self, local: Pair) -> None:
        if os.geteuid():
            pytest.skip("only root mounts")
        mount = ["mount", "-t", "ramfs", "ramfs", local.right]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            pytest.skip("there is no mounting here")
        try:
            for number in range(5):
                (local.left / f"f{number}").write_bytes(b"x")
                os.setxattr(local.left / f"f{number}", "user.one", b"1")
            local.start()
            local.settle()
            assert len(problems(local)) == 1
            assert "the attributes of f" in problems(local)[0]
            (local.right / "f0").write_bytes(b"edited")
            local.settle()
            assert (local.left / "f0").read_bytes() == b"edited"
            assert attributes(local.left, "f0") == {"user.one": b"1"}
            local.restart()
            local.settle()
            assert [local.status()[side]["applied"] for side in ("left", "right")] == [0, 0]
            local.close()
        finally:
            subprocess.run(["umount", local.right], check=True)


class TestMetaFrom:
    @pytest.mark.parametrize("side", ["left", "right"])
    def test_sets_back_what_the_other_side_sets(self, pair: Pair, side: str) -> None:
        here, there = (pair.left, pair.right) if side == "left" else (pair.right, pair.left)
        pair.options = ["--set", f"meta_from={side}"]
        pair.start()
        (here / "f").write_bytes(b"text")
        (here / "f").chmod(0o640)
        (here / "d").mkdir(mode=0o750)
        pair.settle()
        (there / "f").chmod(0o666)
        (there / "d").chmod(0o700)
        after = pair.settle()
        assert (after[b"f"][1], after[b"d"][1]) == (0o640, 0o750)

        (there / "new").write_bytes(b"saved by rename")
        (there / "new").chmod(0o600)
        (there / "new").rename(there / "f")
        (here / "d").chmod(0o755)
        after = pair.settle()

        assert after[b"f"][1] == 0o640
        assert after[b"f"][-1] == b"saved by rename"
        assert after[b"d"][1] == 0o755


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

    @pytest.mark.parametrize("side", SIDES)
    def test_a10_special_bits_that_are_not_wanted_go_nowhere(self, local: Pair, side: str) -> None:
        here, there = local.sides(side)
        (here / "new").write_bytes(b"before the start")
        (here / "new").chmod(0o6755)
        local.start("--set", "strip_special_bits=true")
        (here / "live").write_bytes(b"x" * 300_000)
        (here / "live").chmod(0o4711)
        local.flush()
        (there / "new").write_bytes(b"edited over there")
        local.flush()

        names = ("new", "live")
        assert [stat.S_IMODE((there / n).stat().st_mode) for n in names] == [0o755, 0o711]
        assert (here / "new").read_bytes() == b"edited over there"
        assert stat.S_IMODE((here / "live").stat().st_mode) == 0o4711
        told = [local.status()[each]["applied"] for each in SIDES]
        local.flush()
        assert [local.status()[each]["applied"] for each in SIDES] == told
