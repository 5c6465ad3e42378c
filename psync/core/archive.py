"""The last state that both replicas agreed on: the ancestor of every three-way decision.

Records are keyed by (directory id, name), so that renaming a directory is one record
however much is in it. What was agreed lives in memory first (`_recent`) and goes into
the rows, which survive a power cut, only once both replicas have made it durable:
`freeze` sets a generation of changes apart, `commit` writes it. A process that dies
between the two finds the older state, and the bytes on the replicas speak for themselves.

**Invariants.** A record's parent directory has a record (the root always has). Reads see
every `put` at once. At most one frozen generation exists. No I/O happens here: rows are
somebody else's (`effects.store`, or a table in memory in the tests).

It deliberately holds nothing of what a replica looks like *now*: that is `core.session`'s.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from itertools import chain
from typing import NamedTuple, Protocol

from psync.core.entry import (
    ROOT,
    Agreed,
    Kind,
    directory_digest,
    join,
    split,
)

__all__ = ["Archive", "Change", "Record", "Rows"]

ROOT_ID = 1
_IDS_MAX = 100_000
_READ_MAX = 20_000

Record = tuple[int, Agreed]  # a directory's id (0 for anything else) and what was agreed
_Place = tuple[int, bytes]  # a directory's id, and a name in it


class Rows(Protocol):
    """Where records rest; `(0, b"")` is nobody's and the root's id is 1."""

    next_id: int
    count: int

    def get(self, parent: int, name: bytes) -> Record | None:
        """One record."""

    def children(self, parent: int) -> Iterator[tuple[bytes, int, Agreed]]:
        """A directory's records in byte order of their names, read as they are asked for."""

    def names(self, parent: int, after: bytes, upto: bytes | None) -> list[bytes]:
        """The names of a directory's records in `after < name <= upto`; None: to the end."""

    def locate(self, directory: int) -> tuple[int, bytes] | None:
        """A directory's parent id and name."""

    def by_inode(self, side: int, ino: int) -> list[tuple[int, bytes]]:
        """Where an inode of a side was when last agreed."""

    def digest(self, directory: int, side: int) -> bytes:
        """The remembered digest of a directory as a side holds it; empty: not known."""

    def set_digests(self, digests: list[tuple[int, int, bytes]]) -> None:
        """Remember digests: (directory, side, digest)."""

    def commit(
        self,
        puts: list[tuple[int, bytes, int, Agreed]],
        removals: list[tuple[int, bytes]],
        next_id: int,
    ) -> None:
        """Write it all or nothing, and forget the digests of the directories touched."""


class Change(NamedTuple):
    """A step of what was agreed: a path's record, None for none; of a rename the new path."""

    path: bytes
    agreed: Agreed | None
    moved_from: bytes = b""


class _Changes:
    """One generation of changes that are not in the rows yet."""

    def __init__(self) -> None:
        self.by_parent: dict[int, dict[bytes, Record | None]] = {}
        self.where: dict[int, tuple[int, bytes]] = {}  # directory id -> parent and name
        self.inodes: tuple[dict[int, list[_Place]], dict[int, list[_Place]]] = ({}, {})
        self.size = 0

    def set(self, parent: int, name: bytes, record: Record | None) -> None:
        names = self.by_parent.setdefault(parent, {})
        if name not in names:
            self.size += 1
        names[name] = record
        if record is not None:
            number, agreed = record
            if number:
                self.where[number] = (parent, name)
            for inodes, ino in zip(self.inodes, (agreed.left_ino, agreed.right_ino), strict=True):
                places = inodes.setdefault(ino, [])
                if (parent, name) not in places:
                    places.append((parent, name))


