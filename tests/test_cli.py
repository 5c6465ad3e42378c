"""The command as a user meets it: a real `python -m psync`, its exit code and what it prints."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from psync.effects.state import SessionDir
from psync.grammar import VERBS

SIGNALLED = """
import os, signal
from psync import cli

class Signalled:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)

signal.signal(signal.SIGTERM, cli._end_at_once)
Signalled()
print("pending:", *(each.name for each in signal.sigpending()))
"""

HERE = Path(__file__).parents[1]

# A session's process as far as the socket goes: it answers what the brain answers.
SESSION = """
import asyncio, os, sys
from pathlib import Path
from psync.control import ControlServer
from psync.errors import PsyncError

side = {"host": "this host", "root": "/srv/x", "connected": True, "entries": 1234, "applied": 5,
        "bytes": 4200000, "trouble": ""}

version = {"kind": "file", "size": 1200, "time": "2026-11-22T00:15:00Z"}
waits = {"side": "both", "path": "f", "kept": "", "reason": "ask", "left": version,
         "right": version | {"kind": "directory"}}

async def main(directory):
    over = asyncio.Event()

    async def answer(verb, args):
        if verb == "status":
            return {"name": directory.name, "pid": os.getpid(), "state": "watching", "pending": 0,
                    "conflicts": 1, "problems": 3, "halted": "", "left": side,
                    "right": side | {"connected": False, "trouble": "cut\\x1b[2J"},
                    "problem_list": [{"side": "left", "path": "a", "message": "full"}],
                    "conflict_list": ["f"]}
        if verb == "sync":
            return {"changes": 1} | ({"plan": ["would remove f"]} if args["dry_run"] else {})
        if verb == "flush" and args["timeout"] < 1:
            raise PsyncError("not everything is on both sides")
        if verb == "flush" and args["timeout"] >= 1000:
            print("asked", flush=True)
            await asyncio.Event().wait()
        if verb == "trash" and args.get("action") == "empty":
            print("empties", *args["sides"], flush=True)
            part = {"count": 2000, "waiting": 0, "troubles": ["left is away"], "sides": ["right"]}
            return {**part, "waiting": 9, "troubles": [], "sides": []} if args["sides"] else part
        if verb == "trash":
            return [{"side": "left", "kept": "", "trouble": "left is not connected"},
                    {"side": "right", "path": "f", "kept": "0002", "reason": "deleted"}]
        if verb == "conflicts" and args.get("action") == "take":
            raise PsyncError(f"{args['path']}: taken from the {args['side']}")
        if verb == "conflicts" and args.get("action") == "show":
            told = {"names": ["left", "right"], "content": args["kept"], "present": "YgpjCg=="}
            return waits | told
        if verb == "conflicts":
            return [waits, {"side": "left", "path": "a\\\\nb", "kept": "0001"}]
        if verb == "resume" and not args["accept_deletes"]:
            raise PsyncError("the session has halted")
        if verb == "stop" and directory.name == "busy":
            raise PsyncError("the session serves too many requests at once; try again")
        if verb == "stop":
            over.set()

    server = ControlServer(directory, answer)
    await server.start()
    print("ready", flush=True)
    await over.wait()
    await server.close()

asyncio.run(main(Path(sys.argv[1])))
"""

# One that has its lock, and no socket yet.
STARTING = """
import signal, sys
from pathlib import Path
from psync.effects.state import SessionDir

