"""Given who shares a lane with whom, the best shares: exact, for any table.

Start every lane at its smallest share; raise the slowest lane to its next share that is strictly faster, while that
fits. At each moment every lane has the smallest share that reaches the current JCT, so when the slowest lane's next
share does not fit, no shares reach a shorter JCT. Units left over then go on to the next slowest lanes: the JCT stays
and the other lanes finish earlier.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence

from esen_lab.planner.problem import SearchProblem


def best_shares(problem: SearchProblem, groups: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], float] | None:
    """The shares that minimise the JCT of `groups`, and that JCT in seconds.

    Returns:
        None when no shares keep the limits (the smallest allowed ones do not fit, or a lane's members allow no common
        share).
    """
    tables = [_lane_table(problem, group) for group in groups]
    shares = []
    for table in tables:
        first = next((u for u, latency in enumerate(table, start=1) if latency < math.inf), 0)
        if not first:
            return None
        shares.append(first)
    free = problem.capacity - sum(shares)
    if free < 0:
        return None
    # Ties of latency are broken by the lane's number, so the result is a function of the input alone.
    slowest = [(-table[share - 1], lane) for lane, (table, share) in enumerate(zip(tables, shares, strict=True))]
    heapq.heapify(slowest)
    while slowest and free:
        latency, lane = slowest[0]
        table, share = tables[lane], shares[lane]
        wider = share + 1
        # Only the first `free` wider shares are looked at: a strictly faster one beyond them would not fit.
        last = min(share + free, problem.units)
        while wider <= last and not table[wider - 1] < -latency:
            wider += 1
        if wider > last:
            heapq.heappop(slowest)
            continue
        free -= wider - share
        shares[lane] = wider
        heapq.heapreplace(slowest, (-table[wider - 1], lane))
    return tuple(shares), max(table[share - 1] for table, share in zip(tables, shares, strict=True))


def _lane_table(problem: SearchProblem, group: Sequence[int]) -> Sequence[float]:
    if len(group) == 1:
        return problem.rows[group[0]]
    return [math.fsum(column) for column in zip(*(problem.rows[i] for i in group), strict=True)]
