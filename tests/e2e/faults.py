"""Stop the processes of a session where they come to a point, and do to them what one likes.

The other end of `psync/faults.py`: everybody is let go on at once but who comes to the point that
is armed; he waits until the test has done its deed, and so has anything that he holds.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import tempfile
import threading
from collections import Counter
from pathlib import Path

__all__ = ["POINTS", "Faults"]

_SOURCES = Path(__file__).parents[2] / "psync"
_AT = re.compile(r'(?:faults\.at|self\.step)\("([^"]+)"\)')
_OF_THE_BRAIN = ("brain.py", "transfers.py", "rsync.py")


def _points() -> dict[str, list[str]]:
    """The points in the code, by whose they are: the brain's, an agent's."""
    found: dict[str, list[str]] = {"brain": [], "agent": []}
    for file in sorted(_SOURCES.rglob("*.py")):
        kind = found["brain" if file.name in _OF_THE_BRAIN else "agent"]
        for name in _AT.findall(file.read_text()):
            if name not in kind:
                kind.append(name)
    return found


POINTS = _points()


class Faults:
    """Listens for who comes to a point. Use it in a `with` block.

    Attributes:
        path: of the socket, for PSYNC_FAULTS.
        seen: how often somebody came to each point, by its name.
    """

    def __init__(self) -> None:
        self._directory = tempfile.mkdtemp(prefix="psync")  # a short name: it is a socket's
        os.chmod(self._directory, 0o755)
        self.path = os.path.join(self._directory, "faults")
        self.seen: Counter[str] = Counter()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen(64)
        self._armed: tuple[str, set[int] | None] | None = None
        self._reached = threading.Event()
        self._waiting: socket.socket | None = None
        self.pid = 0
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def __enter__(self) -> Faults:
        return self

    def __exit__(self, *_: object) -> None:
        self.disarm()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)
        shutil.rmtree(self._directory)

    def arm(self, point: str, pids: set[int] | None = None) -> None:
        """Hold the next one who comes to a point; of some processes, if they are named."""
        self._reached.clear()
        self._armed = (point, pids)

    def wait(self, within: float) -> int:
        """Wait until somebody is held, and return his pid; 0: nobody has come there."""
        return self.pid if self._reached.wait(within) else 0

    def disarm(self) -> None:
        """Hold nobody any more, and let go who is held."""
        self._armed = None
        if self._waiting is not None:
            _answer(self._waiting)
            self._waiting = None

    def _listen(self) -> None:
        while True:
            try:
                who, _ = self._listener.accept()
            except OSError:
                return
            point, _, pid = who.recv(200).decode().strip().rpartition(" ")
            self.seen[point] += 1
            armed = self._armed
            if armed is None or point != armed[0] or (armed[1] and int(pid) not in armed[1]):
                _answer(who)
                continue
            self._armed = None
            self.pid, self._waiting = int(pid), who
            self._reached.set()


def _answer(who: socket.socket) -> None:
    with contextlib.suppress(OSError), who:
        who.send(b"\n")
