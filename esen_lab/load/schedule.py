"""When requests are due: a Poisson process, the same for the same seed."""

from __future__ import annotations

import math
import random

from esen_lab.common.units import check_number, check_seed
from esen_lab.errors import UsageError

MOST_REQUESTS = 1_000_000


def check_load(rate_per_s: float, duration_s: float) -> None:
    """Whether there can be such a load.

    Raises:
        UsageError: A number is not above 0, or there would be more than a million requests.
    """
    for name, value in (("rate", rate_per_s), ("duration", duration_s)):
        check_number(value, f"The {name} of a load is a number above 0", above=0.0, below=math.inf)
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
        found.append(now_s)
        now_s += draw.expovariate(1.0) / rate_per_s
    return tuple(found)
