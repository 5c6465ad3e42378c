"""Entries, paths, and what people see of them."""

from __future__ import annotations

import codecs
import struct
from hashlib import blake2b

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from psync.core.entry import (
    META_FIELDS,
    ROOT,
    Agreed,
    Entry,
    Kind,
    Side,
    ancestors,
    below_or_at,
    content_digest,
    directory_digest,
    is_below,
    is_ours,
    join,
    parent,
    printable,
    split,
    valid_path,
)

FILE = Entry(Kind.FILE, 0o644, 1, 2, 5, 1_000, b"", b"", 7, 2_000)
DIRECTORY = Entry(Kind.DIRECTORY, 0o755, 1, 2, 0, 1_000, b"", b"", 8, 0)
LINK = Entry(Kind.SYMLINK, 0, 1, 2, 0, 1_000, b"to", b"", 9, 3_000)

names = st.binary(min_size=1, max_size=12).filter(
    lambda n: b"/" not in n and b"\0" not in n and n not in (b".", b"..", b".psync")
)
paths = st.lists(names, max_size=4).map(b"/".join)


class TestSide:
    def test_other_is_the_opposite(self):
        assert Side.LEFT.other is Side.RIGHT
        assert Side.RIGHT.other is Side.LEFT


class TestIdentity:
    @pytest.mark.parametrize(
        ("ours", "theirs", "same"),
        [
            pytest.param(FILE, FILE, True, id="the same look"),
            pytest.param(FILE, None, False, id="nothing"),
            pytest.param(FILE, FILE._replace(ino=1), False, id="another inode"),
            pytest.param(FILE, FILE._replace(ctime_ns=1), False, id="another ctime"),
            pytest.param(FILE, FILE._replace(size=1), False, id="another size"),
            pytest.param(FILE, FILE._replace(mtime_ns=1), False, id="another mtime"),
            pytest.param(FILE, FILE._replace(kind=Kind.SYMLINK), False, id="another kind"),
            pytest.param(FILE, FILE._replace(digest=b"d"), True, id="a digest known meanwhile"),
            pytest.param(LINK, LINK, True, id="the same link"),
            pytest.param(
                DIRECTORY,
                DIRECTORY._replace(ctime_ns=1, mtime_ns=1),
                True,
                id="a directory in which names changed",
            ),
            pytest.param(DIRECTORY, DIRECTORY._replace(ino=1), False, id="another directory"),
        ],
    )
    def test_is_that_of_one_version_on_one_replica(self, ours, theirs, same):
        assert ours.same_identity(theirs) is same

    @pytest.mark.parametrize(
        ("kind", "mtime", "since", "tells"),
        [
            (Kind.FILE, 1_700_000_000_123_456_789, 20_000_000, True),
            (Kind.FILE, 1_700_000_000_123_456_789, 19_999_999, False),  # within the clock's tick
            (Kind.FILE, 1_700_000_000_123_456_789, -20_000_000, True),  # a time to come
            (Kind.FILE, 1_700_000_001_000_000_000, 1_999_999_999, False),
            (Kind.FILE, 1_700_000_001_000_000_000, 2_000_000_000, True),
            (Kind.FILE, 1_700_000_100_000_000_000, 60_000_000_000, False),  # to the minute
            (Kind.FILE, 0, 1_700_000_000_123_456_789, False),
            (Kind.DIRECTORY, 0, 0, True),
            (Kind.SYMLINK, 1_700_000_000_000_000_000, 0, True),
        ],
    )
    def test_tells_writes_unless_its_time_is_as_new_as_it_is_coarse(
        self, kind, mtime, since, tells
    ):
        entry = FILE._replace(kind=kind, mtime_ns=mtime, ctime_ns=mtime + since)
        assert entry.tells_writes() is tells

    @pytest.mark.parametrize("field", Entry._fields)
    def test_of_metadata_counts_mode_owner_group_and_mtime(self, field):
        is_bytes = field in ("target", "digest", "xattrs")
        other = FILE._replace(**{field: b"x" if is_bytes else 3})

        assert FILE.same_meta(other) is (field not in META_FIELDS)

    def test_of_what_was_agreed_is_each_sides_own(self):
        agreed = Agreed(*FILE[:8], 10, 11, 20, 21)

        assert agreed.on(Side.LEFT) == FILE._replace(ino=10, ctime_ns=11)
        assert agreed.on(Side.RIGHT) == FILE._replace(ino=20, ctime_ns=21)


