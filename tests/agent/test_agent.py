"""The real agent as a process of its own, spoken to over pipes as the brain does."""

from __future__ import annotations

import json
import mmap
import os
import resource
import select
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from psync import wire
from psync.agent import Agent
from psync.core.entry import Entry, Kind, content_digest
from psync.effects.bootstrap import agent_zip
from psync.lock import COMM
from psync.scan import Looker, entry_from_stat
from psync.syscalls import EXCHANGE, renameat2
from psync.wire import (
    APPLIED,
    BUSY,
    CHANGED,
    DATABASE,
    DELETE,
    META_ONLY,
    PUT,
    RENAME,
    UNREADABLE,
    Apply,
    Closed,
    CloseSource,
    Digests,
    Fatal,
    Flush,
    Flushed,
    Framer,
    Hello,
    Item,
    List_,
    Listing,
    Log,
    Look,
    Message,
    Observed,
    Opened,
    OpenSource,
    Peek,
    Peeked,
    Ping,
    Pong,
    Ready,
    Rescan,
    Results,
    Scanned,
    Settings,
    Stage,
    Staged,
    Start,
    Stop,
    Sync,
    Synced,
    Transition,
    Trouble,
    Unstage,
    Watch,
)
from tests.support.replica import Replica, file

PATIENCE = 10.0
REPO = Path(__file__).resolve().parent.parent.parent
SETTLE_MS = 60
MAX_DELAY_MS = 700

OLD_NS = 1_600_000_000_123_456_789  # a write now would show in the time of such a file


def start_message(root: Path | str, **changes: Any) -> Start:
    values: dict[str, Any] = {
        "protocol": wire.PROTOCOL,
        "version": "0",
        "root": os.fsencode(root),
        "session": "session-1",
        "side": 0,
        "owners": os.geteuid() == 0,
        "strip_special_bits": False,
        "excludes": [],
        "tempfiles": [],
        "inline_max": 262_144,
        "settle_ms": SETTLE_MS,
        "max_delay_ms": MAX_DELAY_MS,
        "quarantine_ms": 1000,
        "timeout_ms": 20_000,
        "strict": False,
        "suppress_echoes": True,
        "poll_ms": 300,
    }
    return Start(**{**values, **changes})


class Brain:
    """What the brain does to an agent, and what it makes of the answers.

    `tree` is the replica as the messages tell it: path to the last item.
    """

    def __init__(self, argv: list[str], **options: Any) -> None:
        self.process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=REPO,
            **options,
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self._in, self._out = self.process.stdin.fileno(), self.process.stdout.fileno()
        self._framer = Framer()
        self._before = b""
        self._magic = False
        self._queue: deque[Any] = deque()
        self.tree: dict[bytes, Item] = {}
        self.seen: list[Any] = []
        self.tokens = 0

    def say(self, *messages: Any) -> None:
        data = b"".join(wire.encode(m) for m in messages)
        while data:
            data = data[os.write(self._in, data) :]

    def hear(self, patience: float = PATIENCE) -> Any:
        """The next message; EOFError when the agent ended, TimeoutError when it is silent."""
        until = time.monotonic() + patience
        while not self._queue:
            left = until - time.monotonic()
            if not select.select([self._out], [], [], max(left, 0))[0]:
                raise TimeoutError(f"silence after {self.seen[-5:]}")
            data = os.read(self._out, 1 << 20)
            if not data:
                raise EOFError
            if not self._magic:
                self._before += data
                before, magic, data = self._before.partition(wire.MAGIC)
                if not magic:
                    continue
                self._magic = True
                assert before == b""
            self._queue.extend(self._framer.feed(data))
        message = self._queue.popleft()
        self.seen.append(message)
        if isinstance(message, Observed):
            for item in message.items:
                self.tree[item.path] = item
        elif isinstance(message, Listing) and message.entry is not None:
            directory = message.path
            for item in message.items:
                path = directory + b"/" + item.path if directory else item.path
                self.tree[path] = item._replace(path=path)
            self.tree[directory] = Item(directory, message.entry)
        return message

    def until(self, kind: type, patience: float = PATIENCE) -> Any:
        while True:
            message = self.hear(patience)
            if isinstance(message, kind):
                return message
            assert not isinstance(message, Fatal), message

    def item(self, path: bytes, holds: Callable[[Item], bool] = lambda item: True) -> Item:
        """Wait until something is said of a path that `holds`."""
        while True:
            item = self.tree.get(path)
            if item is not None and holds(item):
                return item
            self.hear()

    def content(self, path: bytes, content: bytes) -> Item:
        return self.item(path, lambda item: item.content == content)

    def gone(self, path: bytes) -> Item:
        return self.item(path, lambda item: item.entry is None)

    def flush(self) -> list[Any]:
        """Flush; return all that was said until it was done."""
        self.tokens += 1
        begin = len(self.seen)
        self.say(Flush(self.tokens))
        while self.until(Flushed).token != self.tokens:
            pass
        return self.seen[begin:]

    def observed(self) -> dict[bytes, Item]:
        """Flush; return what was observed by it and before, and forget it all."""
        self.flush()
        tree, self.tree = self.tree, {}
        return tree

    def greet(self, start: Start) -> Any:
        self.until(Hello)
        self.say(start)
        return self.hear()

    def watch(self, start: Start) -> None:
        ready = self.greet(start)
        assert isinstance(ready, Ready), ready
        self.say(Watch("pair-1"))
        self.until(Scanned)

    def apply(self, *transitions: Transition) -> list[wire.Outcome]:
        self.tokens += 1
        self.say(Apply(self.tokens, list(transitions)))
        results = self.until(Results)
        assert results.batch == self.tokens
        outcomes: list[wire.Outcome] = results.outcomes
        return outcomes

    def end(self) -> int:
        if self.process.poll() is None:
            try:
                self.say(Stop())
            except BrokenPipeError:
                pass
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()
        return self.process.wait()


NORMAL = [sys.executable, "-m", "psync.agent"]
INOTIFY = [
    sys.executable,
    "-c",
    "import psync.agent as a; a.find_cinotify = lambda: ''; raise SystemExit(a.main())",
]
POLLING = [
    sys.executable,
    "-c",
    "import sys; sys.modules['inotify_simple'] = None\n"
    "import psync.agent as a; a.find_cinotify = lambda: ''; raise SystemExit(a.main())",
]


