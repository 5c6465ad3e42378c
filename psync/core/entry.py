"""What is at a path: the values that every layer of psync speaks in.

Paths are `bytes`, relative to a replica's root, with single slashes between the
components; the root itself is `b""`. Values are named tuples: quick to make, in
the standard library of every Python that an agent may meet, and arrays on the wire.

**Invariants.** Nothing here does I/O. `Entry` is what one look at one replica
showed, with the inode and ctime that prove its identity *there*; `Agreed` is a
row of the archive, the state that both replicas hold, with both identities.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from hashlib import blake2b
from typing import Iterable, NamedTuple, Optional, Tuple

__all__ = [
    "META_FIELDS",
    "ROOT",
    "TICK_NS",
    "XATTRS_MAX",
    "Agreed",
    "Entry",
    "Kind",
    "Side",
    "ancestors",
    "below_or_at",
    "content_digest",
    "directory_digest",
    "is_below",
    "is_ours",
    "join",
    "parent",
    "printable",
    "split",
    "valid_path",
]

ROOT = b""
CONTROL_NAME = b".psync"  # psync's own directory in each root
LOCAL_SUFFIX = b".psync.ignore"  # a name that ends so stays on its replica


class Side(IntEnum):
    """One of the two replicas; data, never a branch."""

    LEFT = 0
    RIGHT = 1

    @property
    def other(self) -> Side:
        """The opposite replica."""
        return _OTHER[self]


_OTHER = (Side.RIGHT, Side.LEFT)


class Kind(IntEnum):
    """What an entry is; anything else (fifo, socket, device) is not replicated."""

    FILE = 1
    DIRECTORY = 2
    SYMLINK = 3


class Entry(NamedTuple):
    """What one look showed at a path on one replica.

    `mode` holds permission bits (0 for a symlink); `size` is in bytes and 0 for
    all but files; `target` is a symlink's text; `digest` is `content_digest` of a
    file where it is known, else empty; `ino` and `ctime_ns` identify the version
    on its own replica and mean nothing on the other. `xattrs` are the extended attributes and
    ACLs that are replicated, as `psync.xattrs` packs them: empty for none.
    """

    kind: int
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    target: bytes
    digest: bytes
    ino: int
    ctime_ns: int
    xattrs: bytes = b""

    def same_identity(self, other: Optional[Entry]) -> bool:
        """Tell whether `other`, seen on the same replica, is this very version.

        A directory's ctime changes with its children, so only its inode counts.
        """
        if other is None or self.kind != other.kind or self.ino != other.ino:
            return False
        if self.kind == Kind.DIRECTORY:
            return True
        return (
            self.ctime_ns == other.ctime_ns
            and self.size == other.size
            and self.mtime_ns == other.mtime_ns
        )

    def tells_writes(self) -> bool:
        """Tell whether a write at the moment of `ctime_ns` would have left another `mtime_ns`.

        Not if the mtime is as new as it is coarse: as coarse as the zeros at its end say, or as
        the kernel's clock ticks. Only a file is written to.
        """
        if self.kind != Kind.FILE:
            return True
        if not self.mtime_ns:
            return False
        grain = TICK_NS
        while not self.mtime_ns % (10 * grain):
            grain *= 10
        return abs(self.ctime_ns - self.mtime_ns) >= 2 * grain  # FAT counts by two seconds

    def bare(self) -> Entry:
        """The same without what identifies it on its own replica."""
        return Entry(*self[:8], 0, 0, self.xattrs)

    def same_meta(self, other: Entry) -> bool:
        """Tell whether mode, owner, group, mtime and attributes are equal on any replicas."""
        return (
            self.mode == other.mode
            and self.uid == other.uid
            and self.gid == other.gid
            and self.mtime_ns == other.mtime_ns
            and self.xattrs == other.xattrs
        )

    def meta(self) -> bytes:
        """Mode, owner, group, mtime and attributes, packed."""
        return _META.pack(self.mode, self.uid, self.gid, self.mtime_ns) + self.xattrs

    def with_meta(self, packed: bytes) -> Entry:
        """The same with other metadata, as `meta` gave them."""
        mode, uid, gid, mtime_ns = _META.unpack_from(packed)
        return self._replace(
            mode=mode, uid=uid, gid=gid, mtime_ns=mtime_ns, xattrs=packed[_META.size :]
        )


META_FIELDS = ("mode", "uid", "gid", "mtime_ns", "xattrs")
TICK_NS = 10_000_000  # of the slowest kernels
XATTRS_MAX = 65_536  # bytes of `Entry.xattrs`
_META = struct.Struct("<HIIq")


class Agreed(NamedTuple):
    """The archive's record of a path: what both replicas hold, and each one's identity.

    For a directory `size`, `left_ctime_ns` and `right_ctime_ns` are 0. `left_own` and
    `right_own` are what a side holds in place of the agreed metadata if it cannot hold those
    (`Entry.meta`), else empty.
    """

    kind: int
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    target: bytes
    digest: bytes
    left_ino: int
    left_ctime_ns: int
    right_ino: int
    right_ctime_ns: int
    left_own: bytes = b""
    right_own: bytes = b""
    xattrs: bytes = b""

    def on(self, side: int) -> Entry:
        """The entry that `side` held when both agreed."""
        if side == Side.LEFT:
            ino, ctime_ns, own = self.left_ino, self.left_ctime_ns, self.left_own
        else:
            ino, ctime_ns, own = self.right_ino, self.right_ctime_ns, self.right_own
        entry = Entry(*self[:8], ino, ctime_ns, self.xattrs)
        return entry.with_meta(own) if own else entry

    def seen(self, left: Entry, right: Entry) -> Agreed:
        """The same, in the versions that the sides have now."""
        return self._replace(
            left_ino=left.ino,
            left_ctime_ns=left.ctime_ns,
            right_ino=right.ino,
            right_ctime_ns=right.ctime_ns,
        )

    def held(self, wanted: Entry, left: Entry, right: Entry) -> Agreed:
        """The same with the metadata of `wanted`, of which the sides hold what they show."""
        return self._replace(
            **{field: getattr(wanted, field) for field in META_FIELDS},
            left_own=b"" if left.same_meta(wanted) else left.meta(),
            right_own=b"" if right.same_meta(wanted) else right.meta(),
        )

    def as_agreed(self, side: int, entry: Entry) -> Entry:
        """What a side shows, with the agreed metadata where it holds all of them that it can.

        Other content has its own time, be it cut to the same.
        """
        if entry.kind != self.kind or not (self.left_own, self.right_own)[side]:
            return entry
        own = self.on(side)
        fields = {f: getattr(self, f) for f in META_FIELDS if getattr(entry, f) == getattr(own, f)}
        differs = entry.digest != self.digest and bool(entry.digest and self.digest)
        if differs or (entry.size, entry.target) != (self.size, self.target):
            fields.pop("mtime_ns", None)
        return entry._replace(**fields)


def content_digest(content: bytes) -> bytes:
    """The digest of a file's content: BLAKE2b, 16 bytes."""
    return blake2b(content, digest_size=16).digest()


