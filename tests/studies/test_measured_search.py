"""Measured JCTs as the objective: real lanes, one plan at a time, under the lab's device lock."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from choosing_lab import with_points
from models import Sleeper

from esen_lab import Lab, Plan, allocate
from esen_lab.errors import EsenError, UsageError, WorkerDied

TABLES = {"a": [4e-3, 2e-3], "b": [4e-3, 2e-3], "c": [2e-3, 1e-3]}
X = torch.ones(2)


class Runs:
    """The objective of a made-up machine: lanes with `slow` sub-models in company are ten times slower than told."""

    def __init__(self, runs: int = 5, breaks: str = "") -> None:
        self.runs, self.breaks = runs, breaks
        self.plans: list[Plan] = []
        self.lengths: list[int] = []

    def __call__(self, plan: Plan) -> Generator[float, None, None]:
        self.plans.append(plan)
        self.lengths.append(0)
        if self.breaks and any(self.breaks in lane.members and len(lane.members) > 1 for lane in plan.lanes):
            raise WorkerDied("It died")
        alone = max(sum(TABLES[name][lane.units - 1] for name in lane.members) for lane in plan.lanes)
        together = any({"a", "b"} <= set(lane.members) for lane in plan.lanes)
        for _ in range(self.runs):
            self.lengths[-1] += 1
            yield alone * (10 if together else 1)


# --- the search, on a made-up machine -----------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_searcher_that_measures_finds_what_prediction_cannot_know(sampler: str) -> None:
    runs = Runs()
    found = allocate(TABLES, 2, "optuna", sampler=sampler, n_trials=30, measure=runs)
    assert not any({"a", "b"} <= set(lane.members) for lane in found.plan.lanes)
    assert found.plan.measured_s is not None
    assert found.plan.measured_s == pytest.approx(found.jct_s)
    assert not found.proven
    assert found.bound_s <= found.jct_s
    assert found.trace[-1][1] == found.plan.measured_s


def test_no_plan_is_measured_twice() -> None:
    runs = Runs()
    allocate(TABLES, 2, "optuna", sampler="random", n_trials=60, measure=runs)
    plans = [frozenset((lane.units, frozenset(lane.members)) for lane in plan.lanes) for plan in runs.plans]
    assert len(plans) == len(set(plans))


def test_hopeless_plans_are_given_up_early_and_pruning_can_be_switched_off() -> None:
    tables = {f"m{i}": [1e-3 * (i + 1) / units for units in range(1, 5)] for i in range(6)}

    def lengths(**options: Any) -> list[int]:
        runs: list[int] = []

        def measure(plan: Plan) -> Generator[float, None, None]:
            runs.append(0)
            for _ in range(9):
                runs[-1] += 1
                yield plan.jct_s or 0.0

        allocate(tables, 4, "optuna", n_trials=40, seed=1, warm_start=False, measure=measure, **options)
        return runs

    assert min(lengths()) < 9
    assert set(lengths(prune=False)) == {9}


def test_a_plan_that_cannot_be_run_is_passed_over_and_said() -> None:
    found = allocate(TABLES, 2, "optuna", n_trials=30, measure=Runs(breaks="c"))
    assert any("could not be run" in note and "It died" in note for note in found.plan.notes)
    with pytest.raises(WorkerDied, match="It died"):
        allocate(TABLES, 2, "sequential", measure=Runs(breaks="c"))


@pytest.mark.parametrize("warm_start", [True, False])
def test_a_warm_start_is_measured_first_and_only_when_asked_for(warm_start: bool) -> None:
    runs = Runs()
    found = allocate(TABLES, 2, "optuna", n_trials=3, warm_start=warm_start, measure=runs)
    predicted = allocate(TABLES, 2, proof=False, sequential_within=0.0)
    first = {frozenset(lane.members) for lane in runs.plans[0].lanes}
    assert (first == {frozenset(lane.members) for lane in predicted.plan.lanes}) or not warm_start
    assert any("warm start" in note for note in found.plan.notes) == warm_start


@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_a_measured_study_resumes_without_measuring_again(kind: str, tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path}/studies.db" if kind == "sqlite" else str(tmp_path / "studies.log")
    first, second = Runs(), Runs()
    one = allocate(TABLES, 2, "optuna", storage=storage, n_trials=8, measure=first)
    two = allocate(TABLES, 2, "optuna", storage=storage, n_trials=8, measure=second)
    assert second.plans == []
    assert two.plan.measured_s == one.plan.measured_s
    assert two.lanes == one.lanes
    predicted = allocate(TABLES, 2, "optuna", storage=storage, n_trials=2)
    assert not any("resumed" in note for note in predicted.plan.notes)


def test_stopping_keeps_the_best_so_far() -> None:
    stop, plans = threading.Event(), list[Plan]()

    def measure(plan: Plan) -> Generator[float, None, None]:
        plans.append(plan)
        yield plan.jct_s or 0.0
        if len(plans) == 2:
            stop.set()
        yield plan.jct_s or 0.0

    found = allocate(TABLES, 2, "optuna", n_trials=10**6, measure=measure, stop=stop)
    assert found.plan.measured_s is not None
    assert any(note.startswith("stopped on request") for note in found.plan.notes)


def test_a_time_limit_ends_the_trials() -> None:
    found = allocate(TABLES, 2, "optuna", n_trials=10**6, time_limit_s=0.3)
    assert found.elapsed_s < 10
    with pytest.raises(UsageError, match="positive number of seconds"):
        allocate(TABLES, 2, "optuna", time_limit_s=0)


@pytest.mark.parametrize(
    ("searcher", "options", "message"),
    [
        ("exact", {}, "takes one of the searchers optuna, equal, sequential"),
        ("optuna", {"limits": {"target_s": 1.0}}, "met by prediction"),
    ],
)
def test_what_cannot_be_measured_is_refused(searcher: str, options: dict[str, Any], message: str) -> None:
    runs = Runs()
    with pytest.raises(UsageError, match=message):
        allocate(TABLES, 2, searcher, measure=runs, **options)
    assert runs.plans == []


# --- the lab, with real lanes -------------------------------------------------------------------------------------


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with Lab(device="cpu", store=tmp_path / "profiles.sqlite") as lab:
        lab.register("a", Sleeper(0.03), example=X)
        lab.register("b", Sleeper(0.03))
        # Told to be hopeless in company; but sleeping needs no core, so two lanes are really twice as fast.
        slow_alone = [0.1] * (lab.device.units - 1) + [0.001]
        yield with_points(lab, {"a": slow_alone, "b": slow_alone})


@pytest.mark.timing
def test_real_lanes_are_the_objective_and_the_measured_jct_is_in_the_plan(lab: Lab) -> None:
    if lab.device.units < 2:
        pytest.skip("two lanes need two cores")
    assert lab.search().is_sequential
    plan = lab.search("optuna", objective="measured", runs=3, n_trials=8)
    assert len(plan.lanes) == 2
    assert plan.measured_s is not None
    assert 0.029 < plan.measured_s < 0.057
    assert lab.plan is plan
    assert Plan.from_dict(plan.to_dict()) == plan


def test_optuna_measures_in_the_background_and_a_run_takes_its_turn(lab: Lab) -> None:
    job = lab.start_search("optuna", objective="measured", x=X, runs=2, n_trials=6)
    torch.testing.assert_close(lab.run(X), 2 * X)
    plan = job.result(timeout=60)
    assert plan.measured_s is not None
    assert plan.searcher == "optuna"
    job = lab.start_search("optuna", objective="measured", runs=2, n_trials=10**6)
    while job.best is None:
        job.wait(0.01)
    job.cancel()
    assert job.result(timeout=30).measured_s is not None


def test_closing_the_lab_in_the_middle_of_a_measured_search_leaves_nothing(lab: Lab) -> None:
    job = lab.start_search("optuna", objective="measured", runs=50, n_trials=10**6)
    assert not job.wait(0.3)
    lab.close()
    assert job.done


def test_bad_input_of_a_measured_search_is_refused_at_once(lab: Lab) -> None:
    with pytest.raises(UsageError, match="'predicted' or 'measured'"):
        lab.search(objective="guessed")
    with pytest.raises(UsageError, match="at least one run"):
        lab.start_search("optuna", objective="measured", runs=0)
    with pytest.raises(EsenError, match="computes with predictions"):
        lab.search("exact", objective="measured")
    with pytest.raises(EsenError):
        lab.search("equal", objective="measured", x="no tensor", runs=1)
