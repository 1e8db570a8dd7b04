"""A lab whose machine has L3 domains of one core each: points know their place, plans and reports say who lost it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from models import mlp

from esen_lab import Lab
from esen_lab.devices import CpuDevice
from esen_lab.devices.cpu.topology import Core, Topology
from esen_lab.planner.plan import Lane, Plan

X = torch.zeros(1, 8)
# Four cores in two domains, all of them on CPU 0: what lanes are told and do is the same.
TWO_DOMAINS = Topology(cores=tuple(Core(cpus=(0,), l3=domain, node=0) for domain in (0, 0, 1, 1)))


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with Lab(CpuDevice(topology=TWO_DOMAINS), store=tmp_path / "points.sqlite3") as lab:
        lab.register("a", mlp(), X)
        lab.register("b", mlp(), X)
        yield lab


def test_a_report_says_which_lane_is_not_where_it_was_measured(lab: Lab) -> None:
    lab.plan = Plan(lanes=(Lane(units=1, members=("a",)), Lane(units=2, members=("b",))), units=4)
    lab.run(X)
    assert lab.report is not None
    assert not any("Not where they were measured" in note for note in lab.report.notes)
    three = Topology(cores=tuple(Core(cpus=(0,), l3=domain, node=0) for domain in (0, 0, 1, 1, 2, 2)))
    lab.use_device(CpuDevice(topology=three))
    lab.register("c", mlp(), X)
    lab.register("d", mlp(), X)
    shares = {"a": 1, "b": 1, "c": 2, "d": 2}
    lab.plan = Plan(lanes=tuple(Lane(units=units, members=(name,)) for name, units in shares.items()), units=6)
    lab.run(X)
    assert not any("Not where they were measured" in note for note in lab.report.notes), "1 + 1, 2, 2 fit"
    lab.use_device(CpuDevice(topology=Topology(cores=tuple(Core(cpus=(0,), l3=d, node=0) for d in (0, 0, 0, 1, 1, 1)))))
    shares = {"a": 2, "b": 2, "c": 2}
    lab.plan = Plan(
        lanes=tuple(Lane(units=units, members=(name,)) for name, units in shares.items()), units=6, left_out=("d",)
    )
    lab.run(X)
    (said,) = (note for note in lab.report.notes if "Not where they were measured" in note)
    assert "lane 3 (2 cores) on one node, measured on one L3" in said


def test_a_search_says_it_of_its_plan(lab: Lab) -> None:
    thirds = Topology(cores=tuple(Core(cpus=(0,), l3=d, node=0) for d in (0, 0, 0, 1, 1, 1)))
    lab.use_device(CpuDevice(topology=thirds))
    lab.register("c", mlp(), X)
    lab.profile(budget_s=0.02).result(120)
    points = lab.measurements.points if lab.measurements else ()
    assert {point.units for point in points} == {1, 2, 3, 4, 5, 6}
    assert {point.readings["place"] for point in points} <= {"one L3", "one node"}, "read where the worker really is"
    plan = lab.search(limits={"pinned": {"a": 2, "b": 2, "c": 2}, "one_each": True})
    assert sorted(lane.units for lane in plan.lanes) == [2, 2, 2]
    assert any("Not where they were measured" in note for note in plan.notes)
