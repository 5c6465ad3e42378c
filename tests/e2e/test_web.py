"""The page of `psync web` in a real browser, over real sessions."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.pair import WAIT_S, Pair, command, opened, until
from tests.webdriver import Browser, is_here

HOSTILE = "<img src=x onerror=document.title='owned'>"


@contextlib.contextmanager
def served(state: Path) -> Iterator[str]:
    """Run `psync web` for a state directory; give the page's address."""
    process = subprocess.Popen(
        [*command(), "web", "--state-dir", str(state), "--listen", "127.0.0.1:0"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        found = re.search(r"http://127\.0\.0\.1:\d+/", process.stdout.readline())
        assert found is not None
        yield found[0]
    finally:
        process.terminate()
        assert process.wait(WAIT_S) == 0
        process.stdout.close()


class World:
    """Two sessions side by side, the page that shows them, and a browser that shows the page."""

    def __init__(self, one: Pair, two: Pair, page: str, browser: Browser) -> None:
        self.one = one
        self.two = two
        self.page = page
        self.browser = browser

    def sees(self, selector: str, what: str) -> None:
        """Wait until the page shows something."""

        def shown() -> bool:
            return what in self.browser.text(selector)

        until(shown, f"{what!r} in {selector} ({self.browser.text('body')})")

    def card(self, name: str) -> str:
        """A selector for what is shown of a session; sessions are shown by their name."""
        return f"article:nth-of-type({['one', 'two'].index(name) + 1})"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, programs: list[Path]) -> Iterator[World]:
    if not is_here():
        pytest.skip("Chromium and its driver are not installed")
    with contextlib.ExitStack() as stack:
        pairs = []
        for name in ("one", "two"):
            pair = stack.enter_context(opened(tmp_path_factory.mktemp(name)))
            pair.options = ["--name", name, "--set", "conflict=ask"]
            if pairs:
                pair.state = pairs[0].state
                pair.env["PSYNC_STATE_DIR"] = str(pair.state)
            pair.start()
            pairs.append(pair)
        page = stack.enter_context(served(pairs[0].state))
        browser = stack.enter_context(Browser.start(tmp_path_factory.mktemp("browser")))
        browser.open("about:blank")
        browser.requests()  # of the browser's own first page
        browser.open(page)
        yield World(*pairs, page, browser)


class TestPage:
    def test_shows_every_session_and_that_all_is_well(self, world: World) -> None:
        world.sees("#health", "all is well")

        for name, pair in (("one", world.one), ("two", world.two)):
            world.sees(f"{world.card(name)} h2", name)
            world.sees(f"{world.card(name)} .state", "watching")
            world.sees(f"{world.card(name)} .side.left", str(pair.left))
            world.sees(f"{world.card(name)} .side.right", str(pair.right))

    def test_shows_a_change_as_it_happens(self, world: World) -> None:
        (world.one.right / "from the right").write_text("x" * 5000)

        world.sees(f"{world.card('one')} .changes", "from the right")
        world.sees(f"{world.card('one')} .flow .to.left", "/s")
        assert "from the right" not in world.browser.text(world.card("two"))

    def test_shows_a_problem_and_a_conflict_and_takes_names_for_text(self, world: World) -> None:
        (world.one.left / "d").mkdir()
        world.one.flush()
        os.mkfifo(world.one.left / "d" / "fifo")
        (world.one.right / "d").rmdir()
        world.one.psync("pause", "one")
        for root in (world.one.left, world.one.right):
            (root / HOSTILE).write_text(str(root))
        world.one.psync("resume", "one")

        wrong = f"{world.card('one')} .wrong"
        world.sees(wrong, "problem, left: the directory holds entries that are not replicated")
        world.sees(wrong, HOSTILE)
        world.sees(wrong, "a conflict waits")
        world.sees("#health", "1 of 2 needs you")
        assert world.browser.script("return document.images.length") == 1  # our own
        assert world.browser.script("return document.title").startswith("(1) psync ")

    def test_is_used_by_keyboard_and_on_a_phone(self, world: World) -> None:
        browser = world.browser
        focused = []
        for _ in range(8):
            browser.press("\ue004")  # Tab
            focused.append(browser.script("return document.activeElement.textContent.trim()"))
        assert {"status.json", "metrics", "healthz"} <= set(focused)

        browser.devtools(
            "Emulation.setDeviceMetricsOverride",
            width=360, height=780, deviceScaleFactor=2, mobile=True,
        )  # fmt: skip
        wide = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert browser.script(wide) == 0
        browser.devtools("Emulation.clearDeviceMetricsOverride")

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_can_be_read_by_day_and_by_night(self, world: World, scheme: str) -> None:
        world.browser.devtools(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": scheme}],
        )

        ink, ground = (
            world.browser.script(f"return getComputedStyle(document.body).{what}")
            for what in ("color", "backgroundColor")
        )

        assert contrast(ink, ground) > 7
        world.browser.devtools("Emulation.setEmulatedMedia", features=[])

    def test_shows_that_a_session_has_ended(self, world: World) -> None:
        world.two.stop()
        world.sees(f"{world.card('two')} .state", "stopped")
        assert status(world)["healthy"]  # it was told to

        world.two.launch()
        world.sees(f"{world.card('two')} .state", "watching")
        world.two.kill()

        world.sees(f"{world.card('two')} .state", "failed")
        world.sees(f"{world.card('two')} .wrong", "it was killed")
        assert not status(world)["healthy"]

    def test_asks_nobody_else_and_has_nothing_to_complain_of(self, world: World) -> None:
        asked = [url for url in world.browser.requests() if not url.startswith("data:")]

        assert any(url.endswith("/status.json") for url in asked)
        assert [url for url in asked if not url.startswith(world.page)] == []
        assert world.browser.complaints() == []

    def test_says_how_old_it_is_when_nobody_answers(self, world: World, tmp_path: Path) -> None:
        with served(tmp_path) as page:
            world.browser.open(page)
            world.sees("main", "No session is known here yet.")

        world.sees("#banner", "No answer from psync web")


def status(world: World) -> Any:
    with urllib.request.urlopen(f"{world.page}status.json", timeout=WAIT_S) as answer:
        return json.load(answer)


def contrast(one: str, two: str) -> float:
    """WCAG's ratio of two colours like `rgb(1, 2, 3)`."""

    def luminance(colour: str) -> float:
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    high, low = sorted((luminance(one), luminance(two)), reverse=True)
    return (high + 0.05) / (low + 0.05)
