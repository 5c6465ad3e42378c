"""Ask a running session something: the socket behind `psync status` and its like.

The session listens on `control`, a unix socket in its directory; a client connects, sends one
line of JSON and reads one:

    {"verb": "flush", "args": {"timeout": 30}}
    {"ok": true, "result": null}        {"ok": false, "error": "the link is down"}

**Invariants.** A path of any length works (a socket's own may have 107 bytes: it is bound and
reached through `/proc/self/fd`). Who may enter the session's directory, which is 0700, may
ask. A client that goes away ends what it asked for. A request has at most `LINE_MAX` bytes, and
`CLIENTS_MAX` of them are served at once; one more is told so.

The client half is standard library only, without asyncio, because `psync status` runs
every minute from cron. What the verbs mean is the brain's.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psync.effects.state import SessionDir, reason
from psync.errors import PsyncError, StoreError

if TYPE_CHECKING:
    import asyncio

__all__ = [
    "CLIENTS_MAX",
    "LINE_MAX",
    "Call",
    "ControlServer",
    "Ended",
    "NoSession",
    "Refused",
    "Unanswered",
    "call",
    "stop",
    "stop_silent",
]

LINE_MAX = 64 * 1024
CLIENTS_MAX = 64
_STOP_ANSWER_S = 3.0

Handler = Callable[[str, dict[str, Any]], Awaitable[Any]]


class NoSession(PsyncError):
    """Nobody listens: the session does not run."""

    exit_code = 2


class Unanswered(PsyncError):
    """The session did not answer in time, or not with what can be read."""

    exit_code = 1


class Ended(Unanswered):
    """The session ended instead of answering."""


class Refused(PsyncError):
    """The session answered that it cannot; the message is its own."""

    exit_code = 1


class ControlServer:
    """The session's end of the socket."""

    def __init__(self, directory: Path, handler: Handler) -> None:
        """Serve in a session's directory, whose lock is held.

        Args:
            directory: where `control` is made.
            handler: `await handler(verb, args)` gives what JSON can hold, or raises a
                `PsyncError` whose message is the answer; it is cancelled when the client goes.
        """
        self._directory = directory
        self._handler = handler
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()
        self._closed = False
        self._busy = 0

    async def start(self) -> None:
        """Begin to listen.

        Raises:
            StoreError: the socket cannot be made.
        """
        import asyncio

        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with _short(self._directory) as near:
                # The lock is ours: what stands there was left by a process that is gone.
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(f"{near}/control")
                listener.bind(f"{near}/control")
                os.chmod(f"{near}/control", 0o600)
            listener.listen(CLIENTS_MAX)
            listener.setblocking(False)
        except OSError as error:
            listener.close()
            raise StoreError(
                f"cannot make the socket {self._directory / 'control'}: {reason(error)}"
            ) from None
        self._server = await asyncio.start_unix_server(
            self._serve, sock=listener, limit=LINE_MAX, start_serving=True
        )

    async def close(self) -> None:
        """Stop listening, and drop who still waits for an answer."""
        import asyncio

        self._closed = True  # for who has been accepted, but not served yet
        if self._server is not None:
            self._server.close()
            self._server = None
            with contextlib.suppress(OSError), _short(self._directory) as near:
                os.unlink(f"{near}/control")
        clients = list(self._clients)
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        import asyncio

        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        try:
            if not self._closed:
                writer.write(await self._answer(reader))
                await writer.drain()
        except (OSError, asyncio.CancelledError):
            pass  # the client went, or the session ends
        finally:
            self._clients.discard(task)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader) -> bytes:
        """Read a request and carry it out; nothing when nobody waits for the answer any more."""
        import asyncio

        try:
            request = json.loads(await reader.readuntil(b"\n"))
            verb, args = request["verb"], request["args"]
            if not isinstance(verb, str) or not isinstance(args, dict):
                raise TypeError
        except asyncio.IncompleteReadError:
            return b""
        except (asyncio.LimitOverrunError, ValueError, TypeError, KeyError, RecursionError):
            return _no("that is no request")
        if self._busy >= CLIENTS_MAX:
            return _no("the session serves too many requests at once; try again")
        self._busy += 1
        work = asyncio.ensure_future(self._handler(verb, args))
        gone = asyncio.ensure_future(reader.read(1))
        try:
            await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                return b""
            return json.dumps({"ok": True, "result": work.result()}).encode() + b"\n"
        except PsyncError as error:
            return _no(str(error))
        except Exception as error:  # noqa: BLE001  # a fault in one verb must not end the session
            asyncio.get_running_loop().call_exception_handler(
                {"message": f"control verb {verb!a} failed", "exception": error}
            )
            return _no(f"internal error: {type(error).__name__}: {error}")
        finally:
            self._busy -= 1
            for future in (work, gone):
                future.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)


def _no(error: str) -> bytes:
    return json.dumps({"ok": False, "error": error}).encode() + b"\n"


@contextlib.contextmanager
def _short(directory: Path) -> Iterator[str]:
    """Give a short name to a directory, however long its own is."""
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