GROWING = [  # a file grows whenever it has been hashed, so many times
    sys.executable,
    "-c",
    """import os
import psync.scan as scan
from psync.agent import main
times = int(os.environ["TIMES"])
def hash_file(fd, stopped, whole=scan.hash_file):
    global times
    digest = whole(fd, stopped)
    if times:
        times -= 1
        with open(f"/proc/self/fd/{fd}", "ab") as stream:
            stream.write(b"more")
    return digest
scan.hash_file = hash_file
raise SystemExit(main())""",
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "root"
    path.mkdir()
    return path


@pytest.fixture
def spawn(programs: list[Path]) -> Iterator[Callable[..., Brain]]:
    brains: list[Brain] = []

    def make(argv: list[str] | None = None, **options: Any) -> Brain:
        brains.append(Brain(argv or NORMAL, **options))
        return brains[-1]

    yield make
    for brain in brains:
        brain.end()


@pytest.fixture(params=["cinotify", "inotify_simple"])
def either(spawn: Callable[..., Brain], request: pytest.FixtureRequest) -> Brain:
    """A brain with an agent that is to be greeted."""
    return spawn(NORMAL if request.param == "cinotify" else INOTIFY)


@pytest.fixture
def brain(root: Path, either: Brain) -> Brain:
    """A brain with an agent that watches an empty root."""
    either.watch(start_message(root))
    return either


@pytest.fixture
def one(root: Path, spawn: Callable[..., Brain]) -> Brain:
    """The same with cinotify only, where the watcher makes no difference."""
    made = spawn()
    made.watch(start_message(root))
    return made


def put(path: bytes, content: bytes, op: int = 1, expected: Entry | None = None) -> Transition:
    wanted = Entry(
        Kind.FILE, 0o640, 0, 0, len(content), 10**18 + 7, b"", content_digest(content), 0, 0
    )
    return Transition(op, PUT, path, expected, wanted, content=content)


def mkdir(path: bytes, op: int = 1) -> Transition:
    wanted = Entry(Kind.DIRECTORY, 0o750, 0, 0, 0, 10**18 + 9, b"", b"", 0, 0)
    return Transition(op, PUT, path, None, wanted)


class TestHandshake:
    def test_says_who_it_is_before_anything_else(self, spawn: Callable[..., Brain]) -> None:
        hello = spawn().hear()

        assert isinstance(hello, Hello)
        assert hello.protocol == wire.PROTOCOL
        assert hello.euid == os.geteuid()
        assert "cinotify" in hello.features
        uptime = float(Path("/proc/uptime").read_text().split()[0])
        assert abs(hello.clock_ns - hello.booted_ns - uptime * 1e9) < 10**10
        if shutil.which("rsync"):
            assert hello.rsync[0].isdigit()

    @pytest.mark.parametrize("harm", [None, b"", b"\xff", b"x" * 1000])
    def test_x16_tells_which_state_a_root_is_in(
        self, root: Path, spawn: Callable[..., Brain], harm: bytes | None
    ) -> None:
        first = spawn()
        assert first.greet(start_message(root)).generation == ""
        first.say(Watch("pair"))
        first.until(Scanned)
        for token, name in ((1, "one"), (2, ""), (3, "two"), (4, "")):
            first.say(Sync(token, name))
            assert first.until(Synced).ok
        first.say(Stop())
        first.process.wait(PATIENCE)
        if harm is not None:
            (root / ".psync/generation").write_bytes(harm)

        told = spawn().greet(start_message(root)).generation
        assert told == ("two" if harm is None else "x" * 100 if len(harm) > 1 else "")

    def test_tells_of_an_empty_root_and_writes_nothing(
        self, root: Path, spawn: Callable[..., Brain]
    ) -> None:
        ready = spawn().greet(start_message(root))

        assert isinstance(ready, Ready)
        assert ready.empty
        assert (ready.marker_pair, ready.marker_side) == ("", "")
        assert ready.inode == root.stat().st_ino
        assert ready.filesystem
        assert list(root.iterdir()) == []

    def test_tells_of_the_marker_of_an_earlier_watch(
        self, root: Path, spawn: Callable[..., Brain]
    ) -> None:
        before = root.stat().st_mtime_ns
        first = spawn()
        first.watch(start_message(root, side=1))
        assert first.end() == 0

        ready = spawn().greet(start_message(root))

        assert (ready.marker_pair, ready.marker_side) == ("pair-1", "right")
        assert ready.empty
        assert (root / ".psync").stat().st_mode & 0o7777 == 0o700
        assert root.stat().st_mtime_ns == before

    @pytest.mark.parametrize(
        ("name", "code"), [("missing", "no-root"), ("file", "not-a-directory")]
    )
    def test_refuses_a_root_that_is_none(
        self, root: Path, spawn: Callable[..., Brain], name: str, code: str
    ) -> None:
        (root / "file").write_text("x")
        brain = spawn()

        fatal = brain.greet(start_message(root / name))

        assert isinstance(fatal, Fatal)
        assert fatal.code == code
        assert name in fatal.message
        assert brain.end() == 1

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
    @pytest.mark.parametrize(("mode", "code"), [(0o711, "unreadable"), (0o755, "unwritable")])
    def test_refuses_a_root_that_its_user_may_not_use(
        self, root: Path, spawn: Callable[..., Brain], mode: int, code: str
    ) -> None:
        root.chmod(mode)
        for above in root.parents:
            if above.is_relative_to(tempfile.gettempdir()) and above.stat().st_uid == os.geteuid():
                above.chmod(0o755)
        become = "import os, sys; import psync.agent as a; os.setgroups([]); os.setuid(54321)"
        brain = spawn([sys.executable, "-c", f"{become}; sys.exit(a.main([]))"])

        fatal = brain.greet(start_message(root))

        assert isinstance(fatal, Fatal)
        assert fatal.code == code
        assert brain.end() == 1

    def test_x22_refuses_a_brain_of_another_protocol(
        self, root: Path, spawn: Callable[..., Brain]
    ) -> None:
        fatal = spawn().greet(start_message(root, protocol=99))

        assert isinstance(fatal, Fatal)
        assert fatal.code == "protocol"
        assert "99" in fatal.message

    def test_refuses_garbage_with_a_reason(self, spawn: Callable[..., Brain]) -> None:
        brain = spawn()
        brain.until(Hello)
        os.write(brain._in, b"\xff" * 64)

        fatal = brain.hear()

        assert isinstance(fatal, Fatal)
        assert fatal.code == "protocol"

    @pytest.mark.parametrize(
        ("size", "body"),
        [
            pytest.param(0xFFFFFFFF, b"", id="of four gigabytes"),
            pytest.param(1 << 20, b"\x91" * (1 << 20), id="with a million levels"),
            pytest.param(7, b"\x92\0\xdd\x3b\x9a\xca\0", id="with 10^9 entries"),
            pytest.param(8, b"\x92\0\x91\xc6\xff\xff\xff\xff", id="with a name of four gigabytes"),
        ],
    )
    def test_s03_refuses_a_frame_that_there_is_no_room_for(
        self, root: Path, spawn: Callable[..., Brain], size: int, body: bytes
    ) -> None:
        room = 1 << 29
        brain = spawn(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (room, room)))
        assert isinstance(brain.greet(start_message(root)), Ready)
        code = wire.encode(Look(0, []))[4:5]

        os.write(brain._in, size.to_bytes(4, "big") + code + body)

        fatal = brain.hear()
        assert isinstance(fatal, Fatal)
        assert fatal.code == "protocol"

    @pytest.mark.parametrize("path", [b"../x", b"/etc/passwd", b".psync/marker", b"a//b", b"a\0"])
    def test_s02_refuses_a_path_that_leaves_the_root(self, one: Brain, path: bytes) -> None:
        one.say(Look(0, [path]))

        with pytest.raises(AssertionError, match="protocol"):
            one.until(Observed)

    def test_serves_only_the_root_of_its_command_line(
        self, root: Path, spawn: Callable[..., Brain], tmp_path: Path
    ) -> None:
        other = tmp_path / "other"
        other.mkdir()

        refused = spawn([*NORMAL, "--root", str(root)]).greet(start_message(other))
        served = spawn([*NORMAL, "--root", str(root)]).greet(start_message(root))
        implied = spawn([*NORMAL, f"--root={root}"]).greet(start_message(""))

        assert isinstance(refused, Fatal)
        assert str(root) in refused.message
        assert isinstance(served, Ready)
        assert implied.root == os.fsencode(root)

    def test_says_what_it_does_not_understand_on_the_command_line(self) -> None:
        done = subprocess.run([*NORMAL, "--rot", "x"], cwd=REPO, capture_output=True, check=False)

        assert done.returncode == 2
        assert b"--rot" in done.stderr


class TestLock:
    def test_x17_refuses_a_root_that_another_session_works_on(
        self, root: Path, one: Brain, spawn: Callable[..., Brain]
    ) -> None:
        fatal = spawn().greet(start_message(root, session="session-2"))

        assert isinstance(fatal, Fatal)
        assert fatal.code == "locked"
        assert str(one.process.pid) in fatal.message
        assert one.process.poll() is None

    def test_x13_takes_over_from_a_frozen_agent_of_the_same_session(
        self, root: Path, one: Brain, spawn: Callable[..., Brain]
    ) -> None:
        one.process.send_signal(signal.SIGSTOP)

        ready = spawn().greet(start_message(root))

        assert isinstance(ready, Ready)
        assert one.process.wait(PATIENCE) == -signal.SIGKILL

    def test_waits_for_an_agent_of_the_same_session_to_end_by_itself(
        self, root: Path, one: Brain, spawn: Callable[..., Brain]
    ) -> None:
        heir = spawn()
        heir.until(Hello)
        heir.say(start_message(root))
        assert one.end() == 0

        assert isinstance(heir.hear(), Ready)

    def test_lets_nobody_kill_a_process_that_is_no_agent(
        self, root: Path, spawn: Callable[..., Brain]
    ) -> None:
        control = root / ".psync"
        control.mkdir(mode=0o700)
        holder = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "import fcntl,os,sys\n"
                f"f = open({str(control / 'lock')!r}, 'w')\n"
                "fcntl.flock(f, fcntl.LOCK_EX)\n"
                "f.write(f'{os.getpid()} session-1\\n'); f.flush()\n"
                "print('locked', flush=True); sys.stdin.read()",
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        with holder:
            assert holder.stdout is not None and holder.stdin is not None
            holder.stdout.readline()

            fatal = spawn().greet(start_message(root))

            assert isinstance(fatal, Fatal)
            assert fatal.code == "locked"
            assert holder.poll() is None
            holder.stdin.close()

    def test_calls_itself_by_its_name(self, one: Brain) -> None:
        assert Path(f"/proc/{one.process.pid}/comm").read_text().strip() == COMM


class TestScan:
    def test_names_every_directory_parents_first(
        self, root: Path, spawn: Callable[..., Brain]
    ) -> None:
        for path in ("b/c/d", "a", "b.x"):
            (root / path).mkdir(parents=True)
        (root / "b/c/file").write_text("x")
        (root / "secret.psync.ignore").mkdir()
        brain = spawn()
        brain.greet(start_message(root))
        brain.say(Watch("pair-1"))

        scanned = brain.until(Scanned)
        digests = [m for m in brain.seen if isinstance(m, Digests)]
        paths = [path for m in digests for path, _ in m.directories]

        assert paths[0] == b""
        assert sorted(paths) == [b"", b"a", b"b", b"b.x", b"b/c", b"b/c/d"]
        assert paths.index(b"b") < paths.index(b"b/c") < paths.index(b"b/c/d")
        assert scanned.directories == 6
        assert scanned.generation == digests[0].generation == 1

    def test_scans_again_when_asked(self, root: Path, brain: Brain) -> None:
        (root / "d").mkdir()
        brain.say(Rescan())

        scanned = brain.until(Scanned)

        assert scanned.generation == 2
        again = [m for m in brain.seen if isinstance(m, Digests) and m.generation == 2]
        assert {path for m in again for path, _ in m.directories} == {b"", b"d"}

    def test_gives_an_unchanged_directory_the_same_digest_with_every_watcher(
        self, root: Path, spawn: Callable[..., Brain]
    ) -> None:
        (root / "d").mkdir()
        (root / "d/f").write_text("x")
        (root / "d/l").symlink_to("f")
        found = []
        for argv in (NORMAL, INOTIFY, POLLING):
            brain = spawn(argv)
            brain.watch(start_message(root))
            digests = [m for m in brain.seen if isinstance(m, Digests)]
            found.append({path: digest for m in digests for path, digest in m.directories})
            brain.end()

        assert found[0] == found[1] == found[2]


class TestListing:
    def test_lists_what_is_there_and_says_what_is_not(self, root: Path, one: Brain) -> None:
        (root / "d").mkdir()
        (root / "d/file").write_text("abc")
        (root / "d/link").symlink_to("elsewhere")
        os.mkfifo(root / "d/pipe")
        (root / "d/x.psync.ignore").write_text("")
        one.flush()
        one.say(List_([b"d", b"nothing"]))

        there, absent = one.until(Listing), one.until(Listing)

        assert [i.path for i in there.items] == [b"file", b"link"]
        assert there.items[0].entry.size == 3
        assert there.items[0].content is None
        assert there.items[1].entry.target == b"elsewhere"
        assert (there.after, there.upto) == (b"", None)
        assert absent.entry is None

    def test_n06_cuts_a_giant_directory_into_ranges(self, root: Path, one: Brain) -> None:
        names = sorted(b"%05d" % i for i in range(4500))
        (root / "d.psync.ignore").mkdir()
        for name in names:
            (root / "d.psync.ignore" / name.decode()).touch()
        (root / "d.psync.ignore").rename(root / "d")
        one.flush()
        one.say(List_([b"d"]))

        listings = [one.until(Listing)]
        while listings[-1].upto is not None:
            listings.append(one.until(Listing))

        assert len(listings) == 10
        assert [i.path for m in listings for i in m.items] == names
        assert [m.after for m in listings[1:]] == [m.upto for m in listings[:-1]]

    def test_answers_a_ping_while_it_lists(self, root: Path, one: Brain) -> None:
        for i in range(3000):
            (root / f"f{i}").touch()
        one.flush()
        one.say(List_([b""] * 15), Ping(5))
        answers: list[Any] = []
        while len(answers) < 16:
            message = one.hear()
            if isinstance(message, Pong) or (isinstance(message, Listing) and not message.upto):
                answers.append(message)

        assert answers.index(next(a for a in answers if isinstance(a, Pong))) < 8


