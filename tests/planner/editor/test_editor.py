from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from editor_bench import UNITS, FakeBench, models

from esen_lab.cost_model import fit_points
from esen_lab.errors import StoreError, UsageError, WorkerDied
from esen_lab.planner import allocate
from esen_lab.planner.editor import EditorState, LastRun, PlanEditor
from esen_lab.planner.plan import Lane, Plan

TWO = Plan(lanes=(Lane(units=4, members=("a",)), Lane(units=4, members=("b", "c"))), units=UNITS)


def lanes(state: EditorState) -> list[tuple[int, str]]:
    return [(lane.units, "".join(lane.members)) for lane in state.lanes]


# --- moves and predictions --------------------------------------------------------------------------------------


def test_it_begins_with_the_plan_in_force_or_one_lane(bench: FakeBench) -> None:
    assert lanes(PlanEditor(models(a=1, b=1, c=1), UNITS, bench=bench).state) == [(8, "abc")]
    bench.plan = TWO
    state = PlanEditor(models(a=1, b=1, c=1), UNITS, start=TWO, bench=bench).state
    assert lanes(state) == [(4, "a"), (4, "bc")]
    assert state.in_force


def test_every_move_predicts_jct_bound_gap_and_the_limiting_lane(editor: PlanEditor) -> None:
    state = editor.split("b", "c")
    assert lanes(state) == [(4, "a"), (4, "bc")]
    assert state.jct_s == pytest.approx(0.02)
    assert state.limiting == 0
    assert state.bound_s == pytest.approx(0.02)
    assert state.gap == pytest.approx(0)
    state = editor.share({"a": 2})
    assert state.jct_s == pytest.approx(0.04)
    assert state.gap == pytest.approx(1)


def test_the_prediction_is_that_of_the_search(editor: PlanEditor) -> None:
    plan = editor.plan()
    editor.propose().result(timeout=60)
    found = allocate({name: model.latency_s for name, model in editor.models.items()}, UNITS)
    assert editor.state.jct_s == pytest.approx(found.jct_s)
    assert plan.jct_s is not None
    assert editor.plan().jct_s == pytest.approx(found.jct_s)


def test_what_a_search_elsewhere_proved_of_the_same_models_is_the_bound_here_too(bench: FakeBench) -> None:
    editor = PlanEditor(models(a=1, b=1, c=1), UNITS, bench=bench)
    before = editor.state.bound_s
    proven = (before + editor.state.jct_s) / 2
    seen: list[EditorState] = []
    editor.listen(seen.append)
    editor.proved(models(a=2, b=1, c=1), proven)
    assert editor.state.bound_s == before, "it planned with other models"
    editor.proved(models(a=1, b=1, c=1), proven)
    assert editor.state.bound_s == proven
    assert seen, "panels are told"
    editor.proved(models(a=1, b=1, c=1), before)
    assert editor.state.bound_s == proven, "a bound never gets worse"
    editor.renew(models(a=2, b=1, c=1))
    assert editor.state.bound_s != proven


def test_a_share_with_wrong_answers_is_said_at_once_and_not_proposed() -> None:
    known = {name: replace(model, avoid=(4,)) for name, model in models(a=1, b=1).items()}
    editor = PlanEditor(known, UNITS)
    state = editor.split("b")
    assert state.failed
    assert state.message.startswith("WRONG ANSWERS were found for a with 4 units, b with 4 units")
    assert "WRONG" not in editor.share({"a": 3, "b": 5}).message
    editor.propose().result(timeout=60)
    assert all(lane.units != 4 for lane in editor.state.lanes)
    assert not editor.state.failed
    assert editor.share({"a": 4, "b": 4}).gap >= 0


