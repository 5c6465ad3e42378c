"""The command: what a user types becomes a session, or a question to one.

    psync [run] -r HOST LEFT RIGHT      keep two trees the same until stopped
    psync [run] NAME                    the same, as configured
    psync sync ...                      once, then end; a session that runs is asked to do it
    psync status | flush | pause | resume | stop [NAME]
    psync log [NAME]                    read the logs, and follow them
    psync web [NAME]                    show the sessions to a browser, and to Prometheus
    psync conflicts [NAME]              list what lost a conflict; show, compare, restore, drop it;
                                        say which side is to win one that waits for a word
    psync trash [NAME]                  likewise, for what was deleted
    psync start [NAME...]               run configured sessions in the background
    psync runcheck [NAME...]            is each alive from end to end? start what is dead
    psync doctor NAME | LEFT RIGHT      look for what would keep a session from working well
    psync install | uninstall           units, cron and logrotate files to their places, and away
    psync names                         list the sessions that have run or are configured
    psync config check | show | import  look at the configuration; take over the original's
    psync check [NAME | -r HOST LEFT RIGHT]
                                        compare both trees, change nothing
    psync trust HOST                    accept a host's key after a look at it
    psync agent                         what runs on the other side

**Invariants.** Whatever is wrong with the input, the answer is one line on stderr that starts
with `psync:` and an exit code that says which kind of wrong; never a traceback. A verb
that asks a session reads and writes nothing but its socket. `check` and `runcheck` have exit codes
of their own: whatever keeps them from an answer is 1, and 3.

What a verb needs is imported when it runs: `psync status` from cron costs no more than Python
itself. This file also runs on Python 3.9 (`psync agent` on an old host).
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Any, NoReturn

from psync import __version__
from psync.effects.console import counted, harmless, quantity
from psync.effects.state import SessionDir, sessions, state_directory
from psync.errors import (
    ConfigError,
    Exit,
    PsyncError,
    StoreError,
    UnknownSessionError,
    UsageError,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from psync.alerts import Alerts
    from psync.config import Options
    from psync.control import Call

__all__ = ["QUESTIONS", "VERBS", "main"]

VERBS = (
    "run", "sync", "start", "status", "log", "web", "flush", "pause", "resume", "stop", "check",
    "runcheck", "doctor", "conflicts", "trash", "config", "trust", "names", "install", "uninstall",
    "agent",
)  # fmt: skip
QUESTIONS = frozenset(VERBS) - {"run", "sync"}  # what runs no session itself
_ANSWER_S = 10.0  # it takes milliseconds, but seconds where many share a busy machine
_PROGRESS_S = 0.5
_GRACE_S = 2.0  # what the session itself times is answered by then

# Options whose value may begin with a dash (`-x -L`), which argparse does not take alone.
_WITH_VALUE = {
    "-r": "--remote-host", "-d": "--debug", "-t": "--tempfiles", "-e": "--excludes",
    "-x": "--extra", "-b": "--banned", "-T": "--translate",
    "--rsync-excludes": "--rsync-excludes", "--set": "--set",
}  # fmt: skip
_WITH_VALUE |= {long: long for long in _WITH_VALUE.values()}
_LEVELS = ("debug", "info", "warning", "error", "critical")
_NO_ANSWER = {"check": 1, "runcheck": 3}  # their exit code, whatever the reason
_BEFORE_VERB = ("--state-dir", "--config")


def main(argv: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    _have_standard_files()
    no_answer = _NO_ANSWER.get("".join(arguments[_verb_at(arguments) :][:1]))
    try:
        if arguments[:1] == ["agent"]:
            from psync.agent import main as agent

            return int(agent(arguments[1:]) or 0)
        if sys.version_info < (3, 11):  # noqa: UP036  # the agent half runs on 3.9
            raise UsageError(f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}")
        chosen = _parse(arguments)
        code: int = chosen.act(chosen)
        if sys.stdout is not None:
            sys.stdout.flush()
    except PsyncError as error:
        return _complain(str(error), no_answer or error.exit_code)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:  # psync status | head
        _discard_stdout()
        return 128 + signal.SIGPIPE
    except OSError as error:
        _discard_stdout()
        where = f"{error.filename}: " if error.filename is not None else ""
        return _complain(f"{where}{error.strerror or error}", no_answer or 1)
    except ImportError as error:
        return _complain(
            f"{error}: a package that psync needs is missing; install psync again",
            no_answer or Exit.FAILED,
        )
    except Exception as error:  # noqa: BLE001  # the last line of defence
        told = f"internal error: {type(error).__name__}: {error}"
        return _complain(told, no_answer or Exit.INTERNAL)
    return code


def _have_standard_files() -> None:
    """Open what is closed of 0, 1 and 2: else a database could get such a number."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(fd)
    sys.stdin = sys.stdin or os.fdopen(0, closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def _complain(message: str, code: int) -> int:
    line = "psync: " + harmless(" ".join(message.split("\n"))) + "\n"
    try:
        sys.stderr.write(line)
    except (OSError, ValueError):
        pass
    return int(code)


def _discard_stdout() -> None:
    """Let the interpreter's own flush at the end go nowhere."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)


# --- the grammar --------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def _parse(argv: list[str]) -> argparse.Namespace:
    if not argv:
        raise UsageError("nothing to do: psync -r HOST LEFT RIGHT, or a verb (see psync --help)")
    parser = _grammar()
    chosen, rest = parser.parse_known_args(_legacy(argv))
    # argparse takes a word that may be left out for left out when an option comes before it.
    if rest and getattr(chosen, "what", "") is None and not rest[0].startswith("-"):
        chosen.what = rest.pop(0)
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    at = _verb_at(argv)
    chosen.has_verb = at < len(argv) and argv[at] in VERBS
    return chosen


def _verb_at(argv: list[str]) -> int:
    """Where the verb is, if there is one."""
    at = 0
    while at < len(argv) and argv[at].partition("=")[0] in _BEFORE_VERB:
        at += 1 if "=" in argv[at] else 2
    return at


def _legacy(argv: list[str]) -> list[str]:
    """Read the original's command line: no verb is `run`, and a value may begin with a dash."""
    at = _verb_at(argv)
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


def _grammar() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="psync",
        description="Keep directory trees the same on two hosts, both ways, in real time.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"psync {__version__}")
    verbs = parser.add_subparsers(metavar="VERB", required=True, parser_class=_Parser)

    def verb(
        name: str, act: Callable[[argparse.Namespace], int], about: str, session: bool = True
    ) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=about, description=about, allow_abbrev=False)
        sub.add_argument("--state-dir", metavar="DIR", help="where sessions keep their state")
        if session:
            sub.add_argument("name", metavar="NAME", nargs="?", help="which session")
        sub.set_defaults(act=act)
        return sub

    _run_options(verb("run", _run, "Keep two trees the same until stopped.", session=False))
    _run_options(verb("sync", _sync, "Make two trees the same now.", session=False))
    status = verb("status", _status, "Show the sessions that run.")
    status.add_argument("--json", action="store_true", help="for programs")
    status.add_argument(
        "--watch", action="store_true", help="go on showing them, until q or Ctrl-C"
    )
    _log_options(verb("log", _log, "Read the logs of sessions, and follow them."))
    web = verb("web", _web, "Show the sessions to a browser, and to Prometheus.")
    web.add_argument(
        "--listen",
        metavar="ADDRESS",
        action="append",
        default=[],
        help="a loopback address and a port (127.0.0.1:9464), or the path of a unix socket",
    )
    web.add_argument("--group", help="who may use that socket, beside its owner")
    web.add_argument("--config", metavar="FILE", help="what it names is missed when it has failed")
    flush = verb("flush", _flush, "Wait until everything done so far is on the other side.")
    flush.add_argument(
        "--timeout", metavar="S", type=_seconds, default=60.0, help="at most so long (%(default)g)"
    )
    verb("pause", _pause, "Stop replicating for a while; what happens meanwhile is not lost.")
    resume = verb("resume", _resume, "Go on after a pause or a halt.")
    resume.add_argument(
        "--accept",
        "--accept-deletes",
        dest="accept_deletes",
        action="store_true",
        help="what halted the session is right: make the deletions, or go on with the edits",
    )
    end = verb("stop", _stop, "End a session, and wait until it is gone.")
    end.add_argument(
        "--timeout", metavar="S", type=_seconds, default=30.0, help="at most so long (%(default)g)"
    )
    end.add_argument("--all", action="store_true", help="every session that runs")
    _check_options(verb("check", _check, _CHECK_ABOUT, session=False))
    what = _version_options(
        verb("conflicts", _versions, "List the versions that lost a conflict."), "conflicts"
    )
    what.add_argument(
        "--take",
        metavar=("left|right", "PATH"),
        nargs=2,
        help="let that side's version win a conflict that waits for a word (--diff PATH compares "
        "the two); the other is kept",
    )
    what = _version_options(verb("trash", _versions, "List what was deleted and is kept."), "trash")
    what.add_argument("--empty", action="store_true", help="destroy all of it")
    config = verb("config", _config, "Check, show or take over a configuration.", session=False)
    config.add_argument(
        "action", choices=("check", "show", "import"), help="check FILE; show every key of NAME; "
        "make a table of the original's configuration FILE",
    )  # fmt: skip
    config.add_argument("what", metavar="FILE|NAME", nargs="?", help="all sessions, if no NAME")
    config.add_argument("--config", metavar="FILE", help="where NAME is configured")
    config.add_argument("--json", action="store_true", help="for programs (show)")
    trust = verb("trust", _trust, "Accept a host's key, after its fingerprint.", session=False)
    trust.add_argument("host", metavar="HOST")
    trust.add_argument("-y", "--yes", action="store_true", help="do not ask")
    trust.add_argument("--set", metavar="KEY=VALUE", action="append", default=[])
    begin = verb("start", _start, "Run configured sessions in the background.", session=False)
    begin.add_argument(
        "names", metavar="NAME", nargs="*", help="else all, but for what `psync stop` has ended"
    )
    begin.add_argument("--config", metavar="FILE", help="where they are configured")
    _runcheck_options(verb("runcheck", _runcheck, _RUNCHECK_ABOUT, session=False))
    doctor = verb("doctor", _doctor, _DOCTOR_ABOUT, session=False)
    doctor.epilog = "exit codes: 0 nothing is in the way, 1 something is"
    doctor.add_argument("--json", action="store_true", help="for programs")
    _run_options(doctor)
    put = verb("install", _install, "Put units, cron and logrotate files in place.", session=False)
    kind = put.add_mutually_exclusive_group()
    kind.add_argument("--systemd", action="store_true", help="units (else: if systemd runs here)")
    kind.add_argument("--cron", action="store_true", help="a cron file, instead")
    put.add_argument("--command", metavar="PATH", help="what they call (else: this psync)")
    away = verb("uninstall", _install, "Remove what install has put in place.", session=False)
    for each in (put, away):
        each.add_argument("--root", metavar="DIR", default="/", help="below DIR, for packagers")
        each.set_defaults(removes=each is away)
    known = verb("names", _names, "List the sessions that have run or are configured.", False)
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
    add("--level", choices=_LEVELS, default="debug", help="no less than this")
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


