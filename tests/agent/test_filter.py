"""The filter in this process: on a real tree, told where to look by a script.

What an agent with a real watcher does is in `test_agent`. Here is what a kernel cannot be
made to say at will: lost events, late events, renames heard of after the looks.
"""

from __future__ import annotations

import errno
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from inotify_simple import INotify, flags

from psync import wire
from psync.core.entry import Entry, Kind, content_digest
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
from psync.filter import PENDING_MAX, Filter, RootLost
from psync.known import NOT_OURS, REMEMBERED_MAX, Known
from psync.scan import Seen
from psync.syscalls import EXCHANGE, renameat2
from psync.watch import Event, Inotify, Polling, walk
from psync.wire import (
    APPLIED,
    BUSY,
    NO_PARENT,
    PUT,
    RENAME,
    Digests,
    Flushed,
    Item,
    Listing,
    Observed,
    Outcome,
    Scanned,
    Start,
    Transition,
    Trouble,
)

OLD_NS = 1_600_000_000_123_456_789  # a write now would show in the time of such a file


class Script:
    """A watcher that says what it is told to."""

    name = "script"

    def __init__(self) -> None:
        self.fd, self._other = os.pipe()
        self.events: list[Event] = []
        self.rescans = 0
        self.dead = False

    def read(self) -> list[Event]:
        if self.dead:
            raise EOFError("killed")
        events, self.events = self.events, []
        return events

    def step(self, seconds: float) -> list[Event]:
        return []

    def scanning(self) -> bool:
        return False

    def deadline(self) -> float | None:
        return None

    def rescan(self) -> None:
        self.rescans += 1

    def close(self) -> None:
        os.close(self.fd)
        os.close(self._other)


class Bench:
    """A filter on a root, its clock, and what it sent."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
        self.root = root
        self.now = 100.0
        self.sent: list[Any] = []
        self.logged: list[str] = []
        self.own: OrderedDict[bytes, Entry | None] = OrderedDict()
        self.lost = False
        (root / ".psync").mkdir(exist_ok=True)
        values: dict[str, Any] = {
            "protocol": 1, "version": "", "root": os.fsencode(root), "session": "s", "side": 0,
            "owners": True, "strip_special_bits": False, "excludes": ["no"], "tempfiles": [],
            "inline_max": 1000, "settle_ms": 50, "max_delay_ms": 1000, "quarantine_ms": 0,
            "timeout_ms": 10_000, "strict": False, "suppress_echoes": True, "poll_ms": 5000,
        }  # fmt: skip
        filesystem = changes.pop("filesystem", "ext4")
        self.scripts: list[Script] = []
        monkeypatch.setattr(Filter, "_start_watcher", lambda _: self._watcher())
        self.root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        self.filter = Filter(
            self.root_fd,
            Start(**{**values, **changes}),
            program="",
            filesystem=filesystem,
            own=self.own,
            send=self.sent.append,
            log=lambda level, line: self.logged.append(line),
            check_root=self._check_root,
            now=lambda: self.now,
        )
        self.filter.begin()
        self.hear(("D", False, b"0" * 16, 0, b""), ("S", 1, 0, 0))
        self.sent.clear()

    def _watcher(self) -> Script:
        self.scripts.append(Script())
        return self.scripts[-1]

    def _check_root(self) -> None:
        if self.lost:
            raise RootLost("gone")

    def hear(self, *events: Event) -> None:
        self.scripts[-1].events += events
        self.filter.read()

    def work(self, seconds: float = 0.0) -> list[Any]:
        """Let time pass and the filter do what is due; return what it sent."""
        until = self.now + seconds
        while True:
            due = self.filter.deadline()
            if due is None or due > until:
                break
            self.now = max(self.now, due)
            self.filter.live(self.now + 3600)
        self.now = until
        sent, self.sent[:] = list(self.sent), []
        return sent

    def items(self, seconds: float = 0.0) -> list[Item]:
        """The same, but only what was observed, without directories' own states."""
        return [
            item
            for m in self.work(seconds)
            if isinstance(m, Observed)
            for item in m.items
            if item.entry is None or item.entry.kind != Kind.DIRECTORY or item.moved_from
        ]

    def close(self) -> None:
        self.filter.close()
        os.close(self.root_fd)


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def build(**changes: Any) -> Bench:
        root = tmp_path / f"root{len(made)}"
        root.mkdir()
        made.append(Bench(root, monkeypatch, **changes))
        return made[-1]

    yield build
    for bench in made:
        bench.close()


@pytest.fixture
def bench(make: Callable[..., Bench]) -> Bench:
    return make()


