"""Which plan for a rate of requests: candidates are run at several batches, and the queue before each is computed.

A plan with the shortest JCT for one batch need not hold the highest rate: what counts is how its time grows with the
rows of a batch. So the candidates (the plan in force, the shortest, one after another, equal shares) are run at each of
a few batches, and the one is taken whose 99th percentile at the wanted rate is lowest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from esen_lab.common.display import Shown
from esen_lab.common.inputs import as_input
from esen_lab.common.records import to_frame
from esen_lab.common.trees import Tree, map_tensors
from esen_lab.common.units import check_number, format_rate, format_seconds, format_table, whole
from esen_lab.ensemble.batch_part import rows_of
from esen_lab.errors import InfeasibleError, UsageError
from esen_lab.files.schemas import plain
from esen_lab.planner.plan import Plan
from esen_lab.planner.rate import HeldRate, Latencies, ServiceTimes, most_rate_per_s
from esen_lab.planner.rate.held import best_batch

BATCHES = (1, 4, 16)
"""Rows at which candidates are run, where nobody says otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RateRow:
    """One candidate.

    Attributes:
        name: What it is: "shortest JCT", "sequential", ...
        plan: The plan.
        service: Its times by rows, as measured.
        at: The latencies at the wanted rate, with the largest batch that is best there.
        most: The largest rate that it holds within the wanted percentile.
    """

    name: str
    plan: Plan
    service: ServiceTimes
    at: Latencies
    most: HeldRate


