"""The plots of `%esen watch` for a page's monitor tab."""

from __future__ import annotations

from typing import Any

from esen_lab.errors import UsageError
from esen_lab.ui.widgets.charts import bokeh_source
from esen_lab.ui.widgets.feed import Feed
from esen_lab.ui.widgets.readings import PlotReadings


class LabMonitor:
    """One more viewer of a lab's sampler.

    Args:
        lab: The lab.
        interval_s: Seconds between samples, where nobody watches yet; else as those who do.
        history_s: How much is kept, likewise.

    Raises:
        EsenError: Nothing can be read here.
    """

    def __init__(self, lab: Any, interval_s: float, history_s: float) -> None:
        self._lab = lab
        self._sampler = _watch(lab, interval_s, history_s)
        self._readings = PlotReadings.of(lab, self._sampler)
        self._feed = Feed(self._readings)
        self._told = 0
        self._bokeh: tuple[str, str] | None = None

    def bokeh(self) -> tuple[str, str]:
        """BokehJS and its version."""
        if self._bokeh is None:
            self._bokeh = bokeh_source()
        return self._bokeh

    def document(self) -> dict[str, Any]:
        """The plots with all that is kept."""
        found = self._feed.document()
        self._told = self._readings.number
        return found

    def fresh(self) -> dict[str, Any] | None:
        """What came since the last message, or None."""
        number = self._readings.number
        if number == self._told:
            return None
        self._told = number
        return self._feed.fresh()

    def close(self) -> None:
        """One viewer less."""
        self._lab.readings.unwatch()


def _watch(lab: Any, interval_s: float, history_s: float) -> Any:
    try:
        return lab.readings.watch(interval_s=interval_s, history_s=history_s)
    except UsageError:
        watched = lab.readings.watched
        if watched is None:
            raise
        interval_s, history_s = watched  # others chose another rate: theirs holds
        return lab.readings.watch(interval_s=interval_s, history_s=history_s)
