"""Plans for a deadline: the accuracy of members, measured before, decides who is to be ready by then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from esen_lab.common.surroundings import step
from esen_lab.cost_model import CostModel
from esen_lab.errors import UsageError
from esen_lab.lab.runtime import Runtime
from esen_lab.lab.search_binding import Arranged, SearchRequest
from esen_lab.planner import Limits
from esen_lab.planner.allocation import remarks_of, under_models
from esen_lab.planner.by_deadline import DeadlineSearch
from esen_lab.planner.plan import Plan
from esen_lab.run.options import check_rule, weightless
from esen_lab.studies.members import tables_of


def for_deadline(
    runtime: Runtime, asked: SearchRequest, models: Mapping[str, CostModel], deadline_s: float
) -> Arranged:
    """What makes of a plan one whose members that are ready by a deadline are the most accurate together.

    Args:
        runtime: The lab's.
        asked: The search.
        models: The cost models it plans with.
        deadline_s: Seconds from the call.

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
