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
import io
import json
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Any, NoReturn

from psync import __version__, questions
from psync.effects.console import complain, counted, harmless
from psync.effects.state import SessionDir, sessions, state_directory
from psync.errors import (
    ConfigError,
    Exit,
    PsyncError,
    StoreError,
    TransportError,
    UnknownSessionError,
    UsageError,
)
from psync.grammar import LEVELS, VERBS, parse, verb_at
from psync.questions import live, refuse_unknown

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from psync.alerts import Alerts
    from psync.config import Options
    from psync.control import Call

__all__ = ["main"]

_PROGRESS_S = 0.5
_NO_ANSWER = {"check": 1, "runcheck": 3}  # their exit code, whatever the reason


def main(argv: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    _have_standard_files()
    no_answer = _NO_ANSWER.get("".join(arguments[verb_at(arguments) :][:1]))
    try:
        if arguments[:1] == ["agent"]:
            from psync.agent import main as agent

            return int(agent(arguments[1:]) or 0)
        if sys.version_info < (3, 11):  # noqa: UP036  # the agent half runs on 3.9
            raise UsageError(f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}")
        chosen = parse(arguments)
        code = _ACTS[chosen.verb](chosen)
        if sys.stdout is not None:
            sys.stdout.flush()
    except PsyncError as error:
        return complain(str(error), no_answer or error.exit_code)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:  # psync status | head
        _discard_stdout()
        return 128 + signal.SIGPIPE
    except OSError as error:
        _discard_stdout()
        if error.filename is None and not _has_place():
            told = "the current directory is gone, and a path is relative to it: cd elsewhere"
            return complain(told, no_answer or Exit.FAILED)
        where = f"{error.filename}: " if error.filename is not None else ""
        return complain(f"{where}{error.strerror or error}", no_answer or 1)
    except ImportError as error:
        return complain(
            f"{error}: a package that psync needs is missing; install psync again",
            no_answer or Exit.FAILED,
        )
    except Exception as error:  # noqa: BLE001  # the last line of defence
        told = f"internal error: {type(error).__name__}: {error}"
        return complain(told, no_answer or Exit.INTERNAL)
    return code


def _have_standard_files() -> None:
    """Open what is closed of 0, 1 and 2: else a database could get such a number.

    And let no name of a file, or other text, be an error that the user's locale cannot show.
    """
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(fd)
    sys.stdin = sys.stdin or os.fdopen(0, closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _has_place() -> bool:
    """Tell whether there still is a current directory."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return False
    return True


def _discard_stdout() -> None:
    """Let the interpreter's own flush at the end go nowhere."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)


# --- the options of a session --------------------------------------------------------------

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
        _refuse_names(chosen)
        if chosen.name is not None:  # nor is "" one
            SessionDir(state_directory(chosen.state_dir), chosen.name)
        left, right = chosen.roots
        values = {"left": left, "right": right, "name": chosen.name or ""}
    else:
        raise UsageError("two roots are needed, LEFT and RIGHT, or the NAME of a session")
    return make_options({**values, **given}, where)


def _refuse_names(chosen: argparse.Namespace) -> None:
    """Raise UsageError: what stands where two roots are to stand are the names of two sessions."""
    from psync.config import config_file
    from psync.overview import configured

    names = chosen.roots
    if chosen.host is not None or any("/" in each or os.path.isdir(each) for each in names):
        return
    try:
        known = configured(config_file(chosen.config))
    except ConfigError:
        return
    if known.issuperset(names):
        raise UsageError(
            f"{' and '.join(names)} are sessions; this takes one, or two roots, LEFT and RIGHT: "
            f"psync start {' '.join(names)} runs both"
        )


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
        if chosen.json:
            raise
        return _run(chosen)
    return _await_sync(request, session, as_json=chosen.json)


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


def _await_sync(request: Call, session: SessionDir, *, as_json: bool) -> int:
    """Wait for a full sync that was asked for; on a terminal, show how far it is."""
    from psync.control import Refused, Unanswered, call

    shows = sys.stderr.isatty()
    try:
        while not request.is_answered(_PROGRESS_S):
            if shows:
                with contextlib.suppress(PsyncError):
                    told = call(session.path, "status", timeout=_PROGRESS_S)
                    sys.stderr.write(f"\r{told['state']}, {told['pending']:,} pending\x1b[K")
                    sys.stderr.flush()
        if shows:
            sys.stderr.write("\r\x1b[K")
        done = request.result(None)
    except (Refused, Unanswered) as error:
        return complain(str(error), Exit.FAILED)
    if as_json:
        print(json.dumps({"name": session.name, **done}))
        return 0
    for line in done.get("plan", ()):
        print(harmless(line))
    happened = "would be" if "plan" in done else "was" if done["changes"] == 1 else "were"
    print(f"{counted(done['changes'], 'change')} {happened} made")
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
    code: int = Exit.FAILED
    try:
        if not (options.dry_run or _given(chosen).get("sync_only")):  # else it is not for good
            session_dir.mark_stopped(on_purpose=False)
        code = _serve(options, session_dir, chosen, reread)
        facts = {"ended": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "exit": code}
        with contextlib.suppress(StoreError):  # it is only for who asks later how it went
            session_dir.describe({**session_dir.described(), **facts})
        return code
    finally:
        if len(chosen.roots) == 2 and code not in (Exit.STOPPED, Exit.INTERNAL):
            _discard(session_dir)
        session_dir.unlock()


def _discard(session_dir: SessionDir) -> None:
    """Leave nothing of a session that nobody has configured and that has come to nothing."""
    from psync.effects.store import is_of_no_pair

    if is_of_no_pair(session_dir):
        session_dir.discard()


def _alerts(chosen: argparse.Namespace, *, quiet: bool = False) -> Alerts:
    """Read who is told of a session: one that is configured, or whose --config is given."""
    from psync.alerts import exposed, load_alerts
    from psync.config import config_file

    if quiet or (len(chosen.roots) != 1 and chosen.config is None):
        return load_alerts(None)
    file = config_file(chosen.config)
    alerts = load_alerts(file)
    if chosen.verb != "doctor" and (warning := exposed(file, alerts)):
        complain(warning, 0)
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
    from psync.config import config_file
    from psync.configure import no_route
    from psync.effects.console import Console
    from psync.effects.log import Bridge, Threshold, WatchedFile, make_logger
    from psync.effects.notify import Notifier
    from psync.overseer import Overseer

    console = Console()
    log_file = Path(options.log_file) if options.log_file else session_dir.log_file
    file = WatchedFile(
        log_file,
        makes_directory=not log_file.is_relative_to(session_dir.path),
        warn=lambda line: console.warn(f"psync: {options.name}: {line}"),
    )
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
        if why := no_route(again):
            raise ConfigError(f"{config_file(chosen.config)}: [session.{again.name}]: {why}")
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


# --- services, and what is known of them -------------------------------------------------------


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
            code = complain(fault, Exit.FAILED)
    return code


def _runcheck(chosen: argparse.Namespace) -> int:
    """Look at every session; a line for each, and the code of the worst."""
    import asyncio
    from pathlib import Path

    import msgspec

    from psync.alerts import exposed, load_alerts
    from psync.configure import ending, faults
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
            complain(warning, 0)
        config = Path(chosen.config).absolute() if chosen.config else None
        dirs = [SessionDir(state, name) for name in wanted if SessionDir.is_name(name)]
        named = chosen.names or names
        ends = ending(file) if file is not None else set()
        look = runcheck(dirs, rules, alerts, config, names, named, wrong, ends)
        found, failed = asyncio.run(look)
        nameless = [name for name in wanted if not SessionDir.is_name(name)]
        found = [Finding(name, UNKNOWN, wrong[name]) for name in nameless] + found
    except PsyncError as error:
        told = {"sessions": [], "error": str(error)}
        print(json.dumps(told) if chosen.json else f"UNKNOWN: {harmless(str(error))}")
        return UNKNOWN
    if chosen.json:
        looks = [{"name": f.session, "status": WORDS[f.code], "code": f.code, "text": f.text,
                  **f.figures} for f in found]  # fmt: skip
        print(json.dumps({"sessions": looks}))
    else:
        for each in found:
            print(harmless(f"{WORDS[each.code]}: {each.session}: {each.text}"))
        if not found:
            print("UNKNOWN: there is no session: write /etc/psync/psync.toml")
    for line in failed:
        complain(line, 1)
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

    from psync.install import doubled, hidden, install, tell_systemd, uninstall

    if not chosen.root:
        raise UsageError("--root: a directory is wanted, not nothing")
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
    for look in () if chosen.removes else (doubled, hidden):
        if warning := look(root):
            complain(warning, 0)
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


def _log(chosen: argparse.Namespace) -> int:
    from psync.logview import Filter, show, since

    begin = since(chosen.since, time.time()) if chosen.since else 0.0
    wanted = Filter(
        begin, LEVELS.index(chosen.level), chosen.side or "", chosen.name or "",
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
        refuse_unknown(state, chosen.name, chosen.config)
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
        from psync.original import import_

        lines, left_out = import_(chosen.what)
        for line in left_out:
            complain(line, 0)
    else:
        shown = configure.show(chosen.config, chosen.what)
        lines = [line for each in shown for line in configure.as_toml(each)]
        if chosen.json:
            lines = [json.dumps({"sessions": shown})]
    for line in lines:
        print(harmless(line))
    for line in wrong:
        complain(line, Exit.FAILED)
    return Exit.FAILED if wrong else 0


# --- check --------------------------------------------------------------------------------


def _check(chosen: argparse.Namespace) -> int:
    """Compare both trees of sessions; return the worst of their codes."""
    from psync.audit import ALERT, EQUAL, FAILED, NOTICE, REPORT, Modes, audit, tell_people

    state = state_directory(chosen.state_dir)
    names = [None] if chosen.roots else live(state)
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
                complain(failure, 0)
        except PsyncError as error:
            if len(names) == 1:
                raise
            complain(str(error), FAILED)  # that is no reason not to compare the others
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


def _audited(chosen: argparse.Namespace, state: Path, running: str | None) -> Options:
    """Gather the options with which two trees are, or were, or would be replicated.

    Args:
        chosen: the command line.
        state: the state directory.
        running: a session that runs; None: what the command line names.
    """
    from psync.config import make_options

    given = _given(chosen)
    if running is None and len(chosen.roots) == 2:
        options = _options(chosen)
        given.update(left=options.left, right=options.right)
        name = options.name
    else:
        name = running or chosen.roots[0]
    last: dict[str, Any] = {}
    if running is not None or "/" not in name:
        last = SessionDir(state, name).described().get("options") or {}
        last.pop("translate", None)  # its right root is translated already
    if running is not None and not last:
        raise UsageError(f"session {name} was started by an older psync: start it again")
    if last and (running is not None or len(chosen.roots) == 2 or name in live(state)):
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
    try:
        print(harmless(asyncio.run(done)))
    except TransportError as error:  # no session has lost a side
        return complain(str(error), 1)
    return 0


def _accept(question: str) -> bool:
    print(harmless(question), end=" [y/N] ", flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


_ACTS: dict[str, Callable[[argparse.Namespace], int]] = {
    "run": _run,
    "sync": _sync,
    "start": _start,
    "status": questions.status,
    "log": _log,
    "web": _web,
    "flush": questions.flush,
    "pause": questions.pause,
    "resume": questions.resume,
    "stop": questions.stop,
    "check": _check,
    "runcheck": _runcheck,
    "doctor": _doctor,
    "conflicts": questions.versions,
    "trash": questions.versions,
    "config": _config,
    "trust": _trust,
    "names": _names,
    "install": _install,
    "uninstall": _install,
}
