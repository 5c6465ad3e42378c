"""Send one alert to URLs, with apprise, in a process of its own.

It reads `{"urls": [...], "title": ..., "body": ...}` from its standard input, and ends with 0 when
every URL has taken it, with 1 when some have not (and says which, by number and scheme), and
with 3 where apprise is not installed.

**Invariants.** Nothing that it prints holds more of a URL than its scheme: what the libraries
would log is not written anywhere.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence

__all__ = ["main"]

_FAILED, _NO_APPRISE = 1, 3


def main(argv: Sequence[str] = ()) -> int:
    """Send what is on standard input; return the exit code."""
    logging.disable(logging.CRITICAL)
    try:
        import apprise
    except ImportError:
        return _NO_APPRISE
    request = json.load(sys.stdin)
    failed = []
    for number, url in enumerate(request["urls"], 1):
        service = apprise.Apprise()
        if not (
            service.add(url)
            and service.notify(
                body=request["body"], title=request["title"], body_format=apprise.NotifyFormat.TEXT
            )
        ):
            failed.append(f"number {number} ({url.partition('://')[0]}) did not take it")
    sys.stdout.write("; ".join(failed))
    return _FAILED if failed else 0
