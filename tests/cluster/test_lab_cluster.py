"""A lab whose plan is for nodes, which are threads here: run, awaited, asked, changed, closed."""

from __future__ import annotations

import asyncio
import importlib.util
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import contract
import pytest
import torch
from local_nodes import LocalNodes
from models import mlp

from esen_lab import Lab
from esen_lab.cluster import ray_reach
from esen_lab.errors import DeviceError, UsageError
from esen_lab.lab.stages import nodes
from esen_lab.planner.plan import Plan, sequential_plan

X = contract.X
PLAN = contract.plan_for(("a", "b"), ("c", "d"))


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab("cpu") as made:
        contract.ensemble_of(made)
        yield made


@pytest.fixture
def threads(lab: Lab) -> LocalNodes:
    found = LocalNodes("left", "right")
    nodes.connect(lab._runtime, found)
    return found


@pytest.mark.parametrize("way", ["", "ray://"])
def test_an_address_at_which_nothing_answers_is_refused_before_ray_waits_for_it(way: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"{way}127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(DeviceError, match=r"is there\. Given: .*refused.* Start one first"):
            ray_reach._check_answers(address)
        free.listen()
        ray_reach._check_answers(address)
    ray_reach._check_answers("auto")


def test_a_plan_for_nodes_runs_as_any_other(lab: Lab, threads: LocalNodes) -> None:
    here = lab.run(X)
    lab.plan = PLAN
    assert torch.equal(lab.run(X), here)
    assert lab.report is not None
    assert [report.name for report in lab.report.nodes] == ["left", "right"]
    assert lab.report.overhead_s >= 0
    assert "network" in str(lab.report)
    assert not lab.lanes.in_force(), "lanes of this machine have ended: its cores may be a node's"
    assert lab.status().nodes == ("left ready (a, b)", "right ready (c, d)")
    status = lab.cluster.status()
    assert status is not None
    assert [(node.name, node.state, node.members) for node in status.nodes] == [
        ("left", "ready", ("a", "b")),
        ("right", "ready", ("c", "d")),
    ]
    lab.plan = alone(lab)
    assert torch.equal(lab.run(X), here)
    with pytest.raises(UsageError, match="a plan for this machine"):
        lab.cluster.load()


def test_runs_are_awaited_and_take_turns(lab: Lab, threads: LocalNodes) -> None:
    here = lab.run(X)
    lab.apply(PLAN)
    assert set(threads.links) == {"left", "right"}, "applying a plan loads it"

    async def several() -> list[torch.Tensor]:
        return await asyncio.gather(*(lab.arun(X) for _ in range(5)))

    assert all(torch.equal(answer, here) for answer in asyncio.run(several()))


def test_a_network_that_changed_in_place_is_loaded_anew(lab: Lab, threads: LocalNodes) -> None:
    net = mlp(seed=9, outputs=8)
    lab.register("a", net, example=X)
    lab.plan = PLAN
    before = lab.run(X)
    with torch.no_grad():
        next(net.parameters()).mul_(2.0)
    after = lab.run(X)
    assert not torch.equal(before, after)
    lab.cluster.leave()
    lab.plan = alone(lab)
    assert torch.equal(lab.run(X), after)


def test_a_plan_for_nodes_that_are_not_there_is_refused(lab: Lab, threads: LocalNodes) -> None:
    other = contract.plan_for(("a", "b", "c"), ("d",))
    with pytest.raises(UsageError, match="names those of the cluster: left, right"):
        lab.plan = type(other)(
            lanes=tuple(type(lane)(units=1, members=lane.members, device="far") for lane in other.lanes),
            units=1,
            devices={"far": 1},
        )
    lab.plan = PLAN
    lab.cluster.leave()
    with pytest.raises(UsageError, match=r"lab\.cluster\.connect"):
        lab.run(X)


def test_a_lab_goes_on_without_a_node(lab: Lab, threads: LocalNodes) -> None:
    here = lab.run(X)
    lab.plan = PLAN
    lab.run(X)
    threads.links["right"].kill(for_good=True)
    with pytest.raises(DeviceError, match="right"):
        lab.run(X)
    assert torch.equal(lab.run(X, on_failure="leave-out"), _of(lab, "a", "b"))
    plan = lab.cluster.replan_without("right")
    assert plan.devices == {"left": 1}
    assert torch.equal(lab.run(X), here)
    with pytest.raises(UsageError, match="left"):
        lab.cluster.replan_without("right")


def test_nodes_are_measured_once_for_each_kind_and_placed(lab: Lab, threads: LocalNodes) -> None:
    here = lab.run(X)
    told: list[tuple[int, int, str]] = []
    profiles = lab.cluster.profile(lambda *words: told.append(words), budget_s=0.05)
    assert told == [(0, 1, "left"), (1, 1, "")]
    assert profiles["left"] is profiles["right"]
    assert set(profiles["left"].names) == {"a", "b", "c", "d"}
    lab.profile(budget_s=0.05).result()
    threads.units = profiles["left"].units
    lab.plan = lab.studies.plan_of(lab.studies.place(profiles))
    assert torch.equal(lab.run(X), here)


def test_members_without_weight_count_neither_as_enough_nor_as_missing(lab: Lab, threads: LocalNodes) -> None:
    lab.combine("weighted", weights={"a": 1.0, "b": 2.0, "c": 0.0, "d": 0.0})
    here = lab.run(X)
    lab.plan = PLAN
    assert torch.equal(lab.run(X), here)
    threads.links["left"].kill(for_good=True)
    with pytest.raises(DeviceError, match="left"):
        lab.run(X, on_failure="leave-out")


def test_a_cascade_is_placed_over_nodes_saved_loaded_and_run(lab: Lab, threads: LocalNodes, tmp_path: Path) -> None:
    rows = contract.ROWS
    lab.profile(budget_s=0.05).result()
    cascade = lab.studies.cascade(rows, threshold=0.18, stages=[["a"], ["b", "c", "d"]])
    seconds = {name: [0.001 if name == "a" else 0.1] for name in "abcd"}
    placed = lab.studies.place_cascade(cascade, {"left": seconds, "right": seconds})
    plan = lab.studies.plan_of(placed)
    assert (plan.staged, plan.devices) == (True, {"left": 1, "right": 1})
    assert {lane.device for lane in plan.lanes if lane.stage} == {"left", "right"}
    here = lab.studies.plan_of(cascade)
    lab.plan = here
    wanted = lab.run(rows)
    told = [(stage.rows, stage.left) for stage in lab.report.stages]
    plan.save(tmp_path / "plan.json")
    lab.load(tmp_path / "plan.json")
    torch.testing.assert_close(lab.run(rows), wanted)
    assert [(stage.rows, stage.left) for stage in lab.report.stages] == told
    assert {report.name for report in lab.report.nodes} == {"left", "right"}
    assert "stage 1 answered" in str(lab.report)
    torch.testing.assert_close(asyncio.run(lab.arun(rows, deadline_s=60.0)), wanted)
    assert lab.report.answered.cut_rows == 0
    with pytest.raises(UsageError, match="a plan over nodes"):
        lab.studies.thresholds()
    with pytest.raises(UsageError, match="row by row, at its thresholds"):
        lab.run(rows, stop_early=0.9)


def test_other_thresholds_start_nothing_anew_and_a_lost_node_leaves_the_stages(lab: Lab, threads: LocalNodes) -> None:
    plan = contract.THREE
    lab.plan = plan
    lab.run(contract.ROWS)
    links = dict(threads.links)
    lab.plan = replace(plan, threshold=0.01)
    lab.run(contract.ROWS)
    assert [stage.rows for stage in lab.report.stages] == [16, 0, 0]
    assert threads.links == links
    lab.plan = plan
    wanted = lab.run(contract.ROWS)
    threads.links["right"].kill(for_good=True)
    with pytest.raises(DeviceError, match="right"):
        lab.run(contract.ROWS)
    assert [lane.stage for lane in lab.cluster.replan_without("right").lanes] == [0, 1, 2]
    torch.testing.assert_close(lab.run(contract.ROWS), wanted)


def test_the_way_to_each_node_is_measured(lab: Lab, threads: LocalNodes) -> None:
    large = torch.zeros(300_000, 8)  # a small one takes no longer than the machine's own unrest
    found = lab.cluster.transfers(large, repeats=3)
    assert set(found) == {"left", "right"}
    assert all(times.input_s > 0 and times.latency_s > 0 and times.byte_s >= 0 for times in found.values())
    with pytest.raises(UsageError, match="whole one above 0"):
        lab.cluster.transfers(repeats=0)


def test_a_closed_lab_starts_nodes_again(lab: Lab, threads: LocalNodes) -> None:
    lab.plan = PLAN
    before = lab.run(X)
    lab.close()
    assert torch.equal(lab.run(X), before)


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="Ray is installed")
def test_without_ray_it_says_how_to_get_it(lab: Lab) -> None:
    with pytest.raises(UsageError, match=r"esen_lab\[ray\]"):
        lab.cluster.connect()


def alone(lab: Lab) -> Plan:
    """A plan for this machine."""
    return sequential_plan(lab.ensemble.names, lab.device.units)


def _of(lab: Lab, *names: str) -> torch.Tensor:
    with Lab("cpu") as other:
        for name in names:
            other.register(name, mlp(seed=ord(name), outputs=8), example=X)
        answer: torch.Tensor = other.run(X)
        return answer
