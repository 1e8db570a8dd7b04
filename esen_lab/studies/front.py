"""Which members at all: the front of accuracy against JCT over the subsets of an ensemble.

Up to `MOST_EXACT` members the front is exact. All subsets are taken in order of falling accuracy; the cover test says
at once for all of them which can be done faster than the last point of the front, so the next point is the first of
those, and only points of the front are ever searched. Beyond, Optuna's NSGA-II evolves subsets with the searcher's fast
answer, and what survives is searched in full.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from esen_lab.common.display import Shown
from esen_lab.common.units import format_confidence
from esen_lab.errors import InfeasibleError, UsageError
from esen_lab.files.schemas import plain
from esen_lab.planner.allocate import allocate
from esen_lab.planner.allocation import Allocation
from esen_lab.planner.evolution import evolved_subsets
from esen_lab.planner.exact.cover import SubsetCover
from esen_lab.planner.optuna_search import imported_optuna
from esen_lab.planner.problem import Table, make_problem
from esen_lab.planner.search_state import EXACTLY
from esen_lab.studies.cascade import Cascade

MOST_EXACT = 12
Accuracy: TypeAlias = Callable[[tuple[str, ...]], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One subset worth having: no other is at least as accurate and faster.

    Attributes:
        names: Its members.
        accuracy: On the validation data, 0 to 1.
        allocation: The best plan of all of them at once.
        cascade: Where they are asked in stages, how; else None.
        weights: Learned weights of the members, which add up to 1; None: the ensemble's own rule.
        judged: On which data the accuracy is, in words.
    """

    names: tuple[str, ...]
    accuracy: float
    allocation: Allocation
    cascade: Cascade | None = None
    weights: Mapping[str, float] | None = None
    judged: str = ""

    @property
    def jct_s(self) -> float:
        """The predicted JCT in seconds; of a cascade the expected one."""
        return self.allocation.jct_s if self.cascade is None else self.cascade.expected_s

    @property
    def label(self) -> str:
        """What it is, for people: its members, stages and weights."""
        if self.cascade is not None:
            return ", then ".join(" + ".join(stage.names) for stage in self.cascade.stages) + f" at {self._at}"
        names = " + ".join(self.names)
        if self.weights is None:
            return names
        return " + ".join(f"{self.weights[name]:.2f} {name}" for name in self.names)

    @property
    def _at(self) -> str:
        given = None if self.cascade is None else self.cascade.threshold
        each = given if isinstance(given, tuple) else (given,)
        return ", ".join(format_confidence(one) for one in each if one is not None)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        cascade = None if self.cascade is None else self.cascade.to_dict()
        return {**plain(self), "allocation": self.allocation.to_dict(), "cascade": cascade, "jct_s": self.jct_s}


@dataclass(frozen=True, slots=True, kw_only=True)
class ParetoFront(Shown):
    """The subsets worth having.

    Attributes:
        choices: By rising JCT, and so by rising accuracy.
        exact: Whether every subset was taken into account; else the front is the best one found.
        evaluations: How many subsets had their accuracy evaluated.
        whole_accuracy: That of all members together, on the same data, or None.
    """

    choices: tuple[Choice, ...]
    exact: bool
    evaluations: int
    whole_accuracy: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**plain(self), "choices": [choice.to_dict() for choice in self.choices]}


