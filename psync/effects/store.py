"""Remember, over any crash, what both replicas last agreed on.

`Rows` is the archive's table: one row a path, keyed by the directory's id and the name,
so that a renamed directory is one row however much is in it. `Intents` is the light
record of what was sent and may already stand on a replica though the archive
does not say so yet.

**Invariants.** A commit happens as a whole or not at all, and commits are never
reordered: after a power cut the database is at some older commit, which is safe (the
replicas are then ahead of the archive, and equal). A directory's id is never used again.
A stored digest stands for the rows as they are: touching a directory's row, or any row in
it, forgets its digests. What cannot be read as a database is moved aside, never
repaired and never trusted: without an archive two trees are united, and nothing is deleted.

It does not know paths, sides beyond their number, or what a row means; `core/archive.py`
does. It is used from one thread, and one process (`SessionDir.lock`).
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote
from zlib import crc32

import apsw

from psync.core.entry import Agreed
from psync.effects.state import SessionDir, reason, sessions
from psync.errors import StoreError, UnwritableError

__all__ = [
    "ROOT_ID", "Intents", "Rows", "SessionDir", "archives_of", "is_of_no_pair", "set_aside",
]  # fmt: skip

ROOT_ID = 1  # the root is the row (0, b"")
SCHEMA = 3

_TABLES = """
CREATE TABLE entry (
    parent         INTEGER NOT NULL,  -- id of the directory it is in; 0: it is the root
    name           BLOB    NOT NULL,
    id             INTEGER NOT NULL,  -- of a directory; 0 for anything else
    kind           INTEGER NOT NULL,  -- 1 file, 2 directory, 3 symlink
    mode           INTEGER NOT NULL,
    uid            INTEGER NOT NULL,
    gid            INTEGER NOT NULL,
    size           INTEGER NOT NULL,
    mtime_ns       INTEGER NOT NULL,
    target         BLOB    NOT NULL,
    digest         BLOB    NOT NULL,  -- of a file's content, BLAKE2b-128, empty where unknown
    left_ino       INTEGER NOT NULL,  -- as signed 64 bits
    left_ctime_ns  INTEGER NOT NULL,
    right_ino      INTEGER NOT NULL,
    right_ctime_ns INTEGER NOT NULL,
    left_own       BLOB    NOT NULL DEFAULT x'',  -- metadata that a side holds in place of the
    right_own      BLOB    NOT NULL DEFAULT x'',  -- agreed, because it cannot hold those
    xattrs         BLOB    NOT NULL DEFAULT x'',
    PRIMARY KEY (parent, name)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX directory ON entry (id) WHERE id > 0;
CREATE INDEX left_inode ON entry (left_ino);
CREATE INDEX right_inode ON entry (right_ino);
CREATE TABLE digest (
    directory INTEGER NOT NULL,
    side      INTEGER NOT NULL,       -- 0 left, 1 right
    digest    BLOB    NOT NULL,
    PRIMARY KEY (directory, side)
) STRICT, WITHOUT ROWID;
CREATE TABLE meta (
    key   TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;
"""

_UPGRADES = {  # by the version that they lead to
    2: """
    ALTER TABLE entry ADD COLUMN left_own BLOB NOT NULL DEFAULT x'';
    ALTER TABLE entry ADD COLUMN right_own BLOB NOT NULL DEFAULT x'';
    """,
    3: "ALTER TABLE entry ADD COLUMN xattrs BLOB NOT NULL DEFAULT x''",
}

_AGREED = ", ".join(Agreed._fields)
_GET = f"SELECT id, {_AGREED} FROM entry WHERE parent = ? AND name = ?"
_CHILDREN = f"SELECT name, id, {_AGREED} FROM entry WHERE parent = ? ORDER BY name"
_NAMES = "SELECT name FROM entry WHERE parent = ? AND name > ? ORDER BY name"
_NAMES_UPTO = "SELECT name FROM entry WHERE parent = ? AND name > ? AND name <= ? ORDER BY name"
_LOCATE = "SELECT parent, name FROM entry WHERE id = ? AND id > 0"
_BY_INODE = (
    "SELECT parent, name FROM entry WHERE left_ino = ? ORDER BY parent, name",
    "SELECT parent, name FROM entry WHERE right_ino = ? ORDER BY parent, name",
)
_DIGEST = "SELECT digest FROM digest WHERE directory = ? AND side = ?"
_SET_DIGEST = "INSERT OR REPLACE INTO digest VALUES (?, ?, ?)"
_FORGET_DIGESTS = "DELETE FROM digest WHERE directory = ?"
_REMOVE = "DELETE FROM entry WHERE parent = ? AND name = ? RETURNING id"
_REMOVE_DIRECTORY = "DELETE FROM entry WHERE id = ? AND id > 0 RETURNING id"
_INSERT = f"INSERT INTO entry VALUES ({', '.join('?' * (3 + len(Agreed._fields)))})"
_META = "SELECT value FROM meta WHERE key = ?"
_SET_META = "INSERT OR REPLACE INTO meta VALUES (?, ?)"

# What may pass: the disk is full or over quota, was made read-only, does not answer.
_PASSING = (apsw.FullError, apsw.IOError, apsw.ReadOnlyError, apsw.CantOpenError)
_INT64_MAX = (1 << 63) - 1
_UINT64 = 1 << 64
_Rows = dict[tuple[int, bytes], tuple[Any, ...]]


class Rows:
    """The archive's rows, in one SQLite file.

    Every method blocks, for microseconds; `commit` for some 3 ms a thousand rows.

    Attributes:
        next_id: the id for the next new directory; the caller counts it up and hands it
            to `commit`.
        count: how many entries there are.
        moved_aside: where a database that could not be read went when this one was opened
            in its place; the intents beside it mean nothing without it.
    """

    def __init__(
        self,
        path: Path,
        *,
        durable: bool = False,
        warn: Callable[[str], None] = lambda _line: None,
    ) -> None:
        """Open the archive, or make an empty one.

        Args:
            path: the database file.
            durable: make every commit durable before it returns; otherwise a power cut
                may take the latest commits, in order.
            warn: is told, in one line, when a broken database was moved aside.

        Raises:
            StoreError: the file cannot be used, or is of a newer psync.
        """
        self._path = path
        self._durable = durable
        self.moved_aside: Path | None = None
        try:
            try:
                self._open()
            except (
                apsw.CorruptError,
                apsw.NotADBError,
                apsw.SQLError,
                apsw.MismatchError,
            ) as error:
                self._db.close(True)
                self.moved_aside = set_aside(path, "broken")
                warn(
                    f"the archive {path} cannot be read ({error}); it is now {self.moved_aside}, "
                    "and this start compares both trees without it: nothing is deleted, and "
                    "what differs is kept as a conflict"
                )
                self._open()
        except apsw.Error as error:
            self._fail(error)
        except OSError as error:
            raise StoreError(f"cannot use the archive {path}: {reason(error)}") from None
        except UnicodeEncodeError:
            raise StoreError(f"the name of the archive {path} is not valid UTF-8") from None

    def _open(self) -> None:
        # SQLite gives its other files the mode that this one has.
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        db = self._db = apsw.Connection(os.fspath(self._path))
        # Nobody else may open it, so that no lock is taken for a read, and nothing is
        # mapped: a state directory on NFS works.
        db.pragma("locking_mode", "EXCLUSIVE")
        version = db.pragma("user_version")
        if version > SCHEMA:
            db.close()
            raise StoreError(
                f"the archive {self._path} was written by a newer psync (schema {version}, "
                f"this one knows {SCHEMA}): upgrade psync, or move the file away to start afresh"
            )
        db.pragma("journal_mode", "WAL")
        db.pragma("synchronous", "FULL" if self._durable else "NORMAL")
        db.pragma("cache_size", -16 * 1024)  # KiB
        if version == 0:
            with db:
                db.execute(_TABLES)
                db.execute(_SET_META, ("next_id", str(ROOT_ID + 1)))
                db.pragma("user_version", SCHEMA)
        elif version < SCHEMA:
            with db:
                for step in range(version + 1, SCHEMA + 1):
                    db.execute(_UPGRADES[step])
                db.pragma("user_version", SCHEMA)
        closed = db.execute(_META, ("closed",)).get
        if version and closed != "cleanly" and db.pragma("quick_check") != "ok":
            raise apsw.CorruptError("its pages contradict each other")
        db.execute(_SET_META, ("closed", "no"))
        next_id = db.execute(_META, ("next_id",)).get
        if next_id is None or not next_id.isdecimal():
            raise apsw.CorruptError("it does not say which ids are free")
        self.next_id = int(next_id)
        self.count: int = db.execute("SELECT count(*) FROM entry").get

    def _fail(self, error: apsw.Error) -> NoReturn:
        if isinstance(error, (apsw.CorruptError, apsw.NotADBError)):
            self._db.close(True)
            aside = set_aside(self._path, "broken")
            raise StoreError(
                f"the archive {self._path} is damaged ({error}) and is now {aside}: "
                "start again, and both trees are compared without it"
            ) from None
        # SQLite may have rolled back by itself, and then there is no transaction to leave.
        first = error.__context__ if isinstance(error.__context__, apsw.Error) else error
        kind = UnwritableError if isinstance(first, _PASSING) else StoreError
        hint = ": is there room, or a free inode (df -i)?" * isinstance(first, apsw.CantOpenError)
        raise kind(f"cannot use the archive {self._path}: {first}{hint}") from None

    def _one(self, query: str, *bindings: Any) -> Any:
        """Run a query; return its first row, or None."""
        try:
            return self._db.execute(query, bindings).fetchone()
        except apsw.Error as error:
            self._fail(error)

    def _all(self, query: str, *bindings: Any) -> list[Any]:
        """Run a query; return its rows."""
        try:
            return self._db.execute(query, bindings).fetchall()
        except apsw.Error as error:
            self._fail(error)

    def get(self, parent: int, name: bytes) -> tuple[int, Agreed] | None:
        """Return `(id, record)` of an entry; the id is 0 for all but directories."""
        row = self._one(_GET, parent, name)
        return None if row is None else (row[0], _agreed(row[1:]))

    def children(self, parent: int) -> Iterator[tuple[bytes, int, Agreed]]:
        """Yield `(name, id, record)` of everything in a directory, in byte order of the names.

        They are read one by one: whoever changes the directory meanwhile lists them first.
        """
        try:
            for row in self._db.execute(_CHILDREN, (parent,)):
                yield row[0], row[1], _agreed(row[2:])
        except apsw.Error as error:
            self._fail(error)

    def names(self, parent: int, after: bytes, upto: bytes | None) -> list[bytes]:
        """Return the names in a directory with `after < name <= upto`; None: to the end."""
        if upto is None:
            return [row[0] for row in self._all(_NAMES, parent, after)]
        return [row[0] for row in self._all(_NAMES_UPTO, parent, after, upto)]

    def locate(self, directory: int) -> tuple[int, bytes] | None:
        """Return `(parent, name)` of a directory."""
        row: tuple[int, bytes] | None = self._one(_LOCATE, directory)
        return row

    def by_inode(self, side: int, ino: int) -> list[tuple[int, bytes]]:
        """Return `(parent, name)` of every entry that has this inode on a side."""
        return self._all(_BY_INODE[side], _signed(ino))

    def digest(self, directory: int, side: int) -> bytes:
        """Return the digest that stands for a directory's rows on a side, `b""` for unknown."""
        row = self._one(_DIGEST, directory, side)
        return b"" if row is None else row[0]

    def set_digests(self, digests: Iterable[tuple[int, int, bytes]]) -> None:
        """Remember `(directory, side, digest)`s: each stands for the rows as they are now."""
        try:
            with self._db:
                self._db.executemany(_SET_DIGEST, digests)
        except apsw.Error as error:
            self._fail(error)

    def commit(
        self,
        puts: list[tuple[int, bytes, int, Agreed]],
        removals: list[tuple[int, bytes]],
        next_id: int,
    ) -> None:
        """Make these changes, all or none.

        Removals come first. A directory is at one place: putting its id somewhere takes it
        from where it was, with all that is in it, so that a move needs no removal. To
        remove a directory does not remove what is in it: that is for the caller to list.

        Args:
            puts: `(parent, name, id, record)`; of two for the same place the later counts.
            removals: `(parent, name)`.
            next_id: as after these changes.

        Raises:
            StoreError: nothing was changed; an UnwritableError may pass.
        """
        rows: _Rows = {put[:2]: (*put[:3], *put[3]) for put in puts}
        try:
            try:
                change = self._replace(rows, removals, next_id)
            except OverflowError:  # an inode of 64 bits: too rare to look for it first
                rows = {key: (*row[:3], *map(_signed, row[3:])) for key, row in rows.items()}
                change = self._replace(rows, removals, next_id)
        except apsw.Error as error:
            self._fail(error)
        self.count += change
        self.next_id = next_id

    def _replace(self, rows: _Rows, removals: list[tuple[int, bytes]], next_id: int) -> int:
        """Do what `commit` says; return by how much the number of entries grew."""
        db = self._db
        directories = [(row[2],) for row in rows.values() if row[2]]
        with db:
            gone: list[Any] = db.executemany(_REMOVE, removals).fetchall() if removals else []
            if rows:
                gone += db.executemany(_REMOVE, rows).fetchall()
                if directories:
                    gone += db.executemany(_REMOVE_DIRECTORY, directories).fetchall()
                db.executemany(_INSERT, rows.values())
            touched = {(parent,) for parent, _ in rows}
            touched.update((parent,) for parent, _ in removals)
            touched.update(directories)
            touched.update(row for row in gone if row[0])
            db.executemany(_FORGET_DIGESTS, touched)
            if next_id != self.next_id:
                db.execute(_SET_META, ("next_id", str(next_id)))
        return len(rows) - len(gone)

    def meta(self, key: str) -> str | None:
        """Return a remembered word about the session itself."""
        row = self._one(_META, key)
        return None if row is None else row[0]

    def set_meta(self, key: str, value: str, *, durable: bool = False) -> None:
        """Remember a word about the session; `durable`: for good, and all that came before."""
        try:
            if durable:
                self._db.pragma("synchronous", "FULL")
            try:
                self._db.execute(_SET_META, (key, value))
            finally:
                if durable and not self._durable:
                    self._db.pragma("synchronous", "NORMAL")
        except apsw.Error as error:
            self._fail(error)

    def close(self) -> None:
        """Close, and note that nothing has to be checked at the next start; harmless when done."""
        try:
            with suppress(*_PASSING):  # then the next start checks it
                self._db.execute(_SET_META, ("closed", "cleanly"))
            self._db.close()
        except apsw.ConnectionClosedError:
            pass  # closed before, or moved aside
        except apsw.Error as error:
            self._fail(error)


def archives_of(pair: str, but: SessionDir) -> list[str]:
    """Which other sessions of a state directory have an archive of a pair; by name.

    Their databases are read without locks, and what cannot be read has none.
    """
    found = []
    with suppress(StoreError):
        for each in sessions(but.path.parent.parent):
            if each.name == but.name or not each.agreed:
                continue
            with suppress(apsw.Error):
                if _pairs(each) == [(pair,)]:
                    found.append(each.name)
    return found


def is_of_no_pair(session: SessionDir) -> bool:
    """Tell whether a session that has ended never came to know its pair; False where in doubt."""
    try:
        return session.fresh or not _pairs(session)
    except apsw.Error:
        return False


def _pairs(session: SessionDir) -> list[tuple[Any, ...]]:
    """Read the id of a session's pair, without locks; what is not checkpointed is not seen."""
    uri = f"file:{quote(os.fsencode(session.database))}?immutable=1"
    db = apsw.Connection(uri, flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
    try:
        return db.execute(_META, ("pair",)).fetchall()
    finally:
        db.close()


def set_aside(path: Path, why: str) -> Path:
    """Rename a database that is not open, and its log, together, to names that nothing opens.

    Args:
        path: of the database.
        why: a word for the new name.

    Raises:
        StoreError: it cannot be renamed.
    """
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    aside = path.with_name(f"{path.name}.{why}-{stamp}")
    serial = 0
    while aside.exists():
        serial += 1
        aside = path.with_name(f"{path.name}.{why}-{stamp}.{serial}")
    for suffix in ("-wal", "-shm", ""):
        try:
            os.rename(f"{path}{suffix}", f"{aside}{suffix}")
        except FileNotFoundError:
            continue
        except OSError as error:
            raise StoreError(f"cannot move the archive {path} aside: {reason(error)}") from None
    return aside


def _agreed(row: tuple[Any, ...]) -> Agreed:
    record = Agreed._make(row)
    if record.left_ino < 0 or record.right_ino < 0:
        return record._replace(
            left_ino=record.left_ino % _UINT64, right_ino=record.right_ino % _UINT64
        )
    return record


def _signed(value: Any) -> Any:
    """Fold an unsigned 64-bit integer into SQLite's signed one; leave the rest alone."""
    if isinstance(value, int) and value > _INT64_MAX:
        return value - _UINT64
    return value


_RECORD = struct.Struct("<II")  # length and CRC-32 of what follows
_RECORD_MAX = 64 * 1024 * 1024


class Intents:
    """An append-only log in generations, `<directory>/intents.<n>`.

    A record is there after this process was killed; nothing is flushed to the disk, for after
    a power cut the archive is old anyway. A file that ends in the middle of a record is
    read up to there.
    """

    def __init__(self, directory: Path) -> None:
        """Look at what an earlier run left; what is appended goes to a new generation.

        Raises:
            StoreError: the directory cannot be read.
        """
        self._directory = directory
        self._fd: int | None = None
        self._size = 0
        self._generation = max(self._generations(), default=0) + 1

    def _generations(self) -> list[int]:
        try:
            names = os.listdir(self._directory)
        except OSError as error:
            raise StoreError(f"cannot read {self._directory}: {reason(error)}") from None
        return sorted(
            int(serial)
            for stem, _, serial in (name.partition(".") for name in names)
            if stem == "intents" and serial.isascii() and serial.isdigit()
        )

    def _file(self, generation: int) -> Path:
        return self._directory / f"intents.{generation}"

    def append(self, records: list[bytes]) -> None:
        """Add records, in one write.

        Raises:
            UnwritableError: none of them was added.
        """
        block = b"".join([part for r in records for part in (_RECORD.pack(len(r), crc32(r)), r)])
        if not block:
            return
        file = self._file(self._generation)
        try:
            if self._fd is None:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
                self._fd = os.open(file, flags, 0o600)
                self._size = 0
            written = os.write(self._fd, block)
        except OSError as error:
            raise UnwritableError(f"cannot write {file}: {reason(error)}") from None
        if written != len(block):
            # A torn record here would hide every later one.
            os.ftruncate(self._fd, self._size)
            raise UnwritableError(f"cannot write {file}: the file system is full")
        self._size += written

    def rotate(self) -> int:
        """Begin a new generation; return the one that ended, for `drop` to take."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
            self._generation += 1
        return self._generation - 1

    def drop(self, generation: int) -> None:
        """Remove every generation up to this one: the archive knows all of it."""
        for each in self._generations():
            if each <= generation and each < self._generation:
                try:
                    self._file(each).unlink(missing_ok=True)
                except OSError as error:
                    raise UnwritableError(
                        f"cannot remove {self._file(each)}: {reason(error)}"
                    ) from None

    def load(self) -> list[bytes]:
        """Return every record there is, in the order they were appended."""
        records: list[bytes] = []
        for generation in self._generations():
            try:
                data = self._file(generation).read_bytes()
            except OSError as error:
                raise StoreError(f"cannot read {self._file(generation)}: {reason(error)}") from None
            at = 0
            while at + _RECORD.size <= len(data):
                size, check = _RECORD.unpack_from(data, at)
                record = data[at + _RECORD.size : at + _RECORD.size + size]
                if len(record) != size or size > _RECORD_MAX or crc32(record) != check:
                    break
                records.append(record)
                at += _RECORD.size + size
        return records

    def close(self) -> None:
        """Close the file; what is in it stays."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
            self._generation += 1
