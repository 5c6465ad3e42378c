"""What a session says of itself to who looks after it: to systemd, and to people.

The brain gives a look at how things stand (`Facts`) as often as it is asked. To systemd goes
READY when the session watches or is trying to, RELOADING and READY again around another
configuration, what it does (STATUS), and the watchdog's food, which is proof of progress: this loop
runs, and every agent that should have answered a ping has. People are told at once when the
session halts; of what has gone wrong for `lasting` seconds; of conflicts, gathered, every `every`
seconds at most, and at the end; and, of what they were told, when it is over.

**Invariants.** Nobody is told the same twice, not even over a restart: what was told, and what has
not gone everywhere yet, is in the session's directory; the next session goes on with it, also after
a kill. A session knows of no trouble before it meets it: what the one before has told of is over
only when this one has watched long enough without it. What cannot be delivered is kept,
`_UNSENT_MAX` alerts of it, and tried again by the ways that failed; the others get what comes
later. Where there is neither a manager nor anybody to tell nothing here ever wakes up. An alert
that hangs keeps back other alerts only, not the watchdog, and the end for `_LAST_WORDS_S` at most.

It decides nothing about the session.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import msgspec

from psync.alerts import Alert, Alerts, deliver, ways
from psync.effects.console import counted
from psync.effects.log import Logger
from psync.effects.notify import Notifier
from psync.effects.state import SessionDir
from psync.errors import StoreError

__all__ = ["Facts", "Overseer", "Reporter"]

_LOOK_S = 15.0
_RETRY_MIN_S, _RETRY_MAX_S = 60.0, 3600.0  # between two tries to deliver
_UNSENT_MAX = 20
_MEET_S = 12.0  # in which a session that watches finds what is wrong; a flood is counted in 10 s
_LAST_WORDS_S = 3.0  # for an alert that nobody has been told of, at the end
_LISTED_MAX = 20  # lines of a kind in an alert
_HALTED = ("halted", "halts")  # what people know of a halt: in words, and as keys
_SEEN_MAX = 1000  # problems whose age is known, or that people know of


class Facts(NamedTuple):
    """How a session stands.

    Attributes:
        state: as in `psync status`, but that it watches before all is reconciled.
        told: the same in one line, with figures.
        halted: why; empty: it has not.
        halts: the same as keys, which stay the same however it is put.
        troubles: what is wrong now and may pass: a key, and a line.
        alive: every agent that should answer does.
        ready: both replicas are watched, or a side is away and tried again.
    """

    state: str
    told: str
    halted: str
    halts: frozenset[str]
    troubles: list[tuple[str, str]]
    alive: bool
    ready: bool


class Reporter:
    """What of all that people are to be told; see the module's text.

    Times come in as `now`: it has no clock.
    """

    def __init__(self, session: str, alerts: Alerts, told: dict[str, str]) -> None:
        """Begin with what people know already: by key, in words; `_HALTED` are two."""
        self._session = session
        self.alerts = alerts
        self.told = told
        self._since: dict[str, float] = {}
        self._conflicts: list[str] = []
        self._conflicts_more = 0
        self._quiet_until = float("-inf")  # about conflicts
        self._paths_quiet_until = float("-inf")  # about problems at paths
        self._halted: set[str] = set()  # the sides, as found here since all went well
        self._unmet = {key for key in told if key not in _HALTED}  # not found here by now
        self._watched_since: float | None = None  # without a break

    def conflict(self, line: str) -> None:
        """Take notice of a conflict."""
        if len(self._conflicts) < _LISTED_MAX:
            self._conflicts.append(line)
        else:
            self._conflicts_more += 1

    def look(self, facts: Facts, now: float) -> list[Alert]:
        """Return what is to be told now."""
        if facts.state != "watching":
            self._watched_since = None
        elif self._watched_since is None:
            self._watched_since = now
        gathered = self.gathered(now) if now >= self._quiet_until else []
        return [*self._halt(facts, now), *self._troubles(facts, now), *gathered]

    def _has_watched(self, now: float, seconds: float) -> bool:
        """Tell whether both sides have been watched for so long: what was wrong has been met."""
        return self._watched_since is not None and now - self._watched_since >= seconds

    def _halt(self, facts: Facts, now: float) -> list[Alert]:
        known = self.told.get("halted", "")
        sides = {each.partition(" ")[0] for each in facts.halts}
        # A root that is gone, and then there without its marker, is one halt while we look on.
        is_known = self._halted & sides or facts.halts & set(self.told.get("halts", "").split("; "))
        self._halted |= sides
        if facts.halted and not is_known:
            self.told["halted"], self.told["halts"] = facts.halted, "; ".join(sorted(facts.halts))
            text = [
                f"Session {self._session} has halted and replicates nothing:",
                "",
                f"  {facts.halted}",
                "",
                f"A person has to decide. What was found: psync status {self._session}, "
                f"psync log {self._session}. To go on: psync resume {self._session}.",
            ]
            return [self._alert("halted", f"session {self._session} has HALTED", text)]
        is_over = known and not facts.halted and facts.state == "watching"
        if is_over and (self._halted or self._has_watched(now, _MEET_S)):
            self._halted.clear()
            for key in _HALTED:
                self.told.pop(key, None)
            text = [f"Session {self._session} replicates again. It had halted:", "", f"  {known}"]
            return [self._alert("recovered", f"session {self._session} goes on", text)]
        return []

    def _troubles(self, facts: Facts, now: float) -> list[Alert]:
        present = dict(facts.troubles)
        self._unmet -= present.keys()
        fresh = [key for key in present if key not in self.told]
        room = max(0, _SEEN_MAX - len(self.told))
        self._since = {key: self._since.get(key, now) for key in fresh[:room]}
        due = [key for key, since in self._since.items() if now - since >= self.alerts.lasting]
        if facts.halted or (
            now < self._paths_quiet_until and not any(map(_is_of_a_side, due))
        ):
            due = []  # of a halt people know, and nothing is tried before it is over
        alerts = []
        if due:
            if not all(map(_is_of_a_side, due)):
                self._paths_quiet_until = now + self.alerts.every
            self.told.update((key, present[key]) for key in due)
            seconds = max(1, round(self.alerts.lasting))
            minutes = round(seconds / 60)
            lasting = counted(minutes, "minute") if seconds >= 60 else counted(seconds, "second")
            replicates = facts.state in ("watching", "scanning")
            is_rest_fine = replicates and not any(map(_is_of_a_side, present))
            rest = "all else is replicated" if is_rest_fine else "nothing is replicated meanwhile"
            text = [
                f"Session {self._session} has had this trouble for {lasting}; {rest}, and this is "
                "tried again:",
                "",
                *_listed([present[key] for key in due]),
            ]
            lasts = f"{counted(len(due), 'problem')} that last{'s' * (len(due) == 1)}"
            subject = f"session {self._session}: {lasts}"
            alerts.append(self._alert("problems", subject, text))
        known = [key for key in self.told if key not in _HALTED]
        if known and not due and not any(key in present for key in known):
            if facts.state != "watching":  # nothing is known of what is not watched
                return alerts
            if self._unmet and not self._has_watched(now, max(self.alerts.lasting, _MEET_S)):
                return alerts
            self._unmet.clear()
            text = [f"Session {self._session} has got over this:", ""]
            text += _listed([self.told.pop(key) for key in known])
            more = " or more" if len(known) + len(_HALTED) >= _SEEN_MAX else ""
            count = counted(len(known), "problem")
            subject = f"session {self._session}: {count}{more} solved"
            alerts.append(self._alert("recovered", subject, text))
        return alerts

    def gathered(self, now: float) -> list[Alert]:
        """Return what is to be told of conflicts, whether it is time for it or not."""
        if not self._conflicts:
            return []
        self._quiet_until = now + self.alerts.every
        lines, more = self._conflicts, self._conflicts_more
        self._conflicts, self._conflicts_more = [], 0
        text = [
            "Both sides have changed the same. Nothing is lost: psync conflicts "
            f"{self._session} lists what was kept.",
            "",
            *_listed(lines, more),
        ]
        count = counted(len(lines) + more, "conflict")
        return [self._alert("conflicts", f"session {self._session}: {count}", text)]

    def _alert(self, event: str, subject: str, lines: list[str]) -> Alert:
        return Alert(event, self._session, subject, lines)


def _is_of_a_side(key: str) -> bool:
    """Tell whether a trouble is a whole side's, or the state's: that does not wait for others."""
    return key == "state" or key.startswith("away ")


def _listed(lines: list[str], more: int = 0) -> list[str]:
    more += max(0, len(lines) - _LISTED_MAX)
    listed = [f"  {line}" for line in lines[:_LISTED_MAX]]
    return [*listed, f"  and {more:,} more"] if more else listed


class _Unsent(NamedTuple):
    """An alert that has not gone everywhere, and by which ways it has."""

    alert: Alert
    told: set[str]


def _left_over(facts: dict[str, Any]) -> list[_Unsent]:
    """What an earlier run could not deliver, as `Overseer._remember` wrote it."""
    try:
        return msgspec.convert(facts.get("unsent", []), list[_Unsent])
    except msgspec.ValidationError:
        return []


class Overseer:
    """Looks at the session from time to time, and passes on what it sees."""

    def __init__(
        self, state: SessionDir, alerts: Alerts, log: Logger, notifier: Notifier | None = None
    ) -> None:
        """Prepare to report on a session; its directory is there."""
        self._state = state
        self._alerts = alerts
        self._log = log
        self._notifier = notifier or Notifier({})
        facts = state.described("alerts.json")
        told = {k: v for k, v in facts.items() if isinstance(v, str)}
        self._reporter = Reporter(state.name, alerts, told)
        self._unsent = deque(_left_over(facts), maxlen=_UNSENT_MAX)
        self._waiting: set[str] = set()  # the ways that have failed, until they are tried again
        self._retry_at = float("-inf")
        self._retry_s = _RETRY_MIN_S
        self._said: dict[str, str] = {}  # of what failed, by way
        self._delivery: asyncio.Task[None] | None = None
        self._is_ready = False
        self._status = ""
        self._look_now = asyncio.Event()
        self._forget_ways()

    @property
    def alerts(self) -> Alerts:
        """Who is told by now, and how."""
        return self._alerts

    @property
    def tells(self) -> bool:
        """Whether people are told by the session itself."""
        return self._alerts.enabled

    def conflict(self, line: str) -> None:
        """Take notice of a conflict, to be told of with others."""
        if self.tells:
            self._reporter.conflict(line)
            self._look_now.set()

    def wake(self) -> None:
        """Look at the session now: something has happened that somebody waits for."""
        self._look_now.set()

    def look(self, facts: Facts) -> None:
        """Take notice of how things stand, which may be otherwise soon."""
        if self.tells:
            self._tell_people(facts)

    def take_over(self, alerts: Alerts) -> None:
        """Tell other people, or otherwise, from now on."""
        self._alerts = self._reporter.alerts = alerts
        self._forget_ways()
        self._look_now.set()

    def _forget_ways(self) -> None:
        """Keep nothing that failed only by a way that is there no more."""
        for each in [each for each in self._unsent if each.told.issuperset(ways(self._alerts))]:
            self._unsent.remove(each)

    async def watch(self, facts: Callable[[], Facts]) -> None:
        """Report until cancelled; where nobody listens it only sleeps."""
        try:
            while True:
                self._look_now.clear()
                if self._notifier.listens or self.tells:
                    now = facts()
                    self._tell_manager(now)
                    if self.tells:
                        self._tell_people(now)
                try:
                    async with asyncio.timeout(self._pause()):
                        await self._look_now.wait()
                except TimeoutError:
                    pass
        finally:
            self._pass_on(self._reporter.gathered(time.monotonic()))
            if self._delivery is not None:
                if not self._is_told:
                    await asyncio.wait([self._delivery], timeout=_LAST_WORDS_S)
                self._delivery.cancel()
                await asyncio.gather(self._delivery, return_exceptions=True)

    def _pause(self) -> float | None:
        """Seconds until the next look; None: there is none unless something happens."""
        if not (self._notifier.listens or self.tells):
            return None
        pause = _LOOK_S
        if self._notifier.watchdog_s is not None:
            pause = min(pause, self._notifier.watchdog_s / 3)
        if self.tells:
            pause = min(pause, max(0.1, self._alerts.lasting / 4))
        return pause

    @contextlib.contextmanager
    def reloading(self) -> Iterator[None]:
        """Say that another configuration is taken over, and after the block that this is done."""
        if not self._is_ready:  # READY would be a lie, and it is said soon
            yield
            return
        # The clock that systemd tells an earlier READY from this one by.
        self._notifier.tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            yield
        finally:
            self._notifier.tell("READY=1")

    def stopping(self) -> None:
        """Say that the session ends."""
        self._notifier.tell("STOPPING=1")

    def _tell_manager(self, facts: Facts) -> None:
        news = []
        if facts.ready and not self._is_ready:
            self._is_ready = True
            news.append("READY=1")
        if facts.told != self._status:
            self._status = facts.told
            news.append(f"STATUS={facts.told}")
        if facts.alive and self._notifier.watchdog_s is not None:
            news.append("WATCHDOG=1")
        if news:
            self._notifier.tell(*news)

    def _tell_people(self, facts: Facts) -> None:
        self._pass_on(self._reporter.look(facts, time.monotonic()))

    def _pass_on(self, alerts: list[Alert]) -> None:
        if alerts:
            self._unsent.extend(_Unsent(alert, set()) for alert in alerts)
            self._remember()
        if self._delivery is None or self._delivery.done():
            if time.monotonic() >= self._retry_at:
                self._waiting.clear()
            if self._next() is not None:
                self._delivery = asyncio.create_task(self._deliver())

    @property
    def _is_told(self) -> bool:
        """Whether each alert has come to somebody."""
        return all(each.told for each in self._unsent)

    def _remember(self) -> None:
        """Write down what people know, and what is still to be delivered of it."""
        facts: dict[str, Any] = dict(self._reporter.told)
        if self._unsent:
            facts["unsent"] = [[each.alert, sorted(each.told)] for each in self._unsent]
        try:
            self._state.describe(facts, "alerts.json")
        except StoreError as error:
            self._log.warning("alert.forgotten", reason=str(error))

    def _next(self) -> _Unsent | None:
        """The first alert that is to go by a way that does not just wait to be tried again."""
        open_ways = set(ways(self._alerts)) - self._waiting
        return next((each for each in self._unsent if open_ways - each.told), None)

    async def _deliver(self) -> None:
        """Deliver what waits, by each way in order; a way that fails keeps back no other."""
        while (each := self._next()) is not None:
            alerts = self._alerts
            failed = await deliver(alerts, each.alert, each.told | self._waiting)
            for way, line in failed.items():
                if self._said.get(way) != line:
                    self._log.warning("alert.failed", what=each.alert.event, reason=line)
            each.told.update(set(ways(alerts)) - self._waiting - set(failed))
            self._said = {way: line for way, line in self._said.items() if way not in each.told}
            self._said.update(failed)
            if failed and not self._waiting:
                self._retry_at = time.monotonic() + self._retry_s
                self._retry_s = min(2 * self._retry_s, _RETRY_MAX_S)
            self._waiting.update(failed)
            if each.told.issuperset(ways(alerts)):
                self._log.info("alert.sent", what=each.alert.event, subject=each.alert.subject)
                if each in self._unsent:  # not pushed out meanwhile
                    self._unsent.remove(each)
            self._remember()
        if not self._waiting:
            self._retry_s = _RETRY_MIN_S
