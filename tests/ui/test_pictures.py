from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from base64 import b64decode
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest
from fake_lab import IDENTITY, LEAST_CONTRAST, a_comparison, a_plan, a_report, point

from esen_lab.cost_model import fit_points
from esen_lab.planner import allocate
from esen_lab.profiler.records import Profile
from esen_lab.run.report import LaneReport, Span
from esen_lab.ui import views
from esen_lab.ui.colours import COLOURS, PALETTE, Colours, contrast, ink_on
from esen_lab.ui.html import to_html
from esen_lab.ui.pictures import as_image, draw, image, rows
from esen_lab.ui.pictures.drawing import FAINT, INK, PAPER, WIDTH, Axis, text_width, time_format
from esen_lab.ui.views import Table, View

EVIL = "<script>alert('x')</script>&"
MODEL = fit_points("wide", {1: 0.004, 2: 0.0022, 4: 0.002}, 4)
PROFILE = Profile(device=IDENTITY, units=4, points=tuple(point(units=u, median_s=s) for u, s in MODEL.points))
EVERY = {
    "timeline": rows.Timeline(
        lanes=((EVIL, (rows.Segment(name=EVIL, start_s=0.0, end_s=0.5),)),),
        total_s=1.0,
        predicted=((rows.Segment(name=EVIL, start_s=0.0, end_s=0.7),),),
    ),
    "curves": rows.Curves(
        curves=(rows.Curve(name=EVIL, points=((1, 0.004, 0.0001), (4, 0.001, 0)), fitted_s=(0.004, 0.001), knee=2),),
        units=4,
        unit=EVIL,
    ),
    "bars": rows.Bars(bars=(rows.Bar(label=EVIL, median_s=0.004, spread_s=0.001, chosen=True),), bound_s=0.003),
    "history": rows.SearchHistory(traces=((EVIL, ((1, 0.02), (500, 0.01))),), exact_s=0.009, x_label=EVIL),
    "load": rows.LoadCurves(ways=((EVIL, ((10.0, 0.01, 0.02), (20.0, 0.02, float("inf")))),), deadline_s=0.05),
    "front": rows.Front(points=((EVIL, 0.001, 0.9), ("b", 0.002, 0.8)), on_front=(True, False)),
    "traces": rows.ReadingTraces(
        plots=(
            rows.Plot(title=EVIL, lines=(rows.Line(label=EVIL, points=((-2.0, 10.0), (-1.0, None), (0.0, 30.0))),)),
        ),
        span_s=2.0,
        until=EVIL,
    ),
    "shares": rows.Shares(lanes=(rows.Share(units=3, members=((EVIL, 0.001),)),), units=4, unit=EVIL, bound_s=0.001),
}


def texts(svg: str) -> list[str]:
    return ["".join(found.itertext()) for found in ET.fromstring(svg).iter(_SVG_TEXT)]


def test_a_picture_is_drawn_once_until_its_sub_models_have_other_colours() -> None:
    lane = rows.Share(units=1, members=(("never named elsewhere", 0.001),))
    shown = rows.Shares(lanes=(lane,), units=2)
    first = image(shown)  # it gives the sub-model its colour
    drawn = image(shown)
    assert first == drawn == as_image(draw(shown))
    assert image(replace(shown)) is drawn, "an equal picture is the same one"
    COLOURS.forget()
    COLOURS.learn(["another", "never named elsewhere"])
    assert image(shown) != drawn


@pytest.mark.parametrize("picture", EVERY.values(), ids=EVERY)
def test_a_picture_is_whole_small_escaped_and_of_no_theme(picture: rows.Picture) -> None:
    svg = draw(picture)
    ET.fromstring(svg)
    assert "<script" not in svg
    assert len(svg) < 8_000
    used = set(re.findall(r"#[0-9a-fA-F]{3,8}\b", svg))
    assert used <= {*PALETTE, INK, FAINT, PAPER, "#000", "#fff"}
    assert svg.count(f"fill='{PAPER}'") == 1, "its own paper, whatever the page's theme"


