"""Send one alert to URLs, with apprise, in a process of its own.

It reads `{"urls": [...], "title": ..., "body": ...}` from its standard input, sends to all of them
at once, and prints a line a URL as soon as its fate is known, like `2 ok`: its number, and `ok`,
`failed`, or `unknown` where apprise makes nothing of it. Without `title` nothing is sent: then `ok`
is what could be. It ends with 0, and with 3 where apprise is not installed.

**Invariants.** Nothing that it prints holds anything of a URL: what the libraries would log is not
written anywhere. One that hangs keeps no other from being told, nor from its line.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

__all__ = ["main"]

_NO_APPRISE = 3


def main(argv: Sequence[str] = ()) -> int:
    """Send what is on standard input; return the exit code."""
    logging.disable(logging.CRITICAL)
    try:
        import apprise
    except ImportError:
        return _NO_APPRISE
    request = json.load(sys.stdin)

    def tell(number: int, url: str) -> None:
        fate = "unknown"
        try:
            service: Any = apprise.Apprise.instantiate(url)
            if service:
                fate = "failed"
                if "title" not in request or service.notify(
                    body=request["body"],
                    title=request["title"],
                    body_format=apprise.NotifyFormat.TEXT,
                ):
                    fate = "ok"
        finally:
            os.write(sys.stdout.fileno(), f"{number} {fate}\n".encode())  # whole, among others

    urls = request["urls"]
    with ThreadPoolExecutor(max(1, len(urls))) as pool:
        for number, url in enumerate(urls, 1):
            pool.submit(tell, number, url)
    return 0
