"""Refinement by measurement: what a plan really took corrects the models, and the search goes again.

Sub-models that run at the same time disturb each other, which profiles taken alone cannot know. So: run the plan,
multiply each sub-model's table by measured over predicted, search again, run that plan, and so on. This file decides;
who calls it runs the plans.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from esen_lab.common.units import format_change, format_percent, format_seconds
from esen_lab.cost_model.model import CostModel
from esen_lab.errors import UsageError
from esen_lab.planner.allocate import search
from esen_lab.planner.limits import Limits
from esen_lab.planner.plan import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One plan that was run.

    Attributes:
        plan: The plan; its predictions are those of the models as corrected until then.
        measured_s: Its median measured JCT, in seconds.
        submodel_s: For each sub-model, the median seconds of its own step within the plan.
        spread_s: Interquartile range of the JCT, in seconds.
        runs: How many runs counted.
        decision: What followed from it, for people.
    """

    plan: Plan
    measured_s: float
    submodel_s: Mapping[str, float]
    spread_s: float = 0.0
    runs: int = 1
    decision: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refinement:
    """What to do after some rounds.

    Attributes:
        best: The index of the fastest round so far: its plan is what to keep, whatever was predicted.
        candidate: The plan to run next, predicted by corrected models; None when it is time to stop.
        reason: Why to go on or to stop, for people.
    """

    best: int
    candidate: Plan | None
    reason: str


def refine(
    models: Mapping[str, CostModel],
    units: int,
    rounds: Sequence[Round],
    *,
    most_rounds: int = 4,
    least_gain: float = 0.01,
    searcher: str = "exact",
    limits: Limits | Mapping[str, Any] | None = None,
    **options: Any,
) -> Refinement:
    """Decide after each measured round: another plan to run, or stop with the best one measured.

    Args:
        models: The models of the first search, uncorrected.
        units: Units of the device.
        rounds: The plans measured so far, in order; at least the first one.
        most_rounds: Stop after so many measured plans.
        least_gain: Stop when the last plan is not at least this fraction faster than the best before it, or when the
            next one is not predicted to be.
        searcher: As for `search`.
        limits: As for `search`.
        **options: The searcher's own.

    Raises:
        UsageError: No round yet, or a round that lacks a sub-model or holds a time that is not positive.
    """
    if not rounds:
        raise UsageError("A refinement begins from a measured plan", given="none", hint="Run the plan first.")
    for measured in rounds:
        _check(models, measured)
    best = fastest(rounds)

    def stop(reason: str) -> Refinement:
        return Refinement(best=best, candidate=None, reason=reason)

    if len(rounds) >= most_rounds:
        return stop(
            "one round is all that is made" if most_rounds == 1 else f"{most_rounds} rounds are the most that are made"
        )
    if len(rounds) > 1:
        gain = 1 - rounds[-1].measured_s / min(measured.measured_s for measured in rounds[:-1])
        if gain < least_gain:
            return stop(
                f"the last plan was {format_change(1 - gain)}; less than {format_percent(least_gain)} faster ends it"
            )
    candidate = search(corrected_models(models, rounds[-1]), units, searcher, limits=limits, **options)
    if any(_same_lanes(candidate.plan, measured.plan) for measured in rounds):
        return stop("the corrected models lead to a plan that was already measured")
    best_s = rounds[best].measured_s
    if candidate.jct_s > best_s * (1 - least_gain):
        return stop(
            f"the next plan is predicted to take {format_seconds(candidate.jct_s)}, "
            f"not {format_percent(least_gain)} less than the best measured {format_seconds(best_s)}"
        )
    return Refinement(
        best=best,
        candidate=candidate.plan,
        reason=f"the corrected models promise {format_seconds(candidate.jct_s)}, not {format_seconds(best_s)}",
    )


def fastest(rounds: Sequence[Round]) -> int:
    """The index of the round with the shortest measured JCT, the first of several."""
    return min(range(len(rounds)), key=lambda k: rounds[k].measured_s)


def corrected_models(models: Mapping[str, CostModel], measured: Round) -> dict[str, CostModel]:
    """Each model with its latencies multiplied by measured over predicted at its share in the measured plan."""
    corrected = {}
    for lane in measured.plan.lanes:
        for name in lane.members:
            model = models[name]
            factor = measured.submodel_s[name] / model.latency_s[lane.units - 1]
            corrected[name] = dataclasses.replace(model, latency_s=tuple(factor * t for t in model.latency_s))
    return {name: corrected[name] for name in models}


def _check(models: Mapping[str, CostModel], measured: Round) -> None:
    names = measured.plan.steps
    if sorted(names) != sorted(models):
        raise UsageError(
            "A measured plan holds every sub-model once", given=f"{', '.join(names)} for {', '.join(models)}"
        )
    times = {"the JCT": measured.measured_s, **{name: measured.submodel_s.get(name, math.nan) for name in names}}
    for what, seconds in times.items():
        if not (math.isfinite(seconds) and seconds > 0):
            raise UsageError("A measured time is a positive number of seconds", given=f"{seconds!r} for {what}")


def _same_lanes(one: Plan, other: Plan) -> bool:
    """Whether two plans have the same lanes, in whatever order they and their members are written."""
    lanes = [{(lane.units, frozenset(lane.members)) for lane in plan.lanes} for plan in (one, other)]
    return lanes[0] == lanes[1]
