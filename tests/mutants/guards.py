"""The guards that psync's promise rests on, each with the one change that takes it away.

A guard that no test misses when it is gone is no guard for long: the next change removes
it and nobody notices. So each is broken here, and a test must fail. `scripts/mutants`
does that; `test_guards.py` sees that this list still fits the code.

**Invariants.** `old` stands in its file exactly once, and `new` is a program still: it
breaks the guard and nothing else. `tests` are pytest's arguments; they pass on the code
as it is, and end soon.
"""

# ruff: noqa: E501  # lines of the code are quoted whole

from __future__ import annotations

from typing import NamedTuple

__all__ = ["GUARDS", "Guard"]

RACES = "tests/agent/test_helpers_races.py"
HELPERS = "tests/agent/test_helpers.py"
SCAN = "tests/agent/test_scan.py"
FILTER = "tests/agent/test_filter.py"
SYSCALLS = "tests/agent/test_syscalls.py"
AGENT = "tests/agent/test_agent.py"
MOMENTS = "tests/agent/test_guards.py"
WORLDS = "tests/simulation/test_simulation.py -k come_to_rest"


class Guard(NamedTuple):
    """A guard and how it is broken.

    Attributes:
        what: what the broken code does.
        file: where, from the checkout's root.
        old: the text that is replaced.
        new: what takes its place.
        tests: the arguments for pytest with which a test must fail.
    """

    what: str
    file: str
    old: str
    new: str
    tests: str


# --- the guarded operations -----------------------------------------------------------------

_HELPERS = [
    (
        "takes a directory that a user has just brought for its own work",
        "        if self._was_there:\n",
        "        if False:\n",
        f"{HELPERS} -k for_its_own",
    ),
    (
        "confirms what was made in a directory that was moved away",
        "        if not here.has_stayed(self._root_fd):\n",
        "        if False:\n",
        f"{RACES} -k MovedAway",
    ),
    (
        "keeps what it displaced in a directory that was moved away",
        "        if known and not awaited and stayed and untouched:\n",
        "        if known and not awaited and untouched:\n",
        f"{RACES} -k MovedAway",
    ),
    (
        "believes that what it displaced is what it meant to",
        "        known = held.is_at(self._quarantine.fd, intent.name)\n",
        "        known = True\n",
        f"{RACES} -k 'TestRaces and nobody and save_by_rename'",
    ),
    (
        "does not ask whether a writer waits for the lease",
        "        awaited = held.is_awaited()\n",
        "        awaited = False\n",
        f"{RACES} -k TestWriterWhoWaits",
    ),
    (
        "does not see that what it displaced was written to meanwhile",
        "        untouched = held.is_untouched() and self._has_kept",
        "        untouched = self._has_kept",
        f"{MOMENTS} -k TestWayBack",
    ),
    (
        "does not put back what it displaced by mistake",
        "        self._undo(held if known else None, intent, here, name, made)\n",
        "",
        f"{RACES} -k 'TestRaces and nobody and save_by_rename'",
    ),
    (
        "replaces without a lease",
        "        held = Held(here.fd, name, expected, lease=True)\n        try:\n"
        '            self.step("held")\n            if not self._owners:\n',
        "        held = Held(here.fd, name, expected, lease=False)\n        try:\n"
        '            self.step("held")\n            if not self._owners:\n',
        f"{RACES} -k TestWriterWhoWaits",
    ),
    (
        "deletes without a lease",
        "        held = Held(here.fd, name, expected, lease=True)\n        try:\n"
        '            self.step("held")\n            try:\n',
        "        held = Held(here.fd, name, expected, lease=False)\n        try:\n"
        '            self.step("held")\n            try:\n',
        f"{RACES} -k TestWriterWhoWaits",
    ),
    (
        "renames over a file without a lease on it",
        "        over = Held(here.fd, name, expected, lease=True)\n",
        "        over = Held(here.fd, name, expected, lease=False)\n",
        f"{RACES} -k TestWriterWhoWaits",
    ),
    (
        "creates over what is there",
        "            renameat2(self._stage.fd, made.name, here.fd, name, NOREPLACE)\n"
        "        except FileExistsError:",
        "            renameat2(self._stage.fd, made.name, here.fd, name, 0)\n"
        "        except FileExistsError:",
        f"{HELPERS} -k TestCreate",
    ),
    (
        "renames over what is there",
        "            renameat2(there.fd, old_name, here.fd, name, NOREPLACE)\n"
        "        except (FileExistsError",
        "            renameat2(there.fd, old_name, here.fd, name, 0)\n"
        "        except (FileExistsError",
        f"{HELPERS} -k TestRename",
    ),
    (
        "takes whatever it renamed for what it meant to rename",
        "        if not stayed or not held.is_at(here.fd, name, gone=True):\n",
        "        if not stayed:\n",
        f"{MOMENTS} -k TestWayBack",
    ),
    (
        "does not look at what it renamed over another",
        "            if not as_planned or awaited or not stayed or not over.is_untouched():",
        "            if awaited or not stayed:",
        f"{MOMENTS} -k TestWayBack",
    ),
    (
        "displaces without a word in the journal",
        "                self._quarantine.intend(list(intents.values()))\n",
        "                pass\n",
        f"{RACES} -k killed",
    ),
    (
        "displaces though the journal cannot be written",
        '                return {}, f"cannot write .psync/journal: {error.strerror}"\n',
        "                pass\n",
        f"{HELPERS} -k cannot_be_written_down",
    ),
    (
        "unlinks what it displaced at once, with no last look",
        "            quarantine.admit(intent, intent.expected._replace(ctime_ns=ctime_ns))\n        return b\"\"\n",
        "            os.unlink(intent.name, dir_fd=quarantine.fd)\n        return b\"\"\n",
        f"{RACES} -k TestLateWrites",
    ),
    (
        "keeps no loser of a conflict",
        "        if intent.keep:\n            return quarantine.keep(intent, Reason.LOSER)\n",
        "",
        f"{HELPERS} -k loser",
    ),
    (
        "takes what came back from a way back for its own",
        "        if st.st_ino != made.st.st_ino:\n",
        "        if False:\n",
        f"{MOMENTS} -k TestWayBack",
    ),
    (
        "unlinks its own file after the way back, though it was visible",
        "            quarantine.admit(intent, ours._replace(ctime_ns=st.st_ctime_ns))\n",
        "            os.unlink(intent.name, dir_fd=quarantine.fd)\n",
        f"{RACES} -k 'TestTheWayBack and not killed'",
    ),
    (
        "goes back over what a user has put there meanwhile",
        "        for flags in (EXCHANGE, NOREPLACE) if made else (NOREPLACE,):\n",
        "        for flags in (EXCHANGE, 0) if made else (0,):\n",
        f"{RACES} -k 'TestTheWayBack and not killed'",
    ),
    (
        "sets the time of a file without holding writers back",
        "        lease = is_file and wanted.mtime_ns != expected.mtime_ns\n",
        "        lease = False\n",
        f"{HELPERS} -k TestMeta",
    ),
    (
        "does not see that a file was written to while its mode was set",
        "        if is_file and (st.st_size, st.st_mtime_ns) != (held.st.st_size, mtime_ns):\n",
        "        if False:\n",
        f"{MOMENTS} -k TestMetadata",
    ),
    (
        "overrules a mode that a user has just set",
        "            if t.verb == META and before._replace",
        "            if False and before._replace",
        f"{MOMENTS} -k TestMetadata",
    ),
    (
        "removes whatever directory is there",
        "            if expected is None or not is_expected(-1, st, expected):\n",
        "            if False:\n",
        f"{HELPERS} -k TestRemoveDirectory",
    ),
    (
        "believes a path that a brain names",
        "    if not valid_path(t.path) or is_ours(t.path) or not (t.path or t.verb == META):\n",
        "    if False:\n",
        f"{HELPERS} -k 'no_path or makes_no_sense'",
    ),
    (
        "believes the old path of a rename that a brain names",
        "        if not t.source or not valid_path(t.source) or is_ours(t.source):\n",
        "        if not t.source:\n",
        f"{MOMENTS} -k TestPaths",
    ),
    (
        "tells what a user made of its file as its own work",
        "        shown = st if same(made.st, st) else made.st\n",
        "        shown = st\n",
        f"{RACES} -k TestOutcome",
    ),
    (
        "says that it has synced, and has not",
        "            syncfs(self._control_fd)\n",
        "",
        f"{HELPERS} -k TestDurability",
    ),
    (
        "answers a strict batch before it is durable",
        "        if self._strict:\n            self.sync()\n",
        "",
        f"{HELPERS} -k TestDurability",
    ),
    (
        "clears nothing up after a crash",
        "        recover(self._root_fd, self._quarantine)\n",
        "",
        f"{RACES} -k 'TestRecovery or (TestRaces and killed and do_nothing)'",
    ),
]

