"""Samples as columns, and what is said about those that are missing."""

from __future__ import annotations

import pytest

from esen_lab.devices.telemetry import Channel, MarkLog, Sampler
from esen_lab.ui.widgets.readings import PlotReadings, mark_text, reading_text


class Meter:
    """A scripted meter: a test double."""

    def __init__(self) -> None:
        self.channels = [
            Channel(key="cpu", label="CPU", unit="%", group="utilization"),
            Channel(key="memory", label="memory in use", unit="B", group="memory"),
        ]
        self.values: dict[str, float | str] = {"cpu": 12.3456, "memory": 2.5e9}

    def read(self) -> dict[str, float | str]:
        return dict(self.values)

    def close(self) -> None:
        pass


@pytest.fixture
def meter() -> Meter:
    return Meter()


@pytest.fixture
def sampler(meter: Meter) -> Sampler:
    return Sampler(meter, interval_s=1, history_s=10, clock=iter(range(100)).__next__)


def test_columns_hold_milliseconds_and_short_numbers_and_bytes_as_gb(sampler: Sampler) -> None:
    sampler.take()
    found = PlotReadings(sampler, MarkLog()).whole()
    assert found.columns == {"t": [0], "cpu": [12.35], "memory": [2.5]}
    assert found.channels[1] == ("memory", "memory in use", "GB", "memory")
    assert (found.first, found.number) == (1, 1)


def test_a_missing_reading_is_a_hole_and_its_reason_is_said(sampler: Sampler, meter: Meter) -> None:
    sampler.take()
    meter.values["cpu"] = "the sensor is gone"
    sampler.take()
    found = PlotReadings(sampler, MarkLog()).whole()
    assert found.columns["cpu"] == [12.35, None]
    assert found.said == "No CPU: the sensor is gone."


def test_only_what_is_new_is_given_and_never_a_gap(sampler: Sampler) -> None:
    for _ in range(5):
        sampler.take()
    marks = MarkLog(clock=lambda: 7.0)
    marks.add("plan")
    readings = PlotReadings(sampler, marks)
    fresh = readings.after(3, 0)
    assert (fresh.first, fresh.number, fresh.columns["t"]) == (4, 5, [3000, 4000])
    assert fresh.marks == {"t": [7000], "what": ["plan"]}
    nothing = readings.after(5, fresh.marks_to)
    assert (nothing.first, nothing.number, nothing.columns["t"], nothing.marks["t"]) == (6, 5, [], [])
    assert readings.after(-5, 0).first == 1


def test_before_the_first_reading_that_is_said(sampler: Sampler) -> None:
    found = PlotReadings(sampler, MarkLog()).whole()
    assert found.said == "Waiting for the first reading."
    assert (found.first, found.number) == (1, 0)


def test_texts_for_people() -> None:
    assert mark_text("profile", "begin") == "profile begins"
    assert mark_text("profile", "end") == "profile ends"
    assert mark_text("plan", "") == "plan"
    assert reading_text(41.7, "%") == "42 %"
    assert reading_text(0.42, "/s") == "0.4 /s"
