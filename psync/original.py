"""Take over the configuration of the original psync.

    psync config import FILE        its `libs/config.py` as a table for psync.toml

**Invariants.** The file is a program; it is read, never run: what is not a plain value
is left out, and said so. Everything in it is answered for, by a key or by a comment; what may have
set a parameter and was not taken over is told beside. What is printed is TOML that psync takes.

It writes no file.
"""

from __future__ import annotations

import ast
import re
import shlex
import warnings
from collections.abc import Callable, Sequence
from itertools import pairwise, takewhile
from typing import Any, NamedTuple

from psync.config import REPLACED, make_options, read_bounded, unfit_rsync_options
from psync.configure import comment, toml
from psync.errors import ConfigError

__all__ = ["import_"]

_LITERALS_MAX = 100
_SHOWN_MAX = 80  # characters of a line


def import_(file: str) -> tuple[list[str], list[str]]:
    """Make a session's table of the original's configuration.

    Returns:
        the table, a string a line; and what of the file is not in it and may have to be, likewise.

    Raises:
        ConfigError: it cannot be read, or is no Python.
    """
    assigned, beside = _assignments(file)
    lines = [
        f"# from {comment(file)}",
        "[session.NAME]",
        "# The original had these on its command line:",
        '# left = "/srv/files"',
        '# right = "/srv/files"',
        '# host = "backup.example.org"',
        "",
    ]
    left_out: list[str] = []
    for key, (value, why) in assigned.items():
        if why:
            lines.append(f"# {key}: {why}")
        elif key in _IMPORTS:
            taken = _IMPORTS[key](key, value)
            lines += [*taken.lines, *(f"# {each}" for each in taken.left_out)]
            left_out += taken.left_out
        elif key in REPLACED:
            lines.append(f"# {key} = {_python(value)}: {REPLACED[key]}")
        else:
            lines.append(f"# {key} = {_python(value)}: no parameter of psync")
    lines += [f"# {each}" for each in beside]
    return lines, [f"{file}: {each}" for each in beside + left_out]


def _python(value: Any) -> str:
    return ascii(value)


_Known = dict[str, tuple[Any, str]]  # what names stand for: a value, or why it is not taken
_COMPUTED = "it is computed: not taken over"
# What sets no parameter, whatever is in it.
_HARMLESS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.Pass)


def _assignments(file: str) -> tuple[_Known, list[str]]:
    """What is assigned to each name at the top of a file; and a line each of what else may be."""
    source = read_bounded(file, once=True).decode("utf-8-sig", "replace")
    source = source.replace("\r\n", "\n").replace("\r", "\n")
    lines = source.split("\n")
    found: _Known = {}
    left_out = []
    for statement in _parse(source, file).body:
        if not _understand(statement, found):
            text = comment(lines[statement.lineno - 1].strip()[:_SHOWN_MAX])
            left_out.append(f"line {statement.lineno}: not taken over: {text}")
    return found, left_out


def _understand(statement: ast.stmt, found: _Known) -> bool:
    """Take in what a statement assigns; tell whether that is all that it can do to a parameter."""
    targets: list[ast.expr] = []
    value: ast.expr | None = None
    if isinstance(statement, ast.Assign):
        targets, value = statement.targets, statement.value
    elif isinstance(statement, ast.AnnAssign):
        targets, value = [statement.target], statement.value
        if value is None:
            return True  # it says only of what type it is
    elif isinstance(statement, ast.AugAssign):
        targets = [statement.target]
        if isinstance(statement.target, ast.Name):
            present = ast.Name(statement.target.id, ast.Load())
            value = ast.BinOp(present, statement.op, statement.value)
    elif isinstance(statement, ast.ImportFrom):
        return not any((each.asname or each.name) in ("*", *_IMPORTS) for each in statement.names)
    elif isinstance(statement, _HARMLESS):
        return True
    elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return True  # a comment, as a string
    names = [target.id for target in targets if isinstance(target, ast.Name)]
    if value is not None and len(names) == len(targets):
        try:
            found |= dict.fromkeys(names, (_value(value, found), ""))
            return True
        except ValueError:
            pass
    changed = [
        node.id
        for node in ast.walk(statement)
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)
    ]
    is_plain = isinstance(statement, ast.Assign) and len(changed) == len(targets)
    found |= {
        name: (None, REPLACED.get(name, _COMPUTED))
        for name in changed
        if is_plain or name in found or name in _IMPORTS
    }
    return is_plain and not any(name in _IMPORTS for name in changed)


