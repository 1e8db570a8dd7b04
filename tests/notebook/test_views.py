from __future__ import annotations

import importlib
from dataclasses import replace
from types import SimpleNamespace

import pytest
from fake_lab import IDENTITY, a_comparison, a_plan, a_report, failed_point, point, progress

from esen_lab.fitting.model import CostModel
from esen_lab.notebook import views
from esen_lab.notebook.views import Details, Progress, Segment, Table, Timeline
from esen_lab.profiling.progress import JobState
from esen_lab.profiling.records import Profile
from esen_lab.search import allocate


@pytest.mark.parametrize("name", views.RECORDS)
def test_every_shown_record_is_a_class_of_that_name(name: str) -> None:
    home, _, kind = name.rpartition(".")
    found = getattr(importlib.import_module(home), kind)
    assert (found.__module__, found.__qualname__) == (home, kind)


def test_a_plan_shows_its_lanes_with_share_and_prediction() -> None:
    lanes = views.plan(a_plan()).blocks[0]
    assert isinstance(lanes, Table)
    assert lanes.rows == (
        ("1", "3 cores (75 %)", "wide → deep (on 2)", "3.00 ms"),
        ("2", "1 core (25 %)", "slim", "4.50 ms"),
    )


def test_a_plan_without_prediction_shows_none() -> None:
    view = views.plan(a_plan(jct_s=None, bound_s=None, predicted_s={}))
    lanes, _, known = view.blocks
    assert isinstance(lanes, Table)
    assert isinstance(known, Table)
    assert [row[3] for row in lanes.rows] == ["-", "-"]
    assert "predicted JCT" not in dict(known.rows)


def test_an_oversubscribed_plan_says_so() -> None:
    assert any("compete" in note for note in views.plan(a_plan(units=3)).notes)


def test_points_are_a_matrix_of_sub_models_and_shares() -> None:
    table = views.points(
        [point("a", 1, 0.004), point("a", 4, 0.001), point("b", 4, 0.002, settled=False)], [failed_point("b", 1)]
    )
    assert table.columns == ("median at", "1", "4")
    assert table.rows == (("a", "4.00 ms", "1.00 ms"), ("b", "failed", "2.00 ms ?"))


def test_a_failed_point_names_itself_and_keeps_its_traceback() -> None:
    assert views.failure(failed_point()) == Details(
        summary="deep at 2: the sub-model raised", text="Traceback: <boom> & more"
    )


def test_a_running_job_says_how_far_it_is_and_what_is_next() -> None:
    view = views.progress(progress(done=2, reused=1, failed=1, failures=(failed_point(),)))
    assert view.blocks[0] == Progress(
        done=2, total=4, words="2 of 4 points, 1 reused, 1 failed, about 3 s left, now wide at 2 of 4 units"
    )
    assert "1 point failed; all others are kept." in view.notes


def test_a_finished_job_names_the_next_step() -> None:
    assert "Next: `%esen search` proposes a plan." in views.progress(progress(JobState.FINISHED)).notes


def test_a_failed_job_says_why() -> None:
    assert (
        views.progress(progress(JobState.FAILED, message="No worker\ncould start.")).notes[0]
        == "No worker could start."
    )


def test_reused_points_are_told_apart() -> None:
    profile = Profile(device=IDENTITY, units=4, points=(point(reused=True), point(units=2)))
    assert any(note.startswith("1 point of 2 reused") for note in views.profile(profile).notes)


def test_a_profile_without_points_is_shown() -> None:
    assert views.profile(Profile(device={}, units=1, points=())).notes == ("It has no points.",)


def test_a_run_is_lanes_by_time() -> None:
    timeline = views.report(a_report()).blocks[0]
    assert isinstance(timeline, Timeline)
    assert timeline.total_s == 0.005
    assert timeline.lanes[1] == ("lane 2 (1)", (Segment(name="slim", start_s=0.0005, end_s=0.004),))


def test_nan_in_a_run_is_said_once() -> None:
    assert views.report(a_report(nan=("deep",))).notes == ("NaN in the output of deep.",)
    told = a_report(nan=("deep",), notes=("The output of deep holds NaN",))
    assert views.report(told).notes == ("The output of deep holds NaN",)


def test_a_comparison_shows_ratios_failures_and_the_verdict() -> None:
    view = views.comparison(a_comparison())
    table = view.blocks[0]
    assert isinstance(table, Table)
    assert table.columns[4:6] == ("/ sequential", "/ bound")
    assert table.rows[1][-1] == "failed: two kinds"
    assert table.rows[2][2:] == ("5.00 ms", "100 µs", "0.50×", "1.25×", "bit-equal")
    assert view.notes == ("The plan is 50.0 % faster.",)


def test_cost_models_show_powers_of_two_and_the_whole_device() -> None:
    model = CostModel(
        name="a",
        latency_s=(0.006, 0.003, 0.002, 0.002, 0.001),
        active_units=(1, 2, 3, 3, 5),
        method="interpolated",
        error=None,
        points=((1, 0.006),),
        notes=("few points",),
    )
    view = views.cost_model(model)
    table = view.blocks[0]
    assert isinstance(table, Table)
    assert table.columns == ("predicted at", "1", "2", "4", "5", "method", "error")
    assert table.rows == (("a", "6.00 ms", "3.00 ms", "2.00 ms", "1.00 ms", "interpolated", "-"),)
    assert view.notes[0] == "a: few points"


def test_a_real_allocation_is_shown() -> None:
    view = views.allocation(allocate({"a": [0.004, 0.002], "b": [0.003, 0.002]}, units=2))
    lanes = view.blocks[0]
    assert isinstance(lanes, Table)
    assert {cell for row in lanes.rows for cell in row[2].split(" → ")} == {"a", "b"}


def test_an_empty_ensemble_says_how_to_begin() -> None:
    empty = SimpleNamespace(submodels=())
    assert views.ensemble(empty).notes == ("`%esen register NAME` adds the module of that name.",)


def test_a_simulated_device_is_labelled() -> None:
    assert views.device_text(IDENTITY) == "cpu: Fake, 4 cores (simulated)"
    assert views.device_text({}) == ""


def test_a_lane_that_is_not_serial_has_no_summed_prediction() -> None:
    lane = replace(a_plan().lanes[0], mode="threads", active_units=(3, 3))
    table = views.plan(a_plan(lanes=(lane, a_plan().lanes[1]))).blocks[0]
    assert isinstance(table, Table)
    assert table.rows[0][2:] == ("wide | deep (threads)", "-")
