"""What a restricted key may make of `rsync --server`, and what not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from psync.forced import RefusedCommand, check_rsync
from psync.lock import COMM, is_agent

REPO = Path(__file__).resolve().parent.parent.parent
HOLDER = """
import os, sys
from psync.host import prepare_process
if sys.argv[3] == 'agent':
    prepare_process()
stage = os.open(sys.argv[1] + '/.psync/stage', os.O_RDONLY)
source = os.open(sys.argv[1] + '/file', os.O_RDONLY)
outside = os.open(sys.argv[2], os.O_RDONLY)
print(os.getpid(), stage, source, outside, flush=True)
sys.stdin.read()
"""


class Holder:
    """A process that has open what an agent has open."""

    def __init__(self, root: Path, outside: Path, kind: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(root), str(outside), kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=REPO,
        )
        assert self.process.stdout is not None
        self.pid, self.stage, self.source, self.outside = map(
            int, self.process.stdout.readline().split()
        )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root/.psync/stage/7").mkdir(parents=True)
    (tmp_path / "root/file").write_bytes(b"large")
    (tmp_path / "outside").write_bytes(b"secret")
    return tmp_path / "root"


@pytest.fixture(params=["agent"])
def holder(root: Path, request: pytest.FixtureRequest) -> Iterator[Holder]:
    made = Holder(root, root.parent / "outside", request.param)
    with made.process:
        yield made
        assert made.process.stdin is not None
        made.process.stdin.close()


class TestGoodCommands:
    @pytest.mark.parametrize(
        "flags",
        [
            "-LWIe.LsfxCIvu --timeout=60 --checksum-choice=xxh3 --inplace",
            "-LIe.LsfxCIvu --inplace",
            "-LWISze.LsfxCIvu --timeout=60",  # a file with holes
            "-vLIze31.14iLsfxCIvu --inplace --bwlimit=1000 --log-format=%i -B8192",
        ],
    )
    def test_lets_files_of_the_root_be_read(self, root: Path, holder: Holder, flags: str) -> None:
        path = f"/proc/{holder.pid}/fd/{holder.source}"
        command = f"rsync --server --sender {flags} . {path} {path}"

        assert check_rsync(command, str(root)) == command.split()
        assert check_rsync(command, None) == command.split()

    def test_lets_a_run_be_filled(self, root: Path, holder: Holder) -> None:
        command = (
            f"rsync --server -WIe.LsfxCIvu --inplace . /proc/{holder.pid}/fd/{holder.stage}/7/"
        )

        assert check_rsync(command, str(root)) == command.split()
        assert check_rsync(command, None) == command.split()

    def test_understands_what_the_real_rsync_sends(
        self, root: Path, holder: Holder, tmp_path: Path
    ) -> None:
        if not shutil.which("rsync"):
            pytest.skip("no rsync")
        said = tmp_path / "said"
        shell = tmp_path / "rsh"
        shell.write_text(f'#!/bin/sh\nshift\nprintf "%s" "$*" > "{said}"\nexec "$@"\n')
        shell.chmod(0o755)
        source = f"/proc/{holder.pid}/fd/{holder.source}"
        target = f"/proc/{holder.pid}/fd/{holder.stage}/7/"
        rsync = ["rsync", "-L", "-I", "--inplace", "-W", "--timeout=60", "-e", str(shell)]
        subprocess.run([*rsync, source, f"host:{target}"], check=True)
        assert check_rsync(said.read_text(), str(root))
        subprocess.run([*rsync, f"host:{source}", str(tmp_path)], check=True)
        assert check_rsync(said.read_text(), str(root))

        assert (root / ".psync/stage/7" / str(holder.source)).read_bytes() == b"large"


class TestEvilCommands:
    @pytest.mark.parametrize(
        "command",
        [
            "rsync --server",
            "rsync --server .",
            "rsync --server -e.LsfxCIvu",
            "rsync --server --sender -LIe.LsfxCIvu .",
            "rsync --server --sender -LIe.LsfxCIvu . /etc/shadow",
            "rsync --server --sender -LIe.LsfxCIvu . {source}/../../../etc/shadow",
            "rsync --server --sender -LIe.LsfxCIvu . {source} /etc/shadow",
            "rsync --server --sender -LIe.LsfxCIvu . {outside}",
            "rsync --server --sender -LIe.LsfxCIvu . {stage}",
            "rsync --server --sender -LIe.LsfxCIvu . /proc/self/fd/0",
            "rsync --server --sender -LIe.LsfxCIvu . /proc/1/fd/1",
            "rsync --server --sender -LIe.LsfxCIvu . /proc/99999999/fd/1",
            "rsync --server --sender -LIre.LsfxCIvu . {source}",
            "rsync --server --sender -sLIe.LsfxCIvu",
            "rsync --server --sender -LIe.LsfxCIvu --remove-source-files . {source}",
            "rsync --server --sender -LIe.LsfxCIvu --files-from=/etc/shadow . {source}",
            "rsync --server --sender -LIe.LsfxCIvu --copy-devices . {source}",
            "rsync --server -LIe.LsfxCIvu . {stage}",
            "rsync --server -LIe.LsfxCIvu . {stage}/",
            "rsync --server -LIe.LsfxCIvu . {stage}/../",
            "rsync --server -LIe.LsfxCIvu . {stage}/7/../../",
            "rsync --server -LIe.LsfxCIvu . {stage}/7",
            "rsync --server -LIe.LsfxCIvu . {stage}/x/",
            "rsync --server -LIe.LsfxCIvu . {stage}/7/ {stage}/7/",
            "rsync --server -LIe.LsfxCIvu . {source}/7/",
            "rsync --server -LIe.LsfxCIvu --write-devices . {stage}/7/",
            "rsync --server -LIe.LsfxCIvu --temp-dir=/etc . {stage}/7/",
            "rsync --server -LIe.LsfxCIvu --backup-dir=/etc . {stage}/7/",
            "rsync --server -LIe.LsfxCIvu --log-file=/etc/x . {stage}/7/",
            "rsync --server -LIe.LsfxCIvu --delete . {stage}/7/",
            "rsync --server --daemon --config=/tmp/x .",
            "rsync --server -LIe.LsfxCIvu; id . {stage}/7/",
            "rsync --server -LIe.LsfxCIvu . {stage}/7/; id",
            "rsync --server -LIe.LsfxCIvu . $(id)",
            "rsync --server -LIe.LsfxCIvu . '{stage}/7/\n'",
            "rsync --server 'unclosed",
            "rsync --serverx -LIe.LsfxCIvu . {stage}/7/",
            "",
        ],
    )
    def test_s04_are_refused(self, root: Path, holder: Holder, command: str) -> None:
        fds = {
            name: f"/proc/{holder.pid}/fd/{getattr(holder, name)}"
            for name in ("source", "stage", "outside")
        }

        with pytest.raises(RefusedCommand):
            check_rsync(command.format(**fds) if "{" in command else command, str(root))

    @pytest.mark.parametrize("holder", ["stranger"], indirect=True)
    def test_are_refused_on_a_process_that_is_no_agent(self, root: Path, holder: Holder) -> None:
        with pytest.raises(RefusedCommand, match="no psync agent"):
            check_rsync(
                f"rsync --server --sender -LIe.L . /proc/{holder.pid}/fd/{holder.source}",
                str(root),
            )

    def test_are_refused_on_the_agent_of_another_root(
        self, root: Path, holder: Holder, tmp_path: Path
    ) -> None:
        other = tmp_path / "other"
        (other / ".psync/stage").mkdir(parents=True)
        for path in (f"fd/{holder.stage}/7/", f"fd/{holder.source}"):
            sender = "" if path.endswith("/") else "--sender "
            with pytest.raises(RefusedCommand):
                check_rsync(
                    f"rsync --server {sender}-LIe.L . /proc/{holder.pid}/{path}", str(other)
                )


class TestForcedCommand:
    def run(self, root: Path, command: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [sys.executable, "-m", "psync.agent", "--root", str(root)],
            cwd=REPO,
            env={**os.environ, "SSH_ORIGINAL_COMMAND": command},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=30,
            check=False,
        )

    def test_refuses_in_one_line(self, root: Path) -> None:
        done = self.run(root, "rsync --server --sender -LIe.L . /etc/shadow")

        assert done.returncode == 4
        assert done.stdout == b""
        assert done.stderr.startswith(b"psync: ")
        assert done.stderr.count(b"\n") == 1

    def test_becomes_rsync(self, root: Path, holder: Holder) -> None:
        if not shutil.which("rsync"):
            pytest.skip("no rsync")
        path = f"/proc/{holder.pid}/fd/{holder.source}"
        done = self.run(root, f"rsync --server --sender -LIe.LsfxCIvu . {path}")

        assert b"psync" not in done.stderr
        assert len(done.stdout) >= 4  # its protocol version

    @pytest.mark.parametrize("command", ["", "python3 -c 'import os'", "rm -rf /", "rsync -a / x"])
    def test_is_an_agent_for_everything_else(self, root: Path, command: str) -> None:
        done = self.run(root, command)

        assert done.returncode == 0
        assert b"\xf0\x9fps\x16" in done.stdout
        assert (root / "file").read_bytes() == b"large"


def test_an_agent_is_known_by_name_and_user(holder: Holder) -> None:
    assert is_agent(holder.pid)
    assert not is_agent(os.getpid())
    assert not is_agent(2**22 + 1)
    assert len(COMM) <= 15  # or the kernel would cut it
