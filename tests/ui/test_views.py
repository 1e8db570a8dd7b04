from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fake_lab import (
    IDENTITY,
    FakeLab,
    a_comparison,
    a_plan,
    a_report,
    a_verdict,
    failed_point,
    point,
    progress,
    some_backends,
    some_precision,
)

from esen_lab.common import surroundings
from esen_lab.cost_model import fit_points
from esen_lab.cost_model.model import CostModel
from esen_lab.planner import allocate, search
from esen_lab.planner.editor import PlanEditor
from esen_lab.planner.editor.editor_state import Measurement
from esen_lab.planner.plan import Lane, Plan
from esen_lab.profiler.progress import JobState
from esen_lab.profiler.records import Profile
from esen_lab.run import Answered, Missing, Span
from esen_lab.studies import device_tables, placed, plan_of_cascade, plan_of_placement
from esen_lab.studies.cascade import Cascade, Stage
from esen_lab.studies.front import Choice, ParetoFront
from esen_lab.ui import views
from esen_lab.ui.html import to_text
from esen_lab.ui.pictures import draw
from esen_lab.ui.pictures.charts import timeline as draw_timeline
from esen_lab.ui.pictures.rows import Segment, Shares, Timeline
from esen_lab.ui.views import Details, Progress, Table


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


def test_a_run_without_some_members_says_whose_answer_it_is_and_lists_the_others() -> None:
    answered = Answered(
        names=("wide", "slim"),
        missing=(Missing(name="deep", why="late"), Missing(name="odd", why="failed", told="<b>no</b>")),
        ended="deadline",
        at_s=0.004,
        deadline_s=0.005,
    )
    view = views.report(a_report(answered=answered))
    assert view.title.endswith("2 of 4 members")
    assert view.notes[0] == "LEFT OUT, since they failed: odd (<b>no</b>)."
    assert "Missing: deep (late)" in view.notes[1]
    timeline, table = view.blocks[:2]
    assert isinstance(timeline, Timeline)
    assert isinstance(table, Table)
    assert [(row[0], row[4]) for row in table.rows[-2:]] == [("deep", "late"), ("odd", "failed")]


def test_a_lane_that_was_late_is_drawn_hollow_until_nobody_waited_any_more() -> None:
    spans = (
        Span(name="wide", lane=0, start_s=0.0005, end_s=0.002),
        Span(name="slim", lane=1, start_s=0.0005, end_s=0.004),
    )
    answered = Answered(names=("wide", "slim"), missing=(Missing(name="deep", why="late"),), ended="deadline")
    timeline = views.report(a_report(spans=spans, answered=answered)).blocks[0]
    assert isinstance(timeline, Timeline)
    late = Segment(name="deep (late)", start_s=0.002, end_s=0.0045, guessed=True)
    assert timeline.lanes[0][1][1:] == (late,)
    drawn = str(draw_timeline(timeline))
    assert "deep (late)" in drawn
    assert "hollow: not done" in drawn


def test_nan_in_a_run_is_said_once() -> None:
    assert views.report(a_report(nan=("deep",))).notes == ("NaN in the output of deep.",)
    told = a_report(nan=("deep",), notes=("The output of deep holds NaN",))
    assert views.report(told).notes == ("The output of deep holds NaN",)


def test_a_comparison_shows_ratios_failures_and_the_verdict() -> None:
    view = views.comparison(a_comparison())
    table = view.blocks[0]
    assert isinstance(table, Table)
    assert table.columns[3:5] == ("/ sequential", "/ bound")
    assert table.rows[1][-2] == "failed"
    assert table.rows[2][1:-1] == ("5.00 ms", "100 µs", "0.50×", "1.25×", "bit-equal")
    assert table.columns[-1] == "lanes", "what is least looked at is what a narrow page leaves to scrolling"
    assert view.notes == ("The plan is 50.0 % faster.", "vmap: two kinds.")


