"""A plan for several nodes, parted."""

from __future__ import annotations

from dataclasses import replace

import pytest

from esen_lab.cluster.node_messages import NodeCores
from esen_lab.cluster.nodes import deal_cores
from esen_lab.cluster.parts import parts_of
from esen_lab.errors import UsageError
from esen_lab.lab.stages.nodes import without_node
from esen_lab.planner.fits import check_runnable
from esen_lab.planner.plan import Lane, Plan

PLAN = Plan(
    lanes=(
        Lane(units=2, members=("a",), device="big"),
        Lane(units=1, members=("b", "c"), device="small"),
        Lane(units=1, members=("d",), device="big", backends=("openvino",)),
    ),
    units=4,
    devices={"big": 4, "small": 1},
    predicted_s={"a": 0.2, "b": 0.1, "c": 0.1, "d": 0.05},
)


def test_each_node_gets_its_lanes_as_a_plan_for_one_device() -> None:
    big, small = parts_of(PLAN, {"big": 8, "small": 1})
    assert (big.node, big.lanes, big.members) == ("big", (0, 2), ("a", "d"))
    assert big.plan.devices == {}
    assert {lane.device for lane in big.plan.lanes} == {""}
    assert big.plan.lanes[1].backends == ("openvino",)
    assert (big.units, small.units) == (3, 1)
    check_runnable(small.plan)


@pytest.mark.parametrize(
    ("units", "said"),
    [({"big": 4}, "small"), ({"big": 3, "small": 1}, "big has 3"), ({}, "it has none")],
)
def test_nodes_that_are_missing_or_small_are_named(units: dict[str, int], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parts_of(PLAN, units)


def test_a_member_that_is_split_over_nodes_is_refused() -> None:
    lanes = (Lane(units=1, members=("a 1/2",), device="x"), Lane(units=1, members=("a 2/2",), device="y"))
    with pytest.raises(UsageError, match="one node"):
        parts_of(Plan(lanes=lanes, units=1, devices={"x": 1, "y": 1}), {"x": 1, "y": 1})


def test_members_of_a_node_that_is_gone_go_where_there_is_least_to_do() -> None:
    plan = without_node(PLAN, "small")
    assert plan.devices == {"big": 4}
    assert set(plan.names) == {"a", "b", "c", "d"}
    assert plan.lane_of("b").members == ("d", "b", "c")
    with pytest.raises(UsageError, match="only one"):
        without_node(plan, "big")


def test_lanes_of_a_node_that_is_gone_stay_beside_each_other_where_the_next_one_was_idle() -> None:
    lanes = tuple(Lane(units=units, members=(name,), device="first") for name, units in (("a", 2), ("b", 1), ("c", 2)))
    plan = Plan(lanes=lanes, units=5, devices={"first": 5, "spare": 3})
    left = without_node(plan, "first")
    assert [(lane.units, lane.members, lane.device) for lane in left.lanes] == [
        (2, ("a", "c"), "spare"),
        (1, ("b",), "spare"),
    ]


STAGED = Plan(
    lanes=(
        Lane(units=2, members=("c",), device="big", stage=1),
        Lane(units=1, members=("a",), device="big"),
        Lane(units=1, members=("b",), device="small", stage=1),
        Lane(units=1, members=("d",), device="small", stage=2),
    ),
    units=2,
    devices={"big": 2, "small": 1},
    reach=(1.0, 0.5, 0.25),
    threshold=0.9,
)


def test_a_node_has_its_lanes_of_every_stage_and_room_for_one_stage_at_a_time() -> None:
    big, small = parts_of(STAGED, {"big": 2, "small": 1})
    assert (big.lanes, big.stages, big.members) == ((1, 0), {0: (0,), 1: (1,)}, ("a", "c"))
    assert (small.lanes, small.stages) == ((2, 3), {1: (0,), 2: (1,)})
    assert [small.members_in(stage) for stage in range(3)] == [(), ("b",), ("d",)]
    assert [big.lanes_in(stage) for stage in range(3)] == [(1,), (0,), ()]
    assert (big.units, small.units) == (2, 1)
    check_runnable(big.plan)


def test_stages_that_nothing_says_when_to_leave_are_refused() -> None:
    with pytest.raises(UsageError, match=r"has no threshold.*threshold=0\.9"):
        parts_of(replace(STAGED, threshold=None), {"big": 2, "small": 1})
    halves = (Lane(units=1, members=("d 1/2",), device="big", stage=2), Lane(units=1, members=("d 2/2",), stage=2))
    split = replace(STAGED, lanes=(*STAGED.lanes[:3], *(replace(lane, device="big") for lane in halves)))
    with pytest.raises(UsageError, match="runs a fixed part of it"):
        parts_of(split, {"big": 2, "small": 1})


def test_members_of_a_node_that_is_gone_stay_in_their_stage() -> None:
    plan = without_node(STAGED, "small")
    assert plan.describe() == "big 1: a, then big 2: c + b, then big 1: d"
    assert (plan.reach, plan.thresholds, plan.worst_s) == (STAGED.reach, STAGED.thresholds, None)
    other = without_node(STAGED, "big")
    assert other.describe() == "small 1: a, then small 1: b + c, then small 1: d"
    parts_of(other, {"small": 1})


def test_nodes_of_one_machine_are_dealt_different_cores() -> None:
    dealt = deal_cores({"here": [("x", 1), ("y", 2)], "there": [("z", 8)]}, {"here": 4, "there": 8})
    assert dealt["x"].among([0, 1, 2, 3]) == [0]
    assert dealt["y"].among([0, 1, 2, 3]) == [1, 2]
    assert dealt["z"].among(list(range(8))) == list(range(8))


def test_cores_begin_again_where_there_are_too_few() -> None:
    assert NodeCores(first=3, count=2).among([0, 1, 2, 3]) == [0, 3]