_ON_COMMAND_LINE = (
    "host", "debug", "tempfiles", "excludes", "rsync_excludes", "rsync_extra", "banned",
    "translate", "dry_run", "sync_only", "skip_initial_sync", "force",
)  # fmt: skip


def _given(chosen: argparse.Namespace) -> dict[str, Any]:
    """What of a session's options is on the command line."""
    from psync.config import parse_setting

    given = {k: v for k in _ON_COMMAND_LINE if (v := getattr(chosen, k, None)) not in (None, False)}
    for key in ("tempfiles", "excludes"):
        if key in given:  # as to the original, regular expressions; -e '' excludes nothing
            given[key] = ["re:" + text.removeprefix("re:") for text in given[key] if text]
    given.update(parse_setting(text) for text in chosen.set)
    return given


def _options(chosen: argparse.Namespace) -> Options:
    """Gather a session's options: its table, and over it the command line."""
    from psync.config import config_file, load_session, make_options

    given = _given(chosen)
    values: dict[str, Any] = {}
    where = "command line"
    if len(chosen.roots) == 1:
        if chosen.name is not None or chosen.host is not None:
            raise UsageError("with -r or --name two roots are needed, LEFT and RIGHT")
        name = chosen.roots[0]
        if "/" in name:  # no session has such a name
            raise UsageError(f"two roots are needed, LEFT and RIGHT: {name} is only one")
        try:
            values, where = load_session(config_file(chosen.config), name)
        except UnknownSessionError as error:
            if chosen.config or chosen.has_verb:
                raise
            raise UsageError(
                f"{name!a} is neither a verb ({', '.join(VERBS)}) nor a session: {error}"
            ) from None
        values = {**values, "name": name}
        make_options(values, where)  # so that a fault is blamed on the file or on the command line
        if given:
            where = "command line"
    elif len(chosen.roots) == 2:
        left, right = chosen.roots
        values = {"left": left, "right": right, "name": chosen.name or ""}
    else:
        raise UsageError("two roots are needed, LEFT and RIGHT, or the NAME of a session")
    return make_options({**values, **given}, where)


