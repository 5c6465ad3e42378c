"""Small content in frames, large by rsync, never torn, never in part (point 4 and 5)."""

from __future__ import annotations

import hashlib
import os
import threading
import time

import pytest

from tests.e2e.pair import Pair, tree, until

MIB = 1 << 20


class TestSizes:
    @pytest.mark.parametrize("side", ["left", "right"])
    def test_around_every_border(self, watching: Pair, side: str) -> None:
        root = watching.root(side)
        for size in (0, 1, 4095, 4096, 65535, 262143, 262144, 262145, MIB, 5 * MIB + 3):
            (root / f"s{size}").write_bytes(os.urandom(size))

        after = watching.settle()

        assert len(after) == 10

    @pytest.mark.parametrize("side", ["left", "right"])
    def test_large_file_changed_in_the_middle(self, watching: Pair, side: str) -> None:
        file = watching.root(side) / "large"
        other = watching.root("right" if side == "left" else "left") / "large"
        file.write_bytes(os.urandom(20 * MIB))
        watching.settle()
        for at in (0, 7 * MIB, 20 * MIB - 1):
            with file.open("r+b") as f:
                f.seek(at)
                f.write(os.urandom(min(MIB, 20 * MIB - at)))
            watching.settle()
        with file.open("ab") as f:
            f.write(b"appended")
        watching.settle()
        os.truncate(file, MIB)
        watching.settle()
        file.write_bytes(b"small now")

        assert watching.settle()[b"large"][-1] == b"small now"
        assert other.read_bytes() == b"small now"
        until(lambda: not watching.leftovers(), "empty staging")

    def test_many_large_files_at_once(self, watching: Pair) -> None:
        for i in range(60):
            root = watching.left if i % 2 else watching.right
            (root / f"large {i}\n").write_bytes(os.urandom(300_000 + i))

        assert len(watching.settle()) == 60
        until(lambda: not watching.leftovers(), "empty staging")


class TestSparse:
    @pytest.mark.parametrize(
        ("where", "side"), [("local", "left"), ("pair", "left"), ("pair", "right")]
    )
    def test_w14_files_keep_their_holes(
        self, side: str, where: str, request: pytest.FixtureRequest
    ) -> None:
        both: Pair = request.getfixturevalue(where)
        both.start()
        file = both.root(side) / "image"
        other = both.root("right" if side == "left" else "left") / "image"

        def change(at: int, content: bytes, size: int) -> None:
            with file.open("r+b" if file.exists() else "wb") as stream:
                stream.seek(at)
                stream.write(content)
                stream.truncate(size)
            both.settle()
            assert other.stat().st_blocks * 512 < 4 * MIB

        change(20 * MIB, os.urandom(MIB), 64 * MIB)  # new
        change(40 * MIB, os.urandom(MIB), 64 * MIB)  # a difference
        change(40 * MIB, bytes(MIB), 128 * MIB)  # what was data is zeros, and the file has grown
        change(0, b"begin", 30 * MIB)  # the hole at its end is where there was data
        until(lambda: not both.leftovers(), "empty staging")


class TestReaders:
    def test_see_the_old_or_the_new_file_whole(self, watching: Pair) -> None:
        """A reader on the other side never sees a part, and never a gap."""
        versions = [bytes([i]) * size for i, size in enumerate((10, 300_000, 5, 400_000, 100_000))]
        digests = {hashlib.sha256(v).digest() for v in versions}
        (watching.left / "f").write_bytes(versions[0])
        watching.settle()
        wrong: list[str] = []
        stop = threading.Event()

        def read() -> None:
            while not stop.is_set():
                try:
                    data = (watching.right / "f").read_bytes()
                except FileNotFoundError:
                    wrong.append("a gap")
                    continue
                if hashlib.sha256(data).digest() not in digests:
                    wrong.append(f"{len(data)} bytes of nothing that was ever written")

        reader = threading.Thread(target=read)
        reader.start()
        try:
            for version in versions[1:] * 4:
                aside = watching.left / "aside"
                aside.write_bytes(version)
                os.replace(aside, watching.left / "f")
                watching.flush()
        finally:
            stop.set()
            reader.join()

        assert wrong == []


