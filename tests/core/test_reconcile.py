"""The decision table, row by row, each in both directions."""

from __future__ import annotations

import pytest

from psync.core.entry import Agreed, Entry, Kind, Side
from psync.core.reconcile import (
    Decision,
    Standing,
    Verb,
    View,
    agree,
    decide,
    same_content,
    standing,
)

CONFLICT = "both sides changed it"

# What was agreed: three bytes of text, inode 10 at ctime 100 on both sides.
FILE = Entry(Kind.FILE, 0o644, 1, 1, 3, 1000, b"", b"agreed", 10, 100)
SAVED = FILE._replace(size=5, mtime_ns=2000, digest=b"saved", ino=11, ctime_ns=200)
NEWER = FILE._replace(size=6, mtime_ns=3000, digest=b"newer", ino=12, ctime_ns=300)
CHMODDED = FILE._replace(mode=0o600, ctime_ns=200)
TOUCHED = FILE._replace(mtime_ns=2000, ctime_ns=200)
STIRRED = FILE._replace(ctime_ns=200)
REPLACED = FILE._replace(ino=13, ctime_ns=400)  # written anew, with the old size and mtime
DIRECTORY = Entry(Kind.DIRECTORY, 0o755, 1, 1, 0, 1000, b"", b"", 20, 0)
LINK = Entry(Kind.SYMLINK, 0, 1, 1, 0, 1000, b"to", b"", 30, 100)
RELINKED = LINK._replace(target=b"elsewhere", mtime_ns=2000, ino=31, ctime_ns=200)

DOUBTFUL = "doubtful"
INTACT = "intact"


def unread(entry: Entry) -> Entry:
    """The same look, by one that did not read."""
    return entry._replace(digest=b"")


def bare(entry: Entry) -> Entry:
    return entry._replace(ino=0, ctime_ns=0)


def base(entry: Entry | None) -> Agreed | None:
    return None if entry is None else agree(entry, entry, entry)


def view(shown: Entry | tuple[Entry, str] | None) -> View:
    """A view of an entry, or of an entry and what is known of it."""
    if shown is None or isinstance(shown, Entry):
        return View(shown)
    entry, known = shown
    return View(entry, intact=known == INTACT, doubtful=known == DOUBTFUL)


def copy(source: Side, entry: Entry, conflict: str = "") -> Decision:
    return Decision(Verb.COPY, source, bare(entry), conflict)


def mirrored(decision: Decision) -> Decision:
    if decision.verb in (Verb.COPY, Verb.REMOVE) or decision.partial:
        return decision._replace(source=decision.source.other)
    return decision


L, R = Side.LEFT, Side.RIGHT
NOTHING, FORGET, COMPARE = (Decision(v) for v in (Verb.NOTHING, Verb.FORGET, Verb.COMPARE))

case = pytest.param

