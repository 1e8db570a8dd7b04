"""Refinement by measurement: run the plan, correct the models by what it really took, search, run again.

At the end come plans that no model predicts (`run/at_once.py`).

`planner/refine.py` decides after each round; this file runs the plans. What comes back is never a plan that was
measured worse than the best one seen, the first one included. The fastest of several short measurements is often the
luckiest one: so a plan that nothing predicts is run in turns with the best of the others, and kept where that shows it
to be faster.
"""

from __future__ import annotations

import statistics
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from esen_lab.common.display import Shown
from esen_lab.common.statistics import median_interval, spread
from esen_lab.common.surroundings import step
from esen_lab.common.units import check_count, check_number, format_count, format_seconds
from esen_lab.cost_model import CostModel
from esen_lab.errors import EsenError, UsageError
from esen_lab.files.schemas import plain
from esen_lab.planner import Limits, Round, refine
from esen_lab.planner.plan import Plan
from esen_lab.planner.refine import fastest
from esen_lab.studies.lane_runs import LaneRuns


@dataclass(frozen=True, slots=True, kw_only=True)
class Refined(Shown):
    """All rounds of a refinement.

    Attributes:
        rounds: In order; the first one is the plan that was there before.
        best: Which of them was the fastest.
        plan: Its plan, with its measured JCT.
        reason: Why it ended, for people.
    """

    rounds: tuple[Round, ...]
    best: int
    plan: Plan
    reason: str

    @property
    def gain(self) -> float:
        """1 - best measured JCT / first measured JCT."""
        return 1 - self.rounds[self.best].measured_s / self.rounds[0].measured_s

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        rounds = [{**plain(one), "plan": one.plan.to_dict()} for one in self.rounds]
        return {**plain(self), "rounds": rounds, "gain": self.gain, "plan": self.plan.to_dict()}


def refine_plan(
    first: Plan,
    models: Mapping[str, CostModel],
    lanes: LaneRuns,
    as_plan: Callable[[Plan], Plan],
    *,
    most_rounds: int = 4,
    least_gain: float = 0.01,
    searcher: str = "exact",
    limits: Limits | None = None,
    others: Callable[[Plan], Sequence[Plan]] | None = None,
    stop: threading.Event | None = None,
    on_round: Callable[[tuple[Round, ...]], None] | None = None,
    **options: Any,
) -> Refined:
    """Run `first` and better plans in turn, until no better one is in sight; then others that nothing predicts.

    Args:
        first: The plan to begin with.
        models: The cost models it was searched with.
        lanes: Runs plans.
        as_plan: Says of a plan that a search found where it comes from.
        most_rounds: At most so many searched plans are run.
        least_gain: A round that gains less than this fraction is the last one.
        searcher: As for `search`.
        limits: As for `search`.
        others: Given the best plan so far, plans that are worth running besides; one that cannot be run as it says, or
            answers otherwise, is passed over.
        stop: Set it to end after the run that is under way; the best so far is returned.
        on_round: Called with all rounds whenever one is done.
        **options: The searcher's own.

    Raises:
        UsageError: `most_rounds` or `least_gain` is not possible, or a lane of the plan does not run one after another.
        EsenError: The first plan cannot be run. A later one that cannot is passed over.
        KeyboardInterrupt: It came before the first plan was measured; later, the best so far is returned.
    """
    check_count(most_rounds, "A refinement has at least one round")
    check_number(least_gain, "The least gain of a round is a fraction from 0 up to 1", least=0.0, below=1.0)
    if any(lane.mode != "serial" for lane in first.lanes):
        raise UsageError(
            "Refinement takes plans whose lanes run one after another",
            given=first.describe(),
            hint=f"Search for one first: {step('lab.search()', '%esen search')}.",
        )
    tell = on_round or (lambda _: None)
    rounds: list[Round] = []
    plan: Plan | None = first
    reason = ""
    best: int | None = None
    try:
        while plan is not None:
            done = _run(plan, lanes, stop)
            if done is None:
                reason = "stopped on request: this is the best plan measured until then"
                break
            rounds.append(done)
            decided = refine(
                models,
                first.units,
                rounds,
                most_rounds=most_rounds,
                least_gain=least_gain,
                searcher=searcher,
                limits=limits,
                **options,
            )
            reason = decided.reason
            rounds[-1] = replace(rounds[-1], decision=reason)
            plan = None if decided.candidate is None else as_plan(decided.candidate)
            tell(tuple(rounds))
        if plan is None and others is not None:
            searched = len(rounds)
            reason += _others(others(rounds[fastest(rounds)].plan), rounds, lanes, stop, tell)
            best = fastest(rounds)
            if best >= searched:
                best = _in_turns(fastest(rounds[:searched]), best, rounds, lanes, stop)
                tell(tuple(rounds))
    except KeyboardInterrupt:
        if not rounds:
            raise
        reason = "interrupted: this is the best plan measured until then"
    if not rounds:
        raise UsageError("A refinement was stopped before its first plan was measured", hint="Start it again.")
    best = fastest(rounds) if best is None else best
    return Refined(rounds=tuple(rounds), best=best, plan=_measured_plan(rounds, best), reason=reason)


