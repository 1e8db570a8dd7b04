"""An hour at the highest permitted rate, kernel side: what is sent and held does not grow. The clock is the test's."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("anywidget")

from esen_lab.devices.telemetry import Channel, MarkLog, Sampler
from esen_lab.ui.html import to_html
from esen_lab.ui.widgets.live import BokehSource, LivePlots
from esen_lab.ui.widgets.reading_columns import PlotReadings
from esen_lab.ui.widgets.watching import summary_of

EVERY_S = 0.05
HISTORY_S = 300.0
SAMPLES_OF_10_MINUTES = 12_000


class Meter:
    """A scripted meter: a test double."""

    channels = tuple(
        Channel(key=f"lane{number}", label=f"lane {number}, CPU", unit="%", group="lanes") for number in (1, 2, 3)
    )

    def __init__(self) -> None:
        self.number = 0

    def read(self) -> dict[str, float]:
        self.number += 1
        return {channel.key: 12.345 + self.number % 70 for channel in self.channels}

    def close(self) -> None:
        pass


class Hour:
    """Two views of one sampler, and what they were sent in each ten minutes."""

    def __init__(self) -> None:
        self.now_s = 1e9
        self.sampler = Sampler(Meter(), interval_s=EVERY_S, history_s=HISTORY_S, clock=lambda: self.now_s)
        self.marks = MarkLog(clock=lambda: self.now_s)
        source = BokehSource()
        readings = PlotReadings(self.sampler, self.marks, lambda: [["wide"], ["deep"], ["slim"]])
        self.views = [LivePlots(readings, source), LivePlots(readings, source)]
        self.messages = self.bytes = self.largest = 0
        for view in self.views:
            view.send = self.count
            view.get_state()
        self.closing = [*self.views, source]

    def count(self, content: Any, buffers: Any = None) -> None:
        self.messages += 1
        if content["kind"] != "rows" or self.messages % 20 == 0:  # to write all of them down takes longer than the rest
            size = len(json.dumps(content))
            self.bytes += size
            self.largest = max(self.largest, size)

    def ten_minutes(self) -> SimpleNamespace:
        self.messages = self.bytes = self.largest = 0
        for number in range(SAMPLES_OF_10_MINUTES):
            self.now_s += EVERY_S
            if number % 20 == 0:
                self.marks.add("run", pause_s=2.0)
            if number % 100 == 0:
                self.marks.add("plan")
            self.sampler.take()
            for view in self.views:
                view.publish(self.now_s)
        gc.collect()
        samples = self.sampler.samples()
        return SimpleNamespace(
            messages=self.messages,
            bytes=self.bytes,
            largest=self.largest,
            held=len(gc.get_objects()),
            kept=len(samples),
            doc=len(self.views[0].get_state()["doc"]),
            still=len(to_html(summary_of(Meter.channels, samples))),
        )


@pytest.fixture
def hour() -> Iterator[Hour]:
    made = Hour()
    yield made
    for each in made.closing:
        each.close()
    made.sampler.close()


@pytest.mark.slow  # 72,000 samples, and a message to each view for every second one
def test_an_hour_of_two_views_at_20_samples_a_second_is_as_light_at_its_end_as_at_its_beginning(hour: Hour) -> None:
    tens = [hour.ten_minutes() for _ in range(6)]
    first, last = tens[1], tens[-1]  # in the first ten minutes the history fills
    assert last.messages == first.messages
    assert last.messages <= 2 * SAMPLES_OF_10_MINUTES / 2 + 2  # a page draws ten times a second at most
    assert last.largest < 2_000
    assert last.bytes <= 1.1 * first.bytes
    assert last.kept == first.kept == HISTORY_S / EVERY_S
    assert last.doc <= 1.1 * first.doc < 1_000_000
    assert last.still <= 1.1 * first.still < 60_000
    assert last.held - first.held < 1_000
