"""A good plan fast: tabu search over partitions, for one deadline after another.

    T         the deadline: just below the best JCT so far
    lane      items that run one after another; its table is the sum of theirs, shape (U,)
    need(A)   the smallest share at which lane A is done by T, and beyond U how far it is from that; a fraction of
              how nearly one unit fewer would do is taken off, which shows the way across plateaus
    M         lanes, some of them empty

A step moves one item to another lane or swaps two items, whichever makes the sum of needs smallest among those that do
not undo a recent step (Glover 1989, "Tabu search, part I"). When the sum of whole needs fits the capacity, the plan
beats T: shares are solved exactly, T falls below the new JCT, and the search goes on from there. All moves and swaps
are kept in two matrices, of which a step changes the rows and columns of two lanes only.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from esen_lab.planner.problem import Array, SearchProblem
from esen_lab.planner.search_state import EXACTLY, Groups, SearchWatch
from esen_lab.planner.shares import best_shares

_NEARLY = 0.3
"""How much of a unit a lane that nearly does with one fewer is credited (tuned against proven optima)."""

_AIM = 0.05
"""The first deadlines aim this part of the way to the bound: each new deadline costs a table of all swaps."""


def starts(problem: SearchProblem) -> Iterator[Groups]:
    """For each number of lanes, longest items first, each into the lane that is then done first.

    The lanes are taken to have equal shares (Graham's LPT rule, 1969); the exact shares come later.
    """
    n = len(problem.items)
    conflicts = problem.conflicts
    for lanes in range(1, problem.max_lanes + 1):
        share = max(1, min(problem.capacity // lanes, problem.units))
        column = problem.table[:, share - 1]
        times = np.where(np.isfinite(column), column, problem.table.min(axis=1)).tolist()
        loads = np.zeros(lanes)
        closed = np.zeros((lanes, n))  # infinite where a lane holds an item that i may not join
        groups: list[list[int]] = [[] for _ in range(lanes)]
        for i in sorted(range(n), key=lambda i: -times[i]):
            lane = int((loads + closed[:, i]).argmin())
            if closed[lane, i]:
                break
            loads[lane] += times[i]
            closed[lane, conflicts[i]] = np.inf
            groups[lane].append(i)
        else:
            yield tuple(tuple(group) for group in groups if group)


def improve(problem: SearchProblem, watch: SearchWatch, *, steps: int, seed: int) -> None:
    """Offer better and better plans to `watch`, beginning with its best: `steps` steps at most.

    Returns early when the bound is met or the watch is over. A function of the problem, the beginning and the seed.
    """
    if watch.best is None or watch.proven or len(problem.items) == 1:
        return
    _Tabu(problem, watch, np.random.default_rng(seed)).run(steps)


class _Tabu:
    def __init__(self, problem: SearchProblem, watch: SearchWatch, random: np.random.Generator) -> None:
        assert watch.best is not None
        self.problem, self.watch, self.random = problem, watch, random
        self.n, self.units = problem.table.shape
        # Lanes are added to and taken from, so a forbidden share is a very long time, not infinity.
        finite = problem.table[np.isfinite(problem.table)]
        self.forbidden_s = 1e4 * float(finite.max()) * self.n
        self.table = np.where(np.isfinite(problem.table), problem.table, self.forbidden_s)
        self.penalty = problem.conflicts * self.forbidden_s
        self.lanes = problem.max_lanes
        self.aim = _AIM
        self.shakes = 0
        self.others = itertools.cycle(list(starts(problem)) or [watch.best.groups])
        self.lane_of = np.zeros(self.n, dtype=np.intp)
        self.load(watch.best.groups)

    def load(self, groups: Groups) -> None:
        for lane, group in enumerate(groups):
            self.lane_of[list(group)] = lane
        self.retarget()

    def retarget(self) -> None:
        """Set T below the best JCT, by the aimed part of what the bound leaves, and work out everything anew."""
        best_s = self.watch.jct_s
        self.deadline_s = min(best_s * (1 - 2 * EXACTLY), best_s - self.aim * (best_s - self.watch.bound_s))
        self.tables = np.zeros((self.lanes, self.units))
        np.add.at(self.tables, self.lane_of, self.table)
        self.clashes = np.zeros((self.lanes, self.n))  # seconds of penalty for item i joining lane k
        np.add.at(self.clashes, self.lane_of, self.penalty)
        for lane in range(self.lanes):
            self.tables[lane] += self.clashes[lane, self.lane_of == lane].sum() / 2
        self.need = np.zeros(self.lanes)
        self.whole = np.zeros(self.lanes)
        self.join = np.empty((self.n, self.lanes))  # need of lane k with item i added
        self.leave = np.empty(self.n)  # need of i's lane without it
        self.trade = np.empty((self.n, self.n))  # need of i's lane with j in i's stead
        self.update(np.arange(self.lanes))

    def needs(self, tables: Array) -> tuple[Array, Array]:
        """(guiding need, whole units) of each lane table, shapes (..., U) -> (...)."""
        flat = tables.reshape(-1, self.units)
        within = flat <= self.deadline_s
        share = within.argmax(axis=1)
        rows = np.arange(len(flat))
        reached = within[rows, share]
        after = flat[rows, share]
        before = flat[rows, np.maximum(share - 1, 0)]
        drop = np.maximum(before - after, 1e-300)
        credit = np.where(share > 0, _NEARLY * (1 - np.minimum((before - self.deadline_s) / drop, 1.0)), 0.0)
        late = self.units * (1.0 + flat.min(axis=1) / self.deadline_s)
        whole = np.where(reached, share + 1.0, late)
        return (whole - np.where(reached, credit, 0.0)).reshape(tables.shape[:-1]), whole.reshape(tables.shape[:-1])

    def update(self, lanes: NDArray[np.intp]) -> None:
        """Work out the needs of `lanes`, and of every move and swap that touches them."""
        k = len(lanes)
        chosen = np.zeros(self.lanes, dtype=bool)
        chosen[lanes] = True
        members = np.flatnonzero(chosen[self.lane_of])
        at = self.lane_of[members]
        sizes = np.bincount(self.lane_of, minlength=self.lanes)
        own = self.tables[lanes]
        joined = own[None, :, :] + self.table[:, None, :] + self.clashes[lanes].T[:, :, None]
        without = self.tables[at] - self.table[members] - self.clashes[at, members][:, None]
        clash = self.clashes[at][:, :] - self.penalty[members]
        traded = without[:, None, :] + self.table[None, :, :] + clash[:, :, None]
        stacked = np.concatenate((own, joined.reshape(-1, self.units), without, traded.reshape(-1, self.units)), axis=0)
        need, whole = self.needs(stacked)
        empty = sizes[lanes] == 0
        self.need[lanes] = np.where(empty, 0.0, need[:k])
        self.whole[lanes] = np.where(empty, 0.0, whole[:k])
        cut = k + self.n * k
        self.join[:, lanes] = need[k:cut].reshape(self.n, k)
        self.leave[members] = np.where(sizes[at] == 1, 0.0, need[cut : cut + len(members)])
        self.trade[members] = need[cut + len(members) :].reshape(len(members), self.n)

    def run(self, steps: int) -> None:
        n, lanes, watch = self.n, self.lanes, self.watch
        until = np.zeros((n, lanes), dtype=np.int64)  # item i may not enter lane k before this step
        best_total, stale = np.inf, 0
        patience = 60 + 6 * n
        for step in range(steps):
            if watch.over or watch.proven:
                return
            watch.evaluations += 1
            at = self.lane_of
            base = self.need[at]
            moves = (self.leave - base)[:, None] + self.join - self.need[None, :]
            moves[np.arange(n), at] = np.inf
            swaps = self.trade + self.trade.T - base[:, None] - base[None, :]
            swaps[at[:, None] == at[None, :]] = np.inf
            total = self.need.sum()
            tabu = until > step
            worthwhile = best_total - total - 1e-9  # a step this good is taken even when tabu
            moves[tabu & (moves >= worthwhile)] = np.inf
            blocked = tabu[:, at]
            swaps[(blocked | blocked.T) & (swaps >= worthwhile)] = np.inf
            move, swap = int(moves.argmin()), int(swaps.argmin())
            best_move, best_swap = moves.flat[move], swaps.flat[swap]
            if not min(best_move, best_swap) < np.inf:
                until[:] = 0
                continue
            tenure = step + 3 + int(self.random.integers(2 + n // 2))
            if best_move <= best_swap:
                i, lane = divmod(move, lanes)
                changed = np.array([at[i], lane])
                until[i, at[i]] = tenure
                self.lane_of[i] = lane
            else:
                i, j = divmod(swap, n)
                changed = np.array([at[i], at[j]])
                until[i, at[i]] = until[j, at[j]] = tenure
                self.lane_of[[i, j]] = self.lane_of[[j, i]]
            self.rebuild(changed)
            total = self.need.sum()
            if total < best_total - 1e-9:
                best_total, stale = total, 0
            else:
                stale += 1
            if self.whole.sum() <= self.problem.capacity and self.offer():
                self.retarget()
                best_total, stale = np.inf, 0
            elif stale > patience:
                if self.aim:
                    self.aim = self.aim / 4 if self.aim > _AIM / 30 else 0.0
                    self.retarget()
                else:
                    self.shake(until, step)
                best_total, stale = np.inf, 0

    def rebuild(self, lanes: NDArray[np.intp]) -> None:
        for lane in lanes:
            inside = self.lane_of == lane
            self.clashes[lane] = self.penalty[inside].sum(axis=0)
            self.tables[lane] = self.table[inside].sum(axis=0) + self.clashes[lane, inside].sum() / 2
        self.update(lanes)

    def offer(self) -> bool:
        groups = self.groups()
        solution = best_shares(self.problem, groups)
        return solution is not None and self.watch.offer(groups, *solution)

    def groups(self) -> list[tuple[int, ...]]:
        lanes: Sequence[NDArray[np.intp]] = [np.flatnonzero(self.lane_of == lane) for lane in range(self.lanes)]
        return [tuple(lane.tolist()) for lane in lanes if len(lane)]

    def shake(self, until: NDArray[np.int64], step: int) -> None:
        """Begin elsewhere: in turn, the best plan with two to four lanes dealt anew, and another start."""
        assert self.watch.best is not None
        groups = self.watch.best.groups
        self.shakes += 1
        until[:] = step
        if self.shakes % 2 == 0:
            self.load(next(self.others))
            return
        for lane, group in enumerate(groups):
            self.lane_of[list(group)] = lane
        several = min(len(groups), 2 + int(self.random.integers(3)))
        dealt = self.random.choice(len(groups), several, replace=False)
        for lane in dealt:
            for i in groups[lane]:
                self.lane_of[i] = self.random.choice(dealt)
        self.retarget()