class TestDigest:
    def test_of_content_is_blake2b_of_sixteen_bytes(self):
        assert content_digest(b"abc") == blake2b(b"abc", digest_size=16).digest()

    def test_of_a_directory_is_over_the_records_that_are_documented(self):
        late = FILE._replace(mtime_ns=-1)  # before 1970: two's complement
        expected = blake2b(
            struct.pack("<QHII", 1_000, 0o755, 1, 2)
            + struct.pack("<I", 1)
            + b"a"
            + struct.pack("<BHIIQQQQ", 1, 0o644, 1, 2, 5, (1 << 64) - 1, 7, 2_000)
            + struct.pack("<I", 2)
            + b"bb"
            + struct.pack("<BHIIQQQQ", 2, 0o755, 1, 2, 0, 0, 8, 0),
            digest_size=16,
        ).digest()

        assert directory_digest(DIRECTORY, [(b"a", late), (b"bb", DIRECTORY)]) == expected

    def test_of_a_directory_counts_no_times_of_subdirectories(self):
        busy = DIRECTORY._replace(mtime_ns=5, ctime_ns=6, size=4096)

        assert directory_digest(DIRECTORY, [(b"d", busy)]) == directory_digest(
            DIRECTORY, [(b"d", DIRECTORY)]
        )

    @pytest.mark.parametrize("field", ["mode", "uid", "gid", "size", "mtime_ns", "ino", "ctime_ns"])
    def test_of_a_directory_changes_with_a_file(self, field):
        other = FILE._replace(**{field: 3})

        assert directory_digest(DIRECTORY, [(b"f", FILE)]) != directory_digest(
            DIRECTORY, [(b"f", other)]
        )

    @pytest.mark.parametrize("field", ["mode", "uid", "gid", "mtime_ns"])
    def test_of_a_directory_changes_with_its_own_metadata(self, field):
        other = DIRECTORY._replace(**{field: 3})

        assert directory_digest(DIRECTORY, []) != directory_digest(other, [])


class TestPath:
    @pytest.mark.parametrize(
        ("path", "directory", "name"),
        [(b"", b"", b""), (b"a", b"", b"a"), (b"a/b", b"a", b"b"), (b"a/b/c", b"a/b", b"c")],
    )
    def test_is_a_directory_and_a_name(self, path, directory, name):
        assert split(path) == (directory, name)
        assert parent(path) == directory

    @given(paths, names)
    def test_that_is_joined_can_be_split(self, directory, name):
        assert split(join(directory, name)) == (directory, name)
        assert is_below(join(directory, name), directory)

    def test_has_ancestors_up_to_the_root(self):
        assert list(ancestors(b"a/b/c")) == [b"a/b", b"a", ROOT]
        assert list(ancestors(b"a")) == [ROOT]
        assert list(ancestors(ROOT)) == []

    @given(paths, paths)
    def test_is_below_its_ancestors_only(self, path, directory):
        assert is_below(path, directory) is (directory in ancestors(path))
        assert below_or_at(path, directory) is (path == directory or is_below(path, directory))

    @pytest.mark.parametrize(
        ("path", "directory", "below"),
        [
            (b"a/b", b"a", True),
            (b"a", b"a", False),
            (b"ab", b"a", False),
            (b"a", b"", True),
            (b"", b"", False),
            (b"a", b"a/b", False),
        ],
    )
    def test_is_below_a_directory_not_a_prefix(self, path, directory, below):
        assert is_below(path, directory) is below

    @pytest.mark.parametrize(
        "path",
        [
            b".psync",
            b".psync/conflicts/x",
            b"a/.psync",
            b"a/.psync/marker",
            b"a.psync.ignore",
            b"a/.psync.ignore",
            b"b.psync.ignore/c",
        ],
    )
    def test_of_psync_is_never_replicated(self, path):
        assert is_ours(path)

    @pytest.mark.parametrize(
        "path", [b"", b".psyncs", b"a/.psyncs", b"a.psync.ignored", b"a.psync.ignored/b"]
    )
    def test_that_only_looks_like_psyncs_is_the_users(self, path):
        assert not is_ours(path)


