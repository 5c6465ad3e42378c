"""Three ways to hear that something changed below a root, behind one interface.

`cinotify` (a small static program, fed to us with the package) is the way; where it cannot
run, `inotify_simple` does the same inside this process, slower; where there is no inotify
at all, `Polling` scans the tree from time to time. All of them speak in the same events,
tuples that begin with a letter, which are cinotify's frames:

    ("D", live, digest, entries, path)   a directory was scanned; live: it has just appeared
    ("S", directories, entries, local)   the scan of the whole tree is over
    ("E", mask, path)                    something happened (bits of `core.settle`)
    ("M", is_directory, old, new)        a rename
    ("O",)                               events were lost; a new scan has begun by itself
    ("L", path)                          no watch is to be had for a directory
    ("U",)                               the root is gone
    ("X", errno, path)                   a directory cannot be read
    ("N", path)                          a mount point was passed over
    ("B", name)                          a file directly in `.psync` was closed after writing

**Invariants.** A directory is watched first and listed then, so that nothing falls between.
A scan names parents before children, siblings in byte order. No watcher follows a symlink
or enters a mount point. Whoever reads an event looks for himself: an event is no state.

Of what is excluded only this is known here: directories of some names (`pruned`, see
`core.ignore.Ignore`) are not entered, and so cost no watch. What is renamed from or to such a
name comes and goes as from elsewhere. Nothing waits: `read` and `step` return at once.
"""

from __future__ import annotations

import errno
import fcntl
import os
import pkgutil
import signal
import struct
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from psync.core.entry import CONTROL_NAME, LOCAL_SUFFIX, Entry, Kind, directory_digest, join
from psync.core.ignore import is_pruned
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
from psync.scan import Looker, list_names, open_directory
from psync.syscalls import memfd
from psync.xattrs import Attributes

__all__ = ["Cinotify", "Event", "Inotify", "Polling", "Watcher", "find_cinotify", "walk"]

Event = tuple[Any, ...]

_NOT_THERE = frozenset((errno.ENOENT, errno.ENOTDIR, errno.ELOOP))


class Watcher(Protocol):
    """What the filter asks of whoever tells it where to look."""

    name: str
    fd: int  # readable when `read` has something; -1: never

    def read(self) -> list[Event]:
        """What happened. EOFError: this watcher is dead, start another one."""

    def step(self, seconds: float) -> list[Event]:
        """Go on with a scan inside this process for about so long (see `scanning`)."""

    def scanning(self) -> bool:
        """Whether `step` has something to do."""

    def deadline(self) -> float | None:
        """When `read` has to be called though `fd` is silent; monotonic seconds."""

    def rescan(self) -> None:
        """Scan the whole tree again: "D" events, then "S"."""

    def close(self) -> None:
        """End it; nothing of it stays."""


# --- cinotify ---------------------------------------------------------------------------

_HEADER = struct.Struct("<IB")
_SCANNED = struct.Struct("<IQQQ")
_U32 = struct.Struct("<I")
_I32 = struct.Struct("<i")
_READ_SIZE = 1 << 18
_FRAME_MAX = 1 << 20
_FRAME_MIN = {  # with the letter, by the letter
    ord(kind): 1 + size
    for kind, size in {
        "E": 4, "D": 21, "M": 5, "S": 28, "X": 4, "O": 0, "U": 0, "L": 0, "N": 0, "B": 0,
    }.items()
}  # fmt: skip
_PIPE_SIZE = 1 << 20
_F_SETPIPE_SZ = 1031
_CHILD_ROOT_FD = 3


def find_cinotify() -> str:
    """Find the cinotify program for this machine, in a directory or inside a zip file.

    Returns:
        Its path: one in `/proc/self/fd` if it had to be brought into memory first (its
        descriptor stays open); empty if there is none.
    """
    name = f"cinotify-{os.uname().machine}"
    package = sys.modules["psync"]
    path = os.path.join(os.path.dirname(package.__file__ or ""), "_bin", name)
    if os.access(path, os.X_OK):
        return path
    try:
        data = pkgutil.get_data("psync", f"_bin/{name}")
        if data:
            return f"/proc/self/fd/{memfd(name, data)}"
    except OSError:
        pass  # not in there, or this system runs nothing from memory
    return ""


