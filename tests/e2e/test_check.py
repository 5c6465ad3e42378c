"""The audit: what differs is found, told apart and left as it is (issue 4, point 2)."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest

from psync.effects.state import SessionDir, sessions
from tests.e2e.changes import CHANGES, fill
from tests.e2e.pair import WAIT_S, Pair, command, tree, until
from tests.e2e.test_metadata import coarse  # noqa: F401  # a fixture
from tests.sshd import Sshd, children

EQUAL, FAILED, ALERT, NOTICE = range(4)
Fingerprint = dict[str, tuple[int, ...]]


def fingerprint(*roots: Path) -> Fingerprint:
    """All that stat tells of all there is, psync's own too; but for access times."""
    found: Fingerprint = {}
    for root in roots:
        for path in (root, *root.rglob("*")):
            st = path.lstat()
            found[str(path)] = (
                st.st_ino, st.st_mode, st.st_nlink, st.st_uid, st.st_gid, st.st_size,
                st.st_mtime_ns, st.st_ctime_ns,
            )  # fmt: skip
    return found


def check(pair: Pair, *args: str, timeout: float = WAIT_S) -> tuple[int, str]:
    """Audit the pair, whether its session runs or not: the exit code, and what was printed."""
    where = ["-r", pair.host] if pair.host else []
    done = pair.psync("check", *where, *args, str(pair.left), str(pair.right), timeout=timeout)
    return done.returncode, done.stdout + done.stderr


def report(pair: Pair, *args: str) -> dict[str, Any]:
    code, printed = check(pair, "--json", *args)
    told: dict[str, Any] = json.loads(printed)
    assert told["exit"] == code
    return told


def kinds(told: dict[str, Any]) -> dict[str, str]:
    return {each["path"]: each["kind"] for each in told["differences"]}


def rest(pair: Pair) -> None:
    """Let the pair agree on a small tree, and end its session."""
    fill(pair.left)
    pair.start()
    pair.settle()
    assert pair.stop() == 0


def behind_its_back(pair: Pair, path: Path, content: bytes) -> None:
    """Change a file so that nothing in its root tells of it: by another name, outside."""
    other = pair.base / "another name"
    before = path.stat()
    os.link(path, other)
    with other.open("r+b") as file:
        file.write(content)
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))


class TestEqual:
    def test_while_a_session_runs(self, pair: Pair) -> None:
        fill(pair.left)
        pair.start()
        pair.settle()
        before = fingerprint(*pair.left.glob("[!.]*"), *pair.right.glob("[!.]*"))
        done = pair.psync("check", "--checksum")

        assert done.returncode == EQUAL, done.stdout + done.stderr
        assert re.fullmatch(r"\S+: 7 entries compared in \S+ s: equal\n", done.stdout)
        assert done.stderr == ""
        after = fingerprint(*pair.left.glob("[!.]*"), *pair.right.glob("[!.]*"))
        assert after == before, "but for what the session does in .psync"

    def test_while_none_runs(self, pair: Pair) -> None:
        rest(pair)
        before = fingerprint(pair.left, pair.right)

        assert check(pair, "--checksum")[0] == EQUAL
        assert fingerprint(pair.left, pair.right) == before
        assert not list(pair.state.glob("sessions/*/audit.*/"))  # no copy of an archive is left

    def test_where_none_has_ever_run(self, pair: Pair) -> None:
        for root in (pair.left, pair.right):
            (root / "f").write_text("same")
            os.utime(root / "f", ns=(1, 1_000_000_001))
        before = fingerprint(pair.left, pair.right)

        assert check(pair)[0] == EQUAL
        assert fingerprint(pair.left, pair.right) == before
        assert not pair.state.exists()

    def test_but_for_what_is_not_replicated(self, pair: Pair) -> None:
        pair.options += ["-e", "/secret$", "--rsync-excludes", "*.iso"]
        rest(pair)
        (pair.left / "docs/secret").mkdir()
        (pair.left / "docs/secret/f").touch()
        (pair.right / "cd.iso").touch()
        (pair.right / "x.psync.ignore").touch()
        os.mkfifo(pair.left / "fifo")
        for path in (pair.left / "docs", pair.right / "docs"):
            os.utime(path, ns=(1, 1))

        assert check(pair)[0] == EQUAL  # with the options that it ran with last


# Of a change: one of the paths that differ then, and what is said of it.
TOLD: dict[str, tuple[str, str]] = {
    "create": ("new", "only on the {side}"),
    "delete file": ("keep", "only on the {other}"),
    "append": ("docs/report.txt", "size "),
    "file becomes symlink": ("keep", "kind "),
    "file becomes directory": ("keep", "kind "),
    "retarget symlink": ("docs/link", "target "),
    "mtimes to the nanosecond": ("keep", "mtime "),
    "modes": ("docs", "mode "),
    "attribute": ("keep", "attributes"),
}
if "owner and group" in CHANGES:
    TOLD["owner and group"] = ("docs", "owner ")