FIRST_MEETING = [
    case(None, None, None, NOTHING, id="nothing anywhere"),
    case(None, FILE, None, copy(L, FILE), id="a file on one side"),
    case(None, DIRECTORY, None, copy(L, DIRECTORY), id="a directory on one side"),
    case(None, LINK, None, copy(L, LINK), id="a symlink on one side"),
    case(None, FILE, REPLACED, Decision(Verb.AGREE, wanted=bare(FILE)), id="equal files"),
    case(None, FILE, SAVED, copy(R, SAVED, CONFLICT), id="different files: the newer wins"),
    case(
        None,
        SAVED,
        REPLACED._replace(mtime_ns=2001, digest=b"x"),
        copy(R, REPLACED._replace(mtime_ns=2001, digest=b"x"), CONFLICT),
        id="different files: the newer wins by a nanosecond",
    ),
    case(None, unread(FILE), unread(REPLACED), COMPARE, id="files of one size, unread"),
    case(None, unread(FILE), REPLACED, COMPARE, id="files of one size, one unread"),
    case(None, unread(FILE), unread(SAVED), copy(R, unread(SAVED), CONFLICT), id="other sizes"),
    case(
        None,
        FILE,
        CHMODDED._replace(mtime_ns=2000),
        Decision(Verb.ADJUST, wanted=bare(CHMODDED._replace(mtime_ns=2000))),
        id="equal files, other metadata: the newer's count",
    ),
    case(
        None, DIRECTORY, DIRECTORY, Decision(Verb.AGREE, wanted=bare(DIRECTORY)), id="directories"
    ),
    case(None, LINK, LINK, Decision(Verb.AGREE, wanted=bare(LINK)), id="equal symlinks"),
    case(None, LINK, RELINKED, copy(R, RELINKED, CONFLICT), id="different symlinks"),
    case(None, DIRECTORY, NEWER, copy(L, DIRECTORY, CONFLICT), id="a directory wins over a file"),
    case(
        None, RELINKED, DIRECTORY, copy(R, DIRECTORY, CONFLICT), id="a directory wins over a link"
    ),
    case(None, LINK, NEWER, copy(R, NEWER, CONFLICT), id="a newer file wins over a symlink"),
]

AT_REST = [
    case(FILE, None, None, FORGET, id="gone on both sides"),
    case(FILE, FILE, FILE, NOTHING, id="a file as agreed"),
    case(DIRECTORY, DIRECTORY, DIRECTORY, NOTHING, id="a directory as agreed"),
    case(LINK, LINK, LINK, NOTHING, id="a symlink as agreed"),
    case(
        FILE,
        FILE,
        (REPLACED, INTACT),
        Decision(Verb.AGREE, wanted=bare(FILE)),
        id="another inode of the agreed content",
    ),
]

ONE_SIDE_CHANGED = [
    case(FILE, FILE, SAVED, copy(R, SAVED), id="edited"),
    case(FILE, FILE, unread(SAVED), copy(R, unread(SAVED)), id="edited, unread"),
    case(
        FILE,
        FILE,
        FILE._replace(digest=b"other", ctime_ns=300),
        copy(R, FILE._replace(digest=b"other")),
        id="edited, size and mtime put back",
    ),
    case(
        FILE,
        FILE,
        unread(SAVED._replace(size=3)),
        copy(R, unread(SAVED._replace(size=3))),
        id="written anew, of the same size",
    ),
    case(FILE, FILE, LINK, copy(R, LINK), id="a file became a symlink"),
    case(FILE, FILE, DIRECTORY, copy(R, DIRECTORY), id="a file became a directory"),
    case(DIRECTORY, DIRECTORY, SAVED, copy(R, SAVED), id="a directory became a file"),
    case(LINK, LINK, RELINKED, copy(R, RELINKED), id="a symlink points elsewhere"),
    case(FILE, FILE, CHMODDED, Decision(Verb.ADJUST, wanted=bare(CHMODDED)), id="its mode"),
    case(FILE, FILE, TOUCHED, Decision(Verb.ADJUST, wanted=bare(TOUCHED)), id="its mtime"),
    case(
        FILE,
        FILE,
        (unread(TOUCHED), INTACT),
        Decision(Verb.ADJUST, wanted=bare(TOUCHED)),
        id="its mtime, known to be intact",
    ),
    case(
        DIRECTORY,
        DIRECTORY,
        DIRECTORY._replace(mode=0o700),
        Decision(Verb.ADJUST, wanted=bare(DIRECTORY._replace(mode=0o700))),
        id="a directory's mode",
    ),
    case(
        LINK,
        LINK,
        LINK._replace(uid=7, ctime_ns=200),
        Decision(Verb.ADJUST, wanted=bare(LINK._replace(uid=7))),
        id="a symlink's owner",
    ),
]