class Cinotify:
    """The program, on a pipe."""

    name = "cinotify"

    def __init__(
        self,
        program: str,
        root_fd: int,
        *,
        owners: bool,
        strip: bool,
        attributes: Attributes | None = None,
        pruned: Sequence[bytes] = (),
    ) -> None:
        """Start it; it scans at once. Raises OSError if it cannot run."""
        argv: list[str | bytes] = ["cinotify", "--root-fd", str(_CHILD_ROOT_FD)]
        if not owners:
            argv.append("--no-owner")
        if strip:
            argv.append("--strip-special")
        if attributes is not None:
            argv.append("--xattrs")
        argv += [b"--prune=" + name for name in pruned]
        commands, self._commands = os.pipe()
        self.fd, events = os.pipe()
        try:
            self.pid = os.posix_spawn(
                program,
                argv,
                os.environ,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, commands, 0),
                    (os.POSIX_SPAWN_DUP2, events, 1),
                    (os.POSIX_SPAWN_DUP2, root_fd, _CHILD_ROOT_FD),
                ],
                setsigdef=[signal.SIGPIPE],
            )
        except OSError:
            os.close(self.fd)
            os.close(self._commands)
            raise
        finally:
            os.close(commands)
            os.close(events)
        os.set_blocking(self.fd, False)
        os.set_blocking(self._commands, False)
        try:
            fcntl.fcntl(self.fd, _F_SETPIPE_SZ, _PIPE_SIZE)
        except OSError:
            pass  # a user has used up his share of pipe pages: 64 KiB will do
        self._buffer = b""

    def read(self) -> list[Event]:
        """See `Watcher`."""
        try:
            data = os.read(self.fd, _READ_SIZE)
        except BlockingIOError:
            return []
        if not data:
            raise EOFError("cinotify ended")
        buffer = self._buffer + data if self._buffer else data
        events: list[Event] = []
        add = events.append
        at, end = 0, len(buffer)
        while end - at >= 5:
            size, kind = _HEADER.unpack_from(buffer, at)
            if not _FRAME_MIN.get(kind, _FRAME_MAX + 1) <= size <= _FRAME_MAX:
                raise EOFError("cinotify spoke nonsense")
            stop = at + 4 + size
            if stop > end:
                break
            body = at + 5
            if kind == 69:  # E
                add(("E", _U32.unpack_from(buffer, body)[0], buffer[body + 4 : stop]))
            elif kind == 68:  # D
                add(
                    (
                        "D",
                        buffer[body] != 0,
                        buffer[body + 1 : body + 17],
                        _U32.unpack_from(buffer, body + 17)[0],
                        buffer[body + 21 : stop],
                    )
                )
            elif kind == 77:  # M
                split = body + 5 + _U32.unpack_from(buffer, body + 1)[0]
                if split > stop:
                    raise EOFError("cinotify spoke nonsense")
                add(("M", buffer[body] != 0, buffer[body + 5 : split], buffer[split:stop]))
            elif kind == 83:  # S
                add(("S", *_SCANNED.unpack_from(buffer, body)[1:]))
            elif kind == 88:  # X
                add(("X", _I32.unpack_from(buffer, body)[0], buffer[body + 4 : stop]))
            elif kind in (79, 85):  # O, U
                add((chr(kind),))
            else:  # L, N, B
                add((chr(kind), buffer[body:stop]))
            at = stop
        self._buffer = buffer[at:]
        return events

    def step(self, seconds: float) -> list[Event]:
        """See `Watcher`: it scans by itself."""
        return []

    def scanning(self) -> bool:
        """See `Watcher`."""
        return False

    def deadline(self) -> float | None:
        """See `Watcher`."""
        return None

    def rescan(self) -> None:
        """See `Watcher`."""
        try:
            os.write(self._commands, b"R")
        except OSError:
            pass  # dead, which `read` is about to find out, or about to scan anyway

    def close(self) -> None:
        """See `Watcher`."""
        os.close(self._commands)
        os.close(self.fd)
        try:
            for _ in range(20):
                if os.waitpid(self.pid, os.WNOHANG)[0]:
                    return
                time.sleep(0.005)
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        except ChildProcessError:
            pass


# --- the scan, in Python ------------------------------------------------------------------


