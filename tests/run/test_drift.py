"""When runs are far from their prediction, and what is then said."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from esen_lab.devices.cpu.interference import Interference
from esen_lab.planner.plan import Lane, Plan
from esen_lab.run import Span
from esen_lab.run.drift import Circumstances, drift, far_off

DEVICE = {"kind": "cpu", "name": "Here", "units": 4}
PLAN = Plan(
    lanes=(Lane(units=2, members=("wide",)), Lane(units=2, members=("deep",))),
    units=4,
    device=DEVICE,
    jct_s=0.001,
    predicted_s={"wide": 0.001, "deep": 0.0009},
)


def spans(wide_s: float, deep_s: float, *, late_s: float = 0.0) -> tuple[Span, ...]:
    return (
        Span(name="wide", lane=0, start_s=0.0, end_s=wide_s, predicted_s=0.001),
        Span(name="deep", lane=1, start_s=late_s, end_s=late_s + deep_s, predicted_s=0.0009),
    )


def told(*runs_s: float, **known: Any) -> str:
    given = {"plan": PLAN, "spans": spans(0.001, 0.0009), "device": DEVICE, **known}
    return " ".join(drift(Circumstances(runs_s=runs_s, **given)))


@pytest.mark.parametrize(
    ("runs", "ratio"),
    [
        ([0.0737], 73.7),
        ([0.0014, 0.0013, 0.0014], None),
        ([0.0017, 0.0017, 0.0018], 1.7),
        ([0.0017], None),  # one run alone says less
        ([0.0021], 2.1),
        ([0.0004, 0.0004, 0.0004], 0.4),
        ([0.05, 0.001, 0.001, 0.001], None),  # one slow run among usual ones
        ([0.001, 0.0009, 0.01, 0.012, 0.02], None),  # half of them are as predicted
        ([], None),
        ([math.nan, 0.0], None),
    ],
)
def test_runs_are_far_off_by_their_median_and_beyond_noise(runs: list[float], ratio: float | None) -> None:
    found = far_off(runs, 0.001)
    assert found == (None if ratio is None else pytest.approx(ratio))


@pytest.mark.parametrize("predicted_s", [None, 0.0, -1.0, math.nan, math.inf])
def test_without_a_prediction_nothing_is_far_from_it(predicted_s: float | None) -> None:
    assert far_off([1.0, 1.0, 1.0], predicted_s) is None
    if predicted_s is None:
        assert told(1.0, plan=replace(PLAN, jct_s=None)) == ""


def test_as_predicted_nothing_is_said() -> None:
    assert told(0.001, 0.0011, 0.001) == ""


def test_how_far_is_said_in_times_and_never_as_thousands_of_percent() -> None:
    text = told(0.0737)
    assert text.startswith("Far from its prediction: 73.7 ms (one run), predicted 1.00 ms: 74 times slower.")
    assert "%" not in text.replace("%esen", "")


def test_a_busy_machine_is_named_and_other_programs_are_to_be_closed() -> None:
    text = told(0.01, load=0.48)
    assert "other programs took 48.0 % of the lanes' time" in text
    assert "Close other programs and run again" in text
    assert "busy" not in told(0.01, load=0.05)
    assert "busy" not in told(0.01, load=None)


def test_lanes_that_compete_with_each_other_are_not_called_a_busy_machine() -> None:
    over = replace(PLAN, lanes=(Lane(units=4, members=("wide",)), Lane(units=4, members=("deep",))))
    text = told(0.01, plan=over, load=0.5)
    assert "sum to more than the device" in text
    assert "other programs took" not in text


def test_doubts_about_the_points_are_told_with_it_and_only_then() -> None:
    assert "wide at 2 is old" in told(0.01, doubts=("wide at 2 is old.",))
    assert told(0.001, doubts=("wide at 2 is old.",)) == ""


def test_a_plan_of_another_device_an_old_one_and_an_extrapolated_one_say_so() -> None:
    assert "made on another device (name There, here Here)" in told(
        0.01, plan=replace(PLAN, device={**DEVICE, "name": "There"})
    )
    assert "plan was made" in told(0.01, plan=replace(PLAN, created_at="2020-01-01T00:00:00+00:00"))
    assert "(extrapolated: wide)" in told(0.01, plan=replace(PLAN, unmeasured={"wide": "extrapolated"}))
    assert "deep not executed as the plan says" in told(0.01, fallen_back=["deep"])
    assert "simulated" in told(0.01, device={**DEVICE, "simulated": True})


def test_one_sub_model_alone_far_off_is_named_with_both_times() -> None:
    text = told(0.01, spans=spans(0.0095, 0.0009))
    assert "only wide (9.50 ms, predicted 1.00 ms) took longer" in text
    assert "only" not in told(0.01, spans=spans(0.0095, 0.0095)), "all of them did"


def test_where_no_lab_ran_it_nothing_of_a_lab_is_advised() -> None:
    text = told(0.01, 0.01, 0.01, of_lab=False)
    assert "lab." not in text
    assert "Measure and search in a notebook on this machine, and export the plan again." in text
    assert "otherwise measure" in told(0.01, load=0.5, of_lab=False)


def test_what_the_run_cost_beside_its_lanes_and_a_lane_that_began_late_are_named() -> None:
    assert "6.00 ms went into handing over" in told(0.01, overhead_s=0.006)
    assert "lane 2 began 8.00 ms after" in told(0.01, spans=spans(0.001, 0.001, late_s=0.008))


def test_runs_that_are_much_faster_are_said_too() -> None:
    text = told(0.0002, 0.0002, 0.0002)
    assert "5.0 times faster" in text
    assert "slower when the points were measured" in text


def test_where_nothing_is_found_that_is_said_with_what_is_left() -> None:
    text = told(0.01, 0.01, 0.01)
    assert "Nothing that was looked at explains it" in text
    assert "heat, battery" in text
    assert "fresh=True" in text


TAKES = Interference(alone_gb_s=20.0, together_gb_s=10.0, cores=2, array_bytes=1, measured_at="")
LEAVES = replace(TAKES, together_gb_s=19.5)


def with_memory(found: Interference | None, factor: float = 2.0, **known: Any) -> tuple[str, int]:
    """What is said of runs that took `factor` times their prediction, and how often bandwidth was asked for."""
    asked = []

    def interference() -> Interference | None:
        asked.append(1)
        return found

    runs = [0.001 * factor] * 3
    given = {"spans": spans(runs[0], 0.9 * runs[0]), "interference": interference, **known}
    return told(*runs, **given), len(asked)


def test_lanes_side_by_side_that_take_each_others_bandwidth_are_a_reason() -> None:
    text, asked = with_memory(TAKES)
    assert asked == 1
    assert "10 GB/s of a lane beside another one, 20 GB/s alone" in text


def test_bandwidth_is_no_reason_where_it_cannot_explain_it() -> None:
    assert "bandwidth" not in with_memory(LEAVES)[0]
    assert "bandwidth" not in with_memory(None)[0]
    assert "bandwidth" not in with_memory(TAKES, factor=20.0)[0], "that much nobody takes"


@pytest.mark.parametrize(
    "known",
    [
        {"factor": 0.4},
        {"load": 0.5},
        {"device": {**DEVICE, "kind": "cuda mps"}},
        {"plan": replace(PLAN, lanes=(Lane(units=4, members=("wide",)), Lane(units=4, members=("deep",))))},
        {"spans": (spans(0.002, 0.0)[0], replace(spans(0.0, 0.0)[1], start_s=0.002, end_s=0.004))},
    ],
    ids=["faster", "busy", "a GPU", "oversubscribed", "one after another"],
)
def test_bandwidth_is_not_measured_where_it_does_not_matter(known: dict[str, Any]) -> None:
    assert with_memory(TAKES, **known)[1] == 0
