"""The lab's gate and its choice of mechanisms, on the CPU with real lanes."""

from __future__ import annotations

import pytest
import torch
from models import mlp

from esen_lab import Lab
from esen_lab.devices import CpuDevice
from esen_lab.errors import UsageError
from esen_lab.planning import Lane, Plan


def test_the_plan_in_force_is_checked_and_its_mechanisms_are_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")  # compiling is tested where mechanisms are
    x = torch.randn(4, 8)
    with Lab(device=CpuDevice(cores=[(0,), (0,)])) as lab:
        lab.register("a", mlp(seed=1), example=x)
        lab.register("b", mlp(seed=2), example=x)
        with pytest.raises(UsageError, match="once there is a plan"):
            lab.choose_mechanisms()
        lab.plan = Plan(lanes=(Lane(units=1, members=("a",)), Lane(units=1, members=("b",))), units=2)
        verdict = lab.check_numerics(x, runs=2)
        assert verdict.passed
        assert lab.numerics is verdict
        assert {row.name: row.units for row in verdict.rows} == {"a": 1, "b": 1}
        table = lab.choose_mechanisms(budget_s=0.02)
        assert dict(table.chosen) == {"a": "eager", "b": "eager"}
        assert "C++ compiler" in str(table)
        assert lab.plan.lanes[0].mechanisms == ("eager",)
        assert lab.mechanisms is table


def test_going_back_to_eager_is_choosing_among_it_alone() -> None:
    x = torch.randn(4, 8)
    with Lab(device=CpuDevice(cores=[(0,)])) as lab:
        lab.register("a", mlp(), example=x)
        lab.plan = Plan(lanes=(Lane(units=1, members=("a",), mechanisms=("graph",)),), units=1)
        table = lab.choose_mechanisms(mechanisms=("eager",), budget_s=0.02)
        assert table.ways == ("eager",)
        assert lab.plan.lanes[0].mechanisms == ("eager",)


def test_without_a_plan_the_verdict_says_that_nothing_is_shared() -> None:
    with Lab(device=CpuDevice(cores=[(0,)])) as lab:
        lab.register("a", mlp(), example=torch.randn(4, 8))
        assert any(note.startswith("No plan yet") for note in lab.check_numerics(runs=1).notes)
