"""Can every sub-model be done by a deadline? Decided exactly, for all subsets of sub-models at once.

    n   items       N   all of them       S, A, B   subsets, written as bit masks
    T   deadline    C   capacity in units
    w(A)            the smallest share at which a lane with members A is done by T (none: no such share)
    F_k             the subsets that lanes of k units in all can do by T

F_0 holds the empty set, and F_k the unions of an A with w(A) = u <= k and a B in F_(k-u). Whether S is such a union is
counted, for all S together, by the covering product (Björklund, Husfeldt, Kaski and Koivisto, "Fourier meets Möbius",
STOC 2007): with the zeta transform z f (S) = sum over A in S of f(A), the number of pairs (A, B) whose union is S is
the Möbius transform of z f * z g. So a deadline costs about 3 C transforms of 2^n numbers, instead of the 3^n steps
of trying each member of each subset's partition. Covering twice is harmless: a lane without one of its members is
done no later.

One item (the anchor, the one that needs most units) is kept out of the subsets, which halves them: the last step
asks for a lane {anchor} + A whose rest N - A is in F_(C - w). The counts are exact: they stay below 4^n C < 2^53.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from esen_lab.planner.problem import Array, SearchProblem
from esen_lab.planner.search_state import Groups

MOST_ITEMS = 21
"""2^20 subsets: beyond that the tables no longer fit beside anything else."""
Counting = NDArray[np.int32]

_NEVER = 1 << 20
"""A number of units that nobody has; two of them still fit a 32-bit integer."""
_MATRIX_BITS = 7
"""Up to so many bits a transform is one product with a matrix: beyond, that costs more than its steps."""
_SMALL = 1 << 9
"""Up to so many subsets, all shares of a product are taken at once; beyond, that would leave the cache."""


def cost(problem: SearchProblem) -> float:
    """About how many numbers one deadline touches: for choosing between this proof and weaker ones."""
    n, units, capacity = len(problem.items), problem.units, problem.capacity
    return 2.0 ** (n - 1) * ((n + 2) * (units + 2 * capacity) + units * capacity)


class CutShort(Exception):  # noqa: N818  what happened, and nothing that a caller outside of the search sees
    """A deadline was left undecided, because the search is over."""


class Cover:
    """The latencies of all lanes of a problem, kept for one deadline after another.

    Args:
        problem: At most `MOST_ITEMS` items; takes about 24 C 2^n bytes.
        over: Asked between the steps of a deadline, which may take seconds; when it returns True, `CutShort` is raised.
    """

    def __init__(self, problem: SearchProblem, over: Callable[[], bool] = lambda: False) -> None:
        n, units = problem.table.shape
        assert n <= MOST_ITEMS
        self.problem = problem
        areas = problem.table * np.arange(1, units + 1)
        self._anchor = int(np.argmax(areas.min(axis=1)))
        self._others = [i for i in range(n) if i != self._anchor]
        self._bits = n - 1
        sums = np.zeros((1 << self._bits, units))
        for bit, i in enumerate(self._others):
            np.add(sums[: 1 << bit], problem.table[i], out=sums[1 << bit : 2 << bit])
        self._forbid(sums)
        self._lanes = sums
        self._transform = _Transform(self._bits)
        self._over = over
        self._anchor_lanes = self._with_anchor(sums)

    def _forbid(self, sums: Array) -> None:
        conflicts = self.problem.conflicts
        if not conflicts.any():
            return
        masks = np.arange(len(sums))
        for bit, i in enumerate(self._others):
            for other, j in enumerate(self._others[:bit]):
                if conflicts[i, j]:
                    sums[(masks >> bit) & (masks >> other) & 1 == 1] = np.inf

    def _with_anchor(self, sums: Array) -> Array:
        lanes: Array = sums + self.problem.table[self._anchor]
        masks = np.arange(len(sums))
        for bit, i in enumerate(self._others):
            if self.problem.conflicts[self._anchor, i]:
                lanes[(masks >> bit) & 1 == 1] = np.inf
        return lanes

    def plan(self, deadline_s: float, capacity: int | None = None) -> Groups | None:
        """Lanes that do everything by `deadline_s` with the fewest units, or None: there are none. Either is proven.

        Args:
            deadline_s: T; may be infinite.
            capacity: C; the problem's own when None.

        Raises:
            CutShort: `over` said so.
        """
        capacity = self.problem.capacity if capacity is None else capacity
        anchor_needs = _smallest_share(self._anchor_lanes, deadline_s)
        spare = capacity - int(anchor_needs.min())
        if spare < 0:
            return None
        needs = _smallest_share(self._lanes, deadline_s)
        needs[0] = 0
        counts = _Counts(needs, self._transform, spare, self._over)
        fewest = [counts.any_number_of_lanes()]
        groups = self._lanes_of(anchor_needs, needs, fewest, capacity)
        if groups is None or len(groups) <= self.problem.max_lanes:
            return groups
        fewest = [np.where(np.arange(len(needs)) == 0, 0, _NEVER), needs]
        for _ in range(self.problem.max_lanes - 2):
            fewest.append(counts.one_more_lane(fewest[-1]))
        return self._lanes_of(anchor_needs, needs, fewest[: self.problem.max_lanes], capacity)

    def _lanes_of(
        self, anchor_needs: Counting, needs: Counting, fewest: list[Counting], capacity: int
    ) -> Groups | None:
        """The plan behind the tables: one entry of `fewest` per lane besides the anchor's, or one for any number."""
        # The complement of mask A is the mirrored index, so the rest of each anchor lane is the reversed array.
        total = anchor_needs + fewest[-1][::-1]
        chosen = int(np.argmin(total))
        if total[chosen] > capacity:
            return None
        groups = [(self._anchor, *self._members(chosen))]
        rest = len(needs) - 1 - chosen
        while rest:
            if len(fewest) > 1:
                fewest = fewest[:-1]
            lane = _first_lane(rest, needs, fewest[-1])
            groups.append(self._members(lane))
            rest &= ~lane
        return tuple(groups)

    def _members(self, mask: int) -> tuple[int, ...]:
        return tuple(i for bit, i in enumerate(self._others) if mask >> bit & 1)


