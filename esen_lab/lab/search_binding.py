"""One search of a lab, with everything bound and checked that can be checked before it begins."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from esen_lab.common.trees import Tree
from esen_lab.common.units import now
from esen_lab.cost_model import CostModel, Quantile
from esen_lab.devices import Device
from esen_lab.ensemble import Ensemble
from esen_lab.errors import UsageError
from esen_lab.lab.plan_checks import origin
from esen_lab.planner import Allocation, Limits, Measure, make_searcher, search
from esen_lab.planner.plan import Plan
from esen_lab.planner.ways import SEARCHER, Ways, make_ways, search_ways
from esen_lab.profiler import Profile
from esen_lab.studies import LaneRuns, measured_defaults, measured_sets, measured_splits, with_memory

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
    asked: SearchRequest,
    models: Mapping[str, CostModel],
    ensemble: Ensemble,
    device: Device,
    profile: Profile | None,
    lanes: Callable[[Ensemble, Tree, int], LaneRuns],
    derived: Callable[[str], CostModel | None],
    doubts: Sequence[str] = (),
    arranged: Arranged | None = None,
) -> Callable[..., Plan]:
    """The search as a function: `run(on_better=..., on_progress=..., ...)` returns the plan found.

    Args:
        asked: What for.
        models: The cost models to plan with.
        ensemble: Who runs.
        device: Where.
        profile: What was measured: what the sub-models take of the memory.
        lanes: Makes what runs candidates, from the ensemble, an input and a number of runs; for measured searches.
        derived: The cost model of a group or a part, by its name, as far as it was measured.
        doubts: What is known against the cost models, sentences for the plan's notes.
        arranged: Makes the plan of one that was found; None: it is that.

    Raises:
        UsageError: The searcher, an option, the objective or a limit is unknown or not possible.
    """
    options = asked.options
    measure: Measure | None = None
    if asked.objective == "measured":
        options = {**measured_defaults(asked.searcher), **options}
        measure = lanes(ensemble, asked.x, asked.runs).jcts_s
    elif asked.objective != "predicted":
        raise UsageError("An objective is 'predicted' or 'measured'", given=asked.objective)
    make_searcher(asked.searcher, **options)
    held, notes = with_memory(Limits.of(asked.limits), ensemble, profile)
    held.check(ensemble.names, device.units)
    notes = (*doubts, *notes)
    if asked.quantile != "median":
        notes = (*notes, "planned with 90th percentiles, not medians")
    known = origin(ensemble, device)

    def as_plan(found: Allocation, *, last: bool = False) -> Plan:
        plan, first = (found.plan, ()) if arranged is None else arranged(found.plan)
        # Said of the last plan alone: to find it out takes as long as a better plan may.
        remarks = device.remarks_on([lane.units for lane in plan.lanes]) if last else ()
        return plan.with_origin(notes=(*first, *remarks, *notes), created_at=now(), **known)

    ways = _ways(asked, models, ensemble, held, derived) if measure is None else None

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


def _ways(
    asked: SearchRequest,
    models: Mapping[str, CostModel],
    ensemble: Ensemble,
    limits: Limits,
    derived: Callable[[str], CostModel | None],
) -> Ways | None:
    """The ways to group and to split that were measured; None where every sub-model is to run alone."""
    if asked.searcher != SEARCHER:
        return None
    sets = measured_sets(ensemble, derived) if asked.groups else ()
    splits = measured_splits(ensemble, derived) if asked.parts else ()
    return make_ways(models, sets, splits, limits) if sets or splits else None
