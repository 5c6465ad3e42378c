"""Agents on this host and behind a real sshd: their greeting, their loss, their end.

And everything that can be wrong with the way to another host: each gives one line that says
what to do.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import pytest

import psync
from psync.effects import link as link_module
from psync.effects.link import FORCED, GREETING_MAX, Line, Link
from psync.effects.remote import SshHost
from psync.effects.spawn import listen
from psync.effects.ssh import trust
from psync.effects.transport import Host, LocalHost
from psync.errors import (
    ConfigError,
    HostKeyError,
    PsyncError,
    RefusedError,
    TransportError,
    UsageError,
)
from psync.wire import (
    MAGIC,
    PROTOCOL,
    Hello,
    Log,
    Look,
    Message,
    Observed,
    Ping,
    Pong,
    Ready,
    Start,
    Stop,
    Watch,
    encode,
)
from tests.sshd import Sshd, children

M = TypeVar("M")
_PATIENCE_S = 20.0
_LOST_AS_IT_BEGINS = """
import asyncio, os, sys, uvloop
from psync.effects.remote import _Pump

async def main():
    reader, writer = os.pipe()
    pump = _Pump(reader, writer, lambda said: None)
    for attach in (pump.attach_output, pump.attach_input):
        attaching = asyncio.create_task(attach())
        await asyncio.sleep(0)
        if attach.__name__ == sys.argv[1]:
            pump.connection_lost(None)
        await attaching
        await asyncio.sleep(0)
    assert await pump.done == 255
    pump.close()

uvloop.run(main())
"""
_HELLO = Hello(PROTOCOL, psync.__version__, "3.11", "x", 0, 1, "", "h", "", [], 0)


class Brain:
    """What an agent's brain hears."""

    def __init__(self) -> None:
        self.losses: list[TransportError] = []
        self._messages: asyncio.Queue[Message] = asyncio.Queue()
        self._lost = asyncio.Event()

    def on_messages(self, messages: list[Message]) -> None:
        for message in messages:
            self._messages.put_nowait(message)

    def on_lost(self, error: TransportError) -> None:
        self.losses.append(error)
        self._lost.set()

    async def hear(self, kind: type[M]) -> M:
        """Wait for a message of a kind; drop the others."""
        async with asyncio.timeout(_PATIENCE_S):
            while not isinstance(message := await self._messages.get(), kind):
                pass
            return message

    async def loss(self) -> TransportError:
        async with asyncio.timeout(_PATIENCE_S):
            await self._lost.wait()
        return self.losses[0]


class Silent(Line):
    """What carries nothing."""

    def write(self, data: bytes) -> None: ...

    def unsent(self) -> int:
        return 0

    def hold(self) -> None: ...

    def go_on(self) -> None: ...

    async def close(self, grace: float) -> None: ...

    def abort(self) -> None: ...


def start_message(root: Path) -> Start:
    root.mkdir(exist_ok=True)
    return Start(
        protocol=PROTOCOL,
        version=psync.__version__,
        root=os.fsencode(root),
        session="test",
        side=0,
        owners=os.geteuid() == 0,
        strip_special_bits=False,
        excludes=[],
        tempfiles=[],
        inline_max=1 << 18,
        settle_ms=50,
        max_delay_ms=10_000,
        quarantine_ms=60_000,
        timeout_ms=60_000,
        strict=False,
        suppress_echoes=True,
        poll_ms=10_000,
    )


@asynccontextmanager
async def hearing(host: Host) -> AsyncIterator[tuple[Link, Brain]]:
    """Start an agent, and end it."""
    brain = Brain()
    link = await host.start_agent(brain.on_messages, brain.on_lost)
    try:
        yield link, brain
    finally:
        await link.close(2.0)
        await host.close()


