from __future__ import annotations

import pytest
from fake_front import FakeFront
from fake_lab import FakeLab

from esen_lab.errors import UsageError
from esen_lab.planner.editor import EditorState
from esen_lab.ui.magics import suggestions
from esen_lab.ui.magics.lines import run_line
from esen_lab.ui.magics.verbs.edit import STEPS
from esen_lab.ui.session import Session


def lanes(state: EditorState) -> str:
    return " | ".join(f"{lane.units}{'*' if lane.pinned else ''}: {' + '.join(lane.members)}" for lane in state.lanes)


def test_tune_prints_the_draft_and_what_it_predicts(session: Session, front: FakeFront, lab: FakeLab) -> None:
    run_line(session, "tune split deep")
    run_line(session, "tune;")
    for words in (
        "Plan editor: 8.00 ms predicted",
        "wide → slim",
        "← limits the JCT",
        "shares sum to",
        "4 cores (100 %)",
    ):
        assert words in front.text


def test_shares_are_set_pinned_and_freed_in_one_move(session: Session, lab: FakeLab) -> None:
    run_line(session, "tune split deep;")
    assert lanes(run_line(session, "share deep=pin:1")) == "3: wide + slim | 1*: deep"
    assert lanes(run_line(session, "share wide=50% deep=unpin")) == "2: wide + slim | 2: deep"
    assert lanes(run_line(session, "share 1=1 2=pin")) == "1: wide + slim | 2*: deep"
    assert lab.tune().undo().lanes[0].units == 2


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["tune split deep", "tune move slim deep"], "2: wide | 2: deep + slim"),
        (["tune split deep", "tune move slim"], "1: wide | 1: slim | 2: deep"),
        (["tune split deep", "tune merge wide deep"], "4: wide + slim + deep"),
        (["tune split deep", "tune undo"], "4: wide + deep + slim"),
        (["tune split deep", "tune undo", "tune redo"], "2: wide + slim | 2: deep"),
        (["tune split deep", "tune reset"], "4: wide + deep + slim"),
        (["tune oversubscribe on", "tune split deep"], "4: wide + slim | 4: deep"),
    ],
)
def test_every_move_of_the_panel_is_a_line(session: Session, lab: FakeLab, lines: list[str], expected: str) -> None:
    for line in lines:
        state = run_line(session, line)
    assert lanes(state) == expected


def test_propose_apply_measure_save_and_export_are_lines(
    session: Session, front: FakeFront, lab: FakeLab, tmp_path: object
) -> None:
    assert "Proposed by exact" in run_line(session, "tune propose").message
    assert run_line(session, "tune apply").in_force
    assert run_line(session, "tune measure").measured.median_s == 0.005
    run_line(session, "tune export plan.py;")
    run_line(session, f"tune save {tmp_path}/plan.json;")
    run_line(session, "tune cancel;")
    assert [call[0] for call in lab.calls if call[0] != "tune"] == ["apply", "measure", "export"]
    assert "measured JCT" in front.text


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("tune propse", "has no step 'propse'. Did you mean propose or"),
        ("tune merge wide", "takes 2 words or more"),
        ("tune apply now", "takes no words"),
        ("tune oversubscribe maybe", "on or off"),
        ("tune move ghost wide", "named as in the lanes"),
        ("share", "%esen share takes LANE=SHARE (LANE is a sub-model in it or its number"),
        ("share wide", "LANE=pin:UNITS"),
        ("share wide=most", "LANE=pin:UNITS"),
        ("share ghost=1", "named by a sub-model in it"),
        ("share wide=9", "between 1 and 4"),
        ("share wide=3 wide=2", "A lane has one share. Given: 3 and 2 for wide"),
        ("share wide=pin wide=unpin", "A lane is pinned or freed"),
    ],
)
def test_a_mistake_in_a_move_is_one_line(session: Session, lab: FakeLab, line: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        run_line(session, line)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_tab_key_offers_every_step() -> None:
    assert set(suggestions.STEPS) == set(STEPS)
