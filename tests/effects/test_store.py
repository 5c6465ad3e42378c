"""The archive's rows and the intents: what is remembered over crashes, and what is not trusted."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import apsw
import pytest

from psync.core.entry import Agreed
from psync.effects.state import SessionDir, sessions, state_directory
from psync.effects.store import ROOT_ID, Intents, Rows, is_of_no_pair
from psync.errors import StoreError, UnwritableError, UsageError

ROOT_RECORD = Agreed(2, 0o755, 0, 0, 0, 7, b"", b"", 2, 0, 3, 0)


def file(size: int = 5, left: int = 10, right: int = 20) -> Agreed:
    return Agreed(1, 0o644, 1, 2, size, -1, b"", b"d" * 16, left, 100, right, 200)


def directory(left: int = 30, right: int = 40) -> Agreed:
    return Agreed(2, 0o755, 0, 0, 0, 9, b"", b"", left, 0, right, 0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "archive.db"


@pytest.fixture
def rows(path: Path):
    opened = Rows(path)
    yield opened
    opened.close()


def tree(rows: Rows) -> None:
    """Make /, /a (2), /a/b (3), /a/b/f, /f."""
    rows.commit(
        [
            (0, b"", ROOT_ID, ROOT_RECORD),
            (ROOT_ID, b"a", 2, directory()),
            (2, b"b", 3, directory(31, 41)),
            (3, b"f", 0, file()),
            (ROOT_ID, b"f", 0, file(6, 11, 21)),
        ],
        [],
        4,
    )


class TestRows:
    def test_gives_back_what_was_put(self, rows):
        tree(rows)

        assert rows.get(0, b"") == (ROOT_ID, ROOT_RECORD)
        assert rows.get(3, b"f") == (0, file())
        assert type(rows.get(3, b"f")[1]) is Agreed
        assert rows.get(3, b"g") is None
        assert rows.locate(3) == (2, b"b")
        assert rows.locate(ROOT_ID) == (0, b"")
        assert rows.locate(0) is None
        assert rows.locate(99) is None

    def test_lists_a_directory_in_byte_order(self, rows):
        names = [b"b", b"\xff\xfe", b"a\n", b"B", b"a", "\u00e4".encode(), b"n" * 255]
        rows.commit([(ROOT_ID, name, 0, file()) for name in names], [], 2)

        assert [name for name, _, _ in rows.children(ROOT_ID)] == sorted(names)
        assert list(rows.children(99)) == []

    def test_names_what_is_in_a_range(self, rows):
        rows.commit([(ROOT_ID, name, 0, file()) for name in (b"a", b"b", b"b\0", b"\xff")], [], 2)

        assert rows.names(ROOT_ID, b"", None) == [b"a", b"b", b"b\0", b"\xff"]
        assert rows.names(ROOT_ID, b"b", b"\xff") == [b"b\0", b"\xff"]
        assert rows.names(ROOT_ID, b"", b"b") == [b"a", b"b"]
        assert rows.names(99, b"", None) == []

    def test_remembers_over_a_restart(self, path):
        first = Rows(path)
        tree(first)
        first.set_meta("pair", "p-1")
        first.close()

        again = Rows(path)
        assert (again.count, again.next_id) == (5, 4)
        assert again.get(3, b"f") == (0, file())
        assert again.meta("pair") == "p-1"
        assert again.meta("nothing") is None
        assert again.moved_aside is None
        again.close()

    def test_is_private(self, rows, path):
        assert len(list(path.parent.glob(path.name + "*"))) > 1
        assert all(p.stat().st_mode & 0o077 == 0 for p in path.parent.glob(path.name + "*"))

    def test_replaces_and_removes(self, rows):
        tree(rows)

        rows.commit([(3, b"f", 0, file(99))], [(ROOT_ID, b"f"), (ROOT_ID, b"never there")], 4)

        assert rows.get(3, b"f") == (0, file(99))
        assert rows.get(ROOT_ID, b"f") is None
        assert rows.count == 4

    def test_puts_a_place_that_the_same_commit_removed(self, rows):
        tree(rows)

        rows.commit([(ROOT_ID, b"f", 0, file(1))], [(ROOT_ID, b"f")], 4)

        assert rows.get(ROOT_ID, b"f") == (0, file(1))
        assert rows.count == 5

    def test_lets_the_later_of_two_puts_win(self, rows):
        rows.commit([(1, b"x", 0, file(1)), (1, b"x", 0, file(2))], [], 2)

        assert rows.get(1, b"x") == (0, file(2))
        assert rows.count == 1

    def test_moves_a_directory_as_one_row(self, rows):
        tree(rows)

        rows.commit([(ROOT_ID, b"moved", 3, directory(31, 41))], [], 4)

        assert rows.get(2, b"b") is None
        assert rows.locate(3) == (ROOT_ID, b"moved")
        assert list(rows.children(3)) == [(b"f", 0, file())]
        assert rows.count == 5

    def test_swaps_two_directories(self, rows):
        rows.commit([(1, b"a", 2, directory(1)), (1, b"b", 3, directory(2))], [], 4)

        rows.commit([(1, b"a", 3, directory(2)), (1, b"b", 2, directory(1))], [], 4)

        assert (rows.locate(2), rows.locate(3)) == ((1, b"b"), (1, b"a"))
        assert rows.count == 2

    def test_finds_entries_by_inode_on_each_side(self, rows):
        tree(rows)
        rows.commit([(2, b"hard link", 0, file())], [], 4)

        assert rows.by_inode(0, 10) == [(2, b"hard link"), (3, b"f")]
        assert rows.by_inode(1, 21) == [(ROOT_ID, b"f")]
        assert rows.by_inode(1, 10) == []

    def test_keeps_inodes_of_64_bits(self, rows):
        high = (1 << 64) - 5
        rows.commit([(1, b"x", 0, file(1, high, 1 << 63)), (1, b"y", 0, file())], [], 2)

        assert rows.get(1, b"x") == (0, file(1, high, 1 << 63))
        assert next(rows.children(1))[2].left_ino == high
        assert rows.by_inode(0, high) == [(1, b"x")]
        assert rows.by_inode(1, 1 << 63) == [(1, b"x")]

    def test_goes_on_when_the_disk_is_no_longer_full(self, rows):
        tree(rows)
        many = [(1, b"%d" % number, 0, file()) for number in range(2000)]
        room = rows._db.pragma("max_page_count", rows._db.pragma("page_count"))

        with pytest.raises(UnwritableError, match="full"):
            rows.commit(many, [], 9)

        assert rows.count == 5
        rows.set_meta("small", "fits", durable=True)
        rows._db.pragma("max_page_count", room + 10_000)
        rows.commit(many, [], 9)
        assert rows.count == 2005
        assert rows.get(1, b"7") == (0, file())

    def test_changes_nothing_when_a_commit_fails(self, rows):
        tree(rows)

        with pytest.raises(StoreError, match="cannot use the archive"):
            rows.commit([(1, b"x", 0, file()), (1, b"y", 0, (None,) * 12)], [(3, b"f")], 9)

        assert rows.get(1, b"x") is None
        assert rows.get(3, b"f") == (0, file())
        assert (rows.count, rows.next_id) == (5, 4)


class TestDigests:
    @pytest.fixture(autouse=True)
    def known(self, rows):
        tree(rows)
        rows.set_digests([(d, side, b"%d%d" % (d, side)) for d in (1, 2, 3) for side in (0, 1)])

    def known_of(self, rows: Rows) -> list[int]:
        for d in (1, 2, 3):
            assert bool(rows.digest(d, 0)) == bool(rows.digest(d, 1))
        return [d for d in (1, 2, 3) if rows.digest(d, 0)]

    def test_are_kept_for_each_side(self, rows):
        assert rows.digest(2, 0) == b"20"
        assert rows.digest(2, 1) == b"21"
        assert rows.digest(9, 0) == b""

    def test_are_replaced(self, rows):
        rows.set_digests([(2, 0, b"new")])

        assert (rows.digest(2, 0), rows.digest(2, 1)) == (b"new", b"21")

    def test_go_when_something_in_the_directory_changes(self, rows):
        rows.commit([(3, b"f", 0, file(1))], [], 4)

        assert self.known_of(rows) == [1, 2]

    def test_go_when_something_is_removed_from_the_directory(self, rows):
        rows.commit([], [(ROOT_ID, b"f")], 4)

        assert self.known_of(rows) == [2, 3]

    def test_go_when_the_directory_itself_changes(self, rows):
        rows.commit([(2, b"b", 3, directory(31, 42))], [], 4)

        assert self.known_of(rows) == [1]

    def test_go_on_both_ends_of_a_move(self, rows):
        rows.commit([(ROOT_ID, b"moved", 3, directory(31, 41))], [(2, b"b")], 4)

        assert self.known_of(rows) == []

    def test_go_with_the_directory(self, rows):
        rows.commit([], [(3, b"f"), (2, b"b")], 4)

        assert self.known_of(rows) == [1]

    def test_stay_when_a_commit_touches_nothing(self, rows):
        rows.commit([], [], 4)

        assert self.known_of(rows) == [1, 2, 3]


class TestBrokenDatabase:
    def broken(self, path: Path) -> list[Path]:
        return [p for p in path.parent.iterdir() if p.name.startswith("archive.db.broken-")]

    @pytest.mark.parametrize("clean", [True, False])
    def test_that_is_no_database_is_moved_aside(self, path, clean):
        path.write_bytes(b"garbage" * 4096)
        told: list[str] = []

        rows = Rows(path, warn=told.append)

        assert rows.count == 0
        assert [p.read_bytes() for p in self.broken(path)] == [b"garbage" * 4096]
        assert rows.moved_aside == self.broken(path)[0]
        assert len(told) == 1
        assert str(path) in told[0]
        assert "\n" not in told[0]
        rows.close()

    def test_that_was_cut_short_is_moved_aside(self, path):
        rows = Rows(path)
        rows.commit([(1, b"%d" % i, 0, file()) for i in range(5000)], [], 2)
        rows.close()
        os.truncate(path, path.stat().st_size // 2)

        again = Rows(path)

        assert again.count == 0
        assert again.moved_aside is not None
        again.close()

    def test_that_was_torn_by_an_unclean_end_is_moved_aside(self, path):
        rows = Rows(path)
        rows.commit([(1, b"%d" % i, 0, file()) for i in range(5000)], [], 2)
        rows.close()
        outside = apsw.Connection(str(path))
        outside.execute("UPDATE meta SET value = 'no' WHERE key = 'closed'")
        outside.close()
        with open(path, "r+b") as handle:
            handle.seek(path.stat().st_size // 2 // 4096 * 4096)
            handle.write(os.urandom(8192))

        again = Rows(path)

        assert again.count == 0
        assert len(self.broken(path)) == 1
        again.close()

    def test_that_turns_out_broken_later_ends_the_session_and_not_the_next(self, path):
        rows = Rows(path)
        rows.commit([(1, b"%05d" % i, 0, file()) for i in range(5000)], [], 2)
        rows.close()
        outside = apsw.Connection(str(path))
        where = "SELECT pgoffset, pgsize FROM dbstat WHERE name = 'entry' AND pagetype = 'leaf'"
        leaves = outside.execute(where).fetchall()
        outside.close()
        with open(path, "r+b") as handle:
            for offset, size in leaves:
                handle.seek(offset)
                handle.write(os.urandom(size))
        again = Rows(path)  # it was closed cleanly, so nothing was looked at

        with pytest.raises(StoreError, match="start again"):
            list(again.children(1))
        again.close()

        assert len(self.broken(path)) == 1
        third = Rows(path)
        assert third.count == 0
        third.close()

    def test_without_its_tables_is_moved_aside(self, path):
        other = apsw.Connection(str(path))
        other.execute("CREATE TABLE x (y)")
        other.pragma("user_version", 1)
        other.close()

        rows = Rows(path)

        assert rows.count == 0
        assert len(self.broken(path)) == 1
        rows.close()

    def test_of_a_newer_psync_is_refused_and_kept(self, path):
        rows = Rows(path)
        tree(rows)
        rows.close()
        newer = apsw.Connection(str(path))
        newer.pragma("user_version", 99)
        newer.close()

        with pytest.raises(StoreError, match="newer psync"):
            Rows(path)

        assert path.exists()
        assert not self.broken(path)

    def test_of_an_older_psync_is_brought_up_to_date(self, path):
        rows = Rows(path)
        rows.commit([(1, b"f", 0, file())], [], 3)
        rows.close()
        older = apsw.Connection(str(path))
        for column in ("left_own", "right_own", "xattrs"):
            older.execute(f"ALTER TABLE entry DROP COLUMN {column}")
        older.pragma("user_version", 1)
        older.close()

        again = Rows(path)

        assert again.moved_aside is None
        assert list(again.children(1)) == [(b"f", 0, file())]
        held = file()._replace(left_own=b"left", right_own=b"right", xattrs=b"attributes")
        again.commit([(1, b"f", 0, held)], [], 3)
        assert again.get(1, b"f") == (0, held)
        again.close()
        Rows(path).close()

    def test_that_cannot_be_opened_is_an_error(self, path):
        path.mkdir()

        with pytest.raises(StoreError, match="cannot use the archive"):
            Rows(path)

    def test_of_a_killed_process_is_whole(self, path):
        script = (
            "import os, signal, sys; from pathlib import Path\n"
            "from psync.effects.store import Rows; from psync.core.entry import Agreed\n"
            "rows = Rows(Path(sys.argv[1]))\n"
            "for n in range(3):\n"
            "    record = Agreed(1, 0, 0, 0, n, 0, b'', b'', 1, 1, 1, 1)\n"
            "    rows.commit([(1, b'%d' % i, 0, record) for i in range(500)], [], 2 + n)\n"
            "os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        done = subprocess.run([sys.executable, "-c", script, path], check=False)
        assert done.returncode == -9

        rows = Rows(path)

        assert {record.size for _, _, record in rows.children(1)} == {2}
        assert (rows.count, rows.next_id, rows.moved_aside) == (500, 4, None)
        rows.close()


class TestIntents:
    def test_are_there_after_a_kill(self, tmp_path):
        first = Intents(tmp_path)
        first.append([b"one", b"two"])
        first.append([b""])
        first.append([])  # no close: killed

        assert Intents(tmp_path).load() == [b"one", b"two", b""]

    def test_make_no_file_before_the_first_record(self, tmp_path):
        intents = Intents(tmp_path)
        generation = intents.rotate()
        intents.drop(generation)

        assert list(tmp_path.iterdir()) == []

    def test_are_dropped_by_generation(self, tmp_path):
        intents = Intents(tmp_path)
        intents.append([b"old"])
        generation = intents.rotate()
        intents.append([b"new"])

        intents.drop(generation)

        assert intents.load() == [b"new"]
        intents.drop(intents.rotate())
        assert intents.load() == []
        assert list(tmp_path.iterdir()) == []

    def test_of_an_earlier_run_come_first_and_can_be_dropped(self, tmp_path):
        earlier = Intents(tmp_path)
        earlier.append([b"1"])
        earlier.rotate()
        earlier.append([b"2"])
        earlier.close()
        intents = Intents(tmp_path)
        intents.append([b"3"])

        assert intents.load() == [b"1", b"2", b"3"]
        intents.drop(intents.rotate())
        assert intents.load() == []

    def test_come_in_the_order_of_their_numbers(self, tmp_path):
        intents = Intents(tmp_path)
        for n in range(12):
            intents.append([b"%d" % n])
            intents.rotate()

        assert intents.load() == [b"%d" % n for n in range(12)]

    @pytest.mark.parametrize("cut", range(1, 13))
    def test_end_where_the_file_was_torn(self, tmp_path, cut):
        intents = Intents(tmp_path)
        intents.append([b"whole", b"torn"])
        intents.close()
        (torn,) = tmp_path.iterdir()
        os.truncate(torn, torn.stat().st_size - cut)

        again = Intents(tmp_path)
        again.append([b"next"])

        assert again.load() == [b"whole", b"next"]

    def test_end_where_the_file_is_garbled(self, tmp_path):
        intents = Intents(tmp_path)
        intents.append([b"whole", b"garbled", b"lost with it"])
        intents.close()
        (garbled,) = tmp_path.iterdir()
        garbled.write_bytes(garbled.read_bytes().replace(b"garbled", b"Garbled"))

        assert Intents(tmp_path).load() == [b"whole"]

    def test_leave_other_files_alone(self, tmp_path):
        for name in ("intents", "intents.x", "intents.1.bak", "archive.db"):
            (tmp_path / name).write_bytes(b"?")
        intents = Intents(tmp_path)
        intents.append([b"1"])

        intents.drop(intents.rotate())

        assert len(list(tmp_path.iterdir())) == 4

    def test_say_when_they_cannot_be_written(self, tmp_path):
        intents = Intents(tmp_path)
        tmp_path.joinpath("intents.1").mkdir()

        with pytest.raises(StoreError, match="cannot write"):
            intents.append([b"x"])

    def test_keep_no_torn_record_when_the_disk_is_full(self, tmp_path):
        """The limit on a file's size stands for the full disk: write(2) comes back short."""
        script = (
            "import resource, signal, sys; from pathlib import Path\n"
            "from psync.effects.store import Intents; from psync.errors import StoreError\n"
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            "intents = Intents(Path(sys.argv[1])); intents.append([b'a' * 500])\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, -1))\n"
            "try: intents.append([b'b' * 5000]); sys.exit('written')\n"
            "except StoreError: pass\n"
            "intents.append([b'c' * 100])\n"
        )
        subprocess.run([sys.executable, "-c", script, tmp_path], check=True)

        assert Intents(tmp_path).load() == [b"a" * 500, b"c" * 100]