_HOLDING = [
    (
        "takes a directory that was moved away for one that has stayed",
        "        if not self.path or self._is_there(root_fd):\n",
        "        if True:\n",
        f"{RACES} -k MovedAway",
    ),
    (
        "takes any inode for the one that is expected",
        "    if expected.ino and st.st_ino != expected.ino:\n",
        "    if False:\n",
        f"{HELPERS} -k only_the",
    ),
    (
        "trusts the mtime alone",
        "    if expected.ino and st.st_ctime_ns != expected.ctime_ns:\n",
        "    if False:\n",
        f"{HELPERS} -k only_the",
    ),
    (
        "does not look at the mtime",
        "    if st.st_mtime_ns != expected.mtime_ns:\n",
        "    if False:\n",
        f"{HELPERS} -k 'only_the or without_identity'",
    ),
    (
        "takes a name that is there for the inode that is held",
        "        return st.st_ino == self.st.st_ino and st.st_dev == self.st.st_dev\n",
        "        return True\n",
        f"{RACES} -k 'TestRaces and nobody and save_by_rename'",
    ),
    (
        "goes on without the lease that it was refused",
        "        if not self.leased:\n            raise UnmetError(IN_USE)\n",
        "",
        f"{HELPERS} -k 'not_disturbed or somebody_writes'",
    ),
    (
        "enters a directory without asking whether it is beneath the root",
        "self.fd = open_beneath(root_fd, path, os.O_RDONLY | os.O_DIRECTORY)",
        'self.fd = os.open(path or b".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=root_fd)',
        f"{HELPERS} -k 'needs_its_parent or never_enters'",
    ),
    (
        "leaves a read-only directory open that it opened up",
        "            with suppress(OSError):\n                _set_mode(self._fd, self._mode)\n",
        "            pass\n",
        "tests/agent/test_helpers_unprivileged.py",
    ),
]

_QUARANTINE = [
    (
        "unlinks what is to go to the trash",
        "            if verdict == _EQUAL and not self._trash_reason(waiting.intent, waiting.entry):\n",
        "            if verdict == _EQUAL:\n",
        "tests/agent/test_trash.py",
    ),
    (
        "drops what waits without the last look",
        "            verdict = self._inspect(waiting, in_time)\n",
        "            verdict = _EQUAL\n",
        f"{RACES} -k TestLateWrites",
    ),
    (
        "does not compare the content at the last look",
        "                equal = self._hash.digest() == self._entry.digest\n",
        "                equal = True\n",
        f"{RACES} -k TestLateWrites",
    ),
    (
        "does not see a writer who came while it read for the last time",
        "        if self.verdict == _EQUAL and not self._undisturbed():\n",
        "        if False:\n",
        f"{MOMENTS} -k TestLastLook",
    ),
    (
        "trusts size and mtime where the digest is not known",
        "        and st.st_ctime_ns == entry.ctime_ns\n",
        "",
        f"{MOMENTS} -k TestLastLook",
    ),
    (
        "does not keep what a late writer wrote",
        "        elif verdict not in (_EQUAL, _GONE):\n",
        "        elif False:\n",
        f"{RACES} -k TestLateWrites",
    ),
    (
        "takes what cannot be read for what it was",
        "            return _UNREADABLE\n",
        "            return _EQUAL\n",
        f"{RACES} -k TestLateWrites",
    ),
    (
        "waits for nobody before the last look",
        '        self._wait(intent, entry, "", self._delay_s)\n',
        '        self._wait(intent, entry, "", 0.0)\n',
        f"{HELPERS} -k last_look",
    ),
    (
        "forgets a loser that the full disk did not take",
        "            self._wait(intent, entry, reason, self._retry_s)\n        return intent.name\n",
        "        return intent.name\n",
        f"{HELPERS} -k 'waits_until_it_can or keeps_a_loser_even_then'",
    ),
    (
        "empties the journal while something waits",
        "        if not self._heap:\n            self._journal.clear()\n",
        "        if True:\n            self._journal.clear()\n",
        f"{RACES} -k 'next_agent or killed'",
    ),
]

_RECOVERY = [
    (
        "takes what a user had put there for what was to be displaced",
        "        _give_back(root_fd, quarantine, intent)\n\n\ndef _displaced",
        "        _displaced(quarantine, intent, st)\n\n\ndef _displaced",
        f"{RACES} -k 'killed and TestTheWayBack and save_by_rename'",
    ),
    (
        "gives back over what a user has put there since",
        "        flags = EXCHANGE if ours_is_there else NOREPLACE\n",
        "        flags = EXCHANGE if ours_is_there else 0\n",
        f"{MOMENTS} -k TestRecovery",
    ),
    (
        "destroys what no intent tells of",
        "        quarantine.report(b\"\", quarantine.keep(intent, Reason.UNKNOWN))\n",
        "        os.unlink(intent.name, dir_fd=quarantine.fd)\n",
        f"{RACES} -k unknown_name",
    ),
    (
        "knows a file again by size and time",
        "    if expected.ino:\n",
        "    if False:\n",
        f"{MOMENTS} -k TestRecovery",
    ),
    (
        "leaves a rename over something half done",
        "            and _finish_rename(root_fd, quarantine, intent)\n",
        "            and False\n",
        f"{RACES} -k TestRecovery",
    ),
    (
        "leaves what a power cut has emptied",
        "        if not _is_torn_replacement(root_fd, quarantine, intent):\n",
        "        if True:\n",
        f"{RACES} -k power_cut",
    ),
    (
        "drops its own version though a user has written to it",
        "        quarantine.admit(intent, intent.wanted._replace(ctime_ns=st.st_ctime_ns))\n",
        "        os.unlink(intent.name, dir_fd=quarantine.fd)\n",
        f"{MOMENTS} -k TestRecovery",
    ),
    (
        "leaves a read-only directory open after a crash",
        "    for loan in reversed(loans):\n        _end_loan(root_fd, loan)\n",
        "",
        "tests/agent/test_helpers_unprivileged.py",
    ),
]

_INTENTS = [
    (
        "goes on with half a line in the journal",
        "            if os.write(self._fd, data) != len(data):\n",
        "            if not os.write(self._fd, data):\n",
        f"{MOMENTS} -k TestJournal",
    ),
    (
        "leaves a torn line in the journal",
        "            os.ftruncate(self._fd, self._size)\n            raise\n",
        "            raise\n",
        f"{MOMENTS} -k TestJournal",
    ),
    (
        "acts before a strict intent is on the disk",
        "                os.fdatasync(self._fd)\n",
        "                pass\n",
        f"{MOMENTS} -k TestJournal",
    ),
]

