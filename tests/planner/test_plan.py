"""Plans: what they refuse, and that they survive the file."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from esen_lab.errors import StoreError, UsageError
from esen_lab.planner.fits import check_runnable
from esen_lab.planner.plan import Lane, Plan, sequential_plan

PLAN = Plan(
    lanes=(Lane(units=2, members=("a", "b"), active_units=(1, 2)), Lane(units=1, members=("c",))),
    units=4,
    device={"kind": "cpu", "units": 4},
    jct_s=0.011,
    bound_s=0.01,
    predicted_s={"a": 0.005, "b": 0.006, "c": 0.01},
    fingerprints={"a": "1", "b": "2", "c": "3"},
    example="float32[1, 8]",
    combine="mean",
    notes=("hello",),
    created_at="2026-01-01T00:00:00+00:00",
)


def test_a_saved_plan_comes_back_equal(tmp_path: Path) -> None:
    assert Plan.load(PLAN.save(tmp_path / "plan.json")) == PLAN
    assert os.listdir(tmp_path) == ["plan.json"]


def test_shares_of_numpy_are_in_the_file_as_all_others(tmp_path: Path) -> None:
    lane = Lane(units=np.int64(2), members=("a",), active_units=(np.int64(1),))  # type: ignore[arg-type]
    plan = Plan(lanes=(lane,), units=np.int64(4))  # type: ignore[arg-type]
    assert Plan.load(plan.save(tmp_path / "plan.json")) == plan


def test_the_gap_is_jct_over_bound_less_one() -> None:
    assert PLAN.gap == pytest.approx(0.1)
    assert sequential_plan(["a"], 2).gap is None


def test_a_plan_describes_its_lanes_in_one_line() -> None:
    assert PLAN.describe() == "2: a + b | 1: c"


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"lanes": ()}, "at least one lane"),
        ({"units": 1}, "between 1 and 1 units"),
        ({"lanes": (Lane(units=1, members=("a",)), Lane(units=1, members=("a",)))}, "in one lane"),
    ],
)
def test_what_no_plan_can_be_is_refused(change: dict[str, object], rule: str) -> None:
    with pytest.raises(UsageError, match=rule):
        Plan(**{"lanes": PLAN.lanes, "units": 4, **change})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"units": 0}, "whole number of units above 0"),
        ({"units": 1.5}, "whole number"),
        ({"units": True}, "whole number"),
        ({"members": ()}, "at least one sub-model"),
        ({"members": ("../a",)}, "A name starts"),
        ({"members": ("a\nb",)}, "A name starts"),
        ({"active_units": (3,)}, "between 1 and 2"),
        ({"active_units": (1, 1)}, "once per member"),
        ({"mode": "magic"}, "serial, threads, async, vmap"),
    ],
)
def test_what_no_lane_can_be_is_refused(change: dict[str, object], rule: str) -> None:
    with pytest.raises(UsageError, match=rule):
        Lane(**{"units": 2, "members": ("a",), **change})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "not json",
        "[]",
        "{}",
        json.dumps({**PLAN.to_dict(), "schema_version": 99}),
        json.dumps({**PLAN.to_dict(), "lanes": "many"}),
        json.dumps({**PLAN.to_dict(), "lanes": [{"units": 2}]}),
        json.dumps(
            {
                **PLAN.to_dict(),
                "lanes": [{"units": 2, "members": ["a'; import os"], "active_units": [2], "mode": "serial"}],
            }
        ),
        json.dumps({**PLAN.to_dict(), "units": "four"}),
        json.dumps({**PLAN.to_dict(), "jct_s": -1}),
        json.dumps({**PLAN.to_dict(), "jct_s": float("nan")}),
        json.dumps({**PLAN.to_dict(), "predicted_s": {"a": None}}),
        json.dumps(PLAN.to_dict())[:200],
        "[" * 100_000,
    ],
)
def test_a_damaged_plan_file_is_one_clear_error(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(damage)
    with pytest.raises(StoreError, match="plan"):
        Plan.load(path)


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="No such file"):
        Plan.load(tmp_path / "nowhere.json")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = PLAN.save(tmp_path / "plan.json")
    before = path.read_text()

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StoreError, match="No space left"):
        PLAN.with_origin(notes=("new",)).save(path)
    assert path.read_text() == before
    assert os.listdir(tmp_path) == ["plan.json"]


def test_writing_into_a_folder_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is room"):
        PLAN.save(tmp_path / "no" / "plan.json")


TWO = Plan(
    lanes=(Lane(units=2, members=("a",), device="one"), Lane(units=3, members=("b",), device="two")),
    units=3,
    devices={"one": 2, "two": 3},
)
STAGED = Plan(
    lanes=(Lane(units=2, members=("a",)), Lane(units=2, members=("b",), stage=1)),
    units=2,
    reach=(1.0, 0.25),
    threshold=0.9,
    left_out=("c",),
)


@pytest.mark.parametrize("plan", [TWO, STAGED, replace(STAGED, threshold=(0.8,), worst_s=0.5)])
def test_devices_and_stages_come_back_equal(plan: Plan, tmp_path: Path) -> None:
    assert Plan.load(plan.save(tmp_path / "plan.json")) == plan
    assert not plan.oversubscribed


def test_a_plan_in_stages_is_run_where_it_is_said_when_inputs_leave() -> None:
    check_runnable(STAGED)
    assert STAGED.staged
    assert STAGED.stages == ((0,), (1,))
    assert STAGED.thresholds == (0.9,)
    assert replace(STAGED, threshold=(0.8,)).thresholds == (0.8,)
    assert PLAN.thresholds == ()
    assert not PLAN.staged
    parts = (Lane(units=2, members=("a",)), Lane(units=1, members=("b 1/2",), stage=1))
    parts = (*parts, Lane(units=1, members=("b 2/2",), stage=1))
    for plan, why in (
        (TWO, "for 2 devices"),
        (replace(STAGED, threshold=None), "no threshold"),
        (replace(STAGED, lanes=parts), "a fixed part"),
    ):
        with pytest.raises(UsageError, match=why):
            check_runnable(plan)
    with pytest.raises(UsageError, match="one for each stage but the last"):
        replace(STAGED, threshold=(0.8, 0.9))


def test_a_stage_takes_as_long_as_its_slowest_lane() -> None:
    known = replace(STAGED, predicted_s={"a": 0.1, "b": 0.3}, jct_s=0.2, worst_s=0.4)
    assert known.stage_s(1) == 0.3
    assert STAGED.stage_s(1) is None
    assert "expected JCT 200 ms, worst case 400 ms" in str(known)


def test_devices_and_stages_are_described_in_one_line() -> None:
    assert TWO.describe() == "one 2: a | two 3: b"
    assert STAGED.describe() == "2: a, then 2: b"


def test_a_plan_of_an_earlier_file_has_one_device_and_one_stage(tmp_path: Path) -> None:
    data = PLAN.to_dict()
    for key in ("left_out", "devices", "reach", "threshold", "measured_s"):
        del data[key]
    assert Plan.from_dict(data) == PLAN
    check_runnable(PLAN)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"devices": {"one": 2}}, "on a device of its plan"),
        ({"devices": {"one": 2, "two": 2}}, "between 1 and 2"),
        ({"devices": {"one": 2, "two": 4}}, "between 1 and 3"),
        ({"devices": {"one": 2, "t o": 3}}, "on a device of its plan"),
        ({"left_out": ("a",)}, "in a lane or left out"),
        ({"reach": (1.0, 0.5)}, "numbered from 0"),
    ],
)
def test_devices_that_no_plan_can_have_are_refused(change: dict[str, object], rule: str) -> None:
    with pytest.raises(UsageError, match=rule):
        Plan(**{"lanes": TWO.lanes, "units": 3, "devices": TWO.devices, **change})  # type: ignore[arg-type]


@pytest.mark.parametrize("reach", [(0.5, 0.2), (1.0, 1.5), (1.0, -0.1), (1.0,), (1.0, 0.5, 0.2)])
def test_a_reach_that_no_stages_can_have_is_refused(reach: tuple[float, ...]) -> None:
    with pytest.raises(UsageError, match=r"The (stages|reach)"):
        Plan(lanes=STAGED.lanes, units=2, reach=reach)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"devices": []}, "devices"),
        ({"reach": "all"}, "reach"),
        ({"threshold": "high"}, "threshold"),
        ({"left_out": {}}, "left_out"),
        ({"measured_s": -1}, "measured_s"),
    ],
)
def test_a_damaged_file_names_the_field(change: dict[str, object], message: str) -> None:
    with pytest.raises(StoreError, match=message):
        Plan.from_dict({**PLAN.to_dict(), **change})


# --- predictions without a measurement nearby -------------------------------------------------------------------------

GUESSED = Plan(
    lanes=(Lane(units=1, members=("wide", "slim")), Lane(units=3, members=("deep",), backends=("inductor",))),
    units=4,
    jct_s=0.004,
    predicted_s={"wide": 0.002, "slim": 0.001, "deep": 0.004},
    unmeasured={"wide": "extrapolated", "deep": "interpolated far"},
)


def test_a_plan_says_everywhere_which_predictions_rest_on_no_measurement() -> None:
    assert GUESSED.describe() == "1: wide (extrapolated) + slim | 3: deep (inductor, interpolated far)"
    assert GUESSED.predicted_text() == "4.00 ms (extrapolated: wide; interpolated far: deep)"
    assert "predicted JCT 4.00 ms (extrapolated: wide; interpolated far: deep), found by" in str(GUESSED)
    assert "wide (extrapolated) → slim" in str(GUESSED)


def test_the_marks_of_a_plan_are_saved_and_older_files_have_none(tmp_path: Path) -> None:
    path = GUESSED.save(tmp_path / "plan.json")
    assert Plan.load(path) == GUESSED
    data = json.loads(path.read_text())
    del data["unmeasured"]
    path.write_text(json.dumps(data))
    assert Plan.load(path).unmeasured == {}


def test_only_what_nobody_searched_or_made_is_the_fallback() -> None:
    assert sequential_plan(("a",), 2).is_fallback
    assert not sequential_plan(("a",), 2, searcher="exact").is_fallback
    assert not sequential_plan(("a",), 2, jct_s=0.01).is_fallback
    assert not GUESSED.is_fallback


# --- files that anybody may have written ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"units": 10**9},
        {"units": 10**400},
        {"units": True},
        {"lanes": [{"units": 1, "members": [f"m{i}" for i in range(600)]}]},
        {"lanes": [{"units": 1, "members": ["a"]}] * 600},
        {"lanes": [{"units": 1, "members": ["a"], "stage": 10**9}]},
        {"lanes": [{"units": 1, "members": ["a"], "backends": [{}]}]},
        {"lanes": [{"units": 1, "members": ["a"], "mode": ["serial"]}]},
        {"lanes": [{"units": 1, "members": [["a"]]}]},
        {"jct_s": 1e300},
        {"jct_s": 10**400},
        {"bound_s": "soon"},
        {"predicted_s": {"a": 1e300}},
        {"predicted_s": {"a" * 1000: 1.0}},
        {"fingerprints": {"a": 5}},
        {"notes": ["x" * 100_000]},
        {"notes": ["x"] * 100_000},
        {"notes": "hello"},
        {"device": {"name": ["x"]}},
        {"device": {"units": "many"}},
        {"device": {"details": {"a": {}}}},
        {"reach": [1.0, 0.5, 0.25] * 1000},
        {"devices": {"": 4}},
        {"threshold": -1},
        {"created_at": None},
    ],
    ids=lambda change: f"{next(iter(change))} {str(change)[:24]}",
)
def test_what_is_out_of_bounds_is_refused_by_its_field_when_it_is_read(
    change: dict[str, object], tmp_path: Path
) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({**PLAN.to_dict(), **change}))
    began = time.thread_time()
    with pytest.raises(StoreError, match=f"{next(iter(change))}|stages|on a device|lane"):
        Plan.load(path)
    assert time.thread_time() - began < 1


def test_a_deep_or_large_file_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({**PLAN.to_dict(), "device": {"more": json.loads("[" * 40 + "]" * 40)}}))
    with pytest.raises(StoreError, match="more than 32 levels"):
        Plan.load(path)
    path.write_text(json.dumps({**PLAN.to_dict(), "more": "x" * 5_000_000}))
    with pytest.raises(StoreError, match="at most 4,000,000 bytes"):
        Plan.load(path)


def test_what_a_file_says_beyond_what_we_know_is_no_hindrance(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({**PLAN.to_dict(), "later": {"a": 1}, "device": {**PLAN.device, "later": [1]}}))
    assert Plan.load(path).device["later"] == [1]


def test_backends_are_kept_in_plans_and_plans_without_them_still_load() -> None:
    plan = sequential_plan(("a", "b"), 4).with_backends({"b": "cuda-graph"})
    assert plan.lanes[0].backends == ("eager", "cuda-graph")
    assert Plan.from_dict(plan.to_dict()) == plan
    assert "b (cuda-graph)" in plan.describe()
    assert "b (cuda-graph)" in str(plan)
    plain = sequential_plan(("a", "b"), 4)
    assert "backends" not in plain.to_dict()["lanes"][0]
    assert Plan.from_dict(plain.to_dict()) == plain
    damaged = plan.to_dict()
    damaged["lanes"][0]["backends"] = ["eager", "magic"]
    with pytest.raises(StoreError, match="one of eager, channels_last"):
        Plan.from_dict(damaged)
    with pytest.raises(UsageError, match="batched call"):
        Lane(units=1, members=("a",), mode="vmap", backends=("inductor",))


def test_plans_that_name_backends_as_before_are_read_with_todays_names() -> None:
    saved = sequential_plan(("a", "b"), 4).with_backends({"a": "inductor", "b": "cuda-graph"}).to_dict()
    saved["lanes"][0]["backends"] = ["compile", "graph"]
    assert Plan.from_dict(saved).lanes[0].backends == ("inductor", "cuda-graph")
