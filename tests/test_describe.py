"""The man page and the completions say what the command takes, in the programs that read them."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from psync.config import Options
from psync.grammar import VERBS

HERE = Path(__file__).parents[1]
PAGE = HERE / "conf" / "man" / "psync.1"
COMPLETIONS = HERE / "conf" / "completions"


@pytest.fixture
def surroundings(tmp_path: Path) -> dict[str, str]:
    """An environment in which `psync` is this one, with two sessions, and a host's name."""
    for name in ("home", "website"):
        (tmp_path / "var" / "sessions" / name).mkdir(parents=True)
    (tmp_path / "config" / "psync").mkdir(parents=True)
    (tmp_path / "config" / "psync" / "psync.toml").write_text("[session.configured]\n")
    (tmp_path / "folder with blanks").mkdir()
    (tmp_path / "file.toml").touch()
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "psync"
    script.write_text(f'#!/bin/sh\nPYTHONPATH={HERE} exec {sys.executable} -m psync "$@"\n')
    script.chmod(0o755)
    return os.environ | {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "PSYNC_STATE_DIR": str(tmp_path / "var"),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
        "HOME": str(tmp_path),
        "TERM": "dumb",
    }


def test_are_made_of_the_grammar_that_there_is():
    done = subprocess.run(
        [sys.executable, "docs/describe.py", "--check"],
        cwd=HERE, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 0, f"stale: python docs/describe.py\n{done.stdout}{done.stderr}"


class TestManPage:
    @pytest.mark.skipif(not shutil.which("groff"), reason="groff is not installed")
    def test_is_correct(self):
        for program in (["groff", "-man", "-ww", "-z", "-Tutf8"], ["man", "--warnings", "-l"]):
            if shutil.which(program[0]) is None:
                continue
            done = subprocess.run(
                [*program, PAGE], capture_output=True, text=True, check=False,
                env=os.environ | {"MANWIDTH": "80", "MANPAGER": "cat"},
            )  # fmt: skip

            assert (done.returncode, done.stderr) == (0, "")

    def test_tells_every_verb_and_key(self):
        text = PAGE.read_text().replace("\\", "")

        for verb in VERBS:
            assert f"\n.SS psync {verb}\n" in text
        for key in Options.__struct_fields__:
            assert f"\n.BR {key}" in text or key == "name"


class TestBash:
    def complete(
        self, where: Path, surroundings: dict[str, str], *words: str, setup: str = ""
    ) -> set[str]:
        """What a real bash offers for the last of the words."""
        script = f"""
            {setup}
            source {COMPLETIONS / "psync.bash"}
            [[ $(complete -p psync) == 'complete -F _psync psync' ]] || exit 1
            compopt() {{ :; }}
            COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
            _psync psync "${{COMP_WORDS[COMP_CWORD]}}" "${{COMP_WORDS[COMP_CWORD - 1]}}"
            printf '%s\\n' "${{COMPREPLY[@]}}"
        """
        done = subprocess.run(
            ["bash", "--norc", "-uc" if not setup else "-c", script, "bash", *words],
            cwd=where, env=surroundings, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        return set(done.stdout.split("\n")) - {""}

    @pytest.mark.parametrize(
        ("words", "offered"),
        [
            (["psync", "st"], {"start", "status", "stop"}),
            (["psync", "status", ""], {"home", "website", "configured"}),
            (["psync", "log", "w"], {"website"}),
            (["psync", "log", "--le"], {"--level"}),
            (["psync", "log", "--level", "wa"], {"warning"}),
            (["psync", "log", "--level", "=", "wa"], {"warning"}),
            (["psync", "log", "--side", ""], {"left", "right"}),
            (["psync", "log", "--grep", "h"], set()),
            (["psync", "conflicts", "--take", "l"], {"left"}),
            (["psync", "conflicts", "--take", "left", "h"], set()),
            (["psync", "--state-dir", "var", "sto"], {"stop"}),
            (["psync", "--state-dir", "var", "stop", "c"], {"configured"}),
            (["psync", "stop", "--state-dir", "nowhere", ""], {"configured"}),
            (["psync", "run", "--config", "f"], {"folder with blanks", "file.toml"}),
            (["psync", "run", "fol"], {"folder with blanks"}),
            (["psync", "-r", "host", "fol"], {"folder with blanks"}),
            (["psync", "-r", "host", "--skip"], {"--skip-initial-sync"}),
            (["psync", "run", "--set", "max_d"], {"max_delay=", "max_delete="}),
            (["psync", "flush", "--timeout", "h"], set()),
            (["psync", "web", "--group", "roo"], {"root"}),
        ],
    )
    def test_offers_what_may_follow(self, tmp_path, surroundings, words, offered):
        assert self.complete(tmp_path, surroundings, *words) == offered

    def test_completes_what_is_typed(self, tmp_path, surroundings):
        shell = Shell(["bash", "--norc", "--noprofile", "-i"], tmp_path, surroundings)
        try:
            shell.type(f"source {COMPLETIONS / 'psync.bash'}; echo re''ady\n")
            shell.until("\r\nready")
            shell.type("psync stat\thom\t--js\t")
            shell.until("psync status home --json ")
        finally:
            shell.close()


@pytest.mark.skipif(not shutil.which("fish"), reason="fish is not installed")
class TestFish:
    @pytest.mark.parametrize(
        ("line", "offered"),
        [
            ("psync st", {"start", "status", "stop"}),
            ("psync status ", {"home", "website", "configured"}),
            ("psync log --lev", {"--level"}),
            ("psync log --level wa", {"warning"}),
            ("psync conflicts --take l", {"left"}),
            ("psync run --set max_d", {"max_delay=", "max_delete="}),
            ("psync run fol", {"folder with blanks/"}),
            ("psync --skip", set()),
        ],
    )
    def test_offers_what_may_follow(self, tmp_path, surroundings, line, offered):
        script = f"source {COMPLETIONS / 'psync.fish'}; complete -C {line!r}"
        done = subprocess.run(
            ["fish", "--no-config", "-c", script],
            cwd=tmp_path, env=surroundings, capture_output=True, text=True, check=False,
        )  # fmt: skip

        assert (done.returncode, done.stderr) == (0, "")
        assert {each.split("\t")[0] for each in done.stdout.splitlines()} == offered


@pytest.mark.skipif(not shutil.which("zsh"), reason="zsh is not installed")
class TestZsh:
    def test_completes_what_is_typed(self, tmp_path, surroundings):
        shell = Shell(["zsh", "-f", "-i"], tmp_path, surroundings)
        try:
            shell.type(
                f"PS1='> '; fpath=({COMPLETIONS} $fpath); "
                "autoload -U compinit; compinit -u -D; echo re''ady\n"
            )
            shell.until("\r\nready")
            for typed, completed in (
                ("psync statu\thom\t", "psync status home "),
                ("psync log --lev\twar\t", "psync log --level warning "),
                ("psync run --set meta\t", "psync run --set meta_from="),
                ("psync trash --dro\t", "psync trash --drop "),
            ):
                shell.type(typed)
                shell.until(completed)
                shell.type("\x15")  # Ctrl-U: away with it
        finally:
            shell.close()


class Shell:
    """A shell at a terminal, and somebody who types."""

    def __init__(self, argv: list[str], where: Path, env: dict[str, str]) -> None:
        self._primary, secondary = pty.openpty()
        self._process = subprocess.Popen(
            argv, cwd=where, env=env, stdin=secondary, stdout=secondary, stderr=secondary,
            start_new_session=True,
        )  # fmt: skip
        os.close(secondary)
        self._shown = ""

    def type(self, text: str) -> None:
        os.write(self._primary, text.encode())

    def until(self, what: str) -> None:
        """Wait for words, however far apart the shell has drawn them."""
        pattern = re.compile(r"\s+".join(map(re.escape, what.split(" "))))
        deadline = time.monotonic() + 60
        while not pattern.search(re.sub(r"\x1b\[[\d;?]*[A-Za-z]|[\0-\x08]", "", self._shown)):
            ready, _, _ = select.select([self._primary], [], [], deadline - time.monotonic())
            assert ready, repr(self._shown)
            self._shown += os.read(self._primary, 65536).decode(errors="replace")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._primary)