_STAGING = [
    (
        "publishes a file without its time",
        "        attempt(os.utime, fd, ns=(wanted.mtime_ns, wanted.mtime_ns))\n        st = os.fstat(fd)\n",
        "        st = os.fstat(fd)\n",
        f"{HELPERS} -k TestCreate",
    ),
    (
        "publishes a file with the mode that the umask left",
        "            attempt(os.fchmod, fd, mode_here)\n",
        "            pass\n",
        f"{HELPERS} -k TestCreate",
    ),
    (
        "publishes a large file that has not come whole",
        "            if not stat.S_ISREG(st.st_mode) or st.st_size != wanted.size:\n",
        "            if not stat.S_ISREG(st.st_mode):\n",
        f"{HELPERS} -k TestStaging",
    ),
    (
        "takes any path for one in staging",
        "        if not _SOURCE.fullmatch(source):\n",
        "        if False:\n",
        f"{MOMENTS} -k TestPaths",
    ),
    (
        "copies a base from anywhere",
        "    if not valid_path(base) or is_ours(base):\n",
        "    if False:\n",
        f"{HELPERS} -k TestStaging",
    ),
    (
        "publishes before a strict file is on the disk",
        "            os.fsync(fd)\n        return Made(name, fd, st, mode, ours, unmet)\n",
        "            pass\n        return Made(name, fd, st, mode, ours, unmet)\n",
        f"{MOMENTS} -k TestJournal",
    ),
    (
        "begins on a file system that cannot exchange two names",
        "            renameat2(self.fd, names[0], self.fd, names[1], EXCHANGE)\n",
        "            pass\n",
        f"{HELPERS} -k TestPrepare",
    ),
]

_CONFLICTS = [
    (
        "lets one loser take the place of another",
        "        renameat2(from_fd, name, self._fd, name, NOREPLACE)\n",
        "        renameat2(from_fd, name, self._fd, name, 0)\n",
        "tests/agent/test_conflicts.py",
    ),
    (
        "restores over what is there",
        "                renameat2(self._fd, note.name, parent_fd, name, NOREPLACE)\n",
        "                renameat2(self._fd, note.name, parent_fd, name, 0)\n",
        "tests/agent/test_conflicts.py",
    ),
    (
        "restores to anywhere",
        "        if not path or not valid_path(path) or is_ours(path):\n",
        "        if False:\n",
        "tests/agent/test_conflicts.py",
    ),
]

# --- confinement ------------------------------------------------------------------------------

_SYSCALLS = [
    (
        "lets .. lead out of the root",
        "_RESOLVE = 0x01 | 0x02 | 0x04 | 0x08 ",
        "_RESOLVE = 0x01 | 0x02 | 0x04 ",
        f"{SYSCALLS} -k TestOpenBeneath",
    ),
    (
        "follows links inside of the root",
        "_RESOLVE = 0x01 | 0x02 | 0x04 | 0x08 ",
        "_RESOLVE = 0x01 | 0x08 ",
        f"{MOMENTS} -k TestPaths",
    ),
    (
        "crosses mount points",
        "_RESOLVE = 0x01 | 0x02 | 0x04 | 0x08 ",
        "_RESOLVE = 0x02 | 0x04 | 0x08 ",
        f"{SYSCALLS} -k TestOpenBeneath",
    ),
    (
        "follows links where there is no openat2",
        "    fd = os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=dirfd)\n",
        "    fd = os.open(name, flags | os.O_CLOEXEC, mode, dir_fd=dirfd)\n",
        f"{SYSCALLS} -k TestOpenBeneath",
    ),
    (
        "lets .. lead out of the root where there is no openat2",
        '    if name == b"..":\n',
        "    if False:\n",
        f"{SYSCALLS} -k TestOpenBeneath",
    ),
    (
        "ends when somebody opens a file that it holds a lease on",
        "    signal.signal(signal.SIGIO, signal.SIG_IGN)\n",
        "    pass\n",
        f"{SYSCALLS} -k TestLease",
    ),
]

_ENTRY = [
    (
        "trusts a time to tell of a write that is too coarse for it",
        "        while not self.mtime_ns % (10 * grain):\n            grain *= 10\n",
        "",
        "tests/core/test_entry.py tests/agent/test_filter.py -k write",
    ),
    (
        "takes a path with NUL in it",
        '    if b"\\0" in path or len(path) > 65535:\n',
        "    if len(path) > 65535:\n",
        "tests/core/test_entry.py",
    ),
    (
        "takes a path with .. in it",
        '        p and p not in (b".", b"..", CONTROL_NAME) and len(p) <= 255',
        '        p and p not in (b".", CONTROL_NAME) and len(p) <= 255',
        "tests/core/test_entry.py",
    ),
    (
        "takes an absolute path",
        '        p and p not in (b".", b"..", CONTROL_NAME) and len(p) <= 255',
        '        p not in (b".", b"..", CONTROL_NAME) and len(p) <= 255',
        "tests/core/test_entry.py",
    ),
    (
        "lets a name forge a line of the log",
        '    if text.isprintable() and "\\\\" not in text:\n',
        "    if True:\n",
        "tests/core/test_entry.py",
    ),
]

_AGENT = [
    (
        "does for an audit all that it does for a session",
        "            self._handlers = _AUDIT_HANDLERS\n",
        "            pass\n",
        "tests/agent/test_reader.py -k Refusing",
    ),
    (
        "goes on in a root that is another directory now",
        "        if (st.st_dev, st.st_ino) != self._identity:\n",
        "        if False:\n",
        f"{AGENT} -k root_is_not_what_it_was",
    ),
    (
        "goes on in a root whose marker is gone",
        "        if self._helpers is not None and not marker(self._root_fd)[0]:\n",
        "        if False:\n",
        f"{AGENT} -k root_is_not_what_it_was",
    ),
    (
        "serves any root with a key for one",
        "            if root and os.path.realpath(root) != os.path.realpath(only):\n",
        "            if False:\n",
        f"{AGENT} -k only_the_root",
    ),
    (
        "looks at any path that a brain names",
        "        for path in paths:\n            if not valid_path(path):\n"
        "                raise AgentError(f\"the brain named",
        "        for path in paths:\n            if False:\n"
        "                raise AgentError(f\"the brain named",
        f"{AGENT} -k leaves_the_root",
    ),
    (
        "sends a large file that is not what was expected",
        "        if entry is None or entry.kind != Kind.FILE or not entry.same_identity(expected):\n",
        "        if entry is None or entry.kind != Kind.FILE:\n",
        f"{AGENT} -k TestLargeFiles",
    ),
    (
        "says of a large file that changed while it was sent that it is intact",
        "                same = self._is_intact(source)\n",
        "                same = True\n",
        f"{AGENT} -k TestLargeFiles",
    ),
    (
        "sends a large file that was written to and removed, with its time put back",
        "        if was is None or (watched is not None and not self._writes.is_unwritten(watched)):\n",
        "        if was is None:\n",
        f"{AGENT} -k TestLargeFiles",
    ),
]

_CLAIM = [
    (
        "takes a .psync that is somebody else's",
        "        if st.st_uid != os.geteuid():\n",
        "        if False:\n",
        f"{MOMENTS} -k TestClaim",
    ),
    (
        "takes a .psync that is no directory of psync's",
        '                if name not in _NAMES and not name.startswith("beat."):\n',
        "                if False:\n",
        f"{HELPERS} -k TestPrepare",
    ),
    (
        "lets others into .psync",
        "        os.fchmod(fd, 0o700)\n",
        "",
        f"{MOMENTS} -k TestClaim",
    ),
]

_LOCK = [
    (
        "works on a root that another agent works on",
        "        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)\n",
        "        pass\n",
        f"{AGENT} -k TestLock",
    ),
    (
        "kills a process that is no agent",
        "        if not is_agent(pid) or not _has_open(pid, os.fstat(fd)):\n",
        "        if False:\n",
        f"{AGENT} -k TestLock",
    ),
]

_WIRE = [
    (
        "makes room for whatever a peer announces",
        "                if size > FRAME_MAX:\n",
        "                if False:\n",
        "tests/wire",
    ),
    (
        "follows nested frames to any depth",
        "        if depth >= _DEPTH_MAX:\n",
        "        if False:\n",
        "tests/wire -k deep",
    ),
    (
        "makes room for a list that is only announced",
        "        if size > len(data) - at:\n",
        "        if False:\n",
        "tests/wire",
    ),
    (
        "takes a frame with bytes behind the message",
        "        if end != len(body):\n",
        "        if False:\n",
        "tests/wire",
    ),
]

