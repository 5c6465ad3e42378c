"""psync's process on a host: watches one replica and changes it, as the brain says.

It runs where the files are, so that a look costs microseconds and a change can be made
without a race. It is one program on two hosts: a child of the brain on the left, a command
over SSH on the right; it hears frames on its standard input, answers on its standard
output, and ends when either of them does.

One thread does all of it, in a loop: read what the brain says, read what happened (the
`filter`), look, answer, apply (the `helpers`). What may take long is cut into slices, so
that a `Ping` is answered while a million names are listed; what cannot be cut (to make a
disk durable, to hash or copy a large file) is done by one other thread, which touches
nothing that the first one holds.

**Invariants.** Nothing is written to the root before `Watch`. Before each batch and each
scan, at a flush and at each ping the root's path still leads to the directory that we
opened, or we end. For an audit nothing is written, claimed or locked at all: it may look at a
root that another agent works on (`reader`). Messages go out in the order in which things were
seen. Bounds: past `CHOKED` bytes of output nothing more is looked at, past `BULK_OUTPUT` nothing
more is listed, past `BACKLOG_MAX` questions nothing more is read. An agent that hears nothing for
`Start.timeout_ms` ends. Whatever ends it, what it displaced stays in quarantine for the next one.

It decides nothing, and has no state that a next start would need.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial
from typing import (
    Any,
    Callable,
    NamedTuple,
    Optional,
)

from psync import __version__, faults
from psync.claim import generation, marker, open_control
from psync.core.entry import Entry, Kind, is_ours, printable, valid_path
from psync.errors import AgentError, PsyncError
from psync.examine import examine
from psync.filter import Filter, RootLost
from psync.forced import run_rsync
from psync.helpers import Helpers, NotDurableError
from psync.host import (
    booted_ns,
    filesystem,
    mounted,
    prepare_process,
    read_text,
    rsync_version,
)
from psync.lock import LockedError, RootLock
from psync.plumbing import BrainGone, Output, Worker
from psync.quarantine import for_trash
from psync.reader import Reader
from psync.scan import (
    Looker,
    Seen,
    entry_from_stat,
    forget_cached,
    let_stores_show,
    look_whole,
    may_be_mapped,
)
from psync.syscalls import has_holes, open_beneath
from psync.watch import find_cinotify
from psync.wire import (
    MAGIC,
    PROTOCOL,
    Apply,
    Closed,
    CloseSource,
    Credit,
    Dropped,
    Examine,
    Fatal,
    Flush,
    Framer,
    Hello,
    List_,
    Log,
    Look,
    Message,
    Opened,
    OpenSource,
    Peek,
    Ping,
    Pong,
    Read,
    Ready,
    Recall,
    Rescan,
    Results,
    Settings,
    Stage,
    Staged,
    Start,
    Stop,
    Sync,
    Synced,
    Trouble,
    Unstage,
    Watch,
    encode,
)
from psync.writes import Watched, Writes
from psync.xattrs import attributes_of

__all__ = ["Agent", "main"]

CHOKED = 16 << 20
BULK_OUTPUT = 1 << 20
BACKLOG_MAX = 200_000  # paths in questions that are not answered yet
_SLICE = 0.005  # seconds of work between two looks at what came in
_READ_SIZE = 1 << 18
_PATIENCE = 60.0  # for `Start`
_EXPIRE_EVERY = 3600.0
_LAST_WORDS = 2.0  # seconds to get rid of the output at the end
_BLIND_PATIENCE = 5  # so many times longer, what is displaced waits where mappings are not seen
_CHANGEABLE = (
    "excludes", "tempfiles", "settle_ms", "max_delay_ms", "quarantine_ms", "timeout_ms", "poll_ms",
    "conflict_keep_s", "keep_both", "trash_s", "versions_s", "event_interval_ms",
)  # fmt: skip
_FULL = (errno.ENOSPC, errno.EDQUOT)
_SOURCE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY


class _Refusal(Exception):
    """We cannot serve: a `Fatal` in the making."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class _Source(NamedTuple):
    path: bytes
    fd: int
    entry: Optional[Entry]
    watched: Optional[Watched]


