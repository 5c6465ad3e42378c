"""The frames that the brain and an agent exchange, and how they become bytes.

A frame is a big-endian u32 length, a u8 type and a MessagePack body; the body is the
array of a message's fields, never a map. `MAGIC` comes once, before an agent's first
frame: whatever a remote shell prints before it is no part of the conversation.

**Invariants.** Sans I/O: `Framer` takes bytes and gives messages. A length over
`FRAME_MAX` is refused before anything is allocated. Every field is checked against its
declared type, so that a message that came out of here has the shape its class says;
*paths* in it are still the peer's claim and are checked by who uses them.

With msgspec (always in the brain) the work is done in C; without it (an agent on a bare
host) a small MessagePack of our own does the same, byte for byte.
"""

from __future__ import annotations

import struct
from typing import (
    Any,
    Callable,
    Dict,
    List,
    NamedTuple,
    Optional,
    Tuple,
    Type,
    Union,
    get_type_hints,
)

from psync.core.entry import Entry
from psync.errors import AgentError

try:
    from msgspec import msgpack as _fast
except ImportError:  # a bare host: the pure codec below serves
    _fast = None  # type: ignore[assignment]
_HAS_FAST = _fast is not None

__all__ = [
    "AUDIT_CREDIT",
    "BLOCK_MAX",
    "CREDIT",
    "FRAME_MAX",
    "MAGIC",
    "PROTOCOL",
    "Framer",
    "encode",
    "listing_weight",
    "messages",
]

PROTOCOL = 1
MAGIC = b"\xf0\x9fps\x16\x01"
FRAME_MAX = 32 * 1024 * 1024
CREDIT = 16 * 1024 * 1024  # bytes of content that an agent may send before the first `Credit`
AUDIT_CREDIT = 2 * 1024 * 1024  # bytes of listings on their way in an audit
BLOCK_MAX = 256 * 1024  # bytes of a file in one `Block`
_ENTRY_WEIGHT = 100
_HEADER = struct.Struct(">IB")


# --- values inside messages -------------------------------------------------------------


class Item(NamedTuple):
    """One observation: what is at a path now.

    Attributes:
        path: relative to the root; in a `Listing`, the name alone.
        entry: what is there, or None when nothing (that is replicated) is.
        content: the whole content of a small, settled file that was read in one piece
            (`entry.digest` is its digest then), else None.
        moved_from: where it was a moment ago, when a rename was seen; a hint.
        flags: `META_ONLY`, `BUSY`, `UNREADABLE`, `DATABASE`.
    """

    path: bytes
    entry: Optional[Entry]
    content: Optional[bytes] = None
    moved_from: bytes = b""
    flags: int = 0


META_ONLY = 1  # only its attributes or its name changed since the last look, not its content
BUSY = 2  # somebody has the file open for writing; it will be reported again
DATABASE = 8  # with `BUSY`: of a database that is in use; it is reported when it is not
UNREADABLE = 4  # it is there, but it may not be read; `entry` is what lstat says


class Transition(NamedTuple):
    """One change to one replica, to be made only if the path is as expected.

    Attributes:
        op: the operation's id, unique for a pair for ever.
        verb: one of the `PUT` ... constants.
        path: what changes; for `RENAME` the new path.
        expected: what must be at `path` now, None for nothing.
        wanted: what shall be there (identity fields are 0), None for nothing.
        source: for `RENAME` the old path, which must hold `source_expected`; for `PUT` of
            a file without `content` the name of the run and file in staging
            (`b"<run>/<n>"`) that rsync filled.
        source_expected: see above.
        content: the content of a small file.
        keep: what is displaced is a conflict's loser and goes to `conflicts/`; for `RMDIR`, so does
            a directory that is not empty.
        links: for `META`, the other paths at which this inode was when last agreed. If it has
            names besides these, which may be outside of the root, a copy takes its place.
    """

    op: int
    verb: int
    path: bytes
    expected: Optional[Entry]
    wanted: Optional[Entry]
    source: bytes = b""
    source_expected: Optional[Entry] = None
    content: Optional[bytes] = None
    keep: bool = False
    links: Optional[List[bytes]] = None


