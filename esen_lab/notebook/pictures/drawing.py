"""The base of all pictures: shapes, axes, ticks, legends.

A picture is shown as `<img>` with a data address: GitHub and untrusted notebooks drop SVG that stands in HTML, but keep
images. An image knows nothing of the page's theme (`currentColor` is black in it, and `prefers-color-scheme` is
the system's, not JupyterLab's). So nothing is black or white: lines and text are a grey that stands out 4 : 1 from any
page, the background stays clear, and fills are from the palette of Okabe and Ito (2008), which colour-blind people
can tell apart.
"""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Callable, Sequence
from html import escape

PALETTE = ("#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#0072B2", "#D55E00", "#F0E442", "#999999")
INK = "#7a7a7a"  # 4.3 : 1 on white, 4.4 : 1 on JupyterLab's dark page
FAINT = "#7a7a7a44"
WIDTH = 640
# What most shapes share, said once: every byte of a picture stays in the notebook.
_STYLE = f"<style>.m{{text-anchor:middle}}.e{{text-anchor:end}}.i{{stroke:{INK}}}.f{{stroke:{FAINT}}}</style>"
_ANCHOR = {"start": "", "middle": " class='m'", "end": " class='e'"}
_STROKE = {INK: "class='i'", FAINT: "class='f'"}
_LETTER = 6.3  # mean width of a letter at 11 px


def colour(index: int) -> str:
    """The palette's colour number `index`, around and around."""
    return PALETTE[index % len(PALETTE)]


def text_width(text: str) -> float:
    """About how wide a text is at the usual size."""
    return _LETTER * len(text)


def _px(value: float) -> str:
    """A tenth of a pixel is enough."""
    return f"{value:.1f}".removesuffix(".0")


class Drawing:
    """Shapes on a clear page, in the order they are added.

    Args:
        height: In pixels.
        label: What the picture shows, for those who cannot see it.
        width: In pixels.
    """

    def __init__(self, height: float, label: str, width: float = WIDTH) -> None:
        self.width, self.height = width, height
        self._label = label
        self._parts: list[str] = []

    def text(
        self, x: float, y: float, text: str, *, anchor: str = "start", fill: str = INK, turn: bool = False
    ) -> None:
        """A text whose base line is at y."""
        turned = f" transform='rotate(-90 {_px(x)} {_px(y)})'" if turn else ""
        where = _ANCHOR[anchor]
        filled = "" if fill == INK else f" fill='{fill}'"
        self._parts.append(f"<text x='{x:.0f}' y='{y:.0f}'{filled}{where}{turned}>{escape(text)}</text>")

    def line(
        self, x1: float, y1: float, x2: float, y2: float, *, stroke: str = INK, dash: str = "", width: float = 1
    ) -> None:
        """A straight line."""
        dashed = f" stroke-dasharray='{dash}'" if dash else ""
        thick = "" if width == 1 else f" stroke-width='{width:g}'"
        coloured = _STROKE.get(stroke) or f"stroke='{stroke}'"
        to = f"V{_px(y2)}" if x1 == x2 else f"H{_px(x2)}" if y1 == y2 else f"L{_px(x2)} {_px(y2)}"
        self._parts.append(f"<path d='M{_px(x1)} {_px(y1)}{to}' {coloured}{thick}{dashed}/>")

    def rect(self, x: float, y: float, width: float, height: float, *, fill: str, stroke: str = "none") -> None:
        """A filled rectangle, at least half a pixel wide."""
        edge = "" if stroke == "none" else f" stroke='{stroke}'"
        self._parts.append(
            f"<rect x='{_px(x)}' y='{_px(y)}' width='{_px(max(width, 0.5))}' height='{_px(max(height, 0.5))}' "
            f"fill='{fill}'{edge}/>"
        )

    def path(self, points: Sequence[tuple[float, float]], *, stroke: str, dash: str = "") -> None:
        """A line through points."""
        if len(points) > 1:
            where = " ".join(f"{_px(x)},{_px(y)}" for x, y in points)
            dashed = f" stroke-dasharray='{dash}'" if dash else ""
            self._parts.append(f"<polyline points='{where}' fill='none' stroke='{stroke}' stroke-width='2'{dashed}/>")

    def dot(self, x: float, y: float, *, fill: str, radius: float = 3.5, stroke: str = "none") -> None:
        """A dot."""
        edge = "" if stroke == "none" else f" stroke='{stroke}' stroke-width='1.5'"
        self._parts.append(f"<circle cx='{_px(x)}' cy='{_px(y)}' r='{radius:g}' fill='{fill}'{edge}/>")

    def label_in(self, x: float, y: float, width: float, choices: Sequence[str]) -> None:
        """The first of the texts that fits into a filled bar; black, which every colour of the palette allows."""
        fitting = next((text for text in choices if text_width(text) + 6 < width), "")
        if fitting:
            self.text(x + 4, y, fitting, fill="#000")

    def legend(self, y: float, left: float, entries: Sequence[tuple[str, str]]) -> float:
        """Coloured squares with names, in rows; returns the y below them."""
        x = left
        for fill, name in entries:
            needed = 18 + text_width(name) + 10
            if x > left and x + needed > self.width:
                x, y = left, y + 16
            self.rect(x, y - 9, 10, 10, fill=fill)
            self.text(x + 15, y, name)
            x += needed
        return y + 16 if entries else y

    def svg(self) -> str:
        """The whole document."""
        return (
            f"<svg xmlns='http://www.w3.org/2000/svg' role='img' aria-label='{escape(self._label)}' "
            f"viewBox='0 0 {self.width:g} {self.height:g}' width='{self.width:g}' height='{self.height:g}' "
            f"font-size='11' font-family='sans-serif' fill='{INK}'>{_STYLE}{''.join(self._parts)}</svg>"
        )