GONE_ON_ONE_SIDE = [
    case(FILE, None, FILE, Decision(Verb.REMOVE, L), id="a file as agreed goes"),
    case(LINK, None, LINK, Decision(Verb.REMOVE, L), id="a symlink as agreed goes"),
    case(DIRECTORY, None, DIRECTORY, Decision(Verb.REMOVE, L), id="a directory goes"),
    case(
        DIRECTORY,
        None,
        DIRECTORY._replace(mtime_ns=2000, mode=0o700),
        Decision(Verb.REMOVE, L),
        id="a directory goes, whatever its times say",
    ),
    case(DIRECTORY, None, DIRECTORY._replace(ino=21), copy(R, DIRECTORY), id="another directory"),
    case(FILE, None, SAVED, copy(R, SAVED), id="an edit comes back"),
    case(FILE, None, CHMODDED, copy(R, CHMODDED), id="a new mode comes back"),
    case(FILE, None, TOUCHED, copy(R, TOUCHED), id="a new mtime comes back"),
    case(FILE, None, REPLACED, copy(R, REPLACED), id="a new inode comes back"),
    case(FILE, None, unread(REPLACED), copy(R, unread(REPLACED)), id="what is unread comes back"),
    case(FILE, None, DIRECTORY, copy(R, DIRECTORY), id="another kind of thing comes back"),
    case(FILE, None, STIRRED, Decision(Verb.REMOVE, L), id="read, and only its ctime moved: goes"),
    case(FILE, None, unread(STIRRED), COMPARE, id="only its ctime moved: is read"),
    case(
        FILE,
        None,
        STIRRED._replace(digest=b"other"),
        copy(R, STIRRED._replace(digest=b"other")),
        id="an edit with size and mtime put back comes back",
    ),
    case(unread(FILE), None, STIRRED, copy(R, STIRRED), id="what was agreed unread comes back"),
    case(
        LINK,
        None,
        LINK._replace(ctime_ns=200),
        Decision(Verb.REMOVE, L),
        id="a symlink whose ctime moved goes",
    ),
]

BOTH_CHANGED = [
    case(FILE, SAVED, NEWER, copy(R, NEWER, CONFLICT), id="different edits: the newer wins"),
    case(FILE, unread(SAVED), NEWER, copy(R, NEWER, CONFLICT), id="of different sizes"),
    case(
        FILE,
        SAVED,
        SAVED._replace(ino=40),
        Decision(Verb.AGREE, wanted=bare(SAVED)),
        id="the same edit",
    ),
    case(
        FILE,
        SAVED,
        SAVED._replace(mtime_ns=2500),
        Decision(Verb.ADJUST, wanted=bare(SAVED._replace(mtime_ns=2500))),
        id="the same edit at another time",
    ),
    case(FILE, unread(SAVED), SAVED, COMPARE, id="perhaps the same edit"),
    case(FILE, LINK, NEWER, copy(R, NEWER, CONFLICT), id="other kinds"),
    case(FILE, DIRECTORY, NEWER, copy(L, DIRECTORY, CONFLICT), id="a directory and an edit"),
    case(
        FILE,
        DIRECTORY,
        DIRECTORY._replace(ino=21),
        Decision(Verb.AGREE, wanted=bare(DIRECTORY)),
        id="two directories",
    ),
    case(
        FILE,
        CHMODDED,
        TOUCHED,
        Decision(Verb.ADJUST, wanted=bare(CHMODDED._replace(mtime_ns=2000))),
        id="mode here, mtime there: both survive",
    ),
    case(
        FILE,
        CHMODDED._replace(mtime_ns=1500),
        TOUCHED._replace(mode=0o666),
        Decision(Verb.ADJUST, wanted=bare(TOUCHED._replace(mode=0o666))),
        id="the same fields: the newer's count",
    ),
    case(
        FILE,
        CHMODDED,
        FILE._replace(mode=0o600, ctime_ns=500),
        Decision(Verb.AGREE, wanted=bare(CHMODDED)),
        id="the same mode",
    ),
    case(
        FILE,
        CHMODDED,
        SAVED,
        Decision(Verb.ADJUST, R, bare(SAVED._replace(mode=0o600)), partial=True),
        id="mode here, edit there: the mode first",
    ),
    case(
        FILE, CHMODDED, SAVED._replace(mode=0o600), copy(R, SAVED._replace(mode=0o600)), id="then"
    ),
    case(
        FILE,
        CHMODDED,
        SAVED._replace(mode=0o666),
        copy(R, SAVED._replace(mode=0o666)),
        id="mode here, edit and mode there: those of the edit",
    ),
    case(FILE, TOUCHED, SAVED, copy(R, SAVED), id="mtime here, edit there"),
    case(FILE, CHMODDED, LINK, copy(R, LINK), id="mode here, a symlink there"),
]

