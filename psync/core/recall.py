"""Recognise what an earlier run, or a link that broke, had done and could not tell any more.

What is sent is recorded before (`Intend`). Who comes back finds a side that shows something else
than what was agreed: its user's edit, or our own work. Taken for an edit, our work would be done
to the very side that it came from; taken for ours, an edit would be lost.

**Invariants.** Our own work is what was to be made, byte by byte, at the path at which it was to
be made, and was not at another one before. What is not recognised is an edit.
"""

from __future__ import annotations

from psync.core.entry import Agreed, Entry, Kind, Side
from psync.core.pair import Pair
from psync.core.reconcile import agree
from psync.core.replica import NOTHING, Replica

__all__ = ["Recall"]


class Recall:
    """See the module's text."""

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        self._archive = pair.archive
        self._replicas = pair.replicas

    def is_open(self, path: bytes) -> bool:
        """Tell whether something was meant for a path, and there is something that may be it."""
        if path not in self._pair.intents:
            return False
        return any(replica.shows(path) is not None for replica in self._replicas)

    def settle(self, path: bytes) -> bool:
        """Recognise what was done at a path whose directory is agreed; True: that needs a look.

        It is recognised by what it made, and that by its bytes: equal size and time may be
        what was there before. What is agreed at the path may be something else afterwards.
        """
        base = self._archive.get(path)
        intents = self._pair.intents
        for intent in reversed(intents[path]):
            replica, source = self._replicas[intent.target], self._replicas[1 - intent.target]
            there = replica.view(path, base).entry
            if intent.wanted is None and there is None:
                # Removed by us; what the other side shows, or shows again, has come after that.
                self._hold_view(source, path, base)
                shown = source.shows(path)
                if shown is not None and shown.kind == Kind.DIRECTORY:
                    source.survey.ask(path, deep=True)  # what was agreed in it is so no more
                self._archive.remove(path)
                break
            if intent.wanted is None or intent.source is None or there is None:
                continue
            if not _is_made_as(intent.wanted, there, base.on(replica.side) if base else None):
                continue
            if self._was_elsewhere(replica.side, path, there):
                continue  # its user has renamed it: what is agreed there is still to be settled
            if there.kind == Kind.FILE:
                if intent.wanted.digest and not there.digest:
                    replica.look(path, 2)
                    return True
                if there.digest != intent.wanted.digest or not there.digest:
                    continue
            # A side without news shows what was agreed so far, not what is agreed now.
            for each in self._replicas:
                self._hold_view(each, path, base)
            sides = (intent.source, there) if intent.target else (there, intent.source)
            self._archive.put(path, agree(intent.wanted, *sides))
            break
        del intents[path]
        return False

    def forget(self) -> None:
        """Once both sides are compared with what was agreed, what was not recognised is void."""
        intents = self._pair.intents
        for path in [p for p in intents if p not in self._pair.pending.since]:
            del intents[path]

    def _was_elsewhere(self, side: Side, path: bytes, there: Entry) -> bool:
        """Tell whether what a side shows at a path was agreed at another one, and not here.

        What we make has an inode of its own; one that was given free belonged to another version.
        """
        links = self._archive.find_links(side, there.ino)
        agreed = [base.on(side) for link in links if (base := self._archive.get(link)) is not None]
        return path not in links and any(
            (was.kind, was.size, was.mtime_ns) == (there.kind, there.size, there.mtime_ns)
            for was in agreed
        )

    def _hold_view(self, replica: Replica, path: bytes, base: Agreed | None) -> None:
        """Keep what a side shows without any news, before something else is agreed.

        That is what was agreed, unless it went with a directory above it.
        """
        if path not in replica.views:
            gone = replica.lacks_parent(path)
            replica.views.set(path, NOTHING if gone else replica.view(path, base))


def _is_made_as(wanted: Entry, there: Entry, before: Entry | None) -> bool:
    """Tell whether what is there looks like what was to be made, and is not what was before."""
    if before is not None and there.same_identity(before):
        return False
    if there.kind == wanted.kind == Kind.DIRECTORY:
        return True  # its time has moved on
    return (
        there.kind == wanted.kind
        and there.size == wanted.size
        and there.mtime_ns == wanted.mtime_ns
        and there.target == wanted.target
    )
