"""Extended attributes and ACLs: as one value, on a real file system, through transitions."""

from __future__ import annotations

import errno
import os
import stat
import struct
from pathlib import Path

import pytest

from psync.core.entry import XATTRS_MAX
from psync.wire import APPLIED, CHANGED, FAILED
from psync.xattrs import UNTOLD, Attributes, pack, unpack
from tests.support.replica import Replica, directory, file, link

ROOT = os.geteuid() == 0
ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
ONE = pack({b"user.one": b"1"})
TWO = pack({b"user.one": b"2", b"user.two": b""})


def acl(user: int, bits: int, mask: int) -> bytes:
    """An ACL of a file with 0640 that gives a user something."""
    entries = [(1, 6, -1), (2, bits, user), (4, 4, -1), (0x10, mask, -1), (0x20, 0, -1)]
    return struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", tag, perm, who & 0xFFFFFFFF) for tag, perm, who in entries
    )


@pytest.fixture(autouse=True)
def _supported(tmp_path):
    try:
        os.setxattr(tmp_path, "user.try", b"")
    except OSError:
        pytest.skip("this file system has no extended attributes")
    os.removexattr(tmp_path, "user.try")


@pytest.fixture
def replica(tmp_path):
    made = Replica(tmp_path, owners=ROOT, strip=not ROOT, xattrs=True)
    yield made
    made.close()


def shown(replica: Replica, name: bytes) -> dict[str, bytes]:
    path = replica / name
    return {n: os.getxattr(path, n) for n in os.listxattr(path) if n != "security.selinux"}


class TestValue:
    @pytest.mark.parametrize(
        "attributes",
        [{}, {b"user.a": b""}, {b"user.b": b"\0" * 1000, b"user.a\xff": b"x", b"user.": b"\xff"}],
    )
    def test_can_be_taken_apart_again(self, attributes):
        assert unpack(pack(attributes)) == attributes
        assert pack(dict(reversed(attributes.items()))) == pack(attributes)

    @pytest.mark.parametrize("size", [XATTRS_MAX, 10 * XATTRS_MAX])
    def test_of_too_much_is_none(self, size):
        assert pack({b"user.a": b"x" * size}) == UNTOLD

    @pytest.mark.parametrize(
        "packed",
        [UNTOLD, b"\x01", ONE[:-1], ONE + b"\0", ONE + ONE, TWO[18:] + ONE, b"\xff\xffuser"],
    )
    def test_of_another_shape_is_refused(self, packed):
        with pytest.raises(ValueError, match="attributes are"):
            unpack(packed)


class TestAttributes:
    def test_are_those_that_are_replicated(self):
        everything = (
            b"user.x", ACCESS.encode(), DEFAULT.encode(), b"security.capability",
            b"security.selinux", b"trusted.overlay.opaque", b"security.ima", b"system.nfs4_acl",
        )  # fmt: skip

        def ours(**who: bool) -> list[bytes]:
            return [name for name in everything if Attributes(**who).is_ours(name)]

        assert ours(owners=True, strip=False) == list(everything[:4])
        assert ours(owners=True, strip=True) == list(everything[:3])
        assert ours(owners=False, strip=True) == [b"user.x"]

    def test_are_read_by_descriptor_and_by_name(self, tmp_path):
        attributes = Attributes(owners=True, strip=False)
        (tmp_path / "f").write_bytes(b"")
        os.setxattr(tmp_path / "f", "user.one", b"1")
        fds = [os.open(tmp_path / "f", flags) for flags in (os.O_RDONLY, os.O_PATH)]
        parent = os.open(tmp_path, os.O_PATH)

        assert [attributes.of(fd) for fd in fds] == [ONE, ONE]
        assert attributes.at(parent, b"f") == ONE
        for fd in (*fds, parent):
            os.close(fd)

    def test_that_cannot_be_read_are_not_none(self, tmp_path, monkeypatch):
        def refuse(*args, **options):
            raise PermissionError(errno.EACCES, "no")

        os.setxattr(tmp_path, "user.one", b"1")
        fd = os.open(tmp_path, os.O_PATH)
        monkeypatch.setattr(os, "getxattr", refuse)

        assert Attributes(owners=True, strip=False).of(fd) == UNTOLD
        os.close(fd)

    def test_that_go_while_they_are_read_are_read_again(self, tmp_path, monkeypatch):
        get = os.getxattr
        os.setxattr(tmp_path, "user.one", b"1")
        os.setxattr(tmp_path, "user.two", b"1")

        def meanwhile(path, name, **options):
            if name == b"user.two":
                os.removexattr(tmp_path, "user.two")
            return get(path, name, **options)

        fd = os.open(tmp_path, os.O_PATH)
        monkeypatch.setattr(os, "getxattr", meanwhile)

        assert Attributes(owners=True, strip=False).of(fd) == ONE
        os.close(fd)

    def test_of_a_file_system_without_are_none(self, tmp_path, monkeypatch):
        def refuse(*args, **options):
            raise OSError(errno.EOPNOTSUPP, "no")

        for name in ("listxattr", "setxattr"):
            monkeypatch.setattr(os, name, refuse)
        fd = os.open(tmp_path, os.O_PATH)
        attributes = Attributes(owners=True, strip=False)

        assert attributes.of(fd) == b""
        assert attributes.set(fd, ONE).errno == errno.EOPNOTSUPP
        os.close(fd)

    def test_no_name_is_set_that_is_not_replicated(self, tmp_path):
        fd = os.open(tmp_path, os.O_PATH)
        evil = pack({b"trusted.overlay.opaque": b"y", b"user.one": b"1"})

        assert Attributes(owners=False, strip=True).set(fd, evil).errno == errno.EPERM
        assert Attributes(owners=False, strip=True).set(fd, b"nonsense").errno == errno.EINVAL
        assert os.listxattr(tmp_path) == ["user.one"]
        os.close(fd)


