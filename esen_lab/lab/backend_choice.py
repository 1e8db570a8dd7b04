"""Which backends may execute which sub-model of a lab, in its own precision or in one that was checked to agree."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import replace

from esen_lab.common.surroundings import step
from esen_lab.common.units import BACKENDS, backend_parts, check_backend
from esen_lab.devices import Device
from esen_lab.errors import UsageError
from esen_lab.lab.state import LabState
from esen_lab.lanes.backends import why_not
from esen_lab.planner.plan import Plan, backends_of
from esen_lab.studies import PrecisionTable, executed

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
        UsageError: The environment variable names something else, or another precision.
    """
    names = state.only
    if names is None:
        names = _said() or possible(state.device)
    others = tuple(name for name in names if name != "eager")
    found = {}
    for name in state.ensemble.names:
        out = refused(state, name)
        found[name] = tuple(way for way in dict.fromkeys((*others, *variants(state, name))) if way not in out)
    return found


def _said() -> tuple[str, ...]:
    """What the environment variable names; () where it names nothing. Raises as `allowed` does."""
    names = [name.strip() for name in os.environ.get(VARIABLE, "").split(",") if name.strip()]
    try:
        parts = {check_backend(name): backend_parts(name)[1] for name in names}
    except UsageError as problem:
        problem.concerns(VARIABLE)
        raise
    lower = next((name for name, precision in parts.items() if precision), None)
    if lower is not None:
        precision = parts[lower]
        raise UsageError(
            f"{VARIABLE} names backends in the networks' own precision, since another one is compared with that first",
            given=repr(lower),
            hint=f"Choose it: {step(f'lab.lanes.choose_precision({precision!r})', f'%esen precision {precision}')}.",
        )
    return tuple(parts)


def variants(state: LabState, name: str) -> tuple[str, ...]:
    """The backends in another precision that may be tried for a sub-model, besides the plain ones ("openvino@bf16").

    What the check on the device in use allowed for the sub-model as it is now; () where none was asked for.
    """
    table = _table(state, name)
    return () if table is None else table.allowed.get(name, ())


def refused(state: LabState, name: str) -> Mapping[str, str]:
    """The backends in another precision that the check ruled out for a sub-model, and why."""
    table = _table(state, name)
    return {} if table is None else {point.backend: point.why for point in table.of(name) if point.why}


def is_allowed(state: LabState, name: str) -> bool:
    """Whether the plan executes a sub-model in a way that the choice allows."""
    way = "eager" if state.plan is None else backends_of(state.plan).get(name, "eager")
    return not backend_parts(way)[1] or way in variants(state, name)


def as_checked(state: LabState, plan: Plan) -> Plan:
    """A plan less the precisions that the check ruled out, which says what was checked of those that it has."""
    table = state.here.precision
    if table is None:
        return plan
    ruled_out = [
        name for name, way in backends_of(plan).items() if name in state.ensemble.names and way in refused(state, name)
    ]
    plan = _in_own(state, plan, ruled_out)
    lower = in_other_precision(plan)
    if not lower or not all(backends_of(plan)[name] in variants(state, name) for name in lower):
        return plan
    return plan if table.summary in plan.notes else replace(plan, notes=(*plan.notes, table.summary))


def in_own_precision(state: LabState, names: Collection[str], *, measured: bool = True) -> LabState:
    """With these sub-models executed in their own precision: by what was measured to be fastest, else eagerly.

    `measured` says whether what was measured of their backends still holds.
    """
    plan = state.plan
    if plan is None:
        return state
    mine = [name for name in in_other_precision(plan) if name in names]
    return replace(state, plan=_in_own(state, plan, mine, measured=measured))


def in_other_precision(plan: Plan) -> set[str]:
    """The sub-models that a plan executes in another precision than their own."""
    return {name for name, way in backends_of(plan).items() if backend_parts(way)[1]}


def _in_own(state: LabState, plan: Plan, names: Collection[str], *, measured: bool = True) -> Plan:
    """A plan with these sub-models in their own precision, each by what is fastest at its share as far as is known."""
    units = {name: lane.units for lane in plan.lanes for name in lane.members}
    chosen, seconds = {}, {}
    for name in names:
        points = (
            []
            if state.measured is None or not measured
            else [
                point
                for point in (*state.measured.points, *state.measured.backend_points)
                if (point.name, point.units) == (name, units[name]) and not backend_parts(point.backend)[1]
            ]
        )
        best = min(points, key=lambda point: point.median_s, default=None)
        chosen[name] = "eager" if best is None else best.backend
        if best is not None:
            seconds[name] = best.median_s
    return executed(plan, chosen, seconds) if names else plan


def _table(state: LabState, name: str) -> PrecisionTable | None:
    table, submodel = state.here.precision, state.ensemble.get(name)
    if table is None or table.fingerprints.get(name) != submodel.fingerprint:
        return None
    if table.precision == "int8" and submodel.calibration is None:  # it was unregistered meanwhile, with its data
        return None
    return table