class Call:
    """A request under way: sent when made, so that many sessions can be asked at once."""

    def __init__(
        self,
        directory: Path,
        verb: str,
        args: Mapping[str, Any] | None = None,
        within: float = 5.0,
    ) -> None:
        """Connect to the session in a directory and send it a request, within some seconds.

        Raises:
            NoSession: nobody listens there.
            StoreError: the directory may not be entered.
        """
        self.name = directory.name
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(within)
        line = json.dumps({"verb": verb, "args": dict(args or {})}).encode() + b"\n"
        try:
            with _short(directory) as near:
                self._socket.connect(f"{near}/control")
            with contextlib.suppress(BrokenPipeError):  # it ends just now; `result` will tell
                self._socket.sendall(line)
        except (FileNotFoundError, ConnectionError, NotADirectoryError):
            self.close()
            raise NoSession(f"session {self.name} is not running") from None
        except TimeoutError:
            self.close()
            raise Unanswered(f"session {self.name} does not answer") from None
        except OSError as error:
            self.close()
            raise StoreError(f"cannot reach session {self.name}: {reason(error)}") from None
        credentials = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        self.pid: int = struct.unpack("iII", credentials)[0]

    def result(self, deadline: float | None) -> Any:
        """Wait for the answer.

        Args:
            deadline: until when, by `time.monotonic`; None: for ever.

        Raises:
            Refused: the session says that it cannot.
            Unanswered: no answer in time, or the session ended before one.
        """
        parts: list[bytes] = []
        try:
            while not parts or not parts[-1].endswith(b"\n"):
                if deadline is not None:
                    self._socket.settimeout(max(0.001, deadline - time.monotonic()))
                else:
                    self._socket.settimeout(None)
                parts.append(self._socket.recv(1 << 16))
                if not parts[-1]:
                    raise Ended(f"session {self.name} ended without an answer")
            answer = json.loads(b"".join(parts))
        except TimeoutError:
            raise Unanswered(f"session {self.name} did not answer in time") from None
        except ConnectionError:
            raise Ended(f"session {self.name} ended without an answer") from None
        except (OSError, ValueError) as error:
            raise Unanswered(f"session {self.name} did not answer: {error}") from None
        finally:
            self.close()
        if answer.get("ok"):
            return answer.get("result")
        raise Refused(f"session {self.name}: {answer.get('error', 'refused')}")

    def is_answered(self, within: float) -> bool:
        """Wait so many seconds for an answer; tell whether `result` has something to read."""
        return bool(select.select([self._socket], [], [], within)[0])

    def give_up(self) -> None:
        """Let `result`, which waits in another thread, fail at once."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Hang up; what was asked for is given up."""
        self._socket.close()


def call(
    directory: Path,
    verb: str,
    args: Mapping[str, Any] | None = None,
    timeout: float | None = 5.0,
) -> Any:
    """Ask the session in a directory and return its answer; raises as `Call` does."""
    request = Call(directory, verb, args)
    return request.result(None if timeout is None else time.monotonic() + timeout)


def stop(request: Call, timeout: float) -> None:
    """Return when the session that was asked to `stop` has ended and its process is gone.

    A session that does not answer gets SIGTERM, which asks for the same.

    Raises:
        Refused: the session says that it cannot.
        Unanswered: the process is still there.
    """
    deadline = time.monotonic() + timeout
    try:
        # While the connection stands the pid is that process's and no other's.
        process = os.pidfd_open(request.pid)
    except ProcessLookupError:
        request.close()
        return
    except OSError as error:
        request.close()
        raise Unanswered(f"cannot watch session {request.name}: {reason(error)}") from None
    try:
        try:
            request.result(min(deadline, time.monotonic() + _STOP_ANSWER_S))
        except Ended:
            pass  # what it was asked for
        except Unanswered:
            _terminate(process)
        _await_end(process, request.name, request.pid, deadline, timeout)
    finally:
        os.close(process)


def stop_silent(session: SessionDir, timeout: float) -> bool:
    """Return when a session that has no socket has ended: one that starts just now, or ends.

    Returns:
        whether there was one.

    Raises:
        Unanswered: the process is still there.
    """
    deadline, pid = time.monotonic() + timeout, session.taker
    try:
        process = os.pidfd_open(pid) if pid else -1
    except OSError:
        process = -1
    if process < 0:
        return False
    try:
        # Only now: it is this process that holds the lock, and no other that got its number.
        if not session.is_held_by(pid):
            return False
        _terminate(process)  # it minds that from before it takes the lock
        _await_end(process, session.name, pid, deadline, timeout)
    finally:
        os.close(process)
    return True


def _terminate(process: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(process, signal.SIGTERM)


def _await_end(process: int, name: str, pid: int, deadline: float, timeout: float) -> None:
    poll = select.poll()
    poll.register(process, select.POLLIN)
    if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
        raise Unanswered(f"session {name} (pid {pid}) has not ended in {timeout:g} s")
