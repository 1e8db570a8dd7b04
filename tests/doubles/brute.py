"""Every partition, each with its exact shares: slow, short, and the yardstick that searches are tested by."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from esen_lab.errors import InfeasibleError
from esen_lab.planner import Limits, Table
from esen_lab.planner.nodes import NodeLink
from esen_lab.planner.problem import breaks_limit, make_problem
from esen_lab.planner.search_state import Groups
from esen_lab.planner.shares import best_shares


def brute_jct_s(
    latencies: Mapping[str, Table], units: int, *, limits: Limits | Mapping[str, Any] | None = None
) -> float:
    """The shortest JCT of all plans of lanes, in seconds; arguments as for `allocate`.

    Raises:
        InfeasibleError: No plan keeps the limits.
    """
    problem = make_problem(latencies, units, Limits.of(limits))
    tried = (
        best_shares(problem, groups)
        for groups in partitions(len(problem.items), problem.max_lanes)
        if not breaks_limit(problem, groups)
    )
    jcts_s = [plan[1] for plan in tried if plan is not None]
    if not jcts_s:
        raise InfeasibleError("Every partition breaks a limit")
    return min(jcts_s)


def partitions(n: int, most: int) -> Iterator[Groups]:
    """All partitions of 0..n-1 into at most `most` groups, in the order of restricted growth strings."""

    def grow(i: int, groups: list[list[int]]) -> Iterator[Groups]:
        if i == n:
            yield tuple(tuple(group) for group in groups)
            return
        for group in groups:
            group.append(i)
            yield from grow(i + 1, groups)
            group.pop()
        if len(groups) < most:
            groups.append([i])
            yield from grow(i + 1, groups)
            groups.pop()

    return grow(0, [])


def keeps(limits: Limits, groups: list[list[str]], shares: tuple[int, ...], units: int) -> bool:
    """The definition of keeping limits, written down independently."""
    lane_of = {name: k for k, group in enumerate(groups) for name in group}
    share_of = {name: shares[k] for name, k in lane_of.items()}
    return (
        sum(shares) <= math.floor(units * min(limits.oversubscription, 1e6) + 1e-9)
        and all(share_of[name] >= least for name, least in limits.min_units.items())
        and all(share_of[name] <= most for name, most in limits.max_units.items())
        and all(share_of[name] == share for name, share in limits.pinned.items())
        and all(len({lane_of[name] for name in group}) == 1 for group in limits.together)
        and all(len({lane_of[name] for name in group}) == len(set(group)) for group in limits.apart)
        and (limits.max_lanes is None or len(groups) <= limits.max_lanes)
        and (not limits.one_each or all(len(group) == 1 for group in groups))
        and sum(limits.memory_bytes.get(name, 0) for name in lane_of) + limits.lane_bytes * len(groups)
        <= (math.inf if limits.memory_limit_bytes is None else limits.memory_limit_bytes)
    )


def lane_s(table: Table, share: int) -> float:
    """The definition: ruled out, or the fastest of at most so many units that is not."""
    known = [latency for latency in table[:share] if latency is not None]
    return math.inf if table[share - 1] is None else min(known)


def by_trying_all(tables: Mapping[str, Table], units: int, limits: Limits) -> float:
    """The shortest JCT of all plans that keep limits, by their definitions alone; infinite where none does."""
    names, best = list(tables), math.inf
    for indices in partitions(len(names), len(names)):
        groups = [[names[i] for i in group] for group in indices]
        for shares in itertools.product(range(1, units + 1), repeat=len(groups)):
            if keeps(limits, groups, shares, units):
                lanes = [
                    sum(lane_s(tables[name], share) for name in group)
                    for group, share in zip(groups, shares, strict=True)
                ]
                best = min(best, max(lanes))
    return best


def brute_placement_s(
    nodes: Sequence[tuple[int, Mapping[str, Table], NodeLink]], output_bytes: Mapping[str, int]
) -> float:
    """The shortest JCT of all placements of sub-models on nodes, transfers included, in seconds.

    Args:
        nodes: For each its units, its tables and its link.
        output_bytes: Of each sub-model.
    """
    names = list(nodes[0][1])

    @functools.cache
    def done_s(node: int, mine: tuple[str, ...]) -> float:
        if not mine:
            return 0.0
        units, latencies, link = nodes[node]
        outputs_s = link.byte_s * sum(output_bytes[name] for name in mine)
        jct_s = brute_jct_s({name: latencies[name] for name in mine}, units)
        return link.input_s + jct_s + link.latency_s + outputs_s

    def jct_s(where: tuple[int, ...]) -> float:
        parts = [tuple(n for n, at in zip(names, where, strict=True) if at == node) for node in range(len(nodes))]
        return max(done_s(node, mine) for node, mine in enumerate(parts))

    return min(jct_s(where) for where in itertools.product(range(len(nodes)), repeat=len(names)))