class SubsetCover:
    """Which subsets of the items can be done by a deadline, each on the whole capacity.

    Args:
        problem: At most `MOST_ITEMS` - 1 items; no conflicts, and as many lanes as items.
    """

    def __init__(self, problem: SearchProblem) -> None:
        n, units = problem.table.shape
        assert n < MOST_ITEMS
        self.problem = problem
        self._lanes = np.zeros((1 << n, units))
        for i in range(n):
            np.add(self._lanes[: 1 << i], problem.table[i], out=self._lanes[1 << i : 2 << i])
        self._transform = _Transform(n)

    def within(self, deadline_s: float) -> NDArray[np.bool_]:
        """For each subset (bit i: item i), whether lanes of at most the capacity do it by the deadline: proven."""
        needs = _smallest_share(self._lanes, deadline_s)
        needs[0] = 0
        counts = _Counts(needs, self._transform, self.problem.capacity, lambda: False)
        return np.asarray(counts.any_number_of_lanes() <= self.problem.capacity)


class _Counts:
    """Covering products for one deadline.

    Args:
        needs: w, shape (2^bits,).
        transform: For this many bits.
        spare: Units besides the anchor's lane; what needs more is not told apart from what cannot be done.
        over: As for `Cover`.
    """

    def __init__(self, needs: Counting, transform: _Transform, spare: int, over: Callable[[], bool]) -> None:
        self._over = over
        self._transform, self._spare, self._size = transform, spare, len(needs)
        kept = needs[needs <= spare]
        self._shares = np.flatnonzero(np.bincount(kept, minlength=1))
        self._shares = self._shares[self._shares > 0]
        self._lanes = transform.zeta((needs == self._shares[:, None]).astype(np.float64))  # one row per share

    def any_number_of_lanes(self) -> Counting:
        """For each subset, the fewest units of lanes that do it by the deadline; `_NEVER` beyond `spare`."""
        fewest = self._nothing()
        reached = np.empty((self._spare + 1, self._size))
        reached[0] = 1.0  # z F_0: the empty set is in every subset
        for k in range(1, self._spare + 1):
            new = self._unions(k, reached) & (fewest == _NEVER)
            if new.any():
                fewest[new] = k
                reached[k] = self._transform.zeta((fewest <= k).astype(np.float64))
            else:
                reached[k] = reached[k - 1]
        return fewest

    def one_more_lane(self, before: Counting) -> Counting:
        """The same with at most one lane more than `before` was found with."""
        fewest = before.copy()
        reached = np.empty((self._spare, self._size))
        for k in range(self._spare):
            reached[k] = self._transform.zeta((before <= k).astype(np.float64))
        for k in range(1, self._spare + 1):
            fewest[self._unions(k, reached) & (fewest > k)] = k
        return fewest

    def _nothing(self) -> Counting:
        fewest = np.full(self._size, _NEVER, dtype=np.int32)
        fewest[0] = 0
        return fewest

    def _unions(self, k: int, reached: Array) -> NDArray[np.bool_]:
        """Which subsets are a lane of u units and a subset reached with k - u."""
        if self._over():
            raise CutShort
        shares = self._shares[: np.searchsorted(self._shares, k, side="right")]
        if self._size <= _SMALL:
            count = np.einsum("ij,ij->j", self._lanes[: len(shares)], reached[k - shares])
        else:
            count, work = np.zeros(self._size), np.empty(self._size)
            for lanes, share in zip(self._lanes, shares, strict=False):
                np.multiply(lanes, reached[k - share], out=work)
                count += work
        return np.asarray(self._transform.moebius(count) > 0.5)


