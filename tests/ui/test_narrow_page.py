"""Tables in narrow outputs, in a real browser: nothing stands out of the output, and what decides can be seen."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_lab import FakeLab, a_comparison, a_load_table, a_plan, a_report
from past import an_entry

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

from esen_lab.export import Exported
from esen_lab.history import Past
from esen_lab.ui import views
from esen_lab.ui.html import to_html
from esen_lab.ui.views import Table, View

sys.path.append(str(Path(__file__).parents[2] / "tools"))
from real_lab import BROWSERS, browser_path, chromium

NO_BROWSER = f"no browser here: none of {', '.join(BROWSERS)} on PATH"
pytestmark = pytest.mark.skipif(browser_path() is None, reason=NO_BROWSER)

# JupyterLab's rules for tables, and an output's room in a window of 600, 900 and 1400 px.
RULES = """body{margin:0;font-family:system-ui,sans-serif;font-size:14px}
.out{overflow:auto}.out td,.out th,.out tr{text-align:right;vertical-align:middle;padding:.5em;line-height:normal;
white-space:normal;max-width:none;border:none}.out table{border-collapse:collapse;font-size:13px;table-layout:auto}
.out img{max-width:100%}"""
ROOMS = (464, 700, 1196)
LONG = "a_sub_model_with_quite_a_long_name"


def wide_table() -> View:
    columns = ("strategy", "JCT median", "spread", "/ sequential", "/ unlimited", "/ bound", "outputs", "lanes")
    row = ("sequential", "10.7 ms", "3.31 ms", "1.00×", "0.58×", "1.23×", "bit-equal", f"2: {LONG} + large | 1: wide")
    return View(
        title="Comparison",
        blocks=(Table(columns=columns, rows=(row, row), numbers=columns[1:6], wide=("lanes",)),),
        notes=("The plan is 1.23 times as fast as sequential.",),
    )


def one_row(columns: int) -> View:
    (table,) = wide_table().blocks
    assert isinstance(table, Table)
    return View(blocks=(Table(columns=table.columns[-columns:], rows=(table.rows[0][-columns:],)),))


FILES = tuple(Path(f"submodel_{number:02d}_use.safetensors") for number in range(12))
EXPORTED = Exported(script=Path("quickstart_plan.py"), folder=Path("quickstart_plan_files"), files=FILES)
VIEWS = {
    "comparison": views.comparison(a_comparison()),
    "load": views.load_table(a_load_table()),
    "report": views.report(a_report()),
    "history": views.past(Past(project="p", entries=tuple(an_entry(number=n) for n in (1, 2, 3)))),
    "status": views.status(FakeLab().status()),
    "many columns": wide_table(),
    **{f"one row of {many}": one_row(many) for many in (4, 6, 8)},
    "plan": views.plan(a_plan()),
    "exported": views.exported(EXPORTED),
    "facts": View(blocks=(views.facts(("lanes", f"{LONG}{LONG}{LONG}"), ("at", "now")),)),
}


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
    with chromium() as browser:
        yield browser.new_page()


def show(page: Any, view: View, room: int) -> Any:
    page.set_viewport_size({"width": room, "height": 900})
    page.set_content(f"<style>{RULES}</style><div class='out'>{to_html(view)}</div>")
    return page.locator(".out")


@pytest.mark.parametrize("room", ROOMS)
@pytest.mark.parametrize("name", VIEWS)
def test_nothing_stands_out_of_an_output(page: Any, name: str, room: int) -> None:
    out = show(page, VIEWS[name], room)
    assert out.evaluate("(el) => el.scrollWidth - el.clientWidth") <= 0
    beyond = """(el) => [...el.querySelectorAll("td, th, img, div")]
        .filter((one) => one.getBoundingClientRect().right > el.clientWidth + 1).map((one) => one.textContent)"""
    assert out.evaluate(beyond) == []


@pytest.mark.parametrize("room", ROOMS)
@pytest.mark.parametrize("name", VIEWS)
def test_no_word_of_a_heading_or_of_a_facts_name_is_cut(page: Any, name: str, room: int) -> None:
    lines = """(el) => [...el.querySelectorAll("th, table:not(:has(th)) td:first-child")].flatMap((one) => {
        const range = document.createRange(), cut = [];
        for (const word of one.textContent.matchAll(/\\S+/g)) {
            range.setStart(one.firstChild, word.index);
            range.setEnd(one.firstChild, word.index + word[0].length);
            if (range.getClientRects().length > 1) cut.push(word[0]);
        }
        return cut;
    })"""
    out = show(page, VIEWS[name], room)
    assert out.evaluate(lines) == []


@pytest.mark.parametrize("room", ROOMS)
def test_every_value_can_be_seen_with_its_columns_name(page: Any, room: int) -> None:
    out = show(page, wide_table(), room)
    assert out.get_by_text("bit-equal").first.is_visible()
    assert out.get_by_text("1.23×").first.is_visible()
    names = """(el) => [...el.querySelectorAll("tr:nth-child(2) td")]
        .map((one) => getComputedStyle(one, "::before").content.replaceAll('"', ""))"""
    stacked = out.evaluate(names)
    headed = out.locator("th").first.is_visible()
    assert headed == (room > 1000)
    assert headed or stacked[1:] == list(VIEWS["many columns"].blocks[0].columns[1:])  # type: ignore[union-attr]


def test_a_card_begins_at_the_left_and_leaves_out_what_there_is_not(page: Any) -> None:
    columns = ("point", "accuracy", "JCT", "members", "lanes of it", "left out")
    rows = tuple((str(n), "90 %", "-", LONG, f"2: {LONG}", "-") for n in (1, 2))
    view = View(blocks=(Table(columns=columns, rows=rows, numbers=columns[:3]),))
    out = show(page, view, 464)
    cell = out.locator("tr:nth-child(2) td")
    assert cell.nth(0).evaluate("(el) => getComputedStyle(el).textAlign") == "left"
    assert "point" in cell.nth(0).evaluate("(el) => getComputedStyle(el, '::before').content")
    assert [cell.nth(place).is_visible() for place in range(6)] == [True, True, False, True, True, False]
    assert show(page, view, 1196).locator("tr:nth-child(2) td").nth(2).is_visible()


def test_a_comparison_with_many_ways_is_a_table_in_a_wide_window(page: Any) -> None:
    first = a_comparison().rows[0]
    names = ("sequential", "unlimited", "equal", "threads", "openvino-sequential", "openvino-async", "plan")
    rows = tuple(replace(first, strategy=name, ratio_to=dict.fromkeys(names[:-1], 1.5)) for name in names)
    out = show(page, views.comparison(replace(a_comparison(), rows=rows)), 1196)
    assert out.locator("th").first.is_visible()
    wrapping = "(el) => [...el.querySelectorAll('td:nth-child(2)')].map((one) => getComputedStyle(one).whiteSpace)"
    assert set(out.evaluate(wrapping)) == {"nowrap"}, "a number and its unit stay in one line"


def test_what_only_explains_comes_last_in_a_card(page: Any) -> None:
    out = show(page, wide_table(), 464)
    tops = out.evaluate(
        """(el) => [...el.querySelectorAll("tr:nth-child(2) td")].map((one) => one.getBoundingClientRect().top)"""
    )
    assert tops[-1] == max(tops)
    assert tops[0] == min(tops)


def test_a_pictures_letters_grow_where_it_is_made_smaller(page: Any) -> None:
    out = show(page, views.report(a_report()), 464)
    shown = out.locator("img").evaluate("(el) => [el.clientWidth, el.naturalWidth]")
    assert shown[0] <= 464 < shown[1]
    assert 14 * shown[0] / shown[1] >= 10  # px: see drawing.py
