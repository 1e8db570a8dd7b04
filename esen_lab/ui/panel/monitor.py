"""The plots of `%esen watch` for a page's monitor tab."""

from __future__ import annotations

from typing import Any

from esen_lab.errors import UsageError
from esen_lab.ui.widgets.feed import Feed
from esen_lab.ui.widgets.live_charts import bokeh_source
from esen_lab.ui.widgets.reading_columns import PlotReadings

MOST_SILENT = 40  # looks, some ten seconds: a change of device ends the readings first, and is then at work


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
        self._wanted = (interval_s, history_s)
        self._bokeh: tuple[str, str] | None = None
        self._begin()

    def _begin(self) -> None:
        self._device = self._lab.device
        self._sampler = _watch(self._lab, *self._wanted)
        self._readings = PlotReadings.of(self._lab, self._sampler)
        self._feed = Feed(self._readings)
        self._told = 0
        self._silent = 0

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
        """What came since the last message, or None.

        Raises:
            UsageError: The lab was closed: nothing comes any more.
            EsenError: The lab has another device, at which nothing can be read.
        """
        if not self._sampler.running:
            return self._on_another_device()
        number = self._readings.number
        if number == self._told:
            return None
        self._told = number
        return self._feed.fresh()

    def _on_another_device(self) -> dict[str, Any] | None:
        if self._lab.device is not self._device:
            self._begin()
            return {"kind": "doc", "doc": self.document()}
        self._silent += 1
        if self._silent < MOST_SILENT:
            return None
        hint = "Close this tab and open it again to go on."
        raise UsageError("What is watched is a lab that was not closed", given="one that was", hint=hint)

    def close(self) -> None:
        """One viewer less."""
        self._lab.readings.unwatch(self._sampler)


def _watch(lab: Any, interval_s: float, history_s: float) -> Any:
    try:
        return lab.readings.watch(interval_s=interval_s, history_s=history_s)
    except UsageError:
        watched = lab.readings.watched
        if watched is None:
            raise
        interval_s, history_s = watched  # others chose another rate: theirs holds
        return lab.readings.watch(interval_s=interval_s, history_s=history_s)