class _Transform:
    """Sums over all subsets, and back, of arrays of shape (..., 2^bits): as matrices where those are small."""

    def __init__(self, bits: int) -> None:
        self._bits = bits
        self._zeta = self._moebius = None
        if bits <= _MATRIX_BITS:
            masks = np.arange(1 << bits)
            inside = (masks[:, None] & ~masks) == 0  # the row's set lies in the column's
            signs = np.where([mask.bit_count() % 2 for mask in range(1 << bits)], -1.0, 1.0)
            self._zeta = inside.astype(np.float64)
            self._moebius = self._zeta * signs[:, None] * signs

    def zeta(self, f: Array) -> Array:
        """Sum over all subsets; `f` may be overwritten."""
        if self._zeta is not None:
            return np.asarray(f @ self._zeta)
        return _zeta(f, self._bits)

    def moebius(self, f: Array) -> Array:
        """The inverse of `zeta`; `f` may be overwritten."""
        if self._moebius is not None:
            return np.asarray(f @ self._moebius)
        return _moebius(f, self._bits)


def _smallest_share(lanes: Array, deadline_s: float) -> Counting:
    """For each lane (row), the smallest share that is done by the deadline, `_NEVER` where none is."""
    within = lanes <= min(deadline_s, sys.float_info.max)  # a forbidden share takes forever, even without a deadline
    share: Counting = within.argmax(axis=1).astype(np.int32)
    share += 1
    share[~within[np.arange(len(share)), share - 1]] = _NEVER
    return share


def _first_lane(rest: int, needs: Counting, fewest: Counting) -> int:
    """A lane within `rest` that a plan with the fewest units begins with."""
    masks = np.arange(1, rest + 1)
    masks = masks[masks & ~rest == 0]
    return int(masks[np.argmin(needs[masks] + fewest[rest ^ masks])])


def unions(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which sets are a set of `one` united with a set of `other`; each of shape (2^n,)."""
    bits = len(one).bit_length() - 1
    product = _zeta(one.astype(np.float64), bits) * _zeta(other.astype(np.float64), bits)
    return np.asarray(_moebius(product, bits) > 0.5)


def _zeta(f: Array, bits: int) -> Array:
    """Sum over all subsets, in place; shape (2^bits,)."""
    for bit in range(bits):
        pairs = f.reshape(-1, 2, 1 << bit)
        pairs[:, 1] += pairs[:, 0]
    return f


def _moebius(f: Array, bits: int) -> Array:
    """The inverse of `_zeta`, in place."""
    for bit in range(bits):
        pairs = f.reshape(-1, 2, 1 << bit)
        pairs[:, 1] -= pairs[:, 0]
    return f
