"""What a user may ask of a session, from the command line and from a TOML file.

    [session.home]
    host = "backup.example.org"
    left = "/home"
    right = "/srv/home"

Every key is a field of `Options`, and the keys keep the names of the original's
parameters where the parameter lives on; `conf/psync.toml` explains each.

**Invariants.** An `Options` that came from here has been checked: types, bounds, regular
expressions. A key that nobody knows is an error, never ignored: a misspelt `max_delete`
must not be a missing one. The message names the file, the table and the key.

It does not look at the roots or at the host: whether they can be used is for the agents to say.
"""

from __future__ import annotations

import difflib
import os
import posixpath
import re
import shlex
import tomllib
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_type_hints

import msgspec

from psync.core.ignore import Ignore
from psync.core.patterns import EXPRESSION, parse
from psync.effects.state import SessionDir
from psync.errors import ConfigError, UnknownSessionError, UsageError

__all__ = [
    "EXCLUDES",
    "FIXED",
    "REPLACED",
    "TEMPFILES",
    "Options",
    "config_file",
    "load_file",
    "load_session",
    "load_table",
    "make_options",
    "parse_setting",
    "read_bounded",
    "seconds_of",
]

# What is replicated by default is everything but the lock files of editors and office
# programs. The original's defaults also hid names that a user may well have given
# (`\.tmp$`; `/\..*\.......$` hides `.bashrc.backup`): a tree that silently lacks files is no copy.
EXCLUDES: list[str] = []
TEMPFILES = ["*.~tmp~", "~$*", ".#*", ".~lock.*#"]

# What the original had and psync has not, or not under that name: what to say instead.
REPLACED = {
    "acl_from_left_only": 'say meta_from = "left"',
    "backupdir": "what is replaced or deleted is kept by conflict_keep and trash",
    "basedir": "psync finds its own programs",
    "csumbin": "psync finds its own programs",
    "delay": "what was agreed last tells a change, not its age",
    "dryrun": "say dry_run",
    "dstroot": "say right",
    "filterbin": "psync finds its own programs",
    "first_sync_only": "say sync_only",
    "full_sync_lock": "nothing is skipped during a full sync",
    "heartfile": "the heartbeat is psync's own",
    "helperbin": "psync finds its own programs",
    "inotify_extra": "cinotify needs no options; what it was to leave out (-E) goes into excludes",
    "inotifybin": "psync finds its own programs",
    "maxsize": "no file is left out for its size; name what is to be in excludes",
    "move_event_recurse": "what was moved is compared by itself",
    "partialdir": "what has arrived in part waits in .psync of its root",
    "pending_events": "an echo is known by what it shows, whatever its kind",
    "pending_lifetime": "an echo is known by what it shows, not by its age",
    "psyncdir": "it is .psync in each root",
    "remote_host": "say host",
    "rsync_event_recurse": "rsync is given single files, and directories are listed",
    "rsync_style": "an echo is dropped, everything else is replicated at once",
    "safesuffix": "names that end in .psync.ignore stay where they are",
    "separator": "events are no lines of text: any name is taken as it is",
    "srcroot": "say left",
    "use_backupdir": "what is replaced or deleted is kept by conflict_keep and trash",
}

# What a session keeps for as long as it runs; all else it takes over when it is told to.
FIXED = frozenset(
    (
        "left", "right", "host", "ssh_options", "name", "translate", "dry_run", "sync_only",
        "skip_initial_sync", "inline_max", "durability", "strip_special_bits", "xattrs", "log_file",
        "log_format", "suppress_echoes",
    )
)  # fmt: skip

_S = TypeVar("_S", bound=msgspec.Struct)
_Count = Annotated[int, msgspec.Meta(ge=0)]
_Hour = Annotated[int, msgspec.Meta(ge=0, le=23)]
_Seconds = Annotated[float, msgspec.Meta(gt=0, le=86400)]


