"""Answer an audit: say what is in a replica that somebody else works on, and leave it as it is.

An audit compares two trees that a session may be replicating at this moment. It has agents
of its own, which only look: no lock, no marker, no watch, no file in `.psync`. What is not
replicated (`core.ignore`) is not told either.

**Invariants.** Nothing here changes the tree, not even access times where we may avoid it.
Directories are listed in the order in which they were asked for, names in byte order. No
more listings are sent than there is credit for; what a directory costs in memory is its names.
What cannot be read is told to be so, never to be absent.

Nothing is remembered from one answer to the next, and nothing is decided.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Optional

from psync.core.entry import Kind, join
from psync.core.ignore import Ignore
from psync.scan import (
    Looker,
    Seen,
    list_names,
    look_whole,
    open_directory,
    read_block,
)
from psync.wire import (
    AUDIT_CREDIT,
    BLOCK_MAX,
    UNREADABLE,
    Block,
    Item,
    Listing,
    Message,
    Observed,
    Start,
    Trouble,
    listing_weight,
)
from psync.xattrs import attributes_of

__all__ = ["Reader"]

_NAMES_MAX = 1000  # of a `Listing`
_WEIGHT_MAX = 256 * 1024  # of a `Listing`, or of an answer to a `Look`
_ANSWER_S = 0.1  # how long an answer to a `Look` is gathered, and directories stay open for it
_SLICE = 100  # names between two turns of the agent's loop
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


class Reader:
    """See the module's text.

    `list_` is the loop's, `look` and `read` are the worker's: they share nothing that remembers.

    Attributes:
        credit: bytes of listings that may be sent yet; `list_` is to go on while there is some.
    """

    def __init__(self, root_fd: int, start: Start, send: Callable[[Message], None]) -> None:
        """Read below a root, which stays the caller's; `send` sends listings."""
        self._root_fd = root_fd
        self._send = send
        self._ignored, self._ignored_too = (
            Ignore(start.excludes, start.tempfiles) for _ in range(2)
        )
        self._lookers = [
            Looker(
                root_fd,
                owners=start.owners,
                strip=start.strip_special_bits,
                attributes=attributes_of(start),
            )
            for _ in range(2)
        ]
        self.credit = AUDIT_CREDIT

    def close(self) -> None:
        """Let go of what is open."""
        self._lookers[0].forget()

    def list_(self, paths: Sequence[bytes]) -> Iterator[None]:
        """Answer a `List_`: yields between slices of work, and where credit may have run out."""
        for path in paths:
            yield from self._list(path)
            yield

    def _list(self, path: bytes) -> Iterator[None]:
        looker = self._lookers[0]
        try:
            fd = open_directory(self._root_fd, path)
        except OSError as error:
            self._cannot_list(path, error)
            return
        try:
            try:
                entry = looker.entry_of(fd)
                names = list_names(fd)
            except OSError as error:
                self._cannot_list(path, error)
                return
            after = b""
            items: list[Item] = []
            weight = 0
            for count, name in enumerate(names, 1):
                item = self._item(fd, path, name)
                if item is not None:
                    items.append(item)
                    weight += listing_weight([item])
                if len(items) >= _NAMES_MAX or weight >= _WEIGHT_MAX:
                    self._tell(Listing(path, entry, after, name, items))
                    after, items, weight = name, [], 0
                    yield
                elif count % _SLICE == 0:
                    yield
            self._tell(Listing(path, entry, after, None, items))
        finally:
            os.close(fd)

    def _tell(self, listing: Listing) -> None:
        self.credit -= listing_weight(listing.items)
        self._send(listing)

    def _item(self, fd: int, path: bytes, name: bytes) -> Optional[Item]:
        sub = join(path, name)
        if self._ignored(sub):
            return None
        try:
            entry, _, flags = self._lookers[0].look_at(fd, name)
        except OSError as error:
            self._send(_trouble(sub, error))
            return Item(name, None, None, b"", UNREADABLE)
        if entry is None or self._ignored(sub, entry.kind == Kind.DIRECTORY):
            return None
        return Item(name, entry, None, b"", flags)

    def _cannot_list(self, path: bytes, error: OSError) -> None:
        """A directory is gone, or closed to us: the trouble, which comes first, tells which."""
        if error.errno not in _GONE:
            self._send(_trouble(path, error))
        self._tell(Listing(path, None, b"", None, []))

    def look(
        self, want: int, paths: Sequence[bytes], stopped: Callable[[], bool]
    ) -> Iterator[Message]:
        """Answer a `Look`, in order, as the answers are known; blocks.

        Args:
            want: 2: with the digest; 1: only told whether it may be read; else without content.
            paths: what to look at.
            stopped: tells that nobody wants to know any more.
        """
        looker = self._lookers[1]
        items: list[Item] = []
        weight = 0
        due = time.monotonic() + _ANSWER_S
        for path in paths:
            seen: Optional[Seen] = Seen(None)
            try:
                if self._ignored_too(path):
                    pass
                elif want == 2:
                    seen = look_whole(self._root_fd, looker, path, stopped)
                else:
                    seen = looker.look(path, -1 if want == 1 else None)
            except OSError as error:
                yield _trouble(path, error)
                seen = Seen(None, None, UNREADABLE)
            if seen is None or stopped():
                break
            if seen.entry and self._ignored_too(path, seen.entry.kind == Kind.DIRECTORY):
                seen = Seen(None)
            items.append(Item(path, seen.entry, None, b"", seen.flags))
            weight += listing_weight(items[-1:])
            if weight >= _WEIGHT_MAX or time.monotonic() >= due:
                yield Observed(items)
                items, weight = [], 0
                looker.forget()
                due = time.monotonic() + _ANSWER_S
        looker.forget()
        if items and not stopped():
            yield Observed(items)

    def read(self, path: bytes, at: int) -> Block:
        """Answer a `Read`; blocks."""
        looker = self._lookers[1]
        try:
            seen = read_block(self._root_fd, looker, path, at, BLOCK_MAX)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            return Block(path, at, None, b"", reason)
        finally:
            looker.forget()
        if seen.content is None:
            return Block(path, at, seen.entry, b"", "it changes all the time")
        return Block(path, at, seen.entry, seen.content)


def _trouble(path: bytes, error: OSError) -> Trouble:
    if error.errno == errno.EXDEV:
        return Trouble("mount", path, "is a mount point: what is in it stays here")
    return Trouble("unreadable", path, os.strerror(error.errno or errno.EIO))