IN_DOUBT = [
    case(FILE, FILE, unread(REPLACED), COMPARE, id="the old size and mtime, unread"),
    case(FILE, FILE, (unread(TOUCHED), DOUBTFUL), COMPARE, id="only attributes, mtime too"),
    case(unread(FILE), unread(FILE), REPLACED, COMPARE, id="what was agreed was never read"),
    case(FILE, SAVED, unread(REPLACED), COMPARE, id="an edit there"),
    case(FILE, LINK, unread(REPLACED), COMPARE, id="a symlink there"),
    case(
        unread(FILE),
        FILE,
        REPLACED,
        Decision(Verb.AGREE, wanted=bare(FILE)),
        id="read: the same content",
    ),
    case(
        unread(FILE),
        FILE,
        REPLACED._replace(digest=b"other"),
        copy(R, REPLACED._replace(digest=b"other")),
        id="read: an edit",
    ),
    case(
        unread(FILE),
        (CHMODDED, INTACT),
        REPLACED._replace(digest=b"other"),
        Decision(
            Verb.ADJUST, R, bare(REPLACED._replace(digest=b"other", mode=0o600)), partial=True
        ),
        id="read: an edit there, mode here: the mode first",
    ),
    case(
        unread(FILE),
        SAVED,
        REPLACED,
        copy(L, SAVED, CONFLICT),
        id="read: nobody knows whether it is the agreed content",
    ),
    case(
        unread(FILE),
        LINK._replace(mtime_ns=2000),
        REPLACED,
        copy(L, LINK._replace(mtime_ns=2000), CONFLICT),
        id="read: a symlink there",
    ),
]

ROWS = [*FIRST_MEETING, *AT_REST, *ONE_SIDE_CHANGED, *GONE_ON_ONE_SIDE, *BOTH_CHANGED, *IN_DOUBT]


