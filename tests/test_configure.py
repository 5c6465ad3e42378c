"""`psync config`: what is configured, and whether it is right."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from psync import configure
from psync.alerts import load_alerts
from psync.config import Options, load_session, make_options
from psync.errors import ConfigError
from psync.runcheck import load_rules

EXAMPLE = Path(__file__).parents[1] / "conf" / "psync.toml"


def file(tmp_path: Path, text: str, name: str = "psync.toml") -> str:
    path = tmp_path / name
    path.write_text(text)
    return str(path)


class TestCheck:
    def test_finds_nothing_wrong_with_the_example(self) -> None:
        told, wrong = configure.check(str(EXAMPLE))

        assert wrong == []
        assert told == [f"{EXAMPLE}: 1 session, nothing wrong"]

    def test_says_of_every_session_what_is_wrong(self, tmp_path: Path) -> None:
        path = file(
            tmp_path,
            '[session.a]\nleft="/a"\nright="/b"\nsettl_ms=1\n[session.b]\nleft="/a"\n'
            '[session.c]\nleft="/c"\nright="/d"\n[session."d/e"]\nleft="/l"\n'
            'right="/r"\nname="x"\n',
        )

        told, wrong = configure.check(path)

        assert told == []
        assert wrong == [
            f"{path}: [session.a]: unknown key settl_ms: did you mean settle_ms?",
            f"{path}: [session.b]: missing key right",
            f"{path}: [session.d/e]: unknown key name: the table's name is the session's",
        ]

    @pytest.mark.parametrize("name", ["a/b", "..", "x" * 101, "d e"])
    def test_finds_a_name_that_no_session_can_have(self, tmp_path: Path, name: str) -> None:
        path = file(tmp_path, f'[session."{name}"]\nleft="/a"\nright="/b"\n')

        told, (wrong,) = configure.check(path)

        assert told == []
        assert wrong.startswith(f"{path}: [session.{name}]: {name!a} is no name for a session: ")

    @pytest.mark.parametrize(
        ("first", "second", "trouble"),
        [
            pytest.param("/a /b", "/c /a", "right: /a is the left of [session.one]", id="crossed"),
            pytest.param("/a h:/b", "/c h:/b", "right: /b is the right of [session.one]", id="far"),
            pytest.param("/a h:/b", "LINK /c", "left: /a is the left of", id="by a link"),
            pytest.param("/a h:/b", "/c /b", "", id="another host's"),
            pytest.param("/a h:/b", "/c i:/b", "", id="two hosts"),
            pytest.param("/x /y", "/a /a/b", "/a/b is /a, or inside it", id="right in left"),
            pytest.param("/x /y", "/a/b /", "/a/b is /, or inside it", id="left in right"),
            pytest.param("/x /y", "LINK /a", "/a is /a, or inside it", id="same by a link"),
            pytest.param("/x /y", "/a h:/a/b", "", id="as if nested, on another host"),
        ],
    )
    def test_finds_roots_that_overlap(
        self, tmp_path: Path, first: str, second: str, trouble: str
    ) -> None:
        (tmp_path / "link").symlink_to("/a")
        text = ""
        for name, roots in (("one", first), ("two", second)):
            left, right = roots.replace("LINK", str(tmp_path / "link")).split()
            host, _, path = right.rpartition(":")
            text += f'[session.{name}]\nleft="{left}"\nright="{path}"\n'
            text += f'host="{host}"\n' if host else ""

        _, wrong = configure.check(file(tmp_path, text))

        assert len(wrong) == bool(trouble)
        assert trouble in "".join(wrong)
        assert all("[session.two]: " in line for line in wrong)

    @pytest.mark.parametrize(
        ("outer", "inner", "said"),
        [
            ("/a h:/b", "/a/d i:/c", ["left: /a/d is inside the left of [session.one]"]),
            ("/a h:b", "/c h:b/d", ["right: b/d is inside the right of [session.one]"]),
            ("/a /b", "/b/d h:/c", ["left: /b/d is inside the right of [session.one]"]),
            ("/ h:/b", "LINK h:/b/d", ["left: /a is inside the left", "right: /b/d is inside"]),
            ("/a h:/b", "/ab h:/bc", []),
            ("/a h:/b", "/c i:/b/d", []),
            ("/a h:/b", "/a/x.tmp h:/b/d/own/e", []),  # left out
        ],
    )
    def test_wonders_at_a_root_inside_of_another_sessions(
        self, tmp_path: Path, outer: str, inner: str, said: list[str]
    ) -> None:
        (tmp_path / "link").symlink_to("/a")
        text = ""
        for name, roots in (("two", inner), ("one", outer)):
            left, right = roots.replace("LINK", str(tmp_path / "link")).split()
            host, _, root = right.rpartition(":")
            text += f'[session.{name}]\nleft="{left}"\nright="~/{root}"\n'.replace("~//", "/")
            text += f'host="{host}"\n' if host else ""
        text += 'excludes=["own/"]\ntempfiles=["*.tmp"]\n'
        path = file(tmp_path, text)

        told, wrong = configure.check(path)

        assert wrong == []
        assert len(told[:-1]) == len(said)
        for line, begin in zip(told, said, strict=False):
            assert line.startswith(f"{path}: [session.two]: {begin}")
            assert "[session.one], and both replicate it: name it in the excludes" in line

    @pytest.mark.parametrize(
        ("more", "inside"),
        [
            ('log_file="/a/psync.log"', "/a"),
            ('log_file="/b/logs/psync.log"', "/b"),
            ('log_file="LINK/psync.log"', "/a"),
            ('log_file="/b/psync.log"\nhost="h"', ""),
            ('log_file="/ab/psync.log"', ""),
        ],
    )
    def test_finds_a_log_that_would_be_replicated(
        self, tmp_path: Path, more: str, inside: str
    ) -> None:
        (tmp_path / "link").symlink_to("/a")
        more = more.replace("LINK", str(tmp_path / "link"))

        _, wrong = configure.check(file(tmp_path, f'[session.a]\nleft="/a"\nright="/b"\n{more}\n'))

        assert len(wrong) == bool(inside)
        assert all(f"is inside {inside}, and would be replicated" in line for line in wrong)

    def test_finds_a_log_that_is_a_directory(self, tmp_path: Path) -> None:
        text = f'[session.a]\nleft="/a"\nright="/b"\nlog_file="{tmp_path}"\n'
        path = file(tmp_path, text)

        _, wrong = configure.check(path)

        assert wrong == [f"{path}: [session.a]: log_file: {tmp_path} is a directory"]

    @pytest.mark.parametrize(
        ("more", "said"),
        [
            ('left="a"\nright="/b"', "left: 'a' is relative, "),
            ('left="./a"\nright="/b"\nhost="h"', "left: './a' is relative, "),
            ('left="/a"\nright="b"', "right: 'b' is relative, "),
            ('left="/a"\nright="/b"\nlog_file="logs/x"', "log_file: 'logs/x' is relative, "),
            ('left="~/a"\nright="b"\nhost="h"', ""),  # there it is below the home directory
        ],
    )
    def test_finds_a_path_that_is_relative(self, tmp_path: Path, more: str, said: str) -> None:
        """The command line's are to where its user is; whose would these be?"""
        path = file(tmp_path, f"[session.a]\n{more}\n")

        _, wrong = configure.check(path)

        assert len(wrong) == bool(said)
        assert all(line.startswith(f"{path}: [session.a]: {said}") for line in wrong)

    @pytest.mark.parametrize(
        ("more", "why"),
        [
            ("ssh_options='x'", "'x' is no ssh option"),
            ("ssh_options='-Z'", "-Z means nothing to psync"),
            ("ssh_options='-p'", "-p needs a value"),
            ("ssh_options='-p abc'", "abc"),
            ("ssh_options='-F /nonexistent'", "/nonexistent cannot be read"),
            ("ssh_options='-F FIFO'", "-F: FIFO is no regular file"),
            ("ssh_options='-o UserKnownHostsFile=FIFO'", "FIFO is no regular file"),
            ("ssh_options='-F /dev/null -o UserKnownHostsFile=/dev/null'", ""),
            ("ssh_options='-o StrictHostKeyChecking=no'", "psync checks host keys, always"),
            ("host='user@'", "'user@' is no host"),
            ("ssh_options='-p 2222 -o ConnectTimeout=5'", ""),
        ],
    )
    def test_finds_what_no_connection_can_be_made_by(
        self, tmp_path: Path, more: str, why: str
    ) -> None:
        host = "" if more.startswith("host") else 'host="h"\n'
        os.mkfifo(tmp_path / "FIFO")
        more, why = (text.replace("FIFO", f"{tmp_path}/FIFO") for text in (more, why))

        _, wrong = configure.check(
            file(tmp_path, f'[session.a]\nleft="/a"\nright="/b"\n{host}{more}\n')
        )

        assert len(wrong) == bool(why)
        assert all("[session.a]: " in line and why in line for line in wrong)

    @pytest.mark.parametrize(
        ("option", "words"),
        [
            ("--bwlimit=foo", "--bwlimit=foo is invalid"),
            ("--info=nothing", 'Unknown --info item: "nothing"'),
            ("--compress-choice=foo", "unknown compress name: foo"),
            ("--bwlimit=10m", ""),
            ("--debug=all", ""),
        ],
    )
    def test_says_in_its_own_words_what_rsync_does_not_take(
        self, tmp_path: Path, option: str, words: str
    ) -> None:
        text = f"[session.a]\nleft='/a'\nright='/b'\nrsync_extra=['-v', '{option}']\n"
        path = file(tmp_path, text)

        _, wrong = configure.check(path)

        said = f"{path}: [session.a]: rsync_extra: '{option}': rsync says: {words}"
        assert wrong == ([said] if words else [])

    def test_does_without_rsync_where_there_is_none(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        text = "[session.a]\nleft='/a'\nright='/b'\nrsync_extra='--bwlimit=foo'\n"

        assert configure.check(file(tmp_path, text))[1] == []

    def test_does_not_wait_for_a_disk_to_say_what_can_be_started(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = file(
            tmp_path,
            '[session.a]\nleft="/a"\nright="/b"\n[session.b]\nleft="/b"\nright="/c"\n'
            '[session.c]\nleft="/d/e"\nright="/d"\n[session.d]\nleft="/f"\nright="/g"\n',
        )
        monkeypatch.setattr(os.path, "realpath", lambda path: pytest.fail("looked at a root"))

        assert list(configure.faults(Path(path))) == ["b", "c"]

    def test_wonders_at_patterns_that_look_like_expressions(self, tmp_path: Path) -> None:
        path = file(
            tmp_path,
            "[session.a]\nleft='/a'\nright='/b'\nexcludes=['\\.o$', 're:\\.o$', '~$*', '*.o']\n",
        )

        told, wrong = configure.check(path)

        assert wrong == []
        assert len(told) == 2
        assert "excludes: '\\\\.o$' looks like a regular expression" in told[0]

    @pytest.mark.parametrize(
        ("pattern", "odd"), [("# of mine", True), ("; x", True), ("#*#", False), ("- # x", False)]
    )
    def test_wonders_at_patterns_that_look_like_comments(
        self, tmp_path: Path, pattern: str, odd: bool
    ) -> None:
        text = f"[session.a]\nleft='/a'\nright='/b'\nrsync_excludes=['{pattern}']\n"
        path = file(tmp_path, text)

        told, wrong = configure.check(path)

        assert wrong == []
        assert len(told[:-1]) == odd
        assert f"rsync_excludes: '{pattern}' looks like a comment" in told[0] or not odd

    @pytest.mark.parametrize(
        ("translate", "idle"),
        [("/x:/y", True), ("/b:/b", True), ("/B:/y", True), ("/b:/y", False), ("/b:", False)],
    )
    def test_wonders_at_a_translation_that_does_nothing(
        self, tmp_path: Path, translate: str, idle: bool
    ) -> None:
        text = f"[session.a]\nleft='/x'\nright='/b/c'\ntranslate='{translate}'\n"
        path = file(tmp_path, text)

        told, wrong = configure.check(path)

        assert wrong == []
        said = f"{path}: [session.a]: translate: '{translate}' changes nothing in right, '/b/c'"
        assert told[:-1] == [said] * idle

    @pytest.mark.parametrize("table", ["[alerts]\nevry = 1", "[runcheck]\nafter = 0"])
    def test_finds_what_is_wrong_with_another_table(self, tmp_path: Path, table: str) -> None:
        path = file(tmp_path, f"[session.a]\nleft='/a'\nright='/b'\n{table}\n")

        told, (wrong,) = configure.check(path, (load_alerts, load_rules))

        assert told == []
        assert wrong.startswith(f"{path}: {table.split()[0]}: ")

    @pytest.mark.parametrize("text", ["", "[session]\n"])
    def test_of_nothing_is_no_success(self, tmp_path: Path, text: str) -> None:
        _, wrong = configure.check(file(tmp_path, text))

        assert len(wrong) == 1
        assert "no session is in it" in wrong[0]


class TestShow:
    def test_tells_every_key_and_where_it_is_from(self, tmp_path: Path) -> None:
        path = file(tmp_path, '[session.a]\nleft="/a/../b"\nright="/c"\nsettle_ms=20\n')

        (shown,) = configure.show(path, None)

        assert (shown["name"], shown["file"]) == ("a", path)
        assert list(shown["keys"]) == [key for key in Options.__struct_fields__ if key != "name"]
        assert shown["keys"]["left"] == {"value": "/b", "from": "file"}
        assert shown["keys"]["settle_ms"] == {"value": 20, "from": "file"}
        assert shown["keys"]["max_delay"] == {"value": 10.0, "from": "default"}

    def test_prints_what_psync_takes_again(self, tmp_path: Path) -> None:
        text = EXAMPLE.read_text().replace("excludes = []", "excludes = ['\"\\x', \"a'\\u007fb\"]")
        (shown,) = configure.show(file(tmp_path, text), "example")

        again = file(tmp_path, "\n".join(configure.as_toml(shown)), "again.toml")

        expected = make_options(*load_session(Path(shown["file"]), "example"))
        assert make_options(*load_session(Path(again), "example")) == expected

    def test_of_a_session_that_is_not_there_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="no session 'exampel'; did you mean example"):
            configure.show(str(EXAMPLE), "exampel")
