"""Groups and parts: ways to make steps of sub-models, each searched in full, under one bound for all of them.

    way     what the lanes are to run: every sub-model alone, or equal ones in groups, or a batch in parts
    plain   the way in which every sub-model runs alone

By symmetry only the sizes of groups count: which of several equal networks are in one changes nothing but for what
measuring scatters: the slowest are grouped first, and a bound is lower by what another choice could gain. A way whose
area or critical path rules out that it beats the best plan is not searched. The bound of the result is the least of the
bounds of all ways, and the plan is proven where each was proven or ruled out.
"""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from esen_lab.common.units import format_percent
from esen_lab.cost_model.model import CostModel
from esen_lab.errors import Cancelled, InfeasibleError
from esen_lab.planner.allocate import INTERRUPTED, search, searcher_options
from esen_lab.planner.allocation import Allocation
from esen_lab.planner.bounds import schedule_bound_s
from esen_lab.planner.limits import Limits
from esen_lab.planner.problem import make_problem
from esen_lab.planner.search_state import EXACTLY, SearchProgress
from esen_lab.planner.steps import Step, members_of

MOST_WAYS = 64
"""So many are searched at most."""
_MOST_SIZES = 256  # multisets of sizes of one set, and
_MOST_COMBINED = 4096  # combinations of them, that are looked at
SEARCHER = "exact"
"""The searcher whose bounds can be put together; the others search the plain way."""
Way: TypeAlias = Mapping[str, CostModel]
"""The cost model of each step, by its name (see `steps.py`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EqualSet:
    """Equal networks, of which any may be one group.

    Attributes:
        members: Their names, two or more.
        groups: By the number of members: the cost model of a group of so many. Two or more members each.
    """

    members: tuple[str, ...]
    groups: Mapping[int, CostModel]


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """A sub-model whose batch may be split.

    Attributes:
        name: The sub-model.
        parts: By the number of parts, two or more: the cost model of one of them.
    """

    name: str
    parts: Mapping[int, CostModel]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ways:
    """The ways to search.

    Attributes:
        ways: The plain one first.
        left_out: At least how many more there are than are searched.
        notes: Why sub-models are kept alone, for people.
        scatter: For each way, how many times faster it could be at most with others of equal sub-models in its groups,
            at least 1: they are equal, and measuring found them a little apart. Empty: 1 for all.
    """

    ways: tuple[Way, ...]
    left_out: int = 0
    notes: tuple[str, ...] = ()
    scatter: tuple[float, ...] = ()


def make_ways(
    models: Way, sets: Sequence[EqualSet], splits: Sequence[Split], limits: Limits, *, most: int = MOST_WAYS
) -> Ways:
    """Every way to group and to split, the simplest first; those that speak of the same sizes once.

    Args:
        models: The plain way.
        sets: Groups that were measured.
        splits: Parts that were measured.
        limits: What is asked of plans. Sub-models that a limit speaks of by name stay alone, and so do all where every
            sub-model is to have a lane of its own, or as few units as reach a target are looked for.
        most: So many at most.
    """
    if limits.one_each or limits.target_s is not None:
        return Ways(ways=(models,), notes=("one_each and target_s keep every sub-model alone: no groups, no parts",))
    named = {*limits.min_units, *limits.max_units, *limits.pinned}
    named |= {name for several in (*limits.together, *limits.apart) for name in several}
    odd = {name for one in sets for name in _wrong_elsewhere(one, models)} - named
    free = [replace(one, members=_slowest_first(one, models, named | odd)) for one in sets]
    kept = sorted({name for one in sets for name in one.members if name in named})
    kept += sorted({one.name for one in splits if one.name in named} - set(kept))
    choices = [list(itertools.islice(_groupings(one, list(models)), _MOST_SIZES)) for one in free]
    choices += [list(_splittings(one)) for one in splits if one.name not in named]
    product = sorted(_products(choices), key=lambda made: made[0])
    beyond = math.prod(map(len, choices)) - len(product) + sum(len(one) == _MOST_SIZES for one in choices)
    ways: list[Way] = []
    for _, changed in product:
        if changed is not None:
            taken = {member for name in changed for member in Step.of(name).members}
            ways.append({**{name: model for name, model in models.items() if name not in taken}, **changed})
    notes = [f"limits speak of {', '.join(kept)}: neither grouped nor split"] if kept else []
    if odd:
        notes.append(f"{', '.join(sorted(odd))}: not grouped, with wrong answers at other shares than equal networks")
    taken_ways = tuple(ways[:most])
    return Ways(
        ways=taken_ways,
        left_out=max(0, len(ways) - most) + beyond,
        notes=tuple(notes),
        scatter=tuple(_scatter(way, models, free) for way in taken_ways),
    )


def _scatter(way: Way, models: Way, sets: Sequence[EqualSet]) -> float:
    """How many times slower a sub-model that a way leaves alone is, at any share, than one of its groups' members.

    In whatever plan with groups of these sizes, one of those stands where the way has one of these; so no such plan is
    faster than the best one of the way by more than this.
    """
    most = 1.0
    for one in sets:
        alone = [models[name].latency_s for name in one.members if name in way]
        grouped = [models[name].latency_s for name in one.members if name not in way]
        for mine, theirs in itertools.product(alone, grouped):
            most = max(most, *(a / b for a, b in zip(mine, theirs, strict=False)))
    return most


def _wrong_elsewhere(one: EqualSet, models: Way) -> tuple[str, ...]:
    """The members of a set that are not like the others: their answers are wrong at other shares than those of most.

    Where one of them stands in a plan, another one may not, so that who is in a group would count.
    """
    usual = Counter(models[name].avoid for name in one.members).most_common(1)[0][0]
    return tuple(name for name in one.members if models[name].avoid != usual)


def _products(choices: Sequence[Sequence[Way]]) -> Iterator[tuple[int, Way | None]]:
    """Each combination of one choice per set, with how many of them are not plain; None where two claim a sub-model."""
    for chosen in itertools.islice(itertools.product(*choices), _MOST_COMBINED):
        claimed: dict[str, CostModel] = {}
        members: list[str] = []
        for way in chosen:
            claimed.update(way)
            members += {member for name in way for member in Step.of(name).members}
        clash = len(members) != len(set(members))
        yield sum(map(bool, chosen)), None if clash else claimed


def _slowest_first(one: EqualSet, models: Way, named: Collection[str]) -> tuple[str, ...]:
    """The members of a set that may be in groups, in the order in which groups take them.

    Equal networks differ by what measuring scatters. A group takes as long whoever is in it, so the fastest stay alone.
    """
    free = (name for name in one.members if name not in named)
    return tuple(sorted(free, key=lambda name: (-math.fsum(models[name].latency_s), name)))


def _groupings(one: EqualSet, order: Sequence[str]) -> Iterator[Way]:
    """The steps of the members that are in groups, each in the order of all, for each multiset of sizes; none first."""
    for sizes in _sizes(len(one.members), sorted(one.groups, reverse=True)):
        way: dict[str, CostModel] = {}
        at = 0
        for size in sizes:
            step = Step(members=tuple(sorted(one.members[at : at + size], key=order.index))).name
            way[step] = replace(one.groups[size], name=step)
            at += size
        yield way


def _sizes(count: int, sizes: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Every multiset of sizes that `count` has room for, falling; what is left stays alone. The empty one first."""
    yield ()
    for index, size in enumerate(sizes):
        if size <= count:
            for rest in _sizes(count - size, sizes[index:]):
                yield (size, *rest)


