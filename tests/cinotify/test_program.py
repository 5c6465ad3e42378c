"""cinotify as a program: how it starts, prints for people, and ends; the shim; the build."""

from __future__ import annotations

import array
import os
import platform
import re
import socket
import struct
import subprocess
from pathlib import Path

import pytest

import native
from tests.cinotify.harness import PATIENCE_S


def run(*command: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE_S, check=False, **options
    )


class TestStart:
    def test_takes_the_root_as_a_descriptor(self, binary, root):
        fd = os.open(root, os.O_PATH | os.O_DIRECTORY)
        done = run(binary, "--root-fd", str(fd), "--text", pass_fds=[fd], stdin=subprocess.DEVNULL)
        os.close(fd)

        assert (done.returncode, done.stderr) == (0, "")

    @pytest.mark.parametrize(
        "arguments",
        [[], ["a", "b"], ["--root-fd", "x"], ["--root-fd", "-1"], ["--root-fd", "0", "a"], ["--z"]],
    )
    def test_refuses_other_arguments(self, binary, arguments):
        done = run(binary, *arguments)

        assert done.returncode == 1
        assert "usage: cinotify" in done.stderr
        assert done.stdout == ""

    def test_says_why_a_root_cannot_be_watched(self, binary, tmp_path):
        (tmp_path / "file").touch()

        assert "No such file" in run(binary, str(tmp_path / "none")).stderr
        assert "Not a directory" in run(binary, str(tmp_path / "file")).stderr

    def test_says_why_no_watcher_can_be_made(self, binary, root):
        script = 'echo 0 > /proc/sys/user/max_inotify_instances && exec "$@"'
        done = run(
            *("unshare", "--user", "--map-root-user", "sh", "-c", script, "sh", binary, str(root))
        )

        assert done.returncode == 1
        assert done.stderr.startswith("cinotify: cannot watch: ")

    def test_explains_itself(self, binary):
        assert "usage: cinotify" in run(binary, "--help").stdout


class TestEnd:
    def test_with_its_stdin(self, start):
        assert start().end() == 0

    def test_with_its_reader_while_idle(self, start):
        watcher = start()

        watcher.process.stdout.close()

        assert watcher.process.wait(PATIENCE_S) == 0

    def test_with_its_reader_while_it_has_much_to_say(self, start, root):
        for n in range(3000):
            (root / f"{n}").mkdir()
        watcher = start(scanned=False)
        next(watcher.frames())

        watcher.process.stdout.close()

        assert watcher.process.wait(PATIENCE_S) == 0

    def test_keeps_no_directory_open_when_idle(self, start, root):
        (root / "a" / "b").mkdir(parents=True)
        watcher = start()
        watcher.told()

        links = Path(f"/proc/{watcher.process.pid}")
        held = {os.readlink(p) for p in (links / "fd").iterdir()}

        assert {p for p in held if p.startswith("/") and Path(p).is_dir()} == {str(root)}
        assert os.readlink(links / "cwd") == str(root)


