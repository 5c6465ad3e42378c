"""The loader and its zip make an agent speak, under every Python and shell at hand."""

from __future__ import annotations

import ast
import io
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import psync
from psync.effects import bootstrap
from psync.effects.bootstrap import READY, TOO_OLD, agent_zip, local_command, remote_command
from psync.wire import MAGIC, Framer, Hello

_SHELLS = [
    s for s in ("sh", "bash", "dash", "zsh", "ksh", "csh", "tcsh", "fish") if shutil.which(s)
]
_PYTHONS = [
    path
    for name in ("python3", *(f"python3.{minor}" for minor in range(9, 16)))
    if (path := shutil.which(name)) is not None
    and subprocess.run([path, "-ISE", "-c", ""], capture_output=True, check=False).returncode == 0
]

Child = subprocess.Popen[bytes]


@pytest.fixture(autouse=True)
def built(programs: list[Path]) -> None:
    """Have something to put into the zip."""


@contextmanager
def running(argv: list[str]) -> Iterator[Child]:
    child = subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
    )
    with child:
        try:
            yield child
        finally:
            child.kill()


def said(child: Child, size: int) -> bytes:
    """Read so many bytes, or fewer at the end."""
    assert child.stdout is not None
    data = b""
    while len(data) < size and (more := child.stdout.read(size - len(data))):
        data += more
    return data


def greeted(child: Child, content: bytes | None = None) -> Hello:
    """Be the brain until the agent has said hello."""
    assert child.stdin is not None and child.stdout is not None
    if content is not None:
        assert said(child, len(READY)) == READY
        child.stdin.write(content)
    assert said(child, len(MAGIC)) == MAGIC
    framer = Framer()
    while not (messages := framer.feed(child.stdout.read(4096))):
        pass
    hello = messages[0]
    assert isinstance(hello, Hello)
    return hello


def ended(child: Child) -> int:
    """Close its input, and wait."""
    assert child.stdin is not None
    child.stdin.close()
    return child.wait(timeout=10)


def _source(module: str) -> bytes | None:
    """Read a module of psync's; None where there is none (`from psync.x import y`)."""
    path = Path(psync.__file__).parent.joinpath(*module.split(".")[1:])
    for file in (path / "__init__.py", path.with_suffix(".py")):
        if file.is_file():
            return file.read_bytes()
    return None


class TestLoader:
    @pytest.mark.parametrize("shell", _SHELLS)
    def test_means_the_same_to_every_shell(self, shell: str) -> None:
        with running([shell, "-c", remote_command(len(agent_zip()))]) as child:
            hello = greeted(child, agent_zip())

            assert hello.version == psync.__version__
            assert ended(child) == 0

    @pytest.mark.parametrize("python", _PYTHONS)
    def test_runs_an_agent_with_the_standard_library_only(self, python: str) -> None:
        command = remote_command(len(agent_zip())).replace("python3", python, 1)
        with running(["sh", "-c", command]) as child:
            hello = greeted(child, agent_zip())

            assert "cinotify" in hello.features
            assert ended(child) == 0

    def test_runs_where_memory_files_do_not_exist(self) -> None:
        command = remote_command(len(agent_zip()))
        command = command.replace('hasattr(os,"memfd_create")', "False")
        with running(["sh", "-c", command]) as child:
            greeted(child, agent_zip())

            assert ended(child) == 0

    def test_is_understood_by_a_python_that_is_too_old(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        loader = remote_command(1).split("'")[1]
        monkeypatch.setattr(bootstrap, "PYTHON_MIN", (99, 0))
        with running(["sh", "-c", remote_command(1)]) as child:
            _, complaint = child.communicate(timeout=10)

        ast.parse(loader, feature_version=(3, 4))
        assert complaint.decode().startswith(TOO_OLD + "3.")
        assert child.returncode == 1

    def test_gives_up_when_the_zip_ends_early(self) -> None:
        with running(["sh", "-c", remote_command(len(agent_zip()))]) as child:
            assert said(child, len(READY)) == READY
            assert child.stdin is not None
            child.stdin.write(agent_zip()[:1000])

            assert ended(child) != 0

    def test_fits_a_command_line(self) -> None:
        assert len(remote_command(10**9)) < 1000
        assert "\n" not in remote_command(1)
        assert remote_command(1).count("'") == 2


class TestZip:
    def names(self) -> list[str]:
        with zipfile.ZipFile(io.BytesIO(agent_zip())) as archive:
            return archive.namelist()

    def test_holds_the_agent_and_nothing_of_the_brain(self) -> None:
        names = set(self.names())

        assert {"psync/agent.py", "psync/__init__.py", "psync/core/entry.py"} <= names
        assert {"inotify_simple.py"} <= names
        assert any(name.startswith("psync/_bin/cinotify-") for name in names)
        assert not any("effects" in name or "brain" in name or "rsh" in name for name in names)

    def test_holds_all_that_the_agent_imports(self) -> None:
        """Followed through the sources, also what is imported inside of functions."""
        found = {"inotify_simple"}
        waiting = ["psync.agent"]
        while waiting:
            module = waiting.pop()
            if module in found or (source := _source(module)) is None:
                continue
            found.add(module)
            waiting.append(module.rpartition(".")[0] or "psync")
            for node in ast.walk(ast.parse(source)):
                names: list[str] = []
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom) and node.module is not None:
                    names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
                waiting += [name for name in names if name.split(".")[0] == "psync"]

        assert set(bootstrap.AGENT_MODULES) == found

    def test_is_compiled_for_the_python_that_made_it(self, tmp_path: Path) -> None:
        """An agent under the same Python reads no source; one under another goes without."""
        run = (
            "import sys; sys.path.insert(0, sys.argv[1]); import psync.agent as a;"
            "print(a.__file__)"
        )
        content = agent_zip()
        other = tmp_path / "other.zip"
        with zipfile.ZipFile(io.BytesIO(content)) as made, zipfile.ZipFile(other, "w") as changed:
            for name in made.namelist():
                data = made.read(name)
                changed.writestr(name, b"\0" + data[1:] if name.endswith(".pyc") else data)
        same = tmp_path / "same.zip"
        same.write_bytes(content)

        origins = [
            subprocess.run(
                [sys.executable, "-ISE", "-c", run, path],
                capture_output=True,
                check=True,
                text=True,
            ).stdout.strip()
            for path in (same, other)
        ]

        assert origins == [f"{same}/psync/agent.pyc", f"{other}/psync/agent.py"]

    def test_holds_only_what_the_oldest_python_understands(self) -> None:
        with zipfile.ZipFile(io.BytesIO(agent_zip())) as archive:
            for name in archive.namelist():
                if name.endswith(".py"):
                    ast.parse(archive.read(name), name, feature_version=bootstrap.PYTHON_MIN)


class TestLocal:
    def test_runs_the_modules_that_the_brain_runs(self, tmp_path: Path) -> None:
        with subprocess.Popen(
            local_command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=tmp_path, bufsize=0
        ) as child:
            hello = greeted(child)

            assert hello.python == ".".join(map(str, sys.version_info[:3]))
            assert ended(child) == 0

    def test_has_the_fast_codec_where_the_brain_has_it(self) -> None:
        probe = local_command()[-1].split("from psync.agent")[0] + "import msgspec"

        assert subprocess.run([sys.executable, "-I", "-c", probe], check=False).returncode == 0