class TestValidPath:
    @given(paths)
    @example(b"\n")
    @example(b"\xff/...")
    @example(b"x" * 255)
    @example(b"a/.psyncs")
    @example(b"/".join([b"x" * 255] * 255))
    def test_takes_every_path_inside_the_root(self, path):
        assert valid_path(path)

    @pytest.mark.parametrize(
        "path",
        [
            pytest.param(b"/", id="the host's root"),
            pytest.param(b"/etc/passwd", id="absolute"),
            pytest.param(b"..", id="above"),
            pytest.param(b"a/../../b", id="above, by a detour"),
            pytest.param(b"a/..", id="the root, by a detour"),
            pytest.param(b".", id="a dot"),
            pytest.param(b"a/./b", id="a dot inside"),
            pytest.param(b"a//b", id="an empty component"),
            pytest.param(b"a/", id="a slash at the end"),
            pytest.param(b"a\0b", id="a NUL"),
            pytest.param(b".psync", id="psync's own directory"),
            pytest.param(b".psync/marker", id="in psync's own directory"),
            pytest.param(b"a/.psync/marker", id="in another pair's"),
            pytest.param(b"a/" + b"x" * 256, id="a name too long"),
            pytest.param(b"/".join([b"x"] * 32769), id="a path too long"),
        ],
    )
    def test_refuses_everything_else(self, path):
        assert not valid_path(path)


class TestDirectoryDigest:
    def test_tells_the_attributes_of_the_directory_itself(self):
        own = Entry(Kind.DIRECTORY, 0o755, 0, 0, 0, 5, b"", b"", 2, 0)
        child = (b"f", FILE)

        digests = {
            directory_digest(own, [child]),
            directory_digest(own._replace(xattrs=b"attributes"), [child]),
            directory_digest(own, [(b"f", FILE._replace(xattrs=b"attributes"))]),
        }

        assert len(digests) == 2  # a file's show in its ctime


class TestPrintable:
    @pytest.mark.parametrize(
        ("path", "text"),
        [
            (b"", "."),
            (b"a b/c", "a b/c"),
            ("prüfung/日本".encode(), "prüfung/日本"),
            (b"a\nb", "a\\nb"),
            (b"\x1b[2J", "\\x1b[2J"),
            (b"a\\nb", "a\\\\nb"),
            (b"\xff", "\\xff"),
            ("\u0085".encode(), "\\xc2\\x85"),
            ("\u202egpj.exe".encode(), "\\xe2\\x80\\xaegpj.exe"),
            ("\ud800".encode("utf-8", "surrogatepass"), "\\xed\\xa0\\x80"),
        ],
    )
    def test_escapes_what_a_terminal_would_act_on(self, path, text):
        assert printable(path) == text

    @given(st.binary(min_size=1) | st.text(min_size=1).map(lambda t: t.encode("utf-8", "replace")))
    def test_forges_no_line_and_can_be_read_back(self, path):
        text = printable(path)

        assert text.isprintable()
        assert len(text.splitlines()) == 1
        assert codecs.escape_decode(text.encode())[0] == path
