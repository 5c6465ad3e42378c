"""How all the sessions of this host are: what runs, what has ended, and how each of them is.

Whoever shows sessions (`psync status`, its live view, the web page) asks here. Those that run
are asked over their sockets, all at once; of the others their directories tell.

**Invariants.** It only reads: no lock is taken, not for a moment, or a session that starts just
then would be refused. A session that does not answer delays nobody longer than `within`.
Standard library only, because `psync status` runs every minute from cron.

    state            meaning, beside those that a session itself tells (`core.events.State`)
    `starting`       it holds its lock and has no socket yet, or is about to end
    `unanswered`     it runs and does not answer
    `stopped`        it ended as it was told to
    `failed`         it ended by itself, or was killed; `missed` tells whether that is anybody's
                     concern: the configuration names it, or, where that names none, both sides
                     had agreed on something
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

from psync.control import Call, NoSession, Refused, Unanswered
from psync.effects.state import SessionDir, sessions
from psync.errors import StoreError

__all__ = [
    "AILING",
    "ENDED",
    "ask",
    "audit_in_words",
    "away",
    "configured",
    "health",
    "names",
    "remembered",
    "survey",
]

ENDED = ("stopped", "failed")
# Nothing is replicated, and nobody has asked for that.
AILING = ("halted", "disconnected", "unanswered", "failed")
_TABLE = re.compile(r"""\s*\[\s*session\s*\.\s*(["']?)([^"'\s\]]+)\1\s*\]""")


def ask(state: Path, name: str | None, within: float) -> tuple[list[dict[str, Any]], list[str]]:
    """Ask the sessions that run how they are.

    Args:
        state: the state directory.
        name: only this one; None: all.
        within: so long, in s.

    Returns:
        The answers, by name, with `audit` where there has been one, and of those that do not answer
        what `survey` tells; and for each of these a line that says so.

    Raises:
        UsageError: `name` is none for a session.
        StoreError: the state directory cannot be read.
    """
    known = [SessionDir(state, name)] if name is not None else sessions(state)
    answers, silent = _ask(known, within)
    told = [_silent(each, silent[each.name]) for each in known if each.name in silent]
    told = sorted([*answers.values(), *told], key=lambda each: str(each.get("name")))
    return told, list(silent.values())


def survey(
    state: Path, name: str | None, within: float, configured: Collection[str] = ()
) -> list[dict[str, Any]]:
    """Tell how each session is, also those that have ended; arguments and errors as of `ask`.

    Args:
        configured: the sessions that the configuration names.

    Returns:
        By name; of one that does not answer what is remembered: `name`, `state`, `pid`, `started`,
        `state_since`, `exit`, `missed`, and `host` and `root` of its sides.
    """
    known = [SessionDir(state, name)] if name is not None else sessions(state)
    answers, silent = _ask(known, within)
    told = []
    for each in known:
        answer = answers.get(each.name)
        if answer is None:
            if each.name in silent:
                answer = _silent(each, silent[each.name], configured)
            else:
                answer = remembered(each, configured)
        told.append(answer)
    return told


def _silent(
    session: SessionDir, why: str, configured: Collection[str] = ()
) -> dict[str, Any]:
    """Tell what is known of a session that does not answer."""
    return remembered(session, configured) | {"state": "unanswered", "trouble": why}


def _ask(
    known: list[SessionDir], within: float
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Ask sessions, all at once; return the answers, and of the others why there is none."""
    deadline = time.monotonic() + within
    calls, silent = [], {}
    for each in known:
        try:
            patience = max(0.05, deadline - time.monotonic())  # it may have no room for one more
            calls.append((each, Call(each.path, "status", within=patience)))
        except NoSession:
            continue
        except (Unanswered, StoreError) as error:
            silent[each.name] = str(error)
    answers = {}
    for each, call in calls:
        try:
            answer = call.result(deadline)
        except (Unanswered, Refused) as error:
            silent[each.name] = f"{error} (pid {call.pid})"
            continue
        if audit := each.described("audit.json"):
            answer["audit"] = audit
        answers[each.name] = answer
    return answers, silent


def remembered(session: SessionDir, configured: Collection[str] = ()) -> dict[str, Any]:
    """Tell what the directory of a session that does not answer says of it, as `survey` does."""
    facts = session.described()
    here = "this host"
    told: dict[str, Any] = {
        "name": session.name,
        "version": facts.get("version"),
        "started": _seconds(facts.get("started")),
        "state_since": _seconds(facts.get("ended")),
        "exit": facts.get("exit"),
        "left": {"host": here, "root": facts.get("left", "")},
        "right": {"host": facts.get("host") or here, "root": facts.get("right", "")},
        "missed": False,
    }
    if audit := session.described("audit.json"):
        told["audit"] = audit
    pid = session.taker
    held = session.is_held_by(pid) if pid else False
    if held or (held is None and os.path.exists(f"/proc/{pid}")):
        return told | {"state": "starting", "pid": pid, "state_since": told["started"]}
    # Who ends in good order empties the lock. A person may say later that it is to stay away.
    failed = not session.stopped and (bool(pid) or bool(facts.get("exit")))
    if pid:
        told["state_since"] = None
    concerns = session.name in configured if configured else session.agreed
    state = "failed" if failed else "stopped"
    return told | {"state": state, "pid": pid, "missed": failed and concerns}


def _seconds(stamp: Any) -> float | None:
    """Read `2026-03-01T09:30:00+0100`, in s since 1970."""
    import datetime as dt

    try:
        return dt.datetime.strptime(str(stamp), "%Y-%m-%dT%H:%M:%S%z").timestamp()
    except ValueError:
        return None


def away(told: dict[str, Any]) -> list[tuple[str, str]]:
    """The sides of a session that are not connected, and why, as far as it is known.

    The side that only waits for the other one comes last.
    """
    sides = [(name, told.get(name) or {}) for name in ("left", "right")]
    lost = [(name, side) for name, side in sides if not side.get("connected")]
    lost.sort(key=lambda each: bool(each[1].get("waits")))
    return [(name, side["trouble"]) for name, side in lost if side.get("trouble")]


def health(told: list[dict[str, Any]]) -> tuple[bool, list[str]]:
    """Judge what `survey` has told: all that runs replicates, and something does.

    A session that was stopped or paused is as somebody wanted it, and one that has failed and that
    nobody misses is none of this host's any more. Problems at paths, and
    conflicts, are no illness either: the others are replicated, and `/metrics` counts them.

    Returns:
        whether it is so, and a line for each session.
    """
    lines, ill = [], False
    for each in told:
        state = str(each.get("state"))
        why = each.get("halted") or each.get("trouble") or ""
        if state == "disconnected":
            why = next((reason for _, reason in away(each)), why)
        ails = state in AILING and (state != "failed" or each.get("missed", True))
        ill = ill or ails or bool(each.get("trouble"))
        lines.append(f"{each.get('name')}: {state}" + (f": {why}" if why else ""))
    runs = any(each.get("state") not in ENDED for each in told)
    if not runs:
        lines.append("no session is running")
    return runs and not ill, lines


def audit_in_words(audit: dict[str, Any]) -> str:
    """Tell how the last `psync check` went, which `audit.json` says."""
    verdicts = {0: "equal", 1: "failed", 2: "ALERT", 3: "notice"}
    counts = audit.get("counts")
    parts = [f"{n:,} {kind}" for kind, n in counts.items() if n] if isinstance(counts, dict) else []
    if audit.get("error"):
        parts = [str(audit["error"])]
    verdict = verdicts.get(audit.get("exit", -1), "unknown")
    return f"{audit.get('time')}: " + ", ".join([verdict, *parts])


def names(state: Path, config: Path | None) -> list[str]:
    """The sessions that the state directory knows or the configuration names.

    For a shell that completes a word: what cannot be read has no names.
    """
    try:
        found = {each.name for each in sessions(state)}
    except StoreError:
        found = set()
    return sorted(found | configured(config))


def configured(config: Path | None) -> set[str]:
    """The sessions that a configuration names; what cannot be read names none."""
    try:
        text = config.read_text(errors="replace") if config is not None else ""
    except OSError:
        return set()
    # The whole of TOML would take longer to import than a person likes to wait for a word.
    return {match[2] for match in map(_TABLE.match, text.splitlines()) if match}
