"""Reach another machine over SSH: start an agent there, and join rsync to its rsync.

There are two connections: *control* carries frames, *data* (opened when first needed)
carries rsync, so that a gigabyte on its way never delays a decision.

**Invariants.** No connection is opened for a transfer: channels of an open one are used, at
most `CHANNELS_MAX` at once (sshd allows 10). What is buffered between rsync and the
network is bounded on both sides: whoever is faster waits. `close` returns within a
second after its grace, and leaves no process that can still be reached.

It opens no connection itself (`ssh` does), and does not try again: the brain decides when.
"""

from __future__ import annotations

import asyncio
import signal as signals
from io import FileIO
from typing import TYPE_CHECKING

import asyncssh

from psync.effects.bootstrap import agent_zip, remote_command
from psync.effects.link import Line, Link
from psync.effects.ssh import Connection, UnknownHostError, connect
from psync.effects.transport import KILL_S, RemoteHost, done_within
from psync.errors import TransportError

if TYPE_CHECKING:
    from collections.abc import Callable

    from psync.wire import Message

__all__ = ["CHANNELS_MAX", "SshHost"]

CHANNELS_MAX = 8
_CONTROL_WINDOW = 4 << 20
_DATA_WINDOW = 16 << 20  # more than a fast line holds at once, over an ocean
_LOST = 255  # exit status of a remote shell that has lost its connection


class SshHost(RemoteHost):
    """A machine that is reached over SSH."""

    def __init__(
        self,
        destination: str,
        ssh_options: list[str] | None = None,
        timeout: float = 20.0,
        itimeout: float = 60.0,
    ) -> None:
        """Remember how to reach it.

        Args:
            destination: what ssh takes: an alias, `host`, `user@host`, `ssh://...`.
            ssh_options: words of ssh's command line (`-p 2222`, `-o ConnectTimeout=10`).
            timeout: see `Host`.
            itimeout: likewise.
        """
        self.timeout = timeout
        self.itimeout = itimeout
        self._destination = destination
        self._ssh_options = ssh_options
        self._control: Connection | None = None
        self._data: Connection | None = None
        self._opening = asyncio.Lock()
        self._channels = asyncio.Semaphore(CHANNELS_MAX)
        self._was_connected = False

    def describe(self) -> str:
        """See `Host.describe`."""
        return self._destination

    async def connect(self) -> None:
        """See `Host.connect`."""
        async with self._opening:
            if self._control is None or not self._control.alive:
                self._control = await self._connect()

    async def _connect(self) -> Connection:
        try:
            connection = await connect(self._destination, self._ssh_options, self.timeout)
        except UnknownHostError as error:
            if self._was_connected:  # so there is such a host: its name server is away
                raise TransportError(str(error)) from None
            raise
        self._was_connected = True
        return connection

    async def start_agent(
        self,
        on_messages: Callable[[list[Message]], None],
        on_lost: Callable[[TransportError], None],
    ) -> Link:
        """See `Host.start_agent`."""
        await self.connect()
        assert self._control is not None
        link = Link(self.describe(), on_messages, on_lost)
        line = _SshLine(link, self._control)
        content = agent_zip()
        await self._open_channel(self._control, line, remote_command(len(content)), _CONTROL_WINDOW)
        try:
            await link.greet(line, content, self.itimeout)
        except BaseException:
            line.abort()
            raise
        return link

    async def run(
        self, command: str, stdin: int, stdout: int, on_error: Callable[[bytes], None]
    ) -> int:
        """See `RemoteHost.run`; past `CHANNELS_MAX` they wait for each other."""
        pump = _Pump(stdin, stdout, on_error)
        try:
            async with self._channels:
                async with self._opening:
                    if self._data is None or not self._data.alive:
                        self._data = await self._connect()
                await pump.attach_output()
                await self._open_channel(self._data, pump, command, _DATA_WINDOW)
                await pump.attach_input()
                return await pump.done
        finally:
            pump.close()

    async def _open_channel(
        self,
        connection: Connection,
        session: asyncssh.SSHClientSession[bytes],
        command: str,
        window: int,
    ) -> None:
        try:
            # A login may take its time before sshd answers, too. Of a host that is silent
            # altogether the connection hears sooner.
            async with asyncio.timeout(self.itimeout):
                await connection.ssh.create_session(
                    lambda: session,
                    command,
                    # nothing of what ssh_config says for people at a terminal
                    env={},
                    send_env=[],
                    request_pty=False,
                    encoding=None,
                    window=window,
                )
        except TimeoutError:
            raise TransportError(
                f"{self._destination}: a command was not begun within {self.itimeout:g} s: raise "
                "itimeout if a login there takes longer"
            ) from None
        except (asyncssh.Error, OSError) as error:
            raise TransportError(
                f"{self._destination}: a command cannot be started: {error} (sshd's MaxSessions "
                f"must be {CHANNELS_MAX} or more)"
            ) from None

    async def close(self) -> None:
        """See `Host.close`."""
        connections = [c for c in (self._control, self._data) if c is not None]
        self._control = self._data = None
        await asyncio.gather(*(connection.close() for connection in connections))


