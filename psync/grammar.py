"""The command's grammar: which verbs there are, and what each takes.

No verb is `run`, as with the original, whose twelve options it has. `--state-dir` and `--config`
may stand before a verb. The man page and the completions are made from this
(`docs/describe.py`).

**Invariants.** What is not understood is a UsageError, which names the help that says more.

This file also runs on Python 3.9 (`psync agent` on an old host).
"""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

from psync import __version__
from psync.errors import UsageError

__all__ = ["LEVELS", "QUESTIONS", "VERBS", "grammar", "parse", "verb_at"]

VERBS = (
    "run", "sync", "start", "status", "log", "web", "flush", "pause", "resume", "stop", "check",
    "runcheck", "doctor", "conflicts", "trash", "config", "trust", "names", "install", "uninstall",
    "agent",
)  # fmt: skip
QUESTIONS = frozenset(VERBS) - {"run", "sync"}  # what runs no session itself
LEVELS = ("debug", "info", "warning", "error", "critical")

# Options whose value may begin with a dash (`-x -L`), which argparse does not take alone.
_WITH_VALUE = {
    "-r": "--remote-host", "-d": "--debug", "-t": "--tempfiles", "-e": "--excludes",
    "-x": "--extra", "-b": "--banned", "-T": "--translate",
    "--rsync-excludes": "--rsync-excludes", "--set": "--set",
}  # fmt: skip
_WITH_VALUE |= {long: long for long in _WITH_VALUE.values()}
_BEFORE_VERB = ("--state-dir", "--config")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def parse(argv: list[str]) -> argparse.Namespace:
    """Read a command line.

    Returns:
        what is chosen: `verb`, `has_verb` (it was said, not meant), and what the verb takes.

    Raises:
        UsageError: it is not understood.
    """
    if not argv:
        raise UsageError("nothing to do: psync -r HOST LEFT RIGHT, or a verb (see psync --help)")
    parser = grammar()
    chosen, rest = parser.parse_known_args(_legacy(argv))
    # argparse takes a word that may be left out for left out when an option comes before it.
    if rest and getattr(chosen, "what", "") is None and not rest[0].startswith("-"):
        chosen.what = rest.pop(0)
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    at = verb_at(argv)
    chosen.has_verb = at < len(argv) and argv[at] in VERBS
    return chosen


def verb_at(argv: list[str]) -> int:
    """Where the verb is, if there is one."""
    at = 0
    while at < len(argv) and argv[at].partition("=")[0] in _BEFORE_VERB:
        at += 1 if "=" in argv[at] else 2
    return at


def _legacy(argv: list[str]) -> list[str]:
    """Read the original's command line: no verb is `run`, and a value may begin with a dash."""
    at = verb_at(argv)
    if at < len(argv) and argv[at] in VERBS:
        argv = [argv[at], *argv[:at], *argv[at + 1 :]]
    elif argv and argv[0] not in ("-h", "--help", "--version"):
        argv = ["run", *argv]
    if argv[:1] not in (["run"], ["sync"], ["doctor"]):
        return argv
    joined: list[str] = []
    rest = iter(argv)
    for word in rest:
        if word == "--":
            return [*joined, word, *rest]
        value = next(rest, None) if word in _WITH_VALUE else None
        if value in (None, "--"):
            joined += [word] if value is None else [word, "--"]
        else:
            joined.append(f"{_WITH_VALUE[word]}={value}")
    return joined


