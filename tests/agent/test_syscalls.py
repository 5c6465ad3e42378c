"""The system calls as psync relies on them, on a real kernel."""

from __future__ import annotations

import errno
import mmap
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from psync import syscalls
from psync.syscalls import (
    EXCHANGE,
    NOREPLACE,
    copy_file,
    has_holes,
    lease_intact,
    memfd,
    mount_id,
    open_beneath,
    read_lease,
    release_lease,
    renameat2,
    syncfs,
)


@pytest.fixture
def root(tmp_path):
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


@pytest.fixture
def no_openat2(monkeypatch):
    monkeypatch.setattr(syscalls, "_has_openat2", lambda: False)


def read_and_close(fd):
    try:
        return os.read(fd, 1 << 16)
    finally:
        os.close(fd)


class TestRename:
    def test_noreplace_refuses_a_taken_name(self, root, tmp_path: Path):
        (tmp_path / "a").write_text("a")
        (tmp_path / "b").write_text("b")

        with pytest.raises(FileExistsError):
            renameat2(root, b"a", root, b"b", NOREPLACE)

        assert (tmp_path / "a").read_text() == "a"
        assert (tmp_path / "b").read_text() == "b"

    def test_exchange_swaps_a_file_and_a_directory(self, root, tmp_path: Path):
        (tmp_path / "a").write_text("a")
        (tmp_path / "b").mkdir()

        renameat2(root, b"a", root, b"b", EXCHANGE)

        assert (tmp_path / "a").is_dir()
        assert (tmp_path / "b").read_text() == "a"

    def test_exchange_needs_both_names(self, root, tmp_path: Path):
        (tmp_path / "a").write_text("a")

        with pytest.raises(FileNotFoundError):
            renameat2(root, b"a", root, b"b", EXCHANGE)

    def test_takes_names_of_255_bytes_that_are_not_text(self, root, tmp_path: Path):
        long = b"\xff" * 255
        (tmp_path / "a").write_text("a")

        renameat2(root, b"a", root, long, NOREPLACE)

        assert os.listdir(os.fsencode(tmp_path)) == [long]

    def test_calls_the_kernel_by_number_where_libc_has_no_wrapper(self, root, tmp_path: Path):
        (tmp_path / "a").write_text("a")

        assert syscalls._renameat2_by_number(root, b"a", root, b"b", NOREPLACE) == 0
        assert (tmp_path / "b").read_text() == "a"


class TestOpenBeneath:
    """Each promise holds with openat2 and with the walk that stands in for it."""

    @pytest.fixture(autouse=True, params=["openat2", "walk"])
    def method(self, request):
        if request.param == "walk":
            request.getfixturevalue("no_openat2")

    def test_opens_a_file_deep_below(self, root, tmp_path: Path):
        (tmp_path / "a/b").mkdir(parents=True)
        (tmp_path / "a/b/c").write_bytes(b"deep")

        assert read_and_close(open_beneath(root, b"a/b/c", os.O_RDONLY)) == b"deep"

    def test_empty_path_is_the_directory_itself(self, root, tmp_path: Path):
        fd = open_beneath(root, b"", os.O_RDONLY | os.O_DIRECTORY)

        assert os.path.sameopenfile(fd, root)
        os.close(fd)

    def test_creates_with_mode(self, root, tmp_path: Path):
        os.close(open_beneath(root, b"new", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))

        assert (tmp_path / "new").stat().st_mode & 0o777 == 0o600

    def test_descriptor_is_not_inherited(self, root):
        fd = open_beneath(root, b"", os.O_RDONLY)

        assert not os.get_inheritable(fd)
        os.close(fd)

    @pytest.mark.parametrize("path", [b"link", b"link/file", b"dir/../../out", b".."])
    def test_never_leaves(self, root, tmp_path: Path, path):
        (tmp_path / "dir").mkdir()
        (tmp_path / "link").symlink_to("/etc")

        with pytest.raises(OSError) as caught:
            open_beneath(root, path, os.O_RDONLY)

        assert caught.value.errno in (errno.ELOOP, errno.ENOTDIR, errno.EXDEV)

    def test_never_crosses_a_mount(self):
        slash = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
        try:
            with pytest.raises(OSError) as caught:
                open_beneath(slash, b"proc/self", os.O_RDONLY)
        finally:
            os.close(slash)

        assert caught.value.errno == errno.EXDEV

    def test_takes_paths_longer_than_the_kernel_does(self, root):
        name = b"d" * 200
        at = os.dup(root)
        for _ in range(50):
            os.mkdir(name, dir_fd=at)
            below = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=at)
            os.close(at)
            at = below
        os.close(os.open(b"end", os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=at))
        os.close(at)

        os.close(open_beneath(root, b"/".join([name] * 50 + [b"end"]), os.O_RDONLY))

        with pytest.raises(FileNotFoundError):
            open_beneath(root, b"/".join([name] * 50 + [b"missing"]), os.O_RDONLY)

    def test_leaks_no_descriptor(self, root, tmp_path: Path):
        (tmp_path / "a/b").mkdir(parents=True)
        before = len(os.listdir("/proc/self/fd"))

        for path in (b"a/b", b"a/x/y", b"x", b"/".join([b"a" * 200] * 30)):
            with suppress(FileNotFoundError):
                os.close(open_beneath(root, path, os.O_RDONLY))

        assert len(os.listdir("/proc/self/fd")) == before


