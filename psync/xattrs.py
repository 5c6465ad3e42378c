"""Extended attributes and ACLs of a file, as one value that can be compared and sent.

What is replicated: `user.*` always; POSIX ACLs, whose entries name users by number, and
`security.capability` only where owners are, which is between two agents that run as root.
Other names are an administrator's or the system's own (`trusted.*`, `security.selinux`):
they are neither told nor taken from a file. Symbolic links have none.

The value is made of records in byte order of the names: a little-endian u16 length, the name,
a u32 length, the value. A file without attributes has the empty value.

**Invariants.** Nothing here raises for what a file system or a file has not: what cannot be
told is `UNTOLD`, and whoever has set something is told whether all of it was taken. Attributes
that could not be told are not replaced, and no name is set but those above.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Optional

from psync.core.entry import XATTRS_MAX
from psync.wire import Start

__all__ = ["UNTOLD", "Attributes", "attributes_of", "copy_rest", "pack", "unpack"]

UNTOLD = b"\xff"  # too large, or not readable: no records

_ACLS = frozenset((b"system.posix_acl_access", b"system.posix_acl_default"))
_CAPABILITY = b"security.capability"
_LABEL = b"security.selinux"
_NAME = struct.Struct("<H")
_VALUE = struct.Struct("<I")
_TRIES = 4
_NONE_HERE = (errno.EOPNOTSUPP, errno.ENOSYS)
_GONE = (errno.ENODATA, errno.ERANGE)  # since they were listed
_UNTAKEN = (
    errno.EPERM, errno.EACCES, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EOVERFLOW,
    errno.E2BIG, errno.ERANGE, errno.ENOSPC, errno.EDQUOT, errno.ENODATA,
)  # fmt: skip


def pack(attributes: dict[bytes, bytes]) -> bytes:
    """Make one value of attributes; `UNTOLD` if they are too large."""
    parts = []
    for name, value in sorted(attributes.items()):
        parts += [_NAME.pack(len(name)), name, _VALUE.pack(len(value)), value]
    packed = b"".join(parts)
    return packed if len(packed) <= XATTRS_MAX else UNTOLD


def unpack(packed: bytes) -> dict[bytes, bytes]:
    """Take a value apart.

    Raises:
        ValueError: it is none that `pack` makes.
    """
    attributes: dict[bytes, bytes] = {}
    at = 0
    try:
        while at < len(packed):
            (size,) = _NAME.unpack_from(packed, at)
            name = packed[at + 2 : at + 2 + size]
            at += 2 + size
            (size,) = _VALUE.unpack_from(packed, at)
            attributes[name] = packed[at + 4 : at + 4 + size]
            at += 4 + size
    except struct.error:
        raise ValueError("attributes are cut short") from None
    if at != len(packed) or pack(attributes) != packed:
        raise ValueError("attributes are not as they are packed")
    return attributes


class Attributes:
    """Reads and sets what is replicated.

    Args:
        owners: users are replicated, by number.
        strip: special powers are not.
    """

    def __init__(self, *, owners: bool, strip: bool) -> None:
        self._exact = (_ACLS if owners else frozenset()) | (
            frozenset((_CAPABILITY,)) if owners and not strip else frozenset()
        )

    def is_ours(self, name: bytes) -> bool:
        """Tell whether an attribute is replicated."""
        return name.startswith(b"user.") or name in self._exact

    def at(self, parent_fd: int, name: bytes) -> bytes:
        """The attributes of what is at a name in a directory, which is no symbolic link."""
        return self._read(b"/proc/self/fd/%d/%s" % (parent_fd, name), follow=False)

    def of(self, fd: int) -> bytes:
        """The attributes of what is open, be it with O_PATH."""
        try:
            if not os.listxattr(fd):  # several times as fast as by way of /proc
                return b""
        except OSError:
            pass
        return self._read(b"/proc/self/fd/%d" % fd, follow=True)

    def _read(self, where: bytes, *, follow: bool) -> bytes:
        for _ in range(_TRIES):
            try:
                if not os.listxattr(where, follow_symlinks=follow):  # so it is with nearly all
                    return b""
                ours = [name for name in _names(where, follow) if self.is_ours(name)]
                return pack({name: _get(where, name, follow) for name in ours})
            except OSError as error:
                if error.errno in _NONE_HERE:
                    return b""
                if error.errno not in _GONE:
                    return UNTOLD
        return UNTOLD

    def set(self, fd: int, wanted: bytes) -> Optional[OSError]:
        """Give what is open exactly these attributes, of those that are replicated.

        Returns:
            Why it has not got all of them; None: it has.
        """
        there = self.of(fd)
        if there == wanted:
            return None
        if UNTOLD in (there, wanted):
            return OSError(errno.E2BIG, os.strerror(errno.E2BIG))
        try:
            new, old = unpack(wanted), unpack(there)
        except ValueError:
            return OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        refused: Optional[OSError] = None
        where = b"/proc/self/fd/%d" % fd
        for name in old:
            if name not in new:
                refused = _attempt(os.removexattr, where, name) or refused
        for name, value in new.items():
            if not self.is_ours(name):
                refused = OSError(errno.EPERM, os.strerror(errno.EPERM))
            elif old.get(name) != value:
                refused = _attempt(os.setxattr, where, name, value) or refused
        return refused


def attributes_of(start: Start) -> Optional[Attributes]:
    """What an agent is to replicate of attributes; None: nothing."""
    if not start.xattrs:
        return None
    return Attributes(owners=start.owners, strip=start.strip_special_bits)


def copy_rest(source_fd: int, target_fd: int, attributes: Optional[Attributes]) -> None:
    """Let a replacement have those attributes of what it replaces that are not replicated.

    As far as that goes: else it is without, like any new file.
    """
    source, target = b"/proc/self/fd/%d" % source_fd, b"/proc/self/fd/%d" % target_fd
    with suppress(OSError):
        for name in _names(source, True):
            if attributes is not None and attributes.is_ours(name):
                continue
            if name.startswith(b"user.") or name in _ACLS or name == _LABEL:
                with suppress(OSError):
                    os.setxattr(target, name, _get(source, name, True))


def _names(where: bytes, follow: bool) -> list[bytes]:
    return [os.fsencode(name) for name in os.listxattr(where, follow_symlinks=follow)]


def _get(where: bytes, name: bytes, follow: bool) -> bytes:
    return os.getxattr(where, name, follow_symlinks=follow)


def _attempt(call: Callable[..., None], *args: bytes) -> Optional[OSError]:
    try:
        call(*args)
    except OSError as error:
        if error.errno not in _UNTAKEN:
            raise
        return error
    return None
