"""Lanes that keep the limits, however slow: whether there are any is a question about few items only.

    m_i     the shares that item i may have (those where its table is finite)

An item that may share a lane with anybody, and may have every share that some other item may have, can join the lane of
that one and changes nothing there: it takes no unit more, and rules no share out. So only the others, those that limits
speak of, are put into lanes by the cover test (see `cover`), without a deadline; however many sub-models there are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from esen_lab.errors import InfeasibleError
from esen_lab.planner.exact.cover import MOST_ITEMS, Cover, cost
from esen_lab.planner.limits import Limits
from esen_lab.planner.problem import SearchProblem
from esen_lab.planner.search_state import Groups
from esen_lab.planner.shares import best_shares

_MOST_COST = 2e9
"""The cover test touches so many numbers at most: some seconds, and some hundred MB."""


def lanes_within(problem: SearchProblem, capacity: int | None = None) -> Groups | None:
    """Lanes of the items that limits speak of, with the fewest units; None: no lanes keep the limits. Either is proven.

    Args:
        problem: Of any number of items.
        capacity: What the shares may sum to; the problem's own when None.

    Raises:
        Undecided: It takes too long to find out.
    """
    spoken_of = _spoken_of(problem)
    few = dataclasses.replace(
        problem,
        items=tuple(problem.items[i] for i in spoken_of),
        table=problem.table[spoken_of],
        conflicts=problem.conflicts[np.ix_(spoken_of, spoken_of)],
        # A lane has one of them at least.
        capacity=min(problem.capacity if capacity is None else capacity, len(spoken_of) * problem.units),
    )
    if few.one_each:
        groups: Groups | None = tuple((k,) for k in range(len(spoken_of)))
        needed = sum(int(np.isfinite(row).argmax()) + 1 for row in few.table)
        groups = groups if needed <= few.capacity else None
    elif len(spoken_of) > MOST_ITEMS or cost(few) > _MOST_COST:
        raise Undecided(len(spoken_of))
    else:
        groups = Cover(few).plan(float("inf"))
    return None if groups is None else tuple(tuple(spoken_of[k] for k in group) for group in groups)


class Undecided(Exception):  # noqa: N818  what happened
    """Limits speak of too many items to find out whether any lanes keep them.

    Attributes:
        items: Of how many.
    """

    def __init__(self, items: int) -> None:
        super().__init__(items)
        self.items = items


def with_the_rest(problem: SearchProblem, groups: Groups) -> Groups:
    """The lanes of `lanes_within` with all other items: the longest first, each into the lane that is then done first.

    The shares are taken to be the best ones of the lanes without them; exact shares come later.
    """
    taken = {i for group in groups for i in group}
    solved = best_shares(problem, groups)
    assert solved is not None  # they keep the limits
    lanes = [list(group) for group in groups]
    loads = [problem.lane_s(group, share) for group, share in zip(groups, solved[0], strict=True)]
    rest = [i for i in range(len(problem.items)) if i not in taken]
    for i in sorted(rest, key=lambda i: -min(problem.rows[i])):
        ends = [load + problem.rows[i][share - 1] for load, share in zip(loads, solved[0], strict=True)]
        lane = ends.index(min(ends))
        lanes[lane].append(i)
        loads[lane] = ends[lane]
    return tuple(tuple(lane) for lane in lanes)


def _spoken_of(problem: SearchProblem) -> list[int]:
    """The items that no other one makes room for, ascending."""
    may: Sequence[int] = [_as_bits(row) for row in np.isfinite(problem.table)]
    alone = [bool(row.any()) for row in problem.conflicts]

    def makes_room(j: int, i: int) -> bool:
        within = may[j] & ~may[i] == 0
        return within and (may[j] != may[i] or alone[j] or j < i)

    every = range(len(problem.items))
    return [i for i in every if alone[i] or not any(makes_room(j, i) for j in every if j != i)]


def _as_bits(row: np.typing.NDArray[np.bool_]) -> int:
    return int.from_bytes(np.packbits(row).tobytes(), "big")


def why_infeasible(problem: SearchProblem, limits: Limits) -> InfeasibleError:
    """The error for a problem that the exact searcher found no plan for: which limit it is, and by how much."""
    try:
        return _why(problem, _asked(limits))
    except Undecided as problem_of:
        return InfeasibleError(
            "No plan that keeps the limits was found",
            given=f"limits on {problem_of.items} sub-models; whether there is one is not proven for so many",
            hint="Loosen a limit.",
        )


def _why(problem: SearchProblem, asked: str) -> InfeasibleError:
    n = len(problem.items)
    plenty = n * problem.units
    groups = lanes_within(problem, plenty)
    if groups is not None:
        needed = sum(_smallest(problem, group) for group in groups)
        return InfeasibleError(
            f"The lanes' shares sum to at most {problem.capacity} units",
            given=f"{asked} need {needed} units, {needed - problem.capacity} too many",
            hint="Loosen one of them, or oversubscribe.",
        )
    for lanes in range(problem.max_lanes + 1, n + 1):
        if lanes_within(dataclasses.replace(problem, max_lanes=lanes), plenty) is not None:
            break
    return InfeasibleError(
        f"A plan has at most {problem.max_lanes} lanes here",
        given=f"{asked} need {lanes} lanes, {lanes - problem.max_lanes} too many",
        hint="Allow more lanes, or loosen what keeps the sub-models apart.",
    )


def _smallest(problem: SearchProblem, group: tuple[int, ...]) -> int:
    return next(u for u in range(1, problem.units + 1) if problem.lane_s(group, u) < float("inf"))


def _asked(limits: Limits) -> str:
    parts = [
        f"{what} ({', '.join(f'{name}: {share}' for name, share in getattr(limits, what).items())})"
        for what in ("pinned", "min_units", "max_units")
        if getattr(limits, what)
    ]
    if limits.apart:
        parts.append(f"apart ({'; '.join(', '.join(group) for group in limits.apart)})")
    return " and ".join(parts) or "the sub-models"
