"""Every error that psync raises on purpose, as one tree.

A message says what happened, to what, and what to do; it is one line and it is
what the user reads. Trouble at one path is no error but a `Problem` value (see
`core.session`): it never stops another path.

    PsyncError
    +-- UsageError          the user asked for something that cannot be (exit 2)
    |   +-- ConfigError     a configuration file is wrong (exit 2)
    +-- TransportError      the other host cannot be reached; tried again
    |   +-- HostKeyError    the host is not the one we know; never tried again
    |   +-- RefusedError    the host answers, but will not serve us; never tried again
    +-- AgentError          the peer broke the protocol
    +-- StoreError          the state directory or its database cannot be used
        +-- UnwritableError it cannot be written now: full, over quota, read-only; tried again
"""

from __future__ import annotations

from enum import IntEnum

__all__ = [
    "AgentError",
    "ConfigError",
    "Exit",
    "HostKeyError",
    "PsyncError",
    "RefusedError",
    "StoreError",
    "TransportError",
    "UnwritableError",
    "UsageError",
]


class Exit(IntEnum):
    """Exit codes of `psync run`, the original's."""

    STOPPED = 0
    BANNED = 1
    FAILED = 2
    LEFT_LOST = 3
    RIGHT_LOST = 4
    INTERNAL = 5


class PsyncError(Exception):
    """The root of the tree; `exit_code` is what a command ends with."""

    exit_code: int = Exit.INTERNAL


class UsageError(PsyncError):
    """What was asked for cannot be done: wrong option, wrong root, wrong host."""

    exit_code = Exit.FAILED


class ConfigError(UsageError):
    """A configuration file is wrong; the message names file, table and key."""


class UnknownSessionError(ConfigError):
    """No configuration names this session, for there may be none at all."""


class TransportError(PsyncError):
    """A connection failed or ended; the session tries again with backoff."""

    exit_code = Exit.RIGHT_LOST


class HostKeyError(TransportError):
    """The host key is unknown or has changed; trying again would not help."""

    exit_code = Exit.FAILED


class RefusedError(TransportError):
    """The host refuses us for good: key, version, python3 or rsync missing, root."""

    exit_code = Exit.FAILED


class AgentError(PsyncError):
    """The peer sent what the protocol does not allow."""


class StoreError(PsyncError):
    """The state directory or the database in it cannot be used."""

    exit_code = Exit.FAILED


class UnwritableError(StoreError):
    """The state directory cannot be written now: full, over quota, read-only; tried again."""
