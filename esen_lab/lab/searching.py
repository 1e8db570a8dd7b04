"""One search of a lab, with everything bound and checked that can be checked before it begins."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from esen_lab.choosing import LaneRuns, measured_defaults, plan_of_allocation, with_memory
from esen_lab.errors import UsageError
from esen_lab.lab.plans import now, origin
from esen_lab.search import Limits, make_searcher, search

if TYPE_CHECKING:
    from esen_lab.devices import Device
    from esen_lab.ensemble import Ensemble
    from esen_lab.fitting import CostModel, Quantile
    from esen_lab.planning import Plan
    from esen_lab.profiling import Profile
    from esen_lab.search import Allocation, Measure
    from esen_lab.trees import Tree


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a search was asked for: the arguments of `Lab.search`."""

    searcher: str
    limits: Limits | Mapping[str, Any] | None
    quantile: Quantile
    objective: str
    x: Tree
    runs: int
    options: Mapping[str, Any]

    @property
    def free(self) -> bool:
        """Whether what is proven holds for every plan: no limit, and predicted as sliders predict."""
        return Limits.of(self.limits) == Limits() and self.objective == "predicted" and self.quantile == "median"


def bind_search(
    asked: Asked,
    models: Mapping[str, CostModel],
    ensemble: Ensemble,
    device: Device,
    profile: Profile | None,
    lanes: Callable[[Ensemble, Tree, int], LaneRuns],
) -> Callable[..., Plan]:
    """The search as a function: `run(on_better=..., on_progress=..., ...)` returns the plan found.

    Args:
        asked: What for.
        models: The cost models to plan with.
        ensemble: Who runs.
        device: Where.
        profile: What was measured: what the sub-models take of the memory.
        lanes: Makes what runs candidates, from the ensemble, an input and a number of runs; for measured searches.

    Raises:
        UsageError: The searcher, an option, the objective or a limit is unknown or not possible.
    """
    options = asked.options
    measure: Measure | None = None
    if asked.objective == "measured":
        options = {**measured_defaults(asked.searcher), **options}
        measure = lanes(ensemble, asked.x, asked.runs).measuring(models)
    elif asked.objective != "predicted":
        raise UsageError("An objective is 'predicted' or 'measured'", given=asked.objective)
    make_searcher(asked.searcher, **options)
    held, notes = with_memory(Limits.of(asked.limits), ensemble, profile)
    held.check(ensemble.names, device.units)
    if asked.quantile != "median":
        notes = (*notes, "planned with 90th percentiles, not medians")
    known = origin(ensemble, device)

    def as_plan(found: Allocation) -> Plan:
        return plan_of_allocation(found, models, device.units, notes=notes, created_at=now(), **known)

    def run(on_better: Callable[[Plan], None] | None = None, **watched: Any) -> Plan:
        better = None if on_better is None else lambda found: on_better(as_plan(found))
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
        return as_plan(found)

    return run