@pytest.mark.parametrize(
    "picture",
    [
        rows.Timeline(lanes=(), total_s=0.0),
        rows.Curves(curves=(), units=1),
        rows.Curves(curves=(rows.Curve(name="a", points=((1, 0.001, 0.0),)),), units=1),
        rows.Bars(bars=()),
        rows.SearchHistory(traces=()),
        rows.SearchHistory(traces=(("a", ((0.0, 0.01),)),)),
        rows.Front(points=(), on_front=()),
        rows.LoadCurves(ways=(), deadline_s=0.05),
        rows.Front(points=(("a", 0.001, 1.0),), on_front=(True,)),
        rows.Shares(lanes=(rows.Share(units=9, members=(("a", None), ("b", 0.1))),), units=4),
    ],
    ids=str,
)
def test_little_to_show_is_no_reason_to_fail(picture: rows.Picture) -> None:
    ET.fromstring(draw(picture))


def test_axes_carry_units_and_round_ticks() -> None:
    assert [round(tick, 9) for tick in Axis(0, 9.7, 0, 100).ticks()] == [0, 2, 4, 6, 8]
    assert Axis(1, 100, 0, 100, log=True).ticks() == [1, 2, 5, 10, 20, 50, 100]
    assert Axis(0, 10, 100, 0)(2.5) == 75
    unit, written = time_format(0.0123)
    assert (unit, written(0.0123)) == ("ms", "12.3")
    words = " ".join(texts(draw(EVERY["bars"])))
    assert "JCT (ms)" in words
    assert "proven bound 3.00 ms" in words


def test_a_timeline_shows_measured_predicted_and_idle() -> None:
    spans = (Span(name="wide", lane=0, start_s=0.001, end_s=0.003, predicted_s=0.001),)
    view = views.report(a_report(spans=spans))
    timeline = next(block for block in view.blocks if isinstance(block, rows.Timeline))
    assert timeline.predicted == ((rows.Segment(name="wide", start_s=0.001, end_s=0.002),), ())
    assert "thick: measured, thin: predicted, grey: idle" in texts(draw(timeline))
    table = next(block for block in view.blocks if isinstance(block, Table))
    assert table.rows[0][-2:] == ("2.00 ms", "1.00 ms")


def test_a_profile_shows_points_with_spread_fit_and_knee() -> None:
    view = views.profile(PROFILE, {"wide": MODEL})
    curves = next(block for block in view.blocks if isinstance(block, rows.Curves))
    assert curves.unit == "core"
    assert curves.curves[0].points[0] == (1, 0.004, 0.004 / 50)
    assert curves.curves[0].fitted_s == MODEL.latency_s
    assert curves.curves[0].knee == 3


def test_a_failed_strategy_has_no_bar() -> None:
    view = views.comparison(a_comparison())
    bars = next(block for block in view.blocks if isinstance(block, rows.Bars))
    assert [(bar.label, bar.chosen) for bar in bars.bars] == [("sequential", False), ("plan", True)]


def test_a_search_shows_its_history_with_the_optimum() -> None:
    tables = {f"m{i}": [0.01 / k + 0.0004 * i for k in range(1, 9)] for i in range(6)}
    found = allocate(tables, 8, "optuna", n_trials=50, warm_start=False)
    history = next((block for block in views.allocation(found).blocks if isinstance(block, rows.SearchHistory)), None)
    assert (history is not None) == (len(found.trace) > 1)
    if history is not None:
        assert history.x_label == "plans examined"
        assert history.traces[0][1][-1] == (found.evaluations, found.trace[-1][1])


SHOWN = [views.plan(a_plan()), views.report(a_report()), views.comparison(a_comparison()), views.profile(PROFILE)]


@pytest.mark.parametrize("view", SHOWN, ids=lambda view: view.title.split()[0])
def test_what_a_notebook_keeps_is_an_image_that_needs_no_script_and_no_inline_svg(view: View) -> None:
    made = to_html(view)
    assert "<svg" not in made
    assert "<script" not in made
    found = re.search(r'<img alt="([^"]+)" src="data:image/svg\+xml;base64,([^"]+)"', made)
    assert found is not None
    ET.fromstring(b64decode(found[2]))
    assert len(made) < 10_000


def test_an_image_says_what_it_shows() -> None:
    assert 'alt="median JCT of each strategy"' in as_image(draw(EVERY["bars"]))