def test_cost_models_show_powers_of_two_and_the_whole_device() -> None:
    model = CostModel(
        name="a",
        latency_s=(0.006, 0.003, 0.002, 0.002, 0.001),
        active_units=(1, 2, 3, 4, 5),
        method="interpolated",
        error=None,
        points=((1, 0.006), (2, 0.003), (4, 0.002), (5, 0.001)),
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


def test_a_remark_that_many_sub_models_share_is_made_once_with_the_first_of_them() -> None:
    members = [
        SimpleNamespace(
            name=name,
            class_name="Net",
            parameters=1,
            memory_bytes=4,
            recipe=SimpleNamespace(describe=str),
            example=torch.zeros(1),
            notes=("was in training mode",),
        )
        for name in "abcdef"
    ]
    combined = SimpleNamespace(submodels=members, combine=SimpleNamespace(describe=lambda: "mean"))
    assert views.ensemble(combined).notes == ("a, b, c, d and 2 more: was in training mode",)


def test_a_plan_of_many_long_names_is_called_by_how_many_they_are() -> None:
    names = tuple(f"a_network_for_streets_at_night_{number}" for number in range(9))
    many = Plan(lanes=(Lane(units=1, members=names[:4]), Lane(units=2, members=names[4:])), units=3)
    assert views.plan(many).title == "Plan: 2 lanes for 9 sub-models"


def test_an_empty_ensemble_says_how_to_begin() -> None:
    empty = SimpleNamespace(submodels=())
    assert views.ensemble(empty).notes == ("`%esen register NAME --example EXPR` adds a module.",)


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
        ("wide", "1", "3 cores (75 %)", "cores 0-2", "eager", "2 of 2 runs", "0", "0.005 (float32)"),
        ("slim", "2", "1 core (25 %)", "core 3", "eager", "2 of 2 runs", "3.0e-07", "0.005 (float32)"),
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
    view = views.numerics(a_verdict(0.5, backend="inductor"))
    assert "Have slim executed eagerly again with %esen backends --only eager" in told(view)
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


def test_backends_show_each_way_the_one_taken_and_why() -> None:
    view = views.backends(some_backends())
    table = view.blocks[0]
    assert isinstance(table, Table)
    assert table.columns == ("sub-model", "share", "eager", "inductor", "taken", "because")
    assert table.rows == (
        (
            *("wide", "3 cores (75 %)", "4.00 ms ± 100 µs", "3.00 ms ± 100 µs"),
            *("inductor", "takes 25.0 % less time than eager"),
        ),
        ("slim", "1 core (25 %)", "2.00 ms ± 100 µs", "-", "eager", "no other way could be taken"),
    )
    assert view.title == "Backends: 1 of 2 sub-models faster than eager"
    assert view.notes[:2] == ("No cuda-graph: CUDA graphs need a GPU.", "No inductor for slim: it raised.")
    assert "`%esen numerics` checks the answers" in view.notes[2]


def test_a_precision_shows_what_stays_and_what_is_not_taken_and_why() -> None:
    view = views.precision(some_precision())
    assert view.title == "Precision: bf16 for 1 of 2 sub-models"
    table = view.blocks[0]
    assert isinstance(table, Table)
    stays = ("top-1 as before", "of the ensemble", "accuracy before", "after")
    assert table.columns == ("sub-model", "backend", "furthest off", *stays, "taken")
    assert table.rows[0] == ("wide", "openvino@bf16", "2.0e-03", "100.0 %", "100.0 %", "95.00 %", "96.00 %", "may be")
    assert table.rows[1][-1] == "no: it is far off"
    said = told(view)
    assert "99.99 % of 400 samples in the worst of 2 combinations of what may be taken (99.90 % is asked for)" in said
    assert "97.00 % before, 97.50 % after" in said
    assert "In their own precision: deep." in said
    assert "Next: %esen backends" in said
    assert str(some_precision()).splitlines()[1].startswith("wide")
    assert some_precision().to_dict()["allowed"] == {"wide": ["openvino@bf16"], "deep": []}


def test_without_another_precision_it_is_fp32() -> None:
    assert views.precision(None).title == "Precision: fp32"
    view = views.precision(replace(some_precision(), points=some_precision().points[1:]))
    assert "All of them stay in their own precision." in told(view)


def test_backends_without_a_gain_say_that_all_stays_eager() -> None:
    slim = tuple(point for point in some_backends().points if point.name == "slim")
    view = views.backends(replace(some_backends(), points=slim))
    assert view.title == "Backends: every sub-model runs eagerly"
    assert view.notes[-1] == "The plan runs them all eagerly."


def test_a_plan_of_batched_calls_has_no_backends_to_choose() -> None:
    assert "always eager" in views.backends(replace(some_backends(), points=())).notes[0]


def test_a_plan_says_who_is_not_executed_eagerly() -> None:
    view = views.plan(a_plan().with_backends({"deep": "inductor", "slim": "cuda-graph"}))
    lanes = view.blocks[0]
    assert isinstance(lanes, Table)
    assert [row[2] for row in lanes.rows] == ["wide → deep (inductor, on 2)", "slim (cuda-graph)"]
    assert not any("eagerly" in note for note in view.notes), "it is predicted as it is executed"


# --- predictions that rest on no measurement nearby -------------------------------------------------------------------

MARKS = {"wide": "extrapolated"}


def shown(view: views.View) -> str:
    return to_text(view)


def test_a_plan_marks_what_is_extrapolated_in_its_title_lanes_and_prediction() -> None:
    view = views.plan(a_plan(unmeasured=MARKS))
    assert "wide (extrapolated)" in view.title
    lanes = view.blocks[0]
    assert isinstance(lanes, Table)
    assert lanes.rows[0][2:] == ("wide (extrapolated) → deep (on 2)", "3.00 ms (extrapolated: wide)")
    assert lanes.rows[1][3] == "4.50 ms"
    assert "4.50 ms (extrapolated: wide)" in shown(view)


def test_a_report_marks_what_is_extrapolated() -> None:
    spans = (Span(name="wide", lane=0, start_s=0.0, end_s=0.004, predicted_s=0.002, unmeasured="extrapolated"),)
    view = views.report(a_report(spans=spans, predicted_s=0.0045, unmeasured=MARKS))
    assert "2.00 ms (extrapolated)" in shown(view)
    assert "4.50 ms (extrapolated: wide)" in shown(view)


def test_searches_fronts_placements_and_cascades_mark_what_is_extrapolated() -> None:
    models = {name: fit_points(name, {2: 0.02, 4: 0.0199}, 4) for name in ("a", "b", "c", "d")}
    found = search(models, 4)
    assert set(found.plan.unmeasured.values()) == {"extrapolated"}
    assert "(extrapolated: " in shown(views.allocation(found))
    front = ParetoFront(choices=(Choice(names=("a",), accuracy=0.5, allocation=found),), exact=True, evaluations=1)
    assert "(extrapolated: " in shown(views.front(front))
    assert "puts point 2 in force" not in shown(views.front(front)), "there is only one"
    placed_there = placed(device_tables(2, models, 4, "median"))
    marks = {name for _, own in placed_there.devices if own is not None for name in own.plan.unmeasured}
    assert ("(extrapolated: " in shown(views.placement(placed_there))) == bool(marks)
    plan = plan_of_placement(placed_there)
    assert set(plan.unmeasured) == marks
    stage = Stage(names=("a",), reach=1.0, allocation=found)
    steps = Cascade(stages=(stage,), expected_s=0.01, at_once_s=0.01, gain=0.0, notes=())
    assert shown(views.stages(steps)).count("(extrapolated: ") == 2
    assert set(plan_of_cascade(steps).unmeasured) == set(found.plan.unmeasured)


def test_cost_models_mark_shares_that_no_measurement_is_near() -> None:
    text = shown(views.cost_model(fit_points("a", {2: 0.02, 4: 0.01}, 4)))
    assert text.count("(extrapolated)") == 1


def test_points_of_a_busy_machine_are_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("esen_lab.profiler.records.LOADED", 0.1)
    busy = point("a", 1, 0.004, readings={"load": 0.48})
    view = views.profile(Profile(device=IDENTITY, units=4, points=(busy, point("a", 4, 0.001))))
    assert "4.00 ms !" in shown(view)
    assert any("48.0 %" in note for note in view.notes)
    assert any(note.startswith("! marks") for note in view.notes)


def test_a_spread_larger_than_its_median_is_called_unsteady() -> None:
    wild = point("a", 1, 0.004, spread_s=0.61)
    text = shown(views.profile(Profile(device=IDENTITY, units=4, points=(wild,))))
    assert "unsteady" in text
    assert "15250" not in text


def test_a_tuned_lane_marks_what_is_extrapolated_and_says_when_it_was_measured_far_off() -> None:
    editor = PlanEditor({"a": fit_points("a", {2: 0.02, 4: 0.01}, 4), "b": fit_points("b", {2: 0.02, 4: 0.01}, 4)}, 4)
    editor.oversubscribe()
    state = editor.split("a")
    state = editor.share({"a": 1})
    assert "(extrapolated" in state.describe()
    assert state.describe() == editor.plan().describe()
    assert state.to_dict()["lanes"] != []
    measured = Measurement(
        median_s=0.737, spread_s=1.0, repeats=15, predicted_s=0.00737, lanes=state.describe(), far=("Far off.",)
    )
    told = shown(views.editor(replace(state, measured=measured)))
    assert "100 times slower" in told
    assert "unsteady" in told
    assert "Far off." in told
    assert "(extrapolated: a)" in told
    assert "nothing predicted" in views.measured_text(replace(measured, predicted_s=0.0), "")


def test_elsewhere_the_next_step_is_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surroundings, "magics_here", lambda: False)
    assert "Next: `lab.search()` proposes a plan." in views.progress(progress(JobState.FINISHED)).notes
    assert views.status(FakeLab().status()).notes[-1] == "Next: Measure the sub-models: lab.profile()"
    for view in (views.comparison(a_comparison()), views.plan(a_plan()), views.report(a_report())):
        assert "%esen" not in to_text(view)