# --- observing --------------------------------------------------------------------------------

_SCAN = [
    (
        "gives a file the digest of what it held before it grew",
        "        if entry.same_identity(seen.entry) and seen.entry is not None:\n",
        "        if seen.entry is not None:\n",
        f"{AGENT} -k w20",
    ),
    (
        "hashes a file that may still change within its ctime",
        "            _outwait(entry.ctime_ns)\n",
        "",
        SCAN,
    ),
    (
        "publishes a read that was torn",
        "        after = os.fstat(fd)\n    except OSError:\n",
        "        after = before\n    except OSError:\n",
        SCAN,
    ),
    (
        "knows a version by its mtime and size",
        "        a.st_ino == b.st_ino\n        and a.st_ctime_ns == b.st_ctime_ns\n        and ",
        "        ",
        f"{MOMENTS} -k TestLook",
    ),
    (
        "reads what somebody is writing",
        "                quiet = read_lease(fd)\n",
        "                quiet = True\n",
        SCAN,
    ),
    (
        "takes a mount point for an empty directory",
        "    if st.st_dev != device or is_mount(parent_fd, name):\n",
        "    if False:\n",
        SCAN,
    ),
    (
        "mixes the text of one link with the inode of another",
        "    target = os.readlink(name, dir_fd=parent_fd)\n    after = os.stat(name, dir_fd=parent_fd, follow_symlinks=False)\n",
        "    target = os.readlink(name, dir_fd=parent_fd)\n    after = st\n",
        f"{MOMENTS} -k TestLook",
    ),
]

_KNOWN = [
    (
        "knows its echoes by name",
        "                if ours is None or not same_state(ours, entry):\n"
        "                    del self._own[path]\n",
        "                if ours is None:\n                    del self._own[path]\n",
        "tests/agent/test_known.py",
    ),
    (
        "knows a file again without its ctime and inode",
        "    return a[:7] == b[:7] and a[8:] == b[8:]\n",
        "    return a[:7] == b[:7]\n",
        "tests/agent/test_known.py",
    ),
    (
        "takes equal stats of a file that was written to for equal content",
        "        return not written or entry.kind != _FILE or told.digest == entry.digest != b\"\"\n",
        "        return True\n",
        "tests/agent/test_known.py",
    ),
    (
        "remembers its own work under a directory that a user has renamed",
        "        if not ours:\n            self._own.clear()\n",
        "        if not ours:\n            pass\n",
        "tests/agent/test_known.py",
    ),
]

_FILTER = [
    (
        "does not watch what other rules show and it had not entered",
        "        if not self._pruned <= set(self._ignored.pruned):\n",
        "        if False:\n",
        "tests/agent/test_agent.py -k e10",
    ),
    (
        "forgets what was told as gone when an operation fails at its name",
        "            if outcome.status != APPLIED or not path:\n                continue",
        "            self._absent.pop(path, None)\n"
        "            if outcome.status != APPLIED or not path:\n                continue",
        f"{FILTER} -k could_not_do",
    ),
    (
        "tells that something is gone before its directory's rename could be heard of",
        "        if not mask & (HELD | _GONE | LIST) and not d.force and not self._scanning:\n",
        "        if False:\n",
        f"{FILTER} -k TestLateRenames",
    ),
    (
        "takes a directory in which names have changed for one that was told as gone",
        "        return known is not None and bool(known[1] & ~(ATTRIBUTES | DIRECTORY))\n",
        "        return known is not None\n",
        f"{FILTER} -k TestLateRenames",
    ),
    (
        "does not scan when events were lost",
        '        elif kind == "O":\n            self._trouble("overflow", b"", '
        '"too much happened at once: everything is scanned again")\n            self._events_lost()\n',
        '        elif kind == "O":\n            pass\n',
        f"{FILTER} -k TestLosingEvents",
    ),
    (
        "does not scan when the watcher died",
        "        self._scanning = False  # that scan will never be over\n"
        "        self._digests = []\n        self._events_lost()\n",
        "        self._scanning = False  # that scan will never be over\n"
        "        self._digests = []\n",
        f"{FILTER} -k TestLosingEvents",
    ),
    (
        "drops what is too much to wait",
        "        self._told_lost = now\n        self.rescan()\n",
        "        self._told_lost = now\n",
        f"{FILTER} -k TestLosingEvents",
    ),
    (
        "says that it is flushed before it has heard of everything",
        "        if not flush.beaten or self._generation < flush.generation:\n",
        "        if self._generation < flush.generation:\n",
        f"{FILTER} -k TestFlush",
    ),
    (
        "goes on listing a directory that was moved away meanwhile",
        "                    if not self._is_at(path, st.st_ino):\n",
        "                    if False:\n",
        f"{FILTER} -k end_a_listing",
    ),
    (
        "denies in a listing what was told of since it began",
        "        if name and directory == self._answering:\n",
        "        if False:\n",
        f"{FILTER} -k TestAListingThatGoesOnLater",
    ),
]

# --- the core ---------------------------------------------------------------------------------

_CINOTIFY = [
    (
        "goes on watching what gets a name that is not entered",
        "	if (n && scan_is_pruned(&w->scanner, name))\n",
        "	if (false)\n",
        "tests/cinotify/test_watch.py -k Pruned",
    ),
    (
        "replaces a watch that is there already",
        "IN_ONLYDIR | IN_EXCL_UNLINK | IN_MASK_ADD,",
        "IN_ONLYDIR | IN_EXCL_UNLINK,",
        "tests/cinotify/test_watch.py -k no_watch_is_replaced",
    ),
]

_WATCH = [
    (
        "replaces a watch that is there already",
        "    | 0x20000000\n",
        "",
        f"{FILTER} -k replaces_no_watch",
    ),
]

_RECONCILE = [
    (
        "deletes a file that was edited on the other side",
        "            if stands[side.other] == Standing.SAME or emptied:\n",
        "            if True:\n",
        "tests/core/test_reconcile.py",
    ),
    (
        "keeps no loser: nobody is told of a conflict",
        "    return Decision(Verb.COPY, winner, sides[winner].bare(), RIVALS)\n",
        "    return Decision(Verb.COPY, winner, sides[winner].bare())\n",
        "tests/core/test_reconcile.py",
    ),
    (
        "knows the agreed version without its inode and ctime",
        "    if now.same_identity(was) and now.same_meta(was):\n        return Standing.SAME\n",
        "    if now.mtime_ns == was.mtime_ns and now.same_meta(was):\n"
        "        return Standing.SAME\n",
        "tests/core/test_reconcile.py",
    ),
    (
        "takes equal times for equal content after the first meeting",
        "        return _COMPARE\n    if same:\n        return _settle_meta(None, left, right, favoured)\n",
        "        return _settle_meta(None, left, right, favoured)\n    if same:\n"
        "        return _settle_meta(None, left, right, favoured)\n",
        "tests/core/test_reconcile.py",
    ),
    (
        "does not read bytes of which it is in doubt",
        "    if any(entry.kind == Kind.FILE and not entry.digest for entry in (left, right)):\n"
        "        return _COMPARE\n",
        "",
        "tests/core/test_reconcile.py",
    ),
]

_SURVEY = [
    (
        "forgets what was to be listed of a directory that is moved out of another",
        "        if not self._deep.isdisjoint(ancestors(old)):\n",
        "        if False:\n",
        "tests/core/test_offline.py",
    ),
    (
        "forgets what a scan has found as soon as nothing is to be listed",
        "            if not self._scanning:\n",
        "            if True:\n",
        "tests/core/test_session.py -k TestFullSync",
    ),
    (
        "takes the end of an older listing for an answer",
        "        if after and path in self.pending and after != self._passed.get(path):\n",
        "        if False:\n",
        "tests/core/test_survey.py",
    ),
    (
        "decides names that a listing has not come to",
        '        return directory in self.pending and name > self._passed.get(directory, b"")\n',
        "        return False\n",
        "tests/core/test_news.py tests/core/test_survey.py",
    ),
    (
        "takes a range for told that was not",
        "        if path in self.pending and after in (b\"\", self._passed.get(path)):\n",
        "        if path in self.pending:\n",
        "tests/core/test_survey.py",
    ),
]