class TestLive:
    def test_tells_of_a_new_file_with_its_content(self, root: Path, brain: Brain) -> None:
        (root / "f").write_bytes(b"hello")

        item = brain.content(b"f", b"hello")

        assert item.entry is not None
        assert item.entry.digest == content_digest(b"hello")
        assert item.entry.ino == (root / "f").stat().st_ino
        assert not item.flags

    def test_tells_of_an_edit_a_chmod_and_a_removal(self, root: Path, brain: Brain) -> None:
        path = root / "f"
        path.write_bytes(b"one")
        brain.content(b"f", b"one")
        path.write_bytes(b"two!")
        brain.content(b"f", b"two!")
        os.utime(path, ns=(0, OLD_NS))
        path.chmod(0o600)
        changed = brain.item(b"f", lambda i: i.entry is not None and i.entry.mode == 0o600)
        path.unlink()
        brain.gone(b"f")

        assert changed.flags == META_ONLY
        assert changed.content is None

    def test_tells_of_a_rename_with_the_hint_first(self, root: Path, brain: Brain) -> None:
        (root / "f").write_bytes(b"x")
        brain.content(b"f", b"x")
        (root / "f").rename(root / "g")
        item = brain.item(b"g")
        brain.gone(b"f")
        observed = next(m for m in brain.seen if isinstance(m, Observed) and item in m.items)

        assert item.moved_from == b"f"
        assert item.content is None
        assert [i.path for i in observed.items[:2]] == [b"g", b"f"]

    def test_c13_makes_one_move_of_a_chain(self, root: Path, brain: Brain) -> None:
        (root / "a").write_bytes(b"x")
        brain.observed()
        for old, new in ("ab", "bc", "cd"):
            (root / old).rename(root / new)
        tree = brain.observed()

        assert tree[b"d"].entry is not None
        assert tree[b"a"].entry is None
        assert tree[b"d"].moved_from in (b"a", b"c", b"b")
        assert tree.get(b"b", tree[b"a"]).entry is None

    def test_tells_of_both_ends_of_a_swap(self, root: Path, brain: Brain) -> None:
        (root / "a").write_bytes(b"A")
        (root / "b").write_bytes(b"B")
        before = brain.observed()
        (root / "a").rename(root / "t")
        (root / "b").rename(root / "a")
        (root / "t").rename(root / "b")
        tree = brain.observed()
        was_a, was_b, is_a, is_b = (
            e.ino for e in (before[b"a"].entry, before[b"b"].entry, tree[b"a"].entry,
                            tree[b"b"].entry) if e is not None
        )  # fmt: skip

        assert (is_a, is_b) == (was_b, was_a)

    def test_sends_the_content_of_a_file_saved_by_rename(self, root: Path, brain: Brain) -> None:
        (root / "f").write_bytes(b"old")
        brain.content(b"f", b"old")
        (root / "f~").write_bytes(b"new text")
        (root / "f~").rename(root / "f")
        tree = brain.observed()
        entry = tree[b"f"].entry

        assert entry is not None
        assert entry.size == 8
        told = [i for m in brain.seen if isinstance(m, Observed) for i in m.items]
        assert any(i.content == b"new text" for i in told)
        assert tree[b"f~"].entry is None

    @pytest.mark.parametrize("times", [1, 2, 5])
    @pytest.mark.parametrize("other", ["file", "directory"])
    def test_lists_exchanged_directories_under_their_new_names(
        self, root: Path, brain: Brain, other: str, times: int
    ) -> None:
        (root / "d/deep").mkdir(parents=True)
        (root / "d/deep/f").write_bytes(b"in d")
        if other == "file":
            (root / "e").write_bytes(b"file e")
        else:
            (root / "e/deep").mkdir(parents=True)
            (root / "e/deep/g").write_bytes(b"in e")
        brain.observed()
        fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        for _ in range(times):
            renameat2(fd, b"d", fd, b"e", EXCHANGE)
        os.close(fd)
        tree = brain.observed()
        d, e = (b"e", b"d") if times % 2 else (b"d", b"e")

        assert tree[d + b"/deep/f"].content == b"in d"
        if other == "directory":
            assert tree[e + b"/deep/g"].content == b"in e"
        else:
            entry = tree[e].entry
            assert entry is not None and entry.kind == Kind.FILE

        for directory in [d, e] if other == "directory" else [d]:
            (root / os.fsdecode(directory) / "deep/later").write_bytes(directory)
            brain.content(directory + b"/deep/later", directory)

    def test_lists_new_directories_with_what_is_in_them(self, root: Path, brain: Brain) -> None:
        (root / "a/b/c").mkdir(parents=True)
        (root / "a/b/c/d").write_bytes(b"deep")
        brain.content(b"a/b/c/d", b"deep")
        listed = [m.path for m in brain.seen if isinstance(m, Listing)]

        assert listed.index(b"a") < listed.index(b"a/b") < listed.index(b"a/b/c")

    def test_n05_lists_a_tree_that_was_moved_in(
        self, root: Path, brain: Brain, tmp_path: Path
    ) -> None:
        (tmp_path / "t/u").mkdir(parents=True)
        (tmp_path / "t/u/f").write_bytes(b"came")
        (tmp_path / "t").rename(root / "t")
        brain.content(b"t/u/f", b"came")

        (root / "t/u/f").write_bytes(b"edited here")
        brain.content(b"t/u/f", b"edited here")

    def test_n05_lists_ten_thousand_files_that_were_moved_in(
        self, root: Path, one: Brain, tmp_path: Path
    ) -> None:
        for number in range(100):
            (tmp_path / f"t/{number}").mkdir(parents=True)
            for name in range(100):
                (tmp_path / f"t/{number}/{name}").touch()
        (tmp_path / "t").rename(root / "t")
        one.flush()

        listed = [path for path, item in one.tree.items() if item.entry is not None]
        assert len(listed) == 10_102, "with 101 directories and the root"

    def test_n04_tells_of_a_tree_that_was_moved_out_and_back(
        self, root: Path, brain: Brain, tmp_path: Path
    ) -> None:
        (root / "t").mkdir()
        (root / "t/f").write_bytes(b"1")
        brain.content(b"t/f", b"1")
        (root / "t").rename(tmp_path / "t")
        brain.gone(b"t")
        (tmp_path / "t/f").write_bytes(b"changed outside")
        (tmp_path / "t").rename(root / "t")

        brain.content(b"t/f", b"changed outside")

    def test_n03_tells_of_edits_right_before_and_after_a_directory_rename(
        self, root: Path, brain: Brain
    ) -> None:
        (root / "d/e").mkdir(parents=True)
        (root / "d/e/before").write_bytes(b"0")
        (root / "d/e/after").write_bytes(b"0")
        brain.observed()
        (root / "d/e/before").write_bytes(b"edited before")
        (root / "d").rename(root / "new")
        (root / "new/e/after").write_bytes(b"edited after")
        (root / "new/e/fresh").write_bytes(b"fresh")
        brain.flush()

        assert brain.tree[b"new"].moved_from == b"d"
        assert brain.tree[b"d"].entry is None
        before = [brain.tree.get(p) for p in (b"new/e/before", b"d/e/before")]
        assert b"edited before" in [item.content for item in before if item is not None]
        assert brain.tree[b"new/e/after"].content == b"edited after"
        assert brain.tree[b"new/e/fresh"].content == b"fresh"

    def test_does_not_list_a_directory_that_was_only_renamed(
        self, root: Path, brain: Brain
    ) -> None:
        (root / "d").mkdir()
        for i in range(200):
            (root / f"d/{i}").touch()
        brain.observed()
        begin = len(brain.seen)
        (root / "d").rename(root / "e")
        brain.flush()

        assert not [m for m in brain.seen[begin:] if isinstance(m, Listing)]
        assert sum(len(wire.encode(m)) for m in brain.seen[begin:]) < 1024

    def test_survives_many_renames_of_a_tree_under_edits(self, root: Path, brain: Brain) -> None:
        (root / "d0/sub").mkdir(parents=True)
        for i in range(60):
            (root / f"d{i}/sub/f{i}").write_bytes(b"%d" % i)
            (root / f"d{i}").rename(root / f"d{i + 1}")
        brain.flush()
        told = {
            item.content: item.path
            for m in brain.seen
            for item in (m.items if isinstance(m, Observed | Listing) else [])
            if item.content is not None
        }

        assert set(told) >= {b"%d" % i for i in range(60)}
        assert brain.tree[b"d60"].entry is not None

    def test_tells_of_a_symlink_at_once(self, root: Path, brain: Brain) -> None:
        begin = time.monotonic()
        (root / "l").symlink_to("target")
        item = brain.item(b"l")

        assert item.entry is not None
        assert (item.entry.kind, item.entry.target, item.entry.mode) == (Kind.SYMLINK, b"target", 0)
        assert time.monotonic() - begin < SETTLE_MS / 1000

    def test_tells_of_a_hard_link(self, root: Path, brain: Brain) -> None:
        (root / "a").write_bytes(b"x")
        brain.content(b"a", b"x")
        os.link(root / "a", root / "b")

        assert brain.content(b"b", b"x").entry is not None

    def test_tells_of_the_time_of_a_directory_in_which_names_changed(
        self, root: Path, brain: Brain
    ) -> None:
        (root / "d").mkdir()
        brain.observed()
        (root / "d/f").write_bytes(b"x")
        tree = brain.observed()

        assert tree[b"d"].entry is not None
        assert tree[b"d"].entry.mtime_ns == (root / "d").stat().st_mtime_ns

    def test_keeps_quiet_about_what_the_user_excluded(
        self, root: Path, spawn: Callable[..., Brain]
    ) -> None:
        brain = spawn()
        brain.watch(start_message(root, excludes=["cache"], tempfiles=[r"re:\.tmp$"]))
        (root / "cache/deep").mkdir(parents=True)
        (root / "cache/deep/f").write_bytes(b"x")
        (root / "work.TMP").write_bytes(b"final")
        (root / "x.psync.ignore").write_bytes(b"x")
        assert set(brain.observed()) <= {b""}

        (root / "work.TMP").rename(root / "work")
        (root / "cache").rename(root / "kept")
        tree = brain.observed()

        assert tree[b"work"].content == b"final"
        assert tree[b"kept/deep/f"].content == b"x"

        (root / "work").rename(root / "work.tmp")
        assert brain.observed()[b"work"].entry is None

    def test_tells_of_the_mtime_of_a_directory_in_which_excluded_names_come_and_go(
        self, root: Path, spawn: Callable[..., Brain]
    ) -> None:
        brain = spawn()
        brain.watch(start_message(root, excludes=["*.o", "cache"]))
        (root / "d/cache").mkdir(parents=True)
        (root / "e").mkdir()
        brain.observed()

        (root / "d/x.o").touch()
        (root / "d/cache/x").touch()
        tree = brain.observed()
        assert set(tree) == {b"d"}
        assert tree[b"d"].entry.mtime_ns == (root / "d").stat().st_mtime_ns

        (root / "d/x.o").rename(root / "e/y.o")
        tree = brain.observed()
        assert set(tree) == {b"d", b"e"}
        assert tree[b"e"].entry.mtime_ns == (root / "e").stat().st_mtime_ns

    def test_gathers_changes_for_as_long_as_it_is_told_but_no_flush_waits(
        self, root: Path, spawn: Callable[..., Brain]
    ) -> None:
        brain = spawn()
        brain.watch(start_message(root, event_interval_ms=3_600_000))
        (root / "d").mkdir()
        for content in (b"one", b"two", b"three"):
            (root / "d/f").write_bytes(content)
        for token in range(3):
            brain.say(Ping(token))
            brain.until(Pong)
        assert not set(brain.tree) - {b""}

        assert brain.observed()[b"d/f"].content == b"three"

    def test_tells_what_it_has_gathered_without_being_asked(
        self, root: Path, spawn: Callable[..., Brain]
    ) -> None:
        brain = spawn()
        brain.watch(start_message(root, event_interval_ms=100))
        (root / "f").write_bytes(b"one")
        brain.content(b"f", b"one")
        (root / "f").write_bytes(b"two")
        brain.content(b"f", b"two")

    def test_tells_who_peeks_what_is_there_and_still_tells_it_as_news(
        self, root: Path, spawn: Callable[..., Brain]
    ) -> None:
        brain = spawn()
        brain.watch(start_message(root, excludes=["*.o", "no/"], event_interval_ms=3_600_000))
        (root / "d/no").mkdir(parents=True)
        for i in range(2500):
            (root / f"d/f{i:04}").touch()
        (root / "d/x.o").touch()

        brain.say(Peek(1, b"d"), Peek(2, b"d", b"f1998"), Peek(3, b"gone"), Peek(4, b"d/f0000"))
        first, second, third, fourth = (brain.until(Peeked) for _ in range(4))

        assert (first.token, first.message, first.upto) == (1, "", b"f1999")
        assert [item.path for item in first.items] == [b"f%04d" % i for i in range(2000)]
        assert first.items[0].entry.ino == (root / "d/f0000").stat().st_ino
        assert (second.upto, second.items[0].path, second.items[-1].path) == (
            None, b"f1999", b"f2499",
        )  # fmt: skip
        assert third == Peeked(3, "", None, [])
        assert fourth == Peeked(4, "", None, [])
        assert b"d/f2499" in brain.observed()

    def test_tells_what_other_rules_show_and_no_more_of_what_they_hide(
        self, root: Path, brain: Brain
    ) -> None:
        (root / "cache/d").mkdir(parents=True)
        for name in ("cache/x", "cache/d/y", "f", "g.o"):
            (root / name).write_bytes(name.encode())
        assert {b"cache/d/y", b"g.o"} <= set(brain.observed())
        before = len(brain.seen)

        brain.say(Settings(start_message(root, excludes=["cache/", "*.o"])))
        (root / "cache/x").write_bytes(b"hidden")
        (root / "f").write_bytes(b"shown")
        tree = brain.observed()
        assert tree[b"f"].content == b"shown"
        assert set(tree) <= {b"", b"f"}

        brain.say(Settings(start_message(root)))
        tree = brain.observed()
        assert tree[b"cache/x"].content == b"hidden"
        assert tree[b"cache/d/y"].content == b"cache/d/y"
        assert tree[b"g.o"].content == b"g.o"  # as it was told before, and forgotten since
        assert b"f" not in tree
        assert not any(isinstance(message, Digests) for message in brain.seen[before:])

    def test_e10_watches_what_it_did_not_enter_when_that_is_shown(
        self, root: Path, either: Brain
    ) -> None:
        (root / "cache/d/e").mkdir(parents=True)
        (root / "x/cache").mkdir(parents=True)
        either.watch(start_message(root, excludes=["cache", "/z"]))
        (root / "cache/d/f").write_bytes(b"hidden")
        assert set(either.observed()) <= {b"", b"x"}

        either.say(Settings(start_message(root, excludes=["/z"])))
        assert either.observed()[b"cache/d/f"].content == b"hidden"
        (root / "cache/d/e/f").write_bytes(b"shown")
        (root / "x/cache/f").write_bytes(b"shown, too")

        either.content(b"cache/d/e/f", b"shown")
        either.content(b"x/cache/f", b"shown, too")

    def test_e10_follows_directories_from_and_to_names_that_it_does_not_enter(
        self, root: Path, either: Brain
    ) -> None:
        (root / "cache/d").mkdir(parents=True)
        (root / "cache/d/f").write_bytes(b"one")
        either.watch(start_message(root, excludes=["cache"]))

        (root / "cache").rename(root / "kept")
        either.content(b"kept/d/f", b"one")
        (root / "kept/d/f").write_bytes(b"two")
        either.content(b"kept/d/f", b"two")
        (root / "kept/d").rename(root / "d")
        (root / "kept").rename(root / "cache")
        either.gone(b"kept")
        either.item(b"d", lambda item: item.moved_from == b"kept/d")
        (root / "cache/g").write_bytes(b"hidden")
        (root / "d/g").write_bytes(b"shown")
        either.content(b"d/g", b"shown")

        (root / "cache").rename(root / "e")
        (root / "d").rename(root / "cache")
        (root / "e").rename(root / "d")
        either.item(b"d", lambda item: item.moved_from == b"e")
        (root / "d/g").write_bytes(b"shown again")
        either.content(b"d/g", b"shown again")
        assert not any(path.startswith(b"cache/") for path in either.observed())

    def test_tells_what_is_shown_while_it_still_looks_for_what_was(
        self, root: Path, one: Brain
    ) -> None:
        for i in range(300):
            (root / f"d{i}").mkdir()
            (root / f"d{i}/x.o").write_bytes(b"x")
        one.say(Settings(start_message(root, excludes=["*.o"])))
        one.observed()

        one.say(
            Settings(start_message(root)),
            Settings(start_message(root, excludes=["d7"])),
            Settings(start_message(root)),
        )
        said = one.flush()

        # What it had not come to is found so.
        assert any(isinstance(message, Scanned) for message in said)

    @pytest.mark.parametrize("mode", [0, 0o700])
    def test_looks_for_what_is_shown_where_it_can(
        self, root: Path, one: Brain, mode: int
    ) -> None:
        (root / "d").mkdir()
        (root / "d/x.o").write_bytes(b"x")
        one.say(Settings(start_message(root, excludes=["*.o"])))
        one.observed()
        (root / "d").chmod(mode)

        one.say(Settings(start_message(root)))
        tree = one.observed()
        (root / "d").chmod(0o700)

        assert (b"d/x.o" in tree) is (mode != 0 or os.geteuid() == 0)

    def test_takes_over_how_long_to_keep_what_is_displaced(
        self, root: Path, one: Brain
    ) -> None:
        one.say(Settings(start_message(root, trash_s=3600, quarantine_ms=0)))
        (root / "f").write_bytes(b"f")
        there = one.observed()[b"f"].entry

        (outcome,) = one.apply(Transition(1, DELETE, b"f", there, None))

        assert outcome.status == APPLIED
        while not any((root / ".psync/trash").iterdir()):  # when its turn has come
            one.say(Ping(1))
            one.until(Pong)

    def test_takes_over_how_long_to_keep_versions(self, root: Path, one: Brain) -> None:
        trash = root / ".psync/trash"
        (trash / "0001").write_bytes(b"old")
        note = {"path_hex": b"f".hex(), "time": "2020-01-01T00:00:00Z", "reason": "edited"}
        (trash / "0001.json").write_text(json.dumps({**note, "entry": {"size": 3, "mtime_ns": 0}}))

        one.say(Settings(start_message(root, versions_s=60)))

        while any(trash.iterdir()):  # when its turn has come
            one.say(Ping(1))
            one.until(Pong)

    def test_takes_over_nothing_before_it_watches(
        self, root: Path, spawn: Callable[..., Brain]
    ) -> None:
        brain = spawn()
        brain.greet(start_message(root))
        brain.say(Settings(start_message(root)))

        fatal = brain.hear()
        assert isinstance(fatal, Fatal)
        assert (fatal.code, "before it said Watch" in fatal.message) == ("protocol", True)

    def test_sends_no_content_beyond_the_inline_limit(
        self, root: Path, spawn: Callable[..., Brain]
    ) -> None:
        brain = spawn()
        brain.watch(start_message(root, inline_max=10))
        (root / "small").write_bytes(b"x" * 10)
        (root / "large").write_bytes(b"x" * 11)
        tree = brain.observed()

        assert tree[b"small"].content == b"x" * 10
        assert tree[b"large"].content is None
        assert tree[b"large"].entry is not None
        assert tree[b"large"].entry.size == 11

    def test_stops_sending_content_when_credit_is_used_up_and_goes_on_with_more(
        self, root: Path, spawn: Callable[..., Brain]
    ) -> None:
        brain = spawn()
        brain.watch(start_message(root, inline_max=wire.CREDIT))
        (root / "a").write_bytes(b"x" * wire.CREDIT)
        assert brain.item(b"a").content is not None
        (root / "b").write_bytes(b"y")
        assert brain.item(b"b").content is None
        brain.say(wire.Credit(wire.CREDIT))
        brain.flush()
        (root / "c").write_bytes(b"z")

        assert brain.item(b"c").content == b"z"

    def test_says_nothing_twice(self, root: Path, brain: Brain) -> None:
        (root / "f").write_bytes(b"x")
        os.utime(root / "f", ns=(0, OLD_NS))
        brain.observed()
        with (root / "f").open("r+b"):
            pass
        (root / "f").chmod((root / "f").stat().st_mode & 0o7777)
        brain.item(b"f")  # the chmod moved its ctime
        brain.tree.clear()
        with (root / "f").open("r+b"):
            pass

        assert b"f" not in brain.observed()

    def test_tells_of_ten_thousand_files_in_time(self, root: Path, one: Brain) -> None:
        (root / "d").mkdir()
        one.flush()
        for i in range(3000):
            (root / f"d/{i}").write_bytes(b"x")
        one.flush()

        assert all(one.tree[b"d/%d" % i].content == b"x" for i in range(3000))


