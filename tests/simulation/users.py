"""People at work on both replicas, and the book that is kept of what they did.

Every content that is written is unique (a *token*). The book says which tokens a user has
given up knowingly: he saw them and wrote over them, or deleted them. All others must be
on both replicas in the end, or in a conflict store.

**Invariants.** A user sees his own replica only. All choices come from the generator given.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from psync.core.entry import LOCAL_SUFFIX, Kind, Side, is_ours, join, split
from tests.simulation.disk import Disk, Inode, Node

__all__ = ["Users"]

_NAMES = (b"a", b"b", b"c")
_DEPTH_MAX = 3
_LARGE = 100
_MOVERS = {  # who mostly rename
    "do_swap": 8,
    "do_rename": 3,
    "do_move_directory": 3,
    "do_create_empty_ancestors": 3,
    "do_create": 1,
    "do_overwrite": 1,
    "do_remove_tree": 1,
}


class Users:
    """One person on each side."""

    def __init__(
        self, disks: list[Disk], rng: random.Random, now_ns: Callable[[], int],
        later: Callable[[float, Callable[[], None]], None],
    ) -> None:  # fmt: skip
        self._disks = disks
        self._rng = rng
        self._now_ns = now_ns
        self._later = later
        self._count = 0
        self._count_chmods = 0  # a third of them is another kind of metadata
        self._open: list[tuple[Node, int]] = []
        self._twins: list[Inode] = []
        self.superseded: set[bytes] = set()
        self.blurred: set[bytes] = set()  # moved, copied or touched: more than one line of descent
        self.parents: dict[bytes, bytes] = {}
        every = [v for k, v in sorted(vars(Users).items()) if k.startswith("do_")]
        weights = [rng.choice((0, 1, 1, 3)) for _ in every]
        if rng.random() < 0.3:
            weights = [_MOVERS.get(v.__name__, 0) for v in every]
        self._actions = list(zip(every, weights, strict=True))
        self.local_names = rng.random() < 0.15

    @property
    def tokens(self) -> set[bytes]:
        """All that was ever written."""
        return {b"%08d" % i for i in range(1, self._count + 1)}

    def act(self, side: Side) -> str:
        """Do something; tell what."""
        actions, weights = zip(*self._actions, strict=True)
        if not any(weights):
            weights = (1,) * len(actions)
        action = self._rng.choices(actions, weights)[0]
        done = action(self, self._disks[side])
        self._blur_links()
        return f"{side.name} {action.__name__} {done}"

    def rest(self) -> None:
        """Close what is open."""
        for node, _ in list(self._open):
            self._close(node)

    # --- choosing ------------------------------------------------------------------------

    def _all(self, disk: Disk, *kinds: Kind) -> list[bytes]:
        return [p for p, node in disk.walk() if node.kind in kinds and not is_ours(p)]

    def _pick(self, disk: Disk, *kinds: Kind) -> bytes:
        paths = self._all(disk, *kinds)
        return self._rng.choice(paths) if paths else b""

    def _free(self, disk: Disk) -> bytes:
        directories = [
            p for p in [b"", *self._all(disk, Kind.DIRECTORY)] if p.count(b"/") < _DEPTH_MAX - 1
        ]
        place = self._rng.choice(directories)
        path = join(place, self._rng.choice(_NAMES))
        return b"" if disk.at(path) is not None else path

    def _token(self, after: bytes = b"") -> bytes:
        self._count += 1
        token = b"%08d" % self._count
        if after:
            self.superseded.add(after[:8])
            self.parents[token] = after[:8]
        return token

    def _fill(self) -> bytes:
        return b"." * self._rng.choice((0, 0, 4, 4, 20, _LARGE))

    def _blur(self, disk: Disk, path: bytes) -> None:
        node = disk.at(path)
        for one in [node, *(n for _, n in disk.walk(path))]:
            if one is not None and one.kind is not Kind.DIRECTORY:
                self.blurred.add(one.data[:8])

    def _blur_links(self) -> None:
        for disk in self._disks:
            for _, node in disk.walk():
                if node.inode.linked:
                    self.blurred.add(node.data[:8])

    # --- doing ---------------------------------------------------------------------------

    def do_create(self, disk: Disk) -> bytes:
        path = self._free(disk)
        if path:
            disk.make(path, Kind.FILE, self._token() + self._fill())
        return path

    def do_create_empty_ancestors(self, disk: Disk) -> bytes:
        path = self._free(disk)
        if path and path.count(b"/") < _DEPTH_MAX - 1:
            disk.make(path, Kind.DIRECTORY)
            inner = join(path, self._rng.choice(_NAMES))
            disk.make(inner, Kind.FILE, self._token() + self._fill())
        return path

    def do_overwrite(self, disk: Disk) -> bytes:
        path = self._pick(disk, Kind.FILE)
        node = disk.at(path)
        if path and node is not None:
            disk.write(path, self._token(node.data) + self._fill())
        return path

    def do_save_by_rename(self, disk: Disk) -> bytes:
        path = self._pick(disk, Kind.FILE)
        node = disk.at(path)
        if path and node is not None and disk.at(path + b"~") is None:
            disk.make(path + b"~", Kind.FILE, self._token(node.data) + self._fill())
            disk.rename(path + b"~", path)
        return path

    def do_append(self, disk: Disk) -> bytes:
        path = self._pick(disk, Kind.FILE)
        node = disk.at(path)
        if path and node is not None and not node.writers:
            token = self._token(node.data)
            disk.write(path, token + node.data[8:] + b"+")
        return path

    def do_hold_open(self, disk: Disk) -> bytes:
        path = self._pick(disk, Kind.FILE)
        node = disk.at(path)
        if path and node is not None and not node.writers:
            node.writers += 1
            disk.write_node(node, self._token(node.data) + b"half", closed=False)
            self._open.append((node, 1))
            self._later(self._rng.choice((0.01, 0.2, 3.0)), lambda: self._close(node))
        return path

    def _close(self, node: Node) -> None:
        if (node, 1) not in self._open:
            return
        self._open.remove((node, 1))
        node.writers -= 1
        # Whoever writes to a file that is deleted already has given that up, too.
        attached = node.parent is not None
        token = self._token(node.data)
        if not attached:
            self.superseded.add(token)
        disk = self._home(node)
        if disk is not None:
            disk.write_node(node, token + b"whole")
            self._blur_links()
        elif attached:
            self.superseded.add(token)

    def _home(self, node: Node) -> Disk | None:
        if node.parent is None:
            return None
        top = node
        while top.parent is not None:
            top = top.parent
        return next((d for d in self._disks if d.root is top), None)

    def do_same_size(self, disk: Disk) -> bytes:
        path = self._pick(disk, Kind.FILE)
        node = disk.at(path)
        # What is done under cover through a name that is new is not seen under the old ones.
        if path and node is not None and node.inode not in self._twins and not node.inode.linked:
            mtime = node.mtime
            node.stealthy = True
            disk.write(path, self._token(node.data) + node.data[8:])
            disk.set_meta(path, mtime=mtime)
        return path

    def do_delete(self, disk: Disk) -> bytes:
        path = self._pick(disk, Kind.FILE, Kind.SYMLINK)
        self._delete(disk, path)
        return path

    def _delete(self, disk: Disk, path: bytes) -> None:
        node = disk.at(path)
        if node is not None and disk.remove(path) and node.kind is not Kind.DIRECTORY:
            self.superseded.add(node.data[:8])

    def do_rename(self, disk: Disk) -> bytes:
        old, new = self._pick(disk, Kind.FILE, Kind.SYMLINK), self._free(disk)
        if old and new:
            self._blur(disk, old)
            disk.rename(old, new)
        return old + b" -> " + new

    def do_rename_over(self, disk: Disk) -> bytes:
        old, new = self._pick(disk, Kind.FILE), self._pick(disk, Kind.FILE)
        covered = disk.at(new)
        self._blur(disk, old)
        if old and covered is not None and disk.rename(old, new):
            self.superseded.add(covered.data[:8])
        return old + b" -> " + new

    def do_swap(self, disk: Disk) -> bytes:
        one, two = (self._pick(disk, Kind.FILE, Kind.DIRECTORY) for _ in "12")
        if one and two and one != two and not disk.at(b"tmp"):
            self._blur(disk, one)
            self._blur(disk, two)
            if disk.rename(one, b"tmp"):
                disk.rename(two, one)
                disk.rename(b"tmp", two if disk.at(two) is None else one)
                if disk.at(b"tmp"):
                    disk.rename(b"tmp", one)
        return one + b" <-> " + two

    def do_mkdir(self, disk: Disk) -> bytes:
        path = self._free(disk)
        if path and path.count(b"/") < _DEPTH_MAX - 1:
            disk.make(path, Kind.DIRECTORY)
        return path

    def do_rmdir(self, disk: Disk) -> bytes:
        path = self._pick(disk, Kind.DIRECTORY)
        if path:
            disk.remove(path)
        return path

    def do_remove_tree(self, disk: Disk) -> bytes:
        path = self._pick(disk, Kind.DIRECTORY)
        if path:
            self._remove_tree(disk, path)
        return path

    def _remove_tree(self, disk: Disk, path: bytes) -> None:
        for inner, _ in reversed(list(disk.walk(path))):
            self._delete(disk, inner)
        self._delete(disk, path)

    def do_move_directory(self, disk: Disk) -> bytes:
        old, new = self._pick(disk, Kind.DIRECTORY), self._free(disk)
        if old and new:
            self._blur(disk, old)
            disk.rename(old, new)
        return old + b" -> " + new

    def do_move_over_directory(self, disk: Disk) -> bytes:
        old, new = self._pick(disk, Kind.DIRECTORY), self._pick(disk, Kind.DIRECTORY)
        if old and new:
            self._blur(disk, old)
            disk.rename(old, new)
        return old + b" -> " + new

    def do_change_type(self, disk: Disk) -> bytes:
        path = self._pick(disk, Kind.FILE, Kind.DIRECTORY, Kind.SYMLINK)
        node = disk.at(path)
        if not path or node is None:
            return b""
        was = node.kind
        before = node.data if was is not Kind.DIRECTORY else b""
        if was is Kind.DIRECTORY:
            self._remove_tree(disk, path)
        else:
            self._delete(disk, path)
        kind = self._rng.choice([k for k in Kind if k is not was])
        if kind is Kind.DIRECTORY:
            disk.make(path, kind)
        else:
            disk.make(path, kind, self._token(before))
        return path

    def do_link(self, disk: Disk) -> bytes:
        path = self._free(disk)
        if path:
            disk.make(path, Kind.SYMLINK, self._token())
        return path

    def do_hard_link(self, disk: Disk) -> bytes:
        old, new = self._pick(disk, Kind.FILE), self._free(disk)
        node = disk.at(old)
        if old and new and node is not None and node.inode not in self._twins:
            self._blur(disk, old)
            disk.link(old, new)
        return old + b" = " + new

    def do_chmod(self, disk: Disk) -> bytes:
        path = self._pick(disk, Kind.FILE, Kind.DIRECTORY)
        node = disk.at(path)
        if path and node is not None:
            if node.kind is Kind.FILE:
                self._blur(disk, path)
            mode = self._rng.choice((0o600, 0o640, 0o700, 0o755))
            self._count_chmods += 1
            if self._count_chmods % 3:
                disk.set_meta(path, mode=mode)
            else:
                disk.set_meta(path, xattrs=b"%o" % mode if mode != 0o600 else b"")
        return path

    def do_chown(self, disk: Disk) -> bytes:
        path = self._pick(disk, Kind.FILE, Kind.DIRECTORY, Kind.SYMLINK)
        node = disk.at(path)
        if path and node is not None:
            if node.kind is not Kind.DIRECTORY:
                self._blur(disk, path)
            disk.set_meta(path, uid=self._rng.choice((0, 1000, 1001)))
        return path

    def do_touch(self, disk: Disk) -> bytes:
        path = self._pick(disk, Kind.FILE, Kind.DIRECTORY, Kind.SYMLINK)
        node = disk.at(path)
        if path and node is not None:
            if node.kind is not Kind.DIRECTORY:
                self._blur(disk, path)
            disk.set_meta(path, mtime=self._now_ns() - self._rng.choice((0, 0, 10**9)))
        return path

    def do_copy(self, disk: Disk) -> bytes:
        old, new = self._pick(disk, Kind.FILE), self._free(disk)
        node = disk.at(old)
        if old and new and node is not None:
            self._blur(disk, old)
            disk.make(new, Kind.FILE, node.data)
            if self._rng.random() < 0.5:
                disk.set_meta(new, mtime=node.mtime, mode=node.mode)
        return old + b" -> " + new

    def do_twins(self, disk: Disk) -> bytes:
        """Both sides get the same file by other means."""
        path = self._free(disk)
        place = split(path)[0]
        if not path or any(d.at(path) for d in self._disks):
            return b""
        if any((place and (n := d.at(place)) is None) or (
            place and n is not None and n.kind is not Kind.DIRECTORY
        ) for d in self._disks):  # fmt: skip
            return b""
        content = self._token() + self._fill()
        self.blurred.add(content[:8])
        mtime = self._now_ns() if self._rng.random() < 0.5 else None
        for each in self._disks:
            each.make(path, Kind.FILE, content)
            if mtime is not None:
                each.set_meta(path, mtime=mtime)
                # Equal size and mtime on both sides are taken for equal content where nothing
                # was ever agreed: to change one of them under cover is not seen. Documented.
                self._twins += [node.inode for node in [each.at(path)] if node is not None]
        return path

    def do_keep_local(self, disk: Disk) -> bytes:
        path = self._pick(disk, Kind.DIRECTORY)
        if self.local_names and path:
            local = join(path, b"x" + LOCAL_SUFFIX)
            place = disk.at(path)
            assert place is not None
            before = place.mtime  # nobody hears of it, so it must not show elsewhere
            if disk.at(local) is None:
                disk.make(local, Kind.FILE, b"local")
            else:
                disk.remove(local)
            place.mtime = before
        return path