PUT = 1  # create or replace with a file, symlink or directory (`wanted.kind`)
META = 2  # same content; mode, owner, group and mtime become those of `wanted`
DELETE = 3  # remove a file or symlink
RMDIR = 4  # remove an empty directory
RENAME = 5  # `source` becomes `path`


class Outcome(NamedTuple):
    """What became of a transition.

    Attributes:
        op: the transition's.
        status: one of `APPLIED` ... below.
        entry: what is at the path now (with identity), None for nothing; for any status.
        message: one line for people when not applied.
        kept: the name in `conflicts/` under which a loser was kept, else empty.
        unmet: when applied, `entry` has not all of the metadata that were wanted, for this file
            cannot be given them (its file system has none such, or its owner is somebody else).
    """

    op: int
    status: int
    entry: Optional[Entry]
    message: str = ""
    kept: bytes = b""
    unmet: bool = False


APPLIED = 0
CHANGED = 1  # the path is not as expected; nothing was done
IN_USE = 2  # somebody has it open for writing; try again later; nothing was done
NOT_EMPTY = 3  # a directory has entries
NO_PARENT = 4  # the parent directory is not there (or is none)
FAILED = 5  # the system refused; `message` says what


# --- messages: the agent speaks ---------------------------------------------------------


class Hello(NamedTuple):
    """First frame of an agent: who it is.

    `rsync` is the version found, or empty; `booted_ns` is when its host was started, by its clock.
    """

    protocol: int
    version: str
    python: str
    arch: str
    euid: int
    pid: int
    boot_id: str
    hostname: str
    rsync: str
    features: List[str]
    clock_ns: int
    booted_ns: int = 0


class Ready(NamedTuple):
    """The root can be used; nothing has been written yet.

    `root` is its path without symlinks; `marker` is what `.psync/marker` says (`pair id`, `side`
    as text), both empty without one; `generation` is what the last `Sync` called the state;
    `mounted` is another after each mounting of its file system, empty where nobody knows.
    """

    root: bytes
    device: int
    inode: int
    marker_pair: str
    marker_side: str
    empty: bool
    filesystem: str
    generation: str = ""
    mounted: str = ""


class Examined(NamedTuple):
    """Answer to `Examine`; what could not be found out is 0 or empty.

    Attributes:
        token: the question's.
        root: its path without symlinks.
        trouble: why it cannot be used; empty: it can.
        filesystem: its type, as the kernel names it.
        free_bytes: what a user may still write.
        total_bytes: the size of the file system.
        free_inodes: how many files may still be made; counts where `total_inodes` is not 0.
        total_inodes: 0 where it does not count them.
        directories: how many there are to be watched, with the root.
        all_counted: False: there are more.
        watches_max: how many of inotify's watches a user may have.
        watches_used: how many ours has, as far as can be seen.
        instances_max: likewise, of inotify's descriptors.
        queue_max: how many events the kernel keeps for one of them.
        able: what the file system was seen to do.
        unable: what it was seen not to do; both are empty where nothing could be tried.
        clock_ns: the host's time, when this was sent.
    """

    token: int
    root: bytes
    trouble: str
    filesystem: str
    free_bytes: int
    total_bytes: int
    free_inodes: int
    total_inodes: int
    directories: int
    all_counted: bool
    watches_max: int
    watches_used: int
    instances_max: int
    queue_max: int
    able: List[str]
    unable: List[str]
    clock_ns: int


class Fatal(NamedTuple):
    """The agent cannot serve and ends. `code` is stable, `message` is for people.

    Codes: no-root, not-a-directory, unreadable, unwritable, no-room (for what is ours in
    it), locked, claimed, protocol, root-lost, not-durable (its disk did not take what was written),
    internal.
    """

    code: str
    message: str


class Digests(NamedTuple):
    """Directories as the scan found them: `(path, digest)`, parents before children.

    `generation` counts the scans of this agent: a later one supersedes.
    """

    generation: int
    directories: List[Tuple[bytes, bytes]]


