"""`allocate` finds the best lanes for given latencies; `SEARCHERS` names the searchers.

A searcher is a frozen record of its options that is called with a problem and a watch: it offers plans to the watch,
raises its bound where it proves one, and returns soon after the watch is cancelled. It decides nothing else: inputs are
checked before, notes and the sequential verdict are added after, the same for all.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Generator, Mapping
from importlib import import_module
from typing import Any, Protocol, TypeAlias

from esen_lab.common.surroundings import step
from esen_lab.common.units import format_seconds
from esen_lab.common.words import unknown
from esen_lab.cost_model.model import CostModel
from esen_lab.errors import Cancelled, InfeasibleError, UsageError
from esen_lab.planner.allocation import Allocation, remarks_of, under_models
from esen_lab.planner.bounds import schedule_bound_s
from esen_lab.planner.exact.within_limits import why_infeasible
from esen_lab.planner.limits import Limits
from esen_lab.planner.plan import Lane, Plan
from esen_lab.planner.problem import SearchProblem, Table, make_problem, with_capacity
from esen_lab.planner.search_state import Candidate, SearchProgress, SearchWatch

Measure: TypeAlias = Callable[[Plan], Generator[float, None, None]]
"""Runs a plan: the JCT of one run after another, in seconds."""


class Searcher(Protocol):
    """One way to search. A frozen dataclass whose fields are its options.

    One that asks `SearchWatch.judge` about its plans, and takes no prediction for the truth, says `measures = True`.
    """

    def __call__(self, problem: SearchProblem, watch: SearchWatch) -> None:
        """Offer plans to `watch`, at least one where the limits allow any, until done or `watch.cancelled`."""


def _lazily(home: str) -> Callable[[], Callable[..., Searcher]]:
    def creator() -> Callable[..., Searcher]:
        module, _, name = home.partition(":")
        created: Callable[..., Searcher] = getattr(import_module(module), name)
        return created

    return creator


INTERRUPTED = "interrupted: this is the best plan found until then"
"""The note of a plan whose search Ctrl-C ended."""
SEARCHERS: Mapping[str, Callable[[], Callable[..., Searcher]]] = {
    "exact": _lazily("esen_lab.planner.exact.exact:Exact"),
    "optuna": _lazily("esen_lab.planner.optuna_search:OptunaSearch"),
    "equal": _lazily("esen_lab.planner.baselines:Equal"),
    "sequential": _lazily("esen_lab.planner.baselines:Sequential"),
}
"""Name -> a function that imports the searcher and returns its class. Nothing is imported before it is asked for."""


def allocate(
    latencies: Mapping[str, Table],
    units: int,
    searcher: str = "exact",
    *,
    limits: Limits | Mapping[str, Any] | None = None,
    on_progress: Callable[[SearchProgress], None] | None = None,
    on_better: Callable[[Allocation], None] | None = None,
    stop: threading.Event | None = None,
    measure: Measure | None = None,
    **options: Any,
) -> Allocation:
    """Choose lanes and shares for the shortest predicted JCT, from bare latency tables.

    Args:
        latencies: For each sub-model, seconds at 1..units units; None where no lane that it is in may have that share.
            A table need not fall: more units are never slower, because a lane may use fewer than it has.
        units: Units of the device; the lanes' shares sum to at most this.
        searcher: A name in `SEARCHERS`.
        limits: What the plan must keep to: a `Limits`, or a mapping of its attributes.
        on_progress: Called in this thread with a `SearchProgress` whenever the search gets further.
        on_better: Called in this thread with every plan that is better than all before it, as it stands then.
        stop: Set it (from another thread) to end the search early; the best so far is returned.
        measure: Makes the measured JCT the objective: runs a plan again and again and yields the seconds of each run.
            Latencies then only decide the shares of lanes that a searcher asks about. Not every searcher can.
        **options: The searcher's own; `searcher_options(name)` lists them.

    Returns:
        The best plan found. When the search is cut short (its time limit, `stop`, Ctrl-C) that is the best so far and
        the notes say so.

    Raises:
        UsageError: Bad latencies, units or limits, an unknown searcher or option.
        InfeasibleError: No plan keeps the limits; the message says which one fails, and by how much.
        Cancelled: `stop` was set before there was any plan to return.
        KeyboardInterrupt: It came before there was any plan to return.
    """
    chosen = make_searcher(searcher, **options)
    limits = Limits.of(limits)
    problem = make_problem(latencies, units, limits)
    if measure is not None:
        _check_measurable(searcher, chosen, limits)

    def better(candidate: Candidate) -> None:
        if on_better is not None:
            on_better(_allocation(problem, watch, candidate, searcher, bound_s))

    def run(candidate: Candidate) -> Generator[float, None, None]:
        assert measure is not None
        return measure(_allocation(problem, watch, candidate, searcher, bound_s).plan)

    watch = SearchWatch(
        on_progress=on_progress,
        on_better=better if on_better is not None else None,
        stop=stop,
        measure=run if measure is not None else None,
    )
    interrupted, in_time = False, None
    if limits.target_s is not None:
        watch.report("looking for the fewest units that reach the target")
        problem, in_time, interrupted = _fewest_units(problem, chosen, limits.target_s, watch)
        watch.slowest_s = limits.target_s * (1 + ROUNDING)
    bound_s = schedule_bound_s(problem)
    watch.raise_bound(bound_s)
    if in_time is not None:  # the search below begins anew, and its time may end before it has one
        watch.offer(in_time.groups, in_time.shares, in_time.jct_s)
    try:
        if not interrupted or watch.best is None:
            chosen(problem, watch)
    except KeyboardInterrupt:
        if watch.best is None:
            raise
        interrupted = True
    best = _best(problem, limits, watch, searcher)
    _remark(problem, watch, interrupted)
    return _allocation(problem, watch, best, searcher, bound_s)


def _check_measurable(searcher: str, chosen: Searcher, limits: Limits) -> None:
    able = [name for name, creator in SEARCHERS.items() if getattr(creator(), "measures", False)]
    if not getattr(chosen, "measures", False):
        raise UsageError(
            f"A search by measured JCT takes one of the searchers {', '.join(able)}",
            given=f"{searcher!r}, which computes with predictions",
            hint=f"{step('lab.studies.refine(x)', '`%esen refine x`')} corrects its predictions by measuring.",
        )
    if limits.target_s is not None:
        raise UsageError(
            "A latency target is met by prediction",
            given=f"target_s={limits.target_s!r} with measured JCTs",
            hint="Search without one of the two, and refine the plan.",
        )


def _best(problem: SearchProblem, limits: Limits, watch: SearchWatch, searcher: str) -> Candidate:
    if watch.best is not None:
        return watch.best
    if watch.failure is not None:
        raise watch.failure
    if watch.cancelled:
        raise Cancelled("The search was stopped before it had a plan", hint="Start it again.")
    if searcher == "exact":
        raise why_infeasible(problem, limits)
    raise InfeasibleError(
        f"The searcher {searcher!r} found no plan that keeps the limits", hint="'exact' finds one if there is one."
    )


def _remark(problem: SearchProblem, watch: SearchWatch, interrupted: bool) -> None:
    if interrupted:
        watch.notes.append(INTERRUPTED)
    if watch.failure is not None:
        watch.notes.append(f"some plans could not be run; the last one: {watch.failure.rule}")
    if watch.cancelled:
        watch.notes.append("stopped on request: this is the best plan found until then")
    if problem.capacity > problem.units:
        watch.notes.append(
            "oversubscribed: predicted as if lanes did not disturb each other, so measure it before you believe it"
        )


ROUNDING = 1e-12
"""A lane's time is a sum, and the same latencies in another order sum to another last digit."""