def walk(
    root_fd: int,
    top: bytes,
    live: bool,
    *,
    owners: bool,
    strip: bool,
    attributes: Attributes | None = None,
    pruned: Sequence[bytes] = (),
    enter: Callable[[bytes, int], None] = lambda path, fd: None,
    missed: Callable[[bytes], None] = lambda path: None,
) -> Iterator[Event]:
    """Scan a tree as cinotify does: a "D" for each directory, "X" and "N" where need be.

    Args:
        root_fd: the replica's root.
        top: where to begin; `b""` is the root, whose scan ends with an "S".
        live: the flag for the events.
        owners: as in `scan.entry_from_stat`.
        strip: likewise.
        attributes: reads the extended attributes that are replicated.
        pruned: names of directories that are not entered.
        enter: called with each directory's path and descriptor before it is listed.
        missed: called with the path of a directory that is not there (any more).
    """
    looker = Looker(root_fd, owners=owners, strip=strip, attributes=attributes)
    stack = [] if top and is_pruned(top, pruned) else [top]
    directories = entries = local = 0
    while stack:
        path = stack.pop()
        try:
            fd = open_directory(root_fd, path)
        except OSError as error:
            if error.errno == errno.EXDEV:
                yield ("N", path)
            elif error.errno not in _NOT_THERE:
                yield ("X", error.errno, path)
            else:
                missed(path)
            continue
        children: list[tuple[bytes, Entry]] = []
        below: list[bytes] = []
        failure = 0
        mounts = []
        try:
            enter(path, fd)
            own = looker.entry_of(fd)
            for name in list_names(fd):
                if name.endswith(LOCAL_SUFFIX) or name == CONTROL_NAME:
                    local += name != CONTROL_NAME
                    continue
                try:
                    entry = looker.look_at(fd, name).entry
                except OSError as error:
                    if error.errno != errno.EXDEV:
                        raise
                    if not is_pruned(name, pruned):
                        mounts.append(join(path, name))
                    continue
                if entry is not None:
                    children.append((name, entry))
                    if entry.kind == Kind.DIRECTORY and not is_pruned(name, pruned):
                        below.append(join(path, name))
        except OSError as error:
            failure = error.errno or errno.EIO
        finally:
            os.close(fd)
        if failure or own is None:
            yield ("X", failure, path)
            continue
        directories += 1
        entries += len(children)
        yield ("D", live, directory_digest(own, children), len(children), path)
        for mount in mounts:
            yield ("N", mount)
        stack.extend(reversed(below))
    if not top:
        yield ("S", directories, entries, local)


class Polling:
    """No events at all: scans when it is told to."""

    name = "polling"
    fd = -1

    def __init__(
        self,
        root_fd: int,
        *,
        owners: bool,
        strip: bool,
        attributes: Attributes | None = None,
        pruned: Sequence[bytes] = (),
    ) -> None:
        """Begin with a scan."""
        self._root_fd = root_fd
        self._owners = owners
        self._strip = strip
        self._attributes = attributes
        self._pruned = pruned
        self._scan: Iterator[Event] | None = None
        self.rescan()

    def _enter(self, path: bytes, fd: int) -> None:
        pass

    def _missed(self, path: bytes) -> None:
        pass

    def _walk(self, top: bytes, live: bool) -> Iterator[Event]:
        return walk(
            self._root_fd,
            top,
            live,
            owners=self._owners,
            strip=self._strip,
            attributes=self._attributes,
            pruned=self._pruned,
            enter=self._enter,
            missed=self._missed,
        )

    def read(self) -> list[Event]:
        """See `Watcher`."""
        return []

    def step(self, seconds: float) -> list[Event]:
        """See `Watcher`."""
        events: list[Event] = []
        until = time.monotonic() + seconds
        while self._scan is not None and time.monotonic() < until:
            event = next(self._scan, None)
            if event is None:
                self._scan = None
            else:
                events.append(event)
        return events

    def scanning(self) -> bool:
        """See `Watcher`."""
        return self._scan is not None

    def deadline(self) -> float | None:
        """See `Watcher`."""
        return None

    def rescan(self) -> None:
        """See `Watcher`."""
        self._scan = self._walk(b"", False)

    def close(self) -> None:
        """See `Watcher`."""
        self._scan = None


# --- inotify, in Python -------------------------------------------------------------------

