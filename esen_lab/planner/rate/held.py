"""The largest rate that is held within a limit of the 99th percentile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from esen_lab.planner.rate.queue import Latencies, latencies
from esen_lab.planner.rate.service import ServiceTimes

_STEPS = 8  # of halving, from the first rate on that is held
_LEAST_PART = 2.0**-18
"""Of the capacity: lower rates are not looked at. At them, requests hardly ever meet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldRate:
    """The largest rate that one plan holds.

    Attributes:
        rate_per_s: Requests a second; 0 where not even rare single ones are in time.
        at: The latencies there; None where it is 0.
    """

    rate_per_s: float
    at: Latencies | None


def batches_up_to(most_rows: int) -> tuple[int, ...]:
    """The largest batches that are tried: powers of two, and the most."""
    return tuple(sorted({most_rows, *(2**i for i in range(most_rows.bit_length()))}))


def best_batch(service: ServiceTimes, rate_per_s: float, most_rows: int) -> Latencies:
    """The largest batch, up to `most_rows`, with the lowest 99th percentile at a rate."""
    return min((latencies(service, rate_per_s, rows) for rows in batches_up_to(most_rows)), key=_order)


def most_rate_per_s(service: ServiceTimes, p99_s: float, most_rows: int) -> HeldRate:
    """The largest rate with its 99th percentile within `p99_s`, by halving between 0 and the capacity."""
    batches = batches_up_to(most_rows)
    high = service.capacity_per_s(most_rows)
    low = high * _LEAST_PART
    late = service.at_s(1) * max(factor for factor, _ in service.factors) > p99_s
    found = None if late else _first_within(service, low, p99_s, batches)
    if found is None:
        return HeldRate(rate_per_s=0.0, at=None)
    # A rate that is held may be a small part of the capacity: what counts is how near the next one is that is not.
    while high - low > low * 2.0**-_STEPS:
        middle = (low + high) / 2
        tried = _first_within(service, middle, p99_s, batches)
        if tried is None:
            high = middle
        else:
            low, found = middle, tried
    return HeldRate(rate_per_s=low, at=found)


def _first_within(service: ServiceTimes, rate: float, p99_s: float, batches: Sequence[int]) -> Latencies | None:
    for rows in reversed(batches):  # large batches hold more
        found = latencies(service, rate, rows)
        if found.p99_s <= p99_s:
            return found
    return None


def _order(found: Latencies) -> tuple[float, int]:
    return found.p99_s, found.most_rows
