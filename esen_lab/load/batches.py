"""Requests due at random, joined to batches by whoever answers one batch at a time in this process.

The loop is the load's generator and the server's queue in one: while a batch is worked on, nothing here takes a core
from it, and what has become due meanwhile is seen when it is done. A request's time counts from when it was due, also
where it had to wait for its turn to be sent (no coordinated omission).
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Replies:
    """One request.

    Attributes:
        due_s: When it was due, in seconds from the beginning.
        begin_s: When work on it began; inf where it never did.
        end_s: When its answer was there; inf where it never was.
        rows: How many rows its batch had; 0 where nobody knows.
    """

    due_s: float
    begin_s: float = math.inf
    end_s: float = math.inf
    rows: int = 0

    @property
    def latency_s(self) -> float:
        """From when it was due to its answer."""
        return self.end_s - self.due_s


def drive(
    answer: Callable[[int], object],
    due_s: Sequence[float],
    *,
    most_rows: int,
    give_up_s: float,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], object] = time.sleep,
) -> list[Replies]:
    """Have every request answered: what is due when a batch is done goes together, up to `most_rows`.

    Args:
        answer: Answers so many requests, each of one row, as one batch.
        due_s: When each is due, ascending, in seconds from now.
        most_rows: The largest batch.
        give_up_s: No batch is begun after so many seconds: a rate that is not held has no end. What is left over then
            counts as never answered.
        clock: Seconds that go on.
        sleep: Waits so many of them.
    """
    found: list[Replies] = []
    start_s = clock()
    first = 0
    while first < len(due_s):
        now_s = clock() - start_s
        if now_s >= give_up_s:
            break
        if now_s < due_s[first]:
            sleep(min(due_s[first] - now_s, give_up_s))
            continue
        last = first + 1
        while last < len(due_s) and last - first < most_rows and due_s[last] <= now_s:
            last += 1
        begin_s = clock() - start_s
        answer(last - first)
        end_s = clock() - start_s
        found += [Replies(due_s=due, begin_s=begin_s, end_s=end_s, rows=last - first) for due in due_s[first:last]]
        first = last
    return [*found, *(Replies(due_s=due) for due in due_s[first:])]