class TestDifference:
    @pytest.mark.parametrize("side", ["left", "right"])
    def test_is_found_and_on_its_way_while_nobody_brings_it(self, local: Pair, side: str) -> None:
        """Of every kind at once, each in a tree of its own."""
        pair = local
        for change in TOLD:
            fill(pair.left / change)
        pair.start()
        pair.settle()
        pair.stop()
        for change in TOLD:
            CHANGES[change](pair.root(side) / change)
        left, right = tree(pair.left), tree(pair.right)
        differ = {os.fsdecode(p) for p in left | right if left.get(p) != right.get(p)}
        before = fingerprint(pair.left, pair.right)
        told = report(pair, "--alert-threshold", "1000")

        found = {each["path"]: each["what"] for each in told["differences"]}
        other = "right" if side == "left" else "left"
        for change, (path, what) in TOLD.items():
            assert what.format(side=side, other=other) in found[f"{change}/{path}"]
        assert set(kinds(told).values()) == {"on its way"}
        assert set(found) <= differ | {"attribute/keep"}  # which `tree` does not look at
        assert told["exit"] == NOTICE
        assert told["session"] == "none"
        assert fingerprint(pair.left, pair.right) == before
        pair.start()
        pair.settle()
        assert pair.psync("check").returncode == EQUAL

    def test_is_on_its_way_while_a_session_is_paused(self, pair: Pair) -> None:
        fill(pair.left)
        pair.start()
        pair.settle()
        assert pair.psync("pause").returncode == 0
        (pair.left / "new").mkdir()
        for i in range(12):
            (pair.left / f"new/f{i}").touch()
        (pair.right / "keep").write_text("longer than before")
        until(lambda: pair.status()["pending"] >= 2, "the news")
        few = report(pair, "--alert-threshold", "1000")
        many = report(pair)

        assert few["session"] == "paused"
        assert kinds(few) == {"new": "on its way", "keep": "on its way"}
        assert few["counts"]["on its way"] == 14
        assert (few["exit"], many["exit"]) == (NOTICE, ALERT)
        assert pair.psync("resume").returncode == 0
        pair.settle()
        assert report(pair)["exit"] == EQUAL

    def test_is_told_while_a_session_has_halted(self, pair: Pair) -> None:
        for i in range(120):
            (pair.left / f"f{i}").touch()
        pair.start()
        pair.settle()
        for i in range(120):
            (pair.left / f"f{i}").unlink()
        pair.wait_for("halted")
        told = report(pair)

        assert told["session"] == "halted"
        assert told["exit"] == ALERT
        assert told["counts"]["on its way"] == len(list(pair.right.glob("f*"))) > 60

    def test_is_told_of_what_is_a_problem(self, pair: Pair) -> None:
        pair.options += ["--set", "conflict=ask"]
        fill(pair.left)
        pair.start()
        pair.settle()
        pair.psync("pause")
        (pair.left / "keep").write_text("left")
        (pair.right / "keep").write_text("the right")
        pair.psync("resume")
        until(lambda: pair.status()["conflicts"] == 1, "the question")
        told = report(pair)

        assert kinds(told) == {"keep": "differs"}
        assert "--take left|right PATH" in told["differences"][0]["what"]
        assert told["exit"] == NOTICE

    def test_arrives_while_it_is_looked_at(self, pair: Pair) -> None:
        pair.options += ["--set", "settle_ms=3000"]
        fill(pair.left)
        pair.start()
        pair.settle()
        with (pair.left / "keep").open("a") as file:
            file.write(" and more")
            file.flush()
            told = report(pair)

        assert told["exit"] == EQUAL or kinds(told) == {"keep": "on its way"}
        pair.settle()

    def test_that_is_being_made_is_never_the_worst(self, pair: Pair) -> None:
        pair.options += ["--set", "max_delete=100%"]
        fill(pair.left)
        pair.start()
        pair.settle()
        over = threading.Event()

        def write(root: Path, number: int) -> None:
            for i in itertools.cycle(range(40)):
                (root / f"by {number} {i}").write_text(f"{i} {time.time_ns()}")
                os.rename(root / f"by {number} {i}", root / f"docs/{number}.{i % 7}")
                (root / f"d{number}").mkdir(exist_ok=True)
                (root / f"d{number}/{i}").write_text("x" * i)
                if i == 39:
                    shutil.rmtree(root / f"d{number}")
                if over.wait(0.01):
                    return

        users = [threading.Thread(target=write, args=each) for each in (
            (pair.left, 1), (pair.right, 2),
        )]  # fmt: skip
        for user in users:
            user.start()
        try:
            told = [report(pair, *args) for args in ((), ("-c",), ("-l",))]
        finally:
            over.set()
            for user in users:
                user.join()

        assert [each["counts"]["believed equal"] for each in told] == [0] * 3
        pair.settle()
        assert report(pair, "-c")["exit"] == EQUAL

    def test_of_content_alone_is_believed_equal_by_a_session(self, pair: Pair) -> None:
        fill(pair.left)
        pair.start()
        pair.settle()
        behind_its_back(pair, pair.right / "docs/old/notes", b"NOTES")
        pair.flush()
        plain, told = report(pair), report(pair, "--checksum")

        assert plain["exit"] == EQUAL
        assert kinds(told) == {"docs/old/notes": "believed equal"}
        assert told["differences"][0]["what"] == "content (what was agreed is on the left)"
        assert told["exit"] == ALERT
        assert told["bytes"] == 14

    @pytest.mark.parametrize("wanted", ["changed", "agreed"])
    def test_that_is_believed_equal_is_mended_as_the_manual_says(
        self, pair: Pair, wanted: str
    ) -> None:
        fill(pair.left)
        pair.start()
        pair.settle()
        good, bad = (root / "docs/old/notes" for root in (pair.left, pair.right))
        behind_its_back(pair, bad, b"NOTES")
        pair.flush()
        if wanted == "changed":
            bad.touch()
        else:
            shutil.copyfile(good, bad)
        after = pair.settle()

        assert after[b"docs/old/notes"][-1] == (b"NOTES" if wanted == "changed" else b"notes")
        assert report(pair, "-c")["exit"] == EQUAL

    def test_of_content_alone_is_believed_equal_by_an_archive(self, pair: Pair) -> None:
        """As where a disk rots: nothing tells of it but the bytes."""
        rest(pair)
        note = pair.right / "docs/old/notes"
        st = note.stat()
        with note.open("r+b") as file:
            file.write(b"NOTES")
        os.utime(note, ns=(st.st_atime_ns, st.st_mtime_ns))
        assert kinds(report(pair, "--checksum")) == {"docs/old/notes": "on its way"}  # its ctime
        (database,) = pair.state.glob("sessions/*/archive.db")
        with apsw.Connection(str(database)) as db:
            db.execute(
                "UPDATE entry SET right_ctime_ns = ? WHERE name = ?",
                (note.stat().st_ctime_ns, b"notes"),
            )
        db.close()
        plain, told = report(pair), report(pair, "--checksum")

        assert plain["exit"] == EQUAL
        assert kinds(told) == {"docs/old/notes": "believed equal"}
        assert told["exit"] == ALERT

        # Who looks less closely, or elsewhere, does not take that back.
        (kept,) = pair.state.glob("sessions/*/audit.json")
        for more in (["--lite"], [], ["-c", "-e", "notes"]):
            code, printed = check(pair, "--json", *more)
            weaker, said = json.loads(printed.splitlines()[0]), printed.splitlines()[1]
            assert (code, weaker["exit"], weaker["stands"]) == (EQUAL, EQUAL, True)
            assert said.endswith("stands until one like it says otherwise")
            assert json.loads(kept.read_text())["exit"] == ALERT
        (pair.left / "docs/old/notes").write_bytes(note.read_bytes())
        os.utime(pair.left / "docs/old/notes", ns=(st.st_atime_ns, st.st_mtime_ns))
        mended = report(pair, "--checksum")
        assert json.loads(kept.read_text())["exit"] == mended["exit"] != ALERT

    def test_is_told_from_what_a_killed_session_has_done(self, pair: Pair) -> None:
        """Its archive is behind: what it had agreed since is in its notes."""
        pair.options += ["--set", "sync_interval=3600"]
        fill(pair.left)
        pair.start()
        pair.settle()
        pair.kill()
        assert report(pair, "-c")["exit"] == EQUAL
        (pair.right / "keep").write_text("edited since")
        told = report(pair)

        assert kinds(told) == {"keep": "on its way"}

    def test_of_both_sides_is_a_conflict_to_come(self, local: Pair) -> None:
        rest(local)
        (local.left / "keep").write_text("left")
        (local.right / "keep").write_text("the right")
        told = report(local)

        assert kinds(told) == {"keep": "differs"}
        assert "conflict" in told["differences"][0]["what"]

    def test_is_none_that_psync_believes_in_where_it_has_left_it_alone(self, local: Pair) -> None:
        """With `skip_initial_sync` it knows that it never looked."""
        (local.left / "old").write_text("1")
        (local.left / "both").write_text("one")
        (local.right / "both").write_text("other")
        local.start("-k")
        (local.left / "new").write_text("new")
        local.flush()

        told = report(local)

        assert kinds(told) == {"old": "differs", "both": "differs"}
        assert told["exit"] == NOTICE
        (left,) = [d["what"] for d in told["differences"] if d["path"] == "old"]
        assert left.startswith("only on the left; left alone (skip_initial_sync): psync sync")
        assert local.psync("sync", str(local.left), str(local.right)).returncode == 0
        behind_its_back(local, local.right / "new", b"NEW")
        local.flush()
        assert kinds(report(local, "-c")) == {"new": "believed equal"}

    def test_is_plain_where_nothing_was_agreed(self, local: Pair) -> None:
        fill(local.left)
        (local.right / "keep").write_text("other")
        code, printed = check(local)

        assert code == NOTICE
        assert "differs: docs: directory, only on the left\n" in printed
        assert "docs/old" not in printed  # told with what it is in
        assert "7 differs: notice" in printed

    def test_with_a_strange_name_forges_no_line(self, local: Pair) -> None:
        (local.left / "a\nequal: b\x1b[2J").touch()
        os.mkdir(os.fsencode(local.left) + b"/\xff")
        code, printed = check(local)

        assert code == NOTICE
        assert printed.count("\n") == 3
        assert "differs: a\\nequal: b\\x1b[2J: only on the left\n" in printed
        assert "differs: \\xff: directory, only on the left\n" in printed


