"""`%esen watch`: live plots in a notebook, one table in a terminal, a summary that stays when it ends."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

from esen_lab.ui.views import Table, View
from esen_lab.ui.widgets.progress import Live
from esen_lab.ui.widgets.readings import PlotReadings, reading_text, said_of


class Watching:
    """One lab watched in one notebook.

    Args:
        lab: The lab.
        interval_s: Seconds between samples.
        history_s: How much is kept.
    """

    def __init__(self, lab: Any, interval_s: float, history_s: float) -> None:
        self.lab = lab
        self._sampler = lab.readings.watch(interval_s=interval_s, history_s=history_s)
        self._began = 0 if self._sampler.last is None else self._sampler.last.number
        self._publisher: Any = None
        self._summary: Live | None = None

    def open_plots(self) -> Any:
        """The widget with the plots.

        Raises:
            ImportError: The packages of the notebook are not installed.
        """
        from esen_lab.ui.widgets.live import Publisher

        self._publisher = Publisher()
        return self._publisher.open(PlotReadings(self._sampler, self.lab.readings.marks))

    def keep_summary(self, live: Live) -> None:
        """Replace `live` by the summary when the watching ends."""
        self._summary = live

    def table(self) -> View:
        """The latest readings, taken now if there are none yet."""
        last = self._sampler.last or self._sampler.take()
        channels = self._sampler.channels
        rows = tuple(
            (channel.label, reading_text(last.values[channel.key], channel.unit))
            for channel in channels
            if channel.key in last.values
        )
        said = said_of(channels, last, self._sampler.problem)
        return View(
            title=f"{self.lab.device.identity.name} now",
            blocks=(Table(columns=("reading", "value"), rows=rows, numbers=("value",)),),
            notes=(said,) if said else (),
        )

    def close(self) -> None:
        """End the plots, leave the summary. May be called again."""
        publisher, self._publisher = self._publisher, None
        summary, self._summary = self._summary, None
        if publisher is not None:
            publisher.close()
            self.lab.readings.unwatch()
        if summary is not None:
            samples = self._sampler.samples(after=self._began)
            with contextlib.suppress(Exception):  # the notebook may be going away
                summary.update(summary_of(self._sampler.channels, samples), last=True)


def summary_of(channels: Sequence[Any], samples: Sequence[Any]) -> View:
    """Mean, least and most of each channel over the samples that have it."""
    figures_of = ("mean", "least", "most")
    rows = []
    for channel in channels:
        values = [sample.values[channel.key] for sample in samples if channel.key in sample.values]
        if values:
            figures = (sum(values) / len(values), min(values), max(values))
            rows.append((channel.label, *(reading_text(value, channel.unit) for value in figures)))
    seconds = samples[-1].at_s - samples[0].at_s if samples else 0.0
    return View(
        title=f"Watched for {seconds:.0f} s, {len(samples)} samples",
        blocks=(Table(columns=("reading", *figures_of), rows=tuple(rows), numbers=figures_of),),
        notes=() if rows else ("Nothing was read.",),
    )
