"""Check a configuration, and show what holds.

    psync config check [FILE]       is it right?
    psync config show [NAME]        every key of a session, its value, and where that is from

**Invariants.** What is printed is TOML that psync takes. It writes no file.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from psync.config import Options, config_file, load_file, load_session, make_options
from psync.errors import ConfigError, PsyncError

__all__ = ["as_toml", "check", "comment", "ending", "faults", "no_route", "show", "toml"]

_KEYS = [key for key in Options.__struct_fields__ if key != "name"]
# What is a regular expression for sure, and a pattern that finds nothing people have.
_EXPRESSION_LIKE = re.compile(r"\\\.|\$$|^\^|\|")
_COMMENT_LIKE = re.compile(r"[#;].*\s")


def check(
    file: str | None, others: Iterable[Callable[[Path], object]] = ()
) -> tuple[list[str], list[str]]:
    """Check every session of a file.

    Args:
        file: its path; None: where psync looks for it.
        others: what reads its other tables, and raises ConfigError.

    Returns:
        what is right or looks odd, and what is wrong: a line each.

    Raises:
        ConfigError: the file cannot be read at all.
    """
    path = config_file(file)
    sound, faults = _sort_out(path, os.path.realpath)
    told = [
        f"{path}: [session.{options.name}]: {line}"
        for options in sound
        for line in (*_odd(options), *_idle(load_session(path, options.name)[0]))
    ]
    told += [f"{path}: {line}" for line in _nested(sound)]
    wrong = list(faults.values())
    wrong += [
        f"{path}: [session.{options.name}]: log_file: {options.log_file} is a directory"
        for options in sound
        if options.log_file is not None and os.path.isdir(options.log_file)
    ]
    wrong += [
        f"{path}: [session.{options.name}]: rsync_extra: {option!a}: rsync says: {why}"
        for options in sound
        for option in options.rsync_extra
        if (why := _refused(option))
    ]
    if not sound and not faults:
        wrong.append(f"{path}: no session is in it: sessions are [session.NAME]")
    for load in others:
        try:
            load(path)
        except ConfigError as error:
            wrong.append(str(error))
    if not wrong:
        told.append(f"{path}: {len(sound)} session{'s' * (len(sound) > 1)}, nothing wrong")
    return told, wrong


def faults(path: Path) -> dict[str, str]:
    """Say of each session of a file that cannot run why not.

    Of two that cannot run side by side it is the later one. Roots are compared as they are written,
    not looked at: who asks whether sessions are alive must not wait for a disk that hangs.

    Raises:
        ConfigError: the file cannot be read at all.
    """
    return _sort_out(path, str)[1]


def ending(path: Path) -> set[str]:
    """The sessions of a file that are to end by themselves. Raises as `faults` does."""
    return {each.name for each in _sort_out(path, str)[0] if each.sync_only or each.dry_run}


def _sort_out(path: Path, real: Callable[[str], str]) -> tuple[list[Options], dict[str, str]]:
    """Tell the sessions that can run from those that cannot; of these, why not.

    Args:
        path: the file.
        real: what a path on this host leads to.
    """
    sound: list[Options] = []
    faults: dict[str, str] = {}
    taken: dict[tuple[str | None, str], str] = {}  # whose each root is
    for name in load_file(path):
        try:
            table, where = load_session(path, name)
            options = make_options({**table, "name": name}, where)
            roots = _roots(options, real)
            if options.host is None:
                _refuse_nested(roots["left"][1], roots["right"][1], where)
            for side, root in roots.items():
                if root in taken:
                    raise ConfigError(
                        f"{where}: {side}: {root[1]} is the {taken[root]}, too: "
                        "no root belongs to two sessions"
                    )
                log = options.log_file if root[0] is None else None
                if log is not None and _is_inside(real(log), root[1]):
                    raise ConfigError(
                        f"{where}: log_file: {log} is inside {root[1]}, and would be replicated: "
                        "choose another"
                    )
            if why := no_route(options):
                raise ConfigError(f"{where}: {why}")
        except ConfigError as error:
            faults[name] = str(error)
            continue
        taken |= {root: f"{side} of [session.{name}]" for side, root in roots.items()}
        sound.append(options)
    return sound, faults


def _roots(options: Options, real: Callable[[str], str]) -> dict[str, tuple[str | None, str]]:
    """The host and the path of each root, by side."""
    right = real(options.right) if options.host is None else options.right
    return {"left": (None, real(options.left)), "right": (options.host, right)}


def _nested(sound: list[Options]) -> list[str]:
    """Find the roots inside another session's that this one does not leave out.

    Both run, and each leaves the other's `.psync` alone; what is there goes through both.
    """
    roots = [
        (options, side, host, root)
        for options in sound
        for side, (host, root) in _roots(options, os.path.realpath).items()
    ]
    return [
        f"[session.{inner.name}]: {side}: {root} is inside the {outside} of "
        f"[session.{outer.name}], and both replicate it: name it in the excludes of that one"
        for inner, side, host, root in roots
        for outer, outside, other, top in roots
        if inner is not outer and host == other and _is_inside(root, top)
        if not outer.ignored()(os.fsencode(os.path.relpath(root, top)), directory=True)
    ]


def _refuse_nested(left: str, right: str, where: str) -> None:
    """Raise ConfigError: of two directories one is in the other, or they are the same."""
    for inner, outer in ((left, right), (right, left)):
        if _is_inside(inner, outer):
            raise ConfigError(
                f"{where}: {inner} is {outer}, or inside it: "
                "a tree cannot be replicated into itself"
            )


def no_route(options: Options) -> str:
    """Say why the host of a session cannot be asked for at all; empty: it can, or there is none."""
    if options.host is None:
        return ""
    from psync.effects.ssh_config import find_route  # who has no host does not wait for it

    try:
        with find_route(options.host, options.ssh_options, options.timeout):
            return ""
    except PsyncError as error:
        return str(error)


def _refused(option: str) -> str:
    """Say why this host's rsync takes no such option; empty: it does."""
    import asyncio

    from psync.effects.rsync import refusal

    return asyncio.run(refusal(option))


