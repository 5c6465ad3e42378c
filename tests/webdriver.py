"""A real browser for tests: headless Chromium, driven over WebDriver's HTTP, standard library only.

    with Browser.start(directory) as browser:
        browser.open("http://127.0.0.1:9464/")
        browser.script("return document.title")

It keeps a profile of its own in the directory, asks no other host for anything, and writes down
what a page complains of and every address that it asks for.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["Browser", "is_here"]

_ARGUMENTS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--disable-default-apps", "--disable-extensions",
    "--no-default-browser-check", "--password-store=basic", "--hide-scrollbars",
    "--no-proxy-server",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]  # fmt: skip


def is_here() -> bool:
    """Tell whether Chromium and its driver are installed."""
    return bool(shutil.which("chromedriver") and shutil.which("chromium"))


_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Browser:
    """One window of one browser; made by `Browser.start`."""

    def __init__(self, driver: str) -> None:
        self._driver = driver
        self._session = ""

    @classmethod
    @contextlib.contextmanager
    def start(cls, directory: Path, width: int = 1280, height: int = 900) -> Iterator[Browser]:
        """Run a browser whose profile is in a directory."""
        with open(directory / "chromedriver.log", "w") as log:
            process = subprocess.Popen(
                ["chromedriver", "--port=0"], stdout=subprocess.PIPE, stderr=log, text=True
            )
            assert process.stdout is not None
            try:
                port = next(
                    found[1]
                    for line in process.stdout
                    if (found := re.search(r"successfully on port (\d+)", line))
                )
                browser = cls(f"http://127.0.0.1:{port}")
                browser._begin(directory / "profile", width, height)
                try:
                    yield browser
                finally:
                    browser._call("DELETE", "")
            finally:
                process.terminate()
                process.wait(30)
                process.stdout.close()

    def _begin(self, profile: Path, width: int, height: int) -> None:
        arguments = [
            *_ARGUMENTS, f"--user-data-dir={profile}", f"--window-size={width},{height}",
        ]  # fmt: skip
        wanted = {
            "browserName": "chrome",
            "goog:chromeOptions": {"args": arguments, "binary": shutil.which("chromium")},
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        answer = self._call("POST", None, {"capabilities": {"alwaysMatch": wanted}})
        self._session = answer["sessionId"]

    def _call(self, method: str, path: str | None, body: Any = None) -> Any:
        where = "/session" if path is None else f"/session/{self._session}{path}"
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(self._driver + where, data, method=method)
        request.add_header("Content-Type", "application/json")
        try:
            with _opener.open(request, timeout=60) as response:
                return json.load(response)["value"]
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(f"{method} {path}: {error.read().decode()}") from None

    def open(self, url: str) -> None:
        """Go to a page, and wait until it is loaded."""
        self._call("POST", "/url", {"url": url})

    def script(self, text: str, *args: Any) -> Any:
        """Run JavaScript in the page; return what it returns."""
        return self._call("POST", "/execute/sync", {"script": text, "args": list(args)})

    def text(self, selector: str) -> str:
        """All that is to be read in the first element that a selector finds."""
        found = self.script(
            "const node = document.querySelector(arguments[0]); return node && node.innerText",
            selector,
        )
        return found or ""

    def devtools(self, command: str, **parameters: Any) -> Any:
        """Give Chromium a command of its own protocol, as to look like a phone."""
        body = {"cmd": command, "params": parameters}
        return self._call("POST", "/goog/cdp/execute", body)

    def press(self, key: str) -> None:
        """Press a key."""
        keys = [{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]
        self._call("POST", "/actions", {"actions": [{"type": "key", "id": "k", "actions": keys}]})

    def screenshot(self, file: Path) -> None:
        """Write what is on the screen as a PNG."""
        file.write_bytes(base64.b64decode(self._call("GET", "/screenshot")))

    def complaints(self) -> list[str]:
        """What the page, and the browser about it, have complained of since the last call."""
        entries = self._call("POST", "/se/log", {"type": "browser"})
        return [entry["message"] for entry in entries if entry["level"] in ("WARNING", "SEVERE")]

    def requests(self) -> list[str]:
        """The addresses that have been asked for since the last call."""
        entries = self._call("POST", "/se/log", {"type": "performance"})
        messages = [json.loads(entry["message"])["message"] for entry in entries]
        return [
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
        ]