# --- run ----------------------------------------------------------------------------------


def _sync(chosen: argparse.Namespace) -> int:
    """Make two trees the same once; a session that runs for them is asked to do it."""
    from psync.control import Call, NoSession

    chosen.sync_only = True
    state = state_directory(chosen.state_dir)
    name = chosen.roots[0] if len(chosen.roots) == 1 and "/" not in chosen.roots[0] else None
    try:
        session = SessionDir(state, name or _options(chosen).name)
        Call(session.path, "status").close()
        _refuse_other_options(chosen, session)
        request = Call(session.path, "sync", {"dry_run": chosen.dry_run})
    except NoSession:
        return _run(chosen)
    return _await_sync(request, session.path)


def _refuse_other_options(chosen: argparse.Namespace, session: SessionDir) -> None:
    """Raise UsageError where the command line has options that a session does not run with."""
    import msgspec

    from psync.config import make_options

    runs_with = session.described().get("options") or {}
    given = {k: v for k, v in _given(chosen).items() if k not in ("dry_run", "sync_only")}
    options = make_options({**runs_with, **given, "name": session.name}, "command line")
    wanted = msgspec.to_builtins(options)
    if other := sorted(key for key in given if wanted[key] != runs_with.get(key)):
        raise UsageError(
            f"session {session.name} runs, by its own options: {', '.join(other)} would not count"
        )


def _await_sync(request: Call, directory: Path) -> int:
    """Wait for a full sync that was asked for; on a terminal, show how far it is."""
    from psync.control import Refused, Unanswered, call

    shows = sys.stderr.isatty()
    try:
        while not request.is_answered(_PROGRESS_S):
            if shows:
                with contextlib.suppress(PsyncError):
                    told = call(directory, "status", timeout=_PROGRESS_S)
                    sys.stderr.write(f"\r{told['state']}, {told['pending']:,} pending\x1b[K")
                    sys.stderr.flush()
        if shows:
            sys.stderr.write("\r\x1b[K")
        done = request.result(None)
    except (Refused, Unanswered) as error:
        return _complain(str(error), Exit.FAILED)
    for line in done.get("plan", ()):
        print(harmless(line))
    print(f"{done['changes']:,} changes {'would be' if 'plan' in done else 'were'} made")
    return 0


def _run(chosen: argparse.Namespace) -> int:
    """Run a session in the foreground."""
    # Until somebody minds it: who reloads what has just been started does not mean to end it.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGHUP,))
    # Until the brain minds its signals there is nothing that an end would have to tidy up.
    signal.signal(signal.SIGTERM, _end_at_once)
    options = _options(chosen)
    chosen.has_verb = True  # it is a session's name: a later fault is the file's
    session_dir = SessionDir(state_directory(chosen.state_dir), options.name)
    _check_places(options, session_dir)
    session_dir.lock()
    reread = (lambda: _options(chosen)) if len(chosen.roots) == 1 else None
    try:
        session_dir.mark_stopped(on_purpose=False)
        code = _serve(options, session_dir, chosen, reread)
        facts = {"ended": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "exit": code}
        with contextlib.suppress(StoreError):  # it is only for who asks later how it went
            session_dir.describe({**session_dir.described(), **facts})
        return code
    finally:
        session_dir.unlock()


