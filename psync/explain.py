"""What a session that runs says of paths at which an audit has found a difference.

An audit sees two trees; what psync makes of them only the session knows: whether a path is
on its way, is a problem, waits for a person, or is at rest, and what was agreed there. It is
asked over the control socket (`explain`), some paths at a time.

**Invariants.** Asking changes nothing, but that the session may be made to flush first.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from psync.core.archive import Archive
from psync.core.entry import Agreed, valid_path
from psync.core.session import Session
from psync.errors import PsyncError

__all__ = ["QUESTION_MAX", "Answer", "Told", "ask", "explain", "read_answer"]

QUESTION_MAX = 32 * 1024  # bytes of paths in one question; a request is a line of 64 KiB
_PATHS_MAX = 1000


class Told(NamedTuple):
    """What is known of a path.

    Attributes:
        word: see `Session.explain`; `unknown`: nobody can say.
        message: more of it, for people.
        agreed: what was agreed last; None: nothing.
    """

    word: str
    message: str
    agreed: Agreed | None


class Answer(NamedTuple):
    """What a session answers.

    Attributes:
        state: its state's name.
        settled: all that can be was brought to both sides just before.
        met: both sides have been compared once.
        told: of each path.
        skipped: see `Session.skipped`.
    """

    state: str
    settled: bool
    met: bool
    told: list[Told]
    skipped: bool = False


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Told]).decode


def ask(paths: Sequence[bytes]) -> dict[str, Any]:
    """Make the question about some paths, of `QUESTION_MAX` bytes together."""
    return {"paths": [base64.b64encode(path).decode() for path in paths]}


def explain(session: Session, archive: Archive, args: dict[str, Any], *, settled: bool) -> Any:
    """Answer a question, for the session.

    Args:
        session: knows.
        archive: what was agreed.
        args: as `ask` makes them.
        settled: everything that happened before the question is on both sides.

    Raises:
        PsyncError: it is no question.
    """
    try:
        paths = [base64.b64decode(path, validate=True) for path in args.get("paths", [])]
    except (TypeError, ValueError, binascii.Error):
        raise PsyncError("these are no paths") from None
    if len(paths) > _PATHS_MAX or not all(map(valid_path, paths)):
        raise PsyncError("these are no paths, or too many")
    told = [Told(*session.explain(path), archive.get(path)) for path in paths]
    answer = Answer(session.state.name.lower(), settled, session.met, told, session.skipped)
    return {**answer._asdict(), "told": base64.b64encode(_encode(told)).decode()}


def read_answer(answer: Any, count: int) -> Answer:
    """Read what a session has answered about so many paths.

    Raises:
        PsyncError: it is no answer.
    """
    try:
        told = _decode(base64.b64decode(answer["told"]))
        if len(told) == count:
            skipped = bool(answer.get("skipped"))
            return Answer(str(answer["state"]), answer["settled"], answer["met"], told, skipped)
    except (TypeError, ValueError, KeyError, msgspec.MsgspecError):
        pass
    raise PsyncError("the session gave no answer that can be read: is it of another version?")