class TestLateRenames:
    def test_looks_again_for_what_a_directory_rename_hid(self, bench: Bench) -> None:
        (bench.root / "d").mkdir()
        (bench.root / "d/f").write_bytes(b"text")
        (bench.root / "d").rename(bench.root / "e")
        bench.hear(("E", CREATED | CLOSED, b"d/f"))
        assert bench.items(1.0) == [Item(b"d/f", None)]

        bench.hear(("M", True, b"d", b"e"))
        items = bench.items(1.0)

        assert [i.path for i in items] == [b"e", b"d", b"e/f"]
        assert items[0].moved_from == b"d"
        assert items[2].content == b"text"

    def test_waits_a_moment_before_something_is_gone_of_which_nobody_has_said_so(
        self, bench: Bench
    ) -> None:
        """The directory above was just renamed: who is told of this first loses track of it."""
        (bench.root / "d").mkdir()
        (bench.root / "d/f").write_bytes(b"text")
        (bench.root / "d").rename(bench.root / "e")
        bench.hear(("E", CREATED | CLOSED, b"d/f"))
        assert bench.items() == []

        bench.hear(("M", True, b"d", b"e"))
        items = bench.items(1.0)

        assert [i.path for i in items] == [b"e", b"d", b"e/f"]
        assert items[0].moved_from == b"d"
        assert items[2].content == b"text"

    def test_lists_the_moved_tree_when_too_much_was_hidden(self, bench: Bench) -> None:
        (bench.root / "e/sub").mkdir(parents=True)
        (bench.root / "e/sub/f").write_bytes(b"text")
        bench.hear(*(("E", CLOSED, b"d/%d" % i) for i in range(REMEMBERED_MAX + 1)))
        bench.work(1.0)
        bench.hear(("M", True, b"d", b"e"))
        listings = [m for m in bench.work() if isinstance(m, Listing)]

        assert [m.path for m in listings] == [b"e", b"e/sub"]
        assert listings[1].items[0].content == b"text"

    def test_lists_a_new_directory_that_was_renamed_before_its_listing(self, bench: Bench) -> None:
        (bench.root / "e").mkdir()
        (bench.root / "e/f").write_bytes(b"text")
        bench.hear(("D", True, b"0" * 16, 1, b"d"))
        assert bench.items() == [Item(b"d", None)]
        bench.hear(("M", True, b"d", b"e"))
        listings = [m for m in bench.work() if isinstance(m, Listing)]

        assert [m.path for m in listings] == [b"e"]
        assert listings[0].items[0].content == b"text"

    def test_lists_a_directory_that_was_told_as_gone_before_the_rename_above_it(
        self, bench: Bench
    ) -> None:
        (bench.root / "d/sub").mkdir(parents=True)
        (bench.root / "d/sub/f").write_bytes(b"text")
        (bench.root / "d").rename(bench.root / "e")
        bench.hear(("E", ATTRIBUTES | DIRECTORY, b"d/sub"))
        assert bench.items(1.0) == [Item(b"d/sub", None)]

        bench.hear(("M", True, b"d", b"e"))
        listings = [m for m in bench.work() if isinstance(m, Listing)]

        assert [m.path for m in listings] == [b"e/sub"]
        assert listings[0].items[0].content == b"text"

    @pytest.mark.parametrize("how", ["asked", "heard of", "listed"])
    def test_lists_anew_what_was_told_of_the_directory_that_has_taken_its_name(
        self, bench: Bench, how: str
    ) -> None:
        """Who is told of the move takes to the new name what belongs to the old one's."""
        for name in "de":
            (bench.root / name).mkdir()
            (bench.root / name / "f").write_text(name)
        for old, new in ("dt", "ed", "te"):
            (bench.root / old).rename(bench.root / new)
        if how == "asked":
            for _ in bench.filter.look(1, [b"d/f"]):
                pass
        elif how == "heard of":
            bench.hear(("E", CLOSED, b"d/f"))
        else:
            for _ in bench.filter.list_([b"d"]):
                pass
        (told,) = bench.work()[-1].items
        assert told.entry.ino == (bench.root / "d/f").stat().st_ino

        bench.hear(("M", True, b"d", b"t"), ("M", True, b"e", b"d"), ("M", True, b"t", b"e"))
        listings = [m for m in bench.work(1.0) if isinstance(m, Listing)]

        assert [(m.path, m.items[0].content) for m in listings] == [(b"e", b"d")]

    def test_lists_nothing_anew_that_was_told_of_the_directory_that_was_renamed(
        self, bench: Bench
    ) -> None:
        (bench.root / "d/sub").mkdir(parents=True)
        (bench.root / "d/sub/f").write_bytes(b"text")
        bench.hear(("E", CLOSED, b"d/sub/f"))
        assert [i.path for i in bench.items()] == [b"d/sub/f"]
        (bench.root / "d").rename(bench.root / "e")
        bench.hear(("M", True, b"d", b"e"))

        assert not [m for m in bench.work(1.0) if isinstance(m, Listing)]

    def test_looks_again_for_what_is_where_we_had_removed_something(self, bench: Bench) -> None:
        """Something is made at that name, and the directory above it is renamed."""
        (bench.root / "e").mkdir()
        (bench.root / "e/f").write_bytes(b"text")
        bench.own[b"d/f"] = None
        bench.hear(("E", CREATED | CLOSED, b"d/f"))
        assert bench.items(1.0) == []

        bench.hear(("M", True, b"d", b"e"))

        assert [i.content for i in bench.items(1.0) if i.path == b"e/f"] == [b"text"]

    def test_lists_a_directory_after_its_rename_that_is_heard_of_meanwhile(
        self, bench: Bench
    ) -> None:
        (bench.root / "e").mkdir()
        (bench.root / "e/f").write_bytes(b"text")
        bench.hear(("D", True, b"0" * 16, 1, b"e"))
        bench.filter.live(bench.now)
        bench.hear(("M", True, b"d", b"e"))
        sent = bench.work()

        kinds = [type(m) for m in sent]
        assert kinds.index(Observed) < kinds.index(Listing)
        assert sent[kinds.index(Observed)].items[0].moved_from == b"d"
        assert kinds.count(Listing) == 1

    def test_tells_of_a_new_directory_by_its_listing_first(self, bench: Bench) -> None:
        for name in "de":
            (bench.root / name).mkdir()
            (bench.root / name / "f").write_bytes(b"text")
        bench.hear(*(("D", True, b"0" * 16, 1, name) for name in (b"d", b"e")))
        bench.hear(("E", CREATED | CLOSED, b"e/f"))
        bench.now += 1.0
        bench.filter.live(bench.now)
        told = [(type(m), i.path) for m in bench.sent if isinstance(m, Observed) for i in m.items]
        assert told in ([], [(Observed, b"")])

        first = next(m for m in bench.work(1.0) if isinstance(m, Listing) and m.path == b"e")
        assert [i.path for i in first.items] == [b"f"]

    def test_waits_a_moment_for_the_rest_of_a_chain(self, bench: Bench) -> None:
        (bench.root / "c").write_bytes(b"x")
        bench.hear(("M", False, b"a", b"b"))
        assert bench.items() == []
        bench.hear(("M", False, b"b", b"c"))
        items = bench.items(1.0)

        assert items[0].path == b"c"
        assert items[0].moved_from == b"a"
        assert {i.path: i.entry for i in items[1:]} == {b"a": None, b"b": None}

    def test_c13_waits_anew_for_each_rename_of_a_chain(self, bench: Bench) -> None:
        bench.hear(("M", False, b"a", b"b"))
        assert bench.items() == []
        bench.hear(("M", False, b"b", b"c"))
        assert [i.path for i in bench.items() if i.path == b"c"] == []
        (bench.root / "d").write_bytes(b"x")
        os.utime(bench.root / "d", ns=(0, OLD_NS))
        bench.hear(("M", False, b"c", b"d"))
        item = bench.items()[0]

        assert (item.path, item.moved_from, item.flags) == (b"d", b"a", wire.META_ONLY)

    @pytest.mark.parametrize("new", [False, True])
    def test_waits_a_moment_for_what_took_the_place_of_a_directory(
        self, bench: Bench, new: bool
    ) -> None:
        """Of a swap by way of `t` only the first half is heard of, and all of it has happened.

        Where they are new, something was told of them under their names, which `t` is none of.
        """
        for name in "ab":
            (bench.root / name).mkdir()
            (bench.root / name / "f").write_bytes(b"x")
        if new:
            bench.hear(("D", True, b"", 0, b"a"), ("D", True, b"", 0, b"b"))
            assert bench.work(1.0)
            (bench.root / "a").rename(bench.root / "t")
            (bench.root / "b").rename(bench.root / "a")
            (bench.root / "t").rename(bench.root / "b")
        bench.hear(("M", True, b"a", b"t"), ("M", True, b"b", b"a"))
        assert bench.work() == []

        bench.hear(("M", True, b"t", b"b"))
        sent = bench.work(1.0)
        hints = [(i.path, i.moved_from) for m in sent for i in m.items if i.moved_from]
        inode = (bench.root / "b").stat().st_ino

        assert hints == [(b"t", b"a"), (b"a", b"b"), (b"b", b"t")]
        assert {i.entry.ino for i in sent[0].items if i.path in (b"t", b"b")} == {inode}
        assert any(Item(b"t", None) in m.items for m in sent)
        assert new or not any(isinstance(m, Listing) for m in sent)

    @pytest.mark.parametrize("at", ["t", "b"])
    def test_waits_for_a_directory_that_is_moved_on_while_it_is_looked_at(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch, at: str
    ) -> None:
        for name in "ab":
            (bench.root / name).mkdir()
        (bench.root / "a").rename(bench.root / "t")
        (bench.root / "b").rename(bench.root / "a")
        look, looked = bench.filter._looker.look, []

        def then_move(path: bytes, *args: Any, **named: Any) -> Seen:
            seen = look(path, *args, **named)
            looked.append(path)
            if looked.count(at.encode()) == 1 and path == at.encode():
                (bench.root / "t").rename(bench.root / "b")
            return seen

        monkeypatch.setattr(bench.filter._looker, "look", then_move)
        bench.hear(("M", True, b"a", b"t"), ("M", True, b"b", b"a"))
        sent = bench.work()
        bench.hear(("M", True, b"t", b"b"))
        sent += bench.work(1.0)

        assert not any(isinstance(m, Listing) for m in sent)
        hints = [(i.path, i.moved_from) for m in sent for i in m.items if i.moved_from]
        assert hints == [(b"t", b"a"), (b"a", b"b"), (b"b", b"t")]

    @pytest.mark.parametrize("told", [False, True])
    def test_tells_of_a_ring_by_way_of_a_name_told_as_gone(self, bench: Bench, told: bool) -> None:
        for name in "ab":
            (bench.root / name).mkdir()
        if told:
            bench.hear(("E", DELETED | DIRECTORY, b"t"))
            assert bench.items() == [Item(b"t", None)]
        bench.hear(*(("M", True, *names) for names in ((b"a", b"t"), (b"b", b"a"), (b"t", b"b"))))
        hints = [(i.path, i.moved_from) for i in bench.items() if i.moved_from]

        assert hints == [(b"t", b"a"), (b"a", b"b"), (b"b", b"t")]

    def test_does_not_tell_of_a_ring_of_our_own_making(self, bench: Bench) -> None:
        for name in "ab":
            (bench.root / name).mkdir()
        look = bench.filter._looker.look
        done = []
        for number, (old, new) in enumerate(((b"a", b"t"), (b"b", b"a"), (b"t", b"b"))):
            was = look(old).entry
            (bench.root / os.fsdecode(old)).rename(bench.root / os.fsdecode(new))
            bench.filter._looker.forget()
            entry = bench.own[new] = look(new).entry
            bench.own[old] = None
            done.append((Transition(number, RENAME, new, None, was, old, was), entry))
        bench.filter.applied([t for t, _ in done], [Outcome(t.op, APPLIED, e) for t, e in done])
        bench.hear(*(("M", True, t.source, t.path) for t, _ in done))

        assert bench.items(1.0) == []

    def test_tells_of_no_ring_whose_last_directory_is_gone(self, bench: Bench) -> None:
        (bench.root / "a").mkdir()
        (bench.root / "b").write_bytes(b"a file by now")
        for old, new in ((b"a", b"t"), (b"b", b"a"), (b"t", b"b")):
            bench.hear(("M", True, old, new))
        items = bench.items(1.0)

        assert next(i.path for i in items if i.moved_from) == b"a"
        assert Item(b"t", None) in items

    def test_does_not_wait_for_ever(self, bench: Bench) -> None:
        bench.hear(("M", False, b"a", b"b"))
        items = bench.items(0.1)

        assert {i.path: i.entry for i in items} == {b"a": None, b"b": None}

    def test_takes_what_comes_out_of_a_name_told_as_gone_for_new(self, bench: Bench) -> None:
        (bench.root / "c").write_bytes(b"x")
        bench.hear(("M", False, b"a", b"b"))
        bench.items(0.1)
        bench.hear(("M", False, b"b", b"c"))

        new, old = bench.items()
        assert (new.path, new.content, new.moved_from) == (b"c", b"x", b"")
        assert old == Item(b"b", None)

    def test_knows_a_directory_again_that_is_listed_where_something_was_told_as_gone(
        self, bench: Bench
    ) -> None:
        bench.hear(("E", DELETED, b"d"))
        assert bench.items() == [Item(b"d", None)]
        (bench.root / "d").mkdir()
        bench.hear(("D", True, b"0" * 16, 0, b"d"))
        assert [m.path for m in bench.work()] == [b"d"]
        (bench.root / "d").rename(bench.root / "e")
        bench.hear(("M", True, b"d", b"e"))

        assert [(i.path, i.moved_from) for i in bench.items()] == [(b"e", b"d"), (b"d", b"")]

    def test_goes_on_with_a_long_listing_under_the_new_name(self, bench: Bench) -> None:
        (bench.root / "d").mkdir()
        for i in range(300):
            (bench.root / f"d/{i:03}").touch()
        bench.hear(("D", True, b"0" * 16, 300, b"d"))
        bench.filter.live(bench.now)  # one slice of it
        (bench.root / "d").rename(bench.root / "e")
        bench.hear(("M", True, b"d", b"e"))
        listings = [m for m in bench.work() if isinstance(m, Listing)]

        assert {m.path for m in listings} == {b"e"}
        assert sum(len(m.items) for m in listings) == 300

    def test_end_a_listing_of_what_is_not_there_any_more(self, bench: Bench) -> None:
        (bench.root / "d").mkdir()
        for i in range(600):
            (bench.root / f"d/{i:03}").touch()
        listing = bench.filter.list_([b"d"])
        while not bench.sent:
            next(listing)
        (bench.root / "d").rename(bench.root / "e")
        (bench.root / "d").mkdir()  # with nothing in it
        for _ in listing:
            pass

        first, last = bench.sent
        assert (first.path, first.after, len(first.items)) == (b"d", b"", 500)
        assert last == Listing(b"d", None, b"", None, [])  # it is asked for anew

    def test_do_not_stop_a_look_at_the_state_of_a_directory_in_what_was_renamed(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from psync import scan

        (bench.root / "d/sub").mkdir(parents=True)
        (bench.root / "d/sub/f").write_bytes(b"x")
        bench.hear(("E", CREATED | CLOSED, b"d/sub/f"))
        bench.work()
        whole = scan.open_beneath

        def rename(root: int, path: bytes, flags: int) -> int:
            fd = whole(root, path, flags)
            if (bench.root / "d").exists():
                (bench.root / "d").rename(bench.root / "e")
            return fd

        monkeypatch.setattr(scan, "open_beneath", rename)
        sent = bench.work(1.0)

        assert [[i.path for i in m.items] for m in sent] == [[b"d/sub"]]

    def test_looks_again_for_what_an_answer_called_absent(self, bench: Bench) -> None:
        (bench.root / "e/sub").mkdir(parents=True)
        (bench.root / "e/f").write_bytes(b"text")
        (bench.root / "e/sub/g").write_bytes(b"deep")
        for _ in bench.filter.look(1, [b"d/f", b"d/sub"]):
            pass
        assert bench.items() == [Item(b"d/f", None), Item(b"d/sub", None)]

        bench.hear(("M", True, b"d", b"e"))
        sent = bench.work()
        told = {i.path: i.content for m in sent if isinstance(m, Observed) for i in m.items}
        listed = {m.path: m for m in sent if isinstance(m, Listing)}

        assert told[b"e/f"] == b"text"
        assert listed[b"e/sub"].items[0].content == b"deep"

    def test_are_told_before_anything_is_answered(self, bench: Bench) -> None:
        bench.hear(("M", True, b"d", b"e"))
        assert bench.filter.turning
        assert bench.items() == []  # `e` is gone again: its next rename is waited for
        assert bench.filter.turning

        (bench.root / "g").mkdir()
        bench.hear(("M", True, b"e", b"g"))
        assert bench.filter.turning
        assert next((i.path, i.moved_from) for i in bench.items()) == (b"g", b"d")
        assert not bench.filter.turning

    @pytest.mark.parametrize("further", ["above", "overflow", "gone"])
    def test_are_not_waited_for_in_vain(self, bench: Bench, further: str) -> None:
        (bench.root / "q").mkdir()
        bench.hear(("M", True, b"d", b"p/e"))
        if further == "above":
            (bench.root / "q/e").mkdir()
            bench.hear(("M", True, b"p", b"q"))
        elif further == "overflow":
            bench.hear(*(("E", MODIFIED, b"f%d" % i) for i in range(PENDING_MAX + 1)))
        bench.work(1.0)

        assert not bench.filter.turning

    def test_come_before_what_we_did_at_their_new_name(self, bench: Bench) -> None:
        """We put a file into what came to the name when another directory had left it."""
        (bench.root / "e").mkdir()
        (bench.root / "e/f").write_bytes(b"ours")
        entry = bench.own[b"e/f"] = bench.filter._looker.look(b"e/f").entry
        bench.filter._looker.forget()
        bench.filter.applied(
            [Transition(1, PUT, b"e/f", None, entry)], [Outcome(1, APPLIED, entry)]
        )
        (bench.root / "g").mkdir()
        bench.hear(("M", True, b"e", b"g"), ("M", True, b"d", b"e"), ("E", CLOSED, b"e/f"))
        told = [i.path for i in bench.items(1.0)]

        assert told.index(b"e") < told.index(b"e/f")

    def test_are_told_before_the_state_of_a_directory_in_them(self, bench: Bench) -> None:
        (bench.root / "e/s").mkdir(parents=True)
        bench.hear(("E", DELETED, b"d/s/f"), *(("E", DELETED, b"%d" % i) for i in range(200)))
        bench.hear(("M", True, b"d", b"e"))
        bench.now += 0.1
        bench.filter.live(bench.now)  # no time for more than some of it
        told = [i.path for m in bench.work(1.0) if isinstance(m, Observed) for i in m.items]

        assert told.index(b"e") < told.index(b"e/s")

    def test_are_not_waited_for_under_a_name_that_is_none_of_ours(self, bench: Bench) -> None:
        bench.hear(("M", True, b"a", b"d/e"), ("M", True, b"d", b"no"))
        bench.work(1.0)

        assert not bench.filter.turning

    @pytest.mark.parametrize("heard", [False, True])
    def test_do_not_hide_what_we_do_before_they_are_told(self, bench: Bench, heard: bool) -> None:
        (bench.root / "d").mkdir()
        (bench.root / "e").mkdir()
        for path in (b"d/f", b"e/g"):
            (bench.root / os.fsdecode(path)).write_bytes(b"ours")
        if heard:
            bench.hear(("M", True, b"d", b"e"))
        for path in (b"d/f", b"e/g"):
            entry = bench.own[path] = bench.filter._looker.look(path).entry
            bench.filter._looker.forget()
            bench.filter.applied(
                [Transition(1, PUT, path, None, entry)], [Outcome(1, APPLIED, entry)]
            )
        if not heard:
            bench.hear(("M", True, b"d", b"e"))
        bench.hear(("E", CLOSED, b"d/f"), ("E", CLOSED, b"e/g"))
        told = [(i.path, i.entry is not None) for i in bench.items(1.0)]

        after = told[told.index((b"e", True)) :]
        assert {(b"d/f", True), (b"e/f", False), (b"e/g", True)} <= set(after)

    def test_are_not_forgotten_for_what_we_could_not_do_at_the_old_name(self, bench: Bench) -> None:
        """The file was removed, and the directory renamed; of that nobody had heard."""
        (bench.root / "e").mkdir()
        bench.hear(("E", DELETED, b"d/f"))
        assert bench.items() == [Item(b"d/f", None)]
        failed = Transition(1, PUT, b"d/f", None, Entry(1, 0o644, 0, 0, 0, 0, b"", b"", 0, 0))
        bench.filter.applied([failed], [Outcome(1, NO_PARENT, None)])

        bench.hear(("M", True, b"d", b"e"))

        assert Item(b"e/f", None) in bench.items(1.0)

    def test_touch_the_directory_where_it_is_now(self, bench: Bench) -> None:
        bench.hear(("E", CREATED | CLOSED, b"d/f"), ("M", True, b"d", b"e"))

        assert set(bench.filter._touched) == {b"", b"e"}


class TestExchangedNames:
    """The watcher knows both, and tells of two renames; what is in them nobody lists."""

    @pytest.fixture
    def exchanged(self, bench: Bench) -> Bench:
        """`d`, which was a file, is a directory now, and `f` is what was `d`."""
        (bench.root / "d/sub").mkdir(parents=True)
        (bench.root / "d/sub/g").write_bytes(b"deep")
        (bench.root / "f").write_bytes(b"x")
        return bench

    @pytest.mark.parametrize("swaps", [1, 2, 3])
    @pytest.mark.parametrize("at_once", [True, False])
    def test_of_a_file_and_a_directory(self, exchanged: Bench, swaps: int, at_once: bool) -> None:
        sent = []
        for n in range(swaps):
            is_directory = n % 2 == swaps % 2  # of what is at "d" before this swap
            for event in ("M", is_directory, b"d", b"f"), ("M", not is_directory, b"f", b"d"):
                exchanged.hear(event)
                if not at_once:
                    sent += exchanged.work(0.2)
        sent += exchanged.work(0.2)
        listings = {m.path: m for m in sent if isinstance(m, Listing)}

        assert [i.path for i in listings[b"d"].items] == [b"sub"]
        assert listings[b"d/sub"].items[0].content == b"deep"
        assert any(i.path == b"f" for m in sent if isinstance(m, Observed) for i in m.items)

    def test_of_two_directories(self, exchanged: Bench) -> None:
        (exchanged.root / "e/sub").mkdir(parents=True)
        (exchanged.root / "e/sub/h").write_bytes(b"other")
        exchanged.hear(("M", True, b"d", b"e"), ("M", True, b"e", b"d"))
        listings = {m.path: m for m in exchanged.work(0.2) if isinstance(m, Listing)}

        assert listings[b"d/sub"].items[0].content == b"deep"
        assert listings[b"e/sub"].items[0].content == b"other"

    def test_are_flushed_with_all_that_is_in_them(self, exchanged: Bench) -> None:
        exchanged.hear(("M", False, b"d", b"f"), ("M", True, b"f", b"d"))
        exchanged.filter.flush(1)
        exchanged.hear(("B", b"beat.1"))
        sent = []
        while not any(isinstance(m, Flushed) for m in sent):
            exchanged.filter.live(exchanged.now)  # one slice of it
            sent += exchanged.sent
            exchanged.sent.clear()

        assert {m.path for m in sent if isinstance(m, Listing)} == {b"d", b"d/sub"}


class TestIgnoredNames:
    def test_are_not_looked_at(self, bench: Bench) -> None:
        (bench.root / "no").write_bytes(b"x")
        bench.hear(
            ("E", CLOSED, b"no"),
            ("E", CLOSED, b"no/deep"),
            ("M", False, b"no", b"a/no"),
            ("D", True, b"", 0, b"no"),
            ("N", b"no"),
            ("X", 13, b"no"),
        )

        assert bench.work(20.0) == []

    def test_make_something_new_of_what_leaves_them(self, bench: Bench) -> None:
        (bench.root / "f").write_bytes(b"x")
        (bench.root / "d/e").mkdir(parents=True)
        (bench.root / "d/e/g").write_bytes(b"y")
        bench.hear(("M", False, b"no", b"f"), ("M", True, b"no", b"d"))
        sent = bench.work()

        assert sent[0].items[0].content == b"x"
        assert sent[0].items[0].moved_from == b""
        assert [m.path for m in sent[1:]] == [b"d", b"d/e"]
        assert sent[2].items[0].content == b"y"

    def test_make_what_enters_them_absent(self, bench: Bench) -> None:
        bench.hear(("M", False, b"f", b"no"))

        assert bench.items() == [Item(b"f", None)]


class TestLosingEvents:
    def test_counts_a_new_scan_after_an_overflow(self, bench: Bench) -> None:
        bench.hear(("O",))
        bench.hear(("D", False, b"1" * 16, 0, b""))
        bench.hear(("S", 1, 0, 0))
        sent = bench.work()

        assert [type(m) for m in sent] == [Trouble, Digests, Scanned, Trouble]
        assert (sent[0].code, sent[3].message) == ("overflow", "")
        assert sent[1].generation == sent[2].generation == 2
        assert bench.scripts[0].rescans == 0

    def test_scans_once_more_when_it_overflows_during_a_scan(self, bench: Bench) -> None:
        bench.filter.rescan()
        bench.hear(("D", False, b"1" * 16, 0, b""), ("O",), ("S", 1, 0, 0))

        assert bench.scripts[0].rescans == 2
        bench.hear(("D", False, b"1" * 16, 0, b""), ("S", 1, 0, 0))
        scans = [m.generation for m in bench.work() if isinstance(m, Scanned)]
        assert scans == [2, 3]

    def test_takes_part_in_a_scan_that_the_watcher_began_by_itself(self, bench: Bench) -> None:
        bench.hear(("D", False, b"1" * 16, 0, b""), ("S", 1, 0, 0))

        assert [m.generation for m in bench.work()] == [2, 2]

    def test_scans_everything_when_too_much_is_pending(self, bench: Bench) -> None:
        bench.hear(*(("E", MODIFIED, b"f%d" % i) for i in range(PENDING_MAX + 1)))

        assert bench.scripts[0].rescans == 1
        assert len(bench.filter._settle) == 0
        assert bench.logged

    def test_scans_everything_when_looks_lead_to_too_many_others(
        self, make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nothing has to happen any more for that."""
        monkeypatch.setattr("psync.filter.PENDING_MAX", 5)
        bench = make()
        bench.hear(("E", CLOSED, b"d"))
        bench.work(1.0)
        for i in range(10):
            (bench.root / f"e/{i}").mkdir(parents=True)
        bench.hear(("M", True, b"d", b"e"))
        bench.work(1.0)

        assert bench.scripts[0].rescans == 1

    def test_starts_another_watcher_when_it_dies(self, bench: Bench) -> None:
        bench.scripts[0].dead = True
        bench.filter.read()
        bench.hear(("S", 1, 0, 0))
        sent = bench.work()

        assert len(bench.scripts) == 2
        assert [type(m) for m in sent] == [Trouble, Scanned, Trouble]
        assert sent[1].generation == 2

    def test_ends_when_the_root_is_gone(self, bench: Bench) -> None:
        with pytest.raises(RootLost):
            bench.hear(("U",))
        bench.lost = True
        with pytest.raises(RootLost):
            bench.filter.rescan()
        bench.scripts[0].dead = True
        with pytest.raises(RootLost):
            bench.filter.read()

    def test_looks_everywhere_from_time_to_time_without_enough_watches(self, bench: Bench) -> None:
        bench.hear(("L", b"d"), ("L", b"e"))
        sent = bench.work(4.9)
        assert [(m.code, m.path) for m in sent] == [("limit", b"")]
        assert "max_user_watches" in sent[0].message

        bench.work(0.2)
        assert bench.scripts[0].rescans == 1

    def test_polls_what_tells_only_half(self, make: Callable[..., Bench]) -> None:
        bench = make(filesystem="nfs4")
        bench.work(5.1)

        assert bench.scripts[0].rescans == 1


class TestTrouble:
    def test_is_told_once_and_taken_back(self, bench: Bench) -> None:
        (bench.root / "d").mkdir()
        bench.hear(("X", 13, b"d"))
        bench.hear(("X", 13, b"d"))
        sent = bench.work()
        assert [m.message for m in sent if isinstance(m, Trouble)] == ["Permission denied"]
        shown = [i for m in sent if isinstance(m, Observed) for i in m.items]
        assert shown[0].flags & wire.UNREADABLE

        bench.hear(("D", True, b"0" * 16, 0, b"d"))
        sent = bench.work()
        assert [m.message for m in sent if isinstance(m, Trouble)] == [""]

    def test_with_a_look_is_no_absence_and_is_tried_again(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (bench.root / "f").write_bytes(b"x")
        whole = bench.filter._looker.look

        def fail(*args: Any, **options: Any) -> Any:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(bench.filter._looker, "look", fail)
        bench.hear(("E", CLOSED, b"f"))
        sent = bench.work()
        assert [(m.code, m.path) for m in sent] == [("io", b"f")]

        monkeypatch.setattr(bench.filter._looker, "look", whole)
        sent = bench.work(20.0)
        assert [type(m) for m in sent] == [Trouble, Observed]
        assert sent[1].items[0].content == b"x"

    def test_voids_a_listing_that_broke_off(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (bench.root / "d").mkdir()
        for name in ("a", "b"):
            (bench.root / "d" / name).write_bytes(b"x")
        whole = bench.filter._looker.look_at

        def fail(fd: int, name: bytes, *args: Any, **options: Any) -> Any:
            if name == b"b":
                raise OSError(5, "Input/output error")
            return whole(fd, name, *args, **options)

        monkeypatch.setattr(bench.filter._looker, "look_at", fail)
        bench.hear(("D", True, b"0" * 16, 2, b"d"))
        sent = bench.work()
        assert not [m for m in sent if isinstance(m, Listing)]
        assert any(isinstance(m, Trouble) and m.path == b"d" for m in sent)

        monkeypatch.setattr(bench.filter._looker, "look_at", whole)
        bench.hear(("E", CLOSED, b"d/a"))
        assert bench.items()[0].content == b"x"  # what was not sent is not known

    @pytest.mark.parametrize("live", [True, False])
    def test_with_a_listing_is_tried_again(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch, live: bool
    ) -> None:
        (bench.root / "d").mkdir()
        (bench.root / "d/a").write_bytes(b"x")

        def fail(fd: int) -> list[bytes]:
            raise OSError(5, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr("psync.filter.list_names", fail)
            if live:
                bench.hear(("D", True, b"0" * 16, 1, b"d"))
            else:
                assert not list(bench.filter.list_([b"d"]))[1:]
            sent = bench.work(60.0)
        assert sum(isinstance(m, Trouble) for m in sent) == 5  # at once, and each 15 s
        sent = bench.work(60.0)

        assert [m.items[0].content for m in sent if isinstance(m, Listing)] == [b"x"]
        assert Trouble("unreadable", b"d", "") in sent


class TestAListingThatGoesOnLater:
    """The brain has asked for it; its user goes on meanwhile."""

    @pytest.fixture
    def large(self, bench: Bench) -> Bench:
        (bench.root / "d").mkdir()
        for i in range(600):
            (bench.root / f"d/{i:03}").write_bytes(b"x")
        return bench

    def listed(self, bench: Bench, meanwhile: Callable[[], None]) -> list[Listing]:
        listing = bench.filter.list_([b"d"])
        while not bench.sent:
            next(listing)
        bench.sent.clear()
        meanwhile()
        bench.sent.clear()
        for _ in listing:
            pass
        return [m for m in bench.sent if isinstance(m, Listing)]

    @pytest.mark.parametrize("how", ["heard of", "listed", "made by us"])
    def test_does_not_deny_what_was_told_of_since(self, large: Bench, how: str) -> None:
        """Else the brain takes it for removed, and nobody would say otherwise."""
        bench = large

        def meanwhile() -> None:
            (bench.root / "d/zz").write_bytes(b"new")
            if how == "heard of":
                bench.hear(("E", CREATED | CLOSED, b"d/zz"))
            elif how == "listed":
                bench.hear(("D", True, b"0" * 16, 601, b"d"))
            else:
                wanted = bench.filter._looker.state(b"d/zz")
                transition = Transition(1, PUT, b"d/zz", None, wanted)
                bench.filter.applied([transition], [Outcome(1, APPLIED, wanted)])
            bench.work()

        (last,) = self.listed(bench, meanwhile)

        assert last.items[-1].path == b"zz"
        assert last.upto is None

    def test_does_not_tell_what_was_there_before(self, large: Bench) -> None:
        bench = large

        def meanwhile() -> None:
            (bench.root / "d/599").write_bytes(b"new")
            bench.hear(("E", MODIFIED | CLOSED, b"d/599"))
            bench.work(1.0)

        (last,) = self.listed(bench, meanwhile)

        assert last.items[-1].entry == bench.filter._looker.state(b"d/599")
        assert last.entry == bench.filter._looker.state(b"d")

    def test_is_all_told_at_once_or_given_up(self, bench: Bench) -> None:
        """Nothing waits to be told while its directory is renamed."""
        (bench.root / "d").mkdir()
        for i in range(300):
            (bench.root / f"d/{i:03}").touch()
        listing = bench.filter.list_([b"d"])
        next(listing)

        assert [(m.path, len(m.items), m.upto) for m in bench.sent] == [(b"d", 300, None)]

    def test_of_a_new_directory_is_put_right_about_what_we_did_meanwhile(
        self, large: Bench
    ) -> None:
        bench = large
        bench.hear(("D", True, b"0" * 16, 600, b"d"))
        for _ in range(2):
            bench.filter.live(bench.now)  # one slice of it
        (bench.root / "d/zz").write_bytes(b"new")
        wanted = bench.filter._looker.state(b"d/zz")
        bench.own[b"d/zz"] = wanted
        transition = Transition(1, PUT, b"d/zz", None, wanted)
        bench.filter.applied([transition], [Outcome(1, APPLIED, wanted)])
        sent = bench.work()

        assert isinstance(sent[-1], Observed)
        assert [i.path for i in sent[-1].items if i.path != b"d"] == [b"d/zz"]


class TestMetadata:
    def test_is_told_without_content_but_not_of_a_file_that_could_not_be_read(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (bench.root / "f").write_bytes(b"x")
        os.utime(bench.root / "f", ns=(0, OLD_NS))
        bench.hear(("E", ATTRIBUTES, b"f"))
        assert bench.items()[0].flags == wire.META_ONLY

        from psync import scan

        def refuse(fd: int, name: bytes) -> int:
            raise PermissionError(13, "Permission denied")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(scan, "open_file", refuse)
            (bench.root / "f").write_bytes(b"secret")
            bench.hear(("E", CLOSED, b"f"))
            assert bench.items()[0].flags == wire.UNREADABLE
        bench.hear(("E", ATTRIBUTES, b"f"))
        item = bench.items()[0]

        assert item.flags == 0
        assert item.content == b"secret"

    @pytest.mark.parametrize("scanning", [False, True])
    @pytest.mark.parametrize("event", [("E", ATTRIBUTES, b"g"), ("M", False, b"f", b"g")])
    def test_or_the_name_is_all_that_changed_unless_events_were_lost(
        self, bench: Bench, event: Event, scanning: bool
    ) -> None:
        (bench.root / "g").write_bytes(b"x")
        os.utime(bench.root / "g", ns=(0, OLD_NS))
        if scanning:
            bench.hear(("O",))
        bench.hear(event)
        item = bench.items()[0]

        assert item.flags == (0 if scanning else wire.META_ONLY)
        assert item.content is None

    @pytest.mark.parametrize("event", [("E", ATTRIBUTES, b"g"), ("M", False, b"f", b"g")])
    def test_a13_is_not_all_where_the_time_would_not_tell_of_a_write(
        self, bench: Bench, event: Event
    ) -> None:
        """Who has written right before the look, and is not heard of yet, may have kept it."""
        (bench.root / "g").write_bytes(b"x")
        coarse = os.stat(bench.root / "g").st_ctime_ns // 10**12 * 10**12
        os.utime(bench.root / "g", ns=(0, coarse))
        bench.hear(event)

        assert bench.items()[0].flags == 0

    def test_of_a_directory_follows_what_happened_in_it(self, bench: Bench) -> None:
        (bench.root / "d").mkdir()
        (bench.root / "d/f").write_bytes(b"x")
        bench.hear(("E", CREATED | CLOSED, b"d/f"))
        first = bench.work()
        later = bench.work(0.01)
        bench.hear(("E", CLOSED, b"d/f"))

        assert [[i.path for i in m.items] for m in first] == [[b"d/f"]]
        assert [[i.path for i in m.items] for m in later] == [[b"d"]]
        assert bench.work(1.0) == []  # nothing is said twice


class TestFlush:
    def test_waits_for_its_heartbeat(self, bench: Bench) -> None:
        bench.filter.flush(7)
        assert bench.work(1.0) == []
        bench.hear(("B", b"beat.8"))
        assert bench.work(1.0) == []
        bench.hear(("B", b"beat.7"))

        assert bench.work() == [Flushed(7)]

    def test_takes_what_waits_before_it_is_done(self, bench: Bench) -> None:
        (bench.root / "f").write_bytes(b"x")
        bench.filter.flush(7)
        bench.hear(("E", MODIFIED, b"f"), ("M", False, b"a", b"b"), ("B", b"beat.7"))
        sent = bench.work()

        assert sent[-1] == Flushed(7)
        told = {i.path for m in sent[:-1] for i in m.items}
        assert {b"f", b"a", b"b"} <= told

    def test_waits_for_a_scan_that_an_overflow_made_necessary(self, bench: Bench) -> None:
        bench.filter.flush(7)
        bench.hear(("B", b"beat.7"), ("O",))
        assert not any(isinstance(m, Flushed) for m in bench.work(1.0))
        bench.hear(("S", 1, 0, 0))

        assert bench.work()[-1] == Flushed(7)

    def test_waits_for_a_scan_after_too_much_was_pending(
        self, make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("psync.filter.PENDING_MAX", 5)
        bench = make()
        bench.filter.flush(7)
        bench.hear(("B", b"beat.7"), *(("E", CLOSED, b"f%d" % i) for i in range(6)))
        assert not any(isinstance(m, Flushed) for m in bench.work(1.0))
        bench.hear(("S", 1, 0, 0))

        assert bench.work()[-1] == Flushed(7)

    def test_is_not_starved_by_a_busy_user(self, bench: Bench) -> None:
        (bench.root / "f").write_bytes(b"x")
        bench.filter.flush(7)
        bench.hear(("B", b"beat.7"))
        for i in range(1000):
            bench.hear(*(("E", CLOSED, b"%d-%d" % (i, n)) for n in range(300)))
            bench.filter.live(bench.now)
            if Flushed(7) in bench.sent:
                break

        assert i < 10

    def test_scans_when_there_is_no_room_for_the_heartbeat(self, bench: Bench) -> None:
        (bench.root / ".psync").rmdir()
        bench.filter.flush(7)
        assert bench.scripts[0].rescans == 1
        bench.hear(("S", 1, 0, 0))

        assert bench.work()[-1] == Flushed(7)


def entry_of(path: Path, digest: bytes = b"") -> Entry:
    st = path.lstat()
    return Entry(
        Kind.FILE, st.st_mode & 0o7777, st.st_uid, st.st_gid, st.st_size, st.st_mtime_ns, b"",
        digest, st.st_ino, st.st_ctime_ns,
    )  # fmt: skip


class TestEchoes:
    @pytest.mark.parametrize("mask", [MOVED_IN, ATTRIBUTES, CREATED, CLOSED])
    def test_are_kept_back_when_they_show_what_we_left(self, bench: Bench, mask: int) -> None:
        (bench.root / "f").write_bytes(b"x")
        bench.own[b"f"] = entry_of(bench.root / "f", content_digest(b"x"))
        bench.own[b"gone"] = None
        bench.hear(("E", mask, b"f"), ("E", DELETED, b"gone"), ("E", MOVED_OUT, b"gone"))

        assert bench.items(1.0) == []

    def test_are_told_where_a_write_in_the_same_tick_left_equal_stats(self, bench: Bench) -> None:
        (bench.root / "f").write_bytes(b"y")
        bench.own[b"f"] = entry_of(bench.root / "f", content_digest(b"x"))
        bench.hear(("E", CLOSED, b"f"))

        assert bench.items()[0].content == b"y"

    def test_are_told_when_they_are_wanted(self, make: Callable[..., Bench]) -> None:
        bench = make(suppress_echoes=False)
        (bench.root / "f").write_bytes(b"x")
        bench.own[b"f"] = entry_of(bench.root / "f", content_digest(b"x"))
        bench.hear(("E", MOVED_IN, b"f"))

        assert bench.items()[0].content == b"x"

    def test_of_an_old_removal_do_not_hide_a_new_one(self, bench: Bench) -> None:
        bench.own[b"f"] = None
        (bench.root / "f").write_bytes(b"x")
        bench.hear(("E", CLOSED, b"f"))
        assert bench.items()[0].content == b"x"
        (bench.root / "f").unlink()
        bench.hear(("E", DELETED, b"f"))

        assert bench.items() == [Item(b"f", None)]

    def test_do_not_outlive_a_users_directory_rename(self, bench: Bench) -> None:
        bench.own[b"d/f"] = None
        (bench.root / "d").mkdir()
        (bench.root / "d/f").write_bytes(b"x")
        bench.hear(("M", True, b"e", b"d"))
        bench.work()
        (bench.root / "d/f").unlink()
        bench.hear(("E", DELETED, b"d/f"))

        assert bench.items() == [Item(b"d/f", None)]

    def test_of_a_directory_of_ours_are_kept_back_only_if_all_of_it_is_there(
        self, bench: Bench
    ) -> None:
        def make(names: list[str]) -> None:
            (bench.root / "d").mkdir()
            for name in names:
                (bench.root / "d" / name).write_bytes(b"x")
            looker = bench.filter._looker
            transitions, outcomes = [], []
            for op, path in enumerate([b"d", *(b"d/%b" % n.encode() for n in names)]):
                entry = looker.look(path).entry
                bench.own[path] = entry
                transitions.append(Transition(op, PUT, path, None, entry))
                outcomes.append(Outcome(op, APPLIED, entry))
            looker.forget()
            bench.filter.applied(transitions, outcomes)

        make(["a", "b"])
        bench.hear(("D", True, b"0" * 16, 2, b"d"))
        assert bench.work() == []

        for path in (bench.root / "d").iterdir():
            path.unlink()
        (bench.root / "d").rmdir()
        make(["a", "b"])
        (bench.root / "d/a").unlink()
        bench.hear(("D", True, b"0" * 16, 1, b"d"))
        listing = next(m for m in bench.work() if isinstance(m, Listing))
        assert [i.path for i in listing.items] == [b"b"]

    def test_do_not_hide_what_was_in_a_directory_before(self, bench: Bench) -> None:
        """Both directories were there already when the brain had them put."""
        bench.hear(("M", True, b"no", b"d"))
        (bench.root / "d/s").mkdir(parents=True)
        (bench.root / "d/s/f").write_bytes(b"x")
        transitions, outcomes = [], []
        for op, path in enumerate([b"d", b"d/s"]):
            entry = bench.own[path] = bench.filter._looker.look(path).entry
            transitions.append(Transition(op, PUT, path, None, entry))
            outcomes.append(Outcome(op, APPLIED, entry))
        bench.filter._looker.forget()
        bench.filter.applied(transitions, outcomes)
        listed = {m.path: m for m in bench.work() if isinstance(m, Listing)}

        assert listed[b"d/s"].items[0].content == b"x"


class TestAnswersWithADigest:
    """They come from another thread, which looked while we were looking ourselves."""

    def answer(self, bench: Bench, seen: Seen) -> Item:
        for _ in bench.filter.digested(b"f", seen):
            pass
        (item,) = [i for m in bench.sent for i in m.items]
        return item

    def test_are_given_for_what_is_still_there(self, bench: Bench) -> None:
        (bench.root / "f").write_bytes(b"x")
        entry = entry_of(bench.root / "f", content_digest(b"x"))

        assert self.answer(bench, Seen(entry)) == Item(b"f", entry)

    def test_are_not_given_for_what_was_there(self, bench: Bench) -> None:
        (bench.root / "f").write_bytes(b"x")
        was = entry_of(bench.root / "f", content_digest(b"x"))
        (bench.root / "f").write_bytes(b"longer")

        item = self.answer(bench, Seen(was))
        assert item.entry is not None
        assert (item.entry.size, item.entry.digest, item.flags) == (6, b"", BUSY)

    @pytest.mark.parametrize("there", [True, False])
    def test_are_of_what_is_there_now(self, bench: Bench, there: bool) -> None:
        if there:
            (bench.root / "f").mkdir()
        item = self.answer(bench, Seen(None) if there else Seen(NOT_OURS))

        assert (item.entry is not None) is there
        assert not item.flags


class TestKnown:
    def test_forgets_what_was_below_the_new_name_of_a_directory_we_renamed(self) -> None:
        was = Entry(Kind.DIRECTORY, 0o700, 0, 0, 0, 1, b"", b"", 5, 0)
        own: dict[bytes, Entry | None] = {b"b/f": None, b"a": None, b"b": was, b"bf": None}
        known = Known(own, suppress=True)

        known.applied(
            [Transition(1, RENAME, b"b", None, was, b"a", was)], [Outcome(1, APPLIED, was)]
        )

        assert known.tell_absent(b"b/f")
        assert not known.tell_absent(b"bf")

    def test_takes_a_rename_for_ours_as_often_as_we_made_it(self) -> None:
        was = Entry(Kind.DIRECTORY, 0o700, 0, 0, 0, 1, b"", b"", 5, 0)
        rename = Transition(1, RENAME, b"b", None, was, b"a", was)
        own: dict[bytes, Entry | None] = {b"a": None, b"b": was}
        known = Known(own, suppress=True)
        known.applied([rename, rename], [Outcome(1, APPLIED, was)] * 2)

        left = []
        for _ in range(3):
            known.directory_moved(b"a", b"b")
            left.append(len(own))
        assert left == [2, 2, 0]

    def test_takes_no_rename_for_ours_after_events_were_lost(self) -> None:
        was = Entry(Kind.DIRECTORY, 0o700, 0, 0, 0, 1, b"", b"", 5, 0)
        own: dict[bytes, Entry | None] = {b"a": None, b"b": was}
        known = Known(own, suppress=True)
        known.applied(
            [Transition(1, RENAME, b"b", None, was, b"a", was)], [Outcome(1, APPLIED, was)]
        )
        known.events_lost()
        known.directory_moved(b"a", b"b")

        assert own == {}

    def test_is_bounded(self) -> None:
        known = Known({}, suppress=True)
        for i in range(REMEMBERED_MAX + 5):
            known.tell(b"%d" % i, NOT_OURS)

        assert len(known._told) <= REMEMBERED_MAX

    def test_keeps_what_an_answer_confirms_and_drops_what_it_denies(self) -> None:
        entry = Entry(Kind.FILE, 0o600, 0, 0, 1, 1, b"", b"", 5, 5)
        other = entry._replace(ctime_ns=6)
        own: dict[bytes, Entry | None] = {b"a": entry, b"b": entry, b"c": None, b"d": None}
        known = Known(own, suppress=True)
        known.answer(b"a", entry)
        known.answer(b"b", other)
        known.answer(b"c", None)
        known.answer(b"d", entry)

        assert own == {b"a": entry, b"c": None}


class TestWalk:
    def test_reports_what_it_cannot_or_may_not_enter(self, tmp_path: Path) -> None:
        fd = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
        try:
            events = list(walk(fd, b"proc", False, owners=True, strip=False))
        finally:
            os.close(fd)

        assert events == [("N", b"proc")]

    def test_names_parents_first_and_siblings_in_byte_order(self, tmp_path: Path) -> None:
        for path in ("b/z", "b/a", "a", "b.x", ".psync/stage", "x.psync.ignore"):
            (tmp_path / path).mkdir(parents=True)
        fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            events = list(walk(fd, b"", False, owners=True, strip=False))
        finally:
            os.close(fd)

        assert [e[-1] for e in events[:-1]] == [b"", b"a", b"b", b"b/a", b"b/z", b"b.x"]
        assert events[-1] == ("S", 6, 5, 1)


    def test_e10_does_not_enter_directories_of_pruned_names(self, tmp_path: Path) -> None:
        for name in ("cache/a", "b/cache/c", "b/x.o"):
            (tmp_path / name).mkdir(parents=True)
        fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)

        def names(top: bytes) -> list[Any]:
            pruned = (b"cache", b"*.o")
            return [e[-1] for e in walk(fd, top, False, owners=True, strip=False, pruned=pruned)]

        try:
            assert names(b"") == [b"", b"b", 0]
            assert names(b"b/cache") == []
            pruned = (b"*",)
            all_ = list(walk(fd, b"", False, owners=True, strip=False, pruned=pruned))
            assert [e[0] for e in all_] == ["D", "S"]
        finally:
            os.close(fd)


@contextmanager
def inotify_on(root: Path) -> Iterator[Inotify]:
    """Watch a directory without cinotify, once it is scanned."""
    (root / ".psync").mkdir()
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    inotify = Inotify(fd, owners=True, strip=False)
    while inotify.scanning():
        inotify.step(1.0)
    yield inotify
    inotify.close()
    os.close(fd)


class TestFallback:
    def test_scans_in_slices_without_events(self, tmp_path: Path) -> None:
        for i in range(50):
            (tmp_path / f"d{i}").mkdir()
        fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
        polling = Polling(fd, owners=True, strip=False)
        events = []
        while polling.scanning():
            events += polling.step(0.0005)
        os.close(fd)

        assert events[-1] == ("S", 51, 50, 0)
        assert polling.fd == -1
        assert polling.read() == []

    def test_replaces_no_watch(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The kernel leaves it without a mask for an instant, and that misses what happens then."""
        masks = []
        add_watch = INotify.add_watch

        def noted(self: INotify, path: Any, mask: int) -> Any:
            masks.append(mask)
            return add_watch(self, path, mask)

        monkeypatch.setattr(INotify, "add_watch", noted)
        with inotify_on(tmp_path) as inotify:
            (tmp_path / "d").mkdir()
            inotify.read()
            inotify.rescan()
            while inotify.scanning():
                inotify.step(1.0)

        assert len(masks) > 4
        assert all(mask & flags.MASK_ADD for mask in masks[1:])  # the first is .psync's

    def test_tells_of_a_rename_whose_other_half_is_outside(self, tmp_path: Path) -> None:
        root = tmp_path / "root"
        root.mkdir()
        (root / "f").touch()
        events: list[Event] = []
        with inotify_on(root) as inotify:
            (root / "f").rename(tmp_path / "f")
            assert inotify.read() == []
            assert inotify.deadline() is not None
            while not events:
                events = inotify.read()

        assert events == [("E", MOVED_OUT, b"f")]

    def test_names_what_becomes_local_or_ceases_to_be(self, tmp_path: Path) -> None:
        (tmp_path / "a").touch()
        with inotify_on(tmp_path) as inotify:
            (tmp_path / "a").rename(tmp_path / "a.psync.ignore")
            (tmp_path / "a.psync.ignore").rename(tmp_path / "b")
            (tmp_path / "c.psync.ignore").touch()
            (tmp_path / ".psync/beat.1").touch()
            events = inotify.read()

        assert events == [
            ("E", MOVED_OUT, b"a"), ("E", MOVED_IN, b"b"), ("B", b"beat.1"),
        ]  # fmt: skip

    def test_watches_what_was_renamed_with_its_directory_before_it_was_heard_of(
        self, tmp_path: Path
    ) -> None:
        """Another one took its first name, and was watched for it."""
        root = tmp_path / "root"
        (root / "d").mkdir(parents=True)
        (tmp_path / "other").mkdir()
        with inotify_on(root) as inotify:
            (root / "e").mkdir()
            (root / "e").rename(root / "d/e")
            (root / "d").rename(root / "f")
            (tmp_path / "other").rename(root / "e")
            inotify.read()
            (root / "f/e/text").write_bytes(b"x")
            (root / "e/text").write_bytes(b"x")
            heard = {event[2] for event in inotify.read() if event[0] == "E"}

        assert {b"e/text", b"f/e/text"} <= heard

    def test_watches_what_was_renamed_to_where_another_one_was_taken_away(
        self, tmp_path: Path
    ) -> None:
        """It was watched in the other one's place, and that came to an end."""
        root = tmp_path / "root"
        (root / "c/e").mkdir(parents=True)
        (root / "d").mkdir()
        (tmp_path / "other").mkdir()
        with inotify_on(root) as inotify:
            (tmp_path / "other").rename(root / "d/e")
            (root / "d").rename(tmp_path / "away")
            (root / "c").rename(root / "d")
            inotify.read()
            (root / "d/e/text").write_bytes(b"x")
            heard = {event[2] for event in inotify.read() if event[0] == "E"}

        assert b"d/e/text" in heard

    def test_watches_what_was_renamed_to_a_name_that_another_one_has_taken_since(
        self, tmp_path: Path
    ) -> None:
        """And was renamed on, with the directory that it is in."""
        (tmp_path / "a/sub").mkdir(parents=True)
        (tmp_path / "c").mkdir()
        with inotify_on(tmp_path) as inotify:
            (tmp_path / "a").rename(tmp_path / "c/b")
            (tmp_path / "c").rename(tmp_path / "x")
            (tmp_path / "c/b").mkdir(parents=True)
            inotify.read()
            for path in ("x/b/text", "x/b/sub/text", "c/b/text"):
                (tmp_path / path).write_bytes(b"x")
            heard = {event[2] for event in inotify.read() if event[0] == "E"}

        assert heard == {b"x/b/text", b"x/b/sub/text", b"c/b/text"}

    def test_watches_what_was_exchanged(self, tmp_path: Path) -> None:
        for name in ("a", "b"):
            (tmp_path / name / "sub").mkdir(parents=True)
        with inotify_on(tmp_path) as inotify:
            fd = os.open(tmp_path, os.O_RDONLY)
            renameat2(fd, b"a", fd, b"b", EXCHANGE)
            os.close(fd)
            inotify.read()
            for path in ("a/text", "a/sub/text", "b/text", "b/sub/text"):
                (tmp_path / path).write_bytes(b"x")
            heard = [event[2] for event in inotify.read() if event[0] == "E"]

        assert set(heard) == {b"a/text", b"a/sub/text", b"b/text", b"b/sub/text"}

    def test_counts_a_directory_rename_as_one_event(self, tmp_path: Path) -> None:
        (tmp_path / "d/e").mkdir(parents=True)
        with inotify_on(tmp_path) as inotify:
            (tmp_path / "d").rename(tmp_path / "x")
            (tmp_path / "x/e/f").touch()
            events = inotify.read()

        assert events[0] == ("M", True, b"d", b"x")
        assert {e[-1] for e in events[1:]} == {b"x/e/f"}
        assert all(not e[1] & DIRECTORY for e in events[1:])


class TestTroubles:
    """What the brain is told of stays so until it is told otherwise."""

    @pytest.fixture
    def troubled(self, bench: Bench) -> Bench:
        (bench.root / "d/m").mkdir(parents=True)
        (bench.root / "d/x").mkdir()
        bench.hear(("N", b"d/m"), ("X", 13, b"d/x"))
        assert self.troubles(bench) == {("mount", b"d/m"): True, ("unreadable", b"d/x"): True}
        return bench

    def troubles(self, bench: Bench) -> dict[tuple[str, bytes], bool]:
        return {(m.code, m.path): bool(m.message) for m in bench.work() if isinstance(m, Trouble)}

    @pytest.mark.parametrize("path", ["d", "d/m"])
    def test_end_with_the_path(self, troubled: Bench, path: str) -> None:
        (troubled.root / path).rename(troubled.root.parent / "out")
        troubled.hear(("E", MOVED_OUT | DIRECTORY, os.fsencode(path)))

        assert self.troubles(troubled)["mount", b"d/m"] is False

    def test_end_when_nothing_is_mounted_there_any_more(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Of which nobody tells: what was asked for in vain is looked at again."""
        (bench.root / "f").write_bytes(b"x")
        whole = bench.filter._looker.look

        def fail(*args: Any, **options: Any) -> Any:
            raise OSError(errno.EXDEV, "Invalid cross-device link")

        monkeypatch.setattr(bench.filter._looker, "look", fail)
        for _ in bench.filter.look(0, [b"f"]):
            pass
        assert self.troubles(bench) == {("mount", b"f"): True}
        bench.work(20)
        monkeypatch.setattr(bench.filter._looker, "look", whole)
        sent = bench.work(20)

        assert [(m.code, m.message) for m in sent if isinstance(m, Trouble)] == [("mount", "")]

    def test_end_with_a_scan_that_does_not_tell_of_them_again(self, troubled: Bench) -> None:
        troubled.filter.rescan()
        troubled.hear(("D", False, b"0" * 16, 0, b""), ("N", b"d/m"), ("S", 1, 0, 0))
        assert self.troubles(troubled) == {("unreadable", b"d/x"): False}

        troubled.hear(("D", False, b"0" * 16, 0, b""), ("S", 1, 0, 0))
        assert self.troubles(troubled) == {("mount", b"d/m"): False}

    def test_go_along_with_a_rename(self, troubled: Bench) -> None:
        (troubled.root / "d").rename(troubled.root / "e")
        troubled.hear(("M", True, b"d", b"e"))
        told = self.troubles(troubled)

        assert told["mount", b"d/m"] is False
        assert told["mount", b"e/m"] is True

    def test_end_where_a_directory_is_renamed_to_an_ignored_name(self, troubled: Bench) -> None:
        (troubled.root / "d").rename(troubled.root / "no")
        troubled.hear(("M", True, b"d", b"no"))

        assert self.troubles(troubled) == {("mount", b"d/m"): False, ("unreadable", b"d/x"): False}
