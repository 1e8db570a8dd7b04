"""Plans for a deadline: those whose members that are ready by then are the most accurate together.

    D       seconds from the start of the lanes to the deadline
    ready   members that end by D, each lane running its members one after another: the beginnings of the lanes

Which sets can be ready at all is known exactly for few members: a set can, where lanes of at most the device's units
run it by D (the cover test of the exact search). The most accurate of those is a proven bound for every plan. Two plans
are then looked at, and the better one is taken: by accuracy at D, then by the JCT of all members.

    1. the plan that was searched for the shortest JCT, with the order inside its lanes chosen for D;
    2. the fastest lanes for the most accurate set, with the other members behind.

Members that fit into what is left of D are ready too: it is who is really ready that counts, not who was meant.
With more than `MOST_EXACT` members the first plan alone is looked at, its order improved step by step, and the bound is
the accuracy that no set of members can exceed (`most_accurate`), where that was given.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from esen_lab.common.units import check_number, format_percent, format_seconds
from esen_lab.planner.allocate import allocate
from esen_lab.planner.exact.cover import SubsetCover
from esen_lab.planner.plan import Lane, Plan
from esen_lab.planner.problem import Table, make_problem

MOST_EXACT = 12
_TRIES = 4000  # orders looked at, where not all are

Accuracy: TypeAlias = Callable[[tuple[str, ...]], float]
"""The accuracy of some members together, 0..1, on validation data; called with names in the order of the ensemble."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadyBy:
    """A plan for a deadline.

    Attributes:
        plan: Its lanes, each in the order in which it runs its members.
        deadline_s: D.
        ready: Who is expected to be ready by then, in the order of the ensemble; may be empty.
        accuracy: Of these together; None where nobody is.
        bound: No plan of lanes has members ready by then that are more accurate together; None: nothing is known.
        proven: Whether the plan is the best, to what the bound says.
    """

    plan: Plan
    deadline_s: float
    ready: tuple[str, ...]
    accuracy: float | None
    bound: float | None
    proven: bool

    @property
    def sentence(self) -> str:
        """For people."""
        by = f"By {format_seconds(self.deadline_s)}"
        if self.accuracy is None:
            return f"{by} no member is expected to be ready."
        verb = "is" if len(self.ready) == 1 else "are"
        told = f"{by} {', '.join(self.ready)} {verb} expected to be ready: {format_percent(self.accuracy)} right"
        if self.proven:
            return f"{told}; no plan has a more accurate set by then (proven)."
        return told + ("." if self.bound is None else f"; no plan can have more than {format_percent(self.bound)}.")


