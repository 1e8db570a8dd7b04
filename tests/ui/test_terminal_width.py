"""What verbs print in a terminal fits it: nothing is wider than 80 columns, or than 60."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from fake_front import FakeFront
from fake_lab import FakeLab, a_comparison, a_load_table, a_plan, a_rate_plan, a_report, failed_point, progress
from past import an_entry

from esen_lab.common.fitting import width_of
from esen_lab.history import Past, changes
from esen_lab.ui import views
from esen_lab.ui.html import to_text
from esen_lab.ui.magics.lines import run_line
from esen_lab.ui.magics.verbs import VERBS
from esen_lab.ui.pictures.rows import Segment, Timeline
from esen_lab.ui.session import Session
from esen_lab.ui.views import View

LONG = "a_sub_model_whose_name_is_long"
LANES = tuple((f"lane {n} (100 cores)", (Segment(name=LONG, start_s=0.0, end_s=1.0),)) for n in (1, 12))
RECORDS: dict[str, Callable[[], View]] = {
    "plan": lambda: views.plan(a_plan()),
    "report": lambda: views.report(a_report()),
    "comparison": lambda: views.comparison(a_comparison()),
    "load": lambda: views.load_table(a_load_table()),
    "rate": lambda: views.rate_plan(a_rate_plan()),
    "profile": lambda: views.progress(progress(failures=(failed_point(),))),
    "status": lambda: views.status(FakeLab().status()),
    "history": lambda: views.past(Past(project="p", entries=tuple(an_entry(number=n) for n in (1, 2, 3)))),
    "two entries": lambda: views.changes(
        changes(*(an_entry(number=n, combine=f"by {LONG} {LONG} {LONG}") for n in (1, 2)))
    ),
    "a long failure": lambda: View(
        blocks=(views.failure(replace(failed_point(), message=f"{LONG} {LONG} {LONG} did not answer")),)
    ),
    "timeline": lambda: View(blocks=(Timeline(lanes=LANES, total_s=1.0),)),
    "bar": lambda: View(
        blocks=(views.Progress(done=3, total=9, words=f"measuring {LONG} at 2 of 4 cores, then {LONG}"),)
    ),
}


@pytest.mark.parametrize("columns", [80, 60])
@pytest.mark.parametrize("name", RECORDS)
def test_no_record_is_wider_than_the_terminal(name: str, columns: int) -> None:
    lines = to_text(RECORDS[name](), columns).splitlines()
    assert [line for line in lines if len(line) > columns] == []


def test_a_history_with_intervals_stays_a_table_in_80_columns() -> None:
    known = {"low_s": 0.0102, "high_s": 0.0114, "combine": "by a rule of which much is to be said"}
    found = (an_entry(number=1, jct_s=0.0107), an_entry(number=20, jct_s=0.0107, code="new", **known))
    told = to_text(views.past(Past(project="p", entries=found)), 80)
    assert "JCT median:" not in told, "no list of lists"
    assert "10.7 ms (10.2 ms to 11.4 ms)" in told


def test_a_comparison_with_many_ways_stays_a_table_in_80_columns() -> None:
    first = a_comparison().rows[0]
    names = ("sequential", "unlimited", "threads", "openvino-sequential", "openvino-async", "plan")
    ratios = dict.fromkeys(names[:-1], 1.5)
    rows = tuple(replace(first, strategy=name, ratio_to=ratios) for name in names)
    told = to_text(views.comparison(replace(a_comparison(), rows=rows)), 80)
    assert "JCT median:" not in told, "no list of lists"
    assert [line for line in told.splitlines() if line.lstrip().startswith("plan  ")], told


@pytest.mark.parametrize("verb", VERBS)
def test_no_help_is_wider_than_the_terminal(
    session: Session, front: FakeFront, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    run_line(session, f"{verb} --help")
    assert front.text.count("example:") == 1
    assert [line for line in front.text.splitlines() if len(line) > 80] == []


WIDE = "\u6a21\u578b" * 16


@pytest.mark.parametrize("columns", [80, 60])
def test_letters_that_take_two_columns_are_counted_as_two(columns: int) -> None:
    plan = a_plan()
    lanes = tuple(replace(lane, members=tuple(WIDE[:20] + name for name in lane.members)) for lane in plan.lanes)
    view = views.plan(replace(plan, lanes=lanes, predicted_s={}, combine=f"{WIDE} {WIDE}"))
    long = Timeline(lanes=((WIDE * 4, (Segment(name=WIDE, start_s=0.0, end_s=1.0),)),), total_s=1.0)
    told = to_text(replace(view, blocks=(*view.blocks, long), notes=(WIDE * 3,)), columns)
    assert [line for line in told.splitlines() if width_of(line) > columns] == []
    assert WIDE[:20] in told


def test_columns_stand_below_each_other_whatever_the_script() -> None:
    rows = (("\u6a21\u578b", "1"), ("abc", "22"))
    told = to_text(View(blocks=(views.Table(columns=("name", "number"), rows=rows, numbers=("number",)),)))
    assert {width_of(line) for line in told.splitlines()} == {14}
