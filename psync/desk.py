"""What people ask of conflicts and of the trash: list, show, restore, drop; and who shall win.

What lost lies in the conflict store of the replica where that was (`psync/conflicts.py`), and what
was deleted in its trash; its agent does what is asked. A version is named by its name there, a
conflict that waits for a person's word by its path.

**Invariants.** A side whose agent is away is still listed, with what the session knows of it: of
its trash, that it is away. Where no session runs the stores of this host are only read
(`kept_here`).
"""

from __future__ import annotations

import asyncio
import base64
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

from psync.conflicts import Conflicts
from psync.core.entry import Entry, Kind, Side, printable
from psync.core.session import Session
from psync.errors import PsyncError, TransportError
from psync.peer import Peer
from psync.wire import (
    DROP,
    EMPTY,
    GO_ON,
    LIST,
    READ,
    RESTORE,
    SHOW,
    Note,
    Recall,
    Recalled,
)

__all__ = ["Desk", "kept_here"]

_ANSWER_S = 8.0
_VERBS = {"show": SHOW, "restore": RESTORE, "drop": DROP}


class Desk:
    """See the module's text.

    Args:
        session: knows which versions there are.
        peers: the two sides, by `Side`.
        number: gives numbers that nobody has.
        pump: carries out what the session wants done now.
    """

    def __init__(
        self,
        session: Session,
        peers: Sequence[Peer],
        number: Callable[[], int],
        pump: Callable[[], None],
    ) -> None:
        self._session = session
        self._peers = peers
        self._number = number
        self._pump = pump

    async def answer(self, args: dict[str, Any], *, trash: bool = False) -> Any:
        """Answer a question of the command line.

        Args:
            trash: it is about the trash.
            args: `action` (list, show, restore, drop, take, empty); but for list, take and empty
                `kept`, the name of a version; with show perhaps the path of a conflict that
                waits, with restore perhaps `to`, a path; with take `side` and `path`; with
                empty `sides`: which ones are to go on with it.

        Returns:
            With list, a list of conflicts that wait, and of versions, the oldest first; with
            empty, how many versions have gone, how many are to come to the trash, what is in the
            way, and which sides are to go on: ask again for that; else the
            one that was meant; with show, `content` and `present` are its bytes and those at its
            path now, in base64, and `names` says so in two words; of a conflict that waits they
            are those of the left and of the right.

        Raises:
            PsyncError: it cannot be done; the message says why.
        """
        action = args.get("action", "list")
        if action == "list":
            return await self._list(trash=trash)
        if action == "empty" and trash:
            return await self._empty([str(side) for side in args.get("sides") or []])
        if action == "take" and not trash:
            return self._take(str(args.get("side")), str(args.get("path", "")))
        if action not in _VERBS:
            raise PsyncError(f"this session cannot {action!a} a version")
        if action == "show" and not trash and (path := self._waiting(str(args.get("kept", "")))):
            return await self._compare(path)
        kept = os.fsencode(str(args.get("kept", "")))
        to = os.fsencode(str(args.get("to") or ""))
        question = Recall(0, _VERBS[action], kept, to, trash)
        if trash:
            side, answer = await self._ask_both(question)
        else:
            side = self._find(kept)
            answer = await self._ask(side, question)
        if answer.message or not answer.notes:
            raise PsyncError(f"{printable(kept)}: {answer.message or 'the agent says nothing'}")
        told = _told(side, answer.notes[0])
        if action == "show":
            told["content"], told["present"] = (_text(b) for b in (answer.kept, answer.present))
            told["names"] = ["kept", "now"]
        return told

    def _waiting(self, given: str) -> bytes:
        """The path of a conflict that waits, as it is or as it is shown; empty: there is none."""
        paths = [path for path, _, _ in self._session.asked()]
        raw = os.fsencode(given).removeprefix(b"./")
        return raw if raw in paths else next((p for p in paths if printable(p) == given), b"")

    def _take(self, side: str, given: str) -> dict[str, Any]:
        path = self._waiting(given)
        if side.upper() not in Side.__members__:
            raise PsyncError(f"{side!a} is neither left nor right")
        refusal = self._session.take(path, Side[side.upper()])
        if refusal:
            raise PsyncError(f"{printable(os.fsencode(given))}: {refusal}")
        self._pump()
        return {"side": side, "path": printable(path)}

    async def _compare(self, path: bytes) -> dict[str, Any]:
        """Both versions of a conflict that waits."""
        answers = await asyncio.gather(
            *(self._ask(side, Recall(0, READ, b"", path)) for side in Side)
        )
        left, right = (_text(answer.present) for answer in answers)
        return {
            "side": "both", "path": printable(path), "kept": "", "reason": "ask",
            "content": left, "present": right, "names": [side.name.lower() for side in Side],
        }  # fmt: skip

    async def _empty(self, sides: list[str]) -> dict[str, Any]:
        """Empty the trash, a part of it at a time: at first on both sides."""
        told: dict[str, Any] = {"count": 0, "waiting": 0, "troubles": [], "sides": []}
        question = Recall(0, GO_ON if sides else EMPTY, trash=True)
        asked = [side for side in Side if not sides or side.name.lower() in sides]
        asking = (self._ask(side, question) for side in asked)
        answers = await asyncio.gather(*asking, return_exceptions=True)
        for side, answer in zip(asked, answers, strict=True):
            if isinstance(answer, TransportError):
                told["troubles"].append(str(answer))
            elif isinstance(answer, BaseException):
                raise answer
            else:
                if answer.message:
                    told["troubles"].append(f"{side.name.lower()}: {answer.message}")
                told["count"] += answer.gone
                told["waiting"] += answer.waiting
                if answer.left:
                    told["sides"].append(side.name.lower())
        return told

    async def _list(self, *, trash: bool) -> list[dict[str, Any]]:
        found = await asyncio.gather(*(self._list_of(side, trash=trash) for side in Side))
        versions = [version for versions in found for version in versions]
        if not trash:
            versions += [_told_waiting(*each) for each in self._session.asked()]
        return sorted(versions, key=lambda each: (each.get("time", ""), each["kept"]))

    async def _list_of(self, side: Side, *, trash: bool) -> list[dict[str, Any]]:
        try:
            answer = await self._ask(side, Recall(0, LIST, trash=trash))
        except TransportError as error:
            if trash:
                return [{"side": side.name.lower(), "kept": "", "trouble": str(error)}]
            return [
                {"side": side.name.lower(), "path": printable(path), "kept": printable(kept)}
                for where, path, kept in self._session.conflicts()
                if where == side
            ]
        return [_told(side, note) for note in answer.notes]

    async def _ask(self, side: Side, question: Recall) -> Recalled:
        peer = self._peers[side]
        peer.check_watches()
        question = question._replace(token=self._number())
        return await peer.ask(question, Recalled, question.token, within=_ANSWER_S)

    async def _ask_both(self, question: Recall) -> tuple[Side, Recalled]:
        """Ask about a version of which only its side knows which that is."""
        answers: list[tuple[Side, Recalled]] = []
        away: TransportError | None = None
        for side in Side:
            try:
                answers.append((side, await self._ask(side, question)))
            except TransportError as error:
                away = error
        found = [each for each in answers if each[1].notes]
        if away is not None and not found:
            raise away
        return (found or answers)[0]

    def _find(self, name: bytes) -> Side:
        for side, _, kept in self._session.conflicts():
            if kept == name:
                return side
        raise PsyncError(
            f"{printable(name)!a} is no version that is kept: psync conflicts lists them"
        )