class TestTransitions:
    @pytest.mark.parametrize("mode", [0o644, 0o400])
    def test_a_file_is_made_with_them(self, replica, mode):
        wanted = file(b"text", mode)._replace(xattrs=TWO)

        (outcome,) = replica.apply(replica.put(b"f", wanted, b"text"))

        assert (outcome.status, outcome.unmet) == (APPLIED, False)
        assert outcome.entry == replica.look(b"f")
        assert outcome.entry.xattrs == TWO
        assert shown(replica, b"f") == {"user.one": b"2", "user.two": b""}

    def test_a_large_file_and_a_directory_too(self, replica):
        replica.helpers.stage(7, [b"1"], [b""])
        (replica.root / ".psync/stage/7/1").write_bytes(b"large")

        outcomes = replica.apply(
            replica.put(b"f", file(b"large")._replace(xattrs=ONE), source=b"7/1"),
            replica.put(b"d", directory(0o500)._replace(xattrs=TWO)),
        )

        assert [o.entry.xattrs for o in outcomes] == [ONE, TWO]
        assert outcomes[1].entry == replica.look(b"d")

    @pytest.mark.parametrize("new", [b"", ONE, TWO])
    def test_are_set_of_what_is_there(self, replica, new):
        replica.write(b"f", b"text")
        os.setxattr(replica / b"f", "user.one", b"1")
        os.setxattr(replica / b"f", "user.gone", b"1")
        old = replica.look(b"f")

        (outcome,) = replica.apply(replica.meta(b"f", old, old._replace(xattrs=new)))

        assert (outcome.status, outcome.unmet) == (APPLIED, False)
        assert outcome.entry == replica.look(b"f")._replace(digest=b"")
        assert outcome.entry.xattrs == new

    @pytest.mark.parametrize("name", [b"f", b"d"])
    def test_only_of_the_version_that_is_expected(self, replica, name):
        replica.write(b"f", b"text")
        (replica / b"d").mkdir()
        old = replica.look(name)
        os.setxattr(replica / name, "user.one", b"1")

        (outcome,) = replica.apply(replica.meta(name, old, old._replace(xattrs=TWO)))

        assert outcome.status == CHANGED
        assert outcome.entry.xattrs == ONE
        assert replica.look(name).xattrs == ONE

    @pytest.mark.parametrize("verb", ["put", "delete"])
    def test_that_somebody_sets_at_that_moment_are_kept(self, replica, verb):
        old = replica.write(b"f", b"old")
        fd = os.open(replica / b"f", os.O_RDONLY)
        replica.helpers.step = lambda at: at == "displaced" and os.setxattr(fd, "user.one", b"1")

        (outcome,) = replica.apply(
            replica.put(b"f", file(b"new"), b"new", old)
            if verb == "put"
            else replica.delete(b"f", old)
        )
        os.close(fd)

        assert outcome.status == CHANGED
        assert replica.tree() == {b"f": b"old"}
        assert replica.look(b"f").xattrs == ONE

    def test_move_along(self, replica):
        replica.write(b"f", b"text")
        os.setxattr(replica / b"f", "user.one", b"1")

        (outcome,) = replica.apply(replica.rename(b"f", replica.look(b"f"), b"g"))

        assert outcome.entry.xattrs == ONE

    def test_of_a_link_are_none(self, replica):
        (outcome,) = replica.apply(replica.put(b"l", link(b"target")))

        assert outcome.entry == replica.look(b"l")
        assert not outcome.unmet

    def test_of_a_linked_file_stay_with_its_other_name(self, replica):
        replica.write(b"f", b"text")
        os.setxattr(replica / b"f", "user.one", b"1")
        os.link(replica / b"f", replica / b"g")
        old = replica.look(b"f")

        (outcome,) = replica.apply(replica.meta(b"f", old, old._replace(xattrs=TWO)))

        assert outcome.entry.xattrs == TWO
        assert replica.look(b"g").xattrs == ONE

    @pytest.mark.parametrize("verb", ["put", "meta"])
    def test_a11_that_cannot_be_set_keep_no_content_back(self, replica, monkeypatch, verb):
        def refuse(*args, **options):
            raise OSError(errno.EOPNOTSUPP, "no")

        monkeypatch.setattr(os, "setxattr", refuse)
        old = replica.write(b"f", b"old")
        wanted = file(b"new")._replace(xattrs=ONE)

        (outcome,) = replica.apply(
            replica.put(b"f", wanted, b"new", old)
            if verb == "put"
            else replica.meta(b"f", old, old._replace(xattrs=ONE))
        )

        assert (outcome.status, outcome.unmet) == (APPLIED, True)
        assert outcome.entry.xattrs == b""
        assert "such as the attributes of f:" in replica.helpers.unheld or verb == "put"

    def test_that_are_too_large_are_left_alone(self, replica):
        replica.write(b"f", b"text")
        os.setxattr(replica / b"f", "user.one", b"1")
        old = replica.look(b"f")

        (outcome,) = replica.apply(replica.meta(b"f", old, old._replace(xattrs=UNTOLD)))

        assert (outcome.status, outcome.unmet) == (APPLIED, True)
        assert outcome.entry.xattrs == ONE

    def test_beyond_all_bounds_are_refused(self, replica):
        wanted = file(b"")._replace(xattrs=b"x" * (XATTRS_MAX + 1))

        (outcome,) = replica.apply(replica.put(b"f", wanted, b""))

        assert outcome.status == FAILED

    def test_a12_what_is_not_replicated_stays_with_a_replaced_file(self, tmp_path):
        replica = Replica(tmp_path)
        old = replica.write(b"f", b"old")
        os.setxattr(replica / b"f", "user.one", b"1")
        old = replica.look(b"f")

        (outcome,) = replica.apply(replica.put(b"f", file(b"new", 0o600), b"new", old))

        assert outcome.entry == replica.look(b"f")
        assert shown(replica, b"f") == {"user.one": b"1"}
        replica.close()


