"""`python -m psync` is `psync`."""

from __future__ import annotations

import sys

from psync.cli import main

if __name__ == "__main__":
    sys.exit(main())
