"""Replicas of a whole ensemble over nodes, for as many calls a second as possible or with as few nodes as will do.

A replica has a node for itself, or a group of nodes with the best placement over them, and answers one call after
another: 1 / JCT calls a second. So groups of nodes are to be chosen, disjoint, of which the sum of 1 / JCT is largest;
nodes of a kind are equal, so a group is a number of nodes of each kind (docs/nodes.md).

A group is worth placing only where its nodes may do more together than apart: where areas rule that out (`bound.py`),
it is left out, and so are all groups of so many nodes that a call would have to take less than its longest sub-model.
Groups are placed, small ones first and of these the most promising, until the time is up; of the others, areas say what
they do at the most. If no group answers more than q times what is known of it and its parts, no division answers more
than q times the best one that is known, which is found by going through all numbers of nodes. Another bound needs no
groups:

    Each call takes each sub-model once, on a node of kind k at least min_u u t_k[i, u] + U_k (o_k[i] + f_k / n) of its
    unit-seconds (a node's share of f_k is at least 1 / n for each sub-model it has), and there are m_k U_k a second. So
    many calls a second are possible only where that can be dealt to the kinds, in fractions: the bound of placements,
    without a deadline.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import comb, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from esen_lab.common.display import Shown
from esen_lab.common.units import check_number, format_percent, format_seconds, format_table, format_units
from esen_lab.errors import InfeasibleError
from esen_lab.files.schemas import plain
from esen_lab.planner.nodes.bound import AreaBound, least_load
from esen_lab.planner.nodes.lane_plans import MOST_EXACT, LanePlans
from esen_lab.planner.nodes.nodes_problem import NodeProblem
from esen_lab.planner.problem import Array
from esen_lab.planner.search_state import EXACTLY
from esen_lab.studies.placement import DevicePlacement, DeviceTables, placement_of, problem_of

BUSY = 0.8
"""How busy replicas may be, where a rate is asked for and nobody says otherwise."""
_ALL_DIVISIONS = 1_000_000
"""With so many numbers of nodes left over at most, the best division is found by going through all."""
_MANY_GROUPS = 500
"""Groups of no more nodes than give so many are looked at: with dozens of unlike nodes, each has its own replica."""
Counts = tuple[int, ...]
"""A group: how many nodes of each kind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """One replica of the ensemble.

    Attributes:
        nodes: Those it has for itself.
        placement: What runs on which of them; `lab.studies.plan_of` makes the plan.
        calls_per_s: What it answers at the most.
    """

    nodes: tuple[str, ...]
    placement: DevicePlacement
    calls_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Replication(Shown):
    """Replicas of an ensemble over nodes.

    Attributes:
        replicas: The replicas, those that answer most first.
        idle: Nodes without a replica.
        calls_per_s: What all replicas together answer at the most.
        bound_per_s: No replicas over these nodes answer more: proven.
        gap: bound_per_s / calls_per_s - 1; where a rate was asked for, the nodes that are used / least_nodes - 1.
        proven: Whether no replicas are better: answer more, or hold the rate with fewer nodes.
        rate_per_s: The rate that was asked for, or None.
        busy: The part of the time that the replicas may be busy at that rate, 0 to 1.
        least_nodes: No fewer nodes hold the rate: proven; None without one.
        evaluations: How many groups of nodes were placed.
        elapsed_s: Wall time.
    """

    replicas: tuple[Replica, ...]
    idle: tuple[str, ...]
    calls_per_s: float
    bound_per_s: float
    gap: float
    proven: bool
    rate_per_s: float | None
    busy: float
    least_nodes: int | None
    evaluations: int
    elapsed_s: float

    @property
    def nodes(self) -> int:
        """How many nodes have a replica, or a part of one."""
        return sum(len(one.nodes) for one in self.replicas)

    def rows(self) -> tuple[tuple[str, str, str, str], ...]:
        """Equal replicas together: how many, their nodes, the JCT and the calls a second of each."""
        alike: dict[tuple[float, int], list[Replica]] = {}
        for one in self.replicas:
            alike.setdefault((one.placement.jct_s, len(one.nodes)), []).append(one)
        return tuple(
            (
                str(len(group)),
                _few([" + ".join(one.nodes) for one in group]),
                format_seconds(jct_s),
                f"{group[0].calls_per_s:.4g}/s",
            )
            for (jct_s, _), group in alike.items()
        )

    def __str__(self) -> str:
        """The replicas as a table, and what they do together."""
        return f"{format_table(('replicas', 'nodes', 'JCT', 'answers'), self.rows())}\n{self.describe()}"

    def describe(self) -> str:
        """What was chosen, in one line."""
        told = f"{format_units(len(self.replicas), 'replica')} on {format_units(self.nodes, 'node')}: "
        told += f"{self.calls_per_s:.4g} calls/s, "
        if self.least_nodes is None:
            gap = "no replicas answer more" if self.proven else f"{format_percent(self.gap)} below the proven bound"
            return told + gap
        fewest = "no fewer nodes do" if self.proven else f"at least {format_units(self.least_nodes, 'node')} are needed"
        return f"{told}{self.rate_per_s:g}/s are held with replicas busy {format_percent(self.busy)} at most; {fewest}"

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        replicas = [
            {"nodes": list(one.nodes), "calls_per_s": one.calls_per_s, "placement": one.placement.to_dict()}
            for one in self.replicas
        ]
        return {**plain(replace(self, replicas=())), "replicas": replicas}


