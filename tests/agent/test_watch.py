"""What cinotify says comes out as events, whatever pieces it comes in; nonsense ends it."""

from __future__ import annotations

import os
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from psync.watch import Cinotify

FRAME_MAX = 1 << 20

paths = st.binary(max_size=20)
u32 = st.integers(0, (1 << 32) - 1)


def frame(kind: str, body: bytes) -> bytes:
    return struct.pack("<IB", 1 + len(body), ord(kind)) + body


def encode(event: tuple) -> bytes:
    """The frame of an event, as `cinotify/frame.c` makes it."""
    kind, *values = event
    if kind == "E":
        body = struct.pack("<I", values[0]) + values[1]
    elif kind == "D":
        body = struct.pack("<B16sI", values[0], values[1], values[2]) + values[3]
    elif kind == "M":
        body = struct.pack("<BI", values[0], len(values[1])) + values[1] + values[2]
    elif kind == "S":
        body = struct.pack("<IQQQ", 0, *values)
    elif kind == "X":
        body = struct.pack("<i", values[0]) + values[1]
    elif kind in "OU":
        body = b""
    else:
        body = values[0]
    return frame(kind, body)


u64 = st.integers(0, (1 << 64) - 1)
events = st.one_of(
    st.tuples(st.just("E"), u32, paths),
    st.tuples(st.just("D"), st.booleans(), st.binary(min_size=16, max_size=16), u32, paths),
    st.tuples(st.just("M"), st.booleans(), paths, paths),
    st.tuples(st.just("S"), u64, u64, u64),
    st.tuples(st.just("X"), st.integers(-(1 << 31), (1 << 31) - 1), paths),
    st.tuples(st.sampled_from("OU")),
    st.tuples(st.sampled_from("LNB"), paths),
)
frames = st.builds(frame, st.sampled_from("EDMSXOULNB?"), st.binary(max_size=30))
FIELDS = {
    "E": (int, bytes), "D": (bool, bytes, int, bytes), "M": (bool, bytes, bytes),
    "S": (int, int, int), "X": (int, bytes), "O": (), "U": (), "L": (bytes,), "N": (bytes,),
    "B": (bytes,),
}  # fmt: skip


class Stream(Cinotify):
    """The program's reader, with a pipe of the test's in place of the program."""

    def __init__(self) -> None:
        self.fd, self._writer = os.pipe()
        os.set_blocking(self.fd, False)
        self._buffer = b""

    def feed(self, data: bytes) -> list[tuple]:
        os.write(self._writer, data)
        return self.read()

    def close(self) -> None:
        os.close(self.fd)
        os.close(self._writer)


@pytest.fixture
def stream():
    made = Stream()
    yield made
    made.close()


class TestStream:
    @given(st.lists(events, max_size=8), st.integers(1, 40))
    def test_gives_events_however_they_arrive(self, several, step):
        stream = Stream()
        data = b"".join(map(encode, several))

        got = []
        for at in range(0, len(data), step):
            got += stream.feed(data[at : at + step])

        assert got == several
        stream.close()

    @pytest.mark.parametrize(
        "data",
        [
            pytest.param(struct.pack("<IB", 0, 69), id="nothing"),
            pytest.param(struct.pack("<IB", FRAME_MAX + 1, 69), id="a frame beyond all bounds"),
            pytest.param(frame("?", b"path"), id="a kind that does not exist"),
            pytest.param(frame("E", b"\0\0\0"), id="an event without its mask"),
            pytest.param(frame("D", b"\0" * 20), id="half of a directory"),
            pytest.param(frame("M", b"\0" * 4), id="a rename without its length"),
            pytest.param(
                frame("M", struct.pack("<BI", 0, 5) + b"path"), id="a rename cut in its old path"
            ),
            pytest.param(frame("S", b"\0" * 27), id="a scan without all counts"),
            pytest.param(frame("X", b"\0"), id="trouble without a number"),
        ],
    )
    def test_ends_with_nonsense_and_does_not_take_it_from_the_next_frame(self, stream, data):
        with pytest.raises(EOFError, match="nonsense"):
            stream.feed(data + encode(("E", 1, b"next")) * 3)

    @given(
        st.lists(st.one_of(events.map(encode), frames, st.binary(max_size=9)), max_size=6),
        st.data(),
    )
    def test_gives_events_or_ends_whatever_comes(self, pieces, data):
        noise = bytearray(b"".join(pieces))
        for _ in range(data.draw(st.integers(0, 2)) if noise else 0):
            noise[data.draw(st.integers(0, len(noise) - 1))] = data.draw(st.integers(0, 255))
        stream = Stream()
        try:
            got = stream.feed(bytes(noise)) if noise else []
        except EOFError:
            got = []
        finally:
            stream.close()

        for kind, *values in got:
            assert tuple(map(type, values)) == FIELDS[kind]