def _others(
    plans: Sequence[Plan],
    rounds: list[Round],
    lanes: LaneRuns,
    stop: threading.Event | None,
    tell: Callable[[tuple[Round, ...]], None],
) -> str:
    """Rounds of plans that no search finds; what is to be said of them after the reason why the others ended."""
    for plan in plans:
        try:
            done = _run(plan, lanes, stop, as_planned=True)
        except EsenError:
            continue
        if done is None:
            return "; stopped on request before all others were run"
        rounds.append(replace(done, decision=plan.notes[-1] if plan.notes else ""))
        tell(tuple(rounds))
    ran = sum(one.plan in plans for one in rounds)
    return f"; {format_count(ran, 'plan')} with all sub-models at once were run besides" if ran else ""


def _in_turns(searched: int, other: int, rounds: list[Round], lanes: LaneRuns, stop: threading.Event | None) -> int:
    """Which of two rounds' plans to keep, after both were run in turns; their rounds then say what that showed.

    The other one where the 95 % interval of the median ratio is below 1. Where two plans cannot be loaded at a time, or
    a stop comes first, it stays with what was measured.
    """
    pairs: list[tuple[float, float]] = []
    try:
        with closing(lanes.pairs_s(rounds[searched].plan, rounds[other].plan)) as ran:
            for pair in ran:
                pairs.append(pair)
                if stop is not None and stop.is_set():
                    return other
    except EsenError:
        return other
    ratios = [theirs_s / ours_s for ours_s, theirs_s in pairs]
    low, high = median_interval(ratios)
    told = f"in turns it takes {statistics.median(ratios):.2f} ({low:.2f} to {high:.2f}) times as long as round"
    for index, times_s in zip((searched, other), zip(*pairs, strict=True), strict=True):
        measured = {"measured_s": statistics.median(times_s), "spread_s": spread(times_s), "runs": len(times_s)}
        rounds[index] = replace(rounds[index], **measured)
    rounds[other] = replace(rounds[other], decision=f"{rounds[other].decision}; {told} {searched + 1}")
    return other if high < 1 else searched


def _run(plan: Plan, lanes: LaneRuns, stop: threading.Event | None, *, as_planned: bool = False) -> Round | None:
    """One round; None when it was stopped before it was whole."""
    times_s: list[float] = []
    steps_s: dict[str, list[float]] = {name: [] for name in plan.steps}
    with closing(lanes.of(plan, as_planned=as_planned)) as reports:
        for report in reports:
            times_s.append(report.jct_s)
            for span in report.spans:
                steps_s[span.name].append(span.duration_s)
            if stop is not None and stop.is_set():
                return None
    return Round(
        plan=plan,
        measured_s=statistics.median(times_s),
        spread_s=spread(times_s),
        runs=len(times_s),
        submodel_s={name: statistics.median(steps) for name, steps in steps_s.items()},
    )


def _measured_plan(rounds: list[Round], best: int) -> Plan:
    """The plan of the best round, which says what was measured."""
    chosen, first = rounds[best], rounds[0]
    note = f"refined: measured {format_seconds(chosen.measured_s)} in round {best + 1} of {len(rounds)}"
    if best:
        note += f", the plan before it {format_seconds(first.measured_s)}"
    notes = tuple(dict.fromkeys((*chosen.plan.notes, note)))
    return replace(chosen.plan, measured_s=chosen.measured_s, notes=notes)
