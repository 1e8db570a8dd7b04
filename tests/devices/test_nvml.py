"""NVML's readings, from a fake `pynvml` that is scripted here: no GPU and no driver is involved."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from esen_lab.devices.cuda.nvml import GpmWindow, NvmlMeter, nvml_states


class FakeNvmlError(Exception):
    pass


class FakeNvml:
    """The part of `pynvml` that the meter uses, with one GPU whose abilities are chosen."""

    NVMLError = FakeNvmlError
    NVML_SUCCESS = 0
    NVML_GPM_METRICS_GET_VERSION = 1
    NVML_GPM_METRIC_SM_UTIL = 2
    NVML_GPM_METRIC_SM_OCCUPANCY = 3
    NVML_GPM_METRIC_ANY_TENSOR_UTIL = 5
    NVML_GPM_METRIC_DRAM_BW_UTIL = 10

    NVML_CLOCK_SM = 1
    NVML_CLOCK_MEM = 2
    NVML_TEMPERATURE_GPU = 0
    nvmlClocksEventReasonGpuIdle = 1  # noqa: N815  NVML's own names
    nvmlClocksEventReasonSwPowerCap = 4  # noqa: N815
    nvmlClocksEventReasonSwThermalSlowdown = 32  # noqa: N815

    def nvmlInit(self) -> None:  # noqa: N802
        self.shut = False

    def nvmlDeviceGetUUID(self, handle: str) -> bytes:  # noqa: N802
        return b"GPU-1"

    def nvmlDeviceGetClockInfo(self, handle: str, kind: int) -> int:  # noqa: N802
        return {1: 1980, 2: 3201}[kind]

    def nvmlDeviceGetTemperature(self, handle: str, sensor: int) -> int:  # noqa: N802
        raise FakeNvmlError("Not Supported")

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: str) -> int:  # noqa: N802
        return 1 | 4 | 32

    def __init__(self, *, gpm: bool = True, power: bool = True) -> None:
        self.gpm = gpm
        self.power = power
        self.lost = False
        self.freed = 0
        self.shut = False
        self.bad_metric: int | None = None
        self.taken: list[Any] = []

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802  NVML's own names
        return 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:  # noqa: N802
        return f"gpu{index}"

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        return uuid

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> Any:  # noqa: N802
        if self.lost:
            raise FakeNvmlError("GPU is lost")
        return SimpleNamespace(gpu=97)

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> Any:  # noqa: N802
        return SimpleNamespace(used=5_000_000_000)

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:  # noqa: N802
        if not self.power:
            raise FakeNvmlError("Not Supported")
        return 300_500

    def nvmlGpmQueryDeviceSupport(self, handle: str) -> Any:  # noqa: N802
        return SimpleNamespace(isSupportedDevice=self.gpm)

    def nvmlGpmSampleAlloc(self) -> object:  # noqa: N802
        return object()

    def nvmlGpmSampleGet(self, handle: str, sample: object) -> object:  # noqa: N802
        self.taken.append(sample)
        return sample

    def nvmlGpmSampleFree(self, sample: object) -> None:  # noqa: N802
        self.freed += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.shut = True

    def nvmlErrorString(self, code: int) -> str:  # noqa: N802
        return f"error {code}"

    def c_nvmlGpmMetricsGet_t(self) -> Any:  # noqa: N802
        metrics = [SimpleNamespace(metricId=0, nvmlReturn=0, value=0.0) for _ in range(8)]
        return SimpleNamespace(version=0, numMetrics=0, sample1=None, sample2=None, metrics=metrics)

    def nvmlGpmMetricsGet(self, wanted: Any) -> Any:  # noqa: N802
        assert wanted.sample1 is not wanted.sample2
        for metric in wanted.metrics[: wanted.numMetrics]:
            metric.value = metric.metricId * 10.0
            metric.nvmlReturn = 3 if metric.metricId == self.bad_metric else 0
        return wanted


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_each_reading_is_named_for_what_it_is(clock: Clock) -> None:
    meter = NvmlMeter(FakeNvml(), clock)
    clock.now = 0.5
    labels = {channel.label: meter.read()[channel.key] for channel in meter.channels if channel.group != "x"}
    clock.now = 1.0
    readings = {channel.label: value for channel in meter.channels if (value := meter.read().get(channel.key))}
    assert set(labels) == {
        "GPU 0 SM activity",
        "GPU 0 SM occupancy",
        "GPU 0 tensor cores",
        "GPU 0 DRAM bandwidth",
        "GPU 0 GPU-Util (any kernel ran)",
        "GPU 0 memory in use",
        "GPU 0 power",
    }
    assert readings["GPU 0 power"] == 300.5


def test_sm_activity_is_gpm_and_not_gpu_util(clock: Clock) -> None:
    meter = NvmlMeter(FakeNvml(), clock)
    clock.now = 0.5
    readings = meter.read()
    assert readings["gpu0sm"] == 20.0
    assert readings["gpu0dram"] == 100.0
    assert readings["gpu0util"] == 97.0


def test_samples_closer_than_a_tenth_of_a_second_are_not_taken_for_readings(clock: Clock) -> None:
    meter = NvmlMeter(FakeNvml(), clock)
    clock.now = 0.05
    assert meter.read()["gpu0sm"] == "samples of GPM are more than 100 ms apart"
    clock.now = 0.2
    assert meter.read()["gpu0sm"] == 20.0


def test_what_a_gpu_cannot_give_is_said_with_the_reason(clock: Clock) -> None:
    meter = NvmlMeter(FakeNvml(gpm=False, power=False), clock)
    clock.now = 1.0
    readings = meter.read()
    assert readings["gpu0sm"] == "this GPU has no GPM (Hopper and newer have)"
    assert readings["gpu0power"] == "Not Supported"
    assert readings["gpu0util"] == 97.0


def test_one_metric_that_fails_leaves_the_others(clock: Clock) -> None:
    nvml = FakeNvml()
    nvml.bad_metric = nvml.NVML_GPM_METRIC_ANY_TENSOR_UTIL
    meter = NvmlMeter(nvml, clock)
    clock.now = 1.0
    readings = meter.read()
    assert readings["gpu0tensor"] == "error 3"
    assert readings["gpu0sm"] == 20.0


def test_readings_that_vanish_midway_are_reasons_then(clock: Clock) -> None:
    nvml = FakeNvml()
    meter = NvmlMeter(nvml, clock)
    nvml.lost = True
    assert meter.read()["gpu0util"] == "GPU is lost"
    nvml.lost = False
    assert meter.read()["gpu0util"] == 97.0


def test_closing_frees_what_was_taken(clock: Clock) -> None:
    nvml = FakeNvml()
    NvmlMeter(nvml, clock).close()
    assert nvml.freed == 2
    assert nvml.shut


def test_a_window_reads_one_gpu_by_its_uuid_between_two_moments(clock: Clock) -> None:
    nvml = FakeNvml()
    window = GpmWindow(nvml, "GPU-1", clock)
    assert window.read()["sm"] == "samples of GPM are more than 100 ms apart"
    clock.now = 0.3
    assert window.read() == {"sm": 20.0, "occupancy": 30.0, "tensor": 50.0, "dram": 100.0}
    window.close()
    assert nvml.freed == 2
    assert nvml.shut


def test_a_window_that_begins_anew_counts_from_then_on(clock: Clock) -> None:
    nvml = FakeNvml()
    window = GpmWindow(nvml, "GPU-1", clock)
    clock.now = 5.0
    window.begin()
    assert nvml.taken[0] is nvml.taken[1], "the first sample is taken again"
    clock.now = 5.05
    assert window.read()["sm"] == "samples of GPM are more than 100 ms apart"
    clock.now = 5.3
    assert window.read()["sm"] == 20.0
    window.close()


def test_clocks_and_why_they_are_low_are_read_for_whoever_measures() -> None:
    nvml = FakeNvml()
    assert nvml_states(nvml) == {
        "GPU-1": {
            "sm_mhz": 1980,
            "memory_mhz": 3201,
            "temperature_c": "Not Supported",
            "power_w": 300.5,
            "throttled": ["SwPowerCap", "SwThermalSlowdown"],
        }
    }
    assert nvml.shut


def test_the_double_names_what_the_real_module_has() -> None:
    pynvml = pytest.importorskip("pynvml")
    names = {name for name in dir(FakeNvml) if name.startswith(("nvml", "NVML_", "c_nvml"))}
    assert not {name for name in names if not hasattr(pynvml, name)}
    metrics = {name for name in names if name.startswith(("NVML_GPM_METRIC_", "nvmlClocksEventReason", "NVML_CLOCK"))}
    assert {name: getattr(FakeNvml, name) for name in metrics} == {name: getattr(pynvml, name) for name in metrics}
    wanted = pynvml.c_nvmlGpmMetricsGet_t()
    for field in ("version", "numMetrics", "sample1", "sample2", "metrics"):
        assert hasattr(wanted, field)
    assert {"metricId", "nvmlReturn", "value"} <= {name for name, *_ in pynvml.c_nvmlGpmMetric_t._fields_}


def test_a_window_on_a_gpu_without_gpm_says_so(clock: Clock) -> None:
    window = GpmWindow(FakeNvml(gpm=False), "GPU-1", clock)
    assert window.why_nothing == "this GPU has no GPM (Hopper and newer have)"
    assert window.read()["sm"] == window.why_nothing
