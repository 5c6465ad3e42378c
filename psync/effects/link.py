"""Talk with one agent: greet it, send it messages, take its own, and notice its end once.

A `Link` is the same for an agent that is a child on this host and one at the far end of
SSH; what carries the bytes is a `Line`, which `transport` makes. Everything happens in
callbacks of the loop; no task is made for a message. A message is taken as it arrives;
when an agent talks for longer than `_TURN_S`, what it says waits while others have a turn.

**Invariants.** Until the magic has come, what arrives is not the agent's but its host's
login shell's (a banner, a complaint); it is kept, up to `GREETING_MAX`, for the error
message, and never taken for a frame. `on_lost` is called at most once, never before
`greet` has returned, after all that the agent has said, and never after `close` was called.
After the end nothing is delivered any more. What waits is bounded: past `_UNHEARD_MAX` the
agent is not read from.

It does not reconnect and does not measure silence: the brain's `Ping`s do.
"""

from __future__ import annotations

import asyncio
import re
import time
from abc import ABC, abstractmethod
from collections import deque
from typing import TYPE_CHECKING

from psync import __version__
from psync.core.entry import printable
from psync.effects.bootstrap import PYTHON_MIN, READY, TOO_OLD
from psync.errors import AgentError, RefusedError, TransportError
from psync.wire import MAGIC, PROTOCOL, Framer, Hello, encode

if TYPE_CHECKING:
    from collections.abc import Callable

    from psync.wire import Message

__all__ = ["FORCED", "GREETING_MAX", "Line", "Link"]

GREETING_MAX = 32 * 1024
_STDERR_MAX = 4096
_SAID_MAX = 300  # characters of what a remote shell said, in an error message
_TURN_S = 0.02
_BITE = 64 * 1024  # what is taken at once: some hundred entries
_UNHEARD_MAX = 8 * 1024 * 1024
_REASON = r"([Nn]ot found|[Pp]ermission denied|[Nn]o such file[^:]*)"
FORCED = re.compile(  # the program's own name, and no directory's; some shells name it last
    rf"\bpsync['\u2019]?: .*{_REASON}|{_REASON}: (\S*/)?psync\s*$", re.MULTILINE
)
_NOT_EXECUTABLE, _NOT_FOUND = 126, 127  # exit statuses of every shell


class Line(ABC):
    """What carries the bytes between a `Link` and its agent.

    It calls `Link.received`, `Link.complained` and, once, `Link.ended`.

    Attributes:
        pid: the agent's, on its host, once it has said so.
    """

    pid: int | None = None

    @abstractmethod
    def write(self, data: bytes) -> None:
        """Queue bytes for the agent's standard input; never blocks, never fails."""

    @abstractmethod
    def unsent(self) -> int:
        """How many bytes are queued."""

    @abstractmethod
    def hold(self) -> None:
        """Read no more from the agent until `go_on`."""

    @abstractmethod
    def go_on(self) -> None:
        """Read from the agent again."""

    @abstractmethod
    async def close(self, grace: float) -> None:
        """End the agent: let it read EOF, wait up to `grace` seconds, then kill it.

        Idempotent; returns within a second after `grace` whatever hangs.
        """

    @abstractmethod
    def abort(self) -> None:
        """End the agent as far as that is possible without waiting."""


