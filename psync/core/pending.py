"""The paths that are not at rest, and what each of them waits for.

A path with news is *dirty* and is decided soon. If something stands in its way it is
*held* by another path, or put off until a time, or somebody who asked a question has it, or a
person is *asked*; it is dirty again as soon as that is over. `since` says from when its news is,
so that a flush knows what it waits for.

**Invariants.** A path in `since` is dirty, held, put off, or waits for an answer of an
agent or of a person: never nothing. Order is the order of events; nothing here depends on hashes.
"""

from __future__ import annotations

import math

from psync.core.entry import Side, is_below, parent
from psync.core.events import Problem

__all__ = ["QUIET_ATTEMPTS", "Pending"]

QUIET_ATTEMPTS = 3  # a problem that goes away by itself so soon is nobody's business
LASTING_ATTEMPTS = 7  # within 6 s; nobody waits for one that has not gone by then
_RETRY_MIN = 0.05
_RETRY_MAX = 60.0
_RETRY_SOON_MAX = 2.0


class Pending:
    """See the module's text.

    Attributes:
        now: the time of the event that is being dealt with.
        sequence: how many observations there have been.
        since: for each path not at rest, the sequence number of its oldest news.
        problems: paths that are put off.
        asked: paths that wait for a person's word, and what for.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.sequence = 0
        self.since: dict[bytes, int] = {}
        self.dirty: dict[bytes, None] = {}
        self.held: dict[bytes, dict[bytes, None]] = {}
        self._holders: dict[bytes, bytes] = {}
        self.problems: dict[bytes, Problem] = {}
        self.asked: dict[bytes, Problem] = {}
        self._told: set[bytes] = set()  # of what a person has heard already that it is asked
        self._retry_at = math.inf

    def touch(self, path: bytes, sequence: int | None = None) -> None:
        """A path has news (or may go on); `sequence`: the news is that old at least."""
        self.dirty[path] = None
        if sequence is None:
            sequence = self.sequence
        if self.since.setdefault(path, sequence) > sequence:
            self.since[path] = sequence

    def hold(self, path: bytes, holder: bytes) -> None:
        """Let a path wait until something happens at another."""
        if self._holders.get(path, holder) != holder:
            self._let_go(path)
        self.held.setdefault(holder, {})[path] = None
        self._holders[path] = holder

    def waits_for(self, path: bytes) -> bytes | None:
        """The path that a path is held by."""
        return self._holders.get(path)

    def _let_go(self, path: bytes) -> None:
        """A path waits for nobody any more."""
        holder = self._holders.pop(path, None)
        if holder is not None:
            waiting = self.held[holder]
            del waiting[path]
            if not waiting:
                del self.held[holder]

    def release(self, holder: bytes) -> None:
        """Something happened at a path: who waited for it may go on."""
        waiting = self.held.pop(holder, None)
        if waiting:
            for path in waiting:
                del self._holders[path]
            self.dirty.update(waiting)

    def release_all(self) -> None:
        """Let everybody go on who waits for another path."""
        for holder in list(self.held):
            self.release(holder)

    def rest(self, path: bytes) -> None:
        """A path is at rest."""
        self.since.pop(path, None)
        self.problems.pop(path, None)
        self.asked.pop(path, None)
        self._told.discard(path)
        self._let_go(path)
        self.release(path)

    # --- people --------------------------------------------------------------------------

    def ask(self, path: bytes, side: Side, message: str) -> bool:
        """Let a path wait for a person's word; tell whether he has not heard of it yet."""
        self._let_go(path)
        self.problems.pop(path, None)
        self.asked[path] = Problem(path, side, message, 0, math.inf)
        is_new = path not in self._told
        self._told.add(path)
        return is_new

    def ask_anew(self) -> None:
        """What a person was asked may be another question now."""
        self.dirty.update(dict.fromkeys(self.asked))
        self.asked.clear()

    @property
    def asleep(self) -> int:
        """How many paths only a person's word brings to rest: those, and who waits for them."""
        if not self.asked:
            return 0
        count = len(self.asked)
        holders = list(self.asked.keys() & self.held.keys())
        while holders:
            waiting = self.held.get(holders.pop(), {})
            count += len(waiting)
            holders.extend(waiting)
        return count

    def asleep_below(self, directory: bytes) -> bytes | None:
        """A path in a directory that only a person's word brings to rest, if there is one."""
        inside = (p for p in self.since if is_below(p, directory) and self.is_asleep(p))
        return next(inside, None) if self.asked else None

    def is_asleep(self, path: bytes) -> bool:
        """Tell whether only a person's word brings a path to rest."""
        problem = self.lasting(path)
        return problem is not None and problem.path in self.asked

    # --- problems ------------------------------------------------------------------------

    def fail(self, path: bytes, side: Side, message: str, *, soon: bool = False) -> int:
        """A path could not be handled: try again later; return how often that was so.

        `soon`: what is in the way passes by itself.
        """
        attempts = self._attempts(path) + 1
        wait = min(_RETRY_MIN * 2**attempts, _RETRY_SOON_MAX if soon else _RETRY_MAX)
        self._put_off(Problem(path, side, message, attempts, self.now + wait, soon))
        return attempts

    def changed(self, path: bytes, side: Side) -> None:
        """A path was not as believed: it is looked at again, but not for ever at once."""
        attempts = self._attempts(path) + 1
        wait = 0.0
        if attempts >= QUIET_ATTEMPTS:
            wait = min(_RETRY_MIN * 2**attempts, _RETRY_MAX)
        self._put_off(Problem(path, side, "it keeps changing", attempts, self.now + wait, True))

    def _attempts(self, path: bytes) -> int:
        known = self.problems.get(path)
        return min(known.attempts, 30) if known is not None else 0

    def _put_off(self, problem: Problem) -> None:
        self.problems[problem.path] = problem
        self._retry_at = min(self._retry_at, problem.due)

    def is_put_off(self, path: bytes) -> bool:
        """Tell whether a path has to wait for its time."""
        problem = self.problems.get(path)
        return problem is not None and problem.due > self.now

    def lasting(self, path: bytes) -> Problem | None:
        """What keeps a path, or whom it waits for, from coming to rest, however long one waits."""
        seen: set[bytes] = set()
        while path not in seen:
            seen.add(path)
            if path in self.asked:
                return self.asked[path]
            problem = self.problems.get(path)
            if problem is not None and problem.attempts >= LASTING_ATTEMPTS:
                if problem.due > self.now and not problem.passing:
                    return problem
            path = self._holders.get(path, path)
        return None

    def stuck(self) -> set[bytes]:
        """The paths that `lasting` keeps from coming to rest, and all that wait for them."""
        found = {path for path in self.problems if self.lasting(path) is not None} | set(self.asked)
        holders = list(found)
        while holders:
            waiting = self.held.get(holders.pop(), {}).keys() - found
            found |= waiting
            holders.extend(waiting)
        return found

    def hurry(self, path: bytes) -> None:
        """Something happened at a path that is put off: that may help."""
        problem = self.problems.get(path)
        if problem is not None and problem.due > self.now:
            self._put_off(problem._replace(due=self.now))

    def hurry_in(self, directory: bytes) -> None:
        """Something happened to a directory that may help what is put off in it."""
        for path in [p for p in self.problems if parent(p) == directory]:
            self.hurry(path)

    def hurry_all(self) -> None:
        """Try every problem again now."""
        for path in list(self.problems):
            self.hurry(path)

    def retry(self) -> None:
        """Make dirty what has been put off until now."""
        if not self.problems or self.now < self._retry_at:
            return
        self._retry_at = math.inf
        for problem in self.problems.values():
            if problem.due <= self.now:
                self.dirty[problem.path] = None
            else:
                self._retry_at = min(self._retry_at, problem.due)

    @property
    def deadline(self) -> float | None:
        """When `retry` has something to do."""
        return self._retry_at if self.problems and self._retry_at != math.inf else None
