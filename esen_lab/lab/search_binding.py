"""One search of a lab, with everything bound and checked that can be checked before it begins."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

from esen_lab.common.trees import Tree
from esen_lab.common.units import now
from esen_lab.common.words import unknown
from esen_lab.cost_model import CostModel, Quantile
from esen_lab.lab.plan_checks import origin
from esen_lab.lab.runtime import Runtime
from esen_lab.lab.state import LabState
from esen_lab.planner import Allocation, Limits, Measure, make_searcher, search
from esen_lab.planner.plan import Plan
from esen_lab.planner.ways import SEARCHER, Ways, make_ways, search_ways
from esen_lab.profiler.records import under_other_switches
from esen_lab.studies import measured_defaults, measured_sets, measured_splits, with_memory

Arranged: TypeAlias = "Callable[[Plan], tuple[Plan, tuple[str, ...]]]"
"""Makes of a plan as the searcher gives it another one, perhaps of other lanes, and what is to be said first of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchRequest:
    """What a search was asked for: the arguments of `Lab.search`."""

    searcher: str = "exact"
    limits: Limits | Mapping[str, Any] | None = None
    quantile: Quantile = "median"
    objective: str = "predicted"
    x: Tree = None
    runs: int = 9
    groups: bool = True
    parts: bool = True
    deadline_s: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def free(self) -> bool:
        """Whether what is proven holds for every plan: no limit, and predicted as sliders predict."""
        return Limits.of(self.limits) == Limits() and self.objective == "predicted" and self.quantile == "median"


def bind_search(
    runtime: Runtime,
    state: LabState,
    asked: SearchRequest,
    models: Mapping[str, CostModel],
    arranged: Arranged | None = None,
) -> Callable[..., Plan]:
    """The search as a function: `run(on_better=..., on_progress=..., ...)` returns the plan found.

    Args:
        runtime: Of the lab: runs the candidates of a measured search.
        state: Who runs, where, and what is known of it.
        asked: What for.
        models: The cost models to plan with.
        arranged: Makes the plan of one that was found; None: it is that.

    Raises:
        UsageError: The searcher, an option, the objective or a limit is unknown or not possible.
    """
    ensemble, device, options = state.ensemble, state.device, asked.options
    measure: Measure | None = None
    if asked.objective == "measured":
        options = {**measured_defaults(asked.searcher), **options}
        measure = runtime.lane_runs(ensemble, asked.x, asked.runs).jcts_s
    elif asked.objective != "predicted":
        objectives = ("predicted", "measured")
        raise unknown("An objective is 'predicted' or 'measured'", asked.objective, objectives, given=asked.objective)
    make_searcher(asked.searcher, **options)
    held, notes = with_memory(Limits.of(asked.limits), ensemble, state.measured)
    held.check(ensemble.names, device.units)
    notes = (*_of_other_switches(runtime, state), *notes)
    if asked.quantile != "median":
        notes = (*notes, "planned with 90th percentiles, not medians")
    known = origin(ensemble, device)

    def as_plan(found: Allocation, *, last: bool = False) -> Plan:
        plan, first = (found.plan, ()) if arranged is None else arranged(found.plan)
        # Said of the last plan alone: to find it out takes as long as a better plan may.
        remarks = device.remarks_on([lane.units for lane in plan.lanes]) if last else ()
        return plan.with_origin(notes=(*first, *remarks, *notes), created_at=now(), **known)

    ways = _ways(state, asked, models, held) if measure is None else None

    def run(on_better: Callable[[Plan], None] | None = None, **watched: Any) -> Plan:
        better = None if on_better is None else lambda found: on_better(as_plan(found))
        if ways is not None:
            return as_plan(search_ways(ways, device.units, limits=held, on_better=better, **watched, **options))
        found = search(
            models,
            device.units,
            asked.searcher,
            limits=held,
            on_better=better,
            measure=measure,
            **watched,
            **options,
        )
        return as_plan(found, last=True)

    return run


def _of_other_switches(runtime: Runtime, state: LabState) -> tuple[str, ...]:
    """A remark where the points that plans are made from were measured while other switches were set than now."""
    measured, settings = state.measured, runtime.fork_server.session_here()
    if measured is None or state.device.identity.simulated:
        return ()
    return under_other_switches((*measured.points, *measured.backend_points), settings.unusual)


def _ways(state: LabState, asked: SearchRequest, models: Mapping[str, CostModel], limits: Limits) -> Ways | None:
    """The ways to group and to split that were measured; None where every sub-model is to run alone."""
    if asked.searcher != SEARCHER:
        return None
    ensemble, units = state.ensemble, state.device.units
    derived = partial(state.here.derived_model, ensemble=ensemble, units=units, quantile=asked.quantile)
    sets = measured_sets(ensemble, derived) if asked.groups else ()
    splits = measured_splits(ensemble, derived) if asked.parts else ()
    return make_ways(models, sets, splits, limits) if sets or splits else None
