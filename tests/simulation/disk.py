"""A file system in memory that tells what happens in it, as inotify does.

Nothing is approximate: inodes keep their numbers through renames, a ctime never comes
twice, a directory's mtime follows its names, events are told only for directories that are
watched, under the path that was right at that moment, and a full queue loses all of them.

**Invariants.** A node is a name of an inode, and hangs at one place. Only `users` and `agents`
of the simulation call the methods that change something; those return False (and do nothing)
where the system would say no.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from psync.core.entry import Entry, Kind, join, split
from psync.core.settle import (
    ATTRIBUTES,
    CLOSED,
    CREATED,
    DELETED,
    DIRECTORY,
    MODIFIED,
    MOVED_IN,
    MOVED_OUT,
)

__all__ = ["Disk", "Node"]

Event = tuple[int, bytes, bytes]  # mask (0: a rename), path, new path of a rename


class Inode:
    """What all names of it share."""

    __slots__ = (
        "ctime", "data", "gid", "ino", "kind", "linked", "mode", "mtime", "names", "stealthy",
        "uid", "writers", "xattrs",
    )  # fmt: skip

    def __init__(self, ino: int, kind: Kind, now: int) -> None:
        self.ino = ino
        self.kind = kind
        self.mode = 0 if kind is Kind.SYMLINK else 0o755 if kind is Kind.DIRECTORY else 0o644
        self.uid = self.gid = 0
        self.mtime = self.ctime = now
        self.xattrs = b""
        self.data = b""  # a file's content, a symlink's target
        self.writers = 0
        self.stealthy = False  # written to, and its mtime put back
        self.names = 1
        self.linked = False  # had more names than one at some time


def _shared(field: str) -> Any:
    return property(
        lambda node: getattr(node.inode, field),
        lambda node, value: setattr(node.inode, field, value),
    )


class Node:
    """A name of an inode."""

    __slots__ = ("children", "inode", "name", "parent", "watcher")

    ino, kind, mode, uid, gid = map(_shared, ("ino", "kind", "mode", "uid", "gid"))
    mtime, ctime, data = map(_shared, ("mtime", "ctime", "data"))
    writers, stealthy, xattrs = map(_shared, ("writers", "stealthy", "xattrs"))

    def __init__(self, inode: Inode) -> None:
        self.inode = inode
        self.children: dict[bytes, Node] = {}
        self.watcher = 0
        self.parent: Node | None = None
        self.name = b""

    @property
    def path(self) -> bytes:
        """Where it is now."""
        return join(self.parent.path, self.name) if self.parent is not None else b""

    def entry(self) -> Entry:
        """What a look at it shows (without a digest)."""
        is_file, is_link = self.kind is Kind.FILE, self.kind is Kind.SYMLINK
        return Entry(
            int(self.kind), self.mode, self.uid, self.gid, len(self.data) if is_file else 0,
            self.mtime, self.data if is_link else b"", b"", self.ino,
            0 if self.kind is Kind.DIRECTORY else self.ctime, self.xattrs,
        )  # fmt: skip


class Disk:
    """One replica's file system."""

    def __init__(self, now_ns: Callable[[], int], *, reuse_inodes: bool, queue_max: int) -> None:
        self._now_ns = now_ns
        self._reuse = reuse_inodes
        self._queue_max = queue_max
        self._free: list[int] = []
        self._next_ino = 100
        self.grain = 1  # of mtimes, in ns
        self.has_modes = self.has_owners = self.has_attributes = True
        self.root = Node(Inode(2, Kind.DIRECTORY, now_ns()))
        self.watcher = 0  # the agent that listens now
        self.events: list[Event] = []
        self.overflowed = False
        self.conflicts: list[tuple[bytes, Node]] = []  # losers kept, and where they were
        self.due: dict[bytes, tuple[bytes, Node]] = {}  # those to be put beside what won
        self.beside: set[bytes] = set()  # tokens of those that were
        self.kept = 0  # losers so far
        self.quarantine: list[tuple[float, bytes]] = []  # what agents displaced, and when
        self._durable = self._copy(self.root, {})

    # --- looking ---------------------------------------------------------------------

    def at(self, path: bytes) -> Node | None:
        """What is at a path; no symlink is followed."""
        node: Node | None = self.root
        for name in path.split(b"/") if path else ():
            node = node.children.get(name) if node is not None else None
        return node

    def walk(self, top: bytes = b"") -> Iterator[tuple[bytes, Node]]:
        """Everything below a directory, parents before children, names in byte order."""
        node = self.at(top)
        for name in sorted(node.children) if node is not None else ():
            path = join(top, name)
            yield path, node.children[name]
            yield from self.walk(path)

    # --- changing ----------------------------------------------------------------------

    def make(self, path: bytes, kind: Kind, data: bytes = b"") -> Node | None:
        """Create something where nothing is."""
        place, name = self._place(path)
        if place is None or name in place.children:
            return None
        ino = self._free.pop() if self._free and self._reuse else self._next_ino
        self._next_ino += ino == self._next_ino
        node = Node(Inode(ino, kind, self._now_ns()))
        node.mtime = self._cut(node.mtime)
        node.data = data
        self._link(place, name, node)
        flag = DIRECTORY if kind is Kind.DIRECTORY else 0
        self._tell(place, CREATED | flag, name)
        if kind is Kind.FILE:
            self._tell(place, MODIFIED | CLOSED, name)
        elif kind is Kind.SYMLINK:
            # Never closed; the real agent asks whether it may wait for that.
            self._tell(place, MOVED_IN, name)
        return node

    def link(self, old: bytes, new: bytes) -> bool:
        """link(2): another name for a file."""
        node, (place, name) = self.at(old), self._place(new)
        if node is None or node.kind is not Kind.FILE or place is None or name in place.children:
            return False
        node.inode.names += 1
        node.inode.linked = True
        node.ctime = self._now_ns()
        self._link(place, name, Node(node.inode))
        self._tell(place, CREATED, name)
        self._tell(place, MOVED_IN, name)  # as of a symlink
        return True

    def write(self, path: bytes, data: bytes, *, closed: bool = True) -> bool:
        """Write a file in place."""
        node = self.at(path)
        if node is None or node.kind is not Kind.FILE:
            return False
        self.write_node(node, data, closed=closed)
        return True

    def write_node(self, node: Node, data: bytes, *, closed: bool = True) -> None:
        """Write to an open file, wherever it is now."""
        node.data = data
        node.ctime = self._now_ns()
        node.mtime = self._cut(node.ctime)
        if node.parent is not None:
            self._tell(node.parent, MODIFIED | (CLOSED if closed else 0), node.name)

    def remove(self, path: bytes) -> bool:
        """Unlink a file or a symlink, or remove an empty directory."""
        place, name = self._place(path)
        node = place.children.get(name) if place is not None else None
        if place is None or node is None or node.children:
            return False
        self._unlink(node)
        self._drop(node)
        flag = DIRECTORY if node.kind is Kind.DIRECTORY else 0
        self._tell(place, DELETED | flag, name)
        return True

    def rename(self, old: bytes, new: bytes) -> bool:
        """rename(2): over a file or an empty directory of the same kind, too."""
        node, (place, name) = self.at(old), self._place(new)
        if node is None or place is None or old == new or not old or (new + b"/").startswith(
            old + b"/"
        ):  # fmt: skip
            return False
        covered = place.children.get(name)
        if covered is not None:
            if (covered.kind is Kind.DIRECTORY) != (node.kind is Kind.DIRECTORY):
                return False
            if covered.children or covered.inode is node.inode:
                return False
            self._unlink(covered)
            self._drop(covered)
        origin = node.parent
        assert origin is not None
        self._unlink(node)
        self._link(place, name, node)
        node.ctime = self._now_ns()
        flag = DIRECTORY if node.kind is Kind.DIRECTORY else 0
        here, there = self._is_watched(origin), self._is_watched(place)
        if here and there:
            self._add((flag, old, new))
        elif here:
            self._add((MOVED_OUT | flag, old, b""))
        elif there:
            self._add((MOVED_IN | flag, new, b""))
        return True

    def set_meta(
        self, path: bytes, *, mode: int | None = None, uid: int | None = None,
        gid: int | None = None, mtime: int | None = None, xattrs: bytes | None = None,
        tell: bool = True,
    ) -> bool:  # fmt: skip
        """chmod, chown, utimes, setxattr."""
        node = self.at(path)
        if node is None:
            return False
        if mode is not None and node.kind is not Kind.SYMLINK and self.has_modes:
            node.mode = mode
        if self.has_owners:
            node.uid = node.uid if uid is None else uid
            node.gid = node.gid if gid is None else gid
        node.mtime = node.mtime if mtime is None else self._cut(mtime)
        if xattrs is not None and node.kind is not Kind.SYMLINK and self.has_attributes:
            node.xattrs = xattrs
        node.ctime = self._now_ns()
        if tell and node.parent is not None:
            flag = DIRECTORY if node.kind is Kind.DIRECTORY else 0
            self._tell(node.parent, ATTRIBUTES | flag, node.name)
        return True

    # --- a power cut -----------------------------------------------------------------------

    def sync(self) -> None:
        """Make all of it durable."""
        self._durable = self._copy(self.root, {})

    def cut_power(self, *, names_kept: bool = False) -> None:
        """Fall back to what was durable; `names_kept`: as to the bytes of files only."""
        durable: dict[int, Inode] = {}
        root = self._copy(self._durable, durable)
        if names_kept:
            root = self._copy(self.root, inodes := {})
            for number, inode in inodes.items():
                was = durable.get(number)
                if inode.kind is Kind.FILE and (was is None or was.data != inode.data):
                    inode.data = b""
        self.root = root
        self._free.clear()

    def _copy(self, node: Node, inodes: dict[int, Inode]) -> Node:
        inode = inodes.get(node.ino)
        if inode is None:
            inode = inodes[node.ino] = Inode(node.ino, node.kind, 0)
            inode.names = 0
        inode.names += 1
        inode.linked = node.inode.linked
        new = Node(inode)
        new.mode, new.uid, new.gid = node.mode, node.uid, node.gid
        new.mtime, new.ctime, new.data = node.mtime, node.ctime, node.data
        new.xattrs = node.xattrs
        for name, child in node.children.items():
            twin = self._copy(child, inodes)
            twin.parent, twin.name = new, name
            new.children[name] = twin
        return new

    # --- inside ------------------------------------------------------------------------------

    def _place(self, path: bytes) -> tuple[Node | None, bytes]:
        directory, name = split(path)
        place = self.at(directory)
        if place is None or place.kind is not Kind.DIRECTORY or not name:
            return None, name
        return place, name

    def _link(self, place: Node, name: bytes, node: Node) -> None:
        place.children[name] = node
        node.parent, node.name = place, name
        place.ctime = self._now_ns()
        place.mtime = self._cut(place.ctime)

    def _unlink(self, node: Node) -> None:
        place = node.parent
        assert place is not None
        del place.children[node.name]
        node.parent = None
        place.ctime = self._now_ns()
        place.mtime = self._cut(place.ctime)

    def _cut(self, mtime: int) -> int:
        return mtime - mtime % self.grain

    def _drop(self, node: Node) -> None:
        node.inode.names -= 1
        if node.inode.names:
            node.ctime = self._now_ns()
        else:
            self._free.append(node.ino)

    def _is_watched(self, place: Node) -> bool:
        return self.watcher != 0 and place.watcher == self.watcher

    def _tell(self, place: Node, mask: int, name: bytes) -> None:
        if self._is_watched(place):
            self._add((mask, join(place.path, name), b""))

    def _add(self, event: Event) -> None:
        if len(self.events) >= self._queue_max:
            self.overflowed = True
        else:
            self.events.append(event)