def _is_inside(path: str, root: str) -> bool:
    """Tell whether a path is in a directory, or is it; both are as `Options` has them."""
    return path == root or path.startswith(root.rstrip("/") + "/")


def _odd(options: Options) -> list[str]:
    """What is allowed, and still not what somebody will have meant."""
    return [
        f"{key}: {pattern!a} looks like a regular expression, and is read as a pattern: for the "
        f"former write {'re:' + pattern!a}"
        for key in ("excludes", "tempfiles")
        for pattern in getattr(options, key)
        if not pattern.startswith(("re:", "!re:")) and _EXPRESSION_LIKE.search(pattern)
    ] + [
        f"rsync_excludes: {pattern!a} looks like a comment, and is read as a name: to rsync, too, "
        "it is one in a file only"
        for pattern in options.rsync_excludes
        if _COMMENT_LIKE.match(pattern)
    ]


def _idle(table: dict[str, Any]) -> list[str]:
    """Find a `translate` that does nothing; `Options.right` is what it has become already."""
    translate, right = table.get("translate"), table["right"]
    if translate is None or right.replace(*translate.split(":", 1)) != right:
        return []
    return [f"translate: {translate!a} changes nothing in right, {right!a}"]


def show(file: str | None, name: str | None) -> list[dict[str, Any]]:
    """Every key of a session, or of all.

    Returns:
        for each its `name`, its `file`, and in `keys` for each key a `value`, and `from`:
        `default` or `file`.

    Raises:
        ConfigError: it is not there, or wrong.
    """
    path = config_file(file)
    shown = []
    for each in [name] if name is not None else load_file(path):
        table, where = load_session(path, each)
        options = make_options({**table, "name": each}, where)
        keys = {
            key: {"value": getattr(options, key), "from": "file" if key in table else "default"}
            for key in _KEYS
        }
        shown.append({"name": each, "file": str(path), "keys": keys})
    return shown


def as_toml(session: dict[str, Any]) -> list[str]:
    """Render what `show` gives as lines of a configuration."""
    lines = [f"[session.{_key(session['name'])}]  # {comment(session['file'])}"]
    for key, told in session["keys"].items():
        value = told["value"]
        line = f"# {key} is not set" if value is None else f"{key} = {toml(value)}"
        lines.append(line if told["from"] == "file" else f"{line:<40}  # {told['from']}")
    return lines


def toml(value: Any) -> str:
    """Write a value of an option as TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, list):
        return f"[{', '.join(toml(each) for each in value)}]"
    text = str(value)
    if "\\" in text and "'" not in text and text.isprintable():
        return f"'{text}'"
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(text: str) -> str:
    return text if re.fullmatch(r"[\w-]+", text, re.ASCII) else toml(text)


def comment(text: str) -> str:
    """Text that ends no line and begins no other."""
    return text if text.isprintable() else ascii(text)[1:-1]