def _parse(source: str, file: str) -> ast.Module:
    """Parse Python; the original's was of a time when 01 was a number."""
    lines = source.split("\n")
    for _ in range(_LITERALS_MAX):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # "\\." was a common way to write one
                return ast.parse("\n".join(lines))
        except SyntaxError as error:
            at, column = (error.lineno or 1) - 1, (error.offset or 1) - 1
            octal = "leading zeros" in error.msg and at < len(lines)
            if not octal or lines[at][column : column + 1] != "0":
                break
            lines[at] = f"{lines[at][:column]}0o{lines[at][column + 1 :]}"
            message = error.msg
        except (ValueError, RecursionError, MemoryError):
            raise ConfigError(f"{file} is no configuration of the original") from None
    else:
        raise ConfigError(f"{file} is no configuration of the original: {message}")
    raise ConfigError(
        f"{file} is no configuration of the original: line {at + 1} is no Python"
    ) from None


_ARITHMETIC: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
}
_NUMBERS_MAX = 1e12
_LENGTH_MAX = 100_000


def _value(node: ast.expr, known: _Known) -> Any:
    """Work out a plain value. Raises ValueError: it is none."""
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str):
            node.value.encode()  # UnicodeEncodeError is a ValueError: TOML could not say it
        if node.value is None or isinstance(node.value, (str, int, float)):
            return node.value
    elif isinstance(node, ast.Name) and node.id in known and not known[node.id][1]:
        return known[node.id][0]
    elif isinstance(node, (ast.List, ast.Tuple)):
        return [_value(each, known) for each in node.elts]
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_number(_value(node.operand, known))
    elif isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        left, right = _value(node.left, known), _value(node.right, known)
        if isinstance(node.op, ast.Add) and type(left) is type(right) in (str, list):
            if len(left) + len(right) > _LENGTH_MAX:
                raise ValueError
            return left + right
        try:
            return _ARITHMETIC[type(node.op)](_number(left), _number(right))
        except ZeroDivisionError:
            raise ValueError from None
    raise ValueError


def _number(value: Any) -> Any:
    if isinstance(value, (int, float)) and abs(value) < _NUMBERS_MAX:
        return value
    raise ValueError


# --- what becomes of each parameter -------------------------------------------------------


class _Taken(NamedTuple):
    """What becomes of a parameter: lines of the table, and what somebody may have to see to."""

    lines: list[str]
    left_out: Sequence[str] = ()


_Take = Callable[[str, Any], _Taken]
_DEFAULTS = make_options({"left": "/l", "right": "/r"}, "")


def _as(ours: str, limit: float | None = None) -> _Take:
    """The same under a name of ours; a number is at most `limit`."""

    def take(key: str, value: Any) -> _Taken:
        if value is None:
            return _Taken([])
        renamed = "" if ours == key else f"  # was {key}"
        if limit is not None and isinstance(value, (int, float)) and value > limit:
            return _Taken([f"{ours} = {toml(limit)}  # was {_python(value)}: that is the most"])
        same = _same(value, type(getattr(_DEFAULTS, ours)))
        try:
            make_options({"left": "/l", "right": "/r", ours: same}, key)
        except ConfigError as error:
            return _not_taken(key, value, _plainly(str(error).removeprefix(f"{key}: {ours}: ")))
        return _Taken([f"{ours} = {toml(same)}{renamed}"])

    return take


