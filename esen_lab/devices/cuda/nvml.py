"""NVIDIA GPUs through NVML, by the module `pynvml` of the distribution `nvidia-ml-py`. The only file that imports it.

Each reading is named for what it is. NVML's "GPU-Util" is the part of time in which any kernel ran, however few SMs it
used; how busy the SMs are is "SM activity", which needs GPM (Hopper and newer) and two samples more than 100 ms apart.
What a GPU cannot give is said with NVML's own reason.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from esen_lab.devices.telemetry import Channel, Value

_Told = TypeVar("_Told")

_GPM_LEAST_S = 0.1
_COMPUTE_MODES = {0: "default", 1: "exclusive thread", 2: "prohibited", 3: "exclusive process"}  # nvmlComputeMode_t
# (key, label, the name of its number in NVML's header)
_GPM = (
    ("sm", "SM activity", "NVML_GPM_METRIC_SM_UTIL"),
    ("occupancy", "SM occupancy", "NVML_GPM_METRIC_SM_OCCUPANCY"),
    ("tensor", "tensor cores", "NVML_GPM_METRIC_ANY_TENSOR_UTIL"),
    ("dram", "DRAM bandwidth", "NVML_GPM_METRIC_DRAM_BW_UTIL"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NvmlFacts:
    """What NVML says once about the driver and its GPUs.

    Attributes:
        driver: The driver's version, or "".
        gpus: By UUID: "mig" (bool), "gpm" (True, or why not), "compute_mode" (words), "processes" (that compute on it
            now, as far as this container may know) and "used_bytes" of its memory.
        why_nothing: Why NVML says nothing, or "".
    """

    driver: str = ""
    gpus: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    why_nothing: str = ""


def nvml_facts(nvml: Any = None) -> NvmlFacts:
    """Ask NVML once and let go of it again.

    Args:
        nvml: The module `pynvml`, or a double of it in tests; None imports it.
    """
    told = _read_once(nvml, lambda nvml: (_text(nvml.nvmlSystemGetDriverVersion()), _of_each_gpu(nvml, _facts_of)))
    return NvmlFacts(why_nothing=told) if isinstance(told, str) else NvmlFacts(driver=told[0], gpus=told[1])


def _of_each_gpu(nvml: Any, read: Callable[[Any, Any], _Told]) -> dict[str, _Told]:
    """What is read of each GPU, given its handle, by UUID."""
    handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
    return {_text(nvml.nvmlDeviceGetUUID(handle)): read(nvml, handle) for handle in handles}


def _read_once(nvml: Any, read: Callable[[Any], _Told]) -> _Told | str:
    """What `read` gives while NVML is initialised, which is let go of again; or why nothing can be read."""
    if nvml is None:
        try:
            import pynvml
        except ImportError:
            return "nvidia-ml-py is not installed"
        nvml = pynvml
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as problem:
        return str(problem)
    try:
        return read(nvml)
    except nvml.NVMLError as problem:
        return str(problem)
    finally:
        with contextlib.suppress(Exception):  # the driver may be gone
            nvml.nvmlShutdown()


def _facts_of(nvml: Any, handle: Any) -> Mapping[str, Any]:
    facts: dict[str, Any] = {}
    with contextlib.suppress(nvml.NVMLError):  # a GPU without MIG does not know the question
        facts["mig"] = bool(nvml.nvmlDeviceGetMigMode(handle)[0])
    try:
        supported = bool(nvml.nvmlGpmQueryDeviceSupport(handle).isSupportedDevice)
        facts["gpm"] = supported or "this GPU has no GPM (Hopper and newer have)"
    except nvml.NVMLError as problem:
        facts["gpm"] = str(problem)
    except AttributeError:
        facts["gpm"] = "this version of nvidia-ml-py does not know GPM"
    with contextlib.suppress(nvml.NVMLError):
        facts["compute_mode"] = _COMPUTE_MODES.get(nvml.nvmlDeviceGetComputeMode(handle), "")
    with contextlib.suppress(nvml.NVMLError):
        facts["used_bytes"] = int(nvml.nvmlDeviceGetMemoryInfo(handle).used)
    with contextlib.suppress(nvml.NVMLError):
        facts["processes"] = len(nvml.nvmlDeviceGetComputeRunningProcesses(handle))
    return facts


def nvml_states(nvml: Any = None) -> Mapping[str, Mapping[str, Value | list[str]]] | str:
    """What may slow each GPU at this moment, by UUID, or why nothing can be read: to be kept beside what was measured.

    Each has "sm_mhz", "memory_mhz", "temperature_c" and "power_w", a number or why not, and "throttled": why clocks
    are lower than they could be, in NVML's own words ([] for no reason), or why that cannot be told.

    Args:
        nvml: The module `pynvml`, or a double of it in tests; None imports it.
    """
    return _read_once(nvml, lambda nvml: _of_each_gpu(nvml, _state_of))


def _state_of(nvml: Any, handle: Any) -> Mapping[str, Value | list[str]]:
    def tried(read: Callable[[], Any]) -> Any:
        try:
            return read()
        except nvml.NVMLError as problem:
            return str(problem)

    return {
        "sm_mhz": tried(lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)),
        "memory_mhz": tried(lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM)),
        "temperature_c": tried(lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
        "power_w": tried(lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1000),
        "throttled": tried(lambda: _reasons(nvml, nvml.nvmlDeviceGetCurrentClocksEventReasons(handle))),
    }


def _reasons(nvml: Any, bits: int) -> list[str]:
    prefix = "nvmlClocksEventReason"
    known = {name.removeprefix(prefix): getattr(nvml, name) for name in dir(nvml) if name.startswith(prefix)}
    quiet = {"None", "All", "GpuIdle"}  # an idle GPU is not throttled
    return sorted(name for name, bit in known.items() if name not in quiet and isinstance(bit, int) and bits & bit)


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


class GpmWindow:
    """SM activity and the like of one GPU between two moments: `open` or `begin`, the work, `read`.

    Args:
        nvml: The module `pynvml`, or a double of it in tests, already initialised.
        uuid: The GPU.
        clock: Seconds that only go forward.
    """

    def __init__(self, nvml: Any, uuid: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._nvml = nvml
        self._gpu = _Gpu(nvml, 0, clock, handle=nvml.nvmlDeviceGetHandleByUUID(uuid))

    @classmethod
    def open(cls, uuid: str) -> GpmWindow | str:
        """Begin now; or why nothing can be read."""
        try:
            import pynvml
        except ImportError:
            return "nvidia-ml-py is not installed"
        try:
            pynvml.nvmlInit()  # its state is per process, and must not be inherited from one that forked
            window = cls(pynvml, uuid)
        except pynvml.NVMLError as problem:
            return str(problem)
        if window.why_nothing:
            window.close()
            return window.why_nothing
        return window

    @property
    def why_nothing(self) -> str:
        """Why this GPU cannot be read, or ""."""
        return self._gpu.why_no_gpm

    def begin(self) -> None:
        """Begin anew, now: what the GPU did before does not count."""
        self._gpu.begin()

    def read(self) -> Mapping[str, Value]:
        """What the GPU did since it began: "sm", "occupancy", "tensor", "dram", in percent, or why not."""
        found = self._gpu.read_gpm()
        return {key: found[f"{self._gpu.prefix}{key}"] for key, _, _ in _GPM}

    def close(self) -> None:
        """Let go of NVML."""
        self._gpu.close()
        with contextlib.suppress(Exception):  # the driver may be gone
            self._nvml.nvmlShutdown()


class NvmlMeter:
    """Reads every NVIDIA GPU of this machine. Made by `open`.

    Args:
        nvml: The module `pynvml`, or a double of it in tests, already initialised.
        clock: Seconds that only go forward.
    """

    def __init__(self, nvml: Any, clock: Callable[[], float] = time.monotonic) -> None:
        self._nvml = nvml
        self._clock = clock
        self._gpus = [_Gpu(nvml, index, clock) for index in range(nvml.nvmlDeviceGetCount())]

    @classmethod
    def open(cls) -> NvmlMeter | None:
        """The meter, or None where there is no driver, no GPU or no `pynvml`."""
        try:
            import pynvml
        except ImportError:
            return None
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError:
            return None
        meter = cls(pynvml)
        if not meter._gpus:
            meter.close()
            return None
        return meter

    @property
    def channels(self) -> tuple[Channel, ...]:
        """What each GPU gives, or could."""
        return tuple(channel for gpu in self._gpus for channel in gpu.channels)

    def read(self) -> Mapping[str, Value]:
        """One reading per channel."""
        found: dict[str, Value] = {}
        for gpu in self._gpus:
            found.update(gpu.read())
        return found

    def close(self) -> None:
        """Let go of NVML."""
        for gpu in self._gpus:
            gpu.close()
        self._gpus = []
        with contextlib.suppress(Exception):  # the driver may be gone
            self._nvml.nvmlShutdown()


class _Gpu:
    def __init__(self, nvml: Any, index: int, clock: Callable[[], float], handle: Any = None) -> None:
        self._nvml = nvml
        self._clock = clock
        self._handle = nvml.nvmlDeviceGetHandleByIndex(index) if handle is None else handle
        self.prefix = f"gpu{index}"
        self._label = f"GPU {index}"
        self._samples: list[Any] = []
        self._taken_s = 0.0
        self.why_no_gpm = self._begin_gpm()

    def _begin_gpm(self) -> str:
        nvml = self._nvml
        try:
            if not nvml.nvmlGpmQueryDeviceSupport(self._handle).isSupportedDevice:
                return "this GPU has no GPM (Hopper and newer have)"
            self._samples = [nvml.nvmlGpmSampleAlloc(), nvml.nvmlGpmSampleAlloc()]
            self._take_first()
        except nvml.NVMLError as problem:
            return str(problem)
        except AttributeError:
            return "this version of nvidia-ml-py does not know GPM"
        return ""

    def begin(self) -> None:
        if not self.why_no_gpm:
            with contextlib.suppress(self._nvml.NVMLError):  # the reading will say so
                self._take_first()

    def _take_first(self) -> None:
        self._nvml.nvmlGpmSampleGet(self._handle, self._samples[0])
        self._taken_s = self._clock()

    @property
    def channels(self) -> tuple[Channel, ...]:
        gpm = [
            Channel(
                key=f"{self.prefix}{key}",
                label=f"{self._label} {label}",
                unit="%",
                group="bandwidth" if key == "dram" else "utilization",
            )
            for key, label, _ in _GPM
        ]
        return (
            *gpm,
            Channel(
                key=f"{self.prefix}util",
                label=f"{self._label} GPU-Util (any kernel ran)",
                unit="%",
                group="utilization",
            ),
            Channel(key=f"{self.prefix}memory", label=f"{self._label} memory in use", unit="B", group="memory"),
            Channel(key=f"{self.prefix}power", label=f"{self._label} power", unit="W", group="power"),
        )

    def read(self) -> dict[str, Value]:
        nvml, handle, prefix = self._nvml, self._handle, self.prefix
        found: dict[str, Value] = {
            f"{prefix}util": self._try(lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu),
            f"{prefix}memory": self._try(lambda: nvml.nvmlDeviceGetMemoryInfo(handle).used),
            f"{prefix}power": self._try(lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1000),
        }
        found.update(self.read_gpm())
        return found

    def _try(self, read: Callable[[], float]) -> Value:
        try:
            return float(read())
        except self._nvml.NVMLError as problem:
            return str(problem)

    def read_gpm(self) -> dict[str, Value]:
        keys = {f"{self.prefix}{key}": name for key, _, name in _GPM}
        if self.why_no_gpm:
            return dict.fromkeys(keys, self.why_no_gpm)
        if self._clock() - self._taken_s < _GPM_LEAST_S:
            return dict.fromkeys(keys, "samples of GPM are more than 100 ms apart")
        nvml = self._nvml
        found: dict[str, Value] = {}
        try:
            nvml.nvmlGpmSampleGet(self._handle, self._samples[1])
            self._taken_s = self._clock()
            wanted = nvml.c_nvmlGpmMetricsGet_t()
            wanted.version = nvml.NVML_GPM_METRICS_GET_VERSION
            wanted.numMetrics = len(keys)
            wanted.sample1, wanted.sample2 = self._samples
            for index, name in enumerate(keys.values()):
                wanted.metrics[index].metricId = getattr(nvml, name)
            answer = nvml.nvmlGpmMetricsGet(wanted)
            for index, key in enumerate(keys):
                metric = answer.metrics[index]
                bad = metric.nvmlReturn != nvml.NVML_SUCCESS
                found[key] = nvml.nvmlErrorString(metric.nvmlReturn) if bad else float(metric.value)
            self._samples.reverse()
        except nvml.NVMLError as problem:
            return dict.fromkeys(keys, str(problem))
        return found

    def close(self) -> None:
        for sample in self._samples:
            with contextlib.suppress(Exception):
                self._nvml.nvmlGpmSampleFree(sample)
        self._samples = []
