"""Which members at all: the front of accuracy against JCT over the subsets of an ensemble.

Up to `MOST_EXACT` members the front is exact. All subsets are taken in order of falling accuracy; the cover test says
at once for all of them which can be done faster than the last point of the front, so the next point is the first of
those, and only points of the front are ever searched. Beyond, NSGA-II (Deb, Pratap, Agarwal and Meyarivan, IEEE Trans.
Evol. Comp. 6, 2002) evolves subsets with the searcher's fast answer, and what survives is searched in full.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from esen_lab.errors import UsageError
from esen_lab.search.allocate import allocate
from esen_lab.search.allocation import Allocation
from esen_lab.search.cover import SubsetCover
from esen_lab.search.problem import Table, make_problem
from esen_lab.search.watch import EXACTLY
from esen_lab.showing import Shown

MOST_EXACT = 12
Accuracy: TypeAlias = Callable[[tuple[str, ...]], float]
_POPULATION, _GENERATIONS = 40, 25


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One subset worth having: no other is at least as accurate and faster."""

    names: tuple[str, ...]
    accuracy: float
    allocation: Allocation


@dataclass(frozen=True, slots=True, kw_only=True)
class Front(Shown):
    """The subsets worth having.

    Attributes:
        choices: By rising JCT, and so by rising accuracy.
        exact: Whether every subset was taken into account; else the front is the best one found.
        evaluations: How many subsets had their accuracy evaluated.
    """

    choices: tuple[Choice, ...]
    exact: bool
    evaluations: int

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "choices": [
                {"names": list(c.names), "accuracy": c.accuracy, "allocation": c.allocation.to_dict()}
                for c in self.choices
            ],
            "exact": self.exact,
            "evaluations": self.evaluations,
        }


def member_front(
    latencies: Mapping[str, Table],
    units: int,
    accuracy: Accuracy,
    *,
    seed: int = 0,
    stop: Callable[[], bool] = lambda: False,
) -> Front:
    """The front of accuracy (more is better) against predicted JCT over all non-empty subsets of the members.

    Args:
        latencies: As for `allocate`.
        units: Units of the device.
        accuracy: The accuracy of an ensemble of these members (in the order of `latencies`) on validation data, 0..1.
            See `accuracy_of`.
        seed: Of NSGA-II.
        stop: Asked between steps; when it returns True, the front found so far is returned, marked as not exact.

    Raises:
        UsageError: Bad latencies, or an accuracy that is not a number.
    """
    names = tuple(latencies)
    make_problem(latencies, units)
    known: dict[int, float] = {}

    def accuracy_of_mask(mask: int) -> float:
        if mask not in known:
            members = tuple(name for i, name in enumerate(names) if mask >> i & 1)
            value = float(accuracy(members))
            if not math.isfinite(value):
                raise UsageError("An accuracy is a number", given=f"{value!r} for {', '.join(members)}")
            known[mask] = value
        return known[mask]

    plans: dict[int, Allocation] = {}

    def plan(mask: int) -> Allocation:
        if mask not in plans:
            plans[mask] = quick_plan(mask)
        return plans[mask]

    def quick_plan(mask: int, **options: Any) -> Allocation:
        chosen = {name: latencies[name] for i, name in enumerate(names) if mask >> i & 1}
        return allocate(chosen, units, sequential_within=0.0, **options)

    if len(names) <= MOST_EXACT:
        masks, complete = _exact_front(latencies, units, accuracy_of_mask, plan, stop)
    else:
        masks, complete = _evolved_front(len(names), accuracy_of_mask, quick_plan, seed, stop), False
    choices = _undominated(
        Choice(
            names=tuple(name for i, name in enumerate(names) if mask >> i & 1),
            accuracy=known[mask],
            allocation=plan(mask),
        )
        for mask in masks
    )
    return Front(choices=choices, exact=complete, evaluations=len(known))


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
    stop: Callable[[], bool],
) -> tuple[list[int], bool]:
    n = len(latencies)
    problem = make_problem(latencies, units)
    cover = SubsetCover(problem)
    place = [problem.items.index((i,)) for i in range(n)]  # member i is the cover's bit place[i]
    masks = range(1, 1 << n)
    ranked = []
    for mask in masks:
        if stop():
            return [], False
        ranked.append((-accuracy(mask), mask.bit_count(), mask))
    ranked.sort()
    order = np.array([mask for _, _, mask in ranked])
    in_cover = np.zeros_like(order)
    for i, bit in enumerate(place):
        in_cover |= ((order >> i) & 1) << bit
    front: list[int] = []
    faster = np.ones(len(order), dtype=bool)
    while faster.any():
        if stop():
            return front, False
        next_best = int(faster.argmax())
        mask = int(order[next_best])
        front.append(mask)
        deadline_s = plan(mask).jct_s * (1 - EXACTLY)
        faster = cover.within(deadline_s)[in_cover]
        faster[: next_best + 1] = False  # ruled out before; without a proof of its plan, this one might come again
    return front, True