_GUARD = [
    (
        "forgets who waits for a count that it begins anew",
        "        self._pending.release(_GONE[side])\n        self._pending.release(_REWRITTEN[side])\n",
        "",
        "tests/core/test_session.py -k Hiding",
    ),
    (
        "lets a program gone wild rewrite all",
        "        if path in rewrites.paths or len(rewrites.paths) < most:\n",
        "        if True:\n",
        "tests/core/test_guard.py -k Rewrites",
    ),
    (
        "does not count deletions",
        "        flood, now = self._floods[decision.source], self._pending.now\n",
        "        return False\n"
        "        flood, now = self._floods[decision.source], self._pending.now\n",
        "tests/core/test_guard.py",
    ),
    (
        "believes a scan that lacks nearly everything",
        "        if lacking > 0 and lacking > self._hidden(side, lacking):\n",
        "        if False:\n",
        "tests/core/test_guard.py -k TestScans",
    ),
    (
        "accepts for ever what a person has accepted once",
        "                flood.accepted = now + _ACCEPTED_S\n",
        "                pass\n",
        "tests/core/test_guard.py",
    ),
]

_SESSION = [
    (
        "lets renames wait for each other for ever",
        "        if self._moves.any:\n            self._moves.untangle(path)\n",
        "        if self._moves.any and not emptied:\n            self._moves.untangle(path)\n",
        "tests/core/test_offline.py",
    ),
    (
        "goes on though it has halted",
        "            not self._halts\n            and not self._paused\n",
        "            not self._paused\n",
        "tests/core/test_guard.py",
    ),
    (
        "keeps what a host may have lost in a power cut",
        "            if event.rebooted:\n",
        "            if False:\n",
        "tests/core/test_session.py",
    ),
    (
        "takes an operation under way for one that was made from what is there",
        "        self._flights.void_all()\n",
        "",
        "tests/core/test_session.py",
    ),
    (
        "decides a path while an operation on it is under way",
        "        if path in self._flights.at or path in self._carrier.walking:\n",
        "        if path in self._carrier.walking:\n",
        "tests/core/test_session.py",
    ),
    (
        "takes a file that a power cut has emptied for an edit",
        "            if self._replicas[side].may_be_cut(damaged) and (ours or not damaged.size):\n",
        "            if False:\n",
        "tests/core/test_session.py",
    ),
    (
        "removes a directory in which something new lives",
        "        if path not in self._pair.survivors or decision.verb not in",
        "        if True or decision.verb not in",
        "tests/core/test_session.py",
    ),
    (
        "removes what a scan that goes on may find elsewhere",
        "        elif verb is Verb.REMOVE and self._replicas[decision.source].survey.comparing:\n",
        "        elif False:\n",
        "tests/core/test_carry.py -k scan",
    ),
    (
        "replaces what somebody is writing",
        "        elif path in left.busy or path in right.busy:\n",
        "        elif False:\n",
        "tests/core/test_session.py -k TestWriters",
    ),
]

_NEWS = [
    (
        "overlooks that a hidden directory has taken the place of a file",
        "            item = item._replace(entry=None, content=None)  # in place of what may not be hidden\n",
        "            return\n",
        "tests/core/test_session.py -k Hiding",
    ),
    (
        "believes an answer to a batch that was never sent",
        "        if expected is None or expected != len(message.outcomes):\n",
        "        if False:\n",
        "tests/core/test_news.py",
    ),
    (
        "believes an answer to an operation of the other side",
        "            if op is None or op.side != replica.side:\n",
        "            if op is None:\n",
        "tests/core/test_news.py",
    ),
    (
        "believes a path that an agent names",
        "        for position, item in enumerate(message.items, 1):\n            _check(item.path)\n",
        "        for position, item in enumerate(message.items, 1):\n",
        "tests/core/test_news.py",
    ),
    (
        "believes a path in a listing that is no name",
        '            if b"/" in item.path or not item.path:\n',
        "            if False:\n",
        "tests/core/test_news.py",
    ),
    (
        "takes what a mount hides for gone",
        '            if ("mount", path) in replica.troubles:\n',
        "            if False:\n",
        "tests/core/test_news.py",
    ),
    (
        "compares the names of a whole directory with a part of its listing",
        "        known = self._archive.names(directory, after, upto)\n",
        '        known = self._archive.names(directory, b"", None)\n',
        "tests/core/test_news.py",
    ),
    (
        "trusts what was seen before a scan that begins anew",
        "        if survey.generation:\n            self.forget(replica)\n",
        "        if survey.generation:\n",
        "tests/core/test_news.py -k TestScan",
    ),
    (
        "does not list where there is news after a full scan",
        "                replica.survey.ask(directory)\n            return\n",
        "                pass\n            return\n",
        "tests/core/test_session.py -k FullSync",
    ),
    (
        "takes for untouched what was told of before the scan's listing",
        "(p for p in paths if p not in self._pending.since)",
        "(p for p in paths)",
        "tests/core/test_session.py -k Adoption",
    ),
    (
        "waits for ever for a look at what is hidden by now",
        "            if path in replica.awaited:  # it was asked for before it was hidden\n",
        "            if False:\n",
        "tests/core/test_session.py -k Hiding",
    ),
]

_CARRY = [
    (
        "commits the archive before the other side has answered",
        "        op = self._begin(side, transition, decision, shown, intact=intact)\n"
        "        self._replicas[side].plan.add(op.transition)\n",
        "        op = self._begin(side, transition, decision, shown, intact=intact)\n"
        "        if transition.wanted is not None and shown is not None:\n"
        "            self._agree(op, transition.wanted, shown, shown)\n"
        "        self._replicas[side].plan.add(op.transition)\n",
        "tests/core/test_carry.py",
    ),
    (
        "takes an operation that was not made for one that was",
        "        elif status == CHANGED:\n            self._pending.changed(path, side)\n",
        "        elif status == CHANGED:\n            self._applied(op, outcome.entry)\n",
        "tests/core/test_carry.py",
    ),
    (
        "believes an agent that says that it made something else",
        "        if entry is None or entry.kind != wanted.kind or op.shown is None:\n",
        "        if False:\n",
        "tests/core/test_carry.py",
    ),
    (
        "takes what a user did while his file was copied for what was copied",
        "        if other is not None and shown.same_identity(other) and shown.same_meta(other):\n",
        "        if other is not None:\n",
        "tests/core/test_carry.py",
    ),
    (
        "removes a directory before what was agreed in it",
        "        elif not emptied and self._archive.children(path):\n",
        "        elif False:\n",
        "tests/core/test_carry.py",
    ),
    (
        "forgets what it sent when the link breaks",
        "                # Nobody knows whether it was done; the next scan will recognise it.\n"
        "                self._pair.intend(intent_of(op))\n",
        "                pass\n",
        "tests/core/test_carry.py -k TestLostSide",
    ),
    (
        "sends a file that changed while it was transferred",
        "        if event.torn:\n            self._pair.look(op.side.other, op.path, 1)",
        "        if False:\n            pass",
        "tests/core/test_carry.py",
    ),
    (
        "transfers a large file that cannot be read again and again",
        "            self._pair.look(op.side.other, op.path, 1)  # tells, too",
        "            self._pair.look(op.side.other, op.path, 0)  # tells, too",
        "tests/core/test_carry.py",
    ),
]

