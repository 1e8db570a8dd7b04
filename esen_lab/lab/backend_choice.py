"""Which backends may execute which sub-model of a lab: what profiles try and plans choose from."""

from __future__ import annotations

import os

from esen_lab.common.units import BACKENDS, check_backend
from esen_lab.devices import Device
from esen_lab.lab.precision import refused, variants
from esen_lab.lab.state import LabState
from esen_lab.lanes.backends import why_not

VARIABLE = "ESEN_LAB_BACKENDS"
"""Names, separated by commas, of the backends that a lab tries when nobody says which; "eager" for no other one."""


def possible(device: Device) -> tuple[str, ...]:
    """The backends that can be had on a device, eager among them, each in the precision of the network."""
    where = "cpu" if device.identity.kind == "cpu" else "cuda"
    return tuple(name for name in BACKENDS if not why_not(name, where))


def allowed(state: LabState) -> dict[str, tuple[str, ...]]:
    """For each sub-model, the backends besides eager that may execute it.

    Those that were asked for; else those of the environment variable; else all that can be had on this device. Each in
    the precision of the network, and in the one that was chosen and checked (`lab.lanes.choose_precision`).

    Raises:
        UsageError: The environment variable names something else.
    """
    names = state.only
    if names is None:
        said = os.environ.get(VARIABLE, "")
        names = tuple(check_backend(name.strip()) for name in said.split(",") if name.strip())
        names = names or possible(state.device)
    others = tuple(name for name in names if name != "eager")
    found = {}
    for name in state.ensemble.names:
        out = refused(state, name)
        found[name] = tuple(way for way in dict.fromkeys((*others, *variants(state, name))) if way not in out)
    return found
