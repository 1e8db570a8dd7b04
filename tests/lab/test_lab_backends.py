"""Backends that were chosen: what later plans of the lab make of them. What was measured is scripted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from models import Sleeper, mlp
from points import POINT

from esen_lab import Lab
from esen_lab.devices import CpuDevice
from esen_lab.lab.stages import checks
from esen_lab.planner.plan import Lane, Plan
from esen_lab.profiler.backends import BackendPoint, BackendTable, choose
from esen_lab.profiler.records import Point

pytestmark = pytest.mark.timing  # what sleeping sub-models were measured to take is compared with their sleep

X = torch.randn(4, 8)
BY_HAND = Plan(lanes=(Lane(units=1, members=("a",)), Lane(units=1, members=("b",))), units=2)


def in_full(points: Sequence[BackendPoint]) -> tuple[Point, ...]:
    """The same points with all figures."""
    return tuple(
        replace(POINT, name=p.name, units=p.units, backend=p.backend, median_s=p.median_s, quantile_90_s=p.median_s)
        for p in points
        if p.median_s is not None
    )


class Scripted:
    """A double of `measure_backends`: compiled, sub-models take these parts of the eager time."""

    def __init__(self, **parts: float) -> None:
        self.parts = parts

    def __call__(self, submodels: Sequence[tuple[Any, int]], *_: Any, **__: Any) -> BackendTable:
        points: list[BackendPoint] = []
        for submodel, units in submodels:
            one = BackendPoint(name=submodel.name, units=units, backend="eager", median_s=0.02)
            compiled = replace(one, backend="inductor", median_s=0.02 * self.parts.get(submodel.name, 1.0))
            points += choose([one, compiled])
        return BackendTable(points=tuple(points), units=2, measured=in_full(points))


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab(device=CpuDevice(cores=[(0,), (0,)])) as made:
        made.register("a", Sleeper(0.02), example=X)
        made.register("b", Sleeper(0.01), example=X)
        made.profile(budget_s=0.1).result(timeout=60)
        yield made


def chosen(lab: Lab, monkeypatch: pytest.MonkeyPatch, **parts: float) -> BackendTable:
    monkeypatch.setattr(checks, "measure_backends", Scripted(**parts))
    return lab.lanes.choose_backends()


def ways(plan: Plan | None) -> dict[str, str]:
    assert plan is not None
    return {name: way for lane in plan.lanes for name, way in zip(lane.members, lane.backends, strict=True)}


def test_the_plan_in_force_predicts_with_the_time_that_its_ways_take(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    before = lab.search(limits={"one_each": True})
    assert before.jct_s == pytest.approx(0.02, rel=0.1)
    assert before.bound_s is not None
    chosen(lab, monkeypatch, a=0.25)
    plan = lab.plan
    assert plan is not None
    assert ways(plan) == {"a": "inductor", "b": "eager"}
    assert plan.predicted_s["a"] == pytest.approx(0.005)
    assert plan.jct_s == pytest.approx(plan.predicted_s["b"])
    assert plan.bound_s is None
    assert any("another search" in note for note in plan.notes)
    chosen(lab, monkeypatch, a=0.5)
    assert lab.plan is not None
    assert lab.plan.predicted_s["a"] == pytest.approx(0.01), "as measured now, not the last time"
    chosen(lab, monkeypatch)
    assert lab.plan is not None
    assert ways(lab.plan) == {"a": "eager", "b": "eager"}
    assert lab.plan.predicted_s["a"] == pytest.approx(0.02)


def test_later_plans_execute_in_the_same_ways_and_are_searched_with_their_times(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.plan = BY_HAND
    chosen(lab, monkeypatch, a=0.25)
    plan = lab.search(limits={"one_each": True})
    assert ways(plan) == {"a": "inductor", "b": "eager"}
    assert plan.predicted_s["a"] == pytest.approx(0.005, rel=0.1)
    assert plan.bound_s is not None
    assert lab.points.fit()["a"].latency_s[0] == pytest.approx(0.005, rel=0.1)
    editor = lab.tune()
    assert ways(editor.plan()) == {"a": "inductor", "b": "eager"}
    assert editor.models["a"].latency_s[0] == pytest.approx(0.005, rel=0.1)
    again = Plan.from_dict(plan.to_dict())
    assert ways(again) == ways(plan)


def test_another_sub_model_under_that_name_is_executed_eagerly(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.plan = BY_HAND
    chosen(lab, monkeypatch, a=0.25, b=0.25)
    lab.register("a", mlp(outputs=8), example=X)
    lab.profile(["a"], budget_s=0.05, backends=[]).result(timeout=60)
    assert ways(lab.search()) == {"a": "eager", "b": "inductor"}


def test_a_better_plan_that_a_search_found_meanwhile_is_kept(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.plan = BY_HAND
    better = Plan(lanes=(Lane(units=2, members=("b", "a")),), units=2)

    class Slow(Scripted):
        def __call__(self, *given: Any, **more: Any) -> BackendTable:
            lab.plan = better
            return super().__call__(*given, **more)

    monkeypatch.setattr(checks, "measure_backends", Slow(a=0.5))
    lab.lanes.choose_backends()
    assert lab.plan is not None
    assert lab.plan.lanes[0].members == ("b", "a")
    assert ways(lab.plan) == {"a": "inductor", "b": "eager"}
