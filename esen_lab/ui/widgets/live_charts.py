"""Bokeh documents of live readings. The only file that imports bokeh."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import bokeh
from bokeh.embed import json_item
from bokeh.layouts import column
from bokeh.models import (
    BasicTicker,
    ColumnDataSource,
    CrosshairTool,
    DataRange1d,
    HoverTool,
    NumeralTickFormatter,
    PanTool,
    Range1d,
    RangeTool,
    ResetTool,
    WheelZoomTool,
)
from bokeh.models.annotations import LabelSet, Legend, Span
from bokeh.plotting import figure

from esen_lab.ui.colours import PALETTE, colour, stroke
from esen_lab.ui.markup import element
from esen_lab.ui.widgets.reading_columns import OF_A_HUNDRED, TITLES

_FORMATS = {"GB": "0.0", "%": "0", "W": "0", "waiting": "0", "/s": "0.0", "rows": "0.0"}
_STEPS = {"GB": 0.1, "%": 1.0, "W": 1.0, "waiting": 1.0}  # the least that a format can tell apart: ticks are no closer
_SHORTEST = {"GB": 0.5, "%": 10.0, "W": 10.0, "waiting": 4.0}  # of an axis
_HEIGHT = 150
_NO_VALUE = re.compile(r"[@$](?=[\w{])")  # in a label: it means itself
_DASHES = ("solid", "dashed", "dotted", "dotdash")  # of lines in one plot that share a colour


def bokeh_source() -> tuple[str, str]:
    """BokehJS as one text, and its version: from the installed package, so that no network is needed."""
    path = Path(bokeh.__file__).parent / "server" / "static" / "js" / "bokeh.min.js"
    return path.read_text(encoding="utf-8"), version("bokeh")


def readings_document(
    channels: Sequence[tuple[str, str, str, str]], strokes: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Empty plots of channels over time, one per group, as BokehJS embeds them; the page fills them (`live.js`).

    Args:
        channels: (key, label, unit, group) of each.
        strokes: The colour of each one's line, by key; None: the palette's, in order.

    Returns:
        The document as `bokeh.embed.json_item` gives it. In it the models "samples" ("t" in milliseconds since the
        epoch, and a column per channel), "history" (one of them), "marks" ("t" and "what") and "time" can be found by
        name.
    """
    samples = ColumnDataSource(data={"t": [], **{channel[0]: [] for channel in channels}}, name="samples")
    noted = ColumnDataSource(data={"t": [], "what": []}, name="marks")
    window = Range1d(start=0, end=60_000, name="time")
    across = Span(dimension="height", line_dash="dotted", line_width=1, line_color="#888888")
    plots: list[Any] = []
    strokes = strokes or {channel[0]: stroke(colour(index)) for index, channel in enumerate(channels)}
    for group in dict.fromkeys(channel[3] for channel in channels):
        members = [channel for channel in channels if channel[3] == group]
        plots.append(_plot(group, members, strokes, samples, noted, window, across, first=not plots))
    if not plots:
        return dict(json_item(column(sizing_mode="stretch_width")))
    plots.append(_overview(channels, window))
    return dict(json_item(column(*plots, sizing_mode="stretch_width")))


def _plot(
    group: str,
    members: Sequence[tuple[str, str, str, str]],
    strokes: Mapping[str, str],
    samples: ColumnDataSource,
    marks: ColumnDataSource,
    window: Range1d,
    across: Span,
    *,
    first: bool,
) -> figure:
    unit = members[0][2]
    tools: list[Any] = [PanTool(dimensions="width"), WheelZoomTool(dimensions="width"), ResetTool()]
    plot = figure(
        title=TITLES.get(group, group),
        height=_HEIGHT,
        sizing_mode="stretch_width",
        x_axis_type="datetime",
        x_range=window,
        # Idle lanes take next to nothing: an axis as short as that would show noise, and the same number twice.
        y_range=Range1d(start=0, end=100)
        if group in OF_A_HUNDRED
        else DataRange1d(start=0, min_interval=_SHORTEST.get(unit, 1.0)),
        tools=tools,
        active_drag=tools[0],
        toolbar_location=None,
        background_fill_alpha=0,
        border_fill_alpha=0,
        min_border_left=60,
        name=group,
    )
    plot.yaxis.formatter = NumeralTickFormatter(format=_FORMATS.get(unit, "0.0"))
    plot.yaxis.ticker = BasicTicker(min_interval=_STEPS.get(unit, 0.1), desired_num_ticks=5)
    lines: list[Any] = []
    times: dict[str, int] = {}
    for key, label, _, _ in members:
        dash = _DASHES[times.get(strokes[key], 0) % len(_DASHES)]
        times[strokes[key]] = times.get(strokes[key], 0) + 1
        line = plot.line("t", key, source=samples, color=strokes[key], line_width=1.5, line_dash=dash)
        lines.append((label, [line]))
    plot.vspan(x="t", source=marks, line_color="#888888", line_dash="dashed", line_width=1)
    if first:
        plot.add_layout(
            LabelSet(
                x="t",
                y=2,
                y_units="screen",
                text="what",
                source=marks,
                text_font_size="10px",
                angle=math.pi / 2,
                y_offset=2,
            )
        )
    plot.add_tools(
        CrosshairTool(overlay=across),  # one overlay for all plots: a time is pointed at in all of them
        HoverTool(
            renderers=[lines[0][1][0]],
            tooltips=_tooltip(members, strokes),
            formatters={"@t": "datetime"},
            mode="vline",
        ),
    )
    legend = Legend(
        items=lines,
        click_policy="hide",
        background_fill_alpha=0,
        border_line_alpha=0,
        label_text_font_size="11px",
        spacing=0,
        glyph_height=12,
        label_height=12,
    )
    plot.add_layout(legend, "right")
    return plot


def _tooltip(members: Sequence[tuple[str, str, str, str]], strokes: Mapping[str, str]) -> str:
    """What BokehJS shows under the pointer: HTML, in which "@" and "$" before a word stand for values."""
    rows = [
        element(
            "div",
            element("span", "\u25a0", style=f"color:{strokes[key]}"),
            f" {_NO_VALUE.sub(_spaced, label)}: @{{{key}}}{{{_FORMATS.get(unit, '0.0')}}} {unit}",
        )
        for key, label, unit, _ in members
    ]
    return str(element("div", "@t{%H:%M:%S}", *rows, style="color:#222"))


def _spaced(sign: re.Match[str]) -> str:
    return f"{sign[0]} "


def _overview(channels: Sequence[tuple[str, str, str, str]], window: Range1d) -> figure:
    """The whole history of the first channel, with the shown part as a window that can be dragged."""
    plot = figure(
        title="History: drag to look back",
        height=80,
        sizing_mode="stretch_width",
        x_axis_type="datetime",
        tools=[],
        toolbar_location=None,
        background_fill_alpha=0,
        border_fill_alpha=0,
        min_border_left=60,
        name="overview",
    )
    key = next((channel[0] for channel in channels if channel[0] == "cpu"), channels[0][0])
    history = ColumnDataSource(data={"t": [], key: []}, name="history")
    plot.line("t", key, source=history, color=stroke(PALETTE[4]), line_width=1)
    plot.yaxis.visible = False
    plot.ygrid.visible = False
    tool = RangeTool(x_range=window)
    tool.overlay.fill_color = PALETTE[4]
    tool.overlay.fill_alpha = 0.25
    plot.add_tools(tool)
    return plot
