"""Is every session alive from end to end? The question for cron, a timer, or a monitoring system.

    psync runcheck [NAME...]

A process list proves nothing: a session is alive when a file that its agents write on either
side is seen by the kernel, cinotify, the filter and the brain, and what was done before it is on
the other side. So each session is asked for a heartbeat (the brain's `beat`): both agents write
one to the disk of their replica and see it come back, which goes through everything that a
change goes through but the transfer of content; the lag is how long it takes until all that was
on its way is where it belongs. That content is the same is for the audit to say: the last
`psync check` is looked at as well. No file of a user's is made up for it.

**Invariants.** Nothing that is halted, paused or stopped on purpose is started, ended or resumed: a
person has said so, or has to. What is dead is started at once, what does not answer only when it
was found so `after` times in a row: a busy disk can make a session slow. People are told once when
something is wrong for so long, once more when it gets worse, and once when it is over, or when no
more than a warning is left for so long; and not of what a session that runs tells by itself. One
that runs, and could not be started again, is named before it has to be. What was found is in
`runcheck.json` in the session's directory. A session that nobody names, neither the configuration
nor the command line, may end in good order; only if it dies, having replicated something, is that
told. One that is configured to end by itself is not started here: who runs it (cron) does that; how
it ended last is what counts.

Exit codes are those of monitoring plugins: 0 all is well, 1 look at it when you can, 2 nothing is
replicated as it should be, 3 it cannot be told. There is one line a session, the worst first.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec

from psync.alerts import Alert, Alerts, deliver, ways
from psync.config import load_table, seconds_of
from psync.control import NoSession, Refused, Unanswered, call
from psync.effects.console import counted, duration, harmless
from psync.effects.state import SessionDir
from psync.errors import ConfigError, PsyncError, StoreError
from psync.launch import Unit, end_hung, find_unit, start
from psync.overview import remembered

__all__ = ["CRITICAL", "OK", "UNKNOWN", "WARNING", "Finding", "Rules", "load_rules", "runcheck"]

OK, WARNING, CRITICAL, UNKNOWN = range(4)
WORDS = ("OK", "WARNING", "CRITICAL", "UNKNOWN")
_ANSWER_S = 5.0
_GRACE_S = 5.0  # for the answer itself
_AHEAD_S = 300.0  # so far ahead may a time be that another clock has told
_FRESH_S = 120.0  # a session that has just been started may still be on its way

_Seconds = Annotated[float, msgspec.Meta(gt=0, le=86400)]


class Rules(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """`[runcheck]`: what counts as trouble, and what is done about it.

    Attributes:
        after: so many times in a row before people are told, and before what hangs is ended.
        lag: seconds within which what is done on one side has to be on the other.
        audit_age: how old the last audit may be, like `36h`; empty: any age, or none at all.
        restart: start what is dead.
    """

    after: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 2
    lag: _Seconds = 60.0
    audit_age: str = ""
    restart: bool = True

    @property
    def audit_age_s(self) -> float:
        """How old the last audit may be, in seconds; infinite: any age."""
        return seconds_of(self.audit_age) if self.audit_age else float("inf")


class Finding(NamedTuple):
    """How a session was found.

    Attributes:
        session: its name.
        code: `OK`, `WARNING`, `CRITICAL` or `UNKNOWN`.
        text: a line that says what, with figures.
        is_dead: no process of it runs, and nobody wanted that.
        is_hung: its process does not answer.
        is_told: people are told of it by somebody else, or have done it themselves.
        figures: for programs.
    """

    session: str
    code: int
    text: str
    is_dead: bool = False
    is_hung: bool = False
    is_told: bool = False
    figures: dict[str, Any] = {}  # noqa: RUF012  # never changed


def load_rules(file: Path | None) -> Rules:
    """Read `[runcheck]`. Raises ConfigError."""
    rules = load_table(file, "runcheck", Rules)
    try:
        rules.audit_age_s  # noqa: B018
    except ValueError:
        raise ConfigError(
            f"{file}: [runcheck]: audit_age: {rules.audit_age!a} is neither a time like 36h or 7d "
            "nor empty"
        ) from None
    return rules


async def runcheck(
    sessions: list[SessionDir],
    rules: Rules,
    alerts: Alerts,
    config: Path | None,
    startable: Collection[str],
    named: Collection[str],
    faults: Mapping[str, str],
    ending: Collection[str] = (),
) -> tuple[list[Finding], list[str]]:
    """Look at sessions, at all of them at once; start what is dead; tell people.

    Args:
        sessions: which ones.
        rules: what counts.
        alerts: who is told.
        config: the file that the user has named for them; None: where psync looks for it.
        startable: the names of those that are configured, so that they can be started.
        named: the names of those that are to run; the others may have ended.
        faults: why those cannot be started that are not configured as they should be.
        ending: the names of those that are to end by themselves.

    Returns:
        what was found, the worst first; and what went wrong while people were told.
    """
    stays = msgspec.structs.replace(rules, restart=False)
    seen = await asyncio.gather(
        *(
            _see_to(
                each, rules if each.name in startable else stays, alerts, config,
                is_named=each.name in named, fault=faults.get(each.name, ""),
                is_ending=each.name in ending,
            )
            for each in sessions
        )
    )  # fmt: skip
    findings = [finding for finding, _ in seen]
    findings.sort(key=lambda f: (-f.code, f.session))
    return findings, [line for _, lines in seen for line in lines]


async def _see_to(
    session: SessionDir,
    rules: Rules,
    alerts: Alerts,
    config: Path | None,
    *,
    is_named: bool,
    fault: str,
    is_ending: bool,
) -> tuple[Finding, list[str]]:
    memory = session.described("runcheck.json")
    unit = await find_unit(session.name)
    is_named = is_named or unit is not None
    absent = partial(_ended, is_ending=is_ending)
    if is_named and not is_ending:
        absent = partial(_absent, unit=unit)
    finding = await asyncio.to_thread(_look, session, rules, absent)
    if fault and not finding.is_dead:
        finding = _named_too(finding, fault)
    # Below 0: others tell of it. For what was not found so often yet, nothing was wrong before.
    codes = [OK] * rules.after + [int(code) for code in memory.get("codes") or []]
    codes = [*codes, -finding.code if finding.is_told else finding.code][-rules.after :]
    lasting, worst = min(codes), max(map(abs, codes))
    times = int(memory.get("times") or 0) + 1 if codes[-1] > OK else 0
    if rules.restart and (finding.is_dead or (finding.is_hung and lasting >= CRITICAL)):
        finding = await _start_again(session, finding, config, unit, fault)
    lasting = min(lasting, finding.code)
    told, was, failed = _known(memory, alerts), str(memory.get("text", "")), {}
    due = [way for way, code in told.items() if lasting > code or lasting == CRITICAL < code]
    alert, heard = _trouble(finding, times), finding.code
    if not due and worst <= WARNING:  # after `after` times only, but what is well is well
        due = [way for way, code in told.items() if code >= CRITICAL]
        heard = max(codes[-1], OK)
        alert = _over(finding, was)
    if finding.code == OK:
        due = [way for way, code in told.items() if code]
        alert, heard = _over(finding, was), OK
    if due:
        failed = await deliver(alerts, alert, [way for way in told if way not in due])
        told.update((way, heard) for way in due if way not in failed)
        was = finding.text if finding.code and len(failed) < len(due) else was
    facts = {
        "time": time.time(), "code": finding.code, "found": finding.text, "codes": codes,
        "times": times, "told": told, "text": was if any(told.values()) else "",
    }  # fmt: skip
    try:
        session.make()
        session.describe(facts, "runcheck.json")
    except (OSError, StoreError) as error:
        failed["state"] = f"what was found cannot be remembered: {error}"
    return finding, list(dict.fromkeys(failed.values()))


def _known(memory: dict[str, Any], alerts: Alerts) -> dict[str, int]:
    """How bad those know that it is who are told by each way."""
    told = memory.get("told")
    codes = told if isinstance(told, dict) else {}
    return {way: int(codes.get(way) or OK) for way in ways(alerts)}


# --- looking ------------------------------------------------------------------------------


def _look(
    session: SessionDir, rules: Rules, absent: Callable[[SessionDir], Finding]
) -> Finding:
    """See how a session is; may take as long as its lag may be.

    Args:
        session: which one.
        rules: what counts.
        absent: says what it means that nobody answers for it.
    """
    name = session.name
    try:
        told = call(session.path, "status", timeout=_ANSWER_S)
    except NoSession:
        return absent(session)
    except Unanswered as error:
        return Finding(name, CRITICAL, f"{error}: it hangs", is_hung=True)
    except (Refused, StoreError) as error:
        return Finding(name, UNKNOWN, str(error))
    if (finding := _at_rest(name, told)) is not None:
        return finding
    try:
        beat = call(session.path, "beat", {"within": rules.lag}, rules.lag + _GRACE_S)
        told = call(session.path, "status", timeout=_ANSWER_S)  # one just started knew no problem
    except (NoSession, Unanswered) as error:
        return Finding(name, CRITICAL, f"no heartbeat: {error}", is_hung=True)
    except Refused as error:
        return Finding(name, UNKNOWN, str(error))
    if (finding := _at_rest(name, told)) is not None:
        return finding
    figures = {**_figures(told), **beat}
    troubles = [*_beats(told, beat, rules), *_audits(session, rules)]
    if not troubles:
        lag = f"heartbeat {beat['heartbeat_s']:.3f} s, lag {beat['lag_s']:.3f} s"
        counts = ", ".join(counted(told.get(key + "s", 0), key) for key in ("conflict", "problem"))
        return Finding(name, OK, f"{told.get('state')}; {lag}, {counts}", figures=figures)
    code = max(code for code, _, _ in troubles)
    # What is the session's own to tell is its own only when there is nothing else.
    is_told = all(own and told.get("alerts") for _, own, _ in troubles)
    text = "; ".join(text for _, _, text in troubles)
    return Finding(name, code, text, is_told=is_told, figures=figures)


def _at_rest(name: str, told: dict[str, Any]) -> Finding | None:
    """Say that a session waits for a person; None: it does not."""
    if told.get("state") == "halted":
        text, is_told = f"halted: {told.get('halted')}", bool(told.get("alerts"))
        return Finding(name, CRITICAL, text, is_told=is_told, figures=_figures(told))
    if told.get("state") == "paused":
        return Finding(name, WARNING, "paused", is_told=True, figures=_figures(told))
    return None


def _named_too(finding: Finding, fault: str) -> Finding:
    """Say as well that a session could not be started again, and why."""
    why = f"could not be started again: {fault}"
    if finding.code == OK:  # the figures are of no interest then
        return finding._replace(code=WARNING, text=f"{finding.figures.get('state')}, but {why}")
    # For what was stopped on purpose nobody is called; of any other nobody else tells this.
    return finding._replace(
        text=f"{finding.text}; {why}", is_told=finding.is_told and not finding.figures
    )


def _figures(told: dict[str, Any]) -> dict[str, Any]:
    keys = ("state", "pid", "pending", "conflicts", "problems", "last_change")
    return {key: told.get(key) for key in keys}


def _absent(session: SessionDir, unit: Unit | None) -> Finding:
    """Say why nobody answers for a session."""
    if session.stopped:
        return Finding(session.name, WARNING, "stopped on purpose (psync stop)", is_told=True)
    if unit is not None and unit.state in ("inactive", "deactivating"):
        text = f"stopped on purpose (systemctl stop {unit.name})"
        return Finding(session.name, WARNING, text, is_told=True)
    if unit is not None and unit.state == "activating":
        return Finding(session.name, CRITICAL, f"down; systemd is starting {unit.name}")
    return Finding(session.name, CRITICAL, "down: no process of it answers", is_dead=True)


def _ended(session: SessionDir, *, is_ending: bool) -> Finding:
    """Say how a session ended that nobody has named, or that is to end by itself."""
    told = remembered(session)
    if told["state"] == "starting":
        return Finding(session.name, WARNING, "starting, or about to end", is_told=True)
    if is_ending and session.fresh:
        text = "has not run yet; it is to end by itself, and is not started here"
        return Finding(session.name, WARNING, text, is_told=True)
    if told["state"] == "stopped":
        why = "as it is configured to" if is_ending else "and nobody has named it"
        return Finding(session.name, OK, f"ended in good order, {why}")
    how = f"with status {told['exit']}" if told["exit"] and not told["pid"] else "without a word"
    if not told["missed"] and not is_ending:
        return Finding(session.name, OK, f"ended {how}; its sides had never agreed on anything")
    return Finding(session.name, CRITICAL, f"down: it ended {how}")


def _beats(
    told: dict[str, Any], beat: dict[str, Any], rules: Rules
) -> list[tuple[int, bool, str]]:
    """What is wrong with the session itself: how much, whether it tells of it, and what."""
    found = []
    if beat.get("heartbeat_s") is None or beat.get("lag_s") is None:
        found.append(_late(told, beat, rules))
    if told.get("trouble"):
        found.append((CRITICAL, True, f"nothing is replicated: {told['trouble']}"))
    if told.get("problems"):
        first = (told.get("problem_list") or [{}])[0]
        count = counted(told["problems"], "problem")
        text = f"{count}, like {first.get('side')} {first.get('path')}"
        found.append((WARNING, True, f"{text}: {first.get('message')}"))
    return found


def _late(told: dict[str, Any], beat: dict[str, Any], rules: Rules) -> tuple[int, bool, str]:
    """Say why a heartbeat, or what it was to follow, has not arrived."""
    sides = [(name, told.get(name, {})) for name in ("left", "right")]
    sides.sort(key=lambda each: bool(each[1].get("waits")))  # why comes before what follows of it
    away = [
        f"{name} is not connected: {side.get('trouble') or 'not yet'}"
        for name, side in sides
        if not side.get("connected", True)
    ]
    state = told.get("state")
    age = time.time() - float(told.get("started") or 0)
    if state in ("starting", "scanning") and age < max(_FRESH_S, rules.lag):
        return WARNING, True, f"{state}, started {duration(age)} ago"
    if away:
        return CRITICAL, True, "; ".join(away)
    if beat.get("heartbeat_s") is None:
        if state == "scanning":  # of a large tree it takes long; it is under way
            return WARNING, False, f"still scanning: no heartbeat within {rules.lag:g} s"
        text = f"no heartbeat within {rules.lag:g} s, while it says that it is {state}"
        return CRITICAL, False, text
    pending = f"{told.get('pending', 0):,} pending"
    return WARNING, False, f"lag above {rules.lag:g} s ({pending})"


def _audits(session: SessionDir, rules: Rules) -> list[tuple[int, bool, str]]:
    """What is wrong with the last audit."""
    last = session.described("audit.json")
    if not last:
        missing = (WARNING, False, "there was no audit yet (psync check)")
        return [missing] if rules.audit_age else []
    found = []
    age = time.time() - _when(last.get("looked", last.get("time")))
    if age > rules.audit_age_s:
        found.append((WARNING, False, f"the last audit is {age / 3600:,.0f} hours old"))
    elif rules.audit_age and age < -_AHEAD_S:
        found.append((WARNING, False, "the last audit is of the future: has the clock been set?"))
    if last.get("failed"):  # and an earlier verdict stands
        found.append((WARNING, False, f"the last audit failed: {last['failed']}"))
    code = last.get("exit", last.get("code"))
    counts = ", ".join(f"{n:,} {what}" for what, n in (last.get("counts") or {}).items() if n)
    told = f": {last.get('error') or counts}".removesuffix(": ")
    verdicts = {
        1: (WARNING, f"the last audit failed{told}"),
        2: (CRITICAL, f"the last audit found an alert{told}"),
        3: (WARNING, f"the last audit found differences{told}"),
    }
    if code in verdicts:
        how_bad, text = verdicts[code]
        # Whose alert has gone out is known; nothing else about it is.
        found.append((how_bad, bool(last.get("alerted")), text))
    return found


def _when(value: object) -> float:
    """A time as `time.time` gives it, of such a number or of ISO 8601; else of long ago."""
    if isinstance(value, int | float):
        return float(value)
    try:
        return datetime.fromisoformat(str(value)).timestamp()
    except ValueError:
        return 0.0


# --- doing --------------------------------------------------------------------------------


async def _start_again(
    session: SessionDir, finding: Finding, config: Path | None, unit: Unit | None, fault: str
) -> Finding:
    """Start what was found dead, or end what hangs and start it; but not what is at `fault`."""
    if fault and finding.is_hung:  # which says so already
        return finding
    try:
        if fault:
            raise ConfigError(fault)
        if finding.is_hung and unit is None:
            await asyncio.to_thread(end_hung, session)
        lacks = await start(session, config, unit)
    except PsyncError as error:
        return finding._replace(code=CRITICAL, text=f"{finding.text}; not started: {error}")
    text = f"{finding.text}; started again" + (f", and {lacks}" if lacks else "")
    return finding._replace(code=WARNING, text=text)


def _trouble(finding: Finding, times: int) -> Alert:
    name, text = finding.session, harmless(finding.text)
    often = f"psync runcheck has found it not well {times} times in a row, now so:"
    found = often if times > 1 else "Found:"
    hint = f"What it does now: psync status {name}; what it did: its log."
    return Alert("down", name, f"session {name}: {text[:120]}", [found, "", f"  {text}", "", hint])


def _over(finding: Finding, was: str) -> Alert:
    name, text = finding.session, harmless(finding.text)
    how, left = ("is better, but", f": {text[:120]}") if finding.code else ("is well again", "")
    lines = [f"Session {name} {how}: {text}", "", "It was:", f"  {was}"]
    return Alert("recovered", name, f"session {name} {how}{left}", lines)
