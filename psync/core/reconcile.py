"""Decide what shall become of one path, from the archive, the left and the right.

This is the heart: a pure function of three values. It is symmetrical in left and right;
a decision names sides as data. The table of `docs/DESIGN.md` is tested row by row in
`tests/core/test_reconcile.py`.

**Invariants.**

- Only `REMOVE` takes something away without something newer in its place, and only where
  the side that loses it still holds exactly what was agreed: same bytes *and* same inode.
- Where both sides hold content that the other never saw, the decision is a conflict and
  says so: whoever applies it keeps the loser.
- What is not known is asked for (`COMPARE`), never guessed; mtime (or the favoured side)
  orders nothing but the two versions of a conflict.
- Applying a decision and deciding again comes to rest.

It deliberately knows nothing of names, directories' contents, operations in flight or time.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, NamedTuple

from psync.core.entry import META_FIELDS, Agreed, Entry, Kind, Side

__all__ = [
    "COPIED_FIELDS",
    "RIVALS",
    "Decision",
    "Standing",
    "Verb",
    "View",
    "agree",
    "decide",
    "same_content",
    "standing",
    "with_meta_of",
]

RIVALS = "both sides changed it"

COPIED_FIELDS = tuple(field for field in META_FIELDS if field != "mtime_ns")  # it is the content's


class View(NamedTuple):
    """What a side shows at a path.

    Attributes:
        entry: what is there, None for nothing.
        intact: the content is known to be the agreed one, whatever the times say.
        doubtful: it may be: only its attributes seem to have changed, but its mtime has, too.
    """

    entry: Entry | None
    intact: bool = False
    doubtful: bool = False


class Standing(IntEnum):
    """How what a side shows stands to what was agreed."""

    GONE = 0
    SAME = 1  # the very version that was agreed
    META = 2  # the agreed content, but other metadata or another identity
    MAYBE = 3  # another version, perhaps of the same content: only its bytes can tell
    EDITED = 4  # other content, or another kind of thing


class Verb(IntEnum):
    """What to do."""

    NOTHING = 0  # all agree, and the archive says so
    AGREE = 1  # both hold `wanted`: record it
    FORGET = 2  # nothing is there on either side: drop the record
    COPY = 3  # `source`'s version replaces what the other side holds
    REMOVE = 4  # it is gone on `source`: remove it from the other side
    ADJUST = 5  # the content is the same: give the metadata of `wanted` to both
    COMPARE = 6  # the digests of both are needed to decide


class Decision(NamedTuple):
    """A verb and what it needs.

    Attributes:
        verb: what to do.
        source: for COPY and REMOVE, the side that is right.
        wanted: for AGREE, COPY and ADJUST, what both hold at the end, without identity.
        conflict: for COPY, why the version that is replaced has to be kept; else empty.
        partial: for ADJUST, only `source` is adjusted, its content is still to be copied.
    """

    verb: Verb
    source: Side = Side.LEFT
    wanted: Entry | None = None
    conflict: str = ""
    partial: bool = False


_NOTHING = Decision(Verb.NOTHING)
_FORGET = Decision(Verb.FORGET)
_COMPARE = Decision(Verb.COMPARE)


def standing(base: Agreed, side: int, view: View) -> Standing:
    """Tell how a side's view stands to the agreed state."""
    now = view.entry
    if now is None:
        return Standing.GONE
    was = base.on(side)
    if now.kind != was.kind:
        return Standing.EDITED
    # Bytes that were read count more than times, which a writer can restore.
    if now.size != was.size or now.target != was.target:
        return Standing.EDITED
    known = bool(now.digest and was.digest)
    if known and now.digest != was.digest:
        return Standing.EDITED
    if now.same_identity(was) and now.same_meta(was):
        return Standing.SAME
    if now.kind != Kind.FILE or known or view.intact:
        return Standing.META
    return Standing.MAYBE if view.doubtful or now.mtime_ns == was.mtime_ns else Standing.EDITED


def _is_only_stirred(was: Entry, now: Entry) -> bool:
    """Tell whether of an agreed version only the ctime has moved, as far as is known.

    So it is when another name of the inode has come or gone. Its bytes still have to be read:
    who restores the mtime changes no more than the ctime. Where the agreed ones were never
    read there is nothing to compare them with.
    """
    return (
        was[:7] == now[:7]
        and was.xattrs == now.xattrs
        and was.ino == now.ino
        and (now.kind == Kind.SYMLINK or (now.kind == Kind.FILE and bool(was.digest)))
        and now.digest in (b"", was.digest)
    )


