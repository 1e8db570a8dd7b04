"""Memory bandwidth that lanes take of each other: measured here, kept in a file."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from esen_lab.devices import CpuDevice, FakeDevice
from esen_lab.devices.cpu import device as cpu
from esen_lab.devices.cpu import interference as module
from esen_lab.devices.cpu.interference import (
    Interference,
    keep_interference,
    known_interference,
    measure_interference,
)

FOUND = Interference(
    alone_gb_s=20.0, together_gb_s=12.0, cores=8, array_bytes=1 << 28, measured_at="2026-11-28T12:00:00+00:00"
)
TWO_CORES = pytest.mark.skipif(CpuDevice().units < 2, reason="two lanes need two cores")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ESEN_LAB_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "busy_part", lambda *_, **__: 0.0)


@TWO_CORES
@pytest.mark.usefixtures("idle")
def test_two_streams_are_measured_beside_one() -> None:
    (one,), (other,) = ([core[0]] for core in CpuDevice().cores[:2])
    before, cores = set(threading.enumerate()), os.sched_getaffinity(0)
    found = measure_interference([one], [other], free_bytes=1 << 29)
    assert found is not None
    assert 0.1 < found.together_gb_s < 1000
    assert 0.1 < found.alone_gb_s < 1000
    assert 0 < found.factor <= 1
    assert found.array_bytes == 1 << 26, "an eighth of what may be used"
    assert set(threading.enumerate()) <= before
    assert os.sched_getaffinity(0) == cores


@pytest.mark.usefixtures("idle")
def test_what_cannot_be_measured_is_absent() -> None:
    assert measure_interference([], []) is None
    assert measure_interference([0], [0]) is None, "one core is no two lanes"
    assert measure_interference([0], [1], free_bytes=1 << 20) is None
    assert measure_interference([60_000], [60_001], free_bytes=1 << 28) is None, "nobody can be pinned there"


def test_it_is_not_measured_while_cores_are_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "busy_part", lambda *_, **__: 0.9)
    assert measure_interference([0], [1]) is None


def test_what_was_measured_is_kept_by_machine(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "memory.json"
    keep_interference("here", FOUND, path)
    assert known_interference("here", path) == FOUND
    assert known_interference("there", path) is None
    for number in range(100):
        keep_interference(f"machine {number}", FOUND, path)
    assert known_interference("machine 99", path) == FOUND
    assert known_interference("here", path) is None, "the oldest go first"


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"memory_bandwidth": 3}', '{"memory_bandwidth": {"here": {"alone_gb_s": -1}}}', "[" * 100_000],
)
def test_a_damaged_file_is_nothing_known_and_other_files_stay(tmp_path: Path, text: str) -> None:
    path = tmp_path / "memory.json"
    path.write_text(text)
    assert known_interference("here", path) is None
    keep_interference("here", FOUND, path)
    assert known_interference("here", path) is None or "memory_bandwidth" in path.read_text()


def test_a_device_measures_once_and_then_remembers(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(
        cpu, "measure_interference", lambda one, other, **_: asked.append((list(one), list(other))) or FOUND
    )
    device = CpuDevice(cores=[(0,), (1,), (2,), (3,)])
    assert device.interference() is None
    assert not home.exists(), "nothing is measured or written unasked"
    assert device.interference(measure=True) == FOUND
    assert device.interference(measure=True) == FOUND
    assert asked == [([0, 1], [2, 3])]
    assert (home / "memory.json").is_file()
    assert "20 GB/s alone, 12 GB/s beside another one" in dict(device.describe())["memory bandwidth"]
    assert CpuDevice(cores=[(0,), (1,)]).interference() is None, "of other cores nothing is known"


def test_a_device_without_memory_channels_knows_nothing() -> None:
    device = FakeDevice({"a": {1: 0.1}}, units=2)
    assert device.interference(measure=True) is None


def test_a_factor_says_whether_they_disturb_each_other() -> None:
    assert FOUND.significant
    assert "take it from each other" in FOUND.describe()
    equal = Interference(alone_gb_s=10.0, together_gb_s=10.4, cores=1, array_bytes=1, measured_at="")
    assert equal.factor == 1.0
    assert not equal.significant


def test_what_could_not_be_measured_is_not_tried_at_every_run(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(cpu, "measure_interference", lambda *_, **__: asked.append(1))
    device = CpuDevice(cores=[(0,), (1,)])
    for _ in range(5):
        assert device.interference(measure=True) is None
    assert len(asked) == 1
    monkeypatch.setattr(cpu, "_TRIED_AGAIN_S", -1.0)
    device._measures_from_s = 0.0
    device.interference(measure=True)
    device.interference(measure=True)
    assert len(asked) == 3
    assert not home.exists()


@TWO_CORES
@pytest.mark.usefixtures("idle")
def test_arrays_are_larger_than_caches() -> None:
    (one,), (other,) = ([core[0]] for core in CpuDevice().cores[:2])
    found = measure_interference([one], [other], cache_bytes=300 << 20, free_bytes=1 << 40)
    assert found is not None
    assert found.array_bytes >= 296 << 20