_REPLICA = [
    (
        "believes attributes only of what a scan has made forgotten",
        "        meta_only = bool(flags & META_ONLY) and self.knows(path)\n",
        "        meta_only = bool(flags & META_ONLY)\n",
        "tests/core/test_replica.py tests/core/test_session.py -k 'Renewal or ScanAnew'",
    ),
    (
        "sends content of another version than the one that it shows",
        "        if held is None or not held[0].same_identity(entry):\n",
        "        if held is None:\n",
        "tests/core/test_replica.py tests/core/test_carry.py tests/core/test_news.py",
    ),
]

_ARCHIVE = [
    (
        "commits what was agreed after the freeze as well",
        "        self._frozen = self._recent\n        self._recent = _Changes()\n        return True\n",
        "        self._frozen = self._recent\n        return True\n",
        "tests/core/test_archive.py",
    ),
    (
        "forgets what did not become durable",
        "        self._frozen, self._recent = None, frozen\n",
        "        self._frozen, self._recent = None, _Changes()\n",
        "tests/core/test_archive.py",
    ),
]

# --- the audit ----------------------------------------------------------------------------------

_AUDIT_MERGE = [
    (
        "hears names without end",
        "        if stream.names > _NAMES_MAX:\n",
        "        if False:\n",
        "tests/test_audit_merge.py -k without_end",
    ),
    (
        "holds directories without end",
        "        if self._waiting_bytes > _WAITING_BYTES_MAX:\n",
        "        if False:\n",
        "tests/test_audit_merge.py -k listed_later",
    ),
    (
        "believes in an audit whatever names an agent names",
        "            _check_name(item.path, listing.path)\n",
        "",
        "tests/test_audit_merge.py -k Lies",
    ),
    (
        "tells what is where a side cannot look as missing there",
        "        if job.blind:\n",
        "        if False:\n",
        "tests/test_audit_merge.py -k cannot_look",
    ),
]

_AUDIT_RULES = [
    (
        "takes what an audit's disk has lost for somebody's edit",
        '        return entry._replace(digest=b"")\n',
        "        return entry\n",
        "tests/test_audit_rules.py -k Foresee",
    ),
]

# --- the brain's hands ------------------------------------------------------------------------

_STATE = [
    (
        "runs two sessions on one state",
        "            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)\n",
        "            pass\n",
        "tests/effects/test_store.py -k TestSessionDir",
    ),
    (
        "takes a lock that its holder has discarded",
        "        if not self._is_lock(fd):  # who held it has discarded it\n",
        "        if False:\n",
        "tests/effects/test_store.py -k TestSessionDir",
    ),
    (
        "discards an archive, alerts or what a person has said",
        "            if all(map(_OF_EVERY_START.fullmatch, names)):\n",
        "            if names:\n",
        "tests/effects/test_store.py -k TestSessionDir",
    ),
    (
        "lets others read what is remembered",
        "                directory.chmod(0o700)\n",
        "                pass\n",
        "tests/effects/test_store.py -k TestSessionDir",
    ),
]

_CONTROL = [
    (
        "ends whatever process has the number that a lock names",
        "        if not session.is_held_by(pid):\n            return False\n",
        "",
        "tests/test_cli.py -k only_has_the_number",
    ),
    (
        "lets others talk to the session",
        '                os.chmod(f"{near}/control", 0o600)\n',
        "                pass\n",
        "tests/test_control.py -k TestServer",
    ),
]

_FORCED = [
    (
        "lets a key for psync run rsync with any option",
        "        if _LONG.match(option) is None:\n",
        "        if False:\n",
        "tests/agent/test_forced.py -k Evil",
    ),
    (
        "lets a key for psync read any file that is open",
        "        if above is not None and not there.startswith(above.rstrip(\"/\") + \"/\"):\n",
        "        if False:\n",
        "tests/agent/test_forced.py -k Evil",
    ),
    (
        "lets a key for psync write anywhere",
        "    if stage is None or stage != (st.st_dev, st.st_ino):\n",
        "    if stage is None:\n",
        "tests/agent/test_forced.py -k Evil",
    ),
]

_BRAIN = [
    (
        "asks an agent about its replica before it watches",
        "        for peer in self._peers:\n            peer.check_watches()\n",
        "",
        "tests/e2e/test_runcheck.py -k was_never_there",
    ),
    (
        "forgets that both sides have been compared unless something is agreed for good",
        "            self._remember_met()\n",
        "            pass\n",
        "tests/e2e/test_restart.py -k equal_size_and_time",
    ),
    (
        "commits what a replica has not made durable",
        "        if not all(answer.ok for answer in answers):\n",
        "        if False:\n",
        "tests/e2e/test_disks.py -k vouch",
    ),
    (
        "forgets that a root has lost its marker, or is empty",
        "        if not self._archive.count or (peer.ready.marker_pair and not peer.ready.empty):\n",
        "        if True:\n",
        "tests/e2e/test_restart.py -k 'RootLost or emptied'",
    ),
    (
        "takes another pair's root for its own",
        '            if ready.marker_pair not in ("", pair):\n',
        "            if False:\n",
        "tests/e2e/test_command.py -k root_of_another_pair",
    ),
    (
        "takes the left root for the right one",
        '            if ready.marker_side not in ("", side):\n',
        "            if False:\n",
        "tests/e2e/test_command.py -k other_way_round",
    ),
    (
        "replicates a tree into itself",
        '                if inner.root.startswith(outer.root.rstrip(b"/") + b"/"):\n',
        "                if False:\n",
        "tests/e2e/test_command.py -k inside_the_other",
    ),
    (
        "does not look which state a root is in",
        "        if peer.ready.generation not in self._generations():\n",
        "        if False:\n",
        "tests/e2e/test_failures.py -k 'x16 or x08'",
    ),
    (
        "writes down nothing of what it sends",
        "            self._intents.append([_encode(command)])\n",
        "            pass\n",
        "tests/e2e/test_restart.py -k of_the_brain",
    ),
]

# --- the whole, in simulated worlds: the broken variants of the design ------------------------

_WORLD_AGENT = [
    (
        "takes every event at a path that it wrote to for its own",
        "            same = left._replace(digest=b\"\") == entry._replace(digest=b\"\")\n",
        "            same = True\n",
        WORLDS,
    ),
    (
        "applies a transition to whatever is there",
        "        elif node is None or not t.expected.same_identity(node.entry()):\n"
        "            return CHANGED\n        if t.verb == PUT:\n",
        "        elif node is None:\n            return CHANGED\n        if t.verb == PUT:\n",
        WORLDS,
    ),
    (
        "says that all is durable, which is not",
        "            if ok:\n                self._disk.sync()\n",
        "",
        WORLDS,
    ),
    (
        "does not scan when events were lost",
        "            self._absent.clear()\n            self._begin_scan()\n            return\n",
        "            self._absent.clear()\n            return\n",
        WORLDS,
    ),
]

_WORLD = [
    (
        "keeps no record of what it sends",
        "                self.world.log.append((self.world.generation, command))\n",
        "                pass\n",
        WORLDS,
    ),
]

_WORLD_RECONCILE = [
    (
        "lets the newest mtime win",
        "    if stands == (Standing.SAME, Standing.SAME):\n        return _NOTHING\n",
        "    if stands == (Standing.SAME, Standing.SAME):\n        return _NOTHING\n"
        "    if sides[0].mtime_ns != sides[1].mtime_ns:\n"
        "        newer = _newer(sides[0], sides[1])\n"
        "        return Decision(Verb.COPY, newer, sides[newer].bare())\n",
        WORLDS,
    ),
    (
        "knows what was agreed by its content alone",
        "    if now.same_identity(was) and now.same_meta(was):\n",
        "    if now.mtime_ns == was.mtime_ns and now.same_meta(was):\n",
        WORLDS,
    ),
]

_WORLD_SESSION = [
    (
        "takes what a side had before a power cut for what it has",
        "            if event.rebooted:\n",
        "            if False:\n",
        WORLDS,
    ),
]