@pytest.mark.skipif(not ROOT, reason="ACLs are replicated between agents of root")
class TestAcls:
    def test_and_mode_are_set_together(self, replica):
        wanted = file(b"text", 0o660)._replace(xattrs=pack({ACCESS.encode(): acl(1234, 6, 6)}))

        (outcome,) = replica.apply(replica.put(b"f", wanted, b"text"))

        assert (outcome.status, outcome.unmet) == (APPLIED, False)
        assert outcome.entry == replica.look(b"f")
        assert shown(replica, b"f") == {ACCESS: acl(1234, 6, 6)}

    def test_come_and_go(self, replica):
        replica.write(b"f", b"text", 0o640)
        for value, mode in ((acl(1234, 6, 6), 0o660), (acl(1, 4, 4), 0o640), (b"", 0o600)):
            old = replica.look(b"f")
            xattrs = pack({ACCESS.encode(): value}) if value else b""
            wanted = old._replace(mode=mode, xattrs=xattrs)

            (outcome,) = replica.apply(replica.meta(b"f", old, wanted))

            assert (outcome.status, outcome.unmet) == (APPLIED, False)
            assert outcome.entry[:6] == wanted[:6]
            assert replica.look(b"f").xattrs == xattrs

    def test_default_ones_are_a_directorys(self, replica):
        xattrs = pack({DEFAULT.encode(): acl(1234, 6, 6)})

        outcomes = replica.apply(
            replica.put(b"d", directory()._replace(xattrs=xattrs)),
            replica.put(b"d/f", file(b"", 0o600), b""),
        )

        assert [o.unmet for o in outcomes] == [False, False]
        assert shown(replica, b"d") == {DEFAULT: acl(1234, 6, 6)}
        assert shown(replica, b"d/f") == {}  # as it is over there

    def test_that_our_own_directory_inherits_are_not_given_on(self, tmp_path):
        os.setxattr(tmp_path, DEFAULT, acl(1234, 6, 6))
        replica = Replica(tmp_path, owners=True, strip=False, xattrs=True)

        outcomes = replica.apply(
            replica.put(b"f", file(b"text", 0o644), b"text"), replica.put(b"d", directory(0o755))
        )

        assert [(o.entry.mode, o.unmet) for o in outcomes] == [(0o644, False), (0o755, False)]
        assert shown(replica, b"f") == shown(replica, b"d") == {}
        replica.close()

    def test_that_are_not_replicated_stay_with_a_replaced_file(self, tmp_path):
        replica = Replica(tmp_path)
        replica.write(b"f", b"old", 0o640)
        os.setxattr(replica / b"f", ACCESS, acl(1234, 4, 4))
        old = replica.look(b"f")

        replica.apply(replica.put(b"f", file(b"new", 0o600), b"new", old))

        assert stat.S_IMODE((replica / b"f").stat().st_mode) == 0o600
        assert shown(replica, b"f") == {ACCESS: acl(1234, 4, 0)}
        replica.close()

    def test_capabilities_where_special_bits_are_replicated(self, replica, tmp_path: Path):
        capability = struct.pack("<IIIII", 0x02000000, 0x400, 0, 0, 0)
        wanted = file(b"", 0o755)._replace(xattrs=pack({b"security.capability": capability}))

        (outcome,) = replica.apply(replica.put(b"f", wanted, b""))

        assert not outcome.unmet
        assert os.getxattr(tmp_path / "f", "security.capability") == capability
