"""The program behind `make gpu-check`, without a GPU: its logic, its exit codes, its rehearsal."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "gpu" / "gpu_check.py"
CHECK: dict[str, Any] = runpy.run_path(str(PROGRAM))


def test_without_a_gpu_it_measures_nothing_says_what_it_would_have_run_and_has_its_own_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "check.json"
    assert CHECK["main"](["--out", str(out)], gpu=lambda: False) == 3
    told = capsys.readouterr().out
    assert all(name in told for name in CHECK["SECTIONS"])
    assert not out.exists()


def test_a_rehearsal_runs_the_program_and_says_in_every_part_that_it_is_none_of_a_gpu(tmp_path: Path) -> None:
    out = tmp_path / "check.json"
    assert CHECK["main"](["--rehearse", "--out", str(out), "--only", "facts", "gate"]) == 0
    found = json.loads(out.read_text())
    assert found["kind"].startswith("REHEARSAL")
    assert all(part["rehearsal"].startswith("REHEARSAL") for part in found["sections"].values())
    verdicts = found["sections"]["gate"]["cpu"]
    assert list(verdicts) == ["float32", "tf32", "float16", "bfloat16"]
    assert all(verdict["passed"] for verdict in verdicts.values())


def test_a_section_that_takes_too_long_is_cut_off_and_the_others_run(tmp_path: Path) -> None:
    found = CHECK["in_child"]("facts", True, 0.05)
    assert found["failed"].startswith("cut off after")
    out = tmp_path / "check.json"
    assert CHECK["main"](["--rehearse", "--out", str(out), "--only", "facts", "--seconds", "0"]) == 1
    assert json.loads(out.read_text())["sections"]["facts"]["failed"] == "no time was left"


def test_goals_are_met_missed_or_absent_where_something_was_not_measured() -> None:
    rows = {
        "unlimited": {"median_s": 0.010, "agrees": True},
        "plan": {"median_s": 0.008, "agrees": True},
        "plan + graphs": {"median_s": 0.006, "fell_back": True},
    }
    busy = {word: {"percent": {"SM activity": value}} for word, value in (("unlimited", 50.0), ("plan", 60.0))}
    found = CHECK["goals"](rows, busy, 0.2)
    assert found["jct_lower_than_unlimited"] == pytest.approx(0.2)
    assert found["jct_goal_met"] is True
    assert found["graphs_goal_met"] is None  # a graph that fell back to eager is not a figure of a graph
    assert found["sm_activity_goal_met"] is False
    assert found["gap_goal_met"] is False
    wrong = {**rows, "plan": {"median_s": 0.001, "agrees": False}}
    assert CHECK["goals"](wrong, {}, None)["jct_lower_than_unlimited"] is None


@pytest.mark.parametrize("ensemble", CHECK["ENSEMBLES"])
def test_every_ensemble_runs_in_its_small_size(ensemble: str) -> None:
    models, x = CHECK["models_of"](ensemble, 2, True)
    assert len({tuple(model(x).shape) for model in models.values()}) == 1
