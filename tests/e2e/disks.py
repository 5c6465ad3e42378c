"""File systems of a test's own: small ones, and ones whose power is cut. Only for root."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.pair import until

_SHUTDOWN = 0x8004587D  # FS_IOC_SHUTDOWN, _IOR('X', 125, __u32)
_FLAGS = {  # how much is written before
    "names": (1).to_bytes(4, "little"),  # the journal, and no content
    "nothing": (2).to_bytes(4, "little"),
}


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")


def _unmount(at: Path) -> None:
    """Unmount, when the last who uses it has ended."""

    def done() -> bool:
        run = subprocess.run(["umount", str(at)], capture_output=True, text=True, check=False)
        return run.returncode == 0 or "not mounted" in run.stderr

    until(done, f"unmounting {at}")


class Disk:
    """A file system in an image, mounted at a directory."""

    def __init__(self, image: Path, at: Path) -> None:
        self._image = image
        self.at = at

    def mount(self) -> None:
        _run("mount", "-o", "loop", str(self._image), str(self.at))

    def unmount(self, *, lazily: bool = False) -> None:
        """Take it away; at once, from under whoever uses it, or when nobody does any more."""
        if lazily:
            _run("umount", "-l", str(self.at))
        else:
            _unmount(self.at)

    def spoil(self, text: bytes) -> None:
        """Make every block that holds a text unreadable; only when it is not mounted.

        Such a block has a checksum: directories have.
        """
        with self._image.open("r+b") as stream:
            content = mmap.mmap(stream.fileno(), 0)
            at = content.find(text)
            assert at >= 0
            while at >= 0:
                content[at] ^= 1
                at = content.find(text, at)
            content.close()

    def cut(self, kept: str) -> None:
        """Cut its power: what is not on the disk is lost, and everything fails from now on.

        Args:
            kept: of what was done last, `names` or `nothing`.
        """
        fd = os.open(self.at, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, _SHUTDOWN, _FLAGS[kept])
        finally:
            os.close(fd)


@contextlib.contextmanager
def disk(image: Path, at: Path, kind: str = "ext4", mib: int = 64) -> Iterator[Disk]:
    """Make a file system, and mount it; skips the test where that is not possible."""
    with image.open("wb") as stream:
        stream.truncate(mib << 20)
    made = Disk(image, at)
    try:
        _run(f"mkfs.{kind}", "-q", *(["-F"] if kind == "ext4" else []), str(image))
        made.mount()
        for name in os.listdir(at):
            (at / name).rmdir()  # lost+found
    except OSError as error:
        pytest.skip(f"no {kind} can be mounted here: {error}")
    try:
        yield made
    finally:
        if os.path.ismount(at):
            made.unmount(lazily=True)


@contextlib.contextmanager
def memory(at: Path, size: str) -> Iterator[None]:
    """Mount a file system of a size, in memory; skips the test where that is not possible."""
    at.mkdir(exist_ok=True)
    try:
        _run("mount", "-t", "tmpfs", "-o", f"mode=700,size={size}", "none", str(at))
    except OSError as error:
        pytest.skip(f"nothing can be mounted here: {error}")
    try:
        yield
    finally:
        _run("umount", "-l", str(at))


@contextlib.contextmanager
def fuse(program: str, at: Path, behind: Path) -> Iterator[None]:
    """Mount a file system of a program's; skips the test where that is not possible.

    Args:
        program: `fuse-overlayfs`, which can do what psync needs, or `bindfs`, which cannot.
        at: where.
        behind: the directory that it shows.
    """
    behind.mkdir()
    try:
        if program == "fuse-overlayfs":
            empty = [behind.with_name(behind.name + suffix) for suffix in ("-lower", "-work")]
            for directory in empty:
                directory.mkdir()
            options = f"lowerdir={empty[0]},upperdir={behind},workdir={empty[1]}"
            _run(program, "-o", options, str(at))
        else:
            _run(program, str(behind), str(at))
    except OSError as error:
        pytest.skip(f"no {program} can be mounted here: {error}")
    try:
        yield
    finally:
        _run("umount", "-l", str(at))


def resize(at: Path, size: str) -> None:
    """Give a file system in memory another size."""
    _run("mount", "-o", f"remount,size={size}", str(at))