def test_undo_and_redo_walk_through_the_moves(editor: PlanEditor) -> None:
    first, second, third = editor.state, editor.split("a"), editor.share({"a": 2})
    assert lanes(editor.undo()) == lanes(second)
    assert lanes(editor.undo()) == lanes(first)
    assert not editor.state.can_undo
    editor.redo()
    assert lanes(editor.redo()) == lanes(third)
    assert not editor.state.can_redo
    with pytest.raises(UsageError, match="nothing to redo"):
        editor.redo()


def test_a_move_after_an_undo_forgets_what_was_undone(editor: PlanEditor) -> None:
    editor.split("a")
    editor.undo()
    assert not editor.split("b").can_redo


def test_a_dragged_slider_is_one_step_and_changes_nothing_when_dragged_back(editor: PlanEditor) -> None:
    before = editor.split("b", "c")
    for units in (5, 6, 7, 6, 5, 4):
        state = editor.share({"a": units}, gesture="slider 1")
    assert lanes(state) == lanes(before)
    editor.share({"a": 6}, gesture="slider 1")
    editor.share({"a": 7}, gesture="slider 1")
    assert lanes(editor.undo()) == lanes(before)


def test_a_refused_move_changes_nothing(editor: PlanEditor) -> None:
    before = editor.state
    with pytest.raises(UsageError):
        editor.share({"a": 9})
    assert editor.state == before


def test_one_lane_may_stand_for_a_list_and_numbers_may_be_numpys(editor: PlanEditor) -> None:
    editor.split("b", "c")
    state = editor.share({"a": np.int64(2)}, pin="a")
    assert lanes(state)[0] == (2, "a")
    assert type(state.lanes[0].units) is int
    assert [lane.pinned for lane in state.lanes] == [True, False]
    assert [lane.pinned for lane in editor.share(pin=2, unpin=["a"]).lanes] == [False, True]
    assert [lane.pinned for lane in editor.share(pin="a,c").lanes] == [True, True]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: e.share(5), r"Shares are given by lane, such as \{'wide': 2\}. Given: 5"),
        (lambda e: e.share("a"), "Shares are given by lane"),
        (lambda e: e.share(pin=2.5), "Lanes are named by a sub-model in each"),
        (lambda e: e.share(pin="ab"), "named by a sub-model in it"),
        (lambda e: e.share(pin=["a"], unpin=["b"]), "A lane is pinned or freed. Given: both for the lane of a"),
        (lambda e: e.oversubscribe("off"), "True or False. Given: 'off'"),
    ],
)
def test_what_names_no_lanes_or_shares_is_refused_by_its_rule(
    editor: PlanEditor, change: Callable[[PlanEditor], object], message: str
) -> None:
    before = editor.state
    with pytest.raises(UsageError, match=message):
        change(editor)
    assert editor.state == before


def test_reset_goes_back_to_the_plan_in_force_and_can_be_undone(bench: FakeBench) -> None:
    editor = PlanEditor(models(a=1, b=1, c=1), UNITS, start=TWO, bench=bench)
    moved = editor.merge("a", "b")
    assert lanes(editor.reset()) == [(4, "a"), (4, "bc")]
    assert lanes(editor.undo()) == lanes(moved)


def test_oversubscription_is_shown_and_bounded_for_what_is_used(editor: PlanEditor) -> None:
    editor.oversubscribe()
    state = editor.split("a")
    assert state.total_units == 16
    assert state.oversubscribe
    assert state.bound_s <= state.jct_s


@pytest.mark.timing
def test_a_move_is_predicted_in_well_under_fifty_milliseconds() -> None:
    many = {f"m{i}": 0.01 * (i + 1) for i in range(16)}
    editor = PlanEditor(models(132, **many), 132)
    editor.listen(lambda state: None)
    for name in list(many)[1:]:
        editor.split(name)
    moves = (*range(1, 117), *range(116, 0, -1))
    took_s: list[list[float]] = [[] for _ in moves]
    for _ in range(3):  # the best of some: other work on the machine is not what is asked about
        for units, taken in zip(moves, took_s, strict=True):
            begun = time.perf_counter()
            editor.share({"m15": units})
            taken.append(time.perf_counter() - begun)
    assert max(map(min, took_s)) < 0.05