class Link:
    """One agent, from its greeting to its end; made and greeted by a `Host`."""

    hello: Hello
    _line: Line

    def __init__(
        self,
        name: str,
        on_messages: Callable[[list[Message]], None],
        on_lost: Callable[[TransportError], None],
    ) -> None:
        self._name = name
        self._on_messages = on_messages
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._hello: asyncio.Future[Hello] = self._loop.create_future()
        self._greeting = bytearray()  # what came before the magic
        self._stderr = bytearray()
        self._zip: bytes | None = None  # not asked for yet
        self._framer: Framer | None = None  # None until the magic came
        self._early: list[Message] = []  # what came right behind Hello
        self._begun = False  # `greet` has returned: the brain has the link
        self._inbox: deque[bytes | memoryview] = deque()
        self._unheard = 0  # bytes in it
        self._turn: asyncio.Handle | None = None
        self._until = 0.0  # when it is over
        self._held = False
        self._ending: TransportError | None = None  # once the inbox is empty
        self._lost: TransportError | None = None
        self._closed = False

    # --- what a host and the brain call --------------------------------------------------

    async def greet(self, line: Line, agent_zip: bytes | None, timeout_s: float) -> None:
        """Wait until an agent speaks at the other end; give its loader the zip it asks for.

        Args:
            line: carries the bytes from now on.
            agent_zip: what to send when a loader asks; None where none will.
            timeout_s: for all of it.

        Raises:
            RefusedError: no agent can run there; the message says why and what to do.
            TransportError: it did not answer in time, or the connection ended.
        """
        self._line = line
        self._zip = agent_zip
        try:
            async with asyncio.timeout(timeout_s):
                self.hello = await self._hello
        except TimeoutError:
            raise TransportError(
                f"{self._name}: no agent answered within {timeout_s:g} s{self._said()}: raise "
                "itimeout if one takes longer to begin there"
            ) from None
        line.pid = self.hello.pid
        self._check(self.hello)
        self._loop.call_soon(self._begin)

    def send(self, message: Message) -> None:
        """Queue a message; after the end of the link it goes nowhere."""
        if self._lost is None and not self._closed:
            self._line.write(encode(message))

    @property
    def unsent(self) -> int:
        """How many bytes of messages are still queued on this host."""
        return self._line.unsent()

    async def close(self, grace: float) -> None:
        """End the agent and leave nothing of it behind; `on_lost` is not called for it.

        What was sent before (a `Stop`) is still delivered. Idempotent.

        Args:
            grace: seconds the agent has to end by itself; then it is killed. Where it
                cannot be reached any more, it ends when it notices.
        """
        self._closed = True
        self._inbox.clear()
        try:
            await self._line.close(grace)
        except asyncio.CancelledError:
            self._line.abort()
            raise

    # --- what the line calls -------------------------------------------------------------

    def received(self, data: bytes) -> None:
        """Take bytes of the agent's standard output."""
        if self._lost is not None or self._closed:
            return
        self._inbox.append(data)
        self._unheard += len(data)
        if self._is_greeting:
            pass  # `_begin` goes on with it
        elif self._turn is None:
            self._begin_turn()
        elif time.monotonic() < self._until:
            self._hear()
        if self._unheard > _UNHEARD_MAX and not self._held:
            self._held = True
            self._line.hold()

    @property
    def _is_greeting(self) -> bool:
        """Tell whether an agent has spoken, and nobody is there yet to hear it."""
        return self._hello.done() and not self._begun

    def _begin_turn(self) -> None:
        """Take what arrives, for a while; a loop may read many times before others have a turn."""
        self._until = time.monotonic() + _TURN_S  # the loop's own clock stands still meanwhile
        self._turn = self._loop.call_soon(self._end_turn)
        self._hear()

    def _end_turn(self) -> None:
        """Others have had a turn."""
        self._turn = None
        if self._is_greeting:
            pass
        elif self._inbox:
            self._begin_turn()
        elif self._lost is not None or self._closed:
            pass
        elif self._ending is not None:
            self._end(self._ending)
        elif self._held:
            self._held = False
            self._line.go_on()

    def _hear(self) -> None:
        """Take what has arrived, until the turn is over; something in any case."""
        inbox = self._inbox
        while inbox:
            data = inbox.popleft()
            if len(data) > _BITE:
                whole = memoryview(data)
                data = whole[:_BITE]
                inbox.appendleft(whole[_BITE:])
            self._unheard -= len(data)
            self._take(data)
            if self._lost is not None or self._closed:
                inbox.clear()
            elif self._is_greeting or time.monotonic() >= self._until:
                return

    def _take(self, data: bytes | memoryview) -> None:
        try:
            messages = self._feed(data)
        except AgentError as error:
            self._end(TransportError(f"{self._name}: {error}; psync starts it anew"))
            return
        if not messages:
            return
        if self._begun:
            self._on_messages(messages)
        elif self._hello.done():
            self._early += messages
        else:
            first, *self._early = messages
            if isinstance(first, Hello):
                self._hello.set_result(first)
            else:
                self._end(RefusedError(f"{self._name}: the agent there does not say hello{_SAME}"))

    def complained(self, data: bytes) -> None:
        """Take bytes of the agent's (or its shell's) standard error; the last ones count."""
        self._stderr += data
        del self._stderr[:-_STDERR_MAX]

    def ended(self, status: int | None, error: Exception | None = None) -> None:
        """Take notice of the end.

        Args:
            status: how the agent ended, negative for a signal; None if that is unknown,
                because the connection ended first.
            error: what ended the connection.
        """
        loss = self._explain(status, error)
        if self._inbox:
            self._ending = loss
        else:
            self._end(loss)

    # --- the greeting --------------------------------------------------------------------

    def _feed(self, data: bytes | memoryview) -> list[Message]:
        if self._framer is not None:
            return self._framer.feed(data)
        greeting = self._greeting
        greeting += data
        if self._zip is not None and (at := greeting.find(READY)) >= 0:
            del greeting[at : at + len(READY)]
            self._line.write(self._zip)
            self._zip = None
        at = greeting.find(MAGIC)
        if at >= 0:
            self._framer = Framer()
            rest = bytes(greeting[at + len(MAGIC) :])
            greeting.clear()
            return self._framer.feed(rest)
        if len(greeting) > GREETING_MAX:
            self._end(
                RefusedError(
                    f"{self._name}: there is no agent, but text without end{self._said()}; "
                    "let its shell start-up files print only for terminals"
                )
            )
        return []

    def _check(self, hello: Hello) -> None:
        if hello.protocol != PROTOCOL or hello.version != __version__:
            raise RefusedError(
                f"{self._name}: the agent there is psync {printable(hello.version.encode())}, "
                f"this is {__version__}{_SAME}"
            )

    def _begin(self) -> None:
        """Deliver what came while the caller of `greet` was about to go on."""
        self._begun = True
        early, self._early = self._early, []
        if self._closed:
            return
        if early:
            self._on_messages(early)
        if self._lost is not None:
            self._on_lost(self._lost)
        elif self._turn is None:
            self._begin_turn()

    # --- the end ---------------------------------------------------------------------------

    def _end(self, error: TransportError) -> None:
        if self._lost is not None:
            return
        self._lost = error
        if not self._hello.done():
            self._hello.set_exception(error)
            self._hello.exception()  # it may be that nobody waits for it any more
        elif self._begun and not self._closed:
            self._on_lost(error)

    def _explain(self, status: int | None, error: Exception | None) -> TransportError:
        name = self._name
        if status is None:
            why = f" ({error})" if error is not None and str(error) else ""
            return TransportError(f"{name}: the connection was lost{why}")
        how = f"exit status {status}" if status >= 0 else f"signal {-status}"
        if self._hello.done():
            return TransportError(f"{name}: the agent ended ({how}){self._said()}")
        needed = ".".join(map(str, PYTHON_MIN))
        errors = self._stderr.decode("utf-8", "replace")
        if TOO_OLD in errors:
            version = printable(errors.split(TOO_OLD)[-1].split("\n")[0].strip().encode())
            return RefusedError(
                f"{name}: python3 there is {version}, psync needs {needed} or newer: install one "
                "that comes first in the PATH of a non-interactive shell"
            )
        if status in (_NOT_FOUND, _NOT_EXECUTABLE) and FORCED.search(errors):
            return RefusedError(
                f"{name}: the key is bound to psync agent, and psync cannot be started there: "
                f"install it, and name it by its whole path in authorized_keys{self._said()}"
            )
        if status in (_NOT_FOUND, _NOT_EXECUTABLE):
            return RefusedError(
                f"{name}: python3 cannot be started there: install it ({needed} or newer; Debian: "
                f"apt-get install python3){self._said()}"
            )
        if status < 0:
            return TransportError(f"{name}: the agent was killed ({how}) before it spoke")
        return RefusedError(
            f"{name}: no agent came up there ({how}): does ssh {name} true work?{self._said()}"
        )

    def _said(self) -> str:
        """What the other side printed that is no frame, for an error message."""
        lines = bytes(self._greeting + b"\n" + self._stderr).replace(READY, b"").splitlines()
        texts = [printable(line.strip()) for line in lines if line.strip()]
        if not texts:
            return ""
        text = " | ".join(texts)
        if len(text) > _SAID_MAX:
            text = "... " + text[-_SAID_MAX:]  # a traceback's last line is the telling one
        return f"; it said: {text}"


_SAME = ": install the same version of psync on both sides"
