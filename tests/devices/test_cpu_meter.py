"""The CPU's meter, on the real machine."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import psutil
import pytest

from esen_lab.devices.cpu import meter as cpu_meter
from esen_lab.devices.cpu.meter import CpuMeter


class Times(NamedTuple):
    """What psutil tells of a CPU."""

    user: float
    system: float
    idle: float


def test_cores_memory_and_their_mean_are_read() -> None:
    meter = CpuMeter()
    meter.read()
    time.sleep(0.15)
    readings = meter.read()
    keys = [channel.key for channel in meter.channels]
    assert set(readings) == set(keys)
    assert {"cpu", "memory", "cpu0"} <= set(keys)
    assert all(0 <= readings[key] <= 100 for key in keys if key.startswith("cpu"))  # type: ignore[operator]
    assert 0 < readings["memory"] <= psutil.virtual_memory().total  # type: ignore[operator]


def test_a_look_too_soon_gives_a_reason_and_no_zero() -> None:
    readings = CpuMeter(clock=lambda: 100.0).read()
    assert readings["cpu"] == readings["cpu0"] == "a percentage needs a moment between two looks"


@pytest.mark.parametrize("every_s", [0.05, 0.099, 0.1, 0.5, 60.0])
def test_at_every_rate_each_look_after_the_first_moment_has_a_percentage(
    monkeypatch: pytest.MonkeyPatch, every_s: float
) -> None:
    now_s = 100.0

    def times(percpu: bool) -> list[Any]:
        busy_s = round(0.4 * now_s, 2)  # ticks of 10 ms
        return [Times(user=busy_s, system=0.0, idle=round(now_s - busy_s, 2))]

    monkeypatch.setattr(psutil, "cpu_times", times)
    monkeypatch.setattr(cpu_meter, "online_cpus", lambda: (0,))
    meter = CpuMeter(cores=[0], clock=lambda: now_s)
    meter._cores = [0]
    found = []
    for look in range(40):
        now_s = 100.0 + look * every_s + (0.0004 if look % 3 else 0.0)  # no sleep is exact
        found.append(meter.read()["cpu"])
    late = found[3:]
    assert not [value for value in late if isinstance(value, str)], late
    assert all(abs(float(value) - 40) <= 15 for value in late), late  # ticks are a tenth of the window


def test_who_looks_from_another_thread_goes_on_where_the_first_one_was() -> None:
    meter = CpuMeter()
    meter.read()
    time.sleep(0.15)
    with ThreadPoolExecutor(1) as other:
        assert isinstance(other.submit(meter.read).result()["cpu"], float)


def test_a_busy_worker_shows_its_core_and_its_memory_and_leaves_when_it_ends() -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        try:
            lanes = [("lane 1", busy.pid)]
            meter = CpuMeter(lambda: lanes)
            assert meter.read()[f"lane{busy.pid}"] == "just seen for the first time"
            for _ in range(100):  # however long it waits for a core
                time.sleep(0.3)
                readings = meter.read()
                if readings[f"lane{busy.pid}"] > 20:  # type: ignore[operator]
                    break
            assert readings[f"lane{busy.pid}"] > 20  # type: ignore[operator]
            assert readings[f"rss{busy.pid}"] > 1_000_000  # type: ignore[operator]
            assert [c.label for c in meter.channels if c.group == "lanes"] == ["lane 1, CPU"]
        finally:
            busy.kill()
            busy.wait()
    assert "NoSuchProcess" in str(meter.read()[f"lane{busy.pid}"])
    lanes.clear()
    assert f"lane{busy.pid}" not in meter.read()
    assert not [c for c in meter.channels if c.group == "lanes"]


@pytest.mark.parametrize("cores", [[0], [0, 9999]])
def test_only_the_devices_own_cores_are_shown(cores: list[int]) -> None:
    meter = CpuMeter(cores=cores)
    assert [c.key for c in meter.channels if c.group == "utilization"] == ["cpu0", "cpu"]


def test_a_cpu_keeps_its_number_though_another_is_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_meter, "online_cpus", lambda: (0, 2, 3))
    monkeypatch.setattr(psutil, "cpu_count", lambda: 3)
    now_s = 0.0

    def times(percpu: bool) -> list[Any]:
        return [Times(user=part * now_s, system=0.0, idle=(1 - part) * now_s) for part in (0.1, 0.3, 0.5)]

    monkeypatch.setattr(psutil, "cpu_times", times)
    meter = CpuMeter(cores=[0, 1, 2], clock=lambda: now_s)
    meter.read()
    now_s = 1.0
    readings = meter.read()
    assert [readings[key] for key in ("cpu0", "cpu2", "cpu")] == pytest.approx([10.0, 30.0, 20.0])
    assert "cpu1" not in readings