def _few(names: Sequence[str]) -> str:
    return ", ".join(names if len(names) <= 4 else [*names[:3], f"... {names[-1]}"])


def replicate(
    devices: Sequence[DeviceTables],
    *,
    rate_per_s: float | None = None,
    busy: float = BUSY,
    within_s: float | None = None,
    output_bytes: Mapping[str, int] | None = None,
    time_limit_s: float = 5.0,
) -> Replication:
    """Choose how many replicas of the ensemble to run, and on which nodes each.

    Args:
        devices: The nodes; all know the same sub-models.
        rate_per_s: Calls a second that are to be held with as few nodes as possible; None for as many calls as possible
            with all of them. Requests that are joined to batches are one call per batch.
        busy: With a rate: the part of the time that replicas may be busy, above 0 and at most 1. Near 1, calls wait
            long.
        within_s: Replicas that take longer for a call do not count; None: all do.
        output_bytes: As for `place`.
        time_limit_s: Wall time after which no other group of nodes is placed.

    Raises:
        UsageError: As `place`, or a number is not possible.
        InfeasibleError: As `place`, no replica is as fast as `within_s`, or the rate is not held.
    """
    started_s = time.perf_counter()
    _check(rate_per_s, busy, within_s, time_limit_s)
    problem = problem_of(devices, output_bytes)
    search = _NodeGroups(problem, within_s, started_s + time_limit_s)
    search.run()
    needed_per_s = None if rate_per_s is None else rate_per_s / busy
    chosen = search.most() if needed_per_s is None else search.fewest(needed_per_s)
    calls_per_s = sum(search.rates[group] for group in chosen)
    if not chosen or (needed_per_s is not None and calls_per_s < needed_per_s * (1 - EXACTLY)):
        raise _too_much(search, rate_per_s, busy, within_s)
    replicas, idle = _replicas(search, chosen, [device.name for device in devices])
    bound_per_s = max(calls_per_s, search.bound_per_s())
    used, least = sum(len(one.nodes) for one in replicas), None
    if needed_per_s is None:
        gap = bound_per_s / calls_per_s - 1
    else:
        least = min(used, search.least_nodes(needed_per_s))
        gap = used / least - 1
    return Replication(
        replicas=replicas,
        idle=idle,
        calls_per_s=calls_per_s,
        bound_per_s=bound_per_s,
        gap=gap,
        proven=gap <= EXACTLY,
        rate_per_s=rate_per_s,
        busy=busy,
        least_nodes=least,
        evaluations=search.evaluations,
        elapsed_s=time.perf_counter() - started_s,
    )


