"""Directories and names of our own, inside `.psync`, which no user sees.

**Invariants.** A name is of fixed length, not made of a user's, and given once. What is
removed here was never visible to a user, or nobody wants it any more.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress

__all__ = ["open_directory", "remove_tree", "unused_names"]

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def open_directory(parent_fd: int, name: bytes) -> int:
    """Open a directory of our own, made (mode 0700) where it is missing."""
    with suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=parent_fd)
    return os.open(name, _DIRECTORY, dir_fd=parent_fd)


def remove_tree(parent_fd: int, name: bytes) -> None:
    """Remove a name of ours, and what is in it; nothing where it is not there."""
    try:
        os.unlink(name, dir_fd=parent_fd)
    except FileNotFoundError:
        pass
    except IsADirectoryError:
        fd = os.open(name, _DIRECTORY, dir_fd=parent_fd)
        try:
            for child in os.listdir(fd):
                remove_tree(fd, os.fsencode(child))
        finally:
            os.close(fd)
        os.rmdir(name, dir_fd=parent_fd)


def unused_names() -> Callable[[], bytes]:
    """Make a source of names, 16 bytes each, that no other run of an agent gives."""
    prefix = os.urandom(5).hex().encode()
    count = 0

    def name() -> bytes:
        nonlocal count
        count += 1
        return b"%b%06x" % (prefix, count & 0xFFFFFF)

    return name
