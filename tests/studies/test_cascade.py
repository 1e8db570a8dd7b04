"""A cascade of stages."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from esen_lab.errors import UsageError
from esen_lab.planner import allocate
from esen_lab.studies.cascade import cascade, still_open

Latencies = dict[str, list[float]]


def by_trying_every_cut(tables: Latencies, order: list[str], reach: list[float], overhead_s: float) -> float:
    n, best = len(order), float("inf")
    for inner in itertools.chain.from_iterable(itertools.combinations(range(1, n), k) for k in range(n)):
        cuts = [0, *inner, n]
        expected_s = 0.0
        for first, end in itertools.pairwise(cuts):
            plan = allocate({name: tables[name] for name in order[first:end]}, 8)
            expected_s += reach[first] * (plan.jct_s + (overhead_s if first else 0.0))
        best = min(best, expected_s)
    return best


@pytest.mark.parametrize("overhead_s", [0.0, 0.002])
def test_the_best_cut_is_found(overhead_s: float, latencies: Callable[..., Latencies]) -> None:
    tables = latencies(5, 8, 4)
    order, reach = list(tables), [1.0, 0.6, 0.4, 0.35, 0.1]
    found = cascade(tables, 8, order, reach, stage_overhead_s=overhead_s)
    assert found.expected_s == pytest.approx(by_trying_every_cut(tables, order, reach, overhead_s))
    assert found.at_once_s == allocate(tables, 8).jct_s
    assert found.gain == pytest.approx(1 - found.expected_s / found.at_once_s)
    assert [name for stage in found.stages for name in stage.names] == order


def test_when_every_input_stays_open_everything_at_once_is_best() -> None:
    tables = {name: [1.0, 1.0, 1.0] for name in "abc"}
    found = cascade(tables, 3, ["a", "b", "c"], [1.0, 1.0, 1.0])
    assert len(found.stages) == 1
    assert found.gain == 0.0
    assert found.notes == ("a cascade does not pay: all at once is expected to be the fastest",)


def test_when_the_first_decides_nearly_all_it_goes_first() -> None:
    tables = {name: [3.0, 1.5, 1.0] for name in "abc"}
    found = cascade(tables, 3, ["b", "a", "c"], [1.0, 0.1, 0.1])
    assert [stage.names for stage in found.stages] == [("b",), ("a", "c")]
    assert found.expected_s == pytest.approx(1.0 + 0.1 * 2.0)
    assert found.notes == (
        "expected 60.0 % faster than all at once; an input that stays open to the end takes +0.0 % instead",
    )


def test_reach_is_measured_on_validation_outputs() -> None:
    outputs = {
        "a": np.array([[0.95, 0.05], [0.6, 0.4], [0.5, 0.5], [0.9, 0.1]]),
        "b": np.array([[0.5, 0.5], [0.99, 0.01], [0.5, 0.5], [0.1, 0.9]]),
        "c": np.array([[0.5, 0.5]] * 4),
    }
    reach = still_open(outputs, ["a", "b", "c"], 0.75, lambda some: np.mean(list(some.values()), axis=0))
    assert reach == (1.0, 0.5, 0.25)


@pytest.mark.parametrize(
    ("order", "reach", "message"),
    [
        (["a"], [1.0], "names every member once"),
        (["a", "b"], [1.0], "one fraction per member"),
        (["a", "b"], [0.9, 0.1], "one fraction per member"),
        (["a", "b"], [1.0, 1.1], "one fraction per member"),
        (["a", "b"], [1.0, float("nan")], "one fraction per member"),
    ],
)
def test_an_order_or_reach_that_makes_no_sense_is_refused(order: list[str], reach: list[float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        cascade({"a": [1.0], "b": [1.0]}, 1, order, reach)
    with pytest.raises(UsageError, match="threshold"):
        still_open({"a": np.ones((1, 2))}, ["a"], 0.0, lambda some: some["a"])


def test_stages_that_are_given_stay_whatever_they_cost() -> None:
    tables = {name: [1.0, 1.0, 1.0] for name in "abc"}
    found = cascade(tables, 3, ["a", "b", "c"], [1.0, 1.0, 1.0], ends=[1, 3])
    assert [stage.names for stage in found.stages] == [("a",), ("b", "c")]
    assert found.expected_s == pytest.approx(2.0)
    assert found.worst_s == pytest.approx(2.0)
    assert found.gain == pytest.approx(-1.0)


def test_a_row_that_holds_nan_is_as_unsure_when_it_is_planned_as_when_it_is_run() -> None:
    nan = float("nan")
    outputs = {name: np.array([[nan, 0.1], [0.99, 0.01]]) for name in "ab"}
    reach = still_open(outputs, ["a", "b"], 0.9, lambda some: np.mean(list(some.values()), axis=0))
    assert reach == (1.0, 0.5)