def member_front(
    latencies: Mapping[str, Table],
    units: int,
    accuracy: Accuracy,
    *,
    seed: int = 0,
) -> ParetoFront:
    """The front of accuracy (more is better) against predicted JCT over all non-empty subsets of the members.

    Args:
        latencies: As for `allocate`.
        units: Units of the device.
        accuracy: The accuracy of an ensemble of these members (in the order of `latencies`) on validation data, 0..1.
            See `accuracy_of`.
        seed: Of NSGA-II.

    Raises:
        UsageError: Bad latencies, an accuracy that is not a number, or more than `MOST_EXACT` members without the
            package optuna.
    """
    names = tuple(latencies)
    make_problem(latencies, units)
    exact = len(names) <= MOST_EXACT
    if not exact:
        imported_optuna(f"The front of more than {MOST_EXACT} members")
    accuracies: dict[int, float] = {}

    def accuracy_of_mask(mask: int) -> float:
        if mask not in accuracies:
            members = tuple(name for i, name in enumerate(names) if mask >> i & 1)
            value = float(accuracy(members))
            if not math.isfinite(value):
                raise UsageError("An accuracy is a number", given=f"{value!r} for {', '.join(members)}")
            accuracies[mask] = value
        return accuracies[mask]

    plans: dict[int, Allocation] = {}

    def plan(mask: int) -> Allocation:
        if mask not in plans:
            plans[mask] = quick_plan(mask)
        return plans[mask]

    def quick_plan(mask: int, **options: Any) -> Allocation:
        chosen = {name: latencies[name] for i, name in enumerate(names) if mask >> i & 1}
        return allocate(chosen, units, sequential_within=0.0, **options)

    def quick_s(mask: int) -> float:
        return quick_plan(mask, proof=False, steps=10).jct_s

    if exact:
        masks = _exact_front(latencies, units, accuracy_of_mask, plan)
    else:
        masks = evolved_subsets(names, lambda mask: _values(mask, accuracy_of_mask, quick_s), seed=seed)
    choices = undominated(
        Choice(
            names=tuple(name for i, name in enumerate(names) if mask >> i & 1),
            accuracy=accuracies[mask],
            allocation=plan(mask),
        )
        for mask in masks
    )
    return ParetoFront(choices=choices, exact=exact, evaluations=len(accuracies))


def _values(mask: int, accuracy: Callable[[int], float], quick_s: Callable[[int], float]) -> tuple[float, float]:
    """The accuracy of a subset, and its JCT; of no use where shares are ruled out and no lanes are left for all."""
    own = accuracy(mask)
    try:
        return own, quick_s(mask)
    except InfeasibleError:
        return -1.0, math.inf


def accuracy_of(
    outputs: Mapping[str, NDArray[Any]],
    labels: NDArray[Any],
    combine: Callable[[Mapping[str, NDArray[Any]]], NDArray[Any]],
) -> Accuracy:
    """The share of validation samples that the combined output of a subset gets right.

    Args:
        outputs: For each member, its output on the validation data, shape (samples, classes).
        labels: The right classes, shape (samples,).
        combine: The ensemble's rule on a subset of `outputs`: shape (samples, classes), or (samples,) of classes.

    Raises:
        UsageError: Outputs and labels do not have the same number of samples.
    """
    for name, output in outputs.items():
        if len(output) != len(labels):
            raise UsageError(
                "Every member has one output per validation sample",
                given=f"{len(output)} of {len(labels)} for {name!r}",
            )

    def accuracy(members: tuple[str, ...]) -> float:
        combined = np.asarray(combine({name: outputs[name] for name in members}))
        classes = combined if combined.ndim == 1 else combined.argmax(axis=-1)
        return float(np.mean(classes == labels))

    return accuracy


def _exact_front(
    latencies: Mapping[str, Table],
    units: int,
    accuracy: Callable[[int], float],
    plan: Callable[[int], Allocation],
) -> list[int]:
    n = len(latencies)
    problem = make_problem(latencies, units)
    cover = SubsetCover(problem)
    place = [problem.items.index((i,)) for i in range(n)]  # member i is the cover's bit place[i]
    ranked = sorted((-accuracy(mask), mask.bit_count(), mask) for mask in range(1, 1 << n))
    order = np.array([mask for _, _, mask in ranked])
    in_cover = np.zeros_like(order)
    for i, bit in enumerate(place):
        in_cover |= ((order >> i) & 1) << bit
    front: list[int] = []
    faster = cover.within(math.inf)[in_cover]  # where shares are ruled out, no lanes may be left for some
    while faster.any():
        next_best = int(faster.argmax())
        mask = int(order[next_best])
        front.append(mask)
        deadline_s = plan(mask).jct_s * (1 - EXACTLY)
        faster = cover.within(deadline_s)[in_cover]
        faster[: next_best + 1] = False  # ruled out before; without a proof of its plan, this one might come again
    return front


def undominated(choices: Iterable[Choice]) -> tuple[Choice, ...]:
    """By rising JCT, without those that are no more accurate than a faster one."""
    kept: list[Choice] = []
    for choice in sorted(choices, key=lambda c: (c.jct_s, -c.accuracy, len(c.names), c.names)):
        if not kept or choice.accuracy > kept[-1].accuracy:
            kept.append(choice)
    return tuple(kept)