_IN_MODIFY, _IN_ATTRIB, _IN_CLOSE_WRITE = 0x2, 0x4, 0x8
_IN_MOVED_FROM, _IN_MOVED_TO, _IN_CREATE, _IN_DELETE = 0x40, 0x80, 0x100, 0x200
_IN_DELETE_SELF, _IN_MOVE_SELF = 0x400, 0x800
_IN_UNMOUNT, _IN_Q_OVERFLOW, _IN_IGNORED, _IN_ISDIR = 0x2000, 0x4000, 0x8000, 0x40000000
_WATCH = (
    _IN_MODIFY
    | _IN_ATTRIB
    | _IN_CLOSE_WRITE
    | _IN_MOVED_FROM
    | _IN_MOVED_TO
    | _IN_CREATE
    | _IN_DELETE
    | 0x01000000
    | 0x04000000
    | 0x20000000
)  # fmt: skip  (ONLYDIR, EXCL_UNLINK, MASK_ADD: see cinotify/watch.c)
_BITS = (
    (_IN_CREATE, CREATED),
    (_IN_MODIFY, MODIFIED),
    (_IN_CLOSE_WRITE, CLOSED),
    (_IN_ATTRIB, ATTRIBUTES),
    (_IN_DELETE, DELETED),
)
_PARTNER_WAIT = 0.002  # the two halves of a rename may be in two reads
_ABSENT_MAX = 4096