def has_size(size: int, item: Item) -> bool:
    return item.entry is not None and item.entry.size == size


class TestSettling:
    def test_waits_for_the_close_of_a_file_that_is_written(self, root: Path, brain: Brain) -> None:
        with (root / "f").open("wb", buffering=0) as stream:
            stream.write(b"part one ")
            time.sleep(SETTLE_MS * 2 / 1000)
            stream.write(b"and two")

        item = brain.item(b"f")

        assert item.content == b"part one and two"

    def test_w13_takes_a_file_that_is_never_closed_after_the_longest_delay(
        self, root: Path, brain: Brain
    ) -> None:
        begin = time.monotonic()
        with (root / "f").open("wb", buffering=0) as stream:
            stream.write(b"kept open")
            item = brain.item(b"f")
            took = time.monotonic() - begin

        assert item.content == b"kept open"
        assert not item.flags & BUSY
        assert MAX_DELAY_MS / 1000 * 0.9 <= took < MAX_DELAY_MS / 1000 * 3

    def test_w06_takes_no_part_of_a_database_while_it_is_open(
        self, root: Path, brain: Brain
    ) -> None:
        database = sqlite3.connect(root / "data", isolation_level=None)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE t (n)")
        for count in range(2):
            database.execute("INSERT INTO t VALUES (1)")
            size = (root / "data-wal").stat().st_size
            item = brain.item(
                b"data-wal", lambda i, size=size: bool(i.entry and i.entry.size == size)
            )
            assert (item.content, item.flags) == (None, BUSY | DATABASE), count
        database.close()

        brain.content(b"data", (root / "data").read_bytes())

    def test_takes_what_is_only_named_like_a_journal(self, root: Path, brain: Brain) -> None:
        (root / "my").write_text("text")
        with (root / "my-journal").open("wb", buffering=0) as stream:
            stream.write(b"kept open")

            brain.content(b"my-journal", b"kept open")

    def test_w12_tells_of_a_file_without_a_close(self, root: Path, brain: Brain) -> None:
        (root / "f").write_bytes(b"long text")
        brain.content(b"f", b"long text")
        os.truncate(root / "f", 4)

        brain.content(b"f", b"long")

    def test_says_that_a_file_is_busy_when_asked(self, root: Path, one: Brain) -> None:
        with (root / "f").open("wb", buffering=0) as stream:
            stream.write(b"half")
            one.say(Look(1, [b"f"]))
            asked = one.item(b"f")
            stream.write(b" and half")
        whole = one.content(b"f", b"half and half")

        assert asked.flags & BUSY
        assert asked.content is None
        assert whole.flags == 0

    def test_reports_a_busy_file_again_though_nothing_was_written(
        self, root: Path, one: Brain
    ) -> None:
        (root / "f").write_bytes(b"same")
        one.content(b"f", b"same")
        with (root / "f").open("r+b"):
            one.say(Look(1, [b"f"]))
            one.item(b"f", lambda i: bool(i.flags & BUSY))

        one.item(b"f", lambda i: not i.flags and i.entry is not None)

    def test_keeps_a_busy_file_as_a_rename(self, root: Path, one: Brain) -> None:
        (root / "f").write_bytes(b"1")
        one.observed()
        with (root / "f").open("r+b", buffering=0) as stream:
            stream.write(b"2")
            (root / "f").rename(root / "g")
            moved = one.item(b"g")
        written = one.content(b"g", b"2")

        assert moved.moved_from == b"f"
        assert moved.flags & BUSY
        assert written.flags == 0