class TestLease:
    @pytest.fixture
    def file(self, tmp_path: Path):
        path = tmp_path / "file"
        path.write_text("text")
        return path

    @pytest.fixture
    def reader(self, file):
        fd = os.open(file, os.O_RDONLY)
        yield fd
        os.close(fd)

    def test_is_refused_while_somebody_writes(self, file, reader):
        with open(file, "ab"):
            assert read_lease(reader) is False

        assert read_lease(reader) is True

    def test_is_refused_while_a_writable_mapping_lives(self, file, reader):
        with open(file, "r+b") as stream:
            mapping = mmap.mmap(stream.fileno(), 0)
        assert read_lease(reader) is False

        mapping.close()

        assert read_lease(reader) is True

    def test_tells_that_a_writer_waits(self, file, reader):
        assert read_lease(reader)
        assert lease_intact(reader)

        with pytest.raises(BlockingIOError):
            os.open(file, os.O_WRONLY | os.O_NONBLOCK)

        assert not lease_intact(reader)
        release_lease(reader)
        os.close(os.open(file, os.O_WRONLY | os.O_NONBLOCK))

    def test_a_writer_does_not_end_the_process(self):
        assert signal.getsignal(signal.SIGIO) == signal.SIG_IGN

    def test_is_not_for_directories(self, root):
        with pytest.raises(OSError):
            read_lease(root)


class TestCopy:
    def copy(self, tmp_path: Path, source: Path) -> Path:
        target = tmp_path / "copy"
        with open(source, "rb") as src, open(target, "wb") as dst:
            copy_file(src.fileno(), dst.fileno())
        return target

    def test_copies_every_byte(self, tmp_path: Path):
        content = os.urandom(3_000_001)
        source = tmp_path / "source"
        source.write_bytes(content)

        assert self.copy(tmp_path, source).read_bytes() == content

    def test_copies_an_empty_file(self, tmp_path: Path):
        source = tmp_path / "source"
        source.write_bytes(b"")

        assert self.copy(tmp_path, source).read_bytes() == b""

    def test_keeps_holes(self, tmp_path: Path):
        source = tmp_path / "source"
        with open(source, "wb") as stream:
            stream.seek(8 << 20)
            stream.write(b"middle")
            stream.truncate(64 << 20)

        copy = self.copy(tmp_path, source)

        assert copy.read_bytes() == source.read_bytes()
        assert copy.stat().st_blocks * 512 < 1 << 20

    def test_copies_through_the_process_where_the_kernel_will_not(self, tmp_path, monkeypatch):
        def refuse(*args):
            raise OSError(errno.EXDEV, "no")

        monkeypatch.setattr(os, "copy_file_range", refuse)
        monkeypatch.setattr(syscalls, "_FICLONE", 0)
        source = tmp_path / "source"
        source.write_bytes(os.urandom(2_500_000))

        assert self.copy(tmp_path, source).read_bytes() == source.read_bytes()


class TestHoles:
    def test_are_found(self, tmp_path: Path):
        file = tmp_path / "file"
        found = []
        with open(file, "w+b") as stream:
            for size in (0, 1 << 20):
                stream.truncate(size)
                found.append(has_holes(stream.fileno()))
            stream.write(os.urandom(1 << 20))
            stream.flush()
            found.append(has_holes(stream.fileno()))
            stream.truncate(2 << 20)
            found.append(has_holes(stream.fileno()))

        assert found == [False, True, False, True]

    def test_are_none_where_space_is_only_set_apart(self, tmp_path: Path):
        with open(tmp_path / "file", "wb") as stream:
            os.posix_fallocate(stream.fileno(), 0, 1 << 20)

            assert not has_holes(stream.fileno())

    def test_are_none_where_less_is_stored_because_it_is_compressed(self, tmp_path, monkeypatch):
        (tmp_path / "file").write_bytes(bytes(1 << 20))
        with open(tmp_path / "file", "rb") as stream:
            st = list(os.fstat(stream.fileno()))
            compressed = os.stat_result(st[:10], {"st_blocks": 8})
            monkeypatch.setattr(os, "fstat", lambda fd: compressed)

            assert not has_holes(stream.fileno())


class TestMemfd:
    def test_holds_the_bytes_read_only(self):
        fd = memfd("test", b"content")

        assert os.pread(fd, 100, 0) == b"content"
        with pytest.raises(OSError):
            os.write(fd, b"more")
        os.close(fd)

    def test_can_be_executed(self):
        fd = memfd("test", Path("/bin/true").read_bytes())

        done = subprocess.run([f"/proc/self/fd/{fd}"], pass_fds=[fd], check=False)

        assert done.returncode == 0
        os.close(fd)


class TestModule:
    def test_syncs_a_file_system(self, root):
        syncfs(root)

        with pytest.raises(OSError):
            syncfs(-1)

    def test_needs_nothing_but_the_interpreter(self):
        package = Path(syscalls.__file__).parents[1]
        code = f"import sys; sys.path.insert(0, {str(package)!r}); import psync.syscalls"

        subprocess.run([sys.executable, "-ISE", "-c", code], check=True)


class TestMountId:
    def test_is_one_for_all_of_a_mount_and_no_other(self, tmp_path: Path) -> None:
        (tmp_path / "d").mkdir()
        ids = []
        for path in (tmp_path, tmp_path / "d", Path("/proc")):
            fd = os.open(path, os.O_RDONLY)
            ids.append(mount_id(fd))
            os.close(fd)
        if not ids[0]:
            pytest.skip("this kernel does not say")

        assert ids[0] == ids[1] != ids[2]
