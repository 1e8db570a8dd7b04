"""A plan for several nodes, parted."""

from __future__ import annotations

import pytest

from esen_lab.cluster.nodes import deal_cores
from esen_lab.cluster.orders import NodeCores
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


def test_nodes_of_one_machine_are_dealt_different_cores() -> None:
    dealt = deal_cores({"here": [("x", 1), ("y", 2)], "there": [("z", 8)]}, {"here": 4, "there": 8})
    assert dealt["x"].among([0, 1, 2, 3]) == [0]
    assert dealt["y"].among([0, 1, 2, 3]) == [1, 2]
    assert dealt["z"].among(list(range(8))) == list(range(8))


def test_cores_begin_again_where_there_are_too_few() -> None:
    assert NodeCores(first=3, count=2).among([0, 1, 2, 3]) == [0, 3]