def _splittings(one: Split) -> Iterator[Way]:
    yield {}
    for parts, model in sorted(one.parts.items()):
        steps = [Step(members=(one.name,), part=part, parts=parts).name for part in range(1, parts + 1)]
        yield {step: replace(model, name=step) for step in steps}


def search_ways(
    made: Ways,
    units: int,
    *,
    limits: Limits | None = None,
    on_progress: Callable[[SearchProgress], None] | None = None,
    on_better: Callable[[Allocation], None] | None = None,
    stop: threading.Event | None = None,
    clock: Callable[[], float] = time.perf_counter,
    **options: Any,
) -> Allocation:
    """The best plan of all ways, with one proof for all: see this file's first lines.

    Groups and parts are taken only where they are faster than the best plain plan by more than the searcher's
    `sequential_within`: less is not told apart by measuring.

    Args:
        made: The ways.
        units: See `esen_lab.planner.search`, as for all that follows.
        limits: Its memory counts groups as their members and each part as the whole.
        on_progress: Told of all ways as one search.
        on_better: Told of plans that would be taken.
        stop: Ends the search early; the best so far is returned.
        clock: Seconds, monotonic.
        **options: Of the exact searcher; its time limit is that of all ways together.

    Raises:
        EsenError: As `esen_lab.planner.search` does for the plain way.
    """
    return _Search(made, units, Limits.of(limits), on_progress, on_better, stop, clock, options).run()


