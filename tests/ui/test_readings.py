"""Samples as columns, and what is said about those that are missing."""

from __future__ import annotations

import json
import re

import pytest
from fake_lab import FakeMeter

from esen_lab.devices.telemetry import Channel, MarkLog, Sampler
from esen_lab.ui.colours import COLOURS, LEAST_OF_LINES, NEUTRAL, PALETTE, contrast, stroke
from esen_lab.ui.widgets.feed import Feed
from esen_lab.ui.widgets.live_charts import readings_document
from esen_lab.ui.widgets.reading_columns import PlotReadings, label_of, mark_text, reading_text, strokes_of

PAGES = ("#ffffff", "#111111")  # what notebooks are shown on, in the light and in the dark


@pytest.fixture
def meter() -> FakeMeter:
    return FakeMeter(
        Channel(key="cpu", label="CPU", unit="%", group="utilization"),
        Channel(key="memory", label="memory in use", unit="B", group="memory"),
        cpu=12.3456,
        memory=2.5e9,
    )


@pytest.fixture
def sampler(meter: FakeMeter) -> Sampler:
    return Sampler(meter, interval_s=1, history_s=10, clock=iter(range(100)).__next__)


def test_columns_hold_milliseconds_and_short_numbers_and_bytes_as_gb(sampler: Sampler) -> None:
    sampler.take()
    found = PlotReadings(sampler, MarkLog()).whole()
    assert found.columns == {"t": [0], "cpu": [12.35], "memory": [2.5]}
    assert found.channels[1] == ("memory", "memory in use", "GB", "memory")
    assert (found.first, found.number) == (1, 1)


def test_a_missing_reading_is_a_hole_and_its_reason_is_said(sampler: Sampler, meter: FakeMeter) -> None:
    sampler.take()
    meter.values["cpu"] = "the sensor is gone"
    sampler.take()
    found = PlotReadings(sampler, MarkLog()).whole()
    assert found.columns["cpu"] == [12.35, None]
    assert found.said == "No CPU: the sensor is gone."


def test_only_what_is_new_is_given_and_never_a_gap(sampler: Sampler) -> None:
    for _ in range(5):
        sampler.take()
    marks = MarkLog(clock=lambda: 7.0)
    marks.add("plan")
    readings = PlotReadings(sampler, marks)
    fresh = readings.after(3, 0)
    assert (fresh.first, fresh.number, fresh.columns["t"]) == (4, 5, [3000, 4000])
    assert fresh.marks == {"t": [7000], "what": ["plan"]}
    nothing = readings.after(5, fresh.marks_to)
    assert (nothing.first, nothing.number, nothing.columns["t"], nothing.marks["t"]) == (6, 5, [], [])
    assert readings.after(-5, 0).first == 1


def test_before_the_first_reading_that_is_said(sampler: Sampler) -> None:
    found = PlotReadings(sampler, MarkLog()).whole()
    assert found.said == "Waiting for the first reading."
    assert (found.first, found.number) == (1, 0)


def test_texts_for_people() -> None:
    assert mark_text("profile", "begin") == "profile begins"
    assert mark_text("profile", "end") == "profile ends"
    assert mark_text("plan", "") == "plan"
    assert reading_text(41.7, "%") == "42 %"
    assert reading_text(0.42, "/s") == "0.4 /s"


# --- whose line it is -------------------------------------------------------------------------------------------------


@pytest.fixture
def lanes() -> list[Channel]:
    return [
        Channel(key="cpu", label="CPU, mean of all", unit="%", group="utilization"),
        Channel(key="lane7", label="lane 1, CPU", unit="%", group="lanes"),
        Channel(key="lane8", label="lane 2, CPU", unit="%", group="lanes"),
        Channel(key="rss8", label="lane 2, resident", unit="B", group="memory"),
        Channel(key="lane9", label="backends of wide, CPU", unit="%", group="lanes"),
    ]


def test_a_lanes_lines_have_the_colour_of_what_it_runs_first_in_plots_legend_and_hover(lanes: list[Channel]) -> None:
    COLOURS.learn(["wide", "deep", "slim"])
    strokes = strokes_of(lanes, [["deep", "slim"], ["wide 1/2"]])
    assert strokes["lane7"] == stroke(COLOURS.of("deep"))
    assert strokes["lane8"] == strokes["rss8"] == stroke(COLOURS.of("wide"))
    assert {strokes["cpu"], strokes["lane9"]} <= set(NEUTRAL)  # no sub-model's colour for what is none
    channels = [(c.key, label_of(c, [["deep", "slim"], ["wide"]]), c.unit, c.group) for c in lanes]
    document = json.dumps(readings_document(channels, strokes))
    assert f'"{strokes["lane7"]}"' in document  # its glyph, which the legend takes its colour from
    assert f"color:{strokes['lane8']}" in document  # the hover


def test_a_legend_says_what_a_lane_runs_and_stays_short(lanes: list[Channel]) -> None:
    assert label_of(lanes[1], [["deep", "slim"]]) == "lane 1 (deep + slim), CPU"
    assert label_of(lanes[2], [["deep"]]) == "lane 2, CPU"  # of an earlier plan: its lane is still warm
    assert len(label_of(lanes[1], [["a_name_without_any_end_in_sight", "slim"]])) < 42


def test_lines_stand_out_in_both_themes() -> None:
    drawn = [*map(stroke, PALETTE), *NEUTRAL]
    assert len(set(drawn)) == len(drawn)
    assert min(contrast(line, page) for line in drawn for page in PAGES) >= LEAST_OF_LINES


def test_a_plan_put_in_force_lays_the_plots_out_anew(sampler: Sampler, meter: FakeMeter) -> None:
    meter.channels.append(Channel(key="lane7", label="lane 1, CPU", unit="%", group="lanes"))
    plan = [["wide"]]
    feed = Feed(PlotReadings(sampler, MarkLog(), lambda: plan))
    sampler.take()
    feed.document()
    sampler.take()
    assert feed.fresh()["kind"] == "rows"
    plan[0] = ["deep"]
    sampler.take()
    assert feed.fresh()["kind"] == "doc"


def test_a_label_in_the_hover_is_text_whatever_it_holds() -> None:
    document = json.dumps(readings_document([("k", "<img src=x>@{t}$index", "%", "lanes")], {"k": "#767676"}))
    tooltip = next(found for found in re.findall(r'"tooltips": "(.*?[^\\])"', document))
    assert "<img" not in tooltip
    assert re.findall(r"[@$][\w{]+", tooltip) == ["@t{", "@{k"]  # the time, and the channel's own value
