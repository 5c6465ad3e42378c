"""What a session hears and what it asks for: the words it exchanges with whoever drives it.

Values only. The driver (`psync/brain.py`, or the simulation in the tests) makes events of
what happens and carries out commands in their order; `core.session` does the rest.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from psync.core.archive import Change
from psync.core.entry import Entry, Side
from psync.wire import Message

__all__ = [
    "Command",
    "Event",
    "FullSync",
    "Intend",
    "Intent",
    "Limits",
    "Note",
    "Paused",
    "Problem",
    "Resumed",
    "Retry",
    "Said",
    "Send",
    "SideDown",
    "SideUp",
    "State",
    "Transfer",
    "Transferred",
]


# --- events -----------------------------------------------------------------------------


class SideUp(NamedTuple):
    """An agent has begun to watch and scan this side.

    `rebooted`: its host or file system may have lost what was not durable since the side was up
    last.
    `accepted`: a person has said that what is missing from it is to be deleted.
    `cut_ns`: by its clock, when its host's power may have been cut last, in ns; 0: never.
    """

    side: Side
    rebooted: bool = False
    accepted: bool = False
    cut_ns: int = 0


class SideDown(NamedTuple):
    """An agent is gone; what it was asked is open."""

    side: Side


class Said(NamedTuple):
    """An agent sent a message."""

    side: Side
    message: Message


class Transferred(NamedTuple):
    """A transfer ended. `staged` names it in the target's staging; empty: it failed.

    `torn`: the source changed while it was read; nothing is wrong, it is looked at again.
    """

    op: int
    staged: bytes
    torn: bool = False
    message: str = ""


class Paused(NamedTuple):
    """Begin nothing new until `Resumed`."""


class Resumed(NamedTuple):
    """Go on; `accept`: also after a halt, its cause is accepted."""

    accept: bool = False


class Retry(NamedTuple):
    """Try every problem again now."""


class FullSync(NamedTuple):
    """Scan both sides and compare all of it, whatever the agents have told; all else goes on."""


Event = SideUp | SideDown | Said | Transferred | Paused | Resumed | Retry | FullSync


# --- commands ---------------------------------------------------------------------------


class Send(NamedTuple):
    """Send a message to a side's agent."""

    side: Side
    message: Message


class Transfer(NamedTuple):
    """Bring a large file's content into the target's staging, then report `Transferred`.

    `basis` is the path on the target whose content may be like it (empty: none).
    """

    op: int
    source: Side
    path: bytes
    entry: Entry
    basis: bytes


class Intent(NamedTuple):
    """What a side is about to be made to hold: lets a later start recognise its own work.

    `moved_from` is for a rename the old path: what was meant for paths below it may be found
    below `path`.
    """

    path: bytes
    target: int
    wanted: Entry | None
    source: Entry | None
    moved_from: bytes = b""


class Intend(NamedTuple):
    """Record this in a log, before the commands that follow; a later start is given all of it.

    `agreed` is what has come to be agreed, `intents` is what is about to be done.
    """

    intents: list[Intent]
    agreed: list[Change]


class Note(NamedTuple):
    """Something to tell people: a stable `event` name and its facts; of a rename the old path."""

    event: str
    side: Side | None
    path: bytes
    text: str
    moved_from: bytes = b""


Command = Send | Transfer | Intend | Note


# --- what may be asked ------------------------------------------------------------------


class State(IntEnum):
    """What a session is doing, for people."""

    STARTING = 0
    SCANNING = 1
    WATCHING = 2
    PAUSED = 3
    DISCONNECTED = 4
    HALTED = 5


class Problem(NamedTuple):
    """A path that could not be handled; it is tried again at `due`.

    `passing`: what is in the way passes by itself.
    """

    path: bytes
    side: Side
    message: str
    attempts: int
    due: float
    passing: bool = False


class Limits(NamedTuple):
    """Bounds and policies of a session.

    Attributes:
        inline_max: content up to so many bytes travels in frames.
        views_max: so many paths with news on one side; past it the side is scanned anew.
        contents_max: bytes of content kept for a side until they can be sent; past it they
            are asked for again when needed.
        max_delete: what may be deleted at once: a share of the archive, if it has at least
            `max_delete_min` entries, or, as an int, so many entries.
        max_rewrite: how many files may be replaced within a minute because they were edited on the
            other side: so many, or a share of the archive (of `max_delete_min` entries at least);
            None: any number.
        compare: reconcile what a scan shows; False: trust that it is as agreed.
        favoured: whose version wins a conflict; None: the newer.
        ask: nothing is done about a conflict until a person has chosen a side.
        meta_from: the side whose mode, owner and attributes count; None: those of both.
        force: a directory that holds what is not replicated is removed with it, and kept.
    """

    inline_max: int = 256 * 1024
    views_max: int = 500_000
    contents_max: int = 64 * 1024 * 1024
    max_delete: float | int = 0.5
    max_delete_min: int = 100
    max_rewrite: float | int | None = None
    compare: bool = True
    favoured: Side | None = None
    ask: bool = False
    meta_from: Side | None = None
    force: bool = False