class TestUnheld:
    def test_metadata_that_a_side_cannot_hold_are_no_difference(
        self,
        coarse: Pair,  # noqa: F811
    ) -> None:
        """Where psync has agreed on what each side has in their place."""
        pair = coarse
        fill(pair.left)
        for path in pair.left.rglob("*"):
            os.utime(path, ns=(1, 1_234_567_890_123_456_789), follow_symlinks=False)
        pair.start()
        pair.flush()
        assert report(pair, "-c")["exit"] == EQUAL
        assert pair.stop() == 0
        assert report(pair, "-c")["exit"] == EQUAL
        os.utime(pair.right / "keep", ns=(1, 5_000_000_000))
        assert kinds(report(pair)) == {"keep": "on its way"}
        for archive in pair.state.glob("sessions/*/archive.db*"):
            archive.unlink()

        told = report(pair)
        assert set(kinds(told).values()) == {"differs"}
        assert set(kinds(told)) >= {"keep", "docs/report.txt"}

    @pytest.mark.parametrize("side", ["left", "right"])
    def test_nor_is_what_does_not_count_and_is_set_back(self, pair: Pair, side: str) -> None:
        pair.options += ["--set", f"meta_from={side}"]
        rest(pair)
        other = pair.right if side == "left" else pair.left
        (other / "keep").chmod(0o600)

        assert kinds(report(pair)) == {"keep": "on its way"}
        pair.start()
        pair.settle()
        assert report(pair)["exit"] == EQUAL


