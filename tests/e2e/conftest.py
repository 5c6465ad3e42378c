"""A pair for each end-to-end test: over a real sshd, and on this machine alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.pair import Pair, command, opened
from tests.sshd import Sshd


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Sshd]:
    """A server of this test's own, to be broken as it likes."""
    with Sshd.start(tmp_path / "ssh") as server:
        yield server


@pytest.fixture(scope="session")
def shared_sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """A server for all tests that leave it as it is."""
    with Sshd.start(tmp_path_factory.mktemp("ssh")) as server:
        yield server


@pytest.fixture
def local(tmp_path: Path, programs: list[Path]) -> Iterator[Pair]:
    """Two directories on this machine, without SSH; nothing runs yet."""
    with opened(tmp_path) as made:
        yield made


@pytest.fixture
def plain(tmp_path: Path, programs: list[Path]) -> Iterator[Pair]:
    """Like `local`, with a session of an ordinary user: whom a mode keeps out."""
    if os.geteuid() != 0:
        with opened(tmp_path) as made:
            yield made
        return
    base = Path(tempfile.mkdtemp())  # he may not enter those of pytest
    try:
        os.chown(base, 54321, 54321)
        try:
            ask = [*command(), "--version"]
            subprocess.run(ask, user=54321, check=True, capture_output=True, cwd="/")
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("an ordinary user may not enter this checkout, or its Python")
        with opened(base, None, {"HOME": str(base)}) as made:
            yield made
    finally:
        shutil.rmtree(base)


@pytest.fixture
def pair(tmp_path: Path, programs: list[Path], shared_sshd: Sshd) -> Iterator[Pair]:
    """Two directories, the right one behind SSH; nothing runs yet."""
    with opened(tmp_path, shared_sshd.alias, {"HOME": str(shared_sshd.home)}) as made:
        yield made


@pytest.fixture(scope="session")
def idle() -> Iterator[list[Pair]]:
    """The session that waits for the next test, if any: to start one is what a test costs most."""
    waiting: list[Pair] = []
    yield waiting
    for each in waiting:
        each.close()


@pytest.fixture
def watching(
    idle: list[Pair], tmp_path: Path, programs: list[Path], shared_sshd: Sshd
) -> Iterator[Pair]:
    """A session that watches two empty directories; it may have done so in tests before."""
    if idle:
        pair = idle.pop()
    else:
        pair = Pair(tmp_path, shared_sshd.alias, {"HOME": str(shared_sshd.home)})
    try:
        if pair.process is None:
            pair.start()
        yield pair
        if pair.clear():
            idle.append(pair)
    finally:
        if not idle:
            pair.close()


@pytest.fixture
def breakable(tmp_path: Path, programs: list[Path], sshd: Sshd) -> Iterator[Pair]:
    """Like `pair`, with `sshd`."""
    with opened(tmp_path, sshd.alias, {"HOME": str(sshd.home)}) as made:
        yield made
