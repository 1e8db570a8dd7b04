"""A cascade: run some members first, and the others only for inputs that the first are not sure about.

    order      members, in the order in which they are asked
    reach[k]   the fraction of inputs that are still open after the first k members: reach[0] = 1, never rising
    stage      consecutive members of the order that run together, as a plan of lanes of their own

A stage that begins after k members runs for the inputs of a batch that are still open, so the expected JCT of a cascade
is a sum over stages, of what `batch_times.py` expects each to take. The best cut into stages follows by dynamic
programming over the cuts, from the best plan of each of the n (n + 1) / 2 possible stages. The latency of a stage for
fewer rows is what was measured of them; where nothing was, that of the whole batch, which is cautious.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from esen_lab.common.display import Shown
from esen_lab.common.units import check_number, format_percent
from esen_lab.common.words import unknown
from esen_lab.errors import UsageError
from esen_lab.files.schemas import plain
from esen_lab.planner.allocate import allocate
from esen_lab.planner.allocation import Allocation
from esen_lab.planner.problem import Table
from esen_lab.run.stage_rows import sizes_for
from esen_lab.studies.batch_times import RowTimes, expected_s, expected_stage_s, worst_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Members that run together, and how often they are needed."""

    names: tuple[str, ...]
    reach: float
    allocation: Allocation


@dataclass(frozen=True, slots=True, kw_only=True)
class Cascade(Shown):
    """The best cut of an order of members into stages.

    Attributes:
        stages: In the order they run. One stage: a cascade does not pay.
        expected_s: Expected JCT of a batch in seconds, `stage_overhead_s` included.
        at_once_s: JCT of running everything at once.
        gain: 1 - expected_s / at_once_s.
        notes: Honest remarks for the reader.
        threshold: The confidence at which an input is done, one or one for each stage but the last; None where only
            the reach is known.
        worst_s: Expected JCT of a batch of which nobody leaves early, in seconds.
        rows: How many inputs a batch has.
        deadline_s: The deadline that was asked about, in seconds, or None.
        late: The fraction of inputs whose answer is expected after it, or None.
        accuracy: On the validation data, with early exit, 0 to 1; None without labels.
        whole_accuracy: That of all members asked together; None without labels.
        agreement: The fraction of validation samples that leave with the class that all members would give; None where
            only the reach is known.
        at_once: The plan of everything at once that it is compared with.
    """

    stages: tuple[Stage, ...]
    expected_s: float
    at_once_s: float
    gain: float
    notes: tuple[str, ...]
    threshold: float | tuple[float, ...] | None = None
    worst_s: float = 0.0
    rows: int = 1
    deadline_s: float | None = None
    late: float | None = None
    accuracy: float | None = None
    whole_accuracy: float | None = None
    agreement: float | None = None
    at_once: Allocation | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        stages = [{**plain(s), "allocation": s.allocation.to_dict()} for s in self.stages]
        at_once = None if self.at_once is None else self.at_once.to_dict()
        return {**plain(self), "stages": stages, "at_once": at_once}


def cascade(
    latencies: Mapping[str, Table],
    units: int,
    order: Sequence[str],
    reach: Sequence[float],
    *,
    stage_overhead_s: float = 0.0,
    row_times: RowTimes | None = None,
    plans: dict[frozenset[str], Allocation] | None = None,
    ends: Sequence[int] | None = None,
    **options: Any,
) -> Cascade:
    """Cut `order` into stages for the shortest expected JCT.

    Args:
        latencies: As for `allocate`.
        units: Units of the device.
        order: Every member once, the first to be asked first.
        reach: Measured on validation data, see `still_open`; one entry per member.
        stage_overhead_s: What deciding and starting another stage costs.
        row_times: How many rows a batch has, and what fewer take; None: single rows.
        ends: Where stages end, as numbers of members asked by then; None: where it is best.
        plans: Plans of stages that were searched before, by their members; those searched here are added.
        **options: Of `allocate`.

    Raises:
        UsageError: An order that is not one of the members, or a reach that does not begin at 1 or rises.
    """
    if sorted(order) != sorted(latencies):
        strange = next((name for name in order if name not in latencies), None)
        told = f"{', '.join(order)} for {', '.join(latencies)}"
        raise unknown("The order of a cascade names every member once", strange, latencies, given=told)
    falls = all(later <= earlier for earlier, later in itertools.pairwise(reach))
    if len(reach) != len(order) or not falls or reach[0] != 1 or not reach[-1] >= 0:
        raise UsageError(
            "reach holds one fraction per member: 1 for the first, then never rising, at least 0", given=list(reach)
        )
    n = len(order)
    searched = {} if plans is None else plans
    times = row_times or RowTimes()
    found: dict[tuple[int, int], Allocation] = {}
    for one, end in itertools.combinations(range(n + 1), 2):
        key = frozenset(order[one:end])
        if key not in searched:
            searched[key] = allocate({name: latencies[name] for name in order[one:end]}, units, **options)
        found[one, end] = searched[key]
    # best[k]: the expected seconds from the moment the first k members are done.
    best, cut = [0.0] * (n + 1), [n] * (n + 1)
    for first in range(n - 1, -1, -1):
        overhead_s = stage_overhead_s if first else 0.0
        costs = {
            end: expected_stage_s(times.stage(found[first, end].plan, overhead_s=overhead_s), reach[first]) + best[end]
            for end in range(n, first, -1)
        }
        cut[first] = min(costs, key=lambda end: costs[end])
        best[first] = costs[cut[first]]
    stages, first = [], 0
    while first < n:
        end = cut[first] if ends is None else min(one for one in (*ends, n) if one > first)
        stages.append(Stage(names=tuple(order[first:end]), reach=float(reach[first]), allocation=found[first, end]))
        first = end
    made = Cascade(
        stages=tuple(stages),
        expected_s=best[0],
        at_once_s=found[0, n].jct_s,
        gain=0.0,
        notes=(),
        rows=times.rows,
        at_once=found[0, n],
    )
    return with_reach(made, [stage.reach for stage in stages], stage_overhead_s=stage_overhead_s, row_times=times)