def kept_here(facts: dict[str, Any], store: str) -> list[dict[str, Any]]:
    """List what the replicas of this host keep of a session that does not run; change nothing.

    Args:
        facts: what its directory tells of it.
        store: `conflicts` or `trash`.

    Returns:
        As of `Desk.answer`; of a side that cannot be read `trouble` says so.
    """
    found = []
    for side, host in ((Side.LEFT, None), (Side.RIGHT, facts.get("host"))):
        root = str(facts.get(side.name.lower()) or "")
        place = os.path.join(root, ".psync", store)
        told = {"side": side.name.lower(), "kept": "", "time": ""}
        if host:
            trouble = f"not listed while its session does not run: it is in {place} on {host}"
            found.append({**told, "trouble": trouble})
            continue
        try:
            found += [_told(side, note) for note in _notes(root, store)]
        except OSError as error:
            found.append({**told, "trouble": f"cannot read {place}: {error.strerror}"})
    return sorted(found, key=lambda each: (each["time"], each["kept"]))


def _notes(root: str, store: str) -> list[Note]:
    control_fd = os.open(os.path.join(root, ".psync"), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if store not in os.listdir(control_fd):
            return []  # opening it would make it
        opened = Conflicts(control_fd, lambda *_: None, store)
        try:
            return list(opened.notes())
        finally:
            opened.close()
    finally:
        os.close(control_fd)


def _time(ns: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(ns // 10**9))


def _told_waiting(path: bytes, *versions: Entry | None) -> dict[str, Any]:
    """What is told of a conflict that waits for a word."""
    told: dict[str, Any] = {"side": "both", "path": printable(path), "kept": "", "reason": "ask"}
    for side, entry in zip(Side, versions, strict=True):
        if entry is not None:
            told[side.name.lower()] = {
                "kind": Kind(entry.kind).name.lower(),
                "size": entry.size,
                "time": _time(entry.mtime_ns),
            }
    return told


def _told(side: Side, note: Note) -> dict[str, Any]:
    return {
        "side": side.name.lower(),
        "path": printable(note.path),
        "kept": printable(note.name),
        "time": _time(note.time_ns),
        "reason": printable(note.reason.encode()),
        "size": note.size,
    }


def _text(content: bytes | None) -> str | None:
    return None if content is None else base64.b64encode(content).decode()