_WORLD_CARRY = [
    (
        "writes down what is agreed before it is applied",
        "        op = self._begin(side, transition, decision, shown, intact=intact)\n"
        "        self._replicas[side].plan.add(op.transition)\n",
        "        op = self._begin(side, transition, decision, shown, intact=intact)\n"
        "        if transition.wanted is not None and shown is not None:\n"
        "            self._agree(op, transition.wanted, shown, shown)\n"
        "        self._replicas[side].plan.add(op.transition)\n",
        WORLDS,
    ),
]

_IGNORE = [
    (
        "does not enter what a later rule takes back",
        "        if not rule.ignores:\n            return\n",
        "        if not rule.ignores:\n            continue\n",
        "tests/core/test_ignore.py -k nobody_needs",
    ),
    (
        "brings back what is below an ignored directory",
        "            and (self._above(path.rpartition(b\"/\")[0]) or self._matches(path, directory))\n",
        "            and self._matches(path, directory)\n",
        "tests/core/test_ignore.py",
    ),
    (
        "hides what only a directory's rule matches, of whatever kind it is",
        "            return self._hides(path, False) and (not self.by_kind or self._hides(path, True))\n",
        "            return self._hides(path, False) or self._hides(path, True)\n",
        "tests/core/test_ignore.py",
    ),
]

_TRANSFERS = [
    (
        "tells the session of a transfer before it knows that a side is gone",
        "            if all(peer.connected for peer in self._peers):\n",
        "            if True:\n",
        "tests/test_transfers.py",
    ),
]

_RECALL = [
    (
        "does not recognise what an earlier run has done",
        "        if path not in self._pair.intents:\n",
        "        if self._pair.intents.pop(path, None) or True:\n",
        "tests/core/test_session.py -k Restart",
    ),
    (
        "takes what a user has renamed to where it meant to write for its own work",
        "            if self._was_elsewhere(replica.side, path, there):\n",
        "            if False:\n",
        "tests/core/test_session.py -k Restart",
    ),
]

_PAIR = [
    (
        "asks a person again because of what waits for his answer",
        "                if directory not in self.pending.asked:\n",
        "                if True:\n",
        "tests/core/test_session.py -k AskedOfADirectory",
    ),
    (
        "takes another name of a file for news that came later",
        "            self.pending.touch(link, self.pending.since.get(path))\n",
        "            self.pending.touch(link)\n",
        "tests/core/test_links.py",
    ),
    (
        "looks only right above for what has gone on the other side",
        "            if directory not in replica.views and replica.lacks_parent(directory):\n",
        "            if False:\n",
        "tests/core/test_session.py -k AskedOfADirectory",
    ),
    (
        "hurries a directory that is to come back at each try of what is in it",
        "                if directory not in self.survivors:\n",
        "                if True:\n",
        "tests/core/test_carry.py",
    ),
    (
        "takes a path to be at rest because one of its kinds is hidden",
        "            if entry is not None and not self.hides(path, entry):\n",
        "            if False:\n",
        "tests/core/test_session.py -k Hiding",
    ),
    (
        "believes a name of a file whose other name was changed",
        "            if (other[:7], other.ctime_ns) != (shown[:7], shown.ctime_ns):\n",
        "            if False:\n",
        "tests/core/test_links.py",
    ),
]

_MOVES = [
    (
        "gives up a rename to a name that another is just leaving",
        "        coming = {*self._flights.at, *self._flights.locked, *self._pair.renames}\n",
        "        coming = {*self._flights.at, *self._pair.renames}\n",
        "tests/core/test_moves.py -k quick_succession",
    ),
    (
        "renames over what is to be renamed itself",
        "        if not turning and self._is_to_leave(replica, new):\n",
        "        if False:\n",
        "tests/core/test_moves.py -k quick_succession",
    ),
    (
        "renames its own work for what it had put that in the place of",
        "        if base is not None and base.kind != Kind.DIRECTORY and self._recall.is_open(old):\n",
        "        if False:\n",
        "tests/core/test_session.py -k Restart",
    ),
    (
        "takes a rename that it made and could not follow for an edit",
        "                self._archive.remove(new)  # what is there now is no user's edit of that\n",
        "                pass\n",
        "tests/core/test_session.py -k Hiding",
    ),
    (
        "takes what it renamed for what was agreed after a scan has dropped the edit",
        "            changed = View(was)  # a scan that began meanwhile has dropped it\n",
        "            pass\n",
        "tests/core/test_moves.py",
    ),
    (
        "lets all talk wait for a directory's rename that is hidden by now",
        "                    self._give_up(replica, new)\n                    self._pending.touch(move.old)\n",
        "                    self._forget(replica, new)\n                    self._pending.touch(move.old)\n",
        "tests/core/test_session.py -k Hiding",
    ),
]

_HIDING = [
    (
        "lets an operation under way agree on what is hidden by now",
        "            if pair.hides(op.path, op.transition.wanted or op.transition.expected)\n",
        "            if False\n",
        "tests/core/test_session.py -k Hiding",
    ),
    (
        "forgets at an operation's end what other rules have let in again",
        "        pair.left_out = {  # by these rules: what was hidden may be told again by now\n",
        "        pair.left_out |= {\n",
        "tests/core/test_session.py -k Hiding",
    ),
    (
        "counts as gone what is left out",
        "            self._guard.forget(replica.side)  # what is left out is not gone\n",
        "",
        "tests/core/test_session.py -k Hiding",
    ),
    (
        "goes on to list directories that are hidden by now",
        "            for path in replica.survey.leave_out(lambda path: ignored(path, True)):\n",
        "            for path in ():\n",
        "tests/core/test_session.py -k Hiding",
    ),
]

_WORLD_NEWS = [
    (
        "does not compare what a side has after it was away",
        "        compare = self._pair.limits.compare or replica.compared or self._pair.adopting\n",
        "        compare = not replica.compared\n",
        WORLDS,
    ),
]

_OVERSEER = [
    (
        "feeds the watchdog of a session that makes no progress",
        "        if facts.alive and self._notifier.watchdog_s is not None:\n",
        "        if self._notifier.watchdog_s is not None:\n",
        "tests/test_overseer.py -k Manager",
    ),
    (
        "takes for solved what nobody watches any more",
        '            if facts.state != "watching":  # nothing is known of what is not watched\n',
        "            if False:\n",
        "tests/test_overseer.py -k Problems",
    ),
]

_RUNCHECK = [
    (
        "starts what is configured to end by itself",
        "    if is_named and not is_ending:\n",
        "    if is_named:\n",
        "tests/e2e/test_runcheck.py -k Ending",
    ),
    (
        "starts what systemctl has stopped",
        '    if unit is not None and unit.state in ("inactive", "deactivating"):\n',
        "    if False:\n",
        "tests/test_launch.py -k Runcheck",
    ),
    (
        "starts what psync stop has ended",
        "    if session.stopped:\n",
        "    if False:\n",
        "tests/e2e/test_runcheck.py -k on_purpose",
    ),
    (
        "takes a watcher that is deaf for well",
        '    if beat.get("heartbeat_s") is None or beat.get("lag_s") is None:\n',
        "    if False:\n",
        "tests/e2e/test_runcheck.py -k Watcher",
    ),
    (
        "ends what was slow once",
        "    if rules.restart and (finding.is_dead or (finding.is_hung and lasting >= CRITICAL)):\n",
        "    if rules.restart and (finding.is_dead or finding.is_hung):\n",
        "tests/e2e/test_runcheck.py -k Hung",
    ),
]

_INSTALL = [
    (
        "writes over what is not its own",
        '    if present and present != manifest["files"].get(name):\n',
        "    if False:\n",
        "tests/test_install.py -k Install",
    ),
    (
        "removes what somebody has edited",
        "            elif _digest_of(path) != digest:\n",
        "            elif False:\n",
        "tests/test_install.py -k Uninstall",
    ),
]

# --- what people look at ---------------------------------------------------------------------

WEB = "tests/test_web.py"
LOG = "tests/test_logview.py"
VIEW = "tests/test_watchview.py"

