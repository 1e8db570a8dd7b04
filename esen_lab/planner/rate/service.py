"""How long a plan takes for a batch of so many rows, between the batches that were measured."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

from esen_lab.errors import UsageError


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
        if not rows or rows != sorted(set(rows)) or rows[0] < 1 or any(s <= 0 for _, s in self.by_rows):
            raise UsageError("Times of batches are of ascending numbers of rows, each above 0", given=self.by_rows)

    @classmethod
    def of(cls, samples_s: Mapping[int, tuple[float, ...]]) -> ServiceTimes:
        """From measured runs.

        Args:
            samples_s: For each number of rows, how long each run took in seconds. Scatter is taken over all of them,
                each relative to the median of its batch, as three equally likely factors.
        """
        medians = {rows: _quantile(sorted(found), 0.5) for rows, found in sorted(samples_s.items())}
        least = float("inf")
        falling = {rows: (least := min(least, median)) for rows, median in reversed(medians.items())}
        relative = sorted(sample / medians[rows] for rows, found in samples_s.items() for sample in found)
        factors = [_quantile(relative, q) for q in (1 / 6, 3 / 6, 5 / 6)]
        weights = {factor: factors.count(factor) / len(factors) for factor in factors}
        return cls(by_rows=tuple(reversed(falling.items())), factors=tuple(weights.items()))

    def at_s(self, rows: int) -> float:
        """Seconds for so many rows: measured, on the line between two that were, or in proportion beyond the last."""
        known = self.by_rows
        if rows <= known[0][0]:
            return known[0][1]
        for (low, low_s), (high, high_s) in itertools.pairwise(known):
            if rows <= high:
                return low_s + (high_s - low_s) * (rows - low) / (high - low)
        return known[-1][1] * rows / known[-1][0]

    @property
    def mean_factor(self) -> float:
        """The mean of the factors."""
        return sum(factor * weight for factor, weight in self.factors)

    def capacity_per_s(self, most_rows: int) -> float:
        """Rows a second at the most, with batches of up to `most_rows`: with fewer, queues do not end."""
        return max(rows / self.at_s(rows) for rows in range(1, most_rows + 1)) / self.mean_factor


def _quantile(values: list[float], q: float) -> float:
    """Of ascending values, on the line between two of them."""
    at = q * (len(values) - 1)
    low = int(at)
    high = min(low + 1, len(values) - 1)
    return values[low] + (values[high] - values[low]) * (at - low)
