"""Build psync's two C programs, `cinotify` and `psync-rsh`, for this machine.

`python3 native.py` in a checkout compiles them into `psync/_bin/`; the wheel's build hook, the
Makefile and `psync.py` call `build`. A program is static where the compiler can do that (musl
makes it small enough to be sent to a host where nothing is installed), else dynamic.

**Invariants.** Standard library only; a program that is newer than its sources, and than this
file, is left alone; a finished program appears in one step (rename), so that a running one, or
another build at the same time, never sees half of it.

It does not cross-compile by itself: give `cc` and `machine` for that.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

__all__ = ["PROGRAMS", "BuildError", "build", "build_checked", "compile_program"]

HERE = Path(__file__).resolve().parent
BIN = HERE / "psync" / "_bin"
PROGRAMS = {"cinotify": "cinotify", "psync-rsh": "rsh"}

_FLAGS = ["-std=c17", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Wconversion", "-Werror"]
_RELEASE = ["-O2", "-s"]
_CHECKED = ["-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined"]
_CHECKED += ["-fno-sanitize-recover=all"]
_SMALL_STEPS = ["-DREAD_SIZE=512", "-DSLICE_VISITS=1"]  # cinotify/watch.c


class BuildError(Exception):
    """No compiler, or it refused; the text is what it said."""


def build(
    target_dir: Path | None = None, cc: str | None = None, machine: str | None = None
) -> list[Path]:
    """Build both programs, where they are older than their sources.

    Args:
        target_dir: where `cinotify-<machine>` and `psync-rsh-<machine>` go; `psync/_bin`.
        cc: the compiler's command; `$CC`, musl-gcc, cc, gcc or clang where not given.
            `$CFLAGS` are added to it.
        machine: the machine it compiles for, as `uname -m` says it; this one.

    Returns:
        The programs' paths.

    Raises:
        BuildError: there is no compiler, or it refused.
    """
    target_dir = target_dir or BIN
    machine = machine or platform.machine()
    programs = []
    for name, folder in PROGRAMS.items():
        program = target_dir / f"{name}-{machine}"
        if not _is_fresh(program, HERE / folder):
            _build_one(sorted((HERE / folder).glob("*.c")), program, cc)
        programs.append(program)
    return programs


def build_checked(target_dir: Path, cc: str | None = None) -> list[Path]:
    """Build both programs for tests: with the address and undefined behaviour sanitizers.

    cinotify reads few events at a time and looks at one directory at a time there, so that
    more of the orders in which things can happen do happen.
    """
    programs = []
    for name, folder in PROGRAMS.items():
        program = target_dir / f"{name}-checked"
        if not _is_fresh(program, HERE / folder):
            compile_program(
                sorted((HERE / folder).glob("*.c")), program, cc or "gcc", _CHECKED + _SMALL_STEPS
            )
        programs.append(program)
    return programs


def compile_program(
    sources: Iterable[Path], program: Path, cc: str, flags: Sequence[str] = tuple(_CHECKED)
) -> None:
    """Compile and link one program, which then appears in one step.

    Raises:
        BuildError: the compiler is not there, or refused.
    """
    program.parent.mkdir(parents=True, exist_ok=True)
    handle, scratch = tempfile.mkstemp(prefix=f".{program.name}.", dir=program.parent)
    os.close(handle)
    extra = shlex.split(os.environ.get("CFLAGS", ""))
    command = [*shlex.split(cc), *_FLAGS, *flags, *extra, "-o", scratch, *map(str, sources)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise BuildError(f"{shlex.join(command)}\n{done.stderr}")
        os.chmod(scratch, 0o755)
        os.rename(scratch, program)
    except OSError as error:
        raise BuildError(f"{shlex.join(command)}\n{error}") from error
    finally:
        if os.path.exists(scratch):
            os.unlink(scratch)


def _build_one(sources: list[Path], program: Path, cc: str | None) -> None:
    """Compile statically with the first compiler that can, else dynamically."""
    compilers = [cc or os.environ.get("CC") or ""]
    if not compilers[0]:
        compilers = [name for name in ("musl-gcc", "cc", "gcc", "clang") if shutil.which(name)]
    if not compilers:
        raise BuildError("no C compiler found; install gcc (or musl-gcc), or set CC")
    attempts = [(c, [*_RELEASE, "-static"]) for c in compilers]
    attempts.append((compilers[-1], _RELEASE))
    failures = []
    for compiler, flags in attempts:
        try:
            compile_program(sources, program, compiler, flags)
            return
        except BuildError as error:
            failures.append(str(error))
    raise BuildError("\n".join(failures))


def _is_fresh(program: Path, folder: Path) -> bool:
    """Tell whether a program is there and newer than all it is made of."""
    try:
        built = program.stat().st_mtime_ns
    except OSError:
        return False
    made_of = [Path(__file__), *folder.glob("*.c"), *folder.glob("*.h")]
    return all(source.stat().st_mtime_ns < built for source in made_of)


def main() -> int:
    """Build in place and say what there is now."""
    try:
        for program in build():
            print(f"{program.relative_to(HERE)}: {program.stat().st_size} bytes")
    except BuildError as error:
        print(f"native.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
