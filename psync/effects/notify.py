"""Tell the service manager how a session is: sd_notify, which is a datagram to a socket.

**Invariants.** Without `NOTIFY_SOCKET` nothing happens. The variables are taken out of the
environment, so that no child of ours can speak for us. A manager that does not listen is no
reason to stop, or to wait.
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping

__all__ = ["Notifier"]


class Notifier:
    """The line to systemd, or to what speaks like it.

    Attributes:
        watchdog_s: within how many seconds it wants to hear `WATCHDOG=1`; None: it does not.
    """

    def __init__(self, environment: MutableMapping[str, str] | None = None) -> None:
        """Read where to, from our environment unless given, and take it out of there."""
        env = os.environ if environment is None else environment
        address = env.pop("NOTIFY_SOCKET", "")
        usec, pid = env.pop("WATCHDOG_USEC", ""), env.pop("WATCHDOG_PID", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog_s = None
        if address and usec.isdigit() and pid in ("", str(os.getpid())):
            self.watchdog_s = int(usec) / 1e6

    @property
    def listens(self) -> bool:
        """Whether there is a manager."""
        return bool(self._address)

    def tell(self, *assignments: str) -> None:
        """Send assignments like `READY=1`, in one datagram."""
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as line:
                line.connect(self._address)
                line.send("\n".join(assignments).encode("utf-8", "replace"))
        except OSError:
            pass  # it is just being restarted; the next one comes
