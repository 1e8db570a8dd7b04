"""Profiling less: which points to measure next, and when no further point can change the plan by much.

Every sub-model is measured at the smallest, a middle and the largest candidate share first. From then on:

1. Fit. Search the plan that the fit calls best: its JCT is what we would have now.
2. Take each share that was not measured to be faster than fitted by the fit's own error, and search again: its JCT is
   what more measuring could win at most, as far as that error can be trusted.
3. When the two are within a tolerance, or half of all points are measured, stop. Else measure the points that the
   second plan rests on and that are not measured yet: either it is as good as hoped, or the hope is gone and the next
   plan rests on other points.

So points go where plans would be, and none is spent on shares that no good plan would use.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from esen_lab.common.units import check_units, format_percent
from esen_lab.cost_model import fit_points
from esen_lab.cost_model.model import CostModel
from esen_lab.errors import UsageError
from esen_lab.planner.allocate import allocate, search
from esen_lab.planner.limits import Limits
from esen_lab.planner.plan import Plan

MANY = 8
"""From so many candidate shares on, adaptive profiling keeps to a part of all points."""
Points = Mapping[str, Mapping[int, float]]
"""For each sub-model, seconds by share in units."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NextPoints:
    """What to measure next.

    Attributes:
        points: (sub-model, share) to measure; empty when it is time to stop.
        plan: The best plan that the points so far predict; None before every sub-model has its first points.
        left: By how much of its JCT the plan could still get better, as a fraction; None with `plan`.
        reason: Why to go on or to stop, for people.
    """

    points: tuple[tuple[str, int], ...]
    plan: Plan | None
    left: float | None
    reason: str


def next_points(
    measured: Points,
    units: int,
    candidates: Iterable[int],
    *,
    within: float = 0.02,
    least_error: float = 0.02,
    most_part: float = 0.5,
    limits: Limits | Mapping[str, Any] | None = None,
    wrong: Mapping[str, Collection[int]] | None = None,
    **options: Any,
) -> NextPoints:
    """Decide what to measure next.

    Args:
        measured: Every sub-model, with the points measured so far; it may have none yet.
        units: Units of the device.
        candidates: The shares that may be measured.
        within: Stop when the plan can get better by at most this fraction.
        least_error: A share that was not measured is never trusted better than this, relatively.
        most_part: Of all points (sub-models x candidates), never ask for more than this part, where there are so many
            candidates (`MANY`) that their first ones are well below it.
        limits: As for `search`.
        wrong: For a sub-model, shares at which its answers were wrong: no plan rests on them.
        **options: Of the exact searcher.

    Raises:
        UsageError: No sub-model, or no candidate, or one outside 1..units.
    """
    shares = sorted({check_units(share, units, "a candidate share") for share in candidates})
    if not measured or not shares:
        raise UsageError(
            "Adaptive profiling chooses among sub-models and candidate shares",
            given=f"{len(measured)} sub-models, {len(shares)} candidates",
        )
    first = tuple((name, s) for name, points in measured.items() for s in _first(shares) if s not in points)
    if first:
        return NextPoints(points=first, plan=None, left=None, reason="every sub-model is measured at its first shares")
    avoid = wrong or {}
    models = {name: fit_points(name, points, units, avoid=avoid.get(name, ())) for name, points in measured.items()}
    best = search(models, units, limits=limits, **options)
    plan = best.plan
    hopeful = {name: _hopeful(model, measured[name], least_error) for name, model in models.items()}
    hoped = allocate(hopeful, units, limits=limits, **options)
    left = max(0.0, 1 - hoped.jct_s / best.jct_s)
    if left <= within:
        return NextPoints(
            points=(),
            plan=plan,
            left=left,
            reason=f"the plan can get better by {format_percent(left)} at most, and {format_percent(within)} is enough",
        )
    most_part = most_part if len(shares) >= MANY else 1.0
    room = int(most_part * len(measured) * len(shares)) - sum(len(points) for points in measured.values())
    if room < 1:
        return NextPoints(
            points=(),
            plan=plan,
            left=left,
            reason=f"{format_percent(most_part)} of all points are measured; by them, the plan could get better by "
            f"{format_percent(left)} at most",
        )
    wanted = (_rests_on(hoped.plan, measured, shares) or _rests_on(plan, measured, shares))[:room]
    if not wanted:
        return NextPoints(
            points=(), plan=plan, left=left, reason="the plan rests on measured points, and so does any better one"
        )
    return NextPoints(
        points=wanted,
        plan=plan,
        left=left,
        reason=f"the plan could get better by {format_percent(left)}: looking there",
    )


def _first(shares: Sequence[int]) -> tuple[int, ...]:
    """The ends, and the share in the middle of them in 1/share, where a curve bends most."""
    low, high = shares[0], shares[-1]
    middle = min(shares, key=lambda s: abs(1 / s - (1 / low + 1 / high) / 2))
    return tuple(sorted({low, middle, high}))


def _hopeful(model: CostModel, points: Mapping[int, float], least_error: float) -> list[float | None]:
    error = min(max(least_error, model.error or 0.0), 0.5)
    table = [t if s in points else t * (1 - error) for s, t in enumerate(model.latency_s, start=1)]
    return [None if s + 1 in model.avoid else min(table[: s + 1]) for s in range(len(table))]


def _rests_on(plan: Plan, measured: Points, shares: Sequence[int]) -> tuple[tuple[str, int], ...]:
    """For each member, the candidate next to its lane's share, where that is not measured."""
    wanted = []
    for lane in plan.lanes:
        nearest = min(shares, key=lambda s: (abs(s - lane.units), s))
        wanted += [(name, nearest) for name in lane.members if nearest not in measured[name]]
    return tuple(wanted)
