"""The plan in force: put there, applied, loaded, exported."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from esen_lab.errors import UsageError
from esen_lab.lab.plan_checks import differences, members_run_by
from esen_lab.lab.precision import as_checked
from esen_lab.lab.runtime import Runtime
from esen_lab.lab.stages.run import ready_lanes
from esen_lab.lab.state import LabState
from esen_lab.planner import SearchJob
from esen_lab.planner.fits import check_fits
from esen_lab.planner.plan import Plan
from esen_lab.planner.steps import is_plain

if TYPE_CHECKING:
    from esen_lab.export import Exported


def put_in_force(runtime: Runtime, plan: Plan) -> None:
    """Put a plan in force; it is swapped in at the next run.

    Raises:
        UsageError: It is none, or covers other sub-models, or needs a larger device.
    """
    if not isinstance(plan, Plan):
        raise UsageError("A lab's plan is a Plan", given=type(plan).__name__)
    runtime.change(lambda state: with_plan(state, plan))


def with_plan(state: LabState, plan: Plan, improving: SearchJob[Plan] | None = None) -> LabState:
    """With a plan in force, less the precisions that were found to disagree (`as_checked`).

    Raises:
        UsageError: It covers other sub-models, or needs a larger device.
    """
    check_fits(plan, state.ensemble, state.device)
    plan = as_checked(state, plan)
    running, previous = state.warm, state.previous_plan
    # Not where lanes run without a plan, or by one that another has replaced before it ran.
    if running is not None and running.plan is state.plan:
        previous = running.plan
    return replace(state, plan=plan, previous_plan=previous, improving=improving)


def apply(runtime: Runtime, plan: Plan) -> None:
    """See `Lab.apply`."""
    check_fits(plan, runtime.state.ensemble, runtime.state.device)
    with runtime.turns.turn("a plan that is put in force"):
        before = runtime.state.plan
        put_in_force(runtime, plan)
        after = runtime.state.plan
        try:
            ready_lanes(runtime)
        except BaseException:
            runtime.change(lambda state: replace(state, plan=before) if state.plan is after else state)
            raise


def load(runtime: Runtime, path: str | os.PathLike[str]) -> Plan:
    """See `Lab.load`."""
    plan = Plan.load(path)
    state = runtime.state
    check_fits(plan, state.ensemble, state.device)
    here = differences(plan, state.ensemble, state.device)
    plan = replace(plan, notes=(*plan.notes, *(news for news in here if news not in plan.notes)))
    put_in_force(runtime, plan)
    return plan


def export(runtime: Runtime, path: str | os.PathLike[str], plan: Plan | None) -> Exported:
    """See `Lab.export`."""
    from esen_lab.export import Graph, export_plan
    from esen_lab.lanes.backends import kept_graph

    state = runtime.state
    plan = state.need_plan("export") if plan is None else plan
    check_fits(plan, state.ensemble, state.device)
    ensemble = members_run_by(plan, state.ensemble)
    runtime.together.check(ensemble)
    graphs = []
    for lane in plan.lanes:
        for name, how in zip(lane.members, lane.backends, strict=True):
            if not is_plain(name):  # groups and parts are eager
                continue
            submodel = ensemble.get(name)
            kept = kept_graph(how, submodel.fingerprint, submodel.example)
            if kept is not None:
                graphs.append(Graph(member=name, backend=how, name=kept[0], content=kept[1]))
    return export_plan(plan, ensemble, path, graphs=graphs)