class Scanned(NamedTuple):
    """The scan is over: every directory of the tree has been named in `Digests`.

    `local` counts the names that end in `.psync.ignore`, which stay where they are.
    """

    generation: int
    directories: int
    entries: int
    local: int


class Listing(NamedTuple):
    """A directory's whole content, or a range of it.

    Every name in the range `(after, upto]` (`upto` None: to the end; both in byte order)
    that is not in `items` is absent. `entry` is the directory's own; None: it is gone
    (or is no directory), and the range says nothing.
    """

    path: bytes
    entry: Optional[Entry]
    after: bytes
    upto: Optional[bytes]
    items: List[Item]


class Observed(NamedTuple):
    """Paths that were looked at, in order."""

    items: List[Item]


class Results(NamedTuple):
    """What became of a batch, in the batch's order."""

    batch: int
    outcomes: List[Outcome]


class Opened(NamedTuple):
    """Answer to `OpenSource`: file `index` of run `run` is descriptor `fd` of process `pid`.

    `fd` -1: not as expected (or busy); it will be observed again. `sparse` names those of the
    descriptors whose file has holes.
    """

    run: int
    files: List[int]
    pid: int
    sparse: List[int]


class Staged(NamedTuple):
    """Answer to `Stage`: rsync may fill `/proc/<pid>/fd/<fd>/<run>/<name>`."""

    run: int
    pid: int
    fd: int
    message: str


class Closed(NamedTuple):
    """Answer to `CloseSource`: for each file, whether it is still as it was when opened."""

    run: int
    intact: List[bool]


class Synced(NamedTuple):
    """Everything applied before `Sync` is durable (`ok`), or no room is left to name it."""

    token: int
    ok: bool


class Flushed(NamedTuple):
    """Everything that happened before `Flush` has been observed and sent."""

    token: int


class Pong(NamedTuple):
    """Answer to `Ping`."""

    token: int
    clock_ns: int


class Trouble(NamedTuple):
    """A path cannot be observed or handled; `message` is empty when it can again.

    Codes: unreadable (a directory that cannot be listed is never taken for empty), mount,
    limit (of watches), overflow, io, metadata (some of which the replica cannot hold).
    """

    code: str
    path: bytes
    message: str


class Log(NamedTuple):
    """A line for the session's log; level is a `logging` number."""

    level: int
    message: str


class Kept(NamedTuple):
    """Something is kept as a conflict, such as a late write in a displaced file.

    Not `fresh`: it was in the store already when the agent began, or a person has put it there.
    """

    path: bytes
    kept: bytes
    fresh: bool = True


class Note(NamedTuple):
    """What is known of a version in a store.

    Attributes:
        name: its name there.
        path: where it was; empty: nobody knows.
        time_ns: when it was put there.
        reason: one word, why.
        size: of its content, in bytes.
        mtime_ns: when it was written.
    """

    name: bytes
    path: bytes
    time_ns: int
    reason: str
    size: int
    mtime_ns: int


class Recalled(NamedTuple):
    """Answer to `Recall`.

    Attributes:
        token: the question's.
        message: why it could not be done; empty: it was.
        notes: of the versions that were meant.
        kept: the content of the version, if it is a file, and not a large one.
        present: that of what is at its path now, likewise.
        gone: of `EMPTY` and `GO_ON`: how many versions were destroyed.
        left: likewise: how many of them are still to be.
        waiting: likewise: how many are to come into the trash, after their last look.
    """

    token: int
    message: str
    notes: List[Note]
    kept: Optional[bytes] = None
    present: Optional[bytes] = None
    gone: int = 0
    left: int = 0
    waiting: int = 0


class Peeked(NamedTuple):
    """Answer to `Peek`: names in `(after, upto]` that are there (`upto` None: to the end).

    Of an item without `entry` nothing is known but that it is there.
    `message` says why it could not be done, if it could not; a directory that is gone is empty.
    """

    token: int
    message: str
    upto: Optional[bytes]
    items: List[Item]


