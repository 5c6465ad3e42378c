"""Make `docs/web.png`: what `psync web` shows of real sessions, in a real browser.

    unshare --mount --uts sh -c 'hostname atlas; mount -t tmpfs x /srv; python docs/draw_web.py'

Three sessions are run, between this host and a real sshd on loopback: one at work, one with a
problem and a conflict that waits, one that was stopped. The roots are made in /srv, and the host's
name is on the page, which is why it is given a mount and a name of its own. Needs root, and
Chromium.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.e2e.pair import Pair, opened, until
from tests.e2e.test_web import served
from tests.sshd import Sshd
from tests.webdriver import Browser

BASE = Path("/srv")
NAMES = ("documents", "photos", "website")


def conflict(pair: Pair) -> None:
    """Let both sides write one file before either hears of the other, and nobody decide."""
    pair.psync("pause", pair.base.name)
    for root in (pair.left, pair.right):
        (root / "plans").mkdir()
        (root / "plans" / "budget <2027>.ods").write_text(str(root))
    pair.psync("resume", pair.base.name)
    until(lambda: pair.status()["conflict_list"], "a conflict")


def problem(pair: Pair) -> None:
    """Let a directory be deleted on one side in which the other has what is not replicated."""
    (pair.left / "run" / "queue").mkdir(parents=True)
    pair.flush()
    os.mkfifo(pair.left / "run" / "queue" / "pipe")
    (pair.right / "run" / "queue").rmdir()
    until(lambda: pair.status()["problem_list"], "a problem")


def work(pair: Pair, browser: Browser, seconds: float) -> None:
    """Take pictures on both sides, while the page looks on."""
    end = time.monotonic() + seconds
    number = 0
    while time.monotonic() < end:
        number += 1
        root = pair.right if number % 5 == 0 else pair.left
        album = root / "2026-11 autumn"
        album.mkdir(exist_ok=True)
        for shot in range(1 + number % 3 * 2):
            (album / f"IMG_{4000 + number * 10 + shot}.jpg").write_bytes(os.urandom(180_000))
        time.sleep(0.3 + 0.5 * (number % 4 == 0))


def main() -> None:
    """Run the sessions, and take the picture."""
    with contextlib.ExitStack() as stack:
        sshd_place = BASE / "ssh"
        sshd_place.mkdir()
        Sshd.alias = "backup.example.org"
        sshd = stack.enter_context(Sshd.start(sshd_place))
        pairs = []
        for name in NAMES:
            (BASE / name).mkdir()
            pair = stack.enter_context(opened(BASE / name, sshd.alias, {"HOME": str(sshd.home)}))
            pair.state = BASE / "state"
            pair.env["PSYNC_STATE_DIR"] = str(pair.state)
            pair.options = ["--name", name, "--set", "conflict=ask"]
            pair.start()
            pairs.append(pair)
        documents, photos, website = pairs
        (documents.left / "letters").mkdir()
        for letter in ("anna", "jan", "office"):
            (documents.left / "letters" / f"{letter}.odt").write_text(letter)
        (website.left / "index.html").write_text("<h1>hello</h1>")
        website.settle()
        website.stop()
        problem(documents)
        conflict(documents)
        browser_place = BASE / "browser"
        browser_place.mkdir()
        where = stack.enter_context(served(documents.state))
        browser = stack.enter_context(Browser.start(browser_place, 1180, 1000))
        browser.open(where)
        work(photos, browser, float(os.environ.get("SECONDS_OF_WORK", "60")))
        browser.screenshot(Path(__file__).with_name("web.png"))


if __name__ == "__main__":
    main()
