"""A lower bound on the JCT of any placement in lanes, sharper than areas where lanes hold few sub-models.

Areas may be cut into any pieces; lanes may not. By deadline T, a lane of u units on a node of kind k has the time
T - f_k for its sub-models A and their outputs, so it needs

    sum over A of (t_k[i, u] + o_k[i])  <=  T - f_k ,

and the lanes of a node have at most U_k units. Give every sub-model a value y_i >= 0, all together 1, and let V_k(y) be
the most that the lanes of one node can be worth: for each u the knapsack of a lane, and then the best u's that sum to
U_k. All nodes together are worth at most the sum of m_k V_k(y); a placement is worth 1. So

    sum over k of m_k V_k(y)  <  1

proves that T is not possible. (It is the dual of the linear program over all lanes that there can be, as Gilmore and
Gomory set it up for cutting stock, Operations Research 9, 1961; here nodes are the rolls.) Values are found as the
weights in `bound` are: those of sub-models that the best lanes hold too often become smaller. Times in knapsacks are
rounded down to a grid, which can only make lanes worth more: every proof holds.
"""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from esen_lab.planner.nodes.nodes_problem import NodeProblem
from esen_lab.planner.problem import Array

_GRID = 256
_ROUNDS = 25
_HALVINGS = 4
_STEP = 0.3
_CLEARLY = 1 - 1e-9


class LaneBound:
    """Which deadlines lanes rule out.

    Args:
        problem: Of the placement.
        ends_s: When, by `time.perf_counter`, no further proof is looked for.
    """

    def __init__(self, problem: NodeProblem, ends_s: float) -> None:
        self.problem, self._ends_s = problem, ends_s
        n = len(problem.names)
        self._nodes = [min(len(kind.nodes), n) for kind in problem.kinds]
        areas = [(kind.table * np.arange(1, kind.units + 1)).min(axis=1) / kind.units for kind in problem.kinds]
        self.values: Array = np.min(areas, axis=0)
        self.values /= self.values.sum()

    def within(self, most_s: float, least_s: float) -> float:
        """The largest deadline that is known to be ruled out, at least `least_s`, by halving: proven, in seconds."""
        low, high = least_s, most_s
        for _ in range(_HALVINGS):
            if time.perf_counter() > self._ends_s:
                break
            middle = (low + high) / 2
            low, high = (middle, high) if self.rules_out(middle) else (low, middle)
        return low

    def rules_out(self, deadline_s: float) -> bool:
        """Whether no placement is done by a deadline: proven where True."""
        nodes = [
            (_NodeWorth(kind.table + kind.output_s[:, None], deadline_s - kind.fixed_s), count)
            for kind, count in zip(self.problem.kinds, self._nodes, strict=True)
            if deadline_s > kind.fixed_s
        ]
        values, held = self.values, np.zeros(len(self.values))
        for done in range(1, _ROUNDS + 1):
            worth, often = 0.0, np.zeros(len(values))
            for node, count in nodes:
                most, lanes = node.most(values)
                worth += count * most
                often += count * lanes
            if worth < _CLEARLY:
                self.values = values
                return True
            held += often
            if float(held.min()) >= done or time.perf_counter() > self._ends_s:
                break  # in the mean every sub-model is held: lanes in fractions, so there is no proof
            values = values * np.exp(-_STEP * often / (float(often.max()) * np.sqrt(done)))
            values = values / values.sum()
        self.values = values
        return False


class _NodeWorth:
    """The most that the lanes of one node can be worth by a deadline.

    Args:
        table: Seconds of each sub-model by share, outputs included, shape (n, U); never rising with the share.
        left_s: What the node has.
    """

    def __init__(self, table: Array, left_s: float) -> None:
        n, units = table.shape
        grid = np.floor(np.minimum(table * (_GRID * _CLEARLY / left_s), 2 * _GRID))
        self._sizes: NDArray[np.intp] = grid.astype(np.intp)
        fits = self._sizes <= _GRID
        self._from = [int(row.argmax()) if row.any() else units for row in fits]  # the narrowest lane, less one
        columns = np.arange(_GRID + 1)
        self._before = [columns - self._sizes[i, first:, None] for i, first in enumerate(self._from)]
        self._shape = (n, units)

    def most(self, values: Array) -> tuple[float, Array]:
        """The most that its lanes are worth, and how many of them hold each sub-model."""
        n, units = self._shape
        worth = np.zeros((units, _GRID + 1))
        taken = np.zeros((n, units, _GRID + 1), dtype=np.bool_)
        for i, (first, before) in enumerate(zip(self._from, self._before, strict=True)):
            if first < units:
                offered = np.take_along_axis(worth[first:], np.maximum(before, 0), axis=1) + values[i]
                better = (before >= 0) & (offered > worth[first:])
                taken[i, first:] = better
                worth[first:][better] = offered[better]
        lanes = worth[:, -1]
        best, chosen = np.zeros(units + 1), np.zeros(units + 1, dtype=np.intp)
        for room in range(1, units + 1):
            offered = lanes[:room] + best[room - 1 :: -1]
            chosen[room] = int(offered.argmax())
            best[room] = offered[chosen[room]]
        return float(best[-1]), self._held(taken, chosen)

    def _held(self, taken: NDArray[np.bool_], chosen: NDArray[np.intp]) -> Array:
        n, units = self._shape
        held = np.zeros(n)
        while units:
            lane, left = int(chosen[units]), _GRID
            for i in range(n - 1, -1, -1):
                if taken[i, lane, left]:
                    held[i] += 1
                    left -= int(self._sizes[i, lane])
            units -= lane + 1
        return held
