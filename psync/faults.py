"""Instants at which a test may let something fail; in nobody else's psync anything happens there.

Where the environment variable PSYNC_FAULTS names a unix socket, whoever comes to a point says so
there, `NAME PID` and the end of the line, and goes on when it is answered: so a test can
walk through all points, one by one, and at each of them kill what it likes, while nobody moves.

**Invariants.** Without that variable a point is the test of one name. It never fails.
"""

from __future__ import annotations

import os
import socket

__all__ = ["at"]

_PATH = os.environ.get("PSYNC_FAULTS")


def at(point: str) -> None:
    """Come to a point.

    Args:
        point: its name, unique within a kind of process (agent, brain).
    """
    if _PATH:
        _tell(_PATH, point)


def _tell(path: str, point: str) -> None:
    with socket.socket(socket.AF_UNIX) as test:
        try:
            test.connect(path)
            test.sendall(f"{point} {os.getpid()}\n".encode())
            test.recv(1)
        except OSError:
            pass  # the test has ended