async def gone(pid: int) -> None:
    """Wait until a process has ended."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(descriptor, ended.set)
    try:
        async with asyncio.timeout(_PATIENCE_S):
            await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


async def refusal(host: Host, kind: type[PsyncError] = RefusedError) -> str:
    """Fail to start an agent; return the one line that says why."""
    brain = Brain()
    try:
        with pytest.raises(kind) as caught:
            link = await host.start_agent(brain.on_messages, brain.on_lost)
            await link.close(0)
    finally:
        await host.close()
    if kind is TransportError:  # so it is tried again
        assert not isinstance(caught.value, (RefusedError, HostKeyError))
    assert not brain.losses
    message = str(caught.value)
    assert message.isprintable()
    return message


def speaking(data: bytes) -> str:
    """A command that says something and listens."""
    program = f"import os,sys;os.write(1,{data!r});sys.stdin.buffer.read()"
    return shlex.join([sys.executable, "-c", program])


def keygen(*words: str | Path) -> str:
    return subprocess.run(
        ["ssh-keygen", "-q", *map(str, words)], capture_output=True, text=True, check=True
    ).stdout


@pytest.fixture(params=["local", "ssh"])
def host(request: pytest.FixtureRequest, shared_sshd: Sshd) -> Host:
    """Both kinds of host."""
    return LocalHost() if request.param == "local" else SshHost(shared_sshd.alias)


class TestAgent:
    async def test_says_hello_and_serves(self, host: Host, tmp_path: Path) -> None:
        async with hearing(host) as (link, brain):
            link.send(start_message(tmp_path / "root"))
            ready = await brain.hear(Ready)
            link.send(Ping(5))

            assert link.hello.version == psync.__version__
            assert ready.root == os.fsencode(tmp_path / "root")
            assert (await brain.hear(Pong)).token == 5
            assert not brain.losses

    async def test_gets_a_large_message_whole(self, host: Host, tmp_path: Path) -> None:
        paths = [b"d%07d/" % n + b"x" * 200 for n in range(20_000)]
        async with hearing(host) as (link, brain):
            link.send(start_message(tmp_path / "root"))
            await brain.hear(Ready)
            link.send(Watch("0" * 32))
            link.send(Look(0, paths))
            queued = link.unsent
            looked = 0
            while looked < len(paths):
                looked += len((await brain.hear(Observed)).items)

            assert queued > 0
            assert link.unsent == 0

    async def test_that_is_killed_is_lost_once_with_the_signal(self, host: Host) -> None:
        async with hearing(host) as (link, brain):
            os.kill(link.hello.pid, signal.SIGKILL)

            assert "signal 9" in str(await brain.loss())
            link.send(Ping(1))
        assert len(brain.losses) == 1

    async def test_that_ends_by_itself_is_lost_with_its_status(
        self, host: Host, tmp_path: Path
    ) -> None:
        async with hearing(host) as (link, brain):
            link.send(start_message(tmp_path / "root"))
            await brain.hear(Ready)
            link.send(Stop())

            assert "the agent ended (exit status 0)" in str(await brain.loss())

    async def test_that_is_closed_is_gone_and_not_lost(self, host: Host, tmp_path: Path) -> None:
        async with hearing(host) as (link, brain):
            link.send(start_message(tmp_path / "root"))
            link.send(Watch("0" * 32))
            await brain.hear(Ready)
            link.send(Ping(1))
            await brain.hear(Pong)
            family = children(link.hello.pid)
            await link.close(5.0)

            for process in family:
                await gone(process)
            await link.close(5.0)
        assert not brain.losses

    async def test_that_is_stopped_is_killed_after_the_grace(self, host: Host) -> None:
        async with hearing(host) as (link, brain):
            os.kill(link.hello.pid, signal.SIGSTOP)
            before = time.monotonic()
            await link.close(0.2)

            assert 0.2 <= time.monotonic() - before < 2.0
            await gone(link.hello.pid)
        assert not brain.losses

    async def test_ends_with_its_host(self, host: Host) -> None:
        brain = Brain()
        link = await host.start_agent(brain.on_messages, brain.on_lost)
        await host.close()
        await gone(link.hello.pid)

        await link.close(1.0)

    async def test_can_be_started_again(self, host: Host) -> None:
        pids = set()
        for _ in range(2):
            async with hearing(host) as (link, _):
                pids.add(link.hello.pid)

        assert len(pids) == 2


class TestLocalAgent:
    async def test_is_refused_with_what_it_said(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(
            "psync.effects.transport.local_command",
            lambda: ["sh", "-c", "echo no luck >&2; exit 3"],
        )

        message = await refusal(LocalHost())

        assert "this host: no agent came up there (exit status 3)" in message
        assert "no luck" in message

    async def test_that_cannot_be_started_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "executable", "/nowhere/python3")

        assert "cannot be started" in await refusal(LocalHost())

    async def test_that_breaks_the_protocol_is_lost(self, monkeypatch: pytest.MonkeyPatch) -> None:
        data = MAGIC + encode(_HELLO)
        command = speaking(data).replace("read()", r"read(1);os.write(1,bytes([255])*9)")
        monkeypatch.setattr("psync.effects.transport.local_command", lambda: ["sh", "-c", command])
        async with hearing(LocalHost()) as (link, brain):
            link.send(Ping(1))

            assert "the peer announced a frame of" in str(await brain.loss())
        assert len(brain.losses) == 1

    async def test_is_killed_when_closing_is_cancelled(self) -> None:
        async with hearing(LocalHost()) as (link, _):
            os.kill(link.hello.pid, signal.SIGSTOP)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await link.close(60.0)

            await gone(link.hello.pid)


class TestTurns:
    """An agent that has much to say: everything is heard, in order, and others get on."""

    @pytest.mark.parametrize("unheard_max", [1 << 17, 1 << 30])
    @pytest.mark.parametrize("where", ["local", "ssh"])
    async def test_leave_room_for_others(
        self,
        sshd: Sshd,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        where: str,
        unheard_max: int,
    ) -> None:
        hello, said = tmp_path / "hello", tmp_path / "said"
        hello.write_bytes(MAGIC + encode(_HELLO))
        texts = [f"{number}{'.' * 1000}" for number in range(2000)]
        said.write_bytes(b"".join(encode(Log(20, text)) for text in texts))
        command = f"cat {hello}; head -c 1 >/dev/null; cat {said}"
        monkeypatch.setattr(link_module, "_UNHEARD_MAX", unheard_max)
        monkeypatch.setattr("psync.effects.transport.local_command", lambda: ["sh", "-c", command])
        sshd.through(command)
        heard: list[str] = []
        ended = asyncio.Event()
        turns = 0

        def on_messages(messages: list[Message]) -> None:
            for message in messages:
                assert isinstance(message, Log)
                heard.append(message.message)
                time.sleep(0.0005)  # what a brain has to do

        async def others() -> None:
            nonlocal turns
            while not ended.is_set():
                await asyncio.sleep(0)
                turns += 1

        host = LocalHost() if where == "local" else SshHost(sshd.alias)
        running = asyncio.create_task(others())
        link = await host.start_agent(on_messages, lambda _: ended.set())
        link.send(Ping(1))
        async with asyncio.timeout(_PATIENCE_S):
            await running
        await link.close(0)
        await host.close()

        assert heard == texts
        assert turns > 20

    async def test_are_given_between_what_is_read_at_once(self) -> None:
        heard: list[str] = []

        def on_messages(messages: list[Message]) -> None:
            heard.extend(map(str, messages))
            time.sleep(link_module._TURN_S)  # what a brain has to do

        link = Link("x", on_messages, lambda _: None)
        link.received(MAGIC + encode(_HELLO))
        await link.greet(Silent(), None, _PATIENCE_S)
        await asyncio.sleep(0)
        for number in range(3):  # as a loop that reads until there is no more
            link.received(encode(Log(20, f"{number}")))

        for turn in range(1, 4):
            assert len(heard) == turn
            await asyncio.sleep(0)

    async def test_are_given_between_what_was_read_before_anybody_heard(self) -> None:
        heard: list[str] = []

        def on_messages(messages: list[Message]) -> None:
            heard.extend(map(str, messages))
            time.sleep(link_module._TURN_S)  # what a brain has to do

        losses: list[TransportError] = []
        link = Link("x", on_messages, losses.append)
        link.received(MAGIC + encode(_HELLO))
        await link.greet(Silent(), None, _PATIENCE_S)
        for number in range(3):
            link.received(encode(Log(20, f"{number}")))
        link.ended(0)

        for turn in range(1, 4):
            await asyncio.sleep(0)
            assert len(heard) == turn
            assert not losses
        await asyncio.sleep(0)
        assert len(losses) == 1

    async def test_leave_none_unheard_that_takes_longer_than_its_process(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        said = tmp_path / "said"
        texts = [f"{number}{'.' * 1000}" for number in range(2000)]
        said.write_bytes(MAGIC + encode(_HELLO) + b"".join(encode(Log(20, text)) for text in texts))
        command = ["sh", "-c", f"cat {said}"]
        monkeypatch.setattr("psync.effects.transport.local_command", lambda: command)
        monkeypatch.setattr("psync.effects.transport._STRAGGLING_S", 0.005)
        monkeypatch.setattr(link_module, "_UNHEARD_MAX", 1 << 17)
        heard: list[str] = []
        ended = asyncio.Event()

        def on_messages(messages: list[Message]) -> None:
            for message in messages:
                assert isinstance(message, Log)
                heard.append(message.message)
                time.sleep(0.0002)

        host = LocalHost()
        link = await host.start_agent(on_messages, lambda _: ended.set())
        async with asyncio.timeout(_PATIENCE_S):
            await ended.wait()
        await link.close(0)
        await host.close()

        assert heard == texts


class TestConnection:
    async def test_that_is_cut_loses_the_agent_once_and_can_be_made_again(self, sshd: Sshd) -> None:
        host = SshHost(sshd.alias)
        async with hearing(host) as (link, brain):
            sshd.cut()

            assert "the connection was lost" in str(await brain.loss())
            await gone(link.hello.pid)
            async with hearing(host) as (again, _):
                assert again.hello.pid != link.hello.pid
        assert len(brain.losses) == 1

    async def test_that_is_frozen_is_lost_within_the_timeout(self, sshd: Sshd) -> None:
        async with hearing(SshHost(sshd.alias, timeout=3.0)) as (link, brain):
            before = time.monotonic()
            sshd.freeze()

            assert "the connection was lost" in str(await brain.loss())
            assert time.monotonic() - before < 12.0
            sshd.thaw()
            await gone(link.hello.pid)

    async def test_that_is_frozen_is_closed_in_time(self, sshd: Sshd) -> None:
        host = SshHost(sshd.alias)
        brain = Brain()
        link = await host.start_agent(brain.on_messages, brain.on_lost)
        sshd.freeze()
        before = time.monotonic()
        await link.close(0.3)
        await host.close()

        assert time.monotonic() - before < 3.0
        sshd.thaw()
        await gone(link.hello.pid)
        assert not brain.losses

    async def test_is_kept_for_the_next_agent(self, sshd: Sshd) -> None:
        host = SshHost(sshd.alias)
        await host.connect()
        await host.connect()
        for _ in range(2):
            brain = Brain()
            link = await host.start_agent(brain.on_messages, brain.on_lost)
            await link.close(2.0)
        await host.close()

        assert sshd.log().count("Accepted publickey") == 1

    async def test_leaves_nothing_when_starting_is_cancelled(self, sshd: Sshd) -> None:
        told: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        listener, writer = await listen(lambda data: told.set_result(int(data)))
        sshd.through(f"echo $$ > /proc/{os.getpid()}/fd/{writer}; exec cat")
        host = SshHost(sshd.alias)
        starting = asyncio.create_task(host.start_agent(lambda _: None, lambda _: None))
        async with asyncio.timeout(_PATIENCE_S):
            pid = await told
        os.close(writer)
        listener.close()
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        await host.close()

        await gone(pid)


class TestTransfer:
    @pytest.mark.parametrize("during", ["attach_output", "attach_input"])
    def test_that_is_lost_as_it_begins_is_no_more_than_lost(self, during: str) -> None:
        """In a process of its own: libuv aborts when a descriptor is closed under it."""
        done = subprocess.run(
            [sys.executable, "-c", _LOST_AS_IT_BEGINS, during],
            capture_output=True, text=True, check=False,
        )  # fmt: skip

        assert (done.returncode, done.stderr) == (0, "")


class TestForcedCommand:
    """What a shell says when the command that a key is bound to cannot be started."""

    @pytest.mark.parametrize(
        "said",
        [
            "sh: 1: psync: not found",
            "bash: line 1: psync: command not found",
            "bash: line 1: exec: psync: not found\n(and more)",
            "sh: 1: /opt/x/psync: Permission denied",
            "bash: /opt/psync: No such file or directory",
            "bash: line 1: /opt/psync: cannot execute: required file not found",
            "/opt/psync: /usr/bin/python: bad interpreter: No such file or directory",
            "env: \u2018psync\u2019: No such file or directory",
            "zsh:1: command not found: psync",
            "zsh:1: no such file or directory: /opt/psync",
            "zsh:1: permission denied: /opt/psync",
        ],
    )
    def test_is_recognised(self, said: str) -> None:
        assert FORCED.search(said)

    @pytest.mark.parametrize(
        "said",
        [
            "sh: 1: python3: not found",
            "/srv/psync.d/wrapper: 1: exec: python3: not found",
            "sh: 1: exec: /opt/psync.d/python3: not found",
            "zsh:1: command not found: /opt/psync.d/python3",
        ],
    )
    def test_is_not_taken_for_python(self, said: str) -> None:
        assert not FORCED.search(said)


class TestRefusal:
    """Each bad input: one line that says what is wrong and what to do."""

    async def test_of_a_host_that_does_not_exist(self, shared_sshd: Sshd) -> None:
        message = await refusal(SshHost("no-such-host.invalid"))

        assert "there is no host called no-such-host.invalid" in message

    async def test_of_a_name_that_cannot_be_one(self, shared_sshd: Sshd) -> None:
        assert "a..b" in await refusal(SshHost("a..b"))

    async def test_of_a_name_may_pass_for_a_host_that_was_there(self, sshd: Sshd) -> None:
        host = SshHost(sshd.alias)
        await host.connect()
        await host.close()
        config = sshd.home / ".ssh" / "config"
        config.write_text(config.read_text().replace("127.0.0.1", "no-such-host.invalid"))

        assert "there is no host" in await refusal(host, TransportError)

    async def test_of_a_port_where_nothing_listens(self, sshd: Sshd) -> None:
        sshd.stop()
        message = await refusal(SshHost(sshd.alias), TransportError)

        assert f"127.0.0.1 port {sshd.port} refuses connections: is sshd running" in message

    async def test_of_a_host_that_does_not_answer(self, sshd: Sshd) -> None:
        sshd.freeze()
        message = await refusal(SshHost(sshd.alias, timeout=0.5), TransportError)

        assert "no answer from 127.0.0.1" in message

    async def test_of_our_key(self, sshd: Sshd) -> None:
        sshd.forbid()
        message = await refusal(SshHost(sshd.alias))

        assert f"{sshd.user}@127.0.0.1 does not accept our keys" in message
        assert "authorized_keys" in message

    async def test_of_a_key_with_a_passphrase_asks_for_none(self, sshd: Sshd) -> None:
        keygen("-p", "-P", "", "-N", "secret", "-f", sshd.key)

        assert "ssh-agent" in await refusal(SshHost(sshd.alias))

    async def test_of_a_key_that_is_none(self, sshd: Sshd) -> None:
        sshd.key.write_text("this is no key\n")

        message = await refusal(SshHost(sshd.alias))

        assert "does not accept our keys" in message
        assert f"{sshd.key}: left out, unless ssh-agent has it: Invalid private key" in message

    async def test_of_a_key_that_is_none_among_others(self, sshd: Sshd) -> None:
        sshd.key.write_text("this is no key\n")
        sshd.write_config("IdentitiesOnly no")
        message = await refusal(SshHost(sshd.alias))

        assert "a key cannot be used" in message
        assert f"({sshd.key}: left out, unless ssh-agent has it: Invalid private key)" in message

    async def test_of_our_key_says_what_became_of_each_file(self, sshd: Sshd) -> None:
        sshd.forbid()
        directory, locked = sshd.directory / "d", sshd.directory / "locked"
        directory.mkdir()
        keygen("-t", "ed25519", "-N", "secret", "-f", locked)
        sshd.key.chmod(0o640)
        files = [sshd.directory / "missing", directory, locked]
        sshd.write_config(*(f"IdentityFile {file}" for file in files))

        assert (
            f"({files[0]}: left out: No such file or directory; "
            f"{directory}: left out: Is a directory; "
            f"{locked}: left out, unless ssh-agent has it: Passphrase must be specified to import "
            "encrypted private keys; "
            f"{sshd.key}: tried, but ssh would leave it out: others may read it (chmod 600))"
        ) in await refusal(SshHost(sshd.alias))

    async def test_of_our_key_names_those_that_are_tried_unasked(self, sshd: Sshd) -> None:
        sshd.forbid()
        config = sshd.home / ".ssh" / "config"
        config.write_text(config.read_text().replace("IdentityFile", "#"))

        assert f"({sshd.key}: tried)" in await refusal(SshHost(sshd.alias))

        sshd.key.unlink()
        assert "(no key file is there)" in await refusal(SshHost(sshd.alias))

    async def test_of_an_unknown_host_key(self, sshd: Sshd) -> None:
        sshd.known_hosts.write_text("")
        message = await refusal(SshHost(sshd.alias), HostKeyError)

        assert "not known yet" in message
        assert "SHA256:" in message
        assert message.endswith(f"psync trust {sshd.alias}")

    async def test_of_an_unknown_host_key_where_the_configuration_knows_no_file(
        self, sshd: Sshd
    ) -> None:
        sshd.write_config("UserKnownHostsFile none", "StrictHostKeyChecking no")

        assert "not known yet" in await refusal(SshHost(sshd.alias), HostKeyError)

    async def test_of_a_changed_host_key(self, sshd: Sshd) -> None:
        sshd.change_host_key()
        sshd.restart()
        message = await refusal(SshHost(sshd.alias), HostKeyError)

        assert "has CHANGED" in message
        assert f"-R '[127.0.0.1]:{sshd.port}'" in message

    async def test_of_a_host_key_of_another_kind(self, sshd: Sshd) -> None:
        other = sshd.directory / "other"
        keygen("-t", "ecdsa", "-N", "", "-f", other)
        public = other.with_suffix(".pub").read_text()
        sshd.known_hosts.write_text(f"[127.0.0.1]:{sshd.port} {public}")

        assert "has CHANGED" in await refusal(SshHost(sshd.alias), HostKeyError)

    async def test_of_a_revoked_host_key(self, sshd: Sshd) -> None:
        known = sshd.known_hosts.read_text()
        sshd.known_hosts.write_text(f"{known}@revoked {known}")

        message = await refusal(SshHost(sshd.alias), HostKeyError)

        assert f"its host key is REVOKED (by {sshd.known_hosts} line 2)" in message

    @pytest.mark.parametrize("line", ["@revoked {known}", "@revoked {known}127.0.0.1 {key}"])
    async def test_of_a_host_key_that_is_revoked_at_that_port_only(
        self, sshd: Sshd, line: str
    ) -> None:
        known = sshd.known_hosts.read_text()
        line = line.format(known=known, key=known.split(" ", 1)[1])
        sshd.known_hosts.write_text(f"# {known}{line}")
        message = await refusal(SshHost(sshd.alias), HostKeyError)

        assert f"its host key is REVOKED (by {sshd.known_hosts} line 2)" in message
        with pytest.raises(HostKeyError, match="REVOKED"):
            await trust(sshd.alias)
        assert sshd.known_hosts.read_text() == f"# {known}{line}"

    async def test_of_a_known_hosts_file_that_may_not_be_read(self, sshd: Sshd) -> None:
        sshd.known_hosts.unlink()
        sshd.known_hosts.mkdir()

        assert str(sshd.known_hosts) in await refusal(SshHost(sshd.alias), HostKeyError)

    async def test_does_not_come_of_a_line_that_makes_no_sense(self, sshd: Sshd) -> None:
        """In known_hosts, as with ssh; another line may know the host."""
        sshd.known_hosts.write_text(f"rubbish\n@what is this\n{sshd.known_hosts.read_text()}")

        async with hearing(SshHost(sshd.alias)) as (link, _):
            assert link.hello.version == psync.__version__

    async def test_of_keys_that_are_not_there(self, sshd: Sshd) -> None:
        """It is the server that refuses then, not a file that is missing."""
        sshd.write_config(f"IdentityFile {sshd.directory}/missing")
        config = sshd.home / ".ssh" / "config"
        config.write_text(config.read_text().replace(str(sshd.key), f"{sshd.key}.gone"))
        sshd.key.rename(sshd.key.with_suffix(".gone.not"))

        assert "does not accept our keys" in await refusal(SshHost(sshd.alias))

    async def test_of_a_configuration_that_is_wrong(self, sshd: Sshd) -> None:
        sshd.write_config("Port many")

        assert "config line 2" in await refusal(SshHost(sshd.alias), ConfigError)

    @pytest.mark.parametrize(
        "command",
        ['PATH=/nowhere; eval "$SSH_ORIGINAL_COMMAND"', "exec /opt/psync.d/python3"],
        ids=["at all", "where it is looked for"],
    )
    async def test_of_a_host_without_python(self, sshd: Sshd, command: str) -> None:
        sshd.through(command)
        message = await refusal(SshHost(sshd.alias))

        assert "python3 cannot be started there: install it (3.9 or newer" in message

    async def test_of_a_host_with_an_old_python(self, sshd: Sshd) -> None:
        programs = sshd.directory / "bin"
        programs.mkdir()
        old = programs / "python3"
        old.write_text(
            f"#!/bin/sh\nexec {sys.executable} -c '"
            'import sys; sys.version_info = (3, 6, 8); sys.version = "3.6.8 (default)"; '
            'exec(sys.argv[3])\' "$@"\n'
        )
        old.chmod(0o755)
        sshd.through(f'PATH={programs}:$PATH; eval "$SSH_ORIGINAL_COMMAND"')
        message = await refusal(SshHost(sshd.alias))

        assert "python3 there is 3.6.8, psync needs 3.9 or newer" in message

    async def test_of_another_version(self, sshd: Sshd) -> None:
        sshd.through(f"exec {speaking(MAGIC + encode(_HELLO._replace(version='0.0.7')))}")
        message = await refusal(SshHost(sshd.alias))

        assert f"the agent there is psync 0.0.7, this is {psync.__version__}" in message
        assert "install the same version" in message

    async def test_of_an_agent_that_does_not_say_hello(self, sshd: Sshd) -> None:
        sshd.through(f"exec {speaking(MAGIC + encode(Pong(1, 2)))}")

        assert "does not say hello" in await refusal(SshHost(sshd.alias))

    async def test_of_a_login_that_runs_nothing(self, sshd: Sshd) -> None:
        sshd.through("echo This account is currently not available.; exit 1")
        message = await refusal(SshHost(sshd.alias))

        assert "no agent came up there (exit status 1)" in message
        assert "This account is currently not available." in message

    async def test_of_a_login_that_prints_and_waits(self, sshd: Sshd) -> None:
        sshd.through("echo Press return to accept the terms; exec cat > /dev/null")
        message = await refusal(SshHost(sshd.alias, itimeout=3.0), TransportError)

        assert "no agent answered within 3 s" in message
        assert "raise itimeout" in message
        assert "Press return to accept the terms" in message

    async def test_of_a_login_that_prints_without_end(self, sshd: Sshd) -> None:
        sshd.through("exec yes a banner")

        assert "text without end" in await refusal(SshHost(sshd.alias))

    async def test_of_an_agent_that_dies_at_once(self, sshd: Sshd) -> None:
        sshd.through("echo Traceback >&2; echo MemoryError: no memory >&2; exit 1")

        assert "MemoryError: no memory" in await refusal(SshHost(sshd.alias))

    async def test_of_an_agent_that_is_killed_at_once_may_pass(self, sshd: Sshd) -> None:
        sshd.through("kill -9 $$")

        assert "killed (signal 9)" in await refusal(SshHost(sshd.alias), TransportError)

    async def test_cannot_be_forged_by_what_the_host_says(self, sshd: Sshd) -> None:
        sshd.through(r"printf 'a\033[2Jb\rc\n'; exit 1")

        assert r"a\x1b[2Jb" in await refusal(SshHost(sshd.alias))


class TestGreeting:
    async def test_may_take_longer_than_the_connection(self, sshd: Sshd) -> None:
        host = SshHost(sshd.alias)
        await host.connect()
        host.timeout = 0.001
        async with hearing(host) as (link, _):
            assert link.hello.version == psync.__version__

    async def test_of_a_host_that_freezes_before_it_is_not_awaited(self, sshd: Sshd) -> None:
        told: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        listener, writer = await listen(told.set_result)
        sshd.through(f"echo > /proc/{os.getpid()}/fd/{writer}; exec cat")
        host = SshHost(sshd.alias, timeout=1.0)
        starting = asyncio.create_task(host.start_agent(lambda _: None, lambda _: None))
        async with asyncio.timeout(_PATIENCE_S):
            await told
            os.close(writer)
            listener.close()
            sshd.freeze()
            with pytest.raises(TransportError, match="the connection was lost"):
                await starting
        await host.close()
        sshd.thaw()

    async def test_may_follow_a_banner(self, sshd: Sshd) -> None:
        sshd.through(
            "echo Welcome; echo to this host >&2; printf 'no newline'; "
            'eval "$SSH_ORIGINAL_COMMAND"'
        )
        async with hearing(SshHost(sshd.alias)) as (link, _):
            assert link.hello.version == psync.__version__

    async def test_may_follow_a_long_banner(self, sshd: Sshd) -> None:
        sshd.through(
            f'head -c {GREETING_MAX - 100} /dev/zero | tr "\\0" .; eval "$SSH_ORIGINAL_COMMAND"'
        )
        async with hearing(SshHost(sshd.alias)) as (link, _):
            assert link.hello.version == psync.__version__

    async def test_is_that_of_an_installed_agent_where_the_key_is_bound_to_it(
        self, sshd: Sshd, tmp_path: Path, checkout: Path
    ) -> None:
        root = tmp_path / "root"
        root.mkdir()
        sshd.allow(f"cd {checkout} && exec {sys.executable} -m psync agent --root {root}")
        async with hearing(SshHost(sshd.alias)) as (link, brain):
            link.send(start_message(root))

            assert (await brain.hear(Ready)).root == os.fsencode(root)

    async def test_that_comes_with_messages_behind_it_loses_none(self, sshd: Sshd) -> None:
        data = MAGIC + encode(_HELLO) + encode(Pong(1, 0)) + encode(Pong(2, 0))
        sshd.through(f"exec {speaking(data)}")
        async with hearing(SshHost(sshd.alias)) as (_, brain):
            assert (await brain.hear(Pong)).token == 1
            assert (await brain.hear(Pong)).token == 2

    async def test_that_ends_with_the_agent_is_a_loss(self, sshd: Sshd) -> None:
        data = MAGIC + encode(_HELLO) + encode(Pong(1, 0))
        sshd.through(f"exec {speaking(data).replace('sys.stdin.buffer.read()', '')}")
        async with hearing(SshHost(sshd.alias)) as (_, brain):
            assert (await brain.hear(Pong)).token == 1
            assert "the agent ended (exit status 0)" in str(await brain.loss())
        assert len(brain.losses) == 1


class TestOptions:
    """What ssh takes on its command line, psync takes too."""

    async def reached(self, destination: str, options: list[str] | None = None) -> None:
        host = SshHost(destination, options)
        try:
            await host.connect()
        finally:
            await host.close()

    @pytest.fixture
    def bare(self, shared_sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sshd:
        """The server, for a user without any configuration."""
        monkeypatch.setenv("HOME", str(tmp_path))
        return shared_sshd

    async def test_say_everything_that_is_needed(self, bare: Sshd) -> None:
        await self.reached(
            "127.0.0.1",
            ["-4Cq", f"-p{bare.port}", "-i", str(bare.key), "-l", bare.user, "-o", "BatchMode=yes",
             "-o", f"UserKnownHostsFile={bare.known_hosts}", "-oConnectTimeout 10"],
        )  # fmt: skip

    async def test_name_a_configuration(self, bare: Sshd) -> None:
        await self.reached(bare.alias, bare.ssh_options())

    async def test_win_over_the_configuration(self, bare: Sshd) -> None:
        options = [*bare.ssh_options(), "-p", "1"]

        with pytest.raises(TransportError, match="port 1 refuses"):
            await self.reached(bare.alias, options)

    async def test_may_be_a_url(self, bare: Sshd) -> None:
        await self.reached(
            f"ssh://{bare.user}@127.0.0.1:{bare.port}",
            ["-i", str(bare.key), "-o", f"UserKnownHostsFile {bare.known_hosts}"],
        )

    async def test_are_not_needed_where_ssh_needs_none(self, bare: Sshd, tmp_path: Path) -> None:
        (tmp_path / ".ssh").mkdir()
        for file in (bare.key, bare.known_hosts):
            (tmp_path / ".ssh" / file.name).write_bytes(file.read_bytes())

        await self.reached(f"{bare.user}@127.0.0.1", [f"-p{bare.port}"])

    async def test_go_through_other_hosts(self, sshd: Sshd) -> None:
        config = sshd.home / ".ssh" / "config"
        config.write_text(
            f"Host far\n  ProxyJump {sshd.alias}\n  HostKeyAlias far-key\n"
            + config.read_text().replace(f"Host {sshd.alias}", f"Host {sshd.alias} far")
        )
        public = sshd.host_key.with_suffix(".pub").read_text()
        with sshd.known_hosts.open("a") as known:
            known.write(f"[far-key]:{sshd.port} {public}")
        async with hearing(SshHost("far")) as (link, _):
            assert link.hello.version == psync.__version__

        assert sshd.log().count("Accepted publickey") == 2

    async def test_check_the_hosts_in_between_too(self, sshd: Sshd) -> None:
        config = sshd.home / ".ssh" / "config"
        config.write_text(
            f"Host far\n  ProxyJump {sshd.alias}\n"
            f"Host {sshd.alias}\n  UserKnownHostsFile none\n"
            + config.read_text().replace(f"Host {sshd.alias}", f"Host {sshd.alias} far")
        )

        with pytest.raises(HostKeyError, match=sshd.alias):
            await self.reached("far")

    async def test_start_a_proxy(self, sshd: Sshd) -> None:
        proxy = sshd.directory / "proxy"
        proxy.write_text(
            f"#!{sys.executable}\n"
            "import os, socket, sys, threading\n"
            "far = socket.create_connection(('127.0.0.1', int(sys.argv[1])))\n"
            "def up():\n"
            "    while data := os.read(0, 65536):\n"
            "        far.sendall(data)\n"
            "threading.Thread(target=up, daemon=True).start()\n"
            "while data := far.recv(65536):\n"
            "    os.write(1, data)\n"
        )
        proxy.chmod(0o755)

        await self.reached(sshd.alias, ["-o", f"ProxyCommand={proxy} %p"])

    async def test_skip_key_files_that_are_not_there(self, sshd: Sshd) -> None:
        sshd.write_config(f"IdentityFile {sshd.directory}/missing")

        await self.reached(sshd.alias)

    @pytest.mark.parametrize(
        ("options", "complaint"),
        [
            (["-o", "StrictHostKeyChecking=no"], "psync checks host keys, always"),
            (["-oStrictHostKeyChecking=accept-new"], "psync checks host keys, always"),
            (["-o", "NoSuchKeyword=1"], "NoSuchKeyword is none that psync understands"),
            (["-o", "Port"], "Port needs a value"),
            (["-L", "1:2:3"], "ssh option -L means nothing to psync"),
            (["-p"], "ssh option -p needs a value"),
            (["-i", "a\nHost *"], "ssh option -i needs a value"),
            (["--port", "22"], "'--port' is no ssh option"),
            (["22"], "'22' is no ssh option"),
            (["-F", "/nowhere/config"], "/nowhere/config cannot be read"),
            (["-p", "many"], "ssh options, line 1"),
            (["-p", "99999"], "99999 is no port"),
        ],
    )
    async def test_that_make_no_sense_are_refused(
        self, shared_sshd: Sshd, options: list[str], complaint: str
    ) -> None:
        with pytest.raises(UsageError, match=complaint):
            await self.reached(shared_sshd.alias, options)

    @pytest.mark.parametrize(
        "destination", ["", "user@", "@host", "-oProxyCommand=x", "ssh://", "ssh://h:x", "a\nb"]
    )
    async def test_destinations_that_make_no_sense_are_refused(self, destination: str) -> None:
        with pytest.raises(UsageError, match="is no host"):
            await self.reached(destination)


class TestTrust:
    async def test_shows_the_fingerprint_and_remembers_the_key(self, sshd: Sshd) -> None:
        sshd.known_hosts.unlink()
        asked: list[str] = []

        def accept(question: str) -> bool:
            asked.append(question)
            return True

        done = await trust(sshd.alias, accept=accept)

        fingerprint = keygen("-l", "-f", sshd.host_key).split()[1]
        assert fingerprint in asked[0]
        assert fingerprint in done
        assert sshd.known_hosts.stat().st_mode & 0o777 == 0o600
        assert keygen("-F", f"[127.0.0.1]:{sshd.port}", "-f", sshd.known_hosts)
        async with hearing(SshHost(sshd.alias)):
            pass

    async def test_writes_nothing_that_was_not_accepted(self, sshd: Sshd) -> None:
        sshd.known_hosts.write_text("")

        with pytest.raises(HostKeyError, match="was not accepted"):
            await trust(sshd.alias, accept=lambda _: False)

        assert sshd.known_hosts.read_text() == ""

    async def test_keeps_a_last_line_without_newline_whole(self, sshd: Sshd) -> None:
        other = "other.example " + sshd.known_hosts.read_text().split(" ", 1)[1].strip()
        sshd.known_hosts.write_text(other)

        await trust(sshd.alias)

        lines = sshd.known_hosts.read_text().splitlines()
        assert lines[0] == other
        assert lines[1].startswith(f"[127.0.0.1]:{sshd.port} ssh-ed25519 ")

    async def test_of_a_known_host_says_so(self, sshd: Sshd) -> None:
        before = sshd.known_hosts.read_text()

        assert "is known already" in await trust(sshd.alias)
        assert sshd.known_hosts.read_text() == before

    async def test_needs_no_login(self, sshd: Sshd) -> None:
        sshd.forbid()

        assert "is known already" in await trust(sshd.alias)

    @pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b"])
    async def test_of_a_host_that_is_none(self, sshd: Sshd, host: str) -> None:
        with pytest.raises(RefusedError, match=host.replace(".", r"\.")):
            await trust(host)

    async def test_of_a_server_that_speaks_no_ssh(self, sshd: Sshd) -> None:
        async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"SSH-2.0-rubbish\r\n" + b"\0" * 100)
            writer.close()

        async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(TransportError):
                await trust(sshd.alias, ["-p", str(port)])

    async def test_never_replaces_a_key(self, sshd: Sshd) -> None:
        sshd.change_host_key()
        sshd.restart()

        with pytest.raises(HostKeyError, match="CHANGED"):
            await trust(sshd.alias)

    async def test_says_where_it_cannot_write(self, sshd: Sshd) -> None:
        sshd.write_config("UserKnownHostsFile /proc/known_hosts")

        with pytest.raises(HostKeyError, match="/proc/known_hosts cannot be written"):
            await trust(sshd.alias)
