"""What is to be solved: latency tables, units and limits, checked once and in a form that every searcher reads.

    n   items: sub-models, or several that must stay together, in a canonical order (longest first)
    U   units of the device: the widest a lane can be            u   a lane's share, 1..U
    C   capacity: what the lanes' shares may sum to (U unless oversubscribed)
    t   table, shape (n, U): t[i, u - 1] seconds of item i in a lane of u units, inf where a limit forbids it

The canonical order depends on the tables alone, so a plan does not depend on the order or the names of sub-models.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from esen_lab.errors import InfeasibleError, UsageError
from esen_lab.planner.limits import Limits
from esen_lab.planner.search_state import Groups
from esen_lab.planner.steps import Step

Array = NDArray[np.float64]
Table = Sequence[float | None]
"""Seconds at 1..units units of one sub-model; None: no lane that it is in may have that share."""
_LEAST_S, _MOST_S = 1e-100, 1e100
"""Beyond these, sums and products of latencies are no numbers any more, or do not differ."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SearchProblem:
    """One search's input.

    Attributes:
        names: Every sub-model, in the order given.
        items: For each item, the indices (into `names`) of its sub-models, ascending.
        units: U.
        capacity: C, at least 1.
        table: t, shape (n, U). Within a row, finite entries never increase.
        conflicts: Shape (n, n), symmetric: which items may not share a lane.
        max_lanes: At most so many lanes, in 1..C.
        latency_s: Shape (len(names), U): seconds of the sub-model in a lane of u units, inf where that is ruled out.
        active_units: Shape (len(names), U): the share of at most u units at which the sub-model is fastest.
    """

    names: tuple[str, ...]
    items: Groups
    units: int
    capacity: int
    table: Array
    conflicts: NDArray[np.bool_]
    max_lanes: int
    latency_s: Array
    active_units: NDArray[np.intp]
    rows: tuple[tuple[float, ...], ...] = field(init=False)

    def __post_init__(self) -> None:
        """Keep the rows as plain floats too: faster than arrays for one lane at a time."""
        object.__setattr__(self, "rows", tuple(tuple(row) for row in self.table.tolist()))

    @property
    def one_each(self) -> bool:
        """Whether every item must have a lane of its own, and may."""
        n = len(self.items)
        return 1 < n <= self.max_lanes and int(self.conflicts.sum()) == n * (n - 1)

    def lane_s(self, group: Sequence[int], share: int) -> float:
        """Seconds that the items of `group` take one after another in a lane of `share` units, correctly rounded."""
        return math.fsum(self.rows[i][share - 1] for i in group)

    def jct_s(self, groups: Sequence[Sequence[int]], shares: Sequence[int]) -> float:
        """The JCT of a plan; inf where it breaks a limit on shares."""
        return max(self.lane_s(group, share) for group, share in zip(groups, shares, strict=True))


def with_capacity(problem: SearchProblem, capacity: int) -> SearchProblem:
    """The same problem with fewer units to give out."""
    return dataclasses.replace(problem, capacity=capacity, max_lanes=min(problem.max_lanes, capacity))


def breaks_limit(problem: SearchProblem, groups: Groups) -> bool:
    """Whether a partition has too many lanes, or a lane with two items that may not share one."""
    conflicts = problem.conflicts
    return len(groups) > problem.max_lanes or (
        bool(conflicts.any()) and any(conflicts[list(group)][:, list(group)].any() for group in groups)
    )


def check_latencies(latencies: Mapping[str, Table], units: int) -> Array:
    """The raw tables, shape (len(latencies), units), in the order given; inf where a share is ruled out.

    What is named is a sub-model, or a step as `steps.py` has it written.

    Raises:
        UsageError: No sub-model, a bad name, fewer than one unit, a table that does not have one latency per share,
            or a latency that is not a positive finite number; the message names the sub-model and the share.
        InfeasibleError: Every share of a sub-model is ruled out.
    """
    if isinstance(units, bool) or not isinstance(units, (int, np.integer)) or units < 1:
        raise UsageError("A device has at least 1 unit, a whole number", given=f"{units!r} units")
    if not isinstance(latencies, Mapping):
        raise UsageError(
            "Latencies are a mapping from each sub-model's name to its seconds at 1..units units",
            given=type(latencies).__name__,
        )
    if not latencies:
        raise UsageError(
            "A search needs at least one sub-model", given="none", hint="Register and profile a sub-model first."
        )
    rows = []
    for name, row in latencies.items():
        Step.of(name)
        try:
            values = np.asarray(row, dtype=np.float64)
        except (TypeError, ValueError) as problem:
            raise UsageError("Latencies are numbers, in seconds", given=f"{row!r} for {name!r}") from problem
        if values.shape != (units,):
            given = f"{len(values)} of {units}" if values.ndim == 1 else f"an array of shape {values.shape}"
            raise UsageError("A table holds one latency for each share from 1 to units", given=f"{given} for {name!r}")
        ruled_out = np.array([latency is None for latency in row])
        if ruled_out.all():
            raise InfeasibleError(f"A share is left for {name!r}", given=f"all {units} are ruled out")
        wrong = np.flatnonzero(~((values >= _LEAST_S) & (values <= _MOST_S)) & ~ruled_out)
        if len(wrong):
            raise UsageError(
                "A latency is a positive finite number of seconds",
                given=f"{values[wrong[0]]} at {wrong[0] + 1} units for {name!r}",
                hint="Measure that point again, or leave it to the fit.",
            )
        rows.append(np.where(ruled_out, np.inf, values))
    return np.stack(rows)


