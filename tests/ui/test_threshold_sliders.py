"""Thresholds of a cascade, from a line and by sliders: both move the one editor, and show what it says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fake_front import FakeFront
from fake_lab import FakeLab

pytest.importorskip("ipywidgets")

from esen_lab.errors import UsageError
from esen_lab.planner.plan import Plan
from esen_lab.studies.batch_times import RowTimes
from esen_lab.studies.cascade import cascade
from esen_lab.studies.exits import Exits
from esen_lab.studies.members import at_thresholds, plan_of_cascade
from esen_lab.studies.thresholds import PlannedCascade, ThresholdEditor
from esen_lab.ui.magics.lines import run_line
from esen_lab.ui.session import Session
from esen_lab.ui.widgets.thresholds import ThresholdPanel

TABLES = {"quick": [1e-3, 1e-3], "fair": [1e-2, 1e-2], "good": [1e-1, 1e-1]}
SURE = np.linspace(0.05, 1.0, 20)
EXITS = Exits(
    sure=(SURE, SURE, np.ones(20)),
    classes=tuple(np.arange(20) % k for k in (2, 3, 4)),
    labels=np.arange(20) % 4,
)


@pytest.fixture
def planned() -> PlannedCascade:
    found = cascade(TABLES, 2, list(TABLES), (1.0, 0.5, 0.25))
    assert len(found.stages) == 3
    found = at_thresholds(found, EXITS, 0.5, RowTimes(), 0.0)
    return PlannedCascade(cascade=found, exits=EXITS, row_times=RowTimes(), stage_overhead_s=0.0)


class Holder:
    """The plan in force."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def apply(self, plan: Plan) -> None:
        self.plan = plan


@pytest.fixture
def holder(planned: PlannedCascade) -> Holder:
    return Holder(plan_of_cascade(planned.cascade))


@pytest.fixture
def editor(planned: PlannedCascade, holder: Holder) -> ThresholdEditor:
    return ThresholdEditor(planned, lambda: holder.plan, holder.apply)


@pytest.fixture
def panel(editor: ThresholdEditor) -> Iterator[ThresholdPanel]:
    made = ThresholdPanel(editor)
    yield made
    made.close()


def settle(panel: ThresholdPanel) -> None:
    panel._acts.settle(10)


def test_a_slider_shows_time_and_accuracy_at_once(panel: ThresholdPanel, editor: ThresholdEditor) -> None:
    assert [slider.value for slider in panel.sliders] == [0.5, 0.5]
    assert panel.apply.disabled
    before = panel.figures.value
    panel.sliders[0].value = 0.9
    assert editor.state.thresholds == (0.9, 0.5)
    assert panel.figures.value != before
    assert "expected JCT" in panel.figures.value
    assert "accuracy" in panel.figures.value
    assert not panel.apply.disabled
    # Reached by whoever is not sure at 0.9: 17 of 20 (0.05, 0.10, ..., 0.85).
    assert "reached by 85.0 %" in panel.words[1].value


@pytest.mark.parametrize(
    ("threshold", "shown"), [(0.5, "0.50"), (0.9985, "0.9985"), (0.9999998, "0.9999998"), (1.0, "1.00")]
)
def test_a_slider_shows_the_digits_that_tell_a_threshold_from_another(
    panel: ThresholdPanel, editor: ThresholdEditor, threshold: float, shown: str
) -> None:
    editor.set(threshold, 1)
    assert format(panel.sliders[0].value, panel.sliders[0].readout_format) == shown


def test_a_threshold_below_where_sliders_begin_is_shown_as_it_is(
    panel: ThresholdPanel, editor: ThresholdEditor
) -> None:
    editor.set(0.002, 1)
    assert panel.sliders[0].value == 0.002
    panel.sliders[0].value = 0.9
    assert editor.state.thresholds == (0.9, 0.5)


def test_digits_that_are_typed_into_a_slider_stay(panel: ThresholdPanel, editor: ThresholdEditor) -> None:
    panel.sliders[0].value = 0.99995
    assert editor.state.thresholds[0] == 0.99995
    assert "done at 0.99995" in str(editor.state)


def test_two_panels_stay_in_step_and_apply_puts_the_plan_in_force(
    panel: ThresholdPanel, editor: ThresholdEditor, holder: Holder
) -> None:
    other = ThresholdPanel(editor)
    panel.sliders[1].value = 0.7
    assert other.sliders[1].value == 0.7
    panel.apply.click()
    settle(panel)
    assert holder.plan.thresholds == (0.5, 0.7)
    assert holder.plan.jct_s == editor.state.cascade.expected_s
    assert holder.plan.reach == tuple(stage.reach for stage in editor.state.cascade.stages)
    assert other.apply.disabled
    other.sliders[0].value = 0.2
    other.reset.click()
    assert editor.state.thresholds == (0.5, 0.7)
    other.close()


def test_what_cannot_be_put_in_force_is_said(panel: ThresholdPanel, editor: ThresholdEditor, holder: Holder) -> None:
    holder.plan = replace(holder.plan, lanes=holder.plan.lanes[:1], reach=(), threshold=None)
    panel.sliders[0].value = 0.6
    panel.apply.click()
    settle(panel)
    assert "plan in force" in panel.message.value
    assert not editor.state.in_force


def test_a_slider_that_is_refused_says_why_and_goes_back(
    panel: ThresholdPanel, editor: ThresholdEditor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> Any:
        raise UsageError("A rule that this breaks", given="it")

    monkeypatch.setattr(editor, "set", refuse)
    panel.sliders[0].value = 0.9
    assert "A rule that this breaks" in panel.message.value
    assert panel.sliders[0].value == 0.5


def test_a_view_that_raises_is_dropped_and_named_and_the_others_are_told(
    panel: ThresholdPanel, editor: ThresholdEditor
) -> None:
    def broken(_: object) -> None:
        raise RuntimeError("it is gone")

    editor.listen(broken)
    told: list[tuple[float, ...]] = []
    editor.listen(lambda state: told.append(state.thresholds))
    assert "A view of these thresholds stopped: RuntimeError: it is gone" in editor.set(0.6).message
    assert editor.set(0.7).message == ""
    assert told == [(0.6, 0.6), (0.7, 0.7)]


class WithThresholds(FakeLab):
    """A lab whose plan is a cascade."""

    def __init__(self, editor: ThresholdEditor, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        self._editor = editor

    @property
    def studies(self) -> Any:
        return self

    def thresholds(self) -> ThresholdEditor:
        return self._editor


def test_tune_moves_thresholds_where_the_plan_is_a_cascade(
    session: Session, front: FakeFront, editor: ThresholdEditor, holder: Holder
) -> None:
    front.namespace["lab"] = WithThresholds(editor, holder.plan)
    state = run_line(session, "tune threshold 2 0.8")
    assert state.thresholds == (0.5, 0.8)
    assert run_line(session, "tune threshold 0.6").thresholds == (0.6, 0.6)
    run_line(session, "tune apply")
    assert holder.plan.thresholds == (0.6, 0.6)
    assert "Thresholds of a cascade" in str(front.shown)
    for odd, message in (
        ("move a b", "no step 'move' for a cascade"),
        ("threshold", "takes"),
        ("threshold high", "a number such as"),
        ("threshold 1.5", "at most 1"),
        ("apply now", "takes no words"),
    ):
        with pytest.raises(UsageError, match=message):
            run_line(session, f"tune {odd}")
    assert run_line(session, "tune").thresholds == (0.6, 0.6)
