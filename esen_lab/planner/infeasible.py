"""Why no plan keeps the limits: which one, and by how much."""

from __future__ import annotations

import dataclasses

from esen_lab.errors import InfeasibleError
from esen_lab.planner.exact.within_limits import Undecided, lanes_within
from esen_lab.planner.limits import Limits
from esen_lab.planner.problem import SearchProblem


def why_infeasible(problem: SearchProblem, limits: Limits) -> InfeasibleError:
    """The error to raise for a problem that the exact searcher found no plan for."""
    try:
        return _why(problem, _asked(limits))
    except Undecided as problem_of:
        return InfeasibleError(
            "No plan that keeps the limits was found",
            given=f"limits on {problem_of.items} sub-models; whether there is one is not proven for so many",
            hint="Loosen a limit.",
        )


def _why(problem: SearchProblem, asked: str) -> InfeasibleError:
    n = len(problem.items)
    plenty = n * problem.units
    groups = lanes_within(problem, plenty)
    if groups is not None:
        needed = sum(_smallest(problem, group) for group in groups)
        return InfeasibleError(
            f"The lanes' shares sum to at most {problem.capacity} units",
            given=f"{asked} need {needed} units, {needed - problem.capacity} too many",
            hint="Loosen one of them, or oversubscribe.",
        )
    for lanes in range(problem.max_lanes + 1, n + 1):
        if lanes_within(dataclasses.replace(problem, max_lanes=lanes), plenty) is not None:
            break
    return InfeasibleError(
        f"A plan has at most {problem.max_lanes} lanes here",
        given=f"{asked} need {lanes} lanes, {lanes - problem.max_lanes} too many",
        hint="Allow more lanes, or loosen what keeps the sub-models apart.",
    )


def _smallest(problem: SearchProblem, group: tuple[int, ...]) -> int:
    return next(u for u in range(1, problem.units + 1) if problem.lane_s(group, u) < float("inf"))


def _asked(limits: Limits) -> str:
    parts = [
        f"{what} ({', '.join(f'{name}: {share}' for name, share in getattr(limits, what).items())})"
        for what in ("pinned", "min_units", "max_units")
        if getattr(limits, what)
    ]
    if limits.apart:
        parts.append(f"apart ({'; '.join(', '.join(group) for group in limits.apart)})")
    return " and ".join(parts) or "the sub-models"
