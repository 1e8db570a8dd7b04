"""The time of a cascade over a batch: by definition, by drawing, and at its ends."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from esen_lab.planner.plan import Lane, Plan
from esen_lab.studies.batch_times import RowTimes, beyond, expected_s, expected_stage_s, worst_s

PLAN = Plan(
    lanes=(Lane(units=1, members=("a", "b")), Lane(units=1, members=("c",))),
    units=2,
    predicted_s={"a": 0.02, "b": 0.03, "c": 0.04},
)


def test_a_stage_takes_its_slowest_lane_at_the_next_size() -> None:
    measured = RowTimes(rows=16, ratio={name: {16: 1.0, 8: 0.5, 2: 0.25} for name in "abc"})
    times = measured.stage(PLAN, overhead_s=0.001)
    assert times[0] == 0.0
    assert times[16] == pytest.approx(0.051)
    assert times[8] == times[7] == pytest.approx(0.026)  # sizes are eighths of the batch
    assert times[1] == times[2] == pytest.approx(0.001 + 0.05 * 0.25)
    whole = RowTimes(rows=16).stage(PLAN)
    assert set(whole[1:]) == {0.05}
    assert "whole batch" in RowTimes(rows=16).says
    assert "measured" in measured.says
    assert "one row" in RowTimes().says


@pytest.mark.parametrize("reach", [0.0, 0.2, 0.7, 1.0])
def test_the_mean_time_of_a_stage_is_that_over_all_batches(reach: float) -> None:
    times = np.array([0.0, 3.0, 3.0, 7.0, 9.0])
    by_hand = 0.0
    for open_rows in itertools.product([True, False], repeat=4):
        chance = np.prod([reach if one else 1 - reach for one in open_rows])
        by_hand += float(chance) * float(times[sum(open_rows)])
    assert expected_stage_s(times, reach) == pytest.approx(by_hand)


def test_a_single_row_is_asked_whole_or_not_at_all() -> None:
    times = [np.array([0.0, 2.0]), np.array([0.0, 5.0]), np.array([0.0, 9.0])]
    reach = (1.0, 0.5, 0.125)
    assert expected_s(times, reach) == pytest.approx(2 + 0.5 * 5 + 0.125 * 9)
    assert worst_s(times) == 16.0
    assert beyond(times, reach, 1.0) == 1.0
    assert beyond(times, reach, 2.0) == pytest.approx(0.5)
    assert beyond(times, reach, 7.0) == pytest.approx(0.125)
    assert beyond(times, reach, 16.0) == 0.0


def test_inputs_are_late_where_their_whole_batch_is() -> None:
    times = [np.array([0.0, 1.0, 1.0]), np.array([0.0, 2.0, 4.0])]
    late = beyond(times, (1.0, 0.5), 2.9)  # late where anybody of two rows stays: 3 of 4 batches
    assert late == pytest.approx(0.75, abs=0.03)
    assert beyond(times, (1.0, 0.5), 4.9) == pytest.approx(0.25, abs=0.03)
    assert beyond(times, (1.0, 0.0), 1.5) == 0.0
