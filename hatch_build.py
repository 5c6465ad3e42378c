"""Put the two C programs into the wheel while it is built.

The agent and the transport read `psync/_bin/` as package data: `cinotify`, which a
host without psync gets over the wire, and `psync-rsh`, the shim between rsync and the
brain's connection. Both are static, so the wheel is tagged for one architecture and
for no Python or libc in particular.

**Invariants.** Only what this build has compiled goes into the wheel, whatever lies in
the checkout. An editable installation builds in place instead. `CC` and `CFLAGS` are
honoured by `native.py`, which does the work.
"""

from __future__ import annotations

import platform
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

__all__ = ["NativeBuildHook"]


class NativeBuildHook(BuildHookInterface[Any]):
    """Compile with `native.build` and name the wheel after the machine."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile before the wheel is filled.

        Args:
            version: `"standard"`, or `"editable"` for `pip install -e`.
            build_data: what hatchling reads back: the tag and the added files.
        """
        root = Path(self.root)
        native = _load_native(root)
        machine = platform.machine()
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-linux_{machine}"

        in_place = root / "psync" / "_bin"
        if version == "editable":
            native.build(in_place)
            return
        target = root / "build" / f"wheel-{machine}"
        native.build(target)
        for name in ("cinotify", "psync-rsh"):
            built = target / f"{name}-{machine}"
            build_data["force_include"][str(built)] = f"psync/_bin/{built.name}"


def _load_native(root: Path) -> Any:
    """Import the checkout's `native.py`, which is no installed module."""
    sys.path.insert(0, str(root))
    try:
        import native
    finally:
        sys.path.remove(str(root))
    return native
