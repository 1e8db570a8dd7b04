from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
import torch

from esen_lab.errors import InfeasibleError, UsageError
from esen_lab.planner.plan import Lane, Plan
from esen_lab.studies.rate import RatePlan, plan_for_rate, resized

X = torch.arange(6.0).reshape(3, 2)
TWO = Plan(lanes=(Lane(units=1, members=("a",)), Lane(units=1, members=("b",))), units=2)
ONE = Plan(lanes=(Lane(units=2, members=("a", "b")),), units=2)
# Two lanes are faster for a single row, one lane for many.
TIMES_S = {2: {1: 0.010, 4: 0.030, 16: 0.110}, 1: {1: 0.014, 4: 0.016, 16: 0.030}}


class Runs:
    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []
        self.closed = 0

    def __call__(self, plan: Plan, x: torch.Tensor) -> Generator[float, None, None]:
        self.asked.append((len(plan.lanes), len(x)))
        try:
            for _ in range(5):
                yield TIMES_S[len(plan.lanes)][len(x)]
        finally:
            self.closed += 1


def found(rate_per_s: float, p99_s: float, **more: Any) -> RatePlan:
    candidates = {"shortest JCT": TWO, "sequential": ONE, "the same again": ONE}
    return plan_for_rate(candidates, Runs(), X, rate_per_s=rate_per_s, p99_s=p99_s, **more)


def test_the_shortest_plan_is_taken_for_a_low_rate_and_another_one_for_a_high_one() -> None:
    assert found(5, 0.05).plan is TWO
    busy = found(300, 0.08)
    assert busy.plan is ONE
    assert busy.most_rows > 1


def test_each_plan_is_run_once_at_each_batch_and_its_lanes_end() -> None:
    runs = Runs()
    told: list[tuple[int, int, str]] = []
    plan_for_rate(
        {"a": TWO, "b": ONE, "c": ONE},
        runs,
        X,
        rate_per_s=5,
        p99_s=0.05,
        batches=(4, 16),
        on_progress=lambda *step: told.append(step),
    )
    assert runs.asked == [(2, 1), (2, 4), (2, 16), (1, 1), (1, 4), (1, 16)]
    assert runs.closed == 6
    assert told[-1] == (5, 6, "b, 16 rows")


def test_a_rate_that_is_not_held_says_why_and_which_one_is() -> None:
    with pytest.raises(InfeasibleError, match=r"533 rows/s at the most.*Up to \d\d\d requests/s"):
        found(600, 0.08)
    with pytest.raises(InfeasibleError, match=r"a request alone takes 10\.0 ms"):
        found(5, 0.005)


def test_a_rate_that_is_held_and_is_low_is_not_told_as_none() -> None:
    with pytest.raises(InfeasibleError, match=r"Up to 1 requests/s are held"):
        found(5, 0.01005)


def test_what_is_shown_names_the_rate_that_the_machine_holds() -> None:
    shown = found(100, 0.08)
    text = str(shown)
    assert "predicted p99" in text
    assert "are held within that" in text
    assert [row.name for row in shown.rows] == ["sequential", "shortest JCT"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"rate_per_s": 0}, {"p99_s": -1}, {"rate_per_s": True}, {"rate_per_s": "5"}, {"p99_s": float("nan")},
        {"batches": (0,)}, {"batches": ()}, {"batches": 4}, {"batches": ("4", 1)}, {"batches": [[1]]},
    ],
)  # fmt: skip
def test_impossible_numbers_are_refused_before_anything_runs(wrong: dict[str, Any]) -> None:
    runs = Runs()
    with pytest.raises(UsageError):
        plan_for_rate({"a": ONE}, runs, X, **{"rate_per_s": 5, "p99_s": 0.1, **wrong})
    assert not runs.asked


def test_an_input_is_made_larger_and_smaller_by_its_own_rows() -> None:
    assert resized(X, 4).tolist() == [[0, 1], [2, 3], [4, 5], [0, 1]]
    assert resized({"x": X, "n": X[:, 0]}, 1)["n"].tolist() == [0]
    with pytest.raises(UsageError, match="rows along dimension 0"):
        resized((X, torch.zeros(4)), 2)
    with pytest.raises(UsageError, match="0 rows"):
        resized(X[:0], 2)
