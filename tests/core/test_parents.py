"""Nothing is agreed in a directory that is not agreed itself, whatever became of that."""

from __future__ import annotations

from psync.core.archive import Archive
from psync.core.entry import Entry, Kind, Side, content_digest
from psync.core.events import (
    Intend,
    Intent,
    Said,
    Send,
    SideUp,
)
from psync.core.session import Session
from psync.wire import (
    APPLIED,
    FAILED,
    Apply,
    Digests,
    Item,
    Listing,
    Outcome,
    Results,
    Scanned,
)
from tests.support.rows import MemoryRows

ROOT = Entry(Kind.DIRECTORY, 0o755, 0, 0, 0, 1, b"", b"", 1, 0)


def directory(ino: int, mtime: int) -> Entry:
    return Entry(Kind.DIRECTORY, 0o755, 0, 0, 0, mtime, b"", b"", ino, 0)


def file(ino: int, mode: int) -> Entry:
    return Entry(Kind.FILE, mode, 0, 0, 3, 5, b"", content_digest(b"abc"), ino, ino)


class Meeting:
    """Two sides that meet with `d/f`, of which the left refuses what `d` is to become."""

    def __init__(self, *intents: Intent) -> None:
        self.archive = Archive(MemoryRows())
        history = [Intend(list(intents), [])] if intents else []
        self.session = Session(self.archive, history=history)
        for side in Side:
            self.session.receive(SideUp(side), 0.0)
            self.session.receive(Said(side, Digests(1, [(b"", b"x"), (b"d", b"y")])), 0.0)
            self.session.receive(Said(side, Scanned(1, 2, 2, 0)), 0.0)
        self.session.commands(0.0)
        for side in Side:
            d = directory(10 + side, 100 - side)
            items = [Item(b"d", d)]
            self.session.receive(Said(side, Listing(b"", ROOT, b"", None, items)), 0.0)
        self.asked = self.answer(FAILED, 0.0)
        for side in Side:
            d = directory(10 + side, 100 - side)
            items = [Item(b"f", file(20 + side, 0o600 + side))]
            self.session.receive(Said(side, Listing(b"d", d, b"", None, items)), 0.0)

    def answer(self, status: int, now: float) -> list[bytes]:
        """Answer what the agents are asked to do; return the paths."""
        paths = []
        for command in self.session.commands(now):
            if isinstance(command, Send) and isinstance(command.message, Apply):
                outcomes = []
                for each in command.message.transitions:
                    paths.append(each.path)
                    made = each.expected if status == FAILED else each.wanted
                    if made is not None and each.expected is not None:
                        made = made._replace(ino=each.expected.ino, ctime_ns=each.op)
                    outcomes.append(Outcome(each.op, status, made, "no"))
                results = Results(command.message.batch, outcomes)
                self.session.receive(Said(command.side, results), now)
        return paths


class TestRefusedDirectory:
    def test_holds_what_is_in_it_until_it_is_agreed(self) -> None:
        meeting = Meeting()
        assert meeting.asked == [b"d"]

        assert meeting.answer(APPLIED, 0.01) == []
        assert meeting.archive.get(b"d/f") is None

        later = meeting.session.deadline()
        assert later is not None
        assert meeting.answer(APPLIED, later) == [b"d"]
        assert meeting.answer(APPLIED, later) == [b"d/f"]
        meeting.session.commands(later)
        agreed = meeting.archive.get(b"d/f")
        assert agreed is not None
        assert agreed.mode == 0o600

    def test_holds_what_an_earlier_run_made_in_it(self) -> None:
        made = file(0, 0o601)._replace(ctime_ns=0)
        meeting = Meeting(Intent(b"d/f", Side.RIGHT, made, file(20, 0o601)))

        assert meeting.answer(APPLIED, 0.01) == []

        assert meeting.archive.get(b"d/f") is None
