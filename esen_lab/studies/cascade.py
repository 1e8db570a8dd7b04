"""A cascade: run some members first, and the others only for inputs that the first are not sure about.

    order      members, in the order in which they are asked
    reach[k]   the fraction of inputs that are still open after the first k members: reach[0] = 1, never rising
    stage      consecutive members of the order that run together, as a plan of lanes of their own

A stage that begins after k members runs with probability reach[k], so the expected JCT of a cascade is the sum over
stages of reach * JCT. The best cut into stages follows by dynamic programming over the cuts, from the best plan of each
of the n (n + 1) / 2 possible stages. The latency of a stage is taken not to depend on how many inputs of a batch are
still open: exact for single inputs, cautious for batches.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from esen_lab.common.display import Shown
from esen_lab.common.units import format_percent
from esen_lab.errors import UsageError
from esen_lab.files.schemas import plain
from esen_lab.planner.allocate import allocate
from esen_lab.planner.allocation import Allocation
from esen_lab.planner.problem import Table


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
        expected_s: Expected JCT in seconds, `stage_overhead_s` included.
        at_once_s: JCT of running everything at once.
        gain: 1 - expected_s / at_once_s.
        notes: Honest remarks for the reader.
        threshold: The confidence at which an input is done; None where only the reach is known.
    """

    stages: tuple[Stage, ...]
    expected_s: float
    at_once_s: float
    gain: float
    notes: tuple[str, ...]
    threshold: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        stages = [{**plain(s), "allocation": s.allocation.to_dict()} for s in self.stages]
        return {**plain(self), "stages": stages}


def cascade(
    latencies: Mapping[str, Table],
    units: int,
    order: Sequence[str],
    reach: Sequence[float],
    *,
    stage_overhead_s: float = 0.0,
    **options: Any,
) -> Cascade:
    """Cut `order` into stages for the shortest expected JCT.

    Args:
        latencies: As for `allocate`.
        units: Units of the device.
        order: Every member once, the first to be asked first.
        reach: Measured on validation data, see `still_open`; one entry per member.
        stage_overhead_s: What deciding and starting another stage costs.
        **options: Of `allocate`.

    Raises:
        UsageError: An order that is not one of the members, or a reach that does not begin at 1 or rises.
    """
    if sorted(order) != sorted(latencies):
        raise UsageError(
            "The order of a cascade names every member once", given=f"{', '.join(order)} for {', '.join(latencies)}"
        )
    falls = all(later <= earlier for earlier, later in itertools.pairwise(reach))
    if len(reach) != len(order) or not falls or reach[0] != 1 or not reach[-1] >= 0:
        raise UsageError(
            "reach holds one fraction per member: 1 for the first, then never rising, at least 0", given=list(reach)
        )
    n = len(order)
    plans = {
        (first, end): allocate({name: latencies[name] for name in order[first:end]}, units, **options)
        for first in range(n)
        for end in range(first + 1, n + 1)
    }
    # best[k]: the expected seconds from the moment the first k members are done, times the chance of getting there.
    best, cut = [0.0] * (n + 1), [n] * (n + 1)
    for first in range(n - 1, -1, -1):
        overhead_s = stage_overhead_s if first else 0.0
        costs = {end: reach[first] * (plans[first, end].jct_s + overhead_s) + best[end] for end in range(n, first, -1)}
        cut[first] = min(costs, key=lambda end: costs[end])
        best[first] = costs[cut[first]]
    stages, first = [], 0
    while first < n:
        end = cut[first]
        stages.append(Stage(names=tuple(order[first:end]), reach=float(reach[first]), allocation=plans[first, end]))
        first = end
    at_once_s = plans[0, n].jct_s
    gain = 1 - best[0] / at_once_s
    notes = _notes(stages, gain, at_once_s, stage_overhead_s)
    return Cascade(stages=tuple(stages), expected_s=best[0], at_once_s=at_once_s, gain=gain, notes=notes)


def with_reach(given: Cascade, reach: Sequence[float], *, stage_overhead_s: float = 0.0) -> Cascade:
    """The same stages with another reach, such as one measured by asking between stages only.

    Args:
        given: A cascade.
        reach: One fraction per stage.
        stage_overhead_s: As for `cascade`.
    """
    stages = tuple(replace(stage, reach=float(r)) for stage, r in zip(given.stages, reach, strict=True))
    expected_s = sum(
        stage.reach * (stage.allocation.jct_s + (stage_overhead_s if k else 0.0)) for k, stage in enumerate(stages)
    )
    gain = 1 - expected_s / given.at_once_s
    notes = _notes(stages, gain, given.at_once_s, stage_overhead_s)
    return replace(given, stages=stages, expected_s=expected_s, gain=gain, notes=notes)


def _notes(stages: Sequence[Stage], gain: float, at_once_s: float, overhead_s: float) -> tuple[str, ...]:
    if len(stages) == 1:
        return ("a cascade does not pay: all at once is expected to be the fastest",)
    whole = format_percent(_whole_s(stages, overhead_s) / at_once_s - 1, signed=True)
    compared = "faster" if gain >= 0 else "slower"
    return (
        f"expected {format_percent(abs(gain))} {compared} than all at once; an input that stays open to the end takes "
        f"{whole} instead",
    )


def _whole_s(stages: Sequence[Stage], overhead_s: float) -> float:
    return sum(stage.allocation.jct_s for stage in stages) + overhead_s * (len(stages) - 1)


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
        undecided &= combined.max(axis=-1) < threshold
        reach.append(float(undecided.mean()))
    return tuple(reach)


def check_threshold(threshold: float) -> None:
    """Whether it is a confidence.

    Raises:
        UsageError: It does not lie between 0 and 1.
    """
    if not 0 < threshold <= 1:
        raise UsageError("A confidence threshold lies above 0 and is at most 1", given=f"{threshold!r}")
