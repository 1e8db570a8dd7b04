from __future__ import annotations

import importlib
from dataclasses import replace
from types import SimpleNamespace

import pytest
from fake_lab import IDENTITY, a_comparison, a_plan, a_report, a_verdict, failed_point, point, progress, some_mechanisms

from esen_lab.fitting.model import CostModel
from esen_lab.notebook import views
from esen_lab.notebook.html import to_text
from esen_lab.notebook.pictures.rows import Segment, Timeline
from esen_lab.notebook.views import Details, Progress, Table
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


def told(view: views.View) -> str:
    return " ".join(to_text(view).split())


def test_a_gate_that_passed_shows_every_share_and_for_what_it_holds() -> None:
    view = views.numerics(a_verdict())
    table = view.blocks[0]
    assert isinstance(table, Table)
    assert table.rows == (
        ("wide", "1", "3 cores (75 %)", "cores 0-2", "eager", "2 of 2 runs", "0", "5e-03 (float32)"),
        ("slim", "2", "1 core (25 %)", "core 3", "eager", "2 of 2 runs", "3.0e-07", "5e-03 (float32)"),
    )
    assert view.title == "Numerics: passed (on float32[8, 4])"
    assert "furthest off is slim: 3.0e-07 of the largest value" in view.notes[0]
    assert view.notes[1:] == ("a remark", "This holds for this batch and these shares: check again after a new plan.")


def test_wrong_answers_are_said_loudly_with_where_and_what_to_do() -> None:
    view = views.numerics(a_verdict(0.5))
    assert view.title.startswith("Numerics: WRONG ANSWERS")
    assert "1 of 2 runs, WRONG" in told(view)
    assert "slim with 1 core, 1 of 2 runs" in told(view)
    assert view.notes[-1] == "Look for other shares with `%esen search --min slim=2`, then check again."


def test_a_wrong_answer_of_a_compiled_sub_model_is_tried_eagerly_before_its_share_is_blamed() -> None:
    view = views.numerics(a_verdict(0.5, mechanism="compile"))
    assert "Have slim executed eagerly again with %esen mechanisms --only eager" in told(view)
    assert "--min" not in told(view)


def test_a_wrong_answer_with_the_whole_device_leads_to_a_plan_that_shares_nothing() -> None:
    verdict = a_verdict(0.5)
    view = views.numerics(replace(verdict, rows=(verdict.rows[0], replace(verdict.rows[1], units=4))))
    assert "%esen search --lanes 1" in told(view)
    assert "--min" not in told(view)


def test_a_sub_model_that_never_answers_the_same_is_not_blamed_on_its_share() -> None:
    view = views.numerics(a_verdict(0.5, repeats=False))
    assert view.title == "Numerics: not judged for all (on float32[8, 4])"
    assert "changes each time" in told(view)
    assert "random numbers" in view.notes[-1]
    assert "WRONG" not in told(view)


def test_mechanisms_show_each_way_the_one_taken_and_why() -> None:
    view = views.mechanisms(some_mechanisms())
    table = view.blocks[0]
    assert isinstance(table, Table)
    assert table.columns == ("sub-model", "share", "eager", "compile", "graph", "taken", "because")
    assert table.rows == (
        (
            *("wide", "3 cores (75 %)", "4.00 ms ± 100 µs", "3.00 ms ± 100 µs", "-"),
            *("compile", "takes 25.0 % less time than eager"),
        ),
        ("slim", "1 core (25 %)", "2.00 ms ± 100 µs", "-", "-", "eager", "no other way could be taken"),
    )
    assert view.title == "Mechanisms: 1 of 2 sub-models faster than eager"
    assert view.notes[:2] == ("No graph: CUDA graphs need a GPU.", "No compile for slim: it raised.")
    assert "`%esen numerics` checks the answers" in view.notes[2]


def test_mechanisms_without_a_gain_say_that_all_stays_eager() -> None:
    slim = tuple(point for point in some_mechanisms().points if point.name == "slim")
    view = views.mechanisms(replace(some_mechanisms(), points=slim))
    assert view.title == "Mechanisms: every sub-model runs eagerly"
    assert view.notes[-1] == "The plan runs them all eagerly."


def test_a_plan_of_batched_calls_has_no_mechanisms_to_choose() -> None:
    assert "always eager" in views.mechanisms(replace(some_mechanisms(), points=())).notes[0]


def test_a_plan_says_who_is_not_executed_eagerly_and_that_it_is_predicted_as_if() -> None:
    view = views.plan(a_plan().with_mechanisms({"deep": "compile", "slim": "graph"}))
    lanes = view.blocks[0]
    assert isinstance(lanes, Table)
    assert [row[2] for row in lanes.rows] == ["wide → deep (compile, on 2)", "slim (graph)"]
    assert any(note.startswith("Predicted as if every sub-model ran eagerly") for note in view.notes)
    assert not any("eagerly" in note for note in views.plan(a_plan()).notes)