class Archive:
    """See the module's text."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._recent = _Changes()
        self._frozen: _Changes | None = None
        self._ids: dict[bytes, int] = {ROOT: ROOT_ID}
        self._next_id = rows.next_id
        self._read: dict[tuple[int, bytes], Record | None] = {}
        self._fresh_digests: list[tuple[int, int, bytes]] = []
        self._unsaid: list[Change] = []
        self.count = rows.count

    # --- reading -------------------------------------------------------------------

    def get(self, path: bytes) -> Agreed | None:
        """What both replicas agreed on at a path; None: nothing. The root has no record."""
        record = self._find(path)
        return record[1] if record else None

    def has_directory(self, path: bytes) -> bool:
        """Tell whether a directory is agreed at a path; the root always is."""
        return self._number(path) != 0

    def children(self, path: bytes) -> list[tuple[bytes, Agreed]]:
        """The agreed entries of a directory in byte order of their names."""
        number = self._number(path)
        return [(name, agreed) for name, _, agreed in self._children(number)] if number else []

    def names(self, path: bytes, after: bytes, upto: bytes | None) -> set[bytes]:
        """The names in a directory at which something is agreed, `after < name <= upto`.

        It costs what the range holds and what was agreed of late, not what the directory holds.
        """
        number = self._number(path)
        if not number:
            return set()
        names = set(self._rows.names(number, after, upto) if number < self._rows.next_id else ())
        for layer in self._layers(number):
            for name, record in layer.items():
                if after < name and (upto is None or name <= upto):
                    if record is None:
                        names.discard(name)
                    else:
                        names.add(name)
        return names

    def walk_up(self, path: bytes, without: Container[bytes] = ()) -> Iterator[bytes]:
        """Yield every agreed path below `path`, children before their directory.

        Args:
            path: a directory.
            without: directories to be left out, with all that is in them.
        """
        way = [(path, iter(self.children(path)))]
        while way:
            directory, rest = way[-1]
            for name, agreed in rest:
                child = join(directory, name)
                if child in without:
                    continue
                if agreed.kind == Kind.DIRECTORY:
                    way.append((child, iter(self.children(child))))
                    break
                yield child
            else:
                way.pop()
                if way:
                    yield directory

    def walk_down(self, path: bytes) -> Iterator[tuple[bytes, Agreed]]:
        """Yield what is agreed below `path`, a directory before what is in it, if it is still."""
        way = [(path, iter(self.children(path)))]
        while way:
            directory, rest = way[-1]
            for name, agreed in rest:
                child = join(directory, name)
                yield child, agreed
                if agreed.kind == Kind.DIRECTORY:
                    way.append((child, iter(self.children(child))))
                    break
            else:
                way.pop()

    def find_inode(self, side: int, ino: int) -> bytes | None:
        """The path at which an inode of `side` was when last agreed; of several, one."""
        return next(self._places(side, ino), None)

    def find_links(self, side: int, ino: int) -> list[bytes]:
        """All paths at which an inode of `side` was when last agreed."""
        return sorted(set(self._places(side, ino)))

    def _places(self, side: int, ino: int) -> Iterator[bytes]:
        places: list[_Place] = []
        for changes in (self._recent, self._frozen):
            if changes is not None:
                places += reversed(changes.inodes[side].get(ino, []))
        if self._rows.count:  # a first filling asks for each name
            places += self._rows.by_inode(side, ino)
        for parent, name in places:
            record = self._at(parent, name)
            directory = self._path(parent)
            if record and directory is not None and record[1].on(side).ino == ino:
                yield join(directory, name)

    def digest(self, side: int, path: bytes) -> bytes:
        """The digest that a directory has on `side` if nothing has changed; empty: no record.

        The root's is not known: its own mode and times are not replicated.
        """
        record = self._find(path)
        if record is None or not record[0]:
            return b""
        number, own = record
        touched = self._touched(number)
        if not touched:
            known = self._rows.digest(number, side)
            if known:
                return known
        made = directory_digest(
            own.on(side), ((name, agreed.on(side)) for name, _, agreed in self._children(number))
        )
        if not touched:
            self._fresh_digests.append((number, side, made))
        return made

    # --- changing ------------------------------------------------------------------

    def put(self, path: bytes, agreed: Agreed) -> None:
        """Record what both replicas hold at a path; its directory must have a record."""
        self._unsaid.append(Change(path, agreed))
        directory, name = split(path)
        parent = self._number(directory)
        assert parent, "an agreed entry's directory is agreed"
        old = self._at(parent, name)
        number = 0
        if agreed.kind == Kind.DIRECTORY:
            if old and old[0]:
                number = old[0]
            else:
                number = self._next_id
                self._next_id += 1
        elif old and old[0]:
            self._remove(path)
            old = None
        if old is None:
            self.count += 1
        self._recent.set(parent, name, (number, agreed))

    def remove(self, path: bytes) -> None:
        """Forget a path and everything below it."""
        if self.get(path) is not None:
            self._unsaid.append(Change(path, None))
            self._remove(path)

    def _remove(self, path: bytes) -> None:
        for each in chain(self.walk_up(path), (path,)):
            directory, name = split(each)
            parent = self._number(directory)
            record = self._at(parent, name) if parent else None
            if record is not None:
                if record[0]:
                    self._ids.pop(each, None)
                self.count -= 1
                self._recent.set(parent, name, None)

    def rename(self, old: bytes, new: bytes, agreed: Agreed) -> None:
        """Move a path and everything below it; `agreed` is its record from now on."""
        old_directory, old_name = split(old)
        new_directory, new_name = split(new)
        old_parent, new_parent = self._number(old_directory), self._number(new_directory)
        record = self._at(old_parent, old_name) if old_parent else None
        assert record is not None, "only what is agreed is renamed"
        assert new_parent, "an agreed entry's directory is agreed"
        self._unsaid.append(Change(new, agreed, old))
        self._remove(new)
        self._recent.set(old_parent, old_name, None)
        self._recent.set(new_parent, new_name, (record[0], agreed))
        if record[0]:
            self._ids = {ROOT: ROOT_ID}

    # --- surviving the end of this process -----------------------------------------------

    def take_changes(self) -> list[Change]:
        """The changes since this was asked last, for a log that `replay` is given later."""
        changes, self._unsaid = self._unsaid, []
        return changes

    def replay(self, change: Change) -> None:
        """Make a change again that an earlier process made, perhaps on top of itself.

        All that came up to some later change may be here already. So a rename is known by its
        inodes: what is at either path may be something else by now, with other things in it.
        """
        path, agreed, old = change
        if agreed is None:
            self.remove(path)
        elif not self.has_directory(split(path)[0]):
            pass  # it went with its directory
        elif old and _is_same(self.get(old), agreed) and not _is_same(self.get(path), agreed):
            self.rename(old, path, agreed)
        else:
            if old and _is_same(self.get(old), agreed):
                self.remove(old)  # put there again by the change before
            self.put(path, agreed)
        self._unsaid.clear()

    # --- making it last --------------------------------------------------------------

    @property
    def uncommitted(self) -> int:
        """How many records wait for `freeze`."""
        return self._recent.size

    @property
    def is_committed(self) -> bool:
        """Tell whether everything agreed is in the rows."""
        return not self._recent.size and self._frozen is None

    def freeze(self) -> bool:
        """Set everything agreed so far apart for `commit`; False: there is nothing."""
        assert self._frozen is None, "one generation is committed at a time"
        if not self._recent.size:
            return False
        self._frozen = self._recent
        self._recent = _Changes()
        return True

    def thaw(self) -> None:
        """Take back a frozen generation that was not committed; harmless if there is none."""
        frozen, newer = self._frozen, self._recent
        if frozen is None:
            return
        self._frozen, self._recent = None, frozen
        for parent, names in newer.by_parent.items():
            for name, record in names.items():
                self._recent.set(parent, name, record)

    def commit(self) -> None:
        """Write the frozen generation: both replicas hold it durably now."""
        frozen = self._frozen
        assert frozen is not None
        puts: list[tuple[int, bytes, int, Agreed]] = []
        removals: list[tuple[int, bytes]] = []
        for parent, names in frozen.by_parent.items():
            for name, record in names.items():
                if record is None:
                    removals.append((parent, name))
                else:
                    puts.append((parent, name, record[0], record[1]))
        self._rows.commit(puts, removals, self._next_id)
        self._fresh_digests = [
            digest
            for digest in self._fresh_digests
            if digest[0] not in frozen.by_parent and digest[0] not in frozen.where
        ]
        for parent, names in frozen.by_parent.items():
            for name in names:
                self._read.pop((parent, name), None)
        self._frozen = None

    def roll_back(self) -> None:
        """Forget what is not in the rows: a replica may have lost the bytes."""
        self._recent, self._frozen = _Changes(), None
        self._ids = {ROOT: ROOT_ID}
        self._read.clear()
        self._fresh_digests = []
        self._unsaid = []
        self.count = self._rows.count

    def remember_digests(self) -> None:
        """Write the digests that were computed meanwhile, so that the next start is quick."""
        fresh = [d for d in self._fresh_digests if not self._touched(d[0])]
        self._fresh_digests = []
        if fresh:
            self._rows.set_digests(fresh)

    # --- inside ------------------------------------------------------------------------

    def _at(self, parent: int, name: bytes) -> Record | None:
        for changes in (self._recent, self._frozen):
            if changes is not None:
                names = changes.by_parent.get(parent)
                if names is not None and name in names:
                    return names[name]
        if parent >= self._rows.next_id:
            return None  # a directory that the rows have not heard of yet
        key = (parent, name)
        if key not in self._read:
            if len(self._read) > _READ_MAX:
                self._read.clear()
            self._read[key] = self._rows.get(parent, name)
        return self._read[key]

    def _find(self, path: bytes) -> Record | None:
        if not path:
            return None
        directory, name = split(path)
        parent = self._number(directory)
        return self._at(parent, name) if parent else None

    def _number(self, path: bytes) -> int:
        """A directory's id; 0: it has no record."""
        unknown: list[bytes] = []
        while (number := self._ids.get(path)) is None:  # the root's is known
            unknown.append(path)
            path = path.rpartition(b"/")[0]
        while unknown and number:
            path = unknown.pop()
            record = self._at(number, path.rpartition(b"/")[2])
            number = record[0] if record else 0
            if number:
                if len(self._ids) > _IDS_MAX:
                    self._ids = {ROOT: ROOT_ID}
                self._ids[path] = number
        return number

    def _children(self, number: int) -> Iterator[tuple[bytes, int, Agreed]]:
        rows = self._rows.children(number) if number < self._rows.next_id else iter(())
        layers = self._layers(number)
        if not layers:
            return rows
        merged: dict[bytes, Record | None] = {name: (n, agreed) for name, n, agreed in rows}
        for layer in layers:
            merged.update(layer)
        return ((name, *record) for name, record in sorted(merged.items()) if record is not None)

    def _layers(self, number: int) -> list[dict[bytes, Record | None]]:
        """What is not in a directory's rows yet, the older first."""
        return [
            c.by_parent[number]
            for c in (self._frozen, self._recent)
            if c is not None and number in c.by_parent
        ]

    def _touched(self, number: int) -> bool:
        """Tell whether a directory or something in it has changed since the rows' last commit."""
        return any(
            c is not None and (number in c.by_parent or number in c.where)
            for c in (self._recent, self._frozen)
        )

    def _path(self, number: int) -> bytes | None:
        """A directory's path; None: it is gone."""
        names: list[bytes] = []
        while number != ROOT_ID:
            place = None
            for changes in (self._recent, self._frozen):
                if changes is not None and number in changes.where:
                    place = changes.where[number]
                    break
            place = place or self._rows.locate(number)
            if place is None:
                return None
            record = self._at(*place)
            if record is None or record[0] != number:
                return None
            names.append(place[1])
            number = place[0]
        return b"/".join(reversed(names))


def _is_same(there: Agreed | None, agreed: Agreed) -> bool:
    """Tell whether two records are of the same inodes."""
    return there is not None and (there.kind, there.left_ino, there.right_ino) == (
        agreed.kind,
        agreed.left_ino,
        agreed.right_ino,
    )