class TestModes:
    def test_lite_knows_of_presence_and_size_only(self, local: Pair) -> None:
        fill(local.left)
        fill(local.right)
        (local.left / "keep").write_text("kept")
        (local.left / "keep").chmod(0o600)
        os.utime(local.left / "docs", ns=(1, 1))
        os.utime(local.left / "docs/link", ns=(1, 1), follow_symlinks=False)

        assert report(local, "-l")["exit"] == EQUAL
        assert "keep" in kinds(report(local))
        assert "keep" in kinds(report(local, "-l", "-c"))  # not lite any more
        (local.left / "keep").write_text("longer")
        (local.left / "new").touch()
        assert set(kinds(report(local, "-l"))) == {"keep", "new"}

    def test_modified_leaves_out_what_one_side_has(self, local: Pair) -> None:
        fill(local.left)
        (local.right / "keep").write_text("other")
        (local.right / "new/deep").mkdir(parents=True)

        told = report(local, "-m")
        assert set(kinds(told)) == {"keep"}
        assert sum(told["counts"].values()) == 1

    def test_no_links_leaves_out_links(self, local: Pair) -> None:
        for root, target in ((local.left, "a"), (local.right, "b")):
            (root / "link").symlink_to(target)
        (local.left / "another").symlink_to("c")

        assert set(kinds(report(local))) == {"link", "another"}
        assert report(local, "-X")["exit"] == EQUAL

    def test_newer_leaves_out_what_is_old(self, local: Pair) -> None:
        day_ago = (1, 1_000_000_000)
        for root, text in ((local.left, "left"), (local.right, "rght")):
            (root / "f").write_text(text)
            os.utime(root / "f", ns=day_ago)

        assert report(local, "-c", "-n", "5")["exit"] == NOTICE  # its ctime is new
        assert report(local, "-c", "-n", "0.0000001")["exit"] == EQUAL

    def test_backup_saves_both_versions_for_nobody_else(self, pair: Pair) -> None:
        rest(pair)
        large = os.urandom(3_000_000)
        (pair.left / "docs/report.txt").write_bytes(large)
        (pair.right / "docs/link").unlink()
        (pair.right / "docs/link").symlink_to("elsewhere")
        (pair.left / "keep").chmod(0o600)
        before = fingerprint(pair.left, pair.right)
        told = report(pair, "-b")

        place = Path(told["backup"])
        assert place.is_relative_to(pair.state)
        assert (told["saved"], told["unsaved"]) == (4, 0)
        assert (place / "left/docs/report.txt").read_bytes() == large
        assert (place / "right/docs/report.txt").read_text() == "first"
        assert os.readlink(place / "left/docs/link") == "report.txt"
        assert os.readlink(place / "right/docs/link") == "elsewhere"
        assert not (place / "left/keep").exists()  # only its mode differs
        assert all(stat.S_IMODE(p.lstat().st_mode) & 0o77 == 0 for p in place.rglob("*.txt"))
        assert stat.S_IMODE(place.stat().st_mode) == 0o700
        st = (pair.right / "docs/report.txt").stat()
        assert (place / "right/docs/report.txt").stat().st_mtime_ns == st.st_mtime_ns
        assert fingerprint(pair.left, pair.right) == before
        assert report(pair, "-b")["backup"] != str(place)

    def test_backup_saves_nothing_where_only_the_time_differs(self, local: Pair) -> None:
        rest(local)
        os.utime(local.left / "keep", (1, 1))

        assert report(local, "-b")["saved"] == 2  # the content may differ, too
        told = report(local, "-b", "-c")
        assert (told["exit"], told["saved"]) == (NOTICE, 0)

    def test_backup_goes_into_no_root(self, local: Pair) -> None:
        (local.left / "f").touch()
        code, printed = check(local, "--state-dir", str(local.left / "state"), "--backup")

        assert code == FAILED
        assert "is inside" in printed
        assert not (local.left / "state").exists()