def _check(rate_per_s: float | None, busy: float, within_s: float | None, time_limit_s: float) -> None:
    if rate_per_s is not None:
        check_number(rate_per_s, "A rate is a number of calls a second above 0", above=0.0, below=float("inf"))
    check_number(busy, "Replicas are busy a part of the time, above 0 and at most 1", above=0.0, most=1.0)
    if within_s is not None:
        check_number(within_s, "A limit of a call's time is a number of seconds above 0", above=0.0)
    check_number(time_limit_s, "A time limit is a positive number of seconds", above=0.0)


def _too_much(search: _NodeGroups, rate_per_s: float | None, busy: float, within_s: float | None) -> InfeasibleError:
    held = sum(search.rates[group] for group in search.most())
    if not search.placed:
        return InfeasibleError("Some lanes can have every sub-model", given="none were found")
    if not held:
        best_s = min(found.jct_s for found in search.placed.values())
        return InfeasibleError(
            f"A replica answers within {format_seconds(within_s)}",
            given=f"the fastest that was found takes {format_seconds(best_s)}",
            hint="Add nodes, or allow more time.",
        )
    return InfeasibleError(
        f"The nodes hold {rate_per_s:g} calls/s with replicas that are busy {format_percent(busy)} of the time",
        given=f"{held * busy:.4g}/s was found, and more than {search.bound_per_s() * busy:.4g}/s is not possible",
        hint="Add nodes, or let replicas be busier.",
    )


def _replicas(
    search: _NodeGroups, chosen: Sequence[Counts], names: Sequence[str]
) -> tuple[tuple[Replica, ...], tuple[str, ...]]:
    """The groups with the nodes that they get, in the order of their rates; and who is left."""
    free = [[names[node] for node in kind.nodes] for kind in search.problem.kinds]
    replicas = []
    for group in sorted(chosen, key=lambda group: (-search.rates[group], group)):
        mine = tuple(free[k].pop(0) for k, count in enumerate(group) for _ in range(count))
        found = search.placed[group]
        own = tuple((name, lanes) for name, (_, lanes) in zip(mine, found.devices, strict=True))
        replicas.append(Replica(nodes=mine, placement=replace(found, devices=own), calls_per_s=search.rates[group]))
    return tuple(replicas), tuple(name for left in free for name in left)


