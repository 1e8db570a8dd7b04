"""`%esen watch`: live plots in a notebook, one table in a terminal, a summary that stays when it ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from esen_lab.common.locks import Lock
from esen_lab.common.surroundings import step
from esen_lab.common.units import format_count
from esen_lab.ui.pictures.rows import Line, Plot, ReadingTraces
from esen_lab.ui.views import Table, View
from esen_lab.ui.widgets.reading_columns import (
    OF_A_HUNDRED,
    TITLES,
    Members,
    PlotReadings,
    label_of,
    members_in,
    reading_text,
    said_of,
    strokes_of,
)
from esen_lab.ui.widgets.still import Still

if TYPE_CHECKING:
    from esen_lab.ui.session import ShownWidget

STILL_S = 5.0  # between two drawings of the still form: a file that is saved now is so old at most
FIRST_S = 5.0  # the first reading is waited for so long
APART_S, SECOND_S = 0.12, 0.3  # two looks for one table: what a percentage needs, and how long it is waited for
MOST_POINTS = 120  # of a line in a still form: more cannot be told apart in it, and stay in the notebook


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
        self._lock = Lock()  # held while what there is to end is taken, by whoever ends it
        self._watched = True
        self._publisher: Any = None
        self._still: Still | None = None
        self._take_away: Callable[[], None] | None = None

    def open_plots(self) -> Any:
        """The widget with the plots.

        Raises:
            ImportError: The packages of the notebook are not installed.
        """
        from esen_lab.ui.widgets.live import Publisher

        # Where the lab is closed, or goes on with another device, nothing comes any more: then this has ended too.
        began = self._sampler.running
        self._publisher = Publisher(self._changed, over=lambda: began and not self._sampler.running, ended=self._ended)
        return self._publisher.open(PlotReadings.of(self.lab, self._sampler))

    def keep(self, shown: ShownWidget) -> None:
        """Keep the still form of what is shown current, and leave a summary in its place at the end."""
        self._take_away = shown.take_away
        if shown.still is not None:
            self._still = Still(shown.still, self.summary, STILL_S)

    def _changed(self) -> None:
        if self._still is not None:
            self._still.changed()

    def table(self, within_s: float = 0.0) -> View:
        """The latest readings, taken now if there are none yet; those that need two looks are waited for so long."""
        if self._sampler.running:  # its thread takes one now, and a meter is read by one thread at a time
            self._sampler.wait(0, FIRST_S)
        last = self._sampler.last or self._sampler.take()
        until = time.monotonic() + within_s
        while last.reasons and self._sampler.wait(last.number, until - time.monotonic()):
            last = self._sampler.last or last
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

    def summary(self) -> View:
        """All that was read since the watching began."""
        samples = self._sampler.samples(after=self._began)
        return summary_of(self._sampler.channels, samples, members_in(self.lab))

    def _with(self, note: str) -> View:
        summary = self.summary()
        return replace(summary, notes=(*summary.notes, note))

    def _ended(self) -> None:
        again = step("lab.readings.watch()", "%esen watch")
        self.close(f"It ended with the lab, or with a change of its device: `{again}` begins again.")

    def close(self, note: str = "") -> None:
        """End the plots, leave the summary, with a note. May be called again, from any thread."""
        with self._lock:
            publisher, self._publisher = self._publisher, None
            still, self._still = self._still, None
            take_away, self._take_away = self._take_away, None
            watched, self._watched = self._watched, False
        if publisher is not None:
            publisher.close()
        if watched:
            self.lab.readings.unwatch(self._sampler)
        if still is not None:
            still.close(self._with(note) if note else None)
        if take_away is not None:
            take_away()


def summary_of(channels: Sequence[Any], samples: Sequence[Any], members: Members = ()) -> View:
    """Plots of the samples, and mean, least and most of each channel over those that have it."""
    figures_of = ("mean", "least", "most")
    rows = []
    for (_, label), alike in _alike(channels, members).items():
        values = _values(alike, samples)
        if values:
            figures = (sum(values) / len(values), min(values), max(values))
            rows.append((label, *(reading_text(value, alike[0].unit) for value in figures)))
    seconds = samples[-1].at_s - samples[0].at_s if samples else 0.0
    table = Table(columns=("reading", *figures_of), rows=tuple(rows), numbers=figures_of)
    return View(
        title=f"Watched for {seconds:.0f} s, {format_count(len(samples), 'sample')}",
        blocks=(traces_of(channels, samples, members), table) if rows else (),
        notes=() if rows else ("Nothing was read.",),
    )


def traces_of(channels: Sequence[Any], samples: Sequence[Any], members: Members = ()) -> ReadingTraces:
    """Samples as a picture, a plot per group; of many samples in a row the mean."""
    end_s = samples[-1].at_s
    step = -(-len(samples) // MOST_POINTS)
    bunches = [samples[at : at + step] for at in range(0, len(samples), step)]
    plots, strokes = [], strokes_of(channels, members)
    for group in dict.fromkeys(channel.group for channel in channels):
        lines = []
        for (of, label), alike in _alike(channels, members).items():
            if of != group:
                continue
            points = []
            for bunch in bunches:
                values = _values(alike, bunch)
                mean = sum(values) / len(values) * (1e-9 if alike[0].unit == "B" else 1.0) if values else None
                points.append((bunch[-1].at_s - end_s, mean))
            if any(value is not None for _, value in points):
                lines.append(Line(label=label, points=tuple(points), stroke=strokes[alike[0].key]))
        if lines:
            most = 100.0 if group in OF_A_HUNDRED else None
            plots.append(Plot(title=TITLES.get(group, group), lines=tuple(lines), most=most))
    until = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(end_s))
    return ReadingTraces(plots=tuple(plots), span_s=end_s - samples[0].at_s, until=until)


def _alike(channels: Sequence[Any], members: Members) -> dict[tuple[str, str], list[Any]]:
    """Channels by group and label: a lane that started anew has another channel, and is the same lane."""
    found: dict[tuple[str, str], list[Any]] = {}
    for channel in channels:
        found.setdefault((channel.group, label_of(channel, members)), []).append(channel)
    return found


def _values(alike: Sequence[Any], samples: Sequence[Any]) -> list[float]:
    return [sample.values[channel.key] for sample in samples for channel in alike if channel.key in sample.values]
