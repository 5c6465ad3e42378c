"""The encoder's fuzz driver, for a bounded number of inputs that are the same each time."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

import native

HERE = Path(__file__).resolve().parent
SOURCES = [
    HERE / "fuzz_frame.c",
    HERE.parents[1] / "cinotify" / "frame.c",
    HERE.parents[1] / "cinotify" / "text.c",
]


def run(*command: Path | str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


class TestFrames:
    def test_survive_any_calls_and_any_bytes(self, tmp_path):
        driver = tmp_path / "fuzz_frame"
        native.compile_program(SOURCES, driver, "gcc")

        done = run(driver, "1", "4000")

        assert (done.returncode, done.stderr) == (0, "")

    @pytest.mark.skipif(not shutil.which("clang"), reason="libFuzzer comes with clang")
    def test_survive_a_guided_search(self, tmp_path):
        driver = tmp_path / "fuzz_frame"
        flags = ["-O1", "-g", "-DLIBFUZZER", "-fsanitize=fuzzer,address,undefined"]
        native.compile_program(SOURCES, driver, "clang", flags)

        done = run(driver, "-runs=20000", "-seed=1", "-max_len=4096")

        assert done.returncode == 0, done.stderr