def _same(value: Any, kind: type) -> Any:
    """Write a number as one of our type, where it is one; to Python True is 1, and 45.0 is 45."""
    if kind is bool and isinstance(value, (int, float)):
        return bool(value)
    is_whole = isinstance(value, float) and value.is_integer()
    if (isinstance(value, bool) and kind in (int, float)) or (is_whole and kind is int):
        return int(value)
    return value


_EXPECTED = re.compile(r"Expected (\w+)(?: \| null)?(?: (>=|<=) ([\d.]+)|, got (\w+))")
_KINDS = {
    "array": "a list",
    "bool": "true or false",
    "float": "a number",
    "int": "a whole number",
    "null": "nothing",
    "str": "text",
}
_BOUNDS = {">=": "at least", "<=": "at most"}


def _plainly(said: str) -> str:
    """Say what is wrong with a value to who has not seen our types."""
    match = _EXPECTED.match(said)
    if match is None or not {match[1], match[4] or "int"} <= set(_KINDS):
        return said
    wanted, bound, limit, got = match.groups()
    if bound:
        return f"it has to be {_BOUNDS[bound]} {limit.removesuffix('.0')}"
    return f"{_KINDS[wanted]} is wanted, not {'a fraction' if got == 'float' else _KINDS[got]}"


def _not_taken(key: str, value: Any, why: str) -> _Taken:
    return _Taken([], [comment(f"{key} = {_python(value)}: not taken over: {why}")])


def _not(why: str) -> _Take:
    """Nothing of ours; somebody who wants it all the same is told how."""
    return lambda key, value: _Taken(
        [] if value is None else [f"# {key} = {_python(value)}: {why}"]
    )


_OWN_NAMES = frozenset(
    (".psync", "*.psync.ignore", "*.rsync-partial", ".rsync-partial", "*.rsync-backup",
     ".rsync-backup", ".*.??????")
)  # fmt: skip
_OWN_EXPRESSIONS = frozenset(
    (".psync.ignore", r"\.psync\.ignore", ".rsync-partial", ".rsync-backup", r"/\..*\.......$")
)


def _rsync_excludes(key: str, value: Any) -> _Taken:
    return _list(key, value, _OWN_NAMES, "names of psync's and rsync's own")


def _excludes(key: str, value: Any) -> _Taken:
    parts = [value] if isinstance(value, str) else value
    if isinstance(value, str) and not set(value) & set("([") and r"\|" not in value:
        parts = [part for part in value.split("|") if part]
    return _list(key, parts, _OWN_EXPRESSIONS, "names of psync's and rsync's own", "re:")


def _list(key: str, value: Any, own: frozenset[str], why: str, mark: str = "") -> _Taken:
    if value is None:
        return _Taken([])
    if not _is_texts(value):
        return _not_taken(key, value, "a list of text is wanted")
    kept: list[str] = []
    lines: list[str] = []
    left_out: list[str] = []
    for rule in [mark + each for each in value if each not in own]:
        refused = _as(key)(key, [rule]).left_out
        left_out += refused
        kept += [] if refused else [rule]
    dropped = [each for each in value if each in own]
    if dropped:
        lines.append(f"# {key}: not taken over, for they were {why}: {_python(dropped)}")
    return _Taken([*_as(key)(key, kept).lines, *lines], left_out)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _banned(key: str, value: Any) -> _Taken:
    if not value and value is not None:
        return _Taken([f"# {key} = {_python(value)}: no program, which is the default"])
    return _as(key)(key, value)


# --- what rsync was told ----------------------------------------------------------------------

