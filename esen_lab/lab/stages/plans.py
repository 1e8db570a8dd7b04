"""The plan in force: put there, applied, loaded, exported."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from esen_lab.common.words import unknown
from esen_lab.devices.cpu.device import CpuPlacement
from esen_lab.errors import UsageError
from esen_lab.lab.backend_choice import as_checked
from esen_lab.lab.plan_checks import differences, members_run_by
from esen_lab.lab.runtime import Runtime
from esen_lab.lab.stages.members import follow
from esen_lab.lab.stages.nodes import check_plan
from esen_lab.lab.stages.run import get_ready
from esen_lab.lab.state import LabState
from esen_lab.lanes.settings import switches_between
from esen_lab.planner import SearchJob
from esen_lab.planner.fits import check_fits
from esen_lab.planner.plan import Plan, backends_of
from esen_lab.planner.steps import is_plain
from esen_lab.run.in_place import answer_spec
from esen_lab.run.lane_steps import steps_of
from esen_lab.run.start import places_of

if TYPE_CHECKING:
    from esen_lab.ensemble import Ensemble
    from esen_lab.export import Exported, Graph
    from esen_lab.export.ray_serve import RayServeApplication
    from esen_lab.export.triton import TritonRepository

_Export = TypeVar("_Export", "Exported", "TritonRepository", "RayServeApplication")


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
    check_plan(state, plan)
    plan = as_checked(state, plan)
    running, previous = state.warm, state.previous_plan
    # Not where lanes run without a plan, or by one that another has replaced before it ran.
    if running is not None and running.plan is state.plan:
        previous = running.plan
    return replace(state, plan=plan, previous_plan=previous, improving=improving)


def apply(runtime: Runtime, plan: Plan) -> None:
    """See `Lab.apply`."""
    check_plan(runtime.state, plan)
    with runtime.turns.turn("a plan that is put in force"):
        before = runtime.state.plan
        put_in_force(runtime, plan)
        after = runtime.state.plan
        try:
            get_ready(runtime)
        except BaseException:
            runtime.change(lambda state: replace(state, plan=before) if state.plan is after else state)
            raise


def load(runtime: Runtime, path: str | os.PathLike[str]) -> Plan:
    """See `Lab.load`."""
    plan = Plan.load(path)
    state = runtime.state
    check_plan(state, plan)
    here = differences(plan, state.ensemble, state.device)
    plan = replace(plan, notes=(*plan.notes, *(news for news in here if news not in plan.notes)))
    put_in_force(runtime, plan)
    return plan


def export_as(
    runtime: Runtime, path: str | os.PathLike[str], plan: Plan | None, form: str
) -> Exported | TritonRepository | RayServeApplication:
    """See `Lab.export`."""
    if form not in _FORMS:
        raise unknown(f"A plan is exported as {' or '.join(map(repr, _FORMS))}", form, _FORMS, given=repr(form))
    return _FORMS[form](runtime, path, plan)


def export(runtime: Runtime, path: str | os.PathLike[str], plan: Plan | None) -> Exported:
    """As a script: see `Lab.export`."""
    from esen_lab.export import export_plan

    return _written(runtime, plan, partial(export_plan, path=path))


def export_triton(runtime: Runtime, folder: str | os.PathLike[str], plan: Plan | None) -> TritonRepository:
    """See `Lab.export`, form "triton"."""
    from esen_lab.export.triton import export_triton as write

    def write_here(plan: Plan, ensemble: Ensemble, **known: Any) -> TritonRepository:
        device = runtime.state.device
        places = places_of(plan, device) if device.identity.kind == "cpu" else ()
        return write(
            plan,
            ensemble,
            folder,
            steps=steps_of(plan, ensemble),
            output=answer_spec(ensemble),
            cores=[place.cores for place in places if isinstance(place, CpuPlacement)],
            **known,
        )

    return _written(runtime, plan, write_here)


def export_ray_serve(runtime: Runtime, folder: str | os.PathLike[str], plan: Plan | None) -> RayServeApplication:
    """See `Lab.export`, form "ray-serve"."""
    from esen_lab.export.ray_serve import export_ray_serve as write

    return _written(runtime, plan, partial(write, folder=folder))


_FORMS: Mapping[
    str, Callable[[Runtime, str | os.PathLike[str], Plan | None], Exported | TritonRepository | RayServeApplication]
] = {
    "script": export,
    "triton": export_triton,
    "ray-serve": export_ray_serve,
}


def _written(runtime: Runtime, plan: Plan | None, write: Callable[..., _Export]) -> _Export:
    """What `write` makes of a plan, its members, what engines have made of these, and the session's switches."""
    session: tuple[dict[str, Any], tuple[str, ...]] = _session(runtime)
    exported: tuple[Plan, Ensemble, list[Graph]] = _to_export(runtime, plan)
    whole, ensemble, graphs = exported
    written: _Export = write(whole, ensemble, graphs=graphs, switches=session[0])
    return replace(written, notes=(*written.notes, *session[1]))


def _session(runtime: Runtime) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The switches that an export is to have, and what was set otherwise when lanes were last told: ask it first."""
    last = runtime.fork_server.settings
    now = runtime.fork_server.session_here()
    if last is None or last.named == now.named:
        return now.named, ()
    changed = switches_between(last, now)
    return now.named, (f"The last call was under other switches than this export has: {', '.join(changed)}.",)


def _to_export(runtime: Runtime, plan: Plan | None) -> tuple[Plan, Ensemble, list[Graph]]:
    """What is written: the plan, the members that it runs, and what engines have made of them."""
    from esen_lab.export import Graph
    from esen_lab.lanes.backends import kept_graph

    follow(runtime)
    state = runtime.state
    plan = state.need_plan("export") if plan is None else plan
    check_fits(plan, state.ensemble, state.device)
    ensemble = members_run_by(plan, state.ensemble)
    runtime.together.check(ensemble)
    graphs = []
    for name, how in backends_of(plan).items():
        if not is_plain(name):  # groups and parts are eager
            continue
        submodel = ensemble.get(name)
        kept = kept_graph(how, submodel.fingerprint, submodel.example)
        if kept is not None:
            graphs.append(Graph(member=name, backend=how, name=kept[0], content=kept[1]))
    return plan, ensemble, graphs