def test_what_is_extrapolated_looks_otherwise_in_every_picture() -> None:
    model = fit_points("wide", {2: 0.004, 4: 0.002}, 8)
    curves = views.curves((), {"wide": model}, 8, "core")
    assert curves.curves[0].guessed == (True, False, False, False, True, True, True, True)
    drawn = draw(curves)
    assert drawn.count("stroke-dasharray") == 2
    assert "dashed: extrapolated, no measurement is near" in texts(drawn)
    plain = draw(views.curves((), {"wide": fit_points("wide", {1: 0.004, 8: 0.002, 4: 0.003}, 8)}, 8, "core"))
    assert "stroke-dasharray" not in plain
    marked = a_plan(unmeasured={"wide": "extrapolated"})
    words = " ".join(texts(draw(views.plan(marked).blocks[1])))
    assert "extrapolated" in words
    spans = (Span(name="wide", lane=0, start_s=0.001, end_s=0.003, predicted_s=0.001, unmeasured="extrapolated"),)
    timeline = views.report(a_report(spans=spans)).blocks[0]
    assert "predicted (hollow: extrapolated)" in " ".join(texts(draw(timeline)))


def test_all_text_stands_out_from_what_it_stands_on() -> None:
    assert contrast("#000", "#fff") == pytest.approx(21)
    assert contrast(INK, PAPER) >= LEAST_CONTRAST
    for fill in PALETTE:
        assert contrast(ink_on(fill), fill) >= LEAST_CONTRAST, fill


def test_a_sub_model_has_one_colour_in_every_picture_by_the_order_of_registration() -> None:
    COLOURS.learn(["deep", "wide"])
    timeline = rows.Timeline(lanes=(("lane 1", (rows.Segment(name="wide", start_s=0.0, end_s=0.5),)),), total_s=1.0)
    curves = rows.Curves(curves=(rows.Curve(name="wide", points=((1, 0.004, 0.0),)),), units=4)
    shares = rows.Shares(lanes=(rows.Share(units=3, members=(("wide", 0.001),)),), units=4)
    for picture in (timeline, curves, shares):
        assert set(re.findall(r"#[0-9A-F]{6}", draw(picture))) == {PALETTE[1]}, type(picture).__name__


def test_a_colour_stays_and_no_two_of_an_ensemble_share_one() -> None:
    colours = Colours()
    colours.learn(["a", "b", "c"])
    assert [colours.of(name) for name in "abc"] == list(PALETTE[:3])
    assert (colours.of("b 1/2"), colours.of("b+c")) == (PALETTE[1], PALETTE[1])
    colours.learn(["c", "d"])
    assert colours.of("c") == PALETTE[2]
    for count in range(2, 9):
        colours.learn(f"net{i}" for i in range(count))
        assert len({colours.of(f"net{i}") for i in range(count)}) == count
    colours.learn(f"net{i}" for i in range(20))
    assert {colours.of(f"net{i}") for i in range(20)} == set(PALETTE)


def test_who_points_at_a_picture_reads_its_values() -> None:
    image = as_image(draw(EVERY["bars"]))
    assert "4.00 ms ± 1.00 ms" in re.search(r'title="([^"]*)"', image)[1]  # type: ignore[index]
    assert 'alt="median JCT of each strategy"' in image
    assert "title" not in as_image(draw(rows.Front(points=(), on_front=())))


def test_a_lane_that_began_late_is_marked_in_the_picture_and_said_in_words() -> None:
    spans = (
        Span(name="wide", lane=0, start_s=0.0004, end_s=0.003),
        Span(name="slim", lane=1, start_s=0.0037, end_s=0.005),
    )
    lanes = (
        LaneReport(units=3, in_force="", members=("wide",), start_s=0.0004, end_s=0.003),
        LaneReport(units=1, in_force="", members=("slim",), start_s=0.0037, end_s=0.005),
    )
    view = views.report(a_report(spans=spans, lanes=lanes))
    timeline = next(block for block in view.blocks if isinstance(block, rows.Timeline))
    assert timeline.late_s == (0.0, pytest.approx(0.0034))
    written = texts(draw(timeline))
    assert "3.40 ms late" in written
    on_ground = r"stroke-dasharray='1 4'/><rect [^>]*fill='#ddd'/><text [^>]*>3.40 ms late"
    assert re.search(on_ground, draw(timeline)), "words among hatches cannot be read"
    assert any("hatched: began late" in text for text in written)
    assert any("Began late: lane 2 by 3.40 ms" in note for note in view.notes)


_SVG_TEXT = "{http://www.w3.org/2000/svg}text"


