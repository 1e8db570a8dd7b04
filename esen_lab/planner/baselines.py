"""The plans that people make without a search: what a found one is compared against.

The comparison runs the same two (`esen_lab.run.baselines`); here they are predicted, and keep to limits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from esen_lab.planner.problem import SearchProblem, breaks_limit
from esen_lab.planner.search_state import Groups, SearchWatch


def equal_share(lanes: int, units: int) -> int:
    """The share of each of so many lanes that get 1/n of the device: whole units, at least one."""
    return max(1, units // lanes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequential:
    """One lane with the whole device: no sharing at all. No options."""

    measures: ClassVar[bool] = True

    def __call__(self, problem: SearchProblem, watch: SearchWatch) -> None:
        """See `Searcher`."""
        _offer(problem, watch, (tuple(range(len(problem.items))),), min(problem.units, problem.capacity))


@dataclass(frozen=True, slots=True, kw_only=True)
class Equal:
    """One lane each, of equal shares. No options.

    Where sub-models outnumber units, they are dealt onto lanes of one unit, the longest first, each onto the lane that
    is then done first.
    """

    measures: ClassVar[bool] = True

    def __call__(self, problem: SearchProblem, watch: SearchWatch) -> None:
        """See `Searcher`."""
        n = len(problem.items)
        groups: list[list[int]] = [[] for _ in range(min(n, problem.capacity))]
        loads = [0.0] * len(groups)
        for i in sorted(range(n), key=lambda i: -problem.rows[i][0]):
            lane = loads.index(min(loads))
            groups[lane].append(i)
            loads[lane] += problem.rows[i][0]
        share = min(equal_share(len(groups), problem.capacity), problem.units)
        _offer(problem, watch, tuple(tuple(group) for group in groups), share)


def _offer(problem: SearchProblem, watch: SearchWatch, groups: Groups, share: int) -> None:
    watch.evaluations += 1
    shares = (share,) * len(groups)
    jct_s = problem.jct_s(groups, shares)
    if jct_s < math.inf and not breaks_limit(problem, groups):
        watch.judge(groups, shares, jct_s)
