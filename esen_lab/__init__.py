"""esen_lab: share one device well between the sub-models of an ensemble, from a notebook or from plain Python.

Nothing runs when this package is imported, and neither torch nor any notebook package is loaded: each public name
is imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from esen_lab.devices import FakeDevice, offers
    from esen_lab.lab import Lab
    from esen_lab.planner import allocate
    from esen_lab.planner.editor import PlanEditor
    from esen_lab.planner.plan import Plan
    from esen_lab.ui.anywhere import board, watch

__version__ = "0.1.0"
__all__ = [
    "FakeDevice",
    "Lab",
    "Plan",
    "PlanEditor",
    "__version__",
    "allocate",
    "board",
    "load_ipython_extension",
    "offers",
    "unload_ipython_extension",
    "watch",
]

_HOME = {
    "FakeDevice": "esen_lab.devices",
    "Lab": "esen_lab.lab",
    "Plan": "esen_lab.planner.plan",
    "PlanEditor": "esen_lab.planner.editor",
    "allocate": "esen_lab.planner",
    "board": "esen_lab.ui.anywhere",
    "offers": "esen_lab.devices",
    "watch": "esen_lab.ui.anywhere",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'esen_lab' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


def load_ipython_extension(shell: Any) -> None:
    """Register the magics: what `%load_ext esen_lab` calls."""
    from esen_lab.ui import load

    load(shell)


def unload_ipython_extension(shell: Any) -> None:
    """Undo everything that loading did: what `%unload_ext esen_lab` calls."""
    from esen_lab.ui import unload

    unload(shell)