class Block(NamedTuple):
    """Answer to `Read`: a part of a file.

    Attributes:
        path: the question's.
        at: the question's.
        entry: what is there; None: nothing.
        content: the bytes from `at` on, at most `BLOCK_MAX`; none at its end, and of what is no
            file.
        message: why it cannot be read; empty: it can.
    """

    path: bytes
    at: int
    entry: Optional[Entry]
    content: bytes
    message: str = ""


class Dropped(NamedTuple):
    """A version is in the conflict store no more.

    Attributes:
        kept: its name there.
        path: where it was put, for the users to have both versions; empty: nowhere.
    """

    kept: bytes
    path: bytes = b""


# --- messages: the brain speaks ---------------------------------------------------------


class Start(NamedTuple):
    """First frame to an agent: whom it serves and how."""

    protocol: int
    version: str
    root: bytes
    session: str
    side: int
    owners: bool
    strip_special_bits: bool
    excludes: List[str]
    tempfiles: List[str]
    inline_max: int
    settle_ms: int
    max_delay_ms: int
    quarantine_ms: int
    timeout_ms: int
    strict: bool
    suppress_echoes: bool
    poll_ms: int
    conflict_keep_s: int = 0  # how long a loser is kept; 0: until a person drops it
    distrust_cache: bool = False  # its disk failed: only what is read from there counts
    keep_both: bool = False  # a loser goes back beside the version that won
    trash_s: int = 0  # how long what is deleted is kept; 0: it is not
    xattrs: bool = False
    versions_s: int = 0  # likewise, what an edit of the other side replaces
    audit: bool = False  # only look: claim nothing, lock nothing, write nothing
    event_interval_ms: int = 0  # for how long changes are gathered before they are looked at


class Settings(NamedTuple):
    """Serve on as `start` says; only what is about how, not about what, may be another.

    What becomes visible by other rules is observed; what is hidden by them is told no more.
    """

    start: Start


class Watch(NamedTuple):
    """Go: claim the root for this pair, recover, watch and scan."""

    pair: str


class List_(NamedTuple):
    """List these directories (answers: `Listing`s), without content."""

    paths: List[bytes]


class Look(NamedTuple):
    """Look at these paths again (answers: `Observed`).

    `want` 0: state; 1: content too, where it fits `inline_max`; 2: digest, however large.
    """

    want: int
    paths: List[bytes]


class Peek(NamedTuple):
    """Tell what is in a directory after a name, for a person: it is no news (answer: `Peeked`)."""

    token: int
    path: bytes
    after: bytes = b""


class Apply(NamedTuple):
    """Apply these in order (answer: `Results`)."""

    batch: int
    transitions: List[Transition]


class OpenSource(NamedTuple):
    """Open files for rsync to read: `(path, expected)`."""

    run: int
    files: List[Tuple[bytes, Entry]]


class CloseSource(NamedTuple):
    """rsync has read: close, and say which files are still as they were."""

    run: int


class Stage(NamedTuple):
    """Make staging for a run: a file for each name, the copy of its base if it has one.

    `size`: how many bytes those without a base will take, as far as that is known; where there is
    no room for them nothing is begun.
    """

    run: int
    names: List[bytes]
    bases: List[bytes]
    size: int = 0


class Unstage(NamedTuple):
    """Drop a run's staging."""

    run: int


class Sync(NamedTuple):
    """Make everything applied so far durable, and `generation`, the name of that state, with it."""

    token: int
    generation: str = ""


class Flush(NamedTuple):
    """Observe everything that has happened so far, settled or not."""

    token: int


class Ping(NamedTuple):
    """Are you there?"""

    token: int


class Credit(NamedTuple):
    """So many bytes of content have been taken over: as many may follow.

    An agent begins with `CREDIT` and never has more. Without credit it sends entries
    without content; answers to `Look` are sent in any case, and cost none. In an audit there
    is no content: credit is for listings, by `listing_weight`; it begins with `AUDIT_CREDIT`,
    and without it none is sent.
    """

    size: int


class Rescan(NamedTuple):
    """Scan the whole tree again."""