def check_in_frame(svg: str) -> None:
    """No text of a picture begins before it, or ends behind it."""
    for found in ET.fromstring(svg).iter(_SVG_TEXT):
        wide = text_width("".join(found.itertext()))
        if found.get("transform"):
            continue  # upright
        at = float(found.get("x", "0")) - {"e": wide, "m": wide / 2}.get(found.get("class", ""), 0.0)
        assert at >= -8, found.text
        assert at + wide <= WIDTH + 8, found.text


def test_texts_fit_at_the_size_that_they_have_in_narrow_pages() -> None:
    report, plan = views.report(a_report()), views.plan(a_plan())
    for block in (*report.blocks, *plan.blocks, *views.comparison(a_comparison()).blocks):
        if isinstance(block, (views.Table, views.Progress, views.Details)):
            continue
        check_in_frame(draw(block))


def test_a_name_that_does_not_fit_into_its_bar_is_shortened_and_never_left_out() -> None:
    long = "temporal_attention_over_windows_v2"
    lane = (rows.Segment(name=long, start_s=0.0, end_s=0.3), rows.Segment(name="b", start_s=0.3, end_s=1.0))
    words = texts(draw(rows.Timeline(lanes=(("lane 1", lane),), total_s=1.0)))
    short = [word for word in words if word.endswith("\u2026")]
    assert len(short) == 1
    assert long.startswith(short[0][:-1])


LONG = ("a_name_of_sixty_four_letters_" * 3)[:64]
NAMES = {"long": LONG, "wide": "\u6a21" * 64, "right to left": "\u0645" * 64}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("kind", [kind for kind in EVERY if kind not in ("front",)])
def test_no_name_leaves_the_frame(kind: str, name: str) -> None:
    check_in_frame(draw(_named(EVERY[kind], name)))


def _named(value: Any, name: str) -> Any:
    """The same picture with that name for every hostile one; what a unit or an axis is called stays short."""
    if isinstance(value, tuple):
        return tuple(_named(each, name) for each in value)
    if is_dataclass(value) and not isinstance(value, type):
        short = {"unit": "core", "x_label": "plans", "until": "now", "title": "Memory (GB)"}
        given = {field.name: getattr(value, field.name) for field in fields(value)}
        return replace(value, **{key: short.get(key) or _named(each, name) for key, each in given.items()})
    return name if value == EVIL else value


def test_letters_of_changes_that_stand_close_are_one_label() -> None:
    shown = tuple(rows.Moment(label=str(number), kind="runs", median_s=0.001) for number in range(1000))
    marks = tuple((place, "code of a") for place in (10, *range(985, 996)))
    found = list(ET.fromstring(draw(rows.Moments(moments=shown, marks=marks))).iter(_SVG_TEXT))
    above = [(text.text, float(text.get("x", "0"))) for text in found if float(text.get("y", "0")) < 20]
    assert [letters for letters, _ in above] == ["A", "B\u2013L"]


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -1.0, 0.0, 5e-9, 36_000.0])
@pytest.mark.parametrize("kind", EVERY)
def test_a_figure_that_cannot_be_keeps_no_picture_from_being_drawn(kind: str, odd: float) -> None:
    svg = draw(_figured(EVERY[kind], odd))
    ET.fromstring(svg)
    drawn = re.sub(r">[^<]*<|aria-label='[^']*'", "", svg)
    assert not re.search(r"[' ,MHVL](nan|-?inf)\b", drawn)


def _figured(value: Any, odd: float) -> Any:
    """The same picture with that number for every one that is no whole one."""
    if isinstance(value, tuple):
        return tuple(_figured(each, odd) for each in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{field.name: _figured(getattr(value, field.name), odd) for field in fields(value)})
    return odd if isinstance(value, float) else value


def test_of_points_that_lie_on_each_other_one_is_named() -> None:
    points = (("1", 0.001, 0.8), ("2", 0.00101, 0.8001), ("3", 0.002, 0.9))
    words = texts(draw(rows.Front(points=points, on_front=(True, True, True))))
    assert {"1", "3"} <= set(words)
    assert "2" not in words[-3:]


def test_hours_are_written_without_powers_of_ten() -> None:
    segment = rows.Segment(name="a", start_s=0.0, end_s=36_000.0)
    words = texts(draw(rows.Timeline(lanes=(("lane 1", (segment,)),), total_s=36_000.0)))
    assert "30000" in words
