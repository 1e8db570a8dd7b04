"""The base of all pictures: shapes, axes, ticks, legends.

A picture is shown as `<img>` with a data address: GitHub and untrusted notebooks drop SVG that stands in HTML, but keep
images. An image knows nothing of the page's theme (`currentColor` is black in it, and `prefers-color-scheme` is
the system's, not JupyterLab's), and no grey stands out 4.5 : 1 from a white and a black page. So a picture brings its
own light paper, on which text does; fills are from `ui/colours.py`.
"""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Callable, Sequence
from html import unescape

from esen_lab.common.fitting import beginning, width_of, wrap
from esen_lab.terminal import visible_line
from esen_lab.ui.colours import ink_on
from esen_lab.ui.markup import ON_TO_THE_RIGHT, Markup, element

PAPER = "#fafafa"
INK = "#555"  # 7.1 : 1 on the paper
FAINT = "#ddd"
WIDTH = 640
# What most shapes share, said once: every byte of a picture stays in the notebook.
_NARROW_PX = 600  # an image knows its own width: below this one it is made smaller, and its letters larger
_STYLE = (
    f"@media(max-width:{_NARROW_PX}px){{text{{font-size:14px}}}}"
    f".m{{text-anchor:middle}}.e{{text-anchor:end}}.i{{stroke:{INK}}}.f{{stroke:{FAINT}}}"
)
_ANCHOR = {"start": None, "middle": "m", "end": "e"}
_STROKE = {INK: "i", FAINT: "f"}
_BETWEEN = " \u2014 "  # between what a picture is and its values
_LEAST_LETTERS = 3  # of the beginning of a name
_LETTER = 8.0  # mean width of a letter at 14 px: what fits in a narrow page fits in all


def text_width(text: str) -> float:
    """About how wide a text is at its largest."""
    return _LETTER * width_of(text)


def shortened(text: str, room: float) -> str:
    """The text, or how it begins where it is wider than so many pixels."""
    return text if text_width(text) <= room else beginning(text, int(room / _LETTER) - 1) + "…"


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
        self._values: list[str] = []
        self._parts: list[Markup] = []

    def text(
        self, x: float, y: float, text: str, *, anchor: str = "start", fill: str = INK, turn: bool = False
    ) -> None:
        """A text whose base line is at y."""
        self._parts.append(
            element(
                "text",
                text if text.isprintable() else visible_line(text),
                x=f"{x:.0f}",
                y=f"{y:.0f}",
                fill=None if fill == INK else fill,
                class_=_ANCHOR[anchor],
                transform=f"rotate(-90 {_px(x)} {_px(y)})" if turn else None,
            )
        )

    def line(
        self, x1: float, y1: float, x2: float, y2: float, *, stroke: str = INK, dash: str = "", width: float = 1
    ) -> None:
        """A straight line."""
        self.lines([(x1, y1, x2, y2)], stroke=stroke, dash=dash, width=width)

    def lines(
        self, lines: Sequence[tuple[float, float, float, float]], *, stroke: str = INK, dash: str = "", width: float = 1
    ) -> None:
        """Straight lines that look alike, each from (x1, y1) to (x2, y2), as one element: notebooks keep pictures."""
        ways = []
        for x1, y1, x2, y2 in lines:
            to = f"V{y2:.0f}" if x1 == x2 else f"H{x2:.0f}" if y1 == y2 else f"L{x2:.0f} {y2:.0f}"
            ways.append(f"M{x1:.0f} {y1:.0f}{to}")
        if not ways:
            return
        self._parts.append(
            element(
                "path",
                d="".join(ways),
                class_=_STROKE.get(stroke),
                stroke=None if stroke in _STROKE else stroke,
                stroke_width=None if width == 1 else f"{width:g}",
                stroke_dasharray=dash or None,
            )
        )

    def rect(self, x: float, y: float, width: float, height: float, *, fill: str, stroke: str = "none") -> None:
        """A filled rectangle, at least half a pixel wide."""
        self._parts.append(
            element(
                "rect",
                x=_px(x),
                y=_px(y),
                width=_px(max(width, 0.5)),
                height=_px(max(height, 0.5)),
                fill=fill,
                stroke=None if stroke == "none" else stroke,
            )
        )

    def path(self, points: Sequence[tuple[float, float]], *, stroke: str, dash: str = "") -> None:
        """A line through points."""
        if len(points) > 1:
            where = " ".join(f"{_px(x)},{_px(y)}" for x, y in points)
            self._parts.append(
                element(
                    "polyline",
                    points=where,
                    fill="none",
                    stroke=stroke,
                    stroke_width="2",
                    stroke_dasharray=dash or None,
                )
            )

    def dot(self, x: float, y: float, *, fill: str, radius: float = 3.5, stroke: str = "none", title: str = "") -> None:
        """A dot; `title` is told to whoever points at it, where the picture is a document of its own."""
        edged = stroke != "none"
        told = title if title.isprintable() else visible_line(title)
        self._parts.append(
            element(
                "circle",
                *([element("title", told)] if title else []),
                cx=_px(x),
                cy=_px(y),
                r=f"{radius:g}",
                fill=fill,
                stroke=stroke if edged else None,
                stroke_width="1.5" if edged else None,
            )
        )

    def label_in(self, x: float, y: float, width: float, choices: Sequence[str], fill: str) -> None:
        """The first of the texts that fits into a bar of that colour, black or white; else how the last one begins."""
        fitting = next((text for text in choices if text_width(text) + 6 < width), "")
        if not fitting and int((width - 6) / _LETTER) > _LEAST_LETTERS:
            fitting = shortened(choices[-1], width - 6)
        if fitting:
            self.text(x + 4, y, fitting, fill=ink_on(fill))

    def legend(self, y: float, left: float, entries: Sequence[tuple[str, str]]) -> float:
        """Coloured squares with names, in rows; returns the y below them."""
        x = left
        room = self.width - left - 28
        for fill, name in ((fill, shortened(whole, room)) for fill, whole in entries):
            needed = 18 + text_width(name) + 10
            if x > left and x + needed > self.width:
                x, y = left, y + 16
            self.rect(x, y - 9, 10, 10, fill=fill)
            self.text(x + 15, y, name)
            x += needed
        return y + 16 if entries else y

    def caption(self, x: float, y: float, text: str, beside: float = 0.0) -> float:
        """A text in as many lines as it takes, the first one with `beside` less room; returns the y below them."""
        room = int((self.width - x) / _LETTER)
        if beside and width_of(text) > room - beside / _LETTER - 2:
            y += 16
        for line in wrap(text, room) or [""]:
            self.text(x, y, line)
            y += 16
        return y

    def says(self, value: str) -> None:
        """A value that the picture shows, for who points at it: images have one hover text, and no elements."""
        self._values.append(visible_line(value))

    def svg(self) -> Markup:
        """The whole document."""
        return element(
            "svg",
            element("style", _STYLE),
            element("rect", width="100%", height="100%", fill=PAPER),
            *self._parts,
            xmlns="http://www.w3.org/2000/svg",
            role="img",
            aria_label=_BETWEEN.join([self._label, *self._values]),
            viewBox=f"0 0 {self.width:g} {self.height:g}",
            width=f"{self.width:g}",
            height=f"{self.height:g}",
            font_size="11",
            font_family="sans-serif",
            fill=INK,
        )


