"""Random partitions, each with its exact shares: what a searcher has to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from esen_lab.errors import UsageError
from esen_lab.search.problem import Problem, breaks_limit
from esen_lab.search.shares import best_shares
from esen_lab.search.watch import Watch, check_time_limit


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomSearch:
    """Options of the random searcher.

    Attributes:
        n_trials: How many partitions to try.
        seed: Of the generator.
        time_limit_s: No trial begins after so many seconds; None for no limit.
    """

    measures: ClassVar[bool] = True
    n_trials: int = 1000
    seed: int = 0
    time_limit_s: float | None = None

    def __post_init__(self) -> None:
        """Check the options."""
        if self.n_trials < 1:
            raise UsageError("A random search makes at least one trial", given=f"n_trials={self.n_trials!r}")
        check_time_limit(self.time_limit_s)

    def __call__(self, problem: Problem, watch: Watch) -> None:
        """See `Searcher`."""
        watch.limit(float("inf") if self.time_limit_s is None else self.time_limit_s)
        random = np.random.default_rng(self.seed)
        n = len(problem.items)
        for _ in range(self.n_trials):
            if watch.over:
                return
            watch.evaluations += 1
            lane_of = random.integers(1 + random.integers(problem.max_lanes), size=n)
            groups = tuple(tuple(np.flatnonzero(lane_of == lane).tolist()) for lane in np.unique(lane_of))
            found = None if breaks_limit(problem, groups) else best_shares(problem, groups)
            if found is not None:
                watch.judge(groups, *found)
