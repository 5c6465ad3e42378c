"""Find out how to reach a host: what `ssh HOST` would do, and what psync insists on.

asyncssh reads the user's ssh_config as OpenSSH does, first value first. Options given to
psync (`-p 2222`, `-o ConnectTimeout=10`, `-C`) become a small configuration in front
of it, so that they win without any other rule.

**Invariants.** Host keys are checked, always: nothing in a configuration or an option can
turn that off (`UserKnownHostsFile none` means that no host is known). An option that
psync does not understand is an error, never silently dropped, unless it could not mean
anything here. Nothing is ever asked for: no password, no passphrase.

It makes no connection.
"""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import asyncssh
from asyncssh.public_key import get_default_certificate_algs, get_default_public_key_algs

from psync.errors import ConfigError, HostKeyError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["Route", "find_route", "parse_destination"]

_SYSTEM_CONFIG = "/etc/ssh/ssh_config"
_SYSTEM_KNOWN_HOSTS = ("/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2")
_KEEPALIVES = 3  # unanswered ones that end a connection
# Hardware does AES-GCM at several times the speed of ChaCha20, at the same latency.
_FAST_CIPHERS = [
    "aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "chacha20-poly1305@openssh.com",
    "aes256-ctr", "aes192-ctr", "aes128-ctr",
]  # fmt: skip
# The files in ~/.ssh that asyncssh looks for.
_DEFAULT_KEYS = (
    "id_ed25519_sk", "id_ecdsa_sk", "id_ed448", "id_ed25519", "id_ecdsa", "id_rsa", "id_dsa",
)  # fmt: skip

# ssh's letters that take a value, as the keyword that they stand for.
_LETTERS = {
    "b": "BindAddress", "c": "Ciphers", "I": "PKCS11Provider", "i": "IdentityFile",
    "J": "ProxyJump", "l": "User", "m": "MACs", "P": "Tag", "p": "Port",
}  # fmt: skip
_SWITCHES = {"4": "AddressFamily inet", "6": "AddressFamily inet6", "C": "Compression yes"}
_MEANINGLESS_SWITCHES = "AaknqTvXxYy"  # forwarding, terminals, verbosity: not on our channels
_UNDERSTOOD = frozenset({
    "addressfamily", "bindaddress", "canonicaldomains", "canonicalizefallbacklocal",
    "canonicalizehostname", "canonicalizemaxdots", "canonicalizepermittedcnames",
    "casignaturealgorithms", "certificatefile", "ciphers", "compression", "connecttimeout",
    "globalknownhostsfile", "gssapiauthentication", "gssapidelegatecredentials",
    "gssapikeyexchange", "hostbasedauthentication", "hostkeyalgorithms", "hostkeyalias",
    "hostname", "identitiesonly", "identityagent", "identityfile", "kbdinteractiveauthentication",
    "kexalgorithms", "macs", "passwordauthentication", "pkcs11provider", "port",
    "preferredauthentications", "proxycommand", "proxyjump", "pubkeyauthentication", "rekeylimit",
    "tag", "tcpkeepalive", "user", "userknownhostsfile",
})  # fmt: skip
_EXPANDED = frozenset({"certificatefile", "identityagent", "identityfile", "proxycommand"})
# for terminals, for several connections, or decided by psync itself
_MEANINGLESS = frozenset({
    "batchmode", "checkhostip", "connectionattempts", "controlmaster", "controlpath",
    "controlpersist", "escapechar", "forwardagent", "forwardx11", "forwardx11trusted",
    "hashknownhosts", "ipqos", "loglevel", "numberofpasswordprompts", "requesttty", "sendenv",
    "serveralivecountmax", "serveraliveinterval", "setenv", "updatehostkeys", "visualhostkey",
})  # fmt: skip


