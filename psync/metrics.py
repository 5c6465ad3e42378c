"""Tell Prometheus how the sessions are: its text format, version 0.0.4.

**Invariants.** One family is one block, with its `HELP` and `TYPE` first. Names, units and the
`_total` of counters are as Prometheus' conventions want them; no label has a path in it, so that
there are a few dozen series a session. Of a session that does not answer there is only `psync_up`,
which is 0, and its state.

It keeps no counters: they are the sessions' own, and begin anew when a session does.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from psync import __version__
from psync.core.entry import Side
from psync.core.events import State
from psync.overview import AILING, ENDED

__all__ = ["CONTENT_TYPE", "exposition"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_STATES = sorted({state.name.lower() for state in State} | {*AILING, *ENDED})
_SIDES = [side.name.lower() for side in Side]

Told = dict[str, Any]
Sample = tuple[dict[str, str], float]


class _Family(NamedTuple):
    """A metric: name, kind, what it is, and its samples of one session that answers."""

    name: str
    kind: str
    about: str
    samples: Callable[[Told], Iterator[Sample]]


def _one(key: str) -> Callable[[Told], Iterator[Sample]]:
    def samples(told: Told) -> Iterator[Sample]:
        if isinstance(value := told.get(key), (int, float)):
            yield {}, value

    return samples


def _each_side(key: str) -> Callable[[Told], Iterator[Sample]]:
    def samples(told: Told) -> Iterator[Sample]:
        for side in _SIDES:
            if isinstance(value := (told.get(side) or {}).get(key), (int, float)):
                yield {"side": side}, value

    return samples


def _unwritable(told: Told) -> Iterator[Sample]:
    yield {}, bool(told.get("trouble"))


def _audit_time(told: Told) -> Iterator[Sample]:
    audit = told.get("audit") or {}
    stamp = str(audit.get("looked", audit.get("time")))
    try:
        yield {}, dt.datetime.strptime(stamp, "%Y-%m-%dT%H:%M:%S%z").timestamp()
    except ValueError:
        return


def _audit_counts(told: Told) -> Iterator[Sample]:
    counts = (told.get("audit") or {}).get("counts")
    for kind, count in counts.items() if isinstance(counts, dict) else ():
        if isinstance(count, int):
            yield {"kind": str(kind)}, count


_FAMILIES = (
    _Family(
        "psync_lag_seconds", "gauge",
        "Age of the oldest change that is on its way to the other side.", _one("lag_s"),
    ),
    _Family("psync_pending", "gauge", "Paths that are not at rest.", _one("pending")),
    _Family("psync_in_flight", "gauge", "Operations that are under way.", _one("in_flight")),
    _Family("psync_problems", "gauge", "Paths that cannot be replicated now.", _one("problems")),
    _Family(
        "psync_conflicts", "gauge",
        "Versions kept that lost a conflict, and conflicts that wait for a word.",
        _one("conflicts"),
    ),
    _Family("psync_agreed_entries", "gauge", "Entries that both sides agree on.", _one("agreed")),
    _Family("psync_entries", "gauge", "Entries that a side has.", _each_side("entries")),
    _Family(
        "psync_side_connected", "gauge", "Whether a side is connected.", _each_side("connected")
    ),
    _Family(
        "psync_changes_total", "counter", "Changes applied to a side.", _each_side("applied")
    ),
    _Family(
        "psync_bytes_total", "counter", "Bytes of files written to a side.", _each_side("bytes")
    ),
    _Family(
        "psync_state_unwritable", "gauge",
        "Whether the state directory cannot be written, so that nothing is replicated.",
        _unwritable,
    ),
    _Family(
        "psync_start_timestamp_seconds", "gauge", "When the session began.", _one("started")
    ),
    _Family(
        "psync_state_timestamp_seconds", "gauge", "Since when it is in its state.",
        _one("state_since"),
    ),
    _Family(
        "psync_last_change_timestamp_seconds", "gauge", "When a change was applied last.",
        _one("last_change"),
    ),
    _Family(
        "psync_check_timestamp_seconds", "gauge", "When psync check ran last.", _audit_time
    ),
    _Family(
        "psync_check_differences", "gauge", "What the last psync check has found, by kind.",
        _audit_counts,
    ),
)  # fmt: skip


def exposition(all_told: list[Told]) -> str:
    """Render what `overview.survey` tells of the sessions."""
    lines = _family("psync_build_info", "gauge", "The version that serves this page.")
    lines.append(_sample("psync_build_info", {"version": __version__}, 1))
    lines += _family("psync_up", "gauge", "Whether a session runs and answers.")
    lines += [_sample("psync_up", _labels(told), _answers(told)) for told in all_told]
    lines += _family("psync_missed", "gauge", "Whether a session has failed that is to run.")
    lines += [_sample("psync_missed", _labels(told), bool(told.get("missed"))) for told in all_told]
    lines += _family("psync_session_state", "gauge", "Whether a session is in a state.")
    for told in all_told:
        lines += [
            _sample("psync_session_state", {**_labels(told), "state": state}, is_it)
            for state in _STATES
            for is_it in [state == told.get("state")]
        ]
    for family in _FAMILIES:
        samples = [
            _sample(family.name, {**_labels(told), **more}, value)
            for told in all_told
            if _answers(told)
            for more, value in family.samples(told)
        ]
        if samples:
            lines += _family(*family[:3]) + samples
    return "\n".join(lines) + "\n"


def _answers(told: Told) -> bool:
    """Tell whether it is the session that has told this, and not its directory."""
    return "pending" in told


def _labels(told: Told) -> dict[str, str]:
    return {"session": str(told.get("name"))}


def _family(name: str, kind: str, about: str) -> list[str]:
    return [f"# HELP {name} {about}", f"# TYPE {name} {kind}"]


def _sample(name: str, labels: dict[str, str], value: float) -> str:
    told = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
    return f"{name}{{{told}}} {float(value):.15g}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
