"""The plots of `%esen watch` for a page's monitor tab."""

from __future__ import annotations

from typing import Any

from esen_lab.errors import UsageError
from esen_lab.notebook.charts import bokeh_source
from esen_lab.notebook.feed import Feed
from esen_lab.notebook.readings import Readings


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
        self._readings = Readings(self._sampler, lab.marks)
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
        self._lab.unwatch()


def _watch(lab: Any, interval_s: float, history_s: float) -> Any:
    try:
        return lab.watch(interval_s=interval_s, history_s=history_s)
    except UsageError:
        watched = lab.watched
        if watched is None:
            raise
        return lab.watch(interval_s=watched[0], history_s=watched[1])  # others chose another rate: theirs holds