def times_of_stages(
    stages: Sequence[Stage], row_times: RowTimes, stage_overhead_s: float = 0.0
) -> tuple[NDArray[np.float64], ...]:
    """For each stage its time in seconds by number of open rows, 0 to all: see `batch_times.py`."""
    return tuple(
        row_times.stage(
            stage.allocation.plan,
            overhead_s=stage_overhead_s if number else 0.0,
            sizes=sizes_for(stage.allocation.plan.lanes),
        )
        for number, stage in enumerate(stages)
    )


def with_reach(
    given: Cascade, reach: Sequence[float], *, stage_overhead_s: float = 0.0, row_times: RowTimes | None = None
) -> Cascade:
    """The same stages with another reach, such as one measured by asking between stages only.

    Args:
        given: A cascade.
        reach: One fraction per stage.
        stage_overhead_s: As for `cascade`.
        row_times: As for `cascade`.
    """
    stages = tuple(replace(stage, reach=float(r)) for stage, r in zip(given.stages, reach, strict=True))
    times = times_of_stages(stages, row_times or RowTimes(), stage_overhead_s)
    whole_s, longest_s = expected_s(times, [stage.reach for stage in stages]), worst_s(times)
    gain = 1 - whole_s / given.at_once_s
    notes = _notes(stages, gain, given.at_once_s, longest_s, row_times or RowTimes())
    return replace(given, stages=stages, expected_s=whole_s, worst_s=longest_s, gain=gain, notes=notes)


def _notes(
    stages: Sequence[Stage], gain: float, at_once_s: float, longest_s: float, row_times: RowTimes
) -> tuple[str, ...]:
    if len(stages) == 1:
        return ("a cascade does not pay: all at once is expected to be the fastest",)
    whole = format_percent(longest_s / at_once_s - 1, signed=True)
    compared = "faster" if gain >= 0 else "slower"
    who = "an input that stays open to the end" if row_times.rows == 1 else "a batch that stays open to the end"
    notes = [
        f"expected {format_percent(abs(gain))} {compared} than all at once; {who} takes {whole} instead",
    ]
    if row_times.rows > 1:
        notes.append(f"for batches of {row_times.rows} rows; {row_times.says}")
    return tuple(notes)


def still_open(
    outputs: Mapping[str, NDArray[Any]],
    order: Sequence[str],
    threshold: float,
    combine: Callable[[Mapping[str, NDArray[Any]]], NDArray[Any]],
) -> tuple[float, ...]:
    """`reach`, measured: the fraction of validation samples not yet decided after 0, 1, ... members.

    A sample is decided once the combined probability of its likeliest class reaches `threshold`; it stays decided.

    Args:
        outputs: For each member, shape (samples, classes).
        order: As for `cascade`.
        threshold: Between 0 and 1.
        combine: The ensemble's rule on a subset of `outputs`, giving probabilities of shape (samples, classes).

    Raises:
        UsageError: The threshold is not between 0 and 1.
    """
    check_threshold(threshold)
    undecided = np.ones(len(next(iter(outputs.values()))), dtype=bool)
    reach = [1.0]
    for k in range(1, len(order)):
        combined = np.asarray(combine({name: outputs[name] for name in order[:k]}))
        undecided &= ~(combined.max(axis=-1) >= threshold)  # a row with NaN is never sure: see `confidence.py`
        reach.append(float(undecided.mean()))
    return tuple(reach)


def check_threshold(threshold: float) -> None:
    """Whether it is a confidence.

    Raises:
        UsageError: It does not lie between 0 and 1.
    """
    check_number(threshold, "A confidence threshold lies above 0 and is at most 1", above=0.0, most=1.0)
