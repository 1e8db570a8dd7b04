"""A plan for a rate of requests: candidates from the search and from the usual ways, run for real."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import replace

from esen_lab.common.surroundings import step
from esen_lab.common.trees import Tree
from esen_lab.errors import UsageError
from esen_lab.lab.plan_checks import members_run_by
from esen_lab.lab.runtime import Runtime
from esen_lab.lab.search_binding import SearchRequest
from esen_lab.lab.stages.plans import put_in_force
from esen_lab.lab.stages.search import by_fastest_backends, search
from esen_lab.lab.state import LabState
from esen_lab.planner.plan import Plan
from esen_lab.run import STRATEGIES
from esen_lab.studies.rate import BATCHES, RatePlan, check_wanted, plan_for_rate

_USUAL = ("sequential", "equal")


def search_for_rate(
    runtime: Runtime,
    asked: SearchRequest,
    *,
    rate_per_s: float | None,
    p99_s: float | None,
    batches: Sequence[int] = BATCHES,
    on_progress: Callable[[int, int, str], object] | None = None,
) -> RatePlan:
    """See `Studies.rate`."""
    if rate_per_s is None or p99_s is None:
        raise UsageError(
            "A plan for a rate has both a rate and a 99th percentile",
            given="no p99_s" if p99_s is None else "no rate_per_s",
            hint=f"Such as {step('lab.search(rate_per_s=200, p99_s=0.05)', '%esen search --rate 200 --p99 50ms')}.",
        )
    if asked.objective != "predicted":
        raise UsageError("A plan for a rate is chosen by runs already", given=f"objective={asked.objective!r}")
    if asked.deadline_s is not None:
        raise UsageError(
            "A plan for a rate is chosen by its 99th percentile, and has no deadline beside it",
            given=f"deadline_s={asked.deadline_s!r}",
            hint="Leave one of the two out.",
        )
    check_wanted(rate_per_s, p99_s, batches)
    state = runtime.state
    before = state.plan
    shortest = search(runtime, asked)
    searched = runtime.state.plan
    try:
        ensemble = members_run_by(shortest, runtime.state.ensemble)
        x = ensemble.example if asked.x is None else asked.x
        candidates = {"shortest JCT": shortest}
        if asked.free:  # neither the plan in force nor the usual ways keep to limits
            if before is not None and before.names == shortest.names:
                candidates["in force"] = before
            candidates |= {
                name: by_fastest_backends(runtime, STRATEGIES[name](ensemble, state.device.units)).with_origin(
                    device=shortest.device, fingerprints=shortest.fingerprints, combine=shortest.combine
                )
                for name in _USUAL
            }

        def run(plan: Plan, batch: Tree) -> Generator[float, None, None]:
            return runtime.lane_runs(ensemble, batch, asked.runs).jcts_s(plan)

        found = plan_for_rate(
            candidates, run, x, rate_per_s=rate_per_s, p99_s=p99_s, batches=batches, on_progress=on_progress
        )
    except BaseException:  # an interrupt too
        runtime.change(lambda now: _as_before(now, state) if now.plan is searched else now)
        raise
    found = replace(found, plan=found.plan.with_origin(notes=(found.describe(),)))
    put_in_force(runtime, found.plan)
    return found


def _as_before(now: LabState, before: LabState) -> LabState:
    """With the plan that was in force, and the limits by which it is refined."""
    return replace(now, plan=before.plan, limits=before.limits, quantile=before.quantile)
