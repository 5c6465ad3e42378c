"""One side of a session: its host, the agent that runs there now, and the talk with it.

A `Peer` outlives its agents: each `connect` starts another one. Questions that an agent
answers by a message of its own (`OpenSource` -> `Opened`, ...) are asked with `ask`.

**Invariants.** Whoever waits for an answer or for a condition wakes when the link is lost.
`lost` is set at most once a connection, whatever is found out first. Nothing is sent when
there is no agent.

When to connect, what to say and what to make of it is the brain's.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from typing import TypeVar

from psync import __version__
from psync.config import Options
from psync.core.entry import Side
from psync.effects.link import Link
from psync.effects.transport import Host
from psync.errors import TransportError
from psync.wire import (
    PROTOCOL,
    Closed,
    Examined,
    Flushed,
    Hello,
    Message,
    Opened,
    Peeked,
    Ready,
    Recalled,
    Staged,
    Start,
    Synced,
)

__all__ = ["Peer", "start_message"]

Answer = Ready | Opened | Staged | Closed | Synced | Flushed | Recalled | Peeked | Examined
_A = TypeVar("_A", bound=Answer)
_ANSWERS = (Ready, Opened, Staged, Closed, Synced, Flushed, Recalled, Peeked, Examined)


def start_message(
    options: Options,
    side: Side,
    session: str,
    *,
    owners: bool,
    distrust_cache: bool = False,
    audit: bool = False,
) -> Start:
    """Make what an agent is told first: what is replicated, and how.

    Args:
        options: the session's.
        side: which of its roots.
        session: its id, which the root's lock is taken for.
        owners: whether both agents may give files to any user.
        distrust_cache: see `Start`.
        audit: see `Start`.
    """
    return Start(
        protocol=PROTOCOL,
        version=__version__,
        root=os.fsencode((options.left, options.right)[side]),
        session=session,
        side=side,
        owners=owners,
        strip_special_bits=options.strip_special_bits or not owners,
        excludes=options.all_excludes(),
        tempfiles=options.tempfiles,
        inline_max=options.inline_max,
        settle_ms=options.settle_ms,
        max_delay_ms=int(options.max_delay * 1000),
        quarantine_ms=int(options.quarantine * 1000),
        timeout_ms=int(options.timeout * 1000),
        strict=options.durability == "strict",
        suppress_echoes=options.suppress_echoes,
        poll_ms=int(options.poll_interval * 1000),
        conflict_keep_s=options.keep_conflicts_s,
        distrust_cache=distrust_cache,
        keep_both=options.conflict == "keep-both",
        trash_s=options.keep_deleted_s,
        versions_s=options.keep_edited_s,
        xattrs=options.xattrs,
        event_interval_ms=int(options.event_interval * 1000),
        audit=audit,
    )


class Peer:
    """See the module's text.

    Attributes:
        up: it watches, and the session knows.
        serves: the agent has said something of its replica.
        was_up: it has said something of its replica in this run.
        remounted_ns: when its file system was first seen mounted anew, by its host's clock.
        hello: who the agent is, or the last one was.
        ready: what it said of the root.
        owners: whether it was told to keep owners.
        heard: when a message came last, by the loop's clock.
        trouble: why it is not up, for people.
    """

    def __init__(self, side: Side, host: Host, root: str) -> None:
        self.side = side
        self.host = host
        self.root = root
        self.up = False
        self.serves = False
        self.was_up = False
        self.remounted_ns = 0
        self.hello: Hello | None = None
        self.ready: Ready | None = None
        self.owners: bool | None = None
        self.heard = 0.0
        self.trouble = ""
        self._link: Link | None = None
        self._lost: asyncio.Future[TransportError] | None = None
        self._answers: dict[tuple[type, int], asyncio.Future[Answer]] = {}

    @property
    def name(self) -> str:
        """The side and the host, for people."""
        return f"{self.side.name.lower()} ({self.host.describe()})"

    @property
    def connected(self) -> bool:
        """Tell whether there is an agent to talk to."""
        return self._link is not None and self._lost is not None and not self._lost.done()

    def cut_ns(self, stopped_ns: int) -> int:
        """When the power of the host, or of its disk, may have been cut last, by its clock.

        What has been emptied since an earlier run ended in order was emptied by its user.

        Args:
            stopped_ns: when that was, by our clock; 0: it did not end in order.
        """
        hello = self.hello
        assert hello is not None
        cut_ns = max(hello.booted_ns, self.remounted_ns)
        if not stopped_ns or self.was_up:
            return cut_ns
        return min(cut_ns, stopped_ns + hello.clock_ns - time.time_ns())

    async def connect(self, on_messages: Callable[[Peer, list[Message]], None]) -> None:
        """Start an agent; `hello` is its greeting then.

        Raises:
            TransportError: it did not come about.
        """
        loop = asyncio.get_running_loop()
        self._lost = loop.create_future()
        self.serves = False
        await self.host.connect()
        self._link = await self.host.start_agent(
            lambda messages: on_messages(self, messages), self.lose
        )
        self.hello = self._link.hello
        self.heard = loop.time()

    def send(self, message: Message) -> None:
        """Send a message, if there is an agent."""
        if self._link is not None:
            self._link.send(message)

    def answered(self, message: Message) -> bool:
        """Give an answer to who asked; False: the message is no answer."""
        if not isinstance(message, _ANSWERS):
            return False
        number = 0 if isinstance(message, Ready) else message[0]
        future = self._answers.pop((type(message), number), None)
        if future is not None and not future.done():
            future.set_result(message)
        return True

    async def ask(
        self,
        message: Message,
        kind: type[_A],
        number: int = 0,
        within: float | None = None,
        key: str = "",
    ) -> _A:
        """Send a question and wait for its answer.

        Args:
            message: the question.
            kind: the answer's.
            number: the answer's.
            within: seconds; None: as long as the link lasts.
            key: of the configuration, that `within` is from.

        Raises:
            TransportError: the link is lost, or there is no answer within so many seconds.
        """
        if not self.connected:
            raise TransportError(f"{self.name} is not connected")
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._answers[kind, number] = future
        self.send(message)
        try:
            async with asyncio.timeout(within):
                answer = await future
        except TimeoutError:
            hint = f": raise {key} if it needs longer" if key else ""
            raise TransportError(f"{self.name} gave no answer within {within:g} s{hint}") from None
        finally:
            self._answers.pop((kind, number), None)
        assert isinstance(answer, kind)
        return answer

    def check_watches(self) -> None:
        """See that an agent watches: what is asked about a replica before that, its agent ends of.

        Raises:
            TransportError: there is none.
        """
        if not self.up:
            raise TransportError(f"{self.name} is not connected")

    async def until(self, condition: asyncio.Event) -> None:
        """Wait for something to become true, as long as the link lasts.

        Raises:
            TransportError: the link is lost.
        """
        assert self._lost is not None
        waiting = asyncio.ensure_future(condition.wait())
        try:
            await asyncio.wait((waiting, self._lost), return_when=asyncio.FIRST_COMPLETED)
            if not condition.is_set():
                raise self._lost.result()
        finally:
            waiting.cancel()

    async def end(self) -> TransportError:
        """Wait for the end of the link; return why."""
        assert self._lost is not None
        return await self._lost

    def lose(self, error: TransportError) -> None:
        """The link is lost, or not to be used any more: wake whoever waits."""
        if self._lost is not None and not self._lost.done():
            self._lost.set_result(error)
        answers, self._answers = self._answers, {}
        for future in answers.values():
            if not future.done():
                future.set_exception(error)

    async def hang_up(self, grace: float) -> None:
        """End the agent and leave its host; no process is left."""
        self.lose(TransportError("the link was closed"))
        link, self._link = self._link, None
        if link is not None:
            await link.close(grace)
        await self.host.close()
