"""The picture of readings over time: what a notebook keeps of live plots."""

from __future__ import annotations

from esen_lab.ui.colours import colour
from esen_lab.ui.markup import Markup
from esen_lab.ui.pictures import rows
from esen_lab.ui.pictures.drawing import FAINT, WIDTH, Axis, Drawing

_LEFT, _RIGHT, _TALL = 62.0, WIDTH - 14.0, 84.0
_MOST_NAMED = 8  # lines with a name below each other; the rest are counted


def traces(picture: rows.ReadingTraces) -> Markup:
    """A plot per group, one below another, over the same seconds; holes where nothing was read."""
    drawing = Drawing(10, "readings over time")
    top = 0.0
    for plot in picture.plots:
        top = _plot(drawing, plot, picture.span_s, top)
    drawing.text((_LEFT + _RIGHT) / 2, top + 2, f"seconds before {picture.until}", anchor="middle")
    drawing.height = top + 10
    return drawing.svg()


def _plot(drawing: Drawing, plot: rows.Plot, span_s: float, top: float) -> float:
    """One plot from `top` down; returns where the next may begin."""
    values = [value for line in plot.lines for _, value in line.points if value is not None]
    x = Axis(-max(span_s, 1.0), 0, _LEFT, _RIGHT)
    y = Axis(0, plot.most or max([*values, 0.0]) * 1.05, top + 18 + _TALL, top + 18)
    drawing.text(_LEFT, top + 12, plot.title)
    ticks = y.ticks(3)
    drawing.lines([(x.start, y(tick), x.end, y(tick)) for tick in ticks], stroke=FAINT)
    for tick in ticks:
        drawing.text(x.start - 5, y(tick) + 4, f"{tick:.4g}", anchor="end")
    strokes = [line.stroke or colour(index) for index, line in enumerate(plot.lines)]
    for index, line in enumerate(plot.lines):
        stroke = strokes[index]
        read = [value for _, value in line.points if value is not None]
        if read:
            drawing.says(f"{line.label} {min(read):.3g} to {max(read):.3g}, at last {read[-1]:.3g}")
        piece: list[tuple[float, float]] = []
        for at_s, value in (*line.points, (0.0, None)):
            if value is not None:
                piece.append((x(at_s), y(value)))
                continue
            if len(piece) == 1:
                drawing.dot(*piece[0], fill=stroke, radius=1.5)
            drawing.path(piece, stroke=stroke)
            piece = []
    drawing.line(x.start, y.start, x.end, y.start)
    for tick in x.ticks(6):
        drawing.text(x(tick), y.start + 13, f"{tick:g}", anchor="middle")
    named = [(stroke, line.label) for stroke, line in zip(strokes, plot.lines[:_MOST_NAMED], strict=False)]
    rest = len(plot.lines) - len(named)
    if rest:
        named.append(("none", f"and {rest} more"))
    return drawing.legend(y.start + 28, _LEFT, named) + 4
