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

from esen_lab.errors import UsageError
from esen_lab.fitting.model import CostModel
from esen_lab.search.allocate import search
from esen_lab.search.allocation import Allocation
from esen_lab.search.limits import Limits
from esen_lab.units import format_percent, format_seconds

Lanes = tuple[tuple[int, tuple[str, ...]], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One plan that was run.

    Attributes:
        lanes: (units, names) per lane.
        jct_s: Its measured JCT (the median over its runs), in seconds.
        submodel_s: For each sub-model, the measured seconds of its own step within the plan.
    """

    lanes: Lanes
    jct_s: float
    submodel_s: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refinement:
    """What to do after some rounds.

    Attributes:
        best: The fastest plan measured so far: what to keep, whatever was predicted.
        best_round: Its index among the rounds.
        candidate: The plan to run next; None when it is time to stop.
        models: The corrected models that `candidate` was searched with (for `best`'s predictions too).
        reason: Why to go on or to stop, for people.
    """

    best: Measured
    best_round: int
    candidate: Allocation | None
    models: Mapping[str, CostModel]
    reason: str


def refine(
    models: Mapping[str, CostModel],
    units: int,
    rounds: Sequence[Measured],
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
    best_round = min(range(len(rounds)), key=lambda k: rounds[k].jct_s)
    best = rounds[best_round]
    corrected = corrected_models(models, rounds[-1])

    def stop(reason: str) -> Refinement:
        return Refinement(best=best, best_round=best_round, candidate=None, models=corrected, reason=reason)

    if len(rounds) >= most_rounds:
        return stop(f"{most_rounds} rounds are the most that are made")
    if len(rounds) > 1:
        before_s = min(measured.jct_s for measured in rounds[:-1])
        gain = 1 - rounds[-1].jct_s / before_s
        if gain < least_gain:
            return stop(
                f"the last plan changed the JCT by {format_percent(-gain, signed=True)}; "
                f"less than {format_percent(least_gain)} faster ends it"
            )
    candidate = search(corrected, units, searcher, limits=limits, **options)
    if any(_same(candidate.lanes, measured.lanes) for measured in rounds):
        return stop("the corrected models lead to a plan that was already measured")
    if candidate.jct_s > best.jct_s * (1 - least_gain):
        return stop(
            f"the next plan is predicted to take {format_seconds(candidate.jct_s)}, "
            f"not {format_percent(least_gain)} less than the best measured {format_seconds(best.jct_s)}"
        )
    return Refinement(
        best=best,
        best_round=best_round,
        candidate=candidate,
        models=corrected,
        reason=f"the corrected models promise {format_seconds(candidate.jct_s)}, not {format_seconds(best.jct_s)}",
    )


def corrected_models(models: Mapping[str, CostModel], measured: Measured) -> dict[str, CostModel]:
    """Each model with its latencies multiplied by measured over predicted at its share in the measured plan."""
    corrected = {}
    for share, names in measured.lanes:
        for name in names:
            model = models[name]
            factor = measured.submodel_s[name] / model.latency_s[share - 1]
            corrected[name] = dataclasses.replace(model, latency_s=tuple(factor * t for t in model.latency_s))
    return {name: corrected[name] for name in models}


def _check(models: Mapping[str, CostModel], measured: Measured) -> None:
    names = [name for _, members in measured.lanes for name in members]
    if sorted(names) != sorted(models):
        raise UsageError(
            "A measured plan holds every sub-model once", given=f"{', '.join(names)} for {', '.join(models)}"
        )
    times = {"the JCT": measured.jct_s, **{name: measured.submodel_s.get(name, math.nan) for name in names}}
    for what, seconds in times.items():
        if not (math.isfinite(seconds) and seconds > 0):
            raise UsageError("A measured time is a positive number of seconds", given=f"{seconds!r} for {what}")


def _same(one: Lanes, other: Lanes) -> bool:
    return {(share, frozenset(names)) for share, names in one} == {(share, frozenset(names)) for share, names in other}
