"""`python -m esen_lab`: see `cli.py`."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    try:
        from esen_lab.cli import main
    except ModuleNotFoundError as problem:
        if (problem.name or "esen_lab").startswith("esen_lab"):
            raise
        # The doctor, which would say so, needs it too.
        sys.exit(f"esen_lab needs the package {problem.name}: pip install {problem.name}")
    sys.exit(main())
