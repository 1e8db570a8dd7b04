"""A picture of points in a plane: what the front of members is shown as."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from html import escape

_DOT, _LINE = "#0072B2", "#56B4E9"  # of the Okabe-Ito palette, which colour-blind people can tell apart


@dataclass(frozen=True, slots=True, kw_only=True)
class Scatter:
    """Points in a plane, joined by a line: (x, y, label) each, by rising x; what the axes are and how to write them."""

    points: tuple[tuple[float, float, str], ...]
    x_axis: str
    y_axis: str
    x_text: Callable[[float], str] = str
    y_text: Callable[[float], str] = str


def scatter_svg(plot: Scatter) -> str:
    """The points as one small SVG, in the page's own text colour."""
    left, top, width, height = 70, 14, 420, 180
    xs, ys = [x for x, _, _ in plot.points], [y for _, y, _ in plot.points]
    x_span, y_span = (max(xs) - min(xs)) or 1.0, (max(ys) - min(ys)) or 1.0
    at = [
        (left + 10 + (width - 20) * (x - min(xs)) / x_span, top + height - 10 - (height - 20) * (y - min(ys)) / y_span)
        for x, y, _ in plot.points
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
    dots = "".join(
        f"<g><title>{escape(f'{label}: {plot.x_text(x_value)}, {plot.y_text(y_value)}')}</title>"
        f"<circle cx='{x:.1f}' cy='{y:.1f}' r='4' fill='{_DOT}'/>"
        f"<text x='{x:.1f}' y='{y - 7:.1f}' fill='currentColor' text-anchor='middle'>{escape(label)}</text></g>"
        for (x, y), (x_value, y_value, label) in zip(at, plot.points, strict=True)
    )
    bottom = top + height
    texts = (
        (left, bottom + 14, "start", plot.x_text(min(xs))),
        (left + width / 2, bottom + 14, "middle", plot.x_axis),
        (left + width, bottom + 14, "end", plot.x_text(max(xs))),
        (left - 4, bottom - 6, "end", plot.y_text(min(ys))),
        (left - 4, top + height / 2, "end", plot.y_axis),
        (left - 4, top + 14, "end", plot.y_text(max(ys))),
    )
    words = "".join(
        f"<text x='{x:.0f}' y='{y:.0f}' fill='currentColor' text-anchor='{anchor}'>{escape(text)}</text>"
        for x, y, anchor, text in texts
    )
    return (
        f"<svg role='img' aria-label='{escape(plot.y_axis)} against {escape(plot.x_axis)}' "
        f"viewBox='0 0 {left + width + 10} {bottom + 20}' width='{left + width + 10}' "
        f"style='max-width:100%;display:block' font-size='12' font-family='sans-serif'>"
        f"<path d='M{left},{top}V{bottom}H{left + width}' fill='none' stroke='currentColor'/>"
        f"<polyline points='{line}' fill='none' stroke='{_LINE}'/>{dots}{words}</svg>"
    )
