"""The exported script: the same few lines for every plan. What differs lies in the folder beside it."""

from __future__ import annotations

MARK = "# Written by esen_lab; it is replaced when the plan is exported again."

_TEMPLATE = '''\
#!/usr/bin/env python3
{mark}
"""Runs an ensemble of networks by a plan that was found before.

    python {usage} --input x.npy --output y.npy --repeat 100
    python {usage} --help

or from Python: `from {module} import load`, then `with load() as ensemble: y = ensemble(x)`.
It needs torch, numpy, esen_lab, the folder beside it, and what the sub-models import.
"""

import sys
from pathlib import Path

from esen_lab.devices import open_device
from esen_lab.export import Running, load_bundle, run_command
from esen_lab.runtime import Executor
from esen_lab.workers import Nursery

FILES = Path(__file__).resolve().parent / {folder}
DEVICE = {device}


def load(device=None):
    """Start the lanes of the plan: a context manager that is called with an input and returns the answer."""
    plan, ensemble = load_bundle(FILES)
    chosen = open_device(device or DEVICE)
    return Running.start(plan, ensemble, chosen, nursery=Nursery(), start=Executor.start)


if __name__ == "__main__":
    sys.exit(run_command(load))
'''


def script_text(*, stem: str, folder: str, device: str | None) -> str:
    """The script.

    Args:
        stem: Its file name without ".py".
        folder: The name of the folder beside it.
        device: The name of the device it opens, or None for the best one.
    """
    shown = stem if stem.isidentifier() else "plan"  # these two places are only read by people
    return _TEMPLATE.format(mark=MARK, usage=f"{shown}.py", module=shown, folder=ascii(folder), device=ascii(device))
