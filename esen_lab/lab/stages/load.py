"""A load on the lanes of a plan, and on the usual ways to run the same ensemble, in turns at each rate."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from esen_lab.common.trees import Tree
from esen_lab.common.units import check_count, check_number, check_seed
from esen_lab.common.words import listed, unknown
from esen_lab.errors import UsageError
from esen_lab.lab.plan_checks import members_run_by
from esen_lab.lab.runtime import Runtime
from esen_lab.lab.stages.members import follow
from esen_lab.planner.plan import Plan
from esen_lab.planner.rate import ServiceTimes, latencies
from esen_lab.run import STRATEGIES, Executor

if TYPE_CHECKING:
    from esen_lab.load import LoadTable, Replies

WAYS = ("plan", "sequential", "unlimited")
_FRACTIONS = (0.3, 0.6, 0.9)
_OVERTIME = 3.0  # a rate that is not held is given up after so many times its duration
_FEW_REQUESTS = 100
_MOST_OF = 0.9  # of the requests were in batches of sizes that are known
_FEW = 3  # times of a batch of one size: fewer are no basis


def load_test(
    runtime: Runtime,
    rates: Sequence[float] | None,
    x: Tree,
    *,
    p99_s: float,
    duration_s: float,
    most_rows: int,
    ways: Sequence[str],
    seed: int,
    on_progress: Callable[[int, int, str], object] | None = None,
    on_row: Callable[[LoadTable], object] | None = None,
) -> LoadTable:
    """See `Lab.load_test`."""
    from esen_lab.load import LoadRow, LoadTable, arrivals_s, check_load, drive, row_of
    from esen_lab.serving.prepared import sizes_of_engines
    from esen_lab.studies.rate import resized

    runtime.state.need_submodels("load with requests")
    follow(runtime)
    settings = runtime.fork_server.session_here()
    plan = runtime.state.need_plan("load")
    ensemble = members_run_by(plan, runtime.state.ensemble)
    runtime.together.check(ensemble)
    most_rows = check_count(most_rows, "The largest batch is a whole number from 1 to 1024", most=1024)
    check_seed(seed)
    check_number(p99_s, "The deadline of a load is a number of seconds above 0", above=0.0, below=math.inf)
    rates = None if rates is None else _given(rates)
    for rate in rates or (1.0,):  # before anything is started
        check_load(rate, duration_s)
    inputs = [resized(ensemble.example if x is None else x, rows) for rows in range(1, most_rows + 1)]
    plans = _plans(ways, plan, lambda name: STRATEGIES[name](ensemble, runtime.state.device.units))
    found: list[LoadRow] = []

    def table() -> LoadTable:
        few = any(row.requests < _FEW_REQUESTS for row in found)
        return LoadTable(
            rows=tuple(found),
            deadline_s=p99_s,
            duration_s=duration_s,
            most_rows=most_rows,
            notes=(f"A 99th percentile of fewer than {_FEW_REQUESTS} requests is their slowest: load for longer.",)
            if few
            else (),
        )

    with runtime.turns.turn("a load test", refused=False), contextlib.ExitStack() as closing:
        closing.enter_context(runtime.fork_server.under(settings))
        closing.enter_context(ensemble.combine.kept())  # the load is no call of anybody's
        answers: dict[str, Callable[[int], object]] = {}
        for name, one in plans.items():
            executor = Executor.start(one, ensemble, runtime.state.device, runtime.fork_server)
            closing.callback(executor.close)
            sizes = sizes_of_engines(one, ensemble.example, most_rows)  # as a server runs them; none: each at its own
            answers[name] = partial(_answer, executor, inputs, sizes)
            # Memory is touched for the first time, and engines prepare themselves, for each size.
            for rows in sizes or sorted({1, 2, (most_rows + 1) // 2, most_rows}):
                answers[name](min(rows, most_rows))
        rates = _rates(answers["plan"] if "plan" in answers else next(iter(answers.values())), most_rows, rates)
        every = len(rates) * len(answers)
        for rate in rates:
            due_s = arrivals_s(rate, duration_s, seed)  # the same for every way
            for name, answer in answers.items():
                if on_progress is not None:
                    on_progress(len(found), every, f"{name}, {rate:g} requests/s")
                answered = drive(answer, due_s, most_rows=most_rows, give_up_s=_OVERTIME * duration_s + 1)
                found.append(
                    row_of(
                        name,
                        rate,
                        answered,
                        deadline_s=p99_s,
                        duration_s=duration_s,
                        predicted_p99_s=_predicted_s(answered, rate, most_rows),
                    )
                )
                if on_row is not None:
                    on_row(table())
    return table()


def _answer(executor: Executor, inputs: Sequence[Tree], sizes: Sequence[int], rows: int) -> None:
    size = next((size for size in sizes if size >= rows), rows)
    executor.run(inputs[size - 1])


def _plans(ways: Sequence[str], plan: Plan, strategy: Callable[[str], Plan]) -> Mapping[str, Plan]:
    known = ("plan", *STRATEGIES)
    names = tuple(listed(ways)) if isinstance(ways, Iterable) else (ways,)
    strange = [name for name in names if name not in known]
    if strange or not names:
        rule = f"A load is answered by {', '.join(known)}"
        raise unknown(rule, next(iter(strange), None), known, given=", ".join(map(str, strange)) or "none")
    return {name: plan if name == "plan" else strategy(name) for name in names}


def _rates(answer: Callable[[int], object], most_rows: int, rates: Sequence[float] | None) -> tuple[float, ...]:
    """Those that were asked for, or parts of what a few full batches come to."""
    if rates is not None:
        return tuple(rates)
    took = []
    for _ in range(5):
        begin = time.perf_counter()
        answer(most_rows)
        took.append(time.perf_counter() - begin)
    capacity = most_rows / sorted(took)[len(took) // 2]
    return tuple(float(f"{part * capacity:.2g}") for part in _FRACTIONS)


def _given(rates: Sequence[float]) -> tuple[float, ...]:
    try:
        found = tuple(rates)
    except TypeError as problem:
        raise UsageError("The rates of a load test are a list of numbers", given=repr(rates)) from problem
    if not found:
        raise UsageError("A load test has at least one rate", given="none")
    return found


def _predicted_s(answered: Sequence[Replies], rate: float, most_rows: int) -> float | None:
    """The 99th percentile of the queue that is computed from the times of the batches that were seen."""
    batches = {one.begin_s: (one.rows, one.end_s - one.begin_s) for one in answered if one.rows}
    by_rows: dict[int, list[float]] = {}
    for rows, took_s in batches.values():
        by_rows.setdefault(rows, []).append(took_s)
    known = {rows: tuple(took) for rows, took in by_rows.items() if len(took) >= _FEW}
    if sum(rows * len(by_rows[rows]) for rows in known) < _MOST_OF * sum(1 for one in answered if one.rows):
        return None
    return latencies(ServiceTimes.of(known), rate, most_rows).p99_s if known else None