class Agent:
    """See the module's text."""

    def __init__(self, in_fd: int = 0, out_fd: int = 1, only_root: Optional[str] = None) -> None:
        """Prepare to serve on two descriptors; `only_root` is the only root to serve."""
        self._in_fd = in_fd
        self._out = Output(out_fd)
        self._only_root = only_root
        self._framer = Framer()
        self._program = find_cinotify()
        self._wake_fd, self._waker = os.pipe()
        os.set_blocking(self._wake_fd, False)
        os.set_blocking(self._waker, False)
        self._worker = Worker(self._waker)
        self._poll = select.poll()
        self._polled: dict[int, int] = {}
        self._handlers = _HANDLERS
        self._over = False
        self._terminated = False
        self._heard = time.monotonic()
        self._timeout = _PATIENCE

        self._start: Optional[Start] = None
        self._root_fd = -1
        self._root = b""
        self._identity: tuple[int, int] = (0, 0)
        self._filesystem = ""
        self._lock: Optional[RootLock] = None
        self._filter: Optional[Filter] = None
        self._helpers: Optional[Helpers] = None
        self._reader: Optional[Reader] = None  # in an audit
        self._told_unheld = False
        self._tick_at: Optional[float] = None
        self._expire_at = float("inf")
        self._bulk: deque[tuple[int, Iterator[None]]] = deque()
        self._backlog = 0
        self._sources: dict[int, list[_Source]] = {}
        self._writes = Writes()

    # --- life --------------------------------------------------------------------------

    def run(self) -> int:
        """Serve until told to stop; return the exit code."""
        os.set_blocking(self._in_fd, False)
        os.set_blocking(self._out.fd, False)
        code = 0
        try:
            self._out.add(MAGIC)
            self._send(self._hello())
            self._out.flush()
            while not self._over:
                self._turn()
        except BrainGone:
            pass
        except (AgentError, PsyncError) as error:
            code = self._fatal("protocol", str(error))
        except RootLost as error:
            code = self._fatal("root-lost", str(error))
        except NotDurableError as error:
            code = self._fatal("not-durable", f"{printable(self._root)}: {error}")
        except _Refusal as refusal:
            code = self._fatal(refusal.code, str(refusal))
        except Exception as error:  # noqa: BLE001  # the brain has to hear of our own faults, too
            where = ""
            trace = error.__traceback__
            while trace is not None:
                where = f"{os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}"
                trace = trace.tb_next
            code = self._fatal("internal", f"{type(error).__name__}: {error} ({where})")
        finally:
            self._close()
        return code

    def terminate(self) -> None:
        """End as if told to; safe in a signal handler."""
        self._terminated = True
        try:
            os.write(self._waker, b"t")
        except OSError:
            pass  # full: it is awake

    def _fatal(self, code: str, message: str) -> int:
        self._send(Fatal(code, message))
        return 1

    def _close(self) -> None:
        self._worker.stop()
        if self._filter is not None:
            self._filter.close()
        self._writes.close()
        for sources in self._sources.values():
            _close_all(sources)
        if self._helpers is not None:
            self._helpers.close()
        if self._reader is not None:
            self._reader.close()
        if self._lock is not None:
            self._lock.release()
        if self._root_fd >= 0:
            os.close(self._root_fd)
        until = time.monotonic() + _LAST_WORDS
        try:
            self._out.flush()
            while self._out.size and time.monotonic() < until:
                select.select([], [self._out.fd], [], 0.1)
                self._out.flush()
        except (BrainGone, OSError):
            pass

    def _turn(self) -> None:
        """Wait for something, and deal with it."""
        out, observer = self._out, self._filter
        choked = out.size > CHOKED
        listen = self._in_fd if self._backlog < BACKLOG_MAX else -1
        watched = observer.fd if observer is not None and not choked else -1
        self._register(listen, watched)
        timeout = self._wait_ms(choked)
        ready = dict(self._poll.poll(timeout))
        if self._wake_fd in ready:
            self._wake()
        if listen in ready:
            self._hear()
        elif time.monotonic() - self._heard > self._timeout:
            raise BrainGone
        observer = self._filter
        if observer is not None and not choked and not self._over:
            if watched in ready and watched == observer.fd:
                observer.read()
            due = observer.deadline()
            if due is not None:
                now = time.monotonic()
                if due <= now:
                    observer.live(now + _SLICE)
                    due = observer.deadline()
            if (due is None or due > 0) and not observer.turning:
                self._work()
        elif self._reader is not None and not choked and not self._over:
            self._work()
        out.flush()

    def _register(self, listen: int, watched: int) -> None:
        wanted = {self._wake_fd: select.POLLIN}
        if listen >= 0:
            wanted[listen] = select.POLLIN
        if watched >= 0:
            wanted[watched] = select.POLLIN
        if self._out.size:
            wanted[self._out.fd] = wanted.get(self._out.fd, 0) | select.POLLOUT
        if wanted != self._polled:
            for fd in self._polled:
                if fd not in wanted:
                    self._poll.unregister(fd)
            for fd, events in wanted.items():
                self._poll.register(fd, events)
            self._polled = wanted

    def _wait_ms(self, choked: bool) -> int:
        now = time.monotonic()
        until = self._heard + self._timeout
        if self._filter is not None and not choked:
            due = self._filter.deadline()
            if due is not None:
                until = min(until, due)
            if self._tick_at is not None:
                until = min(until, self._tick_at)
            until = min(until, self._expire_at)
        turning = self._filter is not None and self._filter.turning
        if self._may_go_on and not turning:
            return 0
        left = until - now
        return 0 if left <= 0 else int(left * 1000) + 1

    @property
    def _may_go_on(self) -> bool:
        """Tell whether more of what was asked for can be told now."""
        if not self._bulk or self._out.size >= BULK_OUTPUT:
            return False
        return self._reader is None or self._reader.credit > 0

    def _wake(self) -> None:
        os.read(self._wake_fd, 4096)
        if self._terminated:
            self._over = True
        done = self._worker.done
        while done:
            done.popleft()()

    def _work(self) -> None:
        """Go on with what can wait: quarantine, and answers to large questions."""
        now = time.monotonic()
        if self._tick_at is not None and now >= self._tick_at:
            self._tick()
        if now >= self._expire_at:
            self._expire()
        until = time.monotonic() + _SLICE
        while self._may_go_on:
            weight, work = self._bulk[0]
            for _ in work:
                break
            else:
                self._bulk.popleft()
                self._backlog -= weight
            if time.monotonic() >= until:
                return

    def _tick(self) -> None:
        assert self._helpers is not None
        left = self._helpers.tick()
        self._tick_at = None if left is None else time.monotonic() + left
        self._report_kept()

    @staticmethod
    def _first_expiry(start: Start) -> float:
        """When to look for what has been in the stores for long enough: now, or never."""
        expires = start.conflict_keep_s or start.trash_s or start.versions_s
        return time.monotonic() if expires else float("inf")

    def _expire(self) -> None:
        """Let the worker drop what has been in the stores for long enough."""
        assert self._start is not None and self._helpers is not None
        helpers, start = self._helpers, self._start
        self._expire_at = time.monotonic() + _EXPIRE_EVERY

        def job() -> Callable[[], None]:
            dropped = helpers.expire(start.conflict_keep_s, start.trash_s, start.versions_s)
            return lambda: self._send_all(dropped)

        self._worker.submit(job)

    def _send_all(self, messages: Sequence[Message]) -> None:
        for message in messages:
            self._send(message)

    def _report_kept(self) -> list[Dropped]:
        """Tell what is kept; let the users have it, where they are to have both versions.

        Returns:
            What of that is kept no more, which has been told, too.
        """
        assert self._helpers is not None
        kept = self._helpers.kept
        if kept:
            self._send_all(kept)
            kept.clear()
        dropped = self._helpers.put_beside()
        self._send_all(dropped)
        return dropped

    def _send(self, message: Message) -> None:
        self._out.add(encode(message))

    def _log(self, level: int, message: str) -> None:
        self._worker.post(lambda: self._send(Log(level, message)))

    # --- the conversation -----------------------------------------------------------------

    def _hear(self) -> None:
        try:
            data = os.read(self._in_fd, _READ_SIZE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            raise BrainGone
        self._heard = time.monotonic()
        for message in self._framer.feed(data):
            handler = self._handlers.get(type(message))
            if handler is None:
                who = "an audit" if self._reader is not None else "a brain"
                raise AgentError(f"{who} does not say {type(message).__name__}")
            handler(self, message)
            if self._over:
                return
        if len(data) > 65536:
            self._out.flush()

    def _hello(self) -> Hello:
        uname = os.uname()
        return Hello(
            protocol=PROTOCOL,
            version=__version__,
            python="{}.{}.{}".format(*sys.version_info[:3]),
            arch=uname.machine,
            euid=os.geteuid(),
            pid=os.getpid(),
            boot_id=read_text("/proc/sys/kernel/random/boot_id"),
            hostname=uname.nodename,
            rsync=rsync_version(),
            features=["cinotify"] if self._program else [],
            clock_ns=time.time_ns(),
            booted_ns=booted_ns(),
        )

    def _on_start(self, start: Start) -> None:
        if self._start is not None:
            raise AgentError("Start came twice")
        if start.protocol != PROTOCOL:
            raise AgentError(
                f"the brain speaks protocol {start.protocol}, this agent (psync {__version__}) "
                f"speaks {PROTOCOL}: install the same version of psync on both hosts"
            )
        self._start = start
        self._timeout = max(start.timeout_ms, 1000) / 1000
        self._open_root(start.root, for_audit=start.audit)
        if start.audit:
            self._reader = Reader(self._root_fd, start, self._send)
            self._handlers = _AUDIT_HANDLERS
        else:
            self._lock = RootLock(self._root_fd, start.session)
            self._try_lock(self._lock.probe)
        pair, side = marker(self._root_fd)
        with os.scandir(self._root_fd) as names:
            empty = all(is_ours(os.fsencode(name.name)) for name in names)
        self._filesystem = filesystem(self._root)
        self._heard = time.monotonic()
        self._send(
            Ready(
                os.path.realpath(self._root),
                self._identity[0],
                self._identity[1],
                pair,
                side,
                empty,
                self._filesystem,
                generation(self._root_fd),
                mounted(self._root_fd, self._filesystem),
            )
        )

    def _on_examine(self, question: Examine) -> None:
        if self._start is not None:
            raise AgentError("Examine came after Start")
        try:
            self._open_root(question.root, for_audit=False)
        except _Refusal as refusal:
            self._send(examine(question, -1, question.root, str(refusal)))
            return
        fd, self._root_fd = self._root_fd, -1
        try:
            self._send(examine(question, fd, self._root))
        finally:
            os.close(fd)

    def _open_root(self, root: bytes, *, for_audit: bool) -> None:
        if self._only_root is not None:
            only = os.fsencode(self._only_root)
            if root and os.path.realpath(root) != os.path.realpath(only):
                raise _Refusal(
                    "no-root",
                    f"this key may only serve {printable(only)}, not {printable(root)}",
                )
            root = root or only
        path = os.path.abspath(root)
        shown = printable(path)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise _Refusal("no-root", f"{shown} does not exist") from None
        except NotADirectoryError:
            raise _Refusal("not-a-directory", f"{shown} is not a directory") from None
        except PermissionError:
            raise _Refusal("unreadable", f"{shown} may not be read") from None
        except OSError as error:
            raise _Refusal("no-root", f"{shown} cannot be opened: {error.strerror}") from None
        for mode, code, what in (
            (os.R_OK | os.X_OK, "unreadable", "read"),
            (os.W_OK, "unwritable", "written"),
        ):
            if for_audit and mode == os.W_OK:
                continue
            if not os.access(b".", mode, dir_fd=fd, effective_ids=True):
                os.close(fd)
                raise _Refusal(code, f"{shown} may not be {what}")
        self._root_fd, self._root = fd, path
        st = os.fstat(fd)
        self._identity = (st.st_dev, st.st_ino)

    def _try_lock(self, take: Callable[[], None]) -> None:
        try:
            take()
        except LockedError as error:
            raise _Refusal("locked", f"{printable(self._root)}: {error}") from None
        except OSError as error:
            raise self._unusable("/.psync/lock", error) from None

    def _unusable(self, name: str, error: OSError) -> _Refusal:
        """Say why something of ours in the root cannot be used, and whether that may pass."""
        shown, reason = printable(self._root) + name, error.strerror or str(error)
        if error.errno in _FULL:
            return _Refusal("no-room", f"{shown}: {reason}: make room, or free inodes (df -i)")
        return _Refusal("unwritable", f"{shown} cannot be used: {reason}")

    def _check_root(self) -> None:
        """See that the root's path still leads to what we opened. Raises RootLost."""
        shown = printable(self._root)
        try:
            st = os.stat(self._root)
        except OSError as error:
            raise RootLost(f"{shown} is gone: {error.strerror}") from None
        if (st.st_dev, st.st_ino) != self._identity:
            raise RootLost(f"{shown} is not the directory any more that it was")
        if self._helpers is not None and not marker(self._root_fd)[0]:
            raise RootLost(f"{shown} has lost its marker (.psync/marker)")

    def _on_watch(self, watch: Watch) -> None:
        start = self._start
        if start is None or self._filter is not None:
            raise AgentError("Watch came too early, or twice")
        self._check_root()
        helpers = Helpers(
            self._root_fd,
            owners=start.owners,
            strip_special_bits=start.strip_special_bits,
            strict=start.strict,
            quarantine_ms=start.quarantine_ms * (_BLIND_PATIENCE if self._is_blind else 1),
            log=self._log,
            keep_both=start.keep_both,
            for_trash=for_trash(start),
            attributes=attributes_of(start),
        )
        try:
            assert self._lock is not None
            os.close(open_control(self._root_fd))
            self._try_lock(self._lock.take)
            helpers.prepare(watch.pair, start.side)
            self._helpers = helpers
            helpers.recover()
        except OSError as error:
            raise self._unusable("", error) from None
        self._report_kept()
        self._tick_at = time.monotonic()
        self._expire_at = self._first_expiry(start)
        if start.distrust_cache:
            forget_cached(self._root_fd)
        observer = Filter(
            self._root_fd,
            start,
            program=self._program,
            filesystem=self._filesystem,
            own=helpers.own,
            send=self._send,
            log=self._log,
            check_root=self._check_root,
        )
        observer.begin()
        self._filter = observer
        self._log(10, f"watching with {observer.watcher}")

    def _on_settings(self, message: Settings) -> None:
        observer, new = self._observer(), message.start
        assert self._helpers is not None and self._start is not None
        changes = {field: getattr(new, field) for field in _CHANGEABLE}
        self._start = start = self._start._replace(**changes)
        self._timeout = max(start.timeout_ms, 1000) / 1000
        self._helpers.take_over(start)
        observer.take_over(start)
        self._expire_at = self._first_expiry(start)

    def _observer(self) -> Filter:
        if self._filter is None:
            raise AgentError("the brain asked before it said Watch")
        return self._filter

    def _check_paths(self, paths: Sequence[bytes]) -> None:
        for path in paths:
            if not valid_path(path):
                raise AgentError(f"the brain named a path that cannot be: {printable(path)!r}")

    def _later(self, weight: int, work: Iterator[None]) -> None:
        self._backlog += weight
        self._bulk.append((weight, work))

    def _on_list(self, message: List_) -> None:
        self._check_paths(message.paths)
        self._later(len(message.paths), self._observer().list_(message.paths))

    def _on_peek(self, message: Peek) -> None:
        self._check_paths([message.path])
        self._later(1, self._observer().peek(message))

    def _on_look(self, message: Look) -> None:
        self._check_paths(message.paths)
        observer = self._observer()
        if message.want < 2:
            self._later(len(message.paths), observer.look(message.want, message.paths))
        else:
            self._backlog += len(message.paths)
            self._worker.submit(lambda: self._digest(message.paths))

    def _on_apply(self, message: Apply) -> None:
        observer = self._observer()
        assert self._helpers is not None
        self._check_root()
        outcomes = self._helpers.apply(message.transitions)
        faults.at("applied")
        observer.applied(message.transitions, outcomes)
        # Before the outcome by which it lost: who waits for that waits for the loser, too.
        given = {dropped.kept for dropped in self._report_kept()}
        outcomes = [o._replace(kept=b"") if o.kept in given else o for o in outcomes]
        self._send(Results(message.batch, outcomes))
        if self._helpers.unheld and not self._told_unheld:
            self._told_unheld = True
            self._send(Trouble("metadata", b"", self._helpers.unheld))
        self._out.flush()
        faults.at("answered")
        if self._tick_at is None:
            self._tick()

    def _on_sync(self, message: Sync) -> None:
        self._observer()
        helpers = self._helpers
        assert helpers is not None

        def job() -> Callable[[], None]:
            try:
                ok = helpers.sync(message.generation)
            except NotDurableError as error:
                return partial(_give_up, error)
            return lambda: self._send(Synced(message.token, ok))

        self._worker.submit(job)

    def _on_recall(self, message: Recall) -> None:
        self._observer()
        self._check_root()
        helpers = self._helpers
        assert helpers is not None

        def job() -> Callable[[], None]:
            answer, changes = helpers.recall(message)
            return lambda: self._send_all([*changes, answer])

        self._worker.submit(job)

    def _on_flush(self, message: Flush) -> None:
        observer = self._observer()
        self._check_root()
        observer.flush(message.token)

    def _on_ping(self, message: Ping) -> None:
        if self._filter is not None:
            self._check_root()  # nothing tells of it while nothing happens there
        self._send(Pong(message.token, time.time_ns()))

    def _on_credit(self, message: Credit) -> None:
        self._observer().credit(message.size)

    def _on_rescan(self, message: Rescan) -> None:
        self._observer().rescan()

    def _on_stop(self, message: Stop) -> None:
        self._over = True

    # --- an audit ---------------------------------------------------------------------------

    def _on_audit_list(self, message: List_) -> None:
        self._check_paths(message.paths)
        self._check_root()
        assert self._reader is not None
        self._later(len(message.paths), self._reader.list_(message.paths))

    def _on_audit_look(self, message: Look) -> None:
        self._check_paths(message.paths)
        self._check_root()
        reader = self._reader
        assert reader is not None
        # Past the listings, which may wait for credit until this is answered.
        self._backlog += len(message.paths)

        def job() -> Callable[[], None]:
            for answer in reader.look(message.want, message.paths, lambda: self._worker.stopped):
                self._worker.post(partial(self._send, answer))
            return done

        def done() -> None:
            self._backlog -= len(message.paths)

        self._worker.submit(job)

    def _on_audit_read(self, message: Read) -> None:
        self._check_paths([message.path])
        self._check_root()
        reader = self._reader
        assert reader is not None

        def job() -> Callable[[], None]:
            return partial(self._send, reader.read(message.path, message.at))

        self._worker.submit(job)

    def _on_audit_credit(self, message: Credit) -> None:
        assert self._reader is not None
        self._reader.credit += message.size

    # --- large files ------------------------------------------------------------------------

    def _digest(self, paths: Sequence[bytes]) -> None:
        """In the worker: look at paths and hash what is there, however large."""
        start = self._start
        assert start is not None
        looker = Looker(
            self._root_fd,
            owners=start.owners,
            strip=start.strip_special_bits,
            attributes=attributes_of(start),
        )
        for path in paths:
            try:
                seen = look_whole(
                    self._root_fd, looker, path, lambda: self._worker.stopped, self._show_stores
                )
            except OSError as error:
                self._worker.post(self._unanswerable(path, error))
                continue
            finally:
                looker.forget()
            if seen is None:
                return
            self._worker.post(self._answer(path, seen))

    def _answer(self, path: bytes, seen: Seen) -> Callable[[], None]:
        def answer() -> None:
            self._bulk.append((1, self._observer().digested(path, seen)))

        return answer

    def _unanswerable(self, path: bytes, error: OSError) -> Callable[[], None]:
        def answer() -> None:
            self._backlog -= 1
            self._observer().unanswerable(path, error)

        return answer

    def _entry_of(self, fd: int) -> Optional[Entry]:
        start = self._start
        assert start is not None
        return entry_from_stat(os.fstat(fd), start.owners, start.strip_special_bits)

    def _on_open_source(self, message: OpenSource) -> None:
        observer = self._observer()
        self._check_paths([path for path, _ in message.files])
        if message.run in self._sources:
            raise AgentError(f"run {message.run} is open already")
        self._check_root()
        sources = self._sources[message.run] = []
        for path, expected in message.files:
            source = self._open_source(path, expected)
            sources.append(source)
            if source.fd < 0:
                observer.again(path)
        fds = [s.fd for s in sources]
        mapped = [fd for fd in fds if fd >= 0 and self._may_be_mapped(fd)]

        def tell() -> None:
            if self._sources.get(message.run) is sources:
                sparse = [fd for fd in fds if fd >= 0 and has_holes(fd)]
                self._send(Opened(message.run, fds, os.getpid(), sparse))

        def job() -> Callable[[], None]:
            for fd in mapped:
                let_stores_show(fd)
            return tell

        if mapped:
            self._worker.submit(job)
        else:
            tell()

    def _show_stores(self, fd: int) -> None:
        if self._may_be_mapped(fd):
            let_stores_show(fd)

    def _may_be_mapped(self, fd: int) -> bool:
        return may_be_mapped(fd, blind=self._is_blind)

    @property
    def _is_blind(self) -> bool:
        """Whether leases do not see here who has a file mapped."""
        return self._filesystem == "overlay"

    def _open_source(self, path: bytes, expected: Entry) -> _Source:
        try:
            fd = open_beneath(self._root_fd, path, _SOURCE)
        except OSError:
            return _Source(path, -1, None, None)
        watched = self._writes.watch(fd)  # before it is known for what is expected
        entry = self._entry_of(fd)
        if entry is None or entry.kind != Kind.FILE or not entry.same_identity(expected):
            self._writes.forget(watched)
            os.close(fd)
            return _Source(path, -1, None, None)
        return _Source(path, fd, entry, watched)

    def _is_intact(self, source: _Source) -> bool:
        """Tell whether a file that was read is as it was when it was opened.

        One that has lost its last name meanwhile (saved aside and renamed over, again)
        has another ctime for that alone: whether it was written to before, and its mtime put
        back, only who has listened knows.
        """
        fd, was, watched = source.fd, source.entry, source.watched
        if was is None or (watched is not None and not self._writes.is_unwritten(watched)):
            return False
        if was.same_identity(self._entry_of(fd)):
            return True
        st = os.fstat(fd)
        same = (st.st_size, st.st_mtime_ns) == (was.size, was.mtime_ns)
        return watched is not None and same and not st.st_nlink

    def _on_close_source(self, message: CloseSource) -> None:
        sources = self._sources.pop(message.run, [])
        intact = []
        for source in sources:
            same = False
            if source.fd >= 0:
                same = self._is_intact(source)
                if not same:
                    self._observer().again(source.path)
            intact.append(same)
        for source in sources:
            self._writes.forget(source.watched)
        _close_all(sources)
        self._send(Closed(message.run, intact))

    def _on_stage(self, message: Stage) -> None:
        self._observer()
        self._check_paths(message.bases)
        self._check_root()
        helpers = self._helpers
        assert helpers is not None

        def job() -> Callable[[], None]:
            trouble = ""
            try:
                helpers.stage(message.run, message.names, message.bases, message.size)
            except (OSError, ValueError) as error:
                trouble = getattr(error, "strerror", None) or str(error)
            staged = Staged(message.run, os.getpid(), helpers.stage_fd, trouble)
            return lambda: self._send(staged)

        self._worker.submit(job)

    def _on_unstage(self, message: Unstage) -> None:
        self._observer()
        helpers = self._helpers
        assert helpers is not None
        # By way of the worker: after a `Stage` that it may be busy with.
        self._worker.submit(lambda: lambda: helpers.unstage(message.run))


_HANDLERS: dict[type[Any], Callable[[Agent, Any], None]] = {
    Start: Agent._on_start,
    Examine: Agent._on_examine,
    Watch: Agent._on_watch,
    List_: Agent._on_list,
    Look: Agent._on_look,
    Apply: Agent._on_apply,
    OpenSource: Agent._on_open_source,
    CloseSource: Agent._on_close_source,
    Stage: Agent._on_stage,
    Unstage: Agent._on_unstage,
    Sync: Agent._on_sync,
    Recall: Agent._on_recall,
    Flush: Agent._on_flush,
    Ping: Agent._on_ping,
    Credit: Agent._on_credit,
    Rescan: Agent._on_rescan,
    Stop: Agent._on_stop,
    Settings: Agent._on_settings,
    Peek: Agent._on_peek,
}


# All that an agent does which may only look: none of it changes anything.
_AUDIT_HANDLERS: dict[type[Any], Callable[[Agent, Any], None]] = {
    Start: Agent._on_start,
    List_: Agent._on_audit_list,
    Look: Agent._on_audit_look,
    Read: Agent._on_audit_read,
    Credit: Agent._on_audit_credit,
    Ping: Agent._on_ping,
    Stop: Agent._on_stop,
}


def _give_up(error: Exception) -> None:
    raise error


def _close_all(sources: list[_Source]) -> None:
    for source in sources:
        if source.fd >= 0:
            os.close(source.fd)


def main(argv: Sequence[str] = ()) -> int:
    """Run an agent on standard input and output; return the exit code.

    Args:
        argv: `--root DIR` restricts it to one root (for a key's `command=`).
    """
    only_root: Optional[str] = None
    words = list(argv)
    while words:
        word = words.pop(0)
        if word == "--root" and words:
            only_root = words.pop(0)
        elif word.startswith("--root=") and len(word) > 7:
            only_root = word[7:]
        else:
            sys.stderr.write(f"psync: agent takes --root DIR and nothing else, not {word!r}\n")
            return 2
    command = os.environ.get("SSH_ORIGINAL_COMMAND", "")
    if command.startswith("rsync --server"):
        run_rsync(command, only_root)
    prepare_process()
    flags = [(fd, fcntl.fcntl(fd, fcntl.F_GETFL)) for fd in (0, 1)]
    agent = Agent(only_root=only_root)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's: the brain tells us to stop
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: agent.terminate())
    try:
        return agent.run()
    finally:
        for fd, flag in flags:
            try:
                fcntl.fcntl(fd, fcntl.F_SETFL, flag)  # whoever shares them does not expect ours
            except OSError:
                pass


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
