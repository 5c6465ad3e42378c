"""Who is asked what psync knows of a difference, and what becomes of who does not answer."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from psync.audit_knowledge import Knowledge
from psync.control import ControlServer
from psync.core.archive import Archive, Change
from psync.core.entry import Agreed
from psync.core.events import Intend, Limits
from psync.core.reconcile import agree
from psync.core.session import Session
from psync.effects.state import SessionDir
from psync.effects.store import Intents, Rows
from psync.errors import PsyncError
from psync.explain import QUESTION_MAX, Told, explain
from tests.support.replica import directory, file
from tests.support.rows import MemoryRows

AGREED = agree(file(b"one"), file(b"one")._replace(ino=1), file(b"one")._replace(ino=1 << 63))
Serve = Callable[[Callable[[dict[str, Any]], Any]], Awaitable[list[dict[str, Any]]]]


@pytest.fixture
def session_dir(tmp_path: Path) -> SessionDir:
    return SessionDir(tmp_path, "home")


@pytest.fixture
def warned() -> list[str]:
    return []


@pytest.fixture
def knowledge(session_dir: SessionDir, warned: list[str]) -> Knowledge:
    return Knowledge(session_dir, 5.0, warned.append)


def filled(rows: Any) -> Archive:
    archive = Archive(rows)
    archive.put(b"d", agree(directory(), directory(), directory()))
    archive.put(b"d/f", AGREED)
    return archive


def at_rest(session_dir: SessionDir, *, met: bool = True) -> None:
    """Let a session have run, and ended."""
    session_dir.make()
    rows = Rows(session_dir.database)
    archive = filled(rows)
    assert archive.freeze()
    archive.commit()
    if met:
        rows.set_meta("met", "1")
    rows.close()


@pytest.fixture
async def serve(session_dir: SessionDir) -> AsyncIterator[Serve]:
    """Let a session run, which answers with what a function says; returns what it was asked."""
    servers: list[ControlServer] = []

    async def start(answer: Callable[[dict[str, Any]], Any]) -> list[dict[str, Any]]:
        asked: list[dict[str, Any]] = []

        async def handle(verb: str, args: dict[str, Any]) -> Any:
            assert verb == "explain"
            asked.append(args)
            return answer(args)

        session_dir.make()
        servers.append(ControlServer(session_dir.path, handle))
        await servers[-1].start()
        return asked

    yield start
    for server in servers:
        await server.close()


def session(*, settled: bool = True) -> Callable[[dict[str, Any]], Any]:
    """What a real one says."""
    archive = filled(MemoryRows())
    real = Session(archive, Limits(), met=True)
    return lambda args: explain(real, archive, args, settled=settled and bool(args["timeout"]))


class TestNobody:
    async def test_knows_nothing(self, knowledge: Knowledge, session_dir: SessionDir) -> None:
        await knowledge.open()

        assert await knowledge.tell([b"f"]) == [Told("", "", None)]
        assert not await knowledge.settle()
        assert not (knowledge.known or knowledge.running)
        knowledge.close()
        assert not session_dir.path.exists()


class TestArchive:
    @pytest.mark.parametrize("met", [True, False])
    async def test_is_read_from_a_copy(
        self, knowledge: Knowledge, session_dir: SessionDir, met: bool
    ) -> None:
        at_rest(session_dir, met=met)
        before = {p: p.read_bytes() for p in session_dir.path.iterdir()}
        await knowledge.open()
        assert set(session_dir.path.iterdir()) == set(before)  # nobody has asked yet
        told = await knowledge.tell([b"d/f", b"d/g", b"d"])

        assert [each.agreed for each in told][:2] == [AGREED, None]
        assert told[2].agreed is not None
        assert {each.word for each in told} == {""}
        assert (knowledge.known, knowledge.running, knowledge.met) == (True, False, met)
        assert not await knowledge.settle()
        knowledge.close()
        assert {p: p.read_bytes() for p in session_dir.path.iterdir()} == before

    async def test_goes_on_with_what_a_killed_session_has_noted(
        self, knowledge: Knowledge, session_dir: SessionDir
    ) -> None:
        at_rest(session_dir)
        intents = Intents(session_dir.path)
        note = Intend([], [Change(b"d/g", AGREED), Change(b"d/f", None)])
        intents.append([msgspec.msgpack.encode(note)])
        intents.close()
        before = {p: p.read_bytes() for p in session_dir.path.iterdir()}
        await knowledge.open()
        told = await knowledge.tell([b"d/f", b"d/g"])

        assert [each.agreed for each in told] == [None, AGREED]
        knowledge.close()
        assert {p: p.read_bytes() for p in session_dir.path.iterdir()} == before

    async def test_with_notes_that_cannot_be_read_is_not_believed(
        self, knowledge: Knowledge, session_dir: SessionDir, warned: list[str]
    ) -> None:
        at_rest(session_dir)
        intents = Intents(session_dir.path)
        intents.append([b"\xff"])
        intents.close()
        await knowledge.open()

        assert await knowledge.tell([b"d/f"]) == [Told("", "", None)]
        assert len(warned) == 1
        knowledge.close()

    async def test_that_is_broken_is_left_alone(
        self, knowledge: Knowledge, session_dir: SessionDir, warned: list[str]
    ) -> None:
        session_dir.make()
        session_dir.database.write_bytes(b"no database" * 1000)
        await knowledge.open()

        assert await knowledge.tell([b"f"]) == [Told("", "", None)]
        assert not knowledge.known
        assert warned == [
            f"what psync believes is not known: the archive {session_dir.database} is broken"
        ]
        knowledge.close()
        assert os.listdir(session_dir.path) == ["archive.db"]

    async def test_that_cannot_be_copied_is_no_end(
        self,
        knowledge: Knowledge,
        session_dir: SessionDir,
        warned: list[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        at_rest(session_dir)

        def full(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("shutil.copyfile", full)
        await knowledge.open()

        assert await knowledge.tell([b"f"]) == [Told("", "", None)]
        assert warned == ["what psync believes is not known: No space left on device"]
        knowledge.close()

    async def test_that_changes_all_the_time_is_not_believed(
        self,
        knowledge: Knowledge,
        session_dir: SessionDir,
        warned: list[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        at_rest(session_dir)
        monkeypatch.setattr("shutil.copyfile", lambda *_: os.utime(session_dir.database))
        await knowledge.open()
        await knowledge.tell([b"f"])

        assert len(warned) == 1
        assert "changes all the time" in warned[0]
        knowledge.close()

    async def test_is_not_read_when_a_session_has_begun(
        self, knowledge: Knowledge, session_dir: SessionDir, serve: Serve
    ) -> None:
        at_rest(session_dir)
        await knowledge.open()
        asked = await serve(session())
        told = await knowledge.tell([b"d/f"])

        assert [each.agreed for each in told] == [AGREED]
        assert knowledge.running
        assert len(asked) == 2
        assert not list(session_dir.path.glob("audit.*"))


class TestSession:
    async def test_that_runs_is_asked(self, knowledge: Knowledge, serve: Serve) -> None:
        await serve(session())
        await knowledge.open()
        (f, none) = await knowledge.tell([b"d/f", b"\xff"])

        assert f == Told("", "", AGREED)
        assert isinstance(f.agreed, Agreed)
        assert none == Told("", "", None)
        assert await knowledge.settle()
        assert (knowledge.running, knowledge.known, knowledge.state) == (True, True, "starting")

    async def test_is_asked_in_parts_that_fit_a_request(
        self, knowledge: Knowledge, serve: Serve
    ) -> None:
        asked = await serve(session())
        await knowledge.open()
        names = b"/".join([b"n" * 250] * 20)
        paths = [b"%d/%s" % (i, names) for i in range(20)]
        paths[7] = b"/".join([b"n" * 250] * 200)
        told = await knowledge.tell(paths)

        assert len(paths[7]) > QUESTION_MAX
        assert [each.word for each in told] == [""] * 7 + ["unknown"] + [""] * 12
        assert [len(args["paths"]) for args in asked] == [0, 6, 1, 6, 6]

    async def test_that_has_much_to_do_is_not_kept_from_it(
        self, knowledge: Knowledge, serve: Serve
    ) -> None:
        asked = await serve(session(settled=False))
        await knowledge.open()

        assert not await knowledge.settle()
        assert not await knowledge.settle()
        assert len(asked) == 2

    @pytest.mark.parametrize("answer", [{}, None, {"told": "!", "state": "", "met": 1}])
    async def test_of_another_version_is_not_believed(
        self, knowledge: Knowledge, serve: Serve, warned: list[str], answer: Any
    ) -> None:
        await serve(lambda args: answer)
        await knowledge.open()

        assert await knowledge.tell([b"f"]) == [Told("unknown", "", None)]
        assert not await knowledge.settle()
        assert len(warned) == 1
        assert "another version" in warned[0]

    async def test_that_refuses_is_no_end(
        self, knowledge: Knowledge, serve: Serve, warned: list[str]
    ) -> None:
        def refuse(args: dict[str, Any]) -> Any:
            if not args["paths"] and not args["timeout"]:
                return session()(args)
            raise PsyncError("not now")

        await serve(refuse)
        await knowledge.open()
        assert knowledge.known
        assert not await knowledge.settle()
        assert await knowledge.tell([b"f", b"g"]) == [Told("unknown", "", None)] * 2

        assert warned == ["what psync believes is not known: session home: not now"]

    async def test_that_ends_meanwhile_is_unknown(
        self, knowledge: Knowledge, session_dir: SessionDir, warned: list[str]
    ) -> None:
        async def handle(verb: str, args: dict[str, Any]) -> Any:
            return session()(args)

        session_dir.make()
        server = ControlServer(session_dir.path, handle)
        await server.start()
        await knowledge.open()
        await server.close()

        assert await knowledge.tell([b"f"]) == [Told("unknown", "", None)]
        assert warned == ["what psync believes is not known: session home is not running"]

    async def test_that_does_not_answer_is_left_at_once(
        self, knowledge: Knowledge, session_dir: SessionDir
    ) -> None:
        asked = asyncio.Event()

        async def handle(verb: str, args: dict[str, Any]) -> Any:
            asked.set()
            await asyncio.Event().wait()

        session_dir.make()
        server = ControlServer(session_dir.path, handle)
        await server.start()
        opening = asyncio.create_task(knowledge.open())
        await asked.wait()
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        await server.close()
        # its thread has ended, too: else the loop's end would wait for it
        await asyncio.wait_for(asyncio.get_running_loop().shutdown_default_executor(), 10)


class TestExplain:
    @pytest.mark.parametrize(
        "paths", [["no base64!"], [None], 3, ["Li4="], ["YQ=="] * 1001], ids=str
    )
    def test_takes_paths_only(self, paths: Any) -> None:
        archive = filled(MemoryRows())
        with pytest.raises(PsyncError, match="no paths"):
            explain(Session(archive, Limits()), archive, {"paths": paths}, settled=True)