class Options(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Everything that shapes a session; sizes in bytes, times in seconds if not named otherwise.

    Attributes:
        name: the session's, in the state directory and in the log; made of the pair when empty.
        left: the left root, absolute.
        right: the right root; with a `host`, as that host understands it.
        host: what ssh takes; None: both roots are on this machine.
        ssh_options: as on ssh's command line (`-p 2222`, `-o ConnectTimeout=10`).
        excludes: rules (`core.patterns`); what they hide is not replicated.
        tempfiles: likewise, for the names that programs give to what they soon rename.
        rsync_excludes: likewise, as rsync's `--exclude` reads them; they come before `excludes`.
        rsync_extra: more options for rsync, of how it sends (`unfit_rsync_options`).
        alert_threshold: from so many differences on a check is an alert.
        banned: a program; while it runs on this host the session ends with status 1.
        translate: `FROM:TO`, a replacement in the path of the right root.
        dry_run: log what would be done, change nothing.
        sync_only: one full synchronization, then the end.
        skip_initial_sync: change nothing at the start; what differs is left alone.
        force: a directory is deleted although it holds what is not replicated; that is kept.
        debug: 0 to 3, as the original's.
        inline_max: content up to this size travels in a frame, larger by rsync.
        event_interval: for how long changes are gathered before they are looked at together.
        fullsync: the hours of the local day at which everything is compared.
        settle_ms: how long a file that is written must be quiet.
        max_delay: how long a file that is never quiet may wait.
        timeout: a link that is silent so long is lost; how long it may take to reach a host.
        itimeout: how long an agent may take to begin, the login included, and then until it can
            serve its root.
        etimeout: rsync is ended, and tried again, when nothing moves for so long.
        maxtimeout: the session ends when a side is away for so long; 0: never.
        quarantine: how long a displaced file is kept for a late write.
        durability: `strict`: every change is on the disk before it is confirmed.
        strip_special_bits: never replicate setuid, setgid and sticky.
        xattrs: replicate extended attributes and ACLs.
        meta_from: whose mode, owner, attributes and ACLs count; mtime comes with the content.
        log_file: None: `psync.log` in the session's directory.
        conflict: which version wins when both sides changed; the loser is kept.
        conflict_keep: how long; `forever`: until somebody drops it.
        trash: how long what is deleted because it was on the other side is kept; empty: it is not.
        versions: likewise, what is replaced because it was edited there.
        max_delete: entries, or per cent of a replica, that may go at once.
        max_rewrite: files, or per cent of a replica's entries, that may be replaced within a minute
            because they were edited on the other side; empty: any number.
        suppress_echoes: an optimisation; off for tests.
        poll_interval: how often to look where the kernel reports nothing (FUSE).
        sync_interval: how often what was applied is made durable and enters the archive.
    """

    name: str = ""
    left: Annotated[str, msgspec.Meta(min_length=1)]
    right: Annotated[str, msgspec.Meta(min_length=1)]
    host: str | None = None
    ssh_options: list[str] | None = None
    excludes: list[str] = msgspec.field(default_factory=EXCLUDES.copy)
    tempfiles: list[str] = msgspec.field(default_factory=TEMPFILES.copy)
    rsync_excludes: list[str] = []
    rsync_extra: list[str] = []
    alert_threshold: _Count = 10
    banned: str | None = None
    translate: str | None = None
    dry_run: bool = False
    sync_only: bool = False
    skip_initial_sync: bool = False
    force: _Count = 0
    debug: Annotated[int, msgspec.Meta(ge=0, le=3)] = 0
    inline_max: Annotated[int, msgspec.Meta(ge=0, le=16 * 1024 * 1024)] = 256 * 1024
    event_interval: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 0.0
    fullsync: list[_Hour] = []
    settle_ms: Annotated[int, msgspec.Meta(ge=0, le=60_000)] = 50
    max_delay: _Seconds = 10.0
    timeout: Annotated[float, msgspec.Meta(ge=1, le=60)] = 20.0
    itimeout: _Seconds = 60.0
    etimeout: Annotated[int, msgspec.Meta(ge=1, le=86400)] = 60
    maxtimeout: Annotated[float, msgspec.Meta(ge=0, le=31_536_000)] = 0.0
    quarantine: Annotated[float, msgspec.Meta(ge=0, le=86400)] = 60.0
    durability: Literal["lazy", "strict"] = "lazy"
    strip_special_bits: bool = False
    xattrs: bool = True
    meta_from: Literal["both", "left", "right"] = "both"
    log_file: Annotated[str, msgspec.Meta(min_length=1)] | None = None
    log_format: Literal["text", "json"] = "text"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    conflict: Literal["newest", "left", "right", "keep-both", "ask"] = "newest"
    conflict_keep: str = "30d"
    trash: str = ""
    versions: str = ""
    max_delete: str = "50%"
    max_rewrite: str = ""
    suppress_echoes: bool = True
    poll_interval: _Seconds = 10.0
    sync_interval: _Seconds = 5.0

    @property
    def keep_conflicts_s(self) -> int:
        """How long a conflict's loser is kept, in seconds; 0: for ever."""
        return 0 if self.conflict_keep == "forever" else seconds_of(self.conflict_keep)

    @property
    def keep_deleted_s(self) -> int:
        """How long what is deleted is kept, in seconds; 0: it is not."""
        return seconds_of(self.trash) if self.trash else 0

    @property
    def keep_edited_s(self) -> int:
        """How long what an edit replaces is kept, in seconds; 0: it is not."""
        return seconds_of(self.versions) if self.versions else 0

    def all_excludes(self) -> list[str]:
        """Every rule for what is not replicated but `tempfiles`, in order; the last counts."""
        # To rsync the first that matches counts, and `!` forgets what came before.
        patterns = takewhile("!".__ne__, reversed(self.rsync_excludes))
        return [rule for pattern in patterns for rule in _from_rsync(pattern)] + self.excludes

    def ignored(self) -> Ignore:
        """What is not replicated."""
        return Ignore(self.all_excludes(), self.tempfiles)


def seconds_of(text: str) -> int:
    """The seconds in a text like `30d`. Raises ValueError."""
    match = re.fullmatch(r"([1-9]\d{0,5})([smhdw])", text, re.ASCII)
    if match is None:
        raise ValueError(text)
    return int(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}[match[2]]


def _from_rsync(pattern: str) -> list[str]:
    """Make rules of one of rsync's patterns, as its `--exclude` takes them, with `+ ` or `- `.

    Raises:
        ValueError: it says what our rules cannot.
    """
    body = pattern[2:] if pattern.startswith(("- ", "+ ")) else pattern
    if not set(body) & set("*?["):
        body = body.replace("\\", r"\\")  # it means itself where nothing is wild
    both = body.endswith("/***")  # a directory, and all that is in it
    mark = "!" * pattern.startswith("+ ")
    return [mark + _tied(each) for each in ((body[:-3], body[:-1]) if both else (body,))]


def _tied(pattern: str) -> str:
    """Write a pattern of rsync's as git would: only a leading slash ties it to the root there.

    Between two slashes `**` is one directory or more.
    """
    tied = pattern.startswith("/")
    parts = pattern.removeprefix("/").removesuffix("/").split("/")
    if any("**" in part and part != "**" for part in parts):
        raise ValueError("has ** beside other text: say in excludes what is meant (re: if need be)")
    for at, part in enumerate(parts[:-1]):
        if part == "**" and (at or tied):
            parts[at] = "*/**"
    rule = "/".join(parts) + "/" * pattern.endswith("/")
    if tied or len(parts) > 1:
        return ("/" if tied else "**/") + rule
    return "\\" * rule.startswith(("!", EXPRESSION)) + rule


_OTHER_TABLES = ("alerts", "runcheck")
_KEYS = [f for f in Options.__struct_fields__ if f != "name"]
_RSYNC_FLAGS = (
    "--compress", "--fsync", "--ipv4", "--ipv6", "--no-compress", "--no-whole-file",
    "--preallocate", "--quiet", "--stats", "--verbose", "--whole-file",
)  # fmt: skip
_RSYNC_VALUES = (
    "--block-size", "--bwlimit", "--checksum-choice", "--checksum-seed", "--compress-choice",
    "--compress-level", "--debug", "--info", "--max-alloc", "--outbuf", "--skip-compress",
    "--timeout",
)  # fmt: skip
_RSYNC_OPTION = re.compile(
    f"-[46qvWz]+|({'|'.join(_RSYNC_FLAGS)})|({'|'.join(_RSYNC_VALUES)})=[^\\0\\n]+"
)
_FILE_MAX = 4 << 20  # bytes of a configuration file
_WORDS = ("ssh_options", "rsync_extra")  # a string is split as a shell would
_LISTS = ("excludes", "tempfiles", "rsync_excludes")  # a string is a list of one
_FIELD_OF = re.compile(r" - at `\$\.?(\w*)(?:\[[\d.]+\])?`$")


def make_options(values: Mapping[str, Any], where: str) -> Options:
    """Check what was asked for and make it `Options`.

    Args:
        values: by field; what is missing has its default.
        where: what to blame in a message, like `/etc/psync/psync.toml: [session.home]`.

    Raises:
        ConfigError: one line: where, which key, what is wrong, what would be right.
    """
    for key in values:
        if key in REPLACED:
            raise ConfigError(f"{where}: {key}: {REPLACED[key]}")
        if key not in Options.__struct_fields__:
            near = difflib.get_close_matches(key, _KEYS, 1)
            hint = f": did you mean {near[0]}?" if near else f"; there are: {', '.join(_KEYS)}"
            raise ConfigError(f"{where}: unknown key {_word(key)}{hint}")
    options = _convert(_spread(values, where), Options, where)
    _check(options, where)
    if not options.name:
        options.name = SessionDir.name_for(options.host, options.left, options.right)
    return options


def _convert(values: Mapping[str, Any], kind: type[_S], where: str) -> _S:
    """Check types and bounds. Raises ConfigError."""
    try:
        return msgspec.convert(values, kind)
    except UnicodeEncodeError:
        raise ConfigError(f"{where}: a value that is to be a number is no text at all") from None
    except msgspec.ValidationError as error:
        text = str(error)
        at = _FIELD_OF.search(text)
        key = at[1] + ": " if at and at[1] else ""
        said = _FIELD_OF.sub("", text).replace("Object missing required field", "missing key")
        choices = get_args(get_type_hints(kind).get(at[1])) if at else ()
        if choices and said.startswith("Invalid enum value"):
            said += f"; there are: {', '.join(choices)}"
        raise ConfigError(f"{where}: {key}{said.replace('`', '')}") from None


def _word(text: str) -> str:
    """A key, or a table's name, in a message: no byte of it can forge a line."""
    return text if text.isprintable() else ascii(text)


def _spread(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Make lists of the strings that stand for lists, and text of a number of deletions."""
    spread = dict(values)
    for key in _WORDS:
        if isinstance(spread.get(key), str):
            try:
                spread[key] = shlex.split(spread[key])
            except ValueError as error:
                raise ConfigError(f"{where}: {key}: {error}".lower()) from None
    for key in _LISTS:
        if isinstance(spread.get(key), str):
            spread[key] = [spread[key]] if spread[key] else []
    if type(spread.get("fullsync")) is int:
        spread["fullsync"] = [spread["fullsync"]]
    for key in ("max_delete", "max_rewrite", "conflict_keep", "trash", "versions"):
        if type(spread.get(key)) is int:
            spread[key] = str(spread[key])
    return spread


def unfit_rsync_options(options: Sequence[str]) -> list[str]:
    """Find the options that may not be given to rsync.

    What is left out by rsync, or taken for equal, would be believed to be there: so only those may
    that say how it sends, not what. A value belongs into the same word: `--bwlimit=10m`.
    """
    return [option for option in options if not _RSYNC_OPTION.fullmatch(option)]


def _check(options: Options, where: str) -> None:
    """Refuse what has the right type and still makes no sense; put the roots in order."""
    for option in unfit_rsync_options(options.rsync_extra):
        raise ConfigError(
            f"{where}: rsync_extra: {option!a} is not one of those that say only how to send: "
            f"-46qvWz, {', '.join((*_RSYNC_FLAGS, *(f'{name}=' for name in _RSYNC_VALUES)))}"
        )
    for key in _LISTS:
        for pattern in getattr(options, key):
            try:
                pattern.encode()  # as it goes to the agents
                for rule in _from_rsync(pattern) if key == "rsync_excludes" else [pattern]:
                    parse(rule)
            except UnicodeEncodeError:
                raise ConfigError(f"{where}: {key}: {pattern!a} is no UTF-8") from None
            except ValueError as error:
                raise ConfigError(f"{where}: {key}: {pattern!a} {error}") from None
    if options.sync_only and options.skip_initial_sync:
        raise ConfigError(
            f"{where}: sync_only and skip_initial_sync: it would end before anything is compared"
        )
    for key in ("max_delete", "max_rewrite"):
        text = getattr(options, key)
        if key == "max_rewrite" and not text:
            continue
        if not re.fullmatch(r"\d{1,12}%?", text, re.ASCII) or (
            text.endswith("%") and int(text[:-1]) > 100
        ):
            raise ConfigError(
                f"{where}: {key}: {text!a} is neither a number of entries nor a percentage like 50%"
            )
    try:
        options.keep_conflicts_s  # noqa: B018
    except ValueError:
        raise ConfigError(
            f"{where}: conflict_keep: {options.conflict_keep!a} is neither a time like 30d, 12h or "
            "90s nor forever"
        ) from None
    for key in ("trash", "versions"):
        text = getattr(options, key)
        try:
            seconds_of(text or "1s")
        except ValueError:
            raise ConfigError(
                f"{where}: {key}: {text!a} is neither a time like 30d, 12h or 90s nor empty"
            ) from None
    if options.translate is not None and options.translate.find(":") < 1:
        raise ConfigError(f"{where}: translate: {options.translate!a} is not FROM:TO")
    if options.banned == "":
        raise ConfigError(f"{where}: banned: an empty name is in every program's")
    host = options.host
    if host is not None and (not host or host.startswith("-") or re.search(r"[\s\0-\x1f]", host)):
        raise ConfigError(f"{where}: host: {host!a} is no host name")
    for key in ("left", "right", "log_file"):
        if "\0" in (getattr(options, key) or ""):
            raise ConfigError(f"{where}: {key}: a path cannot hold a NUL")
    if options.translate is not None:
        what, _, by = options.translate.partition(":")
        options.right = options.right.replace(what, by)
        if not options.right:
            raise ConfigError(f"{where}: translate: {options.translate!a} leaves nothing of right")
    options.left = _absolute(options.left)
    if host is None:
        options.right = _absolute(options.right)
        if options.left == options.right:
            raise ConfigError(f"{where}: left and right are the same directory: {options.left}")
    else:  # what is relative there is relative to the home directory there
        path = "." if options.right == "~" else options.right.removeprefix("~/")
        if path.startswith("~"):
            raise ConfigError(f"{where}: right: {path!a}: name another user's home by its path")
        options.right = _tidy(path or ".")
    if options.log_file is not None:
        options.log_file = _absolute(options.log_file)


def _absolute(path: str) -> str:
    return _tidy(os.path.abspath(os.path.expanduser(path)))


def _tidy(path: str) -> str:
    """Spell a path in one way, so that a pair has one name; a leading `//` is kept by POSIX."""
    return re.sub("^//+", "/", posixpath.normpath(path))


def parse_setting(text: str) -> tuple[str, Any]:
    """Read a `KEY=VALUE` of the command line; the value is TOML, or else plain text."""
    key, equals, value = text.partition("=")
    key = key.strip().replace("-", "_")
    if not equals or not key:
        raise UsageError(f"--set {text!a} is not KEY=VALUE")
    try:
        document = tomllib.loads(f"value = {value}")
    except (ValueError, RecursionError):  # a number may be too long for Python, lists too deep
        return key, value.strip()
    return key, document["value"] if len(document) == 1 else value.strip()


def config_file(chosen: str | None = None) -> Path:
    """Find the configuration file: the option, the user's own, or the machine's.

    Raises:
        UnknownSessionError: there is none.
    """
    if chosen is not None:
        return Path(chosen)
    home = os.environ.get("XDG_CONFIG_HOME", "")
    if not os.path.isabs(home):
        home = os.path.join(os.path.expanduser("~"), ".config")
    places = [Path(home, "psync", "psync.toml"), Path("/etc/psync/psync.toml")]
    for place in places:
        if place.exists():
            return place
    raise UnknownSessionError(
        f"there is no configuration file ({' or '.join(map(str, places))}): "
        "write one, or name it with --config"
    )


def load_session(file: Path, name: str) -> tuple[dict[str, Any], str]:
    """Read a session's table.

    Returns:
        its keys and values, and what to call the place in a message.

    Raises:
        UnknownSessionError: it has no such session.
        ConfigError: the file cannot be read, or is no TOML, or a session cannot have this name.
    """
    tables = load_file(file)
    if name not in tables:
        near = difflib.get_close_matches(name, tables, 1)
        names = ", ".join(map(_word, tables)) or "none"
        known = f"did you mean {_word(near[0])}?" if near else f"there are: {names}"
        raise UnknownSessionError(f"{file}: no session {name!a}; {known}")
    table = tables[name]
    where = f"{file}: [session.{name}]"
    if not isinstance(table, dict):
        raise ConfigError(f"{where} is no table")
    if "name" in table:
        raise ConfigError(f"{where}: unknown key name: the table's name is the session's")
    try:
        SessionDir(file, name)
    except UsageError as error:
        raise ConfigError(f"{where}: {error}") from None
    for key in ("left", "log_file", *(["right"] if table.get("host") is None else [])):
        path = table.get(key)
        if isinstance(path, str) and path and not path.startswith(("/", "~")):
            raise ConfigError(
                f"{where}: {key}: {path!a} is relative, to wherever somebody starts the session: "
                "write the whole path"
            )
    return table, where


def load_file(file: Path) -> dict[str, Any]:
    """Read a file; return what it has under the names of sessions, not looked at yet.

    Raises:
        ConfigError: the file cannot be read, or is no TOML of sessions.
    """
    document = _read(file)
    for key in document:
        if key != "session" and key not in _OTHER_TABLES:
            raise ConfigError(f"{file}: unknown table [{_word(key)}]: sessions are [session.NAME]")
    tables = document.get("session", {})
    if not isinstance(tables, dict):
        raise ConfigError(f"{file}: session is no table: sessions are [session.NAME]")
    return tables


def load_table(file: Path | None, name: str, kind: type[_S]) -> _S:
    """Read a table that is no session's, like `[alerts]`; what is missing has its default.

    What it may hold can be secret: no message shows a value.

    Raises:
        ConfigError: the file cannot be read, or there is something wrong with the table.
    """
    table = _read(file).get(name, {}) if file is not None else {}
    where = f"{file}: [{name}]"
    if not isinstance(table, dict):
        raise ConfigError(f"{where} is no table")
    keys = kind.__struct_fields__
    for key in table:
        if key not in keys:
            near = difflib.get_close_matches(key, keys, 1)
            hint = f": did you mean {near[0]}?" if near else f"; there are: {', '.join(keys)}"
            raise ConfigError(f"{where}: unknown key {_word(key)}{hint}")
    return _convert(table, kind, where)


def read_bounded(file: str | Path, *, once: bool = False) -> bytes:
    """Read all of a file that a person named as a configuration; nobody may write to a FIFO.

    Args:
        file: its path.
        once: it is not read again: a pipe that is open already (`<(...)`) will do.

    Raises:
        ConfigError: it cannot be read, is no regular file, or is far too large to be one.
    """
    if os.path.exists(file) and not os.path.isfile(file):
        real = os.path.realpath(file)
        is_open_pipe = not os.path.exists(real)
        if real != os.devnull and not (once and is_open_pipe):
            raise ConfigError(f"{file} is no regular file")
    try:
        with open(file, "rb") as stream:
            content = stream.read(_FILE_MAX + 1)
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}") from None
    if len(content) > _FILE_MAX:
        raise ConfigError(f"{file} has more than {_FILE_MAX >> 20} MiB: that is no configuration")
    return content


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(read_bounded(file).decode())
    except ValueError as error:
        raise ConfigError(f"{file} is no TOML: {error}") from None
    except RecursionError:
        raise ConfigError(f"{file} is no TOML: it is nested too deep") from None