@dataclass(frozen=True, slots=True, kw_only=True)
class RatePlan(Shown):
    """The plan for a rate, and what the others would do.

    Attributes:
        plan: The plan.
        rate_per_s: The wanted rate, requests of one row a second.
        p99_s: The wanted 99th percentile.
        most_rows: The largest batch to join requests to.
        predicted: The latencies at the rate.
        most_rate_per_s: The largest rate that the machine holds within `p99_s`, by any of the candidates.
        rows: The candidates, best first.
    """

    plan: Plan
    rate_per_s: float
    p99_s: float
    most_rows: int
    predicted: Latencies
    most_rate_per_s: float
    rows: tuple[RateRow, ...]

    def __str__(self) -> str:
        """The candidates as a table, and what was chosen."""
        table = format_table(("plan", "largest batch", "predicted p99", "busy", "holds up to"), _cells(self.rows))
        return f"{table}\n{self.describe()}"

    def describe(self) -> str:
        """What was chosen, in one line."""
        return (
            f"for {self.rate_per_s:g} requests/s: batches of up to {self.most_rows}, predicted p99 "
            f"{format_seconds(self.predicted.p99_s)} of {format_seconds(self.p99_s)}; "
            f"up to {format_rate(self.most_rate_per_s)}/s are held within that"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return plain(self)

    def to_frame(self) -> Any:
        """A pandas table with a row per candidate.

        Raises:
            UsageError: pandas is not installed.
        """
        return to_frame(
            [
                {
                    "plan": row.name,
                    "most_rows": row.at.most_rows,
                    "p99_s": row.at.p99_s,
                    "holds_per_s": row.most.rate_per_s,
                }
                for row in self.rows
            ]
        )


def _cells(rows: Sequence[RateRow]) -> list[tuple[str, str, str, str, str]]:
    return [
        (
            row.name,
            str(row.at.most_rows),
            format_seconds(row.at.p99_s) if row.at.held else "the queue never ends",
            f"{row.at.busy:.0%}",
            f"{format_rate(row.most.rate_per_s)}/s",
        )
        for row in rows
    ]


def resized(x: Tree, rows: int) -> Tree:
    """An input of so many rows: those of `x`, over and over.

    Raises:
        UsageError: Its tensors do not have their rows along dimension 0, or it has none.
    """
    import torch

    x = as_input(x)
    try:
        known = rows_of(x)
    except UsageError as problem:
        raise UsageError(
            "Requests are single rows: every tensor of the input has its rows along dimension 0",
            given=problem.given,
            hint="Give an input of which that is so, or serve batches as they are.",
        ) from problem
    if not known:
        raise UsageError("Requests are rows of the input, which has one at least", given="an input of 0 rows")
    return map_tensors(lambda leaf: leaf[torch.arange(rows, device="cpu") % known].contiguous(), x)


def plan_for_rate(
    candidates: Mapping[str, Plan],
    run: Callable[[Plan, Tree], Any],
    x: Tree,
    *,
    rate_per_s: float,
    p99_s: float,
    batches: Sequence[int] = BATCHES,
    on_progress: Callable[[int, int, str], object] | None = None,
) -> RatePlan:
    """Run candidates at several batches, and choose.

    Args:
        candidates: Plans by what they are.
        run: Gives the JCTs of a plan on an input, one after another, in seconds: a generator that is closed.
        x: An input, of any number of rows.
        rate_per_s: Requests of one row a second.
        p99_s: Within what 99 % of them are to be answered.
        batches: Rows to measure at; requests are joined up to the largest one.
        on_progress: Called with (done, all, what is going on).

    Raises:
        UsageError: A number is not possible, or the input has no rows.
        InfeasibleError: No candidate holds the rate within the percentile; the message says why, and which is held.
    """
    sizes = check_wanted(rate_per_s, p99_s, batches)
    distinct: dict[str, Plan] = {}
    for name, plan in candidates.items():
        if all(plan.lanes != other.lanes for other in distinct.values()):
            distinct[name] = plan
    rows = []
    every, done = len(distinct) * len(sizes), 0
    for name, plan in distinct.items():
        samples: dict[int, tuple[float, ...]] = {}
        for size in sizes:
            if on_progress is not None:
                on_progress(done, every, f"{name}, {size} rows")
            with closing(run(plan, resized(x, size))) as jcts:
                samples[size] = tuple(jcts)
            done += 1
        service = ServiceTimes.of(samples)
        at = best_batch(service, rate_per_s, sizes[-1])
        rows.append(
            RateRow(name=name, plan=plan, service=service, at=at, most=most_rate_per_s(service, p99_s, sizes[-1]))
        )
    rows.sort(key=lambda row: (row.at.p99_s, -row.most.rate_per_s))
    best, most = rows[0], max(row.most.rate_per_s for row in rows)
    if best.at.p99_s > p99_s:
        raise InfeasibleError(
            f"No plan holds {rate_per_s:g} requests/s with 99 % within {format_seconds(p99_s)}: "
            + _why(rows, p99_s, sizes),
            given=f"the best of {len(rows)}, {best.name}: {_p99(best.at)}",
            hint=f"Up to {format_rate(most)} requests/s are held within that."
            if most
            else "Ask for a longer p99, fewer members, or a faster backend.",
        )
    return RatePlan(
        plan=best.plan,
        rate_per_s=rate_per_s,
        p99_s=p99_s,
        most_rows=best.at.most_rows,
        predicted=best.at,
        most_rate_per_s=most,
        rows=tuple(rows),
    )


def _why(rows: Sequence[RateRow], p99_s: float, sizes: Sequence[int]) -> str:
    alone_s = min(row.service.at_s(1) for row in rows)
    if alone_s > p99_s:
        return f"a request alone takes {format_seconds(alone_s)}"
    capacity = max(row.service.capacity_per_s(sizes[-1]) for row in rows)
    return f"with batches of up to {sizes[-1]} the machine answers {capacity:.0f} rows/s at the most, queues aside"


def _p99(at: Latencies) -> str:
    return f"predicted p99 {format_seconds(at.p99_s)}" if at.held else "its queue never ends"


def check_wanted(rate_per_s: float, p99_s: float, batches: Sequence[int]) -> tuple[int, ...]:
    """The batches to measure at, ascending, a single row among them.

    Raises:
        UsageError: A number is not possible.
    """
    for name, value in (("rate_per_s", rate_per_s), ("p99_s", p99_s)):
        check_number(value, f"{name} is a number above 0", above=0.0, below=math.inf)
    given = list(map(whole, batches)) if isinstance(batches, Iterable) else []
    sizes = tuple(sorted({size for size in given if size is not None and 1 <= size <= 256}))
    if not given or len(sizes) != len(set(given)):
        raise UsageError("Batches are whole numbers from 1 to 256", given=repr(batches))
    return sizes if sizes[0] == 1 else (1, *sizes)
