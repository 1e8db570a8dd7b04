"""Optuna behind the same contract."""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from esen_lab.errors import StoreError, UsageError
from esen_lab.planner import allocate, optuna_search
from esen_lab.planner.optuna_search import NEEDS
from esen_lab.planner.plan import Plan

optuna = pytest.importorskip("optuna")
Latencies = dict[str, list[float]]


@pytest.mark.parametrize("sampler", ["tpe", "cmaes", "gp", "nsga2", "random"])
def test_every_sampler_finds_a_plan_by_itself(sampler: str, latencies: Callable[..., Latencies]) -> None:
    for package in NEEDS.get(sampler, ()):
        pytest.importorskip(package, reason=f"the sampler {sampler} needs it")
    tables = latencies(4, 8, 1)
    trials = 12 if sampler == "gp" else 40
    found = allocate(tables, 8, "optuna", sampler=sampler, n_trials=trials, warm_start=False, seed=3)
    assert found.evaluations == trials
    assert found.jct_s <= 1.3 * allocate(tables, 8).jct_s
    assert not any("warm start" in note for note in found.plan.notes)


def test_a_warm_start_is_never_worse_than_the_fast_answer(latencies: Callable[..., Latencies]) -> None:
    tables = latencies(10, 16, 1)
    fast = allocate(tables, 16, proof=False, sequential_within=0.0)
    found = allocate(tables, 16, "optuna", n_trials=5)
    assert found.jct_s <= fast.jct_s
    assert "warm start: began from the exact searcher's fast answer" in found.plan.notes


@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_a_study_resumes_from_its_file(kind: str, tmp_path: Path, latencies: Callable[..., Latencies]) -> None:
    storage = f"sqlite:///{tmp_path}/studies.db" if kind == "sqlite" else str(tmp_path / "studies.log")
    tables = latencies(5, 8, 1)

    def run(trials: int, tables: Latencies = tables) -> tuple[int, float, tuple[str, ...]]:
        found = allocate(tables, 8, "optuna", storage=storage, n_trials=trials, warm_start=False)
        return found.evaluations, found.jct_s, found.plan.notes

    first, first_s, _ = run(10)
    second, second_s, notes = run(15)
    third, third_s, _ = run(15)
    assert (first, second, third) == (10, 5, 0)
    assert second_s <= first_s
    assert third_s == second_s
    assert notes[0] == "resumed a study with 10 finished trials"
    other, _, _ = run(3, latencies(5, 8, 2))
    assert other == 3


def test_a_sampler_that_would_unpickle_its_state_from_a_study_takes_no_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="keeps its state as a pickle"):
        allocate({"a": [1.0]}, 1, "optuna", sampler="cmaes", storage=str(tmp_path / "studies.log"), n_trials=1)
    assert not (tmp_path / "studies.log").exists()


def test_a_storage_that_cannot_be_opened_says_so(latencies: Callable[..., Latencies]) -> None:
    with pytest.raises(StoreError, match="cannot be opened"):
        allocate(latencies(3, 4, 1), 4, "optuna", storage="sqlite:////no/such/folder/studies.db", n_trials=1)


def test_bad_options_and_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"one of tpe, cmaes, gp, nsga2, random\. Given: 'annealing'"):
        allocate({"a": [1.0]}, 1, "optuna", sampler="annealing")
    with pytest.raises(UsageError, match="at least one trial"):
        allocate({"a": [1.0]}, 1, "optuna", n_trials=0)
    with pytest.raises(UsageError, match="A seed is a whole number"):
        allocate({"a": [1.0]}, 1, "optuna", seed=-1)
    monkeypatch.setattr(optuna_search, "can_import", lambda name: False)
    with pytest.raises(UsageError, match="needs the package cmaes"):
        allocate({"a": [1.0]}, 1, "optuna", sampler="cmaes", n_trials=1)


def test_optunas_own_logging_is_left_as_it_was(latencies: Callable[..., Latencies]) -> None:
    before = optuna.logging.get_verbosity()
    allocate(latencies(3, 4, 1), 4, "optuna", n_trials=2)
    assert optuna.logging.get_verbosity() == before


def test_a_storage_may_be_a_path(tmp_path: Path, latencies: Callable[..., Latencies]) -> None:
    tables = latencies(3, 4, 1)
    allocate(tables, 4, "optuna", storage=tmp_path / "studies.log", n_trials=4)
    again = allocate(tables, 4, "optuna", storage=str(tmp_path / "studies.log"), n_trials=4)
    assert "resumed a study with 4 finished trials" in again.plan.notes


def test_what_a_study_predicted_is_not_taken_for_measured(tmp_path: Path, latencies: Callable[..., Latencies]) -> None:
    def measured(plan: Plan) -> Generator[float, None, None]:
        yield from (7.0, 7.0)

    tables, options = latencies(3, 4, 1), {"storage": str(tmp_path / "s.log"), "study_name": "mine", "n_trials": 4}
    allocate(tables, 4, "optuna", **options)
    with pytest.raises(UsageError, match="another study_name"):
        allocate(tables, 4, "optuna", measure=measured, **options)
    options["study_name"] = "run"
    assert allocate(tables, 4, "optuna", measure=measured, **options).plan.measured_s == 7.0
    assert allocate(tables, 4, "optuna", measure=measured, **options).plan.measured_s == 7.0
    with pytest.raises(UsageError, match="another study_name"):
        allocate(latencies(3, 4, 2), 4, "optuna", measure=measured, **options)


@pytest.mark.parametrize("options", [{"n_trials": 2.5}, {"n_trials": True}, {"storage": 5}, {"time_limit_s": "1"}])
def test_options_of_a_wrong_kind_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        allocate({"a": [1.0]}, 1, "optuna", **options)
