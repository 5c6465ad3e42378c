"""What is built here can be installed elsewhere, and says the truth about itself."""

from __future__ import annotations

import ast
import csv
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from io import BytesIO
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import psync
from psync.effects.bootstrap import agent_zip

MACHINE = os.uname().machine
PROGRAMS = [f"psync/_bin/cinotify-{MACHINE}", f"psync/_bin/psync-rsh-{MACHINE}"]


def run(*argv: str | Path, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        argv,
        cwd=cwd,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, f"{argv}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel that was built from the source distribution, as an index's user would."""
    target = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", target, checkout, cwd=target)
    (built,) = target.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of a fresh environment into which the wheel was installed, far from here.

    What psync depends on is taken from the environment that runs the tests, so that this
    needs no network; `TestDependencies` checks that it is declared.
    """
    place = tmp_path_factory.mktemp("elsewhere")
    venv.create(place, with_pip=False)
    (site,) = place.glob("lib/python*/site-packages")
    ours = sysconfig.get_path("purelib")
    run(
        sys.executable, "-m", "pip", "--python", place / "bin" / "python",
        "install", "--no-index", "--no-deps", wheel, cwd=place,
    )  # fmt: skip
    (site / "dependencies.pth").write_text(f"{ours}\n")
    return place / "bin"


class TestWheel:
    def test_is_for_this_machine_and_any_python(self, wheel: Path) -> None:
        assert wheel.name == f"psync-{psync.__version__}-py3-none-linux_{MACHINE}.whl"

    def test_holds_the_two_programs_executable(self, wheel: Path) -> None:
        with ZipFile(wheel) as archive:
            modes = {i.filename: i.external_attr >> 16 for i in archive.infolist()}

        assert [name for name in modes if name.startswith("psync/_bin/")] == PROGRAMS
        assert all(modes[name] & 0o111 == 0o111 for name in PROGRAMS)

    def test_holds_programs_that_need_no_library(self, wheel: Path) -> None:
        with ZipFile(wheel) as archive:
            for name in PROGRAMS:
                assert b"/ld-" not in archive.read(name), f"{name} is linked dynamically"

    def test_holds_the_package_and_nothing_else(self, wheel: Path) -> None:
        with ZipFile(wheel) as archive:
            tops = {name.split("/")[0] for name in archive.namelist()}

        assert tops == {"psync", f"psync-{psync.__version__}.dist-info"}

    def test_brings_one_command(self, wheel: Path) -> None:
        with ZipFile(wheel) as archive:
            (entry_points,) = [n for n in archive.namelist() if n.endswith("entry_points.txt")]
            text = archive.read(entry_points).decode()

        assert re.findall(r"^(\S+) = ", text, re.MULTILINE) == ["psync"]

    def test_holds_every_module_of_the_checkout(self, wheel: Path, checkout: Path) -> None:
        with ZipFile(wheel) as archive:
            (record,) = [n for n in archive.namelist() if n.endswith("RECORD")]
            listed = {row[0] for row in csv.reader(archive.read(record).decode().splitlines())}
        modules = {str(p.relative_to(checkout)) for p in (checkout / "psync").rglob("*.py")}

        assert {name for name in listed if name.endswith(".py")} == modules


    def test_holds_what_is_no_module(self, wheel: Path, checkout: Path) -> None:
        with ZipFile(wheel) as archive:
            held = {name for name in archive.namelist() if name.startswith("psync/share/")}
            conf = {name for name in archive.namelist() if name.startswith("psync/_share/")}
        share = checkout / "psync" / "share"

        assert held == {str(p.relative_to(checkout)) for p in share.rglob("*") if p.is_file()}
        assert {"psync/_share/man/psync.1", "psync/_share/completions/_psync"} <= conf


class TestInstallation:
    def test_says_its_version(self, installed: Path, tmp_path: Path) -> None:
        assert run(installed / "psync", "--version", cwd=tmp_path) == f"psync {psync.__version__}\n"

    def test_runs_from_where_it_was_installed(self, installed: Path, tmp_path: Path) -> None:
        where = run(installed / "python", "-c", "import psync; print(psync.__file__)", cwd=tmp_path)

        assert Path(where.strip()).is_relative_to(installed.parent)

    def test_brings_its_files_for_services(self, installed: Path, tmp_path: Path) -> None:
        run(installed / "psync", "install", "--root", tmp_path, cwd=tmp_path)

        unit = (tmp_path / "etc/systemd/system/psync@.service").read_text()
        assert f"ExecStart={installed}/psync run %i" in unit

    def test_replicates_both_ways_with_agents_it_carries(
        self, installed: Path, tmp_path: Path
    ) -> None:
        left, right = tmp_path / "left", tmp_path / "right"
        left.mkdir()
        right.mkdir()
        (left / "from left").write_text("l")
        (right / "from right").write_text("r")

        run(
            installed / "psync", "sync", left, right,
            cwd=tmp_path, PSYNC_STATE_DIR=str(tmp_path / "state"),
        )  # fmt: skip

        assert (right / "from left").read_text() == "l"
        assert (left / "from right").read_text() == "r"


class TestSetUp:
    TOOLS = ("cat", "cksum", "dirname", "env", "gcc", "mkdir", "python3", "rm", "sh", "tr")

    def test_names_in_one_line_what_is_missing_and_how_to_get_it(
        self, checkout: Path, tmp_path: Path
    ) -> None:
        tools = tmp_path / "bin"
        tools.mkdir()
        for name in self.TOOLS:
            (tools / name).symlink_to(shutil.which(name) or "/nowhere")
        (tools / "id").write_text("#!/bin/sh\necho 1000\n")  # whoever runs this: no root
        (tools / "id").chmod(0o755)
        (tmp_path / "scripts").mkdir()
        script = shutil.copy(checkout / "scripts" / "prepare", tmp_path / "scripts")

        done = subprocess.run(
            [script, "run"], env={"PATH": str(tools)}, capture_output=True, text=True, check=False
        )

        assert done.returncode == 2
        assert done.stdout == ""
        (line,) = done.stderr.splitlines()
        assert re.search(
            r"^psync: not on this machine: .*rsync.*sudo apt-get install .*rsync", line
        )

    def test_is_done_once(self, checkout: Path) -> None:
        run(checkout / "scripts" / "prepare", "test", cwd=checkout)

        done = subprocess.run(
            [checkout / "scripts" / "prepare", "test"], capture_output=True, text=True, check=True
        )

        assert done.stdout + done.stderr == ""


def project(checkout: Path) -> dict[str, list[Requirement]]:
    """The declared requirements: of psync itself under "", and of each extra."""
    table = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]
    groups = {"": table["dependencies"], **table["optional-dependencies"]}
    return {name: [Requirement(r) for r in texts] for name, texts in groups.items()}


def pins(lock: Path) -> dict[str, str]:
    """Versions by canonical name, from a lock file."""
    found = re.findall(r"^([a-z0-9-]+)==([^ ;\\]+)", lock.read_text(), re.MULTILINE)
    return {canonicalize_name(name): version for name, version in found}


class TestDependencies:
    @pytest.mark.parametrize(
        ("lock", "groups"), [("run", [""]), ("dev", ["", "dev"])], ids=["run", "dev"]
    )
    def test_are_pinned_within_what_is_declared(
        self, checkout: Path, lock: str, groups: list[str]
    ) -> None:
        pinned = pins(checkout / "requirements" / f"{lock}.txt")

        for requirement in (r for name in groups for r in project(checkout)[name]):
            assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)])

    def test_are_the_same_where_psync_runs_and_where_it_is_tested(self, checkout: Path) -> None:
        tested = pins(checkout / "requirements" / "dev.txt")

        assert pins(checkout / "requirements" / "run.txt").items() <= tested.items()

    @pytest.mark.parametrize("lock", ["run", "dev"])
    def test_come_with_hashes_and_from_no_particular_host(self, checkout: Path, lock: str) -> None:
        text = (checkout / "requirements" / f"{lock}.txt").read_text()

        assert "://" not in text
        for block in re.split(r"\n(?=[a-z])", text.strip()):
            assert "--hash=sha256:" in block, block

    def test_are_declared_if_imported_and_imported_if_declared(self, checkout: Path) -> None:
        imported = set()
        for module in (checkout / "psync").rglob("*.py"):
            for node in ast.walk(ast.parse(module.read_text())):
                if isinstance(node, ast.Import):
                    imported |= {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and not node.level:
                    imported.add(str(node.module).split(".")[0])
        foreign = imported - sys.stdlib_module_names - {"psync"}

        groups = project(checkout)
        declared = {r.name.replace("-", "_") for r in groups[""] + groups["alerts"]}
        assert foreign == declared


class TestAgent:
    def test_is_checked_for_the_old_python_in_all_that_it_is_sent_with(
        self, checkout: Path
    ) -> None:
        with ZipFile(BytesIO(agent_zip())) as archive:
            sent = {n for n in archive.namelist() if n.startswith("psync/") and n.endswith(".py")}
        ruff = tomllib.loads((checkout / "pyproject.toml").read_text())["tool"]["ruff"]
        checked = set()
        for pattern in ruff["per-file-target-version"]:
            folder, names = re.fullmatch(r"(.*)\{(.*)\}\.py", pattern).groups()
            checked |= {f"{folder}{name}.py" for name in names.split(",")}

        assert {n for n in sent if not n.endswith("__init__.py")} == checked


class TestPages:
    @pytest.mark.parametrize(("page", "lines"), [("README.md", 150), ("ARCHITECTURE.md", 300)])
    def test_stay_short(self, checkout: Path, page: str, lines: int) -> None:
        assert len((checkout / page).read_text().splitlines()) <= lines

    def test_link_to_files_that_are_there(self, checkout: Path) -> None:
        for page in [*checkout.glob("*.md"), *checkout.glob("docs/**/*.md")]:
            for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
                assert (page.parent / link).exists(), f"{page.name}: {link}"

    def test_name_tests_that_are_there(self, checkout: Path) -> None:
        for page in [*checkout.glob("*.md"), *checkout.glob("docs/**/*.md")]:
            for path in re.findall(r"`(tests/[\w./-]+)`", page.read_text()):
                assert list(checkout.glob(path)), f"{page.name}: {path}"

    def test_map_names_every_module(self, checkout: Path) -> None:
        text = (checkout / "ARCHITECTURE.md").read_text()
        modules = [p for p in (checkout / "psync").rglob("*.py") if p.name[:2] != "__"]

        assert [p.name for p in modules if f"{p.name}`" not in text] == []

    def test_tell_the_command_that_ci_runs(self, checkout: Path) -> None:
        ci = (checkout / ".ci" / "run").read_text()
        commands = re.findall(r"^    (\./\S+)$", (checkout / "README.md").read_text(), re.MULTILINE)

        assert ci.rstrip().endswith(f"exec {commands[-1]}")


def test_no_message_points_to_what_only_a_checkout_has(checkout: Path) -> None:
    found = []
    for file in (checkout / "psync").rglob("*.py"):
        nodes = list(ast.walk(ast.parse(file.read_text())))
        documentation = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        found += [
            (file.name, node.value)
            for node in nodes
            if isinstance(node, ast.Constant) and id(node) not in documentation
            if re.search(r"\b(docs|conf)/\w", str(node.value))
        ]

    assert found == []
