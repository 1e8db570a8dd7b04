"""When requests are due: a Poisson process, the same for the same seed."""

from __future__ import annotations

import math
import random

from esen_lab.common.units import check_number, check_seed
from esen_lab.errors import UsageError

MOST_REQUESTS = 1_000_000
_MOST_S = 1_000_000
"""Clocks of the system do not wait for any number of seconds."""


def check_seconds(value: float, what: str) -> None:
    """Refuse what cannot be waited for.

    Raises:
        UsageError: It is not above 0, or more than 1,000,000 seconds.
    """
    check_number(value, f"{what} is a number of seconds above 0 and up to {_MOST_S:,}", above=0.0, most=_MOST_S)


def check_load(rate_per_s: float, duration_s: float) -> None:
    """Whether there can be such a load.

    Raises:
        UsageError: A number is not above 0, or there would be more than a million requests.
    """
    check_number(rate_per_s, "The rate of a load is a number above 0", above=0.0, below=math.inf)
    check_seconds(duration_s, "The duration of a load")
    if rate_per_s * duration_s > MOST_REQUESTS:
        raise UsageError(
            f"A load has at most {MOST_REQUESTS:,} requests", given=f"{rate_per_s:g}/s for {duration_s:g} s"
        )


def arrivals_s(rate_per_s: float, duration_s: float, seed: int = 0) -> tuple[float, ...]:
    """Ascending seconds from the beginning at which requests are due; at least one.

    Args:
        rate_per_s: How many a second, on average.
        duration_s: For how long.
        seed: Of the random numbers. At twice the rate the same seed gives the same process, twice as fast.

    Raises:
        UsageError: A number is not above 0, the seed is none, or there would be more than a million requests.
    """
    check_load(rate_per_s, duration_s)
    draw = random.Random(check_seed(seed))  # noqa: S311  no secret
    found: list[float] = []
    now_s = draw.expovariate(1.0) / rate_per_s
    while now_s < duration_s or not found:
        found.append(min(now_s, duration_s))  # a lone one, however rare they are, comes within that time
        now_s += draw.expovariate(1.0) / rate_per_s
    return tuple(found)
