from __future__ import annotations

import builtins
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from fake_front import FakeFront
from fake_lab import FakeLab

pytest.importorskip("anywidget")

from esen_lab.cost_model import fit_points
from esen_lab.errors import UsageError, WorkerDied
from esen_lab.planner.editor import PlanEditor
from esen_lab.ui.magics.lines import run_line
from esen_lab.ui.session import MOST_PANELS, Session
from esen_lab.ui.widgets.sliders import SliderPanel


@pytest.fixture
def panel(editor: PlanEditor) -> Iterator[SliderPanel]:
    made = SliderPanel(editor)
    yield made
    made.close()


def shares(panel: SliderPanel) -> list[int]:
    return [row.children[0].children[0].value for row in panel._lanes.children]


def settle(panel: SliderPanel) -> None:
    panel._acts.settle(10)


def test_a_slider_moves_the_prediction_and_the_other_slider(panel: SliderPanel, editor: PlanEditor) -> None:
    assert shares(panel) == [2, 2]
    assert "predicted JCT 8.00 ms" in panel.figures.value
    panel._rows[0].slider.value = 3
    assert shares(panel) == [3, 1]
    assert "limiting: lane 2" in panel.figures.value
    assert editor.state.lanes[1].units == 1


def test_two_panels_stay_in_step(panel: SliderPanel, editor: PlanEditor) -> None:
    other = SliderPanel(editor)
    panel._rows[0].slider.value = 3
    assert shares(other) == [3, 1]
    other._rows[1].pin.value = True
    assert panel._rows[1].pin.value
    assert panel._rows[1].slider.disabled
    other.close()
    editor.undo()
    assert not panel._rows[1].pin.value


def test_dragging_is_one_step_of_undo(panel: SliderPanel, editor: PlanEditor) -> None:
    for units in (3, 1, 2, 3):
        panel._rows[0].slider.value = units
    editor.undo()
    assert shares(panel) == [2, 2]
    editor.redo()
    assert shares(panel) == [3, 1]
    editor.reset()
    assert shares(panel) == [4]


def test_a_share_that_there_is_no_room_for_is_held_at_the_most_and_said_beside_its_slider(panel: SliderPanel) -> None:
    panel._rows[0].slider.value = 4  # as the key End does
    assert shares(panel) == [3, 1]
    assert "At most 3 cores" in panel._rows[0].why.value
    panel._rows[1].slider.value = 2
    assert shares(panel) == [2, 2]
    assert panel._rows[0].why.value == ""
    panel._rows[1].pin.value = True
    panel._rows[0].slider.value = 4
    assert shares(panel) == [2, 2]
    assert "At most 2 cores: pinned lanes keep their share" in panel._rows[0].why.value


