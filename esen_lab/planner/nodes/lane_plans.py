"""What is known of the lanes of subsets on single nodes: each is searched once, however often placements ask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from esen_lab.errors import InfeasibleError
from esen_lab.planner.allocate import allocate
from esen_lab.planner.allocation import Allocation
from esen_lab.planner.nodes.nodes_problem import NodeKind, NodeProblem, bits
from esen_lab.planner.nodes.subsets import SubsetTimes

MOST_EXACT = 14
"""Up to so many sub-models the lanes of each node are exact, and so are placements where memory allows."""
_FEW = 6
"""So few sub-models are searched exactly in no time."""


class LanePlans:
    """Lanes by kind of node and subset, for all placements of the same sub-models on some of the same kinds."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(names)
        self._exact = len(self._names) <= MOST_EXACT
        self._found: dict[tuple[int, int, bool], Allocation | None] = {}
        self._times: dict[int, SubsetTimes] = {}

    def times(self, kind: NodeKind) -> SubsetTimes:
        """What is known of the time of all subsets at once; at most `MOST_EXACT` sub-models."""
        if kind.tables not in self._times:
            self._times[kind.tables] = SubsetTimes(kind.search)
        return self._times[kind.tables]

    def lanes(self, kind: NodeKind, mask: int, *, rough: bool = False) -> Allocation | None:
        """The best lanes for a subset on a node, or None: it is empty, or no lanes can have it.

        Args:
            kind: The kind of node.
            mask: The subset.
            rough: Whether quick lanes do, where the best ones are not found at once.
        """
        if not mask:
            return None
        rough = rough and not self._exact and mask.bit_count() > _FEW
        key = (kind.tables, mask, rough)
        if key not in self._found:
            self._found[key] = self._search(kind, mask, rough)
        return self._found[key]

    def _search(self, kind: NodeKind, mask: int, rough: bool) -> Allocation | None:
        options: dict[str, Any] = {}
        if rough:
            options = {"proof": False, "steps": 0}
        elif not self._exact:
            options = {"time_limit_s": 0.5, "steps": 60}
        mine = {name: kind.latencies[name] for name in (self._names[i] for i in bits(mask))}
        try:
            return allocate(mine, kind.units, sequential_within=0.0, **options)
        except InfeasibleError:
            return None

    def done_s(self, kind: NodeKind, mask: int, *, rough: bool = False) -> float:
        """When a node has a subset done, in seconds: inf where no lanes can have it."""
        if not mask:
            return 0.0
        lanes = self.lanes(kind, mask, rough=rough)
        return float("inf") if lanes is None else lanes.jct_s + kind.transfer_s(mask)

    def jct_s(self, problem: NodeProblem, masks: Sequence[int], *, rough: bool = False) -> float:
        """The JCT of a placement, by node: that of its last node, in seconds."""
        kinds = (problem.kinds[k] for k in problem.kind_of)
        return max(self.done_s(kind, mask, rough=rough) for kind, mask in zip(kinds, masks, strict=True))