_WEB = [
    (
        "listens where other hosts get at it",
        "    if _is_here(host) and re.fullmatch(",
        "    if host and re.fullmatch(",
        f"{WEB} -k TestAddress",
    ),
    (
        "answers to any name, though it may have been rebound",
        "    if checks_host and (len(hosts) != 1 or not _is_our_name(hosts[0])):\n",
        "    if checks_host and len(hosts) != 1:\n",
        f"{WEB} -k other_names",
    ),
    (
        "takes the first of two names",
        "    if checks_host and (len(hosts) != 1 or not _is_our_name(hosts[0])):\n",
        "    if checks_host and not (hosts and _is_our_name(hosts[0])):\n",
        f"{WEB} -k no_name_or_two",
    ),
    (
        "lets everybody use its socket",
        "    before = os.umask(0o177)\n",
        "    before = os.umask(0)\n",
        f"{WEB} -k owners_alone",
    ),
    (
        "removes whatever is where its socket shall be",
        "    if not stat.S_ISSOCK(mode):\n",
        "    if False:\n",
        f"{WEB} -k nobody_elses_place",
    ),
    (
        "takes the socket of a server that runs",
        "            peer.connect(path)\n        except ConnectionRefusedError:\n",
        "            peer.connect(path)\n            raise ConnectionRefusedError\n        except ConnectionRefusedError:\n",
        f"{WEB} -k nobody_elses_place",
    ),
    (
        "serves what is not to look",
        '    if match[1] not in ("GET", "HEAD"):\n',
        "    if False:\n",
        f"{WEB} -k not_to_look",
    ),
    (
        "serves any number at once",
        "                if len(self._clients) > CONNECTIONS_MAX:\n",
        "                if False:\n",
        f"{WEB} -k more_than_can_be_served",
    ),
    (
        "asks the sessions for each who looks",
        "            if time.monotonic() - self._told_at >= FRESH_S:\n",
        "            if True:\n",
        f"{WEB} -k asked_once",
    ),
    (
        "lets a page load what it likes",
        "\"default-src 'none'; script-src 'self'; style-src 'self'; \"\n",
        "\"default-src *; script-src 'self'; style-src 'self'; \"\n",
        f"{WEB} -k what_a_browser_may_do",
    ),
]

_METRICS = [
    (
        "lets a name forge a sample",
        """    return text.replace("\\\\", r"\\\\").replace("\\n", r"\\n").replace('"', r"\\"")\n""",
        "    return text\n",
        f"{WEB} -k cannot_be_forged",
    ),
]

_OVERVIEW = [
    (
        "calls a host well whose session has failed",
        "        ill = ill or ails or bool(each.get(\"trouble\"))\n",
        "        ill = ill or bool(each.get(\"trouble\"))\n",
        "tests/test_overview.py -k TestHealth",
    ),
    (
        "calls a host well on which nothing runs",
        "    return runs and not ill, lines\n",
        "    return not ill, lines\n",
        "tests/test_overview.py -k TestHealth",
    ),
    (
        "takes one that was killed for one that was stopped",
        "    failed = not session.stopped and (bool(pid) or bool(facts.get(\"exit\")))\n",
        "    failed = not session.stopped and bool(facts.get(\"exit\"))\n",
        "tests/test_overview.py -k was_killed",
    ),
]

_WATCHVIEW = [
    (
        "lets a name move the cursor",
        "    text = harmless(text)\n    if text.isascii():\n",
        "    if text.isascii():\n",
        f"{VIEW} -k 'TestFit or whatever_the_window'",
    ),
    (
        "leaves the terminal as it has made it",
        "                    termios.tcsetattr(self._in, termios.TCSANOW, before)\n",
        "                    pass\n",
        f"{VIEW} -k left_as_it_was",
    ),
]

_LOGVIEW = [
    (
        "leaves a file that is moved away before it has been read",
        "            is_last = not self._is_replaced()\n",
        "            is_last = not self._is_replaced()\n            if not is_last:\n                self.close()\n                continue\n",
        f"{LOG} -k moved_away",
    ),
    (
        "prints half a line",
        '            *lines, self._rest = (self._rest + chunk).split(b"\\n")\n',
        '            lines, self._rest = (self._rest + chunk).split(b"\\n"), b""\n',
        f"{LOG} -k what_is_written",
    ),
    (
        "prints what could move the cursor",
        '        print("\\n".join(harmless(line) for line in record.text.split("\\n")))\n',
        "        print(record.text)\n",
        f"{LOG} -k move_a_cursor",
    ),
    (
        "takes the lines of one file for the last of all",
        "(not found or found[0].time >= logs.whole_since)\n",
        "True\n",
        f"{LOG} -k of_the_shortest",
    ),
]

_PACE = [
    (
        "tells a lag that is too small",
        "            slots[-1] = _Slot(began, now, mark, applied, moved)\n",
        "            slots[-1] = _Slot(now, now, mark, applied, moved)\n",
        "tests/test_pace.py -k TestLag",
    ),
    (
        "grows without bound",
        "        if len(slots) > _SLOTS_MAX:\n",
        "        if False:\n",
        "tests/test_pace.py -k TestLag",
    ),
]

GUARDS: list[Guard] = [
    Guard(what, file, old, new, tests)
    for file, guards in [
        ("psync/helpers.py", _HELPERS),
        ("psync/holding.py", _HOLDING),
        ("psync/quarantine.py", _QUARANTINE),
        ("psync/recovery.py", _RECOVERY),
        ("psync/intents.py", _INTENTS),
        ("psync/staging.py", _STAGING),
        ("psync/conflicts.py", _CONFLICTS),
        ("psync/syscalls.py", _SYSCALLS),
        ("psync/core/entry.py", _ENTRY),
        ("psync/agent.py", _AGENT),
        ("psync/claim.py", _CLAIM),
        ("psync/lock.py", _LOCK),
        ("psync/wire.py", _WIRE),
        ("psync/scan.py", _SCAN),
        ("psync/known.py", _KNOWN),
        ("psync/filter.py", _FILTER),
        ("cinotify/watch.c", _CINOTIFY),
        ("psync/watch.py", _WATCH),
        ("psync/core/reconcile.py", _RECONCILE),
        ("psync/core/guard.py", _GUARD),
        ("psync/core/survey.py", _SURVEY),
        ("psync/core/session.py", _SESSION),
        ("psync/core/news.py", _NEWS),
        ("psync/core/carry.py", _CARRY),
        ("psync/core/replica.py", _REPLICA),
        ("psync/core/ignore.py", _IGNORE),
        ("psync/core/session.py", _HIDING),
        ("psync/transfers.py", _TRANSFERS),
        ("psync/core/pair.py", _PAIR),
        ("psync/core/recall.py", _RECALL),
        ("psync/core/moves.py", _MOVES),
        ("psync/core/archive.py", _ARCHIVE),
        ("psync/audit_merge.py", _AUDIT_MERGE),
        ("psync/audit_rules.py", _AUDIT_RULES),
        ("psync/effects/state.py", _STATE),
        ("psync/control.py", _CONTROL),
        ("psync/forced.py", _FORCED),
        ("psync/brain.py", _BRAIN),
        ("psync/overseer.py", _OVERSEER),
        ("psync/runcheck.py", _RUNCHECK),
        ("psync/install.py", _INSTALL),
        ("psync/web.py", _WEB),
        ("psync/metrics.py", _METRICS),
        ("psync/overview.py", _OVERVIEW),
        ("psync/watchview.py", _WATCHVIEW),
        ("psync/logview.py", _LOGVIEW),
        ("psync/pace.py", _PACE),
        ("tests/simulation/agent.py", _WORLD_AGENT),
        ("tests/simulation/world.py", _WORLD),
        ("psync/core/reconcile.py", _WORLD_RECONCILE),
        ("psync/core/session.py", _WORLD_SESSION),
        ("psync/core/carry.py", _WORLD_CARRY),
        ("psync/core/news.py", _WORLD_NEWS),
    ]
    for what, old, new, tests in guards
]
