"""Static pictures as SVG. Pure Python; no plotting package, no IPython.

drawing.py   the base: shapes, axes with ticks, legends, colours that both themes and colour-blind people can read
charts.py    one small function per kind of picture
moments.py   JCT over time, with what changed
rows.py      what each kind of picture shows, as plain records
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from esen_lab.ui.colours import COLOURS
from esen_lab.ui.markup import Markup
from esen_lab.ui.pictures import charts, moments, rows
from esen_lab.ui.pictures.drawing import as_image
from esen_lab.ui.pictures.timelines import traces

_DRAW: Mapping[type, Callable[[Any], Markup]] = {
    rows.Curves: charts.curves,
    rows.Timeline: charts.timeline,
    rows.Bars: charts.bars,
    rows.SearchHistory: charts.history,
    rows.Front: charts.front,
    rows.LoadCurves: charts.load,
    rows.Shares: charts.shares,
    rows.Moments: moments.moments,
    rows.ReadingTraces: traces,
}


def draw(picture: rows.Picture) -> Markup:
    """The picture as one SVG document; every text in it is escaped."""
    return _DRAW[type(picture)](picture)


def image(picture: rows.Picture) -> Markup:
    """HTML of the picture. One of the last few is drawn once: a plan is shown where it is found, and again on request.

    Args:
        picture: What it shows; in it and in the colours of its sub-models is all that is drawn.
    """
    return _image(picture, COLOURS.given)


@functools.lru_cache(maxsize=16)
def _image(picture: rows.Picture, given: int) -> Markup:  # noqa: ARG001  with other colours it is another one
    return as_image(draw(picture))


__all__ = ["as_image", "draw", "image", "rows"]
