"""Readings as numbered messages for plots in a page, whatever carries them there.

A message repeats the last few samples: a page that lost some is complete again with the next one. A page that lost more
asks for the document anew.
"""

from __future__ import annotations

from typing import Any

from esen_lab.common.locks import Lock
from esen_lab.ui.widgets.live_charts import readings_document
from esen_lab.ui.widgets.reading_columns import PlotReadings

REPEATED = 8  # samples that each message repeats
WHOLE = 2400  # of the newest samples a document has every one: two minutes at the highest rate
THIN = 1200  # of all older ones it has so many means: a plot is no wider


class Feed:
    """What one page, or several views that share messages, are told. May be used from several threads."""

    def __init__(self, readings: PlotReadings) -> None:
        self._readings = readings
        self.lock = Lock()  # held over making and sending: messages leave in the order they were made
        self.over = ""  # why nothing comes any more
        self._generation = 0
        self._layout: tuple[object, ...] = ()
        self._sent = 0
        self._marks = 0

    def document(self) -> dict[str, Any]:
        """The plots with everything that is kept by now."""
        with self.lock:
            found = self._readings.whole()
            if found.layout != self._layout:
                self._layout = found.layout
                self._generation += 1
            self._sent, self._marks = max(self._sent, found.number), max(self._marks, found.marks_to)
            return {
                "item": readings_document(found.channels, found.strokes),
                "rows": _thinned(found.columns),
                "noted": found.marks,
                "number": found.number,
                "marks": found.marks_to,
                "generation": self._generation,
                "interval_s": self._readings.interval_s,
                "rollover": self._readings.most,
                "over": self.over,
            }

    def fresh(self) -> dict[str, Any]:
        """The next message: {"kind": "rows", ...}, or {"kind": "doc", "doc": ...} when lanes came or changed."""
        with self.lock:
            fresh = self._readings.after(self._sent - REPEATED, self._marks)
            if fresh.layout != self._layout:  # the plots are laid out anew
                return {"kind": "doc", "doc": self.document()}
            message: dict[str, Any] = {
                "kind": "rows",
                "generation": self._generation,
                "first": fresh.first,
                "number": fresh.number,
                "rows": fresh.columns,
                "said": fresh.said,
            }
            if fresh.marks["t"]:
                message |= {"marks": fresh.marks, "marks_to": fresh.marks_to}
            self._sent, self._marks = fresh.number, fresh.marks_to
            return message


def _thinned(columns: dict[str, list[float | None]]) -> dict[str, list[float | None]]:
    """Columns in which old samples are means of several: at high rates a history has tens of thousands."""
    old = len(columns["t"]) - WHOLE
    step = -(-old // THIN)
    if step < 2:
        return columns
    found = {}
    for key, values in columns.items():
        bunches = [values[at : min(at + step, old)] for at in range(0, old, step)]
        found[key] = [*map(_mean, bunches), *values[old:]]
    return found


def _mean(values: list[float | None]) -> float | None:
    read = [value for value in values if value is not None]
    return float(f"{sum(read) / len(read):.13g}") if read else None
