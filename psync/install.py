"""Put what a machine needs to run psync as a service in its places, and take it away again.

    psync install      units or a cron file, a logrotate file, an explained configuration
    psync uninstall

The files are in the package (`psync/_share`), in a checkout in `conf`. Where they name
`/usr/local/bin/psync` they get the path of the psync that installs them, and where sessions are to
keep their state elsewhere than in `/var/lib/psync`, that place; it is remembered for the next time.

**Invariants.** What was written is in a manifest, with a digest; `uninstall`
removes exactly that, and leaves what has been edited since. `install` never writes over a file
that it has not written itself, nor over one that was edited since: it says so. So doing it
twice changes nothing. Neither touches a configuration, a session's state, or a log. Every file
appears whole or not at all.

It enables and starts nothing: what to say to systemctl is printed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

from psync.effects.spawn import run_to_end
from psync.effects.state import reason
from psync.errors import StoreError, UsageError

__all__ = ["Done", "doubled", "hidden", "install", "tell_systemd", "uninstall"]

_COMMAND = "/usr/local/bin/psync"  # as the files have it
_STATE = "/var/lib/psync"  # likewise
_PATH = re.compile(r"/[\w./+@-]+", re.ASCII)  # what needs no quotes in any of them
_MANIFEST = "var/lib/psync/installed.json"
_SYSTEMCTL_S = 60.0

# What goes where: a pattern below `conf`, and a directory or a name below the root.
_ALWAYS = (
    ("psync.toml", "etc/psync/psync.toml.example"),
    ("logrotate/psync", "etc/logrotate.d/"),
    ("man/*.[1-8]", "usr/local/share/man/man1/"),
    ("completions/*.bash", "usr/local/share/bash-completion/completions/"),
    ("completions/_*", "usr/local/share/zsh/site-functions/"),
    ("completions/*.fish", "usr/local/share/fish/vendor_completions.d/"),
)
_UNITS = (("systemd/*", "etc/systemd/system/"),)
_CRON = (("cron/psync", "etc/cron.d/"),)


class Done(NamedTuple):
    """What became of a file: `wrote`, `unchanged`, `removed`, or why it was left alone."""

    path: Path
    what: str

    def __str__(self) -> str:
        """Render it for people."""
        return f"{self.what}: {self.path}"


def install(
    root: Path, *, systemd: bool | None, command: str | None, state: str | None = None
) -> list[Done]:
    """Write the files to their places.

    Args:
        root: below which; `/`, or what becomes it (a packager's); made where it is missing.
        systemd: units, or a cron file; None: as this machine needs.
        command: the path of psync there; None: of the one that runs.
        state: the state directory there; None: the one of the last time, or else the usual one.

    Returns:
        what was done, a line a file.

    Raises:
        UsageError: there is no package to install from, or no right to write there.
        StoreError: a file cannot be written.
    """
    if systemd is None:
        systemd = root != Path("/") or os.path.isdir("/run/systemd/system")
    command = command or _own_path()
    manifest = _read_manifest(root)
    state = os.path.normpath(state or manifest["settings"].get("state", _STATE))
    for path, option in ((command, "--command"), (state, "--state-dir")):
        if not _PATH.fullmatch(path):
            raise UsageError(f"{path!a} is no path that a unit or a cron file can name: {option}")
    manifest["settings"]["state"] = state
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot(root, error) from None
    done = []
    for source, target in _files(root, (*_ALWAYS, *(_UNITS if systemd else _CRON))):
        content = source.read_bytes().replace(_COMMAND.encode(), command.encode())
        if state != _STATE:
            content = _with_state(content, source.parent.name, state)
        done.append(Done(target, _put(root, target, content, manifest)))
        # After each: what is there and not in it is taken for ours the next time, by its content.
        _make_parents(root / _MANIFEST, root, manifest)
        text = {**manifest, "directories": list(manifest["directories"])}
        _write(root / _MANIFEST, json.dumps(text, indent=1).encode() + b"\n")
    return done


def _with_state(content: bytes, kind: str, state: str) -> bytes:
    """Let a file name another state directory: a unit, a cron file, or logrotate's."""
    setting = f"PSYNC_STATE_DIR={state}"
    text = content.decode()
    if kind == "systemd":  # what systemd makes is below /var/lib: this one psync makes itself
        text = re.sub("(?m)^StateDirectory.*\n", "", text)
        text = text.replace("\n[Service]\n", f"\n[Service]\nEnvironment={setting}\n")
    elif kind == "cron":
        text = text.replace("\nSHELL=", f"\n{setting}\nSHELL=")
    elif kind == "logrotate":
        text = text.replace(f"{_STATE}/sessions/", f"{state}/sessions/")
    return text.encode()


def doubled(root: Path) -> str:
    """Say that both a timer and cron are to do the same, if they are; else empty."""
    cron, timer = root / "etc/cron.d/psync", root / "etc/systemd/system/psync-runcheck.timer"
    if not (cron.exists() and timer.exists()):
        return ""
    return (
        f"{cron} and the units beside {timer} are both there, and would do the same twice: remove "
        "one of them (psync uninstall removes both)"
    )


def hidden(root: Path) -> str:
    """Say that the state directory is where a unit has directories of its own; else empty."""
    state = _read_manifest(root)["settings"]["state"]
    unit = root / "etc/systemd/system/psync-web.service"
    if not (unit.exists() and state.startswith(("/tmp/", "/var/tmp/"))):
        return ""
    return f"{state}: {unit.name} does not see it (PrivateTmp=yes): choose another --state-dir"


def uninstall(root: Path) -> list[Done]:
    """Remove what `install` has written, and the directories that it has made for it.

    Returns:
        what was done, a line a file.

    Raises:
        UsageError: nothing is installed there.
        StoreError: a file cannot be removed.
    """
    manifest = _read_manifest(root)
    if not manifest["files"]:
        raise UsageError(f"nothing is installed below {root} (there is no {root / _MANIFEST})")
    done = []
    try:
        for name, digest in manifest["files"].items():
            path = root / name
            if not os.path.lexists(path):
                done.append(Done(path, "gone already"))
            elif _digest_of(path) != digest:
                done.append(Done(path, "left, for it was edited"))
            else:
                path.unlink()
                done.append(Done(path, "removed"))
        (root / _MANIFEST).unlink()
        for name in sorted(manifest["directories"], key=len, reverse=True):
            try:
                (root / name).rmdir()
            except OSError:
                pass  # something else is in it
    except OSError as error:
        raise StoreError(f"{error.filename}: {reason(error)}") from None
    return done


async def tell_systemd() -> None:
    """Let systemd read its units again, if it is there."""
    try:
        await run_to_end(["systemctl", "daemon-reload"], within=_SYSTEMCTL_S)
    except OSError:
        pass


def _share() -> Path:
    """Where the files are: in the package, or in the checkout that it is in."""
    package = Path(__file__).resolve().parent
    for place in (package / "_share", package.parent / "conf"):
        if (place / "psync.toml").is_file():
            return place
    raise UsageError("this psync has come without its files for services: install it anew")


def _files(root: Path, wanted: tuple[tuple[str, str], ...]) -> list[tuple[Path, Path]]:
    share = _share()
    found = []
    for pattern, place in wanted:
        for source in sorted(share.glob(pattern)):
            target = root / place
            found.append((source, target / source.name if place.endswith("/") else target))
    return found


def _own_path() -> str:
    """The path by which a service finds the psync that runs."""
    beside = Path(sys.executable).with_name("psync")
    checkout = Path(__file__).resolve().parent.with_suffix(".py")
    found = next((str(path) for path in (beside, checkout) if path.exists()), None)
    found = found or shutil.which("psync")
    if found is None:
        raise UsageError("there is no command psync on PATH: name it with --command")
    return os.path.abspath(found)


# --- files --------------------------------------------------------------------------------


def _read_manifest(root: Path) -> dict[str, dict[str, str]]:
    """What was written before: digests by path below the root, directories made for it; and how."""
    path = root / _MANIFEST
    try:
        known = json.loads(path.read_bytes())
        files = {str(k): str(v) for k, v in known["files"].items()}
        directories = dict.fromkeys(known["directories"], "")
        settings = {str(k): str(v) for k, v in known.get("settings", {}).items()}
        return {"files": files, "directories": directories, "settings": settings}
    except FileNotFoundError:
        return {"files": {}, "directories": {}, "settings": {}}
    except OSError as error:
        raise StoreError(f"cannot read {path}: {reason(error)}") from None
    except (ValueError, TypeError, KeyError, AttributeError):
        raise StoreError(f"{path} is damaged: move it away, and see what it names") from None


def _put(root: Path, target: Path, content: bytes, manifest: dict[str, dict[str, str]]) -> str:
    """Write a file, if nothing of somebody else's is there; say what became of it."""
    name = str(target.relative_to(root))
    digest = hashlib.sha256(content).hexdigest()
    present = _digest_of(target) if os.path.lexists(target) else ""
    if present == digest:
        manifest["files"][name] = digest
        return "unchanged"
    if present and present != manifest["files"].get(name):
        known = name in manifest["files"]
        return "left, for it was edited" if known else "left, for it is not ours"
    _make_parents(target, root, manifest)
    _write(target, content)
    manifest["files"][name] = digest
    return "wrote"


def _digest_of(path: Path) -> str:
    if path.is_symlink() or not path.is_file():
        return "no file"
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise StoreError(f"cannot read {path}: {reason(error)}") from None


def _make_parents(path: Path, root: Path, manifest: dict[str, dict[str, str]]) -> None:
    """Make the directories that a file needs."""
    state = (root / _MANIFEST).parent
    for parent in reversed(path.parents):
        if parent != root and parent.is_relative_to(root) and not parent.is_dir():
            try:
                parent.mkdir(mode=0o700 if parent == state else 0o755)
            except OSError as error:
                raise _cannot(parent, error) from None
            manifest["directories"][str(parent.relative_to(root))] = ""


def _cannot(path: Path, error: OSError) -> UsageError | StoreError:
    if isinstance(error, PermissionError):
        hint = "psync install needs root, or --root DIR"
        return UsageError(f"cannot write {path}: {reason(error)}: {hint}")
    return StoreError(f"cannot write {path}: {reason(error)}")


def _write(path: Path, content: bytes) -> None:
    """Write a file anew, whole or not at all."""
    draft = path.with_name(f".{path.name}.psync-new")
    try:
        with open(draft, "wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), 0o644)
        os.replace(draft, path)
    except OSError as error:
        try:
            draft.unlink()
        except OSError:
            pass
        raise _cannot(path, error) from None
