"""Static pictures: plain rows -> SVG text. Pure Python; no plotting package, no IPython.

drawing.py   the base: shapes, axes with ticks, legends, colours that both themes and colour-blind people can read
charts.py    one small function per kind of picture
rows.py      what each kind of picture shows, as plain records
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from esen_lab.notebook.pictures import charts, rows
from esen_lab.notebook.pictures.drawing import as_image

_DRAW: Mapping[type, Callable[[Any], str]] = {
    rows.Curves: charts.curves,
    rows.Timeline: charts.timeline,
    rows.Bars: charts.bars,
    rows.History: charts.history,
    rows.Front: charts.front,
    rows.Shares: charts.shares,
}


def draw(picture: rows.Picture) -> str:
    """The picture as one SVG document; every text in it is escaped."""
    return _DRAW[type(picture)](picture)


__all__ = ["as_image", "draw", "rows"]