@pytest.mark.parametrize(
    ("draw", "command"),
    [
        (views.exported, "`python '/my plans/p.py' --input"),
        (views.repository, "`'/my plans/start.sh'` starts"),
        (views.application, "`cd '/my plans' && serve run serve.yaml`"),
    ],
)
def test_a_command_that_is_shown_can_be_copied_whatever_the_files_are_called(
    draw: Callable[[Any], views.View], command: str
) -> None:
    record = SimpleNamespace(
        script=Path("/my plans/p.py"), folder=Path("/my plans"), name="p", models=(), units=1, files=(), notes=()
    )
    assert command in draw(record).notes[0]


def test_a_plan_over_nodes_says_where_each_lane_is_and_its_share_of_that_node() -> None:
    lanes = (Lane(units=4, members=("wide",), device="small"), Lane(units=16, members=("deep",), device="large"))
    plan = a_plan(lanes=lanes, units=64, devices={"small": 4, "large": 64}, predicted_s={"wide": 0.001, "deep": 0.002})
    told = shown(views.plan(plan))
    assert "small   4 cores (100 %)" in told
    assert "large   16 cores (25 %)" in told
    (picture,) = (block for block in views.plan(plan).blocks if isinstance(block, Shares))
    words = draw(picture)
    assert ">small: 4 of 4<" in words
    assert ">large: 16 of 64<" in words
    assert " free<" not in words
    assert "4 of 4" in str(plan)


def test_a_plan_in_stages_says_which_lane_is_in_which_and_draws_them_one_after_another() -> None:
    lanes = (Lane(units=4, members=("wide",)), Lane(units=2, members=("deep",), stage=1))
    predicted = {"wide": 0.001, "deep": 0.002}
    plan = a_plan(lanes=lanes, reach=(1.0, 0.5), threshold=0.9, predicted_s=predicted, jct_s=0.002, bound_s=0.0015)
    (table,) = (block for block in views.plan(plan).blocks if isinstance(block, Table) and block.columns)
    assert table.columns[:2] == ("lane", "stage")
    assert [row[:2] for row in table.rows] == [("1", "1"), ("2", "2")]
    (picture,) = (block for block in views.plan(plan).blocks if isinstance(block, Shares))
    assert [lane.after_s for lane in picture.lanes] == [0.0, 0.001]
    assert picture.bound_s is None
    assert "stages: as if no input left" in draw(picture)
