"""Tell people what they have to know: by mail, by a program of theirs, or to what apprise reaches.

    [alerts]
    mail = "root"
    urls = ["ntfys://ntfy.example.org/psync"]

What is worth an alert is decided by who sends it: `overseer` for a session that runs,
`runcheck` for one that does not. Every way is a program that reads a text: `sendmail -t`, the
user's own, and for URLs a child of ours with apprise in it, so that a server that hangs keeps
nobody but that child, and that neither apprise nor what it imports is in the brain.

**Invariants.** What is sent has a subject of one line, and no name of a file makes a line of
its own in it. A URL may hold a password or a token: none is in a message, in a log, or on a
command line. Delivery ends within `_WITHIN_S` a way; what fails is returned, not raised, as one
line a way.

It does not decide, collect or repeat anything.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import socket
from collections.abc import Collection
from email.message import EmailMessage
from email.utils import formatdate
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec

from psync.config import load_table
from psync.effects.bootstrap import own_command
from psync.effects.console import harmless
from psync.effects.spawn import run_to_end
from psync.errors import ConfigError

__all__ = [
    "MORE_PATH",
    "Alert",
    "Alerts",
    "audit_alert",
    "deliver",
    "exposed",
    "has_apprise",
    "load_alerts",
]

_WITHIN_S = 60.0
_TEXT_MAX = 64 * 1024  # characters
_NO_APPRISE = 3  # exit code of `effects.push`
MORE_PATH = ":/usr/sbin:/usr/lib"  # where sendmail is, which cron's and a user's PATH may lack

_Seconds = Annotated[float, msgspec.Meta(ge=0, le=31_536_000)]
_Word = Annotated[str, msgspec.Meta(min_length=1)]


class Alerts(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Who is told, and how often; times in seconds.

    Attributes:
        mail: addresses, for sendmail.
        mail_from: the sender; empty: whom sendmail takes us for.
        command: a program and its arguments. It reads the text; `PSYNC_SUBJECT`, `PSYNC_EVENT`
            and `PSYNC_SESSION` are in its environment.
        urls: what apprise sends to; may be secret.
        lasting: how long a problem must last until the session tells of it.
        every: at most so often the session tells of conflicts.
    """

    mail: str | list[_Word] = []
    mail_from: str = ""
    command: list[_Word] = []
    urls: list[_Word] = []
    lasting: _Seconds = 600.0
    every: _Seconds = 3600.0

    @property
    def addresses(self) -> list[str]:
        """Whom to write to."""
        return self.mail if isinstance(self.mail, list) else [self.mail] if self.mail else []

    @property
    def enabled(self) -> bool:
        """Whether there is anybody to tell."""
        return bool(self.addresses or self.command or self.urls)


class Alert(NamedTuple):
    """What people are to know.

    Attributes:
        event: `halted`, `conflicts`, `problems`, `down`, `audit`, or `recovered`.
        session: its name.
        subject: one line.
        lines: the text.
    """

    event: str
    session: str
    subject: str
    lines: list[str]


def load_alerts(file: Path | None) -> Alerts:
    """Read `[alerts]`.

    Raises:
        ConfigError: there is something wrong with it; no value of it is in the message.
    """
    alerts = load_table(file, "alerts", Alerts)
    where = f"{file}: [alerts]"
    for number, url in enumerate(alerts.urls, 1):
        if "://" not in url:
            raise ConfigError(f"{where}: urls: number {number} has no scheme, like mailto://")
    for address in [*alerts.addresses, alerts.mail_from]:
        if not address.isprintable() or address.startswith("-"):
            raise ConfigError(f"{where}: {address!a} is no mail address")
    return alerts


def exposed(file: Path, alerts: Alerts) -> str:
    """Say who else may read the secrets in a file; empty: nobody, or there are none."""
    try:
        mode = os.stat(file).st_mode
    except OSError:
        return ""
    if not alerts.urls or not mode & 0o077:
        return ""
    return f"{file} holds the URLs of alerts and others may read it: chmod 600 {file}"


def has_apprise() -> bool:
    """Tell whether URLs can be told."""
    return importlib.util.find_spec("apprise") is not None


async def deliver(
    alerts: Alerts, alert: Alert, ways: Collection[str] | None = None
) -> dict[str, str]:
    """Tell people by every way that is configured.

    Args:
        alerts: who is to be told.
        alert: what.
        ways: by these only, of `mail`, `command` and `urls`.

    Returns:
        a line for each way that failed, by its name; empty: all went well.
    """
    subject = harmless(f"psync {socket.gethostname()}: {alert.subject}")
    text = "\n".join(harmless(line) for line in alert.lines)[:_TEXT_MAX] + "\n"
    failed = {}
    if alerts.addresses and (ways is None or "mail" in ways):
        sendmail = shutil.which("sendmail", path=os.environ.get("PATH", "") + MORE_PATH)
        argv = [sendmail or "sendmail", "-t", "-oi"]
        failed["mail"] = await _run(argv, "mail", _letter(alerts, subject, text))
    if alerts.command and (ways is None or "command" in ways):
        env = {
            **os.environ,
            "PSYNC_SUBJECT": subject,
            "PSYNC_EVENT": alert.event,
            "PSYNC_SESSION": alert.session,
        }
        content = text.encode("utf-8", "replace")
        failed["command"] = await _run(alerts.command, "command", content, env)
    if alerts.urls and (ways is None or "urls" in ways):
        request = json.dumps({"urls": alerts.urls, "title": subject, "body": text}).encode()
        failed["urls"] = await _run(own_command("psync.effects.push"), "urls", request)
    return {way: line for way, line in failed.items() if line}


def _letter(alerts: Alerts, subject: str, text: str) -> bytes:
    letter = EmailMessage()
    letter["To"] = ", ".join(alerts.addresses)
    if alerts.mail_from:
        letter["From"] = alerts.mail_from
    letter["Subject"] = subject
    letter["Date"] = formatdate(localtime=True)
    letter["Auto-Submitted"] = "auto-generated"
    letter.set_content(text)
    return letter.as_bytes()


async def _run(argv: list[str], way: str, text: bytes, env: dict[str, str] | None = None) -> str:
    """Run the program of a way; return what went wrong, empty: nothing."""
    what = f"[alerts] {way}: {os.path.basename(argv[0])}"
    try:
        status, said = await run_to_end(argv, text, within=_WITHIN_S, env=env)
    except OSError as error:
        return harmless(f"{what} cannot be started: {error.strerror}")
    if way == "urls" and status == _NO_APPRISE:
        return "[alerts] urls: apprise is not installed: pip install 'psync[alerts]'"
    if status < 0:
        return harmless(f"{what} was killed by signal {-status} (it has {_WITHIN_S:.0f} s)")
    if status:
        line = " ".join(said.split())[:200]
        return harmless(f"{what} failed ({status}){': ' + line if line else ''}")
    return ""


def audit_alert(session: str, verdict: str, lines: list[str]) -> Alert:
    """What `psync check` tells of when it finds what should not be.

    Args:
        session: its name.
        verdict: in a few words, like `3 files differ`.
        lines: the differences, or the first of them.
    """
    subject = f"audit alert of session {session}: {verdict}"
    return Alert("audit", session, subject, [f"The audit of session {session}: {verdict}", *lines])