class _KnownHosts(asyncssh.SSHKnownHosts):
    """What known_hosts files say of hosts.

    Attributes:
        revoking: each line that revokes a key: where it is, and what it says.
    """

    def __init__(self) -> None:
        super().__init__()
        self.revoking: list[tuple[str, _KnownHosts]] = []

    def match(self, host: str, addr: str, port: int | None) -> tuple[Any, ...]:
        """Look a host up; asyncssh drops what is revoked at a port for which no key is known."""
        found = super().match(host, addr, port)
        at_port = [self.match(f"[{name}]:{port}", "", None)[2] for name in (host, addr) if port]
        return (*found[:2], sum(at_port, [*found[2]]), *found[3:])


class Route(NamedTuple):
    """How a host is reached.

    Attributes:
        arguments: for `asyncssh.connect`.
        host: where it is; the address that ssh_config gives to an alias.
        port: likewise.
        user: whom we log in as.
        key_files: of our keys: those that are tried, and those that cannot be.
        known_as: the name under which its key is in a known_hosts file.
        known_hosts: the keys that we trust.
        known_hosts_file: where a new one is written.
        jumps: hosts to go through (ProxyJump), in this order.
        jump_options: the options that hold for them too.
    """

    arguments: dict[str, Any]
    host: str
    port: int
    user: str
    key_files: list[str]
    known_as: str
    known_hosts: _KnownHosts
    known_hosts_file: Path
    jumps: list[str]
    jump_options: list[str]

    def knows(self) -> bool:
        """Tell whether any key of the host is trusted."""
        keys, authorities, *_ = _match(self.known_hosts, self.known_as, self.port)
        return bool(keys or authorities)

    def revoked_by(self) -> list[str]:
        """The lines of known_hosts files that revoke keys of the host."""
        lines = self.known_hosts.revoking
        return [where for where, line in lines if _match(line, self.known_as, self.port)[2]]

    def known_hosts_name(self) -> str:
        """The host as a known_hosts file writes it."""
        return self.known_as if self.port == 22 else f"[{self.known_as}]:{self.port}"


def parse_destination(destination: str) -> tuple[str | None, str, int | None]:
    """Take `host`, `user@host` or `ssh://user@host:port` apart.

    Returns:
        user, host and port; None for what is not said.

    Raises:
        UsageError: it names no host.
    """
    if destination.startswith("ssh://"):
        try:
            url = urlsplit(destination)
            user, host, port = url.username, url.hostname or "", url.port
        except ValueError:
            user, host, port = None, "", None
    else:
        name, at, host = destination.rpartition("@")
        user, port = (name if at else None), None
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
    if not host or host.startswith("-") or user == "" or not destination.isprintable():
        raise UsageError(f"{destination!r} is no host: give what ssh takes, HOST or USER@HOST")
    return user, host, port


