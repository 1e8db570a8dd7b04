from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest
from fake_lab import a_comparison, a_plan, a_report, failed_point, progress

from esen_lab.ui import views
from esen_lab.ui.html import BAR_COLUMNS, bundle, to_html, to_text
from esen_lab.ui.pictures.rows import Segment, Timeline
from esen_lab.ui.views import Details, Progress, Table, View

EVERYTHING = [
    views.plan(a_plan()),
    views.report(a_report()),
    views.comparison(a_comparison()),
    views.progress(progress(failures=(failed_point(),))),
]


@pytest.mark.parametrize("view", EVERYTHING, ids=lambda view: view.title.split()[0])
def test_every_view_is_well_formed_and_small(view: View) -> None:
    made = to_html(view)
    ET.fromstring(made)
    assert len(made) < 10_000


@pytest.mark.parametrize("view", EVERYTHING, ids=lambda view: view.title.split()[0])
def test_the_text_twin_says_what_the_html_says(view: View) -> None:
    text = to_text(view)
    for block in view.blocks:
        if isinstance(block, Table):
            assert all(cell in text for row in block.rows for cell in row)
    assert all(note.replace("`", "") in text for note in view.notes)
    assert set(bundle(view)) == {"text/html", "text/plain"}


def test_whatever_comes_from_outside_is_escaped() -> None:
    evil = "<script>alert('x')</script>&"
    view = View(
        title=evil,
        blocks=(
            Table(columns=(evil,), rows=((evil,),)),
            Timeline(lanes=((evil, (Segment(name=evil, start_s=0, end_s=1),)),), total_s=1),
            Progress(done=1, total=2, words=evil),
            Details(summary=evil, text=evil),
        ),
        notes=(evil, f"`{evil}`"),
    )
    made = to_html(view)
    assert "<script" not in made
    ET.fromstring(made)


def test_numbers_stand_to_the_right() -> None:
    text = to_text(View(blocks=(Table(columns=("name", "ms"), rows=(("a", "1"), ("bb", "100")), numbers=("ms",)),)))
    assert text.splitlines() == ["  name   ms", "  ----  ---", "  a       1", "  bb    100"]


def test_a_text_timeline_shows_bars_and_idle_time() -> None:
    lane = ("lane 1", (Segment(name="wide", start_s=0.0, end_s=0.5),))
    first = to_text(View(blocks=(Timeline(lanes=(lane,), total_s=1.0),))).splitlines()[0]
    bar = first.split("|")[1]
    assert len(bar) == BAR_COLUMNS
    assert bar.rstrip() == "[" + "wide".center(BAR_COLUMNS // 2 - 2, "=") + "]"


@pytest.mark.parametrize(("start_s", "end_s"), [(0.0, 0.0), (1.0, 1.0), (0.5, 0.5001), (-0.1, 1.2)])
def test_a_bar_of_any_length_stays_on_its_timeline(start_s: float, end_s: float) -> None:
    timeline = Timeline(lanes=(("l", (Segment(name="n", start_s=start_s, end_s=end_s),)),), total_s=1.0)
    lines = to_text(View(blocks=(timeline,))).splitlines()
    assert len(lines[0]) == len("  l ||") + BAR_COLUMNS
    ET.fromstring(to_html(View(blocks=(timeline,))))


def test_a_traceback_is_folded() -> None:
    assert "<details><summary>the summary</summary><pre>line</pre>" in to_html(
        View(blocks=(Details(summary="the summary", text="line"),))
    )


def test_empty_views_and_tables_show_nothing() -> None:
    assert to_text(View(blocks=(Table(columns=("a",)),))) == ""
    assert to_html(View(blocks=(Table(),))) == "<div class='esen'></div>"


def test_rows_of_many_columns_become_cards_where_they_do_not_fit_and_others_wrap() -> None:
    columns = ("strategy", "JCT median", "/ bound", "outputs", "lanes' \u2192 <b>")
    row = ("sequential", "10 ms", "1.2", "bit-equal", "2: a_name_of_thirty_five_letters_at_least")
    made = to_html(View(blocks=(Table(columns=columns, rows=(row, row), wide=columns[-1:]),)))
    assert "@container (max-width:" in made
    assert "td:nth-child(2)::before{content:'JCT median'}" in made
    assert r"td:nth-child(5)::before{content:'lanes\27  \2192  \3c b\3e '}" in made
    assert "td:nth-child(5){order:1}" in made
    for few in (Table(columns=columns, rows=(row,)), Table(columns=("name", "ms"), rows=(("a", "1"), ("b", "2")))):
        made = to_html(View(blocks=(few,)))
        assert "@container" not in made
        assert "<table class='esen-w'>" in made


def test_what_an_output_says_of_its_tables_touches_no_others_on_the_page() -> None:
    rows = (("a", "1"), ("b", "2"))
    numbers = to_html(View(blocks=(Table(columns=("name", "ms"), rows=rows, numbers=("ms",)),)))
    words = to_html(View(blocks=(Table(columns=("name", "of"), rows=rows),)))
    (key,) = set(re.findall(r"esen-[0-9a-f]{4,8}", numbers))
    assert f".esen .{key}{{:is(:nth-child(2)){{text-align:right}}}}" in numbers
    assert key not in words