session = SessionDir(Path(sys.argv[1]), "home")
session.lock()
session.mark_stopped(on_purpose=False)
print("ready", flush=True)
signal.pause()
"""

SIDE = "this host /srv/x: 1,234 entries, 5 changes made, 4.2 MB"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def psync(state: Path, tmp_path: Path):
    """Run the command; return what became of it."""

    def run(*args: str, **more) -> subprocess.CompletedProcess[str]:
        env = os.environ | {
            "PSYNC_STATE_DIR": str(state),
            "PYTHONPATH": str(HERE),
            "XDG_CONFIG_HOME": str(tmp_path / "config"),
        }
        return subprocess.run(
            [sys.executable, "-m", "psync", *args],
            **{"env": env, "cwd": tmp_path, "timeout": 30, "text": True, "errors": "replace"}
            | {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
            | more,
            check=False,
        )

    return run


@pytest.fixture
def session(state: Path):
    """Start sessions by name."""
    started = []

    def start(name: str) -> subprocess.Popen[str]:
        directory = SessionDir(state, name).path
        directory.mkdir(parents=True)
        process = subprocess.Popen(
            [sys.executable, "-c", SESSION, directory],
            stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(HERE)},
        )  # fmt: skip
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in started:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()
        process.stdout.close()


def refused(done: subprocess.CompletedProcess[str], code: int = 2) -> str:
    """Check that the command refused as it should; return what it said."""
    assert done.stdout == ""
    assert done.stderr.startswith("psync: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.returncode == code
    return done.stderr


class TestGrammar:
    def test_helps(self, psync):
        done = psync("--help")

        assert done.returncode == 0
        assert all(verb in done.stdout for verb in VERBS)

    @pytest.mark.parametrize("verb", [v for v in VERBS if v != "agent"])
    def test_helps_with_each_verb(self, psync, verb):
        done = psync(verb, "--help")

        assert done.returncode == 0
        assert f"psync {verb}" in done.stdout

    def test_shows_all_twelve_options_of_the_original(self, psync):
        done = psync("run", "--help")

        for option in (
            "-h, --help", "-r HOST, --remote-host", "-d N, --debug", "-t RE, --tempfiles",
            "-e RE, --excludes", "--rsync-excludes", "-x OPT, --extra", "-b PROGRAM, --banned",
            "-T FROM:TO, --translate", "-n, --dry-run", "-s, --sync-only",
            "-k, --skip-initial-sync", "-f, --force",
        ):  # fmt: skip
            assert option in done.stdout

    def test_says_its_version(self, psync):
        assert psync("--version").stdout.startswith("psync 0.")

    @pytest.mark.parametrize(
        ("args", "said"),
        [
            ([], "nothing to do"),
            (["-r"], "argument -r/--remote-host: expected one argument"),
            (["-r", "host"], "two roots are needed"),
            (["-r", "host", "/l"], "two roots are needed"),
            (["/l"], "two roots are needed, LEFT and RIGHT: /l is only one"),
            (["-r", "host", "/l", "/r", "/x"], "two roots are needed"),
            (["-r", "", "/l", "/r"], "'' is no host name"),
            (["-r", "-n", "/l", "/r"], "'-n' is no host name"),
            (["-d", "loud", "/l", "/r"], "invalid int value: 'loud'"),
            (["-d", "4", "/l", "/r"], "debug: Expected int <= 3"),
            (["-e", "(", "/l", "/r"], "excludes: 're:(' is no regular expression"),
            (["-T", "x", "/l", "/r"], "translate: 'x' is not FROM:TO"),
            (["-b", "--", "/l", "/r"], "expected one argument"),
            (["--name", "a/b", "/l", "/r"], "is no name for a session"),
            (["--name", "", "/l", "/r"], "'' is no name for a session"),
            (["sync", "--name=", "/l", "/r"], "'' is no name for a session"),
            (["--set", "settle", "/l", "/r"], "is not KEY=VALUE"),
            (["--set", "settl_ms=1", "/l", "/r"], "unknown key settl_ms: did you mean settle_ms?"),
            (["--set", "left=/x", "--bogus"], "unrecognized arguments: --bogus"),
            (["statsu"], "neither a verb (run, sync, start"),
            (["sync", "statsu"], "psync: there is no configuration file"),
            (["run", "--config", "/nowhere", "home"], "cannot read /nowhere"),
            (["/same", "/same/"], "left and right are the same directory"),
            (["a\nb\x1b[2J", "/r"], "does not exist"),
            (["status", "a", "b"], "unrecognized arguments: b"),
            (["status", "../x"], "is no name for a session"),
            (["flush", "--timeout", "soon"], "invalid number of seconds value: 'soon'"),
            (["flush", "--timeout", "nan"], "invalid number of seconds value: 'nan'"),
            (["config", "show", "--json", "a", "b"], "unrecognized arguments: b"),
            (["config", "show", "a", "--bogus"], "unrecognized arguments: --bogus"),
            (["trust"], "the following arguments are required: HOST"),
            (["trust", "-oProxyCommand=x"], "the following arguments are required: HOST"),
            (["trust", "no such host"], "'no such host' is no host name"),
        ],
    )
    def test_refuses_in_one_line(self, psync, args, said):
        assert said in refused(psync(*args))

    @pytest.mark.parametrize(
        "args", [["left", "/r"], ["sync", "/l", "right"], ["--state-dir", "x", "status"]]
    )
    def test_refuses_a_relative_path_where_the_current_directory_is_gone(
        self, psync, tmp_path, args
    ):
        gone = tmp_path / "gone"
        gone.mkdir()

        done = psync(*args, cwd=gone, preexec_fn=gone.rmdir)

        assert "the current directory is gone" in refused(done)

    @pytest.mark.parametrize(
        ("args", "code", "said"),
        [
            (["runcheck", "--bogus"], 3, "unrecognized arguments: --bogus"),
            (["runcheck", "--after", "0"], 3, "invalid number from 1 to 1000 value: '0'"),
            (["runcheck", "--lag", "0"], 3, "invalid number of seconds, above 0"),
            (["--state-dir", "x", "runcheck", "--lag", "x"], 3, "invalid number of seconds"),
            (["check", "--alert-threshold", "-1"], 1, "invalid number value: '-1'"),
        ],
    )
    def test_refuses_with_the_code_that_a_monitoring_system_understands(
        self, psync, args, code, said
    ):
        assert said in refused(psync(*args), code)

    @pytest.mark.parametrize(
        "args",
        [["--json", "--config", "FILE", "home"], ["--config", "FILE", "home", "--json"],
         ["home", "--config", "FILE", "--json"]],
    )  # fmt: skip
    def test_takes_a_word_before_and_after_options(self, psync, tmp_path, args):
        file = tmp_path / "psync.toml"
        file.write_text("[session.home]\nleft='/l'\nright='/r'\n[session.b]\nleft='/b'\nright='/c'")

        done = psync("config", "show", *(str(file) if a == "FILE" else a for a in args))

        assert done.stderr == ""
        assert [s["name"] for s in json.loads(done.stdout)["sessions"]] == ["home"]

    def test_refuses_roots_that_are_not_there(self, psync, tmp_path):
        (tmp_path / "file").write_text("")
        (tmp_path / "left").mkdir()

        assert "/none does not exist" in refused(psync("none", "left"))
        assert "/file is not a directory" in refused(psync("file", "left"))
        assert "/host:x does not exist (on another host?" in refused(psync("left", "host:x"))

    def test_refuses_to_replicate_its_own_state_and_log(self, psync, tmp_path):
        (tmp_path / "other").mkdir()
        (tmp_path / "left").mkdir()

        said = refused(psync(str(tmp_path), "/"))
        assert "would be replicated: choose another --state-dir" in said
        said = refused(psync("--set", "log_file=left/psync.log", "left", "other"))
        assert "choose another log_file" in said

    def test_refuses_a_session_that_runs_already(self, psync, state, tmp_path):
        (tmp_path / "left").mkdir()
        (tmp_path / "right").mkdir()
        held = SessionDir(state, "home")
        held.lock()

        said = refused(psync("--name", "home", "left", "right"))
        assert f"already running (pid {os.getpid()})" in said
        held.unlock()

    def test_refuses_a_state_directory_it_cannot_use(self, psync, tmp_path):
        (tmp_path / "left").mkdir()
        (tmp_path / "right").mkdir()
        (tmp_path / "file").write_text("")

        for args in (
            ["--state-dir", "file", "left", "right"],
            ["--state-dir=file", "run", "left", "right"],
            ["--state-dir", "/proc", "sync", "left", "right"],
            ["--state-dir", "", "status"],
        ):
            assert "--state-dir" in refused(psync(*args))

    @pytest.mark.parametrize("verb", ["install", "uninstall"])
    def test_refuses_to_install_below_no_directory(self, psync, tmp_path, verb):
        said = refused(psync(verb, "--root", ""))

        assert said == "psync: --root: a directory is wanted, not nothing\n"
        assert not (tmp_path / "etc").exists()


class TestTrust:
    def test_of_a_host_that_refuses_connections_fails(self, psync):
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))  # and nobody listens
            port = closed.getsockname()[1]

            said = refused(psync("trust", f"ssh://127.0.0.1:{port}"), 1)

        assert "refuses connections" in said


class TestQuestions:
    def test_find_nothing_without_a_session(self, psync, state):
        done = psync("status")
        assert done.stdout.startswith("no session is running")
        assert done.returncode == 0
        assert json.loads(psync("status", "--json").stdout) == {"sessions": []}
        assert not state.exists()
        for verb in ("flush", "pause", "resume", "stop", "conflicts", "trash"):
            assert "no session is running" in refused(psync(verb))
            assert "session home is not running" in refused(psync(verb, "home"))

    @pytest.mark.parametrize("more", [[], ["--json"], ["--watch"]])
    def test_find_no_session_that_there_never_was(self, psync, state, tmp_path, more):
        assert "no session 'nosuch'; none has run in" in refused(psync("status", "nosuch", *more))
        config = tmp_path / "config/psync/psync.toml"
        config.parent.mkdir(parents=True)
        config.write_text("[session.home]\n")
        SessionDir(state, "old").make()

        said = refused(psync("status", "nosuch", *more))

        assert said == "psync: no session 'nosuch'; there are: home, old\n"
        for name in ("home", "old"):
            done = psync("status", name)
            assert done.stdout.startswith(f"session {name} is not running")
            assert done.returncode == 2
            done = psync("status", "--json", name)
            assert (json.loads(done.stdout), done.returncode) == ({"sessions": []}, 2)

    def test_show_no_session_to_a_browser_that_there_never_was(self, psync, tmp_path):
        config = tmp_path / "psync.toml"
        config.write_text("[session.home]\n")

        said = refused(psync("web", "nosuch", "--config", config, "--listen", "127.0.0.1:0"))

        assert said == "psync: no session 'nosuch'; there are: home\n"

    def test_pass_by_a_session_that_is_dead(self, psync, state, session):
        session("home")
        dead = SessionDir(state, "dead")
        dead.lock()
        dead.unlock()
        with socket.socket(socket.AF_UNIX) as gone:
            gone.bind(str(dead.path / "control"))

        answer = json.loads(psync("status", "--json").stdout)

        assert [s["name"] for s in answer["sessions"]] == ["home"]
        assert psync("flush").returncode == 0

    def test_are_answered_for_people(self, psync, session):
        pid = session("home").pid

        assert psync("status").stdout.splitlines() == [
            f"home: watching (pid {pid})",
            f"  left   {SIDE}",
            f"  right  {SIDE}; not connected: cut\\x1b[2J",
            "  pending 0, conflicts 1, problems 3",
            "  conflict: f: waits for psync conflicts --take left|right PATH",
            "  problem: left a: full",
            "  and 2 problems more",
        ]
        version = "1,200 bytes, 2026-11-22T00:15:00Z"
        assert psync("conflicts").stdout.splitlines() == [
            f"both  f  ask  left: file, {version}  right: directory, {version}",
            "left  a\\nb  0001",
        ]

    def test_are_answered_for_programs(self, psync, session):
        session("home")

        (_, told) = json.loads(psync("conflicts", "--json").stdout)["conflicts"]
        assert told == {"session": "home", "side": "left", "path": "a\\nb", "kept": "0001"}
        (told,) = json.loads(psync("status", "--json", "home").stdout)["sessions"]
        assert told["name"] == "home"
        assert told["left"]["entries"] == 1234

    def test_are_answered_with_what_a_full_sync_did(self, psync, session, state):
        session("home")
        SessionDir(state, "home").describe({"options": {"left": "/x", "right": "/y"}})

        assert psync("sync", "home").stdout == "1 change was made\n"
        told = json.loads(psync("sync", "home", "--json").stdout)
        assert told == {"name": "home", "changes": 1}
        told = json.loads(psync("sync", "-n", "home", "--json").stdout)
        assert told == {"name": "home", "changes": 1, "plan": ["would remove f"]}

    def test_for_programs_are_asked_of_sessions_that_run_only(self, psync):
        options = ("/x", "/y", "--name", "home", "--json")

        assert "session home is not running" in refused(psync("sync", *options))

    def test_are_answered_with_the_side_that_is_to_win(self, psync, session):
        session("home")

        for args in (["home", "--take", "left", "d/f"], ["--take", "right", "d/f", "home"]):
            side = next(a for a in args if a in ("left", "right"))
            told = refused(psync("conflicts", *args), 1)
            assert f"d/f: taken from the {side}" in told
        assert "--take left PATH or --take right PATH" in refused(
            psync("conflicts", "--take", "both", "f")
        )
        assert psync("conflicts", "--take", "left").returncode == 2

    def test_list_and_empty_the_trash(self, psync, session):
        process = session("home")

        assert psync("trash").stdout.splitlines() == [
            "left  left is not connected",
            "right  f  0002  deleted",
        ]
        assert len(json.loads(psync("trash", "--json").stdout)["trash"]) == 2
        emptied = psync("trash", "--empty")
        assert emptied.stdout == (
            "4,000 versions dropped; 9 more will come to it within a minute or so\n"
        )
        emptied.stdout = ""
        told = refused(emptied, 1)
        assert "some of it may be left: left is away" in told
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == ["empties\n", "empties right\n"]
        assert "unrecognized arguments" in refused(psync("trash", "--take", "left", "f"))

    def test_compare_both_versions_of_a_conflict_that_waits(self, psync, session):
        session("home")

        shown = psync("conflicts", "--diff", "YQpjCg==")  # what the left says; here it tells itself
        assert shown.stdout.splitlines() == [
            "--- f (left)", "+++ f (right)", "@@ -1,2 +1,2 @@", "-a", "+b", " c",
        ]  # fmt: skip
        assert "f waits for a word" in refused(psync("conflicts", "--show", "YQpjCg=="), 1)

    def test_take_the_state_directory_before_or_after_the_verb(self, psync, session, state):
        session("home")
        env = {k: v for k, v in os.environ.items() if k != "PSYNC_STATE_DIR"}
        env["PYTHONPATH"] = str(HERE)

        for args in (
            ["--state-dir", str(state), "flush"],
            [f"--state-dir={state}", "flush", "home"],
            ["flush", "home", "--state-dir", str(state)],
        ):
            assert psync(*args, env=env).returncode == 0

    def test_list_what_all_sessions_keep_where_none_is_named(self, psync, session):
        session("b")
        session("a")

        listed = psync("conflicts").stdout.splitlines()
        assert [line.split()[0] for line in listed] == ["a", "a", "b", "b"]
        assert "b  left  a\\nb  0001" in listed
        assert len(json.loads(psync("trash", "--json").stdout)["trash"]) == 4
        assert psync("trash", "b").stdout.splitlines()[1] == "right  f  0002  deleted"
        for action in (["--drop", "0001"], ["--show", "0001"]):
            assert "a, b; name one" in refused(psync("conflicts", *action))
        assert "a, b; name one" in refused(psync("trash", "--empty"))

    def test_need_a_name_when_there_are_several(self, psync, session):
        session("b")
        session("a")

        assert "several sessions are running: a, b; name one" in refused(psync("stop"))
        assert psync("flush", "b").returncode == 0
        assert len(json.loads(psync("status", "--json").stdout)["sessions"]) == 2

    def test_return_what_the_session_says(self, psync, session):
        session("home")

        assert psync("flush").returncode == 0
        assert psync("pause").returncode == 0
        assert "session home: not everything" in refused(psync("flush", "--timeout", "0.5"), 1)
        assert "session home: the session has halted" in refused(psync("resume"), 1)
        assert psync("resume", "--accept-deletes").returncode == 0

    def test_wait_for_the_end_of_a_session(self, psync, session):
        process = session("home")

        assert psync("stop").returncode == 0
        assert process.poll() == 0

    def test_end_the_others_too_where_one_cannot_be_ended(self, psync, session):
        processes = [session("b"), session("c")]

        done = psync("stop", "b", "gone", "c", "b")

        assert (done.returncode, done.stderr) == (2, "psync: session gone is not running\n")
        assert [process.wait(10) for process in processes] == [0, 0]

    @pytest.mark.parametrize("words", [("home",), (), ("--all",)])
    def test_end_a_session_that_is_just_starting(self, psync, state, words):
        process = subprocess.Popen(
            [sys.executable, "-c", STARTING, state],
            stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(HERE)},
        )  # fmt: skip
        with process:
            assert process.stdout.readline() == "ready\n"
            done = psync("stop", *words)
            goes_on = process.poll() is None
            process.kill()

        assert (done.returncode, done.stderr) == (0, "")
        assert not goes_on
        assert SessionDir(state, "home").stopped
        assert "session home is not running" in refused(psync("stop", "home"))

    def test_end_no_process_that_only_has_the_number_of_one_that_was_killed(self, psync, state):
        session = SessionDir(state, "home")
        session.make()
        with subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"]) as innocent:
            (session.path / "lock").write_text(f"{innocent.pid}\n")
            said = refused(psync("stop", "home"))
            goes_on = innocent.poll() is None
            innocent.kill()

        assert said == "psync: session home is not running\n"
        assert goes_on
        assert session.stopped  # it is to stay away

    def test_do_not_note_that_one_is_stopped_that_goes_on(self, psync, session, state):
        process = session("busy")

        assert "too many requests" in refused(psync("stop", "busy"), 1)
        assert process.poll() is None
        assert not SessionDir(state, "busy").stopped

    def test_say_when_a_session_does_not_answer(self, psync, session, state):
        session("b")
        stuck = session("a")
        stuck.send_signal(signal.SIGSTOP)

        done = psync("status", "--json")

        line = f"session a did not answer in time (pid {stuck.pid})"
        silent, answered = json.loads(done.stdout)["sessions"]
        assert (silent["name"], silent["state"], silent["trouble"]) == ("a", "unanswered", line)
        assert (answered["name"], answered["state"]) == ("b", "watching")
        assert (done.returncode, done.stderr) == (1, f"psync: {line}\n")

    def test_of_runcheck_are_answered_as_asked_also_where_there_is_no_answer(self, psync):
        done = psync("runcheck", "--json", "nosuch")

        assert done.returncode == 3
        told = json.loads(done.stdout)
        assert told["sessions"] == []
        assert told["error"].startswith("no session 'nosuch' is configured")


class TestOutput:
    @pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
    def test_is_readable_where_a_name_cannot_be_shown(self, psync, state, encoding):
        directory = SessionDir(state, "home").path
        directory.mkdir(parents=True)
        line = "[2026-11-30 18:33:09.658] [INF:+0] [L] [home] transition.applied path={} what=new"
        (directory / "psync.log").write_text(line.format("\u20ac") + "\n", encoding="utf-8")
        env = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONPATH": str(HERE)}

        done = psync("log", "--state-dir", str(state), env=env)
        missing = psync("config", "check", "\u20ac.toml", env=env)

        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == line.format("\\u20ac") + "\n"
        assert missing.stderr == "psync: cannot read \\u20ac.toml: No such file or directory\n"

    def test_to_a_closed_pipe_is_no_fault(self, psync):
        read, write = os.pipe()
        os.close(read)
        done = psync("status", stdout=write)
        os.close(write)

        assert done.stderr == ""
        assert done.returncode == 128 + signal.SIGPIPE

    def test_to_a_full_disk_is_said_in_one_line(self, psync):
        with open("/dev/full", "w") as full:
            done = psync("status", stdout=full)

        assert done.stderr == "psync: No space left on device\n"
        assert done.returncode == 1

    def test_without_any_terminal_works(self, psync):
        done = psync("status", preexec_fn=lambda: [os.close(fd) for fd in (0, 1, 2)])

        assert done.returncode == 0

    def test_costs_no_import_that_it_does_not_need(self):
        """Cron asks every minute: what only a session needs is not imported for a question."""
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", "psync", "status"],
            env=os.environ | {"PYTHONPATH": str(HERE), "PSYNC_STATE_DIR": "/nowhere"},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        modules = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}

        assert "psync.cli" in modules
        for heavy in ("asyncio", "apsw", "msgspec", "structlog", "asyncssh", "logging", "tomllib"):
            assert heavy not in modules


class TestRun:
    """A real session between two directories of this machine."""

    @pytest.fixture
    def roots(self, tmp_path):
        for side in ("left", "right"):
            (tmp_path / side).mkdir()
        return tmp_path / "left", tmp_path / "right"

    @pytest.fixture
    def start(self, roots, state):
        started = []

        def run(*args: str) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                [sys.executable, "-m", "psync", *args, *map(str, roots)],
                env=os.environ | {"PSYNC_STATE_DIR": str(state), "PYTHONPATH": str(HERE)},
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                text=True, preexec_fn=hear_hangup,  # noqa: PLW1509  # no threads
            )  # fmt: skip
            started.append(process)
            return process

        yield run
        for process in started:
            process.kill()
            process.communicate()

    def until(self, process: subprocess.Popen[str], word: str) -> str:
        for line in process.stdout:
            if word in line:
                return line
        raise AssertionError(f"it ended ({process.wait()}) without saying {word}")

    def test_replicates_until_it_is_stopped(self, start, psync, roots, state):
        process = start("--name", "home")
        self.until(process, "watching")
        (roots[0] / "a").write_text("from the left")
        (roots[1] / "b").write_text("from the right")

        assert psync("flush", "--timeout", "20").returncode == 0
        assert (roots[1] / "a").read_text() == "from the left"
        assert (roots[0] / "b").read_text() == "from the right"
        (told,) = json.loads(psync("status", "--json").stdout)["sessions"]
        assert (told["name"], told["pid"], told["state"]) == ("home", process.pid, "watching")
        assert psync("stop").returncode == 0
        assert process.wait(timeout=0) == 0
        facts = json.loads((state / "sessions" / "home" / "session.json").read_text())
        assert (facts["left"], facts["right"], facts["host"]) == (*map(str, roots), None)
        assert '[INF:+0] [B] [home] session.stopped message="stopped: psync stop"' in (
            (state / "sessions" / "home" / "psync.log").read_text()
        )

    def test_ends_well_on_a_signal(self, start, state):
        for number in (signal.SIGTERM, signal.SIGINT):
            process = start("--name", "home")
            self.until(process, "watching")
            process.send_signal(number)

            assert process.wait(timeout=20) == 0
            log = (state / "sessions" / "home" / "psync.log").read_text()
            assert f"stopped: {number.name}" in log, "who ended it can be read there"

    def test_ends_well_on_a_signal_at_any_time_of_its_start(self, start):
        """Also before there is a loop that minds signals."""
        process = start()
        while not caught(process.pid) >> (signal.SIGTERM - 1) & 1:
            pass
        process.send_signal(signal.SIGTERM)

        assert process.wait(timeout=20) == 0

    def test_does_not_forget_a_signal_that_comes_where_no_exception_gets_out(self):
        """Of a destructor, for one: the brain then hears of it as soon as it minds signals."""
        done = subprocess.run(
            [sys.executable, "-c", SIGNALLED], capture_output=True, text=True, check=False
        )

        assert "Exception ignored" in done.stderr
        assert done.stdout == "pending: SIGTERM\n"

    def test_synchronizes_once(self, psync, roots):
        (roots[0] / "a").write_text("from the left")

        for args in (["sync"], ["-s"]):
            done = psync(*args, *map(str, roots))
            assert done.returncode == 0, done.stderr
            assert done.stderr == ""
        assert (roots[1] / "a").read_text() == "from the left"

    def test_runs_as_configured(self, psync, roots, tmp_path):
        (tmp_path / "config" / "psync").mkdir(parents=True)
        (tmp_path / "config" / "psync" / "psync.toml").write_text(
            f'[session.home]\nleft = "{roots[0]}"\nright = "{roots[1]}"\nlog_format = "json"\n'
            f'log_file = "{tmp_path}/home.log"\n'
        )
        (roots[1] / "b").write_text("from the right")

        assert psync("sync", "home").returncode == 0
        assert (roots[0] / "b").read_text() == "from the right"
        lines = (tmp_path / "home.log").read_text().splitlines()
        assert {json.loads(line)["session"] for line in lines} == {"home"}

    def test_refuses_a_second_session_on_the_pair(self, start, psync, roots):
        first = start()
        self.until(first, "watching")

        assert f"already running (pid {first.pid})" in refused(psync(*map(str, roots)))

    def test_opens_its_log_again_on_hangup(self, start, psync, state):
        process = start("--name", "home")
        self.until(process, "watching")
        log = state / "sessions" / "home" / "psync.log"
        log.rename(log.with_suffix(".1"))
        process.send_signal(signal.SIGHUP)

        assert psync("stop").returncode == 0
        assert process.wait(timeout=0) == 0
        assert "session.stopped" in log.read_text()


def hear_hangup() -> None:
    """Undo nohup, that the tests may have been started with: psync would heed it."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def caught(pid: int) -> int:
    """The mask of the signals that a process handles."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("SigCgt:"):
            return int(line.split()[1], 16)
    return 0


class TestInterrupt:
    def test_ends_a_question_quietly(self, session, state):
        asked = session("home").stdout
        process = subprocess.Popen(
            [sys.executable, "-m", "psync", "flush", "--timeout", "1000"],
            env=os.environ | {"PSYNC_STATE_DIR": str(state), "PYTHONPATH": str(HERE)},
            stderr=subprocess.PIPE,
        )
        assert asked.readline() == "asked\n"
        process.send_signal(signal.SIGINT)

        _, said = process.communicate(timeout=10)
        assert process.returncode == 128 + signal.SIGINT
        assert said == b""


class TestLauncher:
    """psync.py, in a checkout."""

    def launch(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        env = {"PATH": os.environ["PATH"], "PSYNC_STATE_DIR": "/nowhere"}
        return subprocess.run(
            command, capture_output=True, text=True, env=env, timeout=30, check=False
        )

    def test_is_psync(self):
        done = self.launch(sys.executable, HERE / "psync.py", "status")

        assert done.stdout == "no session is running (state directory /nowhere)\n"
        assert (done.returncode, done.stderr) == (0, "")

    def test_says_in_one_line_what_is_missing(self, tmp_path):
        launcher = shutil.copy(HERE / "psync.py", tmp_path)

        done = self.launch(sys.executable, "-S", launcher, "status")

        assert done.stderr == (
            "psync: apsw, asyncssh, msgspec, structlog not found: "
            f"run  {tmp_path}/scripts/prepare run\n"
        )
        assert done.returncode == 2

    def test_goes_on_in_the_environment_of_the_checkout(self, tmp_path):
        launcher = shutil.copy(HERE / "psync.py", tmp_path)
        python = tmp_path / ".venv" / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text('#!/bin/sh\necho "$@"\n')
        python.chmod(0o755)

        done = self.launch(sys.executable, "-S", launcher, "-r", "host", "a b")

        assert done.stdout == f"{launcher} -r host a b\n"


class TestNames:
    def test_of_two_sessions_are_no_two_roots(self, psync, tmp_path):
        file = tmp_path / "psync.toml"
        file.write_text("".join(f"[session.{n}]\nleft='/{n}'\nright='/r/{n}'\n" for n in "ab"))

        said = refused(psync("run", "--config", str(file), "a", "b"))
        other = refused(psync("run", "--config", str(file), "a", "c"))
        (tmp_path / "a").mkdir()
        roots = refused(psync("run", "--config", str(file), "a", "b"))

        assert said == (
            "psync: a and b are sessions; this takes one, or two roots, LEFT and RIGHT: "
            "psync start a b runs both\n"
        )
        assert f"{tmp_path}/a does not exist" in other
        assert f"{tmp_path}/b does not exist" in roots


class TestConfig:
    def test_that_is_right_is_said_to_be(self, psync, tmp_path):
        file = tmp_path / "psync.toml"
        file.write_text('[session.a]\nleft = "/a"\nright = "/b"\n[alerts]\ncommand = ["sh"]\n')

        done = psync("config", "check", str(file))

        assert done.returncode == 0
        assert done.stdout == f"{file}: 1 session, nothing wrong\n"
        assert psync("--config", str(file), "config", "check").returncode == 0

    def test_that_has_trouble_told_to_nobody_is_wondered_at(self, psync, tmp_path):
        file = tmp_path / "psync.toml"
        file.write_text('[session.a]\nleft = "/a"\nright = "/b"\n')

        done = psync("config", "check", str(file))

        assert done.returncode == 0
        assert done.stdout.startswith(f"{file}: [alerts] names nobody: ")

    def test_that_is_wrong_is_refused_in_a_line(self, psync, tmp_path):
        file = tmp_path / "psync.toml"
        file.write_text('[session.a]\nleft = "/a"\nright = "/b"\nacl_from_left_only = true\n')

        said = refused(psync("config", "check", str(file)))

        assert said == f'psync: {file}: [session.a]: acl_from_left_only: say meta_from = "left"\n'
        assert "there is no configuration file" in refused(psync("config", "check"))
        assert "which one?" in refused(psync("config", "import"))

    def test_with_urls_that_nobody_knows_how_to_tell_is_refused(self, psync, tmp_path):
        pytest.importorskip("apprise")
        file = tmp_path / "psync.toml"
        file.write_text(
            "[session.a]\nleft = '/a'\nright = '/b'\n"
            "[alerts]\nurls = ['json://host', 'bogus://s3cret']\n"
        )

        said = refused(psync("config", "check", str(file)))

        what = "[alerts] urls: number 2 (bogus) is none that apprise knows how to tell"
        assert said == f"psync: {file}: {what}\n"

    def test_is_shown_for_people_and_for_programs(self, psync, tmp_path):
        file = tmp_path / "psync.toml"
        file.write_text('[session.a]\nleft = "/a"\nright = "/b"\nbanned = "x\\u001b[2J"\n')

        shown = psync("config", "show", "a", "--config", str(file))
        (session,) = json.loads(psync("config", "show", "--json", "--config", str(file)).stdout)[
            "sessions"
        ]

        assert "settle_ms = 50 " in shown.stdout
        assert "\x1b" not in shown.stdout
        assert session["keys"]["left"] == {"value": "/a", "from": "file"}

    def test_of_the_original_is_taken_over(self, psync, tmp_path):
        file = tmp_path / "config.py"
        file.write_text('dryrun = True\nrsync_style = 2\nexcludes = "\\.o$"\n')

        done = psync("config", "import", str(file))

        assert done.returncode == 0
        assert "dry_run = true" in done.stdout
        assert "# rsync_style = 2: an echo is dropped" in done.stdout
        assert "excludes = ['re:\\.o$']" in done.stdout
