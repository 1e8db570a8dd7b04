"""A cascade whose stages are placed over several nodes."""

from __future__ import annotations

import pytest

from esen_lab.errors import UsageError
from esen_lab.planner.nodes import NodeLink
from esen_lab.planner.plan import Plan
from esen_lab.studies.batch_times import RowTimes
from esen_lab.studies.cascade import Cascade, cascade
from esen_lab.studies.placed_stages import PlacedCascade, place_stages, plan_of_stages
from esen_lab.studies.placement import DeviceTables, place

TABLES = {"quick": [0.01], "left": [1.0], "right": [1.0]}
HERE = DeviceTables(name="here", units=1, latencies=TABLES)


def cascade_of(reach: float = 0.5) -> Cascade:
    found = cascade(TABLES, 1, list(TABLES), [1.0, reach, reach], ends=[1, 3])
    return Cascade(
        stages=found.stages,
        expected_s=found.expected_s,
        at_once_s=found.at_once_s,
        gain=found.gain,
        notes=("expected 40 % faster", "done at a confidence of 0.9"),
        threshold=0.9,
    )


def placed_with(link: NodeLink, reach: float = 0.5, sizes: dict[str, int] | None = None) -> PlacedCascade:
    there = DeviceTables(name="there", units=1, latencies=TABLES, link=link)
    return place_stages(cascade_of(reach), [HERE, there], sizes or {}, RowTimes())


def test_each_stage_has_the_best_placement_of_its_own_members() -> None:
    found = placed_with(NodeLink(input_s=0.1))
    first, second = found.placements
    assert [name for name, own in first.devices if own is not None] == ["here"], "a transfer takes longer than quick"
    assert [name for name, own in second.devices if own is not None] == ["here", "there"]
    alone = {name: TABLES[name] for name in ("left", "right")}
    there = DeviceTables(name="there", units=1, latencies=alone, link=NodeLink(input_s=0.1))
    assert second.jct_s == place([DeviceTables(name="here", units=1, latencies=alone), there]).jct_s


def test_what_is_expected_counts_reach_and_transfers() -> None:
    found = placed_with(NodeLink(input_s=0.1), reach=0.25)
    assert found.expected_s == pytest.approx(0.01 + 0.25 * 1.1)
    assert found.worst_s == pytest.approx(0.01 + 1.1)
    both = placed_with(NodeLink(byte_s=0.001), sizes={"left": 100, "right": 100})
    assert both.worst_s == pytest.approx(0.01 + 1.1), "what comes back is that of the members there"


def test_its_plan_has_nodes_and_stages_and_can_be_saved() -> None:
    plan = plan_of_stages(placed_with(NodeLink(input_s=0.1)))
    assert plan.describe() == "here 1: quick, then here 1: left | there 1: right" or plan.describe() == (
        "here 1: quick, then here 1: right | there 1: left"
    )
    assert (plan.reach, plan.thresholds, plan.devices) == ((1.0, 0.5), (0.9,), {"here": 1, "there": 1})
    assert plan.worst_s == pytest.approx(1.11)
    assert plan.predicted_s == {"quick": 0.01, "left": 1.0, "right": 1.0}
    assert "done at a confidence of 0.9" in plan.notes
    assert not any("expected" in note for note in plan.notes), "what one machine would take is not told"
    assert Plan.from_dict(plan.to_dict()) == plan


def test_a_device_that_does_not_know_a_member_is_named() -> None:
    other = DeviceTables(name="other", units=1, latencies={"quick": [1.0]})
    with pytest.raises(UsageError, match="'other' knows no left, right"):
        place_stages(cascade_of(), [HERE, other], {}, RowTimes())
