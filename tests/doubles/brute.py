"""Every partition, each with its exact shares: slow, short, and the yardstick that searches are tested by."""

from __future__ import annotations

import functools
import itertools
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