class TestText:
    def test_is_a_line_an_event(self, binary, root):
        (root / "d").mkdir()
        (root / "x\ny:z").touch()
        process = subprocess.Popen(
            [binary, "--text", "--separator", ":", str(root)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        lines = [process.stdout.readline() for _ in range(3)]
        (root / "x\ny:z").rename(root / "d" / "é")
        lines.append(process.stdout.readline())
        (root / "d").rmdir() if not os.listdir(root / "d") else (root / "d" / "é").unlink()
        lines.append(process.stdout.readline())
        process.stdin.close()
        assert process.wait(PATIENCE_S) == 0
        process.stdout.close()

        digest = "[0-9a-f]{32}"
        assert re.fullmatch(f"SCANNED::2:{digest}:\n", lines[0])
        assert re.fullmatch(f"SCANNED:d:0:{digest}:\n", lines[1])
        assert lines[2:] == [
            "WATCHING:1:2:2:0:\n",
            "MOVE:x\\012y\\072z:d/\\303\\251:\n",
            "DELETE:d/\\303\\251:\n",
        ]


@pytest.fixture(scope="module", params=["release", "checked"])
def shim(request, checked_dir) -> str:
    if request.param == "release":
        native.build()
        return str(native.BIN / f"psync-rsh-{platform.machine()}")
    return str(native.build_checked(checked_dir)[1])


class TestShim:
    @pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_SEQPACKET])
    @pytest.mark.parametrize("status", [0, 23, 255])
    def test_hands_over_arguments_and_both_ends(self, shim, kind, status):
        ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
        arguments = ["host", "rsync", "--server", "-e.LsfxC", "", ".", "a b\n"]
        with ours, theirs:
            process = subprocess.Popen(
                [shim, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=[theirs.fileno()],
                env={"PSYNC_RSH_FD": str(theirs.fileno())},
            )
            data, ancillary, _, _ = ours.recvmsg(65536, socket.CMSG_SPACE(2 * 4))
            fds = array.array("i", ancillary[0][2]).tolist()
            process.stdin.write(b"to the server")
            process.stdin.close()
            os.write(fds[1], b"from the server")
            os.close(fds[1])

            assert data == b"".join(os.fsencode(a) + b"\0" for a in arguments)
            assert os.read(fds[0], 100) == b"to the server"
            assert process.stdout.read() == b"from the server"  # to its end: the shim holds none
            assert process.poll() is None

            os.close(fds[0])
            ours.send(bytes([status]))
            assert process.wait(PATIENCE_S) == status
            process.stdout.close()

    def test_is_lost_when_psync_goes_away(self, shim):
        ours, theirs = socket.socketpair()
        process = subprocess.Popen(
            [shim, "host", "rsync"],
            pass_fds=[theirs.fileno()],
            env={"PSYNC_RSH_FD": str(theirs.fileno())},
        )
        theirs.close()
        ours.recv(100)
        ours.close()

        assert process.wait(PATIENCE_S) == 255

    @pytest.mark.parametrize("value", [None, "", "x", "-1", "99"])
    def test_is_lost_without_psync(self, shim, value):
        done = run(shim, "host", env={} if value is None else {"PSYNC_RSH_FD": value})

        assert done.returncode == 255
        assert done.stderr.startswith("psync-rsh: ")

    def test_sends_arguments_larger_than_a_socket_takes_at_once(self, shim):
        ours, theirs = socket.socketpair()
        arguments = ["x" * 100_000] * 10
        with ours, theirs:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            process = subprocess.Popen(
                [shim, *arguments],
                pass_fds=[theirs.fileno()],
                env={"PSYNC_RSH_FD": str(theirs.fileno())},
            )
            received = 0
            descriptors = b""
            while received < 10 * 100_001:
                data, ancillary, _, _ = ours.recvmsg(65536, socket.CMSG_SPACE(2 * 4))
                received += len(data)
                descriptors += b"".join(part[2] for part in ancillary)
            ours.send(b"\0")

            assert process.wait(PATIENCE_S) == 0
            assert len(descriptors) == 2 * 4
            for fd in struct.unpack("ii", descriptors):
                os.close(fd)


class TestBuild:
    def test_makes_static_programs_that_carry_the_machines_name(self, tmp_path):
        programs = native.build(tmp_path, machine="toaster")

        assert [p.name for p in programs] == ["cinotify-toaster", "psync-rsh-toaster"]
        assert all(os.access(p, os.X_OK) for p in programs)
        assert sorted(p.name for p in tmp_path.iterdir()) == sorted(p.name for p in programs)

    def test_leaves_fresh_programs_alone(self, tmp_path):
        first = [p.stat().st_ino for p in native.build(tmp_path)]

        assert [p.stat().st_ino for p in native.build(tmp_path)] == first

    def test_says_what_the_compiler_said(self, tmp_path):
        source = tmp_path / "bad.c"
        source.write_text("int main(void) { return nonsense; }\n")

        with pytest.raises(native.BuildError, match="nonsense"):
            native.compile_program([source], tmp_path / "bad", "gcc")
        with pytest.raises(native.BuildError, match="no-such-compiler"):
            native.build(tmp_path / "none", cc="no-such-compiler")
        assert not (tmp_path / "bad").exists()
