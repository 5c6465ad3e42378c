"""`psync config import`: what the original's configuration said."""

from __future__ import annotations

import ast
import os
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from psync.config import REPLACED, Options, make_options, unfit_rsync_options
from psync.errors import ConfigError
from psync.original import import_

# Every parameter of the original's configuration, with what its author shipped.
ORIGINAL = r"""#!/usr/bin/python2
import os.path
def normalize_dir(dirname):
    return dirname.rstrip("/")+"/"
basedir = normalize_dir(os.path.dirname(os.path.dirname(__file__)))
helperbin = basedir+"libs/helpers.py"
safesuffix = ".psync.ignore"
debug = 0
event_interval = 5
force = 0
dryrun = False
first_sync_only = True
skip_initial_sync = True
banned = None
translate = "a:b"
rsync_excludes = [".psync", "*.psync.ignore", ".*.??????", "*.symlink", "~$*"]
rsync_extra = ["-L", "--timeout=10", "--max-size=90M", "--partial-dir=.rsync-partial", "-z"]
inotify_extra = ["-E", "____archive____", "-q", "-s"]
tempfiles = "\.tmp$|\.~tmp~|/~\$"
excludes = (".psync.ignore|.rsync-partial|/\..*\.......$|/____archive____/" +
            "|\.symlink$|/Thumbs.db$")
psyncdir = normalize_dir(".psync")
heartfile = "heartbeat"
separator = ":"
pending_lifetime = 60
pending_events = ["RSYNC", "DELETE"]
ssh_options = ["-o", "ConnectTimeout=10", "-C"]
rsync_event_recurse = False
alert_threshold = 10
rsync_style = 2 # 1: continuous, 2: continuous w/o backfired, 3: batchched
acl_from_left_only = True
delay = 60
timeout = 60
itimeout = timeout*5
etimeout = timeout-15
maxtimeout = timeout*15
fullsync = [01, 99]
"""


def file(tmp_path: Path, text: str, name: str = "psync.toml") -> str:
    path = tmp_path / name
    path.write_text(text)
    return str(path)


def imported(tmp_path: Path, text: str) -> list[str]:
    return import_(file(tmp_path, text, "config.py"))[0]


