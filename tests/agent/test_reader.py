"""An agent that may only look: what it tells, and that it does nothing."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from psync import wire
from psync.core.entry import Kind, content_digest
from psync.reader import Reader
from psync.wire import (
    AUDIT_CREDIT,
    BLOCK_MAX,
    UNREADABLE,
    Apply,
    Block,
    CloseSource,
    Credit,
    Fatal,
    Flush,
    List_,
    Listing,
    Look,
    Observed,
    OpenSource,
    Ping,
    Pong,
    Read,
    Ready,
    Recall,
    Rescan,
    Stage,
    Sync,
    Trouble,
    Unstage,
    Watch,
    listing_weight,
)
from tests.agent.test_agent import NORMAL, Brain, put, start_message


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "root"
    (path / "d/e").mkdir(parents=True)
    (path / "d/f").write_bytes(b"content")
    (path / "d/link").symlink_to("f")
    (path / "a").touch()
    (path / ".psync").mkdir()
    (path / ".psync/marker").write_text("pair\nleft\n")
    return path


@pytest.fixture
def agent(root: Path, programs: list[Path]) -> Iterator[Brain]:
    """A brain with an agent that audits a root."""
    made = Brain(NORMAL)
    ready = made.greet(start_message(root, audit=True, excludes=["own"]))
    assert isinstance(ready, Ready), ready
    assert ready.marker_pair == "pair"
    yield made
    made.end()


def stats(root: Path) -> dict[str, tuple[int, ...]]:
    found = {}
    for path in (root, *root.rglob("*")):
        st = path.lstat()
        found[str(path)] = (st.st_ino, st.st_mode, st.st_mtime_ns, st.st_ctime_ns, st.st_nlink)
    return found


def listed(brain: Brain, path: bytes) -> list[Listing]:
    """All of the listing of a directory."""
    brain.say(List_([path]))
    parts = [brain.until(Listing)]
    while parts[-1].upto is not None:
        brain.say(Credit(listing_weight(parts[-1].items)))
        parts.append(brain.until(Listing))
    return parts


class TestLooking:
    def test_changes_nothing_at_all(self, agent: Brain, root: Path) -> None:
        before = stats(root)
        listed(agent, b"")
        listed(agent, b"d")
        agent.say(Look(2, [b"d/f"]), Look(0, [b"a"]), Read(b"d/f", 0), Ping(7))
        agent.until(Block)
        agent.end()

        assert stats(root) == before

    def test_lists_names_in_order_with_what_they_are(self, agent: Brain, root: Path) -> None:
        (root / "own").touch()
        (root / "x.psync.ignore").touch()
        os.mkfifo(root / "fifo")
        (top,), (inner,) = listed(agent, b""), listed(agent, b"d")

        assert [item.path for item in top.items] == [b"a", b"d"]
        assert [(item.path, item.entry and item.entry.kind) for item in inner.items] == [
            (b"e", Kind.DIRECTORY),
            (b"f", Kind.FILE),
            (b"link", Kind.SYMLINK),
        ]
        assert (inner.after, inner.upto) == (b"", None)
        assert inner.entry is not None and inner.entry.ino == (root / "d").stat().st_ino

    def test_says_of_what_is_gone_that_it_is(self, agent: Brain) -> None:
        for path in (b"nothing", b"a", b"d/link"):
            assert listed(agent, path) == [Listing(path, None, b"", None, [])]
        agent.say(Look(0, [b"nothing", b"d/link/x", b"own"]))
        items = agent.until(Observed).items

        assert [item.entry for item in items] == [None, None, None]

    def test_digests_content_and_tells_state(self, agent: Brain, root: Path) -> None:
        agent.say(Look(2, [b"d/f", b"d", b"d/link"]))
        items = agent.until(Observed).items
        agent.say(Look(0, [b"d/f", b"d"]))
        states = agent.until(Observed).items

        assert [item.path for item in items] == [b"d/f", b"d", b"d/link"]
        assert items[0].entry is not None
        assert items[0].entry.digest == content_digest(b"content")
        assert [item.entry.digest for item in states if item.entry] == [b"", b""]
        assert states[0].entry == items[0].entry._replace(digest=b"")

    def test_reads_a_file_in_parts(self, agent: Brain, root: Path) -> None:
        content = os.urandom(BLOCK_MAX + 10)
        (root / "large").write_bytes(content)
        parts = []
        for at in (0, BLOCK_MAX, BLOCK_MAX + 10):
            agent.say(Read(b"large", at))
            block = agent.until(Block)
            assert (block.path, block.at, block.message) == (b"large", at, "")
            assert block.entry is not None and block.entry.size == len(content)
            parts.append(block.content)

        assert b"".join(parts) == content
        assert len(parts[0]) == BLOCK_MAX
        agent.say(Read(b"d/link", 0), Read(b"gone", 0))
        link, gone = agent.until(Block), agent.until(Block)
        assert link.entry is not None and link.entry.target == b"f" and link.content == b""
        assert gone == Block(b"gone", 0, None, b"")

    def test_takes_no_lock_and_needs_none(self, root: Path, programs: list[Path]) -> None:
        with (root / ".psync/lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # as the session's own agent
            brain = Brain(NORMAL)
            try:
                assert isinstance(brain.greet(start_message(root, audit=True)), Ready)
                assert len(listed(brain, b"")) == 1
            finally:
                brain.end()
        assert (root / ".psync/lock").read_text() == ""

    def test_works_in_a_root_that_was_never_psyncs(
        self, tmp_path: Path, programs: list[Path]
    ) -> None:
        bare = tmp_path / "bare"
        bare.mkdir()
        (bare / "f").touch()
        brain = Brain(NORMAL)
        try:
            assert isinstance(brain.greet(start_message(bare, audit=True)), Ready)
            (all_of_it,) = listed(brain, b"")
        finally:
            brain.end()

        assert [item.path for item in all_of_it.items] == [b"f"]
        assert os.listdir(bare) == ["f"]

    def test_goes_on_answering_while_listings_wait_for_credit(
        self, agent: Brain, root: Path
    ) -> None:
        (root / "many").mkdir()
        for i in range(3000):
            (root / f"many/{i:0200}").touch()
        agent.say(List_([b"many"] * 20))
        said = 0
        while said < AUDIT_CREDIT:
            said += listing_weight(agent.until(Listing).items)
        agent.say(Look(0, [b"a"]), Ping(9))
        kinds = {type(agent.hear()), type(agent.hear())}

        assert kinds == {Observed, Pong}
        with pytest.raises(TimeoutError):
            agent.hear(0.3)
        agent.say(Credit(said))
        assert isinstance(agent.hear(), Listing)

    def test_ends_when_the_root_is_another(self, agent: Brain, root: Path) -> None:
        root.rename(root.with_name("moved"))
        root.mkdir()
        agent.say(List_([b""]))
        fatal = agent.hear()

        assert isinstance(fatal, Fatal)
        assert fatal.code == "root-lost"


class TestRefusing:
    @pytest.mark.parametrize(
        "message",
        [
            Watch("pair"),
            Apply(1, [put(b"new", b"x")]),
            OpenSource(1, []),
            CloseSource(1),
            Stage(1, [], []),
            Unstage(1),
            Sync(1),
            Flush(1),
            Rescan(),
            Recall(1, wire.DROP, b"x"),
        ],
        ids=lambda message: type(message).__name__,
    )
    def test_whatever_changes_something(self, agent: Brain, root: Path, message: Any) -> None:
        before = stats(root)
        agent.say(message)
        fatal = agent.hear()

        assert isinstance(fatal, Fatal)
        assert f"an audit does not say {type(message).__name__}" in fatal.message
        assert agent.process.wait(10) == 1
        assert stats(root) == before

    @pytest.mark.parametrize("path", [b"../x", b"/etc", b".psync/marker", b"a//b", b"a\0"])
    @pytest.mark.parametrize("kind", [List_, Look, Read])
    def test_paths_that_cannot_be(self, agent: Brain, path: bytes, kind: type) -> None:
        agent.say(
            Look(0, [path]) if kind is Look else List_([path]) if kind is List_ else Read(path, 0)
        )
        fatal = agent.hear()

        assert isinstance(fatal, Fatal)
        assert "a path that cannot be" in fatal.message


def as_user(act: Callable[[], None]) -> None:
    """Do something as a user whom modes keep out."""
    if os.geteuid() != 0:
        act()
        return
    os.seteuid(54321)
    try:
        act()
    finally:
        os.seteuid(0)


class TestClosed:
    def read(self, root: Path) -> tuple[Reader, list[Any]]:
        said: list[Any] = []
        fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        return Reader(fd, start_message(root, owners=False, audit=True), said.append), said

    @pytest.fixture
    def closed(self, tmp_path: Path) -> Iterator[Path]:
        for above in (tmp_path, *tmp_path.parents):
            if above.stat().st_uid == os.geteuid() and above != Path("/"):
                above.chmod(above.stat().st_mode | 0o011)
        root = tmp_path / "root"
        (root / "d").mkdir(parents=True)
        (root / "f").write_text("secret")
        root.chmod(0o755)
        for path in (root / "d", root / "f"):
            path.chmod(0)
        yield root
        (root / "d").chmod(0o700)

    def test_is_no_absence(self, closed: Path) -> None:
        reader, said = self.read(closed)

        def act() -> None:
            for _ in reader.list_([b"", b"d"]):
                pass
            said.extend(reader.look(2, [b"f", b"d"], lambda: False))
            said.append(reader.read(b"f", 0))

        as_user(act)
        top, trouble, inner, looked, block = said
        assert [item.path for item in top.items] == [b"d", b"f"]
        assert trouble == Trouble("unreadable", b"d", "Permission denied")
        assert inner == Listing(b"d", None, b"", None, [])
        assert looked.items[0].flags == UNREADABLE
        assert looked.items[0].entry.size == 6
        assert looked.items[1].entry.kind == Kind.DIRECTORY
        assert block == Block(b"f", 0, None, b"", "Permission denied")

    def test_directory_may_show_names_and_no_more(self, closed: Path) -> None:
        (closed / "d").chmod(0o700)
        (closed / "d/x").touch()
        (closed / "d").chmod(0o444)
        reader, said = self.read(closed)

        def act() -> None:
            for _ in reader.list_([b"d"]):
                pass
            said.extend(reader.look(0, [b"d/x"], lambda: False))

        as_user(act)
        trouble, inner, again, looked = said
        assert trouble == again == Trouble("unreadable", b"d/x", "Permission denied")
        assert inner.items == [wire.Item(b"x", None, None, b"", UNREADABLE)]
        assert looked.items == [wire.Item(b"d/x", None, None, b"", UNREADABLE)]

    def test_reader_stops_when_nobody_listens(self, closed: Path) -> None:
        reader, _ = self.read(closed)

        assert list(reader.look(0, [b"f"], lambda: True)) == []
        assert list(reader.look(2, [b"f"], lambda: True)) == []


class TestChanging:
    def test_file_is_not_read_in_two_versions(
        self, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        reader = Reader(fd, start_message(root, audit=True), lambda message: None)
        pread = os.pread

        def written(fd: int, size: int, at: int) -> bytes:
            content = pread(fd, size, at)
            os.utime(root / "d/f")
            return content

        monkeypatch.setattr(os, "pread", written)
        block = reader.read(b"d/f", 0)
        (observed,) = reader.look(2, [b"d/f"], lambda: False)

        assert (block.content, block.message) == (b"", "it changes all the time")
        assert isinstance(observed, Observed)
        assert observed.items[0].flags == wire.BUSY
        os.close(fd)