class TestDecide:
    @pytest.mark.parametrize(("agreed", "left", "right", "expected"), ROWS)
    def test_follows_the_table(self, agreed, left, right, expected):
        assert decide(base(agreed), view(left), view(right)) == expected

    @pytest.mark.parametrize(("agreed", "left", "right", "expected"), ROWS)
    def test_follows_the_table_with_the_sides_swapped(self, agreed, left, right, expected):
        assert decide(base(agreed), view(right), view(left)) == mirrored(expected)

    @pytest.mark.parametrize(("agreed", "left", "right", "expected"), ROWS)
    def test_keeps_every_loser(self, agreed, left, right, expected):
        # A conflict is exactly a copy over a side that does not hold what was agreed.
        if expected.verb is Verb.COPY:
            loser = view((left, right)[expected.source.other])
            record = base(agreed)
            if loser.entry is None:
                superseded = True
            elif record is None:
                superseded = False
            else:
                stands = standing(record, expected.source.other, loser)
                superseded = stands in (Standing.SAME, Standing.META)
            assert bool(expected.conflict) is not superseded

    @pytest.mark.parametrize("favoured", Side)
    @pytest.mark.parametrize(("agreed", "left", "right", "expected"), ROWS)
    def test_favours_a_side_where_both_changed_it_and_nowhere_else(
        self, agreed, left, right, expected, favoured
    ):
        decision = decide(base(agreed), view(left), view(right), favoured=favoured)

        assert decide(base(agreed), view(right), view(left), favoured=favoured.other) == mirrored(
            decision
        )
        if expected.conflict:
            entries = [view(shown).entry for shown in (left, right)]
            assert entries[0] is not None and entries[1] is not None
            directories = [s for s in Side if entries[s].kind == Kind.DIRECTORY]
            winner = directories[0] if directories else favoured
            assert decision == copy(winner, entries[winner], CONFLICT)
        elif expected.verb is Verb.ADJUST and not expected.partial:
            assert decision.verb is Verb.ADJUST
        else:
            assert decision == expected

    @pytest.mark.parametrize("favoured", Side)
    def test_favours_a_sides_metadata_where_both_changed_them(self, favoured):
        sides = (CHMODDED, TOUCHED._replace(mode=0o666))

        for agreed, touched in ((base(FILE), TOUCHED.mtime_ns), (None, sides[favoured].mtime_ns)):
            decision = decide(agreed, View(sides[0]), View(sides[1]), favoured=favoured)
            wanted = bare(sides[favoured])._replace(mtime_ns=touched)
            assert decision == Decision(Verb.ADJUST, wanted=wanted)

    def test_prefers_the_left_of_two_versions_of_one_time(self):
        left, right = SAVED, NEWER._replace(mtime_ns=SAVED.mtime_ns)

        for agreed in (None, base(FILE)):
            assert decide(agreed, View(left), View(right)) == copy(L, left, CONFLICT)
            assert decide(agreed, View(right), View(left)) == copy(L, right, CONFLICT)

    def test_prefers_the_metadata_of_the_left_at_one_time(self):
        left, right = CHMODDED, FILE._replace(mode=0o666, ctime_ns=300)

        assert decide(base(FILE), View(left), View(right)).wanted == bare(left)
        assert decide(base(FILE), View(right), View(left)).wanted == bare(right)

    @pytest.mark.parametrize("agreed", [None, FILE], ids=["first meeting", "agreed before"])
    def test_believes_times_only_at_a_first_meeting(self, agreed):
        left, right = unread(SAVED), unread(SAVED._replace(ino=14))
        decision = decide(base(agreed), View(left), View(right), trust_times=True)

        if agreed is None:
            assert decision == Decision(Verb.AGREE, wanted=bare(left))
        else:
            assert decision == COMPARE

    @pytest.mark.parametrize(
        ("field", "value"), [("mode", 0o7), ("uid", 7), ("gid", 7), ("xattrs", b"attributes")]
    )
    def test_brings_each_moved_field_over_before_an_edit(self, field, value):
        moved = FILE._replace(**{field: value}, ctime_ns=200)

        assert decide(base(FILE), View(SAVED), View(moved)) == Decision(
            Verb.ADJUST, L, bare(SAVED._replace(**{field: value})), partial=True
        )

    def test_remembers_a_digest_that_one_side_or_the_archive_knows(self):
        read, other = FILE, unread(CHMODDED)
        for agreed, left, right in [
            (unread(FILE), (read, INTACT), (other, INTACT)),
            (unread(FILE), (other, INTACT), (read, INTACT)),
            (FILE, (other, INTACT), (other, INTACT)),
        ]:
            wanted = decide(base(agreed), view(left), view(right)).wanted
            assert wanted is not None and wanted.digest == b"agreed"

    @pytest.mark.parametrize(
        "now",
        [unread(SAVED)._replace(size=0), DIRECTORY, LINK],
        ids=["empty files", "directories", "symlinks"],
    )
    def test_forgets_the_agreed_digest_with_the_agreed_content(self, now):
        assert decide(base(FILE), View(now), View(now)) == Decision(Verb.AGREE, wanted=bare(now))

    def test_asks_for_nothing_that_is_known_of_empty_files(self):
        empty = unread(FILE)._replace(size=0)

        assert decide(None, View(empty), View(empty)) == Decision(Verb.AGREE, wanted=bare(empty))