class TestFlush:
    def test_follows_everything_that_happened_before(self, root: Path, brain: Brain) -> None:
        for i in range(50):
            (root / f"d{i}").mkdir()
            (root / f"d{i}/f").write_bytes(b"%d" % i)
            (root / f"d{i}/f").rename(root / f"d{i}/g")
        brain.flush()

        for i in range(50):
            assert brain.tree[b"d%d/g" % i].entry is not None
        told = [
            item.content
            for m in brain.seen
            for item in (m.items if isinstance(m, Observed | Listing) else [])
        ]
        assert {b"%d" % i for i in range(50)} <= set(told)

    def test_takes_an_open_file_as_it_is(self, root: Path, brain: Brain) -> None:
        with (root / "f").open("wb", buffering=0) as stream:
            stream.write(b"so far")
            brain.flush()

            assert brain.tree[b"f"].content == b"so far"

    def test_is_answered_during_the_first_scan(
        self, root: Path, spawn: Callable[..., Brain]
    ) -> None:
        for i in range(300):
            (root / f"d{i}").mkdir()
        brain = spawn()
        brain.greet(start_message(root))
        brain.say(Watch("pair-1"), Flush(1))
        brain.until(Flushed)

        assert any(isinstance(m, Scanned) for m in brain.seen)

    def test_leaves_nothing_behind(self, root: Path, brain: Brain) -> None:
        brain.flush()

        assert not list((root / ".psync").glob("beat*"))

    def test_answers_several_in_order(self, brain: Brain) -> None:
        brain.say(Flush(101), Flush(102), Flush(103))

        assert [brain.until(Flushed).token for _ in range(3)] == [101, 102, 103]


class TestLook:
    def test_answers_with_state_content_or_digest(self, root: Path, one: Brain) -> None:
        (root / "f").write_bytes(b"x" * 300_000)
        (root / "s").write_bytes(b"small")
        one.flush()
        answers = []
        for want in (0, 1, 2):
            one.say(Look(want, [b"f", b"s", b"none"]))
            items: list[Item] = []
            while len(items) < 3:
                items += one.until(Observed).items
            answers.append({i.path: i for i in items})
        state, content, digest = answers

        assert all(a[b"none"].entry is None for a in answers)
        assert state[b"s"].content is None
        assert content[b"s"].content == b"small"
        assert content[b"f"].content is None
        assert digest[b"f"].entry is not None and digest[b"s"].entry is not None
        assert digest[b"f"].entry.digest == content_digest(b"x" * 300_000)
        assert digest[b"s"].entry.digest == content_digest(b"small")
        assert digest[b"f"].content is None

    @pytest.mark.parametrize("times", [1, 2, 3, 5])
    def test_w20_hashes_a_file_that_grows_again_and_then_says_that_it_is_busy(
        self, root: Path, spawn: Callable[..., Brain], times: int
    ) -> None:
        brain = spawn(GROWING, env={**os.environ, "TIMES": f"{times}"})
        brain.watch(start_message(root, inline_max=10))
        (root / "f").write_bytes(b"a large file")
        brain.flush()
        brain.say(Look(2, [b"f"]))
        answer = brain.item(b"f", lambda i: bool(i.flags or (i.entry and i.entry.digest)))

        if times < 3:
            assert answer.entry is not None
            assert answer.entry.digest == content_digest(b"a large file" + b"more" * times)
        else:
            assert answer.flags == BUSY
            assert answer.entry is not None
            assert answer.entry.digest == b""
            brain.item(b"f", lambda item: not item.flags and has_size(12 + 3 * 4, item))

    def test_answers_even_if_nothing_is_new(self, root: Path, one: Brain) -> None:
        outcome = one.apply(put(b"f", b"x"))[0]
        one.flush()
        one.tree.clear()
        one.say(Look(1, [b"f"]))

        assert outcome.status == APPLIED
        assert one.item(b"f").content == b"x"

    def test_s04_does_not_follow_a_symlink_out_of_the_root(
        self, root: Path, one: Brain, tmp_path: Path
    ) -> None:
        (tmp_path / "secret").write_bytes(b"secret")
        (root / "d").symlink_to(tmp_path)
        one.flush()
        one.say(Look(1, [b"d/secret"]), Look(2, [b"d/secret"]), List_([b"d"]))

        begin = len(one.seen)
        while len(one.seen) < begin + 3:
            one.hear()
        answers = one.seen[begin:]

        assert [m.entry for m in answers if isinstance(m, Listing)] == [None]
        looks = [i for m in answers if isinstance(m, Observed) for i in m.items]
        assert [i.entry for i in looks] == [None, None]


