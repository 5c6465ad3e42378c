"""What people ask of the versions that lost a conflict: list them, show, restore, drop.

They lie in the conflict store of the replica where they lost (`psync/conflicts.py`); its
agent does what is asked. A version is named by its name there.

**Invariants.** A side whose agent is away is still listed, with what the session knows of it.
"""

from __future__ import annotations

import asyncio
import base64
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

from psync.core.entry import Side, printable
from psync.core.session import Session
from psync.errors import PsyncError, TransportError
from psync.peer import Peer
from psync.wire import DROP, LIST, RESTORE, SHOW, Note, Recall, Recalled

__all__ = ["Desk"]

_ANSWER_S = 8.0
_VERBS = {"show": SHOW, "restore": RESTORE, "drop": DROP}


class Desk:
    """See the module's text.

    Args:
        session: knows which versions there are.
        peers: the two sides, by `Side`.
        number: gives numbers that nobody has.
    """

    def __init__(self, session: Session, peers: Sequence[Peer], number: Callable[[], int]) -> None:
        self._session = session
        self._peers = peers
        self._number = number

    async def answer(self, args: dict[str, Any]) -> Any:
        """Answer a question of the command line.

        Args:
            args: `action` (list, show, restore, drop); with the last three `kept`, the name; with
                restore perhaps `to`, a path.

        Returns:
            With list, a list of versions, the oldest first; else the one that was meant; with
            show, `content` and `present` are its bytes and those at its path now, in base64.

        Raises:
            PsyncError: it cannot be done; the message says why.
        """
        action = args.get("action", "list")
        if action == "list":
            return await self._list()
        if action not in _VERBS:
            raise PsyncError(f"this session cannot {action!a} a conflict")
        kept = os.fsencode(str(args.get("kept", "")))
        side = self._find(kept)
        to = os.fsencode(str(args.get("to") or ""))
        answer = await self._ask(side, Recall(self._number(), _VERBS[action], kept, to))
        if answer.message or not answer.notes:
            raise PsyncError(f"{printable(kept)}: {answer.message or 'the agent says nothing'}")
        told = _told(side, answer.notes[0])
        if action == "show":
            told["content"], told["present"] = (_text(b) for b in (answer.kept, answer.present))
        return told

    async def _list(self) -> list[dict[str, Any]]:
        found = await asyncio.gather(*map(self._list_of, Side))
        versions = [version for versions in found for version in versions]
        return sorted(versions, key=lambda each: (each.get("time", ""), each["kept"]))

    async def _list_of(self, side: Side) -> list[dict[str, Any]]:
        try:
            answer = await self._ask(side, Recall(self._number(), LIST))
        except TransportError:
            return [
                {"side": side.name.lower(), "path": printable(path), "kept": printable(kept)}
                for where, path, kept in self._session.conflicts()
                if where == side
            ]
        return [_told(side, note) for note in answer.notes]

    async def _ask(self, side: Side, question: Recall) -> Recalled:
        peer = self._peers[side]
        if not peer.up:
            raise TransportError(f"{peer.name} is not connected")
        return await peer.ask(question, Recalled, question.token, within=_ANSWER_S)

    def _find(self, name: bytes) -> Side:
        for side, _, kept in self._session.conflicts():
            if kept == name:
                return side
        raise PsyncError(
            f"{printable(name)!a} is no version that is kept: psync conflicts lists them"
        )


def _told(side: Side, note: Note) -> dict[str, Any]:
    return {
        "side": side.name.lower(),
        "path": printable(note.path),
        "kept": printable(note.name),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(note.time_ns // 10**9)),
        "reason": printable(note.reason.encode()),
        "size": note.size,
    }


def _text(content: bytes | None) -> str | None:
    return None if content is None else base64.b64encode(content).decode()
