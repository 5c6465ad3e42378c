"""The command: `python3 -m bench` measures psync and prints a table.

    python3 -m bench                    everything but the million files, some minutes
    python3 -m bench --quick            everything, tiny: does the harness work?
    python3 -m bench --only many --profile /tmp/p

It succeeds when everything could be measured, whether within budget or not.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
from pathlib import Path

from bench import measure
from bench.lab import Lab, choose_directory
from bench.report import Record, facts, table


def main() -> int:
    """Measure what was asked for; return the exit code."""
    chosen = _parse()
    sizes = measure.quick if chosen.quick else measure.full if chosen.full else measure.normal
    names = chosen.only or [
        name for name in measure.MEASUREMENTS if name != "million" or chosen.full or chosen.quick
    ]
    directory = chosen.dir or choose_directory(sizes.room)
    if shutil.disk_usage(directory).free < sizes.room:
        print(f"bench: less than {sizes.room >> 20} MiB free in {directory}", file=sys.stderr)
        return 1
    if chosen.profile:
        if shutil.which("py-spy") is None:
            print("bench: --profile needs py-spy (pip install py-spy)", file=sys.stderr)
            return 2
        chosen.profile.mkdir(parents=True, exist_ok=True)
    found = facts(directory)
    print("\n".join(f"{key:<17} {value}" for key, value in found.items()), flush=True)
    records: list[Record] = []
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # it too takes everything away
    try:
        with Lab.opened(directory) as lab:
            lab.quiet_s, lab.profiles = sizes.quiet_s, chosen.profile
            for name in names:
                records.append(measure.run(name, lab, sizes))
                _tell(records[-1])
    except KeyboardInterrupt:
        print("bench: interrupted; what was measured so far:", file=sys.stderr)
    print("\n" + table(records))
    if chosen.json:
        told = {"facts": found, "measurements": [record.plain() for record in records]}
        chosen.json.write_text(json.dumps(told, indent=1) + "\n")
    return 1 if len(records) < len(names) or any(record.error for record in records) else 0


def _tell(record: Record) -> None:
    """Show that it goes on: everything takes minutes."""
    outcome = "FAILED" if record.error else "done"
    load = f"load {record.load[0]:.1f} to {record.load[1]:.1f}"
    print(
        f"{record.name}: {outcome} in {record.seconds:.1f} s, {load}", file=sys.stderr, flush=True
    )


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description="Measure psync against the floor.")
    add = parser.add_argument
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="everything, tiny: seconds")
    size.add_argument("--full", action="store_true", help="the million files too: minutes more")
    add("--only", action="append", choices=list(measure.MEASUREMENTS), help="may be repeated")
    add("--json", type=Path, metavar="FILE", help="write samples, figures and the machine's facts")
    add("--dir", type=Path, help="where to work (default: /dev/shm if there is room)")
    add("--profile", type=Path, metavar="DIR", help="let py-spy write folded stacks there")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