@contextmanager
def find_route(destination: str, ssh_options: list[str] | None, timeout: float) -> Iterator[Route]:
    """Read the ssh configuration that applies to a host; connect inside of the context.

    Args:
        destination: what ssh takes: an alias, `host`, `user@host`, `ssh://...`.
        ssh_options: words of ssh's command line.
        timeout: seconds of silence after which a connection counts as lost.

    Raises:
        UsageError: destination or options make no sense.
        ConfigError: an ssh configuration file is malformed.
        HostKeyError: a known_hosts file cannot be read.
    """
    said: dict[str, Any] = {}
    user, said["host"], port = parse_destination(destination)
    if user is not None:
        said["username"] = user
    if port is not None:
        said["port"] = port
    text, config_file, jump_options = _translate(ssh_options or [])
    with _memory_file(text) as front:
        files_behind = [p for p in (config_file, _SYSTEM_CONFIG) if os.access(p, os.R_OK)]
        said["config"] = [front, *(files_behind or [os.devnull])]
        try:
            # Only the configuration: keys are loaded by `asyncssh.connect`.
            found = asyncssh.SSHClientConnectionOptions(
                **said, client_keys=None, agent_path=None, known_hosts=b""
            )
            config = found.config
            files = _known_hosts_files(config.get("UserKnownHostsFile"))
            known = _read_known_hosts(
                [*files, *_texts(config.get("GlobalKnownHostsFile", _SYSTEM_KNOWN_HOSTS))]
            )
            known_as = found.host_key_alias or found.host
            if not 0 < found.port < 65536:
                raise ValueError(f"{found.port} is no port")
            wait_s = min(timeout, float(str(config.get("ConnectTimeout", timeout))))
        except (OSError, ValueError) as error:
            where = str(error).replace(front, "ssh options,")
            raise ConfigError(f"{destination}: the ssh configuration: {where}") from None
        said |= {
            "known_hosts": known,
            "ignore_encrypted": True,
            "keepalive_interval": timeout / (_KEEPALIVES + 1),
            "keepalive_count_max": _KEEPALIVES,
            "connect_timeout": wait_s,
            "login_timeout": timeout,
        }
        if config.get("HostKeyAlgorithms") is None:
            said["server_host_key_algs"] = _host_key_algorithms(known, known_as, found.port)
        if config.get("Ciphers") is None and _has_aes():
            said["encryption_algs"] = _FAST_CIPHERS
        identities = [os.path.expanduser(name) for name in _texts(config.get("IdentityFile"))]
        # as ssh does, go on without those that are not there
        usable = [p for p in identities if os.access(p, os.R_OK) and not os.path.isdir(p)]
        if identities:
            said["client_keys"] = usable
        if not usable:  # asyncssh takes those that need no word then
            defaults = [os.path.expanduser(f"~/.ssh/{name}") for name in _DEFAULT_KEYS]
            identities += filter(os.path.exists, defaults)
        jumps = str(config.get("ProxyJump") or "none")
        yield Route(
            arguments=said,
            host=found.host,
            port=found.port,
            user=found.username,
            key_files=identities,
            known_as=known_as,
            known_hosts=known,
            known_hosts_file=files[0] if files else Path("~/.ssh/known_hosts").expanduser(),
            jumps=[] if jumps.lower() == "none" else [jump.strip() for jump in jumps.split(",")],
            jump_options=jump_options,
        )


# --- options ------------------------------------------------------------------------------


def _translate(words: list[str]) -> tuple[str, str, list[str]]:
    """Turn ssh's command line options into a configuration.

    Returns:
        its text, the user's file that comes behind it, and the options for jump hosts.
    """
    lines: list[str] = []
    config_file = os.path.expanduser("~/.ssh/config")
    jump_options: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if len(word) < 2 or word[0] != "-" or word[1] == "-":
            raise UsageError(f"{word!r} is no ssh option: give them as ssh takes them (-p 2222)")
        letters = word[1:]
        while letters:
            letter, letters = letters[0], letters[1:]
            if letter in _SWITCHES:
                lines.append(_SWITCHES[letter])
                continue
            if letter in _MEANINGLESS_SWITCHES:
                continue
            if letter not in _LETTERS and letter not in "oF":
                raise UsageError(
                    f"ssh option -{letter} means nothing to psync: put what ssh needs for the "
                    "host into ~/.ssh/config"
                )
            value, letters = (letters or (rest.pop(0) if rest else "")), ""
            if not value or not value.isprintable():
                raise UsageError(f"ssh option -{letter} needs a value")
            if letter == "F":
                config_file = os.path.expanduser(value)
                jump_options = ["-F", config_file]
                if not os.access(config_file, os.R_OK):
                    raise UsageError(f"ssh option -F: {value} cannot be read")
                if Path(config_file).is_fifo():
                    raise UsageError(f"ssh option -F: {value} is no regular file")
            elif letter == "o":
                lines += _keyword(value)
            else:
                quoted = value.replace("\\", "\\\\").replace('"', '\\"')
                lines.append(_line(_LETTERS[letter], f'"{quoted}"'))
    return "".join(line + "\n" for line in lines), config_file, jump_options


