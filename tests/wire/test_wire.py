"""Frames: what goes in comes out, two codecs agree byte for byte, and no peer can do harm.

`fast` is the module as the brain has it, `bare` the same file loaded where msgspec is missing,
as on a bare host. Named tuples are equal if their fields are, whichever module made them.
"""

from __future__ import annotations

import importlib.util
import random
import struct
import sys
from types import ModuleType
from typing import Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psync import wire as fast
from psync.core.entry import Entry, Kind
from psync.errors import AgentError


def without_msgspec() -> ModuleType:
    """Load the module anew, as it is where msgspec cannot be imported."""
    spec = importlib.util.spec_from_file_location("psync_wire_bare", fast.__file__)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its hints are looked up, when they are needed
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "msgspec", None)
        spec.loader.exec_module(module)
    assert not module._HAS_FAST
    return module


bare = without_msgspec()
MODULES = {"fast": fast, "bare": bare}


@pytest.fixture(params=MODULES)
def wire(request) -> ModuleType:
    return MODULES[request.param]


# --- how to make any message -----------------------------------------------------------------

integers = st.one_of(
    st.integers(-(1 << 63), (1 << 64) - 1),
    st.sampled_from(
        [n + d for n in (0, 32, 128, 256, 1 << 15, 1 << 16, 1 << 31, 1 << 32) for d in (-1, 0)]
        + [-n - d for n in (32, 128, 1 << 15, 1 << 31) for d in (0, 1)]
    ),
)
LEAVES = {
    int: integers,
    bool: st.booleans(),
    str: st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    bytes: st.binary(max_size=40),
}


def values(hint):
    """Make a strategy for everything that a type hint of a message allows."""
    if hint in LEAVES:
        return LEAVES[hint]
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Union:
        return st.none() | values(arguments[0])
    if origin is list:
        return st.lists(values(arguments[0]), max_size=4)
    if origin is tuple:
        return st.tuples(*[values(a) for a in arguments])
    hints = get_type_hints(hint)
    return st.builds(hint, *[values(hints[name]) for name in hint._fields])


EACH = {code: values(cls) for code, cls in fast.messages.items()}
any_message = st.one_of(*EACH.values())
plain = st.recursive(
    st.none() | integers | st.booleans() | LEAVES[str] | LEAVES[bytes],
    lambda inner: st.lists(inner, max_size=6),
    max_leaves=20,
)

FILE = Entry(Kind.FILE, 0o644, 0, 0, 3, -1, b"", b"d" * 16, 7, 8)
ITEM = fast.Item(b"a/b", FILE, b"abc", b"old", fast.META_ONLY)


def frame(code: int, body: bytes) -> bytes:
    return struct.pack(">IB", len(body), code) + body


def alike(message):
    """The same message of the other module's class, for `encode` to know its type."""
    return getattr(bare, type(message).__name__)(*message)


def decoded(wire: ModuleType, code: int, body: bytes):
    """What a frame means, or None if it is refused; anything but AgentError is let through."""
    try:
        (message,) = wire.Framer().feed(frame(code, body))
    except AgentError:
        return None
    return message


# --- tests -----------------------------------------------------------------------------------


class TestMessages:
    def test_have_one_code_each(self):
        assert set(fast.messages.values()) == set(get_args(fast.Message))
        assert len(fast._codes) == len(fast.messages)
        assert all(0 < code < 256 for code in fast.messages)

    @pytest.mark.parametrize("code", EACH, ids=lambda code: fast.messages[code].__name__)
    def test_come_out_as_they_went_in(self, code):
        @settings(max_examples=30)
        @given(EACH[code])
        def check(message):
            data = fast.encode(message)
            assert data == bare.encode(alike(message))
            for wire in MODULES.values():
                (got,) = wire.Framer().feed(data)
                assert got == message
                assert type(got) is wire.messages[code]

        check()

    def test_give_back_their_nested_values_as_what_they_are(self, wire):
        (got,) = wire.Framer().feed(fast.encode(fast.Observed([ITEM])))

        assert type(got.items[0]) is wire.Item
        assert type(got.items[0].entry) is Entry
        assert got.items[0].entry.same_identity(FILE)

    def test_may_lack_fields_that_have_defaults(self, wire):
        # An older peer that does not know the newest field yet.
        assert decoded(wire, 17, b"\x92\xc4\x01a\xc4\x01b") == (b"a", b"b", True)

    @pytest.mark.parametrize("size", [0, 15, 16, 31, 32, 255, 256, 65535, 65536])
    def test_hold_fields_of_any_length(self, wire, size):
        for message in (
            fast.Trouble("c" * size, b"p", ""),
            fast.Ready(b"p" * size, 1, 2, "", "", True, ""),
            fast.List_([b""] * size),
        ):
            data = fast.encode(message)
            assert wire.encode(getattr(wire, type(message).__name__)(*message)) == data
            assert wire.Framer().feed(data) == [message]


