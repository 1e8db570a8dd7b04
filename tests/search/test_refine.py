"""Refinement: what is measured corrects what is predicted."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from esen_lab.errors import UsageError
from esen_lab.fitting import CostModel, fit_points
from esen_lab.search import Measured, allocate, refine, search
from esen_lab.search.refine import Lanes, corrected_models

Latencies = dict[str, list[float]]


def models_of(tables: Latencies) -> dict[str, CostModel]:
    return {name: fit_points(name, dict(enumerate(table, start=1)), len(table)) for name, table in tables.items()}


def run(truth: Latencies, lanes: Lanes) -> Measured:
    """A device on which sub-models take other times than their profiles say."""
    times = {name: truth[name][share - 1] for share, names in lanes for name in names}
    return Measured(lanes=lanes, jct_s=max(sum(times[name] for name in names) for _, names in lanes), submodel_s=times)


def refined(tables: Latencies, truth: Latencies, units: int) -> list[Measured]:
    models = models_of(tables)
    rounds = [run(truth, search(models, units).lanes)]
    while (step := refine(models, units, rounds)).candidate is not None:
        rounds.append(run(truth, step.candidate.lanes))
    assert step.best.jct_s == min(measured.jct_s for measured in rounds)
    assert rounds[step.best_round] is step.best
    return rounds


def test_a_sub_model_that_is_disturbed_gets_more(latencies: Callable[..., Latencies]) -> None:
    tables = latencies(6, 16, 2)
    truth = {**tables, "m0": [2.5 * t for t in tables["m0"]]}
    rounds = refined(tables, truth, 16)
    assert 2 <= len(rounds) <= 4
    best_s = min(measured.jct_s for measured in rounds)
    assert best_s < rounds[0].jct_s
    assert best_s == pytest.approx(allocate(truth, 16).jct_s, rel=0.01)


def test_when_predictions_hold_the_first_plan_stands(latencies: Callable[..., Latencies]) -> None:
    tables = latencies(6, 16, 2)
    models = models_of(tables)
    measured = run(tables, search(models, 16).lanes)
    step = refine(models, 16, [measured])
    assert step.candidate is None
    assert step.best is measured
    assert step.reason == "the corrected models lead to a plan that was already measured"


def test_a_plan_measured_worse_is_never_returned() -> None:
    models = models_of({"a": [4.0, 2.0, 1.5], "b": [4.0, 2.0, 1.5]})
    first = Measured(lanes=((3, ("a", "b")),), jct_s=3.0, submodel_s={"a": 1.5, "b": 1.5})
    worse = Measured(lanes=((2, ("a",)), (1, ("b",))), jct_s=9.0, submodel_s={"a": 9.0, "b": 4.0})
    step = refine(models, 3, [first, worse])
    assert step.candidate is None
    assert step.best is first
    assert step.reason.startswith("the last plan changed the JCT by +200.0 %")


def test_rounds_end_at_the_fourth() -> None:
    models = models_of({"a": [4.0, 2.0]})
    rounds = [Measured(lanes=((2, ("a",)),), jct_s=5.0 - k, submodel_s={"a": 5.0 - k}) for k in range(4)]
    step = refine(models, 2, rounds)
    assert step.reason == "4 rounds are the most that are made"
    assert step.best is rounds[3]


def test_models_are_scaled_at_the_share_that_ran() -> None:
    models = models_of({"a": [4.0, 2.0], "b": [3.0, 2.5]})
    measured = Measured(lanes=((1, ("a",)), (1, ("b",))), jct_s=6.0, submodel_s={"a": 6.0, "b": 3.0})
    corrected = corrected_models(models, measured)
    assert corrected["a"].latency_s == (6.0, 3.0)
    assert corrected["b"].latency_s == (3.0, 2.5)


def test_rounds_that_make_no_sense_are_refused() -> None:
    models = models_of({"a": [4.0, 2.0], "b": [3.0, 2.5]})
    with pytest.raises(UsageError, match="begins from a measured plan"):
        refine(models, 2, [])
    with pytest.raises(UsageError, match="holds every sub-model once"):
        refine(models, 2, [Measured(lanes=((2, ("a",)),), jct_s=1.0, submodel_s={"a": 1.0})])
    with pytest.raises(UsageError, match=r"positive number of seconds. Given: nan for b"):
        refine(models, 2, [Measured(lanes=((2, ("a", "b")),), jct_s=1.0, submodel_s={"a": 1.0})])