# Options of rsync that have a value, which may be the next word; other names of some.
_RSYNC_LETTERS = {
    "B": "--block-size", "M": "--remote-option", "T": "--temp-dir", "e": "--rsh", "f": "--filter",
    "@": "--modify-window",
}  # fmt: skip
_RSYNC_ALIASES = {
    "--cc": "--checksum-choice",
    "--zc": "--compress-choice",
    "--zl": "--compress-level",
    "--zt": "--compress-threads",
}
_RSYNC_VALUED = frozenset(
    (
        *_RSYNC_LETTERS.values(), *_RSYNC_ALIASES.values(), "--address", "--backup-dir",
        "--bwlimit", "--checksum-seed", "--chmod", "--chown", "--compare-dest", "--confine-root",
        "--contimeout", "--copy-as", "--copy-dest", "--debug", "--early-input", "--exclude",
        "--exclude-from", "--files-from", "--groupmap", "--iconv", "--include", "--include-from",
        "--info", "--link-dest", "--log-file", "--log-file-format", "--log-format", "--max-alloc",
        "--max-delete", "--max-size", "--min-size", "--only-write-batch", "--out-format",
        "--outbuf", "--partial-dir", "--password-file", "--port", "--protocol", "--read-batch",
        "--rsync-path", "--skip-compress", "--sockopts", "--stderr", "--stop-after", "--stop-at",
        "--suffix", "--time-limit", "--timeout", "--usermap", "--write-batch",
    )
)  # fmt: skip
_NOT_HOW = "not taken over: psync takes only what says how rsync transfers"
# Why psync gives rsync no such option, or what to say instead.
_RSYNC_REASONS = {
    name: why
    for why, names in (
        (
            "a symlink is replicated as what it is",
            "-K -L -k -l --copy-dirlinks --copy-links --copy-unsafe-links --keep-dirlinks --links "
            "--munge-links --no-l --no-links --safe-links",
        ),
        ("say etimeout", "--timeout"),
        (REPLACED["maxsize"], "--max-size --min-size"),
        (REPLACED["partialdir"], "-P --partial --partial-dir --temp-dir"),
        (REPLACED["backupdir"], "-b --backup --backup-dir --suffix"),
        (
            "a deletion is replicated as what it is",
            "--del --delete --delete-after --delete-before --delete-delay --delete-during --force "
            "--ignore-errors",
        ),
        (
            "rsync transfers content only; all else is psync's",
            "-A -E -J -O -X -a -d -g -o -p -r -t --acls --archive --dirs --executability --group "
            "--omit-dir-times --omit-link-times --owner --perms --recursive --times --xattrs",
        ),
        (
            "what differs is found by psync, not by rsync",
            "-I -c -u --checksum --ignore-times --modify-window --size-only --update",
        ),
        (
            "psync decides that for each transfer",
            "-S --inplace --no-W --no-inplace --no-sparse --sparse",
        ),
        (
            "psync has a log of its own: say debug",
            "-h -i --human-readable --itemize-changes --log-file --log-file-format --log-format "
            "--no-motd --out-format --progress --stderr",
        ),
        ("not taken over: say dry_run", "-n --dry-run"),
        (
            "not taken over: say excludes",
            "-C -F --cvs-exclude --exclude --exclude-from --files-from --filter --include "
            "--include-from",
        ),
        ("not taken over: say max_delete", "--max-delete"),
        ("not taken over: rsync has psync's connection: say ssh_options", "--rsh"),
    )
    for name in names.split()
}


def _rsync_extra(key: str, value: Any) -> _Taken:
    if value is None:
        return _Taken([])
    try:
        words = shlex.split(value) if isinstance(value, str) else value
    except ValueError as error:
        return _not_taken(key, value, str(error).lower())
    if not _is_texts(words):
        return _not_taken(key, value, "a list of text is wanted")
    kept, lines, left_out = [], [], []
    for each in _rsync_options(words):
        name = each.partition("=")[0]
        if not re.match("--?[^-]", each):
            why = "not taken over: no option"
        elif each in _RSYNC_VALUED:  # it would have the next option for a value
            why = "not taken over: it has no value"
        elif name != "--timeout" and not unfit_rsync_options([each]):
            kept.append(each)
            continue
        else:
            why = _RSYNC_REASONS.get(name, _NOT_HOW)
        line = f"{key}: {_python(each)}: {why}"
        if why.startswith("not taken over"):
            left_out.append(line)
        else:
            lines.append(f"# {line}")
    taken = _as(key)(key, kept)
    return _Taken([*taken.lines, *lines], [*taken.left_out, *left_out])


