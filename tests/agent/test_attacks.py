"""Somebody who may write in a root lets psync, which may be root, work somewhere else (S01).

He exchanges a directory and a symlink to the outside, as fast as a process can, while
transitions go through that name and looks, too. What they are meant for is in the directory or
nowhere.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest

from psync.core.entry import Entry
from psync.scan import Looker, entry_at
from psync.wire import APPLIED
from tests.support.replica import Replica, directory, file

ENOUGH = 30  # of what is done, and of what is refused
WITHIN_S = 60.0
OUTSIDE = b"of somebody else"

_ATTACK = """
import os, sys
from psync.syscalls import EXCHANGE, renameat2
fd = os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECTORY)
print(flush=True)
while os.getppid() == int(sys.argv[2]):
    for _ in range(1000):
        renameat2(fd, b"d", fd, b"l", EXCHANGE)
"""


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """What is none of psync's business."""
    made = tmp_path / "outside"
    (made / "x").mkdir(parents=True)
    for name in ("f", "g", "i", "x/inside"):
        (made / name).write_bytes(OUTSIDE)
    return made


@pytest.fixture
def replica(tmp_path: Path, outside: Path, checkout: Path) -> Iterator[Replica]:
    """A replica with `d`, which is a directory or a way out, from one moment to the next."""
    root = tmp_path / "root"
    (root / "d").mkdir(parents=True)
    (root / "d/i").write_bytes(b"inside")
    (root / "l").symlink_to(outside)
    made = Replica(root, owners=os.geteuid() == 0)
    attacker = subprocess.Popen(
        [sys.executable, "-c", _ATTACK, root, str(os.getpid())], cwd=checkout,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert attacker.stdout is not None
        assert attacker.stdout.readline()
        yield made
        assert attacker.poll() is None
    finally:
        attacker.kill()
        attacker.wait()
        attacker.stdout.close()
        made.close()


def state(top: Path) -> dict[str, tuple[int, int, int, bytes]]:
    """All that an escape would change."""
    found = {}
    for path in [top, *top.rglob("*")]:
        st = path.lstat()
        text = path.read_bytes() if path.is_file() else b""
        found[str(path)] = (st.st_ino, st.st_mode, st.st_ctime_ns, text)
    return found


def test_s01_no_transition_leaves_the_root(replica: Replica, outside: Path) -> None:
    before = state(outside)
    chance = Random(1)
    there: dict[bytes, Entry] = {}  # by name, what is in the directory
    inside = opened(replica.root / "d")
    counts: Counter[str] = Counter()
    deadline = time.monotonic() + WITHIN_S
    verbs = {"create", "replace", "delete", "rename", "mkdir", "rmdir", "meta"}

    while min(counts[f"{verb} {how}"] for verb in verbs for how in ("done", "refused")) < ENOUGH:
        assert time.monotonic() < deadline, counts
        verb, name, other = chance.choice(sorted(verbs)), b"d/f", b"d/g"
        content = b"%d" % counts.total()
        if verb in ("mkdir", "rmdir"):
            name = b"d/x"
        elif name not in there and other in there:
            name, other = other, name
        if (name in there) is (verb in ("create", "mkdir")):
            continue
        if verb in ("create", "replace"):
            wanted = file(content)
            transition = replica.put(name, wanted, content, there.get(name))
        elif verb == "mkdir":
            transition = replica.put(name, directory())
        elif verb == "delete":
            transition = replica.delete(name, there[name])
        elif verb == "rmdir":
            transition = replica.rmdir(name, there[name])
        elif verb == "meta":
            mode = 0o600 if there[name].mode == 0o644 else 0o644
            transition = replica.meta(name, there[name], there[name]._replace(mode=mode))
        else:
            transition = replica.rename(name, there[name], other)
        (outcome,) = replica.apply(transition)
        done = outcome.status == APPLIED
        counts[f"{verb} {'done' if done else 'refused'}"] += 1
        if not done:  # or it was, and is not confirmed, because the directory was away then
            for each in (name, other):
                entry = entry_at(
                    inside, each.rpartition(b"/")[2], owners=replica.owners, strip=replica.strip
                )
                there.pop(each, None)
                if entry is not None:
                    there[each] = entry
            continue
        if verb in ("delete", "rmdir", "rename"):
            del there[name]
        if verb == "rename":
            name = other
        if verb not in ("delete", "rmdir"):
            assert outcome.entry is not None
            there[name] = outcome.entry

    os.close(inside)
    assert state(outside) == before


def opened(directory: Path) -> int:
    """Open the directory that is somewhere else every other moment."""
    while True:
        with suppress(OSError):
            return os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)


def test_s01_no_look_sees_what_is_outside(replica: Replica) -> None:
    looker = Looker(replica.fd, owners=False, strip=True)
    counts: Counter[bytes | None] = Counter()
    deadline = time.monotonic() + WITHIN_S
    while min(counts[b"inside"], counts[None]) < 10 * ENOUGH:
        assert time.monotonic() < deadline, counts
        looker.forget()
        seen = looker.look(b"d/i", 1000)
        counts[seen.content if seen.entry is not None else None] += 1

    assert set(counts) == {b"inside", None}