class TestTorn:
    def test_w07_file_that_is_always_written_is_never_published_in_part(
        self, watching: Pair
    ) -> None:
        """Each version is one byte, repeated: two different bytes in a copy are a torn read."""
        file = watching.left / "busy"
        stop = threading.Event()
        written = [0]

        def write() -> None:
            while not stop.wait(0.02):
                written[0] += 1
                aside = watching.left / "busy.aside"
                aside.write_bytes(bytes([written[0] % 256]) * 600_000)
                os.replace(aside, file)

        writer = threading.Thread(target=write)
        writer.start()
        torn = []
        seen: set[bytes] = set()
        try:
            deadline = threading.Event()
            for _ in range(100):
                deadline.wait(0.05)
                try:
                    data = (watching.right / "busy").read_bytes()
                except FileNotFoundError:
                    continue
                seen.add(data[:1])
                if len(set(data)) != 1 or len(data) != 600_000:
                    torn.append((len(data), sorted(set(data))))
        finally:
            stop.set()
            writer.join()
        assert torn == []
        assert len(seen) > 1, "nothing was replicated while it was being written"

        after = watching.settle()

        assert set(after[b"busy"][-1]) == {written[0] % 256}

    def test_log_that_stays_open_follows(self, watching: Pair) -> None:
        assert watching.stop() == 0
        watching.options = ["--set", "max_delay=1"]
        watching.start()
        with (watching.left / "log").open("ab", buffering=0) as log:
            for i in range(10):
                log.write(b"line %d\n" % i)
            until(
                lambda: tree(watching.right).get(b"log", (b"",))[-1].count(b"\n") == 10,
                "the log on the other side",
            )
            log.write(b"last\n")
            assert watching.settle()[b"log"][-1].endswith(b"last\n")


class TestInUse:
    @pytest.mark.parametrize("side", ["left", "right"])
    def test_w08_lines_of_a_log_that_stays_open_are_kept_when_the_other_side_edits_it(
        self, pair: Pair, side: str
    ) -> None:
        here, there = pair.root(side), pair.root("right" if side == "left" else "left")
        pair.options = ["--set", "max_delay=0.5"]
        pair.start()
        (here / "log").write_text("first\n")
        pair.settle()
        with (here / "log").open("ab", buffering=0) as log:
            log.write(b"line 0\n")
            (there / "log").write_text("edited over there\n")
            for number in range(1, 16):  # three times max_delay
                time.sleep(0.1)
                log.write(b"line %d\n" % number)
            assert (here / "log").read_bytes().endswith(b"line 15\n")
            log.write(b"last\n")

        after = pair.settle()

        kept = pair.conflicts("left") + pair.conflicts("right")
        assert b"edited over there\n" in [after[b"log"][-1], *kept]
        lines = b"first\n" + b"".join(b"line %d\n" % n for n in range(16)) + b"last\n"
        assert lines in [after[b"log"][-1], *kept]

    def test_late_write_into_a_replaced_file_is_kept(self, pair: Pair) -> None:
        pair.options = ["--set", "quarantine=1"]
        pair.start()
        (pair.right / "f").write_text("old")
        pair.settle()
        descriptor = os.open(pair.right / "f", os.O_RDONLY)  # a reader is in nobody's way
        (pair.left / "f").write_text("new")
        pair.settle()
        late = os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_APPEND)
        os.write(late, b" and a late line")
        os.close(late)
        os.close(descriptor)

        until(lambda: pair.conflicts("right"), "the late write among the conflicts")

        assert pair.conflicts("right") == [b"old and a late line"]
        assert pair.settle()[b"f"][-1] == b"new"
        until(lambda: pair.status()["conflicts"] == 1, "the count of conflicts")


def test_a_root_inside_keeps_its_own_business(pair: Pair) -> None:
    """Another pair's root inside of ours: its `.psync` is neither copied nor removed."""
    inner = pair.left / "inner"
    (inner / ".psync").mkdir(parents=True)
    (inner / ".psync/marker").write_text("another pair's")
    (inner / "f").write_text("f")
    pair.start()
    (pair.left / "late/.psync").mkdir(parents=True)
    (pair.left / "late/.psync/marker").write_text("another pair's")
    pair.flush()

    assert set(tree(pair.right)) == {b"inner", b"inner/f", b"late"}
    (inner / "f").unlink()
    pair.flush()
    assert set(tree(pair.right)) == {b"inner", b"late"}
    assert (inner / ".psync/marker").exists()
