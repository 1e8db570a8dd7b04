"""Good placements of many sub-models over many nodes, found quickly and not proven.

1. Packing: by a deadline T every node is a bin and every sub-model takes a part of it (see `bound`). Sub-models are
   put, those first that are largest where they are smallest, into the bin with the lowest price: the part they take
   times the weight of the kind in the bound's last proof; of equal ones into the fullest. The smallest T at which that
   works is found by halving, for bins that lanes can fill, and for bins of which they leave some percent empty.
2. Improvement: a sub-model leaves the slowest node, alone or in exchange for another one, when both nodes are then done
   before that. Areas rule out most exchanges, the rest is tried in the order of how well it fits.
3. Fewer nodes: a node is emptied into the others where that makes nothing slower.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np

from esen_lab.planner.nodes.bound import AreaBound
from esen_lab.planner.nodes.lane_plans import LanePlans
from esen_lab.planner.nodes.nodes_problem import NodeProblem, bits
from esen_lab.planner.problem import Array
from esen_lab.planner.search_state import EXACTLY

_EMPTY = (0.0, 0.02, 0.05, 0.1, 0.2)
"""Parts of a node that lanes may be unable to fill."""
_TRIED = 40
"""So many exchanges are tried with their lanes before the slowest node is left as it is."""
_HALVINGS = 18
_FULL = 1 + EXACTLY
"""A node that is filled to this part is full, and no more than that: parts are sums."""

Masks = tuple[int, ...]


class Deals:
    """One search.

    Args:
        problem: Of the placement.
        plans: Lanes of subsets.
        bound: Which has been asked about deadlines near the best.
        time_limit_s: After which it is content with what it has.
    """

    def __init__(self, problem: NodeProblem, plans: LanePlans, bound: AreaBound, time_limit_s: float) -> None:
        self.problem, self._plans, self._bound = problem, plans, bound
        self._ends_s = time.perf_counter() + time_limit_s
        self.best: Masks = ()
        self.best_s = float("inf")
        self.evaluations = 0

    @property
    def over(self) -> bool:
        """Whether the time limit is reached."""
        return bool(self.best) and time.perf_counter() > self._ends_s

    def offer(self, masks: Masks) -> bool:
        """Take a placement if it is better than the best."""
        self.evaluations += 1
        jct_s = self._plans.jct_s(self.problem, masks, rough=True)
        if not jct_s < self.best_s * (1 - EXACTLY):
            return False
        self.best, self.best_s = masks, jct_s
        return True

    def done_s(self, node: int, mask: int) -> float:
        """When a node has a subset done, by lanes that were found quickly."""
        return self._plans.done_s(self.problem.kinds[self.problem.kind_of[node]], mask, rough=True)

    # --- packing --------------------------------------------------------------------------------------------------

    def pack(self, bound_s: float, most_s: float) -> None:
        """Offer packings for deadlines between the bound and `most_s`, which is surely possible."""
        for empty in _EMPTY:
            masks = self._least(bound_s, most_s, empty)
            if masks is not None:
                self.offer(masks)
            if self.over:
                return

    def _least(self, low_s: float, high_s: float, empty: float) -> Masks | None:
        found = self._packed(high_s, empty)
        for _ in range(_HALVINGS):
            middle_s = (low_s + high_s) / 2
            masks = self._packed(middle_s, empty)
            if masks is None:
                low_s = middle_s
            else:
                high_s, found = middle_s, masks
        return found

    def _packed(self, deadline_s: float, empty: float) -> Masks | None:
        sizes, room = self._bound.sizes(deadline_s)
        room *= 1 - empty
        with np.errstate(divide="ignore", invalid="ignore"):
            parts = np.where(room[:, None] > 0, sizes / room[:, None], np.inf)
        # A sub-model that lanes cannot have smaller may have a node for itself, though some of it should stay empty.
        alone = np.isfinite(sizes) & (sizes <= room[:, None] / (1 - empty) * _FULL)
        parts = np.where(alone, np.minimum(parts, 1.0), np.inf)
        prices = parts * self._bound.weights[:, None]
        bins = _Bins(self.problem)
        for i in np.argsort(-parts.min(axis=0), kind="stable"):
            if not bins.put(int(i), parts[:, i], prices[:, i]):
                return None
        return bins.masks

    # --- improvement ----------------------------------------------------------------------------------------------

    def improve(self) -> None:
        """Exchange sub-models of the slowest node while that helps."""
        masks = list(self.best)
        done_s = [self.done_s(node, mask) for node, mask in enumerate(masks)]
        while not self.over:
            slowest = int(np.argmax(done_s))
            below_s = done_s[slowest] * (1 - EXACTLY)
            for node, mine, theirs in self._exchanges(masks, slowest, below_s):
                self.evaluations += 1
                if self.done_s(slowest, mine) < below_s and self.done_s(node, theirs) < below_s:
                    masks[slowest], masks[node] = mine, theirs
                    done_s[slowest], done_s[node] = self.done_s(slowest, mine), self.done_s(node, theirs)
                    break
            else:
                break
        self.offer(tuple(masks))

    def _exchanges(self, masks: list[int], slowest: int, below_s: float) -> list[tuple[int, int, int]]:
        """(node, what the slowest keeps, what the node has then), those that fit best first."""
        loads = _Loads(self._bound, below_s, self.problem)
        found: list[tuple[float, int, int, int]] = []
        for node in self._unlike(masks, slowest):
            for out in bits(masks[slowest]):
                for back in (0, *(1 << j for j in bits(masks[node]))):
                    mine = masks[slowest] & ~(1 << out) | back
                    theirs = masks[node] & ~back | 1 << out
                    load = max(loads.of(slowest, mine), loads.of(node, theirs))
                    if load <= 1:
                        found.append((load, node, mine, theirs))
        found.sort()
        return [(node, mine, theirs) for _, node, mine, theirs in found[:_TRIED]]

    def _unlike(self, masks: list[int], but: int) -> Iterator[int]:
        """The other nodes, one of each kind and subset."""
        seen: set[tuple[int, int]] = set()
        for node, mask in enumerate(masks):
            state = (self.problem.kind_of[node], mask)
            if node != but and state not in seen:
                seen.add(state)
                yield node

    # --- fewer nodes ----------------------------------------------------------------------------------------------

    def gather(self) -> None:
        """Empty nodes into others, the least loaded first, where the JCT stays what it is."""
        loads = _Loads(self._bound, self.best_s, self.problem)
        used = [node for node, mask in enumerate(self.best) if mask]
        for node in sorted(used, key=lambda node: loads.of(node, self.best[node])):
            if self.over:
                return
            masks = self._without(node, loads)
            if masks is not None:
                self.best = masks

    def _without(self, node: int, loads: _Loads) -> Masks | None:
        masks = list(self.best)
        leaving, masks[node] = masks[node], 0
        for i in bits(leaving):
            others = [other for other in self._unlike(masks, node) if masks[other]]
            fits = sorted((loads.of(other, masks[other] | 1 << i), other) for other in others)
            for load, other in fits[:3]:
                self.evaluations += load <= 1
                if load <= 1 and self.done_s(other, masks[other] | 1 << i) <= self.best_s:
                    masks[other] |= 1 << i
                    break
            else:
                return None
        return tuple(masks)


class _Bins:
    """Nodes that are being filled: those in use, and how many of each kind are not."""

    def __init__(self, problem: NodeProblem) -> None:
        self._free = [list(reversed(kind.nodes)) for kind in problem.kinds]
        self._masks = [0] * problem.count
        self._used: list[tuple[int, int]] = []  # kind, node
        self._left: list[float] = []

    @property
    def masks(self) -> Masks:
        return tuple(self._masks)

    def put(self, i: int, parts: Array, prices: Array) -> bool:
        part, price = parts.tolist(), prices.tolist()
        best: tuple[float, float, int] | None = None  # price, what is left then, number in use or -1 - kind
        for number, ((k, _), left) in enumerate(zip(self._used, self._left, strict=True)):
            if part[k] <= left * _FULL and (best is None or (price[k], left - part[k]) < best[:2]):
                best = (price[k], left - part[k], number)
        for k, free in enumerate(self._free):
            if free and part[k] <= 1 and (best is None or (price[k], 1 - part[k]) < best[:2]):
                best = (price[k], 1 - part[k], -1 - k)
        if best is None:
            return False
        number = best[2]
        if number < 0:
            k = -1 - number
            self._used.append((k, self._free[k].pop()))
            self._left.append(1.0)
            number = len(self._used) - 1
        self._left[number] = best[1]
        self._masks[self._used[number][1]] |= 1 << i
        return True


class _Loads:
    """The part of a node that a subset takes at least, by area, to be done by one deadline; above 1: never."""

    def __init__(self, bound: AreaBound, deadline_s: float, problem: NodeProblem) -> None:
        sizes, room = bound.sizes(deadline_s)
        with np.errstate(divide="ignore", invalid="ignore"):
            self._parts = np.where(room[:, None] > 0, sizes / room[:, None], np.inf).tolist()
        self._kind_of = problem.kind_of

    def of(self, node: int, mask: int) -> float:
        parts = self._parts[self._kind_of[node]]
        return float(sum(parts[i] for i in bits(mask)))