def same_content(left: Entry, right: Entry, *, trust_times: bool = False) -> bool | None:
    """Tell whether two sides hold the same content; None: only digests can tell.

    With `trust_times` equal size and mtime (to the nanosecond) are taken for equal content,
    unless the digests of both are known and say otherwise.
    """
    if left.kind != right.kind:
        return False
    if left.kind == Kind.DIRECTORY:
        return True
    if left.kind == Kind.SYMLINK:
        return left.target == right.target
    if left.size != right.size:
        return False
    if left.digest and right.digest:
        return left.digest == right.digest
    if not left.size or (trust_times and left.mtime_ns == right.mtime_ns):
        return True
    return None


def agree(wanted: Entry, left: Entry, right: Entry, *, held: bool = False) -> Agreed:
    """Make the archive's record of `wanted` as `left` and `right` hold it.

    `held`: where they show other metadata, these are all that they can hold.
    """
    identities = (left.ino, left.ctime_ns, right.ino, right.ctime_ns)
    agreed = Agreed(*wanted[:8], *identities, xattrs=wanted.xattrs)
    return agreed.held(wanted, left, right) if held else agreed


def _preferred(left: Entry, right: Entry, favoured: Side | None) -> Side:
    """Whose word counts where both have one: the favoured side's, else the newer's."""
    if favoured is not None:
        return favoured
    return Side.RIGHT if right.mtime_ns > left.mtime_ns else Side.LEFT


def _merge_meta(base: Agreed | None, left: Entry, right: Entry, favoured: Side | None) -> Entry:
    """Merge two sides' metadata field by field; where both changed one, the winner's counts."""
    side = _preferred(left, right, favoured)
    winner, loser = (left, right)[side], (left, right)[side.other]

    def pick(field: str) -> Any:
        ours, theirs = getattr(winner, field), getattr(loser, field)
        return theirs if base is not None and ours == getattr(base, field) else ours

    digest = left.digest or right.digest
    if base is not None and not digest and (base.kind, base.size) == (left.kind, left.size):
        # Content that is known to be equal unread is the agreed one, or empty: both sides may
        # have become empty files or directories, of which the agreed digest says nothing.
        digest = base.digest
    return winner.bare()._replace(**{field: pick(field) for field in META_FIELDS}, digest=digest)


def _settle_meta(base: Agreed | None, left: Entry, right: Entry, favoured: Side | None) -> Decision:
    """Both hold the same content: bring the metadata together, or record that it is."""
    wanted = _merge_meta(base, left, right, favoured)
    if left.same_meta(wanted) and right.same_meta(wanted):
        return Decision(Verb.AGREE, wanted=wanted)
    return Decision(Verb.ADJUST, wanted=wanted)


def _conflict(left: Entry, right: Entry, favoured: Side | None) -> Decision:
    """Two versions that neither side saw of the other."""
    sides, winner = (left, right), _preferred(left, right, favoured)
    if sides[winner].kind != Kind.DIRECTORY == sides[winner.other].kind:
        # It may hold entries that agree; what is none can be kept aside whole.
        winner = winner.other
    return Decision(Verb.COPY, winner, sides[winner].bare(), RIVALS)


def _decide_unknown(
    left: Entry, right: Entry, favoured: Side | None, *, trust_times: bool
) -> Decision:
    """Nothing was ever agreed here, and both sides hold something."""
    same = same_content(left, right, trust_times=trust_times)
    if same is None:
        return _COMPARE
    if same:
        return _settle_meta(None, left, right, favoured)
    return _conflict(left, right, favoured)


def _carry_edit(base: Agreed, source: Side, edited: Entry, kept: Entry) -> Decision:
    """`source` holds an edit, the other side the agreed content: bring the edit over.

    At most the other side's metadata moved, and that must not be lost: it is brought over
    first, the content follows.
    """
    if edited.kind == kept.kind:
        merged = edited
        for field in COPIED_FIELDS:
            agreed, moved = getattr(base, field), getattr(kept, field)
            if moved != agreed and getattr(edited, field) == agreed:
                merged = merged._replace(**{field: moved})
        if not merged.same_meta(edited):
            return Decision(Verb.ADJUST, source, merged.bare(), partial=True)
    return Decision(Verb.COPY, source, edited.bare())


def _decide_doubtful(
    base: Agreed,
    left: Entry,
    right: Entry,
    stands: tuple[Standing, Standing],
    favoured: Side | None,
) -> Decision:
    """One side has another version, and it is not known whether of the agreed content."""
    if any(entry.kind == Kind.FILE and not entry.digest for entry in (left, right)):
        return _COMPARE
    if same_content(left, right):
        return _settle_meta(base, left, right, favoured)
    for side in Side:
        if stands[side] in (Standing.SAME, Standing.META):  # it holds the agreed content
            return _carry_edit(base, side.other, (left, right)[side.other], (left, right)[side])
    return _conflict(left, right, favoured)