def as_image(svg: Markup) -> Markup:
    """HTML of an image that holds the SVG, under the SVG's own label.

    In a narrow page it is made smaller, and its letters are made larger: see `_STYLE`.
    """
    # Base64, although percent signs are a quarter smaller: it is the form that GitHub is reported to show in notebooks.
    head, _, rest = str(svg).partition(" role='img' aria-label='")
    label, _, tail = rest.partition("'")
    data = b64encode((head + tail).encode()).decode()  # the image has the label
    alt, *values = unescape(label).replace(ON_TO_THE_RIGHT, "").split(_BETWEEN)  # which gets its marks anew
    return element(
        "img",
        alt=alt,
        src=f"data:image/svg+xml;base64,{data}",
        title="; ".join(values) or None,
        style="display:block;max-width:100%;height:auto",
    )


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
        # A figure that is no number, or endless, must not keep the others from being drawn.
        low, high = (edge if math.isfinite(edge) else 0.0 for edge in (low, high))
        if log:
            low, high = max(low, 1e-12), max(high, 1e-12)
        if not high > low:
            high = low * 1.1 if low > 0 else low + 1.0
        self.low, self.high, self.start, self.end, self.log = low, high, start, end, log

    def __call__(self, number: float) -> float:
        """The pixel of a number; numbers outside are held at the edge, and what is none at the lower one."""
        if math.isnan(number):
            return self.start
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
    digits = ".0f" if largest_s * scale >= 10_000 else ".4g"  # hours: no powers of ten
    return unit, lambda seconds: f"{seconds * scale:{digits}}"


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
    ticks = [tick for tick in x.ticks(7) if not (whole and abs(tick - round(tick)) > 1e-9)]
    drawing.lines([(x(tick), y.end, x(tick), y.start) for tick in ticks], stroke=FAINT)
    for tick in ticks:
        drawing.text(x(tick), y.start + 14, x_format(tick), anchor="middle")
    drawing.line(x.start, y.start, x.end, y.start)
    drawing.text((x.start + x.end) / 2, y.start + 29, x_label, anchor="middle")
    drawing.text(12, (y.start + y.end) / 2, y_label, anchor="middle", turn=True)


def left_ticks(drawing: Drawing, x: Axis, y: Axis, y_format: Callable[[float], str]) -> None:
    """Ticks and a grid for the upright axis."""
    ticks = y.ticks()
    drawing.lines([(x.start, y(tick), x.end, y(tick)) for tick in ticks], stroke=FAINT)
    for tick in ticks:
        drawing.text(x.start - 5, y(tick) + 4, y_format(tick), anchor="end")
    drawing.line(x.start, y.start, x.start, y.end)