def _alerts(chosen: argparse.Namespace, *, quiet: bool = False) -> Alerts:
    """Read who is told of a session: one that is configured, or whose --config is given."""
    from psync.alerts import exposed, load_alerts
    from psync.config import config_file

    if quiet or (len(chosen.roots) != 1 and chosen.config is None):
        return load_alerts(None)
    file = config_file(chosen.config)
    alerts = load_alerts(file)
    if chosen.act is not _doctor and (warning := exposed(file, alerts)):
        _complain(warning, 0)
    return alerts


def _check_places(options: Options, session_dir: SessionDir) -> None:
    """Refuse roots that are not there at the first start, and a state that would replicate itself.

    Later a root that is missing is a disaster for the guards to handle, not a slip of the pen.
    """
    roots = [options.left] if options.host else [options.left, options.right]
    for root in roots:
        if session_dir.fresh and not os.path.isdir(root):
            what = "is not a directory" if os.path.exists(root) else "does not exist"
            hint = "" if root == options.left else " (on another host? then -r HOST)"
            raise UsageError(f"{root} {what}{hint}")
    if misplaced := session_dir.misplaced(roots, options.log_file):
        raise UsageError(misplaced)


def _serve(
    options: Options,
    session_dir: SessionDir,
    chosen: argparse.Namespace,
    reread: Callable[[], Options] | None,
) -> int:
    gc.disable()  # what is imported stays: looking for garbage in it is a waste
    import asyncio
    from pathlib import Path

    import msgspec

    from psync.brain import run
    from psync.effects.console import Console
    from psync.effects.log import Bridge, Threshold, WatchedFile, make_logger
    from psync.effects.notify import Notifier
    from psync.overseer import Overseer

    console = Console()
    log_file = Path(options.log_file) if options.log_file else session_dir.log_file
    file = WatchedFile(log_file)
    threshold = Threshold("info")
    log = make_logger(
        file, session=options.name, style=options.log_format, level=threshold, console=console
    )
    bridge = Bridge(log)
    bridge.install()

    def write_by(options: Options) -> Options:
        threshold.set("debug" if options.debug >= 2 else options.log_level)
        bridge.listen(10 if options.debug >= 3 else 30)
        return options

    overseer = Overseer(session_dir, _alerts(chosen, quiet=options.dry_run), log, Notifier())

    def read_again() -> Options:
        file.reopen()
        assert reread is not None
        again, alerts = reread(), _alerts(chosen, quiet=options.dry_run)
        overseer.take_over(alerts)  # only now: both tables are right
        return write_by(again)

    write_by(options)
    session_dir.describe(
        {
            "options": msgspec.to_builtins(options),
            "name": options.name,
            "pid": os.getpid(),
            "left": options.left,
            "host": options.host,
            "right": options.right,
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "version": __version__,
            "log": str(log_file),
        }
    )
    is_service = _mind_hangup(file.reopen)
    again = read_again if is_service and reread is not None else None
    try:
        import uvloop
    except ImportError:
        factory = None
    else:
        factory = uvloop.new_event_loop
    gc.freeze()
    gc.enable()
    try:
        with asyncio.Runner(loop_factory=factory) as runner:
            code = runner.run(run(options, session_dir, log, console, overseer, again))
            _mind_no_more_signals()
    except PsyncError as error:
        log.error("session.failed", message=str(error))
        return int(error.exit_code)  # the console has shown it
    except Exception as error:
        log.critical(
            "session.failed",
            message=f"internal error: {type(error).__name__}: {error}; see the log",
            exc_info=error,
        )
        return int(Exit.INTERNAL)
    finally:
        console.finish()
        file.close()
    return int(code)


def _end_at_once(number: int, _frame: object) -> NoReturn:
    _mind_no_more_signals()
    # Pending from here on, for the brain: what is raised here is lost in a destructor or the like.
    os.kill(os.getpid(), number)
    sys.exit(Exit.STOPPED)


