"""How a session stands, how its sides come and go, and what it keeps itself from doing.

`Duo` is what the tests of the session's parts play with: a session, and for each side a
`Hand` that does what an agent would do when told to, or what a test makes it say instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from psync.core.archive import Archive
from psync.core.entry import (
    META_FIELDS,
    ROOT,
    Entry,
    Kind,
    Side,
    ancestors,
    below_or_at,
    content_digest,
    directory_digest,
    parent,
    split,
)
from psync.core.events import (
    Command,
    Event,
    FullSync,
    Intend,
    Intent,
    Limits,
    Note,
    Paused,
    Problem,
    Resumed,
    Retry,
    Said,
    Send,
    SideDown,
    SideUp,
    State,
    Transfer,
)
from psync.core.ignore import Ignore
from psync.core.pending import LASTING_ATTEMPTS
from psync.core.reconcile import Verb, View, agree
from psync.core.replica import Link
from psync.core.session import STATES, Session
from psync.wire import (
    APPLIED,
    BUSY,
    CHANGED,
    DATABASE,
    DELETE,
    FAILED,
    IN_USE,
    META,
    META_ONLY,
    NO_PARENT,
    NOT_EMPTY,
    PUT,
    RENAME,
    RMDIR,
    Apply,
    Credit,
    Digests,
    Item,
    List_,
    Listing,
    Look,
    Message,
    Observed,
    Rescan,
    Results,
    Scanned,
    Transition,
    Trouble,
)
from psync.wire import Outcome as OutcomeOf
from tests.support.replica import directory, file, link
from tests.support.rows import MemoryRows

LEFT, RIGHT = Side.LEFT, Side.RIGHT
TINY = Limits(inline_max=8)  # a file of more bytes is transferred

Tree = dict[bytes, "bytes | Entry | None"]


class Hand:
    """One side: what is there, and the answers that an honest agent gives.

    Attributes:
        tree: what is there; digests are not, they are what a read brings.
        content: the bytes of the files.
        inbox: what it was sent and has not answered.
        holds: what the file system makes of an entry.
    """

    def __init__(self, side: Side) -> None:
        self.side = side
        self.tree: dict[bytes, Entry] = {}
        self.content: dict[bytes, bytes] = {}
        self.inbox: list[Message] = []
        self.holds: Callable[[Entry], Entry] = lambda entry: entry
        self.generation = 0
        self._ino = 1000 * (side + 1)
        self._ctime = 0

    # --- what users do -------------------------------------------------------------------

    def make(self, path: bytes, what: bytes | Entry | None, **fields: Any) -> Entry:
        """Let something be at a path anew: a file's bytes, None for a directory, or an entry."""
        self._ino += 1
        entry = what if isinstance(what, Entry) else directory() if what is None else file(what)
        if isinstance(what, bytes):
            self.content[path] = what
        return self._at(path, entry._replace(ino=self._ino, **fields))

    def edit(self, path: bytes, content: bytes | None = None, **fields: Any) -> Entry:
        """Change what is there in its place."""
        entry = self.tree[path]._replace(**fields)
        if content is not None:
            self.content[path] = content
            entry = entry._replace(size=len(content))
        return self._at(path, entry)

    def remove(self, path: bytes) -> None:
        """Let nothing be there, nor below."""
        for each in [p for p in self.tree if below_or_at(p, path)]:
            del self.tree[each]
            self.content.pop(each, None)

    def rename(self, old: bytes, new: bytes) -> None:
        self.remove(new)
        for each in [p for p in self.tree if below_or_at(p, old)]:
            path = new + each[len(old) :]
            self.tree[path] = self.tree.pop(each)
            if each in self.content:
                self.content[path] = self.content.pop(each)
        self._at(new, self.tree[new])

    def clock(self, ctime_ns: int) -> None:
        """Let the next change be later than that."""
        self._ctime = ctime_ns

    def _at(self, path: bytes, entry: Entry) -> Entry:
        self._ctime += 1
        ctime = 0 if entry.kind == Kind.DIRECTORY else self._ctime
        self.tree[path] = self.holds(entry)._replace(digest=b"", ctime_ns=ctime)
        return self.tree[path]

    # --- what an agent says --------------------------------------------------------------

    def item(self, path: bytes, *, read: bool = True, moved_from: bytes = b"", flags: int = 0):
        entry, content = self.tree.get(path), None
        if read and path in self.content:
            content = self.content[path]
            entry = self.digested(path)
        return Item(path, entry, content, moved_from, flags)

    def digested(self, path: bytes) -> Entry:
        return self.tree[path]._replace(digest=content_digest(self.content[path]))

    def children(self, path: bytes) -> list[tuple[bytes, Entry]]:
        found = [(split(p)[1], e) for p, e in self.tree.items() if p and parent(p) == path]
        return sorted(found)

    def listing(self, path: bytes) -> Listing:
        own = directory() if path == ROOT else self.tree.get(path)
        if own is None or own.kind != Kind.DIRECTORY:
            return Listing(path, None, b"", None, [])
        return Listing(path, own, b"", None, [Item(n, e) for n, e in self.children(path)])

    def scan(self) -> list[Message]:
        self.generation += 1
        directories = [ROOT, *sorted(p for p, e in self.tree.items() if e.kind == Kind.DIRECTORY)]
        digests = [
            (path, directory_digest(self.tree.get(path, directory()), self.children(path)))
            for path in directories
        ]
        return [
            Digests(self.generation, digests),
            Scanned(self.generation, len(digests), len(self.tree), 0),
        ]

    def answers(self, message: Message) -> list[Message]:
        if isinstance(message, List_):
            return [self.listing(path) for path in message.paths]
        if isinstance(message, Look):
            return [Observed([self.look(path, message.want) for path in message.paths])]
        if isinstance(message, Apply):
            return [Results(message.batch, [self.apply(each) for each in message.transitions])]
        if isinstance(message, Rescan):
            return self.scan()
        assert isinstance(message, Credit)
        return []

    def look(self, path: bytes, want: int) -> Item:
        if want == 2 and path in self.content:
            return Item(path, self.digested(path))
        return self.item(path, read=want == 1)

    def apply(self, transition: Transition) -> OutcomeOf:
        """Do it if everything is as expected; a test that wants another answer gives it itself."""
        op, verb, path, _, wanted = transition[:5]
        refused = self._refusal(transition)
        if refused is not None:
            return OutcomeOf(op, refused, self.tree.get(path))
        if verb in (DELETE, RMDIR):
            self.remove(path)
            return OutcomeOf(op, APPLIED, None)
        assert wanted is not None
        if verb == RENAME:
            self.rename(transition.source, path)
            return OutcomeOf(op, APPLIED, self.tree[path])
        if verb == META or (wanted.kind == Kind.DIRECTORY and self.is_directory(path)):
            made = self.edit(path, **{f: getattr(wanted, f) for f in META_FIELDS})
            return OutcomeOf(op, APPLIED, made, unmet=not made.same_meta(wanted))
        assert verb == PUT
        self.remove(path)
        if wanted.kind == Kind.FILE:
            staged = transition.content is None
            self.content[path] = b"?" * wanted.size if staged else transition.content
        made = self.make(path, wanted)._replace(digest=wanted.digest)
        return OutcomeOf(op, APPLIED, made, unmet=not made.same_meta(wanted))

    def _refusal(self, transition: Transition) -> int | None:
        verb, path, expected = transition.verb, transition.path, transition.expected
        if verb == RENAME:
            if not _is(self.tree.get(transition.source), transition.source_expected):
                return CHANGED
        if parent(path) and not self.is_directory(parent(path)):
            return NO_PARENT
        wanted = transition.wanted
        is_there = wanted is not None and wanted.kind == Kind.DIRECTORY and self.is_directory(path)
        if not _is(self.tree.get(path), expected) and not (
            verb == PUT and expected is None and is_there
        ):
            return CHANGED
        removed = verb == RMDIR or (
            verb == PUT and wanted is not None and wanted.kind != Kind.DIRECTORY
        )
        return NOT_EMPTY if removed and self.children(path) else None

    def is_directory(self, path: bytes) -> bool:
        entry = self.tree.get(path)
        return entry is not None and entry.kind == Kind.DIRECTORY


def is_credit(command: Command) -> bool:
    return isinstance(command, Send) and isinstance(command.message, Credit)


def _is(there: Entry | None, expected: Entry | None) -> bool:
    if there is None or expected is None:
        return there is expected
    return there.same_identity(expected)


class Duo:
    """A session between two hands; time passes only when told to.

    Args:
        agreed: what both sides hold and have agreed on; directories above are made.
        limits: the session's.
        start: bring both sides up and compare them.
        options: the session's.
    """

    def __init__(
        self,
        agreed: Tree | None = None,
        limits: Limits = TINY,
        *,
        start: bool = True,
        **options: Any,
    ) -> None:
        self.now = 1000.0
        self.rows = MemoryRows()
        self.archive = Archive(self.rows)
        self.hands = (Hand(LEFT), Hand(RIGHT))
        self.left, self.right = self.hands
        self.commands: list[Command] = []
        for path, what in (agreed or {}).items():
            for above in reversed([p for p in ancestors(path) if p]):
                if self.archive.get(above) is None:
                    self._agree(above, None)
            self._agree(path, what)
        self.session = Session(self.archive, limits, **options)
        if start:
            self.start()

    def _agree(self, path: bytes, what: bytes | Entry | None) -> None:
        left, right = (hand.make(path, what) for hand in self.hands)
        wanted = left._replace(digest=content_digest(what) if isinstance(what, bytes) else b"")
        self.archive.put(path, agree(wanted, left, right))

    # --- driving -------------------------------------------------------------------------

    def receive(self, *events: Event) -> None:
        for event in events:
            self.session.receive(event, self.now)
        self.pump()

    def pump(self) -> None:
        for command in self.session.commands(self.now):
            self.commands.append(command)
            if isinstance(command, Send):
                self.hands[command.side].inbox.append(command.message)

    def wait(self) -> None:
        """Let the time come that the session waits for."""
        deadline = self.session.deadline()
        assert deadline is not None
        self.now = max(self.now, deadline)
        self.pump()

    def up(self, side: Side, *, rebooted: bool = False, cut_ns: int = 0) -> None:
        self.hands[side].inbox.clear()
        self.hands[side].generation = 0
        self.receive(SideUp(side, rebooted, cut_ns=cut_ns))

    def down(self, side: Side) -> None:
        self.hands[side].inbox.clear()
        self.receive(SideDown(side))

    def start(self) -> None:
        for side in Side:
            self.up(side)
            self.say(side, *self.hands[side].scan())
        self.run()

    def say(self, side: Side, *messages: Message) -> None:
        self.receive(*(Said(side, message) for message in messages))

    def see(self, side: Side, *paths: bytes, **how: Any) -> None:
        """Let an agent tell what is at paths now."""
        self.say(side, Observed([self.hands[side].item(path, **how) for path in paths]))

    def obey(self, side: Side, *kinds: type) -> None:
        """Let an agent answer what it has been sent, all of it or of some kinds."""
        hand = self.hands[side]
        inbox = [m for m in hand.inbox if not kinds or isinstance(m, kinds)]
        hand.inbox = [m for m in hand.inbox if m not in inbox]
        for message in inbox:
            self.say(side, *hand.answers(message))

    def do_unheard(self) -> None:
        """Let the agents do everything that they have been sent, and say nothing."""
        for hand in self.hands:
            for message in hand.inbox:
                hand.answers(message)
            hand.inbox.clear()

    def run(self) -> None:
        """Let both agents answer until they are asked nothing more."""
        for _ in range(1000):
            if not any(hand.inbox for hand in self.hands):
                return
            for side in Side:
                self.obey(side)
        raise AssertionError("it never comes to rest")

    def run_until(self, side: Side, kind: type) -> None:
        """Let both agents answer until one is sent a message of a kind."""
        for _ in range(1000):
            if self.asked(side, kind):
                return
            for each in Side:
                self.obey(each, List_, Look)
        raise AssertionError("it never comes")

    def settle(self) -> None:
        """Let everything happen that will happen by itself."""
        self.run()
        for _ in range(100):
            if self.session.deadline() is None:
                return
            self.wait()
            self.run()
        raise AssertionError("its problems do not go away")

    def reply(self, side: Side, status: int, message: str = "", kept: bytes = b"") -> None:
        """Let an agent do nothing of the next batch, and say why."""
        hand = self.hands[side]
        batch = next(m for m in hand.inbox if isinstance(m, Apply))
        hand.inbox.remove(batch)
        outcomes = [
            OutcomeOf(t.op, status, hand.tree.get(t.path), message, kept) for t in batch.transitions
        ]
        self.say(side, Results(batch.batch, outcomes))

    # --- what users do, told at once -------------------------------------------------------

    def write(self, side: Side, path: bytes, content: bytes, **fields: Any) -> None:
        if path in self.hands[side].tree:
            self.hands[side].edit(path, content, **fields)
        else:
            self.hands[side].make(path, content, **fields)
        self.see(side, path)

    def delete(self, side: Side, path: bytes) -> None:
        self.hands[side].remove(path)
        self.see(side, path)

    def move(self, side: Side, old: bytes, new: bytes, flags: int = META_ONLY) -> None:
        hand = self.hands[side]
        hand.rename(old, new)
        told = [hand.item(new, read=False, moved_from=old, flags=flags), hand.item(old)]
        self.say(side, Observed(told))

    # --- what came of it -------------------------------------------------------------------

    def asked(self, side: Side, kind: type) -> list[Any]:
        """The messages of a kind that a side has not answered."""
        return [m for m in self.hands[side].inbox if isinstance(m, kind)]

    def transitions(self, side: Side) -> list[Transition]:
        return [t for batch in self.asked(side, Apply) for t in batch.transitions]

    def sent(self) -> list[Transition]:
        """All transitions that were ever sent."""
        messages = [c.message for c in self.commands if isinstance(c, Send)]
        return [
            t for message in messages if isinstance(message, Apply) for t in message.transitions
        ]

    def listed(self, side: Side) -> list[bytes]:
        return [path for message in self.asked(side, List_) for path in message.paths]

    def looked(self, side: Side) -> list[tuple[int, bytes]]:
        return [(m.want, path) for m in self.asked(side, Look) for path in m.paths]

    def transfers(self) -> list[Transfer]:
        return [c for c in self.commands if isinstance(c, Transfer)]

    def notes(self, event: str) -> list[Note]:
        return [c for c in self.commands if isinstance(c, Note) and c.event == event]

    def log(self) -> list[Intend]:
        """What a later start is given."""
        return [c for c in self.commands if isinstance(c, Intend)]

    def intents(self) -> list[Intent]:
        return [i for c in self.commands if isinstance(c, Intend) for i in c.intents]

    def shape(self, side: Side) -> Tree:
        """What users see: the bytes of files, None for directories, else what a link says."""
        hand = self.hands[side]
        return {
            path: hand.content.get(path, None if e.kind == Kind.DIRECTORY else e.target)
            for path, e in sorted(hand.tree.items())
        }

    def assert_rest(self) -> None:
        """Both sides hold the same, it is agreed, and nothing is kept in memory."""
        self.settle()

        assert self.shape(LEFT) == self.shape(RIGHT)
        assert {k: v for k, v in self.session.remains().items() if v} == {}
        for path, entry in self.left.tree.items():
            base = self.archive.get(path)
            assert base is not None
            assert (base.left_ino, base.right_ino) == (entry.ino, self.right.tree[path].ino)
        assert self.archive.count == len(self.left.tree)


