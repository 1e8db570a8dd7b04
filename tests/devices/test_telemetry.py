"""Samples, marks and the sampler's thread."""

from __future__ import annotations

import itertools
import statistics
import threading
import time
from collections.abc import Mapping
from typing import Any

import pytest

from esen_lab.devices.telemetry import Channel, Joined, MarkLog, Sampler, Value
from esen_lab.errors import DeviceError, UsageError


class Scripted:
    """A meter that gives what it is told to: a test double."""

    def __init__(self, *readings: Mapping[str, Value] | Exception, keys: tuple[str, ...] = ("a",)) -> None:
        self.channels = [Channel(key=key, label=key.upper(), unit="%", group="utilization") for key in keys]
        self._readings = list(readings)
        self.closed = False

    def read(self) -> Mapping[str, Value]:
        found = self._readings.pop(0) if len(self._readings) > 1 else self._readings[0]
        if isinstance(found, Exception):
            raise found
        return found

    def close(self) -> None:
        self.closed = True


def test_a_reading_is_a_number_or_its_reason_never_a_zero_in_its_place() -> None:
    sample = Sampler(Scripted({"a": 3, "b": "not on this device"}, keys=("a", "b"))).take()
    assert sample.values == {"a": 3.0}
    assert sample.reasons == {"b": "not on this device"}


def test_readings_that_fail_midway_are_said_and_come_back() -> None:
    sampler = Sampler(Scripted({"a": 1}, OSError("the sensor is gone"), {"a": 2}))
    assert sampler.take().values == {"a": 1.0}
    lost = sampler.take()
    assert lost.values == {}
    assert lost.reasons == {"a": "OSError: the sensor is gone"}
    assert "sensor" in sampler.problem
    assert sampler.take().values == {"a": 2.0}
    assert sampler.problem == ""


def test_samples_are_numbered_and_only_the_latest_are_kept() -> None:
    sampler = Sampler(Scripted({"a": 1}), interval_s=1, history_s=5)
    for _ in range(12):
        sampler.take()
    assert [sample.number for sample in sampler.samples()] == [8, 9, 10, 11, 12]
    assert [sample.number for sample in sampler.samples(after=10)] == [11, 12]
    assert sampler.last is not None
    assert sampler.last.number == 12


def test_one_thread_serves_all_viewers_and_ends_with_the_last() -> None:
    sampler = Sampler(Scripted({"a": 1}), interval_s=0.05)
    assert not sampler.running
    sampler.watch()
    sampler.watch()
    assert [thread.name for thread in threading.enumerate()].count("esen-sampler") == 1
    assert sampler.wait(after=3, timeout_s=60)
    sampler.unwatch()
    assert sampler.running
    sampler.unwatch()
    assert not sampler.running
    assert "esen-sampler" not in [thread.name for thread in threading.enumerate()]


def test_the_history_outlives_the_thread() -> None:
    sampler = Sampler(Scripted({"a": 1}), interval_s=0.05)
    sampler.watch()
    assert sampler.wait(after=1, timeout_s=60)
    sampler.unwatch()
    kept = len(sampler.samples())
    sampler.watch()
    assert sampler.wait(after=kept + 1, timeout_s=60)
    sampler.close()
    assert [sample.number for sample in sampler.samples()][:2] == [1, 2]


def test_closing_frees_whoever_waits_and_the_meter() -> None:
    meter = Scripted({"a": 1})
    sampler = Sampler(meter, interval_s=0.05)
    sampler.watch()
    sampler.close()
    sampler.close()
    assert meter.closed
    assert not sampler.running


def test_samples_come_at_a_steady_rate() -> None:
    sampler = Sampler(Scripted({"a": 1}), interval_s=0.05, clock=time.monotonic)
    sampler.watch()
    assert sampler.wait(after=101, timeout_s=120)
    sampler.close()
    times = [sample.at_s for sample in sampler.samples()][:101]
    every_s = [(later - earlier) / 20 for earlier, later in itertools.pairwise(times[::20])]
    assert statistics.median(every_s) == pytest.approx(0.05, rel=0.5)


def test_a_meter_that_fails_takes_only_its_own_channels_with_it() -> None:
    joined = Joined(Scripted({"a": 1}), Scripted(RuntimeError("driver lost"), keys=("b", "c")))
    assert [channel.key for channel in joined.channels] == ["a", "b", "c"]
    assert joined.read() == {"a": 1, "b": "RuntimeError: driver lost", "c": "RuntimeError: driver lost"}


@pytest.mark.parametrize(("interval", "history"), [(0.01, 10), (61, 100), (1, 0.5), (float("nan"), 1)])
def test_rates_that_make_no_sense_are_refused(interval: float, history: float) -> None:
    with pytest.raises(UsageError):
        Sampler(Scripted({"a": 1}), interval_s=interval, history_s=history)


def test_marks_are_counted_and_the_fresh_ones_given() -> None:
    marks = MarkLog(clock=iter([1.0, 2.0, 3.0]).__next__)
    with marks.around("profile"):
        marks.add("plan")
    count, everything = marks.since(0)
    assert count == 3
    assert [(mark.at_s, mark.what, mark.phase) for mark in everything] == [
        (1.0, "profile", "begin"),
        (2.0, "plan", ""),
        (3.0, "profile", "end"),
    ]
    assert marks.since(2)[1] == everything[2:]
    assert marks.since(3)[1] == ()


def test_an_end_is_marked_when_the_work_fails_too() -> None:
    marks = MarkLog()
    with pytest.raises(ZeroDivisionError), marks.around("run"):
        raise ZeroDivisionError
    assert [mark.phase for mark in marks.since(0)[1]] == ["begin", "end"]


def test_a_loop_of_runs_has_one_mark_at_its_begin() -> None:
    now = iter([0.0, 0.4, 0.9, 1.1, 3.0, 3.5])
    marks = MarkLog(clock=now.__next__)
    for _ in range(6):
        marks.add("run", pause_s=1.0)
    assert [mark.at_s for mark in marks.since(0)[1]] == [0.0, 3.0]


def test_a_viewer_for_whom_no_thread_can_be_started_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    sampler = Sampler(Scripted({"a": 1}), interval_s=0.05)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(DeviceError, match="ulimit -u"):
            sampler.watch()
    assert not sampler.running
    sampler.watch()
    assert sampler.running
    sampler.unwatch()
    assert not sampler.running, "that one was the only viewer"


def test_a_rate_that_is_refused_is_told_as_people_write_it() -> None:
    with pytest.raises(UsageError, match=r"Given: 1\.00 µs\."):
        Sampler(Scripted({"a": 1}), interval_s=1e-6)


@pytest.mark.parametrize(("interval_s", "history_s"), [("fast", 10), (None, 10), (0.5, float("inf")), (0.5, "long")])
def test_a_rate_and_a_history_that_cannot_be_kept_are_refused(interval_s: Any, history_s: Any) -> None:
    with pytest.raises(UsageError, match=r"seconds apart|one sample long"):
        Sampler(Scripted({"a": 1}), interval_s=interval_s, history_s=history_s)