def test_a_slider_that_is_refused_says_why_beside_it_and_goes_back(
    panel: SliderPanel, editor: PlanEditor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise UsageError("A rule that this breaks", given="it")

    monkeypatch.setattr(editor, "share", refuse)
    panel._rows[1].slider.value = 3
    assert shares(panel) == [2, 2]
    assert "A rule that this breaks" in panel._rows[1].why.value


def test_no_part_is_called_null_on_hover(panel: SliderPanel) -> None:
    parts: list[Any] = [panel.box]
    for part in parts:
        parts.extend(getattr(part, "children", ()))
    assert [part for part in parts if getattr(part, "tooltip", "") is None and not getattr(part, "children", ())] == []


def test_pins_say_what_they_do(panel: SliderPanel) -> None:
    assert "keep this share" in panel._rows[0].pin.tooltip
    panel._rows[0].pin.value = True
    assert "change this share again" in panel._rows[0].pin.tooltip


def test_with_nothing_to_move_it_says_so() -> None:
    editor = PlanEditor({"only": fit_points("only", {1: 0.1, 2: 0.05}, 2)}, 2)
    made = SliderPanel(editor)
    assert "Nothing to move: there is one sub-model" in made.message.value
    assert made._rows[0].slider.disabled
    made.close()


def test_members_move_and_lanes_split_and_merge(panel: SliderPanel, editor: PlanEditor) -> None:
    editor.move("slim", "2")
    assert ["deep → slim" in row.words.value for row in panel._rows[:2]] == [False, True]
    editor.move("slim")
    assert len(shares(panel)) == 3
    editor.merge("1", "3")
    assert len(shares(panel)) == 2


def test_oversubscription_is_shown(panel: SliderPanel) -> None:
    panel.over.value = True
    panel._rows[0].slider.value = 4
    assert shares(panel) == [4, 2]
    assert "2 too many" in panel.figures.value


def test_propose_apply_and_measure_show_what_came_of_them(panel: SliderPanel, editor: PlanEditor, lab: FakeLab) -> None:
    editor.propose()
    deadline = threading.Event()
    while "Proposed by exact" not in panel.message.value:  # the editor knows it before its views are told
        assert not deadline.wait(0.01)
    editor.apply()
    assert " · in force" in panel.figures.value
    editor.measure()
    assert "measured JCT 5.00 ms" in panel.figures.value


def test_an_apply_that_fails_says_that_the_old_plan_stays(panel: SliderPanel, lab: FakeLab) -> None:
    editor = lab.tune()
    editor.apply()
    panel._rows[0].slider.value = 3
    lab.raises = WorkerDied("The lane could not start")
    with pytest.raises(WorkerDied):
        editor.apply()
    assert lab.plan is not None
    assert lab.plan.describe() == "2: wide + slim | 2: deep"
    assert "could not start" in panel.message.value
    assert "In force stays 2: wide + slim | 2: deep" in panel.message.value


def test_save_and_export_say_where_or_why_not(panel: SliderPanel, lab: FakeLab, tmp_path: Any) -> None:
    panel.path.value = str(tmp_path / "mine.json")
    panel.buttons["save"].click()
    settle(panel)
    assert "Saved to" in panel.message.value
    assert (tmp_path / "mine.json").exists()
    panel.buttons["export"].click()
    settle(panel)
    assert lab.calls[-1] == ("export", str(tmp_path / "mine.py"))
    panel.path.value = str(tmp_path / "missing" / "mine.json")
    panel.buttons["save"].click()
    settle(panel)
    assert "there is room" in panel.message.value


def test_two_panels_dragged_from_two_threads_do_not_wait_for_each_other(panel: SliderPanel, editor: PlanEditor) -> None:
    other = SliderPanel(editor)

    def drag(mine: SliderPanel, row: int) -> None:
        for units in (1, 2, 3) * 15:
            mine._rows[row].slider.value = units

    threads = [threading.Thread(target=drag, args=(mine, row)) for mine, row in ((panel, 0), (other, 1))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    editor.share(pin=[1])
    assert shares(panel) == shares(other) == [lane.units for lane in editor.state.lanes]
    other.close()


def test_names_are_escaped(lab: FakeLab, panel: SliderPanel) -> None:
    with pytest.raises(UsageError):
        lab.tune().share({"<b>": 1})
    panel._refused(UsageError("<script>"), panel._rows[0])
    assert "&lt;script&gt;" in panel._rows[0].why.value


def test_tune_shows_a_static_output_and_a_panel_that_the_session_closes(
    session: Session, front: FakeFront, lab: FakeLab
) -> None:
    run_line(session, "tune")
    assert "Plan editor: " in front.text
    assert len(front.widgets) == 2
    session.close()
    assert [widget.comm for widget in front.widgets] == [None, None]


def test_a_notebook_keeps_only_so_many_panels(session: Session, front: FakeFront, lab: FakeLab) -> None:
    for _ in range(MOST_PANELS + 1):
        run_line(session, "tune;")
    assert [widget.comm is None for widget in front.widgets] == [True, True] + [False, False] * MOST_PANELS


def test_a_terminal_and_a_notebook_without_ipywidgets_get_text(
    session: Session, front: FakeFront, lab: FakeLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    front.updates_in_place = False
    run_line(session, "tune;")
    assert front.widgets == []
    front.updates_in_place = True
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == "esen_lab.ui.widgets.sliders":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    run_line(session, "tune;")
    assert front.widgets == []
    assert "need anywidget" in front.text


def test_a_value_that_was_on_its_way_while_lanes_merged_moves_nothing(panel: SliderPanel, editor: PlanEditor) -> None:
    first, second = panel._rows
    editor.merge(1, 2)
    assert shares(panel) == [4]
    second.slider.value, first.pin.value = 1, True  # the page had sent it for "deep", as it stood there
    assert [(lane.units, lane.pinned) for lane in editor.state.lanes] == [(4, False)]
    editor.undo()
    assert [row.members for row in panel._rows] == [("wide", "slim"), ("deep",)]
    panel._rows[1].slider.value = 1
    assert shares(panel) == [3, 1]


def test_a_lane_keeps_its_widgets_as_long_as_it_runs_the_same(panel: SliderPanel, editor: PlanEditor) -> None:
    before = panel._rows[1]
    editor.move("slim")  # wide | slim | deep
    assert panel._rows[2] is before
    assert before.slider.description == "lane 3"
