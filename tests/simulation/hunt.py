"""Run many seeds by hand: `python -m tests.simulation.hunt FIRST COUNT [--actions N] [--quiet]`.

A failing seed is printed with what was violated; `--show SEED` prints its whole trace, `--traces`
a digest of each.
"""

from __future__ import annotations

import argparse
import collections
import signal
import sys
import traceback
from hashlib import blake2b

from tests.simulation.world import World


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("first", type=int, nargs="?", default=0)
    parser.add_argument("count", type=int, nargs="?", default=1000)
    parser.add_argument("--actions", type=int, default=40)
    parser.add_argument("--no-faults", action="store_true")
    parser.add_argument("--show", type=int)
    parser.add_argument("--traces", action="store_true", help="print what each seed's trace is")
    parser.add_argument("--stop", type=int, default=0, help="stop after so many failures")
    parser.add_argument("--small", action="store_true", help="find the shortest run that fails")
    options = parser.parse_args()
    faults = not options.no_faults

    if options.show is not None:
        world = World(options.show, faults=faults, keep_trace=True)
        try:
            signal.alarm(30)
            world.live(options.actions)
        finally:
            signal.alarm(0)
            print("\n".join(world.lines or []))
        return

    signal.signal(signal.SIGALRM, _too_long)
    kinds: collections.Counter[str] = collections.Counter()
    failures = 0
    for seed in range(options.first, options.first + options.count):
        world = None
        signal.alarm(30)
        try:
            world = World(seed, faults=faults, keep_trace=options.traces)
            world.live(options.actions)
            if options.traces:
                trace = "\n".join(world.lines or []).encode(errors="surrogateescape")
                print(seed, blake2b(trace, digest_size=16).hexdigest())
        except Exception as error:  # noqa: BLE001
            frames = traceback.extract_tb(error.__traceback__)
            where = next((f for f in reversed(frames) if "/psync/" in f.filename), frames[-1])
            text = f"{type(error).__name__}: {error}"[:200]
            if options.small:
                text = f"({_smallest(seed, options.actions, faults)} actions) {text}"
            kinds[f"{text.split(':')[1]} {where.name}:{where.lineno}"[:60]] += 1
            failures += 1
            print(seed, text, f"[{where.name}:{where.lineno}]", flush=True)
            if options.stop and failures >= options.stop:
                break
        finally:
            signal.alarm(0)
    print(f"{failures} of {options.count} failed", dict(kinds.most_common(20)))
    sys.exit(bool(failures))


def _smallest(seed: int, actions: int, faults: bool) -> int:
    for fewer in range(actions):
        try:
            signal.alarm(30)
            World(seed, faults=faults).live(fewer)
        except Exception:  # noqa: BLE001
            return fewer
    return actions


def _too_long(signum: int, frame: object) -> None:
    raise TimeoutError("30 s")


if __name__ == "__main__":
    main()
