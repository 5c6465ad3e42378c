"""Make an agent run on a host where nothing of psync is installed.

The brain carries the agent in its own package: the modules that `psync.agent` imports,
`inotify_simple` and the static `cinotify` become one small zip. A loader that fits a
command line asks for it (`READY`), reads it from stdin into memory and runs it from
there: nothing is written to the other host's disk, so nothing goes stale there and
nothing has to be cleaned up.

**Invariants.** The loader runs `python3 -ISE`: no site-packages, no `PYTHON*` variable,
not the current directory; that an agent starts is proof that it needs the standard
library only. Loader and first line of the agent are syntax that every Python 3 accepts,
so that one that is too old can say so. The command has no quote, newline or shell
character outside one pair of single quotes: it means the same to sh, csh and fish.

It does not talk to the other host: `link` does. Where a key is bound to
`command="psync agent ..."`, that agent speaks first and the zip stays at home.
"""

from __future__ import annotations

import functools
import importlib.util
import io
import marshal
import sys
import zipfile
from importlib.abc import SourceLoader
from importlib.resources import files
from importlib.util import MAGIC_NUMBER, source_hash
from pathlib import Path
from types import CodeType

from psync.wire import MAGIC

__all__ = [
    "PYTHON_MIN",
    "READY",
    "TOO_OLD",
    "agent_zip",
    "local_command",
    "own_command",
    "remote_command",
]

# What `psync.agent` comes to import, beside the standard library.
AGENT_MODULES = (
    "inotify_simple",
    "psync", "psync.agent", "psync.claim", "psync.conflicts", "psync.core", "psync.core.entry",
    "psync.core.ignore", "psync.core.patterns", "psync.core.settle", "psync.errors",
    "psync.examine", "psync.faults", "psync.filter", "psync.forced", "psync.helpers",
    "psync.holding", "psync.host", "psync.intents", "psync.known", "psync.lock",
    "psync.plumbing", "psync.private", "psync.quarantine", "psync.reader", "psync.recovery",
    "psync.scan", "psync.staging", "psync.syscalls", "psync.watch", "psync.wire",
    "psync.writes", "psync.xattrs",
)  # fmt: skip

PYTHON_MIN = (3, 9)
# What the loader prints when it is ready for the zip; like MAGIC, nothing a banner contains.
READY = MAGIC[:-1] + b"\x00"
TOO_OLD = "psync: this python3 is "

_LOADER = (
    "import os,sys,tempfile;"
    "sys.version_info<{minimum} and sys.exit({too_old!r}+sys.version.split()[0]);"
    "os.write(1,bytes({ready}));"
    "n=int(sys.argv.pop());"
    # A file without a name: memory where the system has that, else an unlinked file.
    'f=hasattr(os,"memfd_create") or tempfile.TemporaryFile();'
    'm=os.memfd_create("psync") if f is True else f.fileno();'
    # Exactly n bytes: what follows them are frames. EOF ends it early, and the import fails.
    '[os.write(m,c) for c in iter(lambda:os.read(0,n-os.fstat(m).st_size),b"")];'
    'sys.path.insert(0,"/proc/self/fd/%d"%m);'
    "from psync.agent import main;"
    "sys.exit(main(sys.argv[1:]))"
)

# The same modules as the brain's, found where the brain found them: there msgspec serves too.
_LOCAL = (
    "import sys; sys.path[:] = {path!r}\nfrom {module} import main\nsys.exit(main(sys.argv[1:]))"
)


def remote_command(size: int) -> str:
    """The command line that makes a remote shell wait for a zip of `size` bytes and run it."""
    loader = _LOADER.format(minimum=PYTHON_MIN, too_old=TOO_OLD, ready=list(READY))
    loader = loader.replace("'", '"')
    return f"exec python3 -ISE -c '{loader}' {size}"


def local_command() -> list[str]:
    """The argv of an agent on this host, run by our own Python from our own modules."""
    return own_command("psync.agent")


def own_command(module: str) -> list[str]:
    """The argv that calls a module's `main` with what follows, likewise; wherever we came from."""
    path = [str(Path(entry).absolute()) for entry in sys.path]
    return [sys.executable, "-I", "-c", _LOCAL.format(path=path, module=module)]


@functools.cache
def agent_zip() -> bytes:
    """The agent and all it needs beside a Python, as a zip; made once."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:

        def add(name: str, data: bytes) -> None:
            # A fixed time: the same modules make the same zip.
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, data)

        for module in AGENT_MODULES:
            spec = importlib.util.find_spec(module)
            assert spec is not None and isinstance(spec.loader, SourceLoader) and spec.origin
            name = module.replace(".", "/")
            if spec.submodule_search_locations is not None:
                name += "/__init__"
            source = spec.loader.get_data(spec.origin)
            add(f"{name}.py", source)
            add(f"{name}.pyc", _compiled(spec.loader.get_code(module), source))
        binaries = files("psync") / "_bin"
        if binaries.is_dir():
            for binary in sorted(binaries.iterdir(), key=lambda entry: entry.name):
                if binary.name.startswith("cinotify-"):
                    add(f"psync/_bin/{binary.name}", binary.read_bytes())
    return buffer.getvalue()


def _compiled(code: CodeType | None, source: bytes) -> bytes:
    """A module's code as a .pyc (PEP 552) that goes unchecked by the Python that made it.

    An agent under the same version starts in half the time; any other takes the source.
    """
    unchecked = (0b01).to_bytes(4, "little")
    return MAGIC_NUMBER + unchecked + source_hash(source) + marshal.dumps(code)