class _SshLine(Line, asyncssh.SSHClientSession[bytes]):
    """A command on the control connection."""

    _channel: asyncssh.SSHClientChannel[bytes]

    def __init__(self, link: Link, connection: Connection) -> None:
        self._link = link
        self._connection = connection
        self._status: int | None = None
        self._writable = True
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, chan: asyncssh.SSHClientChannel[bytes]) -> None:
        """Take the channel (asyncssh)."""
        self._channel = chan

    def data_received(self, data: bytes, datatype: int | None) -> None:
        """Pass on what came (asyncssh)."""
        if datatype is None:
            self._link.received(data)
        else:
            self._link.complained(data)

    def eof_received(self) -> bool:
        """Keep the channel: the exit status is still to come (asyncssh)."""
        return True

    def exit_status_received(self, status: int) -> None:
        """Remember how it ended (asyncssh)."""
        self._status = status

    def exit_signal_received(self, signal: str, core_dumped: bool, msg: str, lang: str) -> None:
        """Remember what killed it (asyncssh)."""
        self._status = -getattr(signals, f"SIG{signal}", signals.SIGKILL)

    def connection_lost(self, exc: Exception | None) -> None:
        """Take notice of the end (asyncssh)."""
        self._writable = False
        if not self._over.done():
            self._over.set_result(None)
        # not from here: asyncssh swallows what a callback raises
        asyncio.get_running_loop().call_soon(self._link.ended, self._status, exc)

    def write(self, data: bytes) -> None:
        """See `Line.write`."""
        if self._writable:
            try:
                self._channel.write(data)
            except OSError:  # it is just being closed from the other side
                self._writable = False

    def unsent(self) -> int:
        """See `Line.unsent`; what the network has still to take, 2 MiB at most, is not counted."""
        return self._channel.get_write_buffer_size()

    def hold(self) -> None:
        """See `Line.hold`."""
        self._channel.pause_reading()

    def go_on(self) -> None:
        """See `Line.go_on`."""
        self._channel.resume_reading()

    async def close(self, grace: float) -> None:
        """See `Line.close`."""
        if self._writable:
            self._writable = False
            self._channel.write_eof()
        if not await done_within(self._over, grace):
            killing = asyncio.ensure_future(self._kill())
            await done_within(self._over, KILL_S)
            killing.cancel()
            self._channel.abort()

    async def _kill(self) -> None:
        """Kill the agent, also where it is stopped and reads nothing.

        Where the key is bound to a command neither way is open: there an agent that is
        stopped ends when it runs again.
        """
        self._signal()
        if self.pid is not None:
            try:  # sshd takes no signals in a session of root's
                await self._connection.ssh.create_session(
                    asyncssh.SSHClientSession, f"kill -9 {self.pid}", env={}, request_pty=False
                )
            except (asyncssh.Error, OSError):
                pass

    def _signal(self) -> None:
        try:
            self._channel.kill()
        except OSError:  # it has just closed
            pass

    def abort(self) -> None:
        """See `Line.abort`."""
        self._writable = False
        if not self._over.done():
            self._signal()
            self._channel.abort()


