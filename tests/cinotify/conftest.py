"""Fixtures: the program as users get it and with sanitizers, a root, and a way to start it."""

from __future__ import annotations

import platform
import shutil
from pathlib import Path

import pytest

import native
from tests.cinotify.harness import Cinotify


def passable(path: Path) -> Path:
    """Let every user pass to a path, as pytest's own directories do not."""
    for parent in [path, *path.parents]:
        if parent.stat().st_mode & 0o001 == 0:
            parent.chmod(parent.stat().st_mode | 0o001)
    return path


@pytest.fixture(scope="session")
def checked_dir(tmp_path_factory) -> Path:
    """Where this session's programs are; anybody may run them."""
    return passable(tmp_path_factory.mktemp("checked"))


@pytest.fixture(scope="session", params=["release", "checked"])
def binary(request, checked_dir) -> str:
    """The program that users get, then the same in small steps and with sanitizers."""
    if request.param == "release":
        native.build()
        program = native.BIN / f"cinotify-{platform.machine()}"
        return shutil.copy(program, checked_dir)  # where every user may run it
    return str(native.build_checked(checked_dir)[0])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An empty root with psync's own directory in it."""
    root = tmp_path / "root"
    (root / ".psync").mkdir(parents=True)
    return passable(root)


@pytest.fixture
def start(binary, root):
    """Return a function that starts cinotify; whatever runs at the end must end well."""
    running = []

    def start_(*options: str, wrapper: tuple[str, ...] = (), scanned: bool = True, **popen):
        watcher = Cinotify([*wrapper, binary, *options, str(root)], root, **popen)
        running.append(watcher)
        if scanned:
            watcher.scanned()
        return watcher

    yield start_
    for watcher in running:
        if watcher.process.poll() is None:
            watcher.resume()
        assert watcher.end() == 0