class TestApplying:
    @pytest.mark.parametrize("argv", [NORMAL, INOTIFY], ids=["cinotify", "inotify_simple"])
    def test_e05_keeps_its_own_work_to_itself(
        self, root: Path, spawn: Callable[..., Brain], argv: list[str]
    ) -> None:
        brain = spawn(argv)
        brain.watch(start_message(root))
        outcomes = brain.apply(
            mkdir(b"d", 1), mkdir(b"d/e", 2), put(b"d/e/f", b"1", 3), put(b"d/g", b"2", 4),
            put(b"h", b"3", 5),
        )  # fmt: skip
        assert [o.status for o in outcomes] == [APPLIED] * 5
        tree = brain.observed()
        assert not [path for path in tree if path], tree

        entry = outcomes[2].entry
        assert entry is not None
        outcomes = brain.apply(
            put(b"d/e/f", b"new", 6, entry),
            Transition(7, RENAME, b"d/e/z", None, None, b"h", outcomes[4].entry),
            Transition(8, DELETE, b"d/g", outcomes[3].entry, None),
        )
        assert [o.status for o in outcomes] == [APPLIED] * 3
        tree = brain.observed()
        assert not [path for path in tree if path not in (b"", b"d", b"d/e")], tree
        assert (root / "d/e/f").read_bytes() == b"new"

    def test_tells_of_its_own_work_when_echoes_are_wanted(
        self, root: Path, spawn: Callable[..., Brain]
    ) -> None:
        brain = spawn()
        brain.watch(start_message(root, suppress_echoes=False))
        brain.apply(mkdir(b"d", 1), put(b"d/f", b"1", 2), put(b"g", b"2", 3))
        tree = brain.observed()

        assert tree[b"d/f"].content == b"1"
        assert tree[b"g"].content == b"2"
        assert tree[b"d"].entry is not None

    def test_e06_tells_of_an_edit_right_after_its_own_write(self, root: Path, brain: Brain) -> None:
        for i in range(30):
            path = b"f%d" % i
            brain.say(Apply(1000 + i, [put(path, b"agent", i + 1)]))
            brain.until(Results)
            (root / path.decode()).write_bytes(b"users")
            brain.content(path, b"users")

    def test_tells_of_a_removal_after_its_own_removal_and_the_users_return(
        self, root: Path, brain: Brain
    ) -> None:
        (root / "f").write_bytes(b"1")
        entry = brain.content(b"f", b"1").entry
        assert brain.apply(Transition(1, DELETE, b"f", entry, None))[0].status == APPLIED
        brain.flush()
        (root / "f").write_bytes(b"back")
        brain.content(b"f", b"back")
        (root / "f").unlink()

        brain.gone(b"f")

    def test_e06_tells_of_what_a_user_adds_to_a_directory_of_ours_at_once(
        self, root: Path, brain: Brain
    ) -> None:
        for i in range(30):
            name = f"d{i}"
            brain.say(
                Apply(
                    2000 + i, [mkdir(name.encode(), 2 * i), put(b"%b/x" % name.encode(), b"o", 1)]
                )
            )
            while not (root / name).exists():
                os.sched_yield()
            (root / name / "users").write_bytes(b"u")
            brain.until(Results)
            brain.content(f"{name}/users".encode(), b"u")

    def test_refuses_what_is_not_as_expected(self, root: Path, one: Brain) -> None:
        (root / "f").write_bytes(b"user")
        one.content(b"f", b"user")

        outcome = one.apply(put(b"f", b"brain"))[0]

        assert outcome.status == CHANGED
        assert outcome.entry is not None
        assert (root / "f").read_bytes() == b"user"

    def test_makes_it_durable(self, one: Brain) -> None:
        one.apply(put(b"f", b"x"))
        one.say(Sync(9))

        assert one.until(Synced) == Synced(9, True)