def _mind_no_more_signals() -> None:
    """Let a second signal not turn an end that has begun into a failure.

    They are blocked, not ignored: closing a loop puts the default actions back.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT, signal.SIGHUP))


def _mind_hangup(reopen: Callable[[], None]) -> bool:
    """On SIGHUP: a service looks at its log file again, a session at a terminal ends.

    Returns:
        whether it is a service, which may be told to do more.
    """
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        return False  # nohup
    if sys.stdin is not None and sys.stdin.isatty():
        signal.signal(signal.SIGHUP, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        return False
    signal.signal(signal.SIGHUP, lambda *_: reopen())
    return True


# --- questions to sessions that run -----------------------------------------------------------


def _running(chosen: argparse.Namespace, verb: str, args: dict[str, Any]) -> Any:
    """Ask the one session that is meant; the call is under way."""
    from psync.control import Call, NoSession

    state = state_directory(chosen.state_dir)
    if chosen.name is not None:
        return Call(SessionDir(state, chosen.name).path, verb, args)
    live = _live(state)
    if not live:
        raise NoSession(f"no session is running (state directory {state})")
    if len(live) > 1:
        raise UsageError(f"several sessions are running: {', '.join(live)}; name one")
    return Call(SessionDir(state, live[0]).path, verb, args)


def _live(state: Path) -> list[str]:
    from psync.control import Call, NoSession

    live = []
    for each in sessions(state):
        try:
            Call(each.path, "status").close()
        except NoSession:
            continue
        live.append(each.name)
    return live


def _ask(chosen: argparse.Namespace, verb: str, within: float = _ANSWER_S, **args: Any) -> Any:
    return _running(chosen, verb, args).result(time.monotonic() + within)


def _flush(chosen: argparse.Namespace) -> int:
    _ask(chosen, "flush", chosen.timeout + _GRACE_S, timeout=chosen.timeout)
    return 0


def _pause(chosen: argparse.Namespace) -> int:
    _ask(chosen, "pause")
    return 0


def _resume(chosen: argparse.Namespace) -> int:
    _ask(chosen, "resume", accept_deletes=chosen.accept_deletes)
    return 0


def _stop(chosen: argparse.Namespace) -> int:
    from psync.control import stop

    state = state_directory(chosen.state_dir)
    if chosen.all and chosen.name is not None:
        raise UsageError("either --all or a NAME")
    names = _live(state) if chosen.all else [chosen.name]
    for name in names:
        chosen.name = name
        if name is not None and SessionDir(state, name).path.is_dir():
            SessionDir(state, name).mark_stopped(on_purpose=True)  # also if it is dead already
        request = _running(chosen, "stop", {})
        SessionDir(state, request.name).mark_stopped(on_purpose=True)
        stop(request, chosen.timeout)
    return 0


def _configured(chosen: argparse.Namespace) -> tuple[Path | None, list[str]]:
    """The configuration file, if there is one, and the names in it."""
    from psync.config import config_file, load_file

    try:
        file = config_file(chosen.config)
    except ConfigError:
        return None, []
    return file, list(load_file(file))


def _start(chosen: argparse.Namespace) -> int:
    """Start sessions, side by side; a line for each."""
    import asyncio
    from pathlib import Path

    from psync.configure import faults
    from psync.launch import find_unit, is_answered, start

    state = state_directory(chosen.state_dir)
    file, names = _configured(chosen)
    if file is None:
        raise UsageError("there is no configuration file: psync start starts what is in it")
    wrong = faults(file)
    config = Path(chosen.config).absolute() if chosen.config else None

    async def start_one(name: str) -> tuple[str, str]:
        """Say what was done, and what is wrong."""
        try:
            if name not in names:
                raise ConfigError(f"{file}: no session {name!a}")
            if not SessionDir.is_name(name):
                raise ConfigError(wrong[name])
            session = SessionDir(state, name)
            if is_answered(session):
                done = "runs already"
            elif session.stopped and not chosen.names:
                done = f"stopped on purpose; psync start {name} starts it"
            elif name in wrong:
                done = ""
            else:
                lacks = await start(session, config, await find_unit(name))
                done = f"started; {lacks}" if lacks else "started"
        except PsyncError as error:
            return "", str(error)
        return done, wrong.get(name, "")  # also if it runs: it could not be started again

    async def start_all(each: list[str]) -> list[tuple[str, str]]:
        return await asyncio.gather(*map(start_one, each))

    code = 0
    each = chosen.names or names
    for name, (done, fault) in zip(each, asyncio.run(start_all(each)), strict=True):
        if done:
            print(harmless(f"{name}: {done}"))
        if fault:  # that is no reason not to start the others
            code = _complain(fault, Exit.FAILED)
    return code


def _runcheck(chosen: argparse.Namespace) -> int:
    """Look at every session; a line for each, and the code of the worst."""
    import asyncio
    from pathlib import Path

    import msgspec

    from psync.alerts import exposed, load_alerts
    from psync.configure import faults
    from psync.runcheck import UNKNOWN, WORDS, Finding, load_rules, runcheck

    try:
        state = state_directory(chosen.state_dir)
        file, names = _configured(chosen)
        known = names or [each.name for each in sessions(state)]
        wanted = chosen.names or known
        wrong = faults(file) if file is not None else {}
        for name in wanted:
            if name not in known and not SessionDir(state, name).path.is_dir():
                raise UsageError(f"no session {name!a} is configured, or has run here")
        rules, alerts = load_rules(file), load_alerts(file)
        restart = False if chosen.no_restart else None
        given = {"lag": chosen.lag, "after": chosen.after, "restart": restart}
        rules = msgspec.structs.replace(rules, **{k: v for k, v in given.items() if v is not None})
        if file is not None and (warning := exposed(file, alerts)):
            _complain(warning, 0)
        config = Path(chosen.config).absolute() if chosen.config else None
        dirs = [SessionDir(state, name) for name in wanted if SessionDir.is_name(name)]
        named = chosen.names or names
        found, failed = asyncio.run(runcheck(dirs, rules, alerts, config, names, named, wrong))
        nameless = [name for name in wanted if not SessionDir.is_name(name)]
        found = [Finding(name, UNKNOWN, wrong[name]) for name in nameless] + found
    except PsyncError as error:
        print(f"UNKNOWN: {harmless(str(error))}")
        return UNKNOWN
    if chosen.json:
        told = [{"name": f.session, "status": WORDS[f.code], "code": f.code, "text": f.text,
                 **f.figures} for f in found]  # fmt: skip
        print(json.dumps({"sessions": told}))
    else:
        for each in found:
            print(harmless(f"{WORDS[each.code]}: {each.session}: {each.text}"))
        if not found:
            print("UNKNOWN: there is no session: write /etc/psync/psync.toml")
    for line in failed:
        _complain(line, 1)
    return max((each.code for each in found), default=UNKNOWN)


def _doctor(chosen: argparse.Namespace) -> int:
    """Examine both hosts; a line for each thing that was looked at."""
    import asyncio

    from psync.alerts import exposed
    from psync.config import config_file
    from psync.doctor import BAD, WORDS, doctor

    options = _options(chosen)
    session = SessionDir(state_directory(chosen.state_dir), options.name)
    alerts = _alerts(chosen)
    configured = len(chosen.roots) == 1 or chosen.config is not None
    warning = exposed(config_file(chosen.config), alerts) if configured else ""
    checks = asyncio.run(doctor(options, session, alerts, warning))
    if chosen.json:
        told = [{**each._asdict(), "level": WORDS[each.level]} for each in checks]
        print(json.dumps({"name": options.name, "checks": told}))
    else:
        for each in checks:
            todo = f": {each.todo}" if each.todo else ""
            where = f"{each.where}: " if each.where else ""
            print(harmless(f"{WORDS[each.level]:<5} {where}{each.what}: {each.text}{todo}"))
    return int(any(each.level == BAD for each in checks))


def _install(chosen: argparse.Namespace) -> int:
    """Put files for services in place, or remove them; a line for each."""
    import asyncio
    from pathlib import Path

    from psync.install import doubled, install, tell_systemd, uninstall

    root = Path(chosen.root).absolute()
    state = chosen.state_dir or os.environ.get("PSYNC_STATE_DIR")
    state = os.path.abspath(state) if state else None
    if chosen.removes:
        done = uninstall(root)
    else:
        systemd = True if chosen.systemd else False if chosen.cron else None
        done = install(root, systemd=systemd, command=chosen.command, state=state)
    for each in done:
        print(harmless(str(each)))
    if not chosen.removes and (warning := doubled(root)):
        _complain(warning, 0)
    if root == Path("/"):
        asyncio.run(tell_systemd())
    if not any(each.path.suffix == ".timer" for each in done):
        return 0
    if chosen.removes:
        print("next: systemctl disable what was enabled of it; sessions that run go on until then")
    else:
        print(
            "next: write /etc/psync/psync.toml (see psync.toml.example there), then\n"
            "  systemctl enable --now psync@NAME             for each session\n"
            "  systemctl enable --now psync-runcheck.timer psync-check.timer"
        )
    return 0


def _versions(chosen: argparse.Namespace) -> int:
    """List, or do something with, what is kept of conflicts, or in the trash."""
    store = chosen.store
    if chosen.to is not None and chosen.restore is None:
        raise UsageError("--to says where --restore puts a version")
    if chosen.show is not None or chosen.diff is not None:
        return _show(chosen, _ask(chosen, store, action="show", kept=chosen.show or chosen.diff))
    if chosen.take is not None:
        side, path = chosen.take
        if side not in ("left", "right"):
            raise UsageError(f"--take left PATH or --take right PATH, not {side!a}")
        _ask(chosen, store, action="take", side=side, path=path)
        return 0
    if chosen.restore is not None:
        _ask(chosen, store, action="restore", kept=chosen.restore, to=chosen.to)
        return 0
    for kept in chosen.drop or []:
        _ask(chosen, store, action="drop", kept=kept)
    if chosen.drop:
        return 0
    if chosen.empty:
        return _empty_trash(chosen)
    versions, failed = _kept(chosen)
    if chosen.json:
        print(json.dumps({store: versions}))
        return failed
    keys = ["time", "side", "path", "kept", "reason", "size", "trouble"]
    if len({each["session"] for each in versions}) > 1:
        keys.insert(0, "session")
    for each in versions:
        told = [str(each.get(key, "")) for key in keys]
        told += [_describe_version(side, each[side]) for side in ("left", "right") if side in each]
        print(harmless("  ".join(word for word in told if word)))
    return failed


def _kept(chosen: argparse.Namespace) -> tuple[list[dict[str, Any]], int]:
    """List what is kept, of all sessions that run, or of one, whether it runs or not.

    Returns:
        the versions, each with its session, and 1 if not every session has answered.
    """
    from psync.control import Call, NoSession

    state, store = state_directory(chosen.state_dir), chosen.store
    names = [chosen.name] if chosen.name is not None else _live(state)
    if not names:
        raise NoSession(f"no session is running (state directory {state})")
    versions, failed = [], 0
    for name in names:
        session = SessionDir(state, name)
        try:
            found = Call(session.path, store, {}).result(time.monotonic() + _ANSWER_S) or []
        except NoSession:
            facts = session.described()
            if not facts.get("left"):
                raise
            from psync.desk import kept_here

            found = kept_here(facts, store)
        except PsyncError as error:
            if len(names) == 1:
                raise
            failed = _complain(str(error), 1)
            continue
        versions += [{"session": name, **each} for each in found]
    return versions, failed


def _empty_trash(chosen: argparse.Namespace) -> int:
    """Destroy what is in the trash now; the session does a part of it at a time."""
    from psync.control import Refused

    count, waiting = 0, 0
    sides: list[str] = []
    troubles: list[str] = []
    while True:
        part = _ask(chosen, "trash", action="empty", sides=sides)
        count, waiting = count + part["count"], waiting + part["waiting"]
        troubles += part["troubles"]
        sides = part["sides"]
        if not sides:
            break
    later = f"; {waiting:,} more will come to it within a minute or so" if waiting else ""
    print(f"{counted(count, 'version')} dropped{later}")
    if troubles:
        raise Refused(f"some of it may be left: {'; '.join(troubles)}")
    return 0


def _describe_version(side: str, version: dict[str, Any]) -> str:
    return f"{side}: {version.get('kind')}, {version.get('size', 0):,} bytes, {version.get('time')}"


def _show(chosen: argparse.Namespace, version: dict[str, Any]) -> int:
    """Print a version, or how it differs from what is at its path now."""
    import difflib

    from psync.control import Refused

    if chosen.json:
        print(json.dumps(version))
        return 0
    kept, present = (_bytes(version.get(key)) for key in ("content", "present"))
    first, second = version.get("names", ("kept", "now"))
    waits = not version.get("kept")
    if waits and (chosen.show is not None or kept is None or present is None):
        raise Refused(
            f"{version['path']} waits for a word: --diff compares its two versions, if both are "
            "files and not very large"
        )
    if kept is None:
        raise Refused(
            f"{version['kept']} is no file, or a very large one: it lies in .psync/{chosen.store} "
            f"in the {version['side']} root"
        )
    if chosen.show is not None:
        sys.stdout.flush()
        sys.stdout.buffer.write(kept)
        return 0
    if present is None:
        raise Refused(f"there is no file at {version['path']} now that it could be compared with")
    try:
        texts = [text.decode().splitlines(keepends=True) for text in (kept, present)]
    except UnicodeDecodeError:
        same = "the same" if kept == present else "not the same"
        print(f"no text: {len(kept):,} bytes ({first}), {len(present):,} bytes ({second}), {same}")
        return 0
    names = (f"{version['path']} ({first})", f"{version['path']} ({second})")
    for line in difflib.unified_diff(texts[0], texts[1], *names):
        print(harmless(line.rstrip("\n").expandtabs()))
    return 0


def _bytes(text: str | None) -> bytes | None:
    import base64

    return None if text is None else base64.b64decode(text)


def _status(chosen: argparse.Namespace) -> int:
    """Show every session."""
    from psync.overview import ask

    state = state_directory(chosen.state_dir)
    if chosen.name is not None:
        _refuse_unknown(state, chosen.name)
    if chosen.watch:
        from psync.watchview import watch

        return watch(state, chosen.name, as_json=chosen.json)
    answers, problems = ask(state, chosen.name, _ANSWER_S)
    if chosen.json:
        print(json.dumps({"sessions": answers}))
    elif not answers and not problems:
        print(f"no session is running (state directory {harmless(str(state))})")
    else:
        print("\n".join(line for answer in answers for line in _describe(answer)))
    for problem in problems:
        _complain(problem, 1)
    return 1 if problems else 0


def _refuse_unknown(state: Path, name: str, file: str | None = None) -> None:
    """Raise UsageError: no session of this name has ever run, or is configured in a file."""
    if os.path.isdir(SessionDir(state, name).path):
        return
    from psync.config import config_file
    from psync.overview import configured

    try:
        config = config_file(file)
    except ConfigError:
        config = None
    known = {each.name for each in sessions(state)} | configured(config)
    if name not in known:
        told = f"there are: {', '.join(sorted(known))}" if known else f"none has run in {state}"
        raise UsageError(f"no session {name!a}; {told}")


def _log(chosen: argparse.Namespace) -> int:
    from psync.logview import Filter, show, since

    begin = since(chosen.since, time.time()) if chosen.since else 0.0
    wanted = Filter(
        begin, _LEVELS.index(chosen.level), chosen.side or "", chosen.name or "",
        chosen.grep or "", chosen.path or "",
    )  # fmt: skip
    lines = chosen.lines
    if lines is None and chosen.follow and not chosen.since:
        lines = 10
    return show(
        state_directory(chosen.state_dir), chosen.name, wanted,
        lines=lines, follow=chosen.follow, as_json=chosen.json,
    )  # fmt: skip


def _web(chosen: argparse.Namespace) -> int:
    from psync.web import serve

    state = state_directory(chosen.state_dir)
    if chosen.name is not None:
        _refuse_unknown(state, chosen.name, chosen.config)
    return serve(state, chosen.name, chosen.listen, chosen.group, chosen.config)


def _names(chosen: argparse.Namespace) -> int:
    """List what a NAME may be, for a shell that completes one."""
    from psync.config import config_file
    from psync.overview import names

    try:
        config = config_file(chosen.config)
    except ConfigError:
        config = None
    for name in names(state_directory(chosen.state_dir), config):
        print(harmless(name))
    return 0


def _describe(answer: dict[str, Any]) -> list[str]:
    """Render a session's status for people."""
    lines = [f"{answer.get('name')}: {answer.get('state')} (pid {answer.get('pid')})"]
    lines += [f"  {s:<5}  {_describe_side(answer.get(s, {}))}" for s in ("left", "right")]
    counts = [f"{key} {answer.get(key, 0):,}" for key in ("pending", "conflicts", "problems")]
    if answer.get("lag_s"):
        counts.insert(0, f"lag {answer['lag_s']:.1f} s")
    since = [
        f"{told} {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(answer[key]))}"
        for key, told in (("started", "since"), ("last_change", "last change"))
        if answer.get(key)
    ]
    lines.append("  " + ", ".join(counts + since))
    if answer.get("trouble"):
        lines.append(
            f"  trouble: {answer['trouble']}; nothing is replicated until it can be written"
        )
    if answer.get("halted"):
        lines.append(f"  halted: {answer['halted']}")
    if answer.get("full_sync"):
        lines.append("  a full sync is under way")
    if answer.get("awaiting_restart"):
        lines.append(f"  needs a restart: {', '.join(answer['awaiting_restart'])}")
    if answer.get("misconfigured"):
        lines.append(f"  configuration: {answer['misconfigured']}: all stays as it was")
    if answer.get("audit"):
        from psync.overview import audit_in_words

        lines.append(f"  audit  {audit_in_words(answer['audit'])}")
    for path in answer.get("conflict_list", ()):
        lines.append(f"  conflict: {path}: waits for psync conflicts --take left|right PATH")
    for each in answer.get("problem_list", ()):
        place = f"{each.get('side')} {each.get('path')}"
        lines.append(f"  problem: {place}: {each.get('message')}")
    if more := answer.get("problems", 0) - len(answer.get("problem_list", ())):
        lines.append(f"  and {counted(more, 'problem')} more")
    return [harmless(line) for line in lines]