class _NodeGroups:
    """Groups of nodes, and what replicas on them answer. A group is a number of nodes of each kind."""

    def __init__(self, problem: NodeProblem, within_s: float | None, ends_s: float) -> None:
        self.problem, self._within_s, self._ends_s = problem, within_s, ends_s
        self._plans = LanePlans(problem.names)
        self.all: Counts = tuple(len(kind.nodes) for kind in problem.kinds)
        self.placed: dict[Counts, DevicePlacement] = {}
        self.rates: dict[Counts, float] = {}
        """Of groups that do more together than apart."""
        self.above = 1.0
        """No group answers more than so many times what is known of it and its parts."""
        self.evaluations = 0
        self._apart: dict[Counts, tuple[float, tuple[Counts, ...]]] = {}

    # --- groups ---------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Place groups, small ones first."""
        for size in range(1, min(sum(self.all), len(self.problem.names)) + 1):
            if size > 1 and self._none_helps(size):
                return
            if size > 1 and comb(len(self.all) + size - 1, size) > _MANY_GROUPS:
                self.above = float("inf")
                return
            for group in self._by_promise(list(_of_size(size, self.all))):
                self._settle(group)

    def _none_helps(self, size: int) -> bool:
        """Whether no group of so many nodes or more beats its nodes apart: a call takes as long as a sub-model."""
        alone = [self.rates.get(group, 0.0) for group in _of_size(1, self.all)]
        return size * min(alone) >= 1 / AreaBound(self.problem).critical_s

    def _by_promise(self, groups: list[Counts]) -> list[Counts]:
        """Those first of which areas promise most."""
        if len(groups) > 1 and sum(groups[0]) > 1:
            groups.sort(key=lambda group: -self._most_per_s(group) / max(self._divided(group)[0], 1e-300))
        return groups

    def _settle(self, group: Counts) -> None:
        """Find out what a group does more than its parts, or at the most; place it unless it does no more."""
        apart_per_s, _ = self._divided(group)
        problem = self.problem.some(group)
        area = AreaBound(problem)
        if apart_per_s and area.rules_out((1 - EXACTLY) / apart_per_s):
            return
        if sum(group) > 1 and time.perf_counter() > self._ends_s:
            bound_s = area.within(1 / apart_per_s) if apart_per_s else area.critical_s
        else:
            bound_s = self._place(group, problem)
        best_per_s, most_per_s = self._divided(group)[0], self._rate(bound_s)
        if most_per_s > best_per_s * (1 + 2 * EXACTLY):
            self.above = max(self.above, most_per_s / best_per_s if best_per_s else float("inf"))

    def _place(self, group: Counts, problem: NodeProblem) -> float:
        """Place a group, and keep it if it does more together than apart; the bound of its JCT, in seconds."""
        self.evaluations += 1
        left_s = max(0.3, self._ends_s - time.perf_counter())
        names = [str(node) for node in range(problem.count)]
        try:
            found = placement_of(problem, self._plans, names, time_limit_s=min(1.0, left_s))
        except InfeasibleError:  # no lanes of these nodes can have every sub-model; beyond, none were found
            return float("inf") if len(self.problem.names) <= MOST_EXACT else AreaBound(problem).critical_s
        self.placed[group] = found
        rate = self._rate(found.jct_s)
        if rate > self._divided(group)[0] * (1 + EXACTLY):
            self.rates[group] = rate
            self._apart.clear()
        return found.bound_s

    def _rate(self, jct_s: float) -> float:
        """Calls a second of a replica that takes so long for one; 0 where that is too long."""
        return 0.0 if self._within_s is not None and jct_s > self._within_s * (1 + EXACTLY) else 1 / jct_s

    def _divided(self, group: Counts) -> tuple[float, tuple[Counts, ...]]:
        """The best division of a small group of nodes into groups that are known: calls a second, and the groups."""
        if group not in self._apart:
            best: tuple[float, tuple[Counts, ...]] = (self.rates[group], (group,)) if group in self.rates else (0.0, ())
            for part in self.rates:
                if part != group and all(mine <= theirs for mine, theirs in zip(part, group, strict=True)):
                    rest = tuple(theirs - mine for mine, theirs in zip(part, group, strict=True))
                    per_s, groups = self._divided(rest) if any(rest) else (0.0, ())
                    if per_s + self.rates[part] > best[0]:
                        best = (per_s + self.rates[part], (part, *groups))
            self._apart[group] = best
        return self._apart[group]

    # --- divisions ------------------------------------------------------------------------------------------------

    @property
    def _few(self) -> bool:
        return prod(count + 1 for count in self.all) <= _ALL_DIVISIONS

    @cached_property
    def _divisions(self) -> _Divisions:
        return _Divisions(self.all, self.rates)

    def most(self) -> tuple[Counts, ...]:
        """The division of all nodes that answers most."""
        return self._divisions.groups(self.all) if self._few else self._greedy(float("inf"))

    def fewest(self, needed_per_s: float) -> tuple[Counts, ...]:
        """The division of as few nodes as possible that answers so much; of all nodes where none does."""
        if not self._few:
            return self._greedy(needed_per_s)
        return self._divisions.groups(self._divisions.fewest(needed_per_s))

    def _greedy(self, needed_per_s: float) -> tuple[Counts, ...]:
        """Groups by what they answer per node, until it is enough."""
        left, chosen, per_s = list(self.all), [], 0.0
        for group in sorted(self.rates, key=lambda group: -self.rates[group] / sum(group)):
            while per_s < needed_per_s and all(mine <= have for mine, have in zip(group, left, strict=True)):
                left = [have - mine for mine, have in zip(group, left, strict=True)]
                chosen.append(group)
                per_s += self.rates[group]
        return tuple(chosen)

    # --- bounds ---------------------------------------------------------------------------------------------------

    def bound_per_s(self) -> float:
        """No replicas answer more calls a second: by areas, and by what groups do at the most."""
        by_area = self._most_per_s(self.all)
        return min(by_area, self.above * float(self._divisions.per_s[self.all])) if self._few else by_area

    def _loads(self, group: Counts) -> tuple[Array, Array]:
        """Unit-seconds of each sub-model in a call, by kind, as parts of those of a node in a second; and the nodes."""
        kinds = [(kind, count) for kind, count in zip(self.problem.kinds, group, strict=True) if count]
        n = len(self.problem.names)
        loads = [
            (kind.table * np.arange(1, kind.units + 1)).min(axis=1) / kind.units + kind.output_s + kind.fixed_s / n
            for kind, _ in kinds
        ]
        return np.array(loads), np.array([count for _, count in kinds], dtype=np.float64)

    def _most_per_s(self, group: Counts) -> float:
        loads, nodes = self._loads(group)
        load, _ = least_load(loads / nodes[:, None], np.ones(len(nodes)) / len(nodes))
        return 1 / load

    def least_nodes(self, needed_per_s: float) -> int:
        """No fewer nodes answer so much: by areas, and by what groups do at the most."""
        by_area = self._least_by_area(needed_per_s)
        if not self._few or self.above == float("inf"):
            return by_area
        return max(by_area, sum(self._divisions.fewest(needed_per_s / self.above)))

    def _least_by_area(self, needed_per_s: float) -> int:
        """What each node can add to a call at the most, by the weights of the bound."""
        loads, nodes = self._loads(self.all)
        load, weights = least_load(loads / nodes[:, None], np.ones(len(nodes)) / len(nodes))
        each = sorted(((w / m / load, int(m)) for w, m in zip(weights, nodes, strict=True)), reverse=True)
        count, per_s = 0, 0.0
        for adds_per_s, many in each:
            for _ in range(many):
                if per_s >= needed_per_s * (1 - EXACTLY):
                    return max(1, count)
                count, per_s = count + 1, per_s + adds_per_s
        return max(1, count)


