"""Show all sessions of this host to a browser, to Prometheus and to whoever checks their health.

    psync web [NAME] [--listen 127.0.0.1:9464 | /run/psync-web/web.sock]...

    /               a page that shows the sessions live
    /status.json    the same for programs
    /metrics        for Prometheus
    /healthz        200 `ok`, or 503 and what ails; /healthz?session=NAME: of that one

It is a process of its own that asks the sessions over their sockets. So one address shows all of
them, and goes on telling of one that has ended; and no session starts slower, or grows, for it.

**Invariants.** It only listens where no other host gets at it: on a loopback address, or on a unix
socket that only its owner may use (and a group that was named). It only reads. A page of another
origin learns nothing: a name that is not this host's own in `Host` is refused (DNS rebinding),
nothing is allowed across origins, and the page may load nothing but its own files. A request has
at most `HEAD_MAX` bytes and `REQUEST_S` seconds, `CONNECTIONS_MAX` are served at once, and however
many ask, the sessions are asked at most every `FRESH_S`.

It knows no user and no password: whoever may connect may look. It is HTTP/1.1 as far as two verbs
and one answer a connection need it; a library for more would be the largest part of psync.
"""

from __future__ import annotations

import asyncio
import contextlib
import grp
import ipaddress
import json
import os
import re
import signal
import socket
import stat
import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs

from psync import __version__
from psync.config import config_file
from psync.effects.console import harmless
from psync.effects.state import reason
from psync.errors import ConfigError, PsyncError, UsageError
from psync.metrics import CONTENT_TYPE, exposition
from psync.overview import configured, health, survey

__all__ = ["CONNECTIONS_MAX", "DEFAULT", "HEAD_MAX", "Address", "Web", "address", "serve"]