class TestBothVersions:
    def test_of_a_conflict_are_among_the_files(
        self, root: Path, spawn: Callable[..., Brain]
    ) -> None:
        (root / "f").write_bytes(b"lost")
        brain = spawn()
        brain.watch(start_message(root, side=1, keep_both=True))
        brain.say(wire.List_([b""]))
        old = brain.item(b"f").entry
        assert old is not None
        (outcome,) = brain.apply(put(b"f", b"won", 1, old)._replace(keep=True))
        (dropped,) = [m for m in brain.seen if isinstance(m, wire.Dropped)]

        assert outcome.kept == b"", "it is told of before that, and nothing is kept"
        assert dropped.path.startswith(b"f.conflict-RIGHT-")
        beside = brain.content(dropped.path, b"lost").entry
        assert beside is not None and beside.ino == old.ino

    def test_are_so_where_one_was_displaced_by_mistake(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """That it is kept no more is not told before that it is."""
        replica = Replica(tmp_path, keep_both=True)
        old = replica.write(b"f", b"seen")
        sent: list[Any] = []
        agent = Agent(*os.pipe())
        observer = SimpleNamespace(applied=lambda *_: None)
        for name, value in {
            "_helpers": replica.helpers, "_filter": observer, "_send": sent.append,
            "_check_root": lambda: None,
        }.items():  # fmt: skip
            monkeypatch.setattr(agent, name, value)

        def save(at: str) -> None:
            if at in ("held", "displaced"):
                (tmp_path / "new").write_text(at)
                (tmp_path / "new").rename(tmp_path / "f")

        replica.helpers.step = save
        agent._on_apply(Apply(1, [replica.put(b"f", file(b"ours"), b"ours", old)]))

        told = {m.kept: type(m) for m in sent if isinstance(m, (wire.Kept, wire.Dropped))}
        assert list(told.values()) == [wire.Dropped]
        assert sorted(replica.tree().values()) == [b"displaced", b"held"]
        assert replica.conflicts() == {}
        replica.close()


class TestLargeFiles:
    def test_opens_a_source_as_expected_and_says_whether_it_stayed_so(
        self, root: Path, one: Brain
    ) -> None:
        (root / "a").write_bytes(b"a" * 1000)
        (root / "b").write_bytes(b"b" * 1000)
        tree = one.observed()
        a, b = tree[b"a"].entry, tree[b"b"].entry
        assert a is not None and b is not None
        one.say(OpenSource(4, [(b"a", a), (b"b", b), (b"a", b), (b"gone", a)]))
        opened = one.until(Opened)

        assert opened.files[2:] == [-1, -1]
        assert opened.sparse == []
        path = f"/proc/{opened.pid}/fd/{opened.files[0]}"
        assert Path(path).read_bytes() == b"a" * 1000
        with (root / "b").open("ab") as stream:
            stream.write(b"more")
        one.say(CloseSource(4))
        assert one.until(Closed) == Closed(4, [True, False, False, False])
        assert not Path(path).exists()
        one.item(b"b", lambda i: i.entry is not None and i.entry.size == 1004)

    @pytest.mark.parametrize(
        ("written", "intact"), [(False, True), (True, False)], ids=["", "written to before"]
    )
    def test_a_source_that_lost_its_name_is_intact_if_nobody_wrote_to_it(
        self, root: Path, one: Brain, written: bool, intact: bool
    ) -> None:
        """Its ctime tells nothing then, and its mtime can have been put back."""
        (root / "f").write_bytes(b"a" * 1000)
        entry = one.observed()[b"f"].entry
        assert entry is not None
        one.say(OpenSource(4, [(b"f", entry)]))
        one.until(Opened)
        if written:
            with (root / "f").open("r+b") as stream:
                stream.write(b"b" * 1000)
            os.utime(root / "f", ns=(entry.mtime_ns, entry.mtime_ns))
        (root / "aside").write_bytes(b"c" * 1000)
        (root / "aside").rename(root / "f")
        one.say(CloseSource(4))

        assert one.until(Closed) == Closed(4, [intact])

    def test_of_a_file_that_is_sent_twice_at_once_each_hears_of_writes(
        self, root: Path, one: Brain
    ) -> None:
        (root / "f").write_bytes(b"a" * 1000)
        entry = one.observed()[b"f"].entry
        assert entry is not None
        one.say(OpenSource(4, [(b"f", entry)]))
        one.until(Opened)
        one.say(OpenSource(5, [(b"f", entry)]))
        one.until(Opened)
        one.say(CloseSource(4))
        assert one.until(Closed) == Closed(4, [True])
        with (root / "f").open("r+b") as stream:
            stream.write(b"b" * 1000)
        os.utime(root / "f", ns=(entry.mtime_ns, entry.mtime_ns))
        (root / "f").unlink()
        one.say(CloseSource(5))

        assert one.until(Closed) == Closed(5, [False])

    def test_w10_a_store_into_a_page_that_was_dirty_shows_from_then_on(
        self, root: Path, one: Brain
    ) -> None:
        """Else what is written through a mapping after the read would never be told of."""
        (root / "f").write_bytes(b"a" * 1000)
        entry = one.observed()[b"f"].entry
        with (root / "f").open("r+b") as stream, mmap.mmap(stream.fileno(), 0) as mapping:
            mapping[:5] = b"first"
            first = (root / "f").stat()
            mapping[:5] = b"again"
            if first.st_mtime_ns == entry.mtime_ns or first.st_mtime_ns != (
                (root / "f").stat().st_mtime_ns
            ):
                pytest.skip("this file system tells of stores in another way")
            entry = entry_from_stat(first, os.geteuid() == 0, False)
            one.say(OpenSource(4, [(b"f", entry)]))
            assert one.until(Opened).files[0] >= 0
            mapping[:5] = b"later"
            one.say(CloseSource(4))

            assert one.until(Closed) == Closed(4, [False])
            assert (root / "f").stat().st_mtime_ns != first.st_mtime_ns

    def test_says_which_sources_have_holes(self, root: Path, one: Brain) -> None:
        (root / "a").write_bytes(b"a" * 1000)
        with (root / "b").open("wb") as stream:
            stream.truncate(1 << 20)
        tree = one.observed()
        a, b = tree[b"a"].entry, tree[b"b"].entry
        assert a is not None and b is not None
        one.say(OpenSource(4, [(b"a", a), (b"b", b), (b"gone", b)]))
        opened = one.until(Opened)

        assert opened.sparse == [opened.files[1]]

    def test_stages_with_a_basis_and_applies_what_rsync_left(self, root: Path, one: Brain) -> None:
        (root / "f").write_bytes(b"the old content")
        entry = one.observed()[b"f"].entry
        assert entry is not None
        one.say(Stage(7, [b"12"], [b"f"]))
        staged = one.until(Staged)
        assert staged.message == ""
        target = Path(f"/proc/{staged.pid}/fd/{staged.fd}/7/12")
        assert target.read_bytes() == b"the old content"
        target.write_bytes(b"the new content!")
        wanted = entry._replace(size=16, ino=0, ctime_ns=0, digest=b"")
        one.say(Apply(1, [Transition(5, PUT, b"f", entry, wanted, source=b"7/12")]))
        outcome = one.until(Results).outcomes[0]
        one.say(Unstage(7), Ping(1))
        one.until(Pong)
        one.flush()

        assert outcome.status == APPLIED
        assert (root / "f").read_bytes() == b"the new content!"
        last = [i.path for m in one.seen[-3:] if isinstance(m, Observed) for i in m.items]
        assert b"f" not in last


class TestTrouble:
    def test_says_that_a_directory_cannot_be_read_and_that_it_can_again(
        self, programs: list[Path], spawn: Callable[..., Brain], tmp_path_factory: Any
    ) -> None:
        import tempfile

        root = Path(tempfile.mkdtemp())  # where another user may go, too
        try:
            (root / "d").mkdir()
            (root / "d/f").write_bytes(b"x")
            argv = NORMAL
            if os.geteuid() == 0:
                for path in (root, root / "d", root / "d/f"):
                    os.chown(path, 65534, 65534)
                argv = [
                    sys.executable,
                    "-c",
                    "import os, inotify_simple, psync.agent as a\n"
                    "a.find_cinotify = lambda: ''\n"
                    "os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)\n"
                    "raise SystemExit(a.main())",
                ]
            (root / "d").chmod(0)
            brain = spawn(argv)
            brain.watch(start_message(root, owners=False))
            trouble = [m for m in brain.seen if isinstance(m, Trouble)]
            assert [(t.code, t.path) for t in trouble] == [("unreadable", b"d")]
            shown = brain.item(b"d")
            assert shown.flags & UNREADABLE
            assert shown.entry is not None
            brain.say(List_([b"d"]))
            assert brain.until(Trouble).path == b"d"
            (root / "d").chmod(0o700)
            brain.say(Rescan())
            brain.until(Scanned)

            assert any(isinstance(m, Trouble) and m.message == "" for m in brain.seen)
            brain.say(List_([b"d"]))
            assert [i.path for i in brain.until(Listing).items] == [b"f"]
        finally:
            (root / "d").chmod(0o700)
            shutil.rmtree(root)

    @pytest.mark.parametrize("argv", [NORMAL, INOTIFY], ids=["cinotify", "inotify_simple"])
    @pytest.mark.parametrize("source", ["-t tmpfs none", "--bind .psync.ignore"])
    def test_n20_passes_over_a_mount_point_and_says_so_once(
        self, root: Path, spawn: Callable[..., Brain], argv: list[str], source: str
    ) -> None:
        unshare = ["unshare", "-m", "--propagation", "private"]
        (root / "m").mkdir()
        (root / ".psync.ignore").mkdir()
        mount = f'cd "{root}" && mount {source} m && mkdir -p m/inside && cd "{REPO}"'
        if subprocess.run([*unshare, "sh", "-c", mount], check=False).returncode:
            pytest.skip("no mounts may be made here")
        brain = spawn([*unshare, "sh", "-c", f'{mount} && exec "$@"', "sh", *argv])
        brain.watch(start_message(root))
        brain.say(List_([b""]), Look(0, [b"m/inside"]))
        listing = brain.until(Listing)
        brain.say(Rescan())
        brain.until(Scanned)
        troubles = [m for m in brain.seen if isinstance(m, Trouble) and m.path == b"m"]

        assert [i.path for i in listing.items] == []
        assert [(t.code, t.path) for t in troubles] == [("mount", b"m")]
        assert b"m/inside" not in brain.tree

        enter = ["nsenter", "-t", str(brain.process.pid), "-m"]
        subprocess.run([*enter, "umount", root / "m"], check=True)
        brain.say(Rescan())
        brain.until(Scanned)
        brain.flush()

        assert [m.message for m in brain.seen if isinstance(m, Trouble)][-1] == ""

    @pytest.mark.parametrize("how", ["replaced", "moved away", "led elsewhere", "unmarked"])
    @pytest.mark.parametrize(
        "said", [Apply(1, [put(b"f", b"x")]), Flush(1), Ping(1)], ids=["apply", "flush", "ping"]
    )
    def test_r01_r02_r04_ends_when_the_root_is_not_what_it_was(
        self, root: Path, spawn: Callable[..., Brain], said: Message, how: str
    ) -> None:
        name = root
        if how == "led elsewhere":
            name = root.parent / "link"
            name.symlink_to(root)
        brain = spawn()
        brain.watch(start_message(name))
        if how == "led elsewhere":
            name.unlink()
            name.symlink_to(root.parent / "elsewhere")
        elif how == "unmarked":
            (root / ".psync/marker").unlink()
        else:
            root.rename(root.parent / "elsewhere")
        if how in ("replaced", "led elsewhere"):
            (root if how == "replaced" else root.parent / "elsewhere").mkdir()
        brain.say(said)
        while not isinstance(message := brain.hear(), Fatal):
            pass

        assert message.code == "root-lost"
        assert brain.process.wait(PATIENCE) == 1
        assert not (root / "f").exists()
        assert not (root.parent / "elsewhere/f").exists()

    def test_e04_scans_again_when_the_watcher_dies(self, root: Path, one: Brain) -> None:
        children = Path(f"/proc/{one.process.pid}/task/{one.process.pid}/children").read_text()
        watcher = int(children.split()[0])
        os.kill(watcher, signal.SIGKILL)
        (root / "f").write_bytes(b"missed")
        scanned = one.until(Scanned)
        (root / "g").write_bytes(b"seen again")
        one.content(b"g", b"seen again")

        assert scanned.generation == 2
        assert any(isinstance(m, Trouble) and m.code == "overflow" for m in one.seen)

    def test_e04_falls_back_when_the_watcher_dies_again_and_again(
        self, root: Path, one: Brain
    ) -> None:
        for generation in (2, 3, 4):
            listed = Path(f"/proc/{one.process.pid}/task/{one.process.pid}/children").read_text()
            os.kill(int(listed.split()[0]), signal.SIGKILL)
            while one.until(Scanned).generation != generation:
                pass
        (root / "g").write_bytes(b"still seen")

        one.content(b"g", b"still seen")


class TestPolling:
    def test_e09_finds_changes_by_scanning_and_says_so(
        self, root: Path, spawn: Callable[..., Brain]
    ) -> None:
        brain = spawn(POLLING)
        brain.watch(start_message(root))
        troubles = [m for m in brain.seen if isinstance(m, Trouble)]
        (root / "d").mkdir()
        scanned = brain.until(Scanned)
        found = [m for m in brain.seen if isinstance(m, Digests)][-1]

        assert troubles[0].code == "io"
        assert scanned.generation == 2
        assert {path for path, _ in found.directories} == {b"", b"d"}

    def test_flushes_with_a_scan_of_its_own(self, root: Path, spawn: Callable[..., Brain]) -> None:
        brain = spawn(POLLING)
        brain.watch(start_message(root, poll_ms=60_000))
        (root / "d").mkdir()
        said = brain.flush()

        said = [m for m in said if not isinstance(m, Log)]
        assert [type(m) for m in said] == [Digests, Scanned, Flushed]
        assert b"d" in dict(said[0].directories)


class TestEnding:
    def test_stops_when_told_to_and_leaves_no_process(self, one: Brain) -> None:
        children = Path(f"/proc/{one.process.pid}/task/{one.process.pid}/children").read_text()
        one.say(Stop())

        assert one.process.wait(PATIENCE) == 0
        assert not any(Path(f"/proc/{pid}").exists() for pid in children.split())

    def test_ends_when_the_brain_is_gone(self, one: Brain) -> None:
        assert one.process.stdin is not None
        one.process.stdin.close()

        assert one.process.wait(PATIENCE) == 0

    def test_x10_ends_when_nothing_is_heard_for_too_long(
        self, root: Path, spawn: Callable[..., Brain]
    ) -> None:
        brain = spawn()
        brain.watch(start_message(root, timeout_ms=1000))

        assert brain.process.wait(PATIENCE) == 0

    def test_lives_as_long_as_it_is_pinged(self, root: Path, spawn: Callable[..., Brain]) -> None:
        brain = spawn()
        brain.watch(start_message(root, timeout_ms=1000))
        for token in range(8):
            brain.say(Ping(token))
            assert brain.until(Pong).token == token
            with pytest.raises(TimeoutError):
                brain.hear(0.2)

        assert brain.process.poll() is None

    def test_ends_cleanly_on_sigterm(self, one: Brain) -> None:
        one.process.terminate()

        assert one.process.wait(PATIENCE) == 0

    def test_does_not_wake_up_while_nothing_happens(self, root: Path, one: Brain) -> None:
        (root / "f").write_bytes(b"x")
        one.flush()
        with pytest.raises(TimeoutError):
            one.hear(0.3)
        status = Path(f"/proc/{one.process.pid}/status")

        def switches() -> int:
            lines = status.read_text().splitlines()
            return sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)

        before = switches()
        with pytest.raises(TimeoutError):
            one.hear(1.0)
        assert switches() == before


def old_python() -> str | None:
    """An interpreter of the oldest version that an agent may meet."""
    base = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    candidates = sorted(base.glob("3.9*/bin/python3"))
    return str(candidates[0]) if candidates else shutil.which("python3.9")


OLD_PYTHON = old_python()


class TestZip:
    @pytest.mark.parametrize(
        "python",
        [
            sys.executable,
            pytest.param(
                OLD_PYTHON, marks=pytest.mark.skipif(OLD_PYTHON is None, reason="no Python 3.9")
            ),
        ],
        ids=["this", "oldest"],
    )
    def test_runs_on_a_bare_host_from_a_zip(
        self, root: Path, spawn: Callable[..., Brain], tmp_path: Path, python: str
    ) -> None:
        archive = tmp_path / "agent.zip"
        archive.write_bytes(agent_zip())
        code = (
            f"import sys; sys.path.insert(0, {str(archive)!r}); from psync.agent import main; "
            "sys.exit(main())"
        )
        brain = spawn([python, "-ISE", "-c", code])
        brain.watch(start_message(root))
        (root / "d").mkdir()
        (root / "d/f").write_bytes(b"from a bare host")
        brain.content(b"d/f", b"from a bare host")
        brain.apply(put(b"g", b"to a bare host"))
        brain.flush()
        hello = next(m for m in brain.seen if isinstance(m, Hello))

        assert "cinotify" in hello.features
        assert (root / "g").read_bytes() == b"to a bare host"
        assert b"g" not in brain.tree
        assert brain.end() == 0