# --- listeners --------------------------------------------------------------------------------------------------


def test_two_views_see_the_same_states_until_they_stop(editor: PlanEditor) -> None:
    one: list[EditorState] = []
    two: list[EditorState] = []
    stop = editor.listen(one.append)
    editor.listen(two.append)
    editor.split("a")
    stop()
    stop()
    editor.undo()
    assert one == two[:1]
    assert [state.revision for state in two] == [1, 2]


def test_a_view_that_raises_is_dropped_and_named(editor: PlanEditor) -> None:
    def broken(state: EditorState) -> None:
        raise ValueError("the page is gone")

    editor.listen(broken)
    editor.split("a")
    assert editor.state.message == "A view of this plan editor stopped: ValueError: the page is gone"
    assert editor.split("b").message == ""


def test_moves_from_many_threads_are_all_made(editor: PlanEditor) -> None:
    editor.split("a")

    def drag() -> None:
        for units in (1, 2, 3, 4) * 20:
            editor.share({"a": units})

    threads = [threading.Thread(target=drag) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert editor.state.revision == 1 + 4 * 80
    assert lanes(editor.state)[1] == (4, "a")


# --- propose ----------------------------------------------------------------------------------------------------


def test_a_proposal_respects_pins_and_can_be_undone(editor: PlanEditor) -> None:
    editor.split("c")
    before = editor.share({"c": 3}, pin=["c"])
    editor.propose().result(timeout=60)
    state = editor.state
    held = next(lane for lane in state.lanes if "c" in lane.members)
    assert held.units == 3
    assert held.pinned
    assert "Proposed by exact" in state.message
    assert state.jct_s <= before.jct_s
    assert lanes(editor.undo()) == lanes(before)


class Held:
    """A searcher's table entry that waits for the test; the moves of the test happen meanwhile."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from esen_lab.planner.editor import editor as module

        self.go, self.entered = threading.Event(), threading.Event()
        real = module.search

        def search(*given: object, **options: object) -> object:
            self.entered.set()
            assert self.go.wait(60)
            return real(*given, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(module, "search", search)


def test_moves_made_while_a_search_runs_win(editor: PlanEditor, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held(monkeypatch)
    job = editor.propose()
    assert held.entered.wait(60)
    assert editor.state.searching is not None
    with pytest.raises(UsageError, match="One search"):
        editor.propose()
    moved = editor.split("c")
    held.go.set()
    job.result(timeout=60)
    assert lanes(editor.state) == lanes(moved)
    assert "moves meanwhile" in editor.state.message
    assert editor.state.searching is None


def test_a_cancelled_search_changes_nothing(editor: PlanEditor, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held(monkeypatch)
    job = editor.propose()
    assert held.entered.wait(60)
    editor.cancel()
    held.go.set()
    job._thread.join(60)
    assert lanes(editor.state) == [(8, "abc")]
    assert "cancelled" in editor.state.message


def test_pins_that_leave_no_plan_are_told(editor: PlanEditor) -> None:
    job = editor.propose(searcher="nonsense")
    with pytest.raises(UsageError):
        job.result(timeout=60)
    assert editor.state.failed
    assert "The search failed" in editor.state.message


# --- apply and measure ------------------------------------------------------------------------------------------


def test_apply_puts_the_draft_in_force(editor: PlanEditor, bench: FakeBench) -> None:
    editor.split("a")
    plan = editor.apply()
    assert bench.applied == [plan]
    assert plan.describe() == "4: b + c | 4: a"
    assert plan.lanes[0].active_units == (4, 4)
    assert editor.state.in_force
    assert not editor.split("b").in_force


def test_a_failing_apply_leaves_the_old_plan_in_force_and_says_so(editor: PlanEditor, bench: FakeBench) -> None:
    editor.apply()
    moved = editor.split("a")
    bench.fails = True
    with pytest.raises(WorkerDied):
        editor.apply()
    state = editor.state
    assert bench.plan is bench.applied[0]
    assert state.failed
    assert "The lane could not start" in state.message
    assert "In force stays 8: a + b + c" in state.message
    assert lanes(state) == lanes(moved)
    assert state.doing == ""
    assert lanes(editor.reset()) == [(8, "abc")]


def test_sliders_moved_while_an_apply_runs_stay_in_the_draft(editor: PlanEditor, bench: FakeBench) -> None:
    editor.split("a")
    bench.go.clear()
    thread = threading.Thread(target=editor.apply)
    thread.start()
    assert bench.entered.wait(60)
    assert editor.state.doing == "applying"
    moved = editor.share({"a": 2})
    with pytest.raises(UsageError, match="One thing runs at a time"):
        editor.measure()
    bench.go.set()
    thread.join(60)
    assert bench.plan is not None
    assert bench.plan.describe() == "4: b + c | 4: a"
    assert lanes(editor.state) == lanes(moved)
    assert not editor.state.in_force


def test_measuring_applies_first_and_stands_beside_the_prediction(editor: PlanEditor, bench: FakeBench) -> None:
    editor.split("a")
    measured = editor.measure(repeats=3)
    assert len(bench.applied) == 1
    assert measured.median_s == 0.011
    assert measured.spread_s == pytest.approx(0.001)
    assert measured.predicted_s == editor.state.jct_s
    assert editor.state.measured is measured
    editor.measure(repeats=3)
    assert len(bench.applied) == 1


def test_without_a_lab_it_plans_and_saves_and_says_what_needs_one(tmp_path: Path) -> None:
    editor = PlanEditor(models(a=1, b=1), UNITS, facts={"device": {"name": "far away", "unit": "SM group"}})
    editor.split("a")
    assert editor.state.unit == "SM group"
    saved = Plan.load(editor.save(tmp_path / "plan.json"))
    assert saved.device["name"] == "far away"
    assert saved.describe() == "4: b | 4: a"
    for act in (editor.apply, editor.measure, lambda: editor.export("x.py")):
        with pytest.raises(UsageError, match="by a lab on its device"):
            act()


def test_saving_and_exporting_take_the_draft_and_a_failure_is_told(
    editor: PlanEditor, bench: FakeBench, tmp_path: Path
) -> None:
    editor.split("a")
    editor.export(tmp_path / "plan.py")
    assert bench.exported[0][0].describe() == "4: b + c | 4: a"
    with pytest.raises(StoreError):
        editor.save(tmp_path / "missing" / "plan.json")
    assert editor.state.failed


# --- following the lab ------------------------------------------------------------------------------------------


def test_the_draft_follows_a_new_plan_unless_it_was_moved(editor: PlanEditor) -> None:
    editor.follow(TWO)
    assert lanes(editor.state) == [(4, "a"), (4, "bc")]
    assert editor.state.in_force
    moved = editor.split("b")
    editor.follow(Plan(lanes=(Lane(units=8, members=("a", "b", "c")),), units=UNITS))
    assert lanes(editor.state) == lanes(moved)


def test_new_measurements_change_predictions_and_other_sub_models_begin_anew(editor: PlanEditor) -> None:
    moved = editor.split("a")
    editor.renew(models(a=0.16, b=0.04, c=0.02))
    assert lanes(editor.state) == lanes(moved)
    assert editor.state.jct_s == pytest.approx(0.04)
    editor.renew(models(a=1, d=1))
    assert lanes(editor.state) == [(8, "ad")]
    assert not editor.state.can_undo


def test_plans_that_were_in_force_can_be_made_the_draft_again(editor: PlanEditor, bench: FakeBench) -> None:
    first = editor.apply()
    editor.split(next(lane.members[0] for lane in editor.state.lanes if len(lane.members) > 1))
    second = editor.apply()
    assert [past.described for past in editor.past] == [second.describe(), first.describe()]
    assert [past.in_force for past in editor.past] == [True, False]
    editor.recall(editor.past[1].number)
    assert editor.state.describe() == first.describe()
    assert not editor.state.in_force, "nothing runs"
    editor.undo()
    assert editor.state.describe() == second.describe()
    with pytest.raises(UsageError, match="by its number"):
        editor.recall(99)


def test_what_a_run_took_stays_with_its_plan(editor: PlanEditor, bench: FakeBench) -> None:
    plan = editor.apply()
    lanes = tuple((lane.units, lane.members) for lane in plan.lanes)
    bench.last_run = LastRun(jct_s=0.7, lanes=lanes, spans=())
    assert editor.ran() is bench.last_run
    assert editor.past[0].measured_s == 0.7
    bench.last_run = LastRun(jct_s=0.1, lanes=((1, ("other",)),), spans=())
    editor.ran()
    assert editor.past[0].measured_s == 0.7


def test_views_are_told_of_runs_now_and_then(editor: PlanEditor) -> None:
    told: list[int] = []
    editor.listen(lambda state: told.append(state.revision))
    for _ in range(50):
        editor.ran_anew()
    assert 1 <= len(told) <= 5
    editor.ran_anew(at_once=True)
    assert len(told) >= 2


def test_what_is_proposed_on_shares_that_were_never_measured_is_not_called_proven() -> None:
    points = {30: 0.03, 60: 0.02, 100: 0.01}
    editor = PlanEditor({name: fit_points(name, points, 100) for name in "ab"}, 100)
    editor.split("a")
    editor.share({"a": 10}, pin=["a"])
    editor.propose().result(timeout=60)
    assert "rests on shares that were never measured: " in editor.state.message
    assert "a with 10 units (measured: 30 units to 100 units)" in editor.state.message
    assert "proven" not in editor.state.message
    editor.share({"a": 40}, pin=["a"])
    editor.propose().result(timeout=60)
    assert "proven the best" in editor.state.message


def test_a_lane_knows_the_most_that_it_can_have(editor: PlanEditor) -> None:
    while len(editor.state.lanes) < 2:
        editor.split(editor.state.lanes[0].members[0])
    state = editor.state
    assert state.lanes[0].most_units == UNITS - (len(state.lanes) - 1)
    editor.share({2: 3}, pin=[2])
    assert editor.state.lanes[0].most_units == UNITS - 3 - (len(state.lanes) - 2)
    editor.oversubscribe()
    assert editor.state.lanes[0].most_units == UNITS


def test_where_no_plan_of_lanes_is_in_force_no_draft_is_called_so(editor: PlanEditor) -> None:
    told: list[bool] = []
    editor.follow(TWO)
    editor.listen(lambda state: told.append(state.in_force))
    lanes = editor.state.describe()
    editor.follow(None)
    editor.follow(None)
    assert told == [False]
    assert editor.state.describe() == lanes
    assert not editor.moved
    editor.follow(TWO)
    assert editor.state.in_force
    assert [past.in_force for past in editor.past] == [True]


def test_pinned_lanes_of_one_share_stay_two_when_a_search_fills_in_the_rest(bench: FakeBench) -> None:
    editor = PlanEditor(models(a=0.01, b=0.01, c=0.8), UNITS, bench=bench)
    editor.split("a")
    editor.split("b")
    editor.share({"a": 3, "b": 3}, pin=["a", "b"])
    editor.propose().result(timeout=60)
    pinned = [lane for lane in editor.state.lanes if lane.pinned]
    assert [lane.units for lane in pinned] == [3, 3]
    assert [{"a", "b"} & {*lane.members} for lane in pinned] in ([{"a"}, {"b"}], [{"b"}, {"a"}]), "others may join"