def make_problem(latencies: Mapping[str, Table], units: int, limits: Limits | None = None) -> SearchProblem:
    """Check the input and bring it into canonical form.

    Args:
        latencies: For each sub-model, seconds at 1..units units, None where it may not be in a lane of that share. Need
            not fall: a lane may use fewer units than it has, so the running minimum counts.
        units: Units of the device.
        limits: What plans must keep to.

    Raises:
        UsageError: See `check_latencies` and `Limits.check`.
        InfeasibleError: Two limits exclude each other, or the units or the memory do not suffice for any plan.
    """
    limits = Limits() if limits is None else limits
    raw = check_latencies(latencies, units)
    names = tuple(latencies)
    limits.check(names, units)
    running = np.where(np.isfinite(raw), np.minimum.accumulate(raw, axis=1), np.inf)
    groups = _joined(names, limits.together)
    table = np.stack([running[list(group)].sum(axis=0) for group in groups])
    shares = np.arange(1, units + 1)
    for row, group in zip(table, groups, strict=True):
        least, most = limits.range_of([names[i] for i in group], units)
        row[(shares < least) | (shares > most)] = np.inf
        if not np.isfinite(row).any():
            raise InfeasibleError(
                f"A lane of {', '.join(names[i] for i in group)} has a share that is not ruled out",
                given=f"none of {least} to {most}",
                hint="Loosen what limits its share, or what keeps them together.",
            )
    order = sorted(range(len(groups)), key=lambda k: (tuple(-table[k]), names[groups[k][0]]))
    items = tuple(groups[k] for k in order)
    lanes = limits.most_lanes(names, len(items))
    capacity = limits.capacity(int(units), lanes)
    conflicts = _conflicts(names, items, limits)
    if limits.one_each and len(items) > capacity:
        raise InfeasibleError(
            "Every sub-model has a lane of its own (one_each), of at least 1 unit",
            given=f"{len(items)} sub-models and {capacity} units, {len(items) - capacity} too few",
            hint="Give up one_each, or oversubscribe.",
        )
    return SearchProblem(
        names=names,
        items=items,
        units=int(units),
        capacity=capacity,
        table=table[order],
        conflicts=conflicts,
        max_lanes=min(lanes, capacity),
        latency_s=running,
        active_units=running_argmin(raw),
    )


def _joined(names: tuple[str, ...], together: Sequence[Sequence[str]]) -> list[tuple[int, ...]]:
    """Sub-models that must be together, directly or through a third, as groups of indices; the others alone."""
    group_of = {name: {i} for i, name in enumerate(names)}
    for wanted in together:
        joined = set().union(*(group_of[name] for name in wanted))
        for i in joined:
            group_of[names[i]] = joined
    return sorted({tuple(sorted(group)) for group in group_of.values()})


def _conflicts(names: tuple[str, ...], items: Groups, limits: Limits) -> NDArray[np.bool_]:
    n = len(items)
    if limits.one_each:
        joined = next((item for item in items if len(item) > 1), None)
        if joined is not None:
            raise InfeasibleError(
                "Every sub-model has a lane of its own (one_each)",
                given=f"{', '.join(names[i] for i in joined)} are to be together",
                hint="Give up one of the two.",
            )
        return ~np.eye(n, dtype=bool)
    conflicts = np.zeros((n, n), dtype=bool)
    item_of = {names[i]: k for k, item in enumerate(items) for i in item}
    for group in limits.apart:
        for a, b in itertools.combinations(dict.fromkeys(group), 2):
            if item_of[a] == item_of[b]:
                raise InfeasibleError(
                    "Sub-models are either together or apart", given=f"{a!r} and {b!r} are to be both"
                )
            conflicts[item_of[a], item_of[b]] = conflicts[item_of[b], item_of[a]] = True
    return conflicts


def running_argmin(raw: Array) -> NDArray[np.intp]:
    """For each share, the share of at most as many units that is fastest (of ties, the widest), from 1."""
    table = np.minimum.accumulate(raw, axis=1)
    shares = np.arange(1, raw.shape[1] + 1)
    return np.maximum.accumulate(np.where((raw <= table) & np.isfinite(raw), shares, 0), axis=1)
