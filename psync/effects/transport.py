"""Reach both hosts: start an agent there.

A `Host` is where a replica lives. On the left that is always this machine, where the agent
is a child; on the right it is usually another one, over SSH: see `remote`, which only a
session that needs it imports.

**Invariants.** `close` returns within a second after its grace, and leaves no process that
can still be reached.

It does not try again: the brain decides when.
"""

from __future__ import annotations

import asyncio
import os
import socket
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from psync.effects.bootstrap import local_command
from psync.effects.link import Line, Link
from psync.effects.spawn import Listener, Process, listen, spawn
from psync.errors import RefusedError, TransportError

if TYPE_CHECKING:
    from collections.abc import Callable

    from psync.wire import Message

__all__ = ["KILL_S", "Host", "LocalHost", "RemoteHost", "done_within"]

KILL_S = 0.5  # for a killed one to be gone
_LOCAL_BUFFER = 1 << 20
_STRAGGLING_S = 1.0  # for the rest of what an agent said, once a part of it has ended


class Host(ABC):
    """A machine that a replica lives on.

    Attributes:
        timeout: seconds to reach it; later, of silence after which a connection is lost.
        itimeout: seconds from then on until an agent there says hello, the login included.
    """

    timeout: float = 20.0
    itimeout: float = 60.0

    @abstractmethod
    def describe(self) -> str:
        """What to call it in a message."""

    @abstractmethod
    async def connect(self) -> None:
        """Reach it; does nothing while a connection is up.

        Raises:
            TransportError: it cannot be reached; see its subclasses for what is final.
            UsageError: it makes no sense as a destination.
        """

    @abstractmethod
    async def start_agent(
        self,
        on_messages: Callable[[list[Message]], None],
        on_lost: Callable[[TransportError], None],
    ) -> Link:
        """Start an agent there, connecting first where need be.

        Args:
            on_messages: called with what the agent says after its `Hello`, in order.
            on_lost: called once if the link ends before it is closed.

        Raises:
            RefusedError: no agent can run there.
            TransportError: it cannot be reached, or does not answer in time.
        """

    @abstractmethod
    async def close(self) -> None:
        """Close the connections to it; agents and transfers end. Idempotent."""


class RemoteHost(Host):
    """Another machine."""

    @abstractmethod
    async def run(
        self, command: str, stdin: int, stdout: int, on_error: Callable[[bytes], None]
    ) -> int:
        """Run a command there over the data connection, joined to two descriptors.

        Any number may run; past a limit they wait for each other.

        Args:
            command: for the login shell.
            stdin: what it reads is read from here; a pipe or socket, ours from now on.
            stdout: what it writes is written here, likewise.
            on_error: called with what it writes to standard error.

        Returns:
            its exit status; 255 when it was killed or the connection ended.

        Raises:
            TransportError: it could not be started.
        """


# --- this machine -------------------------------------------------------------------------


class LocalHost(Host):
    """This machine; the agent is a child."""

    def __init__(self, itimeout: float = 60.0) -> None:
        self.itimeout = itimeout
        self._lines: set[_LocalLine] = set()

    def describe(self) -> str:
        """See `Host.describe`."""
        return "this host"

    async def connect(self) -> None:
        """See `Host.connect`; there is nothing to reach."""

    async def start_agent(
        self,
        on_messages: Callable[[list[Message]], None],
        on_lost: Callable[[TransportError], None],
    ) -> Link:
        """See `Host.start_agent`."""
        link = Link(self.describe(), on_messages, on_lost)
        line = await _LocalLine.start(link)
        self._lines.add(line)
        line.on_end = lambda: self._lines.discard(line)
        try:
            await link.greet(line, None, self.itimeout)
        except BaseException:
            line.abort()
            raise
        return link

    async def close(self) -> None:
        """See `Host.close`."""
        await asyncio.gather(*(line.close(0) for line in tuple(self._lines)))


class _LocalLine(Line, asyncio.Protocol):
    """A child whose standard input and output are one socket."""

    _transport: asyncio.Transport
    _errors: Listener
    _process: Process
    _reaper: asyncio.Task[None]

    def __init__(self, link: Link) -> None:
        self._link = link
        self._awaited = {"output", "errors", "process"}
        self._over = False
        self._held = False
        self._may_say_more = False  # than was read
        self.on_end: Callable[[], None] = lambda: None

    @classmethod
    async def start(cls, link: Link) -> _LocalLine:
        """Start the child."""
        loop = asyncio.get_running_loop()
        line = cls(link)
        ours, theirs = socket.socketpair()
        with theirs:
            for end in (ours, theirs):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _LOCAL_BUFFER)
            line._transport, _ = await loop.create_unix_connection(lambda: line, sock=ours)
            line._errors, writer = await listen(link.complained, lambda: line._part_ended("errors"))
            try:
                line._process = await spawn(
                    local_command(), stdin=theirs.fileno(), stdout=theirs.fileno(), stderr=writer
                )
            except OSError as error:
                line._over = True  # before it began
                line._transport.abort()
                line._errors.close()
                raise RefusedError(f"this host: the agent cannot be started: {error}") from None
            finally:
                os.close(writer)
        line._reaper = loop.create_task(line._reap())
        return line

    async def _reap(self) -> None:
        await self._process.wait()
        self._part_ended("process")

    def data_received(self, data: bytes) -> None:
        """Pass on what the agent says (asyncio)."""
        self._may_say_more = True
        self._link.received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Take notice that it says no more (asyncio)."""
        self._part_ended("output")

    def _part_ended(self, part: str) -> None:
        """Wait for the others: a last message and the exit status come in any order."""
        first = len(self._awaited) == 3
        self._awaited.discard(part)
        if not self._awaited:
            self._end()
        elif first:
            asyncio.get_running_loop().call_later(_STRAGGLING_S, self._straggled)

    def _straggled(self) -> None:
        if self._held or self._may_say_more:
            self._may_say_more = False
            asyncio.get_running_loop().call_later(_STRAGGLING_S, self._straggled)
        else:
            self._end()

    def _end(self) -> None:
        if self._over:
            return
        self._over = True
        if self._process.returncode is None:
            self._process.kill()  # it closed its output, so it is of no use
        self._transport.abort()
        self._errors.close()
        self.on_end()
        self._link.ended(self._process.returncode)

    def write(self, data: bytes) -> None:
        """See `Line.write`."""
        if not self._transport.is_closing():
            self._transport.write(data)

    def unsent(self) -> int:
        """See `Line.unsent`."""
        return self._transport.get_write_buffer_size()

    def hold(self) -> None:
        """See `Line.hold`."""
        self._held = True
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def go_on(self) -> None:
        """See `Line.go_on`."""
        self._held = False
        self._may_say_more = True
        if not self._transport.is_closing():
            self._transport.resume_reading()

    async def close(self, grace: float) -> None:
        """See `Line.close`."""
        if not self._transport.is_closing():
            self._transport.write_eof()
        if not await done_within(self._reaper, grace):
            self._process.kill()
            await done_within(self._reaper, KILL_S)
        self._end()

    def abort(self) -> None:
        """See `Line.abort`."""
        self._process.kill()
        self._transport.abort()


async def done_within(future: asyncio.Future[None], seconds: float) -> bool:
    """Wait for a future, without touching it; tell whether it is done."""
    done, _ = await asyncio.wait([future], timeout=seconds)
    return bool(done)