class _Pump(asyncssh.SSHClientSession[bytes]):
    """A command on the data connection, joined to a local program's two pipes."""

    def __init__(self, stdin: int, stdout: int, on_error: Callable[[bytes], None]) -> None:
        self.done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        # The loop's, not ours, once it was asked to take them: who closes a descriptor under a
        # loop that waits for it brings uvloop down, and what has its number next along with it.
        self._stdin: FileIO | None = FileIO(stdin)
        self._stdout: FileIO | None = FileIO(stdout, "w")
        self._on_error = on_error
        self._status = _LOST
        self._channel: asyncssh.SSHClientChannel[bytes] | None = None
        self._input: asyncio.ReadTransport | None = None
        self._output: asyncio.WriteTransport | None = None
        self._closed = False

    async def attach_output(self) -> None:
        """Be ready for what the command writes."""
        stdout, self._stdout = self._stdout, None
        if stdout is not None:
            self._output, _ = await asyncio.get_running_loop().connect_write_pipe(
                lambda: _PumpOutput(self), stdout
            )
            self._close_if_closed()

    async def attach_input(self) -> None:
        """Let the command read."""
        stdin, self._stdin = self._stdin, None
        if stdin is not None:
            self._input, _ = await asyncio.get_running_loop().connect_read_pipe(
                lambda: _PumpInput(self), stdin
            )
            self._close_if_closed()

    def _close_if_closed(self) -> None:
        if self._closed:  # while we waited for the loop
            self.close()

    # from the network

    def connection_made(self, chan: asyncssh.SSHClientChannel[bytes]) -> None:
        """Take the channel (asyncssh)."""
        self._channel = chan

    def data_received(self, data: bytes, datatype: int | None) -> None:
        """Write on what came (asyncssh)."""
        if datatype is not None:
            self._on_error(data)
        elif self._output is not None:
            self._output.write(data)

    def eof_received(self) -> bool:
        """Pass the end on; the exit status is still to come (asyncssh)."""
        if self._output is not None:
            self._output.close()
        return True

    def exit_status_received(self, status: int) -> None:
        """Remember how it ended (asyncssh)."""
        self._status = status

    def connection_lost(self, exc: Exception | None) -> None:
        """Take notice of the end (asyncssh)."""
        self.close()
        if not self.done.done():
            self.done.set_result(self._status)

    def pause_writing(self) -> None:
        """Let the local program wait for the network (asyncssh)."""
        if self._input is not None:
            self._input.pause_reading()

    def resume_writing(self) -> None:
        """Let it go on (asyncssh)."""
        if self._input is not None and not self._input.is_closing():
            self._input.resume_reading()

    # from the local program

    def send(self, data: bytes) -> None:
        """Send what it wrote."""
        if self._channel is not None and not self._channel.is_closing():
            self._channel.write(data)

    def send_eof(self) -> None:
        """Tell the command that there is no more."""
        if self._channel is not None and not self._channel.is_closing():
            self._channel.write_eof()

    def hold(self) -> None:
        """Let the network wait for the local program."""
        if self._channel is not None:
            self._channel.pause_reading()

    def go_on(self) -> None:
        """Let it go on."""
        if self._channel is not None:
            self._channel.resume_reading()

    def close(self) -> None:
        """End both directions."""
        self._closed = True
        for end in (self._input or self._stdin, self._output or self._stdout, self._channel):
            if end is not None:
                end.close()
        self._stdin = self._stdout = None


class _PumpInput(asyncio.Protocol):
    def __init__(self, pump: _Pump) -> None:
        self._pump = pump

    def data_received(self, data: bytes) -> None:
        self._pump.send(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._pump.send_eof()


class _PumpOutput(asyncio.BaseProtocol):
    def __init__(self, pump: _Pump) -> None:
        self._pump = pump

    def pause_writing(self) -> None:
        self._pump.hold()

    def resume_writing(self) -> None:
        self._pump.go_on()
