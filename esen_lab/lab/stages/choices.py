"""Plans of what studies find: a choice of members, a placement, a cascade."""

from __future__ import annotations

from dataclasses import replace

from esen_lab.common.units import now
from esen_lab.errors import UsageError
from esen_lab.lab.plan_checks import origin
from esen_lab.lab.runtime import Runtime
from esen_lab.lab.stages.members import combine
from esen_lab.lab.stages.plans import put_in_force
from esen_lab.lab.stages.search import by_fastest_backends
from esen_lab.lab.state import LabState
from esen_lab.planner.plan import Plan
from esen_lab.studies import plan_of_cascade, plan_of_choice, plan_of_placement, plan_of_stages
from esen_lab.studies.cascade import Cascade
from esen_lab.studies.front import Choice
from esen_lab.studies.placed_stages import PlacedCascade
from esen_lab.studies.placement import DevicePlacement


def plan_of(runtime: Runtime, found: Choice | DevicePlacement | Cascade | PlacedCascade) -> Plan:
    """See `Studies.plan_of`."""
    state = runtime.state
    names = state.ensemble.names
    known = {**origin(state.ensemble, state.device), "created_at": now()}
    if isinstance(found, Choice):
        known |= origin(state.ensemble.only(found.names), state.device)
        plan = plan_of_choice(found, names, **known)
    elif isinstance(found, DevicePlacement):
        plan = plan_of_placement(found, **known)
    elif isinstance(found, Cascade):
        plan = plan_of_cascade(found, **known)
    elif isinstance(found, PlacedCascade):
        known |= origin(state.ensemble.only(found.names), state.device)
        plan = plan_of_stages(found, left_out=tuple(name for name in names if name not in found.names), **known)
    else:
        raise UsageError(
            "A plan is made of a choice of members, a placement or a cascade, placed or not",
            given=type(found).__name__,
            hint="Such as lab.studies.members(x, y).choices[0].",
        )
    return by_fastest_backends(runtime, plan)


def take(runtime: Runtime, found: Choice | Cascade) -> Plan:
    """See `Studies.take`."""
    if not isinstance(found, (Choice, Cascade)):
        raise UsageError(
            "A choice of members or a cascade is put in force",
            given=type(found).__name__,
            hint="Such as lab.studies.members(x, y).choices[0].",
        )
    state = runtime.state
    rule = state.ensemble.combine
    if isinstance(found, Choice) and found.weights is not None:
        of_all = {name: found.weights.get(name, 0.0) for name in state.ensemble.names}
        combine(runtime, "weighted", of_all)
    try:
        plan = plan_of(runtime, found)
        put_in_force(runtime, plan)
    except BaseException:
        runtime.change(lambda now: replace(now, ensemble=now.ensemble.with_combine(rule)))
        raise
    return plan


def choices(state: LabState) -> tuple[Choice, ...]:
    """What the last front of members holds, where it is of the ensemble as it is now."""
    if state.front is None or state.front[0] is not state.ensemble:
        return ()
    return state.front[1].choices
