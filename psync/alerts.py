"""Tell people what they have to know: by mail, by a program of theirs, or to what apprise reaches.

    [alerts]
    mail = "root"
    urls = ["ntfys://ntfy.example.org/psync"]

What is worth an alert is decided by who sends it: `overseer` for a session that runs,
`runcheck` for one that does not. Every way is a program that reads a text: `sendmail -t`, the
user's own, and for URLs a child of ours with apprise in it, so that a server that hangs keeps
nobody but that child, and that neither apprise nor what it imports is in the brain. Each URL is a
way of its own, so that what one did not take is not told again to those that did.

**Invariants.** What is sent has a subject of one line, and no name of a file makes a line of
its own in it. A URL may hold a password or a token: none is in a message, in a log, in a state
file, or on a command line; where it has to be known again it goes by a short hash. All ways are
tried at once, and delivery ends within `_WITHIN_S`; what fails is returned, not raised, as one line
a way.

It does not decide, collect or repeat anything.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import shutil
import socket
from collections.abc import Collection, Coroutine
from email.message import EmailMessage
from email.utils import formatdate
from hashlib import blake2b
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec

from psync.config import load_table
from psync.effects.bootstrap import own_command
from psync.effects.console import harmless
from psync.effects.spawn import run_to_end
from psync.errors import ConfigError

__all__ = [
    "Alert",
    "Alerts",
    "audit_alert",
    "check_alerts",
    "deliver",
    "exposed",
    "has_apprise",
    "lacking",
    "load_alerts",
    "misunderstood",
    "ways",
]

_WITHIN_S = 60.0
_TEXT_MAX = 64 * 1024  # characters
_NO_APPRISE = 3  # exit code of `effects.push`
_NOT_INSTALLED, _INSTALL = "apprise is not installed", "pip install 'psync[alerts]'"
_HASH_SIZE = 4  # enough to tell one's URLs apart, too little to confirm a guess at a password
_MORE_PATH = ":/usr/sbin:/usr/lib"  # where sendmail is, which cron's and a user's PATH may lack

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
        every: at most so often, in s, the session tells of conflicts, and of problems at paths.
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


def lacking(alerts: Alerts) -> list[tuple[str, str, str]]:
    """Find what this host lacks to tell people so: the key, what is missing, and what to do."""
    missing = []
    path = os.environ.get("PATH", "") + _MORE_PATH
    if alerts.addresses and shutil.which("sendmail", path=path) is None:
        missing.append(("mail", "there is no sendmail", "install a mail server"))
    if alerts.command and shutil.which(alerts.command[0]) is None:
        what = f"there is no program {alerts.command[0]}"
        missing.append(("command", what, "install it, or see [alerts] command"))
    if alerts.urls and not has_apprise():
        missing.append(("urls", _NOT_INSTALLED, _INSTALL))
    return missing


def ways(alerts: Alerts) -> list[str]:
    """By which ways people are told: names that can be remembered, and are the same tomorrow."""
    named = [("mail", alerts.addresses), ("command", alerts.command)]
    return [*(way for way, given in named if given), *_places(alerts)]


def _places(alerts: Alerts) -> dict[str, int]:
    """The URLs, without those that are there twice: their numbers by their ways."""
    places: dict[str, int] = {}
    for number, url in enumerate(alerts.urls, 1):
        digest = blake2b(url.encode("utf-8", "replace"), digest_size=_HASH_SIZE).hexdigest()
        places.setdefault(f"url {digest}", number)
    return places


async def deliver(alerts: Alerts, alert: Alert, told: Collection[str] = ()) -> dict[str, str]:
    """Tell people by every way that is configured, by all at once.

    Args:
        alerts: who is to be told.
        alert: what.
        told: not by these, of `ways`.

    Returns:
        a line for each way that failed, by its name; empty: all went well.
    """
    subject = harmless(f"psync {socket.gethostname()}: {alert.subject}")
    text = "\n".join(harmless(line) for line in alert.lines)[:_TEXT_MAX] + "\n"
    tries: list[Coroutine[Any, Any, dict[str, str]]] = []
    if alerts.addresses and "mail" not in told:
        sendmail = shutil.which("sendmail", path=os.environ.get("PATH", "") + _MORE_PATH)
        argv = [sendmail or "sendmail", "-t", "-oi"]
        tries.append(_run(argv, "mail", _letter(alerts, subject, text)))
    if alerts.command and "command" not in told:
        env = {
            **os.environ,
            "PSYNC_SUBJECT": subject,
            "PSYNC_EVENT": alert.event,
            "PSYNC_SESSION": alert.session,
        }
        content = text.encode("utf-8", "replace")
        tries.append(_run(alerts.command, "command", content, env))
    places = {way: number for way, number in _places(alerts).items() if way not in told}
    if places:
        tries.append(_push(alerts, places, title=subject, body=text))
    async with asyncio.TaskGroup() as group:  # unlike `gather` it sees to the end of all
        tasks = [group.create_task(each) for each in tries]
    return {way: line for task in tasks for way, line in task.result().items()}


async def misunderstood(alerts: Alerts) -> list[str]:
    """Say of which URLs apprise knows nothing to do, a line each; nothing is sent.

    Where apprise is missing, or does not answer, that is one line for all of them.
    """
    failed = await _push(alerts, _places(alerts)) if alerts.urls else {}
    return list(dict.fromkeys(failed.values()))


def check_alerts(file: Path) -> None:
    """Look at all of `[alerts]`, also at its URLs as far as apprise is there to know them.

    Raises:
        ConfigError: there is something wrong with it, or it needs what is not here; no URL is in
            the message.
    """
    alerts = load_alerts(file)
    wrong = [f"[alerts] {key}: {what}: {todo}" for key, what, todo in lacking(alerts)]
    if has_apprise():
        wrong += asyncio.run(misunderstood(alerts))
    if wrong:
        raise ConfigError(f"{file}: {'; '.join(wrong)}")


async def _push(alerts: Alerts, places: dict[str, int], **text: str) -> dict[str, str]:
    """Tell URLs, or without a text only see whether apprise knows them; a line for each bad one."""
    urls = [alerts.urls[number - 1] for number in places.values()]
    request = json.dumps({"urls": urls, **text}).encode()
    try:
        status, said = await run_to_end(
            own_command("psync.effects.push"), request, within=_WITHIN_S
        )
    except OSError as error:
        return dict.fromkeys(places, f"[alerts] urls: cannot be told: {error.strerror}")
    if status == _NO_APPRISE:
        return dict.fromkeys(places, f"[alerts] urls: {_NOT_INSTALLED}: {_INSTALL}")
    words = [line.split() for line in said.splitlines()]  # what libraries print is of no interest
    fates = {each[0]: each[1] for each in words if len(each) == 2 and each[0].isdecimal()}
    means = {
        "unknown": "is none that apprise knows how to tell",
        "failed": "did not take it",
        "": f"gave no answer (it has {_WITHIN_S:.0f} s)",
    }
    failed = {}
    for at, (way, number) in enumerate(places.items(), 1):
        fate = fates.get(str(at), "")
        if fate != "ok":
            scheme = harmless(alerts.urls[number - 1].partition("://")[0])
            failed[way] = f"[alerts] urls: number {number} ({scheme}) {means.get(fate, means[''])}"
    return failed


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


async def _run(
    argv: list[str], way: str, text: bytes, env: dict[str, str] | None = None
) -> dict[str, str]:
    """Run the program of a way; return what went wrong under its name, nothing if all went well."""
    what = f"[alerts] {way}: {os.path.basename(argv[0])}"
    try:
        status, said = await run_to_end(argv, text, within=_WITHIN_S, env=env)
    except OSError as error:
        return {way: harmless(f"{what} cannot be started: {error.strerror}")}
    if status < 0:
        return {way: harmless(f"{what} was killed by signal {-status} (it has {_WITHIN_S:.0f} s)")}
    if status:
        line = " ".join(said.split())[:200]
        return {way: harmless(f"{what} failed ({status}){': ' + line if line else ''}")}
    return {}


def audit_alert(session: str, verdict: str, lines: list[str]) -> Alert:
    """What `psync check` tells of when it finds what should not be.

    Args:
        session: its name.
        verdict: in a few words, like `3 files differ`.
        lines: the differences, or the first of them.
    """
    subject = f"audit alert of session {session}: {verdict}"
    return Alert("audit", session, subject, [f"The audit of session {session}: {verdict}", *lines])
