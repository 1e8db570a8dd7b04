"""What repeated measurements come to: quantiles, their spread, and how sure the median is.

    n       values
    x(i)    the i-th smallest of them, i = 1..n
    r       the largest rank with P(Binomial(n, 1/2) < r) <= 2.5 %

[x(r), x(n+1-r)] holds the true median with at least 95 % confidence, whatever the distribution (the classical
order-statistics interval: Conover, Practical Nonparametric Statistics, section 3.2). It exists from n = 6 on.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

CONFIDENCE = 0.95
FEWEST_FOR_INTERVAL = 6


def quantile(values: Sequence[float], at: float) -> float:
    """The value below which a part of `values` lies, interpolated between neighbours as NumPy does.

    Args:
        values: At least one, in any order.
        at: The part, 0 to 1: 0.5 for the median.
    """
    ordered = sorted(values)
    position = at * (len(ordered) - 1)
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def spread(values: Sequence[float]) -> float:
    """The interquartile range of at least one value; 0 of a single one."""
    return quantile(values, 0.75) - quantile(values, 0.25)


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """Where the true median lies with 95 % confidence; without bounds where `values` are too few for that."""
    rank = interval_rank(len(values))
    if rank == 0:
        return -math.inf, math.inf
    ordered = sorted(values)
    return ordered[rank - 1], ordered[-rank]


def interval_rank(count: int) -> int:
    """The rank r (see the notation above) for `count` values; 0 where they are too few for an interval.

    Exact up to 500 values; above, the normal approximation of the binomial, rounded outwards.
    """
    tail = (1 - CONFIDENCE) / 2
    if count > 500:
        deviations = statistics.NormalDist().inv_cdf(1 - tail)
        return int((count - deviations * math.sqrt(count)) // 2)
    here = below = 0.5**count  # P(Binomial = rank) and P(Binomial <= rank)
    rank = 0
    while below <= tail:
        here *= (count - rank) / (rank + 1)
        rank += 1
        below += here
    return rank