class Picture:
    """What a brain can make of what an agent says: a picture of the replica.

    It believes what it is told, carries a directory's content along with a rename that it
    can follow, and asks for a listing where it cannot.
    """

    def __init__(self, brain: Brain) -> None:
        self.brain = brain
        self.paths: dict[bytes, Entry] = {}
        self.contents: dict[bytes, bytes] = {}
        self.unlisted: set[bytes] = set()
        self.asked = 0
        self.sent: dict[int, Transition] = {}
        self._taken = 0

    def below(self, path: bytes) -> list[bytes]:
        return [p for p in self.paths if p.startswith(path + b"/")]

    def drop(self, path: bytes) -> None:
        for p in [path, *self.below(path)]:
            self.paths.pop(p, None)
            self.contents.pop(p, None)

    def carry(self, old: bytes, new: bytes) -> None:
        was = self.paths.get(old)
        # What is below a file is in a directory that has its name by now.
        below = self.below(old) if was is None or was.kind == Kind.DIRECTORY else []
        moved = {new + p[len(old) :]: p for p in [old, *below]}
        entries = {p: self.paths.pop(was) for p, was in moved.items() if was in self.paths}
        texts = {p: self.contents.pop(was) for p, was in moved.items() if was in self.contents}
        self.drop(new)
        self.paths.update(entries)
        self.contents.update(texts)
        for p in [p for p in self.unlisted if p == old or p.startswith(old + b"/")]:
            self.unlisted.discard(p)
            self.ask(new + p[len(old) :])

    def ask(self, path: bytes) -> None:
        self.asked += 1
        self.unlisted.add(path)
        self.brain.say(List_([path]))

    def is_listed(self, path: bytes) -> bool:
        """Whether no directory above a path is still to be listed, and then this one."""
        above = path
        while above := above.rpartition(b"/")[0]:
            if above in self.unlisted:
                return False
        return True

    def note(self, path: bytes, entry: Entry, content: bytes | None, *, same: bool) -> None:
        was = self.paths.get(path)
        if entry.kind != Kind.DIRECTORY:
            for p in self.below(path):
                self.drop(p)
        if was is None:
            same = False
        elif entry.same_identity(was):
            same = True
        elif (was.ino, was.size, was.mtime_ns) != (entry.ino, entry.size, entry.mtime_ns):
            same = False
        if content is not None:
            self.contents[path] = content
        elif not same:
            self.contents.pop(path, None)
        self.paths[path] = entry

    def take(self) -> None:
        """Look at what was heard since."""
        messages, self._taken = self.brain.seen[self._taken :], len(self.brain.seen)
        for message in messages:
            if isinstance(message, Observed):
                for item in message.items:
                    self.take_item(item)
            elif isinstance(message, Listing):
                self.take_listing(message)
            elif isinstance(message, Results):
                for outcome in message.outcomes:
                    self.take_outcome(outcome)

    def take_item(self, item: Item) -> None:
        path, entry, old = item.path, item.entry, item.moved_from
        if entry is None:
            self.drop(path)
            return
        same = bool(item.flags & META_ONLY)
        if old:
            was = self.paths.get(old)
            known = was is not None and (was.kind, was.ino) == (entry.kind, entry.ino)
            if was is not None and known and self.is_listed(old):
                self.carry(old, path)
                same = (was.size, was.mtime_ns) == (entry.size, entry.mtime_ns)
            elif entry.kind == Kind.DIRECTORY:
                self.drop(path)
                self.ask(path)
        elif entry.kind == Kind.DIRECTORY and path:
            was = self.paths.get(path)
            if was is None or was.ino != entry.ino:  # nobody has told what is in it
                self.drop(path)
                self.ask(path)
        self.note(path, entry, item.content, same=same)

    def take_listing(self, listing: Listing) -> None:
        if listing.entry is None:
            return  # gone, or elsewhere by now: `carry` has asked there
        asked = listing.path in self.unlisted
        self.unlisted.discard(listing.path)
        prefix = listing.path + b"/" if listing.path else b""
        self.note(listing.path, listing.entry, None, same=False)
        names = {item.path for item in listing.items}
        for item in listing.items:
            path, entry = prefix + item.path, item.entry
            assert entry is not None
            if entry.kind == Kind.DIRECTORY and asked:
                self.ask(path)
            self.note(path, entry, item.content, same=False)
        for path in list(self.paths):
            name = path[len(prefix) :].partition(b"/")[0]
            if path.startswith(prefix) and name and name not in names:
                self.drop(prefix + name)

    def take_outcome(self, outcome: wire.Outcome) -> None:
        transition = self.sent.pop(outcome.op)
        if outcome.status != APPLIED:
            return
        if transition.verb == RENAME:
            listed = self.is_listed(transition.source)
            self.carry(transition.source, transition.path)
            if not listed and outcome.entry is not None and outcome.entry.kind == Kind.DIRECTORY:
                self.ask(transition.path)
        was = self.paths.get(transition.path)
        if outcome.entry is None or (was is not None and was.ino != outcome.entry.ino):
            self.drop(transition.path)
        if outcome.entry is not None:
            self.note(transition.path, outcome.entry, transition.content, same=False)

    def settle(self) -> None:
        """Flush until nothing is unanswered."""
        asked = -1
        while self.sent or self.asked != asked:
            asked = self.asked
            self.brain.tree.pop(b"nothing", None)
            self.brain.say(Look(0, [b"nothing"]))  # answered after all that was asked before
            self.brain.gone(b"nothing")
            self.brain.flush()
            self.take()


def tree_of(root: Path) -> tuple[dict[bytes, Entry], dict[bytes, bytes]]:
    """What is really there."""
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    looker = Looker(fd, owners=os.geteuid() == 0, strip=False)
    paths: dict[bytes, Entry] = {}
    contents: dict[bytes, bytes] = {}
    for above, directories, files in os.walk(os.fsencode(root)):
        if b".psync" in directories:
            directories.remove(b".psync")
        for name in directories + files:
            path = os.path.relpath(above + b"/" + name, os.fsencode(root))
            seen = looker.look(path, 1 << 20)
            assert seen.entry is not None
            paths[path] = seen.entry
            if seen.content is not None:
                contents[path] = seen.content
    looker.forget()
    os.close(fd)
    return paths, contents


class RandomUser:
    """Does to a tree what people and programs do, as fast as it can."""

    NAMES = (b"a", b"b", b"c", b"d", b"e")

    def __init__(self, root: Path, outside: Path, random: Random) -> None:
        self.root, self.outside, self.random = os.fsencode(root), os.fsencode(outside), random

    def all(self) -> tuple[list[bytes], list[bytes]]:
        directories, files = [self.root], []
        for above, below, names in os.walk(self.root):
            if b".psync" in below:
                below.remove(b".psync")
            directories += [above + b"/" + name for name in below]
            files += [above + b"/" + name for name in names]
        return directories, files

    def act(self) -> None:
        random = self.random
        directories, files = self.all()
        path = random.choice(directories) + b"/" + random.choice(self.NAMES)
        some_file = random.choice(files or [path])
        some_directory = random.choice(directories[1:] or [path])
        act = random.choices(
            ["write", "append", "mkdir", "delete", "rename", "rename directory", "link", "rmtree",
             "chmod", "out", "in", "save"],
            [25, 5, 12, 8, 10, 10, 5, 5, 5, 5, 5, 5],
        )[0]  # fmt: skip
        try:
            if act == "write":
                with open(path, "wb") as stream:
                    stream.write(b"%d" % random.randrange(10**9) * random.choice([1, 1, 500]))
            elif act == "append":
                with open(path, "ab") as stream:
                    stream.write(b"x")
            elif act == "mkdir":
                os.makedirs(path + b"/" + random.choice(self.NAMES), exist_ok=True)
            elif act == "delete":
                os.unlink(some_file)
            elif act == "rename":
                os.rename(some_file, path)
            elif act == "rename directory":
                os.rename(some_directory, path)
            elif act == "link":
                os.symlink(b"target%d" % random.randrange(9), path)
            elif act == "rmtree":
                shutil.rmtree(some_directory)
            elif act == "chmod":
                os.chmod(some_file, random.choice([0o600, 0o644, 0o755]))
            elif act == "out":
                os.rename(some_directory, self.outside + b"/%d" % random.randrange(10**9))
            elif act == "in":
                os.rename(self.outside + b"/" + random.choice(os.listdir(self.outside)), path)
            else:
                with open(some_file + b"~", "wb") as stream:
                    stream.write(b"saved %d" % random.randrange(10**9))
                os.rename(some_file + b"~", some_file)
        except (OSError, IndexError):
            pass  # not possible just now


class TestAgainstTheTree:
    @pytest.mark.parametrize("seed", range(int(os.environ.get("TEST_AGENT_SEEDS", "2"))))
    @pytest.mark.parametrize("echoes", [False, True], ids=["suppressed", "told"])
    @pytest.mark.parametrize("argv", [NORMAL, INOTIFY], ids=["cinotify", "inotify_simple"])
    def test_what_was_told_is_what_is_there(
        self,
        root: Path,
        spawn: Callable[..., Brain],
        tmp_path: Path,
        argv: list[str],
        echoes: bool,
        seed: int,
    ) -> None:
        random = Random(seed)
        (tmp_path / "outside").mkdir()
        user = RandomUser(root, tmp_path / "outside", random)
        brain = spawn(argv)
        brain.watch(start_message(root, suppress_echoes=not echoes, quarantine_ms=100))
        picture = Picture(brain)
        op = 0

        def act_ourselves() -> None:
            nonlocal op
            op += 1
            directories = [p for p, e in picture.paths.items() if e.kind == Kind.DIRECTORY]
            above = random.choice([b"", *directories])
            path = (above + b"/" if above else b"") + random.choice(user.NAMES)
            there = picture.paths.get(path)
            content = b"agent %d" % op
            if there is None:
                transition = random.choice([mkdir(path, op), put(path, content, op)])
            elif there.kind == Kind.DIRECTORY:
                transition = Transition(op, RENAME, path + b"R", None, None, path, there)
            elif there.kind == Kind.FILE and random.random() < 0.5:
                transition = put(path, content, op, there)
            else:
                transition = Transition(op, DELETE, path, there, None)
            picture.sent[op] = transition
            brain.say(Apply(op, [transition]))

        for _ in range(25):
            for _ in range(random.choice([1, 5, 40, 100])):
                user.act()
                if random.random() < 0.2:
                    act_ourselves()
                if random.random() < 0.3:
                    try:
                        brain.hear(0)
                    except TimeoutError:
                        pass
                    picture.take()
            picture.settle()
            paths, contents = tree_of(root)
            picture.paths.pop(b"", None)

            assert picture.paths.keys() == paths.keys()
            for path, entry in paths.items():
                told = picture.paths[path]
                assert (told[:7], told[8:]) == (entry[:7], entry[8:]), path
            told_contents = {p: c for p, c in picture.contents.items() if p in contents}
            assert told_contents == {p: contents[p] for p in told_contents}
