"""Two agents that only look, and the talk with them during an audit.

They are other agents than the session's: it may run, or not, or be paused; they claim
nothing and change nothing (`reader`).

**Invariants.** What is asked of both sides is asked of both at once. What an agent says that
was not asked, or cannot be, ends the audit, as does a side that is lost or silent: nothing here
waits for what does not come. When `close` returns, no process of this is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import deque
from collections.abc import AsyncGenerator, Iterator, Sequence

from psync.audit_merge import Found, Merge, check_entry
from psync.config import Options
from psync.core.entry import Entry, Side, printable
from psync.effects.transport import Host, LocalHost
from psync.errors import AgentError, PsyncError, RefusedError, TransportError, UsageError
from psync.peer import Peer, start_message
from psync.wire import (
    BLOCK_MAX,
    Block,
    Credit,
    Fatal,
    Item,
    List_,
    Listing,
    Log,
    Look,
    Message,
    Observed,
    Ping,
    Pong,
    Read,
    Ready,
    Stop,
    Trouble,
)

__all__ = ["Sides", "Unreadable"]

_STOP_S = 2.0
_QUESTION_BYTES = 1 << 20  # of paths in one `Look`
_BLOCKS = 8  # of a file that are asked for at once


class Unreadable(PsyncError):
    """A file cannot be read now; the message says why."""


class Sides:
    """See the module's text.

    Attributes:
        merge: the walk through both trees.
        warnings: what is strange about the roots.
    """

    def __init__(self, options: Options, *, one_sided: bool) -> None:
        """Prepare; `one_sided`: look into directories that only one side has, too."""
        self._options = options
        right: Host = LocalHost(options.itimeout)
        if options.host is not None:
            from psync.effects.remote import SshHost  # a third of the time that a start takes

            right = SshHost(
                options.host, options.ssh_options, options.timeout, options.itimeout
            )
        hosts = (LocalHost(options.itimeout), right)
        roots = (options.left, options.right)
        self._peers = [Peer(s, h, r) for s, h, r in zip(Side, hosts, roots, strict=True)]
        self.merge = Merge(one_sided=one_sided)
        self.warnings: list[str] = []
        self._news = asyncio.Event()
        self._lost: PsyncError | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._looks: Sequence[bytes] = ()  # what both are asked about
        self._looked: tuple[list[Item], list[Item]] = ([], [])
        self._reads: deque[tuple[Side, bytes, int]] = deque()  # blocks that are asked for
        self._blocks: deque[Block] = deque()

    # --- life ----------------------------------------------------------------------------

    async def open(self) -> None:
        """Start both agents, on the roots.

        Raises:
            PsyncError: a side cannot be reached, or read; the message says which and why.
        """
        self._tasks.append(asyncio.create_task(self._ping()))
        connecting = (self._connect(peer) for peer in self._peers)
        for error in await asyncio.gather(*connecting, return_exceptions=True):
            if error is not None:
                raise error
        left, right = self._peers
        assert left.hello is not None and right.hello is not None
        owners = left.hello.euid == right.hello.euid == 0
        for peer in self._peers:
            message = start_message(self._options, peer.side, "audit", owners=owners, audit=True)
            within = self._options.itimeout
            peer.ready = await peer.ask(message, Ready, within=within, key="itimeout")
        self._check_roots()

    async def _connect(self, peer: Peer) -> None:
        await peer.connect(self._on_messages)
        self._tasks.append(asyncio.create_task(self._mind(peer)))

    async def _mind(self, peer: Peer) -> None:
        error = await peer.end()
        where = "" if peer.name in str(error) else f"{peer.name}: "
        self._lost = self._lost or TransportError(f"{where}{error}")
        self._news.set()

    async def _ping(self) -> None:
        """Notice an agent that is silent; keep one that waits for the other side's to begin."""
        loop, timeout = asyncio.get_running_loop(), self._options.timeout
        for number in itertools.count(1):
            await asyncio.sleep(timeout / 4)
            for peer in self._peers:
                if peer.ready is not None and loop.time() - peer.heard > timeout:
                    peer.lose(TransportError(f"no sign of life for {timeout:.0f} s"))
                else:
                    peer.send(Ping(number))

    def _check_roots(self) -> None:
        left, right = self._peers
        assert left.ready and right.ready and left.hello and right.hello
        a, b = left.ready, right.ready
        if (left.hello.boot_id, left.hello.hostname) == (right.hello.boot_id, right.hello.hostname):
            if (a.device, a.inode) == (b.device, b.inode):
                raise UsageError(f"{left.root} and {right.root} are the same directory")
        if a.marker_pair != b.marker_pair:
            for peer, ready in ((left, a), (right, b)):
                if not ready.marker_pair:
                    self.warnings.append(
                        f"{peer.name}: {peer.root} has no marker (.psync/marker), the other root "
                        "has one: is its file system mounted?"
                    )
            if a.marker_pair and b.marker_pair:
                self.warnings.append(f"{left.root} and {right.root} belong to different pairs")

    async def close(self) -> None:
        """End both agents."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for peer in self._peers:
            peer.send(Stop())
        await asyncio.gather(*(self._hang_up(peer) for peer in self._peers))

    async def _hang_up(self, peer: Peer) -> None:
        with contextlib.suppress(TimeoutError, OSError, TransportError):
            async with asyncio.timeout(_STOP_S + 1.0):
                await peer.hang_up(_STOP_S)

    @property
    def roots(self) -> tuple[str, str]:
        """Both roots, with their hosts, for people."""
        left, right = (f"{peer.host.describe()} {peer.root}" for peer in self._peers)
        return left, right

    def clocks_ns(self) -> tuple[int, int]:
        """What time it was on each host when its agent said hello."""
        left, right = self._peers
        assert left.hello is not None and right.hello is not None
        return left.hello.clock_ns, right.hello.clock_ns

    # --- the talk --------------------------------------------------------------------------

    def _on_messages(self, peer: Peer, messages: list[Message]) -> None:
        peer.heard = asyncio.get_running_loop().time()
        try:
            for message in messages:
                self._on_message(peer, message)
        except AgentError as error:
            self._lost = self._lost or AgentError(
                f"{peer.name}: the agent there broke the protocol: {error}"
            )
            peer.lose(TransportError(str(self._lost)))
        self._news.set()

    def _on_message(self, peer: Peer, message: Message) -> None:
        if isinstance(message, (Pong, Log)) or peer.answered(message):
            return
        if isinstance(message, Listing):
            self.merge.hear(peer.side, message)
        elif isinstance(message, Trouble):
            self.merge.trouble(peer.side, message)
        elif isinstance(message, Observed):
            for item in message.items:
                self._take_look(peer.side, item)
        elif isinstance(message, Block):
            self._take_block(peer.side, message)
        elif isinstance(message, Fatal):
            peer.lose(RefusedError(f"{peer.name}: {message.message}"))
        else:
            raise AgentError(f"it says {type(message).__name__} in an audit")

    def _take_look(self, side: Side, item: Item) -> None:
        looked = self._looked[side]
        if len(looked) >= len(self._looks) or item.path != self._looks[len(looked)]:
            raise AgentError(f"it looked at {printable(item.path)}, which it was not asked to")
        check_entry(item.entry, item.path)
        looked.append(item)

    def _take_block(self, side: Side, block: Block) -> None:
        if not self._reads or self._reads[0] != (side, block.path, block.at):
            raise AgentError(f"it read {printable(block.path)}, which it was not asked to")
        self._reads.popleft()
        self._blocks.append(block)

    async def _wait(self) -> None:
        """Wait until an agent has said something. Raises what has ended one."""
        await self._news.wait()
        self._news.clear()
        if self._lost is not None:
            raise self._lost

    # --- what is asked -----------------------------------------------------------------------

    async def walk(self) -> AsyncGenerator[Found, None]:
        """Go through both trees; a directory comes after the names in it."""
        merge = self.merge
        while True:
            for peer, paths in zip(self._peers, merge.ask(), strict=True):
                if paths:
                    peer.send(List_(paths))
            for found in merge.found():
                yield found
                if self._lost is not None:
                    raise self._lost
            for peer in self._peers:
                freed = merge.credit(peer.side)
                if freed:
                    peer.send(Credit(freed))
            if merge.done:
                return
            if not merge.can_ask:
                await self._wait()

    async def look(self, want: int, paths: Sequence[bytes]) -> list[tuple[Item, Item]]:
        """What both sides have at some paths now; `want` as in `Look`."""
        self._looks, self._looked = paths, ([], [])
        for part in _parts(paths):
            for peer in self._peers:
                peer.send(Look(want, part))
        left, right = self._looked
        while len(left) < len(paths) or len(right) < len(paths):
            await self._wait()
        self._looks = ()
        return list(zip(left, right, strict=True))

    async def read(self, side: Side, path: bytes, entry: Entry) -> AsyncGenerator[bytes, None]:
        """The content of a version of a file, in parts.

        Raises:
            Unreadable: it cannot be read, or is another version by now.
        """
        offsets = range(0, entry.size, BLOCK_MAX)
        try:
            for number, at in enumerate(offsets):
                ahead = offsets[:_BLOCKS] if not number else offsets[number + _BLOCKS - 1 :][:1]
                for each in ahead:
                    self._reads.append((side, path, each))
                    self._peers[side].send(Read(path, each))
                while not self._blocks:
                    await self._wait()
                block = self._blocks.popleft()
                if block.message:
                    raise Unreadable(block.message)
                if not entry.same_identity(block.entry) or len(block.content) != min(
                    BLOCK_MAX, entry.size - at
                ):
                    raise Unreadable("it has changed meanwhile")
                yield block.content
        finally:
            while self._reads and self._lost is None:
                await self._wait()
            self._blocks.clear()


def _parts(paths: Sequence[bytes]) -> Iterator[list[bytes]]:
    """Cut paths into questions that fit a frame, however long each is."""
    part: list[bytes] = []
    size = 0
    for path in paths:
        if part and size + len(path) > _QUESTION_BYTES:
            yield part
            part, size = [], 0
        part.append(path)
        size += len(path)
    if part:
        yield part