class TestStanding:
    @pytest.mark.parametrize(
        ("agreed", "shown", "expected"),
        [
            case(FILE, None, Standing.GONE, id="nothing"),
            case(FILE, FILE, Standing.SAME, id="the very version"),
            case(FILE, unread(FILE), Standing.SAME, id="the very version, unread"),
            case(DIRECTORY, DIRECTORY, Standing.SAME, id="the very directory"),
            case(LINK, LINK, Standing.SAME, id="the very symlink"),
            case(FILE, LINK, Standing.EDITED, id="another kind"),
            case(FILE, unread(SAVED), Standing.EDITED, id="another size"),
            case(LINK, RELINKED, Standing.EDITED, id="another target"),
            case(FILE, FILE._replace(digest=b"x"), Standing.EDITED, id="another digest"),
            case(
                FILE, (FILE._replace(digest=b"x"), INTACT), Standing.EDITED, id="read: not intact"
            ),
            case(FILE, CHMODDED, Standing.META, id="another mode, read"),
            case(FILE, (unread(CHMODDED), INTACT), Standing.META, id="another mode, intact"),
            case(FILE, unread(CHMODDED), Standing.MAYBE, id="another ctime, unread"),
            case(FILE, (unread(TOUCHED), DOUBTFUL), Standing.MAYBE, id="another mtime, doubtful"),
            case(FILE, unread(TOUCHED), Standing.EDITED, id="another mtime, unread"),
            case(unread(FILE), REPLACED, Standing.MAYBE, id="another inode, never read"),
            case(DIRECTORY, DIRECTORY._replace(ino=21), Standing.META, id="another directory"),
            case(
                DIRECTORY, DIRECTORY._replace(mtime_ns=7), Standing.META, id="a directory's mtime"
            ),
            case(LINK, LINK._replace(ino=32), Standing.META, id="a symlink made anew"),
        ],
    )
    def test_tells_how_a_view_stands(self, agreed, shown, expected):
        for side in Side:
            assert standing(base(agreed), side, view(shown)) is expected

    def test_is_by_each_sides_own_identity(self):
        record = agree(FILE, FILE, REPLACED)

        assert standing(record, Side.LEFT, View(FILE)) is Standing.SAME
        assert standing(record, Side.RIGHT, View(REPLACED)) is Standing.SAME
        assert standing(record, Side.LEFT, View(unread(REPLACED))) is Standing.MAYBE


class TestSameContent:
    @pytest.mark.parametrize(
        ("left", "right", "expected", "trusting"),
        [
            case(FILE, REPLACED, True, True, id="equal digests"),
            case(FILE, FILE._replace(digest=b"x"), False, False, id="different digests"),
            case(unread(FILE), FILE, None, True, id="one digest, equal times"),
            case(unread(FILE), unread(TOUCHED), None, None, id="no digests, other times"),
            case(unread(FILE), unread(SAVED), False, False, id="other sizes"),
            case(
                unread(FILE)._replace(size=0), TOUCHED._replace(size=0), True, True, id="both empty"
            ),
            case(FILE, LINK, False, False, id="other kinds"),
            case(DIRECTORY, DIRECTORY._replace(mode=0), True, True, id="directories"),
            case(LINK, LINK._replace(ino=1), True, True, id="equal symlinks"),
            case(LINK, RELINKED, False, False, id="different symlinks"),
        ],
    )
    def test_is_told_from_what_is_known(self, left, right, expected, trusting):
        for pair in ((left, right), (right, left)):
            assert same_content(*pair) is expected
            assert same_content(*pair, trust_times=True) is trusting


class TestAgree:
    def test_records_both_identities(self):
        record = agree(bare(FILE), FILE, REPLACED)

        assert record.on(Side.LEFT) == FILE
        assert record.on(Side.RIGHT) == REPLACED