def _fewest_units(
    problem: SearchProblem, chosen: Searcher, target_s: float, watch: SearchWatch
) -> tuple[SearchProblem, Candidate | None, bool]:
    """`problem` with the smallest capacity for which `chosen` finds a plan that reaches the target.

    Returns:
        The problem, that plan, and whether Ctrl-C came: then with the fewest units known to do. The problem as it is
        and no plan, where it was stopped before there was one, or nothing keeps the other limits.

    Raises:
        InfeasibleError: No plan is as fast.
    """
    slowest_s = target_s * (1 + ROUNDING)

    def reached(capacity: int) -> tuple[bool, SearchWatch]:
        within = with_capacity(problem, capacity)
        probe = SearchWatch(stop=watch.stop)
        probe.raise_bound(schedule_bound_s(within))
        probe.decide(slowest_s)
        if not probe.over:
            chosen(within, probe)
        return probe.jct_s <= slowest_s, probe

    possible, probe = reached(problem.capacity)
    if not possible and (probe.cancelled or (probe.best is None and probe.bound_s <= slowest_s)):
        return problem, None, False
    if not possible:
        best = f"the best plan found takes {format_seconds(probe.jct_s)}, and " if probe.best is not None else ""
        raise InfeasibleError(
            f"The JCT is at most {format_seconds(target_s)}",
            given=f"{best}no plan of {problem.capacity} units takes less than {format_seconds(probe.bound_s)}: "
            f"{format_seconds(min(probe.jct_s, max(probe.bound_s, target_s)) - target_s)} too slow",
            hint="Raise target_s, leave sub-models out, or use a larger device.",
        )
    too_few, enough, plan, interrupted = 0, problem.capacity, probe.best, False
    try:
        while enough - too_few > 1 and not watch.cancelled:
            middle = (too_few + enough) // 2
            possible, probe = reached(middle)
            if possible:
                enough, plan = middle, probe.best
            else:
                too_few = middle
    except KeyboardInterrupt:
        interrupted = True
    reached_s = f"the target of {format_seconds(target_s)}"
    if enough > problem.units:
        watch.notes.append(f"shares of {enough} units in all reach {reached_s}, {problem.units} are there")
    else:
        left = "; the others stay free" if enough < problem.units else ""
        watch.notes.append(f"{enough} of {problem.units} units reach {reached_s}{left}")
    return with_capacity(problem, enough), plan, interrupted