_OWN = struct.Struct("<QHII")
_CHILD = struct.Struct("<BHIIQQQQ")
_UINT64 = (1 << 64) - 1  # times as the C of cinotify has them: two's complement, wrapped
_LENGTH = struct.Struct("<I")


def directory_digest(own: Entry, children: Iterable[Tuple[bytes, Entry]]) -> bytes:
    """Digest a directory as one replica shows it, so that it can be recognised unchanged.

    cinotify computes the same in C while it scans (`cinotify/scan.c`).

    Args:
        own: the directory's own entry.
        children: `(name, entry)` of everything replicated in it, in byte order of the names.

    Returns:
        16 bytes: BLAKE2b over the little-endian records of mtime, mode, uid, gid of the
        directory; then for each child its name's length and bytes, and kind, mode, uid,
        gid, size, mtime, inode, ctime, where size, mtime and ctime of a
        subdirectory count as 0. The attributes of files show in their ctimes; those of the
        directory come first, if it has any: such a digest `cinotify` never makes.
    """
    state = blake2b(digest_size=16)
    update = state.update
    update(own.xattrs)
    update(_OWN.pack(own.mtime_ns & _UINT64, own.mode, own.uid, own.gid))
    for name, e in children:
        update(_LENGTH.pack(len(name)))
        update(name)
        if e.kind == Kind.DIRECTORY:
            update(_CHILD.pack(e.kind, e.mode, e.uid, e.gid, 0, 0, e.ino, 0))
        else:
            update(
                _CHILD.pack(
                    e.kind,
                    e.mode,
                    e.uid,
                    e.gid,
                    e.size,
                    e.mtime_ns & _UINT64,
                    e.ino,
                    e.ctime_ns & _UINT64,
                )
            )
    return state.digest()


def split(path: bytes) -> Tuple[bytes, bytes]:
    """Split a path into its parent and its name."""
    head, _, name = path.rpartition(b"/")
    return head, name


def parent(path: bytes) -> bytes:
    """The directory that a path is in; the root's parent is the root."""
    return path.rpartition(b"/")[0]


def join(directory: bytes, name: bytes) -> bytes:
    """The path of a name in a directory."""
    return directory + b"/" + name if directory else name


def ancestors(path: bytes) -> Iterable[bytes]:
    """Yield each directory above a path, nearest first, the root last."""
    while path:
        path = path.rpartition(b"/")[0]
        yield path


def is_below(path: bytes, directory: bytes) -> bool:
    """Tell whether a path is inside a directory, at any depth (not the directory itself)."""
    if not directory:
        return bool(path)
    return len(path) > len(directory) and path.startswith(directory) and path[len(directory)] == 47


def below_or_at(path: bytes, directory: bytes) -> bool:
    """Tell whether a path is a directory's own, or inside it, at any depth."""
    return path == directory or is_below(path, directory)


def is_ours(path: bytes) -> bool:
    """Tell whether a path is never replicated: psync's own directory, or a local name.

    A directory inside may be another pair's root: its `.psync` is nobody else's either.
    """
    return CONTROL_NAME in path and any(
        c == CONTROL_NAME or c.endswith(LOCAL_SUFFIX) for c in path.split(b"/")
    )


def valid_path(path: bytes) -> bool:
    """Tell whether a path that a peer sent names something inside the root.

    Accepts the root. Rejects NUL, absolute paths, empty components, `.` and `..`,
    components over 255 bytes, and psync's own directories.
    """
    if not path:
        return True
    if b"\0" in path or len(path) > 65535:
        return False
    return all(
        p and p not in (b".", b"..", CONTROL_NAME) and len(p) <= 255 for p in path.split(b"/")
    )


def printable(path: bytes) -> str:
    """Render a path for people: no byte of it can forge a line or move a cursor."""
    text = path.decode("utf-8", "surrogateescape")
    if text.isprintable() and "\\" not in text:
        return text or "."
    return "".join([c if c.isprintable() and c != "\\" else _escaped(c) for c in text])


def _escaped(character: str) -> str:
    """Escape what a terminal must not see, so that the bytes can be read back from it."""
    if character.isascii():
        return character.encode("unicode_escape").decode()
    return "".join([f"\\x{byte:02x}" for byte in character.encode("utf-8", "surrogateescape")])
