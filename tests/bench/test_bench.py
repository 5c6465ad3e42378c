"""The benchmark itself works: everything is measured, tiny, through the real command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.measure import MEASUREMENTS
from bench.report import Figure, Record, at_least, at_most, quantile, table, times


class TestQuick:
    def test_measures_everything_and_writes_json(
        self, tmp_path: Path, checkout: Path, programs: list[Path]
    ) -> None:
        told = tmp_path / "figures.json"

        run = subprocess.run(
            [sys.executable, "-m", "bench", "--quick", "--json", told, "--dir", tmp_path],
            cwd=checkout, env=os.environ, text=True, capture_output=True, timeout=110, check=False,
        )  # fmt: skip

        assert run.returncode == 0, run.stdout + run.stderr
        measured = {each["name"]: each for each in json.loads(told.read_text())["measurements"]}
        assert measured.keys() == MEASUREMENTS.keys()
        assert all(each["figures"] and each["samples"] for each in measured.values())
        assert all("brain" in each["memory"] for each in measured.values())
        assert not list(tmp_path.glob("psync-bench-*"))


class TestVerdict:
    @pytest.mark.parametrize(
        ("budget", "measured", "floor", "met"),
        [
            pytest.param(at_most(3), 3.0, None, True, id="at the limit"),
            pytest.param(at_most(3), 3.1, 9.0, False, id="past it, whatever the floor"),
            pytest.param(times(1.5), 1.5, 1.0, True, id="at the multiple"),
            pytest.param(times(1.5), 1.6, 1.0, False, id="past the multiple"),
            pytest.param(at_least(0.9), 90.0, 100.0, True, id="fast enough"),
            pytest.param(at_least(0.9), 89.0, 100.0, False, id="too slow"),
            pytest.param(times(1.5), 1.0, None, None, id="no floor to compare with"),
        ],
    )
    def test_follows_the_budget(
        self, budget: object, measured: float, floor: float | None, met: bool | None
    ) -> None:
        assert Figure("x", "s", measured, floor, "", budget).met is met  # type: ignore[arg-type]

    def test_quantile_is_a_value_that_was_observed(self) -> None:
        samples = [float(n) for n in range(200, 0, -1)]

        assert (quantile(samples, 0.5), quantile(samples, 0.99)) == (100.0, 198.0)
        assert quantile([7.0], 0.99) == 7.0

    def test_table_shows_a_failure_beside_what_was_measured(self) -> None:
        good, bad = Record("good", "what works"), Record("bad", "what does not")
        good.figures.append(Figure("time", "ms", 4.0, 1.0, "the floor's name", at_most(3)))
        bad.error = "TimeoutError: nothing happened"

        shown = table([good, bad])

        assert "MISSED" in shown
        assert "4.00 ms" in shown
        assert "bad: FAILED: TimeoutError: nothing happened" in shown