def as_image(svg: str) -> str:
    """HTML of an image that holds the SVG, under the SVG's own label."""
    # Base64, although percent signs are a quarter smaller: it is the form that GitHub is reported to show in notebooks.
    data = b64encode(svg.encode()).decode()
    label = svg.partition("aria-label='")[2].partition("'")[0]  # escaped there already
    return f'<img alt="{label}" src="data:image/svg+xml;base64,{data}" style="max-width:100%;display:block"/>'


class Axis:
    """Numbers -> pixels, linear or logarithmic, with round ticks.

    Args:
        low: The smallest number to show; above 0 for a logarithmic axis.
        high: The largest.
        start: The pixel of `low`.
        end: The pixel of `high`.
        log: Whether equal ratios take equal room.
    """

    def __init__(self, low: float, high: float, start: float, end: float, *, log: bool = False) -> None:
        if log:
            low, high = max(low, 1e-12), max(high, 1e-12)
        if not high > low:
            high = low * 1.1 if low > 0 else low + 1.0
        self.low, self.high, self.start, self.end, self.log = low, high, start, end, log

    def __call__(self, number: float) -> float:
        """The pixel of a number; numbers outside are held at the edge."""
        held = min(max(number, self.low), self.high)
        if self.log:
            part = math.log(held / self.low) / math.log(self.high / self.low)
        else:
            part = (held - self.low) / (self.high - self.low)
        return self.start + part * (self.end - self.start)

    def ticks(self, about: int = 5) -> list[float]:
        """Round numbers within the axis, about so many."""
        if self.log and self.high / self.low > 4:
            found = [
                factor * 10.0**power
                for power in range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
                for factor in (1, 2, 5)
            ]
            inside = [tick for tick in found if self.low * 0.999 <= tick <= self.high * 1.001]
            return inside if len(inside) <= 2 * about else [t for t in inside if f"{t:.0e}".startswith("1")]
        step = _round_step((self.high - self.low) / about)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [number * step for number in range(first, last + 1)]


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)


def time_format(largest_s: float) -> tuple[str, Callable[[float], str]]:
    """The unit in which times up to `largest_s` read well, and how a number of seconds is written in it."""
    unit, scale = ("s", 1.0) if largest_s >= 1 else ("ms", 1e3) if largest_s >= 1e-3 else ("µs", 1e6)
    return unit, lambda seconds: f"{seconds * scale:.4g}"


def frame(
    drawing: Drawing,
    x: Axis,
    y: Axis,
    x_label: str,
    y_label: str,
    *,
    x_format: Callable[[float], str],
    whole: bool = False,
) -> None:
    """The lower axis with ticks and grid (at `whole` numbers only, where there are no others), and both labels."""
    for tick in x.ticks(7):
        if whole and abs(tick - round(tick)) > 1e-9:
            continue
        at = x(tick)
        drawing.line(at, y.end, at, y.start, stroke=FAINT)
        drawing.text(at, y.start + 14, x_format(tick), anchor="middle")
    drawing.line(x.start, y.start, x.end, y.start)
    drawing.text((x.start + x.end) / 2, y.start + 29, x_label, anchor="middle")
    drawing.text(12, (y.start + y.end) / 2, y_label, anchor="middle", turn=True)


def left_ticks(drawing: Drawing, x: Axis, y: Axis, y_format: Callable[[float], str]) -> None:
    """Ticks and a grid for the upright axis."""
    for tick in y.ticks():
        at = y(tick)
        drawing.line(x.start, at, x.end, at, stroke=FAINT)
        drawing.text(x.start - 5, at + 4, y_format(tick), anchor="end")
    drawing.line(x.start, y.start, x.start, y.end)