def _keyword(setting: str) -> list[str]:
    """Check one `-o Keyword=value`; return the line that it makes, or none."""
    keyword, _, value = setting.replace("=", " ", 1).strip().partition(" ")
    value = value.strip()
    name = keyword.lower()
    if name == "stricthostkeychecking" and value.lower() not in ("yes", "ask"):
        raise UsageError(
            f"ssh option {keyword}={value}: psync checks host keys, always; accept a new one with "
            "psync trust HOST"
        )
    if name == "stricthostkeychecking" or name in _MEANINGLESS:
        return []
    if name not in _UNDERSTOOD:
        raise UsageError(f"ssh option {keyword} is none that psync understands: leave it out")
    if not value:
        raise UsageError(f"ssh option {keyword} needs a value: -o {keyword}=VALUE")
    return [_line(keyword, value)]


def _line(keyword: str, value: str) -> str:
    """Write one line for the front of the configuration.

    asyncssh expands `%p` and its like at the end of each file, so that here it would not
    know yet what the files behind this one say of the port: it gets to see them there.
    """
    if keyword.lower() in _EXPANDED:
        value = value.replace("%", "%%")
    return f"{keyword} {value}"


@contextmanager
def _memory_file(text: str) -> Iterator[str]:
    """Make a file that can be read by path while the context lasts."""
    fd = os.memfd_create("psync-ssh-options")
    try:
        os.write(fd, text.encode())
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


# --- known hosts, keys, ciphers -------------------------------------------------------------


def _texts(value: object) -> list[str]:
    return [str(item) for item in value] if isinstance(value, (list, tuple)) else []


def _known_hosts_files(configured: object) -> list[Path]:
    """The user's known_hosts files; an empty list where the configuration says none."""
    if configured is None:
        return [Path("~/.ssh/known_hosts").expanduser(), Path("~/.ssh/known_hosts2").expanduser()]
    return [Path(name).expanduser() for name in _texts(configured)]


def _read_known_hosts(names: list[Path | str]) -> _KnownHosts:
    known = _KnownHosts()
    for name in names:
        path = Path(name).expanduser()
        try:
            if path.is_fifo():
                raise HostKeyError(f"{name} is no regular file, so no host is known")
            text = path.read_text("utf-8", "replace")
        except FileNotFoundError:
            continue
        except OSError as error:
            raise HostKeyError(f"{name} cannot be read, so no host is known: {error}") from None
        for number, line in enumerate(text.splitlines(), 1):
            with suppress(ValueError):  # as ssh does, go on without a line that makes no sense
                known.load(line)
                if line.lstrip().startswith("@revoked"):
                    revoking = _KnownHosts()
                    revoking.load(line)
                    known.revoking.append((f"{name} line {number}", revoking))
    return known


def _match(known: asyncssh.SSHKnownHosts, name: str, port: int) -> tuple[Sequence[Any], ...]:
    """Look a host up: its keys, the authorities that vouch for it, and more."""
    return known.match(name, "", port if port != 22 else None)


def _host_key_algorithms(known: asyncssh.SSHKnownHosts, name: str, port: int) -> list[str]:
    """Ask for a key of a kind that we know first, and then, so as to say it changed, for any."""
    keys, authorities, *_ = _match(known, name, port)
    certificates = get_default_certificate_algs()
    wanted = [*certificates] if authorities else []
    for key in keys:
        wanted += key.sig_algorithms
    wanted += certificates + get_default_public_key_algs()
    return [algorithm.decode() for algorithm in dict.fromkeys(wanted)]


def _has_aes() -> bool:
    """Tell whether the processor has instructions for AES (x86: flags, Arm: Features)."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as lines:
            return any(" aes" in line for line in lines if line.startswith(("flags", "Features")))
    except OSError:
        return False
