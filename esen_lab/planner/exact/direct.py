"""The best plan of lanes in one pass, for small cases: a dynamic program over subsets and units.

    n   items       S, A   subsets of the items but the first, as bit masks
    C   capacity    L[A, u]   seconds that the items of A take one after another in a lane of u units
    F[S, k]   the shortest JCT of the items of S in lanes of k units in all

    F[{}, k] = 0,  F[S, k] = min over A in S that hold the first item of S, and u <= k, of max(L[A, u], F[S - A, k - u])

The last step gives a lane to the item that was kept out, and with it everything. Since u >= 1, all F[., k] follow from
those of fewer units, so one step of NumPy does all S and A of a k at once. That takes 3^(n-1) C^2 / 4 numbers in C
steps, and no deadline is tried: faster than `cover` where that is small, and hopeless elsewhere.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from esen_lab.planner.problem import Array, SearchProblem
from esen_lab.planner.search_state import Groups

_STEP = 4000
Masks = NDArray[np.intp]


def cost(problem: SearchProblem) -> float:
    """About how many numbers `best_groups` touches, where starting a step counts as some thousand of them.

    Infinite where it does not apply: the number of lanes is limited.
    """
    n, capacity = len(problem.items), problem.capacity
    if problem.max_lanes < min(n, capacity):
        return float("inf")
    return 3.0 ** (n - 1) * capacity * (capacity + 1) / 4 + _STEP * capacity


def best_groups(problem: SearchProblem) -> Groups | None:
    """The partition into lanes whose best shares give the shortest JCT of all; None: no plan keeps the limits."""
    n, units, capacity = len(problem.items), problem.units, problem.capacity
    lanes = _lane_tables(problem)
    first = lanes + problem.table[0]
    first[_meets(problem, 0)] = np.inf
    whole, part = _pairs(n - 1)
    rest = whole ^ part
    starts = np.flatnonzero(np.diff(whole, prepend=-1))
    best = np.full((capacity + 1, 1 << (n - 1)), np.inf)
    best[:, 0] = 0.0
    lanes_of = np.ascontiguousarray(lanes.T)[:, part]  # one row per share
    for k in range(1, capacity + 1):
        if n > 1:
            most = min(k, units)
            # Lane of u = 1..most units, and the rest in k - u.
            jct = np.maximum(lanes_of[:most], best[k - most : k][::-1][:, rest]).min(axis=0)
            best[k, 1:] = np.minimum.reduceat(jct, starts)
    most = min(units, capacity)
    everything = (1 << (n - 1)) - 1
    beside = best[capacity - most : capacity][::-1][:, everything ^ np.arange(1 << (n - 1))]
    total = np.maximum(first.T[:most], beside)
    u, mask = divmod(int(total.argmin()), total.shape[1])
    if not np.isfinite(total[u, mask]):
        return None
    groups = [(0, *_members(mask))]
    left, k = everything ^ mask, capacity - u - 1
    while left:
        of_left = np.flatnonzero(whole == left)
        most = min(k, units)
        jct = np.maximum(lanes_of[:most][:, of_left], best[k - most : k][::-1][:, rest[of_left]])
        u, chosen = divmod(int(jct.argmin()), len(of_left))
        mask = int(part[of_left[chosen]])
        groups.append(_members(mask))
        left, k = left ^ mask, k - u - 1
    return tuple(groups)


def _lane_tables(problem: SearchProblem) -> Array:
    """L for all subsets of the items but the first, shape (2^(n-1), U); infinite where two may not share a lane."""
    n, units = problem.table.shape
    lanes = np.zeros((1 << (n - 1), units))
    for bit in range(n - 1):
        joined = lanes[: 1 << bit] + problem.table[bit + 1]
        joined[_meets(problem, bit + 1)[: 1 << bit]] = np.inf
        lanes[1 << bit : 2 << bit] = joined
    return lanes


def _meets(problem: SearchProblem, item: int) -> NDArray[np.bool_]:
    """For each subset of the items but the first, whether it holds one that may not share a lane with `item`."""
    foes = sum(1 << bit for bit in range(len(problem.items) - 1) if problem.conflicts[item, bit + 1])
    return np.asarray((np.arange(1 << (len(problem.items) - 1)) & foes) != 0)


def _pairs(bits: int) -> tuple[Masks, Masks]:
    """All (S, A) where A is a part of S that holds its lowest bit, sorted by S."""
    whole, part = np.zeros(1, dtype=np.intp), np.zeros(1, dtype=np.intp)
    for bit in range(bits - 1, -1, -1):
        one = 1 << bit
        whole, part = np.concatenate((whole, whole | one, whole | one)), np.concatenate((part, part, part | one))
    holds = (part & whole & -whole) != 0
    whole, part = whole[holds], part[holds]
    order = np.argsort(whole, kind="stable")
    return whole[order], part[order]


def _members(mask: int) -> tuple[int, ...]:
    return tuple(bit + 1 for bit in range(mask.bit_length()) if mask >> bit & 1)
