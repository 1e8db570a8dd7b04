"""The rules of thumb people use: what a plan is compared against.

Where sub-models outnumber units, every rule that gives each one a lane deals them onto lanes of one unit instead, the
longest first, each onto the lane that is then done first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from esen_lab.errors import UsageError
from esen_lab.search.problem import Problem, breaks_limit
from esen_lab.search.watch import Groups, Watch


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequential:
    """One lane with the whole device: no sharing at all. No options."""

    measures: ClassVar[bool] = True

    def __call__(self, problem: Problem, watch: Watch) -> None:
        """See `Searcher`."""
        _offer(problem, watch, (tuple(range(len(problem.items))),), (min(problem.units, problem.capacity),))


@dataclass(frozen=True, slots=True, kw_only=True)
class Equal:
    """One lane each, of equal shares; what is left over goes to the longest. No options."""

    measures: ClassVar[bool] = True

    def __call__(self, problem: Problem, watch: Watch) -> None:
        """See `Searcher`."""
        _one_each(problem, watch, [1.0] * len(problem.items))


@dataclass(frozen=True, slots=True, kw_only=True)
class Proportional:
    """One lane each, shares proportional to the latency alone on the whole device. No options."""

    measures: ClassVar[bool] = True

    def __call__(self, problem: Problem, watch: Watch) -> None:
        """See `Searcher`."""
        _one_each(problem, watch, [min(row) for row in problem.rows])


@dataclass(frozen=True, slots=True, kw_only=True)
class Knee:
    """One lane each, shares proportional to each sub-model's knee.

    Attributes:
        within: The knee is the smallest share whose latency is within this fraction of the best.
    """

    measures: ClassVar[bool] = True
    within: float = 0.1

    def __post_init__(self) -> None:
        """Check the options."""
        if not self.within >= 0:
            raise UsageError("A knee lies within a fraction of the best latency, at least 0", given=f"{self.within!r}")

    def __call__(self, problem: Problem, watch: Watch) -> None:
        """See `Searcher`."""
        knees = [
            next(u for u, latency in enumerate(row, start=1) if latency <= min(row) * (1 + self.within))
            for row in problem.rows
        ]
        _one_each(problem, watch, [float(knee) for knee in knees], most=knees)


def _one_each(problem: Problem, watch: Watch, weights: Sequence[float], most: Sequence[int] | None = None) -> None:
    n = len(weights)
    if n > problem.capacity:
        loads = [0.0] * problem.capacity
        groups: list[list[int]] = [[] for _ in loads]
        for i in sorted(range(n), key=lambda i: -problem.rows[i][0]):
            lane = loads.index(min(loads))
            groups[lane].append(i)
            loads[lane] += problem.rows[i][0]
        _offer(problem, watch, tuple(tuple(group) for group in groups), (1,) * problem.capacity)
        return
    shares = split(weights, problem.capacity)
    most = [problem.units] * n if most is None else most
    if sum(most) <= problem.capacity:
        shares = tuple(most)
    _offer(problem, watch, tuple((i,) for i in range(n)), tuple(min(s, problem.units) for s in shares))


def split(weights: Sequence[float], capacity: int) -> tuple[int, ...]:
    """`capacity` units in proportion to `weights`, whole and at least 1 each (largest remainders; ties to the first).

    At most `capacity` weights.
    """
    n = len(weights)
    scale = (capacity - n) / sum(weights)
    exact = [1 + weight * scale for weight in weights]
    shares = [math.floor(share) for share in exact]
    by_remainder = sorted(range(n), key=lambda i: shares[i] - exact[i])
    for i in by_remainder[: capacity - sum(shares)]:
        shares[i] += 1
    return tuple(shares)


def _offer(problem: Problem, watch: Watch, groups: Groups, shares: tuple[int, ...]) -> None:
    watch.evaluations += 1
    jct_s = problem.jct_s(groups, shares)
    if jct_s < math.inf and not breaks_limit(problem, groups):
        watch.judge(groups, shares, jct_s)