class Inotify(Polling):
    """inotify by way of the `inotify_simple` module; needs no program of ours."""

    name = "inotify_simple"

    def __init__(
        self,
        root_fd: int,
        *,
        owners: bool,
        strip: bool,
        attributes: Attributes | None = None,
        pruned: Sequence[bytes] = (),
    ) -> None:
        """Begin with a scan. Raises ImportError or OSError where it cannot work."""
        from inotify_simple import INotify

        self._inotify = INotify(nonblocking=True)
        self.fd = self._inotify.fileno()
        self._paths: dict[int, bytes] = {}
        self._watches: dict[bytes, int] = {}
        self._limited: list[bytes] = []
        self._absent: dict[bytes, None] = {}
        self._half: tuple[int, bytes, bool] | None = None
        self._half_until = 0.0
        super().__init__(
            root_fd, owners=owners, strip=strip, attributes=attributes, pruned=pruned
        )
        self._control = self._add(CONTROL_NAME, _IN_CLOSE_WRITE)
        if not self._watch(b"", root_fd):
            self.close()
            raise OSError(errno.ENOSPC, "no inotify watch is to be had")

    def _add(self, path: bytes, mask: int) -> int:
        fd = open_directory(self._root_fd, path)
        try:
            wd: int = self._inotify.add_watch(f"/proc/self/fd/{fd}", mask)
        finally:
            os.close(fd)
        return wd

    def _watch(self, path: bytes, fd: int) -> bool:
        try:
            wd = self._inotify.add_watch(f"/proc/self/fd/{fd}", _WATCH)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.ENOMEM):
                self._limited.append(path)
            return False
        stale = self._paths.get(wd)
        if stale is not None and stale != path and self._watches.get(stale) == wd:
            del self._watches[stale]
            self._absent[stale] = None  # if it only seems to be here, its rename will tell
        self._paths[wd] = path
        self._watches[path] = wd
        return True

    def _enter(self, path: bytes, fd: int) -> None:
        self._watch(path, fd)

    def _missed(self, path: bytes) -> None:
        """A new directory was moved on before we came: its rename will tell where it is."""
        self._absent[path] = None

    def step(self, seconds: float) -> list[Event]:
        """See `Watcher`."""
        events = super().step(seconds)
        if self._limited:
            events += [("L", path) for path in self._limited]
            self._limited = []
        return events

    def deadline(self) -> float | None:
        """See `Watcher`."""
        return self._half_until if self._half is not None else None

    def read(self) -> list[Event]:
        """See `Watcher`."""
        events: list[Event] = []
        for wd, mask, cookie, text in self._inotify.read(timeout=0):
            if mask & _IN_Q_OVERFLOW:
                self._half = None
                events.append(("O",))
                self.rescan()
                continue
            if wd == self._control:
                if mask & _IN_CLOSE_WRITE:
                    if self._half is not None:
                        self._moved_out(events)
                    events.append(("B", os.fsencode(text)))
                continue
            directory = self._paths.get(wd)
            if directory is None:
                continue
            if mask & _IN_UNMOUNT and not directory:
                events.append(("U",))
            if mask & _IN_IGNORED:
                del self._paths[wd]
                if self._watches.get(directory) == wd:
                    del self._watches[directory]
                continue
            name = os.fsencode(text)
            if not name or (not directory and name == CONTROL_NAME):
                if mask & _IN_ATTRIB and not directory and not name:
                    events.append(("E", ATTRIBUTES | DIRECTORY, b""))
                continue
            self._take(events, mask, cookie, join(directory, name))
        if self._half is not None and time.monotonic() >= self._half_until:
            self._moved_out(events)
        if len(self._absent) > _ABSENT_MAX:
            self._absent.clear()
            events.append(("O",))
            self.rescan()
        if self._limited:
            events += [("L", path) for path in self._limited]
            self._limited = []
        return events

    def _take(self, events: list[Event], mask: int, cookie: int, path: bytes) -> None:
        is_directory = bool(mask & _IN_ISDIR)
        flag = DIRECTORY if is_directory else 0
        local = path.endswith((LOCAL_SUFFIX, b"/" + CONTROL_NAME))
        if mask & _IN_MOVED_FROM:
            if self._half is not None:
                self._moved_out(events)
            if not local:
                self._half = (cookie, path, is_directory)
                self._half_until = time.monotonic() + _PARTNER_WAIT
            return
        if self._half is not None and not (mask & _IN_MOVED_TO and self._half[0] == cookie):
            self._moved_out(events)
        if mask & _IN_MOVED_TO:
            if self._half is not None:
                old = self._half[1]
                if local:
                    self._moved_out(events)
                    return
                self._half = None
                events.append(("M", is_directory, old, path))
                if is_directory and is_pruned(path, self._pruned):
                    self._unwatch(old)
                    events.extend(self._walk(old, True))
                elif is_directory and self._may_be(path, self._watches.get(old)):
                    self._rekey(old, path)
                    self._visit_again(events, old, path)
                elif is_directory:  # more has happened since, or two names were exchanged
                    self._unwatch(old)  # wherever that is now: a rename above it may tell
                    self._missed(path)
                    for place in (path, old):
                        events.extend(self._walk(place, True))
            elif not local:
                events.append(("E", MOVED_IN | flag, path))
                if is_directory:
                    events.extend(self._walk(path, True))
            return
        if local:
            return
        if mask & _IN_DELETE and is_directory:
            self._absent.pop(path, None)
        bits = sum(bit for theirs, bit in _BITS if mask & theirs)
        if bits:
            events.append(("E", bits | flag, path))
        if mask & _IN_CREATE and is_directory:
            events.extend(self._walk(path, True))

    def _moved_out(self, events: list[Event]) -> None:
        assert self._half is not None
        _, path, is_directory = self._half
        self._half = None
        events.append(("E", MOVED_OUT | (DIRECTORY if is_directory else 0), path))
        if is_directory:
            self._unwatch(path)

    def _unwatch(self, path: bytes) -> None:
        for known in self._at_or_below(path):
            wd = self._watches.pop(known)
            self._paths.pop(wd, None)
            try:
                self._inotify.rm_watch(wd)
            except OSError:
                pass  # gone already

    def _visit_again(self, events: list[Event], old: bytes, new: bytes) -> None:
        """A directory was renamed: watch now what could not be found under the old name."""
        prefix = old + b"/"
        for path in sorted(p for p in self._absent if p == old or p.startswith(prefix)):
            del self._absent[path]
            path = new + path[len(old) :]
            if not self._may_be(path, self._watches.get(path)):
                events.extend(self._walk(path, True))

    def _may_be(self, path: bytes, wd: int | None) -> bool:
        """Tell whether the watch we think of is on what is there (or nothing is there).

        What was created and renamed before we heard of it never got a watch; what took its
        place may have got one under its name.
        """
        try:
            return self._add(path, _WATCH) == wd
        except OSError as error:
            if error.errno in _NOT_THERE:
                self._missed(path)
            return True  # moved on: its next event comes

    def _rekey(self, old: bytes, new: bytes) -> None:
        for known in self._at_or_below(old):
            wd = self._watches.pop(known)
            path = new + known[len(old) :]
            self._paths[wd] = path
            self._watches[path] = wd

    def _at_or_below(self, path: bytes) -> list[bytes]:
        prefix = path + b"/"
        return [p for p in self._watches if p == path or p.startswith(prefix)]

    def close(self) -> None:
        """See `Watcher`."""
        super().close()
        self._inotify.close()
