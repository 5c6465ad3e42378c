"""The list of guards still fits the code that it breaks."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest

from tests.mutants.guards import GUARDS, Guard

CHECKOUT = Path(__file__).parents[2]


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: f"{guard.file}: {guard.what}")
def test_stands_in_its_file_exactly_once(guard: Guard) -> None:
    text = (CHECKOUT / guard.file).read_text()

    assert text.count(guard.old) == 1
    assert guard.new != guard.old
    if guard.file.endswith(".py"):
        ast.parse(text.replace(guard.old, guard.new))


def test_is_named_once() -> None:
    names = Counter((guard.file, guard.what) for guard in GUARDS)

    assert [name for name, times in names.items() if times > 1] == []


def test_is_missed_by_a_test_that_is_there() -> None:
    for guard in GUARDS:
        paths = [word for word in guard.tests.split() if word.startswith("tests/")]
        assert paths
        assert all((CHECKOUT / path).exists() for path in paths), guard
