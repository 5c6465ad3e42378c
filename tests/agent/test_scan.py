"""What a look shows, also while somebody changes what is looked at."""

from __future__ import annotations

import errno
import os
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from psync import scan, syscalls
from psync.core.entry import TICK_NS, Entry, Kind, content_digest
from psync.scan import (
    ABSENT,
    Looker,
    entry_at,
    entry_from_stat,
    hash_file,
    list_names,
    look_whole,
    open_directory,
    read_settled,
)
from psync.syscalls import read_lease
from psync.watch import walk
from psync.wire import BUSY, Item, Observed, encode


@pytest.fixture
def root_fd(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


@pytest.fixture
def looker(root_fd: int) -> Iterator[Looker]:
    made = Looker(root_fd, owners=True, strip=False)
    yield made
    made.forget()


def read(root_fd: int, name: str, **options: bool | int) -> scan.Seen | None:
    before = os.stat(name, dir_fd=root_fd, follow_symlinks=False)
    values: dict[str, bool | int] = {"content_max": 1000, "trust_ns": 0, **options}
    return read_settled(root_fd, os.fsencode(name), before, owners=True, strip=False, **values)  # type: ignore[arg-type]


class TestEntryFromStat:
    def test_shows_a_file(self, tmp_path: Path) -> None:
        path = tmp_path / "f"
        path.write_bytes(b"abc")
        path.chmod(0o4751)
        st = path.stat()

        entry = entry_from_stat(st, True, False, digest=b"d")

        assert entry == Entry(
            Kind.FILE,
            0o4751,
            st.st_uid,
            st.st_gid,
            3,
            st.st_mtime_ns,
            b"",
            b"d",
            st.st_ino,
            st.st_ctime_ns,
        )

    def test_leaves_out_special_bits_and_owners_where_asked(self, tmp_path: Path) -> None:
        path = tmp_path / "f"
        path.touch()
        path.chmod(0o4751)

        entry = entry_from_stat(path.stat(), False, True)

        assert entry is not None
        assert (entry.mode, entry.uid, entry.gid) == (0o751, 0, 0)

    def test_shows_a_directory_without_size_and_ctime(self, tmp_path: Path) -> None:
        entry = entry_from_stat(tmp_path.stat(), True, False)

        assert entry is not None
        assert (entry.kind, entry.size, entry.ctime_ns) == (Kind.DIRECTORY, 0, 0)
        assert entry.mtime_ns == tmp_path.stat().st_mtime_ns

    def test_shows_a_symlink_without_mode(self, tmp_path: Path) -> None:
        (tmp_path / "l").symlink_to("there")

        entry = entry_from_stat((tmp_path / "l").lstat(), True, False, b"there")

        assert entry is not None
        assert (entry.kind, entry.mode, entry.size, entry.target) == (Kind.SYMLINK, 0, 0, b"there")

    def test_shows_nothing_else(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "fifo")
        with socket.socket(socket.AF_UNIX) as s:
            here = os.open(tmp_path, os.O_RDONLY)
            s.bind(f"/proc/self/fd/{here}/socket")
            os.close(here)

        assert entry_from_stat((tmp_path / "fifo").lstat(), True, False) is None
        assert entry_from_stat((tmp_path / "socket").lstat(), True, False) is None
        assert entry_from_stat(Path("/dev/null").lstat(), True, False) is None


class TestEntryAt:
    @pytest.mark.parametrize("year", [-1, 1600, 2560, 9999])
    @pytest.mark.parametrize("kind", [stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK])
    def test_a_time_that_the_wire_does_not_hold_is_one_that_no_replica_holds(
        self, year: int, kind: int
    ) -> None:
        fields = dict.fromkeys(("st_uid", "st_gid", "st_size", "st_ino", "st_ctime_ns"), 0)
        st: Any = SimpleNamespace(
            **fields, st_mode=kind, st_mtime_ns=(year - 1970) * 365 * 86400 * 10**9
        )

        entry = entry_from_stat(st, True, False)

        assert entry is not None
        assert entry.mtime_ns >= 1 << 63
        encode(Observed([Item(b"f", entry)]))

    def test_shows_what_is_there(self, tmp_path: Path, root_fd: int) -> None:
        (tmp_path / "f").write_bytes(b"abc")
        (tmp_path / "l").symlink_to("x")
        (tmp_path / "d").mkdir()
        kinds = [
            entry_at(root_fd, name, owners=True, strip=False) for name in (b"f", b"l", b"d", b"")
        ]

        assert [e and e.kind for e in kinds] == [
            Kind.FILE, Kind.SYMLINK, Kind.DIRECTORY, Kind.DIRECTORY,
        ]  # fmt: skip
        assert kinds[1] is not None
        assert kinds[1].target == b"x"
        assert entry_at(root_fd, b"none", owners=True, strip=False) is None

    def test_says_that_a_mount_point_is_one(self) -> None:
        fd = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
        try:
            with pytest.raises(OSError, match="mount") as caught:
                entry_at(fd, b"proc", owners=True, strip=False)
        finally:
            os.close(fd)

        assert caught.value.errno == errno.EXDEV


@pytest.fixture
def bound(tmp_path: Path) -> Iterator[Path]:
    """A directory of the same file system, mounted once more at `m`."""
    (tmp_path / "d/e").mkdir(parents=True)
    (tmp_path / "m").mkdir()
    mount = ["mount", "--bind", tmp_path / "d", tmp_path / "m"]
    if os.geteuid() != 0 or subprocess.run(mount, check=False).returncode:
        pytest.skip("may not mount here")
    yield tmp_path / "m"
    subprocess.run(["umount", tmp_path / "m"], check=True)


class TestBindMounts:
    """Device numbers do not tell of them."""

    def test_are_mount_points(self, bound: Path, root_fd: int, looker: Looker) -> None:
        for look in (
            lambda: entry_at(root_fd, b"m", owners=True, strip=False),
            lambda: looker.look(b"m"),
            lambda: looker.look(b"m/e"),
        ):
            with pytest.raises(OSError, match=r"mount|link") as caught:
                look()
            assert caught.value.errno == errno.EXDEV

        assert looker.look(b"d").entry is not None
        assert entry_at(root_fd, b"d", owners=True, strip=False) is not None

    def test_are_passed_over_by_a_scan(self, bound: Path, root_fd: int) -> None:
        events = list(walk(root_fd, b"", False, owners=True, strip=False))

        assert [e[3:] for e in events if e[0] == "D"] == [(1, b""), (1, b"d"), (0, b"d/e")]
        assert [e for e in events if e[0] == "N"] == [("N", b"m")]

    def test_may_be_the_root(self, bound: Path) -> None:
        fd = os.open(bound, os.O_RDONLY | os.O_DIRECTORY)
        looker = Looker(fd, owners=True, strip=False)
        try:
            seen = [looker.look(b"").entry, looker.look(b"e").entry]
            seen.append(entry_at(fd, b"", owners=True, strip=False))
        finally:
            looker.forget()
            os.close(fd)

        assert None not in seen

    def test_are_not_known_to_old_kernels(
        self, tmp_path: Path, root_fd: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "d").mkdir()
        monkeypatch.setattr(syscalls, "_STATX", None)

        assert entry_at(root_fd, b"d", owners=True, strip=False) is not None


class TestReadSettled:
    def test_reads_the_content_with_its_digest(self, tmp_path: Path, root_fd: int) -> None:
        (tmp_path / "f").write_bytes(b"abc")

        seen = read(root_fd, "f")

        assert seen is not None
        assert seen.content == b"abc"
        assert seen.entry is not None
        assert seen.entry.digest == content_digest(b"abc")
        assert seen.flags == 0

    def test_reads_an_empty_file(self, tmp_path: Path, root_fd: int) -> None:
        (tmp_path / "f").touch()

        seen = read(root_fd, "f")

        assert seen is not None
        assert seen.content == b""

    def test_reads_no_content_beyond_the_limit(self, tmp_path: Path, root_fd: int) -> None:
        (tmp_path / "f").write_bytes(b"abc")

        seen = read(root_fd, "f", content_max=2)

        assert seen is not None
        assert seen.content is None
        assert seen.entry is not None
        assert seen.entry.digest == b""

    def test_says_that_a_file_is_being_written(self, tmp_path: Path, root_fd: int) -> None:
        (tmp_path / "f").write_bytes(b"abc")
        with (tmp_path / "f").open("r+b"):
            seen, forced = read(root_fd, "f"), read(root_fd, "f", force=True)

        assert seen is not None
        assert seen.flags == BUSY
        assert seen.content is None
        assert forced is not None
        assert forced.content == b"abc"

    def test_s11_holds_writers_back_only_while_it_reads(self, tmp_path: Path, root_fd: int) -> None:
        (tmp_path / "f").write_bytes(b"abc")
        read(root_fd, "f")
        fd = os.open(tmp_path / "f", os.O_WRONLY | os.O_NONBLOCK)

        os.close(fd)

    def test_gives_nothing_when_the_file_changed_since_the_stat(
        self, tmp_path: Path, root_fd: int
    ) -> None:
        path = tmp_path / "f"
        path.write_bytes(b"abc")
        before = path.stat()
        path.write_bytes(b"xyz!")
        values = {"content_max": 100, "trust_ns": 0, "owners": True, "strip": False}

        assert read_settled(root_fd, b"f", before, **values) is None  # type: ignore[arg-type]
        path.unlink()
        assert read_settled(root_fd, b"f", before, **values) is None  # type: ignore[arg-type]
        path.symlink_to("/etc/passwd")
        assert read_settled(root_fd, b"f", before, **values) is None  # type: ignore[arg-type]

    def test_does_without_leases_where_there_are_none(
        self, tmp_path: Path, root_fd: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(fd: int) -> bool:
            raise PermissionError(errno.EACCES, "not yours")

        monkeypatch.setattr(scan, "read_lease", refuse)
        (tmp_path / "f").write_bytes(b"abc")
        young, trusted = (
            read(root_fd, "f", trust_ns=60 * 10**9),
            read(root_fd, "f", trust_ns=0),
        )
        os.utime(tmp_path / "f", (1, 1))
        old = read(root_fd, "f", trust_ns=60 * 10**9)

        assert young is not None and young.flags == BUSY
        assert trusted is not None and trusted.content == b"abc"
        assert old is not None and old.content == b"abc"


class TestLooker:
    def test_looks_at_everything(self, tmp_path: Path, looker: Looker) -> None:
        (tmp_path / "d/e").mkdir(parents=True)
        (tmp_path / "d/e/f").write_bytes(b"abc")
        (tmp_path / "d/l").symlink_to("e")

        assert looker.look(b"").entry is not None
        assert looker.look(b"d/e").entry is not None
        assert looker.look(b"d/e/f", 100).content == b"abc"
        assert looker.look(b"d/e/f").content is None
        link = looker.look(b"d/l", 100).entry
        assert link is not None
        assert link.target == b"e"

    @pytest.mark.parametrize("path", [b"none", b"none/f", b"f/below", b"l/f", b"fifo"])
    def test_finds_nothing(self, tmp_path: Path, looker: Looker, path: bytes) -> None:
        (tmp_path / "f").touch()
        (tmp_path / "d").mkdir()
        (tmp_path / "d/f").touch()
        (tmp_path / "l").symlink_to("d")
        os.mkfifo(tmp_path / "fifo")

        assert looker.look(path, 100) == ABSENT

    def test_reaches_names_and_paths_of_any_length(self, tmp_path: Path, looker: Looker) -> None:
        name = b"n" * 255
        depth = 40
        fd = os.open(tmp_path, os.O_RDONLY)
        for _ in range(depth):
            os.mkdir(name, dir_fd=fd)
            below = os.open(name, os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd = below
        os.close(os.open(b"f", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
        os.close(fd)

        assert looker.look(b"/".join([name] * depth + [b"f"]), 100).content == b""

    def test_does_not_enter_a_mount(self) -> None:
        fd = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
        looker = Looker(fd, owners=True, strip=False)
        try:
            for path in (b"proc", b"proc/self/stat"):
                with pytest.raises(OSError, match=r"link|mount|Invalid") as caught:
                    looker.look(path)
                assert caught.value.errno == errno.EXDEV
        finally:
            looker.forget()
            os.close(fd)

    def test_gives_up_its_directories(self, tmp_path: Path, looker: Looker) -> None:
        before = len(os.listdir("/proc/self/fd"))
        for i in range(200):
            (tmp_path / f"d{i}").mkdir()
            looker.look(b"d%d/f" % i)
        during = len(os.listdir("/proc/self/fd"))
        looker.forget()

        assert during - before <= 64
        assert len(os.listdir("/proc/self/fd")) == before

    def test_never_mixes_two_versions(self, tmp_path: Path, looker: Looker) -> None:
        """Two versions of different size are exchanged all the time; each look is of one."""
        path, other = tmp_path / "f", tmp_path / "g"
        path.write_bytes(b"a" * 50_000)
        other.write_bytes(b"b" * 60_000)
        done = threading.Event()

        def swap() -> None:
            third = tmp_path / "t"
            while not done.is_set():
                path.rename(third)
                other.rename(path)
                third.rename(other)

        thread = threading.Thread(target=swap)
        thread.start()
        try:
            for _ in range(500):
                entry, content, _ = looker.look(b"f", 100_000)
                if content is not None and entry is not None:
                    assert entry.size == len(content)
                    assert len(set(content)) == 1
                    assert entry.digest == content_digest(content)
        finally:
            done.set()
            thread.join()

    def test_hashes_no_file_that_may_still_change_within_its_ctime(
        self, tmp_path: Path, root_fd: int, looker: Looker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Within a tick of the kernel's clock a write leaves the ctime that is there."""
        begun = []

        def hashed(fd: int, stopped: Callable[[], bool]) -> bytes | None:
            begun.append(time.time_ns())
            return hash_file(fd, stopped)

        monkeypatch.setattr("psync.scan.hash_file", hashed)
        (tmp_path / "f").write_bytes(b"x" * 100)

        seen = look_whole(root_fd, looker, b"f", lambda: False)

        assert seen is not None
        assert seen.entry is not None
        assert seen.entry.digest == content_digest(b"x" * 100)
        assert begun[0] - seen.entry.ctime_ns >= TICK_NS

    def test_never_takes_half_of_a_save_for_a_whole(self, tmp_path: Path, looker: Looker) -> None:
        path = tmp_path / "f"
        path.write_bytes(b"0" * 9000)
        done = threading.Event()

        def save() -> None:
            version = 0
            while not done.is_set():
                version = (version + 1) % 10
                with path.open("wb", buffering=0) as stream:
                    for _ in range(3):
                        stream.write(b"%d" % version * 3000)

        thread = threading.Thread(target=save)
        thread.start()
        whole = 0
        try:
            for _ in range(2000):
                content = looker.look(b"f", 10_000).content
                if content is not None:
                    whole += 1
                    assert len(content) == 9000
                    assert len(set(content)) == 1
        finally:
            done.set()
            thread.join()

    def test_takes_no_lease_when_only_the_state_is_asked(
        self, tmp_path: Path, looker: Looker
    ) -> None:
        (tmp_path / "f").write_bytes(b"abc")
        with (tmp_path / "f").open("r+b"):
            seen = looker.look(b"f")

        assert seen.flags == 0
        assert seen.entry is not None

    def test_leaves_access_times_alone(self, tmp_path: Path, looker: Looker) -> None:
        path = tmp_path / "f"
        path.write_bytes(b"abc")
        os.utime(path, ns=(1, 10**9))
        looker.look(b"f", 100)

        assert path.stat().st_atime_ns == 1


class TestListNames:
    def test_gives_bytes_in_byte_order(self, tmp_path: Path, root_fd: int) -> None:
        names = [b"b", b"a b", b"\xff\xfe", b"A", b"a\nb", b"\xc3\xa9", b"-x", b"'$(x)\\"]
        for name in names:
            (tmp_path / os.fsdecode(name)).touch()
        fd = open_directory(root_fd, b"")
        try:
            assert list_names(fd) == sorted(names)
        finally:
            os.close(fd)

    def test_does_not_follow_a_link(self, tmp_path: Path, root_fd: int) -> None:
        (tmp_path / "d").mkdir()
        (tmp_path / "l").symlink_to("d")

        with pytest.raises(OSError, match=r"Too many levels|Not a directory"):
            open_directory(root_fd, b"l")


class TestHashFile:
    def test_is_the_digest_of_the_content(self, tmp_path: Path) -> None:
        content = os.urandom(3 << 20)
        (tmp_path / "f").write_bytes(content)
        with (tmp_path / "f").open("rb") as stream:
            digest = hash_file(stream.fileno(), lambda: False)
            stopped = hash_file(stream.fileno(), lambda: True)

        assert digest == content_digest(content)
        assert stopped is None


def test_a_lease_ends_with_its_descriptor(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"abc")
    fd = os.open(path, os.O_RDONLY)
    assert read_lease(fd)
    os.close(fd)

    assert stat.S_ISREG(path.stat().st_mode)
    with path.open("r+b"):
        pass
