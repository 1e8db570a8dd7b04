"""JCT over time: one dot per measurement in its order, and a line where something changed, named below."""

from __future__ import annotations

import itertools
import string

from esen_lab.ui.colours import PALETTE
from esen_lab.ui.markup import Markup
from esen_lab.ui.pictures import rows
from esen_lab.ui.pictures.drawing import (
    FAINT,
    INK,
    WIDTH,
    Axis,
    Drawing,
    left_ticks,
    shortened,
    text_width,
    time_format,
)

_LEFT, _RIGHT, _TOP, _BOTTOM = 62.0, WIDTH - 14.0, 26.0, 190.0
_MOST_NAMED = 12
_APART = 20.0  # px between two letters
_COLOURS = {"comparison": PALETTE[0], "runs": PALETTE[2]}
_BOUND = "#D55E00"


def moments(picture: rows.Moments) -> Markup:
    """Medians with their intervals; dashed lines where something changed; the bound as a short stroke."""
    drawing = Drawing(_BOTTOM + 50, "measured JCT over time, with what changed")
    if not picture.moments:
        return drawing.svg()
    edges = [s for m in picture.moments for s in (m.median_s, m.low_s, m.high_s, m.bound_s) if s is not None]
    x = Axis(-0.5, len(picture.moments) - 0.5, _LEFT, _RIGHT)
    log = min(edges) > 0 and max(edges) / min(edges) > 4
    y = Axis(min(edges) * 0.9 if log else 0.0, max(edges) * 1.08, _BOTTOM, _TOP, log=log)
    unit, written = time_format(max(edges))
    left_ticks(drawing, x, y, written)
    drawing.text(12, (y.start + y.end) / 2, f"JCT ({unit})", anchor="middle", turn=True)
    drawing.line(x.start, y.start, x.end, y.start)
    named = picture.marks[-_MOST_NAMED:]
    for place, _ in named:
        drawing.line(x(place - 0.5), _TOP - 8, x(place - 0.5), y.start, stroke=INK, dash="3 3")
    for first, last, letters in _lettered([x(place - 0.5) for place, _ in named]):
        drawing.text((first + last) / 2, _TOP - 12, letters, anchor="middle")
    _dots(drawing, x, y, picture.moments)
    widest = max(text_width(moment.label) for moment in picture.moments) + 6
    every = 1 + int(len(picture.moments) * widest / (_RIGHT - _LEFT))
    for place, moment in enumerate(picture.moments):
        if place % every == 0:
            drawing.text(x(place), y.start + 14, moment.label, anchor="middle")
    drawing.text((x.start + x.end) / 2, y.start + 29, "number in the history", anchor="middle")
    drawing.height = _below(drawing, picture, named)
    return drawing.svg()


def _lettered(places: list[float]) -> list[tuple[float, float, str]]:
    """(first place, last place, letters): of lines that stand closer than letters can, "A–C" over all of them."""
    found: list[tuple[float, float, str]] = []
    for place, letter in zip(places, string.ascii_uppercase, strict=False):
        if found and place - found[-1][1] < _APART:
            first, _, letters = found[-1]
            found[-1] = (first, place, f"{letters[0]}–{letter}")
        else:
            found.append((place, place, letter))
    return found


def _dots(drawing: Drawing, x: Axis, y: Axis, shown: tuple[rows.Moment, ...]) -> None:
    middles = [(x(place), y(moment.median_s)) for place, moment in enumerate(shown)]
    drawing.lines([(*one, *other) for one, other in itertools.pairwise(middles)], stroke=FAINT, width=2)
    for place, moment in enumerate(shown):
        if moment.bound_s is not None:
            drawing.line(x(place) - 7, y(moment.bound_s), x(place) + 7, y(moment.bound_s), stroke=_BOUND, width=2)
        if moment.low_s is not None and moment.high_s is not None:
            drawing.line(x(place), y(moment.low_s), x(place), y(moment.high_s), width=2)
    for place, moment in enumerate(shown):
        drawing.dot(x(place), y(moment.median_s), fill=_COLOURS.get(moment.kind, PALETTE[7]), radius=4)


def _below(drawing: Drawing, picture: rows.Moments, named: tuple[tuple[int, str], ...]) -> float:
    """The legend, and what changed where; returns the height of all."""
    kinds = [kind for kind in _COLOURS if any(moment.kind == kind for moment in picture.moments)]
    entries = [(_COLOURS[kind], kind) for kind in kinds]
    if any(moment.bound_s is not None for moment in picture.moments):
        entries.append((_BOUND, "proven bound"))
    base = drawing.legend(_BOTTOM + 48, 6, entries)
    drawing.text(6, base, "dots: median, bars: where the true median lies (95 %)")
    base += 16
    for letter, (place, words) in zip(string.ascii_uppercase, named, strict=False):
        told = f"{letter}, before {picture.moments[place].label}: {words}"
        drawing.text(6, base, shortened(told, WIDTH - 12))
        base += 15
    return base + 2