def _describe_side(side: dict[str, Any]) -> str:
    told = (
        f"{side.get('host')} {side.get('root')}: {side.get('entries') or 0:,} entries, "
        f"{side.get('applied') or 0:,} changes made, {quantity(side.get('bytes') or 0)}"
    )
    if side.get("local"):
        told += f"; {side['local']:,} *.psync.ignore stay here"
    if not side.get("connected", True):
        told += f"; not connected: {side.get('trouble') or 'not yet'}"
    return told


# --- the configuration --------------------------------------------------------------------


def _config(chosen: argparse.Namespace) -> int:
    """Check, show or take over a configuration."""
    from psync import configure

    lines: list[str]
    wrong: list[str] = []
    if chosen.action == "check":
        from psync.alerts import check_alerts, load_alerts
        from psync.config import config_file
        from psync.runcheck import load_rules

        file = chosen.what or chosen.config
        lines, wrong = configure.check(file, (check_alerts, load_rules))
        path = config_file(file)
        if not wrong and not load_alerts(path).enabled:
            lines.insert(0, f"{path}: [alerts] names nobody: nobody will be told what goes wrong")
    elif chosen.action == "import":
        if chosen.what is None:
            raise UsageError("which one? psync config import FILE")
        lines, left_out = configure.import_(chosen.what)
        for line in left_out:
            _complain(line, 0)
    else:
        shown = configure.show(chosen.config, chosen.what)
        lines = [line for each in shown for line in configure.as_toml(each)]
        if chosen.json:
            lines = [json.dumps({"sessions": shown})]
    for line in lines:
        print(harmless(line))
    for line in wrong:
        _complain(line, Exit.FAILED)
    return Exit.FAILED if wrong else 0