def grammar() -> argparse.ArgumentParser:
    """Declare every verb, and what it takes."""
    parser = _Parser(
        prog="psync",
        description="Keep directory trees the same on two hosts, both ways, in real time.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"psync {__version__}")
    verbs = parser.add_subparsers(metavar="VERB", required=True, parser_class=_Parser)

    def verb(name: str, about: str, session: bool = True) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=about, description=about, allow_abbrev=False)
        sub.add_argument("--state-dir", metavar="DIR", help="where sessions keep their state")
        if session:
            sub.add_argument("name", metavar="NAME", nargs="?", help="which session")
        sub.set_defaults(verb=name)
        return sub

    _run_options(verb("run", "Keep two trees the same until stopped.", session=False))
    once = verb("sync", "Make two trees the same now.", session=False)
    once.add_argument("--json", action="store_true", help="for programs, of a session that runs")
    _run_options(once)
    status = verb("status", "Show the sessions that run.")
    status.add_argument("--json", action="store_true", help="for programs")
    status.add_argument(
        "--watch", action="store_true", help="go on showing them, until q or Ctrl-C"
    )
    _log_options(verb("log", "Read the logs of sessions, and follow them."))
    web = verb("web", "Show the sessions to a browser, and to Prometheus.")
    web.add_argument(
        "--listen",
        metavar="ADDRESS",
        action="append",
        default=[],
        help="a loopback address and a port (127.0.0.1:9464), or the path of a unix socket",
    )
    web.add_argument("--group", help="who may use that socket, beside its owner")
    web.add_argument("--config", metavar="FILE", help="what it names is missed when it has failed")
    flush = verb("flush", "Wait until everything done so far is on the other side.")
    flush.add_argument(
        "--timeout", metavar="S", type=_seconds, default=60.0, help="at most so long (%(default)g)"
    )
    verb("pause", "Stop replicating for a while; what happens meanwhile is not lost.")
    resume = verb("resume", "Go on after a pause or a halt.")
    resume.add_argument(
        "--accept",
        "--accept-deletes",
        dest="accept_deletes",
        action="store_true",
        help="what halted the session is right: make the deletions, or go on with the edits",
    )
    end = verb("stop", "End sessions, and wait until they are gone.", session=False)
    end.add_argument("names", metavar="NAME", nargs="*", help="else the one that runs")
    end.add_argument(
        "--timeout", metavar="S", type=_seconds, default=30.0, help="at most so long (%(default)g)"
    )
    end.add_argument("--all", action="store_true", help="every session that runs")
    _check_options(verb("check", _CHECK_ABOUT, session=False))
    what = _version_options(
        verb("conflicts", "List the versions that lost a conflict."), "conflicts"
    )
    what.add_argument(
        "--take",
        metavar=("left|right", "PATH"),
        nargs=2,
        help="let that side's version win a conflict that waits for a word (--diff PATH compares "
        "the two); the other is kept",
    )
    what = _version_options(verb("trash", "List what was deleted and is kept."), "trash")
    what.add_argument("--empty", action="store_true", help="destroy all of it")
    config = verb("config", "Check, show or take over a configuration.", session=False)
    config.add_argument(
        "action", choices=("check", "show", "import"), help="check FILE; show every key of NAME; "
        "make a table of the original's configuration FILE",
    )  # fmt: skip
    config.add_argument("what", metavar="FILE|NAME", nargs="?", help="all sessions, if no NAME")
    config.add_argument("--config", metavar="FILE", help="where NAME is configured")
    config.add_argument("--json", action="store_true", help="for programs (show)")
    trust = verb("trust", "Accept a host's key, after its fingerprint.", session=False)
    trust.add_argument("host", metavar="HOST")
    trust.add_argument("-y", "--yes", action="store_true", help="do not ask")
    trust.add_argument("--set", metavar="KEY=VALUE", action="append", default=[])
    begin = verb("start", "Run configured sessions in the background.", session=False)
    begin.add_argument(
        "names", metavar="NAME", nargs="*", help="else all, but for what `psync stop` has ended"
    )
    begin.add_argument("--config", metavar="FILE", help="where they are configured")
    _runcheck_options(verb("runcheck", _RUNCHECK_ABOUT, session=False))
    doctor = verb("doctor", _DOCTOR_ABOUT, session=False)
    doctor.epilog = "exit codes: 0 nothing is in the way, 1 something is"
    doctor.add_argument("--json", action="store_true", help="for programs")
    _run_options(doctor)
    put = verb("install", "Put units, cron and logrotate files in place.", session=False)
    kind = put.add_mutually_exclusive_group()
    kind.add_argument("--systemd", action="store_true", help="units (else: if systemd runs here)")
    kind.add_argument("--cron", action="store_true", help="a cron file, instead")
    put.add_argument("--command", metavar="PATH", help="what they call (else: this psync)")
    away = verb("uninstall", "Remove what install has put in place.", session=False)
    for each in (put, away):
        each.add_argument("--root", metavar="DIR", default="/", help="below DIR, for packagers")
        each.set_defaults(removes=each is away)
    known = verb("names", "List the sessions that have run or are configured.", False)
    known.add_argument("--config", metavar="FILE", help="where they are configured")
    verbs.add_parser("agent", help="Serve a session from the other side.", add_help=False)
    return parser


_DOCTOR_ABOUT = "Look for what would keep a session from working well, and say what to do."
_RUNCHECK_ABOUT = "See whether every session is alive from end to end; start what is dead."


def _runcheck_options(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "exit codes: 0 all is well, 1 warning, 2 critical, 3 unknown, as for monitoring plugins. "
        "[alerts] and [runcheck] of the configuration say who is told, and when."
    )
    add = parser.add_argument
    add("names", metavar="NAME", nargs="*", help="else all that are configured")
    add("--config", metavar="FILE", help="where they are configured")
    add("--lag", metavar="S", type=_lag, help="seconds that a change may take")
    add("--after", metavar="N", type=_times, help="so many times in a row before people are told")
    add("--no-restart", action="store_true", help="only look")
    add("--json", action="store_true", help="for programs")


def _log_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("-f", "--follow", action="store_true", help="go on with what is written from now on")
    add("-n", "--lines", metavar="N", type=_count, help="only the last N (with -f: 10, or --since)")
    add("--since", metavar="TIME", help="from then on: 10m, 2h, 3d ago; 09:30; '2026-03-01 09:30'")
    add("--level", choices=LEVELS, default="debug", help="no less than this")
    add("--side", choices=("left", "right"), help="what was done to, or said by, that side")
    add("--grep", metavar="TEXT", help="with this text in it, in whatever case")
    add("--path", metavar="GLOB", help="about such a path, or last name, now or before: '*.txt'")
    add("--json", action="store_true", help="for programs: a line of JSON each")