DEFAULT = "127.0.0.1:9464"
HEAD_MAX = 8 * 1024
REQUEST_S = 10.0
CONNECTIONS_MAX = 32
FRESH_S = 0.5
_TURN_AWAY_S = 1.0
_WITHIN_S = 2.0  # longer than a session that is well ever takes
_PATH_MAX = 107  # what the kernel takes for a socket's
_PAGE = Path(__file__).parent / "share" / "web"
_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
_TEXT = "text/plain; charset=utf-8"
_HEADERS = {
    "Cache-Control": "no-store",
    "Connection": "close",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Address(NamedTuple):
    """Where to listen: a loopback address and a port, or the path of a unix socket."""

    host: str
    port: int
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return self.path
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/"


def address(text: str) -> Address:
    """Read an address to listen on.

    Raises:
        UsageError: it is none, or another host could get at it.
    """
    if "/" in text:
        path = os.path.abspath(os.path.expanduser(text.removeprefix("unix:")))
        if "\0" in path or len(os.fsencode(path)) > _PATH_MAX:
            raise UsageError(
                f"--listen {text!a}: no socket can be there: its path has more than "
                f"{_PATH_MAX} bytes"
            )
        return Address("", 0, path)
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if _is_here(host) and re.fullmatch(r"\d{1,5}", port, re.ASCII) and int(port) <= 65535:
        return Address("127.0.0.1" if host == "localhost" else host, int(port))
    raise UsageError(
        f"--listen {text!a} is neither a loopback address and a port, like {DEFAULT} or "
        "[::1]:9464, nor the path of a unix socket: other hosts reach it by ssh -L, or through a "
        "proxy that asks who they are"
    )


def _is_here(host: str) -> bool:
    """Tell whether a host's name or number can only mean this host."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


# --- the server ---------------------------------------------------------------------------


class _Refusal(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: HTTPStatus, why: str) -> None:
        super().__init__(why)
        self.status = status


class _Answer(NamedTuple):
    status: HTTPStatus
    kind: str
    body: bytes


class Web:
    """Answers requests; see the module's text."""

    def __init__(self, state: Path, name: str | None = None, config: str | None = None) -> None:
        """Show the sessions of a state directory, or one of them.

        Args:
            state: the state directory.
            name: only this session; None: all.
            config: the file that says which of them are missed; None: where psync looks for it.
        """
        self._state = state
        self._name = name
        self._config = config
        self._told: list[dict[str, Any]] = []
        self._told_at = -FRESH_S
        self._asking = asyncio.Lock()
        self._servers: list[asyncio.Server] = []
        self._sockets: list[Address] = []
        self._clients: set[asyncio.Task[None]] = set()

    async def listen(self, where: Address, group: str | None = None) -> Address:
        """Begin to serve at an address; return it, with the port that the system has chosen.

        Args:
            where: a checked address.
            group: may use a unix socket, beside its owner.

        Raises:
            UsageError: nothing can listen there.
        """
        try:
            listener = _listener(where, group)
        except OSError as error:
            raise UsageError(f"cannot listen on {where}: {reason(error)}") from None
        checks_host = not where.path
        if not where.path:
            where = where._replace(port=listener.getsockname()[1])
        self._sockets.append(where)

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._serve(reader, writer, checks_host=checks_host)

        self._servers.append(await asyncio.start_server(accept, sock=listener, limit=HEAD_MAX))
        return where

    async def close(self) -> None:
        """Stop listening, and drop who still waits for an answer."""
        for server in self._servers:
            server.close()
        for where in self._sockets:
            if where.path:
                with contextlib.suppress(OSError):
                    os.unlink(where.path)
        clients = list(self._clients)
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, checks_host: bool
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        try:
            async with asyncio.timeout(REQUEST_S):
                if len(self._clients) > CONNECTIONS_MAX:
                    writer.write(await _turn_away(reader))
                else:
                    writer.write(await self._respond(reader, checks_host=checks_host))
                await writer.drain()
        except (OSError, TimeoutError, asyncio.CancelledError):
            pass  # the client went, or does not get on, or we end
        finally:
            self._clients.discard(task)
            writer.close()

    async def _respond(self, reader: asyncio.StreamReader, *, checks_host: bool) -> bytes:
        """Read a request and answer it; nothing when there is none."""
        has_body = True
        try:
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except asyncio.LimitOverrunError:
                too_large = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
                raise _Refusal(too_large, f"more than {HEAD_MAX} bytes") from None
            except asyncio.IncompleteReadError:
                return b""
            method, target = _request(head, checks_host=checks_host)
            has_body = method != "HEAD"
            answer = await self._answer(target)
        except _Refusal as refusal:
            answer = _refused(refusal)
        except PsyncError as error:
            answer = _Answer(HTTPStatus.SERVICE_UNAVAILABLE, _TEXT, f"psync: {error}\n".encode())
        return _encoded(answer, has_body=has_body)

    async def _answer(self, target: str) -> _Answer:
        path, _, query = target.partition("?")
        if path in _FILES:
            name, kind = _FILES[path]
            return _Answer(HTTPStatus.OK, kind, (_PAGE / name).read_bytes())
        answers: dict[str, Callable[[str], Awaitable[_Answer]]] = {
            "/status.json": self._status,
            "/metrics": self._metrics,
            "/healthz": self._health,
        }
        if path not in answers:
            raise _Refusal(HTTPStatus.NOT_FOUND, "there is no such page")
        return await answers[path](query)

    async def _status(self, _query: str) -> _Answer:
        told = await self._survey()
        well, _ = health(told)
        page = {
            "host": socket.gethostname(), "time": time.time(), "version": __version__,
            "healthy": well, "sessions": told,
        }  # fmt: skip
        return _Answer(HTTPStatus.OK, "application/json", json.dumps(page).encode())

    async def _metrics(self, _query: str) -> _Answer:
        return _Answer(HTTPStatus.OK, CONTENT_TYPE, exposition(await self._survey()).encode())

    async def _health(self, query: str) -> _Answer:
        told = await self._survey()
        wanted = parse_qs(query).get("session", [])
        known = {each.get("name") for each in told}
        missing = [harmless(name) for name in wanted if name not in known]
        if wanted:
            told = [each for each in told if each.get("name") in wanted]
        well, lines = health(told) if told or not missing else (False, [])
        well = well and not missing
        lines += [f"{name}: there is no such session" for name in missing]
        text = "\n".join(["ok" if well else "unhealthy", *lines]) + "\n"
        status = HTTPStatus.OK if well else HTTPStatus.SERVICE_UNAVAILABLE
        return _Answer(status, _TEXT, text.encode("utf-8", "backslashreplace"))

    async def _survey(self) -> list[dict[str, Any]]:
        """How the sessions are; asked at most every `FRESH_S`."""
        async with self._asking:
            if time.monotonic() - self._told_at >= FRESH_S:
                self._told = await asyncio.to_thread(self._look)
                self._told_at = time.monotonic()
            return self._told

    def _look(self) -> list[dict[str, Any]]:
        try:
            file: Path | None = config_file(self._config)
        except ConfigError:
            file = None
        return survey(self._state, self._name, _WITHIN_S, configured(file))


def _listener(where: Address, group: str | None) -> socket.socket:
    """Make a socket that listens. Raises OSError and UsageError."""
    if where.path:
        return _unix_listener(where.path, group)
    family = socket.AF_INET6 if ":" in where.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((where.host, where.port))
        listener.listen(CONNECTIONS_MAX)
    except OSError:
        listener.close()
        raise
    return listener


def _unix_listener(path: str, group: str | None) -> socket.socket:
    """Make a unix socket that only its owner, and a group, may use."""
    gid = -1
    if group is not None:
        try:
            gid = grp.getgrnam(group).gr_gid
        except KeyError:
            raise UsageError(f"--group {group!a}: there is no such group") from None
    _clear(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(path)
        if gid >= 0:
            os.chown(path, -1, gid)
            os.chmod(path, 0o660)
        listener.listen(CONNECTIONS_MAX)
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(before)
    return listener


def _clear(path: str) -> None:
    """Remove a socket that a process which is gone has left; raise when it is anything else."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise UsageError(f"cannot listen on {path}: something else is there")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
        try:
            peer.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
    raise UsageError(f"cannot listen on {path}: another process does")


# --- HTTP ---------------------------------------------------------------------------------


def _request(head: bytes, *, checks_host: bool) -> tuple[str, str]:
    """Take a request apart; return its method and target. Raises _Refusal."""
    bad = HTTPStatus.BAD_REQUEST
    first, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    match = re.fullmatch(r"([A-Z]{1,20}) (/[\x21-\x7e]*) HTTP/1\.[01]", first)
    if match is None:
        raise _Refusal(bad, "that is no request")
    fields: dict[str, list[str]] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
            raise _Refusal(bad, "that is no header")
        fields.setdefault(name.lower(), []).append(value.strip(" \t"))
    if match[1] not in ("GET", "HEAD"):
        raise _Refusal(HTTPStatus.METHOD_NOT_ALLOWED, "there is only something to look at here")
    if "transfer-encoding" in fields or fields.get("content-length", ["0"]) != ["0"]:
        raise _Refusal(bad, "a request to look has no body")
    hosts = fields.get("host", [])
    if checks_host and (len(hosts) != 1 or not _is_our_name(hosts[0])):
        raise _Refusal(
            HTTPStatus.MISDIRECTED_REQUEST,
            "only the names localhost, 127.0.0.1 and [::1] are served: a proxy has to send one of "
            "them as Host",
        )
    return match[1], match[2]


def _is_our_name(host: str) -> bool:
    """Tell whether a `Host` names this host; behind a tunnel the port may be any."""
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:]+)\]|([^:\[\]]+))(?::\d{1,5})?", host, re.ASCII)
    return match is not None and _is_here(match[1] or match[2])


async def _turn_away(reader: asyncio.StreamReader) -> bytes:
    """Refuse a connection; what it has sent is read, or it would not hear the answer."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_TURN_AWAY_S):
            await reader.read(HEAD_MAX)
    why = "too many connections at once; try again"
    return _encoded(_refused(_Refusal(HTTPStatus.SERVICE_UNAVAILABLE, why)))


def _refused(refusal: _Refusal) -> _Answer:
    return _Answer(refusal.status, _TEXT, f"{refusal.status.phrase}: {refusal}\n".encode())


def _encoded(answer: _Answer, *, has_body: bool = True) -> bytes:
    headers = {
        **_HEADERS, "Content-Type": answer.kind, "Content-Length": str(len(answer.body)),
    }  # fmt: skip
    if answer.status is HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = "GET, HEAD"
    lines = [f"HTTP/1.1 {answer.status.value} {answer.status.phrase}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + (answer.body if has_body else b"")


# --- the verb -----------------------------------------------------------------------------


def serve(
    state: Path, name: str | None, listen: list[str], group: str | None, config: str | None = None
) -> int:
    """Serve until SIGTERM or Ctrl-C; return the exit code.

    Args:
        state: the state directory.
        name: only this session; None: all.
        listen: the addresses; none: `DEFAULT`.
        group: may use the unix sockets.
        config: the configuration file; None: where psync looks for it.

    Raises:
        PsyncError: it cannot begin; the message says why.
    """
    places = [address(text) for text in listen or [DEFAULT]]
    if group is not None and not any(place.path for place in places):
        raise UsageError("--group says who may use a unix socket: --listen PATH")
    survey(state, name, 0.0)  # to find out now that it cannot be read
    asyncio.run(_serve(Web(state, name, config), places, group))
    return 0


async def _serve(web: Web, places: list[Address], group: str | None) -> None:
    over = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, over.set)
    try:
        for place in places:
            print(f"psync: the sessions are shown at {await web.listen(place, group)}", flush=True)
        await over.wait()
    finally:
        await web.close()
