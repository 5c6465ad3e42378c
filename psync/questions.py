"""What is asked of sessions that run, and how their answers look to a person.

How they are, that they wait, pause, go on or end, and what they keep of conflicts and in the trash
(of one that does not run, what lies in the left root).

**Invariants.** A question reads and writes nothing but a session's socket, and waits for its answer
no longer than it says.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any

from psync.effects.console import complain, counted, harmless, quantity
from psync.effects.state import SessionDir, sessions, state_directory
from psync.errors import ConfigError, Exit, PsyncError, UsageError

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

__all__ = [
    "flush", "live", "pause", "refuse_unknown", "resume", "status", "stop", "versions",
]  # fmt: skip

_ANSWER_S = 10.0  # it takes milliseconds, but seconds where many share a busy machine
_GRACE_S = 2.0  # what the session itself times is answered by then


def _running(chosen: argparse.Namespace, verb: str, args: dict[str, Any]) -> Any:
    """Ask the one session that is meant; the call is under way."""
    from psync.control import Call

    state = state_directory(chosen.state_dir)
    if chosen.name is not None:
        return Call(SessionDir(state, chosen.name).path, verb, args)
    return Call(SessionDir(state, _only(live(state), state)).path, verb, args)


def _only(names: list[str], state: Path) -> str:
    """The one session that is meant where none was named."""
    from psync.control import NoSession

    if not names:
        raise NoSession(f"no session is running (state directory {state})")
    if len(names) > 1:
        raise UsageError(f"several sessions are running: {', '.join(names)}; name one")
    return names[0]


def live(state: Path) -> list[str]:
    """List the sessions that run."""
    return [each.name for each in sessions(state) if _listens(each)]


def _listens(session: SessionDir) -> bool:
    """Tell whether a session takes questions."""
    from psync.control import Call, NoSession

    try:
        Call(session.path, "status").close()
    except NoSession:
        return False
    return True


def _ask(chosen: argparse.Namespace, verb: str, within: float = _ANSWER_S, **args: Any) -> Any:
    return _running(chosen, verb, args).result(time.monotonic() + within)


def flush(chosen: argparse.Namespace) -> int:
    """Wait until everything done so far is on the other side."""
    _ask(chosen, "flush", chosen.timeout + _GRACE_S, timeout=chosen.timeout)
    return 0


def pause(chosen: argparse.Namespace) -> int:
    """Let a session wait."""
    _ask(chosen, "pause")
    return 0


def resume(chosen: argparse.Namespace) -> int:
    """Let a session go on, after a pause or a halt."""
    _ask(chosen, "resume", accept_deletes=chosen.accept_deletes)
    return 0


def stop(chosen: argparse.Namespace) -> int:
    """End sessions, and wait until they are gone; one that does not end is in no other's way."""
    state = state_directory(chosen.state_dir)
    if chosen.all and chosen.names:
        raise UsageError("either --all or a NAME")
    names = chosen.names or [each.name for each in sessions(state) if _is_there(each)]
    if not (chosen.all or chosen.names):
        names = [_only(names, state)]
    code = 0
    for name in dict.fromkeys(names):
        try:
            _stop_one(SessionDir(state, name), chosen.timeout)
        except PsyncError as error:
            code = max(code, complain(str(error), error.exit_code))
    return code


def _is_there(session: SessionDir) -> bool:
    """Tell whether a session takes questions, or is about to."""
    return _listens(session) or bool(session.taker and session.is_held_by(session.taker))


def _stop_one(session: SessionDir, timeout: float) -> None:
    """End a session, and note that this was meant; one that goes on is not to be noted so."""
    from psync.control import Call, NoSession, Refused, stop_silent
    from psync.control import stop as end

    try:
        request = Call(session.path, "stop")
    except NoSession:
        if not session.path.is_dir():
            raise
        session.mark_stopped(on_purpose=True)  # also if it is dead already
        if not stop_silent(session, timeout):
            raise
        session.mark_stopped(on_purpose=True)  # a start takes the first one for an old one
        return
    session.mark_stopped(on_purpose=True)
    try:
        end(request, timeout)
    except Refused:
        session.mark_stopped(on_purpose=False)
        raise


def versions(chosen: argparse.Namespace) -> int:
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
    names = [chosen.name] if chosen.name is not None else live(state)
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
            failed = complain(str(error), 1)
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


def status(chosen: argparse.Namespace) -> int:
    """Show every session."""
    from psync.overview import ask

    state = state_directory(chosen.state_dir)
    if chosen.name is not None:
        refuse_unknown(state, chosen.name)
    if chosen.watch:
        from psync.watchview import watch

        return watch(state, chosen.name, as_json=chosen.json)
    answers, problems = ask(state, chosen.name, _ANSWER_S)
    if chosen.json:
        print(json.dumps({"sessions": answers}))
    elif not answers and chosen.name is not None:
        print(f"session {chosen.name} is not running (state directory {harmless(str(state))})")
    elif not answers:
        print(f"no session is running (state directory {harmless(str(state))})")
    for answer in answers if not chosen.json else ():
        if answer.get("state") != "unanswered":  # a line on stderr says that
            print("\n".join(_describe(answer)))
    for problem in problems:
        complain(problem, 1)
    if chosen.name is not None and not answers:
        return Exit.FAILED
    return 1 if problems else 0


def refuse_unknown(state: Path, name: str, file: str | None = None) -> None:
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