class DeadlineSearch:
    """Makes plans for one deadline; what it finds out once is kept for the next plan.

    Args:
        latencies: For each member, in the order of the ensemble, seconds at 1..units units, as for `allocate`.
        units: Units of the device.
        accuracy: See `Accuracy`.
        deadline_s: D, above 0.
        overhead_s: What a run costs besides its lanes: so much of D is not theirs.
        free: Whether any lanes may be taken; else only the order in the lanes of a plan is changed.
        most_accurate: What no set of members can exceed, for more than `MOST_EXACT` of them; None: not known.

    Raises:
        UsageError: Bad latencies, or a deadline that is no number of seconds above 0.
    """

    def __init__(
        self,
        latencies: Mapping[str, Table],
        units: int,
        accuracy: Accuracy,
        deadline_s: float,
        *,
        overhead_s: float = 0.0,
        free: bool = True,
        most_accurate: Callable[[Sequence[str]], float] | None = None,
    ) -> None:
        check_number(deadline_s, "A deadline is a number of seconds above 0", above=0.0, below=math.inf)
        self._latencies = latencies
        self._names = tuple(latencies)
        self._units = units
        self._accuracy = accuracy
        self._asked_s = deadline_s
        self._deadline_s = max(deadline_s - overhead_s, 0.0)
        self._free = free
        self._most_accurate = most_accurate
        self._known: dict[frozenset[str], float] = {frozenset(): -1.0}
        self._best: tuple[tuple[str, ...], Plan | None] | None = None
        self._problem = make_problem(latencies, units)

    @property
    def exact(self) -> bool:
        """Whether every set of members is taken into account."""
        return len(self._names) <= MOST_EXACT

    def __call__(self, plan: Plan) -> ReadyBy:
        """The best plan for the deadline, of the one given and what is known.

        Args:
            plan: Of all members, each whole and in one lane.
        """
        found = self._ordered(plan)
        if self.exact and self._free:
            best, lanes = self._most_accurate_set()
            if lanes is not None and self._worth(found) < self._value(best):
                others = [self._ordered(one) for one in self._with_the_rest(lanes, plan)]
                found = max([found, *others], key=lambda one: (self._worth(one), -(one.jct_s or math.inf)))
        ready = self.ready(found)
        accuracy = self._known[frozenset(ready)] if ready else None
        bound = self._bound()
        return ReadyBy(
            plan=found,
            deadline_s=self._asked_s,
            ready=ready,
            accuracy=accuracy,
            bound=bound,
            proven=self.exact and (bound is None or (accuracy is not None and accuracy >= bound)),
        )

    def ready(self, plan: Plan) -> tuple[str, ...]:
        """Who ends by the deadline under a plan, in the order of the ensemble."""
        return self._sorted(name for lane in plan.lanes for name in self._beginning(lane.units, lane.members))

    # --- who can be ready at all ---------------------------------------------------------------------------------

    def _most_accurate_set(self) -> tuple[tuple[str, ...], Plan | None]:
        """The most accurate set that can be ready, and the fastest lanes for it; None where no member can be."""
        if self._best is None:
            cover = SubsetCover(self._problem)
            bit = [self._problem.items.index((i,)) for i in range(len(self._names))]
            masks = np.arange(1 << len(self._names))
            in_cover = np.zeros_like(masks)
            for i, at in enumerate(bit):
                in_cover |= ((masks >> i) & 1) << at
            possible = np.flatnonzero(cover.within(self._deadline_s)[in_cover])
            sets = [tuple(n for i, n in enumerate(self._names) if mask >> i & 1) for mask in possible.tolist() if mask]
            if not sets:
                self._best = ((), None)
            else:
                best = max(sets, key=lambda names: (self._value(names), -len(names)))
                chosen = {name: self._latencies[name] for name in best}
                self._best = (best, allocate(chosen, self._units, sequential_within=0.0).plan)
        return self._best

    def _bound(self) -> float | None:
        if self.exact:
            best, lanes = self._most_accurate_set()
            return None if lanes is None else self._known[frozenset(best)]
        return None if self._most_accurate is None else self._most_accurate(self._names)

    def _value(self, names: Sequence[str]) -> float:
        key = frozenset(names)
        if key not in self._known:
            self._known[key] = float(self._accuracy(self._sorted(names)))
        return self._known[key]

    def _sorted(self, names: Iterable[str]) -> tuple[str, ...]:
        wanted = set(names)
        return tuple(name for name in self._names if name in wanted)

    # --- the order inside lanes ----------------------------------------------------------------------------------

    def _seconds(self, name: str, units: int) -> float:
        found = self._latencies[name][min(units, self._units) - 1]
        known = self._latencies[name][: min(units, self._units)]
        return math.inf if found is None else min(value for value in known if value is not None)

    def _beginning(self, units: int, members: Sequence[str]) -> list[str]:
        """Those of a lane that end by the deadline, in this order."""
        found, at_s = [], 0.0
        for name in members:
            at_s += self._seconds(name, units)
            if at_s > self._deadline_s:
                break
            found.append(name)
        return found

    def _worth(self, plan: Plan) -> float:
        return self._value(self.ready(plan))

    def _ordered(self, plan: Plan) -> Plan:
        """The same lanes, in the order whose beginnings are the most accurate set: exactly, where there are few."""
        choices = [self._beginnings(lane) for lane in plan.lanes]
        if math.prod(len(own) for own in choices) <= _TRIES:
            chosen: Sequence[tuple[str, ...]] = max(
                itertools.product(*choices),
                key=lambda one: (self._value([name for own in one for name in own]), sum(map(len, one))),
            )
        else:
            chosen = self._improved(choices)
        lanes = tuple(self._with_first(lane, own) for lane, own in zip(plan.lanes, chosen, strict=True))
        return replace(plan, lanes=lanes)

    def _beginnings(self, lane: Lane) -> list[tuple[str, ...]]:
        """The sets that can be ready in a lane, each by some order: nothing that is left out would fit behind it."""
        seconds = {name: self._seconds(name, lane.units) for name in lane.members}
        if len(lane.members) > MOST_EXACT:
            return self._some_beginnings(lane, seconds)
        found = []
        for mask in range(1 << len(lane.members)):
            own = tuple(name for i, name in enumerate(lane.members) if mask >> i & 1)
            left_s = self._deadline_s - math.fsum(seconds[name] for name in own)
            rest = [seconds[name] for name in lane.members if name not in own]
            if left_s >= 0 and (not rest or max(rest) > left_s):
                found.append(own)
        return found

    def _some_beginnings(self, lane: Lane, seconds: Mapping[str, float]) -> list[tuple[str, ...]]:
        """Of many members: the quickest first, the most accurate first, and each member first."""
        quickest = sorted(lane.members, key=lambda name: seconds[name])
        best = sorted(lane.members, key=lambda name: -self._value([name]))
        orders = [quickest, best, *([name, *(n for n in best if n != name)] for name in best)]
        return list({tuple(sorted(self._beginning(lane.units, order))): None for order in orders})

    def _improved(self, choices: Sequence[Sequence[tuple[str, ...]]]) -> list[tuple[str, ...]]:
        """One lane after another takes its best beginning, as long as that helps."""
        chosen = [max(own, key=len) for own in choices]
        better = True
        while better:
            better = False
            for lane, own in enumerate(choices):
                others = [n for i, one in enumerate(chosen) if i != lane for n in one]
                best = max(own, key=lambda one: self._value([*others, *one]))
                if self._value([*others, *best]) > self._value([*others, *chosen[lane]]):
                    chosen[lane], better = best, True
        return chosen

    def _with_first(self, lane: Lane, first: Sequence[str]) -> Lane:
        """A lane with these members first, the most accurate at its head; behind them the longest first."""
        ahead = sorted(first, key=lambda name: (-self._value([name]), lane.members.index(name)))
        behind = sorted(
            (name for name in lane.members if name not in first),
            key=lambda name: (-self._seconds(name, lane.units), lane.members.index(name)),
        )
        at = [lane.members.index(name) for name in (*ahead, *behind)]
        return replace(
            lane,
            members=tuple(lane.members[i] for i in at),
            active_units=tuple(lane.active_units[i] for i in at),
            backends=tuple(lane.backends[i] for i in at),
        )

    # --- lanes for a set, and the other members behind -----------------------------------------------------------

    def _with_the_rest(self, plan: Plan, base: Plan) -> list[Plan]:
        """Plans of all members: the lanes of a set, some with others behind."""
        rest = sorted(
            (name for name in self._names if name not in plan.names), key=lambda name: -min(self._finite(name))
        )
        spare = self._units - sum(lane.units for lane in plan.lanes)
        starts = [list(plan.lanes)]
        if spare > 0 and rest:
            starts.append([*plan.lanes, Lane(units=spare, members=(rest[0],))])
        # Behind whoever ends first; or where nothing more is ready by the deadline.
        plans = [self._filled(base, list(lanes), rest, block=block) for lanes in starts for block in (False, True)]
        return [made for made in plans if made is not None]

    def _predicted(self, base: Plan, lanes: Sequence[Lane]) -> Plan | None:
        """The plan of these lanes, with what is predicted of it; None where a member may not have its share."""
        predicted_s = {name: self._seconds(name, lane.units) for lane in lanes for name in lane.members}
        if not all(map(math.isfinite, predicted_s.values())):
            return None
        jct_s = max(math.fsum(predicted_s[name] for name in lane.members) for lane in lanes)
        return replace(base, lanes=tuple(lanes), predicted_s=predicted_s, jct_s=jct_s, measured_s=None)

    def _filled(self, base: Plan, lanes: list[Lane], rest: Sequence[str], *, block: bool) -> Plan | None:
        loads = [math.fsum(self._seconds(name, lane.units) for name in lane.members) for lane in lanes]
        taken = {name for lane in lanes for name in lane.members}
        for name in rest:
            if name in taken:
                continue
            ends = [load + self._seconds(name, lane.units) for load, lane in zip(loads, lanes, strict=True)]
            late = [i for i, end in enumerate(ends) if end > self._deadline_s]
            at = min(late if block and late else range(len(lanes)), key=lambda i: ends[i])
            lane = lanes[at]
            lanes[at] = Lane(units=lane.units, members=(*lane.members, name))
            loads[at] = ends[at]
        return self._predicted(base, lanes)

    def _finite(self, name: str) -> list[float]:
        return [value for value in self._latencies[name] if value is not None] or [math.inf]