class Recall(NamedTuple):
    """Do something with the conflict store, or the trash, because a person wants it.

    Attributes:
        token: comes back with the answer.
        verb: one of `LIST` ... below.
        kept: the version's name; empty with `LIST`, `READ`, `EMPTY` and `GO_ON`.
        path: for `RESTORE` where to; empty: where it was. For `READ` what.
        trash: it is about the trash.
    """

    token: int
    verb: int
    kept: bytes = b""
    path: bytes = b""
    trash: bool = False


LIST = 1  # tell of all versions
SHOW = 2  # ... of one, with its content
RESTORE = 3  # put it back; what is there now takes its place
DROP = 4  # destroy it
READ = 5  # no version: what is at `path` now
EMPTY = 6  # destroy all that is in the trash now, as much of it as a short time allows
GO_ON = 7  # ... and more of that, but nothing that has come since


class Examine(NamedTuple):
    """Look at your host and at a root, and change nothing; instead of `Start`.

    `pruned`: names of directories that no watcher would enter (`core.ignore`).
    """

    token: int
    root: bytes
    pruned: list[bytes]


class Read(NamedTuple):
    """Read a part of a file for an audit (answer: `Block`)."""

    path: bytes
    at: int


class Stop(NamedTuple):
    """End: finish what is begun, leave nothing temporary, exit 0."""


def listing_weight(items: List[Item]) -> int:
    """About how many bytes a listing takes: what it costs of an audit's credit."""
    size = _ENTRY_WEIGHT
    for item in items:
        size += _ENTRY_WEIGHT + len(item.path)
        if item.entry is not None:
            size += len(item.entry.target) + len(item.entry.xattrs)
    return size


Message = Union[
    Hello, Ready, Fatal, Digests, Scanned, Listing, Observed, Results, Opened, Staged, Closed,
    Synced, Flushed, Pong, Trouble, Log, Kept, Recalled, Dropped, Block, Start, Watch, List_, Look,
    Apply, OpenSource, CloseSource, Stage, Unstage, Sync, Flush, Ping, Credit, Rescan, Stop, Recall,
    Read, Settings, Peek, Peeked, Examined, Examine,
]  # fmt: skip

messages: Dict[int, Type[Any]] = {
    # from the agent
    1: Hello, 2: Ready, 3: Fatal, 4: Digests, 5: Scanned, 6: Listing, 7: Observed, 8: Results,
    9: Opened, 10: Staged, 11: Closed, 12: Synced, 13: Flushed, 14: Pong, 15: Trouble, 16: Log,
    17: Kept, 18: Recalled, 19: Dropped, 20: Block, 21: Peeked, 22: Examined,
    # from the brain
    65: Start, 66: Watch, 67: List_, 68: Look, 69: Apply, 70: OpenSource, 71: CloseSource,
    72: Stage, 73: Unstage, 74: Sync, 75: Flush, 76: Ping, 77: Credit, 78: Rescan, 79: Stop,
    80: Recall, 81: Read, 82: Settings, 83: Peek, 84: Examine,
}  # fmt: skip
_codes = {cls: code for code, cls in messages.items()}


# --- MessagePack, the part of it that frames use ----------------------------------------


