"""Stand between an agent and the brain, and say that the replica is empty.

    AGENT | python -m tests.e2e.liar FLAG

Lies while the file FLAG exists, in every message but the one that counts the entries; whatever
is no agent's (rsync) goes through as it is.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from psync.wire import MAGIC, Digests, Framer, Listing, Message, Observed, encode


def lie(message: Message) -> Message:
    """Tell of no file and no directory but the root."""
    if isinstance(message, Digests):
        return message._replace(directories=[(b"", bytes(16))])
    if isinstance(message, Listing):
        return message._replace(items=[])
    if isinstance(message, Observed):
        return message._replace(items=[item for item in message.items if not item.path])
    return message


def said() -> Iterator[bytes]:
    while data := os.read(0, 1 << 16):
        yield data


def write(data: bytes) -> None:
    while data:
        data = data[os.write(1, data) :]


def main() -> None:
    flag = Path(sys.argv[1])
    tail = b""
    stream = said()
    for data in stream:  # up to where an agent begins to speak
        known = len(tail)
        before, magic, frames = (tail + data).partition(MAGIC)
        if magic:
            write((before + magic)[known:])
            break
        write(data)
        tail = (tail + data)[-len(MAGIC) + 1 :]
    else:
        return
    framer: Any = Framer()
    for data in chain([frames], stream):
        for message in framer.feed(data):
            write(encode(lie(message) if flag.exists() else message))


if __name__ == "__main__":
    main()