def search(
    models: Mapping[str, CostModel],
    units: int,
    searcher: str = "exact",
    *,
    limits: Limits | Mapping[str, Any] | None = None,
    on_progress: Callable[[SearchProgress], None] | None = None,
    on_better: Callable[[Allocation], None] | None = None,
    stop: threading.Event | None = None,
    measure: Measure | None = None,
    **options: Any,
) -> Allocation:
    """Choose lanes and shares for the shortest predicted JCT, from cost models.

    As `allocate`, but `active_units` name measured shares, and the notes carry what the models say of themselves.

    Raises:
        UsageError: As `allocate`, or a model predicts for fewer than `units` units.
    """
    for name, model in models.items():
        if model.units < units:
            raise UsageError(
                f"A search over {units} units needs models that predict up to {units} units",
                given=f"{model.units} for {name!r}",
                hint=f"Fit again with units={units}.",
            )
    latencies = {name: model.table(units) for name, model in models.items()}

    allocation = allocate(
        latencies,
        units,
        searcher,
        limits=limits,
        on_progress=on_progress,
        on_better=None if on_better is None else lambda better: on_better(better.under(models)),
        stop=stop,
        measure=None if measure is None else lambda plan: measure(under_models(plan, models)),
        **options,
    ).under(models)
    notes = (*allocation.plan.notes, *remarks_of(models))
    return dataclasses.replace(allocation, plan=dataclasses.replace(allocation.plan, notes=notes))


def make_searcher(searcher: str, **options: Any) -> Searcher:
    """The searcher of that name with those options.

    Raises:
        UsageError: No such searcher, no such option, or a value the option does not take.
    """
    takes = searcher_options(searcher)
    strange = sorted(set(options) - set(takes))
    if strange:
        rule = f"The searcher {searcher!r} takes {', '.join(takes) or 'no options'}"
        raise unknown(rule, strange[0], takes, given=f"option {', '.join(strange)}")
    try:
        return SEARCHERS[searcher]()(**options)
    except TypeError as problem:
        raise UsageError(
            f"The searcher {searcher!r} takes numbers and truth values for its options",
            given=f"{options} ({problem})",
            hint=f"Defaults: {', '.join(f'{name}={value!r}' for name, value in takes.items())}.",
        ) from problem


def searcher_options(searcher: str) -> dict[str, Any]:
    """The options of a searcher with their defaults.

    Raises:
        UsageError: No such searcher.
    """
    if not isinstance(searcher, str) or searcher not in SEARCHERS:
        raise unknown(f"A searcher is one of {', '.join(SEARCHERS)}", searcher, SEARCHERS, given=repr(searcher))
    return {field.name: field.default for field in dataclasses.fields(SEARCHERS[searcher]())}  # type: ignore[arg-type]


def _allocation(
    problem: SearchProblem, watch: SearchWatch, best: Candidate, searcher: str, bound_s: float
) -> Allocation:
    lanes = []
    predicted_s = {}
    for group, share in zip(best.groups, best.shares, strict=True):
        members = sorted(index for item in group for index in problem.items[item])
        predicted_s.update({problem.names[i]: float(problem.latency_s[i, share - 1]) for i in members})
        lanes.append((members, share))
    lanes.sort(key=lambda lane: (-lane[1], lane[0][0]))
    jct_s = problem.jct_s(best.groups, best.shares) if watch.measuring else best.jct_s
    notes = list(watch.notes)
    within = min(problem.capacity, problem.units)  # what may be given away beyond the device is nowhere free
    free = within - sum(best.shares)
    if free > 0:
        why = "" if _could_be_faster(problem, best, free) else ": no lane would be faster"
        notes.append(f"{free} of {within} units stay free{why}")
    plan = Plan(
        lanes=tuple(
            Lane(
                units=share,
                members=tuple(problem.names[i] for i in members),
                active_units=tuple(int(problem.active_units[i, share - 1]) for i in members),
            )
            for members, share in lanes
        ),
        units=problem.units,
        searcher=searcher,
        jct_s=jct_s,
        measured_s=best.jct_s if watch.measuring and watch.best is best else None,
        bound_s=min(watch.bound_s, jct_s),  # a proof holds to a relative 1e-9, and may state the JCT itself
        predicted_s=predicted_s,
        notes=tuple(notes),
    )
    return Allocation(
        plan=plan,
        schedule_bound_s=min(bound_s, jct_s),
        proven=watch.proven,
        evaluations=watch.evaluations,
        elapsed_s=watch.elapsed_s,
        trace=tuple(watch.trace),
    )


def _could_be_faster(problem: SearchProblem, best: Candidate, free: int) -> bool:
    """Whether a lane would be faster with some of the free units."""
    return any(
        problem.lane_s(group, wider) < problem.lane_s(group, share)
        for group, share in zip(best.groups, best.shares, strict=True)
        for wider in range(share + 1, min(share + free, problem.units) + 1)
    )