_CHECK_ABOUT = "Compare both trees of a session, or any two, and change nothing."
_CHECK_MORE = """\
Without a NAME all sessions that run are compared, one after the other. A session that runs is
compared with the options that it runs with, another with those in the configuration, or
those it ran with last; what is given here goes over that. Two roots are compared as `psync run`
would replicate them.

exit codes: 0 equal; 1 failed, no statement can be made; 2 alert: a path that psync believes to be
equal, or as many differences as the threshold says; 3 notice: fewer differences.
"""


def _check_options(parser: argparse.ArgumentParser) -> None:
    """Declare the modes of the original's check, and what of `run` says which trees."""
    parser.epilog = _CHECK_MORE
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("roots", metavar="LEFT RIGHT | NAME", nargs="*", help="two roots, or a session")
    add("-l", "--lite", action="store_true", help="only what is there, its kind and size")
    add("-c", "--checksum", action="store_true", help="read all content (and be not lite)")
    add("-m", "--modified", action="store_true", help="not what only one side has (nor lite)")
    add("-X", "--no-links", action="store_true", help="leave out symbolic links")
    add(
        "-n", "--newer", metavar="MIN", type=_minutes, default=0.0,
        help="leave out files that have not changed for so many minutes",
    )  # fmt: skip
    add(
        "-b", "--backup", action="store_true",
        help="save both versions of what differs, in the session's state directory",
    )  # fmt: skip
    add("--alert-threshold", metavar="N", type=_count, help="so many differences are an alert")
    add("--json", action="store_true", help="for programs")
    add("-r", "--remote-host", dest="host", metavar="HOST", help="where RIGHT is; as for ssh")
    add("-t", "--tempfiles", metavar="RE", action="append", help="names of temporary files")
    add("-e", "--excludes", metavar="RE", action="append", help="what is not replicated")
    add("--rsync-excludes", metavar="PATTERN", action="append", help="likewise, for rsync")
    add("--name", help="the session is called so")
    add("--config", metavar="FILE", help="where NAME is configured")
    add(
        "--set", metavar="KEY=VALUE", action="append", default=[],
        help="any key of the configuration file",
    )  # fmt: skip


def _version_options(parser: argparse.ArgumentParser, store: str) -> Any:
    """Declare what can be done with what is kept in a store; return the group of it."""
    parser.set_defaults(store=store, take=None, empty=False)
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument("--to", metavar="PATH", help="restore to this path in the tree")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--show", metavar="KEPT", help="print a version")
    what.add_argument("--diff", metavar="KEPT", help="compare it with what is at its path now")
    what.add_argument(
        "--restore", metavar="KEPT", help="put it back; what is there is kept instead"
    )
    what.add_argument("--drop", metavar="KEPT", nargs="+", help="destroy versions")
    return what


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 10**9:
        raise ValueError
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise ValueError
    return value


def _minutes(text: str) -> float:
    value = float(text)
    if not 0 < value <= 10**8:
        raise ValueError
    return value


def _times(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 1000:
        raise ValueError
    return value


def _lag(text: str) -> float:
    value = float(text)
    if not 0 < value <= 86400:
        raise ValueError
    return value


_count.__name__ = "number"
_lag.__name__ = "number of seconds, above 0 and within a day,"
_times.__name__ = "number from 1 to 1000"
_minutes.__name__ = "number of minutes"
_seconds.__name__ = "number of seconds"  # argparse names it: "invalid ... value"


def _run_options(parser: argparse.ArgumentParser) -> None:
    """Declare the original's twelve options, and where the rest is found."""
    add = parser.add_argument
    add("roots", metavar="LEFT RIGHT | NAME", nargs="*", help="two roots, or a configured session")
    add("-r", "--remote-host", dest="host", metavar="HOST", help="where RIGHT is; as for ssh")
    add("-d", "--debug", metavar="N", type=int, help="verbosity, 0 to 3")
    add("-t", "--tempfiles", metavar="RE", action="append", help="names of temporary files")
    add("-e", "--excludes", metavar="RE", action="append", help="what is not replicated")
    add("--rsync-excludes", metavar="PATTERN", action="append", help="likewise, for rsync")
    add("-x", "--extra", dest="rsync_extra", metavar="OPT", action="append", help="rsync option")
    add("-b", "--banned", metavar="PROGRAM", help="end when this program runs")
    add("-T", "--translate", metavar="FROM:TO", help="replace in the path of RIGHT")
    add("-n", "--dry-run", action="store_true", help="log what would be done, change nothing")
    add("-s", "--sync-only", action="store_true", help="one full synchronization, then end")
    add("-k", "--skip-initial-sync", action="store_true", help="change nothing at the start")
    add("-f", "--force", action="count", help="delete directories with what else is in them")
    add("--name", help="call the session so")
    add("--config", metavar="FILE", help="where NAME is configured")
    add(
        "--set", metavar="KEY=VALUE", action="append", default=[],
        help="any key of the configuration file",
    )  # fmt: skip