def _pack(value: Any, out: List[bytes]) -> None:
    kind = type(value)
    if kind is int:
        if 0 <= value < 128:
            out.append(bytes((value,)))
        elif value >= 0:
            if value < 1 << 8:
                out.append(struct.pack(">BB", 0xCC, value))
            elif value < 1 << 16:
                out.append(struct.pack(">BH", 0xCD, value))
            elif value < 1 << 32:
                out.append(struct.pack(">BI", 0xCE, value))
            else:
                out.append(struct.pack(">BQ", 0xCF, value))
        elif value >= -32:
            out.append(struct.pack(">b", value))
        elif value >= -(1 << 7):
            out.append(struct.pack(">Bb", 0xD0, value))
        elif value >= -(1 << 15):
            out.append(struct.pack(">Bh", 0xD1, value))
        elif value >= -(1 << 31):
            out.append(struct.pack(">Bi", 0xD2, value))
        else:
            out.append(struct.pack(">Bq", 0xD3, value))
    elif kind is bytes:
        n = len(value)
        if n < 1 << 8:
            out.append(struct.pack(">BB", 0xC4, n))
        elif n < 1 << 16:
            out.append(struct.pack(">BH", 0xC5, n))
        else:
            out.append(struct.pack(">BI", 0xC6, n))
        out.append(value)
    elif value is None:
        out.append(b"\xc0")
    elif kind is bool:
        out.append(b"\xc3" if value else b"\xc2")
    elif kind is str:
        raw = value.encode("utf-8")
        n = len(raw)
        if n < 32:
            out.append(bytes((0xA0 | n,)))
        elif n < 1 << 8:
            out.append(struct.pack(">BB", 0xD9, n))
        elif n < 1 << 16:
            out.append(struct.pack(">BH", 0xDA, n))
        else:
            out.append(struct.pack(">BI", 0xDB, n))
        out.append(raw)
    elif isinstance(value, (list, tuple)):
        n = len(value)
        if n < 16:
            out.append(bytes((0x90 | n,)))
        elif n < 1 << 16:
            out.append(struct.pack(">BH", 0xDC, n))
        else:
            out.append(struct.pack(">BI", 0xDD, n))
        for item in value:
            _pack(item, out)
    elif isinstance(value, int):  # IntEnum
        _pack(int(value), out)
    else:
        raise TypeError(f"a frame cannot hold a {kind.__name__}")


_NUMBERS = {
    0xCC: struct.Struct(">B"), 0xCD: struct.Struct(">H"), 0xCE: struct.Struct(">I"),
    0xCF: struct.Struct(">Q"), 0xD0: struct.Struct(">b"), 0xD1: struct.Struct(">h"),
    0xD2: struct.Struct(">i"), 0xD3: struct.Struct(">q"),
}  # fmt: skip
_DEPTH_MAX = 8


def _unpack(data: bytes, at: int, depth: int) -> Tuple[Any, int]:
    tag = data[at]
    at += 1
    if tag < 0x80:
        return tag, at
    if tag >= 0xE0:
        return tag - 256, at
    if tag in _NUMBERS:
        number = _NUMBERS[tag]
        return number.unpack_from(data, at)[0], at + number.size
    if tag == 0xC0:
        return None, at
    if tag in (0xC2, 0xC3):
        return tag == 0xC3, at
    if 0xC4 <= tag <= 0xC6:
        width = 1 << (tag - 0xC4)
        end = at + width + int.from_bytes(data[at : at + width], "big")
        if end > len(data):
            raise IndexError("it is cut short")
        return data[at + width : end], end
    if 0xA0 <= tag < 0xC0 or 0xD9 <= tag <= 0xDB:
        width = 0 if tag < 0xC0 else 1 << (tag - 0xD9)
        size = tag & 0x1F if tag < 0xC0 else int.from_bytes(data[at : at + width], "big")
        end = at + width + size
        if end > len(data):
            raise IndexError("it is cut short")
        return data[at + width : end].decode("utf-8"), end
    if 0x90 <= tag < 0xA0 or tag in (0xDC, 0xDD):
        width = 0 if tag < 0xA0 else 2 << (tag - 0xDC)
        size = tag & 0x0F if tag < 0xA0 else int.from_bytes(data[at : at + width], "big")
        at += width
        if depth >= _DEPTH_MAX:
            raise ValueError("it is nested too deep")
        if size > len(data) - at:
            raise IndexError("it is cut short")
        items = []
        for _ in range(size):
            item, at = _unpack(data, at, depth + 1)
            items.append(item)
        return items, at
    raise ValueError(f"tag {tag:#x}")