class TestState:
    @pytest.mark.parametrize("low", Link)
    @pytest.mark.parametrize("high", Link)
    def test_is_in_the_table_for_all_pairs_of_links(self, low: Link, high: Link) -> None:
        assert ((low, high) in STATES) == (low <= high)

    def test_follows_the_sides(self) -> None:
        duo = Duo(start=False)
        states = [duo.session.state]
        for event in (SideUp(LEFT), SideDown(LEFT), SideUp(LEFT), SideUp(RIGHT)):
            duo.receive(event)
            states.append(duo.session.state)

        assert states == [
            State.STARTING,
            State.STARTING,
            State.DISCONNECTED,
            State.STARTING,
            State.SCANNING,
        ]

    def test_is_scanning_until_what_was_found_is_listed(self) -> None:
        duo = Duo(start=False)
        for side in Side:
            duo.up(side)
            duo.say(side, *duo.hands[side].scan())

        assert duo.session.state is State.SCANNING
        assert duo.session.status()["pending"] == 2

        duo.run()

        assert duo.session.state is State.WATCHING

    def test_is_disconnected_while_a_side_is_down(self) -> None:
        duo = Duo({b"f": b"one"})

        duo.down(RIGHT)
        duo.write(LEFT, b"f", b"two")

        assert duo.session.state is State.DISCONNECTED
        assert duo.session.deadline() is None
        assert not duo.session.is_ready(RIGHT)
        assert not duo.right.inbox

    def test_of_everything_is_plain_values(self) -> None:
        duo = Duo({b"d/f": b"one"})

        assert duo.session.status() == {
            "state": "watching",
            "pending": 0,
            "in_flight": 0,
            "conflicts": 0,
            "problems": 0,
            "agreed": 2,
            "halted": "",
        }
        assert duo.session.is_ready(LEFT)
        assert duo.session.entries(LEFT) == 2
        assert duo.session.in_flight() == Intend([], [])

    def test_counts_what_was_brought_to_a_side_and_what_is_new_there(self) -> None:
        duo = Duo({b"d/f": b"one"})
        duo.write(LEFT, b"g", b"two")
        duo.run()

        assert [duo.session.entries(side) for side in (LEFT, RIGHT)] == [3, 3]

        duo.receive(Paused())
        duo.write(LEFT, b"h", b"three")
        duo.delete(RIGHT, b"g")

        assert [duo.session.entries(side) for side in (LEFT, RIGHT)] == [4, 2]

    def test_counts_what_stays_on_a_side(self) -> None:
        duo = Duo({b"f": b"one"})
        digests, scanned = duo.left.scan()
        assert isinstance(scanned, Scanned)

        duo.say(LEFT, digests)
        duo.say(LEFT, scanned._replace(local=3))

        assert [duo.session.local(side) for side in (LEFT, RIGHT)] == [3, 0]

    def test_counts_at_least_what_was_scanned_while_much_is_new(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("psync.core.session._COUNTED_MAX", 1)
        duo = Duo({b"d/f": b"one"})
        duo.receive(Paused())
        for name in (b"1", b"2"):
            duo.write(LEFT, name, name)

        assert duo.session.entries(LEFT) == 2


class TestSides:
    def test_that_hold_what_was_agreed_are_asked_for_the_root_only(self) -> None:
        duo = Duo({b"d/e/f": b"one"}, start=False)
        for side in Side:
            duo.up(side)
            duo.say(side, *duo.hands[side].scan())

        assert duo.listed(LEFT) == duo.listed(RIGHT) == [ROOT]
        duo.assert_rest()

    def test_that_differ_are_asked_for_the_directories_that_do(self) -> None:
        duo = Duo({b"a/f": b"one", b"b/f": b"one"}, start=False)
        duo.left.edit(b"b/f", b"two")
        for side in Side:
            duo.up(side)
            duo.say(side, *duo.hands[side].scan())

        assert duo.listed(LEFT) == [ROOT, b"b"]
        assert duo.listed(RIGHT) == [ROOT]
        duo.assert_rest()
        assert duo.right.content[b"b/f"] == b"two"

    def test_meet_for_the_first_time_and_hold_the_same(self) -> None:
        duo = Duo(start=False)
        for hand in duo.hands:
            hand.make(b"d", None)
            hand.make(b"d/f", b"one")
        assert not duo.session.met
        duo.start()

        duo.assert_rest()
        assert duo.session.met
        assert duo.session.applied == [0, 0]  # equal size and time: equal

    def test_that_met_before_are_compared_by_digest(self) -> None:
        duo = Duo(start=False, met=True)
        duo.left.make(b"f", b"one")
        duo.right.make(b"f", b"two")
        for side in Side:
            duo.up(side)
            duo.say(side, *duo.hands[side].scan())
        for side in Side:
            duo.obey(side)

        assert duo.looked(LEFT) == duo.looked(RIGHT) == [(2, b"f")]
        duo.run()
        assert duo.shape(LEFT) == duo.shape(RIGHT)
        assert duo.session.applied == [0, 1]

    def test_are_asked_again_when_they_come_back(self) -> None:
        duo = Duo({b"f": b"one", b"g": b"one"})
        duo.down(RIGHT)
        duo.write(LEFT, b"f", b"two")
        duo.right.edit(b"g", b"six")
        duo.up(RIGHT)
        assert duo.session.state is State.SCANNING
        duo.say(RIGHT, *duo.right.scan())

        duo.assert_rest()
        assert duo.shape(LEFT) == {b"f": b"two", b"g": b"six"}

    def test_take_back_what_waited_for_room_when_one_goes(self, monkeypatch) -> None:
        monkeypatch.setattr("psync.core.plan.OPS_MAX", 1)
        duo = Duo()
        duo.write(LEFT, b"a", b"1")
        duo.write(LEFT, b"b", b"2")
        assert [t.path for t in duo.transitions(RIGHT)] == [b"a"]

        duo.down(RIGHT)
        duo.up(RIGHT)
        duo.say(RIGHT, *duo.right.scan())

        duo.assert_rest()
        assert duo.shape(RIGHT) == {b"a": b"1", b"b": b"2"}

    def test_keep_news_that_waits_for_room_in_its_order(self, monkeypatch) -> None:
        monkeypatch.setattr("psync.core.plan.OPS_MAX", 1)
        duo = Duo()
        for name in (b"a", b"b", b"c"):
            duo.write(LEFT, name, name)
        order = []
        while duo.right.inbox:
            order += [t.path for t in duo.transitions(RIGHT)]
            duo.obey(RIGHT)

        assert order == [b"a", b"b", b"c"]
        duo.assert_rest()

    def test_are_not_listed_on_while_there_is_too_much_news(self, monkeypatch) -> None:
        duo = Duo({b"d/f": b"one"}, start=False)
        duo.left.edit(b"d/f", b"two")
        for side in Side:
            duo.up(side)
            duo.say(side, *duo.hands[side].scan())
        monkeypatch.setattr("psync.core.session._BACKLOG_MAX", 0)
        asked = duo.listed(LEFT)
        duo.obey(LEFT)

        assert asked == [ROOT, b"d"]
        assert duo.listed(LEFT) == []


class TestFullSync:
    def test_finds_what_nobody_has_told(self) -> None:
        duo = Duo({b"d/f": b"one", b"d/g": b"one", b"e/h": b"one"})
        duo.left.edit(b"d/f", b"two")
        duo.right.remove(b"d/g")
        duo.right.remove(b"e/h")
        duo.right.remove(b"e")
        duo.left.make(b"n", None)
        duo.left.make(b"n/new", b"new")

        duo.receive(FullSync())

        assert duo.session.is_comparing_all
        duo.assert_rest()
        assert not duo.session.is_comparing_all
        assert duo.shape(RIGHT) == {b"d": None, b"d/f": b"two", b"n": None, b"n/new": b"new"}

    @pytest.mark.parametrize("begun", [False, True])
    def test_lets_everything_else_go_on(self, begun: bool) -> None:
        duo = Duo({b"d/f": b"one", b"g": b"one"})
        duo.receive(FullSync())
        if begun:
            for side in Side:
                duo.say(side, duo.hands[side].scan()[0])
        duo.write(LEFT, b"d/f", b"two")
        duo.delete(RIGHT, b"g")

        assert duo.session.state is State.WATCHING
        assert [t.path for t in duo.transitions(RIGHT)] == [b"d/f"]
        assert [t.path for t in duo.transitions(LEFT)] == [b"g"]
        duo.obey(LEFT, Apply)
        assert b"g" not in duo.left.tree
        if begun:
            for side in Side:
                duo.say(side, Scanned(duo.hands[side].generation, 1, len(duo.left.tree), 0))
                duo.hands[side].inbox = [
                    m for m in duo.hands[side].inbox if not isinstance(m, Rescan)
                ]
        duo.assert_rest()
        assert duo.shape(RIGHT) == {b"d": None, b"d/f": b"two"}

    def test_looks_again_where_there_is_news(self) -> None:
        """What began it may have been an agent that has lost events: then news may be old."""
        duo = Duo({b"d/f": b"one"})
        before = duo.left.tree[b"d/f"]
        duo.left.edit(b"d/f", b"two")
        duo.see(LEFT, b"d/f", flags=BUSY)
        duo.left.tree[b"d/f"], duo.left.content[b"d/f"] = before, b"one"

        duo.receive(FullSync())
        duo.obey(LEFT, Rescan)

        assert duo.listed(LEFT) == [ROOT, b"d"]
        duo.assert_rest()

    def test_keeps_what_is_to_be_listed_already(self) -> None:
        duo = Duo({b"d/f": b"one"})
        duo.left.make(b"n", None)
        duo.left.make(b"n/x", b"x")
        duo.see(LEFT, b"n")  # nobody has told what is in it
        assert [m.paths for m in duo.asked(LEFT, List_)] == [[b"n"]]
        duo.receive(FullSync())
        duo.say(LEFT, duo.left.scan()[0])

        assert b"n" in duo.session._replicas[LEFT].survey.pending
        duo.say(LEFT, Scanned(duo.left.generation, 1, len(duo.left.tree), 0))
        duo.left.inbox = [m for m in duo.left.inbox if not isinstance(m, Rescan)]
        duo.assert_rest()
        assert duo.right.content[b"n/x"] == b"x"

    def test_compares_all_that_it_was_told_of_one_by_one(self) -> None:
        """Large trees are told of in many messages, and nothing else may be to be listed."""
        names = [b"d%d" % i for i in range(5)]
        duo = Duo({name + b"/f": b"one" for name in names})
        for name in names:
            duo.left.edit(name + b"/f", b"two")
        duo.receive(FullSync())
        digests, scanned = duo.left.scan()
        for each in digests.directories:
            duo.say(LEFT, Digests(digests.generation, [each]))
        duo.say(LEFT, scanned)
        duo.left.inbox = [m for m in duo.left.inbox if not isinstance(m, Rescan)]

        duo.assert_rest()
        assert set(duo.right.content.values()) == {b"two"}

    def test_asks_no_side_twice_nor_one_that_is_scanned_anyway(self) -> None:
        duo = Duo({b"f": b"one"}, start=False)
        duo.up(LEFT)
        duo.say(LEFT, *duo.left.scan())
        duo.up(RIGHT)

        duo.receive(FullSync(), FullSync())

        assert duo.asked(LEFT, Rescan) == [Rescan()]
        assert duo.asked(RIGHT, Rescan) == []
        duo.say(RIGHT, *duo.right.scan())
        duo.assert_rest()

    def test_of_an_empty_tree_is_one_too(self) -> None:
        duo = Duo()
        duo.receive(FullSync())

        for side in Side:
            duo.say(side, Scanned(2, 1, 0, 0))

        assert duo.session.state is State.SCANNING  # the root is listed in any case
        duo.hands[LEFT].inbox = [m for m in duo.left.inbox if not isinstance(m, Rescan)]
        duo.hands[RIGHT].inbox = [m for m in duo.right.inbox if not isinstance(m, Rescan)]
        duo.assert_rest()

    def test_is_over_for_a_side_that_goes(self) -> None:
        duo = Duo({b"f": b"one"})
        duo.receive(FullSync())
        duo.down(RIGHT)
        duo.up(RIGHT)
        duo.say(RIGHT, *duo.right.scan())

        duo.assert_rest()
        assert not duo.session.is_comparing_all

    def test_deletes_nothing_uncounted(self) -> None:
        files = {b"d/%d" % i: b"x" for i in range(300)}
        duo = Duo(dict(files))
        for path in files:
            duo.left.remove(path)

        duo.receive(FullSync())
        duo.settle()

        assert duo.session.state is State.HALTED
        assert "has lost 300 of 301 entries" in duo.session.halted
        assert duo.shape(RIGHT) == {b"d": None, **files}


class TestHiding:
    """Other rules for what is replicated, while a session runs."""

    def test_leaves_both_sides_what_they_have(self) -> None:
        duo = Duo({b"cache/x": b"1", b"cache/d/y": b"2", b"f": b"one"})

        assert duo.session.hide(Ignore(["cache/"])) == 4
        duo.pump()
        duo.left.remove(b"cache/x")
        duo.see(LEFT, b"cache/x")  # it was on its way
        duo.run()

        assert duo.archive.get(b"cache") is None
        assert b"cache/x" in duo.right.tree
        assert duo.sent() == []
        assert {k: v for k, v in duo.session.remains().items() if v} == {}

    def test_asks_for_no_scan(self) -> None:
        duo = Duo({b"cache/x": b"1", b"f": b"one"})

        duo.session.hide(Ignore(["cache"]))
        duo.pump()

        assert duo.left.inbox == duo.right.inbox == []
        assert duo.session.state is State.WATCHING

    @pytest.mark.parametrize("status", [APPLIED, CHANGED])
    def test_forgets_what_is_just_being_done(self, status: int) -> None:
        duo = Duo({b"cache/x": b"1", b"f": b"one"})
        duo.write(LEFT, b"cache/x", b"2")
        duo.write(LEFT, b"cache/new", b"3")
        duo.write(LEFT, b"f", b"two")
        assert len(duo.transitions(RIGHT)) == 3

        duo.session.hide(Ignore(["cache"]))
        if status == CHANGED:
            duo.right.edit(b"cache/x", b"4")
        duo.run()

        assert duo.archive.get(b"cache") is None
        assert duo.archive.get(b"cache/new") is None
        assert duo.session.settled(duo.session.mark())
        assert {k: v for k, v in duo.session.remains().items() if v} == {}

    def test_forgets_what_was_still_to_be_done(self) -> None:
        duo = Duo({b"cache/x": b"1", b"f": b"one", b"d/g": b"one", b"d/h": b"h", b"e": None})
        duo.receive(Paused())
        duo.write(LEFT, b"cache/x", b"2")
        duo.write(RIGHT, b"cache/x", b"3")
        duo.delete(LEFT, b"f")
        duo.move(LEFT, b"d/g", b"cache/g")
        duo.left.make(b"cache/n", None)
        duo.see(LEFT, b"cache/n")  # what is in it is to be listed
        duo.say(LEFT, Trouble("unreadable", b"cache/m", "Permission denied"))
        duo.say(LEFT, Trouble("unreadable", b"d", "Permission denied"))
        duo.move(RIGHT, b"d/h", b"e/h")

        duo.session.hide(Ignore(["cache"]))
        assert b"cache/n" not in duo.session._replicas[LEFT].survey.pending
        assert [path for _, _, path, _ in duo.session.troubles()] == [b"d"]
        duo.say(LEFT, duo.left.listing(b"cache/n"), Trouble("unreadable", b"d", ""))
        duo.receive(Resumed())
        duo.settle()

        assert duo.right.content[b"cache/x"] == b"3"
        assert b"f" not in duo.right.tree
        assert b"d/g" not in duo.right.tree  # it has gone from where it was seen
        assert b"cache/g" not in duo.right.tree
        assert b"e/h" in duo.left.tree
        assert {k: v for k, v in duo.session.remains().items() if v} == {}

    @pytest.mark.parametrize(("old", "new"), [(b"cache/x", b"d/x"), (b"d/x", b"cache/x")])
    def test_forgets_a_rename_on_its_way(self, old: bytes, new: bytes) -> None:
        duo = Duo({old: b"1", b"cache/y": b"2", b"d/y": b"2"})
        duo.move(LEFT, old, new)
        assert [t.verb for t in duo.transitions(RIGHT)] == [RENAME]

        duo.session.hide(Ignore(["cache"]))
        duo.settle()

        assert duo.archive.get(b"cache") is None
        assert (b"d/x" in duo.right.tree) is (new == b"d/x")
        assert duo.left.content.get(b"d/x") == duo.right.content.get(b"d/x")
        assert {k: v for k, v in duo.session.remains().items() if v} == {}

    @pytest.mark.parametrize(("old", "new"), [(b"cache/m", b"d/m"), (b"d/m", b"cache/m")])
    def test_forgets_a_rename_of_a_directory_that_all_talk_waits_for(
        self, old: bytes, new: bytes
    ) -> None:
        duo = Duo({old + b"/f": b"1", b"cache/y": b"2", b"d/y": b"2"})
        duo.move(LEFT, old, new)
        duo.write(LEFT, b"d/y", b"3")
        assert duo.session._replicas[LEFT].turning == new

        duo.session.hide(Ignore(["cache"]))
        duo.settle()

        assert duo.right.content[b"d/y"] == b"3"
        assert (b"d/m/f" in duo.right.tree) is (new == b"d/m")
        assert duo.left.content.get(b"d/m/f") == duo.right.content.get(b"d/m/f")
        assert {k: v for k, v in duo.session.remains().items() if v} == {}

    def test_keeps_news_of_what_has_taken_the_place_of_a_directory(self) -> None:
        """It is not hidden, and nobody tells of it again."""
        duo = Duo({b"c": None})
        duo.receive(Paused())
        duo.left.remove(b"c")
        duo.write(LEFT, b"c", b"a file")

        duo.session.hide(Ignore(["c/"]))
        duo.receive(Resumed())
        duo.run()
        assert duo.right.tree[b"c"].kind == Kind.DIRECTORY
        duo.session.hide(Ignore())
        duo.delete(RIGHT, b"c")
        duo.settle()

        assert duo.right.content[b"c"] == b"a file"
        duo.assert_rest()

    @pytest.mark.parametrize("told", ["listed", "observed", "looked at"])
    def test_takes_a_directory_that_is_hidden_for_the_end_of_what_was_there(
        self, told: str
    ) -> None:
        """Its agent had not heard of the rules when it told of it, and does so no more."""
        duo = Duo({b"c": b"a file"})
        duo.left.remove(b"c")
        duo.left.make(b"c", None)
        if told == "looked at":
            duo.session._pair.look(LEFT, b"c", 0)
        duo.session.hide(Ignore(["c/"]))
        if told == "listed":
            duo.say(LEFT, duo.left.listing(b"c"))
        else:
            duo.see(LEFT, b"c")
        duo.run()

        assert b"c" not in duo.right.tree
        assert duo.archive.get(b"c") is None
        assert {k: v for k, v in duo.session.remains().items() if v} == {}

    def test_takes_no_rename_that_it_made_for_an_edit_when_rules_have_come_between(self) -> None:
        """Two were exchanged, and exchanged back once one of the names was hidden."""
        duo = Duo({b"a": b"one", b"b": b"two"})

        def exchange() -> None:
            for old, new in ((b"b", b"t"), (b"a", b"b"), (b"t", b"a")):
                duo.right.rename(old, new)

        pairs = ((b"a", b"b"), (b"b", b"a"))
        exchange()
        moved = [duo.right.item(new, read=False, moved_from=old) for old, new in pairs]
        duo.say(RIGHT, Observed(moved))
        assert [(t.path, t.source) for t in duo.transitions(LEFT)] == [(b"b", b"a")]
        duo.session.hide(Ignore(["a"]))
        exchange()
        duo.see(RIGHT, b"b")
        duo.settle()

        assert duo.left.content[b"b"] == duo.right.content[b"b"]
        assert duo.right.content[b"b"] == b"two" or any(t.keep for t in duo.sent())

    def test_learns_nothing_of_what_is_at_a_hidden_path_that_is_no_directory(self) -> None:
        duo = Duo({b"c": b"a file"})
        duo.session.hide(Ignore(["c/"]))
        duo.say(LEFT, Listing(b"c", None, b"", None, []))
        duo.run()

        assert duo.right.content[b"c"] == b"a file"
        duo.assert_rest()

    def test_shows_again_what_a_rename_has_taken_to_where_it_was_hidden(self) -> None:
        """What has become of it since has not been told."""
        duo = Duo({b"d/x": b"1"})
        duo.session.hide(Ignore(["/c/x"]))
        duo.move(LEFT, b"d", b"c")
        duo.run()
        assert b"c/x" in duo.right.tree
        duo.left.remove(b"c/x")

        duo.session.hide(Ignore())
        duo.see(RIGHT, b"c/x")
        duo.settle()

        assert duo.left.content[b"c/x"] == b"1"
        duo.assert_rest()

    def test_gives_up_to_empty_a_directory_of_it(self) -> None:
        duo = Duo({b"cache/d/x": b"1", b"cache/d/y": b"2"})
        duo.delete(LEFT, b"cache/d/x")
        duo.delete(LEFT, b"cache/d")

        duo.session.hide(Ignore(["cache"]))
        duo.settle()

        assert {k: v for k, v in duo.session.remains().items() if v} == {}

    def test_is_no_loss_that_a_session_halts_for(self) -> None:
        files = [b"cache/%d" % i for i in range(300)] + [b"d/%d" % i for i in range(150)]
        duo = Duo(dict.fromkeys(files, b"x"))
        duo.delete(LEFT, b"d/0")
        duo.run()

        duo.session.hide(Ignore(["cache"]))
        for i in range(1, 60):
            duo.delete(LEFT, b"d/%d" % i)
        duo.settle()

        assert duo.session.halted == ""
        assert b"d/59" not in duo.right.tree

    def test_makes_the_deletions_that_were_being_counted(self) -> None:
        files = [b"d/%d" % i for i in range(200)]
        duo = Duo(dict.fromkeys(files, b"x"))
        for path in files[:60]:
            duo.delete(LEFT, path)
        duo.run()
        assert files[59] in duo.right.tree  # so many at once are counted first

        duo.session.hide(Ignore(["cache"]))
        duo.pump()
        duo.settle()

        assert files[59] not in duo.right.tree
        duo.assert_rest()

    def test_shows_again_what_is_told(self) -> None:
        duo = Duo({b"cache/x": b"1"})
        duo.session.hide(Ignore(["cache"]))
        duo.left.edit(b"cache/x", b"2")

        duo.session.hide(Ignore())
        for side in Side:
            duo.say(side, duo.hands[side].listing(b"cache"))
        duo.assert_rest()


    @pytest.mark.parametrize("before", ["deletion", "edit", "creation"])
    def test_shows_again_what_is_told_while_something_is_still_being_done_there(
        self, before: str
    ) -> None:
        """Who is done with it has no say any more in whether it is replicated."""
        duo = Duo({} if before == "creation" else {b"x": b"1"})
        if before == "deletion":
            duo.delete(LEFT, b"x")
        else:
            duo.write(LEFT, b"x", b"2")
        assert len(duo.transitions(RIGHT)) == 1

        duo.session.hide(Ignore(["x"]))
        duo.session.hide(Ignore())
        duo.write(LEFT, b"x", b"3")  # and is told as all is that comes out
        duo.run()
        duo.see(RIGHT, b"x")

        duo.assert_rest()
        assert duo.shape(RIGHT) == {b"x": b"3"}


class TestAdoption:
    """A start that is to take both sides for equal, and knows of nothing that was agreed."""

    def met(self) -> Duo:
        duo = Duo(limits=Limits(compare=False), start=False)
        for hand in duo.hands:
            hand.make(b"d", None)
            hand.make(b"d/same", b"same")
            hand.make(b"d/mode", b"mode")
            hand.make(b"d/bytes", b"left")
        duo.left.edit(b"d/mode", mode=0o600)
        duo.right.edit(b"d/bytes", b"right")
        duo.left.make(b"only", b"left")
        return duo

    def test_agrees_on_what_is_the_same_and_leaves_the_rest(self) -> None:
        duo = self.met()
        duo.start()

        assert duo.sent() == []
        assert duo.session.state is State.WATCHING
        assert [duo.archive.get(p) is not None for p in (b"d", b"d/same", b"d/mode")] == [True] * 3
        assert duo.archive.get(b"d/bytes") is duo.archive.get(b"only") is None
        assert {k: v for k, v in duo.session.remains().items() if v} == {}

        duo.delete(RIGHT, b"d/same")
        duo.write(LEFT, b"only", b"now")
        duo.run()
        assert b"d/same" not in duo.left.tree
        assert duo.right.content[b"only"] == b"now"

    @pytest.mark.parametrize("early", [False, True])
    def test_replicates_what_is_touched_meanwhile(self, early: bool) -> None:
        duo = self.met()
        for side in Side:
            duo.up(side)
            duo.say(side, *duo.hands[side].scan())
        if early:
            duo.write(LEFT, b"only", b"now")
        duo.obey(LEFT)
        if not early:
            duo.write(LEFT, b"only", b"now")
        duo.left.make(b"new", None)
        duo.left.make(b"new/f", b"new")
        duo.see(LEFT, b"new")  # what is in it is asked for
        duo.run()

        assert duo.right.content[b"only"] == b"now"
        assert duo.right.content[b"new/f"] == b"new"
        assert duo.right.content[b"d/bytes"] == b"right"


class TestWould:
    @pytest.mark.parametrize("meta_from", [None, LEFT])
    def test_decide_of_what_is_only_thought_of(self, meta_from: Side | None) -> None:
        duo = Duo({b"f": b"one"}, Limits(meta_from=meta_from))
        base = duo.archive.get(b"f")
        assert base is not None

        decision = duo.session.would(b"f", View(None), View(base.on(RIGHT), True))

        assert (decision.verb, decision.source) == (Verb.REMOVE, LEFT)
        duo.assert_rest()


class TestOtherLimits:
    def test_decide_what_waits_for_a_word(self) -> None:
        duo = Duo({b"f": b"one"}, Limits(ask=True))
        duo.write(LEFT, b"f", b"two")
        duo.write(RIGHT, b"f", b"three")
        duo.settle()
        assert [path for path, _, _ in duo.session.asked()] == [b"f"]

        duo.session.take_over(Limits(favoured=RIGHT))
        duo.pump()

        duo.assert_rest()
        assert duo.left.content[b"f"] == b"three"

    def test_count_by_what_is_said_now(self) -> None:
        duo = Duo({b"%d" % i: b"x" for i in range(10)})
        duo.session.take_over(Limits(max_delete=2))
        for i in range(5):
            duo.delete(LEFT, b"%d" % i)
        duo.settle()

        assert duo.session.state is State.HALTED


class TestReboot:
    def test_takes_the_archive_back_and_scans_the_other_side_anew(self) -> None:
        duo = Duo({b"f": b"one"})
        duo.archive.freeze()
        duo.archive.commit()
        duo.write(LEFT, b"new", b"two")
        duo.run()
        assert duo.archive.get(b"new") is not None

        duo.down(RIGHT)
        duo.right.remove(b"new")  # the power failed, and it had not been written
        duo.up(RIGHT, rebooted=True)

        assert duo.archive.get(b"new") is None
        assert duo.asked(LEFT, Rescan) == [Rescan()]
        duo.say(RIGHT, *duo.right.scan())
        duo.assert_rest()
        assert duo.shape(RIGHT) == {b"f": b"one", b"new": b"two"}

    def after_cut(self, side: Side, agreed: bool, ctime_ns: int, left: bytes = b"") -> Duo:
        """A side shows a file of which a power cut has left the name; only the other has it."""
        duo = Duo({b"f": b"one"} if agreed else {})
        if agreed:
            duo.archive.freeze()
            duo.archive.commit()
        else:
            duo.write(side.other, b"f", b"one", mtime_ns=7)
            duo.run()
        duo.down(side)
        duo.hands[side].edit(b"f", left, mtime_ns=7)
        duo.hands[side].tree[b"f"] = duo.hands[side].tree[b"f"]._replace(ctime_ns=ctime_ns)
        duo.up(side, rebooted=True, cut_ns=1000)
        for each in (side, side.other):
            duo.say(each, *duo.hands[each].scan())
        return duo

    @pytest.mark.parametrize("side", Side)
    @pytest.mark.parametrize("agreed", [False, True], ids=["x03 made", "x06 edited"])
    def test_takes_no_file_that_was_emptied_for_an_edit(self, side: Side, agreed: bool) -> None:
        duo = self.after_cut(side, agreed, 999)
        duo.run()

        duo.assert_rest()
        assert duo.shape(LEFT) == {b"f": b"one"}
        (put,) = [t for t in duo.sent() if t.keep]
        assert (put.path, put.expected is not None and put.expected.size) == (b"f", 0)

    @pytest.mark.parametrize("side", Side)
    def test_x03_takes_no_copy_of_ours_that_holds_zeros_for_an_edit(self, side: Side) -> None:
        duo = self.after_cut(side, False, 999, b"\0\0\0")
        duo.run()

        duo.assert_rest()
        assert duo.shape(LEFT) == {b"f": b"one"}
        assert [t.path for t in duo.sent() if t.keep] == [b"f"]

    @pytest.mark.parametrize("side", Side)
    def test_gives_no_metadata_to_a_file_that_was_emptied(self, side: Side) -> None:
        duo = self.after_cut(side, True, 999)
        duo.hands[side].clock(5000)  # what is set now is later than the cut
        duo.hands[side.other].edit(b"f", mode=0o600)
        duo.see(side.other, b"f", read=False, flags=META_ONLY)
        duo.assert_rest()

        assert duo.shape(LEFT) == {b"f": b"one"}
        assert {hand.tree[b"f"].mode for hand in duo.hands} == {0o600}

    @pytest.mark.parametrize("side", Side)
    def test_lets_content_of_a_file_only_come_back(self, side: Side) -> None:
        duo = Duo(start=False)
        duo.hands[side].make(b"f", b"", mtime_ns=8)
        duo.hands[side.other].make(b"f", link(b"there"), mtime_ns=7)
        duo.up(side, cut_ns=1000)
        duo.up(side.other)
        for each in Side:
            duo.say(each, *duo.hands[each].scan())

        duo.assert_rest()
        assert duo.shape(side.other) == {b"f": b""}

    @pytest.mark.parametrize("side", Side)
    def test_takes_what_is_emptied_since_for_an_edit(self, side: Side) -> None:
        duo = self.after_cut(side, True, 1001)
        duo.run()

        duo.assert_rest()
        assert duo.shape(LEFT) == {b"f": b""}

    def test_asks_nothing_of_a_side_that_is_not_there(self) -> None:
        duo = Duo()
        duo.write(LEFT, b"f", b"one")
        duo.run()
        for side in Side:
            duo.down(side)
        duo.left.inbox.clear()

        duo.up(RIGHT, rebooted=True)

        assert duo.archive.get(b"f") is None
        assert duo.left.inbox == []

    def test_asks_nothing_where_nothing_could_be_lost(self) -> None:
        duo = Duo({b"f": b"one"})
        duo.archive.freeze()
        duo.archive.commit()
        duo.down(RIGHT)

        duo.up(RIGHT, rebooted=True)

        assert duo.asked(LEFT, Rescan) == []

    def test_voids_what_is_under_way_to_the_other_side(self) -> None:
        duo = Duo()
        duo.write(RIGHT, b"f", b"one")
        assert [t.path for t in duo.transitions(LEFT)] == [b"f"]
        duo.down(RIGHT)
        duo.right.remove(b"f")
        sent = duo.left.inbox
        duo.up(RIGHT, rebooted=True)
        duo.left.inbox = [m for m in sent if m not in duo.left.inbox] + duo.left.inbox
        assert duo.session.in_flight() == Intend([], [])
        duo.obey(LEFT)

        assert duo.archive.get(b"f") is None  # applied, and still no proof of the other side
        duo.say(RIGHT, *duo.right.scan())
        duo.assert_rest()
        assert duo.shape(RIGHT) == {b"f": b"one"}


class TestPause:
    def test_lets_nothing_begin_and_forgets_nothing(self) -> None:
        duo = Duo({b"f": b"one"})
        duo.receive(Paused())
        duo.write(LEFT, b"f", b"two")
        assert duo.session.state is State.PAUSED
        assert duo.session.deadline() is None
        assert duo.transitions(RIGHT) == []
        assert not duo.session.settled(duo.session.mark())

        duo.receive(Resumed())

        assert [t.path for t in duo.transitions(RIGHT)] == [b"f"]
        duo.assert_rest()


class TestSettled:
    def test_is_what_both_sides_hold(self) -> None:
        duo = Duo({b"f": b"one"})
        duo.write(LEFT, b"f", b"two")
        mark = duo.session.mark()
        assert not duo.session.settled(mark)

        duo.run()

        assert duo.session.settled(mark)

    def test_does_not_wait_for_what_came_later(self) -> None:
        duo = Duo({b"f": b"one"})
        duo.write(LEFT, b"f", b"two")
        mark = duo.session.mark()
        duo.write(LEFT, b"f", b"six")  # while the first is under way
        assert not duo.session.settled(mark)
        duo.obey(RIGHT)

        assert duo.session.settled(mark)
        assert not duo.session.settled(duo.session.mark())
        duo.assert_rest()
        assert duo.right.content[b"f"] == b"six"

    def test_tells_the_oldest_news_that_is_on_its_way(self) -> None:
        duo = Duo({b"f": b"one", b"g": b"one"})
        assert duo.session.oldest() is None
        duo.write(LEFT, b"f", b"two")
        mark = duo.session.mark()
        duo.write(LEFT, b"g", b"two")

        assert duo.session.oldest() == mark
        assert duo.session.on_the_way(1) == [b"f"]
        assert duo.session.on_the_way(3) == [b"f", b"g"]
        assert duo.session.status()["in_flight"] == 2

        duo.run()
        assert duo.session.oldest() is None
        assert duo.session.on_the_way(3) == []
        assert duo.session.status()["in_flight"] == 0

    def test_waits_for_listings_and_for_talk_that_waits(self) -> None:
        duo = Duo({b"d/f": b"one"})
        duo.say(LEFT, Observed([Item(b"d", None)]))
        duo.left.make(b"new", b"x")
        mark = duo.session.mark()
        duo.down(RIGHT)
        assert not duo.session.settled(mark)
        duo.up(RIGHT)
        duo.say(RIGHT, *duo.right.scan())

        assert duo.session.pending > 0
        assert not duo.session.settled(mark)
        assert duo.session.stuck(mark) == []


class TestStuck:
    def refuse(self, duo: Duo, status: int, times: int) -> None:
        """Let the right side answer so, again and again."""
        for attempt in range(times):
            duo.run_until(RIGHT, Apply)
            assert duo.session.stuck(duo.session.mark()) == []
            duo.reply(RIGHT, status, "no space left")
            duo.obey(RIGHT)
            if attempt < times - 1 and duo.session.deadline() is not None:
                duo.wait()

    def test_is_what_has_failed_often_and_all_that_waits_for_it(self) -> None:
        duo = Duo()
        for path, what in ((b"d", None), (b"d/f", b"x")):
            duo.left.make(path, what)
        duo.say(LEFT, duo.left.listing(b"d"))
        duo.see(LEFT, b"d/f")
        mark = duo.session.mark()
        self.refuse(duo, FAILED, LASTING_ATTEMPTS)

        assert not duo.session.settled(mark)
        assert [p.path for p in duo.session.stuck(mark)] == [b"d"]
        assert duo.session.stuck(0) == []
        assert duo.session.oldest() is None  # no news is on its way

        duo.receive(Retry())
        assert duo.session.stuck(mark) == []  # it may work this time

        duo.settle()
        assert duo.session.settled(mark)
        assert duo.session.stuck(mark) == []

    def test_is_nothing_while_other_paths_are_under_way(self) -> None:
        duo = Duo()
        duo.write(LEFT, b"f", b"x")
        self.refuse(duo, FAILED, LASTING_ATTEMPTS)
        duo.write(LEFT, b"g", b"y")

        assert duo.session.stuck(duo.session.mark()) == []
        duo.obey(RIGHT)
        assert [p.message for p in duo.session.stuck(duo.session.mark())] == ["no space left"]

    @pytest.mark.parametrize("status", [CHANGED, IN_USE])
    def test_is_not_what_passes_by_itself(self, status: int) -> None:
        duo = Duo({b"f": b"one"})
        duo.write(LEFT, b"f", b"x")
        self.refuse(duo, status, LASTING_ATTEMPTS)

        assert duo.session.problems() != []
        assert duo.session.stuck(duo.session.mark()) == []


class TestExplain:
    """What an audit is told of a path at which the sides differ."""

    def test_says_nothing_of_what_is_at_rest(self) -> None:
        duo = Duo({b"d/f": b"one"})

        assert duo.session.explain(b"d/f") == ("", "")
        assert duo.session.explain(b"nothing") == ("", "")

    def test_knows_what_is_on_its_way_and_what_is_in_it(self) -> None:
        duo = Duo({b"f": b"one"})
        duo.receive(Paused())
        duo.write(LEFT, b"f", b"two")
        duo.left.make(b"d", None)
        duo.see(LEFT, b"d")

        assert duo.session.explain(b"f") == ("pending", "")
        assert duo.session.explain(b"d/e/f") == ("pending", "")
        assert duo.session.explain(b"g") == ("", "")

    def test_knows_what_is_still_to_be_listed(self) -> None:
        duo = Duo({b"d/f": b"one"}, start=False)
        for side in Side:
            duo.up(side)
            duo.hands[side].edit(b"d", mode=0o700)
            duo.say(side, *duo.hands[side].scan())

        assert duo.session.explain(b"d/f") == ("pending", "")

    def test_names_a_problem(self) -> None:
        duo = Duo()
        duo.write(LEFT, b"f", b"x")
        TestStuck().refuse(duo, FAILED, LASTING_ATTEMPTS)

        assert duo.session.explain(b"f") == ("problem", "no space left")

    def test_names_a_question(self) -> None:
        word, message = TestAsked().rivals().session.explain(b"f")

        assert word == "asked"
        assert "psync conflicts --take" in message

    def test_names_what_cannot_be_observed(self) -> None:
        duo = Duo({b"d/f": b"one"})
        duo.say(RIGHT, Trouble("unreadable", b"d", "Permission denied"))

        assert duo.session.explain(b"d/f") == ("trouble", "right: Permission denied")
        assert duo.session.explain(b"f") == ("", "")


class TestWriters:
    def test_are_waited_for(self) -> None:
        duo = Duo({b"f": b"one"})
        duo.left.edit(b"f", b"half")
        duo.see(LEFT, b"f", read=False, flags=2)
        assert duo.transitions(RIGHT) == []
        assert duo.session.remains()["busy"] == 1
        duo.see(LEFT, b"f")

        duo.assert_rest()
        assert duo.right.content[b"f"] == b"half"

    def test_in_a_directory_that_has_gone_are_looked_for(self) -> None:
        duo = Duo({b"d/f": b"one"})
        duo.left.edit(b"d/f", b"half")
        duo.see(LEFT, b"d/f", read=False, flags=2)
        duo.left.remove(b"d")
        duo.see(LEFT, b"d")

        duo.assert_rest()
        assert duo.shape(RIGHT) == {}

    def test_are_waited_for_on_the_other_side_too(self) -> None:
        duo = Duo({b"d/f": b"one"})
        duo.right.edit(b"d/f", b"half")
        duo.see(RIGHT, b"d/f", read=False, flags=2)
        duo.write(LEFT, b"d/f", b"mine", mtime_ns=5)
        assert duo.transitions(RIGHT) == duo.transitions(LEFT) == []
        duo.see(RIGHT, b"d/f")

        duo.run()
        assert duo.shape(LEFT) == duo.shape(RIGHT) == {b"d": None, b"d/f": b"half"}

    def test_are_waited_for_though_only_metadata_has_changed_yet(self) -> None:
        duo = Duo({b"f": b"one"})
        duo.right.edit(b"f", mode=0o600)
        duo.see(RIGHT, b"f", read=False, flags=2 | META_ONLY)
        duo.write(LEFT, b"f", b"mine")
        assert duo.transitions(RIGHT) == duo.transitions(LEFT) == []
        duo.see(RIGHT, b"f", flags=META_ONLY)

        duo.assert_rest()
        assert duo.right.content[b"f"] == b"mine"
        assert duo.left.tree[b"f"].mode == 0o600

    def test_of_a_database_are_a_problem_until_it_is_closed(self) -> None:
        duo = Duo({b"f": b"one"})
        duo.left.edit(b"f", b"half")
        for _ in range(3):
            duo.see(LEFT, b"f", read=False, flags=BUSY | DATABASE)
            duo.wait()
        assert [(p.path, "database" in p.message) for p in duo.session.problems()] == [(b"f", True)]
        assert duo.transitions(RIGHT) == []
        duo.see(LEFT, b"f")

        duo.assert_rest()
        assert duo.right.content[b"f"] == b"half"


class TestPolicy:
    """What wins where both sides changed something."""

    @pytest.mark.parametrize("favoured", Side)
    @pytest.mark.parametrize("newer", Side)
    def test_lets_a_side_win_whatever_the_clocks_say(self, favoured: Side, newer: Side) -> None:
        duo = Duo({b"f": b"one"}, TINY._replace(favoured=favoured))
        duo.receive(Paused())
        for side in Side:
            duo.write(side, b"f", b"by %d" % side, mtime_ns=10**18 + (side == newer))
        duo.receive(Resumed())

        duo.assert_rest()
        assert duo.left.content[b"f"] == b"by %d" % favoured
        assert [t.keep for t in duo.sent()] == [True]

    @pytest.mark.parametrize("favoured", Side)
    @pytest.mark.parametrize("deleted", Side)
    def test_brings_an_edit_back_whoever_is_favoured(self, favoured: Side, deleted: Side) -> None:
        duo = Duo({b"f": b"one"}, TINY._replace(favoured=favoured))
        duo.receive(Paused())
        duo.delete(deleted, b"f")
        duo.write(deleted.other, b"f", b"two")
        duo.receive(Resumed())

        duo.assert_rest()
        assert duo.left.content == {b"f": b"two"}

    @pytest.mark.parametrize("favoured", Side)
    @pytest.mark.parametrize("directory", Side)
    def test_keeps_a_directory_whoever_is_favoured(self, favoured: Side, directory: Side) -> None:
        duo = Duo(limits=TINY._replace(favoured=favoured))
        duo.receive(Paused())
        duo.write(directory.other, b"p", b"file")
        duo.hands[directory].make(b"p", None)
        duo.hands[directory].make(b"p/x", b"inside")
        duo.see(directory, b"p", b"p/x")
        duo.receive(Resumed())

        duo.assert_rest()
        assert duo.left.content == {b"p/x": b"inside"}
        assert [t.keep for t in duo.sent() if t.path == b"p"] == [True]


class TestAsked:
    """A conflict that waits for a person's word."""

    def rivals(self, base: bytes | None = b"one") -> Duo:
        duo = Duo({b"f": base} if base is not None else {}, TINY._replace(ask=True))
        self.write(duo, b"by %d")
        return duo

    def write(self, duo: Duo, text: bytes) -> None:
        """Let both sides write before either hears of the other."""
        duo.receive(Paused())
        for side in Side:
            duo.write(side, b"f", text % side, mtime_ns=10**18 + side)
        duo.receive(Resumed())
        duo.settle()

    def waits(self, duo: Duo) -> bool:
        """Tell whether it waits, and both versions are where they were."""
        assert [path for path, _, _ in duo.session.asked()] in ([], [b"f"])
        return bool(duo.session.asked()) and duo.shape(LEFT) != duo.shape(RIGHT)

    @pytest.mark.parametrize("base", [b"one", None])
    def test_stays_as_it_is_on_both_sides(self, base: bytes | None) -> None:
        duo = self.rivals(base)

        assert self.waits(duo)
        assert duo.sent() == []
        assert duo.session.asked() == [
            (b"f", *(hand.digested(b"f") for hand in duo.hands)),
        ]
        assert duo.session.status()["conflicts"] == 1
        assert duo.session.status()["pending"] == 0
        (note,) = duo.notes("conflict.asked")
        assert note[1:3] == (None, b"f")

    def test_is_what_a_flush_names_and_waits_for_no_longer(self) -> None:
        duo = self.rivals()
        duo.write(LEFT, b"g", b"two")

        assert duo.session.stuck(duo.session.mark()) == []
        duo.run()
        assert not duo.session.settled(duo.session.mark())
        (problem,) = duo.session.stuck(duo.session.mark())
        assert problem.path == b"f"
        assert "psync conflicts --take" in problem.message
        assert duo.right.content[b"g"] == b"two"

    @pytest.mark.parametrize("side", Side)
    @pytest.mark.parametrize("base", [b"one", None])
    def test_is_won_by_the_side_that_is_taken(self, side: Side, base: bytes | None) -> None:
        duo = self.rivals(base)

        assert duo.session.take(b"f", side) == ""
        duo.pump()
        duo.assert_rest()
        assert duo.left.content[b"f"] == b"by %d" % side
        assert [t.keep for t in duo.sent()] == [True]
        assert duo.session.asked() == []

    def test_that_is_decided_is_no_news_to_who_has_decided(self) -> None:
        duo = self.rivals()
        duo.session.take(b"f", LEFT)
        duo.pump()
        duo.run_until(RIGHT, Apply)
        (transition,) = duo.transitions(RIGHT)
        (batch,) = duo.asked(RIGHT, Apply)
        duo.right.inbox.clear()
        outcome = duo.right.apply(transition)._replace(kept=b"0001")
        duo.say(RIGHT, Results(batch.batch, [outcome]))

        assert duo.session.conflicts() == [(RIGHT, b"f", b"0001")]
        assert duo.notes("conflict.kept") == []

    def test_of_large_files_is_won_by_the_side_that_is_taken(self) -> None:
        duo = Duo({b"f": b"one"}, TINY._replace(ask=True))
        self.write(duo, b"a large file by %d")
        assert duo.transfers() == []
        duo.session.take(b"f", LEFT)
        duo.pump()

        (transfer,) = duo.transfers()
        assert transfer.source == LEFT

    @pytest.mark.parametrize("side", Side)
    def test_is_asked_anew_if_one_is_edited_after_one_was_taken(self, side: Side) -> None:
        duo = self.rivals()
        duo.session.take(b"f", LEFT)
        duo.write(side, b"f", b"again", mtime_ns=10**18 + 7)
        duo.settle()

        assert self.waits(duo)
        assert duo.sent() == []

    def test_is_asked_anew_if_the_loser_is_edited_in_that_moment(self) -> None:
        duo = self.rivals()
        duo.session.take(b"f", LEFT)
        duo.pump()
        duo.right.edit(b"f", b"again", mtime_ns=10**18 + 7)
        duo.settle()

        assert self.waits(duo)
        assert duo.right.content[b"f"] == b"again"

    @pytest.mark.parametrize("side", Side)
    def test_is_over_when_one_is_deleted(self, side: Side) -> None:
        duo = self.rivals()
        duo.delete(side, b"f")

        duo.assert_rest()
        assert duo.left.content[b"f"] == b"by %d" % side.other
        assert [t.keep for t in duo.sent()] == [False]

    def test_is_over_when_both_are_equal(self) -> None:
        duo = self.rivals()
        duo.write(LEFT, b"f", b"by 1", mtime_ns=10**18 + 1)

        duo.assert_rest()
        assert duo.sent() == []

    def test_is_told_once_however_often_it_is_edited(self) -> None:
        duo = self.rivals()
        for text in (b"again", b"and once more", b"large enough to be compared"):
            duo.write(LEFT, b"f", text)
            duo.settle()
            duo.see(RIGHT, b"f", read=False)
            duo.settle()

        assert self.waits(duo)
        assert len(duo.notes("conflict.asked")) == 1

    def test_is_asked_again_after_a_restart(self) -> None:
        duo = self.rivals()
        duo.down(LEFT)
        duo.down(RIGHT)
        assert duo.session.take(b"f", LEFT) == "no conflict there waits for a word"
        duo.start()
        duo.settle()

        assert self.waits(duo)
        assert duo.sent() == []
        assert duo.session.take(b"f", LEFT) == ""
        duo.pump()
        duo.assert_rest()

    def test_keeps_nobody_else_from_going_on(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nor its content, nor its place among what may be listed before it is decided."""
        monkeypatch.setattr("psync.core.session._BACKLOG_MAX", 2)
        duo = self.rivals()
        given = sum(c.message.size for c in duo.commands if is_credit(c))
        assert given == 2 * len(b"by 0")

        duo.left.make(b"d", None)
        duo.left.make(b"d/g", b"two")
        duo.say(LEFT, *duo.left.scan())
        duo.settle()
        assert duo.right.content[b"d/g"] == b"two"
        assert self.waits(duo)

    @pytest.mark.parametrize("side", Side)
    def test_of_metadata_is_none(self, side: Side) -> None:
        duo = Duo({b"f": b"one"}, TINY._replace(ask=True))
        duo.receive(Paused())
        for each in Side:
            duo.hands[each].edit(b"f", mode=0o600 + each, mtime_ns=10**18 + (each == side))
            duo.see(each, b"f")
        duo.receive(Resumed())

        duo.assert_rest()
        assert duo.left.tree[b"f"].mode == 0o600 + side

    def test_of_what_was_a_directory_leaves_nothing_of_that_behind(self) -> None:
        """Each side has put a file in its place, one while what was in it was being removed."""
        duo = Duo({b"f/x": b"one"}, TINY._replace(ask=True))
        duo.left.remove(b"f")
        duo.write(LEFT, b"f", b"by 0")
        assert [t.path for t in duo.transitions(RIGHT)] == [b"f/x", b"f"]
        duo.right.remove(b"f")
        duo.write(RIGHT, b"f", b"by 1")
        duo.settle()

        assert self.waits(duo)
        assert duo.session.problems() == []
        assert duo.session.status()["pending"] == 0
        duo.session.take(b"f", RIGHT)
        duo.pump()
        duo.assert_rest()

    @pytest.mark.parametrize("mtime_ns", [10**18 - 1, 10**18 + 1], ids=["older", "newer"])
    def test_is_none_where_a_power_cut_has_emptied_a_file(self, mtime_ns: int) -> None:
        duo = Duo({b"f": b"one"}, TINY._replace(ask=True))
        duo.down(RIGHT)
        duo.right.edit(b"f", b"", mtime_ns=mtime_ns)
        duo.left.edit(b"f", b"two", mtime_ns=10**18)
        duo.see(LEFT, b"f")
        duo.up(RIGHT, cut_ns=10**19)
        duo.say(RIGHT, *duo.right.scan())

        duo.assert_rest()
        assert duo.left.content[b"f"] == b"two"


class TestAskedOfADirectory:
    """A directory against a file: nothing in it goes ahead."""

    @pytest.fixture(params=Side, ids=["left", "right"])
    def directory(self, request: pytest.FixtureRequest) -> Side:
        """The side where it is one."""
        return Side(request.param)

    @pytest.fixture(params=[None, b"one"], ids=["new", "agreed"])
    def duo(self, request: pytest.FixtureRequest, directory: Side) -> Duo:
        agreed = {} if request.param is None else {b"p": request.param}
        duo = Duo(agreed, TINY._replace(ask=True))
        duo.receive(Paused())
        duo.hands[directory].remove(b"p")
        for path, what in ((b"p", None), (b"p/d", None), (b"p/d/x", b"inside"), (b"p/y", b"too")):
            duo.hands[directory].make(path, what)
        duo.write(directory.other, b"p", b"file")
        duo.see(directory, b"p", b"p/d", b"p/d/x", b"p/y")
        duo.receive(Resumed())
        duo.settle()
        return duo

    def test_leaves_all_of_it_where_it_is(self, duo: Duo, directory: Side) -> None:
        assert [path for path, _, _ in duo.session.asked()] == [b"p"]
        assert duo.sent() == []
        assert duo.session.status()["pending"] == 0
        (problem,) = duo.session.stuck(duo.session.mark())
        assert problem.path == b"p"

    def test_takes_the_directory(self, duo: Duo, directory: Side) -> None:
        assert duo.session.take(b"p", directory) == ""
        duo.pump()

        duo.assert_rest()
        assert duo.left.content == {b"p/d/x": b"inside", b"p/y": b"too"}

    def test_takes_no_file_in_its_place(self, duo: Duo, directory: Side) -> None:
        refusal = duo.session.take(b"p", directory.other)

        assert refusal.startswith(f"on the {directory.name.lower()} it is a directory")
        duo.settle()
        assert duo.sent() == []

    def test_goes_on_when_the_file_is_renamed(self, duo: Duo, directory: Side) -> None:
        duo.move(directory.other, b"p", b"q")

        duo.assert_rest()
        assert duo.left.content == {b"p/d/x": b"inside", b"p/y": b"too", b"q": b"file"}

    def test_keeps_what_is_moved_into_it_where_it_was(self, duo: Duo, directory: Side) -> None:
        duo.write(directory, b"m", b"moved")
        duo.settle()
        sent = len(duo.sent())
        duo.move(directory, b"m", b"p/m")
        duo.settle()

        assert duo.hands[directory.other].content[b"m"] == b"moved"
        assert len(duo.sent()) == sent
        assert {p.path for p in duo.session.stuck(duo.session.mark())} == {b"p"}
        duo.session.take(b"p", directory)
        duo.pump()
        duo.assert_rest()
        assert duo.left.content[b"p/m"] == b"moved"

    @pytest.mark.parametrize("then", ["nothing", "a file"])
    def test_keeps_the_directory_that_something_was_moved_out_of(
        self, duo: Duo, directory: Side, then: str
    ) -> None:
        """Over there it is not empty, and nothing is wrong with that."""
        for path, what in ((b"e", None), (b"e/m", b"moved")):
            duo.hands[directory].make(path, what)
        duo.see(directory, b"e", b"e/m")
        duo.settle()
        duo.move(directory, b"e/m", b"p/m")
        if then == "a file":
            duo.hands[directory].remove(b"e")
            duo.write(directory, b"e", b"file")
        else:
            duo.delete(directory, b"e")
        duo.settle()

        assert duo.hands[directory.other].content[b"e/m"] == b"moved"
        assert duo.session.problems() == []
        assert duo.session.status()["pending"] == 0
        duo.session.take(b"p", directory)
        duo.pump()
        duo.assert_rest()
        assert duo.left.content.get(b"e") == (b"file" if then == "a file" else None)
        assert duo.left.content[b"p/m"] == b"moved"

    def test_keeps_no_file_waiting_that_was_renamed_from_there(self, directory: Side) -> None:
        """It waited for a writer of that file on the other side."""
        duo = Duo({b"a": b"one", b"c/a": b"two"}, TINY._replace(ask=True))
        writer = directory.other
        duo.hands[writer].edit(b"a", b"half")
        duo.see(writer, b"a", read=False, flags=BUSY)
        duo.move(directory, b"a", b"c/a")
        for path, what in ((b"a", None), (b"a/x", b"inside")):
            duo.hands[directory].make(path, what)
        duo.see(directory, b"a", b"a/x")
        assert duo.sent() == []
        duo.hands[writer].edit(b"a", b"whole")
        duo.see(writer, b"a")

        assert [(t.verb, t.path) for t in duo.sent()] == [(RENAME, b"c/a")]
        duo.assert_rest()
        assert duo.left.content == {b"c/a": b"whole", b"a/x": b"inside"}

    def test_keeps_nothing_trying_that_was_changed_in_it(self, directory: Side) -> None:
        """Over there a file has taken its place, and nobody has heard of that yet."""
        duo = Duo({b"p/x": b"one", b"p/y": b"one"}, TINY._replace(ask=True))
        duo.hands[directory.other].remove(b"p")
        duo.hands[directory.other].make(b"p", b"file")
        for path in (b"p/x", b"p/y"):
            duo.hands[directory].edit(path, mode=0o600)
            duo.see(directory, path, flags=META_ONLY, read=False)
        duo.settle()

        assert [path for path, _, _ in duo.session.asked()] == [b"p"]
        assert duo.session.problems() == []
        assert duo.session.status()["pending"] == 0
        assert duo.session.take(b"p", directory) == ""
        duo.pump()
        duo.assert_rest()
        assert duo.left.tree[b"p/x"].mode == duo.right.tree[b"p/y"].mode == 0o600

    def test_keeps_nothing_trying_far_below_when_a_side_comes_back(self, directory: Side) -> None:
        """Its scan shows only that the top is none any more."""
        duo = Duo({b"p/d/e/x": b"one"}, TINY._replace(ask=True))
        duo.receive(Paused())
        duo.hands[directory.other].remove(b"p")
        duo.write(directory.other, b"p", b"file")
        duo.write(directory, b"p/d/e/x", b"edited")
        duo.receive(Resumed())
        duo.settle()
        duo.down(directory.other)
        duo.up(directory.other)
        duo.say(directory.other, *duo.hands[directory.other].scan())
        duo.settle()

        assert [path for path, _, _ in duo.session.asked()] == [b"p"]
        assert duo.session.status()["pending"] == 0
        assert duo.session.take(b"p", directory) == ""
        duo.pump()
        duo.assert_rest()
        assert duo.left.content == {b"p/d/e/x": b"edited"}

    def test_ends_where_each_side_has_moved_one_into_the_other(self) -> None:
        """And both have put a file where theirs was: each is in the way of the other's rename."""
        duo = Duo({b"p/x": b"one", b"q/r/y": b"two"}, TINY._replace(ask=True))
        duo.receive(Paused())
        duo.left.edit(b"q/r", mode=0o700)
        duo.right.edit(b"p", mode=0o700)
        duo.see(LEFT, b"q/r")
        duo.see(RIGHT, b"p")
        duo.move(LEFT, b"p", b"q/r/p")
        duo.move(RIGHT, b"q/r", b"p/r")
        duo.write(LEFT, b"p", b"by left")
        duo.write(RIGHT, b"q/r", b"by right")
        duo.receive(Resumed())
        duo.settle()

        assert [path for path, _, _ in duo.session.asked()] == [b"p", b"q/r"]
        for path, side in ((b"p", RIGHT), (b"q/r", LEFT)):
            assert duo.session.take(path, side) == ""
            duo.pump()
        duo.assert_rest()
        assert sorted(duo.left.content.values()) == [b"one", b"two"]

    def test_is_the_only_problem_of_what_waits_for_it(self, duo: Duo, directory: Side) -> None:
        duo.session._pending.problems[b"p/y"] = Problem(b"p/y", directory, "full", 3, 0.0)
        assert duo.session.problems() == []

        duo.session._pending.problems[b"g"] = Problem(b"g", directory, "full", 3, 0.0)
        assert [problem.path for problem in duo.session.problems()] == [b"g"]

    def test_comes_back_with_what_is_new_in_it(self, directory: Side) -> None:
        """Here a directory was replaced, there something was made in it: that is no edit of one."""
        duo = Duo({b"p/x": b"one"}, TINY._replace(ask=True))
        duo.hands[directory.other].remove(b"p")
        duo.receive(Paused())
        duo.write(directory, b"p/new", b"new")
        duo.write(directory.other, b"p", b"file")
        duo.see(directory.other, b"p/x")
        duo.receive(Resumed())
        duo.settle()

        assert [path for path, _, _ in duo.session.asked()] == [b"p"]
        assert duo.hands[directory].content[b"p/new"] == b"new"
        assert duo.hands[directory.other].content == {b"p": b"file"}
        assert duo.session.take(b"p", directory) == ""
        duo.pump()
        duo.assert_rest()
        assert duo.left.content == {b"p/new": b"new"}


class TestComparing:
    def test_asks_both_for_digests_and_agrees_when_they_are_equal(self) -> None:
        duo = Duo({b"f": b"one"})
        for hand in duo.hands:
            hand.edit(b"f", b"two")
        duo.receive(*(Said(s, Observed([duo.hands[s].item(b"f", read=False)])) for s in Side))
        assert duo.looked(LEFT) == duo.looked(RIGHT) == [(2, b"f")]
        duo.obey(LEFT)
        assert duo.transitions(RIGHT) == duo.transitions(LEFT) == []

        duo.assert_rest()
        assert duo.session.applied == [0, 0]

    def test_asks_for_what_a_touched_file_holds(self) -> None:
        duo = Duo({b"f": b"one"})
        duo.left.edit(b"f", mtime_ns=7)
        duo.see(LEFT, b"f", read=False, flags=META_ONLY)
        assert duo.looked(LEFT) == [(2, b"f")]
        duo.obey(LEFT)

        assert [t.verb for t in duo.transitions(RIGHT)] == [META]
        duo.assert_rest()

    def test_that_finds_a_difference_keeps_the_loser(self) -> None:
        duo = Duo({b"f": b"one"})
        duo.left.edit(b"f", b"mine", mtime_ns=9)
        duo.right.edit(b"f", b"your", mtime_ns=8)
        duo.receive(*(Said(s, Observed([duo.hands[s].item(b"f")])) for s in Side))
        (transition,) = duo.transitions(RIGHT)
        assert transition.keep
        (batch,) = duo.asked(RIGHT, Apply)
        duo.right.inbox.clear()
        outcome = duo.right.apply(transition)._replace(kept=b"0001")
        duo.say(RIGHT, Results(batch.batch, [outcome]))

        assert duo.session.conflicts() == [(RIGHT, b"f", b"0001")]
        assert [n.text for n in duo.notes("conflict.kept")] == ["0001"]
        assert duo.session.status()["conflicts"] == 1
        duo.assert_rest()


class TestSurvivors:
    def test_bring_their_directory_back(self) -> None:
        duo = Duo({b"d/old": b"one"})
        duo.right.make(b"d/new", b"two")
        duo.left.remove(b"d")
        duo.receive(
            Said(RIGHT, Observed([duo.right.item(b"d/new")])),
            Said(LEFT, Observed([duo.left.item(b"d/old"), duo.left.item(b"d")])),
        )

        duo.assert_rest()
        assert duo.shape(LEFT) == {b"d": None, b"d/new": b"two"}

    def test_win_over_what_has_taken_their_directorys_place(self) -> None:
        duo = Duo({b"d/old": b"one"})
        duo.right.make(b"d/new", b"two")
        duo.left.remove(b"d")
        duo.left.make(b"d", b"a file")
        duo.receive(
            Said(RIGHT, Observed([duo.right.item(b"d/new")])),
            Said(LEFT, Observed([duo.left.item(b"d/old"), duo.left.item(b"d")])),
        )
        (transition,) = [t for t in duo.transitions(LEFT) if t.path == b"d"]
        assert transition.keep

        duo.run()
        assert duo.shape(LEFT) == duo.shape(RIGHT) == {b"d": None, b"d/new": b"two"}

    def test_that_are_gone_before_their_directory_is_back_leave_what_took_its_place(self) -> None:
        duo = Duo({b"d": None})
        duo.right.make(b"d/new", b"two")
        duo.left.remove(b"d")
        duo.receive(
            Said(RIGHT, Observed([duo.right.item(b"d/new")])),
            Said(LEFT, Observed([Item(b"d", None)])),
        )
        assert [(t.verb, t.path) for t in duo.transitions(LEFT)] == [(PUT, b"d")]
        duo.right.remove(b"d")
        duo.right.make(b"d", b"a file")
        duo.see(RIGHT, b"d/new", b"d")
        duo.reply(LEFT, FAILED, "full")

        duo.assert_rest()
        assert duo.shape(LEFT) == {b"d": b"a file"}


class TestDoom:
    def test_of_a_file_makes_where_it_turns_up_wait_and_be_looked_at(self) -> None:
        duo = Duo({b"f": b"one"})
        duo.delete(LEFT, b"f")
        assert [t.verb for t in duo.transitions(RIGHT)] == [DELETE]
        entry = duo.right.tree[b"f"]
        duo.say(RIGHT, Observed([Item(b"g", entry)]))
        assert duo.transitions(LEFT) == []
        assert duo.session.remains()["survivors"] == 1
        duo.obey(RIGHT, Apply)
        assert duo.looked(RIGHT) == [(0, b"g")]

        duo.assert_rest()
        assert duo.shape(LEFT) == {}


class TestFlushed:
    def test_what_a_scan_shows_is_as_old_as_can_be(self) -> None:
        """Talk may have been dropped for that scan, and a flush may wait for it."""
        duo = Duo({b"f": b"one"})
        mark = duo.session.mark()
        duo.write(LEFT, b"h", b"later")
        duo.run()
        duo.left.make(b"g", b"two")
        duo.say(LEFT, *duo.left.scan())
        duo.run_until(RIGHT, Apply)

        assert not duo.session.settled(mark)
        duo.run()
        assert duo.session.settled(mark)


class TestScanAnew:
    def test_believes_no_attributes_only_of_what_it_has_forgotten(self) -> None:
        """The agent goes by what it has told, which was an edit with the old time."""
        duo = Duo({b"f": b"one"})
        duo.receive(Paused())
        duo.right.edit(b"f", b"six", mtime_ns=duo.right.tree[b"f"].mtime_ns)
        duo.see(RIGHT, b"f")
        duo.say(RIGHT, *duo.right.scan())
        duo.see(RIGHT, b"f", read=False, flags=META_ONLY)
        duo.write(LEFT, b"f", b"two")
        duo.receive(Resumed())
        duo.settle()

        assert duo.shape(LEFT) == duo.shape(RIGHT)
        assert any(t.keep for t in duo.sent())  # it is a conflict


class TestRestart:
    """A brain that was killed finds its own work and does not take it for a user's."""

    def killed(self, duo: Duo) -> Duo:
        """Begin anew with what was committed before, and the intents since."""
        again = Duo(start=False)
        again.archive = Archive(duo.rows)
        again.hands = again.left, again.right = duo.hands
        again.session = Session(again.archive, TINY, history=duo.log(), met=True)
        for hand in again.hands:
            hand.inbox.clear()
        return again

    def agreed(self, tree: Tree) -> Duo:
        duo = Duo(tree)
        if duo.archive.freeze():
            duo.archive.commit()
        return duo

    def test_goes_on_where_its_log_ends(self) -> None:
        duo = self.agreed({b"f": b"one", b"g": b"two", b"d/x": b"1"})
        duo.write(LEFT, b"new", b"two")
        duo.move(LEFT, b"f", b"h")
        duo.move(LEFT, b"d", b"e")
        duo.delete(LEFT, b"g")
        duo.run()
        again = self.killed(duo)
        again.left.remove(b"new")
        again.start()

        again.assert_rest()
        assert again.shape(RIGHT) == {b"e": None, b"e/x": b"1", b"h": b"one"}

    MOVED_ON: ClassVar[dict[str, Callable[[Hand], None]]] = {
        "further": lambda left: left.rename(b"n", b"m"),
        "back": lambda left: left.rename(b"n", b"d"),
        "gone": lambda left: left.remove(b"n"),
        "another": lambda left: (left.rename(b"n", b"m"), left.make(b"n", b"other")),
        "another at the old name": lambda left: (
            left.rename(b"n", b"m"),
            left.make(b"d", None),
            left.make(b"d/x", b"x"),
        ),
        "not at all": lambda left: None,
        "over": lambda left: (left.remove(b"n"), left.rename(b"o", b"n")),
    }

    @pytest.mark.parametrize("how", MOVED_ON)
    @pytest.mark.parametrize("tree", [{b"d": b"one"}, {b"d/f": b"one", b"d/e/g": b"two"}])
    @pytest.mark.parametrize("links", ["both", "right"])
    def test_follows_what_it_renamed_and_its_user_has_moved_on(
        self, tree: Tree, how: str, links: str
    ) -> None:
        """Else it would come back under a name that only we gave it."""
        duo = self.agreed({**tree, b"o": b"o", b"z/y": b"1"})
        duo.move(LEFT, b"d", b"n")
        duo.do_unheard()
        before = dict(duo.right.tree)
        if links == "both":
            duo = self.killed(duo)
            self.MOVED_ON[how](duo.left)
            expected = duo.shape(LEFT)
            duo.start()
        else:
            duo.down(RIGHT)
            names = set(duo.left.tree)
            self.MOVED_ON[how](duo.left)
            expected = duo.shape(LEFT)
            duo.see(LEFT, *sorted(names | set(duo.left.tree)))
            duo.up(RIGHT)
            duo.say(RIGHT, *duo.right.scan())

        duo.assert_rest()
        assert duo.shape(RIGHT) == expected
        assert duo.shape(LEFT) == expected
        assert before != duo.right.tree or how == "not at all"

    def test_leaves_a_rename_alone_that_was_not_made(self) -> None:
        duo = self.agreed({b"d/f": b"one"})
        duo.move(LEFT, b"d", b"n")
        again = self.killed(duo)
        again.left.rename(b"n", b"m")
        again.start()

        again.assert_rest()
        assert again.shape(RIGHT) == {b"m": None, b"m/f": b"one"}

    def test_waits_with_a_rename_until_both_names_are_listed(self) -> None:
        duo = self.agreed({b"d/f": b"one", b"p/x": b"1", b"q/y": b"2"})
        duo.move(LEFT, b"d/f", b"p/f")
        duo.do_unheard()
        again = self.killed(duo)
        again.left.rename(b"p/f", b"q/f")
        again.start()

        again.assert_rest()
        assert again.shape(RIGHT)[b"q/f"] == b"one"
        assert b"p/f" not in again.shape(LEFT)

    @pytest.mark.parametrize("size", ["the same", "another"])
    @pytest.mark.parametrize("edited", [True, False])
    def test_reads_what_it_renamed_before_it_takes_it_for_unchanged(
        self, edited: bool, size: str
    ) -> None:
        """With its old size and time it may be an edit all the same, which no deletion undoes."""
        duo = self.agreed({b"f": b"one"})
        duo.move(LEFT, b"f", b"n")
        duo.do_unheard()
        duo.down(RIGHT)
        if edited:
            duo.right.edit(b"n", b"two" if size == "the same" else b"three")
        duo.left.remove(b"n")
        duo.see(LEFT, b"n")
        duo.up(RIGHT)
        duo.say(RIGHT, *duo.right.scan())

        duo.assert_rest()
        text = b"two" if size == "the same" else b"three"
        assert duo.shape(LEFT) == duo.shape(RIGHT) == ({b"n": text} if edited else {})

    def test_does_not_wait_for_what_it_renamed_to_be_closed(self) -> None:
        duo = self.agreed({b"f": b"one"})
        duo.move(LEFT, b"f", b"n")
        duo.do_unheard()
        duo.down(RIGHT)
        duo.left.remove(b"n")
        duo.see(LEFT, b"n")
        duo.up(RIGHT)
        duo.say(RIGHT, *duo.right.scan(), duo.right.listing(ROOT))
        assert duo.looked(RIGHT) == [(2, b"n")]
        duo.say(RIGHT, Observed([duo.right.item(b"n", read=False, flags=BUSY)]))
        assert duo.session._pair.renames == {}
        duo.right.inbox.clear()
        duo.say(RIGHT, Observed([duo.right.item(b"n")]))

        duo.assert_rest()
        assert duo.shape(LEFT) == duo.shape(RIGHT)

    def test_takes_no_rename_for_its_own_whose_directory_was_never_agreed(self) -> None:
        duo = Duo({b"f": b"one"}, start=False)
        entry = duo.right.tree[b"f"]
        for hand in duo.hands:
            hand.make(b"p", None)
        duo.right.rename(b"f", b"p/f")
        intent = Intent(b"p/f", RIGHT, entry, entry, b"f")
        duo.session = Session(duo.archive, TINY, history=[Intend([intent], [])])
        duo.start()

        duo.assert_rest()
        assert duo.shape(LEFT) == {b"p": None, b"p/f": b"one"}

    def test_knows_of_what_is_in_a_directory_that_is_back_after_it_was_removed(self) -> None:
        duo = self.agreed({b"d/e/f": b"one", b"d/g": b"two"})
        gone = [b"d/e/f", b"d/e", b"d/g", b"d"]
        duo.left.rename(b"d", b"elsewhere")
        duo.say(LEFT, Observed([Item(path, None) for path in gone]))
        duo.do_unheard()
        assert duo.shape(RIGHT) == {}
        again = self.killed(duo)
        again.left.rename(b"elsewhere", b"d")
        again.start()

        again.assert_rest()
        assert again.shape(RIGHT)[b"d/e/f"] == b"one"

    def test_recognises_what_it_created(self) -> None:
        duo = self.agreed({b"f": b"one"})
        duo.write(LEFT, b"new", b"two")
        duo.write(LEFT, b"f", b"six")
        duo.do_unheard()
        again = self.killed(duo)
        again.start()

        again.assert_rest()
        assert again.session.applied == [0, 0]

    def test_recognises_what_it_created_and_a_user_has_edited_since(self) -> None:
        duo = self.agreed({})
        duo.write(LEFT, b"new", b"two")
        duo.do_unheard()
        again = self.killed(duo)
        again.left.edit(b"new", b"three")
        again.start()

        again.assert_rest()
        assert again.shape(RIGHT) == {b"new": b"three"}
        assert not any(t.keep for t in again.sent())

    def test_recognises_what_it_created_and_a_user_has_removed_since(self) -> None:
        duo = self.agreed({})
        duo.write(LEFT, b"new", b"two")
        duo.do_unheard()
        again = self.killed(duo)
        again.left.remove(b"new")
        again.start()

        again.assert_rest()
        assert again.shape(RIGHT) == {}

    def test_recognises_a_directory_whose_time_has_moved_on(self) -> None:
        duo = self.agreed({})
        duo.left.make(b"d", None)
        duo.see(LEFT, b"d")
        duo.do_unheard()
        again = self.killed(duo)
        again.left.remove(b"d")
        again.right.edit(b"d", mtime_ns=5)
        again.start()

        again.assert_rest()
        assert again.shape(RIGHT) == {}

    def test_recognises_what_it_removed(self) -> None:
        duo = self.agreed({b"f": b"one"})
        duo.delete(LEFT, b"f")
        duo.do_unheard()
        again = self.killed(duo)
        again.left.make(b"f", b"new")  # it was made anew
        again.start()

        again.assert_rest()
        assert again.shape(RIGHT) == {b"f": b"new"}

    @pytest.mark.parametrize("first", Side)
    def test_recognises_what_it_removed_below_what_is_no_directory_now(self, first: Side) -> None:
        duo = self.agreed({b"d": None, b"d/e": None})
        duo.delete(LEFT, b"d/e")
        duo.do_unheard()
        again = self.killed(duo)
        again.left.remove(b"d")
        again.left.make(b"d", b"a file now")
        again.right.make(b"d/late", b"late")
        for side in (first, first.other):
            again.up(side)
        for side in (first, first.other):
            again.say(side, *again.hands[side].scan())

        again.settle()
        assert again.shape(LEFT) == again.shape(RIGHT)
        assert b"d/e" not in again.shape(LEFT)

    def test_removes_what_it_had_only_meant_to_remove(self) -> None:
        duo = self.agreed({b"f": b"one"})
        duo.delete(LEFT, b"f")
        again = self.killed(duo)
        again.start()

        again.assert_rest()
        assert again.shape(RIGHT) == {}

    def test_finds_what_it_removed_gone_and_no_more_to_do(self) -> None:
        duo = self.agreed({b"f": b"one"})
        duo.delete(LEFT, b"f")
        duo.do_unheard()
        again = self.killed(duo)
        again.left.make(b"f", b"one")
        again.left.tree[b"f"] = again.archive.get(b"f").on(LEFT)._replace(digest=b"")
        again.start()

        again.assert_rest()

    def test_takes_what_is_not_as_it_was_made_for_a_users(self) -> None:
        duo = self.agreed({b"f": b"one"})
        duo.write(LEFT, b"f", b"two")
        duo.do_unheard()
        again = self.killed(duo)
        again.right.edit(b"f", b"other", mtime_ns=file(b"").mtime_ns + 1)
        again.start()

        again.run()
        assert again.shape(LEFT) == again.shape(RIGHT) == {b"f": b"other"}

    def test_takes_no_file_for_its_own_that_a_user_has_renamed_to_there(self) -> None:
        # The only copy left would be replaced, as what the left side has gone on from.
        duo = self.agreed({b"f": b"one"})
        duo.write(LEFT, b"n", b"one")
        again = self.killed(duo)
        again.left.edit(b"n", b"two")
        again.right.rename(b"f", b"n")
        again.start()

        again.run()
        assert again.shape(LEFT) == again.shape(RIGHT)
        assert b"one" in again.shape(LEFT).values() or any(t.keep for t in again.sent())

    def test_knows_its_own_work_before_it_renames_it(self) -> None:
        """It had put a new file over one that had been renamed, with the inode of that one."""
        duo = self.agreed({b"f": b"one"})
        was = duo.left.tree[b"f"].ino
        duo.right.rename(b"f", b"g")
        duo.right.make(b"f", b"another")
        duo.see(RIGHT, b"f")
        duo.do_unheard()
        duo.left.tree[b"f"] = duo.left.tree[b"f"]._replace(ino=was)
        again = self.killed(duo)
        again.start()

        again.assert_rest()
        assert again.shape(LEFT) == again.shape(RIGHT) == {b"f": b"another", b"g": b"one"}

    def test_takes_no_side_without_news_for_what_was_agreed_since(self) -> None:
        # The right side was made to hold `two` when it went; the left has gone back since.
        duo = self.agreed({b"f": b"one"})
        was = duo.left.tree[b"f"]
        duo.write(LEFT, b"f", b"two")
        duo.do_unheard()
        again = self.killed(duo)
        again.left.tree[b"f"], again.left.content[b"f"] = was, b"one"
        again.start()

        again.run()
        assert again.shape(LEFT) == again.shape(RIGHT) == {b"f": b"one"}

    def test_finds_what_it_meant_in_a_directory_at_its_new_name(self) -> None:
        duo = self.agreed({b"d/f": b"one"})
        duo.write(LEFT, b"d/f", b"two")
        duo.do_unheard()
        duo.down(RIGHT)
        duo.move(LEFT, b"d", b"e")
        duo.do_unheard()
        again = self.killed(duo)
        again.start()

        again.assert_rest()
        assert again.shape(RIGHT) == {b"e": None, b"e/f": b"two"}

    def test_forgets_intents_that_nothing_came_of(self) -> None:
        duo = self.agreed({})
        duo.write(LEFT, b"f", b"one")
        again = self.killed(duo)
        again.left.remove(b"f")
        again.start()

        again.assert_rest()
        assert again.shape(LEFT) == {}

    def test_tells_its_work_from_a_users_by_the_bytes(self) -> None:
        duo = self.agreed({b"f": b"one"})
        duo.write(LEFT, b"f", b"two")
        duo.do_unheard()
        again = self.killed(duo)
        again.right.edit(b"f", b"six")  # as large, and at the same time
        again.start()

        again.settle()
        assert again.shape(LEFT) == again.shape(RIGHT)
        assert [t.keep for t in again.sent() if t.verb == PUT] == [True]

    def test_does_again_what_it_had_only_meant_to_do(self) -> None:
        duo = self.agreed({b"f": b"one"})
        duo.write(LEFT, b"f", b"two")
        again = self.killed(duo)
        again.start()

        again.assert_rest()
        assert again.shape(RIGHT) == {b"f": b"two"}

    def test_recognises_nothing_before_its_directory_is_agreed(self) -> None:
        entry = file(b"one")
        duo = Duo(start=False, history=[Intend([Intent(b"d/f", RIGHT, entry, entry)], [])])
        for hand in duo.hands:
            hand.make(b"d", None, mode=0o700 + hand.side)
            hand.make(b"d/f", b"one")
        duo.start()

        duo.assert_rest()


class TestAgreement:
    def test_waits_for_the_directory(self) -> None:
        duo = Duo(start=False)
        for hand in duo.hands:
            hand.make(b"d", None, mode=0o700 + hand.side)
            hand.make(b"d/f", b"one")
        duo.start()

        duo.assert_rest()
        assert [t.path for t in duo.sent()] == [b"d"]

    def test_of_metadata_waits_for_the_directory(self) -> None:
        duo = Duo(start=False)
        for hand in duo.hands:
            hand.make(b"d", None, mode=0o700 + hand.side)
            hand.make(b"d/f", b"one", mode=0o600 + hand.side)
        duo.start()

        duo.assert_rest()
        assert [(t.verb, t.path) for t in duo.sent()] == [(META, b"d"), (META, b"d/f")]


class TestHalt:
    def test_is_told_with_its_reason(self) -> None:
        duo = Duo()

        duo.session.halt(LEFT, "disk", "the disk is full")
        duo.session.halt(LEFT, "disk", "the disk is full")
        duo.session.halt(RIGHT, "gone", "the root is gone")
        duo.pump()

        assert duo.session.halted == "the disk is full; the root is gone"
        assert duo.session.halts == {"left disk", "right gone"}
        told = [n.text for n in duo.notes("session.halted")]
        assert told == ["the disk is full", "the root is gone"]


class TestRetry:
    def test_tries_at_once_what_has_failed(self) -> None:
        duo = Duo()
        duo.write(LEFT, b"f", b"one")
        for _ in range(2):
            duo.reply(RIGHT, FAILED, "no space left on device")
            assert duo.session.problems() == []
            duo.wait()
            duo.obey(LEFT)  # the content is asked for again
        duo.reply(RIGHT, FAILED, "no space left on device")
        assert duo.transitions(RIGHT) == []
        assert [p.message for p in duo.session.problems()] == ["no space left on device"]
        assert duo.session.status()["problems"] == 1

        duo.receive(Retry())

        assert duo.looked(LEFT) == [(1, b"f")]
        duo.assert_rest()
        assert duo.session.problems() == []


class TestDirectoryThatComesBack:
    """What was agreed in a directory that is gone went with it, although nobody said so."""

    def agreed(self) -> Duo:
        return Duo({b"d": None, b"d/e": None, b"d/e/f": b"one", b"d/g": b"two"})

    def test_for_what_is_new_in_it(self) -> None:
        duo = self.agreed()
        for path in (b"d/e/f", b"d/e", b"d/g", b"d"):
            duo.left.remove(path)
        duo.right.make(b"d/e/new", b"new")
        duo.say(LEFT, Observed([Item(b"d", None)]))
        duo.see(RIGHT, b"d/e/new")

        duo.settle()
        assert duo.shape(LEFT) == duo.shape(RIGHT)
        assert duo.shape(LEFT) == {b"d": None, b"d/e": None, b"d/e/new": b"new"}

    def test_for_what_was_new_in_it_before(self) -> None:
        duo = self.agreed()
        duo.right.make(b"d/e/new", b"new")
        for path in (b"d/e/f", b"d/e", b"d/g", b"d"):
            duo.left.remove(path)
        duo.receive(
            Said(RIGHT, Observed([duo.right.item(b"d/e/new")])),
            Said(LEFT, Observed([Item(b"d", None)])),
        )

        duo.settle()
        assert duo.shape(LEFT) == duo.shape(RIGHT)
        assert duo.shape(LEFT) == {b"d": None, b"d/e": None, b"d/e/new": b"new"}

    def test_in_the_place_of_a_file(self) -> None:
        duo = self.agreed()
        for path in (b"d/e/f", b"d/e", b"d/g", b"d"):
            duo.left.remove(path)
        duo.left.make(b"d", b"a file now")
        duo.right.edit(b"d", mode=0o700)
        duo.right.make(b"d/new", b"new")
        duo.receive(
            Said(RIGHT, Observed([duo.right.item(b"d/new"), duo.right.item(b"d")])),
            Said(LEFT, Observed([duo.left.item(b"d")])),
        )

        duo.settle()
        assert duo.shape(LEFT) == duo.shape(RIGHT)
        assert duo.shape(LEFT) == {b"d": None, b"d/new": b"new"}

    @pytest.mark.parametrize("now", [b"d/e", b"n/e"])
    @pytest.mark.parametrize("removed", [False, True])
    def test_to_the_eyes_of_an_agent_that_took_it_for_gone(self, now: bytes, removed: bool) -> None:
        """As it does in the moment of a rename above it. It tells nothing of what is in it."""
        duo = self.agreed()
        duo.say(LEFT, Observed([Item(b"d/e", None)]))
        if removed:
            duo.settle()
        if now != b"d/e":
            duo.move(LEFT, b"d", parent(now))
        duo.see(LEFT, now)

        duo.assert_rest()
        assert now + b"/f" in duo.shape(RIGHT)

    def test_as_our_own_when_its_user_has_just_moved_it_away(self) -> None:
        """Of a directory that is made anew nothing is told, but that it was made."""
        duo = Duo({})
        duo.right.make(b"d", None)
        duo.see(RIGHT, b"d")
        duo.obey(RIGHT, List_, Look)
        assert [t.path for t in duo.transitions(LEFT)] == [b"d"]
        duo.left.make(b"d", None)
        duo.left.make(b"d/e", None)
        duo.left.make(b"d/e/f", b"one")
        duo.say(LEFT, *(duo.left.listing(path) for path in (b"d", b"d/e")))
        duo.left.remove(b"d")

        duo.assert_rest()
        assert duo.shape(LEFT) == {b"d": None}
