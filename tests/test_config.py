"""Options: what a user may ask for, and how a mistake is answered."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from psync.config import (
    EXCLUDES,
    FIXED,
    REPLACED,
    TEMPFILES,
    Options,
    config_file,
    load_file,
    load_session,
    make_options,
    parse_setting,
)
from psync.core.ignore import Ignore
from psync.errors import ConfigError, UsageError

EXAMPLE = Path(__file__).parents[1] / "conf" / "psync.toml"
PAIR = {"name": "home", "left": "/l", "right": "/r", "host": "h"}


def options(**values) -> Options:
    return make_options({**PAIR, **values}, "here")


def table(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "psync.toml"
    file.write_text(text)
    return file


class TestOptions:
    def test_need_only_the_two_roots(self):
        made = make_options({"left": "/l", "right": "/r"}, "here")

        assert (made.left, made.right, made.host) == ("/l", "/r", None)
        assert made.name.startswith("local-l-")

    def test_have_lists_of_their_own(self):
        options().excludes.append("x")
        options().rsync_extra.append("x")

        assert "x" not in options().excludes
        assert options().rsync_extra == []

    def test_take_a_string_where_a_list_is_meant(self):
        made = options(
            excludes=r"re:\.o$",
            tempfiles="",
            rsync_excludes="*.o",
            rsync_extra="--bwlimit=10m -v",
            ssh_options="-o 'ProxyCommand=nc %h 22' -p 2222",
        )

        assert made.excludes == [r"re:\.o$"]
        assert made.tempfiles == []
        assert made.rsync_excludes == ["*.o"]
        assert made.rsync_extra == ["--bwlimit=10m", "-v"]
        assert made.ssh_options == ["-o", "ProxyCommand=nc %h 22", "-p", "2222"]

    def test_spell_a_root_in_one_way(self, monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HOME", "/home/me")

        assert options(left="//a//b/../c/").left == "/a/c"
        assert options(left="x").left == str(tmp_path / "x")
        assert options(left="~/x").left == "/home/me/x"
        assert options(right="~/x/").right == "x"
        assert options(right="~").right == options(right="~/").right == "."
        assert options(right="//srv//x/").right == "/srv/x"
        assert options(right="x", host=None).right == str(tmp_path / "x")

    def test_translate_the_path_of_the_right_root(self):
        assert options(right="/opt/a/x", translate="/opt/a:/srv/b").right == "/srv/b/x"
        assert options(right="/opt/a/x", translate="/opt:").right == "/a/x"

    def test_take_an_hour_for_a_list_of_one(self):
        assert options(fullsync=3).fullsync == [3]

    def test_take_a_number_of_deletions(self):
        assert options(max_delete=100).max_delete == "100"
        assert options(max_delete="100%").max_delete == "100%"
        assert options(max_delete="0").max_delete == "0"

    def test_keep_what_is_deleted_for_a_time_or_not_at_all(self):
        assert options().keep_deleted_s == 0
        assert options(trash="").keep_deleted_s == 0
        assert options(trash="2d").keep_deleted_s == 2 * 86400
        assert options().keep_edited_s == 0
        assert options(versions="12h").keep_edited_s == 12 * 3600

    def test_take_a_number_of_edits_or_none(self):
        assert options().max_rewrite == ""
        assert options(max_rewrite=1000).max_rewrite == "1000"
        assert options(max_rewrite="30%").max_rewrite == "30%"

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"max_delate": 1}, "here: unknown key max_delate: did you mean max_delete?"),
            ({"zzzzz": 1}, "here: unknown key zzzzz; there are: left, right, host"),
            ({"settle_ms": "fast"}, "here: settle_ms: Expected int, got str"),
            ({"settle_ms": -1}, "here: settle_ms: Expected int >= 0"),
            ({"settle_ms": True}, "here: settle_ms: Expected int, got bool"),
            ({"timeout": 61}, "here: timeout: Expected float <= 60.0"),
            ({"timeout": float("nan")}, "here: timeout: "),
            ({"max_delay": float("inf")}, "here: max_delay: "),
            (
                {"durability": "very"},
                "here: durability: Invalid enum value 'very'; there are: lazy, strict",
            ),
            (
                {"conflict": "oldest"},
                "here: conflict: Invalid enum value 'oldest'; there are: newest, left, right",
            ),
            ({"conflict": 1}, "here: conflict: Expected str, got int"),
            ({"trash": "soon"}, "here: trash: 'soon' is neither a time like 30d, 12h or 90s"),
            ({"trash": 30}, "here: trash: '30' is neither a time like 30d, 12h or 90s nor empty"),
            ({"trash": True}, "here: trash: Expected str, got bool"),
            ({"versions": "all"}, "here: versions: 'all' is neither a time like 30d, 12h or 90s"),
            ({"max_rewrite": "101%"}, "here: max_rewrite: '101%' is neither a number of"),
            ({"max_rewrite": -1}, "here: max_rewrite: '-1' is neither a number of entries nor"),
            ({"dry_run": "yes"}, "here: dry_run: Expected bool, got str"),
            ({"excludes": [1]}, "here: excludes: Expected str, got int"),
            ({"excludes": ["ok", "re:("]}, "here: excludes: 're:(' is no regular expression: mi"),
            ({"tempfiles": "[a"}, "here: tempfiles: '[a' is no pattern: a [ in it is never closed"),
            ({"rsync_excludes": "*\\"}, r"here: rsync_excludes: '*\\' is no pattern: it ends in a"),
            ({"rsync_excludes": ["a", "- a**b"]}, "here: rsync_excludes: '- a**b' has ** beside "),
            ({"rsync_excludes": "+ "}, "here: rsync_excludes: '+ ' is no pattern: it is empty"),
            ({"max_delete": "half"}, "here: max_delete: 'half' is neither a number"),
            ({"max_delete": "101%"}, "here: max_delete: '101%' is neither a number"),
            ({"max_delete": -1}, "here: max_delete: '-1' is neither a number"),
            ({"translate": "x"}, "here: translate: 'x' is not FROM:TO"),
            ({"translate": ":x"}, "here: translate: ':x' is not FROM:TO"),
            ({"translate": "/r:"}, "here: translate: '/r:' leaves nothing of right"),
            ({"banned": ""}, "here: banned: an empty name"),
            ({"fullsync": [1, 24]}, "here: fullsync: Expected int <= 23"),
            ({"etimeout": 0}, "here: etimeout: Expected int >= 1"),
            ({"acl_from_left_only": True}, 'here: acl_from_left_only: say meta_from = "left"'),
            ({"dryrun": True}, "here: dryrun: say dry_run"),
            ({"rsync_style": 2}, "here: rsync_style: an echo is dropped, everything else"),
            ({"host": ""}, "here: host: '' is no host name"),
            ({"host": "-oProxyCommand=x"}, "here: host: '-oProxyCommand=x' is no host name"),
            ({"host": "a b"}, "here: host: 'a b' is no host name"),
            ({"log_file": ""}, "here: log_file: Expected str of length >= 1"),
            ({"right": "~me/x"}, "here: right: '~me/x': name another user's home by its path"),
            ({"timeout": "\ud800"}, "here: a value that is to be a number is no text at all"),
            ({"excludes": "\udcff"}, r"here: excludes: '\udcff' is no UTF-8"),
            ({"left": ""}, "here: left: Expected str of length >= 1"),
            ({"left": "/a\0b"}, "here: left: a path cannot hold a NUL"),
            ({"host": None, "right": "/l/"}, "here: left and right are the same directory: /l"),
            ({"rsync_extra": "--max-size=90M"}, "here: rsync_extra: '--max-size=90M' is not one"),
            ({"rsync_extra": "-zn"}, "here: rsync_extra: '-zn' is not one of those that say only"),
            ({"rsync_extra": ["--timeout 9"]}, "here: rsync_extra: '--timeout 9' is not one of"),
            ({"rsync_extra": ["--exclude=*"]}, "here: rsync_extra: '--exclude=*' is not one of"),
            ({"rsync_extra": ["--size-only"]}, "here: rsync_extra: '--size-only' is not one of"),
            ({"rsync_extra": ["--bwlimit"]}, "here: rsync_extra: '--bwlimit' is not one of"),
            ({"rsync_extra": ["--compress=9"]}, "here: rsync_extra: '--compress=9' is not one"),
            ({"rsync_extra": ["--info=a\0"]}, "here: rsync_extra: '--info=a\\x00' is not one"),
            ({"rsync_extra": ["90M"]}, "here: rsync_extra: '90M' is not one of those"),
            (
                {"sync_only": True, "skip_initial_sync": True},
                "here: sync_only and skip_initial_sync: it would end before anything is compared",
            ),
            ({"ssh_options": "-o 'x"}, "here: ssh_options: no closing quotation"),
        ],
    )
    def test_are_refused_in_one_line(self, values, message):
        with pytest.raises(ConfigError) as caught:
            options(**values)

        assert str(caught.value).startswith(message)
        assert "\n" not in str(caught.value)

    def test_without_a_root_are_refused(self):
        with pytest.raises(ConfigError, match="here: missing key right"):
            make_options({"left": "/l"}, "here")


class TestSetting:
    @pytest.mark.parametrize(
        ("text", "setting"),
        [
            ("settle_ms=20", ("settle_ms", 20)),
            ("settle-ms = 20", ("settle_ms", 20)),
            ("dry_run=true", ("dry_run", True)),
            ("max_delete=30%", ("max_delete", "30%")),
            ("host=a.example.org", ("host", "a.example.org")),
            ("ssh_options=-p 22 -o A=B", ("ssh_options", "-p 22 -o A=B")),
            ('excludes=["a", "b"]', ("excludes", ["a", "b"])),
            ("log_file=", ("log_file", "")),
            ("x=1\ny=2", ("x", "1\ny=2")),
        ],
    )
    def test_is_toml_or_else_text(self, text, setting):
        assert parse_setting(text) == setting

    @pytest.mark.parametrize("text", ["settle_ms", "=5", ""])
    def test_without_a_key_and_a_value_is_refused(self, text):
        with pytest.raises(UsageError, match="is not KEY=VALUE"):
            parse_setting(text)


class TestFile:
    def test_has_a_table_for_each_session(self, tmp_path):
        file = table(tmp_path, '[session.a]\nleft="/a"\n[session.b]\nleft="/b"\n')

        assert load_session(file, "b") == ({"left": "/b"}, f"{file}: [session.b]")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("[session.b]\n", "no session 'a'; did you mean|no session 'a'; there are: b"),
            ("[session.ab]\n", "no session 'a'; did you mean ab?"),
            ("", "no session 'a'; there are: none"),
            ("x = 1", r"unknown table \[x\]"),
            ("[sesion.a]", r"unknown table \[sesion\]"),
            ("session = 1", "session is no table"),
            ("[session]\na = 1", r"\[session.a\] is no table"),
            ('[session.a]\nname = "x"', r"\[session.a\]: unknown key name"),
            ("[session.a", "is no TOML"),
        ],
    )
    def test_is_refused_with_its_name(self, tmp_path, text, message):
        file = table(tmp_path, text)

        with pytest.raises(ConfigError, match=message) as caught:
            load_session(file, "a")

        assert str(file) in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_that_is_not_text_is_refused(self, tmp_path):
        file = tmp_path / "psync.toml"
        file.write_bytes(b"\xff\xfe")

        with pytest.raises(ConfigError, match="is no TOML"):
            load_session(file, "a")

    def test_that_is_missing_is_refused(self, tmp_path):
        with pytest.raises(ConfigError, match="cannot read"):
            load_session(tmp_path / "none", "a")

    def test_that_has_no_end_is_refused(self, tmp_path):
        (tmp_path / "vast").touch()
        os.truncate(tmp_path / "vast", 1 << 40)

        with pytest.raises(ConfigError, match="vast has more than 4 MiB: that is no config"):
            load_session(tmp_path / "vast", "a")

    @pytest.mark.parametrize("kind", ["a FIFO", "a device", "a directory", "an open pipe"])
    def test_that_is_no_regular_file_is_refused(self, tmp_path, kind):
        """A FIFO would be waited for; a pipe could not be read again."""
        os.mkfifo(tmp_path / "fifo")
        reader, writer = os.pipe()
        files = {
            "a FIFO": tmp_path / "fifo",
            "a device": Path("/dev/zero"),
            "a directory": tmp_path,
            "an open pipe": Path(f"/dev/fd/{reader}"),
        }
        os.write(writer, b"[session.a]")
        os.close(writer)

        with pytest.raises(ConfigError, match=f"^{files[kind]} is no regular file$"):
            load_file(files[kind])
        os.close(reader)

    def test_may_be_none_at_all(self):
        assert load_file(Path("/dev/null")) == {}

    def test_is_the_users_own_or_the_machines(self, tmp_path, monkeypatch):
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
        (tmp_path / "psync").mkdir()
        own = table(tmp_path / "psync", "")

        assert config_file() == own
        assert config_file("other") == Path("other")


class TestExample:
    """conf/psync.toml, from which people copy."""

    def test_explains_every_key(self):
        text = EXAMPLE.read_text()

        for key in Options.__struct_fields__:
            if key != "name":
                assert f"\n{key} = " in text or f"\n# {key} = " in text, key

    def test_shows_the_defaults(self):
        values, where = load_session(EXAMPLE, "example")
        shown = make_options(values, where)
        default = make_options({k: values[k] for k in ("left", "right", "host")}, where)

        assert shown == default

    def test_marks_what_waits_for_a_restart(self):
        marked = set()
        for line in EXAMPLE.read_text().splitlines():
            key = re.match(r"(?:# )?(\w+) = ", line)
            if key and "(R)" in line:
                marked.add(key[1])

        assert marked == FIXED - {"name"}

    def test_tells_what_took_the_place_of_the_originals(self):
        lines = [line.split(maxsplit=2) for line in EXAMPLE.read_text().splitlines()]

        for key, instead in REPLACED.items():
            assert ["#", key, instead] in lines

    def test_is_right_where_it_is_commented_out(self):
        text = EXAMPLE.read_text()
        for key in ("ssh_options", "translate", "banned", "log_file"):
            text = text.replace(f"\n# {key} = ", f"\n{key} = ")

        make_options(tomllib.loads(text)["session"]["example"], "example")


class TestPatterns:
    @pytest.mark.parametrize(
        ("pattern", "hidden", "shown"),
        [
            ("*.iso", [b"x.iso", b"d/x.iso"], [b"x"]),
            ("/d", [b"d"], [b"e/d"]),
            ("a/b", [b"a/b", b"e/a/b"], [b"b"]),
            ("d/", [b"d/x"], [b"d"]),
            ("d/***", [b"d/x", b"e/d/x"], [b"x"]),
            ("!x", [b"!x"], [b"x"]),
            ("re:x", [b"re:x"], [b"x"]),
        ],
    )
    def test_of_rsync_mean_what_they_mean_there(self, pattern, hidden, shown):
        ignore = Ignore(options(rsync_excludes=pattern).all_excludes())

        assert [path for path in hidden if not ignore(path)] == []
        assert [path for path in shown if ignore(path)] == []

    @pytest.mark.parametrize(
        "patterns",
        [
            ["- a", "+ b", "x*"],
            ["+ a", "a", "+ /b/***", "- /b"],
            ["+ a/***", "*"],
            ["+ */", "+ x*", "*"],
            ["a", "!", "b"],
            ["!a", "#x", ";x", "- re:a"],
            ["a/**/b"],
            ["/a/**/b"],
            ["/**/b"],
            ["**/a/**/b"],
            ["a/**"],
            ["/a/**/"],
            ["+ **/b", "**/a/**"],
            ["x\\"],
            ["x\\[a]"],
            ["a/b/", "/x*", "- b/a"],
        ],
        ids=" ".join,
    )
    def test_of_rsync_hide_what_rsync_hides(self, tmp_path, patterns):
        names = ("a", "b", "x[a]", "x\\", "!a", "#x", ";x", "re:a")
        paths = {}
        for deep in range(1, 5):
            for path in itertools.product(*["ab"] * (deep - 1), names):
                there = tmp_path.joinpath("root", *path)
                paths["/".join(path)] = directory = path[-1] in "ab" and deep < 4
                there.mkdir(parents=True) if directory else there.touch()
        ask = ["rsync", "-rn8", "--out-format=%n", *(f"--exclude={each}" for each in patterns)]

        done = subprocess.run([*ask, "root/", "to/"], cwd=tmp_path, capture_output=True, check=True)
        ignore = Ignore(options(rsync_excludes=patterns).all_excludes())

        shown = {p for p, directory in paths.items() if not ignore(p.encode(), directory)}
        there = {line.removesuffix("/") for line in done.stdout.decode().splitlines()}
        assert shown == {each.replace("\\#134", "\\") for each in there} & set(paths)

    def test_of_excludes_have_the_last_word(self):
        made = options(rsync_excludes="*.iso", excludes="!keep.iso")

        assert not Ignore(made.all_excludes())(b"keep.iso")

    @pytest.mark.parametrize("name", ["d/.#f", "d/~$f.docx", "d/.~lock.f.odt#", "f.~tmp~"])
    def test_w03_w05_by_default_hide_the_locks_of_editors(self, name: str) -> None:
        assert Ignore(EXCLUDES, TEMPFILES)(name.encode())

    @pytest.mark.parametrize("name", ["f~", ".f.swp", "#f#", ".bashrc.backup", "f.tmp", "d/~f"])
    def test_w03_by_default_hide_nothing_that_a_user_may_want(self, name: str) -> None:
        assert not Ignore(EXCLUDES, TEMPFILES)(name.encode())