# --- check --------------------------------------------------------------------------------


def _check(chosen: argparse.Namespace) -> int:
    """Compare both trees of sessions; return the worst of their codes."""
    from psync.audit import ALERT, EQUAL, FAILED, NOTICE, REPORT, Modes, audit, tell_people

    state = state_directory(chosen.state_dir)
    names = [None] if chosen.roots else _live(state)
    if not names:
        raise UsageError(f"no session is running (state directory {state}): name one")
    reports = []
    for name in names:
        try:
            options = _audited(chosen, state, name)
            threshold = chosen.alert_threshold
            modes = Modes(
                lite=chosen.lite and not (chosen.checksum or chosen.modified),
                checksum=chosen.checksum,
                modified=chosen.modified,
                no_links=chosen.no_links,
                newer_min=chosen.newer,
                backup=chosen.backup,
                threshold=options.alert_threshold if threshold is None else threshold,
            )
            session_dir = SessionDir(state, options.name)
            if chosen.backup:
                _check_places(options, session_dir)
            before = session_dir.described(REPORT)
            reports.append(audit(options, modes, session_dir, as_json=chosen.json))
            for failure in tell_people(_alerts_of_check(chosen), session_dir, before, reports[-1]):
                _complain(failure, 0)
        except PsyncError as error:
            if len(names) == 1:
                raise
            _complain(str(error), FAILED)  # that is no reason not to compare the others
            reports.append({"name": name, "exit": FAILED, "error": str(error)})
    if chosen.json:
        print(json.dumps(reports[0] if chosen.roots else {"sessions": reports}))
    codes = [report["exit"] for report in reports]
    return next(code for code in (FAILED, ALERT, NOTICE, EQUAL) if code in codes)