class TestSessionDir:
    def test_is_private(self, tmp_path):
        session = SessionDir(tmp_path / "state", "home")
        session.lock()
        session.describe({"name": "home"})

        assert session.path.stat().st_mode & 0o777 == 0o700
        assert session.path.parent.stat().st_mode & 0o777 == 0o700
        assert all(p.stat().st_mode & 0o077 == 0 for p in session.path.iterdir())
        session.unlock()

    def test_is_made_private_again(self, tmp_path):
        path = tmp_path / "sessions" / "home"
        path.mkdir(parents=True)
        path.chmod(0o777)
        session = SessionDir(tmp_path, "home")

        session.lock()

        assert path.stat().st_mode & 0o777 == 0o700
        session.unlock()

    def test_is_for_one_at_a_time(self, tmp_path):
        first = SessionDir(tmp_path, "home")
        first.lock()

        with pytest.raises(UsageError, match=rf"already running \(pid {os.getpid()}\)"):
            SessionDir(tmp_path, "home").lock()
        other = SessionDir(tmp_path, "other")
        other.lock()
        first.unlock()
        first.unlock()
        again = SessionDir(tmp_path, "home")
        again.lock()

        again.unlock()
        other.unlock()

    def test_is_for_one_at_a_time_while_it_is_discarded(self, tmp_path, monkeypatch):
        first, second = SessionDir(tmp_path, "home"), SessionDir(tmp_path, "home")
        first.lock()
        flock = fcntl.flock

        def discarded_first(fd, how):
            monkeypatch.setattr(fcntl, "flock", flock)
            first.discard()
            first.unlock()
            flock(fd, how)

        monkeypatch.setattr(fcntl, "flock", discarded_first)
        second.lock()

        with pytest.raises(UsageError, match="already running"):
            SessionDir(tmp_path, "home").lock()
        second.unlock()

    @pytest.mark.parametrize(
        "kept", ["agreed", "stopped", "alerts.json", "archive.db-wal", "archive.db.broken-1", "x"]
    )
    def test_is_discarded_only_with_what_is_worth_nothing(self, tmp_path, kept):
        session = SessionDir(tmp_path, "home")
        session.lock()
        names = {"lock", "session.json", "psync.log", "archive.db", "intents.7", kept}
        for name in names:
            (session.path / name).touch()

        session.discard()
        assert set(os.listdir(session.path)) == names

        (session.path / kept).unlink()
        session.discard()
        assert not session.path.exists()
        session.unlock()

    def test_is_of_a_pair_once_it_knows_it_or_cannot_say(self, tmp_path):
        session = SessionDir(tmp_path, "home")
        assert is_of_no_pair(session)
        session.make()
        rows = Rows(session.database)
        rows.set_meta("boot", "1")
        rows.close()
        assert is_of_no_pair(session)

        rows = Rows(session.database)
        rows.set_meta("pair", "1234")
        rows.close()
        assert not is_of_no_pair(session)

        session.database.write_bytes(b"x" * 5000)
        assert not is_of_no_pair(session)

    def test_is_free_after_a_kill(self, tmp_path):
        script = (
            "import os, signal, sys; from pathlib import Path\n"
            "from psync.effects.state import SessionDir\n"
            "SessionDir(Path(sys.argv[1]), 'home').lock(); os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        subprocess.run([sys.executable, "-c", script, tmp_path], check=False)
        session = SessionDir(tmp_path, "home")

        session.lock()

        session.unlock()

    def test_says_when_the_state_cannot_be_there(self, tmp_path):
        (tmp_path / "file").write_text("")

        with pytest.raises(StoreError, match="--state-dir"):
            SessionDir(tmp_path / "file", "home").lock()

    @pytest.mark.parametrize("name", ["", "..", "a/b", ".hidden", "a b", "x" * 101, "a\n", "-r"])
    def test_refuses_a_name_that_leads_elsewhere(self, tmp_path, name):
        with pytest.raises(UsageError, match="is no name"):
            SessionDir(tmp_path, name)

    def test_names_a_pair_readably_and_stably(self, tmp_path):
        name = SessionDir.name_for("me@host", "/srv/my files", "/srv/x")

        assert name == SessionDir.name_for("me@host", "/srv/my files", "/srv/x")
        assert name.startswith("me@host-my_files-")
        assert name != SessionDir.name_for("me@host", "/srv/my files", "/srv/y")
        assert SessionDir.name_for(None, "/", "/mnt").startswith("local-root-")
        for left in ("/\udc80\n", "/" + "n" * 255, "/..", "/\u00e4"):
            SessionDir(tmp_path, SessionDir.name_for(None, left, "/x"))

    def test_is_listed(self, tmp_path):
        assert sessions(tmp_path / "nowhere") == []
        for name in ("b", "a"):
            (tmp_path / "sessions" / name).mkdir(parents=True)
        (tmp_path / "sessions" / ".not").mkdir()
        (tmp_path / "sessions" / "file").write_text("")

        assert [s.name for s in sessions(tmp_path)] == ["a", "b"]


class TestStateDirectory:
    def test_is_what_is_asked_for(self, monkeypatch, tmp_path):
        monkeypatch.setenv("PSYNC_STATE_DIR", "/from/environment")
        monkeypatch.chdir(tmp_path)

        assert state_directory("here") == tmp_path / "here"
        assert state_directory() == Path("/from/environment")

    def test_is_the_machines_for_root_and_the_users_for_a_user(self, monkeypatch):
        monkeypatch.delenv("PSYNC_STATE_DIR", raising=False)
        monkeypatch.setenv("HOME", "/home/me")
        monkeypatch.setenv("XDG_STATE_HOME", "/home/me/state")
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        assert state_directory() == Path("/var/lib/psync")

        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        assert state_directory() == Path("/home/me/state/psync")
        monkeypatch.setenv("XDG_STATE_HOME", "relative")
        assert state_directory() == Path("/home/me/.local/state/psync")
