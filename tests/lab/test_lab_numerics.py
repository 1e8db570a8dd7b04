"""The lab's numerics check and its choice of backends, on the CPU with real lanes."""

from __future__ import annotations

import pytest
import torch
from choosing_lab import with_points
from models import WrongOnOneThread, mlp

from esen_lab import Lab
from esen_lab.common.answers import Difference
from esen_lab.devices import CpuDevice
from esen_lab.errors import UsageError
from esen_lab.planner.plan import Lane, Plan
from esen_lab.run.numerics import CheckedAnswers


def test_the_plan_in_force_is_checked_and_its_backends_are_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")  # compiling is tested where backends are
    x = torch.randn(4, 8)
    with Lab(device=CpuDevice(cores=[(0,), (0,)])) as lab:
        lab.register("a", mlp(seed=1), example=x)
        lab.register("b", mlp(seed=2), example=x)
        with pytest.raises(UsageError, match="once there is a plan"):
            lab.lanes.choose_backends()
        lab.plan = Plan(lanes=(Lane(units=1, members=("a",)), Lane(units=1, members=("b",))), units=2)
        verdict = lab.check_numerics(x, runs=2)
        assert verdict.passed
        assert lab.numerics is verdict
        assert {row.name: row.units for row in verdict.rows} == {"a": 1, "b": 1}
        table = lab.lanes.choose_backends(backends=("inductor", "cuda-graph"), budget_s=0.02)
        assert dict(table.chosen) == {"a": "eager", "b": "eager"}
        assert "C++ compiler" in str(table)
        assert lab.plan.lanes[0].backends == ("eager",)
        assert lab.backends is table


def test_going_back_to_eager_is_choosing_among_it_alone() -> None:
    x = torch.randn(4, 8)
    with Lab(device=CpuDevice(cores=[(0,)])) as lab:
        lab.register("a", mlp(), example=x)
        lab.plan = Plan(lanes=(Lane(units=1, members=("a",), backends=("cuda-graph",)),), units=1)
        table = lab.lanes.choose_backends(backends=("eager",), budget_s=0.02)
        assert table.ways == ("eager",)
        assert lab.plan.lanes[0].backends == ("eager",)


def test_without_a_plan_the_verdict_says_that_nothing_is_shared() -> None:
    with Lab(device=CpuDevice(cores=[(0,)])) as lab:
        lab.register("a", mlp(), example=torch.randn(4, 8))
        assert any(note.startswith("No plan yet") for note in lab.check_numerics(runs=1).notes)


def test_a_share_that_fails_the_check_is_used_by_no_later_search() -> None:
    x = torch.randn(4, 8)
    with Lab(device=CpuDevice(cores=[(0,), (0,)])) as lab:
        lab.register("a", WrongOnOneThread(), example=x)
        lab.register("b", WrongOnOneThread(), example=x)
        lab.profile(budget_s=0.05).result(timeout=60)
        lab.plan = Plan(lanes=(Lane(units=1, members=("a",)), Lane(units=1, members=("b",))), units=2)
        verdict = lab.check_numerics(x, runs=1)
        assert {(row.name, row.units) for row in verdict.wrong} == {("a", 1), ("b", 1)}
        assert any("Searches keep off these shares" in note for note in verdict.notes)
        assert {name: model.avoid for name, model in lab.points.fit().items()} == {"a": (1,), "b": (1,)}
        lab.run(x)
        assert lab.report is not None
        assert sum("WRONG ANSWERS" in note for note in lab.report.notes) == 2
        plan = lab.search("optuna", n_trials=5)
        assert [(lane.units, set(lane.members)) for lane in plan.lanes] == [(2, {"a", "b"})]
        lab.run(x)
        assert not any("WRONG ANSWERS" in note for note in lab.report.notes)
        lab.register("a", mlp(outputs=8), example=x)
        lab.profile(["a"], budget_s=0.05).result(timeout=60)
        assert lab.points.fit()["a"].avoid == (), "another sub-model under that name"


def test_what_was_found_wrong_can_be_forgotten_by_name() -> None:
    x = torch.randn(4, 8)
    with Lab(device=CpuDevice(cores=[(0,), (0,)])) as lab:
        lab.register("a", WrongOnOneThread(), example=x)
        lab.register("b", WrongOnOneThread(), example=x)
        with_points(lab, {"a": [2e-3, 1e-3], "b": [2e-3, 1e-3]})
        lab.plan = Plan(lanes=(Lane(units=1, members=("a",)), Lane(units=1, members=("b",))), units=2)
        lab.check_numerics(x, runs=1)
        with pytest.raises(UsageError, match="knows its own sub-models"):
            lab.points.forget_wrong(["a", "c"])
        assert lab.points.forget_wrong(["a"]) == {"a": (1,)}
        assert {name: model.avoid for name, model in lab.points.fit().items()} == {"a": (), "b": (1,)}
        assert lab.points.forget_wrong() == {"b": (1,)}
        assert lab.points.forget_wrong() == {}


def test_a_way_of_execution_that_answers_wrong_does_not_rule_the_share_out_for_others() -> None:
    x = torch.randn(4, 8)
    with Lab(device=CpuDevice(cores=[(0,), (0,)])) as lab:
        lab.register("a", mlp(), example=x)
        with_points(lab, {"a": [2e-3, 1e-3]})
        plan = Plan(lanes=(Lane(units=1, members=("a",), backends=("inductor",)),), units=2)
        found = CheckedAnswers(
            name="a",
            lane=0,
            units=1,
            in_force="1 core",
            worst=Difference(dtype="torch.float32", error=0.2),
            wrong=1,
            runs=1,
            backend="inductor",
        )
        known = lab.state.here.with_wrong([found], lab.ensemble.fingerprints)
        lab._runtime.change(lambda state: state.knowing(known))
        assert known.wrong(lab.ensemble) == {"a": {("inductor", 1)}}
        assert lab.points.fit()["a"].avoid == (), "a search would execute it eagerly"
        assert known.wrong_in(plan, lab.ensemble) == [("a", 1)]
        assert known.wrong_in(plan.with_backends({"a": "eager"}), lab.ensemble) == []
