"""What cinotify says about a tree that it finds: every directory, and the digest Python makes."""

from __future__ import annotations

import os
import random
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest

import native
from tests.cinotify.harness import DIRECTORY, Cinotify, digests_of, exchange, scanned_digests

CHECKED = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
AS_ROOT = os.geteuid() == 0
ODD_NAMES = [
    b"plain",
    b"with space",
    b"colon:s",
    b"new\nline",
    b"tab\tand\x7f",
    b"-rf",
    b"back\\slash",
    b"\xff\xfe not utf-8",
    "éé".encode(),
    b"*?[x]",
    b"...",
    b".hidden",
    b"..psync",
    b"psync.ignore",
    b".psync.ignored",
    b"n" * 255,
    b"\x01",
    b"Z",
    b"a",
    b"a.b",
    b"a-b",
]


def grow(path: bytes, choose: random.Random, depth: int) -> None:
    """Fill a directory with whatever the seed says."""
    names = choose.sample(ODD_NAMES, choose.randrange(len(ODD_NAMES)))
    for name in names:
        child = path + b"/" + name
        kind = choose.choice("ffffddls")
        if kind == "d" and depth > 0:
            os.mkdir(child)
            grow(child, choose, depth - 1)
        elif kind == "l":
            os.symlink(choose.choice([b"nowhere", b"..", b"/", b"a"]), child)
        elif kind == "s" and choose.random() < 0.3:
            os.mkfifo(child)
        else:
            with open(child, "wb") as f:
                f.truncate(choose.choice([0, 1, 4096, 1 << 33]))
            os.chmod(child, choose.choice([0o644, 0o4755, 0o2755, 0o1777, 0o000, 0o600]))
            if AS_ROOT:
                os.chown(child, choose.choice([0, 1, 4_294_967_294]), choose.choice([0, 65534]))
            moment = choose.choice([0, 1, -1, 1_700_000_000_123_456_789, 4_000_000_000_000_000_001])
            os.utime(child, ns=(moment, moment))
    if choose.random() < 0.3:
        os.mkdir(path + b"/local.psync.ignore")
        os.mkdir(path + b"/local.psync.ignore/inside")
    if choose.random() < 0.3:
        os.close(os.open(path + b"/.psync.ignore", os.O_CREAT | os.O_WRONLY))
    if choose.random() < 0.5:
        os.chmod(path, choose.choice([0o755, 0o1777, 0o2750, 0o700]))
    if choose.random() < 0.5:
        os.utime(path, ns=(5, 1_600_000_000_000_000_007))


def count_local(root: Path) -> int:
    """How many names stay where they are because of their suffix."""
    count = 0
    for _, directories, files in os.walk(os.fsencode(root)):
        count += sum(name.endswith(b".psync.ignore") for name in directories + files)
        directories[:] = [n for n in directories if not n.endswith(b".psync.ignore")]
    return count


class TestDigests:
    @pytest.mark.parametrize("seed", range(12))
    def test_equal_python_digests_of_random_trees(self, start, root, seed):
        grow(os.fsencode(root), random.Random(seed), depth=4)

        frames = start(scanned=False).scanned()

        assert scanned_digests(frames) == digests_of(root)
        assert frames[-1].fields[3] == count_local(root)

    @pytest.mark.parametrize("owners", [True, False])
    @pytest.mark.parametrize("special", [True, False])
    def test_leave_out_what_is_not_replicated(self, start, root, owners, special):
        grow(os.fsencode(root), random.Random(99), depth=3)
        options = [] if owners else ["--no-owner"]
        options += [] if special else ["--strip-special"]

        frames = start(*options, scanned=False).scanned()

        assert scanned_digests(frames) == digests_of(root, owners, special)

    @pytest.mark.parametrize("option", [[], ["--xattrs"]])
    def test_of_a_directory_with_attributes_are_nobodys_if_asked(self, start, root, option):
        names = {"user": "user.one", "trusted": "trusted.one"}
        for directory in ("plain", *names):
            (root / directory).mkdir()
        (root / "plain/file").touch()
        try:
            os.setxattr(root / "plain/file", "user.one", b"1")  # shows in its ctime
            for directory, name in names.items():
                if AS_ROOT or name.startswith("user."):
                    os.setxattr(root / directory, name, b"1")
        except OSError:
            pytest.skip("this file system has none")

        found = scanned_digests(start(*option, scanned=False).scanned())

        pairs = zip(found, digests_of(root), strict=True)
        different = {one[0] for one, two in pairs if one != two}
        assert different == ({b"user"} if option else set())

    def test_cover_names_of_every_length(self, start, root):
        for n in range(1, 256):  # every position of a record against the hash's block
            (root / f"d{n}").mkdir()
            (root / f"d{n}" / ("x" * n)).touch()

        frames = start(scanned=False).scanned()

        assert scanned_digests(frames) == digests_of(root)

    def test_cover_a_directory_larger_than_any_buffer(self, start, root):
        for n in range(6000):
            (root / f"{'long name ' * 12}{n}").symlink_to("x")

        frames = start(scanned=False).scanned()

        assert scanned_digests(frames) == digests_of(root)

    def test_n19_skip_sockets_and_fifos(self, start, root, monkeypatch):
        monkeypatch.chdir(root)
        with socket.socket(socket.AF_UNIX) as s:
            s.bind("socket")
        os.mkfifo(root / "fifo")

        frames = start(scanned=False).scanned()

        assert [f.fields[2] for f in frames if f.type == "D"] == [0]
        assert scanned_digests(frames) == digests_of(root)

    def test_change_with_everything_that_matters(self, start, root):
        file = root / "f"
        file.write_bytes(b"x")
        watcher = start()
        seen = {watcher.rescan()[0].fields}

        file.chmod(0o600)
        seen.add(watcher.rescan()[-2].fields)
        os.utime(file, ns=(1, 1))
        seen.add(watcher.rescan()[-2].fields)
        file.write_bytes(b"y")
        seen.add(watcher.rescan()[-2].fields)
        file.rename(root / "g")
        seen.add(watcher.rescan()[-2].fields)
        (root / "g").unlink()
        seen.add(watcher.rescan()[-2].fields)
        root.chmod(0o700)
        seen.add(watcher.rescan()[-2].fields)

        assert len(seen) == 7