class TestEncode:
    @given(plain)
    def test_packs_as_msgspec_does(self, value):
        assert bare._pure_encode(value) == fast._encode_body(value)

    @pytest.mark.parametrize(
        "value", [1.5, {}, {1: 2}, object()], ids=["1.5", "{}", "{1: 2}", "object"]
    )
    def test_refuses_what_a_frame_cannot_hold(self, value):
        with pytest.raises(TypeError, match=f"cannot hold a {type(value).__name__}"):
            bare._pure_encode([value])

    def test_refuses_a_message_that_is_too_long(self, wire, monkeypatch):
        monkeypatch.setattr(wire, "FRAME_MAX", 1000)
        fits = wire.Log(1, "x" * 995)  # an array's, an integer's and a string's head: 5 bytes
        assert len(wire.encode(fits)) == 1000 + 5

        with pytest.raises(AgentError, match="a Log of 1001 bytes does not fit"):
            wire.encode(wire.Log(1, "x" * 996))


class TestUnpack:
    @given(plain)
    def test_undoes_pack(self, value):
        data = bare._pure_encode(value)
        assert bare._unpack(data, 0, 0) == (value, len(data))

    @given(plain, st.data())
    def test_refuses_everything_cut_short(self, value, data):
        packed = bare._pure_encode([value])
        cut = data.draw(st.integers(0, len(packed) - 1))

        with pytest.raises((IndexError, struct.error)):
            bare._unpack(packed[:cut], 0, 0)

    def test_refuses_deep_nesting(self):
        assert bare._unpack(b"\x91" * 8 + b"\xc0", 0, 0)[1] == 9
        with pytest.raises(ValueError, match="too deep"):
            bare._unpack(b"\x91" * 9 + b"\xc0", 0, 0)

    def test_makes_no_room_for_what_is_only_announced(self):
        with pytest.raises(IndexError, match="cut short"):
            bare._unpack(b"\xdd\xff\xff\xff\xff", 0, 0)


