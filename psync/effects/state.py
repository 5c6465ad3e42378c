"""Where psync keeps what it has to remember, and who may use it.

    <state>/sessions/<name>/
        lock            held (flock) by the session's process; holds its pid
        session.json    what the session is, for people and tools
        control         the unix socket that `psync status` and its like talk to
        archive.db      the state that both replicas agreed on   (`effects/store.py`)
        intents.<n>     what was sent but is not in the archive yet
        audit.json      how the last `psync check` went; beside it audit.lock, while one runs, and
                        backup/, with what `psync check --backup` has saved
        psync.log       the log, unless the configuration names another file
        stopped         an administrator has stopped it on purpose; gone at the next start for good
        agreed          both replicas have agreed on something, once
        alerts.json     what the session has told people of, and what is still to be delivered;
                        runcheck.json: what `runcheck` has told

**Invariants.** One process at a time uses a session's directory: whoever holds `lock`. All of it
is private to the user (directories 0700, files 0600). Standard library only, because
`psync status` runs every minute from cron.

It does not know what the files hold, and it removes no session's directory but of one that has
come to nothing: an archive that nobody uses costs little, one that is missing costs a full
comparison.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

from psync.errors import StoreError, UsageError

__all__ = ["SessionDir", "reason", "sessions", "state_directory"]

_OF_EVERY_START = re.compile(r"lock|session\.json|psync\.log|archive\.db|intents\.\d+")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,99}")


def reason(error: OSError) -> str:
    """Say in a few words why the system refused."""
    return error.strerror or str(error)


def state_directory(chosen: str | None = None) -> Path:
    """Find the state directory: the option, `PSYNC_STATE_DIR`, or the user's own.

    Raises:
        UsageError: the option is empty.
    """
    if chosen == "":
        raise UsageError("--state-dir: a directory is wanted, not nothing")
    chosen = chosen or os.environ.get("PSYNC_STATE_DIR")
    if chosen:
        return Path(os.path.abspath(chosen))
    if os.geteuid() == 0:
        return Path("/var/lib/psync")
    state_home = os.environ.get("XDG_STATE_HOME", "")
    if os.path.isabs(state_home):  # the specification: a relative one is to be ignored
        return Path(state_home, "psync")
    return Path(os.path.expanduser("~"), ".local", "state", "psync")


def sessions(state: Path) -> list[SessionDir]:
    """List the sessions that a state directory knows, running or not, by name."""
    try:
        names = sorted(e.name for e in os.scandir(state / "sessions") if e.is_dir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoreError(f"cannot read the state directory {state}: {reason(error)}") from None
    return [SessionDir(state, name) for name in names if _NAME.fullmatch(name)]


class SessionDir:
    """One session's place in the state directory.

    Making the object touches nothing; `lock` makes the directory.
    """

    def __init__(self, state: Path, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise UsageError(
                f"{name!a} is no name for a session: letters, digits and . _ @ + - only, "
                "100 of them at most, a letter or digit first"
            )
        self.name = name
        self.path = state / "sessions" / name
        self._lock: int | None = None

    @staticmethod
    def is_name(text: str) -> bool:
        """Whether a session can be called so."""
        return _NAME.fullmatch(text) is not None

    @staticmethod
    def name_for(host: str | None, left: str, right: str) -> str:
        """Name a pair that has no name: readable, and the same at every start."""
        pair = "\0".join((host or "", left, right)).encode("utf-8", "surrogateescape")
        told = f"{host or 'local'}-{os.path.basename(left.rstrip('/')) or 'root'}"
        told = re.sub(r"[^A-Za-z0-9._@+-]+", "_", told).lstrip("._@+-") or "pair"
        return f"{told[:60]}-{blake2b(pair, digest_size=4).hexdigest()}"

    @property
    def database(self) -> Path:
        """The archive's database."""
        return self.path / "archive.db"

    @property
    def log_file(self) -> Path:
        """The log, where the configuration names no other."""
        return self.path / "psync.log"

    def misplaced(self, roots: Sequence[str], log_file: str | None) -> str:
        """Say which of psync's own files would be replicated; empty: none.

        Args:
            roots: the roots on this host.
            log_file: where the log goes; None: `SessionDir.log_file`.
        """
        for root in roots:
            real = os.path.realpath(root)
            places = {"--state-dir": self.path, "log_file": log_file or self.log_file}
            for option, ours in places.items():
                if os.path.commonpath((real, os.path.realpath(ours))) == real:
                    return (
                        f"{ours} is inside {root}, and would be replicated: "
                        f"choose another {option}"
                    )
        return ""

    @property
    def stopped(self) -> bool:
        """Whether an administrator has stopped it, and nobody has started it since."""
        return os.path.exists(self.path / "stopped")

    def mark_stopped(self, *, on_purpose: bool) -> None:
        """Write down that the session is to stay stopped, or that it is not any more."""
        self._mark("stopped", is_so=on_purpose)

    @property
    def agreed(self) -> bool:
        """Whether both replicas have ever agreed on anything; else nobody misses the session."""
        return os.path.exists(self.path / "agreed")

    def mark_agreed(self) -> None:
        """Write down that both replicas have agreed on something. Raises StoreError."""
        if not self.agreed:
            self._mark("agreed", is_so=True)

    def _mark(self, name: str, *, is_so: bool) -> None:
        try:
            if is_so:
                os.close(os.open(self.path / name, os.O_WRONLY | os.O_CREAT, 0o600))
            else:
                (self.path / name).unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(f"cannot write {self.path / name}: {reason(error)}") from None

    @property
    def fresh(self) -> bool:
        """Whether this session has never run: it has no archive."""
        return not os.path.exists(self.database)  # a name that is too long is no error yet

    def make(self) -> None:
        """Make the directory where it is missing, and private. Raises OSError."""
        for directory in (self.path.parent, self.path):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if directory.stat().st_mode & 0o077:
                directory.chmod(0o700)

    def lock(self) -> None:
        """Take the session for this process, until `unlock` or its end.

        Raises:
            UsageError: another process runs this session.
            StoreError: the state directory cannot be used.
        """
        fd = self._take()
        if not self._is_lock(fd):  # who held it has discarded it
            os.close(fd)
            fd = self._take()
        os.ftruncate(fd, 0)
        os.pwrite(fd, b"%d\n" % os.getpid(), 0)
        self._lock = fd

    def _take(self) -> int:
        try:
            try:
                fd = self._open_lock()
            except FileNotFoundError:  # discarded just now
                fd = self._open_lock()
        except OSError as error:
            raise StoreError(
                f"cannot use the state directory {self.path}: {reason(error)}; "
                "name another with --state-dir"
            ) from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 20, 0).decode("ascii", "replace").strip()
            os.close(fd)
            raise UsageError(
                f"a session on this pair is already running (pid {holder or 'unknown'}): "
                f"see psync status {self.name}"
            ) from None
        except OSError as error:
            os.close(fd)
            raise StoreError(f"cannot lock {self.path / 'lock'}: {reason(error)}") from None
        return fd

    def _open_lock(self) -> int:
        self.make()
        return os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def _is_lock(self, fd: int) -> bool:
        """Tell whether an open file is the one that others would lock."""
        try:
            return os.path.samestat(os.fstat(fd), os.stat(self.path / "lock"))
        except FileNotFoundError:
            return False

    def discard(self) -> None:
        """Remove the directory, while it is locked, unless it holds more than every start makes.

        That the archive is of no pair is for the caller to know.
        """
        with contextlib.suppress(OSError):  # something has come into it meanwhile
            names = os.listdir(self.path)
            if all(map(_OF_EVERY_START.fullmatch, names)):
                for name in sorted(names, key="lock".__eq__):  # it comes last
                    os.unlink(self.path / name)
                os.rmdir(self.path)

    def unlock(self) -> None:
        """Let the session go; harmless when it is not held."""
        if self._lock is not None:
            os.ftruncate(self._lock, 0)
            os.close(self._lock)
            self._lock = None

    @property
    def taker(self) -> int:
        """The process that took the session last and has not let it go in good order; 0: none."""
        try:
            return int((self.path / "lock").read_bytes()[:20] or b"0")
        except (OSError, ValueError):
            return 0

    def is_held_by(self, pid: int) -> bool | None:
        """Tell whether a process holds the lock, without touching that; None: it cannot be told."""
        try:
            inode = (self.path / "lock").stat().st_ino
            with open("/proc/locks") as table:
                rows = [line.split() for line in table]
        except OSError:
            return None
        return any(
            "FLOCK" in row and str(pid) in row and row[-3].endswith(f":{inode}") for row in rows
        )

    def describe(self, facts: Mapping[str, Any], name: str = "session.json") -> None:
        """Write `session.json`, or another such file, anew, whole or not at all."""
        target = self.path / name
        draft = self.path / f"{name}.new"
        try:
            with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                json.dump(facts, file, indent=2)
                file.write("\n")
            os.replace(draft, target)
        except OSError as error:
            raise StoreError(f"cannot write {target}: {reason(error)}") from None

    def described(self, name: str = "session.json") -> dict[str, Any]:
        """Read what `describe` wrote; empty where there is none that can be read."""
        try:
            facts = json.loads((self.path / name).read_bytes())
        except (OSError, ValueError, RecursionError):
            return {}
        return facts if isinstance(facts, dict) else {}