class TestImport:
    def test_makes_a_table_that_psync_takes(self, tmp_path: Path) -> None:
        lines = imported(tmp_path, ORIGINAL)
        table = tomllib.loads("\n".join(lines))["session"]["NAME"]

        made = make_options({**table, "left": "/l", "right": "/r"}, "imported")

        assert made.sync_only
        assert not made.skip_initial_sync
        assert made.rsync_excludes == ["*.symlink", "~$*"]
        assert made.rsync_extra == ["-z"]
        assert made.tempfiles == [r"re:\.tmp$", r"re:\.~tmp~", r"re:/~\$"]
        assert made.excludes == ["re:/____archive____/", r"re:\.symlink$", "re:/Thumbs.db$"]
        assert made.ssh_options == ["-o", "ConnectTimeout=10", "-C"]
        assert (made.timeout, made.itimeout, made.etimeout, made.maxtimeout) == (60, 300, 45, 900)
        assert made.meta_from == "left"
        assert made.fullsync == [1]

    def test_answers_for_everything_that_was_said(self, tmp_path: Path) -> None:
        text = "\n".join(imported(tmp_path, ORIGINAL))
        names = [line.split(" = ")[0] for line in ORIGINAL.splitlines() if " = " in line[:22]]

        assert len(names) > 30
        silent = {"banned"}  # it was None
        assert [name for name in names if name not in text and name not in silent] == []
        for key in names:
            assert key in REPLACED or key in Options.__struct_fields__ or key in silent, key

    @pytest.mark.parametrize(
        ("text", "line"),
        [
            ("banned = 'mysqld'", 'banned = "mysqld"'),
            ("debug = 7", "debug = 3  # was 7: that is the most"),
            ("dryrun = 1", "dry_run = true  # was dryrun"),
            ("fullsync = 99", "fullsync = []"),
            ("timeout = 900", "timeout = 60  # was 900: that is the most"),
            ("acl_from_left_only = False", '# acl_from_left_only = False: say meta_from = "both"'),
            ("excludes = '(a|b)'", 'excludes = ["re:(a|b)"]'),
            ("excludes = '('", "# excludes = ['re:(']: not taken over: 're:(' is no regular"),
            ("excludes = 7", "# excludes = 7: not taken over: a list of text is wanted"),
            ("inotify_extra = ['-E', 'arch']", '#   such as ["*arch*/"]'),
            ("ssh_options = '-p 22'", 'ssh_options = "-p 22"'),
            ("alert_threshold = 10.0", "alert_threshold = 10"),
            ("debug = True", "debug = 1"),
            ("debug = False", "debug = 0"),
            ("etimeout = 45.0", "etimeout = 45"),
            ("force = True", "force = 1"),
            ("timeout = True", "timeout = 1"),
            ("dryrun = 1.0", "dry_run = true  # was dryrun"),
            ("fullsync = [2.0, True]", "fullsync = [2, 1]"),
            ("fullsync = [99]", "# fullsync: 99: no hour"),
            ("banned = False", "# banned = False: no program, which is the default"),
            ("maxtimeout = 60 * 60 / 4", "maxtimeout = 900.0"),
            ("debug = 1 / 0", "# debug: it is computed: not taken over"),
            ("debug = open('x')", "# debug: it is computed: not taken over"),
            ("debug = other", "# debug: it is computed: not taken over"),
            ("excludes = 'ab' * 3", "# excludes: it is computed: not taken over"),
            ("timeout: int = 30", "timeout = 30"),
            ("excludes = 'a'\nexcludes += '|b'", 'excludes = ["re:a", "re:b"]'),
            ("timeout = 5\ntimeout *= 2", "timeout = 10"),
            ("a = b = 'mysqld'\nbanned = b", 'banned = "mysqld"'),
            ("mine = 'x'", "# mine = 'x': no parameter of psync"),
            ("banned = 'a\\nb'", 'banned = "a\\nb"'),
            ("mine = 'a\\nb'", "# mine = 'a\\nb': no parameter of psync"),
        ],
    )
    def test_takes_over(self, tmp_path: Path, text: str, line: str) -> None:
        lines = imported(tmp_path, text)

        assert any(each.startswith(line) for each in lines), lines
        tomllib.loads("\n".join(lines))

    @pytest.mark.parametrize(
        ("text", "why"),
        [
            ("alert_threshold = -1", "it has to be at least 0"),
            ("banned = 3", "text is wanted, not a whole number"),
            ("debug = [1]", "a whole number is wanted, not a list"),
            ("dryrun = 'no'", "true or false is wanted, not text"),
            ("etimeout = 45.5", "a whole number is wanted, not a fraction"),
            ("excludes = 7", "a list of text is wanted"),
            ("force = '10'", "a whole number is wanted, not text"),
            ("rsync_extra = ['-z', 1]", "a list of text is wanted"),
            ("rsync_extra = '-z \\''", "no closing quotation"),
            ("ssh_options = 7", "a list is wanted, not a whole number"),
            ("timeout = 0.5", "it has to be at least 1"),
        ],
    )
    def test_says_why_a_value_cannot_be_taken_over(
        self, tmp_path: Path, text: str, why: str
    ) -> None:
        path = file(tmp_path, text, "config.py")

        lines, left_out = import_(path)

        shown = ast.unparse(ast.parse(text)).replace("'-z \\''", '"-z \'"')
        assert f"# {shown}: not taken over: {why}" in lines
        assert left_out == [f"{path}: {shown}: not taken over: {why}"]

    @pytest.mark.parametrize(
        ("words", "expected"),
        [
            (["--bwlimit", "1000"], ["--bwlimit=1000"]),
            (
                ["-B=700", "-B800", "--zl=9"],
                ["--block-size=700", "--block-size=800", "--compress-level=9"],
            ),
            (["--compress-level", "9", "-z"], ["--compress-level=9", "-z"]),
            (["-L", "--max-size", "90M", "--bwlimit=1000", "--timeout", "60"], ["--bwlimit=1000"]),
            (["-LzT", "/tmp", "-vB", "700"], ["-z", "-v", "--block-size=700"]),
            (["-zL", "-T/tmp", "-e", "ssh -z", "--exclude", "-z"], ["-z"]),
            (["--rsync-path", "-z", "--files-from", "-z", "--temp-dir", "-z"], []),
            (["-z", "90M", "", "-", "--", "--bwlimit"], ["-z"]),
            ("--bwlimit 1000 -L", ["--bwlimit=1000"]),
        ],
    )
    def test_keeps_of_the_options_of_rsync_those_that_psync_takes(
        self, tmp_path: Path, words: list[str] | str, expected: list[str]
    ) -> None:
        lines = imported(tmp_path, f"rsync_extra = {words!r}")
        table = tomllib.loads("\n".join(lines))["session"]["NAME"]

        assert table == {"rsync_extra": expected}
        assert unfit_rsync_options(expected) == []

    @pytest.mark.parametrize(
        ("words", "line"),
        [
            (["-L"], "'-L': a symlink is replicated as what it is"),
            (["--timeout", "60"], "'--timeout=60': say etimeout"),
            (["--max-size", "90M"], f"'--max-size=90M': {REPLACED['maxsize']}"),
            (["--partial-dir", "p"], f"'--partial-dir=p': {REPLACED['partialdir']}"),
            (["-T", "/tmp"], f"'--temp-dir=/tmp': {REPLACED['partialdir']}"),
            (["--delete"], "'--delete': a deletion is replicated as what it is"),
        ],
    )
    def test_says_what_took_the_place_of_an_option_of_rsync(
        self, tmp_path: Path, words: list[str], line: str
    ) -> None:
        lines, left_out = import_(file(tmp_path, f"rsync_extra = {words!r}", "config.py"))

        assert f"# rsync_extra: {line}" in lines
        assert left_out == []

    @pytest.mark.parametrize(
        ("words", "line"),
        [
            (["--exclude", "*.o"], "'--exclude=*.o': not taken over: say excludes"),
            (
                ["-e", "ssh -p 22"],
                "'--rsh=ssh -p 22': not taken over: rsync has psync's connection: say ssh_options",
            ),
            (
                ["--chmod=go-w"],
                "'--chmod=go-w': not taken over: psync takes only what says how rsync transfers",
            ),
            (["90M"], "'90M': not taken over: no option"),
            (["--"], "'--': not taken over: no option"),
            (["--bwlimit"], "'--bwlimit': not taken over: it has no value"),
        ],
    )
    def test_tells_beside_of_an_option_of_rsync_that_nothing_replaces(
        self, tmp_path: Path, words: list[str], line: str
    ) -> None:
        path = file(tmp_path, f"rsync_extra = {words!r}", "config.py")

        lines, left_out = import_(path)

        assert f"# rsync_extra: {line}" in lines
        assert left_out == [f"{path}: rsync_extra: {line}"]

    def test_tells_beside_what_a_parameter_concerns_beyond_what_it_did(
        self, tmp_path: Path
    ) -> None:
        path = file(tmp_path, "acl_from_left_only = True", "config.py")

        lines, _ = import_(path)

        taken, more = lines[-2:]
        assert taken == 'meta_from = "left"  # was acl_from_left_only'
        assert more.endswith("was of ACLs and attributes only; this is of mode and owner as well")

    def test_tells_beside_of_an_hour_that_is_no_number(self, tmp_path: Path) -> None:
        path = file(tmp_path, "fullsync = ['3', 4, 99]", "config.py")

        lines, left_out = import_(path)

        assert "fullsync = [4]" in lines
        assert left_out == [f"{path}: fullsync: '3': not taken over: no hour"]

    @pytest.mark.parametrize(
        ("text", "number", "shown"),
        [
            ("timeout = 1\nif True:\n  timeout = 10\nelse:\n  timeout = 20", 2, "if True:"),
            ("\n\nfor timeout in (1, 2): pass", 3, "for timeout in (1, 2): pass"),
            ("timeout = 1\ntimeout += f()", 2, "timeout += f()"),
            ("timeout, debug = 1, 2", 1, "timeout, debug = 1, 2"),
            ("timeout = x[0] = 1", 1, "timeout = x[0] = 1"),
            ("timeout: int = f()", 1, "timeout: int = f()"),
            ("timeout = f()", 1, "timeout = f()"),
            ("timeout = 1\ndel timeout", 2, "del timeout"),
            ("timeout = 1; timeout -= 'x'", 1, "timeout = 1; timeout -= 'x'"),
            ("from base import *", 1, "from base import *"),
            ("from base import t as timeout", 1, "from base import t as timeout"),
            ("excludes = ['a']\nexcludes.append('b')", 2, "excludes.append('b')"),
            ("globals()['timeout'] = 1", 1, "globals()['timeout'] = 1"),
            ("try:\n  import site_config\nexcept: pass", 1, "try:"),
            ("print('" + "x" * 200 + "')", 1, "print('" + "x" * 73),
            ("print('\x0b')", 1, r"print('\x0b')"),
        ],
    )
    def test_says_what_it_did_not_take_over(
        self, tmp_path: Path, text: str, number: int, shown: str
    ) -> None:
        path = file(tmp_path, text, "config.py")

        lines, left_out = import_(path)

        assert f"# line {number}: not taken over: {shown}" in lines
        assert left_out == [f"{path}: line {number}: not taken over: {shown}"]
        assert not any(line.startswith("timeout") for line in lines)

    @pytest.mark.parametrize(
        "text",
        ["'words'", "import os, x", "from os import path", "def f():\n  timeout = 1", "pass",
         "timeout: int", "class A:\n  timeout = 1", "basedir = f()", ORIGINAL],
    )  # fmt: skip
    def test_has_nothing_to_say_of_what_sets_no_parameter(self, tmp_path: Path, text: str) -> None:
        assert import_(file(tmp_path, text, "config.py"))[1] == []

    def test_reads_what_an_editor_of_windows_writes(self, tmp_path: Path) -> None:
        path = tmp_path / "config.py"
        path.write_bytes(b"\xef\xbb\xbf# words\r\ntimeout = 30\r\nexcludes = ('a' +\r\n  '|b')\r\n")

        lines, left_out = import_(str(path))

        assert {"timeout = 30", 'excludes = ["re:a", "re:b"]'} <= set(lines)
        assert left_out == []

    def test_runs_nothing(self, tmp_path: Path) -> None:
        mark = tmp_path / "mark"

        imported(tmp_path, f"debug = __import__('pathlib').Path({str(mark)!r}).touch()\n")

        assert not mark.exists()

    def test_grows_no_value_beyond_reason(self, tmp_path: Path) -> None:
        lines = imported(tmp_path, "a = 'x' + 'y'\n" + "a = a + a\n" * 90)

        assert "# a: it is computed: not taken over" in lines

    @pytest.mark.parametrize(
        ("text", "trouble"),
        [
            ("print 'x'", "line 1 is no Python"),
            ("x = [\n\n", "line 1 is no Python"),
            ("x = [08]", "line 1 is no Python"),
            ("\0", "is no configuration of the original"),
            ("x = [" + "01, " * 200 + "]", "is no configuration of the original"),
        ],
    )
    def test_of_no_python_is_refused_in_a_line(
        self, tmp_path: Path, text: str, trouble: str
    ) -> None:
        with pytest.raises(ConfigError, match=trouble) as caught:
            imported(tmp_path, text)

        assert "\n" not in str(caught.value)

    def test_takes_the_patterns_that_can_be_said(self, tmp_path: Path) -> None:
        path = file(tmp_path, "rsync_excludes = ['+ a', 'b**c', '!', 'd']", "config.py")

        lines, left_out = import_(path)

        assert "rsync_excludes = ['+ a', '!', 'd']".replace("'", '"') in lines
        (line,) = left_out
        assert line.startswith(
            f"{path}: rsync_excludes = ['b**c']: not taken over: 'b**c' has ** beside "
        )

    def test_of_no_file_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="cannot read"):
            import_(str(tmp_path / "none"))
        os.mkfifo(tmp_path / "fifo")
        for path in ("/dev/zero", str(tmp_path / "fifo")):
            with pytest.raises(ConfigError, match=f"^{path} is no regular file$"):
                import_(path)

    def test_may_come_through_a_pipe(self) -> None:
        reader, writer = os.pipe()
        with open(writer, "w") as pipe:
            pipe.write("alert_threshold = 3")
        with open(reader):
            lines, _ = import_(f"/dev/fd/{reader}")

        assert "alert_threshold = 3" in lines

    @given(
        st.one_of(
            st.lists(
                st.tuples(
                    st.sampled_from([*REPLACED, *Options.__struct_fields__, "mine", "x\u00e9"]),
                    st.sampled_from([" = ", " += ", ": int = ", ", x = ", " *= 2 or "]),
                    st.one_of(
                        st.sampled_from(
                            [
                                "[01]", "99", "-1", "1e400", "10**9", "'a|b'", "'(a|b)'",
                                "['-E', 'x']", "[]", "['']", "''", "['a', 1]", "True", "None",
                                "timeout*5", "(1, 2)", "'\\x00'", "'\\ud800'", "'\\n# x'", "0777",
                                "{1: 2}", "-'x'", "-[1]", "['!', '[a', 're:(']", "'\"'",
                                "'\\x7f'", "[99, [1]]", "1.0",
                                "['-e', '-zB', '', '--', '-L=', '--bwlimit']",
                            ]
                        ),
                        st.text(max_size=8).map(repr),
                        st.integers().map(str),
                    ),
                ).map("".join),
                max_size=6,
            ).map("\n".join),
            st.text(max_size=60),
        )
    )  # fmt: skip
    def test_prints_a_table_that_psync_takes_whatever_was_in_it(
        self, tmp_path_factory: pytest.TempPathFactory, text: str
    ) -> None:
        path = tmp_path_factory.getbasetemp() / "any.py"
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        try:
            lines, _ = import_(str(path))
        except ConfigError:
            return
        table = tomllib.loads("\n".join(lines))["session"]["NAME"]

        assert "\n" not in "".join(lines)
        make_options({"left": "/l", "right": "/r", **table}, "imported")
