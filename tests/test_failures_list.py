"""docs/FAILURES.md says of each scenario which test holds it; here that is compared with the tests.

**Invariants.** Nothing is run: the tests are read.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

TESTS = Path(__file__).parent
PAGE = (TESTS.parent / "docs/FAILURES.md").read_text()
REAL = ("e2e", "agent", "cinotify")  # processes and file systems
CHAPTERS = {"C": 30, "W": 20, "N": 23, "A": 16, "E": 11, "X": 22, "R": 11, "S": 12}
STATES = ("held", "partly", "not built", "unsupported")


class Scenario(NamedTuple):
    """A row of the page."""

    id: str
    priority: str
    tests: list[str]
    state: str


def scenarios() -> list[Scenario]:
    rows = re.findall(r"^\| ([A-Z]\d\d) \| (P\d) \| (.*?) \| (.*?) \| .* \|$", PAGE, re.MULTILINE)
    return [
        Scenario(id_, priority, [] if tests == "none" else tests.split("; "), state)
        for id_, priority, tests, state in rows
    ]


SCENARIOS = scenarios()


@cache
def named_in(path: str) -> frozenset[str]:
    """The tests of a file, as pytest names them within it; `[id]` where a parameter has one."""
    found = set()
    module = ast.parse((TESTS / path).read_text())
    for node in ast.walk(module):
        if (
            isinstance(node, ast.keyword)
            and node.arg == "id"
            and isinstance(node.value, ast.Constant)
        ):
            found.add(f"[{node.value.value}]")
    todo: list[tuple[str, ast.AST]] = [("", module)]
    for within, parent in todo:
        for node in ast.iter_child_nodes(parent):
            if isinstance(node, ast.ClassDef):
                todo.append((f"{within}{node.name}::", node))
            elif isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                found.add(within + node.name)
    return frozenset(found)


def split(test: str) -> tuple[str, str, str]:
    """A test's file, its name there, and its parameter in brackets, if any."""
    whole, _, parameter = test.partition(" [")
    path, _, name = whole.partition("::")
    return path, name, "[" + parameter if parameter else ""


def ids_in(name: str) -> set[str]:
    """The scenarios that a name says it is made for, as in `test_w17_s11_a_lease_...`."""
    begin = re.match(r"(?:test_|\[)?((?:[a-z]\d\d[_ ])*)", name.rpartition("::")[2])
    assert begin is not None
    return {word.upper() for word in re.split("[_ ]", begin[1]) if word}


def test_has_every_scenario_once() -> None:
    expected = [
        f"{chapter}{n:02}" for chapter, last in CHAPTERS.items() for n in range(1, last + 1)
    ]

    assert [scenario.id for scenario in SCENARIOS] == expected


def test_counts_them() -> None:
    counted = Counter((each.priority, each.state) for each in SCENARIOS)
    lines = [
        [str(counted[priority, state]) for state in STATES]
        + [str(sum(each.priority == priority for each in SCENARIOS))]
        for priority in ("P0", "P1", "P2")
    ]

    for priority, figures in zip(("P0", "P1", "P2"), lines, strict=True):
        assert f"| {priority} | {' | '.join(figures)} |\n" in PAGE
    assert {each.state for each in SCENARIOS} <= set(STATES)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.id)
def test_names_tests_that_are_there(scenario: Scenario) -> None:
    for path, name, parameter in map(split, scenario.tests):
        assert name in named_in(path)
        assert not parameter or parameter in named_in(path)


@pytest.mark.parametrize(
    "scenario",
    [each for each in SCENARIOS if each.state == "held" and each.priority != "P2"],
    ids=lambda scenario: scenario.id,
)
def test_what_matters_is_held_by_a_test_of_its_name(scenario: Scenario) -> None:
    carriers = [
        (path, name)
        for path, name, parameter in map(split, scenario.tests)
        if path.startswith(REAL) and scenario.id in ids_in(name) | ids_in(parameter)
    ]

    assert carriers


@pytest.mark.parametrize("area", REAL)
def test_no_test_is_made_for_what_is_no_scenario(area: str) -> None:
    known = {scenario.id for scenario in SCENARIOS}
    for file in sorted((TESTS / area).glob("test_*.py")):
        for name in named_in(f"{area}/{file.name}"):
            assert ids_in(name) <= known, name
