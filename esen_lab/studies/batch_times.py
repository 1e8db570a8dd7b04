"""How long a cascade takes for a batch whose rows leave between stages.

n       rows of the batch             r_k   reach: the fraction of inputs that get to stage k
T_k(m)  seconds of stage k for m open rows, 0 for none; m is filled up to one of few sizes, as it is run
E       the expected JCT: the sum over stages of the mean of T_k(m) over m ~ Binomial(n, r_k)

A batch is taken to be n inputs drawn one by one from those of the validation data. For a single row E is the sum of
r_k T_k(1). That a stage is asked at all grows with n: nobody is left of 64 rows only where nearly all leave.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import lgamma
from typing import Any

import numpy as np
from numpy.typing import NDArray

from esen_lab.planner.plan import Plan
from esen_lab.run.stage_rows import SIZES, size_for

Times = NDArray[np.float64]
_DRAWS = 4000
WHOLE_BATCH = "each stage as long as for the whole batch, which fewer rows would take less than"
MEASURED_ROWS = "fewer rows as much faster as each sub-model alone was measured to be on the whole device"
ONE_ROW = "one row: a stage is asked whole or not at all"


@dataclass(frozen=True, slots=True, kw_only=True)
class RowTimes:
    """What fewer rows take.

    Attributes:
        rows: Of the whole batch, at least 1.
        ratio: For each sub-model, by number of rows, its latency over that of the whole batch, in (0, 1], as measured;
            empty where that was not measured: every number of rows then takes as long as the whole batch.
    """

    rows: int = 1
    ratio: Mapping[str, Mapping[int, float]] = field(default_factory=dict)

    @property
    def says(self) -> str:
        """What times of fewer rows rest on, for people."""
        if self.rows == 1:
            return ONE_ROW
        return MEASURED_ROWS if self.ratio else WHOLE_BATCH

    def of(self, name: str, rows: int) -> float:
        """The latency of a sub-model for so many rows, over that of the whole batch."""
        known = self.ratio.get(name)
        if not known:
            return 1.0
        sizes = sorted({*known, self.rows})
        return float(np.interp(rows, sizes, [known.get(size, 1.0) for size in sizes]))

    def stage(self, plan: Plan, *, overhead_s: float = 0.0, sizes: int = SIZES) -> Times:
        """T_k(m) for m = 0..n rows.

        Args:
            plan: The lanes of the stage alone, each member with its predicted latency.
            overhead_s: What asking the stage at all costs beside its lanes.
            sizes: At how many sizes of a batch it runs.
        """
        by_size: dict[int, float] = {0: 0.0}
        found = np.zeros(self.rows + 1)
        for rows in range(1, self.rows + 1):
            size = size_for(rows, self.rows, sizes)
            if size not in by_size:
                by_size[size] = overhead_s + max(
                    sum(plan.predicted_s[name] * self.of(name, size) for name in lane.members) for lane in plan.lanes
                )
            found[rows] = by_size[size]
        return found


def expected_stage_s(times: Times, reach: float) -> float:
    """The mean time of a stage: see E above.

    Args:
        times: T_k.
        reach: r_k, 0 to 1.
    """
    rows = len(times) - 1
    if reach <= 0:
        return 0.0
    if reach >= 1:
        return float(times[rows])
    counts = np.arange(rows + 1)
    chosen = np.array([lgamma(rows + 1) - lgamma(k + 1) - lgamma(rows - k + 1) for k in counts])
    weights = np.exp(chosen + counts * np.log(reach) + (rows - counts) * np.log1p(-reach))
    return float((weights * times).sum())


def expected_s(times: Sequence[Times], reach: Sequence[float]) -> float:
    """E, in seconds."""
    return sum(expected_stage_s(own, at) for own, at in zip(times, reach, strict=True))


def worst_s(times: Sequence[Times]) -> float:
    """The JCT of a batch of which nobody leaves early, in seconds."""
    return float(sum(own[-1] for own in times))


def beyond(times: Sequence[Times], reach: Sequence[float], deadline_s: float, *, seed: int = 0) -> float:
    """The fraction of inputs whose answer comes after a deadline: those of batches that take longer than it.

    Args:
        times: T_k of every stage.
        reach: r_k.
        deadline_s: In seconds.
        seed: Of the batches that are drawn.
    """
    rows = len(times[0]) - 1
    leave = -np.diff([*reach, 0.0])
    leave = np.clip(leave, 0.0, None)
    random: Any = np.random.default_rng(seed)
    left = random.multinomial(rows, leave / leave.sum(), size=_DRAWS)
    come = left[:, ::-1].cumsum(axis=1)[:, ::-1]  # how many rows come to each stage
    jct_s = sum(own[come[:, k]] for k, own in enumerate(times))
    if rows == 1 and len(times) > 1:  # exact: an input is late where its own stages are
        ends = np.cumsum([own[1] for own in times])
        return float(leave[ends > deadline_s].sum() / leave.sum())
    return float((jct_s > deadline_s).mean())
