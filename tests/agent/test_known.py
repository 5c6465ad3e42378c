"""What the brain knows already is known by state, never by name or time alone."""

from __future__ import annotations

import pytest

from psync.core.entry import Entry, Kind, content_digest
from psync.known import NOT_OURS, Known
from psync.wire import APPLIED, PUT, RENAME, Outcome, Transition

FILE = Entry(Kind.FILE, 0o644, 0, 0, 3, 1000, b"", content_digest(b"abc"), 7, 2000)
DIRECTORY = Entry(Kind.DIRECTORY, 0o755, 0, 0, 0, 1000, b"", b"", 8, 0)
LINK = Entry(Kind.SYMLINK, 0, 0, 0, 0, 1000, b"there", b"", 9, 2000)


def known(**own: Entry | None) -> Known:
    return Known({name.encode(): entry for name, entry in own.items()}, suppress=True)


class TestOurOwnWork:
    @pytest.mark.parametrize("entry", [FILE, DIRECTORY, LINK], ids=["file", "directory", "link"])
    @pytest.mark.parametrize("written", [True, False])
    def test_is_known_by_its_state(self, entry, written):
        assert known(p=entry).shows(b"p", entry, written=written)

    @pytest.mark.parametrize(
        "change",
        [
            {"mode": 0o600}, {"mtime_ns": 1001}, {"ctime_ns": 2001}, {"ino": 70}, {"size": 4},
            {"uid": 1}, {"kind": Kind.DIRECTORY},
        ],
        ids=lambda change: next(iter(change)),
    )  # fmt: skip
    @pytest.mark.parametrize("written", [True, False])
    def test_is_not_what_differs_at_the_same_name(self, change, written):
        memory = known(p=FILE)

        assert not memory.shows(b"p", FILE._replace(**change), written=written)
        assert memory.ours(b"p") is NOT_OURS  # nor will it be taken for ours later

    def test_is_known_by_its_bytes_where_it_was_written_to(self):
        """Who writes within one tick of the clock changes nothing but the bytes."""
        memory = known(p=FILE)
        other = FILE._replace(digest=content_digest(b"xyz"))

        assert not memory.shows(b"p", other, written=True)
        assert not memory.shows(b"p", FILE._replace(digest=b""), written=True)
        assert memory.shows(b"p", FILE._replace(digest=b""), written=False)

    def test_is_not_where_a_user_has_renamed_a_directory_above_it(self):
        memory = known(**{"d": DIRECTORY, "d/f": FILE})

        memory.directory_moved(b"d", b"e")

        assert not memory.shows(b"d/f", FILE, written=False)

    def test_stays_where_we_have_renamed_another_directory(self):
        memory = known(f=FILE)
        rename = Transition(1, RENAME, b"e", None, None, b"d", DIRECTORY)
        memory.applied([rename], [Outcome(1, APPLIED, DIRECTORY, "")])

        memory.directory_moved(b"d", b"e")

        assert memory.shows(b"f", FILE, written=False)

    def test_of_a_removal_is_what_is_not_there(self):
        memory = known(p=None)

        assert not memory.tell_absent(b"p")
        assert not memory.shows(b"p", FILE, written=False)
        assert memory.tell_absent(b"p")  # a user's, this time


class TestTold:
    def test_is_known_by_its_bytes_where_it_was_written_to(self):
        memory = known()
        memory.tell(b"p", FILE)

        assert memory.shows(b"p", FILE, written=True)
        assert not memory.shows(b"p", FILE._replace(digest=b"x" * 16), written=True)
        assert not memory.shows(b"p", FILE._replace(digest=b""), written=True)
        assert memory.shows(b"p", FILE._replace(digest=b""), written=False)

    def test_is_forgotten_where_we_change_it(self):
        memory = known()
        memory.tell(b"p", FILE)
        put = Transition(1, PUT, b"p", FILE, FILE, content=b"abc")

        memory.applied([put], [Outcome(1, APPLIED, FILE, "")])

        assert not memory.shows(b"p", FILE, written=False)
