"""Refinement: what is measured corrects what is predicted."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from esen_lab.cost_model import CostModel, fit_points
from esen_lab.errors import UsageError
from esen_lab.planner import Round, allocate, refine, search
from esen_lab.planner.plan import Lane, Plan
from esen_lab.planner.refine import corrected_models

Latencies = dict[str, list[float]]


def models_of(tables: Latencies) -> dict[str, CostModel]:
    return {name: fit_points(name, dict(enumerate(table, start=1)), len(table)) for name, table in tables.items()}


def ran(*lanes: tuple[int, tuple[str, ...]], measured_s: float, **submodel_s: float) -> Round:
    plan = Plan(lanes=tuple(Lane(units=units, members=members) for units, members in lanes), units=4)
    return Round(plan=plan, measured_s=measured_s, submodel_s=submodel_s)


def run(truth: Latencies, plan: Plan) -> Round:
    """A device on which sub-models take other times than their profiles say."""
    times = {name: truth[name][lane.units - 1] for lane in plan.lanes for name in lane.members}
    measured_s = max(sum(times[name] for name in lane.members) for lane in plan.lanes)
    return Round(plan=plan, measured_s=measured_s, submodel_s=times)


def refined(tables: Latencies, truth: Latencies, units: int) -> list[Round]:
    models = models_of(tables)
    rounds = [run(truth, search(models, units).plan)]
    while (step := refine(models, units, rounds)).candidate is not None:
        rounds.append(run(truth, step.candidate))
    assert rounds[step.best].measured_s == min(measured.measured_s for measured in rounds)
    return rounds


def test_a_sub_model_that_is_disturbed_gets_more(latencies: Callable[..., Latencies]) -> None:
    tables = latencies(6, 16, 2)
    truth = {**tables, "m0": [2.5 * t for t in tables["m0"]]}
    rounds = refined(tables, truth, 16)
    assert 2 <= len(rounds) <= 4
    best_s = min(measured.measured_s for measured in rounds)
    assert best_s < rounds[0].measured_s
    assert best_s == pytest.approx(allocate(truth, 16).jct_s, rel=0.01)


def test_when_predictions_hold_the_first_plan_stands(latencies: Callable[..., Latencies]) -> None:
    tables = latencies(6, 16, 2)
    models = models_of(tables)
    measured = run(tables, search(models, 16).plan)
    step = refine(models, 16, [measured])
    assert step.candidate is None
    assert step.best == 0
    assert step.reason == "the corrected models lead to a plan that was already measured"


def test_a_plan_measured_worse_is_never_returned() -> None:
    models = models_of({"a": [4.0, 2.0, 1.5], "b": [4.0, 2.0, 1.5]})
    first = ran((3, ("a", "b")), measured_s=3.0, a=1.5, b=1.5)
    worse = ran((2, ("a",)), (1, ("b",)), measured_s=9.0, a=9.0, b=4.0)
    step = refine(models, 3, [first, worse])
    assert step.candidate is None
    assert step.best == 0
    assert step.reason.startswith("the last plan was 3.0 times slower; less than")


def test_rounds_end_at_the_fourth() -> None:
    models = models_of({"a": [4.0, 2.0]})
    rounds = [ran((2, ("a",)), measured_s=5.0 - k, a=5.0 - k) for k in range(4)]
    step = refine(models, 2, rounds)
    assert step.reason == "4 rounds are the most that are made"
    assert step.best == 3


def test_models_are_scaled_at_the_share_that_ran() -> None:
    models = models_of({"a": [4.0, 2.0], "b": [3.0, 2.5]})
    measured = ran((1, ("a",)), (1, ("b",)), measured_s=6.0, a=6.0, b=3.0)
    corrected = corrected_models(models, measured)
    assert corrected["a"].latency_s == (6.0, 3.0)
    assert corrected["b"].latency_s == (3.0, 2.5)


def test_rounds_that_make_no_sense_are_refused() -> None:
    models = models_of({"a": [4.0, 2.0], "b": [3.0, 2.5]})
    with pytest.raises(UsageError, match="begins from a measured plan"):
        refine(models, 2, [])
    with pytest.raises(UsageError, match="holds every sub-model once"):
        refine(models, 2, [ran((2, ("a",)), measured_s=1.0, a=1.0)])
    with pytest.raises(UsageError, match=r"positive number of seconds. Given: nan for b"):
        refine(models, 2, [ran((2, ("a", "b")), measured_s=1.0, a=1.0)])
