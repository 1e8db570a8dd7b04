"""Placements with a proof: for all subsets at once, who has which done by a deadline, with transfer.

A node of kind k has S done by T when its lanes need at most T - f_k - o_k(S) for it, a deadline of their own for each
subset. The cover test (`planner/exact/cover.py`) answers for one deadline of the lanes and all subsets; so what is
known of each subset are two numbers,

    more than low[S],  at most high[S]     seconds of its lanes,

and every cover test brings the two closer. T is asked about as follows:

1. A subset counts as done in time unless low[S] says otherwise. Families of such subsets hold every subset of their
   sets, since both the lanes' time and o_k(S) grow with S.
2. Where no such subsets, one per node, unite to all sub-models, T is not possible: proven.
3. Where some do and high[S] confirms each of them, that is a placement. Else the cover test is asked about the ones in
   doubt, each at its own deadline, and 1 is begun again. Each test settles at least one subset, and mostly thousands.

Without outputs that take time, one test per deadline and kind settles everything. Of m equal nodes no more than n are
looked at, and nodes that are not needed to unite to everything get nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from esen_lab.planner.exact.cover import SubsetCover, unions
from esen_lab.planner.nodes.nodes_problem import NodeKind, NodeProblem
from esen_lab.planner.problem import Array, SearchProblem

Family = NDArray[np.bool_]


class SubsetTimes:
    """What is known of the lanes' time of every subset, on nodes with the same tables."""

    def __init__(self, search: SearchProblem) -> None:
        self._cover = SubsetCover(search)
        self._order = _masks_in_order(search)
        self.low = np.zeros(len(self._order))
        self.high = np.full(len(self._order), np.inf)
        self.high[0] = 0.0

    def ask(self, deadline_s: float) -> None:
        """Find out which subsets are done by a deadline of the lanes."""
        within = self._cover.within(deadline_s)[self._order]
        self.high[within] = np.minimum(self.high[within], deadline_s)
        self.low[~within] = np.maximum(self.low[~within], deadline_s)


def memory_bytes(problem: NodeProblem) -> int:
    """How much memory the cover tests of a problem take: the lanes of all subsets, and sums over them."""
    units = {kind.tables: kind.units for kind in problem.kinds}
    return sum(3 * 8 * of_one * 2 ** len(problem.names) for of_one in units.values())


class Subsets:
    """All placements of a problem, asked for by deadline.

    Args:
        problem: Of at most `MOST_EXACT` sub-models.
        times: What is known of the subsets on a kind of node; kinds with the same tables share it.
    """

    def __init__(self, problem: NodeProblem, times: Callable[[NodeKind], SubsetTimes]) -> None:
        self.problem = problem
        self._times = {kind.tables: times(kind) for kind in problem.kinds}
        self._transfer_s = [_transfer_s(kind) for kind in problem.kinds]
        self.nodes = tuple(len(kind.nodes) for kind in problem.kinds)

    def placement(self, deadline_s: float, nodes: Sequence[int] | None = None) -> tuple[int, ...] | None:
        """Subsets, by node, that are done by a deadline, or None: there are none. Either is proven.

        Args:
            deadline_s: T.
            nodes: How many of each kind may be used; None for all.
        """
        nodes = self.nodes if nodes is None else nodes
        while True:
            left_s = [deadline_s - transfer_s for transfer_s in self._transfer_s]
            families = [self._not_ruled_out(k, left) for k, left in enumerate(left_s)]
            dealt = _unite(families, nodes)
            if dealt is None:
                return None
            doubts = {
                (self.problem.kinds[k].tables, float(left_s[k][mask]))
                for k, mask in dealt
                if self._of(k).high[mask] > left_s[k][mask]
            }
            if not doubts:
                return self._by_node(dealt)
            for tables, lanes_s in sorted(doubts):
                self._times[tables].ask(lanes_s)

    def _of(self, k: int) -> SubsetTimes:
        return self._times[self.problem.kinds[k].tables]

    def _not_ruled_out(self, k: int, left_s: Array) -> Family:
        family: Family = self._of(k).low < left_s
        family[0] = True  # a node that runs nothing waits for nothing
        return family

    def _by_node(self, dealt: Sequence[tuple[int, int]]) -> tuple[int, ...]:
        masks = [0] * self.problem.count
        free = [list(reversed(kind.nodes)) for kind in self.problem.kinds]
        for k, mask in dealt:
            masks[free[k].pop()] = mask
        return tuple(masks)


def _transfer_s(kind: NodeKind) -> Array:
    """Seconds of transfer for every subset; that of the empty one is not used."""
    seconds = np.full(1 << len(kind.output_s), kind.fixed_s)
    for i, output_s in enumerate(kind.output_s):
        seconds[1 << i : 2 << i] = seconds[: 1 << i] + output_s
    return seconds


def _masks_in_order(problem: SearchProblem) -> NDArray[np.intp]:
    """For each mask over names, the same subset as a mask over the problem's items."""
    masks = np.arange(1 << len(problem.names))
    places: NDArray[np.intp] = np.zeros_like(masks)
    for place_of, (i,) in enumerate(problem.items):
        places |= ((masks >> i) & 1) << place_of
    return places


def _unite(families: Sequence[Family], nodes: Sequence[int]) -> list[tuple[int, int]] | None:
    """Disjoint subsets (kind, mask), at most one per node, that make up everything, or None: there are none."""
    reached: list[tuple[int, Family]] = []  # after each node: its kind, and what all until then unite to
    for k, (family, count) in enumerate(zip(families, nodes, strict=True)):
        for _ in range(min(count, len(family).bit_length() - 1)):
            united = unions(reached[-1][1], family) if reached else family
            if reached and np.array_equal(united, reached[-1][1]):
                break  # another node of this kind adds nothing
            reached.append((k, united))
            if united[-1]:
                return _parted(families, reached)
    return None


def _parted(families: Sequence[Family], reached: Sequence[tuple[int, Family]]) -> list[tuple[int, int]]:
    """The subsets behind the last of `reached`, which has everything."""
    dealt = []
    rest = len(families[0]) - 1
    for number in range(len(reached) - 1, 0, -1):
        k = reached[number][0]
        masks = np.arange(rest + 1)
        masks = masks[masks & ~rest == 0]
        # Both families hold every subset of their sets, so the rest of a union is in the other one.
        fits = families[k][masks] & reached[number - 1][1][rest ^ masks]
        mask = int(masks[int(fits.argmax())])
        if mask:
            dealt.append((k, mask))
        rest ^= mask
    if rest:
        dealt.append((reached[0][0], rest))
    return dealt
