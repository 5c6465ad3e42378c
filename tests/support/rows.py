"""The archive's rows in a table in memory: what `effects.store.Rows` does, without a disk.

**Invariants.** Only `commit` and `set_digests` change anything, as in a database; so
an `Archive` made anew from the same rows finds what was committed, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator

from psync.core.archive import Record
from psync.core.entry import Agreed

__all__ = ["MemoryRows"]


class MemoryRows:
    """See `core.archive.Rows`."""

    def __init__(self) -> None:
        self.next_id = 2
        self._names: dict[int, dict[bytes, Record]] = {}
        self._places: dict[int, tuple[int, bytes]] = {}
        self._inodes: tuple[dict[int, set[tuple[int, bytes]]], ...] = ({}, {})
        self._digests: dict[tuple[int, int], bytes] = {}

    @property
    def count(self) -> int:
        return sum(map(len, self._names.values()))

    def get(self, parent: int, name: bytes) -> Record | None:
        return self._names.get(parent, {}).get(name)

    def children(self, parent: int) -> Iterator[tuple[bytes, int, Agreed]]:
        names = self._names.get(parent, {})
        return ((name, *record) for name, record in sorted(names.items()))

    def names(self, parent: int, after: bytes, upto: bytes | None) -> list[bytes]:
        names = sorted(self._names.get(parent, {}))
        return [n for n in names if after < n and (upto is None or n <= upto)]

    def locate(self, directory: int) -> tuple[int, bytes] | None:
        return self._places.get(directory)

    def by_inode(self, side: int, ino: int) -> list[tuple[int, bytes]]:
        return sorted(self._inodes[side].get(ino, ()))

    def digest(self, directory: int, side: int) -> bytes:
        return self._digests.get((directory, side), b"")

    def set_digests(self, digests: list[tuple[int, int, bytes]]) -> None:
        for directory, side, digest in digests:
            self._digests[directory, side] = digest

    def commit(
        self,
        puts: list[tuple[int, bytes, int, Agreed]],
        removals: list[tuple[int, bytes]],
        next_id: int,
    ) -> None:
        for parent, name in removals:
            self._drop(parent, name)
        for parent, name, number, agreed in puts:
            self._drop(parent, name)
            if number in self._places:
                self._drop(*self._places[number])
            self._names.setdefault(parent, {})[name] = (number, agreed)
            for side in (0, 1):
                places = self._inodes[side].setdefault(agreed.on(side).ino, set())
                places.add((parent, name))
            if number:
                self._places[number] = (parent, name)
                self._forget_digests(number)
        self.next_id = next_id

    def _drop(self, parent: int, name: bytes) -> None:
        self._forget_digests(parent)
        record = self._names.get(parent, {}).pop(name, None)
        if record is None:
            return
        number, agreed = record
        if not self._names[parent]:
            del self._names[parent]
        for side in (0, 1):
            self._inodes[side][agreed.on(side).ino].discard((parent, name))
        if number:
            self._forget_digests(number)
            if self._places.get(number) == (parent, name):
                del self._places[number]

    def _forget_digests(self, directory: int) -> None:
        for side in (0, 1):
            self._digests.pop((directory, side), None)
