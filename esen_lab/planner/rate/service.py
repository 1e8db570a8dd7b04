"""How long a plan takes for a batch of so many rows, between the batches that were measured."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from esen_lab.common.statistics import quantile
from esen_lab.errors import UsageError


def between_sizes(sizes: Sequence[int], at_s: Callable[[int], float], rows: int) -> float:
    """Seconds for so many rows, from those of a few sizes.

    On the line between two sizes; below the least as the least; beyond the largest in proportion: never too hopeful.

    Args:
        sizes: Numbers of rows, ascending, at least one.
        at_s: What each of them takes.
        rows: How many, above 0.
    """
    place = bisect_left(sizes, rows)
    if place == 0:
        return at_s(sizes[0])
    below = sizes[place - 1]
    if place == len(sizes):
        return at_s(below) * rows / below
    above = sizes[place]
    return at_s(below) + (at_s(above) - at_s(below)) * (rows - below) / (above - below)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceTimes:
    """The time that one plan takes for a batch, by its rows.

    Attributes:
        by_rows: (rows, seconds), by ascending rows: what was measured. Larger batches never take less here: a batch
            that was measured slower than a larger one counts as fast as that.
        factors: (factor, weight): how runs scatter around that time; weights sum to 1.
    """

    by_rows: tuple[tuple[int, float], ...]
    factors: tuple[tuple[float, float], ...] = ((1.0, 1.0),)

    def __post_init__(self) -> None:
        """Check the figures."""
        rows = [rows for rows, _ in self.by_rows]
        if not rows or rows != sorted(set(rows)) or rows[0] < 1 or not all(0 < s < math.inf for _, s in self.by_rows):
            raise UsageError("Times of batches are of ascending numbers of rows, each above 0", given=self.by_rows)

    @classmethod
    def of(cls, samples_s: Mapping[int, tuple[float, ...]]) -> ServiceTimes:
        """From measured runs.

        Args:
            samples_s: For each number of rows, how long each run took in seconds. Scatter is taken over all of them,
                each relative to the median of its batch, as three equally likely factors.
        """
        medians = {rows: quantile(found, 0.5) for rows, found in sorted(samples_s.items())}
        least = float("inf")
        falling = {rows: (least := min(least, median)) for rows, median in reversed(medians.items())}
        relative = sorted(sample / medians[rows] for rows, found in samples_s.items() for sample in found)
        factors = [quantile(relative, q) for q in (1 / 6, 3 / 6, 5 / 6)]
        weights = {factor: factors.count(factor) / len(factors) for factor in factors}
        return cls(by_rows=tuple(reversed(falling.items())), factors=tuple(weights.items()))

    def at_s(self, rows: int) -> float:
        """Seconds for so many rows: measured, on the line between two that were, or in proportion beyond the last."""
        known = dict(self.by_rows)
        return between_sizes(list(known), known.__getitem__, rows)

    @property
    def mean_factor(self) -> float:
        """The mean of the factors."""
        return sum(factor * weight for factor, weight in self.factors)

    def capacity_per_s(self, most_rows: int) -> float:
        """Rows a second at the most, with batches of up to `most_rows`: with fewer, queues do not end."""
        return max(rows / self.at_s(rows) for rows in range(1, most_rows + 1)) / self.mean_factor
