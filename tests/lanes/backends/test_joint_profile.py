"""A profile of every backend, and plans from it, with engines that are installed here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from backend_nets import Branches, Counts, lacking
from torch import nn

from esen_lab import Lab
from esen_lab.common.answers import TOLERANCE, difference
from esen_lab.devices import CpuDevice

pytestmark = [lacking("openvino"), lacking("onnxruntime")]
X = torch.randn(8, 16, 64, generator=torch.Generator().manual_seed(0))
ENGINES = ("openvino", "onnxruntime")


def depthwise(seed: int) -> nn.Module:
    """A network that PyTorch executes slowly: engines are several times faster."""
    torch.manual_seed(seed)
    layers = [layer for _ in range(6) for layer in (nn.Conv1d(16, 16, 5, padding=2, groups=16), nn.ReLU())]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * 64, 4)).eval()


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    monkeypatch.setenv("ESEN_LAB_HOME", str(tmp_path))
    monkeypatch.setenv("ESEN_LAB_BACKENDS", ",".join(ENGINES))
    with Lab(CpuDevice(cores=[(0,), (0,)]), store=tmp_path / "points.sqlite3") as made:
        yield made


def test_a_plan_takes_the_fastest_backend_of_each_sub_model_and_answers_as_the_notebook(lab: Lab) -> None:
    nets = {"fast": depthwise(0), "steps": nn.Sequential(depthwise(1), Counts()).eval()}
    for name, net in nets.items():
        lab.register(name, net, example=X)
    profile = lab.profile(shares=[1], budget_s=0.05).result(timeout=120)
    assert {point.backend for point in profile.backend_points} <= set(ENGINES)
    assert [point.name for point in profile.backend_points] == ["fast"] * len(profile.backend_points)
    assert {(refusal.name, refusal.backend) for refusal in profile.refusals} == {("steps", name) for name in ENGINES}
    assert all("keeps state" in refusal.why for refusal in profile.refusals)
    plan = lab.search()
    assert plan.lane_of("fast").backends[plan.lane_of("fast").members.index("fast")] in ENGINES
    assert plan.lane_of("steps").backends[plan.lane_of("steps").members.index("steps")] == "eager"
    with torch.no_grad():
        wanted = torch.stack([net(X) for net in nets.values()]).mean(0)
    assert difference(lab.run(X), wanted, TOLERANCE).agrees


def test_a_second_session_measures_and_prepares_nothing_anew(lab: Lab, tmp_path: Path) -> None:
    net = depthwise(0)
    lab.register("a", net, example=X)
    lab.register("odd", nn.Sequential(Branches(), depthwise(1)).eval(), example=X)
    first = lab.profile(shares=[1], budget_s=0.05).result(timeout=120)
    assert {refusal.name for refusal in first.refusals} == {"odd"}
    with Lab(CpuDevice(cores=[(0,), (0,)]), store=tmp_path / "points.sqlite3") as again:
        again.register("a", net, example=X)
        again.register("odd", nn.Sequential(Branches(), depthwise(1)).eval(), example=X)
        job = again.profile(shares=[1], budget_s=0.05)
        second = job.result(timeout=120)
        assert all(point.reused for point in (*second.points, *second.backend_points))
        assert [(p.backend, p.median_s) for p in second.backend_points] == [
            (p.backend, p.median_s) for p in first.backend_points
        ]
        assert second.refusals == first.refusals
        assert not again._runtime.fork_server.processes


def test_a_profile_may_be_asked_for_eager_points_alone(lab: Lab) -> None:
    lab.register("a", depthwise(0), example=X)
    profile = lab.profile(shares=[1], budget_s=0.05, backends=[]).result(timeout=120)
    assert profile.backend_points == ()
    assert lab.search().lanes[0].all_eager


def test_eager_is_put_back_for_all_plans(lab: Lab) -> None:
    lab.register("a", depthwise(0), example=X)
    lab.profile(shares=[1], budget_s=0.05).result(timeout=120)
    assert not lab.search().lanes[0].all_eager
    lab.lanes.choose_backends(backends=["eager"], budget_s=0.05)
    assert lab.plan is not None
    assert lab.plan.lanes[0].all_eager
    assert lab.search().lanes[0].all_eager


def test_what_won_a_comparison_and_what_a_refinement_keeps_can_be_run_and_answer_as_the_notebook(lab: Lab) -> None:
    nets = {"a": depthwise(0), "b": depthwise(1)}
    for name, net in nets.items():
        lab.register(name, net, example=X)
    lab.profile(shares=[1, 2], budget_s=0.05).result(timeout=120)
    lab.search()
    with torch.no_grad():
        wanted = torch.stack([net(X) for net in nets.values()]).mean(0)
    table = lab.compare(X, rounds=2, strategies=["openvino-async", "onnxruntime-pool"])
    for name in ("openvino-async", "onnxruntime-pool"):
        lab.plan = table.plan_of(name)
        assert difference(lab.run(X), wanted, TOLERANCE).agrees
        assert lab.plan.measured_s == table.row(name).median_s
        assert lab.plan.notes[0].startswith(f"{name}, taken from a comparison: measured")
    lab.search()
    refined = lab.studies.refine(X, rounds=1, runs=2)
    tried = [one.plan.searcher for one in refined.rounds[1:]]
    assert tried == ["openvino-async"] * 2 + ["onnxruntime-pool"] * 2
    assert refined.plan.measured_s == refined.rounds[refined.best].measured_s
    assert difference(lab.run(X), wanted, TOLERANCE).agrees
    lab.search()
    assert len(lab.studies.refine(X, rounds=1, runs=2, limits={"max_lanes": 1}).rounds) == 5, "one lane keeps that"
    lab.search()
    assert len(lab.studies.refine(X, rounds=1, runs=2, limits={"max_units": {"a": 1}}).rounds) == 1, "none keeps this"
    lab.lanes.choose_backends(backends=["eager"], budget_s=0.05)
    lab.search()
    assert len(lab.studies.refine(X, rounds=1, runs=2).rounds) == 1, "eager alone is asked for"
