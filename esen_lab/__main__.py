"""`python -m esen_lab`: see `cli.py`."""

from __future__ import annotations

import sys

from esen_lab.cli import main

if __name__ == "__main__":
    sys.exit(main())