def _alerts_of_check(chosen: argparse.Namespace) -> Alerts:
    """Who is told of an alert: whom the configuration names; of just any two trees nobody."""
    from psync.alerts import load_alerts
    from psync.config import config_file

    if len(chosen.roots) == 2 and chosen.config is None:
        return load_alerts(None)
    try:
        return load_alerts(config_file(chosen.config))
    except UsageError:
        if chosen.config is not None:
            raise
        return load_alerts(None)  # there is none, or it is not right: a check is a check


def _audited(chosen: argparse.Namespace, state: Path, live: str | None) -> Options:
    """Gather the options with which two trees are, or were, or would be replicated.

    Args:
        chosen: the command line.
        state: the state directory.
        live: a session that runs; None: what the command line names.
    """
    from psync.config import make_options

    given = _given(chosen)
    if live is None and len(chosen.roots) == 2:
        options = _options(chosen)
        given.update(left=options.left, right=options.right)
        name = options.name
    else:
        name = live or chosen.roots[0]
    last: dict[str, Any] = {}
    if live is not None or "/" not in name:
        last = SessionDir(state, name).described().get("options") or {}
    if live is not None and not last:
        raise UsageError(f"session {name} was started by an older psync: start it again")
    if last and (live is not None or len(chosen.roots) == 2 or name in _live(state)):
        return make_options({**last, **given, "name": name}, "command line")
    try:
        return _options(chosen)
    except UnknownSessionError as error:
        if chosen.config:
            raise
        if not last:
            raise UsageError(f"no session {name!a} runs, has run here, or is configured") from error
    return make_options({**last, **given, "name": name}, "command line")


# --- hosts --------------------------------------------------------------------------------


def _trust(chosen: argparse.Namespace) -> int:
    """Show a host's key, ask, and remember it."""
    import asyncio

    from psync.config import make_options, parse_setting
    from psync.effects.ssh import trust

    given = dict(parse_setting(text) for text in chosen.set)
    options = make_options(
        {**given, "host": chosen.host, "left": "/", "right": "/"}, "command line"
    )
    done = trust(chosen.host, options.ssh_options, accept=None if chosen.yes else _accept)
    print(harmless(asyncio.run(done)))
    return 0


def _accept(question: str) -> bool:
    print(harmless(question), end=" [y/N] ", flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