def _of_size(size: int, most: Counts) -> Iterator[Counts]:
    """All groups of so many nodes."""
    if len(most) == 1:
        if size <= most[0]:
            yield (size,)
        return
    for first in range(min(size, most[0]), -1, -1):
        for rest in _of_size(size - first, most[1:]):
            yield (first, *rest)


class _Divisions:
    """The best division of every number of nodes of each kind, into groups that may be taken again and again.

    Args:
        most: How many nodes of each kind there are.
        rates: What each group answers.
    """

    def __init__(self, most: Counts, rates: Mapping[Counts, float]) -> None:
        self._most = most
        self.per_s: Array = np.zeros([count + 1 for count in most])
        self._taken: list[tuple[Counts, NDArray[np.int32]]] = []
        for group, rate in rates.items():
            self._add(group, rate)

    def _add(self, group: Counts, rate: float) -> None:
        before, taken = self.per_s.copy(), np.zeros(self.per_s.shape, dtype=np.int32)
        times = min(have // mine for have, mine in zip(self._most, group, strict=True) if mine)
        for t in range(1, times + 1):
            into = tuple(slice(t * mine, None) for mine in group)
            out_of = tuple(slice(None, have + 1 - t * mine) for have, mine in zip(self._most, group, strict=True))
            offered = before[out_of] + t * rate
            better = offered > self.per_s[into] * (1 + EXACTLY)
            self.per_s[into][better] = offered[better]
            taken[into][better] = t
        self._taken.append((group, taken))

    def groups(self, nodes: Counts) -> tuple[Counts, ...]:
        """The groups of the best division."""
        chosen: list[Counts] = []
        for group, taken in reversed(self._taken):
            t = int(taken[nodes])
            chosen.extend(itertools.repeat(group, t))
            nodes = tuple(have - t * mine for have, mine in zip(nodes, group, strict=True))
        return tuple(chosen)

    def fewest(self, needed_per_s: float) -> Counts:
        """The fewest nodes that answer so much, of those the ones that answer most; all nodes where none do."""
        enough = self.per_s >= needed_per_s * (1 - EXACTLY)
        if not enough.any():
            return self._most
        nodes = np.indices(self.per_s.shape).sum(axis=0)
        nodes = np.where(enough, nodes, nodes.max() + 1)
        fewest = np.where(nodes == nodes.min(), self.per_s, -1.0)
        return tuple(int(i) for i in np.unravel_index(int(fewest.argmax()), fewest.shape))
