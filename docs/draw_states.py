"""Draw a session's states from the table in `psync/core/session.py`, so that they cannot go stale.

    python docs/draw_states.py > states.dot      (for Graphviz: dot -Tsvg states.dot)
    python docs/draw_states.py --table           (for people, as DESIGN.md shows it)

A state follows from how far the two sides are, and nothing else; a side goes from NEVER or
DOWN to SCANNING when its agent begins, to READY when its scan is over, back to SCANNING
when it scans anew, and to DOWN when its agent is gone. Halting and pausing are a person's business
and go before all of it: they are drawn around the rest.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from psync.core.replica import Link
from psync.core.session import STATES

_STEPS = {
    (Link.NEVER, Link.SCANNING): "up",
    (Link.NEVER, Link.DOWN): "lost",
    (Link.DOWN, Link.SCANNING): "up",
    (Link.SCANNING, Link.READY): "scanned",
    (Link.SCANNING, Link.DOWN): "lost",
    (Link.READY, Link.SCANNING): "scans anew",
    (Link.READY, Link.DOWN): "lost",
}


def transitions() -> list[tuple[str, str, str]]:
    """The ways from state to state: from, to, what happens to one of the sides."""
    found: dict[tuple[str, str, str], None] = {}
    for (low, high), state in STATES.items():
        for fixed, moving in ((low, high), (high, low)):
            for (begin, end), event in _STEPS.items():
                if begin == moving:
                    after = STATES[min(fixed, end), max(fixed, end)]
                    if after is not state:
                        found[state.name, after.name, event] = None
    return sorted(found)


def dot() -> str:
    """The drawing, in Graphviz's language."""
    lines = ["digraph session {", "  rankdir=LR; node [shape=box, style=rounded];"]
    lines += [f'  {begin} -> {end} [label="{event}"];' for begin, end, event in transitions()]
    lines.append('  PAUSED [style="rounded,dashed"]; HALTED [style="rounded,dashed"];')
    lines.append('  WATCHING -> PAUSED [label="pause", dir=both, style=dashed];')
    lines.append('  WATCHING -> HALTED [label="too much gone", style=dashed];')
    lines.append('  HALTED -> SCANNING [label="resume", style=dashed];')
    return "\n".join([*lines, "}"])


def table() -> str:
    """The same as a table: one side across, the other down."""
    head = "|  | " + " | ".join(link.name for link in Link) + " |"
    rows = [head, "| --- " * (len(Link) + 1) + "|"]
    for down in Link:
        cells = [STATES[min(down, across), max(down, across)].name.lower() for across in Link]
        rows.append(f"| {down.name} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


if __name__ == "__main__":
    sys.stdout.write((table() if "--table" in sys.argv[1:] else dot()) + "\n")
