"""A server's channels beside those of its device: what live plots show of requests, queue and batches."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from served_doubles import FakeServed, Gate, InBackground, infer
from waiting import until

from esen_lab.devices.telemetry import MarkLog
from esen_lab.lab.readings import Readings
from esen_lab.serving.channels import RequestMeter
from esen_lab.serving.metrics import Totals
from esen_lab.serving.server import Server
from esen_lab.serving.server_settings import ServeSettings

if TYPE_CHECKING:
    from esen_lab.devices import Device


class Clock:
    """Says what it was set to."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def counted(**counts: int) -> Any:
    return SimpleNamespace(state="ready", waiting=0, totals=Totals(**counts))


def test_a_lab_that_serves_nothing_has_no_channels_of_requests() -> None:
    meter = RequestMeter(lambda: None)
    assert meter.read() == {}
    assert meter.channels == ()


def test_rates_and_means_are_of_the_time_since_the_reading_before(clock: Clock) -> None:
    server = counted(answered=10, failed=1, batches=5, rows=40)
    meter = RequestMeter(lambda: server, clock)
    first = meter.read()
    assert {channel.key for channel in meter.channels} == set(first)
    assert first["waiting"] == 0.0
    assert isinstance(first["requests"], str)  # no rate is known yet, which is not zero
    clock.now_s, server.waiting = 2.0, 7
    server.totals = Totals(answered=30, failed=2, batches=9, rows=60)
    assert meter.read() == {"requests": 10.0, "refused": 0.5, "batches": 2.0, "batch_rows": 5.0, "waiting": 7.0}
    clock.now_s = 3.0
    quiet = meter.read()
    assert (quiet["requests"], quiet["batches"]) == (0.0, 0.0)
    assert isinstance(quiet["batch_rows"], str)  # no batch has no size


def test_another_server_is_counted_from_its_own_beginning_and_an_ended_one_is_said(clock: Clock) -> None:
    servers = [counted(answered=1000)]
    meter = RequestMeter(lambda: servers[0], clock)
    meter.read()
    servers[0], clock.now_s = counted(answered=1), 1.0
    assert isinstance(meter.read()["requests"], str)
    servers[0].totals, clock.now_s = Totals(answered=4), 2.0
    assert meter.read()["requests"] == 3.0
    servers[0].state = "ended"
    gone = meter.read()
    assert set(gone.values()) == {"nothing is served"}
    assert meter.channels  # what was read stays to be looked at


def test_whoever_watches_a_lab_sees_the_requests_of_its_server_in_plots() -> None:
    pytest.importorskip("psutil", reason="watching needs psutil")
    from esen_lab.ui.widgets.reading_columns import TITLES, PlotReadings

    served, gate = FakeServed(), Gate()
    with Server(ServeSettings(port=0, max_rows=1)).start() as server:
        server.warm(served)  # type: ignore[arg-type]
        marks, device = MarkLog(), cast("Device", SimpleNamespace(cores=()))
        readings = Readings(lambda: device, lambda: (), marks, lambda: server)
        try:
            sampler = readings.watch(interval_s=60.0)
            until(lambda: sampler.last is not None)
            served.before = gate
            calls = [InBackground(lambda: infer(server)[0]) for _ in range(3)]
            assert gate.reached.wait(60)
            until(lambda: server.waiting == 2)
            sampler.take()
            gate.opened.set()
            assert [call.result() for call in calls] == [200] * 3
            until(lambda: (server.totals.batches, server.totals.answered) == (3, 3))
            sampler.take()
            found = PlotReadings(sampler, marks).whole()
        finally:
            readings.close()
    assert found.columns["waiting"][-2:] == [2.0, 0.0]
    assert found.columns["requests"][-1]
    assert found.columns["batch_rows"][-1] == 1.0
    assert {"requests", "queue", "batches"} <= {group for _, _, _, group in found.channels} <= set(TITLES)