class TestWhich:
    def test_all_that_run_where_none_is_named(self, local: Pair, tmp_path: Path) -> None:
        local.start()
        for name in ("l", "r"):
            (tmp_path / name).mkdir()
        other = subprocess.Popen(
            [*command(), str(tmp_path / "l"), str(tmp_path / "r")], env=local.env,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            until(lambda: len(local._ask("status", 60.0)) == 2, "the other session")
            local._ask("flush", 60.0, timeout=60)
            local.psync("pause", SessionDir.name_for(None, str(local.left), str(local.right)))
            (local.left / "new").touch()
            done = local.psync("check", "--json")
            (first, _) = sessions(local.state)
            with (first.path / "audit.lock").open("w") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                failed = local.psync("check", "--json")
        finally:
            other.terminate()
            other.wait(WAIT_S)
        told = json.loads(done.stdout)["sessions"]

        assert done.returncode == NOTICE
        assert sorted(each["exit"] for each in told) == [EQUAL, NOTICE]
        assert failed.returncode == FAILED
        codes = [each["exit"] for each in json.loads(failed.stdout)["sessions"]]
        assert len(codes) == 2
        assert codes[0] == FAILED

    def test_a_configured_one(self, local: Pair, tmp_path: Path) -> None:
        (tmp_path / "psync.toml").write_text(
            f"[session.home]\nleft = '{local.left}'\nright = '{local.right}'\n"
            "excludes = ['own']\nalert_threshold = 2\n"
        )
        (local.left / "own").touch()
        (local.left / "one").touch()
        ask = ("check", "--config", str(tmp_path / "psync.toml"), "home")
        one = local.psync(*ask)
        (local.left / "two").touch()
        two = local.psync(*ask)

        assert (one.returncode, two.returncode) == (NOTICE, ALERT)
        assert "own" not in one.stdout

    def test_a_translated_one_is_not_translated_again(self, local: Pair, tmp_path: Path) -> None:
        """What ran has the right root already; FROM may be in TO."""
        (tmp_path / "psync.toml").write_text(
            f"[session.home]\nleft = '{local.left}'\nright = '{local.base}/ri'\n"
            "translate = '/ri:/right'\n"
        )
        local.right.mkdir(exist_ok=True)
        config = ("--config", str(tmp_path / "psync.toml"))
        assert local.psync("sync", *config, "home").returncode == 0

        done = local.psync("check", "home")

        assert done.returncode == EQUAL, done.stderr

    def test_is_remembered_for_status(self, pair: Pair) -> None:
        pair.start()
        name = pair.status()["name"]
        assert pair.psync("check", name).returncode == EQUAL
        told = json.loads(pair.psync("status", "--json").stdout)["sessions"][0]["audit"]

        assert told["exit"] == EQUAL
        assert told["counts"]["differs"] == 0
        file = pair.state / "sessions" / name / "audit.json"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert "  audit  " in pair.psync("status").stdout

    @pytest.mark.parametrize(
        ("args", "said"),
        [
            (("--no-such",), "unrecognized"),
            (("nobody",), "no session 'nobody' runs, has run here, or is configured"),
            ((), "no session is running"),
            (("/one",), "two roots are needed"),
            (("-n", "0", "/a", "/b"), "number of minutes"),
            (("/nowhere/a", "/nowhere/b"), "does not exist"),
            (("--set", "nonsense=1", "/a", "/b"), "nonsense"),
        ],
    )
    def test_wrong_usage_is_no_alert(self, local: Pair, args: tuple[str, ...], said: str) -> None:
        done = local.psync("check", *args)

        assert done.returncode == FAILED
        assert said in done.stderr
        assert done.stderr.count("\n") == 1
        assert done.stdout == ""

    def test_one_directory_is_not_compared_with_itself(self, local: Pair) -> None:
        (local.base / "alias").symlink_to(local.left)
        done = local.psync("check", str(local.left), str(local.base / "alias"))

        assert done.returncode == FAILED
        assert "same directory" in done.stderr


class TestFailure:
    def test_to_reach_a_host_is_one_line(self, breakable: Pair, sshd: Sshd) -> None:
        rest(breakable)
        sshd.stop()
        code, printed = check(breakable)

        assert code == FAILED
        assert printed.count("\n") == 1
        assert printed.startswith(f"psync: {sshd.alias}: ")
        (session,) = sessions(breakable.state)
        assert session.described("audit.json")["exit"] == FAILED

    def test_of_a_link_that_stalls_ends(self, breakable: Pair, sshd: Sshd) -> None:
        breakable.options += ["--set", "timeout=1"]
        fill(breakable.left)
        breakable.start()
        sshd.freeze()
        breakable.wait_for("disconnected")
        try:
            code, printed = check(breakable)
        finally:
            sshd.thaw()

        assert code == FAILED
        assert printed.count("\n") == 1

    def test_to_read_a_directory_is_no_absence(self, plain: Pair) -> None:
        for root in (plain.left, plain.right):
            plain.shell(f"mkdir {root}/closed && touch {root}/closed/f -d @1")
            plain.shell(f"touch -d @1 {root}/closed && chmod 0 {root}/closed")
        told = report(plain)

        assert kinds(told) == {"closed": "unreadable"}
        assert "Permission denied" in told["differences"][0]["what"]
        assert told["exit"] == NOTICE

    def test_to_read_a_file_is_told_with_checksums(self, plain: Pair) -> None:
        for root in (plain.left, plain.right):
            plain.shell(f"echo secret > {root}/f && touch -d @1 {root}/f && chmod 0 {root}/f")

        assert report(plain)["exit"] == EQUAL
        told = report(plain, "-c")
        assert kinds(told) == {"f": "unreadable"}
        assert told["exit"] == NOTICE

    def test_while_another_audit_runs(self, pair: Pair) -> None:
        rest(pair)
        (session,) = sessions(pair.state)
        with (session.path / "audit.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            code, printed = check(pair)

        assert code == FAILED
        assert "running already" in printed


class TestRestrictedKey:
    def test_may_be_audited(self, breakable: Pair, sshd: Sshd, checkout: Path) -> None:
        pair = breakable
        agent = f"{sys.executable} -m psync agent --root {pair.right}"
        sshd.allow(f"cd {checkout} && PYTHONPATH={checkout} {agent}")
        (pair.left / "f").write_text("left")
        (pair.right / "f").write_text("the right")
        told = report(pair, "-c", "-b")

        assert kinds(told) == {"f": "differs"}
        assert told["saved"] == 2
        assert not (pair.right / ".psync").exists()
        sshd.allow(f"cd {checkout} && PYTHONPATH={checkout} {agent}/elsewhere")
        code, printed = check(pair)
        assert code == FAILED
        assert "this key may only serve" in printed


HOSTILE = """
import os, sys, time
sys.path.insert(0, {checkout!r})
from psync import __version__
from psync.core.entry import Entry
from psync.wire import *
from psync.wire import (PROTOCOL, Hello, Ready, Listing, Item, Observed, Results, Block, Pong,
                        Ping, List_, Look, Start, Trouble, Credit, AUDIT_CREDIT, listing_weight)
mode = sys.argv[1]
out = lambda *ms: os.write(1, b"".join(encode(m) for m in ms))
f = Entry(1, 0o644, 0, 0, 3, 1, b"", b"", 5, 5)
d = Entry(2, 0o755, 0, 0, 0, 1, b"", b"", 6, 0)
item = lambda name, entry=f: Item(name, entry)
os.write(1, MAGIC)
out(Hello(PROTOCOL, __version__, "3", "x", 0, os.getpid(), "b", "h", "3", [], time.time_ns()))
framer = Framer()
def answer(message):
    if isinstance(message, Start):
        out(Ready(message.root, 1, 1, "", "", False, "ext4"))
    elif isinstance(message, Ping):
        out(Pong(message.token, 1))
    elif isinstance(message, Look) and mode in ("crowd", "maze"):
        out(Observed([item(path) for path in message.paths]))
    elif isinstance(message, List_):
        for path in message.paths:
            lie(path)
def lie(path):
    if mode == "names":
        out(Listing(path, d, b"", None, [item(b"../../etc")]))
    elif mode == "ours":
        out(Listing(path, d, b"", None, [item(b".psync")]))
    elif mode == "order":
        out(Listing(path, d, b"", None, [item(b"b"), item(b"a")]))
    elif mode == "gap":
        out(Listing(path, d, b"", b"b", [item(b"b")]), Listing(path, d, b"c", None, [item(b"d")]))
    elif mode == "kind":
        out(Listing(path, d, b"", None, [item(b"a", f._replace(kind=9))]))
    elif mode == "elsewhere":
        out(Listing(b"elsewhere", d, b"", None, []))
    elif mode == "depth":
        out(Listing(path, d, b"", None, [item(b"d" * 255, d)]))
    elif mode == "endless":
        after, n = b"", 0
        while True:
            items = [item(b"%020d" % (n + i)) for i in range(1000)]
            n += 1000
            out(Listing(path, d, after, items[-1].path, items))
            after = items[-1].path
    elif mode in ("crowd", "maze"):
        after, n, credit = b"", 0, AUDIT_CREDIT
        while True:
            items = [item(b"%020d" % (n + i), d if mode == "maze" else f) for i in range(1000)]
            while credit < listing_weight(items):
                for message in framer.feed(os.read(0, 65536) or sys.exit()):
                    credit += message.size if isinstance(message, Credit) else 0
                    answer(message)
            credit -= listing_weight(items)
            n += 1000
            out(Listing(path, d, after, items[-1].path, items))
            after = items[-1].path
    elif mode == "looks":
        out(Observed([item(b"a")]))
    elif mode == "acts":
        out(Results(1, []))
    elif mode == "blocks":
        out(Block(b"a", 0, f, b"abc"))
    elif mode == "trouble":
        while True:
            for i in range(1000):
                out(Trouble("unreadable", b"%d" % time.time_ns(), "no"))
    elif mode == "garbage":
        os.write(1, b"\\xff" * 100)
    elif mode == "dies":
        sys.exit(3)
while True:
    data = os.read(0, 65536)
    if not data:
        break
    for message in list(framer.feed(data)):
        answer(message)
"""
# The command, where little is very much.
BOUNDED = """
import sys
from psync import audit_merge, cli
audit_merge._NAMES_MAX, audit_merge._WAITING_BYTES_MAX = 20_000, 1_000_000
sys.exit(cli.main())
"""


class TestHostileAgent:
    @pytest.fixture
    def liar(self, breakable: Pair, sshd: Sshd, checkout: Path) -> Callable[[str], None]:
        script = breakable.base / "hostile.py"
        script.write_text(HOSTILE.format(checkout=str(checkout)))

        def lie(mode: str) -> None:
            sshd.allow(f"exec {sys.executable} {script} {mode}")

        return lie

    @pytest.mark.parametrize(
        ("mode", "said"),
        [
            ("names", "cannot be a name"),
            ("ours", "cannot be a name"),
            ("order", "not in order"),
            ("gap", "has a gap"),
            ("kind", "what cannot be"),
            ("elsewhere", "not asked for"),
            ("depth", "without end"),
            ("endless", "credit"),
            ("looks", "not asked to"),
            ("acts", "Results"),
            ("blocks", "not asked to"),
            ("trouble", "too much"),
            ("garbage", "frame of"),
            ("dies", "exit status 3"),
        ],
    )
    def test_ends_it_with_one_line(
        self, breakable: Pair, liar: Callable[[str], None], mode: str, said: str
    ) -> None:
        liar(mode)
        for i in range(3):
            (breakable.left / f"f{i}").touch()
        code, printed = check(breakable)

        assert code == FAILED, printed
        assert said in printed
        assert printed.splitlines()[-1].startswith("psync: ")

    @pytest.mark.parametrize(
        ("mode", "said"),
        [("crowd", "named more than 20,000 files"), ("maze", "more directories in it")],
    )
    def test_does_not_invent_names_for_ever(
        self, breakable: Pair, liar: Callable[[str], None], sshd: Sshd, mode: str, said: str
    ) -> None:
        """Though it keeps to the protocol, and tells no more than it has credit for."""
        liar(mode)
        done = subprocess.run(
            [sys.executable, "-c", BOUNDED, "check", "--json", "-r", sshd.alias,
             str(breakable.left), str(breakable.right)],
            env=breakable.env, capture_output=True, text=True, timeout=WAIT_S, check=False,
        )  # fmt: skip

        assert done.returncode == FAILED, done.stderr
        assert said in done.stdout + done.stderr

    @pytest.mark.parametrize(
        ("number", "code", "said"),
        [
            (signal.SIGINT, 128 + signal.SIGINT, ""),
            (signal.SIGTERM, FAILED, "psync: ended by SIGTERM, before anything could be said\n"),
        ],
    )
    def test_that_says_nothing_is_left_by_a_signal(
        self,
        breakable: Pair,
        liar: Callable[[str], None],
        sshd: Sshd,
        number: signal.Signals,
        code: int,
        said: str,
    ) -> None:
        liar("silent")
        process = subprocess.Popen(
            [*command(), "check", "-r", sshd.alias, str(breakable.left), str(breakable.right)],
            env=breakable.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        until(lambda: len(sshd.commands()) == 1, "the agent")
        until(lambda: len(children(process.pid)) > 1, "the other agent")
        ours = children(process.pid)
        process.send_signal(number)
        printed, _ = process.communicate(timeout=WAIT_S)

        assert (process.returncode, printed) == (code, said)
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in ours), "their end")
        until(lambda: not sshd.commands(), "the end of the agent there")


def test_names_of_sessions_are_those_of_run(pair: Pair) -> None:
    """So that two roots on the command line are the session that runs on them."""
    pair.start()

    assert pair.status()["name"] == SessionDir.name_for(pair.host, str(pair.left), str(pair.right))


class TestTerminal:
    def test_shows_how_far_it_is_and_nothing_elsewhere(self, local: Pair) -> None:
        for root in (local.left, local.right):
            for i in range(300):
                (root / f"f{i}").touch()
                os.utime(root / f"f{i}", ns=(1, 1))
        ours, theirs = os.openpty()
        process = subprocess.Popen(
            [*command(), "check", str(local.left), str(local.right)],
            env=local.env | {"TERM": "xterm"}, stdout=subprocess.PIPE, stderr=theirs, text=True,
        )  # fmt: skip
        os.close(theirs)
        printed, _ = process.communicate(timeout=WAIT_S)
        shown = os.read(ours, 65536).decode()
        os.close(ours)

        assert re.match(r"\rcomparing: \d00 entries, [\d,]+/s\x1b\[K", shown)
        assert shown.endswith("\r\x1b[K")
        assert printed.count("\n") == 1
        assert "300 entries compared" in printed
        assert check(local)[1].count("\n") == 1


class TestScript:
    """scripts/check, with the original's letters."""

    @pytest.fixture
    def script(self, local: Pair, checkout: Path) -> Callable[..., tuple[int, str]]:
        """Run it in a checkout that is prepared; what is mailed goes into a file."""
        place = local.base / "checkout"
        (place / "scripts").mkdir(parents=True)
        (place / ".venv/bin").mkdir(parents=True)
        (place / "scripts/check").symlink_to(checkout / "scripts/check")
        for name, text in (
            ("scripts/prepare", "exit 0"),
            (".venv/bin/python", f'shift; exec {" ".join(command())} "$@"'),
            ("bin/sendmail", f'{{ echo "$@"; cat; }} > {local.base}/mail'),
        ):
            (place / name).parent.mkdir(exist_ok=True)
            (place / name).write_text(f"#!/bin/sh\n{text}\n")
            (place / name).chmod(0o755)

        def run(*args: str, mailer: bool = True) -> tuple[int, str]:
            path = f"{place}/bin:{os.environ['PATH']}" if mailer else "/usr/bin:/bin"
            done = subprocess.run(
                [str(place / "scripts/check"), *args], env=local.env | {"PATH": path},
                capture_output=True, text=True, timeout=WAIT_S, check=False,
            )  # fmt: skip
            return done.returncode, done.stdout + done.stderr

        return run

    def test_is_check_with_the_letters_of_old(
        self, local: Pair, script: Callable[..., tuple[int, str]]
    ) -> None:
        (local.left / "f").touch()
        roots = (str(local.left), str(local.right))
        code, printed = script("-c", "-b", "-n", "1080", *roots)

        assert code == NOTICE
        assert "differs: f: only on the left\n" in printed
        assert "1 versions saved in" in printed
        assert script("-lmX", *roots)[0] == EQUAL

    def test_mails_what_it_finds(self, local: Pair, script: Callable[..., tuple[int, str]]) -> None:
        roots = (str(local.left), str(local.right))
        mail = local.base / "mail"
        assert script("-t", "root@localhost", *roots) == (EQUAL, "")
        assert not mail.exists()
        for i in range(12):
            (local.left / f"f{i}").touch()
        assert script("-t", "root@localhost", *roots) == (ALERT, "")
        told = mail.read_text()

        assert told.startswith("-i -- root@localhost\nTo: root@localhost\nSubject: ***ALERT:PSYNC:")
        assert "differs: f7: only on the left\n" in told
        (local.left / "only").mkdir()
        assert (
            script("-t", "root", str(local.left / "only"), str(local.right / "gone"))[0] == FAILED
        )
        assert "does not exist" in mail.read_text()

    @pytest.mark.parametrize(
        ("args", "said"),
        [
            (("-k",), "-l compares sizes"),
            (("-z",), "no option"),
            (("-n",), "no option, or lacks its value"),
            (("-n", "x"), "no number"),
            (("-t", "a\nBcc: b"), "no address"),
        ],
    )
    def test_says_what_it_does_not_know(
        self, script: Callable[..., tuple[int, str]], args: tuple[str, ...], said: str
    ) -> None:
        code, printed = script(*args)

        assert code == FAILED
        assert said in printed

    @pytest.mark.skipif(
        shutil.which("sendmail", path="/usr/bin:/bin:/usr/sbin:/usr/lib") is not None,
        reason="there is a sendmail",
    )
    def test_says_that_it_cannot_mail(self, script: Callable[..., tuple[int, str]]) -> None:
        code, printed = script("-t", "root", "/a", "/b", mailer=False)

        assert code == FAILED
        assert printed.startswith("check: -t needs sendmail")
        assert printed.count("\n") == 1