def _undominated(choices: Any) -> tuple[Choice, ...]:
    """By rising JCT, without those that are no more accurate than a faster one."""
    kept: list[Choice] = []
    for choice in sorted(choices, key=lambda c: (c.allocation.jct_s, -c.accuracy, len(c.names), c.names)):
        if not kept or choice.accuracy > kept[-1].accuracy:
            kept.append(choice)
    return tuple(kept)


def _evolved_front(
    n: int,
    accuracy: Callable[[int], float],
    plan: Callable[..., Allocation],
    seed: int,
    stop: Callable[[], bool],
) -> list[int]:
    random = np.random.default_rng(seed)
    known: dict[int, tuple[float, float]] = {}

    def value(mask: int) -> tuple[float, float]:
        if mask not in known:
            known[mask] = (-accuracy(mask), plan(mask, proof=False, steps=10).jct_s)
        return known[mask]

    # The ends of the front are known to matter: each member alone, and all of them.
    population = [1 << i for i in range(n)] + [(1 << n) - 1]
    while len(population) < _POPULATION:
        population.append(_mask(random.random(n) < random.random()) or 1 << int(random.integers(n)))
    population = _survivors(list(dict.fromkeys(population)), value)
    for _ in range(_GENERATIONS):
        if stop():
            break
        children = []
        for _ in range(_POPULATION):
            # Survivors are sorted from best to worst, so the lower of two random places wins the tournament.
            one, two = (population[int(random.integers(len(population), size=2).min())] for _ in range(2))
            from_one = _mask(random.random(n) < 0.5)
            child = (one & from_one) | (two & ~from_one)
            child ^= _mask(random.random(n) < 1 / n)
            children.append(child or one)
        population = _survivors(list(dict.fromkeys([*population, *children])), value)
    values = {mask: value(mask) for mask in known}
    return [mask for mask, v in values.items() if not any(_dominates(w, v) for w in values.values())]


def _mask(bits: NDArray[np.bool_]) -> int:
    return sum(1 << i for i, bit in enumerate(bits.tolist()) if bit)


def _dominates(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one[0] <= other[0] and one[1] <= other[1] and one != other


def _survivors(population: list[int], value: Callable[[int], tuple[float, float]]) -> list[int]:
    """The best `_POPULATION`: by rank of non-domination, then by how lonely they are within their rank."""
    values = np.array([value(mask) for mask in population])
    remaining = np.arange(len(population))
    ranked: list[int] = []
    while len(remaining) and len(ranked) < _POPULATION:
        v = values[remaining]
        no_worse = (v[:, None, :] <= v[None, :, :]).all(axis=2)
        better = (v[:, None, :] < v[None, :, :]).any(axis=2)
        first = ~(no_worse & better).any(axis=0)
        rank = remaining[first]
        ranked += rank[np.argsort(-_crowding(values[rank]), kind="stable")].tolist()
        remaining = remaining[~first]
    return [population[i] for i in ranked[:_POPULATION]]


def _crowding(values: NDArray[np.float64]) -> NDArray[np.float64]:
    distance = np.zeros(len(values))
    for column in values.T:
        order = np.argsort(column, kind="stable")
        span = column[order[-1]] - column[order[0]]
        distance[order[[0, -1]]] = np.inf
        if span > 0 and len(order) > 2:
            distance[order[1:-1]] += (column[order[2:]] - column[order[:-2]]) / span
    return distance