def _converter(hint: Any) -> Callable[[Any], Any]:
    """Make the function that checks a decoded value against a type and builds it."""
    origin = getattr(hint, "__origin__", None)
    if origin is Union:
        inner = _converter(next(a for a in hint.__args__ if a is not type(None)))
        return lambda v: None if v is None else inner(v)
    if origin is list:
        item = _converter(hint.__args__[0])

        def to_list(v: Any) -> Any:
            if type(v) is not list:
                raise TypeError("a list is something else")
            return [item(x) for x in v]

        return to_list
    if origin is tuple:
        parts = [_converter(a) for a in hint.__args__]

        def to_tuple(v: Any) -> Any:
            if type(v) is not list or len(v) != len(parts):
                raise TypeError("a tuple is something else")
            return tuple([f(x) for f, x in zip(parts, v)])

        return to_tuple
    if hasattr(hint, "_fields"):
        hints = get_type_hints(hint)
        parts = [_converter(hints[name]) for name in hint._fields]
        required = len(parts) - len(hint._field_defaults)
        simple = [
            hints[name] if hints[name] in (int, bytes, str) else None for name in hint._fields
        ]

        def to_named(v: Any) -> Any:
            if type(v) is not list or not required <= len(v) <= len(parts):
                raise TypeError(f"a {hint.__name__} is something else")
            return hint(*[x if type(x) is s else f(x) for f, s, x in zip(parts, simple, v)])

        return to_named

    def exact(v: Any) -> Any:
        if type(v) is not hint:
            raise TypeError(f"a {hint.__name__} is something else")
        return v

    return exact


_decoders: Dict[int, Callable[[bytes], Any]] = {}


def _pure_encode(message: Any) -> bytes:
    out: List[bytes] = []
    _pack(message, out)
    return b"".join(out)


def _pure_decoder(cls: Type[Any]) -> Callable[[bytes], Any]:
    convert = _converter(cls)

    def decode(body: bytes) -> Any:
        value, end = _unpack(body, 0, 0)
        if end != len(body):
            raise ValueError("trailing bytes")
        return convert(value)

    return decode


def _fast_decoder(cls: Type[Any]) -> Callable[[bytes], Any]:
    decode: Callable[[bytes], Any] = _fast.Decoder(cls).decode
    return decode


_encode_body = _fast.Encoder().encode if _HAS_FAST else _pure_encode
_make_decoder = _fast_decoder if _HAS_FAST else _pure_decoder


def encode(message: Message) -> bytes:
    """Turn a message into a frame."""
    body = _encode_body(message)
    if len(body) > FRAME_MAX:
        raise AgentError(f"a {type(message).__name__} of {len(body)} bytes does not fit a frame")
    return _HEADER.pack(len(body), _codes[type(message)]) + body


def _decode(code: int, body: bytes) -> Any:
    decoder = _decoders.get(code)
    if decoder is None:
        cls = messages.get(code)
        if cls is None:
            raise AgentError(f"the peer sent a frame of unknown type {code}")
        decoder = _decoders[code] = _make_decoder(cls)
    try:
        return decoder(body)
    except (ValueError, TypeError, IndexError, struct.error, RecursionError) as error:
        name = messages[code].__name__
        raise AgentError(f"the peer sent a malformed {name}: {error}") from None


class Framer:
    """Bytes in, messages out.

    `feed` never raises for what a peer sent before the fault: messages that were whole
    are returned, and the error is raised by the next call.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._fault: Optional[AgentError] = None

    def feed(self, data: Union[bytes, memoryview]) -> List[Any]:
        """Take what arrived; return the messages that are whole now.

        Raises:
            AgentError: the peer broke the protocol; nothing more can be read from it.
        """
        if self._fault is not None:
            raise self._fault
        buffer = self._buffer
        buffer += data
        found: List[Any] = []
        at = 0
        try:
            while len(buffer) - at >= 5:
                size, code = _HEADER.unpack_from(buffer, at)
                if size > FRAME_MAX:
                    raise AgentError(f"the peer announced a frame of {size} bytes")
                if len(buffer) - at - 5 < size:
                    break
                body = bytes(memoryview(buffer)[at + 5 : at + 5 + size])
                at += 5 + size
                found.append(_decode(code, body))
        except AgentError as error:
            self._fault = error
            if not found:
                raise
        del buffer[:at]
        return found