class TestFramer:
    def test_gives_messages_however_they_arrive(self, wire):
        sent = [wire.Ping(1), wire.Rescan(), wire.Log(20, "x" * 300), wire.Pong(2, -1), wire.Stop()]
        data = b"".join(map(wire.encode, sent))
        for step in (1, 2, 4, 5, 7, 100, len(data)):
            framer = wire.Framer()
            got = []
            for at in range(0, len(data), step):
                got += framer.feed(data[at : at + step])
            assert got == sent, step

    def test_refuses_a_length_before_anything_of_it_arrives(self, wire):
        framer = wire.Framer()
        assert framer.feed(struct.pack(">IB", wire.FRAME_MAX, 76)) == []

        with pytest.raises(AgentError, match=f"announced a frame of {wire.FRAME_MAX + 1} bytes"):
            wire.Framer().feed(struct.pack(">IB", wire.FRAME_MAX + 1, 76))

    @pytest.mark.parametrize("code", [0, 23, 64, 85, 255])
    def test_refuses_an_unknown_type(self, wire, code):
        with pytest.raises(AgentError, match=f"unknown type {code}"):
            wire.Framer().feed(frame(code, b"\x90"))

    def test_gives_what_was_whole_before_the_fault_first(self, wire):
        framer = wire.Framer()
        assert framer.feed(wire.encode(wire.Ping(1)) + frame(0, b"") + b"more") == [(1,)]

        for data in (b"", wire.encode(wire.Ping(2))):  # it stays refused
            with pytest.raises(AgentError, match="unknown type 0"):
                framer.feed(data)

    @pytest.mark.parametrize(
        ("code", "body"),
        [
            pytest.param(76, b"", id="nothing"),
            pytest.param(76, b"\xc1", id="a tag that does not exist"),
            pytest.param(76, b"\x01", id="no array"),
            pytest.param(76, b"\x90", id="a field too few"),
            pytest.param(76, b"\x92\x01\x01", id="a field too many"),
            pytest.param(76, b"\x92\x01", id="an array cut short"),
            pytest.param(76, b"\xdc\x00", id="an array's length cut short"),
            pytest.param(76, b"\xdd\xff\xff\xff\xff", id="an array that is not there"),
            pytest.param(76, b"\x91\x01\x01", id="bytes behind the message"),
            pytest.param(76, b"\x91\xcd\x01", id="a number cut short"),
            pytest.param(76, b"\x91\xa1a", id="text for a number"),
            pytest.param(76, b"\x91\xc3", id="a truth for a number"),
            pytest.param(76, b"\x91\xc0", id="nothing for a number"),
            pytest.param(76, b"\x91\xcb" + struct.pack(">d", 1.0), id="a float for a number"),
            pytest.param(76, b"\x81\xa5token\x01", id="a map"),
            pytest.param(76, b"\xd4\x01\x00", id="an extension"),
            pytest.param(76, b"\x91" * 100_000, id="deep nesting"),
            pytest.param(76, b"\xdc\x00\x01" * 100_000, id="deep nesting of long arrays"),
            pytest.param(16, b"\x92\x01\xa1\xff", id="text that is no UTF-8"),
            pytest.param(16, b"\x92\x01\xa3\xed\xb2\x80", id="text with a surrogate"),
            pytest.param(16, b"\x92\x01\xa5a", id="text cut short"),
            pytest.param(16, b"\x92\x01\xda\x01", id="a text's length cut short"),
            pytest.param(16, b"\x92\x01\xc4\x01a", id="bytes for text"),
            pytest.param(66, b"\x91\xc4\x01a", id="bytes for text alone"),
            pytest.param(67, b"\x91\x01", id="a number for a list"),
            pytest.param(67, b"\x91\x91\x01", id="a number in a list of bytes"),
            pytest.param(67, b"\x91\x91\xa1a", id="text in a list of bytes"),
            pytest.param(67, b"\x91\x91\xc4\x05a", id="bytes cut short"),
            pytest.param(67, b"\x91\x91\xc6\x00", id="a length of bytes cut short"),
            pytest.param(4, b"\x92\x01\x91\x01", id="a number for a pair"),
            pytest.param(4, b"\x92\x01\x91\x91\xc4\x01a", id="half a pair"),
            pytest.param(7, b"\x91\x91\x92\xc4\x01a\x90", id="an empty entry"),
            pytest.param(12, b"\x92\x01\x01", id="a number for a truth"),
        ],
    )
    def test_refuses_a_malformed_message(self, wire, code, body):
        name = wire.messages[code].__name__
        with pytest.raises(AgentError, match=f"malformed {name}: .") as caught:
            wire.Framer().feed(frame(code, body))

        assert len(str(caught.value).splitlines()) == 1

    @given(any_message, st.data())
    def test_refuses_every_message_cut_short(self, message, data):
        body = fast.encode(message)[5:]
        cut = body[: data.draw(st.integers(0, len(body) - 1))]

        for wire in MODULES.values():
            assert decoded(wire, fast._codes[type(message)], cut) is None

    @given(st.sampled_from(sorted(fast.messages)), plain)
    def test_means_the_same_with_either_codec(self, code, value):
        body = bare._pure_encode(value)
        assert decoded(fast, code, body) == decoded(bare, code, body)

    @given(any_message, st.data())
    def test_means_the_same_with_either_codec_when_bytes_are_spoilt(self, message, data):
        body = bytearray(fast.encode(message)[5:])
        for _ in range(data.draw(st.integers(1, 3))):
            body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))

        code = fast._codes[type(message)]
        assert decoded(fast, code, bytes(body)) == decoded(bare, code, bytes(body))

    def test_raises_nothing_but_agent_errors_for_noise(self, wire):
        chance = random.Random(20)
        good = [wire.encode(m) for m in (wire.Observed([ITEM]), wire.Ping(1), wire.Rescan())]
        codes = [*wire.messages, 0]
        refused = 0
        for _ in range(3000):
            data = bytearray()
            for _ in range(chance.randrange(1, 4)):
                noise = chance.randbytes(chance.randrange(40))
                data += chance.choice([*good, frame(chance.choice(codes), noise), noise])
            if data and chance.random() < 0.5:
                data[chance.randrange(len(data))] = chance.randrange(256)
            framer = wire.Framer()
            try:
                while data:
                    step = chance.randrange(1, len(data) + 1)
                    for message in framer.feed(bytes(data[:step])):
                        assert type(message) in wire._codes
                    del data[:step]
            except AgentError:
                refused += 1
        assert refused > 1000
