"""A configuration is taken or refused in a line, whatever is in it: nothing else happens."""

from __future__ import annotations

import math
import random
import string
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psync.brain import _limits
from psync.config import Options, load_session, make_options, parse_setting
from psync.core.ignore import Ignore
from psync.errors import ConfigError, UsageError

EXAMPLE = Path(__file__).parents[1] / "conf" / "psync.toml"
FIELDS = [field for field in Options.__struct_fields__ if field != "name"]

odd = st.sampled_from(
    [
        "nan", "-inf", "inf", "1e400", "-0.0", "1979-05-27T07:32:00Z", "07:32:00", "9" * 5000,
        "0x" + "f" * 40, "[[[]]]", "[" * 2000, "{a = 1}", '"(" ', '"a{99999999999}"', "'[z-a]'",
        "'\\x00'", '"\\u0000"', '"' + "(" * 5000 + '"', '"' + "9" * 5000 + '%"', '"~"', '"//"',
        "true", '""', "'''\nx'''", '"99999999999d"', '"-o"', "'*[!a]**?[]'", '"a:b"',
    ]
)  # fmt: skip
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30).map(
    lambda text: '"' + "".join(f"\\U{ord(c):08x}" for c in text) + '"'
)
scalars = st.one_of(
    odd, texts, st.integers().map(str), st.floats(allow_nan=False).map(str), st.just("false")
)
toml_values = st.one_of(
    scalars, st.lists(scalars, max_size=3).map(lambda each: "[" + ", ".join(each) + "]")
)
keys = st.one_of(
    st.sampled_from(FIELDS), st.text(string.ascii_lowercase + "_-.", min_size=1, max_size=8), texts
)


def use(options: Options) -> None:
    """Do with options what a session does with them at its start."""
    for field in FIELDS:
        value = getattr(options, field)
        assert not isinstance(value, float) or math.isfinite(value), field
    for path in (options.left, options.right, options.log_file or "/"):
        assert path
        assert "\0" not in path
    _limits(options)
    assert options.keep_conflicts_s >= 0
    Ignore(options.all_excludes(), options.tempfiles)(b"a/b")


def assert_one_line(error: Exception) -> None:
    assert len(str(error).splitlines()) == 1, str(error)


@given(st.dictionaries(keys, toml_values, max_size=5))
def test_of_known_keys_with_any_values(tmp_path_factory, values):
    document = {"left": '"/l"', "right": '"/r"', **values}
    file = tmp_path_factory.getbasetemp() / "fuzz.toml"
    lines = [f"{key} = {value}" for key, value in document.items()]
    file.write_text("\n".join(["[session.home]", *lines, ""]))
    try:
        table, where = load_session(file, "home")
        use(make_options(table, where))
    except ConfigError as error:
        assert_one_line(error)


@pytest.mark.parametrize("field", FIELDS)
@settings(max_examples=25)
@given(value=toml_values)
def test_of_one_key_after_the_other(tmp_path_factory, field, value):
    test_of_known_keys_with_any_values.hypothesis.inner_test(tmp_path_factory, {field: value})


@given(st.one_of(st.binary(max_size=200), texts.map(str.encode)))
def test_of_any_bytes(tmp_path_factory, data):
    file = tmp_path_factory.getbasetemp() / "noise.toml"
    file.write_bytes(data)

    with pytest.raises(ConfigError) as caught:
        load_session(file, "home")
    assert_one_line(caught.value)


def test_of_the_example_with_bytes_changed(tmp_path):
    chance = random.Random(3)
    whole = EXAMPLE.read_bytes()
    name = "example"
    file = tmp_path / "psync.toml"
    refused = 0
    for _ in range(400):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 6)):
            at = chance.randrange(len(data))
            data[at : at + chance.randint(0, 2)] = chance.choice(
                [b"\n", b'"', b"[", b"=", b"\0", b"\xff", b"9" * 30, bytes([chance.randrange(256)])]
            )
        file.write_bytes(data)
        try:
            table, where = load_session(file, name)
            use(make_options(table, where))
        except ConfigError as error:
            assert_one_line(error)
            refused += 1
    assert refused > 100


@given(texts, texts)
def test_of_tables_with_any_names(tmp_path_factory, table, other):
    file = tmp_path_factory.getbasetemp() / "tables.toml"
    file.write_text(f"[session.{table}]\nleft = 1\n[x.{other}]\n[session.y]\n")

    with pytest.raises(ConfigError) as caught:
        load_session(file, "home")
    assert_one_line(caught.value)
    file.write_text(f"[session.{table}]\nleft = 1\n")
    with pytest.raises(ConfigError) as caught:
        load_session(file, "home")
    assert_one_line(caught.value)


@given(st.one_of(st.text(max_size=40), st.tuples(keys, toml_values).map("=".join)))
def test_of_a_setting_on_the_command_line(text):
    try:
        key, value = parse_setting(text)
        use(make_options({"left": "/l", "right": "/r", key: value}, "--set"))
    except (UsageError, ConfigError) as error:
        assert_one_line(error)
