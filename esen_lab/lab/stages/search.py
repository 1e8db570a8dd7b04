"""Cost models from what was measured, and plans from them, now or in the background."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from esen_lab.common.surroundings import step
from esen_lab.cost_model import CostModel, Quantile
from esen_lab.errors import UsageError
from esen_lab.lab.backend_choice import allowed
from esen_lab.lab.runtime import Runtime
from esen_lab.lab.search_binding import Arranged, SearchRequest, bind_search
from esen_lab.lab.stages.members import follow
from esen_lab.lab.stages.plans import with_plan
from esen_lab.lab.state import LabState
from esen_lab.planner import Limits, SearchJob, make_searcher
from esen_lab.planner.allocation import remarks_of, under_models
from esen_lab.planner.by_deadline import DeadlineSearch
from esen_lab.planner.fits import fits
from esen_lab.planner.plan import Plan
from esen_lab.planner.steps import members_of
from esen_lab.run.options import check_rule, weightless
from esen_lab.studies.members import tables_of

BACKGROUND_SEARCH_S = 60.0
"""For how long the exact searcher improves and proves in the background."""


def fit(runtime: Runtime, quantile: Quantile) -> dict[str, CostModel]:
    """See `Points.fit`."""
    state = runtime.state
    state.need_submodels("fit")
    profile = state.measured
    measured = set() if profile is None else set(profile.names)
    missing = [name for name in state.ensemble.names if name not in measured]
    if profile is None or missing:
        raise UsageError(
            "Every sub-model is profiled before latencies are fitted and a plan is searched",
            given=f"no finished measurement of {', '.join(missing)}",
            hint="Profiling is still running: wait for it."
            if state.profiling
            else f"Measure them: {step('lab.profile().result()', '%esen profile')}.",
        )
    wrong = state.here.wrong(state.ensemble)
    return runtime.fits.fit(
        profile, state.device, runtime.store(), quantile=quantile, wrong=wrong, backends=allowed(state)
    )


def models(runtime: Runtime, quantile: Quantile = "median") -> dict[str, CostModel]:
    """What plans are made from."""
    runtime.state.need_submodels("plan")
    return fit(runtime, quantile)


def by_fastest_backends(runtime: Runtime, plan: Plan) -> Plan:
    """A plan whose sub-models are executed by what is fastest at their shares, as far as that was measured."""
    try:
        known = models(runtime)
    except UsageError:  # not all are measured
        return plan
    return plan.with_backends(
        {
            name: known[name].backend(min(lane.units, known[name].units))
            for lane in plan.lanes
            if lane.mode != "vmap"
            for name in lane.members
            if name in known
        }
    )


def models_of(runtime: Runtime, steps: Sequence[str], quantile: Quantile = "median") -> dict[str, CostModel]:
    """The cost models of what the lanes of a plan run, groups and parts among it, and of what it leaves out.

    Raises:
        UsageError: Something of it has not been measured.
    """
    known = models(runtime, quantile)
    taken = members_of(steps)
    if taken == tuple(steps):
        return known
    state = runtime.state
    found = {name: model for name, model in known.items() if name not in taken or name in steps}
    for name in steps:
        if name not in found:
            model = state.here.derived_model(name, state.ensemble, state.device.units, quantile)
            if model is None:
                raise UsageError(
                    "Every step of a plan is measured before it is changed",
                    given=f"no finished measurement of {name}",
                    hint="Profile with groups and parts, or search for a plan without.",
                )
            found[name] = model
    return found


def search(runtime: Runtime, asked: SearchRequest, **watched: Any) -> Plan:
    """See `Lab.search`."""
    models, run = _bound(runtime, asked)
    plan = run(**watched)
    runtime.change(lambda state: _asked_for(with_plan(_proven(state, plan, asked, models), plan), asked))
    return plan


def start_search(runtime: Runtime, asked: SearchRequest) -> SearchJob[Plan]:
    """See `Lab.start_search`."""
    if asked.searcher == "exact":
        asked = replace(asked, options={"time_limit_s": BACKGROUND_SEARCH_S, **asked.options})
    models, run = _bound(runtime, asked)
    job = SearchJob(run, start=False)
    job.listen(_Improving(runtime, asked, models))
    with runtime.lock:
        before = runtime.state.search_job
        runtime.set(search_job=job, improving=job)
    if before is not None:
        before.cancel()
    job.start()
    return job


def _bound(runtime: Runtime, asked: SearchRequest) -> tuple[dict[str, CostModel], Callable[..., Plan]]:
    """The search with everything bound, and the cost models that it plans with."""
    state = runtime.state
    state.need_submodels("plan")
    make_searcher(asked.searcher, **asked.options)  # not after a profile that is asked for has been waited for
    Limits.of(asked.limits).check(state.ensemble.names, state.device.units)
    follow(runtime, whole=False)  # code counts: latencies do not depend on values
    found = models(runtime, asked.quantile)
    arranged: Arranged | None = None
    if asked.deadline_s is not None:
        arranged = for_deadline(runtime, asked, found, asked.deadline_s)
        asked = replace(asked, groups=False, parts=False)  # the order is one of whole members
    state = runtime.state
    runtime.together.check(state.ensemble)
    return found, bind_search(runtime, state, asked, found, arranged)


class _Improving:
    """Listens to a search: its best plan is in force, unless somebody has set another one meanwhile."""

    def __init__(self, runtime: Runtime, asked: SearchRequest, models: Mapping[str, CostModel]) -> None:
        self._runtime = runtime
        self._asked = asked
        self._models = models
        self._best: Plan | None = None

    def __call__(self, job: SearchJob[Plan]) -> None:
        plan = job.best
        better, self._best = plan is not self._best, plan
        proven = job.state.over and job.error is None

        def change(state: LabState, plan: Plan) -> LabState:
            if proven:
                state = _proven(state, plan, self._asked, self._models)
            # Not where the sub-models are others by now.
            if better and state.improving is job and fits(plan, state.ensemble, state.device):
                state = _asked_for(with_plan(state, plan, improving=job), self._asked)
            return state

        if plan is not None and (better or proven):
            self._runtime.change(partial(change, plan=plan))
        self._runtime.stir()


def _asked_for(state: LabState, asked: SearchRequest) -> LabState:
    return replace(state, limits=Limits.of(asked.limits), quantile=asked.quantile)


def _proven(state: LabState, plan: Plan, asked: SearchRequest, models: Mapping[str, CostModel]) -> LabState:
    """With what a search proved of all plans, for the sliders."""
    return replace(state, proof=(models, plan.bound_s)) if asked.free and plan.bound_s is not None else state


def for_deadline(
    runtime: Runtime, asked: SearchRequest, models: Mapping[str, CostModel], deadline_s: float
) -> Arranged:
    """What makes of a plan one whose members that are ready by a deadline are the most accurate together.

    Raises:
        UsageError: The accuracy of these members is not known, the rule needs all of them, or it is no deadline.
    """
    state = runtime.state
    check_rule(state.ensemble.combine)
    found, ensemble = state.validated, state.ensemble
    if found is None or not found.holds_for(ensemble, ensemble.names):
        raise UsageError(
            "A plan for a deadline needs the accuracy of members, which is measured on validation data",
            given="none so far" if found is None else "answers from before a member changed or came",
            hint=f"Ask for it first: {step('lab.studies.members(x_val, y_val)', '%esen members x_val y_val')}.",
        )

    no_weight = weightless(ensemble.combine, ensemble.names)

    def accuracy(names: Sequence[str]) -> float:
        if no_weight.issuperset(names):  # no answer can be made of them
            return 0.0
        value = found.accuracy(names, ensemble)
        if value is None:
            raise UsageError("Members that are planned by accuracy answer with classes", given=", ".join(names))
        return value

    report = state.report
    search = DeadlineSearch(
        {name: tables_of(models)[name] for name in ensemble.names},
        state.device.units,
        accuracy,
        deadline_s,
        overhead_s=0.0 if report is None or report.answered is not None else max(0.0, report.overhead_s),
        free=Limits.of(asked.limits) == Limits() and asked.objective == "predicted",
        most_accurate=found.most_accurate,
    )

    def arranged(plan: Plan) -> tuple[Plan, tuple[str, ...]]:
        ready = search(plan)
        if ready.plan.lanes != plan.lanes:  # what was said of the lanes before is not so of these
            plan = replace(under_models(ready.plan, models), notes=remarks_of(models))
        return plan, (ready.sentence,)

    return arranged