class _Search:
    """One search of all ways."""

    def __init__(
        self,
        made: Ways,
        units: int,
        limits: Limits,
        on_progress: Callable[[SearchProgress], None] | None,
        on_better: Callable[[Allocation], None] | None,
        stop: threading.Event | None,
        clock: Callable[[], float],
        options: Mapping[str, Any],
    ) -> None:
        self._ways = made.ways
        self._made = made
        self._units = units
        self._limits = limits
        self._on_progress = on_progress
        self._on_better = on_better
        self._stop = stop
        self._clock = clock
        self._options = options
        options = {**searcher_options(SEARCHER), **options}
        self._limit_s, self._within = float(options["time_limit_s"]), float(options["sequential_within"])
        self._start_s = clock()
        # Of each way, what is known by now: no plan of it is faster; and whether that is settled.
        self._scatter = made.scatter or (1.0,) * len(made.ways)
        self._bounds = [
            self._schedule_bound_s(way) / scatter for way, scatter in zip(made.ways, self._scatter, strict=True)
        ]
        self._schedule_bound = min(self._bounds)
        self._settled = [bound_s == math.inf for bound_s in self._bounds]
        self._taken_s = math.inf  # groups and parts are taken where they are faster than this
        self._best_s = math.inf
        self._evaluations = 0
        self._trace: list[tuple[float, float, int]] = []

    def run(self) -> Allocation:
        """The best plan."""
        plain = best = self._search(0)
        self._best_s, self._taken_s = plain.jct_s, plain.jct_s / (1 + self._within)
        unsearched = 0
        interrupted = INTERRUPTED in plain.plan.notes
        for index in sorted(range(1, len(self._ways)), key=self._bounds.__getitem__):
            if self._settled[index]:
                continue
            if self._bounds[index] >= self._best_s * (1 - EXACTLY):
                self._settled[index] = True
                continue
            if interrupted or self._over:
                unsearched += 1
                continue
            try:
                found = self._search(index)
            except InfeasibleError:  # one of several ways: its steps do not keep the limits, or need too much memory
                self._bounds[index], self._settled[index] = math.inf, True
                continue
            except Cancelled:
                unsearched += 1
                continue
            except KeyboardInterrupt:
                interrupted = True
                unsearched += 1
                continue
            interrupted = INTERRUPTED in found.plan.notes
            if found.jct_s < self._best_s * (1 - EXACTLY):
                best, self._best_s = found, found.jct_s
        return self._result(best if self._best_s < self._taken_s else plain, unsearched, interrupted=interrupted)

    @property
    def _elapsed_s(self) -> float:
        return self._clock() - self._start_s

    @property
    def _over(self) -> bool:
        return self._elapsed_s >= self._limit_s or (self._stop is not None and self._stop.is_set())

    def _schedule_bound_s(self, way: Way) -> float:
        """No schedule of these steps is faster; infinite where no plan keeps the limits."""
        tables = {name: model.table(self._units) for name, model in way.items()}
        try:
            return schedule_bound_s(make_problem(tables, self._units, limits_of_steps(self._limits, way)))
        except InfeasibleError:
            return math.inf

    def _search(self, index: int) -> Allocation:
        way = self._ways[index]
        begun_s, before = self._elapsed_s, self._evaluations

        def better(found: Allocation) -> None:
            if index and not found.jct_s < min(self._taken_s, self._best_s):
                return
            self._trace.append((self._elapsed_s, found.jct_s, before + found.evaluations))
            if self._on_better is not None:
                self._on_better(self._with_bound(found))

        def progress(now: SearchProgress) -> None:
            assert self._on_progress is not None
            jct_s = min(self._best_s, math.inf if now.jct_s is None else now.jct_s)
            own_s = now.bound_s / self._scatter[index]
            bounds = [max(bound, own_s) if at == index else bound for at, bound in enumerate(self._bounds)]
            self._on_progress(
                replace(
                    now,
                    elapsed_s=begun_s + now.elapsed_s,
                    jct_s=None if jct_s == math.inf else jct_s,
                    bound_s=min(*bounds, jct_s),
                    evaluations=before + now.evaluations,
                    proven=False,
                    message=f"{now.message}, way {index + 1} of {len(self._ways)} to group and split",
                )
            )

        found = search(
            way,
            self._units,
            SEARCHER,
            limits=limits_of_steps(self._limits, way),
            on_progress=None if self._on_progress is None else progress,
            on_better=better,
            stop=self._stop,
            **{**self._options, "time_limit_s": max(self._limit_s - begun_s, 1e-3)},
        )
        self._evaluations += found.evaluations
        self._bounds[index] = max(self._bounds[index], found.bound_s / self._scatter[index])
        self._settled[index] = found.proven and self._scatter[index] == 1.0
        return found

    def _with_bound(self, found: Allocation) -> Allocation:
        """A plan with what is known of all ways by now."""
        bound_s = min(*self._bounds, found.jct_s)
        return replace(
            found,
            plan=replace(found.plan, bound_s=bound_s),
            schedule_bound_s=min(self._schedule_bound, bound_s),
            proven=not self._made.left_out
            and all(
                settled or bound_s >= self._best_s * (1 - EXACTLY)
                for settled, bound_s in zip(self._settled, self._bounds, strict=True)
            ),
        )

    def _result(self, found: Allocation, unsearched: int, *, interrupted: bool) -> Allocation:
        left = unsearched + self._made.left_out
        lost = found.jct_s / self._best_s - 1
        notes = [
            *self._made.notes,
            f"{len(self._ways)} ways to group and split sub-models were compared"
            + (f", {left} more were not: it is not proven that none is faster" if left else ""),
        ]
        if lost > EXACTLY and members_of(found.plan.steps) == found.plan.steps:
            tolerance = format_percent(self._within)
            notes.append(f"groups and parts are at most {format_percent(lost)} faster (up to {tolerance} is no gain)")
        if interrupted and INTERRUPTED not in found.plan.notes:
            notes.append(INTERRUPTED)
        whole = self._with_bound(found)
        return replace(
            whole,
            plan=replace(whole.plan, notes=tuple(dict.fromkeys((*whole.plan.notes, *notes)))),
            evaluations=self._evaluations,
            elapsed_s=self._elapsed_s,
            trace=tuple(self._trace),
        )


def limits_of_steps(limits: Limits, steps: Iterable[str]) -> Limits:
    """The limits as they speak of steps: a group takes the memory of all its members, and a part that of the whole."""
    if not limits.memory_bytes:
        return limits
    known = limits.memory_bytes
    sizes = {name: sum(known.get(member, 0) for member in members_of([name])) for name in steps}
    return replace(limits, memory_bytes=sizes)