def _rsync_options(words: list[str]) -> list[str]:
    """Make of rsync's command line one word an option; a value that was the next one is joined.

    Letters that were together (`-Lz`) come apart, and one with a value has its long name.
    """
    options = []
    rest = iter(words)
    for word in rest:
        name, equals, value = word.partition("=")
        if re.match("-[^-]", word):
            letters = word[1:]
            plain = "".join(takewhile(lambda letter: letter not in _RSYNC_LETTERS, letters))
            options += [f"-{letter}" for letter in plain]
            if plain == letters:
                continue
            name = _RSYNC_LETTERS[letters[len(plain)]]
            equals = value = letters[len(plain) + 1 :].removeprefix("=")
        name = _RSYNC_ALIASES.get(name, name)
        if name in _RSYNC_VALUED and not equals:
            following = next(rest, None)
            options.append(name if following is None else f"{name}={following}")
        else:
            options.append(f"{name}={value}" if equals else name)
    return options


# --- others, and all of them -----------------------------------------------------------------


def _inotify_extra(key: str, value: Any) -> _Taken:
    words = value if isinstance(value, list) else []
    names = [str(name) for option, name in pairwise(words) if option == "-E"]
    lines = [f"# {key} = {_python(value)}: {REPLACED[key]}"]
    if names:
        lines.append(f"#   such as {toml([f'*{name}*/' for name in names])}")
    return _Taken(lines)


def _fullsync(key: str, value: Any) -> _Taken:
    """The hours; one that never comes (99) is what the original had for none."""
    if value is None:
        return _Taken([])
    real, lines, left_out = [], [], []
    for each in value if isinstance(value, list) else [value]:
        hour = _same(each, int)
        if type(hour) is not int:
            left_out.append(f"{key}: {_python(each)}: not taken over: no hour")
        elif 0 <= hour <= 23:
            real.append(hour)
        else:
            lines.append(f"# {key}: {_python(each)}: no hour")
    return _Taken([f"{key} = {toml(real)}", *lines], left_out)


def _left_only(key: str, value: Any) -> _Taken:
    if value:
        more = f"# {key} was of ACLs and attributes only; this is of mode and owner as well"
        return _Taken([f'meta_from = "left"  # was {key}', more])
    return _Taken([f'# {key} = {_python(value)}: say meta_from = "both", which is the default'])


_IMPORTS: dict[str, _Take] = {
    "acl_from_left_only": _left_only,
    "alert_threshold": _as("alert_threshold"),
    "banned": _banned,
    "debug": _as("debug", 3),
    "dryrun": _as("dry_run"),
    "etimeout": _as("etimeout", 86400),
    "event_interval": _not("a change goes as soon as its file is closed; it can be set as it was"),
    "excludes": _excludes,
    "first_sync_only": _as("sync_only"),
    "force": _as("force"),
    "fullsync": _fullsync,
    "inotify_extra": _inotify_extra,
    "itimeout": _as("itimeout", 86400),
    "maxtimeout": _as("maxtimeout", 31_536_000),
    "rsync_excludes": _rsync_excludes,
    "rsync_extra": _rsync_extra,
    "skip_initial_sync": _not(
        "the start compares with what was agreed last, and loses nothing; it can be set as it was"
    ),
    "ssh_options": _as("ssh_options"),
    "tempfiles": _excludes,
    "timeout": _as("timeout", 60),
    "translate": _not("the two roots may have different paths: say right"),
}