def decide(
    base: Agreed | None,
    left: View,
    right: View,
    *,
    trust_times: bool = False,
    favoured: Side | None = None,
) -> Decision:
    """Decide what shall become of a path.

    Args:
        base: what was agreed, None for nothing.
        left: what the left side shows now.
        right: what the right side shows now.
        trust_times: two files that nobody ever compared are taken for equal if size and mtime
            are: where two trees meet for the first time, to read all of both takes too long.
        favoured: whose version, and metadata, win where both sides changed them; None: those
            with the newer mtime. A directory wins over what is none, whoever is favoured.

    Returns:
        The one next step; after it has been done (or has failed) decide again with what
        the sides show then.
    """
    if base is not None and (base.left_own or base.right_own):
        left, right = (
            view._replace(entry=view.entry and base.as_agreed(side, view.entry))
            for side, view in zip(Side, (left, right), strict=True)
        )
        base = base._replace(left_own=b"", right_own=b"")
    sides = (left.entry, right.entry)
    if sides[0] is None and sides[1] is None:
        return _NOTHING if base is None else _FORGET
    if base is None:
        if sides[0] is None or sides[1] is None:
            source = Side.LEFT if sides[1] is None else Side.RIGHT
            there = sides[source]
            assert there is not None
            return Decision(Verb.COPY, source, there.bare())
        return _decide_unknown(sides[0], sides[1], favoured, trust_times=trust_times)

    stands = (standing(base, Side.LEFT, left), standing(base, Side.RIGHT, right))
    for side in Side:
        if stands[side] == Standing.GONE:
            # The other side is there. Unless it is exactly what was agreed somebody has
            # done something to it that the deletion did not know: it comes back. (A directory
            # is removed only when empty, so its own times say nothing.)
            there = sides[side.other]
            assert there is not None
            was = base.on(side.other)
            emptied = there.kind == Kind.DIRECTORY and there.same_identity(was)
            if stands[side.other] == Standing.SAME or emptied:
                return Decision(Verb.REMOVE, side)
            if _is_only_stirred(was, there):
                is_read = there.kind != Kind.FILE or there.digest
                return Decision(Verb.REMOVE, side) if is_read else _COMPARE
            return Decision(Verb.COPY, side.other, there.bare())
    assert sides[0] is not None and sides[1] is not None
    if stands == (Standing.SAME, Standing.SAME):
        return _NOTHING
    if stands == (Standing.EDITED, Standing.EDITED):
        same = same_content(sides[0], sides[1])
        if same is None:
            return _COMPARE
        if same:
            return _settle_meta(base, sides[0], sides[1], favoured)
        return _conflict(sides[0], sides[1], favoured)
    if Standing.MAYBE in stands:
        return _decide_doubtful(base, sides[0], sides[1], stands, favoured)
    for side in Side:
        if stands[side] == Standing.EDITED:
            edited, kept = sides[side], sides[side.other]
            assert edited is not None and kept is not None
            return _carry_edit(base, side, edited, kept)
    return _settle_meta(base, sides[0], sides[1], favoured)


def with_meta_of(
    side: Side,
    decision: Decision,
    base: Agreed | None,
    left: Entry | None,
    right: Entry | None,
    at_most: Entry | None = None,
) -> Decision:
    """Change a decision so that one side's mode, owner and attributes count, and mtime for both.

    What is new on the other side has them from there; after that, what is set there is set back,
    before an edit is copied from there.

    Args:
        side: whose count.
        decision: of `decide`.
        base: what was agreed, None for nothing.
        left: what the left side shows now.
        right: what the right side shows now.
        at_most: what the other side has made of such metadata where nothing was agreed yet of
            such a kind, if it cannot hold all of them.
    """
    if left is None or right is None or left.kind != right.kind:
        return decision
    if base is not None and base.kind != left.kind:
        base = None  # what was something else says nothing of metadata
    if decision.verb not in (Verb.AGREE, Verb.COPY, Verb.ADJUST):
        return decision
    if base is not None:
        left, right = base.as_agreed(Side.LEFT, left), base.as_agreed(Side.RIGHT, right)
    fields = {field: getattr((left, right)[side], field) for field in COPIED_FIELDS}
    if decision.verb is Verb.COPY or decision.partial:
        source = (left, right)[decision.source]
        wanted = source._replace(**fields)
        tried = at_most is not None and base is None and source.same_identity(at_most)
        if not (tried or source.same_meta(wanted)):
            return Decision(Verb.ADJUST, decision.source, wanted.bare(), partial=True)
        return Decision(Verb.COPY, decision.source, wanted.bare(), decision.conflict)
    assert decision.wanted is not None
    wanted = decision.wanted._replace(**fields)
    done = left.same_meta(wanted) and right.same_meta(wanted)
    return Decision(Verb.AGREE if done else Verb.ADJUST, wanted=wanted)
