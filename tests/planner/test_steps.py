"""How groups and parts are written, and that a plan's steps answer for each sub-model once."""

from __future__ import annotations

import pytest

from esen_lab.errors import StoreError, UsageError
from esen_lab.planner.plan import Lane, Plan
from esen_lab.planner.steps import Step, check_steps, members_of


@pytest.mark.parametrize("name", ["a", "a+b", "a-1+b.2+_c", "a 1/2", "wide 3/4", "ä 64/64"])
def test_a_step_is_read_as_it_is_written(name: str) -> None:
    assert Step.of(name).name == name


@pytest.mark.parametrize(
    "name",
    ["", "+", "a+", "a++b", "a+a", "a 0/2", "a 3/2", "a 1/1", "a 1/65", "a  1/2", "a 1/2 ", "a+b 1/2", "1/2", "a b", 3],
)
def test_what_is_no_step_is_refused(name: object) -> None:
    with pytest.raises(UsageError):
        Step.of(name)


def test_members_are_named_once_in_the_order_they_are_met() -> None:
    assert members_of(["c 1/2", "a+b", "c 2/2", "d"]) == ("c", "a", "b", "d")


@pytest.mark.parametrize(
    ("steps", "told"),
    [
        (["a+b", "a"], "a in several"),
        (["a+b", "b+c"], "b in several"),
        (["a 1/2", "a"], "a in several"),
        (["a 1/2"], "a 1/2"),
        (["a 1/2", "a 2/3"], "a 1/2, a 2/3"),
        (["a 1/2", "a 1/2", "a 2/2"], "a 1/2"),
    ],
)
def test_a_sub_model_is_run_once_alone_or_in_a_group_or_in_all_its_parts(steps: list[str], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        check_steps(steps)


def plan() -> Plan:
    lanes = (Lane(units=1, members=("a 1/2", "b+c")), Lane(units=1, members=("a 2/2", "d")))
    return Plan(lanes=lanes, units=2, predicted_s={"a 1/2": 1.0, "a 2/2": 1.0, "b+c": 2.0, "d": 1.0})


def test_a_plan_knows_its_sub_models_and_its_steps() -> None:
    assert plan().names == ("a", "b", "c", "d")
    assert plan().steps == ("a 1/2", "b+c", "a 2/2", "d")
    assert plan().lane_of("c") is not plan().lane_of("d")


def test_a_plan_shows_parts_in_their_lanes_and_groups_as_one() -> None:
    assert plan().describe() == "1: a 1/2 + b+c | 1: a 2/2 + d"
    assert "a 1/2 → b+c" in str(plan())


def test_a_plan_with_groups_and_parts_is_saved_and_loaded(tmp_path) -> None:  # type: ignore[no-untyped-def]
    assert Plan.load(plan().save(tmp_path / "plan.json")) == plan()


def test_a_file_with_half_a_batch_is_refused() -> None:
    data = plan().to_dict()
    data["lanes"][1]["members"] = ["d"]
    data["lanes"][1]["active_units"] = [1]
    with pytest.raises(StoreError, match="each part of its batch once"):
        Plan.from_dict(data)


def test_groups_and_parts_run_in_turn_and_eagerly() -> None:
    with pytest.raises(UsageError, match="one after another"):
        Lane(units=1, members=("a+b", "c"), mode="threads")
    with pytest.raises(UsageError, match="eagerly"):
        Lane(units=1, members=("a+b", "c"), backends=("openvino", "eager"))
    assert Lane(units=1, members=("a+b", "c"), backends=("eager", "openvino")).backends == ("eager", "openvino")