class TestFullScan:
    def test_names_parents_first_and_siblings_in_byte_order(self, start, root):
        for path in ["b/c", "b/a/x", "a", "a-", "a.b/y", "B", "\udcff"]:
            (root / path).mkdir(parents=True)

        paths = [f.path for f in start(scanned=False).scanned() if f.type == "D"]

        assert paths == [
            *(b"", b"B", b"a", b"a-", b"a.b", b"a.b/y"),
            *(b"b", b"b/a", b"b/a/x", b"b/c", b"\xff"),
        ]

    def test_counts_and_numbers_itself(self, start, root):
        (root / "d").mkdir()
        (root / "d" / "f").touch()
        (root / "g").touch()

        watcher = start(scanned=False)

        assert watcher.scanned()[-1].fields == (1, 2, 3, 0)
        assert watcher.rescan()[-1].fields == (2, 2, 3, 0)

    def test_reaches_paths_longer_than_the_kernel_takes(self, start, root):
        name = b"d" * 100
        fd = os.open(root, os.O_RDONLY)
        for _ in range(60):
            os.mkdir(name, dir_fd=fd)
            below = os.open(name, os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd = below
        digests = digests_of(root)
        watcher = start(scanned=False)
        frames = watcher.scanned()

        os.close(os.open(b"f", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
        events = watcher.told()

        path = b"/".join([name] * 60) + b"/f"
        assert len(path) > 4096
        assert scanned_digests(frames) == digests
        assert {f.path for f in events if f.type == "E"} == {path}
        os.close(fd)
        shutil.rmtree(root / name.decode())

    def test_climbs_back_from_the_deep(self, start, root):
        fd = os.open(root, os.O_RDONLY)
        for _ in range(150):  # far more levels than are held open, a branch on each
            os.mkdir(b"z", dir_fd=fd)
            os.makedirs(f"/proc/self/fd/{fd}/zz/deep")
            below = os.open(b"z", os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd = below
        os.close(fd)

        frames = start(scanned=False, preexec_fn=few_descriptors).scanned()

        assert scanned_digests(frames) == digests_of(root)

    def test_forgets_what_vanished_unseen(self, start, root):
        (root / "a" / "b").mkdir(parents=True)
        watcher = start()
        watcher.pause()
        shutil.rmtree(root / "a")
        (root / "c").mkdir()
        watcher.resume()

        watcher.told()
        frames = watcher.rescan()

        assert [f.path for f in frames if f.type == "D"] == [b"", b"c"]

    def test_reports_unreadable_directory_without_digest(self, start, root):
        hide = root / "a" / "hidden"
        (hide / "inside").mkdir(parents=True)
        hide.chmod(0)
        watcher = start(scanned=False, **unprivileged(root))
        frames = watcher.scanned()

        hide.chmod(0o755)
        events = watcher.told()

        assert [(f.path, f.fields[0]) for f in frames if f.type == "X"] == [(b"a/hidden", 13)]
        assert [f.path for f in frames if f.type == "D"] == [b"", b"a"]
        assert [(f.type, f.path) for f in events] == [
            ("E", b"a/hidden"),
            ("D", b"a/hidden"),
            ("D", b"a/hidden/inside"),
        ]

    def test_lists_again_what_was_unreadable_for_a_while(self, start, root):
        hide = root / "hidden"
        (hide / "inside").mkdir(parents=True)
        watcher = start(**unprivileged(root))
        hide.chmod(0)
        unreadable = watcher.rescan()
        hide.chmod(0o755)
        watcher.told()

        (hide / "inside" / "f").touch()
        events = watcher.told()

        assert [f.path for f in unreadable if f.type == "X"] == [b"hidden"]
        assert b"hidden/inside/f" in [f.path for f in events]

    def test_n20_does_not_cross_mount_points(self, start, root):
        (root / "m").mkdir()
        (root / "bind").mkdir()
        (root / "d" / "e").mkdir(parents=True)
        script = 'mount -t tmpfs none "$3/m" && mount --bind "$3/d" "$3/bind" && exec "$@"'
        script = script.replace("$3", str(root))

        frames = start(scanned=False, wrapper=(*private_mounts(), "-c", script, "sh")).scanned()

        assert sorted(f.path for f in frames if f.type == "N") == [b"bind", b"m"]
        assert [f.path for f in frames if f.type == "D"] == [b"", b"d", b"d/e"]
        assert frames[-1].fields == (1, 3, 2, 0)

    def test_n21_survives_bind_mounts_that_the_kernel_does_not_mark(self, root, old_kernel):
        for name in ["d/e", "loop/inner", "twin"]:
            (root / name).mkdir(parents=True)
        script = f'''mount --bind "{root}/d" "{root}/twin" &&
            mount --bind "{root}/loop" "{root}/loop/inner" && exec "$@"'''
        command = [*private_mounts(), "-c", script, "sh", old_kernel, str(root)]

        watcher = Cinotify(command, root)
        frames = watcher.scanned()
        assert watcher.told() == []
        assert watcher.end() == 0

        assert [f.type for f in frames].count("N") == 2
        assert {f.path for f in frames if f.type == "N"} <= {b"d", b"twin", b"loop/inner"}

    def test_takes_no_swap_for_one_that_the_kernel_does_not_mark(self, root, old_kernel):
        (root / "a").mkdir()
        (root / "b").mkdir()
        watcher = Cinotify([old_kernel, str(root)], root)
        watcher.scanned()
        told = []
        for _ in range(20):
            exchange(root / "a", root / "b")
            told += watcher.told()
        assert watcher.end() == 0

        assert "N" not in [f.type for f in told]


class TestWatchLimit:
    def test_e03_is_reported_once_a_scan_and_the_scan_is_whole(self, start, root):
        for n in range(20):
            (root / f"d{n:02}").mkdir()
        script = 'echo 10 > /proc/sys/user/max_inotify_watches && exec "$@"'
        wrapper = ("unshare", "--user", "--map-root-user", "sh", "-c", script, "sh")

        watcher = start(scanned=False, wrapper=wrapper)
        frames = watcher.scanned()
        again = watcher.rescan()

        assert [f.type for f in frames].count("L") == 1
        assert [f.type for f in again].count("L") == 1
        assert scanned_digests(again) == digests_of(root)

    def test_leaves_what_could_be_watched_at_work(self, start, root):
        for n in range(20):
            (root / f"d{n:02}").mkdir()
        script = 'echo 10 > /proc/sys/user/max_inotify_watches && exec "$@"'
        wrapper = ("unshare", "--user", "--map-root-user", "sh", "-c", script, "sh")
        watcher = start(wrapper=wrapper)

        for n in range(20):
            (root / f"d{n:02}").chmod(0o700)  # seen by the root's watch
        told = watcher.rescan()

        attributes = [f.path for f in told if f.type == "E"]
        assert attributes == [b"d%02d" % n for n in range(20)]
        assert all(f.fields[0] & DIRECTORY for f in told if f.type == "E")


def few_descriptors() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))


def unprivileged(root: Path) -> dict[str, Any]:
    """Run as somebody who may not read everything."""
    if not AS_ROOT:
        return {}
    for path, _, _ in os.walk(root):
        os.chown(path, 65534, 65534)
    return {"user": 65534, "group": 65534, "extra_groups": []}


@pytest.fixture(scope="module")
def old_kernel(checked_dir) -> str:
    """The program as it is on a kernel that does not mark the roots of mounts."""
    program = checked_dir / "cinotify-old-kernel"
    sources = sorted((native.HERE / "cinotify").glob("*.c"))
    native.compile_program(sources, program, "gcc", [*CHECKED, "-DKERNEL_ATTR_MOUNT_ROOT=0"])
    return str(program)


def private_mounts() -> tuple[str, ...]:
    """A command prefix for a mount namespace of one's own."""
    if AS_ROOT:
        return ("unshare", "--mount", "sh")
    return ("unshare", "--user", "--map-root-user", "--mount", "sh")
