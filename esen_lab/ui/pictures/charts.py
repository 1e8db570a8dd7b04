"""One function per kind of picture: rows -> SVG. Axes carry units, colours follow the order of names."""

from __future__ import annotations

import itertools
import math

from esen_lab.common.units import format_seconds, plural
from esen_lab.ui.colours import COLOURS, PALETTE, colour
from esen_lab.ui.markup import Markup
from esen_lab.ui.pictures import rows
from esen_lab.ui.pictures.drawing import (
    FAINT,
    INK,
    WIDTH,
    Axis,
    Drawing,
    frame,
    left_ticks,
    shortened,
    text_width,
    time_format,
)

_LEFT, _RIGHT = 62.0, WIDTH - 14.0
_LATE = "#D55E00"
_LETTER_PX = 14.0  # how tall a line of text is at the most
_PLANE = 220.0  # height of a picture with two axes, without its legend


def curves(picture: rows.Curves) -> Markup:
    """Points with their spread, the fitted line, a ring at the knee."""
    values = [s for c in picture.curves for s in (*(p[1] for p in c.points), *c.fitted_s)]
    drawing = Drawing(_PLANE + 40 + 16 * (len(picture.curves) // 5), "latency of each sub-model against its share")
    if not values:
        return drawing.svg()
    x = Axis(1, max(picture.units, 2), _LEFT, _RIGHT)
    y = Axis(min(values) * 0.9, max(values) * 1.1, _PLANE - 40, 12, log=True)
    unit, written = time_format(max(values))
    left_ticks(drawing, x, y, written)
    frame(
        drawing,
        x,
        y,
        f"share ({plural(picture.unit)})",
        f"latency ({unit})",
        x_format=lambda tick: f"{tick:g}",
        whole=True,
    )
    for curve in picture.curves:
        fill = COLOURS.of(curve.name)
        _fitted(drawing, [(x(k), y(s)) for k, s in enumerate(curve.fitted_s, 1)], curve.guessed, fill)
        spans = [
            (x(k), y(median_s - spread_s / 2), y(median_s + spread_s / 2)) for k, median_s, spread_s in curve.points
        ]
        drawing.lines([(at, low, at, high) for at, low, high in spans], stroke=fill, width=2)
        at_shares = (f"{format_seconds(median_s)} at {units}" for units, median_s, _ in curve.points)
        drawing.says(f"{curve.name} {', '.join(at_shares)}" if curve.points else curve.name)
        for units, median_s, _ in curve.points:
            drawing.dot(x(units), y(median_s), fill=fill)
        if curve.knee is not None and curve.knee <= len(curve.fitted_s):
            at = curve.fitted_s[curve.knee - 1]
            drawing.dot(x(curve.knee), y(at), fill="none", radius=7, stroke=INK)
    entries = [(COLOURS.of(curve.name), curve.name) for curve in picture.curves]
    below = drawing.legend(_PLANE + 8, _LEFT, entries)
    said = "dots: measured median, bars: interquartile range"
    if any(curve.fitted_s for curve in picture.curves):
        said += ", line: fitted, ring: knee (more gains less than 5 %)"
    if any(any(curve.guessed) for curve in picture.curves):
        below, said = drawing.caption(_LEFT, below, said), "dashed: extrapolated, no measurement is near"
    drawing.height = drawing.caption(_LEFT, below, said) - 8
    return drawing.svg()


def timeline(picture: rows.Timeline) -> Markup:
    """Lanes by time: filled bars ran, outlines were predicted, hatched grey is idle."""
    row, left = (30.0 if picture.predicted else 24.0), _left_for([label for label, _ in picture.lanes])
    drawing = Drawing(row * len(picture.lanes) + 44, "timeline of the run: lanes by time")
    ends = [segment.end_s for lane in picture.predicted for segment in lane]
    x = Axis(0, max(picture.total_s, *ends, 1e-9), left, _RIGHT)
    height = 18.0
    for place, (label, segments) in enumerate(picture.lanes):
        top = 4 + place * row
        drawing.text(left - 6, top + 13, shortened(label, left - 6), anchor="end")
        drawing.rect(left, top, x(picture.total_s) - left, height, fill=FAINT)
        for segment in segments:
            begin, end = x(segment.start_s), x(segment.end_s)
            if segment.guessed:  # it was not done when nobody waited any more
                drawing.rect(begin, top, end - begin, height, fill="none", stroke=INK)
                if text_width(segment.name) + 6 < end - begin:
                    drawing.text(begin + 4, top + 13, segment.name)
                continue
            drawing.rect(begin, top, end - begin, height, fill=COLOURS.of(segment.name))
            ran = format_seconds(segment.end_s - segment.start_s)
            drawing.says(f"{segment.name} {ran}, from {format_seconds(segment.start_s)} ({label})")
            words = [f"{segment.name} {ran}", segment.name]
            drawing.label_in(begin, top + 13, end - begin, words, COLOURS.of(segment.name))
        late_s = picture.late_s[place] if place < len(picture.late_s) else 0.0
        if late_s and segments:
            _late(drawing, x, (segments[0].start_s - late_s, segments[0].start_s), top, height)
        for segment in picture.predicted[place] if place < len(picture.predicted) else ():
            begin, end = x(segment.start_s), x(segment.end_s)
            fill = "none" if segment.guessed else COLOURS.of(segment.name)
            drawing.rect(begin, top + height + 2, end - begin, 4, fill=fill, stroke=INK)
    base = 4 + row * len(picture.lanes)
    unit = _time_axis(drawing, x, base)
    scale = f"time since the batch came ({unit})"
    drawing.text(_RIGHT, base + 31, scale, anchor="end")
    said = "thick: measured, thin: predicted, grey: idle" if picture.predicted else "bars: measured, grey: idle"
    if any(segment.guessed for lane in picture.predicted for segment in lane):
        said = said.replace("predicted", "predicted (hollow: extrapolated)")
    if any(segment.guessed for _, segments in picture.lanes for segment in segments):
        said += ", hollow: not done"
    if any(picture.late_s):
        said += ", hatched: began late"
    drawing.height = drawing.caption(6, base + 31, said, beside=text_width(scale) + WIDTH - _RIGHT) - 7
    return drawing.svg()


def _late(drawing: Drawing, x: Axis, gap_s: tuple[float, float], top: float, height: float) -> None:
    """A hatched gap before a lane that began late, with how late."""
    begin, end = x(max(gap_s[0], 0.0)), x(gap_s[1])
    words = f"{format_seconds(gap_s[1] - gap_s[0])} late"
    middle = top + height / 2
    drawing.line(begin, middle, end, middle, stroke=_LATE, dash="1 4", width=height)
    if text_width(words) + 8 < end - begin:
        drawing.rect(begin + 2, top, text_width(words) + 4, height, fill=FAINT)  # words among hatches cannot be read
        drawing.text(begin + 4, top + 13, words)


def bars(picture: rows.Bars) -> Markup:
    """A bar per strategy with its spread; the bound as a dashed line."""
    row, left = 24.0, _left_for([bar.label for bar in picture.bars])
    drawing = Drawing(row * len(picture.bars) + 40, "median JCT of each strategy")
    most = max([bar.median_s + bar.spread_s / 2 for bar in picture.bars] + [picture.bound_s or 0, 1e-9])
    x = Axis(0, most, left, _RIGHT - 66)
    middles: list[tuple[float, float, float, float]] = []
    ends: list[tuple[float, float, float, float]] = []
    for place, bar in enumerate(picture.bars):
        top = 4 + row * place
        drawing.text(left - 6, top + 13, shortened(bar.label, left - 6), anchor="end")
        drawing.rect(left, top + 1, x(bar.median_s) - left, 16, fill=PALETTE[1] if bar.chosen else PALETTE[0])
        low, high = x(bar.median_s - bar.spread_s / 2), x(bar.median_s + bar.spread_s / 2)
        middles.append((low, top + 9, high, top + 9))
        ends += [(end, top + 5, end, top + 13) for end in (low, high)]
        drawing.text(high + 6, top + 13, format_seconds(bar.median_s))
        drawing.says(f"{bar.label} {format_seconds(bar.median_s)} ± {format_seconds(bar.spread_s)}")
    drawing.lines(middles, width=2)
    drawing.lines(ends)
    base = 4 + row * len(picture.bars)
    unit = _time_axis(drawing, x, base)
    said = "whiskers: interquartile range"
    if picture.bound_s is not None:
        at = x(picture.bound_s)
        drawing.line(at, 0, at, base, dash="4 3", stroke="#D55E00", width=2)
        said += f", dashed: proven bound {format_seconds(picture.bound_s)}"
    drawing.text(_RIGHT - 66, base + 31, f"JCT ({unit})", anchor="end")
    drawing.height = drawing.caption(6, base + 31, said, beside=text_width("JCT (ms)") + WIDTH - _RIGHT + 66) - 7
    return drawing.svg()


def history(picture: rows.SearchHistory) -> Markup:
    """Best JCT so far, as steps; the exact optimum as a dashed line."""
    points = [point for _, trace in picture.traces for point in trace]
    drawing = Drawing(_PLANE + 24, "best JCT so far of each search")
    if not points:
        return drawing.svg()
    most = max(s for _, s in points)
    least = min([s for _, s in points] + ([] if picture.exact_s is None else [picture.exact_s]))
    first, last = min(at for at, _ in points), max(at for at, _ in points)
    log = first > 0 and last / first > 20
    x = Axis(first if log else 0, last, _LEFT, _RIGHT, log=log)
    room = max(most - least, 0.02 * most)
    y = Axis(max(0.0, least - 0.15 * room), most + 0.1 * room, _PLANE - 40, 12)
    unit, written = time_format(most)
    left_ticks(drawing, x, y, written)
    frame(drawing, x, y, picture.x_label, f"best JCT ({unit})", x_format=lambda tick: f"{tick:g}")
    for index, (_, trace) in enumerate(picture.traces):
        steps: list[tuple[float, float]] = []
        for at, seconds in trace:
            if steps:
                steps.append((x(at), steps[-1][1]))
            steps.append((x(at), y(seconds)))
        if steps:
            steps.append((x.end, steps[-1][1]))
            drawing.path(steps, stroke=colour(index))
            for at, seconds in trace if len(trace) <= 40 else ():
                drawing.dot(x(at), y(seconds), fill=colour(index), radius=2.5)
    entries = [(colour(index), label) for index, (label, _) in enumerate(picture.traces)]
    if picture.exact_s is not None:
        drawing.line(x.start, y(picture.exact_s), x.end, y(picture.exact_s), dash="4 3", stroke="#D55E00", width=2)
        entries.append(("#D55E00", f"exact {format_seconds(picture.exact_s)} (dashed)"))
    drawing.height = drawing.legend(_PLANE + 8, _LEFT, entries)
    return drawing.svg()


def load(picture: rows.LoadCurves) -> Markup:
    """99th percentiles against the rate, one line for each way; medians dashed below. What never ends is at the top."""
    drawing = Drawing(_PLANE + 24, "latency against the rate of requests")
    points = [point for _, way in picture.ways for point in way]
    times = [s for _, *both in points for s in both if math.isfinite(s)]
    if not points:
        return drawing.svg()
    top = 1.3 * max([*times, picture.deadline_s])
    x = Axis(0, 1.05 * max(rate for rate, _, _ in points), _LEFT, _RIGHT)
    y = Axis(0.7 * min([*times, picture.deadline_s]), top, _PLANE - 40, 12, log=True)
    unit, written = time_format(top)
    left_ticks(drawing, x, y, written)
    frame(drawing, x, y, "requests per second", f"latency ({unit})", x_format=lambda tick: f"{tick:g}")
    drawing.line(x.start, y(picture.deadline_s), x.end, y(picture.deadline_s), dash="4 3", stroke="#D55E00", width=2)
    for index, (_, way) in enumerate(picture.ways):
        drawing.path([(x(rate), y(min(p99, top))) for rate, _, p99 in way], stroke=colour(index))
        for rate, median, p99 in way:
            drawing.dot(x(rate), y(min(p99, top)), fill=colour(index), radius=4)
            drawing.dot(x(rate), y(min(median, top)), fill=colour(index), radius=2)
    entries = [(colour(index), label) for index, (label, _) in enumerate(picture.ways)]
    entries.append(("#D55E00", f"deadline {format_seconds(picture.deadline_s)} (dashed); lines: p99, small dots: p50"))
    drawing.height = drawing.legend(_PLANE + 8, _LEFT, entries)
    return drawing.svg()


def front(picture: rows.Front) -> Markup:
    """Every choice of sub-models as a dot; those that no other beats in both are joined and named."""
    drawing = Drawing(_PLANE + 4, "accuracy against JCT")
    if not picture.points:
        return drawing.svg()
    times, rates = [p[1] for p in picture.points], [p[2] for p in picture.points]
    x = Axis(0, max(times) * 1.05, _LEFT, _RIGHT)
    room = max(max(rates) - min(rates), 0.01)
    y = Axis(max(0.0, min(rates) - 0.1 * room), min(1.0, max(rates) + 0.15 * room), _PLANE - 40, 12)
    unit, written = time_format(max(times))
    left_ticks(drawing, x, y, lambda rate: f"{100 * rate:.4g}")
    frame(drawing, x, y, f"JCT ({unit})", "accuracy (%)", x_format=written)
    best = sorted(p[1:] for p, on in zip(picture.points, picture.on_front, strict=True) if on)
    drawing.path([(x(s), y(rate)) for s, rate in best], stroke=PALETTE[1])
    told = picture.told or ("",) * len(picture.points)
    named: list[tuple[float, float]] = []  # where labels stand
    for (label, seconds, rate), on, says in zip(picture.points, picture.on_front, told, strict=True):
        if on:
            drawing.says(f"{label} {100 * rate:.4g} % in {format_seconds(seconds)}")
        drawing.dot(x(seconds), y(rate), fill=PALETTE[1] if on else PALETTE[0], radius=4 if on else 2.5, title=says)
        at = x(seconds), y(rate)
        close = any(abs(at[0] - left) < text_width(label) and abs(at[1] - top) < _LETTER_PX for left, top in named)
        if on and not close:  # of points that lie on each other the first is named; the table below has all
            named.append(at)
            end = "end" if x(seconds) + text_width(label) > _RIGHT else "start"
            drawing.text(x(seconds) + (6 if end == "start" else -6), y(rate) - 6, label, anchor=end)
    return drawing.svg()


def shares(picture: rows.Shares) -> Markup:
    """A plan as an area: a lane's height is its share, its length its predicted time; grey is unused."""
    total = sum(lane.units for lane in picture.lanes)
    labels = [_share_label(lane, picture.units) for lane in picture.lanes]
    left, tall = _left_for(labels), 150.0
    least = 20.0
    heights = [max(least, tall * lane.units / max(total, picture.units)) for lane in picture.lanes]
    apart = any(lane.place for lane in picture.lanes)  # then what is free is so here or there, now or then
    free = 0 if apart else picture.units - total
    spare = max(12.0, tall * free / picture.units) if free > 0 else 0.0
    drawing = Drawing(sum(heights) + 3 * len(heights) + spare + 46, "the plan: shares by predicted time")
    ends = [lane.after_s + sum(seconds or 0.0 for _, seconds in lane.members) for lane in picture.lanes]
    known = all(seconds is not None for lane in picture.lanes for _, seconds in lane.members)
    x = Axis(0, max(*ends, picture.bound_s or 0.0, 1e-9) if known else 1, left, _RIGHT)
    top = 4.0
    for lane, height, label in zip(picture.lanes, heights, labels, strict=True):
        drawing.text(left - 6, top + height / 2 + 4, shortened(label, left - 6), anchor="end")
        drawing.rect(left, top, _RIGHT - left, height, fill=FAINT)
        at = lane.after_s if known else 0.0
        marks = lane.unmeasured or ("",) * len(lane.members)
        for (name, seconds), mark in zip(lane.members, marks, strict=True):
            end = at + (seconds or 0.0) if known else at + 1 / len(lane.members)
            drawing.rect(x(at), top, x(end) - x(at) - 1, height, fill=COLOURS.of(name))
            words = [f"{name} {format_seconds(seconds)}", name] if known else [name]
            drawing.says(f"{words[0]} ({label})")
            if mark:
                words = [f"{words[0]} ({mark})", *(f"{word} (?)" for word in words), "?"]
            drawing.label_in(x(at), top + height / 2 + 4, x(end) - x(at), words, COLOURS.of(name))
            at = end
        top += height + 3
    if spare:
        drawing.text(left - 6, top + spare / 2 + 4, f"{free} free", anchor="end")
        drawing.rect(left, top, _RIGHT - left, spare, fill="none", stroke=FAINT)
        top += spare + 3
    said, beside = f"height: share in {plural(picture.unit)}", 0.0
    if known:
        unit = _time_axis(drawing, x, top)
        drawing.text(_RIGHT, top + 31, f"predicted time ({unit})", anchor="end")
        beside = text_width("predicted time (ms)") + WIDTH - _RIGHT
        if picture.bound_s is not None:
            at = x(picture.bound_s)
            drawing.line(at, 2, at, top, dash="4 3", stroke="#D55E00", width=2)
            said += f", dashed: proven bound {format_seconds(picture.bound_s)}"
    else:
        drawing.line(left, top, _RIGHT, top)
    if known and any(lane.after_s for lane in picture.lanes):
        said += ", stages: as if no input left"
    if any(any(lane.unmeasured) for lane in picture.lanes):
        said += ", ?: extrapolated"
    drawing.height = drawing.caption(6, top + 31, said, beside=beside) - 7
    return drawing.svg()


def _share_label(lane: rows.Share, units: int) -> str:
    share = f"{lane.units} of {lane.of_units or units}"
    return f"{lane.place}: {share}" if lane.place else share


def _time_axis(drawing: Drawing, x: Axis, base: float) -> str:
    """The lower axis of a picture by time, with its ticks; returns the unit that they are in."""
    unit, written = time_format(x.high)
    drawing.lines([(x.start, base, x.end, base), *((x(tick), base, x(tick), base + 4) for tick in x.ticks(6))])
    for tick in x.ticks(6):
        drawing.text(x(tick), base + 15, written(tick), anchor="middle")
    return unit


def _fitted(drawing: Drawing, points: list[tuple[float, float]], guessed: tuple[bool, ...], stroke: str) -> None:
    """The fitted line, dashed from and to the shares that no measurement is near."""
    marks = guessed or (False,) * len(points)
    if not any(marks):
        drawing.path(points, stroke=stroke)
        return
    begin = 0
    for dashed, own in itertools.groupby(map(any, itertools.pairwise(marks))):
        end = begin + len(list(own))
        drawing.path(points[begin : end + 1], stroke=stroke, dash="3 3" if dashed else "")
        begin = end


def _left_for(labels: list[str]) -> float:
    return min(200.0, max([40.0, *(text_width(label) + 14 for label in labels)]))
