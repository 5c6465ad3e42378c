"""Both event loops, and a real sshd with its client's home."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvloop

from tests.sshd import Sshd


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run every asynchronous test here under both: psync takes uvloop where it is installed."""
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session")
def standing_sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """A server for all tests that leave it as it is."""
    with Sshd.start(tmp_path_factory.mktemp("ssh")) as server:
        yield server


@pytest.fixture
def shared_sshd(standing_sshd: Sshd, programs: list[Path], monkeypatch: pytest.MonkeyPatch) -> Sshd:
    """The same, seen from its client's home."""
    monkeypatch.setenv("HOME", str(standing_sshd.home))
    return standing_sshd


@pytest.fixture
def sshd(tmp_path: Path, programs: list[Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Sshd]:
    """A server of this test's own, to be broken as it likes."""
    with Sshd.start(tmp_path / "ssh") as server:
        monkeypatch.setenv("HOME", str(server.home))
        yield server
